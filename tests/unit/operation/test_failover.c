/*
 * The core of a failover against a driver that only answers: each transition of the table is walked, each
 * order of actions is as written, and docs/high-availability.md has the diagram of the table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "operation/failover.h"

#define TRACE_MOST 400

enum verdict { RUNS, ENDED, DEPOSED };

struct fake {
    struct failover_driver driver; /* first */
    struct failover f;
    struct ha_shard shard;
    enum failover_action pending, trace[TRACE_MOST];
    int traced;
    enum verdict verdict;
    struct failover_record journal;
    enum failover_state last;
    bool walked[FAILOVER_STATE_COUNT][FAILOVER_STATE_COUNT];
    /* the test's */
    enum failover_action fails;
    enum err_code code;
    int times;
    uint64_t lsn[3]; /* that it confirms with; 0 = it does not */
};

static void act(struct failover_driver *driver, enum failover_action action)
{
    struct fake *k = (struct fake *)driver;
    k->pending = action;
    assert_true(k->traced < TRACE_MOST);
    k->trace[k->traced++] = action;
}

static void changed(struct failover_driver *driver)
{
    struct fake *k = (struct fake *)driver;
    enum failover_state now = failover_now(&k->f);
    k->walked[k->last][now] = true;
    k->last = now;
}

static void ended(struct failover_driver *driver)
{
    ((struct fake *)driver)->verdict = ENDED;
}

static void deposed(struct failover_driver *driver)
{
    ((struct fake *)driver)->verdict = DEPOSED;
}

static void set_up(struct fake *k, enum failover_kind kind)
{
    struct failover_record r;
    struct ha_record ha;
    memset(k, 0, sizeof *k);
    k->driver = (struct failover_driver){act, changed, ended, deposed};
    k->shard = (struct ha_shard){.name = "s1", .count = 3};
    k->fails = FO_COUNT;
    k->lsn[1] = k->lsn[2] = 100;
    ha_policy_defaults(&k->shard.policy, 3);
    ha_record_init(&ha, &k->shard.policy, 0, 6);
    failover_record_init(&r, &ha);
    r.kind = kind;
    if (kind == FAILOVER_KIND_SWITCHOVER) {
        r.target = 2;
        k->lsn[0] = 100;
    }
    failover_init(&k->f, &k->driver, &r, &k->shard);
    failover_start(&k->f, false);
}

static void confirm(struct fake *k, struct failover_outcome *o, int from, int to)
{
    for (int i = from; i < to; i++)
        if (k->lsn[i] != 0)
            o->confirmed[i] =
                (struct ha_confirmation){k->f.record.ha.term, {.term = 1, .timeline = 1, .lsn = k->lsn[i]}};
}

static void step(struct fake *k)
{
    struct failover_outcome o = {0};
    enum failover_action action = k->pending;
    if (action == k->fails && k->times > 0) {
        k->times--;
        err_set(&o.err, k->code, "as the test wants");
    } else if (action == FO_JOURNAL)
        k->journal = k->f.record;
    else if (action == FO_FENCE)
        confirm(k, &o, 0, 1);
    else if (action == FO_CONFIRM)
        confirm(k, &o, 0, 3);
    else if (action == FO_FETCH)
        k->lsn[k->f.choice.winner] = k->f.choice.position.lsn;
    failover_done(&k->f, action, &o);
}

static void run_to(struct fake *k, enum failover_state state)
{
    for (int i = 0; i < 200 && k->verdict == RUNS && failover_now(&k->f) != state; i++)
        step(k);
    assert_string_equal(failover_state_name(failover_now(&k->f)), failover_state_name(state));
}

static void run(struct fake *k)
{
    for (int i = 0; i < 200 && k->verdict == RUNS; i++)
        step(k);
}

static void assert_trace(const struct fake *k, const enum failover_action *wanted, int count)
{
    for (int i = 0; i < count && i < k->traced; i++)
        assert_string_equal(failover_action_name(k->trace[i]), failover_action_name(wanted[i]));
    assert_int_equal(k->traced, count);
}
#define ASSERT_TRACE(k, ...)                                                                                 \
    do {                                                                                                     \
        static const enum failover_action wanted[] = {__VA_ARGS__};                                          \
        assert_trace(k, wanted, (int)(sizeof wanted / sizeof *wanted));                                      \
    } while (0)

