/*
 * http_server: HTTP/1.1 server on llhttp.
 *
 * Limits (rules H1-H4): request line + headers 32 KiB and 100 fields, body as configured, 10 s to the end of
 * the headers, 30 s for the body, 60 s idle between requests; connections above max_connections get 503 and
 * are closed. Smuggling shapes (CL+TE, two CLs, bare LF, obs-fold, space before colon, no Host) get 400 and
 * the connection is closed. One request at a time per connection: a pipelined one waits.
 */
#ifndef HTTP_HTTP_SERVER_H
#define HTTP_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "loop/stream.h"

struct http_server;
struct http_exchange; /* one request and its response; lives until it was answered and written, or lost */

struct http_request {
    const char *method; /* "GET" */
    const char *path;   /* percent-decoded, "/v1/databases/shop"; never contains NUL or ".." segments */
    const char *query;  /* raw text after '?', "" if none */
    const char *body;   /* NUL-terminated */
    size_t body_length;
    const char *peer; /* "127.0.0.1:53312" */
};

/* Called when a request is complete (headers and body). Must be answered, now or later, exactly once. */
typedef void (*http_handler_cb)(struct http_exchange *ex, const struct http_request *request, void *data);

struct http_server_options {
    const char *address;        /* literal */
    int port;                   /* 0 = a free one */
    size_t body_limit;          /* 0 = 1 MiB */
    int max_connections;        /* 0 = 12000 */
    uint64_t idle_timeout_ns;   /* 0 = 60 s */
    uint64_t header_timeout_ns; /* 0 = 10 s */
    uint64_t body_timeout_ns;   /* 0 = 30 s */
    struct tls_context *tls;    /* NULL = plain */
};

int http_server_open(struct loop *loop, const struct http_server_options *options, http_handler_cb handler,
                     void *data, struct http_server **ret, struct err *err);
int http_server_port(const struct http_server *server);
/* Another certificate, for connections that come from now on; gets a reference. */
void http_server_set_tls(struct http_server *server, struct tls_context *tls);
int http_server_connections(const struct http_server *server);
/* Stops accepting, lets running exchanges end for at most grace_ns, then closes; `closed` runs last. */
void http_server_close(struct http_server *server, uint64_t grace_ns, void (*closed)(void *data), void *data);

/* Header by lower-case name or NULL; several of one name are joined by ", ". */
const char *http_request_header(const struct http_exchange *ex, const char *name);
/* Decoded value of a query parameter copied into out; false if absent or too long. */
bool http_query_get(const char *query, const char *name, char *out, size_t size);

/* ---- answers ---- */

/* Header of the answer to come; name and value are copied, CR and LF in the value are refused by assert. */
void http_set_header(struct http_exchange *ex, const char *name, const char *value);

/* Complete answer; body is copied. Content-Length and Date are set; HEAD and 204/304 send no body (H3). */
void http_respond(struct http_exchange *ex, int status, const char *content_type, const void *body,
                  size_t length);

/* Pieces that stay owned by the caller until release(owner): written with writev, not copied. */
struct http_piece {
    const void *data;
    size_t length;
};
void http_respond_pieces(struct http_exchange *ex, int status, const char *content_type,
                         const struct http_piece *pieces, size_t count, void (*release)(void *owner),
                         void *owner);

/*
 * RFC 9457: {"type":"https://shardherd.io/problems/<code>","title","status","detail","code"}. The title is
 * the standard phrase of the status; code is stable ("not_found").
 */
void http_problem(struct http_exchange *ex, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same from an error: INVALID 400, AUTH 403, NOT_FOUND 404, EXISTS/CONFLICT 409, REFUSED 422, LIMIT 429,
 * UNAVAILABLE/TIMEOUT 503, UNSUPPORTED 501, everything else 500. */
void http_problem_err(struct http_exchange *ex, const struct err *err);
int http_status_of(enum err_code code);

/*
 * Runs when the peer went away before the answer (answering then is still required, and is dropped). With it,
 * a peer that only ended its sending side counts as gone; without it, such a peer still gets its answer.
 */
void http_on_lost(struct http_exchange *ex, void (*lost)(struct http_exchange *ex, void *data), void *data);

/* ---- server-sent events (rules S1-S3) ---- */

/*
 * A topic: numbered events, the newest `keep` of them replayed to a client that comes back with
 * Last-Event-ID (S1). A client with more than 256 KiB unsent is cut off (S2). A comment line every 15 s (S3).
 */
struct sse_topic;
struct sse_topic *sse_topic_new(struct loop *loop, const char *name, size_t keep);
void sse_topic_free(struct sse_topic *topic); /* ends its clients */
/* Returns the id of the event. data may hold newlines. */
uint64_t sse_publish(struct sse_topic *topic, const char *event, const char *data);
/* Answers ex with the stream. `first_event`/`first_data` (may be NULL) is sent to clients without or with too
 * old a Last-Event-ID, as a snapshot; without one, the latter get what is kept. Ids are "<random>-<number>":
 * those of an earlier process count as too old. */
void sse_subscribe(struct sse_topic *topic, struct http_exchange *ex, const char *first_event,
                   const char *first_data);
int sse_clients(const struct sse_topic *topic);

#endif
