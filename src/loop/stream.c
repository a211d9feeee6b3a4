/*
 * Happy path: resolve, connect, (TLS handshake), data both ways, EOF, stream_finish(), closed.
 * Failure modes: each ends in FAILED with one STREAM_ERROR, and the user closes.
 */
#include "loop/stream.h"

#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/mem.h"
#include "loop/stream_impl.h"

#define FINISH_NS         (5 * ENV_NS_PER_S)
#define LINGER_NS         (1 * ENV_NS_PER_S)
#define BURST_READS       3 /* stream_gather() */
#define KEEPALIVE_SECONDS 20
#define USER_TIMEOUT_MS   30000
#define QUEUE_PAUSE_NS    (20 * ENV_NS_PER_MS) /* before a Unix socket whose queue was full is tried again */

#define FAIL_OR_CLOSE (SM_NEXT(STATE_FAILED) | SM_NEXT(STATE_CLOSING))

static const struct sm_state states[STATE_COUNT] = {
    [STATE_RESOLVING] = {"resolving", SM_NEXT(STATE_CONNECTING) | SM_NEXT(STATE_RETRYING) | FAIL_OR_CLOSE,
                         false},
    [STATE_CONNECTING] = {"connecting",
                          SM_NEXT(STATE_RETRYING) | SM_NEXT(STATE_TUNNELING) | SM_NEXT(STATE_PROXYING) |
                              SM_NEXT(STATE_HANDSHAKING) | SM_NEXT(STATE_OPEN) | FAIL_OR_CLOSE,
                          false},
    [STATE_TUNNELING] = {"tunneling", SM_NEXT(STATE_PROXYING) | FAIL_OR_CLOSE, false},
    [STATE_PROXYING] = {"proxying", SM_NEXT(STATE_HANDSHAKING) | SM_NEXT(STATE_OPEN) | FAIL_OR_CLOSE, false},
    [STATE_RETRYING] = {"retrying", SM_NEXT(STATE_CONNECTING) | FAIL_OR_CLOSE, false},
    [STATE_ACCEPTED] = {"accepted", SM_NEXT(STATE_HANDSHAKING) | SM_NEXT(STATE_OPEN) | FAIL_OR_CLOSE, false},
    [STATE_HANDSHAKING] = {"handshaking", SM_NEXT(STATE_OPEN) | FAIL_OR_CLOSE, false},
    [STATE_OPEN] = {"open", SM_NEXT(STATE_ENDED) | SM_NEXT(STATE_FINISHING) | FAIL_OR_CLOSE, false},
    [STATE_ENDED] = {"ended", SM_NEXT(STATE_FINISHING) | FAIL_OR_CLOSE, false},
    [STATE_FINISHING] = {"finishing", SM_NEXT(STATE_CLOSING), false},
    [STATE_FAILED] = {"failed", SM_NEXT(STATE_CLOSING), false},
    [STATE_CLOSING] = {"closing", SM_NEXT(STATE_CLOSED), false},
    [STATE_CLOSED] = {"closed", 0, true},
};

enum stream_state stream_state(const struct stream *s)
{
    return (enum stream_state)sm_now(&s->sm);
}

char *stream_scratch(struct loop *loop)
{
    if (loop->scratch == NULL)
        loop->scratch = mem_alloc(STREAM_RAW_SIZE + STREAM_PLAIN_SIZE);
    return loop->scratch;
}

void stream_emit(struct stream *s, enum stream_event event, const char *data, size_t length)
{
    const struct stream_input in = {event, data, length, event == STREAM_ERROR ? &s->err : NULL};
    if (s->cb != NULL)
        s->cb(s, &in, s->data);
}

/* ---- failure ---- */

void stream_socket_error(struct stream *s, int uv_code, const char *what, struct err *err)
{
    enum err_code code = ERRC_IO;
    if (uv_code == UV_ECONNRESET || uv_code == UV_EPIPE || uv_code == UV_ECONNABORTED)
        code = ERRC_CLOSED;
    else if (uv_code == UV_ETIMEDOUT)
        code = ERRC_TIMEOUT;
    err_set(err, code, "%s %s: %s", what, s->peer, uv_strerror(uv_code));
}

void stream_fail_later(struct stream *s, const struct err *err)
{
    if (!sm_may(&s->sm, STATE_FAILED))
        return;
    sm_move(&s->sm, STATE_FAILED);
    s->err = *err;
    loop_timer_stop(&s->timer);
    stream_reading_update(s);
    loop_defer(s->loop, &s->task);
}

