/* The client against a scripted server on a plain socket, and against our own server. */
#include "http/http_test.h"

/* ---- a scripted server ---- */

struct script {
    int listener;
    int port;
    int accepted;
    struct peer peers[16];
};

static void script_open(struct script *s)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t length = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(s, 0, sizeof *s);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(s->listener, 16), 0);
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&a, &length), 0);
    s->port = ntohs(a.sin_port);
}

/* Takes new connections; the i-th peer if it is there. */
static struct peer *script_peer(struct script *s, int i)
{
    int fd;
    while (s->accepted < 16 && (fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        s->peers[s->accepted++] = (struct peer){.fd = fd};
    return i < s->accepted ? &s->peers[i] : NULL;
}

static bool script_got(struct script *s, int i, const char *text)
{
    struct peer *p = script_peer(s, i);
    return p != NULL && peer_has(p, text);
}

static void script_close(struct script *s)
{
    for (int i = 0; i < s->accepted; i++)
        peer_close(&s->peers[i]);
    close(s->listener);
}

/* ---- calls ---- */

struct result {
    int calls; /* of the answer callback */
    int code;
    int status;
    char message[ERR_MESSAGE_SIZE];
    char header[64]; /* X-Test */
    struct buf body;
    struct buf streamed;
    int pieces;
    struct http_call *call;
    bool cancel_in_body;
};

static void on_answer(const struct http_answer *answer, void *data)
{
    struct result *r = data;
    r->calls++;
    r->code = answer->err != NULL ? (int)answer->err->code : 0;
    r->status = answer->status;
    snprintf(r->message, sizeof r->message, "%s", answer->err != NULL ? answer->err->message : "");
    const char *header = http_answer_header(answer->call, "x-test");
    snprintf(r->header, sizeof r->header, "%s", header != NULL ? header : "");
    assert_int_equal(answer->body[answer->body_length], '\0');
    buf_add(&r->body, answer->body, answer->body_length);
    r->call = NULL;
}

static void on_piece(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct result *r = data;
    assert_int_equal(status, 200);
    r->pieces++;
    buf_add(&r->streamed, bytes, length);
    if (r->cancel_in_body)
        http_call_cancel(call);
}

static void result_reset(struct result *r)
{
    buf_free(&r->body);
    buf_free(&r->streamed);
    *r = (struct result){0};
}

static void start(struct fixture *f, struct result *r, struct http_call_options *o, int port,
                  const char *path)
{
    char url[256];
    if (f->client == NULL)
        f->client = http_client_new(&f->loop, NULL);
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", port, path);
    o->url = url;
    o->method = o->method != NULL ? o->method : "GET";
    int code = http_call_start(f->client, o, on_answer, r, &r->call, &f->err);
    if (code != 0)
        fail_msg("%s", f->err.message);
    assert_int_equal(r->calls, 0);
}

/* One call whose answer the script gives in full. */
static void exchange(struct fixture *f, struct script *s, int connection, struct result *r,
                     const char *method, const char *answer)
{
    struct http_call_options o = {.method = method};
    result_reset(r);
    start(f, r, &o, s->port, "/x");
    RUN_UNTIL(f, script_got(s, connection, "\r\n\r\n"));
    buf_free(&s->peers[connection].got);
    peer_send(&s->peers[connection], answer);
    RUN_UNTIL(f, r->calls == 1);
}

static void test_request_as_sent(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    script_open(&s);
    const struct http_header headers[] = {{"X-A", "1"}, {"Accept", "text/plain"}};
    struct http_call_options o = {
        .method = "POST", .headers = headers, .header_count = 2, .body = "hello", .body_length = 5};
    start(f, &r, &o, s.port, "/a/b?c=d");
    RUN_UNTIL(f, script_got(&s, 0, "hello"));
    char expected[256];
    snprintf(expected, sizeof expected,
             "POST /a/b?c=d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-A: 1\r\nAccept: "
             "text/plain\r\nContent-Length: 5\r\n\r\nhello",
             s.port);
    assert_string_equal(peer_text(&s.peers[0]), expected);
    peer_send(&s.peers[0], "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nX-Test: a\r\nX-Test: b\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    run_for(f, 5 * ENV_NS_PER_MS);
    assert_int_equal(r.calls, 0);
    peer_send(&s.peers[0], "2\r\nde\r\n0\r\n\r\n");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.status, 201);
    assert_string_equal(r.header, "a, b");
    assert_string_equal(buf_text(&r.body), "abcde");
    result_reset(&r);
    script_close(&s);
}

static void test_connections_are_kept_and_dropped(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    script_open(&s);
    exchange(f, &s, 0, &r, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    assert_string_equal(buf_text(&r.body), "hi");
    exchange(f, &s, 0, &r, "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    assert_int_equal(r.body.length, 0);
    exchange(f, &s, 0, &r, "GET", "HTTP/1.1 204 No Content\r\n\r\n");
    assert_int_equal(s.accepted, 1);
    /* bytes beyond the answer: complete, but the connection is not trusted any more */
    exchange(f, &s, 0, &r, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n");
    assert_int_equal(r.code, 0);
    exchange(f, &s, 1, &r, "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
    assert_int_equal(r.code, 0);
    exchange(f, &s, 2, &r, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    put_forward(f, 31 * ENV_NS_PER_S);
    RUN_UNTIL(f, peer_ended(&s.peers[2]));
    assert_int_equal(s.accepted, 3);
    result_reset(&r);
    script_close(&s);
}

static void test_body_until_close(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    struct http_call_options o = {0};
    script_open(&s);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 0, "\r\n\r\n"));
    peer_send(&s.peers[0], "HTTP/1.1 200 OK\r\n\r\nuntil");
    run_for(f, 5 * ENV_NS_PER_MS);
    peer_send(&s.peers[0], " close");
    peer_close(&s.peers[0]);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, 0);
    assert_string_equal(buf_text(&r.body), "until close");
    result_reset(&r);
    start(f, &r, &o, s.port, "/path?token=secret");
    RUN_UNTIL(f, script_got(&s, 1, "\r\n\r\n"));
    peer_send(&s.peers[1], "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort");
    run_for(f, 5 * ENV_NS_PER_MS);
    peer_close(&s.peers[1]);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_CLOSED);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.message, "/path:"));
    assert_null(strstr(r.message, "secret"));
    result_reset(&r);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 2, "\r\n\r\n"));
    peer_send(&s.peers[2], "SSH-2.0-OpenSSH_9\r\n");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_PROTOCOL);
    result_reset(&r);
    script_close(&s);
}

