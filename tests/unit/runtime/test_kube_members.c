/* Shards of several instances: their objects, and the label that says who is the primary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/err.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_pod.h"
#include "runtime/kube_roles.h"

/* ---- objects ---- */

static int all_of(const struct kube_object *object, void *data, struct err *err)
{
    (void)err;
    char *json = yyjson_mut_val_write(object->root, 0, NULL);
    buf_printf(data, "%s%s", ((struct buf *)data)->length > 0 ? "," : "[", json);
    free(json);
    return 0;
}

static int left; /* of a shard that had more */

/* The objects as one array. yyjson_doc_free() it; NULL and err when there are none. */
static yyjson_doc *objects(const char *spec, struct err *err)
{
    struct buf text = {0};
    yyjson_doc *doc = yyjson_read(spec, strlen(spec), 0), *all = NULL;
    const struct kube_shard shard = {.database = "shop",
                                     .name_space = "ns",
                                     .shard = "s1",
                                     .spec = yyjson_doc_get_root(doc),
                                     .image = "shardherd:1",
                                     .members = left > 0,
                                     .instances = left};
    if (kube_objects_each(&shard, all_of, &text, err) == 0) {
        buf_printf(&text, "]");
        all = yyjson_read(buf_text(&text), text.length, 0);
    }
    buf_free(&text);
    yyjson_doc_free(doc);
    return all;
}

static yyjson_val *object_of(yyjson_doc *all, const char *kind, const char *name)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(yyjson_doc_get_root(all), at, n, one)
    {
        if (yyjson_equals_str(yyjson_obj_get(one, "kind"), kind) &&
            yyjson_equals_str(yyjson_ptr_get(one, "/metadata/name"), name))
            return one;
    }
    fail_msg("there is no %s %s", kind, name);
    return NULL;
}

static void text_is(yyjson_val *object, const char *pointer, const char *expected)
{
    const char *found = yyjson_get_str(yyjson_ptr_get(object, pointer));
    if (expected == NULL)
        assert_null(found);
    else {
        assert_non_null(found);
        assert_string_equal(found, expected);
    }
}

static bool has(yyjson_val *array, const char *text)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(array, at, n, one)
    {
        if (yyjson_equals_str(one, text))
            return true;
    }
    return false;
}

#define CONTAINER "/spec/template/spec/containers/0"

static void test_objects_of_three(void **state)
{
    struct err err = {0};
    yyjson_doc *all = objects("{\"instances\":3,\"update\":{\"strategy\":\"RollingUpdate\"}}", &err);
    (void)state;
    assert_non_null(all);
    yyjson_val *set = object_of(all, "StatefulSet", "shop-s1"),
               *args = yyjson_ptr_get(set, CONTAINER "/args");
    assert_int_equal(yyjson_get_int(yyjson_ptr_get(set, "/spec/replicas")), 3);
    text_is(set, "/metadata/annotations/shardherd.io~1instances", "3");
    text_is(set, "/spec/podManagementPolicy", "Parallel"); /* a pod that is not ready holds up no other */
    text_is(set, "/spec/updateStrategy/type", "OnDelete");
    assert_true(has(args, "--member=$(POD_NAME)"));
    assert_true(has(args, "--token-file=/etc/shardherd/credentials/agent-token"));
    assert_true(has(args, "--http-tls=/etc/shardherd/agent"));
    assert_false(has(args, "--client-certificates"));
    text_is(set, CONTAINER "/env/0/valueFrom/fieldRef/fieldPath", "metadata.name");
    /* started when its agent answers, ready when its server does */
    text_is(set, CONTAINER "/startupProbe/httpGet/path", "/livez");
    text_is(set, CONTAINER "/livenessProbe/httpGet/path", "/livez");
    text_is(set, CONTAINER "/readinessProbe/httpGet/path", "/readyz");
    text_is(set, CONTAINER "/readinessProbe/httpGet/scheme", "HTTPS");
    text_is(object_of(all, "Service", "shop-s1"), "/spec/selector/shardherd.io~1role", "primary");
    text_is(object_of(all, "Service", "shop-s1-ro"), "/spec/selector/shardherd.io~1role", "standby");
    text_is(object_of(all, "Service", "shop-s1-pods"), "/spec/selector/shardherd.io~1role", NULL);
    yyjson_val *budget = object_of(all, "PodDisruptionBudget", "shop-s1");
    assert_int_equal(yyjson_get_int(yyjson_ptr_get(budget, "/spec/maxUnavailable")), 1);
    yyjson_doc_free(all);
}

