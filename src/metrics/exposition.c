/* Scrapes: who waits for a text, who shares one, and the memory that texts may take. */
#include "metrics/exposition.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/exposition_impl.h"

#define FRESH_NS      (500 * ENV_NS_PER_MS)
#define BLOCKS_NS     (90 * ENV_NS_PER_S) /* blocks are kept so long after a scrape */
#define SNAPSHOTS_MAX 8u                  /* one for each group of slow readers; more get 503 */

static void close_if_done(struct exposition *e)
{
    if (!e->closing || e->snapshots > 0 || e->working)
        return;
    void (*closed)(void *) = e->closed;
    void *data = e->closed_data;
    loop_timer_stop(&e->expiry);
    loop_timer_stop(&e->next);
    loop_task_cancel(&e->assemble);
    free(e->version);
    free(e->commit);
    free(e);
    if (closed != NULL)
        closed(data);
}

static void snapshot_released(void *owner)
{
    snapshot_unref(owner);
}

static void respond(struct exposition *e, struct snapshot *s, struct http_exchange *ex)
{
    (void)e;
    s->users++;
    http_respond_pieces(ex, 200, METRIC_CONTENT_TYPE, s->pieces, s->count, snapshot_released, s);
}

static void fresh_drop(struct exposition *e)
{
    struct snapshot *s = e->fresh;
    e->fresh = NULL;
    loop_timer_stop(&e->expiry);
    if (s != NULL)
        snapshot_unref(s);
}

static void on_expiry(struct loop_timer *timer, void *data)
{
    struct exposition *e = data;
    if (e->fresh != NULL) {
        fresh_drop(e);
        loop_timer_start(timer, BLOCKS_NS);
    } else if (e->making == NULL) {
        text_drop_blocks(e);
    }
}

static void assembly_finish(struct exposition *e)
{
    struct snapshot *s = e->making;
    e->making = NULL;
    s->made_ns = loop_now(e->loop);
    e->assembly_ns = loop_clock(e->loop) - e->assembly_started_ns;
    e->bytes_last = snapshot_length(s);
    fresh_drop(e);
    e->fresh = s; /* takes over the assembly's reference */
    loop_timer_start(&e->expiry, FRESH_NS);
    struct list *node;
    while ((node = list_first(&e->scrapes)) != NULL) {
        struct scrape *scrape = list_item(node, struct scrape, node);
        list_remove(node);
        respond(e, s, scrape->ex);
        free(scrape);
    }
}

static void assemble(struct exposition *e)
{
    if (e->closing) {
        close_if_done(e);
        return;
    }
    if (e->making == NULL)
        return;
    e->slice_started_ns = loop_clock(e->loop);
    e->slices++;
    bool done = text_slice(e);
    uint64_t took = loop_clock(e->loop) - e->slice_started_ns;
    if (took > e->slice_longest_ns)
        e->slice_longest_ns = took;
    if (done)
        assembly_finish(e);
    else
        loop_timer_start(&e->next, 0);
}

static void on_assemble(struct loop_task *task, void *data)
{
    (void)task;
    assemble(data);
}

static void on_next(struct loop_timer *timer, void *data)
{
    (void)timer;
    assemble(data);
}

/* ---- the process ---- */

#define PROCESS_PERIOD_NS (5 * ENV_NS_PER_S)

static void on_process_run(struct work *work)
{
    struct exposition *e = work->data;
    process_facts_read(&e->found);
}

static void on_process_read(struct work *work, int code)
{
    struct exposition *e = work->data;
    e->working = false;
    if (code == 0) {
        e->process = e->found;
        e->process.read_ns = loop_now(e->loop);
    }
    close_if_done(e);
}

static void process_refresh(struct exposition *e)
{
    uint64_t now = loop_now(e->loop);
    if (e->working || (e->process.read_ns != 0 && now - e->process.read_ns < PROCESS_PERIOD_NS))
        return;
    e->working = work_start(e->loop, &e->work, on_process_run, on_process_read, e) == 0;
}

/* ---- life ---- */

struct exposition *exposition_new(struct loop *loop, struct pollers *pollers,
                                  const struct exposition_options *options)
{
    struct exposition *e = mem_zalloc(sizeof *e);
    e->loop = loop;
    e->pollers = pollers;
    if (options != NULL)
        e->options = *options;
    e->version = mem_strdup(e->options.version != NULL ? e->options.version : "");
    e->commit = mem_strdup(e->options.commit != NULL ? e->options.commit : "");
    e->started_us = loop_wall(loop);
    list_init(&e->scrapes);
    loop_timer_init(loop, &e->expiry, on_expiry, e);
    loop_timer_init(loop, &e->next, on_next, e);
    e->assemble.run = on_assemble;
    e->assemble.data = e;
    process_refresh(e);
    return e;
}

static void refuse(struct exposition *e, struct http_exchange *ex, const char *why)
{
    e->refused_total++;
    http_set_header(ex, "Retry-After", "1");
    http_problem(ex, 503, "unavailable", "%s", why);
}

void exposition_close(struct exposition *e, void (*closed)(void *data), void *data)
{
    if (e == NULL || e->closing)
        return;
    e->closing = true;
    e->closed = closed;
    e->closed_data = data;
    struct list *node;
    while ((node = list_first(&e->scrapes)) != NULL) {
        struct scrape *scrape = list_item(node, struct scrape, node);
        list_remove(node);
        refuse(e, scrape->ex, "shutting down");
        free(scrape);
    }
    loop_timer_stop(&e->next);
    text_cancel(e);
    text_drop_blocks(e);
    fresh_drop(e);
    loop_defer(e->loop, &e->assemble);
}

void exposition_handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    struct exposition *e = data;
    if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0) {
        http_set_header(ex, "Allow", "GET, HEAD");
        http_problem(ex, 405, "method_not_allowed", "%s is not possible here, GET is", request->method);
        return;
    }
    if (e->closing) {
        refuse(e, ex, "shutting down");
        return;
    }
    e->scrapes_total++;
    process_refresh(e);
    if (e->fresh != NULL && loop_now(e->loop) - e->fresh->made_ns < FRESH_NS) {
        respond(e, e->fresh, ex);
        return;
    }
    if (e->making == NULL && e->snapshots >= SNAPSHOTS_MAX) {
        refuse(e, ex, "too many slow scrapes are being written");
        return;
    }
    struct scrape *scrape = mem_zalloc(sizeof *scrape);
    scrape->ex = ex;
    list_append(&e->scrapes, &scrape->node);
    if (e->making != NULL)
        return;
    e->assembly_started_ns = loop_clock(e->loop);
    e->restarts = 0;
    e->slices = 0;
    text_begin(e);
    loop_defer(e->loop, &e->assemble);
}
