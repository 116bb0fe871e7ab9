"""PgBouncer between the nodes and PostgreSQL."""

import signal

from scenario import Scenario


class PgbouncerRestarted(Scenario):
    """PgBouncer in front of the primary is restarted in good order, then killed (SIGKILL)."""

    name = "pgbouncer-restart"
    sees = "nothing, or [SYS/TEMP] and 4xx for a moment"

    def run(self, lab):
        direct, lab.pgbouncer = lab.pgbouncer, True
        try:
            self.restart_nodes(lab)
            self.well_again()
            pooler = lab[lab.primary().name.replace("patroni", "pgbouncer")]
            self.expect(self.clients(pooler), "no node uses PgBouncer")
            for end in pooler.stop, pooler.kill:
                self.day.lists_cached()
                began = self.now()
                end()
                self.wait(1)
                pooler.up()
                self.well_again()
                self.since(began, "delivery", within=10)
                self.since(began, "poll", within=10)
                self.since(began, "quiet poll", within=2)
        finally:
            lab.pgbouncer = direct
            self.restart_nodes(lab)

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
