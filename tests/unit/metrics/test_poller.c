/* Pollers against a real server: facts, load, faults. Skipped where there is no PostgreSQL. */
#include "metrics_test.h"

static struct pg_server server;

static void require_server(void)
{
    if (server.pid == 0)
        skip();
}

static void test_facts_and_load(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    const struct pollers_options options = {.period_ns = {100 * MS, 100 * MS, 200 * MS, 300 * MS, 1000 * MS}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_int_equal(f.ups, 0);
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= 10 && i->facts.database_bytes != 0));
    assert_int_equal(f.ups, 1);
    assert_int_equal(f.downs, 0);
    assert_int_equal(i->facts.role, ROLE_PRIMARY);
    assert_true(i->facts.timeline == 1);
    assert_true(i->facts.system_identifier != 0);
    assert_true(i->facts.server_version / 10000 == server.major);
    assert_true(i->facts.max_connections == 300);
    assert_true(i->facts.connections >= 1);
    assert_true(i->facts.wal_lsn > 0);
    assert_true(i->facts.started_us > 1600000000000000);
    const struct load_sample *s = load_ring_second(&i->load, 0);
    assert_non_null(s);
    assert_true(!isnan(s->value[LOAD_QUERY_RATE]));
    assert_true(!isnan(s->value[LOAD_WAL_RATE]));
    assert_true(isnan(s->value[LOAD_CPU]));
    assert_true(s->value[LOAD_SIZE] > 1e6);
    assert_true(s->probe_ms > 0);
    assert_true(i->probe.count >= 10);
    fixture_close(&f);
}

static int group_start(void **state)
{
    (void)state;
    if (!pg_server_start(&server, NULL, NULL))
        fprintf(stderr, "no PostgreSQL: the tests are skipped\n");
    return 0;
}

static int group_stop(void **state)
{
    (void)state;
    pg_server_stop(&server);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts_and_load),
    };
    return cmocka_run_group_tests(tests, group_start, group_stop);
}
