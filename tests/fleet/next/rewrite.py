#!/usr/bin/python3
"""Makes the daemons' statements those of the next version: they call what 002-delivered.sql adds.

usage: rewrite.py INDEX.C OUTPUT
"""
import pathlib
import sys

NEXT = {
    "SELECT * FROM lookup($1)": "SELECT * FROM lookup2($1)",
    "SELECT * FROM deliver($1,": "SELECT * FROM deliver2($1,",
}


def main(source, output):
    text = pathlib.Path(source).read_text(encoding="utf-8")
    for statement, replacement in NEXT.items():
        if text.count(statement) != 1:
            sys.exit(f"{source}: not once there: {statement}")
        text = text.replace(statement, replacement)
    pathlib.Path(output).write_text(text, encoding="utf-8")


main(*sys.argv[1:])
