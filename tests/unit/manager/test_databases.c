/* Databases: what applying one again may change, and defaults that follow the configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "fleet/range.h"
#include "manager/config_key.h"
#include "manager/databases.h"

#define FIRST  "-9223372036854775808..-1"
#define SECOND "0..9223372036854775807"

struct fixture {
    struct loop loop;
    struct fleet fleet;
    struct store *store;
    struct operations operations;
    struct databases *databases;
    struct balance_policy defaults;
    char directory[64];
    bool done;
    struct err err;
};

static void on_store(const struct err *err, struct store *store, void *data)
{
    struct fixture *f = data;
    assert_null(err);
    f->store = store;
    f->done = true;
}

static void wait_for(struct fixture *f)
{
    while (!f->done)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    f->done = false;
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    char path[128];
    *state = f;
    snprintf(f->directory, sizeof f->directory, "/tmp/shardherd-test-databases-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(path, sizeof path, "%s/store.db", f->directory);
    assert_int_equal(loop_init(&f->loop, env_system(), NULL), 0);
    fleet_init(&f->fleet);
    assert_int_equal(store_sqlite_open(&f->loop, path, on_store, f, NULL), 0);
    wait_for(f);
    struct operation_services services = {.loop = &f->loop, .store = f->store, .fleet = &f->fleet, .term = 1};
    operations_init(&f->operations, &services);
    f->databases = databases_new(&f->loop, f->directory, f->store, &f->fleet, &f->operations);
    balance_policy_defaults(&f->defaults);
    return 0;
}

static void on_closed(void *data)
{
    ((struct fixture *)data)->done = true;
}

static int teardown(void **state)
{
    static const char *const left[] = {"secrets/shop.pgpass", "secrets/other.pgpass", "store.db-wal",
                                       "store.db-shm", "store.db"};
    struct fixture *f = *state;
    char path[128];
    store_close(f->store, on_closed, f);
    wait_for(f);
    operations_fini(&f->operations);
    databases_free(f->databases);
    fleet_fini(&f->fleet);
    assert_int_equal(loop_fini(&f->loop), 0);
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", f->directory, left[i]);
        (void)unlink(path);
    }
    snprintf(path, sizeof path, "%s/secrets", f->directory);
    (void)rmdir(path);
    (void)rmdir(f->directory);
    free(f);
    return 0;
}

/* A specification; shards as JSON, rest as further members of spec (", \"owner\": ..."). */
static char *spec_text(const char *name, const char *shards, const char *rest)
{
    return mem_printf("{\"apiVersion\": \"shardherd.io/v1alpha1\", \"kind\": \"ShardedDatabase\","
                      "\"metadata\": {\"name\": \"%s\"}, \"spec\": {\"shards\": %s,"
                      "\"tables\": [{\"name\": \"t\", \"key\": \"k\"}]%s}}",
                      name, shards, rest);
}

static void on_written(const struct err *err, int64_t revision, void *data)
{
    assert_null(err);
    assert_true(revision > 0);
    ((struct fixture *)data)->done = true;
}

static void on_loaded(const struct err *err, void *data)
{
    if (err != NULL)
        fail_msg("%s", err->message);
    ((struct fixture *)data)->done = true;
}

/* Puts a database into the store. */
static void given(struct fixture *f, const char *name, const char *shards, const char *rest)
{
    char key[64];
    char *text = spec_text(name, shards, rest);
    snprintf(key, sizeof key, "db/%s/spec", name);
    assert_int_equal(store_compare_and_swap(f->store, key, 0, text, on_written, f, NULL), 0);
    wait_for(f);
    free(text);
}

static void load(struct fixture *f)
{
    assert_int_equal(databases_load(f->databases, &f->defaults, on_loaded, f, NULL), 0);
    wait_for(f);
}

static void on_applied(const struct databases_answer *answer, void *data)
{
    struct fixture *f = data;
    f->done = true;
    if (answer->err != NULL)
        f->err = *answer->err;
}

