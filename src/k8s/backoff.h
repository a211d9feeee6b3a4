/*
 * backoff: growing, jittered pauses between tries.
 *
 * client-go's reflector schedule: 800 ms, doubled up to 30 s, each pause drawn from [d, 2d), and back to the
 * start after two minutes without a pause.
 */
#ifndef K8S_BACKOFF_H
#define K8S_BACKOFF_H

#include <stdint.h>

#include "base/env.h"

struct backoff {
    uint64_t next_ns; /* 0 = the first */
    uint64_t last_ns; /* when the last pause was asked for */
};

/* The pause to make now, in nanoseconds. */
uint64_t backoff_next(struct backoff *b, struct env *env, uint64_t now_ns);

#endif
