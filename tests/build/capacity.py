#!/usr/bin/python3
"""
capacity: the table of docs/scaling.md is what bench/capacity makes of docs/benchmarks/costs.json, and no
processor time that was measured is left out of it.

  capacity.py ROOT
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(sys.argv[1])
COSTS = ROOT / "docs/benchmarks/costs.json"


def table(costs=COSTS):
    return subprocess.run([sys.executable, "-B", ROOT / "bench/capacity", "--costs", costs],
                          stdout=subprocess.PIPE, check=True, text=True).stdout


def left_out(made):
    """The parts whose cost changes nothing."""
    known = json.loads(COSTS.read_text(encoding="utf-8"))
    for key in sorted({key for costs in known["operations"].values() for key in costs}):
        more = json.loads(COSTS.read_text(encoding="utf-8"))
        for costs in more["operations"].values():
            costs[key] = 1000 * (costs[key] + 1)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(more, file)
            file.flush()
            if table(file.name) == made:
                yield key


def main():
    made = table()
    wrong = [f"docs/benchmarks/costs.json: {key} is in no row of bench/capacity" for key in left_out(made)]
    if made not in (ROOT / "docs/scaling.md").read_text(encoding="utf-8"):
        wrong.append("docs/scaling.md is not what bench/capacity --write makes")
    print("\n".join(wrong) or "all costs are told")
    return 1 if wrong else 0


sys.exit(main())