/* ---- H5 ---- */

static void test_H5_only_idempotent_requests_are_retried(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *method;
        bool retried;
    } cases[] = {{"GET", true},    {"HEAD", true},  {"PUT", true},
                 {"DELETE", true}, {"POST", false}, {"PATCH", false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct script s;
        struct result r = {0};
        struct http_call_options o = {.method = cases[i].method};
        script_open(&s);
        exchange(f, &s, 0, &r, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        result_reset(&r);
        start(f, &r, &o, s.port, "/again");
        RUN_UNTIL(f, script_got(&s, 0, "/again"));
        peer_close(&s.peers[0]); /* read, and closed without a byte of an answer */
        if (cases[i].retried) {
            RUN_UNTIL(f, script_got(&s, 1, "/again"));
            peer_send(&s.peers[1], "HTTP/1.1 204 No Content\r\n\r\n");
        }
        RUN_UNTIL(f, r.calls == 1);
        assert_int_equal(r.code, cases[i].retried ? 0 : ERRC_CLOSED);
        script_peer(&s, 0);
        assert_int_equal(s.accepted, cases[i].retried ? 2 : 1);
        result_reset(&r);
        script_close(&s);
    }
}

static void test_H5_no_retry_on_new_connections_nor_twice_nor_after_a_byte(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    struct http_call_options o = {0};
    script_open(&s);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 0, "\r\n\r\n"));
    peer_close(&s.peers[0]);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_CLOSED);
    assert_int_equal(s.accepted, 1);
    exchange(f, &s, 1, &r, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    result_reset(&r);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 1, "\r\n\r\n"));
    peer_close(&s.peers[1]);
    RUN_UNTIL(f, script_got(&s, 2, "\r\n\r\n"));
    peer_close(&s.peers[2]); /* the second attempt fails as well: that is all */
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_CLOSED);
    exchange(f, &s, 3, &r, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    result_reset(&r);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 3, "\r\n\r\n"));
    peer_send(&s.peers[3], "H");
    run_for(f, 5 * ENV_NS_PER_MS);
    peer_close(&s.peers[3]);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_CLOSED);
    script_peer(&s, 0);
    assert_int_equal(s.accepted, 4);
    result_reset(&r);
    script_close(&s);
}

/* ---- limits, timeouts, cancel ---- */

static void test_body_limit_and_streaming(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    struct http_call_options o = {.body_limit = 4};
    script_open(&s);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 0, "\r\n\r\n"));
    peer_send(&s.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_LIMIT);
    result_reset(&r);
    o.on_body = on_piece;
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 1, "\r\n\r\n"));
    peer_send(&s.peers[1], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    RUN_UNTIL(f, r.streamed.length == 5);
    peer_send(&s.peers[1], "6\r\n world\r\n0\r\n\r\n");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, 0);
    assert_string_equal(buf_text(&r.streamed), "hello world");
    assert_int_equal(r.body.length, 0);
    result_reset(&r);
    script_close(&s);
}

