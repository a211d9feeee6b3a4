"""The hash computed in C equals the server's, for every type of shard key."""

import random
import subprocess
import uuid

import psycopg
import pytest

pytestmark = pytest.mark.beside

COUNT = 100_000
SEED = 20261121
INTEGERS = {"smallint": 16, "integer": 32, "bigint": 64}
SQL = {
    "smallint": "hashint2extended(k::smallint, 0)",
    "integer": "hashint4extended(k::integer, 0)",
    "bigint": "hashint8extended(k::bigint, 0)",
    "text": "hashtextextended(k, 0)",
    "varchar": "hashtextextended(k::varchar, 0)",
    "uuid": "uuid_hash_extended(k::uuid, 0)",
}
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "".join(map(chr, range(1, 128))),
    "äöüßéèñøåçœŒæÆ",
    "日本語中文한국어",
    "🐑🐘🦄👩🏽",
]


def integer_keys(rng, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    edges = {0, low, high}
    for power in range(bits):
        for near in (-1, 0, 1):
            edges |= {2**power + near, -(2**power) + near}
    keys = [str(value) for value in sorted(edges) if low <= value <= high]
    keys += [f"  +{7} ", "\t-7\n", "-0", "00042"]
    while len(keys) < COUNT:
        # all magnitudes alike, else nearly every random bigint would have all its bits set somewhere
        keys.append(str(rng.randint(low, high) >> rng.randrange(bits)))
    return keys


def text_keys(rng):
    keys = [letter * length for length in range(65) for letter in ("x", "\x7f")]
    keys += ["é" * length for length in range(33)]
    keys += ["x" * (1024 * 1024), "é" * (512 * 1024), "🐑" * (256 * 1024 - 1) + "abc", " ", "  x  ", "\t\n"]
    while len(keys) < COUNT:
        keys.append("".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(65))))
    return keys


def uuid_keys(rng):
    edges = [0, 1, 2**128 - 1, 2**127, 2**64, 2**64 - 1, *(2**bit for bit in range(128))]
    forms = [str, lambda u: u.hex, lambda u: "{" + str(u) + "}", lambda u: str(u).upper()]
    keys = [form(uuid.UUID(int=value)) for value in edges for form in forms]
    while len(keys) < COUNT:
        keys.append(rng.choice(forms)(uuid.UUID(int=rng.getrandbits(128))))
    return keys


def keys_of(kind):
    rng = random.Random(f"{SEED} {kind}")
    if kind in INTEGERS:
        return integer_keys(rng, INTEGERS[kind])
    return uuid_keys(rng) if kind == "uuid" else text_keys(rng)


def hashes_in_c(program, kind, keys):
    lines = "".join(f"{kind}\t{key.encode().hex()}\n" for key in keys)
    done = subprocess.run([str(program)], input=lines, capture_output=True, text=True, check=True)
    return done.stdout.split()


def hashes_of_server(server, kind, keys):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE keys (n int, k text)")
        with cursor.copy("COPY keys FROM STDIN") as copy:
            for number, key in enumerate(keys):
                copy.write_row((number, key))
        cursor.execute(f"SELECT {SQL[kind]} FROM keys ORDER BY n")
        return [str(row[0]) for row in cursor]


@pytest.fixture(scope="module")
def server(pg_factory_module):
    return pg_factory_module()


@pytest.mark.parametrize("kind", SQL)
def test_equal(server, tool, kind):
    keys = keys_of(kind)
    ours = hashes_in_c(tool("hash_tool"), kind, keys)
    theirs = hashes_of_server(server, kind, keys)
    assert len(keys) >= COUNT and len(ours) == len(theirs) == len(keys)
    different = [(k[:80], a, b) for k, a, b in zip(keys, ours, theirs, strict=True) if a != b]
    assert not different, f"{len(different)} of {len(keys)} differ, seed {SEED}: {different[:5]}"
    assert len(set(ours)) > 1000


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("smallint", "32768"),
        ("integer", "2147483648"),
        ("integer", "1 2"),
        ("integer", ""),
        ("integer", "+-1"),
        ("integer", "1.0"),
        ("bigint", "9223372036854775808"),
        ("uuid", "a0-eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("uuid", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("uuid", " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-"),
    ],
)
def test_what_the_server_refuses_we_refuse(server, tool, kind, text):
    with server.connect() as connection, pytest.raises(psycopg.DataError):
        connection.execute(f"SELECT {SQL[kind]} FROM (SELECT %s::text AS k) keys", (text,))
    assert hashes_in_c(tool("hash_tool"), kind, [text]) == ["invalid"]
