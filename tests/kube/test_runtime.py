"""Shards as StatefulSets: the Kubernetes runtime, through runtime_tool, in a cluster whose pods run PostgreSQL."""

import base64
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from control_plane import make_certificate
from kube import ROOT, build_folder, needs_root, wait_until
from runtime_rig import refusal, runtime_cluster, runtime_rig

pytestmark = needs_root


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with runtime_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def rig(cluster, tmp_path):
    with runtime_rig(cluster, tmp_path) as rig:
        yield rig


def test_two_shards_are_made_used_and_removed(rig):
    rig.write()
    made = rig.ensure("s1", "s2")
    assert sorted(made) == ["shop-s1-0", "shop-s2-0"]
    one = made["shop-s1-0"]
    assert (one["host"], one["port"], one["user"], one["sslmode"]) == (
        "shop-s1.default.svc",
        5432,
        "shardherd",
        "verify-full",
    )
    assert os.stat(one["sslrootcert"]).st_mode & 0o777 == 0o600
    assert made["shop-s2-0"]["password"] != one["password"]
    for shard in ("s1", "s2"):
        rig.psql("CREATE TABLE t(i int); INSERT INTO t VALUES (1)", shard=shard)
        assert (
            rig.psql(
                "SELECT current_user, current_database(), ssl, count(*) FROM t, pg_stat_ssl "
                "WHERE pid = pg_backend_pid() GROUP BY 3",
                shard=shard,
            )
            == "app|shop|t|1"
        )
    assert "password authentication failed" in rig.psql("SELECT 1", password="wrong", code=2)

    # as a move does it: one server subscribes to the other, and knows it by its certificate
    admin = {"user": "shardherd", "password": made["shop-s2-0"]["password"], "shard": "s2"}
    rig.psql("CREATE PUBLICATION p FOR TABLE t", user="shardherd", password=one["password"])
    conninfo = (
        f"host={one['host']} dbname=shop user=shardherd password={one['password']} sslmode=verify-full "
        f"sslrootcert={one['peer_sslrootcert']}"
    )
    rig.psql(f"CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p", **admin)
    wait_until(lambda: rig.psql("SELECT count(*) FROM t", shard="s2") == "2", 30, "the row of the other shard")
    rig.psql("DROP SUBSCRIPTION s", **admin)

    before = rig.objects()
    again = rig.ensure("s1", "s2")
    assert again == made
    assert rig.objects() == before
    listed = {line["instance"]: line for line in rig.run("list")}
    assert listed == made

    rig.run("remove", "shop-s2-0")
    assert [line["instance"] for line in rig.run("list")] == ["shop-s1-0"]
    assert rig.psql("SELECT count(*) FROM t") == "1"
    rig.run("remove", "shop-s1-0")
    assert rig.objects() == rig.before
    rig.run("remove", "shop-s1-0")


