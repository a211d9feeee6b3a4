"""kill -9 of the manager at every step of a split, under load, then a restart: the fleet must mend itself.

Each cell: load runs, a split starts in a manager that ends itself with SIGKILL at the named place
(SHARDHERD_TEST_KILL_AT), a manager without the switch is started, and the operation must end - done or undone -
with one owner per range, nothing left over, and no acknowledged write lost, duplicated or misplaced. The same for a
split that is taken back while it bakes: it must end as undone, since that was written down before it turned.
"""

import contextlib
import http.client
import os
import threading
import time

import pytest
from conftest import wait_until
from places import BACK_CELLS, CELLS, FORWARD, HELD_CELLS, IN_CI, REVERSE_CELLS, assert_nothing_lost, chosen
from rig import Problem, Rig
from test_faults import sql, stopped
from test_verify import damage

pytestmark = pytest.mark.beside

kept = []  # the rig that the next cell may use: one that a cell failed with is not for the next one


@pytest.fixture
def rig(shardherd):
    if not kept:
        made = Rig(shardherd, f"/tmp/shardherd-crash-{os.getpid()}")
        kept.append(made)
        made.start()
        made.make_shop(customers=3000)
    rig = kept[0]
    rig.fine = False
    yield rig
    if not rig.fine:
        drop()


@pytest.fixture(scope="module", autouse=True)
def at_the_end():
    yield
    drop()


def drop():
    while kept:
        kept.pop().clean_up()


def merge_back(rig):
    """Two shards again, for the next cell."""
    for shard in rig.routing()["shards"]:
        if shard["name"] not in ("s1", "s2"):
            op = rig.post(
                "/v1/databases/shop/operations", {"kind": "merge", "shard": shard["name"], "target": "s2", "bake": "0s"}
            )
            merged = rig.wait_operation(op["id"])
            assert merged["status"] == "done", (merged, rig.tail(100))


def assert_killed(rig, op_id):
    """The whole move may lie before the place, on a machine that is busy: longer than wait_dead()'s minute. One that
    ended before it says why."""
    deadline, op = time.monotonic() + 150, None
    while rig.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException, Problem):
            op = rig.operation(op_id)
            assert op["status"] == "running", (op, rig.tail(100))
        time.sleep(0.2)
    assert rig.process.poll() == -9, (op, rig.tail(100))


@pytest.mark.timeout(480)
@pytest.mark.parametrize("cell", chosen(CELLS, IN_CI) + chosen(REVERSE_CELLS, 2))
def test_D11_killed_at(rig, cell):
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": cell})
    rig.start_load("--clients", "8", "--rate", "1200")
    bake = "1s" if cell in REVERSE_CELLS else "0s"
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": bake})
    assert_killed(rig, op["id"])
    rig.start()
    ended = rig.wait_operation(op["id"])
    assert_nothing_lost(rig.stop_load())
    assert ended["status"] in ("done", "undone"), (ended, rig.tail(100))
    place = cell.split(":")[2]
    if (
        place in FORWARD
        and not cell.startswith("move:before:commit")
        or cell in ("move:state:settle", "move:state:clean")
    ):
        assert ended["status"] == "done", (ended, rig.tail(100))
    rig.assert_consistent()
    merge_back(rig)
    rig.assert_consistent()
    rig.fine = True


@pytest.mark.timeout(480)
@pytest.mark.parametrize("cell", chosen(HELD_CELLS, 1))
def test_killed_while_held(rig, cell):
    """What is known to differ is not forgotten, and neither is what was said of it."""
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "stop:move:before:reverse_verify"})
    rig.start_load("--clients", "8", "--rate", "1200")
    started = {}
    asking = threading.Thread(
        target=lambda: started.update(id=rig.start_move(kind="split", shard="s2", bake="10m")), daemon=True
    )
    asking.start()
    wait_until(lambda: stopped(rig), timeout=60, what="the manager to stand still")
    ((customer,),) = sql(rig, "s3", "SELECT max(customer_id) FROM customers")
    extra = f"INSERT INTO orders (customer_id, order_id) VALUES ({customer}, -5)"
    damage(rig, extra, shard="s2")
    rig.process.kill()
    rig.wait_dead()
    asking.join(30)
    rig.start(env={"SHARDHERD_TEST_KILL_AT": cell}, wait=False)
    if "held" not in cell:
        rig.wait_ready()
    op_id = started["id"]
    if cell == "move:after:reverse_verify":  # of one that finds nothing
        held(rig, op_id)
        damage(rig, "DELETE FROM orders WHERE order_id = -5", shard="s2")
        rig.post(f"/v1/operations/{op_id}/resume", None)
    elif cell.startswith("rollback:"):
        held(rig, op_id)
        damage(rig, "DELETE FROM orders WHERE order_id = -5", shard="s2")
        with contextlib.suppress(OSError, http.client.HTTPException):
            rig.post(f"/v1/operations/{op_id}/rollback?acceptDifferences=true", None)
    assert rig.wait_dead() == -9
    rig.start()
    if cell == "move:state:held":
        op = held(rig, op_id)
        assert op["record"]["reverse_verdict"] == "differs" and op["findings"], op
        damage(rig, "DELETE FROM orders WHERE order_id = -5", shard="s2")
        rig.post(f"/v1/operations/{op_id}/resume", None)
    if cell.startswith("move:"):
        wait_until(
            lambda: rig.operation(op_id)["record"]["reverse_verdict"] == "equal", timeout=60, what="an equal copy"
        )
        rig.post(f"/v1/operations/{op_id}/rollback", None)
    ended = rig.wait_operation(op_id)
    assert_nothing_lost(rig.stop_load())
    assert ended["status"] == "undone", ended
    rig.assert_consistent()
    rig.fine = True


def held(rig, op_id):
    wait_until(lambda: rig.operation(op_id)["state"] == "held", timeout=60, what="a move that is held")
    return rig.operation(op_id)


@pytest.mark.timeout(480)
@pytest.mark.parametrize("cell", chosen(BACK_CELLS, 4))
def test_killed_while_taken_back(rig, cell):
    rig.stop()
    rig.start(env={"SHARDHERD_TEST_KILL_AT": cell})
    rig.start_load("--clients", "8", "--rate", "1200")
    op_id = rig.start_move(kind="split", shard="s2", bake="10m")
    rig.wait_baking(op_id)
    with contextlib.suppress(OSError, http.client.HTTPException):  # it may be dead before it answers
        rig.post(f"/v1/operations/{op_id}/rollback", None)
    assert_killed(rig, op_id)
    rig.start()
    ended = rig.wait_operation(op_id)
    assert_nothing_lost(rig.stop_load())
    assert ended["status"] == "undone" and ended["record"]["back"], ended
    rig.assert_consistent()
    assert {shard["name"] for shard in rig.routing()["shards"]} == {"s1", "s2"}
    rig.fine = True
