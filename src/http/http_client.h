/*
 * http_client: HTTP/1.1 client with a small pool of kept connections per origin.
 *
 * Retries once, and only idempotent requests, when a pooled connection died before the first byte of the
 * answer (H5). Bodies are collected up to a limit, or streamed piece by piece (SSE, watches).
 */
#ifndef HTTP_HTTP_CLIENT_H
#define HTTP_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct proxy;
struct tls_context;
struct http_client;
struct http_call;

struct http_header {
    const char *name;
    const char *value;
};

struct http_call_options {
    const char *method; /* "GET" */
    const char *url;    /* http://host:port/path?query or https:// */
    const struct http_header *headers;
    int header_count;
    const void *body; /* copied; NULL = none */
    size_t body_length;
    uint64_t timeout_ns;      /* whole call; 0 = 30 s; UINT64_MAX = none (streams) */
    uint64_t idle_timeout_ns; /* between two reads of the body; 0 = none */
    size_t body_limit;        /* collected body; 0 = 16 MiB; ERRC_LIMIT when passed */
    /* When set, body bytes go here instead and answer->body stays empty. */
    void (*on_body)(struct http_call *call, int status, const char *bytes, size_t length, void *data);
};

struct http_answer {
    const struct err *err; /* NULL = a complete answer, whatever its status */
    int status;
    const char *body; /* NUL-terminated */
    size_t body_length;
    struct http_call *call; /* for http_answer_header() */
};

typedef void (*http_answer_cb)(const struct http_answer *answer, void *data);

/* tls: for https URLs; NULL = the system's trust. */
struct http_client *http_client_new(struct loop *loop, struct tls_context *tls);
/* The name to ask and verify https servers by, in place of each URL's host; NULL = the host. Copied. */
void http_client_set_server_name(struct http_client *client, const char *name);
/*
 * Every connection goes to this Unix socket; of URLs, host and port are then only the Host header. Errors
 * name the path. NULL = TCP. Before the first call. Copied.
 */
void http_client_set_socket(struct http_client *client, const char *path);
/* Every connection goes through it (loop/proxy.h), http URLs by CONNECT as well; NULL = straight. Before the
 * first call. Gets one more reference. */
void http_client_set_proxy(struct http_client *client, struct proxy *proxy);
/* Cancels running calls (their callbacks come), closes the pool; `closed` runs last. */
void http_client_close(struct http_client *client, void (*closed)(void *data), void *data);

int http_call_start(struct http_client *client, const struct http_call_options *options, http_answer_cb cb,
                    void *data, struct http_call **ret, struct err *err);
void http_call_cancel(struct http_call *call);
/* From on_body: reads of the body are so far apart, see stream_gather(); 0 = off. */
void http_call_gather(struct http_call *call, uint64_t pause_ns);
/* Header of the answer by lower-case name, or NULL; valid during the callbacks. */
const char *http_answer_header(const struct http_call *call, const char *name);

/* ---- parsing a server-sent event stream, no I/O ---- */

struct sse_event {
    const char *event; /* "message" by default */
    const char *data;
    const char *id; /* last id seen, "" if none */
};
struct sse_parser;
struct sse_parser *sse_parser_new(size_t event_limit);
void sse_parser_free(struct sse_parser *p);
/* Feeds bytes; `cb` gets every complete event. ERRC_LIMIT when one event is larger than event_limit. */
int sse_parser_feed(struct sse_parser *p, const char *bytes, size_t length,
                    void (*cb)(const struct sse_event *event, void *data), void *data, struct err *err);

#endif
