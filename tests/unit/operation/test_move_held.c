/*
 * The core of a move whose source's copy is compared with its target's rows after the fence, and is held when
 * they differ; against the fake driver of test_move_core.c.
 *
 * Broken on purpose, each of these made the named test fail: a difference that does not hold the move (held,
 * difference_against_rollback), HELD that goes on by itself (held), a rollback that asks for no acceptance
 * (held), a rollback that counts for more than a difference (difference_against_rollback), a difference that
 * is forgotten when another comparison is asked for (compared_again), or when that cannot be made
 * (cannot_be_compared_again).
 */
#include "operation/fake_driver.h"

/* S's copy was found to differ. */
static void run_to_held(struct fake *f, const struct move_record *r, enum err_code code)
{
    set_up(f, r);
    f->faults[0] = (struct fault){ACT_REVERSE_VERIFY, code, 1, false};
    for (int i = 0; i < 300 && f->move.record.state != MOVE_HELD; i++)
        step(f);
    run(f, 50); /* it waits, whatever the time */
    assert_kept(f, "held");
    assert_int_equal(f->move.record.state, MOVE_HELD);
    assert_int_equal(f->journal.state, MOVE_HELD);
    assert_int_equal(f->move.record.error.code, code);
    assert_int_equal(f->tries[ACT_REVERSE_DROP] + f->tries[ACT_CLEAN_SOURCE], 0);
}

static void run_to_end(struct fake *f, enum verdict expected)
{
    run(f, STEPS_MOST);
    assert_kept(f, "after held");
    assert_int_equal(f->verdict, expected);
    assert_int_equal(f->move.record.error.code, ERRC_NONE);
    move_fini(&f->move);
}

static void test_held(void **state)
{
    struct fake f;
    struct err err = {0};
    struct move_record r = new_baking(false, false), journal;
    (void)state;
    run_to_held(&f, &r, ERRC_CORRUPT); /* repaired: compared once more */
    assert_int_equal(move_go_on(&f.move, false, NULL), 0);
    run(&f, 10);
    assert_int_equal(f.tries[ACT_REVERSE_VERIFY], 2);
    assert_int_equal(move_go_on(&f.move, false, NULL), ERRC_CONFLICT);
    run_to_end(&f, DONE);
    run_to_held(&f, &r, ERRC_CORRUPT); /* still the same */
    f.faults[0] = (struct fault){ACT_REVERSE_VERIFY, ERRC_CORRUPT, 1, false};
    assert_int_equal(move_go_on(&f.move, false, NULL), 0);
    run(&f, 50);
    assert_int_equal(f.move.record.state, MOVE_HELD);
    assert_int_equal(move_go_on(&f.move, true, NULL), 0); /* accepted */
    run_to_end(&f, DONE);
    run_to_held(&f, &r, ERRC_CORRUPT); /* back */
    assert_int_equal(move_rollback(&f.move, false, &err), ERRC_CONFLICT);
    assert_non_null(strstr(err.message, "shard s1 has another copy of the range than shard s2"));
    assert_int_equal(move_rollback(&f.move, true, NULL), 0);
    assert_int_equal(move_rollback(&f.move, false, NULL), 0); /* it is asked for already */
    f.tries[ACT_RECHECK] = 0;
    run(&f, 30);
    assert_int_equal(f.tries[ACT_RECHECK], 0);
    run_to_end(&f, UNDONE);
    run_to_held(&f, &r, ERRC_REFUSED); /* nothing is known to differ */
    assert_int_equal(f.move.record.verdict, MOVE_VERDICT_UNKNOWN);
    assert_int_equal(move_rollback(&f.move, false, NULL), 0);
    run_to_end(&f, UNDONE);
    run_to_held(&f, &r, ERRC_CORRUPT); /* another manager holds it as well, and does as it was told */
    journal = f.journal;
    begin(&f, &journal, true);
    run(&f, 50);
    assert_int_equal(f.move.record.state, MOVE_HELD);
    assert_int_equal(move_rollback(&f.move, false, NULL), ERRC_CONFLICT);
    journal = f.move.record;
    journal.go_on = journal.accepted = true;
    begin(&f, &journal, true);
    run_to_end(&f, DONE);
}

/* While S is compared: what time may mend has no bound; a rollback, or who does not want to know, ends it. */
static void test_compared(void **state)
{
    struct move_record r = new_baking(true, false);
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct fake f;
        set_up(&f, &r);
        f.faults[0] = (struct fault){ACT_REVERSE_VERIFY, ERRC_UNAVAILABLE, FOR_EVER, false};
        run(&f, 2000);
        assert_kept(&f, "compared");
        assert_int_equal(f.move.record.state, MOVE_WATCH);
        assert_true(f.tries[ACT_REVERSE_VERIFY] > 500);
        if (how == 0)
            f.faults[0].times = 0;
        else if (how == 1)
            assert_int_equal(move_go_on(&f.move, true, NULL), 0);
        else
            assert_int_equal(move_rollback(&f.move, how == 2, NULL), 0);
        run_to_end(&f, how < 2 ? DONE : UNDONE);
    }
}

/* Who accepted to go on has not accepted to go back: the sample is looked at. */
static void test_accepted_for_one_step(void **state)
{
    struct fake f;
    struct move_record r = new_baking(false, false);
    (void)state;
    run_to_held(&f, &r, ERRC_REFUSED);
    assert_int_equal(move_go_on(&f.move, true, NULL), 0);
    while (f.move.record.state != MOVE_WATCH || f.pending[0] != ACT_WAIT)
        step(&f);
    assert_int_equal(move_rollback(&f.move, false, NULL), 0);
    f.tries[ACT_RECHECK] = 0;
    run(&f, 30);
    assert_true(f.tries[ACT_RECHECK] > 0);
    run_to_end(&f, UNDONE);
}

