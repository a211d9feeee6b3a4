"""The guards of a fence: prepared before it, passing until its COMMIT, put to sleep when it is settled or given up."""

import itertools
import os
import subprocess

import psycopg
import pytest
from conftest import VERSIONS
from guarded import LEAST, MOST, Shard, open_gate, settle, start_server, with_accounts
from rig import SCHEMA_COMMAND, Rig
from test_faults import sql as run_on

pytestmark = pytest.mark.beside

_number = itertools.count()


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return start_server(pg_factory_module, request.param)


@pytest.fixture
def shard(server):
    made = Shard(server, f"f{next(_number)}")
    yield made
    made.close()


@pytest.fixture
def accounts(shard):
    """Owned rows from 0 to max, and, as after a move before its clean-up, rows that are not owned."""
    with_accounts(shard)
    shard.place("INSERT INTO accounts (k) SELECT unnest(%s::bigint[])", shard.foreign)
    return shard


def awake(shard):
    rows = shard.run(
        "SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgname ~ '^shardherd_fence_(insert|update|delete)$'"
    )
    (state,) = rows[0]
    assert len(rows) == 1, rows
    return state == b"A" if isinstance(state, bytes) else state == "A"


def refuses(shard, key, epoch):
    for sql in (
        f"UPDATE accounts SET v = 7 WHERE k = {key}",
        f"DELETE FROM accounts WHERE k = {key}",
        f"INSERT INTO accounts VALUES ({key}) ON CONFLICT (k) DO UPDATE SET v = 7",
    ):
        with shard.refused("SHR01", f"epoch {epoch}"):
            shard.run(sql)


def halves(shard):
    """A key of the lower half of what is owned and one of the upper, and where they part."""
    by_hash = sorted(shard.owned, key=lambda k: shard.value("SELECT hashint8extended(%s, 0)", k))
    low, high = by_hash[0], by_hash[-1]
    return low, high, shard.value("SELECT hashint8extended(%s, 0)", high)


def all_pass(shard, *keys):
    for key in keys:
        assert shard.run("UPDATE accounts SET v = 1 WHERE k = %s", key) == 1


def test_prepared_fence_refuses_nothing_before_the_fence(accounts):
    low, high, middle = halves(accounts)
    accounts.prepare_fence(middle, MOST)
    all_pass(accounts, low, high)
    defined = accounts.value("SELECT array_agg(tg.xmin::text || tg.oid ORDER BY tg.oid) FROM pg_trigger tg")
    accounts.fence(middle, MOST)
    assert awake(accounts)
    # the fence changed no trigger, on however many tables
    assert accounts.value("SELECT array_agg(tg.xmin::text || tg.oid ORDER BY tg.oid) FROM pg_trigger tg") == defined
    refuses(accounts, high, 2)
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low) == 1
    assert accounts.ranges() == (2, [(0, middle - 1)])


@pytest.mark.parametrize("other", ["move", "range", "epoch"])
def test_fence_that_was_not_prepared_as_it_is_made(accounts, other):
    low, high, middle = halves(accounts)
    accounts.run(
        "SELECT shardherd.prepare_fence(1, %s, %s, %s, %s)",
        "m0" if other == "move" else "m1", 0 if other == "range" else middle, MOST, 3 if other == "epoch" else 2,
    )  # fmt: skip
    accounts.fence(middle, MOST, prepared=False)
    assert not awake(accounts)
    refuses(accounts, high, 2)
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low) == 1


def test_settled_fence_leaves_plain_guards(accounts):
    low, high, middle = halves(accounts)
    accounts.fence(middle, MOST)
    for _ in range(2):
        accounts.run("SELECT shardherd.settle_fence(1, 'm1')")
        assert not awake(accounts)
        refuses(accounts, high, 2)
        assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low) == 1
    client = accounts.connect()
    accounts.run("SET shardherd.epoch = 1", on=client)
    with accounts.refused("SHR01", "routed with epoch 1", "epoch 2"):
        accounts.run("UPDATE accounts SET v = 1 WHERE k = %s", low, on=client)


@pytest.mark.parametrize("settled", [True, False])
def test_next_fence_keeps_what_the_last_one_refused(accounts, settled):
    low, high, middle = halves(accounts)
    accounts.fence(middle, MOST)
    if settled:
        accounts.run("SELECT shardherd.settle_fence(1, 'm1')")
    accounts.prepare_fence(0, middle - 1, new=3)
    refuses(accounts, high, 2)
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low) == 1
    accounts.fence(0, middle - 1, old=2, new=3)
    refuses(accounts, high, 2)
    refuses(accounts, low, 3)
    assert accounts.ranges() == (3, [])


