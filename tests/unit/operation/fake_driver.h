/*
 * fake_driver: a driver for the core of a move without servers: it keeps the rules of the protocol over what
 * the core orders, models who owns the range and the gate, and fails what a test asks for. Only for
 * test_move_core.c and test_move_held.c.
 */
#ifndef OPERATION_FAKE_DRIVER_H
#define OPERATION_FAKE_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operation/move.h"

#define STEPS_MOST 20000
#define TRACE_MOST 64
#define FOR_EVER   1000000

enum gate { GATE_NONE, GATE_CLOSED, GATE_OPEN };
enum verdict { RUNS, DONE, UNDONE, REFUSED, DEPOSED };
static const char *const verdict_names[] = {"runs", "done", "undone", "refused", "deposed"};

/* A fault of the table tests: `times` outcomes of this action fail. */
struct fault {
    enum move_action action;
    enum err_code code;
    int times;
    bool takes_effect; /* only the answer is lost */
};

struct fake {
    struct move_driver driver; /* first */
    struct move move;
    enum move_action pending[4];
    int pending_count;
    enum verdict verdict;
    int steps;
    uint64_t clock;
    /* the two shards, the routing table and the store */
    bool source_owns, target_owns, table_says_target, locked, frozen, replicates;
    enum gate gate;
    bool turned; /* source and target of the four above are those of the way back */
    bool reverse_slot, reverse_follows;
    enum move_state journaled; /* MOVE_STATE_COUNT = nothing */
    struct move_record journal;
    /* since the last LOCK */
    bool fence_done, marker_done, route_done, sequences_done, prepared, rolled_back;
    bool told_gone; /* COMMIT succeeded, or RESOLVE or INSPECT said that S does not own R */
    /* outcomes */
    struct fault faults[2];
    unsigned fault_percent;
    unsigned long long random;
    int tries[ACT_COUNT];
    enum move_action trace[TRACE_MOST];
    int trace_count;
    enum move_state seen_states[TRACE_MOST];
    unsigned long long seed;
    const char *broken; /* the first rule that was broken */
};

static unsigned roll(struct fake *f, unsigned bound)
{
    f->random = f->random * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(f->random >> 33) % bound;
}

static void rule(struct fake *f, bool kept, const char *text)
{
    if (!kept && f->broken == NULL)
        f->broken = text;
}

/* ---- what must hold when an action starts ---- */

static void check_fence_rules(struct fake *f, enum move_action action)
{
    switch (action) {
    case ACT_FENCE:
    case ACT_MARKER:
    case ACT_ROUTE:
    case ACT_SEQUENCES:
        rule(f, f->locked, "FENCE, MARKER, ROUTE and SEQUENCES only while locked");
        break;
    case ACT_PREPARE_OPEN:
        rule(f, !f->locked && f->gate == GATE_CLOSED, "PREPARE_OPEN before the lock, with a closed gate");
        break;
    case ACT_COMMIT:
        rule(f,
             f->locked && f->fence_done && f->marker_done && f->route_done && f->sequences_done &&
                 f->prepared,
             "COMMIT only when the opening was prepared, the guards were awake, the marker came, the "
             "sequences "
             "were raised and the routing table stored in this try");
        break;
    case ACT_UNROUTE:
        rule(f, f->rolled_back, "ROLLBACK precedes UNROUTE");
        rule(f, f->source_owns, "UNROUTE only while S owns R");
        break;
    case ACT_LOCK:
        rule(f, !f->turned || f->reverse_follows, "R goes back only to a shard that follows");
        break;
    case ACT_OPEN:
        rule(f, f->told_gone,
             "OPEN only after COMMIT succeeded, or RESOLVE or INSPECT said that S gave R away");
        rule(f, f->gate != GATE_NONE || f->target_owns, "OPEN needs the gate of the rehearsal");
        break;
    default:
        break;
    }
}

static bool known_to_differ(const struct fake *f)
{
    enum move_verdict verdict = f->move.record.verdict;
    return verdict == MOVE_VERDICT_DIFFERS || verdict == MOVE_VERDICT_DOUBTED;
}

