"""Faults by chance at shards of three on nodes of their own (nodes.py), by a seed, for SHARDHERD_TEST_MINUTES in all:
in SHARDHERD_TEST_RIGS rigs, a test each, which scripts/test has run side by side, since mostly they wait."""

import os
import random
import time

import pytest
from histories import more_registers
from node_faults import FAULTS, SEED, DiskSlow, Seen, SqliteLocked, begin, clients_of, goes_on
from nodes import Herd
from outside import why_not

WHY_NOT = why_not()
FULL = bool(os.environ.get("SHARDHERD_TEST_FULL"))
RIGS = int(os.environ.get("SHARDHERD_TEST_RIGS") or 4)
MINUTES = float(os.environ.get("SHARDHERD_TEST_MINUTES") or (40 if FULL else 10)) / RIGS  # of each
REGISTERS = 4  # sets of them in an episode
# a slow disk wants one, and SQLite one keeper
BY_CHANCE = [kind for kind in FAULTS if kind is not DiskSlow and kind is not SqliteLocked]
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def one_by_chance(herd, chance):
    """A fault that has begun, mostly at the primary, or None: there was nothing to break."""
    name = herd.primary()[0]
    node = herd.member(name) if name and chance.random() < 0.7 else chance.choice(herd.nodes)
    fault = chance.choice(BY_CHANCE)(herd, node)
    print(f"  {type(fault).__name__} at {node.name}, the primary is {name}", flush=True)
    try:
        fault.begin()
    except OSError:  # its server, say, is down already
        return None
    return fault


def some_by_chance(herd, clients, chance):
    """One, or two that overlap, for a moment or longer than anything is waited for; then all is healed."""
    begun = []
    try:
        for _ in range(1 + (chance.random() < 0.4)):
            if fault := one_by_chance(herd, chance):
                begun.append(fault)
            time.sleep(chance.choice((0.05, 1, 4)) * chance.random())
        time.sleep(chance.choice((1, 6, 13)) * chance.random())
    finally:
        for fault in chance.sample(begun, len(begun)):
            fault.heal()
    goes_on(herd, clients)
    herd.until(herd.whole, 90, "the shard to be whole")


def episode(herd, rig, number, until):
    """Some of them, under new clients with registers of their own, whose history is judged at the end."""
    seed = f"{SEED} {rig} {number}"
    chance = random.Random(seed)
    first = number * REGISTERS
    print(f"episode {number} of seed {SEED} in rig {rig}", flush=True)
    with herd.member(herd.primary()[0]).connect() as connection:
        more_registers(connection, range(first, first + REGISTERS))
    clients = clients_of(herd, seed, loyal=herd.member(herd.primary()[0]), first=first)
    for turn in range(1, REGISTERS):
        if time.monotonic() > until:
            break
        some_by_chance(herd, clients, chance)
        clients.turn_to(first + turn)  # of those before nothing is written that would hide what was lost
    Seen(herd, clients, f"chance-{SEED}-{rig}-{number}").right(herd)


@pytest.mark.timeout(300 + 90 * MINUTES)
@pytest.mark.parametrize("rig", range(RIGS))
def test_faults_by_chance(shardherd, tool, rig, record_property):
    """Managers, their store, nodes, links, processes and clocks."""
    with Herd(shardherd, tool, "etcd", clocks=("a", "b", "c", "one")) as herd:
        begin(herd, 0)
        began, number = time.monotonic(), 0
        until = began + 60 * MINUTES
        while time.monotonic() < until:
            number += 1
            episode(herd, rig, number, until)
        record_property("seconds_of_chance", time.monotonic() - began)
        record_property("episodes", number)
