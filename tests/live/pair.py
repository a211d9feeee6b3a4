"""A move without a manager: two shards, and the functions of shard.sql in the order in which the manager calls them.

with Pair(server, "a1", ACCOUNTS, accounts="k") as pair:      # source owns all, the upper half of the hashes moves
    pair.replicate()                                          # copy under an exported snapshot, then the subscription
    pair.cut_over()                                           # fence, marker, opening
    pair.finish()

Both are databases of one server: as good as two for everything but a death.
"""

import contextlib

import psycopg
from conftest import wait_until
from guarded import LEAST, MOST, Shard, open_gate

REPEATABLE_READ = psycopg.IsolationLevel.REPEATABLE_READ
ACCOUNTS = "CREATE TABLE accounts (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0, pad text)"
SETTINGS = {
    "wal_level": "logical",
    "max_prepared_transactions": "5",
    "max_worker_processes": "16",
    "max_replication_slots": "20",
    "max_logical_replication_workers": "8",
    "max_connections": "100",
    "wal_retrieve_retry_interval": "100ms",  # a worker that failed comes back soon
    "logical_decoding_work_mem": "64kB",  # what is large here is large for the decoder
}


class Pair:
    def __init__(self, server, name, schema=ACCOUNTS, source=((LEAST, MOST),), target=(), **tables):
        self.server, self.move, self.epoch = server, "m1", 1
        self.lo, self.hi = 0, MOST
        self.tables = tables or {"accounts": "k"}
        self.source, self.target = Shard(server, f"{name}s"), Shard(server, f"{name}t")
        self.inside, self.outside = self.source.owned, self.source.foreign
        self.source.make(schema, ranges=source, **self.tables)
        self.target.make(schema, ranges=target, **self.tables)
        self.subscribed = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.subscribed:
            self.unsubscribe()
        self.drop_slots()
        self.source.close()
        self.target.close()

    @property
    def slot(self):
        return f"shardherd_{self.source.name}_{self.move}_f"

    # ---- rows ----

    def fill(self):
        """Every key of both halves, on the source; of the table accounts."""
        self.source.run("INSERT INTO accounts (k) SELECT generate_series(1, 400)")

    def rows(self, shard, table, on=None):
        """Of the moving range."""
        key = self.tables[table]
        inside = f"hashint8extended({key}, 0) BETWEEN {self.lo} AND {self.hi}"
        return shard.run(f"SELECT x::text FROM {table} x WHERE {inside} ORDER BY 1", on=on)

    def assert_equal(self):
        for table in self.tables:
            assert self.rows(self.source, table) == self.rows(self.target, table), table

    # ---- steps ----

    def freeze(self):
        for shard in (self.source, self.target):
            patiently(shard, "SELECT shardherd.freeze(1, %s, %s, %s)", self.move, self.lo, self.hi)

    def unfreeze(self):
        for shard in (self.source, self.target):
            patiently(shard, "SELECT shardherd.unfreeze(1, %s)", self.move)

    def copy(self):
        """Publication, slot, and the rows of its snapshot."""
        s, t = self.source, self.target
        s.run("SELECT shardherd.publish_range(1, %s, %s, %s, %s)", self.move, self.slot, self.lo, self.hi)
        exporter, reader = s.connect(replication="database"), s.connect(autocommit=False)
        made = s.run(f"CREATE_REPLICATION_SLOT \"{self.slot}\" LOGICAL pgoutput (SNAPSHOT 'export')", on=exporter)
        reader.isolation_level = REPEATABLE_READ
        s.run(f"SET TRANSACTION SNAPSHOT '{made[0][2]}'", on=reader)
        heaps = "SELECT relation, root, columns, filter, is_binary FROM shardherd.copy_heaps(%s, %s)"
        with t.replicating() as writer:
            t.run("SET session_replication_role = replica", on=writer)
            for relation, root, columns, condition, binary in s.run(heaps, self.lo, self.hi, on=reader):
                form = "FORMAT binary" if binary else "FORMAT text"
                out = f"COPY (SELECT {columns} FROM ONLY {relation} WHERE {condition}) TO STDOUT ({form})"
                into = f"COPY {root} ({columns}) FROM STDIN ({form})"
                with reader.cursor().copy(out) as rows, writer.cursor().copy(into) as sink:
                    for data in rows:
                        sink.write(data)
        reader.close()
        exporter.close()

    def subscribe(self, **options):
        text = "".join(f", {name} = {value}" for name, value in options.items())
        self.target.run("SELECT shardherd.await_markers(1, %s, %s)", self.move, self.slot)
        self.target.run(
            f"CREATE SUBSCRIPTION {self.slot} CONNECTION '{self.server.conninfo(self.source.name)}' PUBLICATION "
            f"{self.slot} WITH (copy_data = false, create_slot = false, synchronous_commit = 'off'{text})"
        )
        self.subscribed = self.slot

    def replicate(self, **options):
        self.copy()
        self.subscribe(**options)

    def write_marker(self, on=None):
        return self.source.value(
            f"INSERT INTO shardherd.{self.slot} SELECT coalesce(max(n), 0) + 1 FROM shardherd.{self.slot} RETURNING n",
            on=on,
        )

    def came(self, marker):
        return self.target.value(f"SELECT count(*) FROM shardherd.{self.slot} WHERE n >= {marker}") > 0

    def marker(self, timeout=20, on=None):
        """A round trip: what was committed on the source before is on the target afterwards."""
        number = self.write_marker(on)
        wait_until(lambda: self.came(number), timeout=timeout, what=f"marker {number}", interval=0.005)

    def apply_errors(self):
        """Of the subscription: how often its worker stopped at a change."""
        return self.target.value(
            "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = %s", self.slot
        )

    def close_gate(self):
        patiently(self.target, "SELECT shardherd.close_gate(1, %s, %s, %s)", self.move, self.lo, self.hi)

    def prepare_fence(self):
        """It gives way to clients, like all that locks tables outside of the fence: the caller tries again."""
        prepare = "SELECT shardherd.prepare_fence(1, %s, %s, %s, %s)"
        patiently(self.source, prepare, self.move, self.lo, self.hi, self.epoch + 1)

    def lock(self):
        """The fence's transaction, up to its lock; the opening is prepared by then."""
        s, t = self.source, self.target
        self.prepare_fence()
        opener, fence = t.connect(autocommit=False), s.connect(autocommit=False)
        open_gate(t, self.move, lo=self.lo, hi=self.hi, on=opener)
        s.run("SET LOCAL statement_timeout = '5s'; SET LOCAL deadlock_timeout = '5ms'", on=fence)
        s.run("SELECT shardherd.check_term(1)", on=fence)
        s.run(f"LOCK TABLE {', '.join(sorted(self.tables))} IN SHARE ROW EXCLUSIVE MODE", on=fence)
        return fence, opener

    def give_away(self, fence):
        """The source's part, not committed."""
        self.source.run(
            "SELECT shardherd.fence(%s, %s, %s, %s, %s)", self.move, self.lo, self.hi, self.epoch, self.epoch + 1,
            on=fence,
        )  # fmt: skip

    def open(self, opener):
        self.target.run("SELECT shardherd.opened(%s)", self.move, on=opener)
        opener.commit()

    def cut_over(self):
        fence, opener = self.lock()
        self.give_away(fence)
        self.marker()
        fence.commit()
        self.open(opener)
        self.epoch += 1
        fence.close()
        opener.close()

    def settle(self):
        patiently(self.target, "SELECT shardherd.settle(1, %s, %s, %s, %s)", self.move, self.lo, self.hi, self.epoch)
        patiently(self.source, "SELECT shardherd.settle_fence(1, %s)", self.move)

    def unsubscribe(self):
        t = self.target
        t.run(f"ALTER SUBSCRIPTION {self.subscribed} DISABLE")
        t.run(f"ALTER SUBSCRIPTION {self.subscribed} SET (slot_name = NONE)")
        t.run(f"DROP SUBSCRIPTION {self.subscribed}")
        self.subscribed = None

    def drop_slots(self):
        of_ours = "FROM pg_replication_slots WHERE database = %s"
        self.source.run(
            f"SELECT pg_terminate_backend(active_pid, 5000) {of_ours} AND active_pid IS NOT NULL", self.source.name
        )
        self.source.run(f"SELECT pg_drop_replication_slot(slot_name) {of_ours}", self.source.name)

    def lose_slot(self):
        """As a failover would: the worker that comes back for it may have it in between."""

        def try_it():
            self.source.run(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s",
                self.slot,
            )
            try:
                self.source.run("SELECT pg_drop_replication_slot(%s)", self.slot)
            except psycopg.errors.ObjectInUse:
                return False
            return True

        wait_until(try_it, what="the slot to be dropped")

    def pause_apply(self):
        self.target.run(f"ALTER SUBSCRIPTION {self.slot} DISABLE")
        # pg_stat_subscription forgets a worker before it has let go of its origin, pg_stat_activity after that
        running = (
            "SELECT (SELECT count(*) FROM pg_stat_subscription WHERE subname = %s AND pid IS NOT NULL) + (SELECT "
            "count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type LIKE 'logical replication%%worker')"
        )
        wait_until(lambda: self.target.value(running, self.slot) == 0, what="the apply worker to end")

    def go_on_applying(self):
        self.target.run(f"ALTER SUBSCRIPTION {self.slot} ENABLE")

    def drop_forward(self):
        self.unsubscribe()
        self.drop_slots()
        self.source.run(f"DROP PUBLICATION {self.slot}")
        for shard in (self.source, self.target):
            shard.run(f"DROP TABLE shardherd.{self.slot}")

    def clean(self):
        with self.cleaner() as cleaner:
            return self.delete(cleaner)

    @contextlib.contextmanager
    def cleaner(self):
        with self.source.replicating() as connection:
            self.source.run("SET session_replication_role = replica", on=connection)
            yield connection

    def delete(self, cleaner):
        return self.source.value(
            "SELECT sum(shardherd.delete_batch(1, %s, relation::regclass, key, type, %s, %s, 0, blocks)) "
            "FROM shardherd.heaps()",
            self.slot, self.lo, self.hi, on=cleaner,
        )  # fmt: skip

    def finish(self):
        self.settle()
        self.drop_forward()
        return self.clean()

    def turn(self):
        """The next move brings the range back."""
        self.source, self.target = self.target, self.source
        self.move = f"m{int(self.move[1:]) + 1}"


