#!/usr/bin/python3 -B
"""The short form of tests/fleet/run: some scenarios on the laboratory of hosts, and the test of its account.

All of them are `tests/fleet/run`, which takes minutes; here are those that show each kind of fault once."""

import os
import subprocess
import sys
from pathlib import Path

FLEET = Path(__file__).resolve().parents[1] / "fleet"
SCENARIOS = "calm", "deliver-kill", "db-kill"


def main():
    account = subprocess.run([sys.executable, "-B", FLEET / "lib/test_account.py"], check=False,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in account.stdout.splitlines() if account.returncode else []:
        print("#", line)
    print(f"{'not ' if account.returncode else ''}ok 1 - account", flush=True)
    if os.geteuid() != 0:
        print("not ok 2 - only root can make hosts")
        print("1..2")
        return 1
    run = subprocess.Popen([FLEET / "run", *SCENARIOS], stdout=subprocess.PIPE, text=True)
    count = 1
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
    return 1 if failed or account.returncode else 0


sys.exit(main())
