"""Two keepers over one etcd, of which one leads: it is killed, or paused and goes on later."""

import contextlib
import shutil
import signal
import sys

import pytest
from conftest import DEFAULT, REPO, wait_until
from test_agent_replica import make_shard
from test_ha import Keeper, Writer, begun, by_name, dump, lost, node_dies, streaming, until

sys.path.insert(0, str(REPO / "tests" / "kube"))

pytestmark = [pytest.mark.slow, pytest.mark.waits]


@contextlib.contextmanager
def kept_by_two(shardherd, tool, names, **environment):
    """Members, and two keepers over one etcd that were not started yet."""
    from control_plane import build_programs
    from etcd_cluster import EtcdCluster

    try:
        build_programs(("etcd",))
    except RuntimeError as error:
        pytest.skip(str(error))
    shard = make_shard(shardherd, DEFAULT)
    keepers = []
    try:
        with EtcdCluster(shard.directory / "etcd") as etcd:
            members = [shard.member(name) for name in names]
            for name in ("one", "two"):
                keeper = Keeper(tool("ha_tool"), shard.directory, members, etcd.url(), name)
                keeper.environment = {key: value or name for key, value in environment.items()}
                keepers.append(keeper)
            yield keepers
            for keeper in keepers:
                if keeper.process is not None:
                    keeper.kill()
    finally:
        for keeper in keepers:
            if keeper.process is not None and keeper.process.poll() is None:
                keeper.process.send_signal(signal.SIGCONT)
                keeper.kill()
        for member in shard.made:
            member.destroy()
        shutil.rmtree(shard.directory)


@pytest.fixture
def pair(shardherd, tool):
    """Three members, and two keepers: the first leads."""
    with kept_by_two(shardherd, tool, "abc", HA_TOOL_HOLDER="") as keepers:
        yield keepers


def leads(keeper, timeout=30):
    until(keeper, lambda: keeper.last("leader")[0] is not None, timeout, f"{keeper.name} to lead")
    return keeper.last("leader")[1]


def both_started(pair, **environment):
    one, two = pair
    one.environment |= environment
    one.start()
    assert leads(one) == 1
    begun(one)
    two.start()
    return one, two


def in_order(members, keeper, term):
    """One primary, of that term; the others follow it and know no other."""
    name, now = keeper.primary()
    assert now == term, keeper.lines
    streaming(keeper, {m.name for m in members} - {name})
    for member in members:
        status = member.status()
        assert status["term"] == str(term), status
        assert (status["reported"] == "primary") == (member.name == name)


def ended(keeper, code, timeout=20):
    with contextlib.suppress(Exception):
        keeper.process.wait(timeout=timeout)
    assert keeper.process.poll() == code, dump(keeper.members, keeper)


def test_leader_killed(pair):
    """Nothing happens to the primary; the next leader keeps it, and fails over when it dies."""
    one, two = both_started(pair)
    writer = Writer(one.members)
    wait_until(lambda: len(writer.acknowledged) > 50, 20, "writes")
    one.kill()
    assert leads(two) == 2
    until(two, lambda: two.primary() == ("a", 1), 30, "the primary")
    in_order(two.members, two, 1)
    assert writer.longest_pause() < 2
    node_dies(by_name(two, "a"))
    until(two, lambda: two.primary()[1] == 2, 30, "another primary")
    by_name(two, "a").start()
    in_order(two.members, two, 2)
    writer.end()
    assert lost(by_name(two, two.primary()[0]), writer) == []


def test_leader_paused(pair):
    """Its successor fails over meanwhile; when it goes on, what it believes is refused by the agents."""
    one, two = both_started(pair)
    writer = Writer(one.members)
    wait_until(lambda: len(writer.acknowledged) > 50, 20, "writes")
    one.process.send_signal(signal.SIGSTOP)
    assert leads(two) == 2
    until(two, lambda: two.primary() == ("a", 1), 30, "the primary")
    node_dies(by_name(two, "a"))
    until(two, lambda: two.primary()[1] == 2, 30, "another primary")
    by_name(two, "a").start()
    in_order(two.members, two, 2)
    one.process.send_signal(signal.SIGCONT)
    ended(one, 3)
    assert one.primary() == ("a", 1)
    in_order(two.members, two, 2)
    writer.end()
    assert lost(by_name(two, two.primary()[0]), writer) == []


@pytest.mark.parametrize("place", ["before:claim", "after:confirm", "after:chosen", "after:promote", "before:open"])
def test_leader_paused_within_a_failover(pair, place):
    """It stands still in the middle of it, and the other one ends it. Then it goes on where it was."""
    one, two = both_started(pair, SHARDHERD_TEST_KILL_AT=f"stop:failover:{place}")
    writer = Writer(one.members)
    wait_until(lambda: len(writer.acknowledged) > 50, 20, "writes")
    node_dies(by_name(one, "a"))
    assert leads(two) == 2
    until(two, lambda: two.primary()[1] >= 2, 30, "another primary")
    name, term = two.primary()
    by_name(two, "a").start()
    in_order(two.members, two, term)
    assert "stopping here" in one.log()
    one.process.send_signal(signal.SIGCONT)
    ended(one, 3)
    acknowledged = len(writer.acknowledged)
    until(two, lambda: len(writer.acknowledged) > acknowledged + 50, 20, "writes")
    assert two.primary() == (name, term)
    in_order(two.members, two, term)
    writer.end()
    assert lost(by_name(two, name), writer) == []


def test_paused_before_it_promotes_who_would_acknowledge_alone(shardherd, tool):
    """Meanwhile another one has promoted it, lost it, waited for its lease and promoted the other instance. What the
    paused one still wants would make two that acknowledge alone: its lease needs a proof, and the store has none."""
    with kept_by_two(shardherd, tool, "ab", HA_TOOL_ASYNC="1") as (one, two):
        one.environment["SHARDHERD_TEST_KILL_AT"] = "stop:failover:before:promote"
        a, b = (by_name(one, name) for name in "ab")
        one.start()
        until(one, lambda: one.primary() == ("a", 1), 30, "the first primary")
        streaming(one, "b")
        node_dies(a)
        until(one, lambda: "stopping here" in one.log(), 30, "the first keeper to stop")
        two.start()
        until(two, lambda: two.primary() == ("b", 2), 30, "the promotion")
        a.start()
        streaming(two, "a")
        node_dies(b)
        until(two, lambda: two.primary() == ("a", 3), 30, "the next promotion")
        two.process.send_signal(signal.SIGSTOP)
        a.process.send_signal(signal.SIGSTOP)  # as if it were cut off from the first keeper, which it could tell
        b.start()
        one.process.send_signal(signal.SIGCONT)
        until(one, lambda: "another manager has written the record" in one.log(), 10, "the first keeper to notice")
        seen = b.status()
        assert seen["reported"] != "primary", seen
        one.kill()
        a.process.send_signal(signal.SIGCONT)
        two.process.send_signal(signal.SIGCONT)
        until(two, lambda: two.primary()[1] >= 3, 30, "a primary")
        in_order([a, b], two, two.primary()[1])
