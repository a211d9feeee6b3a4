#include "loop/stream_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS ENV_NS_PER_MS

struct pair {
    struct end client, server;
    struct listener *listener;
};

static void pair_open(struct pair *p, struct fixture *f)
{
    end_init(&p->client, f);
    end_init(&p->server, f);
    p->listener = end_listen(&p->server, NULL);
    end_connect(&p->client,
                &(struct stream_options){.host = "127.0.0.1", .port = listener_port(p->listener)});
}

static void pair_connected(struct pair *p, struct fixture *f)
{
    pair_open(p, f);
    RUN_UNTIL(f, p->client.connected == 1 && p->server.connected == 1);
}

static void on_listener_closed(struct listener *l, void *data)
{
    (void)l;
    (*(int *)data)++;
}

static void pair_close(struct pair *p)
{
    int closed = 0;
    listener_close(p->listener, on_listener_closed, &closed);
    end_close(&p->client);
    end_close(&p->server);
    RUN_UNTIL(p->client.f, closed == 1);
}

static void test_echo(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    pair_connected(&p, f);
    p.server.echo = true;
    assert_int_equal(stream_write(p.client.stream, "hello", 5, &f->err), 0);
    RUN_UNTIL(f, p.client.received == 5 && p.client.drained == 1);
    assert_string_equal(buf_text(&p.client.got), "hello");
    char name[32];
    snprintf(name, sizeof name, "127.0.0.1:%d", listener_port(p.listener));
    assert_string_equal(stream_peer(p.client.stream), name);
    assert_int_equal(stream_pending(p.client.stream), 0);
    pair_close(&p);
}

static void test_connect_by_name_and_ipv6(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    end_init(&p.client, f);
    end_init(&p.server, f);
    p.listener = end_listen(&p.server, NULL);
    end_connect(&p.client, &(struct stream_options){.host = "localhost", .port = listener_port(p.listener)});
    RUN_UNTIL(f, p.client.connected == 1 && p.server.connected == 1);
    pair_close(&p);
}

static void test_writes_before_connected_keep_their_order(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    pair_open(&p, f);
    assert_int_equal(stream_write(p.client.stream, "a", 1, &f->err), 0);
    assert_int_equal(stream_write(p.client.stream, "b", 1, &f->err), 0);
    assert_int_equal(stream_pending(p.client.stream), 2);
    RUN_UNTIL(f, p.client.connected == 1);
    assert_int_equal(stream_write(p.client.stream, "c", 1, &f->err), 0);
    RUN_UNTIL(f, p.server.received == 3);
    assert_string_equal(buf_text(&p.server.got), "abc");
    pair_close(&p);
}

/* A port of 127.0.0.1 where nothing listens, held by a bound socket so that nobody else gets it. */
static int refusing_port(int *ret_fd)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof a;
    *ret_fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(*ret_fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(*ret_fd, (struct sockaddr *)&a, &length), 0);
    return ntohs(a.sin_port);
}

static void test_connect_refused(void **state)
{
    struct fixture *f = *state;
    struct end client;
    int fd;
    end_init(&client, f);
    int port = refusing_port(&fd);
    end_connect(&client, &(struct stream_options){.host = "127.0.0.1", .port = port});
    RUN_UNTIL(f, client.errors == 1);
    assert_int_equal(client.err.code, ERRC_UNAVAILABLE);
    assert_non_null(strstr(client.err.message, "127.0.0.1"));
    assert_non_null(strstr(client.err.message, "refused"));
    assert_int_equal(stream_write(client.stream, "x", 1, &f->err), ERRC_CLOSED);
    end_close(&client);
    close(fd);
}

static void test_connect_refused_on_every_address(void **state)
{
    struct fixture *f = *state;
    struct end client;
    int fd;
    end_init(&client, f);
    int port = refusing_port(&fd);
    end_connect(&client, &(struct stream_options){.host = "localhost", .port = port});
    RUN_UNTIL(f, client.errors == 1);
    assert_int_equal(client.err.code, ERRC_UNAVAILABLE);
    end_close(&client);
    close(fd);
}

/* A listener whose backlog is full answers no further SYN. */
static int full_listener(int *ret_port, int fillers[4])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &length), 0);
    for (int i = 0; i < 4; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        int rc = connect(fillers[i], (struct sockaddr *)&a, sizeof a);
        assert_true(rc == 0 || errno == EINPROGRESS);
    }
    *ret_port = ntohs(a.sin_port);
    return fd;
}

