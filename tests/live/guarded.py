"""A shard without a manager: shard.sql installed by psql in a database of its own, and its functions at hand.

shard = Shard(server, "t1")
shard.make("CREATE TABLE t (k bigint PRIMARY KEY, v int)", t="k")   # owns the upper half of the hashes
with shard.refused("SHR01"):
    shard.run("INSERT INTO t VALUES (%s)", shard.foreign[0])
"""

import contextlib
import threading

import psycopg
import pytest
from conftest import REPO, wait_until

LEAST, MOST = -(2**63), 2**63 - 1
SHARD_SQL = REPO / "src" / "operation" / "shard.sql"
HASHES = {
    "smallint": "hashint2extended(%s::smallint, 0)",
    "integer": "hashint4extended(%s::integer, 0)",
    "bigint": "hashint8extended(%s::bigint, 0)",
    "text": "hashtextextended(%s::text, 0)",
    "varchar": "hashtextextended(%s::varchar, 0)",
    "uuid": "uuid_hash_extended(%s::uuid, 0)",
}


def template_of(server):
    """A database of that server with shard.sql in it: copied, it is there much sooner than installed."""
    name = "shardherd_template"
    if server.psql("SELECT 1 FROM pg_database WHERE datname = %s", [name]) == []:
        server.create_database(name)
        server.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f", SHARD_SQL, "-d", server.conninfo(name))
    return name


