"""The primary database is lost in several ways: what was answered 250 is on a second host already."""

import os
import signal

from hosts import freeze, thaw
from scenario import TEMPORARY, Scenario


class DatabaseKilled(Scenario):
    """The primary PostgreSQL is killed (SIGKILL)."""

    name = "db-kill"
    sees = "senders are told to try again (4xx); polls that the cache answers go on, others get [SYS/TEMP]"
    # What is cached is so until another primary is there: then all lists are read anew.
    answers = {"readers": TEMPORARY, "quiet readers": TEMPORARY, "mta": {"deferred"},
               "sender": {"451", "answer lost"}}

    def run(self, lab):
        self.timed(self.once)

    def once(self, lab):
        self.day.lists_cached()
        primary = lab.primary()
        killed = self.now()
        os.kill(primary.postmaster(), signal.SIGKILL)
        self.until(20, lambda: None if lab.primary() not in (None, primary)
                   else "there is no other primary")
        self.well_again()
        self.since(killed, "delivery", within=5)
        self.cached_since(killed)

    def cached_since(self, moment):
        """Polls that the cache answers never stopped."""
        self.since(moment, "quiet poll", within=2)


class DatabaseFrozen(DatabaseKilled):
    """The primary PostgreSQL and its Patroni are frozen (SIGSTOP), and go on later."""

    name = "db-freeze"

    def once(self, lab):
        self.day.lists_cached()
        primary, frozen = lab.primary(), self.now()
        freeze(primary)
        self.until(30, lambda: None if lab.primary() not in (None, primary)
                   else "there is no other primary")
        self.well_again()
        self.since(frozen, "delivery", within=15)
        self.cached_since(frozen)
        # It still takes itself for the primary.
        other, thawed = lab.primary(), self.now()
        thaw(primary)
        self.until(30, lambda: why_not_led_by(lab, other))
        self.since(thawed, "delivery", within=5)


class DatabasePowerOff(DatabaseKilled):
    """The host of the primary database loses its power."""

    name = "db-power-off"

    def once(self, lab):
        self.day.lists_cached()
        primary, off = lab.primary(), self.now()
        lab.power_off(primary.place.name)
        self.until(30, lambda: None if lab.primary() not in (None, primary)
                   else "there is no other primary")
        self.well_again()
        self.since(off, "delivery", within=15)
        self.cached_since(off)
        other, on = lab.primary(), self.now()
        lab.power_on(primary.place.name)
        self.until(30, lambda: why_not_led_by(lab, other))
        self.since(on, "delivery", within=5)


class DatabaseCut(DatabaseKilled):
    """The primary is partitioned from its standby, then from both; nodes reach it all the time."""

    name = "db-cut"

    def run(self, lab):
        self.timed(self.from_standby)
        self.timed(self.from_all)

    def from_standby(self, lab):
        """The other standby becomes the synchronous one."""
        primary = lab.primary()
        standby = self.synchronous(lab)
        self.day.lists_cached()
        cut = self.now()
        primary.place.cut(standby.place)
        self.until(30, lambda: None if self.synchronous(lab) not in (None, standby)
                   else "there is no other synchronous standby")
        self.well_again()
        self.since(cut, "delivery", within=15)
        self.cached_since(cut)
        primary.place.heal()
        self.until(30, lambda: why_not_led_by(lab, primary))

    @staticmethod
    def synchronous(lab):
        return next((lab[name] for name, (role, _) in lab.roles().items()
                     if role == "sync_standby"), None)

    def from_all(self, lab):
        """What it has taken alone must not be answered: it gives up, and another one is promoted."""
        primary = lab.primary()
        self.day.lists_cached()
        cut = self.now()
        for part in lab.patroni:
            if part is not primary:
                primary.place.cut(part.place)
        self.until(30, lambda: None if lab.primary() not in (None, primary)
                   else "there is no other primary")
        self.well_again()
        self.since(cut, "delivery", within=15)
        self.cached_since(cut)
        other, healed = lab.primary(), self.now()
        primary.place.heal()
        self.until(30, lambda: why_not_led_by(lab, other))
        self.since(healed, "delivery", within=5)


def why_not_led_by(lab, primary):
    """A Patroni may have an old view for a moment, from an etcd that was away itself."""
    if reason := lab.why_no_database():
        return reason
    return None if lab.primary() is primary else f"{primary.name} is not the primary any more"
