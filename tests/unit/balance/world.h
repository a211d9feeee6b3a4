/*
 * world: up to eight shards whose loads a case sets, one second at a time, with the answers that the manager
 * would give to what balance_decide() wants. What was decided is kept as text: "sample R20 s1 @7".
 */
#ifndef TEST_BALANCE_WORLD_H
#define TEST_BALANCE_WORLD_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balance/balance.h"
#include "base/buf.h"
#include "base/env.h"
#include "base/mem.h"

#define WORLD_SHARDS 8
#define S            ENV_NS_PER_S

/* What the change stream of a hot shard shows. */
enum stream { EVEN, HOT_KEY, FEW, KEYS_CHANGE, SWEEP, NOTHING, NO_STREAM, STREAM_ERROR };

struct world {
    struct balance_policy policy;
    struct balance_facts facts;
    struct balance_shard_facts shards[WORLD_SHARDS];
    char names[WORLD_SHARDS][24];
    struct range ranges[WORLD_SHARDS][8];
    struct range_set sets[WORLD_SHARDS];
    struct load_ring *rings[WORLD_SHARDS];
    struct split_sample *samples[WORLD_SHARDS], *rows[WORLD_SHARDS];
    double load[WORLD_SHARDS], size[WORLD_SHARDS]; /* size: bytes, 0 = not known */
    enum stream stream[WORLD_SHARDS];
    bool rows_empty, rows_never;
    uint64_t random;
    struct balance_state *state;
    struct balance_changes changes; /* of the last second */
    struct buf log;
    int second; /* since world_new() */
    int epoch;  /* seconds in the log count from here */
};