static void check_rules(struct fake *f, enum move_action action)
{
    enum move_state state = f->move.record.state;
    rule(f, f->verdict == RUNS, "nothing follows the end");
    if (action != ACT_JOURNAL && action != ACT_WAIT)
        rule(f, f->journaled == state, "the journal precedes the first action of a state");
    check_fence_rules(f, action);
    switch (action) {
    case ACT_SETTLE:
        rule(f, f->gate == GATE_OPEN || f->target_owns, "SETTLE only after the opening");
        break;
    case ACT_BURN_GATE:
    case ACT_EMPTY_TARGET:
    case ACT_REMOVE_TARGET:
        rule(f, f->source_owns && f->gate != GATE_OPEN,
             "T is undone only while S owns R and the gate is closed");
        break;
    case ACT_CLEAN_SOURCE:
    case ACT_UNLIST:
    case ACT_LINGER:
    case ACT_RETIRE:
        rule(f,
             !f->source_owns && f->target_owns && !f->replicates && !f->reverse_follows && !f->reverse_slot,
             "S is cleaned only when T owns R and nothing replicates");
        rule(f, f->turned || !known_to_differ(f) || f->move.record.accepted,
             "S's copy is not taken away while it differs and nobody has accepted that");
        break;
    case ACT_REVERSE_VERIFY:
        rule(f, f->reverse_follows && !f->turned, "S is compared with T only while it follows");
        break;
    case ACT_REVERSE_SLOT:
        rule(f, f->source_owns && !f->locked && !f->turned, "the reverse slot is made before the fence");
        break;
    case ACT_REVERSE_FOLLOW:
        rule(f, f->target_owns && !f->replicates && !f->turned,
             "S follows T only when T owns R and the forward subscription is gone");
        break;
    default:
        break;
    }
}

static void check_world(struct fake *f)
{
    enum move_state state = f->move.record.state;
    rule(f, !(f->replicates && f->reverse_follows), "never do both follow each other");
    rule(f, !(f->source_owns && (f->gate == GATE_OPEN || f->target_owns)), "never do both accept R");
    if (state == MOVE_UNDO || (state == MOVE_UNDONE && !f->turned))
        rule(f, f->source_owns, "UNDO is never entered after the commit");
    if ((state >= MOVE_SETTLE && state <= MOVE_DONE && !f->move.record.dry_run) ||
        (state == MOVE_UNDONE && f->turned))
        rule(f, !f->source_owns && (f->gate == GATE_OPEN || f->target_owns), "after the fence T accepts R");
}

/* ---- the driver ---- */

static void fake_act(struct move_driver *driver, enum move_action action)
{
    struct fake *f = (struct fake *)driver;
    check_rules(f, action);
    assert_true(f->pending_count < 4);
    f->pending[f->pending_count++] = action;
    f->tries[action]++;
    if (f->trace_count < TRACE_MOST) {
        f->seen_states[f->trace_count] = f->move.record.state;
        f->trace[f->trace_count++] = action;
    }
}

static uint64_t fake_now(struct move_driver *driver)
{
    return ((struct fake *)driver)->clock += 1000000;
}

static void fake_changed(struct move_driver *driver)
{
    check_world((struct fake *)driver);
}

static void fake_ended(struct move_driver *driver)
{
    struct fake *f = (struct fake *)driver;
    enum move_state state = f->move.record.state;
    rule(f, f->verdict == RUNS, "exactly one end");
    rule(f, f->journaled == state, "the end is journaled");
    f->verdict = state == MOVE_DONE ? DONE : state == MOVE_UNDONE ? UNDONE : REFUSED;
    rule(f, !f->reverse_slot && !f->reverse_follows, "no end leaves the way back behind");
    if ((f->verdict == DONE && !f->move.record.dry_run) || f->turned)
        rule(f, f->target_owns && f->table_says_target && !f->frozen && !f->replicates,
             "DONE, and UNDONE over the way back, leave nothing behind");
    else
        rule(f,
             f->source_owns && !f->table_says_target && f->gate == GATE_NONE && !f->frozen && !f->replicates,
             "UNDONE and REFUSED leave nothing behind");
}

/* The same two shards, seen from the other side. */
static void orient(struct fake *f, bool back)
{
    bool kept = f->source_owns;
    if (f->turned == back)
        return;
    f->source_owns = f->target_owns;
    f->target_owns = kept;
    f->table_says_target = !f->table_says_target;
    f->turned = back;
}

