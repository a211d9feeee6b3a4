"""Standbys of standbys: one that follows another standby, what it does while that one is away or is the primary, and
what it does not do: count."""

import pytest
from conftest import wait_until
from test_ha import Writer, by_name, kept, lost, node_dies, until

pytestmark = pytest.mark.waits


@pytest.fixture
def herd(shardherd, tool, monkeypatch):
    monkeypatch.setenv("HA_TOOL_TAGS", "d:follows_1 ")
    with kept(shardherd, tool, "abcd") as keeper:
        yield keeper


def upstream(member, of):
    return member.status().get("upstream") == f"{of.host}:{of.port}"


def follows(keeper, name, of):
    member, upper = by_name(keeper, name), by_name(keeper, of)

    def there():
        status = member.status()
        return status.get("receiver") == "streaming" and upstream(member, upper)

    until(keeper, there, 60, f"{name} to follow {of}")


def slots(member):
    return set(member.value("SELECT coalesce(array_agg(slot_name), '{}') FROM pg_replication_slots"))


def sync(member):
    return member.value("SHOW synchronous_standby_names")


def test_follows_a_standby(herd):
    a, b, d = (by_name(herd, name) for name in "abd")
    until(herd, lambda: herd.primary() == ("a", 1), 30, "the first primary")
    follows(herd, "d", "b")
    with a.connect() as connection:
        connection.execute("CREATE TABLE w (id bigint)")
    wait_until(lambda: slots(b) == {"shardherd_d"}, 40, "its slot at its upstream")
    wait_until(lambda: slots(a) == {"shardherd_b", "shardherd_c"}, 40, "none at the primary")
    assert '"d"' not in sync(a)
    writer = Writer([by_name(herd, name) for name in "abc"])

    # its upstream dies and comes back
    node_dies(b)
    follows(herd, "d", "a")
    assert '"d"' not in sync(a)
    b.start()
    follows(herd, "d", "b")

    # the primary dies: that d still receives is no reason to wait
    node_dies(a)
    until(herd, lambda: herd.primary()[1] >= 2, 60, "another primary")
    assert herd.primary()[0] in "bc"
    follows(herd, "d", "b")  # whether it is the primary now or not
    a.start()
    count = len(writer.acknowledged)
    until(herd, lambda: len(writer.acknowledged) > count + 100, 60, "writes")
    follows(herd, "d", "b")
    writer.end()
    primary = by_name(herd, herd.primary()[0])
    assert writer.acknowledged and not lost(primary, writer)
    wait_until(lambda: d.value("SELECT max(id) FROM w") == primary.value("SELECT max(id) FROM w"), 60, "the last row")
