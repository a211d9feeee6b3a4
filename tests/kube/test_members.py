"""Shards of three instances in the test cluster: made, failed over by killing pods and nodes, changed, removed."""

import json
import threading
import time

import pytest
from kube import needs_root
from manager_rig import DATABASES, ManagerCluster, database
from members import pods, wait_whole, whole
from test_manager import ended, start

pytestmark = needs_root
POD = "/api/v1/namespaces/default/pods"
MEMBERS = ["shop-s1-0", "shop-s1-1", "shop-s1-2"]
QUIET = {"split": "off", "merge": "off"}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    # each instance on a node of its own, and one for the manager and the client
    with ManagerCluster(tmp_path_factory.mktemp("members"), nodes=4) as rig:
        yield rig


class Load(threading.Thread):
    def __init__(self, rig, client, seconds):
        super().__init__()
        self.rig, self.client, self.seconds, self.done = rig, client, seconds, None
        self.start()

    def run(self):
        more = ["--duration", f"{self.seconds}s", "--clients", "2", "--rate", "100", "--op-timeout", "2s", "--json"]
        self.done = self.rig.load(self.client, *more, timeout=self.seconds + 120)

    def report(self):
        self.join()
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr  # 10: an acknowledged write is lost
        return json.loads(self.done.stdout.strip().splitlines()[-1])


def sql(rig, client, statement, host="shop-s1"):
    """By a service's name, as the application's role."""
    text = f"host={host} user=app dbname=shop sslmode=require connect_timeout=3"
    script = f'PGPASSWORD="$SHARDHERD_LOAD_PASSWORD" exec psql -XAtq "{text}" -c "{statement}"'
    done = rig.exec(client, "sh", "-c", script, timeout=20)
    return done.stdout.strip() if done.returncode == 0 else None


