"""The API over sockets, on a canned fleet without PostgreSQL: api_tool. Its document is checked by spectral and
schemathesis; the rest are tables of requests and the answers they must get."""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.beside

DATA = Path(__file__).parent / "data"
LOWEST, HIGHEST = -(2**63), 2**63 - 1


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)


class Server:
    """The tool, its ports, and its stdin for making things happen."""

    def __init__(self, path, directory):
        self.log = open(directory / "log", "wb")
        self.process = subprocess.Popen(
            [str(path), str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.ports = json.loads(self.process.stdout.readline())

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ok\n"

    def ask(self, method, path, body=None, port="admin", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = Answer(response, response.read())
        connection.close()
        return answer

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def raw(self, data, port="admin"):
        """Everything the server says to these bytes until it closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.ports[port]), timeout=10) as peer:
            peer.settimeout(2)
            got = b""
            try:
                peer.sendall(data)
                while piece := peer.recv(65536):
                    got += piece
            except (TimeoutError, ConnectionResetError, BrokenPipeError):
                pass
            return got

    def stop(self):
        """It must end with every handle closed."""
        if self.process.poll() is None:
            self.process.stdin.write("quit\n")
            self.process.stdin.flush()
        code = self.process.wait(20)
        self.log.close()
        return code


@pytest.fixture
def api(tool, tmp_path):
    server = Server(tool("api_tool"), tmp_path)
    yield server
    log = (tmp_path / "log").read_text(errors="replace")
    assert server.stop() == 0, log[-3000:]


class Stream:
    """A follower of server-sent events, on a thread of its own."""

    def __init__(self, server, path, port="public", **headers):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.ports[port], timeout=20)
        self.connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        self.socket = self.connection.sock  # http.client lets go of it once the answer has begun
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.headers["Content-Type"] == "text/event-stream"
        self.events = []
        self.ended = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        event = {}
        try:
            for line in self.response:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = event[name] + "\n" + value if name in event else value
                elif "event" in event:
                    with self.changed:
                        self.events.append((event["event"], json.loads(event["data"]), event["id"], time.monotonic()))
                        self.changed.notify_all()
                    event = {}
                else:
                    event = {}
        except (OSError, ValueError, AttributeError):
            pass
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, condition, timeout=10):
        with self.changed:
            assert self.changed.wait_for(condition, timeout), self.events

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.connection.close()


def problem(answer, status, code=None):
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json
    assert document["status"] == status
    assert document["type"].endswith("/" + document["code"])
    assert code is None or document["code"] == code, document
    return document


# ---- the document ----


def test_spectral_finds_nothing(repo):
    program = repo / "build/npm/node_modules/.bin/spectral"
    program = str(program) if program.exists() else shutil.which("spectral")
    if program is None:
        pytest.skip("no spectral (optional: scripts/install-deps)")
    done = subprocess.run(
        [program, "lint", "--fail-severity=hint", "-r", DATA / "spectral.yaml", repo / "src/api/openapi.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_schemathesis_finds_nothing(api, tmp_path):
    program = Path(sys.executable).parent / "schemathesis"
    if not program.exists():
        pytest.skip("no schemathesis (scripts/install-deps)")
    served = api.get("/openapi.json")
    assert served.json["openapi"] == "3.1.0"
    (tmp_path / "openapi.json").write_bytes(served.body)
    done = subprocess.run(
        [program, "--config-file", DATA / "schemathesis.toml", "run", "-u", f"http://127.0.0.1:{api.ports['admin']}"]
        + ["--exclude-path-regex", "events$", "-n", "15", "--phases", "examples,coverage,fuzzing"]
        + ["--continue-on-failure", "--generation-deterministic", "--warnings", "off", tmp_path / "openapi.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]


# ---- reading ----


def test_readers_on_both_ports(api):
    for port in ("public", "admin"):
        assert [d["name"] for d in api.get("/v1/databases", port=port).json["items"]] == ["docs", "fresh", "shop"]
        shard = api.get("/v1/databases/shop/shards/s1", port=port).json
        assert shard["ranges"] == [{"lo": str(LOWEST), "hi": "-1"}]
        assert shard["share"] == 0.5
        assert shard["load"]["last"]["query_rate"] == 1029
        assert shard["load"]["mean_10s"]["query_rate"] == pytest.approx(1025, abs=2)
        assert shard["load"]["probe_ms"]["count"] == "30"
        assert shard["load"]["query_age_ms"]["p99"] is None
        assert shard["balancer"]["refusal"]["rule_name"] == "popular-key"
        assert shard["last_decision"]["number"] == "4"
        assert api.get("/version", port=port).json["version"] == "0.0.0-test"
    idle = api.get("/v1/databases/shop/shards/s2").json
    assert idle["load"]["last"] is None and idle["balancer"] is None
    pending = api.get("/v1/databases/fresh").json
    assert pending["status"] == "pending" and pending["epoch"] is None
    problem(api.get("/v1/databases/fresh/routing"), 404, "not_provisioned")


def test_figures_of_the_process(api):
    loop = api.get("/debug/loop").json
    assert int(loop["turns"]) > 0
    assert int(loop["turn_us"]["p50"]) <= int(loop["turn_us"]["p99"]) <= int(loop["turn_us"]["max"])
    assert 0 < int(loop["process"]["rss_bytes"]) <= 1.2 * int(loop["process"]["rss_max_bytes"])
    assert loop["process"]["cpu_seconds"] > 0


def test_ready_and_live(api):
    for port in ("public", "admin", "metrics"):
        assert api.get("/livez", port=port).body == b"ok\n"
        assert api.get("/readyz", port=port).body == b"ok\n"
        listed = api.get("/readyz?verbose", port=port)
        assert listed.body == b"[+]store ok\n[+]leader ok: term 1\nreadyz check passed\n"
    api.tell("unready")
    document = problem(api.get("/readyz", port="metrics"), 503, "not_ready")
    assert "another manager leads" in document["detail"]
    listed = api.get("/readyz?verbose", port="metrics")
    assert listed.status == 503
    assert listed.body == b"[+]store ok\n[-]leader failed: another manager leads\nreadyz check failed\n"
    assert api.get("/livez", port="metrics").status == 200
    assert api.get("/metrics", port="metrics").body == b"shardherd_up 1\n"
    problem(api.get("/metrics"), 404)
    problem(api.get("/v1/databases", port="metrics"), 404)


def test_routing_etag(api):
    first = api.get("/v1/databases/shop/routing", port="public")
    assert first.status == 200 and first.headers["ETag"] == '"1"'
    for tag in ('"1"', 'W/"1"', '"9", "1"', "*"):
        again = api.get("/v1/databases/shop/routing", port="public", If_None_Match=tag)
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", '"1"')
    for tag in ('"2"', "1", '"11"', '""'):
        assert api.get("/v1/databases/shop/routing", If_None_Match=tag).status == 200
    api.tell("move")
    changed = api.get("/v1/databases/shop/routing", port="public", If_None_Match='"1"')
    assert changed.status == 200 and changed.json["epoch"] == "2" and changed.headers["ETag"] == '"2"'


def test_route_of_a_key(api):
    table = api.get("/v1/databases/shop/routing").json
    for key in ("0", "5", "-1", str(LOWEST), str(HIGHEST)):
        place = api.get(f"/v1/databases/shop/route?key={key}").json
        owner = next(s for s in table["shards"] if s["name"] == place["shard"])
        assert any(int(r["lo"]) <= int(place["hash"]) <= int(r["hi"]) for r in owner["ranges"])
        assert place["primary"] == owner["primary"] and place["epoch"] == table["epoch"]
    same = [api.get(f"/v1/databases/docs/route?key=%C3%A9+a{t}").json["hash"] for t in ("", "&table=orders")]
    assert same[0] == same[1]
    problem(api.get("/v1/databases/shop/route"), 400)
    problem(api.get("/v1/databases/shop/route?key=five"), 400)
    problem(api.get(f"/v1/databases/shop/route?key={HIGHEST + 1}"), 400)
    problem(api.get("/v1/databases/shop/route?key=5&table=nope"), 404)


def test_pages_of_operations(api):
    seen, path = [], "/v1/operations?limit=3"
    while path:
        page = api.get(path).json
        assert page["items"] and len(seen) < 20
        seen += [op["id"] for op in page["items"]]
        path = f"/v1/operations?limit=3&cursor={page['next']}" if page["next"] else None
    assert seen == [f"splt{i:07}" for i in (6, 5, 4, 3, 2, 1, 0)]
    assert [op["id"] for op in api.get("/v1/operations?status=undone").json["items"]] == ["splt0000003"]
    assert len(api.get("/v1/operations?database=docs").json["items"]) == 3
    refused = api.get("/v1/operations/splt0000003").json
    assert refused["state"] == "refused"
    assert refused["findings"] == [{"subject": "public.orders", "finding": "no key", "remedy": "add one"}]
    assert "findings" not in refused["record"]


def test_pages_of_decisions(api):
    seen, path = [], "/v1/decisions?limit=2"
    while path:
        page = api.get(path).json
        assert page["items"] and len(seen) < 20
        seen += [d["number"] for d in page["items"]]
        api.tell("decide")  # new ones do not shift the pages
        path = f"/v1/decisions?limit=2&cursor={page['next']}" if page["next"] else None
    assert seen == ["5", "4", "3", "2", "1"]
    assert {d["shard"] for d in api.get("/v1/decisions?database=shop&shard=s2").json["items"]} == {"s2"}
    assert api.get("/v1/decisions?database=docs").json == {"items": [], "next": None}


def test_pages_by_name(api):
    first = api.get("/v1/instances?limit=2").json
    rest = api.get(f"/v1/instances?limit=2&cursor={first['next']}").json
    names = [i["name"] for i in first["items"] + rest["items"]]
    assert names == ["docs-s1-0", "shop-s1-0", "shop-s2-0"] and rest["next"] is None
    problem(api.get(f"/v1/databases?cursor={first['next']}"), 400)  # of another list


# ---- refusals ----

READ_REFUSALS = [
    ("GET", "/", 404, "not_found"),
    ("GET", "/v1", 404, "not_found"),
    ("GET", "/v1/databases/", 404, "not_found"),
    ("GET", "/v1/databases/nope", 404, "not_found"),
    ("GET", "/v1/databases/" + "x" * 300, 404, "not_found"),
    ("GET", "/v1/databases/shop/shards/s9", 404, "not_found"),
    ("GET", "/v1/instances/nope", 404, "not_found"),
    ("GET", "/v1/operations/nope", 404, "not_found"),
    ("GET", "/v1/databases?limt=5", 400, "unknown_parameter"),
    ("GET", "/v1/databases?limit=0", 400, "invalid"),
    ("GET", "/v1/databases?limit=201", 400, "invalid"),
    ("GET", "/v1/databases?limit=5&limit=6", 400, "invalid"),
    ("GET", "/v1/databases?limit=%zz", 400, "invalid"),
    ("GET", "/v1/databases?cursor=xyz", 400, "invalid"),
    ("GET", "/v1/databases?cursor=" + "ab" * 5000, 400, "invalid"),
    ("GET", "/v1/operations?status=gone", 400, "invalid"),
    ("GET", "/v1/operations?database=a%00b", 400, "invalid"),
    ("GET", "/readyz?verbose=maybe", 400, "invalid"),
    ("PATCH", "/v1/databases/shop", 405, "method_not_allowed"),
    ("OPTIONS", "/v1/databases", 405, "method_not_allowed"),
    ("POST", "/v1/databases/shop/routing", 405, "method_not_allowed"),
    ("GET", "/v1/operations/splt0000003/cancel", 405, "method_not_allowed"),
    ("POST", "/v1/operations/nope/cancel", 404, "not_found"),
    ("POST", "/v1/operations/splt0000003/cancel", 409, "conflict"),
    ("POST", "/v1/operations/nope/resume", 404, "not_found"),
    ("POST", "/v1/operations/splt0000003/resume", 409, "conflict"),
    ("POST", "/v1/databases/nope/migrations", 404, "not_found"),
    ("POST", "/v1/databases/shop/migrations", 400, "invalid"),
    ("POST", "/v1/databases/shop/migrations?attempts=0", 400, "invalid"),
    ("POST", "/v1/databases/shop/migrations?lockTimeout=2", 400, "invalid"),
    ("DELETE", "/v1/databases/nope", 404, "not_found"),
]


def test_refusals(api):
    for method, path, status, code in READ_REFUSALS:
        problem(api.ask(method, path), status, code)


def test_allow(api):
    assert api.ask("PATCH", "/v1/databases/shop").headers["Allow"] == "GET, HEAD, PUT, DELETE"
    assert api.ask("GET", "/v1/operations/splt0000003/cancel").headers["Allow"] == "POST"
    head = api.ask("HEAD", "/v1/databases/shop")
    assert (head.status, head.body) == (200, b"") and int(head.headers["Content-Length"]) > 100


def test_the_public_port_only_reads(api):
    for method, path, allow in (
        ("PUT", "/v1/databases/shop", "GET, HEAD"),
        ("DELETE", "/v1/databases/shop", "GET, HEAD"),
        ("POST", "/v1/databases/shop/operations", ""),
        ("POST", "/v1/operations/splt0000003/cancel", ""),
    ):
        answer = api.ask(method, path, "{}", port="public")
        document = problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allow
        assert "admin port" in document["detail"]
    assert api.get("/v1/databases").json == api.get("/v1/databases", port="public").json


@pytest.mark.parametrize(
    "path",
    ["/v1/../v1/databases", "/v1/databases/..%2f..%2fetc", "/%2e%2e/etc/passwd", "/v1/databases/%00"],
)
def test_path_traversal(api, path):
    answer = api.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.split(b" ")[1] in (b"400", b"404"), answer


def test_garbage_and_size(api):
    for garbage in (b"\x00\xff\x16\x03\x01", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 50, b"PUT\r\n\r\n", b"A" * 70000):
        answer = api.raw(garbage + b"\r\n\r\n")
        assert answer == b"" or answer.split(b" ")[1][:1] == b"4" or answer.split(b" ")[1] == b"505", answer[:200]
    large = b"PUT /v1/databases/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    assert api.raw(large).split(b" ")[1] == b"413"
    problem(api.ask("POST", "/v1/databases/shop/operations", {"kind": "split", "shard": "x" * 20000}), 413)
    assert api.get("/livez").status == 200


def test_rebinding_and_origins(api):
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8081", "127.9.9.9", "[::1]:80"):
        assert api.get("/version", Host=host).status == 200
    for host in (
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "127.0.0.1.evil.example",
        "[::2]",
        "localhost:x",
    ):
        problem(api.get("/version", Host=host), 421, "host_not_allowed")
        assert api.get("/version", Host=host, port="public").status == 200
    problem(api.ask("POST", "/v1/operations/nope/cancel", Origin="http://localhost"), 403, "origin_not_allowed")
    problem(api.ask("DELETE", "/v1/databases/shop", Origin="null"), 403, "origin_not_allowed")
    assert api.get("/version", Origin="http://localhost").status == 200


# ---- changing ----

SPEC = "kind: ShardedDatabase\n"


def test_apply_and_delete(api):
    tried = api.ask("PUT", "/v1/databases/new?dryRun=true", SPEC)
    assert tried.json == {"name": "new", "dry_run": True, "would_create": True}
    problem(api.get("/v1/databases/new"), 404)
    made = api.ask("PUT", "/v1/databases/new", SPEC, Content_Type="application/yaml; charset=utf-8")
    assert made.status == 202 and made.json["kind"] == "provision"
    assert made.headers["Location"] == "/v1/operations/" + made.json["id"]
    assert api.get(made.headers["Location"]).json["database"] == "new"
    changed = api.ask("PUT", "/v1/databases/shop", SPEC)
    assert changed.status == 200 and changed.json["revision"] == "8"
    problem(api.ask("PUT", "/v1/databases/shop", SPEC + "immutable"), 409, "conflict")
    problem(api.ask("PUT", "/v1/databases/shop", ""), 400)
    problem(api.ask("PUT", "/v1/databases/shop", "kind: Else"), 400)
    problem(api.ask("PUT", "/v1/databases/No_Name", SPEC), 400)
    problem(api.ask("PUT", "/v1/databases/shop", SPEC, Content_Type="image/png"), 415)
    problem(api.ask("PUT", "/v1/databases/shop?dryRun=perhaps", SPEC), 400)


def test_preconditions(api):
    tag = api.get("/v1/databases/shop").headers["ETag"]
    assert api.ask("PUT", "/v1/databases/shop", SPEC, If_Match=tag).status == 200
    problem(api.ask("PUT", "/v1/databases/shop", SPEC, If_Match=tag), 412, "precondition_failed")
    problem(api.ask("PUT", "/v1/databases/shop", SPEC, If_None_Match="*"), 412, "precondition_failed")
    problem(api.ask("PUT", "/v1/databases/other", SPEC, If_Match="*"), 412, "precondition_failed")
    problem(api.ask("DELETE", "/v1/databases/shop", If_Match='"1"'), 412, "precondition_failed")
    assert api.get("/v1/databases/shop").headers["ETag"] == '"8"'


BODY_REFUSALS = [
    ("", 400, "line 1"),
    ("{", 400, "line 1, column"),
    ('{\n "kind": ]}', 400, "line 2, column 10"),
    ("[]", 400, "object"),
    ("{}", 400, '"kind" is missing'),
    ('{"kind":"split"}', 400, '"shard" is missing'),
    ('{"kind":"split","shard":"s1","frobnicate":1}', 400, '"frobnicate"'),
    ('{"kind":"split","shard":"s1","shard":"s1"}', 400, "twice"),
    ('{"kind":"split","shard":"s1\\u0000"}', 400, "NUL"),
    ('{"kind":"split","shard":"' + "s" * 64 + '"}', 400, "longer"),
    ('{"kind":"split","shard":1}', 400, "string"),
    ('{"kind":"split","shard":"s1","at":5}', 400, "in quotes"),
    ('{"kind":"split","shard":"s1","at":"9223372036854775808"}', 400, "64-bit"),
    ('{"kind":"split","shard":"s1","dryRun":"yes"}', 400, "true or false"),
    ('{"kind":"split","shard":"s1","bake":"soon"}', 400, "duration"),
    ('{"kind":"cleave","shard":"s1"}', 400, "split, move, merge"),
    ('{"kind":"split","shard":"s1","at":"-5","key":"1"}', 400, "either"),
    ('{"kind":"split","shard":"s1","table":"orders"}', 400, "key"),
    ('{"kind":"merge","shard":"s1","lo":"-5"}', 400, "merge"),
    ('{"kind":"isolate","shard":"s1"}', 400, "isolation"),
    ('{"kind":"rebalance","shard":"s1"}', 400, "target"),
    ('{"kind":"split","shard":"s1","lo":"-1","hi":"-5"}', 400, "above"),
    ('{"kind":"split","shard":"s1","key":"five"}', 400, "bigint"),
    ('{"kind":"split","shard":"s1","target":"s1"}', 400, "same"),
    ('{"kind":"split","shard":"s9"}', 422, "no shard"),
    ('{"kind":"move","shard":"s1","target":"s9"}', 422, "no shard"),
    ('{"kind":"split","shard":"s1","key":"1","table":"nope"}', 422, "no distributed table"),
    ('{"kind":"split","shard":"s1","at":"5"}', 422, "does not own"),
    ('{"kind":"split","shard":"s1","lo":"-5","hi":"5"}', 422, "does not own"),
    ('{"kind":"split","shard":"s1","at":"-9223372036854775808"}', 422, "nothing would stay"),
]


def test_bodies_refused(api):
    for body, status, words in BODY_REFUSALS:
        answer = api.ask("POST", "/v1/databases/shop/operations", body, Content_Type="application/json")
        assert words in problem(answer, status)["detail"], (body, answer.body)
    problem(api.ask("POST", "/v1/databases/docs/operations", {"kind": "merge", "shard": "s1"}), 422)
    problem(api.ask("POST", "/v1/databases/nope/operations", {"kind": "split", "shard": "s1"}), 404)
    problem(api.ask("POST", "/v1/databases/shop/operations", "{}", Content_Type="text/plain"), 415)
    assert api.get("/v1/operations?status=running").json["items"] == []


def test_start_and_cancel(api):
    made = api.ask("POST", "/v1/databases/shop/operations", {"kind": "split", "shard": "s1", "bake": "5s"})
    assert made.status == 202, made.body
    op = made.json
    assert (op["kind"], op["status"], op["shard"], op["target"]) == ("split", "running", "s1", "s3")
    assert (op["record"]["lo"], op["record"]["hi"]) == (str(LOWEST // 2), "-1")
    assert op["record"]["bake_ns"] == "5000000000"
    assert api.get("/v1/databases/shop/shards/s1").json["operation"] == op["id"]
    busy = api.ask("POST", "/v1/databases/shop/operations", {"kind": "merge", "shard": "s1", "target": "s2"})
    assert op["id"] in problem(busy, 409, "conflict")["detail"]
    cancel = api.ask("POST", f"/v1/operations/{op['id']}/cancel")
    assert cancel.status == 202 and cancel.json["record"]["canceled"] is True


def test_idempotency_key(api):
    body = {"kind": "split", "shard": "s2", "target": "s1"}
    first = api.ask("POST", "/v1/databases/shop/operations", body, Idempotency_Key="k1")
    again = api.ask("POST", "/v1/databases/shop/operations", body, Idempotency_Key="k1")
    assert (first.status, again.status) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert first.headers["Location"] == again.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true" and "Idempotent-Replayed" not in first.headers
    other = {**body, "dryRun": True}
    problem(api.ask("POST", "/v1/databases/shop/operations", other, Idempotency_Key="k1"), 422, "key_reused")
    problem(api.ask("POST", "/v1/databases/docs/operations", body, Idempotency_Key="k1"), 422, "key_reused")
    problem(api.ask("POST", "/v1/databases/shop/operations", body, Idempotency_Key="k2"), 409, "conflict")
    problem(api.ask("POST", "/v1/databases/shop/operations", body, Idempotency_Key="x" * 129), 400)
    assert len(api.get("/v1/operations?status=running").json["items"]) == 1


# ---- streams ----


def test_routing_stream_resumes(api):
    path = "/v1/databases/shop/routing/events"
    stream = Stream(api, path)
    stream.wait(lambda: len(stream.events) == 1)
    event, document, _, _ = stream.events[0]
    assert event == "routing" and document == api.get("/v1/databases/shop/routing").json
    api.tell("move")
    stream.wait(lambda: len(stream.events) == 2)
    event, document, last, _ = stream.events[1]
    assert (event, document["epoch"]) == ("routing", "2")
    stream.close()
    api.tell("move")
    api.tell("move")
    stream = Stream(api, path, Last_Event_ID=last)
    stream.wait(lambda: len(stream.events) == 2)
    assert [e[1]["epoch"] for e in stream.events] == ["3", "4"]
    stream.close()
    fresh = Stream(api, path, Last_Event_ID="strange")  # of another process: a snapshot
    fresh.wait(lambda: len(fresh.events) == 1)
    assert fresh.events[0][1]["epoch"] == "4"
    fresh.close()


def test_routing_stream_ends_with_its_database(api):
    stream = Stream(api, "/v1/databases/docs/routing/events")
    stream.wait(lambda: len(stream.events) == 1)
    api.tell("remove")
    stream.wait(lambda: stream.ended)
    assert stream.events[-1][:2] == ("removed", {"database": "docs"})
    stream.close()
    problem(api.get("/v1/databases/docs/routing/events"), 404)


def test_stream_of_everything(api):
    stream = Stream(api, "/v1/events")
    stream.wait(lambda: len(stream.events) == 1)
    assert stream.events[0][0] == "snapshot"
    assert {"database": "shop", "epoch": "1"} in stream.events[0][1]["databases"]
    for line in ("move", "decide", "instance", "remove"):
        api.tell(line)
    stream.wait(lambda: len(stream.events) == 5)
    assert [e[0] for e in stream.events[1:]] == ["routing", "decision", "instance", "removed"]
    assert stream.events[1][1] == {"database": "shop", "epoch": "2"}
    assert stream.events[2][1]["number"] == "6"
    assert stream.events[3][1]["name"] == "shop-s1-0"
    stream.close()


def test_progress_is_thinned_out(api):
    stream = Stream(api, "/v1/events")
    made = api.ask("POST", "/v1/databases/shop/operations", {"kind": "split", "shard": "s1"}).json
    mine = lambda: [e for e in stream.events if e[0] == "operation" and e[1]["id"] == made["id"]]  # noqa: E731
    stream.wait(lambda: mine() and mine()[-1][1]["state"] == "check")
    before, begin = len(mine()), time.monotonic()
    while time.monotonic() - begin < 1.5:
        api.tell("progress 50")
    took = time.monotonic() - begin
    assert 4 <= len(mine()) - before <= 5 * took + 3
    stream.close()