static inline uint64_t world_random(struct world *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline struct world *world_new(size_t shards)
{
    struct world *w = mem_zalloc(sizeof *w);
    struct range even[WORLD_SHARDS];
    range_split_evenly(shards, even);
    balance_policy_defaults(&w->policy);
    w->policy.rebalance = AUTO_OFF;
    w->policy.merge = AUTO_OFF;
    w->random = 1;
    w->state = balance_state_new();
    for (size_t i = 0; i < shards; i++) {
        snprintf(w->names[i], sizeof w->names[i], "s%zu", i + 1);
        w->ranges[i][0] = even[i];
        w->sets[i] = (struct range_set){w->ranges[i], 1};
        w->rings[i] = mem_alloc(sizeof *w->rings[i]);
        load_ring_init(w->rings[i]);
        w->shards[i] = (struct balance_shard_facts){
            .name = w->names[i], .ranges = &w->sets[i], .load = w->rings[i], .may_receive = true};
        w->load[i] = 100;
    }
    w->facts = (struct balance_facts){.database = "shop",
                                      .policy = &w->policy,
                                      .shards = w->shards,
                                      .shard_count = shards,
                                      .free_instances = 10,
                                      .now_ns = 100000 * S};
    return w;
}

static inline void world_free(struct world *w)
{
    for (size_t i = 0; i < WORLD_SHARDS; i++) {
        load_ring_fini(w->rings[i]);
        free(w->rings[i]);
        split_sample_free(w->samples[i]);
        split_sample_free(w->rows[i]);
    }
    balance_state_free(w->state);
    balance_changes_free(&w->changes);
    buf_free(&w->log);
    free(w);
}

static inline int64_t world_hash_in(struct world *w, const struct range *r)
{
    uint64_t width = range_width_minus_one(r), x = world_random(w);
    return (int64_t)((uint64_t)r->lo + (width == UINT64_MAX ? x : x % (width + 1)));
}

static inline int64_t world_write(struct world *w, size_t i, uint64_t at_ns)
{
    const struct range *r = &w->ranges[i][world_random(w) % w->sets[i].count];
    uint64_t dice = world_random(w) % 100, at_s = at_ns / S;
    if (w->stream[i] == HOT_KEY && dice < 61)
        return w->ranges[i][0].lo + 12345;
    if (w->stream[i] == KEYS_CHANGE && dice < 60) /* four keys of this second */
        return w->ranges[i][0].lo + (int64_t)(at_s * 1000 + dice % 4);
    if (w->stream[i] == SWEEP) /* a narrow window that walks */
        return w->ranges[i][0].lo + (int64_t)(at_ns / 1000 % (1ull << 40)) * 1000000 + (int64_t)(dice * 1000);
    return world_hash_in(w, r);
}

/* The second that just passed, in the stream. */
static inline void world_hear(struct world *w, size_t i)
{
    struct split_sample *s = w->samples[i];
    unsigned writes = w->stream[i] == FEW ? 5 : w->stream[i] == NOTHING ? 0 : 600;
    for (unsigned n = 0; n < writes; n++) {
        uint64_t at_ns = w->facts.now_ns - S + n * S / writes;
        split_sample_tick(s, at_ns);
        split_sample_add(s, world_write(w, i, at_ns), 1);
    }
}

/* Starts and stops listening as the state wants it. */
static inline void world_answer(struct world *w, size_t i)
{
    struct balance_shard_facts *shard = &w->shards[i];
    bool stream = balance_wants_stream(w->state, shard->name, i),
         rows = balance_wants_rows(w->state, shard->name, i);
    if (!stream) {
        split_sample_free(w->samples[i]);
        w->samples[i] = NULL;
        shard->sample_error = NULL;
    } else if (w->stream[i] == STREAM_ERROR) {
        shard->sample_error = "permission denied";
    } else if (w->stream[i] != NO_STREAM && w->samples[i] == NULL) {
        w->samples[i] = split_sample_new(w->facts.now_ns + S / 10, w->policy.sample_ns, w->random);
    }
    if (!rows) {
        split_sample_free(w->rows[i]);
        w->rows[i] = NULL;
    } else if (w->rows[i] == NULL && !w->rows_never) {
        w->rows[i] = split_sample_new(w->facts.now_ns, 0, w->random);
        for (unsigned n = 0; n < 2000 && !w->rows_empty; n++)
            split_sample_add(w->rows[i], world_hash_in(w, &w->ranges[i][n % w->sets[i].count]), 1);
        split_sample_close(w->rows[i]);
    }
    shard->sample = w->samples[i];
    shard->rows = w->rows[i];
}

/* One second: samples (a load of NAN is a poll that failed, below 0 one that never came), a decision, the
 * answers. */
static inline void world_tick(struct world *w)
{
    w->second++;
    w->facts.now_ns += S;
    balance_changes_reset(&w->changes);
    for (size_t i = 0; i < w->facts.shard_count; i++) {
        struct load_sample sample = {
            .at_ns = w->facts.now_ns - S / 100, .active_sessions = NAN, .probe_ms = NAN};
        for (int m = 0; m < LOAD_METRIC_MAX; m++)
            sample.value[m] = NAN;
        if (w->size[i] > 0)
            sample.value[LOAD_SIZE] = (float)w->size[i];
        sample.value[w->policy.objective] = (float)w->load[i];
        if (!(w->load[i] < 0))
            load_ring_add(w->rings[i], &sample);
        if (w->samples[i] != NULL)
            world_hear(w, i);
    }
    balance_decide(&w->facts, w->state, &w->changes);
    for (size_t i = 0; i < w->facts.shard_count; i++)
        world_answer(w, i);
    for (size_t i = 0; i < w->changes.count; i++) {
        const struct balance_change *c = &w->changes.items[i];
        buf_printf(&w->log, "%s%s%s R%d %s", w->log.length > 0 ? ", " : "", balance_kind_name(c->kind),
                   c->act || c->kind == BALANCE_REFUSE ? "" : "?", c->rule, c->shard);
        if (c->target[0] != '\0')
            buf_printf(&w->log, ">%s", c->target);
        buf_printf(&w->log, " @%d", w->second - w->epoch);
    }
}

static inline void world_run(struct world *w, int seconds)
{
    while (seconds-- > 0)
        world_tick(w);
}

#endif
