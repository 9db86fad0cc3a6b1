"""Compares a virtual table with an ordinary one: the same random statements must have the same outcome on both.

    python3 tests/fuzz/sql EXTENSION [--seconds N] [--seed N] [--sessions N] [--host sqlite3|apsw|pysqlite3]

The number of a session determines its schema and statements. A session that differs is shortened as far as possible and
printed with its number (`--seed NUMBER --sessions 1` repeats it), and the exit status is 1."""
import argparse
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback

import generate
from sides import Failure, Server, alike, die_with_parent, host, shown

# Seconds after which a session counts as hung. Shortening a session takes a while.
HANGS = 300
FOLD = str.maketrans("äÄéÉ", "aaee")


def own_like(pattern, item):
    """An application's own LIKE: it ignores case and accents, and supports a prefix pattern only."""
    if pattern is None or item is None:
        return None
    text = [str(x, "latin-1") if isinstance(x, bytes) else str(x) for x in (pattern, item)]
    pattern, item = (x.translate(FOLD).lower() for x in text)
    return item.startswith(pattern.rstrip("%"))


class Session:
    """The start and the steps of a session. A step is (who, statement, bound values, how the answer is compared). "a" and "b" are
    two connections to the virtual table, for which the ordinary side has one; "index a" and "index b" run only on the
    virtual side; "both" runs on all connections."""

    def __init__(self, number):
        r = self.r = random.Random(number)
        self.encoding = r.choice(generate.ENCODINGS)
        self.tables = [generate.Table(r, name, self.encoding == "UTF-8") for name in ["t", "s"][: r.choice([1, 1, 2])]]
        self.setup, self.local_rows = generate.local_table(r)
        self.own_like = r.random() < 0.1
        # Rows that another program wrote before the table was created.
        free = self.tables[0].is_free and r.random() < 0.3
        texts = [text for text in generate.TEXTS if "\0" not in text]
        self.found = [[r.choice(texts + [None]) for _ in "abc"] for _ in range(r.randrange(1, 20))] if free else []
        self.steps = [self._insert() for _ in range(r.randrange(2, 16))]
        if r.random() < 0.12:
            self.steps.append(("a", *generate.fill(r, self.tables[0], r.choice([40, 600, 1300])), None))
        self.steps += [self._step() for _ in range(r.randrange(10, 60))]

    def _query(self):
        return generate.Query(self.r, self.tables, ["x", "y", "z"])

    def _insert(self):
        r = self.r
        # Differs: the rowid of a deleted row is not used again, so each INSERT gives one.
        # Differs: SQLite finds no rowid by an equal real at either end of the integers.
        rowid = r.choice([r.randrange(-2, 30)] * 12 + [2**63 - 8, -(2**63) + 8])
        return ("a" if r.random() < 0.8 else "b", *generate.insert(r, r.choice(self.tables), rowid), None)

    def _step(self):
        r = self.r
        choice = r.random()
        who = "a" if r.random() < 0.8 else "b"
        if choice < 0.2:
            return self._insert()
        if choice < 0.3:
            return (who, *generate.change(r, self._query(), r.choice(self.tables)), None)
        if choice < 0.32:
            return (who, *generate.copy(r, self._query(), r.choice(self.tables)), None)
        if choice < 0.42:
            # Differs: inside a transaction both sides refuse BEGIN, so nothing more is compared.
            return ("a", r.choice(["BEGIN", "COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT p", "SAVEPOINT q", "RELEASE p", "RELEASE q",
                                   "ROLLBACK TO p", "ROLLBACK TO q"]), [], None)
        if choice < 0.49:
            function = r.choice(["redis_create_index", "redis_drop_index"])
            table = r.choice(self.tables)
            return ("index " + who, f"SELECT {function}(?, ?)", [table.name, r.choice(table.readable).name], None)
        if choice < 0.5:
            return ("both", f"PRAGMA case_sensitive_like={r.choice(['ON', 'OFF'])}", [], None)
        query = self._query()
        sql, compared = query.select()
        return (who, sql, query.values, compared)


