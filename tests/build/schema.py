#!/usr/bin/python3
"""
schema: what embed.py takes for a set of migrations, what it refuses, and that it splits rightly.

  schema.py EMBED.PY
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

spec = importlib.util.spec_from_file_location("embed", sys.argv[1])
embed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(embed)

TABLE = "CREATE TABLE t (a integer);\nCREATE INDEX t_a ON t (a);\n"
COLUMN = "ALTER TABLE t ADD COLUMN b integer;\n"
INDEX = "-- one by one\nDROP INDEX CONCURRENTLY IF EXISTS t_b;\nCREATE INDEX CONCURRENTLY t_b ON t (b);\n"
BODY = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$\nBEGIN\n    PERFORM 1;\nEND $$;\n"

# What is wrong (None: nothing): the scripts.
CASES = [
    (None, {"001-init.sql": TABLE}),
    (None, {"001-init.sql": TABLE, "002-b.sql": COLUMN, "002-b.contract.sql": "DROP TABLE t;",
            "002-b.revert.sql": "SELECT 1", "003-c.sql": INDEX, "004-d.sql": BODY}),
    (None, {"001-init.sql": TABLE,
            "002-b.sql": "CREATE TABLE u (a integer); CREATE UNIQUE INDEX ON u (a);"}),
    ("a migration is NNN-NAME.sql", {"1-init.sql": TABLE}),
    ("a migration is NNN-NAME.sql", {"001-init.sql": TABLE, "001-init.undo.sql": TABLE}),
    ("without a gap", {"001-init.sql": TABLE, "003-b.sql": COLUMN}),
    ("without a gap", {"002-b.sql": COLUMN}),
    ("001 is other already", {"001-init.sql": TABLE, "001-other.sql": TABLE}),
    ("002 is c already", {"001-init.sql": TABLE, "002-b.sql": COLUMN, "002-c.revert.sql": "SELECT 1"}),
    ("002-b.sql is missing", {"001-init.sql": TABLE, "002-b.contract.sql": "SELECT 1"}),
    ("nothing to contract", {"001-init.sql": TABLE, "001-init.contract.sql": "SELECT 1"}),
    ("nothing to contract", {"001-init.sql": TABLE, "001-init.revert.sql": "SELECT 1"}),
    ("neither begins nor ends", {"001-init.sql": TABLE, "002-b.sql": f"BEGIN;\n{COLUMN}COMMIT;\n"}),
    ("stops all writing", {"001-init.sql": TABLE, "002-b.sql": "CREATE INDEX t_b ON t (b);"}),
    ("stops all writing", {"001-init.sql": TABLE, "002-b.sql": "create unique index on t (b);"}),
    ("an index on t stops all writing",
     {"001-init.sql": TABLE, "002-b.sql": "CREATE INDEX IF NOT EXISTS t_b ON ONLY t (b);"}),
    (None, {"001-init.sql": TABLE,
            "002-b.sql": "CREATE TABLE IF NOT EXISTS u (a integer); CREATE INDEX u_a ON u (a);"}),
    ("is for scripts with CONCURRENTLY",
     {"001-init.sql": TABLE, "002-b.sql": INDEX.removeprefix("-- one by one\n")}),
    ("is for scripts with CONCURRENTLY", {"001-init.sql": TABLE, "002-b.sql": "-- one by one\nSELECT 1;"}),
    ("does not end with a semicolon",
     {"001-init.sql": TABLE, "002-b.sql": INDEX.rstrip().removesuffix(";")}),
]


def complaint(scripts):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in scripts.items():
            (Path(folder) / name).write_text(text)
        # In any order, as the build may name them.
        paths = sorted((Path(folder) / name for name in scripts), reverse=True)
        try:
            migrations = embed.read(paths)
        except SystemExit as refused:
            return str(refused.code)
        embed.write(Path(folder) / "out.c", migrations)
        assert [m.number for m in migrations] == list(range(1, len(migrations) + 1))
        written = (Path(folder) / "out.c").read_text()
        assert written.count("[] = {") == len(scripts) + 1, written
        assert f"SCHEMA_VERSION == {len(migrations)}," in written
        return None


wrong = []
for wanted, scripts in CASES:
    told = complaint(scripts)
    if (told is None) != (wanted is None) or (wanted and wanted not in told):
        wrong.append(f"{sorted(scripts)}: {told}, and not: {wanted}")
split = embed.statements("-- one by one\n-- why; so\nSELECT 1;\nSELECT ';'\n  AS b; -- last\n")
if split != ["-- why; so\nSELECT 1", "SELECT ';'\n  AS b"]:
    wrong.append(f"split into {split}")
if embed.statements(BODY) != [BODY]:
    wrong.append("a transaction is split")
sys.exit("\n".join(wrong) or 0)
