/* Links against a real server: made when needed, made again after a loss - but never in the middle of a
 * transaction. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/link.h"
#include "support/pg_server.h"

static struct pg_server server;

struct rig {
    struct loop loop;
    struct link link;
    int open, waiting;
    struct err err;   /* of the last answer */
    char answer[256]; /* its first value */
    char tag[64];     /* its last command tag */
    bool inside;      /* a call is running: no answer may come now */
};

static void closed(void *data)
{
    loop_stop(&((struct rig *)data)->loop);
}

static void answered(const struct pg_reply *reply, void *data)
{
    struct rig *rig = data;
    assert_false(rig->inside);
    rig->waiting--;
    err_clear(&rig->err);
    rig->answer[0] = rig->tag[0] = '\0';
    err_copy(&rig->err, reply->err);
    if (reply->err == NULL && reply->count > 0)
        snprintf(rig->tag, sizeof rig->tag, "%s", PQcmdStatus(reply->results[reply->count - 1]));
    if (reply->err == NULL && pg_value(reply, 0, 0) != NULL)
        snprintf(rig->answer, sizeof rig->answer, "%s", pg_value(reply, 0, 0));
    if (rig->waiting == 0)
        loop_stop(&rig->loop);
}

static void wait_all(struct rig *rig)
{
    while (rig->waiting > 0)
        loop_run(&rig->loop);
}

static void begin(struct rig *rig, const char *sql)
{
    rig->waiting++;
    rig->inside = true;
    link_exec(&rig->link, sql, 10 * ENV_NS_PER_S, answered, rig);
    rig->inside = false;
}

static const char *run(struct rig *rig, const char *sql)
{
    begin(rig, sql);
    wait_all(rig);
    return rig->answer;
}

static void run_in(struct rig *rig, uint64_t session, const char *sql)
{
    rig->waiting++;
    rig->inside = true;
    link_exec_in(&rig->link, session, sql, 10 * ENV_NS_PER_S, answered, rig);
    rig->inside = false;
    wait_all(rig);
}

static int set_up(void **state)
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    char host[] = "127.0.0.1", user[] = "postgres", dbname[] = "postgres";
    struct instance_access access = {
        .host = host, .port = server.port, .user = user, .password = server.password, .dbname = dbname};
    *state = rig;
    assert_int_equal(loop_init(&rig->loop, env_system(), NULL), 0);
    link_init(&rig->link, &rig->loop, &access, "shardherd op=test", &rig->open, closed, rig);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    link_fini(&rig->link);
    while (rig->open > 0)
        loop_run(&rig->loop);
    assert_int_equal(loop_fini(&rig->loop), 0);
    free(rig);
    return 0;
}

