"""What people and machines get wrong: each is refused with a message that names the thing and the remedy, and leaves
nothing behind."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
from conftest import DEFAULT, pg_bin_dir, wait_until
from rig import Problem, Rig

PASSWORD = "open sesame"


@pytest.fixture
def new_rig(shardherd):
    made = []

    def make(start=True, settings=()):
        rig = Rig(shardherd, f"/tmp/shardherd-bad-{os.getpid()}-{len(made)}")
        rig.settings = [f"runtime.first_port={27000 + os.getpid() % 3000}", *settings]
        made.append(rig)
        if start:
            rig.start()
        return rig

    yield make
    for rig in made:
        rig.clean_up()


@pytest.fixture(scope="module")
def shop(shardherd):
    """A manager with a database that tests only read, or put back as it was."""
    rig = Rig(shardherd, f"/tmp/shardherd-bad-{os.getpid()}-shop")
    rig.start()
    rig.make_shop(customers=1000)
    yield rig
    rig.clean_up()


def refused_start(rig, exit_code=None):
    """Starts a manager that must end by itself; what it says on stderr."""
    rig.start(wait=False)
    code = rig.wait_dead(30)
    assert code != 0 if exit_code is None else code == exit_code, (code, rig.tail())
    return rig.log.read_text().splitlines()[-1]


def spec(name, tables=None, schema=None, shards=1):
    return {
        "apiVersion": "shardherd.io/v1alpha1",
        "kind": "ShardedDatabase",
        "metadata": {"name": name},
        "spec": {
            "shards": shards,
            "tables": tables or [{"name": "public.t", "key": "k"}],
            "schema": schema or "CREATE TABLE t (k bigint PRIMARY KEY)",
            "balance": {"split": "off", "merge": "off", "rebalance": "off", "bake": "0s"},
        },
    }


def apply(rig, document):
    """The operation that makes it; how it ended."""
    answer = rig.fetch(f"/v1/databases/{document['metadata']['name']}", "PUT", document)
    return rig.wait_operation(answer["operation"] if "operation" in answer else answer["id"])


def delete(rig, name):
    answer = rig.fetch(f"/v1/databases/{name}", "DELETE")
    op = rig.wait_operation(answer["operation"] if "operation" in answer else answer["id"])
    assert op["status"] == "done", op


def nothing_left(rig):
    assert rig.fetch("/v1/databases")["items"] == []
    left = [str(path.relative_to(rig.state)) for path in rig.state.glob("instances/*")]
    assert left == [], left
    assert postgres_below(rig.state) == []


def postgres_below(directory):
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{process}/cwd").startswith(str(directory)):
                found.append(int(process))
        except OSError:
            continue
    return found


# ---- PostgreSQL that is not there, or is not the right one ----


def test_no_postgresql(new_rig):
    rig = new_rig(start=False)
    rig.pg_bin = rig.directory / "empty"
    rig.pg_bin.mkdir()
    said = refused_start(rig)
    assert f"{rig.pg_bin} does not hold the programs initdb and postgres" in said, said
    assert "name the bin directory of a PostgreSQL 15 or newer" in said, said
    assert not list(rig.state.glob("instances/*"))


def test_postgresql_too_old(new_rig):
    rig = new_rig(start=False)
    rig.pg_bin = rig.directory / "old"
    rig.pg_bin.mkdir()
    for program in ("postgres", "initdb", "pg_dump", "psql", "pg_ctl"):
        (rig.pg_bin / program).write_text(f'#!/bin/sh\necho "{program} (PostgreSQL) 14.2"\n')
        (rig.pg_bin / program).chmod(0o755)
    rig.start()
    op = apply(rig, spec("young"))
    message = op["error"]["message"]
    assert op["status"] == "failed", op
    assert "14.2" in message and "15" in message and str(rig.pg_bin) in message, message
    delete(rig, "young")
    nothing_left(rig)


# ---- servers of the static list ----


class Static:
    """A manager with one server of the static list, which it may use for shard s1 of database lent."""

    def __init__(self, rig, server, password=PASSWORD):
        self.rig, self.server = rig, server
        passfile = rig.directory / "passfile"
        passfile.write_text(f"*:*:*:postgres:{password}\n")
        passfile.chmod(0o600)
        entry = {"name": "pg-a", "host": "127.0.0.1", "port": server.port, "user": "postgres", "dbname": "lent"}
        entry |= {"database": "lent", "shard": "s1", "passfile": str(passfile)}
        rig.config = rig.directory / "shardherd.yaml"
        rig.config.write_text(json.dumps({"discovery": {"interval": "1s", "static": [entry]}}))
        rig.start()

    def apply(self):
        document = spec("lent")
        document["spec"]["shards"] = [{"name": "s1", "range": f"{-(2**63)}..{2**63 - 1}", "instance": "pg-a"}]
        return apply(self.rig, document)

    def instance(self):
        return self.rig.fetch("/v1/instances/pg-a")


def lent_server(pg_factory, **settings):
    server = pg_factory(password=PASSWORD, **settings)
    server.psql("CREATE ROLE app LOGIN")
    server.psql("CREATE DATABASE lent OWNER app")
    return server


def test_wrong_password(new_rig, pg_factory):
    static = Static(new_rig(start=False), lent_server(pg_factory), password="not the right one")
    wait_until(lambda: static.instance()["error"], what="the error of the instance")
    instance = static.instance()
    assert instance["health"] != "up" and "password authentication failed" in instance["error"], instance
    assert 'user "postgres"' in instance["error"], instance
    shown = static.rig.log.read_text() + json.dumps(instance) + static.rig.fetch("/metrics", port="metrics", raw=True)
    assert "not the right one" not in shown


def test_wrong_password_and_a_new_database(new_rig, pg_factory):
    """The operation says why, and the server is as it was."""
    server = lent_server(pg_factory, wal_level="logical")
    static = Static(new_rig(start=False), server, password="not the right one")
    before = dump(server.bin, server.conninfo("lent"))
    wait_until(lambda: static.instance()["error"], what="the error of the instance")
    op = static.apply()
    assert op["status"] == "failed", op
    message = op["error"]["message"]
    assert "shard s1" in message and "password authentication failed" in message, message
    assert "not the right one" not in json.dumps(op)
    assert dump(server.bin, server.conninfo("lent")) == before


class Old:
    """Answers as a PostgreSQL 14.2 that lets everybody in and can do nothing."""

    bin = None

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    @staticmethod
    def message(kind, body=b""):
        return kind + struct.pack("!I", len(body) + 4) + body

    def serve(self, conn):
        with conn, contextlib.suppress(OSError):
            while len(conn.recv(8192)) == 8:  # SSLRequest, GSSENCRequest
                conn.sendall(b"N")
            status = {"server_version": "14.2", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
            hello = self.message(b"R", struct.pack("!I", 0))
            for name, value in status.items():
                hello += self.message(b"S", f"{name}\0{value}\0".encode())
            conn.sendall(hello + self.message(b"K", struct.pack("!II", 1, 1)) + self.message(b"Z", b"I"))
            refusal = self.message(b"E", b"SERROR\0VERROR\0C0A000\0Mtoo old for that\0\0") + self.message(b"Z", b"I")
            while conn.recv(65536):
                conn.sendall(refusal)

    def close(self):
        self.listener.close()


def test_a_lent_server_too_old(new_rig):
    server = Old()
    try:
        static = Static(new_rig(start=False), server)
        wait_until(lambda: static.instance()["version"] == "14.2", what="its version")
        said = "shard s1: instance pg-a runs PostgreSQL 14.2, and 15 or newer is needed: upgrade it"
        document = spec("lent")
        document["spec"]["shards"] = [{"name": "s1", "range": f"{-(2**63)}..{2**63 - 1}", "instance": "pg-a"}]
        file = static.rig.directory / "lent.json"
        file.write_text(json.dumps(document))
        done = subprocess.run(
            [static.rig.shardherd, "apply", "-f", str(file), "--wait", "--state", str(static.rig.state)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1 and said in done.stderr, done
    finally:
        server.close()


def test_wal_level_is_not_logical(new_rig, pg_factory):
    server = lent_server(pg_factory)
    static = Static(new_rig(start=False), server)
    before = dump(server.bin, server.conninfo("lent"))
    op = static.apply()
    assert op["status"] == "failed", op
    message = op["error"]["message"]
    assert "wal_level is replica" in message and "shard s1" in message, message
    assert "set wal_level = logical in postgresql.conf and restart the server" in message, message
    assert dump(server.bin, server.conninfo("lent")) == before
    delete(static.rig, "lent")
    assert dump(server.bin, server.conninfo("lent")) == before
    assert static.rig.fetch("/v1/databases")["items"] == []
    # and after the remedy it works, and is left as it was when the database is deleted
    server.restart(wal_level="logical")
    wait_until(lambda: static.instance()["health"] == "up", what="the restarted server")
    assert static.apply()["status"] == "done"
    delete(static.rig, "lent")
    assert "shardherd" not in dump(server.bin, server.conninfo("lent"))


def dump(binaries, conninfo):
    out = subprocess.run([str(binaries / "pg_dump"), "-d", conninfo], check=True, capture_output=True, text=True).stdout
    # \\restrict lines hold a random word
    return "\n".join(line for line in out.splitlines() if not re.match(r"\\(un)?restrict ", line))


# ---- schemas that cannot be sharded ----

BAD_SCHEMAS = {
    "no-table": ("CREATE TABLE other (k bigint PRIMARY KEY)", "table public.t does not exist", ""),
    "no-column": ("CREATE TABLE t (id bigint PRIMARY KEY)", "table public.t has no column k to shard by", ""),
    "nullable": ("CREATE TABLE t (k bigint, id int)", "k may be null", "NOT NULL"),
    "generated": (
        "CREATE TABLE t (id bigint PRIMARY KEY, k bigint GENERATED ALWAYS AS (id * 2) STORED NOT NULL)",
        "k is a generated column", "the column it is generated from",
    ),
    "type": ("CREATE TABLE t (k numeric(9,2) PRIMARY KEY)", "k has type numeric(9,2)", "bigint, text, varchar or uuid"),
    "collation": (
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
        "CREATE TABLE t (k text COLLATE loose PRIMARY KEY)",
        "k has a nondeterministic collation", "deterministic collation",
    ),
    "syntax": ("CREATE TABEL t (k bigint)", "syntax error", ""),
}  # fmt: skip


def test_schemas_that_cannot_be_sharded(new_rig):
    rig = new_rig()
    answers, bad = {}, dict(BAD_SCHEMAS)
    if b"libicui18n" not in (rig.pg_bin / "postgres").read_bytes():
        del bad["collation"]  # built without ICU: there is no nondeterministic one
    for name, (schema, _, _) in bad.items():
        answer = rig.fetch(f"/v1/databases/{name}", "PUT", spec(name, schema=schema))
        answers[name] = answer["operation"] if "operation" in answer else answer["id"]
    for name, (_, finding, remedy) in bad.items():
        op = rig.wait_operation(answers[name])
        assert op["status"] == "failed", op
        message = op["error"]["message"]
        assert finding in message and "shard s1" in message, message
        assert remedy in message, message
        with pytest.raises(Problem) as problem:
            rig.fetch(f"/v1/databases/{name}/routing")
        assert problem.value.status in (404, 409, 503), problem.value
    for name in bad:
        delete(rig, name)
    nothing_left(rig)


FOUND_BY_THE_CHECK = """
CREATE TABLE customers (customer_id bigint PRIMARY KEY);
CREATE TABLE orders (order_id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers);
CREATE TABLE notes (customer_id bigint NOT NULL, note text);
CREATE UNLOGGED TABLE visits (customer_id bigint PRIMARY KEY);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER always AFTER INSERT ON customers FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE customers ENABLE ALWAYS TRIGGER always;
"""
FINDINGS = [
    ("public.orders", "the replica identity of public.orders does not contain the shard key customer_id"),
    ("public.notes", "the replica identity of public.notes does not contain the shard key customer_id"),
    ("public.orders", "unique index public.orders_pkey does not contain the shard key customer_id"),
    ("public.visits", "the table is unlogged"),
    ("public.customers", "trigger always fires in apply workers"),
    ("transaction left over", "a prepared transaction is open"),
]


def test_a_split_that_the_check_refuses(new_rig):
    """Everything at once, each finding with its remedy, and the source exactly as it was."""
    rig = new_rig()
    tables = [{"name": f"public.{t}", "key": "customer_id"} for t in ("customers", "orders", "notes", "visits")]
    rig.make_shop(customers=0, schema=FOUND_BY_THE_CHECK, tables=tables)
    rig.sql("s2", "ALTER SYSTEM SET max_prepared_transactions = 5")
    rig.stop()
    stop_server(rig, "s2")
    rig.start()  # which starts it again
    rig.sql("s2", "INSERT INTO notes SELECT n FROM generate_series(1, 100) n WHERE hashint8extended(n, 0) >= 0")
    with psycopg.connect(rig.dsn("s2")) as conn:
        conn.execute("INSERT INTO notes SELECT n FROM generate_series(1, 100) n WHERE hashint8extended(n, 0) >= 0")
        conn.execute("PREPARE TRANSACTION 'left over'")
    binaries = pg_bin_dir(DEFAULT)
    wait_until(lambda: rig.sql("s2", "SELECT epoch FROM shardherd.routing"), what="the routing table on the shard")
    routing, before = rig.routing(), dump(binaries, rig.dsn("s2"))
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})
    ended = rig.wait_operation(op["id"])
    assert ended["state"] == "refused" and ended["status"] == "undone", ended
    for subject, finding in FINDINGS:
        found = [f for f in ended["findings"] if f["subject"] == subject and f["finding"].startswith(finding)]
        assert len(found) == 1, (subject, finding, ended["findings"])
        assert len(found[0]["remedy"]) > 10, found
    assert len(ended["findings"]) == len(FINDINGS), ended["findings"]
    assert f"{len(FINDINGS)} finding(s) forbid the move" in ended["error"]["message"], ended["error"]
    assert rig.routing() == routing
    rig.sql("s2", "ROLLBACK PREPARED 'left over'")
    assert without_term(dump(binaries, rig.dsn("s2"))) == without_term(before)
    rig.assert_consistent()


def without_term(text):
    return re.sub(r"(?m)(COPY shardherd\.control .*\n).*", r"\1", text)


def stop_server(rig, shard):
    pid_file = rig.state / "instances" / f"shop-{shard}-0" / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
    wait_until(lambda: not pid_file.exists(), timeout=30, what="the server to stop")


def test_key_update_across_shards(shop):
    """Outside of a move: SHR01, from the owner of the old key and from that of the new one, and nothing changed."""
    find = "SELECT customer_id FROM customers WHERE hashint8extended(-customer_id, 0) {} 0 LIMIT 1"
    (stays,), (leaves,) = shop.sql("s2", find.format(">="))[0], shop.sql("s2", find.format("<"))[0]
    count = shop.sql("s2", "SELECT count(*), sum(customer_id) FROM customers")
    update = (
        "SET session_replication_role = replica; "  # or the foreign key would speak first
        "UPDATE customers SET customer_id = -customer_id WHERE customer_id = {}"
    )
    with pytest.raises(psycopg.Error) as refused:
        shop.sql("s2", update.format(leaves))
    assert refused.value.sqlstate == "SHR01", refused.value
    assert "of public.customers is not owned by this shard (epoch 1)" in str(refused.value)
    assert "Read the routing table again" in refused.value.diag.message_hint
    assert shop.sql("s2", "SELECT count(*), sum(customer_id) FROM customers") == count
    shop.sql("s2", update.format(stays))
    shop.sql("s2", update.format(-stays))
    shop.sql("s2", f"SELECT 1; UPDATE customers SET customer_id = customer_id WHERE customer_id = {leaves}")
    assert shop.sql("s2", "SELECT count(*), sum(customer_id) FROM customers") == count


# ---- ports and directories ----


@pytest.mark.parametrize("name", ["public", "admin", "metrics"])
def test_api_port_taken(new_rig, name):
    rig = new_rig(start=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        rig.ports = {name: other.getsockname()[1]}
        said = refused_start(rig)
        assert f"cannot listen on 127.0.0.1 port {rig.ports[name]}: Address already in use" in said, said
        assert f"set listen.{name}_address and listen.{name}_port (0 = a free port)" in said, said
    assert not (rig.state / "manager.json").exists() and not (rig.state / "store.db").exists()


def test_instance_port_taken(new_rig):
    """A new instance takes the next one; one that has its port already says who is in its way, the others serve."""
    rig = new_rig(start=False)
    first = int(rig.settings[0].split("=")[1])
    with socket.create_server(("127.0.0.1", first)):
        rig.start()
        rig.make_shop(customers=0)
        ports = {shard["primary"]["port"] for shard in rig.routing()["shards"]}
        assert first not in ports, ports
    rig.stop()
    port = next(shard["primary"]["port"] for shard in rig_routing(rig) if shard["name"] == "s2")
    stop_server(rig, "s2")
    with socket.create_server(("127.0.0.1", port)):
        rig.start()
        said = [line for line in rig.log.read_text().splitlines() if "could not be started again" in line]
        assert len(said) == 1 and "instance shop-s2-0" in said[0], said
        assert f"its port {port} on 127.0.0.1 is taken by" in said[0], said
        assert "end that, or remove the instance and create it anew" in said[0], said
        assert rig.sql("s1", "SELECT 1") == [(1,)]
    rig.stop()
    rig.start()
    rig.assert_consistent()


def rig_routing(rig):
    """As the shard itself has it: the manager is away."""
    directory = rig.state / "instances" / "shop-s2-0"
    (port,) = re.findall(r"(?m)^port = (\d+)$", (directory / "shardherd.conf").read_text())
    return [{"name": "s2", "primary": {"port": int(port)}}]


def test_second_manager(shop, shardherd):
    ports = (shop.state / "manager.json").read_text()
    free = [word for name in ("public", "admin", "metrics") for word in ("--set", f"listen.{name}_port=0")]
    done = subprocess.run([*shop.command(), *free], capture_output=True, text=True, timeout=30)
    assert done.returncode == 4, done
    assert f"store.db is in use by process {shop.process.pid}" in done.stderr, done.stderr
    assert "one manager at a time may use a state directory" in done.stderr, done.stderr
    assert (shop.state / "manager.json").read_text() == ports
    shop.assert_consistent()


@pytest.mark.parametrize("name", ["file", "no/parent"])
def test_state_directory_unusable(new_rig, name):
    rig = new_rig(start=False)
    (rig.directory / "file").write_text("x")
    rig.state = rig.directory / name
    done = subprocess.run(rig.command(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done
    assert str(rig.state) in done.stderr and "state_directory" in done.stderr, done.stderr
    assert sorted(os.listdir(rig.directory)) == ["file"]


# ---- configuration and specifications ----

BAD_CONFIGS = {
    "unknown key": ("listen:\n  public_prot: 1\n", ":2:3:", 'did you mean "public_port"'),
    "not YAML": ("listen: [1,\n  x: 2\n", ":3:1:", "not valid YAML"),
    "a number out of range": ("listen:\n  public_port: 99999\n", ":2:16:", "65535"),
    "a wrong duration": ("discovery:\n  interval: soon\n", ":2:13:", "discovery.interval"),
    "a wrong choice": ("balance:\n  split: maybe\n", ":2:10:", "off"),
    "an address of everybody": ("listen:\n  admin_address: 0.0.0.0\n", ":2:18:", "insecure_listen"),
    "a password in the list": (
        'discovery:\n  static:\n    - {name: a, dsn: "postgresql://u:secret@h/d"}\n', ":3:", "password",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_invalid_configuration(new_rig, what):
    rig = new_rig(start=False)
    text, place, remedy = BAD_CONFIGS[what]
    rig.config = rig.directory / "shardherd.yaml"
    rig.config.write_text(text)
    said = refused_start(rig, 2)
    assert f"{rig.config}{place}" in said and remedy in said and "secret" not in said, said
    assert not rig.state.exists()


def test_unreadable_configuration(new_rig):
    rig = new_rig(start=False)
    rig.config = rig.directory / "none.yaml"
    said = refused_start(rig)
    assert f"{rig.config} does not exist: name the configuration file with -c" in said, said
    rig.config.mkdir()
    said = refused_start(rig, 2)
    assert "not a plain file: name a YAML file" in said, said
    rig.config.rmdir()
    rig.config.write_bytes(os.urandom(4096))
    said = refused_start(rig, 2)
    assert re.search(re.escape(str(rig.config)) + r":\d+:\d+: ", said), said
    assert not rig.state.exists()


def test_reload_of_a_bad_file(new_rig):
    """The old configuration stays, and the new one's fault is said, shown and counted, until it is mended."""
    rig = new_rig(start=False)
    rig.config = rig.directory / "shardherd.yaml"
    rig.config.write_text("log:\n  level: info\n")
    rig.start()
    for text, finding in (("log:\n  levle: debug\n", ":2:3:"), ("insecure_listen: true\n", "restart")):
        rig.config.write_text(text)
        rig.process.send_signal(signal.SIGHUP)
        wait_until(lambda word=finding: word in rig.fetch("/readyz?verbose", raw=True), what=f"{finding} in /readyz")
        assert rig.fetch("/livez", raw=True)
    assert re.search(r"(?m)^shardherd_config_reload_errors_total 2$", rig.fetch("/metrics", port="metrics", raw=True))
    rig.config.write_text("log:\n  level: debug\n")
    rig.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "restart" not in rig.fetch("/readyz?verbose", raw=True), what="the mended file")


