"""/metrics with live output of every server version: format, names, ages, faults of servers and relations."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
from conftest import REPO, SUPERUSER, wait_until

pytestmark = pytest.mark.waits

PERIOD_MS = 200
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PASSWORD = "pw-of-the-tests"


class Tool:
    """metrics_tool with its pollers and its /metrics."""

    def __init__(self, program, instances, period_ms=PERIOD_MS):
        arguments = [
            ",".join([name, "shop", shard, s.host, str(s.port), SUPERUSER, s.password or "", dbname])
            for name, shard, s, dbname in instances
        ]
        self.process = subprocess.Popen(
            [program, str(period_ms), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())

    def scrape(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            return answer.read().decode()

    def facts(self):
        self.process.stdin.write("facts\n")
        self.process.stdin.flush()
        found = {}
        while (line := self.process.stdout.readline()) != "end\n":
            assert line, "the tool has ended"
            entry = json.loads(line)
            found[entry["name"]] = entry
        return found

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0


@pytest.fixture
def metrics_tool(tool):
    started = []

    def start(*instances, **options):
        started.append(Tool(tool("metrics_tool"), instances, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.close()


def parse(text):
    """{(name, labels as text): value}, and a check of what promtool does not check."""
    series, heads, family = {}, set(), None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in heads, f"{name} is not contiguous"
            heads.add(name)
            family = name
            continue
        if line.startswith("# TYPE "):
            assert line.split()[2] == family
            continue
        match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(?:\{((?:[a-z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)', line)
        assert match, line
        name, labels, value = match.groups()
        assert re.sub(r"_(bucket|sum|count)$", "", name) == family or name == family, line
        assert (name, labels) not in series, f"duplicate: {line}"
        series[name, labels] = float(value)
    return series


def names(series):
    return {name for name, _ in series}


def value(series, name, *parts):
    found = [v for (n, labels), v in series.items() if n == name and all(part in labels for part in parts)]
    return found[0] if len(found) == 1 else None


def promtool():
    for candidate in (REPO / "build/tools/usr/bin/promtool", shutil.which("promtool")):
        if candidate and os.access(candidate, os.X_OK):
            return str(candidate)
    pytest.skip("promtool is not installed (scripts/install-deps gets it)")
    return None


def complaints(text):
    """promtool's findings as {metric: text}; a syntax error fails."""
    result = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    output = result.stdout + result.stderr
    assert result.returncode in (0, 3), output
    return {line.split()[0]: line for line in output.splitlines() if line.strip()}


def start_complete(metrics_tool, server):
    server.psql("CREATE TABLE IF NOT EXISTS orders (id int PRIMARY KEY, note text)")
    started = metrics_tool(("shop-s1-0", "s1", server, "postgres"))
    wait_until(lambda: "pg_settings_max_connections" in started.scrape(), what="all groups polled")
    wait_until(lambda: value(parse(started.scrape()), "shard_query_rate") is not None, what="a rate")
    return started


DEFAULT_FAMILIES = """
pg_up pg_static pg_exporter_last_scrape_duration_seconds pg_exporter_last_scrape_error
pg_scrape_collector_duration_seconds pg_scrape_collector_success
pg_database_size_bytes pg_database_connection_limit pg_locks_count
pg_replication_lag_seconds pg_replication_is_replica pg_replication_last_replay_seconds
pg_replication_slots_active pg_replication_slots_slot_is_active pg_replication_slots_pg_wal_lsn_diff
pg_replication_slots_slot_current_wal_lsn pg_replication_slots_slot_confirmed_flush_lsn pg_replication_slots_wal_status
pg_stat_activity_count pg_stat_activity_max_tx_duration pg_stat_archiver_archived_count pg_stat_archiver_failed_count
pg_stat_bgwriter_buffers_clean_total pg_stat_bgwriter_maxwritten_clean_total pg_stat_bgwriter_buffers_alloc_total
pg_stat_bgwriter_stats_reset_total
pg_stat_database_numbackends pg_stat_database_xact_commit pg_stat_database_xact_rollback pg_stat_database_blks_read
pg_stat_database_blks_hit pg_stat_database_tup_returned pg_stat_database_tup_fetched pg_stat_database_tup_inserted
pg_stat_database_tup_updated pg_stat_database_tup_deleted pg_stat_database_conflicts pg_stat_database_temp_files
pg_stat_database_temp_bytes pg_stat_database_deadlocks pg_stat_database_blk_read_time pg_stat_database_blk_write_time
pg_stat_database_stats_reset pg_stat_database_active_time_seconds_total
pg_stat_user_tables_seq_scan pg_stat_user_tables_n_live_tup pg_stat_user_tables_table_size_bytes
pg_stat_user_tables_index_size_bytes pg_statio_user_tables_heap_blocks_hit
pg_wal_segments pg_wal_size_bytes pg_postmaster_start_time_seconds pg_long_running_transactions
pg_long_running_transactions_oldest_timestamp_seconds pg_settings_max_connections pg_settings_shared_buffers_bytes
pg_settings_checkpoint_timeout_seconds pg_settings_fsync
shard_query_rate shard_health_status shardherd_instance_up shardherd_poll_last_success_timestamp_seconds
shardherd_probe_seconds_bucket shardherd_query_age_seconds_bucket shardherd_loop_longest_turn_seconds
process_cpu_seconds_total process_resident_memory_max_bytes shardherd_build_info
""".split()
OLD_CHECKPOINTS = ["pg_stat_bgwriter_checkpoints_timed_total", "pg_stat_bgwriter_buffers_backend_total"]
NEW_CHECKPOINTS = ["pg_stat_checkpointer_num_timed_total", "pg_stat_checkpointer_buffers_written_total"]


