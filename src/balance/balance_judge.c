/*
 * A hot shard and what was seen of its writes (or rows): the change, or the rule that forbids it.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "balance/balance_impl.h"

/* What the sample says, and what follows from it. */
struct verdict {
    struct split_point point;
    bool rows;
    double kept, moved; /* of this shard's load */
};

static void refuse_sampled(struct turn *t, int rule)
{
    struct shard_notes *s = t->state;
    unsigned doublings = s->retries < 3 ? s->retries : 3;
    balance_phase_set(s, BALANCE_REFUSED);
    s->retry_ns = t->round->facts->now_ns + (BALANCE_RETRY_NS << doublings);
    s->retries++;
    balance_refuse(t, rule);
}

/* ---- rules about the load itself ---- */

static bool check_moving(struct turn *t, const struct verdict *v)
{
    const struct split_point *p = &v->point;
    const struct shard_notes *s = t->state;
    bool popular = p->popular_share >= SPLIT_POPULAR;
    bool another = popular && s->popular_ns > 0 && s->popular_hash != p->popular_hash &&
                   !balance_elapsed(t->round->facts, s->popular_ns, BALANCE_REPEAT_NS);
    if (p->keys_change)
        words_set(&t->words, "why", "the hot keys of one half of the sample carry %.0f %% in the other",
                  p->heavy_common * 100);
    else if (p->point_moves)
        words_set(&t->words, "why",
                  "the part to move carries %.0f %% in one half of the sample, %.0f %% in the other",
                  p->half_share[0] * 100, p->half_share[1] * 100);
    else if (another)
        words_set(&t->words, "why", "%s", "the popular key is not the one of the sample before");
    return p->keys_change || p->point_moves || another;
}

static void offer_isolation(struct turn *t, const struct verdict *v)
{
    const struct split_point *p = &v->point;
    char text[RANGE_TEXT_SIZE];
    struct range one = {p->popular_hash, p->popular_hash};
    double moved = t->heat.load * p->popular_share, kept = t->heat.load - moved;
    range_format(&one, text);
    words_set(&t->words, "split", "%" PRId64, p->popular_hash);
    words_set(&t->words, "range", "%s", text);
    balance_set_load(t, "kept", kept);
    balance_set_load(t, "moved", moved);
    struct balance_change *change = balance_change_make(t, BALANCE_ISOLATE, BALANCE_R_ISOLATE, false);
    change->range = one;
    change->split_at = p->popular_hash;
    change->kept = kept;
    change->moved = moved;
}

static void refuse_popular(struct turn *t, const struct verdict *v)
{
    size_t before = t->round->changes->count;
    balance_set_share(t, "share", v->point.popular_share);
    words_set(&t->words, "what", "%s", v->rows ? "rows" : "writes");
    t->state->popular_hash = v->point.popular_hash;
    t->state->popular_ns = t->round->facts->now_ns;
    refuse_sampled(t, BALANCE_R_POPULAR_KEY);
    if (t->round->changes->count > before) /* the offer is news when the refusal is */
        offer_isolation(t, v);
}

/* The rule of the load that forbids a cut; 0 = none. */
static int check_point(struct turn *t, const struct verdict *v)
{
    const struct split_point *p = &v->point;
    if (p->verdict == SPLIT_NO_DATA) {
        words_set(&t->words, "why", "%s", "nothing was seen within its ranges");
        return BALANCE_R_NO_SPLIT_POINT;
    }
    if (check_moving(t, v))
        return BALANCE_R_MOVING_LOAD;
    if (p->popular_share >= SPLIT_POPULAR)
        return BALANCE_R_POPULAR_KEY;
    if (p->verdict == SPLIT_NO_CUT) {
        words_set(&t->words, "why", "%s", "all that was seen has one hash");
        return BALANCE_R_NO_SPLIT_POINT;
    }
    if (p->moved_share < SPLIT_BALANCE || p->moved_share > 1 - SPLIT_BALANCE) {
        balance_set_share(t, "stay_share", 1 - p->moved_share);
        balance_set_share(t, "move_share", p->moved_share);
        return BALANCE_R_UNBALANCED;
    }
    return 0;
}

/* ---- where to ---- */

size_t balance_find_target(const struct turn *t, double received)
{
    const struct round *round = t->round;
    const struct balance_facts *facts = round->facts;
    size_t best = facts->shard_count;
    double least = facts->policy->threshold * BALANCE_RECEIVE_MAX;
    for (size_t i = 0; i < facts->shard_count; i++) {
        const struct balance_shard_facts *shard = &facts->shards[i];
        if (i == t->index || !shard->may_receive || shard->ranges->count == 0)
            continue;
        if (balance_busy(round, i) || balance_cooling(round, i))
            continue;
        double after = heat_peak(facts, i) + received;
        if (after <= least) { /* false when not known */
            least = after;
            best = i;
        }
    }
    return best;
}

