"""A shard's instances are restarted with other programs of the same major version, while clients write."""

import re
import threading

import pytest
from conftest import DEFAULT, pg_bin_dir, wait_until
from rig import Problem
from test_ha_manager import herd, processes_of  # noqa: F401

pytestmark = pytest.mark.waits


def programs(herd, name):  # noqa: F811
    """The folder that an agent takes its programs from, and the program that its server is."""
    words = next(w for w in processes_of(herd.home(name)).values() if f"--member {name} " in w)
    server = processes_of(herd.home(name))[herd.postmaster_pid(name)]
    return re.search(r"--bin (\S+)", words)[1], server.split()[0]


def one_switchover(herd, record_property):  # noqa: F811
    """And no failover, while it writes nothing for a moment only."""
    changes = [o for o in herd.operations() if o["kind"] in ("switchover", "failover")]
    assert [o["kind"] for o in changes] == ["switchover"], changes
    pause = int(changes[0]["record"]["write_block_us"]) / 1e6
    print(f"{pause:.2f} s without writes")
    record_property("seconds_without_writes", pause)
    assert pause < 5


def newer(folder):
    """As if a minor version had been installed elsewhere: the same programs under another path."""
    folder.mkdir()
    for program in pg_bin_dir(DEFAULT).iterdir():
        (folder / program.name).symlink_to(program)
    folder.chmod(0o755)
    return folder


def test_restart_with_other_programs(herd, record_property):  # noqa: F811
    """Standbys first, a switchover, the old primary last: nothing is lost, and clients wait for the switchover only."""
    herd.make()
    herd.wait_streaming()
    names = sorted(i["name"] for i in herd.instances())
    first = herd.primary()["name"]
    herd.start_load("--clients", "4")
    herd.wait_acknowledged()
    herd.stop()
    herd.pg_bin = newer(herd.directory / "newer")
    herd.start()
    old = str(pg_bin_dir(DEFAULT))
    assert {programs(herd, name)[0] for name in names} == {old}  # a new manager alone changes nothing
    said = herd.cli.run("restart", "s1", timeout=180)
    order = re.findall(r"instance/(\S+) restarted", said.stderr)
    assert sorted(order) == names and order[-1] == first, said.stderr
    for name in names:
        assert programs(herd, name) == (str(herd.pg_bin), f"{herd.pg_bin}/postgres"), name
    assert herd.all_stream() and herd.primary()["name"] != first
    herd.wait_acknowledged()
    herd.nothing_lost()
    one_switchover(herd, record_property)


def test_one_at_a_time(herd):  # noqa: F811
    """While one of them is away no other is restarted, whoever asks, at the same moment too."""
    herd.make()
    herd.wait_streaming()
    first = herd.primary()["name"]
    standbys = [i["name"] for i in herd.instances() if i["name"] != first]
    answers = []

    def ask(name):
        try:
            answers.append(herd.post(f"/v1/instances/{name}/restart", None)["name"])
        except Problem as problem:
            answers.append(problem.status)

    both = [threading.Thread(target=ask, args=(name,)) for name in standbys]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert answers.count(409) == 1, answers
    stopped = next(name for name in answers if name != 409)
    other = next(name for name in standbys if name != stopped)
    wait_until(lambda: not herd.all_stream(), 20, "it to be away")
    for name in (other, first):
        with pytest.raises(Problem, match="409") as refused:
            herd.post(f"/v1/instances/{name}/restart", None)
        assert stopped in refused.value.body, refused.value
    herd.wait_streaming()
    with pytest.raises(Problem, match="404"):
        herd.post("/v1/instances/no-such/restart", None)
    herd.cli.out("maintenance", "s1", "on")
    with pytest.raises(Problem, match="in maintenance"):
        herd.post(f"/v1/instances/{first}/restart", None)
    assert herd.primary()["name"] == first
