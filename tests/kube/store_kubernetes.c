/*
 * The store's suite against a real API server: SHARDHERD_TEST_KUBECONFIG names it. Each test has a store of
 * its own name.
 */
#include "store/store_suite.h"

#include "k8s/access.h"

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
    struct k8s_access *access = NULL;
    int rc = kubeconfig_load(getenv("SHARDHERD_TEST_KUBECONFIG"), NULL, &access, err);
    if (rc == 0)
        rc = store_kubernetes_open(&suite->loop, access, suite->dir, NULL, on_open, suite, err);
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
    if (getenv("SHARDHERD_TEST_KUBECONFIG") == NULL) {
        fprintf(stderr, "SHARDHERD_TEST_KUBECONFIG is not set: tests/kube sets it\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
