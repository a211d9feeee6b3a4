"""What the manager takes from a Prometheus: a real one that scrapes it, and ones that do not answer."""

import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request

import pytest
from conftest import REPO, free_port, wait_until
from rig import Rig

pytestmark = pytest.mark.waits

TOKEN = "bearer-token-nobody-may-see"


def prometheus_program():
    for candidate in (REPO / "build/tools/usr/bin/prometheus", shutil.which("prometheus")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    pytest.skip("prometheus is not installed (scripts/install-deps gets it)")


class Prometheus:
    """A real one on loopback that scrapes some addresses each second."""

    def __init__(self, directory, targets):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        directory.mkdir()
        config = directory / "prometheus.yml"
        jobs = [{"job_name": n, "static_configs": [{"targets": [t]}]} for n, t in targets.items()]
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    prometheus_program(),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        wait_until(self.ready, 30, "Prometheus")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False


class Server(http.server.ThreadingHTTPServer):
    """Answers every GET with answer(handler) -> (status, content type, text)."""

    daemon_threads = True

    def __init__(self, answer, context=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                status, kind, text = answer(self)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        super().__init__(("127.0.0.1", 0), Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


@pytest.fixture
def herd(shardherd, work_dir, pg_factory):
    """start(url, **settings): a manager with one server, "db-0", that asks a Prometheus there."""
    rigs = []
    server = pg_factory()

    def start(url, **settings):
        rig = Rig(shardherd, work_dir / f"herd{len(rigs)}")
        rig.config = rig.directory / "shardherd.yaml"
        entry = {"name": "db-0", "host": server.host, "port": server.port, "user": "postgres", "dbname": "postgres"}
        rig.config.write_text(json.dumps({"discovery": {"static": [entry]}, "runtime": {"kind": "none"}}))
        rig.settings = [f"prometheus.url={url}", "prometheus.interval=1s"]
        rig.settings += [f"prometheus.{key}={value}" for key, value in settings.items()]
        rigs.append(rig)
        rig.start()
        return rig

    yield start
    for rig in rigs:
        rig.stop()


def instance(rig):
    return next(i for i in rig.fetch("/v1/instances")["items"] if i["name"] == "db-0")


def pod(rig):
    return instance(rig).get("pod") or {}


def readiness(rig):
    return rig.fetch("/readyz?verbose", raw=True)


def metrics(rig):
    with urllib.request.urlopen(f"http://127.0.0.1:{rig.ports['metrics']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_a_real_one_that_knows_the_containers(herd, work_dir):
    """Series of containers, from an exporter that somebody else runs, under names that were set."""
    started = time.monotonic()

    def exporter(_handler):
        lines = [
            "# TYPE my_cpu_seconds_total counter",
            f'my_cpu_seconds_total{{container="pg",member="db-0"}} {(time.monotonic() - started) * 0.5}',
            "# TYPE container_memory_usage_bytes gauge",
            'container_memory_usage_bytes{container="pg",member="db-0"} 123456789',
            'container_memory_usage_bytes{container="pg",member="somebody"} 1',
        ]
        return 200, "text/plain; version=0.0.4", "\n".join(lines) + "\n"

    with Server(exporter) as other:
        targets = {"containers": f"127.0.0.1:{other.server_port}"}
        with Prometheus(work_dir / "prometheus", targets) as prometheus:
            rig = herd(prometheus.url + "/", cpu_series="my_cpu_seconds_total", hits_series="none")
            wait_until(lambda: pod(rig).get("memory_bytes") == 123456789, 20, "memory by Prometheus")
            wait_until(lambda: (pod(rig).get("cpu_cores") or 0) > 0, 20, "CPU by Prometheus")
            assert pod(rig)["source"] == "prometheus"
            assert pod(rig)["exporter_blocks_hit_per_second"] is None
            wait_until(lambda: "shardherd_cpu_cores{" in metrics(rig), 10, "the series")
            assert 'shardherd_memory_bytes{db="",shard="",member="db-0"} 123456789' in metrics(rig)
            assert "0 failed" in readiness(rig)
        # it has gone: what it said is kept for a minute, the manager for ever
        wait_until(lambda: "refused" in readiness(rig), 10, "a word about it")
        assert polls_go_on(rig, 2) < 3


def test_its_own_series_come_back(herd, work_dir):
    first = herd("http://127.0.0.1:9")
    with Prometheus(work_dir / "prometheus", {"shardherd": f"127.0.0.1:{first.ports['metrics']}"}) as prometheus:
        second = herd(prometheus.url)
        wait_until(lambda: (pod(second).get("exporter_sessions") or 0) > 0, 30, "sessions that the first one saw")
        wait_until(lambda: pod(second).get("exporter_commits_per_second") is not None, 30, "commits")


def last_poll(rig):
    """When the load group was polled last, by the server's clock."""
    lines = metrics(rig).splitlines()
    line = next(x for x in lines if x.startswith("shardherd_poll_last_success") and 'group="load"' in x)
    return float(line.split()[-1])


def polls_go_on(rig, count=4):
    """The longest time between two polls of a second's period."""
    moments = [last_poll(rig)]
    while len(moments) <= count:
        moments.append(wait_until(lambda: last_poll(rig) > moments[-1] and last_poll(rig), 5, "a poll", 0.1))
    return max(b - a for a, b in zip(moments, moments[1:], strict=False))


def test_one_that_accepts_and_never_answers_delays_nothing(herd):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(128)
        rig_started = time.monotonic()
        rig = herd(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout="2s")
        ready = time.monotonic() - rig_started
        wait_until(lambda: instance(rig)["health"] == "up", 10, "the server is up")
        longest = polls_go_on(rig)
        wait_until(lambda: "last: Prometheus" in readiness(rig), 10, f"a word about it, not {readiness(rig)}")
        assert "[+]prometheus" in readiness(rig)
        stopping = time.monotonic()
        rig.stop()
        stopped = time.monotonic() - stopping
    print(f"ready after {ready:.2f} s, longest time between polls {longest:.2f} s, stopped in {stopped:.2f} s")
    assert longest < 2.5
    assert ready < 10
    assert stopped < 5


def test_one_that_answers_endlessly_is_cut(herd):
    def flood(_handler):
        return 200, "application/json", '{"status":"success","data":' + " " * (9 << 20) + "}"

    with Server(flood) as server:
        rig = herd(f"http://127.0.0.1:{server.server_port}")
        wait_until(lambda: "larger than" in readiness(rig), 15, "a word about the size")
        assert polls_go_on(rig, 2) < 3


def test_token_and_tls(herd, work_dir):
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem".split(),
        cwd=work_dir,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(work_dir / "cert.pem", work_dir / "key.pem")
    token = work_dir / "token"
    token.write_text(TOKEN + "\n")

    def answer(handler):
        if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, "text/plain", "who are you?"
        sample = {"metric": {"member": "db-0"}, "value": [1, "42"]}
        return (
            200,
            "application/json",
            json.dumps({"status": "success", "data": {"resultType": "vector", "result": [sample]}}),
        )

    with Server(answer, context) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        rig = herd(url, bearer_token_file=token, ca_file=work_dir / "cert.pem")
        wait_until(lambda: pod(rig).get("memory_bytes") == 42, 15, "an answer over TLS with the token")
        without = herd(url, ca_file=work_dir / "cert.pem")
        wait_until(lambda: "bearer_token_file" in readiness(without), 15, "a word about the token")
        untrusting = herd(url, bearer_token_file=token)
        wait_until(lambda: "certificate" in readiness(untrusting), 15, "no trust")
        assert pod(untrusting).get("memory_bytes") is None
        assert TOKEN not in rig.log.read_text()
