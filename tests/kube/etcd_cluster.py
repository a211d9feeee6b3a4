"""Real etcd members on loopback, and a proxy that misbehaves between them and a client."""

import base64
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from control_plane import Part, build_programs, free_port


def b64(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


class EtcdError(Exception):
    """An answer that is no 200."""


class EtcdCluster:
    """`size` members in `directory`; `with` starts and ends them."""

    def __init__(self, directory, size=1, flags=()):
        self.dir = Path(directory)
        self.flags = list(flags)
        self.client_ports = [free_port() for _ in range(size)]
        self.peer_ports = [free_port() for _ in range(size)]
        self.members = []

    def __enter__(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        etcd = build_programs(("etcd",)) / "etcd"
        initial = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(self.peer_ports))
        for i, (client, peer) in enumerate(zip(self.client_ports, self.peer_ports, strict=True)):
            argv = [
                etcd,
                f"--name=m{i}",
                f"--data-dir={self.dir / f'm{i}'}",
                f"--listen-client-urls=http://127.0.0.1:{client}",
                f"--advertise-client-urls=http://127.0.0.1:{client}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster={initial}",
                f"--initial-cluster-token={self.dir.name}",
                "--log-level=warn",
                *self.flags,
            ]
            self.members.append(Part(f"etcd m{i}", argv, self.dir / f"m{i}.log"))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)
            member.kill()

    def start(self):
        """Starts the members that do not run; returns when all answer."""
        for member in self.members:
            if member.process is None or member.process.poll() is not None:
                member.start()
        for i in range(len(self.members)):
            self.wait_ready(i)

    def wait_ready(self, i, timeout=60):
        deadline = time.monotonic() + timeout
        while True:
            if self.members[i].process.poll() is not None:
                raise RuntimeError(f"{self.members[i].name} ended:\n{self.members[i].tail()}")
            try:
                with urllib.request.urlopen(f"{self.url(i)}/health", timeout=2) as answer:
                    if json.load(answer).get("health") == "true":
                        return
            except (OSError, ValueError):
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.members[i].name} is not ready:\n{self.members[i].tail()}")
            time.sleep(0.05)

    # ---- the API, as an administrator ----

    def url(self, i=0):
        return f"http://127.0.0.1:{self.client_ports[i]}"

    def urls(self):
        return ",".join(self.url(i) for i in range(len(self.members)))

    def request(self, path, body, i=0, token=None, timeout=20):
        request = urllib.request.Request(self.url(i) + path, data=json.dumps(body).encode(), method="POST")
        if token:
            request.add_header("Authorization", token)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise EtcdError(f"{path}: {error.code} {error.read().decode(errors='replace')}") from error

    def keys(self, prefix, i=0, token=None):
        """{key: kv} of all keys that begin with the prefix (bytes or text)."""
        raw = prefix if isinstance(prefix, bytes) else prefix.encode()
        everything = self.request("/v3/kv/range", {"key": b64(b"\0"), "range_end": b64(b"\0")}, i, token)
        found = {}
        for kv in everything.get("kvs", []):
            key = base64.b64decode(kv["key"])
            if key.startswith(raw):
                found[key] = {**kv, "value": base64.b64decode(kv.get("value", ""))}
        return found

    def put(self, key, value, i=0, token=None):
        return int(self.request("/v3/kv/put", {"key": b64(key), "value": b64(value)}, i, token)["header"]["revision"])

    def delete(self, key, i=0):
        return self.request("/v3/kv/deleterange", {"key": b64(key)}, i)

    def revision(self, i=0):
        return int(self.request("/v3/kv/range", {"key": b64("none")}, i)["header"]["revision"])

    def compact(self, i=0):
        self.request("/v3/kv/compaction", {"revision": str(self.revision(i)), "physical": True}, i)

    def leader(self, timeout=20):
        """The number of the member that leads."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for i in range(len(self.members)):
                try:
                    status = self.request("/v3/maintenance/status", {}, i, timeout=3)
                except (OSError, EtcdError):
                    continue
                if status.get("leader") == status["header"]["member_id"]:
                    return i
            time.sleep(0.05)
        raise RuntimeError("no member leads")

    def enable_auth(self, user="root", password="secret"):
        self.request("/v3/auth/user/add", {"name": user, "password": password})
        self.request("/v3/auth/role/add", {"name": "root"})
        self.request("/v3/auth/user/grant", {"user": user, "role": "root"})
        self.request("/v3/auth/enable", {})

    def token(self, user="root", password="secret"):
        return self.request("/v3/auth/authenticate", {"name": user, "password": password})["token"]


class Proxy:
    """A TCP proxy to one member. `mode` is asked per connection and per piece of bytes:
    pass; refuse (connections end at once); silent (nothing is passed on, either way); deaf (requests go through,
    answers do not: the outcome is unknown); rude (a request that `rude_if` holds for ends the connection)."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.mode = "pass"
        self.rude_if = lambda _data: False
        self.requests = []  # first line and body of what came
        self.rude_count = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = set()
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            with self.lock:
                self.open.update((client, server))
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pump, args=(source, sink, up), daemon=True).start()

    def pump(self, source, sink, up):
        try:
            while data := source.recv(1 << 20):
                if up:
                    self.requests.append(data)
                    if self.mode == "rude" and self.rude_if(data):
                        self.rude_count += 1
                        break
                if self.mode == "silent" or (self.mode == "deaf" and not up):
                    continue
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def count(self, part):
        return sum(part in data for data in list(self.requests))

    def cut(self):
        """Ends the connections that are open."""
        with self.lock:
            ends, self.open = self.open, set()
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
        self.cut()
