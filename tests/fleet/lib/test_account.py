#!/usr/bin/python3 -B
"""That the account notices each thing that it is there to notice, told by clients that lie."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from account import Ledger  # noqa: E402  pylint: disable=wrong-import-position

BOX, OTHER = "a@lab.test", "b@lab.test"
TRACE = b"Return-Path: <s@example.org>\r\nReceived: from x by y; date\r\n"


class Account(unittest.TestCase):
    def setUp(self):
        self.ledger = Ledger()
        self.ledger.add_mailbox(BOX, "password")
        self.ledger.add_mailbox(OTHER, "password")
        self.messages = {}
        self.clock = 0.0

    def send(self, to=BOX, answers=1, lost=0):
        token, message = self.ledger.new_message([to], "test")
        self.messages[token] = message
        for _ in range(lost):
            self.ledger.answer_lost(token, [to])
        for _ in range(answers):
            self.ledger.accepted(token, to)
        return token

    def poll(self, *seen, settled=True):
        """A session that lists these, as (unique id, token), and reads what it has not read."""
        uids = [uid for uid, _ in seen]
        for uid in self.ledger.listed(BOX, float("inf"), uids, settled):
            self.ledger.read(BOX, uid, TRACE + self.messages[dict(seen)[uid]])
        if settled:
            self.ledger.settle(BOX, uids)
        else:
            self.ledger.due(BOX, float("inf"), uids)

    def delete(self, *uids):
        self.ledger.deleting(BOX, uids)
        self.ledger.deleted(BOX, uids)

    def assert_kinds(self, *kinds):
        self.assertEqual([violation.kind for violation in self.ledger.violations], list(kinds))

    # --- what is right ------------------------------------------------------------------------------

    def test_nothing_is_wrong(self):
        one, two, three = (self.send() for _ in range(3))
        self.poll(("1", one), ("2", two), ("3", three))
        self.delete("2")
        self.poll(("1", one), ("3", three))
        self.assert_kinds()
        totals = self.ledger.totals()
        self.assertEqual([totals[what] for what in ("sent", "accepted", "listed", "read", "deleted")],
                         [3, 3, 2, 3, 1])

    def test_accepted_without_an_answer(self):
        one = self.send(answers=0, lost=1)
        self.poll(("1", one))
        self.assert_kinds()

    def test_not_accepted_and_not_there(self):
        one = self.send()
        self.send(answers=0, lost=1)
        self.poll(("1", one))
        self.assert_kinds()

    def test_sent_again_after_a_lost_answer(self):
        one = self.send(answers=1, lost=1)
        self.poll(("1", one), ("2", one))
        self.assert_kinds()
        self.assertEqual(self.ledger.totals()["repeated"], 1)

    def test_quit_without_an_answer(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), ("2", two))
        self.ledger.deleting(BOX, ["2"])
        self.poll(("1", one), ("2", two), settled=False)
        self.poll(("1", one), settled=False)
        self.poll(("1", one))
        self.assert_kinds()
        self.assertEqual(self.ledger.totals()["deleted"], 1)

    # --- what is wrong ------------------------------------------------------------------------------

    def test_missing(self):
        one, _ = self.send(), self.send()
        self.poll(("1", one))
        self.assert_kinds("missing")

    def test_late(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), settled=False)
        self.assert_kinds("late")
        self.ledger.late_allowed = True
        self.poll(("1", one), settled=False)
        self.assert_kinds("late")
        self.poll(("1", one), ("2", two))
        self.assert_kinds("late")

    def test_twice(self):
        one = self.send()
        self.poll(("1", one), ("2", one))
        self.assert_kinds("twice")

    def test_twice_in_two_polls(self):
        one = self.send()
        self.poll(("1", one))
        self.poll(("1", one), ("2", one))
        self.assert_kinds("twice")

    def test_twice_after_it_was_deleted(self):
        first, one = self.send(), self.send()
        self.poll(("0", first), ("1", one))
        self.delete("1")
        self.poll(("0", first), ("2", one))
        self.assert_kinds("twice")

    def test_more_often_than_answers_were_lost(self):
        one = self.send(answers=1, lost=1)
        self.poll(("1", one), ("2", one), ("3", one))
        self.assert_kinds("twice")

    def test_one_unique_id_twice(self):
        one = self.send()
        self.poll(("1", one), ("1", one))
        self.assert_kinds("twice")

    def test_uidl_changed(self):
        one = self.send()
        self.poll(("1", one))
        self.poll(("2", one))
        self.assert_kinds("vanished", "uidl changed")

    def test_another_message_under_the_same_uidl(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), ("2", two))
        self.ledger.read(BOX, "1", self.messages[two])
        self.assert_kinds("corrupt")

    def test_shown_empty(self):
        self.send()
        self.poll(settled=False)
        self.assertIn("shown empty", [violation.kind for violation in self.ledger.violations])

    def test_shown_empty_though_late_is_allowed(self):
        self.ledger.late_allowed = True
        self.send()
        self.poll(settled=False)
        self.assert_kinds("shown empty")

    def test_vanished(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), ("2", two))
        self.ledger.listed(BOX, 0, ["1"])
        self.assert_kinds("vanished")

    def test_came_back(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), ("2", two))
        self.delete("2")
        self.poll(("1", one), ("2", two))
        self.assert_kinds("came back")

    def test_came_back_after_a_quit_without_an_answer(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), ("2", two))
        self.ledger.deleting(BOX, ["2"])
        self.poll(("1", one))
        self.poll(("1", one), ("2", two), settled=False)
        self.assert_kinds("came back")

    def test_vanished_after_a_quit_that_had_not_deleted_it(self):
        one, two = self.send(), self.send()
        self.poll(("1", one), ("2", two))
        self.ledger.deleting(BOX, ["2"])
        self.poll(("1", one), ("2", two))
        self.poll(("1", one))
        self.assert_kinds("vanished", "missing")

    def test_corrupt(self):
        one = self.send()
        self.messages[one] += b"more\r\n"
        self.poll(("1", one), settled=False)
        self.assertEqual(self.ledger.violations[0].kind, "corrupt")

    def test_of_somebody_else(self):
        one = self.send(to=OTHER)
        self.poll(("1", one))
        self.assertEqual(self.ledger.violations[0].kind, "corrupt")

    def test_answers_that_lie(self):
        token = self.send()
        self.ledger.let_in(BOX, "+OK")
        self.ledger.login_refused(BOX, "-ERR [AUTH] wrong password")
        self.ledger.refused(token, "bounced")
        self.assert_kinds("let in", "permanent", "permanent")

    def test_told_once(self):
        one, _ = self.send(), self.send()
        self.poll(("1", one))
        self.poll(("1", one))
        self.assert_kinds("missing")

    def test_pending(self):
        one = self.send(answers=0)
        self.assertEqual(self.ledger.pending(), [(one, BOX)])
        self.ledger.refused(one, "bounced")
        self.assertEqual(self.ledger.pending(), [])

    def test_gaps(self):
        self.ledger.times["poll"] = [1.0, 2.0, 5.0, 6.0]
        self.assertEqual(self.ledger.longest_gap("poll", 1.5, 6.5), 3.0)
        self.assertEqual(self.ledger.longest_gap("poll", 7.0, 9.0), 2.0)
        self.assertEqual(self.ledger.longest_gap("delivery", 0.0, 9.0), 9.0)


if __name__ == "__main__":
    unittest.main()
