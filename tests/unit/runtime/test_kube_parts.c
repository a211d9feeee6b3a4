/* What the Kubernetes runtime is made of and needs no cluster: ownership, Secrets, certificates, pods. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/env.h"
#include "base/mem.h"
#include "runtime/kube_certificate.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_pod.h"
#include "runtime/login_sql.h"

#define DAY_US (86400ll * 1000000)

/* ---- whose an object is ---- */

static bool ours(const char *json, const struct kube_owner *owner)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    bool result = kube_is_ours(yyjson_doc_get_root(doc), owner);
    yyjson_doc_free(doc);
    return result;
}

#define LABELS(database, shard)                                                                              \
    "\"labels\":{\"app.kubernetes.io/managed-by\":\"shardherd\",\"shardherd.io/database\":\"" database       \
    "\",\"shardherd.io/shard\":\"" shard "\"}"
#define REFERENCE(kind, uid)                                                                                 \
    "\"ownerReferences\":[{\"apiVersion\":\"shardherd.io/v1alpha1\",\"kind\":\"" kind                        \
    "\",\"name\":\"shop\",\"uid\":\"" uid "\"}]"

static void test_ours(void **state)
{
    static const struct {
        const char *json;
        struct kube_owner owner;
        bool ours;
    } rows[] = {
        {"{\"metadata\":{" LABELS("shop", "s1") "," REFERENCE("ShardedDatabase", "u1") "}}",
         {"shop", "s1", "u1"},
         true},
        {"{\"metadata\":{" LABELS("shop", "s1") "," REFERENCE("ShardedDatabase", "u2") "}}",
         {"shop", "s1", "u1"},
         false},
        {"{\"metadata\":{" LABELS("shop", "s1") "," REFERENCE("ShardedDatabase", "u2") "}}",
         {"shop", "s1", NULL},
         true},
        {"{\"metadata\":{" LABELS("shop", "s1") "," REFERENCE("Deployment", "u1") "}}",
         {"shop", "s1", "u1"},
         false},
        {"{\"metadata\":{" LABELS("shop", "s2") "," REFERENCE("ShardedDatabase", "u1") "}}",
         {"shop", "s1", "u1"},
         false},
        {"{\"metadata\":{" LABELS("mall", "s1") "," REFERENCE("ShardedDatabase", "u1") "}}",
         {"shop", "s1", "u1"},
         false},
        {"{\"metadata\":{" LABELS("shop", "s1") "}}", {"shop", "s1", "u1"}, false},
        {"{\"metadata\":{" LABELS("shop", "s1") "}}", {"shop", "s1", NULL}, false},
        {"{\"metadata\":{" REFERENCE("ShardedDatabase", "u1") "}}", {"shop", "s1", "u1"}, false},
        {"{\"metadata\":{" LABELS("shop", "s1") ",\"annotations\":{\"shardherd.io/owner-uid\":\"u1\"}}}",
         {"shop", "s1", "u1"},
         true},
        {"{\"metadata\":{" LABELS("shop", "s1") ",\"annotations\":{\"shardherd.io/owner-uid\":\"u2\"}}}",
         {"shop", "s1", "u1"},
         false},
        {"{\"metadata\":{" LABELS("shop", "s1") "," REFERENCE("ShardedDatabase", "u1") "}}",
         {"shop", NULL, "u1"},
         false},
        {"{}", {"shop", "s1", "u1"}, false},
        {"[]", {"shop", "s1", "u1"}, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (ours(rows[i].json, &rows[i].owner) != rows[i].ours)
            fail_msg("row %zu: %s", i, rows[i].json);
    }
}

/* ---- Secrets ---- */

static void test_secret_there_and_back(void **state)
{
    static const struct kube_secret_item items[] = {{"a", "x"}, {"b", "xy"}, {"c", "xyz"}, {"d", "line\n\n"}};
    const struct kube_secret secret = {.name = "shop-owner",
                                       .name_space = "ns",
                                       .type = "Opaque",
                                       .owner = {"shop", NULL, "u1"},
                                       .items = items,
                                       .count = 4};
    (void)state;
    char *json = kube_secret_json(&secret);
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const struct kube_owner owner = {"shop", NULL, "u1"}, other = {"shop", NULL, "u2"};
    assert_true(kube_is_ours(root, &owner));
    assert_false(kube_is_ours(root, &other));
    assert_null(yyjson_ptr_get(root, "/metadata/ownerReferences"));
    static const char *const values[] = {"x", "xy", "xyz", "line"};
    for (int i = 0; i < 4; i++) {
        char *value = kube_secret_value(root, items[i].key);
        assert_string_equal(value, values[i]);
        mem_wipe_free(value);
    }
    assert_null(kube_secret_value(root, "e"));
    yyjson_doc_free(doc);
    mem_wipe_free(json);
}

static void test_secret_values_that_are_none(void **state)
{
    static const char json[] = "{\"data\":{\"empty\":\"\",\"short\":\"eA=\",\"signs\":\"e*==\",\"binary\":"
                               "\"AAEC\",\"number\":7,\"pad\":\"====\"}}";
    static const char *const keys[] = {"empty", "short", "signs", "binary", "number", "pad"};
    (void)state;
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char *value = kube_secret_value(yyjson_doc_get_root(doc), keys[i]);
        if (value != NULL)
            fail_msg("%s: \"%s\"", keys[i], value);
    }
    yyjson_doc_free(doc);
}

