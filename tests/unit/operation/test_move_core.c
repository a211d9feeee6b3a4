/*
 * The core of a move against a fake driver: no I/O, a modelled pair of shards, every outcome chosen by the
 * test.
 *
 * After each step the model is asked whether what the core did was allowed. Broken on purpose, each of these
 * made the named tests fail: ACT_OPEN started with ACT_COMMIT (happy_path, invariants), no marker, or COMMIT
 * without waiting for it (happy_path, invariants), UNDO after a failed OPEN (every_failure, invariants), a
 * lost COMMIT taken as rolled back or as done (lost_commit, invariants), no journal before FENCE (happy_path,
 * invariants), UNROUTE before ROLLBACK (every_failure, invariants), outcomes heeded after the end
 * (every_failure), a resumed FENCE that always opens or always goes back (resume_everywhere, invariants).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operation/fake_driver.h"

/* ---- the happy path ---- */

static const enum move_action to_fence[] = {
    ACT_JOURNAL,      ACT_JOURNAL,   ACT_CHECK,   ACT_JOURNAL,      ACT_PROVISION, ACT_SCHEMA,
    ACT_FREEZE,       ACT_JOURNAL,   ACT_PUBLISH, ACT_COPY,         ACT_BUILD,     ACT_SUBSCRIBE,
    ACT_JOURNAL,      ACT_CATCH_UP,  ACT_JOURNAL, ACT_VERIFY,       ACT_JOURNAL,   ACT_CLOSE_GATE,
    ACT_RECHECK,      ACT_REHEARSE,  ACT_JOURNAL, ACT_PREPARE_OPEN, ACT_LOCK,      ACT_MARKER,
    ACT_FENCE,        ACT_SEQUENCES, ACT_ROUTE,   ACT_COMMIT,       ACT_OPEN,      ACT_JOURNAL,
    ACT_SETTLE,       ACT_ANNOUNCE,  ACT_JOURNAL, ACT_DROP_FORWARD, ACT_WAIT,      ACT_JOURNAL,
    ACT_CLEAN_SOURCE, ACT_UNFREEZE,  ACT_JOURNAL, ACT_UNLIST,       ACT_LINGER,    ACT_RETIRE,
    ACT_JOURNAL};

#define RETIRING 4 /* of these, the last, only where S is taken away */

static void test_happy_path(void **state)
{
    static const struct {
        bool new_target, retire;
    } kinds[] = {{false, false}, {true, false}, {false, true}};
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct fake f;
        struct move_record r = new_record(kinds[k].new_target, kinds[k].retire);
        int at = 0;
        set_up(&f, &r);
        run(&f, STEPS_MOST);
        assert_kept(&f, "happy path");
        assert_int_equal(f.verdict, DONE);
        for (size_t i = 0; i < sizeof to_fence / sizeof *to_fence; i++) {
            enum move_action a = to_fence[i];
            bool retiring = i + 1 > sizeof to_fence / sizeof *to_fence - RETIRING;
            bool skipped = (a == ACT_CLEAN_SOURCE && r.retire_source) || (retiring && !r.retire_source);
            if (!skipped)
                assert_string_equal(move_action_name(f.trace[at++]), move_action_name(a));
        }
        assert_int_equal(at, f.trace_count);
        assert_int_equal(f.move.record.fence_attempts, 1);
        /* the clock ticks 1 ms each time it is read */
        assert_int_equal(f.move.record.write_block_us, f.move.record.lock_us + f.move.record.inside_us +
                                                           f.move.record.commit_us + f.move.record.open_us);
        assert_true(f.move.record.write_block_us > 0);
        move_fini(&f.move);
    }
}

static void assert_trace(const struct fake *f, int from, const enum move_action *expected, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_true(from + (int)i < f->trace_count);
        assert_string_equal(move_action_name(f->trace[from + (int)i]), move_action_name(expected[i]));
    }
    assert_int_equal(from + (int)count, f->trace_count);
}

/* Until the bake time begins. */
static void run_to_bake(struct fake *f, const struct move_record *r)
{
    set_up(f, r);
    while (f->verdict == RUNS && !(f->move.record.state == MOVE_WATCH && f->pending_count == 1 &&
                                   f->pending[0] == ACT_WAIT && f->move.attempts == 0))
        step(f);
    assert_int_equal(f->verdict, RUNS);
}