/* Ends the link's backend from outside and waits until the link has seen it. */
static void cut(struct rig *rig)
{
    assert_int_equal(pg_server_sql(&server, "postgres",
                                   "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                                   "WHERE application_name = 'shardherd op=test'"),
                     0);
    while (link_is_up(&rig->link))
        loop_run(&rig->loop); /* the close of the connection stops it */
}

static void test_connects_when_needed(void **state)
{
    struct rig *rig = *state;
    assert_false(link_is_up(&rig->link));
    assert_int_equal(link_session(&rig->link), 0);
    begin(rig, "SELECT 1");
    begin(rig, "SELECT 2");
    assert_string_equal(run(rig, "SELECT 3"), "3"); /* those before it waited for the same connection */
    assert_int_equal(link_session(&rig->link), 1);
    assert_int_equal(rig->open, 1);
    run(rig, "SELECT 1/0");
    assert_true(err_is_sql(&rig->err, "22012"));
    assert_string_equal(run(rig, "SELECT 4"), "4");
}

/* Whatever database or role have as defaults (A4). */
static void test_sets_its_own_session(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(pg_server_sql(&server, "postgres",
                                   "BEGIN; ALTER ROLE postgres SET synchronous_commit = off;"
                                   "ALTER ROLE postgres SET search_path = pg_temp;"
                                   "ALTER ROLE postgres SET default_transaction_read_only = on;"
                                   "ALTER ROLE postgres SET statement_timeout = '1ms';"
                                   "ALTER ROLE postgres SET default_transaction_isolation = 'serializable';"
                                   "ALTER ROLE postgres SET session_replication_role = replica;"
                                   "ALTER ROLE postgres SET DateStyle = 'German';"
                                   "ALTER ROLE postgres SET IntervalStyle = 'iso_8601'; COMMIT"),
                     0);
    run(rig,
        "SELECT concat_ws(' ', current_setting('synchronous_commit'), current_setting('search_path'), "
        "current_setting('transaction_read_only'), current_setting('statement_timeout'), "
        "current_setting('transaction_isolation'), current_setting('session_replication_role'), "
        "current_setting('DateStyle'), current_setting('IntervalStyle'), current_setting('row_security'))");
    assert_string_equal(rig->answer, "on pg_catalog off 0 read committed origin ISO, MDY postgres off");
    run(rig, "ALTER ROLE postgres RESET ALL");
    assert_int_equal(rig->err.code, ERRC_NONE);
}

/*
 * The reason for link_exec_in(): after the fence's session was ended, COMMIT on a new one succeeds and
 * commits nothing, and the gate would open while S still owns R.
 */
static void test_commit_never_moves_to_another_session(void **state)
{
    struct rig *rig = *state;
    run(rig, "CREATE TABLE IF NOT EXISTS public.fence (n int); TRUNCATE public.fence");
    run(rig, "BEGIN; INSERT INTO public.fence VALUES (1)");
    uint64_t session = link_session(&rig->link);
    assert_int_equal(session, 1);
    cut(rig);
    assert_int_equal(link_session(&rig->link), 0);
    run_in(rig, session, "COMMIT");
    assert_int_equal(rig->err.code, ERRC_CLOSED);
    run(rig, "COMMIT"); /* the trap */
    assert_int_equal(rig->err.code, ERRC_NONE);
    assert_string_equal(rig->tag, "COMMIT");
    assert_int_equal(link_session(&rig->link), 2);
    run_in(rig, session, "COMMIT"); /* connected again, and still not that session */
    assert_int_equal(rig->err.code, ERRC_CLOSED);
    run_in(rig, 0, "COMMIT");
    assert_int_equal(rig->err.code, ERRC_CLOSED);
    assert_string_equal(run(rig, "SELECT count(*) FROM public.fence"), "0");
    run(rig, "BEGIN; INSERT INTO public.fence VALUES (1)");
    run_in(rig, 2, "COMMIT");
    assert_int_equal(rig->err.code, ERRC_NONE);
    assert_string_equal(run(rig, "SELECT count(*) FROM public.fence"), "1");
    /* COMMIT of a transaction that failed is no error either: the tag tells */
    run(rig, "BEGIN; SELECT 1/0");
    run_in(rig, 2, "COMMIT");
    assert_int_equal(rig->err.code, ERRC_NONE);
    assert_string_equal(rig->tag, "ROLLBACK");
}

static void test_drop_cancels_and_link_goes_on(void **state)
{
    struct rig *rig = *state;
    run(rig, "SELECT 1");
    begin(rig, "SELECT pg_sleep(60)");
    begin(rig, "SELECT 2");
    link_drop(&rig->link);
    wait_all(rig);
    assert_int_equal(rig->err.code, ERRC_CANCELED);
    assert_string_equal(run(rig, "SELECT 3"), "3");
    assert_int_equal(link_session(&rig->link), 2);
    begin(rig, "SELECT 4"); /* while it connects */
    link_drop(&rig->link);
    begin(rig, "SELECT 5");
    link_drop(&rig->link);
    wait_all(rig);
    assert_int_equal(rig->err.code, ERRC_CANCELED);
    assert_string_equal(run(rig, "SELECT 6"), "6");
}

/* The failed answer of a session that ended is where the next statement is begun: before the link has been
 * told. */
static void on_cut_off(const struct pg_reply *reply, void *data)
{
    struct rig *rig = data;
    assert_non_null(reply->err);
    link_exec(&rig->link, "SELECT 'after'", 10 * ENV_NS_PER_S, answered, rig);
}

static void give_up_waiting(struct loop_timer *timer, void *data)
{
    struct rig *rig = data;
    (void)timer;
    rig->waiting = 0;
    loop_stop(&rig->loop);
}

static void test_begun_in_the_answer_of_a_lost_session(void **state)
{
    struct rig *rig = *state;
    struct loop_timer limit;
    run(rig, "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '50ms'");
    pg_server_wait_ms(300); /* ended by the server meanwhile, which nobody has read yet */
    loop_timer_init(&rig->loop, &limit, give_up_waiting, rig);
    loop_timer_start(&limit, 20 * ENV_NS_PER_S);
    rig->waiting++;
    link_exec(&rig->link, "SELECT 1", 10 * ENV_NS_PER_S, on_cut_off, rig);
    wait_all(rig);
    loop_timer_stop(&limit);
    assert_string_equal(rig->answer, "after");
    assert_int_equal(link_session(&rig->link), 2);
}

static void test_server_that_is_away(void **state)
{
    struct rig *rig = *state;
    rig->link.access.port = pg_server_free_port();
    begin(rig, "SELECT 1");
    begin(rig, "SELECT 2");
    wait_all(rig);
    assert_int_not_equal(rig->err.code, ERRC_NONE);
    assert_false(link_is_up(&rig->link));
    rig->link.access.port = server.port;
    assert_string_equal(run(rig, "SELECT 3"), "3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_connects_when_needed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sets_its_own_session, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_commit_never_moves_to_another_session, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_drop_cancels_and_link_goes_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_begun_in_the_answer_of_a_lost_session, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_server_that_is_away, set_up, tear_down),
    };
    if (!pg_server_start(&server, NULL, "")) {
        fprintf(stderr, "no PostgreSQL server could be started\n");
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    pg_server_stop(&server);
    return rc;
}
