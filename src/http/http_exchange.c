#include "http/http_exchange.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/mem.h"

/* Bytes handed to the stream ahead of the kernel: bounds the queue, however large an answer is. */
#define WRITE_WINDOW (1024u * 1024u)
/* Pieces handed over in one call. */
#define PIECES_AT_ONCE 256u
/* Bodies up to this size travel in one buffer with their head. */
#define SMALL_BODY (16u * 1024u)

struct http_body_out {
    struct http_piece *pieces;
    size_t count;
    size_t index;    /* piece to write next */
    size_t offset;   /* bytes of it already queued */
    size_t inflight; /* slices the stream has */
    bool queued;     /* nothing more will be handed to the stream */
    void (*release)(void *owner);
    void *owner;
};

static void out_free_if_done(struct http_body_out *out)
{
    if (!out->queued || out->inflight > 0) {
        return;
    }
    if (out->release != NULL) {
        out->release(out->owner);
    }
    free(out->pieces);
    free(out);
}

static void out_slice_released(void *owner)
{
    struct http_body_out *out = owner;
    out->inflight--;
    out_free_if_done(out);
}

static struct http_body_out *out_new(const struct http_piece *pieces, size_t count, void (*release)(void *),
                                     void *owner)
{
    struct http_body_out *out = mem_zalloc(sizeof *out);
    out->pieces = mem_array(count == 0 ? 1 : count, sizeof *pieces);
    if (count > 0) {
        memcpy(out->pieces, pieces, count * sizeof *pieces);
    }
    out->count = count;
    out->release = release;
    out->owner = owner;
    return out;
}

/* Stops handing pieces to the stream; those it has come back through out_slice_released(). */
static void exchange_drop_out(struct http_exchange *ex)
{
    if (ex->out != NULL) {
        struct http_body_out *out = ex->out;
        ex->out = NULL;
        out->queued = true;
        out_free_if_done(out);
    }
}

/* The next pieces, or parts of pieces, up to the window; returns how many. */
static size_t out_next(struct http_body_out *out, struct stream_piece *ret, size_t *ret_length)
{
    size_t count = 0;
    size_t length = 0;
    while (out->index < out->count && count < PIECES_AT_ONCE && length < WRITE_WINDOW) {
        const struct http_piece *piece = &out->pieces[out->index];
        size_t part = piece->length - out->offset;
        part = part < WRITE_WINDOW - length ? part : WRITE_WINDOW - length;
        if (part > 0) {
            ret[count++] = (struct stream_piece){(const char *)piece->data + out->offset, part};
        }
        length += part;
        out->offset += part;
        if (out->offset == piece->length) {
            out->index++;
            out->offset = 0;
        }
    }
    *ret_length = length;
    return count;
}

/* Queues up to the window; returns how many bytes. The rest follows when these are with the kernel. */
static size_t exchange_pump(struct http_exchange *ex)
{
    struct http_body_out *out = ex->out;
    struct stream_piece pieces[PIECES_AT_ONCE];
    size_t queued = 0;
    while (!ex->broken && out->index < out->count && queued < WRITE_WINDOW) {
        size_t length;
        size_t count = out_next(out, pieces, &length);
        out->inflight++;
        if (stream_write_pieces(ex->stream, pieces, count, out_slice_released, out, NULL) != 0) {
            out->inflight--;
            ex->broken = true;
        }
        queued += length;
    }
    if (ex->broken || out->index == out->count) {
        exchange_drop_out(ex);
    }
    return queued;
}

/* Runs after the handler that answered has returned, so that it may still look at the request. */
static void exchange_task(struct loop_task *task, void *data)
{
    (void)task;
    struct http_exchange *ex = data;
    if (ex->stream == NULL) {
        exchange_free(ex);
    } else if (ex->ended || ex->broken) {
        ex->owner_calls->finished(ex, ex->owner);
    }
}

