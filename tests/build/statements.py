#!/usr/bin/python3
"""
statements: proves that the schema and every statement that is sent can run on a database of several
machines: docs/scaling.md has what that asks for, tests/lib/distribution.py how it is judged.

  statements.py SOURCE_ROOT BUILD_ROOT

The statements are the string literals of the C sources, as the compiler sees them, that begin with a word
of SQL, and what is in the functions of the schema. What is built from pieces at run time is no statement
to begin with, and fails, unless PIECES says what the pieces are. Each statement must be routed: what the
daemons send without exception but for SPREAD_DAEMONS; what operators' commands send may ask all machines
(SPREAD) where it walks through everything, or be an entry of LIMITS, all of which docs/scaling.md tells.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1]).resolve()
BUILD = pathlib.Path(sys.argv[2])
sys.path.insert(0, str(ROOT / "tests/lib"))

import pglast  # noqa: E402
from distribution import COORDINATOR, REFERENCE, Schema, Statement, expansions, walk  # noqa: E402
from partitioned import place_of  # noqa: E402

FOLDERS = ("common", "deliver", "frontend", "admin")

# A literal that begins so is a statement. Not BEGIN, COPY and the like alone: those are words of other
# protocols, too, and of SQL only with more behind them.
VERB = re.compile(r"\s*(?:SELECT|INSERT INTO|UPDATE \w+ (?:AS \w+ |\w+ )?SET|DELETE FROM|WITH \w+ |COPY [(\w]|"
                  r"MERGE INTO|VALUES *\(|TABLE \w|(?:CREATE|ALTER|DROP|TRUNCATE|LOCK) +[A-Z]|"
                  r"SET (?:LOCAL |SESSION )?\w+ *(?:=|TO)|RESET \w|LISTEN \w|UNLISTEN|NOTIFY \w|CALL \w|"
                  r"DO \$|EXPLAIN |ANALYZE|VACUUM|PREPARE |DEALLOCATE|DECLARE \w|FETCH |BEGIN;|SAVEPOINT)")
# What hands a statement to libpq; the only doors to it are checked by layers.py.
SENDS = re.compile(r"\b(?:pg_stmt|admin_sql|pg_copy_number|pg_copy_begin|PQexec\w*|PQsend\w+|PQprepare)\(")
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
ESCAPE = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


# --- what is allowed ----------------------------------------------------------------------------------

# Statements of a file that are completed at run time: what a format's %s and %u stand for.
PIECES = {
    "admin/schema_change.c": {"%s": "x", "%u": "1"},
    "admin/fsck_stream.c": {"%s": "blob_id >= ms_id(0) AND volume_id = 1", "%lu": "0", "%llu": "0"},
}

# What is not a literal where it is handed on: each is one elsewhere in the sources, and found there.
PASSED_ON = {
    "admin/admin.c": {"sql"}, "admin/expire.c": {"w->sql"}, "admin/import.c": {"pages[which]"},
    "admin/ledger.c": {"sql"}, "admin/recount.c": {"sql"}, "admin/trace_mailbox.c": {"sql"},
    "admin/fsck_stream.c": {"sql"}, "admin/setup.c": {"sql"}, "common/store/pg_batch.c": {"s->sql"},
    "admin/schema_change.c": {"sql", '"ROLLBACK"'},  # and the scripts of deploy/schema
    "common/store/pg_conn.c": {"c->o->hello"}, "common/store/pg_copy.c": {"sql"},
}

# Not sent by a node nor through a pooler: a migration is a script, on a connection of its own; and the
# connection that fsck reads on is its own, too, and what is set ends with its transaction.
APART = {"admin/schema_change.c": "BEGIN; SET LOCAL", "common/store/pg_copy.c": "SET LOCAL "}

# File or function: how many statements of it ask all machines, or those of several mailboxes, and why that
# is right. Of what nodes send: a look at the edge of three indexes, now and then, and what is gathered
# (database.gather), which a fleet with several database machines turns off.
SPREAD = {
    "common/store/index.c": (1, "what the fleet's mailboxes have for rules, now and then"),
    "common/store/index_read.c": (2, "gathered look-ups and lists, each row as alone"),
    "deliver_each()": (1, "gathered deliveries, and without several machines those of one message"),
    "admin/account.c": (2, "a page of accounts; how many have a password"),
    "admin/admin.c": (2, "a page of addresses"),
    "admin/domain.c": (2, "the addresses of a domain; a page of domains"),
    "admin/drain.c": (2, "whether a volume is empty"),
    "admin/dump.c": (1, "a page of removed accounts"),
    "admin/expire.c": (2, "a page of mailboxes with a rule, by index"),
    "admin/follow.c": (1, "a page of the mailboxes that follow their domain"),
    "admin/fsck.c": (2, "who names a file, asked of one that is suspected"),
    "admin/fsck_stream.c": (1, "how many files there are"),
    "admin/fuse.c": (4, "what is due and what is free, by index"),
    "admin/ledger.c": (6, "who had a file: by an index of each machine, or a walk"),
    "admin/mover.c": (1, "a page of pointers"),
    "admin/purge.c": (2, "a page of removed accounts"),
    "admin/reap.c": (3, "a page of due rows, by index; what is forgotten"),
    "admin/rebuild.c": (2, "whether there is an account, and the highest id"),
    "admin/rebuild_accounts.c": (1, "which of a page of mailboxes there are"),
    "admin/removal.c": (3, "who had an address; aliases that lead to it; a page of removed accounts"),
    "admin/trace_mailbox.c": (2, "the account of an address whose row has gone"),
    "admin/trace_message.c": (4, "who had a file"),
    "admin/trace_parts.c": (2, "addresses of some mailboxes"),
    "admin/usage.c": (1, "the sum of a page of mailboxes"),
    "move_file()": (4, "all that have a shared file change in one transaction"),
    "follow_domain()": (1, "a page of the mailboxes that follow their domain"),
    "set_aside()": (1, "whether anybody of some mailboxes names a file"),
    "claim_free()": (1, "a page of free files, which are then taken one by one"),
    "recount_shared()": (3, "all that have a shared file"),
}

# What a distributed engine refuses, or was never asked: docs/scaling.md says so of the commands.
LIMITS = {
    "admin/dump.c": (1, "mailfleet account dump"),
    "admin/fsck_stream.c": (1, "mailfleet fsck"),
    "admin/reap.c": (1, "mailfleet reap"),
    "admin/recount.c": (2, "mailfleet recount"),
    "admin/removal.c": (1, "mailfleet account restore"),
}

# --- the sources ----------------------------------------------------------------------------------------


def preprocessed(command):
    """The source as the compiler sees it, with its line markers."""
    words = shlex.split(command["command"])
    at = words.index("-o")
    words[at:at + 2] = []
    words = [w for w in words if w not in ("-c", "-MD") and not w.startswith("-fsanitize")]
    for flag in "-MQ", "-MF":
        if flag in words:
            at = words.index(flag)
            words[at:at + 2] = []
    run = subprocess.run([*words, "-E"], cwd=command["directory"], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{command['file']}: {run.stderr}")
    return run.stdout


def literals(text, path):
    """(line, literal) of the file's own, adjacent ones joined."""
    own, line, parts, began = False, 0, [], 0
    for row in text.splitlines():
        marker = re.match(r'# (\d+) "([^"]*)"', row)
        if marker:
            own, line = os.path.basename(marker[2]) == path.name, int(marker[1])
            continue
        if own:
            at = 0
            for token in re.finditer(r"'(?:[^'\\]|\\.)*'|" + LITERAL.pattern, row):
                if parts and row[at:token.start()].strip():
                    yield began, "".join(parts)
                    parts = []
                at = token.end()
                if token[0][0] == '"':
                    began = began if parts else line
                    parts.append(re.sub(r"\\(.)", lambda m: ESCAPE.get(m[1], m[0]), token[0][1:-1]))
            if parts and row[at:].strip():
                yield began, "".join(parts)
                parts = []
        line += 1


