"""Members that join a shard that lives and leave it, and a shard that served without a keeper: ha/keeper_size.c."""

import signal
import subprocess

import pytest
from conftest import wait_until
from test_agent_replica import POSTGRES, servers_of
from test_ha import Writer, by_name, herd, kept, lost, node_dies, streaming, until  # noqa: F401

pytestmark = pytest.mark.waits


def again(keeper, count, **environment):
    """The keeper is killed, and another one knows so many of the members."""
    keeper.kill()
    everybody = getattr(keeper, "everybody", keeper.members)
    keeper.everybody, keeper.members = everybody, everybody[:count]
    keeper.environment = environment
    keeper.lines.clear()
    keeper.start()
    until(keeper, lambda: keeper.primary()[0] is not None, 30, "the primary")


def sized(keeper, count):
    until(keeper, lambda: keeper.last("size") == ("s1", count), 40, f"a record of {count}")


def sync(keeper, count, members):
    primary = by_name(keeper, keeper.primary()[0])
    text = f"ANY {count} (" + ", ".join(f'"{m}"' for m in members) + ")" if count else ""
    until(keeper, lambda: primary.value("SHOW synchronous_standby_names") == text, 30, text)


def slots(member):
    return member.value("SELECT string_agg(slot_name, ' ' ORDER BY 1) FROM pg_replication_slots") or ""


def table(keeper):
    with by_name(keeper, "a").connect() as connection:
        connection.execute("CREATE TABLE w (id bigint)")
    return Writer(keeper.members)


def written(writer, more=200):
    count = len(writer.acknowledged) + more
    wait_until(lambda: len(writer.acknowledged) > count, 30, "writes")


@pytest.mark.slow
def test_one_leaves_and_comes_back(herd):  # noqa: F811
    until(herd, lambda: herd.primary() == ("a", 1), 30, "the first primary")
    streaming(herd, "bc")
    writer = table(herd)
    written(writer)
    again(herd, 3, HA_TOOL_WANTED="2")
    sized(herd, 2)
    sync(herd, 1, "b")
    a, b, c = herd.members
    until(herd, lambda: slots(a) == "shardherd_b" or c.process.terminate(), 20, "its slot to go once it is gone")
    node_dies(c)
    again(herd, 2)
    sized(herd, 2)
    written(writer)
    # with the data that it had: nothing that was acknowledged since relies on it
    c.start()
    again(herd, 3)
    sized(herd, 3)
    sync(herd, 1, "bc")
    node_dies(a)
    until(herd, lambda: herd.primary()[1] == 2, 30, "another primary")
    written(writer)
    writer.end()
    assert lost(by_name(herd, herd.primary()[0]), writer) == []


def test_the_primary_is_one_that_is_to_go(herd):  # noqa: F811
    """It hands over; then nobody but the last one is left, who needs no lease, and after that there are three."""
    until(herd, lambda: herd.primary() == ("a", 1), 30, "the first primary")
    streaming(herd, "bc")
    writer = table(herd)
    a, b, c = herd.members
    again(herd, 3, HA_TOOL_TAGS="c:preferred")
    node_dies(b)  # so that it is c
    herd.process.send_signal(signal.SIGUSR1)
    until(herd, lambda: herd.primary() == ("c", 2), 30, "c as the primary")
    b.start()
    streaming(herd, "ab")
    written(writer)
    again(herd, 3, HA_TOOL_WANTED="1")
    until(herd, lambda: herd.primary() == ("a", 3), 30, "a as the primary, the only one that stays")
    sized(herd, 1)
    assert a.value("SHOW synchronous_standby_names") == ""
    for member in (b, c):
        node_dies(member)
    again(herd, 1)
    herd.kill()
    written(writer, 1000)  # 5 s: without the keeper a lease would have run out
    b.start()
    c.start()
    again(herd, 3)
    sized(herd, 3)
    sync(herd, 1, "bc")
    # until they are seen to have what it acknowledged alone nobody may take its place (F3)
    joined = "a member joins the shard"
    until(herd, lambda: "(F23)" in herd.log().rpartition(joined)[2], 20, "what it acknowledged alone to be on another")
    node_dies(a)
    until(herd, lambda: herd.primary()[1] == 4, 30, "another primary")
    written(writer)
    writer.end()
    assert lost(by_name(herd, herd.primary()[0]), writer) == []


def alone(member):
    """What a pod of one instance runs: its agent starts the server by itself."""
    argv = [member.program, "agent", f"--data={member.data}", f"--bin={member.bin}", f"--run={member.dir}"]
    argv += [f"--settings={member.dir / 'settings'}", f"--password-file={member.dir / 'password'}"]
    argv += ["--listen=127.0.0.1", f"--port={member.port}", f"--http-port={member.http}"]
    with (member.dir / "log").open("ab") as log:
        process = subprocess.Popen(
            argv, stderr=log, stdout=log, user=POSTGRES, group=POSTGRES, cwd="/", start_new_session=True
        )
    wait_until(lambda: member.call("GET", "/readyz", token=None)[0] == 200, 30, "its server")
    return process


def wiped(keeper):
    """As if none of it had been there."""
    keeper.kill()
    for member in keeper.members:
        node_dies(member)
        subprocess.run(["sh", "-c", f"rm -rf {member.data}*"], check=True)
    subprocess.run(["sh", "-c", f"rm -f {keeper.store}*"], check=True)
    keeper.lines.clear()
    keeper.environment = {"HA_TOOL_ADOPTS": "1"}


def test_a_shard_that_served_without_a_keeper(herd):  # noqa: F811
    """Its data stay, the others are cloned from it, and nothing that it acknowledged before is lost."""
    wiped(herd)
    a, b, c = herd.members
    b.start()
    c.start()
    process = alone(a)
    with a.connect() as connection:
        connection.execute("CREATE TABLE w (id bigint)")
    writer = Writer([a])
    written(writer)
    herd.start()
    until(herd, lambda: herd.last("size") == ("s1", 3), 20, "its record")
    written(writer)  # its agent takes no orders yet, and nobody else is made the primary
    process.terminate()
    assert process.wait(timeout=30) == 0
    a.start()
    until(herd, lambda: herd.primary() == ("a", 1), 30, "it to be the primary")
    written(writer)
    streaming(herd, "bc")
    sync(herd, 1, "bc")
    until(herd, lambda: "(F23)" in herd.log(), 20, "what it acknowledged alone to be on another")
    writer.members = herd.members
    node_dies(a)
    until(herd, lambda: herd.primary()[1] == 2, 30, "another primary")
    written(writer)
    writer.end()
    assert lost(by_name(herd, herd.primary()[0]), writer) == []


def test_an_empty_one_is_not_adopted(herd):  # noqa: F811
    """Its volume was lost before it took orders: no empty database takes the place of the one that was there."""
    wiped(herd)
    for member in herd.members:
        member.start()
    herd.start()
    a = herd.members[0]
    until(herd, lambda: "does not say" in str(a.status().get("error")), 20, "it to say so")
    assert herd.primary() == (None, 0)
    assert not servers_of(a.data)
