#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "load/load_keys.h"

static const enum key_type types[] = {KEY_SMALLINT, KEY_INTEGER, KEY_BIGINT, KEY_TEXT, KEY_VARCHAR, KEY_UUID};
#define TYPES (sizeof types / sizeof types[0])

static void test_known_keys(void **state)
{
    (void)state;
    char text[LOAD_KEY_SIZE];
    assert_int_equal(load_key_format(KEY_BIGINT, 0, text), 1);
    assert_string_equal(text, "1");
    load_key_format(KEY_INTEGER, 199999, text);
    assert_string_equal(text, "200000");
    load_key_format(KEY_TEXT, 17, text);
    assert_string_equal(text, "customer-00000017");
    assert_int_equal(load_key_format(KEY_UUID, 0x1234, text), 36);
    assert_string_equal(text + 19, "8000-000000001234");
    assert_int_equal(text[14], '8');
}

static void test_there_and_back(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {0, 1, 9, 10, 32765, 32766, 99999, 12345678};
    for (size_t t = 0; t < TYPES; t++) {
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            char text[LOAD_KEY_SIZE];
            uint32_t back = 77;
            int64_t hash;
            struct err err;
            if (numbers[i] >= load_key_limit(types[t]))
                continue;
            size_t length = load_key_format(types[t], numbers[i], text);
            assert_int_equal(length, strlen(text));
            assert_true(load_key_parse(types[t], text, length, &back));
            assert_int_equal(back, numbers[i]);
            /* the hash is the one every client computes from the text */
            assert_int_equal(hash_key(types[t], text, length, &hash, &err), 0);
            assert_int_equal(load_key_hash(types[t], numbers[i]), hash);
        }
    }
}

static void test_foreign_keys(void **state)
{
    (void)state;
    static const struct {
        enum key_type type;
        const char *text;
    } cases[] = {
        {KEY_BIGINT, "0"},
        {KEY_BIGINT, "-5"},
        {KEY_BIGINT, ""},
        {KEY_BIGINT, "1x"},
        {KEY_BIGINT, "007"},
        {KEY_BIGINT, "99999999999"},
        {KEY_BIGINT, "9999999999999999999999"},
        {KEY_TEXT, "customer-17"},
        {KEY_TEXT, "Customer-00000017"},
        {KEY_TEXT, "customer-000000017"},
        {KEY_TEXT, ""},
        {KEY_UUID, "00000000-0000-8000-8000-000000000001"},
        {KEY_UUID, "00000000-0000-8000-8000-00000000000"},
        {KEY_UUID, "zzzzzzzz-0000-8000-8000-00000000000z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t number = 77;
        assert_false(load_key_parse(cases[i].type, cases[i].text, strlen(cases[i].text), &number));
        assert_int_equal(number, 77);
    }
}

static void test_random_is_even(void **state)
{
    (void)state;
    struct load_random random = {.state = 1};
    unsigned counts[10] = {0};
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        counts[load_random_below(&random, 10)]++;
        double unit = load_random_unit(&random);
        assert_true(unit >= 0 && unit < 1);
        sum += unit;
    }
    for (int i = 0; i < 10; i++)
        assert_in_range(counts[i], 9500, 10500);
    assert_true(sum > 49500 && sum < 50500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_keys),
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_foreign_keys),
        cmocka_unit_test(test_random_is_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
