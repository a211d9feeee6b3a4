"""The checks before a move, one case each: what they find, that they name it and a remedy, and that neither side is
changed by looking."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from checked import ERROR, ORDERS, SCHEMA, TABLES, WARNING, assert_found, found, new_shop, other_files
from conftest import DEFAULT, TRIED, pg_bin_dir, server_user, wait_until
from rig import Rig

pytestmark = pytest.mark.beside

NOTHING = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"


@pytest.fixture(scope="module")
def shop(shardherd):
    with new_shop(shardherd, "one", DEFAULT) as shop:
        yield shop


# ---- objects of the source: name -> what makes it, what takes it back, what is found ----

SOURCE = {
    "replica-identity": (
        "ALTER TABLE orders REPLICA IDENTITY NOTHING",
        "ALTER TABLE orders REPLICA IDENTITY DEFAULT",
        [(ERROR, ORDERS, "the replica identity of public.orders does not contain the shard key customer_id")],
    ),
    "replica-identity-full-of-json": (
        "ALTER TABLE orders ADD j json, REPLICA IDENTITY FULL",
        "ALTER TABLE orders DROP j, REPLICA IDENTITY DEFAULT",
        [(ERROR, ORDERS, "column j of public.orders has type json, which REPLICA IDENTITY FULL cannot compare")],
    ),
    "generated-in-replica-identity": (
        "ALTER TABLE orders ADD g bigint GENERATED ALWAYS AS (order_id * 2) STORED NOT NULL; "
        "CREATE UNIQUE INDEX orders_g ON orders (customer_id, g); "
        "ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_g",
        "ALTER TABLE orders REPLICA IDENTITY DEFAULT; ALTER TABLE orders DROP g",
        [(ERROR, ORDERS, "the replica identity of public.orders contains the generated column g")],
    ),
    "foreign-key": (
        "CREATE TABLE plain (id bigint PRIMARY KEY); "
        "ALTER TABLE orders ADD plain_id bigint CONSTRAINT fk REFERENCES plain",
        "ALTER TABLE orders DROP plain_id; DROP TABLE plain",
        [(ERROR, ORDERS, "foreign key fk does not join shard key to shard key")],
    ),
    "unlogged": (
        "ALTER TABLE names SET UNLOGGED", "ALTER TABLE names SET LOGGED",
        [(ERROR, "public.names", "the table is unlogged")],
    ),
    "unlogged-partition": (
        "ALTER TABLE events_new SET UNLOGGED", "ALTER TABLE events_new SET LOGGED",
        [(ERROR, "public.events", "partition public.events_new is unlogged")],
    ),
    "large-objects": (
        "SELECT lo_create(4711)", "SELECT lo_unlink(4711)",
        [(WARNING, "large objects", "1 of them do not move")],
    ),
    "large-objects-that-are-named": (
        "SELECT lo_create(4711); CREATE DOMAIN lo AS oid; ALTER TABLE orders ADD picture lo",
        "SELECT lo_unlink(4711); ALTER TABLE orders DROP picture; DROP DOMAIN lo",
        [(ERROR, "large objects", "1 of them do not move, and distributed tables have columns of type oid")],
    ),
    "exclusion-constraint": (
        "ALTER TABLE orders ADD r int4range, ADD CONSTRAINT apart EXCLUDE USING gist (r WITH &&)",
        "ALTER TABLE orders DROP r",
        [(ERROR, ORDERS, "unique index public.apart does not contain the shard key customer_id")],
    ),
    "unique-index": (
        "CREATE UNIQUE INDEX orders_one ON orders (order_id)", "DROP INDEX orders_one",
        [(ERROR, ORDERS, "unique index public.orders_one does not contain the shard key customer_id")],
    ),
    "unique-index-of-a-partition": (
        "CREATE UNIQUE INDEX events_at ON events_new (at)", "DROP INDEX events_at",
        [(ERROR, "public.events", "unique index public.events_at of partition public.events_new does not contain")],
    ),
    "trigger-in-apply-workers": (
        f"{NOTHING}; CREATE TRIGGER t AFTER INSERT ON names FOR EACH ROW EXECUTE FUNCTION nothing(); "
        "ALTER TABLE names ENABLE REPLICA TRIGGER t",
        "DROP FUNCTION nothing CASCADE",
        [(ERROR, "public.names", "trigger t fires in apply workers")],
    ),
    "disabled-trigger": (
        f"{NOTHING}; CREATE TRIGGER t AFTER INSERT ON names FOR EACH ROW EXECUTE FUNCTION nothing(); "
        "ALTER TABLE names DISABLE TRIGGER t",
        "DROP FUNCTION nothing CASCADE",
        [(WARNING, "public.names", "trigger t of public.names is disabled")],
    ),
    "foreign-key-not-enforced": (
        "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE orders DISABLE TRIGGER %I', tgname) FROM pg_trigger "
        "WHERE tgrelid = 'orders'::regclass AND tgisinternal ORDER BY tgname LIMIT 1); END $$",
        "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE orders ENABLE TRIGGER %I', tgname) FROM pg_trigger "
        "WHERE tgrelid = 'orders'::regclass AND tgisinternal ORDER BY tgname LIMIT 1); END $$",
        [(WARNING, ORDERS, "foreign key orders_customer_id_fkey is not enforced here")],
    ),
    "guard-disabled": (
        "ALTER TABLE orders DISABLE TRIGGER shardherd_guard_update",
        "ALTER TABLE orders ENABLE ALWAYS TRIGGER shardherd_guard_update",
        [(ERROR, ORDERS, "guard shardherd_guard_update is missing or disabled")],
    ),
    "owned-sequence": (
        "ALTER TABLE orders ADD n bigserial", "ALTER TABLE orders DROP n",
        [(WARNING, ORDERS, "column n takes its values from sequence public.orders_n_seq, which every shard counts")],
    ),
    "identity-column": (
        "ALTER TABLE orders ADD n bigint GENERATED ALWAYS AS IDENTITY", "ALTER TABLE orders DROP n",
        [(WARNING, ORDERS, "column n takes its values from sequence public.orders_n_seq, which every shard counts")],
    ),
    "shared-sequence": (
        "CREATE SEQUENCE shared CYCLE; ALTER TABLE orders ADD n bigint DEFAULT nextval('shared'); "
        "ALTER TABLE names ADD m bigint DEFAULT nextval('shared')",
        "ALTER TABLE orders DROP n; ALTER TABLE names DROP m; DROP SEQUENCE shared",
        [
            (WARNING, ORDERS, "column n takes its values from sequence public.shared"),
            (WARNING, "public.names", "column m takes its values from sequence public.shared"),
            (WARNING, "sequence public.shared", "it is shared by public.names, public.orders"),
            (WARNING, "sequence public.shared", "it cycles"),
        ],
    ),
    "sequence-that-ends": (
        "CREATE SEQUENCE short MAXVALUE 1100; SELECT nextval('short'); "
        "ALTER TABLE orders ADD n bigint DEFAULT nextval('short')",
        "ALTER TABLE orders DROP n; DROP SEQUENCE short",
        [
            (ERROR, "sequence public.short", "it ends at 1100"),
            (WARNING, ORDERS, "column n takes its values from sequence public.short"),
        ],
    ),
    "nondeterministic-collation": (
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
        "UPDATE pg_attribute SET attcollation = 'loose'::regcollation WHERE attrelid = 'names'::regclass "
        "AND attname = 'name'",
        "UPDATE pg_attribute SET attcollation = 'default'::regcollation WHERE attrelid = 'names'::regclass "
        "AND attname = 'name'; DROP COLLATION loose",
        [(ERROR, "public.names", "shard key name has a nondeterministic collation")],
    ),
    "collation-version": (
        "CREATE COLLATION old (provider = icu, locale = 'en'); ALTER TABLE orders ADD c text COLLATE old; "
        "UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'old'",
        "ALTER TABLE orders DROP c; DROP COLLATION old",
        [(WARNING, "collation public.old", "its version was 0.1, the system's is ")],
    ),
    "names-of-objects": (
        "ALTER TABLE orders ADD c regclass", "ALTER TABLE orders DROP c",
        [(WARNING, ORDERS, "column c has type regclass: values are copied by name")],
    ),
    "event-trigger": (
        "CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION noted()",
        "DROP EVENT TRIGGER noted; DROP FUNCTION noted",
        [(WARNING, "event trigger noted", "it fires on ddl_command_end")],
    ),
    "row-level-security": (
        "ALTER TABLE names ENABLE ROW LEVEL SECURITY", "ALTER TABLE names DISABLE ROW LEVEL SECURITY",
        [(WARNING, "public.names", "row-level security is on for public.names")],
    ),
    "not-distributed": (
        "CREATE TABLE countries AS SELECT 'at' AS code; CREATE MATERIALIZED VIEW v AS SELECT * FROM countries; "
        "CREATE TABLE empty_one (i int)",
        "DROP TABLE countries CASCADE; DROP TABLE empty_one",
        [
            (WARNING, "public.countries", "the table is not distributed"),
            (WARNING, "public.v", "the materialized view reaches a new shard unfilled"),
        ],
    ),
    "publication": (
        "CREATE PUBLICATION mine FOR TABLE orders, events", "DROP PUBLICATION mine",
        [(WARNING, "publication mine", "it publishes public.events, public.orders, and a new shard has none")],
    ),
    "subscription": (
        "CREATE SUBSCRIPTION theirs CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false); "
        "INSERT INTO pg_subscription_rel SELECT oid, 'names'::regclass, 'r', NULL FROM pg_subscription",
        "ALTER SUBSCRIPTION theirs SET (slot_name = NONE); DROP SUBSCRIPTION theirs",
        [(ERROR, "public.names", "another subscription writes to the table")],
    ),
    "slot-that-nobody-reads": (
        "SELECT pg_create_physical_replication_slot('idle', true)", "SELECT pg_drop_replication_slot('idle')",
        [(WARNING, "slot idle", "nobody reads it, and it holds ")],
    ),
    "no-slot-left": (
        "SELECT pg_create_physical_replication_slot('used' || i) FROM generate_series(1, 17) i",
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'used%'",
        [(ERROR, "server", "no replication slot is free")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCE)
def test_source(shop, case):
    make, undo, expected = SOURCE[case]
    shop.sql("s2", make)
    try:
        op = shop.look()
    finally:
        shop.sql("s2", undo)
    assert_found(op, expected)


def test_nothing_is_found_where_nothing_is(shop):
    assert_found(shop.look(), [])
    assert_found(shop.look(kind="rebalance", target="s1"), [])


# ---- extensions: rows that say so, in place of files that are not there ----

EXTENSION = (
    "INSERT INTO pg_extension SELECT 99999, '{name}', extowner, extnamespace, extrelocatable, '{version}', NULL, NULL "
    "FROM pg_extension WHERE extname = 'plpgsql'"
)
NO_EXTENSION = "DELETE FROM pg_extension WHERE oid = 99999"


@contextlib.contextmanager
def extension(shop, name, version):
    shop.sql("s2", EXTENSION.format(name=name, version=version))
    try:
        yield
    finally:
        shop.sql("s2", NO_EXTENSION)


def test_extensions_of_a_new_shard(shop):
    rig = shop.rig
    with other_files(shop) as tells:
        with extension(shop, "probe", "1.4"):
            gets = "the source has version 1.4, the new shard gets 1.5"
            assert_found(shop.look(), [(WARNING, "extension probe", gets)])
        with extension(shop, "gone", "1.0"):
            assert_found(shop.look(), [(ERROR, "extension gone", f"the new shard would not have it: {rig.pg_bin}")])
        # what was said beforehand is not believed: the server that was made does not have it
        with extension(shop, "probe", "1.5"):
            assert_found(shop.look(), [])
            op = shop.move()
        assert (op["status"], op["state"]) == ("undone", "undone"), op
        assert found(op) == [(ERROR, "extension probe", f"target {op['target']} does not have it")], op
        rig.assert_consistent()
        tells.unlink()
        later = "which PostgreSQL and extensions it gets is known once it is made"
        assert_found(shop.look(), [(WARNING, "new shard", later)])


# ---- tablespaces ----


def test_tablespaces(shop):
    directory = Path(f"/tmp/shardherd-checks-{os.getpid()}-tablespace")
    directory.mkdir(mode=0o700)
    if server_user():
        os.chown(directory, server_user()["user"], server_user()["group"])
    shop.sql("s2", f"CREATE TABLESPACE fast LOCATION '{directory}'")
    try:
        shop.sql("s2", "ALTER TABLE names SET TABLESPACE fast; ALTER INDEX orders_pkey SET TABLESPACE fast")
        op = shop.look()
    finally:
        shop.sql("s2", "ALTER TABLE names SET TABLESPACE pg_default; ALTER INDEX orders_pkey SET TABLESPACE pg_default")
        shop.sql("s2", "DROP TABLESPACE fast")
        shutil.rmtree(directory)
    assert_found(
        op,
        [
            (WARNING, "public.names", "public.names lies in tablespace fast"),
            (WARNING, ORDERS, "public.orders_pkey lies in tablespace fast"),
        ],
    )


# ---- settings ----

RELOADED = {
    "full_page_writes": ("off", [(ERROR, "server", "full_page_writes = off")]),
    "synchronous_commit": ("off", [(WARNING, "server", "synchronous_commit = off")]),
    "max_slot_wal_keep_size": ("100MB", [(WARNING, "server", "max_slot_wal_keep_size = 100MB")]),
    "synchronous_standby_names": (
        "gone",
        [
            (ERROR, "server", "synchronous_standby_names is 'gone' and no such standby is connected"),
            (WARNING, "server", "commits wait for standbys (synchronous_standby_names = 'gone')"),
        ],
    ),
}


@pytest.mark.parametrize("name", RELOADED)
def test_reloaded_setting(shop, name):
    value, expected = RELOADED[name]
    shop.configure(restart=False, **{name: value})
    try:
        op = shop.look()
    finally:
        shop.configure(restart=False, **{name: None})
    assert_found(op, expected)


def test_settings_that_need_a_restart(shop):
    wrong = {
        "wal_level": ("replica", "wal_level is replica"),
        "max_wal_senders": (2, "no WAL sender is free"),
        "max_replication_slots": (1, "no replication slot is free"),
        "max_logical_replication_workers": (0, "no logical replication worker is free"),
        "max_worker_processes": (0, "no background worker is free"),
    }
    expected = [(ERROR, "server", text) for _, text in wrong.values()]
    origins = [(ERROR, "server", "no replication origin is free")]
    shop.configure(**{name: value for name, (value, _) in wrong.items()})
    try:
        op = shop.look()
    finally:
        shop.configure(**dict.fromkeys(wrong))
    assert_found(op, expected + (origins if shop.version < 18 else []))


# ---- transactions ----


def test_prepared_transactions(shop):
    """Of this and of other databases: a new slot waits for both."""
    shop.sql("s2", "CREATE DATABASE other")
    other = shop.rig.dsn("s2").replace("dbname=shop", "dbname=other")
    try:
        with psycopg.connect(shop.rig.dsn("s2")) as conn:
            conn.execute("CREATE TABLE prepared (i int)")
            conn.execute("PREPARE TRANSACTION 'here'")
        with psycopg.connect(other) as conn:
            conn.execute("CREATE TABLE prepared (i int)")
            conn.execute("PREPARE TRANSACTION 'elsewhere'")
        op = shop.look()
    finally:
        for conninfo, gid in ((shop.rig.dsn("s2"), "here"), (other, "elsewhere")):
            with contextlib.suppress(psycopg.Error), psycopg.connect(conninfo, autocommit=True) as conn:
                conn.execute(f"ROLLBACK PREPARED '{gid}'")
        shop.sql("s2", "DROP DATABASE other WITH (FORCE)")
    assert_found(op, [(ERROR, f"transaction {gid}", "a prepared transaction is open") for gid in ("here", "elsewhere")])


def test_a_long_transaction(shop):
    with psycopg.connect(shop.rig.dsn("s2"), application_name="report") as conn:
        conn.execute("SELECT pg_current_xact_id()")
        pid = conn.info.backend_pid
        deadline = time.monotonic() + 30
        op = shop.look()
        while not op["findings"] and time.monotonic() < deadline:
            op = shop.look()
        assert_found(op, [(WARNING, f"session {pid}", "user shardherd (report) has a transaction open since 20")])
        assert f"pg_terminate_backend({pid})" in op["findings"][0]["remedy"], op


# ---- an existing target ----

TARGET = {
    "table": (
        "ALTER TABLE names RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO names",
        [(ERROR, "public.names", "target s1 does not have the table")],
    ),
    "columns": (
        "ALTER TABLE names ALTER n TYPE bigint, ADD m int NOT NULL; ALTER TABLE orders RENAME note TO notes",
        "ALTER TABLE names ALTER n TYPE int, DROP m; ALTER TABLE orders RENAME notes TO note",
        [
            (ERROR, "public.names", "column n has type integer on the source and bigint on target s1"),
            (ERROR, "public.names", "column m of target s1 is NOT NULL without a default, and the source does not"),
            (ERROR, ORDERS, "column note has type text on the source and is missing on target s1"),
        ],
    ),
    "row-level-security": (
        "ALTER TABLE names ENABLE ROW LEVEL SECURITY", "ALTER TABLE names DISABLE ROW LEVEL SECURITY",
        [(WARNING, "public.names", "row-level security is on on target s1")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGET)
def test_target(shop, case):
    make, undo, expected = TARGET[case]
    shop.sql("s1", make)
    try:
        op = shop.look(kind="rebalance", target="s1")
    finally:
        shop.sql("s1", undo)
    assert_found(op, expected)


def test_what_a_target_lacks(shop):
    """Everything that pg_dump would have brought to a new one."""
    shop.sql(
        "s2",
        f"CREATE ROLE reader; GRANT SELECT, INSERT ON names TO reader; CREATE INDEX names_n ON names (n); "
        f"CREATE UNIQUE INDEX names_u ON names (name, n); {NOTHING}; "
        "CREATE TRIGGER t AFTER INSERT ON names FOR EACH ROW EXECUTE FUNCTION nothing(); "
        "CREATE POLICY mine ON names USING (n > 0)",
    )
    try:
        op = shop.look(kind="rebalance", target="s1")
    finally:
        shop.sql(
            "s2",
            "DROP POLICY mine ON names; DROP FUNCTION nothing CASCADE; DROP INDEX names_u; DROP INDEX names_n; "
            "DROP OWNED BY reader; DROP ROLE reader",
        )
    assert_found(
        op,
        [
            (ERROR, "public.names", "target s1 has no index like public.names_u"),
            (WARNING, "public.names", "target s1 has no index like public.names_n"),
            (WARNING, "public.names", "INSERT to reader, SELECT to reader is not granted on target s1"),
            (WARNING, "public.names", "policy mine is missing on target s1"),
            (WARNING, "public.names", "trigger t is missing on target s1"),
            (WARNING, "role reader", "target s1 does not have it"),
        ],
    )


def test_the_durability_of_a_target(shop):
    shop.configure("s1", restart=False, synchronous_commit="off")
    try:
        op = shop.look(kind="rebalance", target="s1")
    finally:
        shop.configure("s1", restart=False, synchronous_commit=None)
    assert_found(
        op,
        [
            (ERROR, "target s1", "synchronous_commit = off, and the source has it on"),
            (WARNING, "target s1", "synchronous_commit = off"),
        ],
    )
    shop.configure("s1", restart=False, full_page_writes="off")
    try:
        op = shop.look(kind="rebalance", target="s1")
    finally:
        shop.configure("s1", restart=False, full_page_writes=None)
    assert_found(op, [(ERROR, "target s1", "full_page_writes = off")])


# ---- all at once ----

# what can stand beside the others
TOGETHER = [case for case in SOURCE if case not in (
    "replica-identity", "replica-identity-full-of-json", "large-objects", "disabled-trigger", "owned-sequence",
    "shared-sequence", "foreign-key-not-enforced",
)]  # fmt: skip


def numbered(text, number):
    """With columns of a name of its own, so that cases can stand beside each other."""
    text = re.sub(r"\b(ADD|column) ([a-z]) ", rf"\g<1> \g<2>{number} ", text)
    return text.replace("(r WITH", f"(r{number} WITH").replace("(customer_id, g)", f"(customer_id, g{number})")


@pytest.mark.parametrize("version", TRIED)
def test_all_at_once(shardherd, version):
    with new_shop(shardherd, f"all-{version}", version) as shop:
        expected = []
        icu = shop.sql("s2", "SELECT count(*) FROM pg_collation WHERE collprovider = 'i'")[0][0] > 10
        for number, case in enumerate(TOGETHER):
            make, _, finds = SOURCE[case]
            if "provider = icu" in make and not icu:
                continue
            shop.sql("s2", numbered(make, number))
            for severity, subject, text in finds:
                text = numbered(text, number).replace("generated column g", f"generated column g{number}")
                expected.append((severity, subject, text.split("orders_n")[0]))
        op = shop.look()
        for severity, subject, text in expected:
            matches = [f for f in found(op) if f[:2] == (severity, subject) and f[2].startswith(text)]
            assert len(matches) == 1, (severity, subject, text, op["findings"])
        assert op["state"] == "refused" and len(expected) > 20, op


# ---- what only newer versions have ----

FORCED = "ALTER TABLE names OWNER TO app; ALTER TABLE names ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"


def forced_row_level_security(shop):
    """It binds the owner of the table, not the role that copies and applies (B14)."""
    for shard in ("s1", "s2"):
        shop.sql(shard, FORCED)
    op = shop.look(kind="rebalance", target="s1")
    for shard in ("s1", "s2"):
        shop.sql(shard, "ALTER TABLE names DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY; "
                        "ALTER TABLE names OWNER TO shardherd")  # fmt: skip
    assert_found(op, [(WARNING, "public.names", "row-level security is on for public.names")])


def test_forced_row_level_security(shop):
    forced_row_level_security(shop)


@pytest.mark.parametrize("version", [v for v in TRIED if v > 15])
def test_newer_version(shardherd, version):
    with new_shop(shardherd, f"newer-{version}", version) as shop:
        assert_found(shop.look(), [])
        assert_found(shop.look(kind="rebalance", target="s1"), [])
        forced_row_level_security(shop)
        with other_files(shop) as tells:
            tells.write_text(f"#!/bin/sh\necho PostgreSQL 15.1\necho {tells.parent.parent}/share\n")
            older = f"PostgreSQL 15 ({shop.rig.pg_bin}) would run it, and the source runs {version}"
            assert_found(shop.look(), [(ERROR, "new shard", older)])
        if version >= 18:
            only_in_18(shop)


def only_in_18(shop):
    full = "ALTER TABLE orders ADD g bigint GENERATED ALWAYS AS (order_id * 2) STORED, REPLICA IDENTITY FULL"
    shop.sql("s2", full)
    assert_found(shop.look(), [(ERROR, ORDERS, "public.orders has REPLICA IDENTITY FULL and the generated column g")])
    shop.sql("s2", "ALTER TABLE orders DROP g, REPLICA IDENTITY DEFAULT")
    shop.configure(restart=False, idle_replication_slot_timeout="1h")
    assert_found(shop.look(), [(WARNING, "server", "idle_replication_slot_timeout = 1h")])


# ---- the disk ----


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_room_for_a_new_shard(shop):
    """The state directory of another manager, on a disk that shrinks below what a new instance wants."""
    rig = Rig(shop.rig.shardherd, f"/tmp/shardherd-checks-{os.getpid()}-disk", pg_bin_dir(shop.version))
    rig.state.mkdir(mode=0o711)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=0711", "tmpfs", str(rig.state)], check=False)
    if mounted.returncode != 0:
        rig.clean_up()
        pytest.skip("cannot mount")
    try:
        rig.start()
        rig.make_shop(customers=0, schema=SCHEMA, tables=TABLES)
        stat = os.statvfs(rig.state)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + (300 << 20)}", str(rig.state)], check=True)
        body = {"kind": "split", "shard": "s2", "dryRun": True}
        op = rig.wait_operation(rig.post("/v1/databases/shop/operations", body)["id"])
        assert_found(op, [(ERROR, "new shard", f"{rig.state}/instances has ")])
        assert "MB are needed" in op["findings"][0]["finding"], op
    finally:
        for shard in ("s1", "s2"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                pid_file = rig.state / "instances" / f"shop-{shard}-0" / "data" / "postmaster.pid"
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
                wait_until(lambda f=pid_file: not f.exists(), timeout=20, what="the server to end")
        if rig.process and rig.process.poll() is None:
            rig.process.kill()
            rig.process.wait()
        wait_until(
            lambda: subprocess.run(["umount", str(rig.state)], check=False, capture_output=True).returncode == 0,
            timeout=20, what="the file system to be free",
        )  # fmt: skip
        rig.clean_up()


# ---- the command line ----


def test_the_command_line_shows_them(shop):
    shop.sql("s2", "ALTER TABLE orders REPLICA IDENTITY NOTHING; SELECT lo_create(4711)")
    command = [shop.rig.shardherd, "split", "--state", str(shop.rig.state), "shop/s2", "--dry-run"]
    try:
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
        as_json = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=60)
        shop.sql("s2", "ALTER TABLE orders REPLICA IDENTITY DEFAULT")
        warned = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        shop.sql("s2", "ALTER TABLE orders REPLICA IDENTITY DEFAULT; SELECT lo_unlink(4711)")
    assert refused.returncode == 4 and as_json.returncode == 4, (refused, as_json)
    lines = refused.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split() == ["SEVERITY", "SUBJECT", "FINDING", "REMEDY"])
    assert [line.split()[:2] for line in lines[head + 1 : head + 3]] == [["error", ORDERS], ["warning", "large"]], lines
    assert '"severity": "error"' in as_json.stdout or '"severity":"error"' in as_json.stdout, as_json.stdout
    assert warned.returncode == 0 and "(dry run: nothing forbids it)" in warned.stdout, warned
    assert "1 of them do not move" in warned.stdout, warned
