/*
 * toy_fleet: a database under virtual time. Load comes from sources, each a range of hashes with a rate;
 * shards carry what falls into their ranges. What balance_decide() decides is carried out with the delays of
 * a real move, so that its consequences come back as load. Seeded; after each second the invariants are
 * checked.
 */
#ifndef SIM_TOY_FLEET_H
#define SIM_TOY_FLEET_H

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balance/balance.h"
#include "base/env.h"
#include "base/mem.h"

#define TOY_SHARDS  64
#define TOY_SOURCES 64
#define TOY_EVENTS  4096
#define TOY_STEPS   8    /* parts of a second in which a rate is taken as constant */
#define TOY_WRITES  2000 /* of a second, at most */

struct toy_source {
    struct range where;
    double (*rate)(const struct toy_source *source, double t); /* transactions/s at t seconds */
    double base, extra, from, until;                           /* for the rate functions */
};

struct toy_move {
    bool running;
    char name[16];
    enum balance_kind kind;
    struct range range;
    size_t from, to; /* ids; to of a new shard is made at the cutover */
    double cutover, end;
};

struct toy_shard {
    bool exists;
    char name[16];
    struct range_set ranges;
    struct load_ring *ring;
    struct split_sample *stream, *rows;
    double stream_at; /* when the slot will be there; < 0 = not asked for */
    double polled;    /* time of the last poll */
    uint64_t last_move_ns;
};

struct toy_event {
    double t;
    struct balance_change change;
};

struct toy {
    const char *scenario;
    uint64_t seed, random;
    double t;     /* seconds */
    double noise; /* relative, of each poll */
    double provision_s, copy_s, bake_s;
    struct toy_source sources[TOY_SOURCES];
    size_t source_count;
    void (*update)(struct toy *toy); /* before each second; may be NULL */
    struct toy_shard shards[TOY_SHARDS];
    struct toy_move moves[TOY_SHARDS];
    unsigned made, moved, most_moves;
    struct balance_policy policy;
    struct balance_facts facts;
    struct balance_shard_facts shard_facts[TOY_SHARDS];
    struct balance_state *state;
    struct toy_event *events;
    size_t event_count;
};