/* Every test adds what it walked. */
static bool walked[FAILOVER_STATE_COUNT][FAILOVER_STATE_COUNT];

static void finish(struct fake *k)
{
    for (int i = 0; i < FAILOVER_STATE_COUNT; i++)
        for (int j = 0; j < FAILOVER_STATE_COUNT; j++)
            walked[i][j] |= k->walked[i][j];
}

/* ---- the paths ---- */

static void test_failover(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_FAILOVER);
    run_to(&k, FAILOVER_PROMOTE);
    assert_int_equal(k.journal.state, FAILOVER_CHOSEN); /* whom it is going to promote is in the record */
    assert_int_equal(k.journal.ha.term, 2);
    assert_int_equal(ha_newest(&k.journal.ha)->primary, k.f.choice.winner);
    assert_int_equal(k.journal.ha.count, 2); /* and so is who may have acknowledged before */
    run(&k);
    assert_int_equal(k.verdict, ENDED);
    assert_int_equal(k.journal.state, FAILOVER_DONE);
    ASSERT_TRACE(&k, FO_JOURNAL, FO_JOURNAL, FO_CONFIRM, FO_JOURNAL, FO_PROMOTE, FO_SETTLE, FO_REPOINT,
                 FO_OPEN, FO_ROUTE, FO_JOURNAL);
    finish(&k);
}

static void test_switchover(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_SWITCHOVER);
    run(&k);
    assert_int_equal(k.f.choice.winner, 2);
    ASSERT_TRACE(&k, FO_JOURNAL, FO_CHECKPOINT, FO_JOURNAL, FO_FENCE, FO_DRAIN, FO_CONFIRM, FO_JOURNAL,
                 FO_PROMOTE, FO_SETTLE, FO_REPOINT, FO_OPEN, FO_ROUTE, FO_JOURNAL);
    finish(&k);
    set_up(&k,
           FAILOVER_KIND_SWITCHOVER); /* the target lacks something: the primary goes on, under a new term */
    k.lsn[2] = 99;
    k.fails = FO_DRAIN;
    k.code = ERRC_TIMEOUT;
    k.times = 1;
    run(&k);
    assert_int_equal(k.verdict, ENDED);
    assert_int_equal(k.f.choice.winner, 0);
    finish(&k);
}

static void test_fetch(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_FAILOVER);
    k.f.shard.instances[2].no_failover = true;
    k.lsn[2] = 200;
    k.fails = FO_FETCH;
    k.code = ERRC_UNAVAILABLE;
    k.times = 1;
    run_to(&k, FAILOVER_CHOSEN);
    assert_int_equal(k.f.choice.winner, 1);
    assert_int_equal(k.lsn[1], 200);
    ASSERT_TRACE(&k, FO_JOURNAL, FO_JOURNAL, FO_CONFIRM, FO_FETCH, FO_CONFIRM, FO_FETCH, FO_CONFIRM,
                 FO_JOURNAL);
    finish(&k);
}

static void test_lease(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_FAILOVER);
    k.f.record.allow_loss = 1;
    k.lsn[2] = 0;
    run_to(&k, FAILOVER_LEASE);
    assert_int_equal(k.f.wait_ns, k.shard.policy.lease_ns);
    run(&k);
    assert_int_equal(k.f.choice.rule, HA_F_DATA_LOSS);
    assert_int_equal(k.journal.allow_loss, -1);
    assert_int_equal(k.journal.ha.configs[0].primary, 1); /* what it has, only it is known to have */
    assert_int_equal(k.journal.ha.configs[0].members, 0);
    finish(&k);
}

/* A quorum that is not there is waited for, under the same term. */
static void test_quorum_comes_late(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_FAILOVER);
    k.lsn[2] = 0;
    for (int i = 0; i < 30; i++)
        step(&k);
    assert_int_equal(failover_now(&k.f), FAILOVER_CONFIRM);
    assert_int_equal(k.f.choice.rule, HA_F_QUORUM_MISSING);
    k.lsn[2] = 100;
    run(&k);
    assert_int_equal(k.verdict, ENDED);
    assert_int_equal(k.journal.ha.term, 2);
    finish(&k);
}

