#!/usr/bin/python3 -B
"""bench/run and bench/scale measure, tell what failed, and leave nothing behind, however they end.

Dovecot and the bare servers are enough for most of that; a fleet of its own is there for what is counted of
mailfleet alone. Figures that are no counts are not looked at.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/lib"))
sys.path.insert(0, str(ROOT / "deploy/lib"))

import memcached  # noqa: E402
from fleet import PORTS  # noqa: E402
from groups import PREFIX, hierarchy  # noqa: E402
from harness import free_base_port, main  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402
from systems import SYSTEMS, port  # noqa: E402

LIMIT = 120
HUNDREDS = -(-port(0, len(SYSTEMS)) // PORTS)  # of ports, for all of them
POLL = 6  # commands to memcached


def place(name):
    return list(SYSTEMS).index(name)


class Bench(unittest.TestCase):
    time_limit = 240

    def setUp(self):
        self.state = Path(tempfile.mkdtemp(prefix="mailfleet-test-bench-"))
        self.state.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.state, ignore_errors=True)
        self.base = free_base_port(HUNDREDS)
        self.groups = self.empty_groups()

    def begin(self, *words):
        return subprocess.Popen(
            [ROOT / "bench/run", "--quick", "--seconds", "1", "--state", self.state, "--base-port",
             str(self.base), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, run):
        """(status, what it said)"""
        said, complained = run.communicate(timeout=LIMIT)
        return run.returncode, said + complained

    def results(self):
        return json.loads((self.state / "results.json").read_text())

    def empty_groups(self):
        """Those that nobody is in: of a run that has ended."""
        return {path for path in hierarchy()[0].glob(PREFIX + "*") if not (path / "cgroup.procs").read_text()}

    def no_group_is_left(self):
        """Those of another run, which may be going on, are empty for a moment at most."""
        return not self.empty_groups() - self.groups

    def ours(self):
        """Processes that the run has started: each has the folder in its arguments, or a parent that has."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_text(errors="replace")
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            found[int(path.name)] = words, parent
        here = {pid for pid, (words, _) in found.items()
                if str(self.state) in words and pid != os.getpid()}
        while more := {pid for pid, (_, parent) in found.items() if parent in here} - here:
            here |= more
        return here

    def wait_for(self, what):
        deadline = time.monotonic() + LIMIT
        while not what():
            if time.monotonic() > deadline:
                self.fail("it does not come to that")
            time.sleep(0.05)

    def wait_working(self, run):
        """Dovecot answers, so that something could be left."""
        def answers():
            self.assertIsNone(run.poll(), "it has ended")
            try:
                with socket.create_connection(
                        ("127.0.0.1", port(self.base, place("dovecot-sdbox"))), timeout=5) as s:
                    return s.recv(3) == b"+OK"
            except OSError:
                return False
        self.wait_for(answers)
        self.assertGreater(len(self.ours()), 3)

    def test_measures(self):
        status, said = self.end(self.begin("--systems", "dovecot-sdbox,bare,accept", "poll",
                                           "limit-accept"))
        self.assertEqual(status, 0, said)
        runs = {run["system"]: run for run in self.results()["runs"]}
        self.assertEqual(set(runs), {"dovecot-sdbox", "bare", "accept"})
        for name, run in runs.items():
            with self.subTest(name):
                self.assertGreater(run["operations"], 0)
                self.assertEqual(run["errors"], 0)
                self.assertGreater(sum(run["cpu"].values()), 0)
                self.assertNotIn("problem", run)
        self.assertEqual(sorted(path.name for path in self.state.iterdir()), ["results.json"])
        self.assertFalse(self.ours())
        self.wait_for(self.no_group_is_left)

    def test_counts_what_is_ours(self):
        """A poll's cache commands are those of a client that the guard against guesses counts: its address,
        the guard's two, lease and list, and the lease's return. To many it is one file, one transaction."""
        status, said = self.end(self.begin("--systems", "mailfleet", "poll", "many-100"))
        self.assertEqual(status, 0, said)
        runs = {run["scenario"]: run for run in self.results()["runs"]}
        parts = {"front-end", "delivery node", "PostgreSQL", "memcached"}
        for name, run in runs.items():
            with self.subTest(name):
                self.assertEqual((run["errors"], set(run["cpu"])), (0, parts))
        self.assertAlmostEqual(runs["poll"]["extra"]["cache"] / runs["poll"]["operations"], POLL, delta=0.5)
        many = runs["many-100"]
        self.assertGreater(many["operations"], 0)
        self.assertEqual(many["extra"], {"files": many["operations"], "transactions": many["operations"]})
        self.assertGreater(many["written"], many["operations"] * 2 * 1024 * 1024)

    def test_scale(self):
        run = subprocess.Popen([ROOT / "bench/scale", "--quick", "--state", self.state, "--port", str(self.base),
                                "recipients"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, said = self.end(run)
        points = json.loads((self.state / "scale.json").read_text())["points"]
        self.assertEqual([point["at"] for point in points], [1, 10], said)
        for point in points:
            self.assertEqual((point["errors"], point.get("problem")), (0, None))
            self.assertGreater(min(point["operations"], point["queries"], point["cache"],
                                   point["cpu"]["delivery node"]), 0)
        self.assertEqual([path.name for path in self.state.iterdir()], ["scale.json"])

    def test_cache_commands(self):
        """Each command of mailfleet's to memcached counts once, whatever comes of it."""
        number = self.base
        server = subprocess.Popen(["/usr/bin/memcached", "-u", "memcache", "-l", "127.0.0.1", "-p", str(number),
                                   "-U", "0"])
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)

        def up():
            with contextlib.suppress(OSError):
                return memcached.commands("127.0.0.1", number)
            return None

        self.wait_for(up)
        said = (b"mg a c v", b"ms a 2 c T60\r\nxx", b"mg a c v", b"ms a 2 c T60 ME\r\nxx",
                b"ms a 2 c T60 C999\r\nxx", b"md a C999", b"md a", b"md a", b"ms n 1 c T60\r\n1", b"ma n v",
                b"ma n v MD", b"ma absent v MD", b"mn")
        with socket.create_connection(("127.0.0.1", number), timeout=5) as s:
            s.sendall(b"".join(line + b"\r\n" for line in said))
            answers = b""
            while not answers.endswith(b"MN\r\n"):
                answers += s.recv(65536)
        self.assertEqual(memcached.commands("127.0.0.1", number), (2, len(said) - 3))

    def test_adds_to_what_was_measured(self):
        self.end(self.begin("--systems", "accept", "limit-accept"))
        [before] = self.results()["runs"]
        status, said = self.end(self.begin("--systems", "bare", "--add", "poll"))
        self.assertEqual(status, 0, said)
        after = self.results()
        self.assertEqual([scenario["name"] for scenario in after["scenarios"]], ["poll", "limit-accept"])
        self.assertIn(before, after["runs"])
        self.assertEqual({run["system"] for run in after["runs"]}, {"bare", "accept"})
        self.assertEqual(set(after["systems"]), {"bare", "accept"})

    def test_what_is_not_of_one_tree_is_not_written(self):
        """--write refuses it before anything is measured."""
        for words in ["poll"], ["--rounds", "1"], ["--systems", "accept"], ["--quick"]:
            status, said = self.end(self.write("--rounds", "2", *words))
            self.assertEqual(status, 2, said)
        self.end(self.begin("--systems", "accept", "limit-accept"))
        results = self.results() | {"quick": False}
        measured = results["scenarios"][0]["measured"] | {"rounds": 2, "commit": "0000000"}
        results["scenarios"] = [scenario.described() | {"measured": measured} for scenario in SCENARIOS]
        results["runs"] = [results["runs"][0] | {"scenario": scenario.name, "round": 2}
                           for scenario in SCENARIOS]
        self.refuse(results, "several commits: 0000000")
        results["scenarios"][0]["measured"] = measured | {"rounds": 1}
        results["runs"][0]["round"] = 1
        self.refuse(results, "less than 2 rounds: poll")
        results["runs"][0]["round"] = 0  # it was ended before the last one
        self.refuse(results, "not measured: poll")

    def write(self, *words):
        return subprocess.Popen([ROOT / "bench/run", "--state", self.state, "--write", *words],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def refuse(self, results, reason):
        text = json.dumps(results)
        (self.state / "results.json").write_text(text)
        status, said = self.end(self.write("--add", "--rounds", "2", "limit-accept"))
        self.assertEqual(status, 1, said)
        self.assertIn(reason, said)
        self.assertEqual((self.state / "results.json").read_text(), text)

    def test_what_does_not_start_is_told(self):
        taken = port(self.base, place("bare"))
        with socket.create_server(("127.0.0.1", taken)):
            status, said = self.end(self.begin("--systems", "bare,accept", "poll", "limit-accept"))
        self.assertEqual(status, 1, said)
        runs = {run["system"]: run for run in self.results()["runs"]}
        self.assertIn("did not start", runs["bare"]["problem"])
        self.assertNotIn("problem", runs["accept"])

    def test_interrupted(self):
        run = self.begin("--systems", "dovecot-sdbox,bare", "--seconds", "60", "poll")
        self.wait_working(run)
        run.terminate()
        status, said = self.end(run)
        self.assertEqual(status, 130, said)
        self.assertFalse(self.ours())
        self.assertFalse(list(self.state.glob("bench-*")))
        self.wait_for(self.no_group_is_left)

    def test_who_closes_a_group_may_be_in_it(self):
        """An interrupt may come between any two steps, also of leaving it."""
        done = subprocess.run(
            [sys.executable, "-B", "-c", "import sys; from groups import Group; g = Group('own');"
             "(g.path / g.entrance).write_text('0'); g.close(); sys.exit(g.path.exists())"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}/bench/lib:{ROOT}/deploy/lib"}, check=False)
        self.assertEqual(done.returncode, 0)

    def test_killed(self):
        run = self.begin("--systems", "dovecot-sdbox,bare", "--seconds", "60", "poll")
        self.wait_working(run)
        run.send_signal(signal.SIGKILL)
        self.end(run)
        self.wait_for(lambda: not self.ours())
        # The folders of its groups are the next run's to remove.
        self.end(self.begin("--systems", "accept", "limit-accept"))
        self.wait_for(self.no_group_is_left)


if __name__ == "__main__":
    main()
