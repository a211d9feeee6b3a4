/*
 * store_suite: what every back end of the store must do. A test program defines suite_open() for its back
 * end, includes this once, and puts STORE_SUITE_TESTS into its table.
 */
#ifndef STORE_SUITE_H
#define STORE_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "store/store.h"

#define SUITE_DEADLINE_NS (40 * ENV_NS_PER_S) /* a lease that never was takes 15 s to be had */

struct suite {
    struct loop loop;
    struct loop_timer deadline;
    struct store *store;
    int waiting; /* callbacks still to come before suite_wait() returns */
    bool late;
    char dir[64]; /* for back ends that keep files */
};

/* Opens the store that this test's earlier opens made, into suite->store (NULL on error); returns the code.
 */
static int suite_open(struct suite *suite, struct err *err);

/* What a callback reported. */
struct answer {
    struct suite *suite;
    int calls;
    struct err err;
    int64_t revision; /* or the term */
    char value[64];   /* its beginning */
    size_t length;
    int count;
    char keys[16][32];
};

static void suite_timeout(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct suite *suite = data;
    suite->late = true;
    loop_stop(&suite->loop);
}

static void suite_arrived(struct suite *suite)
{
    if (--suite->waiting == 0)
        loop_stop(&suite->loop);
}

/* Runs the loop until everything that was counted in `waiting` has arrived. */
static void suite_wait(struct suite *suite)
{
    loop_timer_start(&suite->deadline, SUITE_DEADLINE_NS);
    while (suite->waiting > 0 && !suite->late)
        loop_run(&suite->loop);
    loop_timer_stop(&suite->deadline);
    if (suite->late)
        fail_msg("%d callbacks did not come", suite->waiting);
}

static void answer_entry(struct answer *a, const struct store_entry *entry)
{
    a->revision = entry->revision;
    a->length = entry->value != NULL ? strlen(entry->value) : 0;
    snprintf(a->value, sizeof a->value, "%s", entry->value != NULL ? entry->value : "(deleted)");
}

static void answer_done(struct answer *a, const struct err *err)
{
    a->calls++;
    if (err != NULL)
        a->err = *err;
    suite_arrived(a->suite);
}

static void on_get(const struct err *err, const struct store_entry *entry, void *data)
{
    if (err == NULL)
        answer_entry(data, entry);
    answer_done(data, err);
}

static void on_list(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct answer *a = data;
    a->count = count;
    for (int i = 0; i < count && i < 16; i++)
        snprintf(a->keys[i], sizeof a->keys[i], "%s", entries[i].key);
    answer_done(a, err);
}

static void on_write(const struct err *err, int64_t revision, void *data)
{
    struct answer *a = data;
    a->revision = revision;
    answer_done(a, err);
}

/* The same shape as a write's answer. */
static void on_lease(const struct err *err, int64_t term, void *data)
{
    on_write(err, term, data);
}

/* Starts a write and returns; *a is filled when it is done. */
static void start_write(struct suite *suite, struct answer *a, const char *key, int64_t expected,
                        const char *value)
{
    *a = (struct answer){.suite = suite};
    struct err err = {0};
    suite->waiting++;
    if (store_compare_and_swap(suite->store, key, expected, value, on_write, a, &err) != 0)
        fail_msg("%s", err.message);
    assert_int_equal(a->calls, 0); /* never from inside the call */
}

static void start_get(struct suite *suite, struct answer *a, const char *key)
{
    *a = (struct answer){.suite = suite};
    suite->waiting++;
    assert_int_equal(store_get(suite->store, key, on_get, a, NULL), 0);
    assert_int_equal(a->calls, 0);
}

/* The revision, which must be there. */
static int64_t put(struct suite *suite, const char *key, int64_t expected, const char *value)
{
    struct answer a;
    start_write(suite, &a, key, expected, value);
    suite_wait(suite);
    if (a.err.code != ERRC_NONE)
        fail_msg("%s: %s", key, a.err.message);
    return a.revision;
}

