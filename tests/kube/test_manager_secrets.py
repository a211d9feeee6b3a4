"""What the manager asks the API server, by the audit log: Secrets once and when they must be; one watch of pods."""

import base64
import json
import time

import pytest
from kube import needs_root
from manager_rig import ManagerCluster
from test_manager import QUICK, make

pytestmark = [
    needs_root,
    pytest.mark.slow,
]
SHARDS = 4
OF_A_SHARD, OF_A_DATABASE = 2, 4  # credentials, tls; owner, ca, client, manager
USER = "system:serviceaccount:default:shardherd-manager"
SECRET = "/api/v1/namespaces/default/secrets/shop-s1-credentials"


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return tmp_path_factory.mktemp("audit") / "log"


@pytest.fixture(scope="module")
def rig(tmp_path_factory, audit):
    policy = audit.with_name("policy.yaml")
    policy.write_text(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n"
        f"  - {{level: Metadata, users: ['{USER}'], resources: [{{resources: [secrets]}}]}}\n"
        f"  - {{level: Metadata, users: ['{USER}'], verbs: [watch], resources: [{{resources: [pods]}}]}}\n"
        "  - {level: None}\n"
    )
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={audit}"]
    with ManagerCluster(tmp_path_factory.mktemp("secrets"), nodes=2, variables=QUICK, api_flags=flags) as rig:
        make(rig, shards=SHARDS, balance={"split": "off", "merge": "off"})
        yield rig


def requests(audit, verb, since=0):
    """(name, code) of each."""
    events = [json.loads(line) for line in audit.read_text().splitlines()[since:]]
    return [(e["objectRef"].get("name"), e["responseStatus"]["code"]) for e in events if e["verb"] == verb]


def psql(rig, password, sql):
    target = "host=127.0.0.1 user=shardherd dbname=shop sslmode=require"
    done = rig.exec("shop-s1-0", "env", f"PGPASSWORD={password}", "psql", "-XAtq", target, "-c", sql)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_is_made_once(rig, audit):
    made = [code for _, code in requests(audit, "create")]
    assert made == [201] * (SHARDS * OF_A_SHARD + OF_A_DATABASE)


def test_pods_that_are_waited_for_share_a_watch(audit):
    """Each watch is a connection with its buffers; one for each shard made the heap grow, and it kept the holes."""
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    watches = [e["requestURI"] for e in events if e["verb"] == "watch" and e["stage"] == "ResponseStarted"]
    of_all = [uri for uri in watches if "labelSelector=shardherd.io%2Fdatabase%2Cshardherd.io%2Fshard" in uri]
    assert 1 <= len(of_all) <= 2, watches  # it ends when nobody has waited for half a minute
    assert not [uri for uri in watches if "shard%3Ds" in uri], watches


def test_a_silent_server_is_no_reason_to_read_them_again(rig, audit):
    time.sleep(10)  # the first lists
    since = len(audit.read_text().splitlines())
    rig.pod("shop-s2-0", "cut")
    try:
        rig.wait(lambda: "instance=shop-s2-0 db=shop shard=s2 health=down" in rig.manager_logs(), 30, "it is seen")
        time.sleep(12)  # of looks at what there is
        read = requests(audit, "get", since)
    finally:
        rig.pod("shop-s2-0", "restore")
    rig.wait_database(shards=SHARDS)
    assert read == []


def test_a_refusal_is(rig, audit):
    """The password was changed, in its Secret and in the server, and nobody has told the manager."""
    secret = rig.must("GET", SECRET)
    before = base64.b64decode(secret["data"]["password"]).decode()
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardherd poll'"
    assert psql(rig, before, count) == "1"
    since = len(audit.read_text().splitlines())
    rig.patch(SECRET, {"data": {"password": base64.b64encode(b"another").decode()}})
    psql(
        rig,
        before,
        "ALTER ROLE shardherd PASSWORD 'another'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'shardherd poll'",
    )
    rig.wait(lambda: psql(rig, "another", count) == "1", 60, "the manager polls with the new password")
    assert ("shop-s1-credentials", 200) in requests(audit, "get", since)
