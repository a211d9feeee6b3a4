/* What the statuses of the members mean for the deciders. */
#include <stdio.h>
#include <string.h>

#include "ha/keeper_impl.h"

/* What is heard of a machine for so long after it was said to be gone may have been on its way, or is of one
 * that is being ended just now; what is heard later is of one that is there. */
#define GONE_NS (2 * ENV_NS_PER_S)
/* Who was told to follow another standby and gets nothing from it for so long is better off with the primary.
 */
#define UNSERVED_NS (10 * ENV_NS_PER_S)

const struct member_status *keeper_status(const struct shard_keeper *k, int i)
{
    const struct ha_instance *x = &k->shard.instances[i];
    return x->closed || x->pod == HA_POD_GONE ? NULL : member_link_status(k->members[i].link);
}

static enum ha_pod pod_of(const struct keeper_member *m, const struct ha_instance *x)
{
    const struct member_status *s = member_link_status(m->link);
    bool anew = s != NULL && strcmp(s->life, m->gone_life) != 0;
    if (m->gone_ns == 0)
        return HA_POD_UNKNOWN;
    return anew || x->heard_ns >= m->gone_ns + GONE_NS ? HA_POD_RUNS : HA_POD_GONE;
}

bool keeper_retired(const struct shard_keeper *k, int i)
{
    const struct member_status *s = keeper_status(k, i);
    return s != NULL && s->retired;
}

bool keeper_receives_nothing(const struct shard_keeper *k, int i, uint64_t term)
{
    const struct member_status *s = keeper_status(k, i);
    return s != NULL && s->term == term && s->seq == SEQ_CONFIRM && s->nobody && s->confirmed && s->settled &&
           s->known;
}

bool keeper_has_stopped(const struct shard_keeper *k, int i, uint64_t term)
{
    static const char *const states[] = {"stopped", "starting", "standby"};
    const struct member_status *s = keeper_status(k, i);
    bool stopped = false;
    for (unsigned j = 0; s != NULL && j < sizeof states / sizeof states[0]; j++)
        stopped |= strcmp(s->reported, states[j]) == 0;
    return stopped && s->term == term && s->seq == SEQ_CONFIRM && s->nobody && s->confirmed;
}

bool keeper_confirmed(const struct shard_keeper *k, int i, uint64_t term, struct ha_confirmation *ret)
{
    const struct member_status *s = keeper_status(k, i);
    if (!keeper_receives_nothing(k, i, term) || s->wal_term == 0)
        return false;
    ret->term = term;
    ret->position = (struct ha_position){.term = s->wal_term, .timeline = s->timeline, .lsn = s->flushed};
    return true;
}

bool keeper_opened(const struct shard_keeper *k, const struct ha_config *config)
{
    const struct member_status *s = keeper_status(k, config->primary);
    return s != NULL && s->term == config->term && s->seq > SEQ_PRIMARY + 2 * config->epoch;
}

bool keeper_in_effect(const struct shard_keeper *k, const struct ha_config *config, bool held)
{
    uint64_t seq = SEQ_PRIMARY + 2 * config->epoch + (held ? 0 : 1);
    const struct member_status *s = keeper_status(k, config->primary);
    return s != NULL && s->term == config->term && s->seq == seq && s->settled && s->known && s->primary;
}

bool keeper_followed(const struct shard_keeper *k, const struct ha_config *config)
{
    unsigned streaming = 0;
    for (unsigned i = 0; i < k->shard.count; i++)
        streaming += (config->members & HA_BIT(i)) != 0 && k->shard.instances[i].streams;
    return streaming >= config->k;
}

/* 1 + the other standby that its receiver is connected to; 0 = it is none of ours, or there is no receiver.
 */
