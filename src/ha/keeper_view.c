/* What others may see of a keeper's members. */
#include <math.h>
#include <string.h>

#include "ha/keeper_impl.h"

/* Heartbeats and statuses come each second: a count that is so much older is really behind. */
#define BEAT_SLACK_NS (2 * ENV_NS_PER_S)
/* A receiver asks for a word after half of wal_receiver_timeout, which is 5 s. */
#define WORD_NS (4 * ENV_NS_PER_S)

static bool is_fresh(const struct shard_keeper *k, int i, uint64_t now)
{
    return keeper_status(k, i) != NULL && now < k->shard.instances[i].heard_ns + k->shard.policy.silent_ns;
}

/*
 * How long ago the first heartbeat was heard of that it does not have. Without a receiver (P16) at least as
 * long as it has had no word. NAN = not known.
 */
static double lag_of(const struct shard_keeper *k, int i, int primary)
{
    uint64_t now = loop_now(k->loop), word_ns = k->members[i].word_ns;
    const struct member_status *s = keeper_status(k, i), *p = keeper_status(k, primary);
    if (!is_fresh(k, i, now) || s->primary)
        return (double)NAN;
    uint64_t lag = s->beat != 0 ? standby_lag_of(&k->beats, now, s->beat) : 0;
    bool receives = strcmp(s->receiver, "streaming") == 0 && word_ns != 0 && now < word_ns + WORD_NS;
    if (!receives) {
        lag = word_ns != 0 && now - word_ns > lag ? now - word_ns : lag;
        return lag > 0 ? (double)lag / (double)ENV_NS_PER_S : (double)NAN;
    }
    if (s->beat == 0 || !is_fresh(k, primary, now) || !p->primary || p->beat == 0)
        return (double)NAN;
    return lag < BEAT_SLACK_NS ? 0 : (double)lag / (double)ENV_NS_PER_S;
}

bool shard_keeper_view(const struct shard_keeper *k, const char *member, struct shard_keeper_view *ret)
{
    for (unsigned i = 0; i < k->shard.count; i++) {
        const struct ha_config *newest = ha_newest(&k->record.op.ha);
        const struct ha_instance *x = &k->shard.instances[i];
        if (strcmp(x->name, member) != 0)
            continue;
        bool primary = newest->primary == (int)i;
        const struct shard_primaryship *seen = shard_record_primaryship(&k->record, newest->term);
        *ret = (struct shard_keeper_view){
            .status = keeper_status(k, (int)i),
            .heard_ns = x->heard_ns,
            .primary = primary,
            .unseen = primary && seen != NULL && seen->timeline == 0,
            .sync = (newest->members & HA_BIT(i)) != 0,
            .streams = !primary && x->streams,
            .upstream = x->upstream != 0 && !primary ? k->shard.instances[x->upstream - 1].name : NULL,
            .lag_seconds = primary ? (double)NAN : lag_of(k, (int)i, newest->primary),
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
