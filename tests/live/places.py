"""Where a manager can be stopped or killed in a move (SHARDHERD_TEST_KILL_AT), and which of them a run tries."""

import os
import random

STATES = ["check", "target", "copy", "catch_up", "verify", "rehearse", "fence", "settle", "watch", "clean", "done"]
ACTIONS = [
    "check", "provision", "schema", "freeze", "publish", "copy", "build", "subscribe", "catch_up", "verify",
    "close_gate", "recheck", "rehearse", "lock", "marker", "route", "fence", "sequences", "prepare_open",
    "commit", "open", "settle", "announce", "drop_forward", "clean_source", "unfreeze",
]  # fmt: skip
# with a bake time only
REVERSE = ["reverse_slot", "reverse_follow", "reverse_check", "reverse_verify", "reverse_drop"]
BACK_STATES = ["rehearse", "fence", "settle", "watch", "clean", "retire", "undone"]
BACK_ACTIONS = [
    "reverse_check", "catch_up", "close_gate", "rehearse", "prepare_open", "lock", "marker", "fence", "sequences",
    "route", "commit", "open", "settle", "announce", "drop_forward", "unfreeze", "unlist", "linger", "retire",
]  # fmt: skip
CELLS = (
    [f"move:state:{state}" for state in STATES]
    + [f"move:{moment}:{action}" for action in ACTIONS for moment in ("before", "after")]
    + ["move:amid:build"]
)  # an index is there, others are not
REVERSE_CELLS = [f"move:{moment}:{action}" for action in REVERSE for moment in ("before", "after")]
BACK_CELLS = [f"rollback:state:{state}" for state in BACK_STATES] + [
    f"rollback:{moment}:{action}" for action in BACK_ACTIONS for moment in ("before", "after")
]
# S's copy differs from T's rows: written down, let go on, taken back
HELD_CELLS = [
    "move:state:held", "move:after:reverse_verify", "rollback:state:rehearse", "rollback:before:reverse_check",
]  # fmt: skip
# before the fence the move may go either way, after its commit only forward
FORWARD = ["commit", "open", "settle", "announce", "drop_forward", "clean_source", "unfreeze",
           "reverse_follow", "reverse_check", "reverse_verify", "reverse_drop"]  # fmt: skip
IN_CI = 9


SEED = int(os.environ.get("SHARDHERD_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)


def chosen(cells, some):
    """All cells in a full run; in CI some of them by a seed that is printed."""
    if os.environ.get("SHARDHERD_TEST_FULL"):
        return cells
    print(f"test_move_crash: seed {SEED}")
    return sorted(random.Random(SEED).sample(cells, some))


def assert_nothing_lost(result):
    assert result["acked_writes"] > 0
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
