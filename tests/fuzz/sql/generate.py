"""Random schemas, values and statements. A case that is left out because it is documented to differ has its reason
in a comment that begins with "Differs"."""
import random

# The SQLite version under test.
SQLITE = (3, 0, 0)
TYPES = ["", "INTEGER", "INT", "TEXT", "VARCHAR(10)", "REAL", "NUMERIC", "BLOB", "DATE"]
ENCODINGS = ["UTF-8"] * 5 + ["UTF-16le", "UTF-16be"]
INTEGERS = [0, 1, 2, 3, 5, -1, 10, 2**31, 2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**63 - 1, 2**63 - 2, -(2**63)]
REALS = [
    0.0, -0.0, 0.5, 1.5, 5.0, 2.25, -1.5, 0.1 + 0.2, 0.3, 1e300, 1e-9, 2e-9, 1e15, 1e18, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63),
    float("inf"), float("-inf"), 1700000000.000001, 1700000000.0000012, 1700000000.0000015,
]
TEXTS = [
    "", "a", "A", "b", "ab", "aB", "AB", "abc", "x", "X", "x%", "xy", "x_", "é", "É", "éa", "\u0100", "\u00ff", "\uff5e", "\U0001f600",
    "£5", "5", "05", "5.0", " 5 ", "1e1", "10", "-0", "-1", ".5", "9007199254740993", "0x10", "1.5", "2024-01-01", "2024-01-31",
    "12", "a ", "a  ", " a", "a:b", ":", "!", "inf", "Inf", "n\"\\", "a*", "[a]", "a\0b", "ab\0", "\0", "1\0", "z", "zz", "~",
]
BLOBS = [b"", b"a", b"ab", b"5", b"\x00\xff", b"\xff", b"AB", b"1.5"]
# Differs: an ordinary index does not find infinity for LIKE 'I%', although its text is Inf.
PATTERNS = ["a%", "A%", "ab%", "%", "_b", "x!%%", "5%", "é%", "£%", "a", "aBcdef%", "a\0%", "-%", "1.5e%", "z%", "\uff5e%"]
GLOBS = ["a*", "A*", "[ab]*", "*", "?b", "5*", "é*", "a\0*", "~*"]


# Differs: in UTF-16, SQLite 3.40 converts the same blob to different text, depending on where the blob comes from.
OF_BYTES = ["a + 1", "-c", "a || b", "b || 'x'", "CAST(c AS TEXT)"]


class Column:
    def __init__(self, name, declared, collation="BINARY", unique=False):
        self.name, self.declared, self.collation, self.unique = name, declared, collation, unique
        self.is_numeric = declared not in ["", "TEXT", "VARCHAR(10)", "BLOB"]


class Table:
    """A table with an integer key `id`, or none, the columns a, b and c, and sometimes the generated column d."""

    def __init__(self, r, name, utf8):
        self.name, self.utf8 = name, utf8
        self.key = "id" if r.random() < 0.7 else "rowid"
        self.written = []
        self.columns = [self._column(r, letter) for letter in "abc"]
        self.generated = [self._generated(r)] if r.random() < 0.25 else []
        self.readable = self.columns + self.generated
        self.names = ", ".join([self.key] + [column.name for column in self.readable])

    def _generated(self, r):
        # Differs: SQLite shows a generated REAL column as an integer in some queries.
        declared = r.choice([declared for declared in TYPES if declared != "REAL"])
        of = r.choice(["a", "length(c)", "coalesce(b, c)", "typeof(a)"] + (OF_BYTES if self.utf8 else []))
        words = ["d", declared, f"AS ({of})", r.choice(["", "STORED", "VIRTUAL"]), r.choice(["", "INDEXED"])]
        self.written.append(" ".join(filter(None, words)))
        return Column("d", declared)

    def _column(self, r, name):
        declared = r.choice(TYPES)
        collation = r.choice(["BINARY"] * 6 + ["NOCASE", "RTRIM"])
        unique = r.random() < 0.12
        words = [name, declared]
        if collation != "BINARY":
            words.append(f"COLLATE {collation}")
        if unique:
            words.append("UNIQUE")
        if r.random() < 0.5:
            words.append("INDEXED")
        if r.random() < 0.1:
            words.append("NOT NULL")
        if r.random() < 0.1:
            words.append(r.choice(["DEFAULT 7", "DEFAULT 'd'", "DEFAULT 1.5"]))
        if r.random() < 0.05:
            words.append(f"CHECK (length({name}) < 12)")
        self.written.append(" ".join(filter(None, words)))
        return Column(name, declared, collation, unique)

    def definition(self, virtual):
        columns = (["id INTEGER PRIMARY KEY"] if self.key == "id" else []) + self.written
        text = ", ".join(columns)
        return text if virtual else text.replace(" INDEXED", "")

    @property
    def is_free(self):
        """Whether the table has no constraint, so any row is allowed."""
        return not any(word in written for written in self.written for word in ("UNIQUE", "NOT NULL", "CHECK", "DEFAULT", " AS "))


