"""After the fence: what the source still has of the range is compared with what its new owner has, which it follows.

A difference holds the move before its way back goes, and is named; a person says how it goes on.
"""

import json
import signal
import subprocess

import psycopg
import pytest
from conftest import TRIED, pg_bin_dir, wait_until
from rig import Problem
from test_faults import rig_address, sql
from test_verify import StoppedAt, damage, make  # noqa: F401 - a fixture

pytestmark = pytest.mark.beside

BYTE = "UPDATE things SET pad = overlay(pad placing '{}' from 99) WHERE id = {}"


class Baking(StoppedAt):
    """A split whose manager stands still right before the comparison: s3 has the range, s2 follows."""

    def __init__(self, rig, bake="10m", place="move:before:reverse_verify"):
        self.bake = bake
        super().__init__(rig, place)
        if not rig.loading:
            ((self.row,),) = sql(rig, "s3", "SELECT max(id) FROM things")
            self.byte = self.bytes("s3")

    def ask(self):
        self.id = self.rig.start_move(kind="split", shard="s2", bake=self.bake)

    def bytes(self, shard):
        ((byte,),) = sql(self.rig, shard, f"SELECT substr(pad, 99, 1) FROM things WHERE id = {self.row}")
        return byte

    def go_on(self):
        self.rig.process.send_signal(signal.SIGCONT)
        self.asking.join(30)

    def wait(self, state):
        return wait_state(self.rig, self.id, state)


def wait_state(rig, op_id, state):
    def look():
        op = rig.operation(op_id)
        return op["state"] == state and op

    return wait_until(look, timeout=60, what=f"state {state}", interval=0.02)


def post(rig, op_id, verb, accept=False):
    return rig.post(f"/v1/operations/{op_id}/{verb}{'?acceptDifferences=true' if accept else ''}", None)


def command(rig, *words):
    return subprocess.run(
        [rig.shardherd, *words, "--state", str(rig.state)], capture_output=True, text=True, timeout=120
    )


def equal(rig, op_id):
    def look():
        op = rig.operation(op_id)
        record = op["record"]
        return (op["status"] != "running" or record["reverse_verdict"] == "equal") and op

    op = wait_until(look, timeout=60, what="an equal copy")
    assert op["record"]["reverse_verdict"] == "equal", op
    return op


def start(make, version=None, **settings):  # noqa: F811
    if version and pg_bin_dir(version) is None:
        pytest.skip(f"PostgreSQL {version} is not installed (scripts/install-deps gets it)")
    return make(pg_bin=pg_bin_dir(version) if version else None, **settings)


def damage_target(rig, split):
    """From PostgreSQL 16 on the source asks for no changes that have an origin; before that it gets them as well."""
    damage(rig, BYTE.format("!", split.row))
    if int(sql(rig, "s3", "SHOW server_version_num")[0][0]) < 160000:
        wait_until(lambda: split.bytes("s2") == "!", timeout=30, what="the change on the source")
        damage(rig, BYTE.format(split.byte, split.row), shard="s2")
    assert (split.bytes("s2"), split.bytes("s3")) == (split.byte, "!")


def assert_named(op, split):
    assert op["status"] == "running" and op["error"]["code"] == "corrupt", op
    assert op["record"]["reverse_verdict"] == "differs", op
    assert op["error"]["message"].startswith("public.things differs in bucket "), op["error"]
    (finding,) = op["findings"]
    row, said = finding["finding"].split(" is not the same on ")
    assert json.loads(row) == {"id": str(split.row)} and said == "s3 and s2", finding
    assert "let the operation go on: it compares again" in finding["remedy"]


def assert_refused(rig, op_id):
    with pytest.raises(Problem) as problem:
        post(rig, op_id, "rollback")
    assert problem.value.status == 409 and "shard s2 has another copy of the range than shard s3" in problem.value.body


