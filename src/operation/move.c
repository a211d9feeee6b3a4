/*
 * The core of a move. Happy path: each state is journaled, then its actions run one after the other, the last
 * one leads to the next state. Failure: see failed(). The fence is in move_fence.c.
 */
#include "operation/move.h"

#include <assert.h>
#include <string.h>

#include "base/env.h"
#include "operation/move_internal.h"
#include "operation/transient.h"

#define TRIES_BEFORE_FENCE 40
#define BACKOFF_FIRST_NS   (100 * ENV_NS_PER_MS)
#define BACKOFF_MOST_NS    (5 * ENV_NS_PER_S)
#define HELD_LOOK_NS       (3600 * ENV_NS_PER_S) /* who asks for something does not wait for it */

static const struct sm_state states[MOVE_STATE_COUNT] = {
    [MOVE_PLANNED] = {"planned", SM_NEXT(MOVE_CHECK) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_CHECK] = {"check",
                    SM_NEXT(MOVE_TARGET) | SM_NEXT(MOVE_REFUSED) | SM_NEXT(MOVE_UNDO) | SM_NEXT(MOVE_DONE),
                    false},
    [MOVE_TARGET] = {"target", SM_NEXT(MOVE_COPY) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_COPY] = {"copy", SM_NEXT(MOVE_CATCH_UP) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_CATCH_UP] = {"catch_up", SM_NEXT(MOVE_VERIFY) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_VERIFY] = {"verify", SM_NEXT(MOVE_REHEARSE) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_REHEARSE] = {"rehearse", SM_NEXT(MOVE_FENCE) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_FENCE] = {"fence", SM_NEXT(MOVE_SETTLE) | SM_NEXT(MOVE_REHEARSE) | SM_NEXT(MOVE_UNDO), false},
    [MOVE_SETTLE] = {"settle", SM_NEXT(MOVE_WATCH), false},
    [MOVE_WATCH] = {"watch", SM_NEXT(MOVE_CLEAN) | SM_NEXT(MOVE_REHEARSE) | SM_NEXT(MOVE_HELD), false},
    [MOVE_HELD] = {"held", SM_NEXT(MOVE_WATCH) | SM_NEXT(MOVE_REHEARSE), false},
    [MOVE_CLEAN] = {"clean", SM_NEXT(MOVE_RETIRE) | SM_NEXT(MOVE_DONE) | SM_NEXT(MOVE_UNDONE), false},
    [MOVE_RETIRE] = {"retire", SM_NEXT(MOVE_DONE) | SM_NEXT(MOVE_UNDONE), false},
    [MOVE_DONE] = {"done", 0, true},
    [MOVE_UNDO] = {"undo", SM_NEXT(MOVE_UNDONE) | SM_NEXT(MOVE_WATCH) | SM_NEXT(MOVE_HELD), false},
    [MOVE_UNDONE] = {"undone", 0, true},
    [MOVE_REFUSED] = {"refused", 0, true},
};