def sources():
    """(path, command) of every C file that has SQL, or hands it on."""
    for command in json.loads((BUILD / "compile_commands.json").read_text()):
        path = pathlib.Path(command["directory"], command["file"]).resolve()
        if not path.is_relative_to(ROOT):
            continue
        name = str(path.relative_to(ROOT))
        if name.split("/")[0] in FOLDERS:
            text = path.read_text()
            if SENDS.search(text) or any(VERB.match(m[0][1:]) for m in LITERAL.finditer(text)):
                yield name, path, command


def arguments(text, path):
    """What is handed to libpq: the second argument of each call in the file itself."""
    own, rows = False, []
    for row in text.splitlines():
        marker = re.match(r'# (\d+) "([^"]*)"', row)
        if marker:
            own = os.path.basename(marker[2]) == path.name
        elif own:
            rows.append(row)
    text = "\n".join(rows)
    for call in SENDS.finditer(text):
        depth, at, parts = 1, call.end(), [""]
        while depth:
            string = LITERAL.match(text, at)
            piece = string[0] if string else text[at]
            depth += {"(": 1, ")": -1, "[": 1, "]": -1, "{": 1, "}": -1}.get(piece, 0)
            if piece == "," and depth == 1:
                parts.append("")
            elif depth:
                parts[-1] += piece
            at += len(piece)
        if "{" not in text[at:at + 3] and not re.search(r"\b(?:const char|PGconn) \*", "".join(parts)):
            yield " ".join(parts[1].split())


def literal_alone(argument):
    """One literal, or one of two by a condition."""
    choice = re.fullmatch(r"[^\"]*?\?(.*?\"\s*):(\s*\".*)", argument, re.DOTALL)
    return all(VERB.match(part.strip()[1:]) and not LITERAL.sub("", part).strip()
               for part in (choice.groups() if choice else (argument,)))


