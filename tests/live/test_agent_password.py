"""Another password for the servers of a shard: its agents have it at hand before, and standbys get in with either."""

import shutil

import psycopg
import pytest
from conftest import DEFAULT, wait_until
from test_agent_replica import POSTGRES, make_shard

pytestmark = pytest.mark.beside

OLD, NEW = "secret-of-the-shard", "the-next-of-the-shard"
STREAMS = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming' AND application_name = %s"


@pytest.fixture
def shard(shardherd):
    made = make_shard(shardherd, DEFAULT)
    yield made
    for member in made.made:
        member.destroy()
    shutil.rmtree(made.directory)


def put(member, name, text):
    """As the kubelet does it: at once."""
    path, partial = member.dir / name, member.dir / f".{name}"
    partial.touch(mode=0o600)
    partial.write_text(text)
    if POSTGRES:
        shutil.chown(partial, POSTGRES, POSTGRES)
    partial.rename(path)


def connect(member, password):
    return psycopg.connect(
        host=member.host, port=member.port, user="shardherd", password=password, dbname="postgres", autocommit=True
    )


def cut_off_and_back(primary, standby, password, timeout=20):
    """Its receiver is ended, and gets in again."""
    with connect(primary, password) as connection:
        (before,) = connection.execute(STREAMS, [standby.name]).fetchone()
        connection.execute("SELECT pg_terminate_backend(%s)", [before])

        def back():
            found = connection.execute(STREAMS, [standby.name]).fetchone()
            return found is not None and found[0] != before

        wait_until(back, timeout, f"{standby.name} to stream again: {standby.log()[-2000:]}")


def test_standbys_get_in_with_either_password(shard):
    a, b = shard.of("ab")
    assert "next_password" not in b.status()
    for member in (a, b):
        put(member, "next-password", f"{NEW}\n")
        put(member, "next-password-mark", "mark-1\n")
    for member in (a, b):
        wait_until(lambda member=member: member.status().get("next_password") == "mark-1", 10, "it to be at hand")
    cut_off_and_back(a, b, OLD)  # at hand is not in force
    with connect(a, OLD) as connection:
        connection.execute(f"ALTER ROLE shardherd PASSWORD '{NEW}'")
    cut_off_and_back(a, b, NEW)

    # a new one is cloned meanwhile
    c = shard.member("c")
    put(c, "next-password", f"{NEW}\n")
    a.assign(1, "primary", seq=1, slots=["shardherd_b", "shardherd_c"]).settled("primary")
    c.assign(1, "standby", upstream={**a.upstream, "slot": "shardherd_c"}).settled("standby", 40)
    wait_until(lambda: c.status().get("receiver") == "streaming", 20, "streaming")

    # the files follow, of the primary last
    for member in (c, b, a):
        put(member, "password", f"{NEW}\n")
        (member.dir / "next-password").unlink()
        wait_until(lambda member=member: "next_password" not in member.status(), 10, "nothing to be at hand")
    for standby in (b, c):
        cut_off_and_back(a, standby, NEW)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(a, OLD)
    assert all(secret not in member.log() for member in (a, b, c) for secret in (OLD, NEW))
