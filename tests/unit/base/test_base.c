/* Buffers, lists, the state machine, the histogram, the log and the environment's door. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/hist.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sm.h"

/* ---- what a child does to its stderr, and how it ends ---- */

struct death {
    char text[16384];
    int status;
};

static void run_in_child(void (*body)(void), struct death *ret)
{
    int fds[2];
    memset(ret, 0, sizeof *ret);
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    close(fds[1]);
    size_t length = 0;
    for (ssize_t n; (n = read(fds[0], ret->text + length, sizeof ret->text - 1 - length)) > 0;)
        length += (size_t)n;
    close(fds[0]);
    assert_int_equal(waitpid(pid, &ret->status, 0), pid);
}

static void assert_aborted(const struct death *d, const char *text)
{
    assert_true(WIFSIGNALED(d->status));
    assert_int_equal(WTERMSIG(d->status), SIGABRT);
    if (strstr(d->text, text) == NULL)
        fail_msg("stderr: %s", d->text);
}

/* ---- buf ---- */

static void test_buf_grows_and_consumes(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_string_equal(buf_text(&b), "");
    for (int i = 0; i < 1000; i++)
        assert_true(buf_printf(&b, "%d,", i));
    assert_int_equal(b.length, 3890);
    assert_int_equal(strlen(b.data), b.length);
    buf_consume(&b, 4);
    assert_int_equal(strncmp(buf_text(&b), "2,3,", 4), 0);
    buf_consume(&b, b.length);
    assert_string_equal(buf_text(&b), "");
    assert_true(buf_add(&b, "a\0b", 3));
    assert_int_equal(b.length, 3);
    char *taken = buf_take(&b);
    assert_memory_equal(taken, "a\0b", 4);
    free(taken);
    assert_int_equal(b.length, 0);
    taken = buf_take(&b);
    assert_string_equal(taken, "");
    free(taken);
    buf_free(&b);
    buf_free(&b);
}

static void test_buf_limit_is_exact(void **state)
{
    (void)state;
    struct buf b = {.limit = 10};
    assert_true(buf_add_text(&b, "12345"));
    assert_false(buf_add_text(&b, "678901"));
    assert_true(b.overflowed);
    assert_string_equal(buf_text(&b), "12345");
    assert_false(buf_printf(&b, "%s", "678901"));
    assert_string_equal(buf_text(&b), "12345");
    assert_true(buf_printf(&b, "%s", "67890"));
    assert_false(buf_addc(&b, 'x'));
    assert_string_equal(buf_text(&b), "1234567890");
    buf_reset(&b);
    assert_true(buf_add_text(&b, "1234567890"));
    buf_free(&b);
}

static void test_buf_reserve(void **state)
{
    (void)state;
    struct buf b = {0};
    char *room = buf_reserve(&b, 100000);
    memset(room, 'r', 100000);
    b.length += 100000;
    assert_true(buf_addc(&b, '!'));
    assert_int_equal(b.data[99999], 'r');
    assert_int_equal(b.data[100000], '!');
    buf_free(&b);
}

/* ---- list ---- */

struct item {
    int value;
    struct list node;
};

static void test_list(void **state)
{
    (void)state;
    struct list head;
    struct item items[5];
    list_init(&head);
    assert_null(list_first(&head));
    for (int i = 0; i < 5; i++) {
        items[i].value = i;
        list_append(&head, &items[i].node);
    }
    int sum = 0;
    list_each(node, &head)
    {
        struct item *item = list_item(node, struct item, node);
        sum = sum * 10 + item->value;
        if (item->value % 2 == 0)
            list_remove(node);
    }
    assert_int_equal(sum, 1234);
    list_remove(&items[0].node); /* in no list: nothing happens */
    assert_ptr_equal(list_first(&head), &items[1].node);
    list_remove(&items[1].node);
    list_remove(&items[3].node);
    assert_true(list_empty(&head));
}

/* ---- sm ---- */

enum { ONE, TWO, END };

static const struct sm_state table[] = {
    {"one", SM_NEXT(TWO) | SM_NEXT(ONE), false},
    {"two", SM_NEXT(END), false},
    {"end", 0, true},
};

