#include "http/http_conn.h"

#include <stdlib.h>
#include <strings.h>

#include "base/mem.h"
#include "http/http_exchange.h"
#include "http/http_url.h"

/*
 * State      waits for                       woken by
 * OPENING    TLS handshake                   STREAM_CONNECTED, timer (header timeout)
 * IDLE       first byte of a request         STREAM_DATA, timer (idle timeout)
 * HEAD       end of the headers              STREAM_DATA, timer (header timeout, from the first byte)
 * BODY       end of the body                 STREAM_DATA, timer (body timeout)
 * HANDLING   the handler's answer            exchange `answered`
 * WRITING    the answer to reach the kernel  STREAM_DRAINED, timer (no progress for the idle timeout)
 * STREAMING  the end of an open-ended answer exchange `finished`, STREAM_EOF
 * CLOSING    the stream to go                STREAM_CLOSED
 * Every state but CLOSED may move to CLOSING: EOF, error, timer, or the server closes.
 */
enum {
    CONN_OPENING,
    CONN_IDLE,
    CONN_HEAD,
    CONN_BODY,
    CONN_HANDLING,
    CONN_WRITING,
    CONN_STREAMING,
    CONN_CLOSING,
    CONN_CLOSED,
    CONN_STATES
};

/* A fault can end a request anywhere: its problem document goes out from WRITING. */
static const struct sm_state conn_table[CONN_STATES] = {
    [CONN_OPENING] = {"opening", SM_NEXT(CONN_IDLE) | SM_NEXT(CONN_WRITING) | SM_NEXT(CONN_CLOSING), false},
    [CONN_IDLE] = {"idle", SM_NEXT(CONN_HEAD) | SM_NEXT(CONN_CLOSING), false},
    [CONN_HEAD] = {"head",
                   SM_NEXT(CONN_BODY) | SM_NEXT(CONN_HANDLING) | SM_NEXT(CONN_WRITING) |
                       SM_NEXT(CONN_CLOSING),
                   false},
    [CONN_BODY] = {"body", SM_NEXT(CONN_HANDLING) | SM_NEXT(CONN_WRITING) | SM_NEXT(CONN_CLOSING), false},
    [CONN_HANDLING] = {"handling", SM_NEXT(CONN_WRITING) | SM_NEXT(CONN_STREAMING) | SM_NEXT(CONN_CLOSING),
                       false},
    [CONN_WRITING] = {"writing", SM_NEXT(CONN_IDLE) | SM_NEXT(CONN_CLOSING), false},
    [CONN_STREAMING] = {"streaming", SM_NEXT(CONN_CLOSING), false},
    [CONN_CLOSING] = {"closing", SM_NEXT(CONN_CLOSED), false},
    [CONN_CLOSED] = {"closed", 0, true},
};

#define KEPT_LIMIT (64u * 1024u)

static void conn_parse(struct http_conn *conn, const char *data, size_t length);
static void conn_eof(struct http_conn *conn);

/* The one way to change the state; arms the timer of the new one, 0 = none. */
static void conn_move(struct http_conn *conn, int state, uint64_t timeout_ns)
{
    sm_move(&conn->sm, state);
    loop_timer_stop(&conn->timer);
    if (timeout_ns != 0) {
        loop_timer_start(&conn->timer, timeout_ns);
    }
}

/* Lets go of the exchange: an unanswered one now belongs to its handler. */
static void conn_drop_exchange(struct http_conn *conn)
{
    struct http_exchange *ex = conn->ex;
    if (ex != NULL) {
        conn->ex = NULL;
        exchange_lost(ex);
    }
}

static void conn_close(struct http_conn *conn, bool orderly)
{
    if (sm_now(&conn->sm) >= CONN_CLOSING) {
        return;
    }
    conn_move(conn, CONN_CLOSING, 0);
    conn_drop_exchange(conn);
    buf_free(&conn->kept);
    if (orderly) {
        stream_finish(conn->stream);
    } else {
        stream_close(conn->stream);
    }
}

/* ---- requests ---- */

/* Ends the conversation with a problem document that the handler never sees. */
static void conn_refuse(struct http_conn *conn, int status, const char *code, const char *text)
{
    conn->ex->keep_alive = false;
    conn->ex->handed_out = true;
    http_problem(conn->ex, status, code, "%s", text);
}

static bool request_set_fault(struct http_exchange *ex, int status, const char *code, const char *text)
{
    ex->parser.fault.status = status;
    ex->parser.fault.code = code;
    ex->parser.fault.text = text;
    return false;
}