NOT_STARTING = {
    "nowhere to run": (
        {"scheduling": {"nodeSelector": {"disk": "gold"}}},
        "pod shop-s1-0 is not scheduled: 0/2 nodes are available",
    ),
    "no such class": (
        {"storage": {"size": "1Gi", "class": "gold"}},
        "pod shop-s1-0 waits for its volume: claim data-shop-s1-0 is not bound: ProvisioningFailed: "
        'storageclass.storage.k8s.io "gold" not found',
    ),
    "no such image": (
        {"postgresql": {"image": "registry.example/gone:1"}},
        "pod shop-s1-0: container postgresql cannot start: ",
    ),
    "no such user": (
        {"security": {"runAsUser": 12345}},
        "pod shop-s1-0 runs, PostgreSQL in it does not accept connections yet: initdb exited with 1: initdb: "
        "could not look up effective user ID 12345",
    ),
    "no such setting": (
        {"postgresql": {"parameters": {"shared_buffers": "many"}}},
        "pod shop-s1-0 runs, PostgreSQL in it does not accept connections yet: PostgreSQL ended with exit code 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("why", NOT_STARTING)
def test_an_instance_that_does_not_start_says_why(rig, why):
    spec, message = NOT_STARTING[why]
    rig.write(shards=1, **spec)
    rig.wait_progress(message, "ensure", "s1")
    code, text = refusal(rig.run("ensure", "s1", timeout="4s", code=1))  # all was there before, so this is the reason
    assert code == "timeout"
    assert text.startswith("instance shop-s1-0: not ready in time: " + message), text
    if "class" in why or "user" in why:  # what cannot be changed needs a removal, everything else only the right words
        return
    rig.write(shards=1)
    assert list(rig.ensure("s1")) == ["shop-s1-0"]


def event_lists(cluster):
    """How often events were listed, by anyone."""
    text = cluster.request("GET", "/metrics")[1]
    lines = [line for line in text.splitlines() if line.startswith("apiserver_request_total{")]
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if 'resource="events"' in line and 'verb="LIST"' in line
    )


def test_a_pod_that_admission_refuses(rig, cluster):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    cluster.apply(quota)
    try:
        cluster.wait(lambda: cluster.get("ResourceQuota", "none").get("status", {}).get("hard"), 20, "quota counted")
        rig.write(shards=1)
        text = rig.wait_progress("StatefulSet shop-s1 cannot make pod shop-s1-0: FailedCreate:", "ensure", "s1")
        assert "exceeded quota: none" in text
        before = event_lists(cluster)
        assert refusal(rig.run("ensure", "s1", timeout="8s", code=1))[0] == "timeout"
        assert 1 <= event_lists(cluster) - before <= 3  # at once, after 3 s, and 6 s later, not each second
    finally:
        cluster.delete("ResourceQuota", "none")


def test_what_is_asked_for_wrongly(rig, cluster):
    rig.write(shards=1, suspended=True)
    assert refusal(rig.run("ensure", "s1", code=1)) == (
        "conflict",
        "instance shop-s1-0: database shop is suspended: set spec.suspended to false",
    )
    rig.write(shards=1, tls={"mode": "mutual"})
    code, text = refusal(rig.run("cnpg-ensure", "s1", code=1))
    assert code == "unsupported" and "CloudNativePG" in text
    rig.write(shards=1, credentials={"secret": "mine"})
    code, text = refusal(rig.run("ensure", "s1", code=1))
    assert code == "not_found" and "Secret mine of namespace default" in text
    rig.write(shards=1)
    assert refusal(rig.run("existing", "s1", code=1))[0] == "not_found"


def test_what_is_not_ours_is_left_alone(rig, cluster):
    """A service that somebody has under that name: not taken over, and not deleted with the rest."""
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "shop-s1", "labels": {"shardherd.io/database": "shop", "shardherd.io/shard": "s1"}},
        "spec": {"ports": [{"port": 80}]},
    }
    cluster.apply(theirs)
    before = cluster.get("Service", "shop-s1")["metadata"]["resourceVersion"]
    rig.write(shards=1)
    code, text = refusal(rig.run("ensure", "s1", code=1))
    assert code == "conflict" and "services shop-s1 of namespace default exists and does not belong" in text
    assert cluster.get("StatefulSet", "shop-s1") is None
    rig.run("remove", "shop-s1-0")
    assert cluster.get("Service", "shop-s1")["metadata"]["resourceVersion"] == before
    cluster.delete("Service", "shop-s1")
    assert rig.objects() == rig.before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_anywhere_it_goes_on(rig, cluster, number):
    """kill -9, and closing the runtime while it works (the tool then checks that nothing is left open)."""
    rig.write(shards=1)
    codes = []

    def killed(verb, *arguments, when):
        process = rig.start(verb, *arguments)
        try:
            wait_until(when, 30, "the moment to kill it", interval=0.005)
        finally:
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        codes.append(process.returncode)
        if number == signal.SIGTERM:  # ended by the signal itself: the moment was there before the tool was
            assert process.returncode in (0, 1, -number), err
            assert process.returncode != 1 or json.loads(out.splitlines()[-1])["error"] == "canceled", out

    there = lambda kind, name: lambda: cluster.get(kind, name) is not None  # noqa: E731
    for moment in (
        there("Secret", "shop-s1-credentials"),
        there("Secret", "shop-ca"),
        there("Service", "shop-s1-pods"),
        there("StatefulSet", "shop-s1"),
        lambda: cluster.condition("Pod", "shop-s1-0", "Ready") == "True",
    ):
        killed("ensure", "s1", when=moment)
    password = rig.secret("shop-s1-credentials", "password")
    made = rig.ensure("s1")
    assert made["shop-s1-0"]["password"] == password
    assert rig.psql("SELECT 1") == "1"
    gone = lambda kind, name: lambda: cluster.get(kind, name) is None  # noqa: E731
    for moment in (
        lambda: (cluster.get("StatefulSet", "shop-s1") or {"metadata": {"deletionTimestamp": 1}})["metadata"].get(
            "deletionTimestamp"
        ),
        gone("StatefulSet", "shop-s1"),
        gone("Service", "shop-s1-ro"),
        gone("ConfigMap", "shop-s1"),
    ):
        killed("remove", "shop-s1-0", when=moment)
    if number == signal.SIGTERM:
        assert len([code for code in codes if code in (0, 1)]) >= 3, codes
    rig.run("remove", "shop-s1-0")
    assert rig.objects() == rig.before


