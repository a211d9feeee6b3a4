"""A database of many shards on servers that are there: how many are filled at a time."""

import contextlib
import json
import os

import pytest
from conftest import wait_until
from rig import Rig

PASSWORD = "of the test"
SHARDS, AT_A_TIME = 12, 8
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'shardherd op=%%'"


@pytest.fixture
def rig(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-many-{os.getpid()}")
    yield rig
    rig.clean_up()


def test_some_shards_get_their_functions_at_a_time(rig, pg_factory):
    """Each takes a quarter of a megabyte meanwhile, and a session; who has got them gives both back."""
    server = pg_factory(password=PASSWORD, wal_level="logical")
    server.psql("CREATE ROLE app LOGIN")
    names = [f"s{i}" for i in range(SHARDS)]
    for name in names:
        server.psql(f"CREATE DATABASE {name} OWNER app")
    passfile = rig.directory / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text(f"*:*:*:postgres:{PASSWORD}\n")
    entries = [
        {"name": f"pg-{name}", "host": "127.0.0.1", "port": server.port, "user": "postgres", "dbname": name,
         "database": "shop", "shard": name, "passfile": str(passfile)}
        for name in names
    ]  # fmt: skip
    rig.config = rig.directory / "shardherd.yaml"
    rig.config.write_text(json.dumps({"discovery": {"interval": "1s", "static": entries}}))
    rig.start()
    bounds = [-(2**63) + i * (2**64 // SHARDS) for i in range(SHARDS)] + [2**63]
    shards = [
        {"name": name, "range": f"{lo}..{hi - 1}", "instance": f"pg-{name}"}
        for name, lo, hi in zip(names, bounds, bounds[1:], strict=False)
    ]
    tables = [{"name": "public.t", "key": "k"}]
    spec = {"shards": shards, "tables": tables, "schema": "CREATE TABLE t (k bigint PRIMARY KEY)"}
    document = {"apiVersion": "shardherd.io/v1alpha1", "kind": "ShardedDatabase"}
    document |= {"metadata": {"name": "shop"}, "spec": spec}

    def sessions():
        return server.psql(SESSIONS)[0][0]

    def waiting():
        return server.psql(SESSIONS + " AND wait_event_type = 'Lock'")[0][0]

    with contextlib.ExitStack() as stack:
        for name in names:  # nobody can make the schema shardherd
            connection = stack.enter_context(contextlib.closing(server.connect(name)))
            connection.autocommit = False
            connection.execute("LOCK TABLE pg_namespace IN SHARE MODE")
        answer = rig.fetch("/v1/databases/shop", "PUT", document)
        wait_until(lambda: waiting() >= AT_A_TIME, what="the first ones wait")
        assert sessions() == AT_A_TIME
    operation = rig.wait_operation(answer.get("operation", answer.get("id")))
    assert operation["status"] == "done", operation
    wait_until(lambda: sessions() == 0, what="all sessions ended")
