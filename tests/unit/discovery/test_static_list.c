/* The static list: what is accepted, what it means, and what each refusal says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "discovery/static_list.h"

static void test_accepted(void **state)
{
    (void)state;
    static const struct {
        struct discovery_entry entry;
        const char *host, *dbname, *user, *sslmode;
        int port;
    } cases[] = {
        {{.name = "a", .host = "db1", .user = "u"}, "db1", "u", "u", NULL, 5432},
        {{.name = "a", .database = "shop", .host = "db1", .user = "u", .port = 6000},
         "db1",
         "shop",
         "u",
         NULL,
         6000},
        {{.name = "a", .dsn = "postgresql://me@db2:6432/shop?sslmode=require"},
         "db2",
         "shop",
         "me",
         "require",
         6432},
        {{.name = "a", .dsn = "postgres://me@[::1]/shop"}, "::1", "shop", "me", NULL, 5432},
        {{.name = "a", .dsn = "host=db3 user=me dbname='my shop'"}, "db3", "my shop", "me", NULL, 5432},
        {{.name = "a", .dsn = "host=db3 user=me port=1", .host = "db4", .port = 2},
         "db4",
         "me",
         "me",
         NULL,
         2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct static_list list = {0};
        struct err err = {0};
        if (static_list_make(&cases[i].entry, 1, &list, &err) != 0)
            fail_msg("%s", err.message);
        const struct instance_access *a = &list.entries[0].found.access;
        assert_string_equal(a->host, cases[i].host);
        assert_string_equal(a->dbname, cases[i].dbname);
        assert_string_equal(a->user, cases[i].user);
        assert_int_equal(a->port, cases[i].port);
        assert_true(cases[i].sslmode == NULL ? a->sslmode == NULL
                                             : strcmp(a->sslmode, cases[i].sslmode) == 0);
        assert_null(a->password);
        static_list_free(&list);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        struct discovery_entry entry;
        const char *says;
    } cases[] = {
        {{.name = "srv", .user = "u"}, "no host"},
        {{.name = "srv", .host = "h"}, "no user"},
        {{.name = "srv", .host = "a,b", .user = "u"}, "several hosts"},
        {{.name = "srv", .host = "a", .user = "u", .port = 70000}, "70000"},
        {{.name = "srv", .host = "a", .user = "u", .sslcert = "/c"}, "both sslcert and sslkey"},
        {{.name = "srv", .dsn = "host=h user=u sslkey=/k"}, "both sslcert and sslkey"},
        {{.name = "srv", .dsn = "host=a user=u port=x"}, "not a port"},
        {{.name = "srv", .dsn = "postgresql://u:hunter2@h/db"}, "password_env"},
        {{.name = "srv", .dsn = "host=h user=u password=hunter2"}, "password_env"},
        {{.name = "srv", .dsn = "host=h password=a hunter2"}, "neither"},
        {{.name = "srv", .dsn = "host=h user=u options=-cfsync=off"}, "options"},
        {{.name = "srv", .host = "h", .user = "u", .password_env = "A", .passfile = "/p"}, "give one of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct static_list list = {0};
        struct err err = {0};
        assert_int_equal(static_list_make(&cases[i].entry, 1, &list, &err), ERRC_INVALID);
        if (strstr(err.message, cases[i].says) == NULL || strstr(err.message, "srv") == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err.message, cases[i].says);
        assert_null(strstr(err.message, "hunter2"));
        assert_null(list.entries);
    }
}

static void test_client_certificate(void **state)
{
    static const struct discovery_entry entries[] = {
        {.name = "a", .host = "h", .user = "u", .sslcert = "/c", .sslkey = "/k"},
        {.name = "b", .dsn = "postgresql://u@h/d?sslcert=/c&sslkey=/old", .sslkey = "/k"}};
    struct static_list list = {0}, copy = {0};
    struct err err = {0};
    (void)state;
    assert_int_equal(static_list_make(entries, 2, &list, &err), 0);
    static_list_copy(&copy, &list);
    static_list_free(&list);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(copy.entries[i].found.access.sslcert, "/c");
        assert_string_equal(copy.entries[i].found.access.sslkey, "/k");
        assert_null(copy.entries[i].found.access.peer_sslkey); /* as for us */
    }
    static_list_free(&copy);
}

static void test_names(void **state)
{
    (void)state;
    struct static_list list = {0};
    struct err err = {0};
    const struct discovery_entry twice[] = {{.name = "x", .host = "h", .user = "u"},
                                            {.name = "y", .host = "h", .user = "u"},
                                            {.name = "x", .host = "i", .user = "u"}};
    assert_int_equal(static_list_make(twice, 3, &list, &err), ERRC_INVALID);
    assert_non_null(strstr(err.message, "\"x\""));
    const struct discovery_entry nameless[] = {{.name = "x", .host = "h", .user = "u"},
                                               {.host = "h", .user = "u"}};
    assert_int_equal(static_list_make(nameless, 2, &list, &err), ERRC_INVALID);
    assert_non_null(strstr(err.message, "server 2"));
}

static const char *fake_get(struct env *env, const char *name)
{
    (void)env;
    return strcmp(name, "SHOP_PASSWORD") == 0 ? "from the environment" : NULL;
}

static void test_secrets(void **state)
{
    (void)state;
    char path[] = "/tmp/shardherd-test-secret-XXXXXX";
    static const char text[] = "h:5432:u:u:from the passfile\n";
    int fd = mkstemp(path); /* mode 0600 */
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    assert_int_equal(close(fd), 0);
    struct env env = *env_system();
    env.get = fake_get;
    const struct discovery_entry entries[] = {
        {.name = "env", .host = "h", .user = "u", .password_env = "SHOP_PASSWORD"},
        {.name = "no-env", .host = "h", .user = "u", .password_env = "OTHER"},
        {.name = "file", .host = "h", .user = "u", .password_file = path},
        {.name = "passfile", .host = "h", .user = "u", .passfile = path},
        {.name = "no-line", .host = "i", .user = "u", .passfile = path},
        {.name = "no-file", .host = "i", .user = "u", .passfile = "/nonexistent"},
        {.name = "none", .host = "i", .user = "u"},
    };
    struct static_list list = {0};
    assert_int_equal(static_list_make(entries, 7, &list, NULL), 0);
    static_list_environment(&list, &env);
    static_list_files(&list);
    unlink(path);
    const struct static_entry *e = list.entries;
    assert_string_equal(e[0].found.access.password, "from the environment");
    assert_int_equal(e[1].found.err.code, ERRC_NOT_FOUND);
    assert_string_equal(e[2].found.access.password, "h:5432:u:u:from the passfile");
    assert_string_equal(e[3].found.access.password, "from the passfile");
    assert_int_equal(e[4].found.err.code, ERRC_NOT_FOUND);
    assert_null(strstr(e[4].found.err.message, "from the passfile"));
    assert_int_equal(e[5].found.err.code, ERRC_NOT_FOUND);
    assert_null(e[6].found.access.password);
    assert_int_equal(e[6].found.err.code, ERRC_NONE);
    static_list_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_client_certificate),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_secrets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
