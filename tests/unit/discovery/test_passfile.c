/* Passwords in files: the format of ~/.pgpass and the modes that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "discovery/passfile.h"

static void test_lookup(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"h:5432:db:u:secret", "secret"},
        {"h:5432:db:u:secret\n", "secret"},
        {"h:5432:db:u:secret\r\nh:5432:db:u:later\n", "secret"},
        {"*:*:*:*:any\n", "any"},
        {"# h:5432:db:u:comment\nh:5432:db:u:real\n", "real"},
        {"other:5432:db:u:no\n*:*:db:u:yes\n", "yes"},
        {"h:5433:db:u:no\n", NULL},
        {"h:5432:db2:u:no\n", NULL},
        {"h:5432:db:u2:no\n", NULL},
        {"hh:5432:db:u:no\n", NULL},
        {"h:5432:db:u", NULL},
        {"h:5432\nh:5432:db:u:next\n", "next"},
        {"", NULL},
        {"\n\n", NULL},
        {"h:5432:db:u:", ""},
        {"h:5432:db:u:a\\:b\\\\c", "a:b\\c"},
        {"h:5432:db:u:a:b", "a:b"},
        {"*x:*:*:*:no\n", NULL},
        {"h:*:db:u:end\\", "end\\"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *found = passfile_lookup(cases[i].text, "h", 5432, "db", "u");
        if (cases[i].expected == NULL)
            assert_null(found);
        else {
            assert_non_null(found);
            assert_string_equal(found, cases[i].expected);
        }
        mem_wipe_free(found);
    }
    char *found = passfile_lookup("\\:\\:1:5432:a\\\\b:u:v6", "::1", 5432, "a\\b", "u");
    assert_string_equal(found, "v6");
    mem_wipe_free(found);
}

static void test_modes(void **state)
{
    (void)state;
    char path[] = "/tmp/shardherd-test-passfile-XXXXXX";
    struct err err = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "hush\n", 5), 5);
    assert_int_equal(close(fd), 0);
    static const struct {
        mode_t mode;
        bool fine;
    } cases[] = {{0600, true},  {0400, true},  {0640, false}, {0604, false},
                 {0644, false}, {0610, false}, {0660, false}, {0601, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(chmod(path, cases[i].mode), 0);
        err_clear(&err);
        char *text = passfile_read(path, &err);
        if (cases[i].fine) {
            assert_non_null(text);
            assert_string_equal(text, "hush\n");
        } else {
            assert_null(text);
            assert_int_equal(err.code, ERRC_REFUSED);
            assert_non_null(strstr(err.message, "chmod 0600"));
            assert_non_null(strstr(err.message, path));
        }
        mem_wipe_free(text);
    }
    unlink(path);
    assert_null(passfile_read(path, &err));
    assert_int_equal(err.code, ERRC_NOT_FOUND);
    assert_null(passfile_read("/tmp", &err));
    assert_int_equal(err.code, ERRC_REFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
