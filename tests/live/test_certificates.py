"""Servers that let nobody in without a client certificate: polled, sampled, split, written to."""

import json
import os

import psycopg
import pytest
from certificates import Certificates
from conftest import wait_until
from rig import Rig

pytestmark = pytest.mark.beside

PASSWORD = "open sesame"
HALVES = {"pg-a": f"{-(2**63)}..-1", "pg-b": f"0..{2**63 - 1}"}


def guarded(factory, made):
    """A server that asks for certificates of the authority, with a database for shop."""
    server = factory(
        start=False,
        password=PASSWORD,
        wal_level="logical",
        fsync=None,  # a move refuses servers that may lose what they acknowledged
        full_page_writes=None,
        synchronous_commit=None,
        max_wal_senders=20,
        max_replication_slots=20,
        ssl="on",
        ssl_ca_file=made.dir / "ca.crt",
        ssl_cert_file=made.dir / "server.crt",
        ssl_key_file=made.dir / "server.key",
    )
    server.initdb()
    (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n")
    server.start(wait=False)

    def refused():
        try:
            server.connect().close()
        except psycopg.OperationalError as error:
            return "requires a valid client certificate" in str(error)
        return False

    wait_until(refused, timeout=30, what="a server that wants a certificate")
    with server.connect(**made.shown("client")) as connection:
        connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("CREATE DATABASE shop OWNER app")
    return server


@pytest.fixture
def rig(shardherd, pg_factory, work_dir):
    made = Certificates(work_dir / "made")
    made.authority("ca")
    made.issue("ca", "server", "serverAuth")
    made.issue("ca", "client", "clientAuth")
    made.share("server")
    made.share("client")
    servers = {name: guarded(pg_factory, made) for name in HALVES}
    rig = Rig(shardherd, f"/tmp/shardherd-certificates-{os.getpid()}")
    passfile = rig.directory / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text(f"*:*:*:postgres:{PASSWORD}\n")
    common = {
        "host": "127.0.0.1",
        "user": "postgres",
        "dbname": "shop",
        "passfile": str(passfile),
        "sslmode": "verify-full",
        "sslrootcert": str(made.dir / "ca.crt"),
        **made.shown("client"),
    }
    entries = [{"name": name, "port": server.port, **common} for name, server in servers.items()]
    rig.config = rig.directory / "shardherd.yaml"
    rig.config.write_text(json.dumps({"discovery": {"static": entries}}))  # JSON is YAML
    rig.rows = ("--customers", "2000")
    rig.shown = [text for key, value in made.shown("client").items() for text in (f"--{key}", value)]
    rig.servers, rig.certificates = servers, made
    yield rig
    rig.clean_up()


def test_a_hot_server_that_wants_certificates_is_split(rig):
    """By the poller's, the sampler's and the move's own connections, and by the subscription of the third server."""
    rig.start()
    shards = [{"name": f"s{i + 1}", "range": text, "instance": name} for i, (name, text) in enumerate(HALVES.items())]
    balance = {"split": "auto", "threshold": 150, "window": 5, "sample": "2s", "cooldown": "10m"}
    rig.make_shop(customers=0, shards=shards, balance=balance)
    password = (rig.state / "secrets" / "shop.pgpass").read_text().strip().rpartition(":")[2]
    for server in rig.servers.values():
        with server.connect(**rig.certificates.shown("client")) as connection:
            connection.execute(f"ALTER ROLE app PASSWORD '{password}'")
    rig.load("init", *rig.rows, "--quiet", *rig.shown)
    rig.start_load("--clients", "4", "--rate", "350", "--skew", f"hot-range=0..{2**63 - 1}:0.9", *rig.shown)

    def split():
        return [o for o in rig.operations() if o["kind"] == "split"]

    wait_until(split, timeout=60, what="a split that nobody asked for")
    done = rig.wait_operation(split()[0]["id"])
    assert done["status"] == "done", json.dumps(done)
    result = rig.stop_load()
    assert result["acked_writes"] > 0
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    assert [s["name"] for s in rig.routing()["shards"]] == ["s1", "s2", "s3"]
    items = {i["name"]: i["health"] for i in rig.fetch("/v1/instances")["items"]}
    assert set(items.values()) == {"up"} and set(HALVES) < set(items), items
    log = rig.log.read_text()
    assert "valid client certificate" not in log and "PRIVATE" not in log


def test_a_renewed_certificate_is_used_by_the_next_connection(rig):
    """The files of before are over; the manager goes on with what is there now, without a restart."""
    made = rig.certificates
    rig.start()

    def healths():
        return {i["health"] for i in rig.fetch("/v1/instances")["items"]}

    wait_until(lambda: healths() == {"up"}, timeout=20, what="both servers up")
    made.authority("other")
    made.issue("other", "next", "clientAuth")
    made.share("next")
    for server in rig.servers.values():
        server.restart(wait=False, ssl_ca_file=made.dir / "other.crt")
    wait_until(lambda: healths() == {"down"}, timeout=30, what="the old certificate refused")
    for end in ("crt", "key"):
        (made.dir / f"next.{end}").rename(made.dir / f"client.{end}")
    wait_until(lambda: healths() == {"up"}, timeout=40, what="the new certificate in use")