/* With a bake time: what it does besides, and in which order. */
static void test_happy_path_with_a_way_back(void **state)
{
    static const enum move_action rehearsal[] = {ACT_JOURNAL, ACT_REVERSE_SLOT, ACT_CLOSE_GATE,
                                                 ACT_RECHECK, ACT_REHEARSE,     ACT_JOURNAL};
    static const enum move_action rest[] = {
        ACT_DROP_FORWARD, ACT_REVERSE_FOLLOW, ACT_REVERSE_CHECK, ACT_REVERSE_VERIFY, ACT_WAIT,
        ACT_JOURNAL,      ACT_REVERSE_DROP,   ACT_CLEAN_SOURCE,  ACT_UNFREEZE,       ACT_JOURNAL};
    struct fake f;
    struct move_record r = new_baking(true, false);
    int at = 0;
    (void)state;
    set_up(&f, &r);
    run(&f, STEPS_MOST);
    assert_kept(&f, "happy path with a way back");
    assert_int_equal(f.verdict, DONE);
    while (f.seen_states[at] != MOVE_REHEARSE)
        at++;
    for (size_t i = 0; i < sizeof rehearsal / sizeof *rehearsal; i++)
        assert_string_equal(move_action_name(f.trace[at + (int)i]), move_action_name(rehearsal[i]));
    while (f.trace[at] != ACT_DROP_FORWARD)
        at++;
    assert_trace(&f, at, rest, sizeof rest / sizeof *rest);
    move_fini(&f.move);
}

static void test_rollback(void **state)
{
    static const enum move_action expected[] = {
        ACT_JOURNAL, ACT_REVERSE_CHECK, ACT_CATCH_UP, ACT_CLOSE_GATE, ACT_RECHECK, ACT_REHEARSE,
        ACT_JOURNAL, ACT_PREPARE_OPEN,  ACT_LOCK,     ACT_MARKER,     ACT_FENCE,   ACT_SEQUENCES,
        ACT_ROUTE,   ACT_COMMIT,        ACT_OPEN,     ACT_JOURNAL,    ACT_SETTLE,  ACT_ANNOUNCE,
        ACT_JOURNAL, ACT_DROP_FORWARD,  ACT_JOURNAL};
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct fake f;
        struct move_record r = new_baking(kind == 1, kind == 2);
        run_to_bake(&f, &r);
        f.trace_count = 0;
        assert_int_equal(move_rollback(&f.move, false, NULL), 0);
        assert_int_equal(move_rollback(&f.move, false, NULL), 0); /* again */
        run(&f, STEPS_MOST);
        assert_kept(&f, "rollback");
        assert_int_equal(f.verdict, UNDONE);
        assert_true(f.turned && f.move.record.back && f.move.record.canceled && !f.move.record.rollback);
        assert_string_equal(f.move.record.source, "s2");
        assert_string_equal(move_record_from(&f.move.record), "s1");
        assert_int_equal(f.move.record.error.code, ERRC_NONE);
        size_t common = sizeof expected / sizeof *expected;
        for (size_t i = 0; i < common; i++)
            assert_string_equal(move_action_name(f.trace[i]), move_action_name(expected[i]));
        /* a target that the move made goes whole; a source that was to be merged away stays */
        assert_int_equal(f.trace[common], kind == 1 ? ACT_UNFREEZE : ACT_CLEAN_SOURCE);
        assert_int_equal(f.trace[common + 1], kind == 1 ? ACT_JOURNAL : ACT_UNFREEZE);
        assert_int_equal(f.trace_count, (int)common + (kind == 1 ? 6 : 3));
        move_fini(&f.move);
    }
}

static void test_dry_run(void **state)
{
    struct fake f;
    struct move_record r = new_record(true, false);
    (void)state;
    r.dry_run = true;
    set_up(&f, &r);
    run(&f, STEPS_MOST);
    assert_kept(&f, "dry run");
    assert_int_equal(f.verdict, DONE);
    assert_int_equal(f.trace_count, 4); /* journal, journal, check, journal */
    move_fini(&f.move);
}

/* ---- every action and every kind of failure ---- */

/* Where a move ends: transient once, transient for ever, refused once, corrupt once. A newer leader always
 * deposes. */
struct row {
    enum move_action action;
    enum verdict once, ever, refused, corrupt;
    enum move_state stuck; /* where it stays when it runs for ever */
    bool new_target, retire;
};

