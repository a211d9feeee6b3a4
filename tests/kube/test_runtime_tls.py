"""Certificates of clients: the Kubernetes runtime with tls.mode mutual, on the way there and back, and with yours."""

import base64
import os

import pytest
from control_plane import make_certificate
from kube import needs_root, wait_until
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


NO_CERTIFICATE = "connection requires a valid client certificate"


def test_nobody_gets_in_without_a_certificate(rig, cluster):
    """tls.mode mutual: an application needs that of its Secret, shardherd has its own, and so have the servers."""
    rig.write(tls={"mode": "mutual"})
    made = rig.ensure("s1", "s2")
    one, admin = made["shop-s1-0"], {"user": "shardherd", "shard": "s2", "password": made["shop-s2-0"]["password"]}
    assert one["sslcert"] == one["sslkey"] and os.stat(one["sslkey"]).st_mode & 0o777 == 0o600
    with open(one["sslkey"], encoding="ascii") as file:
        assert (
            file.read().split()
            == (rig.secret("shop-manager", "tls.crt") + rig.secret("shop-manager", "tls.key")).split()
        )
    assert cluster.get("Secret", "shop-client")["type"] == "kubernetes.io/tls"
    client = rig.files_of("shop-client")
    assert sorted(path.name for path in client.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    assert (client / "tls.key").read_text() != rig.secret("shop-manager", "tls.key")
    assert NO_CERTIFICATE in rig.psql("SELECT 1", code=2)
    assert NO_CERTIFICATE in rig.psql("SELECT 1", user="shardherd", password=one["password"], code=2)
    assert "password authentication failed" in rig.psql("SELECT 1", password="wrong", certificate=client, code=2)
    other = rig.folder / "other"
    other.mkdir()
    make_certificate(other, "ca", "/CN=shop.default")
    make_certificate(other, "tls", "/CN=shop-client")
    assert "alert unknown ca" in rig.psql("SELECT 1", certificate=other, code=2)
    for shard in ("s1", "s2"):
        rig.psql("CREATE TABLE t(i int); INSERT INTO t VALUES (1)", shard=shard, certificate=client)
    dn = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert rig.psql(dn, user="shardherd", password=one["password"], certificate=client) == "/O=shardherd/CN=shop-client"

    # as a move does it
    rig.psql("CREATE PUBLICATION p FOR TABLE t", user="shardherd", password=one["password"], certificate=client)
    conninfo = (
        f"host={one['host']} dbname=shop user=shardherd password={one['password']} sslmode=verify-full "
        f"sslrootcert={one['peer_sslrootcert']}"
    )
    subscribe = "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p"
    assert NO_CERTIFICATE in rig.psql(subscribe.format(conninfo), certificate=client, code=1, **admin)
    conninfo += f" sslcert={one['peer_sslcert']} sslkey={one['peer_sslkey']}"
    rig.psql(subscribe.format(conninfo), certificate=client, **admin)
    wait_until(
        lambda: rig.psql("SELECT count(*) FROM t", shard="s2", certificate=client) == "2", 30, "the other shard's row"
    )
    rig.psql("DROP SUBSCRIPTION s", certificate=client, **admin)

    before = rig.objects()
    assert rig.ensure("s1", "s2") == made
    assert rig.objects() == before
    assert {line["instance"]: line for line in rig.run("list")} == made
    rig.run("remove", "shop-s1-0")
    assert cluster.get("Secret", "shop-client") is not None
    assert os.path.exists(one["sslkey"])
    rig.run("remove", "shop-s2-0")
    assert rig.objects() == rig.before
    assert os.listdir(rig.folder / "ca") == []


@pytest.mark.slow
def test_certificates_are_asked_for_from_now_on_and_no_more(rig, cluster):
    """on, mutual, on: what shardherd and the applications connect by is good before, meanwhile and after."""
    rig.write(shards=1)
    made = rig.ensure("s1")
    client = rig.files_of("shop-client")
    pod = cluster.get("Pod", "shop-s1-0")["metadata"]["uid"]
    assert rig.psql("SELECT 1") == rig.psql("SELECT 1", certificate=client) == "1"
    rig.write(shards=1, tls={"mode": "mutual"})
    assert rig.ensure("s1") == made
    assert cluster.get("Pod", "shop-s1-0")["metadata"]["uid"] != pod
    assert NO_CERTIFICATE in rig.psql("SELECT 1", code=2)
    assert rig.psql("SELECT 1", certificate=client) == "1"

    # one that does not do any more is replaced; the next connection is by the new one
    other = rig.folder / "other"
    other.mkdir()
    make_certificate(other, "ca", "/CN=other")
    make_certificate(other, "tls", "/CN=shop-manager")
    ends = ("crt", "key")
    data = {f"tls.{end}": base64.b64encode((other / f"tls.{end}").read_bytes()).decode() for end in ends}
    for name in ("shop-client", "shop-manager"):
        cluster.must(
            "PATCH",
            cluster.path("Secret", "default", name),
            {"data": data},
            content_type="application/merge-patch+json",
        )
    assert rig.ensure("s1") == made  # which means that it was let in
    for name in ("shop-client", "shop-manager"):
        assert rig.psql("SELECT 1", certificate=rig.files_of(name)) == "1"

    rig.write(shards=1)
    assert rig.ensure("s1") == made
    assert rig.psql("SELECT 1") == rig.psql("SELECT 1", certificate=client) == "1"
    assert {line["instance"]: line for line in rig.run("list")} == made


@pytest.mark.slow
def test_certificates_of_your_own(rig, cluster):
    """tls.secret and tls.clientSecret, as cert-manager makes them; what does not do is refused by name."""
    hand = rig.folder / "hand"
    hand.mkdir()
    names = ",".join(f"DNS:shop-s1.default.svc{end}" for end in ("", ".cluster.local"))
    usage = "\nextendedKeyUsage="
    make_certificate(hand, "ca", "/CN=ca")
    make_certificate(hand, "old", "/CN=old", san=f"{names}{usage}serverAuth")
    make_certificate(hand, "server", "/CN=server", san=f"{names}{usage}serverAuth,clientAuth")
    make_certificate(hand, "client", "/CN=herd", san=f"DNS:herd{usage}clientAuth")

    def secret(name, files):
        text = {f"tls.{end}": (hand / f"{files}.{end}").read_text() for end in ("crt", "key")}
        text["ca.crt"] = (hand / "ca.crt").read_text()
        meta = {"name": name, "labels": {"hand": "made"}}
        cluster.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "stringData": text}
        )

    secret("servers", "old")
    secret("herd", "client")
    try:
        rig.write(shards=1, tls={"secret": "servers"})
        made = rig.ensure("s1")
        assert "sslcert" not in made["shop-s1-0"]
        assert cluster.get("Secret", "shop-client") is None
        assert {line["instance"]: line for line in rig.run("list")} == made
        mutual = {"mode": "mutual", "secret": "servers", "clientSecret": "herd"}
        rig.write(shards=1, tls=mutual)
        code, text = refusal(rig.run("ensure", "s1", code=1))
        assert code == "invalid" and "Secret servers: its tls.crt is over, or its extended key usage" in text
        secret("servers", "server")
        secret("herd", "old")
        code, text = refusal(rig.run("ensure", "s1", code=1))
        assert code == "invalid" and "Secret herd: its tls.crt is over, or its extended key usage" in text
        secret("herd", "client")
        made = rig.ensure("s1")
        assert made["shop-s1-0"]["sslcert"]
        assert {line["instance"]: line for line in rig.run("list")} == made
        assert NO_CERTIFICATE in rig.psql("SELECT 1", code=2)
        assert rig.psql("SELECT 1", certificate=rig.files_of("herd")) == "1"
        rig.run("remove", "shop-s1-0")
    finally:
        cluster.delete("Secret", "servers")
        cluster.delete("Secret", "herd")
    assert rig.objects() == rig.before