/* What applying (for a check only) says: "" = fine. */
static const char *apply(struct fixture *f, const char *shards, const char *rest)
{
    char *text = spec_text("shop", shards, rest);
    err_clear(&f->err);
    assert_int_equal(
        databases_apply(f->databases, "shop", text, strlen(text), &f->defaults, true, on_applied, f, &f->err),
        0);
    wait_for(f);
    assert_true(f->err.code == ERRC_NONE || f->err.code == ERRC_CONFLICT);
    free(text);
    return f->err.message;
}

static void expect_refusal(const char *said, const char *what)
{
    if (strstr(said, what) == NULL || strstr(said, "cannot be changed by applying it again") == NULL)
        fail_msg("\"%s\" expected, got \"%s\"", what, said);
}

static void test_what_may_not_change(void **state)
{
    struct fixture *f = *state;
    given(f, "shop", "2", "");
    load(f);
    assert_string_equal(apply(f, "2", ""), "");
    assert_string_equal(apply(f, "2", ", \"balance\": {\"threshold\": 5}"), "");
    assert_string_equal(apply(f,
                              "[{\"name\": \"s1\", \"range\": \"" FIRST "\"},"
                              " {\"name\": \"s2\", \"range\": \"" SECOND "\"}]",
                              ""),
                        "");
    assert_string_equal(apply(f,
                              "[{\"name\": \"s2\", \"range\": \"" SECOND "\"},"
                              " {\"name\": \"s1\", \"range\": \"" FIRST "\"}]",
                              ""),
                        "");
    expect_refusal(apply(f, "3", ""), "the number of shards");
    expect_refusal(apply(f,
                         "[{\"name\": \"s2\", \"range\": \"" FIRST "\"},"
                         " {\"name\": \"s1\", \"range\": \"" SECOND "\"}]",
                         ""),
                   "the name of a shard");
    expect_refusal(apply(f, "[{\"name\": \"s1\"}, {\"name\": \"third\"}]", ""), "the name of a shard");
    expect_refusal(apply(f,
                         "[{\"name\": \"s1\", \"range\": \"-9223372036854775808..5\"},"
                         " {\"name\": \"s2\", \"range\": \"6..9223372036854775807\"}]",
                         ""),
                   "a range of its shards");
    expect_refusal(apply(f, "[{\"name\": \"s1\", \"instance\": \"pg-a\"}, {\"name\": \"s2\"}]", ""),
                   "the instance of a shard");
    expect_refusal(apply(f, "2", ", \"owner\": \"somebody\""), "the owner");
    expect_refusal(apply(f, "2", ", \"schema\": \"SELECT 1\""), "the schema");
}

static void expect_policy(const struct balance_policy *policy, const struct balance_policy *expected)
{
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (!config_key_equal(&keys[i], policy, expected))
            fail_msg("%s differs", keys[i].path);
}

/* What a database says itself stays, the rest follows the configuration. */
static void test_defaults_that_change(void **state)
{
    struct fixture *f = *state;
    f->defaults.threshold = 100;
    given(f, "shop", "2", "");
    given(f, "other", "2", ", \"balance\": {\"threshold\": 7, \"merge\": \"off\", \"bake\": \"5s\"}");
    load(f);
    const struct balance_policy *shop = &fleet_find_database(&f->fleet, "shop")->policy;
    const struct balance_policy *other = &fleet_find_database(&f->fleet, "other")->policy;
    assert_true(shop->threshold > 99 && shop->threshold < 101);
    assert_true(other->threshold > 6 && other->threshold < 8);
    f->defaults = (struct balance_policy){.split = AUTO_OFF,
                                          .merge = AUTO_ON,
                                          .rebalance = AUTO_ON,
                                          .objective = LOAD_SIZE,
                                          .threshold = 200,
                                          .relative = 3,
                                          .window = 17,
                                          .cooldown_ns = 1000,
                                          .merge_after_ns = 2000,
                                          .max_shards = 9,
                                          .sample_ns = 3000,
                                          .bake_ns = 4000};
    uint64_t version = f->fleet.version;
    databases_set_defaults(f->databases, &f->defaults);
    assert_true(f->fleet.version > version);
    expect_policy(shop, &f->defaults);
    struct balance_policy expected = f->defaults;
    expected.threshold = 7;
    expected.merge = AUTO_OFF;
    expected.bake_ns = 5 * ENV_NS_PER_S;
    expect_policy(other, &expected);
}

