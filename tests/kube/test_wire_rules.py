"""Rules of the client that need a real wire: links that are cut, files that change, programs that hang, paused
processes. The others are unit tests; the last test here looks that each rule has one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest
from control_plane import ControlPlane, make_certificate
from kube import ROOT, build_folder, wait_until

MAPS = "/api/v1/namespaces/default/configmaps"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ASK = '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'


class Tool:
    """watch_tool that runs until end()."""

    def __init__(self, log, kubeconfig, *arguments, wrap=(), fresh_ms=None):
        self.log = log
        env = {**os.environ, **({"WATCH_TOOL_FRESH_MS": str(fresh_ms)} if fresh_ms else {})}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*wrap, build_folder().resolve() / "tests" / "watch_tool", str(kubeconfig), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
            )

    def lines(self):
        return [line for line in self.log.read_text().splitlines() if line]

    def wait_line(self, pattern, since=0, timeout=20):
        wait_until(lambda: any(re.search(pattern, x) for x in self.lines()[since:]), timeout, f"a line {pattern!r}")

    def end(self, timeout=15):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        assert self.process.wait(timeout) == 0, self.log.read_text()[-2000:]


@pytest.fixture
def tool(tmp_path):
    started = []

    def start(*arguments, **options):
        started.append(Tool(tmp_path / f"tool{len(started)}.log", *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


# ---- K14 ----


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def link():
    """A network namespace, 10.123.45.2, whose only way out is a link to 10.123.45.1; `cut()` and `mend()` it."""
    name, outside = f"sh{os.getpid()}", f"sh{os.getpid()}o"
    ip("netns", "add", name)

    class Link:
        address = "10.123.45.1"
        wrap = ("ip", "netns", "exec", name)

        def cut(self):
            ip("link", "set", outside, "down")

        def mend(self):
            ip("link", "set", outside, "up")

        def connections(self):
            return subprocess.run(
                [*self.wrap, "cat", "/proc/net/tcp"], check=True, capture_output=True, text=True
            ).stdout.count(" 01 ")

    try:
        ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", "10.123.45.1/24", "dev", outside)
        ip("link", "set", outside, "up")
        for command in (("addr", "add", "10.123.45.2/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            ip("-n", name, *command)
        yield Link()
    finally:
        ip("netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", outside)


@pytest.mark.slow
def test_K14_a_cut_link_is_noticed(tmp_path, link, tool):
    class Outside(ControlPlane):
        address = link.address

    with Outside(tmp_path / "plane") as plane:
        plane.must("POST", MAPS, plane.config_map("held", k="1"))
        w = tool(plane.kubeconfig, "watch", MAPS, wrap=link.wrap)
        w.wait_line("^synced")
        link.cut()
        plane.must("PUT", f"{MAPS}/held", plane.config_map("held", k="2"))
        start = time.monotonic()
        # nothing is said: keepalive after 20 s, unanswered for 30 s
        wait_until(lambda: link.connections() == 0, 75, "the dead connection to be given up")
        assert time.monotonic() - start > 5
        link.mend()
        w.wait_line(r"^\*default/held@", timeout=45)
        w.end()
        report = json.loads(w.lines()[-1])
        assert (report["lists"], report["relists"]) == (0, 0)
        assert report["watches"] >= 1


# ---- K18, K19 ----


def test_K18_a_replaced_token_file_is_used_in_time(plane, tool):
    secrets = plane.dir / "secrets"
    for folder, token in (("one", "admin-token"), ("two", "nobody-token")):
        (secrets / folder).mkdir(parents=True)
        (secrets / folder / "token").write_text(token + "\n")
    (secrets / "data").symlink_to("one")
    (secrets / "token").symlink_to("data/token")
    path = plane.write_kubeconfig("file.kubeconfig", {"tokenFile": str(secrets / "token")})
    t = tool(path, "repeat", "POST", WHO, ASK, fresh_ms=500)
    t.wait_line('"username":"admin"')

    # as the kubelet does it: the old token would still be accepted, so that no 401 forces the reading
    (secrets / "new").symlink_to("two")
    (secrets / "new").rename(secrets / "data")
    t.wait_line('"username":"nobody"', timeout=5)

    (secrets / "token").unlink()
    since = len(t.lines())
    wait_until(lambda: len(t.lines()) > since + 12, what="calls after the file is gone")
    assert all('"username":"nobody"' in line for line in t.lines()[since:]), t.lines()[since:]
    t.end()
    assert not [line for line in t.lines() if not line.startswith("201 ")]


def test_K19_a_replaced_client_certificate_is_used(plane, tool):
    for name, subject in (("first", "/CN=first"), ("second", "/CN=second")):
        make_certificate(plane.dir, name, subject)
    for end in ("crt", "key"):
        (plane.dir / f"client.{end}").write_bytes((plane.dir / f"first.{end}").read_bytes())
    user = {"client-certificate": "client.crt", "client-key": "client.key"}
    t = tool(plane.write_kubeconfig("client.kubeconfig", user), "repeat", "POST", WHO, ASK, fresh_ms=500)
    t.wait_line('"username":"first"')
    # half a pair, as it may be found: what was there before stays in use
    (plane.dir / "client.crt").write_bytes((plane.dir / "second.crt").read_bytes())
    since = len(t.lines())
    wait_until(lambda: len(t.lines()) > since + 12, what="calls with half a pair")
    assert all('"username":"first"' in line for line in t.lines()[since:])
    (plane.dir / "client.key").write_bytes((plane.dir / "second.key").read_bytes())
    t.wait_line('"username":"second"', timeout=5)
    t.end()
    assert not [line for line in t.lines() if not line.startswith("201 ")]


def test_K19_a_replaced_ca_is_used_for_new_connections(own_plane, call, tool):
    plane = own_plane
    (plane.dir / "trusted.crt").write_bytes((plane.dir / "ca.crt").read_bytes())
    cluster = {"certificate-authority": "trusted.crt"}
    path = plane.write_kubeconfig("trust.kubeconfig", {"token": "admin-token"}, cluster)
    t = tool(path, "repeat", "POST", WHO, ASK, fresh_ms=500)
    t.wait_line("^201 ")
    make_certificate(plane.dir, "other-ca", "/CN=other-ca", ca="other-ca")
    make_certificate(plane.dir, "other", "/CN=kube-apiserver", ca="other-ca", san="IP:127.0.0.1")
    for end in ("crt", "key"):
        (plane.dir / f"server.{end}").write_bytes((plane.dir / f"other.{end}").read_bytes())
    # the API server takes its new certificate for new connections; this one is not known to the old CA
    wait_until(lambda: call(path, "POST", WHO, ASK).returncode == 1, 60, "the API server to use its new certificate")
    refused = call(path, "POST", WHO, ASK)
    assert "certificate" in refused.stderr
    (plane.dir / "trusted.crt").write_bytes((plane.dir / "other-ca.crt").read_bytes())
    assert call(path, "POST", WHO, ASK).returncode == 0
    # the client that has been running all the time makes a new connection with it
    since = len(t.lines())
    wait_until(lambda: len(t.lines()) > since + 20, 20, "calls with the new CA")
    assert all(line.startswith("201 ") for line in t.lines()[-5:]), t.lines()[-5:]
    (plane.dir / "trusted.crt").write_bytes((plane.dir / "ca.crt").read_bytes())
    t.wait_line("certificate", timeout=10)  # and would not make one with another
    t.end()


# ---- K21 ----

GOOD = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"admin-token"}}'
BAD_PLUGINS = {
    "hangs": ("sleep 600", "timed out|in time|took longer"),
    "ignores_signals": ("trap '' TERM; while :; do sleep 1; done", "timed out|in time|took longer"),
    "prints_without_end": ("yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -c 50000000", "more than 1048576 bytes"),
    "bad_version": (f"echo '{GOOD.replace('k8s.io/v1', 'k8s.io/v9')}'", "another version"),
    "half_a_pair": (
        "echo '" + GOOD.replace('"token":"admin-token"', '"clientCertificateData":"x"') + "'",
        "certificate without its key",
    ),
    "fails": ("echo no >&2; exit 3", "exit code 3"),
}


@pytest.mark.parametrize("name", BAD_PLUGINS)
def test_K21_a_bad_exec_plugin_is_an_error_in_time(plane, tool, tmp_path, name):
    script, message = BAD_PLUGINS[name]
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\n{script}\n")
    plugin.chmod(0o755)
    spec = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "interactiveMode": "Never",
        "env": None,
    }
    path = plane.write_kubeconfig("plugin.kubeconfig", {"exec": spec})
    t = tool(path, "watch", MAPS, fresh_ms=1500)
    start = time.monotonic()
    u = tool(path, "POST", MAPS, "{}", fresh_ms=1500)
    wait_until(lambda: u.process.poll() is not None, 15, "the error of the plugin")
    assert time.monotonic() - start < 10
    assert re.search(message, u.log.read_text()), u.log.read_text()
    t.end(timeout=30)
    report = json.loads(t.lines()[-1])
    assert report["longest_turn_us"] < 500_000, report
    assert report["objects"] == 0
    assert not subprocess.run(["pgrep", "-f", str(plugin)], capture_output=True, text=True, check=False).stdout


# ---- K23 ----


def leads(tool):
    return [int(line.split()[1]) for line in tool.lines() if line.startswith("leads ")]


@pytest.mark.slow
def test_K23_a_paused_leader_writes_nothing_when_it_wakes(plane, tool):
    one = tool(plane.kubeconfig, "lease", "default", "paused", "one")
    one.wait_line("^leads", timeout=40)  # it has done something
    two = tool(plane.kubeconfig, "lease", "default", "paused", "two")
    one.process.send_signal(signal.SIGSTOP)
    two.wait_line("^leads", timeout=60)
    one.process.send_signal(signal.SIGCONT)
    one.wait_line("^lost", timeout=10)
    count = len(leads(two))
    wait_until(lambda: len(leads(two)) > count + 50, what="the new leader to go on")
    first, second = leads(one), leads(two)
    # the same clock for both: all that the first did is before all that the second did
    assert max(first) < min(second)
    # given back in order: the other takes over at once, and still never both
    two.end()
    one.wait_line("^leads", since=one.lines().index("lost"), timeout=30)
    one.end()
    assert max(leads(two)) < min(t for t in leads(one) if t > max(first))


# ---- K25 ----


def test_K25_a_burst_is_read_as_fast_as_it_comes(plane, tool):
    """Large objects at the speed of the server: the socket is read all the time, and no watch is cut off."""
    w = tool(plane.kubeconfig, "watch", MAPS)
    w.wait_line("^synced")
    names = [f"burst-{i}" for i in range(60)]
    for name in names:
        plane.must("POST", MAPS, plane.config_map(name, big="x" * 500_000))
    w.wait_line(r"\+default/burst-59@", timeout=30)
    for name in names:
        plane.must("DELETE", f"{MAPS}/{name}")
    w.wait_line(r"-default/burst-59@", timeout=30)
    w.end()
    report = json.loads(w.lines()[-1])
    assert report["errors"] == 0, report
    assert report["watch_lists"] == 1
    assert report["watches"] == 0
    assert report["longest_turn_us"] < 1_000_000


# ---- all of them ----


def test_every_rule_has_a_test():
    text = "".join(
        path.read_text()
        for folder in ("tests/unit/k8s", "tests/kube")
        for path in (ROOT / folder).iterdir()
        if path.suffix in (".c", ".py")
    )
    tested = {int(n) for name in re.findall(r"\btest_((?:K\d+_)+)", text) for n in re.findall(r"K(\d+)", name)}
    assert sorted(set(range(1, 26)) - tested) == []