static void fake_turned(struct move_driver *driver)
{
    struct fake *f = (struct fake *)driver;
    rule(f, f->pending_count == 0, "it turns while nothing is under way");
    rule(f, f->gate == GATE_NONE, "it turns without a gate");
    f->told_gone = f->prepared = false;
    orient(f, f->move.record.back);
}

static void fake_hurry(struct move_driver *driver)
{
    (void)driver; /* a wait ends when its turn comes */
}

static void fake_deposed(struct move_driver *driver)
{
    struct fake *f = (struct fake *)driver;
    rule(f, f->verdict == RUNS, "exactly one end");
    f->verdict = DEPOSED;
}

/* ---- the world ---- */

static void take_effect_on_replication(struct fake *f, enum move_action action)
{
    switch (action) {
    case ACT_PUBLISH:
        f->replicates = true;
        break;
    case ACT_DROP_FORWARD: /* that is, of the direction that R moves in */
        if (f->turned)
            f->reverse_slot = f->reverse_follows = false;
        else
            f->replicates = false;
        break;
    case ACT_REVERSE_SLOT:
        f->reverse_slot = true;
        break;
    case ACT_REVERSE_FOLLOW:
        f->reverse_follows = true;
        break;
    case ACT_REVERSE_DROP:
        f->reverse_slot = f->reverse_follows = false;
        break;
    case ACT_REMOVE_TARGET:
        f->reverse_slot = false; /* it was on it */
        break;
    default:
        break;
    }
}

static void take_effect(struct fake *f, enum move_action action)
{
    take_effect_on_replication(f, action);
    switch (action) {
    case ACT_JOURNAL:
        f->journaled = f->move.record.state;
        f->journal = f->move.record;
        break;
    case ACT_FREEZE:
        f->frozen = true;
        break;
    case ACT_UNFREEZE:
        f->frozen = false;
        break;
    case ACT_CLOSE_GATE:
        if (f->gate == GATE_NONE)
            f->gate = GATE_CLOSED;
        break;
    case ACT_REMOVE_TARGET:
    case ACT_BURN_GATE:
        f->gate = GATE_NONE;
        break;
    case ACT_LOCK:
        f->locked = true;
        f->fence_done = f->marker_done = f->route_done = f->sequences_done = false;
        f->rolled_back = false;
        break;
    case ACT_ROUTE:
    case ACT_ANNOUNCE:
        f->table_says_target = true;
        break;
    case ACT_COMMIT:
        f->source_owns = false;
        f->locked = false;
        break;
    case ACT_ROLLBACK:
        f->locked = f->prepared = false;
        f->rolled_back = true;
        break;
    case ACT_RESOLVE:
        f->locked = false;
        break;
    case ACT_UNROUTE:
        f->table_says_target = false;
        break;
    case ACT_OPEN:
        if (!f->target_owns)
            f->gate = GATE_OPEN;
        break;
    case ACT_SETTLE:
        f->target_owns = true;
        f->gate = GATE_NONE;
        break;
    default:
        break;
    }
}

/* What the core is told when an action went well. */
static void tell(struct fake *f, enum move_action action, struct move_outcome *o)
{
    f->fence_done |= action == ACT_FENCE;
    f->marker_done |= action == ACT_MARKER;
    f->route_done |= action == ACT_ROUTE;
    f->sequences_done |= action == ACT_SEQUENCES;
    f->prepared |= action == ACT_PREPARE_OPEN;
    if (action == ACT_LOCK)
        o->lock_ns = fake_now(&f->driver);
    if (action == ACT_COMMIT)
        f->told_gone = true;
    if (action == ACT_REVERSE_SLOT)
        f->move.record.reverse_publication = 7;
    if (action == ACT_RESOLVE || action == ACT_INSPECT) {
        o->source_owns = f->source_owns;
        o->target_owns = f->target_owns;
        o->gate_open = f->gate == GATE_OPEN;
        o->target_known = true;
        f->told_gone |= !f->source_owns;
    }
}

