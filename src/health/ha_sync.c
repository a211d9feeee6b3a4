/* Who helps the primary acknowledge: the next step of the sync set. */
#include <inttypes.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/env.h"
#include "health/ha_decide.h"

struct planning {
    const struct ha_shard *shard;
    const struct ha_config *newest;
    const struct ha_instance *primary;
    uint64_t now;
    struct words words;
    struct ha_sync_step *ret;
};

static void say(struct planning *p, enum ha_sync_do what, int rule)
{
    p->ret->what = what;
    p->ret->rule = rule;
    ha_rule_render(rule, &p->words, p->ret->sentence);
}

/* "any 1 of a, b" */
static void set_names(struct planning *p, const char *key, ha_set members, unsigned k)
{
    struct buf names = {0};
    for (unsigned i = 0; i < p->shard->count; i++)
        if ((members & HA_BIT(i)) != 0)
            buf_printf(&names, "%s%s", names.length > 0 ? ", " : "", p->shard->instances[i].name);
    if (members == 0)
        words_set(&p->words, key, "nobody");
    else
        words_set(&p->words, key, "any %u of %s", k, buf_text(&names));
    buf_free(&names);
}

/* A member stays while it streams, and a moment longer; another one enters once it has caught up. */
static bool helps(const struct planning *p, unsigned i)
{
    const struct ha_instance *x = &p->shard->instances[i];
    const struct ha_policy *policy = &p->shard->policy;
    if (x == p->primary || x->no_sync)
        return false;
    if (policy->durability == HA_ASYNC)
        return true;
    if ((p->newest->members & HA_BIT(i)) != 0)
        return x->streams || p->now < x->streams_ns + policy->exclude_ns;
    return x->streams && x->flushed + policy->admit_bytes >= p->shard->lsn;
}

static void wanted(const struct planning *p, ha_set *members, unsigned *k)
{
    const struct ha_policy *policy = &p->shard->policy;
    *members = 0;
    for (unsigned i = 0; i < p->shard->count; i++)
        if (helps(p, i))
            *members |= HA_BIT(i);
    unsigned n = ha_size(*members);
    *k = policy->durability == HA_ASYNC ? 0 : policy->k < n ? policy->k : n;
    if (policy->durability == HA_REQUIRED && n == 0) { /* commits wait rather than rely on nobody */
        *members = p->newest->members;
        *k = p->newest->k;
    }
}

static void record_wanted(struct planning *p, ha_set members, unsigned k)
{
    struct ha_record *r = &p->ret->record;
    r->epoch++;
    r->durability = p->shard->policy.durability;
    r->configs[r->count++] = (struct ha_config){.epoch = r->epoch,
                                                .term = p->newest->term,
                                                .primary = p->newest->primary,
                                                .members = members,
                                                .k = k};
    ha_record_prune(r);
    say(p, HA_SYNC_RECORD, HA_F_SYNC_CHANGE);
}

/* All that was written before the newest config came into effect is where that config says. */
static bool settled(const struct planning *p)
{
    unsigned have = 0;
    for (unsigned i = 0; i < p->shard->count; i++) {
        const struct ha_instance *x = &p->shard->instances[i];
        if ((p->newest->members & HA_BIT(i)) != 0 && x->streams && x->flushed >= p->primary->config_lsn)
            have++;
    }
    return have >= p->newest->k;
}

static void bring_about(struct planning *p)
{
    struct ha_record *r = &p->ret->record;
    words_set(&p->words, "lsn", "%X/%08X", (unsigned)(p->primary->config_lsn >> 32),
              (unsigned)(p->primary->config_lsn & 0xffffffff));
    if (p->primary->config_epoch != p->newest->epoch)
        say(p, HA_SYNC_APPLY, HA_F_SYNC_APPLY);
    else if (r->count == 1)
        say(p, HA_SYNC_NONE, HA_F_SYNC_KEPT);
    else if (settled(p)) {
        r->configs[0] = *p->newest;
        r->count = 1;
        say(p, HA_SYNC_RECORD, HA_F_SYNC_SETTLED);
    } else
        say(p, HA_SYNC_NONE, HA_F_SYNC_AWAIT);
}

void ha_sync_plan(const struct ha_shard *shard, uint64_t now_ns, struct ha_sync_step *ret)
{
    const struct ha_config *newest = ha_newest(&shard->record);
    const struct ha_instance *primary = &shard->instances[newest->primary];
    struct planning p = {.shard = shard, .newest = newest, .primary = primary, .now = now_ns, .ret = ret};
    ha_set members = 0;
    unsigned k = 0;
    ret->record = shard->record;
    wanted(&p, &members, &k);
    words_set(&p.words, "shard", "%s", shard->name);
    words_set(&p.words, "primary", "%s", primary->name);
    words_set(&p.words, "term", "%" PRIu64, shard->record.term);
    set_names(&p, "set", newest->members, newest->k);
    set_names(&p, "wanted", members, k);
    bool speaks = primary->server == HA_SERVER_PRIMARY && primary->ended_ns == 0 && !primary->closed &&
                  now_ns < primary->heard_ns + shard->policy.silent_ns;
    if (shard->maintenance)
        say(&p, HA_SYNC_NONE, HA_F_MAINTENANCE);
    else if (shard->record.term > newest->term)
        say(&p, HA_SYNC_NONE, HA_F_UNDER_WAY);
    else if (!speaks) /* what it last said of its standbys is no ground to change anything */
        say(&p, HA_SYNC_NONE, HA_F_SYNC_KEPT);
    else if ((members != newest->members || k != newest->k) && shard->record.count < HA_CONFIGS_MAX)
        record_wanted(&p, members, k);
    else
        bring_about(&p);
}