/* ---- failures ---- */

/* The winner does not do it: a new term, and all is asked anew. */
static void test_winner_fails(void **state)
{
    static const enum failover_action actions[] = {FO_PROMOTE, FO_SETTLE, FO_OPEN};
    (void)state;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        struct fake k;
        set_up(&k, FAILOVER_KIND_FAILOVER);
        k.fails = actions[i];
        k.code = ERRC_TIMEOUT;
        k.times = 3;
        run(&k);
        assert_int_equal(k.verdict, ENDED);
        assert_int_equal(k.journal.ha.term, 3);
        finish(&k);
    }
}

static void test_winner_lost(void **state)
{
    (void)state;
    for (int s = FAILOVER_PROMOTE; s <= FAILOVER_ROUTE; s++) {
        struct fake k;
        set_up(&k, FAILOVER_KIND_FAILOVER);
        failover_lost(&k.f); /* nobody is chosen yet: nothing happens */
        run_to(&k, (enum failover_state)s);
        failover_lost(&k.f);
        step(&k);
        assert_int_equal(failover_now(&k.f), FAILOVER_CLAIM);
        run(&k);
        assert_int_equal(k.verdict, ENDED);
        assert_int_equal(k.journal.ha.term, 3);
        finish(&k);
    }
}

static void test_others_fail(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_FAILOVER);
    k.fails = FO_REPOINT; /* the others may come later */
    k.code = ERRC_TIMEOUT;
    k.times = 1000;
    run(&k);
    assert_int_equal(k.verdict, ENDED);
    assert_int_equal(k.journal.ha.term, 2);
    finish(&k);
    set_up(&k, FAILOVER_KIND_FAILOVER);
    k.fails = FO_ROUTE; /* tried until it is done */
    k.code = ERRC_UNAVAILABLE;
    k.times = 20;
    run(&k);
    assert_int_equal(k.verdict, ENDED);
    set_up(&k, FAILOVER_KIND_SWITCHOVER);
    k.fails = FO_FENCE; /* then the primary does not answer: a failover */
    k.code = ERRC_TIMEOUT;
    k.times = 1000;
    run(&k);
    assert_int_equal(k.verdict, ENDED);
    finish(&k);
}

static void test_cancel(void **state)
{
    (void)state;
    struct err err = {0};
    struct fake k;
    for (int s = FAILOVER_PLANNED; s <= FAILOVER_PREPARE; s++) {
        set_up(&k, FAILOVER_KIND_SWITCHOVER);
        run_to(&k, (enum failover_state)s);
        assert_int_equal(failover_cancel(&k.f, &err), 0);
        run(&k);
        assert_int_equal(k.journal.state, FAILOVER_CANCELED);
        assert_int_equal(k.journal.ha.term, 1);
        finish(&k);
    }
    set_up(&k, FAILOVER_KIND_SWITCHOVER);
    run_to(&k, FAILOVER_CLAIM);
    assert_int_equal(failover_cancel(&k.f, &err), ERRC_CONFLICT);
    set_up(&k, FAILOVER_KIND_SWITCHOVER);
    k.fails = FO_CHECKPOINT;
    k.code = ERRC_TIMEOUT;
    k.times = 1000;
    run(&k);
    assert_int_equal(k.journal.state, FAILOVER_CANCELED);
    finish(&k);
}

/* Another leader: at whatever action it is noticed, nothing is done any more. */
static void test_deposed(void **state)
{
    (void)state;
    for (int a = 0; a < FO_COUNT; a++)
        for (int conflict = 0; conflict < 2; conflict++) {
            struct fake k;
            if (a == FO_WAIT || a == FO_FETCH || (conflict && a != FO_JOURNAL))
                continue;
            set_up(&k, FAILOVER_KIND_SWITCHOVER);
            k.fails = (enum failover_action)a;
            k.code = conflict ? ERRC_CONFLICT : ERRC_STALE;
            k.times = 1;
            run(&k);
            assert_int_equal(k.verdict, DEPOSED);
            int before = k.traced;
            assert_int_equal(k.trace[before - 1], a);
        }
}

