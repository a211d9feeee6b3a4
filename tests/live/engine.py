"""podman as its own service with its own storage, and an image made of what this machine has: no registry is asked.

with Engine(directory) as engine:
    engine.make_image(shardherd)
    engine.socket, engine.image
    engine.run("ps", "--all")
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from conftest import DEFAULT, pg_bin_dir

IMAGE = "localhost/shardherd:test"
# What runc may set where the tests run; the engine would ask for more than a container of its own may have.
ULIMITS = "nofile=1024:1024,nproc=1000:1000"
PASSWD = "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n"


def oci_runtime():
    for name in ("runc", "crun"):
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if path:
            return path
    return None


def why_not():
    """The reason why there are no containers here, or None."""
    if os.geteuid() != 0:
        return "podman's storage is set up for root only in these tests"
    if shutil.which("podman") is None or oci_runtime() is None:
        return "podman or runc is not here: scripts/install-deps gets them"
    return None


def processes():
    """Pid, process group and environment of those that live."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX":
                yield int(folder.name), int(group), (folder / "environ").read_bytes().split(b"\0")


def end(listed, sent):
    """Ends all that listed() names, each told once; who is there after 20 s is killed."""
    deadline, told = time.monotonic() + 20, set()
    while pids := listed():
        if time.monotonic() > deadline:
            sent, told = signal.SIGKILL, set()
        for pid in pids:
            if pid not in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
                told.add(pid)
        time.sleep(0.05)


class Engine:
    PATIENCE = 30  # seconds until it has to listen

    def __init__(self, directory):
        self.directory = Path(directory)
        self.socket = self.directory / "api.sock"
        self.image = IMAGE
        self.process = None

    # ---- life ----

    def command(self, *arguments):
        runtime, conmon = oci_runtime(), shutil.which("conmon")
        return [
            "podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file",
            f"--runtime={runtime}", f"--root={self.directory / 'root'}", f"--runroot={self.directory / 'run'}",
            f"--tmpdir={self.directory / 'tmp'}", *([f"--conmon={conmon}"] if conmon else []), *map(str, arguments),
        ]  # fmt: skip

    def environment(self):
        conf = self.directory / "containers.conf"
        conf.write_text('[containers]\nlog_driver = "k8s-file"\n[engine]\nimage_copy_tmp_dir = "storage"\n')
        return {**os.environ, "CONTAINERS_CONF": str(conf), "TMPDIR": str(self.directory)}

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:  # nobody calls __exit__() then
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def start(self):
        with open(self.directory / "service.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command("system", "service", "--time=0", f"unix://{self.socket}"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + self.PATIENCE
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.directory / "service.log").read_text()
                self.stop()
                pytest.skip(f"podman does not run here: {said[-500:]}")
            time.sleep(0.05)

    def service(self):
        """A user's podman is two processes: the first one may end at a signal without a word to the other."""
        return [pid for pid, group, _ in processes() if group == self.process.pid]

    def stop(self):
        """The API goes away; containers go on: they are in sessions of their own."""
        if self.process:
            end(self.service, signal.SIGTERM)
            self.process.wait()
            self.process = None
        self.socket.unlink(missing_ok=True)

    def left(self):
        """All processes that were begun with this engine's configuration, also those in sessions of their own."""
        name = f"CONTAINERS_CONF={self.directory / 'containers.conf'}".encode()
        return [pid for pid, _, environment in processes() if name in environment]

    def remove(self):
        try:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("rm", "--all", "--force", "--time=0", timeout=120)
        finally:
            self.stop()
            end(self.left, signal.SIGKILL)  # what holds a user's namespace open hears no other
            for mounts in (self.directory / "root", self.directory / "run"):
                for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
                    where = line.split()[1]
                    if where.startswith(f"{mounts}/"):
                        subprocess.run(["umount", "-l", where], check=False, capture_output=True)
            shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *arguments, timeout=300, check=True):
        done = subprocess.run(
            self.command(*arguments), env=self.environment(), capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"podman {arguments}: {done.stderr}")
        return done.stdout.strip()

    def names(self, what="ps"):
        """Of containers, running or not; what="volume": of volumes."""
        listed = self.run("volume", "ls", "-q") if what == "volume" else self.run("ps", "-a", "--format={{.Names}}")
        return sorted(listed.split())

    def inspect(self, container):
        return json.loads(self.run("inspect", container))[0]

    # ---- the image ----

    def make_image(self, program, image=IMAGE):
        tar = self.directory / "image.tar"
        make_root(tar, program)
        self.run("import", f"--change=ENV PATH={pg_bin_dir(DEFAULT)}:/usr/local/bin:/usr/bin:/bin", tar, image)
        tar.unlink()


