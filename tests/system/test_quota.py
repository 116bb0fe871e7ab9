#!/usr/bin/python3 -B
"""Quotas: what a full mailbox or domain answers and when, and the warnings before it."""

import email
import json
import re
import subprocess

import harness
from harness import DOMAIN, FleetError
from mail import Refused

SMALL = b"Subject: small\r\n\r\nsmall\r\n"
TRACE_MOST = 600  # octets that the node puts in front


def sized(octets):
    """A message of a little less than so many octets when it is stored."""
    line = b"x" * 70 + b"\r\n"
    return b"Subject: sized\r\n\r\n" + line * ((octets - TRACE_MOST) // len(line))


class QuotaTest(harness.FleetTest):
    settings = {"quota.warn": "90, 50", "pop3.lock": "none",
                "cache.tombstone_ttl": "2s"}  # soon over, so that entries come into the cache

    # --- helpers ----------------------------------------------------------------------------------

    def use(self, **settings):
        """These settings of [quota] on all delivery nodes, until the end of the test."""
        def reload(values):
            for node in self.fleet.delivery_nodes:
                self.reload(node, values)

        reload({f"quota.{key}": value for key, value in settings.items()})
        self.addCleanup(reload, {})

    def reap(self):
        self.fleet.admin("reap", "--yes")

    def served(self, account):
        with self.pop3(account, utf8=True) as pop3:
            messages = [pop3.retr(number) for number in pop3.list()]
            pop3.quit()
        return messages

    def warnings(self, account):
        """The subjects of the warnings in a mailbox."""
        found = [email.message_from_bytes(message) for message in self.served(account)]
        return [message["Subject"] for message in found
                if message["Auto-Submitted"] == "auto-generated"]

    def warned(self, account, number):
        """Waits until there are so many warnings; the last one's subject."""
        def check():
            subjects = self.warnings(account)
            self.assertEqual(len(subjects), number)
            return subjects[-1]

        return self.eventually(20, check)

    def told(self, account):
        """How often nodes noted that they warned its owner; ask eventually, it comes last."""
        mailbox = self.fleet.sql("SELECT mailbox_id FROM account WHERE addr = "
                                 f"'{account.address}'")[0][0]
        return sum(len(re.findall(rf" quota\.warned .*mailbox={mailbox} ", node.log.read_text()))
                   for node in self.fleet.delivery_nodes)

    def drain(self, account, leave=0):
        with self.pop3(account) as pop3:
            for number in list(pop3.list())[leave:]:
                pop3.ok(f"DELE {number}")
            pop3.quit()

    def rcpt(self, address, size=None, lmtp=False, node=0):
        """(code, enhanced code, text) of the answer to RCPT."""
        with (self.lmtp if lmtp else self.smtp)(node) as smtp:
            smtp.mail(parameters=f" SIZE={size}" if size else "")
            return self.split(smtp.rcpt(getattr(address, "address", address)))

    def end(self, message, *accounts, lmtp=False):
        """The same of the answers to the end of the data; every RCPT is accepted."""
        with (self.lmtp if lmtp else self.smtp)() as smtp:
            smtp.begin([account.address for account in accounts])
            smtp.content(message)
            return [self.split(smtp.reply()) for _ in (accounts if lmtp else [None])]

    @staticmethod
    def split(reply):
        code, text = reply
        enhanced, _recipient, text = re.fullmatch(r"(\S+) (<\S+> )?(.*)", text).groups()
        return code, enhanced, text

    # --- warnings ---------------------------------------------------------------------------------

    def test_each_threshold_is_told_once_until_it_is_below_again(self):
        account = self.account("rising", "--quota-octets", "100000")
        self.deliver(sized(40_000), account)
        self.deliver(sized(15_000), account, node=1)
        subject = self.warned(account, 1)
        self.assertRegex(subject, r"^Your mailbox is 5\d per cent full$")
        self.deliver(sized(15_000), account)
        self.deliver(sized(10_000), account, node=1)
        self.deliver(sized(13_000), account)
        self.assertRegex(self.warned(account, 2), r"^Your mailbox is 9\d per cent full$")
        self.deliver(SMALL, account)
        self.drain(account, leave=1)  # 40
        self.deliver(sized(20_000), account)
        self.assertRegex(self.warned(account, 1), r"^Your mailbox is [56]\d per cent full$")
        self.deliver(sized(35_000), account)
        self.warned(account, 2)
        self.eventually(20, lambda: self.assertEqual(self.told(account), 4))

    def test_of_messages_and_for_many_at_once(self):
        accounts = [self.account(f"many{n}", "--quota-messages", str(n)) for n in (2, 3, 10, 100)]
        self.deliver(SMALL, *accounts)
        self.warned(accounts[0], 1)
        self.deliver(SMALL, *accounts[1:3])
        self.warned(accounts[1], 1)
        self.eventually(20, lambda: self.assertEqual(
            [self.told(account) for account in accounts], [1, 1, 0, 0]))
        self.assertEqual([len(self.served(account)) for account in accounts], [2, 3, 2, 1])

    def test_the_message(self):
        account = self.account("reader", "--quota-octets", "1M")
        self.deliver(sized(600_000), account)
        self.warned(account, 1)
        raw = self.served(account)[-1]
        self.assertTrue(raw.startswith(b"Return-Path: <>\r\n"), raw[:60])
        self.assertNotIn(b"\n", raw.replace(b"\r\n", b""))
        message = email.message_from_bytes(raw)
        self.assertEqual(message["From"], f"<postmaster@{DOMAIN}>")
        self.assertEqual(message["To"], f"<{account.address}>")
        self.assertRegex(message["Message-ID"], r"^<[0-9a-z]{26}@[^<>@ ]+>$")
        self.assertIsNotNone(email.utils.parsedate_to_datetime(message["Date"]))
        self.assertRegex(message.get_payload(), account.address + r" holds 58\d\.\d KB; its limit "
                                                                  r"is 1\.0 MB")
        file = max(self.spool_files(), key=lambda path: path.name)
        self.assertIn(b"\nfrom: \n", file.read_bytes())

    def test_a_warning_passes_the_limit_and_warns_of_nothing(self):
        account = self.account("brim", "--quota-octets", "20000")
        self.deliver(sized(10_500), account)
        self.warned(account, 1)
        used = int(self.fleet.sql("SELECT octets FROM mailbox b JOIN account c USING (mailbox_id) "
                                  f"WHERE c.addr = '{account.address}'")[0][0])
        self.fleet.admin("account", "quota", account.address, "--quota-octets", str(used + 500))
        self.deliver(SMALL, account)  # and the warning no longer fits below the limit
        self.warned(account, 2)
        self.assertEqual(self.rcpt(account)[:2], (452, "4.2.2"))
        self.eventually(20, lambda: self.assertEqual(self.told(account), 2))

    def test_a_node_that_dies_loses_it_and_none_comes_twice(self):
        account = self.account("unlucky", "--quota-messages", "4")
        node = self.fleet.delivery_nodes[0]
        self.deliver(SMALL, account)
        node.stop()
        node.start(env={"MAILFLEET_FAULT": "deliver_committed=kill"})
        node.wait_ready()
        with self.assertRaises((EOFError, ConnectionError)):
            self.deliver(SMALL, account)
        node.kill()
        node.up()
        self.assertEqual(self.warnings(account), [])
        self.deliver(SMALL, account)
        self.assertEqual(len(self.served(account)), 3)
        self.drain(account, leave=1)
        self.deliver(SMALL, account)
        self.warned(account, 1)
        self.eventually(20, lambda: self.assertEqual(self.told(account), 1))

    # --- the operator's words ---------------------------------------------------------------------

    def write(self, text):
        path = self.fleet.state / "config" / "warning.txt"
        self.fleet.write(path, text, self.fleet.user, 0o644)
        return path

    def test_words_of_a_file(self):
        path = self.write("Subject: %p%% full\nReply-To: <help@example.org>\n\n\u00dcbrig: %a %u %l\n")
        self.use(warn_file=path)
        account = self.account("words", "--quota-messages", "2")
        self.deliver(SMALL, account)
        self.assertEqual(self.warned(account, 1), "50% full")
        message = email.message_from_bytes(self.served(account)[-1])
        self.assertEqual(message["Reply-To"], "<help@example.org>")
        self.assertEqual(message.get_payload(decode=True).decode(),
                         f"\u00dcbrig: {account.address} 1 messages 2 messages\r\n")
        # It is read again with the configuration, and not before.
        self.write("Subject: other\n")
        other = self.account("other-words", "--quota-messages", "2")
        self.deliver(SMALL, other)
        self.assertEqual(self.warned(other, 1), "50% full")
        self.use(warn_file=path)
        third = self.account("third-words", "--quota-messages", "2")
        self.deliver(SMALL, third, node=1)
        self.assertEqual(self.warned(third, 1), "other")

    def bad(self, complaint, **settings):
        """A reload with these settings is refused, whatever runs goes on; check tells it."""
        node = self.fleet.delivery_nodes[0]
        before = node.log.read_text().count(" config.bad ")
        self.fleet.node_settings[node.name] = {f"quota.{k}": v for k, v in settings.items()}
        node.prepare()
        self.addCleanup(self.reload, node, {})
        harness.os.kill(node.pids()[0], harness.signal.SIGHUP)
        self.eventually(20, lambda: self.assertGreater(
            node.log.read_text().count(" config.bad "), before))
        self.assertIn(complaint, node.log.read_text())
        checked = subprocess.run([self.fleet.admin_program, "--config", node.config, "--json",
                                  "check"], stdout=subprocess.PIPE, text=True, check=False)
        self.assertEqual(checked.returncode, 69)
        self.assertIn(complaint, next(line["says"] for line in json.loads(checked.stdout)
                                      if line["what"] == "quota"))
        self.assertIsNone(node.probe())

    def test_bad_settings(self):
        self.bad("quota.warn: 80%: not a per cent", warn="80%")
        self.bad("quota.warn: 101: not a per cent", warn="50 101")
        path = self.write("Hello\n")
        self.bad(f"quota.warn_file: {path}: line 1: not a header field", warn_file=path)
        self.bad("No such file or directory", warn_file=path.with_name("none.txt"))

    # --- what a full mailbox answers --------------------------------------------------------------

    def test_full_by_tempfail_and_reject(self):
        # Room for what is not said to be large, so that the end of the data has to tell.
        account = self.account("answers", "--quota-octets", "20000")
        bob = self.account("has-room")
        self.deliver(sized(15_000), account)
        for full, code, enhanced in ("tempfail", 452, "4.2.2"), ("reject", 552, "5.2.2"):
            self.use(full=full)
            for lmtp in False, True:
                with self.subTest(full=full, lmtp=lmtp):
                    answer = code, enhanced, "Mailbox is full"
                    self.assertEqual(self.rcpt(account, 10_000, lmtp=lmtp), answer)
                    self.assertEqual(self.rcpt(account, 30_000, lmtp=lmtp)[:2], (552, "5.3.4"))
                    self.assertEqual(self.rcpt(account, 100, lmtp=lmtp)[0], 250)
                    self.assertEqual(self.end(sized(10_000), account, lmtp=lmtp), [answer])
                    self.assertEqual(self.end(sized(30_000), account, lmtp=lmtp)[0][:2],
                                     (552, "5.3.4"))
            # LMTP tells each; SMTP has one answer for all, and none of them may lose the message.
            before = len(self.served(bob))
            answers = self.end(sized(10_000), bob, account, lmtp=True)
            self.assertEqual([a[:2] for a in answers], [(250, "2.0.0"), (code, enhanced)])
            self.assertEqual(len(self.served(bob)), before + 1)
            self.assertEqual(self.end(sized(10_000), bob, account)[0][:2], (452, "4.2.2"))
            self.assertEqual(len(self.served(bob)), before + 1)

    def test_an_alias_is_judged_by_its_mailboxes(self):
        full, free = self.account("behind", "--quota-messages", "1"), self.account("beside")
        alias, inner = f"alias@{DOMAIN}", f"inner@{DOMAIN}"
        self.fleet.admin("alias", "add", inner, full.address)
        self.fleet.admin("alias", "add", alias, inner, free.address)
        with self.smtp() as smtp:
            smtp.deliver(SMALL, [alias])
        self.assertEqual(self.rcpt(alias), (452, "4.2.2", "Mailbox is full"))
        self.assertEqual(self.rcpt(free)[0], 250)
        self.use(full="reject")
        self.assertEqual(self.rcpt(alias)[:2], (552, "5.2.2"))
        self.drain(full)
        self.assertEqual(self.rcpt(alias)[0], 250)

    def test_grace(self):
        account = self.account("graceful", "--quota-octets", "20000")
        self.deliver(sized(15_000), account)
        self.assertEqual(self.rcpt(account, 6_500)[0], 452)
        self.use(grace=10)
        self.assertEqual(self.rcpt(account, 8_000)[0], 452)
        self.assertEqual(self.rcpt(account, 21_500)[0], 452)  # not too large: it may go over, too
        self.assertEqual(self.rcpt(account, 22_500)[:2], (552, "5.3.4"))
        self.assertEqual(self.end(sized(8_500), account)[0][0], 452)
        self.assertEqual(self.end(sized(6_500), account)[0][0], 250)  # it is over now
        self.assertEqual(self.rcpt(account)[0], 452)
        self.drain(account, leave=1)
        self.assertEqual(self.end(sized(6_500), account, lmtp=True)[0][0], 250)

    # --- domains ----------------------------------------------------------------------------------

    def domain(self, name):
        return next(row for row in json.loads(self.fleet.admin("--json", "domain", "list"))
                    if row["name"] == name)

    def until_cached(self, account, node):
        """RCPTs until one asks the database nothing: what it is answered with is in the cache."""
        def queries():
            metrics = self.fleet.delivery_nodes[node].get("/metrics")[0]
            return int(re.search(r"^mailfleet_db_queries_total (\d+)$", metrics, re.MULTILINE)[1])

        def rcpt_without_query():
            before = queries()
            self.assertEqual(self.rcpt(account, node=node)[0], 250)
            self.assertEqual(queries(), before)

        self.eventually(20, rcpt_without_query)

    def test_a_domain_has_a_total(self):
        self.fleet.admin("domain", "add", "small.test", "--total-messages", "3",
                         "--total-octets", "1G", "--catch-all", "one@small.test")
        one, two = (harness.Account(a, self.fleet.add_account(a))
                    for a in ("one@small.test", "two@small.test"))
        alias = f"away@{DOMAIN}"
        self.fleet.admin("alias", "add", alias, two.address)
        for to in one, one, two:
            self.deliver(SMALL, to)
        for node in 0, 1:  # nobody has summed it up yet, and now both nodes have it cached
            self.until_cached(one, node)
        self.reap()
        row = self.domain("small.test")
        self.assertEqual((row["total_messages"], row["total_octets"], row["usage_messages"]),
                         (3, 1 << 30, 3))
        self.assertGreater(row["usage_octets"], 3 * len(SMALL))
        self.assertRegex(row["usage_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        for address in one, two, alias, "one+tag@small.test", "nobody@small.test":
            for node in 0, 1:
                code, enhanced, text = self.rcpt(address, node=node)
                self.assertEqual((code, enhanced), (452, "4.2.2"))
                self.assertIn("domain", text)
        self.assertEqual(self.rcpt(f"nobody@{DOMAIN}")[0], 550)
        self.assertEqual(self.rcpt("a@elsewhere.test")[0], 550)
        self.use(full="reject")
        self.assertEqual(self.rcpt(alias, lmtp=True)[:2], (552, "5.2.2"))
        self.drain(one, leave=1)
        self.assertEqual(self.rcpt(one)[0], 552)
        self.reap()
        for node in 0, 1:
            self.assertEqual(self.rcpt(one, node=node)[0], 250)
        # A total that is set is in force at once, and so is its end.
        self.fleet.admin("domain", "set", "small.test", "--total-octets", "1K")
        self.deliver(sized(4_000), two)
        self.fleet.admin("domain", "set", "small.test", "--total-octets", "2K")
        self.assertEqual(self.rcpt(two, node=1)[0], 552)
        self.fleet.admin("domain", "set", "small.test", "--total-octets", "none")
        self.assertEqual(self.rcpt(two, node=1)[0], 552)  # 3 messages again
        self.fleet.admin("domain", "set", "small.test", "--total-messages", "none")
        self.assertEqual(self.rcpt(two, node=1)[0], 250)
        self.assertIsNone(self.domain(DOMAIN)["usage_octets"])

    def test_bad_totals(self):
        for value in "0", "-1", "many", "1P":
            with self.assertRaises(FleetError):
                self.fleet.admin("domain", "set", DOMAIN, "--total-octets", value)
        with self.assertRaises(Refused):
            self.deliver(SMALL, harness.Account("nobody@nowhere.test", ""))


if __name__ == "__main__":
    harness.main()