static int receives_from(const struct shard_keeper *k, int i, int primary)
{
    const struct member_status *s = keeper_status(k, i);
    size_t length;
    for (int j = 0; s != NULL && s->upstream[0] != '\0' && j < (int)k->shard.count; j++) {
        const struct keeper_member *m = &k->members[j];
        char port[16];
        length = strlen(m->host);
        (void)snprintf(port, sizeof port, ":%d", m->port);
        if (j != i && j != primary && strncmp(s->upstream, m->host, length) == 0 &&
            strcmp(s->upstream + length, port) == 0)
            return j + 1;
    }
    return 0;
}

/* One that was asked to follow another standby, and whether that one serves it. */
static void cascade_facts(struct shard_keeper *k, int i, int primary)
{
    struct ha_instance *x = &k->shard.instances[i];
    struct keeper_member *m = &k->members[i];
    uint64_t now = loop_now(k->loop);
    int from = receives_from(k, i, primary);
    bool streams = x->receives;
    x->upstream = x->follows == 0 ? 0 : from != 0 ? from : m->upstream;
    if (from != 0)
        x->receives = false; /* from the primary: what it hears says nothing of that one */
    if (m->upstream == 0 || streams)
        m->parted_ns = 0;
    else if (m->parted_ns == 0)
        m->parted_ns = now;
    else if (now >= m->parted_ns + UNSERVED_NS) {
        x->unserved_ns = now;
        m->parted_ns = 0;
    }
}

static void standby_facts(struct shard_keeper *k, const struct member_status *primary, unsigned i)
{
    struct ha_instance *x = &k->shard.instances[i];
    /* what another than the primary says of a standby counts only if nothing else counts on that standby */
    bool counts = (ha_involved(&k->shard.record) & HA_BIT(i)) != 0;
    const struct member_status *upstream = x->upstream != 0 && x->upstream == x->follows && !counts
                                               ? keeper_status(k, x->upstream - 1)
                                               : primary;
    const struct member_standby *seen = upstream != NULL ? member_status_standby(upstream, x->name) : NULL;
    bool streams = seen != NULL && seen->streams;
    if (streams != x->streams || x->streams_ns == 0)
        x->streams_ns = loop_now(k->loop);
    x->streams = streams;
    if (seen != NULL)
        x->flushed = seen->flushed;
}

/* The newest config is in effect: since the first status that says so, at the latest where that one was. */
static void config_facts(struct shard_keeper *k, const struct ha_config *newest)
{
    struct ha_instance *x = &k->shard.instances[newest->primary];
    const struct member_status *s = member_link_status(k->members[newest->primary].link);
    if (!keeper_in_effect(k, newest, false))
        return;
    k->shard.lsn = s->flushed;
    if (x->config_epoch == newest->epoch)
        return;
    x->config_epoch = newest->epoch;
    x->config_lsn = s->flushed;
}

void keeper_facts(struct shard_keeper *k)
{
    k->shard.record = k->record.op.ha;
    k->shard.maintenance = k->record.maintenance;
    const struct ha_config *newest = ha_newest(&k->shard.record);
    for (unsigned i = 0; i < k->shard.count; i++) {
        member_link_facts(k->members[i].link, &k->shard.instances[i]);
        k->shard.instances[i].pod = pod_of(&k->members[i], &k->shard.instances[i]);
        if (k->shard.instances[i].receives && k->shard.instances[i].received_ns != 0)
            k->members[i].word_ns = k->shard.instances[i].received_ns;
        cascade_facts(k, (int)i, newest->primary);
    }
    const struct member_status *primary = keeper_status(k, newest->primary);
    if (primary != NULL && !primary->primary)
        primary = NULL;
    if (primary != NULL && primary->beat != 0)
        standby_lag_mark(&k->beats, loop_now(k->loop), primary->beat);
    for (unsigned i = 0; i < k->shard.count; i++)
        if ((int)i != newest->primary)
            standby_facts(k, primary, i);
    config_facts(k, newest);
}

void keeper_look(struct shard_keeper *k)
{
    for (unsigned i = 0; i < k->shard.count; i++)
        member_link_look(k->members[i].link);
}
