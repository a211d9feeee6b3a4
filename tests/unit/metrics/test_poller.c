/* Pollers against a real server: facts, load, faults. Skipped where there is no PostgreSQL. */
#include "metrics_test.h"
#include "metrics/poller_impl.h"
#include "pg/pg_conn.h"
#include "support/queue_time.h"

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
    struct load_sample s;
    assert_true(load_ring_second(&i->load, 0, &s));
    assert_true(!isnan(s.value[LOAD_QUERY_RATE]));
    assert_true(!isnan(s.value[LOAD_WAL_RATE]));
    assert_true(isnan(s.value[LOAD_CPU]));
    assert_true(s.value[LOAD_SIZE] > 1e6);
    assert_true(s.probe_ms > 0);
    assert_true(i->probe.count >= 2 &&
                i->probe.count <= (uint64_t)f.sampled / 5 + 2); /* the first and one of five are timed */
    fixture_close(&f);
}

/* The load counts what the application does. */
static void test_query_rate(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    const struct pollers_options options = {.period_ns = {200 * MS, POLL_OFF, POLL_OFF, POLL_OFF, POLL_OFF}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= 2));
    assert_int_equal(
        pg_server_sql(&server, "postgres", "DO $$ BEGIN FOR i IN 1..2000 LOOP COMMIT; END LOOP; END $$"), 0);
    double sum = 0;
    int before = f.sampled;
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= before + 12));
    for (unsigned n = 0; n < 12; n++) {
        struct load_sample s, older;
        assert_true(load_ring_second(&i->load, n, &s));
        double rate = (double)s.value[LOAD_QUERY_RATE];
        if (!isnan(rate) && load_ring_second(&i->load, n + 1, &older)) /* not 0.2 s on a busy machine */
            sum += rate * (double)(s.at_ns - older.at_ns) / 1e9;
    }
    assert_true(sum > 1800 && sum < 2300); /* the polls themselves and the session are some more */
    fixture_close(&f);
}

/* Runs of the replication group while the load group runs `loads` times; they have the same period. */
static double replication_runs(struct fixture *f, int loads)
{
    struct pollers_counts before, after;
    int sampled = f->sampled;
    pollers_count(f->pollers, &before);
    assert_true(WAIT_UNTIL(f, 20000, f->sampled >= sampled + loads));
    pollers_count(f->pollers, &after);
    return (double)(after.polls - before.polls) - (f->sampled - sampled);
}

/* Nobody follows the server: what replicates is asked for every fifth time, until there is a slot. */
static void test_a_server_alone_is_asked_less(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    const struct pollers_options options = {.period_ns = {50 * MS, 50 * MS, POLL_OFF, POLL_OFF, POLL_OFF}};
    fixture_open(&f, &options);
    add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= 10));
    double alone = replication_runs(&f, 50);
    assert_true(alone >= 4 && alone <= 16);
    assert_int_equal(
        pg_server_sql(&server, "postgres", "SELECT pg_create_physical_replication_slot('follower')"), 0);
    assert_true(WAIT_UNTIL(&f, 10000, replication_runs(&f, 10) >= 8));
    assert_true(replication_runs(&f, 50) >= 45);
    assert_int_equal(pg_server_sql(&server, "postgres", "SELECT pg_drop_replication_slot('follower')"), 0);
    fixture_close(&f);
}

/* Nobody but us does anything: every other poll is left out, until somebody does; its samples lie as before.
 */
