#include "http/http_pool.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/list.h"
#include "base/mem.h"
#include "loop/proxy.h"
#include "loop/stream.h"
#include "loop/tls.h"

#define IDLE_MAX           8
#define IDLE_NS            (30 * ENV_NS_PER_S)
#define CONNECT_TIMEOUT_NS (10 * ENV_NS_PER_S)
#define WRITE_LIMIT        (64u * 1024u * 1024u) /* request bodies are our own */

struct http_pool {
    struct loop *loop;
    struct tls_context *tls;
    char *server_name;
    char *socket;
    struct proxy *proxy;
    struct list idle; /* the newest last */
    int open;         /* connections not yet gone, and the pool itself until pool_close() */
    bool closing;
    struct loop_task closed_task;
    void (*closed)(void *data);
    void *closed_data;
};

struct pool_conn {
    struct http_pool *pool;
    struct stream *stream;
    struct list node; /* in pool.idle while idle */
    struct loop_timer timer;
    const struct pool_conn_user *user; /* NULL: idle, or closing */
    void *data;
    char host[256];
    int port;
    bool tls;
    bool kept;
    bool closing;
};

static void pool_unref(struct http_pool *pool)
{
    if (--pool->open == 0) {
        loop_defer(pool->loop, &pool->closed_task);
    }
}

static void pool_gone(struct loop_task *task, void *data)
{
    (void)task;
    struct http_pool *pool = data;
    void (*closed)(void *data) = pool->closed;
    void *closed_data = pool->closed_data;
    tls_context_unref(pool->tls);
    free(pool->server_name);
    free(pool->socket);
    proxy_unref(pool->proxy);
    free(pool);
    closed(closed_data);
}

static void conn_close(struct pool_conn *conn)
{
    conn->user = NULL;
    conn->closing = true;
    loop_timer_stop(&conn->timer);
    list_remove(&conn->node);
    stream_close(conn->stream);
}

static void conn_expired(struct loop_timer *timer, void *data)
{
    (void)timer;
    conn_close(data);
}

static void conn_gone(struct pool_conn *conn)
{
    struct http_pool *pool = conn->pool;
    loop_timer_stop(&conn->timer);
    list_remove(&conn->node);
    free(conn);
    pool_unref(pool);
}

static void conn_event(struct stream *s, const struct stream_input *in, void *data)
{
    (void)s;
    struct pool_conn *conn = data;
    if (in->event == STREAM_CLOSED) {
        conn_gone(conn);
        return;
    }
    if (conn->closing || in->event == STREAM_DRAINED) {
        return;
    }
    if (conn->user == NULL) {
        conn_close(conn); /* idle: whatever comes makes it useless */
        return;
    }
    switch (in->event) {
    case STREAM_CONNECTED:
        conn->user->connected(conn->data);
        break;
    case STREAM_DATA:
        conn->user->data(in->data, in->length, conn->data);
        break;
    case STREAM_EOF:
        conn->user->ended(conn->data);
        break;
    default:
        conn->user->failed(in->err, conn->data);
    }
}

static bool conn_is_for(const struct pool_conn *conn, const struct http_url *url)
{
    return conn->port == url->port && conn->tls == url->tls && strcasecmp(conn->host, url->host) == 0;
}

struct pool_conn *pool_take(struct http_pool *pool, const struct http_url *url,
                            const struct pool_conn_user *user, void *data)
{
    struct pool_conn *found = NULL;
    list_each(node, &pool->idle)
    {
        struct pool_conn *conn = list_item(node, struct pool_conn, node);
        if (conn_is_for(conn, url)) {
            found = conn; /* the newest is the least likely to be stale */
        }
    }
    if (found != NULL) {
        list_remove(&found->node);
        loop_timer_stop(&found->timer);
        found->user = user;
        found->data = data;
        found->kept = true;
    }
    return found;
}

void pool_set_server_name(struct http_pool *pool, const char *name)
{
    free(pool->server_name);
    pool->server_name = mem_strdup(name);
}

void pool_set_socket(struct http_pool *pool, const char *path)
{
    free(pool->socket);
    pool->socket = mem_strdup(path);
}

