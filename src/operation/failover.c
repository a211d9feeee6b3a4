/*
 * The core of a failover. Each state has one action (FENCE has two); on_success() and on_failure() say where
 * its outcome leads.
 */
#include "operation/failover.h"

#include <assert.h>
#include <string.h>

#include "base/env.h"

#define TRIES_PREPARE 3
#define TRIES_FENCE   2
#define TRIES_WINNER  3
#define TRIES_REPOINT 2
#define PAUSE_NS      (50 * ENV_NS_PER_MS)
#define PAUSE_MOST_NS ENV_NS_PER_S

#define TO(state) SM_NEXT(FAILOVER_##state)

static const struct sm_state states[FAILOVER_STATE_COUNT] = {
    [FAILOVER_PLANNED] = {"planned", TO(PREPARE) | TO(CLAIM) | TO(CANCELED), false},
    [FAILOVER_PREPARE] = {"prepare", TO(CLAIM) | TO(CANCELED), false},
    [FAILOVER_CLAIM] = {"claim", TO(FENCE) | TO(CONFIRM), false},
    [FAILOVER_FENCE] = {"fence", TO(CONFIRM), false},
    [FAILOVER_CONFIRM] = {"confirm", TO(FETCH) | TO(LEASE) | TO(CHOSEN), false},
    [FAILOVER_FETCH] = {"fetch", TO(CONFIRM), false},
    [FAILOVER_LEASE] = {"lease", TO(CHOSEN), false},
    [FAILOVER_CHOSEN] = {"chosen", TO(PROMOTE), false},
    [FAILOVER_PROMOTE] = {"promote", TO(SETTLE) | TO(CLAIM), false},
    [FAILOVER_SETTLE] = {"settle", TO(REPOINT) | TO(CLAIM), false},
    [FAILOVER_REPOINT] = {"repoint", TO(OPEN) | TO(CLAIM), false},
    [FAILOVER_OPEN] = {"open", TO(ROUTE) | TO(CLAIM), false},
    [FAILOVER_ROUTE] = {"route", TO(DONE) | TO(CLAIM), false},
    [FAILOVER_DONE] = {"done", 0, true},
    [FAILOVER_CANCELED] = {"canceled", 0, true},
};

/* What a state does first. */
static const enum failover_action first_action[FAILOVER_STATE_COUNT] = {
    [FAILOVER_PLANNED] = FO_JOURNAL, [FAILOVER_PREPARE] = FO_CHECKPOINT, [FAILOVER_CLAIM] = FO_JOURNAL,
    [FAILOVER_FENCE] = FO_FENCE,     [FAILOVER_CONFIRM] = FO_CONFIRM,    [FAILOVER_FETCH] = FO_FETCH,
    [FAILOVER_LEASE] = FO_WAIT,      [FAILOVER_CHOSEN] = FO_JOURNAL,     [FAILOVER_PROMOTE] = FO_PROMOTE,
    [FAILOVER_SETTLE] = FO_SETTLE,   [FAILOVER_REPOINT] = FO_REPOINT,    [FAILOVER_OPEN] = FO_OPEN,
    [FAILOVER_ROUTE] = FO_ROUTE,     [FAILOVER_DONE] = FO_JOURNAL,       [FAILOVER_CANCELED] = FO_JOURNAL,
};

const char *failover_state_name(enum failover_state state)
{
    return states[state].name;
}

const char *failover_action_name(enum failover_action action)
{
    static const char *const names[FO_COUNT] = {"journal", "wait",    "checkpoint", "fence",
                                                "drain",   "confirm", "fetch",      "promote",
                                                "settle",  "repoint", "open",       "route"};
    return names[action];
}

const char *failover_kind_name(enum failover_kind kind)
{
    static const char *const names[FAILOVER_KIND_COUNT] = {"failover", "switchover"};
    return names[kind];
}

enum failover_state failover_now(const struct failover *f)
{
    return (enum failover_state)sm_now(&f->sm);
}

void failover_record_init(struct failover_record *record, const struct ha_record *ha)
{
    memset(record, 0, sizeof *record);
    record->ha = *ha;
    record->target = record->allow_loss = -1;
}

void failover_init(struct failover *f, struct failover_driver *driver, const struct failover_record *record,
                   const struct ha_shard *shard)
{
    memset(f, 0, sizeof *f);
    f->record = *record;
    f->shard = *shard;
    f->driver = driver;
    f->choice.winner = f->choice.donor = -1;
    sm_init(&f->sm, states, FAILOVER_STATE_COUNT, (int)record->state, NULL, NULL);
}

