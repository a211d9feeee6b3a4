/* One look at a real server: what it is, and which columns could be shard keys, with the reason when not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "discovery/inspect.h"
#include "support/pg_server.h"

static const char schema_sql[] =
    "CREATE TABLE customers (id bigint PRIMARY KEY, name text, note jsonb);"
    "CREATE TABLE orders (customer_id bigint NOT NULL, id bigint NOT NULL, code text NOT NULL UNIQUE,"
    " total int GENERATED ALWAYS AS (1) STORED NOT NULL, PRIMARY KEY (customer_id, id));"
    "CREATE TABLE covering (k uuid NOT NULL, v int NOT NULL);"
    "CREATE UNIQUE INDEX ON covering (k) INCLUDE (v);"
    "ALTER TABLE covering REPLICA IDENTITY FULL;"
    "CREATE TABLE parts (k varchar(20) NOT NULL, d date NOT NULL, PRIMARY KEY (k, d)) PARTITION BY RANGE (d);"
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
    "CREATE TABLE nokeys (v jsonb);"
    "CREATE TABLE bare (k smallint NOT NULL);"
    "CREATE SCHEMA shardherd; CREATE TABLE shardherd.shard (k int PRIMARY KEY);"
    "CREATE SCHEMA \"Odd Schema\"; CREATE TABLE \"Odd Schema\".\"T\" (\"K\" int PRIMARY KEY);";

/* Only where the server was built with ICU. */
static const char soft_sql[] =
    "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    "CREATE TABLE soft (k text COLLATE loose PRIMARY KEY);";

struct answer {
    bool done;
    struct err err;
    void (*check)(const struct inspect_result *r);
};

static void on_answer(const struct err *err, const struct inspect_result *r, void *data)
{
    struct answer *a = data;
    assert_false(a->done);
    a->done = true;
    assert_true((err == NULL) == (r != NULL));
    if (err != NULL)
        a->err = *err;
    else if (a->check != NULL)
        a->check(r);
}

static const struct inspect_table *table(const struct inspect_result *r, const char *schema, const char *name)
{
    for (int i = 0; i < r->table_count; i++)
        if (strcmp(r->tables[i].schema, schema) == 0 && strcmp(r->tables[i].name, name) == 0)
            return &r->tables[i];
    return NULL;
}

/* "ok", or why not; NULL for a column that is not listed. */
static const char *column(const struct inspect_result *r, const char *name, const char *wanted)
{
    const struct inspect_table *t = table(r, "public", name);
    assert_non_null(t);
    for (int i = 0; i < t->column_count; i++)
        if (strcmp(t->columns[i].name, wanted) == 0) {
            assert_true(t->columns[i].usable == (t->columns[i].why == NULL));
            return t->columns[i].usable ? "ok" : t->columns[i].why;
        }
    return NULL;
}

static void check_server(const struct inspect_result *r)
{
    assert_in_range(r->server_version, 150000, 199999);
    assert_int_equal(r->role, ROLE_PRIMARY);
    assert_int_equal(r->timeline, 1);
    assert_true(r->system_identifier > 0);
    assert_true(r->superuser);
    assert_false(r->fsync); /* as pg_server.h sets it */
    assert_string_equal(r->wal_level, "logical");
    assert_string_equal(r->encoding, "UTF8");
    assert_int_equal(r->max_replication_slots, 20);
    assert_int_equal(r->max_wal_senders, 20);
    assert_int_equal(r->max_connections, 300);
    assert_true(r->started_us > 1600000000ll * 1000000);
    assert_int_equal(r->database_count, 2);
    assert_string_equal(r->databases[0], "postgres");
    assert_string_equal(r->databases[1], "shop");
    assert_false(r->truncated);
}

static void check_soft(const struct inspect_result *r)
{
    assert_non_null(strstr(column(r, "soft", "k"), "deterministic"));
}

