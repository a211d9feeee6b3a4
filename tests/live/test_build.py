"""What comes after the rows on a new shard: indexes and keys side by side, then the rest; whatever happens."""

import os
import signal
import threading

import psycopg
import pytest
from conftest import TRIED, pg_bin_dir, wait_until
from rig import Rig
from test_faults import stopped

pytestmark = pytest.mark.beside

SCHEMA = """
CREATE SCHEMA "My S";
CREATE FUNCTION public.loud(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
CREATE TABLE public.a (k bigint PRIMARY KEY, x int, y text, UNIQUE (k, x));
CREATE INDEX a_x ON public.a (x);
CREATE INDEX a_y ON public.a (public.loud(y)) WHERE x > 1;
ALTER TABLE public.a ALTER COLUMN x SET NOT NULL;
CREATE UNIQUE INDEX a_id ON public.a (x, k);
ALTER TABLE public.a CLUSTER ON a_x;
COMMENT ON INDEX public.a_x IS 'of x';
CREATE STATISTICS public.a_stat ON x, y FROM public.a;
CREATE TABLE "My S"."b ON c" (k bigint REFERENCES public.a, "n ""m" int, PRIMARY KEY (k, "n ""m"));
CREATE INDEX "i ON d" ON "My S"."b ON c" ("n ""m" DESC) INCLUDE (k);
CREATE TABLE public.p (k bigint, at date, what text, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);
CREATE TABLE public.p_old PARTITION OF public.p FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
CREATE TABLE public.p_new PARTITION OF public.p FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
CREATE INDEX p_what ON public.p (what);
"""
TABLES = [{"name": name, "key": "k"} for name in ("public.a", '"My S"."b ON c"', "public.p")]
# what is there, by name and definition, whatever the oids
INDEXES = """
SELECT schemaname, tablename, indexdef, obj_description(format('%I.%I', schemaname, indexname)::regclass, 'pg_class'),
       (SELECT (indisvalid, indisclustered, indisprimary)::text FROM pg_index
        WHERE indexrelid = format('%I.%I', schemaname, indexname)::regclass)
FROM pg_indexes WHERE schemaname IN ('public', 'My S') ORDER BY 1, 2, 3
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
WHERE connamespace IN ('public'::regnamespace, '"My S"'::regnamespace) ORDER BY 1, 2
"""
STATISTICS = "SELECT stxname::text FROM pg_statistic_ext ORDER BY 1"


@pytest.fixture
def make(shardherd):
    made = []

    def start(version=None, **settings):
        if version and pg_bin_dir(version) is None:
            pytest.skip(f"PostgreSQL {version} is not installed (scripts/install-deps gets it)")
        rig = Rig(shardherd, f"/tmp/shardherd-build-{os.getpid()}", pg_bin=pg_bin_dir(version) if version else None)
        made.append(rig)
        rig.settings = [f"moves.{name}={value}" for name, value in settings.items()]
        rig.start()
        rig.make_shop(customers=0, shards=1, schema=SCHEMA, tables=TABLES)
        rig.sql("s1", "INSERT INTO a SELECT g, g % 7, 'row ' || g FROM generate_series(1, 20000) g")
        rig.sql("s1", 'INSERT INTO "My S"."b ON c" SELECT k, x FROM a')
        rig.sql("s1", "INSERT INTO p SELECT k, DATE '2024-06-01' + (k % 600)::int, y FROM a")
        return rig

    yield start
    for rig in made:
        rig.clean_up()


def assert_alike(rig):
    for what in (INDEXES, CONSTRAINTS, STATISTICS):
        assert rig.sql("s2", what) == rig.sql("s1", what)
    assert len(rig.sql("s2", INDEXES)) == 13
    assert rig.sql("s2", "SELECT count(*) FROM shardherd.post_data") == [(0,)]
    rig.assert_consistent()


def split(rig):
    return rig.start_move(kind="split", shard="s1", bake="0s")


@pytest.mark.parametrize("version", TRIED, ids=lambda version: f"pg{version}")
def test_all_of_it_is_there(make, version):
    rig = make(version)
    ended = rig.wait_operation(split(rig))
    assert ended["status"] == "done", ended
    assert_alike(rig)


def test_killed_amid(make):
    rig = make()
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "move:amid:build"})
    op_id = split(rig)
    assert rig.wait_dead() == -9
    rig.start()
    assert rig.wait_operation(op_id)["status"] == "done"
    assert_alike(rig)


class BeforeBuild:
    """The manager stands still when all rows are on s2 and no index is."""

    def __init__(self, rig):
        self.rig = rig
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:before:build"})
        self.asking = threading.Thread(target=self.ask, daemon=True)
        self.asking.start()
        wait_until(lambda: stopped(rig), timeout=60, what="the manager to stand still")
        data = next((rig.state / rig.folder / "shop-s2-0" / "data").glob("postmaster.pid")).read_text().splitlines()
        password = (rig.state / rig.folder / "shop-s2-0" / "password").read_text().strip()
        self.dsn = f"host=127.0.0.1 port={data[3]} dbname=shop user=shardherd password={password}"

    def ask(self):
        self.id = split(self.rig)

    def sql(self, text):
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return conn.execute(text).fetchall()

    def go_on(self):
        self.rig.process.send_signal(signal.SIGCONT)
        self.asking.join(30)

    def left(self):
        """Of what can be built side by side: the key of a partitioned table is not."""
        listed = self.sql("SELECT DISTINCT relation FROM shardherd.post_data WHERE relation <> 'public.p'")
        return sorted(relation for (relation,) in listed)

    def at_work(self):
        what = "state = 'active' AND query LIKE '%build_part%' AND pid <> pg_backend_pid()"
        return self.sql(f"SELECT pid FROM pg_stat_activity WHERE {what}")


def test_one_that_takes_long_does_not_hold_the_others(make):
    """Nor do two that need a table for themselves take up two connections. Whose session ends is done once more."""
    rig = make(build_lanes=2)
    move = BeforeBuild(rig)
    memory = "SELECT setting FROM pg_settings WHERE name = 'maintenance_work_mem'"
    assert move.sql(memory) == [("65536",)]
    with psycopg.connect(move.dsn) as other:
        other.execute("LOCK TABLE public.a IN ROW EXCLUSIVE MODE")
        move.go_on()
        wait_until(lambda: move.left() == ["public.a"], timeout=30, what="the others to be built", interval=0.02)
        (waiting,) = wait_until(move.at_work, timeout=10, what="the one that waits", interval=0.02)
        move.sql(f"SELECT pg_terminate_backend({waiting[0]})")
        wait_until(lambda: (now := move.at_work()) and now != [waiting], timeout=30, what="another try", interval=0.02)
        assert rig.operation(move.id)["state"] == "copy"
    assert rig.wait_operation(move.id)["status"] == "done"
    assert_alike(rig)


def test_one_that_is_refused_sends_the_move_back(make):
    rig = make()
    move = BeforeBuild(rig)
    with psycopg.connect(move.dsn, autocommit=True) as other:
        other.execute("SELECT set_config('shardherd.operation', %s, false)", ["x"])
        wrong = "CREATE INDEX a_x ON public.a (nosuch)"
        other.execute("UPDATE shardherd.post_data SET script = %s WHERE script ~ 'a_x ON'", [wrong])
    move.go_on()
    ended = rig.wait_operation(move.id)
    assert ended["status"] == "undone" and "build on public.a: " in ended["error"]["message"], ended
    assert [shard["name"] for shard in rig.routing()["shards"]] == ["s1"]
    rig.assert_consistent()
