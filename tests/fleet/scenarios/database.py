"""The primary database is lost in several ways: what was answered 250 is on a second host already."""

import os
import signal

from scenario import Scenario


class DatabaseKilled(Scenario):
    """The primary PostgreSQL is killed (SIGKILL)."""

    name = "db-kill"
    sees = "senders are told to try again (4xx); polls that the cache answers go on, others get [SYS/TEMP]"

    def run(self, lab):
        self.day.lists_cached()
        primary = lab.primary()
        killed = self.now()
        os.kill(primary.postmaster(), signal.SIGKILL)
        self.until(20, lambda: None if lab.primary() not in (None, primary)
                   else "there is no other primary")
        self.well_again()
        # PgBouncer goes on taking connections for a server that is gone.
        self.since(killed, "delivery", within=10 if lab.pgbouncer else 5)
        self.since(killed, "quiet poll", within=5 if lab.pgbouncer else 2)
