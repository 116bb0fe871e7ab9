"""The command line of tests/fleet/run: builds the laboratory once, runs scenarios, takes it down.

Each scenario is one line of TAP, with what users saw and the account above it. The laboratory is
taken down whatever happens, also on ^C; --keep leaves it there to look at until the next run. Logs
are kept when something has failed.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

LIB = Path(__file__).resolve().parent
ROOT = LIB.parents[2]
sys.path[:0] = [str(LIB), str(ROOT / "deploy/lib"), str(ROOT / "tests/system")]

import scenario  # noqa: E402  pylint: disable=wrong-import-position
from account import Ledger  # noqa: E402  pylint: disable=wrong-import-position
from hosts import Network, remove_left_overs  # noqa: E402  pylint: disable=wrong-import-position
from lab import Lab, remove_states  # noqa: E402  pylint: disable=wrong-import-position
from report import Result, first_line, unexpected, write_table  # noqa: E402  pylint: disable=C0413
from town import Day, Town  # noqa: E402  pylint: disable=wrong-import-position

STATES = "/var/tmp"
CRASH = re.compile(r"ERROR: \w+Sanitizer|runtime error:|LeakSanitizer|check failed|Assertion")
RELIABILITY = ROOT / "docs/reliability.md"
ROUND = 25 * 60  # seconds that one round may take at most


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="tests/fleet/run", allow_abbrev=False,
        description="Faults in a whole fleet, each part of it on a host of its own, and an account "
                    "of every message.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="all of it N times")
    parser.add_argument("--keep", action="store_true",
                        help="leave the laboratory there, until the next run")
    parser.add_argument("--write", action="store_true",
                        help="the table in docs/reliability.md, if all goes well")
    parser.add_argument("--pgbouncer", action="store_true",
                        help="PgBouncer in front of PostgreSQL")
    return parser.parse_args(argv)


def run_scenario(kind, lab, town):
    result = Result(kind)
    began = time.monotonic()
    day = Day(town)
    one = kind(lab, day)
    town.ledger.note("scenario", name=kind.name)
    town.ledger.late_allowed = kind.late_allowed
    try:
        lab.recover()
        day.begin()
        try:
            one.run(lab)
        finally:
            lab.recover()
        day.end()
        town.ledger.late_allowed = False
    except Exception as error:  # pylint: disable=broad-except
        result.wrong.append(f"{type(error).__name__}: {error}")
        if not isinstance(error, scenario.Failed):
            show(traceback.format_exc().splitlines())
        day.ended = time.monotonic()
        day.abandon()
    result.wrong += [f"{violation.kind}: {violation.text}" for violation in day.violations()]
    result.wrong += unexpected(kind, day.answers(), os.getloadavg()[0] > scenario.BUSY)
    result.seconds = time.monotonic() - began
    result.measured, result.totals = one.measured, day.totals()
    if hasattr(day, "began"):
        result.gaps = {what: day.gap(what) for what in ("delivery", "poll", "quiet poll")}
    tell(result, day)
    return result


def tell(result, day):
    show([f"{who}: " + ", ".join(f"{answer} {n}" for answer, n in sorted(answers.items()))
          for who, answers in day.answers().items()])
    show(["longest time without: "
          + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in result.gaps.items()),
          "measured: " + ", ".join(f"{what} {seconds:.1f} s"
                                   for what, seconds in result.measured.items()),
          "account: " + ", ".join(f"{what} {result.totals[what]}" for what in
                                  ("sent", "accepted", "listed", "read", "deleted", "repeated"))
          + f", missing {result.count('missing')}, twice {result.count('twice')}"])
    show(f"! {line}" for line in result.wrong[:20])


def show(lines):
    for line in lines:
        print(f"    {line}", flush=True)


def crashes(lab):
    return [f"{log.name}: {line}" for log in sorted((lab.state / "log").glob("*/*.log"))
            for line in log.read_text(errors="replace").splitlines() if CRASH.search(line)]


def keep_logs(lab):
    folder = Path(os.environ.get("MAILFLEET_TEST_LOGS", f"{lab.build}/fleet-logs"))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(lab.state / "log", folder)
    for name in "ledger.jsonl", "config":
        if (lab.state / name).is_dir():
            shutil.copytree(lab.state / name, folder / name)
        elif (lab.state / name).exists():
            shutil.copy(lab.state / name, folder)
    print(f"# the logs and the ledger: {folder}", flush=True)


def run_all(kinds, options, lab):
    """passed, failed, results"""
    began = time.monotonic()
    lab.up()
    town = Town(lab, Ledger(lab.state / "ledger.jsonl"))
    town.settle_in()
    print(f"# the laboratory is there ({time.monotonic() - began:.1f} s)", flush=True)
    results = []
    for n, kind in enumerate(kinds * options.times, 1):
        print(f"# {kind.name}: {first_line(kind)}", flush=True)
        result = run_scenario(kind, lab, town)
        results.append(result)
        print(f"{'not ok' if result.wrong else 'ok'} {n} - {kind.name} ({result.seconds:.1f} s)",
              flush=True)
    town.mta_log.stopping.set()
    return results


def processors():
    return len(os.sched_getaffinity(0))


def note(options, seconds):
    """What the table was made by; none, unless it was made by all scenarios."""
    if options.scenarios:
        return ""
    times = "once" if options.times == 1 else f"{options.times} times in a row"
    return (f"All of them were played {times}, on {processors()} processors, in {seconds / 60:.0f} minutes a "
            "round; what is told is the worst.")


def main(argv):
    options, kinds = parse(argv), scenario.known()
    if options.list:
        for name, kind in kinds.items():
            print(f"{name:24} {first_line(kind)}")
        return 0
    if unknown := set(options.scenarios) - set(kinds):
        print(f"there is no scenario {', '.join(unknown)}; see --list", file=sys.stderr)
        return 64
    wanted = [kinds[name] for name in options.scenarios or kinds]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when a script began it
    remove_states(remove_left_overs(), STATES)
    began = time.monotonic()
    print(f"# {processors()} processors, load average {os.getloadavg()[0]:.1f}", flush=True)
    state, results, wrong = Path(STATES) / f"mailfleet-lab-{os.getpid()}", [], []
    with contextlib.ExitStack() as stack:
        network = Network()
        if not options.keep:
            stack.callback(lambda: remove_states({str(os.getpid())}, STATES))
            stack.enter_context(network)
        else:
            network.__enter__()
        lab = Lab(network, state, os.environ["MAILFLEET_BUILD"], pgbouncer=options.pgbouncer,
                  env={name: value for name, value in os.environ.items()
                       if name.endswith("SAN_OPTIONS")})
        try:
            results = run_all(wanted, options, lab)
        except Exception:  # pylint: disable=broad-except
            wrong = ["the laboratory itself failed"]
            traceback.print_exc(file=sys.stdout)
        if not options.keep:
            wrong += lab.down()
        wrong += crashes(lab)
        if wrong or any(result.wrong for result in results):
            keep_logs(lab)
    seconds = (time.monotonic() - began) / options.times
    print(f"# {seconds * options.times:.0f} s in all, {seconds:.0f} s a round")
    if seconds > ROUND:
        wrong.append(f"a round takes {seconds:.0f} s: more than {ROUND} s")
    for line in wrong:
        print(f"not ok - {line}")
    if options.keep:
        print(f"# it is still there: ip netns exec {network.prefix}-client1 bash, {state}")
    failed = sum(bool(result.wrong) for result in results) + len(wrong)
    if options.write and not failed:
        write_table(RELIABILITY, results, list(kinds), note(options, seconds))
    elif options.write:
        print(f"# {RELIABILITY} stays as it is")
    print(f"{len(results) - sum(bool(result.wrong) for result in results)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
