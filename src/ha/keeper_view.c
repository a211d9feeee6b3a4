/* What others may see of a keeper's members. */
#include <string.h>

#include "ha/keeper_impl.h"

bool shard_keeper_view(const struct shard_keeper *k, const char *member, struct shard_keeper_view *ret)
{
    for (unsigned i = 0; i < k->shard.count; i++) {
        const struct ha_config *newest = ha_newest(&k->record.op.ha);
        const struct ha_instance *x = &k->shard.instances[i];
        if (strcmp(x->name, member) != 0)
            continue;
        bool primary = newest->primary == (int)i;
        const struct shard_primaryship *seen = shard_record_primaryship(&k->record, newest->term);
        *ret = (struct shard_keeper_view){.status = keeper_status(k, (int)i),
                                          .heard_ns = x->heard_ns,
                                          .primary = primary,
                                          .unseen = primary && seen != NULL && seen->timeline == 0,
                                          .sync = (newest->members & HA_BIT(i)) != 0,
                                          .streams = !primary && x->streams,
                                          .lag_known = !primary && x->streams && k->shard.lsn != 0};
        if (ret->lag_known && x->flushed < k->shard.lsn)
            ret->lag_bytes = k->shard.lsn - x->flushed;
        return true;
    }
    return false;
}

bool shard_keeper_writable(const struct shard_keeper *k)
{
    const struct ha_config *newest = ha_newest(&k->record.op.ha);
    return k->loaded && sm_now(&k->sm) == KEEPER_STANDING && keeper_in_effect(k, newest, false) &&
           keeper_followed(k, newest);
}
