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

KEYS = ("k1", "k2", "k3", "k4")
READ_ONLY = "25006"


def make_registers(member):
    with member.connect() as connection:
        connection.execute("CREATE TABLE r (k text PRIMARY KEY, v bigint NOT NULL) WITH (fillfactor = 50)")
        for key in KEYS:
            connection.execute("INSERT INTO r VALUES (%s, 0)", (key,))


class Client(threading.Thread):
    """One after the other, over a session that it keeps as long as that lives, or until it waited for an answer for
    longer than its patience. It knows only these members, and tries them in turn when it has to connect."""

    def __init__(self, number, members, seed, commit, patience=None, only_reads=False):
        super().__init__(daemon=True, name=f"client {number}")
        self.number, self.members, self.chance = number, members, random.Random(f"{seed} {number}")
        self.commit, self.patience = commit, patience
        self.weights = [1, 0, 0, 0] if only_reads else [4, 2, 3, 3]
        self.connection, self.turn, self.written = None, 0, 0
        self.ending, self.problem = False, None
        self.lock, self.operations, self.pending = threading.Lock(), [], None
        self.known = dict.fromkeys(KEYS, 0)  # what it saw last
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
        operation = self.choose()
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
            done = getattr(self, operation["op"])(operation)
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
        what = self.chance.choices(["read", "confirmed", "write", "cas"], self.weights)[0]
        operation = {"client": self.number, "key": self.chance.choice(KEYS), "op": what, "call": time.monotonic_ns()}
        if what == "read":
            operation["plain"] = True
        elif what == "confirmed":
            operation["op"], operation["plain"] = "read", False
        else:
            self.written += 1
            operation["value"] = self.number * 10_000_000 + self.written
        if what == "cas":
            operation["old"] = self.known[operation["key"]]
        return operation

    def note(self, operation, **more):
        operation = {**operation, "return": time.monotonic_ns(), **more}
        with self.lock:
            self.pending = None
            self.operations.append(operation)

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
        if operation["plain"]:
            value, standby = self.one("SELECT v, pg_is_in_recovery()::int FROM r WHERE k = $1", operation["key"])
            if standby:
                return None
        else:
            (value,) = self.one("UPDATE r SET v = v WHERE k = $1 RETURNING v", operation["key"])
        self.known[operation["key"]] = value
        return {"output": value}

    def write(self, operation):
        (value,) = self.one("UPDATE r SET v = $1 WHERE k = $2 RETURNING v", operation["value"], operation["key"])
        self.known[operation["key"]] = value
        return {}

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
    """Three that know all members and go where they are let in, and three that know only `loyal` and stay: two as the
    others, and one that only reads. commit: what they make of synchronous_commit."""

    def __init__(self, members, loyal, seed, commit="on"):
        self.all = [Client(number, members, seed, commit, patience=1) for number in (1, 2, 3)]
        self.all += [Client(number, [loyal], seed, commit, only_reads=number == 13) for number in (11, 12, 13)]

    def acknowledged(self, *numbers):
        """How many writes, and reads that were confirmed, so far; of these clients, or of all."""
        chosen = [c for c in self.all if not numbers or c.number in numbers]
        return sum(o["outcome"] == "ok" and not o.get("plain") for c in chosen for o in c.history())

    def end(self, primary):
        """-> the history of all, and of a look at each register at the end, at who is the primary now."""
        for client in self.all:
            client.ending = True
        for client in self.all:
            client.join(timeout=30)
        assert [c.problem for c in self.all if c.problem] == []
        history = [o for c in self.all for o in c.history()]
        with primary.connect() as connection:
            for key in KEYS:
                o = {"client": 0, "key": key, "op": "read", "call": time.monotonic_ns(), "outcome": "ok"}
                (o["output"],) = connection.execute("UPDATE r SET v = v WHERE k = %s RETURNING v", (key,)).fetchone()
                history.append({**o, "return": time.monotonic_ns()})
        return history
