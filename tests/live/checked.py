"""A manager with a database of two shards, of which s2 is looked at: for the tests of the checks before a move."""

import contextlib
import os
import re
import shutil
import signal
import subprocess

import psycopg
import pytest
from conftest import pg_bin_dir, wait_until
from rig import Rig

SCHEMA = """
CREATE TABLE customers (customer_id bigint PRIMARY KEY, name text);
CREATE TABLE orders (customer_id bigint NOT NULL REFERENCES customers, order_id bigint, note text,
                     PRIMARY KEY (customer_id, order_id));
CREATE TABLE events (customer_id bigint NOT NULL, at date NOT NULL, PRIMARY KEY (customer_id, at))
                     PARTITION BY RANGE (at);
CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
CREATE TABLE names (name text PRIMARY KEY, n int);
"""
KEYS = {"customers": "customer_id", "orders": "customer_id", "events": "customer_id", "names": "name"}
TABLES = [{"name": f"public.{name}", "key": key} for name, key in KEYS.items()]
ERROR, WARNING = "error", "warning"
ORDERS = "public.orders"


class Shop:
    """A manager with a database of two shards; s2 is looked at."""

    def __init__(self, shardherd, name, version):
        self.rig = Rig(shardherd, f"/tmp/shardherd-checks-{os.getpid()}-{name}", pg_bin_dir(version))
        self.version = version
        try:
            self.rig.start()
            self.rig.make_shop(customers=0, schema=SCHEMA, tables=TABLES)
            for shard in ("s1", "s2"):
                wait_until(lambda s=shard: self.sql(s, "SELECT epoch FROM shardherd.routing"), what="the routing table")
            self.configure(max_prepared_transactions=5)
        except BaseException:
            self.rig.clean_up()
            raise

    def sql(self, shard, text):
        """As shardherd's superuser, whose own schema is not the first."""
        with psycopg.connect(self.rig.dsn(shard), autocommit=True, options="-c search_path=public") as conn:
            cursor = conn.execute(text)
            return cursor.fetchall() if cursor.description else []

    def configure(self, shard="s2", restart=True, **settings):
        """Settings of one server; None takes one back."""
        name, value = next(iter(settings.items()))
        had = self.sql(shard, f"SHOW {name}")
        with psycopg.connect(self.rig.dsn(shard), autocommit=True) as conn:
            for setting, to in settings.items():
                conn.execute(f"ALTER SYSTEM RESET {setting}" if to is None else f"ALTER SYSTEM SET {setting} = '{to}'")
            conn.execute("SELECT pg_reload_conf()")
        if restart:
            self.rig.stop()
            pid_file = self.rig.state / "instances" / f"shop-{shard}-0" / "data" / "postmaster.pid"
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
            wait_until(lambda: not pid_file.exists(), timeout=30, what="the server to stop")
            self.rig.start()
        else:
            wait_until(lambda: self.sql(shard, f"SHOW {name}") != had, what=f"{name} to be {value}, not {had}")

    def snapshot(self, shard):
        """All that a check could have changed on a server; what the guard watch notes there once a minute aside."""
        conninfo = self.rig.dsn(shard)
        binaries = pg_bin_dir(self.version)
        out = []
        aside = [f"--exclude-table-data=shardherd.{name}" for name in ("pure", "parts")]
        for program in (["pg_dump", *aside], ["pg_dumpall", "--globals-only"]):
            done = subprocess.run([str(binaries / program[0]), *program[1:], "-d", conninfo], check=True,
                                  capture_output=True, text=True)  # fmt: skip
            out += [line for line in done.stdout.splitlines() if not re.match(r"\\(un)?restrict ", line)]
        out += self.sql(shard, "SELECT slot_name::text, active FROM pg_replication_slots WHERE NOT temporary")
        out += self.sql(shard, "SELECT subname FROM pg_subscription UNION ALL SELECT roname FROM pg_replication_origin")
        return out

    def look(self, **request):
        """The operation of a dry run, after which nothing is otherwise than before."""
        body = {"dryRun": True, **request}
        before = self.everything()
        op = self.move(**body)
        assert self.everything() == before
        return op

    def everything(self):
        return [self.snapshot("s1"), self.snapshot("s2"), self.rig.routing(), sorted(os.listdir(self.instances))]

    def move(self, **request):
        body = {"kind": "split", "shard": "s2", "bake": "0s", **request}
        return self.rig.wait_operation(self.rig.post("/v1/databases/shop/operations", body)["id"])

    @property
    def instances(self):
        return self.rig.state / "instances"


def found(op):
    return [(f["severity"], f["subject"], f["finding"]) for f in op["findings"]]


def assert_found(op, expected):
    """Exactly these, each by how its text begins, with a remedy; and the operation ended as they say."""
    left = found(op)
    for severity, subject, text in expected:
        matches = [f for f in left if f[:2] == (severity, subject) and f[2].startswith(text)]
        assert len(matches) == 1, (severity, subject, text, op["findings"])
        left.remove(matches[0])
    assert left == [], left
    assert all(len(f["remedy"]) > 10 for f in op["findings"]), op["findings"]
    errors = sum(severity == ERROR for severity, _, _ in expected)
    assert [f[0] for f in found(op)] == [ERROR] * errors + [WARNING] * (len(expected) - errors)
    if errors:
        assert (op["status"], op["state"]) == ("undone", "refused"), op
        assert f"{errors} finding(s) forbid the move, the first: " in op["error"]["message"], op["error"]
    else:
        assert (op["status"], op["state"]) == ("done", "done"), op


@contextlib.contextmanager
def other_files(shop):
    """A manager whose new shards would come from programs that have the extension probe 1.5 and nothing else, by what
    pg_config tells, which is what this yields."""
    real, rig = pg_bin_dir(shop.version), shop.rig
    made = rig.directory / "other"
    (made / "bin").mkdir(parents=True)
    (made / "share" / "extension").mkdir(parents=True)
    (made / "share" / "extension" / "probe.control").write_text("# probe\ncomment = 'none'\ndefault_version = '1.5'\n")
    for program in real.iterdir():
        if program.name != "pg_config":
            (made / "bin" / program.name).symlink_to(program)
    tells = made / "bin" / "pg_config"
    tells.write_text(f"#!/bin/sh\n{real}/pg_config --version\necho {made}/share\n")
    tells.chmod(0o755)
    rig.stop()
    rig.pg_bin = made / "bin"
    rig.start()
    try:
        yield tells
    finally:
        rig.stop()
        rig.pg_bin = real
        rig.start()
        shutil.rmtree(made)


@contextlib.contextmanager
def new_shop(shardherd, name, version):
    if pg_bin_dir(version) is None:
        pytest.skip(f"PostgreSQL {version} is not installed (scripts/install-deps gets it)")
    shop = Shop(shardherd, name, version)
    try:
        yield shop
    finally:
        shop.rig.clean_up()