static void check_all(const struct inspect_result *r)
{
    check_server(r);
    assert_int_equal(r->table_count, 7 + (table(r, "public", "soft") != NULL));
    assert_null(table(r, "shardherd", "shard"));
    assert_null(table(r, "public", "parts_1"));
    assert_string_equal(table(r, "Odd Schema", "T")->columns[0].name, "K");
    assert_int_equal(table(r, "public", "nokeys")->column_count, 0);
    assert_true(table(r, "public", "parts")->partitioned);
    assert_string_equal(table(r, "public", "parts")->columns[0].type, "varchar");
    assert_string_equal(table(r, "public", "customers")->columns[0].type, "bigint");
    assert_string_equal(column(r, "customers", "id"), "ok");
    assert_non_null(strstr(column(r, "customers", "name"), "NULL"));
    assert_null(column(r, "customers", "note"));
    assert_non_null(strstr(column(r, "orders", "customer_id"), "orders_code_key"));
    assert_non_null(strstr(column(r, "orders", "total"), "generated"));
    assert_string_equal(column(r, "covering", "k"), "ok");
    assert_non_null(strstr(column(r, "covering", "v"), "covering_k_v_idx"));
    assert_string_equal(column(r, "parts", "k"), "ok");
    assert_non_null(strstr(column(r, "bare", "k"), "replica identity"));
}

static void inspect(const char *password, const char *dbname, int port, struct answer *a, bool cancel)
{
    struct loop loop;
    char host[] = "127.0.0.1", user[] = "postgres";
    char *copies[2] = {mem_strdup(password), mem_strdup(dbname)};
    struct instance_access access = {
        .host = host, .port = port, .user = user, .password = copies[0], .dbname = copies[1]};
    struct inspect *in = NULL;
    assert_int_equal(loop_init(&loop, env_system(), NULL), 0);
    assert_int_equal(discovery_inspect(&loop, &access, on_answer, a, &in, NULL), 0);
    free(copies[0]);
    free(copies[1]);
    if (cancel)
        discovery_inspect_cancel(in);
    assert_false(a->done);
    while (!a->done)
        uv_run(&loop.uv, UV_RUN_ONCE);
    assert_int_equal(loop_fini(&loop), 0);
}

static void check_version(struct pg_server *s, const char *bin)
{
    assert_true(pg_server_start(s, bin, NULL));
    assert_int_equal(pg_server_sql(s, "postgres", "CREATE DATABASE shop"), 0);
    assert_int_equal(pg_server_sql(s, "shop", schema_sql), 0);
    struct answer good = {.check = check_all}, soft = {.check = check_soft};
    inspect(s->password, "shop", s->port, &good, false);
    if (pg_server_sql(s, "shop", soft_sql) == 0)
        inspect(s->password, "shop", s->port, &soft, false);
    struct answer wrong = {0}, nodb = {0}, canceled = {0}, refused = {0};
    inspect("not it", "shop", s->port, &wrong, false);
    inspect(s->password, "nowhere", s->port, &nodb, false);
    inspect(s->password, "shop", s->port, &canceled, true);
    int port = s->port;
    pg_server_stop(s);
    inspect("any", "shop", port, &refused, false);
    assert_int_equal(good.err.code, ERRC_NONE);
    assert_int_equal(soft.err.code, ERRC_NONE);
    assert_int_equal(wrong.err.code, ERRC_AUTH);
    assert_null(strstr(wrong.err.message, "not it"));
    assert_int_not_equal(nodb.err.code, ERRC_NONE);
    assert_non_null(strstr(nodb.err.message, "nowhere"));
    assert_int_equal(canceled.err.code, ERRC_CANCELED);
    assert_int_equal(refused.err.code, ERRC_UNAVAILABLE);
}

static void test_inspect(void **state)
{
    char bins[8][512];
    int count = pg_server_all(bins, 8);
    assert_true(count > 0);
    for (int i = 0; i < count; i++)
        check_version(*state, bins[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_inspect, pg_server_setup, pg_server_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
