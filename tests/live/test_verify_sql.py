"""The SQL of the verification: the same rows give the same sums, wherever they are; other rows do not."""

# ruff: noqa: E501 - tables of SQL texts

import contextlib
import json

import psycopg
import pytest
from conftest import TRIED, VERSIONS, pg_bin_dir
from guarded import LEAST, MOST, Shard

pytestmark = pytest.mark.beside

_number = iter(range(1, 100000))

COLUMNS = [
    "k bigint PRIMARY KEY", "b int", "h text", "x numeric", "bytes bytea", "at timestamptz", "list text[]", "day date",
    "span interval", "flag bool", "doc jsonb", "real float8", "small float4", "id uuid", "\"Odd \"\"one\"\" %s\" text",
    "twice int GENERATED ALWAYS AS (b * 2) STORED", "mood mood", "moods mood[]", "pair pair", "plain json", "tiny smallint",
    "fixed char(7)", "part int4range", "address inet", "cost money", "clock time", "zoned timetz", "words tsvector",
    "numbers int[]", "spot point", "relation regclass", "low lowly", "name name", "bits varbit",
]  # fmt: skip
TYPES = """CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b mood);
CREATE DOMAIN lowly AS int CHECK (VALUE < 100000)"""
OTHER_TYPES = """CREATE TYPE filler AS ENUM ('x'); CREATE DOMAIN lowly AS int CHECK (VALUE < 100000);
CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b mood)"""
FILL = """INSERT INTO odd (k, b, h, x, bytes, at, list, day, span, flag, doc, real, small, id, "Odd ""one"" %s", mood, moods, pair,
    plain, tiny, fixed, part, address, cost, clock, zoned, words, numbers, spot, relation, low, name, bits)
SELECT i, nullif(i % 3, 0), CASE i % 4 WHEN 0 THEN '' WHEN 1 THEN NULL WHEN 2 THEN 'a,"b"\\c' ELSE repeat('ünï' || i, 3000) END,
    CASE WHEN i % 5 = 0 THEN 'NaN'::numeric ELSE i / 7.0 END, decode(md5(i::text), 'hex'),
    CASE WHEN i % 9 = 0 THEN 'infinity'::timestamptz ELSE '2026-03-29 00:59:59.123456+00'::timestamptz + i * interval '1 h' END,
    CASE i % 3 WHEN 0 THEN '{}'::text[] WHEN 1 THEN ARRAY[NULL, 'NULL', '"', '{x}'] END, '2020-02-29'::date + i,
    i * interval '1 day 2 months 3.5 s', i % 2 = 0, jsonb_build_object('a', i, 'b', NULL), i / 3.0::float8, i / 3.0::float4,
    md5(i::text)::uuid, repeat('é', i % 5), 'glad', ARRAY['sad', NULL]::mood[], ROW(i, 'glad')::pair,
    '{"b":  1, "a": 2}', i, 'x', int4range(i, i + 9), '10.0.0.1/8', 12.34::numeric::money, '12:00:01.5', '12:00:01.5+02',
    'fat:2 cat:3'::tsvector, ARRAY[i, NULL], point(i / 3.0, 1e300), 'pg_class', i, 'n' || i, B'101'
FROM generate_series(1, 300) i"""
# sessions of different users and databases have different ones
HABITS = (
    "SET \"TimeZone\" = 'Asia/Kolkata'; SET \"DateStyle\" = 'SQL, DMY'; SET \"IntervalStyle\" = 'iso_8601'; "
    "SET extra_float_digits = -5; SET bytea_output = 'escape'"
)


def make(server, habits="", order=1, types=TYPES):
    shard = Shard(server, f"v{next(_number)}")
    shard.run(habits or "SELECT 1")
    shard.run(types)
    more = ["dropped int", *COLUMNS][::-1] if order < 0 else COLUMNS
    shard.make(f"CREATE TABLE odd ({', '.join(more)})", ranges=((LEAST, MOST),), odd="k")
    shard.sql.execute(FILL)
    if order < 0:
        shard.run("ALTER TABLE odd DROP COLUMN dropped")
    return shard


@contextlib.contextmanager
def shards(*made):
    try:
        yield made
    finally:
        for shard in made:
            shard.close()


@pytest.fixture(scope="module", params=TRIED, ids=lambda version: f"pg{version}")
def server(request, pg_factory_module):
    return pg_factory_module(request.param, wal_level="logical")


def buckets(shard, exact=False, lo=LEAST, hi=MOST, wanted=None, cut=(None, None, None), on=None):
    rows = shard.run(
        "SELECT * FROM shardherd.verify_buckets('public.odd', %s, %s, %s, %s::int[], %s, %s, %s)",
        exact, lo, hi, wanted, *cut, on=on,
    )  # fmt: skip
    return {bucket: (rows, checksum) for bucket, rows, checksum in rows}


