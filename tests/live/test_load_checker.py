"""The load driver's checker is itself checked: what is broken behind its back must be reported, and nothing else.

Two plain servers and a routing file; no manager. The guards of a shard are played by a trigger where a test
needs them.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import wait_until

pytestmark = pytest.mark.beside

MIDDLE = 0
LOWEST, HIGHEST = -(2**63), 2**63 - 1
CUSTOMERS, ORDERS = 400, 3
KEY_SQL = {"bigint": "hashint8extended({}, 0)", "text": "hashtextextended({}, 0)", "uuid": "uuid_hash_extended({}, 0)"}


class Fleet:
    """Two servers, one routing document, one ledger."""

    def __init__(self, tool, directory, servers, key_type="bigint"):
        self.tool = tool
        self.dir = directory
        self.s1, self.s2 = servers
        self.key_type = key_type
        self.routing = directory / "routing.json"
        self.ledger = directory / "load.ledger"
        self.report = directory / "findings.txt"
        self.epoch = 0
        self.errors = ""  # of the last load()
        self.publish([(LOWEST, MIDDLE - 1)], [(MIDDLE, HIGHEST)])

    def publish(self, first, second):
        self.epoch += 1

        def shard(name, server, ranges):
            return {
                "name": name,
                "epoch": str(self.epoch),
                "ranges": [{"lo": str(lo), "hi": str(hi)} for lo, hi in ranges],
                "primary": {"host": server.host, "port": server.port},
                "replicas": [],
                "state": "serving",
            }

        document = {
            "database": "shop",
            "epoch": str(self.epoch),
            "hash": "postgres-extended-0",
            "tables": {
                f"public.{table}": {"key": "customer_id", "type": self.key_type} for table in ("customers", "orders")
            },
            "shards": [shard("s1", self.s1, first)],
        }
        if self.s2 is not self.s1:
            document["shards"].append(shard("s2", self.s2, second))
        fresh = self.dir / "routing.new"
        fresh.write_text(json.dumps(document))
        os.replace(fresh, self.routing)

    def argv(self, mode, *more):
        return [
            str(self.tool("load_tool")),
            mode,
            "--database=shop",
            "--dbname=postgres",
            "--user=postgres",
            f"--routing-file={self.routing}",
            f"--ledger={self.ledger}",
            f"--report-file={self.report}",
            f"--customers={CUSTOMERS}",
            f"--orders-per-customer={ORDERS}",
            f"--key-type={self.key_type}",
            "--clients=8",
            "--json",
            "--quiet",
            *more,
        ]

    def load(self, mode, *more, code=0):
        done = subprocess.run(self.argv(mode, *more), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stderr}\n{done.stdout}"
        self.errors = done.stderr
        return json.loads(done.stdout) if done.stdout else None

    def start(self, *more):
        return subprocess.Popen(self.argv("run", *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def findings(self):
        return self.report.read_text().splitlines()

    def init(self):
        return self.load("init", "--create-tables")

    def both(self, sql):
        for server in (self.s1, self.s2):
            server.psql(sql)


def finish(process, code=0):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == code, f"exit code {process.returncode}\n{errors}\n{out}"
    return json.loads(out)


def only(result, **expected):
    """Exactly these kinds were found, so often."""
    kinds = ("lost", "resurrected", "duplicated", "misplaced", "unexpected")
    assert result["checked"]
    assert {kind: result[kind] for kind in kinds if result[kind]} == expected


@pytest.fixture(scope="module")
def servers(pg_factory_module):
    return pg_factory_module(), pg_factory_module()


@pytest.fixture
def fleet(tool, work_dir, servers):
    for server in servers:
        if not server.running:
            server.start()
        server.psql("DROP TABLE IF EXISTS customers, orders CASCADE")
    return Fleet(tool, work_dir, servers)


@pytest.fixture
def loaded(fleet):
    """After init and a second of load, found right."""
    fleet.init()
    result = fleet.load("run", "--duration=1s", "--seed=7")
    only(result)
    assert result["acked_writes"] > 100
    assert result["rows_checked"] > CUSTOMERS
    return fleet


def test_init_makes_every_row_on_its_owner(fleet):
    result = fleet.init()
    assert result["rows_made"] == CUSTOMERS * (1 + ORDERS)
    here = "hashint8extended(customer_id, 0)"
    assert fleet.s1.value(f"SELECT count(*) FROM customers WHERE {here} >= 0") == 0
    assert fleet.s2.value(f"SELECT count(*) FROM customers WHERE {here} < 0") == 0
    total = sum(server.value("SELECT count(*) FROM orders") for server in (fleet.s1, fleet.s2))
    assert total == CUSTOMERS * ORDERS
    only(fleet.load("check"))


@pytest.mark.parametrize("key_type", ["text", "uuid", "integer", "smallint"])
def test_other_key_types(tool, work_dir, servers, fleet, key_type):
    other = Fleet(tool, work_dir, servers, key_type)
    other.init()
    result = other.load("run", "--duration=1s")
    only(result)
    assert result["zero_row_answers"] == 0
    assert result["errors"] == {}


def test_a_run_uses_every_operation(loaded):
    records = loaded.ledger.read_text().splitlines()
    assert {line[0] for line in records[1:]} >= set("uidt")
    assert records[-1] == "end"
    only(loaded.load("check"))


def test_a_run_continues_its_ledger(loaded):
    only(loaded.load("run", "--duration=1s"))
    assert loaded.ledger.read_text().splitlines().count("end") == 2


def test_lost_customer(loaded):
    loaded.both("DELETE FROM orders WHERE customer_id = 5")
    loaded.both("DELETE FROM customers WHERE customer_id = 5")
    result = loaded.load("check", code=10)
    assert result["lost"] >= 1
    only(result, lost=result["lost"])
    assert any(re.match(r"lost: customer 5 is not on its owner s[12]$", line) for line in loaded.findings())
    assert len(loaded.findings()) == result["lost"]


def test_lost_order(loaded):
    loaded.s1.psql("DELETE FROM orders WHERE ctid = (SELECT max(ctid) FROM orders)")
    only(loaded.load("check", code=10), lost=1)


def test_lost_update(loaded):
    loaded.s2.psql(
        "UPDATE customers SET version = version - 1 "
        "WHERE customer_id = (SELECT customer_id FROM customers WHERE version > 0 LIMIT 1)"
    )
    result = loaded.load("check", code=10)
    assert result["lost"] == 1
    assert any("acknowledged was" in line for line in loaded.findings())


def test_resurrected(loaded):
    deleted = [line.split() for line in loaded.ledger.read_text().splitlines() if line.startswith("d ")]
    customer, order = int(deleted[0][1]) + 1, int(deleted[0][2])
    for server in (loaded.s1, loaded.s2):
        server.psql(
            "INSERT INTO orders (customer_id, order_id, amount) "
            "SELECT customer_id, %s, 1 FROM customers WHERE customer_id = %s",
            (order, customer),
        )
    only(loaded.load("check", code=10), resurrected=1)
    assert f"order {customer}/{order}" in loaded.findings()[0]


def test_duplicated_and_misplaced(loaded):
    row = loaded.s1.psql("SELECT customer_id, version, balance FROM customers ORDER BY 1 LIMIT 1")[0]
    loaded.s2.psql("INSERT INTO customers (customer_id, version, balance) VALUES (%s, %s, %s)", row)
    only(loaded.load("check", code=10), duplicated=1, misplaced=1)


def test_moved_behind_its_back_is_lost_and_misplaced(loaded):
    row = loaded.s1.psql("SELECT * FROM orders ORDER BY 1, 2 LIMIT 1")[0]
    loaded.s1.psql("DELETE FROM orders WHERE customer_id = %s AND order_id = %s", row[:2])
    loaded.s2.psql("ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey")
    loaded.s2.psql("INSERT INTO orders VALUES (%s, %s, %s, %s, %s)", row)
    only(loaded.load("check", code=10), lost=1, misplaced=1)


def test_unexpected(loaded):
    loaded.s1.psql("UPDATE customers SET version = version + 7 WHERE ctid = (SELECT min(ctid) FROM customers)")
    loaded.s2.psql("UPDATE customers SET balance = balance + 1 WHERE ctid = (SELECT min(ctid) FROM customers)")
    loaded.s2.psql("INSERT INTO customers (customer_id) VALUES (123456789)")
    only(loaded.load("check", code=10), unexpected=3)


def test_a_torn_last_record_is_no_acknowledgement(loaded):
    with open(loaded.ledger, "a", encoding="ascii") as ledger:
        ledger.write("u 3 99")
    only(loaded.load("check"))


def test_a_foreign_file_is_no_ledger(fleet):
    fleet.ledger.write_text("hello\n")
    fleet.load("check", code=1)
    assert "not the first line of a ledger" in fleet.errors
    assert fleet.ledger.read_text() == "hello\n"


def test_a_loss_is_seen_while_the_load_runs(fleet):
    """An update that the server forgets is found by the client that comes next, and stays found."""
    fleet.init()
    only(fleet.load("run", "--duration=1s", "--mix=update=1"))
    fleet.both("UPDATE customers SET version = version - 1 WHERE version > 0")
    result = fleet.load("run", "--duration=2s", "--mix=update=1", code=10)
    assert result["lost"] > 10
    again = fleet.load("check", code=10)
    assert again["lost"] == result["lost"]


@pytest.mark.parametrize("skew", ["zipf:0.99", "hot-shard=s2:0.9", "hot-key=3:0.5", f"hot-range=0..{HIGHEST}:0.8"])
def test_skews(fleet, skew):
    fleet.init()
    fleet.load("run", "--duration=1s", f"--skew={skew}", "--mix=update=1")
    if skew.startswith(("hot-shard", "hot-range")):
        updates = [s.value("SELECT sum(version) FROM customers") for s in (fleet.s1, fleet.s2)]
        assert updates[1] > 4 * updates[0]
    else:
        top, total = 0, 0
        for server in (fleet.s1, fleet.s2):
            most, all_of_them = server.psql("SELECT max(version), sum(version) FROM customers")[0]
            top, total = max(top, int(most)), total + int(all_of_them)
        assert top > total * (0.4 if skew.startswith("hot-key") else 0.05)


def test_skew_changes_while_it_runs(fleet):
    fleet.init()
    control = fleet.dir / "control"
    process = fleet.start(
        "--duration=0", "--mix=update=1", "--rate=2000", "--skew-after=100s:hot-shard=s1:1", f"--control={control}"
    )
    s1_updates = lambda: fleet.s1.value("SELECT coalesce(sum(version), 0) FROM customers")  # noqa: E731
    s2_updates = lambda: fleet.s2.value("SELECT coalesce(sum(version), 0) FROM customers")  # noqa: E731
    wait_until(lambda: s2_updates() > 100, what="load on s2")
    process.send_signal(signal.SIGUSR1)  # the next skew now: everything on s1
    quiet = lambda: (before := s2_updates(), time.sleep(0.3), s2_updates() == before)[2]  # noqa: E731
    wait_until(quiet, what="no more load on s2")
    at = s1_updates()
    wait_until(lambda: s1_updates() > at + 100, what="load on s1")
    control.write_text("skew hot-shard=s2:1\n")
    at = s2_updates()
    wait_until(lambda: s2_updates() > at + 100, what="load on s2 again")
    at = s1_updates()
    control.write_text("skew uniform\nrate 500\nwatch 0..4611686018427387903\n")
    wait_until(lambda: s1_updates() > at, what="load on s1 again")
    time.sleep(0.5)  # the watch has something to measure
    control.write_text("stop\n")
    result = finish(process)
    only(result)
    assert [watch["range"] for watch in result["watched_ranges"]] == ["0..4611686018427387903"]
    assert 0 < result["watched_ranges"][0]["longest_write_gap_ms"] < 2000


def test_open_loop_keeps_its_rate_and_counts_from_the_intended_start(fleet):
    fleet.init()
    result = fleet.load("run", "--duration=2s", "--rate=1000")
    assert 1950 <= result["operations"] <= 2050
    process = fleet.start("--duration=3s", "--rate=500", "--mix=update=1")
    wait_until(lambda: fleet.s1.value("SELECT sum(version) FROM customers") > 200, what="load")
    with fleet.s1.connect(autocommit=False) as holder, fleet.s2.connect(autocommit=False) as other:
        for connection in (holder, other):
            connection.execute("LOCK TABLE customers IN SHARE MODE")
        time.sleep(1.0)  # the length of the outage that is measured
    result = finish(process)
    only(result)
    # half of a second's operations meant to start in the outage waited more than 0.5 s
    assert result["write_latency_ms"]["p95"] > 400
    assert 900 < result["longest_write_gap_ms"] < 2500


def test_gap_of_a_watched_range(fleet):
    fleet.init()
    process = fleet.start(
        "--duration=3s", "--mix=update=1", f"--watch-range={LOWEST}..-1", f"--watch-range=0..{HIGHEST}", "--rate=500"
    )
    wait_until(lambda: fleet.s1.value("SELECT sum(version) FROM customers") > 100, what="load")
    with fleet.s1.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE customers IN SHARE MODE")
        time.sleep(0.7)  # the length of the gap that is measured
    result = finish(process)
    low, high = (watch["longest_write_gap_ms"] for watch in result["watched_ranges"])
    assert low > 650
    assert high > 0
    assert result["longest_write_gap_ms"] <= low


def test_killed_server_loses_nothing(loaded):
    process = loaded.start("--duration=6s", "--mix=read=5,insert=30,update=30,delete=15,tx=20")
    at = loaded.s2.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s2.value("SELECT sum(version) FROM customers") > at + 200, what="load")
    loaded.s2.kill9()
    time.sleep(0.3)  # an outage that clients see
    loaded.s2.start()
    at = loaded.s2.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s2.value("SELECT sum(version) FROM customers") > at + 200, what="load again")
    result = finish(process)
    only(result)
    assert result["in_doubt"] > 0
    assert result["in_doubt"] == result["in_doubt_applied"] + result["in_doubt_not_applied"]
    assert any(line.startswith("? ") for line in loaded.ledger.read_text().splitlines())


def test_hung_server_ends_operations_in_doubt(loaded):
    process = loaded.start("--duration=4s", "--op-timeout=500ms", "--mix=update=1,insert=1")
    at = loaded.s1.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s1.value("SELECT sum(version) FROM customers") > at + 200, what="load")
    loaded.s1.pause_all()
    time.sleep(1.5)  # longer than the operations' deadline
    loaded.s1.resume()
    result = finish(process)
    only(result)
    assert result["in_doubt"] > 0
    assert result["errors"]["timeout"] > 0


GUARD = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not here' USING ERRCODE = 'SHR01'; END $$;
CREATE OR REPLACE TRIGGER guard_new AFTER INSERT OR UPDATE ON {table} FOR EACH ROW
    WHEN (hashint8extended(NEW.customer_id, 0) {outside}) EXECUTE FUNCTION refuse();
CREATE OR REPLACE TRIGGER guard_old AFTER DELETE ON {table} FOR EACH ROW
    WHEN (hashint8extended(OLD.customer_id, 0) {outside}) EXECUTE FUNCTION refuse();
"""


