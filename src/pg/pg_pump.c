/*
 * Happy path: rows of the source go into the queue of the target's COPY; above HIGH bytes there, or without
 * tokens, the source is paused; the source ends, the target ends, `done`.
 * Failure: the first error is kept, the other side is ended, `done` when both have answered.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "pg/pg_copy.h"
#include "pg/pg_impl.h"

#define HIGH        (1u << 20)
#define PROGRESS_NS (100 * ENV_NS_PER_MS)
#define ENDING_NS   (30 * ENV_NS_PER_S)
#define BURST_MIN   (64.0 * 1024)

struct pg_pump {
    struct loop *loop;
    struct pg_copy *out; /* NULL once it is over */
    struct pg_copy *in;
    bool behind; /* the target's queue was over HIGH and has not run empty */
    bool broken; /* an error or a cancel: only waits for both to end */
    struct err err;
    uint64_t rows, bytes;
    pg_copy_done_cb done;
    void *data;
    void (*progress)(uint64_t rows, uint64_t bytes, void *data);
    uint64_t progress_ns;

    double rate; /* bytes per nanosecond, 0 = no limit */
    double tokens;
    uint64_t refilled_ns;
    struct loop_timer rate_timer;
};

/* ---- rate ---- */

static void refill(struct pg_pump *pump)
{
    uint64_t now = loop_now(pump->loop);
    double burst = pump->rate * (double)PROGRESS_NS;
    if (burst < BURST_MIN)
        burst = BURST_MIN;
    pump->tokens += pump->rate * (double)(now - pump->refilled_ns);
    if (pump->tokens > burst)
        pump->tokens = burst;
    pump->refilled_ns = now;
}

static void flow_update(struct pg_pump *pump)
{
    if (pump->out == NULL)
        return;
    bool wait = false;
    if (pump->rate > 0 && !pump->broken) {
        refill(pump);
        wait = pump->tokens < 0;
        if (wait && !loop_timer_armed(&pump->rate_timer))
            loop_timer_start(&pump->rate_timer, (uint64_t)(-pump->tokens / pump->rate) + ENV_NS_PER_MS);
    }
    if ((pump->behind || wait) && !pump->broken)
        pg_copy_pause(pump->out);
    else
        pg_copy_resume(pump->out);
}

static void on_rate_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    flow_update(data);
}

void pg_pump_set_rate(struct pg_pump *pump, uint64_t bytes_per_second)
{
    loop_timer_stop(&pump->rate_timer);
    pump->rate = (double)bytes_per_second / (double)ENV_NS_PER_S;
    pump->tokens = 0;
    pump->refilled_ns = loop_now(pump->loop);
    flow_update(pump);
}

/* ---- the two sides ---- */

static void finish_if_over(struct pg_pump *pump)
{
    if (pump->out != NULL || pump->in != NULL)
        return;
    loop_timer_stop(&pump->rate_timer);
    const struct err *err = pump->err.code != ERRC_NONE ? &pump->err : NULL;
    if (pump->done != NULL)
        pump->done(err, pump->rows, pump->bytes, pump->data);
    free(pump);
}

/* Keeps the first error and ends what still runs. */
static void break_off(struct pg_pump *pump, const struct err *err, const char *side)
{
    if (pump->broken)
        return;
    pump->broken = true;
    err_copy(&pump->err, err);
    if (side != NULL)
        err_wrap(&pump->err, "%s", side);
    loop_timer_stop(&pump->rate_timer);
    if (pump->out != NULL) {
        pg_copy_set_deadline(pump->out, ENDING_NS);
        pg_copy_cancel(pump->out);
    }
    if (pump->in != NULL) {
        pg_copy_set_deadline(pump->in, ENDING_NS);
        pg_copy_cancel(pump->in);
    }
}

static void on_rows(const char *bytes, size_t length, void *data)
{
    struct pg_pump *pump = data;
    pump->rows++;
    pump->bytes += length;
    pump->tokens -= (double)length;
    pg_copy_queue(pump->in, bytes, length);
    if (pg_copy_queued(pump->in) > HIGH)
        pump->behind = true;
    if (pump->behind || pump->rate > 0)
        flow_update(pump);
    uint64_t now = loop_now(pump->loop);
    if (pump->progress == NULL || now - pump->progress_ns < PROGRESS_NS)
        return;
    pump->progress_ns = now;
    pump->progress(pump->rows, pump->bytes, pump->data);
}

static void on_target_ready(struct pg_copy *copy, void *data)
{
    (void)copy;
    struct pg_pump *pump = data;
    pump->behind = false;
    flow_update(pump);
}

static void on_source_done(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    (void)rows;
    (void)bytes;
    struct pg_pump *pump = data;
    pump->out = NULL;
    if (err != NULL)
        break_off(pump, err, "source");
    else if (pump->in != NULL && !pump->broken)
        pg_copy_end(pump->in, NULL);
    finish_if_over(pump);
}

static void on_target_done(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    (void)bytes;
    static const struct err early = {.code = ERRC_PROTOCOL, .message = "COPY ended before its data"};
    struct pg_pump *pump = data;
    pump->in = NULL;
    if (err != NULL)
        break_off(pump, err, "target");
    else if (pump->out != NULL)
        break_off(pump, &early, "target");
    else
        pump->rows = rows;
    finish_if_over(pump);
}

int pg_pump_start(const struct pg_pump_options *options, pg_copy_done_cb done, void *data,
                  struct pg_pump **ret, struct err *err)
{
    if (options->source == options->target)
        return err_set(err, ERRC_INVALID, "a pump needs two connections");
    int rc = pg_queue_check(options->target, err); /* so that the second start below cannot fail */
    if (rc != 0)
        return rc;
    struct pg_pump *pump = mem_zalloc(sizeof *pump);
    pump->loop = pg_conn_loop(options->source);
    pump->done = done;
    pump->data = data;
    pump->progress = options->progress;
    pump->refilled_ns = pump->progress_ns = loop_now(pump->loop);
    loop_timer_init(pump->loop, &pump->rate_timer, on_rate_timer, pump);
    pump->rate = (double)options->bytes_per_second / (double)ENV_NS_PER_S;
    rc = pg_copy_out(options->source, options->source_sql, on_rows, on_source_done, pump, &pump->out, err);
    if (rc == 0)
        rc = pg_copy_in(options->target, options->target_sql, on_target_ready, on_target_done, pump,
                        &pump->in, err);
    if (rc != 0) {
        free(pump);
        return rc;
    }
    if (ret != NULL)
        *ret = pump;
    return 0;
}

void pg_pump_cancel(struct pg_pump *pump)
{
    static const struct err canceled = {.code = ERRC_CANCELED, .message = "the copy was canceled"};
    break_off(pump, &canceled, NULL);
}