static void test_a_server_at_rest_is_polled_less(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    enum { PERIOD_MS = 50, SAMPLES = 30 };
    const struct pollers_options options = {
        .period_ns = {PERIOD_MS * MS, POLL_OFF, POLL_OFF, POLL_OFF, POLL_OFF}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 30000,
                           i->observer != NULL && pollers_load_period(f.pollers, i) == 2 * PERIOD_MS * MS));
    assert_true(i->facts.rests && f.sampled >= 60);
    int before = f.sampled;
    uint64_t start = loop_now(&f.loop);
    assert_true(WAIT_UNTIL(&f, 30000, f.sampled >= before + SAMPLES));
    assert_true(loop_now(&f.loop) - start > (SAMPLES - 3) * 2 * PERIOD_MS * MS);
    struct load_sample s, older;
    int close = 0;
    for (unsigned n = 0; n < SAMPLES; n++) {
        assert_true(load_ring_second(&i->load, n, &s) && load_ring_second(&i->load, n + 1, &older));
        close += s.at_ns - older.at_ns < 3 * PERIOD_MS / 2 * MS;
    }
    assert_true(close > SAMPLES / 2); /* all, where the machine is not busy */

    assert_int_equal(
        pg_server_sql(&server, "postgres", "DO $$ BEGIN FOR i IN 1..2000 LOOP COMMIT; END LOOP; END $$"), 0);
    assert_true(WAIT_UNTIL(&f, 10000, pollers_load_period(f.pollers, i) == PERIOD_MS * MS));
    assert_false(i->facts.rests);
    const struct poller *p = i->observer;
    assert_true(p->groups[POLL_LOAD].due_ns <= loop_now(&f.loop) + PERIOD_MS * MS);
    fixture_close(&f);
}

static bool runs_since(const struct poller *p, uint64_t since)
{
    return p->slots[QUERY_STAT_DATABASE].rendered_ns > since && p->slots[QUERY_LOCKS].rendered_ns > since &&
           p->slots[QUERY_PROGRESS_VACUUM].rendered_ns > since && p->groups[POLL_ACTIVITY].pending == 0;
}

static const char *with_system_tables(const char *sql)
{
    static char text[200];
    snprintf(text, sizeof text, "SET allow_system_table_mods = on; %s", sql);
    return text;
}

/* P9: queries that are joined are one transaction; one that fails takes no other one with it. */
static void test_P9_one_of_the_joined_fails(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    const struct pollers_options options = {.period_ns = {100 * MS, 100 * MS, 100 * MS, POLL_OFF, POLL_OFF}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, i->observer != NULL && runs_since(i->observer, 1)));
    const struct poller *p = i->observer;
    assert_false(p->apart);
    assert_int_equal(p->groups[POLL_ACTIVITY].errors, 0);

    assert_int_equal(pg_server_sql(&server, "postgres",
                                   with_system_tables("ALTER VIEW pg_stat_archiver RENAME TO hidden")),
                     0);
    assert_true(WAIT_UNTIL(&f, 10000, p->slots[QUERY_ARCHIVER].failed));
    assert_true(p->apart);
    uint64_t since = loop_now(&f.loop);
    assert_true(WAIT_UNTIL(&f, 10000, runs_since(p, since) && p->slots[QUERY_ARCHIVER].failed));
    assert_false(p->slots[QUERY_PROGRESS_VACUUM].failed);
    assert_int_equal(f.downs, 0);

    assert_int_equal(pg_server_sql(&server, "postgres",
                                   with_system_tables("ALTER VIEW hidden RENAME TO pg_stat_archiver")),
                     0);
    assert_true(WAIT_UNTIL(&f, 10000, !p->slots[QUERY_ARCHIVER].failed));
    fixture_close(&f);
}

static void test_a_wrong_password(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    const struct pollers_options options = {.period_ns = {200 * MS}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    free(i->access.password);
    i->access.password = mem_strdup("not-this-one");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, i->facts.errors_total >= 3));
    assert_int_equal(f.downs, 1); /* told once, counted each time */
    assert_int_equal(f.ups, 0);
    assert_true(f.last_down.code == ERRC_AUTH);
    assert_null(strstr(i->facts.error, "not-this-one"));
    assert_true(i->facts.failed_ns > i->facts.seen_ns);
    assert_true(i->facts.refused); /* so that its password is looked up again */
    free(i->access.password);
    i->access.password = mem_strdup(server.password);
    assert_true(WAIT_UNTIL(&f, 10000, f.ups == 1)); /* the next attempt takes the present one */
    fixture_close(&f);
}

