/* What only a person asks for: maintenance, and a failover that nothing but the person's word is behind. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "ha/keeper_impl.h"

/* ---- maintenance ---- */

void shard_keeper_maintenance(struct shard_keeper *k, bool on)
{
    k->maintenance_asked = true;
    k->maintenance_wanted = on;
    if (sm_now(&k->sm) != KEEPER_CLOSED)
        keeper_turn_soon(k);
}

bool keeper_note_maintenance(struct shard_keeper *k)
{
    bool differs = k->maintenance_asked && k->maintenance_wanted != k->record.maintenance;
    k->maintenance_asked = differs;
    if (!differs)
        return false;
    log_event(LOG_WARN,
              k->maintenance_wanted ? "maintenance begins: nothing is decided about the shard"
                                    : "maintenance ends",
              "shard", k->name, NULL);
    k->writing = k->record;
    k->writing.maintenance = k->maintenance_wanted;
    keeper_write(k);
    return true;
}

/* ---- a failover ---- */

static bool is_heard(const struct shard_keeper *k, int i)
{
    const struct ha_instance *x = &k->shard.instances[i];
    return keeper_status(k, i) != NULL && loop_now(k->loop) < x->heard_ns + k->shard.policy.silent_ns;
}

static ha_set heard_standbys(const struct shard_keeper *k)
{
    ha_set heard = 0;
    for (int i = 0; i < (int)k->shard.count; i++)
        if (i != ha_newest(&k->record.op.ha)->primary && is_heard(k, i))
            heard |= HA_BIT(i);
    return heard;
}

/* How much less it has than the primary had when that was last heard. */
static void add_missing(const struct shard_keeper *k, const struct member_status *s, char *out, size_t size)
{
    out[0] = '\0';
    if (k->shard.lsn > s->flushed)
        (void)snprintf(out, size, ", %" PRIu64 " bytes less than %s when it was last heard",
                       k->shard.lsn - s->flushed,
                       k->shard.instances[ha_newest(&k->record.op.ha)->primary].name);
}

/* With what would be lost. */
static int refuse(const struct shard_keeper *k, int to, const struct ha_config *open, ha_set heard,
                  struct err *err)
{
    const struct member_status *s = keeper_status(k, to);
    const char *name = k->shard.instances[to].name, *primary = k->shard.instances[open->primary].name;
    char missing[160], quorum[160];
    unsigned needed = ha_needed(open);
    add_missing(k, s, missing, sizeof missing);
    if (needed == 0)
        (void)snprintf(quorum, sizeof quorum, "%s acknowledged alone under epoch %" PRIu64, primary,
                       open->epoch);
    else
        (void)snprintf(quorum, sizeof quorum,
                       "%u of the %u standbys that helped %s acknowledge under epoch %" PRIu64
                       " are heard, and %u must be",
                       ha_size(heard & open->members), ha_size(open->members), primary, open->epoch, needed);
    return err_set(err, ERRC_REFUSED,
                   "shard %s: %s. %s has everything up to %X/%08X%s: what was acknowledged beyond that would "
                   "be lost. Bring back who is away, or repeat it with --allow-data-loss",
                   k->name, quorum, name, (unsigned)(s->flushed >> 32), (unsigned)(s->flushed & 0xffffffff),
                   missing);
}

/* It waits for a quorum that does not come. What is allowed is in the record before anybody is promoted. */
static int allow_in_failing(struct shard_keeper *k, int to, struct err *err)
{
    static const char allowed[] = "; then a person allowed to lose data";
    char *reason = k->f.record.reason;
    size_t length = strlen(reason);
    if (failover_now(&k->f) != FAILOVER_CONFIRM)
        return err_set(err, ERRC_CONFLICT, "shard %s is being failed over (%s): again in a moment", k->name,
                       failover_state_name(failover_now(&k->f)));
    log_event(LOG_WARN, "a person allows the failover to lose data", "shard", k->name, "op", k->f.record.id,
              "instance", k->shard.instances[to].name, NULL);
    k->f.record.target = k->f.record.allow_loss = to;
    if (strstr(reason, allowed) == NULL) /* what does not fit is left out: the log has it */
        (void)snprintf(reason + length, sizeof k->f.record.reason - length, "%s", allowed);
    keeper_turn_soon(k);
    return 0;
}

static void begin(struct shard_keeper *k, int to, bool loses)
{
    struct failover_record r;
    failover_record_init(&r, &k->record.op.ha);
    r.target = to;
    r.allow_loss = loses ? to : -1;
    keeper_new_id(k, &r);
    (void)snprintf(r.reason, sizeof r.reason, "a person asked for it%s: %s to be the primary of shard %s",
                   loses ? ", and allowed to lose data" : "", k->record.names[to], k->name);
    keeper_failover_begin(k, &r, false);
}

int keeper_may_lead(const struct shard_keeper *k, int member, struct err *err)
{
    const struct ha_instance *x = &k->shard.instances[member];
    if (!x->no_failover && !x->delayed)
        return 0;
    return err_set(err, ERRC_INVALID, "%s %s: take that away first", x->name,
                   x->delayed        ? "replays late on purpose (replayDelay)"
                   : x->follows != 0 ? "is to follow another standby (follows)"
                                     : "is tagged noFailover");
}

bool keeper_hand_over(struct shard_keeper *k)
{
    int primary = ha_newest(&k->record.op.ha)->primary;
    const struct member_status *s = keeper_status(k, primary);
    char why[160];
    struct err err = {0};
    (void)snprintf(why, sizeof why, "%s is to stop, and hands over first", k->shard.instances[primary].name);
    return s != NULL && s->leaving && shard_keeper_switch(k, NULL, why, &err) == 0;
}

int shard_keeper_fail_over(struct shard_keeper *k, const char *to, bool allow_loss, struct err *err)
{
    int target = shard_record_find(&k->record, to), primary = ha_newest(&k->record.op.ha)->primary;
    const struct ha_config *open = NULL;
    if (target < 0 || target == primary)
        return err_set(err, ERRC_INVALID, "shard %s has no standby %s", k->name, to);
    if (keeper_may_lead(k, target, err) != 0)
        return (int)err->code;
    if (sm_now(&k->sm) == KEEPER_LOADING || sm_now(&k->sm) == KEEPER_CLOSED || k->calling)
        return err_set(err, ERRC_CONFLICT, "shard %s is %s: again later", k->name, sm_name(&k->sm));
    keeper_facts(k);
    if (!is_heard(k, target))
        return err_set(err, ERRC_UNAVAILABLE, "%s is not heard, so that it cannot be promoted",
                       k->shard.instances[target].name);
    bool safe = ha_all_satisfied(&k->record.op.ha, heard_standbys(k), &open);
    if (!safe && !allow_loss)
        return refuse(k, target, open, heard_standbys(k), err);
    if (sm_now(&k->sm) == KEEPER_FAILING)
        return safe ? err_set(err, ERRC_CONFLICT, "shard %s is being failed over already", k->name)
                    : allow_in_failing(k, target, err);
    if (is_heard(k, primary) && keeper_status(k, primary)->primary)
        return err_set(err, ERRC_CONFLICT, "%s is there and is the primary: switch over",
                       k->shard.instances[primary].name);
    begin(k, target, !safe);
    return 0;
}