static void act(struct failover *f, enum failover_action action)
{
    f->busy = true;
    f->driver->act(f->driver, action);
}

static void forget_confirmations(struct failover *f)
{
    for (unsigned i = 0; i < f->shard.count; i++)
        f->shard.instances[i].confirmed = (struct ha_confirmation){0};
}

/* The winner's config goes into the record; with it those whose commits perhaps only it has. */
static void record_choice(struct failover *f)
{
    struct ha_record *r = &f->record.ha;
    if (f->choice.rule == HA_F_DATA_LOSS) { /* what it has, only it is known to have until that is settled */
        r->count = 1;
        r->configs[0] = (struct ha_config){.epoch = ++r->epoch, .term = r->term, .primary = f->choice.winner};
    }
    f->record.allow_loss = -1; /* what was allowed was this choice */
    assert(r->count < HA_CONFIGS_MAX);
    f->choice.config.epoch = ++r->epoch;
    r->configs[r->count++] = f->choice.config;
    r->durability = f->shard.policy.durability;
    ha_record_prune(r);
}

static void begin_state(struct failover *f)
{
    f->attempts = 0;
    f->drains = false;
    f->waits = false;
    f->record.state = failover_now(f);
    if (f->record.state == FAILOVER_LEASE)
        f->wait_ns = f->shard.policy.lease_ns;
    f->driver->changed(f->driver);
    act(f, first_action[f->record.state]);
}

static void enter(struct failover *f, enum failover_state state)
{
    sm_move(&f->sm, (int)state);
    if (state == FAILOVER_CLAIM) {
        f->record.ha.term++;
        f->lost = false;
        f->choice.winner = f->choice.donor = -1;
        forget_confirmations(f);
    }
    if (state == FAILOVER_CHOSEN)
        record_choice(f);
    begin_state(f);
}

/* ---- outcomes ---- */

static void take_confirmations(struct failover *f, const struct failover_outcome *o)
{
    for (unsigned i = 0; i < f->shard.count; i++)
        if (o->confirmed[i].term == f->record.ha.term)
            f->shard.instances[i].confirmed = o->confirmed[i];
}

static void try_again(struct failover *f, enum failover_action action)
{
    uint64_t wait = PAUSE_NS;
    for (unsigned i = 1; i < f->attempts && wait < PAUSE_MOST_NS; i++)
        wait *= 2;
    f->wait_ns = wait < PAUSE_MOST_NS ? wait : PAUSE_MOST_NS;
    f->retry = action;
    f->waits = true;
    f->driver->changed(f->driver);
    act(f, FO_WAIT);
}

static void choose(struct failover *f)
{
    struct ha_ballot ballot = {
        .term = f->record.ha.term, .prefer = f->record.target, .allow_loss = f->record.allow_loss};
    f->shard.record = f->record.ha;
    ha_choose(&f->shard, &ballot, &f->choice);
    if (f->choice.winner < 0) {
        f->attempts++;
        try_again(f, FO_CONFIRM);
    } else if (f->choice.donor >= 0)
        enter(f, FAILOVER_FETCH);
    else if (f->choice.lease)
        enter(f, FAILOVER_LEASE);
    else
        enter(f, FAILOVER_CHOSEN);
}

static void end(struct failover *f)
{
    f->over = true;
    f->driver->ended(f->driver);
}

static void depose(struct failover *f, const struct err *err)
{
    f->over = true;
    f->record.error = *err;
    f->driver->deposed(f->driver);
}

/* Fetched: what it says now is older than what it has, so it is asked anew. */
static void confirm_winner_anew(struct failover *f)
{
    f->shard.instances[f->choice.winner].confirmed = (struct ha_confirmation){0};
    enter(f, FAILOVER_CONFIRM);
}