def value(r):
    """A value to bind."""
    kind = r.random()
    if kind < 0.08:
        return None
    if kind < 0.3:
        return r.randrange(-3, 13)
    if kind < 0.42:
        return r.choice(INTEGERS)
    if kind < 0.6:
        return r.choice(REALS)
    if kind < 0.93:
        return r.choice(TEXTS)
    return r.choice(BLOBS)


def literal(item):
    """The value as an SQL literal; `None` where it has no exact spelling."""
    if item is None:
        return "NULL"
    if isinstance(item, bytes):
        return f"x'{item.hex()}'"
    if isinstance(item, str):
        return None if "\0" in item else "'" + item.replace("'", "''") + "'"
    if isinstance(item, float):
        return repr(item) if abs(item) < 1e15 and item == item and len(repr(item)) < 15 else None
    return str(item) if item > -(2**63) else None


class Query:
    """A statement under construction: its text and its bound values."""

    def __init__(self, r, tables, local):
        self.r, self.tables, self.local, self.values = r, tables, local, []

    def operand(self, outer=None):
        """The other side of a comparison: a parameter, a literal, a cast, or a column of another table."""
        r, item = self.r, value(self.r)
        choice = r.random()
        if outer and choice < 0.5:
            return f"{outer}.{r.choice(self.local)}"
        if choice < 0.75:
            self.values.append(item)
            return "?"
        text = literal(item)
        if text is None:
            self.values.append(item)
            return "?"
        if choice < 0.85:
            return text
        if choice < 0.93:
            return f"CAST({text} AS {r.choice(['INTEGER', 'TEXT', 'REAL', 'NUMERIC', 'BLOB'])})"
        return f"(SELECT {r.choice(self.local)} FROM u WHERE rowid = {r.randrange(1, 12)})"

    def condition(self, table, name, outer=None):
        """A condition on one row of the table `name`."""
        r = self.r
        column = r.choice([table.key] + ["a", "b", "c"] * 2 + [column.name for column in table.generated] * 2)
        c = f"{name}.{column}"
        choice = r.randrange(27)
        if choice < 8:
            return f"{c} {r.choice(['=', '<', '<=', '>', '>='])} {self.operand(outer)}"
        if choice == 8:
            return f"{self.operand(outer)} {r.choice(['=', '<', '<=', '>', '>='])} {c}"
        if choice < 11:
            return f"{c} BETWEEN {self.operand(outer)} AND {self.operand(outer)}"
        if choice < 13:
            return f"{c} IN ({', '.join(self.operand(outer) for _ in range(r.randrange(1, 4)))})"
        if choice == 13:
            return f"{c} {r.choice(['IN', 'IN', 'NOT IN'])} (SELECT {r.choice(self.local)} FROM u)"
        if choice == 14:
            return f"{c} LIKE {self.pattern(PATTERNS)}{r.choice(['', '', ' ESCAPE ' + chr(39) + '!' + chr(39)])}"
        if choice == 15:
            return f"{c} GLOB {self.pattern(GLOBS)}"
        if choice == 16:
            return f"{c} IS {r.choice(['NULL', 'NOT NULL'])}"
        if choice == 17:
            return f"{c} {r.choice(['IS', 'IS NOT', '<>'])} {self.operand(outer)}"
        if choice == 18:
            return f"{c} {r.choice(['=', '<', '>=', 'IS'])} {name}.{r.choice('abc')}"
        if choice == 19:
            return f"+{c} {r.choice(['=', '<', '>'])} {self.operand(outer)}"
        if choice == 20:
            return f"{c} COLLATE {r.choice(['NOCASE', 'BINARY', 'RTRIM'])} {r.choice(['=', '<', '>'])} {self.operand(outer)}"
        if choice == 21:
            return f"({name}.a, {name}.b) {r.choice(['=', '<', '>', '>=', '<='])} ({self.operand(outer)}, {self.operand(outer)})"
        if choice == 22:
            # Differs: see "a list of columns" in docs/virtual-table.md.
            pair = [f"{'' if one.is_numeric else '+'}{name}.{one.name}" for one in table.columns[:2]]
            return f"({', '.join(pair)}) IN (SELECT {r.choice(self.local)}, {r.choice(self.local)} FROM u)"
        if choice == 23:
            return f"{c} = {name}.{r.choice('abc')} || ''"
        if choice == 24:
            return f"typeof({c}) = '{r.choice(['integer', 'real', 'text', 'blob', 'null'])}'"
        if choice == 25:
            # Differs: where EXISTS is the whole condition, SQLite 3.51 counts a row for OFFSET once for each match.
            return f"EXISTS (SELECT 1 FROM u AS e WHERE e.{r.choice(self.local)} {r.choice(['=', '<', '>'])} {c}) IS TRUE"
        return f"{c} >= {self.operand(outer)} AND {c} < {self.operand(outer)}"

    def pattern(self, patterns):
        item = self.r.choice(patterns)
        text = literal(item)
        if text is None or self.r.random() < 0.3:
            self.values.append(item)
            return "?"
        return text

    def where(self, table, name, outer=None):
        r = self.r
        if r.random() < 0.15:
            return ""
        text = self.condition(table, name, outer)
        while r.random() < 0.4:
            text = f"{text} {r.choice(['AND', 'AND', 'OR'])} {self.condition(table, name, outer)}"
        return f" WHERE {text}"

    def limit(self):
        r = self.r
        limit, offset = r.choice([-1, 0, 1, 2, 3, 5, 10]), r.choice([0, 0, 1, 2, 3, 7, 499, 500, 501, 800, -1])
        if r.random() < 0.5:
            self.values += [limit, offset]
            return " LIMIT ? OFFSET ?"
        return r.choice([f" LIMIT {limit}", f" LIMIT {limit} OFFSET {offset}"])

    def select(self):
        """A query, and how its answer is compared: "exact": all rows; "count": the number of rows; a collation: the rows,
        where values that are equal in the collation count as the same."""
        r = self.r
        table = r.choice(self.tables)
        t, key = table.name, table.key
        return r.choice([self._rows, self._rows, self._sorted, self._page, self._page, self._count, self._group, self._extreme, self._join,
                         self._join, self._correlated, self._correlated, self._compound, self._distinct])(table, t, key)

    def _rows(self, table, t, key):
        where = self.where(table, t)
        direction = self.r.choice(["", " DESC"])
        limit = self.limit() if self.r.random() < 0.5 else ""
        return f"SELECT {table.names} FROM {t}{where} ORDER BY {key}{direction}{limit}", "exact"

    def _sorted(self, table, t, key):
        r = self.r
        where = self.where(table, t)
        terms = [f"{r.choice(table.readable).name}{r.choice(['', '', ' DESC', ' COLLATE NOCASE'])}" for _ in range(r.randrange(1, 3))]
        limit = self.limit() if r.random() < 0.6 else ""
        return f"SELECT {table.names} FROM {t}{where} ORDER BY {', '.join(terms)}, {key}{limit}", "exact"

    def _page(self, table, t, key):
        column = self.r.choice(table.readable)
        where = self.where(table, t)
        direction = self.r.choice(["", " DESC", "", " DESC", " NULLS LAST", " DESC NULLS FIRST"])
        sql = f"SELECT {column.name} FROM {t}{where} ORDER BY {column.name}{direction}"
        return sql + (self.limit() if self.r.random() < 0.8 else ""), column.collation

    def _count(self, table, t, key):
        where = self.where(table, t)
        order = self.r.choice(["", " ORDER BY a", " ORDER BY b DESC", " ORDER BY c"])
        return f"SELECT {key}, a FROM {t}{where}{order}{self.limit()}", "count"

    def _group(self, table, t, key):
        column = self.r.choice(table.readable)
        where = self.where(table, t)
        return f"SELECT min({column.name}), count(*), sum({key} & 1023) FROM {t}{where} GROUP BY {column.name} ORDER BY {column.name}", column.collation

    def _distinct(self, table, t, key):
        column = self.r.choice(table.readable)
        where = self.where(table, t)
        return f"SELECT DISTINCT {column.name} FROM {t}{where} ORDER BY {column.name}{self.r.choice(['', ' DESC'])}", column.collation

    def _extreme(self, table, t, key):
        column = self.r.choice(table.readable)
        function = self.r.choice(["min", "max"])
        return f"SELECT {function}({column.name}) FROM {t}{self.where(table, t)}", column.collation

    def _join(self, table, t, key):
        r = self.r
        other, other_key, columns = ("u", "rowid", self.local)
        if len(self.tables) > 1 and r.random() < 0.3:
            second = next(o for o in self.tables if o is not table)
            other, other_key, columns = second.name, second.key, "abc"
        join = r.choice(["JOIN", "LEFT JOIN", "CROSS JOIN", "JOIN"])
        left, right = (t, other) if r.random() < 0.5 else (other, t)
        sides = [f"{t}.{r.choice('abc')}", f"{other}.{r.choice(columns)}"]
        # Differs: the Bloom filters of SQLite before 3.41 ignore collations.
        if SQLITE < (3, 41) and any(column.collation != "BINARY" for one in self.tables for column in one.columns):
            sides = [f"+{side}" for side in sides]
        r.shuffle(sides)
        on = f"{sides[0]} {r.choice(['=', '=', '=', '<', '>', '<=', '>=', 'IS'])} {sides[1]}"
        where = self.where(table, t, other if other == "u" else None)
        limit = self.limit() if r.random() < 0.3 else ""
        keys = f"{t}.{key}, {other}.{other_key}"
        return f"SELECT {keys} FROM {left} {join} {right} ON {on}{where} ORDER BY {keys}{limit}", "exact"

    def _correlated(self, table, t, key):
        r = self.r
        column = r.choice(table.readable)
        where = self.where(table, t, "u")
        order = f" ORDER BY {t}.{column.name}{r.choice(['', ' DESC'])}"
        choice = r.randrange(4)
        if choice == 0:
            inner = f"(SELECT {t}.{column.name} FROM {t}{where}{order}{self.limit()})"
        elif choice == 1:
            inner = f"EXISTS (SELECT 1 FROM {t}{where})"
        elif choice == 2:
            inner = f"(SELECT count(*) FROM {t}{where})"
        else:
            inner = f"u.{r.choice(self.local)} IN (SELECT {column.name} FROM {t}{where})"
        return f"SELECT u.rowid, {inner} FROM u ORDER BY u.rowid", column.collation

    def _compound(self, table, t, key):
        r = self.r
        first, second = self.where(table, t), self.where(table, t)
        operator = r.choice(["UNION ALL", "EXCEPT", "INTERSECT"])
        limit = self.limit() if r.random() < 0.5 else ""
        return f"SELECT {key} AS k FROM {t}{first} {operator} SELECT {key} FROM {t}{second} ORDER BY k{limit}", "exact"


