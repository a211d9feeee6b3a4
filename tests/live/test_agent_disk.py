"""Volumes of a member that run full: what the agent says, that writes are refused while the server can still go on, and
that it is all over when there is room again. The volumes are real file systems, in memory."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
from conftest import DEFAULT, wait_until
from test_agent_replica import POSTGRES, Member, make_shard

pytestmark = [
    pytest.mark.beside,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems: needs root"),
]
MIB = 1024 * 1024


class Volume:
    def __init__(self, path, mib):
        self.path = Path(path)
        self.path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", self.path], check=True)
        shutil.chown(self.path, POSTGRES, POSTGRES)
        self.filler = self.path / "filler"

    def free(self):
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave):
        """Until so much is free, and never more meanwhile."""
        with open(self.filler, "ab") as file:
            size = self.free() + self.filler.stat().st_size - leave
            os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)

    def empty(self):
        self.filler.unlink()

    def end(self):
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
def shard(shardherd):
    made, volumes = make_shard(shardherd, DEFAULT), []
    made.volumes = volumes
    yield made
    for member in made.made:
        member.destroy()
    for volume in volumes:
        volume.end()
    shutil.rmtree(made.directory)


def member_on(shard, mib, log_mib=None):
    """A primary with its data on a volume of its own, and perhaps its log."""
    member = Member(shard.program, shard.directory, "a", shard.version)
    shard.made.append(member)
    shard.volumes.append(Volume(member.dir / "volume", mib))
    member.data = shard.volumes[0].path / "pgdata"
    if log_mib:
        shard.volumes.append(Volume(member.dir / "log-volume", log_mib))
        member.more.append(f"--wal={shard.volumes[1].path}")
    member.start()
    member.assign(1, "primary", initialize=True).settled("primary")
    with member.connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
    return member


def wait_disk(member, state):
    return wait_until(lambda: (s := member.status())["disk"] == state and s["settled"] and s, 30, f"disk: {state}")


def test_a_volume_that_runs_full_is_read_only_in_time(shard):
    member = member_on(shard, 500)
    volume, open_before = shard.volumes[0], member.connect()
    assert "error" not in wait_disk(member, "enough")
    pid = member.status()["pid"]
    volume.fill(80 * MIB)  # a tenth would be less than twice what ends a full one
    assert "is nearly full" in wait_disk(member, "low")["error"]
    open_before.execute("INSERT INTO t VALUES (1)")
    volume.fill(40 * MIB)
    full = wait_disk(member, "full")
    assert "writes are refused until 96 are" in full["error"], full
    for connection in (open_before, member.connect()):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO t VALUES (2)")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    with open_before.transaction():  # who has to make room can
        open_before.execute("SET TRANSACTION READ WRITE")
        open_before.execute("DELETE FROM t")
    volume.fill(90 * MIB)  # more than what made it full, but not by so much
    wait_until(lambda: int(member.status()["disk_free"]) >= 85 * MIB, 20, "a new look")
    assert member.status()["disk"] == "full"
    volume.empty()
    assert "error" not in wait_disk(member, "enough")
    open_before.execute("INSERT INTO t VALUES (3)")
    assert member.status()["pid"] == pid and member.status()["exits"] == "0"


def test_writers_fill_the_volume_of_the_log(shard):
    """Nobody interferes: sessions write until they are refused, and the server has not ended."""
    member = member_on(shard, 500, log_mib=200)
    pid, refused = member.status()["pid"], []
    with member.connect() as connection:  # whatever it writes is kept
        connection.execute("SELECT pg_create_physical_replication_slot('keeps', true)")

    def write():
        with member.connect() as connection:
            while not refused:
                try:
                    connection.execute("INSERT INTO t SELECT generate_series(1, 500)")
                    time.sleep(0.004)  # some 6 MiB/s: no faster than a volume of that size is filled
                except psycopg.errors.ReadOnlySqlTransaction as error:
                    refused.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(120)
    assert refused and not writer.is_alive(), member.status()
    assert "the volume of the log is full" in wait_disk(member, "full")["error"]
    assert shard.volumes[1].free() > 0
    assert member.status()["pid"] == pid and member.status()["exits"] == "0"
