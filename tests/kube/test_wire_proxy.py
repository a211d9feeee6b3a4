"""Rule K20's proxy-url, and the environment's proxies, with real ones: tinyproxy and microsocks.

For https:// the test ends the TLS in front of tinyproxy, as a load balancer would.
"""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from control_plane import free_port, make_certificate
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


class TlsFront:
    """Takes TLS with that certificate and passes what is inside on to a proxy."""

    def __init__(self, behind, certificate, key):
        self.behind, self.log, self.process = behind, behind.log, behind.process
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, raw):
        with contextlib.suppress(OSError):  # a client that does not trust us
            inside = self.context.wrap_socket(raw, server_side=True)
            behind = socket.create_connection(("127.0.0.1", self.behind.port))
            back = threading.Thread(target=self.pump, args=(behind, inside), daemon=True)
            back.start()
            self.pump(inside, behind)
            back.join()
            inside.close()
            behind.close()

    @staticmethod
    def pump(source, sink):
        with contextlib.suppress(OSError):  # the other direction ended it
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def end(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.behind.end()


@pytest.fixture
def proxies(tmp_path, plane):
    """proxies("http", "https" or "socks5", user, password) starts one and returns it."""
    started = []

    def start(kind, user=None, password=None, ca=plane.dir, san="IP:127.0.0.1"):
        if kind == "https":
            name = f"proxy-{len(started)}"
            make_certificate(ca, name, "/CN=proxy", san=san)
            behind = start("http", user, password)
            started[-1] = TlsFront(behind, ca / f"{name}.crt", ca / f"{name}.key")
            return started[-1]
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


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
def test_K20_calls_and_watches_go_through_the_proxy(plane, call, watch, proxies, kind):
    proxy = proxies(kind)
    path = kubeconfig(plane, f"{kind}.kubeconfig", f"{kind}://127.0.0.1:{proxy.port}")
    got = call(path, "GET", MAPS)
    assert got.returncode == 0, got.stderr
    w = watch(path, MAPS)
    w.wait("synced")
    big = "x" * 700_000  # many records
    plane.must("POST", MAPS, plane.config_map(f"through-{kind}", big=big))
    w.wait(f"+default/through-{kind}@")
    assert big in call(path, "GET", MAPS).stdout
    plane.must("DELETE", f"{MAPS}/through-{kind}")
    w.end()
    seen = proxy.log.read_text()
    assert str(plane.port) in seen or "127.0.0.1" in seen, seen
    proxy.end()
    got = call(path, "POST", MAPS, "{}")
    assert got.returncode == 1
    assert "cannot connect to the proxy 127.0.0.1" in got.stderr


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
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


def test_K20_the_certificate_of_a_proxy_is_verified(plane, call, proxies, tmp_path):
    make_certificate(tmp_path, "ca", "/CN=another-ca")
    for proxy in (proxies("https", ca=tmp_path), proxies("https", san="DNS:another.example")):
        got = call(
            kubeconfig(plane, "foreign.kubeconfig", f"https://u:hidden@127.0.0.1:{proxy.port}"), "POST", MAPS, "{}"
        )
        assert got.returncode == 1
        said = f"TLS handshake with the proxy 127.0.0.1:{proxy.port}: the certificate is not accepted"
        assert said in got.stderr, got.stderr
        assert "hidden" not in got.stderr
        assert "CONNECT" not in proxy.log.read_text()


def test_K20_other_proxies_are_refused_by_name(plane, call):
    got = call(kubeconfig(plane, "other.kubeconfig", "ftp://user:hidden@127.0.0.1:1"), "GET", MAPS)
    assert got.returncode == 1
    assert "proxy-url: a proxy is reached by http://, https:// or socks5://, not by ftp://" in got.stderr
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
