"""Clients that write and read a few registers of a shard and note what they did, for tests/linear.

A write waits for standbys. So does a read that updates the row to what it is. A plain SELECT does not, and neither
does an UPDATE that finds nothing to change: these may be stale on a primary that does not know that it is none any
more, and are noted as plain.
"""

import contextlib
import random
import select
import threading
import time

import psycopg
from psycopg import pq

REGISTERS = 4  # of each round
READ_ONLY = "25006"


def keys_of(number):
    return [f"{number}.{register}" for register in range(1, REGISTERS + 1)]


def make_registers(member, rounds=1):
    with member.connect() as connection:
        connection.execute("CREATE TABLE r (k text PRIMARY KEY, v bigint NOT NULL, was bigint) WITH (fillfactor = 50)")
        for number in range(rounds):
            for key in keys_of(number):
                connection.execute("INSERT INTO r VALUES (%s, 0)", (key,))


class Client(threading.Thread):
    """One after the other, over a session that it keeps as long as that lives, or until it waited for an answer for
    longer than its patience. It knows only these members, and tries them in turn when it has to connect."""

    def __init__(self, number, members, seed, commit, patience=None, only_reads=False):
        super().__init__(daemon=True, name=f"client {number}")
        self.number, self.members, self.chance = number, members, random.Random(f"{seed} {number}")
        self.commit, self.patience = commit, patience
        self.weights = [1, 0, 0, 0, 0] if only_reads else [4, 2, 2, 2, 3]
        self.connection, self.turn, self.written = None, 0, 0
        self.ending, self.problem = False, None
        self.lock, self.operations, self.pending = threading.Lock(), [], None
        self.count, self.round = 0, 0
        self.known = {}  # what it saw last
        self.start()

    def run(self):
        try:
            while not self.ending:
                self.turn_once()
                time.sleep(0.002 + self.chance.random() * 0.008)
        except Exception as error:  # told by the test, which sees no thread's exceptions
            self.problem = repr(error)
        finally:
            self.leave()

    def leave(self):
        with contextlib.suppress(Exception):
            self.connection.close()
        self.connection = None

    def turn_once(self):
        what, operation = self.choose()
        if self.connection is None:
            self.turn += 1
            try:
                self.connection = self.members[self.turn % len(self.members)].connect(connect_timeout=2)
                self.connection.execute(f"SET synchronous_commit = {self.commit}")
            except psycopg.Error:
                self.leave()
                self.note(operation, outcome="fail")  # nothing of it was sent
                return
        self.pending = operation
        try:
            done = getattr(self, what)(operation)
        except psycopg.Error as error:
            refused = error.sqlstate == READ_ONLY  # by a standby, before it did anything
            self.note(operation, outcome="fail" if refused else "unknown")
            if not refused or len(self.members) > 1:
                self.leave()
            return
        if done is None:  # a read of a standby, which is none of the primary
            self.note(operation, outcome="fail")
            return
        self.note(operation, outcome="ok", **done)

    def choose(self):
        what = self.chance.choices(["read", "confirmed", "write", "exchange", "cas"], self.weights)[0]
        key = self.chance.choice(keys_of(self.round))
        kind = {"confirmed": "read", "exchange": "write"}.get(what, what)
        operation = {"client": self.number, "key": key, "op": kind, "call": time.monotonic_ns()}
        if kind == "read":
            operation["plain"] = what == "read"
        else:
            self.written += 1
            operation["value"] = self.number * 10_000_000 + self.written
        if kind == "cas":
            operation["old"] = self.known.get(key, 0)
        return what, operation

    def note(self, operation, **more):
        operation = {**operation, "return": time.monotonic_ns(), **more}
        with self.lock:
            self.pending = None
            self.operations.append(operation)
            self.count += operation["outcome"] == "ok" and not operation.get("plain")

    def history(self):
        """What is under way is unknown."""
        with self.lock:
            under_way = [{**self.pending, "return": 0, "outcome": "unknown"}] if self.pending else []
            return self.operations + under_way

    def one(self, sql, *values):
        """The first row, of numbers, or None. Who loses patience asks for nothing to be cancelled, it just goes."""
        server = self.connection.pgconn
        server.send_query_params(sql.encode(), [str(value).encode() for value in values])
        result = None
        while True:
            while server.is_busy():
                if not select.select([server.socket], [], [], self.patience)[0]:
                    raise psycopg.OperationalError("no answer")
                server.consume_input()
            more = server.get_result()
            if more is None:
                break
            result = more
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.lookup((result.error_field(pq.DiagnosticField.SQLSTATE) or b"08006").decode())
        if result.ntuples == 0:
            return None
        return [int(result.get_value(0, column)) for column in range(result.nfields)]

    def read(self, operation):
        value, standby = self.one("SELECT v, pg_is_in_recovery()::int FROM r WHERE k = $1", operation["key"])
        if standby:
            return None
        self.known[operation["key"]] = value
        return {"output": value}

    def confirmed(self, operation):
        (value,) = self.one("UPDATE r SET v = v WHERE k = $1 RETURNING v", operation["key"])
        self.known[operation["key"]] = value
        return {"output": value}

    def write(self, operation):
        (value,) = self.one("UPDATE r SET v = $1 WHERE k = $2 RETURNING v", operation["value"], operation["key"])
        self.known[operation["key"]] = value
        return {}

    def exchange(self, operation):
        """Knows what it replaced: nothing can be lost before it without being seen."""
        sql = "UPDATE r SET v = $1, was = v WHERE k = $2 RETURNING was"
        (replaced,) = self.one(sql, operation["value"], operation["key"])
        self.known[operation["key"]] = operation["value"]
        return {"output": replaced}

    def cas(self, operation):
        swapped = self.one(
            "UPDATE r SET v = $1 WHERE k = $2 AND v = $3 RETURNING v",
            operation["value"],
            operation["key"],
            operation["old"],
        )
        if swapped:
            self.known[operation["key"]] = operation["value"]
        return {"swapped": swapped is not None, "plain": swapped is None}