static void error_report(struct stream *s)
{
    if (stream_state(s) != STATE_FAILED || s->error_reported)
        return;
    s->error_reported = true;
    stream_emit(s, STREAM_ERROR, NULL, 0);
}

void stream_fail(struct stream *s, const struct err *err)
{
    stream_fail_later(s, err);
    error_report(s);
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct stream *s = handle->data;
    *buf = uv_buf_init(stream_scratch(s->loop), STREAM_RAW_SIZE);
}

static void read_failed(struct stream *s, int code)
{
    struct err err = {0};
    if (stream_state(s) == STATE_FINISHING) {
        stream_close(s);
        return;
    }
    enum stream_state state = stream_state(s);
    if (code == UV_EOF && (state == STATE_PROXYING || state == STATE_TUNNELING))
        err_set(&err, ERRC_UNAVAILABLE, "the proxy %s ended the connection", s->peer);
    else if (code != UV_EOF && s->write_error.code != ERRC_NONE)
        err = s->write_error;
    else if (code != UV_EOF)
        stream_socket_error(s, code, "reading from", &err);
    else if (s->ssl != NULL)
        err_set(&err, ERRC_TLS, "%s ended the connection without a TLS close_notify", s->peer);
    if (err.code != ERRC_NONE)
        stream_fail(s, &err);
    else
        stream_ended(s);
}

static void gather(struct stream *s)
{
    if (s->gather_ns == 0 || stream_state(s) != STATE_OPEN)
        return;
    uint64_t now = loop_now(s->loop);
    s->burst = now - s->gathered_ns <= 2 * s->gather_ns ? s->burst + 1 : 1;
    s->gathered_ns = now;
    if (s->burst < BURST_READS)
        return; /* a message or two: pausing would be one more wake-up, for nothing */
    loop_timer_start(&s->timer, s->gather_ns);
    stream_reading_update(s);
}

static void proxy_said(struct stream *s, const char *bytes, size_t length);

void stream_deliver(struct stream *s, const char *data, size_t length)
{
    if (stream_state(s) == STATE_FINISHING)
        return; /* read only to keep the kernel from answering with a reset */
    if (stream_state(s) == STATE_PROXYING)
        proxy_said(s, data, length);
    else if (s->ssl != NULL)
        stream_tls_received(s, data, length);
    else
        stream_emit(s, STREAM_DATA, data, length);
}

void stream_read_ended(struct stream *s)
{
    s->peer_ended = true;
    uv_read_stop((uv_stream_t *)&s->tcp);
    read_failed(s, UV_EOF);
}

static void on_read(uv_stream_t *tcp, ssize_t n, const uv_buf_t *buf)
{
    struct stream *s = tcp->data;
    (void)loop_now(s->loop);
    if (n == 0)
        return;
    if (n < 0) {
        s->peer_ended = true;
        uv_read_stop(tcp);
        read_failed(s, (int)n);
    } else if (s->outer != NULL) {
        stream_tunnel_received(s, buf->base, (size_t)n);
    } else {
        stream_deliver(s, buf->base, (size_t)n);
    }
    if (n > 0 && (size_t)n < buf->len)
        gather(s);
}

static bool reading_wanted(const struct stream *s)
{
    if (!s->tcp_open || s->peer_ended)
        return false;
    switch (stream_state(s)) {
    case STATE_TUNNELING:
    case STATE_PROXYING:
    case STATE_HANDSHAKING:
    case STATE_FINISHING:
        return true;
    case STATE_OPEN:
        return !s->paused && !loop_timer_armed(&s->timer);
    default:
        return false;
    }
}

void stream_reading_update(struct stream *s)
{
    if (!s->tcp_open || uv_is_closing((uv_handle_t *)&s->tcp))
        return;
    if (!reading_wanted(s)) {
        uv_read_stop((uv_stream_t *)&s->tcp);
        return;
    }
    int rc = uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
    if (rc != 0 && rc != UV_EALREADY) {
        struct err err = {0};
        stream_socket_error(s, rc, "reading from", &err);
        stream_fail_later(s, &err);
    }
}

void stream_pause(struct stream *s)
{
    s->paused = true;
    stream_reading_update(s);
}

void stream_resume(struct stream *s)
{
    if (!s->paused)
        return;
    s->paused = false;
    if (s->ssl != NULL)
        loop_defer(s->loop, &s->task); /* plaintext may lie in OpenSSL, with no socket event to come */
    stream_reading_update(s);
}