static enum err_code put_code(struct suite *suite, const char *key, int64_t expected, const char *value)
{
    struct answer a;
    start_write(suite, &a, key, expected, value);
    suite_wait(suite);
    return a.err.code;
}

static void expect_entry(struct suite *suite, const char *key, const char *value, int64_t revision)
{
    struct answer a;
    start_get(suite, &a, key);
    suite_wait(suite);
    if (value == NULL) {
        assert_int_equal(a.err.code, ERRC_NOT_FOUND);
        assert_non_null(strstr(a.err.message, key));
        return;
    }
    if (a.err.code != ERRC_NONE)
        fail_msg("%s: %s", key, a.err.message);
    assert_string_equal(a.value, value);
    assert_int_equal(a.revision, revision);
}

static struct answer list(struct suite *suite, const char *prefix)
{
    struct answer a = {.suite = suite};
    suite->waiting++;
    assert_int_equal(store_list(suite->store, prefix, on_list, &a, NULL), 0);
    suite_wait(suite);
    assert_int_equal(a.err.code, ERRC_NONE);
    return a;
}

static void on_closed(void *data)
{
    suite_arrived(data);
}

static void suite_close(struct suite *suite)
{
    if (suite->store == NULL)
        return;
    suite->waiting++;
    store_close(suite->store, on_closed, suite);
    suite_wait(suite);
    suite->store = NULL;
}

static void suite_reopen(struct suite *suite)
{
    struct err err = {0};
    suite_close(suite);
    if (suite_open(suite, &err) != 0)
        fail_msg("%s", err.message);
}

static struct suite *suite_new(void)
{
    struct suite *suite = mem_zalloc(sizeof *suite);
    struct err err = {0};
    if (loop_init(&suite->loop, env_system(), &err) != 0)
        fail_msg("%s", err.message);
    loop_timer_init(&suite->loop, &suite->deadline, suite_timeout, suite);
    return suite;
}

static void suite_free(struct suite *suite)
{
    suite_close(suite);
    assert_int_equal(loop_fini(&suite->loop), 0);
    free(suite);
}

/* ---- the tests ---- */

static void suite_test_write_and_read(void **state)
{
    struct suite *s = *state;
    expect_entry(s, "db/shop/spec", NULL, 0);
    int64_t first = put(s, "db/shop/spec", 0, "{\"a\":1}");
    assert_true(first >= 1);
    expect_entry(s, "db/shop/spec", "{\"a\":1}", first);
    int64_t second = put(s, "db/shop/spec", first, "{\"a\":2}");
    assert_true(second > first);
    expect_entry(s, "db/shop/spec", "{\"a\":2}", second);
    suite_reopen(s);
    expect_entry(s, "db/shop/spec", "{\"a\":2}", second);
}

static void suite_test_compare(void **state)
{
    struct suite *s = *state;
    int64_t first = put(s, "k", 0, "one");
    assert_int_equal(put_code(s, "k", 0, "two"), ERRC_CONFLICT);
    assert_int_equal(put_code(s, "k", first + 1, "two"), ERRC_CONFLICT);
    assert_int_equal(put_code(s, "absent", first, "two"), ERRC_CONFLICT);
    assert_int_equal(put_code(s, "absent", first, NULL), ERRC_CONFLICT);
    expect_entry(s, "k", "one", first);
    expect_entry(s, "absent", NULL, 0);
}

static void suite_test_delete_and_make_again(void **state)
{
    struct suite *s = *state;
    int64_t first = put(s, "k", 0, "one");
    assert_int_equal(put_code(s, "k", first + 7, NULL), ERRC_CONFLICT);
    assert_int_equal(put(s, "k", first, NULL), 0);
    expect_entry(s, "k", NULL, 0);
    assert_int_equal(put_code(s, "k", first, "two"), ERRC_CONFLICT);
    /* A revision is never used again, or an old writer could win. */
    assert_true(put(s, "k", 0, "three") > first);
    assert_int_equal(put_code(s, "k", first, "four"), ERRC_CONFLICT);
}

