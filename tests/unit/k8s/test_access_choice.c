/* Which API server is meant: the option, KUBECONFIG, the pod's own, ~/.kube/config, in this order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "k8s/access.h"

static char dir[64];
static const char *const *variables; /* name, value, ..., NULL */

static const char *variable(struct env *env, const char *name)
{
    (void)env;
    for (size_t i = 0; variables[i] != NULL; i += 2)
        if (strcmp(variables[i], name) == 0)
            return variables[i + 1];
    return NULL;
}

static struct env *env_with(const char *const *pairs)
{
    static struct env env;
    env = *env_system();
    env.get = variable;
    variables = pairs;
    return &env;
}

static char *config(const char *name)
{
    char *path = mem_printf("%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(
        f,
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "contexts:\n- name: x\n  context: {cluster: x, user: x}\n"
        "clusters:\n- name: x\n  cluster: {server: 'https://%s'}\nusers:\n- name: x\n  user: {token: t}\n",
        strrchr(name, '/') != NULL ? strrchr(name, '/') + 1 : name);
    fclose(f);
    return path;
}

static void expect(const char *const *pairs, const char *option, const char *server)
{
    struct k8s_access_options options = {.kubeconfig = option};
    struct k8s_access *found = NULL;
    struct err err = {0};
    if (k8s_access_load(env_with(pairs), &options, &found, &err) != 0)
        fail_msg("%s", err.message);
    assert_string_equal(found->server, server);
    k8s_access_free(found);
}

static int setup(void **state)
{
    (void)state;
    memcpy(dir, "/tmp/k8s-choice-XXXXXX", 23);
    if (mkdtemp(dir) == NULL)
        return -1;
    char *home = mem_printf("%s/.kube", dir);
    int rc = mkdir(home, 0700);
    free(home);
    return rc;
}

static int teardown(void **state)
{
    static const char *const names[] = {"option", "variable", ".kube/config"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = mem_printf("%s/%s", dir, names[i]);
        unlink(path);
        free(path);
    }
    char *home = mem_printf("%s/.kube", dir);
    rmdir(home);
    free(home);
    return rmdir(dir);
}

static void test_K20_the_order(void **state)
{
    (void)state;
    char *option = config("option"), *given = config("variable"), *home = config(".kube/config");
    const char *const all[] = {"KUBECONFIG", given, "HOME", dir, NULL};
    const char *const empty[] = {"KUBECONFIG", "", "HOME", dir, NULL};
    expect(all, option, "https://option");
    expect(all, NULL, "https://variable");
    expect(all, "", "https://variable");
    expect(empty, NULL, "https://config");
    free(option);
    free(given);
    free(home);
}

/* Variables alone make no pod: a shell on a node, or a pod without a service account's token, has them as
 * well. (A real pod with its token: the tests in tests/kube.) */
static void test_K19_a_pod_has_a_token(void **state)
{
    (void)state;
    char *home = config(".kube/config");
    const char *const pod[] = {
        "KUBERNETES_SERVICE_HOST", "10.0.0.1", "KUBERNETES_SERVICE_PORT", "443", "HOME", dir, NULL};
    if (access("/var/run/secrets/kubernetes.io/serviceaccount/token", R_OK) == 0)
        skip(); /* this runs in a pod */
    assert_false(k8s_in_cluster(env_with(pod)));
    expect(pod, NULL, "https://config");
    free(home);
}

static void test_nothing_is_said_with_the_remedy(void **state)
{
    (void)state;
    const char *const none[] = {"HOME", "/nonexistent", NULL};
    struct k8s_access_options options = {0};
    struct k8s_access *found = NULL;
    struct err err = {0};
    assert_false(k8s_in_cluster(env_with(none)));
    assert_int_not_equal(k8s_access_load(env_with(none), &options, &found, &err), 0);
    assert_int_equal(err.code, ERRC_NOT_FOUND);
    assert_null(found);
    assert_string_equal(err.message,
                        "no Kubernetes here: not in a pod with a service account, KUBECONFIG is not "
                        "set and /nonexistent/.kube/config does not exist");
    /* a file that is named must be there */
    const char *const wrong[] = {"KUBECONFIG", "/nonexistent/file", "HOME", dir, NULL};
    assert_int_not_equal(k8s_access_load(env_with(wrong), &options, &found, &err), 0);
    assert_non_null(strstr(err.message, "/nonexistent/file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K20_the_order),
        cmocka_unit_test(test_K19_a_pod_has_a_token),
        cmocka_unit_test(test_nothing_is_said_with_the_remedy),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
