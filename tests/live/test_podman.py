"""Shards as containers of a real podman: made, moved, adopted, started again, taken away; and what auto chooses."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import engine as engines
import pytest
from conftest import free_port, wait_until
from engine import ULIMITS, Engine, Rootless
from rig import Rig

pytestmark = [
    pytest.mark.beside,
    pytest.mark.timeout(900),
    pytest.mark.skipif(engines.why_not() is not None, reason=str(engines.why_not())),
]

needs_uidmap = pytest.mark.skipif(shutil.which("newuidmap") is None, reason="newuidmap (uidmap) is not here")


@pytest.fixture(scope="module")
def engine(shardherd):
    with Engine(f"/tmp/shardherd-podman-{os.getpid()}") as engine:
        engine.make_image(shardherd)
        yield engine


class Refused(Exception):
    pass


class ContainerRig(Rig):
    def __init__(self, shardherd, directory, engine):
        super().__init__(shardherd, directory)
        self.impatient = False
        self.engine = engine
        self.folder = "containers"
        self.settings = [
            "runtime.kind=podman",
            f"runtime.podman_socket=unix://{engine.socket}",
            f"runtime.image={engine.image}",
            f"runtime.podman_ulimits={ULIMITS}",
            f"runtime.first_port={free_port()}",
            "runtime.podman_pids=200",
        ]

    def clean_up(self):
        for name in self.engine.names():
            self.engine.run("rm", "--force", "--time=0", name, check=False)
        for name in self.engine.names("volume"):
            self.engine.run("volume", "rm", "--force", name, check=False)
        super().clean_up()

    def refusal(self, **more):
        """Why the database cannot be made now: a provisioning tries again until somebody helps."""
        self.impatient = True
        try:
            with pytest.raises(Refused) as refused:
                self.make_shop(customers=0, **more)
        finally:
            self.impatient = False
        return str(refused.value)

    def wait_operation(self, op_id, timeout=120):
        if not self.impatient:
            return super().wait_operation(op_id, timeout)
        raise Refused(
            wait_until(lambda: (self.operation(op_id)["error"] or {}).get("message"), timeout, what="a refusal")
        )

    def runtime_line(self):
        lines = self.fetch("/readyz?verbose", port="metrics", raw=True).splitlines()
        return next(line for line in lines if "runtime" in line)


@pytest.fixture
def rig(shardherd, engine, tmp_path):
    rig = ContainerRig(shardherd, f"/tmp/shardherd-containers-{os.getpid()}", engine)
    try:
        yield rig
    finally:
        rig.clean_up()


def container(shard):
    return f"shardherd-shop-{shard}-0"


def test_life_of_a_database(rig, engine):
    rig.start()
    assert "Podman Engine" in rig.runtime_line()
    assert "runtime.kind says so" in rig.runtime_line()
    rig.make_shop(customers=500)
    assert engine.names() == [container("s1"), container("s2")]
    assert engine.names("volume") == [container("s1"), container("s2")]

    # what can be seen from outside holds no password; inside it is the server's alone
    password = (rig.state / "containers" / "shop-s1-0" / "password").read_text().strip()
    assert password not in engine.run("inspect", container("s1"))
    assert (rig.state / "containers" / "shop-s1-0" / "password").stat().st_mode & 0o777 == 0o600
    seen = engine.inspect(container("s1"))
    assert seen["HostConfig"]["ReadonlyRootfs"] is True
    assert seen["HostConfig"]["PidsLimit"] == 200
    assert seen["EffectiveCaps"] in ([], None)
    data = engine.run("volume", "inspect", container("s1"), "--format={{.Mountpoint}}")
    inside = os.stat(f"{data}/shardherd/password")
    assert (inside.st_mode & 0o777, inside.st_uid) == (0o600, 999)
    assert os.stat(f"{data}/pgdata").st_uid == 999
    addresses = rig.sql("s1", "SHOW listen_addresses")
    assert addresses == [("127.0.0.1",)]

    # a third container takes half of a shard, under load
    rig.start_load("--clients", "4", "--rate", "200")
    op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2"})
    assert rig.wait_operation(op["id"], timeout=300)["status"] == "done", rig.tail()
    rig.stop_load()
    wait_until(lambda: len(engine.names()) == 3, timeout=30, what="three containers")
    rig.assert_consistent()

    # a manager that was killed finds them again, and touches none
    before = {name: engine.inspect(name)["State"]["Pid"] for name in engine.names()}
    rig.process.kill()
    rig.process.wait()
    rig.start()
    assert {name: engine.inspect(name)["State"]["Pid"] for name in engine.names()} == before
    rig.assert_consistent()

    # one that was stopped behind its back is started by the next manager
    rig.stop()
    engine.run("stop", "--time=60", container("s1"))
    rig.start()
    assert engine.inspect(container("s1"))["State"]["Running"] is True
    rig.load("check", *rig.rows)

    # and one that dies meanwhile is started by this one, or by podman
    engine.run("kill", "--signal=KILL", container("s2"))
    wait_until(lambda: reachable(rig, "s2"), timeout=60, what="s2 again")

    # a container that was deleted is made again on its volume
    rig.stop()
    engine.run("rm", "--force", "--time=60", container("s1"))
    rig.start()
    rig.load("check", *rig.rows)

    rig.fetch("/v1/databases/shop", "DELETE")
    wait_until(lambda: not engine.names(), timeout=120, what="no container")
    wait_until(lambda: not engine.names("volume"), timeout=60, what="no volume")
    wait_until(lambda: not list(rig.state.glob("containers/shop-*")), timeout=30, what="no files")
    rig.stop()


def reachable(rig, shard):
    try:
        return rig.sql(shard, "SELECT 1") == [(1,)]
    except Exception:  # noqa: BLE001 - whatever the server says while it starts
        return False


@needs_uidmap
def test_nothing_is_left_of_an_engine():
    """Neither when it was ended as soon as it listened, nor when it did not in time."""
    engine = Rootless(f"/tmp/shardherd-rootless-{os.getpid()}")
    for _ in range(3):
        with engine:
            assert len(engine.service()) == 2
        assert engine.left() == [] and not engine.directory.exists()
    engine.PATIENCE = 3
    engine.socket = engine.directory / "silent.sock"
    asked = engine.command
    engine.command = lambda *words: [w.replace("silent.sock", "other.sock") for w in asked(*words)]
    with pytest.raises(pytest.skip.Exception), engine:
        pass
    assert engine.left() == [] and not engine.directory.exists()


@needs_uidmap
def test_a_rootless_engine(shardherd):
    """The same API, served by a user's podman: nobody in its containers is root outside, and nothing is left."""
    with Rootless(f"/tmp/shardherd-rootless-{os.getpid()}") as engine:
        engine.make_image(shardherd)
        rig = ContainerRig(shardherd, f"/tmp/shardherd-containers-{os.getpid()}", engine)
        try:
            rig.start()
            rig.make_shop(customers=500)
            server = engine.inspect(container("s1"))["State"]["Pid"]
            uids = {
                line.split()[1] for line in Path(f"/proc/{server}/status").read_text().splitlines() if "Uid" in line
            }
            assert uids == {str(Rootless.FIRST + 999 - 1)}  # 999 within, one of the user's own outside

            rig.start_load("--clients", "4", "--rate", "200")
            op = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2"})
            assert rig.wait_operation(op["id"], timeout=300)["status"] == "done", rig.tail()
            rig.stop_load()
            rig.assert_consistent()

            before = {name: engine.inspect(name)["State"]["Pid"] for name in engine.names()}
            rig.process.kill()
            rig.process.wait()
            rig.start()
            assert {name: engine.inspect(name)["State"]["Pid"] for name in engine.names()} == before
            engine.run("kill", "--signal=KILL", container("s1"))
            wait_until(lambda: reachable(rig, "s1"), timeout=60, what="s1 again")
            rig.load("check", *rig.rows)

            rig.fetch("/v1/databases/shop", "DELETE")
            wait_until(lambda: not engine.names() and not engine.names("volume"), timeout=120, what="nothing left")
        finally:
            rig.clean_up()