static void test_timeouts(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    struct http_call_options o = {.timeout_ns = 30 * ENV_NS_PER_MS};
    script_open(&s);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_TIMEOUT);
    result_reset(&r);
    o = (struct http_call_options){.timeout_ns = UINT64_MAX, .idle_timeout_ns = 10 * ENV_NS_PER_S};
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 1, "\r\n\r\n"));
    put_forward(f, 60 * ENV_NS_PER_S); /* without a timeout the answer may take its time to begin */
    run_for(f, 10 * ENV_NS_PER_MS);
    peer_send(&s.peers[1], "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx");
    for (int i = 0; i < 3; i++) {
        run_for(f, 10 * ENV_NS_PER_MS);
        put_forward(f, 8 * ENV_NS_PER_S);
        run_for(f, 10 * ENV_NS_PER_MS);
        peer_send(&s.peers[1], "x");
    }
    run_for(f, 10 * ENV_NS_PER_MS);
    assert_int_equal(r.calls, 0);
    put_forward(f, 11 * ENV_NS_PER_S);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_TIMEOUT);
    result_reset(&r);
    script_close(&s);
}

static void test_cancel_in_every_state(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct http_call_options o = {.timeout_ns = UINT64_MAX, .on_body = on_piece};
    script_open(&s);
    for (int step = 0; step < 5; step++) {
        struct result r = {.cancel_in_body = step == 4};
        int first = s.accepted;
        start(f, &r, &o, s.port, "/");
        if (step >= 1)
            RUN_UNTIL(f, script_got(&s, first, "\r\n\r\n"));
        if (step >= 2)
            peer_send(&s.peers[first], "HTTP/1.1 200");
        if (step >= 3)
            peer_send(&s.peers[first], " OK\r\nContent-Length: 9\r\n\r\nabc");
        if (step == 3)
            RUN_UNTIL(f, r.pieces == 1);
        else
            run_for(f, step == 0 ? 0 : 5 * ENV_NS_PER_MS);
        if (step < 4) {
            http_call_cancel(r.call);
            assert_int_equal(r.calls, 0);
            http_call_cancel(r.call); /* idempotent */
        }
        RUN_UNTIL(f, r.calls == 1);
        assert_int_equal(r.code, ERRC_CANCELED);
        run_for(f, 5 * ENV_NS_PER_MS);
        assert_int_equal(r.calls, 1);
        script_peer(&s, 0);
        for (int i = 0; i < s.accepted; i++)
            RUN_UNTIL(f, peer_ended(&s.peers[i]));
        result_reset(&r);
    }
    script_close(&s);
}

static void test_closing_the_client_cancels(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r[2] = {{0}, {0}};
    struct http_call_options o = {.timeout_ns = UINT64_MAX};
    script_open(&s);
    start(f, &r[0], &o, s.port, "/");
    RUN_UNTIL(f, script_got(&s, 0, "\r\n\r\n"));
    start(f, &r[1], &o, s.port, "/");
    bool closed = false;
    http_client_close(f->client, set_true, &closed);
    assert_false(closed);
    assert_int_equal(http_call_start(f->client, &o, on_answer, &r[0], NULL, &f->err), ERRC_CLOSED);
    f->client = NULL;
    RUN_UNTIL(f, closed);
    assert_int_equal(r[0].calls + r[1].calls, 2);
    assert_int_equal(r[0].code, ERRC_CANCELED);
    assert_int_equal(r[1].code, ERRC_CANCELED);
    result_reset(&r[0]);
    result_reset(&r[1]);
    script_close(&s);
}

static void test_refused_and_invalid(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    struct http_call_options o = {0};
    script_open(&s);
    script_close(&s);
    start(f, &r, &o, s.port, "/");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_UNAVAILABLE);
    static const struct {
        const char *method;
        const char *url;
        struct http_header header;
    } cases[] = {
        {"GET", "gopher://a/", {"X", "y"}},
        {"GET", "http://a/ b", {"X", "y"}},
        {"GE T", "http://a/", {"X", "y"}},
        {"", "http://a/", {"X", "y"}},
        {"GET", "http://a/", {"X", "y\r\nZ: z"}},
        {"GET", "http://a/", {"X Y", "z"}},
        {"GET", "http://a/", {"Content-Length", "5"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        o = (struct http_call_options){
            .method = cases[i].method, .url = cases[i].url, .headers = &cases[i].header, .header_count = 1};
        assert_int_equal(http_call_start(f->client, &o, on_answer, &r, NULL, &f->err), ERRC_INVALID);
    }
    run_for(f, 5 * ENV_NS_PER_MS);
    assert_int_equal(r.calls, 1);
    result_reset(&r);
}

/* ---- a Unix socket ---- */

static void script_open_path(struct script *s, const char *path, int backlog)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memset(s, 0, sizeof *s);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    (void)unlink(path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(s->listener, backlog), 0);
}