def test_reloaded_balance(new_rig):
    """New defaults hold at once for databases that exist, but for what their specification says itself."""
    rig = new_rig(start=False, settings=["runtime.kind=none"])
    rig.config = rig.directory / "shardherd.yaml"
    rig.config.write_text("balance:\n  threshold: 500\n  max_shards: 8\n")
    rig.start()
    own = spec("own")
    own["spec"]["balance"] = {"threshold": 50}
    apply(rig, own)
    apply(rig, spec("plain"))

    def policies():
        found = (rig.fetch(f"/v1/databases/{name}")["balance"] for name in ("plain", "own"))
        return [(policy["threshold"], policy["max_shards"], policy["split"]) for policy in found]

    assert policies() == [(500, 8, "off"), (50, 8, "auto")]
    rig.config.write_text("balance:\n  threshold: 700\n  max_shards: 9\n  split: recommend\n")
    rig.process.send_signal(signal.SIGHUP)
    wait_until(lambda: policies() == [(700, 9, "off"), (50, 9, "recommend")], what="the new defaults")


def test_invalid_specifications(shop):
    good = spec("bad")
    half = [{"name": "s1", "range": f"{-(2**63)}..-1"}]
    wrong = {
        "unknown key": ({**good, "spec": {**good["spec"], "tabels": []}}, "tables"),
        "no tables": ({**good, "spec": {**good["spec"], "tables": []}}, "tables"),
        "no shards": ({**good, "spec": {**good["spec"], "shards": 0}}, "shards"),
        "a hole": ({**good, "spec": {**good["spec"], "shards": half}}, "no shard has 0.."),
        "another name": ({**good, "metadata": {"name": "other"}}, "other"),
        "a bad name": ({**good, "metadata": {"name": "No Good"}}, "metadata.name"),
        "another kind": ({**good, "kind": "Deployment"}, "ShardedDatabase"),
        "a wrong balance": ({**good, "spec": {**good["spec"], "balance": {"threshold": "much"}}}, "threshold"),
    }  # fmt: skip
    for what, (document, finding) in wrong.items():
        with pytest.raises(Problem) as problem:
            shop.fetch("/v1/databases/bad", "PUT", document)
        assert problem.value.status in (400, 422), (what, problem.value)
        assert finding in problem.value.body, (what, problem.value)
    for body in (b"", b"{", b"\x00\xff" * 100, b"[" * 100000, b"a: &a [*a, *a]"):
        with pytest.raises(Problem) as problem:
            shop.fetch("/v1/databases/bad", "PUT", body)
        assert 400 <= problem.value.status < 500, problem.value
    assert [db["name"] for db in shop.fetch("/v1/databases")["items"]] == ["shop"]
    assert not list(shop.state.glob("secrets/bad*")) and not list(shop.state.glob("instances/bad*"))