static void test_connect_timeout(void **state)
{
    struct fixture *f = *state;
    int port, fillers[4];
    int fd = full_listener(&port, fillers);
    struct end client;
    end_init(&client, f);
    uint64_t start = loop_clock(&f->loop);
    end_connect(&client,
                &(struct stream_options){.host = "127.0.0.1", .port = port, .connect_timeout_ns = 200 * MS});
    RUN_UNTIL(f, client.errors == 1);
    uint64_t passed = loop_clock(&f->loop) - start;
    assert_int_equal(client.err.code, ERRC_TIMEOUT);
    assert_true(passed >= 200 * MS && passed < 5 * ENV_NS_PER_S);
    end_close(&client);
    for (int i = 0; i < 4; i++)
        close(fillers[i]);
    close(fd);
}

static void test_connect_refuses_bad_input(void **state)
{
    struct fixture *f = *state;
    struct stream *s;
    struct stream_options o = {.host = "127.0.0.1", .port = 70000};
    assert_int_equal(stream_connect(&f->loop, &o, end_event, NULL, &s, &f->err), ERRC_INVALID);
    o = (struct stream_options){.host = "", .port = 1};
    assert_int_equal(stream_connect(&f->loop, &o, end_event, NULL, &s, &f->err), ERRC_INVALID);
}

static void test_unknown_host(void **state)
{
    struct fixture *f = *state;
    struct end client;
    end_init(&client, f);
    end_connect(&client, &(struct stream_options){.host = "no..such", .port = 1});
    RUN_UNTIL(f, client.errors == 1);
    assert_int_equal(client.err.code, ERRC_UNAVAILABLE);
    end_close(&client);
}

/* ---- closing at every state ---- */

static void test_close_while_resolving(void **state)
{
    struct fixture *f = *state;
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    for (int i = 0; i < 2; i++) {
        struct end client;
        end_init(&client, f);
        end_connect(&client, &(struct stream_options){.host = hosts[i], .port = 1});
        end_close(&client);
        assert_int_equal(client.errors + client.connected, 0);
    }
}

static void test_close_while_connecting(void **state)
{
    struct fixture *f = *state;
    int port, fillers[4];
    int fd = full_listener(&port, fillers);
    struct end client;
    end_init(&client, f);
    end_connect(&client, &(struct stream_options){.host = "127.0.0.1", .port = port});
    RUN_UNTIL(f, f->loop.handles == 1); /* the attempt's handle: the literal is resolved */
    assert_int_equal(stream_write(client.stream, "queued", 6, &f->err), 0);
    end_close(&client);
    assert_int_equal(client.errors + client.connected, 0);
    for (int i = 0; i < 4; i++)
        close(fillers[i]);
    close(fd);
}

static void test_close_inside_each_callback(void **state)
{
    struct fixture *f = *state;
    static const enum stream_event events[] = {STREAM_CONNECTED, STREAM_DATA, STREAM_DRAINED, STREAM_EOF};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        struct pair p;
        pair_open(&p, f);
        p.server.close_at = p.client.close_at = events[i];
        p.server.close_set = true;
        p.client.close_set = events[i] != STREAM_EOF;
        RUN_UNTIL(f, p.server.connected == 1 && p.client.connected == 1);
        if (p.client.closed == 0 && p.client.close_at != STREAM_CLOSED)
            (void)stream_write(p.client.stream, "x", 1, NULL);
        if (p.server.closed == 0 && p.server.close_at != STREAM_CLOSED)
            (void)stream_write(p.server.stream, "y", 1, NULL);
        if (events[i] == STREAM_EOF)
            stream_finish(p.client.stream);
        RUN_UNTIL(f, p.server.closed == 1 && p.client.closed == 1);
        pair_close(&p);
    }
}

static void test_close_inside_the_error_callback(void **state)
{
    struct fixture *f = *state;
    struct end client;
    int fd;
    end_init(&client, f);
    client.close_at = STREAM_ERROR;
    client.close_set = true;
    int port = refusing_port(&fd);
    end_connect(&client, &(struct stream_options){.host = "127.0.0.1", .port = port});
    RUN_UNTIL(f, client.closed == 1);
    assert_int_equal(client.errors, 1);
    end_close(&client);
    close(fd);
}

static void accept_and_close(struct listener *l, struct stream *s, void *data)
{
    struct end *e = data;
    end_accept(l, s, data);
    e->close_at = STREAM_CLOSED;
    e->close_set = true;
    stream_close(s);
}

