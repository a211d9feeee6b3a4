#include "health/ha.h"

#include <assert.h>
#include <string.h>

#include "base/env.h"

unsigned ha_size(ha_set set)
{
    unsigned n = 0;
    for (; set != 0; set &= set - 1)
        n++;
    return n;
}

const char *ha_durability_name(enum ha_durability durability)
{
    static const char *const names[] = {"required", "preferred", "async"};
    return names[durability];
}

int ha_compare(const struct ha_position *a, const struct ha_position *b)
{
    if (a->term != b->term)
        return a->term < b->term ? -1 : 1;
    if (a->lsn != b->lsn)
        return a->lsn < b->lsn ? -1 : 1;
    return 0;
}

const struct ha_config *ha_newest(const struct ha_record *record)
{
    assert(record->count > 0);
    return &record->configs[record->count - 1];
}

ha_set ha_involved(const struct ha_record *record)
{
    ha_set all = 0;
    for (unsigned i = 0; i < record->count; i++)
        all |= record->configs[i].members | HA_BIT(record->configs[i].primary);
    return all;
}

unsigned ha_needed(const struct ha_config *config)
{
    unsigned n = ha_size(config->members);
    if (config->k == 0) /* async: nothing is proved, but nobody is left to receive more */
        return n;
    return config->k <= n ? n - config->k + 1 : 0;
}

bool ha_satisfied(const struct ha_config *config, ha_set confirmed)
{
    unsigned needed = ha_needed(config);
    if ((confirmed & HA_BIT(config->primary)) != 0)
        return true;
    return needed > 0 && ha_size(confirmed & config->members) >= needed;
}

bool ha_all_satisfied(const struct ha_record *record, ha_set confirmed, const struct ha_config **ret)
{
    for (unsigned i = record->count; i-- > 0;) {
        if (ha_satisfied(&record->configs[i], confirmed))
            continue;
        if (ret != NULL)
            *ret = &record->configs[i];
        return false;
    }
    return true;
}

void ha_policy_defaults(struct ha_policy *policy, unsigned instances)
{
    *policy = (struct ha_policy){.durability = instances >= 3 ? HA_REQUIRED : HA_PREFERRED,
                                 .k = 1,
                                 .silent_ns = 3 * ENV_NS_PER_S,
                                 .quiet_ns = 2 * ENV_NS_PER_S,
                                 .restart_ns = 3 * ENV_NS_PER_S,
                                 .lease_ns = 4 * ENV_NS_PER_S,
                                 .exclude_ns = 2 * ENV_NS_PER_S,
                                 .admit_bytes = 1 << 20};
}

void ha_record_init(struct ha_record *record, const struct ha_policy *policy, int primary, ha_set standbys)
{
    unsigned n = ha_size(standbys);
    memset(record, 0, sizeof *record);
    record->term = record->epoch = record->count = 1;
    record->durability = policy->durability;
    record->configs[0] = (struct ha_config){.epoch = 1, .term = 1, .primary = primary, .members = standbys};
    if (policy->durability != HA_ASYNC)
        record->configs[0].k = policy->k < n ? policy->k : n;
}

/* Do the other configs say all that this one says? By all sets of instances that could confirm. */
static bool is_implied(const struct ha_record *record, unsigned which)
{
    ha_set all = ha_involved(record), set = all;
    for (;;) { /* every subset of all */
        bool others = true;
        for (unsigned i = 0; i < record->count && others; i++)
            others = i == which || ha_satisfied(&record->configs[i], set);
        if (others && !ha_satisfied(&record->configs[which], set))
            return false;
        if (set == 0)
            return true;
        set = (set - 1) & all;
    }
}

void ha_record_prune(struct ha_record *record)
{
    for (unsigned i = record->count - 1; i-- > 0;) {
        if (!is_implied(record, i))
            continue;
        memmove(&record->configs[i], &record->configs[i + 1],
                (record->count - i - 1) * sizeof record->configs[0]);
        record->count--;
    }
}