void pool_set_proxy(struct http_pool *pool, struct proxy *proxy)
{
    proxy_unref(pool->proxy);
    pool->proxy = proxy_ref(proxy);
}

static int pool_tls(struct http_pool *pool, struct err *err)
{
    static const struct tls_options system_trust = {.verify_peer = true};
    return pool->tls != NULL ? 0 : tls_context_new(&system_trust, &pool->tls, err);
}

int pool_connect(struct http_pool *pool, const struct http_url *url, uint64_t timeout_ns,
                 const struct pool_conn_user *user, void *data, struct pool_conn **ret, struct err *err)
{
    int code = url->tls ? pool_tls(pool, err) : 0;
    if (code != 0) {
        return code;
    }
    struct pool_conn *conn = mem_zalloc(sizeof *conn);
    const struct stream_options options = {
        .host = url->host,
        .port = url->port,
        .path = pool->socket,
        .connect_timeout_ns = timeout_ns < CONNECT_TIMEOUT_NS ? timeout_ns : CONNECT_TIMEOUT_NS,
        .tls = url->tls ? pool->tls : NULL,
        .tls_server_name = pool->server_name,
        .proxy = pool->proxy,
        .write_limit = WRITE_LIMIT,
    };
    code = stream_connect(pool->loop, &options, conn_event, conn, &conn->stream, err);
    if (code != 0) {
        free(conn);
        return code;
    }
    conn->pool = pool;
    conn->user = user;
    conn->data = data;
    memcpy(conn->host, url->host, sizeof conn->host);
    conn->port = url->port;
    conn->tls = url->tls;
    list_init(&conn->node);
    loop_timer_init(pool->loop, &conn->timer, conn_expired, conn);
    pool->open++;
    *ret = conn;
    return 0;
}

int pool_conn_write(struct pool_conn *conn, const void *bytes, size_t length, struct err *err)
{
    return stream_write(conn->stream, bytes, length, err);
}

void pool_conn_gather(struct pool_conn *conn, uint64_t pause_ns)
{
    stream_gather(conn->stream, pause_ns);
}

bool pool_conn_was_kept(const struct pool_conn *conn)
{
    return conn->kept;
}

/* Over the limit the oldest idle connection of the origin makes room. */
static void pool_make_room(struct http_pool *pool, const struct pool_conn *newest)
{
    struct pool_conn *oldest = NULL;
    int count = 0;
    list_each(node, &pool->idle)
    {
        struct pool_conn *conn = list_item(node, struct pool_conn, node);
        if (conn->port == newest->port && conn->tls == newest->tls &&
            strcasecmp(conn->host, newest->host) == 0) {
            oldest = oldest == NULL ? conn : oldest;
            count++;
        }
    }
    if (count >= IDLE_MAX) {
        conn_close(oldest);
    }
}

void pool_conn_release(struct pool_conn *conn, bool reusable)
{
    /* an answer that came before the request was sent whole leaves bytes behind */
    if (!reusable || conn->pool->closing || stream_pending(conn->stream) > 0) {
        conn_close(conn);
        return;
    }
    pool_make_room(conn->pool, conn);
    stream_gather(conn->stream, 0);
    conn->user = NULL;
    conn->data = NULL;
    list_append(&conn->pool->idle, &conn->node);
    loop_timer_start(&conn->timer, IDLE_NS);
}

struct http_pool *pool_new(struct loop *loop, struct tls_context *tls)
{
    struct http_pool *pool = mem_zalloc(sizeof *pool);
    pool->loop = loop;
    pool->tls = tls != NULL ? tls_context_ref(tls) : NULL;
    pool->open = 1;
    pool->closed_task.run = pool_gone;
    pool->closed_task.data = pool;
    list_init(&pool->idle);
    return pool;
}

void pool_close(struct http_pool *pool, void (*closed)(void *data), void *data)
{
    pool->closing = true;
    pool->closed = closed;
    pool->closed_data = data;
    list_each(node, &pool->idle)
    {
        conn_close(list_item(node, struct pool_conn, node));
    }
    pool_unref(pool);
}
