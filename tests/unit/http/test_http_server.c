/* The server over real sockets: answers, keep-alive, limits, timeouts, shutdown. */
#include "http/http_test.h"

#include <malloc.h>
#include <sys/resource.h>

/* ---- the service under test ---- */

struct service {
    struct fixture *f;
    struct http_exchange *later; /* of the last request to /later */
    int requests;
    int released;
    int lost;
    char *large;
};

#define LARGE (20u * 1024u * 1024u)

static void service_released(void *owner)
{
    ((struct service *)owner)->released++;
}

static void service_lost(struct http_exchange *ex, void *data)
{
    (void)ex;
    ((struct service *)data)->lost++;
}

static void answer_echo(struct http_exchange *ex, const struct http_request *r)
{
    struct buf b = {0};
    const char *header = http_request_header(ex, "x-test");
    buf_printf(&b, "%s|%s|%s|%s|%zu|%s", r->method, r->path, r->query, header != NULL ? header : "-",
               r->body_length, r->body);
    http_respond(ex, 200, "text/plain", b.data, b.length);
    buf_free(&b);
}

static void answer_pieces(struct http_exchange *ex, struct service *s)
{
    const struct http_piece pieces[] = {{"one ", 4}, {"", 0}, {"two ", 4}, {s->large, LARGE}, {" end", 4}};
    http_respond_pieces(ex, 200, "text/plain", pieces, 5, service_released, s);
}

static void serve(struct http_exchange *ex, const struct http_request *r, void *data)
{
    struct service *s = data;
    s->requests++;
    if (strcmp(r->path, "/hello") == 0) {
        http_respond(ex, 200, "text/plain", "hello", 5);
    } else if (strcmp(r->path, "/empty") == 0) {
        http_set_header(ex, "ETag", "\"7\"");
        http_set_header(ex, "Cache-Control", "no-cache");
        http_respond(ex, 304, "text/plain", "must not be sent", 16);
    } else if (strcmp(r->path, "/nothing") == 0) {
        http_respond(ex, 204, NULL, NULL, 0);
    } else if (strcmp(r->path, "/echo") == 0) {
        answer_echo(ex, r);
    } else if (strcmp(r->path, "/pieces") == 0) {
        answer_pieces(ex, s);
    } else if (strcmp(r->path, "/large") == 0) {
        http_respond(ex, 200, "text/plain", s->large, LARGE);
    } else if (strcmp(r->path, "/later") == 0) {
        s->later = ex;
        if (strcmp(r->query, "watch") == 0)
            http_on_lost(ex, service_lost, s);
    } else {
        struct err err = {0};
        err_set(&err, ERRC_NOT_FOUND, "no \"%s\" here", r->path);
        http_problem_err(ex, &err);
    }
}

static void service_start(struct service *s, struct fixture *f, const struct http_server_options *options)
{
    struct http_server_options o = options != NULL ? *options : (struct http_server_options){0};
    *s = (struct service){.f = f};
    o.address = "127.0.0.1";
    assert_int_equal(http_server_open(&f->loop, &o, serve, s, &f->server, &f->err), 0);
    assert_true(http_server_port(f->server) > 0);
}

static void service_large(struct service *s)
{
    s->large = mem_alloc(LARGE);
    memset(s->large, 'x', LARGE);
}

static void peer_open(struct peer *p, struct fixture *f)
{
    peer_connect(p, http_server_port(f->server));
}

/* Sends one request on a connection of its own and waits until the server has closed it. */
static void ask(struct fixture *f, struct peer *p, const char *request)
{
    peer_open(p, f);
    peer_send(p, request);
    RUN_UNTIL(f, peer_ended(p));
}

static void expect(struct peer *p, const char *text)
{
    if (!peer_has(p, text))
        fail_msg("\"%s\" is not in: %.800s", text, peer_text(p));
}

/* ---- answers ---- */

static void test_answers_and_keep_alive(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    peer_open(&p, f);
    peer_send(&p, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, peer_has(&p, "\r\n\r\nhello"));
    expect(&p, "HTTP/1.1 200 OK\r\n");
    expect(&p, "Content-Type: text/plain\r\n");
    expect(&p, "Content-Length: 5\r\n");
    expect(&p, "Connection: keep-alive\r\n");
    expect(&p, "Cache-Control: no-store\r\n");
    expect(&p, " GMT\r\n");
    peer_send(&p, "POST /echo?q=1 HTTP/1.1\r\nHost: a\r\nX-Test: 1\r\nX-Test: 2\r\nContent-Length: 4\r\n"
                  "Connection: close\r\n\r\nbody");
    RUN_UNTIL(f, peer_ended(&p));
    expect(&p, "POST|/echo|q=1|1, 2|4|body");
    expect(&p, "Connection: close\r\n");
    assert_int_equal(s.requests, 2);
    RUN_UNTIL(f, http_server_connections(f->server) == 0);
    peer_close(&p);
}

