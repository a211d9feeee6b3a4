#include "balance/heat.h"

#include <math.h>
#include <stdlib.h>

#include "base/env.h"
#include "base/mem.h"

#define MINUTE_NS (60 * ENV_NS_PER_S)

uint64_t heat_period(const struct balance_facts *facts)
{
    return facts->period_ns > 0 ? facts->period_ns : ENV_NS_PER_S;
}

/* More than this between two samples, or after the newest: one is missing. */
static uint64_t longest_gap(const struct balance_facts *facts, size_t shard, bool newest)
{
    uint64_t period = heat_period(facts), own = facts->shards[shard].period_ns;
    return (newest && own > period ? own : period) * 3 / 2;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* The n-th newest value; NAN if it, or one between it and now, is missing. *ended: the history is no longer.
 */
static double value_at(const struct balance_facts *facts, size_t shard, unsigned n, uint64_t *at_ns,
                       bool *ended)
{
    const struct load_ring *ring = facts->shards[shard].load;
    struct load_sample s, next;
    bool found = ring != NULL && load_ring_second(ring, n, &s);
    *ended = !found && n > 0;
    if (!found)
        return (double)NAN;
    uint64_t until = n > 0 && load_ring_second(ring, n - 1, &next) ? next.at_ns : facts->now_ns;
    *at_ns = s.at_ns;
    bool late = until > s.at_ns && until - s.at_ns > longest_gap(facts, shard, n == 0);
    return late ? (double)NAN : (double)s.value[facts->policy->objective];
}

/* What a shard carried at about that moment. */
static double value_near(const struct balance_facts *facts, size_t shard, uint64_t at_ns)
{
    const struct load_ring *ring = facts->shards[shard].load;
    struct load_sample s;
    if (ring == NULL)
        return (double)NAN;
    for (unsigned n = 0; load_ring_second(ring, n, &s); n++) {
        if (distance(s.at_ns, at_ns) <= heat_period(facts))
            return (double)s.value[facts->policy->objective];
        if (s.at_ns < at_ns)
            break;
    }
    return (double)NAN;
}

/* A shard on the way from its newest sample back. */
struct walk {
    struct heat heat;
    double load_sum, others_sum; /* of the row */
    bool over;
    /* the sample it is at */
    bool ended; /* there is none: the history is no longer */
    double value, others;
};

/* ---- what the others carried ---- */

/* What was carried at a shard's moment. Sum and number: first the difference to the question before it, in
 * the order of the moments. */
struct question {
    uint64_t at_ns;
    size_t shard;
    double sum;
    int known;
};

static int by_moment(const void *a, const void *b)
{
    const struct question *x = a, *y = b;
    return x->at_ns < y->at_ns ? -1 : x->at_ns > y->at_ns;
}

/* How many of the first `count` ask about a moment before this one. */
static size_t before(const struct question *questions, size_t count, uint64_t at_ns)
{
    size_t low = 0;
    while (low < count) {
        size_t middle = low + (count - low) / 2;
        if (questions[middle].at_ns < at_ns)
            low = middle + 1;
        else
            count = middle;
    }
    return low;
}

/* Each sample is the answer from a period before it, or from where the older one ends, to a period behind it,
 * or to where the newer one begins: as value_near() says, for all questions at once. */
static void add_shard(const struct balance_facts *facts, size_t shard, struct question *questions,
                      size_t count)
{
    const struct load_ring *ring = facts->shards[shard].load;
    uint64_t period = heat_period(facts);
    struct load_sample s;
    for (unsigned n = 0; count > 0 && ring != NULL && load_ring_second(ring, n, &s); n++) {
        size_t first = before(questions, count, s.at_ns > period ? s.at_ns - period : 0);
        size_t end = before(questions, count, s.at_ns + period + 1);
        double value = (double)s.value[facts->policy->objective];
        if (!isnan(value)) {
            questions[first].sum += value;
            questions[first].known++;
            questions[end].sum -= value;
            questions[end].known--;
        }
        count = first;
    }
}

/* The mean of the others at each of these moments, NAN if none is known; 0 without others. Shards without
 * ranges carry nothing by themselves and are no part of the comparison. `questions` has room for one more. */
static void ask_others(const struct balance_facts *facts, struct question *questions, size_t count,
                       struct walk *walks)
{
    size_t owners = 0;
    double sum = 0;
    int known = 0;
    qsort(questions, count, sizeof *questions, by_moment);
    questions[count] = (struct question){0};
    for (size_t i = 0; i < facts->shard_count; i++)
        if (facts->shards[i].ranges->count > 0) {
            owners++;
            add_shard(facts, i, questions, count);
        }
    for (const struct question *q = questions; q < questions + count; q++) {
        struct walk *w = &walks[q->shard];
        bool owns = facts->shards[q->shard].ranges->count > 0;
        double own = owns ? value_near(facts, q->shard, q->at_ns) : (double)NAN;
        sum += q->sum;
        known += q->known;
        int others = known - !isnan(own);
        w->heat.compared = owners > owns;
        w->others = !w->heat.compared ? 0
                    : others > 0      ? (sum - (isnan(own) ? 0 : own)) / others
                                      : (double)NAN;
    }
}

/* ---- is it hot? ---- */

/* Takes what the n-th newest sample says; false = the samples before it do not count. */
static bool take(const struct balance_policy *policy, struct walk *w, unsigned n)
{
    struct heat *heat = &w->heat;
    enum heat_break why = w->ended                                                     ? HEAT_WHOLE
                          : isnan(w->value) || isnan(w->others)                        ? HEAT_MISSING
                          : w->value <= policy->threshold                              ? HEAT_FELL
                          : heat->compared && w->value <= policy->relative * w->others ? HEAT_EVEN
                                                                                       : HEAT_WHOLE;
    if (n == 0 || (!w->ended && why == HEAT_WHOLE && heat->row == n)) {
        w->load_sum += w->value;
        w->others_sum += w->others;
        heat->load = w->load_sum / (n + 1);
        heat->others = w->others_sum / (n + 1);
    }
    if (why != HEAT_WHOLE && heat->row == heat->above && heat->broken == HEAT_WHOLE)
        heat->broken = why;
    if (w->ended || why == HEAT_MISSING || why == HEAT_FELL)
        return false;
    heat->row += why == HEAT_WHOLE && heat->row == n;
    heat->above++;
    return true;
}

struct heat *heat_measure(const struct balance_facts *facts)
{
    size_t shards = facts->shard_count, going = shards, asking;
    struct heat *heats = mem_array(shards + 1, sizeof *heats);
    struct walk *walks = mem_array(shards + 1, sizeof *walks);
    struct question *questions = mem_array(shards + 1, sizeof *questions);
    for (size_t i = 0; i < shards; i++)
        walks[i].heat = (struct heat){.load = (double)NAN, .others = (double)NAN};
    for (unsigned n = 0; n < facts->policy->window && going > 0; n++) {
        asking = 0;
        for (size_t i = 0; i < shards; i++) {
            struct walk *w = &walks[i];
            if (w->over)
                continue;
            uint64_t at_ns = 0;
            w->value = value_at(facts, i, n, &at_ns, &w->ended);
            w->others = 0;
            if (!isnan(w->value))
                questions[asking++] = (struct question){.at_ns = at_ns, .shard = i};
        }
        ask_others(facts, questions, asking, walks);
        for (size_t i = 0; i < shards; i++)
            if (!walks[i].over && !take(facts->policy, &walks[i], n)) {
                walks[i].over = true;
                going--;
            }
    }
    for (size_t i = 0; i < shards; i++)
        heats[i] = walks[i].heat;
    free(walks);
    free(questions);
    return heats;
}

double heat_peak(const struct balance_facts *facts, size_t shard)
{
    double peak = 0;
    for (unsigned n = 0; n < facts->policy->window; n++) {
        uint64_t at_ns = 0;
        bool ended = false;
        double value = value_at(facts, shard, n, &at_ns, &ended);
        if (isnan(value))
            return value;
        peak = value > peak ? value : peak;
    }
    return peak;
}

double heat_peak_minute(const struct balance_facts *facts, size_t shard, uint64_t span_ns)
{
    const struct load_ring *ring = facts->shards[shard].load;
    unsigned wanted = (unsigned)((span_ns + MINUTE_NS - 1) / MINUTE_NS);
    uint64_t until = facts->now_ns;
    double peak = 0;
    if (ring == NULL || wanted == 0)
        return (double)NAN;
    for (unsigned n = 0; n < wanted; n++) {
        struct load_sample m;
        /* The newest minute is over for up to one; the ones before lie a minute apart. */
        uint64_t reach = MINUTE_NS + 2 * heat_period(facts);
        if (!load_ring_minute(ring, n, &m) || (until > m.at_ns && until - m.at_ns > reach))
            return (double)NAN;
        double value = (double)m.value[facts->policy->objective];
        if (isnan(value))
            return (double)NAN;
        peak = value > peak ? value : peak;
        until = m.at_ns;
    }
    return peak;
}
