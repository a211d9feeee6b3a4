#include "operation/throttle.h"

#include <stdio.h>
#include <string.h>

#include "base/env.h"

#define RELATIVE_LEAST_NS (10 * ENV_NS_PER_MS)
#define FLOOR_SHARE       16
#define STEP_SHARE        20

void throttle_init(struct throttle *t)
{
    memset(t, 0, sizeof *t);
}

void throttle_release(struct throttle *t)
{
    t->rate = 0;
    t->recent_count = 0;
    t->cut_ns = 0;
    t->cause = THROTTLE_NONE;
    t->over = false;
}

/* Of a ring of `size` places into which `count` values were written; 0 if none. */
static uint64_t median(const uint64_t *ring, unsigned size, unsigned count)
{
    uint64_t sorted[THROTTLE_BASES];
    unsigned n = count < size ? count : size;
    for (unsigned i = 0; i < n; i++) {
        unsigned at = i;
        for (; at > 0 && sorted[at - 1] > ring[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = ring[i];
    }
    return n > 0 ? sorted[n / 2] : 0;
}

void throttle_base(struct throttle *t, uint64_t commit_ns)
{
    t->bases[t->base_count++ % THROTTLE_BASES] = commit_ns;
}

uint64_t throttle_base_median(const struct throttle *t)
{
    return median(t->bases, THROTTLE_BASES, t->base_count);
}

uint64_t throttle_commit_bound(const struct throttle *t, uint64_t max_commit_ns)
{
    uint64_t base = throttle_base_median(t);
    if (max_commit_ns == 0 || base == 0)
        return max_commit_ns;
    uint64_t relative = base * 5 > RELATIVE_LEAST_NS ? base * 5 : RELATIVE_LEAST_NS;
    uint64_t absolute = base * 2 > max_commit_ns ? base * 2 : max_commit_ns;
    return relative < absolute ? relative : absolute;
}

/* The greater of the two shares of their bounds; remembers what passed its own. */
static double pressure(struct throttle *t, const struct throttle_limits *limits,
                       const struct throttle_sample *s)
{
    uint64_t bound = throttle_commit_bound(t, limits->max_commit_ns);
    uint64_t commit = median(t->recent, THROTTLE_RECENT, t->recent_count);
    double by_commit = bound > 0 ? (double)commit / (double)bound : 0;
    double by_lag = limits->max_lag_ns > 0 ? (double)s->lag_ns / (double)limits->max_lag_ns : 0;
    double most = by_commit > by_lag ? by_commit : by_lag;
    t->over = most > 1;
    if (t->over && by_commit >= by_lag) {
        t->cause = THROTTLE_COMMIT;
        t->seen_ns = commit;
        t->bound_ns = bound;
    } else if (t->over) {
        t->cause = THROTTLE_STANDBY;
        t->seen_ns = s->lag_ns;
        t->bound_ns = limits->max_lag_ns;
    }
    return most;
}

static uint64_t floor_of(const struct throttle *t)
{
    uint64_t share = t->peak / FLOOR_SHARE;
    return share > THROTTLE_FLOOR ? share : THROTTLE_FLOOR;
}

static void cut(struct throttle *t, const struct throttle_sample *s)
{
    uint64_t from = t->rate > 0 ? t->rate : t->peak;
    if (t->cut_ns != 0 && s->now_ns - t->cut_ns < THROTTLE_HOLD_NS)
        return;
    if (s->bytes_per_second > 0 && s->bytes_per_second < from)
        from = s->bytes_per_second; /* a rate that is not used up would be cut without effect */
    t->rate = from / 2 > floor_of(t) ? from / 2 : floor_of(t);
    t->cut_ns = s->now_ns;
}

static void grow(struct throttle *t, uint64_t most)
{
    uint64_t step = t->peak / STEP_SHARE;
    t->rate += step > THROTTLE_FLOOR / 4 ? step : THROTTLE_FLOOR / 4;
    if (t->rate >= t->peak + t->peak / 4 || (most > 0 && t->rate >= most))
        throttle_release(t);
}

uint64_t throttle_step(struct throttle *t, const struct throttle_limits *limits,
                       const struct throttle_sample *sample)
{
    if (sample->commit_ns > 0)
        t->recent[t->recent_count++ % THROTTLE_RECENT] = sample->commit_ns;
    if (t->rate == 0 && sample->bytes_per_second > t->peak)
        t->peak = sample->bytes_per_second;
    double now = pressure(t, limits, sample);
    if (now > 1)
        cut(t, sample);
    else if (t->rate > 0 && now < 0.8)
        grow(t, limits->most);
    if (t->rate == 0 || (limits->most > 0 && limits->most < t->rate))
        return limits->most;
    return t->rate;
}

void throttle_text(const struct throttle *t, const char *shard, const char *standby, char *out, size_t size)
{
    double rate = (double)t->rate / (1 << 20), seen = (double)t->seen_ns, bound = (double)t->bound_ns;
    const char *past = t->over ? "" : ", rising again";
    out[0] = '\0';
    if (t->rate == 0)
        return;
    if (t->cause == THROTTLE_STANDBY)
        snprintf(out, size, "copy throttled to %.1f MiB/s%s: standby %s of %s %s %.1f s behind, bound %.1f s",
                 rate, past, standby, shard, t->over ? "is" : "was", seen / 1e9, bound / 1e9);
    else
        snprintf(out, size, "copy throttled to %.1f MiB/s%s: commits on %s %s %.1f ms, bound %.1f ms", rate,
                 past, shard, t->over ? "take" : "took", seen / 1e6, bound / 1e6);
}
