/* The local runtime against real servers: their whole life. Faults are in test_local_faults.c. */
#include "runtime/local_fixture.h"

static void check_files(const struct fixture *f, const struct answer *a)
{
    char path[256];
    snprintf(path, sizeof path, "%s/one", f->directory);
    assert_int_equal(file_mode(path, "password"), 0600);
    assert_int_equal(file_mode(path, "owner-password"), 0600);
    assert_int_equal(file_mode(path, "instance.json"), 0600);
    assert_int_equal(file_mode(path, "log"), 0600);
    assert_int_equal(file_mode(path, "data"), 0700);
    assert_true(file_has(path, "password", a->password));
    assert_false(file_has(path, "log", a->password));
    assert_false(file_has(path, "log", "secret"));
    assert_false(file_has(path, "log", "SCRAM-SHA-256"));
    assert_false(file_has(path, "shardherd.conf", a->password));
    assert_int_not_equal(access("initdb-password", F_OK), 0);
    snprintf(path, sizeof path, "%s/one/initdb-password", f->directory);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* As root, servers run as somebody else. */
static void check_user(const struct answer *a)
{
    struct stat process, data;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", a->pid);
    assert_int_equal(stat(path, &process), 0);
    assert_int_equal(stat(a->data, &data), 0);
    assert_int_not_equal(process.st_uid, 0);
    assert_int_equal(process.st_uid, data.st_uid);
}

static void check_server(const struct answer *a)
{
    char value[128];
    check_user(a);
    assert_string_equal(ask(a, "SHOW data_checksums"), "on");
    assert_string_equal(ask(a, "SHOW wal_level"), "logical");
    assert_string_equal(ask(a, "SHOW fsync"), "on");
    assert_string_equal(ask(a, "SHOW server_encoding"), "UTF8");
    assert_string_equal(ask(a, "SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = 'app'"),
                        "SCRAM-SHA-256");
    assert_string_equal(ask(a, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'"),
                        "app");
    assert_string_equal(ask(a, "SELECT rolsuper FROM pg_roles WHERE rolname = 'app'"), "f");
    sql(a, "app", "owner's \\ secret", "shop", "CREATE TABLE t AS SELECT 42 AS answer", value, sizeof value);
    assert_string_equal(ask(a, "SELECT answer FROM t"), "42");
}

/* Every version that is installed. */
static void test_created_used_and_removed(void **state)
{
    struct fixture *f = *state;
    char bins[8][512];
    int count = pg_server_all(bins, 8);
    assert_true(count > 0);
    for (int i = 0; i < count; i++) {
        assert_true(snprintf(f->bin, sizeof f->bin, "%s", bins[i]) < (int)sizeof f->bin);
        fixture_open(f);
        struct answer a = fixture_make(f, "one");
        assert_true(a.pid > 0);
        check_server(&a);
        check_files(f, &a);
        struct answer again = fixture_make(f, "one");
        assert_int_equal(again.pid, a.pid);
        assert_int_equal(again.port, a.port);
        assert_string_equal(again.password, a.password);
        struct answer listed = fixture_list(f);
        assert_int_equal(listed.count, 1);
        assert_string_equal(listed.name, "one");
        assert_int_equal(listed.pid, a.pid);
        assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
        assert_int_equal(fixture_list(f).count, 0);
        assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE); /* once more */
        fixture_close(f);
    }
    fixture_fini(f);
}

static void test_stopped_and_started(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct answer a = fixture_make(f, "one");
    ask(&a, "CREATE TABLE kept AS SELECT 1 AS x");
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    assert_int_equal(fixture_processes(f), 0);
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    assert_int_equal(fixture_stop(f, "nobody").err.code, ERRC_NONE);
    struct answer stopped = fixture_list(f);
    assert_int_equal(stopped.count, 1);
    assert_int_equal(stopped.pid, 0);
    assert_int_not_equal(fixture_make(f, "two").port, a.port); /* it is kept for "one" */
    assert_int_equal(fixture_remove(f, "two").err.code, ERRC_NONE);
    struct answer b = fixture_make(f, "one");
    assert_int_equal(b.port, a.port);
    assert_int_not_equal(b.pid, a.pid);
    assert_string_equal(ask(&b, "SELECT x FROM kept"), "1");
    /* the settings of the spec come last and are read at a start */
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    const char *const settings[] = {"shared_buffers = '16MB'", "work_mem = '5MB'", NULL};
    struct runtime_spec spec = SPEC("one");
    spec.settings = settings;
    struct answer c = fixture_ensure(f, &spec);
    assert_int_equal(c.err.code, ERRC_NONE);
    assert_string_equal(ask(&c, "SHOW shared_buffers"), "16MB");
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

/* The manager goes, the server stays; a new manager finds it. Then the server is killed and started anew. */
static void test_adopted_after_a_restart(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct answer a = fixture_make(f, "one");
    fixture_close(f);
    assert_int_equal(kill(a.pid, 0), 0);
    fixture_open(f);
    assert_int_equal(fixture_list(f).pid, a.pid);
    struct answer b = fixture_make(f, "one");
    assert_int_equal(b.pid, a.pid);
    ask(&b, "CREATE TABLE kept AS SELECT 1 AS x");
    kill(a.pid, SIGKILL);
    struct answer c = fixture_make(f, "one");
    assert_int_not_equal(c.pid, a.pid);
    assert_string_equal(ask(&c, "SELECT x FROM kept"), "1");
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

static void test_a_new_password_of_the_owner_is_set(void **state)
{
    struct fixture *f = *state;
    char value[64];
    fixture_open(f);
    fixture_make(f, "one");
    struct runtime_spec spec = SPEC("one");
    spec.owner_password = "another";
    struct answer a = fixture_ensure(f, &spec);
    sql(&a, "app", "another", "shop", "SELECT 1", value, sizeof value);
    char path[256];
    snprintf(path, sizeof path, "%s/one", f->directory);
    assert_true(file_has(path, "owner-password", "another"));
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

/* Different instances side by side, each with a port of its own; the same one twice is made once. */
static void test_several_at_once(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    const char *const names[] = {"one", "two", "one", "three"};
    struct answer a[5] = {{0}};
    for (int i = 0; i < 4; i++) {
        const struct runtime_spec spec = SPEC(names[i]);
        assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a[i], &a[i].err), 0);
    }
    assert_int_equal(runtime_remove(f->rt, "two", on_done, &a[4], &a[4].err), 0); /* after its making */
    for (int i = 0; i < 5; i++) {
        fixture_run(f, &a[i].done);
        assert_int_equal(a[i].err.code, ERRC_NONE);
    }
    assert_int_equal(a[0].pid, a[2].pid);
    assert_int_not_equal(a[0].port, a[1].port);
    assert_int_not_equal(a[0].port, a[3].port);
    assert_int_not_equal(a[1].port, a[3].port);
    assert_int_equal(fixture_list(f).count, 2);
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    assert_int_equal(fixture_remove(f, "three").err.code, ERRC_NONE);
    fixture_fini(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_created_used_and_removed), TEST(test_stopped_and_started),
        TEST(test_adopted_after_a_restart),  TEST(test_a_new_password_of_the_owner_is_set),
        TEST(test_several_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