static bool enough_room_for_all(const struct turn *t)
{
    const struct balance_facts *facts = t->round->facts;
    double needed = t->heat.load / facts->policy->threshold; /* shards, itself among them */
    size_t shards = facts->shard_count + facts->pending_shards + t->round->new_shards;
    double room = (double)facts->policy->max_shards - (double)shards;
    double made = (double)facts->free_instances - (double)t->round->new_shards;
    return needed < (room < made ? room : made) + 1;
}

static bool below_threshold(const struct turn *t, const struct verdict *v)
{
    double threshold = t->round->facts->policy->threshold;
    return v->kept < threshold && v->moved < threshold;
}

static void decide(struct turn *t, struct balance_change *change, const struct verdict *v, const char *mode)
{
    struct shard_notes *s = t->state;
    change->range = v->point.moved;
    change->split_at = v->point.at;
    change->kept = v->kept;
    if (!change->act) {
        size_t used = strlen(change->sentence);
        snprintf(change->sentence + used, sizeof change->sentence - used,
                 ", recommended only: %s is recommend", mode);
    } else {
        t->round->new_operations++;
    }
    balance_phase_set(s, BALANCE_DECIDED);
    s->operation_seen = false;
    s->retries = 0;
    s->show.refusal.active = false;
    s->show.decision = *change;
    s->show.decided_ns = t->round->facts->now_ns;
}

static bool try_rebalance(struct turn *t, const struct verdict *v)
{
    const struct balance_facts *facts = t->round->facts;
    const struct balance_policy *policy = facts->policy;
    bool wanted =
        policy->rebalance == AUTO_ON || (policy->rebalance == AUTO_RECOMMEND && policy->split != AUTO_ON);
    size_t target =
        wanted && v->kept < policy->threshold ? balance_find_target(t, v->moved) : facts->shard_count;
    if (target == facts->shard_count)
        return false;
    char text[RANGE_TEXT_SIZE];
    double received = heat_peak(facts, target) + v->moved;
    range_format(&v->point.moved, text);
    words_set(&t->words, "range", "%s", text);
    words_set(&t->words, "target", "%s", facts->shards[target].name);
    words_set(&t->words, "basis", "%s", "");
    if (v->rows)
        words_set(&t->words, "basis", " (median of %" PRIu64 " sampled rows because %s)", v->point.count,
                  t->state->rows_why);
    balance_set_load(t, "received", received);
    bool act = policy->rebalance == AUTO_ON;
    struct balance_change *change = balance_change_make(t, BALANCE_REBALANCE, BALANCE_R_REBALANCE, act);
    snprintf(change->target, sizeof change->target, "%s", facts->shards[target].name);
    change->moved = received;
    if (act)
        balance_notes(t->round, target)->reserved_ns = facts->now_ns;
    decide(t, change, v, "rebalancing");
    return true;
}

static void split(struct turn *t, const struct verdict *v)
{
    int rule = v->rows ? BALANCE_R_ROW_MEDIAN : BALANCE_R_SPLIT;
    bool act = t->round->facts->policy->split == AUTO_ON;
    words_set(&t->words, "count", "%" PRIu64, v->point.count);
    words_set(&t->words, "why", "%s", t->state->rows_why);
    struct balance_change *change = balance_change_make(t, BALANCE_SPLIT, rule, act);
    change->moved = v->moved;
    t->round->new_shards += act;
    decide(t, change, v, "splitting");
}

void balance_judge(struct turn *t, const struct split_sample *sample, bool rows)
{
    struct verdict v = {.rows = rows};
    split_point_find(sample, t->shard->ranges, &v.point);
    v.moved = t->heat.load * v.point.moved_share;
    v.kept = t->heat.load - v.moved;
    int rule = check_point(t, &v);
    if (rule == BALANCE_R_POPULAR_KEY) {
        refuse_popular(t, &v);
        return;
    }
    words_set(&t->words, "split", "%" PRId64, v.point.at);
    balance_set_load(t, "kept", v.kept);
    balance_set_load(t, "moved", v.moved);
    bool stepwise = t->round->facts->stepwise && enough_room_for_all(t);
    if (rule == 0 && !below_threshold(t, &v) && !stepwise)
        rule = BALANCE_R_STILL_HOT;
    if (rule == 0 && try_rebalance(t, &v))
        return;
    if (rule == 0)
        rule = balance_room(t);
    if (rule != 0)
        refuse_sampled(t, rule);
    else
        split(t, &v);
}