static const struct row rows[] = {
    {ACT_CHECK, DONE, UNDONE, REFUSED, UNDONE, 0, false, false},
    {ACT_PROVISION, DONE, UNDONE, UNDONE, UNDONE, 0, true, false},
    {ACT_SCHEMA, DONE, UNDONE, UNDONE, UNDONE, 0, true, false},
    {ACT_FREEZE, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_PUBLISH, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_COPY, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_BUILD, DONE, UNDONE, UNDONE, UNDONE, 0, true, false},
    {ACT_SUBSCRIBE, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_CATCH_UP, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_VERIFY, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_CLOSE_GATE, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_RECHECK, DONE, UNDONE, UNDONE, UNDONE, 0, true, false},
    {ACT_REHEARSE, DONE, UNDONE, UNDONE, UNDONE, 0, true, false},
    /* a try of the fence that fails is tried again, whatever was wrong */
    {ACT_LOCK, DONE, UNDONE, DONE, DONE, 0, true, false},
    {ACT_FENCE, DONE, UNDONE, DONE, DONE, 0, false, false},
    {ACT_MARKER, DONE, UNDONE, DONE, DONE, 0, false, false},
    {ACT_ROUTE, DONE, UNDONE, DONE, DONE, 0, true, false},
    {ACT_SEQUENCES, DONE, UNDONE, DONE, DONE, 0, true, false},
    {ACT_PREPARE_OPEN, DONE, UNDONE, DONE, DONE, 0, true, false},
    {ACT_COMMIT, DONE, UNDONE, DONE, DONE, 0, false, false},
    /* only forward from here */
    {ACT_OPEN, DONE, RUNS, DONE, DONE, MOVE_FENCE, false, false},
    {ACT_SETTLE, DONE, RUNS, DONE, DONE, MOVE_SETTLE, true, false},
    {ACT_ANNOUNCE, DONE, RUNS, DONE, DONE, MOVE_SETTLE, false, false},
    {ACT_DROP_FORWARD, DONE, RUNS, DONE, DONE, MOVE_WATCH, true, false},
    {ACT_CLEAN_SOURCE, DONE, RUNS, DONE, DONE, MOVE_CLEAN, false, false},
    {ACT_UNFREEZE, DONE, RUNS, DONE, DONE, MOVE_CLEAN, false, false},
    {ACT_UNLIST, DONE, RUNS, DONE, DONE, MOVE_RETIRE, false, true},
    {ACT_LINGER, DONE, RUNS, DONE, DONE, MOVE_RETIRE, false, true},
    {ACT_RETIRE, DONE, RUNS, DONE, DONE, MOVE_RETIRE, false, true},
    {ACT_JOURNAL, DONE, RUNS, DONE, DONE, MOVE_PLANNED, false, false},
    {ACT_REVERSE_SLOT, DONE, UNDONE, UNDONE, UNDONE, 0, false, false},
    {ACT_REVERSE_SLOT, DONE, UNDONE, UNDONE, UNDONE, 0, true, false},
    /* a move that was made does not hang on its way back */
    {ACT_REVERSE_FOLLOW, DONE, DONE, DONE, DONE, 0, true, false},
    {ACT_REVERSE_CHECK, DONE, RUNS, DONE, DONE, MOVE_WATCH, true, false},
    {ACT_REVERSE_DROP, DONE, RUNS, DONE, DONE, MOVE_CLEAN, false, true},
};

static void run_row(const struct row *row, enum err_code code, int times, enum verdict expected)
{
    struct fake f;
    char what[96];
    struct move_record r = new_record(row->new_target, row->retire);
    r.bake_ns = row->action >= ACT_REVERSE_SLOT; /* else nothing is kept for the way back */
    snprintf(what, sizeof what, "%s fails %s %d times", move_action_name(row->action), err_code_name(code),
             times);
    set_up(&f, &r);
    f.faults[0] = (struct fault){row->action, code, times, false};
    run(&f, 3000);
    assert_kept(&f, what);
    if (f.verdict != expected)
        fail_msg("%s: %s instead of %s", what, verdict_names[f.verdict], verdict_names[expected]);
    if (expected == RUNS) {
        assert_int_equal(f.move.record.state, row->stuck);
        assert_true(f.tries[row->action] > 1000); /* no bound where there is no way but on */
    } else if (expected == UNDONE) {
        assert_int_equal(f.move.record.error.code, code); /* the cause, not a later hindrance */
        assert_true(f.tries[row->action] <= 80);
    }
    if (code == ERRC_UNAVAILABLE && times == 1) {
        assert_int_equal(f.move.record.error.code, ERRC_NONE);
        /* EMPTY_TARGET and the like run once; the fence is tried twice */
        assert_true(f.tries[row->action] >= 2);
    }
    move_fini(&f.move);
}

static void test_every_failure(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        run_row(&rows[i], ERRC_UNAVAILABLE, 1, rows[i].once);
        run_row(&rows[i], ERRC_UNAVAILABLE, FOR_EVER, rows[i].ever);
        run_row(&rows[i], ERRC_REFUSED, 1, rows[i].refused);
        run_row(&rows[i], ERRC_CORRUPT, 1, rows[i].corrupt);
        run_row(&rows[i], ERRC_STALE, 1, DEPOSED);
    }
}

