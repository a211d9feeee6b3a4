"""Agents and their keeper by TLS, each with a certificate that the other checks, and members among themselves."""

import shutil
import signal
import ssl

import psycopg
import pytest
from certificates import Certificates
from conftest import DEFAULT, wait_until
from test_agent_replica import make_shard
from test_ha import Keeper, Writer, begun, by_name, kept, lost, node_dies, streaming, until

pytestmark = pytest.mark.beside


def caller(certificates, authority, own=None):
    context = ssl.create_default_context(cafile=certificates.dir / f"{authority}.crt")
    if own:
        context.load_cert_chain(certificates.dir / f"{own}.crt", certificates.dir / f"{own}.key")
    return context


@pytest.fixture
def secured(shardherd, tool):
    """Three members and a keeper that is not started."""
    shard = make_shard(shardherd, DEFAULT)
    certificates = Certificates(shard.directory / "certificates")
    for authority in ("ours", "theirs"):
        certificates.authority(authority)
        certificates.issue(authority, f"{authority}-agent", "serverAuth,clientAuth")
        certificates.issue(authority, f"{authority}-keeper", "clientAuth")
    folder = shard.directory / "agent-tls"
    certificates.as_secret(folder, tls_crt="ours-agent.crt", tls_key="ours-agent.key", ca_crt="ours.crt")
    context = caller(certificates, "ours", "ours-keeper")
    keeper = None
    try:
        members = [shard.member(n, [f"--http-tls={folder}", f"--tls={folder}"], context) for n in "abc"]
        keeper = Keeper(tool("ha_tool"), shard.directory, members)
        keeper.certificates = certificates
        yield keeper
        keeper.stop()
    finally:
        if keeper and keeper.process and keeper.process.poll() is None:
            keeper.kill()
        for member in shard.made:
            member.destroy()
        shutil.rmtree(shard.directory)


def keeper_tls(keeper, name, own, authority):
    folder = keeper.directory / name
    keeper.certificates.as_secret(
        folder, tls_crt=f"{own}-keeper.crt", tls_key=f"{own}-keeper.key", ca_crt=f"{authority}.crt"
    )
    keeper.environment = {"HA_TOOL_TLS": str(folder)}


def test_both_ways(secured):
    a = by_name(secured, "a")
    ours = a.tls
    # without a certificate, with a stranger's, without the token
    for context in (caller(secured.certificates, "ours"), caller(secured.certificates, "ours", "theirs-keeper")):
        a.tls = context
        assert a.call("GET", "/v1/status") == (0, "")
    a.tls = ours
    assert a.call("GET", "/v1/status", token="another-token-of-this-length")[0] == 401
    # a keeper that the agents do not know, and one that does not know the agents
    for own, authority in (("theirs", "ours"), ("ours", "theirs")):
        keeper_tls(secured, f"{own}-{authority}", own, authority)
        secured.start()
        wait_until(lambda: secured.process.poll() is None, what="the keeper")
        with pytest.raises(pytest.fail.Exception):
            wait_until(lambda: a.status()["assigned"] != "none", 1.5)
        secured.stop()
    keeper_tls(secured, "right", "ours", "ours")
    secured.start()
    begun(secured)
    with a.connect() as connection:  # those of the standbys
        assert [row[0] for row in connection.execute(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
        ).fetchall()] == [True]  # fmt: skip
    writer = Writer(secured.members)
    wait_until(lambda: len(writer.acknowledged) > 50, 20, "writes")
    node_dies(a)
    until(secured, lambda: secured.primary()[1] == 2, 30, "another primary")
    a.start()
    name, _ = secured.primary()
    streaming(secured, set("abc") - {name})
    writer.end()
    assert lost(by_name(secured, name), writer) == []


def test_renewed_while_it_runs(secured):
    """What the HTTP interface shows and asks for follows its files; what listens goes on."""
    a = by_name(secured, "a")
    life, ours = a.status()["life"], a.tls
    folder = secured.directory / "agent-tls"
    secured.certificates.as_secret(folder, tls_crt="theirs-agent.crt", tls_key="theirs-agent.key", ca_crt="theirs.crt")
    a.tls = caller(secured.certificates, "theirs", "theirs-keeper")
    wait_until(lambda: a.call("GET", "/v1/status")[0] == 200, 10, "the new certificate")
    assert a.status()["life"] == life
    a.tls = ours
    assert a.call("GET", "/v1/status") == (0, "")


@pytest.fixture
def mutual(shardherd):
    """Two members that let nobody in by TCP without a certificate; their HTTP interface is plain."""
    shard = make_shard(shardherd, DEFAULT)
    certificates = Certificates(shard.directory / "certificates")
    certificates.authority("ours")
    certificates.issue("ours", "ours-agent", "serverAuth,clientAuth")
    certificates.issue("ours", "ours-client", "clientAuth")
    folder = shard.directory / "tls"
    certificates.as_secret(folder, tls_crt="ours-agent.crt", tls_key="ours-agent.key", ca_crt="ours.crt")
    shard.certificates = certificates
    try:
        for name in "ab":
            shard.member(name, [f"--tls={folder}", "--client-certificates"])
        yield shard
    finally:
        for member in shard.made:
            member.destroy()
        shutil.rmtree(shard.directory)