void stream_gather(struct stream *s, uint64_t pause_ns)
{
    s->gather_ns = pause_ns;
    if (pause_ns == 0 && stream_state(s) == STATE_OPEN && loop_timer_armed(&s->timer)) {
        loop_timer_stop(&s->timer);
        stream_reading_update(s);
    }
}

void stream_ended(struct stream *s)
{
    if (s->write_error.code != ERRC_NONE) {
        stream_fail(s, &s->write_error);
        return;
    }
    sm_move(&s->sm, STATE_ENDED);
    stream_reading_update(s);
    stream_emit(s, STREAM_EOF, NULL, 0);
}

/* ---- opening ---- */

void stream_opened(struct stream *s)
{
    sm_move(&s->sm, STATE_OPEN);
    loop_timer_stop(&s->timer);
    stream_waiting_send(s);
    if (stream_state(s) != STATE_OPEN)
        return;
    stream_emit(s, STREAM_CONNECTED, NULL, 0);
    stream_reading_update(s);
}

static void enter_handshaking(struct stream *s)
{
    struct err err = {0};
    if (stream_tls_begin(s, &err) != 0) {
        stream_fail(s, &err);
        return;
    }
    sm_move(&s->sm, STATE_HANDSHAKING);
    loop_timer_start_at(&s->timer, s->deadline_ns);
    stream_reading_update(s);
    stream_tls_step(s);
}

/* ---- a proxy in between ---- */

static void connected_through(struct stream *s)
{
    if (s->tls != NULL)
        enter_handshaking(s);
    else
        stream_opened(s);
}

static void proxy_talk_send(struct stream *s)
{
    if (s->talk.out.length > 0)
        stream_send(s, s->talk.out.data, s->talk.out.length);
    buf_reset(&s->talk.out);
}

static void enter_tunneling(struct stream *s)
{
    struct err err = {0};
    if (stream_tunnel_begin(s, &err) != 0) {
        stream_fail(s, &err);
        return;
    }
    sm_move(&s->sm, STATE_TUNNELING);
    loop_timer_start_at(&s->timer, s->deadline_ns);
    stream_reading_update(s);
    stream_tunnel_step(s);
}

static void enter_proxying(struct stream *s)
{
    sm_move(&s->sm, STATE_PROXYING);
    loop_timer_start_at(&s->timer, s->deadline_ns);
    s->talk.proxy = s->proxy;
    s->talk.host = s->target;
    proxy_begin(&s->talk);
    proxy_talk_send(s);
    stream_reading_update(s);
}

void stream_tunneled(struct stream *s)
{
    enter_proxying(s);
}

static void proxy_said(struct stream *s, const char *bytes, size_t length)
{
    struct err err = {0};
    enum proxy_state state = proxy_feed(&s->talk, bytes, length, &err);
    if (state == PROXY_MORE) {
        proxy_talk_send(s);
        return;
    }
    proxy_end(&s->talk);
    if (state == PROXY_OPEN) {
        connected_through(s);
        return;
    }
    err_wrap(&err, "%s port %d", s->host, s->port);
    stream_fail(s, &err);
}

static void peer_name(struct stream *s)
{
    struct sockaddr_storage address;
    int length = sizeof address;
    char host[64] = "";
    if (uv_tcp_getpeername(&s->tcp, (struct sockaddr *)&address, &length) != 0)
        return;
    if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&address;
        uv_ip6_name(in6, host, sizeof host);
        snprintf(s->peer, sizeof s->peer, "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)&address;
        uv_ip4_name(in4, host, sizeof host);
        snprintf(s->peer, sizeof s->peer, "%s:%u", host, (unsigned)ntohs(in4->sin_port));
    }
}

