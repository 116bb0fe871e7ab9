#!/usr/bin/python3
"""
bench_report: what bench/lib makes of stored results: figures, ratios, targets, their pages, growth
and flame graphs.

  bench_report.py ROOT

Plots are noted, not drawn: what would be drawn is compared.
"""

import collections
import sys
import tempfile
import types
import unittest
from pathlib import Path

ROOT = Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(ROOT / "bench/lib"))
sys.dont_write_bytecode = True

drawn = {}
plots = types.ModuleType("plots")
plots.Bar = collections.namedtuple("Bar", "label parts kind low high said")
plots.Panel = collections.namedtuple("Panel", "title bars")
plots.Line = collections.namedtuple("Line", "label points")
plots.lines = lambda path, x_title, y_title, lines: drawn.__setitem__(path.name, lines)
plots.bars = lambda path, panels: drawn.__setitem__(path.name, panels)
sys.modules["plots"] = plots

import flame_graph  # noqa: E402
import growth  # noqa: E402
import report  # noqa: E402
import results as of  # noqa: E402

SYSTEMS = {
    "mailfleet": {"title": "mailfleet", "kind": "ours", "version": "1", "settings": ["synced"]},
    "slow": {"title": "Slow", "kind": "peer", "version": "2", "settings": []},
    "quick": {"title": "Quick", "kind": "peer", "version": "3", "settings": []},
    "bare": {"title": "bare", "kind": "limit", "version": None, "settings": []},
}


def target(what, figure, against, relation, value):
    return {"what": what, "figure": figure, "against": against, "relation": relation,
            "value": value}


def scenario(name, targets, shows=("cpu", "rate")):
    return {"name": name, "group": "polls", "title": f"{name}, 16 at once", "what": "A session.",
            "one": "poll", "systems": list(SYSTEMS), "shows": list(shows), "facts": {"size": 1000},
            "measured": {"run": "2026-01-02T03:04:05Z", "commit": "abc", "time": "2026-01-02T03:05:06Z",
                         "rounds": 3, "seconds": 2},
            "targets": targets}


def run(name, system, number, cpu, **more):
    """1,000 operations in 2 s."""
    return {"scenario": name, "system": system, "round": number, "operations": 1000, "errors": 0,
            "seconds": 2.0, "latency_us": {"p50": 100, "p99": 2000}, "cpu": cpu, **more}


def made():
    """Polls take 0.1, 0.9 and 0.05; the quick peer's cheapest round had an error."""
    runs = []
    for number, ours in (1, 0.09), (2, 0.1), (3, 0.3):
        runs += [run("poll", "mailfleet", number, {"front-end": ours / 2, "memcached": ours / 2}),
                 run("poll", "slow", number, {"Slow": 2.0}), run("poll", "quick", number, {"Quick": 0.9}),
                 run("poll", "bare", number, {"bare": 0.05}),
                 run("again", "mailfleet", number, {"front-end": 0.12})]
    runs.append(run("poll", "quick", 4, {"Quick": 0.001}) | {"errors": 2})
    runs.append(run("again", "slow", 1, {"Slow": 1.0}, problem="it <broke>"))
    scenarios = [scenario("poll", [target("8 times fewer", "cpu", "peers", "<=", 0.125),
                                   target("at most twice the limit", "cpu", "bare", "<=", 2),
                                   target("at most 1 ms", "p99", None, "<=", 0.001)]),
                 scenario("again", [target("the same cost", "cpu", "poll/mailfleet", "<=", 1.1),
                                    target("never measured", "cpu", "quick", "<=", 1)])]
    return {"format": of.FORMAT, "machine": {"time": "2026-01-02T03:04:05Z", "commit": "abc",
                                             "facts": [["cores", "2"]]},
            "quick": False, "systems": SYSTEMS, "scenarios": scenarios, "runs": runs}


class Numbers(unittest.TestCase):
    def test_significant(self):
        for value, said in ((0, "0"), (1234.5, "1,234"), (1.2345, "1.23"), (0.012345, "0.0123"),
                            (9.996, "10.0"), (0.9999, "1.00"), (99.95, "100")):
            self.assertEqual(report.significant(value), said)

    def test_units(self):
        for figure, value, said in (("p99", 0.0021, "2.10 ms"), ("p99", 1.5, "1.50 s"),
                                    ("p50", 42e-6, "42.0 µs"), ("session", 8192, "8.00 KiB"),
                                    ("session", 2 * 1024**2, "2.00 MiB"), ("rate", 692.4, "692/s"),
                                    ("cpu", 0.0912, "0.0912 s"), ("amplified", 1.05, "1.05")):
            self.assertEqual(report.shown(figure, value), said)


