/* Flags and words of a command line, and what is suggested for a wrong one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/session.h"

static const struct args_flag own[] = {{"wait", 'w', NULL, "", NULL}, {"at", 0, "HASH", "", NULL}, {0}};
static const struct args_flag common[] = {
    {"output", 'o', "FORMAT", "", NULL}, {"quiet", 'q', NULL, "", NULL}, {0}};
static const struct args_flag *const tables[] = {own, common, NULL};

#define PARSE(args, err, ...)                                                                                \
    args_parse((int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)), (char *[]){__VA_ARGS__}, tables,     \
               args, err)

static void test_flags_and_words(void **state)
{
    struct args a;
    struct err err = {0};
    (void)state;
    assert_int_equal(PARSE(&a, &err, "split", "s1", "--at", "-5", "-o", "json", "s2", "--wait"), 0);
    assert_int_equal(a.word_count, 2);
    assert_string_equal(a.words[0], "s1");
    assert_string_equal(a.words[1], "s2");
    assert_string_equal(args_value(&a, "at"), "-5");
    assert_string_equal(args_value(&a, "output"), "json");
    assert_true(args_has(&a, "wait"));
    assert_false(args_has(&a, "quiet"));
}

static void test_other_spellings(void **state)
{
    struct args a;
    struct err err = {0};
    (void)state;
    assert_int_equal(PARSE(&a, &err, "x", "--at=7", "-wqojson"), 0);
    assert_string_equal(args_value(&a, "at"), "7");
    assert_string_equal(args_value(&a, "output"), "json");
    assert_true(args_has(&a, "wait") && args_has(&a, "quiet"));
    assert_int_equal(PARSE(&a, &err, "x", "--at=", "-o=yaml"), 0);
    assert_string_equal(args_value(&a, "at"), "");
    assert_string_equal(args_value(&a, "output"), "yaml");
}

static void test_last_value_counts(void **state)
{
    struct args a;
    struct err err = {0};
    (void)state;
    assert_int_equal(PARSE(&a, &err, "x", "--at", "1", "--at", "2"), 0);
    assert_string_equal(args_value(&a, "at"), "2");
}

static void test_words_that_look_like_flags(void **state)
{
    struct args a;
    struct err err = {0};
    (void)state;
    assert_int_equal(PARSE(&a, &err, "x", "-7", "-", "--", "--at", "-o"), 0);
    assert_int_equal(a.word_count, 4);
    assert_string_equal(a.words[0], "-7");
    assert_string_equal(a.words[1], "-");
    assert_string_equal(a.words[2], "--at");
    assert_int_equal(a.given_count, 0);
}

static void test_errors(void **state)
{
    struct args a;
    struct err err = {0};
    (void)state;
    assert_int_equal(PARSE(&a, &err, "x", "--wiat"), ERRC_INVALID);
    assert_string_equal(err.message, "unknown flag --wiat; did you mean --wait?");
    assert_int_equal(PARSE(&a, &err, "x", "--zzzzzz=1"), ERRC_INVALID);
    assert_string_equal(err.message, "unknown flag --zzzzzz");
    assert_int_equal(PARSE(&a, &err, "x", "--at"), ERRC_INVALID);
    assert_string_equal(err.message, "flag --at needs a value (HASH)");
    assert_int_equal(PARSE(&a, &err, "x", "--wait=1"), ERRC_INVALID);
    assert_string_equal(err.message, "flag --wait takes no value");
    assert_int_equal(PARSE(&a, &err, "x", "-z"), ERRC_INVALID);
    assert_string_equal(err.message, "unknown flag -z");
}

static void test_too_many(void **state)
{
    char *words[ARGS_MAX + 2], *flags[ARGS_MAX + 2];
    struct args a;
    struct err err = {0};
    (void)state;
    for (int i = 0; i < ARGS_MAX + 2; i++) {
        words[i] = (char *)(uintptr_t) "w";
        flags[i] = (char *)(uintptr_t) "-q";
    }
    assert_int_equal(args_parse(ARGS_MAX + 1, words, tables, &a, &err), 0);
    assert_int_equal(args_parse(ARGS_MAX + 2, words, tables, &a, &err), ERRC_INVALID);
    assert_int_equal(args_parse(ARGS_MAX + 1, flags, tables, &a, &err), 0);
    assert_int_equal(args_parse(ARGS_MAX + 2, flags, tables, &a, &err), ERRC_INVALID);
}

static const char *suggest(const char *word)
{
    struct nearest n;
    nearest_init(&n, word);
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        nearest_offer(&n, c->name);
    return n.best;
}

static void test_suggestions(void **state)
{
    (void)state;
    assert_string_equal(suggest("gt"), "get");
    assert_string_equal(suggest("spilt"), "split");
    assert_string_equal(suggest("desc"), "describe");
    assert_string_equal(suggest("delte"), "delete");
    assert_string_equal(suggest("check-confg"), "check-config");
    struct nearest n;
    nearest_init(&n, "ab"); /* so short a word may have one mistake, and two letters swapped are one */
    nearest_offer(&n, "cd");
    assert_null(n.best);
    nearest_offer(&n, "bac");
    assert_null(n.best);
    nearest_offer(&n, "ba");
    assert_string_equal(n.best, "ba");
    assert_null(suggest("xyzzy"));
    assert_null(suggest(""));
}

/* Every command can be helped with, and its flags do not hide those of all commands. */
static void test_table_is_sound(void **state)
{
    (void)state;
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++) {
        assert_ptr_equal(cli_find(c->name), c);
        assert_int_equal((c->run != NULL) + (c->local != NULL) + (c->act != NULL), 1);
        if (c->hidden)
            continue;
        assert_non_null(c->summary);
        if (c->run != NULL)
            continue;
        assert_non_null(strstr(c->usage, c->name));
        assert_non_null(strstr(c->example, "shardherd"));
        assert_true(c->words_most >= c->words_least && c->words_most <= ARGS_MAX);
        for (const struct args_flag *f = c->flags; c->act != NULL && f != NULL && f->name != NULL; f++)
            for (const struct args_flag *g = session_flags; g->name != NULL; g++) {
                assert_string_not_equal(f->name, g->name);
                assert_true(f->letter == 0 || f->letter != g->letter);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_flags_and_words),
                                       cmocka_unit_test(test_other_spellings),
                                       cmocka_unit_test(test_last_value_counts),
                                       cmocka_unit_test(test_words_that_look_like_flags),
                                       cmocka_unit_test(test_errors),
                                       cmocka_unit_test(test_too_many),
                                       cmocka_unit_test(test_suggestions),
                                       cmocka_unit_test(test_table_is_sound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
