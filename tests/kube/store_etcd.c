/*
 * The store's suite against a real etcd: SHARDHERD_TEST_ETCD names its endpoints, with commas between them.
 * Each test has a prefix of its own.
 */
#include "store/store_suite.h"

static void on_open(const struct err *err, struct store *store, void *data)
{
    struct suite *suite = data;
    suite->store = store;
    if (err != NULL)
        fail_msg("%s", err->message);
    suite_arrived(suite);
}

static int suite_open(struct suite *suite, struct err *err)
{
    const char *endpoints[8];
    struct store_etcd_options o = {.endpoints = endpoints, .prefix = suite->dir};
    char *list = mem_strdup(getenv("SHARDHERD_TEST_ETCD"));
    for (char *at = list; at != NULL && o.endpoint_count < 8;) {
        endpoints[o.endpoint_count++] = at;
        at = strchr(at, ',');
        if (at != NULL)
            *at++ = '\0';
    }
    int rc = store_etcd_open(&suite->loop, &o, on_open, suite, err);
    free(list);
    if (rc != 0)
        return rc;
    suite->waiting++;
    suite_wait(suite);
    return 0;
}

static int suite_setup(void **state)
{
    struct suite *suite = suite_new();
    struct err err = {0};
    memcpy(suite->dir, "test-", 5);
    env_random_text(env_system(), suite->dir + 5, 10);
    strncat(suite->dir, "/", 2);
    if (suite_open(suite, &err) != 0)
        fail_msg("%s", err.message);
    *state = suite;
    return 0;
}

static int suite_teardown(void **state)
{
    suite_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {STORE_SUITE_TESTS};
    if (getenv("SHARDHERD_TEST_ETCD") == NULL) {
        fprintf(stderr, "SHARDHERD_TEST_ETCD is not set: tests/kube sets it\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