def insert(r, table, rowid):
    names, given = [table.key], [rowid]
    for column in table.columns:
        if r.random() < 0.9:
            names.append(column.name)
            given.append(value(r))
    # Differs: a virtual table can't tell OR ABORT from a missing clause. A constraint's own ON CONFLICT is not generated.
    clause = r.choice(["", "", "", "OR REPLACE ", "OR IGNORE ", "OR FAIL ", "OR ROLLBACK "])
    return f"INSERT {clause}INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", given


def fill(r, table, count):
    """Inserts many rows at once, with values that share keys or scores of an index."""
    of = {
        "small": "i % 7", "text": "'x' || (i % 5)", "micro": "1700000000.0 + i * 0.0000001", "large": "9007199254740990 + i",
        "mixed": "CASE i % 4 WHEN 0 THEN i % 9 WHEN 1 THEN '0' || (i % 9) WHEN 2 THEN (i % 9) + 0.5 ELSE CAST(i % 9 AS TEXT) END",
        "null": "nullif(i % 3, 0)",
    }
    exprs = [of[r.choice(list(of))] for _ in table.columns]
    names = ", ".join([table.key] + [column.name for column in table.columns])
    return (f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            f"INSERT OR IGNORE INTO {table.name} ({names}) SELECT 1000 + i, {', '.join(exprs)} FROM n"), []


