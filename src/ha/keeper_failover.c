/* The actions of operation/failover.h, over the links of the members. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "ha/keeper_impl.h"
#include "operation/operation.h"

#define CHECKPOINT_NS (120 * ENV_NS_PER_S) /* of one try */
#define SETTLE_NS     (30 * ENV_NS_PER_S)
#define FENCE_NS      (15 * ENV_NS_PER_S) /* a fast stop, and its start as a standby */
#define DRAIN_NS      (3 * ENV_NS_PER_S)
#define CONFIRM_NS    (1 * ENV_NS_PER_S)
#define FETCH_NS      (10 * ENV_NS_PER_S)
#define REWIND_NS     (5 * ENV_NS_PER_S) /* so long it may fail before the winner is copied */
#define MADE_NS       (60 * ENV_NS_PER_S) /* from the end of a rewind or a clone on, to what it needs besides */
#define PROMOTE_NS    (10 * ENV_NS_PER_S)
#define REPOINT_NS    (2 * ENV_NS_PER_S)
#define DEPOSED_NS    (100 * ENV_NS_PER_MS) /* an agent knows more than the record that was read last */

static const uint64_t bounds[FO_COUNT] = {
    [FO_CHECKPOINT] = CHECKPOINT_NS, [FO_SETTLE] = SETTLE_NS,   [FO_FENCE] = FENCE_NS,
    [FO_DRAIN] = DRAIN_NS,           [FO_CONFIRM] = CONFIRM_NS, [FO_FETCH] = FETCH_NS,
    [FO_PROMOTE] = PROMOTE_NS,       [FO_REPOINT] = REPOINT_NS, [FO_OPEN] = PROMOTE_NS,
};

static void maybe_kill(struct shard_keeper *k, const char *moment)
{
    const struct failover_record *r = &k->f.record;
    char place[64];
    if (k->kill_at == NULL || k->action == FO_WAIT)
        return;
    (void)snprintf(place, sizeof place, "%s:%s:%s", failover_kind_name(r->kind), moment,
                   k->action == FO_JOURNAL ? failover_state_name(r->state) : failover_action_name(k->action));
    operation_test_place(&k->kill_at, place);
}

static void complete(struct shard_keeper *k, const struct err *err)
{
    struct failover_outcome o = {0};
    maybe_kill(k, "after");
    k->acting = false;
    if (err != NULL)
        err_copy(&o.err, err);
    for (unsigned i = 0; i < k->shard.count; i++)
        (void)keeper_confirmed(k, (int)i, k->f.record.ha.term, &o.confirmed[i]);
    log_event(LOG_DEBUG, "failover action ended", "shard", k->name, "action", failover_action_name(k->action),
              "ms", log_num((long long)((loop_now(k->loop) - k->action_ns) / ENV_NS_PER_MS)), "err",
              err != NULL ? err->message : NULL, NULL);
    keeper_turn_soon(k);
    failover_done(&k->f, k->action, &o);
}

static void late(struct shard_keeper *k, const char *what)
{
    struct err err = {0};
    if (loop_now(k->loop) < k->deadline_ns)
        return;
    (void)err_set(&err, ERRC_TIMEOUT, "shard %s: %s in time", k->name, what);
    complete(k, &err);
}

/* ---- the record ---- */

/* With the choice goes what it begins: until it is seen as the primary its timeline is not known. */
static void journal(struct shard_keeper *k)
{
    k->writing = k->record;
    k->writing.op = k->f.record;
    if (k->f.record.state == FAILOVER_CHOSEN && k->f.choice.position.term != 0) {
        struct shard_primaryship began = {.term = k->f.record.ha.term,
                                          .parent = k->f.choice.position.term,
                                          .start = k->f.choice.position.lsn};
        (void)shard_record_began(&k->writing, &began);
    }
    keeper_write(k);
}

void keeper_failover_written(struct shard_keeper *k, const struct err *err)
{
    complete(k, err);
}

