#!/usr/bin/python3 -B
"""All clients at once, and nothing is cached: nobody is turned away, each gets the mailbox that is his, and the
database is asked less often than there are accounts.
"""

import re
import resource
import socket

import harness
from mail import HOST

CLIENTS = 2_000
PASSWORD = "storm"

ACCOUNTS = """
BEGIN;
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
    SELECT nextval('mailbox_ids') AS id, n, 'storm' || n || '@{domain}' AS addr
    FROM generate_series(0, {clients} - 1) n;
INSERT INTO mailbox (mailbox_id, msgs, octets) SELECT id, 1, 1000 + n FROM made;
INSERT INTO account (mailbox_id, addr, hash) SELECT id, addr, '{hash}' FROM made;
INSERT INTO address (addr, domain, mailbox_id) SELECT addr, '{domain}', id FROM made;
INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
    SELECT id, 1, lpad(to_hex(n), 32, '0')::uuid, 1000 + n, 100, 1, false FROM made;
COMMIT;
"""


class StormTest(harness.FleetTest):
    settings = {"pop3.plaintext_login": "always", "auth.enroll": "no", "cache.timeout": "2s"}
    time_limit = 300

    def test_all_at_once(self):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        hashed = self.fleet.run(["/usr/bin/openssl", "passwd", "-1", "-stdin"], stdin=PASSWORD).strip()
        self.fleet.sql(ACCOUNTS.format(domain=harness.DOMAIN, clients=CLIENTS, hash=hashed))
        before = self.queries()
        sessions = [self.connected() for _ in range(CLIENTS)]
        for number, session in enumerate(sessions):
            session.sendall(b"USER storm%d@%s\r\nPASS %s\r\nSTAT\r\nQUIT\r\n"
                            % (number, harness.DOMAIN.encode(), PASSWORD.encode()))
        for number, session in enumerate(sessions):
            self.assertRegex(all_of(session), re.compile(
                rb"\+OK [^\r]*\r\n\+OK[^\r]*\r\n\+OK [^\r]*\r\n\+OK 1 %d\r\n\+OK[^\r]*\r\n\Z" % (1000 + number)))
        asked = self.queries() - before
        print(f"# {asked} statements for {CLIENTS} accounts")
        self.assertLessEqual(asked, CLIENTS)
        self.assertEqual(self.waiting(), 0)

    def connected(self):
        return socket.create_connection((HOST, self.fleet.front_ends[0].ports["pop3"]), timeout=120)

    def waiting(self):
        metrics = self.fleet.front_ends[0].get("/metrics")[0]
        return int(re.search(r"^mailfleet_password_waiting (\d+)$", metrics, re.MULTILINE)[1])


def all_of(session):
    """What the server says until it closes."""
    with session, session.makefile("rb") as file:
        return file.read()


if __name__ == "__main__":
    harness.main()