@pytest.mark.slow
def test_stopped_and_started_again(rig, cluster):
    rig.write(shards=1)
    made = rig.ensure("s1")
    rig.psql("CREATE TABLE t(i int)")
    rig.run("stop", "shop-s1-0")
    assert cluster.get("Pod", "shop-s1-0") is None
    rig.run("stop", "shop-s1-0")
    assert rig.ensure("s1") == made
    assert rig.psql("SELECT count(*) FROM t") == "0"


@pytest.mark.slow
def test_retained_data_comes_back(rig, cluster):
    rig.write(shards=1, deletionPolicy="delete", tls={"mode": "off"})
    made = rig.ensure("s1")
    assert made["shop-s1-0"]["sslmode"] == "disable"
    rig.psql("CREATE TABLE t(i int)")
    rig.write(shards=1, deletionPolicy="retain", tls={"mode": "off"})  # at the last moment
    rig.run("remove", "shop-s1-0")
    left = {key for key in rig.objects() if key not in rig.before}
    assert left == {
        ("Secret", "shop-owner"),
        ("Secret", "shop-s1-credentials"),
        ("PersistentVolumeClaim", "data-shop-s1-0"),
    }
    assert rig.ensure("s1") == made
    assert rig.psql("SELECT count(*) FROM t") == "0"


@pytest.mark.slow
def test_a_changed_specification_reaches_the_pod(rig, cluster):
    rig.write(shards=1)
    made = rig.ensure("s1")
    rig.psql("CREATE TABLE t(i int)")
    first = cluster.get("Pod", "shop-s1-0")["metadata"]["uid"]
    rig.write(
        shards=1,
        postgresql={"parameters": {"work_mem": "9MB"}},
        resources={"limits": {"memory": "512Mi"}},
        labels={"team": "a"},
        network={"policy": False},
    )
    assert cluster.get("NetworkPolicy", "shop-s1") is not None
    assert rig.ensure("s1") == made
    assert cluster.get("NetworkPolicy", "shop-s1") is None
    pod = cluster.get("Pod", "shop-s1-0")
    assert pod["metadata"]["uid"] != first
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "512Mi"}
    assert rig.psql("SELECT current_setting('work_mem'), current_setting('shared_buffers'), count(*) FROM t") == (
        "9MB|128MB|0"
    )


@pytest.mark.slow
def test_settings_that_need_no_restart_make_none(rig, cluster):
    rig.write(shards=1)
    rig.ensure("s1")
    pod = cluster.info("shop-s1-0")
    rig.write(shards=1, postgresql={"parameters": {"work_mem": "9MB", "autovacuum_naptime": "7s"}})
    rig.ensure("s1")
    cluster.wait(
        lambda: rig.psql("SELECT current_setting('work_mem'), current_setting('autovacuum_naptime')") == "9MB|7s",
        90,
        "the settings are in effect",
    )
    assert cluster.info("shop-s1-0") == pod