static void suite_test_list(void **state)
{
    struct suite *s = *state;
    static const char *const keys[] = {"op/2", "op/10", "op/1", "op", "oq/1", "op-x", "op/zz/1", "Op/1"};
    assert_int_equal(list(s, "").count, 0);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        put(s, keys[i], 0, "v");
    struct answer a = list(s, "op/");
    assert_int_equal(a.count, 4);
    assert_string_equal(a.keys[0], "op/1");
    assert_string_equal(a.keys[1], "op/10");
    assert_string_equal(a.keys[2], "op/2");
    assert_string_equal(a.keys[3], "op/zz/1");
    assert_int_equal(list(s, "").count, 8);
    assert_int_equal(list(s, "op").count, 6);
    assert_int_equal(list(s, "op/1").count, 2);
    assert_int_equal(list(s, "none").count, 0);
}

static void suite_test_limits(void **state)
{
    struct suite *s = *state;
    static const char *const bad[] = {"", "a b", "a\n", "k%", "\xc3\xbc", "a\"", "k~", "\x7f"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(store_get(s->store, bad[i], on_get, NULL, NULL), ERRC_INVALID);
        assert_int_equal(store_compare_and_swap(s->store, bad[i], 0, "v", on_write, NULL, NULL),
                         ERRC_INVALID);
    }
    char key[STORE_KEY_MAX + 2];
    memset(key, 'k', sizeof key);
    key[STORE_KEY_MAX + 1] = '\0';
    assert_int_equal(store_get(s->store, key, on_get, NULL, NULL), ERRC_LIMIT);
    key[STORE_KEY_MAX] = '\0';
    put(s, key, 0, "v");
    char *value = mem_alloc(STORE_VALUE_MAX + 2);
    memset(value, 'v', STORE_VALUE_MAX + 2);
    value[STORE_VALUE_MAX + 1] = '\0';
    assert_int_equal(store_compare_and_swap(s->store, "k", 0, value, on_write, NULL, NULL), ERRC_LIMIT);
    value[STORE_VALUE_MAX] = '\0';
    put(s, "k", 0, value);
    free(value);
    struct answer a;
    start_get(s, &a, "k");
    suite_wait(s);
    assert_int_equal(a.length, STORE_VALUE_MAX);
    assert_int_equal(store_compare_and_swap(s->store, "k", -1, "v", on_write, NULL, NULL), ERRC_INVALID);
    assert_int_equal(store_compare_and_swap(s->store, "k", 0, NULL, on_write, NULL, NULL), ERRC_INVALID);
    put(s, "empty", 0, "");
}

/* Many at once: each is judged by what those before it wrote, and answered in order. */
static void suite_test_line(void **state)
{
    struct suite *s = *state;
    struct answer a[8];
    start_write(s, &a[0], "k", 0, "one");
    start_write(s, &a[1], "k", 0, "two");
    start_get(s, &a[2], "k");
    start_write(s, &a[3], "l", 0, "x");
    start_write(s, &a[4], "l", 0, "y");
    start_get(s, &a[5], "l");
    start_get(s, &a[6], "m");
    start_write(s, &a[7], "m", 0, "z");
    suite_wait(s);
    static const enum err_code codes[] = {ERRC_NONE,     ERRC_CONFLICT, ERRC_NONE,      ERRC_NONE,
                                          ERRC_CONFLICT, ERRC_NONE,     ERRC_NOT_FOUND, ERRC_NONE};
    for (int i = 0; i < 8; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].err.code, codes[i]);
    }
    assert_string_equal(a[2].value, "one");
    assert_int_equal(a[2].revision, a[0].revision);
    assert_string_equal(a[5].value, "x");
    assert_true(a[3].revision > a[0].revision && a[7].revision > a[3].revision);
}

static void suite_test_crowd(void **state)
{
    enum { CROWD = 1000 };
    struct suite *s = *state;
    struct answer *a = mem_array(CROWD, sizeof *a);
    for (int i = 0; i < CROWD; i++) {
        char key[32];
        snprintf(key, sizeof key, "op/%d", i / 2);
        start_write(s, &a[i], key, 0, "v");
    }
    suite_wait(s);
    int64_t last = 0;
    for (int i = 0; i < CROWD; i++) {
        assert_int_equal(a[i].err.code, i % 2 == 0 ? ERRC_NONE : ERRC_CONFLICT);
        assert_true(i % 2 != 0 || a[i].revision > last);
        last = i % 2 == 0 ? a[i].revision : last;
    }
    free(a);
    assert_int_equal(list(s, "op/").count, CROWD / 2);
}

