/*
 * local_fixture: a loop, a fresh directory and a local runtime, with calls that wait for their answer.
 */
#ifndef LOCAL_FIXTURE_H
#define LOCAL_FIXTURE_H

#include <dirent.h>
#include <libpq-fe.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "runtime/local.h"
#include "runtime/runtime.h"
#include "support/pg_server.h"

struct answer {
    struct loop *loop;
    bool done;
    struct err err;
    char name[64];
    char host[64];
    char password[64];
    char data[256];
    int port;
    int pid;
    int count;
    bool member;
    int agent_port;
    int agent_pid;
    char token[64];
};

struct fixture {
    struct loop loop;
    struct runtime *rt;
    char directory[128];
    char bin[512];
    char program[512]; /* shardherd of this build */
    int port;
};

static inline void fixture_init(struct fixture *f)
{
    struct err err = {0};
    memset(f, 0, sizeof *f);
    snprintf(f->directory, sizeof f->directory, "/tmp/shardherd-test-local-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    assert_int_equal(chmod(f->directory, 0711), 0);
    assert_int_equal(loop_init(&f->loop, env_system(), &err), 0);
    assert_true(pg_server_find(f->bin, sizeof f->bin));
    ssize_t n = readlink("/proc/self/exe", f->program, sizeof f->program - 32);
    assert_true(n > 0);
    f->program[n] = '\0';
    snprintf(strrchr(f->program, '/'), 32, "/../shardherd"); /* beside the folder of the tests */
    f->port = 12000 + (getpid() * 7) % 10000;
}

static inline void fixture_open(struct fixture *f)
{
    struct err err = {0};
    const struct runtime_local_options o = {
        .directory = f->directory, .bin_directory = f->bin, .first_port = f->port, .program = f->program};
    if (runtime_local_open(&f->loop, &o, &f->rt, &err) != 0)
        fail_msg("%s", err.message);
}

static inline void on_closed_flag(void *data)
{
    *(bool *)data = true;
}

static inline void fixture_run(struct fixture *f, const bool *done)
{
    while (!*done)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
}

static inline void fixture_close(struct fixture *f)
{
    bool closed = false;
    runtime_close(f->rt, on_closed_flag, &closed);
    assert_false(closed); /* later, not from inside */
    fixture_run(f, &closed);
    f->rt = NULL;
}

/* Processes that work in data directories below the fixture's, by /proc. */
static inline int fixture_processes(const struct fixture *f)
{
    DIR *proc = opendir("/proc");
    int count = 0;
    const struct dirent *entry;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        char link[300], target[512];
        snprintf(link, sizeof link, "/proc/%s/cwd", entry->d_name);
        ssize_t n = atoi(entry->d_name) > 0 ? readlink(link, target, sizeof target - 1) : -1;
        if (n <= 0)
            continue;
        target[n] = '\0';
        if (strncmp(target, f->directory, strlen(f->directory)) == 0)
            count++;
    }
    closedir(proc);
    return count;
}

