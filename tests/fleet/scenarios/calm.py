"""Nothing fails: what the load alone comes to, and that the laboratory itself loses nothing."""

from scenario import Scenario


class Calm(Scenario):
    """Nothing fails."""

    name = "calm"

    def run(self, lab):
        self.wait(8)
        self.expect(self.day.gap("quiet poll", until=self.now()) < 3, "quiet mailboxes stood still")