/* P13: down at once, up again within two periods of the server's return, with the new start time. */
static void test_a_restart_is_seen(void **state)
{
    (void)state;
    require_server();
    enum { PERIOD_MS = 500 };
    struct fixture f;
    const struct pollers_options options = {.period_ns = {PERIOD_MS * MS, PERIOD_MS * MS}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "shop-s1-0", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= 3));
    const int64_t started_us = i->facts.started_us;
    pg_server_kill(&server);
    const uint64_t killed = loop_clock(&f.loop);
    assert_true(WAIT_UNTIL(&f, 10000, f.downs == 1));
    assert_true(f.down_ns - killed < PERIOD_MS * MS);
    assert_true(
        WAIT_UNTIL(&f, 10000, i->facts.errors_total >= 6)); /* long enough for the back-off to have grown */
    assert_false(i->facts.refused);
    assert_true(pg_server_boot(&server));
    const uint64_t ready = loop_clock(&f.loop);
    assert_true(WAIT_UNTIL(&f, 10000, f.ups == 2));
    print_message("restart seen %.0f ms after the server was ready\n", (double)(f.up_ns - ready) / 1e6);
    assert_true(f.up_ns - ready < (uint64_t)2 * PERIOD_MS * MS);
    assert_true(i->facts.started_us > started_us);
    /* the first sample after it is no difference to one before it */
    struct load_sample s;
    assert_true(load_ring_second(&i->load, 0, &s));
    assert_true(f.sampled < 4 || isnan(s.value[LOAD_QUERY_RATE]) || s.value[LOAD_QUERY_RATE] >= 0);
    fixture_close(&f);
}

static void test_the_set_changes(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    struct pollers_counts counts;
    const struct pollers_options options = {.period_ns = {50 * MS, 50 * MS, 50 * MS, 50 * MS, 50 * MS}};
    fixture_open(&f, &options);
    struct fleet_instance *a = add_instance(&f, "a", "s1", &server, "postgres");
    struct fleet_instance *b = add_instance(&f, "b", "s2", &server, "postgres");
    pollers_sync(f.pollers);
    pollers_forget(f.pollers, b); /* before it could connect */
    fleet_remove_instance(&f.fleet, b);
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= 3));
    b = add_instance(&f, "b", "s2", &server, "postgres");
    struct fleet_instance *c = add_instance(&f, "c", "s3", &server, "template1");
    pollers_sync(f.pollers);
    pollers_sync(f.pollers);
    pollers_count(f.pollers, &counts);
    assert_true(counts.instances == 3);
    assert_true(WAIT_UNTIL(&f, 10000, f.ups == 3));
    /* another address: a new connection; a server that is not there: down */
    int port = a->access.port;
    a->access.port = 1;
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, f.downs == 1 || a->facts.errors_total > 0));
    a->access.port = port;
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, f.ups == 4));
    /* with queries on their way, and without telling */
    pollers_hurry(f.pollers, b);
    pollers_hurry(f.pollers, c);
    pollers_forget(f.pollers, b);
    fleet_remove_instance(&f.fleet, b);
    fleet_remove_instance(&f.fleet, c);
    pollers_sync(f.pollers);
    pollers_count(f.pollers, &counts);
    assert_true(counts.instances == 1);
    const int before = f.sampled;
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= before + 3));
    fixture_close(&f);
}

struct answer {
    int count;
    enum err_code code;
    char sqlstate[6], value[16];
};

static void on_asked(const struct pg_reply *reply, void *data)
{
    struct answer *a = data;
    a->count++;
    a->code = reply->err != NULL ? reply->err->code : ERRC_NONE;
    snprintf(a->sqlstate, sizeof a->sqlstate, "%s", reply->err != NULL ? reply->err->sqlstate : "");
    const char *value = reply->err == NULL ? pg_value(reply, 0, 0) : NULL;
    snprintf(a->value, sizeof a->value, "%s", value != NULL ? value : "");
}

