/*
 * http_exchange: one request and its answer, inside the folder.
 *
 * The connection (http_conn.c) makes it when the first byte of a request arrives and owns it until
 * `answered`; afterwards it is freed when the answer was written or the peer is lost. It knows the stream it
 * writes to and an owner to tell, not the connection.
 */
#ifndef HTTP_HTTP_EXCHANGE_H
#define HTTP_HTTP_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "http/http_parse.h"
#include "http/http_server.h"
#include "loop/loop.h"
#include "loop/stream.h"

struct http_body_out; /* the pieces of an answer that are still to be written */

struct http_exchange_owner {
    /* The handler answered; bytes are on their way. */
    void (*answered)(struct http_exchange *ex, void *owner);
    /* The answer is with the kernel, or could not be written (ex->broken). The owner calls exchange_free().
     */
    void (*finished)(struct http_exchange *ex, void *owner);
};

struct http_exchange {
    struct loop *loop;
    struct stream *stream; /* NULL once the peer is lost */
    const struct http_exchange_owner *owner_calls;
    void *owner;
    struct http_parser parser;
    struct buf body;
    struct http_request request;
    struct buf headers; /* set by the handler */
    struct http_body_out *out;
    struct loop_task task; /* after an answer: go on in this turn's end */
    void (*lost)(struct http_exchange *ex, void *data);
    void *lost_data;
    bool head_only;  /* the request was HEAD */
    bool keep_alive; /* the connection may serve another request afterwards */
    bool handed_out; /* the handler has it, and must answer */
    bool answered;
    bool streaming; /* an open-ended answer: ends with exchange_stream_end() or with the peer */
    bool ended;     /* such an answer is over; what is queued may still go out */
    bool broken;    /* the answer could not be written */
    bool cache_set; /* the handler set Cache-Control */
};

struct http_exchange *exchange_new(struct loop *loop, struct stream *stream,
                                   const struct http_exchange_owner *calls, void *owner,
                                   const struct http_parser_hooks *hooks);
/* Releases everything; unwritten pieces are released as the stream drops them. */
void exchange_free(struct http_exchange *ex);

/* The stream drained: write more, or finish. */
void exchange_drained(struct http_exchange *ex);

/* The stream is gone or going. Frees the exchange unless the handler still owes an answer. */
void exchange_lost(struct http_exchange *ex);

/* ---- open-ended answers (server-sent events) ---- */

/* The head of an answer without length, ended by closing. False: HEAD or lost, the exchange is over. */
bool exchange_stream_begin(struct http_exchange *ex, int status, const char *content_type,
                           void (*lost)(struct http_exchange *ex, void *data), void *data);
/* False if the stream refuses; then nothing was released. */
bool exchange_stream_write(struct http_exchange *ex, const void *bytes, size_t length,
                           void (*release)(void *owner), void *owner);
size_t exchange_stream_pending(const struct http_exchange *ex);
/* Ends the answer: sends what is queued if `orderly`, else drops it. `lost` does not run. ex is dead
 * afterwards. */
void exchange_stream_end(struct http_exchange *ex, bool orderly);

/* The standard phrase of a status. */
const char *http_reason(int status);

#endif