class Report(unittest.TestCase):
    def setUp(self):
        drawn.clear()

    def page(self, results):
        with tempfile.TemporaryDirectory() as folder:
            report.write(results, Path(folder))
            return (Path(folder) / "speed.md").read_text(encoding="utf-8")

    def test_medians_and_ratios(self):
        page = self.page(made())
        self.assertIn("| mailfleet | 0.100 s (0.0900 s - 0.300 s) | 500/s (500/s - 500/s) | 1.00 |",
                      page)
        self.assertIn("| Quick | 0.900 s (0.900 s - 0.900 s) | 500/s (500/s - 500/s) | 9.00 |", page)
        self.assertIn("- mailfleet: front-end 0.0500, memcached 0.0500", page)

    def test_targets(self):
        """Against the best peer, a limit, another scenario, and none."""
        page = self.page(made())
        self.assertIn("2 of 5 targets are reached", page)
        for row in (
                "| 8 times fewer | CPU for 1,000 0.100 s | Quick: 0.900 s | 0.111 (at most 0.125) | yes |",
                "| at most twice the limit | CPU for 1,000 0.100 s | bare: 0.0500 s | 2.00 (at most 2.00) | yes |",
                "| at most 1 ms | p99 latency 2.00 ms | - | at most 1.00 ms | **no** |",
                "| the same cost | CPU for 1,000 0.120 s | mailfleet (poll, 16 at once): 0.100 s | "
                "1.20 (at most 1.10) | **no** |",
                "| never measured | CPU for 1,000 0.120 s | not measured | - | not known |"):
            self.assertIn(row, page)

    def test_what_failed_is_told(self):
        page = self.page(made())
        self.assertIn("- Quick, round 4: 2 errors\n", page)
        self.assertIn("- Slow, round 1: it <broke>\n", page)
        self.assertNotIn("0.00100 s", page)

    def test_plots(self):
        self.page(made())
        cpu, rate = drawn["poll.svg"]
        self.assertEqual(cpu[0], "CPU for 1,000 (less is better)")
        self.assertEqual(rate[0], "rate (more is better)")
        ours = cpu[1][0]
        self.assertEqual(ours, ("mailfleet", [("front-end", 50.0 / 1000), ("memcached", 50.0 / 1000)],
                                "ours", 0.09, 0.3, "0.100 s"))
        self.assertEqual([bar[0] for bar in cpu[1]], ["mailfleet", "Slow", "Quick", "bare"])

    def test_same_results_same_page(self):
        self.assertEqual(self.page(made()), self.page(made()))

    def test_counted_for_one(self):
        """What a system counts beside the rest, for an operation; errors are judged by the worst round."""
        of_run = run("poll", "mailfleet", 1, {}, extra={"queries": 1100, "files": 1000, "wal_syncs": 500,
                                                        "transactions": 3000})
        for figure, value in ("queries", 1.1), ("files", 1), ("transactions", 3), ("together", 2), ("errors", 0):
            self.assertEqual(of.figure(of_run, figure, {}), value)
        results = made()
        at = of.scenario(results, "poll")
        at["targets"] = [target("no errors", "errors", None, "<=", 0)]
        self.assertTrue(of.judge(results, "poll")[0].reached)
        results["runs"].append(run("poll", "mailfleet", 4, {}) | {"errors": 2, "problem": "2 errors"})
        self.assertEqual(of.judge(results, "poll")[0][-2:], (2, False))

    def test_when_each_was_measured(self):
        self.assertIn("3 rounds, 2026-01-02, 03:05:06 UTC.\n", self.page(made()))

    def test_what_is_not_of_one_tree_is_not_written(self):
        """Nor what is too short."""
        def refused(reason, quick=False, **measured):
            results = made() | {"quick": quick}
            results["scenarios"][1]["measured"] |= measured
            with self.assertRaisesRegex(ValueError, reason):
                self.page(results)

        refused("quick", quick=True)
        refused("less than 2 rounds: again", rounds=1)
        refused(r"several commits: abc, abd", commit="abd")
        results = made()
        for at in results["scenarios"]:
            at["measured"]["commit"] = "abc+"
        self.page(results)  # one run
        results["scenarios"][1]["measured"]["run"] = "another"
        with self.assertRaisesRegex(ValueError, "changed"):
            self.page(results)
        later = made()
        later["scenarios"][1]["measured"]["run"] = "another"
        self.page(later)

    def test_terminal(self):
        text = report.text(made(), "poll")
        self.assertRegex(text, r"mailfleet +0\.100 s \(0\.0900 s - 0\.300 s\) +500/s")
        self.assertIn("      yes: 8 times fewer:", text)
        self.assertIn("       no: at most 1 ms:", text)
        self.assertIn("does not count: Quick, round 4: 2 errors", text)

    def test_what_the_host_took(self):
        results = made()
        self.assertNotIn("shared with others", self.page(results))
        for n, run_ in enumerate(results["runs"]):
            run_["stolen"] = 0.01 if n else 0.25
        results["runs"][0]["again"] = 3
        self.assertIn("the host took 1.0% in the median round and 25.0% in the worst; 3 rounds that it disturbed "
                      "were taken again", self.page(results))

    def test_nothing_measured(self):
        page = self.page(made() | {"runs": []})
        self.assertIn("0 of 5 targets are reached", page)
        self.assertIn("Not measured.", page)
        self.assertEqual(of.best_peer(made() | {"runs": []}, "poll", "cpu"), None)