/* ---- certificates ---- */

static int64_t wall_now;
static int64_t wall(struct env *env)
{
    (void)env;
    return wall_now;
}

static void test_certificates(void **state)
{
    static const char *const names[] = {"shop-s1", "shop-s1.ns.svc", "*.shop-s1-pods.ns.svc", NULL};
    static const char *const more[] = {"shop-s1", "shop-s2", NULL};
    static const char *const wild[] = {"a.shop-s1-pods.ns.svc", NULL};
    struct env env = *env_system();
    struct kube_pair ca = {0}, other = {0}, leaf = {0};
    struct err err = {0};
    (void)state;
    env.wall_us = wall;
    wall_now = 1800000000ll * 1000000;
    const struct kube_certificate_request request = {"shop-s1", names, 90 * 86400};
    assert_int_equal(kube_authority_make(&env, "shop.ns", 3650ull * 86400, &ca, &err), 0);
    assert_int_equal(kube_authority_make(&env, "shop.ns", 3650ull * 86400, &other, &err), 0);
    assert_int_equal(kube_certificate_issue(&env, &ca, &request, &leaf, &err), 0);
    assert_int_equal(kube_certificate_end(leaf.certificate), wall_now + 90 * DAY_US);
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, ca.certificate, names),
                     KUBE_CERTIFICATE_GOOD);
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, NULL, NULL), KUBE_CERTIFICATE_GOOD);
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, other.certificate, names),
                     KUBE_CERTIFICATE_UNUSABLE);
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, ca.certificate, more),
                     KUBE_CERTIFICATE_UNUSABLE);
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, ca.certificate, wild),
                     KUBE_CERTIFICATE_UNUSABLE);
    assert_int_equal(kube_certificate_judge(&env, "nothing", ca.certificate, names),
                     KUBE_CERTIFICATE_UNUSABLE);
    assert_int_equal(kube_certificate_judge(&env, NULL, ca.certificate, names), KUBE_CERTIFICATE_UNUSABLE);
    wall_now += 59 * DAY_US;
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, ca.certificate, names),
                     KUBE_CERTIFICATE_GOOD);
    wall_now += 2 * DAY_US;
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, ca.certificate, names),
                     KUBE_CERTIFICATE_DUE);
    wall_now += 30 * DAY_US;
    assert_int_equal(kube_certificate_judge(&env, leaf.certificate, ca.certificate, names),
                     KUBE_CERTIFICATE_UNUSABLE);
    kube_pair_clear(&leaf);
    const struct kube_pair mixed = {ca.certificate, other.key};
    assert_int_equal(kube_certificate_issue(&env, &mixed, &request, &leaf, &err), ERRC_TLS);
    assert_null(strstr(err.message, "BEGIN"));
    kube_pair_clear(&ca);
    kube_pair_clear(&other);
}

/* ---- pods ---- */

static void pod_is(const char *json, bool ready, const char *trouble)
{
    struct kube_pod pod;
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    kube_pod_read(yyjson_doc_get_root(doc), &pod);
    yyjson_doc_free(doc);
    assert_int_equal(pod.ready, ready);
    assert_string_equal(pod.trouble, trouble);
}

