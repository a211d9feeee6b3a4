/* COPY out, COPY in and the pump between two servers, with everything that can break in the middle. */
#include "pg/pg_test.h"

#include "base/buf.h"
#include "pg/pg_copy.h"
#include "pg/pg_impl.h"

static struct pg_server source_server, target_server;

#define ROWS 200000

static int group_setup(void **state)
{
    (void)state;
    if (!pg_server_start(&source_server, NULL, NULL) || !pg_server_start(&target_server, NULL, NULL))
        return -1;
    return pg_server_sql(&source_server, "postgres",
                         "CREATE TABLE big (id int8 PRIMARY KEY, name text, at timestamptz, amount numeric);"
                         "INSERT INTO big SELECT n, repeat(md5(n::text), 4), now(), n / 7.0 "
                         "FROM generate_series(1, 200000) n");
}

static int group_teardown(void **state)
{
    (void)state;
    pg_server_stop(&source_server);
    pg_server_stop(&target_server);
    return 0;
}

struct session {
    struct fixture f;
    struct client source, target;
};

static int setup(void **state)
{
    struct session *s = mem_zalloc(sizeof *s);
    static struct answer a;
    fixture_open(&s->f);
    const struct pg_target source = server_target(&source_server), target = server_target(&target_server);
    client_open(&s->source, &s->f, &source);
    client_open(&s->target, &s->f, &target);
    query(&s->target,
          "DROP TABLE IF EXISTS big;"
          "CREATE TABLE big (id int8 PRIMARY KEY, name text, at timestamptz, amount numeric)",
          &a);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct session *s = *state;
    if (s->source.conn != NULL)
        client_close(&s->source);
    if (s->target.conn != NULL)
        client_close(&s->target);
    fixture_close(&s->f);
    free(s);
    return 0;
}

/* What a COPY told. */
struct copied {
    int done;
    int ready;
    int progressed;
    uint64_t rows, bytes;
    struct err err;
    struct buf text;
    int left;                     /* rows still to put */
    int refused;                  /* puts above the limit */
    struct pg_conn *close_at_row; /* closes it from inside the callback */
};

static void take_done(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    struct copied *c = data;
    c->done++;
    c->rows = rows;
    c->bytes = bytes;
    err_copy(&c->err, err);
}

static void take_rows(const char *bytes, size_t length, void *data)
{
    struct copied *c = data;
    c->rows++;
    if (c->text.length < 4096)
        buf_add(&c->text, bytes, length);
    if (c->close_at_row != NULL)
        pg_conn_close(c->close_at_row, NULL, NULL);
}

static void test_copy_out(void **state)
{
    struct session *s = *state;
    static struct copied c = {0};
    static struct answer after;
    assert_int_equal(pg_copy_out(s->source.conn, "COPY (SELECT generate_series(1, 3)) TO STDOUT", take_rows,
                                 take_done, &c, NULL, NULL),
                     0);
    send_extended(&s->source, "SELECT 'after'", NULL, &after);
    assert_true(wait_count(&s->f, &after.done, 1, 5000));
    assert_int_equal(c.done, 1);
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_int_equal(c.rows, 3);
    assert_string_equal(buf_text(&c.text), "1\n2\n3\n");
    assert_string_equal(after.value, "after");
    buf_free(&c.text);
}

static void copy_out_error(struct session *s, const char *sql, struct copied *c)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(pg_copy_out(s->source.conn, sql, take_rows, take_done, c, NULL, NULL), 0);
    assert_true(wait_count(&s->f, &c->done, 1, 5000));
    buf_free(&c->text);
}

static void test_copy_out_errors(void **state)
{
    struct session *s = *state;
    static struct copied c;
    static struct answer a;
    copy_out_error(s, "COPY no_such_table TO STDOUT", &c);
    assert_string_equal(c.err.sqlstate, "42P01");
    copy_out_error(s, "SELECT 1", &c);
    assert_int_equal(c.err.code, ERRC_INVALID);
    copy_out_error(s, "SET work_mem = '4MB'", &c);
    assert_int_equal(c.err.code, ERRC_INVALID);
    copy_out_error(s, "COPY (SELECT 10 / (1000 - n) FROM generate_series(1, 2000) n) TO STDOUT", &c);
    assert_string_equal(c.err.sqlstate, "22012"); /* in the middle of the rows */
    assert_string_equal(query(&s->source, "SELECT 'still here'", &a), "still here");
    copy_out_error(s, "COPY big FROM STDIN", &c);
    assert_int_equal(c.err.code, ERRC_INVALID); /* the wrong direction costs the connection */
    assert_int_equal(s->source.lost, 1);
}

