"""What a database of several machines asks of a statement (docs/scaling.md), found in its syntax tree.

A statement is *routed* when every distributed table in it is named with its distribution column equal
to one and the same value: it runs where that value's rows are, with all of SQL. It is *spread* when it
asks all machines, which a distributed engine does for plain reads and changes alone; and it is *refused*
when it needs more than that. Schema reads the schema and deploy/citus/tables; Statement judges one
statement. Needs pglast, PostgreSQL's own parser.
"""

import re

import pglast
import pglast.stream
from pglast import ast
from pglast.enums import A_Expr_Kind, AlterTableType, BoolExprType, JoinType, ObjectType, OnConflictAction

REFERENCE, COORDINATOR = "reference", "coordinator"

# Of PostgreSQL, what these statements might use: not the same twice, or not the same everywhere.
VOLATILE = {"clock_timestamp", "random", "gen_random_uuid", "nextval", "setval", "currval", "lastval",
            "timeofday", "txid_current", "pg_current_wal_lsn", "pg_walfile_name"}
STABLE = {"now", "statement_timestamp", "transaction_timestamp", "to_char", "current_setting"}
SESSION = {"set_config", "pg_notify", "pg_sleep"}
SYSTEM_COLUMNS = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
AGGREGATES = {"count", "sum", "min", "max", "array_agg", "string_agg", "bool_or", "bool_and", "avg"}
HEAD = """\
-- Spreads the tables of a schema that `mailfleet init` has made over the machines of a Citus cluster, and the
-- rows that are in them (docs/scaling.md). Run once, on the coordinator, as the owner of the schema:
--     psql -1 -v ON_ERROR_STOP=1 -f distribute.sql DATABASE
-- Made from deploy/citus/tables and the schema by `tests/build/statements.py --write`, which also holds
-- every statement to it. What is not named here stays at the coordinator.
"""
FORBIDDEN = {
    "ListenStmt": "LISTEN", "UnlistenStmt": "UNLISTEN", "NotifyStmt": "NOTIFY",
    "VariableSetStmt": "a setting of the session", "CreateTrigStmt": "a trigger", "LockStmt": "LOCK",
    "PrepareStmt": "a named statement", "ExecuteStmt": "a named statement",
    "DeclareCursorStmt": "a cursor", "FetchStmt": "a cursor", "CreateTableAsStmt": "a temporary table",
    "TransactionStmt": "transaction control", "RuleStmt": "a rule", "DoStmt": "a block of code",
}
# What a migration may do to a table that is there, beside a column or a constraint more.
ALTERS = {AlterTableType.AT_ValidateConstraint, AlterTableType.AT_ColumnDefault, AlterTableType.AT_SetRelOptions,
          AlterTableType.AT_SetOptions}


def expansions(*folders):
    """The scripts by which a schema has come to be, in their order: not those that take something away."""
    found = [path for folder in folders for path in folder.glob("*.sql")
             if re.fullmatch(r"\d{3}-[a-z0-9-]+\.sql", path.name)]
    return sorted(found, key=lambda path: path.name)


def walk(node):
    """The node and all below it."""
    stack = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, (list, tuple)):
            stack.extend(node)
        elif isinstance(node, ast.Node):
            yield node
            stack.extend(getattr(node, name) for name in node)


def called(node):
    return node.funcname[-1].sval


class Function:
    def __init__(self, statement, text):
        options = {o.defname: o.arg for o in statement.options}
        self.name = called(statement)
        self.language = options["language"].sval
        self.volatility = options["volatility"].sval if "volatility" in options else "volatile"
        self.statement = statement
        self.arguments = [p.name for p in statement.parameters or () if p.mode.value in "id"]
        self.types = [p.argType.names[-1].sval + "[]" * len(p.argType.arrayBounds or ())
                      for p in statement.parameters or () if p.mode.value in "id"]
        self.names = {p.name for p in statement.parameters or () if p.name}
        self.statements = []  # texts of SQL
        self.dynamic = False
        self.body = [statement.sql_body]
        if self.language == "sql" and "as" in options:
            self.body = [raw.stmt for raw in pglast.parse_sql(options["as"][0].sval)]
        if self.language == "plpgsql":
            self.read_body(text)

    def read_body(self, text):
        # The parser does not know that a table is returned, of which the next row has no expression.
        tree = pglast.parse_plpgsql(re.sub(r"\bRETURN NEXT;", "NULL;", text))
        stack = [tree]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack.extend(node)
            elif isinstance(node, dict):
                if "refname" in node:
                    self.names.add(node["refname"])
                if "query" in node and isinstance(node["query"], str):
                    self.statements.append(re.sub(r"^[a-z_]+\s*:=", "", node["query"]))
                self.dynamic |= any("dyn" in key for key in node)
                stack.extend(node.values())

    def parsed(self):
        """The statements and expressions of the body, as statements."""
        for text in self.statements:
            try:
                yield text, pglast.parse_sql(text)
            except pglast.parser.ParseError:
                yield text, pglast.parse_sql("SELECT " + text)


