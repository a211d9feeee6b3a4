/*
 * stream: server-sent events, taken one after the other. A stream that breaks is opened again, and goes on
 * after the last event it had; only the first attempt may fail at once.
 */
#ifndef CLI_STREAM_H
#define CLI_STREAM_H

#include <stdint.h>

#include "cli/session.h"

struct stream;

struct stream_event {
    char *event; /* "operation" */
    char *data;
    char *id;
};

enum stream_next { STREAM_EVENT, STREAM_TIMEOUT, STREAM_ENDED };

/* Nothing is sent before the first stream_next(). The path is copied. */
struct stream *stream_new(struct session *s, const char *path);
void stream_free(struct stream *st);

/*
 * Waits until deadline_ns (of loop_clock(); UINT64_MAX = for ever). STREAM_EVENT: *ret is valid until the
 * next call. STREAM_ENDED: it could not be opened, or not again within a minute; *ret_exit is the exit code,
 * and why was printed.
 */
enum stream_next stream_next(struct stream *st, uint64_t deadline_ns, const struct stream_event **ret,
                             int *ret_exit);

/* Makes a stream_next() that waits, and the next one, return STREAM_TIMEOUT at once. */
void stream_wake(struct stream *st);

#endif
