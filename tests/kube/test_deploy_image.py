"""deploy/Containerfile: built by buildah on a base that debootstrap makes, since no registry is asked; then run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from control_plane import cache_dir
from install import DEPLOY, ROOT

SUITE = "trixie"
pytestmark = [
    pytest.mark.slow,  # some minutes: a base, two lots of packages, a build of everything with LTO
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and chroot need root"),
    pytest.mark.skipif(
        shutil.which("buildah") is None or shutil.which("debootstrap") is None,
        reason="buildah or debootstrap is not here: scripts/install-deps gets them",
    ),
]


def mirror():
    """The Debian mirror that this machine's own sources name, as scripts/install-deps takes it."""
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], capture_output=True, text=True
    )
    found = [line.rstrip("/") for line in asked.stdout.splitlines()]
    found = [os.environ.get("SHARDHERD_DEBIAN_MIRROR", ""), *(url for url in found if url.endswith("/debian"))]
    return next((url for url in found if url), None)


def make_base():
    """A minimal Debian 13 as a tar file, made once."""
    out = cache_dir().parent / "image" / f"{SUITE}.tar"
    if out.exists():
        return out
    source = mirror()
    if source is None:
        pytest.skip("no apt source here is a Debian mirror; name one in SHARDHERD_DEBIAN_MIRROR=URL")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{SUITE}.{os.getpid()}"
    try:
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, work / "root", source],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(["tar", "-C", work / "root", "-cf", work / "base.tar", "."], check=True)
        (work / "base.tar").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


class Buildah:
    def __init__(self, directory):
        self.directory = Path(directory)

    def run(self, *arguments, **more):
        return subprocess.run(
            [
                "buildah",
                "--storage-driver=vfs",
                f"--root={self.directory / 'root'}",
                f"--runroot={self.directory / 'run'}",
                *map(str, arguments),
            ],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.directory)},
            capture_output=True,
            text=True,
            check=True,
            **more,
        ).stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The configuration of the image, and its root file system."""
    directory = tmp_path_factory.mktemp("image")
    buildah = Buildah(directory)
    try:
        container = buildah.run("from", "scratch")
        buildah.run("add", "-q", container, make_base(), "/")
        buildah.run("commit", "-q", "--rm", container, "localhost/base:13")
        buildah.run(
            "bud", "--build-arg=BASE=localhost/base:13", "-f", DEPLOY / "Containerfile", "-t", "localhost/made", ROOT
        )
        container = buildah.run("from", "localhost/made")
        config = json.loads(buildah.run("inspect", "--type", "image", "localhost/made"))["OCIv1"]["config"]
        yield config, Path(buildah.run("mount", container))
        buildah.run("umount", container)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_image_runs_as_nobody_special(image):
    config, root = image
    uid, gid = config["User"].split(":")
    assert int(uid) > 10000, "a number, so that runAsNonRoot can be checked"
    assert int(gid) > 10000
    assert config["Entrypoint"] == ["/usr/local/bin/shardherd"]
    passwd = (root / "etc/passwd").read_text()
    for user in (uid, "999"):
        assert f":x:{user}:{user}:" in passwd, "initdb asks for the name of its user"
    found = subprocess.run(
        ["find", root, "-xdev", "-type", "f", "-perm", "/6000"], capture_output=True, text=True, check=True
    )
    assert found.stdout == "", "programs that change who they run as"
    done = subprocess.run(
        ["chroot", f"--userspec={config['User']}", root, "shardherd", "version"],
        env=dict(line.split("=", 1) for line in config["Env"]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("shardherd 0.1.0")


# In namespaces of its own: the root read-only, empty volumes where a pod has them, and no network but its own.
RUN = r"""
set -eu
root=$1
ip link set lo up
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run/postgresql" -o mode=3777 # /var/run points to it
mkdir -p "$2/data" "$2/secret"
echo not-a-secret >"$2/secret/password"
chown -R 999:999 "$2"
mount --bind "$2" "$root/mnt"
inside="chroot --userspec=999:999 $root env PATH=/usr/local/lib/postgresql:/usr/local/bin:/usr/bin:/bin"
if chroot "$root" touch /root-is-writable 2>/dev/null; then echo "the root is writable"; exit 1; fi
$inside shardherd agent --data=/mnt/data/pgdata --run=/var/run/postgresql --password-file=/mnt/secret/password \
    >"$2/log" 2>&1 &
agent=$!
tries=0
until $inside pg_isready -q -h 127.0.0.1; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ]; then cat "$2/log"; exit 1; fi
    sleep 0.1
done
$inside env PGPASSWORD=not-a-secret psql -h 127.0.0.1 -U shardherd -d postgres -XAtc 'SHOW server_version_num'
kill -TERM $agent
wait $agent
echo ended in order
"""


def test_agent_makes_and_runs_a_server_on_a_read_only_root(image, tmp_path):
    _, root = image
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", RUN, "sh", root, tmp_path / "v"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    version, last = done.stdout.splitlines()
    assert int(version) >= 150000
    assert last == "ended in order"
