"""From one version of all programs and of the schema to the next, and back, node by node.

The next version is the build with `-next` behind its name (-Dnext_schema=true), which tests/fleet/run
makes; tests/fleet/next has what is different there. What is refused in a wrong order is in
tests/system/test_upgrade.py.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

from fleet import PROGRAMS
from part import ROOT, FleetError
from scenario import BROKEN, Scenario

MIGRATIONS = ROOT / "tests/fleet/next"


class Upgrade(Scenario):
    """All nodes are upgraded one by one, the schema before and after them; and all of it back."""

    name = "upgrade"
    sees = "nothing: senders go to the other MX hosts"
    answers = {"sender": BROKEN | {"421", "451"}}

    def run(self, lab):
        self.install(lab)
        lab.reload({"node.announce": "1s"})
        try:
            self.there_and_back(lab)
        finally:
            self.restore(lab)

    def there_and_back(self, lab):
        began = self.now()
        for contract in False, True:
            self.migrate(lab)
            self.roll(lab, True)
            if contract:
                self.migrate(lab, "--contract", "--yes")
                self.expect(not self.has_old_functions(lab), "the contraction has taken nothing away")
                self.well_again()
                self.undo_contraction(lab)
            self.roll(lab, False)
            self.migrate(lab, "--revert", "1", "--yes")
            self.well_again()
        self.since(began, "delivery", within=5)
        self.since(began, "poll", within=5)
        self.since(began, "quiet poll", within=5)

    def restore(self, lab):
        """Wherever it has ended: what follows begins with the version before, as this did."""
        if lab.sql("SELECT 1 FROM schema_version WHERE version > 1 AND contracted_at IS NOT NULL"):
            self.undo_contraction(lab)
        for node in lab.delivery_nodes + lab.front_ends:
            before = Path(node.program).name
            if node.program != before:
                node.stop()
                node.program = before
            node.start()
            lab.admin("undrain", node.name)
        lab.start_all(lab.delivery_nodes + lab.front_ends)
        if lab.sql("SELECT 1 FROM schema_version WHERE version > 1"):
            self.migrate(lab, "--revert", "1", "--yes")
        lab.reload({"node.announce": None})

    @staticmethod
    def install(lab):
        folder = lab.state / "bin" / "next"
        lab.make_dir(folder, None, 0o755)
        build = Path(os.environ["MAILFLEET_BUILD"] + "-next")
        for name, where in PROGRAMS.items():
            shutil.copyfile(build / where, folder / f"{name}.new")
            (folder / f"{name}.new").chmod(0o755)
            (folder / f"{name}.new").rename(folder / name)

    def migrate(self, lab, *options):
        """By the next version's command, which waits for nodes of five minutes ago, not for these."""
        with self.next_command(lab):
            lab.admin("migrate", *options)

    @staticmethod
    @contextlib.contextmanager
    def next_command(lab):
        mine = lab.admin_program
        lab.admin_program = mine.parent / "next" / mine.name
        try:
            yield
        finally:
            lab.admin_program = mine

    def roll(self, lab, newer):
        for node in lab.delivery_nodes + lab.front_ends:
            with self.next_command(lab):
                self.until(30, lambda: self.why_not_announced(lab))
                lab.admin("drain", node.name, "--wait")
                self.expect(node.stop(), f"{node.name} did not stop in time")
                lab.admin("undrain", node.name)
            node.program = ("next/" if newer else "") + Path(node.program).name
            node.up()
            version = re.search(r'^mailfleet_info\{.*version="([^"]*)"', node.get("/metrics")[0],
                                re.MULTILINE)[1]
            self.expect(newer == version.endswith("-next"), f"{node.name} runs {version}")

    @staticmethod
    def why_not_announced(lab):
        """Nobody is drained while one that serves has not said so yet."""
        try:
            lab.admin("nodes")
        except FleetError as error:
            return str(error)
        return None

    @staticmethod
    def has_old_functions(lab):
        return lab.sql("SELECT 1 FROM pg_proc WHERE proname IN ('deliver', 'deliver_each', 'lookup')") != []

    @staticmethod
    def undo_contraction(lab):
        """What no operator can do: the next scenario, or turn, begins with the version before."""
        functions = []
        for script, names in ((ROOT / "deploy/schema/001-init.sql", "deliver_each"),
                              (MIGRATIONS / "002-delivered.sql", "deliver|lookup")):
            functions += re.findall(rf"^CREATE FUNCTION (?:{names})\(.*?^END \$\$;", script.read_text(),
                                    re.MULTILINE | re.DOTALL)
        lab.sql("\n".join(functions) + "UPDATE schema_version SET contracted_at = NULL "
                "WHERE version > 1")