@pytest.mark.parametrize("version", TRIED, ids=lambda version: f"pg{version}")
def test_a_byte_of_the_sources_copy(make, version):  # noqa: F811
    """Held, also by the next manager; repaired, it is compared once more and goes on."""
    rig = start(make, version)
    split = Baking(rig)
    damage(rig, BYTE.format("!", split.row), shard="s2")
    split.go_on()
    assert_named(split.wait("held"), split)
    assert_refused(rig, split.id)
    rig.process.kill()
    rig.wait_dead()
    rig.start()
    assert_named(rig.operation(split.id), split)
    assert_refused(rig, split.id)
    metrics = rig.fetch("/metrics", port="metrics", raw=True)
    (held,) = [line for line in metrics.splitlines() if line.startswith("shardherd_move_held{")]
    assert f'op="{split.id}"' in held and held.endswith(" 1"), held
    described = command(rig, "describe", "operation", split.id).stdout
    assert "differs" in described and f'{{"id" : "{split.row}"}} is not the same on s3 and s2' in described, described
    said = rig.log.read_text().count('"move is held')
    post(rig, split.id, "resume")  # nothing was repaired
    wait_until(lambda: rig.log.read_text().count('"move is held') > said, timeout=30, what="it to be held again")
    assert_named(split.wait("held"), split)
    damage(rig, BYTE.format(split.byte, split.row), shard="s2")
    post(rig, split.id, "resume")
    op = equal(rig, split.id)
    assert op["state"] == "watch" and op["error"] is None and op["findings"] == [], op
    assert op["record"]["reverse_verified_rows"] == op["record"]["verified_rows"], op["record"]
    assert op["record"]["reverse_verified_tables"] == "3", op["record"]
    post(rig, split.id, "rollback")
    assert rig.wait_operation(split.id)["status"] == "undone"
    rig.assert_consistent()


@pytest.mark.parametrize("version", TRIED, ids=lambda version: f"pg{version}")
def test_a_byte_of_the_targets_rows(make, version):  # noqa: F811
    """The source has the right one: it is taken back, which has to be said."""
    rig = start(make, version)
    split = Baking(rig)
    damage_target(rig, split)
    split.go_on()
    assert_named(split.wait("held"), split)
    refused = command(rig, "rollback", split.id, "--wait")
    assert refused.returncode == 4 and "has another copy of the range" in refused.stderr, refused
    done = command(rig, "rollback", split.id, "--wait", "--accept-differences")
    assert done.returncode == 0, done
    assert split.bytes("s2") == split.byte
    assert rig.operation(split.id)["status"] == "undone"
    rig.assert_consistent()


def test_resume_does_not_make_a_difference_unknown(make):  # noqa: F811
    """Compared again, and nobody has repaired it: not even for this long can it go back without being told to."""
    rig = make()
    split = Baking(rig)
    damage(rig, BYTE.format("!", split.row), shard="s2")
    split.go_on()
    assert_named(split.wait("held"), split)
    with psycopg.connect(rig_address(rig, "s2")) as other:  # so that the comparison does not end
        other.execute("LOCK TABLE things")
        post(rig, split.id, "resume")
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'things'::regclass AND NOT granted"
        wait_until(lambda: sql(rig, "s2", waits)[0][0] > 0, timeout=30, what="the comparison to wait")
        assert rig.operation(split.id)["record"]["reverse_verdict"] == "doubted"
        refused = command(rig, "rollback", split.id)
        assert refused.returncode == 4 and "shard s2 had another copy of the range than shard s3" in refused.stderr
        described = command(rig, "describe", "operation", split.id).stdout
        assert "differed, compared again" in described and "is not the same on s3 and s2" in described, described
        rig.process.kill()
        rig.wait_dead()
        rig.start()
        refused = command(rig, "rollback", split.id)
        assert refused.returncode == 4 and "and the comparison that was asked for" in refused.stderr, refused
    assert_named(split.wait("held"), split)
    post(rig, split.id, "rollback", accept=True)
    assert rig.wait_operation(split.id)["status"] == "undone"