/* What a state does, in order, and where it leads. Which of these apply to a move is decided in skips(). */
static const struct stage {
    enum move_action actions[9];
    enum move_state next;
} stages[MOVE_STATE_COUNT] = {
    [MOVE_PLANNED] = {{ACT_END}, MOVE_CHECK},
    [MOVE_CHECK] = {{ACT_CHECK, ACT_END}, MOVE_TARGET},
    [MOVE_TARGET] = {{ACT_PROVISION, ACT_SCHEMA, ACT_FREEZE, ACT_END}, MOVE_COPY},
    [MOVE_COPY] = {{ACT_PUBLISH, ACT_COPY, ACT_BUILD, ACT_SUBSCRIBE, ACT_END}, MOVE_CATCH_UP},
    [MOVE_CATCH_UP] = {{ACT_CATCH_UP, ACT_END}, MOVE_VERIFY},
    [MOVE_VERIFY] = {{ACT_VERIFY, ACT_END}, MOVE_REHEARSE},
    [MOVE_REHEARSE] = {{ACT_REVERSE_SLOT, ACT_REVERSE_CHECK, ACT_CATCH_UP, ACT_CLOSE_GATE, ACT_RECHECK,
                        ACT_REHEARSE, ACT_END},
                       MOVE_FENCE},
    [MOVE_FENCE] = {{ACT_END}, MOVE_SETTLE},
    [MOVE_SETTLE] = {{ACT_SETTLE, ACT_ANNOUNCE, ACT_END}, MOVE_WATCH},
    [MOVE_WATCH] = {{ACT_DROP_FORWARD, ACT_REVERSE_FOLLOW, ACT_REVERSE_CHECK, ACT_REVERSE_VERIFY, ACT_WAIT,
                     ACT_END},
                    MOVE_CLEAN},
    [MOVE_HELD] = {{ACT_WAIT, ACT_END}, MOVE_WATCH},
    [MOVE_CLEAN] = {{ACT_REVERSE_DROP, ACT_CLEAN_SOURCE, ACT_UNFREEZE, ACT_END}, MOVE_DONE},
    [MOVE_RETIRE] = {{ACT_UNLIST, ACT_LINGER, ACT_RETIRE, ACT_END}, MOVE_DONE},
    [MOVE_UNDO] = {{ACT_ROLLBACK, ACT_UNROUTE, ACT_BURN_GATE, ACT_REVERSE_DROP, ACT_DROP_FORWARD,
                    ACT_EMPTY_TARGET, ACT_REMOVE_TARGET, ACT_UNFREEZE, ACT_END},
                   MOVE_UNDONE},
    [MOVE_DONE] = {{ACT_END}, MOVE_DONE},
    [MOVE_UNDONE] = {{ACT_END}, MOVE_UNDONE},
    [MOVE_REFUSED] = {{ACT_END}, MOVE_REFUSED},
};

static const char *const action_names[ACT_COUNT] = {
    "journal",        "wait",         "take_term",     "inspect",      "check",          "provision",
    "schema",         "freeze",       "empty_target",  "publish",      "copy",           "build",
    "subscribe",      "catch_up",     "verify",        "close_gate",   "recheck",        "rehearse",
    "lock",           "fence",        "marker",        "route",        "sequences",      "prepare_open",
    "commit",         "rollback",     "unroute",       "resolve",      "open",           "settle",
    "announce",       "drop_forward", "clean_source",  "unfreeze",     "unlist",         "linger",
    "retire",         "burn_gate",    "remove_target", "reverse_slot", "reverse_follow", "reverse_check",
    "reverse_verify", "reverse_drop",
};

static const char *const kind_names[MOVE_KIND_COUNT] = {"move",  "split",     "isolate",
                                                        "merge", "rebalance", "upgrade"};

static const char *const verdict_names[MOVE_VERDICT_COUNT] = {"none", "equal", "differs", "unknown",
                                                              "doubted"};

const char *move_verdict_name(enum move_verdict verdict)
{
    return verdict_names[verdict];
}

const char *move_state_name(enum move_state state)
{
    return states[state].name;
}

const char *move_action_name(enum move_action action)
{
    return action_names[action];
}

const char *move_kind_name(enum move_kind kind)
{
    return kind_names[kind];
}

int move_state_find(const char *name)
{
    return sm_find(states, MOVE_STATE_COUNT, name);
}

enum move_state move_now(const struct move *m)
{
    return (enum move_state)sm_now(&m->sm);
}

void move_init(struct move *m, struct move_driver *driver, const struct move_record *record)
{
    memset(m, 0, sizeof *m);
    m->record = *record;
    m->driver = driver;
    if (record->state == MOVE_UNDO)
        m->cause = record->error;
    sm_init(&m->sm, states, MOVE_STATE_COUNT, (int)record->state, NULL, NULL);
}

void move_fini(struct move *m)
{
    move_record_free(&m->record);
}

void move_act(struct move *m, enum move_action action)
{
    m->outstanding++;
    m->driver->act(m->driver, action);
}

/* ---- states ---- */