@pytest.mark.parametrize("settled", [True, False])
def test_range_that_comes_back_is_accepted(accounts, settled):
    """Also when the fence that gave it away was never settled: what its guards refuse, the gate decides now."""
    _, high, middle = halves(accounts)
    accounts.fence(middle, MOST)
    if settled:
        accounts.run("SELECT shardherd.settle_fence(1, 'm1')")
    accounts.run("SELECT shardherd.close_gate(1, 'm2', %s, %s)", middle, MOST)
    refuses(accounts, high, 2)
    open_gate(accounts, move="m2", lo=middle)
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", high) == 1
    settle(accounts, lo=middle, epoch=3, move="m2")
    assert accounts.run("UPDATE accounts SET v = 4 WHERE k = %s", high) == 1
    assert accounts.ranges() == (3, [(0, MOST)])


@pytest.mark.parametrize("prepared", [True, False])
def test_fence_beside_the_gate_of_another_move(accounts, prepared):
    """A shard may give one range away while it gets another."""
    low, high, middle = halves(accounts)
    accounts.own([(0, middle - 1)])
    accounts.run("SELECT shardherd.close_gate(1, 'm2', %s, %s)", middle, MOST)
    open_gate(accounts, move="m2", lo=middle)
    accounts.fence(0, middle - 1, prepared=prepared)
    refuses(accounts, low, 2)
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", high) == 1
    accounts.run("SELECT shardherd.settle_fence(1, 'm1')")
    refuses(accounts, low, 2)
    assert accounts.run("UPDATE accounts SET v = 3 WHERE k = %s", high) == 1
    settle(accounts, lo=middle, epoch=3, move="m2")
    refuses(accounts, low, 3)
    assert accounts.ranges() == (3, [(middle, MOST)])


def test_position_of_an_opening_that_was_begun_early(accounts):
    """X is after all that the target got while the opening was prepared; a committed one keeps its own."""
    _, high, middle = halves(accounts)
    accounts.own([(0, middle - 1)])
    accounts.run("SELECT shardherd.close_gate(1, 'm1', %s, %s)", middle, MOST)
    opener = accounts.connect(autocommit=False)
    early = open_gate(accounts, lo=middle, on=opener)
    accounts.place("UPDATE accounts SET v = 8 WHERE k = %s", high)
    got = accounts.value("SELECT pg_current_wal_insert_lsn()")
    refuses(accounts, high, 1)  # the opening is seen by nobody yet
    accounts.run("SELECT shardherd.opened('m1')", on=opener)
    opener.commit()
    assert accounts.run("UPDATE accounts SET v = 9 WHERE k = %s", high) == 1
    opened = accounts.value("SELECT opened_lsn FROM shardherd.gate")
    assert accounts.value("SELECT %s::pg_lsn < %s::pg_lsn AND %s::pg_lsn <= %s::pg_lsn", early, got, got, opened)
    accounts.run("SELECT shardherd.opened('m1')")
    assert open_gate(accounts, lo=middle) == opened


def broken_off(shard, how):
    """A fence of the lower half that does not commit."""
    connection = shard.connect(autocommit=False)
    shard.run("SELECT shardherd.check_term(1)", on=connection)
    shard.run("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE", on=connection)
    shard.run("SELECT shardherd.fence('m1', %s, %s, 1, 2)", *how["range"], on=connection)
    if how["end"] == "rollback":
        connection.rollback()
    else:
        pid = connection.info.backend_pid
        shard.run("SELECT pg_terminate_backend(%s, 5000)", pid)
    connection.close()


@pytest.mark.parametrize("end", ["rollback", "terminated"])
def test_prepared_fence_that_is_broken_off_refuses_nothing(accounts, end):
    low, high, middle = halves(accounts)
    accounts.prepare_fence(middle, MOST)
    for _ in range(2):
        broken_off(accounts, {"range": (middle, MOST), "end": end})
        all_pass(accounts, low, high)
        strict = accounts.connect()
        accounts.run("SET shardherd.epoch = 1", on=strict)
        assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", high, on=strict) == 1
        accounts.run("SET shardherd.epoch = 2", on=strict)
        with accounts.refused("SHR01", "routed with epoch 2", "epoch 1"):
            accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low, on=strict)
    accounts.fence(middle, MOST)
    refuses(accounts, high, 2)
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low) == 1
    assert accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low, on=strict) == 1  # with the fence's epoch
    accounts.run("SET shardherd.epoch = 1", on=strict)
    with accounts.refused("SHR01", "routed with epoch 1", "epoch 2"):
        accounts.run("UPDATE accounts SET v = 2 WHERE k = %s", low, on=strict)


