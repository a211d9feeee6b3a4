#include "operation/throttle.h"

#include <math.h>
#include <stdio.h>

#define RELATIVE_LEAST_NS (10 * ENV_NS_PER_MS)
#define FLOOR_SHARE       16
#define STEP_SHARE        20

void throttle_init(struct throttle *t)
{
    *t = (struct throttle){.next_lull_ns = UINT64_MAX};
}

/* As fast as it goes from now on. */
static void release(struct throttle *t)
{
    t->rate = 0;
    t->recent_count = 0;
    t->cut_ns = 0;
    t->cause = THROTTLE_NONE;
    t->over = false;
    t->starting = false;
}

void throttle_again(struct throttle *t)
{
    release(t);
    t->peak = 0;
    t->began_ns = t->lull_ns = 0;
    t->next_lull_ns = UINT64_MAX;
    t->beside_count = 0;
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

void throttle_base_transactions(struct throttle *t, double per_second)
{
    t->counted += per_second;
    t->counts++;
}

/* What was counted is what there is without the copy. */
static void take_count(struct throttle *t, uint64_t now_ns)
{
    if (t->counts > 0) {
        t->without = t->counted / t->counts;
        t->without_ns = now_ns;
    }
    t->counted = 0;
    t->counts = 0;
    t->beside_count = 0;
}

void throttle_end_count(struct throttle *t, uint64_t now_ns)
{
    double before = t->without;
    take_count(t, now_ns);
    t->without = fmax(before, t->without);
}

uint64_t throttle_base_median(const struct throttle *t)
{
    return median(t->bases, THROTTLE_BASES, t->base_count);
}

/* ---- pressure: the share of its bound that something has reached ---- */

uint64_t throttle_commit_bound(const struct throttle *t, uint64_t max_commit_ns)
{
    uint64_t base = throttle_base_median(t);
    if (max_commit_ns == 0 || base == 0)
        return max_commit_ns;
    uint64_t relative = base * 5 > RELATIVE_LEAST_NS ? base * 5 : RELATIVE_LEAST_NS;
    uint64_t absolute = base * 2 > max_commit_ns ? base * 2 : max_commit_ns;
    return relative < absolute ? relative : absolute;
}

static double beside(const struct throttle *t)
{
    unsigned count = t->beside_count < THROTTLE_RECENT ? t->beside_count : THROTTLE_RECENT;
    double sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += t->beside[i];
    return count > 0 ? sum / count : 0;
}

static bool is_busy(const struct throttle *t)
{
    return beside(t) >= THROTTLE_BUSY || t->without >= THROTTLE_BUSY;
}

/* The share of the transactions that is missing. */
static double loss(const struct throttle *t)
{
    if (t->without < THROTTLE_BUSY || t->beside_count < THROTTLE_RECENT || beside(t) > t->without)
        return 0;
    return 1 - beside(t) / t->without;
}

static void press(struct throttle *t, enum throttle_cause cause, double seen, double bound, double *most)
{
    double share = bound > 0 ? seen / bound : 0;
    if (share <= *most)
        return;
    *most = share;
    if (share <= 1)
        return;
    t->cause = cause;
    t->seen = seen;
    t->bound = bound;
}

/* The greatest of all; remembers what passed its bound. */
static double pressure(struct throttle *t, const struct throttle_limits *limits,
                       const struct throttle_sample *s)
{
    uint64_t commit = median(t->recent, THROTTLE_RECENT, t->recent_count);
    double most = 0;
    press(t, THROTTLE_COMMIT, (double)commit / 1e9,
          (double)throttle_commit_bound(t, limits->max_commit_ns) / 1e9, &most);
    press(t, THROTTLE_STANDBY, (double)s->lag_ns / 1e9, (double)limits->max_lag_ns / 1e9, &most);
    press(t, THROTTLE_TRANSACTIONS, loss(t), limits->max_loss, &most);
    t->over = most > 1;
    return most;
}

/* ---- lulls ---- */

/* Transactions are missing, and the count that says so is an old one: of before the copy, when a burst of
 * them may have been the move's own, or of a while ago. */
static bool is_doubtful(const struct throttle *t, const struct throttle_limits *limits, uint64_t now_ns)
{
    return (t->rate == 0 || t->starting) && loss(t) > limits->max_loss &&
           (t->without_ns <= t->began_ns || now_ns - t->without_ns > THROTTLE_SURE_NS);
}

/* When the next lull begins, as far as can be told by now; UINT64_MAX: none is to be seen. */
static uint64_t next_lull(const struct throttle *t, const struct throttle_limits *limits, uint64_t now_ns)
{
    unsigned looks = t->beside_count < THROTTLE_RECENT ? THROTTLE_RECENT - t->beside_count : 0;
    uint64_t earliest_ns = now_ns + looks * ENV_NS_PER_S, due_ns;
    if (limits->max_loss <= 0 || !is_busy(t))
        return UINT64_MAX;
    if (is_doubtful(t, limits, now_ns))
        return earliest_ns;
    if (t->without_ns <= t->began_ns && t->without < THROTTLE_BUSY) /* nobody was counted before the copy */
        due_ns = t->began_ns + THROTTLE_FIRST_NS;
    else
        due_ns = t->without_ns + THROTTLE_EVERY_NS - THROTTLE_LULL_NS;
    return due_ns > earliest_ns ? due_ns : earliest_ns;
}

static void count_in_lull(struct throttle *t, const struct throttle_sample *s)
{
    if (s->now_ns - t->lull_ns < 2 * ENV_NS_PER_S)
        return;
    if (s->transactions >= 0)
        throttle_base_transactions(t, s->transactions);
    if (s->commit_ns > 0)
        throttle_base(t, s->commit_ns);
}

/* True while one goes on. */
static bool lull(struct throttle *t, const struct throttle_limits *limits, const struct throttle_sample *s)
{
    if (t->lull_ns == 0) {
        if (s->transactions >= 0)
            t->beside[t->beside_count++ % THROTTLE_RECENT] = s->transactions;
        t->next_lull_ns = next_lull(t, limits, s->now_ns);
        if (t->next_lull_ns <= s->now_ns)
            t->lull_ns = s->now_ns;
        return t->lull_ns != 0;
    }
    count_in_lull(t, s);
    if (s->now_ns - t->lull_ns < THROTTLE_LULL_NS)
        return true;
    t->lull_ns = 0;
    take_count(t, s->now_ns);
    t->next_lull_ns = next_lull(t, limits, s->now_ns);
    return false;
}

/* How long what is now goes on, a lull or what is outside of one; UINT64_MAX: no lull is to be seen. */
static uint64_t until_turn(const struct throttle *t, uint64_t now_ns)
{
    if (t->lull_ns != 0)
        return t->lull_ns + THROTTLE_LULL_NS > now_ns ? t->lull_ns + THROTTLE_LULL_NS - now_ns : 0;
    if (t->next_lull_ns == UINT64_MAX)
        return UINT64_MAX;
    return t->next_lull_ns > now_ns ? t->next_lull_ns - now_ns : 0;
}

double throttle_seconds_left(const struct throttle *t, uint64_t now_ns, double left, double outside,
                             double inside)
{
    const double part_ns[2] = {(double)(THROTTLE_EVERY_NS - THROTTLE_LULL_NS), (double)THROTTLE_LULL_NS};
    const double rate[2] = {outside, inside};
    const double cycle = (part_ns[0] * outside + part_ns[1] * inside) / 1e9;
    bool in_lull = t->lull_ns != 0;
    uint64_t turn_ns = until_turn(t, now_ns);
    double part = (double)turn_ns / 1e9, seconds = 0;
    if (outside <= 0 || inside <= 0 || t->starting)
        return NAN;
    if (turn_ns == UINT64_MAX || left <= part * rate[in_lull])
        return left / rate[in_lull];
    left -= part * rate[in_lull];
    seconds += part + floor(left / cycle) * (double)THROTTLE_EVERY_NS / 1e9;
    left = fmod(left, cycle);
    in_lull = !in_lull;
    part = part_ns[in_lull] / 1e9;
    if (left <= part * rate[in_lull])
        return seconds + left / rate[in_lull];
    return seconds + part + (left - part * rate[in_lull]) / rate[!in_lull];
}

/* ---- rate ---- */

static uint64_t floor_of(const struct throttle *t)
{
    uint64_t share = t->peak / FLOOR_SHARE;
    return share > THROTTLE_FLOOR ? share : THROTTLE_FLOOR;
}

static void cut(struct throttle *t, const struct throttle_sample *s)
{
    bool settled = t->without_ns == 0 || s->now_ns - t->without_ns > 2 * ENV_NS_PER_S; /* after a lull */
    uint64_t from = t->rate > 0 ? t->rate : t->peak;
    if (t->cut_ns != 0 && s->now_ns - t->cut_ns < THROTTLE_HOLD_NS)
        return;
    if (settled && s->bytes_per_second > 0 && s->bytes_per_second < from)
        from = s->bytes_per_second; /* a rate that is not used up would be cut without effect */
    t->rate = from / 2 > floor_of(t) ? from / 2 : floor_of(t);
    t->starting = false;
    t->cut_ns = s->now_ns;
    t->beside_count = 0; /* what follows shows what it brought */
}

/* What the last cut or lull brought is not known yet. */
static bool is_blind(const struct throttle *t, const struct throttle_limits *limits, uint64_t now_ns)
{
    if (t->cut_ns != 0 && now_ns - t->cut_ns < THROTTLE_HOLD_NS)
        return true;
    return limits->max_loss > 0 && t->without >= THROTTLE_BUSY && t->beside_count < THROTTLE_RECENT;
}

static void grow(struct throttle *t, uint64_t most)
{
    uint64_t step = t->peak / STEP_SHARE;
    t->rate += step > THROTTLE_FLOOR / 4 ? step : THROTTLE_FLOOR / 4;
    if (t->rate >= t->peak + t->peak / 4 || (most > 0 && t->rate >= most))
        release(t);
}

static uint64_t at_most(uint64_t rate, uint64_t most)
{
    return most > 0 && (rate == 0 || most < rate) ? most : rate;
}

/* ---- the beginning ---- */

uint64_t throttle_begin(struct throttle *t, const struct throttle_limits *limits, uint64_t now_ns)
{
    bool known = t->counts > 0 || t->without_ns != 0;
    t->began_ns = now_ns;
    throttle_end_count(t, now_ns);
    t->starting = limits->max_loss > 0 && (!known || t->without >= THROTTLE_BUSY) &&
                  (limits->most == 0 || limits->most > THROTTLE_START);
    if (t->starting) {
        t->rate = THROTTLE_START;
        t->peak = limits->most > 0 && limits->most < THROTTLE_FASTEST ? limits->most : THROTTLE_FASTEST;
    }
    return at_most(t->rate, limits->most);
}

/* Faster, if the last three looks saw nothing against it. */
static void start(struct throttle *t, const struct throttle_limits *limits,
                  const struct throttle_sample *sample, double now)
{
    bool used_up = sample->bytes_per_second == 0 || sample->bytes_per_second > t->rate / 4 * 3;
    if (!is_busy(t)) {
        t->peak = 0;
        release(t);
    } else if (t->beside_count < THROTTLE_RECENT)
        return; /* what the last doubling brought is not known yet */
    else if (!used_up) {
        t->peak = sample->bytes_per_second;
        release(t);
    } else if (now > 0.5)
        t->starting = false; /* twice as fast were too fast */
    else {
        t->rate *= 2;
        t->beside_count = 0;
        if (limits->most > 0 && t->rate >= limits->most)
            release(t);
    }
}

uint64_t throttle_step(struct throttle *t, const struct throttle_limits *limits,
                       const struct throttle_sample *sample)
{
    if (lull(t, limits, sample))
        return at_most(THROTTLE_FLOOR, limits->most);
    if (sample->commit_ns > 0)
        t->recent[t->recent_count++ % THROTTLE_RECENT] = sample->commit_ns;
    if (sample->bytes_per_second > t->peak)
        t->peak = sample->bytes_per_second;
    double now = pressure(t, limits, sample);
    if (now > 1)
        cut(t, sample);
    else if (t->starting)
        start(t, limits, sample, now);
    else if (t->rate > 0 && now < 0.8 && !is_blind(t, limits, sample->now_ns))
        grow(t, limits->most);
    return at_most(t->rate, limits->most);
}

void throttle_text(const struct throttle *t, const char *shard, const char *standby, char *out, size_t size)
{
    double rate = (double)t->rate / (1 << 20);
    const char *past = t->over ? "" : ", rising again";
    out[0] = '\0';
    if (t->rate == 0)
        return;
    if (t->starting)
        snprintf(out, size, "copy starts slowly, at %.1f MiB/s: %s does %.0f transactions/s", rate, shard,
                 beside(t) > 0 ? beside(t) : t->without);
    else if (t->cause == THROTTLE_NONE)
        snprintf(out, size, "copy held at %.1f MiB/s: faster it would cost %s too many transactions", rate,
                 shard);
    else if (t->cause == THROTTLE_STANDBY)
        snprintf(out, size, "copy throttled to %.1f MiB/s%s: standby %s of %s %s %.1f s behind, bound %.1f s",
                 rate, past, standby, shard, t->over ? "is" : "was", t->seen, t->bound);
    else if (t->cause == THROTTLE_TRANSACTIONS)
        snprintf(out, size,
                 "copy throttled to %.1f MiB/s%s: %s %s %.0f %% fewer transactions beside it, bound %.0f %%",
                 rate, past, shard, t->over ? "does" : "did", t->seen * 100, t->bound * 100);
    else
        snprintf(out, size, "copy throttled to %.1f MiB/s%s: commits on %s %s %.1f ms, bound %.1f ms", rate,
                 past, shard, t->over ? "take" : "took", t->seen * 1e3, t->bound * 1e3);
}