void move_enter(struct move *m, enum move_state state)
{
    sm_move(&m->sm, (int)state);
    if (state == MOVE_UNDO && m->given_up.code != ERRC_NONE)
        m->record.error = m->given_up; /* not how the action ended that was broken off for it */
    if (state == MOVE_UNDO)
        m->cause = m->record.error;
    if (state == MOVE_UNDO && !m->record.back &&
        m->record.rollback) { /* its fence failed: that was asked for */
        m->record.canceled = true;
        m->record.rollback = false;
    }
    if (state == MOVE_UNDONE)
        m->record.error = m->cause; /* not the last hindrance of the way back */
    if (state == MOVE_UNDONE && m->record.back)
        m->record.canceled = true; /* as it was asked for */
    if (state == MOVE_CLEAN)
        err_clear(&m->record.error); /* why it was not rolled back, if it was not */
    m->record.state = state;
    m->step = 0;
    m->attempts = 0;
    m->phase = FENCE_NONE;
    m->journaling = true;
    m->driver->changed(m->driver);
    move_act(m, ACT_JOURNAL);
}

/* Whether S's copy is still to be compared with what T has. */
static bool compares(const struct move_record *r)
{
    bool open = r->verdict == MOVE_VERDICT_NONE || r->verdict == MOVE_VERDICT_DOUBTED;
    return !r->back && r->reverse_publication != 0 && !r->accepted && open;
}

/* Actions of a stage that do not apply to this move, or not in this direction. */
static bool skips(const struct move *m, enum move_action action)
{
    const struct move_record *r = &m->record;
    enum move_state state = move_now(m);
    bool made = move_record_made_target(r), gives_up = r->back && state == MOVE_UNDO;
    switch (action) {
    case ACT_BURN_GATE:
        return made; /* a target of our own is removed whole */
    case ACT_EMPTY_TARGET:
        return made || gives_up;
    case ACT_REMOVE_TARGET:
        return !made;
    case ACT_UNFREEZE:
        return gives_up;
    case ACT_DROP_FORWARD: /* given up: S goes on following T */
        return gives_up;
    case ACT_CLEAN_SOURCE:
        return move_record_retires(r); /* the whole source goes */
    case ACT_REVERSE_SLOT:
        return r->back || r->bake_ns == 0;
    case ACT_REVERSE_FOLLOW:
        return r->back || r->reverse_publication == 0;
    case ACT_REVERSE_DROP:
        return r->back || r->bake_ns == 0 || (state == MOVE_UNDO && made);
    case ACT_REVERSE_CHECK:
        return state == MOVE_WATCH ? !compares(r) : !r->back;
    case ACT_REVERSE_VERIFY:
        return !compares(r);
    case ACT_RECHECK: /* it is known that they differ */
        return r->back && r->accepted;
    case ACT_CATCH_UP:
        return !r->back && state == MOVE_REHEARSE;
    case ACT_WAIT:
        return r->back; /* what was taken back does not bake */
    default:
        return false;
    }
}

/* Source and target change places. */
static void turn(struct move *m)
{
    move_record_turn(&m->record);
    m->undo_wanted = false;
    m->lock_ns = 0;
    m->driver->turned(m->driver);
}

/* Somebody does not want to wait for the end of the bake time. */
static void turn_back(struct move *m)
{
    m->record.rollback = m->record.go_on = false;
    m->record.fence_attempts = 0;
    err_clear(&m->record.error);
    turn(m);
    move_enter(m, MOVE_REHEARSE);
}

/* T has R and keeps it. That S has another copy is not forgotten. */
static void stay(struct move *m)
{
    struct err why = m->cause;
    turn(m);
    if (why.code == ERRC_CORRUPT)
        m->record.verdict = MOVE_VERDICT_DIFFERS;
    if (why.code != ERRC_NONE)
        err_wrap(&why, "not rolled back");
    m->record.error = why;
    m->record.accepted = false;
    m->bake_began_ns = 0;
    if (m->record.verdict != MOVE_VERDICT_DIFFERS) {
        move_enter(m, MOVE_WATCH);
        return;
    }
    m->record.rollback = false; /* who asked once more did not know of it */
    move_enter(m, MOVE_HELD);
}