@pytest.mark.slow
def test_volumes_grow(rig, cluster):
    rig.write(shards=1)
    made = rig.ensure("s1")
    before = cluster.get("Pod", "shop-s1-0")
    rig.write(shards=1, storage={"size": "2Gi"})
    assert rig.ensure("s1") == made
    claim = cluster.get("PersistentVolumeClaim", "data-shop-s1-0")
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    cluster.wait(
        lambda: cluster.get("PersistentVolumeClaim", "data-shop-s1-0")["status"]["capacity"]["storage"] == "2Gi",
        20,
        "the volume has grown",
    )
    template = cluster.get("StatefulSet", "shop-s1")["spec"]["volumeClaimTemplates"][0]
    assert template["spec"]["resources"]["requests"]["storage"] == "2Gi"
    after = cluster.get("Pod", "shop-s1-0")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]  # it was not even restarted
    still = rig.objects()
    assert rig.ensure("s1") == made
    assert rig.objects() == still


@pytest.mark.slow
def test_volumes_that_cannot_grow(rig, cluster):
    rig.write(shards=1)
    made = rig.ensure("s1")
    path = cluster.path("StorageClass", None, cluster.list("StorageClass", None)[0]["metadata"]["name"])
    merge = "application/merge-patch+json"
    cluster.must("PATCH", path, {"allowVolumeExpansion": False}, content_type=merge)
    try:
        rig.write(shards=1, storage={"size": "2Gi"})
        code, text = refusal(rig.run("ensure", "s1", code=1))
        assert code == "unsupported"
        assert "its StorageClass needs allowVolumeExpansion: true" in text
        assert list(rig.run("list")) == list(made.values())
    finally:
        cluster.must("PATCH", path, {"allowVolumeExpansion": True}, content_type=merge)
    assert rig.ensure("s1") == made


@pytest.mark.slow
def test_a_crash_while_volumes_grow(rig, cluster):
    """Between the deletion of the StatefulSet and its return: the instance is still one that exists."""
    rig.write(shards=1)
    made = rig.ensure("s1")
    pod = cluster.get("Pod", "shop-s1-0")["metadata"]["uid"]
    cluster.delete("StatefulSet", "shop-s1", propagationPolicy="Orphan")
    cluster.wait(lambda: cluster.get("StatefulSet", "shop-s1") is None, 20, "the StatefulSet gone")
    assert {line["instance"]: line for line in rig.run("existing", "s1") if "instance" in line} == made
    assert cluster.get("Pod", "shop-s1-0")["metadata"]["uid"] == pod


