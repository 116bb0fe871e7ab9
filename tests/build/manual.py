#!/usr/bin/python3
"""
manual: the pages tell every command and option that the programs' own --help tells, and no other.

  manual.py PROGRAM PAGE [PROGRAM PAGE]...
"""

import re
import subprocess
import sys

COMMON = {"--config", "--json", "--help", "--version"}
wrong = []


def told(program, *words):
    done = subprocess.run([program, *words, "--help"], stdout=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(words)} --help: status {done.returncode}")
    return done.stdout


def first_words(text):
    """The words that the lines of a list begin with: its entry, up to two blanks."""
    return re.findall(r"^  (\S.*?)(?:  .*)?$", text, re.MULTILINE)


def options(text):
    return {entry.split()[0] for entry in first_words(text) if entry.startswith("--")}


def check(program, page):
    with open(page, encoding="utf-8") as file:
        manual = file.read()
    items = re.findall(r"^\.It Cm (.*)$", manual, re.MULTILINE)
    flags = {f"--{flag}" for flag in re.findall(r"Fl -([a-z-]+)", manual)}
    summary = told(program)
    wanted = options(summary)
    for entry in first_words(summary):
        name = " ".join(word for word in entry.split() if word.islower())
        if entry.startswith("--"):
            continue
        if not any(item == name or item.startswith(name + " ") for item in items):
            wrong.append(f"{page} has no command {name}")
        wanted |= options(told(program, *name.split()))
    wrong.extend(f"{page} has no option {option}" for option in sorted(wanted - flags))
    wrong.extend(f"{page} has an option {option} that {program} has not"
                 for option in sorted(flags - wanted - COMMON))


for pair in zip(sys.argv[1::2], sys.argv[2::2]):
    check(*pair)
sys.exit("\n".join(wrong) or 0)