def guard(server, outside):
    for table in ("customers", "orders"):
        server.psql(GUARD.format(table=table, outside=outside))


def move_rows(fleet, clean):
    """Moves the hashes from 2^62 on from s2 to s1, the crude way: s2 refuses, rows are copied, s1 accepts."""
    cut = 2**62
    guard(fleet.s2, f">= {cut}")
    here = f"hashint8extended(customer_id, 0) >= {cut}"
    for table in ("customers", "orders"):
        rows = fleet.s2.psql(f"SELECT * FROM {table} WHERE {here}")
        marks = ", ".join(["%s"] * len(rows[0]))
        with fleet.s1.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    if clean:
        with fleet.s2.connect() as connection:
            connection.execute("SET session_replication_role = replica")
            for table in ("orders", "customers"):
                connection.execute(f"DELETE FROM {table} WHERE {here}")
    return [(LOWEST, MIDDLE - 1), (cut, HIGHEST)], [(MIDDLE, cut - 1)]


def test_clients_follow_a_move(loaded):
    process = loaded.start("--duration=5s", "--watch-range=0..9223372036854775807")
    at = loaded.s2.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s2.value("SELECT sum(version) FROM customers") > at + 100, what="load")
    first, second = move_rows(loaded, clean=False)
    loaded.publish(first, second)
    # until it is cleaned up, the source still has the rows: misplaced and duplicated
    result = finish(process, code=10)
    assert result["refused_writes"] > 0
    assert result["routing_changes"] == 1
    assert result["refused_wait_ms"]["count"] > 0
    assert result["misplaced"] > 0
    only(result, misplaced=result["misplaced"], duplicated=result["duplicated"])
    with loaded.s2.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        for table in ("orders", "customers"):
            connection.execute(f"DELETE FROM {table} WHERE hashint8extended(customer_id, 0) >= {2**62}")
    only(loaded.load("check"))


