/*
 * The local runtime when things go wrong: each fault has its message, and leaves nothing behind.
 *
 * The creator that is killed half-way is this program itself, started with the arguments "create DIRECTORY
 * BIN".
 */
#include "runtime/local_fixture.h"

#include <sys/mount.h>

static struct answer ensure_fails(struct fixture *f, const struct runtime_spec *spec, int code,
                                  const char *text)
{
    struct answer a = fixture_ensure(f, spec);
    if (a.err.code != (enum err_code)code || strstr(a.err.message, text) == NULL)
        fail_msg("expected %s with \"%s\", got %s: %s", err_code_name((enum err_code)code), text,
                 err_code_name(a.err.code), a.err.message);
    assert_null(strstr(a.err.message, "secret"));
    return a;
}

static int listener_open(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 5), 0);
    return fd;
}

static void test_names_and_settings(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct runtime_spec spec = SPEC("Not/a-name");
    ensure_fails(f, &spec, ERRC_INVALID, "Not/a-name");
    spec.name = "..";
    ensure_fails(f, &spec, ERRC_INVALID, "..");
    const char *const settings[] = {"work_mem = '4MB'", "PORT = 1", NULL};
    spec.name = "one";
    spec.settings = settings;
    ensure_fails(f, &spec, ERRC_INVALID, "port");
    const char *const lines[] = {"work_mem = '4MB'\nport = 1", NULL};
    spec.settings = lines;
    ensure_fails(f, &spec, ERRC_INVALID, "one line");
    fixture_fini(f);
}

