"""What tests of the operator's commands share: their ends and what they show, and whether an account
is let in and gets mail, on every node."""

import json
from os import EX_OK

import harness
from mail import Refused


class CommandTest(harness.FleetTest):
    # --- how a command ends ---------------------------------------------------------------------

    def ok(self, *words, **options):
        """What it showed."""
        done = self.run_admin(*words, **options)
        self.assertEqual(done.returncode, EX_OK, f"{words}: {done.stderr}")
        return done.stdout

    def fails(self, code, says, *words, **options):
        """It fails with this status, says so in one or more lines of its own, and shows nothing."""
        done = self.run_admin(*words, **options)
        self.assertEqual((done.returncode, done.stdout), (code, ""), f"{words}: {done.stderr}")
        self.assertIn(says, done.stderr)
        for line in done.stderr.splitlines():
            self.assertTrue(line.startswith("mailfleet: "), line)
            self.assertTrue(line.isprintable(), line)

    def json(self, *words, code=EX_OK, **options):
        done = self.run_admin(*words, "--json", **options)
        self.assertEqual(done.returncode, code, f"{words}: {done.stderr}")
        return json.loads(done.stdout)

    # --- what there is --------------------------------------------------------------------------

    def show(self, account):
        return self.json("account", "show", account.address)

    def mailbox_id(self, account):
        return self.show(account)["mailbox_id"]

    def ids(self, account):
        """Of its messages, as the database has them."""
        return [row["id"] for row in self.json("messages", account.address)]

    def uids(self, account, node=0):
        """The same, as its owner is told."""
        with self.pop3(account, node) as pop3:
            uids = list(pop3.uidl().values())
            pop3.quit()
        return uids

    def count(self, what):
        """Rows of a table, or of what follows FROM."""
        return int(self.fleet.sql(f"SELECT count(*) FROM {what}")[0][0])

    def assert_exact(self):
        """The counters of mailboxes and shared files are what a recount gives."""
        self.assertEqual(self.json("recount"), [])

    # --- every node -----------------------------------------------------------------------------

    def rcpt(self, address, node=0):
        with self.smtp(node) as smtp:
            smtp.mail()
            return smtp.rcpt(address)[0]

    def everywhere(self, address):
        """The codes that RCPT gets."""
        return [self.rcpt(address, node) for node in (0, 1)]

    def assert_shut(self, account):
        """No node lets it in."""
        for node in 0, 1:
            with self.assertRaises(Refused) as caught:
                self.pop3(account, node)
            self.assertIn("[AUTH]", caught.exception.reply)

    def warm(self, account):
        """Each node has it from the cache, and remembers the password."""
        for node in 0, 1, 0, 1:
            self.mailbox(account, node)
            self.assertEqual(self.rcpt(account.address, node), 250)