def test_accepted(make):  # noqa: F811
    """A missing row of the old copy does not matter to who only wants it gone. Who waits is told that it is held."""
    rig = make()
    split = Baking(rig, bake="1s")
    damage(rig, f"DELETE FROM things WHERE id = {split.row}", shard="s2")
    split.go_on()
    op = split.wait("held")
    assert op["error"]["message"].split(": ", 1)[1] == f'{{"id" : "{split.row}"}} is missing on s2', op["error"]
    waits = command(rig, "resume", split.id, "--wait")
    assert waits.returncode != 0 and "held" in waits.stdout and "is missing on s2" in waits.stderr, waits
    done = command(rig, "resume", split.id, "--wait", "--accept-differences")
    assert done.returncode == 0, done
    assert rig.operation(split.id)["status"] == "done"
    with pytest.raises(Problem) as problem:
        post(rig, split.id, "resume")
    assert problem.value.status == 409
    rig.assert_consistent()


def test_under_load_nothing_is_a_difference(make):  # noqa: F811
    rig = make(shop=True, verify_rate=4)
    rig.start_load("--clients", "8", "--rate", "1500")
    for _ in range(2):
        ended = rig.wait_operation(rig.start_move(kind="split", shard="s2", bake="1s"))
        assert ended["status"] == "done" and ended["record"]["reverse_verdict"] == "equal", ended
        assert int(ended["record"]["reverse_verified_rows"]) > 500, ended["record"]
        merge = {"kind": "merge", "shard": ended["record"]["target"], "target": "s2", "bake": "1s"}
        ended = rig.wait_operation(rig.start_move(**merge))
        assert ended["status"] == "done" and ended["record"]["reverse_verdict"] == "equal", ended
    result = rig.stop_load()
    assert result["acked_writes"] > 1000
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()


@pytest.mark.parametrize("shard", ["s2", pytest.param("s3", marks=pytest.mark.slow)])
def test_under_load_a_difference_is_found(make, shard):  # noqa: F811
    rig = make(shop=True)
    rig.start_load("--clients", "8", "--rate", "1000")
    split = Baking(rig)
    extra = "INSERT INTO orders (customer_id, order_id) VALUES ({}, -5)"
    ((customer,),) = sql(rig, "s3", "SELECT customer_id FROM customers ORDER BY version DESC LIMIT 1")
    damage(rig, extra.format(customer), shard=shard)
    if shard == "s3" and int(sql(rig, "s3", "SHOW server_version_num")[0][0]) < 160000:
        pytest.skip("the source gets it as well")  # see damage_target()
    split.go_on()
    op = split.wait("held")
    other = {"s2": "s3", "s3": "s2"}[shard]
    assert f'"order_id" : "-5"}} is on {shard}, but not on {other}' in op["error"]["message"], op
    post(rig, split.id, "resume", accept=True)
    op = split.wait("watch")
    assert op["record"]["accepted"] and op["record"]["reverse_verdict"] == "differs", op
    assert_refused(rig, split.id)  # it was accepted to go on, not back
    damage(rig, "DELETE FROM orders WHERE order_id = -5", shard=shard)
    post(rig, split.id, "rollback", accept=True)
    assert rig.wait_operation(split.id)["status"] == "undone"
    result = rig.stop_load()
    assert result["lost"] == result["duplicated"] == result["misplaced"] == result["resurrected"] == 0, result
    rig.assert_consistent()


def comparing(rig, op_id, rows=0):
    def look():
        op = rig.operation(op_id)
        assert op["status"] == "running", op
        return op["state"] == "watch" and int(op["record"]["reverse_verified_rows"]) > rows and op

    return wait_until(look, timeout=90, what="rows of the source's copy to be compared", interval=0.005)