static void on_moved(const struct sm *sm, int from, void *data)
{
    int *moves = data;
    *moves = *moves * 100 + from * 10 + sm_now(sm);
}

static void test_sm_moves_along_edges(void **state)
{
    (void)state;
    struct sm sm;
    int moves = 0;
    sm_init(&sm, table, 3, ONE, on_moved, &moves);
    assert_true(sm_may(&sm, TWO));
    assert_false(sm_may(&sm, END));
    assert_false(sm_may(&sm, 3));
    assert_false(sm_may(&sm, -1));
    sm_move(&sm, ONE);
    sm_move(&sm, TWO);
    assert_string_equal(sm_name(&sm), "two");
    sm_move(&sm, END);
    sm_fini(&sm);
    assert_int_equal(moves, 112); /* 0>0, 0>1, 1>2 */
    assert_int_equal(sm_find(table, 3, "two"), TWO);
    assert_int_equal(sm_find(table, 3, "none"), -1);
}

static void take_a_forbidden_edge(void)
{
    struct sm sm;
    sm_init(&sm, table, 3, ONE, NULL, NULL);
    sm_move(&sm, END);
}

static void end_too_early(void)
{
    struct sm sm;
    sm_init(&sm, table, 3, ONE, NULL, NULL);
    sm_move(&sm, TWO);
    sm_fini(&sm);
}

static void test_sm_aborts_on_a_defect(void **state)
{
    (void)state;
    struct death d;
    run_in_child(take_a_forbidden_edge, &d);
    assert_aborted(&d, "no edge from one to end");
    run_in_child(end_too_early, &d);
    assert_aborted(&d, "ended in state two");
}

/* ---- mem ---- */

static void resize_beyond_everything(void)
{
    free(mem_resize(NULL, SIZE_MAX / 2, 3));
}

static void test_mem_overflow_aborts(void **state)
{
    (void)state;
    struct death d;
    run_in_child(resize_beyond_everything, &d);
    assert_aborted(&d, "out of memory");
}

/* ---- hist ---- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_hist_quantiles_against_exact(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static const double quantiles[] = {0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999};
    uint64_t *values = mem_array(COUNT, sizeof *values);
    struct hist h, half[2];
    hist_reset(&h);
    hist_reset(&half[0]);
    hist_reset(&half[1]);
    uint64_t seed = 42, sum = 0;
    for (int i = 0; i < COUNT; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        values[i] = (seed >> 40) >> (seed % 25); /* spread over all magnitudes up to 16 s */
        sum += values[i];
        hist_add(&h, values[i]);
        hist_add(&half[i % 2], values[i]);
    }
    qsort(values, COUNT, sizeof values[0], by_value);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        uint64_t exact = values[(size_t)(quantiles[i] * COUNT)];
        uint64_t got = hist_quantile(&h, quantiles[i]);
        if (got < exact || got > exact + exact / 32 + 1)
            fail_msg("q %.4f: %llu, exact %llu", quantiles[i], (unsigned long long)got,
                     (unsigned long long)exact);
    }
    assert_true(hist_quantile(&h, 1.0) == values[COUNT - 1]);
    assert_true(h.sum_us == sum);
    hist_merge(&half[0], &half[1]);
    assert_memory_equal(&half[0], &h, sizeof h);
    uint64_t below = 0;
    while (below < COUNT && values[below] <= 1023)
        below++;
    assert_int_equal(hist_at_or_below(&h, 1023), below);
    free(values);
}

static void test_hist_edges(void **state)
{
    (void)state;
    struct hist h;
    hist_reset(&h);
    assert_int_equal(hist_quantile(&h, 0.5), 0);
    hist_add(&h, UINT64_MAX / 4); /* far beyond the range: the last bucket, the exact maximum */
    assert_true(hist_quantile(&h, 1.0) == UINT64_MAX / 4);
    assert_int_equal(h.buckets[HIST_BUCKETS - 1], 1);
    hist_add(&h, 0);
    assert_int_equal(hist_quantile(&h, 0.0), 0);
    assert_int_equal(hist_at_or_below(&h, 0), 1);
}