static void test_copy_out_paused(void **state)
{
    struct session *s = *state;
    static struct copied c = {0};
    struct pg_copy *copy;
    assert_int_equal(pg_copy_out(s->source.conn, "COPY big TO STDOUT", take_rows, take_done, &c, &copy, NULL),
                     0);
    pg_copy_pause(copy);
    run_for(&s->f, 200);
    assert_int_equal(c.rows, 0);
    pg_copy_set_stall_timeout(copy, 100 * MS); /* a pause of ours is no stall */
    run_for(&s->f, 300);
    pg_copy_resume(copy);
    pg_copy_set_stall_timeout(copy, 10000 * MS);
    assert_true(wait_count(&s->f, &c.done, 1, 20000));
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_int_equal(c.rows, ROWS);
    buf_free(&c.text);
}

/* The kernel wakes us for much only; what is less comes all the same, and nothing is read in a pause. */
static void test_copy_out_in_batches(void **state)
{
    struct session *s = *state;
    static struct copied c = {0};
    struct pg_copy *copy;
    assert_int_equal(
        pg_copy_out(s->source.conn,
                    "COPY (SELECT repeat('x', 20000), CASE WHEN n = 3 THEN pg_sleep(1) END::text "
                    "FROM generate_series(1, 3) n) TO STDOUT",
                    take_rows, take_done, &c, &copy, NULL),
        0);
    run_for(&s->f, 500);
    assert_true(c.rows > 0); /* while the server sleeps, with less than a batch */
    assert_int_equal(c.done, 0);
    assert_int_equal(least_bytes(&s->source), 64 << 10);
    pg_copy_pause(copy);
    assert_int_equal(least_bytes(&s->source), 1);
    run_for(&s->f, 1000);
    assert_true(pg_io_unread(s->source.conn));
    pg_copy_resume(copy);
    assert_int_equal(least_bytes(&s->source), 64 << 10);
    assert_true(wait_count(&s->f, &c.done, 1, 5000));
    assert_int_equal(c.rows, 3);
    assert_int_equal(least_bytes(&s->source), 1);
    buf_free(&c.text);
}

static void test_copy_out_closed_from_inside(void **state)
{
    struct session *s = *state;
    struct copied c = {.close_at_row = s->source.conn};
    pg_conn_close(NULL, NULL, NULL);
    assert_int_equal(pg_copy_out(s->source.conn, "COPY big TO STDOUT", take_rows, take_done, &c, NULL, NULL),
                     0);
    assert_true(wait_count(&s->f, &c.done, 1, 5000));
    assert_int_equal(c.err.code, ERRC_CANCELED);
    assert_int_equal(c.done, 1);
    s->source.conn = NULL;
    run_for(&s->f, 50);
    buf_free(&c.text);
}

/* ---- in ---- */

static void put_lines(struct pg_copy *copy, void *data)
{
    struct copied *c = data;
    struct err err = {0};
    char line[64];
    c->ready++;
    while (c->left > 0) {
        int n = snprintf(line, sizeof line, "%d\tname\t2026-01-01\t1.5\n", c->left);
        if (pg_copy_put(copy, line, (size_t)n, &err) != 0) {
            assert_int_equal(err.code, ERRC_LIMIT);
            c->refused++;
            return;
        }
        c->left--;
    }
    pg_copy_end(copy, NULL);
}

static void test_copy_in(void **state)
{
    struct session *s = *state;
    static struct copied c = {.left = 100000};
    static struct answer a;
    assert_int_equal(pg_copy_in(s->target.conn, "COPY big FROM STDIN", put_lines, take_done, &c, NULL, NULL),
                     0);
    assert_true(wait_count(&s->f, &c.done, 1, 30000));
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_int_equal(c.rows, 100000);
    assert_true(c.refused > 0 && c.ready == c.refused + 1); /* 3 MB do not fit into the queue at once */
    assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "100000");
}