def test_members_show_certificates_to_each_other(mutual):
    """A clone, a stream and a rewind, where servers ask for a certificate of whoever connects."""
    a, b = mutual.made
    own = {
        "sslcert": mutual.certificates.dir / "ours-client.crt",
        "sslkey": mutual.certificates.dir / "ours-client.key",
    }
    a.assign(1, "primary", initialize=True, slots=["shardherd_b"]).settled("primary")
    with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate"):
        a.connect(sslmode="require")
    b.assign(1, "standby", upstream={**a.upstream, "slot": "shardherd_b"}).settled("standby", 40)
    wait_until(lambda: b.status().get("receiver") == "streaming", 20, "streaming")
    with a.connect(**own) as connection:
        shown = "SELECT client_serial IS NOT NULL FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
        assert connection.execute(shown).fetchall() == [(True,)]
        connection.execute("CREATE TABLE t (id int)")
    # the other way round, after writes that the new primary has not
    b.assign(2, "standby").settled("standby")
    with a.connect(**own) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    b.assign(2, "primary", slots=["shardherd_a"]).settled("primary")
    a.assign(2, "standby", upstream={**b.upstream, "slot": "shardherd_a"}).settled("standby", 40)
    wait_until(lambda: a.status().get("receiver") == "streaming", 20, "streaming again")
    assert "rewound" in a.log()


@pytest.fixture
def changing(shardherd, tool):
    """Three members without TLS, and a folder for those that get it."""
    with kept(shardherd, tool, "abc") as keeper:
        certificates = Certificates(keeper.directory / "certificates")
        for authority in ("ours", "theirs"):
            certificates.authority(authority)
            certificates.issue(authority, f"{authority}-agent", "serverAuth,clientAuth")
        keeper.certificates, keeper.folder = certificates, keeper.directory / "tls"
        certificates.as_secret(keeper.folder, tls_crt="ours-agent.crt", tls_key="ours-agent.key", ca_crt="ours.crt")
        yield keeper


def begin_anew(keeper, name, on):
    """As its pod is replaced: with TLS, or without."""
    member = by_name(keeper, name)
    member.stop()
    member.more = [f"--tls={keeper.folder}"] if on else []
    member.start()
    until(keeper, lambda: member.status().get("receiver") == "streaming", 40, f"{name} to stream")
    streaming(keeper, set("abc") - {keeper.primary()[0]})


def told(keeper, name, tls):
    """Until its order says of its upstream that it has TLS, which is not to say that it has none."""

    def says():
        upstream = (by_name(keeper, name).status()["order"] or {}).get("upstream")
        return upstream is not None and upstream.get("tls", True) is tls

    until(keeper, says, 10, f"{name} to be told that its upstream has {'' if tls else 'no '}TLS")


def encrypted(keeper):
    """By name, whether the standbys' streams are."""
    with by_name(keeper, keeper.primary()[0]).connect() as connection:
        sql = "SELECT application_name, ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
        return dict(connection.execute(sql).fetchall())


def test_from_off_to_on_and_back(changing):
    """One after the other under load, standbys first: only who has TLS and follows one without is told so."""
    herd = changing
    begun(herd)
    writer = Writer(herd.members)
    wait_until(lambda: len(writer.acknowledged) > 50, 20, "writes")
    assert encrypted(herd) == {"b": False, "c": False}
    for on in (True, False):
        old, term = herd.primary()
        others = sorted(set("abc") - {old})
        for name in others:
            begin_anew(herd, name, on)
            told(herd, name, not on)  # before its primary has what it has
            until(herd, lambda on=on, name=name: encrypted(herd).get(name) is (not on), 10, "its stream")
        herd.process.send_signal(signal.SIGUSR1)
        until(herd, lambda term=term: herd.primary()[1] == term + 1, 30, "another primary")
        new, _ = herd.primary()
        streaming(herd, set("abc") - {new})
        (third,) = set(others) - {new}
        told(herd, third, True)
        told(herd, old, on)  # it has TLS still, its primary not any more
        # encrypted where both have it, and where who has none finds it
        until(herd, lambda on=on, third=third, old=old: encrypted(herd) == {third: on, old: on}, 10, "streams")
        begin_anew(herd, old, on)
        told(herd, old, True)
        until(herd, lambda on=on, third=third, old=old: encrypted(herd) == {third: on, old: on}, 10, "streams")
        acknowledged = len(writer.acknowledged)
        until(herd, lambda n=acknowledged: len(writer.acknowledged) > n + 50, 20, "writes at the new primary")
    writer.end()
    assert lost(by_name(herd, herd.primary()[0]), writer) == []


def test_who_has_tls_follows_none_without_it_unbidden(changing):
    """An order without a word of it: no stream. What an order allows ends with it."""
    herd = changing
    begun(herd)
    a, b, _ = herd.members
    term = int(b.status()["order"]["term"])
    follow = {**a.upstream, "slot": "shardherd_b"}
    begin_anew(herd, "b", True)
    herd.stop()
    b.assign(term, "standby", seq=2, upstream=follow).settled("standby")
    with pytest.raises(pytest.fail.Exception):
        wait_until(lambda: b.status().get("receiver") == "streaming", 2)
    assert "server does not support SSL, but SSL was required" in b.log()
    b.assign(term, "standby", seq=2, upstream={**follow, "tls": False}).settled("standby")
    wait_until(lambda: b.status().get("receiver") == "streaming", 20, "streaming")
    # what was allowed ends with the order
    b.assign(term, "standby", seq=2, upstream=follow).settled("standby")
    with pytest.raises(pytest.fail.Exception):
        wait_until(lambda: b.status().get("receiver") == "streaming", 2)


def test_a_token_for_the_group(secured):
    """As the kubelet has it in a pod: the agent's own group may read it, nobody else."""
    a = by_name(secured, "a")
    a.process.terminate()
    a.process.wait(20)
    token = a.dir / "token"
    for mode, code in ((0o644, "chmod 600"), (0o660, "chmod 600"), (0o440, None)):
        token.chmod(mode)
        if code is None:
            a.start()
            assert a.status()["member"] == "a"
            continue
        before = len(a.log())
        with pytest.raises(pytest.fail.Exception):
            a.start()
        a.process.wait(20)
        assert code in a.log()[before:], mode