struct seen {
    struct suite *suite;
    char text[512];
    struct store_watch *watch;
    struct seen *begin; /* starts this one's watch at the first event */
    int stop_after;     /* stops its own watch after so many events, 0 = never */
    int events;
    int64_t last;
};

static void on_event(const struct store_entry *entry, void *data)
{
    struct seen *seen = data;
    size_t used = strlen(seen->text);
    snprintf(seen->text + used, sizeof seen->text - used, "%s=%s;", entry->key,
             entry->value != NULL ? entry->value : "-");
    assert_true(entry->revision > seen->last);
    seen->last = entry->revision;
    if (++seen->events == seen->stop_after)
        store_watch_stop(seen->watch);
    if (seen->begin != NULL && seen->events == 1)
        assert_int_equal(
            store_watch(seen->suite->store, "", on_event, seen->begin, &seen->begin->watch, NULL), 0);
}

/* Runs the loop until the events are these, or ever more of others. */
static void expect_text(struct suite *suite, const struct seen *seen, const char *text)
{
    loop_timer_start(&suite->deadline, SUITE_DEADLINE_NS);
    while (strlen(seen->text) < strlen(text) && !suite->late)
        uv_run(&suite->loop.uv, UV_RUN_ONCE);
    loop_timer_stop(&suite->deadline);
    assert_string_equal(seen->text, text);
}

static void suite_test_watch(void **state)
{
    struct suite *s = *state;
    struct seen late = {.suite = s}, all = {.suite = s, .begin = &late}, ops = {.suite = s},
                first = {.suite = s, .stop_after = 1}, none = {.suite = s};
    put(s, "op/0", 0, "before");
    assert_int_equal(store_watch(s->store, "", on_event, &all, &all.watch, NULL), 0);
    assert_int_equal(store_watch(s->store, "op/", on_event, &ops, &ops.watch, NULL), 0);
    assert_int_equal(store_watch(s->store, "", on_event, &first, &first.watch, NULL), 0);
    assert_int_equal(store_watch(s->store, "zz", on_event, &none, &none.watch, NULL), 0);
    struct answer a[5];
    start_write(s, &a[0], "op/1", 0, "one");
    start_write(s, &a[1], "op/1", 0, "refused");
    start_write(s, &a[2], "db/1", 0, "two");
    suite_wait(s);
    start_write(s, &a[3], "op/1", a[0].revision, "three");
    suite_wait(s);
    start_write(s, &a[4], "op/1", a[3].revision, NULL);
    suite_wait(s);
    expect_text(s, &all, "op/1=one;db/1=two;op/1=three;op/1=-;");
    expect_entry(s, "op/1", NULL, 0); /* a further turn: nothing more has come */
    assert_string_equal(all.text, "op/1=one;db/1=two;op/1=three;op/1=-;");
    assert_string_equal(ops.text, "op/1=one;op/1=three;op/1=-;");
    assert_string_equal(first.text, "op/1=one;");
    assert_string_equal(late.text, "db/1=two;op/1=three;op/1=-;");
    assert_string_equal(none.text, "");
    store_watch_stop(all.watch);
    store_watch_stop(ops.watch);
    put(s, "op/9", 0, "unseen");
    assert_string_equal(ops.text, "op/1=one;op/1=three;op/1=-;");
    /* `late` and `none` end with the store. */
}

static int64_t lease(struct suite *s)
{
    struct answer a = {.suite = s};
    s->waiting++;
    assert_int_equal(store_lease(s->store, "manager-1", on_lease, NULL, &a, NULL), 0);
    assert_int_equal(a.calls, 0);
    suite_wait(s);
    assert_int_equal(a.err.code, ERRC_NONE);
    return a.revision;
}