class Difference(Exception):
    pass


class Sides:
    """A session that runs on both sides."""

    def __init__(self, session, open_, server, extension):
        self.session, self.server = session, server
        server.command("FLUSHALL")
        self.ordinary = open_(session.encoding)
        self.virtual = {name: open_(session.encoding) for name in "ab"}
        for n, row in enumerate(session.found, 101):
            fields = [x for name, text in zip("abc", row) if text is not None for x in (name, text)]
            if fields:
                server.command("HSET", f"p.main.t:{n}", *fields)
                server.command("ZADD", "p.main.t.index.rowid", n, n)
        for side in self.all():
            if side is not self.ordinary:
                side.load(extension)
            if session.own_like:
                side.function("like", 2, own_like)
            for sql in session.setup:
                side.run(sql)
            for row in session.local_rows:
                side.run("INSERT INTO u VALUES (?, ?, ?)", row)
        for table in session.tables:
            self.ordinary.run(f"CREATE TABLE {table.name} ({table.definition(False)})")
            for side in self.virtual.values():
                side.run(f"CREATE VIRTUAL TABLE {table.name} USING redis('{server.url}', p, {table.definition(True)})")
        key = session.tables[0].key
        for n, row in enumerate(session.found, 101):
            if any(text is not None for text in row):
                self.ordinary.run(f"INSERT INTO t ({key}, a, b, c) VALUES (?, ?, ?, ?)", [n, *row])

    def all(self):
        return [self.ordinary, *self.virtual.values()]

    def close(self):
        for side in self.all():
            side.close()

    def compare(self, side, sql, values, compared):
        answers = []
        for connection in (self.ordinary, side):
            try:
                rows = connection.run(sql, values)
                if compared == "count":
                    answers.append(len(rows))
                elif compared == "exact":
                    answers.append([[shown(x) for x in row] for row in rows])
                elif compared:
                    answers.append([[shown(alike(x, compared)) for x in row] for row in rows])
                else:
                    answers.append("done")
            except Failure as failure:
                answers.append((failure.code, failure.message))
        if answers[0] != answers[1]:
            raise Difference(f"ordinary: {answers[0]}\nvirtual:  {answers[1]}")

    def run(self, step):
        who, sql, values, compared = step
        inside = self.virtual["a"].db.in_transaction
        if who.startswith("index"):
            # Differs: an ordinary table has no such functions, and the index of a UNIQUE column can't be dropped.
            side = self.virtual[who[-1]]
            if not inside:
                try:
                    side.run(sql, values)
                except Failure as failure:
                    if "UNIQUE" not in failure.message:
                        raise Difference(f"{failure}") from None
            return
        if who == "both":
            for side in self.all():
                side.run(sql)
            return
        if who == "b" and inside:
            # Differs: an open transaction sees another connection's writes, or its commit fails.
            who = "a"
        if sql == "BEGIN" or sql.startswith("SAVEPOINT") and not inside:
            # Differs: without a statement in between, a transaction may be refused because of the rows that the one before read.
            for table in self.session.tables:
                self.virtual["a"].run(f"SELECT 1 FROM {table.name} LIMIT 1")
        self.compare(self.virtual[who], sql, values, compared)
        if compared is None:
            self.same(self.virtual[who])
        if self.ordinary.db.in_transaction != self.virtual["a"].db.in_transaction:
            raise Difference("one side is in a transaction, the other is not")

    def same(self, side):
        for table in self.session.tables:
            self.compare(side, f"SELECT {table.names} FROM {table.name} ORDER BY {table.key}", [], "exact")

    def end(self):
        """Compares both connections' rows, by scan and by each column."""
        if self.ordinary.db.in_transaction:
            self.compare(self.virtual["a"], "COMMIT", [], None)
        for side in self.virtual.values():
            self.same(side)
            for table in self.session.tables:
                for column in table.readable:
                    sql = f"SELECT {column.name} FROM {table.name} ORDER BY {column.name} LIMIT -1"
                    self.compare(side, sql, [], column.collation)