def test_check_waits_for_the_clean_up(loaded):
    first, second = move_rows(loaded, clean=False)
    loaded.publish(first, second)
    process = subprocess.Popen(
        loaded.argv("check", "--check-wait=30s"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: loaded.report.exists() and "misplaced" in loaded.report.read_text(), what="a first check")
    with loaded.s2.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        for table in ("orders", "customers"):
            connection.execute(f"DELETE FROM {table} WHERE hashint8extended(customer_id, 0) >= {2**62}")
    only(finish(process))
    assert loaded.findings() == []


class Manager(ThreadingHTTPServer):
    """The two paths of the public API that the load asks for."""

    daemon_threads = True

    def __init__(self, fleet, with_events):
        super().__init__(("127.0.0.1", 0), ManagerHandler)
        self.fleet, self.with_events = fleet, with_events
        self.answers = []
        self.epoch_changed = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ManagerHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        manager = self.server
        if self.path == "/v1/databases/shop/routing":
            self.routing(manager)
        elif self.path == "/v1/databases/shop/routing/events" and manager.with_events:
            self.events(manager)
        else:
            manager.answers.append(404)
            self.send_error(404)

    def routing(self, manager):
        tag = f'"{manager.fleet.epoch}"'
        known = self.headers.get("If-None-Match") == tag
        body = b"" if known else manager.fleet.routing.read_bytes()
        manager.answers.append(304 if known else 200)
        self.send_response(manager.answers[-1])
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self, manager):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        manager.answers.append("events")
        manager.epoch_changed.wait(30)
        document = manager.fleet.routing.read_text().replace("\n", "")
        self.wfile.write(f"event: routing\nid: {manager.fleet.epoch}\ndata: {document}\n\n".encode())
        self.wfile.flush()
        time.sleep(5)  # a stream stays open