/* What is in the directory, hidden names too. */
static inline int fixture_entries(const struct fixture *f)
{
    DIR *dir = opendir(f->directory);
    int count = -2;
    while (dir != NULL && readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static inline void fixture_fini(struct fixture *f)
{
    struct err err = {0};
    if (f->rt != NULL)
        fixture_close(f);
    assert_int_equal(loop_fini(&f->loop), 0);
    assert_int_equal(fixture_processes(f), 0);
    assert_int_equal(fixture_entries(f), 0);
    assert_int_equal(local_tree_delete(f->directory, &err), 0);
}

/* Setup and teardown of every test: what a failed test leaves is ended and deleted. */
static inline int fixture_setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    fixture_init(f);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    DIR *dir = opendir(f->directory);
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        struct local_record member = {.name = (char *)(uintptr_t)entry->d_name, .member = true};
        local_agent_look(f->directory, &member);
        if (entry->d_name[0] != '.' && member.agent_pid != 0)
            kill(member.agent_pid, SIGKILL);
        for (int i = 0; i < 500 && entry->d_name[0] != '.' && member.agent_pid + member.watch_pid != 0; i++) {
            pg_server_wait_ms(20);
            local_agent_look(f->directory, &member);
        }
        char *data = local_path(f->directory, "", entry->d_name, "data");
        for (int i = 0; entry->d_name[0] != '.' && i < 100 && local_orphans(data, SIGKILL) > 0; i++)
            pg_server_wait_ms(20);
        free(data);
    }
    if (dir != NULL)
        closedir(dir);
    (void)local_tree_delete(f->directory, NULL);
    free(f);
    return 0;
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

static inline void on_instance(const struct err *err, const struct runtime_instance *i, void *data)
{
    struct answer *a = data;
    assert_false(a->done);
    a->done = true;
    if (err != NULL) {
        a->err = *err;
        return;
    }
    snprintf(a->name, sizeof a->name, "%s", i->name);
    snprintf(a->host, sizeof a->host, "%s", i->access.host);
    snprintf(a->password, sizeof a->password, "%s", i->access.password);
    snprintf(a->data, sizeof a->data, "%s", i->data_directory);
    snprintf(a->token, sizeof a->token, "%s", i->access.agent_token != NULL ? i->access.agent_token : "");
    a->port = i->access.port;
    a->pid = i->pid;
    a->member = i->member;
    a->agent_port = i->access.agent_port;
    a->agent_pid = i->agent_pid;
}

static inline void on_done(const struct err *err, void *data)
{
    struct answer *a = data;
    assert_false(a->done);
    a->done = true;
    if (err != NULL)
        a->err = *err;
}

static inline void on_list(const struct err *err, const struct runtime_instance *instances, int count,
                           void *data)
{
    struct answer *a = data;
    if (count > 0)
        on_instance(err, &instances[0], data);
    else
        on_done(err, data);
    a->count = count;
}

#define SPEC(instance)                                                                                       \
    {                                                                                                        \
        .name = (instance), .database = "shop", .shard = "s1", .owner = "app",                               \
        .owner_password = "owner's \\ secret"                                                                \
    }

static inline struct answer fixture_ensure(struct fixture *f, const struct runtime_spec *spec)
{
    struct answer a = {0};
    if (runtime_ensure(f->rt, spec, on_instance, &a, &a.err) == 0) {
        assert_false(a.done);
        fixture_run(f, &a.done);
    }
    return a;
}

static inline struct answer fixture_make(struct fixture *f, const char *name)
{
    const struct runtime_spec spec = SPEC(name);
    struct answer a = fixture_ensure(f, &spec);
    if (a.err.code != ERRC_NONE)
        fail_msg("%s", a.err.message);
    return a;
}

static inline struct answer fixture_stop(struct fixture *f, const char *name)
{
    struct answer a = {0};
    if (runtime_stop(f->rt, name, on_done, &a, &a.err) == 0)
        fixture_run(f, &a.done);
    return a;
}

static inline struct answer fixture_remove(struct fixture *f, const char *name)
{
    struct answer a = {0};
    if (runtime_remove(f->rt, name, on_done, &a, &a.err) == 0)
        fixture_run(f, &a.done);
    return a;
}

static inline struct answer fixture_list(struct fixture *f)
{
    struct answer a = {0};
    assert_int_equal(runtime_list(f->rt, on_list, &a, &a.err), 0);
    fixture_run(f, &a.done);
    return a;
}

/* First value of a query over TCP, "" for none; the test fails on an error. */
static inline void sql(const struct answer *a, const char *user, const char *password, const char *dbname,
                       const char *text, char *ret, size_t size)
{
    char port[16];
    snprintf(port, sizeof port, "%d", a->port);
    const char *keys[] = {"host", "port", "user", "password", "dbname", NULL};
    const char *values[] = {a->host, port, user, password, dbname, NULL};
    PGconn *conn = PQconnectdbParams(keys, values, 0);
    if (PQstatus(conn) != CONNECTION_OK)
        fail_msg("%s", PQerrorMessage(conn));
    PGresult *result = PQexec(conn, text);
    if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
        fail_msg("%s", PQerrorMessage(conn));
    snprintf(ret, size, "%s", PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
    PQclear(result);
    PQfinish(conn);
}

/* The same as the superuser. */
static inline const char *ask(const struct answer *a, const char *text)
{
    static char value[512];
    sql(a, "shardherd", a->password, "shop", text, value, sizeof value);
    return value;
}

static inline bool file_has(const char *directory, const char *leaf, const char *needle)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, leaf);
    char *text = local_file_read(path, 1u << 20, NULL);
    bool found = text != NULL && strstr(text, needle) != NULL;
    free(text);
    return found;
}

static inline mode_t file_mode(const char *directory, const char *leaf)
{
    char path[512];
    struct stat st = {0};
    snprintf(path, sizeof path, "%s/%s", directory, leaf);
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

#endif
