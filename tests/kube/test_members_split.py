"""A hot shard of three instances is split, by itself and under load, into another StatefulSet of three."""

import pytest
from kube import needs_root
from manager_rig import DATABASES, SHOP, ManagerCluster, database
from members import primaries, wait_whole
from test_manager import QUICK, Load, moves, names, remove, start
from test_members import delete_now

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
WRITING = ("--clients", "3", "--op-timeout", "2s", "--no-check")


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with ManagerCluster(tmp_path_factory.mktemp("split"), nodes=3, variables=QUICK) as rig:
        yield rig


def make_hot(rig, **balance):
    """One shard of three, which is above the threshold with more than 150 operations a second; and a client."""
    if rig.database() is not None:  # what a test left that failed
        rig.delete("Pod", "client")
        remove(rig, timeout=120)
        rig.wait(lambda: rig.get("Pod", "client") is None, 30, "the client of before to go")
    balance = {"threshold": 150, "split": "off", "merge": "off", **balance}
    rig.must("POST", DATABASES, database(shards=1, instances=3, balance=balance, deletionPolicy="delete"))
    rig.wait_database(shards=1, timeout=180)
    client = rig.client_pod()
    made = rig.load(client, "init")
    assert made.returncode == 0, made.stdout + made.stderr
    return client


def end_of(rig, name, timeout=150):
    """Why the operation ended, and what it says of it."""

    def over():
        complete = rig.condition_of(rig.operation(name), "Complete")
        return complete if complete.get("status") in ("True", "False") else None

    try:
        complete = rig.wait(over, timeout, f"{name} to end")
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{rig.operation(name)}\n{rig.manager_logs()[-8000:]}") from None
    return complete["reason"], complete.get("message")


def done(rig, name):
    reason, message = end_of(rig, name)
    assert reason == "Done", f"{name}: {message}\n{rig.manager_logs()[-8000:]}"


def check(rig, client):
    """None of the acknowledged writes is lost, and none is on two shards."""
    checked = rig.load(client, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def the_end(rig, client):
    check(rig, client)
    rig.delete("Pod", client)
    rig.wait(lambda: rig.get("Pod", client) is None, 30, "the client to go")
    remove(rig, timeout=120)


def test_a_hot_shard(rig):
    """Then each half fails over for itself."""
    client = make_hot(rig, split="auto")
    load = Load(rig, 75, *WRITING, "--rate", "200")
    rig.wait(lambda: moves(rig, "running"), 50, "a split that nobody asked for")
    rig.patch(SHOP, {"spec": {"balance": {"split": "off"}}})  # one is enough
    rig.wait_database(shards=2, timeout=120)
    assert load.is_alive(), "the load ended before the split: it shows nothing"
    assert names(rig) == ["shop-s1", "shop-s2"]
    leads = {shard: wait_whole(rig, 120, shard=shard) for shard in ("s1", "s2")}
    report = load.result()
    print(f"longest write gap {report['longest_write_gap_ms']:.0f} ms, {report['acked_writes']} writes")
    assert report["acked_writes"] > 1000 and report["routing_changes"] >= 1, report
    assert report["longest_write_gap_ms"] < 5000, report
    rig.wait(lambda: not moves(rig, "running"), 60, "the split with its cleaning ended")
    hosts = str(rig.database()["status"]["routing"]["shards"])
    for primary in leads.values():
        assert f"{primary}.shop-" in hosts, hosts

    load = Load(rig, 20, *WRITING, "--rate", "100")
    rig.wait(lambda: load.is_alive() and rig.public("/v1/instances"), 10, "load")
    for primary in leads.values():
        delete_now(rig, primary)
    report = load.result()
    print(f"both fail over: longest write gap {report['longest_write_gap_ms']:.0f} ms, {report['acked_writes']} writes")
    assert report["longest_write_gap_ms"] < 8000, report
    for shard in leads:
        wait_whole(rig, 120, shard=shard)  # the old one may lead again by then, and is as good as another
    the_end(rig, client)


def split_with_death(rig, turn, side):
    """The primary of this side is killed when rows go over; returns how the split ended."""

    def step():
        return rig.operation(turn)["status"].get("step")

    first = wait_whole(rig, 120, shard="s1")
    start(rig, turn, kind="split", shard="s1", bakeSeconds=0)
    target = rig.wait(lambda: rig.operation(turn)["status"].get("target"), 60, "a target")
    at = rig.wait(lambda: step() not in ("planned", "check", "target") and step(), 120, "rows that go over")
    victim = first if side == "source" else next(n for n in primaries(rig) if n.startswith(f"shop-{target}-"))
    delete_now(rig, victim)

    reason, message = end_of(rig, turn)
    print(f"the {side}'s primary was killed at {at}: {reason}, {message}")
    wait_whole(rig, 120, shard="s1")
    return reason, target


def test_the_primary_of_either_side_is_killed_within_a_split(rig):
    """A split goes on, or back; nothing is lost or there twice, and another one, and a merge, are possible."""
    client = make_hot(rig)
    load = Load(rig, 150, *WRITING, "--rate", "100")
    for side in ("source", "target"):
        reason, target = split_with_death(rig, f"killed-{side}", side)
        if reason != "Done":
            assert reason == "Failed", reason
            rig.wait_database(shards=1, timeout=120)
            start(rig, f"again-{side}", kind="split", shard="s1", bakeSeconds=0)
            done(rig, f"again-{side}")
            target = rig.operation(f"again-{side}")["status"]["target"]
        rig.wait_database(shards=2, timeout=120)
        wait_whole(rig, 120, shard=target)
        start(rig, f"back-{side}", kind="merge", shard=target, target="s1", bakeSeconds=0)
        done(rig, f"back-{side}")
        rig.wait_database(shards=1, timeout=120)
        assert names(rig) == ["shop-s1"]
    print("still under load at the end" if load.is_alive() else "the load ended before")
    report = load.result()
    assert report["acked_writes"] > 1000, report
    print(f"longest write gap {report['longest_write_gap_ms']:.0f} ms, {report['acked_writes']} writes")
    the_end(rig, client)