class Schema:
    def __init__(self, scripts, tables):
        self.place = {}
        for line in tables.splitlines():
            words = line.split("#")[0].split()
            if words:
                self.place[words[0]] = words[1]
        self.columns, self.keys, self.functions, self.problems = {}, [], {}, []
        self.domains = {}  # what type each has; every node has them
        for script in scripts:
            octets = script.encode()
            for raw in pglast.parse_sql(script):
                end = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(octets)
                self.read(raw.stmt, octets[raw.stmt_location:end].decode())
        self.check_tables()
        self.check_functions()

    def read(self, s, text):
        kind = type(s).__name__
        if kind == "CreateStmt":
            self.read_table(s)
        elif kind == "IndexStmt":
            if s.unique:
                self.keys.append((s.relation.relname, [p.name for p in s.indexParams], s.idxname))
        elif kind == "CreateDomainStmt":
            self.domains[s.domainname[-1].sval] = s.typeName.names[-1].sval
        elif kind == "CreateSeqStmt":  # counts at the coordinator alone
            self.columns[s.sequence.relname] = {"last_value": "int8"}
            self.place[s.sequence.relname] = COORDINATOR
        elif kind == "CreateFunctionStmt":
            self.functions[called(s)] = Function(s, text)
        elif kind == "AlterTableStmt":
            for command in s.cmds:
                self.read_change(s.relation.relname, command)
        elif kind == "RenameStmt" and s.renameType == ObjectType.OBJECT_FUNCTION:
            f = self.functions.pop(s.object.objname[-1].sval)
            f.name = s.newname
            self.functions[f.name] = f
        elif kind == "DropStmt" and s.removeType in (ObjectType.OBJECT_FUNCTION, ObjectType.OBJECT_INDEX):
            self.read_drop(s)
        elif kind in FORBIDDEN:
            self.problems.append(f"the schema has {FORBIDDEN[kind]}")
        elif kind != "InsertStmt":
            self.problems.append(f"a script has what is not understood here: {text.strip()}")

    def read_change(self, table, command):
        """One part of ALTER TABLE."""
        if command.subtype == AlterTableType.AT_AddColumn:
            self.read_column(table, command.def_)
        elif command.subtype == AlterTableType.AT_AddConstraint:
            self.read_constraint(table, command.def_, [k.sval for k in command.def_.keys or ()])
        elif command.subtype not in ALTERS:
            self.problems.append(f"a script changes {table} in a way that is not understood here:"
                                 f" {command.subtype.name}")

    def read_drop(self, s):
        for thing in s.objects:
            if s.removeType == ObjectType.OBJECT_FUNCTION:
                self.functions.pop(thing.objname[-1].sval)
            else:
                self.keys = [key for key in self.keys if key[2] != thing[-1].sval]

    def read_table(self, s):
        name = s.relation.relname
        if s.relation.relpersistence != "p":
            self.problems.append(f"{name} is temporary or unlogged")
        self.columns[name] = {}
        for element in s.tableElts:
            if isinstance(element, ast.Constraint):
                self.read_constraint(name, element, [k.sval for k in element.keys or ()])
                continue
            self.read_column(name, element)

    def read_column(self, table, column):
        name = column.typeName.names[-1].sval
        self.columns[table][column.colname] = self.domains.get(name, name)
        for constraint in column.constraints or ():
            self.read_constraint(table, constraint, [column.colname])

    def read_constraint(self, table, constraint, columns):
        kind = constraint.contype.name
        if kind in ("CONSTR_PRIMARY", "CONSTR_UNIQUE"):
            self.keys.append((table, columns, f"a key of {table}"))
        elif kind == "CONSTR_FOREIGN":
            self.problems.append(f"{table} has a foreign key")
        elif kind == "CONSTR_EXCLUSION":
            self.problems.append(f"{table} has an exclusion constraint")

    def spread(self, table):
        """The distribution column of a table, or None."""
        place = self.place.get(table)
        return None if place in (None, REFERENCE, COORDINATOR) else place

    def check_tables(self):
        for table in sorted(set(self.columns) ^ set(self.place)):
            self.problems.append(f"{table} is not both in the schema and in deploy/citus/tables")
        for table, columns, what in self.keys:
            if self.spread(table) and self.spread(table) not in columns:
                self.problems.append(f"{what} does not have {self.spread(table)}")

    def volatility(self, name):
        if name in self.functions:
            return self.functions[name].volatility
        return "volatile" if name in VOLATILE else "stable" if name in STABLE else "immutable"

    def reached(self, name):
        """Every table that a function touches, by way of those that it calls, too."""
        tables, seen, todo = set(), set(), [name]
        while todo:
            f = self.functions[todo.pop()]
            if f.name in seen:
                continue
            seen.add(f.name)
            nodes = [n for _, tree in f.parsed() for n in walk(tree)] + list(walk(f.body))
            for n in nodes:
                if isinstance(n, ast.RangeVar):
                    tables.add(n.relname)
                elif isinstance(n, ast.FuncCall) and called(n) in self.functions:
                    todo.append(called(n))
        return tables & set(self.place), seen

    def check_functions(self):
        for f in self.functions.values():
            if f.dynamic:
                self.problems.append(f"{f.name}() has a statement that is put together at run time")
            if f.language == "sql":
                if f.arguments and any(isinstance(n, ast.RangeVar) and self.place.get(n.relname) != COORDINATOR
                                       for n in walk(f.body)):
                    self.problems.append(f"{f.name}() is of language sql and reads a table")
            elif f.language != "plpgsql":
                self.problems.append(f"{f.name}() is of language {f.language}")

    def delegated(self):
        """Functions that run where their first argument's rows are: {name: table}. Their first argument is a
        distribution column, which every statement in them is pinned to, and nothing in them is the coordinator's."""
        found = {}
        for f in self.functions.values():
            first = f.arguments[0] if f.arguments else None
            table = {"box": "mailbox", "blob": "blob_shared"}.get(first)
            tables, _ = self.reached(f.name)
            if table and any(self.spread(t) for t in tables) and not any(
                    self.place[t] == COORDINATOR for t in tables) and all(
                    Statement(self, text, f.names).routed_to in (None, first)
                    and Statement(self, text, f.names).grade == "routed"
                    for text, _ in f.parsed()) and all(
                    self.spread(t) in (None, self.place[table]) for t in tables):
                found[f.name] = table
        return found


    def shared(self):
        """Functions that all machines must have besides: what is called where the rows are."""
        delegated = self.delegated()
        called_there = {n for f in delegated for n in self.reached(f)[1]}
        own = {name for name, place in self.place.items() if place == COORDINATOR}
        return [n for n, f in self.functions.items() if n not in delegated and (
            n in called_there or f.language == "sql" and not own & (self.reached(n)[0] | set(f.types)))]

    def distribute(self):
        """The script that gives each table its place, and each function."""
        names = {"int8": "bigint", "int4": "integer", "int2": "smallint", "bool": "boolean"}
        lines, first = [HEAD], {}
        for table, place in self.place.items():
            if place == REFERENCE:
                lines.append(f"SELECT create_reference_table('{table}');")
            elif place != COORDINATOR:
                beside = first.setdefault(place, table)
                beside = "none" if beside == table else beside
                lines.append(f"SELECT create_distributed_table('{table}', '{place}', colocate_with => '{beside}');")

        def signature(name):
            types = [re.sub(r"^\w+", lambda m: names.get(m[0], m[0]), t) for t in self.functions[name].types]
            return f"{name}({', '.join(types)})"

        lines.append("\n-- What is called where the rows are.")
        lines += [f"SELECT create_distributed_function('{signature(n)}');" for n in self.shared()]
        lines.append("\n-- What runs as a whole where the rows of its first argument are.")
        for name, table in self.delegated().items():
            argument = self.functions[name].arguments[0]
            lines.append(f"SELECT create_distributed_function('{signature(name)}',\n"
                         f"                                   '{argument}', colocate_with => '{table}');")
        return "\n".join(lines) + "\n"


