/*
 * Is this still the record? A keeper that stood still, or is not the leader any more, does not know. So a
 * primary that was started anew, and one that acknowledges alone, is confirmed only after the store, or every
 * other member, has said so at a moment after we heard of it. The same when it is just being promoted to
 * acknowledge alone: whoever claimed the next term has waited for the leases that were given until then, not
 * for ours.
 */
#include <string.h>

#include "base/log.h"
#include "ha/keeper_impl.h"

#define PEERS_NS (1100 * ENV_NS_PER_MS) /* statuses come each second */

static void proved(struct shard_keeper *k)
{
    member_link_proved(k->members[k->proof_of].link, k->proof_clock);
    k->proof_clock = 0;
}

static bool is_asked(const struct shard_keeper *k)
{
    return sm_now(&k->sm) == KEEPER_STANDING ? !k->calling : keeper_failover_leads(k);
}

static void overtaken(struct shard_keeper *k)
{
    if (sm_now(&k->sm) == KEEPER_STANDING)
        keeper_reload(k);
    else
        keeper_failover_overtaken(k);
}

static void read_done(const struct err *err, const struct store_entry *entry, void *data)
{
    struct shard_keeper *k = data;
    k->proving = false;
    if (sm_now(&k->sm) == KEEPER_CLOSED) {
        shard_keeper_close(k, NULL, NULL);
        return;
    }
    if (err != NULL && err->code != ERRC_NOT_FOUND)
        log_event(LOG_WARN, "the store does not say whether the record stands", "shard", k->name, "err",
                  err->message, NULL);
    else if (k->proof_clock == 0 || k->proof_revision != k->revision || !is_asked(k))
        return; /* it was proved otherwise, or something else goes on */
    else if (err == NULL && entry->revision == k->revision)
        proved(k);
    else
        overtaken(k);
    keeper_turn_soon(k);
}

/* None of them has heard of a later term, and each was heard after the primary: who made another one would
 * have asked at least one of them. */
static bool peers_say_so(const struct shard_keeper *k)
{
    uint64_t term = ha_newest(&k->record.op.ha)->term;
    for (unsigned i = 0; i < k->shard.count; i++) {
        const struct ha_instance *x = &k->shard.instances[i];
        const struct member_status *s = keeper_status(k, (int)i);
        if ((int)i != k->proof_of && (s == NULL || x->heard_ns <= k->proof_ns || s->term > term))
            return false;
    }
    return k->shard.count > 1;
}

/* For a lease, which is not urgent, the next words of the others will do, which cost nothing. */
static bool peers_will_say(const struct shard_keeper *k)
{
    const struct member_status *primary = keeper_status(k, k->proof_of);
    bool urgent =
        sm_now(&k->sm) == KEEPER_FAILING || primary == NULL || !primary->confirmed || k->shard.count == 1;
    for (unsigned i = 0; i < k->shard.count; i++)
        urgent |= keeper_status(k, (int)i) == NULL;
    return !urgent && loop_now(k->loop) < k->proof_ns + PEERS_NS;
}

void keeper_prove(struct shard_keeper *k)
{
    int primary = ha_newest(&k->record.op.ha)->primary;
    uint64_t clock, heard_ns;
    if (!member_link_wants_proof(k->members[primary].link, &clock, &heard_ns))
        return;
    if (k->proof_clock == 0 || k->proof_of != primary) {
        if (k->proving)
            return;
        k->proof_of = primary;
        k->proof_clock = clock;
        k->proof_ns = heard_ns;
    }
    if (peers_say_so(k))
        proved(k);
    else if (!k->proving && !k->calling && !peers_will_say(k)) {
        k->proof_revision = k->revision;
        k->proving = store_get(k->store, k->key, read_done, k, NULL) == 0;
    }
}