static void test_journal_written_by_another(void **state)
{
    struct fake f;
    struct move_record r = new_record(false, false);
    (void)state;
    set_up(&f, &r);
    f.faults[0] = (struct fault){ACT_JOURNAL, ERRC_CONFLICT, 1, false};
    run(&f, STEPS_MOST);
    assert_int_equal(f.verdict, DEPOSED);
    move_fini(&f.move);
}

/* Bounds: 40 tries of a step before the fence, 30 of the fence. */
static void test_bounds(void **state)
{
    struct fake f;
    struct move_record r = new_record(false, false);
    (void)state;
    set_up(&f, &r);
    f.faults[0] = (struct fault){ACT_VERIFY, ERRC_TIMEOUT, FOR_EVER, false};
    run(&f, STEPS_MOST);
    assert_int_equal(f.tries[ACT_VERIFY], 40);
    move_fini(&f.move);
    r = new_record(false, false);
    set_up(&f, &r);
    f.faults[0] = (struct fault){ACT_LOCK, ERRC_TIMEOUT, FOR_EVER, false};
    run(&f, STEPS_MOST);
    assert_int_equal(f.verdict, UNDONE);
    assert_int_equal(f.tries[ACT_LOCK], 30);
    assert_int_equal(f.tries[ACT_REHEARSE], 30); /* rehearsed anew before each */
    move_fini(&f.move);
}

/* The answer to COMMIT is lost: S is asked. Whether S is there at once makes no difference. */
static void test_lost_commit(void **state)
{
    (void)state;
    for (int committed = 0; committed < 2; committed++)
        for (int resolve_fails = 0; resolve_fails < 3; resolve_fails++) {
            struct fake f;
            struct move_record r = new_record(false, false);
            set_up(&f, &r);
            f.faults[0] = (struct fault){ACT_COMMIT, ERRC_CLOSED, 1, committed};
            f.faults[1] = (struct fault){ACT_RESOLVE, ERRC_UNAVAILABLE, resolve_fails * 100, false};
            run(&f, STEPS_MOST);
            assert_kept(&f, "lost commit");
            assert_int_equal(f.verdict, DONE);
            assert_int_equal(f.tries[ACT_COMMIT], committed ? 1 : 2);
            assert_int_equal(f.tries[ACT_UNROUTE], committed ? 0 : 1);
            assert_int_equal(f.tries[ACT_RESOLVE], resolve_fails * 100 + 1);
            move_fini(&f.move);
        }
}

/* Each action of the way back fails once, and for ever. */
static void test_every_failure_of_undo(void **state)
{
    static const enum move_action back[] = {ACT_ROLLBACK,     ACT_UNROUTE,      ACT_BURN_GATE,
                                            ACT_DROP_FORWARD, ACT_EMPTY_TARGET, ACT_REMOVE_TARGET,
                                            ACT_UNFREEZE};
    (void)state;
    for (size_t i = 0; i < sizeof back / sizeof *back; i++)
        for (int ever = 0; ever < 2; ever++) {
            struct fake f;
            struct move_record r = new_record(back[i] == ACT_REMOVE_TARGET, false);
            set_up(&f, &r);
            while (f.move.record.state != MOVE_REHEARSE)
                step(&f);
            assert_int_equal(move_cancel(&f.move, NULL), 0);
            assert_int_equal(move_cancel(&f.move, NULL), 0); /* again */
            f.faults[0] = (struct fault){back[i], ERRC_REFUSED, ever ? FOR_EVER : 3, false};
            run(&f, 3000);
            assert_kept(&f, move_action_name(back[i]));
            assert_int_equal(f.verdict, ever ? RUNS : UNDONE);
            if (ever)
                assert_int_equal(f.move.record.state, MOVE_UNDO);
            else
                assert_int_equal(f.move.record.error.code, ERRC_NONE); /* canceled, not failed */
            move_fini(&f.move);
        }
}

/* Each action of a rollback fails: it is done all the same, or given up, and then the move stays as it was.
 */
