/* The parser without I/O: smuggling shapes, limits, framing, and that no way to split the bytes matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "http/http_parse.h"
#include "http/http_server.h"
#include "http/http_url.h"

/* ---- a transcript of everything the parser says ---- */

struct transcript {
    struct buf text; /* heads and bodies of all messages */
    struct buf body;
    int messages;
    int fault; /* status, 0 = none */
};

static bool record_head(struct http_parser *p, void *data)
{
    struct transcript *t = data;
    if (p->request) {
        buf_printf(&t->text, "%s %s\n", http_parser_method(p), http_parser_target(p));
    } else {
        buf_printf(&t->text, "%d\n", http_parser_status(p));
    }
    for (uint32_t i = 0; i < p->field_count; i++) {
        buf_printf(&t->text, "%s=%s\n", p->text.data + p->fields[i].name, p->text.data + p->fields[i].value);
    }
    return true;
}

static bool record_body(struct http_parser *p, const char *bytes, size_t length, void *data)
{
    (void)p;
    struct transcript *t = data;
    return buf_add(&t->body, bytes, length);
}

static const struct http_parser_hooks record_hooks = {record_head, record_body};

static void record_message(struct transcript *t, const struct http_parser *p)
{
    buf_printf(&t->text, "body=%s\nkeep=%d\n", buf_text(&t->body), p->keep_alive);
    buf_reset(&t->body);
    t->messages++;
}

/* Feeds one piece; false at a fault. */
static bool feed(struct transcript *t, struct http_parser *p, const char *data, size_t length)
{
    while (length > 0) {
        size_t used = 0;
        enum http_feed fed = http_parser_feed(p, data, length, &used);
        assert_true(used <= length);
        data += used;
        length -= used;
        if (fed == HTTP_FEED_FAULT) {
            t->fault = p->fault.status;
            assert_true(t->fault >= 400 && p->fault.code != NULL && p->fault.text != NULL);
            return false;
        }
        if (fed == HTTP_FEED_MORE) {
            assert_int_equal(length, 0);
            return true;
        }
        assert_int_equal(fed, HTTP_FEED_DONE);
        record_message(t, p);
        http_parser_reset(p);
    }
    return true;
}

struct mode {
    bool request;
    bool head_request;
    bool eof; /* the connection ends after the bytes */
};

/* Feeds text cut before byte `cut`, or byte by byte if cut is SIZE_MAX. */
static struct transcript parse(struct mode mode, const char *text, size_t length, size_t cut)
{
    struct transcript t = {0};
    struct http_parser p;
    http_parser_init(&p, mode.request, &record_hooks, &t);
    p.head_request = mode.head_request;
    bool ok = true;
    if (cut == SIZE_MAX) {
        for (size_t i = 0; i < length && ok; i++) {
            char *piece = mem_alloc(1); /* of its own, so that a sanitizer sees pointers kept too long */
            *piece = text[i];
            ok = feed(&t, &p, piece, 1);
            free(piece);
        }
    } else {
        char *first = mem_alloc(cut + 1);
        memcpy(first, text, cut);
        ok = feed(&t, &p, first, cut);
        free(first);
        ok = ok && feed(&t, &p, text + cut, length - cut);
    }
    if (ok && mode.eof && p.head_done) {
        if (http_parser_finish(&p) == HTTP_FEED_DONE) {
            record_message(&t, &p);
        } else {
            t.fault = p.fault.status;
        }
    }
    http_parser_free(&p);
    return t;
}

static void transcript_free(struct transcript *t)
{
    buf_free(&t->text);
    buf_free(&t->body);
}

static const struct mode request_mode = {.request = true};

/* The fault of one request in one piece. */
static int fault_of(const char *text)
{
    struct transcript t = parse(request_mode, text, strlen(text), strlen(text));
    int fault = t.fault;
    if (fault == 0) {
        assert_true(t.messages > 0); /* neither taken nor refused would make the test blind */
    }
    transcript_free(&t);
    return fault;
}

#define POST_CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

