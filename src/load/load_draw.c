/* Which operation comes next, and for whom. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/load_impl.h"

/* closed loop: operations under way or waiting, for each client: more than one, so that few clients idle */
#define CLOSED_DEPTH 4
/* open loop: operations that may wait; what is due beyond them keeps its intended start */
#define OPEN_DEPTH (1u << 20)

static void queue_put(struct load_queue *q, const struct load_job_op *op)
{
    if (q->count == q->capacity) {
        unsigned capacity = q->capacity == 0 ? 16 : q->capacity * 2;
        struct load_job_op *items = mem_array(capacity, sizeof *items);
        for (unsigned i = 0; i < q->count; i++)
            items[i] = q->items[(q->head + i) % q->capacity];
        free(q->items);
        q->items = items;
        q->capacity = capacity;
        q->head = 0;
    }
    q->items[(q->head + q->count++) % q->capacity] = *op;
}

bool load_queue_take(struct load_queue *q, struct load_job_op *ret)
{
    if (q->count == 0)
        return false;
    *ret = q->items[q->head];
    q->head = (q->head + 1) % q->capacity;
    q->count--;
    return true;
}

void load_queue_free(struct load_queue *q)
{
    free(q->items);
    memset(q, 0, sizeof *q);
}

static enum load_op draw_op(struct load *load)
{
    unsigned at = load_random_below(&load->random, load->mix_total);
    for (int op = 0; op < LOAD_OP_MAX; op++) {
        if (at < load->o.mix[op])
            return (enum load_op)op;
        at -= load->o.mix[op];
    }
    return LOAD_OP_READ;
}

void load_draw(struct load *load)
{
    bool open_loop = load->pace.rate > 0;
    unsigned depth = open_loop ? OPEN_DEPTH : load->o.clients * CLOSED_DEPTH;
    uint64_t now = loop_clock(load->loop), intended;
    while (load->queued + load->busy < depth && load_pace_take(&load->pace, now, &intended)) {
        struct load_job_op op = {
            .intended_ns = open_loop ? intended : 0,
            .number = load_skew_draw(&load->skew, &load->random),
            .op = draw_op(load),
        };
        queue_put(&load->clients[op.number % load->o.clients].queue, &op);
        load->queued++;
    }
    if (open_loop)
        loop_timer_start_at(&load->pace_timer, load_pace_next(&load->pace));
}

static int apply_skew(struct load *load, const char *text, struct err *err)
{
    struct load_skew_spec spec;
    struct load_skew fresh;
    const struct range_set *hot = NULL;
    int code = load_skew_parse(text, &spec, err);
    if (code != 0)
        return code;
    if (spec.kind == SKEW_HOT_SHARD) {
        const struct routing_shard *shard = routing_find_shard(load->route.now, spec.shard);
        if (shard == NULL)
            return err_set(err, ERRC_INVALID, "skew \"%s\": there is no shard \"%s\"", text, spec.shard);
        hot = &shard->ranges;
    }
    code = load_skew_init(&fresh, &spec, load->ledger.state.shape.key_type,
                          load->ledger.state.shape.customers, hot, err);
    if (code != 0)
        return err_wrap(err, "skew \"%s\"", text);
    load_skew_fini(&load->skew);
    load->skew = fresh;
    free(load->skew_text);
    load->skew_text = mem_strdup(text);
    return 0;
}

int load_set_skew(struct load *load, const char *skew, struct err *err)
{
    if (sm_now(&load->sm) != LOAD_LOADING)
        return err_set(err, ERRC_CONFLICT, "no load is running");
    return apply_skew(load, skew, err);
}

int load_next_skew(struct load *load, struct err *err)
{
    if (load->later_next == load->o.later_count)
        return err_set(err, ERRC_NOT_FOUND, "no further skew was given");
    return load_set_skew(load, load->o.later[load->later_next++].skew, err);
}

void load_set_rate(struct load *load, double rate)
{
    load_pace_change(&load->pace, rate, loop_clock(load->loop));
    loop_timer_stop(&load->pace_timer);
    loop_defer(load->loop, &load->turn);
}

void load_reset_rate(struct load *load, double rate)
{
    for (unsigned i = 0; i < load->o.clients; i++)
        load->clients[i].queue.count = 0;
    load->queued = 0;
    load_pace_init(&load->pace, rate, loop_clock(load->loop));
    load_set_rate(load, rate);
}

struct load_gap *load_watched_gap(struct load *load, const struct range *range)
{
    for (unsigned i = 0; i < load->o.watch_count; i++) {
        if (load->o.watch[i].lo == range->lo && load->o.watch[i].hi == range->hi)
            return &load->watch[i];
    }
    return NULL;
}

int load_watch(struct load *load, const struct range *range, struct err *err)
{
    if (load_watched_gap(load, range) != NULL)
        return 0;
    if (load->o.watch_count == LOAD_WATCHES_MAX)
        return err_set(err, ERRC_LIMIT, "at most %d watched ranges", LOAD_WATCHES_MAX);
    load->o.watch[load->o.watch_count++] = *range;
    return 0;
}

int load_draw_init(struct load *load, struct err *err)
{
    uint64_t seed = load->o.seed;
    if (seed == 0)
        load->loop->env->random(load->loop->env, &seed, sizeof seed);
    load->random.state = seed;
    load->mix_total = 0;
    for (int op = 0; op < LOAD_OP_MAX; op++)
        load->mix_total += load->o.mix[op];
    load_pace_init(&load->pace, load->o.rate, loop_clock(load->loop));
    return apply_skew(load, load->o.skew != NULL ? load->o.skew : "uniform", err);
}

void load_draw_fini(struct load *load)
{
    load_skew_fini(&load->skew);
    free(load->skew_text);
    load->skew_text = NULL;
}
