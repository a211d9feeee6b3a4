"""credentials.rotation with several instances: all agents have the next password at hand before the servers get it."""

import base64

import pytest
from kube import needs_root
from manager_rig import DATABASES, SHOP, ManagerCluster, database
from members import pods, primaries, wait_whole
from test_members import QUIET, delete_now, gap, sql

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.timeout(500),
]
MINE = {"username": "app", "password": "of-the-application-itself"}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("rotation"), nodes=3) as rig:
        yield rig


@pytest.fixture(scope="module")
def client(rig):
    """The application's password is nobody's to rotate: its sessions last, and it comes back with it."""
    rig.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": MINE})
    rig.must("POST", DATABASES, database(shards=1, instances=3, balance=QUIET, credentials={"secret": "mine"}))
    rig.wait_database(shards=1, timeout=180)
    client = rig.client_pod(secret="mine")
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stdout + done.stderr
    return client


def secret(rig):
    data = rig.get("Secret", "shop-s1-credentials")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def lets_in(rig, client, password, host):
    """The manager's role by a service's name; None: it is told that the password is wrong."""
    text = f"host={host} user=shardherd dbname=postgres sslmode=require connect_timeout=3"
    done = rig.exec(client, "sh", "-c", f'PGPASSWORD="{password}" exec psql -XAtq "{text}" -c "SELECT 1"', timeout=20)
    assert done.returncode == 0 or "password authentication failed" in done.stderr, done.stderr
    return done.returncode == 0


def cut_off_standbys(rig, primary):
    """Whoever gets in again has the right password."""
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
    argv = ["psql", "-XAtq", "-h", "/var/run/postgresql", "-U", "shardherd", "-d", "postgres", "-c", statement]
    done = rig.exec(primary, *argv)
    assert done.returncode == 0 and done.stdout.split() == ["t", "t"], done


def changes(rig, count, timeout=90):
    """Waits until the Secret has had so many more passwords; returns them, the first is that of now."""
    seen = [secret(rig)["password"]]

    def changed():
        now = secret(rig)
        if now["password"] != seen[-1]:
            assert now["previous-password"] == seen[-1]
            seen.append(now["password"])
        return len(seen) > count

    rig.wait(changed, timeout, f"{count} new passwords: {secret(rig).keys()}\n{rig.manager_logs()[-4000:]}")
    return seen


def test_passwords_change_without_an_outage(rig, client):
    """Under load, with the manager killed in between; nobody restarts, and standbys that are cut off get in again."""
    first = wait_whole(rig)
    before = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    seen = []

    def fault():
        rig.patch(SHOP, {"spec": {"credentials": {"rotation": "10s"}}})
        seen.extend(changes(rig, 1))
        rig.wait(lambda: "next-password" in secret(rig), 60, "the next one to be announced")
        rig.crash(rig.leader()["metadata"]["name"])
        seen.extend(changes(rig, 2, 120)[1:])
        cut_off_standbys(rig, first)
        rig.patch(SHOP, {"spec": {"credentials": {"rotation": "0"}}})
        rig.wait(lambda: rig.is_ready() and "next-password" not in secret(rig), 60, "the last change to end")

    report = gap(rig, client, 75, fault)
    assert report["longest_write_gap_ms"] < 3000, report
    assert wait_whole(rig) == first
    assert {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()} == before
    assert len(set(seen)) == len(seen) >= 4
    now = secret(rig)["password"]
    for host in ("shop-s1", "shop-s1-ro"):
        assert lets_in(rig, client, now, host)
        assert not any(lets_in(rig, client, old, host) for old in seen if old != now)
    health = {i["name"]: i["health"] for i in rig.public("/v1/instances")["items"]}
    assert set(health.values()) == {"up"}, health


def test_a_failover_while_passwords_change(rig, client):
    """Whoever is promoted, and whoever follows it, has what the servers have."""
    first = wait_whole(rig)
    rig.patch(SHOP, {"spec": {"credentials": {"rotation": "10s"}}})
    try:
        rig.wait(lambda: "next-password" in secret(rig), 60, "the next one to be announced")
        report = gap(rig, client, 40, lambda: delete_now(rig, first))
        assert report["longest_write_gap_ms"] < 10000, report
        changes(rig, 1)
    finally:
        rig.patch(SHOP, {"spec": {"credentials": {"rotation": "0"}}})
    second = wait_whole(rig, 120)
    assert second != first and primaries(rig) == [second]
    assert sql(rig, client, "SELECT pg_is_in_recovery()") == "f"
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
