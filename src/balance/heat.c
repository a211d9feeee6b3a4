#include "balance/heat.h"

#include <math.h>

#include "base/env.h"

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

/* Shards without ranges carry nothing by themselves and are no part of the comparison. */
static double others_mean(const struct balance_facts *facts, size_t shard, uint64_t at_ns, bool *compared)
{
    double sum = 0;
    unsigned known = 0;
    *compared = false;
    for (size_t i = 0; i < facts->shard_count; i++) {
        if (i == shard || facts->shards[i].ranges->count == 0)
            continue;
        *compared = true;
        double value = value_near(facts, i, at_ns);
        if (isnan(value))
            continue;
        sum += value;
        known++;
    }
    if (!*compared)
        return 0;
    return known > 0 ? sum / known : (double)NAN;
}

struct moment {
    bool ended; /* the history is no longer */
    enum heat_break why;
    double value, others;
};

static struct moment moment_at(const struct balance_facts *facts, size_t shard, unsigned n, bool *compared)
{
    const struct balance_policy *policy = facts->policy;
    struct moment m = {.why = HEAT_WHOLE};
    uint64_t at_ns = 0;
    m.value = value_at(facts, shard, n, &at_ns, &m.ended);
    m.others = isnan(m.value) ? 0 : others_mean(facts, shard, at_ns, compared);
    if (m.ended)
        return m;
    if (isnan(m.value) || isnan(m.others))
        m.why = HEAT_MISSING;
    else if (m.value <= policy->threshold)
        m.why = HEAT_FELL;
    else if (*compared && m.value <= policy->relative * m.others)
        m.why = HEAT_EVEN;
    return m;
}

struct heat heat_measure(const struct balance_facts *facts, size_t shard)
{
    struct heat heat = {.load = (double)NAN, .others = (double)NAN};
    double load = 0, others = 0;
    for (unsigned n = 0; n < facts->policy->window; n++) {
        struct moment m = moment_at(facts, shard, n, &heat.compared);
        if (n == 0 || (!m.ended && m.why == HEAT_WHOLE && heat.row == n)) {
            load += m.value;
            others += m.others;
            heat.load = load / (n + 1);
            heat.others = others / (n + 1);
        }
        if (m.why != HEAT_WHOLE && heat.row == heat.above && heat.broken == HEAT_WHOLE)
            heat.broken = m.why;
        if (m.ended || m.why == HEAT_MISSING || m.why == HEAT_FELL)
            break;
        heat.row += m.why == HEAT_WHOLE && heat.row == n;
        heat.above++;
    }
    return heat;
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