def difference(session, steps, *context):
    """The first difference, and the number of the step that shows it; None if there is none."""
    sides = Sides(session, *context)
    try:
        for n, step in enumerate(steps):
            try:
                sides.run(step)
            except Difference as found:
                return n, str(found)
        try:
            sides.end()
        except Difference as found:
            return len(steps), f"at the end\n{found}"
        return None
    finally:
        sides.close()


def shortened(session, steps, *context):
    """The steps without those that the difference does not need."""
    size = max(1, len(steps) // 2)
    while True:
        at = len(steps)
        while at > 0:
            at = max(0, at - size)
            fewer = steps[:at] + steps[at + size:]
            found = difference(session, fewer, *context)
            if found:
                steps = fewer[: found[0] + 1]
                at = min(at, len(steps))
        if size == 1:
            return steps
        size //= 2


def report(number, session, steps, found, version):
    print(f"Session {number} differs, SQLite {version}:")
    print(f"PRAGMA encoding='{session.encoding}';{' -- with an own like()' if session.own_like else ''}")
    for table in session.tables:
        print(f"CREATE VIRTUAL TABLE {table.name} USING redis(..., {table.definition(True)});")
    for sql in session.setup:
        print(sql + ";")
    print("-- u holds", session.local_rows)
    if session.found:
        print("-- rows from 101 on that another program wrote:", session.found)
    for who, sql, values, _ in steps:
        print(f"{who}: {sql}; {values or ''}")
    print(found[1])


def compare(options, first, at):
    """Compares session after session. Calls `at` with the number of each session before it runs."""
    open_, version = host(options.host)
    print(f"SQLite {version} of {options.host}, starting with session {first}", flush=True)
    generate.SQLITE = tuple(int(number) for number in version.split("."))
    server = Server()
    end, number, differences = time.monotonic() + options.seconds, first, 0
    try:
        while time.monotonic() < end and (options.sessions is None or number < first + options.sessions):
            at(number)
            session = Session(number)
            context = (open_, server, options.extension)
            found = difference(session, session.steps, *context)
            if found:
                steps = shortened(session, session.steps[: found[0] + 1], *context)
                report(number, session, steps, difference(session, steps, *context), version)
                differences += 1
                if not options.go_on:
                    return 1
            number += 1
    finally:
        server.stop()
    print(f"{number - first} sessions, {differences} with a difference", flush=True)
    return int(differences > 0)


def supervised(run, host):
    """Runs the sessions in a child process, so that a crash or a hang is reported with the session's number."""
    shared = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        status = 2
        die_with_parent()
        try:
            status = run(lambda number: struct.pack_into("q", shared, 0, number))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    seen, since = None, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        number = struct.unpack_from("q", shared)[0]
        if ended:
            if os.WIFSIGNALED(status):
                print(f"Session {number} of {host} ended by signal {os.WTERMSIG(status)}")
                return 1
            if os.WEXITSTATUS(status) == 2:
                print(f"Session {number} of {host} failed")
            return os.WEXITSTATUS(status)
        if number != seen:
            seen, since = number, time.monotonic()
        if time.monotonic() - since > HANGS:
            print(f"Session {number} of {host} has not ended after {HANGS} s")
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 1
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("extension")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="number of the first session (default: random)")
    parser.add_argument("--sessions", type=int, help="maximum number of sessions")
    parser.add_argument("--host", default="sqlite3", choices=["sqlite3", "apsw", "pysqlite3"])
    parser.add_argument("--go-on", action="store_true", help="continue after a difference")
    options = parser.parse_args()
    first = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    return supervised(lambda at: compare(options, first, at), options.host)


sys.exit(main())
