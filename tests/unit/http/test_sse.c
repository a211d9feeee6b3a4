/* Server-sent events: topics over real sockets, and the parser alone. */
#include "http/http_test.h"

/* ---- topics ---- */

struct service {
    struct sse_topic *topic;
    const char *snapshot;
};

static void serve(struct http_exchange *ex, const struct http_request *r, void *data)
{
    struct service *s = data;
    (void)r;
    sse_subscribe(s->topic, ex, s->snapshot != NULL ? "snapshot" : NULL, s->snapshot);
}

static void service_start(struct service *s, struct fixture *f, size_t keep)
{
    const struct http_server_options o = {.address = "127.0.0.1"};
    s->topic = sse_topic_new(&f->loop, "events", keep);
    assert_int_equal(http_server_open(&f->loop, &o, serve, s, &f->server, &f->err), 0);
}

static void service_end(struct service *s, struct fixture *f)
{
    sse_topic_free(s->topic);
    http_server_close(f->server, 0, set_true, &f->server_closed);
    RUN_UNTIL(f, f->server_closed);
    f->server = NULL;
}

static void subscribe(struct fixture *f, struct peer *p, const char *last_id)
{
    char request[256];
    snprintf(request, sizeof request, "GET /events HTTP/1.1\r\nHost: a\r\n%s%s%s\r\n",
             last_id != NULL ? "Last-Event-ID: " : "", last_id != NULL ? last_id : "",
             last_id != NULL ? "\r\n" : "");
    peer_connect(p, http_server_port(f->server));
    peer_send(p, request);
    RUN_UNTIL(f, peer_has(p, "retry: 2000\n\n"));
}

/* The id of the last event the peer got. */
static void last_id_of(struct peer *p, char out[64])
{
    const char *last = NULL;
    for (const char *at = strstr(peer_text(p), "\nid: "); at != NULL; at = strstr(at + 1, "\nid: "))
        last = at + 5;
    assert_non_null(last);
    snprintf(out, 64, "%.*s", (int)strcspn(last, "\n"), last);
}

static void test_events_as_sent(void **state)
{
    struct fixture *f = *state;
    struct service s = {0};
    struct peer p;
    service_start(&s, f, 4);
    assert_int_equal(sse_publish(s.topic, "early", "nobody sees this"), 1);
    subscribe(f, &p, NULL);
    assert_int_equal(sse_clients(s.topic), 1);
    assert_true(peer_has(&p, "HTTP/1.1 200 OK\r\n"));
    assert_true(peer_has(&p, "Content-Type: text/event-stream\r\n"));
    assert_true(peer_has(&p, "Cache-Control: no-cache\r\n"));
    assert_false(peer_has(&p, "Content-Length"));
    assert_int_equal(sse_publish(s.topic, "moved", "a\nb\r\nc\rd\n"), 2);
    RUN_UNTIL(f, peer_has(&p, "-2\nevent: moved\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"));
    assert_int_equal(sse_publish(s.topic, "bad\ndata: forged", ""), 3);
    RUN_UNTIL(f, peer_has(&p, "-3\nevent: bad\ndata: \n\n"));
    assert_false(peer_has(&p, "nobody"));
    peer_close(&p);
    RUN_UNTIL(f, sse_clients(s.topic) == 0);
    service_end(&s, f);
}

