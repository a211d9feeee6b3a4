/* The writing half of a stream: chunks in libuv's queue, counted against a limit. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "loop/stream_impl.h"

struct chunk {
    uv_write_t uv;
    struct list node; /* in stream.waiting, before the connection stands */
    struct stream *stream;
    const char *data;
    size_t length;
    void (*release)(void *owner);
    void *owner;
    char copy[];
};

static struct chunk *chunk_new(struct stream *s, const void *data, size_t length, bool copy)
{
    struct chunk *c = mem_alloc(sizeof *c + (copy ? length : 0));
    memset(c, 0, sizeof *c);
    list_init(&c->node);
    c->uv.data = c;
    c->stream = s;
    c->length = length;
    c->data = data;
    if (copy) {
        memcpy(c->copy, data, length);
        c->data = c->copy;
    }
    return c;
}

static void chunk_free(struct chunk *c)
{
    if (c->release != NULL)
        c->release(c->owner);
    free(c);
}

static void write_failed(struct stream *s, int code, bool in_call)
{
    if (s->write_error.code != ERRC_NONE)
        return;
    stream_socket_error(s, code, "writing to", &s->write_error);
    /* the peer may have said why before it closed: let the reading side come to its end first */
    if (stream_state(s) == STATE_OPEN && !s->paused)
        return;
    if (in_call)
        stream_fail_later(s, &s->write_error);
    else
        stream_fail(s, &s->write_error);
}

static void on_written(uv_write_t *write, int status)
{
    struct chunk *c = write->data;
    struct stream *s = c->stream;
    (void)loop_now(s->loop);
    s->pending -= c->length;
    chunk_free(c);
    enum stream_state state = stream_state(s);
    if (status != 0 && (state == STATE_OPEN || state == STATE_ENDED)) {
        write_failed(s, status, false);
        return;
    }
    if (s->pending > 0 || !s->drain_wanted || (state != STATE_OPEN && state != STATE_ENDED))
        return;
    s->drain_wanted = false;
    stream_emit(s, STREAM_DRAINED, NULL, 0);
}

static uv_buf_t buf_of(const void *data, size_t length)
{
    uv_buf_t buf = {.base = NULL, .len = length};
    memcpy(&buf.base, &data, sizeof buf.base); /* libuv's buffers are not const, it only reads */
    return buf;
}

static void bufs_send(struct stream *s, struct chunk *c, const uv_buf_t *bufs, unsigned count)
{
    s->pending += c->length;
    int rc = uv_write(&c->uv, (uv_stream_t *)&s->tcp, bufs, count, on_written);
    if (rc == 0)
        return;
    s->pending -= c->length;
    chunk_free(c);
    write_failed(s, rc, true);
}

static void chunk_send(struct stream *s, struct chunk *c)
{
    uv_buf_t buf = buf_of(c->data, c->length);
    bufs_send(s, c, &buf, 1);
}

void stream_send_raw(struct stream *s, const void *data, size_t length)
{
    chunk_send(s, chunk_new(s, data, length, true));
}

void stream_send(struct stream *s, const void *data, size_t length)
{
    if (s->outer != NULL)
        stream_tunnel_write(s, data, length);
    else
        stream_send_raw(s, data, length);
}

void stream_waiting_drop(struct stream *s)
{
    list_each(node, &s->waiting)
    {
        list_remove(node);
        struct chunk *c = list_item(node, struct chunk, node);
        s->pending -= c->length;
        chunk_free(c);
    }
}

void stream_waiting_send(struct stream *s)
{
    while (!list_empty(&s->waiting) && stream_state(s) == STATE_OPEN) {
        struct chunk *c = list_item(list_first(&s->waiting), struct chunk, node);
        list_remove(&c->node);
        s->pending -= c->length;
        if (s->ssl == NULL) {
            chunk_send(s, c);
            continue;
        }
        (void)stream_tls_write(s, c->data, c->length, NULL); /* a failure is an event of its own */
        chunk_free(c);
    }
}

static int writable(const struct stream *s, size_t length, struct err *err)
{
    enum stream_state state = stream_state(s);
    if (state >= STATE_FINISHING || s->write_error.code != ERRC_NONE)
        return err_set(err, ERRC_CLOSED, "the connection is closed");
    if (length > s->write_limit || s->pending > s->write_limit - length)
        return err_set(err, ERRC_LIMIT, "%s takes too little: %zu bytes wait to be sent", s->peer,
                       s->pending);
    return 0;
}

static void chunk_queue(struct stream *s, struct chunk *c)
{
    s->drain_wanted = true;
    if (stream_state(s) >= STATE_OPEN) {
        chunk_send(s, c);
        return;
    }
    s->pending += c->length;
    list_append(&s->waiting, &c->node);
}

int stream_write(struct stream *s, const void *data, size_t length, struct err *err)
{
    int rc = writable(s, length, err);
    if (rc != 0 || length == 0)
        return rc;
    if (s->tls != NULL && stream_state(s) >= STATE_OPEN) {
        s->drain_wanted = true;
        return stream_tls_write(s, data, length, err);
    }
    chunk_queue(s, chunk_new(s, data, length, true));
    return 0;
}

int stream_write_owned(struct stream *s, const void *data, size_t length, void (*release)(void *owner),
                       void *owner, struct err *err)
{
    bool encrypted = s->tls != NULL && stream_state(s) >= STATE_OPEN;
    if (length == 0 || encrypted) {
        int rc = stream_write(s, data, length, err);
        if (rc == 0)
            release(owner);
        return rc;
    }
    int rc = writable(s, length, err);
    if (rc != 0)
        return rc;
    struct chunk *c = chunk_new(s, data, length, false);
    c->release = release;
    c->owner = owner;
    chunk_queue(s, c);
    return 0;
}

/* Where the bytes are copied anyway, under TLS and before the connection stands. */
static int pieces_copy(struct stream *s, const struct stream_piece *pieces, size_t count, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = stream_write(s, pieces[i].data, pieces[i].length, err);
    return rc;
}

int stream_write_pieces(struct stream *s, const struct stream_piece *pieces, size_t count,
                        void (*release)(void *owner), void *owner, struct err *err)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += pieces[i].length;
    int rc = writable(s, length, err);
    if (rc != 0)
        return rc;
    if (length == 0 || s->tls != NULL || stream_state(s) < STATE_OPEN) {
        rc = pieces_copy(s, pieces, count, err);
        if (rc == 0)
            release(owner);
        return rc;
    }
    struct chunk *c = chunk_new(s, NULL, 0, false);
    uv_buf_t *bufs = mem_array(count, sizeof *bufs); /* libuv keeps a copy */
    for (size_t i = 0; i < count; i++)
        bufs[i] = buf_of(pieces[i].data, pieces[i].length);
    c->length = length;
    c->release = release;
    c->owner = owner;
    s->drain_wanted = true;
    bufs_send(s, c, bufs, (unsigned)count);
    free(bufs);
    return 0;
}

/* Not s->pending: that counts bytes until their callback, which comes a turn after the kernel took them. */
size_t stream_pending(const struct stream *s)
{
    if (stream_state(s) < STATE_OPEN)
        return s->pending;
    return uv_stream_get_write_queue_size((const uv_stream_t *)&s->tcp);
}
