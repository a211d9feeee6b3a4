"""A manager outside the cluster, and PostgreSQL for it: what the tests of discovery share."""

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from kube import build_folder, wait_until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def newest_postgres():
    folders = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if (p / "postgres").exists()]
    return max(folders, key=lambda p: int(p.parent.name))


class Postgres:
    """One server on some loopback addresses, with a password."""

    def __init__(self, addresses=("127.0.0.1",), password="grape-pass-1"):
        self.dir = Path(tempfile.mkdtemp(prefix="shardherd-kube-pg-"))  # where the user postgres may go
        self.password, self.port = password, free_port()
        self.bin = newest_postgres()
        self.user = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam("postgres")
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.dir, entry.pw_uid, entry.pw_gid)
        secret = self.dir / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        self.run("initdb", "-D", self.dir / "data", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}", "-N")
        (self.dir / "data" / "postgresql.auto.conf").open("a").write(
            f"port={self.port}\nlisten_addresses='{','.join(addresses)}'\nunix_socket_directories=''\n"
            "wal_level=logical\nfsync=off\nshared_buffers=16MB\n"
        )
        (self.dir / "data" / "pg_hba.conf").open("a").write("host all all 127.0.0.0/8 scram-sha-256\n")
        with (self.dir / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.dir / "data"], stdout=log, stderr=log, cwd="/", **self.user
            )
        wait_until(lambda: self.succeeds("SELECT 1"), 30, "PostgreSQL")

    def run(self, name, *argv):
        subprocess.run([self.bin / name, *argv], check=True, capture_output=True, cwd="/", **self.user)

    def succeeds(self, sql):
        return (
            subprocess.run(
                [self.bin / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-Xqc", sql],
                env={"PGPASSWORD": self.password, "PATH": os.environ["PATH"]},
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Manager:
    """shardherd manager on free ports; `with` ends it orderly and fails if it does not end well."""

    def __init__(self, directory, kubeconfig, **settings):
        self.dir = Path(directory)
        self.dir.mkdir(exist_ok=True)
        self.log = self.dir / "manager.log"
        ports = {f"listen.{name}_port": 0 for name in ("public", "admin", "metrics")}
        self.settings = {
            "state_directory": self.dir / "state",
            "runtime.kind": "none",
            "store.kind": "sqlite",
            "kubernetes.kubeconfig": kubeconfig,
            "discovery.kubernetes": "on",
            **ports,
            **settings,
        }

    def __enter__(self):
        argv = [build_folder() / "shardherd", "manager"]
        for key, value in self.settings.items():
            argv += ["--set", f"{key}={value}"]
        self.out = self.log.open("wb")
        self.process = subprocess.Popen(argv, stdout=self.out, stderr=self.out)
        try:
            self.wait_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            self.out.close()
            raise
        return self

    def wait_ready(self):
        file = self.dir / "state" / "manager.json"
        wait_until(lambda: self.alive() and self.ports_of(file), 20, "the manager's ports")
        wait_until(lambda: self.alive() and self.request("public", "GET", "/readyz")[0] == 200, 30, "a ready manager")

    def ports_of(self, file):
        """Not those of an earlier one in the same directory."""
        self.ports = json.loads(file.read_text()) if file.exists() else {}
        return self.ports.get("pid") == self.process.pid

    def __exit__(self, *_):
        self.process.terminate()
        try:
            code = self.process.wait(timeout=20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.out.close()
        assert code == 0, self.log.read_text()

    def alive(self):
        assert self.process.poll() is None, self.log.read_text()
        return True

    def request(self, port, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def get(self, path, port="public"):
        status, text = self.request(port, "GET", path)
        assert status == 200, text
        return json.loads(text)

    def instances(self):
        return {i["name"]: i for i in self.get("/v1/instances")["items"]}

    def applications(self):
        return {a["id"]: a for a in self.get("/v1/applications")["items"]}

    def metrics(self):
        return self.request("metrics", "GET", "/metrics")[1]

    def cli(self, *argv):
        return subprocess.run(
            [build_folder() / "shardherd", *argv, "--server", f"http://127.0.0.1:{self.ports['public']}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )


def since(moment):
    return time.monotonic() - moment