@pytest.mark.parametrize("with_events", [True, False], ids=["events", "polling"])
def test_the_table_comes_from_the_manager(loaded, with_events):
    manager = Manager(loaded, with_events)
    argv = [a.replace(f"--routing-file={loaded.routing}", f"--routing={manager.url}/") for a in loaded.argv("run")]
    process = subprocess.Popen(
        # reads only: nobody is refused, so that only the manager can tell of the change
        [*argv, "--duration=3s", "--mix=read=1", "--no-check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: 200 in manager.answers and len(manager.answers) > 1, what="first table")
    loaded.publish([(LOWEST, MIDDLE - 1)], [(MIDDLE, HIGHEST)])
    manager.epoch_changed.set()
    result = finish(process)
    manager.shutdown()
    manager.server_close()
    assert result["routing_changes"] == 1
    assert result["epoch"] == "2"
    assert 304 in manager.answers
    assert result["reads"] > 100


def test_A3_zero_row_answers_of_a_stale_route_are_no_success(loaded):
    """The source is cleaned up before the clients hear of the move: UPDATE 0 and DELETE 0 are not taken as done."""
    process = loaded.start("--duration=5s", "--mix=update=2,delete=1,insert=1,tx=1,read=1")
    at = loaded.s2.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s2.value("SELECT sum(version) FROM customers") > at + 100, what="load")
    first, second = move_rows(loaded, clean=True)
    time.sleep(0.5)  # clients go on with the stale table
    loaded.publish(first, second)
    result = finish(process)
    only(result)
    assert result["zero_row_answers"] > 0


def test_B17_the_previous_owner_is_tried_when_the_new_one_refuses(loaded):
    """The manager died between publishing and committing: the table says s1, but s2 still owns the range."""
    here = f"hashint8extended(customer_id, 0) >= {2**62}"
    guard(loaded.s1, ">= 0")
    rows = {table: loaded.s2.psql(f"SELECT * FROM {table} WHERE {here}") for table in ("customers", "orders")}
    with loaded.s1.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for table, copies in rows.items():
            cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(copies[0]))})", copies)
    moved = lambda: loaded.s2.value(f"SELECT sum(version) FROM customers WHERE {here}")  # noqa: E731
    process = loaded.start("--duration=0", "--mix=update=1")
    at = moved()
    wait_until(lambda: moved() > at + 50, what="load")
    loaded.publish([(LOWEST, -1), (2**62, HIGHEST)], [(0, 2**62 - 1)])
    time.sleep(0.5)  # everybody has read it
    at = moved()
    wait_until(lambda: moved() > at + 50, what="writes on the previous owner")
    loaded.publish([(LOWEST, -1)], [(0, HIGHEST)])
    with loaded.s1.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        for table in ("orders", "customers"):
            connection.execute(f"DELETE FROM {table} WHERE {here}")
    at = moved()
    wait_until(lambda: moved() > at + 500, what="writes without a refusal first")  # everybody has read it
    process.send_signal(signal.SIGINT)
    result = finish(process)
    only(result)
    assert result["previous_owner_tries"] > 0