static void start_at_path(struct fixture *f, struct result *r, const char *path, uint64_t timeout_ns)
{
    const struct http_call_options o = {
        .method = "GET", .url = "http://localhost/v1/x?secret=1", .timeout_ns = timeout_ns};
    result_reset(r);
    if (f->client == NULL)
        f->client = http_client_new(&f->loop, NULL);
    http_client_set_socket(f->client, path);
    if (http_call_start(f->client, &o, on_answer, r, &r->call, &f->err) != 0)
        fail_msg("%s", f->err.message);
    assert_int_equal(r->calls, 0);
}

static void test_unix_socket(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    char path[64], directory[] = "/tmp/shardherd-test-http-XXXXXX";
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/api.sock", directory);
    start_at_path(f, &r, path, 0); /* nobody made it yet */
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_UNAVAILABLE);
    assert_non_null(strstr(r.message, path));
    assert_non_null(strstr(r.message, "no such file"));
    assert_null(strstr(r.message, "secret"));

    script_open_path(&s, path, 8);
    start_at_path(f, &r, path, 0);
    RUN_UNTIL(f, script_got(&s, 0, "\r\n\r\n"));
    assert_string_equal(peer_text(&s.peers[0]), "GET /v1/x?secret=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    buf_free(&s.peers[0].got);
    peer_send(&s.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.status, 200);
    assert_string_equal(buf_text(&r.body), "hi");

    start_at_path(f, &r, path, ENV_NS_PER_S); /* over the kept connection, and no answer */
    RUN_UNTIL(f, script_got(&s, 0, "\r\n\r\n"));
    put_forward(f, ENV_NS_PER_S);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_TIMEOUT);
    assert_non_null(strstr(r.message, path));
    result_reset(&r);
    script_close(&s);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0);
}

static int connect_raw(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A server that does not accept: its queue fills, and what then comes is tried again until the deadline. */
static void test_unix_socket_with_a_full_queue(void **state)
{
    struct fixture *f = *state;
    struct script s;
    struct result r = {0};
    char path[64], directory[] = "/tmp/shardherd-test-http-XXXXXX";
    int waiting[8], count = 0;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/api.sock", directory);
    script_open_path(&s, path, 1);
    while (count < 8 && (waiting[count] = connect_raw(path)) >= 0)
        count++;
    assert_in_range(count, 1, 7); /* the queue is full */
    start_at_path(f, &r, path, UINT64_MAX);
    run_for(f, 100 * ENV_NS_PER_MS);
    assert_int_equal(r.calls, 0);
    put_forward(f, 10 * ENV_NS_PER_S); /* the time for connecting is over */
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_TIMEOUT);
    assert_non_null(strstr(r.message, path));

    start_at_path(f, &r, path, UINT64_MAX);
    run_for(f, 50 * ENV_NS_PER_MS);
    RUN_UNTIL(f, script_got(&s, count, "\r\n\r\n")); /* accepting makes room for it */
    peer_send(&s.peers[count], "HTTP/1.1 204 No Content\r\n\r\n");
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.status, 204);
    start_at_path(f, &r, path, UINT64_MAX);
    http_call_cancel(r.call);
    RUN_UNTIL(f, r.calls == 1);
    assert_int_equal(r.code, ERRC_CANCELED);
    result_reset(&r);
    for (int i = 0; i < count; i++)
        close(waiting[i]);
    script_close(&s);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void test_unix_socket_path_too_long(void **state)
{
    struct fixture *f = *state;
    struct result r = {0};
    char path[200];
    const struct http_call_options o = {.method = "GET", .url = "http://localhost/"};
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    f->client = http_client_new(&f->loop, NULL);
    http_client_set_socket(f->client, path);
    assert_int_equal(http_call_start(f->client, &o, on_answer, &r, NULL, &f->err), ERRC_INVALID);
    assert_non_null(strstr(f->err.message, "too long"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HTTP_TEST(test_request_as_sent),
        HTTP_TEST(test_connections_are_kept_and_dropped),
        HTTP_TEST(test_body_until_close),
        HTTP_TEST(test_H5_only_idempotent_requests_are_retried),
        HTTP_TEST(test_H5_no_retry_on_new_connections_nor_twice_nor_after_a_byte),
        HTTP_TEST(test_body_limit_and_streaming),
        HTTP_TEST(test_timeouts),
        HTTP_TEST(test_cancel_in_every_state),
        HTTP_TEST(test_closing_the_client_cancels),
        HTTP_TEST(test_refused_and_invalid),
        HTTP_TEST(test_unix_socket),
        HTTP_TEST(test_unix_socket_with_a_full_queue),
        HTTP_TEST(test_unix_socket_path_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
