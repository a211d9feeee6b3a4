"""A primary that its keeper hears and its standbys have lost: nobody is promoted, and it says why commits wait."""

import re
import signal
import time

import pytest
from conftest import wait_until
from test_ha import begun, by_name, herd, stop_all, streaming, until  # noqa: F401
from test_ha_manager import failover_metrics, freeze, go_on
from test_ha_manager import herd as managed  # noqa: F401

pytestmark = pytest.mark.beside


def test_waiting_commits_are_told(herd):  # noqa: F811
    """By both standbys that stand still."""
    begun(herd)
    standbys = [by_name(herd, name) for name in "bc"]
    before = herd.log().count("(F28)")  # until the first standby streamed commits waited as well
    try:
        for standby in standbys:
            stop_all(standby, signal.SIGSTOP)
        until(herd, lambda: herd.log().count("(F28)") > before, 30, "the reason")
        said = [line for line in herd.log().splitlines() if "(F28)" in line][-1]
        assert "0 of the 1 standbys" in said and "c is" in said, said
        time.sleep(3)
        assert herd.primary() == ("a", 1)
    finally:
        for standby in standbys:
            stop_all(standby, signal.SIGCONT)
    again = herd.log().rindex("(F28)")
    until(herd, lambda: "commits have the standbys again" in herd.log()[again:], 30, "the end of it")
    streaming(herd, "bc")
    assert herd.log().count("(F28)") == before + 1


def unwritable(rig):
    return [float(seconds) for name, seconds in failover_metrics(rig).items() if "shard_unwritable_seconds{" in name]


def test_waiting_commits_are_shown(managed):  # noqa: F811
    """By describe, by the API and by a metric that counts on, while the primary is there and standbys are not."""
    managed.make()
    managed.wait_streaming()
    first = managed.primary()["name"]
    kept = lambda: managed.fetch("/v1/databases/shop/shards/s1")["keeper"]  # noqa: E731
    wait_until(lambda: kept()["waits"] is None, 20, "commits not to wait")
    assert unwritable(managed) == [] and "Waits" not in managed.cli.out("describe", "shard", "s1")
    frozen = [pid for i in managed.instances() if i["name"] != first for pid in freeze(managed, i["name"])]
    try:
        wait_until(lambda: "(F28)" in (kept()["waits"] or ""), 30, "the reason")
        said = managed.cli.out("describe", "shard", "s1")
        assert re.search(r"^Waits: +commits of shard .* \(F28\)", said, re.M), said
        wait_until(lambda: [s for s in unwritable(managed) if 2 < s < 30], 20, "the time to be counted")
        assert managed.primary()["name"] == first
        frozen += freeze(managed, first)
        wait_until(lambda: kept()["waits"] is None, 20, "it not to be said of a primary that is away")
    finally:
        go_on(frozen)
    wait_until(lambda: not unwritable(managed) and managed.all_stream(), 60, "commits to go on")
    wait_until(lambda: "Waits" not in managed.cli.out("describe", "shard", "s1"), 20, "nothing to be said of it")