/* ---- H1 ---- */

static const struct {
    const char *what;
    const char *text;
} smuggling_shapes[] = {
    {"CL and TE",
     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {"TE and CL",
     "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
    {"two CLs", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"},
    {"two equal CLs", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"},
    {"CL list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx"},
    {"CL with sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx"},
    {"CL empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nx"},
    {"CL too large", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nx"},
    {"TE not chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nx"},
    {"TE gzip, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
    {"TE twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
                 "chunked\r\n\r\n0\r\n\r\n"},
    {"TE xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
    {"TE in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {"bare LF after request line", "GET / HTTP/1.1\nHost: a\r\n\r\n"},
    {"bare LF after a header", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"},
    {"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n"},
    {"bare LF before the request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"},
    {"bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: z\r\n\r\n"},
    {"bare CR at the end", "GET / HTTP/1.1\r\nHost: a\r\n\rX"},
    {"obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"},
    {"obs-fold with a tab", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"},
    {"blank before the first header", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"},
    {"space before colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx"},
    {"tab before colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 1\r\n\r\nx"},
    {"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"},
    {"empty name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"},
    {"bad byte in name", "GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n"},
    {"control in value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\x01z\r\n\r\n"},
    {"no Host", "GET / HTTP/1.1\r\nX: y\r\n\r\n"},
    {"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
    {"two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"},
    {"tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"},
    {"space at the end of the request line", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"},
    {"HTTP/0.9", "GET /\r\n\r\n"},
    {"another protocol", "OPTIONS * RTSP/1.0\r\nHost: a\r\n\r\n"},
    {"chunk: bare LF after the size", POST_CHUNKED "1\nx\r\n0\r\n\r\n"},
    {"chunk: bare LF after the data", POST_CHUNKED "1\r\nx\n0\r\n\r\n"},
    {"chunk: bare LF at the end", POST_CHUNKED "1\r\nx\r\n0\r\n\n"},
    {"chunk: space after the size", POST_CHUNKED "1 \r\nx\r\n0\r\n\r\n"},
    {"chunk: 0x", POST_CHUNKED "0x1\r\nx\r\n0\r\n\r\n"},
    {"chunk: negative", POST_CHUNKED "-1\r\nx\r\n0\r\n\r\n"},
    {"chunk: too large", POST_CHUNKED "fffffffffffffffff\r\nx\r\n0\r\n\r\n"},
    {"chunk: CR in an extension", POST_CHUNKED "1;a\rb\r\nx\r\n0\r\n\r\n"},
    {"chunk: LF in an extension", POST_CHUNKED "1;a\nb\r\nx\r\n0\r\n\r\n"},
    {"trailer: bare LF", POST_CHUNKED "0\r\nX: y\n\r\n"},
    {"trailer: obs-fold", POST_CHUNKED "0\r\nX: y\r\n z\r\n\r\n"},
    {"trailer: space before colon", POST_CHUNKED "0\r\nX : y\r\n\r\n"},
    {"trailer: Content-Length", POST_CHUNKED "0\r\nContent-Length: 3\r\n\r\nabc"},
};

static void test_H1_smuggling_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof smuggling_shapes / sizeof smuggling_shapes[0]; i++) {
        size_t length = strlen(smuggling_shapes[i].text);
        struct transcript whole = parse(request_mode, smuggling_shapes[i].text, length, length);
        struct transcript bytes = parse(request_mode, smuggling_shapes[i].text, length, SIZE_MAX);
        if (whole.fault != 400 || bytes.fault != 400 || whole.messages != 0) {
            fail_msg("%s: faults %d and %d, %d messages", smuggling_shapes[i].what, whole.fault, bytes.fault,
                     whole.messages);
        }
        transcript_free(&whole);
        transcript_free(&bytes);
    }
    assert_int_equal(fault_of("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505);
    assert_int_equal(fault_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
    assert_int_equal(fault_of("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    assert_int_equal(fault_of("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    /* NUL needs its length */
    static const char nul[] = "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n";
    struct transcript t = parse(request_mode, nul, sizeof nul - 1, sizeof nul - 1);
    assert_int_equal(t.fault, 400);
    transcript_free(&t);
}

/* llhttp refuses most of these as well today; the scanner must not rely on it. */
static void test_H1_scanner_alone(void **state)
{
    (void)state;
    static const char *const heads[] = {
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nX: y\rZ: z\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n\tz\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        "GET / HTTP/1.1\r\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\nX(: a\r\n\r\n",
        "GET / HTTP/1.1\r\nX: \x7f\r\n\r\n",
        "GET /\x80 HTTP/1.1\r\n\r\n",
        "GET / ICE/1.0\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX",
    };
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        struct http_scan scan;
        struct http_fault fault = {0};
        http_scan_init(&scan, true);
        http_scan_feed(&scan, heads[i], strlen(heads[i]), &fault);
        if (fault.status != 400)
            fail_msg("head %zu: %d", i, fault.status);
    }
    static const char sound[] = "\r\nGET / HTTP/1.1\r\nX:\ty \x80\r\nY:\r\n\r\nbody";
    struct http_scan scan;
    struct http_fault fault = {0};
    http_scan_init(&scan, true);
    assert_int_equal(http_scan_feed(&scan, sound, sizeof sound - 1, &fault), sizeof sound - 5);
    assert_int_equal(fault.status, 0);
    assert_true(http_scan_done(&scan));
}

/* ---- H2 ---- */

static int fault_of_buf(struct buf *b)
{
    struct transcript t = parse(request_mode, b->data, b->length, b->length);
    int fault = t.fault;
    assert_true(fault != 0 || t.messages == 1);
    transcript_free(&t);
    buf_free(b);
    return fault;
}

static struct buf request_with_fields(int count)
{
    struct buf b = {0};
    buf_add_text(&b, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 1; i < count; i++) {
        buf_printf(&b, "X-%d: y\r\n", i);
    }
    buf_add_text(&b, "\r\n");
    return b;
}

/* A head of exactly `size` bytes. */
static struct buf request_of_size(size_t size)
{
    struct buf b = {0};
    buf_add_text(&b, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    while (b.length < size - 4) {
        buf_addc(&b, 'x');
    }
    buf_add_text(&b, "\r\n\r\n");
    return b;
}

static void test_H2_limits_of_the_head(void **state)
{
    (void)state;
    struct buf b = request_with_fields(100);
    assert_int_equal(fault_of_buf(&b), 0);
    b = request_with_fields(101);
    assert_int_equal(fault_of_buf(&b), 431);
    b = request_of_size(HTTP_HEAD_LIMIT);
    assert_int_equal(fault_of_buf(&b), 0);
    b = request_of_size(HTTP_HEAD_LIMIT + 1);
    assert_int_equal(fault_of_buf(&b), 431);
    for (int i = 0; i < 40000; i++) {
        buf_add_text(&b, "\r\n"); /* blank lines before the request count as well */
    }
    assert_int_equal(fault_of_buf(&b), 431);
}

static void test_H2_limits_of_chunk_framing(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_add_text(&b, POST_CHUNKED);
    for (int i = 0; i < 20000; i++) {
        buf_add_text(&b, "1\r\nx\r\n");
    }
    buf_add_text(&b, "0\r\n\r\n");
    assert_int_equal(fault_of_buf(&b), 0); /* small chunks are fine */
    buf_add_text(&b, POST_CHUNKED "1;a=");
    for (int i = 0; i < 70000; i++) {
        buf_addc(&b, 'x');
    }
    assert_int_equal(fault_of_buf(&b), 400);
    buf_add_text(&b, POST_CHUNKED);
    for (int i = 0; i < 70000; i++) {
        buf_addc(&b, '0');
    }
    assert_int_equal(fault_of_buf(&b), 400);
    buf_add_text(&b, POST_CHUNKED "0\r\n");
    for (int i = 0; i < 10000; i++) {
        buf_add_text(&b, "X: yyyy\r\n");
    }
    assert_int_equal(fault_of_buf(&b), 400);
}

/* ---- H3 ---- */

static struct transcript answers(bool head_request, bool eof, const char *text)
{
    struct mode mode = {.head_request = head_request, .eof = eof};
    return parse(mode, text, strlen(text), strlen(text));
}

static void expect_answers(bool head_request, bool eof, const char *text, const char *expected)
{
    struct transcript t = answers(head_request, eof, text);
    assert_int_equal(t.fault, 0);
    assert_string_equal(buf_text(&t.text), expected);
    transcript_free(&t);
}

static void test_H3_answers_without_body(void **state)
{
    (void)state;
    expect_answers(true, false,
                   "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
                   "200\ncontent-length=9\nbody=\nkeep=1\n200\ncontent-length=9\nbody=\nkeep=1\n");
    expect_answers(true, false, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                   "200\ntransfer-encoding=chunked\nbody=\nkeep=1\n");
    expect_answers(false, false,
                   "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                   "204\nbody=\nkeep=1\n304\ncontent-length=9\nbody=\nkeep=1\n");
    expect_answers(false, false,
                   "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                   "200\ncontent-length=2\nbody=hi\nkeep=1\n");
}

static void test_H3_ends_of_bodies(void **state)
{
    (void)state;
    expect_answers(false, true, "HTTP/1.1 200 OK\r\n\r\nuntil close", "200\nbody=until close\nkeep=0\n");
    expect_answers(false, true, "HTTP/1.0 200 OK\r\n\r\n", "200\nbody=\nkeep=0\n");
    struct transcript t = answers(false, true, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort");
    assert_int_equal(t.fault, 400);
    assert_int_equal(t.messages, 0);
    transcript_free(&t);
    t = answers(false, true, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n");
    assert_int_equal(t.fault, 400);
    transcript_free(&t);
    t = answers(false, false,
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_int_equal(t.fault, 502);
    transcript_free(&t);
    struct buf many = {0};
    for (int i = 0; i < 17; i++) {
        buf_add_text(&many, "HTTP/1.1 102 Processing\r\n\r\n");
    }
    t = answers(false, false, many.data);
    assert_int_equal(t.fault, 502);
    transcript_free(&t);
    buf_free(&many);
}

/* ---- H4 and byte splitting ---- */

static void test_H4_pause_loses_no_byte(void **state)
{
    (void)state;
    static const char three[] =
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
        "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz"
        "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nuv\r\n0\r\n\r\n"
        "GET /d HTTP/1.1\r\nHost: a\r\n\r\n";
    struct transcript t = parse(request_mode, three, sizeof three - 1, sizeof three - 1);
    assert_int_equal(t.fault, 0);
    assert_int_equal(t.messages, 4);
    assert_string_equal(buf_text(&t.text), "GET /a\nhost=a\nbody=\nkeep=1\n"
                                           "POST /b\nhost=a\ncontent-length=3\nbody=xyz\nkeep=1\n"
                                           "POST /c\nhost=a\ntransfer-encoding=chunked\nbody=uv\nkeep=1\n"
                                           "GET /d\nhost=a\nbody=\nkeep=1\n");
    transcript_free(&t);
}

static void test_every_split_parses_alike(void **state)
{
    (void)state;
    static const struct {
        struct mode mode;
        int messages;
        const char *text;
    } samples[] = {
        {{.request = true},
         1,
         "\r\nGET /a%20b?c=d HTTP/1.1\r\nHost: a:1\r\nEmpty:\r\nX:  padded \t \r\nX: again\r\n\r\n"},
        {{.request = true},
         2,
         "GET /1 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
         "GET /2 HTTP/1.0\r\nhOsT: a\r\nConnection: keep-alive\r\n\r\n"},
        {{.request = true},
         2,
         "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
         "DELETE /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
        {{.request = true},
         1,
         POST_CHUNKED "5;name=value\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n"},
        {{.request = true}, 0, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"},
        {{.eof = true}, 1, "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nuntil the end\r\n"},
        {{.eof = true}, 1, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi"},
        {{.eof = true},
         1,
         "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
        {{.eof = true, .head_request = true}, 1, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"},
        {{.eof = true}, 0, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"},
    };
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        size_t length = strlen(samples[i].text);
        struct transcript whole = parse(samples[i].mode, samples[i].text, length, length);
        assert_int_equal(whole.messages, samples[i].messages);
        for (size_t cut = 0; cut <= length; cut++) {
            struct transcript t =
                parse(samples[i].mode, samples[i].text, length, cut == length ? SIZE_MAX : cut);
            assert_int_equal(t.fault, whole.fault);
            assert_int_equal(t.messages, whole.messages);
            if (whole.fault == 0) {
                assert_string_equal(buf_text(&t.text), buf_text(&whole.text));
            }
            transcript_free(&t);
        }
        transcript_free(&whole);
    }
}

static void test_fields_are_joined_and_trimmed(void **state)
{
    (void)state;
    struct transcript t = {0};
    struct http_parser p;
    static const char text[] = "GET / HTTP/1.1\r\nX: 1\r\nHost: h\r\nx:\t2 \r\nEmpty:\r\nX: 3\r\n\r\n";
    http_parser_init(&p, true, &record_hooks, &t);
    assert_true(p.text.data == NULL && p.fields == NULL);
    size_t used;
    assert_int_equal(http_parser_feed(&p, text, sizeof text - 1, &used), HTTP_FEED_DONE);
    assert_int_equal(used, sizeof text - 1);
    assert_string_equal(http_parser_field(&p, "x"), "1, 2, 3");
    assert_string_equal(http_parser_field(&p, "empty"), "");
    assert_string_equal(http_parser_field(&p, "host"), "h");
    assert_null(http_parser_field(&p, "y"));
    http_parser_free(&p);
    transcript_free(&t);
}

/* ---- targets, queries, URLs ---- */

static void test_targets(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        const char *path; /* NULL = refused */
        const char *query;
    } cases[] = {
        {"/", "/", ""},
        {"/v1/databases/shop?watch=1&x", "/v1/databases/shop", "watch=1&x"},
        {"/a%20b%C3%A9", "/a b\xc3\xa9", ""},
        {"//a///b/", "/a/b/", ""},
        {"/a?b?c", "/a", "b?c"},
        {"/...", "/...", ""},
        {"*", "*", ""},
        {"http://host/a?b", "/a", "b"},
        {"http://host", "/", ""},
        {"http://host?q", "/", "q"},
        {"/a/../b", NULL, NULL},
        {"/a/..", NULL, NULL},
        {"/%2e%2E/b", NULL, NULL},
        {"/./a", NULL, NULL},
        {"/a%00b", NULL, NULL},
        {"/a%2Fb", NULL, NULL},
        {"/a%5cb", NULL, NULL},
        {"/a%0d%0aX", NULL, NULL},
        {"/a%7f", NULL, NULL},
        {"/a%", NULL, NULL},
        {"/a%4", NULL, NULL},
        {"/a%zz", NULL, NULL},
        {"/%ff", NULL, NULL},
        {"/%c0%af", NULL, NULL},
        {"/%ed%a0%80", NULL, NULL},
        {"/a#b", NULL, NULL},
        {"a", NULL, NULL},
        {"", NULL, NULL},
        {"ftp://host/", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        char *path;
        char *query;
        snprintf(text, sizeof text, "%s", cases[i].target);
        bool ok = http_target_split(text, &path, &query);
        if (ok != (cases[i].path != NULL)) {
            fail_msg("%s: %s", cases[i].target, ok ? path : "refused");
        }
        if (ok) {
            assert_string_equal(path, cases[i].path);
            assert_string_equal(query, cases[i].query);
        }
    }
}

static void test_query_parameters(void **state)
{
    (void)state;
    char out[16];
    const char *query = "a=1&key=x%20y%2Bz+w&flag&empty=&a=2&%6bk=v&bad=%zz&nul=%00&utf=%C3%A9";
    assert_true(http_query_get(query, "a", out, sizeof out));
    assert_string_equal(out, "1");
    assert_true(http_query_get(query, "key", out, sizeof out));
    assert_string_equal(out, "x y+z w");
    assert_true(http_query_get(query, "flag", out, sizeof out));
    assert_string_equal(out, "");
    assert_true(http_query_get(query, "empty", out, sizeof out));
    assert_true(http_query_get(query, "kk", out, sizeof out));
    assert_string_equal(out, "v");
    assert_true(http_query_get(query, "utf", out, sizeof out));
    assert_string_equal(out, "\xc3\xa9");
    assert_false(http_query_get(query, "bad", out, sizeof out));
    assert_false(http_query_get(query, "nul", out, sizeof out));
    assert_false(http_query_get(query, "ke", out, sizeof out));
    assert_false(http_query_get("", "a", out, sizeof out));
    assert_false(http_query_get("a=1234567890123456", "a", out, sizeof out)); /* needs 17 */
    assert_true(http_query_get("a=123456789012345", "a", out, sizeof out));
    assert_false(http_query_get("a=%4", "a", out, sizeof out));
}

static void test_urls(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *host; /* NULL = invalid */
        int port;
        bool tls;
        const char *authority;
    } cases[] = {
        {"http://a/b?c", "a", 80, false, "a"},
        {"HTTPS://a.b", "a.b", 443, true, "a.b"},
        {"http://a:443/", "a", 443, false, "a:443"},
        {"https://a:443/", "a", 443, true, "a"},
        {"http://[::1]:8080/x", "::1", 8080, false, "[::1]:8080"},
        {"http://[fe80::1]", "fe80::1", 80, false, "[fe80::1]"},
        {"http://a?x", "a", 80, false, "a"},
        {"http://", NULL, 0, false, NULL},
        {"http://:80/", NULL, 0, false, NULL},
        {"http://user:secret@host/", NULL, 0, false, NULL},
        {"http://a:0/", NULL, 0, false, NULL},
        {"http://a:65536/", NULL, 0, false, NULL},
        {"http://a:/", NULL, 0, false, NULL},
        {"http://[::1/", NULL, 0, false, NULL},
        {"http://[::1]x/", NULL, 0, false, NULL},
        {"http://a/b c", NULL, 0, false, NULL},
        {"http://a/b\r\nX: y", NULL, 0, false, NULL},
        {"http://a/#f", NULL, 0, false, NULL},
        {"ftp://a/", NULL, 0, false, NULL},
        {"a", NULL, 0, false, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct http_url url;
        struct err err = {0};
        int code = http_url_parse(cases[i].text, &url, &err);
        if ((code == 0) != (cases[i].host != NULL)) {
            fail_msg("%s: %d %s", cases[i].text, code, err.message);
        }
        if (code != 0) {
            assert_int_equal(code, ERRC_INVALID);
            assert_null(strstr(err.message, "secret"));
            continue;
        }
        char authority[HTTP_AUTHORITY_SIZE];
        http_url_authority(&url, authority);
        assert_string_equal(url.host, cases[i].host);
        assert_int_equal(url.port, cases[i].port);
        assert_int_equal(url.tls, cases[i].tls);
        assert_string_equal(authority, cases[i].authority);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H1_smuggling_shapes),
        cmocka_unit_test(test_H1_scanner_alone),
        cmocka_unit_test(test_H2_limits_of_the_head),
        cmocka_unit_test(test_H2_limits_of_chunk_framing),
        cmocka_unit_test(test_H3_answers_without_body),
        cmocka_unit_test(test_H3_ends_of_bodies),
        cmocka_unit_test(test_H4_pause_loses_no_byte),
        cmocka_unit_test(test_every_split_parses_alike),
        cmocka_unit_test(test_fields_are_joined_and_trimmed),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_query_parameters),
        cmocka_unit_test(test_urls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