static void accept_and_forget(struct listener *l, struct stream *s, void *data)
{
    (void)l;
    (void)s;
    (*(int *)data)++;
}

static void test_accepted_stream_may_be_dropped_at_once(void **state)
{
    struct fixture *f = *state;
    struct end client, server;
    int forgotten = 0;
    struct listener *first, *second;
    end_init(&client, f);
    end_init(&server, f);
    assert_int_equal(
        listener_open(&f->loop, "127.0.0.1", 0, NULL, accept_and_close, &server, &first, &f->err), 0);
    end_connect(&client, &(struct stream_options){.host = "127.0.0.1", .port = listener_port(first)});
    RUN_UNTIL(f, client.eof == 1 && server.closed == 1);
    assert_int_equal(server.connected, 0);
    end_close(&client);
    assert_int_equal(listener_open(&f->loop, "::1", 0, NULL, accept_and_forget, &forgotten, &second, &f->err),
                     0);
    end_init(&client, f);
    end_connect(&client, &(struct stream_options){.host = "::1", .port = listener_port(second)});
    RUN_UNTIL(f, client.eof == 1);
    assert_int_equal(forgotten, 1);
    assert_int_equal(strncmp(stream_peer(client.stream), "[::1]:", 6), 0);
    end_close(&client);
    listener_close(first, NULL, NULL);
    listener_close(first, NULL, NULL);
    listener_close(second, NULL, NULL);
}

/* ---- ending ---- */

static void test_finish_delivers_everything_then_eof(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    uint64_t sum;
    size_t length = 3000000;
    char *data = pattern_make(length, &sum);
    pair_connected(&p, f);
    p.server.keep_count_only = true;
    assert_int_equal(stream_write(p.client.stream, data, length, &f->err), 0);
    stream_finish(p.client.stream);
    stream_finish(p.client.stream);
    assert_int_equal(stream_write(p.client.stream, "x", 1, &f->err), ERRC_CLOSED);
    RUN_UNTIL(f, p.server.eof == 1);
    assert_int_equal(p.server.received, length);
    assert_true(p.server.sum == sum);
    /* the other direction still stands for the one who got EOF */
    assert_int_equal(stream_write(p.server.stream, "bye", 3, &f->err), 0);
    RUN_UNTIL(f, p.client.closed == 1);
    assert_int_equal(p.client.received, 0);
    free(data);
    pair_close(&p);
}

/* The server answers and ends while the client still sends: the answer must arrive. */
static void test_finish_is_not_spoilt_by_unread_input(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    char junk[200000] = {0};
    pair_connected(&p, f);
    stream_pause(p.server.stream);
    assert_int_equal(stream_write(p.client.stream, junk, sizeof junk, &f->err), 0);
    assert_int_equal(stream_write(p.server.stream, "answer", 6, &f->err), 0);
    stream_finish(p.server.stream);
    RUN_UNTIL(f, p.client.eof == 1 || p.client.errors == 1);
    assert_int_equal(p.client.errors, 0);
    assert_string_equal(buf_text(&p.client.got), "answer");
    pair_close(&p);
}

/* As above, with input that comes after the end, while the kernels still hold a part of the answer. */
static void test_finish_lingers_for_late_input(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    uint64_t sum;
    size_t length = 1500000;
    char *data = pattern_make(length, &sum);
    pair_connected(&p, f);
    p.client.keep_count_only = true;
    stream_pause(p.client.stream);
    assert_int_equal(stream_write(p.server.stream, data, length, &f->err), 0);
    stream_finish(p.server.stream);
    RUN_UNTIL(f, stream_pending(p.server.stream) == 0);
    uint64_t until = loop_clock(&f->loop) + 30 * MS; /* time for a close, were it made too early */
    RUN_UNTIL(f, loop_clock(&f->loop) >= until);
    assert_int_equal(stream_write(p.client.stream, "late", 4, &f->err), 0);
    RUN_UNTIL(f, p.client.drained == 1);
    until = loop_clock(&f->loop) + 30 * MS; /* time for the reset that would follow it */
    RUN_UNTIL(f, loop_clock(&f->loop) >= until);
    stream_resume(p.client.stream);
    RUN_UNTIL(f, p.client.eof == 1 || p.client.errors == 1);
    assert_int_equal(p.client.errors, 0);
    assert_int_equal(p.client.received, length);
    assert_true(p.client.sum == sum);
    free(data);
    pair_close(&p);
}