def test_every_version_fills_the_default_families(pg_factory, pg_version, metrics_tool):
    """M1, M2: right format and content type; the families of postgres_exporter, whatever the version."""
    server = pg_factory(pg_version, password=PASSWORD, wal_level="logical")
    server.psql("SELECT pg_create_physical_replication_slot('kept', true)")
    started = start_complete(metrics_tool, server)
    text = started.scrape()
    series = parse(text)
    assert not set(DEFAULT_FAMILIES) - names(series)
    newer = pg_version >= 17
    assert not set(NEW_CHECKPOINTS if newer else OLD_CHECKPOINTS) - names(series)
    assert not set(OLD_CHECKPOINTS if newer else NEW_CHECKPOINTS) & names(series)
    failing = [key for key, v in series.items() if key[0] == "pg_scrape_collector_success" and v != 1]
    assert not failing
    assert value(series, "shardherd_series_dropped_total") == 0
    for _, labels in series:
        assert not re.search(r'(^|,)(cluster|namespace|pod|instance|job)="', labels or "")
    found = complaints(text)
    ours = {name for name in found if not name.startswith("pg_")}
    assert not ours, found
    # the names of postgres_exporter are as they are: only naming may be found fault with, never the format
    assert all("no help" not in line and "invalid" not in line for line in found.values())
    assert PASSWORD not in text