@pytest.mark.slow
def test_passwords_change_without_an_outage(rig, cluster):
    rig.write(shards=2)
    made = rig.ensure("s1", "s2")
    owner = rig.secret("shop-owner", "password")
    admin = made["shop-s1-0"]["password"]
    address = cluster.get("Service", "shop-s1")["spec"]["clusterIP"]
    session = subprocess.Popen(
        cluster.wrap(["psql", "-XAtq", f"host={address} user=app dbname=shop sslmode=require"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGPASSWORD": owner},
    )
    try:
        session.stdin.write("SELECT 'open';\n")
        session.stdin.flush()
        assert session.stdout.readline() == "open\n"
        rig.write(shards=2, credentials={"rotation": "1s"})
        slot = "SELECT FROM pg_create_logical_replication_slot('copy', 'pgoutput')"
        rig.psql(slot, user="shardherd", password=admin)
        assert rig.ensure("s1")["shop-s1-0"]["password"] == admin  # somebody copies from it by this password
        rig.psql("SELECT FROM pg_drop_replication_slot('copy')", user="shardherd", password=admin)
        again = rig.ensure("s1")
        assert again["shop-s1-0"]["password"] not in (admin, None)
        assert rig.secret("shop-s1-credentials", "previous-password") == admin
        assert rig.psql("SELECT 1", user="shardherd", password=again["shop-s1-0"]["password"]) == "1"
        assert "password authentication failed" in rig.psql("SELECT 1", user="shardherd", password=admin, code=2)
        rig.write(shards=2)
        rig.ensure("s1", "s2")
        new = rig.secret("shop-owner", "password")
        assert new != owner
        for shard in ("s1", "s2"):
            assert rig.psql("SELECT 1", shard=shard) == "1"
            assert "password authentication failed" in rig.psql("SELECT 1", shard=shard, password=owner, code=2)
        out, _ = session.communicate("SELECT 'still';\n", timeout=20)
        assert out == "still\n"
    finally:
        session.kill()
        session.wait()


@pytest.mark.slow
def test_a_certificate_that_does_not_do_is_replaced(rig, cluster):
    """One of another authority, as one that is nearly over, gives way; the server takes the new one by a reload."""
    rig.write(shards=1)
    made = rig.ensure("s1")
    pod = cluster.info("shop-s1-0")
    before = rig.secret("shop-s1-tls", "tls.crt")
    other = rig.folder / "other"
    other.mkdir()
    make_certificate(other, "ca", "/CN=other")
    make_certificate(other, "leaf", "/CN=shop-s1", san="DNS:shop-s1")
    data = {f"tls.{end}": base64.b64encode((other / f"leaf.{end}").read_bytes()).decode() for end in ("crt", "key")}
    cluster.must(
        "PATCH",
        cluster.path("Secret", "default", "shop-s1-tls"),
        {"data": data},
        content_type="application/merge-patch+json",
    )
    assert rig.ensure("s1") == made
    after = rig.secret("shop-s1-tls", "tls.crt")
    assert after.strip() not in (before.strip(), (other / "leaf.crt").read_text().strip())
    assert rig.secret("shop-s1-tls", "ca.crt").strip() == rig.secret("shop-ca", "ca.crt").strip()

    def served():
        address = cluster.get("Service", "shop-s1")["spec"]["clusterIP"]
        done = cluster.inside(
            [
                "sh",
                "-c",
                f"openssl s_client -starttls postgres -connect {address}:5432 </dev/null 2>/dev/null | openssl x509",
            ]
        )
        return done.strip() == after.strip()

    cluster.wait(served, 60, "the server shows the new certificate")
    # without it PostgreSQL would end itself within a minute
    assert cluster.exec("shop-s1-0", "test", "-s", "/var/lib/postgresql/data/pgdata/postmaster.pid").returncode == 0
    assert cluster.info("shop-s1-0") == pod


@pytest.mark.slow
def test_the_rights_in_the_documentation_suffice(rig, cluster):
    """And no list of Secrets is among them."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    rules = yaml.safe_load(text.split("```yaml\n")[-1].split("```")[0])["rules"]
    assert not any("secrets" in rule["resources"] and {"list", "watch", "*"} & set(rule["verbs"]) for rule in rules)
    api = "rbac.authorization.k8s.io/v1"
    role = {"apiVersion": api, "kind": "Role", "metadata": {"name": "tried"}, "rules": rules}
    binding = {
        "apiVersion": api,
        "kind": "RoleBinding",
        "metadata": {"name": "tried"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tried"},
        "subjects": [{"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    nobody = cluster.write_kubeconfig("nobody.kubeconfig", {"token": "nobody-token"})
    rig.write(shards=1)
    assert refusal(rig.run("ensure", "s1", code=1, kubeconfig=nobody))[0] == "auth"
    cluster.apply(role, binding)
    try:
        rig.ensure("s1", kubeconfig=nobody)
        rig.write(shards=1, storage={"size": "2Gi"}, credentials={"rotation": "1s"})
        made = rig.ensure("s1", kubeconfig=nobody)
        assert {line["instance"]: line for line in rig.run("list", kubeconfig=nobody)} == made
        rig.run("stop", "shop-s1-0", kubeconfig=nobody)
        rig.run("remove", "shop-s1-0", kubeconfig=nobody)
    finally:
        cluster.delete("RoleBinding", "tried")
        cluster.delete("Role", "tried")
    assert rig.objects() == rig.before


@pytest.mark.slow
def test_what_render_printed_is_adopted(rig, cluster):
    """Objects that were applied by hand, with Secrets made by hand, become a shard without a restart of the pod."""
    rig.write(shards=1, postgresql={"image": "shardherd:test"})
    printed = subprocess.run(
        [build_folder() / "shardherd", "render", rig.folder / "database.json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    hand = rig.folder / "hand"
    hand.mkdir()
    make_certificate(hand, "ca", "/CN=ca")
    make_certificate(hand, "leaf", "/CN=shop-s1", san="DNS:shop-s1.default.svc,DNS:shop-s1.default.svc.cluster.local")
    files = {"tls.crt": "leaf.crt", "tls.key": "leaf.key", "ca.crt": "ca.crt"}
    secrets = {"credentials": {"password": "by hand"}, "tls": {k: (hand / v).read_text() for k, v in files.items()}}
    cluster.apply(
        *(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"shop-s1-{name}"}, "stringData": data}
            for name, data in secrets.items()
        ),
        *(document for document in yaml.safe_load_all(printed) if document),
    )
    cluster.wait_ready_pods("shop-s1-0")
    pod = cluster.get("Pod", "shop-s1-0")["metadata"]["uid"]
    code, text = refusal(rig.run("ensure", "s1", code=1))
    assert code == "conflict" and "spec.adopt" in text
    rig.write(shards=1, postgresql={"image": "shardherd:test"}, adopt={"s1": "other"})
    code, text = refusal(rig.run("ensure", "s1", code=1))
    assert code == "invalid" and "name its Secret in spec.credentials.secret" in text
    rig.write(
        shards=1, postgresql={"image": "shardherd:test"}, adopt={"s1": "other"}, credentials={"secret": "shop-s1-tls"}
    )
    code, text = refusal(rig.run("ensure", "s1", code=1))
    assert code == "not_found" and "StatefulSet other (spec.adopt.s1): it does not exist" in text
    rig.write(shards=1, postgresql={"image": "shardherd:test"}, adopt={"s1": "shop-s1"})
    made = rig.ensure("s1")
    assert made["shop-s1-0"]["password"] == "by hand"
    assert cluster.get("Pod", "shop-s1-0")["metadata"]["uid"] == pod
    assert rig.psql("SELECT 1") == "1"
    still = rig.objects()
    assert rig.ensure("s1") == made
    assert rig.objects() == still
    assert {line["instance"]: line for line in rig.run("list")} == made
    assert "sslcert" not in made["shop-s1-0"]  # of an authority that we cannot issue for

    # a shard of ours beside it has another authority: neither takes the other's file away
    rig.write(shards=2, postgresql={"image": "shardherd:test"}, adopt={"s1": "shop-s1"})
    both = rig.ensure("s1", "s2")
    assert {line["instance"]: line for line in rig.run("list")} == both
    for turn in ("s1", "s2"):
        assert rig.ensure(turn) == {f"shop-{turn}-0": both[f"shop-{turn}-0"]}
        authorities = [Path(both[f"shop-{shard}-0"]["sslrootcert"]).read_text() for shard in ("s1", "s2")]
        assert authorities[0].strip() == (hand / "ca.crt").read_text().strip() != authorities[1].strip()
        assert rig.psql("SELECT 1") == rig.psql("SELECT 1", shard="s2") == "1"
    assert [both[f"shop-{shard}-0"]["peer_sslrootcert"] for shard in ("s1", "s2")] == ["", ""]
    assert both["shop-s2-0"]["sslcert"]
    rig.run("remove", "shop-s2-0")
    rig.write(shards=1, postgresql={"image": "shardherd:test"}, adopt={"s1": "shop-s1"}, tls={"mode": "mutual"})
    code, text = refusal(rig.run("ensure", "s1", code=1))
    assert code == "invalid" and "Secret shop-s1-tls: it is not of shardherd's authority" in text
    rig.run("remove", "shop-s1-0")
    left = {key for key in rig.objects() if key not in rig.before}
    assert left == {("Secret", "shop-s1-credentials"), ("Secret", "shop-s1-tls")}  # made by hand: stay
    for _, name in left:
        cluster.delete("Secret", name)
