"""Whatever breaks: a shard of three on nodes of their own (nodes.py), under clients that keep their sessions to the old
primary, of whom some know no other address and some are on its node. After each fault writes come back, nothing
acknowledged is lost, no two primaries acknowledge at one time, the histories are linearizable, and the shard is whole
again without a hand."""

import signal
import time

import pytest
from histories import longest_gap
from node_faults import FAULTS, DiskSlow, NodeGone, Seen, begin, clients_of, goes_on, suffer
from nodes import Herd
from outside import why_not

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_fault(shardherd, tool, kind, record_property):
    with Herd(shardherd, tool, kind.store, clocks=kind.clocks) as herd:
        if kind is DiskSlow:
            for node in herd.nodes:
                (node.dir / "settings").write_text("fsync = on\n")
        begin(herd)
        clients = clients_of(herd)
        clients.turn_to(1)
        before = herd.primary()
        begun = suffer(herd, clients, kind(herd, herd.nodes[0]))
        ended = time.monotonic_ns()
        goes_on(herd, clients, 20, (11, 12, 31) if herd.primary()[0] == "a" else (1, 2, 3, 21))
        seen = Seen(herd, clients, kind.__name__)
        gap = longest_gap(seen.history, begun, ended, (1, 2, 3, 21))
        print(f"{kind.__name__}: {gap:.2f} s without writes, {before} -> {herd.primary()}", flush=True)
        record_property("seconds_without_writes", gap)
        seen.right(herd)
        if kind.moves is not None:
            assert (herd.primary() != before) == kind.moves


# ---- managers, their store and the network at once ----


def acknowledged_since(seen, moment):
    """Writes that were asked for after it, and acknowledged."""
    return [o for o in seen.history if o["outcome"] == "ok" and "reign" in o and o["call"] > moment]


@pytest.mark.parametrize("with_standby", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_dead_and_split(shardherd, tool, with_standby):
    """No manager, no store, and the network is split: the side that has no quorum acknowledges nothing, the side of
    the primary with a standby goes on. Nobody promotes himself. Then all of it is there again."""
    with Herd(shardherd, tool, "etcd") as herd:
        begin(herd)
        clients = clients_of(herd)
        clients.turn_to(1)
        for manager in herd.managers:
            herd.hold(manager)
            manager.kill()
        herd.etcd.kill()
        goes_on(herd, clients)
        a, b, c = herd.nodes
        herd.cut([a, b] if with_standby else [a], [c] if with_standby else [b, c])
        split = time.monotonic_ns()
        if with_standby:
            goes_on(herd, clients)
        time.sleep(12)  # longer than anything is waited for
        healed = time.monotonic_ns()
        assert [n.status()["reported"] for n in (b, c)] == ["standby", "standby"]
        herd.heal()
        herd.etcd.start()
        for manager in herd.managers:
            manager.held = False
        clients.turn_to(2)
        goes_on(herd, clients)
        herd.until(herd.whole, 90, "the shard to be whole")
        seen = Seen(herd, clients, f"split-{with_standby}")
        seen.right(herd)
        within = [o for o in acknowledged_since(seen, split) if o["return"] < healed]
        assert bool(within) == with_standby, within
        assert {o["reign"] for o in within} <= {("a", 1)}
        assert herd.primary() == ("a", 1)


@pytest.mark.slow
def test_alone_and_split(shardherd, tool):
    """Who acknowledges alone, by its lease, stops when it is cut off from manager, store and the other one."""
    with Herd(shardherd, tool, "etcd", names="ab") as herd:
        begin(herd)
        clients = clients_of(herd)
        a, b = herd.nodes
        herd.hold(b)
        b.die()
        herd.until(lambda: a.value("SHOW synchronous_standby_names") == "", 30, "it to go on alone")
        clients.turn_to(1)
        goes_on(herd, clients)
        cut = time.monotonic_ns()
        herd.cut([a], herd.others(a))
        herd.until(lambda: a.status()["reported"] == "fenced", 15, "its lease to run out")
        fenced = time.monotonic()
        b.held = False
        time.sleep(6)
        assert herd.primary() == ("a", 1)  # nobody else is known to have what it acknowledged
        herd.heal()
        clients.turn_to(2)
        goes_on(herd, clients)
        herd.until(herd.whole, 90, "both to be there")
        seen = Seen(herd, clients, "alone")
        seen.right(herd)
        late = [o["return"] - cut for o in acknowledged_since(seen, cut) if o["return"] / 1e9 < fenced + 6]
        print(f"the last write {max(late, default=0) / 1e9:.2f} s after the cut", flush=True)
        assert max(late, default=0) < 4.2e9


@pytest.mark.slow
def test_store_and_node_gone(shardherd, tool):
    """Without the store nobody is promoted, however gone the primary is; as soon as it is back somebody is."""
    with Herd(shardherd, tool, "etcd") as herd:
        begin(herd)
        clients = clients_of(herd)
        clients.turn_to(1)
        herd.etcd.kill()
        gone = NodeGone(herd, herd.nodes[0])
        gone.begin()
        time.sleep(12)
        assert herd.primary() == ("a", 1)
        assert [n.status()["reported"] for n in herd.nodes[1:]] == ["standby", "standby"]
        back = time.monotonic()
        herd.etcd.start()
        herd.until(lambda: herd.primary()[1] > 1, 40, "another primary")
        print(f"another primary {time.monotonic() - back:.2f} s after the store was back", flush=True)
        goes_on(herd, clients)
        gone.heal()
        herd.until(herd.whole, 90, "the shard to be whole")
        Seen(herd, clients, "store-and-node").right(herd)


@pytest.mark.slow
def test_standby_manager(shardherd, tool, record_property):
    """A leader that is killed, or paused: nothing happens to the primary, the other manager leads within the lease."""
    with Herd(shardherd, tool, "etcd") as herd:
        begin(herd)
        clients = clients_of(herd)
        clients.turn_to(1)
        took, first = [], time.monotonic_ns()
        for turn in range(6):
            old, _ = herd.leader()
            begun = time.monotonic()
            herd.hold(old)
            if turn % 2:
                old.process.send_signal(signal.SIGSTOP)
            else:
                old.kill()
            herd.until(lambda since=begun: herd.leader()[1] > since, 30, "the other one to lead")
            took.append(herd.leader()[1] - begun)
            old.held = False
            old.process.send_signal(signal.SIGCONT)
            herd.until(lambda m=old: m.running() and m is not herd.leader()[0], 30, "the old one to be there again")
            time.sleep(1)
        herd.until(herd.whole, 30, "the shard to be whole")
        ended = time.monotonic_ns()
        seen = Seen(herd, clients, "managers")
        seen.right(herd)
        gap = longest_gap(seen.history, first, ended, (1, 2, 3, 11, 12))
        print(f"led by the other one after {[round(t, 2) for t in took]} s; at most {gap:.2f} s without writes")
        record_property("seconds_until_led", max(took))
        assert herd.primary() == ("a", 1)
        assert max(took) < 10 and gap < 2
