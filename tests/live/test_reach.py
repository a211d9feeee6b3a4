"""What a target that a move makes gets of its source beside the tables: roles, rights, settings, comments, statistics
targets, storage parameters."""

import json
import os
import re

import psycopg
import pytest
from checked import new_shop
from conftest import DEFAULT, TRIED, pg_bin_dir
from rig import Rig

pytestmark = pytest.mark.beside

REACHES = """
CREATE ROLE reader NOLOGIN CONNECTION LIMIT 7 VALID UNTIL '2031-02-03 04:05:06+00';
COMMENT ON ROLE reader IS 'reads';
CREATE ROLE "Odd ""one" LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS NOINHERIT PASSWORD 'open sesame';
CREATE ROLE lead SUPERUSER LOGIN;
GRANT reader TO "Odd ""one" WITH ADMIN OPTION;
GRANT pg_monitor TO reader;
ALTER ROLE reader SET search_path = public, "Odd schema";
ALTER ROLE reader SET statement_timeout = '7s';
ALTER ROLE app SET work_mem = '5MB';
ALTER ROLE ALL SET idle_session_timeout = '1h';
ALTER DATABASE shop SET "app.mode" = 'it''s on';
ALTER ROLE reader IN DATABASE shop SET lock_timeout = '3s';
GRANT SET ON PARAMETER log_statement TO reader;
REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC;
GRANT CREATE ON DATABASE shop TO reader WITH GRANT OPTION;
COMMENT ON DATABASE shop IS 'a shop';
CREATE SCHEMA "Odd schema" AUTHORIZATION reader;
GRANT USAGE ON SCHEMA "Odd schema" TO "Odd ""one";
COMMENT ON SCHEMA "Odd schema" IS 'odd';
ALTER DEFAULT PRIVILEGES FOR ROLE reader IN SCHEMA "Odd schema" GRANT SELECT ON TABLES TO app;
COMMENT ON TABLE orders IS 'what was ordered';
COMMENT ON COLUMN orders.note IS 'by hand';
COMMENT ON INDEX orders_pkey IS 'the key';
COMMENT ON CONSTRAINT orders_pkey ON orders IS 'unique';
ALTER TABLE orders ALTER note SET STATISTICS 321;
ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
ALTER TABLE orders ALTER order_id SET (n_distinct = -0.5);
ALTER TABLE orders SET (fillfactor = 71, autovacuum_vacuum_scale_factor = 0.03);
ALTER INDEX orders_pkey SET (fillfactor = 61);
CREATE STATISTICS pairs (dependencies) ON order_id, note FROM orders;
ALTER STATISTICS pairs SET STATISTICS 99;
COMMENT ON STATISTICS pairs IS 'of two';
GRANT SELECT (note), UPDATE (note) ON orders TO reader;
GRANT DELETE ON customers TO "Odd ""one" WITH GRANT OPTION;
ALTER TABLE names OWNER TO reader;
ALTER TABLE names ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON names FOR SELECT TO reader USING (n > 0);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql SET work_mem = '9MB' AS 'BEGIN RETURN NULL; END';
REVOKE EXECUTE ON FUNCTION nothing FROM PUBLIC;
CREATE TRIGGER off AFTER INSERT ON customers FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE customers DISABLE TRIGGER off;
ALTER TABLE customers CLUSTER ON customers_pkey;
CREATE SEQUENCE numbers INCREMENT 7 CACHE 3;
GRANT USAGE ON SEQUENCE numbers TO reader;
"""
# name -> rows of text that must be the same on both sides
CATALOGS = {
    "roles": "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, "
    "rolbypassrls, rolconnlimit, rolvaliduntil::text, shobj_description(oid, 'pg_authid'), "
    "CASE WHEN rolname NOT IN ('app', 'shardherd') THEN rolpassword END FROM pg_authid WHERE rolname !~ '^pg_'",
    "memberships": "SELECT roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members "
    "WHERE member >= 16384",
    "settings": "SELECT setrole::regrole::text, setdatabase <> 0, unnest(setconfig) FROM pg_db_role_setting "
    "WHERE setrole::regrole::text <> 'shardherd'",
    "parameters": "SELECT parname, paracl::text FROM pg_parameter_acl",
    "database": "SELECT shobj_description(oid, 'pg_database'), datconnlimit, "
    "(SELECT array_agg(x::text ORDER BY x::text) FROM unnest(datacl) x) FROM pg_database WHERE datname = 'shop'",
    "schemas": "SELECT nspname, nspowner::regrole::text, nspacl::text, obj_description(oid, 'pg_namespace') "
    "FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'shardherd'",
    "default privileges": "SELECT defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclacl::text "
    "FROM pg_default_acl",
    # an owner may MAINTAIN from 17 on: m
    "relations": "SELECT c.oid::regclass::text, relkind, relowner::regrole::text, "
    "(SELECT array_agg(replace(x::text, 'xtm/', 'xt/') ORDER BY x::text) FROM unnest(relacl) x), "
    "(SELECT array_agg(x ORDER BY x) FROM unnest(reloptions) x), relrowsecurity, "
    "relforcerowsecurity, relreplident, obj_description(c.oid, 'pg_class') FROM pg_class c "
    "WHERE relnamespace = 'public'::regnamespace",
    "columns": "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, "
    "nullif(attstattarget, -1), attstorage, attoptions::text, attacl::text, col_description(attrelid, attnum) "
    "FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0",
    "indexes": "SELECT indexrelid::regclass::text, indisunique, indisclustered, indisvalid, "
    "pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
    "WHERE relnamespace = 'public'::regnamespace",
    "constraints": "SELECT conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid), "
    "obj_description(oid, 'pg_constraint') FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace AND contype <> 'n'",
    "triggers": "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal "
    "AND tgname NOT LIKE 'shardherd%'",
    "statistics": "SELECT stxname, stxrelid::regclass::text, nullif(stxstattarget, -1), stxkind::text, "
    "obj_description(oid, 'pg_statistic_ext') FROM pg_statistic_ext",
    "policies": "SELECT polname, polrelid::regclass::text, polroles::regrole[]::text, pg_get_expr(polqual, polrelid) "
    "FROM pg_policy",
    "functions": "SELECT proname, proacl::text, proconfig::text, proowner::regrole::text FROM pg_proc "
    "WHERE pronamespace = 'public'::regnamespace",
    "sequences": "SELECT seqrelid::regclass::text, seqincrement, seqcache "
    "FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid "
    "WHERE relnamespace = 'public'::regnamespace",
}