/* ---- confirmations ---- */

/* It may confirm soon: it is heard. */
static bool is_heard(const struct shard_keeper *k, int i)
{
    const struct ha_instance *x = &k->shard.instances[i];
    return x->heard_ns != 0 && !x->closed && x->pod != HA_POD_GONE && !keeper_retired(k, i) &&
           loop_now(k->loop) < x->heard_ns + k->shard.policy.silent_ns / 2;
}

/* One that is just starting, as the old primary after its stop, counts when it comes in time. But whom a
 * quorum is complete without is not waited for, unless it is to be the primary. */
static bool is_up(const struct shard_keeper *k, int i)
{
    const struct ha_instance *x = &k->shard.instances[i];
    return x->server == HA_SERVER_PRIMARY || x->server == HA_SERVER_STANDBY || i == k->f.record.target;
}

/* Who is up has confirmed, and that is enough to choose; not if only a lease would then say that the old
 * primary is silent, and it could say so itself. */
static bool confirmed_enough(struct shard_keeper *k)
{
    struct failover *f = &k->f;
    struct ha_shard shard = k->shard;
    struct ha_choice choice;
    struct ha_ballot ballot = {
        .term = f->record.ha.term, .prefer = f->record.target, .allow_loss = f->record.allow_loss};
    bool missing = false;
    shard.record = f->record.ha;
    for (int i = 0; i < (int)shard.count; i++) {
        struct ha_instance *x = &shard.instances[i];
        memset(&x->confirmed, 0, sizeof x->confirmed);
        if (keeper_confirmed(k, i, ballot.term, &x->confirmed) || !is_heard(k, i))
            continue;
        if (is_up(k, i))
            return false;
        missing = true;
    }
    ha_choose(&shard, &ballot, &choice);
    return choice.winner >= 0 && !(choice.lease && missing);
}

static void confirm_turn(struct shard_keeper *k)
{
    for (unsigned i = 0; i < k->shard.count; i++)
        keeper_order_confirm(k, (int)i, k->f.record.ha.term);
    if (confirmed_enough(k) || loop_now(k->loop) >= k->deadline_ns)
        complete(k, NULL);
}

/* ---- before the fence ---- */

/* What is in memory is written now, so that the stop has little to write. */
static void checkpoint_turn(struct shard_keeper *k)
{
    int primary = ha_newest(&k->record.op.ha)->primary;
    const struct ha_instance *x = &k->shard.instances[primary];
    const struct member_status *s = keeper_status(k, primary);
    struct err err = {0};
    if (s == NULL || !s->primary || loop_now(k->loop) >= x->heard_ns + k->shard.policy.silent_ns) {
        (void)err_set(&err, ERRC_UNAVAILABLE, "shard %s: primary %s is not there for a switchover", k->name,
                      x->name);
        complete(k, &err);
    } else if (!k->begun) {
        k->begun = true;
        k->before = s->checkpoints;
        memcpy(k->before_life, s->life, sizeof k->before_life);
        member_link_checkpoint(k->members[primary].link);
    } else if (strcmp(k->before_life, s->life) == 0 && s->checkpoints > k->before)
        complete(k, NULL);
    else
        late(k, "the checkpoint before a switchover did not end");
}

static void fence_turn(struct shard_keeper *k)
{
    int primary = ha_newest(&k->record.op.ha)->primary;
    keeper_order_confirm(k, primary, k->f.record.ha.term);
    if (keeper_has_stopped(k, primary, k->f.record.ha.term))
        complete(k, NULL);
    else
        late(k, "the old primary has not stopped");
}

static void drain_turn(struct shard_keeper *k)
{
    const struct member_status *target = keeper_status(k, k->f.record.target);
    struct ha_confirmation c = {0};
    bool known = keeper_confirmed(k, ha_newest(&k->record.op.ha)->primary, k->f.record.ha.term, &c);
    /* a server that stops in order waits until those who receive have everything, and then ends the stream */
    bool ended = target != NULL && target->known && strcmp(target->receiver, "streaming") != 0;
    if (target != NULL && target->known && (known ? target->flushed >= c.position.lsn : ended)) {
        complete(k, NULL);
        return;
    }
    keeper_look(k);
    late(k, "the target has not got the last bytes");
}

