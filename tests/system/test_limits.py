#!/usr/bin/python3 -B
"""Sessions and connections of one address and of its network: what is over the limit hears a
temporary error, everybody else notices nothing."""

import contextlib
import re
import socket
import ssl

import harness
from fleet import HOST


class Limits(harness.FleetTest):
    settings = {"limits.exempt": "192.0.2.128/25",
                "smtp.address_sessions": 2, "smtp.network_sessions": 3,
                "pop3.address_sessions": 2, "pop3.network_sessions": 3}

    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)

    def greeting(self, port, client):
        """What a client hears first behind a PROXY header; its connection stays open."""
        s = self.stack.enter_context(socket.create_connection((HOST, port), timeout=20))
        family, local = ("TCP6", "2001:db8::") if ":" in client else ("TCP4", "198.51.100.200")
        s.sendall(f"PROXY {family} {client} {local} 4242 25\r\n".encode())
        return s.makefile("rb").readline().decode()

    def hang_up(self):
        self.stack.close()

    def nodes(self):
        """(node, port behind the PROXY header, what is well, what is refused)"""
        deliver, front_end = self.fleet.delivery_nodes[0], self.fleet.front_ends[0]
        return [(deliver, deliver.ports["smtp_proxy"], "220 ", "421 4.7.0 "),
                (front_end, front_end.ports["pop3_proxy"], "+OK", "-ERR [SYS/TEMP]")]

    @staticmethod
    def metric(node, name):
        return int(re.search(rf"^mailfleet_{name}_total (\d+)$", node.get("/metrics")[0],
                             re.MULTILINE)[1])

    def expect(self, port, client, start):
        self.assertEqual(self.greeting(port, client)[:len(start)], start)

    def test_sessions(self):
        for node, port, well, refused in self.nodes():
            with self.subTest(node=node.name):
                before = self.metric(node, "limit_sessions")
                for client, start in (
                        ("192.0.2.1", well), ("192.0.2.1", well), ("192.0.2.1", refused),
                        ("192.0.2.2", well), ("192.0.2.3", refused), ("192.0.3.3", well),
                        ("2001:db8:1:2::1", well), ("2001:db8:1:2:3::", well),
                        ("2001:db8:1:2:4::", refused), ("2001:db8:1:3::", well),
                        ("2001:db8:1:4::", refused), ("2001:db8:2::", well),
                        *[("192.0.2.129", well)] * 5):
                    self.expect(port, client, start)
                self.assertEqual(self.metric(node, "limit_sessions") - before, 4)
                # At most one a second, so whichever refusal was the first.
                self.assertRegex(node.log.read_text(),
                                 r' limit\.refused .*peer=[\d.]+ why="(sessions|rate) of the')
                self.hang_up()
                for client in "192.0.2.1", "192.0.2.3", "2001:db8:1:4::":
                    self.eventually(20, lambda client=client: self.expect(port, client, well))
                self.hang_up()

    def test_without_a_proxy_header(self):
        """The address that it comes from; and by LMTP there is no limit."""
        ports = self.fleet.delivery_nodes[1].ports
        for port, starts in (ports["smtp"], ["220 ", "220 ", "421 4.7.0 "]), \
                (ports["lmtp"], ["220 "] * 5):
            for start in starts:
                s = self.stack.enter_context(
                    socket.create_connection((HOST, port), 20, ("127.0.0.9", 0)))
                self.assertEqual(s.recv(1024)[:len(start)].decode(), start)

    def silent(self, port, client, header):
        """A connection that does not begin with TLS."""
        s = self.stack.enter_context(
            socket.create_connection((HOST, port), 20, None if header else (client, 0)))
        if header:
            s.sendall(f"PROXY TCP4 {client} 198.51.100.200 4242 995\r\n".encode())
        s.settimeout(0)
        return s

    def closed(self, s):
        """Without a word."""
        s.settimeout(20)
        try:
            self.assertEqual(s.recv(100), b"")
        except ConnectionResetError:
            pass

    def kept(self, s):
        with self.assertRaises(BlockingIOError):
            s.recv(100)

    def test_before_tls(self):
        """A client that has not yet said anything of TLS counts, and is not answered."""
        node = self.fleet.front_ends[0]
        for name, client, other in (("pop3s", "127.0.0.9", "127.1.0.9"),
                                    ("pop3s_proxy", "192.0.2.1", "192.0.3.1")):
            with self.subTest(port=name):
                port, header = node.ports[name], name == "pop3s_proxy"
                before = self.metric(node, "limit_sessions")
                first, second = (self.silent(port, client, header) for _ in range(2))
                self.closed(self.silent(port, client, header))
                self.assertEqual(self.metric(node, "limit_sessions") - before, 1)
                stranger = self.silent(port, other, header)
                self.closed(self.silent(port, client, header))
                for s in first, second, stranger:
                    self.kept(s)
                self.hang_up()
                self.eventually(20, lambda: self.logs_in(port, client, header))

    def logs_in(self, port, client, header):
        """Once those who never went on have left."""
        with contextlib.closing(self.silent(port, client, header)) as s:
            s.settimeout(20)
            context = ssl.create_default_context(cafile=self.fleet.ca)
            with context.wrap_socket(s, server_hostname="localhost") as tls:
                self.assertEqual(tls.recv(3), b"+OK")

    def test_silence_before_tls_takes_no_place(self):
        node = self.fleet.front_ends[0]
        self.addCleanup(self.reload, node, {})
        self.reload(node, {"node.max_sessions": 1})
        for n in range(3):
            silent = self.silent(node.ports["pop3s"], f"127.0.0.{10 + n}", False)
        self.expect(node.ports["pop3_proxy"], "203.0.113.1", "+OK")
        self.kept(silent)

    def test_rates_of_a_reload(self):
        for node, port, well, refused in self.nodes():
            with self.subTest(node=node.name):
                section = "smtp" if well == "220 " else "pop3"
                self.addCleanup(self.reload, node, {})
                self.reload(node, {f"{section}.address_rate": 1, f"{section}.network_rate": 2})
                for client, start in (("198.51.100.1", well), ("198.51.100.1", refused),
                                      ("198.51.100.2", well), ("198.51.100.3", refused),
                                      ("203.0.113.1", well), *[("192.0.2.129", well)] * 3):
                    self.expect(port, client, start)
                self.hang_up()


if __name__ == "__main__":
    harness.main()
