/*
 * One shard's way from the first hot sample to a change or a refusal.
 *
 *   COOL --hot sample--> WARM --row long enough, nothing forbids it--> SAMPLING --sample in, row full-->
 * DECIDED ^                    |                                              | | |                    +----
 * something forbids it ----> REFUSED <-----+ the sample forbids it            |
 *    +---- the row breaks (WARM, SAMPLING, REFUSED) ---------/                                              |
 *    +---- the operation ended or never came; a recommendation: the cool-down passed -----------------------+
 *
 * States that wait: SAMPLING for the stream or the rows (each with a limit), REFUSED for the reason to go or
 * for retry_ns, DECIDED for the operation. All are woken by the next call, one second later.
 */
#include <math.h>
#include <stdio.h>

#include "balance/balance_impl.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* How long the row must be for the sampling to begin, so that both end together. */
static unsigned row_to_sample(const struct turn *t)
{
    const struct balance_facts *facts = t->round->facts;
    unsigned window = facts->policy->window;
    bool flaps = t->state->fell_ns > 0 && !balance_elapsed(facts, t->state->fell_ns, BALANCE_FLAP_NS);
    uint64_t period = heat_period(facts), samples = (facts->policy->sample_ns + period - 1) / period;
    if (flaps)
        return window;
    return samples < window ? window - (unsigned)samples : 1;
}

static void cool(struct turn *t)
{
    balance_phase_set(t->state, BALANCE_COOL);
    t->state->show.refusal.active = false;
    t->state->retries = 0;
    t->state->retry_ns = 0;
}

static void refuse_even(struct turn *t)
{
    words_set(&t->words, "ratio", "%.2f", t->heat.load / t->heat.others);
    words_set(&t->words, "relative", "%.2f", t->round->facts->policy->relative);
    balance_refuse(t, BALANCE_R_EVEN_LOAD);
}

/* The row broke: says why if it had come far, and goes back. */
static void row_broken(struct turn *t, bool far)
{
    bool sampling = t->state->show.phase == BALANCE_SAMPLING;
    bool refused = t->state->show.phase == BALANCE_REFUSED; /* it did not wait for this sample */
    cool(t);
    if (far && !refused && t->heat.broken == HEAT_MISSING) {
        words_set(&t->words, "window", "%u", t->round->facts->policy->window);
        balance_refuse(t, BALANCE_R_MISSING_SAMPLE);
    } else if (sampling) {
        t->state->fell_ns = t->round->facts->now_ns;
        if (t->heat.broken == HEAT_EVEN)
            refuse_even(t);
        else
            balance_refuse(t, BALANCE_R_LOAD_FELL);
    }
    t->state->show.refusal.active = false;
}

/* ---- what forbids a split before anything was sampled ---- */

static bool may_rebalance(const struct turn *t)
{
    const struct balance_policy *policy = t->round->facts->policy;
    bool wanted =
        policy->rebalance == AUTO_ON || (policy->rebalance == AUTO_RECOMMEND && policy->split != AUTO_ON);
    /* a quarter is the least that a move takes away */
    return wanted && balance_find_target(t, t->heat.load * SPLIT_BALANCE) < t->round->facts->shard_count;
}

int balance_room(struct turn *t)
{
    const struct balance_facts *facts = t->round->facts;
    size_t shards = facts->shard_count + facts->pending_shards + t->round->new_shards;
    if (facts->policy->split == AUTO_OFF)
        return BALANCE_R_SWITCHED_OFF;
    if (shards >= facts->policy->max_shards) {
        words_set(&t->words, "shards", "%zu", shards);
        words_set(&t->words, "max", "%u", facts->policy->max_shards);
        return BALANCE_R_MAX_SHARDS;
    }
    if (facts->free_instances <= t->round->new_shards) {
        words_set(&t->words, "why", "%s",
                  facts->capacity_why != NULL ? facts->capacity_why : "no free instance");
        return BALANCE_R_CAPACITY;
    }
    return 0;
}

