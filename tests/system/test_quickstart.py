#!/usr/bin/python3 -B
"""deploy/quickstart as its user meets it: demonstration, status, up again with all data, down."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import harness

# What tools rely on: the names in each object.
STATUS = {"pop3": {"name", "host", "port", "tls_port", "proxy_port", "health"},
          "smtp": {"name", "host", "port", "proxy_port", "health"},
          "lmtp": {"name", "host", "port"},
          "accounts": {"address", "password"},
          "volumes": {"id", "url"}}


class Quickstart(unittest.TestCase):
    time_limit = 240

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.port = harness.free_base_port()
        self.addCleanup(self.run_it, "down")

    def run_it(self, *words, succeeds=True):
        done = subprocess.run(
            [harness.ROOT / "deploy/quickstart", *words, "--state", self.folder / "fleet",
             "--base-port", str(self.port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode == 0, succeeds, done.stdout + done.stderr)
        return done.stdout if succeeds else done.stderr

    def status(self):
        return json.loads(self.run_it("status", "--json"))

    def pids(self):
        return {pid for pids in self.status()["pids"].values() for pid in pids}

    def messages(self, status):
        """How many messages the first account has, by the operator's command."""
        return len(json.loads(self.run_admin(status, "messages",
                                             status["accounts"][0]["address"], "--json")))

    def run_admin(self, status, *words):
        return subprocess.run([status["admin"], "--config", status["config"], *words], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def test_a_fleet_from_nothing_to_nothing(self):
        shown = self.run_it()
        self.assertEqual(shown.count("byte for byte"), 4, shown)
        status = self.status()
        for kind, names in STATUS.items():
            self.assertTrue(status[kind])
            for described in status[kind]:
                self.assertEqual(set(described), names)
        self.assertEqual({"pop3": {"host", "port", "tls_port"}, "smtp": {"host", "port"}},
                         {kind: set(port) for kind, port in status["balancer"].items()})
        self.assertTrue(all(status["pids"].values()))
        self.assertTrue(Path(status["ca"]).exists())
        self.assertEqual(self.messages(status), 2)

        self.run_it("up")
        self.assertEqual(self.status()["pids"], status["pids"] | {
            "postgres": self.status()["pids"]["postgres"]})  # its sessions come and go

        self.run_it("kill", "frontend1")
        self.assertEqual(self.status()["pids"]["frontend1"], [])
        self.assertIn("frontend1  down", self.run_it("status"))
        self.run_it("start", "frontend1")
        self.assertIn("frontend1  ready", self.run_it("status"))

        pids = self.pids()
        self.run_it("down")
        self.assertEqual([pid for pid in pids if Path(f"/proc/{pid}").exists()
                          and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()], [])
        self.assertEqual(self.pids(), set())
        self.run_it("down")

        self.run_it("up")
        again = self.status()
        self.assertEqual(self.messages(again), 2)
        self.assertEqual(again["accounts"], status["accounts"])
        self.assertIn("was made without --nas", self.run_it("--nas", succeeds=False))

    def test_a_fleet_with_a_nas(self):
        shown = self.run_it("--nas")
        self.assertEqual(shown.count("byte for byte"), 4, shown)
        status = self.status()
        self.assertEqual([set(volume) for volume in status["volumes"]], [STATUS["volumes"]] * 2)
        for volume in status["volumes"]:
            self.assertRegex(volume["url"], r"^nfs://127\.0\.0\.1:\d+/.*/nas\d\?mountport=\d+&")
        self.assertEqual(self.messages(status), 2)
        self.assertEqual(len(self.files("nas1")) + len(self.files("nas2")), 2)
        self.assertFalse((self.folder / "fleet/spool").exists())

        self.run_it("kill", "nas")
        self.assertIn("nas        down", self.run_it("status"))
        self.run_it("down")
        self.assertEqual(self.pids(), set())

        again = self.run_it()
        self.assertEqual(again.count("byte for byte"), 4, again)
        self.assertIn("nas        ready", self.run_it("status", "--nas"))
        self.assertEqual(self.messages(self.status()), 4)
        self.assertEqual(self.status()["volumes"], status["volumes"])

    def files(self, folder):
        """The message files below a folder of the fleet."""
        return [path for path in (self.folder / "fleet" / folder).rglob("*")
                if harness.MESSAGE_FILE.fullmatch(path.name)]

    def test_mistakes_are_told(self):
        self.assertIn("there is no fleet", self.run_it("status", succeeds=False))
        self.assertIn("invalid choice", self.run_it("sideways", succeeds=False))
        self.assertFalse((self.folder / "fleet").exists())

    def test_a_closed_folder_is_told_to_root(self):
        """All parts of another user's fleet run as that user."""
        root = os.geteuid() == 0
        self.folder.chmod(0o700)
        shown = self.run_it("up", succeeds=not root)
        self.assertEqual("is closed to the users" in shown, root)


if __name__ == "__main__":
    harness.main()