static void put_wrong(struct pg_copy *copy, void *data)
{
    struct copied *c = data;
    c->ready++;
    const char *line = c->left-- > 0 ? "1\tx\t2026-01-01\t1\n" : "not a number\n";
    (void)pg_copy_put(copy, line, strlen(line), NULL); /* and never an end */
}

static void test_copy_in_refused_in_the_middle(void **state)
{
    struct session *s = *state;
    static struct copied c = {.left = 1};
    static struct answer a;
    assert_int_equal(pg_copy_in(s->target.conn, "COPY big FROM STDIN", put_wrong, take_done, &c, NULL, NULL),
                     0);
    assert_true(wait_count(&s->f, &c.done, 1, 5000)); /* learned without having ended the data */
    assert_string_equal(c.err.sqlstate, "22P02");
    assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "0");
}

static void put_and_fail(struct pg_copy *copy, void *data)
{
    struct copied *c = data;
    if (c->ready++ == 0)
        (void)pg_copy_put(copy, "1\tx\t2026-01-01\t1\n", 17, NULL);
    pg_copy_end(copy, "changed my mind");
}

static void test_copy_in_ended_with_a_reason(void **state)
{
    struct session *s = *state;
    static struct copied c = {0};
    static struct answer a;
    assert_int_equal(
        pg_copy_in(s->target.conn, "COPY big FROM STDIN", put_and_fail, take_done, &c, NULL, NULL), 0);
    assert_true(wait_count(&s->f, &c.done, 1, 5000));
    assert_string_equal(c.err.sqlstate, "57014");
    assert_non_null(strstr(c.err.message, "changed my mind"));
    assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "0");
}

/* A notice in the middle is not taken for the end. */
static void put_slowly(struct pg_copy *copy, void *data)
{
    struct copied *c = data;
    c->ready++;
    if (c->left > 0) {
        char line[64];
        int n = snprintf(line, sizeof line, "%d\tx\t2026-01-01\t1\n", c->left--);
        assert_int_equal(pg_copy_put(copy, line, (size_t)n, NULL), 0);
    } else {
        pg_copy_end(copy, NULL);
    }
}

static void test_copy_in_with_notices(void **state)
{
    struct session *s = *state;
    static struct copied c = {.left = 3000};
    static struct answer a;
    query(&s->target,
          "CREATE OR REPLACE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS "
          "$$BEGIN RAISE NOTICE 'row %', NEW.id; RETURN NEW; END$$;"
          "CREATE TRIGGER loud BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION loud()",
          &a);
    assert_int_equal(pg_copy_in(s->target.conn, "COPY big FROM STDIN", put_slowly, take_done, &c, NULL, NULL),
                     0);
    assert_true(wait_count(&s->f, &c.done, 1, 20000));
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_int_equal(c.rows, 3000);
}

static void never_put(struct pg_copy *copy, void *data)
{
    (void)copy;
    struct copied *c = data;
    c->ready++;
}

static void test_copy_in_cancel(void **state)
{
    struct session *s = *state;
    static struct copied c = {0}, behind = {0};
    struct pg_copy *copy, *second;
    static struct answer a;
    assert_int_equal(pg_copy_in(s->target.conn, "COPY big FROM STDIN", never_put, take_done, &c, &copy, NULL),
                     0);
    assert_int_equal(
        pg_copy_in(s->target.conn, "COPY big FROM STDIN", never_put, take_done, &behind, &second, NULL), 0);
    assert_true(wait_count(&s->f, &c.ready, 1, 5000));
    pg_copy_cancel(second); /* it waits behind the first */
    pg_copy_cancel(second);
    assert_int_equal(behind.done, 0);
    assert_true(wait_count(&s->f, &behind.done, 1, 5000));
    assert_int_equal(behind.err.code, ERRC_CANCELED);
    assert_int_equal(c.done, 0);
    pg_copy_cancel(copy);
    assert_true(wait_count(&s->f, &c.done, 1, 5000));
    assert_string_equal(c.err.sqlstate, "57014");
    assert_string_equal(query(&s->target, "SELECT 'usable'", &a), "usable");
}