CHANGES = [
    "UPDATE odd SET bytes = set_byte(bytes, 3, get_byte(bytes, 3) # 1) WHERE k = 7",
    "UPDATE odd SET h = NULL WHERE k = 4",  # was an empty text
    "UPDATE odd SET h = overlay(h placing '!' from 4000) WHERE k = 3",  # TOAST
    "UPDATE odd SET at = at + interval '1 microsecond' WHERE k = 8",
    "UPDATE odd SET list = ARRAY['NULL', 'NULL', '\"', '{x}'] WHERE k = 1",
    'UPDATE odd SET "Odd ""one"" %s" = \'e\' WHERE k = 2',
    'UPDATE odd SET h = \'x\', "Odd ""one"" %s" = \'\' WHERE k = 3',
    "UPDATE odd SET x = trunc(x, 2) * 1.00 WHERE k = 7",
    "UPDATE odd SET x = -x WHERE k = 8",  # PostgreSQL's own hash of a numeric has no sign
    "UPDATE odd SET x = round(x, 30) WHERE k = 1",
    "UPDATE odd SET real = real + 1e-13 WHERE k = 8",
    "UPDATE odd SET small = small * 1.0001 WHERE k = 8",
    "UPDATE odd SET mood = 'sad' WHERE k = 8",
    "UPDATE odd SET moods = ARRAY['sad', 'sad']::mood[] WHERE k = 8",
    "UPDATE odd SET pair.b = 'sad' WHERE k = 8",
    "UPDATE odd SET low = 77 WHERE k = 8",
    "UPDATE odd SET numbers = ARRAY[8] WHERE k = 8",
    'UPDATE odd SET plain = \'{"b": 1, "a": 2}\' WHERE k = 8',
    "UPDATE odd SET relation = 'pg_proc' WHERE k = 8",
    "UPDATE odd SET cost = cost + 0.01::money WHERE k = 8",
    "UPDATE odd SET span = '30 days'::interval WHERE k = 8",
    "UPDATE odd SET flag = NULL WHERE k = 9",
    "DELETE FROM odd WHERE k = 5",
    "INSERT INTO odd (k) VALUES (1000)",
]


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_one_byte_is_told(server, exact):
    with shards(make(server), make(server, HABITS, -1, OTHER_TYPES)) as (one, two):
        same = buckets(one, exact)
        assert buckets(two, exact) == same
        assert sum(rows for rows, _ in same.values()) == 300
        for sql in CHANGES:
            client = two.connect(autocommit=False)
            assert two.run(sql, on=client) == 1, sql
            other = buckets(two, exact, on=client)
            differing = [n for n in {*same, *other} if same.get(n) != other.get(n)]
            assert len(differing) == 1, sql
            alone = buckets(two, exact, wanted=differing, on=client)
            assert alone == {n: other[n] for n in differing if n in other}
            client.rollback()
            client.close()
        assert buckets(two, exact) == same


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_every_version_says_the_same(pg_factory_module, exact):
    versions = [v for v in VERSIONS if pg_bin_dir(v)]
    assert len(versions) > 1
    made = [
        make(pg_factory_module(v, wal_level="logical"), HABITS if i % 2 else "", (-1) ** i)
        for i, v in enumerate(versions)
    ]
    with shards(*made):
        sums = [buckets(shard, exact) for shard in made]
        assert len(sums[0]) > 200
        assert all(found == sums[0] for found in sums[1:])


def test_what_two_rows_exchange_does_not_cancel(server):
    """In one bucket, and even of one key: in a plain sum of the hashes of columns it would."""
    with shards(Shard(server, f"v{next(_number)}")) as (shard,):
        shard.make(
            "CREATE TABLE odd (k bigint, n int, a int, b int, PRIMARY KEY (k, n))", ranges=((LEAST, MOST),), odd="k"
        )
        shard.run(
            "INSERT INTO odd SELECT k, n, k * 10 + n, k * 1000 + n FROM generate_series(1, 3) k, generate_series(1, 9) n"
        )
        for exact in (False, True):
            for sql in (
                "UPDATE odd SET a = CASE n WHEN 1 THEN 12 ELSE 11 END WHERE k = 1 AND n IN (1, 2)",
                "UPDATE odd SET a = b, b = a WHERE k = 1 AND n = 1",
                "UPDATE odd SET a = a + 1, b = b - 1 WHERE k = 1 AND n = 1",
                "UPDATE odd SET n = 19 - n WHERE k = 1",
            ):
                client = shard.connect(autocommit=False)
                before = buckets(shard, exact, on=client)
                shard.run(sql, on=client)
                after = buckets(shard, exact, on=client)
                assert len([n for n in before if before[n] != after[n]]) == 1, (exact, sql)
                client.rollback()


