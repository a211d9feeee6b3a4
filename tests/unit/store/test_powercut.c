/*
 * A process that writes is killed at random moments, again and again. What it saw acknowledged must be there
 * afterwards; beyond that, at most the one write of each key that was under way.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/mem.h"
#include "base/text.h"
#include "loop/loop.h"
#include "store/store.h"

#define KEYS      12
#define BUDGET_NS (10 * ENV_NS_PER_S)
#define CUTS_MIN  10

/* What a key was last acknowledged to hold. The value's number grows by one with each write of the key. */
struct known {
    int64_t revision;
    long number;
};

/* ---- the writer ---- */

struct writer;

struct slot {
    struct writer *writer;
    int key;
    struct known now;
};

struct writer {
    struct loop loop;
    struct store *store;
    int out;
    struct slot slots[KEYS];
    struct known start[KEYS];
};

static void write_next(struct slot *slot);

/* A value's length depends on its number, so that writes cover from one to many pages. */
static char *value_of(int key, long number)
{
    size_t filler = (size_t)(number * 7919 + key * 104729) % 9000;
    char *value = mem_alloc(filler + 64);
    int n = snprintf(value, 64, "%d:%ld:", key, number);
    memset(value + n, 'a' + (int)(number % 26), filler);
    value[(size_t)n + filler] = '\0';
    return value;
}

static void written(const struct err *err, int64_t revision, void *data)
{
    struct slot *slot = data;
    char line[96];
    if (err != NULL)
        _exit(3);
    slot->now = (struct known){revision, slot->now.number + 1};
    int n = snprintf(line, sizeof line, "%d %lld %ld\n", slot->key, (long long)revision, slot->now.number);
    if (write(slot->writer->out, line, (size_t)n) != n) /* less than PIPE_BUF: whole or not at all */
        _exit(4);
    write_next(slot);
}

static void write_next(struct slot *slot)
{
    char key[16];
    snprintf(key, sizeof key, "k/%d", slot->key);
    char *value = value_of(slot->key, slot->now.number + 1);
    if (store_compare_and_swap(slot->writer->store, key, slot->now.revision, value, written, slot, NULL) != 0)
        _exit(5);
    free(value);
}

static void writer_opened(const struct err *err, struct store *store, void *data)
{
    struct writer *w = data;
    if (err != NULL) {
        dprintf(STDERR_FILENO, "writer: %s\n", err->message);
        _exit(6);
    }
    w->store = store;
    for (int k = 0; k < KEYS; k++) {
        w->slots[k] = (struct slot){w, k, w->start[k]};
        write_next(&w->slots[k]);
    }
}

static pid_t writer_start(const char *path, const struct known *start, int *ret_fd)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct writer *w = mem_zalloc(sizeof *w);
        close(ends[0]);
        w->out = ends[1];
        memcpy(w->start, start, sizeof w->start);
        if (loop_init(&w->loop, env_system(), NULL) != 0 ||
            store_sqlite_open(&w->loop, path, writer_opened, w, NULL) != 0)
            _exit(7);
        loop_run(&w->loop);
        _exit(8);
    }
    close(ends[1]);
    *ret_fd = ends[0];
    return pid;
}

/* ---- the judge ---- */

/* Takes the lines of the writer until `deadline_ns` or its end; a line cut by the end cannot occur. */
static long take_lines(FILE *in, struct known *acked, uint64_t deadline_ns)
{
    struct env *env = env_system();
    long taken = 0;
    char line[96];
    for (;;) {
        uint64_t now = env->monotonic_ns(env);
        struct pollfd wait = {.fd = fileno(in), .events = POLLIN};
        uint64_t left_ms = now < deadline_ns ? (deadline_ns - now) / ENV_NS_PER_MS : 0;
        if (poll(&wait, 1, left_ms < 60000 ? (int)left_ms : 60000) <= 0 ||
            fgets(line, sizeof line, in) == NULL)
            return taken;
        int key;
        long long revision;
        long number;
        assert_int_equal(sscanf(line, "%d %lld %ld", &key, &revision, &number), 3);
        assert_true(key >= 0 && key < KEYS && revision > acked[key].revision);
        acked[key] = (struct known){revision, number};
        taken++;
    }
}