/* The kubelet shows no certificate: the agent's folder has no authority that it would be asked for one of. */
static void test_volumes_of_three(void **state)
{
    struct err err = {0};
    yyjson_doc *all = objects("{\"instances\":3}", &err);
    yyjson_val *volumes =
        yyjson_ptr_get(object_of(all, "StatefulSet", "shop-s1"), "/spec/template/spec/volumes");
    yyjson_val *one;
    size_t at, n;
    unsigned seen = 0;
    (void)state;
    yyjson_arr_foreach(volumes, at, n, one)
    {
        if (yyjson_equals_str(yyjson_obj_get(one, "name"), "agent")) {
            text_is(one, "/secret/secretName", "shop-s1-tls");
            text_is(one, "/secret/items/0/key", "tls.crt");
            text_is(one, "/secret/items/1/key", "tls.key");
            assert_int_equal(yyjson_arr_size(yyjson_ptr_get(one, "/secret/items")), 2);
            seen++;
        } else if (yyjson_equals_str(yyjson_obj_get(one, "name"), "credentials")) {
            assert_int_equal(yyjson_get_int(yyjson_ptr_get(one, "/secret/defaultMode")), 0400);
            seen++;
        }
    }
    assert_int_equal(seen, 2);
    yyjson_doc_free(all);
}

static void test_objects_of_one_have_nothing_of_it(void **state)
{
    static const char *const specs[] = {"{}", "{\"instances\":1}",
                                        "{\"instances\":1,\"tls\":{\"mode\":\"off\"}}"};
    static const char *const words[] = {"--member",
                                        "POD_NAME",
                                        "agent-token",
                                        "HTTPS",
                                        "OnDelete",
                                        "/agent",
                                        "shardherd.io/instances",
                                        "shardherd.io/role",
                                        "defaultMode"};
    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct err err = {0};
        yyjson_doc *all = objects(specs[i], &err);
        char *text = yyjson_write(all, YYJSON_WRITE_NOFLAG, NULL);
        for (size_t j = 0; j < sizeof words / sizeof words[0]; j++)
            if (strstr(text, words[j]) != NULL)
                fail_msg("%s in the objects of %s", words[j], specs[i]);
        free(text);
        yyjson_doc_free(all);
    }
}

static const char *agent_secret(yyjson_doc *all)
{
    yyjson_val *volumes =
        yyjson_ptr_get(object_of(all, "StatefulSet", "shop-s1"), "/spec/template/spec/volumes");
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(volumes, at, n, one)
    {
        if (yyjson_equals_str(yyjson_obj_get(one, "name"), "agent"))
            return yyjson_get_str(yyjson_ptr_get(one, "/secret/secretName"));
    }
    return NULL;
}

/* The servers have no TLS, whatever certificate is named for them; the agents do. */
static void test_without_tls(void **state)
{
    struct err err = {0};
    yyjson_doc *all = objects("{\"instances\":3,\"tls\":{\"mode\":\"off\",\"secret\":\"mine\"}}", &err);
    yyjson_val *set = object_of(all, "StatefulSet", "shop-s1"),
               *args = yyjson_ptr_get(set, CONTAINER "/args");
    (void)state;
    assert_false(has(args, "--tls=/etc/shardherd/tls"));
    assert_true(has(args, "--http-tls=/etc/shardherd/agent"));
    assert_string_equal(agent_secret(all), "shop-s1-tls");
    text_is(set, "/metadata/annotations/shardherd.io~1plain", "true");
    yyjson_doc_free(all);
}

static void test_with_certificates_of_clients(void **state)
{
    struct err err = {0};
    yyjson_doc *all = objects("{\"instances\":2,\"tls\":{\"mode\":\"mutual\",\"secret\":\"mine\"}}", &err);
    yyjson_val *set = object_of(all, "StatefulSet", "shop-s1"),
               *args = yyjson_ptr_get(set, CONTAINER "/args");
    (void)state;
    assert_true(has(args, "--tls=/etc/shardherd/tls"));
    assert_true(has(args, "--client-certificates"));
    assert_string_equal(agent_secret(all), "mine");
    text_is(set, "/metadata/annotations/shardherd.io~1plain", NULL);
    yyjson_doc_free(all);
}

