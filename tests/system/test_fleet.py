#!/usr/bin/python3 -B
"""The short form of tests/fleet/run: three scenarios on the laboratory of hosts, and the tests of its account
and of its report.

All of them are `tests/fleet/run`, which takes minutes; here nothing fails, a node dies, and the database."""

import os
import subprocess
import sys
from pathlib import Path

FLEET = Path(__file__).resolve().parents[1] / "fleet"
OWN_TESTS = "account", "report"
SCENARIOS = "calm", "deliver-kill", "db-kill"


def own_test(number, name):
    """A test of the laboratory's own; whether it went well."""
    done = subprocess.run([sys.executable, "-B", FLEET / f"lib/test_{name}.py"], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in done.stdout.splitlines() if done.returncode else []:
        print("#", line)
    print(f"{'not ' if done.returncode else ''}ok {number} - {name}", flush=True)
    return done.returncode == 0


def main():
    well = [own_test(number, name) for number, name in enumerate(OWN_TESTS, 1)]
    if os.geteuid() != 0:
        print(f"not ok {len(well) + 1} - only root can make hosts")
        print(f"1..{len(well) + 1}")
        return 1
    run = subprocess.Popen([FLEET / "run", *SCENARIOS], stdout=subprocess.PIPE, text=True)
    count = len(well)
    for line in run.stdout:
        if line.startswith(("ok ", "not ok ")):
            count += 1
            result, name = line.split(" - ", 1)
            line = f"{result.rstrip('0123456789 ')} {count} - {name}"
        elif line[0] != "#":
            line = f"# {line}"
        print(line, end="", flush=True)
    failed = run.wait() != 0
    print(f"1..{count}")
    return 0 if all(well) and not failed else 1


sys.exit(main())
