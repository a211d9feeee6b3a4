"""A minor upgrade between two real minor versions, while clients write."""

import contextlib
import re

import psycopg
import pytest
from conftest import REPO, pg_bin_dir, wait_until
from test_ha_manager import herd  # noqa: F401
from test_ha_restart import one_switchover

OLDER = REPO / "build" / "pg" / "16-older" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.waits,
    pytest.mark.skipif(not (OLDER / "postgres").exists() or pg_bin_dir(16) is None, reason="no two minor versions"),
]


def versions(herd):  # noqa: F811
    """What each server itself says that it is."""
    said = {}
    for instance in herd.instances():
        password = (herd.home(instance["name"]) / "password").read_text().strip()
        where = f"host=127.0.0.1 port={instance['port']} dbname=postgres user=shardherd password={password}"
        with contextlib.closing(psycopg.connect(where)) as connection:
            said[instance["name"]] = connection.execute("SHOW server_version_num").fetchone()[0]
    return said


def test_minor_upgrade(herd, record_property):  # noqa: F811
    """All instances run the newer one afterwards; one switchover, nothing lost."""
    herd.stop()
    herd.pg_bin = OLDER
    herd.start()
    herd.make()
    herd.wait_streaming()
    before, first = versions(herd), herd.primary()["name"]
    assert len(before) == 3 and len(set(before.values())) == 1, before
    herd.start_load("--clients", "4")
    herd.wait_acknowledged()
    herd.stop()
    herd.pg_bin = pg_bin_dir(16)
    herd.start()
    assert versions(herd) == before  # a new manager alone changes nothing
    said = herd.cli.run("restart", "s1", timeout=180)
    order = re.findall(r"instance/(\S+) restarted", said.stderr)
    assert sorted(order) == sorted(before) and order[-1] == first, said.stderr
    after = versions(herd)
    assert set(after) == set(before) and len(set(after.values())) == 1, after
    assert int(after[first]) > int(before[first]) and after[first][:2] == before[first][:2], (before, after)
    assert herd.all_stream() and herd.primary()["name"] != first
    herd.wait_acknowledged()
    wait_until(herd.all_stream, 20, "standbys to stream")
    herd.nothing_lost()
    print(f"{before[first]} to {after[first]}")
    one_switchover(herd, record_property)