def test_creation_that_fails_leaves_nothing(rig, engine):
    rig.settings = [s for s in rig.settings if not s.startswith("runtime.podman_ulimits")]
    rig.settings.append("runtime.podman_ulimits=nofile=99999999:99999999")  # more than the kernel gives
    rig.start()
    assert "start the container: " in rig.refusal(shards=1)
    rig.stop()  # it would try again
    wait_until(lambda: not engine.names() and not engine.names("volume"), timeout=60, what="nothing left")
    assert not list(rig.state.glob("containers/*shop*"))


def test_two_managers_on_one_engine(rig, engine, shardherd):
    rig.start()
    rig.make_shop(customers=0, shards=1)
    other = ContainerRig(shardherd, f"/tmp/shardherd-other-{os.getpid()}", engine)
    try:
        other.start()
        assert "shardherd-shop-s1-0 belongs to somebody else" in other.refusal(shards=1)
        assert reachable(rig, "s1")
        assert engine.names() == [container("s1")]
        other.stop()
    finally:
        Rig.clean_up(other)
    rig.stop()


def test_image_that_is_not_there(rig, engine):
    rig.settings.append("runtime.image=localhost/nothing:1")
    rig.start()
    said = rig.refusal(shards=1)
    assert "image localhost/nothing:1 is not there" in said
    assert "runtime.image" in said
    assert engine.names() == [] and engine.names("volume") == []
    rig.stop()