def patiently(shard, sql, *params):
    """What gives way to clients, until it gets through."""
    for _ in range(50):
        try:
            return shard.run(sql, *params)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            continue
    raise AssertionError(f"{sql}: no lock in 50 tries")


@contextlib.contextmanager
def setting(server, name, value):
    """ALTER SYSTEM, for a while."""
    before = server.value(f"SHOW {name}")
    server.psql(f"ALTER SYSTEM SET {name} = '{value}'")
    try:
        _reload(server, name, value)
        yield
    finally:
        server.psql(f"ALTER SYSTEM RESET {name}")
        _reload(server, name, before)


def _reload(server, name, wanted):
    server.psql("SELECT pg_reload_conf()")
    wait_until(lambda: server.value(f"SHOW {name}") == wanted, what=f"{name} to be {wanted}")


@contextlib.contextmanager
def no_standby(server):
    """Commits wait for a standby that is not there, except those with synchronous_commit = local or off."""

    def waits():
        """statement_timeout does not count while a COMMIT waits: looked at from outside."""
        with contextlib.closing(server.connect()) as probe:
            probe.pgconn.send_query(b"SELECT pg_logical_emit_message(true, 'x', 'x')")
            while probe.pgconn.is_busy():
                if waits_for_standby(server, probe.info.backend_pid):
                    server.psql("SELECT pg_terminate_backend(%s, 5000)", [probe.info.backend_pid])
                    return True
                probe.pgconn.consume_input()
        return False

    with setting(server, "synchronous_standby_names", "nobody"):
        wait_until(waits, what="commits to wait for a standby")
        yield


def waits_for_standby(server, pid):
    return server.value("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s", [pid])


def standby_of(server, make, name="standby"):
    """A streaming standby; make: pg_factory."""
    standby = make(server.version, start=False, **server.settings)
    server.run(
        "pg_basebackup", "-D", standby.data, "-R", "-c", "fast", "-X", "stream",
        "-d", server.conninfo("postgres", application_name=name),
    )  # fmt: skip
    standby.start()
    streaming = "SELECT count(*) FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"
    wait_until(lambda: server.value(streaming, [name]) == 1, timeout=30, what="the standby to stream")
    return standby
