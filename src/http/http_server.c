#include "http/http_server.h"

#include <stdlib.h>

#include "base/mem.h"
#include "http/http_conn.h"

#define DEFAULT_BODY_LIMIT      (1024u * 1024u)
#define DEFAULT_MAX_CONNECTIONS 12000
#define DEFAULT_IDLE_NS         (60 * ENV_NS_PER_S)
#define DEFAULT_HEADER_NS       (10 * ENV_NS_PER_S)
#define DEFAULT_BODY_NS         (30 * ENV_NS_PER_S)
/* Above max_connections, so many at a time are told why; further ones are closed without a word. */
#define REFUSING_MAX 256

static void server_unref(struct http_server *server)
{
    if (--server->open > 0) {
        return;
    }
    void (*closed)(void *data) = server->closed;
    void *data = server->closed_data;
    loop_timer_stop(&server->grace);
    free(server);
    if (closed != NULL) {
        closed(data);
    }
}

void http_server_conn_gone(struct http_server *server, struct http_conn *conn)
{
    list_remove(&conn->node);
    if (conn->refused) {
        server->refusing--;
    } else {
        server->serving--;
    }
    server_unref(server);
}

static void ignore_event(struct stream *s, const struct stream_input *in, void *data)
{
    (void)s;
    (void)in;
    (void)data;
}

static void server_accepted(struct listener *l, struct stream *accepted, void *data)
{
    (void)l;
    struct http_server *server = data;
    bool full = server->serving >= server->options.max_connections;
    if (server->closing || (full && server->refusing >= REFUSING_MAX)) {
        stream_set_callback(accepted, ignore_event, NULL);
        stream_close(accepted);
        return;
    }
    if (full) {
        server->refusing++;
    } else {
        server->serving++;
    }
    server->open++;
    http_conn_new(server, accepted, full);
}

static void server_listener_closed(struct listener *l, void *data)
{
    (void)l;
    server_unref(data);
}

static void server_grace_over(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct http_server *server = data;
    list_each(node, &server->conns)
    {
        http_conn_shutdown(list_item(node, struct http_conn, node), true);
    }
}

static void options_fill(struct http_server_options *o)
{
    o->body_limit = o->body_limit != 0 ? o->body_limit : DEFAULT_BODY_LIMIT;
    o->max_connections = o->max_connections != 0 ? o->max_connections : DEFAULT_MAX_CONNECTIONS;
    o->idle_timeout_ns = o->idle_timeout_ns != 0 ? o->idle_timeout_ns : DEFAULT_IDLE_NS;
    o->header_timeout_ns = o->header_timeout_ns != 0 ? o->header_timeout_ns : DEFAULT_HEADER_NS;
    o->body_timeout_ns = o->body_timeout_ns != 0 ? o->body_timeout_ns : DEFAULT_BODY_NS;
}

int http_server_open(struct loop *loop, const struct http_server_options *options, http_handler_cb handler,
                     void *data, struct http_server **ret, struct err *err)
{
    struct http_server *server = mem_zalloc(sizeof *server);
    server->loop = loop;
    server->options = *options;
    server->handler = handler;
    server->data = data;
    options_fill(&server->options);
    list_init(&server->conns);
    loop_timer_init(loop, &server->grace, server_grace_over, server);
    int code = listener_open(loop, options->address, options->port, options->tls, server_accepted, server,
                             &server->listener, err);
    if (code != 0) {
        free(server);
        return code;
    }
    server->open = 1;
    server->options.address = NULL; /* not ours to keep */
    *ret = server;
    return 0;
}

int http_server_port(const struct http_server *server)
{
    return listener_port(server->listener);
}

void http_server_set_tls(struct http_server *server, struct tls_context *tls)
{
    listener_set_tls(server->listener, tls);
}

int http_server_connections(const struct http_server *server)
{
    return server->serving;
}

void http_server_close(struct http_server *server, uint64_t grace_ns, void (*closed)(void *data), void *data)
{
    if (server == NULL || server->closing) {
        return;
    }
    server->closing = true;
    server->closed = closed;
    server->closed_data = data;
    listener_close(server->listener, server_listener_closed, server);
    list_each(node, &server->conns)
    {
        http_conn_shutdown(list_item(node, struct http_conn, node), grace_ns == 0);
    }
    if (grace_ns != 0 && !list_empty(&server->conns)) {
        loop_timer_start(&server->grace, grace_ns);
    }
}