static void test_hist_sparse(void **state)
{
    (void)state;
    struct hist_sparse sparse = {0};
    struct hist copy, h;
    hist_reset(&h);
    hist_sparse_copy(&sparse, &copy);
    assert_memory_equal(&copy, &h, sizeof h);
    for (uint64_t us = 1; us < UINT64_MAX / 4; us += us / 3 + 1) {
        hist_add(&h, us);
        hist_sparse_add(&sparse, us);
    }
    hist_sparse_copy(&sparse, &copy);
    assert_memory_equal(&copy, &h, sizeof h);
    hist_sparse_free(&sparse);
    assert_true(sparse.count == 0 && sparse.octaves[0] == NULL);
    hist_sparse_add(&sparse, 700);
    hist_sparse_add(&sparse, 800);
    int octaves = 0;
    for (int i = 0; i < HIST_OCTAVES; i++)
        octaves += sparse.octaves[i] != NULL;
    assert_int_equal(octaves, 1); /* what nothing fell into takes nothing */
    hist_sparse_free(&sparse);
}

/* Several bounds in one pass are what each is by itself, and that is what a walk over all values says. */
static void test_hist_cumulate(void **state)
{
    (void)state;
    static const uint64_t bounds[] = {0, 31, 32, 1000, 1023, 5000, 65535, 100000, 30000000, UINT64_MAX / 2};
    enum { BOUNDS = sizeof bounds / sizeof *bounds };
    struct hist h;
    uint64_t found[BOUNDS], below[BOUNDS] = {0};
    hist_reset(&h);
    for (uint64_t us = 0; us < 200000; us += 1 + us / 512) {
        hist_add(&h, us);
        for (int i = 0; i < BOUNDS; i++)
            below[i] += us <= bounds[i];
    }
    hist_cumulate(&h, bounds, BOUNDS, found);
    for (int i = 0; i < BOUNDS; i++) {
        assert_true(found[i] == hist_at_or_below(&h, bounds[i]));
        assert_true(found[i] <= below[i] && below[i] - found[i] <= below[i] / 32);
    }
    assert_true(found[0] == 1 && found[1] == 32 && found[2] == 33 && found[4] == below[4]);
    assert_true(found[BOUNDS - 1] == h.count);
}

/* ---- log ---- */

static void log_logfmt(void)
{
    log_setup(LOG_INFO, LOG_LOGFMT);
    log_event(LOG_DEBUG, "hidden", NULL);
    log_event(LOG_INFO, "shard split", "shard", "s1", "empty", "", "left_out", (const char *)NULL, "quoted",
              "a \"b\" \\ c", "lines", "1\n2\t3", "escape", "\x1b[31m", "equals", "a=b", "n", log_num(-5),
              "r", log_real(1.25, 2), NULL);
}

static void test_log_logfmt(void **state)
{
    (void)state;
    struct death d;
    run_in_child(log_logfmt, &d);
    const char *rest = strstr(d.text, " level=");
    assert_non_null(rest);
    assert_int_equal(strncmp(d.text, "ts=20", 5), 0);
    assert_string_equal(rest,
                        " level=info msg=\"shard split\" shard=s1 empty=\"\" quoted=\"a \\\"b\\\" \\\\ c\" "
                        "lines=\"1\\n2\\t3\" escape=\"\\u001b[31m\" equals=\"a=b\" n=-5 r=1.25\n");
}

static void log_json(void)
{
    log_setup(LOG_DEBUG, LOG_JSON);
    log_event(LOG_DEBUG, "a \"b\"", "k", "v\\", NULL);
}

static void test_log_json(void **state)
{
    (void)state;
    struct death d;
    run_in_child(log_json, &d);
    assert_int_equal(strncmp(d.text, "{\"ts\":\"20", 9), 0);
    assert_string_equal(strstr(d.text, ",\"level\""),
                        ",\"level\":\"debug\",\"msg\":\"a \\\"b\\\"\",\"k\":\"v\\\\\"}\n");
}