def reference():
    """{family of postgres_exporter: (type, labels)}"""
    lines = (Path(__file__).parent / "data" / "postgres_exporter.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {name: (kind, frozenset(labels.split(",")) - {"-"}) for name, kind, labels in rows}


def families(text):
    """{family: (type, labels of all of its samples)}; ours that postgres_exporter does not have are left out."""
    kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE "))
    found = {}
    for name, labels in parse(text):
        found.setdefault(name, set()).update(re.findall(r'(?:^|,)(\w+)="', labels or ""))
    return {
        name: (kinds[name], frozenset(labels) - {"shard", "member"}) for name, labels in found.items() if name in kinds
    }


@contextlib.contextmanager
def slow_vacuum(server):
    """A VACUUM that takes its time, so that its progress can be polled."""
    server.psql("CREATE TABLE slow AS SELECT generate_series(1, 300000) AS n; DELETE FROM slow WHERE n % 2 = 0")
    with contextlib.closing(server.connect()) as connection:
        connection.execute("SET vacuum_cost_delay = '100ms'")
        connection.execute("SET vacuum_cost_limit = 5")
        thread = threading.Thread(target=vacuum, args=(connection,), daemon=True)
        thread.start()
        yield
        connection.cancel()
        thread.join(20)


def vacuum(connection):
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute("VACUUM slow")


def test_every_default_family_of_the_exporter(pg_factory, pg_version, metrics_tool):
    """M2: each one, with its type and its labels, on every version: also what only a busy server shows."""
    server = pg_factory(
        pg_version, wal_level="logical", max_slot_wal_keep_size="1GB", archive_mode="on", archive_command="true"
    )
    server.psql("CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'x')")
    server.psql("SELECT pg_create_physical_replication_slot('kept', true)")
    make_standby(pg_factory, server)
    server.psql("SELECT pg_switch_wal()")
    wait_until(lambda: server.value("SELECT archived_count FROM pg_stat_archiver"), what="a segment to be archived")
    wanted = reference()
    if pg_version >= 17:  # the checkpointer has a view of its own since then
        gone = ("checkpoint", "buffers_backend")
        wanted = {
            name: v for name, v in wanted.items() if not name.startswith(tuple(f"pg_stat_bgwriter_{x}" for x in gone))
        }
        wanted.pop("pg_stat_bgwriter_buffers_checkpoint_total")
    with slow_vacuum(server):
        started = metrics_tool(("shop-s1-0", "s1", server, "postgres"))
        missing = lambda: set(wanted) - set(families(started.scrape()))  # noqa: E731
        wait_until(lambda: not missing(), what=f"all families, without {missing()}")
        found = families(started.scrape())
    wrong = {name: (found.get(name), wanted[name]) for name in wanted if found.get(name) != wanted[name]}
    assert not wrong, wrong


def test_settings_have_the_exporters_units(pg_factory, metrics_tool):
    server = pg_factory(work_mem="5MB", checkpoint_timeout="7min", max_wal_size="1GB")
    series = parse(start_complete(metrics_tool, server).scrape())
    expected = {
        "pg_settings_work_mem_bytes": 5 * 1024**2,
        "pg_settings_checkpoint_timeout_seconds": 420,
        "pg_settings_max_wal_size_bytes": 1024**3,
        "pg_settings_autovacuum_work_mem_bytes": -1,
        "pg_settings_fsync": 0,
        "pg_settings_deadlock_timeout_seconds": 1,
        "pg_settings_random_page_cost": 4,
    }
    assert {name: value(series, name) for name in expected} == expected


def test_one_connection_and_none_by_a_scrape(pg_factory, metrics_tool):
    """P11, M3: at most one connection per instance; a scrape opens none."""
    server = pg_factory(log_connections="on")
    started = start_complete(metrics_tool, server)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardherd poll'"
    authorized = "connection authorized: user=postgres database=postgres application_name=shardherd"
    before = server.log_text().count(authorized)
    for _ in range(20):
        started.scrape()
        assert server.value(count) == 1
    assert before == server.log_text().count(authorized) == 1


def test_a_locked_relation_does_not_stop_the_poll(pg_factory, metrics_tool):
    """P10: ACCESS EXCLUSIVE on a user's table: its sizes are missing, everything else goes on, one connection."""
    server = pg_factory()
    server.psql("CREATE TABLE other (id int PRIMARY KEY)")
    started = start_complete(metrics_tool, server)
    with contextlib.closing(server.connect(autocommit=False)) as locker:
        locker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        time.sleep(3 * PERIOD_MS / 1000)
        errors = started.facts()["shop-s1-0"]["errors"]
        series = parse(started.scrape())
        wait_until(
            lambda: value(parse(started.scrape()), "pg_stat_user_tables_table_size_bytes", 'relname="orders"') is None,
            what="the locked table's size to be left out",
        )
        assert value(series, "pg_stat_user_tables_table_size_bytes", 'relname="other"') is not None
        assert value(series, "pg_up") == 1
        assert started.facts()["shop-s1-0"]["errors"] == errors == 0
        assert server.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardherd poll'") == 1
    wait_until(
        lambda: value(parse(started.scrape()), "pg_stat_user_tables_table_size_bytes", 'relname="orders"') is not None,
        what="its size to come back",
    )


def test_a_killed_server_goes_and_comes_back(pg_factory, metrics_tool):
    """M5, P13: values stop on purpose after three periods, *_up stays 0; a restart is seen."""
    server = pg_factory(16)
    started = start_complete(metrics_tool, server)
    first = started.facts()["shop-s1-0"]["started"]
    server.kill9()
    wait_until(lambda: value(parse(started.scrape()), "pg_up") == 0, what="pg_up 0")
    wait_until(lambda: "pg_stat_database" not in started.scrape(), timeout=6, what="stale values to stop")
    series = parse(started.scrape())
    assert value(series, "shardherd_instance_up") == 0
    assert value(series, "shard_health_status") == 0
    assert "shard_query_rate" not in names(series) and "pg_settings_fsync" not in names(series)
    assert value(series, "shardherd_poll_last_success_timestamp_seconds", 'group="load"') > 1.6e9
    server.start()
    wait_until(lambda: started.facts()["shop-s1-0"]["started"] > first, timeout=3, what="the restart to be seen")
    wait_until(lambda: "pg_stat_database" in started.scrape(), what="values to come back")


def test_odd_names_and_series_that_vanish(pg_factory, metrics_tool):
    """P17: whatever tables and databases are called, and while they come and go, no scrape fails."""
    server = pg_factory()
    odd = ['we"ird', "back\\slash", "new\nline", "größe 日本", "a,b={c}", "x" * 63]
    quoted = {name: psycopg.sql.Identifier(name).as_string(None) for name in odd}
    for name in odd:
        server.psql(f"CREATE TABLE {quoted[name]} (id int PRIMARY KEY)")
    server.psql(f"CREATE DATABASE {quoted[odd[0]]}")
    started = start_complete(metrics_tool, server)
    shown = lambda: {labels for name, labels in parse(started.scrape()) if name == "pg_stat_user_tables_seq_scan"}  # noqa: E731
    escaped = [n.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for n in odd]
    wait_until(
        lambda: all(any(f'relname="{n}"' in labels for labels in shown()) for n in escaped), what="every table's series"
    )
    for number in range(30):
        server.psql(f"CREATE TABLE t{number} (id int PRIMARY KEY); DROP TABLE IF EXISTS t{max(number - 3, 0)}")
        if number % 5 == 0 and odd:
            server.psql(f"DROP TABLE {quoted[odd.pop()]}")
        series = parse(started.scrape())
        assert value(series, "pg_up") == 1 and value(series, "shardherd_series_dropped_total") == 0
        assert 'relname="orders"' in " ".join(labels or "" for _, labels in series)
    wait_until(lambda: not any('relname="t0"' in labels for labels in shown()), what="a dropped table's series to end")
    assert started.facts()["shop-s1-0"]["errors"] == 0
    assert not {name for name in complaints(started.scrape()) if not name.startswith("pg_")}


def make_standby(pg_factory, primary):
    standby = pg_factory(primary.version, start=False, wal_receiver_timeout="2s")
    standby.run("pg_basebackup", "-D", standby.data, "-d", primary.conninfo(), "-R", "-X", "stream", "-c", "fast")
    return standby.start()


def test_lag_grows_while_the_receiver_is_down(pg_factory, metrics_tool):
    """P16: the primary is gone, nothing is left to replay, and still the lag is neither 0 nor unknown."""
    primary = pg_factory()
    standby = make_standby(pg_factory, primary)
    started = metrics_tool(("s1-0", "s1", primary, "postgres"), ("s1-1", "s1", standby, "postgres"))
    wait_until(lambda: started.facts()["s1-1"]["role"] == "standby", what="the standby to be polled")
    wait_until(lambda: float(started.facts()["s1-1"]["lag"]) == 0, what="no lag")
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    lsn = primary.value("SELECT pg_current_wal_lsn()")
    wait_until(lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,)), what="replay")
    facts = started.facts()
    assert facts["s1-0"]["timeline"] == facts["s1-1"]["timeline"] == 1
    assert facts["s1-0"]["system"] == facts["s1-1"]["system"] != "0"
    standby.psql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
    standby.psql("SELECT pg_reload_conf()")
    wait_until(lambda: not standby.psql("SELECT 1 FROM pg_stat_wal_receiver"), what="the receiver to stop")
    primary.psql("INSERT INTO t SELECT generate_series(1, 10000)")
    time.sleep(2.5 * PERIOD_MS / 1000)
    seen = []
    for _ in range(5):
        lag = float(started.facts()["s1-1"]["lag"])
        assert lag > 0 and not math.isnan(lag)
        seen.append(lag)
        time.sleep(1.5 * PERIOD_MS / 1000)
    assert seen[-1] > seen[0]
    assert started.facts()["s1-1"]["lag_bytes"] > 10000
    series = parse(started.scrape())
    assert value(series, "replication_lag_seconds", 'member="s1-1"') > 0
    assert value(series, "pg_replication_lag_seconds", 'member="s1-1"') > 0
    assert value(series, "pg_replication_is_replica", 'member="s1-1"') == 1


