#!/usr/bin/python3 -B
"""The nodes of a fleet announce themselves; an operator drains one and takes it back; balancers are
told by the agent. A drain is the database's: it outlives the node, and the node goes on with what it
heard last."""

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
from os import EX_DATAERR, EX_NOUSER, EX_OK, EX_UNAVAILABLE, EX_USAGE

import harness
from harness import HOST
from mail import Pop3, Refused, Smtp
from messages import some_messages

BIT_DRAIN = 0x08  # of srv_admin_state, in HAProxy's management guide


class NodesTest(harness.FleetTest):
    settings = {"node.announce": "500ms", "node.max_sessions": "10"}

    def setUp(self):
        self.balancer = self.fleet["haproxy"]
        self.fleet["postgres"].up()
        self.fleet.sql("UPDATE node SET drain = false")
        for part in self.fleet.parts:
            part.up()
        self.eventually(30, self.all_is_well)

    def all_nodes(self):
        return self.fleet.delivery_nodes + self.fleet.front_ends

    def all_is_well(self):
        for row in self.nodes().values():
            self.assertEqual((row["state"], row["drain"]), ("ready", None))
        for backend in "smtp_ready", "pop3_ready":
            for server in self.servers(backend).values():
                self.assertEqual((server["srv_op_state"], int(server["srv_admin_state"]) & BIT_DRAIN),
                                 ("2", 0))

    # --- what is asked -----------------------------------------------------------------------

    def nodes(self):
        """name -> row, of `mailfleet nodes`."""
        shown = self.run_admin("nodes", "--json")
        rows = json.loads(shown.stdout)
        self.assertEqual(shown.returncode,
                         EX_OK if all(row["drain"] or row["state"] == "ready" for row in rows)
                         else EX_UNAVAILABLE)
        return {row["name"]: row for row in rows}

    def admin(self, *words, code=EX_OK, says=""):
        done = self.run_admin(*words)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(says, done.stderr)
        return done.stdout

    def agent(self, node, octets=b""):
        with socket.create_connection((HOST, node.ports["agent"]), timeout=10) as s:
            s.sendall(octets)
            return b"".join(iter(lambda: s.recv(100), b"")).decode()

    def haproxy(self, command):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(self.balancer.socket))
            s.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: s.recv(4096), b"")).decode()

    def servers(self, backend):
        """name -> what HAProxy thinks of a server."""
        lines = self.haproxy(f"show servers state {backend}").splitlines()
        keys = lines[1].removeprefix("# ").split()
        rows = [dict(zip(keys, line.split())) for line in lines[2:] if line]
        return {row["srv_name"]: row for row in rows}

    def drains(self, backend, node):
        return int(self.servers(backend)[node.name]["srv_admin_state"]) & BIT_DRAIN != 0

    def ready(self, node):
        return node.get("/readyz")

    def metric(self, node, name):
        return int(re.search(rf"^mailfleet_{name} (\d+)$", node.get("/metrics")[0],
                             re.MULTILINE)[1])

    def drained(self, node):
        """When this returns the node has heard of it, and the balancer."""
        self.eventually(20, lambda: self.assertTrue(self.agent(node) == "drain\n"))
        backend = "smtp_ready" if node in self.fleet.delivery_nodes else "pop3_ready"
        self.eventually(20, lambda: self.assertTrue(self.drains(backend, node)))

    def through_balancer(self, n=6):
        """How many of n sessions at the same time each front-end is sent."""
        before = [self.metric(node, "connections_total") for node in self.fleet.front_ends]
        with contextlib.ExitStack() as stack:
            for _ in range(n):
                stack.enter_context(Pop3(self.fleet.ports.pop3, stls=self.tls))
            return [self.metric(node, "connections_total") - b
                    for node, b in zip(self.fleet.front_ends, before)]

    # --- tests -------------------------------------------------------------------------------

    def test_shown(self):
        rows = self.nodes()
        self.assertEqual(sorted(rows), ["deliver1", "deliver2", "frontend1", "frontend2"])
        version = self.run_admin("--version").stdout.split()[1]
        for name, row in rows.items():
            self.assertEqual(list(row), ["name", "role", "state", "drain", "sessions", "capacity",
                                         "load", "seen", "since", "version", "schema", "why",
                                         "drain_at", "drain_by"])
            self.assertEqual(row["role"], name[:-1])
            self.assertEqual((row["state"], row["drain"], row["sessions"], row["capacity"],
                              row["version"], row["schema"], row["why"]),
                             ("ready", None, 0, 10, version, 1, None))
            self.assertLess(row["seen"], 60)
        text = self.run_admin("nodes").stdout
        self.assertRegex(text, r"(?m)^deliver1 +deliver +ready +- +0 +10 ")
        self.admin("nodes", "--role", "deliver", code=EX_USAGE)

    def test_load_is_shown_and_told(self):
        node = self.fleet.front_ends[0]
        self.assertRegex(self.agent(node), r"^up ready \d+%\n$")
        sessions = [Pop3(node.ports["pop3"], stls=self.tls) for _ in range(7)]

        def seen():
            row = self.nodes()[node.name]
            self.assertEqual((row["sessions"], row["load"]), (7, 70))
            self.assertEqual(self.metric(node, "load"), 70)
            self.assertEqual(self.agent(node, b"what is sent is not read\n" * 10),
                             "up ready 30%\n")
            self.assertEqual(self.servers("pop3_ready")[node.name]["srv_uweight"], "30")
            self.assertEqual(self.servers("pop3s_ready")[node.name]["srv_uweight"], "30")
            self.assertEqual(self.servers("pop3_alive")[node.name]["srv_uweight"], "100")

        self.eventually(30, seen)
        # The other has all its room: it gets more.
        got, more = self.through_balancer(4)
        self.assertGreater(more, got)
        for pop3 in sessions:
            pop3.quit()

    def test_killed_is_silent(self):
        node = self.fleet.delivery_nodes[1]
        node.kill()
        self.eventually(30, lambda: self.assertEqual(self.nodes()[node.name]["state"], "silent"))
        self.assertRegex(self.run_admin("nodes").stdout, r"(?m)^deliver2 +deliver +silent ")
        check = self.run_admin("check")
        self.assertRegex(check.stdout, r"(?m)^no +nodes +silent: deliver2 \(deliver\) for \d+ s$")
        self.assertEqual(check.returncode, EX_UNAVAILABLE)
        # Drained it may be what it is.
        self.admin("drain", node.name)
        self.assertEqual(self.nodes()[node.name]["drain"], "drained")
        self.assertRegex(self.run_admin("check").stdout, r"(?m)^yes +nodes +4, none is silent$")
        self.admin("drain", node.name, "--wait", code=EX_UNAVAILABLE, says="is silent")
        self.admin("undrain", node.name)
        node.up()
        self.eventually(30, lambda: self.assertEqual(self.nodes()[node.name]["state"], "ready"))
        self.admin("check")

    def test_stopped_says_so_and_is_forgotten(self):
        node = self.fleet.delivery_nodes[1]
        self.admin("nodes", "--forget", node.name, "--yes", code=EX_UNAVAILABLE, says="not gone")
        self.assertTrue(node.stop())
        row = self.nodes()[node.name]
        self.assertEqual((row["state"], row["why"], row["sessions"]), ("stopped", "stopped", 0))
        self.admin("nodes", "--forget", node.name, says="would forget")
        self.assertIn(node.name, self.nodes())
        self.admin("nodes", "--forget", node.name, "--role", "frontend", "--yes", code=EX_NOUSER)
        self.admin("nodes", "--forget", node.name, "--yes")
        self.assertNotIn(node.name, self.nodes())
        self.admin("nodes", "--forget", node.name, "--yes", code=EX_NOUSER,
                   says="deliver1 (deliver), frontend1")
        node.up()
        self.eventually(30, lambda: self.assertEqual(self.nodes()[node.name]["state"], "ready"))

    def test_stops_with_sessions(self):
        """While its sessions go on it says that it stops, and balancers hear it."""
        node = self.fleet.front_ends[1]
        account = self.account("stops")
        with self.pop3(account, 1) as pop3:
            node.send(node.pids()[:1], signal.SIGTERM)
            self.eventually(20, lambda: self.assertEqual(self.nodes()[node.name]["why"],
                                                         "stopping"))
            self.assertEqual(self.agent(node), "stopped\n")
            pop3.quit()
        self.eventually(20, lambda: self.assertEqual(self.nodes()[node.name]["state"], "stopped"))
        self.eventually(20, lambda: self.assertEqual(node.pids(), []))

    def test_unready_says_why(self):
        folder = self.fleet.spool
        away = folder.with_name("away")
        node = self.fleet.delivery_nodes[0]
        folder.rename(away)
        try:
            self.eventually(60, lambda: self.assertEqual(self.nodes()[node.name]["state"],
                                                         "not ready"))
            self.assertIn("volumes: ", self.nodes()[node.name]["why"])
            self.assertRegex(self.agent(node), r"^up ready \d+%\n$")  # that is for /readyz
        finally:
            away.rename(folder)
        self.eventually(60, lambda: self.assertEqual(self.nodes()[node.name]["state"], "ready"))

    def test_drain_and_undrain(self):
        account = self.account("drain")
        self.deliver(b"Subject: one\r\n\r\none\r\n", account)
        front, other = self.fleet.front_ends
        with self.pop3(account) as pop3:
            self.admin("drain", front.name, says="sessions go on")
            self.drained(front)
            body, error = self.ready(front)
            self.assertIsNotNone(error)
            self.assertIn("draining (by the operator)\n", error)
            self.assertEqual(self.metric(front, "drain"), 1)
            self.assertEqual(self.metric(front, "ready"), 0)
            self.eventually(20, lambda: self.assertEqual(self.nodes()[front.name]["drain"],
                                                         "draining"))
            row = self.nodes()[front.name]
            self.assertEqual((row["state"], row["why"]), ("ready", None))
            self.assertIn("operator ", row["drain_by"])
            # New sessions go elsewhere, the open one goes on.
            self.assertEqual(self.through_balancer(), [0, 6])
            self.assertEqual(len(pop3.list()), 1)
            self.assertIn(b"one", pop3.retr(1))
            pop3.quit()
        self.admin("drain", front.name, "--wait", says="no sessions left")
        self.assertEqual(self.nodes()[front.name]["drain"], "drained")
        self.assertEqual(len(self.mailbox(account)), 1)  # who comes all the same is served

        self.admin("undrain", front.name)
        self.eventually(20, lambda: self.assertIsNone(self.ready(front)[1]))
        self.eventually(20, lambda: self.assertFalse(self.drains("pop3_ready", front)))
        self.eventually(30, self.all_is_well)
        both = self.through_balancer()
        self.assertTrue(all(both), both)

    def test_the_address_stays_for_those_who_are_left(self):
        """What keepalived asks the balancer fails only when nobody of either kind is alive."""

        def health():
            connection = http.client.HTTPConnection(HOST, self.fleet.ports.balancer_health, timeout=10)
            with contextlib.closing(connection):
                connection.request("GET", "/healthz")
                return connection.getresponse().status

        def down(backend):
            for server in self.servers(backend).values():
                self.assertEqual(server["srv_op_state"], "0")

        self.assertEqual(health(), 200)
        for nodes, backend, status in ((self.fleet.front_ends, "pop3_alive", 200),
                                       (self.fleet.delivery_nodes, "smtp_alive", 503)):
            for node in nodes:
                node.kill()
            self.eventually(20, lambda backend=backend: down(backend))
            self.assertEqual(health(), status, backend)

    def test_wait(self):
        """It ends after the last session has, and not before."""
        front = self.fleet.front_ends[0]
        account = self.account("wait")
        ended, seen = [], []

        def wait():
            done = self.run_admin("drain", front.name, "--wait")
            seen.append((list(ended), done.returncode, done.stderr))

        thread = threading.Thread(target=wait)
        with self.pop3(account) as pop3:
            thread.start()
            self.eventually(20, lambda: self.assertEqual(self.nodes()[front.name]["drain"],
                                                         "draining"))
            for _ in range(3):  # further announcements
                before = self.seen(front)
                self.eventually(20, lambda before=before: self.assertNotEqual(self.seen(front),
                                                                              before))
            ended.append(True)
            pop3.quit()
        thread.join(60)
        self.assertEqual(seen[0][:2], ([True], EX_OK))
        self.assertRegex(seen[0][2], r"(?s)sessions left: 1\n.*sessions left: 0\n.*no sessions left")

        # Who takes it back meanwhile ends the wait, too.
        with self.pop3(account) as pop3:
            thread = threading.Thread(target=wait)
            thread.start()
            self.eventually(20, lambda: self.assertEqual(self.nodes()[front.name]["drain"],
                                                         "draining"))
            self.admin("undrain", front.name)
            thread.join(60)
            self.assertEqual(seen[1][1], EX_UNAVAILABLE)
            self.assertIn("somebody has undrained it", seen[1][2])

    def seen(self, node):
        return self.fleet.sql(f"SELECT seen FROM node WHERE name = '{node.name}'")

    def test_a_drained_delivery_node_refuses(self):
        account = self.account("refuses")
        node, other = self.fleet.delivery_nodes
        message = some_messages("refuses", 1)[0]
        with self.smtp(0) as open_one:
            self.admin("drain", node.name)
            self.drained(node)
            for connect in self.smtp, self.lmtp:
                with self.assertRaises(Refused) as refused:
                    connect(0).close()
                self.assertEqual(refused.exception.code, 421)
                self.assertIn("4.3.2 deliver1 out of service", refused.exception.reply)
            self.assertGreaterEqual(self.metric(node, "drain_refused_total"), 2)
            open_one.deliver(message, [account.address])
            open_one.quit()
        before = self.metric(other, "smtp_accepted_total")
        for _ in range(4):
            with Smtp(self.fleet.ports.smtp) as smtp:
                smtp.deliver(message, [account.address])
                smtp.quit()
        self.assertEqual(self.metric(other, "smtp_accepted_total"), before + 4)
        self.assertEqual(len(self.mailbox(account)), 5)
        self.admin("undrain", node.name)
        self.eventually(20, lambda: self.smtp(0).close())

    def test_the_last_one(self):
        one, two = self.fleet.delivery_nodes
        self.admin("drain", one.name)
        self.admin("drain", two.name, code=EX_UNAVAILABLE, says="is the last node that serves")
        self.assertIsNone(self.nodes()[two.name]["drain"])
        self.admin("drain", two.name, "--yes", says="no other node serves as deliver")
        for node in one, two:
            self.drained(node)
        # Nobody is left: who lives answers, so that senders hear a 4xx.

        def refused():
            with self.assertRaises(Refused) as refused:
                Smtp(self.fleet.ports.smtp).close()
            self.assertEqual(refused.exception.code, 421)
            self.assertIn("out of service", refused.exception.reply)

        self.eventually(20, refused)

    def test_bad_input(self):
        self.admin("drain", "nobody", code=EX_NOUSER,
                   says="no such node: nobody; there are: deliver1 (deliver), deliver2 (deliver), "
                        "frontend1 (frontend)")
        self.admin("undrain", "nobody", code=EX_NOUSER, says="no such node: nobody")
        self.admin("drain", "deliver1", "--role", "frontend", code=EX_NOUSER,
                   says="no such node: deliver1 as frontend")
        self.admin("drain", "deliver1", "--role", "cook", code=EX_DATAERR, says="a role is")
        self.admin("drain", code=EX_USAGE)
        self.assertIsNone(self.nodes()["deliver1"]["drain"])

    def test_a_restart_keeps_the_drain(self):
        node = self.fleet.front_ends[0]
        self.admin("drain", node.name)
        self.drained(node)
        node.kill()
        self.fleet.sql(f"UPDATE node SET drains = false WHERE name = '{node.name}'")
        node.start()
        ready = []

        def started_again():
            ready.append(self.ready(node)[1] is None)
            row = self.nodes()[node.name]
            self.assertEqual((row["state"], row["drain"]), ("ready", "drained"))

        self.eventually(30, started_again)
        self.assertNotIn(True, ready)  # not for a moment
        self.assertIn("draining (by the operator)", self.ready(node)[1])

    def test_without_the_database(self):
        """What was heard last holds, and what is said meanwhile is heard when it is back."""
        account = self.account("without")
        self.deliver(b"Subject: without\r\n\r\n\r\n", account)
        front, other = self.fleet.front_ends
        delivery = self.fleet.delivery_nodes[0]
        for node in front, delivery:
            self.admin("drain", node.name)
            self.drained(node)
        postgres = self.fleet["postgres"]
        with self.pop3(account) as pop3:
            postgres.kill()
            self.eventually(30, lambda: self.assertIn("database: ", self.ready(other)[1] or ""))
            for node in front, delivery:
                self.assertIn("draining (by the operator)", self.ready(node)[1])
                self.assertEqual(self.agent(node), "drain\n")
            self.assertRegex(self.agent(other), "^up ready")
            with self.assertRaises(Refused):
                self.smtp(0).close()
            self.assertEqual(self.run_admin("nodes").returncode, 75)
            pop3.ok("NOOP")
            postgres.up()
            self.admin("undrain", front.name)
            self.eventually(40, lambda: self.assertIsNone(self.ready(front)[1]))
            self.assertIn("draining (by the operator)", self.ready(delivery)[1])
            pop3.quit()

    def test_a_fault_of_the_announcement_is_no_fault_of_the_node(self):
        account = self.account("fault")
        node = self.fleet.delivery_nodes[0]
        told = node.log.read_text().count(" node.unannounced ")
        self.fleet.sql("ALTER TABLE node RENAME TO elsewhere")
        try:
            faults = self.metric(node, "announce_faults_total")
            self.eventually(30, lambda: self.assertGreater(
                self.metric(node, "announce_faults_total"), faults + 1))
            self.assertIsNone(self.ready(node)[1])
            self.deliver(b"Subject: fault\r\n\r\n\r\n", account)
            self.assertEqual(len(self.mailbox(account)), 1)
            # Nor at the start of a node that was never told anything.
            self.fleet.front_ends[1].kill()
            self.fleet.front_ends[1].up()
        finally:
            self.fleet.sql("ALTER TABLE elsewhere RENAME TO node")
        self.assertEqual(node.log.read_text().count(" node.unannounced "), told + 1)
        self.eventually(30, lambda: self.assertEqual(
            {row["state"] for row in self.nodes().values()}, {"ready"}))

    def test_the_name_is_that_of_the_start(self):
        """A name needs a restart: until then nothing is said of another node, and a drain is heard."""
        node = self.fleet.front_ends[0]
        self.addCleanup(self.reload, node, self.fleet.node_settings.get(node.name, {}))
        told = self.fleet.sql("SELECT max(seen) FROM node")[0][0]
        self.reload(node, {**self.fleet.node_settings.get(node.name, {}), "node.name": "renamed"})
        self.eventually(40, lambda: self.assertNotEqual(self.fleet.sql(
            f"SELECT count(*) FROM node WHERE name = '{node.name}' AND seen > '{told}'"), [["0"]]))
        self.assertNotIn("renamed", {name for name, *_ in self.fleet.sql("SELECT name FROM node")})

    def test_two_workers(self):
        """One speaks for both, and hears for both; when it can't the other does."""
        node = self.fleet.front_ends[1]
        self.fleet.node_settings[node.name] = {"node.workers": "2"}
        self.addCleanup(self.restart, node, {})
        self.restart(node, self.fleet.node_settings[node.name])
        self.assertEqual(self.nodes()[node.name]["capacity"], 20)
        self.admin("drain", node.name)
        self.drained(node)
        for worker in 0, 1:
            stuck = self.workers(node)[worker]
            node.send([stuck], signal.SIGSTOP)
            self.admin("undrain", node.name)
            self.eventually(20, lambda: self.assertRegex(self.agent(node), "^up ready"))
            self.eventually(20, lambda: self.assertEqual(self.nodes()[node.name]["state"], "ready"))
            self.admin("drain", node.name)
            self.drained(node)
            node.send([stuck], signal.SIGKILL)
            self.eventually(20, lambda stuck=stuck: self.assertNotIn(stuck, self.workers(node)))
            self.eventually(20, lambda: self.assertEqual(len(self.workers(node)), 2))
            self.assertEqual(self.agent(node), "drain\n")
        self.admin("undrain", node.name)
        self.eventually(30, lambda: self.assertIsNone(self.ready(node)[1]))

    def workers(self, node):
        """The pids of the workers, in the order of their slots."""
        found = {}
        for pid in node.pids():
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            if b"--worker" in words:
                found[int(words[words.index(b"--worker") + 1])] = pid
        return [found[slot] for slot in sorted(found)]

    def restart(self, node, settings):
        self.fleet.node_settings[node.name] = settings
        node.stop()
        node.up()
        self.eventually(30, lambda: self.assertEqual(self.nodes()[node.name]["state"], "ready"))

    def test_only_the_networks_may_ask(self):
        node = self.fleet.front_ends[1]
        self.addCleanup(self.restart, node, {})
        self.fleet.node_settings[node.name] = {"node.health_networks": "192.0.2.0/24"}
        node.stop()
        node.start()
        self.eventually(30, lambda: self.assertEqual(self.nodes()[node.name]["state"], "ready"))
        with socket.create_connection((HOST, node.ports["agent"]), timeout=10) as s:
            self.assertEqual(s.recv(100), b"")
        with self.assertRaises((OSError, http.client.HTTPException)):
            connection = http.client.HTTPConnection(HOST, node.ports["health"], timeout=10)
            connection.request("GET", "/metrics")
            connection.getresponse()
        self.assertIn(" health.forbidden ", node.log.read_text())

    def test_versions_differ(self):
        self.admin("check")
        self.fleet.node_settings["deliver2"] = {"node.announce": "1m"}
        self.addCleanup(self.restart, self.fleet["deliver2"], {})
        self.restart(self.fleet["deliver2"], self.fleet.node_settings["deliver2"])
        self.fleet.sql("UPDATE node SET version = '0.0.9' WHERE name = 'deliver2'")
        check = self.run_admin("check")
        self.assertRegex(check.stdout, r"(?m)^no +node versions +\S+ and, on deliver2 \(deliver\), "
                                       r"0\.0\.9$")
        self.assertEqual(check.returncode, EX_UNAVAILABLE)


if __name__ == "__main__":
    harness.main()