/* A rewind that the donor's server, as a standby, would refuse until its pg_control tells its timeline. */
static void fetch_begin(struct shard_keeper *k, const struct member_status *winner)
{
    k->begun = true;
    k->fetch_failed_ns = 0;
    k->fetch_rejoin = keeper_fetch_rejoin(k, &k->f.choice);
    k->fetch_knows = winner->wal_term == k->f.choice.position.term && k->fetch_rejoin != NULL &&
                     strcmp(k->fetch_rejoin, "auto") == 0;
    if (k->fetch_rejoin != NULL && strcmp(k->fetch_rejoin, "rewind") == 0)
        member_link_checkpoint(k->members[k->f.choice.donor].link);
}

/* What began to be rewound or copied is let end while who it comes from is there: half of it is nothing. What
 * cannot be rewound is copied. */
static void fetch_see(struct shard_keeper *k, const struct member_status *winner)
{
    uint64_t now = loop_now(k->loop);
    bool made = strcmp(winner->reported, "rewinding") == 0 || strcmp(winner->reported, "cloning") == 0;
    if (made && is_heard(k, k->f.choice.donor))
        k->deadline_ns = now + MADE_NS;
    if (winner->known || k->fetch_rejoin == NULL || strcmp(k->fetch_rejoin, "rewind") != 0)
        k->fetch_failed_ns = 0;
    else if (strcmp(winner->reported, "failed") == 0 && k->fetch_failed_ns == 0)
        k->fetch_failed_ns = now;
    if (k->fetch_failed_ns != 0 && now >= k->fetch_failed_ns + REWIND_NS) {
        log_event(LOG_WARN, "the winner cannot be rewound: it is copied", "shard", k->name, "err",
                  winner->error, NULL);
        k->fetch_rejoin = "clone";
    }
}

/* The winner may have written what the donor never got, more even than that has: then it goes first. */
static void fetch_turn(struct shard_keeper *k)
{
    const struct ha_choice *choice = &k->f.choice;
    const struct ha_position *wanted = &choice->position;
    const struct member_status *s = keeper_status(k, choice->winner);
    if (!k->begun && s != NULL && s->known)
        fetch_begin(k, s);
    if (k->begun && k->fetch_rejoin != NULL)
        keeper_order_fetch(k, choice, k->f.record.ha.term, k->fetch_rejoin);
    if (s != NULL && s->known && s->wal_term == wanted->term && s->flushed >= wanted->lsn) {
        complete(k, NULL);
        return;
    }
    if (s != NULL)
        fetch_see(k, s);
    keeper_look(k);
    late(k, "the winner has not got what it lacks");
}

/* ---- the winner ---- */

static const struct ha_config *chosen(const struct shard_keeper *k)
{
    return ha_newest(&k->record.op.ha);
}

/* An action that needs the winner ends when it is seen to be gone. True = it did. */
static bool is_lost(struct shard_keeper *k)
{
    const struct ha_instance *x = &k->shard.instances[chosen(k)->primary];
    struct err err = {0};
    if (x->pod != HA_POD_GONE && (!x->closed || !x->refused))
        return false;
    failover_lost(&k->f);
    (void)err_set(&err, ERRC_UNAVAILABLE, "shard %s: %s, which was chosen, is gone", k->name, x->name);
    complete(k, &err);
    return true;
}

/* Kept in memory until the next write: whoever reads the record without it sees the primary as well. */
static void note_timeline(struct shard_keeper *k)
{
    const struct member_status *s = keeper_status(k, chosen(k)->primary);
    for (unsigned i = 0; i < k->record.history_count; i++)
        if (k->record.history[i].term == chosen(k)->term)
            k->record.history[i].timeline = s->timeline;
}

