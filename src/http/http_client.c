#include "http/http_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/sm.h"
#include "http/http_parse.h"
#include "http/http_pool.h"
#include "http/http_url.h"

#define DEFAULT_TIMEOUT_NS (30 * ENV_NS_PER_S)
#define DEFAULT_BODY_LIMIT (16u * 1024u * 1024u)

/*
 * State       waits for                            woken by
 * CONNECTING  the connection (new ones only)       pool: connected, failed; call timer
 * SENT        the first byte of the answer         pool: data, ended, failed; call timer
 * RECEIVING   the end of the answer                pool: data, ended, failed; call timer, idle timer
 * DONE        the end of this turn                 task: runs the callback, frees the call
 * SENT goes back to CONNECTING once, when a kept connection turned out to be stale (H5).
 */
enum { CALL_CONNECTING, CALL_SENT, CALL_RECEIVING, CALL_DONE, CALL_ENDED, CALL_STATES };

static const struct sm_state call_table[CALL_STATES] = {
    [CALL_CONNECTING] = {"connecting", SM_NEXT(CALL_SENT) | SM_NEXT(CALL_DONE), false},
    [CALL_SENT] = {"sent", SM_NEXT(CALL_CONNECTING) | SM_NEXT(CALL_RECEIVING) | SM_NEXT(CALL_DONE), false},
    [CALL_RECEIVING] = {"receiving", SM_NEXT(CALL_DONE), false},
    [CALL_DONE] = {"done", SM_NEXT(CALL_ENDED), false},
    [CALL_ENDED] = {"ended", 0, true},
};

struct http_client {
    struct loop *loop;
    struct http_pool *pool;
    char *socket; /* NULL = TCP */
    struct list calls;
    int running; /* calls whose callback has not returned */
    bool closing;
    bool pool_closed;
    struct loop_task closed_task;
    void (*closed)(void *data);
    void *closed_data;
};

struct http_call {
    struct http_client *client;
    struct list node;
    struct sm sm;
    struct http_url url;
    struct pool_conn *conn;
    struct buf request; /* kept for a second attempt */
    struct http_parser parser;
    struct buf body;
    struct err err;
    struct loop_timer timer;
    struct loop_timer idle_timer;
    uint64_t timeout_ns;
    uint64_t idle_timeout_ns;
    struct loop_task task;
    bool idempotent;
    bool retried;
    char *label; /* "GET http://host/path" for errors, without the query, which may hold secrets */
    void (*on_body)(struct http_call *call, int status, const char *bytes, size_t length, void *data);
    http_answer_cb cb;
    void *data;
};

static void client_check_closed(struct http_client *client)
{
    if (client->closing && client->running == 0 && client->pool_closed) {
        loop_defer(client->loop, &client->closed_task);
    }
}

static void client_closed(struct loop_task *task, void *data)
{
    (void)task;
    struct http_client *client = data;
    void (*closed)(void *data) = client->closed;
    void *closed_data = client->closed_data;
    free(client->socket);
    free(client);
    if (closed != NULL) {
        closed(closed_data);
    }
}

static void client_pool_closed(void *data)
{
    struct http_client *client = data;
    client->pool_closed = true;
    client_check_closed(client);
}

/* ---- the end of a call ---- */

static void call_free(struct http_call *call)
{
    loop_timer_stop(&call->timer);
    loop_timer_stop(&call->idle_timer);
    loop_task_cancel(&call->task);
    http_parser_free(&call->parser);
    buf_free(&call->body);
    buf_free(&call->request);
    free(call->label);
    free(call);
}

static void call_report(struct loop_task *task, void *data)
{
    (void)task;
    struct http_call *call = data;
    struct http_client *client = call->client;
    bool failed = call->err.code != ERRC_NONE;
    const struct http_answer answer = {
        .err = failed ? &call->err : NULL,
        .status = failed ? 0 : http_parser_status(&call->parser),
        .body = buf_text(&call->body),
        .body_length = call->body.length,
        .call = call,
    };
    sm_move(&call->sm, CALL_ENDED);
    sm_fini(&call->sm);
    list_remove(&call->node);
    call->cb(&answer, call->data);
    call_free(call);
    client->running--;
    client_check_closed(client);
}