static void hold(struct move *m, enum move_verdict verdict)
{
    m->record.verdict = verdict;
    if (m->record.rollback)
        err_wrap(&m->record.error, "not rolled back");
    m->record.rollback = m->record.go_on = false;
    move_enter(m, MOVE_HELD);
}

/* It was to be compared again, and cannot be: what was found before stands. */
static void still_differs(struct move *m)
{
    err_wrap(&m->record.error, "not compared again with its source's copy, which differed");
    hold(m, MOVE_VERDICT_DIFFERS);
}

/* Until somebody says how it goes on. */
static void held(struct move *m)
{
    struct move_record *r = &m->record;
    if (r->rollback) {
        turn_back(m);
        return;
    }
    if (!r->go_on) {
        m->step = 0;
        m->wait_ns = HELD_LOOK_NS;
        move_act(m, ACT_WAIT);
        return;
    }
    r->go_on = false;
    err_clear(&r->error);
    if (!r->accepted) { /* from the beginning; what differed counts as differing until that has ended */
        r->verdict = r->verdict == MOVE_VERDICT_DIFFERS ? MOVE_VERDICT_DOUBTED : MOVE_VERDICT_NONE;
        r->reverse_verified.action[0] = '\0';
    }
    move_enter(m, MOVE_WATCH);
}

/* S follows T, or never will: from here on it may go back. */
static bool bakes(const struct move *m)
{
    enum move_action action = stages[move_now(m)].actions[m->step];
    return move_now(m) == MOVE_WATCH && (action == ACT_REVERSE_CHECK || action == ACT_REVERSE_VERIFY ||
                                         action == ACT_WAIT || action == ACT_END);
}

static uint64_t rest_of_bake(struct move *m)
{
    uint64_t baked = m->driver->now(m->driver) - m->bake_began_ns;
    return baked < m->record.bake_ns ? m->record.bake_ns - baked : 0;
}

static void stage_done(struct move *m)
{
    enum move_state state = move_now(m);
    bool back = m->record.back;
    if (state == MOVE_UNDO && back)
        stay(m);
    else if (state == MOVE_CLEAN && move_record_retires(&m->record))
        move_enter(m, MOVE_RETIRE);
    else if ((state == MOVE_CLEAN || state == MOVE_RETIRE) && back)
        move_enter(m, MOVE_UNDONE);
    else if (state == MOVE_CHECK && m->record.dry_run)
        move_enter(m, MOVE_DONE);
    else
        move_enter(m, stages[state].next);
}

static void run_step(struct move *m)
{
    const struct stage *stage = &stages[move_now(m)];
    while (stage->actions[m->step] != ACT_END && skips(m, stage->actions[m->step]))
        m->step++;
    enum move_action action = stage->actions[m->step];
    if (move_now(m) == MOVE_HELD) {
        held(m);
        return;
    }
    if (bakes(m) && m->record.rollback) {
        turn_back(m);
        return;
    }
    if (bakes(m) && m->bake_began_ns == 0)
        m->bake_began_ns = m->driver->now(m->driver);
    if (action == ACT_END) {
        stage_done(m);
        return;
    }
    if (action == ACT_WAIT)
        m->wait_ns = rest_of_bake(m);
    move_act(m, action);
}

static bool before_fence(const struct move *m)
{
    return move_now(m) <= MOVE_REHEARSE;
}

static void end(struct move *m)
{
    m->over = true;
    m->driver->ended(m->driver);
}

static void depose(struct move *m, const struct err *err)
{
    m->over = true;
    m->record.error = *err;
    m->driver->deposed(m->driver);
}

static void state_journaled(struct move *m)
{
    m->journaling = false;
    if (m->sm.table[m->sm.now].final) {
        end(m);
        return;
    }
    if (m->undo_wanted && before_fence(m)) {
        move_enter(m, MOVE_UNDO);
        return;
    }
    if (move_now(m) == MOVE_FENCE)
        fence_begin(m);
    else
        run_step(m);
}