static void on_success(struct failover *f, const struct failover_outcome *o)
{
    bool switches = f->record.kind == FAILOVER_KIND_SWITCHOVER;
    if (f->cancel && failover_now(f) < FAILOVER_CLAIM) {
        enter(f, FAILOVER_CANCELED);
        return;
    }
    switch (failover_now(f)) {
    case FAILOVER_PLANNED:
        enter(f, switches ? FAILOVER_PREPARE : FAILOVER_CLAIM);
        break;
    case FAILOVER_CLAIM:
        enter(f, switches ? FAILOVER_FENCE : FAILOVER_CONFIRM);
        break;
    case FAILOVER_FENCE:
        take_confirmations(f, o);
        if (f->drains || f->record.target < 0)
            enter(f, FAILOVER_CONFIRM);
        else {
            f->drains = true;
            f->attempts = 0;
            act(f, FO_DRAIN);
        }
        break;
    case FAILOVER_CONFIRM:
        take_confirmations(f, o);
        choose(f);
        break;
    case FAILOVER_FETCH:
        confirm_winner_anew(f);
        break;
    case FAILOVER_DONE:
    case FAILOVER_CANCELED:
        end(f);
        break;
    default: /* PREPARE, and LEASE to ROUTE: in their order */
        enter(f, failover_now(f) == FAILOVER_PREPARE ? FAILOVER_CLAIM
                                                     : (enum failover_state)(failover_now(f) + 1));
        break;
    }
}

static void on_failure(struct failover *f, enum failover_action action)
{
    enum failover_state state = failover_now(f);
    f->attempts++;
    if (action == FO_JOURNAL) /* an intention that is not written may not be acted on */
        try_again(f, action);
    else if (state == FAILOVER_PREPARE && (f->cancel || f->attempts >= TRIES_PREPARE))
        enter(f, FAILOVER_CANCELED);
    else if (state == FAILOVER_FENCE && (f->drains || f->attempts >= TRIES_FENCE))
        enter(f, FAILOVER_CONFIRM); /* then it is a failover, or the old primary goes on */
    else if (state == FAILOVER_FETCH)
        confirm_winner_anew(f); /* perhaps somebody else */
    else if (state == FAILOVER_REPOINT && f->attempts >= TRIES_REPOINT)
        enter(f, FAILOVER_OPEN); /* they are told again while it is open */
    else if (state >= FAILOVER_PROMOTE && state < FAILOVER_ROUTE && state != FAILOVER_REPOINT &&
             f->attempts >= TRIES_WINNER)
        enter(f, FAILOVER_CLAIM);
    else
        try_again(f, action);
}

void failover_done(struct failover *f, enum failover_action action, const struct failover_outcome *outcome)
{
    enum failover_state state = failover_now(f);
    assert(f->busy);
    f->busy = false;
    if (f->over)
        return;
    bool written_by_another = action == FO_JOURNAL && outcome->err.code == ERRC_CONFLICT;
    if (outcome->err.code == ERRC_STALE || written_by_another) {
        depose(f, &outcome->err);
        return;
    }
    if (f->lost && state >= FAILOVER_PROMOTE && state <= FAILOVER_ROUTE) {
        enter(f, FAILOVER_CLAIM);
        return;
    }
    if (outcome->err.code != ERRC_NONE) {
        f->record.error = outcome->err;
        on_failure(f, action);
    } else if (f->waits && action == FO_WAIT) {
        f->waits = false;
        act(f, f->retry);
    } else {
        err_clear(&f->record.error);
        on_success(f, outcome);
    }
}

/* ---- from outside ---- */

/* Whom the record names is the choice: there is one only after CHOSEN. */
static void take_up_choice(struct failover *f)
{
    const struct ha_config *newest = ha_newest(&f->record.ha);
    f->choice.winner = newest->primary;
    f->choice.config = *newest;
}

void failover_start(struct failover *f, bool resumed)
{
    enum failover_state state = failover_now(f);
    if (resumed && states[state].final) {
        end(f);
        return;
    }
    if (state == FAILOVER_CHOSEN) {
        take_up_choice(f);
        begin_state(f);
    } else if (state == FAILOVER_CLAIM) { /* who claimed this term may still use it */
        f->record.ha.term++;
        begin_state(f);
    } else
        begin_state(f);
}

void failover_lost(struct failover *f)
{
    f->lost = failover_now(f) >= FAILOVER_CHOSEN && failover_now(f) <= FAILOVER_ROUTE;
}

int failover_cancel(struct failover *f, struct err *err)
{
    enum failover_state state = failover_now(f);
    if (state >= FAILOVER_CLAIM)
        return err_set(err, ERRC_CONFLICT,
                       "operation %s is in state %s: the shard has no primary until it ends, so it goes on",
                       f->record.id, sm_name(&f->sm));
    f->cancel = true;
    return 0;
}