/* The rule that forbids any change of this shard now; 0 = none. */
static int gate(struct turn *t)
{
    const struct balance_facts *facts = t->round->facts;
    if (facts->policy->split == AUTO_OFF && facts->policy->rebalance == AUTO_OFF)
        return BALANCE_R_SWITCHED_OFF;
    if (balance_busy(t->round, t->index)) {
        words_set(&t->words, "operation", "%s",
                  t->shard->operation != NULL ? t->shard->operation : "that was just decided");
        return BALANCE_R_OPERATION_RUNS;
    }
    if (balance_cooling(t->round, t->index)) {
        char text[BALANCE_TIME_SIZE];
        balance_format_time(facts->now_ns - t->shard->last_move_ns, text);
        words_set(&t->words, "ago", "%s", text);
        balance_format_time(facts->policy->cooldown_ns, text);
        words_set(&t->words, "cooldown", "%s", text);
        return BALANCE_R_COOL_DOWN;
    }
    unsigned running = facts->running_operations + t->round->new_operations;
    if (facts->max_operations > 0 && running >= facts->max_operations) {
        words_set(&t->words, "running", "%u", running);
        words_set(&t->words, "max", "%u", facts->max_operations);
        return BALANCE_R_OPERATION_LIMIT;
    }
    return may_rebalance(t) ? 0 : balance_room(t);
}

/* ---- sampling ---- */

static void want_rows(struct turn *t, const char *why)
{
    if (t->state->wants_rows)
        return;
    t->state->wants_rows = true;
    t->state->rows_ns = t->round->facts->now_ns;
    snprintf(t->state->rows_why, sizeof t->state->rows_why, "%s", why);
    words_set(&t->words, "how", "in a sample of its rows, because %s", why);
    balance_change_make(t, BALANCE_SAMPLE_ROWS, BALANCE_R_LISTEN, true);
}

static void sampling_begin(struct turn *t)
{
    uint64_t now = t->round->facts->now_ns;
    balance_phase_set(t->state, BALANCE_SAMPLING);
    t->state->sampling_ns = now;
    if (t->round->facts->policy->objective == LOAD_SIZE) {
        t->state->rows_only = true;
        want_rows(t, "the objective is its size");
        return;
    }
    words_set(&t->words, "how", "%s", "in its change stream");
    balance_change_make(t, BALANCE_SAMPLE, BALANCE_R_LISTEN, true);
}

/* What was asked for in this sampling; an older sample is not looked at. */
static const struct split_sample *sample_of(const struct turn *t, const struct split_sample *sample)
{
    return sample != NULL && split_sample_started(sample) >= t->state->sampling_ns ? sample : NULL;
}

/* How long the stream has been listened to. */
static uint64_t listened(const struct turn *t, const struct split_sample *stream)
{
    uint64_t now = t->round->facts->now_ns;
    return stream != NULL && now > split_sample_started(stream) ? now - split_sample_started(stream) : 0;
}

/* Half a period early is fine: the stream began a little after the tick that asked for it. */
static bool stream_done(const struct turn *t, const struct split_sample *stream)
{
    uint64_t whole = t->round->facts->policy->sample_ns, early = heat_period(t->round->facts) / 2;
    return stream != NULL && (split_sample_closed(stream) || listened(t, stream) + early >= whole);
}

/* Rows are asked for as soon as it shows that the stream will not do, so that no time is lost. */
static void stream_watch(struct turn *t, const struct split_sample *stream)
{
    const struct balance_facts *facts = t->round->facts;
    uint64_t whole = facts->policy->sample_ns, time = listened(t, stream);
    char why[BALANCE_WHY_SIZE];
    if (stream == NULL && t->shard->sample_error != NULL) {
        snprintf(why, sizeof why, "its change stream cannot be read: %.50s", t->shard->sample_error);
        want_rows(t, why);
    } else if (stream == NULL && balance_elapsed(facts, t->state->sampling_ns, BALANCE_LISTEN_NS)) {
        want_rows(t, "its change stream did not begin in time");
    } else if (stream != NULL && (time >= whole / 2 || split_sample_closed(stream))) {
        double expected = (double)split_sample_count(stream);
        if (!split_sample_closed(stream) && time < whole)
            expected *= (double)whole / (double)time;
        if (expected < SPLIT_MIN_WRITES)
            want_rows(t, "too few writes were seen");
    }
}

