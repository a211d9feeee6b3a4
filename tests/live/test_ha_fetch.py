"""Who is to be promoted fetches first what another one has that is not: across the timeline that this one is on, and
also when their histories part and the winner's is the longer one."""

import contextlib
import signal

import psycopg
import pytest
from conftest import wait_until
from test_ha import Writer, dump, kept, lost, node_dies, streaming, until

pytestmark = pytest.mark.waits

TAGS = "c:no_failover d:preferred "


@pytest.fixture
def herd(shardherd, tool, monkeypatch):
    """Four members; no commit waits for b."""
    monkeypatch.setenv("HA_TOOL_TAGS", "b:no_sync " + TAGS)
    with kept(shardherd, tool, "abcd") as keeper:
        yield keeper


def begin_again(herd, **environment):
    herd.environment = {"HA_TOOL_TAGS": TAGS, **environment}
    herd.lines.clear()
    herd.start()


def write_alone(a, b, c, d):
    """Some segments that only b gets."""
    for member in (c, d):
        node_dies(member)
    with a.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        for number in range(100, 104):
            connection.execute("INSERT INTO w VALUES (%s)", (number,))
            connection.execute("SELECT pg_switch_wal()")
    until_there(b, 4)
    node_dies(a)
    for member in (c, d):
        member.start()


def until_there(member, rows):
    def there():
        with contextlib.suppress(psycopg.Error):  # it may not know the table yet
            return member.value("SELECT count(*) FROM w") == rows

    wait_until(there, 30, "rows")


def begun_with_a(herd):
    """All four, once a is the primary, the others stream, and no commit waits for b; there is a table w."""
    a = herd.members[0]
    until(herd, lambda: herd.primary() == ("a", 1), 30, "the first primary")
    streaming(herd, "bcd")
    with a.connect() as connection:
        connection.execute("CREATE TABLE public.w (id bigint)")
    until(herd, lambda: a.value("SHOW synchronous_standby_names") == 'ANY 1 ("c", "d")', 20, "a sync set without b")
    return herd.members


@pytest.mark.parametrize("ahead", [True, False])
def test_fetch_from_who_is_not_promoted(herd, ahead):
    """a dies, d is promoted, c follows it and b, which is in its sync set, is away; then d dies and b comes back. b is
    promoted with what c has. ahead: b had got more of a than all others, though no commit waited for it."""
    a, b, c, d = begun_with_a(herd)
    until_there(b, 0)
    herd.stop()
    if ahead:
        write_alone(a, b, c, d)
    else:
        node_dies(a)
    begin_again(herd, SHARDHERD_TEST_KILL_AT="failover:before:promote")
    assert herd.process.wait(timeout=60) == -signal.SIGKILL, dump(herd.members, herd)
    node_dies(b)
    begin_again(herd, HA_TOOL_KEEPS="1")
    until(herd, lambda: herd.primary() == ("d", 2), 60, "d to be promoted")
    until(herd, lambda: "needs only any 1 of b, c from now on" in herd.log(), 20, "the sync set before to be settled")
    until(herd, lambda: int(d.status().get("checkpoints", 0)) > 0, 60, "its checkpoint")
    with d.connect() as connection:
        connection.execute("INSERT INTO w VALUES (1)")
    herd.stop()
    node_dies(d)
    b.start()
    begin_again(herd)
    until(herd, lambda: herd.primary()[0] == "b", 90, "b to be promoted")
    assert "first fetches from c" in herd.log()
    assert herd.log().count("state=fetch") < 4  # it does not ask again and again
    assert ("b is rewound" in herd.log()) == ahead
    assert "it is copied" not in herd.log()
    assert b.value("SELECT array_agg(id ORDER BY id) FROM w") == [1]
    for member in (a, d):
        member.start()
    streaming(herd, "acd")
    writer = Writer([b])
    until(herd, lambda: len(writer.acknowledged) > 50, 20, "writes")
    writer.end()
    assert not lost(b, writer)


def test_fetch_on_the_same_timeline(herd):
    """An agent of an older version knows no timeline_term: the order says nothing of it to who has no need of it."""
    a, b, c, d = begun_with_a(herd)
    until_there(d, 0)
    herd.stop()
    for member in (b, d):
        node_dies(member)
    with a.connect() as connection:
        connection.execute("INSERT INTO w VALUES (1)")
    node_dies(a)
    d.start()
    begin_again(herd, SHARDHERD_TEST_KILL_AT="failover:after:fetch")
    assert herd.process.wait(timeout=60) == -signal.SIGKILL, dump(herd.members, herd)
    assert "first fetches from c" in herd.log()
    order = d.status()["order"]
    assert order["upstream"]["port"] == c.port, order
    assert "timeline" not in order and "timeline_term" not in order, order
    begin_again(herd)
    until(herd, lambda: herd.primary()[0] == "d", 60, "d to be promoted")
    assert d.value("SELECT array_agg(id) FROM w") == [1]
