/*
 * Which members the record names. They have places in the order of their numbers: who joins comes at the end,
 * and the last ones leave.
 *
 * A member joins as somebody who is in no sync set: it counts for nothing until it streams and has caught up
 * (F20). One leaves in two steps: it is asked for no help any more, so that the sync sets that name it are
 * settled (F23), and is then dropped from the record. Its agent goes on as it was until it is removed: nobody
 * counts on it, and if it comes back later it is told anew whom to follow.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "ha/keeper_impl.h"
#include "operation/operation.h"

/* It goes on alone, as it has until now: standbys join when they have what it has. */
static void adopt(struct shard_record *record)
{
    const struct shard_primaryship began = {.term = 1}; /* no timeline: it was not seen yet */
    struct ha_config *only = &record->op.ha.configs[0];
    only->members = 0;
    only->k = 0;
    (void)shard_record_began(record, &began);
}

/* Who is not to help acknowledge does not begin with it either, if somebody else can. */
static void leave_out(struct shard_record *record, const struct shard_keeper_options *o)
{
    struct ha_config *first = &record->op.ha.configs[0];
    ha_set members = first->members;
    for (unsigned i = 0; i < record->count; i++) {
        const struct shard_keeper_tags *t = &o->members[i].tags;
        if (t->no_sync || t->retiring || t->delay_ns != 0 || t->follows != 0)
            members &= ~HA_BIT(i);
    }
    if (ha_size(members) >= first->k && members != 0)
        first->members = members;
}

void keeper_record_begin(struct shard_keeper *k, const struct shard_keeper_options *o)
{
    const char *names[HA_INSTANCES_MAX];
    for (unsigned i = 0; i < k->wanted; i++)
        names[i] = o->members[i].name;
    shard_record_init(&k->record, names, k->wanted, o->policy);
    k->shard.count = k->wanted;
    leave_out(&k->record, o);
    if (o->adopts)
        adopt(&k->record);
}

bool keeper_record_fits(const struct shard_keeper *k, const struct shard_record *record)
{
    if (record->count > k->member_count)
        return false;
    for (unsigned i = 0; i < record->count; i++)
        if (strcmp(record->names[i], k->shard.instances[i].name) != 0)
            return false;
    return true;
}

static void join(struct shard_keeper *k)
{
    struct shard_record *r = &k->writing;
    for (; r->count < k->wanted; r->count++) {
        memcpy(r->names[r->count], k->shard.instances[r->count].name, HA_NAME_SIZE);
        log_event(LOG_INFO, "a member joins the shard", "shard", k->name, "instance", r->names[r->count],
                  NULL);
    }
}

static void leave(struct shard_keeper *k)
{
    struct shard_record *r = &k->writing;
    while (r->count > k->wanted) {
        r->count--;
        log_event(LOG_INFO, "a member leaves the shard: nothing relies on it", "shard", k->name, "instance",
                  r->names[r->count], NULL);
        memset(r->names[r->count], 0, HA_NAME_SIZE);
    }
    if (r->op.target >= (int)r->count) /* of the last switchover, which is over */
        r->op.target = -1;
    if (r->op.allow_loss >= (int)r->count)
        r->op.allow_loss = -1;
}

bool keeper_resize(struct shard_keeper *k)
{
    bool relied_on = ha_involved(&k->record.op.ha) >> k->wanted != 0;
    if (k->record.count == k->wanted || k->record.maintenance || (k->record.count > k->wanted && relied_on))
        return false;
    k->writing = k->record;
    if (k->record.count < k->wanted)
        join(k);
    else
        leave(k);
    operation_test_place(&k->kill_at, "resize:before:record");
    keeper_write(k);
    return true;
}

unsigned shard_keeper_size(const struct shard_keeper *k)
{
    return k->loaded ? k->record.count : 0;
}

bool shard_keeper_hands_over(const struct shard_keeper *k)
{
    return k->loaded && sm_now(&k->sm) == KEEPER_STANDING && !k->calling && !k->record.maintenance &&
           ha_newest(&k->record.op.ha)->primary >= (int)k->wanted;
}
