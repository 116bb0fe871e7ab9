#!/usr/bin/python3 -B
"""Moving in from real old servers, while people's programs poll: Dovecot and Courier of Debian,
fetchmail and getmail. What a program has seen at the old server it does not download again, and
mailfleet verify tells every difference there is. No reply of an old server, however it ends, makes a
short message here."""

import contextlib
import json
import os
import socket
import subprocess
import threading
from os import EX_DATAERR, EX_OK, EX_TEMPFAIL, EX_USAGE

import harness
from old_servers import Courier, Door, Dovecot

DIFFERENT = 1
SERVERS = "dovecot", "courier"
WAYS = "maildir", "pop3s"
BEGAN = 1600000000
KINDS = ("missing", "other", "sizes_differ", "order_differs", "contents_differ", "uidls_changed")


def message(number, end="\n"):
    return (f"Received: from a.example.org by old.example.org; Sun, 13 Sep 2020 12:26:{40 + number}"
            f" +0000 (GMT)\nX-Number: {number}\nSubject: a message\n\n.dots\n..\n.\n"
            f"line {number}{end}").encode()


class MoveTest(harness.FleetTest):
    time_limit = 300

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        port = harness.free_base_port()
        cls.accounts, cls.old = {}, {}
        for number, (name, kind) in enumerate(zip(SERVERS, (Dovecot, Courier))):
            users = [cls.account(f"{use}.{name}") for use in ("maildir", "pop3s", "damage", "way")]
            cls.accounts |= {user.address: user for user in users}
            old = kind(cls.fleet, name, port + 10 * number,
                       {user.address: user.password for user in users})
            cls.addClassCleanup(old.stop)
            old.up()
            cls.old[name] = old

    # --- helpers --------------------------------------------------------------------------------

    def user(self, use, name):
        return self.accounts[f"{use}.{name}@{harness.DOMAIN}"]

    def rows(self, *words, stdin="", code=EX_OK):
        """What it printed as JSON, and what it said."""
        done = self.run_admin(*words, "--json", stdin=stdin)
        self.assertEqual(done.returncode, code, (words, done.stdout, done.stderr))
        return json.loads(done.stdout) if done.stdout else [], done.stderr

    def url(self, old, way="pop3s"):
        return f"maildir:{old.folder}/mail/%a/Maildir" if way == "maildir" \
            else f"{way}://localhost:{old.pop3s if way == 'pop3s' else old.pop3}"

    def move(self, command, url, user, *options, code=EX_OK):
        """One account, with its password from a list: the row, and what was said."""
        [row], said = self.rows(command, url, "--list", "-", "--ca", self.fleet.ca, *options,
                                     stdin=f"{user.address} {user.password}\n", code=code)
        return row, said

    def verify(self, old, user, *options, since=0, code=EX_OK, **differences):
        row, said = self.move("verify", self.url(old), user, *options, code=code)
        self.assertEqual({kind: row[kind] for kind in KINDS},
                         {kind: differences.get(kind, 0) for kind in KINDS}, said)
        self.assertEqual(row["since"], since)
        self.assertEqual(row["result"], "differs" if differences else "same")
        return row, said

    def state(self, user):
        return json.loads(self.fleet.admin("account", "show", user.address, "--json"))["state"]

    def served(self, port, user):
        """UIDL, size and content by the server there."""
        with harness.Pop3(port, tls=self.tls) as pop3:
            pop3.login(user)
            uidls, sizes = pop3.uidl(), pop3.list()
            found = [(uidls[n], sizes[n], pop3.retr(n)) for n in sizes]
            pop3.quit()
        return found

    def here(self, user):
        return self.served(self.fleet.front_ends[0].ports["pop3s"], user)

    # --- the move -------------------------------------------------------------------------------

    def poller(self, name, user, port):
        """A function that polls once, and returns the numbers of what was downloaded by then and
        what the program remembers."""
        folder = self.folder / f"{name}-{user.address}"
        folder.mkdir()
        fetched = folder / "fetched"
        fetched.touch()
        if name == "fetchmail":
            rc = folder / "rc"
            rc.write_text(f"""
                poll localhost protocol pop3 port {port} uidl
                    user "{user.address}" password "{user.password}"
                    ssl sslcertck sslcertfile "{self.fleet.ca}"
                    mda "cat >> {fetched}" keep no rewrite
                """)
            rc.chmod(0o600)
            argv = ["fetchmail", "-f", rc, "--idfile", folder / "ids", "--pidfile", folder / "pid"]
            none = 1  # its status when there is nothing new
        else:  # getmail waits a minute for a child that has ended before it began to wait
            (folder / "getmailrc").write_text(f"""
[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = {port}
username = {user.address}
password = {user.password}
ca_certs = {self.fleet.ca}
[destination]
type = MDA_external
path = /bin/sh
arguments = ("-c", "cat >> '{fetched}'; sleep 0.3")
unixfrom = false
allow_root_commands = true
[options]
read_all = false
delete = false
delivered_to = false
received = false
""")
            argv = ["getmail", "--getmaildir", folder]
            none = 0

        def poll():
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=60, check=False)
            self.assertIn(done.returncode, (0, none), done.stdout)
            numbers = [int(line.split()[1]) for line in fetched.read_bytes().splitlines()
                       if line.startswith(b"X-Number: ")]
            # getmail writes its lines in any order; each has the time when it was downloaded.
            seen = {path.name: sorted(path.read_bytes().splitlines()) for path in folder.iterdir()
                    if path.name == "ids" or path.name.startswith("oldmail-")}
            self.assertEqual(len(seen), 1, list(folder.iterdir()))
            return numbers, seen

        return poll

    def moving(self, name, way):
        old, user = self.old[name], self.user(way, name)
        for n in range(5):
            old.put(user.address, f"{BEGAN + n}.M{n}P1.old", message(n, end="" if n == 3 else "\n"))
        door = Door(old.pop3s)
        self.addCleanup(door.close)
        polls = [self.poller(program, user, door.port) for program in ("fetchmail", "getmail")]
        for poll in polls:
            self.assertEqual(poll()[0], [0, 1, 2, 3, 4])
        self.fleet.admin("account", "suspend", user.address)
        self.move("import", self.url(old, way), user, "--yes")
        self.verify(old, user)

        # What comes meanwhile comes with the last run.
        old.put(user.address, f"{BEGAN + 9}.M9P1.old", message(9))
        for poll in polls:
            self.assertEqual(poll()[0][5:], [9])
        before = [poll() for poll in polls]
        there = self.served(old.pop3s, user)
        self.verify(old, user, "--cut-over", "--yes", missing=1, code=DIFFERENT)
        self.assertEqual(self.state(user), "suspended")
        row, _ = self.move("import", self.url(old, way), user, "--yes")
        self.assertEqual((row["known"], row["taken"], row["sizes_differ"], row["uidls_changed"]),
                         (5, 1, 0, 0))
        self.verify(old, user, "--deep", "--cut-over")  # only says so
        self.assertEqual(self.state(user), "suspended")
        row, _ = self.verify(old, user, "--deep", "--cut-over", "--yes")
        self.assertEqual((row["messages"], row["here"], row["same"], row["resumed"]),
                         (6, 6, 6, True))
        self.assertEqual(self.state(user), "active")
        self.assertEqual(self.here(user), there)
        self.assertEqual(self.served(old.pop3s, user), there)  # nothing was taken away there

        door.leads_to = self.fleet.front_ends[0].ports["pop3s"]
        for poll, was in zip(polls, before):
            self.assertEqual(poll(), was)
        self.deliver(b"X-Number: 77\r\nSubject: here\r\n\r\nnew\r\n", user)
        self.verify(old, user, since=1)
        for poll, (numbers, _) in zip(polls, before):
            for _ in range(2):
                self.assertEqual(poll()[0], [*numbers, 77])
        received = [row["received"] for row in json.loads(
            self.fleet.admin("messages", user.address, "--json"))]
        self.assertEqual(received[:6], [f"2020-09-13T12:26:{40 + n}Z" for n in (0, 1, 2, 3, 4, 9)])

    def test_from_dovecot_by_its_files(self):
        self.moving("dovecot", "maildir")

    def test_from_dovecot_by_pop3(self):
        self.moving("dovecot", "pop3s")

    def test_from_courier_by_its_files(self):
        self.moving("courier", "maildir")

    def test_from_courier_by_pop3(self):
        self.moving("courier", "pop3s")

    # --- what verify finds ----------------------------------------------------------------------

    def change(self, user, statement):
        self.fleet.sql(f"UPDATE message SET {statement} AND mailbox_id = (SELECT mailbox_id FROM "
                       f"address WHERE addr = '{user.address}')")

    def test_one_message_damaged(self):
        for name, old in self.old.items():
            with self.subTest(name):
                self.damage(old, self.user("damage", name))

    def damage(self, old, user):
        for n in range(6):
            old.put(user.address, f"{BEGAN + n}.M{n}P1.old", message(n))
        self.fleet.admin("account", "suspend", user.address)
        self.move("import", self.url(old), user, "--yes")
        self.verify(old, user, "--deep")
        rows = json.loads(self.fleet.admin("messages", user.address, "--json"))
        uidl, seq, size = rows[2]["uidl"], rows[2]["seq"], rows[2]["size"]
        last = rows[-1]["seq"]

        # Here: each by itself, and put right again.
        for wrong, right, found in (
                (f"size = {size + 1} WHERE seq = {seq}", f"size = {size} WHERE seq = {seq}",
                 {"sizes_differ": 1}),
                (f"uidl = 'other' WHERE seq = {seq}", f"uidl = '{uidl}' WHERE seq = {seq}",
                 {"missing": 1, "other": 1}),
                # The last of them, moved behind the rest, would be mail that came since.
                (f"uidl = '' WHERE seq = {seq}", f"uidl = '{uidl}' WHERE seq = {seq}",
                 {"missing": 1, "other": 1}),
                (f"seq = {last + 9} WHERE seq = {seq}", f"seq = {seq} WHERE seq = {last + 9}",
                 {"order_differs": 3})):
            self.change(user, wrong)
            _, said = self.verify(old, user, "--cut-over", "--yes", code=DIFFERENT, **found)
            self.assertIn(user.address, said)
            self.assertEqual(self.state(user), "suspended")
            self.change(user, right)
        self.verify(old, user)

        # A file here with another content of the same length; only --deep reads it.
        [file] = [f for f in self.spool_files() if f.name == rows[2]["id"]]
        octets = file.read_bytes()
        self.assertIn(b"line 2", octets)
        file.write_bytes(octets.replace(b"line 2", b"lime 2"))
        self.verify(old, user)
        _, said = self.verify(old, user, "--deep", "--cut-over", "--yes", contents_differ=1,
                              code=DIFFERENT)
        self.assertIn(uidl, said)
        self.assertEqual(self.state(user), "suspended")
        file.unlink()
        self.verify(old, user, "--deep", contents_differ=1, code=DIFFERENT)
        file.write_bytes(octets)
        self.fleet.own(file, self.fleet.user, 0o640)
        self.verify(old, user, "--deep")

        # There: another content, and one message less.
        there = old.files(user.address)[4]
        there.write_bytes(message(4).replace(b"line 4", b"lime 4"))
        self.verify(old, user)
        self.verify(old, user, "--deep", contents_differ=1, code=DIFFERENT)
        there.write_bytes(message(4))
        there.unlink()
        self.verify(old, user, other=1, code=DIFFERENT)

    def test_a_list_of_accounts(self):
        """One of them is not the same: it alone is refused."""
        old = self.old["dovecot"]
        good, bad = self.user("way", "dovecot"), self.account("elsewhere")
        self.fleet.admin("account", "suspend", good.address)
        old.put(good.address, f"{BEGAN}.M1P1.old", message(1))
        master = self.folder / "master"
        master.write_text(old.master_password + "\n")
        self.fleet.own(master, self.fleet.user, 0o400)
        login = ["--list", "-", "--ca", self.fleet.ca, "--password-file", master, "--master"]
        url = self.url(old, "pop3")
        listed = f"{good.address}\n"
        for separator in "", "*":
            [row], _ = self.rows("import", url, *login, separator + old.master, "--yes",
                                      stdin=listed)
            self.assertEqual(row["messages"], 1)
        rows, said = self.rows("verify", url, *login, old.master, "--jobs", 2, "--cut-over",
                                    "--yes", stdin=f"{bad.address}\n{listed}", code=EX_TEMPFAIL)
        self.assertEqual([(row["result"], row["resumed"]) for row in rows],
                         [("failed", False), ("same", True)], said)
        self.assertIn("refused", rows[0]["error"])
        self.assertEqual(self.state(good), "active")

    # --- how it logs in -------------------------------------------------------------------------

    def test_ways_to_log_in(self):
        for name, old in self.old.items():
            user = self.user("way", name)
            for url in (self.url(old), self.url(old, "pop3"), self.url(old, "pop3+plain"),
                        f"pop3s://;AUTH=PLAIN@localhost:{old.pop3s}"):
                self.move("import", url, user)
            for url, why in ((f"pop3s://localhost:{old.pop3s}/x", EX_DATAERR),
                             (f"pop3s://someone@localhost:{old.pop3s}", EX_DATAERR),
                             (f"pop3s://127.0.0.2:{old.pop3s}", EX_TEMPFAIL),
                             (f"pop3s://localhost:{old.pop3}", EX_TEMPFAIL)):
                self.move("import", url, user, code=why)
            wrong = harness.Account(user.address, "wrong")
            row, _ = self.move("import", self.url(old), wrong, code=EX_TEMPFAIL)
            self.assertIn("the login was refused", row["error"])
            # Its certificate is of no authority that the system trusts.
            [row], _ = self.rows("import", self.url(old), "--list", "-",
                                      stdin=f"{user.address} {user.password}\n", code=EX_TEMPFAIL)
            self.assertIn("certificate", row["error"])
            [row], _ = self.rows("import", self.url(old), user.address, code=EX_DATAERR)
            self.assertIn("password", row["error"])
            self.rows("verify", self.url(old), user.address, "--yes", code=EX_USAGE)

    # --- old servers that are not well ----------------------------------------------------------

    def test_replies_that_end_early(self):
        uidls, sizes = b"+OK\r\n1 a\r\n2 b\r\n.\r\n", b"+OK\r\n1 13\r\n2 13\r\n.\r\n"
        first, second = b"+OK\r\nS: 1\r\n\r\none\r\n.\r\n", b"+OK\r\nS: 2\r\n\r\ntwo\r\n.\r\n"
        good = [uidls, sizes, first, second]
        for at, reply, taken in (
                (0, uidls[:-3], 0), (0, uidls[:-1], 0), (0, b"-ERR \x1b[2J no UIDL\r\n", 0),
                (0, b"+OK\r\n2 b\r\n1 a\r\n.\r\n", 0), (0, b"+OK\r\n1 a\r\n1 a\r\n.\r\n", 0),
                (0, b"+OK\r\n" + b"1" * 100000, 0), (0, b"hello\r\n", 0),
                (1, sizes[:-5], 0), (1, b"+OK\r\n1 13\r\n.\r\n", 0),
                (1, sizes.replace(b"2 13", b"3 13"), 0), (1, sizes + b"more\r\n", 0),
                (2, first[:-3], 0), (2, first[:8], 0), (2, b"", 0), (2, b"-ERR gone\r\n", 0),
                (3, second[:-3], 1), (3, second[:-5], 1), (3, second + b"more\r\n", 1)):
            with self.subTest(at=at, reply=reply[:40]):
                user = self.account(f"early{os.urandom(5).hex()}")
                with Canned([*good[:at], reply]) as server:
                    row, said = self.move("import", server.url, user, "--yes", code=EX_TEMPFAIL)
                    self.assertTrue(row["error"])
                    self.assertNotIn("\x1b", said)
                self.assertEqual([uidl for uidl, _, _ in self.here(user)], ["a"][:taken])
                with Canned(good) as server:
                    row, _ = self.move("import", server.url, user, "--yes")
                    self.assertEqual(row["taken"], 2 - taken)
                self.assertEqual(self.here(user), [("a", 13, b"S: 1\r\n\r\none\r\n"),
                                                   ("b", 13, b"S: 2\r\n\r\ntwo\r\n")])

    def test_one_that_is_too_large(self):
        """By what LIST says: it is not asked for."""
        user = self.account("toolarge")
        with Canned([b"+OK\r\n1 a\r\n2 b\r\n.\r\n", b"+OK\r\n1 2147483648\r\n2 13\r\n.\r\n",
                     b"-ERR\r\n", b"+OK\r\nS: 2\r\n\r\ntwo\r\n.\r\n"]) as server:
            row, _ = self.move("import", server.url, user, "--yes", code=EX_DATAERR)
        self.assertEqual((row["taken"], row["too_large"]), (1, 1))
        self.assertEqual(self.here(user), [("b", 13, b"S: 2\r\n\r\ntwo\r\n")])