# ---- HTTP ----

PUT = b"PUT /v1/databases/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GARBAGE = {
    "binary": os.urandom(20000),
    "zeros": bytes(20000),
    "TLS": bytes.fromhex("16030100b9010000b50303") + os.urandom(180),
    "PostgreSQL": bytes.fromhex("0000000804d2162f"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no end of the address": b"GET /" + b"a" * 300000,
    "no end of the headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"b" * 300000,
    "many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000,
    "two lengths": PUT + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a length and chunks": PUT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": PUT + b"Content-Length: -1\r\n\r\n",
    "a huge length": PUT + b"Content-Length: 99999999999\r\n\r\n{",
    "a huge chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "a huge body": PUT + b"Content-Length: 8000000\r\n\r\n" + b"[" * 8000000,
}


def test_http_garbage(shop):
    """On each port: an error or the end of the connection, soon, and everybody else is served meanwhile."""
    for name in ("public", "admin", "metrics"):
        for what, garbage in GARBAGE.items():
            with socket.create_connection(("127.0.0.1", shop.ports[name]), timeout=10) as conn:
                answer = exchange(conn, garbage)
            assert answer == b"" or re.match(rb"HTTP/1\.[01] [45]\d\d ", answer), (name, what, answer[:100])
            assert b"200 OK" not in answer, (name, what)
            started = time.monotonic()
            assert shop.fetch("/livez", port=name, raw=True)
            assert time.monotonic() - started < 2, (name, what)
    assert shop.process.poll() is None
    assert {db["name"] for db in shop.fetch("/v1/databases")["items"]} == {"shop"}


def exchange(conn, data):
    """Sends it, waits for the other end to answer or close; b"" if it just closed."""
    answer = b""
    try:
        conn.sendall(data)
        conn.shutdown(socket.SHUT_WR)
        while len(answer) < 65536:
            some = conn.recv(65536)
            if not some:
                break
            answer += some
    except (ConnectionError, BrokenPipeError):
        pass
    return answer


def test_slow_loris(shop):
    """A client that never ends its headers is cut off after 10 s; it costs the others nothing."""
    slow = [socket.create_connection(("127.0.0.1", shop.ports["public"])) for _ in range(200)]
    for conn in slow:
        conn.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    started, alive = time.monotonic(), set(slow)
    while alive and time.monotonic() - started < 30:
        for conn in list(alive):
            try:
                conn.sendall(b"z")
                conn.setblocking(False)
                if conn.recv(4096) == b"":
                    alive.discard(conn)
                else:
                    alive.discard(conn)  # 408
            except BlockingIOError:
                conn.setblocking(True)
            except OSError:
                alive.discard(conn)
        at = time.monotonic()
        assert shop.fetch("/livez", port="public", raw=True)
        assert time.monotonic() - at < 1
        time.sleep(0.2)
    for conn in slow:
        conn.close()
    assert not alive, f"{len(alive)} slow clients are still connected after {time.monotonic() - started:.0f} s"


def test_ten_thousand_idle_clients(new_rig):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10300
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"10,000 connections need {wanted} open files, the hard limit is {hard}")
    clients = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))  # the manager inherits it
    try:
        rig = new_rig()
        before = memory(rig)
        for n in range(10000):
            clients.append(socket.create_connection(("127.0.0.1", rig.ports["public"]), timeout=30))
            if n % 500 == 0:
                assert rig.fetch("/livez", port="admin", raw=True)
        rss = memory(rig)
        print(f"10,000 idle clients: {before} -> {rss} MiB, {(rss - before) * 1024 / 10000:.1f} KiB each")
        slowest = 0
        for port in ("public", "admin", "metrics"):
            started = time.monotonic()
            assert rig.fetch("/livez", port=port, raw=True)
            slowest = max(slowest, time.monotonic() - started)
        print(f"slowest answer beside them: {slowest * 1000:.1f} ms")
        assert slowest < 1, slowest
        clients[5000].sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert clients[5000].recv(100).startswith(b"HTTP/1.1 200")
        assert rss - before < 200, (before, rss)
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(rig):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{rig.process.pid}/status").read_text())[1]) // 1024