static bool on_request_head(struct http_parser *p, void *data)
{
    struct http_exchange *ex = data;
    struct http_conn *conn = ex->owner;
    const char *expect = http_parser_field(p, "expect");
    uint64_t length = http_parser_content_length(p);
    ex->request.method = http_parser_method(p);
    ex->head_only = p->ll.method == HTTP_HEAD;
    if (length != UINT64_MAX && length > conn->server->options.body_limit) {
        return request_set_fault(ex, 413, "body_too_large", "the body is larger than this server takes");
    }
    if (expect != NULL && strcasecmp(expect, "100-continue") != 0) {
        return request_set_fault(ex, 417, "expectation_failed", "only the expectation 100-continue is known");
    }
    if (expect != NULL && http_parser_expects_body(p) && p->ll.http_minor > 0) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        stream_write(ex->stream, go_on, sizeof go_on - 1, NULL); /* a failure shows up as STREAM_ERROR */
    }
    conn_move(conn, CONN_BODY, conn->server->options.body_timeout_ns);
    return true;
}

static bool on_request_body(struct http_parser *p, const char *bytes, size_t length, void *data)
{
    (void)p;
    struct http_exchange *ex = data;
    if (!buf_add(&ex->body, bytes, length)) {
        return request_set_fault(ex, 413, "body_too_large", "the body is larger than this server takes");
    }
    return true;
}

static const struct http_parser_hooks request_hooks = {on_request_head, on_request_body};

static void conn_handle(struct http_conn *conn)
{
    struct http_exchange *ex = conn->ex;
    char *path;
    char *query;
    ex->keep_alive = ex->parser.keep_alive && (!conn->eof || conn->kept.length > 0) && !conn->server->closing;
    if (!http_target_split(http_parser_target(&ex->parser), &path, &query)) {
        conn_refuse(conn, 400, "bad_request", "malformed request target");
        return;
    }
    ex->request.path = path;
    ex->request.query = query;
    ex->request.body = buf_text(&ex->body);
    ex->request.body_length = ex->body.length;
    ex->request.peer = stream_peer(conn->stream);
    ex->handed_out = true;
    conn_move(conn, CONN_HANDLING, 0);
    conn->server->handler(ex, &ex->request, conn->server->data);
}

static void conn_answered(struct http_exchange *ex, void *owner)
{
    struct http_conn *conn = owner;
    if (ex->streaming) {
        conn_move(conn, CONN_STREAMING, 0);
    } else {
        conn_move(conn, CONN_WRITING, conn->server->options.idle_timeout_ns);
    }
}

/* The answer is written: next request, or the end of the conversation. */
static void conn_finished(struct http_exchange *ex, void *owner)
{
    struct http_conn *conn = owner;
    bool keep =
        ex->keep_alive && !ex->broken && !conn->server->closing && (!conn->eof || conn->kept.length > 0);
    bool broken = ex->broken;
    conn->ex = NULL;
    exchange_free(ex);
    if (!keep) {
        conn_close(conn, !broken);
        return;
    }
    conn_move(conn, CONN_IDLE, conn->server->options.idle_timeout_ns);
    struct buf kept = conn->kept;
    conn->kept = (struct buf){0};
    conn_parse(conn, kept.data, kept.length);
    buf_free(&kept);
    if (conn->eof && sm_now(&conn->sm) <= CONN_BODY) {
        conn_eof(conn);
    }
}

static const struct http_exchange_owner conn_exchange_owner = {conn_answered, conn_finished};

static struct http_exchange *conn_exchange_new(struct http_conn *conn)
{
    conn->ex = exchange_new(conn->server->loop, conn->stream, &conn_exchange_owner, conn, &request_hooks);
    conn->ex->body.limit = conn->server->options.body_limit;
    return conn->ex;
}

/* Bytes that came while a request is being answered wait here; beyond the limit, in the kernel. */
static void conn_keep(struct http_conn *conn, const char *data, size_t length)
{
    if (length == 0) {
        return;
    }
    buf_add(&conn->kept, data, length);
    if (conn->kept.length > KEPT_LIMIT && !conn->paused) {
        conn->paused = true;
        stream_pause(conn->stream);
    }
}

static void conn_parse(struct http_conn *conn, const char *data, size_t length)
{
    size_t used = 0;
    if (conn->paused) {
        conn->paused = false;
        stream_resume(conn->stream);
    }
    if (length == 0) {
        return;
    }
    if (conn->ex == NULL) {
        conn_exchange_new(conn);
        conn_move(conn, CONN_HEAD, conn->server->options.header_timeout_ns);
    }
    enum http_feed fed = http_parser_feed(&conn->ex->parser, data, length, &used);
    if (fed == HTTP_FEED_MORE) {
        return;
    }
    if (fed == HTTP_FEED_DONE) {
        conn_keep(conn, data + used, length - used);
        conn_handle(conn);
        return;
    }
    const struct http_fault *fault = &conn->ex->parser.fault;
    conn_refuse(conn, fault->status, fault->code, fault->text);
}

