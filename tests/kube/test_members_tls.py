"""Several instances whose servers have no TLS, or ask for certificates; a change between the modes under load."""

import time

import pytest
from kube import needs_root
from manager_rig import DATABASES, SHOP, ManagerCluster, database
from members import is_ready, pods, wait_whole
from test_manager import remove
from test_members import QUIET, delete_now, gap
from test_renewal import MINE

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.timeout(500),
]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("tls"), nodes=3) as rig:
        yield rig


def inside(rig, pod, statement):
    """Asks the server of a pod by its socket."""
    argv = ["psql", "-XAtq", "-h", "/var/run/postgresql", "-U", "shardherd", "-d", "postgres", "-c", statement]
    done = rig.exec(pod, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def has_tls(rig, pod):
    """None while the pod is made anew."""
    try:
        return inside(rig, pod, "SHOW ssl") == "on"
    except (AssertionError, RuntimeError):
        return None


def health(rig):
    return {i["name"]: i["health"] for i in rig.public("/v1/instances")["items"]}


class Reached:
    """How long, at most, the manager did not reach the server of a pod that is ready; and which pods had TLS when."""

    def __init__(self, rig):
        self.rig, self.since, self.longest, self.mixed = rig, {}, 0.0, 0

    def look(self):
        now, known, seen = time.monotonic(), health(self.rig), pods(self.rig)
        for name, pod in seen.items():
            if known.get(name) == "up" or not is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
                self.since.pop(name, None)
            else:
                self.longest = max(self.longest, now - self.since.setdefault(name, now))
        made = {"--tls=/etc/shardherd/tls" in pod["spec"]["containers"][0]["args"] for pod in seen.values()}
        self.mixed += len(made) > 1


class Shown:
    """As rig, but its load shows the certificate of the application's Secret."""

    def __init__(self, rig):
        self.rig = rig

    def __getattr__(self, name):
        return getattr(self.rig, name)

    def load(self, pod, *arguments, **more):
        return self.rig.load(pod, *arguments, *MINE, **more)

    def exec(self, pod, *argv, **more):
        """sql() of the client, with the certificate."""
        files = "sslcert=/certificate/tls.crt sslkey=/certificate/tls.key sslrootcert=/certificate/ca.crt"
        argv = [a.replace("sslmode=require", f"sslmode=verify-ca {files}") for a in argv]
        return self.rig.exec(pod, *argv, **more)


def replaced(rig, before):
    now = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    return len(now) == len(before) and not set(now.values()) & set(before.values())


def uids(rig):
    return {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}


def test_certificates_of_clients(rig):
    """on becomes mutual under load, standbys show what their servers show, and a failover is as any other."""
    rig.must("POST", DATABASES, database(shards=1, instances=3, balance=QUIET, deletionPolicy="delete"))
    rig.wait_database(shards=1, timeout=180)
    client, shown = rig.client_pod(certificate="shop-client"), Shown(rig)
    done = shown.load(client, "init")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_whole(rig)
    before = uids(rig)

    def change(mode):
        rig.patch(SHOP, {"spec": {"tls": {"mode": mode}}})
        rig.wait(lambda: replaced(rig, before) and rig.is_ready(), 150, f"all pods made anew: {mode}")

    report = gap(shown, client, 40, lambda: change("mutual"))
    assert report["longest_write_gap_ms"] < 10000, report
    first = wait_whole(rig)
    given = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE client_serial IS NOT NULL"
    assert inside(rig, first, given) == "2"
    refused = rig.exec(client, "sh", "-c", "psql 'host=shop-s1 user=app dbname=shop sslmode=require' -c 'SELECT 1'")
    assert "connection requires a valid client certificate" in refused.stderr, refused
    report = gap(shown, client, 15, lambda: delete_now(rig, first))
    assert report["longest_write_gap_ms"] < 8000, report
    second = wait_whole(rig, 120)
    assert second != first
    before = uids(rig)
    report = gap(shown, client, 40, lambda: change("on"))
    assert report["longest_write_gap_ms"] < 10000, report
    wait_whole(rig)
    done = shown.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    rig.delete("Pod", client)
    remove(rig)
    rig.wait(lambda: rig.get("Pod", client) is None, 30, "the client to go")


def test_without_tls(rig):
    """Agents have it all the same. To `on` and back under load, one pod after the other."""
    spec = {"shards": 1, "instances": 3, "balance": QUIET, "deletionPolicy": "delete", "tls": {"mode": "off"}}
    rig.must("POST", DATABASES, database(**spec))
    rig.wait_database(shards=1, timeout=180)
    client = rig.client_pod("plain")
    done = rig.load(client, "init", "--sslmode", "disable")
    assert done.returncode == 0, done.stdout + done.stderr
    first = wait_whole(rig)
    plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE NOT ssl"
    assert inside(rig, first, plain) == "2"
    assert inside(rig, first, "SHOW ssl") == "off"

    class Plain(Shown):
        def load(self, pod, *arguments, **more):
            return self.rig.load(pod, *arguments, "--sslmode", "prefer", **more)

        def exec(self, pod, *argv, **more):
            return self.rig.exec(pod, *[a.replace("sslmode=require", "sslmode=prefer") for a in argv], **more)

    either = Plain(rig)
    report = gap(either, client, 15, lambda: delete_now(rig, first))
    assert report["longest_write_gap_ms"] < 8000, report
    assert wait_whole(rig, 120) != first

    rig.patch(SHOP, {"spec": {"tls": {"mode": "mutual"}}})
    refused = rig.wait(lambda: rig.condition_of(rig.database(), "Stalled"), 30, "refused")
    assert "spec.tls.mode cannot be changed from off to mutual in one step" in refused["message"]
    assert "Set it to on, and to mutual when the database is Ready" in refused["message"]
    wait_whole(rig)
    assert set(health(rig).values()) == {"up"}  # it is polled as it is

    def change(mode):
        before = uids(rig)
        rig.patch(SHOP, {"spec": {"tls": {"mode": mode}}})
        reached = Reached(rig)

        def done():
            reached.look()
            return replaced(rig, before) and rig.is_ready()

        rig.wait(done, 150, f"all pods made anew: {mode}")
        print(f"to {mode}: a server that was ready was out of the manager's reach for {reached.longest:.1f} s at most")
        assert reached.mixed > 3  # looks at pods of either kind
        assert reached.longest < 5

    for mode in ("on", "off"):
        report = gap(either, client, 50, lambda mode=mode: change(mode))
        assert report["longest_write_gap_ms"] < 10000, report
        first = wait_whole(rig)
        assert {name: has_tls(rig, name) for name in pods(rig)} == dict.fromkeys(pods(rig), mode == "on")
        assert inside(rig, first, plain) == ("0" if mode == "on" else "2")
        assert inside(rig, first, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "2"
        assert set(health(rig).values()) == {"up"}
        refused = rig.exec(client, "sh", "-c", "psql 'host=shop-s1 user=app dbname=shop sslmode=disable' -c 'SELECT 1'")
        assert ("no pg_hba.conf entry" in refused.stderr) is (mode == "on"), refused
    done = either.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    remove(rig)