static void test_every_failure_of_a_rollback(void **state)
{
    static const struct {
        enum move_action action;
        enum verdict ever, refused;
        enum move_state stuck;
    } back[] = {{ACT_REVERSE_CHECK, DONE, DONE, 0},
                {ACT_CATCH_UP, DONE, DONE, 0},
                {ACT_CLOSE_GATE, DONE, DONE, 0},
                {ACT_RECHECK, DONE, DONE, 0},
                {ACT_REHEARSE, DONE, DONE, 0},
                {ACT_PREPARE_OPEN, DONE, UNDONE, 0},
                {ACT_LOCK, DONE, UNDONE, 0},
                {ACT_MARKER, DONE, UNDONE, 0},
                {ACT_FENCE, DONE, UNDONE, 0},
                {ACT_SEQUENCES, DONE, UNDONE, 0},
                {ACT_ROUTE, DONE, UNDONE, 0},
                {ACT_COMMIT, DONE, UNDONE, 0},
                {ACT_OPEN, RUNS, UNDONE, MOVE_FENCE},
                {ACT_SETTLE, RUNS, UNDONE, MOVE_SETTLE},
                {ACT_ANNOUNCE, RUNS, UNDONE, MOVE_SETTLE},
                {ACT_DROP_FORWARD, RUNS, UNDONE, MOVE_WATCH},
                {ACT_CLEAN_SOURCE, RUNS, UNDONE, MOVE_CLEAN},
                {ACT_UNFREEZE, RUNS, UNDONE, MOVE_CLEAN},
                {ACT_JOURNAL, RUNS, UNDONE, MOVE_REHEARSE}};
    (void)state;
    for (size_t i = 0; i < sizeof back / sizeof *back; i++)
        for (int how = 0; how < 3; how++) {
            struct fake f;
            struct move_record r = new_baking(false, false);
            run_to_bake(&f, &r);
            assert_int_equal(move_rollback(&f.move, false, NULL), 0);
            f.faults[0] = (struct fault){back[i].action, how == 2 ? ERRC_REFUSED : ERRC_UNAVAILABLE,
                                         how == 1 ? FOR_EVER : 1, false};
            if (how == 1 && back[i].ever == DONE) /* once given up it bakes, and ends as it began */
                for (int n = 0; n < 3000 && !(f.move.record.state == MOVE_WATCH && !f.turned); n++)
                    step(&f);
            run(&f, 3000);
            assert_kept(&f, move_action_name(back[i].action));
            enum verdict expected = how == 0 ? UNDONE : how == 1 ? back[i].ever : back[i].refused;
            if (f.verdict != expected)
                fail_msg("%s, %d: %s instead of %s", move_action_name(back[i].action), how,
                         verdict_names[f.verdict], verdict_names[expected]);
            if (expected == RUNS)
                assert_int_equal(f.move.record.state, back[i].stuck);
            move_fini(&f.move);
        }
}

/* A rollback that is refused says why while the move bakes, and can be asked for again. */
static void test_rollback_given_up(void **state)
{
    struct fake f;
    struct move_record r = new_baking(false, false);
    (void)state;
    run_to_bake(&f, &r);
    assert_int_equal(move_rollback(&f.move, false, NULL), 0);
    f.faults[0] = (struct fault){ACT_REVERSE_CHECK, ERRC_REFUSED, 1, false};
    while (!(f.move.record.state == MOVE_WATCH && f.pending[0] == ACT_WAIT && !f.turned &&
             f.tries[ACT_REVERSE_CHECK] > 1))
        step(&f);
    assert_kept(&f, "given up");
    assert_string_equal(f.move.record.error.message, "not rolled back: fault");
    assert_false(f.move.record.rollback || f.move.record.back);
    assert_true(f.reverse_follows);
    assert_int_equal(move_rollback(&f.move, false, NULL), 0);
    run(&f, STEPS_MOST);
    assert_kept(&f, "given up");
    assert_int_equal(f.verdict, UNDONE);
    move_fini(&f.move);
}

/* ---- cancel ---- */

static void test_rollback_at_every_step(void **state)
{
    (void)state;
    for (int bakes = 0; bakes < 2; bakes++)
        for (int at = 0; at < 60; at++) {
            struct fake f;
            struct err err = {0};
            struct move_record r = new_record(true, false);
            r.bake_ns = bakes ? 1 : 0;
            set_up(&f, &r);
            run(&f, at);
            if (f.verdict != RUNS) {
                move_fini(&f.move);
                break;
            }
            bool possible = f.move.record.state < (bakes ? MOVE_CLEAN : MOVE_FENCE);
            assert_int_equal(move_rollback(&f.move, false, &err), possible ? 0 : ERRC_CONFLICT);
            run(&f, STEPS_MOST);
            assert_kept(&f, "rollback at every step");
            assert_int_equal(f.verdict, possible ? UNDONE : DONE);
            assert_int_equal(f.move.record.canceled, possible);
            move_fini(&f.move);
        }
}

