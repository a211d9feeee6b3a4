"""Rule K20's proxy-url, and the environment's proxies, with real ones: tinyproxy and microsocks."""

import os
import shutil
import subprocess

import pytest
from control_plane import free_port
from kube import ROOT, build_folder, wait_until

MAPS = "/api/v1/namespaces/default/configmaps"


def program(name):
    found = shutil.which(name, path=f"{os.environ['PATH']}:{ROOT / 'build' / 'tools' / 'usr' / 'bin'}")
    if found is None:
        pytest.fail(f"{name} is missing: scripts/install-deps")
    return found


class Proxy:
    def __init__(self, argv, port, log):
        self.port, self.log = port, log
        with log.open("wb") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out)
        wait_until(self.listens, what="the proxy to listen")

    def listens(self):
        assert self.process.poll() is None, self.log.read_text()
        with open("/proc/net/tcp") as table:
            return any(f":{self.port:04X} 00000000:0000 0A" in line for line in table)

    def end(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def proxies(tmp_path):
    """proxies("http" or "socks5", user, password) starts one and returns it."""
    started = []

    def start(kind, user=None, password=None):
        port = free_port()
        if kind == "http":
            config = tmp_path / "tinyproxy.conf"
            lines = [f"Port {port}", "Listen 127.0.0.1", "LogLevel Connect", "DisableViaHeader Yes"]
            if user:
                lines.append(f"BasicAuth {user} {password}")
            config.write_text("\n".join(lines) + "\n")
            argv = [program("tinyproxy"), "-d", "-c", str(config)]
        else:
            argv = [program("microsocks"), "-i", "127.0.0.1", "-p", str(port)]
            argv += ["-u", user, "-P", password] if user else []
        started.append(Proxy(argv, port, tmp_path / f"{kind}.log"))
        return started[-1]

    yield start
    for proxy in started:
        proxy.end()


def kubeconfig(plane, name, url):
    return plane.write_kubeconfig(name, {"token": "admin-token"}, {"proxy-url": url})


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_K20_calls_and_watches_go_through_the_proxy(plane, call, watch, proxies, kind):
    proxy = proxies(kind)
    path = kubeconfig(plane, f"{kind}.kubeconfig", f"{kind}://127.0.0.1:{proxy.port}")
    got = call(path, "GET", MAPS)
    assert got.returncode == 0, got.stderr
    w = watch(path, MAPS)
    w.wait("synced")
    plane.must("POST", MAPS, plane.config_map(f"through-{kind}"))
    w.wait(f"+default/through-{kind}@")
    plane.must("DELETE", f"{MAPS}/through-{kind}")
    w.end()
    seen = proxy.log.read_text()
    assert str(plane.port) in seen or "127.0.0.1" in seen, seen
    proxy.end()
    got = call(path, "POST", MAPS, "{}")
    assert got.returncode == 1
    assert "cannot connect to the proxy 127.0.0.1" in got.stderr


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_K20_a_proxy_wants_a_password(plane, call, proxies, kind):
    proxy = proxies(kind, "herd", "s3cret")
    good = kubeconfig(plane, "good.kubeconfig", f"{kind}://herd:s3cret@127.0.0.1:{proxy.port}")
    assert call(good, "GET", MAPS).returncode == 0
    for url in (f"{kind}://herd:wr0ng@127.0.0.1:{proxy.port}", f"{kind}://127.0.0.1:{proxy.port}"):
        got = call(kubeconfig(plane, "bad.kubeconfig", url), "POST", MAPS, "{}")
        assert got.returncode == 1
        assert "user name and password" in got.stderr
        assert "wr0ng" not in got.stderr + got.stdout


def test_K20_the_server_is_not_reachable_from_the_proxy(plane, call, proxies):
    for kind in ("http", "socks5"):
        proxy = proxies(kind)
        path = kubeconfig(plane, "away.kubeconfig", f"{kind}://127.0.0.1:{proxy.port}")
        text = path.read_text().replace(f"127.0.0.1:{plane.port}", f"127.0.0.1:{free_port()}")
        path.write_text(text)
        got = call(path, "POST", MAPS, "{}")
        assert got.returncode == 1
        assert "the proxy does not connect to 127.0.0.1 port" in got.stderr


def test_K20_other_proxies_are_refused_by_name(plane, call):
    got = call(kubeconfig(plane, "other.kubeconfig", "https://user:hidden@127.0.0.1:1"), "GET", MAPS)
    assert got.returncode == 1
    assert "proxy-url: a proxy is reached by http:// or socks5://, not by https://" in got.stderr
    assert "hidden" not in got.stderr


def test_K20_the_environment_names_a_proxy(plane, proxies):
    """Loopback is never asked for through it, so the server gets another name."""
    proxy = proxies("http")
    path = plane.write_kubeconfig(
        "env.kubeconfig", {"token": "admin-token"}, {"tls-server-name": "kubernetes.default.svc"}
    )
    # 0.0.0.0 is this machine as well, and no loopback address by its number
    path.write_text(path.read_text().replace(f"127.0.0.1:{plane.port}", f"0.0.0.0:{plane.port}"))

    def run(**env):
        proxy.log.write_text("")
        got = subprocess.run(
            [build_folder() / "tests" / "watch_tool", path, "GET", "/version"],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert got.returncode == 0, got.stderr
        return "CONNECT" in proxy.log.read_text()

    url = f"http://127.0.0.1:{proxy.port}"
    assert not run()
    assert run(HTTPS_PROXY=url)
    assert run(https_proxy=url)
    assert not run(HTTP_PROXY=url)
    assert not run(HTTPS_PROXY=url, NO_PROXY="example.com, 0.0.0.0/8")
    assert not run(HTTPS_PROXY=url, no_proxy="*")
