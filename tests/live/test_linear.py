"""The checker of histories itself: what it has to accept, and what it has to find."""

import random
import subprocess

import pytest
from histories import longest_gap, two_heads
from linear import checker, judge

pytestmark = pytest.mark.beside


def op(client, at, what, **more):
    """One operation; at = its call and its return."""
    made = {"client": client, "key": "x", "call": at[0], "return": at[1], "outcome": "ok", "op": what, **more}
    if made["outcome"] == "unknown":
        made["return"] = 0
    return made


def write(client, at, value, **more):
    return op(client, at, "write", value=value, **more)


def read(client, at, output, **more):
    return op(client, at, "read", output=output, **more)


def cas(client, at, old, value, swapped=True, **more):
    return op(client, at, "cas", old=old, value=value, swapped=swapped, **more)


UNKNOWN = {"outcome": "unknown"}
GOOD = {
    "nothing was written": [read(1, (0, 1), 0)],
    "one after the other": [write(1, (0, 1), 5), read(2, (2, 3), 5), cas(1, (4, 5), 5, 6), read(2, (6, 7), 6)],
    "a read beside a write sees either": [write(1, (0, 10), 5), read(2, (1, 2), 0), read(3, (3, 4), 5)],
    "a read that touches a write": [write(1, (0, 5), 5), read(2, (5, 6), 0)],
    "one of two swaps is refused": [cas(1, (0, 9), 0, 5), cas(2, (0, 9), 0, 6, False), read(1, (10, 11), 5)],
    "unknown, and it happened": [write(1, (0, 1), 5), write(2, (2, 3), 6, **UNKNOWN), read(1, (4, 5), 6)],
    "unknown, and it did not": [write(1, (0, 1), 5), write(2, (2, 3), 6, **UNKNOWN), read(1, (4, 5), 5)],
    "unknown, and it happened much later": [
        write(1, (0, 1), 5),
        write(2, (2, 3), 6, **UNKNOWN),
        read(1, (4, 5), 5),
        write(1, (6, 7), 7),
        read(1, (8, 9), 7),
        read(1, (10, 11), 6),
    ],
    "an unknown swap was swapped on": [cas(1, (0, 1), 0, 5, **UNKNOWN), cas(2, (5, 6), 5, 6), read(1, (7, 8), 6)],
    "an unknown swap of an unknown write": [
        write(1, (0, 1), 5, **UNKNOWN),
        cas(2, (2, 3), 5, 6, **UNKNOWN),
        read(1, (4, 5), 6),
    ],
    "an unknown swap of what was not there": [write(1, (0, 1), 3), cas(1, (2, 3), 2, 5, **UNKNOWN), read(1, (4, 5), 3)],
    "a refusal whose reason is an unknown write": [
        write(1, (0, 1), 9, **UNKNOWN),
        cas(2, (2, 3), 0, 6, False),
        read(1, (4, 5), 9),
    ],
    "a refusal whose reason nobody saw": [write(1, (0, 1), 9, **UNKNOWN), cas(2, (2, 3), 0, 6, False)],
    "a write that knows what it replaced": [write(1, (0, 1), 5), write(2, (2, 3), 6, output=5), read(1, (4, 5), 6)],
    "it is known not to have happened": [write(1, (0, 1), 5, outcome="fail"), read(2, (2, 3), 0)],
    "two keys": [write(1, (0, 1), 5), write(1, (2, 3), 5, key="y"), write(2, (4, 5), 6), read(1, (6, 7), 5, key="y")],
}
BAD = {
    "a stale read": [write(1, (0, 1), 5), write(1, (2, 3), 6), read(2, (4, 5), 5)],
    "a read that goes back": [write(1, (0, 10), 5), read(2, (1, 2), 5), read(3, (3, 4), 0)],
    "an acknowledged write is lost": [write(1, (0, 1), 5), write(2, (2, 3), 6), read(1, (9, 10), 5)],
    "an acknowledged swap is lost": [write(1, (0, 1), 5), cas(2, (2, 3), 5, 6), read(1, (9, 10), 5)],
    "a write is lost, as the next one knows": [write(1, (0, 1), 5), write(2, (2, 3), 6), write(3, (4, 5), 7, output=5)],
    "the only write is lost": [write(1, (0, 1), 5), read(1, (2, 3), 0)],
    "two primaries swap the same": [cas(1, (0, 9), 0, 5), cas(2, (0, 9), 0, 6)],
    "two primaries write": [
        write(1, (0, 1), 5),
        write(2, (2, 3), 6),
        read(1, (4, 5), 5),
        read(2, (4, 5), 6),
        read(1, (6, 7), 5),
    ],
    "from nowhere": [write(1, (0, 1), 5), read(2, (2, 3), 7)],
    "a write that was known not to have happened": [write(1, (0, 1), 5, outcome="fail"), read(2, (2, 3), 5)],
    "an unknown write, before it was called": [read(2, (0, 1), 6), write(1, (2, 3), 6, **UNKNOWN)],
    "an unknown write, and gone again": [
        write(1, (0, 1), 5),
        write(2, (2, 3), 6, **UNKNOWN),
        read(1, (4, 5), 6),
        read(1, (6, 7), 5),
    ],
    "an unknown swap happened without what it expects": [
        write(1, (0, 1), 3),
        cas(1, (2, 3), 2, 5, **UNKNOWN),
        read(1, (4, 5), 5),
    ],
    "a refusal without a reason": [write(1, (0, 1), 5), cas(2, (2, 3), 5, 6, False)],
    "a refusal whose reason came too late": [
        write(1, (0, 1), 5),
        cas(2, (2, 3), 5, 6, False),
        write(1, (4, 5), 9, **UNKNOWN),
    ],
    "the other key": [read(1, (0, 1), 0), write(1, (2, 3), 5, key="y"), read(1, (4, 5), 0, key="y")],
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good(work_dir, name):
    verdict = judge(work_dir / "history", GOOD[name])
    assert verdict.linearizable, verdict.text


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad(work_dir, name):
    verdict = judge(work_dir / "history", BAD[name])
    assert verdict.bad == ["y" if name == "the other key" else "x"], verdict.text


def test_plain_reads_are_counted_apart(work_dir):
    history = [
        write(1, (0, 1), 5),
        write(1, (2, 3), 6),
        read(2, (4, 5), 5, plain=True),
        read(2, (6, 7), 6, plain=True),
        write(3, (8, 9), 7, outcome="unknown"),
        read(2, (10, 11), 7, plain=True),  # seen, and then gone
        read(1, (12, 13), 6),
        cas(2, (14, 15), 6, 8, False, plain=True),
    ]
    verdict = judge(work_dir / "history", history)
    assert verdict.linearizable
    assert verdict.counts == {
        "keys": 1,
        "operations": 8,
        "ok": 7,
        "fail": 0,
        "unknown": 1,
        "plain": 4,
        "stale": 1,
        "lost": 1,
    }
    strict = judge(work_dir / "history", history, "--plain")
    assert strict.bad == ["x"]


def test_not_stale(work_dir):
    """The write that replaced it was under way, or may have come before."""
    history = [write(1, (0, 1), 5), write(1, (2, 10), 6), read(2, (3, 12), 5, plain=True)]
    history += [write(1, (20, 30), 7), write(2, (21, 22), 8), read(3, (31, 32), 7, plain=True)]
    assert judge(work_dir / "history", history).counts["stale"] == 0
    history[-1]["output"], history[-2]["call"] = 8, 19  # whichever
    assert judge(work_dir / "history", history).counts["stale"] == 0


def simulated(chance, count, first=0):
    """A history of four clients with a register that does as it should, and its state at the end."""
    value, made, clock = 0, [], {client: 0 for client in range(4)}
    for number in range(first + 1, first + count + 1):
        client = min(clock, key=lambda c: (clock[c], c))
        at = clock[client]
        moment = max(at, max((o["_at"] for o in made), default=0)) + chance.randrange(1, 10)
        clock[client] = moment + chance.randrange(1, 10)
        kind = chance.choice(["read", "write", "cas"])
        happens = chance.random() > 0.5
        outcome = "unknown" if chance.random() < 0.05 else "ok"
        more = {"outcome": outcome, "_at": moment, "call": at, "return": clock[client]}
        if kind == "read":
            made.append(read(client, (0, 0), value, **more))
            continue
        if kind == "write":
            made.append(write(client, (0, 0), number, **more))
        else:
            old = value if chance.random() < 0.7 else 0
            made.append(cas(client, (0, 0), old, number, old == value, **more))
            if old != value:
                continue
        if outcome == "ok" or happens:
            value = number
    last = max(clock.values())
    made.append(read(9, (0, 0), value, call=last + 1, **{"return": last + 2, "_at": last + 1}))
    for o in made:
        del o["_at"]
    return made


def test_by_chance(work_dir):
    """Histories of a register are accepted; with one thing that somebody saw made wrong, they are not."""
    for seed in range(30):
        history = simulated(random.Random(seed), 300)
        verdict = judge(work_dir / "history", history)
        assert verdict.linearizable, f"seed {seed}\n{verdict.text}"
        history[-1]["output"] = next(
            o["output"] for o in history if o["op"] == "read" and o["outcome"] == "ok" and o["output"] > 0
        )
        assert history[-1]["output"] != history[-2].get("value")
        verdict = judge(work_dir / "history", history)
        assert not verdict.linearizable, f"seed {seed}\n{verdict.text}"


def test_the_smallest_window(work_dir):
    """Of a long history, only what does not go together is shown."""
    at, history = 0, []
    for number in range(1, 2001):
        history += [write(1, (at, at + 1), number), read(2, (at + 2, at + 3), number)]
        at += 4
    history[3001]["output"] = 1500  # written by 2998, replaced by 3000
    history += [write(3, (5990, 6010), 3000), cas(4, (5990, 6010), 1498, 3001, outcome="unknown")]  # beside it
    verdict = judge(work_dir / "history", history)
    shown = [line.strip() for line in verdict.text.splitlines() if line.startswith("  ")]
    assert shown == [
        "client 1, 5996 to 5997: write 1500",
        "client 1, 6000 to 6001: write 1501",
        "client 2, 6002 to 6003: read -> 1500",
    ]
    assert "key x: NOT linearizable: 3 operations between 5996 and 6003\n" in verdict.text


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"client": 1, "key": "x", "op": "read", "outcome": "ok", "call": 0, "return": 1}',
        '{"client": 1, "key": "x", "op": "read", "output": 1, "outcome": "ok", "call": 2, "return": 1}',
        '{"client": 1, "key": "x", "op": "cas", "value": 1, "outcome": "ok", "call": 0, "return": 1}',
        '{"client": 1, "key": "x", "op": "append", "outcome": "ok", "call": 0, "return": 1}',
        '{"client": 1, "key": "x", "op": "write", "value": 1, "outcome": "perhaps", "call": 0, "return": 1}',
        '{"client": 1, "key": "x", "op": "write", "value": 0, "outcome": "ok", "call": 0, "return": 1}',
        '{"client": 1, "key": "x", "op": "write", "value": 1, "outcome": "ok", "call": 0, "return": 1, "plain": true}',
        '{"client": 1, "key": "x", "op": "write", "valve": 1, "outcome": "ok", "call": 0, "return": 1}',
    ],
)
def test_not_a_history(work_dir, line):
    path = work_dir / "history"
    path.write_text(line + "\n")
    done = subprocess.run([checker(), path], capture_output=True, text=True)
    assert done.returncode == 2
    assert str(path) in done.stderr


def acknowledged(reign, call, end):
    return {
        "client": 1,
        "key": "k",
        "op": "write",
        "value": 1,
        "call": call,
        "return": end,
        "outcome": "ok",
        "reign": reign,
    }


def test_two_heads():
    """A primary that acknowledges what was asked for after a later one had acknowledged; not what was under way by
    then, and not a member that is the primary once more, on another timeline."""
    first, second, again = ("a", 1), ("b", 2), ("a", 3)
    before, under_way = acknowledged(first, 1, 2), acknowledged(first, 3, 9)
    new, back = acknowledged(second, 4, 5), acknowledged(again, 10, 11)
    assert two_heads([back, new, under_way, before]) == []
    late = acknowledged(first, 6, 7)
    assert two_heads([before, new, late, back]) == [(late, second)]
    assert two_heads([before, acknowledged(second, 12, 13), back]) == []
    assert two_heads([new, before | {"outcome": "unknown"}, late | {"outcome": "fail"}]) == []
    assert longest_gap([before, new, late], 0, int(20e9), (1,)) == pytest.approx(20, abs=1e-6)
