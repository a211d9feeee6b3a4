/* The table of commands and that of exit codes, and what describes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cli/cli.h"

#define WORDS_MAX 12

/* shardherd with these words; its exit code. What it prints stands among the results. */
static int run(const char *const *words)
{
    char *argv[WORDS_MAX + 2] = {mem_strdup("shardherd")};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++)
        argv[argc] = mem_strdup(words[argc - 1]);
    int rc = cli_main(argc, argv);
    fflush(stdout);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return rc;
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

/* The flags of every command, before and behind the name. */
static void test_flags_of_every_command(void **state)
{
    (void)state;
    static const char *const names[] = {"version", "help", "check-config"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(RUN("--server", "http://127.0.0.1:1", "--admin=http://127.0.0.1:2", names[i]),
                         CLI_OK);
        assert_int_equal(RUN("-d", "shop", names[i], "-o", "json", "--no-color"), CLI_OK);
        assert_int_equal(RUN("-q", names[i], "--timeout", "1s", "--state", "/tmp"), CLI_OK);
        assert_int_equal(RUN(names[i], "-w", "-o", "yaml", "--database", "shop"), CLI_OK);
        assert_int_equal(RUN(names[i], "--no-such-flag"), CLI_USAGE);
    }
    assert_int_equal(RUN("-o", "json", "completion", "bash", "--no-color", "-q"), CLI_OK);
    assert_int_equal(RUN("version", "-o", "name"), CLI_OK);
    assert_int_equal(RUN("version", "-o", "wide"), CLI_OK);
    assert_int_equal(RUN("version", "-o", "picture"), CLI_USAGE);
}

static void test_every_command_takes_them_or_says_so(void **state)
{
    (void)state;
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++) {
        bool own =
            strcmp(c->name, "manager") == 0 || strcmp(c->name, "demo") == 0 || strcmp(c->name, "agent") == 0;
        if (c->local != NULL && c->globals == own)
            fail_msg("%s", c->name);
        if (c->local == NULL)
            assert_false(c->globals);
    }
}

static char *read_source(const char *name)
{
    char *path = mem_printf("%s/%s", SHARDHERD_SOURCE_DIR, name);
    char *text = mem_zalloc(65536);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(text, 1, 65535, file) > 0);
    fclose(file);
    free(path);
    return text;
}

/* docs/cli.md has these rows, in this order, and no others. */
static void test_exit_codes_are_documented(void **state)
{
    (void)state;
    char *docs = read_source("docs/cli.md");
    const char *at = strstr(docs, "## Exit codes");
    assert_non_null(at);
    at = strstr(at, "|---|---|\n");
    assert_non_null(at);
    at += strlen("|---|---|\n");
    for (const struct cli_exit_code *e = cli_exit_codes; e->meaning != NULL; e++) {
        char *row = mem_printf("| %d | %s |\n", e->code, e->meaning);
        if (strncmp(at, row, strlen(row)) != 0)
            fail_msg("docs/cli.md: \"%s\" is to be here: %.60s", row, at);
        at += strlen(row);
        free(row);
    }
    assert_int_equal(*at, '\n');
    free(docs);
}

static void test_exit_codes_of_load(void **state)
{
    (void)state;
    assert_int_equal(RUN("load", "--help"), CLI_OK);
    assert_int_equal(RUN("load", "explode"), CLI_USAGE);
    /* no such file: the job could not be done */
    assert_int_equal(RUN("load", "check", "--database", "shop", "--routing-file", "/no/such/file", "--quiet"),
                     CLI_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags_of_every_command),
        cmocka_unit_test(test_every_command_takes_them_or_says_so),
        cmocka_unit_test(test_exit_codes_are_documented),
        cmocka_unit_test(test_exit_codes_of_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
