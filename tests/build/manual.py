#!/usr/bin/python3
"""
manual: the pages tell every command, its words and options as the programs' own --help tells them,
and no other; and what guides tell an operator to type is a command with options that it takes.

  manual.py PROGRAM PAGE [PROGRAM PAGE]... -- PROGRAM GUIDE...
"""

import functools
import re
import subprocess
import sys

COMMON = {"--config", "--json", "--help", "--version"}
wrong = []


@functools.cache
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


def commands(summary):
    """The name of each command of a summary -> the words behind it."""
    found = {}
    for entry in first_words(summary):
        name, words = re.fullmatch(r"((?:[a-z]+ ?)*)(.*)", entry).groups()
        if name:
            found[name.strip()] = set(re.findall(r"\w+", words))
    return found


def check_words(page, name, words, wanted, items):
    """The lines of a page that begin with a command, taken together, have the words of its help."""
    told_words, flags = set(), set()
    for item in items:
        rest = item[len(name):]
        flags |= {f"--{flag}" for flag in re.findall(r"Fl -([a-z-]+)", rest)}
        rest = re.sub(r"Fl -[a-z-]+( Ar [A-Z]+| Cm [a-z]+( \| [a-z]+)*)?", "", rest)
        told_words |= {word for word in rest.split() if word.isalpha()}
    told_words -= {"Op", "Oo", "Oc", "Ar", "Cm", "Ns", "OPTION"}
    if told_words != words:
        wrong.append(f"{page}: {name} has the words {sorted(told_words)}, by its help"
                     f" {sorted(words)}")
    wrong.extend(f"{page}: {name} has no option {flag}" for flag in sorted(flags - wanted))


def check(program, page):
    with open(page, encoding="utf-8") as file:
        manual = file.read()
    flags = {f"--{flag}" for flag in re.findall(r"Fl -([a-z-]+)", manual)}
    synopses = re.findall(r"^\.It Cm (.*)$", manual.partition("\n.Ss JSON\n")[0], re.MULTILINE)
    summary = told(program)
    wanted = options(summary)
    for name, words in commands(summary).items():
        items = [item for item in synopses if item == name or item.startswith(name + " ")]
        takes = options(told(program, *name.split()))
        if items:
            check_words(page, name, words, takes, items)
        else:
            wrong.append(f"{page} has no command {name}")
        wanted |= takes
    wrong.extend(f"{page} has no option {option}" for option in sorted(wanted - flags))
    wrong.extend(f"{page} has an option {option} that {program} has not"
                 for option in sorted(flags - wanted - COMMON))


def typed(text):
    """What Markdown shows as typed, a command a line: blocks, and `words` in a sentence."""
    parts = re.split(r"^ *```.*$", text, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        if number % 2:
            yield from part.replace("\\\n", " ").splitlines()
        else:
            yield from (" ".join(words.split()) for words in re.findall(r"`([^`]+)`", part))


def check_guide(program, known, guide):
    with open(guide, encoding="utf-8") as file:
        text = file.read()
    for line in typed(text):
        for words in re.findall(r"(?:^|[\s;|]|/bin/)mailfleet ([a-z]+(?=[\s;]|$)[^#|;]*)", line):
            words = words.split()
            name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
            if not name:
                wrong.append(f"{guide}: there is no command mailfleet {' '.join(words)}")
                continue
            takes = options(told(program, *name.split())) | COMMON
            wrong.extend(f"{guide}: mailfleet {name} takes no {word}" for word in words
                         if word.startswith("--") and word.split("=")[0] not in takes)


programs, guides = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]
for pair in zip(programs[::2], programs[1::2]):
    check(*pair)
for path in guides[1:]:
    check_guide(guides[0], {*commands(told(guides[0])), "help"}, path)
sys.exit("\n".join(wrong) or 0)