def catalogs(shop, shard):
    return {name: sorted(map(repr, shop.sql(shard, query))) for name, query in CATALOGS.items()}


def assert_no_hash(shop, op, secret):
    """Neither in a log nor in what the API tells of the operation."""
    assert secret.startswith("SCRAM-SHA-256$")
    logs = [shop.rig.log, *shop.instances.glob("*/log")]
    assert len(logs) >= 3
    for text in [str(op), *(path.read_text(errors="replace") for path in logs)]:
        assert secret not in text and "SCRAM-SHA-256$" not in text


def reaches(shop):
    """Makes one of each on s2, splits it, and compares."""
    rig = shop.rig
    shop.sql("s2", REACHES)
    shop.sql(
        "s2",
        "INSERT INTO names SELECT i::text, i FROM generate_series(1, 2000) i WHERE hashtextextended(i::text, 0) >= 0",
    )
    hashes = dict(shop.sql("s2", "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"))
    op = shop.move()
    assert op["status"] == "done", (op, rig.tail())
    ours, theirs = catalogs(shop, "s2"), catalogs(shop, op["target"])
    for name in CATALOGS:
        assert theirs[name] == ours[name], name
        assert ours[name] or name in ("parameters", "default privileges"), name
    rig.assert_consistent()
    assert_no_hash(shop, op, hashes['Odd "one'])
    return op


@pytest.mark.parametrize("version", TRIED)
def test_everything_reaches_a_new_shard(shardherd, version):
    with new_shop(shardherd, f"reach-{version}", version) as shop:
        op = reaches(shop)
        # the copied password opens the door
        conninfo = re.sub("user=.*", "user='Odd \"one' password='open sesame'", shop.rig.dsn(op["target"]))
        with psycopg.connect(conninfo) as conn:
            assert conn.execute("SELECT current_user").fetchone() == ('Odd "one',)