static void asked(struct fixture *f, const struct fleet_instance *i, const char *sql, struct answer *a)
{
    memset(a, 0, sizeof *a);
    assert_non_null(pollers_ask(f->pollers, i, sql, on_asked, a));
    assert_int_equal(a->count, 0);
    assert_true(WAIT_UNTIL(f, 10000, a->count == 1));
}

/* They go over the connection that is there, or will be; a slow answer is no reason to give that up. */
static void test_questions_of_others(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    struct answer a;
    struct pollers_counts counts;
    const struct pollers_options options = {.period_ns = {50 * MS, 50 * MS, 50 * MS, POLL_OFF, POLL_OFF},
                                            .deadline_ns = 500 * MS};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "a", "s1", &server, "postgres");
    assert_null(pollers_ask(f.pollers, i, "SELECT 1", on_asked, &a)); /* not polled yet */
    pollers_sync(f.pollers);
    asked(&f, i, "SELECT 42", &a);
    assert_string_equal(a.value, "42");
    asked(&f, i, "SELECT 1/0", &a);
    assert_true(a.code == ERRC_SQL);
    asked(&f, i, "CREATE TABLE never()", &a);
    assert_string_equal(a.sqlstate, "25006");
    asked(&f, i, "SELECT 43 FROM pg_sleep(1.5)", &a);
    assert_string_equal(a.value, "43");
    assert_int_equal(f.downs, 0);
    pollers_count(f.pollers, &counts);
    assert_true(counts.connects == 1);
    fixture_close(&f);
}

/* Each is told of its end, whatever comes between, but those that were taken back. */
static void test_questions_without_an_answer(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    struct answer a = {0}, b = {0}, c = {0}, d = {0};
    const struct pollers_options options = {.period_ns = {50 * MS}};
    fixture_open(&f, &options);
    struct fleet_instance *i = add_instance(&f, "a", "s1", &server, "postgres");
    struct fleet_instance *nobody = add_instance(&f, "b", "s2", &server, "postgres");
    nobody->access.port = 1;
    pollers_sync(f.pollers);
    asked(&f, nobody, "SELECT 1", &a);
    assert_true(a.code != ERRC_NONE && a.code != ERRC_SQL);
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled >= 3));
    memset(&a, 0, sizeof a);
    pollers_ask(f.pollers, i, "SELECT pg_sleep(30)", on_asked, &a);
    int before = f.sampled;
    assert_true(WAIT_UNTIL(&f, 10000, f.sampled > before)); /* the poll that it goes out behind */
    poll_question_forget(pollers_ask(f.pollers, i, "SELECT 1", on_asked, &b));
    poll_question_forget(pollers_ask(f.pollers, nobody, "SELECT 1", on_asked, &c));
    pollers_ask(f.pollers, i, "SELECT 1", on_asked, &d);
    pollers_forget(f.pollers, i);
    assert_int_equal(a.count + d.count, 0); /* not from inside */
    assert_true(WAIT_UNTIL(&f, 10000, a.count == 1 && d.count == 1));
    assert_true(a.code == ERRC_CANCELED && d.code == ERRC_CANCELED);
    fleet_remove_instance(&f.fleet, i);
    fixture_close(&f);
    assert_int_equal(b.count + c.count, 0);
}

static void on_up_forget(struct fleet_instance *instance, void *data)
{
    struct fixture *f = data;
    f->ups++;
    pollers_forget(f->pollers, instance);
    fleet_remove_instance(&f->fleet, instance);
}

/* The manager may remove an instance from inside the event that tells of it. */
static void test_forgotten_in_an_event(void **state)
{
    (void)state;
    require_server();
    static const struct pollers_events events = {.sampled = on_sampled, .up = on_up_forget, .down = on_down};
    struct fixture f;
    fixture_open(&f, NULL);
    pollers_close(f.pollers, NULL, NULL);
    f.pollers = pollers_new(&f.loop, &f.fleet, NULL, &events, &f);
    add_instance(&f, "a", "s1", &server, "postgres");
    add_instance(&f, "b", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 10000, f.ups == 2));
    assert_int_equal(f.sampled, 0);
    assert_true(list_empty(&f.fleet.instances));
    fixture_close(&f);
}