class Rootless(Engine):
    """The same as a user who is nobody in particular, and whom only these processes know."""

    UID, FIRST = 4000, 200000
    SCRIPT = """for file in passwd group subuid subgid; do mount --bind "$1/$file" /etc/$file; done
                cd "$1/home"; shift; exec "$@" """

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, line in (("passwd", f"herder:x:{self.UID}:{self.UID}::{self.directory}/home:/bin/sh"),
                           ("group", f"herder:x:{self.UID}:")):  # fmt: skip
            (self.directory / name).write_text(Path(f"/etc/{name}").read_text() + line + "\n")
        for name in ("subuid", "subgid"):
            Path(f"/etc/{name}").touch()
            (self.directory / name).write_text(f"herder:{self.FIRST}:65536\n")
        for path in (self.directory, self.directory / "home", self.directory / "xdg"):
            path.mkdir(mode=0o700, exist_ok=True)
            os.chown(path, self.UID, self.UID)
        return super().__enter__()

    def command(self, *arguments):
        return [
            "unshare", "--mount", "sh", "-ec", self.SCRIPT, "sh", str(self.directory),
            "setpriv", f"--reuid={self.UID}", f"--regid={self.UID}", "--clear-groups", *super().command(*arguments),
        ]  # fmt: skip

    def environment(self):
        return {**super().environment(), "HOME": f"{self.directory}/home", "XDG_RUNTIME_DIR": f"{self.directory}/xdg"}


def libraries(program):
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}


def make_root(tar, program):
    """Enough of this machine's files for the agent, initdb and the server."""
    binaries = pg_bin_dir(DEFAULT)
    config = {
        name: Path(subprocess.run([binaries / "pg_config", f"--{name}"], capture_output=True, text=True).stdout.strip())
        for name in ("pkglibdir", "sharedir")
    }
    pkglib = config["pkglibdir"] if config["pkglibdir"].is_dir() else binaries.parent / "lib"
    share = config["sharedir"] if config["sharedir"].is_dir() else Path(f"/usr/share/postgresql/{DEFAULT}")
    programs = [binaries / name for name in ("postgres", "initdb", "pg_ctl")] + [Path("/bin/sh")]
    trees = [pkglib, share, Path("/usr/share/zoneinfo"), Path("/usr/lib/locale/C.utf8")]
    files = {Path("/etc/ld.so.cache"), Path("/usr/share/postgresql-common")}
    for one in [*programs, Path(program), *pkglib.glob("*.so")]:
        files |= libraries(one)
    with tarfile.open(tar, "w") as out:
        seen = set()

        def folder(name, mode=0o755, owner=0):
            for parent in [*reversed(Path(name).parents), Path(name)]:
                path = str(parent).lstrip("/")
                if path in ("", ".") or path in seen:
                    continue
                seen.add(path)
                entry = tarfile.TarInfo(path)
                entry.type, entry.mode = tarfile.DIRTYPE, mode if parent == Path(name) else 0o755
                entry.uid = entry.gid = owner if parent == Path(name) else 0
                out.addfile(entry)

        def add(source, target=None, mode=None):
            """The file that the path leads to, at the path itself: links of this machine are not taken over."""
            target = str(target or source).lstrip("/")
            if target in seen or not Path(source).is_file():
                return
            folder(str(Path("/") / Path(target).parent))
            seen.add(target)
            entry = out.gettarinfo(os.path.realpath(source), arcname=target)
            entry.type, entry.linkname = tarfile.REGTYPE, ""
            entry.uid = entry.gid = 0
            entry.size = os.stat(source).st_size
            entry.mode = mode or entry.mode
            with open(source, "rb") as content:
                out.addfile(entry, content)

        for name, mode, owner in (
            ("/tmp", 0o1777, 0), ("/proc", 0o755, 0), ("/sys", 0o755, 0), ("/dev", 0o755, 0), ("/run", 0o755, 0),
            ("/var/lib/postgresql", 0o755, 999),
        ):  # fmt: skip
            folder(name, mode, owner)
        for one in programs:
            add(one)
        add(program, "/usr/local/bin/shardherd", 0o755)
        for path in sorted(files):
            add(path)
        for tree in trees:
            for path in sorted(tree.rglob("*")) if tree.is_dir() else []:
                add(path)
        for name, text in (("etc/passwd", PASSWD), ("etc/group", "root:x:0:\npostgres:x:999:\n")):
            folder("/etc")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            out.addfile(entry, io.BytesIO(text.encode()))
