"""What clients saw of a shard through faults, over sessions that they keep: linearizable for each key, by tests/linear.
And planted faults, which it has to find: commits that wait for nobody."""

import contextlib
import os
import random
import signal
import time

import pytest
from conftest import wait_until
from histories import Clients, make_registers
from linear import checker, judge
from test_agent_replica import servers_of
from test_ha import (
    FAULTS,
    begun,
    by_name,
    children,
    dump,
    keep_logs,
    kept,
    node_dies,
    restart,
    stop_all,
    streaming,
    until,
)

pytestmark = pytest.mark.waits

ROUNDS = int(os.environ.get("SHARDHERD_TEST_ROUNDS") or (40 if os.environ.get("SHARDHERD_TEST_FULL") else 6))
SEED = int(os.environ.get("SHARDHERD_TEST_SEED", "0")) or random.randrange(1, 10**6)


@pytest.fixture
def herd(shardherd, tool):
    """Three members that have a primary, and registers."""
    checker()
    with kept(shardherd, tool, "abc") as keeper:
        begun(keeper)
        make_registers(by_name(keeper, "a"), 2 * ROUNDS)
        yield keeper


def clients_of(herd, **more):
    print(f"seed {SEED}", flush=True)
    clients = Clients(herd.members, by_name(herd, "a"), SEED, **more)
    goes_on(herd, clients, 200)
    return clients


def goes_on(herd, clients, count=100, numbers=(1, 2, 3)):
    """These clients' writes are acknowledged."""
    before = clients.acknowledged(*numbers)
    until(herd, lambda: clients.acknowledged(*numbers) >= before + count, 40, f"writes (seed {SEED})")


def ended(herd, clients):
    verdict = judge(herd.directory / "history", clients.end(by_name(herd, herd.primary()[0])))
    print(verdict.text, flush=True)
    keep_logs(herd, f"history-{SEED}-{time.monotonic_ns()}")
    return verdict


def processes(member, kind):
    with member.connect() as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = %s", (kind,)).fetchall()
    return {row[0] for row in rows}


def freeze_but_sessions(member):
    """Nobody is there to end its server, its standbys lose it, and sessions that clients have open go on."""
    sessions = processes(member, "client backend")
    for pid in {member.process.pid, *children(member.process.pid), *servers_of(member.data)} - sessions:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def comes_back(herd, clients, member):
    """There is another primary, with writes; the one that died follows it."""
    until(herd, lambda: herd.primary()[1] >= 2, 30, "another primary")
    goes_on(herd, clients)
    member.start()
    streaming(herd, set("abc") - {herd.primary()[0]})


def left_alone(herd, clients):
    """The old primary without its supervision, until there is a new one, with writes, and for a second longer."""
    a = by_name(herd, "a")
    freeze_but_sessions(a)
    try:
        until(herd, lambda: herd.primary()[1] >= 2, 30, "another primary")
        goes_on(herd, clients, numbers=[21])
    finally:
        stop_all(a, signal.SIGCONT)
    streaming(herd, set("abc") - {herd.primary()[0]})
    goes_on(herd, clients)


def cut_off_and_die(herd, clients):
    """The primary's log does not go out any more, clients write for a moment, and then its node dies."""
    a = by_name(herd, "a")
    for pid in processes(a, "walsender"):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)  # less than after which a standby is given up
    node_dies(a)
    comes_back(herd, clients, a)


def test_old_primary_left_alone(herd):
    """Its open sessions go on beside the new primary: they acknowledge nothing. What they read may be stale."""
    clients = clients_of(herd)
    left_alone(herd, clients)
    verdict = ended(herd, clients)
    assert verdict.linearizable, verdict.text + dump(herd.members, herd)
    assert verdict.counts["stale"] > 0  # a client that only reads was there all the time


@pytest.mark.slow
def test_log_does_not_go_out(herd):
    clients = clients_of(herd)
    cut_off_and_die(herd, clients)
    verdict = ended(herd, clients)
    assert verdict.linearizable, verdict.text + dump(herd.members, herd)


