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
import traceback

import psycopg
from psycopg import pq

# Which timeline a statement wrote on: with the member's name it says in whose primaryship.
TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
REGISTERS = 4  # of each round
READ_ONLY = "25006"


def keys_of(number):
    return [f"{number}.{register}" for register in range(1, REGISTERS + 1)]


def make_registers(member, rounds=1):
    with member.connect() as connection:
        connection.execute("CREATE TABLE r (k text PRIMARY KEY, v bigint NOT NULL, was bigint) WITH (fillfactor = 50)")
        more_registers(connection, range(rounds))


def more_registers(connection, rounds):
    keys = [key for number in rounds for key in keys_of(number)]
    connection.execute("INSERT INTO r SELECT k, 0 FROM unnest(%s::text[]) k", (keys,))


class Client(threading.Thread):
    """One after the other, over a session that it keeps as long as that lives, or until it waited for an answer for
    longer than its patience. It knows only these members, and tries them in turn when it has to connect."""

    def __init__(self, number, members, seed, commit, patience=None, only_reads=False, first=0):
        super().__init__(daemon=True, name=f"client {number}")
        self.number, self.members, self.chance = number, members, random.Random(f"{seed} {number}")
        self.commit, self.patience = commit, patience
        self.weights = [1, 0, 0, 0, 0] if only_reads else [4, 2, 2, 2, 3]
        self.connection, self.at, self.turn, self.written = None, None, 0, 0
        self.ending, self.problem = False, None
        self.lock, self.operations, self.pending = threading.Lock(), [], None
        self.count, self.round = 0, first
        self.known = {}  # what it saw last
        self.start()

    def run(self):
        try:
            while not self.ending:
                self.turn_once()
                time.sleep(0.002 + self.chance.random() * 0.008)
        except Exception:  # told by the test, which sees no thread's exceptions
            self.problem = f"{self.name} at {self.at}: {traceback.format_exc()}"
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
                member = self.members[self.turn % len(self.members)]
                self.connection, self.at = member.connect(connect_timeout=2), member.name
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
        # a standby may not know the register yet; a primary that does not has lost it, and says what nobody wrote
        sql = "SELECT coalesce((SELECT v FROM r WHERE k = $1), -1), pg_is_in_recovery()::int"
        value, standby = self.one(sql, operation["key"])
        if standby:
            return None
        self.known[operation["key"]] = value
        return {"output": value}

    def confirmed(self, operation):
        value, timeline = self.one(f"UPDATE r SET v = v WHERE k = $1 RETURNING v, {TIMELINE}", operation["key"])
        self.known[operation["key"]] = value
        return {"output": value, "reign": (self.at, timeline)}

    def write(self, operation):
        sql = f"UPDATE r SET v = $1 WHERE k = $2 RETURNING v, {TIMELINE}"
        value, timeline = self.one(sql, operation["value"], operation["key"])
        self.known[operation["key"]] = value
        return {"reign": (self.at, timeline)}

    def exchange(self, operation):
        """Knows what it replaced: nothing can be lost before it without being seen."""
        sql = f"UPDATE r SET v = $1, was = v WHERE k = $2 RETURNING was, {TIMELINE}"
        replaced, timeline = self.one(sql, operation["value"], operation["key"])
        self.known[operation["key"]] = operation["value"]
        return {"output": replaced, "reign": (self.at, timeline)}

    def cas(self, operation):
        swapped = self.one(
            f"UPDATE r SET v = $1 WHERE k = $2 AND v = $3 RETURNING v, {TIMELINE}",
            operation["value"],
            operation["key"],
            operation["old"],
        )
        if swapped:
            self.known[operation["key"]] = operation["value"]
        return {
            "swapped": swapped is not None,
            "plain": swapped is None,
            **({"reign": (self.at, swapped[1])} if swapped else {}),
        }


class Clients:
    """1 to 3 know all members and go where they are let in. 11 to 13 know only `loyal` and wait for its answers, as
    long as it takes; 13 only reads. 21 knows the others. From 31 on there is one for each of `inside`, which reach a
    member in a way of their own, as patient. commit: what they make of synchronous_commit. first: their registers."""

    def __init__(self, members, loyal, seed, commit="on", inside=(), first=0):
        others = [member for member in members if member is not loyal]
        more = {"seed": seed, "commit": commit, "first": first}
        self.all = [Client(number, members, patience=1, **more) for number in (1, 2, 3)]
        self.all += [Client(number, [loyal], only_reads=number == 13, **more) for number in (11, 12, 13)]
        self.all += [Client(21, others, patience=1, **more)]
        self.all += [Client(number, [member], **more) for number, member in enumerate(inside, 31)]

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
        problems = [c.problem for c in self.all if c.problem]
        assert not problems, problems
        history = [o for c in self.all for o in c.history()]
        with primary.connect() as connection:
            for key in sorted({o["key"] for o in history}):
                o = {"client": 0, "key": key, "op": "read", "call": time.monotonic_ns(), "outcome": "ok"}
                (o["output"],) = connection.execute("UPDATE r SET v = v WHERE k = %s RETURNING v", (key,)).fetchone()
                history.append({**o, "return": time.monotonic_ns()})
        return history


def two_heads(history):
    """Writes that one primary acknowledged although they were asked for after a later one had acknowledged something:
    [(write, the later one)]. A primary is a member with a timeline; its place is that of its first acknowledgement."""
    acknowledged = [o for o in history if o["outcome"] == "ok" and "reign" in o]
    first = {}
    for o in sorted(acknowledged, key=lambda o: o["return"]):
        first.setdefault(o["reign"], o["return"])
    reigns = sorted(first, key=first.get)
    return [
        (o, later)
        for o in acknowledged
        for later in reigns[reigns.index(o["reign"]) + 1 :][:1]
        if o["call"] > first[later]
    ]


def longest_gap(history, begun, ended, clients):
    """Seconds without an acknowledged write of these clients, from `begun` on (both by time.monotonic_ns())."""
    times = [o["return"] for o in history if o["outcome"] == "ok" and "reign" in o and o["client"] in clients]
    times = [begun, *sorted(t for t in times if begun < t < ended), ended]
    return max(b - a for a, b in zip(times, times[1:], strict=False)) / 1e9