#define toy_check(toy, ok)                                                                                   \
    do {                                                                                                     \
        if (!(ok))                                                                                           \
            toy_fail(toy, #ok, __LINE__);                                                                    \
    } while (0)

static inline void toy_fail(const struct toy *toy, const char *what, int line)
{
    printf("FAILED %s, seed %" PRIu64 ", second %.1f, line %d: %s\n", toy->scenario, toy->seed, toy->t, line,
           what);
    for (size_t i = 0; i < toy->event_count; i++)
        printf("  %9.1f %s\n", toy->events[i].t, toy->events[i].change.sentence);
    exit(1);
}

/* ---- randomness ---- */

static inline uint64_t toy_random(struct toy *toy)
{
    uint64_t z = toy->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline double toy_unit(struct toy *toy)
{
    return (double)(toy_random(toy) >> 11) / 9007199254740992.0;
}

static inline double toy_normal(struct toy *toy)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += toy_unit(toy);
    return sum - 6;
}

/* ---- load ---- */

static inline double toy_share(const struct range *source, const struct range *part)
{
    int64_t lo = source->lo > part->lo ? source->lo : part->lo,
            hi = source->hi < part->hi ? source->hi : part->hi;
    if (lo > hi)
        return 0;
    struct range both = {lo, hi};
    return ((double)range_width_minus_one(&both) + 1) / ((double)range_width_minus_one(source) + 1);
}

static inline double toy_source_on(const struct toy *toy, size_t source, const struct toy_shard *shard,
                                   double t)
{
    const struct toy_source *s = &toy->sources[source];
    double share = 0;
    for (size_t i = 0; i < shard->ranges.count; i++)
        share += toy_share(&s->where, &shard->ranges.items[i]);
    return share > 0 ? share * s->rate(s, t) : 0;
}

static inline double toy_load(const struct toy *toy, const struct toy_shard *shard, double t)
{
    double sum = 0;
    for (size_t i = 0; i < toy->source_count; i++)
        sum += toy_source_on(toy, i, shard, t);
    return sum;
}

static inline void toy_poll(struct toy *toy, struct toy_shard *shard)
{
    double at = toy->t - 0.05 * toy_unit(toy), sum = 0;
    for (int i = 0; i < TOY_STEPS; i++)
        sum += toy_load(toy, shard, shard->polled + (at - shard->polled) * (i + 0.5) / TOY_STEPS);
    struct load_sample sample = {.at_ns = (uint64_t)(at * 1e9), .active_sessions = NAN, .probe_ms = NAN};
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        sample.value[m] = NAN;
    sample.value[LOAD_QUERY_RATE] = (float)(sum / TOY_STEPS * (1 + toy->noise * toy_normal(toy)));
    load_ring_add(shard->ring, &sample);
    shard->polled = at;
}

/* A hash that some source writes to this shard at t. */
static inline int64_t toy_write(struct toy *toy, const struct toy_shard *shard, double t)
{
    double dice = toy_unit(toy) * toy_load(toy, shard, t);
    size_t n = 0;
    while (n + 1 < toy->source_count && dice >= toy_source_on(toy, n, shard, t))
        dice -= toy_source_on(toy, n++, shard, t);
    const struct range *r = &toy->sources[n].where;
    for (int tries = 0; tries < 1000; tries++) {
        uint64_t width = range_width_minus_one(r), x = toy_random(toy);
        int64_t hash = (int64_t)((uint64_t)r->lo + (width == UINT64_MAX ? x : x % (width + 1)));
        if (range_set_contains(&shard->ranges, hash))
            return hash;
    }
    return shard->ranges.items[0].lo;
}

static inline void toy_listen(struct toy *toy, struct toy_shard *shard)
{
    bool wanted = balance_wants_stream(toy->state, shard->name, (size_t)(shard - toy->shards));
    if (!wanted) {
        split_sample_free(shard->stream);
        shard->stream = NULL;
        shard->stream_at = -1;
        return;
    }
    if (shard->stream_at < 0)
        shard->stream_at = toy->t + 0.02 + 0.28 * toy_unit(toy);
}

/* The writes of the second that passed. */
static inline void toy_hear(struct toy *toy, struct toy_shard *shard)
{
    if (shard->stream_at < 0 || shard->stream_at > toy->t)
        return;
    double from = toy->t - 1 > shard->stream_at ? toy->t - 1 : shard->stream_at;
    if (shard->stream == NULL)
        shard->stream =
            split_sample_new((uint64_t)(shard->stream_at * 1e9), toy->policy.sample_ns, toy->seed);
    double rate = toy_load(toy, shard, toy->t - 0.5);
    int writes = (int)((rate < TOY_WRITES ? rate : TOY_WRITES) * (toy->t - from));
    for (int i = 0; i < writes; i++) {
        double at = from + (toy->t - from) * i / writes;
        if (toy_load(toy, shard, at) <= 0)
            continue;
        split_sample_tick(shard->stream, (uint64_t)(at * 1e9));
        split_sample_add(shard->stream, toy_write(toy, shard, at), 1);
    }
}

static inline void toy_rows(struct toy *toy, struct toy_shard *shard)
{
    if (!balance_wants_rows(toy->state, shard->name, (size_t)(shard - toy->shards))) {
        split_sample_free(shard->rows);
        shard->rows = NULL;
    } else if (shard->rows == NULL) {
        shard->rows = split_sample_new((uint64_t)(toy->t * 1e9), 0, toy->seed);
        for (int i = 0; i < 1000; i++) {
            const struct range *r = &shard->ranges.items[(size_t)i % shard->ranges.count];
            uint64_t width = range_width_minus_one(r), x = toy_random(toy);
            split_sample_add(shard->rows,
                             (int64_t)((uint64_t)r->lo + (width == UINT64_MAX ? x : x % (width + 1))), 1);
        }
        split_sample_close(shard->rows);
    }
}

/* ---- shards and moves ---- */

static inline size_t toy_add_shard(struct toy *toy)
{
    size_t id = 0;
    while (toy->shards[id].exists)
        id++;
    toy_check(toy, id < TOY_SHARDS - 1);
    struct toy_shard *s = &toy->shards[id];
    *s = (struct toy_shard){
        .exists = true, .stream_at = -1, .polled = toy->t, .ring = mem_alloc(sizeof *s->ring)};
    load_ring_init(s->ring);
    snprintf(s->name, sizeof s->name, "s%u", ++toy->made);
    return id;
}

static inline void toy_remove_shard(struct toy *toy, size_t id)
{
    struct toy_shard *s = &toy->shards[id];
    load_ring_fini(s->ring);
    free(s->ring);
    split_sample_free(s->stream);
    split_sample_free(s->rows);
    range_set_free(&s->ranges);
    s->exists = false;
}

static inline size_t toy_find(const struct toy *toy, const char *name)
{
    for (size_t i = 0; i < TOY_SHARDS; i++)
        if (toy->shards[i].exists && strcmp(toy->shards[i].name, name) == 0)
            return i;
    return TOY_SHARDS;
}

static inline const struct toy_move *toy_move_of(const struct toy *toy, size_t shard)
{
    for (size_t i = 0; i < TOY_SHARDS; i++)
        if (toy->moves[i].running && (toy->moves[i].from == shard || toy->moves[i].to == shard))
            return &toy->moves[i];
    return NULL;
}

static inline void toy_start(struct toy *toy, const struct balance_change *c)
{
    size_t id = 0, from = toy_find(toy, c->shard),
           to = c->target[0] != '\0' ? toy_find(toy, c->target) : TOY_SHARDS;
    while (toy->moves[id].running)
        id++;
    toy_check(toy, from < TOY_SHARDS);
    toy_check(toy, (to == TOY_SHARDS) == (c->kind == BALANCE_SPLIT));
    toy_check(toy, toy_move_of(toy, from) == NULL);
    toy_check(toy, to == TOY_SHARDS || toy_move_of(toy, to) == NULL);
    struct toy_move *m = &toy->moves[id];
    double cutover = toy->t + (c->kind == BALANCE_SPLIT ? toy->provision_s : 0) + toy->copy_s;
    *m = (struct toy_move){true, "", c->kind, c->range, from, to, cutover, cutover + toy->bake_s};
    snprintf(m->name, sizeof m->name, "op-%u", ++toy->moved);
}

static inline void toy_cut_over(struct toy *toy, struct toy_move *m)
{
    if (m->kind == BALANCE_SPLIT)
        m->to = toy_add_shard(toy);
    struct range_set moving = {0};
    if (m->kind == BALANCE_MERGE)
        range_set_copy(&moving, &toy->shards[m->from].ranges);
    else
        range_set_add(&moving, &m->range, NULL);
    for (size_t i = 0; i < moving.count; i++) {
        toy_check(toy, range_set_remove(&toy->shards[m->from].ranges, &moving.items[i], NULL) == 0);
        toy_check(toy, range_set_add(&toy->shards[m->to].ranges, &moving.items[i], NULL) == 0);
    }
    range_set_free(&moving);
    m->cutover = INFINITY;
}

static inline void toy_progress(struct toy *toy)
{
    unsigned running = 0;
    for (size_t i = 0; i < TOY_SHARDS; i++) {
        struct toy_move *m = &toy->moves[i];
        if (!m->running)
            continue;
        running++;
        if (toy->t >= m->cutover)
            toy_cut_over(toy, m);
        if (toy->t < m->end)
            continue;
        m->running = false;
        toy->shards[m->from].last_move_ns = toy->shards[m->to].last_move_ns = (uint64_t)(toy->t * 1e9);
        if (m->kind == BALANCE_MERGE)
            toy_remove_shard(toy, m->from);
    }
    toy->most_moves = running > toy->most_moves ? running : toy->most_moves;
}

/* ---- a second ---- */

static inline void toy_snapshot(struct toy *toy)
{
    size_t count = 0;
    toy->facts.pending_shards = toy->facts.running_operations = 0;
    for (size_t i = 0; i < TOY_SHARDS; i++) {
        const struct toy_move *m = &toy->moves[i];
        toy->facts.running_operations += m->running;
        toy->facts.pending_shards += m->running && m->kind == BALANCE_SPLIT && m->to == TOY_SHARDS;
        struct toy_shard *s = &toy->shards[i];
        if (!s->exists)
            continue;
        m = toy_move_of(toy, i);
        toy->shard_facts[count++] = (struct balance_shard_facts){.name = s->name,
                                                                 .ranges = &s->ranges,
                                                                 .load = s->ring,
                                                                 .last_move_ns = s->last_move_ns,
                                                                 .operation = m != NULL ? m->name : NULL,
                                                                 .may_receive = true,
                                                                 .sample = s->stream,
                                                                 .rows = s->rows};
    }
    toy->facts.now_ns = (uint64_t)(toy->t * 1e9);
    toy->facts.shard_count = count;
    toy->facts.free_instances = TOY_SHARDS - 2 - (unsigned)count - toy->facts.pending_shards;
}

/* Every hash has exactly one owner. */
static inline void toy_invariants(struct toy *toy)
{
    struct range_set all = {0};
    for (size_t i = 0; i < TOY_SHARDS; i++)
        for (size_t r = 0; toy->shards[i].exists && r < toy->shards[i].ranges.count; r++)
            toy_check(toy, range_set_add(&all, &toy->shards[i].ranges.items[r], NULL) == 0);
    toy_check(toy, all.count == 1 && all.items[0].lo == INT64_MIN && all.items[0].hi == INT64_MAX);
    range_set_free(&all);
}

static inline void toy_check_change(struct toy *toy, const struct balance_change *c)
{
    const struct toy_shard *s = &toy->shards[toy_find(toy, c->shard)];
    uint64_t now = toy->facts.now_ns, since = now - s->last_move_ns;
    bool moves = c->kind == BALANCE_SPLIT || c->kind == BALANCE_REBALANCE || c->kind == BALANCE_MERGE;
    toy_check(toy, strchr(c->sentence, '<') == NULL);
    if (!moves)
        return;
    toy_check(toy, s->last_move_ns == 0 || since >= toy->policy.cooldown_ns);
    toy_check(toy, range_set_contains_range(&s->ranges, &c->range));
    if (c->kind != BALANCE_MERGE) {
        toy_check(toy, c->kept < toy->policy.threshold && c->moved < toy->policy.threshold);
        toy_check(toy, c->load > toy->policy.threshold);
    }
}

static inline void toy_second(struct toy *toy)
{
    struct balance_changes changes = {0};
    if (toy->update != NULL)
        toy->update(toy);
    toy->t += 1;
    for (size_t i = 0; i < TOY_SHARDS; i++) {
        if (!toy->shards[i].exists)
            continue;
        toy_poll(toy, &toy->shards[i]);
        toy_hear(toy, &toy->shards[i]);
    }
    toy_progress(toy);
    toy_snapshot(toy);
    balance_decide(&toy->facts, toy->state, &changes);
    for (size_t i = 0; i < changes.count; i++) {
        const struct balance_change *c = &changes.items[i];
        toy_check_change(toy, c);
        toy_check(toy, toy->event_count < TOY_EVENTS);
        toy->events[toy->event_count++] = (struct toy_event){toy->t, *c};
        if (c->act && (c->kind == BALANCE_SPLIT || c->kind == BALANCE_REBALANCE || c->kind == BALANCE_MERGE))
            toy_start(toy, c);
    }
    balance_changes_free(&changes);
    for (size_t i = 0; i < TOY_SHARDS; i++)
        if (toy->shards[i].exists) {
            toy_listen(toy, &toy->shards[i]);
            toy_rows(toy, &toy->shards[i]);
        }
    toy_invariants(toy);
}

static inline void toy_run(struct toy *toy, double until)
{
    while (toy->t < until)
        toy_second(toy);
}

/* ---- life ---- */

/* Shards of equal width; the first poll falls at a fraction of a second that the seed chooses. */
static inline struct toy *toy_new(const char *scenario, uint64_t seed, size_t shards)
{
    struct toy *toy = mem_zalloc(sizeof *toy);
    struct range even[TOY_SHARDS];
    toy->scenario = scenario;
    toy->seed = toy->random = seed;
    toy->t = 1000 + toy_unit(toy);
    toy->noise = 0.01;
    toy->provision_s = 4;
    toy->copy_s = 20;
    toy->bake_s = 15;
    toy->events = mem_array(TOY_EVENTS, sizeof *toy->events);
    toy->state = balance_state_new();
    balance_policy_defaults(&toy->policy);
    toy->policy.merge = AUTO_ON;
    toy->facts =
        (struct balance_facts){.database = "toy", .policy = &toy->policy, .shards = toy->shard_facts};
    range_split_evenly(shards, even);
    for (size_t i = 0; i < shards; i++)
        range_set_add(&toy->shards[toy_add_shard(toy)].ranges, &even[i], NULL);
    return toy;
}

static inline void toy_free(struct toy *toy)
{
    for (size_t i = 0; i < TOY_SHARDS; i++)
        if (toy->shards[i].exists)
            toy_remove_shard(toy, i);
    balance_state_free(toy->state);
    free(toy->events);
    free(toy);
}

/* ---- what happened ---- */

static inline size_t toy_count_rule(const struct toy *toy, int rule)
{
    size_t n = 0;
    for (size_t i = 0; i < toy->event_count; i++)
        n += toy->events[i].change.rule == rule;
    return n;
}

static inline size_t toy_count(const struct toy *toy, enum balance_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < toy->event_count; i++)
        n += toy->events[i].change.kind == kind;
    return n;
}

/* Time of the n-th change of that kind; -1 if there is none. */
static inline double toy_time(const struct toy *toy, enum balance_kind kind, size_t n)
{
    for (size_t i = 0; i < toy->event_count; i++)
        if (toy->events[i].change.kind == kind && n-- == 0)
            return toy->events[i].t;
    return -1;
}

static inline size_t toy_shard_count(const struct toy *toy)
{
    size_t n = 0;
    for (size_t i = 0; i < TOY_SHARDS; i++)
        n += toy->shards[i].exists;
    return n;
}

static inline double toy_greatest_load(const struct toy *toy)
{
    double most = 0;
    for (size_t i = 0; i < TOY_SHARDS; i++)
        if (toy->shards[i].exists && toy_load(toy, &toy->shards[i], toy->t) > most)
            most = toy_load(toy, &toy->shards[i], toy->t);
    return most;
}

#endif