static bool fails(struct fake *f, enum move_action action, enum err_code *ret_code, bool *ret_takes_effect)
{
    static const enum err_code codes[] = {ERRC_UNAVAILABLE, ERRC_TIMEOUT,     ERRC_CLOSED,  ERRC_SQL,
                                          ERRC_IO,          ERRC_UNAVAILABLE, ERRC_TIMEOUT, ERRC_CLOSED,
                                          ERRC_REFUSED,     ERRC_CORRUPT};
    for (int i = 0; i < 2; i++)
        if (f->faults[i].times > 0 && f->faults[i].action == action) {
            f->faults[i].times--;
            *ret_code = f->faults[i].code;
            *ret_takes_effect = f->faults[i].takes_effect;
            return true;
        }
    if (f->fault_percent == 0 || action == ACT_WAIT || roll(f, 100) >= f->fault_percent)
        return false;
    *ret_code = roll(f, 400) == 0 ? ERRC_STALE : codes[roll(f, 10)];
    *ret_takes_effect = roll(f, 2) == 0 && action != ACT_JOURNAL && *ret_code != ERRC_STALE;
    return true;
}

/* Completes one of the pending actions. */
static void step(struct fake *f)
{
    struct move_outcome o = {0};
    enum err_code code;
    bool takes_effect = true;
    int which = (int)roll(f, (unsigned)f->pending_count);
    enum move_action action = f->pending[which];
    f->pending[which] = f->pending[--f->pending_count];
    if (fails(f, action, &code, &takes_effect))
        err_set(&o.err, code, "fault");
    else
        takes_effect = true;
    if (o.err.code == ERRC_SQL)
        err_set_sql(&o.err, "40001", "fault");
    if (takes_effect)
        take_effect(f, action);
    if (action == ACT_COMMIT)
        f->locked = false; /* whatever became of it, the session does not hold it any more */
    if (o.err.code == ERRC_NONE)
        tell(f, action, &o);
    f->steps++;
    move_done(&f->move, action, &o);
    check_world(f);
}

static void begin(struct fake *f, const struct move_record *record, bool resumed)
{
    f->driver = (struct move_driver){fake_act,     fake_now,    fake_changed, fake_ended,
                                     fake_deposed, fake_turned, fake_hurry};
    orient(f, record->back);
    f->pending_count = 0;
    f->told_gone = false;
    f->locked = false;
    f->rolled_back = true;
    move_init(&f->move, &f->driver, record);
    move_start(&f->move, resumed);
}

static void set_up(struct fake *f, const struct move_record *record)
{
    memset(f, 0, sizeof *f);
    f->source_owns = true;
    f->journaled = MOVE_STATE_COUNT;
    f->random = 1;
    begin(f, record, false);
}

static struct move_record new_record(bool new_target, bool retire)
{
    struct move_record r;
    move_record_init(&r);
    snprintf(r.id, sizeof r.id, "splitabcdefg");
    snprintf(r.database, sizeof r.database, "shop");
    snprintf(r.source, sizeof r.source, "s1");
    snprintf(r.target, sizeof r.target, "s2");
    r.range = (struct range){0, INT64_MAX};
    r.new_target = new_target;
    r.retire_source = retire;
    return r;
}

static struct move_record new_baking(bool new_target, bool retire)
{
    struct move_record r = new_record(new_target, retire);
    r.bake_ns = 1;
    return r;
}

static void run(struct fake *f, int steps)
{
    for (int i = 0; i < steps && f->pending_count > 0 && f->verdict == RUNS && f->broken == NULL; i++)
        step(f);
    while (f->verdict == DEPOSED && f->pending_count > 0 && f->broken == NULL)
        step(f); /* what ran side by side reports as well, and changes nothing */
    if (f->verdict == RUNS && f->pending_count == 0)
        rule(f, false, "a move that has not ended waits for something");
}

static void assert_kept(const struct fake *f, const char *what)
{
    if (f->broken == NULL)
        return;
    fprintf(stderr, "%s: broken in state %s: %s\n", what, move_state_name(f->move.record.state), f->broken);
    for (int i = 0; i < f->trace_count; i++)
        fprintf(stderr, " %s", move_action_name(f->trace[i]));
    fprintf(stderr, "\n");
    fail();
}

#endif
