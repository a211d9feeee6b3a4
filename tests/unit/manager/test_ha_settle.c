/* What a promoted instance is given while a move of its shard is at its fence: never a range that may be
 * accepted elsewhere, and never less than what nobody else can have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "manager/ha_settle.h"

static struct range low = {INT64_MIN, -1}, high = {0, INT64_MAX}, all = {INT64_MIN, INT64_MAX};

/* The move gives `high` from s1, which was of epoch 3, to s2, of epoch 2. */
static const struct move_claim fence = {
    .id = "m", .source = "s1", .target = "s2", .range = {0, INT64_MAX}, .source_epoch = 3, .target_epoch = 2};

static void check(const char *name, const struct range *listed, uint64_t listed_epoch, bool left,
                  bool other_has, const struct range *wanted, uint64_t wanted_epoch)
{
    char shard_name[] = "s1";
    struct routing_shard shard = {.name = shard_name, .epoch = listed_epoch};
    struct move_claim claim = fence;
    struct range_set ranges = {0};
    struct err err = {0};
    uint64_t epoch = 0;
    shard_name[1] = name[1];
    shard.ranges = (struct range_set){(struct range *)(uintptr_t)listed, listed != NULL ? 1 : 0};
    claim.left = left;
    assert_int_equal(ha_settle_owned(&shard, &claim, other_has, &ranges, &epoch, &err), 0);
    assert_int_equal(epoch, wanted_epoch);
    assert_int_equal(ranges.count, wanted != NULL ? 1 : 0);
    if (wanted != NULL)
        assert_true(ranges.items[0].lo == wanted->lo && ranges.items[0].hi == wanted->hi);
    range_set_free(&ranges);
}

static void test_source(void **state)
{
    (void)state;
    check("s1", &all, 3, false, false, &all, 3); /* the table was not written yet */
    check("s1", &low, 4, false, false, &all, 3); /* it was, and the fence may not be committed */
    check("s1", &low, 4, true, false, &low, 4);  /* it is committed: we saw it */
    check("s1", &low, 4, false, true, &low, 4);  /* it must have been: the target was opened */
}

static void test_target(void **state)
{
    (void)state;
    check("s2", NULL, 2, false, false, NULL, 2);
    check("s2", &high, 4, false, false, NULL, 2); /* it is opened again, if it was */
    check("s2", &high, 4, true, false, NULL, 2);
}

static void test_contradiction(void **state)
{
    char name[] = "s1";
    struct routing_shard shard = {.name = name, .epoch = 3, .ranges = {&all, 1}};
    struct range_set ranges = {0};
    struct err err = {0};
    uint64_t epoch;
    (void)state;
    assert_int_equal(ha_settle_owned(&shard, &fence, true, &ranges, &epoch, &err), ERRC_CONFLICT);
    range_set_free(&ranges);
}

static void test_no_move(void **state)
{
    char name[] = "s1";
    struct routing_shard shard = {.name = name, .epoch = 9, .ranges = {&low, 1}};
    struct range_set ranges = {0};
    struct err err = {0};
    uint64_t epoch;
    (void)state;
    assert_int_equal(ha_settle_owned(&shard, NULL, false, &ranges, &epoch, &err), 0);
    assert_int_equal(epoch, 9);
    assert_true(range_set_equal(&ranges, &shard.ranges));
    range_set_free(&ranges);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_source),
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_contradiction),
        cmocka_unit_test(test_no_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