def hand_over(rig, to, count=3):
    leader = rig.leader()["metadata"]["name"]
    done = rig.exec(leader, "shardherd", "switchover", "shop/s1", "--to", to, "--wait", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rig.wait(lambda: whole(rig, count) == to, 120, f"{to} is the primary")
    return to


def make_shop(rig, instances, policy="delete"):
    """A database of one shard, with its rows, and a client pod."""
    rig.must("POST", DATABASES, database(shards=1, instances=instances, balance=QUIET, deletionPolicy=policy))
    rig.wait_database(shards=1, timeout=180)
    client = rig.client_pod()
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stdout + done.stderr
    return client


@pytest.fixture(scope="module")
def shop(rig):
    return make_shop(rig, 3)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_three_are_made(rig, shop):
    """Three pods on three nodes, one primary that the read-write service finds, standbys behind the other."""
    first = wait_whole(rig)
    seen = pods(rig)
    assert sorted(seen) == MEMBERS
    assert len({p["spec"]["nodeName"] for p in seen.values()}) == 3
    assert sql(rig, shop, "SELECT pg_is_in_recovery()") == "f"
    assert sql(rig, shop, "SELECT pg_is_in_recovery()", host="shop-s1-ro") == "t"
    assert sql(rig, shop, "SHOW synchronous_standby_names").startswith("ANY 1 (")
    shard = rig.database()["status"]["routing"]["shards"][0]
    assert json.dumps(shard).count(f"{first}.shop-s1-pods.default.svc") == 1


WRITTEN = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables"


def gap(rig, client, seconds, fault):
    """Load, and the fault 3 s after it began; returns the report. Nothing that was acknowledged is lost."""
    before = int(sql(rig, client, WRITTEN))
    load = Load(rig, client, seconds)
    try:
        # it has sessions long before it writes
        rig.wait(lambda: int(sql(rig, client, WRITTEN) or 0) >= before + 50, 30, "the load's writes")
        began = time.monotonic()
        rig.wait(lambda: time.monotonic() - began > 3, 10, "some load before the fault")
        assert load.is_alive(), "the load was over before the fault"
        fault()
    finally:
        report = load.report()
    assert report["acked_writes"] > 200, report
    print(f"longest write gap {report['longest_write_gap_ms']:.0f} ms, {report['acked_writes']} writes, none lost")
    return report


def said_of(rig, name):
    """How often the manager's log says that the instance's pod is gone, and that it was labelled the primary."""
    lines = [line for line in rig.manager_logs().splitlines() if f"instance={name} " in line + " "]
    return {
        "gone": sum("the member's pod or node is gone" in line for line in lines),
        "primary": sum("the pod is marked" in line and "role=primary" in line for line in lines),
    }


def delete_now(rig, name):
    rig.must("DELETE", f"{POD}/{name}", {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_primarys_pod_is_killed(rig, shop):
    """Its container killed, then its pod deleted without grace: writes come back, on the same or another instance."""
    first = wait_whole(rig)
    report = gap(rig, shop, 15, lambda: rig.crash(first, "postgresql"))
    assert report["longest_write_gap_ms"] < 15000, report
    first = wait_whole(rig)
    said = said_of(rig, first)
    report = gap(rig, shop, 20, lambda: delete_now(rig, first))
    assert report["longest_write_gap_ms"] < 8000, report
    second = wait_whole(rig)
    assert second != first
    assert sql(rig, shop, "SELECT pg_is_in_recovery()") == "f"
    now = said_of(rig, first)
    assert now["gone"] > said["gone"]  # the watch told
    assert now["primary"] == said["primary"], rig.manager_logs()[-6000:]  # the new pod of its name was none


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_primarys_node_is_killed(rig, shop):
    """Nothing is waited for that Kubernetes has to say; the node comes back, and so does the instance, as a standby."""
    first = wait_whole(rig)
    needed = {rig.leader()["spec"]["nodeName"], rig.get("Pod", shop)["spec"]["nodeName"]}
    where = {name: pod["spec"]["nodeName"] for name, pod in pods(rig).items()}
    if where[first] in needed:
        first = hand_over(rig, next(name for name, node in sorted(where.items()) if node not in needed))
    node = where[first]
    report = gap(rig, shop, 30, lambda: rig.node(node, "kill"))
    assert report["longest_write_gap_ms"] < 20000, report
    rig.node(node, "start")
    assert wait_whole(rig, 180) != first


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_primary_comes_back_empty(rig, shop):
    """Claim and pod of the primary go, a new pod of its name has nothing: it is cloned, and never becomes the primary
    of an empty database."""
    first = wait_whole(rig)
    claim = f"/api/v1/namespaces/default/persistentvolumeclaims/data-{first}"
    before = rig.must("GET", claim)["metadata"]["uid"]

    def fault():
        rig.must("DELETE", claim)
        delete_now(rig, first)

    gap(rig, shop, 20, fault)
    assert wait_whole(rig, 180) != first
    assert rig.must("GET", claim)["metadata"]["uid"] != before


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_switchover_by_an_object(rig, shop):
    first = wait_whole(rig)
    to = next(name for name in MEMBERS if name != first)
    start(rig, "over-there", kind="switchover", shard="s1", instance=to)
    status = ended(rig, "over-there", "Done")["status"]
    assert status["target"] == to and status["step"] == "done" and to in status["message"], status
    assert 0 < status["writeBlockMicroseconds"] < 30_000_000, status
    rig.wait(lambda: whole(rig) == to, 60, f"{to} is the primary")
    said = rig.public(f"/v1/operations/{status['operation']}")
    assert said["kind"] == "switchover" and "ShardOperation over-there (" in json.dumps(said), said
    start(rig, "over-where", kind="switchover", shard="s1", instance="shop-s1-9")
    assert "shop-s1-9" in ended(rig, "over-where", "Refused")["status"]["message"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_manager_and_primary_are_killed_together(rig, shop):
    """The Lease of a manager that is known to be dead is not waited for."""
    first = wait_whole(rig)
    leader = rig.leader()["metadata"]["name"]

    def fault():
        rig.crash(leader)
        delete_now(rig, first)

    report = gap(rig, shop, 40, fault)
    assert report["longest_write_gap_ms"] < 12000, report
    wait_whole(rig)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_parameter_that_needs_a_restart(rig, shop):
    """Standbys first, then a switchover, then the old primary; the load goes on, and nothing is lost."""
    first = wait_whole(rig)
    before = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    order = []

    def changed():
        now = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
        order.extend(name for name in now if now[name] != before[name] and name not in order)
        return len(order) == 3

    def fault():
        rig.patch(f"{DATABASES}/shop", {"spec": {"postgresql": {"parameters": {"max_connections": "177"}}}})
        rig.wait(changed, 120, f"three new pods: {order}")

    report = gap(rig, shop, 45, fault)
    assert report["longest_write_gap_ms"] < 10000, report
    assert order[2] == first, order
    assert wait_whole(rig) != first
    assert sql(rig, shop, "SHOW max_connections") == "177"
    rig.wait_database(shards=1)
    # lowered again it would keep each standby that restarts from starting: nothing is done of it
    rig.patch(f"{DATABASES}/shop", {"spec": {"postgresql": {"parameters": {"max_connections": "90"}}}})
    refused = rig.wait(lambda: rig.condition_of(rig.database(), "Stalled"), 20, "refused")
    assert "max_connections cannot be lowered from 177 to 90" in refused["message"]
    rig.patch(f"{DATABASES}/shop", {"spec": {"postgresql": {"parameters": {"max_connections": "177"}}}})
    rig.wait_database(shards=1)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_to_zero_and_back_and_away(rig, shop):
    path = f"{DATABASES}/shop"
    wait_whole(rig)
    rig.patch(path, {"spec": {"suspended": True}})
    rig.wait(lambda: not pods(rig), 90, "no pod")
    rig.patch(path, {"spec": {"suspended": False}})
    rig.wait_database(shards=1, timeout=120)
    wait_whole(rig)
    done = rig.load(shop, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    rig.must("DELETE", path)
    rig.wait(lambda: rig.database() is None, 120, "deleted")
    rig.wait(lambda: rig.belongings() == [], 60, f"nothing left: {rig.belongings()}")
    records = [c["metadata"]["name"] for c in rig.list("ConfigMap") if "ha" in c["metadata"]["name"]]
    assert not [name for name in records if "shop" in name], records