static void test_cancel_at_every_step(void **state)
{
    (void)state;
    for (int new_target = 0; new_target < 2; new_target++)
        for (int at = 0; at < 40; at++) {
            struct fake f;
            struct err err = {0};
            struct move_record r = new_record(new_target, false);
            set_up(&f, &r);
            run(&f, at);
            if (f.verdict != RUNS) {
                move_fini(&f.move);
                break;
            }
            bool possible = f.move.record.state < MOVE_FENCE;
            int rc = move_cancel(&f.move, &err);
            assert_int_equal(rc, possible ? 0 : ERRC_CONFLICT);
            if (!possible)
                assert_non_null(strstr(err.message, move_state_name(f.move.record.state)));
            run(&f, STEPS_MOST);
            assert_kept(&f, "cancel");
            assert_int_equal(f.verdict, possible ? UNDONE : DONE);
            assert_int_equal(f.move.record.canceled, possible);
            move_fini(&f.move);
        }
}

/* Whatever the action under way says then: the reason is the manager's. From the fence on it changes nothing.
 */
static void test_given_up_at_every_step(void **state)
{
    (void)state;
    for (int fails = 0; fails < 2; fails++)
        for (int at = 0; at < 40; at++) {
            struct fake f;
            struct err why = {0};
            struct move_record r = new_record(true, false);
            err_set(&why, ERRC_LIMIT, "the disk is nearly full");
            set_up(&f, &r);
            run(&f, at);
            bool possible = f.verdict == RUNS && f.move.record.state < MOVE_FENCE;
            assert_int_equal(move_give_up(&f.move, &why), possible);
            assert_false(move_give_up(&f.move, &why)); /* once */
            if (fails)
                f.faults[0] = (struct fault){ACT_COPY, ERRC_CANCELED, 1, false};
            run(&f, STEPS_MOST);
            assert_kept(&f, "give up");
            assert_int_equal(f.verdict, possible ? UNDONE : DONE);
            if (possible)
                assert_string_equal(f.move.record.error.message, why.message);
            assert_false(f.move.record.canceled);
            move_fini(&f.move);
        }
}

/* ---- resuming ---- */

/* Every journaled state with every answer of the servers: on, back, or left to a person. */
static enum verdict resumed_end(enum move_state s, bool owns, bool open)
{
    if (s == MOVE_DONE || s == MOVE_UNDONE || s == MOVE_REFUSED)
        return s == MOVE_DONE ? DONE : s == MOVE_UNDONE ? UNDONE : REFUSED;
    if (owns && open)
        return DEPOSED;
    if (s == MOVE_UNDO)
        return owns ? UNDONE : DEPOSED;
    if (s < MOVE_FENCE)
        return owns ? DONE : DEPOSED;
    if (s == MOVE_FENCE)
        return DONE;
    return owns ? DEPOSED : DONE;
}

static void resume_world(struct fake *f, enum move_state s, bool owns, bool open, const struct move_record *r)
{
    memset(f, 0, sizeof *f);
    f->random = 1;
    f->source_owns = owns;
    f->frozen = s > MOVE_TARGET && s != MOVE_RETIRE && s != MOVE_DONE && s < MOVE_UNDONE;
    f->replicates = s > MOVE_COPY && s < MOVE_WATCH;
    f->target_owns = s > MOVE_SETTLE && s <= MOVE_DONE && !owns;
    f->gate = open                                                  ? GATE_OPEN
              : s >= MOVE_FENCE && !f->target_owns && s < MOVE_UNDO ? GATE_CLOSED
                                                                    : GATE_NONE;
    f->table_says_target = s >= MOVE_FENCE && s <= MOVE_DONE;
    f->journaled = s;
    f->journal = *r;
}

static void test_resume_everywhere(void **state)
{
    (void)state;
    for (int s = MOVE_TARGET; s < MOVE_STATE_COUNT; s++)
        for (int bits = 0; bits < 4; bits++) {
            bool owns = (bits & 1) != 0, open = (bits & 2) != 0;
            struct fake f;
            struct move_record r = new_record(false, false);
            r.state = (enum move_state)s;
            r.go_on = s == MOVE_HELD; /* else it waits for a person */
            /* what cannot be at the end of a move is not asked */
            if ((s == MOVE_DONE && (owns || open)) ||
                ((s == MOVE_UNDONE || s == MOVE_REFUSED) && (!owns || open)))
                continue;
            /* settled, watched and cleaned moves have no gate; one that waits to settle has it open */
            if ((s > MOVE_SETTLE && s < MOVE_DONE && open) || (s == MOVE_SETTLE && !owns && !open))
                continue;
            if (!owns && s < MOVE_FENCE && open)
                continue;
            resume_world(&f, (enum move_state)s, owns, open, &r);
            begin(&f, &r, true);
            if (f.verdict == RUNS && owns && open) { /* the world is broken already: only the answer counts */
                while (f.verdict == RUNS && f.steps < 4)
                    step(&f);
                assert_int_equal(f.verdict, DEPOSED);
                assert_int_equal(f.tries[ACT_JOURNAL], 1); /* only to keep who led before from it */
            } else {
                enum verdict expected = resumed_end((enum move_state)s, owns, open);
                if (expected == DEPOSED)
                    while (f.verdict == RUNS && f.steps < 4)
                        step(&f);
                else
                    run(&f, STEPS_MOST);
                if (expected != DEPOSED)
                    assert_kept(&f, "resume");
                if (f.verdict != expected)
                    fail_msg("resumed in %s, owns %d, open %d: %s instead of %s",
                             move_state_name((enum move_state)s), owns, open, verdict_names[f.verdict],
                             verdict_names[expected]);
            }
            move_fini(&f.move);
        }
}