# ---- full disk ----


@pytest.fixture
def small_disk():
    """small_disk(path, size): a tmpfs there."""
    mounted = []

    def mount(path, size):
        if os.geteuid() != 0:
            pytest.skip("mounting a tmpfs needs root")
        Path(path).mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "tmpfs", str(path)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=False)


def test_no_room_for_an_instance(new_rig, small_disk):
    """Too little from the start is said before anything is made."""
    rig = new_rig(start=False)
    small_disk(rig.state, "60m")
    rig.start()
    op = apply(rig, spec("big", shards=2))
    assert op["status"] == "failed", op
    message = op["error"]["message"]
    assert re.search(r"shard s[12]: .*instances", message) and "free" in message, message
    delete(rig, "big")
    nothing_left(rig)


def test_no_room_for_what_moves(new_rig, small_disk):
    """A split needs room for the rows as well: a disk that fills while they are copied would stop the source, too."""
    rig = new_rig(start=False)
    small_disk(rig.state, "1200m")
    rig.settings.append("moves.min_free_disk=64")  # of what there is here
    rig.start()
    rig.make_shop(customers=0)
    rig.sql(
        "s2",
        "SET session_replication_role = replica; INSERT INTO customers SELECT n, repeat('x', 200) "
        "FROM generate_series(1, 200000) n WHERE hashint8extended(n, 0) >= 0",
    )
    ((size,),) = rig.sql("s2", "SELECT pg_table_size('customers')")
    stat = os.statvfs(rig.state)
    room = (512 << 20) + size // 2 * 3 // 2  # more than an empty instance wants, less than this one
    assert stat.f_bavail * stat.f_frsize > room, "the disk of this test is too small"
    (rig.state / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - room))
    before = rig.routing()
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})
    ended = rig.wait_operation(op["id"])
    assert ended["status"] == "undone", ended
    message = ended["error"]["message"]
    assert re.search(r"has \d+ MB free, \d+ MB are needed \(remedy: free some space", message), message
    assert rig.routing() == before
    rig.assert_consistent()
    (rig.state / "filler").unlink()
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})
    assert rig.wait_operation(op["id"])["status"] == "done"
    rig.assert_consistent()


def test_store_on_a_full_disk(new_rig, small_disk):
    """Writes are refused with the reason; nothing that was acknowledged is lost; with room again all goes on."""
    rig = new_rig(start=False)
    small_disk(rig.state, "8m")
    rig.settings.append("runtime.kind=none")
    rig.start()
    filler = rig.state / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(Problem) as problem:
        for n in range(150):  # until the store's file must grow
            rig.fetch(f"/v1/databases/db-{n}", "PUT", spec(f"db-{n}", schema="-- " + "x" * 20000))
    assert problem.value.status >= 500, problem.value
    assert re.search("full|space", problem.value.body), problem.value
    assert rig.fetch("/livez", raw=True) and rig.process.poll() is None
    known = {db["name"] for db in rig.fetch("/v1/databases")["items"]}
    filler.unlink()
    rig.fetch("/v1/databases/after", "PUT", spec("after"))
    rig.stop()
    rig.start()
    assert {db["name"] for db in rig.fetch("/v1/databases?limit=200")["items"]} >= known | {"after"}