/* The one way out: err NULL = a complete answer. The connection is kept if `reusable`. */
static void call_finish(struct http_call *call, const struct err *err, bool reusable)
{
    if (sm_now(&call->sm) >= CALL_DONE) {
        return;
    }
    sm_move(&call->sm, CALL_DONE);
    loop_timer_stop(&call->timer);
    loop_timer_stop(&call->idle_timer);
    if (call->conn != NULL) {
        pool_conn_release(call->conn, reusable);
        call->conn = NULL;
    }
    if (err != NULL) {
        err_copy(&call->err, err);
        err_wrap(&call->err, "%s", call->label);
    }
    loop_defer(call->client->loop, &call->task);
}

static void call_fail(struct http_call *call, enum err_code code, const char *why)
{
    struct err err = {0};
    err_set(&err, code, "%s", why);
    call_finish(call, &err, false);
}

/* ---- attempts ---- */

static const struct pool_conn_user call_conn_user;

static void call_send(struct http_call *call)
{
    struct err err = {0};
    sm_move(&call->sm, CALL_SENT);
    if (pool_conn_write(call->conn, call->request.data, call->request.length, &err) != 0) {
        call_finish(call, &err, false);
    }
}

static void call_connected(void *data)
{
    call_send(data);
}

static int call_connect(struct http_call *call, struct err *err)
{
    return pool_connect(call->client->pool, &call->url, call->timeout_ns, &call_conn_user, call, &call->conn,
                        err);
}

/* Kept connections that do not even take the request are dropped one after the other. */
static bool call_send_kept(struct http_call *call)
{
    while ((call->conn = pool_take(call->client->pool, &call->url, &call_conn_user, call)) != NULL) {
        if (pool_conn_write(call->conn, call->request.data, call->request.length, NULL) == 0) {
            sm_move(&call->sm, CALL_SENT);
            return true;
        }
        pool_conn_release(call->conn, false);
    }
    return false;
}

/* H5: the server may have closed a kept connection before it saw the request. Once, and only if repeating is
 * safe. */
static bool call_retry(struct http_call *call)
{
    if (sm_now(&call->sm) != CALL_SENT || !pool_conn_was_kept(call->conn) || call->retried ||
        !call->idempotent) {
        return false;
    }
    struct err err = {0};
    call->retried = true;
    pool_conn_release(call->conn, false);
    call->conn = NULL;
    sm_move(&call->sm, CALL_CONNECTING);
    if (call_connect(call, &err) != 0) {
        call_finish(call, &err, false);
    }
    return true;
}

static void call_ended(void *data)
{
    struct http_call *call = data;
    if (sm_now(&call->sm) == CALL_SENT) {
        if (!call_retry(call)) {
            call_fail(call, ERRC_CLOSED,
                      "the connection was closed before the answer; whether it was done is unknown");
        }
        return;
    }
    switch (http_parser_finish(&call->parser)) {
    case HTTP_FEED_DONE:
        call_finish(call, NULL, false);
        break;
    default:
        call_fail(call, ERRC_CLOSED, "the connection was closed in the middle of the answer");
    }
}

static void call_conn_failed(const struct err *err, void *data)
{
    struct http_call *call = data;
    if (!call_retry(call)) {
        call_finish(call, err, false);
    }
}

/* ---- the answer ---- */

static bool on_answer_head(struct http_parser *p, void *data)
{
    (void)p;
    struct http_call *call = data;
    if (call->idle_timeout_ns != 0) {
        loop_timer_start(&call->idle_timer, call->idle_timeout_ns);
    }
    return true;
}

static bool on_answer_body(struct http_parser *p, const char *bytes, size_t length, void *data)
{
    struct http_call *call = data;
    if (call->on_body != NULL) {
        call->on_body(call, http_parser_status(p), bytes, length, call->data);
    } else if (!buf_add(&call->body, bytes, length)) {
        char why[64];
        snprintf(why, sizeof why, "the answer is larger than %zu bytes", call->body.limit);
        call_fail(call, ERRC_LIMIT, why);
    }
    return sm_now(&call->sm) == CALL_RECEIVING; /* on_body may cancel */
}