static void test_reset_by_the_peer_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    pair_connected(&p, f);
    assert_int_equal(stream_write(p.client.stream, "unread", 6, &f->err), 0);
    stream_pause(p.server.stream);
    RUN_UNTIL(f, p.client.drained == 1);
    end_close(&p.server); /* with unread input the kernel sends RST */
    RUN_UNTIL(f, p.client.errors == 1 || p.client.eof == 1);
    assert_int_equal(p.client.errors, 1);
    assert_int_equal(p.client.err.code, ERRC_CLOSED);
    pair_close(&p);
}

/* ---- bulk ---- */

static void test_large_transfer_with_back_pressure(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    uint64_t sum;
    size_t length = 12000000;
    char *data = pattern_make(length, &sum);
    pair_connected(&p, f);
    p.server.keep_count_only = true;
    p.server.pause_each = true;
    for (size_t at = 0; at < length; at += 60000)
        assert_int_equal(stream_write(p.client.stream, data + at, 60000, &f->err), 0);
    RUN_UNTIL(f, p.server.received == length);
    assert_true(p.server.sum == sum);
    RUN_UNTIL(f, p.client.drained == 1);
    free(data);
    pair_close(&p);
}

static void test_paused_stream_delivers_nothing(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    pair_connected(&p, f);
    stream_pause(p.server.stream);
    stream_pause(p.server.stream);
    assert_int_equal(stream_write(p.client.stream, "x", 1, &f->err), 0);
    RUN_UNTIL(f, p.client.drained == 1);
    for (int i = 0; i < 20; i++)
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(p.server.received, 0);
    stream_resume(p.server.stream);
    assert_int_equal(p.server.received, 0);
    RUN_UNTIL(f, p.server.received == 1);
    pair_close(&p);
}

struct drip {
    struct loop_timer timer;
    struct end *from;
    int left;
};

static void drip(struct loop_timer *timer, void *data)
{
    struct drip *d = data;
    (void)stream_write(d->from->stream, "x", 1, NULL);
    if (--d->left > 0)
        loop_timer_start(timer, MS);
}

/* A burst is read in few pieces, and whole. */
static void test_gathering(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    pair_connected(&p, f);
    p.client.keep_count_only = true;
    int reads = 0;
    struct drip d = {.from = &p.server, .left = 300};
    stream_gather(p.client.stream, 50 * MS);
    loop_timer_init(&f->loop, &d.timer, drip, &d);
    loop_timer_start(&d.timer, 0);
    size_t before = 0;
    while (p.client.received < 300) {
        uv_run(&f->loop.uv, UV_RUN_ONCE);
        reads += p.client.received != before;
        before = p.client.received;
    }
    assert_true(reads < 100);
    assert_true(reads >= 3);

    /* in the pause of a burst that does not end: switched off, everything comes */
    stream_gather(p.client.stream, 3600 * ENV_NS_PER_S);
    drip(&d.timer, &d);
    RUN_UNTIL(f, p.client.received == 301);
    for (int i = 0; i < 5; i++)
        (void)stream_write(p.server.stream, "y", 1, NULL);
    stream_gather(p.client.stream, 0);
    RUN_UNTIL(f, p.client.received == 306);
    pair_close(&p);
}

static void test_write_limit(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    char piece[65536] = {0};
    end_init(&p.client, f);
    end_init(&p.server, f);
    p.listener = end_listen(&p.server, NULL);
    struct stream_options o = {
        .host = "127.0.0.1", .port = listener_port(p.listener), .write_limit = 1000000};
    end_connect(&p.client, &o);
    RUN_UNTIL(f, p.client.connected == 1 && p.server.connected == 1);
    stream_pause(p.server.stream);
    p.server.keep_count_only = true;
    size_t accepted = 0;
    int rc = 0;
    for (int i = 0; i < 1000 && rc == 0; i++) {
        rc = stream_write(p.client.stream, piece, sizeof piece, &f->err);
        accepted += rc == 0 ? sizeof piece : 0;
        assert_true(stream_pending(p.client.stream) <= 1000000);
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    }
    assert_int_equal(rc, ERRC_LIMIT);
    stream_resume(p.server.stream);
    RUN_UNTIL(f, p.server.received == accepted && p.client.drained >= 1);
    assert_int_equal(stream_write(p.client.stream, piece, sizeof piece, &f->err), 0);
    pair_close(&p);
}