@pytest.mark.parametrize("newer", [v for v in TRIED if v > DEFAULT])
def test_everything_reaches_a_newer_version(shardherd, newer):
    if pg_bin_dir(newer) is None:
        pytest.skip(f"PostgreSQL {newer} is not installed (scripts/install-deps gets it)")
    with new_shop(shardherd, f"reach-{DEFAULT}-{newer}", DEFAULT) as shop:
        shop.rig.stop()
        shop.rig.pg_bin = pg_bin_dir(newer)
        shop.rig.start()
        op = reaches(shop)
        assert int(shop.sql(op["target"], "SHOW server_version_num")[0][0]) // 10000 == newer


def test_a_statement_about_a_role_that_fails_tells_no_hash(shardherd):
    """A role that the new server refuses undoes the move, and neither error nor log holds its hash."""
    with new_shop(shardherd, "reach-broken", DEFAULT) as shop:
        shop.sql("s2", "CREATE ROLE broken PASSWORD 'open sesame'")
        shop.sql("s2", "UPDATE pg_authid SET rolconnlimit = -7 WHERE rolname = 'broken'")
        (secret,) = shop.sql("s2", "SELECT rolpassword FROM pg_authid WHERE rolname = 'broken'")[0]
        op = shop.move()
        assert op["status"] == "undone" and "invalid connection limit" in op["error"]["message"], op
        assert_no_hash(shop, op, secret)
        shop.rig.assert_consistent()


def test_a_source_with_another_superuser(shardherd, pg_factory):
    """shardherd uses postgres there, which owns tables; on the new shard that role owns them and cannot log in."""
    server = pg_factory(password="open sesame", wal_level="logical", fsync="on")
    server.psql("CREATE ROLE app LOGIN PASSWORD 'its own'")
    server.psql("CREATE DATABASE lent OWNER app")
    rig = Rig(shardherd, f"/tmp/shardherd-checks-{os.getpid()}-lent")
    passfile = rig.directory / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text("*:*:*:postgres:open sesame\n")
    entry = {"name": "pg-a", "host": "127.0.0.1", "port": server.port, "user": "postgres", "dbname": "lent"}
    entry |= {"database": "lent", "shard": "s1", "passfile": str(passfile)}
    rig.config = rig.directory / "shardherd.yaml"
    rig.config.write_text(json.dumps({"discovery": {"interval": "1s", "static": [entry]}}))
    spec = {
        "shards": [{"name": "s1", "range": f"{-(2**63)}..{2**63 - 1}", "instance": "pg-a"}],
        "tables": [{"name": "public.t", "key": "k"}],
        "schema": "CREATE TABLE t (k bigint PRIMARY KEY)",
        "balance": {"split": "off", "merge": "off", "rebalance": "off", "bake": "0s"},
    }
    document = {"apiVersion": "shardherd.io/v1alpha1", "kind": "ShardedDatabase"}
    document |= {"metadata": {"name": "lent"}, "spec": spec}
    try:
        rig.start()
        answer = rig.fetch("/v1/databases/lent", "PUT", document)
        made = rig.wait_operation(answer.get("operation", answer.get("id")))
        assert made["status"] == "done", made
        server.psql("CREATE TABLE kept (i int); GRANT SELECT ON kept TO app", dbname="lent")
        op = rig.wait_operation(rig.post("/v1/databases/lent/operations", {"kind": "split", "shard": "s1"})["id"])
        assert op["status"] == "done", (op, rig.tail())
        instance = rig.state / "instances" / f"lent-{op['target']}-0"
        found = json.loads((instance / "instance.json").read_text())
        password = (instance / "password").read_text().strip()
        conninfo = f"host=127.0.0.1 port={found['port']} dbname=lent user=shardherd password={password}"
        with psycopg.connect(conninfo) as conn:
            owner = "SELECT relowner::regrole::text, relacl::text FROM pg_class WHERE oid = 'kept'::regclass"
            ((name, rights),) = conn.execute(owner).fetchall()
            assert (name, "app=r/postgres" in rights) == ("postgres", True), rights
            roles = "SELECT rolname, rolcanlogin, rolpassword IS NOT NULL FROM pg_authid "
            roles += "WHERE rolname IN ('app', 'postgres')"
            assert sorted(conn.execute(roles).fetchall()) == [("app", True, True), ("postgres", False, False)]
    finally:
        rig.clean_up()