static void test_copy_stalls(void **state)
{
    struct session *s = *state;
    static struct copied c = {0};
    struct pg_copy *copy;
    assert_int_equal(pg_copy_out(s->source.conn, "COPY (SELECT pg_sleep(20)) TO STDOUT", take_rows, take_done,
                                 &c, &copy, NULL),
                     0);
    pg_copy_set_stall_timeout(copy, 200 * MS);
    assert_true(wait_count(&s->f, &c.done, 1, 5000));
    assert_int_equal(c.err.code, ERRC_TIMEOUT);
    assert_int_equal(s->source.lost, 1);
}

/* ---- the pump ---- */

static void take_progress(uint64_t rows, uint64_t bytes, void *data)
{
    struct copied *c = data;
    assert_true(rows > 0 && bytes > 0);
    c->progressed++;
}

static struct pg_pump *pump_start(struct session *s, struct copied *c, uint64_t rate)
{
    const struct pg_pump_options options = {.source = s->source.conn,
                                            .source_sql = "COPY big TO STDOUT (FORMAT binary)",
                                            .target = s->target.conn,
                                            .target_sql = "COPY big FROM STDIN (FORMAT binary)",
                                            .bytes_per_second = rate,
                                            .progress = take_progress};
    struct pg_pump *pump;
    memset(c, 0, sizeof *c);
    assert_int_equal(pg_pump_start(&options, take_done, c, &pump, NULL), 0);
    return pump;
}

#define CHECKSUM "SELECT count(*) || '/' || sum(hashtextextended(big::text, 0)) FROM big"

static void test_pump(void **state)
{
    struct session *s = *state;
    static struct copied c;
    static struct answer a, b;
    uint64_t start = loop_clock(&s->f.loop);
    loop_turns_reset(&s->f.loop);
    pump_start(s, &c, 0);
    assert_true(wait_count(&s->f, &c.done, 1, 60000));
    if (c.err.code != ERRC_NONE)
        fail_msg("%s", c.err.message);
    double seconds = (double)(loop_clock(&s->f.loop) - start) / 1e9;
    print_message("pumped %d rows, %.1f MB in %.2f s: %.0f MB/s, longest turn %d us\n", (int)c.rows,
                  (double)c.bytes / 1e6, seconds, (double)c.bytes / 1e6 / seconds,
                  (int)s->f.loop.longest_turn_us);
    assert_int_equal(c.rows, ROWS);
    query(&s->source, CHECKSUM, &a);
    query(&s->target, CHECKSUM, &b);
    assert_string_equal(a.value, b.value);
}

static void test_pump_rate(void **state)
{
    struct session *s = *state;
    static struct copied c;
    uint64_t start = loop_clock(&s->f.loop);
    struct pg_pump *pump = pump_start(s, &c, 10 << 20);
    run_for(&s->f, 1000);
    assert_int_equal(c.done, 0); /* 38 MB take almost 4 s */
    assert_true(c.progressed >= 3 && c.progressed <= 11);
    pg_pump_set_rate(pump, 20 << 20);
    assert_true(wait_count(&s->f, &c.done, 1, 60000));
    double seconds = (double)(loop_clock(&s->f.loop) - start) / 1e9;
    double expected = 1 + ((double)c.bytes - (10 << 20)) / (20 << 20);
    print_message("%.1f MB in %.2f s, expected %.2f s\n", (double)c.bytes / 1e6, seconds, expected);
    assert_int_equal(c.rows, ROWS);
    assert_true(seconds > expected * 0.8 && seconds < expected * 1.6);
}

static void test_pump_keeps_its_queue_small(void **state)
{
    struct session *s = *state;
    static struct copied c;
    struct client holder;
    static struct answer a;
    const struct pg_target target = server_target(&target_server);
    client_open(&holder, &s->f, &target);
    query(&s->target, "SET lock_timeout = 0", &a);
    query(&holder, "BEGIN; LOCK TABLE big", &a); /* the target does not take anything */
    pump_start(s, &c, 0);
    run_for(&s->f, 500);
    assert_true(s->source.conn->read_paused);
    const struct pg_item *item = list_item(s->target.conn->flight.next, struct pg_item, node);
    size_t queued = pg_copy_queued(item->owner);
    assert_true(queued > 0 && queued < (4u << 20));
    query(&holder, "COMMIT", &a);
    assert_true(wait_count(&s->f, &c.done, 1, 60000));
    assert_int_equal(c.rows, ROWS);
    client_close(&holder);
}

