"""What runs out is renewed in time by a manager that nobody asks, and what does not is left in peace."""

import base64
import json
import time

import pytest
from kube import needs_root
from manager_rig import DATABASES, NAME, ManagerCluster, database
from test_manager import QUICK, Load, ended, make, remove, start

pytestmark = [
    needs_root,
    pytest.mark.slow,
]
CALM = {"balance": {"split": "off", "merge": "off"}, "deletionPolicy": "delete"}
FILES = ("--sslmode", "verify-full", "--sslrootcert", "/certificate/ca.crt", "--sslcert", "/certificate/tls.crt")
MINE = (*FILES, "--sslkey", "/certificate/tls.key")
AUDIT = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, users: ["system:serviceaccount:default:shardherd-manager"]}
  - {level: None}
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("renewal")
    folder.mkdir(exist_ok=True)
    (folder / "audit.yaml").write_text(AUDIT)
    flags = [f"--audit-policy-file={folder}/audit.yaml", f"--audit-log-path={folder}/audit.log"]
    rig = ManagerCluster(folder / "cluster", nodes=2, variables=QUICK, api_flags=flags)
    rig.audit = folder / "audit.log"
    with rig:
        yield rig


def secret(rig, name):
    found = rig.get("Secret", name) or {"data": {}}
    return {key: base64.b64decode(value).decode().strip() for key, value in found.get("data", {}).items()}


def crash(rig):
    """The manager is killed where it is; its container is started again."""
    rig.crash(rig.managers()[0]["metadata"]["name"])


class Prober:
    """Connects to each shard as an application with the files of its Secret as they are now."""

    def __init__(self, rig, pod):
        self.rig, self.pod, self.good = rig, pod, 0

    def __call__(self):
        for shard in [s["name"] for s in self.rig.database()["status"]["routing"]["shards"]]:
            address = (
                f"host=shop-{shard}.default.svc user=app dbname=shop sslmode=verify-full connect_timeout=5 "
                "sslrootcert=/certificate/ca.crt sslcert=/certificate/tls.crt sslkey=/certificate/tls.key"
            )
            script = 'PGPASSWORD="$SHARDHERD_LOAD_PASSWORD" exec psql -XAtq "$0" -c "SELECT 1"'
            done = self.rig.exec(self.pod, "sh", "-c", script, address)
            assert done.stdout.strip() == "1", f"{shard}: {done.stderr}\n{self.rig.manager_logs()}"
            self.good += 1


@pytest.mark.timeout(700)
def test_the_authority_is_renewed_under_load(rig):
    """tls.mode mutual, an authority of four minutes: its successor is made known, takes over and stays alone, with the
    manager killed at each step. Every new connection gets in all the time, no write is lost, a shard is split in
    between."""
    make(rig, tls={"mode": "mutual", "authorityLifetime": "240s"}, **CALM)
    client = rig.client_pod(certificate="shop-client")
    done = rig.load(client, "init", *MINE)
    assert done.returncode == 0, done.stdout + done.stderr
    first = secret(rig, "shop-ca")["ca.crt"]
    load = Load(rig, 260, "--clients", "2", "--rate", "50", "--no-check", *MINE)
    probe, deadline, seen = Prober(rig, client), time.monotonic() + 280, []

    def until(step, condition):
        while not condition(secret(rig, "shop-ca")):
            assert time.monotonic() < deadline, f"{step}: {seen}\n{rig.manager_logs()}"
            probe()
            time.sleep(0.5)
        crash(rig)
        seen.append(step)

    until("next", lambda s: "next.crt" in s)
    then = secret(rig, "shop-ca")
    assert then["ca.crt"] == first
    following = then["next.crt"]
    until("previous", lambda s: "previous.crt" in s)
    then = secret(rig, "shop-ca")
    assert then["ca.crt"] == following and then["previous.crt"] == first and "next.crt" not in then
    for name in ("shop-s1-tls", "shop-s2-tls", "shop-client", "shop-manager"):
        assert following in secret(rig, name)["ca.crt"], name
    start(rig, "amid", kind="split", shard="s1", bakeSeconds=0)
    until("alone", lambda s: "previous.crt" not in s)
    ended(rig, "amid", "Done", timeout=150)
    names = ("shop-s1-tls", "shop-s2-tls", "shop-s3-tls", "shop-client", "shop-manager")
    rig.wait(lambda: all(secret(rig, n).get("ca.crt") == following for n in names), 60, "the old one is forgotten")
    assert secret(rig, "shop-ca").keys() == {"ca.crt", "ca.key"}
    # the old authority's time is over: whatever still hung on it would fail now
    rig.wait(lambda: load.done is not None or not load.is_alive(), 300, "the load")
    report = load.result()
    assert report["acked_writes"] > 1000, report
    probe()
    done = rig.load(client, "check", *MINE)
    assert done.returncode == 0, done.stdout + done.stderr
    rig.wait_database(shards=3)
    assert probe.good > 200
    rig.delete("Pod", client)
    remove(rig)


