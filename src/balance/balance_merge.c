/*
 * Merging: not urgent, so one at a time, only while nothing is hot, and only after a long calm.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "balance/balance_impl.h"

struct pair {
    size_t from, into;
    double peak; /* greatest minute of both together, at most */
    double now;  /* both together, newest samples */
    bool pinned; /* one of them must not be merged */
};

static bool adjacent(const struct range_set *a, const struct range_set *b)
{
    for (size_t i = 0; i < a->count; i++)
        for (size_t j = 0; j < b->count; j++) {
            bool below = a->items[i].hi < b->items[j].lo && a->items[i].hi + 1 == b->items[j].lo;
            bool above = b->items[j].hi < a->items[i].lo && b->items[j].hi + 1 == a->items[i].lo;
            if (below || above)
                return true;
        }
    return false;
}

/* Calm by its own history: no operation, none lately, every minute known. */
static bool settled(const struct round *round, size_t shard)
{
    uint64_t end = round->facts->shards[shard].last_move_ns;
    if (balance_busy(round, shard) || balance_cooling(round, shard))
        return false;
    return end == 0 || balance_elapsed(round->facts, end, round->facts->policy->merge_after_ns);
}

/* Size of the data when it is known, else the load: what a move costs. */
static double cost(const struct balance_shard_facts *shard, double load)
{
    struct load_sample s;
    bool known = shard->load != NULL && load_ring_second(shard->load, 0, &s) && !isnan(s.value[LOAD_SIZE]);
    return known ? (double)s.value[LOAD_SIZE] : load;
}

static bool pair_measure(const struct round *round, size_t a, size_t b, struct pair *ret)
{
    const struct balance_facts *facts = round->facts;
    uint64_t span = facts->policy->merge_after_ns;
    double limit = BALANCE_MERGE_MAX * facts->policy->threshold;
    double peak = heat_peak_minute(facts, a, span) + heat_peak_minute(facts, b, span);
    double load_a = heat_peak(facts, a), load_b = heat_peak(facts, b);
    if (!(peak < limit) || !(load_a + load_b < limit))
        return false;
    bool first = cost(&facts->shards[a], load_a) <= cost(&facts->shards[b], load_b);
    size_t into = first ? b : a;
    /* a move carries one range, so only a shard of one can be given away whole */
    if (!facts->shards[into].may_receive || facts->shards[into == a ? b : a].ranges->count != 1)
        into = into == a ? b : a;
    ret->from = into == a ? b : a;
    if (facts->shards[ret->from].ranges->count != 1)
        return false;
    ret->into = into;
    ret->peak = peak;
    ret->now = load_a + load_b;
    ret->pinned = facts->shards[a].merge_hold != NULL || facts->shards[b].merge_hold != NULL;
    return facts->shards[into].may_receive;
}

/* The pair with the least load together; one that may not be merged only if there is no other. */
static bool pair_find(const struct round *round, struct pair *ret)
{
    const struct balance_facts *facts = round->facts;
    bool found = false;
    for (size_t a = 0; a < facts->shard_count; a++) {
        if (facts->shards[a].ranges->count == 0 || !settled(round, a))
            continue;
        for (size_t b = a + 1; b < facts->shard_count; b++) {
            struct pair pair = {0};
            if (!adjacent(facts->shards[a].ranges, facts->shards[b].ranges) || !settled(round, b) ||
                !pair_measure(round, a, b, &pair))
                continue;
            bool better = pair.pinned == ret->pinned ? pair.peak < ret->peak : !pair.pinned;
            if (!found || better)
                *ret = pair;
            found = true;
        }
    }
    return found;
}

/* Why a pair that could be merged is not; NULL = nothing. */
static const char *held(const struct round *round, const struct pair *pair, char out[BALANCE_WHY_SIZE])
{
    const struct balance_facts *facts = round->facts;
    const char *hold = facts->shards[pair->from].merge_hold;
    unsigned least = facts->min_shards > 0 ? facts->min_shards : 1;
    if (hold == NULL)
        hold = facts->shards[pair->into].merge_hold;
    if (hold != NULL)
        snprintf(out, BALANCE_WHY_SIZE, "%s", hold);
    else if (facts->shard_count <= least)
        snprintf(out, BALANCE_WHY_SIZE, "the database is to have at least %u shards", least);
    else if (facts->max_operations > 0 &&
             facts->running_operations + round->new_operations >= facts->max_operations)
        snprintf(out, BALANCE_WHY_SIZE, "%u moves run already and at most %u may",
                 facts->running_operations + round->new_operations, facts->max_operations);
    else
        return NULL;
    return out;
}