/* ---- resuming ---- */

static void test_resume(void **state)
{
    (void)state;
    struct fake k, after;
    for (int s = FAILOVER_PLANNED; s <= FAILOVER_DONE; s++) {
        set_up(&k, FAILOVER_KIND_FAILOVER);
        if (s == FAILOVER_PREPARE || s == FAILOVER_FENCE || s == FAILOVER_FETCH || s == FAILOVER_LEASE)
            continue;
        run_to(&k, (enum failover_state)s);
        if (s == FAILOVER_DONE)
            run(&k);
        set_up(&after, FAILOVER_KIND_FAILOVER);
        if (k.journal.ha.count == 0) /* nothing was written */
            continue;
        failover_init(&after.f, &after.driver, &k.journal, &k.shard);
        after.traced = 0;
        after.last = failover_now(&after.f);
        failover_start(&after.f, true);
        if (s == FAILOVER_DONE) {
            assert_int_equal(after.traced, 0);
            continue;
        }
        assert_int_equal(after.trace[0], FO_JOURNAL); /* so that nobody else can write it any more */
        run(&after);
        assert_int_equal(after.verdict, ENDED);
        bool chosen = k.journal.state == FAILOVER_CHOSEN, claimed = k.journal.state == FAILOVER_CLAIM;
        assert_int_equal(after.journal.ha.term, claimed ? 3 : 2);
        if (chosen) {
            assert_int_equal(after.f.choice.winner, ha_newest(&k.journal.ha)->primary);
            assert_int_equal(after.journal.ha.epoch, k.journal.ha.epoch);
        }
    }
}

/* ---- the table ---- */

static void test_every_transition_was_walked(void **state)
{
    (void)state;
    struct fake k;
    set_up(&k, FAILOVER_KIND_FAILOVER);
    for (int i = 0; i < FAILOVER_STATE_COUNT; i++)
        for (int j = 0; j < FAILOVER_STATE_COUNT; j++)
            if (i != j && (k.f.sm.table[i].next & SM_NEXT(j)) != 0 && !walked[i][j])
                fail_msg("no test goes from %s to %s", failover_state_name((enum failover_state)i),
                         failover_state_name((enum failover_state)j));
}

static void test_docs(void **state)
{
    (void)state;
    struct fake k;
    struct buf wanted = {0}, docs = {0};
    char chunk[4096];
    set_up(&k, FAILOVER_KIND_FAILOVER);
    buf_printf(&wanted, "```mermaid\nstateDiagram-v2\n    [*] --> planned\n");
    for (int i = 0; i < FAILOVER_STATE_COUNT; i++) {
        const struct sm_state *s = &k.f.sm.table[i];
        for (int j = 0; j < FAILOVER_STATE_COUNT; j++)
            if ((s->next & SM_NEXT(j)) != 0)
                buf_printf(&wanted, "    %s --> %s\n", s->name, k.f.sm.table[j].name);
        if (s->final)
            buf_printf(&wanted, "    %s --> [*]\n", s->name);
    }
    buf_printf(&wanted, "```\n");
    FILE *f = fopen(SHARDHERD_SOURCE_DIR "/docs/high-availability.md", "r");
    assert_non_null(f);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        buf_add(&docs, chunk, n);
    fclose(f);
    if (strstr(buf_text(&docs), buf_text(&wanted)) == NULL)
        fail_msg("docs/high-availability.md lacks the table's diagram:\n%s", buf_text(&wanted));
    buf_free(&docs);
    buf_free(&wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failover),
        cmocka_unit_test(test_switchover),
        cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_lease),
        cmocka_unit_test(test_quorum_comes_late),
        cmocka_unit_test(test_winner_fails),
        cmocka_unit_test(test_winner_lost),
        cmocka_unit_test(test_others_fail),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_deposed),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_every_transition_was_walked),
        cmocka_unit_test(test_docs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
