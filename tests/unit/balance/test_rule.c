/* The table of rules: numbers, names, and docs/decisions.md says the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "balance/rule.h"
#include "base/buf.h"

static void test_table(void **state)
{
    (void)state;
    for (int i = 1; i < BALANCE_R_COUNT; i++) {
        const struct balance_rule_info *info = balance_rule_info(i);
        assert_non_null(info);
        assert_int_equal(info->number, i);
        assert_string_equal(info->name, balance_rule_name(i));
        assert_true(strspn(info->name, "abcdefghijklmnopqrstuvwxyz-") == strlen(info->name));
        char number[8];
        snprintf(number, sizeof number, "R%d", i);
        const char *at = strstr(info->sentence, number);
        assert_non_null(at);
        assert_true(at[strlen(number)] == ')' || at[strlen(number)] == ':');
        for (int j = 1; j < i; j++)
            assert_string_not_equal(info->name, balance_rule_name(j));
    }
    assert_null(balance_rule_info(0));
    assert_null(balance_rule_info(-1));
    assert_null(balance_rule_info(BALANCE_R_COUNT));
    assert_string_equal(balance_rule_name(BALANCE_R_COUNT), "unknown");
}

static void test_render(void **state)
{
    (void)state;
    struct words words = {0};
    char out[BALANCE_SENTENCE_SIZE];
    words_set(&words, "shard", "s%d", 9);
    words_set(&words, "shard", "s%d", 3);
    words_set(&words, "share", "%d %%", 61);
    words_set(&words, "what", "%s", "writes");
    balance_rule_render(BALANCE_R_POPULAR_KEY, &words, out);
    assert_string_equal(out, "shard s3 is hot, not split because R7: one key carries 61 % of its writes");
    words.count = 0;
    balance_rule_render(BALANCE_R_OPERATION_RUNS, &words, out); /* a word without a text shows */
    assert_string_equal(out, balance_rule_info(BALANCE_R_OPERATION_RUNS)->sentence);
    balance_rule_render(0, &words, out);
    assert_string_equal(out, "");
}

/* Longer than its place: cut, never written past. */
static void test_render_long(void **state)
{
    (void)state;
    struct words words = {0};
    char out[BALANCE_SENTENCE_SIZE + 1], text[200];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    out[BALANCE_SENTENCE_SIZE] = '!';
    static const char *const keys[] = {"shard", "load",  "threshold", "compare",
                                       "time",  "split", "kept",      "moved"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        words_set(&words, keys[i], "%s", text);
    balance_rule_render(BALANCE_R_SPLIT, &words, out);
    assert_int_equal(strlen(out), BALANCE_SENTENCE_SIZE - 1);
    assert_int_equal(out[BALANCE_SENTENCE_SIZE], '!');
    for (int i = 0; i < 2 * WORDS_MAX; i++)
        words_set(&words, i % 2 == 0 ? "a" : "b", "%s", text);
    assert_true(words.count <= WORDS_MAX);
}

static struct buf read_docs(void)
{
    struct buf b = {0};
    char chunk[4096];
    FILE *f = fopen(SHARDHERD_SOURCE_DIR "/docs/decisions.md", "r");
    assert_non_null(f);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        buf_add(&b, chunk, n);
    fclose(f);
    return b;
}

static void test_docs(void **state)
{
    (void)state;
    struct buf docs = read_docs();
    int headings = 0;
    for (const char *at = buf_text(&docs); (at = strstr(at, "\n### R")) != NULL; at++)
        headings++;
    assert_int_equal(headings, BALANCE_R_COUNT - 1);
    for (int i = 1; i < BALANCE_R_COUNT; i++) {
        const struct balance_rule_info *info = balance_rule_info(i);
        struct buf wanted = {0};
        buf_printf(&wanted, "\n### R%d %s\n\n> %s\n\n", i, info->name, info->sentence);
        const char *at = strstr(buf_text(&docs), buf_text(&wanted));
        if (at == NULL)
            fail_msg("docs/decisions.md lacks%s", buf_text(&wanted));
        else if (strlen(at + wanted.length) < 40 || at[wanted.length] == '#')
            fail_msg("docs/decisions.md does not say what to do about R%d", i);
        buf_free(&wanted);
    }
    buf_free(&docs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_render_long),
        cmocka_unit_test(test_docs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