static void test_pump_target_refuses(void **state)
{
    struct session *s = *state;
    static struct copied c;
    static struct answer a;
    query(&s->target, "INSERT INTO big VALUES (100000)", &a);
    pump_start(s, &c, 0);
    assert_true(wait_count(&s->f, &c.done, 1, 30000));
    assert_string_equal(c.err.sqlstate, "23505");
    assert_true(strncmp(c.err.message, "target: ", 8) == 0);
    assert_string_equal(query(&s->source, "SELECT 1", &a), "1"); /* both are usable */
    assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "1");
}

static void test_pump_source_backend_ends(void **state)
{
    struct session *s = *state;
    static struct copied c;
    struct client other;
    static struct answer a;
    char sql[80];
    const struct pg_target target = server_target(&source_server);
    client_open(&other, &s->f, &target);
    snprintf(sql, sizeof sql, "SELECT pg_terminate_backend(%d)", pg_conn_backend_pid(s->source.conn));
    pump_start(s, &c, 5 << 20);
    run_for(&s->f, 300);
    assert_int_equal(c.done, 0);
    query(&other, sql, &a);
    assert_true(wait_count(&s->f, &c.done, 1, 30000));
    assert_true(c.err.code == ERRC_CLOSED || c.err.code == ERRC_SQL);
    assert_true(strncmp(c.err.message, "source: ", 8) == 0);
    assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "0");
    client_close(&other);
}

static void test_pump_cancel(void **state)
{
    struct session *s = *state;
    for (int wait = 0; wait < 4; wait++) {
        static struct copied c;
        static struct answer a;
        struct pg_pump *pump = pump_start(s, &c, 5 << 20);
        run_for(&s->f, wait * 20);
        pg_pump_cancel(pump);
        pg_pump_cancel(pump);
        assert_int_equal(c.done, 0);
        assert_true(wait_count(&s->f, &c.done, 1, 20000));
        assert_int_equal(c.err.code, ERRC_CANCELED);
        assert_string_equal(query(&s->source, "SELECT 'source'", &a), "source");
        assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "0");
    }
}

static void test_pump_closed_on_either_side(void **state)
{
    struct session *s = *state;
    static struct copied c;
    pump_start(s, &c, 5 << 20);
    run_for(&s->f, 100);
    client_close(&s->source);
    assert_true(wait_count(&s->f, &c.done, 1, 20000));
    assert_int_equal(c.err.code, ERRC_CANCELED);
    const struct pg_target source = server_target(&source_server);
    client_open(&s->source, &s->f, &source);
    pump_start(s, &c, 5 << 20);
    run_for(&s->f, 100);
    client_close(&s->target);
    assert_true(wait_count(&s->f, &c.done, 1, 20000));
    assert_int_equal(c.err.code, ERRC_CANCELED);
}

static void test_pump_source_server_killed(void **state)
{
    struct session *s = *state;
    static struct copied c;
    static struct answer a;
    pump_start(s, &c, 5 << 20);
    run_for(&s->f, 300);
    pg_server_kill(&source_server);
    assert_true(wait_count(&s->f, &c.done, 1, 30000));
    assert_int_equal(c.err.code, ERRC_CLOSED);
    assert_int_equal(s->source.lost, 1);
    assert_string_equal(query(&s->target, "SELECT count(*) FROM big", &a), "0");
    assert_true(pg_server_boot(&source_server));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_copy_out),
        T(test_copy_out_errors),
        T(test_copy_out_paused),
        T(test_copy_out_in_batches),
        T(test_copy_out_closed_from_inside),
        T(test_copy_in),
        T(test_copy_in_refused_in_the_middle),
        T(test_copy_in_ended_with_a_reason),
        T(test_copy_in_with_notices),
        T(test_copy_in_cancel),
        T(test_copy_stalls),
        T(test_pump),
        T(test_pump_rate),
        T(test_pump_keeps_its_queue_small),
        T(test_pump_target_refuses),
        T(test_pump_source_backend_ends),
        T(test_pump_cancel),
        T(test_pump_closed_on_either_side),
        T(test_pump_source_server_killed),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