static void promote_turn(struct shard_keeper *k)
{
    if (keeper_status(k, chosen(k)->primary) == NULL) {
        late(k, "the winner is not heard");
        return;
    }
    /* whoever led before may have opened it, which is not taken back */
    bool held = k->settle != NULL && !keeper_opened(k, chosen(k));
    keeper_order_primary(k, chosen(k), held);
    if (keeper_in_effect(k, chosen(k), held)) {
        note_timeline(k);
        complete(k, NULL);
    } else
        late(k, "the winner has not become the primary");
}

static void settle_turn(struct shard_keeper *k)
{
    int winner = chosen(k)->primary;
    const struct shard_keeper_promoted promoted = {.primary = k->shard.instances[winner].name,
                                                   .host = k->members[winner].host,
                                                   .port = k->members[winner].port,
                                                   .term = chosen(k)->term};
    keeper_order_followers(k, chosen(k)); /* meanwhile: they find it held, which keeps no standby out */
    if (k->settle == NULL) {
        complete(k, NULL);
    } else if (!k->begun) {
        k->begun = true;
        k->settling = promoted.term;
        k->settle(&promoted, k->data);
    } else if (k->settling == 0)
        complete(k, k->settle_err.code != ERRC_NONE ? &k->settle_err : NULL);
    else
        late(k, "the guards of the new primary were not settled");
}

static void repoint_turn(struct shard_keeper *k)
{
    const struct ha_config *c = chosen(k);
    keeper_order_followers(k, c);
    if (keeper_followed(k, c)) {
        complete(k, NULL);
        return;
    }
    keeper_look(k);
    late(k, "too few standbys follow the new primary");
}

static void open_turn(struct shard_keeper *k)
{
    keeper_order_primary(k, chosen(k), false);
    if (keeper_in_effect(k, chosen(k), false))
        complete(k, NULL);
    else
        late(k, "the new primary has not its sync set in effect");
}

static void route(struct shard_keeper *k)
{
    const struct ha_config *c = chosen(k);
    k->routed = c->term;
    if (k->route != NULL)
        k->route(k->shard.instances[c->primary].name, c->term, k->data);
    complete(k, NULL);
}

/* ---- turns ---- */

/* The agent of anybody refuses an order of this term because it knows a later one: of another leader. */
static bool is_stale(struct shard_keeper *k)
{
    for (unsigned i = 0; i < k->shard.count; i++) {
        const struct err *stale = member_link_stale(k->members[i].link);
        if (stale != NULL && k->members[i].wanted_term == k->f.record.ha.term) {
            complete(k, stale);
            return true;
        }
    }
    return false;
}

bool keeper_failover_leads(const struct shard_keeper *k)
{
    return sm_now(&k->sm) == KEEPER_FAILING && k->acting && k->action != FO_JOURNAL &&
           failover_now(&k->f) >= FAILOVER_PROMOTE;
}

void keeper_failover_overtaken(struct shard_keeper *k)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_STALE, "shard %s: another manager has written the record", k->name);
    complete(k, &err);
}

void keeper_failover_turn(struct shard_keeper *k)
{
    if (!k->acting || k->action == FO_JOURNAL || is_stale(k))
        return;
    if (keeper_failover_leads(k))
        keeper_prove(k);
    if (k->action >= FO_PROMOTE && is_lost(k))
        return;
    switch (k->action) {
    case FO_CHECKPOINT:
        checkpoint_turn(k);
        break;
    case FO_SETTLE:
        settle_turn(k);
        break;
    case FO_FENCE:
        fence_turn(k);
        break;
    case FO_DRAIN:
        drain_turn(k);
        break;
    case FO_CONFIRM:
        confirm_turn(k);
        break;
    case FO_FETCH:
        fetch_turn(k);
        break;
    case FO_PROMOTE:
        promote_turn(k);
        break;
    case FO_REPOINT:
        repoint_turn(k);
        break;
    case FO_OPEN:
        open_turn(k);
        break;
    case FO_ROUTE:
        route(k);
        break;
    case FO_WAIT:
        if (loop_now(k->loop) >= k->deadline_ns)
            complete(k, NULL);
        break;
    default: /* FO_JOURNAL: the store answers */
        break;
    }
}

