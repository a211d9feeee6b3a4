#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "balance/split_point.h"
#include "fleet/hash.h"

static uint64_t mix(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void near(double value, double wanted, double off)
{
    if (value < wanted - off || value > wanted + off)
        fail_msg("%g is not %g +- %g", value, wanted, off);
}

/* Exact share of a range among weighted hashes, to compare the summary with. */
static double exact_share(const int64_t *hashes, const uint32_t *weights, size_t count, const struct range *r)
{
    double in = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        all += weights[i];
        in += range_contains(r, hashes[i]) ? weights[i] : 0;
    }
    return in / all;
}

static void test_empty_and_single(void **state)
{
    (void)state;
    struct range whole = {INT64_MIN, INT64_MAX}, half = {0, INT64_MAX};
    struct range_set set = {&whole, 1}, upper = {&half, 1};
    struct split_sample *s = split_sample_new(1, 0, 1);
    struct split_point p;
    split_point_find(s, &set, &p);
    assert_int_equal(p.verdict, SPLIT_NO_DATA);
    split_sample_add(s, -7, 1);
    split_sample_add(s, -7, 1);
    split_point_find(s, &set, &p);
    assert_int_equal(p.verdict, SPLIT_NO_CUT);
    near(p.popular_share, 1, 0);
    assert_true(p.popular_hash == -7);
    split_point_find(s, &upper, &p); /* not its hash */
    assert_int_equal(p.verdict, SPLIT_NO_DATA);
    near(p.popular_share, 0, 0);
    split_sample_free(s);
    split_sample_free(NULL);
}

static void test_extremes(void **state)
{
    (void)state;
    struct range whole = {INT64_MIN, INT64_MAX};
    struct range_set set = {&whole, 1};
    struct split_sample *s = split_sample_new(1, 0, 1);
    struct split_point p;
    split_sample_add(s, INT64_MIN, 1);
    split_sample_add(s, INT64_MAX, 1);
    split_point_find(s, &set, &p);
    assert_int_equal(p.verdict, SPLIT_FOUND);
    assert_true(p.at > INT64_MIN);
    assert_true(p.at == 0 || p.at == -1 || p.at == 1);
    near(p.moved_share, 0.5, 0);
    split_sample_free(s);

    /* two neighbouring hashes: only one cut exists */
    s = split_sample_new(1, 0, 1);
    split_sample_add(s, 41, 1);
    split_sample_add(s, 42, 1);
    split_point_find(s, &set, &p);
    assert_true(p.at == 42);
    split_sample_free(s);
}

/* A million weighted, skewed additions in bounded memory: the share of the part found is nearly exact. */
static void test_large_weighted(void **state)
{
    (void)state;
    size_t count = 1000000;
    int64_t *hashes = calloc(count, sizeof *hashes);
    uint32_t *weights = calloc(count, sizeof *weights);
    assert_non_null(hashes);
    assert_non_null(weights);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        uint64_t random = seed;
        struct split_sample *s = split_sample_new(0, 2000000, seed);
        for (size_t i = 0; i < count; i++) {
            /* three quarters of the writes in the lowest eighth, and those are heavier */
            bool low = mix(&random) % 4 != 0;
            uint64_t u = mix(&random);
            hashes[i] = low ? INT64_MIN + (int64_t)(u >> 3) : (int64_t)u;
            weights[i] = low ? 1 + (uint32_t)(mix(&random) % 9) : 1;
            split_sample_tick(s, i * 2);
            split_sample_add(s, hashes[i], weights[i]);
        }
        struct range whole = {INT64_MIN, INT64_MAX};
        struct range_set set = {&whole, 1};
        struct split_point p;
        split_point_find(s, &set, &p);
        assert_int_equal(p.verdict, SPLIT_FOUND);
        assert_int_equal(p.count, count);
        near(p.moved_share, 0.5, 0.01);
        near(exact_share(hashes, weights, count, &p.moved), p.moved_share, 0.005);
        assert_true(p.at < INT64_MIN + (INT64_MAX / 4)); /* not the middle of the hashes */
        assert_true(p.moved.lo == INT64_MIN);            /* of two even parts the narrow one goes */
        assert_true(p.halves);
        assert_false(p.point_moves);
        assert_false(p.keys_change);
        assert_true(p.popular_share < 0.001);
        split_sample_free(s);
    }
    free(hashes);
    free(weights);
}

struct popular_case {
    unsigned percent;
    bool popular;
};

static void test_popular(void **state)
{
    (void)state;
    static const struct popular_case cases[] = {{0, false}, {5, false}, {20, false}, {30, true}, {61, true}};
    struct range whole = {INT64_MIN, INT64_MAX};
    struct range_set set = {&whole, 1};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        uint64_t random = 7 + c;
        struct split_sample *s = split_sample_new(0, 2 * 20000, 3);
        int64_t key = hash_int8(4711);
        for (unsigned i = 0; i < 20000; i++) {
            split_sample_tick(s, i * 2);
            split_sample_add(s, mix(&random) % 100 < cases[c].percent ? key : (int64_t)mix(&random), 1);
        }
        struct split_point p;
        split_point_find(s, &set, &p);
        assert_int_equal(p.popular_share >= SPLIT_POPULAR, cases[c].popular);
        if (cases[c].percent >= 5) {
            assert_true(p.popular_hash == key);
            near(p.popular_share, cases[c].percent / 100.0, 0.02);
        }
        assert_false(p.keys_change);
        split_sample_free(s);
    }
}