/* ---- failures ---- */

uint64_t move_backoff(unsigned attempts)
{
    uint64_t wait = BACKOFF_FIRST_NS;
    for (unsigned i = 1; i < attempts && wait < BACKOFF_MOST_NS; i++)
        wait *= 2;
    return wait < BACKOFF_MOST_NS ? wait : BACKOFF_MOST_NS;
}

void move_retry_later(struct move *m, enum move_action action)
{
    m->retry = action;
    m->wait_ns = move_backoff(m->attempts);
    m->driver->changed(m->driver);
    move_act(m, ACT_WAIT);
}

/* The move stands without it: then nothing keeps the way back, and that is said. */
static void no_way_back(struct move *m)
{
    m->record.reverse_publication = 0;
    m->record.rollback = false;
    m->attempts = 0;
    err_wrap(&m->record.error, "its source does not follow");
    m->driver->changed(m->driver);
    m->step++;
    run_step(m);
}

/*
 * S could not be compared with T. What time may mend is tried again without a bound, as everything after the
 * fence; a difference, and what only a person can mend, holds the move, so that S's copy is not taken away.
 * Where S cannot follow any more, its copy says nothing, and the way back is lost anyway: it bakes on
 * without, unless it was found to differ before.
 */
static void compare_failed(struct move *m, enum move_action action, const struct err *err)
{
    struct move_record *r = &m->record;
    bool differs = action == ACT_REVERSE_VERIFY && err->code == ERRC_CORRUPT;
    bool doubted = r->verdict == MOVE_VERDICT_DOUBTED;
    if (differs)
        r->verdict = MOVE_VERDICT_DIFFERS;
    if (differs && !r->accepted)
        hold(m, MOVE_VERDICT_DIFFERS);
    else if (r->rollback || r->accepted) { /* it was broken off */
        m->attempts = 0;
        err_clear(&r->error);
        run_step(m);
    } else if (err_is_transient(err)) {
        m->step -= action == ACT_REVERSE_VERIFY;
        move_retry_later(m, ACT_REVERSE_CHECK);
    } else if (doubted)
        still_differs(m);
    else if (action == ACT_REVERSE_VERIFY)
        hold(m, MOVE_VERDICT_UNKNOWN);
    else {
        r->verdict = MOVE_VERDICT_UNKNOWN;
        m->attempts = 0;
        err_wrap(&r->error, "not compared with its source's copy");
        m->driver->changed(m->driver);
        run_step(m);
    }
}

static void failed(struct move *m, enum move_action action, const struct err *err)
{
    m->record.error = *err;
    m->attempts++;
    if (bakes(m) && (action == ACT_REVERSE_CHECK || action == ACT_REVERSE_VERIFY)) {
        compare_failed(m, action, err);
        return;
    }
    if (action == ACT_REVERSE_FOLLOW && (!err_is_transient(err) || m->attempts >= TRIES_BEFORE_FENCE)) {
        if (m->record.verdict == MOVE_VERDICT_DOUBTED)
            still_differs(m);
        else
            no_way_back(m);
        return;
    }
    if (before_fence(m)) {
        if (action == ACT_CHECK && err->code == ERRC_REFUSED) {
            move_enter(m, MOVE_REFUSED);
            return;
        }
        if (m->undo_wanted || !err_is_transient(err) || m->attempts >= TRIES_BEFORE_FENCE) {
            move_enter(m, MOVE_UNDO);
            return;
        }
    }
    move_retry_later(m, action);
}

/* ---- resuming ---- */

/* What guards and gate say against the journal; NULL if they fit. */
static const char *contradiction(const struct move *m, const struct move_outcome *o)
{
    enum move_state state = move_now(m);
    if (state <= MOVE_CHECK)
        return NULL; /* nothing was changed yet, and the checks ask the same */
    if (o->source_owns && (o->gate_open || o->target_owns))
        return "source and target both accept the range";
    if (o->source_owns && state > MOVE_FENCE && state < MOVE_UNDO)
        return "the source owns the range, which it gave away";
    if (!o->source_owns && state != MOVE_FENCE && (state < MOVE_FENCE || state >= MOVE_UNDO))
        return "the source does not own the range";
    return NULL;
}