class Terms:
    """Which columns and values are equal."""

    def __init__(self, parents=None):
        self.parents = dict(parents or {})

    def copy(self):
        return Terms(self.parents)

    def find(self, term):
        while self.parents.get(term, term) != term:
            term = self.parents[term]
        return term

    def join(self, a, b):
        self.parents.setdefault(a, a)
        self.parents.setdefault(b, b)
        self.parents[self.find(a)] = self.find(b)

    def values(self, term):
        root = self.find(term)
        return {t[1] for t in self.parents if t[0] == "value" and self.find(t) == root}


class Rel:
    """Something in FROM."""

    def __init__(self, number, alias, table=None, columns=None):
        self.number, self.alias, self.table, self.columns = number, alias, table, columns


class Level:
    """One SELECT, UPDATE, DELETE or INSERT of a statement."""

    def __init__(self, terms, above=None):
        self.terms, self.above = terms, above
        self.rels, self.several, self.correlated = [], set(), set()
        self.ctes = dict(above.ctes) if above else {}
        self.outer_join = False

    def scopes(self):
        level = self
        while level:
            yield level
            level = level.above


class Statement:
    """grade: routed, spread or refused; problems say why, or what no grade allows."""

    def __init__(self, schema, text, names=()):
        self.schema, self.names = schema, set(names)
        self.problems, self.spread_why, self.refused_why = [], [], []
        self.rels, self.n, self.uses, self.routed_to = 0, 0, [], None
        try:
            trees = pglast.parse_sql(text)
        except pglast.parser.ParseError as error:
            try:
                trees = pglast.parse_sql("SELECT " + text) if names else None
            except pglast.parser.ParseError:
                trees = None
            if trees is None:
                self.problems.append(f"can't be parsed: {error}")
                self.grade = "refused"
                return
        if len(trees) != 1:
            self.problems.append("is not one statement")
        for tree in trees:
            self.anywhere(tree.stmt)
            self.query(tree.stmt, None, Terms())
        self.judge()

    # --- what no statement may have -----------------------------------------------------------------

    def anywhere(self, tree):
        calls = set()
        for node in walk(tree):
            kind = type(node).__name__
            if kind in FORBIDDEN:
                self.problems.append(f"has {FORBIDDEN[kind]}")
            elif kind == "RangeVar" and node.relpersistence == "t":
                self.problems.append("has a temporary table")
            elif kind == "FuncCall":
                calls.add(called(node))
            elif kind == "ColumnRef" and getattr(node.fields[-1], "sval", "") in SYSTEM_COLUMNS:
                self.problems.append(f"names {node.fields[-1].sval}")
            elif kind == "CreateStmt" and node.relation.relpersistence == "t":
                self.problems.append("has a temporary table")
            elif kind == "SelectStmt" and node.intoClause:
                self.problems.append("makes a table")
        for name in calls:
            if name in SESSION or name.startswith("pg_advisory") or name.startswith("pg_try_advisory"):
                self.problems.append(f"calls {name}()")
        for part in parts(tree):
            self.together(part)

    def together(self, tree):
        """What must not meet in one statement."""
        own, nodes = self.schema.functions, list(tree)
        calls = {called(n) for n in nodes if isinstance(n, ast.FuncCall)}
        tables = {n.relname for n in nodes if isinstance(n, ast.RangeVar)}
        places = {self.schema.place[t] for t in tables if t in self.schema.place}
        groups = places - {REFERENCE, COORDINATOR}
        if groups:
            for name in sorted(calls & set(own)):
                if own[name].volatility != "immutable":
                    self.refused_why.append(f"calls {name}(), which may ask a table, beside one that is spread")
            if COORDINATOR in places:
                self.refused_why.append("names a table of the coordinator beside one that is spread")
        if len(groups) > 1:
            self.refused_why.append(f"names tables that are spread by {' and by '.join(sorted(groups))}")
        if groups or REFERENCE in places:
            self.volatile(nodes)

    def volatile(self, nodes):
        for node in nodes:
            kind = type(node).__name__
            if kind in ("UpdateStmt", "DeleteStmt"):
                worst, what = {"volatile"}, "an UPDATE or DELETE"
            elif kind == "OnConflictClause":
                worst, what = {"volatile", "stable"}, "ON CONFLICT"
            else:
                continue
            for call in walk(node):
                if isinstance(call, ast.FuncCall) and self.schema.volatility(called(call)) in worst:
                    self.refused_why.append(f"{called(call)}() in {what} is not the same everywhere")
                elif isinstance(call, ast.SQLValueFunction) and kind == "OnConflictClause":
                    self.refused_why.append("the time in ON CONFLICT is not the same everywhere")

    # --- the walk -------------------------------------------------------------------------------------

    def query(self, node, above, terms):
        """One level and all below; what it gives out, {column: term}, and its level."""
        level = Level(terms, above)
        if node.withClause if hasattr(node, "withClause") else None:
            for cte in node.withClause.ctes:
                out, inner = self.query(cte.ctequery, level, terms.copy())
                level.ctes[cte.ctename] = (out, inner)
        kind = type(node).__name__
        if kind == "SelectStmt":
            return self.select(node, level), level
        if kind == "InsertStmt":
            return self.insert(node, level), level
        if kind in ("UpdateStmt", "DeleteStmt"):
            return self.change(node, level), level
        if kind == "CopyStmt":
            return (self.query(node.query, above, terms) if node.query else ({}, level))
        if kind not in FORBIDDEN and kind not in ("CreateStmt", "TruncateStmt", "ExplainStmt"):
            self.problems.append(f"is a {kind}, which is not known here")
        return {}, level

    def select(self, s, level):
        if s.larg:
            self.query(s.larg, level, level.terms.copy())
            self.query(s.rarg, level, level.terms.copy())
            return {}
        if s.valuesLists:
            self.below(s.valuesLists, level)
            return {}
        for item in s.fromClause or ():
            self.source(item, level)
        self.conjuncts(s.whereClause, level)
        parts = (s.fromClause, s.whereClause, s.targetList, s.havingClause, s.groupClause, s.sortClause, s.limitCount)
        self.below(parts, level)
        out = self.targets(s.targetList, level)
        if not s.groupClause:
            level.single = any(isinstance(n, ast.FuncCall) and called(n) in AGGREGATES and not n.over
                               for t in s.targetList or () for n in walk_level(t))
        else:
            level.single = False
        level.closed = bool(level.single or s.groupClause or s.limitCount or s.distinctClause)
        self.finish(level, reads=True, locks=s.lockingClause)
        return out

    def change(self, s, level):
        target = self.rel(s.relation, level)
        for item in getattr(s, "fromClause", None) or getattr(s, "usingClause", None) or ():
            self.source(item, level)
        self.conjuncts(s.whereClause, level)
        column = self.schema.spread(target.table)
        for t in (s.targetList if isinstance(s, ast.UpdateStmt) else ()):
            if column and t.name == column:
                self.problems.append(f"changes {column}, by which {target.table} is spread")
        self.below(tuple(getattr(s, name) for name in s if name not in ("relation", "withClause")), level)
        out = self.targets(s.returningList, level)
        level.single, level.closed = False, True
        self.finish(level, reads=False, locks=None)
        return out

    def insert(self, s, level):
        target = self.rel(s.relation, level)
        column = self.schema.spread(target.table)
        names = [c.name for c in s.cols or ()]
        if column and names and column not in names:
            self.problems.append(f"does not give {column} to {target.table}")
        if s.selectStmt and column and names:
            at = names.index(column) if column in names else 0
            if s.selectStmt.valuesLists:
                for row in s.selectStmt.valuesLists:
                    self.equal(("column", target.number, column), row[at], level)
                if len(s.selectStmt.valuesLists) > 1:
                    self.spread_why.append("gives several rows at once")
                self.below(s.selectStmt.valuesLists, level)
            else:
                _, inner = self.query(s.selectStmt, level, level.terms)
                term = self.term(s.selectStmt.targetList[at].val, inner)
                if term:
                    level.terms.join(("column", target.number, column), term)
        elif s.selectStmt:
            self.query(s.selectStmt, level, level.terms)
        if s.onConflictClause:
            self.below((s.onConflictClause,), level)
            for t in s.onConflictClause.targetList or ():
                if column and t.name == column:
                    self.problems.append(f"changes {column}, by which {target.table} is spread")
        out = self.targets(s.returningList, level)
        level.single, level.closed = False, True
        self.finish(level, reads=False, locks=None)
        return out

    def rel(self, var, level):
        self.n += 1
        alias = var.alias.aliasname if var.alias else var.relname
        rel = Rel(self.n, alias, var.relname, self.schema.columns.get(var.relname))
        if var.relname not in self.schema.columns and var.schemaname is None and \
                not var.relname.startswith("pg_"):
            self.problems.append(f"names {var.relname}, which the schema has not")
        level.rels.append(rel)
        return rel

    def source(self, item, level):
        kind = type(item).__name__
        if kind == "JoinExpr":
            self.source(item.larg, level)
            left = {r.number for r in level.rels}
            self.source(item.rarg, level)
            if item.jointype != JoinType.JOIN_INNER:
                level.outer_join = True
            one_sided = left if item.jointype == JoinType.JOIN_LEFT else set()
            if item.jointype not in (JoinType.JOIN_FULL, JoinType.JOIN_RIGHT):
                self.conjuncts(item.quals, level, one_sided)
        elif kind == "RangeVar" and item.relname in level.ctes:
            out, inner = level.ctes[item.relname]
            self.derived(item.alias.aliasname if item.alias else item.relname, out, inner, level, None)
        elif kind == "RangeVar":
            self.rel(item, level)
        elif kind == "RangeSubselect":
            out, inner = self.query(item.subquery, level, level.terms)
            names = [c.sval for c in item.alias.colnames or ()]
            self.derived(item.alias.aliasname, out, inner, level, names)
        elif kind == "RangeFunction":
            self.n += 1
            names = {c.sval: "" for c in (item.alias.colnames or ())} if item.alias else {}
            level.rels.append(Rel(self.n, item.alias.aliasname if item.alias else "", None, names))
        else:
            self.problems.append(f"has a {kind} in FROM, which is not known here")

    def derived(self, alias, out, inner, level, names):
        """A subquery or WITH query that is named in FROM."""
        self.n += 1
        if names:
            out = dict(zip(names, out.values()))
        rel = Rel(self.n, alias, None, {name: "" for name in out})
        rel.inner = inner
        rel.star = out.get("*")
        for name, term in out.items():
            if term:
                mine = ("column", rel.number, name)
                level.terms.join(mine, term)
                for value in inner.terms.values(term):
                    level.terms.join(mine, ("value", value))
        level.rels.append(rel)

    def below(self, parts, level):
        """Subqueries in expressions, each a level of its own."""
        for part in parts:
            for node in walk_level(part):
                if isinstance(node, ast.SubLink):
                    self.query(node.subselect, level, level.terms.copy())
                elif isinstance(node, ast.ColumnRef):
                    self.resolve(node, level)

    def targets(self, targets, level):
        out = {}
        for t in targets or ():
            if isinstance(t.val, ast.ColumnRef) and isinstance(t.val.fields[-1], ast.A_Star):
                for rel in level.rels:
                    if len(t.val.fields) == 1 or t.val.fields[0].sval == rel.alias:
                        out |= {c: ("column", rel.number, c) for c in rel.columns or ()}
                continue
            name = t.name or (t.val.fields[-1].sval if isinstance(t.val, ast.ColumnRef) else f"?{len(out)}")
            out[name] = self.term(t.val, level) if isinstance(t.val, ast.ColumnRef) else None
        return out

    # --- terms ---------------------------------------------------------------------------------------

    def resolve(self, ref, level):
        """(level, rel, column) of a column, or None: a variable."""
        words = [f.sval for f in ref.fields if isinstance(f, ast.String)]
        if len(words) < len(ref.fields):
            return None
        for scope in level.scopes():
            for rel in scope.rels:
                if (len(words) == 2 and words[0] == rel.alias) or \
                        (len(words) == 1 and words[0] in (rel.columns or ())):
                    if scope is not level:
                        for inner in level.scopes():
                            if inner is scope:
                                break
                            inner.correlated.add(rel)
                    return scope, rel, words[-1]
        if words[0] == "excluded" or len(words) == 1 and any(r.alias == words[0] for r in level.rels):
            return None
        if words[0] not in self.names and self.names:
            self.problems.append(f"names {'.'.join(words)}, which is no column here and no variable")
        return None

    def term(self, node, level):
        """A column, or a value that is known before; None: neither."""
        if isinstance(node, ast.TypeCast):
            return self.term(node.arg, level)
        if isinstance(node, ast.ColumnRef):
            found = self.resolve(node, level)
            if found:
                return "column", found[1].number, found[2]
        for n in walk(node):
            if isinstance(n, ast.SubLink) or isinstance(n, ast.ColumnRef) and self.resolve(n, level):
                return None
            if isinstance(n, ast.FuncCall) and self.schema.volatility(called(n)) == "volatile":
                return None
        return "value", pglast.stream.RawStream()(node) if node else ""

    def equal(self, term, node, level):
        other = self.term(node, level)
        if other:
            level.terms.join(term, other)

    def conjuncts(self, node, level, one_sided=()):
        if isinstance(node, ast.BoolExpr) and node.boolop == BoolExprType.AND_EXPR:
            for arg in node.args:
                self.conjuncts(arg, level, one_sided)
        elif isinstance(node, ast.A_Expr) and node.name[-1].sval == "=":
            left, right = self.term(node.lexpr, level), None
            if node.kind == A_Expr_Kind.AEXPR_OP:
                right = self.term(node.rexpr, level)
            elif left and left[0] == "column" and node.kind in (A_Expr_Kind.AEXPR_OP_ANY, A_Expr_Kind.AEXPR_IN):
                level.several.add(left)
            if left and right and not any(
                    a[0] == "column" and a[1] in one_sided and b[0] == "value"
                    for a, b in ((left, right), (right, left))):
                level.terms.join(left, right)

    # --- the verdict of a level --------------------------------------------------------------------

    def finish(self, level, reads, locks):
        loose = []
        for rel in level.rels:
            column = self.schema.spread(rel.table) if rel.table else None
            if column:
                values = level.terms.values(("column", rel.number, column))
                self.uses.append((rel.table, values))
                if not values:
                    loose.append(("column", rel.number, column))
                    ask = "asks for several values of" if loose[-1] in level.several else "does not name"
                    self.spread_why.append(f"{ask} {column} of {rel.table}")
                    if locks:
                        self.refused_why.append(f"locks rows of {rel.table} in several places at once")
            elif rel.table is None and getattr(rel, "inner", None) is not None:
                inner = rel.inner
                if getattr(inner, "loose", None):
                    if level.outer_join:
                        self.refused_why.append("has an outer join with what comes from several places")
                    if not getattr(inner, "closed", True):
                        loose.extend(inner.loose)
        level.loose = loose
        if len({level.terms.find(t) for t in loose}) > 1:
            self.refused_why.append("joins tables on something else than what they are spread by")
        above = [r for r in level.correlated if self.schema.spread(r.table or "")]
        if loose and above and not any(
                level.terms.find(loose[0]) == level.terms.find(("column", r.number, self.schema.spread(r.table)))
                for r in above):
            self.refused_why.append("has a subquery that hangs on something else than what tables are spread by")

    def judge(self):
        values = [v for _, v in self.uses]
        if values and all(values):
            common = set.intersection(*values)
            if not common:
                self.spread_why.append("names several values of what tables are spread by")
            else:
                self.routed_to = sorted(common)[0]
        self.grade = "refused" if self.refused_why else "spread" if self.spread_why else "routed"


def parts(tree):
    """Nodes of what is planned as one: a SELECT without FROM asks each of its subqueries by itself."""
    if isinstance(tree, ast.SelectStmt) and not tree.fromClause and not tree.larg and not tree.withClause:
        nodes = list(walk_level(tree))
        yield nodes
        for node in nodes:
            if isinstance(node, ast.SubLink):
                yield from parts(node.subselect)
    else:
        yield list(walk(tree))


def walk_level(node):
    """Without what is inside subqueries, which are levels of their own."""
    stack = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, (list, tuple)):
            stack.extend(node)
        elif isinstance(node, ast.Node):
            yield node
            for name in node:
                if not (isinstance(node, ast.SubLink) and name == "subselect") and \
                        not isinstance(node, ast.RangeSubselect):
                    stack.append(getattr(node, name))