/* It had several: its agent goes on taking orders. */
static void test_one_that_is_left(void **state)
{
    struct err err = {0};
    left = 1;
    yyjson_doc *all = objects("{\"instances\":3}", &err);
    left = 0;
    (void)state;
    yyjson_val *set = object_of(all, "StatefulSet", "shop-s1");
    assert_int_equal(yyjson_get_int(yyjson_ptr_get(set, "/spec/replicas")), 1);
    text_is(set, "/metadata/annotations/shardherd.io~1instances", "1");
    assert_int_equal(kube_members_of(set), 1);
    assert_true(has(yyjson_ptr_get(set, CONTAINER "/args"), "--member=$(POD_NAME)"));
    yyjson_doc_free(all);
}

static void lowered(const char *before, const char *now, const char *which)
{
    struct err err = {0};
    yyjson_doc *a = yyjson_read(before, strlen(before), 0), *b = yyjson_read(now, strlen(now), 0);
    char *old = kube_settings_standby(yyjson_doc_get_root(a)),
         *new = kube_settings_standby(yyjson_doc_get_root(b));
    int rc = kube_settings_lowered(old, new, &err);
    assert_int_equal(rc, which != NULL ? ERRC_UNSUPPORTED : 0);
    if (which != NULL)
        assert_non_null(strstr(err.message, which));
    free(old);
    free(new);
    yyjson_doc_free(a);
    yyjson_doc_free(b);
}

static void test_settings_that_standbys_need(void **state)
{
    (void)state;
    lowered("{}", "{}", NULL);
    lowered("{}", "{\"max_connections\":\"101\"}", NULL);
    lowered("{}", "{\"max_connections\":\"99\"}", "max_connections cannot be lowered from 100 to 99");
    lowered("{\"max_worker_processes\":\"40\"}", "{\"work_mem\":\"1MB\"}", "max_worker_processes");
    lowered("{\"max_locks_per_transaction\":\"65\",\"max_wal_senders\":\"20\"}",
            "{\"max_locks_per_transaction\":\"64\",\"max_wal_senders\":\"30\"}", "max_locks_per_transaction");
    assert_int_equal(kube_settings_lowered("", "100 20 32 0 64", NULL),
                     0); /* made before it was written down */
}

/* ---- pods ---- */

static bool started(const char *json)
{
    struct kube_pod pod;
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    kube_pod_read(yyjson_doc_get_root(doc), &pod);
    yyjson_doc_free(doc);
    return pod.started;
}

static void test_started(void **state)
{
    (void)state;
    assert_false(started("{\"status\":{}}"));
    assert_false(started("{\"status\":{\"containerStatuses\":[{\"started\":false}]}}"));
    assert_true(started("{\"status\":{\"containerStatuses\":[{\"started\":true}]}}"));
    assert_false(started("{\"metadata\":{\"deletionTimestamp\":\"2026-01-01T00:00:00Z\"},"
                         "\"status\":{\"containerStatuses\":[{\"started\":true}]}}"));
}

/* By what it was started with, whatever the specification says by now. */
static void test_whether_it_has_tls(void **state)
{
    static const char *const pods[] = {
        "{}", "{\"spec\":{\"containers\":[{\"args\":[\"agent\",\"--http-tls=/etc/shardherd/agent\"]}]}}",
        "{\"spec\":{\"containers\":[{\"args\":[\"agent\",\"--tls=/etc/shardherd/tls\"]}]}}"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct kube_pod pod;
        yyjson_doc *doc = yyjson_read(pods[i], strlen(pods[i]), 0);
        kube_pod_read(yyjson_doc_get_root(doc), &pod);
        yyjson_doc_free(doc);
        assert_true(pod.plain == (i < 2));
    }
}

