#!/usr/bin/python3
"""
format: every C file is as clang-format leaves it.

  format.py SOURCE_ROOT

Tables whose columns are worth more than the rule stand between clang-format off and on.
"""

import pathlib
import subprocess
import sys

TOPS = ("common", "frontend", "deliver", "admin", "bench", "docs", "tests", "deploy")

root = pathlib.Path(sys.argv[1])
paths = sorted(p for top in TOPS for p in (root / top).rglob("*.[ch]"))
if not paths:
    sys.exit("no C files found")
sys.exit(subprocess.run(["clang-format", "--dry-run", "-Werror"] + paths, check=False).returncode)