static void test_a_taken_port(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    int first = listener_open(f->port);
    struct answer a = fixture_make(f, "one"); /* a new one goes round it */
    assert_int_not_equal(a.port, f->port);
    close(first);
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    int taken = listener_open(a.port);
    const struct runtime_spec spec = SPEC("one");
    char text[64];
    snprintf(text, sizeof text, "port %d on 127.0.0.1 is taken by process %d (", a.port, (int)getpid());
    ensure_fails(f, &spec, ERRC_CONFLICT, text);
    close(taken);
    assert_int_equal(fixture_make(f, "one").port, a.port); /* nothing was harmed */
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

static void test_a_disk_too_small(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct runtime_spec spec = SPEC("one");
    spec.min_free_bytes = 1ull << 60;
    struct answer a = ensure_fails(f, &spec, ERRC_LIMIT, f->directory);
    assert_non_null(strstr(a.err.message, "1099511627776 MiB are needed"));
    assert_int_equal(fixture_entries(f), 0);
    fixture_fini(f);
}

static void test_a_disk_that_runs_full(void **state)
{
    struct fixture *f = *state;
    if (geteuid() != 0 || mount("tmpfs", f->directory, "tmpfs", 0, "size=12m,mode=0711") != 0)
        skip();
    fixture_open(f);
    struct runtime_spec spec = SPEC("one");
    spec.min_free_bytes = 1;
    struct answer a = fixture_ensure(f, &spec);
    int entries = fixture_entries(f);
    fixture_close(f);
    assert_int_equal(umount(f->directory), 0);
    assert_int_equal(a.err.code, ERRC_LIMIT);
    assert_non_null(strstr(a.err.message, f->directory));
    assert_int_equal(entries, 0);
    fixture_fini(f);
}

static void script_write(const char *directory, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

static void test_no_programs(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct runtime *rt = NULL;
    const struct runtime_local_options o = {.directory = f->directory, .bin_directory = "/usr/share"};
    assert_int_equal(runtime_local_open(&f->loop, &o, &rt, &err), ERRC_NOT_FOUND);
    assert_non_null(strstr(err.message, "/usr/share"));
    assert_null(rt);
    fixture_fini(f);
}

static void test_programs_too_old(void **state)
{
    struct fixture *f = *state;
    char bin[64] = "/tmp/shardherd-test-bin-XXXXXX";
    assert_non_null(mkdtemp(bin));
    assert_int_equal(chmod(bin, 0755), 0);
    script_write(bin, "postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 14.2'\n");
    script_write(bin, "initdb", "#!/bin/sh\nexit 1\n");
    snprintf(f->bin, sizeof f->bin, "%s", bin);
    fixture_open(f);
    const struct runtime_spec spec = SPEC("one");
    struct answer a = ensure_fails(f, &spec, ERRC_UNSUPPORTED, "PostgreSQL 14.2 in /tmp/shardherd-test-bin-");
    assert_non_null(strstr(a.err.message, "15 or newer"));
    fixture_close(f);
    script_write(bin, "postgres", "#!/bin/sh\nexit 1\n");
    fixture_open(f);
    ensure_fails(f, &spec, ERRC_UNSUPPORTED, "does not tell its version");
    fixture_close(f);
    script_write(bin, "postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.3'\n");
    script_write(bin, "initdb", "#!/bin/sh\necho 'initdb: error: it rains' >&2\nexit 1\n");
    fixture_open(f);
    ensure_fails(f, &spec, ERRC_IO, "initdb exited with 1: error: it rains");
    assert_int_equal(local_tree_delete(bin, NULL), 0);
    fixture_fini(f);
}

/* Real programs behind scripts that fail in one way first. Returns the directory of the scripts. */
static const char *wrapped(struct fixture *f, const char *initdb_first, const char *postgres_first)
{
    static char bin[64];
    char text[2048];
    snprintf(bin, sizeof bin, "/tmp/shardherd-test-bin-XXXXXX");
    assert_non_null(mkdtemp(bin));
    assert_int_equal(chmod(bin, 0755), 0);
    snprintf(text, sizeof text, "#!/bin/sh\n%s\nexec %.500s/initdb \"$@\"\n", initdb_first, f->bin);
    script_write(bin, "initdb", text);
    snprintf(text, sizeof text, "#!/bin/sh\n%s\nexec %.500s/postgres \"$@\"\n", postgres_first, f->bin);
    script_write(bin, "postgres", text);
    snprintf(f->bin, sizeof f->bin, "%s", bin);
    return bin;
}

static void test_a_machine_without_c_utf8(void **state)
{
    struct fixture *f = *state;
    const char *bin =
        wrapped(f, "case \"$*\" in *C.UTF-8*) echo 'invalid locale name' >&2; exit 1;; esac", "");
    fixture_open(f);
    struct answer a = fixture_make(f, "one");
    assert_string_equal(ask(&a, "SELECT datcollate FROM pg_database WHERE datname = 'shop'"), "C");
    assert_string_equal(ask(&a, "SHOW server_encoding"), "UTF8");
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    assert_int_equal(local_tree_delete(bin, NULL), 0);
    fixture_fini(f);
}

/* Someone takes the port between our look at it and the server's: a new instance takes the next one. */
static void test_a_port_lost_at_the_start(void **state)
{
    struct fixture *f = *state;
    const char *const lost = "case \"$*\" in *--version*) ;; *-D*)\n"
                             "grep -q \"port = $PORT\\$\" ../one/shardherd.conf &&\n"
                             "{ echo 'FATAL:  could not create any TCP/IP sockets' >&2; exit 1; } ;; esac";
    char script[512];
    snprintf(script, sizeof script, "PORT=%d\n%s", f->port, lost);
    const char *bin = wrapped(f, "", script);
    fixture_open(f);
    struct answer a = fixture_make(f, "one");
    assert_true(a.port > f->port);
    assert_int_equal(fixture_list(f).port, a.port);
    assert_int_equal(atoi(ask(&a, "SHOW port")), a.port);
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    assert_int_equal(local_tree_delete(bin, NULL), 0);
    fixture_fini(f);
}

/* Another PostgreSQL, which knows no password of ours. */
static pid_t stranger_start(int port)
{
    static const char refusal[] = "E\0\0\0\x3ASFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0";
    int listener = listener_open(port);
    pid_t pid = fork();
    while (pid == 0) {
        char space[1024];
        int fd = accept(listener, NULL, NULL);
        if (read(fd, space, sizeof space) == 8) { /* SSLRequest */
            (void)!write(fd, "N", 1);
            (void)!read(fd, space, sizeof space);
        }
        (void)!write(fd, refusal, sizeof refusal);
        close(fd);
    }
    close(listener);
    return pid;
}

/* A foreign server gets the port while ours is being started: it is not taken for ours. */
static void test_a_port_lost_to_another_server(void **state)
{
    struct fixture *f = *state;
    char script[512];
    char path[300];
    snprintf(script, sizeof script,
             "case \"$*\" in *--version*) ;; *-D*) if grep -q 'port = %d$' ../one/shardherd.conf; then\n"
             "touch $(dirname $0)/begun; while [ ! -e $(dirname $0)/go ]; do sleep 0.02; done; fi;; esac",
             f->port);
    const char *bin = wrapped(f, "", script);
    assert_int_equal(chmod(bin, 0777), 0);
    snprintf(path, sizeof path, "%s/begun", bin);
    fixture_open(f);
    struct answer a = {0};
    const struct runtime_spec spec = SPEC("one");
    assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
    while (!a.done && access(path, F_OK) != 0)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_false(a.done);
    pid_t stranger = stranger_start(f->port);
    for (uint64_t end = uv_hrtime() + 500000000; !a.done && uv_hrtime() < end;) { /* time to be misled */
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        pg_server_wait_ms(5);
    }
    script_write(bin, "go", "");
    fixture_run(f, &a.done);
    kill(stranger, SIGKILL);
    waitpid(stranger, NULL, 0);
    if (a.err.code != ERRC_NONE)
        fail_msg("%s", a.err.message);
    assert_true(a.port > f->port);
    assert_int_equal(atoi(ask(&a, "SHOW port")), a.port);
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    assert_int_equal(local_tree_delete(bin, NULL), 0);
    fixture_fini(f);
}

static void test_a_server_that_does_not_start(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    const char *const settings[] = {"shared_preload_libraries = 'no_such_library'", NULL};
    struct runtime_spec spec = SPEC("one");
    spec.settings = settings;
    ensure_fails(f, &spec, ERRC_IO, "could not access file \"no_such_library\"");
    assert_int_equal(fixture_entries(f), 0);
    /* one that worked before stays */
    struct answer a = fixture_make(f, "one");
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    ensure_fails(f, &spec, ERRC_IO, "could not access file \"no_such_library\"");
    assert_int_equal(fixture_make(f, "one").port, a.port);
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

static void test_what_is_not_ours_stays(void **state)
{
    struct fixture *f = *state;
    char path[256];
    char file[300];
    fixture_open(f);
    snprintf(path, sizeof path, "%s/photos", f->directory);
    snprintf(file, sizeof file, "%s/cat.jpg", path);
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_equal(local_file_write(file, "meow", 0644, NULL, NULL), 0);
    const struct runtime_spec spec = SPEC("photos");
    ensure_fails(f, &spec, ERRC_REFUSED, "photos");
    assert_int_equal(fixture_remove(f, "photos").err.code, ERRC_REFUSED);
    assert_int_equal(fixture_list(f).count, 0);
    assert_true(file_has(path, "cat.jpg", "meow"));
    assert_int_equal(local_tree_delete(path, NULL), 0);
    struct runtime_spec other = SPEC("one");
    fixture_make(f, "one");
    other.shard = "s2";
    ensure_fails(f, &other, ERRC_CONFLICT, "shard \"s1\"");
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

/* One that held rows is started, and never made anew. */
static void test_what_must_exist(void **state)
{
    struct fixture *f = *state;
    char data[256];
    char aside[256];
    struct runtime_spec spec = SPEC("one");
    spec.must_exist = true;
    fixture_open(f);
    ensure_fails(f, &spec, ERRC_NOT_FOUND, "there is no such instance");
    assert_int_equal(fixture_entries(f), 0);
    struct answer a = fixture_make(f, "one");
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    snprintf(data, sizeof data, "%s/one/data", f->directory);
    snprintf(aside, sizeof aside, "%s/one/aside", f->directory);
    assert_int_equal(rename(data, aside), 0);
    ensure_fails(f, &spec, ERRC_CORRUPT, "one/data is missing or empty: restore it");
    assert_int_equal(access(data, F_OK), -1);
    assert_int_equal(rename(aside, data), 0);
    assert_int_equal(fixture_ensure(f, &spec).port, a.port);
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

static void test_a_parent_that_the_user_cannot_pass(void **state)
{
    struct fixture *f = *state;
    if (geteuid() != 0)
        skip();
    char directory[64];
    snprintf(directory, sizeof directory, "%.60s", f->directory);
    snprintf(f->directory, sizeof f->directory, "%s/deep", directory);
    fixture_open(f);
    assert_int_equal(chmod(directory, 0700), 0);
    const struct runtime_spec spec = SPEC("one");
    struct answer a = ensure_fails(f, &spec, ERRC_REFUSED, "cannot be entered by user \"postgres\"");
    assert_non_null(strstr(a.err.message, directory));
    fixture_fini(f);
    snprintf(f->directory, sizeof f->directory, "%s", directory);
}

/* The runtime is closed while it makes an instance, at several moments. */
static void test_closed_half_way(void **state)
{
    struct fixture *f = *state;
    static const char *const moments[] = {"", "one/instance.json", "one/data/PG_VERSION",
                                          "one/data/postmaster.pid"};
    for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
        char path[300];
        struct answer a = {0};
        const struct runtime_spec spec = SPEC("one");
        fixture_open(f);
        snprintf(path, sizeof path, "%s/%s", f->directory, moments[i]);
        assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
        while (!a.done && access(path, F_OK) != 0)
            uv_run(&f->loop.uv, UV_RUN_ONCE);
        assert_false(a.done);
        fixture_close(f);
        assert_true(a.done);
        assert_int_equal(a.err.code, ERRC_CANCELED);
        assert_int_equal(fixture_entries(f), 0);
        assert_int_equal(fixture_processes(f), 0);
    }
    fixture_fini(f);
}

/* ---- kill -9 of the creating process ---- */

static int creator_main(const char *directory, const char *bin, int port)
{
    struct loop loop;
    struct runtime *rt;
    struct answer a = {0};
    const struct runtime_local_options o = {.directory = directory, .bin_directory = bin, .first_port = port};
    const struct runtime_spec spec = SPEC("one");
    if (loop_init(&loop, env_system(), NULL) != 0 || runtime_local_open(&loop, &o, &rt, NULL) != 0 ||
        runtime_ensure(rt, &spec, on_instance, &a, NULL) != 0)
        return 2;
    while (!a.done)
        uv_run(&loop.uv, UV_RUN_ONCE);
    return a.err.code == ERRC_NONE ? 0 : 1;
}

static pid_t creator_start(const struct fixture *f)
{
    char port[16];
    snprintf(port, sizeof port, "%d", f->port);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test_local_faults", "create", f->directory, f->bin, port, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void test_creator_killed_half_way(void **state)
{
    struct fixture *f = *state;
    static const char *const moments[] = {"one/instance.json",       "one/data/base",
                                          "one/data/PG_VERSION",     "one/shardherd.conf",
                                          "one/data/postmaster.pid", "one/owner-password"};
    for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", f->directory, moments[i]);
        pid_t creator = creator_start(f);
        for (int ms = 0; access(path, F_OK) != 0; ms++) {
            if (ms > 30000)
                fail_msg("%s never came", path);
            pg_server_wait_ms(1);
        }
        kill(creator, SIGKILL);
        waitpid(creator, NULL, 0);
        fixture_open(f);
        struct answer a = fixture_make(f, "one");
        assert_string_equal(ask(&a, "SELECT 42"), "42");
        assert_int_equal(fixture_entries(f), 1);
        assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
        fixture_close(f);
        assert_int_equal(fixture_processes(f), 0);
        assert_int_equal(fixture_entries(f), 0);
    }
    fixture_fini(f);
}

/* Several managers on one machine begin at the same port at the same moment. */
static void test_creators_at_the_same_moment(void **state)
{
    enum { CREATORS = 3 };
    struct fixture *f = *state;
    struct fixture each[CREATORS] = {0};
    pid_t pids[CREATORS];
    int ports[CREATORS];
    for (int i = 0; i < CREATORS; i++) {
        fixture_init(&each[i]);
        each[i].port = f->port;
    }
    for (int i = 0; i < CREATORS; i++)
        pids[i] = creator_start(&each[i]);
    for (int i = 0; i < CREATORS; i++) {
        int status = -1;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    for (int i = 0; i < CREATORS; i++) {
        fixture_open(&each[i]);
        struct answer a = fixture_make(&each[i], "one");
        ports[i] = a.port;
        assert_int_equal(atoi(ask(&a, "SHOW port")), a.port);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(ports[k], ports[i]);
    }
    for (int i = 0; i < CREATORS; i++) {
        assert_int_equal(fixture_remove(&each[i], "one").err.code, ERRC_NONE);
        fixture_fini(&each[i]);
    }
    fixture_fini(f);
}

/* Removing what a killed creator left needs no ensure before it. */
static void test_removed_after_a_killed_creator(void **state)
{
    struct fixture *f = *state;
    char path[300];
    snprintf(path, sizeof path, "%s/one/data/postmaster.pid", f->directory);
    pid_t creator = creator_start(f);
    for (int ms = 0; ms < 30000 && access(path, F_OK) != 0; ms++)
        pg_server_wait_ms(1);
    kill(creator, SIGKILL);
    waitpid(creator, NULL, 0);
    fixture_open(f);
    assert_int_equal(fixture_list(f).count, 0); /* half-made: not yet an instance */
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    fixture_fini(f);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "create") == 0)
        _exit(creator_main(argv[2], argv[3], atoi(argv[4]))); /* it closes nothing, as if killed */
    const struct CMUnitTest tests[] = {
        TEST(test_names_and_settings),
        TEST(test_a_taken_port),
        TEST(test_a_disk_too_small),
        TEST(test_a_disk_that_runs_full),
        TEST(test_no_programs),
        TEST(test_programs_too_old),
        TEST(test_a_machine_without_c_utf8),
        TEST(test_a_port_lost_at_the_start),
        TEST(test_a_port_lost_to_another_server),
        TEST(test_a_server_that_does_not_start),
        TEST(test_what_is_not_ours_stays),
        TEST(test_what_must_exist),
        TEST(test_a_parent_that_the_user_cannot_pass),
        TEST(test_closed_half_way),
        TEST(test_creator_killed_half_way),
        TEST(test_creators_at_the_same_moment),
        TEST(test_removed_after_a_killed_creator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