/* Values far too long, several of them: the line is cut, and still ends as it must. */
static void log_long(enum log_format format)
{
    static char value[6000];
    memset(value, 'v', sizeof value - 1);
    log_setup(LOG_INFO, format);
    log_event(LOG_INFO, "long", "a", value, "b", value, "c", value, "d", value, "e", value, "f", value, "g",
              value, "h", value, "i", value, "j", value, NULL);
    memset(value, '"', sizeof value - 1);
    log_event(LOG_INFO, "long", "a", value, "b", value, NULL);
}

static void log_long_logfmt(void)
{
    log_long(LOG_LOGFMT);
}

static void log_long_json(void)
{
    log_long(LOG_JSON);
}

static void check_long(void (*body)(void), const char *end)
{
    struct death d;
    run_in_child(body, &d);
    char *first = d.text;
    char *newline = strchr(first, '\n');
    assert_non_null(newline);
    assert_true(newline - first < LOG_LINE_MAX);
    assert_memory_equal(newline - strlen(end), end, strlen(end));
    char *second = newline + 1;
    newline = strchr(second, '\n');
    assert_non_null(newline);
    assert_true(newline - second < LOG_LINE_MAX);
    assert_memory_equal(newline - strlen(end), end, strlen(end));
    assert_int_equal(newline[1], '\0'); /* two events, two lines */
    assert_non_null(strstr(first, "vvv..."));
}

static void test_log_cuts_long_lines(void **state)
{
    (void)state;
    check_long(log_long_logfmt, "");
    check_long(log_long_json, "\"}");
}

static void test_log_levels(void **state)
{
    (void)state;
    assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
    assert_int_equal(log_level_parse("error"), LOG_ERROR);
    assert_int_equal(log_level_parse("ERROR"), -1);
    assert_int_equal(log_level_parse(""), -1);
}

/* ---- env ---- */

static void fixed_random(struct env *env, void *out, size_t n)
{
    (void)env;
    memset(out, 0x5a, n);
}

static void test_env(void **state)
{
    (void)state;
    struct env *env = env_system();
    uint64_t a = env->monotonic_ns(env);
    assert_true(env->monotonic_ns(env) >= a);
    assert_true(env->wall_us(env) > 1600000000000000);
    char text[ENV_TIME_SIZE];
    env_format_time(1763709300123456, text);
    assert_string_equal(text, "2025-11-21T07:15:00.123456Z");
    env_format_time(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00.000000Z");
    int seen[7] = {0};
    for (int i = 0; i < 7000; i++)
        seen[env_random_below(env, 7)]++;
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 700, 1300); /* ten standard deviations */
    assert_int_equal(env_random_below(env, 1), 0);
    double unit = env_random_unit(env);
    assert_true(unit >= 0 && unit < 1);
}

static void test_env_random_text(void **state)
{
    (void)state;
    char a[33], b[33];
    env_random_text(env_system(), a, 32);
    env_random_text(env_system(), b, 32);
    assert_int_equal(strlen(a), 32);
    assert_int_equal(strspn(a, "abcdefghijkmnpqrstuvwxyz23456789"), 32);
    assert_string_not_equal(a, b);
    struct env fixed = *env_system();
    fixed.random = fixed_random;
    env_random_text(&fixed, a, 32);
    env_random_text(&fixed, b, 32);
    assert_string_equal(a, b); /* it comes from the vtable and nowhere else */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_grows_and_consumes),
        cmocka_unit_test(test_buf_limit_is_exact),
        cmocka_unit_test(test_buf_reserve),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_sm_moves_along_edges),
        cmocka_unit_test(test_sm_aborts_on_a_defect),
        cmocka_unit_test(test_mem_overflow_aborts),
        cmocka_unit_test(test_hist_quantiles_against_exact),
        cmocka_unit_test(test_hist_edges),
        cmocka_unit_test(test_hist_cumulate),
        cmocka_unit_test(test_hist_sparse),
        cmocka_unit_test(test_log_logfmt),
        cmocka_unit_test(test_log_json),
        cmocka_unit_test(test_log_cuts_long_lines),
        cmocka_unit_test(test_log_levels),
        cmocka_unit_test(test_env),
        cmocka_unit_test(test_env_random_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
