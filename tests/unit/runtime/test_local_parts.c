/* The parts of the local runtime that need no server: texts, files, ports, users. */
#include "runtime/local_fixture.h"

static void test_versions(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int version;
    } cases[] = {{"postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", 150014},
                 {"postgres (PostgreSQL) 18.0\n", 180000},
                 {"postgres (PostgreSQL) 19devel\n", 190000},
                 {"postgres (PostgreSQL) 9.6.24\n", 90006},
                 {"psql 15", 0},
                 {"postgres (PostgreSQL) x", 0},
                 {"postgres (PostgreSQL) -3.1", 0},
                 {"", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(local_version_parse(cases[i].text), cases[i].version);
}

static void test_binaries(void **state)
{
    (void)state;
    char dirs[3][8] = {"/a", "/b", "/c"};
    struct local local = {.binaries = {{dirs[0], 160002}, {dirs[1], 150014}, {dirs[2], -1}},
                          .binary_count = 3};
    struct err err = {0};
    assert_string_equal(local_binaries_pick(&local, 0, &err)->directory, "/a");
    assert_string_equal(local_binaries_pick(&local, 15, &err)->directory, "/b");
    assert_null(local_binaries_pick(&local, 17, &err));
    assert_int_equal(err.code, ERRC_UNSUPPORTED);
    assert_non_null(strstr(err.message, "postgresql-17"));
}

static void test_config(void **state)
{
    (void)state;
    char host[] = "127.0.0.1", setting[] = "wal_level = replica";
    char *settings[] = {setting, NULL};
    const struct local_record record = {.host = host, .port = 7001};
    struct buf out = {0};
    local_config_text(&out, &record, "/it's here/pg_hba.conf", 18, settings);
    const char *text = buf_text(&out);
    assert_non_null(strstr(text, "port = 7001\n"));
    assert_non_null(strstr(text, "hba_file = '/it''s here/pg_hba.conf'\n"));
    assert_non_null(strstr(text, "max_active_replication_origins"));
    /* the last one counts, and that is the user's */
    assert_true(strstr(text, "wal_level = replica\n") > strstr(text, "wal_level = logical\n"));
    buf_reset(&out);
    local_config_text(&out, &record, "/x", 17, NULL);
    assert_null(strstr(buf_text(&out), "max_active_replication_origins")); /* unknown before 18 */
    buf_reset(&out);
    local_hba_text(&out, "127.0.0.1");
    assert_null(strstr(buf_text(&out), "0.0.0.0/0"));
    assert_null(strstr(buf_text(&out), "trust"));
    buf_reset(&out);
    local_hba_text(&out, "10.0.0.5");
    assert_non_null(strstr(buf_text(&out), "host all all 0.0.0.0/0 scram-sha-256"));
    buf_free(&out);
}

/* A symbolic link in the tree is deleted, what it points to is not. */
static void test_tree_delete(void **state)
{
    struct fixture *f = *state;
    char path[300];
    char outside[300];
    snprintf(outside, sizeof outside, "%s/outside", f->directory);
    assert_int_equal(mkdir(outside, 0700), 0);
    snprintf(path, sizeof path, "%s/outside/precious", f->directory);
    assert_int_equal(local_file_write(path, "x", 0600, NULL, NULL), 0);
    snprintf(path, sizeof path, "%s/tree", f->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/tree/deep", f->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/tree/deep/link", f->directory);
    assert_int_equal(symlink(outside, path), 0);
    snprintf(path, sizeof path, "%s/link", f->directory);
    assert_int_equal(symlink(outside, path), 0);
    struct err err = {0};
    assert_int_equal(local_tree_delete(path, &err), ERRC_IO); /* is itself a link: not entered */
    snprintf(path, sizeof path, "%s/tree", f->directory);
    assert_int_equal(local_tree_delete(path, &err), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_true(file_has(outside, "precious", "x"));
    assert_int_equal(local_tree_delete(path, &err), 0); /* once more */
    assert_int_equal(loop_fini(&f->loop), 0);
}

static void test_log(void **state)
{
    struct fixture *f = *state;
    char path[300];
    char reason[256];
    static const char text[] =
        "LOG:  starting\n2026 [7] FATAL:  lock file is there\nHINT:  look\nLOG:  shut down\n\n";
    snprintf(path, sizeof path, "%s/log", f->directory);
    local_log_reason(path, reason, sizeof reason);
    assert_string_equal(reason, "");
    assert_int_equal(local_file_write(path, text, 0600, NULL, NULL), 0);
    local_log_reason(path, reason, sizeof reason);
    assert_string_equal(reason, "2026 [7] FATAL:  lock file is there");
    local_log_trim(path, 1000);
    assert_true(file_has(f->directory, "log", "lock file"));
    local_log_trim(path, 10);
    assert_false(file_has(f->directory, "log", "lock file"));
    assert_true(file_has(f->directory, "log.old", "lock file"));
    assert_int_equal(loop_fini(&f->loop), 0);
}

static void test_record(void **state)
{
    struct fixture *f = *state;
    char name[] = "one", database[] = "a \"b\"\n", none[] = "", host[] = "::1", path[300];
    struct local_record record = {.name = name,
                                  .database = database,
                                  .shard = none,
                                  .owner = none,
                                  .host = host,
                                  .port = 5,
                                  .creating = true};
    struct local_record back = {0};
    struct err err = {0};
    assert_int_equal(local_record_load(f->directory, "one", &back, &err), ERRC_NOT_FOUND);
    snprintf(path, sizeof path, "%s/one", f->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(local_record_save(path, &record, &err), 0);
    assert_int_equal(local_record_load(f->directory, "one", &back, &err), 0);
    assert_string_equal(back.database, database);
    assert_string_equal(back.host, "::1");
    assert_int_equal(back.port, 5);
    assert_true(back.creating);
    assert_int_equal(back.pid, 0);
    local_record_clear(&back);
    record.creating = false; /* whole, but its password is gone */
    assert_int_equal(local_record_save(path, &record, &err), 0);
    assert_int_equal(local_record_load(f->directory, "one", &back, &err), ERRC_CORRUPT);
    static const struct {
        const char *json;
        int code;
    } bad[] = {{"{", ERRC_CORRUPT},
               {"[]", ERRC_REFUSED},
               {"{\"kind\":\"other\"}", ERRC_REFUSED},
               {"{\"kind\":\"shardherd-instance-1\",\"port\":70000}", ERRC_CORRUPT}};
    snprintf(path, sizeof path, "%s/one/instance.json", f->directory);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(local_file_write(path, bad[i].json, 0600, NULL, NULL), 0);
        assert_int_equal(local_record_load(f->directory, "one", &back, &err), bad[i].code);
    }
    assert_int_equal(loop_fini(&f->loop), 0);
}

static void test_ports(void **state)
{
    (void)state;
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t length = sizeof a;
    struct err err = {0};
    char holder[128];
    char wanted[64];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &length), 0);
    int port = ntohs(a.sin_port);
    assert_int_equal(local_port_try("127.0.0.1", port, &err), ERRC_CONFLICT);
    local_port_holder(port, holder, sizeof holder);
    snprintf(wanted, sizeof wanted, "process %d (", (int)getpid());
    assert_non_null(strstr(holder, wanted));
    close(fd);
    assert_int_equal(local_port_try("127.0.0.1", port, &err), 0);
    assert_int_equal(local_port_try("localhost", port, &err), ERRC_INVALID);
    assert_int_equal(local_port_try("192.0.2.1", port, &err), ERRC_IO);
}

static void test_users(void **state)
{
    (void)state;
    struct local_user user;
    struct err err = {0};
    if (geteuid() != 0)
        skip();
    assert_int_equal(local_user_find("no-such-user", &user, &err), ERRC_NOT_FOUND);
    assert_int_equal(local_user_find("root", &user, &err), ERRC_INVALID);
    assert_int_equal(local_user_find(NULL, &user, &err), 0);
    assert_int_not_equal(user.uid, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_binaries),
        cmocka_unit_test(test_config),
        TEST(test_tree_delete),
        TEST(test_log),
        TEST(test_record),
        cmocka_unit_test(test_ports),
        cmocka_unit_test(test_users),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