def requests(rig, since):
    """(verb, resource, name) -> how often the manager asked, after a number of lines of the audit log."""
    found = {}
    for line in rig.audit.read_text().splitlines()[since:]:
        event = json.loads(line)
        reference = event.get("objectRef", {})
        key = (event["verb"], reference.get("resource", event["requestURI"]), reference.get("name", ""))
        found[key] = found.get(key, 0) + 1
    return found


@pytest.mark.timeout(300)
def test_a_steady_state_asks_for_nothing(rig):
    """Nothing is written and nothing read again but the lease, over several rounds of discovery and looks."""
    make(rig, **CALM)
    quiet = time.monotonic() + 20  # what follows the making: Events, the first lists
    rig.wait(lambda: time.monotonic() > quiet, 30, "twenty seconds")
    since = len(rig.audit.read_text().splitlines())
    rounds = time.monotonic() + 30  # six rounds of discovery, thirty looks
    rig.wait(lambda: time.monotonic() > rounds, 40, "thirty seconds")
    asked = requests(rig, since)
    lease = {key: n for key, n in asked.items() if key[1] == "leases"}
    assert lease, "the audit log does not show the manager"
    others = {key: n for key, n in asked.items() if key not in lease and key[0] != "watch"}
    assert others == {}, others

    # a password that somebody else changed is found all the same
    word = base64.b64encode(b"by hand, and long enough").decode()
    rig.patch(rig.path("Secret", "default", "shop-s1-credentials"), {"data": {"password": word}})
    leader = rig.leader()

    def failing(wanted):
        items = rig.public("/v1/instances")["items"]
        return any(i["shard"] == "s1" and (i["health"] != "up") == wanted for i in items)

    address = rig.get("Pod", "shop-s1-0")["status"]["podIP"]
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shardherd%'"
    rig.wait(
        lambda: rig.exec("shop-s1-0", "psql", "-XAtq", "-h", "/var/run/postgresql", "-U", "shardherd", "-d", "postgres",
                         "-c", kill).returncode == 0,
        30, f"connections ended at {address}",
    )  # fmt: skip
    rig.wait(lambda: failing(False), 60, "polled again")
    assert rig.leader()["metadata"]["name"] == leader["metadata"]["name"] and NAME in leader["metadata"]["name"]
    remove(rig)


@pytest.mark.timeout(300)
def test_what_cannot_be_made_is_told(rig):
    """A fault that is tried again for ever is in the conditions from its beginning, and asks for a person after a
    while."""
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mall-s1"},
        "spec": {"ports": [{"port": 1}], "selector": {"a": "b"}},
    }
    rig.apply(theirs)
    rig.must("POST", DATABASES, database("mall", **CALM))

    def told(which):
        return rig.condition_of(rig.database("mall"), which)

    words = "services mall-s1 of namespace default exists and does not belong to this ShardedDatabase"
    early = rig.wait(lambda: words in told("Reconciling").get("message", "") and told("Reconciling"), 30, "told")
    assert early["reason"] == "ProvisioningFailed" and "(since 20" in early["message"], early
    late = rig.wait(lambda: words in told("Stalled").get("message", "") and told("Stalled"), 60, "stalled")
    assert late["message"] == early["message"]  # since the same time
    assert not told("Reconciling")
    running = [o for o in rig.public("/v1/operations")["items"] if o["database"] == "mall"]
    assert [o["status"] for o in running] == ["running"], "it is still tried"
    version = rig.database("mall")["metadata"]["resourceVersion"]
    pause = time.monotonic() + 5
    rig.wait(lambda: time.monotonic() > pause, 10, "five seconds")
    assert rig.database("mall")["metadata"]["resourceVersion"] == version, "the same is written again and again"
    rig.delete("Service", "mall-s1")
    rig.wait_database("mall", shards=2)
    assert not told("Stalled")
    remove(rig, "mall")