def test_fence_prepared_in_vain_sleeps_again(accounts):
    _, high, middle = halves(accounts)
    accounts.freeze(lo=middle)
    accounts.prepare_fence(middle, MOST)
    assert awake(accounts)
    accounts.unfreeze()
    assert not awake(accounts) and accounts.run("SELECT move FROM shardherd.prepared_fence") == []
    all_pass(accounts, high)


def test_what_sleeps_and_what_is_strict_say_little(accounts):
    """A server copies what triggers say for every statement, and reads the conditions of those that may fire."""
    _, _, middle = halves(accounts)
    accounts.freeze(lo=middle)
    accounts.fence(middle, MOST)
    accounts.unfreeze()
    asleep = accounts.run(
        "SELECT DISTINCT pg_get_expr(tgqual, tgrelid), tgnargs, tgenabled::text FROM pg_trigger "
        "WHERE tgname ~ '^shardherd_(fence_|crossing)'"
    )
    assert asleep == [("false", 0, "D")]
    assert accounts.run("SELECT tgqual FROM pg_trigger WHERE tgname = 'shardherd_strict'") == [(None,)]


def test_sleeping_fence_that_somebody_wakes_refuses_nothing(accounts):
    """As after a bulk load that switched all triggers off, and on again."""
    _, high, middle = halves(accounts)
    accounts.fence(middle, MOST)
    accounts.run("SELECT shardherd.settle_fence(1, 'm1')")
    accounts.own([(0, MOST)], epoch=3)
    accounts.run("ALTER TABLE accounts DISABLE TRIGGER USER; ALTER TABLE accounts ENABLE TRIGGER USER")
    all_pass(accounts, high)


def test_prepared_guards_that_were_switched_off_are_not_relied_upon(accounts):
    _, high, middle = halves(accounts)
    accounts.prepare_fence(middle, MOST)
    accounts.run("ALTER TABLE accounts DISABLE TRIGGER shardherd_fence_update")
    accounts.fence(middle, MOST, prepared=False)
    refuses(accounts, high, 2)


