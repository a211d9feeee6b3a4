"""A StatefulSet that somebody else made, with rows in it, becomes a shard, is split, and is left as it was."""

import json

import pytest
from cluster import postgres_image
from kube import needs_root
from manager_rig import DATABASES, ManagerCluster, database, schema_of_load
from test_manager import QUICK, Load, ended, start

pytestmark = needs_root
SETS = "/apis/apps/v1/namespaces/default/statefulsets"
RUN = """
export PGDATA=/data/db
if [ ! -s $PGDATA/PG_VERSION ]; then
    printf '%s' "$BOSS_PASSWORD" > /tmp/word
    initdb --no-sync -E UTF8 --locale=C -U boss -A scram-sha-256 --pwfile=/tmp/word >/dev/null
    echo 'host all all all scram-sha-256' >> $PGDATA/pg_hba.conf
fi
exec postgres -c listen_addresses=* -c port=6543 -c unix_socket_directories=/tmp -c wal_level=$0
"""
ROWS = 3000
NOTES = "SELECT count(*) || '/' || coalesce(sum(hashtextextended(note, 7)::numeric), 0) FROM notes"


def legacy(wal_level):
    """Nothing of it is as shardherd would have it: names, labels, port, claim, directory, image, probes."""
    labels = {"app": "old", "team": "books"}
    container = {
        "name": "db",
        "image": "postgres:15",
        "command": ["sh", "-ec", RUN],
        "args": [wal_level],
        "env": [{"name": "BOSS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "old-secret", "key": "pw"}}}],
        "ports": [{"containerPort": 6543}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "/tmp", "-p", "6543"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/data"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "old", "labels": {"team": "books"}},
        "spec": {
            "serviceName": "old-headless",
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"securityContext": {"fsGroup": 999}, "containers": [container]},
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "files"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                }
            ],
        },
    }