class Check:
    def __init__(self, schema):
        self.schema, self.delegated = schema, schema.delegated()
        self.wrong, self.n = 0, 0
        self.left = {"spread": {}, "refused": {}}

    def complain(self, where, what):
        print(f"{where}: {what}")
        self.wrong += 1

    def sources(self):
        for name, path, command in sources():
            seen = preprocessed(command)
            for argument in arguments(seen, path):
                if argument not in PASSED_ON.get(name, ()) and not literal_alone(argument):
                    self.complain(name, f"sends {argument}, which is not a literal")
            for line, text in literals(seen, path):
                if VERB.match(text) and not text.startswith(APART.get(name, "\0")):
                    for piece, meaning in PIECES.get(name, {}).items():
                        text = text.replace(piece, meaning)
                    self.statement(name, f"{name}:{line}", Statement(self.schema, text))
                    self.given(f"{name}:{line}", text)
                    self.one_by_one(name, f"{name}:{line}", text)

    def given(self, where, text):
        """What a function that runs elsewhere is given must be the same everywhere, or it is not sent there."""
        try:
            tree = pglast.parse_sql(text)
        except pglast.parser.ParseError:
            return  # told already
        for node in walk(tree):
            if isinstance(node, pglast.ast.FuncCall) and node.funcname[-1].sval in self.delegated:
                if any(isinstance(n, pglast.ast.SubLink) or isinstance(n, pglast.ast.FuncCall)
                       and self.schema.volatility(n.funcname[-1].sval) == "volatile"
                       for n in walk(node.args or ())):
                    self.complain(where, f"{node.funcname[-1].sval}() is given what is not the same everywhere")

    def one_by_one(self, key, where, text):
        """A function that is called for each of many rows or elements asks for one mailbox after the other."""
        try:
            tree = pglast.parse_sql(text)
        except pglast.parser.ParseError:
            tree = pglast.parse_sql("SELECT " + text)
        for node in walk(tree):
            name = node.funcname[-1].sval if isinstance(node, pglast.ast.FuncCall) else None
            if name in self.schema.functions and any(self.schema.spread(t) for t in self.schema.reached(name)[0]) \
                    and node.args and self.varies(node.args[0], self.schema.functions.get(key.removesuffix("()"))):
                self.left["spread"].setdefault(key, []).append((where, [f"calls {name}() for one after the other"]))

    @staticmethod
    def varies(argument, function):
        """A column, or an element of an array; a function's variables look like columns."""
        if isinstance(argument, pglast.ast.ColumnRef):
            words = [f.sval for f in argument.fields if isinstance(f, pglast.ast.String)]
            return not function or words[0] not in function.names
        return isinstance(argument, pglast.ast.A_Indirection)

    def functions(self):
        for name, f in self.schema.functions.items():
            for text in f.statements:
                self.statement(f"{name}()", f"{name}()", Statement(self.schema, text, f.names))
                self.one_by_one(f"{name}()", f"{name}()", text)

    def statement(self, key, where, s):
        self.n += 1
        for problem in s.problems:
            self.complain(where, problem)
        if s.grade != "routed":
            self.left[s.grade].setdefault(key, []).append((where, s.refused_why or s.spread_why))

    def exceptions(self):
        for grade, allowed in ("spread", SPREAD), ("refused", LIMITS):
            for key in sorted(set(allowed) | set(self.left[grade])):
                found, expected = self.left[grade].get(key, []), allowed.get(key, (0, ""))[0]
                if len(found) != expected:
                    self.complain(key, f"{len(found)} statements are {grade}, {expected} are known")
                    for where, why in found:
                        print(f"    {where}: {'; '.join(why)}")


def told_places(check, told):
    """docs/scaling.md names every table, and where its rows are."""
    words = {"a copy everywhere": REFERENCE, "the coordinator alone": COORDINATOR}
    section = told.partition("### What is where\n")[2].partition("\n### ")[0]
    found = {}
    for names, where in re.findall(r"^\| ([a-z][a-z_, ]*) \| (.+?) \|", section, re.MULTILINE)[1:]:
        column = re.match(r"`(\w+)`", where)
        found.update(dict.fromkeys(names.split(", "), column[1] if column else words[where]))
    found.pop("the sequence", None)
    place = place_of((ROOT / "deploy/citus/tables").read_text())
    for table in sorted(place.keys() | found.keys()):
        if place.get(table) != found.get(table):
            check.complain("docs/scaling.md", f"{table} is told to be {found.get(table)}, not {place.get(table)}")


def main():
    schema = Schema([p.read_text() for p in expansions(ROOT / "deploy/schema")],
                    (ROOT / "deploy/citus/tables").read_text())
    script = ROOT / "deploy/citus/distribute.sql"
    if sys.argv[3:] == ["--write"]:
        script.write_text(schema.distribute())
    check = Check(schema)
    for problem in schema.problems:
        check.complain("deploy/schema", problem)
    check.functions()
    check.sources()
    check.exceptions()
    told = (ROOT / "docs/scaling.md").read_text()
    for _, command in LIMITS.values():
        if f"`{command}`" not in told:
            check.complain("docs/scaling.md", f"does not say that {command} is a limit")
    told_places(check, told)
    if not script.exists() or script.read_text() != schema.distribute():
        check.complain("deploy/citus/distribute.sql", "is not what statements.py --write makes")
    print(check.n, "statements,", check.wrong, "wrong")
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