static const struct http_parser_hooks answer_hooks = {on_answer_head, on_answer_body};

static void call_data(const char *bytes, size_t length, void *data)
{
    struct http_call *call = data;
    size_t used = 0;
    if (sm_now(&call->sm) == CALL_SENT) {
        sm_move(&call->sm, CALL_RECEIVING);
    }
    if (loop_timer_armed(&call->idle_timer)) {
        loop_timer_start(&call->idle_timer, call->idle_timeout_ns);
    }
    switch (http_parser_feed(&call->parser, bytes, length, &used)) {
    case HTTP_FEED_DONE:
        /* bytes beyond the answer were never asked for: such a connection is not used again */
        call_finish(call, NULL, call->parser.keep_alive && used == length);
        break;
    case HTTP_FEED_FAULT:
        call_fail(call, ERRC_PROTOCOL, call->parser.fault.text);
        break;
    default:
        break;
    }
}

static const struct pool_conn_user call_conn_user = {call_connected, call_data, call_ended, call_conn_failed};

static void call_timeout(struct loop_timer *timer, void *data)
{
    (void)timer;
    call_fail(data, ERRC_TIMEOUT, "no complete answer in time");
}

static void call_idle(struct loop_timer *timer, void *data)
{
    (void)timer;
    call_fail(data, ERRC_TIMEOUT, "the answer stopped coming");
}

/* ---- making the request ---- */

static bool is_token(const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (!http_is_token_byte((unsigned char)*p)) {
            return false;
        }
    }
    return text[0] != '\0';
}

static bool is_field_value(const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool is_ours(const char *name)
{
    return strcasecmp(name, "content-length") == 0 || strcasecmp(name, "transfer-encoding") == 0 ||
           strcasecmp(name, "connection") == 0 || strcasecmp(name, "expect") == 0;
}

static int headers_check(const struct http_call_options *o, bool *ret_has_host, struct err *err)
{
    *ret_has_host = false;
    for (int i = 0; i < o->header_count; i++) {
        const struct http_header *h = &o->headers[i];
        if (!is_token(h->name) || is_ours(h->name)) {
            return err_set(err, ERRC_INVALID, "header \"%s\" cannot be set", h->name);
        }
        if (!is_field_value(h->value)) {
            return err_set(err, ERRC_INVALID, "the value of header \"%s\" holds a control byte", h->name);
        }
        *ret_has_host = *ret_has_host || strcasecmp(h->name, "host") == 0;
    }
    return 0;
}

static int request_build(const struct http_call_options *o, const struct http_url *url, struct buf *out,
                         struct err *err)
{
    bool has_host;
    if (!is_token(o->method) || strcmp(o->method, "CONNECT") == 0) {
        return err_set(err, ERRC_INVALID, "method \"%s\" cannot be used", o->method);
    }
    int code = headers_check(o, &has_host, err);
    if (code != 0) {
        return code;
    }
    const char *slash = url->target[0] == '/' ? "" : "/";
    buf_printf(out, "%s %s%s HTTP/1.1\r\n", o->method, slash, url->target);
    if (!has_host) {
        char authority[HTTP_AUTHORITY_SIZE];
        http_url_authority(url, authority);
        buf_printf(out, "Host: %s\r\n", authority);
    }
    for (int i = 0; i < o->header_count; i++) {
        buf_printf(out, "%s: %s\r\n", o->headers[i].name, o->headers[i].value);
    }
    bool may_have_body = o->method[0] == 'P'; /* POST, PUT, PATCH */
    if (o->body != NULL || may_have_body) {
        buf_printf(out, "Content-Length: %zu\r\n", o->body != NULL ? o->body_length : 0);
    }
    buf_add_text(out, "\r\n");
    if (o->body != NULL) {
        buf_add(out, o->body, o->body_length);
    }
    return 0;
}

static bool method_is_idempotent(const char *method)
{
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(method, methods[i]) == 0) {
            return true;
        }
    }
    return false;
}