@pytest.mark.slow
def test_only_the_silent_one_has_it(herd):
    """One standby gets no log any more, the other helps to acknowledge; then the primary dies and that one is silent.
    Nobody may be promoted until it is back."""
    a, b, c = herd.members
    clients = clients_of(herd)
    with a.connect() as connection:
        (pid,) = connection.execute("SELECT pid FROM pg_stat_replication WHERE application_name = 'b'").fetchone()
    os.kill(pid, signal.SIGSTOP)
    goes_on(herd, clients, 20)
    clients.turn_to(1)  # of the other registers nothing is written later that would hide what was lost
    goes_on(herd, clients, 20)
    try:
        stop_all(c, signal.SIGSTOP)
        node_dies(a)
        time.sleep(8)  # longer than anything is waited for
        without_it = herd.primary()
    finally:
        stop_all(c, signal.SIGCONT)
    comes_back(herd, clients, a)
    verdict = ended(herd, clients)
    assert verdict.linearizable, verdict.text + dump(herd.members, herd)
    assert without_it == ("a", 1)


@pytest.mark.slow
def test_plain_reads_of_what_is_lost(herd):
    """A server that crashed and is there again shows commits that waited: a SELECT may see what is then lost.
    Statements that write do not."""
    a, *standbys = herd.members
    clients = clients_of(herd)
    for pid in processes(a, "walsender"):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)  # commits wait
    try:
        for standby in standbys:
            stop_all(standby, signal.SIGSTOP)
        for pid in servers_of(a.data):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: a.status()["exits"] == "1", 10, "the death to be told")
        reads = len(clients.of(13).history())

        def reads_again():
            return any(o["outcome"] == "ok" for o in clients.of(13).history()[reads:])

        until(herd, reads_again, 20, "reads of the old primary")
        time.sleep(0.5)
        node_dies(a)
    finally:
        for standby in standbys:
            stop_all(standby, signal.SIGCONT)
    comes_back(herd, clients, a)
    verdict = ended(herd, clients)
    assert verdict.linearizable, verdict.text + dump(herd.members, herd)
    assert verdict.counts["lost"] > 0


def planted(herd, plant):
    """Commits wait for no standby, because the keeper wants it so, or behind its back."""
    if plant == "async":
        restart(herd, HA_TOOL_ASYNC="1")
        a = by_name(herd, "a")
        wait_until(lambda: a.value("SHOW synchronous_standby_names") == "", 20, "no sync set")
    return clients_of(herd, commit="local" if plant == "local" else "on")


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["async", "local"])
def test_planted_left_alone(herd, plant):
    clients = planted(herd, plant)
    left_alone(herd, clients)
    assert not ended(herd, clients).linearizable


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["async", "local"])
def test_planted_log_does_not_go_out(herd, plant):
    clients = planted(herd, plant)
    cut_off_and_die(herd, clients)
    assert not ended(herd, clients).linearizable


def freeze_agent(herd, member):
    """Longer than its watchdog waits."""
    member.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(12)
    finally:
        member.process.send_signal(signal.SIGCONT)


def leave_alone(herd, member):
    try:
        freeze_but_sessions(member)
        time.sleep(6)
    finally:
        stop_all(member, signal.SIGCONT)


def switch_over(herd, member):
    herd.process.send_signal(signal.SIGUSR1)


MORE_FAULTS = {**FAULTS, "agent": freeze_agent, "alone": leave_alone, "switchover": switch_over}


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * ROUNDS)
def test_random_faults(herd):
    """One fault after the other, mostly at the primary, by a seed."""
    chance = random.Random(SEED)
    clients = clients_of(herd)
    for number in range(ROUNDS):
        clients.turn_to(2 * number)
        primary = by_name(herd, herd.primary()[0])
        name = chance.choice(sorted(MORE_FAULTS))
        member = primary if chance.random() < 0.7 else chance.choice(herd.members)
        print(f"round {number}: {name} at {member.name}, the primary is {primary.name}", flush=True)
        time.sleep(chance.random())
        if chance.random() < 0.5:  # then nothing is written later that would hide what was lost
            clients.turn_to(2 * number + 1)
        MORE_FAULTS[name](herd, member)
        if member.process.poll() is not None:
            time.sleep(chance.random() * 2)
            member.start()
        until(herd, lambda: herd.primary()[0] is not None, 30, "a primary")
        goes_on(herd, clients)
        streaming(herd, set("abc") - {herd.primary()[0]})
    verdict = ended(herd, clients)
    assert verdict.linearizable, verdict.text + dump(herd.members, herd)