class Clients:
    """1 to 3 know all members and go where they are let in. 11 to 13 know only `loyal` and wait for its answers, as
    long as it takes; 13 only reads. 21 knows the others. commit: what they make of synchronous_commit."""

    def __init__(self, members, loyal, seed, commit="on"):
        others = [member for member in members if member is not loyal]
        self.all = [Client(number, members, seed, commit, patience=1) for number in (1, 2, 3)]
        self.all += [Client(number, [loyal], seed, commit, only_reads=number == 13) for number in (11, 12, 13)]
        self.all += [Client(21, others, seed, commit, patience=1)]

    def of(self, number):
        return next(c for c in self.all if c.number == number)

    def turn_to(self, number):
        """Other registers: a history of so many operations of one would take the checker too long."""
        for client in self.all:
            client.round = number

    def acknowledged(self, *numbers):
        """How many writes, and reads that were confirmed, so far, of these clients."""
        return sum(c.count for c in self.all if c.number in numbers)

    def end(self, primary):
        """-> the history of all, and of a look at each register at the end, at who is the primary now."""
        for client in self.all:
            client.ending = True
        for client in self.all:
            client.join(timeout=30)
        assert [c.problem for c in self.all if c.problem] == []
        history = [o for c in self.all for o in c.history()]
        with primary.connect() as connection:
            for key in sorted({o["key"] for o in history}):
                o = {"client": 0, "key": key, "op": "read", "call": time.monotonic_ns(), "outcome": "ok"}
                (o["output"],) = connection.execute("UPDATE r SET v = v WHERE k = %s RETURNING v", (key,)).fetchone()
                history.append({**o, "return": time.monotonic_ns()})
        return history
