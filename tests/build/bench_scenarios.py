#!/usr/bin/python3
"""
bench_scenarios: what bench/run is told to do makes sense, and what fails is told: nothing is measured here.

  bench_scenarios.py ROOT
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import poplib
import sys
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(sys.argv.pop(1)).resolve()
sys.path[:0] = [str(ROOT / "deploy/lib"), str(ROOT / "bench/lib")]
sys.dont_write_bytecode = True

import measuring  # noqa: E402
import results as of  # noqa: E402
import scenarios  # noqa: E402
import systems  # noqa: E402

EPHEMERAL = 32_768  # connections may begin from here on
ALL = scenarios.SCENARIOS
BY_NAME = {scenario.name: scenario for scenario in ALL}


class Scenarios(unittest.TestCase):
    def test_names_are_of_one_scenario(self):
        self.assertEqual(len(BY_NAME), len(ALL))

    def test_systems_are_known(self):
        for scenario in ALL:
            self.assertFalse(set(scenario.systems) - set(systems.SYSTEMS), scenario.name)
            self.assertEqual(len(set(scenario.systems)), len(scenario.systems), scenario.name)

    def test_every_system_is_used(self):
        self.assertFalse(set(systems.SYSTEMS) - {name for s in ALL for name in s.systems})

    def test_figures_are_known(self):
        for scenario in ALL:
            wanted = [*scenario.shows, *(target["figure"] for target in scenario.targets)]
            self.assertFalse(set(wanted) - set(of.FIGURES), scenario.name)

    def test_targets_compare_with_what_is_measured(self):
        for scenario in ALL:
            for target in scenario.targets:
                with self.subTest(scenario.name, what=target["what"]):
                    self.check_other(scenario, target["against"])
                    self.assertIn(target["relation"], ("<=", ">="))
                    self.assertIn(of.OURS, scenario.systems)

    def check_other(self, scenario, against):
        if against == "peers":
            kinds = {systems.SYSTEMS[name].kind for name in scenario.systems}
            self.assertIn("peer", kinds)
        elif against is not None:
            at, _, system = against.rpartition("/")
            self.assertIn(system, BY_NAME[at].systems if at else scenario.systems)

    def test_better_is_the_side_that_a_target_asks_for(self):
        for scenario in ALL:
            for target in scenario.targets:
                with self.subTest(scenario.name, what=target["what"]):
                    less = of.FIGURES[target["figure"]][2]
                    self.assertEqual(target["relation"], "<=" if less else ">=")

    def test_comparisons_come_after_what_they_are_made_with(self):
        names = [scenario.name for scenario in ALL]
        for scenario in ALL:
            for target in scenario.targets:
                at = (target["against"] or "").rpartition("/")[0]
                if at:
                    self.assertLess(names.index(at), names.index(scenario.name))

    def test_users_are_there_and_mailboxes_known_to_be_empty_stay_so(self):
        empty, filled = set(), set()
        for scenario in ALL:
            first, count = scenario.users
            users = set(range(first, first + count))
            self.assertLessEqual(first + count, scenarios.USERS, scenario.name)
            if not isinstance(scenario, scenarios.Limit):
                stays = isinstance(scenario, (scenarios.Idle, scenarios.Storm)) or (
                    isinstance(scenario, scenarios.Poll) and not scenario.facts["messages"])
                (empty if stays else filled).update(users)
        self.assertFalse(empty & filled)

    def test_mailboxes_of_a_known_content_are_of_one_scenario(self):
        seen = {}
        for scenario in ALL:
            if isinstance(scenario, scenarios.Poll) and scenario.facts["messages"]:
                first, count = scenario.users
                for user in range(first, first + count):
                    self.assertEqual(seen.setdefault(user, scenario.name), scenario.name)

    def test_sessions_have_a_mailbox_each(self):
        for scenario in ALL:
            if isinstance(scenario, (scenarios.Pop3, scenarios.Idle)):
                self.assertLessEqual(scenario.at_once(), scenario.users[1], scenario.name)


class Systems(unittest.TestCase):
    def test_no_two_have_a_port(self):
        taken = {}
        for n, name in enumerate(systems.SYSTEMS):
            system = systems.make(name, Path("/nonexistent"), systems.port(32_000, n), None, Path("/none"))
            for port in {system.base_port, system.pop3, system.pop3s, system.lmtp, system.smtp} - {None}:
                self.assertEqual(taken.setdefault(port, name), name)
                self.assertLess(port, EPHEMERAL)

    def test_a_fleet_has_room(self):
        first = systems.port(32_000, list(systems.SYSTEMS).index(of.OURS))
        others = [systems.port(32_000, n) for n, name in enumerate(systems.SYSTEMS) if name != of.OURS]
        self.assertFalse([port for port in others if first <= port < first + 100])


def bench_run():
    """The program, as a module."""
    loader = importlib.machinery.SourceFileLoader("bench_run", str(ROOT / "bench/run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


class Failures(unittest.TestCase):
    def test_what_a_system_refuses_ends_its_scenario_alone(self):
        run = bench_run().Run.__new__(bench_run().Run)
        run.systems, failed = {"peer": mock.Mock(title="a peer")}, {}
        refuses = mock.Mock(side_effect=poplib.error_proto("-ERR not now"))
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertIsNone(run.attempt(failed, "peer", refuses))
        self.assertEqual(failed, {"peer": "-ERR not now"})

    def rounds(self, *shares, quick=False):
        """The run that counts when the host takes these shares; how often mailboxes were filled for it."""
        module = bench_run()
        run = module.Run.__new__(module.Run)
        run.options, run.bench, run.results = mock.Mock(quick=quick), None, {"runs": []}
        run.systems, run.save = {"peer": mock.Mock(title="a peer")}, lambda: None
        scenario = mock.Mock(run=lambda *_: {"operations": 1})
        scenario.name = "poll"
        stolen = mock.Mock(side_effect=[mock.Mock(share=lambda share=share: share) for share in shares])
        with mock.patch.object(module.machine, "Stolen", stolen), \
                mock.patch.object(module.time, "sleep"), contextlib.redirect_stderr(io.StringIO()):
            run.round(scenario, "peer", 1, {})
        return run.results["runs"], scenario.fill.call_count

    def test_what_the_host_disturbs_is_taken_again(self):
        calm = {"scenario": "poll", "system": "peer", "round": 1, "operations": 1, "stolen": 0.01}
        self.assertEqual(self.rounds(0.01), ([calm], 0))
        self.assertEqual(self.rounds(0.5, 0.2, 0.01), ([calm | {"again": 2}], 2))
        self.assertEqual(self.rounds(0.5, 0.2, 0.3, 0.4), ([calm | {"stolen": 0.4, "again": 3}], 3))
        self.assertEqual(self.rounds(0.5, quick=True), ([calm | {"stolen": 0.5}], 0))

    def test_sessions_that_never_stand(self):
        bench = measuring.Bench.__new__(measuring.Bench)
        with mock.patch.object(bench, "started", return_value={}), \
                mock.patch.object(measuring, "READY_LIMIT", 0.1), \
                self.assertRaisesRegex(measuring.LoadError, "sleep 9: not ready"):
            bench.held(mock.Mock(), ["sleep", 9])


if __name__ == "__main__":
    unittest.main()
