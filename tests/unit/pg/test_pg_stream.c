/* Logical replication: pgoutput from real servers of every version that is at hand. */
#include "pg/pg_test.h"

#include "base/text.h"
#include "pg/pg_impl.h"
#include "pg/pg_stream.h"

static char bins[4][512];
static int bin_count;
static struct pg_server server;

static int group_setup(void **state)
{
    (void)state;
    bin_count = pg_server_all(bins, 4);
    if (bin_count == 0 || !pg_server_start(&server, bins[0], NULL))
        return -1;
    return pg_server_sql(&server, "postgres", "CREATE ROLE other LOGIN REPLICATION PASSWORD 'x'");
}

static int group_teardown(void **state)
{
    (void)state;
    pg_server_stop(&server);
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

/* A stream and the text of what it decoded: "B I(orders:1,a) C ". */
struct listener {
    struct pg_stream *stream;
    struct pgoutput *decoder;
    int ended;
    int commits;
    int messages;
    uint64_t last_end;
    struct err err;
    struct buf text;
    bool stop_at_once;
    bool confirm_nothing;
};

static void add_tuple(struct buf *out, const struct pgoutput_tuple *tuple)
{
    for (int i = 0; i < tuple->count; i++) {
        const struct pgoutput_value *v = &tuple->values[i];
        if (v->kind == 't')
            buf_printf(out, "%s%.*s", i > 0 ? "," : "", (int)(v->length > 8 ? 8 : v->length), v->data);
        else
            buf_printf(out, "%s%c", i > 0 ? "," : "", v->kind == 'n' ? '-' : '~');
    }
}

static void add_message(struct listener *l, const struct pgoutput_message *m)
{
    static const char letters[] = "BCORYIUDTM";
    buf_addc(&l->text, letters[m->kind]);
    if (m->kind == PGOUTPUT_INSERT || m->kind == PGOUTPUT_UPDATE || m->kind == PGOUTPUT_DELETE) {
        buf_printf(&l->text, "(%s:", m->relation->name);
        add_tuple(&l->text, &m->old_tuple);
        buf_add_text(&l->text, "|");
        add_tuple(&l->text, &m->new_tuple);
        buf_add_text(&l->text, ")");
    }
    buf_addc(&l->text, ' ');
}

static void on_message(struct pg_stream *stream, uint64_t wal_start, const char *bytes, size_t length,
                       void *data)
{
    struct listener *l = data;
    struct pgoutput_message m;
    struct err err = {0};
    (void)wal_start;
    if (pgoutput_decode(l->decoder, bytes, length, &m, &err) != 0)
        fail_msg("%s", err.message);
    l->messages++;
    if (m.kind != PGOUTPUT_RELATION)
        add_message(l, &m);
    if (m.kind == PGOUTPUT_COMMIT) {
        l->last_end = m.end_lsn;
        if (!l->confirm_nothing)
            pg_stream_confirm(stream, m.end_lsn);
        l->commits++;
    }
    if (l->stop_at_once)
        pg_stream_stop(stream);
}

static void on_ended(struct pg_stream *stream, const struct err *err, void *data)
{
    (void)stream;
    struct listener *l = data;
    l->ended++;
    err_clear(&l->err);
    err_copy(&l->err, err);
}

static const struct pg_stream_events stream_events = {.message = on_message, .ended = on_ended};

static void listener_start(struct listener *l, struct client *c, uint64_t lsn, const char *publications)
{
    struct err err = {0};
    memset(l, 0, sizeof *l);
    l->decoder = pgoutput_new();
    if (pg_stream_start(c->conn, "s", lsn, publications, &stream_events, l, &l->stream, &err) != 0)
        fail_msg("%s", err.message);
}

static void listener_free(struct listener *l)
{
    pgoutput_free(l->decoder);
    buf_free(&l->text);
}

static void open_pair(struct fixture *f, const struct pg_server *s, struct client *sql, struct client *wal)
{
    struct answer a;
    struct pg_target target = server_target(s);
    client_open(sql, f, &target);
    target.replication = true;
    target.options = NULL;
    client_open(wal, f, &target);
    query(sql,
          "DROP PUBLICATION IF EXISTS \"P one\"; DROP TABLE IF EXISTS orders, others;"
          "CREATE TABLE orders (id int PRIMARY KEY, name text, big text);"
          "CREATE TABLE others (id int);"
          "ALTER TABLE orders ALTER COLUMN big SET STORAGE EXTERNAL;"
          "CREATE PUBLICATION \"P one\" FOR TABLE orders",
          &a);
    query(wal, "CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT", &a);
}

static void close_pair(struct client *sql, struct client *wal)
{
    client_close(wal);
    client_close(sql);
}

static const char changes[] = "BEGIN; INSERT INTO orders VALUES (1, 'a', repeat('x', 5000)), (2, NULL, ''); "
                              "INSERT INTO others VALUES (9); COMMIT;"
                              "UPDATE orders SET name = 'b' WHERE id = 1;"
                              "UPDATE orders SET id = 3 WHERE id = 2;"
                              "DELETE FROM orders WHERE id = 3;"
                              "TRUNCATE orders;"
                              "ALTER TABLE orders REPLICA IDENTITY FULL;"
                              "INSERT INTO orders VALUES (4, 'd', 'D');"
                              "DELETE FROM orders";

static const char expected[] = "B I(orders:|1,a,xxxxxxxx) I(orders:|2,-,) C "
                               "B U(orders:|1,b,~) C "
                               "B U(orders:2,-,-|3,-,) C "
                               "B D(orders:3,-,-|) C "
                               "B T C "
                               "B I(orders:|4,d,D) C "
                               "B D(orders:4,d,D|) C ";

static int64_t slot_number(struct client *sql, const char *what)
{
    struct answer a;
    char text[256];
    int64_t n = -1;
    snprintf(text, sizeof text, "SELECT %s::bigint FROM pg_replication_slots WHERE slot_name = 's'", what);
    query(sql, text, &a);
    (void)text_to_int64(a.value, &n);
    return n;
}

static void stream_all_kinds(struct fixture *f, const struct pg_server *s)
{
    struct client sql, wal;
    struct listener l;
    struct answer a[8];
    open_pair(f, s, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    char copy[sizeof changes];
    memcpy(copy, changes, sizeof changes);
    char *at = copy;
    /* one transaction each: the first holds four statements, the others one */
    query(&sql, "BEGIN", &a[0]);
    at = strchr(at, ';') + 1;
    for (char *end; (end = strchr(at, ';')) != NULL; at = end + 1) {
        *end = '\0';
        query(&sql, at, &a[0]);
    }
    query(&sql, at, &a[0]);
    assert_true(wait_count(f, &l.commits, 7, 10000));
    /* an empty transaction may be sent as "B C" by older servers */
    assert_string_equal(buf_text(&l.text), expected);
    assert_true(pg_stream_received(l.stream) >= l.last_end);
    /* the position arrives with the next status */
    char lsn[TEXT_LSN_SIZE], what[80];
    text_from_lsn(l.last_end, lsn);
    snprintf(what, sizeof what, "(confirmed_flush_lsn - '%s'::pg_lsn)", lsn);
    int64_t behind = -1;
    for (int i = 0; i < 100 && behind != 0; i++) {
        run_for(f, 50);
        behind = slot_number(&sql, what);
    }
    assert_int_equal(behind, 0);
    pg_stream_stop(l.stream);
    pg_stream_stop(l.stream);
    assert_int_equal(l.ended, 0);
    assert_true(wait_count(f, &l.ended, 1, 10000));
    assert_int_equal(l.err.code, ERRC_NONE);
    query(&wal, "IDENTIFY_SYSTEM", &a[0]); /* usable again */
    assert_int_equal(wal.lost, 0);
    listener_free(&l);
    close_pair(&sql, &wal);
}

static void test_all_kinds_of_changes_on_every_version(void **state)
{
    stream_all_kinds(*state, &server);
    for (int i = 1; i < bin_count; i++) {
        struct pg_server s;
        assert_true(pg_server_start(&s, bins[i], NULL));
        print_message("also on PostgreSQL %d\n", s.major);
        stream_all_kinds(*state, &s);
        pg_server_stop(&s);
    }
}

static void test_many_changes(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l;
    struct answer a;
    open_pair(f, &server, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    query(&sql, "INSERT INTO orders SELECT n, 'name', 'text' FROM generate_series(1, 50000) n", &a);
    l.text.limit = 1; /* only counts */
    assert_true(wait_count(f, &l.commits, 1, 20000));
    assert_int_equal(l.messages, 50000 + 3);
    client_close(&wal); /* while it streams */
    assert_int_equal(l.ended, 1);
    assert_int_equal(l.err.code, ERRC_CANCELED);
    listener_free(&l);
    client_close(&sql);
}

/* WAL of other tables is confirmed by itself, but not while a transaction waits for its confirmation. */
static void test_idle_stream_lets_wal_go(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l;
    struct answer a;
    open_pair(f, &server, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    query(&sql, "INSERT INTO others SELECT generate_series(1, 10000)", &a);
    query(&sql, "SELECT pg_current_wal_lsn()", &a);
    char what[160];
    snprintf(what, sizeof what, "(confirmed_flush_lsn - '%.20s'::pg_lsn)", a.value);
    int64_t ahead = -1;
    for (int i = 0; i < 100 && ahead < 0; i++) {
        run_for(f, 50);
        ahead = slot_number(&sql, what);
    }
    assert_true(ahead >= 0);
    l.confirm_nothing = true;
    query(&sql, "INSERT INTO orders VALUES (1)", &a);
    assert_true(wait_count(f, &l.commits, 1, 5000));
    query(&sql, "INSERT INTO others SELECT generate_series(1, 10000)", &a);
    run_for(f, 2500);
    char lsn[TEXT_LSN_SIZE];
    text_from_lsn(l.last_end, lsn);
    snprintf(what, sizeof what, "(confirmed_flush_lsn - '%s'::pg_lsn)", lsn);
    assert_true(slot_number(&sql, what) < 0);
    listener_free(&l);
    close_pair(&sql, &wal);
}

static void test_keepalives_hold_the_connection(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l;
    struct answer a;
    open_pair(f, &server, &sql, &wal);
    query(&sql, "ALTER SYSTEM SET wal_sender_timeout = '1500ms'", &a);
    query(&sql, "SELECT pg_reload_conf()", &a);
    listener_start(&l, &wal, 0, "\"P one\"");
    run_for(f, 4000);
    assert_int_equal(l.ended, 0);
    query(&sql, "INSERT INTO orders VALUES (1)", &a);
    assert_true(wait_count(f, &l.commits, 1, 5000));
    query(&sql, "ALTER SYSTEM RESET wal_sender_timeout", &a);
    query(&sql, "SELECT pg_reload_conf()", &a);
    listener_free(&l);
    close_pair(&sql, &wal);
}

static void test_stream_errors(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l;
    struct answer a;
    open_pair(f, &server, &sql, &wal);
    assert_int_equal(pg_stream_start(sql.conn, "s", 0, "p", &stream_events, &l, NULL, NULL), ERRC_INVALID);
    listener_start(&l, &wal, 0, "it's \"not\" a list");
    assert_true(wait_count(f, &l.ended, 1, 5000));
    assert_int_equal(l.err.code, ERRC_SQL);
    listener_free(&l);
    /* unknown publication: found out at the first change */
    listener_start(&l, &wal, 0, "no_such_publication");
    query(&sql, "INSERT INTO orders VALUES (1)", &a);
    if (wait_count(f, &l.ended, 1, 2000))
        assert_int_equal(l.err.code, ERRC_SQL);
    listener_free(&l);
    close_pair(&sql, &wal);
}

static void test_stop_from_inside_and_before_the_start(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l, second;
    struct answer a;
    open_pair(f, &server, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    l.stop_at_once = true;
    listener_start(&second, &wal, 0, "\"P one\""); /* waits behind the first */
    pg_stream_stop(second.stream);
    assert_int_equal(second.ended, 0);
    assert_true(wait_count(f, &second.ended, 1, 5000));
    query(&sql, "INSERT INTO orders SELECT n FROM generate_series(1, 1000) n", &a);
    assert_true(wait_count(f, &l.ended, 1, 5000));
    assert_int_equal(l.messages, 1);
    assert_int_equal(l.err.code, ERRC_NONE);
    listener_free(&l);
    listener_free(&second);
    listener_start(&l, &wal, 0, "\"P one\"");
    pg_stream_stop(l.stream); /* before the server has answered */
    assert_true(wait_count(f, &l.ended, 1, 5000));
    assert_int_equal(l.err.code, ERRC_NONE);
    listener_free(&l);
    close_pair(&sql, &wal);
}

static void test_server_shutdown_and_kill(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l;
    struct answer a;
    open_pair(f, &server, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    query(&sql, "INSERT INTO orders VALUES (1)", &a);
    assert_true(wait_count(f, &l.commits, 1, 5000));
    kill(server.pid, SIGINT); /* it waits until the stream has confirmed everything */
    assert_true(wait_count(f, &l.ended, 1, 5000));
    pg_server_halt(&server, SIGINT);
    assert_true(l.err.code == ERRC_CLOSED || l.err.code == ERRC_SQL);
    listener_free(&l);
    close_pair(&sql, &wal);
    assert_true(pg_server_boot(&server));
    open_pair(f, &server, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    run_for(f, 200);
    pg_server_kill(&server);
    assert_true(wait_count(f, &l.ended, 1, 5000));
    assert_int_equal(l.err.code, ERRC_CLOSED);
    listener_free(&l);
    close_pair(&sql, &wal);
    assert_true(pg_server_boot(&server));
}

/* P14 for a stream: silence in spite of a question ends it. Time comes from a clock that jumps. */
static uint64_t clock_offset;

static uint64_t jumping_clock(struct env *env)
{
    (void)env;
    struct env *real = env_system();
    return real->monotonic_ns(real) + clock_offset;
}

static void test_P14_silent_stream(void **state)
{
    struct fixture *f = *state;
    struct client sql, wal;
    struct listener l;
    struct env jumping = *env_system(), *real = f->loop.env;
    jumping.monotonic_ns = jumping_clock;
    f->loop.env = &jumping;
    open_pair(f, &server, &sql, &wal);
    listener_start(&l, &wal, 0, "\"P one\"");
    run_for(f, 1200);
    pg_server_signal_all(&server, SIGSTOP);
    clock_offset = 31 * ENV_NS_PER_S;
    assert_true(wait_count(f, &l.ended, 1, 5000));
    assert_int_equal(l.err.code, ERRC_TIMEOUT);
    pg_server_signal_all(&server, SIGCONT);
    listener_free(&l);
    close_pair(&sql, &wal);
    f->loop.env = real;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_all_kinds_of_changes_on_every_version),
        T(test_many_changes),
        T(test_idle_stream_lets_wal_go),
        T(test_keepalives_hold_the_connection),
        T(test_stream_errors),
        T(test_stop_from_inside_and_before_the_start),
        T(test_P14_silent_stream),
        T(test_server_shutdown_and_kill),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