static void test_S1_last_event_id_resumes(void **state)
{
    struct fixture *f = *state;
    struct service s = {.snapshot = "{\"all\":1}"};
    struct peer p;
    char id[64];
    service_start(&s, f, 4);
    sse_publish(s.topic, "n", "one");
    subscribe(f, &p, NULL);
    RUN_UNTIL(f, peer_has(&p, "event: snapshot\ndata: {\"all\":1}\n\n"));
    assert_false(peer_has(&p, "data: one"));
    sse_publish(s.topic, "n", "two");
    RUN_UNTIL(f, peer_has(&p, "data: two"));
    last_id_of(&p, id);
    peer_close(&p);
    for (int i = 0; i < 4; i++)
        sse_publish(s.topic, "n", i == 0 ? "three" : i == 1 ? "four" : i == 2 ? "five" : "six");
    /* exactly what was missed, once, in order */
    subscribe(f, &p, id);
    RUN_UNTIL(f, peer_has(&p, "data: six"));
    const char *three = strstr(p.got.data, "data: three");
    const char *four = strstr(p.got.data, "data: four");
    assert_true(three != NULL && four != NULL && three < four);
    assert_int_equal(peer_count(&p, "data: "), 4);
    peer_close(&p);
    /* one more and the client is too far behind: a snapshot instead */
    sse_publish(s.topic, "n", "seven");
    subscribe(f, &p, id);
    RUN_UNTIL(f, peer_has(&p, "event: snapshot"));
    last_id_of(&p, id);
    assert_int_equal(peer_count(&p, "data: "), 1);
    peer_close(&p);
    /* the snapshot's id resumes */
    sse_publish(s.topic, "n", "eight");
    subscribe(f, &p, id);
    RUN_UNTIL(f, peer_has(&p, "data: eight"));
    assert_int_equal(peer_count(&p, "data: "), 1);
    peer_close(&p);
    /* ids of another process, from the future, or garbage */
    static const char *const foreign[] = {"zzzzzzzz-7", "7", "garbage"};
    for (int i = 0; i < 3; i++) {
        subscribe(f, &p, foreign[i]);
        RUN_UNTIL(f, peer_has(&p, "event: snapshot"));
        peer_close(&p);
    }
    snprintf(strchr(id, '-'), 8, "-9999");
    subscribe(f, &p, id);
    RUN_UNTIL(f, peer_has(&p, "event: snapshot"));
    peer_close(&p);
    service_end(&s, f);
}

static void test_S2_slow_client_is_cut_off(void **state)
{
    struct fixture *f = *state;
    struct service s = {0};
    struct peer slow;
    struct peer quick;
    service_start(&s, f, 2);
    subscribe(f, &slow, NULL);
    subscribe(f, &quick, NULL);
    char *data = mem_zalloc(64 * 1024 + 1);
    memset(data, 'x', 64 * 1024);
    /* the kernel takes some megabytes for the slow one; we must not take more than the limit on top */
    for (int i = 0; i < 2000 && sse_clients(s.topic) == 2; i++) {
        sse_publish(s.topic, "n", data);
        uint64_t id = (uint64_t)i + 1;
        char mark[32];
        snprintf(mark, sizeof mark, "-%llu\n", (unsigned long long)id);
        RUN_UNTIL(f, peer_has(&quick, mark) && quick.got.length > 64 * 1024);
        buf_reset(&quick.got);
    }
    assert_int_equal(sse_clients(s.topic), 1);
    run_for(f, 5 * ENV_NS_PER_MS);
    assert_int_equal(http_server_connections(f->server), 1);
    assert_false(peer_ended(&quick));
    RUN_UNTIL(f, peer_ended(&slow));
    free(data);
    peer_close(&slow);
    peer_close(&quick);
    service_end(&s, f);
}

/* A burst within one turn is no slowness either, as long as the kernel takes it. */
static void test_S2_burst_in_one_turn(void **state)
{
    struct fixture *f = *state;
    struct service s = {0};
    struct peer p;
    service_start(&s, f, 2);
    subscribe(f, &p, NULL);
    char *data = mem_zalloc(32 * 1024 + 1);
    memset(data, 'x', 32 * 1024);
    for (int i = 0; i < 40; i++) {
        sse_publish(s.topic, "n", data);
        peer_text(&p); /* the peer reads; the loop does not turn */
    }
    RUN_UNTIL(f, peer_has(&p, "-40\n") && p.got.length > 40 * 32 * 1024);
    assert_int_equal(sse_clients(s.topic), 1);
    free(data);
    peer_close(&p);
    service_end(&s, f);
}

static void test_S2_large_snapshot_is_no_slowness(void **state)
{
    struct fixture *f = *state;
    char *data = mem_zalloc(8 * 1024 * 1024 + 1);
    memset(data, 'x', 8 * 1024 * 1024);
    struct service s = {.snapshot = data};
    struct peer p;
    service_start(&s, f, 2);
    peer_connect(&p, http_server_port(f->server));
    peer_send(&p, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, sse_clients(s.topic) == 1);
    sse_publish(s.topic, "n", "after");
    RUN_UNTIL(f, peer_has(&p, "data: after"));
    assert_true(p.got.length > 8 * 1024 * 1024);
    peer_close(&p);
    service_end(&s, f);
    free(data);
}

