/*
 * stream_test: both ends of a connection with what they saw, for the stream and TLS tests.
 */
#ifndef TESTS_STREAM_TEST_H
#define TESTS_STREAM_TEST_H

#include "loop/loop_test.h"

#include "base/buf.h"
#include "loop/stream.h"
#include "loop/tls.h"

struct end {
    struct fixture *f;
    struct stream *stream;
    struct buf got;
    int connected, eof, errors, drained, closed;
    struct err err;
    bool echo;            /* writes back what it gets */
    bool keep_count_only; /* does not keep what it gets */
    bool pause_each;      /* pauses at each piece, a task resumes */
    struct loop_task resume;
    size_t received;
    uint64_t sum;               /* of the received bytes, by position */
    enum stream_event close_at; /* closes from inside the callback of this event */
    bool close_set;
};

static void end_resume(struct loop_task *task, void *data)
{
    (void)task;
    struct end *e = data;
    if (e->closed == 0)
        stream_resume(e->stream);
}

static void end_init(struct end *e, struct fixture *f)
{
    memset(e, 0, sizeof *e);
    e->f = f;
    e->resume.run = end_resume;
    e->resume.data = e;
}

static void end_data(struct end *e, const struct stream_input *in)
{
    for (size_t i = 0; i < in->length; i++)
        e->sum = e->sum * 31 + (unsigned char)in->data[i];
    e->received += in->length;
    if (!e->keep_count_only)
        buf_add(&e->got, in->data, in->length);
    if (e->echo)
        assert_int_equal(stream_write(e->stream, in->data, in->length, NULL), 0);
    if (e->pause_each) {
        stream_pause(e->stream);
        loop_defer(&e->f->loop, &e->resume);
    }
}

static void end_event(struct stream *s, const struct stream_input *in, void *data)
{
    struct end *e = data;
    assert_int_equal(e->closed, 0); /* nothing after CLOSED */
    assert_ptr_equal(s, e->stream);
    assert_true(in->event == STREAM_CLOSED || !e->close_set || e->close_at != STREAM_CLOSED);
    switch (in->event) {
    case STREAM_CONNECTED:
        e->connected++;
        break;
    case STREAM_DATA:
        assert_int_equal(e->eof + e->errors, 0);
        end_data(e, in);
        break;
    case STREAM_DRAINED:
        e->drained++;
        break;
    case STREAM_EOF:
        e->eof++;
        break;
    case STREAM_ERROR:
        e->errors++;
        e->err = *in->err;
        break;
    case STREAM_CLOSED:
        e->closed++;
        loop_task_cancel(&e->resume);
        return;
    }
    if (e->close_set && e->close_at == in->event) {
        e->close_at = STREAM_CLOSED;
        stream_close(s);
        stream_close(s);
    }
}

static void end_accept(struct listener *l, struct stream *s, void *data)
{
    (void)l;
    struct end *e = data;
    e->stream = s;
    stream_set_callback(s, end_event, e);
}

static void end_connect(struct end *e, struct stream_options *o)
{
    int rc = stream_connect(&e->f->loop, o, end_event, e, &e->stream, &e->f->err);
    if (rc != 0)
        fail_msg("%s", e->f->err.message);
    assert_int_equal(e->connected + e->errors, 0);
}

static struct listener *end_listen(struct end *server, struct tls_context *tls)
{
    struct listener *l = NULL;
    int rc = listener_open(&server->f->loop, "127.0.0.1", 0, tls, end_accept, server, &l, &server->f->err);
    if (rc != 0)
        fail_msg("%s", server->f->err.message);
    return l;
}

static void end_close(struct end *e)
{
    if (e->stream != NULL && e->closed == 0) {
        if (!e->close_set || e->close_at != STREAM_CLOSED)
            stream_close(e->stream);
        assert_int_equal(e->closed, 0);
        RUN_UNTIL(e->f, e->closed == 1);
    }
    buf_free(&e->got);
}

/* The bytes of the big transfers, and their checksum. */
static char *pattern_make(size_t length, uint64_t *ret_sum)
{
    char *data = mem_alloc(length);
    uint64_t sum = 0;
    for (size_t i = 0; i < length; i++) {
        data[i] = (char)(i * 7 + i / 251);
        sum = sum * 31 + (unsigned char)data[i];
    }
    *ret_sum = sum;
    return data;
}

#endif
