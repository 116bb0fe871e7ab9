"""PgBouncer between the nodes and PostgreSQL."""

import functools
import signal

from scenario import BROKEN, TEMPORARY, Scenario


class PgbouncerRestarted(Scenario):
    """PgBouncer in front of the primary is restarted in good order, then killed (SIGKILL)."""

    name = "pgbouncer-restart"
    sees = "[SYS/TEMP] and 4xx for a moment; sessions break off when all nodes are restarted, by the scenario " \
           "itself, before it and after it"
    answers = {"readers": TEMPORARY | BROKEN, "quiet readers": TEMPORARY | BROKEN, "mta": {"deferred"},
               "sender": BROKEN | {"421", "451"}}

    def run(self, lab):
        direct, lab.pgbouncer = lab.pgbouncer, True
        try:
            self.restart_nodes(lab)
            self.well_again()
            pooler = lab[lab.primary().name.replace("patroni", "pgbouncer")]
            self.expect(self.clients(pooler), "no node uses PgBouncer")
            for end in pooler.stop, pooler.kill:
                self.timed(functools.partial(self.restart, pooler, end))
        finally:
            lab.pgbouncer = direct
            self.restart_nodes(lab)

    def restart(self, pooler, end, _):
        self.day.lists_cached()
        began = self.now()
        end()
        self.wait(1)
        pooler.up()
        self.well_again()
        self.since(began, "delivery", within=5)
        self.since(began, "poll", within=5)
        self.since(began, "quiet poll", within=2)

    @staticmethod
    def clients(pooler):
        return pooler.place.run("ss", "-Htn", "state", "established", "sport", "=", ":6432")

    @staticmethod
    def restart_nodes(lab):
        """Another database.url needs it."""
        nodes = lab.delivery_nodes + lab.front_ends
        for node in nodes:
            node.send(node.pids()[:1], signal.SIGTERM)  # all at once
        for node in nodes:
            node.stop()
        lab.start_all(nodes)