def change(r, query, table):
    """UPDATE or DELETE."""
    if r.random() < 0.35:
        return f"DELETE FROM {table.name}{query.where(table, table.name)}", query.values
    columns = r.sample(table.columns, r.choice([1, 1, 2]))
    clause = r.choice(["", "", "OR IGNORE ", "OR REPLACE "])
    set_ = [f"{column.name} = {_new(r, query)}" for column in columns]
    moves = r.random() < 0.15
    if moves:
        set_.append(f"{table.key} = {r.choice(['?', table.key + ' % 1000 + 40'])}")
        if set_[-1].endswith("?"):
            query.values.append(r.randrange(-2, 30))
    # Differs: an UPDATE of many rows computes all new rows before it changes the first, so rows that conflict with each
    # other end otherwise. In a table with UNIQUE, and where rowids change, only one row is updated.
    if moves or any(column.unique for column in table.columns):
        query.values.append(r.randrange(1, 15))
        where = f" WHERE {table.key} = ?"
    else:
        where = query.where(table, table.name)
    return f"UPDATE {clause}{table.name} SET {', '.join(set_)}{where}", query.values


def _new(r, query):
    """The new value of a column in an UPDATE."""
    if r.random() < 0.3:
        return r.choice(["a", "b", "c", "NULL", "(SELECT max(x) FROM u)"] + (OF_BYTES if query.tables[0].utf8 else []))
    query.values.append(value(r))
    return "?"


def copy(r, query, table):
    """INSERT ... SELECT from the same table or the other one."""
    source = r.choice([table.name, "u"])
    columns = ["a", "b", "c"] if source == table.name else r.sample(query.local, 3)
    # Differs: the order of the rows decides which of two conflicting rows stays.
    key = table.key if source == table.name else "rowid"
    where = query.where(table, table.name) if source == table.name else ""
    clause = r.choice(["", "OR REPLACE ", "OR IGNORE "])
    return (f"INSERT {clause}INTO {table.name} ({table.key}, a, b, c) SELECT {key} % 1000 + 50, {', '.join(columns)} "
            f"FROM {source}{where} ORDER BY {key}"), query.values


def local_table(r):
    """The ordinary table `u` on both sides."""
    types = r.sample(["", "INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB"], 3)
    names = ["x", "y", "z"]
    rows = [[value(r) for _ in names] for _ in range(8)]
    definition = ", ".join(f"{name} {declared}" for name, declared in zip(names, types))
    index = r.choice([[], ["CREATE INDEX iu ON u (x)"]])
    return [f"CREATE TABLE u ({definition})", *index], rows