struct http_exchange *exchange_new(struct loop *loop, struct stream *stream,
                                   const struct http_exchange_owner *calls, void *owner,
                                   const struct http_parser_hooks *hooks)
{
    struct http_exchange *ex = mem_zalloc(sizeof *ex);
    ex->loop = loop;
    ex->stream = stream;
    ex->owner_calls = calls;
    ex->owner = owner;
    ex->task.run = exchange_task;
    ex->task.data = ex;
    http_parser_init(&ex->parser, true, hooks, ex);
    return ex;
}

void exchange_free(struct http_exchange *ex)
{
    if (ex == NULL) {
        return;
    }
    loop_task_cancel(&ex->task);
    exchange_drop_out(ex);
    http_parser_free(&ex->parser);
    buf_free(&ex->body);
    buf_free(&ex->headers);
    free(ex);
}

/* An answer ends only here, so that a client's pipelined requests are spread over turns. */
void exchange_drained(struct http_exchange *ex)
{
    if (!ex->answered || ex->streaming) {
        return;
    }
    size_t queued = ex->out != NULL ? exchange_pump(ex) : 0;
    if (ex->broken || (queued == 0 && ex->out == NULL)) {
        ex->owner_calls->finished(ex, ex->owner);
    }
}

void exchange_lost(struct http_exchange *ex)
{
    ex->stream = NULL;
    ex->owner = NULL;
    bool owed = ex->handed_out && !ex->answered;
    if ((owed || ex->streaming) && ex->lost != NULL) {
        void (*lost)(struct http_exchange *, void *) = ex->lost;
        ex->lost = NULL;
        lost(ex, ex->lost_data); /* may answer: then the task frees */
    }
    if (!owed) {
        exchange_free(ex);
    }
}

void http_on_lost(struct http_exchange *ex, void (*lost)(struct http_exchange *ex, void *data), void *data)
{
    ex->lost = lost;
    ex->lost_data = data;
}

const char *http_request_header(const struct http_exchange *ex, const char *name)
{
    return http_parser_field(&ex->parser, name);
}

/* ---- the head of an answer ---- */

static bool header_value_is_sound(const char *value)
{
    return value[strcspn(value, "\r\n")] == '\0';
}

void http_set_header(struct http_exchange *ex, const char *name, const char *value)
{
    assert(header_value_is_sound(value) && header_value_is_sound(name));
    assert(strcasecmp(name, "content-length") != 0 && strcasecmp(name, "connection") != 0 &&
           strcasecmp(name, "transfer-encoding") != 0);
    if (strcasecmp(name, "cache-control") == 0) {
        ex->cache_set = true;
    }
    if (header_value_is_sound(value)) { /* also in builds without assert */
        buf_printf(&ex->headers, "%s: %s\r\n", name, value);
    }
}

/* IMF-fixdate, "Sun, 06 Nov 1994 08:49:37 GMT", independent of the locale. */
static void head_add_date(struct buf *head, int64_t wall_us)
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) != NULL) {
        buf_printf(head, "Date: %s, %02d %s %04d %02d:%02d:%02d GMT\r\n", days[tm.tm_wday], tm.tm_mday,
                   months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    }
}

static bool status_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

static void head_build(struct http_exchange *ex, struct buf *head, int status, const char *content_type)
{
    buf_printf(head, "HTTP/1.1 %d %s\r\n", status, http_reason(status));
    head_add_date(head, loop_wall(ex->loop));
    if (content_type != NULL && status_has_body(status)) {
        buf_printf(head, "Content-Type: %s\r\n", content_type);
    }
    if (!ex->cache_set) {
        buf_add_text(head, "Cache-Control: no-store\r\n");
    }
    buf_printf(head, "Connection: %s\r\n", ex->keep_alive ? "keep-alive" : "close");
    buf_add(head, buf_text(&ex->headers), ex->headers.length);
}

