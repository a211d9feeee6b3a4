/*
 * feed: server-sent events, taken one after the other. A stream that breaks is opened again, and goes on
 * after the last event it had; only the first attempt may fail at once.
 */
#ifndef CLI_FEED_H
#define CLI_FEED_H

#include <stdint.h>

#include "cli/session.h"

struct feed;

struct feed_event {
    char *event; /* "operation" */
    char *data;
    char *id;
};

enum feed_next { FEED_EVENT, FEED_TIMEOUT, FEED_ENDED };

/* Nothing is sent before the first feed_next(). The path is copied. */
struct feed *feed_new(struct session *s, const char *path);
void feed_free(struct feed *f);

/*
 * Waits until deadline_ns (of loop_clock(); UINT64_MAX = for ever). FEED_EVENT: *ret is valid until the
 * next call. FEED_ENDED: it could not be opened, or not again within a minute; *ret_exit is the exit code,
 * and why was printed.
 */
enum feed_next feed_next(struct feed *f, uint64_t deadline_ns, const struct feed_event **ret, int *ret_exit);

/* Makes a feed_next() that waits, and the next one, return FEED_TIMEOUT at once. */
void feed_wake(struct feed *f);

#endif