/* A journal that says "canceled" is undone at once, without another step forward. */
static void test_resume_canceled(void **state)
{
    struct fake f;
    struct move_record r = new_record(true, false);
    (void)state;
    r.state = MOVE_COPY;
    r.canceled = true;
    resume_world(&f, MOVE_COPY, true, false, &r);
    begin(&f, &r, true);
    run(&f, STEPS_MOST);
    assert_kept(&f, "resume canceled");
    assert_int_equal(f.verdict, UNDONE);
    assert_int_equal(f.tries[ACT_PUBLISH], 0);
    move_fini(&f.move);
}

/* Asked for while the fence was tried, which did not succeed: there is nothing to be taken back. */
static void test_resume_a_rollback_before_the_commit(void **state)
{
    struct fake f;
    struct move_record r = new_baking(true, false);
    (void)state;
    r.state = MOVE_FENCE;
    r.rollback = true;
    r.reverse_publication = 7;
    resume_world(&f, MOVE_FENCE, true, false, &r);
    begin(&f, &r, true);
    run(&f, STEPS_MOST);
    assert_kept(&f, "resume a rollback before the commit");
    assert_int_equal(f.verdict, UNDONE);
    assert_int_equal(f.tries[ACT_LOCK], 0);
    assert_true(f.move.record.canceled && !f.move.record.rollback && !f.turned);
    move_fini(&f.move);
}

/* The manager dies at every step of a rollback. */
static void test_resume_a_rollback(void **state)
{
    (void)state;
    for (int lost = 0; lost < 2; lost++)
        for (int at = 0; at < 40; at++) {
            struct fake f;
            struct move_record r = new_baking(at % 2 == 0, false);
            run_to_bake(&f, &r);
            assert_int_equal(move_rollback(&f.move, false, NULL), 0);
            f.journal.rollback = true; /* the answer to who asked comes after it is written */
            run(&f, at);
            if (f.verdict != RUNS) {
                move_fini(&f.move);
                break;
            }
            for (int i = 0; i < f.pending_count && !lost; i++)
                if (f.pending[i] != ACT_WAIT)
                    take_effect(&f, f.pending[i]);
            struct move_record record = f.journal;
            move_fini(&f.move);
            begin(&f, &record, true);
            run(&f, STEPS_MOST);
            assert_kept(&f, "resume a rollback");
            assert_int_equal(f.verdict, UNDONE);
            assert_true(f.turned);
            move_fini(&f.move);
        }
}

/* TAKE_TERM comes before INSPECT comes before all else, and both are tried for ever. */
static void test_resume_waits_for_the_servers(void **state)
{
    struct fake f;
    struct move_record r = new_record(false, false);
    (void)state;
    r.state = MOVE_FENCE;
    resume_world(&f, MOVE_FENCE, false, false, &r);
    f.faults[0] = (struct fault){ACT_TAKE_TERM, ERRC_UNAVAILABLE, 500, false};
    f.faults[1] = (struct fault){ACT_INSPECT, ERRC_CORRUPT, 500, false};
    begin(&f, &r, true);
    run(&f, STEPS_MOST);
    assert_kept(&f, "resume");
    assert_int_equal(f.verdict, DONE);
    assert_int_equal(f.tries[ACT_TAKE_TERM], 501);
    assert_int_equal(f.tries[ACT_INSPECT], 501);
    assert_int_equal(f.tries[ACT_LOCK], 0);
    move_fini(&f.move);
}

/* ---- random outcomes, cancels and crashes ---- */

/* The process dies: what was under way happened or not, the session's locks go, the journal is read again. */
static void crash(struct fake *f)
{
    for (int i = 0; i < f->pending_count; i++)
        if (roll(f, 2) == 0 && f->pending[i] != ACT_WAIT && !(f->pending[i] == ACT_COMMIT && !f->locked))
            take_effect(f, f->pending[i]);
    if (f->journaled == MOVE_STATE_COUNT)
        f->journal = f->move.record; /* nothing was written: the same request is made again */
    struct move_record record = f->journal;
    move_fini(&f->move);
    begin(f, &record, f->journaled != MOVE_STATE_COUNT);
}

