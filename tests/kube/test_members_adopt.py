"""One instance that is taken over (spec.adopt) becomes three, under load: where it stands if `shardherd render` printed
its StatefulSet, else as a new shard that all its rows move to."""

import json
import subprocess

import pytest
import yaml
from cluster import postgres_image
from control_plane import make_certificate
from kube import build_folder, needs_root
from manager_rig import DATABASES, SHOP, SPACE, ManagerCluster, database
from members import kept, pods, primaries, wait_whole
from test_adopt import NOTES, SETS, annotate, fill, legacy, psql, secret
from test_manager import QUICK, Load, names, remove
from test_members import QUIET, delete_now, gap
from test_members_resize import resize

pytestmark = [
    needs_root,
    pytest.mark.slow,
    pytest.mark.timeout(500),
]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    quick = {**QUICK, "SHARDHERD_MOVES_RETIRE_WAIT": "1s"}
    rig = ManagerCluster(tmp_path_factory.mktemp("adopted"), nodes=3, variables=quick)
    rig.images["postgres:15"] = postgres_image()
    with rig:
        yield rig


def leave(rig):
    if rig.database() is not None:
        rig.delete("Pod", "client")
        rig.wait(lambda: rig.get("Pod", "client") is None, 30, "the client to go")
        try:
            remove(rig, timeout=120)
        except TimeoutError as error:
            status = rig.database()["status"]
            raise TimeoutError(f"{error}\n{status}\n{rig.public('/v1/operations')}\n{rig.manager_logs()}") from None


def wait_ready(rig, said, what, timeout=180):
    try:
        rig.wait(lambda: rig.is_ready() and said(), timeout, what)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{rig.database()['status']}\n{rig.manager_logs()[-8000:]}") from None


def certificate(rig, folder, *names):
    """By hand, for these names of the namespace."""
    make_certificate(folder, "leaf", "/CN=shop-s1", san=",".join(f"DNS:{name}.{SPACE}.svc" for name in names))
    files = {"tls.crt": "leaf.crt", "tls.key": "leaf.key", "ca.crt": "ca.crt"}
    data = {key: (folder / file).read_text() for key, file in files.items()}
    rig.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-s1-tls"}, "stringData": data})


