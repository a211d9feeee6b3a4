"""The periodic look at guards: what somebody switches off, attaches or detaches behind our back is found and shown."""

import os
import subprocess
import time

import psycopg
import pytest
from conftest import wait_until
from rig import Rig

pytestmark = pytest.mark.beside

SCHEMA = """
CREATE TABLE customers (customer_id bigint PRIMARY KEY, name text);
CREATE TABLE events (customer_id bigint NOT NULL, day int NOT NULL, PRIMARY KEY (customer_id, day))
PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
"""


@pytest.fixture(scope="module")
def rig(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-guardwatch-{os.getpid()}")
    rig.settings = ["polling.guards=1s"]
    rig.start()
    tables = [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "events")]
    rig.make_shop(customers=0, schema=SCHEMA, tables=tables)
    yield rig
    rig.clean_up()


def guards(rig, shard="s2"):
    return rig.fetch(f"/v1/databases/shop/shards/{shard}")["guards"]


def wait_found(rig, *words):
    def look():
        found = (guards(rig) or {}).get("findings", [])
        return [f for f in found if all(word in f["finding"] for word in words)]

    (finding,) = wait_until(look, what=f"a finding with {words}: {guards(rig)}")
    return finding


def wait_clean(rig):
    wait_until(lambda: guards(rig) and guards(rig)["findings"] == [], what=f"no finding any more: {guards(rig)}")


def test_A18_switched_off_triggers_are_shown(rig, shardherd):
    wait_clean(rig)
    rig.sql("s2", "ALTER TABLE customers DISABLE TRIGGER shardherd_guard_update")
    finding = wait_found(rig, "guard shardherd_guard_update is missing or disabled")
    assert finding["subject"] == "public.customers" and "install_guards()" in finding["remedy"], finding
    assert 'shardherd_guard_findings{db="shop"} 1\n' in rig.fetch("/metrics", port="metrics", raw=True)
    for words in (["status"], ["describe", "shard", "shop/s2"]):
        said = subprocess.run(
            [str(shardherd), *words, "--state", str(rig.state)], check=True, capture_output=True, text=True
        ).stdout
        assert "shardherd_guard_update is missing or disabled" in said, said
    assert guards(rig, "s1")["findings"] == []
    rig.sql("s2", "SELECT shardherd.install_guards()")
    wait_clean(rig)
    log = rig.log.read_text()
    assert log.count("shardherd_guard_update is missing or disabled") == 1, "said once, not at each look"
    assert "guards are in order again" in log


def test_a_look_that_finds_nothing_makes_no_connection(rig):
    """A login costs more than all else that a shard is asked in a minute."""
    wait_clean(rig)
    count = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
    looks, before = {guards(rig)["checked"]}, rig.sql("s2", count)[0][0]
    wait_until(lambda: looks.add(guards(rig)["checked"]) or len(looks) > 4, what="some looks")
    assert rig.sql("s2", count)[0][0] - before <= 2, "the two that asked this"


def test_A18_attached_and_detached_partitions(rig):
    """Rows that come in by ATTACH PARTITION have passed no guard; what was detached is left behind by moves."""
    owned, foreign = (
        rig.sql("s2", f"SELECT n FROM generate_series(1, 100) n WHERE hashint8extended(n, 0) {sign} 0 LIMIT 1")[0][0]
        for sign in (">=", "<")
    )
    attach = "CREATE TABLE public.{0} (LIKE events INCLUDING ALL); INSERT INTO public.{0} VALUES ({1}, {2}); " + (
        "ALTER TABLE events ATTACH PARTITION public.{0} FOR VALUES FROM ({2}) TO ({2} + 1)"
    )
    rig.sql("s2", attach.format("bad", foreign, 20))
    finding = wait_found(rig, "partition public.bad was attached and holds rows that this shard does not own")
    assert finding["subject"] == "public.events" and "detach it" in finding["remedy"], finding
    rig.sql("s2", "ALTER TABLE events DETACH PARTITION public.bad; DROP TABLE public.bad")
    wait_clean(rig)
    rig.sql("s2", attach.format("good", owned, 30))
    known = "SELECT 1 FROM shardherd.parts WHERE relation = to_regclass('public.good')"
    wait_until(lambda: rig.sql("s2", known), what="the new partition to be known")
    with pytest.raises(psycopg.Error) as refused:  # its triggers came with ATTACH
        rig.sql("s2", f"INSERT INTO public.good VALUES ({foreign}, 30)")
    assert refused.value.sqlstate == "SHR01"
    rig.sql("s2", "ALTER TABLE events DETACH PARTITION public.good")
    finding = wait_found(rig, "partition public.good was detached")
    rig.sql("s2", finding["remedy"].split(": ", 1)[1])
    wait_clean(rig)


def test_stop_while_looking(rig):
    """The manager ends in order wherever the look is."""
    for moment in range(8):
        assert rig.stop() == 0, rig.tail()
        rig.start()
        time.sleep(0.9 + moment * 0.02)  # the first look is after a second
    wait_clean(rig)
