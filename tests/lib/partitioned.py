"""The stand-in for a database of several machines: PostgreSQL with hash partitions on the same columns.

partitioned() turns the schema into one whose spread tables (deploy/citus/tables) are partitioned by hash of
their distribution column: the same names, functions and statements. A statement that asks for the rows of
one mailbox must touch one partition of each table, as it would go to one machine; plans_of() reads from the
server's log which partitions each statement touched. What PostgreSQL itself refuses of a partitioned table is
as on Citus (a key without the column), or told in changes().
"""

import json
import re
import sys

PARTITIONS = 4


def place_of(tables):
    """{table: its place}, out of deploy/citus/tables."""
    return dict(line.split() for line in tables.splitlines() if line and line[0] != "#")


def spread(tables):
    return {table: place for table, place in place_of(tables).items()
            if place not in ("reference", "coordinator")}


def partitioned(schema, tables):
    """The schema's text with partitions: its CREATE TABLE alone are changed."""
    for table, column in spread(tables).items():
        found = re.search(rf"^CREATE TABLE {table} \((?:.*?)^\)(.*?);", schema, re.MULTILINE | re.DOTALL)
        if not found:
            raise ValueError(f"no CREATE TABLE {table}")
        # What belongs to storage belongs to the partitions.
        storage = found[1].strip()
        made = [schema[found.start():found.start(1)] + f" PARTITION BY HASH ({column});"]
        made += [f"CREATE TABLE {table}_p{n} PARTITION OF {table} FOR VALUES WITH"
                 f" (MODULUS {PARTITIONS}, REMAINDER {n}) {storage};" for n in range(PARTITIONS)]
        schema = schema[:found.start()] + "\n".join(made) + schema[found.end():]
        # What the planner is told of a table it is not told of its partitions.
        schema = re.sub(rf"^ALTER TABLE {table} (ALTER COLUMN \w+ SET \(n_distinct = .*?\);)$",
                        lambda hint, table=table: "\n".join(
                            [hint[0]] + [f"ALTER TABLE {table}_p{n} {hint[1]}" for n in range(PARTITIONS)]),
                        schema, flags=re.MULTILINE)
    return schema


# For PostgreSQL's configuration: which partitions each statement touched, those in functions too.
PLANS_SETTINGS = {
    "session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on", "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on", "auto_explain.log_format": "json",
}

PLAN = re.compile(r"LOG:  duration: [0-9.]+ ms  plan:$")
PARTITION = re.compile(r"(\w+)_p(\d+)")


def plans_of(log):
    """(text, {table: numbers of its partitions}) of every statement that the log has a plan of."""
    lines = iter(log.splitlines())
    line = next(lines, None)
    while line is not None:
        found = PLAN.search(line)
        line = next(lines, None)
        if found:
            plan = []
            while line is not None and line.startswith("\t"):
                plan.append(line[1:])
                line = next(lines, None)
            plan = json.loads("\n".join(plan))
            touched = {}
            note_touched(plan["Plan"], touched)
            yield plan["Query Text"], touched


def note_touched(node, touched):
    """Of what was scanned in fact: what was pruned when the statement ran has no loops."""
    name = PARTITION.fullmatch(node.get("Relation Name", ""))
    if name and "Scan" in node["Node Type"] and node.get("Actual Loops", 0) > 0:
        touched.setdefault(name[1], set()).add(int(name[2]))
    for below in node.get("Plans", ()):
        note_touched(below, touched)


if __name__ == "__main__":  # partitioned.py SCHEMA TABLES OUTPUT
    with open(sys.argv[1], encoding="utf-8") as schema_file, open(sys.argv[2], encoding="utf-8") as tables_file, \
            open(sys.argv[3], "w", encoding="utf-8") as output:
        output.write(partitioned(schema_file.read(), tables_file.read()))