struct judge {
    struct loop loop;
    struct store *store;
    struct known *acked; /* in: acknowledged; out: what is there */
    int ahead;           /* writes found that were not acknowledged */
};

static void judge_listed(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct judge *judge = data;
    bool seen[KEYS] = {false};
    if (err != NULL)
        fail_msg("%s", err->message);
    for (int i = 0; i < count; i++) {
        int key = -1;
        long number = -1;
        assert_int_equal(sscanf(entries[i].value, "%d:%ld:", &key, &number), 2);
        struct known *acked = &judge->acked[key];
        char *expected = value_of(key, number);
        assert_string_equal(entries[i].value, expected);
        free(expected);
        bool same = number == acked->number && entries[i].revision == acked->revision;
        bool ahead = number == acked->number + 1 && entries[i].revision > acked->revision;
        if (!same && !ahead)
            fail_msg("key %d: write %ld (revision %lld) was acknowledged, write %ld (revision %lld) is there",
                     key, acked->number, (long long)acked->revision, number, (long long)entries[i].revision);
        judge->ahead += ahead;
        *acked = (struct known){entries[i].revision, number};
        seen[key] = true;
    }
    for (int k = 0; k < KEYS; k++)
        if (!seen[k] && judge->acked[k].number > 0)
            fail_msg("key %d: write %ld was acknowledged and is gone", k, judge->acked[k].number);
    store_close(judge->store, NULL, NULL);
}

static void judge_opened(const struct err *err, struct store *store, void *data)
{
    struct judge *judge = data;
    if (err != NULL)
        fail_msg("after a kill: %s", err->message);
    judge->store = store;
    assert_int_equal(store_list(store, "k/", judge_listed, judge, NULL), 0);
}

static int judge_run(const char *path, struct known *acked)
{
    struct judge judge = {.acked = acked};
    assert_int_equal(loop_init(&judge.loop, env_system(), NULL), 0);
    assert_int_equal(store_sqlite_open(&judge.loop, path, judge_opened, &judge, NULL), 0);
    loop_run(&judge.loop);
    assert_int_equal(loop_fini(&judge.loop), 0);
    return judge.ahead;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* One writer's life: how long it may write differs, from before its first write to many checkpoints later. */
static long one_cut(const char *path, struct known *known, uint64_t life_ns)
{
    struct env *env = env_system();
    int fd, status = 0;
    pid_t pid = writer_start(path, known, &fd);
    FILE *in = fdopen(fd, "r");
    assert_non_null(in);
    setvbuf(in, NULL, _IONBF, 0); /* so that poll() tells the truth */
    long taken = take_lines(in, known, env->monotonic_ns(env) + life_ns);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status))
        fail_msg("the writer ended by itself with %d", WEXITSTATUS(status));
    taken += take_lines(in, known, UINT64_MAX / 2);
    fclose(in);
    return taken;
}

static void test_kill_at_random_moments(void **state)
{
    (void)state;
    struct env *env = env_system();
    char dir[] = "/tmp/shardherd-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/store.db", dir);
    uint64_t seed = 0;
    const char *given = env->get(env, "SHARDHERD_TEST_SEED");
    if (given == NULL || !text_to_uint64(given, &seed))
        seed = (uint64_t)env->wall_us(env);
    print_message("SHARDHERD_TEST_SEED=%llu\n", (unsigned long long)seed);
    struct known known[KEYS] = {{0, 0}};
    uint64_t end = env->monotonic_ns(env) + BUDGET_NS;
    long acked = 0, ahead = 0;
    int cuts = 0;
    for (; env->monotonic_ns(env) < end || cuts < CUTS_MIN; cuts++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t most = cuts % 4 == 3 ? 600 : 60;
        acked += one_cut(path, known, (seed >> 33) % (most * ENV_NS_PER_MS));
        ahead += judge_run(path, known);
    }
    print_message("%d kills, %ld writes acknowledged, %ld more found, 0 lost\n", cuts, acked, ahead);
    assert_true(acked > 100);
    assert_int_equal(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill_at_random_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