def secret(called, **data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": called}, "stringData": data}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    rig = ManagerCluster(tmp_path_factory.mktemp("adopt"), nodes=2, variables=QUICK)
    rig.images["postgres:15"] = postgres_image()
    with rig:
        yield rig


def psql(rig, sql, user="boss", word="the boss's", dbname="shop"):
    done = rig.exec(
        "old-0", "env", f"PGPASSWORD={word}", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", "6543",
        "-U", user, "-d", dbname, "-c", sql,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def stalled(rig, words):
    """A change of the object has it tried again; returns what it then says."""
    rig.patch(f"{DATABASES}/shop", {"spec": {"annotations": {"try": str(len(words))}}})

    def look():
        found = rig.condition_of(rig.database(), "Stalled")
        return found.get("message") if words in found.get("message", "") else None

    try:
        return rig.wait(look, 60, f"stalled: {words}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{json.dumps(rig.database()['status'], indent=1)}") from None


def untouched(rig, before):
    """Nothing of ours is there, nothing of his was written."""
    assert rig.must("GET", f"{SETS}/old")["metadata"]["generation"] == before["metadata"]["generation"]
    managers = {f["manager"] for f in rig.must("GET", f"{SETS}/old")["metadata"]["managedFields"]}
    assert not any(name.startswith("shardherd") for name in managers), managers
    assert rig.belongings() == []
    assert psql(rig, "SELECT count(*) FROM pg_namespace WHERE nspname = 'shardherd'", dbname="postgres") == "0"


def fill(rig):
    psql(rig, "CREATE ROLE app LOGIN PASSWORD 'the app''s'", dbname="postgres")
    psql(rig, "CREATE DATABASE shop", dbname="postgres")
    psql(rig, "GRANT CREATE ON SCHEMA public TO app")
    psql(rig, schema_of_load(), user="app", word="the app's")
    psql(
        rig,
        "CREATE TABLE notes (customer_id bigint, note text, PRIMARY KEY (customer_id, note));"
        f"INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, {ROWS}) i",
    )
    return psql(rig, NOTES)


def annotate(rig, **more):
    names = {"secret": "old-secret", "secret-user-key": "name", "secret-password-key": "pw", "port": "6543", **more}
    annotations = {f"shardherd.io/{name.replace('_', '-')}": value for name, value in names.items()}
    rig.patch(f"{SETS}/old", {"metadata": {"annotations": annotations}})


def refusals(rig):
    """What cannot be a shard is said by name, with what to do, and nothing is changed."""
    before = rig.must("GET", f"{SETS}/old")
    text = stalled(rig, "shardherd.io/secret=SECRET")
    assert "StatefulSet old (spec.adopt.s1)" in text, text
    untouched(rig, before)
    annotate(rig, port="many")
    stalled(rig, "shardherd.io/port is no port")
    annotate(rig)
    stalled(rig, "wal_level is replica: set it to logical")
    untouched(rig, before)
    rig.apply(legacy("logical"))
    pod = rig.get("Pod", "old-0")["metadata"]["uid"]
    rig.wait(lambda: (rig.get("Pod", "old-0") or {"metadata": {"uid": pod}})["metadata"]["uid"] != pod, 60, "a new pod")
    rig.wait_ready_pods("old-0")
    before = rig.must("GET", f"{SETS}/old")
    stalled(rig, "roles that the other shards will not have: boss; give them to app")
    psql(rig, "ALTER TABLE notes OWNER TO app; ALTER SCHEMA public OWNER TO pg_database_owner")
    psql(rig, "ALTER ROLE app PASSWORD 'another'")
    stalled(rig, "as the application's role app, with the password of spec.credentials.secret")
    psql(rig, "ALTER ROLE app PASSWORD 'the app''s'")
    untouched(rig, before)
    rig.patch(f"{DATABASES}/shop", {"spec": {"instances": 3}})
    text = stalled(rig, "old (spec.adopt.s1) is not shardherd's own")
    assert "Set spec.instances to 1, and to 3 when the database is Ready" in text, text
    untouched(rig, before)
    rig.patch(f"{DATABASES}/shop", {"spec": {"instances": 1}})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_somebody_elses_server_becomes_a_shard(rig):
    rig.apply(secret("old-secret", name="boss", pw="the boss's"), secret("old-app", password="the app's"))
    rig.apply(legacy("replica"))
    rig.wait_ready_pods("old-0")
    notes = fill(rig)
    tables = [{"name": name, "key": "customer_id"} for name in ("customers", "orders", "notes")]
    wanted = database(
        shards=1,
        tables=tables,
        schema={},
        adopt={"s1": "old"},
        credentials={"secret": "old-app"},
        balance={"split": "off", "merge": "off"},
        deletionPolicy="delete",
    )
    del wanted["spec"]["schema"]
    rig.must("POST", DATABASES, wanted)
    refusals(rig)

    # taken over: as it runs
    pod, before = rig.get("Pod", "old-0"), rig.must("GET", f"{SETS}/old")
    rig.patch(f"{DATABASES}/shop", {"spec": {"annotations": {"try": "now"}}})
    rig.wait_database(shards=1)
    after = rig.must("GET", f"{SETS}/old")
    assert after["spec"] == before["spec"] and after["metadata"]["generation"] == before["metadata"]["generation"]
    assert rig.get("Pod", "old-0")["metadata"]["uid"] == pod["metadata"]["uid"]
    owned = {f["manager"]: f["fieldsV1"] for f in after["metadata"]["managedFields"]}
    assert owned["shardherd-adopt"] == {
        "f:metadata": {
            "f:annotations": {"f:shardherd.io/owner-uid": {}},
            "f:labels": {"f:shardherd.io/database": {}, "f:shardherd.io/shard": {}},
        }
    }
    assert sorted(rig.belongings()) == ["ConfigMap/shop-s1", "Service/shop-s1", "StatefulSet/old"]
    assert psql(rig, NOTES) == notes

    # split under load, to a server of ours
    client = rig.client_pod(secret="old-app")
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stdout + done.stderr
    load = Load(rig, 20, "--clients", "2", "--rate", "200", "--no-check")
    start(rig, "split-old", kind="split", shard="s1", bakeSeconds=0)
    item = ended(rig, "split-old", "Done")
    assert item["status"]["target"] == "s2"
    rig.wait_database(shards=2)
    report = load.result()
    assert report["acked_writes"] > 100 and report["routing_changes"] >= 1, report
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rig.get("StatefulSet", "shop-s2") is not None

    def other(sql):
        address = "host=shop-s2.default.svc user=app dbname=shop sslmode=require"
        done = rig.exec(client, "env", "PGPASSWORD=the app's", "psql", "-XAtq", address, "-c", sql)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    parts = [text.split("/") for text in (psql(rig, NOTES), other(NOTES))]
    assert all(int(count) > 0 for count, _ in parts), parts
    assert f"{sum(int(c) for c, _ in parts)}/{sum(int(s) for _, s in parts)}" == notes

    # another pod of his is the same shard
    rig.delete("Pod", "old-0")
    rig.wait(
        lambda: (rig.get("Pod", "old-0") or pod)["metadata"]["uid"] != pod["metadata"]["uid"], 60, "another pod of his"
    )
    rig.wait_ready_pods("old-0")
    rig.wait_database(shards=2)

    # a manager that begins anew finds it
    leader = rig.leader()["metadata"]["name"]
    rig.delete("Pod", leader)
    rig.wait(lambda: (rig.leader() or {"metadata": {"name": leader}})["metadata"]["name"] != leader, 90, "another one")
    rig.wait_database(shards=2)
    done = rig.load(client, "--duration", "3s", "--clients", "2", "--rate", "100")
    assert done.returncode == 0, done.stdout + done.stderr

    # to zero is his affair
    rig.patch(f"{DATABASES}/shop", {"spec": {"suspended": True}})
    rig.wait(
        lambda: "scale it yourself" in rig.condition_of(rig.database(), "Stalled").get("message", ""), 60, "not stopped"
    )
    rig.patch(f"{DATABASES}/shop", {"spec": {"suspended": False}})
    rig.wait_database(shards=2, timeout=120)

    # all rows come back to it, and it is left alone
    start(rig, "merge-old", kind="merge", shard="s2", target="s1", bakeSeconds=0)
    ended(rig, "merge-old", "Done")
    rig.wait_database(shards=1)
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert psql(rig, NOTES) == notes
    pod = rig.get("Pod", "old-0")["metadata"]["uid"]
    rig.must("DELETE", f"{DATABASES}/shop")
    rig.wait(lambda: rig.database() is None, 60, "shop deleted")
    assert rig.belongings() == []
    after = rig.must("GET", f"{SETS}/old")
    assert after["spec"] == before["spec"]
    assert "shardherd.io/owner-uid" not in after["metadata"]["annotations"]
    assert rig.get("Pod", "old-0")["metadata"]["uid"] == pod
    assert psql(rig, NOTES) == notes
    assert psql(rig, "SELECT count(*) FROM pg_namespace WHERE nspname = 'shardherd'") == "0"
    assert psql(rig, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'shardherd%'") == "0"
    for what in ("pg_replication_slots", "pg_publication", "pg_subscription"):
        assert psql(rig, f"SELECT count(*) FROM {what}") == "0", what
    psql(rig, "INSERT INTO notes VALUES (0, 'his again')", user="app", word="the app's")
    for name in ("old-secret", "old-app"):
        assert rig.get("Secret", name) is not None
    rig.delete("Pod", client)
    rig.delete("StatefulSet", "old")