/* ---- the driver ---- */

static struct shard_keeper *of_driver(struct failover_driver *driver)
{
    return (struct shard_keeper *)(void *)((char *)driver - offsetof(struct shard_keeper, driver));
}

static void act(struct failover_driver *driver, enum failover_action action)
{
    struct shard_keeper *k = of_driver(driver);
    k->action = action;
    k->acting = true;
    k->begun = false;
    k->action_ns = loop_now(k->loop);
    maybe_kill(k, "before");
    k->deadline_ns = k->action_ns + (action == FO_WAIT ? k->f.wait_ns : bounds[action]);
    if (action == FO_JOURNAL)
        journal(k);
    else
        keeper_turn_soon(k);
}

void keeper_failover_tell(struct shard_keeper *k, const struct failover_record *r, bool acknowledges)
{
    const struct ha_config *newest = ha_newest(&r->ha);
    bool is_chosen = newest->term == r->ha.term && r->state != FAILOVER_PLANNED &&
                     r->state != FAILOVER_PREPARE && r->state != FAILOVER_CANCELED;
    int to = is_chosen ? newest->primary : r->target;
    struct shard_keeper_failover failover = {.record = r,
                                             .from = is_chosen ? NULL : k->record.names[newest->primary],
                                             .to = to >= 0 ? k->record.names[to] : NULL,
                                             .lost_ns = k->lost_ns,
                                             .acknowledges = acknowledges};
    if (k->failing != NULL)
        k->failing(&failover, k->data);
}

static void changed(struct failover_driver *driver)
{
    struct shard_keeper *k = of_driver(driver);
    const struct failover_record *r = &k->f.record;
    if (r->state != FAILOVER_DONE && r->state != FAILOVER_CANCELED) /* those are told when they are written */
        keeper_failover_tell(k, r, r->state == FAILOVER_ROUTE);
    log_event(LOG_INFO, "failover", "shard", k->name, "op", r->id, "state", failover_state_name(r->state),
              "term", log_num((long long)r->ha.term), "why",
              k->f.choice.rule != 0 ? k->f.choice.sentence : NULL, "err",
              r->error.code != ERRC_NONE ? r->error.message : NULL, NULL);
}

static void ended(struct failover_driver *driver)
{
    struct shard_keeper *k = of_driver(driver);
    sm_move(&k->sm, KEEPER_STANDING);
    keeper_failover_tell(k, &k->record.op, k->f.record.state == FAILOVER_DONE);
    k->lost_ns = 0;
    keeper_turn_soon(k);
}

static void deposed(struct failover_driver *driver)
{
    struct shard_keeper *k = of_driver(driver);
    log_event(LOG_WARN, "another manager leads this shard's failover: its record is read anew", "shard",
              k->name, "err", k->f.record.error.message, NULL);
    sm_move(&k->sm, KEEPER_LOADING);
    k->loaded = false;
    loop_timer_start(&k->wait, k->f.record.error.code == ERRC_STALE ? DEPOSED_NS : 0);
}

void keeper_failover_begin(struct shard_keeper *k, const struct failover_record *record, bool resumed)
{
    /* each step is preceded by a write of the record; see keeper_proof.c */
    for (unsigned i = 0; i < k->shard.count; i++)
        member_link_guard(k->members[i].link, false);
    k->driver = (struct failover_driver){act, changed, ended, deposed};
    sm_move(&k->sm, KEEPER_FAILING);
    failover_init(&k->f, &k->driver, record, &k->shard);
    failover_start(&k->f, resumed);
}
