/* Whom to promote, once instances have confirmed. */
#include <inttypes.h>
#include <string.h>

#include "base/env.h"
#include "health/ha_decide.h"

struct choosing {
    const struct ha_shard *shard;
    const struct ha_ballot *ballot;
    ha_set confirmed;
    struct words words;
    struct ha_choice *ret;
};

static void say(struct choosing *c, int rule)
{
    c->ret->rule = rule;
    ha_rule_render(rule, &c->words, c->ret->sentence);
}

static const struct ha_position *position(const struct choosing *c, int i)
{
    return &c->shard->instances[i].confirmed.position;
}

static bool eligible(const struct choosing *c, int i)
{
    const struct ha_instance *x = &c->shard->instances[i];
    return !x->no_failover && !x->delayed;
}

/* Is a the better one? The most advanced, then who was asked for, then by priority, then the first. */
static bool better(const struct choosing *c, int a, int b)
{
    int order = ha_compare(position(c, a), position(c, b));
    if (order != 0)
        return order > 0;
    if (a == c->ballot->prefer || b == c->ballot->prefer)
        return a == c->ballot->prefer;
    return c->shard->instances[a].priority > c->shard->instances[b].priority;
}

/* -1 = none */
static int best(const struct choosing *c, ha_set among, bool only_eligible)
{
    int found = -1;
    for (int i = 0; i < (int)c->shard->count; i++) {
        if ((among & HA_BIT(i)) == 0 || (only_eligible && !eligible(c, i)))
            continue;
        if (found < 0 || better(c, i, found))
            found = i;
    }
    return found;
}

/* Who may help from now on: whoever confirmed and can follow; the others come back one by one (ha_sync_plan).
 */
static void set_config(struct choosing *c)
{
    const struct ha_policy *policy = &c->shard->policy;
    ha_set members = 0, all = 0;
    for (int i = 0; i < (int)c->shard->count; i++)
        if (i != c->ret->winner && !c->shard->instances[i].no_sync)
            all |= HA_BIT(i);
    members = all & c->confirmed;
    if (policy->durability == HA_ASYNC || (policy->durability == HA_REQUIRED && members == 0))
        members = all;
    unsigned n = ha_size(members);
    c->ret->config = (struct ha_config){.term = c->ballot->term,
                                        .primary = c->ret->winner,
                                        .members = members,
                                        .k = policy->k < n ? policy->k : n};
    if (policy->durability == HA_ASYNC)
        c->ret->config.k = 0;
}

static void win(struct choosing *c, int winner, int donor, int rule)
{
    const struct ha_position *p = position(c, donor >= 0 ? donor : winner);
    c->ret->winner = winner;
    c->ret->donor = donor;
    c->ret->position = *p;
    words_set(&c->words, "winner", "%s", c->shard->instances[winner].name);
    words_set(&c->words, "donor", "%s", donor >= 0 ? c->shard->instances[donor].name : "");
    words_set(&c->words, "position", "%X/%08X on timeline %" PRIu32, (unsigned)(p->lsn >> 32),
              (unsigned)(p->lsn & 0xffffffff), p->timeline);
    set_config(c);
    say(c, rule);
}

/* A primary that did not confirm could still acknowledge alone, as far as the record knows. */
static bool needs_lease(const struct choosing *c)
{
    const struct ha_record *r = &c->shard->record;
    for (unsigned i = 0; i < r->count; i++) {
        const struct ha_config *x = &r->configs[i];
        bool confirmed = (c->confirmed & HA_BIT(x->primary)) != 0;
        if (!confirmed && (x->k == 0 || !ha_satisfied(x, c->confirmed)))
            return true;
    }
    return false;
}

static void choose_by_quorum(struct choosing *c)
{
    const struct ha_record *r = &c->shard->record;
    const struct ha_config *open = NULL;
    if (!ha_all_satisfied(r, c->confirmed, &open)) {
        words_set(&c->words, "members", "%u", ha_size(open->members));
        words_set(&c->words, "primary", "%s", c->shard->instances[open->primary].name);
        words_set(&c->words, "epoch", "%" PRIu64, open->epoch);
        words_set(&c->words, "heard", "%u", ha_size(open->members & c->confirmed));
        unsigned needed = ha_needed(open);
        if (needed > 0)
            words_set(&c->words, "needed", "%u", needed);
        else
            words_set(&c->words, "needed", "more than there are");
        say(c, HA_F_QUORUM_MISSING);
        return;
    }
    ha_set among = c->confirmed & ha_involved(r);
    int most = best(c, among, false), winner = best(c, among, true);
    if (winner < 0)
        say(c, HA_F_NO_CANDIDATE);
    else if (ha_compare(position(c, winner), position(c, most)) == 0)
        win(c, winner, -1, HA_F_PROMOTE);
    else
        win(c, winner, most, HA_F_FETCH);
}

void ha_choose(const struct ha_shard *shard, const struct ha_ballot *ballot, struct ha_choice *ret)
{
    struct choosing c = {.shard = shard, .ballot = ballot, .ret = ret};
    memset(ret, 0, sizeof *ret);
    ret->winner = ret->donor = -1;
    for (int i = 0; i < (int)shard->count; i++)
        if (shard->instances[i].confirmed.term == ballot->term)
            c.confirmed |= HA_BIT(i);
    words_set(&c.words, "shard", "%s", shard->name);
    words_set(&c.words, "term", "%" PRIu64, ballot->term);
    words_set(&c.words, "heard", "%u", ha_size(c.confirmed));
    words_set(&c.words, "configs", "%u", shard->record.count);
    if (shard->record.count == HA_CONFIGS_MAX && ballot->allow_loss < 0)
        say(&c, HA_F_TOO_MANY);
    else if (ballot->allow_loss < 0)
        choose_by_quorum(&c);
    else if ((c.confirmed & HA_BIT(ballot->allow_loss)) == 0)
        say(&c, HA_F_NO_CANDIDATE);
    else
        win(&c, ballot->allow_loss, -1, HA_F_DATA_LOSS);
    ret->lease = ret->winner >= 0 && needs_lease(&c);
}
