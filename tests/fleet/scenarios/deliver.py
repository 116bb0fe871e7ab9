"""Delivery nodes that are lost: the sending MTA goes to the next MX host by itself."""

from scenario import BROKEN, Scenario


class DeliverKilled(Scenario):
    """A delivery node is killed (SIGKILL)."""

    name = "deliver-kill"
    sees = "nothing: senders go to the other MX hosts"
    # In the midst of a message that its MTA does not know to be accepted it comes again.
    answers = {"sender": BROKEN | {"421", "451"}, "mta": {"deferred"}}

    def run(self, lab):
        before = self.accepted_by("mx1")
        self.expect(before, "the node that is to die has accepted nothing")
        killed = self.now()
        lab["mx1"].kill()
        self.wait(5)
        self.since(killed, "delivery", within=5)
        after = self.accepted_by("mx1")
        self.wait(2)
        self.expect(self.accepted_by("mx1") == after, "a dead node accepts mail")
        lab["mx1"].up()
        self.until(20, lambda: None if self.accepted_by("mx1") > after
                   else "the node that is back gets nothing")

    def accepted_by(self, host):
        """How many the log of the sending MTA says that this MX host has accepted."""
        return self.day.town.mta_log.by[f"{host}.lab.test"]


class DeliverPowerOff(DeliverKilled):
    """The host of a delivery node loses its power."""

    name = "deliver-power-off"

    def run(self, lab):
        off = self.now()
        lab.power_off("mx2")
        self.wait(8)
        # Nobody says that it is gone: a sender waits once for each connection that it had or tries.
        self.since(off, "delivery", within=10)
        lab.power_on("mx2")
        self.well_again()


class DeliverCut(DeliverKilled):
    """The network of a delivery node is cut one way in, one way out, and both ways."""

    name = "deliver-cut"

    def run(self, lab):
        mx1 = lab.hosts["mx1"]
        for ways in "in", "out", "both":
            cut = self.now()
            mx1.cut(ways=ways)
            self.wait(1)  # what was answered before has reached the log
            before = self.accepted_by("mx1")
            self.wait(5)
            self.expect(self.accepted_by("mx1") == before, "a node that is cut off accepts mail")
            self.since(cut, "delivery", within=10)
            mx1.heal()
            self.until(30, lambda: None if self.accepted_by("mx1") > before  # pylint: disable=W0640
                       else "the node that is back gets nothing")


class AllLowMx(DeliverKilled):
    """All MX hosts of the lowest preference are down."""

    name = "all-low-mx"
    sees = "nothing: senders go to the MX host of the next preference"

    def run(self, lab):
        others = self.accepted_by("mx3")
        killed = self.now()
        for name in "mx1", "mx2":
            lab[name].kill()
        self.wait(8)
        self.since(killed, "delivery", within=10)
        self.expect(self.accepted_by("mx3") > others, "the MX host of the next preference got nothing")
        before = self.accepted_by("mx1"), self.accepted_by("mx2")
        for name in "mx1", "mx2":
            lab[name].up()
        self.until(30, lambda: None if self.accepted_by("mx1") > before[0]
                   and self.accepted_by("mx2") > before[1] else "the nodes that are back get nothing")
