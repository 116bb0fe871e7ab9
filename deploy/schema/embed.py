#!/usr/bin/python3
"""Writes the numbered migrations as one C file, so that the operator's command carries them.

usage: embed.py OUTPUT NNN-NAME.sql...

The text becomes an array of octets: C17 bounds the length of a string literal.
"""
import pathlib
import re
import sys


def octets(text):
    values = [str(b) for b in text.encode() + b"\0"]
    return ",\n".join("    " + ", ".join(values[i:i + 20]) for i in range(0, len(values), 20))


def main(output, *sources):
    migrations = []
    for source in map(pathlib.Path, sources):
        match = re.fullmatch(r"(\d{3})-([a-z0-9-]+)\.sql", source.name)
        if not match:
            sys.exit(f"{source}: a migration is named NNN-NAME.sql")
        migrations.append((int(match[1]), match[2], source.read_text(encoding="utf-8")))
    migrations.sort()
    if [number for number, _, _ in migrations] != list(range(1, len(migrations) + 1)):
        sys.exit("migrations must be numbered from 1 without a gap")

    parts = ['/* Made from deploy/schema by embed.py. */\n#include "migrations.h"\n']
    for number, _, sql in migrations:
        parts.append(f"static const char sql_{number:03}[] = {{\n{octets(sql)}\n}};\n")
    parts.append("const struct migration migrations[] = {")
    parts += [f'    {{ {number}, "{name}", sql_{number:03} }},' for number, name, _ in migrations]
    parts.append("};\n\nconst size_t migrations_count = sizeof migrations / sizeof *migrations;\n")
    pathlib.Path(output).write_text("\n".join(parts), encoding="utf-8")


main(*sys.argv[1:])
