#!/usr/bin/python3 -B
"""What a worker has given up: other files, other programs, other processes, most of the kernel.

A worker tries it all by itself when it starts (the fault sandbox_probe) and logs what came of it.
The second front-end has no sandbox: there the same must succeed, or this would prove nothing.
Programs with AddressSanitizer are held to the same, see common/daemon/sandbox_calls.c.
"""

import os
import re
import signal
import shutil
import socket
from pathlib import Path

import harness
from fleet import HOST

PROBE = {"MAILFLEET_FAULT": "sandbox_probe=fail"}
LINE = re.compile(r' sandbox\.probe .*what="?([\w-]+)"? path="?([^ "]*)"? result=(\w+)')

# Refused, and no error of the call's own.
FORBIDDEN = ["execve", "execveat", "fork", "ptrace", "process_vm_readv", "socket-packet",
             "socket-vsock", "socket-netlink", "unshare", "personality", "setuid", "keyctl",
             "chmod", "tiocsti"]
WITHOUT = {"execve": "EFAULT", "fork": "done", "ptrace": "ESRCH", "process_vm_readv": "done",
           "socket-netlink": "done", "unshare": "done", "personality": "done", "setuid": "done",
           "chmod": "EBADF", "tiocsti": "EBADF"}


class Sandbox(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        fleet = cls.fleet
        cls.boxed, cls.free = fleet.front_ends
        # Names are looked up by what getaddrinfo loads when it is needed.
        fleet.node_settings["frontend1"] = {
            "database.url": fleet.database_url.replace(HOST, "localhost")}
        fleet.node_settings["frontend2"] = {"node.sandbox": "off"}
        cls.outside = fleet.state / "outside"
        fleet.make_dir(cls.outside, fleet.user, 0o755)

    def file(self, path):
        self.fleet.write(path, "nobody's business\n", self.fleet.user, 0o644)
        return path

    def restart(self, node, env=None):
        self.assertTrue(node.stop())
        node.log.write_text("")
        node.start(env=env)
        node.wait_ready()
        return node.log.read_text()

    def probe(self, node, read=(), write=(), unlink=()):
        """{(what, path): result}"""
        lists = {"MAILFLEET_PROBE_READ": read, "MAILFLEET_PROBE_WRITE": write,
                 "MAILFLEET_PROBE_UNLINK": unlink}
        log = self.restart(node, {**PROBE, **{name: ":".join(map(str, paths))
                                              for name, paths in lists.items()}})
        self.assertIn(" sandbox.probed ", log)
        return {(what, path): result for what, path, result in LINE.findall(log)}

    @staticmethod
    def workers(node):
        return node.pids()[1:]

    # --- what it can't do -------------------------------------------------------------------------

    def test_files(self):
        sentinel = self.fleet.spool / ".mailfleet-volume"
        kept = [self.fleet.ca, self.fleet.config, sentinel]
        secret = self.file(self.outside / "secret")
        kept += [Path("/etc"), Path("/etc/ssl")]  # libraries list folders of parts there
        hidden = [secret, self.boxed.log, self.fleet.state / "bin" / "mailfleet-frontend"]
        inside, beside = self.fleet.spool / "probe", self.outside / "probe"
        mail = self.file(self.fleet.spool / "mail")
        results = self.probe(self.boxed, read=[*kept, *hidden], write=[inside, beside],
                             unlink=[mail, secret])
        for path in kept:
            self.assertEqual(results["read", str(path)], "done")
        for path in hidden:
            self.assertEqual(results["read", str(path)], "EACCES")
        self.assertEqual(results["write", str(inside)], "done")
        self.assertEqual(results["write", str(beside)], "EACCES")
        self.assertFalse(beside.exists())
        for path in mail, secret:
            self.assertIn(results["unlink", str(path)], ("EPERM", "EACCES"))
            self.assertTrue(path.exists())

        results = self.probe(self.free, read=hidden, write=[beside], unlink=[mail, secret])
        self.assertEqual(set(results[what, str(path)] for what, path in
                             [*(("read", path) for path in hidden), ("write", beside),
                              ("unlink", mail), ("unlink", secret)]), {"done"})
        inside.unlink()
        beside.unlink()

    def test_system_calls(self):
        results = self.probe(self.boxed)
        self.assertEqual({name: results[name, ""] for name in FORBIDDEN},
                         dict.fromkeys(FORBIDDEN, "EPERM"))
        self.assertEqual(results["io_uring", ""], "ENOSYS")
        results = self.probe(self.free)
        self.assertEqual({name: results[name, ""] for name in WITHOUT}, WITHOUT)

    def test_every_thread_is_in_it(self):
        for node in self.boxed, self.fleet.delivery_nodes[0]:
            self.restart(node)
            threads = [task for pid in self.workers(node)
                       for task in Path(f"/proc/{pid}/task").iterdir()]
            self.assertGreater(len(threads), 2)
            for task in threads:
                status = (task / "status").read_text()
                self.assertRegex(status, r"(?m)^Seccomp:\t2$")
                self.assertRegex(status, r"(?m)^NoNewPrivs:\t1$")

    # --- volumes ----------------------------------------------------------------------------------

    def test_volumes_outside_of_the_roots_are_not_used(self):
        """By its path; and by a link that looks as if it were inside."""
        fleet = self.fleet
        config = fleet.state / "config" / "elsewhere.conf"
        link = fleet.state / "spool" / "link"
        fleet.write_config(config, {"spool.roots": f"{self.outside} {fleet.state / 'spool'}"})
        real = self.outside / "linked"
        fleet.make_dir(real, fleet.user, 0o750)
        link.symlink_to(real)
        for path in self.outside / "volume", link:
            fleet.run([fleet.admin_program, "--config", config, "volume", "add",
                       f"file://{path}", "--state", "drain"], user=fleet.user)
        for node in self.boxed, fleet.delivery_nodes[0]:
            def told(node=node):
                ready, why = node.get("/readyz")
                self.assertIsNone(why)
                self.assertRegex(ready, "volume 2: its directory does not lie in spool.roots")
                self.assertRegex(ready, "volume 3: .*link: Permission denied")
                self.assertIn(" volume.unknown ", node.log.read_text())
            self.eventually(30, told)

    # --- reload -----------------------------------------------------------------------------------

    def reloads(self):
        return self.boxed.log.read_text().count(" worker.reloaded ")

    def test_reload(self):
        """Replaced in the same folder a certificate is read; one elsewhere needs a restart."""
        node, tls = self.boxed, self.fleet.state / "tls"
        self.restart(node)
        new = tls / "node.pem.new"
        shutil.copyfile(tls / "node.pem", new)
        new.chmod(0o644)
        new.rename(tls / "node.pem")
        os.kill(node.pids()[0], signal.SIGHUP)
        self.eventually(20, lambda: self.assertEqual(self.reloads(), 1))

        moved = self.outside / "node.pem"
        shutil.copyfile(tls / "node.pem", moved)
        moved.chmod(0o644)
        before = dict(self.fleet.node_settings["frontend1"])
        self.addCleanup(self.fleet.node_settings.__setitem__, "frontend1", before)
        self.fleet.node_settings["frontend1"] = {**before, "tls.certificate": moved}
        node.prepare()
        os.kill(node.pids()[0], signal.SIGHUP)
        self.eventually(20, lambda: self.assertRegex(
            node.log.read_text(), r" config\.needs_restart .*setting=tls\.certificate"))
        self.assertEqual(self.reloads(), 1)
        self.assertNotIn("config.bad", node.log.read_text())
        self.restart(node)
        with self.pop3() as pop3:  # with the certificate that has moved
            pop3.quit()

    def test_links_to_certificates(self):
        """As clients of ACME have them: each name in a folder of its own, somewhere else."""
        node, fleet = self.boxed, self.fleet
        names, folders = fleet.state / "names", [fleet.state / "acme1", fleet.state / "acme2"]
        tls = fleet.state / "tls"
        both = "".join((tls / name).read_text() for name in ("node.pem", "node.key"))
        for path in names, *folders:
            fleet.make_dir(path, fleet.user, 0o750)
        for folder in folders:
            fleet.write(folder / "live.pem", both, fleet.user, 0o640)
        (names / "one.pem").symlink_to(folders[0] / "live.pem")

        before = dict(fleet.node_settings["frontend1"])
        self.addCleanup(fleet.node_settings.__setitem__, "frontend1", before)
        fleet.node_settings["frontend1"] = {**before, "tls.directory": names}
        self.restart(node)
        os.kill(node.pids()[0], signal.SIGHUP)
        self.eventually(20, lambda: self.assertEqual(self.reloads(), 1))
        self.assertNotIn(".bad ", node.log.read_text())

        # A folder that may be read, and in it a link to one that may not.
        fleet.make_dir(tls / "more", fleet.user, 0o750)
        (tls / "more" / "two.pem").symlink_to(folders[1] / "live.pem")
        fleet.node_settings["frontend1"] = {**before, "tls.directory": tls / "more"}
        node.prepare()
        os.kill(node.pids()[0], signal.SIGHUP)
        self.eventually(20, lambda: self.assertRegex(
            node.log.read_text(), r" config\.needs_restart .*setting=tls\.directory"))
        self.assertEqual(self.reloads(), 1)

    # --- names ------------------------------------------------------------------------------------

    def test_milters_by_name(self):
        """Looked up inside of the sandbox; one that nobody knows stops neither start nor reload."""
        node, fleet = self.fleet.delivery_nodes[0], self.fleet
        milter = socket.create_server((HOST, 0))
        self.addCleanup(milter.close)
        milter.settimeout(20)
        port = milter.getsockname()[1]
        self.addCleanup(self.restart, node)
        self.addCleanup(fleet.node_settings.pop, node.name)
        fleet.node_settings[node.name] = {
            "filter.milters": f"inet:nobody.invalid:8891 inet:localhost:{port}",
            "filter.on_failure": "accept"}
        self.restart(node)
        os.kill(node.pids()[0], signal.SIGHUP)
        self.eventually(20, lambda: self.assertIn(" worker.reloaded ", node.log.read_text()))
        with self.smtp() as smtp:
            smtp.send(b"MAIL FROM:<sender@example.org>\r\n")
            milter.accept()[0].close()  # the first one was passed over, and this one fails now
            self.assertEqual(smtp.reply()[0], 250)
        log = node.log.read_text()
        self.assertRegex(log, r" lookup\.failed .*host=nobody\.invalid")
        self.assertRegex(log, r' filter\.failed .*nobody\.invalid:8891 why="its name is not known"')


if __name__ == "__main__":
    harness.main()
