"""Defects of a manager or an agent, planted by hand in a shard on nodes of its own. What test_ha_faults.py asks after
every fault has to find each: a promotion without a quorum, a sync set that was relaxed without the record, a server
that was started as a primary without a term."""

import signal
import subprocess
import time

import pytest
from node_faults import Seen, begin, clients_of, goes_on
from nodes import Herd, signal_all
from outside import why_not
from test_agent_replica import servers_of

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]


def held(herd):
    """Nobody is there who would repair what is planted."""
    for manager in herd.managers:
        herd.hold(manager)
        manager.kill()


def found(herd, clients, primary, label):
    """Two that acknowledge, and what one of them acknowledged is not there."""
    seen = Seen(herd, clients, label, primary)
    assert seen.heads != [] and not seen.verdict.linearizable, seen.verdict.text


def test_promoted_without_a_quorum(shardherd, tool):
    """One standby confirmed and was promoted, and the other one, which nobody asked, helps the old primary on."""
    with Herd(shardherd, tool) as herd:
        begin(herd)
        clients = clients_of(herd)
        held(herd)
        a, b, _ = herd.nodes
        b.assign(2, "standby").settled("standby")
        b.assign(2, "primary", seq=9).settled("primary")
        clients.turn_to(1)
        goes_on(herd, clients, numbers=(11, 12))  # of the old primary
        goes_on(herd, clients, numbers=(21, 32))
        found(herd, clients, b, "planted-quorum")


def test_sync_set_relaxed_without_the_record(shardherd, tool):
    """The primary acknowledges alone, which nobody knows; it is cut off, and the manager does as the record says."""
    with Herd(shardherd, tool) as herd:
        begin(herd)
        clients = clients_of(herd)
        held(herd)
        a, b, c = herd.nodes
        a.assign(1, "primary", seq=99, slots=["shardherd_b", "shardherd_c"])
        herd.until(lambda: a.value("SHOW synchronous_standby_names") == "", 20, "the set to be in effect")
        herd.cut([a], herd.others(a))
        clients.turn_to(1)
        for manager in herd.managers:
            manager.held = False
        herd.until(lambda: herd.primary()[1] > 1, 40, "another primary")
        goes_on(herd, clients, numbers=(21,))
        goes_on(herd, clients, numbers=(31,))
        found(herd, clients, herd.member(herd.primary()[0]), "planted-relaxed")


@pytest.mark.parametrize("planted", [False, True])
def test_primary_started_without_a_term(shardherd, tool, planted):
    """Where commits wait for nobody, who comes back must not be a primary before he was told so. Without the plant
    something may be lost, but no two acknowledge."""
    with Herd(shardherd, tool, HA_TOOL_ASYNC="1") as herd:
        begin(herd)
        a = herd.nodes[0]
        herd.until(lambda: a.value("SHOW synchronous_standby_names") == "", 20, "no sync set")
        clients = clients_of(herd)
        herd.hold(a)
        a.die()
        herd.until(lambda: herd.primary()[1] > 1, 40, "another primary")
        goes_on(herd, clients, numbers=(1, 2, 3))
        server = None
        try:
            if planted:
                (a.data / "postmaster.pid").unlink(missing_ok=True)
                with (a.dir / "log").open("ab") as log:
                    argv = [*a.wrap, a.bin / "postgres", "-D", a.data]
                    server = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", start_new_session=True)
            else:
                a.held = False
                time.sleep(3)
            goes_on(herd, clients, numbers=(11, 31) if planted else (1, 2, 3))
            seen = Seen(herd, clients, f"planted-term-{planted}")
        finally:
            if server is not None:
                signal_all([server.pid, *servers_of(a.data)], signal.SIGKILL)
                server.wait()
        assert bool(seen.heads) == planted, seen.heads[:5]
