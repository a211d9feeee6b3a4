"""spec.instances of a database that lives, in the test cluster: more, fewer, with clients that write meanwhile."""

import pytest
from kube import needs_root
from manager_rig import DATABASES, SHOP, ManagerCluster, database
from members import kept, pods, primaries, wait_whole
from test_manager import remove
from test_members import QUIET, delete_now, gap, hand_over, make_shop, sql

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.timeout(500),
]
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("resize"), nodes=3) as rig:
        yield rig


@pytest.fixture(scope="module")
def shop(rig):
    client = make_shop(rig, 2, "retain")
    wait_whole(rig, count=2)
    return client


def claims(rig):
    found = rig.list("PersistentVolumeClaim", labelSelector="shardherd.io/database=shop")
    return {c["metadata"]["name"]: c["metadata"]["uid"] for c in found if not c["metadata"].get("deletionTimestamp")}


def is_resized(rig, count):
    return rig.is_ready() and len(pods(rig)) == len(kept(rig)) == count


def resize(rig, client, to, seconds=40):
    """Under load; afterwards all of them are there and no others. Returns the report and the primary."""

    def fault():
        rig.patch(SHOP, {"spec": {"instances": to}})
        rig.wait(lambda: is_resized(rig, to), 150, f"{to} instances, and Ready")

    try:
        report = gap(rig, client, seconds, fault)
        if report["longest_write_gap_ms"] > 5000:
            print(rig.public("/v1/operations")["items"], rig.manager_logs()[-12000:])
        return report, wait_whole(rig, count=to)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{rig.database()['status']}\n{rig.manager_logs()[-8000:]}") from None


def test_two_become_three(rig, shop):
    first = wait_whole(rig, count=2)
    before = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    report, primary = resize(rig, shop, 3)
    assert primary == first
    assert report["longest_write_gap_ms"] < 5000, report
    now = {name: pod["metadata"]["uid"] for name, pod in pods(rig).items()}
    assert before.items() < now.items(), "nobody was restarted"
    assert sql(rig, shop, "SHOW synchronous_standby_names").count("shop-s1-") == 2
    assert sql(rig, shop, "SELECT count(*) FROM customers", host="shop-s1-ro") != "0"


def test_three_become_two(rig, shop):
    """The primary is the one that is to go: it hands over first. Its volume stays."""
    hand_over(rig, "shop-s1-2")
    before = claims(rig)
    report, primary = resize(rig, shop, 2)
    assert report["longest_write_gap_ms"] < 10000, report
    assert primary in ("shop-s1-0", "shop-s1-1") and primaries(rig) == [primary]
    assert claims(rig) == before and "data-shop-s1-2" in before
    slots = sql(rig, shop, "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots")
    assert "shop_s1_2" not in slots, slots
    assert "shop-s1-2" not in sql(rig, shop, "SHOW synchronous_standby_names")


def test_the_one_that_left_comes_back(rig, shop):
    """With the volume that it had, which is behind by now."""
    before = claims(rig)
    resize(rig, shop, 3)
    assert claims(rig) == before


def test_five_and_back_to_two_without_volumes(rig, shop):
    resize(rig, shop, 5, seconds=60)
    assert len(claims(rig)) == 5
    rig.patch(SHOP, {"spec": {"deletionPolicy": "delete"}})
    hand_over(rig, "shop-s1-4", count=5)
    resize(rig, shop, 2, seconds=60)
    rig.wait(
        lambda: sorted(claims(rig)) == ["data-shop-s1-0", "data-shop-s1-1"], 30, "only the volumes of those that stay"
    )
    done = rig.load(shop, "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_become_one_and_three_again(rig, shop):
    """The only one that is left is a member without standbys; what is changed of it restarts it in its place."""
    hand_over(rig, "shop-s1-1", count=2)
    report, primary = resize(rig, shop, 1)
    assert primary == "shop-s1-0" and report["longest_write_gap_ms"] < 10000, report
    assert sql(rig, shop, "SHOW synchronous_standby_names") == ""
    assert sorted(claims(rig)) == ["data-shop-s1-0"]
    before = pods(rig)[primary]["metadata"]["uid"]
    rig.patch(SHOP, {"spec": {"postgresql": {"parameters": {"max_connections": "177"}}}})
    rig.wait(lambda: pods(rig).get(primary, {}).get("metadata", {}).get("uid") not in (None, before), 60, "a new pod")
    wait_whole(rig, count=1)
    assert sql(rig, shop, "SHOW max_connections") == "177"
    report, again = resize(rig, shop, 3)
    assert again == primary and report["longest_write_gap_ms"] < 5000, report
    report = gap(rig, shop, 20, lambda: delete_now(rig, primary))
    assert wait_whole(rig, 120) != primary


def test_one_becomes_three(rig):
    """A shard that was made with one instance: its rows stay, its pod is made anew once, and then it can fail over."""
    if rig.database() is not None:
        rig.delete("Pod", "client")
        remove(rig)
        rig.wait(lambda: rig.get("Pod", "client") is None, 30, "the client of before to go")
    rig.must("POST", DATABASES, database(shards=1, instances=1, balance=QUIET, deletionPolicy="retain"))
    rig.wait_database(shards=1, timeout=180)
    client = rig.client_pod()
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stdout + done.stderr
    before, uid = claims(rig), pods(rig)["shop-s1-0"]["metadata"]["uid"]
    report, primary = resize(rig, client, 3, seconds=60)
    assert primary == "shop-s1-0" and pods(rig)[primary]["metadata"]["uid"] != uid
    assert report["longest_write_gap_ms"] < 30000, report
    assert before.items() < claims(rig).items()
    shard = rig.database()["status"]["routing"]["shards"][0]
    assert "shop-s1-0.shop-s1-pods.default.svc" in str(shard), shard
    report = gap(rig, client, 25, lambda: delete_now(rig, primary))
    assert wait_whole(rig, 120) != primary
    report, primary = resize(rig, client, 1)
    assert primary == "shop-s1-0"
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    remove(rig)
