#!/usr/bin/python3
"""
bad_statements: proves that tests/lib/distribution.py finds what it is for: each statement and each piece
of a schema here is wrong in one way, and is said to be so; and right ones are let through.

  bad_statements.py SOURCE_ROOT
"""

import pathlib
import sys

ROOT = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(ROOT / "tests/lib"))

from distribution import Schema, Statement, expansions  # noqa: E402

ROUTED = [
    "SELECT * FROM message WHERE mailbox_id = $1",
    "SELECT m.seq FROM mailbox b LEFT JOIN message m ON m.mailbox_id = b.mailbox_id WHERE b.mailbox_id = $1",
    "SELECT 1 FROM mailbox WHERE mailbox_id = $1 FOR UPDATE",
    "SELECT 1 FROM ledger l WHERE l.mailbox_id = $1 AND NOT EXISTS (SELECT FROM message m"
    " WHERE m.mailbox_id = l.mailbox_id)",
    "UPDATE mailbox SET state = 0 FROM domain d WHERE mailbox_id = $1::bigint AND d.name = $2",
    "WITH gone AS (DELETE FROM message WHERE mailbox_id = $1 RETURNING mailbox_id, seq, blob_id)"
    " INSERT INTO read_mark (mailbox_id, seq, read_at) SELECT g.mailbox_id, g.seq, $2 FROM gone g",
    "INSERT INTO volume_reaped (volume_id, day, files, octets) VALUES ($1, now(), 1, 1)",
    "SELECT fleet_epoch()",
]
SPREAD = [
    ("SELECT * FROM message WHERE blob_id = $1", "does not name mailbox_id of message"),
    ("SELECT * FROM message WHERE mailbox_id = $1 OR seq = 1", "does not name mailbox_id"),
    ("SELECT * FROM message WHERE mailbox_id > $1", "does not name mailbox_id"),
    ("SELECT * FROM message WHERE mailbox_id = ANY ($1)", "asks for several values"),
    ("SELECT * FROM message WHERE mailbox_id IN ($1, $2)", "asks for several values"),
    ("SELECT 1 FROM mailbox b, account c WHERE b.mailbox_id = $1 AND c.mailbox_id = $2", "several values"),
    ("DELETE FROM address WHERE domain = $1", "does not name addr of address"),
    ("SELECT 1 FROM mailbox b LEFT JOIN message m ON b.mailbox_id = $1 AND m.mailbox_id = $1",
     "does not name mailbox_id of mailbox"),
    ("SELECT 1 FROM mailbox WHERE mailbox_id = $1 AND EXISTS (SELECT FROM ledger WHERE blob_id = $2)",
     "does not name mailbox_id of ledger"),
    ("SELECT 1 FROM (SELECT seq FROM message) x", "does not name mailbox_id of message"),
    ("WITH x AS (SELECT seq FROM message WHERE seq = $2) SELECT 1 FROM x", "does not name mailbox_id of message"),
    ("COPY (SELECT seq FROM message) TO STDOUT", "does not name mailbox_id of message"),
]
REFUSED = [
    ("SELECT 1 FROM mailbox FOR UPDATE SKIP LOCKED", "locks rows"),
    ("SELECT 1 FROM mailbox WHERE mailbox_id = ANY ($1) ORDER BY 1 FOR UPDATE", "locks rows"),
    ("UPDATE ledger SET claimed_at = $2 WHERE mailbox_id = $1 AND blob_id IN"
     " (SELECT blob_id FROM ledger WHERE seq = 0 LIMIT 1 FOR UPDATE SKIP LOCKED)", "locks rows"),
    ("SELECT 1 FROM message m JOIN ledger l ON l.blob_id = m.blob_id", "joins tables on something else"),
    ("SELECT 1 FROM ledger l JOIN blob_shared s ON s.blob_id = l.blob_id WHERE l.mailbox_id = $1",
     "spread by blob_id and by mailbox_id"),
    ("SELECT 1 FROM message m WHERE NOT EXISTS (SELECT FROM ledger l WHERE l.blob_id = m.blob_id)",
     "hangs on something else"),
    ("SELECT 1 FROM message m WHERE m.mailbox_id = $1 AND reaping_here()", "calls reaping_here()"),
    ("SELECT discard($1, m.blob_id, 1, 1, 1, false, 1, 1, '') FROM message m WHERE m.mailbox_id = $1",
     "calls discard()"),
    ("SELECT 1 FROM mailbox b, fleet f WHERE b.mailbox_id = $1", "a table of the coordinator"),
    ("UPDATE mailbox SET next_seq = nextval('mailbox_ids') WHERE mailbox_id = $1", "nextval()"),
    ("DELETE FROM ledger WHERE mailbox_id = $1 AND deleted_at < clock_timestamp()", "clock_timestamp()"),
    ("INSERT INTO blob_shared AS s (blob_id, volume_id, refs) VALUES ($1, 1, 1) ON CONFLICT (blob_id)"
     " DO UPDATE SET claimed_at = now()", "now() in ON CONFLICT"),
    ("INSERT INTO blob_shared AS s (blob_id, volume_id, refs) VALUES ($1, 1, 1) ON CONFLICT (blob_id)"
     " DO UPDATE SET claimed_at = CURRENT_TIMESTAMP", "the time in ON CONFLICT"),
]
NEVER = [
    ("SELECT FROM WHERE", "can't be parsed"),
    ("SELECT 1; SELECT 2", "is not one statement"),
    ("SELECT ctid FROM message WHERE mailbox_id = $1", "names ctid"),
    ("DELETE FROM message m WHERE m.mailbox_id = $1 AND m.ctid = $2", "names ctid"),
    ("SELECT pg_advisory_xact_lock($1)", "calls pg_advisory_xact_lock()"),
    ("SELECT pg_try_advisory_lock($1)", "calls pg_try_advisory_lock()"),
    ("SELECT pg_notify('x', '')", "calls pg_notify()"),
    ("SELECT set_config('a.b', '', false)", "calls set_config()"),
    ("LISTEN mail", "has LISTEN"), ("UNLISTEN *", "has UNLISTEN"), ("NOTIFY mail", "has NOTIFY"),
    ("SET work_mem = '1MB'", "has a setting"), ("SET LOCAL work_mem = '1MB'", "has a setting"),
    ("RESET ALL", "has a setting"),
    ("CREATE TEMPORARY TABLE x (y int)", "has a temporary table"),
    ("CREATE TEMP TABLE x AS SELECT 1", "has a temporary table"), ("SELECT 1 INTO TEMP x", "temporary table"),
    ("PREPARE x AS SELECT 1", "a named statement"), ("EXECUTE x", "a named statement"),
    ("DECLARE x CURSOR FOR SELECT 1", "a cursor"), ("LOCK TABLE mailbox", "has LOCK"),
    ("BEGIN", "transaction control"), ("DO $$ BEGIN END $$", "a block of code"),
    ("SELECT 1 FROM mailboxes WHERE mailbox_id = $1", "names mailboxes, which the schema has not"),
    ("INSERT INTO mailbox (state) VALUES (1)", "does not give mailbox_id"),
    ("UPDATE mailbox SET mailbox_id = $2 WHERE mailbox_id = $1", "changes mailbox_id"),
    ("INSERT INTO address (addr, domain) VALUES ($1, $2) ON CONFLICT (addr) DO UPDATE SET addr = $3",
     "changes addr"),
    ("VACUUM mailbox", "is a VacuumStmt"),
]
SCHEMA = [
    ("CREATE TABLE more (mailbox_id bigint PRIMARY KEY)", "more is not both"),
    ("ALTER TABLE mailbox ADD COLUMN uid bigint; CREATE UNIQUE INDEX uids ON mailbox (next_seq)",
     "uids does not have mailbox_id"),
    ("CREATE FUNCTION f(box bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1'; CREATE TRIGGER t AFTER INSERT"
     " ON mailbox FOR EACH ROW EXECUTE FUNCTION f()", "a trigger"),
    ("CREATE FUNCTION f(box bigint) RETURNS bigint LANGUAGE sql RETURN (SELECT msgs FROM mailbox"
     " WHERE mailbox_id = box)", "f() is of language sql and reads a table"),
    ("CREATE FUNCTION f(box bigint) RETURNS bigint LANGUAGE sql AS 'SELECT msgs FROM mailbox"
     " WHERE mailbox_id = box'", "f() is of language sql and reads a table"),
    ("CREATE FUNCTION f() RETURNS bigint LANGUAGE c AS 'x', 'y'", "f() is of language c"),
    ("ALTER TABLE mailbox ADD COLUMN uid bigint UNIQUE", "a key of mailbox does not have mailbox_id"),
    ("ALTER TABLE mailbox ADD COLUMN uid bigint REFERENCES volume", "mailbox has a foreign key"),
    ("ALTER TABLE mailbox ADD CONSTRAINT x UNIQUE (next_seq)", "a key of mailbox does not have mailbox_id"),
    ("ALTER TABLE mailbox ALTER COLUMN msgs TYPE numeric", "not understood here: AT_AlterColumnType"),
    ("ALTER TABLE mailbox DROP COLUMN msgs", "not understood here: AT_DropColumn"),
    ("ALTER TABLE mailbox RENAME COLUMN msgs TO messages", "not understood here: ALTER TABLE"),
    ("UPDATE mailbox SET msgs = 0", "not understood here: UPDATE"),
    ("CREATE VIEW v AS SELECT 1", "not understood here: CREATE VIEW"),
]
BODY = [
    ("PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR UPDATE;", "routed"),
    ("PERFORM FROM mailbox b WHERE b.mailbox_id = bux FOR UPDATE;", "names bux"),
    ("IF EXISTS (SELECT FROM message m WHERE m.seq = 1) THEN RETURN; END IF;", "does not name mailbox_id"),
    ("x := (SELECT count(*) FROM message m);", "does not name mailbox_id"),
    ("FOR x IN SELECT m.seq FROM message m LOOP NULL; END LOOP;", "does not name mailbox_id"),
    ("LISTEN mail;", "has LISTEN"),
    ("EXECUTE 'SELECT 1';", "is put together at run time"),
]


