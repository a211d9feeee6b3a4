#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "load/load_skew.h"

#define DRAWS 200000

static struct load_skew make(const char *text, uint32_t count, const struct range_set *hot)
{
    struct load_skew_spec spec;
    struct load_skew skew;
    struct err err = {0};
    assert_int_equal(load_skew_parse(text, &spec, &err), 0);
    assert_int_equal(load_skew_init(&skew, &spec, KEY_BIGINT, count, hot, &err), 0);
    return skew;
}

/* how often each customer is drawn */
static unsigned *draw_all(struct load_skew *skew)
{
    unsigned *counts = calloc(skew->count, sizeof *counts);
    struct load_random random = {.state = 42};
    for (int i = 0; i < DRAWS; i++) {
        uint32_t number = load_skew_draw(skew, &random);
        assert_true(number < skew->count);
        counts[number]++;
    }
    return counts;
}

static int descending(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void test_uniform(void **state)
{
    (void)state;
    struct load_skew skew = make("uniform", 100, NULL);
    unsigned *counts = draw_all(&skew);
    for (int i = 0; i < 100; i++)
        assert_in_range(counts[i], DRAWS / 100 * 85 / 100, DRAWS / 100 * 115 / 100);
    free(counts);
    load_skew_fini(&skew);
}

/* the share of rank k must be proportional to k^-theta */
static void test_zipf_shape(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double second, tenth; /* of the first: 2^-theta, 10^-theta */
    } cases[] = {
        {"zipf:0.5", 0.7071, 0.3162},
        {"zipf:0.99", 0.5035, 0.1023},
        {"zipf:1", 0.5, 0.1},
        {"zipf:1.5", 0.3536, 0.0316},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct load_skew skew = make(cases[i].text, 1000, NULL);
        unsigned *counts = draw_all(&skew);
        qsort(counts, 1000, sizeof *counts, descending);
        double first = counts[0];
        assert_true(counts[1] / first > cases[i].second * 0.9 && counts[1] / first < cases[i].second * 1.1);
        assert_true(counts[9] / first > cases[i].tenth * 0.8 && counts[9] / first < cases[i].tenth * 1.2);
        free(counts);
        load_skew_fini(&skew);
    }
}

/* neighbours in rank are not neighbours in number, and every customer can be drawn */
static void test_zipf_reaches_all(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 3, 10, 64, 97, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct load_skew skew = make("zipf:0.2", sizes[i], NULL);
        unsigned *counts = draw_all(&skew);
        for (uint32_t n = 0; n < sizes[i]; n++)
            assert_true(counts[n] > 0);
        free(counts);
        load_skew_fini(&skew);
    }
}

static double share_inside(struct load_skew *skew, const struct range *range)
{
    unsigned *counts = draw_all(skew);
    double inside = 0;
    for (uint32_t n = 0; n < skew->count; n++)
        inside += range_contains(range, load_key_hash(KEY_BIGINT, n)) ? counts[n] : 0;
    free(counts);
    return inside / DRAWS;
}

static void test_hot_range(void **state)
{
    (void)state;
    struct range quarter = {INT64_MIN, INT64_MIN / 2 - 1};
    struct load_skew skew = make("hot-range=-9223372036854775808..-4611686018427387905:0.8", 10000, NULL);
    for (uint32_t i = 0; i < skew.hot_count; i++)
        assert_true(range_contains(&quarter, load_key_hash(KEY_BIGINT, skew.hot[i])));
    assert_in_range(skew.hot_count, 2300, 2700);
    double share = share_inside(&skew, &quarter); /* 0.8 and a quarter of the rest */
    assert_true(share > 0.84 && share < 0.86);
    load_skew_fini(&skew);
}

static void test_hot_shard(void **state)
{
    (void)state;
    struct range two[] = {{-100, INT64_MAX / 4}, {INT64_MAX / 2, INT64_MAX}};
    struct range_set set = {.items = two, .count = 2};
    struct load_skew skew = make("hot-shard=s2:1", 10000, &set);
    assert_string_equal(skew.spec.shard, "s2");
    unsigned *counts = draw_all(&skew);
    for (uint32_t n = 0; n < skew.count; n++)
        assert_int_equal(counts[n] > 0 && !range_set_contains(&set, load_key_hash(KEY_BIGINT, n)), 0);
    free(counts);
    load_skew_fini(&skew);
}

static void test_hot_key(void **state)
{
    (void)state;
    struct load_skew skew = make("hot-key=17:0.6", 1000, NULL);
    unsigned *counts = draw_all(&skew);
    assert_in_range(counts[17], DRAWS * 59 / 100, DRAWS * 61 / 100);
    free(counts);
    load_skew_fini(&skew);
}

static void test_impossible(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "zipf",
        "zipf:0",
        "zipf:x",
        "hot-shard=s1",
        "hot-shard=S!:0.5",
        "hot-key=1:0",
        "hot-key=1:1.1",
        "hot-key=x:1",
        "hot-range=5..1:1",
        "hot-range=5:0.5",
        "hot",
    };
    struct load_skew_spec spec = {.kind = SKEW_HOT_KEY, .number = 5, .share = 1};
    struct load_skew skew;
    struct err err = {0};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(load_skew_parse(wrong[i], &spec, &err), ERRC_INVALID);
        assert_non_null(strstr(err.message, "skew"));
    }
    assert_int_equal(load_skew_init(&skew, &spec, KEY_BIGINT, 5, NULL, &err), ERRC_INVALID);
    assert_int_equal(load_skew_parse("hot-range=0..1:1", &spec, &err), 0);
    assert_int_equal(load_skew_init(&skew, &spec, KEY_BIGINT, 5, NULL, &err), ERRC_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform),          cmocka_unit_test(test_zipf_shape),
        cmocka_unit_test(test_zipf_reaches_all), cmocka_unit_test(test_hot_range),
        cmocka_unit_test(test_hot_shard),        cmocka_unit_test(test_hot_key),
        cmocka_unit_test(test_impossible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