def test_a_promotion_is_seen(pg_factory, metrics_tool):
    primary = pg_factory()
    standby = make_standby(pg_factory, primary)
    started = metrics_tool(("s1-1", "s1", standby, "postgres"))
    wait_until(lambda: started.facts()["s1-1"]["role"] == "standby", what="the standby to be polled")
    standby.psql("SELECT pg_promote()")
    wait_until(lambda: started.facts()["s1-1"]["role"] == "primary", timeout=2, what="the new role")
    wait_until(lambda: started.facts()["s1-1"]["timeline"] == 2, timeout=2, what="the new timeline")


def test_a_hung_server_is_found_by_the_deadline(pg_factory, metrics_tool):
    """P14: every process of the server stopped: down within 2 periods and the deadline (2 s)."""
    server = pg_factory()
    started = metrics_tool(("s1-0", "s1", server, "postgres"), period_ms=1000)
    wait_until(lambda: started.facts()["s1-0"]["role"] == "primary", what="a poll")
    time.sleep(1)
    server.pause_all()
    try:
        # the settings group of the first poll may still be under way, which adds the server's statement_timeout
        wait_until(lambda: started.facts()["s1-0"]["errors"] > 0, timeout=2 + 2 + 1, what="the hang to be found")
        assert value(parse(started.scrape()), "pg_up") == 0
    finally:
        server.resume()
    wait_until(lambda: value(parse(started.scrape()), "pg_up") == 1, what="it to be up again")