static void exchange_write_head(struct http_exchange *ex, struct buf *head)
{
    size_t length = head->length;
    char *bytes = buf_take(head);
    if (stream_write_owned(ex->stream, bytes, length, free, bytes, NULL) != 0) {
        free(bytes);
        ex->broken = true;
    }
}

/* Marks the exchange as answered. False if there is nobody left to write to. */
static bool exchange_claim(struct http_exchange *ex)
{
    assert(!ex->answered);
    ex->answered = true;
    if (ex->stream == NULL) {
        loop_defer(ex->loop, &ex->task);
        return false;
    }
    return true;
}

static void exchange_answered(struct http_exchange *ex)
{
    loop_defer(ex->loop, &ex->task);
    ex->owner_calls->answered(ex, ex->owner);
}

void http_respond(struct http_exchange *ex, int status, const char *content_type, const void *body,
                  size_t length)
{
    if (length > SMALL_BODY) {
        struct http_piece piece = {mem_alloc(length), length};
        void *copy = (void *)(uintptr_t)piece.data;
        memcpy(copy, body, length);
        http_respond_pieces(ex, status, content_type, &piece, 1, free, copy);
        return;
    }
    if (!exchange_claim(ex)) {
        return;
    }
    struct buf head = {0};
    head_build(ex, &head, status, content_type);
    if (status_has_body(status)) {
        buf_printf(&head, "Content-Length: %zu\r\n", length);
    }
    buf_add_text(&head, "\r\n");
    if (status_has_body(status) && !ex->head_only && length > 0) {
        buf_add(&head, body, length);
    }
    exchange_write_head(ex, &head);
    exchange_answered(ex);
}

void http_respond_pieces(struct http_exchange *ex, int status, const char *content_type,
                         const struct http_piece *pieces, size_t count, void (*release)(void *owner),
                         void *owner)
{
    struct http_body_out *out = out_new(pieces, count, release, owner);
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        length += pieces[i].length;
    }
    if (!exchange_claim(ex)) {
        out->queued = true;
        out_free_if_done(out);
        return;
    }
    struct buf head = {0};
    head_build(ex, &head, status, content_type);
    if (status_has_body(status)) {
        buf_printf(&head, "Content-Length: %zu\r\n", length);
    }
    buf_add_text(&head, "\r\n");
    exchange_write_head(ex, &head);
    ex->out = out;
    if (ex->broken || ex->head_only || !status_has_body(status)) {
        exchange_drop_out(ex);
    } else {
        exchange_pump(ex);
    }
    exchange_answered(ex);
}

/* ---- open-ended answers ---- */

bool exchange_stream_begin(struct http_exchange *ex, int status, const char *content_type,
                           void (*lost)(struct http_exchange *ex, void *data), void *data)
{
    ex->keep_alive = false;
    ex->lost = NULL; /* the handler has answered: from here on the stream's own callback counts */
    if (!exchange_claim(ex)) {
        return false;
    }
    struct buf head = {0};
    head_build(ex, &head, status, content_type);
    buf_add_text(&head, "\r\n");
    exchange_write_head(ex, &head);
    ex->streaming = !ex->head_only && !ex->broken;
    if (ex->streaming) {
        ex->lost = lost;
        ex->lost_data = data;
    }
    bool streaming = ex->streaming;
    exchange_answered(ex);
    return streaming;
}

bool exchange_stream_write(struct http_exchange *ex, const void *bytes, size_t length,
                           void (*release)(void *owner), void *owner)
{
    return stream_write_owned(ex->stream, bytes, length, release, owner, NULL) == 0;
}

size_t exchange_stream_pending(const struct http_exchange *ex)
{
    return stream_pending(ex->stream);
}

void exchange_stream_end(struct http_exchange *ex, bool orderly)
{
    ex->lost = NULL;
    ex->broken = !orderly;
    ex->streaming = false;
    ex->ended = true;
    loop_defer(ex->loop, &ex->task); /* later, so that a topic can end clients while it walks over them */
}
