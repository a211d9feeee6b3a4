#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "loop/proxy.h"

static void test_urls(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host;
        int port;
        enum proxy_kind kind;
        const char *user, *password;
        bool tls;
    } good[] = {
        {"http://p:3128", "p", 3128, PROXY_HTTP, NULL, NULL, false},
        {"HTTP://p/", "p", 80, PROXY_HTTP, NULL, NULL, false},
        {"p:8080", "p", 8080, PROXY_HTTP, NULL, NULL, false},
        {"socks5://[::1]:9", "::1", 9, PROXY_SOCKS5, NULL, NULL, false},
        {"socks5h://p", "p", 1080, PROXY_SOCKS5, NULL, NULL, false},
        {"http://u:p%40%3a@h:1", "h", 1, PROXY_HTTP, "u", "p@:", false},
        {"http://u@h", "h", 80, PROXY_HTTP, "u", "", false},
        {"https://u:p@h", "h", 443, PROXY_HTTP, "u", "p", true},
        {"HTTPS://h:8443/", "h", 8443, PROXY_HTTP, NULL, NULL, true},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct proxy *p = NULL;
        assert_int_equal(proxy_parse(good[i].url, &p, NULL), 0);
        assert_string_equal(p->host, good[i].host);
        assert_int_equal(p->port, good[i].port);
        assert_int_equal(p->kind, good[i].kind);
        assert_int_equal(p->tls, good[i].tls);
        if (good[i].user != NULL) {
            assert_string_equal(p->user, good[i].user);
            assert_string_equal(p->password, good[i].password);
        } else {
            assert_null(p->user);
        }
        proxy_unref(p);
    }
}

static void test_what_is_no_proxy(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "http://",
                                      "http://h:0",
                                      "http://h:65536",
                                      "http://h:x",
                                      "http://[::1",
                                      "http://u%0@h",
                                      "http://%00@h",
                                      "https://hidden@h:0",
                                      "wss://hidden@h",
                                      "ftp://h",
                                      "http://[::1]x",
                                      "socks4://h"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct proxy *p = NULL;
        struct err err = {0};
        assert_int_not_equal(proxy_parse(bad[i], &p, &err), 0);
        assert_null(p);
        assert_null(strstr(err.message, "hidden"));
    }
}

/* Feeds the answers byte by byte; what the last state was. */
static enum proxy_state talk(struct proxy *p, const char *host, const char *answer, size_t length,
                             struct buf *said, struct err *err)
{
    struct proxy_talk t = {.proxy = p, .host = host, .port = 6443};
    enum proxy_state state = PROXY_MORE;
    proxy_begin(&t);
    for (size_t i = 0; i < length && state == PROXY_MORE; i++) {
        buf_add(said, t.out.data, t.out.length);
        buf_reset(&t.out);
        state = proxy_feed(&t, answer + i, 1, err);
    }
    proxy_end(&t);
    proxy_end(&t);
    return state;
}

static void test_http(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        enum proxy_state state;
        enum err_code code;
    } cases[] = {
        {"HTTP/1.0 200 Connection established\r\nX: y\r\n\r\n", PROXY_OPEN, ERRC_NONE},
        {"HTTP/1.1 200\r\n\r\n", PROXY_OPEN, ERRC_NONE},
        {"HTTP/1.1 407 No\r\n\r\n", PROXY_REFUSED, ERRC_AUTH},
        {"HTTP/1.1 502 Bad Gateway\r\n\r\n", PROXY_REFUSED, ERRC_UNAVAILABLE},
        {"SSH-2.0-x\r\n", PROXY_REFUSED, ERRC_PROTOCOL},
        {"HTTP/2 200\r\n\r\n", PROXY_REFUSED, ERRC_PROTOCOL},
        {"HTTP/1.1 200 OK\r\n", PROXY_MORE, ERRC_NONE},
    };
    struct proxy *p = NULL;
    assert_int_equal(proxy_parse("http://herd:secret@p", &p, NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf said = {0};
        struct err err = {0};
        assert_int_equal(talk(p, "::1", cases[i].answer, strlen(cases[i].answer), &said, &err),
                         cases[i].state);
        assert_int_equal(err.code, cases[i].code);
        assert_string_equal(buf_text(&said), "CONNECT [::1]:6443 HTTP/1.1\r\nHost: [::1]:6443\r\n"
                                             "Proxy-Authorization: Basic aGVyZDpzZWNyZXQ=\r\n\r\n");
        buf_free(&said);
    }
    struct proxy_talk t = {.proxy = p, .host = "h", .port = 1};
    const char early[] = "HTTP/1.1 200 OK\r\n\r\nearly";
    proxy_begin(&t);
    assert_int_equal(proxy_feed(&t, early, sizeof early - 1, NULL), PROXY_REFUSED);
    proxy_end(&t);
    char endless[16384];
    memset(endless, 'x', sizeof endless);
    memcpy(endless, "HTTP/1.1 200 ", 13);
    struct buf said = {0};
    assert_int_equal(talk(p, "h", endless, sizeof endless, &said, NULL), PROXY_REFUSED);
    buf_free(&said);
    proxy_unref(p);
}

static void socks(const char *url, const char *host, const char *answer, size_t length, enum proxy_state want,
                  const char *want_said, size_t want_length)
{
    struct buf said = {0};
    struct err err = {0};
    struct proxy *p = NULL;
    assert_int_equal(proxy_parse(url, &p, NULL), 0);
    assert_int_equal(talk(p, host, answer, length, &said, &err), want);
    assert_int_equal(err.code == ERRC_NONE, want != PROXY_REFUSED);
    if (want_said != NULL) {
        assert_int_equal(said.length, want_length);
        assert_memory_equal(said.data, want_said, want_length);
    }
    buf_free(&said);
    proxy_unref(p);
}

#define TEXT(s) (s), sizeof(s) - 1

static void test_socks(void **state)
{
    (void)state;
    socks("socks5://p", "abc", TEXT("\5\0\5\0\0\1\1\2\3\4\0\7"), PROXY_OPEN,
          TEXT("\5\1\0\5\1\0\3\3"
               "abc\x19\x2b"));
    socks("socks5://p", "10.0.0.1", TEXT("\5\0\5\0\0\3\2hi\0\7"), PROXY_OPEN,
          TEXT("\5\1\0\5\1\0\1\12\0\0\1\x19\x2b"));
    socks("socks5://u:pw@p", "abc", TEXT("\5\2\1\0\5\0\0\4ABCDEFGHIJKLMNOP\0\7"), PROXY_OPEN,
          TEXT("\5\2\0\2\1\1u\2pw\5\1\0\3\3"
               "abc\x19\x2b"));
    socks("socks5://u:pw@p", "abc", TEXT("\5\0\5\0\0\1\1\2\3\4\0\7"), PROXY_OPEN, NULL, 0);
    socks("socks5://u:pw@p", "abc", TEXT("\5\2\1\1"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\5\2"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\5\xff"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\4\0"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\5\0\5\5\0\1\0\0\0\0\0\0"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\5\0\5\x77\0\1\0\0\0\0\0\0"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\5\0\5\0\0\2\0\0\0\0\0\0"), PROXY_REFUSED, NULL, 0);
    socks("socks5://p", "abc", TEXT("\5\0\5\0\0\1\1\2\3"), PROXY_MORE, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_what_is_no_proxy),
        cmocka_unit_test(test_http),
        cmocka_unit_test(test_socks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