def test_two_stored_forms_of_the_same_value(server):
    """Differ in the fast form, and not in the exact one, so they are no difference."""
    with shards(Shard(server, f"v{next(_number)}")) as (shard,):
        shard.make("CREATE TABLE odd (k bigint PRIMARY KEY, list int[])", ranges=((LEAST, MOST),), odd="k")
        shard.run("INSERT INTO odd VALUES (1, '{1,2}')")
        fast, exact = buckets(shard), buckets(shard, True)
        shard.run("UPDATE odd SET list = ('{NULL,1,2}'::int[])[2:3]")
        assert shard.run("SELECT list, array_lower(list, 1) FROM odd") == [([1, 2], 1)]
        assert buckets(shard) != fast
        assert buckets(shard, True) == exact


@pytest.mark.parametrize(("lo", "hi"), [(0, MOST), (LEAST, LEAST + 10), (5, 5), (-3, 10**17), (LEAST, MOST)])
def test_buckets_of_a_part(server, lo, hi):
    with shards(make(server)) as (shard,):
        rows = shard.value("SELECT count(*) FROM odd WHERE hashint8extended(k, 0) BETWEEN %s AND %s", lo, hi)
        found = buckets(shard, lo=lo, hi=hi)
        assert sum(n for n, _ in found.values()) == rows
        assert all(0 <= bucket < 1024 for bucket in found)
        assert len(found) >= min(rows, 1) + (rows > 100) * 70


@pytest.mark.parametrize("key", ["smallint", "integer", "bigint", "text", "varchar(9)", "uuid"])
def test_every_type_of_key(server, key):
    value = "md5(i::text)::uuid" if key == "uuid" else f"i::{key}"
    with shards(Shard(server, f"v{next(_number)}")) as (shard,):
        shard.make(f"CREATE TABLE odd (k {key} PRIMARY KEY, v int)", ranges=((LEAST, MOST),), odd="k")
        shard.run(f"INSERT INTO odd SELECT {value}, i FROM generate_series(1, 99) i")
        found = buckets(shard)
        assert sum(rows for rows, _ in found.values()) == 99
        shard.run(f"UPDATE odd SET v = 0 WHERE k = (SELECT {value} FROM generate_series(5, 5) i)")
        assert len([n for n, s in buckets(shard).items() if s != found[n]]) == 1
        identities = shard.value("SELECT json_agg(json_build_object('k', k::text)) FROM odd WHERE v IN (0, 7)")
        rows = shard.run("SELECT * FROM shardherd.verify_lookup('public.odd', false, %s)", json.dumps(identities))
        assert len(rows) == 2 and all(n == 1 for _, n, _ in rows)


def test_narrowed_to_rows(server):
    """Parts and rows of a bucket add up to it, and lookups say the same of a row as lists do."""
    with shards(make(server)) as (shard,):
        (bucket, (rows, checksum)) = max(buckets(shard, lo=LEAST, hi=MOST).items(), key=lambda item: item[1][0])
        found = shard.run("SELECT * FROM shardherd.verify_parts('public.odd', false, %s, %s, %s)", LEAST, MOST, bucket)
        assert sum(n for _, n, _ in found) == rows and sum(s for *_, s in found) == checksum
        parts = [part for part, *_ in found]
        listed = shard.run(
            "SELECT * FROM shardherd.verify_rows('public.odd', false, %s, %s, %s, %s::int[], 100)",
            LEAST,
            MOST,
            bucket,
            parts,
        )
        assert sum(n for _, n, _ in listed) == rows and sum(s for *_, s in listed) == checksum
        assert [who for who, *_ in listed] == sorted(who for who, *_ in listed)
        identities = json.dumps([json.loads(who) for who, *_ in listed])
        assert shard.run("SELECT * FROM shardherd.verify_lookup('public.odd', false, %s)", identities) == listed
        one = shard.run(
            "SELECT * FROM shardherd.verify_rows('public.odd', false, %s, %s, %s, %s::int[], 1)",
            LEAST,
            MOST,
            bucket,
            parts,
        )
        assert one == listed[:1]


def test_pieces_add_up(server):
    with shards(make(server)) as (shard,):
        shard.run("ANALYZE odd")
        columns, size, rows, cut = shard.run("SELECT * FROM shardherd.verify_table('public.odd')")[0]
        assert cut == "k" and rows == 300 and size > 8192 and "rows told by {k}" in columns
        after, total, pieces = None, {}, 0
        while pieces == 0 or after is not None:
            upto = shard.value("SELECT shardherd.verify_cut('public.odd', 'k', %s, 70)", after)
            for bucket, (n, checksum) in buckets(shard, cut=("k", after, upto)).items():
                before = total.get(bucket, (0, 0))
                total[bucket] = (before[0] + n, before[1] + checksum)
            after, pieces = upto, pieces + 1
        assert pieces == 5
        assert total == buckets(shard)