def test_sigint_ends_orderly(loaded):
    process = loaded.start("--duration=0")
    at = loaded.s1.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s1.value("SELECT sum(version) FROM customers") > at + 100, what="load")
    process.send_signal(signal.SIGINT)
    result = finish(process)
    only(result)
    assert loaded.ledger.read_text().endswith("end\n")


def test_a_killed_driver_leaves_a_usable_ledger(loaded):
    process = loaded.start("--duration=0")
    at = loaded.s1.value("SELECT sum(version) FROM customers")
    wait_until(lambda: loaded.s1.value("SELECT sum(version) FROM customers") > at + 100, what="load")
    process.kill()
    process.communicate()
    only(loaded.load("check"))


def test_strict_sets_the_epoch(fleet):
    fleet.init()
    for server in (fleet.s1, fleet.s2):
        server.psql(GUARD.split("CREATE OR REPLACE TRIGGER")[0])
        server.psql(
            "CREATE TRIGGER strict BEFORE UPDATE ON customers FOR EACH STATEMENT "
            "WHEN (current_setting('shardherd.epoch', true) IS DISTINCT FROM '1') EXECUTE FUNCTION refuse()"
        )
    result = fleet.load("run", "--duration=1s", "--strict", "--mix=update=1")
    assert result["refused_writes"] == 0
    assert result["acked_writes"] > 100