static void resume_after_inspect(struct move *m, const struct move_outcome *o)
{
    const char *why = contradiction(m, o);
    m->resumed = false;
    if (why != NULL) { /* nothing is safe: leave all as it is for a person to look at */
        struct err err = {0};
        err_set(&err, ERRC_INTERNAL, "the journal says %s, but %s", sm_name(&m->sm), why);
        depose(m, &err);
    } else if (m->undo_wanted && before_fence(m))
        move_enter(m, MOVE_UNDO);
    else if (move_now(m) == MOVE_FENCE)
        fence_resume(m, o);
    else
        run_step(m);
}

void move_start(struct move *m, bool resumed)
{
    bool fence_again = m->record.rollback && m->record.state == MOVE_FENCE;
    m->undo_wanted = m->record.canceled || fence_again;
    m->resumed = resumed;
    if (resumed && !m->sm.table[m->sm.now].final)
        move_act(m, ACT_JOURNAL);
    else if (resumed)
        end(m);
    else {
        m->journaling = true;
        move_act(m, ACT_JOURNAL);
    }
}

static void resuming_done(struct move *m, enum move_action action, const struct move_outcome *o)
{
    if (action == ACT_WAIT)
        move_act(m, m->retry);
    else if (o->err.code != ERRC_NONE) {
        m->record.error = o->err;
        m->attempts++;
        move_retry_later(m, action);
    } else if (action == ACT_JOURNAL) {
        m->attempts = 0;
        move_act(m, ACT_TAKE_TERM);
    } else if (action == ACT_TAKE_TERM) {
        m->attempts = 0;
        move_act(m, ACT_INSPECT);
    } else {
        m->attempts = 0;
        resume_after_inspect(m, o);
    }
}

/* ---- outcomes ---- */

static void step_done(struct move *m, enum move_action action, const struct move_outcome *o)
{
    if (o->err.code != ERRC_NONE) {
        failed(m, action, &o->err);
        return;
    }
    if (m->undo_wanted && before_fence(m)) {
        move_enter(m, MOVE_UNDO);
        return;
    }
    if (action == ACT_WAIT && m->attempts > 0 && bakes(m) && (m->record.rollback || m->record.accepted)) {
        m->attempts = 0;
        err_clear(&m->record.error);
        run_step(m);
        return;
    }
    if (action == ACT_WAIT && m->attempts > 0) { /* the pause before another try */
        move_act(m, m->retry);
        return;
    }
    if (action == ACT_REVERSE_VERIFY) {
        m->record.verdict = MOVE_VERDICT_EQUAL;
        buf_reset(&m->record.findings); /* of a comparison before this one */
    }
    if (m->attempts > 0)
        err_clear(&m->record.error); /* it went well after all */
    m->attempts = 0;
    m->step++;
    run_step(m);
}

void move_done(struct move *m, enum move_action action, const struct move_outcome *outcome)
{
    assert(m->outstanding > 0);
    m->outstanding--;
    if (m->over)
        return;
    bool written_by_another = action == ACT_JOURNAL && outcome->err.code == ERRC_CONFLICT;
    if (outcome->err.code == ERRC_STALE || written_by_another) {
        depose(m, &outcome->err);
        return;
    }
    if (m->resumed)
        resuming_done(m, action, outcome);
    else if (m->journaling && action == ACT_JOURNAL && outcome->err.code == ERRC_NONE)
        state_journaled(m);
    else if (m->journaling && action == ACT_WAIT)
        move_act(m, ACT_JOURNAL);
    else if (m->journaling) { /* an intention that is not written may not be acted on */
        m->record.error = outcome->err;
        m->attempts++;
        move_retry_later(m, ACT_JOURNAL);
    } else if (move_now(m) == MOVE_FENCE)
        fence_done(m, action, outcome);
    else
        step_done(m, action, outcome);
}