SCRIPT = """\
mailfleet-front 101
\t    ffff80 read+0x10 ([kernel.kallsyms])
\t      55aa pop3_step+0x3c (/opt/mailfleet-frontend)
\t      55ab main+0x1 (/opt/mailfleet-frontend)

mailfleet-front 101
\t      7f00 memcpy (/usr/lib/libc.so.6)
\t      55aa pop3_step+0x4c (/opt/mailfleet-frontend)
\t      55ab main+0x1 (/opt/mailfleet-frontend)

mailfleet-front 101
\t      7f00 [unknown] (/usr/lib/libcrypto.so.3)
\t      55ab outer (/opt/mailfleet-frontend)
\t      55ab [unknown] ([unknown])
"""


class Flames(unittest.TestCase):
    def test_folded(self):
        stacks = flame_graph.fold(SCRIPT.splitlines())
        self.assertEqual(flame_graph.folded(stacks),
                         "mailfleet-front;[unknown];outer;[libcrypto.so.3] 1\n"
                         "mailfleet-front;main;pop3_step;memcpy 1\n"
                         "mailfleet-front;main;pop3_step;read 1\n")

    def test_whose_code(self):
        stack = next(stack for stack in flame_graph.fold(SCRIPT.splitlines()) if ("outer", "own") in stack)
        self.assertEqual([kind for _, kind in stack], ["process", "library", "own", "library"])

    def test_drawn(self):
        picture = flame_graph.svg(flame_graph.fold(SCRIPT.splitlines()), "a <poll>")
        for said in ("a &lt;poll&gt;", "<title>pop3_step: 2 samples, 66.67%</title>",
                     "<title>read: 1 samples, 33.33%</title>", "<title>all: 3 samples, 100.00%"):
            self.assertIn(said, picture)
        self.assertEqual(picture, flame_graph.svg(flame_graph.fold(SCRIPT.splitlines()), "a <poll>"))

    def test_narrow_frames_are_left_out(self):
        stacks = {(("a", "process"), ("often", "own")): 99999, (("a", "process"), ("rare", "own")): 1}
        self.assertNotIn("rare", flame_graph.svg(stacks, ""))


def scale(**curves):
    """Results of a series: name -> (expected, {place: CPU seconds of 1,000 operations})."""
    operations = [{"name": name, "title": name, "what": "Work.", "figure": "cpu", "expected": expected}
                  for name, (expected, _) in curves.items()]
    points = [{"series": "sizes", "operation": name, "at": at, "round": number, "operations": 1000,
               "errors": 0, "seconds": 4.0, "cpu": {"front-end": cpu / 2, "PostgreSQL": cpu / 2},
               "queries": 2000, "cache": 500}
              for name, (_, found) in curves.items() for at, cpu in found.items() for number in (1, 2, 3)]
    return {"format": 1, "machine": made()["machine"], "rounds": 3, "seconds": 4, "quick": False,
            "series": [{"name": "sizes", "title": "Sizes", "of": "messages", "what": "So many.",
                        "operations": operations}], "points": points, "storage": {"a message": 250.4}}