def test_what_a_table_is_cut_along(server):
    with shards(Shard(server, f"v{next(_number)}")) as (shard,):
        shard.run("""CREATE TABLE shuffled (k bigint PRIMARY KEY, v int);
            INSERT INTO shuffled SELECT hashint8(i), i FROM generate_series(1, 1000) i;
            CREATE TABLE named (k text PRIMARY KEY); INSERT INTO named SELECT to_char(i, '0000') FROM generate_series(1, 1000) i;
            CREATE TABLE timed (k bigint, at timestamptz NOT NULL, n int, PRIMARY KEY (k, at)); CREATE INDEX ON timed (at);
            INSERT INTO timed SELECT hashint8(i), '2026-01-01'::timestamptz + i * interval '1 min' FROM generate_series(1, 1000) i""")
        shard.make("", ranges=((LEAST, MOST),), shuffled="k", named="k", timed="k")
        shard.run("ANALYZE")
        for table, cut in (("shuffled", None), ("named", None), ("timed", "at")):
            assert shard.value("SELECT cut_column FROM shardherd.verify_table(%s)", f"public.{table}") == cut


def test_partitions_and_tables_without_a_key(server):
    with shards(Shard(server, f"v{next(_number)}")) as (shard,):
        shard.run("""CREATE TABLE logs (k bigint NOT NULL, day date NOT NULL, PRIMARY KEY (k, day)) PARTITION BY RANGE (day);
            CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
            CREATE TABLE logs_2 (day date NOT NULL, k bigint NOT NULL);
            ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
            CREATE TABLE loose (k bigint NOT NULL, v int); ALTER TABLE loose REPLICA IDENTITY FULL""")
        shard.make("", ranges=((LEAST, MOST),), logs="k", loose="k")
        shard.run(
            "INSERT INTO logs SELECT i, d FROM generate_series(1, 50) i, (VALUES ('2024-02-02'::date), ('2026-02-02')) v(d)"
        )
        shard.run("INSERT INTO loose SELECT i % 10, i FROM generate_series(1, 50) i")
        for table, rows in (("logs", 100), ("loose", 50)):
            found = shard.run(
                "SELECT * FROM shardherd.verify_buckets(%s, false, %s, %s)", f"public.{table}", LEAST, MOST
            )
            assert sum(n for _, n, _ in found) == rows
        sample = {
            who for (who,) in shard.run("SELECT * FROM shardherd.verify_sample('public.logs', %s, %s)", LEAST, MOST)
        }
        assert {json.loads(who)["day"] for who in sample} == {"2024-02-02", "2026-02-02"}
        looked = shard.run(
            "SELECT * FROM shardherd.verify_lookup('public.logs', false, %s)",
            json.dumps([json.loads(w) for w in sample]),
        )
        assert {who for who, *_ in looked} == sample
        assert shard.run("SELECT * FROM shardherd.verify_sample('public.loose', %s, %s)", LEAST, MOST) == []
        ((who, rows, _),) = shard.run(
            "SELECT * FROM shardherd.verify_lookup('public.loose', false, '[{\"k\": \"3\"}]')"
        )
        assert json.loads(who) == {"k": "3"} and rows == 5


def test_the_sample_is_of_the_range(server):
    with shards(make(server)) as (shard,):
        whole = shard.run("SELECT * FROM shardherd.verify_sample('public.odd', %s, %s)", LEAST, MOST)
        upper = shard.run("SELECT * FROM shardherd.verify_sample('public.odd', 0, %s)", MOST)
        assert whole and upper
        for (who,) in upper:
            assert shard.value("SELECT hashint8extended(%s, 0) >= 0", int(json.loads(who)["k"]))
        shard.run("DELETE FROM odd")
        assert shard.run("SELECT * FROM shardherd.verify_sample('public.odd', %s, %s)", LEAST, MOST) == []


def test_nobody_else_may_hash_memory(server):
    """A function that takes any argument for what it expects would show what lies beside it."""
    with shards(make(server)) as (shard,):
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            server.psql("CREATE ROLE app LOGIN")
        client = shard.connect("app")
        for sql in ("hash_bytes(7, 0)", "hash_word(7, 0)", "hash_long(7, 0)", "upper_half(7, 0)"):
            with shard.refused("42501"):
                shard.run(f"SELECT shardherd.{sql}", on=client)