static void refuse_no_point(struct turn *t, const char *why)
{
    words_set(&t->words, "why", "%s", why);
    balance_phase_set(t->state, BALANCE_REFUSED);
    t->state->retry_ns = t->round->facts->now_ns + BALANCE_RETRY_NS;
    balance_refuse(t, BALANCE_R_NO_SPLIT_POINT);
}

static void rows_judge(struct turn *t, const struct split_sample *stream)
{
    const struct split_sample *rows = sample_of(t, t->shard->rows);
    if (rows != NULL && split_sample_closed(rows)) {
        if (stream != NULL && split_sample_count(stream) < SPLIT_MIN_WRITES)
            snprintf(t->state->rows_why, sizeof t->state->rows_why, "only %u writes were seen in %.1f s",
                     (unsigned)split_sample_count(stream),
                     (double)listened(t, stream) / (double)ENV_NS_PER_S);
        balance_judge(t, rows, true);
    } else if (rows == NULL && t->shard->rows_error != NULL) {
        refuse_no_point(t, t->shard->rows_error);
    } else if (balance_elapsed(t->round->facts, t->state->rows_ns, BALANCE_ROWS_NS)) {
        refuse_no_point(t, "the sample of its rows did not come in time");
    }
}

static void sampling_step(struct turn *t)
{
    const struct split_sample *stream = sample_of(t, t->shard->sample);
    if (!t->state->rows_only)
        stream_watch(t, stream);
    if (t->heat.row < t->round->facts->policy->window)
        return;
    bool done = stream_done(t, stream);
    if (done && split_sample_count(stream) >= SPLIT_MIN_WRITES)
        balance_judge(t, stream, false);
    else if (t->state->wants_rows && (done || stream == NULL))
        rows_judge(t, stream);
    else if (done)
        want_rows(t, "too few writes were seen");
}

/* ---- the step ---- */

/* True while nothing else is to be thought about. */
static bool decided_wait(struct turn *t)
{
    struct shard_notes *s = t->state;
    const struct balance_facts *facts = t->round->facts;
    if (s->show.phase != BALANCE_DECIDED)
        return false;
    bool runs = t->shard->operation != NULL;
    s->operation_seen = s->operation_seen || runs;
    if (runs)
        return true;
    uint64_t patience = s->show.decision.act ? BALANCE_START_NS : facts->policy->cooldown_ns;
    if (!s->operation_seen && !balance_elapsed(facts, s->show.decided_ns, patience))
        return true;
    cool(t);
    return false;
}

static void refuse_by_gate(struct turn *t, int rule)
{
    bool sampling = t->state->show.phase == BALANCE_SAMPLING;
    if (!sampling && t->heat.row < t->round->facts->policy->window)
        return;
    balance_phase_set(t->state, BALANCE_REFUSED);
    balance_refuse(t, rule);
}

void balance_hot_step(struct turn *t)
{
    const struct balance_facts *facts = t->round->facts;
    struct shard_notes *s = t->state;
    unsigned least = row_to_sample(t);
    if (decided_wait(t))
        return;
    bool far = s->show.row >= min_u64(least, facts->policy->window);
    if (s->show.phase != BALANCE_COOL && t->heat.row < s->show.row) {
        row_broken(t, far);
    } else if (t->heat.row == 0 && t->heat.above >= facts->policy->window) {
        refuse_even(t);
        return;
    }
    if (t->heat.row == 0) {
        if (s->show.phase == BALANCE_COOL && t->heat.above < facts->policy->window)
            s->show.refusal.active = false;
        return;
    }
    if (s->show.phase == BALANCE_COOL)
        balance_phase_set(s, BALANCE_WARM);
    if (t->heat.row < least)
        return;
    int rule = gate(t);
    if (rule != 0) {
        refuse_by_gate(t, rule);
        return;
    }
    if (s->show.phase == BALANCE_SAMPLING)
        sampling_step(t);
    else if (facts->now_ns >= s->retry_ns)
        sampling_begin(t);
}