static void connection_stands(struct stream *s)
{
    if (s->path != NULL) {
        snprintf(s->peer, sizeof s->peer, "%s", s->path);
        return;
    }
    peer_name(s);
    (void)uv_tcp_nodelay(&s->tcp, 1);
    (void)uv_tcp_keepalive(&s->tcp, 1, KEEPALIVE_SECONDS);
    uv_os_fd_t fd;
    const unsigned unacknowledged_ms = USER_TIMEOUT_MS; /* a peer that is gone without a word (K14) */
    if (uv_fileno((const uv_handle_t *)&s->tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof unacknowledged_ms);
}

void stream_accepted(struct stream *s)
{
    connection_stands(s);
    s->deadline_ns = loop_now(s->loop) + STREAM_CONNECT_DEFAULT_NS;
    loop_defer(s->loop, &s->task);
}

/* ---- connecting ---- */

static void try_next(struct stream *s);

static void on_tcp_closed(uv_handle_t *handle)
{
    struct stream *s = handle->data;
    s->loop->handles--;
    s->holds--;
    s->tcp_open = false;
    if (stream_state(s) == STATE_RETRYING && s->path != NULL)
        loop_timer_start(&s->timer, QUEUE_PAUSE_NS);
    else if (stream_state(s) == STATE_RETRYING)
        try_next(s);
    else if (stream_state(s) == STATE_CLOSING)
        loop_defer(s->loop, &s->task);
}

static void tcp_close(struct stream *s)
{
    if (s->tcp_open && !uv_is_closing((uv_handle_t *)&s->tcp))
        uv_close((uv_handle_t *)&s->tcp, on_tcp_closed);
}

int stream_tcp_init(struct stream *s)
{
    int rc = s->path != NULL ? uv_pipe_init(&s->loop->uv, &s->pipe, 0) : uv_tcp_init(&s->loop->uv, &s->tcp);
    if (rc != 0)
        return rc;
    s->tcp.data = s;
    s->tcp_open = true;
    s->holds++;
    s->loop->handles++;
    return 0;
}

static void attempt_failed(struct stream *s, enum err_code code, const char *why)
{
    struct err err = {0};
    const char *address = s->addresses.address[s->next_address - 1];
    const char *what = s->proxy != NULL ? "the proxy " : "";
    if (strcmp(address, s->host) == 0)
        err_set(&err, code, "cannot connect to %s%s port %d: %s", what, s->host, s->port, why);
    else
        err_set(&err, code, "cannot connect to %s%s (%s) port %d: %s", what, s->host, address, s->port, why);
    if (s->next_address >= s->addresses.count || loop_now(s->loop) >= s->deadline_ns) {
        stream_fail(s, &err);
        return;
    }
    sm_move(&s->sm, STATE_RETRYING);
    loop_timer_stop(&s->timer);
    if (s->tcp_open)
        tcp_close(s);
    else
        try_next(s);
}

/* A Unix socket refuses at once what TCP would wait for. */
static void path_failed(struct stream *s, int code)
{
    struct err err = {0};
    if (code == UV_EAGAIN && loop_now(s->loop) < s->deadline_ns) {
        sm_move(&s->sm, STATE_RETRYING);
        loop_timer_stop(&s->timer);
        tcp_close(s);
        return;
    }
    if (code == UV_EAGAIN || code == UV_ETIMEDOUT)
        err_set(&err, ERRC_TIMEOUT, "cannot connect to %s: it takes no connections (its queue is full)",
                s->path);
    else
        err_set(&err, ERRC_UNAVAILABLE, "cannot connect to %s: %s", s->path, uv_strerror(code));
    stream_fail(s, &err);
}

static void on_connect(uv_connect_t *connect, int status)
{
    struct stream *s = connect->data;
    (void)loop_now(s->loop);
    if (stream_state(s) != STATE_CONNECTING)
        return; /* the handle is being closed */
    if (status != 0 && s->path != NULL) {
        path_failed(s, status);
        return;
    }
    if (status != 0) {
        attempt_failed(s, status == UV_ETIMEDOUT ? ERRC_TIMEOUT : ERRC_UNAVAILABLE, uv_strerror(status));
        return;
    }
    connection_stands(s);
    if (s->proxy == NULL)
        connected_through(s);
    else if (s->proxy->tls)
        enter_tunneling(s);
    else
        enter_proxying(s);
}

static int attempt(struct stream *s, const char *address)
{
    struct sockaddr_storage to;
    int rc = 0;
    if (s->path != NULL) {
        rc = stream_tcp_init(s);
        if (rc == 0)
            uv_pipe_connect(&s->connect, &s->pipe, s->path, on_connect);
        return rc;
    }
    rc = uv_ip4_addr(address, s->port, (struct sockaddr_in *)(void *)&to);
    if (rc != 0)
        rc = uv_ip6_addr(address, s->port, (struct sockaddr_in6 *)(void *)&to);
    if (rc == 0)
        rc = stream_tcp_init(s);
    if (rc == 0)
        rc = uv_tcp_connect(&s->connect, &s->tcp, (const struct sockaddr *)&to, on_connect);
    return rc;
}

/* Each address gets an equal part of the time that is left, so that a silent first one leaves some. */
static void try_next(struct stream *s)
{
    sm_move(&s->sm, STATE_CONNECTING);
    uint64_t now = loop_now(s->loop);
    uint64_t left = s->deadline_ns > now ? s->deadline_ns - now : 0;
    loop_timer_start(&s->timer, left / (uint64_t)(s->addresses.count - s->next_address));
    int rc = attempt(s, s->addresses.address[s->next_address++]);
    if (rc != 0 && s->path != NULL)
        path_failed(s, rc);
    else if (rc != 0)
        attempt_failed(s, ERRC_UNAVAILABLE, uv_strerror(rc));
}

static void on_resolved(const struct err *err, const struct resolve_result *result, void *data)
{
    struct stream *s = data;
    s->resolve = NULL;
    s->holds--;
    if (stream_state(s) == STATE_CLOSING) {
        loop_defer(s->loop, &s->task);
    } else if (stream_state(s) == STATE_RESOLVING) {
        if (err != NULL) {
            stream_fail(s, err);
            return;
        }
        s->addresses = *result;
        try_next(s);
    }
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct stream *s = data;
    struct err err = {0};
    switch (stream_state(s)) {
    case STATE_CONNECTING:
        if (s->path != NULL)
            path_failed(s, UV_ETIMEDOUT);
        else
            attempt_failed(s, ERRC_TIMEOUT, "no answer in time");
        break;
    case STATE_RETRYING: /* a Unix socket */
        s->next_address = 0;
        try_next(s);
        break;
    case STATE_RESOLVING:
        err_set(&err, ERRC_TIMEOUT, "cannot connect to %s port %d: name resolution took too long", s->host,
                s->port);
        resolve_cancel(s->resolve);
        stream_fail(s, &err);
        break;
    case STATE_TUNNELING:
        err_set(&err, ERRC_TIMEOUT, "TLS handshake with the proxy %s did not end in time", s->peer);
        stream_fail(s, &err);
        break;
    case STATE_PROXYING:
        err_set(&err, ERRC_TIMEOUT, "the proxy %s did not connect to %s in time", s->peer, s->target);
        stream_fail(s, &err);
        break;
    case STATE_HANDSHAKING:
        err_set(&err, ERRC_TIMEOUT, "TLS handshake with %s did not end in time", s->peer);
        stream_fail(s, &err);
        break;
    case STATE_FINISHING:
        stream_close(s);
        break;
    case STATE_OPEN:
        stream_reading_update(s);
        break;
    default:
        break;
    }
}

/* ---- life ---- */

static void stream_free(struct stream *s)
{
    sm_fini(&s->sm);
    loop_timer_stop(&s->timer);
    stream_tls_free(s);
    stream_tunnel_free(s);
    tls_context_unref(s->tls);
    proxy_end(&s->talk);
    proxy_unref(s->proxy);
    free(s->target);
    free(s->host);
    free(s->path);
    free(s->server_name);
    free(s);
}

static void on_task(struct loop_task *task, void *data)
{
    (void)task;
    struct stream *s = data;
    switch (stream_state(s)) {
    case STATE_RESOLVING: /* a Unix socket */
        try_next(s);
        break;
    case STATE_CLOSING:
        if (s->holds > 0)
            return;
        sm_move(&s->sm, STATE_CLOSED);
        stream_emit(s, STREAM_CLOSED, NULL, 0);
        stream_free(s);
        break;
    case STATE_FAILED:
        error_report(s);
        break;
    case STATE_ACCEPTED:
        if (s->tls != NULL)
            enter_handshaking(s);
        else
            stream_opened(s);
        break;
    case STATE_OPEN:
        if (s->ssl != NULL)
            stream_tls_step(s);
        break;
    default:
        break;
    }
}

struct stream *stream_new(struct loop *loop, struct tls_context *ctx, enum stream_state first)
{
    struct stream *s = mem_zalloc(sizeof *s);
    s->loop = loop;
    s->tls = ctx != NULL ? tls_context_ref(ctx) : NULL;
    s->task.run = on_task;
    s->task.data = s;
    s->connect.data = s;
    s->shutdown.data = s;
    s->write_limit = STREAM_WRITE_LIMIT;
    list_init(&s->waiting);
    loop_timer_init(loop, &s->timer, on_timer, s);
    sm_init(&s->sm, states, STATE_COUNT, (int)first, NULL, s);
    return s;
}

static int connect_path(struct loop *loop, const struct stream_options *o, stream_cb cb, void *data,
                        struct stream **ret, struct err *err)
{
    if (strlen(o->path) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return err_set(err, ERRC_INVALID, "%s is too long for the path of a socket (at most %zu bytes)",
                       o->path, sizeof((struct sockaddr_un *)0)->sun_path - 1);
    struct stream *s = stream_new(loop, o->tls, STATE_RESOLVING);
    s->cb = cb;
    s->data = data;
    s->path = mem_strdup(o->path);
    s->host = mem_strdup(o->path);
    s->server_name = mem_strdup(o->tls_server_name != NULL ? o->tls_server_name : o->host);
    s->addresses.count = 1; /* there is one way to get there */
    if (o->write_limit > 0)
        s->write_limit = o->write_limit;
    s->deadline_ns =
        loop_now(loop) + (o->connect_timeout_ns > 0 ? o->connect_timeout_ns : STREAM_CONNECT_DEFAULT_NS);
    loop_defer(loop, &s->task);
    *ret = s;
    return 0;
}

int stream_connect(struct loop *loop, const struct stream_options *o, stream_cb cb, void *data,
                   struct stream **ret, struct err *err)
{
    if (o->path != NULL)
        return connect_path(loop, o, cb, data, ret, err);
    if (o->port <= 0 || o->port > 65535)
        return err_set(err, ERRC_INVALID, "%d is not a port", o->port);
    if (o->proxy != NULL && o->proxy->tls && o->tls == NULL)
        return err_set(err, ERRC_UNSUPPORTED, "a proxy that is reached by https:// is for https:// only");
    struct stream *s = stream_new(loop, o->tls, STATE_RESOLVING);
    const char *host = o->proxy != NULL ? o->proxy->host : o->host;
    int rc = resolve_start(loop, host, on_resolved, s, &s->resolve, err);
    if (rc != 0) {
        sm_move(&s->sm, STATE_CLOSING);
        sm_move(&s->sm, STATE_CLOSED);
        stream_free(s);
        return rc;
    }
    s->holds++;
    s->cb = cb;
    s->data = data;
    s->host = mem_strdup(host);
    s->port = o->proxy != NULL ? o->proxy->port : o->port;
    s->proxy = proxy_ref(o->proxy);
    s->target = mem_strdup(o->host);
    s->talk.port = o->port;
    s->server_name = mem_strdup(o->tls_server_name != NULL ? o->tls_server_name : o->host);
    if (o->write_limit > 0)
        s->write_limit = o->write_limit;
    s->deadline_ns =
        loop_now(loop) + (o->connect_timeout_ns > 0 ? o->connect_timeout_ns : STREAM_CONNECT_DEFAULT_NS);
    loop_timer_start_at(&s->timer, s->deadline_ns);
    *ret = s;
    return 0;
}

void stream_close(struct stream *s)
{
    if (!sm_may(&s->sm, STATE_CLOSING))
        return;
    sm_move(&s->sm, STATE_CLOSING);
    loop_timer_stop(&s->timer);
    if (s->resolve != NULL)
        resolve_cancel(s->resolve);
    stream_waiting_drop(s);
    tcp_close(s);
    loop_defer(s->loop, &s->task);
}

static void on_shutdown(uv_shutdown_t *shutdown, int status)
{
    struct stream *s = shutdown->data;
    if (stream_state(s) != STATE_FINISHING)
        return;
    if (status != 0 || s->peer_ended)
        stream_close(s);
    else
        loop_timer_start(&s->timer, LINGER_NS);
}

void stream_finish(struct stream *s)
{
    if (!sm_may(&s->sm, STATE_FINISHING)) {
        if (stream_state(s) != STATE_FINISHING)
            stream_close(s);
        return;
    }
    stream_tls_shutdown(s);
    stream_tunnel_shutdown(s);
    if (!sm_may(&s->sm, STATE_FINISHING)) {
        stream_close(s);
        return;
    }
    sm_move(&s->sm, STATE_FINISHING);
    loop_timer_start(&s->timer, FINISH_NS);
    stream_reading_update(s);
    if (uv_shutdown(&s->shutdown, (uv_stream_t *)&s->tcp, on_shutdown) != 0)
        stream_close(s);
}

void stream_set_callback(struct stream *s, stream_cb cb, void *data)
{
    s->cb = cb;
    s->data = data;
}

const char *stream_peer(const struct stream *s)
{
    return s->peer;
}