/* A shard of several ranges gives away one contiguous piece of one of them. */
struct ranges_case {
    const char *name;
    struct range ranges[5];
    size_t count;
    double weight[5]; /* of each range, even inside */
    size_t from;      /* the range the piece is of */
    double share;
    bool whole;
};

#define R(i)                                                                                                 \
    {                                                                                                        \
        (i) * 1000000, (i)*1000000 + 499999                                                                  \
    }
static const struct ranges_case ranges_cases[] = {
    {"half of the heavy one", {R(0), R(2)}, 2, {80, 20}, 0, 0.5, false},
    {"the heavy one is the second", {R(0), R(2)}, 2, {10, 90}, 1, 0.5, false},
    {"one of two even ones, whole", {R(0), R(2)}, 2, {50, 50}, 0, 0.5, true},
    {"the greatest of three, whole", {R(0), R(2), R(4)}, 3, {30, 40, 30}, 1, 0.4, true},
    {"five even ones: a fifth at most",
     {R(0), R(2), R(4), R(6), R(8)},
     5,
     {20, 20, 20, 20, 20},
     0,
     0.2,
     true},
};

static void test_ranges(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof ranges_cases / sizeof *ranges_cases; c++) {
        struct ranges_case t = ranges_cases[c];
        struct range_set set = {t.ranges, t.count};
        struct split_sample *s = split_sample_new(0, 0, 1);
        for (size_t i = 0; i < t.count; i++)
            for (int n = 0; n < (int)t.weight[i] * 10; n++) /* exact weights, spread evenly */
                split_sample_add(s, t.ranges[i].lo + n * (int64_t)(499999 / (t.weight[i] * 10)), 1);
        split_sample_add(s, -5, 100000); /* of another shard: not counted */
        struct split_point p;
        split_point_find(s, &set, &p);
        if (p.verdict != SPLIT_FOUND)
            fail_msg("%s: verdict %d", t.name, (int)p.verdict);
        near(p.moved_share, t.share, 0.006);
        assert_true(range_set_contains_range(&set, &p.moved));
        bool whole =
            range_set_equal(&(struct range_set){&p.moved, 1}, &(struct range_set){&t.ranges[t.from], 1});
        if (t.whole)
            assert_true(whole);
        else
            assert_true(range_contains(&t.ranges[t.from], p.moved.lo) && !whole);
        split_sample_free(s);
    }
}

enum motion { STILL, KEYS_CHANGE, SWEEP };

static void fill_motion(struct split_sample *s, enum motion motion, uint64_t seed)
{
    uint64_t random = seed;
    for (unsigned i = 0; i < 4000; i++) {
        split_sample_tick(s, i);
        int64_t hash = (int64_t)mix(&random);
        if (motion == KEYS_CHANGE && mix(&random) % 10 < 4)
            hash = hash_int8((int64_t)(i / 1000) * 100 +
                             (int64_t)(mix(&random) % 3)); /* three hot keys of the second */
        if (motion == SWEEP)                               /* a hot range that walks through the hashes */
            hash = INT64_MIN + (int64_t)((uint64_t)i << 52) + (int64_t)(mix(&random) >> 8);
        split_sample_add(s, hash, 1);
    }
}

static void test_motion(void **state)
{
    (void)state;
    struct range whole = {INT64_MIN, INT64_MAX};
    struct range_set set = {&whole, 1};
    for (int motion = STILL; motion <= SWEEP; motion++)
        for (uint64_t seed = 1; seed <= 20; seed++) {
            struct split_sample *s = split_sample_new(0, 4000, seed);
            fill_motion(s, (enum motion)motion, seed);
            struct split_point p;
            split_point_find(s, &set, &p);
            assert_true(p.halves);
            assert_int_equal(p.keys_change, motion == KEYS_CHANGE);
            assert_int_equal(p.point_moves, motion == SWEEP);
            split_sample_free(s);
        }
}

/* Chance alone must not look like motion: few writes, many seeds. */
static void test_few_are_not_motion(void **state)
{
    (void)state;
    struct range whole = {INT64_MIN, INT64_MAX};
    struct range_set set = {&whole, 1};
    unsigned moves = 0;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        uint64_t random = seed;
        struct split_sample *s = split_sample_new(0, 120, seed);
        for (unsigned i = 0; i < 120; i++) {
            split_sample_tick(s, i);
            split_sample_add(s, (int64_t)mix(&random), 1);
        }
        struct split_point p;
        split_point_find(s, &set, &p);
        moves += p.point_moves || p.keys_change;
        split_sample_free(s);
    }
    assert_true(moves <= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_and_single),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_large_weighted),
        cmocka_unit_test(test_popular),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_motion),
        cmocka_unit_test(test_few_are_not_motion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