def test_a_killed_manager_goes_on_and_the_source_is_kept_so_long(make):  # noqa: F811
    """The bake time is over long before the comparison is."""
    rig = make(rows=60000, verify_rate=2)
    op_id = rig.start_move(kind="split", shard="s2", bake="1s")
    comparing(rig, op_id, 3000)
    comparing(rig, op_id, 8000)
    rig.process.kill()
    rig.wait_dead()
    rig.start()
    again = comparing(rig, op_id)
    assert int(again["record"]["reverse_verified_rows"]) > 3000, again["record"]  # at most a second old
    ended = rig.wait_operation(op_id)
    assert ended["status"] == "done", ended
    record = ended["record"]
    assert record["reverse_verdict"] == "equal" and int(record["reverse_verify_us"]) > 2e6, record
    assert record["reverse_verified_rows"] == record["copy_rows"], record  # each once
    assert rig.log.read_text().count('"verification goes on"') == 1
    rig.assert_consistent()


def test_taken_back_meanwhile(make):  # noqa: F811
    rig = make(rows=60000, verify_rate=1)
    rig.stop()  # the first verification at full speed
    rig.settings = []
    rig.start(env={"SHARDHERD_TEST_KILL_AT": "move:before:reverse_verify"})
    op_id = rig.start_move(kind="split", shard="s2", bake="10m")
    assert rig.wait_dead() == -9
    rig.settings = ["moves.verify_rate=1"]
    rig.start()
    comparing(rig, op_id)
    post(rig, op_id, "rollback")
    ended = rig.wait_operation(op_id, timeout=30)
    assert ended["status"] == "undone", ended
    assert 0 < int(ended["record"]["reverse_verified_rows"]) < int(ended["record"]["copy_rows"]), ended["record"]
    rig.assert_consistent()


@pytest.mark.parametrize("verb", ["rollback", pytest.param("resume", marks=pytest.mark.slow)])
def test_a_statement_that_takes_long_is_not_waited_for(make, verb):  # noqa: F811
    rig = make()
    split = Baking(rig, bake="1s" if verb == "resume" else "10m")
    with psycopg.connect(rig_address(rig, "s2")) as other:
        other.execute("LOCK TABLE things")
        split.go_on()
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'things'::regclass AND NOT granted"
        wait_until(lambda: sql(rig, "s2", waits)[0][0] > 0, timeout=30, what="the comparison to wait")
        post(rig, split.id, verb, accept=verb == "resume")
        op = wait_until(lambda: (op := rig.operation(split.id))["state"] != "watch" and op, timeout=20, what="its end")
        assert op["state"] == {"rollback": "rehearse", "resume": "clean"}[verb], op
    ended = rig.wait_operation(split.id)
    assert ended["status"] == {"rollback": "undone", "resume": "done"}[verb], ended
    assert ended["record"]["reverse_verdict"] == "none", ended["record"]
    rig.assert_consistent()


def test_a_source_that_does_not_follow_is_not_compared(make):  # noqa: F811
    rig = make()
    split = Baking(rig, bake="3s", place="move:before:reverse_check")
    sql(rig, "s2", f"ALTER SUBSCRIPTION {sql(rig, 's2', 'SELECT subname FROM pg_subscription')[0][0]} DISABLE")
    split.go_on()
    wait_until(lambda: rig.operation(split.id)["record"]["reverse_verdict"] == "unknown", timeout=30, what="a verdict")
    said = rig.operation(split.id)["error"]["message"]
    assert said.startswith("not compared with its source's copy: shard s2 does not follow shard s3 any more"), said
    assert rig.wait_operation(split.id)["status"] == "done"
    rig.assert_consistent()


@pytest.mark.slow
def test_sessions_that_end_meanwhile(make):  # noqa: F811
    rig = make(rows=60000, verify_rate=4)
    op_id = rig.start_move(kind="split", shard="s2", bake="1s")
    comparing(rig, op_id, 3000)
    ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shardherd op=%'"
    for shard in ("s2", "s3"):
        sql(rig, shard, ours)
    ended = rig.wait_operation(op_id)
    assert ended["status"] == "done" and ended["record"]["reverse_verdict"] == "equal", ended
    assert ended["record"]["reverse_verified_rows"] == ended["record"]["copy_rows"], ended["record"]
