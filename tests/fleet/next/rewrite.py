#!/usr/bin/python3
"""Makes the daemons' statements those of the next version: they call what 002-delivered.sql adds.

usage: rewrite.py SOURCE OUTPUT [SOURCE OUTPUT...]
"""
import pathlib
import sys

NEXT = {
    "SELECT * FROM lookup($1)": "SELECT * FROM lookup2($1)",
    "LATERAL lookup(": "LATERAL lookup2(",
    "SELECT * FROM deliver($1,": "SELECT * FROM deliver2($1,",
    "SELECT * FROM deliver_each($1,": "SELECT * FROM deliver_each2($1,",
}


def main(*files):
    found = dict.fromkeys(NEXT, 0)
    for source, output in zip(files[::2], files[1::2]):
        text = pathlib.Path(source).read_text(encoding="utf-8")
        for statement, replacement in NEXT.items():
            found[statement] += text.count(statement)
            text = text.replace(statement, replacement)
        pathlib.Path(output).write_text(text, encoding="utf-8")
    for statement, times in found.items():
        if times != 1:
            sys.exit(f"not once in the sources: {statement}")


main(*sys.argv[1:])
