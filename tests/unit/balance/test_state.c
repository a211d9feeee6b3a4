/* What balance_decide() remembers between calls: figures, refusals that stand, decisions that wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "world.h"

/* Half a minute of calm, then these loads; seconds in the log count from here. */
static struct world *onset(enum stream stream, size_t shards, const double *load)
{
    struct world *w = world_new(shards);
    world_run(w, 30);
    assert_int_equal(w->log.length, 0);
    w->epoch = w->second;
    w->stream[0] = stream;
    for (size_t i = 0; i < shards; i++)
        w->load[i] = load[i];
    return w;
}

static void test_figures(void **state)
{
    (void)state;
    struct world *w = onset(EVEN, 2, (double[]){1500, 100});
    world_run(w, 10);
    assert_int_equal(w->changes.count, 1);
    const struct balance_change *change = &w->changes.items[0];
    assert_int_equal(change->kind, BALANCE_SPLIT);
    assert_true(change->act);
    assert_true(change->load > 1499 && change->load < 1501);
    assert_true(change->kept + change->moved > 1499 && change->kept + change->moved < 1501);
    assert_true(change->moved > 600 && change->moved < 900);
    assert_true(range_set_contains_range(&w->sets[0], &change->range));
    bool upper = change->range.hi == w->ranges[0][0].hi && change->range.lo == change->split_at;
    bool lower = change->range.lo == w->ranges[0][0].lo && change->range.hi == change->split_at - 1;
    assert_true(upper || lower);
    const struct balance_shard_state *s = balance_state_find(w->state, "s1");
    assert_int_equal(s->phase, BALANCE_DECIDED);
    assert_string_equal(s->decision.sentence, change->sentence);
    assert_false(balance_wants_stream(w->state, "s1", 0));
    assert_null(balance_state_find(w->state, "s9"));
    assert_false(balance_wants_stream(w->state, "s9", 0));
    world_free(w);
}

static void test_isolation(void **state)
{
    (void)state;
    struct world *w = onset(HOT_KEY, 2, (double[]){1500, 100});
    world_run(w, 10);
    assert_int_equal(w->changes.count, 2);
    const struct balance_change *offer = &w->changes.items[1];
    assert_int_equal(offer->kind, BALANCE_ISOLATE);
    assert_false(offer->act);
    assert_true(offer->range.lo == INT64_MIN + 12345 && offer->range.hi == offer->range.lo);
    assert_true(offer->moved > 850 && offer->moved < 980);
    world_free(w);
}

/* The refusal is kept while it stands, said once, and history afterwards. */
static void test_refusal_kept(void **state)
{
    (void)state;
    struct world *w = onset(HOT_KEY, 2, (double[]){1500, 100});
    world_run(w, 2000); /* re-sampled after 1, 2, 4, 8, 8 ... minutes, each time with the same outcome */
    const struct balance_refusal *r = &balance_state_find(w->state, "s1")->refusal;
    assert_int_equal(r->rule, BALANCE_R_POPULAR_KEY);
    assert_true(r->active);
    assert_true(r->last_ns - r->since_ns > 1000 * S);
    unsigned samples = 0, refusals = 0;
    for (const char *at = buf_text(&w->log); (at = strstr(at, "sample R20")) != NULL; at++)
        samples++;
    for (const char *at = buf_text(&w->log); (at = strstr(at, "refuse R7")) != NULL; at++)
        refusals++;
    assert_in_range(samples, 5, 7);
    assert_int_equal(refusals, 1);
    w->load[0] = 100;
    world_run(w, 5);
    r = &balance_state_find(w->state, "s1")->refusal;
    assert_false(r->active);
    assert_int_equal(r->rule, BALANCE_R_POPULAR_KEY);
    world_free(w);
}

/* Another popular key each time it is looked at is load that moves, even if each sample looks still. */
static void test_another_popular_key(void **state)
{
    (void)state;
    struct world *w = onset(HOT_KEY, 2, (double[]){1500, 100});
    world_run(w, 20);
    w->ranges[0][0].lo += 1; /* the hot key is 12345 above it */
    world_run(w, 90);
    assert_non_null(strstr(buf_text(&w->log), "refuse R9 s1"));
    world_free(w);
}

/* A decision whose operation never shows is forgotten; a move that ended, failed or not, starts the
 * cool-down.
 */
static void test_after_the_decision(void **state)
{
    (void)state;
    struct world *w = onset(EVEN, 2, (double[]){1500, 100});
    world_run(w, 39);
    assert_string_equal(buf_text(&w->log), "sample R20 s1 @7, split R1 s1 @10");
    world_run(w, 6);
    assert_string_equal(buf_text(&w->log),
                        "sample R20 s1 @7, split R1 s1 @10, sample R20 s1 @40, split R1 s1 @43");
    w->shards[0].operation = "op-1";
    world_run(w, 100);
    w->shards[0].operation = NULL;
    w->shards[0].last_move_ns = w->facts.now_ns;
    buf_reset(&w->log);
    world_run(w, 590);
    assert_non_null(strstr(buf_text(&w->log), "refuse R6 s1"));
    assert_null(strstr(buf_text(&w->log), "sample"));
    world_run(w, 20);
    assert_non_null(strstr(buf_text(&w->log), "split R1 s1"));
    world_free(w);
}

/* What moves nothing (the making of the shard, a dry run) starts no cool-down when it ends. */
static void test_no_cool_down_without_a_move(void **state)
{
    (void)state;
    struct world *w = onset(EVEN, 2, (double[]){1500, 100});
    w->shards[0].operation = "op-1";
    world_run(w, 3);
    w->shards[0].operation = NULL;
    world_run(w, 36);
    assert_string_equal(buf_text(&w->log), "sample R20 s1 @7, split R1 s1 @10");
    world_free(w);
}

/* A sample of an earlier listening is not looked at. */
static void test_stale_sample(void **state)
{
    (void)state;
    struct world *w = onset(NO_STREAM, 2, (double[]){1500, 100});
    world_run(w, 8);
    w->samples[0] = split_sample_new(w->facts.now_ns - 30 * S, 3 * S, 1);
    w->shards[0].sample = w->samples[0];
    for (int i = 0; i < 1000; i++)
        split_sample_add(w->samples[0], world_hash_in(w, &w->ranges[0][0]), 1);
    split_sample_close(w->samples[0]);
    world_run(w, 7);
    assert_string_equal(buf_text(&w->log), "sample R20 s1 @7");
    world_free(w);
}

/* A shard that leaves the snapshot is forgotten; an empty one is left alone. */
static void test_shards_come_and_go(void **state)
{
    (void)state;
    struct world *w = onset(EVEN, 3, (double[]){1500, 100, 1800});
    w->sets[2].count = 0;
    world_run(w, 12);
    assert_null(strstr(buf_text(&w->log), "s3"));
    assert_non_null(balance_state_find(w->state, "s3"));
    w->facts.shard_count = 2;
    world_run(w, 1);
    assert_null(balance_state_find(w->state, "s3"));
    assert_non_null(balance_state_find(w->state, "s1"));
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_isolation),
        cmocka_unit_test(test_refusal_kept),
        cmocka_unit_test(test_another_popular_key),
        cmocka_unit_test(test_after_the_decision),
        cmocka_unit_test(test_no_cool_down_without_a_move),
        cmocka_unit_test(test_stale_sample),
        cmocka_unit_test(test_shards_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
