/*
 * http_pool: the connections of the client, inside the folder. At most 8 idle ones per origin, for 30 s.
 */
#ifndef HTTP_HTTP_POOL_H
#define HTTP_HTTP_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "http/http_url.h"
#include "loop/loop.h"

struct proxy;
struct tls_context;
struct http_pool;
struct pool_conn;

/* What a connection tells the call that uses it; after pool_conn_release() nothing. */
struct pool_conn_user {
    void (*connected)(void *data); /* new connections only */
    void (*data)(const char *bytes, size_t length, void *data);
    void (*ended)(void *data); /* orderly EOF */
    void (*failed)(const struct err *err, void *data);
};

/* tls: NULL = the system's trust, made when the first https connection needs it. */
struct http_pool *pool_new(struct loop *loop, struct tls_context *tls);
/* For TLS, in place of the host of each URL; NULL = the host. Copied. */
void pool_set_server_name(struct http_pool *pool, const char *name);
/* All connections go to this Unix socket, whatever the URL says; NULL = none. Copied. */
void pool_set_socket(struct http_pool *pool, const char *path);
/* All connections go through it; gets one more reference. */
void pool_set_proxy(struct http_pool *pool, struct proxy *proxy);
/* Every connection must have been released. `closed` runs later, once, when all are gone and the pool is
 * freed. */
void pool_close(struct http_pool *pool, void (*closed)(void *data), void *data);

/* An idle connection to the origin of url, or NULL. */
struct pool_conn *pool_take(struct http_pool *pool, const struct http_url *url,
                            const struct pool_conn_user *user, void *data);
/* A new one; timeout_ns bounds the connecting. Non-zero = nothing started. */
int pool_connect(struct http_pool *pool, const struct http_url *url, uint64_t timeout_ns,
                 const struct pool_conn_user *user, void *data, struct pool_conn **ret, struct err *err);
int pool_conn_write(struct pool_conn *conn, const void *bytes, size_t length, struct err *err);
/* See stream_gather(); ends with the use. */
void pool_conn_gather(struct pool_conn *conn, uint64_t pause_ns);
/* Whether it came from pool_take(). */
bool pool_conn_was_kept(const struct pool_conn *conn);
/* Ends the use: kept for the next call if `reusable`, else closed. */
void pool_conn_release(struct pool_conn *conn, bool reusable);

#endif