def next_version(tables):
    """A migration is read as what has come of it: tests/fleet/next adds a column, and renames functions."""
    scripts = expansions(ROOT / "tests/fleet/next", ROOT / "deploy/schema")
    if [int(path.name[:3]) for path in scripts] != list(range(1, len(scripts) + 1)):
        return [f"the scripts of the next version are {scripts}"]
    schema = Schema([path.read_text() for path in scripts], tables)
    missed = [f"the next version: {problem}" for problem in schema.problems]
    delegated = schema.delegated()
    for name in "deliver", "deliver2", "deliver_pointer":
        missed += [] if name in delegated else [f"{name}() of the next version does not run where its rows are"]
    if schema.functions["deliver"].statements == schema.functions["deliver_pointer"].statements:
        missed.append("deliver() was not replaced")
    said = Statement(schema, "SELECT b.delivered_at FROM mailbox b WHERE b.mailbox_id = $1")
    if said.grade != "routed" or said.problems:
        missed.append(f"a column of the next version: {said.grade} {said.problems}")
    gone = Schema([path.read_text() for path in scripts] + ["DROP FUNCTION deliver2"], tables)
    if "deliver2" in gone.functions:
        missed.append("a function that was dropped is there")
    return missed


def main():
    texts = [p.read_text() for p in expansions(ROOT / "deploy/schema")]
    tables = (ROOT / "deploy/citus/tables").read_text()
    schema = Schema(texts, tables)
    missed = []

    def expect(text, grade, why):
        s = Statement(schema, text)
        said = s.problems + s.refused_why + s.spread_why
        right = s.grade == "routed" and not s.problems if grade == "routed" else \
            any(why in w for w in said) and (s.problems if grade == "never" else s.grade == grade)
        if not right:
            missed.append(f"{text}: {s.grade} {said}, not {grade} ({why})")

    for text in ROUTED:
        expect(text, "routed", "")
    for grade, statements in ("spread", SPREAD), ("refused", REFUSED), ("never", NEVER):
        for text, why in statements:
            expect(text, grade, why)
    for text, why in SCHEMA:
        said = Schema([*texts, text], tables).problems
        if not any(why in w for w in said):
            missed.append(f"{text}: {said}, not {why}")
    missed += next_version(tables)
    for body, why in BODY:
        f = Schema([*texts, "CREATE FUNCTION f(box bigint) RETURNS void LANGUAGE plpgsql AS $$ DECLARE x bigint;"
                            f" BEGIN {body} END $$;"], tables)
        judged = [Statement(f, text, f.functions["f"].names) for text in f.functions["f"].statements]
        said = f.problems + [w for s in judged for w in (s.grade, *s.problems, *s.refused_why, *s.spread_why)]
        if not any(why in w for w in said) or why == "routed" and set(said) != {"routed"}:
            missed.append(f"{body}: {said}, not {why}")
    print("\n".join(missed) or "all was found")
    return 1 if missed else 0


sys.exit(main())