# ---- what auto chooses ----


@pytest.fixture
def automatic(shardherd, engine):
    """A manager to which nothing was said but which image; the engine is found by the environment."""
    rig = ContainerRig(shardherd, f"/tmp/shardherd-auto-{os.getpid()}", engine)
    rig.settings = [s for s in rig.settings if "kind" not in s and "socket" not in s]
    rig.pg_bin = None
    rig.env = {"CONTAINER_HOST": f"unix://{engine.socket}"}
    try:
        yield rig
    finally:
        rig.clean_up()


def test_auto_takes_podman_and_stays(automatic, engine):
    automatic.start(env=automatic.env)
    assert "podman (not in a pod), Podman Engine" in automatic.runtime_line()
    automatic.make_shop(customers=0, shards=1)
    assert engine.names() == [container("s1")]
    automatic.stop()
    automatic.start()  # no variable any more: what is there says which engine it was
    assert "podman (not in a pod, and containers are there), Podman Engine" in automatic.runtime_line()
    assert reachable(automatic, "s1")
    automatic.stop()
    engine.stop()  # containers are there: no reason to run processes instead
    try:
        automatic.start(wait=False)
        assert automatic.wait_dead() != 0
        assert str(engine.socket) in automatic.tail()
    finally:
        engine.start()


def test_auto_without_the_image_is_local_and_stays(automatic, engine):
    image = automatic.settings.index(f"runtime.image={engine.image}")
    automatic.settings[image] = "runtime.image=localhost/nothing:1"
    automatic.start(env=automatic.env)
    line = automatic.runtime_line()
    assert "local (not in a pod; podman not taken: image localhost/nothing:1 is not there" in line
    automatic.make_shop(customers=0, shards=1)
    automatic.stop()
    automatic.settings[image] = f"runtime.image={engine.image}"
    automatic.start(env=automatic.env)  # the image is there now, but so are local instances
    assert "local (not in a pod, and this machine's own instances are there)" in automatic.runtime_line()
    automatic.stop()


def test_auto_with_a_socket_that_nobody_serves(automatic):
    dead = automatic.directory / "dead.sock"
    subprocess.run(
        ["python3", "-c", "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", dead], check=True
    )
    automatic.start(env={"CONTAINER_HOST": f"unix://{dead}"})
    assert "local (not in a pod; podman not taken: no container engine at" in automatic.runtime_line()
    automatic.process.send_signal(signal.SIGTERM)
    assert automatic.wait_dead() == 0
    shutil.rmtree(automatic.state)