/* Asked for before the difference was found: it counts for more. A sample finds one on the way back. */
static void test_difference_against_rollback(void **state)
{
    struct fake f;
    struct move_record r = new_baking(false, false);
    (void)state;
    for (int sample = 0; sample < 2; sample++) {
        set_up(&f, &r);
        while (f.pending[0] != ACT_REVERSE_VERIFY)
            step(&f);
        f.faults[0] = (struct fault){sample ? ACT_RECHECK : ACT_REVERSE_VERIFY, ERRC_CORRUPT, 1, false};
        assert_int_equal(move_rollback(&f.move, false, NULL), 0);
        run(&f, 60);
        assert_kept(&f, "difference against rollback");
        assert_int_equal(f.move.record.state, MOVE_HELD);
        assert_string_equal(f.move.record.error.message, "not rolled back: fault");
        assert_int_equal(f.move.record.verdict, MOVE_VERDICT_DIFFERS);
        assert_false(f.move.record.rollback || f.move.record.back);
        assert_int_equal(move_go_on(&f.move, false, NULL), 0);
        run_to_end(&f, DONE);
    }
}

/* The row may have been repaired, or not: that is not known before the comparison says so. */
static void test_compared_again(void **state)
{
    struct fake f;
    struct err err = {0};
    struct move_record r = new_baking(false, false), journal;
    (void)state;
    for (int how = 0; how < 4; how++) {
        run_to_held(&f, &r, ERRC_CORRUPT);
        assert_int_equal(move_go_on(&f.move, false, NULL), 0);
        assert_int_equal(move_rollback(&f.move, false, NULL), ERRC_CONFLICT); /* not even begun */
        while (f.pending[0] != ACT_REVERSE_VERIFY)
            step(&f);
        if (how == 3) { /* another manager knows as well */
            assert_int_equal(f.journal.verdict, MOVE_VERDICT_DOUBTED);
            journal = f.journal;
            begin(&f, &journal, true);
            run(&f, 5);
        }
        err_clear(&err);
        assert_int_equal(move_rollback(&f.move, false, &err), ERRC_CONFLICT);
        assert_non_null(strstr(err.message, "shard s1 had another copy of the range than shard s2"));
        assert_non_null(strstr(err.message, "has not ended"));
        if (how == 0)
            assert_int_equal(move_rollback(&f.move, true, NULL), 0);
        else if (how == 1) {
            assert_int_equal(move_go_on(&f.move, true, NULL), 0);
            assert_int_equal(move_rollback(&f.move, false, NULL), ERRC_CONFLICT);
        } else {
            while (f.move.record.verdict == MOVE_VERDICT_DOUBTED)
                step(&f);
            assert_int_equal(f.move.record.verdict, MOVE_VERDICT_EQUAL);
            assert_int_equal(move_rollback(&f.move, false, NULL), 0);
        }
        run_to_end(&f, how == 1 ? DONE : UNDONE);
    }
}

/* A rollback that was accepted and then given up does not make the next one go without being asked. */
static void test_given_up(void **state)
{
    struct fake f;
    struct move_record r = new_baking(false, false);
    (void)state;
    run_to_held(&f, &r, ERRC_CORRUPT);
    assert_int_equal(move_go_on(&f.move, false, NULL), 0);
    assert_int_equal(move_rollback(&f.move, true, NULL), 0);
    f.faults[0] = (struct fault){ACT_REVERSE_CHECK, ERRC_REFUSED, 1, false};
    run(&f, 50);
    assert_kept(&f, "given up");
    assert_int_equal(f.move.record.state, MOVE_HELD); /* and does not go on by what was asked before that */
    assert_int_equal(f.move.record.verdict, MOVE_VERDICT_DIFFERS);
    assert_int_equal(move_rollback(&f.move, false, NULL), ERRC_CONFLICT);
    assert_int_equal(move_go_on(&f.move, true, NULL), 0);
    run_to_end(&f, DONE);
}

/* S does not follow any more, or its rows cannot be read: it differed, and nobody has said that it does not.
 */
static void test_cannot_be_compared_again(void **state)
{
    static const struct fault faults[] = {{ACT_REVERSE_CHECK, ERRC_REFUSED, 1, false},
                                          {ACT_REVERSE_VERIFY, ERRC_REFUSED, 1, false},
                                          {ACT_REVERSE_FOLLOW, ERRC_REFUSED, 1, false},
                                          {ACT_REVERSE_FOLLOW, ERRC_UNAVAILABLE, 40, false}};
    struct move_record r = new_baking(false, false);
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct fake f;
        run_to_held(&f, &r, ERRC_CORRUPT);
        f.faults[0] = faults[i];
        assert_int_equal(move_go_on(&f.move, false, NULL), 0);
        run(&f, 300);
        assert_kept(&f, "cannot be compared again");
        assert_int_equal(f.move.record.state, MOVE_HELD);
        assert_int_equal(f.move.record.verdict, MOVE_VERDICT_DIFFERS);
        assert_non_null(strstr(f.move.record.error.message, "which differed: fault"));
        assert_int_equal(move_rollback(&f.move, false, NULL), ERRC_CONFLICT);
        assert_int_equal(move_go_on(&f.move, true, NULL), 0);
        run_to_end(&f, DONE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_compared),
        cmocka_unit_test(test_accepted_for_one_step),
        cmocka_unit_test(test_difference_against_rollback),
        cmocka_unit_test(test_compared_again),
        cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_cannot_be_compared_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