def test_fence_is_seen_by_who_may_not_see_its_sequence(accounts):
    _, high, middle = halves(accounts)
    accounts.run("REVOKE SELECT ON SEQUENCE shardherd.fenced FROM PUBLIC")
    accounts.run("DO $$ BEGIN CREATE ROLE blind; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    accounts.run("GRANT ALL ON accounts TO blind")
    accounts.fence(middle, MOST)
    client = accounts.connect()
    accounts.run("SET ROLE blind", on=client)
    with pytest.raises(psycopg.Error) as caught:
        accounts.run("UPDATE accounts SET v = 7 WHERE k = %s", high, on=client)
    assert caught.value.sqlstate in ("SHR01", "42501")  # 18: no value; before: no permission
    accounts.run("REVOKE ALL ON accounts FROM blind")


@pytest.mark.parametrize("prepared", [True, False])
def test_table_that_was_added_is_fenced_as_well(accounts, prepared):
    accounts.prepare_fence(0, MOST)
    accounts.run("CREATE TABLE more (k bigint PRIMARY KEY, v int)")
    accounts.run("SELECT shardherd.add_table(1, 'public.more', 'k')")
    accounts.fence(0, MOST, prepared=prepared)
    assert awake(accounts) == prepared
    refuses(accounts, accounts.owned[0], 2)
    with accounts.refused("SHR01", "epoch 2"):
        accounts.run("INSERT INTO more VALUES (%s)", accounts.owned[0])


def test_older_leader_prepares_nothing(accounts):
    accounts.run("SELECT shardherd.raise_term(2)")
    with accounts.refused("SHR03"):
        accounts.prepare_fence(0, MOST)
    with accounts.refused("SHR03"):
        accounts.run("SELECT shardherd.settle_fence(1, 'm1')")


# ---- an instance that was promoted, and lacks what its predecessor had ----


def settle_promoted(shard, epoch, ranges, term=1):
    los, his = [lo for lo, _ in ranges], [hi for _, hi in ranges]
    return shard.value("SELECT shardherd.settle_promoted(%s, %s, %s::bigint[], %s::bigint[])", term, epoch, los, his)


@pytest.mark.parametrize("prepared", [True, False])
def test_promoted_without_the_fence(accounts, prepared):
    """The range was given away, and this instance had not got that (A6)."""
    low, high, middle = halves(accounts)
    if prepared:
        accounts.prepare_fence(middle, MOST)
    all_pass(accounts, low, high)
    assert settle_promoted(accounts, 2, [(0, middle - 1)], term=5) == "settled"
    refuses(accounts, high, 2)
    all_pass(accounts, low)
    with accounts.refused("SHR03"):
        accounts.run("SELECT shardherd.check_term(4)")  # who led before may still be at it
    assert settle_promoted(accounts, 2, [(0, middle - 1)], term=5) == "same"
    with accounts.refused("SHR03"):
        settle_promoted(accounts, 3, [(0, MOST)], term=4)
    assert accounts.value("SHOW synchronous_commit") == "on"


@pytest.mark.parametrize("opened", [True, False])
def test_promoted_without_the_opening_or_its_settling(accounts, opened):
    _, high, middle = halves(accounts)
    accounts.own([(0, middle - 1)])
    accounts.run("SELECT shardherd.close_gate(1, 'm1', %s, %s)", middle, MOST)
    if opened:
        open_gate(accounts, lo=middle)
    else:
        refuses(accounts, high, 1)
    assert settle_promoted(accounts, 2, [(0, MOST)]) == "settled"
    all_pass(accounts, high)
    assert accounts.value("SELECT count(*) FROM shardherd.gate") == 0
    settle(accounts, lo=middle)  # the move, which goes on
    assert accounts.ranges() == (2, [(0, MOST)])


def test_promoted_knows_more_than_the_store(accounts):
    """A fence whose outcome was not written down yet, and the closed gate of a move that goes on."""
    low, high, middle = halves(accounts)
    accounts.fence(middle, MOST)
    assert settle_promoted(accounts, 1, [(0, MOST)]) == "later"
    refuses(accounts, high, 2)
    accounts.run("SELECT shardherd.close_gate(1, 'm2', %s, %s)", middle, MOST)
    assert settle_promoted(accounts, 2, [(0, middle - 1)]) == "same"
    refuses(accounts, high, 2)
    open_gate(accounts, move="m2", lo=middle)
    all_pass(accounts, low, high)


# ---- many tables: a few at a time ----

EXTRA = ("extra1", "extra2", "extra3", "extra4")


@pytest.fixture
def five(accounts):
    """Tables beside accounts, with the same keys."""
    for name in EXTRA:
        accounts.run(f"CREATE TABLE {name} (k bigint PRIMARY KEY, v int)")
        accounts.run("SELECT shardherd.add_table(1, %s, 'k')", f"public.{name}")
    accounts.own([(0, MOST)])
    for name in EXTRA:
        accounts.place(f"INSERT INTO {name} (k) SELECT unnest(%s::bigint[])", accounts.owned)
    return accounts


def step(shard, lo, hi, most=2, new=2):
    """Whether it was the last one, and the tables it locked."""
    with shard.connect(autocommit=False) as connection:
        sql = "SELECT shardherd.prepare_fence(1, 'm1', %s, %s, %s, %s)"
        done = shard.value(sql, lo, hi, new, most, on=connection)
        return done, locked(shard, connection)


def settle_step(shard, most=2):
    with shard.connect(autocommit=False) as connection:
        done = shard.value("SELECT shardherd.settle_fence(1, 'm1', %s)", most, on=connection)
        return done, locked(shard, connection)


def locked(shard, connection):
    rows = shard.run(
        "SELECT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'ShareRowExclusiveLock' "
        "AND relation IN (SELECT name::regclass FROM shardherd.tables) ORDER BY 1",
        on=connection,
    )
    return [name for (name,) in rows]


def everywhere(shard, key):
    """On which tables a write of the key passes."""
    passed = []
    for name in ("accounts", *EXTRA):
        try:
            assert shard.run(f"UPDATE {name} SET v = 1 WHERE k = {key}") == 1
            passed.append(name)
        except psycopg.Error as error:
            assert error.sqlstate == "SHR01", error
    return passed


ALL = ["accounts", *EXTRA]


def test_fence_is_prepared_and_settled_a_few_tables_at_a_time(five):
    low, high, middle = halves(five)
    steps = [step(five, middle, MOST) for _ in range(4)]
    assert steps == [(False, ALL[:2]), (False, ALL[2:4]), (True, ALL[4:]), (True, [])]
    assert everywhere(five, low) == everywhere(five, high) == ALL
    five.fence(middle, MOST, prepared=False)
    assert awake(five)  # it relied on what was prepared
    assert everywhere(five, high) == [] and everywhere(five, low) == ALL
    steps = []
    while not steps or not steps[-1][0]:
        steps.append(settle_step(five))
        assert everywhere(five, high) == [] and everywhere(five, low) == ALL
    assert steps == [(False, ALL[:2]), (False, ALL[2:4]), (True, ALL[4:])]
    assert not awake(five) and settle_step(five) == (True, [])


@pytest.mark.parametrize("before", [False, True])
def test_fence_that_is_prepared_in_part_is_not_relied_upon(five, before):
    """Also where all tables had been prepared for another range before."""
    low, high, middle = halves(five)
    if before:
        five.prepare_fence(0, middle - 1)
    assert step(five, middle, MOST) == (False, ALL[:2])
    assert everywhere(five, low) == everywhere(five, high) == ALL
    range_given, given, kept = ((0, middle - 1), low, high) if before else ((middle, MOST), high, low)
    five.fence(*range_given, prepared=False)
    assert everywhere(five, given) == [] and everywhere(five, kept) == ALL
    assert not awake(five)


@pytest.mark.parametrize("other", ["range", "epoch"])
def test_fence_prepared_for_another_is_prepared_anew(five, other):
    low, high, middle = halves(five)
    five.prepare_fence(0 if other == "range" else middle, MOST, new=3 if other == "epoch" else 2)
    assert [step(five, middle, MOST, most=3)[0] for _ in range(2)] == [False, True]
    five.fence(middle, MOST, prepared=False)
    assert awake(five)
    assert everywhere(five, high) == [] and everywhere(five, low) == ALL
    refuses(five, high, 2)


def test_next_fence_is_prepared_step_by_step_over_one_that_is_not_settled(five):
    low, high, middle = halves(five)
    five.fence(middle, MOST)
    for last in (False, False, True):
        assert step(five, 0, middle - 1, new=3)[0] == last
        assert everywhere(five, high) == [] and everywhere(five, low) == ALL
    five.fence(0, middle - 1, old=2, new=3, prepared=False)
    assert awake(five)
    assert everywhere(five, high) == everywhere(five, low) == []


def steps_of(shard, function, *params):
    """All steps of two tables: whether it was the last one, and the tables it locked. Yields after each."""
    done = False
    while not done:
        with shard.connect(autocommit=False) as connection:
            words = ", ".join(["%s"] * len(params))
            done = shard.value(f"SELECT shardherd.{function}(1, 'm1', {words})", *params, on=connection)
            tables = locked(shard, connection)
        yield done, tables


IN_STEPS = [(False, ALL[:2]), (False, ALL[2:4]), (True, ALL[4:])]


def crossing(shard, into):
    """On which tables a key may be changed from one half to the other."""
    passed = []
    for name in ALL:
        try:
            with shard.connect(autocommit=False) as connection:
                shard.run(f"UPDATE {name} SET k = {into} WHERE k = {halves(shard)[0]}", on=connection)
                connection.rollback()
            passed.append(name)
        except psycopg.Error as error:
            assert error.sqlstate == "SHR02", error
    return passed


def test_freeze_and_its_end_a_few_tables_at_a_time(five):
    _, high, middle = halves(five)
    for name in ALL:
        five.run(f"DELETE FROM {name} WHERE k = {high}")
    seen = []
    for done, tables in steps_of(five, "freeze", middle, MOST, False, 2):
        seen.append((done, tables))
        for name in ALL:  # from the first step on
            with five.refused("SHR02", "operation m1"):
                five.run(f"ALTER TABLE {name} ADD COLUMN more int")
        assert crossing(five, high) == ALL[2 * len(seen) :]
    assert seen == IN_STEPS
    assert list(steps_of(five, "freeze", middle, MOST, False, 2)) == [(True, [])]
    seen = []
    for done, tables in steps_of(five, "unfreeze", 2):
        seen.append((done, tables))
        assert crossing(five, high) == ALL[: 2 * len(seen)]
        if not done:
            with five.refused("SHR02", "operation m1"):
                five.run("ALTER TABLE accounts ADD COLUMN more int")
    assert seen == IN_STEPS
    five.run("ALTER TABLE accounts ADD COLUMN more int; TRUNCATE extra1")
    assert list(steps_of(five, "unfreeze", 2)) == [(True, [])]


def test_freeze_goes_on_with_a_partition_that_was_added_between_its_steps(shard):
    shard.make("CREATE TABLE a (k bigint PRIMARY KEY)", a="k")
    shard.make("CREATE TABLE e (k bigint PRIMARY KEY) PARTITION BY HASH (k)", e="k")
    adding = shard.connect(autocommit=False)
    shard.run("CREATE TABLE e0 PARTITION OF e FOR VALUES WITH (MODULUS 1, REMAINDER 0)", on=adding)
    steps = steps_of(shard, "freeze", 0, MOST, False, 1)
    assert not next(steps)[0]
    adding.commit()
    assert next(steps)[0]
    with shard.refused("SHR02", "TRUNCATE of public.e0"):
        shard.run("TRUNCATE e0")
    with shard.refused("SHR02"):
        shard.run("DROP TABLE e0")


def test_gate_is_closed_a_few_tables_at_a_time(five):
    low, high, _ = halves(five)
    for name in EXTRA:
        five.place(f"INSERT INTO {name} (k) SELECT unnest(%s::bigint[])", five.foreign)
    seen = []
    for step_ in steps_of(five, "close_gate", LEAST, -1, 2):
        seen.append(step_)
        assert everywhere(five, five.foreign[0]) == [] and everywhere(five, low) == everywhere(five, high) == ALL
    assert seen == IN_STEPS
    assert list(steps_of(five, "close_gate", LEAST, -1, 2)) == [(True, [])]
    open_gate(five, lo=LEAST, hi=-1)
    assert everywhere(five, five.foreign[0]) == everywhere(five, low) == ALL


def test_gate_is_settled_a_few_tables_at_a_time(five):
    low, high, _ = halves(five)
    asking = "SELECT name FROM shardherd.tables WHERE shardherd.asks_gate(name, 'm1') ORDER BY name"
    for name in EXTRA:
        five.place(f"INSERT INTO {name} (k) SELECT unnest(%s::bigint[])", five.foreign)
    five.run("SELECT shardherd.close_gate(1, 'm1', %s, -1)", LEAST)
    with five.refused("55000", "no open gate"):
        five.run("SELECT shardherd.settle(1, 'm1', %s, -1, 2, 2)", LEAST)
    opened = open_gate(five, lo=LEAST, hi=-1)
    seen = []
    for step_ in steps_of(five, "settle", LEAST, -1, 2, 2):
        seen.append(step_)
        assert everywhere(five, five.foreign[0]) == everywhere(five, low) == everywhere(five, high) == ALL
        assert five.ranges() == (2, [(LEAST, MOST)])
        assert [f"public.{name}" for name in ALL[2 * len(seen) :]] == [name for (name,) in five.run(asking)]
        assert five.run("SELECT count(*) FROM shardherd.gate") == [(0 if step_[0] else 1,)]
    assert seen == IN_STEPS
    assert five.run("SELECT move, lsn FROM shardherd.opening") == [("m1", opened)]
    assert list(steps_of(five, "settle", LEAST, -1, 2, 2)) == [(True, [])]


def test_manager_prepares_and_settles_all_tables(shardherd):
    """More than it takes at a time: the fence relies on all of them, and all sleep when it is settled."""
    names = [f"more{i}" for i in range(5)]
    schema = subprocess.run([shardherd, *SCHEMA_COMMAND], check=True, capture_output=True, text=True).stdout
    schema += "".join(f"CREATE TABLE {name} (customer_id bigint PRIMARY KEY);" for name in names)
    tables = [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "orders", *names)]
    states = "SELECT tgenabled::text, count(*) FROM pg_trigger WHERE tgname = 'shardherd_fence_insert' GROUP BY 1"
    rig = Rig(shardherd, f"/tmp/shardherd-fence-{os.getpid()}")
    try:
        rig.start()
        rig.make_shop(customers=100, schema=schema, tables=tables)
        rig.stop()
        rig.start(env={"SHARDHERD_TEST_KILL_AT": "move:after:open"})
        op_id = rig.post("/v1/databases/shop/operations", {"kind": "split", "shard": "s2", "bake": "0s"})["id"]
        rig.wait_dead()
        assert run_on(rig, "s2", states) == [("A", len(tables))]
        rig.start(env={"SHARDHERD_TEST_KILL_AT": "move:after:settle"}, wait=False)
        rig.wait_dead()
        assert run_on(rig, "s2", states) == [("D", len(tables))]
        rig.start()
        assert rig.wait_operation(op_id)["status"] == "done"
        rig.assert_consistent()
    finally:
        rig.clean_up()