bool move_give_up(struct move *m, const struct err *why)
{
    if (m->over || m->resumed || m->undo_wanted || move_now(m) >= MOVE_FENCE)
        return false;
    m->given_up = *why;
    m->undo_wanted = true;
    return true;
}

int move_cancel(struct move *m, struct err *err)
{
    enum move_state state = move_now(m);
    if (m->record.back)
        return err_set(err, ERRC_CONFLICT, "operation %s is in state %s, on its way back already",
                       m->record.id, sm_name(&m->sm));
    if (state == MOVE_UNDO)
        return 0;
    if (state >= MOVE_FENCE)
        return err_set(err, ERRC_CONFLICT, "operation %s is in state %s: it can only go forward%s",
                       m->record.id, sm_name(&m->sm),
                       state < MOVE_CLEAN && m->record.reverse_publication != 0 ? ", or be rolled back" : "");
    m->record.canceled = true;
    m->undo_wanted = true;
    return 0;
}

/* Which side is right is not known; what is known is who has acknowledged the writes since the fence. */
static int refuse_differing(const struct move_record *r, struct err *err)
{
    if (r->verdict == MOVE_VERDICT_DOUBTED)
        return err_set(
            err, ERRC_CONFLICT,
            "shard %s had another copy of the range than shard %s, which has acknowledged all "
            "writes since the fence, and the comparison that was asked for after that has not ended: "
            "wait until it has, or go back all the same with acceptDifferences",
            r->source, r->target);
    return err_set(err, ERRC_CONFLICT,
                   "shard %s has another copy of the range than shard %s, which has acknowledged all writes "
                   "since the fence: going back would make that copy the one that counts. Compare the rows "
                   "that the operation names, repair one side and let the operation compare again, or go "
                   "back all the same with acceptDifferences",
                   r->source, r->target);
}

int move_rollback(struct move *m, bool accept, struct err *err)
{
    struct move_record *r = &m->record;
    enum move_state state = move_now(m);
    if (!r->back && (state < MOVE_FENCE || state == MOVE_UNDO))
        return move_cancel(m, err);
    if (r->back && state != MOVE_UNDO)
        return 0; /* under way */
    if (!r->back && state > MOVE_HELD)
        return err_set(
            err, ERRC_CONFLICT,
            "operation %s has begun to take away what shard %s still had of the range: it can only "
            "go forward. Move the range back with an operation of its own",
            r->id, r->source);
    if (r->reverse_publication == 0)
        return err_set(err, ERRC_CONFLICT,
                       "operation %s keeps no way back%s%s. Move the range back with an operation of its own",
                       r->id, r->bake_ns == 0 ? ": its bake time is 0" : ": ",
                       r->bake_ns == 0 ? "" : r->error.message);
    accept = accept || (r->rollback && r->accepted); /* as it was asked for already */
    bool differs = r->verdict == MOVE_VERDICT_DIFFERS || r->verdict == MOVE_VERDICT_DOUBTED;
    if (!r->back && !accept && differs)
        return refuse_differing(r, err);
    r->rollback = true;
    if (!r->back)
        r->accepted = accept; /* who accepted to go on has not accepted to go back */
    if (state == MOVE_FENCE)
        m->undo_wanted = true; /* should this try fail */
    if (state == MOVE_WATCH || state == MOVE_HELD)
        m->driver->hurry(m->driver);
    return 0;
}

int move_go_on(struct move *m, bool accept, struct err *err)
{
    struct move_record *r = &m->record;
    enum move_state state = move_now(m);
    bool comparing = state == MOVE_WATCH && compares(r);
    if (r->rollback || (state != MOVE_HELD && !(accept && comparing)))
        return err_set(err, ERRC_CONFLICT, "operation %s is in state %s%s: it is not held", r->id,
                       sm_name(&m->sm), r->rollback || r->back ? ", on its way back" : "");
    r->go_on = state == MOVE_HELD;
    r->accepted = accept;
    m->driver->hurry(m->driver);
    return 0;
}