static void test_closed_at_once(void **state)
{
    (void)state;
    require_server();
    struct fixture f;
    fixture_open(&f, NULL);
    add_instance(&f, "a", "s1", &server, "postgres");
    pollers_sync(f.pollers);
    for (int turns = 0; turns < 3; turns++)
        uv_run(&f.loop.uv, UV_RUN_NOWAIT);
    fixture_close(&f);
}

static unsigned up_count(const struct fixture *f)
{
    struct pollers_counts counts;
    pollers_count(f->pollers, &counts);
    return counts.up;
}

/* P11, P12: a server with a hundred databases comes back: paced, no long turn, one connection each. */
static void test_many_come_back_at_once(void **state)
{
    (void)state;
    require_server();
    enum { MANY = 100 };
    char name[32], sql[400];
    struct fixture f;
    struct pollers_counts before, after;
    fixture_open(&f, NULL);
    for (int n = 0; n < MANY; n++) {
        snprintf(name, sizeof name, "many%d", n);
        snprintf(sql, sizeof sql, "CREATE DATABASE %s STRATEGY file_copy", name);
        assert_int_equal(pg_server_sql(&server, "postgres", sql), 0);
        add_instance(&f, name, name, &server, name);
    }
    pollers_sync(f.pollers);
    assert_true(WAIT_UNTIL(&f, 30000, up_count(&f) == MANY));
    pg_server_kill(&server);
    assert_true(WAIT_UNTIL(&f, 30000, up_count(&f) == 0));
    assert_true(pg_server_boot(&server));
    uv_run(&f.loop.uv, UV_RUN_NOWAIT);
    pollers_count(f.pollers, &before);
    loop_turns_reset(&f.loop);
    hist_reset(&f.loop.turns);
    const uint64_t start = loop_clock(&f.loop), queued_us = queue_time_us();
    assert_true(WAIT_UNTIL(&f, 60000, up_count(&f) == MANY));
    const double seconds = (double)(loop_clock(&f.loop) - start) / 1e9;
    pollers_count(f.pollers, &after);
    print_message("%d SCRAM reconnects in %.1f s, %llu attempts; turns: p99.9 %.1f ms, longest %.1f ms\n",
                  MANY, seconds, (unsigned long long)(after.connects - before.connects),
                  (double)hist_quantile(&f.loop.turns, 0.999) / 1e3, (double)f.loop.longest_turn_us / 1e3);
    assert_true(seconds > (double)(MANY - 10) / 50); /* paced at 50 per second */
    assert_true(hist_quantile(&f.loop.turns, 0.99) < 50000 + queue_time_us() - queued_us);
    snprintf(sql, sizeof sql,
             "DO $$ BEGIN IF (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardherd "
             "poll') <> %d "
             "OR (SELECT max(n) FROM (SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = "
             "'shardherd poll' GROUP BY datname) x) <> 1 THEN RAISE 'not one each'; END IF; END $$",
             MANY);
    assert_int_equal(pg_server_sql(&server, "postgres", sql), 0);
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
        cmocka_unit_test(test_query_rate),
        cmocka_unit_test(test_a_server_alone_is_asked_less),
        cmocka_unit_test(test_a_server_at_rest_is_polled_less),
        cmocka_unit_test(test_P9_one_of_the_joined_fails),
        cmocka_unit_test(test_a_wrong_password),
        cmocka_unit_test(test_a_restart_is_seen),
        cmocka_unit_test(test_the_set_changes),
        cmocka_unit_test(test_questions_of_others),
        cmocka_unit_test(test_questions_without_an_answer),
        cmocka_unit_test(test_forgotten_in_an_event),
        cmocka_unit_test(test_closed_at_once),
        cmocka_unit_test(test_many_come_back_at_once),
    };
    return cmocka_run_group_tests(tests, group_start, group_stop);
}