static enum verdict random_run(unsigned long long seed, int *ret_steps, bool *ret_back)
{
    struct fake f;
    char what[64];
    memset(&f, 0, sizeof f);
    f.random = seed * 2654435761u;
    unsigned bits = roll(&f, 4);
    unsigned percent = roll(&f, 3) * 12, crash_per_mille = roll(&f, 3) * 15,
             cancel_per_mille = roll(&f, 3) * 4, rollback_per_mille = roll(&f, 4) * 8;
    struct move_record r = new_record((bits & 1) != 0, (bits & 1) == 0 && (bits & 2) != 0);
    r.bake_ns = roll(&f, 3);
    unsigned long long random = f.random;
    set_up(&f, &r);
    f.random = random;
    f.fault_percent = percent;
    for (int i = 0; i < STEPS_MOST && f.verdict == RUNS && f.broken == NULL; i++) {
        if (i == STEPS_MOST / 2)
            f.fault_percent = crash_per_mille = 0; /* times get better: now it must end */
        if (roll(&f, 1000) < cancel_per_mille)
            move_cancel(&f.move, NULL);
        bool late = f.move.record.state >= MOVE_FENCE; /* before it, it is a cancel */
        bool held = f.move.record.state == MOVE_HELD, accept = roll(&f, 2) == 0;
        if (held && roll(&f, 8) == 0 && move_go_on(&f.move, accept, NULL) == 0 && roll(&f, 2) == 0 &&
            f.journaled == f.move.record.state)
            f.journal = f.move.record;
        if (roll(&f, 1000) < rollback_per_mille * (late ? 8 : 1) &&
            move_rollback(&f.move, accept, NULL) == 0 && roll(&f, 2) == 0 &&
            f.journaled == f.move.record.state && f.journal.back == f.move.record.back)
            f.journal = f.move.record; /* it was written */
        if (roll(&f, 1000) < crash_per_mille)
            crash(&f);
        else
            run(&f, 1);
    }
    rule(&f, f.verdict != RUNS, "it ends");
    *ret_back = f.verdict == UNDONE && f.turned;
    snprintf(what, sizeof what, "seed %llu", seed);
    assert_kept(&f, what);
    *ret_steps = f.steps;
    move_fini(&f.move);
    return f.verdict;
}

static void test_invariants(void **state)
{
    const char *given = getenv("SHARDHERD_TEST_SEED"); /* repeats one run */
    unsigned long long first = given != NULL ? strtoull(given, NULL, 10) : 1;
    (void)state;
    int ends[DEPOSED + 1] = {0}, steps, longest = 0, taken_back = 0;
    bool back;
    unsigned long long last = given != NULL ? first : first + 29999;
    for (unsigned long long seed = first; seed <= last; seed++) {
        ends[random_run(seed, &steps, &back)]++;
        taken_back += back;
        longest = steps > longest ? steps : longest;
    }
    printf(
        "seeds %llu to %llu: %d done, %d undone (%d after their fence), %d refused, %d deposed, the longest "
        "took %d steps\n",
        first, last, ends[DONE], ends[UNDONE], taken_back, ends[REFUSED], ends[DEPOSED], longest);
    /* each end is reached often, or the runs prove little */
    if (given == NULL)
        assert_true(ends[DONE] > 1000 && ends[UNDONE] > 1000 && taken_back > 1000 && ends[REFUSED] > 100 &&
                    ends[DEPOSED] > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_happy_path),
        cmocka_unit_test(test_happy_path_with_a_way_back),
        cmocka_unit_test(test_rollback),
        cmocka_unit_test(test_dry_run),
        cmocka_unit_test(test_every_failure),
        cmocka_unit_test(test_journal_written_by_another),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_lost_commit),
        cmocka_unit_test(test_every_failure_of_undo),
        cmocka_unit_test(test_every_failure_of_a_rollback),
        cmocka_unit_test(test_rollback_given_up),
        cmocka_unit_test(test_cancel_at_every_step),
        cmocka_unit_test(test_rollback_at_every_step),
        cmocka_unit_test(test_resume_a_rollback),
        cmocka_unit_test(test_resume_a_rollback_before_the_commit),
        cmocka_unit_test(test_given_up_at_every_step),
        cmocka_unit_test(test_resume_everywhere),
        cmocka_unit_test(test_resume_canceled),
        cmocka_unit_test(test_resume_waits_for_the_servers),
        cmocka_unit_test(test_invariants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