static void suite_test_terms_grow(void **state)
{
    struct suite *s = *state;
    int64_t term = 0;
    for (int i = 0; i < 3; i++) {
        int64_t next = lease(s);
        assert_int_equal(next, term + 1);
        term = next;
        suite_reopen(s);
    }
}

static void suite_test_close_with_jobs_in_flight(void **state)
{
    enum { JOBS = 600 };
    struct suite *s = *state;
    struct answer *a = mem_array(JOBS, sizeof *a);
    for (int round = 0; round < 4; round++) {
        char key[32];
        /* Some go to the worker and are answered, some are with it, some stand in line. */
        for (int i = 0; i < JOBS; i++) {
            snprintf(key, sizeof key, "k/%d/%d", round, i);
            start_write(s, &a[i], key, 0, "v");
            for (int turn = 0; i == 250 && turn < round; turn++)
                uv_run(&s->loop.uv, UV_RUN_NOWAIT);
        }
        suite_close(s);
        int good = 0;
        for (int i = 0; i < JOBS; i++) {
            assert_int_equal(a[i].calls, 1);
            assert_true(a[i].err.code == ERRC_NONE || a[i].err.code == ERRC_CANCELED);
            good += a[i].err.code == ERRC_NONE;
        }
        suite_reopen(s);
        snprintf(key, sizeof key, "k/%d/", round);
        assert_int_equal(list(s, key).count, good);
    }
    free(a);
}

static void suite_test_calls_after_close(void **state)
{
    struct suite *s = *state;
    struct store_watch *watch;
    s->waiting++;
    store_close(s->store, on_closed, s);
    assert_int_equal(store_get(s->store, "k", on_get, NULL, NULL), ERRC_CLOSED);
    assert_int_equal(store_list(s->store, "k", on_list, NULL, NULL), ERRC_CLOSED);
    assert_int_equal(store_compare_and_swap(s->store, "k", 0, "v", on_write, NULL, NULL), ERRC_CLOSED);
    assert_int_equal(store_lease(s->store, "x", on_lease, NULL, NULL, NULL), ERRC_CLOSED);
    assert_int_equal(store_watch(s->store, "", on_event, NULL, &watch, NULL), ERRC_CLOSED);
    store_close(s->store, on_closed, NULL); /* the second call does nothing */
    suite_wait(s);
    s->store = NULL;
}

static void close_in_callback(const struct err *err, int64_t revision, void *data)
{
    (void)revision;
    struct suite *s = data;
    assert_null(err);
    s->waiting++;
    store_close(s->store, on_closed, s);
    suite_arrived(s);
}

static void suite_test_close_in_a_callback(void **state)
{
    struct suite *s = *state;
    struct answer a;
    s->waiting++;
    assert_int_equal(store_compare_and_swap(s->store, "k", 0, "v", close_in_callback, s, NULL), 0);
    start_write(s, &a, "l", 0, "v");
    suite_wait(s);
    s->store = NULL;
    assert_int_equal(a.calls, 1);
}

#define STORE_SUITE_TEST(f) cmocka_unit_test_setup_teardown(f, suite_setup, suite_teardown)

/* The program also defines suite_setup() and suite_teardown(), which give each test an empty open store. */
#define STORE_SUITE_TESTS                                                                                    \
    STORE_SUITE_TEST(suite_test_write_and_read), STORE_SUITE_TEST(suite_test_compare),                       \
        STORE_SUITE_TEST(suite_test_delete_and_make_again), STORE_SUITE_TEST(suite_test_list),               \
        STORE_SUITE_TEST(suite_test_limits), STORE_SUITE_TEST(suite_test_line),                              \
        STORE_SUITE_TEST(suite_test_crowd), STORE_SUITE_TEST(suite_test_watch),                              \
        STORE_SUITE_TEST(suite_test_terms_grow), STORE_SUITE_TEST(suite_test_close_with_jobs_in_flight),     \
        STORE_SUITE_TEST(suite_test_calls_after_close), STORE_SUITE_TEST(suite_test_close_in_a_callback)

#endif