static void on_release(void *owner)
{
    (*(int *)owner)++;
}

static void test_owned_writes_are_released_once(void **state)
{
    struct fixture *f = *state;
    struct pair p;
    uint64_t sum;
    size_t length = 8000000;
    char *data = pattern_make(length, &sum);
    int written = 0, waiting = 0, empty = 0, dropped = 0;
    pair_open(&p, f);
    assert_int_equal(stream_write_owned(p.client.stream, "early", 5, on_release, &waiting, &f->err), 0);
    RUN_UNTIL(f, p.client.connected == 1 && p.server.connected == 1);
    assert_int_equal(stream_write_owned(p.client.stream, "mine", 4, on_release, &written, &f->err), 0);
    assert_int_equal(stream_write_owned(p.client.stream, NULL, 0, on_release, &empty, &f->err), 0);
    RUN_UNTIL(f, written == 1 && waiting == 1 && empty == 1);
    stream_pause(p.server.stream);
    assert_int_equal(stream_write_owned(p.client.stream, data, length, on_release, &dropped, &f->err), 0);
    end_close(&p.client);
    assert_int_equal(dropped, 1);
    assert_int_equal(written + waiting + empty, 3);
    free(data);
    pair_close(&p);
}

/* ---- listener ---- */

static void test_address_in_use(void **state)
{
    struct fixture *f = *state;
    struct end server;
    struct listener *second;
    end_init(&server, f);
    struct listener *first = end_listen(&server, NULL);
    int port = listener_port(first);
    assert_int_equal(listener_open(&f->loop, "127.0.0.1", port, NULL, end_accept, NULL, &second, &f->err),
                     ERRC_IO);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "127.0.0.1 port %d", port);
    assert_non_null(strstr(f->err.message, wanted));
    assert_non_null(strstr(f->err.message, "in use"));
    assert_int_equal(listener_open(&f->loop, "host.name", 1, NULL, end_accept, NULL, &second, &f->err),
                     ERRC_INVALID);
    listener_close(first, NULL, NULL);
}

/* Without descriptors the listener waits instead of spinning, and goes on once there are some. */
static void test_no_descriptors_left(void **state)
{
    struct fixture *f = *state;
    struct end server;
    end_init(&server, f);
    struct listener *l = end_listen(&server, NULL);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons((uint16_t)listener_port(l));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0); /* waits in the backlog */
    struct rlimit old, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    uint64_t before = f->loop.turns.count;
    uint64_t until = loop_clock(&f->loop) + 300 * MS;
    RUN_UNTIL(f, loop_clock(&f->loop) >= until);
    int accepted = server.connected;
    uint64_t turns = f->loop.turns.count - before;
    setrlimit(RLIMIT_NOFILE, &old);
    assert_int_equal(accepted, 0);
    assert_true(turns < 200); /* the 5 ms ticks of the test, and the pauses */
    RUN_UNTIL(f, server.connected == 1);
    close(fd);
    listener_close(l, NULL, NULL);
    end_close(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(test_echo),
        LOOP_TEST(test_connect_by_name_and_ipv6),
        LOOP_TEST(test_writes_before_connected_keep_their_order),
        LOOP_TEST(test_connect_refused),
        LOOP_TEST(test_connect_refused_on_every_address),
        LOOP_TEST(test_connect_timeout),
        LOOP_TEST(test_connect_refuses_bad_input),
        LOOP_TEST(test_unknown_host),
        LOOP_TEST(test_close_while_resolving),
        LOOP_TEST(test_close_while_connecting),
        LOOP_TEST(test_close_inside_each_callback),
        LOOP_TEST(test_close_inside_the_error_callback),
        LOOP_TEST(test_accepted_stream_may_be_dropped_at_once),
        LOOP_TEST(test_finish_delivers_everything_then_eof),
        LOOP_TEST(test_finish_is_not_spoilt_by_unread_input),
        LOOP_TEST(test_finish_lingers_for_late_input),
        LOOP_TEST(test_reset_by_the_peer_is_an_error),
        LOOP_TEST(test_large_transfer_with_back_pressure),
        LOOP_TEST(test_paused_stream_delivers_nothing),
        LOOP_TEST(test_gathering),
        LOOP_TEST(test_write_limit),
        LOOP_TEST(test_owned_writes_are_released_once),
        LOOP_TEST(test_address_in_use),
        LOOP_TEST(test_no_descriptors_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
