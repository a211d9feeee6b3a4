/*
 * work: a job on the worker pool, for what must not block the loop (files, SQLite, DNS, PBKDF2).
 *
 * `run` runs on another thread and may touch only what the job owns; `done` runs on the loop.
 */
#ifndef LOOP_WORK_H
#define LOOP_WORK_H

#include <uv.h>

#include "base/err.h"
#include "loop/loop.h"

struct work {
    uv_work_t uv;
    struct loop *loop;
    void (*run)(struct work *work);
    void (*done)(struct work *work, int code); /* 0 or ERRC_CANCELED */
    void *data;
};

/* The struct must live until done. Zero = `done` will run exactly once. */
int work_start(struct loop *loop, struct work *work, void (*run)(struct work *),
               void (*done)(struct work *, int), void *data);
/* Takes back a job that has not started; done follows with ERRC_CANCELED. A running job goes on. */
void work_cancel(struct work *work);

/* ---- name resolution, on a worker ---- */

#define RESOLVE_MAX 8
struct resolve_result {
    int count;
    char address[RESOLVE_MAX]
                [64]; /* numeric, in the order of getaddrinfo; literals resolve without a worker */
};
struct resolve;
typedef void (*resolve_cb)(const struct err *err, const struct resolve_result *result, void *data);
/* err is NULL on success; ERRC_UNAVAILABLE naming the host otherwise. */
int resolve_start(struct loop *loop, const char *host, resolve_cb cb, void *data, struct resolve **ret,
                  struct err *err);
/* The callback comes with ERRC_CANCELED; the lookup itself may go on unseen. */
void resolve_cancel(struct resolve *r);

#endif