static void test_pods(void **state)
{
    (void)state;
    pod_is("{\"metadata\":{\"name\":\"p\"},\"spec\":{\"nodeName\":\"n\"},\"status\":{\"phase\":\"Running\","
           "\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}",
           true, "");
    pod_is("{\"metadata\":{\"name\":\"p\",\"deletionTimestamp\":\"x\"},\"spec\":{\"nodeName\":\"n\"},"
           "\"status\":{"
           "\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}",
           false, "pod p is being ended");
    pod_is("{\"metadata\":{\"name\":\"p\"},\"status\":{\"conditions\":[{\"type\":\"PodScheduled\",\"status\":"
           "\"False\",\"message\":\"0/3 nodes are available\"}]}}",
           false, "pod p is not scheduled: 0/3 nodes are available");
    pod_is("{\"metadata\":{\"name\":\"p\"}}", false,
           "pod p is not scheduled: the scheduler has not said anything");
    pod_is("{\"metadata\":{\"name\":\"p\"},\"spec\":{\"nodeName\":\"n\"},\"status\":{\"phase\":\"Pending\","
           "\"containerStatuses\":[{\"name\":\"c\",\"image\":\"i:1\",\"state\":{\"waiting\":{\"reason\":"
           "\"ImagePullBackOff\",\"message\":\"no\"}}}]}}",
           false, "pod p: container c cannot start: ImagePullBackOff: no (image i:1)");
    pod_is("{\"metadata\":{\"name\":\"p\"},\"spec\":{\"nodeName\":\"n\"},\"status\":{\"phase\":\"Running\","
           "\"containerStatuses\":[{\"name\":\"c\",\"state\":{\"waiting\":{\"reason\":\"CrashLoopBackOff\"}},"
           "\"lastState\":{\"terminated\":{\"exitCode\":3,\"message\":\"first\\nlast words\\n\"}}}]}}",
           false, "pod p: container c ended: exit code 3: last words");
    pod_is("{\"metadata\":{\"name\":\"p\"},\"spec\":{\"nodeName\":\"n\"},\"status\":{\"phase\":\"Running\","
           "\"containerStatuses\":[{\"name\":\"c\",\"state\":{\"terminated\":{\"exitCode\":137,\"reason\":"
           "\"OOMKilled\"}}}]}}",
           false, "pod p: container c ended: it needed more memory than its limit (OOMKilled)");
    pod_is("{\"metadata\":{\"name\":\"p\"},\"spec\":{\"nodeName\":\"n\"},\"status\":{\"phase\":\"Pending\","
           "\"containerStatuses\":[{\"name\":\"c\",\"state\":{\"waiting\":{\"reason\":\"ContainerCreating\"}}"
           "}]}}",
           false, "pod p is being made on node n");
    pod_is("{\"metadata\":{\"name\":\"p\"},\"spec\":{\"nodeName\":\"n\"},\"status\":{\"phase\":\"Failed\","
           "\"reason\":\"Evicted\",\"message\":\"disk\"}}",
           false, "pod p failed: Evicted disk");
}

static void test_events(void **state)
{
    static const char json[] =
        "{\"items\":[{\"reason\":\"Old\",\"message\":\"a\",\"lastTimestamp\":\"2026-01-01T00:00:00Z\"},"
        "{\"reason\":\"New\",\"message\":\"b\",\"eventTime\":\"2026-01-03T00:00:00.5Z\"},"
        "{\"reason\":\"Middle\",\"message\":\"c\",\"lastTimestamp\":\"2026-01-02T00:00:00Z\"}]}";
    char text[40];
    (void)state;
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_true(kube_event_newest(yyjson_doc_get_root(doc), text, sizeof text));
    assert_string_equal(text, "New: b");
    yyjson_doc_free(doc);
    doc = yyjson_read("{\"items\":[]}", 12, 0);
    assert_false(kube_event_newest(yyjson_doc_get_root(doc), text, sizeof text));
    yyjson_doc_free(doc);
}

/* ---- verifiers ---- */

static void test_scram(void **state)
{
    struct err err = {0};
    (void)state;
    char *verifier = scram_verifier("app", "correct horse", &err);
    assert_non_null(verifier);
    assert_true(scram_matches(verifier, "correct horse"));
    assert_false(scram_matches(verifier, "correct horsf"));
    assert_false(scram_matches(verifier, ""));
    /* RFC 7677's example: user, "pencil", 4096 rounds */
    assert_true(scram_matches(
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "pencil"));
    static const char *const none[] = {
        NULL,
        "",
        "md5abc",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$4096:$:",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:x",
        "SCRAM-SHA-256$4096:W22Z",
        "SCRAM-SHA-256$4096:W22Z$short:x"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_false(scram_matches(none[i], "pencil"));
    mem_wipe_free(verifier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ours),
        cmocka_unit_test(test_secret_there_and_back),
        cmocka_unit_test(test_secret_values_that_are_none),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_pods),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_scram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