static int64_t thread_cpu_ns(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A list of shards with ranges and an SQL text, near the limit of 1 MiB. */
static char *large_spec(void)
{
    enum { SHARDS = 1000 };
    struct range ranges[SHARDS];
    struct buf shards = {0}, rest = {0};
    range_split_evenly(SHARDS, ranges);
    for (int i = 0; i < SHARDS; i++) {
        char range[RANGE_TEXT_SIZE];
        range_format(&ranges[i], range);
        buf_printf(&shards, "%s{\"name\": \"a-rather-long-name-%d\", \"range\": \"%s\"}", i == 0 ? "[" : ",",
                   i, range);
    }
    buf_add_text(&shards, "]");
    buf_add_text(&rest, ", \"schema\": \"");
    while (rest.length < 900u * 1024)
        buf_add_text(&rest, "CREATE TABLE t (k bigint PRIMARY KEY);\\n");
    buf_add_text(&rest, "\"");
    char *text = spec_text("shop", buf_text(&shards), buf_text(&rest));
    buf_free(&shards);
    buf_free(&rest);
    return text;
}

/* Reading, comparing and printing it is not done on the loop. */
static void test_a_large_specification(void **state)
{
    struct fixture *f = *state;
    struct database_spec spec;
    char *text = large_spec();
    int64_t before = thread_cpu_ns();
    assert_int_equal(database_spec_parse(text, strlen(text), "test", NULL, &spec, &f->err), 0);
    int64_t parsing = thread_cpu_ns() - before;
    database_spec_free(&spec);
    assert_int_equal(store_compare_and_swap(f->store, "db/shop/spec", 0, text, on_written, f, NULL), 0);
    wait_for(f);
    before = thread_cpu_ns();
    load(f);
    int64_t loading = thread_cpu_ns() - before;
    fleet_find_database(&f->fleet, "shop")->routing = routing_new("shop"); /* nothing is to be provisioned */
    before = thread_cpu_ns();
    assert_int_equal(databases_apply(f->databases, "shop", text, strlen(text), &f->defaults, false,
                                     on_applied, f, &f->err),
                     0);
    wait_for(f);
    int64_t applying = thread_cpu_ns() - before;
    assert_string_equal(f->err.message, "");
    print_message("parsing takes %.2f ms; of the loop, loading took %.2f ms, applying %.2f ms\n",
                  (double)parsing / 1e6, (double)loading / 1e6, (double)applying / 1e6);
    assert_true(loading < parsing / 2);
    assert_true(applying < parsing / 2);
    free(text);
}

struct answers {
    int count, conflicts;
};

static void on_one_of_two(const struct databases_answer *answer, void *data)
{
    struct answers *answers = data;
    answers->count++;
    if (answer->err != NULL) {
        assert_int_equal(answer->err->code, ERRC_CONFLICT);
        answers->conflicts++;
    }
}

/* Two at the same moment: the later one finds that what it was compared with has changed. */
static void test_applied_twice_at_once(void **state)
{
    struct fixture *f = *state;
    given(f, "shop", "2", "");
    load(f);
    fleet_find_database(&f->fleet, "shop")->routing = routing_new("shop");
    struct answers answers = {0};
    static const char *const thresholds[] = {"5", "6"};
    for (int i = 0; i < 2; i++) {
        char *rest = mem_printf(", \"balance\": {\"threshold\": %s}", thresholds[i]);
        char *text = spec_text("shop", "2", rest);
        assert_int_equal(databases_apply(f->databases, "shop", text, strlen(text), &f->defaults, false,
                                         on_one_of_two, &answers, NULL),
                         0);
        free(rest);
        free(text);
    }
    while (answers.count < 2)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_int_equal(answers.conflicts, 1);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_may_not_change),
        TEST(test_defaults_that_change),
        TEST(test_a_large_specification),
        TEST(test_applied_twice_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