/* ---- events of the stream ---- */

static void conn_data(struct http_conn *conn, const char *data, size_t length)
{
    switch (sm_now(&conn->sm)) {
    case CONN_IDLE:
    case CONN_HEAD:
    case CONN_BODY:
        conn_parse(conn, data, length);
        break;
    case CONN_HANDLING:
    case CONN_WRITING:
        conn_keep(conn, data, length);
        break;
    default:
        break; /* nothing that comes now will be read */
    }
}

static void conn_eof(struct http_conn *conn)
{
    conn->eof = true;
    switch (sm_now(&conn->sm)) {
    case CONN_HEAD:
    case CONN_BODY:
        http_parser_finish(&conn->ex->parser);
        conn_refuse(conn, 400, "truncated", "the connection ended in the middle of a request");
        break;
    case CONN_HANDLING:
        /* half-closed clients still read; one whose handler wants to know is taken for gone */
        if (conn->ex->lost != NULL) {
            conn_close(conn, false);
        }
        break;
    case CONN_WRITING:
        break;
    default:
        conn_close(conn, true);
    }
}

static void conn_connected(struct http_conn *conn)
{
    if (!conn->refused) {
        conn_move(conn, CONN_IDLE, conn->server->options.idle_timeout_ns);
        return;
    }
    conn_exchange_new(conn);
    conn_refuse(conn, 503, "too_many_connections", "this server has as many connections as it takes");
}

static void conn_drained(struct http_conn *conn)
{
    if (sm_now(&conn->sm) == CONN_WRITING) {
        loop_timer_start(&conn->timer, conn->server->options.idle_timeout_ns);
    }
    if (conn->ex != NULL) {
        exchange_drained(conn->ex);
    }
}

static void conn_gone(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    if (sm_now(&conn->sm) != CONN_CLOSING) {
        conn_move(conn, CONN_CLOSING, 0);
        conn_drop_exchange(conn);
    }
    sm_move(&conn->sm, CONN_CLOSED);
    sm_fini(&conn->sm);
    http_server_conn_gone(server, conn);
    buf_free(&conn->kept);
    free(conn);
}

static void conn_event(struct stream *s, const struct stream_input *in, void *data)
{
    (void)s;
    struct http_conn *conn = data;
    switch (in->event) {
    case STREAM_CONNECTED:
        if (sm_now(&conn->sm) == CONN_OPENING) {
            conn_connected(conn);
        }
        break;
    case STREAM_DATA:
        conn_data(conn, in->data, in->length);
        break;
    case STREAM_DRAINED:
        conn_drained(conn);
        break;
    case STREAM_EOF:
        if (sm_now(&conn->sm) < CONN_CLOSING) {
            conn_eof(conn);
        }
        break;
    case STREAM_ERROR:
        conn_close(conn, false);
        break;
    case STREAM_CLOSED:
        conn_gone(conn);
        break;
    }
}

static void conn_timeout(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct http_conn *conn = data;
    switch (sm_now(&conn->sm)) {
    case CONN_HEAD:
        conn_refuse(conn, 408, "timeout", "the headers did not arrive in time");
        break;
    case CONN_BODY:
        conn_refuse(conn, 408, "timeout", "the body did not arrive in time");
        break;
    case CONN_IDLE:
        conn_close(conn, true);
        break;
    default:
        conn_close(conn, false);
    }
}

void http_conn_new(struct http_server *server, struct stream *stream, bool refused)
{
    struct http_conn *conn = mem_zalloc(sizeof *conn);
    conn->server = server;
    conn->stream = stream;
    conn->refused = refused;
    sm_init(&conn->sm, conn_table, CONN_STATES, CONN_OPENING, NULL, conn);
    loop_timer_init(server->loop, &conn->timer, conn_timeout, conn);
    loop_timer_start(&conn->timer, server->options.header_timeout_ns);
    list_append(&server->conns, &conn->node);
    stream_set_callback(stream, conn_event, conn);
}

void http_conn_shutdown(struct http_conn *conn, bool force)
{
    int state = sm_now(&conn->sm);
    bool busy = state == CONN_HEAD || state == CONN_BODY || state == CONN_HANDLING || state == CONN_WRITING;
    if (force || !busy) {
        conn_close(conn, !force);
    } else if (conn->ex != NULL) {
        conn->ex->keep_alive = false;
    }
}
