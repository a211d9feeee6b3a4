/* The steps of the sync set: in which order what is recorded and what is brought about. */
#include "health/ha_world.h"

static struct ha_sync_step plan(const struct ha_shard *s, const char *name, enum ha_sync_do what, int rule)
{
    struct ha_sync_step step;
    ha_sync_plan(s, NOW, &step);
    assert_sentence(name, step.rule, rule, step.sentence);
    if (step.what != what)
        fail_msg("%s: %d: %s", name, step.what, step.sentence);
    return step;
}

static void assert_newest(const struct ha_record *r, unsigned count, ha_set members, unsigned k)
{
    assert_int_equal(r->count, count);
    assert_int_equal(ha_newest(r)->members, members);
    assert_int_equal(ha_newest(r)->k, k);
    assert_int_equal(ha_newest(r)->epoch, r->epoch);
}

static void stops_streaming(struct ha_shard *s, int i, uint64_t ago)
{
    s->instances[i].streams = false;
    s->instances[i].streams_ns = NOW - ago;
    s->instances[i].flushed = 0;
}

static void takes_effect(struct ha_shard *s, uint64_t lsn)
{
    s->instances[0].config_epoch = s->record.epoch;
    s->instances[0].config_lsn = lsn;
}

/* Two instances: the exclusion is in the record before the primary goes on alone, and readmission counts
 * last. */
static void test_two(void **state)
{
    (void)state;
    struct ha_shard s = calm(2);
    (void)plan(&s, "calm", HA_SYNC_NONE, HA_F_SYNC_KEPT);
    stops_streaming(&s, 1, 2 * S - 1);
    (void)plan(&s, "a moment", HA_SYNC_NONE, HA_F_SYNC_KEPT);
    stops_streaming(&s, 1, 2 * S);
    s.record = plan(&s, "exclude", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_newest(&s.record, 1, 0, 0); /* weaker: the older one is implied */
    assert_false(ha_all_satisfied(&s.record, B, NULL));
    (void)plan(&s, "then it may go on", HA_SYNC_APPLY, HA_F_SYNC_APPLY);
    takes_effect(&s, s.lsn);
    (void)plan(&s, "alone", HA_SYNC_NONE, HA_F_SYNC_KEPT);

    s.lsn += 100 << 20;
    s.instances[1].streams = true;
    s.instances[1].flushed = s.lsn - (1 << 20) - 1;
    (void)plan(&s, "it catches up", HA_SYNC_NONE, HA_F_SYNC_KEPT);
    s.instances[1].flushed = s.lsn - (1 << 20);
    s.record = plan(&s, "readmit", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_newest(&s.record, 2, B, 1);
    assert_false(ha_all_satisfied(&s.record, B, NULL)); /* not yet */
    (void)plan(&s, "apply", HA_SYNC_APPLY, HA_F_SYNC_APPLY);
    takes_effect(&s, s.lsn);
    (void)plan(&s, "it still lacks something", HA_SYNC_NONE, HA_F_SYNC_AWAIT);
    s.instances[1].flushed = s.lsn;
    s.record = plan(&s, "settled", HA_SYNC_RECORD, HA_F_SYNC_SETTLED).record;
    assert_newest(&s.record, 1, B, 1);
    assert_true(ha_all_satisfied(&s.record, B, NULL));
}

/* Three, required: it shrinks to the one that is left, and not to nobody. */
static void test_required(void **state)
{
    (void)state;
    struct ha_shard s = calm(3);
    stops_streaming(&s, 2, 9 * S);
    s.record = plan(&s, "c leaves", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_newest(&s.record, 2, B, 1);
    assert_false(ha_all_satisfied(&s.record, B, NULL)); /* c alone may have what was acknowledged before */
    (void)plan(&s, "apply", HA_SYNC_APPLY, HA_F_SYNC_APPLY);
    takes_effect(&s, s.lsn);
    s.record = plan(&s, "settled", HA_SYNC_RECORD, HA_F_SYNC_SETTLED).record;
    assert_newest(&s.record, 1, B, 1);
    stops_streaming(&s, 1, 9 * S);
    (void)plan(&s, "nobody is left", HA_SYNC_NONE, HA_F_SYNC_KEPT);
    s.instances[2].streams = true;
    s.instances[2].flushed = s.lsn;
    s.record = plan(&s, "c instead of b", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_newest(&s.record, 2, C, 1);
    assert_false(ha_all_satisfied(&s.record, C, NULL));
}

static void test_held(void **state)
{
    (void)state;
    struct ha_shard calm_one = calm(3), s;
    stops_streaming(&calm_one, 2, 9 * S);
    s = calm_one;
    s.maintenance = true;
    (void)plan(&s, "maintenance", HA_SYNC_NONE, HA_F_MAINTENANCE);
    s = calm_one;
    s.record.term = 2;
    (void)plan(&s, "failover", HA_SYNC_NONE, HA_F_UNDER_WAY);
    s = calm_one;
    s.instances[0].heard_ns = NOW - 3 * S;
    (void)plan(&s, "silent", HA_SYNC_NONE, HA_F_SYNC_KEPT);
    s = calm_one;
    s.instances[0].ended_ns = NOW - S;
    (void)plan(&s, "down", HA_SYNC_NONE, HA_F_SYNC_KEPT);
    s = calm_one;
    while (s.record.count < HA_CONFIGS_MAX)
        s.record.configs[s.record.count++] = s.record.configs[0];
    (void)plan(&s, "no room", HA_SYNC_RECORD, HA_F_SYNC_SETTLED);
}

static void test_tags(void **state)
{
    (void)state;
    struct ha_shard s = calm(3);
    s.instances[2].no_sync = true;
    s.record = plan(&s, "nosync", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_newest(&s.record, 2, B, 1);
    s = calm(3);
    s.policy.k = 2;
    s.record = plan(&s, "k = 2", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_newest(&s.record, 2, B | C, 2);
    s = calm(3);
    s.policy.durability = HA_ASYNC;
    s.record = plan(&s, "async", HA_SYNC_RECORD, HA_F_SYNC_CHANGE).record;
    assert_int_equal(s.record.durability, HA_ASYNC);
    assert_newest(&s.record, 1, B | C, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_required),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_tags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