def test_passwords_from_file_and_environment(tool, work_dir, pg_factory):
    secret = "pass:word\\1"
    server = pg_factory(password=secret)
    fleet = Fleet(tool, work_dir, (server, server))
    fleet.publish([(LOWEST, HIGHEST)], None)
    passfile = work_dir / "pass"
    passfile.write_text("*:1:*:*:wrong\n*:*:postgres:postgres:pass\\:word\\\\1\n")
    fleet.load("init", "--create-tables", f"--passfile={passfile}", code=2)
    assert "chmod 0600" in fleet.errors
    passfile.chmod(0o600)
    fleet.load("init", "--create-tables", f"--passfile={passfile}")
    done = subprocess.run(
        fleet.argv("check", "--password-env=SECRET"),
        env={**os.environ, "SECRET": secret},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failed = subprocess.run(
        fleet.argv("check", "--password-env=SECRET"),
        env={**os.environ, "SECRET": "wrong-" + secret},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert failed.returncode == 1
    assert "password" in failed.stderr
    assert secret not in failed.stderr


def test_no_server_is_an_error_not_a_loss(fleet, servers):
    fleet.init()
    servers[1].stop()
    result = fleet.load("run", "--duration=0", "--stall=3s", "--skew=hot-shard=s2:1", code=1)
    assert not result["checked"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--customers=0"], "customers"),
        (["--skew=hot-shard=s1"], "SHARE"),
        (["--skew=zipf:x"], "theta"),
        (["--mix=fly=1"], "fly"),
        (["--mix=read=0"], "mix"),
        (["--duration=soon"], "soon"),
        (["--routing=http://127.0.0.1:1"], "one of --routing and --routing-file"),
        (["--watch-range=5..1"], "5..1"),
        (["explode"], "explode"),
    ],
)
def test_usage_errors(fleet, arguments, message):
    done = subprocess.run(fleet.argv("run", *arguments), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_shard_that_is_not_there(fleet):
    fleet.init()
    fleet.load("run", "--skew=hot-shard=s9:0.5", code=1)
    assert 'there is no shard "s9"' in fleet.errors