static void test_S3_comment_heartbeat(void **state)
{
    struct fixture *f = *state;
    struct service s = {0};
    struct peer p;
    service_start(&s, f, 2);
    subscribe(f, &p, NULL);
    put_forward(f, 14 * ENV_NS_PER_S);
    run_for(f, 10 * ENV_NS_PER_MS);
    assert_int_equal(peer_count(&p, "\n:\n\n"), 0);
    for (int beat = 1; beat <= 6; beat++) { /* far beyond the idle timeout of a request */
        put_forward(f, 15 * ENV_NS_PER_S);
        RUN_UNTIL(f, peer_count(&p, "\n:\n\n") == beat);
    }
    assert_false(peer_ended(&p));
    sse_topic_free(s.topic);
    RUN_UNTIL(f, peer_ended(&p));
    s.topic = NULL;
    peer_close(&p);
    service_end(&s, f);
}

/* ---- the parser ---- */

static void record_event(const struct sse_event *event, void *data)
{
    buf_printf(data, "[%s|%s|%s]", event->event, event->id, event->data);
}

static void expect_events(const char *text, size_t length, const char *expected)
{
    for (size_t cut = 0; cut <= length + 1; cut++) {
        struct sse_parser *p = sse_parser_new(1024);
        struct buf out = {0};
        if (cut > length) {
            for (size_t i = 0; i < length; i++)
                assert_int_equal(sse_parser_feed(p, text + i, 1, record_event, &out, NULL), 0);
        } else {
            assert_int_equal(sse_parser_feed(p, text, cut, record_event, &out, NULL), 0);
            assert_int_equal(sse_parser_feed(p, text + cut, length - cut, record_event, &out, NULL), 0);
        }
        assert_string_equal(buf_text(&out), expected);
        buf_free(&out);
        sse_parser_free(p);
    }
}

static void test_parser_follows_the_standard(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *expected;
    } cases[] = {
        {"data: a\n\n", "[message||a]"},
        {"data:a\r\ndata: b\r\n\r\n", "[message||a\nb]"},
        {"data: a\r\rdata:  b\r\r", "[message||a][message|| b]"},
        {"id: 1\nevent: x\ndata: a\n\ndata: b\n\n", "[x|1|a][message|1|b]"},
        {": comment\nretry: 5\nunknown: x\ndata\n\n", "[message||]"},
        {"event: x\n\ndata: a\n\n", "[message||a]"},
        {"id\ndata: a:b\n\n", "[message||a:b]"},
        {"\xef\xbb\xbf"
         "data: a\n\n",
         "[message||a]"},
        {"\xef\xbb"
         "data: a\n\ndata: b\n\n",
         "[message||b]"},
        {"data: cut off\n", ""},
        {"data: a\n\n\n\n\n", "[message||a]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_events(cases[i].text, strlen(cases[i].text), cases[i].expected);
    static const char nul[] = "id: 1\nid: 2\0\ndata: a\n\n";
    expect_events(nul, sizeof nul - 1, "[message|1|a]");
}

static void test_parser_limit(void **state)
{
    (void)state;
    struct buf out = {0};
    struct err err = {0};
    struct sse_parser *p = sse_parser_new(16);
    assert_int_equal(sse_parser_feed(p, "data: 0123456789\n\n", 18, record_event, &out, &err), 0);
    assert_int_equal(sse_parser_feed(p, "data: 01234567890", 17, record_event, &out, &err), ERRC_LIMIT);
    assert_int_equal(sse_parser_feed(p, "\n\n", 2, record_event, &out, &err), ERRC_LIMIT);
    sse_parser_free(p);
    p = sse_parser_new(16);
    for (int i = 0; i < 2; i++)
        assert_int_equal(sse_parser_feed(p, "data: 0123456\n", 14, record_event, &out, &err), 0);
    assert_int_equal(sse_parser_feed(p, "data: 0123456\n", 14, record_event, &out, &err), ERRC_LIMIT);
    sse_parser_free(p);
    assert_string_equal(buf_text(&out), "[message||0123456789]");
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HTTP_TEST(test_events_as_sent),
        HTTP_TEST(test_S1_last_event_id_resumes),
        HTTP_TEST(test_S2_slow_client_is_cut_off),
        HTTP_TEST(test_S2_burst_in_one_turn),
        HTTP_TEST(test_S2_large_snapshot_is_no_slowness),
        HTTP_TEST(test_S3_comment_heartbeat),
        cmocka_unit_test(test_parser_follows_the_standard),
        cmocka_unit_test(test_parser_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