static void test_chunked_request_and_http_1_0(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    ask(f, &p,
        "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    expect(&p, "PUT|/echo||-|5|abcde");
    peer_close(&p);
    ask(f, &p, "GET /hello HTTP/1.0\r\nHost: a\r\n\r\n");
    expect(&p, "Connection: close\r\n");
    peer_close(&p);
}

static void test_H3_head_204_304_have_no_body(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    service_large(&s);
    ask(f, &p,
        "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\nHEAD /pieces HTTP/1.1\r\nHost: a\r\n\r\n"
        "GET /empty HTTP/1.1\r\nHost: a\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_int_equal(peer_count(&p, "HTTP/1.1 "), 5);
    assert_int_equal(peer_count(&p, "\r\n\r\nHTTP/1.1 "),
                     4); /* nothing between the first four and what follows */
    expect(&p, "Content-Length: 5\r\n\r\nHTTP/1.1 200");
    expect(&p, "ETag: \"7\"\r\n");
    assert_int_equal(peer_count(&p, "no-cache"), 1);
    assert_int_equal(peer_count(&p, "no-store"), 4);
    assert_int_equal(peer_count(&p, "Content-Length"), 3);
    assert_int_equal(s.released, 1);
    peer_close(&p);
    free(s.large);
}

static void test_H3_expect_100_continue(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    peer_open(&p, f);
    peer_send(&p, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    RUN_UNTIL(f, peer_has(&p, "HTTP/1.1 100 Continue\r\n\r\n"));
    assert_int_equal(s.requests, 0);
    peer_send(&p, "hi");
    RUN_UNTIL(f, peer_has(&p, "|2|hi"));
    peer_close(&p);
    ask(f, &p, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 2\r\n\r\n");
    expect(&p, "HTTP/1.1 417 ");
    peer_close(&p);
}

static void test_H4_pipelined_requests_wait_in_order(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    peer_open(&p, f);
    peer_send(
        &p,
        "GET /later HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx");
    RUN_UNTIL(f, s.later != NULL);
    peer_send(&p, "yzGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    run_for(f, 20 * ENV_NS_PER_MS);
    assert_int_equal(s.requests, 1); /* the second one waits */
    http_respond(s.later, 200, "text/plain", "late", 4);
    RUN_UNTIL(f, peer_has(&p, "\r\n\r\nhello"));
    const char *late = strstr(peer_text(&p), "late");
    const char *echo = strstr(peer_text(&p), "POST|/echo||-|3|xyz");
    assert_true(late != NULL && echo != NULL && late < echo);
    peer_close(&p);
}

/* Many pipelined requests, more than the server keeps in memory: none is lost, the reader is held back. */
static void test_H4_pipelining_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    peer_open(&p, f);
    peer_send(&p, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.later != NULL);
    static const char request[] =
        "GET /hello HTTP/1.1\r\nHost: a\r\nX: 0123456789012345678901234567890123456789\r\n\r\n";
    struct buf all = {0};
    for (int i = 0; i < 5000; i++)
        buf_add_text(&all, request);
    size_t sent = 0;
    bool answered = false;
    while (sent < all.length) {
        ssize_t n = send(p.fd, all.data + sent, all.length - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        peer_text(&p);
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        if (!answered && (n < 0 || sent == all.length)) {
            answered = true;
            assert_int_equal(s.requests, 1);
            http_respond(s.later, 200, "text/plain", "late", 4);
        }
    }
    RUN_UNTIL(f, s.requests == 5001 && peer_count(&p, "\r\n\r\nhello") == 5000);
    buf_free(&all);
    peer_close(&p);
}

static void test_H4_what_waits_in_memory_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    static const size_t much = 64u * 1024u * 1024u;
    service_start(&s, f, NULL);
    service_large(&s);
    peer_open(&p, f);
    peer_send(&p, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.later != NULL);
    size_t sent = 0;
    /* blocked for so many turns in a row = the server reads no more */
    for (int blocked = 0; blocked < 100 && sent < much; blocked++) {
        ssize_t n = send(p.fd, s.large, LARGE, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        blocked = n > 0 ? 0 : blocked;
        run_for(f, ENV_NS_PER_MS);
    }
    assert_true(sent < much);
    http_respond(s.later, 200, "text/plain", "late", 4);
    RUN_UNTIL(f, peer_has(&p, "late") && peer_has(&p, "HTTP/1.1 431 "));
    peer_close(&p);
    free(s.large);
}

static void test_large_answers_are_written_in_a_window(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    service_large(&s);
    peer_open(&p, f);
    peer_send(&p, "GET /pieces HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    RUN_UNTIL(f, s.requests == 1);
    assert_int_equal(s.released, 0);
    RUN_UNTIL(f, peer_ended(&p));
    char *body = strstr(p.got.data, "\r\n\r\n");
    assert_non_null(body);
    assert_int_equal(p.got.length - (size_t)(body + 4 - p.got.data), LARGE + 12);
    assert_memory_equal(body + 4, "one two x", 9);
    assert_string_equal(p.got.data + p.got.length - 5, "x end");
    assert_int_equal(s.released, 1);
    peer_close(&p);
    ask(f, &p, "GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_true(p.got.length > LARGE);
    peer_close(&p);
    /* one that leaves in the middle: released once all the same */
    peer_open(&p, f);
    peer_send(&p, "GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.requests == 3);
    peer_close(&p);
    RUN_UNTIL(f, s.released == 2);
    RUN_UNTIL(f, http_server_connections(f->server) == 0);
    free(s.large);
}

static void test_problem_documents(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    ask(f, &p, "GET /no%22such HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    expect(&p, "HTTP/1.1 404 Not Found\r\n");
    expect(&p, "Content-Type: application/problem+json\r\n");
    expect(&p, "{\"type\":\"https://shardherd.io/problems/not_found\",\"title\":\"Not Found\",\"status\":404,"
               "\"detail\":\"no \\\"/no\\\"such\\\" here\",\"code\":\"not_found\"}\n");
    peer_close(&p);
    assert_int_equal(http_status_of(ERRC_INVALID), 400);
    assert_int_equal(http_status_of(ERRC_AUTH), 403);
    assert_int_equal(http_status_of(ERRC_EXISTS), 409);
    assert_int_equal(http_status_of(ERRC_CONFLICT), 409);
    assert_int_equal(http_status_of(ERRC_REFUSED), 422);
    assert_int_equal(http_status_of(ERRC_LIMIT), 429);
    assert_int_equal(http_status_of(ERRC_UNAVAILABLE), 503);
    assert_int_equal(http_status_of(ERRC_TIMEOUT), 503);
    assert_int_equal(http_status_of(ERRC_UNSUPPORTED), 501);
    assert_int_equal(http_status_of(ERRC_SQL), 500);
}

/* ---- H1, H2 ---- */

static void test_H1_malformed_requests_close(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    static const char *const requests[] = {
        "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "GET /hello HTTP/1.1\nHost: a\n\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /hello HTTP/1.1\r\n\r\n",
        "GET /../hello HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    };
    service_start(&s, f, NULL);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        char text[512];
        /* what follows must not be taken for a request */
        snprintf(text, sizeof text, "%sGET /hello HTTP/1.1\r\nHost: a\r\n\r\n", requests[i]);
        ask(f, &p, text);
        expect(&p, "HTTP/1.1 400 Bad Request\r\n");
        expect(&p, "application/problem+json");
        expect(&p, "Connection: close\r\n");
        assert_int_equal(peer_count(&p, "HTTP/1.1 "), 1);
        peer_close(&p);
    }
    assert_int_equal(s.requests, 0);
}

static void test_H2_body_and_header_limits(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    const struct http_server_options o = {.body_limit = 10};
    service_start(&s, f, &o);
    ask(f, &p, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    expect(&p, "HTTP/1.1 413 ");
    peer_close(&p);
    ask(f, &p,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n");
    expect(&p, "HTTP/1.1 413 ");
    peer_close(&p);
    ask(f, &p, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789");
    expect(&p, "|10|0123456789");
    peer_close(&p);
    struct buf b = {0};
    buf_add_text(&b, "GET /hello HTTP/1.1\r\nHost: a\r\nX: ");
    while (b.length < 40000)
        buf_addc(&b, 'x');
    ask(f, &p, b.data);
    expect(&p, "HTTP/1.1 431 ");
    peer_close(&p);
    buf_free(&b);
    assert_int_equal(s.requests, 1);
}

static void test_H2_slowloris_and_idle(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer head;
    struct peer body;
    struct peer idle;
    service_start(&s, f, NULL);
    peer_open(&head, f);
    peer_open(&body, f);
    peer_open(&idle, f);
    peer_send(&idle, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    peer_send(&body, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
    peer_send(&head, "GET /hello HTTP/1.1\r\nHo");
    RUN_UNTIL(f, peer_has(&idle, "\r\n\r\nhello"));
    /* a byte now and then does not help the slow one: the time runs from the first byte */
    for (int i = 0; i < 3; i++) {
        put_forward(f, 3 * ENV_NS_PER_S);
        run_for(f, 10 * ENV_NS_PER_MS);
        peer_send(&head, "x");
        run_for(f, 10 * ENV_NS_PER_MS);
        assert_false(peer_ended(&head));
    }
    put_forward(f, 1 * ENV_NS_PER_S);
    RUN_UNTIL(f, peer_ended(&head));
    expect(&head, "HTTP/1.1 408 ");
    assert_false(peer_ended(&body));
    put_forward(f, 20 * ENV_NS_PER_S);
    RUN_UNTIL(f, peer_ended(&body));
    expect(&body, "HTTP/1.1 408 ");
    assert_false(peer_ended(&idle));
    put_forward(f, 30 * ENV_NS_PER_S);
    RUN_UNTIL(f, peer_ended(&idle));
    assert_int_equal(peer_count(&idle, "HTTP/1.1 "), 1); /* idle ones are closed without a word */
    peer_close(&head);
    peer_close(&body);
    peer_close(&idle);
}

static void test_H2_reader_that_stopped_is_cut_off(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    service_large(&s);
    peer_connect_with(&p, http_server_port(f->server), 4096);
    peer_send(&p, "GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.requests == 1);
    run_for(f, 50 * ENV_NS_PER_MS);
    assert_int_equal(s.released, 0); /* more than the kernel takes */
    put_forward(f, 59 * ENV_NS_PER_S);
    run_for(f, 10 * ENV_NS_PER_MS);
    assert_int_equal(http_server_connections(f->server), 1);
    put_forward(f, 2 * ENV_NS_PER_S);
    RUN_UNTIL(f, s.released == 1 && http_server_connections(f->server) == 0);
    peer_close(&p);
    free(s.large);
}

static void test_H2_too_many_connections(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p[3];
    const struct http_server_options o = {.max_connections = 2};
    service_start(&s, f, &o);
    for (int i = 0; i < 2; i++) {
        peer_open(&p[i], f);
        peer_send(&p[i], "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        RUN_UNTIL(f, peer_has(&p[i], "hello"));
    }
    peer_open(&p[2], f);
    RUN_UNTIL(f, peer_ended(&p[2]));
    expect(&p[2], "HTTP/1.1 503 ");
    expect(&p[2], "too_many_connections");
    peer_close(&p[2]);
    peer_close(&p[0]);
    RUN_UNTIL(f, http_server_connections(f->server) == 1);
    ask(f, &p[2], "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    expect(&p[2], "\r\n\r\nhello");
    peer_close(&p[1]);
    peer_close(&p[2]);
}

/* As many idle clients as the descriptors allow here, at most 10,000 with both ends in this process. */
static void test_H2_idle_clients_are_cheap(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int count = limit.rlim_cur > 20200 ? 10000 : (int)(limit.rlim_cur / 2) - 100;
    struct peer *p = mem_array((size_t)count, sizeof *p);
    service_start(&s, f, NULL);
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < count; i++) {
        peer_open(&p[i], f);
        peer_send(&p[i], "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        if (i % 64 == 63) {
            RUN_UNTIL(f, s.requests == i + 1);
        }
    }
    RUN_UNTIL(f, s.requests == count);
    char byte;
    for (int i = 0; i < count; i++)
        RUN_UNTIL(f, recv(p[i].fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 1);
    run_for(f, 20 * ENV_NS_PER_MS);
    size_t each = (mallinfo2().uordblks - before) / (size_t)count;
    print_message("%d idle clients, %zu bytes each\n", count, each);
#if !defined(__SANITIZE_ADDRESS__)
    assert_in_range(each, 1, 4095);
#endif
    assert_int_equal(http_server_connections(f->server), count);
    for (int i = 0; i < count; i++)
        peer_close(&p[i]);
    RUN_UNTIL(f, http_server_connections(f->server) == 0);
    free(p);
}

/* ---- peers that leave ---- */

static void test_lost_peers_still_get_their_answer_dropped(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer p;
    service_start(&s, f, NULL);
    service_large(&s);
    peer_open(&p, f);
    peer_send(&p, "GET /later?watch HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.later != NULL);
    peer_close(&p);
    RUN_UNTIL(f, s.lost == 1 && http_server_connections(f->server) == 0);
    const struct http_piece piece = {"x", 1};
    http_respond_pieces(s.later, 200, "text/plain", &piece, 1, service_released, &s);
    assert_int_equal(s.released, 1);
    /* half-closed, and nobody asked to be told: the answer still goes out */
    peer_open(&p, f);
    s.later = NULL;
    peer_send(&p, "GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    shutdown(p.fd, SHUT_WR);
    RUN_UNTIL(f, s.later != NULL);
    run_for(f, 10 * ENV_NS_PER_MS);
    http_respond(s.later, 200, "text/plain", "late", 4);
    RUN_UNTIL(f, peer_ended(&p));
    expect(&p, "late");
    expect(&p, "\r\n\r\nhello");
    peer_close(&p);
    /* and one that leaves in the middle of a request */
    peer_open(&p, f);
    peer_send(&p, "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    shutdown(p.fd, SHUT_WR);
    RUN_UNTIL(f, peer_ended(&p));
    expect(&p, "HTTP/1.1 400 ");
    peer_close(&p);
    assert_int_equal(s.lost, 1);
    free(s.large);
}

static void test_close_lets_running_exchanges_end(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct peer idle;
    struct peer busy;
    struct peer stuck;
    service_start(&s, f, NULL);
    peer_open(&idle, f);
    peer_send(&idle, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, peer_has(&idle, "hello"));
    peer_open(&stuck, f);
    peer_send(&stuck, "GET /later?watch HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.later != NULL);
    struct http_exchange *forgotten = s.later;
    s.later = NULL;
    peer_open(&busy, f);
    peer_send(&busy, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, s.later != NULL);
    bool closed = false;
    http_server_close(f->server, 5 * ENV_NS_PER_S, set_true, &closed);
    assert_false(closed);
    f->server = NULL;
    RUN_UNTIL(f, peer_ended(&idle));
    run_for(f, 10 * ENV_NS_PER_MS);
    assert_false(peer_ended(&busy));
    http_respond(s.later, 200, "text/plain", "late", 4);
    RUN_UNTIL(f, peer_ended(&busy));
    expect(&busy, "late");
    expect(&busy, "Connection: close\r\n");
    assert_false(closed);
    put_forward(f, 6 * ENV_NS_PER_S);
    RUN_UNTIL(f, closed);
    assert_int_equal(s.lost, 1);
    http_problem(forgotten, 503, "closing", "too late"); /* after the server is gone */
    run_for(f, 5 * ENV_NS_PER_MS);
    peer_close(&idle);
    peer_close(&busy);
    peer_close(&stuck);
}

static void test_port_taken(void **state)
{
    struct fixture *f = *state;
    struct service s;
    struct http_server *second = NULL;
    service_start(&s, f, NULL);
    struct http_server_options o = {.address = "127.0.0.1", .port = http_server_port(f->server)};
    assert_int_equal(http_server_open(&f->loop, &o, serve, &s, &second, &f->err), ERRC_IO);
    assert_null(second);
    assert_non_null(strstr(f->err.message, "127.0.0.1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HTTP_TEST(test_answers_and_keep_alive),
        HTTP_TEST(test_chunked_request_and_http_1_0),
        HTTP_TEST(test_H3_head_204_304_have_no_body),
        HTTP_TEST(test_H3_expect_100_continue),
        HTTP_TEST(test_H4_pipelined_requests_wait_in_order),
        HTTP_TEST(test_H4_pipelining_is_bounded),
        HTTP_TEST(test_H4_what_waits_in_memory_is_bounded),
        HTTP_TEST(test_large_answers_are_written_in_a_window),
        HTTP_TEST(test_problem_documents),
        HTTP_TEST(test_H1_malformed_requests_close),
        HTTP_TEST(test_H2_body_and_header_limits),
        HTTP_TEST(test_H2_slowloris_and_idle),
        HTTP_TEST(test_H2_reader_that_stopped_is_cut_off),
        HTTP_TEST(test_H2_too_many_connections),
        HTTP_TEST(test_H2_idle_clients_are_cheap),
        HTTP_TEST(test_lost_peers_still_get_their_answer_dropped),
        HTTP_TEST(test_close_lets_running_exchanges_end),
        HTTP_TEST(test_port_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