/* Said once for each reason: which of several cool pairs is the coolest changes with every breath. */
static void merge_refuse(struct turn *t, const struct pair *pair, const char *why)
{
    struct balance_state *state = t->round->state;
    struct balance_refusal *refusal = &state->merge_refusal;
    const char *into = t->round->facts->shards[pair->into].name;
    uint64_t now = t->round->facts->now_ns;
    bool lately = refusal->active || now - refusal->last_ns < BALANCE_SILENCE_NS;
    bool same = refusal->rule != 0 && lately && strcmp(state->merge_why, why) == 0;
    refusal->last_ns = now;
    refusal->active = true;
    if (same)
        return;
    struct balance_change *change = balance_change_make(t, BALANCE_REFUSE, BALANCE_R_MERGE_HELD, false);
    snprintf(change->target, sizeof change->target, "%s", into);
    snprintf(state->merge_why, sizeof state->merge_why, "%s", why);
    refusal->rule = BALANCE_R_MERGE_HELD;
    refusal->since_ns = now;
    memcpy(refusal->sentence, change->sentence, sizeof refusal->sentence);
}

static void merge(struct turn *t, const struct pair *pair)
{
    const struct balance_facts *facts = t->round->facts;
    bool act = facts->policy->merge == AUTO_ON;
    struct balance_change *change = balance_change_make(t, BALANCE_MERGE, BALANCE_R_MERGE, act);
    snprintf(change->target, sizeof change->target, "%s", facts->shards[pair->into].name);
    change->range = t->shard->ranges->items[0];
    change->split_at = change->range.lo;
    change->kept = 0;
    change->moved = pair->now;
    t->state->show.decision = *change;
    t->state->show.decided_ns = facts->now_ns;
    t->round->state->merged_ns = facts->now_ns;
    t->round->state->merge_refusal.active = false;
    if (act) {
        t->state->reserved_ns = facts->now_ns;
        balance_notes(t->round, pair->into)->reserved_ns = facts->now_ns;
        t->round->new_operations++;
        return;
    }
    size_t used = strlen(change->sentence);
    snprintf(change->sentence + used, sizeof change->sentence - used,
             ", recommended only: merging is recommend");
}

/* One at a time; a recommendation is repeated after merge_after. */
static bool waits(const struct round *round)
{
    const struct balance_facts *facts = round->facts;
    bool act = facts->policy->merge == AUTO_ON;
    uint64_t pause = act ? BALANCE_START_NS : facts->policy->merge_after_ns;
    if (round->state->merged_ns > 0 && !balance_elapsed(facts, round->state->merged_ns, pause))
        return true;
    for (size_t i = 0; i < facts->shard_count; i++)
        if (facts->shards[i].operation != NULL)
            return true;
    return round->hot || round->new_operations > 0;
}

void balance_merge_step(struct round *round)
{
    const struct balance_facts *facts = round->facts;
    struct pair pair = {0};
    if (facts->policy->merge == AUTO_OFF || facts->shard_count < 2 || waits(round))
        return;
    if (!pair_find(round, &pair)) {
        round->state->merge_refusal.active = false;
        return;
    }
    struct turn t = {.round = round, .shard = &facts->shards[pair.from], .index = pair.from};
    char text[BALANCE_TIME_SIZE], why[BALANCE_WHY_SIZE];
    t.state = balance_notes(round, pair.from);
    t.heat.load = heat_peak(facts, pair.from);
    balance_format_time(facts->policy->merge_after_ns, text);
    words_set(&t.words, "shard", "%s", t.shard->name);
    words_set(&t.words, "target", "%s", facts->shards[pair.into].name);
    words_set(&t.words, "time", "%s", text);
    balance_set_load(&t, "load", pair.peak);
    balance_set_load(&t, "threshold", facts->policy->threshold);
    if (held(round, &pair, why) != NULL) {
        words_set(&t.words, "why", "%s", why);
        merge_refuse(&t, &pair, why);
    } else {
        merge(&t, &pair);
    }
}