class Shard:
    def __init__(self, server, name):
        self.server = server
        self.name = name
        server.psql(f"CREATE DATABASE {name} TEMPLATE {template_of(server)}")
        self.connections = []
        self.threads = []
        self.sql = self.connect()
        rows = self.run("SELECT i, hashint8extended(i, 0) >= 0 FROM generate_series(1, 400) i")
        self.owned = [key for key, upper in rows if upper]
        self.foreign = [key for key, upper in rows if not upper]

    def connect(self, user="postgres", **more):
        connection = self.server.connect(self.name, user=user, **more)
        self.connections.append(connection)
        return connection

    def close(self):
        for thread in self.threads:
            thread.join(20)
        for connection in self.connections:
            connection.close()
        self.server.psql(
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{self.name}'"
        )
        self.server.psql(f"DROP DATABASE {self.name} WITH (FORCE)")

    def run(self, sql, *params, on=None):
        cursor = (on or self.sql).execute(sql, params or None)
        return cursor.fetchall() if cursor.description else cursor.rowcount

    def value(self, sql, *params, on=None):
        return self.run(sql, *params, on=on)[0][0]

    @contextlib.contextmanager
    def refused(self, state, *words):
        with pytest.raises(psycopg.Error) as caught:
            yield caught
        assert caught.value.sqlstate == state, caught.value
        for word in words:
            assert word in str(caught.value), caught.value

    def make(self, schema, ranges=((0, MOST),), epoch=1, **tables):
        """Tables with their keys; the shard owns `ranges`."""
        if schema:
            self.run(schema)
        for table, key in tables.items():
            self.run("SELECT shardherd.add_table(1, %s, %s)", f"public.{table}", key)
        self.own(ranges, epoch)

    def own(self, ranges, epoch=1):
        los, his = [lo for lo, _ in ranges], [hi for _, hi in ranges]
        self.run("SELECT shardherd.set_shard(1, 'shop', 's1', %s, %s::bigint[], %s::bigint[])", epoch, los, his)

    def ranges(self):
        epoch, los, his = self.run("SELECT epoch, los, his FROM shardherd.shard")[0]
        return epoch, list(zip(los, his, strict=True))

    @contextlib.contextmanager
    def replicating(self):
        """A session with a replication origin, as apply workers and our clean-up have."""
        connection = self.connect()
        self.run(
            "SELECT pg_replication_origin_create(%s) "
            "WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = %s)",
            f"o_{self.name}", f"o_{self.name}", on=connection,
        )  # fmt: skip
        self.run("SELECT pg_replication_origin_session_setup(%s)", f"o_{self.name}", on=connection)
        try:
            yield connection
        finally:
            self.run("SELECT pg_replication_origin_session_reset()", on=connection)
            self.run("SELECT pg_replication_origin_drop(%s)", f"o_{self.name}", on=connection)
            connection.close()

    def place(self, sql, *params):
        """Rows that are here although they are not owned."""
        with self.replicating() as connection:
            self.run(sql, *params, on=connection)

    def prepare_fence(self, lo, hi, new=2):
        self.run("SELECT shardherd.prepare_fence(1, 'm1', %s, %s, %s)", lo, hi, new)

    def fence(self, lo, hi, old=1, new=2, tables=None, on=None, prepared=True):
        """The fence of a move on its source, as the manager makes it; not prepared: the table was published
        for another move between the rehearsal and the fence."""
        connection = on or self.connect()
        if prepared:
            self.prepare_fence(lo, hi, new)
        names = tables or [name for (name,) in self.run("SELECT name FROM shardherd.tables ORDER BY name")]
        with connection.transaction():
            if on is None:
                self.run("SET LOCAL statement_timeout = '10s'", on=connection)
            self.run("SELECT shardherd.check_term(1)", on=connection)
            self.run(f"LOCK TABLE {', '.join(names)} IN SHARE ROW EXCLUSIVE MODE", on=connection)
            self.run("SELECT shardherd.fence('m1', %s, %s, %s, %s)", lo, hi, old, new, on=connection)

    def freeze(self, move="m1", lo=0, hi=MOST):
        self.run("SELECT shardherd.freeze(1, %s, %s, %s)", move, lo, hi)

    def unfreeze(self, move="m1"):
        self.run("SELECT shardherd.unfreeze(1, %s)", move)

    def findings(self):
        """Of the checks before a move; the servers of the tests run with fsync = off, which is one."""
        found = self.run("SELECT subject, finding, remedy FROM shardherd.check_move()")
        assert ("server", "fsync = off") in {f[:2] for f in found}
        return [f for f in found if f[1] != "fsync = off"]

    def later(self, sql, *params, on):
        """Runs a statement in a thread; the answer is its rows or its error, once it is there."""
        answer = []

        def work():
            try:
                answer.append(self.run(sql, *params, on=on))
            except psycopg.Error as error:
                answer.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.threads.append(thread)
        return answer

    def wait_for_lock_of(self, connection):
        pid = connection.info.backend_pid
        wait_until(
            lambda: self.value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", pid),
            what="a session to wait for a lock",
        )


# ---- steps of a move, on a shard with the table accounts(k, v) ----


def open_gate(shard, move="m1", term=1, lo=0, hi=MOST, names=(), values=(), on=None):
    return shard.value(
        "SELECT shardherd.open_gate(%s, %s, %s, %s, %s::text[], %s::bigint[])",
        term, move, lo, hi, list(names), list(values), on=on,
    )  # fmt: skip


def settle(shard, lo=0, hi=MOST, epoch=2, move="m1"):
    shard.run("SELECT shardherd.settle(1, %s, %s, %s, %s)", move, lo, hi, epoch)


def write(shard, on=None, key=0):
    return shard.run("UPDATE accounts SET v = v + 1 WHERE k = %s", shard.owned[key], on=on)


# ---- what files of these tests begin with ----

ACCOUNTS = "CREATE TABLE accounts (k bigint PRIMARY KEY, v int NOT NULL DEFAULT 0, pad text)"


def start_server(factory, version):
    started = factory(version, wal_level="logical", max_prepared_transactions="5")
    started.psql("CREATE ROLE app LOGIN")
    return started


def with_accounts(shard):
    """Owned rows from 0 to max."""
    shard.make(ACCOUNTS, accounts="k")
    shard.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
    shard.run("INSERT INTO accounts (k) SELECT unnest(%s::bigint[])", shard.owned)
    return shard
