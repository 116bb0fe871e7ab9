#!/usr/bin/python3
"""Writes the numbered migrations as one C file, so that the operator's command carries them.

usage: embed.py OUTPUT SCRIPT...
       embed.py --newest SCRIPT...      prints the number of the newest

A migration is NNN-NAME.sql, which programs of the version before go on working with;
NNN-NAME.contract.sql takes away what only those use, NNN-NAME.revert.sql takes the first one back.
CONTRIBUTING.md has the rules for writing one; what of them a program can tell is refused here.

A script is one transaction. One that begins with the line `-- one by one` is not: each of its
statements, which end where a line ends with a semicolon, is run by itself, and again from the first
when one has failed.

The text becomes an array of octets: C17 bounds the length of a string literal.
"""
import collections
import pathlib
import re
import sys

NAME = re.compile(r"(\d{3})-([a-z0-9-]+)(?:\.(contract|revert))?\.sql")
ONE_BY_ONE = "-- one by one\n"
COMMENT = re.compile(r"--[^\n]*")
TRANSACTION = re.compile(r"^\s*(BEGIN|START\s+TRANSACTION|COMMIT|ROLLBACK)\s*;", re.I | re.M)
UNLESS = r"(?:IF\s+NOT\s+EXISTS\s+)?"
NEW_TABLE = re.compile(rf"\bCREATE\s+TABLE\s+{UNLESS}(\w+)", re.I)
NEW_INDEX = re.compile(rf"\bCREATE\s+(?:UNIQUE\s+)?INDEX\s+(?!CONCURRENTLY){UNLESS}(?:\w+\s+)?"
                       r"ON\s+(?:ONLY\s+)?(\w+)", re.I)

Migration = collections.namedtuple("Migration", "number name scripts")  # kind -> its text


def refuse(why):
    sys.exit(f"embed.py: {why}")


def check(source, first, text):
    """Whether a script holds to the rules; first: no program has run on what was before it."""
    sql = COMMENT.sub("", text)
    alone = text.startswith(ONE_BY_ONE)
    if alone != bool(re.search(r"\bCONCURRENTLY\b", sql, re.I)):
        refuse(f"{source}: `{ONE_BY_ONE.strip()}` is for scripts with CONCURRENTLY, and those need it")
    if alone and not sql.rstrip().endswith(";"):
        refuse(f"{source}: the last statement does not end with a semicolon")
    if not alone and TRANSACTION.search(sql):
        refuse(f"{source}: a script is run in a transaction, and neither begins nor ends one")
    if not first and (on := set(NEW_INDEX.findall(sql)) - set(NEW_TABLE.findall(sql))):
        refuse(f"{source}: an index on {', '.join(sorted(on))} stops all writing there until it is "
               "made: CREATE INDEX CONCURRENTLY")


def read(sources):
    """The migrations, by their number."""
    found = {}
    for source in map(pathlib.Path, sources):
        if not (match := NAME.fullmatch(source.name)):
            refuse(f"{source}: a migration is NNN-NAME.sql, .contract.sql or .revert.sql")
        number, name, kind = int(match[1]), match[2], match[3] or "expand"
        migration = found.setdefault(number, Migration(number, name, {}))
        if migration.name != name or kind in migration.scripts:
            refuse(f"{source}: {number:03} is {migration.name} already")
        migration.scripts[kind] = source.read_text(encoding="utf-8")
        check(source, number == 1, migration.scripts[kind])
    if sorted(found) != list(range(1, len(found) + 1)):
        refuse("migrations must be numbered from 1 without a gap")
    for number, migration in found.items():
        if "expand" not in migration.scripts:
            refuse(f"{number:03}-{migration.name}.sql is missing")
        if number == 1 and len(migration.scripts) > 1:
            refuse("before 001 there is nothing to contract or to go back to")
    return [found[number] for number in sorted(found)]


def statements(text):
    if not text.startswith(ONE_BY_ONE):
        return [text]
    parts = re.split(r";[ \t]*(?:--[^\n]*)?(?:\n|$)", text.removeprefix(ONE_BY_ONE))
    return [part.strip() for part in parts if COMMENT.sub("", part).strip()]


def octets(texts):
    values = [str(b) for b in b"".join(text.encode() + b"\0" for text in texts) + b"\0"]
    return ",\n".join("    " + ", ".join(values[i:i + 20]) for i in range(0, len(values), 20))


def write(output, migrations):
    newest = migrations[-1].number
    parts = ["/* Made from the schema's scripts by embed.py. */\n"
             '#include "migrations.h"\n#include "store/schema_version.h"\n\n'
             f'_Static_assert(SCHEMA_VERSION == {newest}, "the build counts what it embeds");\n']
    entries = []
    for number, name, scripts in migrations:
        fields = []
        for kind, text in sorted(scripts.items()):
            parts.append(f"static const char {kind}_{number:03}[] = {{\n"
                         f"{octets(statements(text))}\n}};\n")
            alone = "true" if text.startswith(ONE_BY_ONE) else "false"
            fields.append(f".{kind} = {{ {kind}_{number:03}, {alone} }}")
        entries.append(f'    {{ {number}, "{name}", {", ".join(fields)} }},')
    parts += ["const struct migration migrations[] = {", *entries,
              "};\n\nconst size_t migrations_count = sizeof migrations / sizeof *migrations;\n"]
    pathlib.Path(output).write_text("\n".join(parts), encoding="utf-8")


def main(output, *sources):
    migrations = read(sources)
    if output == "--newest":
        print(migrations[-1].number)
    else:
        write(output, migrations)


if __name__ == "__main__":
    main(*sys.argv[1:])