def test_an_adopted_shard_gets_three_instances(rig, tmp_path):
    made = database(shards=1, balance=QUIET, deletionPolicy="retain")
    (tmp_path / "shop.json").write_text(json.dumps(made))
    argv = [build_folder() / "shardherd", "render", tmp_path / "shop.json"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    make_certificate(tmp_path, "ca", "/CN=ca")
    certificate(rig, tmp_path, "shop-s1")
    by_hand = {"name": "shop-s1-credentials"}
    rig.apply({"apiVersion": "v1", "kind": "Secret", "metadata": by_hand, "stringData": {"password": "by hand"}})
    rig.apply(*(document for document in yaml.safe_load_all(printed) if document))
    rig.wait_ready_pods("shop-s1-0")
    uid = rig.get("Pod", "shop-s1-0")["metadata"]["uid"]
    made["spec"]["adopt"] = {"s1": "shop-s1"}
    rig.must("POST", DATABASES, made)
    rig.wait_database(shards=1, timeout=120)
    assert rig.get("Pod", "shop-s1-0")["metadata"]["uid"] == uid
    client = rig.client_pod()
    done = rig.load(client, "init")
    assert done.returncode == 0, done.stdout + done.stderr

    # a certificate that is not of shardherd's authority has to be for the pods first
    rig.patch(SHOP, {"spec": {"instances": 3}})
    refused = rig.wait(lambda: rig.condition_of(rig.database(), "Stalled"), 30, "refused")
    assert f"issue it for *.shop-s1-pods.{SPACE}.svc as well" in refused["message"]
    assert list(pods(rig)) == ["shop-s1-0"] and rig.get("Pod", "shop-s1-0")["metadata"]["uid"] == uid
    rig.patch(SHOP, {"spec": {"instances": 1}})
    certificate(rig, tmp_path, "shop-s1", "shop-s1-ro", "*.shop-s1-pods")

    report, primary = resize(rig, client, 3, seconds=60)
    assert primary == "shop-s1-0" and pods(rig)[primary]["metadata"]["uid"] != uid  # made anew once
    assert report["longest_write_gap_ms"] < 30000, report
    report = gap(rig, client, 25, lambda: delete_now(rig, primary))
    assert report["longest_write_gap_ms"] < 8000, report
    wait_whole(rig, 120)  # the old one may be back by then, and is as good as another
    done = rig.load(client, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    leave(rig)


def adopt_legacy(rig):
    """His server with rows in it, as the shard s1; what his rows sum up to."""
    rig.apply(secret("old-secret", name="boss", pw="the boss's"), secret("old-app", password="the app's"))
    rig.apply(legacy("logical"))
    rig.wait_ready_pods("old-0")
    fill(rig)
    psql(rig, "ALTER TABLE notes OWNER TO app; ALTER SCHEMA public OWNER TO pg_database_owner")
    annotate(rig)
    made = database(
        shards=1,
        instances=3,
        tables=[{"name": name, "key": "customer_id"} for name in ("customers", "orders", "notes")],
        adopt={"s1": "old"},
        credentials={"secret": "old-app"},
        balance=QUIET,
        deletionPolicy="delete",
    )
    del made["spec"]["schema"]
    rig.must("POST", DATABASES, made)
    return psql(rig, NOTES)


def test_somebody_elses_server_becomes_a_shard_of_three(rig):
    leave(rig)
    notes = adopt_legacy(rig)
    # it is taken over as it is, or not at all
    refused = rig.wait(lambda: rig.condition_of(rig.database(), "Stalled"), 60, "refused")
    assert "Set spec.instances to 1, and to 3 when the database is Ready" in refused["message"], refused
    assert rig.belongings() == []
    rig.patch(SHOP, {"spec": {"instances": 1}})
    rig.wait_database(shards=1, timeout=120)
    client = rig.client_pod(secret="old-app")
    made = rig.load(client, "init")
    assert made.returncode == 0, made.stdout + made.stderr
    before = rig.must("GET", f"{SETS}/old")
    uid = rig.get("Pod", "old-0")["metadata"]["uid"]

    load = Load(rig, 90, "--clients", "2", "--rate", "100", "--op-timeout", "2s", "--no-check")
    rig.patch(SHOP, {"spec": {"instances": 3}})
    wait_ready(rig, lambda: sorted(kept(rig)) == ["shop-s2-0", "shop-s2-1", "shop-s2-2"], "three of shardherd's own")
    assert load.is_alive(), "the load ended before: it shows nothing"
    first = wait_whole(rig)
    report = load.result()
    print(f"longest write gap {report['longest_write_gap_ms']:.0f} ms, {report['acked_writes']} writes")
    assert report["acked_writes"] > 1000 and report["routing_changes"] >= 1, report
    assert report["longest_write_gap_ms"] < 5000, report
    assert names(rig) == ["shop-s2"] and sorted(pods(rig)) == ["shop-s2-0", "shop-s2-1", "shop-s2-2"]
    address = "host=shop-s2.default.svc user=app dbname=shop sslmode=require"
    done = rig.exec(client, "env", "PGPASSWORD=the app's", "psql", "-XAtq", address, "-c", NOTES)
    assert done.stdout.strip() == notes, done.stdout + done.stderr

    # his is left as it was, and nobody can write to it by mistake
    after = rig.must("GET", f"{SETS}/old")
    assert after["spec"] == before["spec"] and rig.get("Pod", "old-0")["metadata"]["uid"] == uid
    assert "shardherd.io/owner-uid" not in after["metadata"]["annotations"]
    with pytest.raises(AssertionError, match="is not owned by this shard"):
        psql(rig, "INSERT INTO notes VALUES (1, 'by mistake')", user="app", word="the app's")

    load = Load(rig, 20, "--clients", "2", "--rate", "100", "--op-timeout", "2s", "--no-check")
    rig.wait(lambda: load.is_alive() and rig.public("/v1/instances"), 10, "load")
    delete_now(rig, first)
    report = load.result()
    print(f"failover: longest write gap {report['longest_write_gap_ms']:.0f} ms, {report['acked_writes']} writes")
    assert report["longest_write_gap_ms"] < 8000, report
    assert [wait_whole(rig, 120)] == primaries(rig)  # the old one may be back by then, and is as good as another
    checked = rig.load(client, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    leave(rig)
    assert rig.get("Pod", "old-0")["metadata"]["uid"] == uid
    rig.delete("StatefulSet", "old")