class Canned:
    """A POP3 server with canned replies to UIDL, LIST and the RETR of each message. It closes behind
    the last of them."""

    def __init__(self, replies):
        self.replies = list(replies)
        self.socket = socket.create_server((harness.HOST, 0))
        self.url = f"pop3+plain://localhost:{self.socket.getsockname()[1]}"
        self.commands = []
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.socket.close()
        self.thread.join(30)
        if set(self.commands) - {b"CAPA", b"AUTH", b"USER", b"PASS", b"UIDL", b"LIST", b"RETR",
                                 b"QUIT"}:
            raise AssertionError(f"not what an import should say: {self.commands}")

    def serve(self):
        client, _ = self.socket.accept()
        with client, contextlib.suppress(OSError), client.makefile("rb") as file:
            client.sendall(b"+OK hello\r\n")
            for line in file:
                self.commands.append(line.split()[0].upper())
                if self.commands[-1] in (b"UIDL", b"LIST", b"RETR"):
                    at = 1 + int(line.split()[1]) if b"RETR" in line else int(b"LIST" in line)
                    client.sendall(self.replies[at])
                    if at == len(self.replies) - 1:
                        return
                elif self.commands[-1] in (b"USER", b"PASS", b"QUIT"):
                    client.sendall(b"+OK\r\n")
                else:
                    client.sendall(b"-ERR\r\n")


if __name__ == "__main__":
    harness.main()