/* So that a specification of an other mode is compared with what pods were made with. */
static void test_which_tls(void **state)
{
    static const char *const specs[] = {"{\"instances\":3,\"tls\":{\"mode\":\"off\"}}", "{\"instances\":3}",
                                        "{\"instances\":3,\"tls\":{\"mode\":\"mutual\"}}"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct err err = {0};
        yyjson_doc *all = objects(specs[i], &err);
        yyjson_val *template = yyjson_ptr_get(object_of(all, "StatefulSet", "shop-s1"), "/spec/template");
        assert_int_equal(kube_pod_tls(yyjson_obj_get(template, "spec")), KUBE_TLS_OFF + i);
        struct kube_pod_role *role = kube_pod_role_read(template); /* a pod has its spec in the same place */
        assert_int_equal(role->tls, KUBE_TLS_OFF + i);
        kube_pod_role_free(role);
        yyjson_doc_free(all);
    }
}

/* What is gone: a pod that waits for its node or its image has no server, and one that ended has none any
 * more. Whose node does not answer may have one. */
static void test_whether_it_runs(void **state)
{
    static const struct {
        const char *status;
        bool runs;
    } cases[] = {{"", false},
                 {"{\"phase\":\"Pending\"}", false},
                 {"{\"phase\":\"Running\"}", true},
                 {"{\"phase\":\"Unknown\"}", true},
                 {"{\"phase\":\"Running\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\"}]}", true},
                 {"{\"phase\":\"Failed\",\"reason\":\"Evicted\"}", false},
                 {"{\"phase\":\"Succeeded\"}", false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512];
        (void)snprintf(json, sizeof json, "{\"metadata\":{\"uid\":\"u\",\"deletionTimestamp\":\"t\"}%s%s}",
                       cases[i].status[0] != '\0' ? ",\"status\":" : "", cases[i].status);
        yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
        struct kube_pod_role *role = kube_pod_role_read(yyjson_doc_get_root(doc));
        if (role->runs != cases[i].runs)
            fail_msg("%s", json);
        kube_pod_role_free(role);
        yyjson_doc_free(doc);
    }
}

static struct kube_pod_role *role_of(const char *metadata)
{
    char json[512];
    (void)snprintf(json, sizeof json, "{\"metadata\":{\"uid\":\"u1\",\"resourceVersion\":\"77\"%s}}",
                   metadata);
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    struct kube_pod_role *role = kube_pod_role_read(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return role;
}

static void differs(const char *metadata, bool primary, uint64_t term, bool expected)
{
    struct kube_pod_role *role = role_of(metadata);
    assert_int_equal(kube_pod_role_differs(role, primary, term), expected);
    kube_pod_role_free(role);
}

#define CARRIES(role, term)                                                                                  \
    ",\"labels\":{\"shardherd.io/role\":\"" role "\"},\"annotations\":{\"shardherd.io/term\":\"" term "\"}"

static void test_roles(void **state)
{
    (void)state;
    differs("", true, 1, true);
    differs("", false, 1, true);
    differs(CARRIES("primary", "3"), true, 3, false);
    differs(CARRIES("primary", "3"), false, 3, true);
    differs(CARRIES("standby", "3"), false, 3, false);
    differs(CARRIES("standby", "3"), true, 3, true);
    differs(CARRIES("standby", "3"), false, 4, true); /* so that nobody of term 3 makes it a primary */
    differs(CARRIES("standby", "4"), true, 3, false); /* who believes so was deposed */
    differs(CARRIES("primary", "4"), false, 3, false);
}

static void test_role_patch(void **state)
{
    struct kube_pod_role *role = role_of("");
    char *patch = kube_pod_role_patch(role, true, 9);
    (void)state;
    assert_string_equal(patch, "{\"metadata\":{\"uid\":\"u1\",\"resourceVersion\":\"77\","
                               "\"labels\":{\"shardherd.io/role\":\"primary\"},"
                               "\"annotations\":{\"shardherd.io/term\":\"9\"}}}");
    free(patch);
    kube_pod_role_free(role);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_of_three),
        cmocka_unit_test(test_volumes_of_three),
        cmocka_unit_test(test_objects_of_one_have_nothing_of_it),
        cmocka_unit_test(test_without_tls),
        cmocka_unit_test(test_with_certificates_of_clients),
        cmocka_unit_test(test_one_that_is_left),
        cmocka_unit_test(test_settings_that_standbys_need),
        cmocka_unit_test(test_started),
        cmocka_unit_test(test_whether_it_has_tls),
        cmocka_unit_test(test_which_tls),
        cmocka_unit_test(test_whether_it_runs),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_role_patch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
