/*
 * http_conn: one client connection of the server, inside the folder.
 *
 * An idle connection is this struct, its stream and nothing else; parser and buffers come with the first byte
 * of a request and go with its answer.
 */
#ifndef HTTP_HTTP_CONN_H
#define HTTP_HTTP_CONN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/sm.h"
#include "http/http_server.h"
#include "loop/loop.h"
#include "loop/stream.h"

struct http_server {
    struct loop *loop;
    struct http_server_options options; /* zeros replaced by the defaults */
    http_handler_cb handler;
    void *data;
    struct listener *listener;
    struct list conns;
    int serving;  /* connections within max_connections */
    int refusing; /* connections that only get a 503 */
    int open;     /* connections and listener: the memory goes when it reaches 0 */
    bool closing;
    struct loop_timer grace;
    void (*closed)(void *data);
    void *closed_data;
};

struct http_conn {
    struct http_server *server;
    struct stream *stream;
    struct list node;
    struct sm sm;
    struct loop_timer timer;  /* of the present state */
    struct http_exchange *ex; /* from the first byte of a request to the end of its answer */
    struct buf kept;          /* bytes after the present request (pipelining) */
    bool refused;             /* above max_connections */
    bool eof;                 /* the peer will send no more */
    bool paused;              /* reading is paused because too much is kept */
};

void http_conn_new(struct http_server *server, struct stream *stream, bool refused);
/* The server closes: at once if nothing is in progress or `force`, else after the present answer. */
void http_conn_shutdown(struct http_conn *conn, bool force);
/* Called by a connection when its stream is gone. */
void http_server_conn_gone(struct http_server *server, struct http_conn *conn);

#endif