static struct http_call *call_new(struct http_client *client, const struct http_call_options *o,
                                  const struct http_url *url, struct buf *request)
{
    struct http_call *call = mem_zalloc(sizeof *call);
    char authority[HTTP_AUTHORITY_SIZE];
    http_url_authority(url, authority);
    call->client = client;
    call->url = *url;
    call->label = client->socket != NULL
                      ? mem_printf("%s unix://%s%.*s", o->method, client->socket,
                                   (int)strcspn(url->target, "?"), url->target)
                      : mem_printf("%s %s://%s%.*s", o->method, url->tls ? "https" : "http", authority,
                                   (int)strcspn(url->target, "?"), url->target);
    call->url.target = NULL;
    call->request = *request;
    call->timeout_ns = o->timeout_ns != 0 ? o->timeout_ns : DEFAULT_TIMEOUT_NS;
    call->idle_timeout_ns = o->idle_timeout_ns;
    call->body.limit = o->body_limit != 0 ? o->body_limit : DEFAULT_BODY_LIMIT;
    call->idempotent = method_is_idempotent(o->method);
    call->on_body = o->on_body;
    call->task.run = call_report;
    call->task.data = call;
    list_init(&call->node);
    sm_init(&call->sm, call_table, CALL_STATES, CALL_CONNECTING, NULL, call);
    loop_timer_init(client->loop, &call->timer, call_timeout, call);
    loop_timer_init(client->loop, &call->idle_timer, call_idle, call);
    http_parser_init(&call->parser, false, &answer_hooks, call);
    call->parser.head_request = strcmp(o->method, "HEAD") == 0;
    return call;
}

int http_call_start(struct http_client *client, const struct http_call_options *options, http_answer_cb cb,
                    void *data, struct http_call **ret, struct err *err)
{
    struct http_url url;
    struct buf request = {0};
    if (client->closing) {
        return err_set(err, ERRC_CLOSED, "the HTTP client is being closed");
    }
    int code = http_url_parse(options->url, &url, err);
    if (code == 0) {
        code = request_build(options, &url, &request, err);
    }
    if (code != 0) {
        buf_free(&request);
        return code;
    }
    struct http_call *call = call_new(client, options, &url, &request);
    if (!call_send_kept(call)) {
        code = call_connect(call, err);
        if (code != 0) {
            err_wrap(err, "%s", call->label);
            call_free(call);
            return code;
        }
    }
    call->cb = cb;
    call->data = data;
    if (call->timeout_ns != UINT64_MAX) {
        loop_timer_start(&call->timer, call->timeout_ns);
    }
    list_append(&client->calls, &call->node);
    client->running++;
    if (ret != NULL) {
        *ret = call;
    }
    return 0;
}

void http_call_cancel(struct http_call *call)
{
    if (call != NULL) {
        call_fail(call, ERRC_CANCELED, "canceled");
    }
}

void http_call_gather(struct http_call *call, uint64_t pause_ns)
{
    if (call->conn != NULL) {
        pool_conn_gather(call->conn, pause_ns);
    }
}

const char *http_answer_header(const struct http_call *call, const char *name)
{
    return http_parser_field(&call->parser, name);
}

/* ---- the client ---- */

struct http_client *http_client_new(struct loop *loop, struct tls_context *tls)
{
    struct http_client *client = mem_zalloc(sizeof *client);
    client->loop = loop;
    client->pool = pool_new(loop, tls);
    client->closed_task.run = client_closed;
    client->closed_task.data = client;
    list_init(&client->calls);
    return client;
}

void http_client_set_server_name(struct http_client *client, const char *name)
{
    pool_set_server_name(client->pool, name);
}

void http_client_set_socket(struct http_client *client, const char *path)
{
    free(client->socket);
    client->socket = mem_strdup(path);
    pool_set_socket(client->pool, path);
}

void http_client_set_proxy(struct http_client *client, struct proxy *proxy)
{
    pool_set_proxy(client->pool, proxy);
}

void http_client_close(struct http_client *client, void (*closed)(void *data), void *data)
{
    if (client == NULL || client->closing) {
        return;
    }
    client->closing = true;
    client->closed = closed;
    client->closed_data = data;
    list_each(node, &client->calls)
    {
        http_call_cancel(list_item(node, struct http_call, node));
    }
    pool_close(client->pool, client_pool_closed, client);
}
