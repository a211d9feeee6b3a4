/*
 * http_test: the fixture of the tests with sockets: a loop whose clock can be put forward, a raw peer on a
 * plain socket, and waiting for a condition with a deadline of the real clock.
 */
#ifndef TESTS_HTTP_TEST_H
#define TESTS_HTTP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/list.h"
#include "base/mem.h"
#include "http/http_client.h"
#include "http/http_server.h"
#include "loop/loop.h"

#define WAIT_NS (20 * ENV_NS_PER_S)

struct fixture {
    struct env env; /* first: the clock's callback finds the fixture by it */
    uint64_t ahead_ns;
    struct loop loop;
    struct loop_timer tick; /* conditions outside the loop are looked at every 2 ms */
    struct http_server *server;
    bool server_closed;
    struct http_client *client;
    bool client_closed;
    struct err err;
};

static inline uint64_t fixture_monotonic(struct env *env)
{
    return env_system()->monotonic_ns(env_system()) + ((struct fixture *)(void *)env)->ahead_ns;
}

static inline void fixture_tick(struct loop_timer *timer, void *data)
{
    (void)data;
    loop_timer_start(timer, 2 * ENV_NS_PER_MS);
}

static inline uint64_t real_now(void)
{
    return env_system()->monotonic_ns(env_system());
}

#define RUN_UNTIL(f, condition)                                                                              \
    do {                                                                                                     \
        uint64_t run_deadline = real_now() + WAIT_NS;                                                        \
        loop_timer_start_at(&(f)->tick, 1); /* before all others: the alarm is set anew by our clock */      \
        while (!(condition)) {                                                                               \
            if (real_now() > run_deadline)                                                                   \
                fail_msg("waited in vain for: %s", #condition);                                              \
            uv_run(&(f)->loop.uv, UV_RUN_ONCE);                                                              \
        }                                                                                                    \
        loop_timer_stop(&(f)->tick);                                                                         \
    } while (0)

/* Lets the loop work for so long: only for showing that something does not happen. */
static inline void run_for(struct fixture *f, uint64_t ns)
{
    uint64_t until = real_now() + ns;
    RUN_UNTIL(f, real_now() >= until);
}

/* Puts the loop's clock forward; timers fire in the next turns. */
static inline void put_forward(struct fixture *f, uint64_t ns)
{
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    f->ahead_ns += ns;
}

static inline void set_true(void *flag)
{
    *(bool *)flag = true;
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    f->env = *env_system();
    f->env.monotonic_ns = fixture_monotonic;
    if (loop_init(&f->loop, &f->env, &f->err) != 0)
        return -1;
    loop_timer_init(&f->loop, &f->tick, fixture_tick, f);
    *state = f;
    return 0;
}

/* Closes client and server, and demands that every handle is gone. */
static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    if (f->client != NULL) {
        http_client_close(f->client, set_true, &f->client_closed);
        RUN_UNTIL(f, f->client_closed);
    }
    if (f->server != NULL) {
        http_server_close(f->server, 0, set_true, &f->server_closed);
        RUN_UNTIL(f, f->server_closed);
    }
    int open = loop_fini(&f->loop);
    int result = open == 0 && f->loop.handles == 0 ? 0 : -1;
    free(f);
    return result;
}

#define HTTP_TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

/* ---- a raw peer ---- */

struct peer {
    int fd;
    bool ended; /* EOF or reset */
    struct buf got;
};

/* receive_buffer: how much the kernel may keep for a peer that does not read; 0 = as it likes. */
static inline void peer_connect_with(struct peer *p, int port, int receive_buffer)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *p = (struct peer){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert_true(p->fd >= 0);
    if (receive_buffer > 0)
        assert_int_equal(setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer), 0);
    assert_int_equal(connect(p->fd, (struct sockaddr *)&a, sizeof a), 0);
}

static inline void peer_connect(struct peer *p, int port)
{
    peer_connect_with(p, port, 0);
}

static inline void peer_send(struct peer *p, const char *text)
{
    size_t length = strlen(text);
    assert_int_equal(send(p->fd, text, length, MSG_NOSIGNAL), (ssize_t)length);
}

/* Takes what is there; returns the text so far. */
static inline const char *peer_text(struct peer *p)
{
    char bytes[65536];
    ssize_t n;
    while (!p->ended && (n = recv(p->fd, bytes, sizeof bytes, MSG_DONTWAIT)) != -1) {
        if (n == 0)
            p->ended = true;
        buf_add(&p->got, bytes, (size_t)n);
    }
    if (!p->ended && errno != EAGAIN && errno != EWOULDBLOCK)
        p->ended = true;
    return buf_text(&p->got);
}

static inline bool peer_has(struct peer *p, const char *text)
{
    return strstr(peer_text(p), text) != NULL;
}

static inline bool peer_ended(struct peer *p)
{
    peer_text(p);
    return p->ended;
}

static inline int peer_count(struct peer *p, const char *text)
{
    int count = 0;
    for (const char *at = strstr(peer_text(p), text); at != NULL; at = strstr(at + 1, text))
        count++;
    return count;
}

static inline void peer_close(struct peer *p)
{
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    buf_free(&p->got);
}

#endif