class Growth(unittest.TestCase):
    def test_words(self):
        for word, found in (
                ("flat", {0: 1.0, 100: 1.1, 1000: 1.14}), ("flat", {10: 5.0, 100: 2.0}),
                ("proportional", {100: 1.0, 1000: 10.0, 2000: 20.0}),
                ("proportional", {0: 1.0, 100: 30.0, 1000: 40.0}),
                ("worse", {100: 1.0, 1000: 2.0, 2000: 6.0}), ("worse", {1: 1.0, 2: 2.4}),
                (None, {100: 1.0}), (None, {100: 1.0, 1000: 1.0, 2000: None})):
            self.assertEqual(growth.growth(sorted(found.items())), word, found)

    def test_a_place_that_failed_is_not_good(self):
        """Whatever the places before it say."""
        results = scale(poll=("flat", {0: 1.0, 100: 1.0, 1000: 1.0}))
        series, [operation] = results["series"][0], results["series"][0]["operations"]
        for point in results["points"]:
            if point["at"] == 1000:
                point["problem"] = "it broke"
        found = growth.curve(results, series, operation)
        self.assertIsNone(growth.good(operation, found))
        self.assertEqual(growth.said(operation, found), "not measured at 1,000")
        self.assertIn("| messages | poll | CPU s for 1,000 | not measured at 1,000 | flat | not known |\n",
                      self.page(results))
        self.assertEqual(drawn["sizes.svg"], [("poll", [(0, 1.0), (100, 1.0)])])

    def test_a_machine_that_became_slower_is_no_growth(self):
        """Where a small fleet did the same in turns: its figures became larger, too."""
        for word, good, smalls in (("flat", True, {100: 1.0, 1000: 1.9}), ("worse", False, {100: 1.0, 1000: 1.0})):
            results = scale(poll=("flat", {100: 1.0, 1000: 2.0}))
            for point in results["points"]:
                point["small"] = {"operations": 1000, "errors": 0, "seconds": 4.0,
                                  "cpu": {"front-end": smalls[point["at"]]}, "queries": 1, "cache": 1}
            results["points"][-1]["small"] |= {"problem": "it broke"}  # this round does not count
            series, [operation] = results["series"][0], results["series"][0]["operations"]
            found = growth.curve(results, series, operation)
            self.assertEqual((growth.growth(found), growth.good(operation, found)), (word, good))
            page = self.page(results)
            self.assertIn(f"| {smalls[1000]:.2f} ({smalls[1000]:.2f} - {smalls[1000]:.2f}) | "
                          f"{2 / smalls[1000]:.2f} |\n", page)
            self.assertIn(f"| {word}: 1.00 at 100, {2 / smalls[1000]:.2f} at 1,000 times that of the small fleet "
                          f"beside | flat | {'yes' if good else '**no**'} |\n", page)
            self.assertEqual(drawn["sizes.svg"], [("poll", [(100, 1.0), (1000, 2.0)])])

    def page(self, results):
        with tempfile.TemporaryDirectory() as folder:
            growth.write(results, Path(folder))
            return (Path(folder) / "scale.md").read_text(encoding="utf-8")

    def test_page(self):
        results = scale(poll=("flat", {0: 1.0, 100: 2.0}), uidl=("proportional", {0: 1.0, 100: 2.0}))
        results["points"].append(results["points"][0] | {"round": 4, "cpu": {"front-end": 99.0},
                                                         "problem": "it broke"})
        page = self.page(results)
        for line in (
                "| messages | poll | CPU s for 1,000 | proportional: 2.00 times from 0 to 100 | flat | **no** |",
                "| messages | uidl | CPU s for 1,000 | proportional: 2.00 times from 0 to 100 | proportional | yes |",
                "CPU s for 1,000: proportional: 2.00 times from 0 to 100. **It must be flat.**",
                "| 100 | 2.00 (2.00 - 2.00) | 1.00 | 0 | 1.00 | 0 | 2.00 | 0.500 | 250/s |",
                "- 0, round 4: it broke", "- a message: 250"):
            self.assertIn(line + "\n", page)
        self.assertEqual(drawn["sizes.svg"][0], ("poll", [(0, 1.0), (100, 2.0)]))
        self.assertEqual(page, self.page(results))


if __name__ == "__main__":
    unittest.main()
