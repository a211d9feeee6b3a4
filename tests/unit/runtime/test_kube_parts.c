/* What the Kubernetes runtime is made of and needs no cluster: ownership, Secrets, certificates, pods. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/mem.h"
#include "runtime/cnpg_object.h"
#include "runtime/kube_certificate.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_pod.h"
#include "runtime/kube_version.h"
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
    assert_true(kube_certificate_names(leaf.certificate, "shop-s1-0.shop-s1-pods.ns.svc"));
    assert_false(kube_certificate_names(leaf.certificate, "shop-s2-0.shop-s2-pods.ns.svc"));
    assert_false(kube_certificate_names("no certificate", "shop-s1"));
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

static void usages_are(const char *pem, const char *expected)
{
    BIO *bio = BIO_new_mem_buf(pem, -1), *out = BIO_new(BIO_s_mem());
    X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    char *text;
    assert_non_null(x);
    X509_EXTENSION *e = X509_get_ext(x, X509_get_ext_by_NID(x, NID_ext_key_usage, -1));
    assert_int_equal(X509V3_EXT_print(out, e, 0, 0), 1);
    long length = BIO_get_mem_data(out, &text);
    assert_int_equal(length, strlen(expected));
    assert_memory_equal(text, expected, strlen(expected));
    X509_free(x);
    BIO_free(bio);
    BIO_free(out);
}

/* As servers had it before they showed it to each other. */
static const char only_server[] = "-----BEGIN CERTIFICATE-----\n"
                                  "MIIBkTCCATigAwIBAgIUUt4zREyo4kL+HEAl5sVaRwKXuAEwCgYIKoZIzj0EAwIw\n"
                                  "DDEKMAgGA1UEAwwBczAgFw0yNjExMjgyMjU5MjZaGA8yMTI2MTEwNDIyNTkyNlow\n"
                                  "DDEKMAgGA1UEAwwBczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNGPLJ8JNwRg\n"
                                  "1SS46qlYZV3TKJtVOR/Fk2ADlQumiwLrQbUg0TzffLvBvE7++x4X2WtU2tbRE5e1\n"
                                  "5XZSeaEVeIujdjB0MB0GA1UdDgQWBBT4CClN9pMq5oGQCR95pzKxMNPGLTAfBgNV\n"
                                  "HSMEGDAWgBT4CClN9pMq5oGQCR95pzKxMNPGLTAPBgNVHRMBAf8EBTADAQH/MBMG\n"
                                  "A1UdJQQMMAoGCCsGAQUFBwMBMAwGA1UdEQQFMAOCAXMwCgYIKoZIzj0EAwIDRwAw\n"
                                  "RAIgYvRiVaXMzuqlJ2iPW3SaKtHbQzd6Qa4yzjPUYyR+WgsCIHMolbOAtqvN1JYz\n"
                                  "odDwSoPorvhGsjCn+/Wra0RKGBYU\n"
                                  "-----END CERTIFICATE-----\n";

static void test_certificates_of_clients(void **state)
{
    static const char *const names[] = {"s", NULL};
    struct env env = *env_system();
    struct kube_pair ca = {0}, client = {0}, server = {0};
    struct err err = {0};
    (void)state;
    env.wall_us = wall;
    wall_now = 1800000000ll * 1000000;
    const struct kube_certificate_request of_client = {"shop-client", NULL, 90 * 86400},
                                          of_server = {"s", names, 90 * 86400};
    assert_int_equal(kube_authority_make(&env, "shop.ns", 3650ull * 86400, &ca, &err), 0);
    assert_int_equal(kube_certificate_issue(&env, &ca, &of_client, &client, &err), 0);
    assert_int_equal(kube_certificate_issue(&env, &ca, &of_server, &server, &err), 0);
    usages_are(client.certificate, "TLS Web Client Authentication");
    usages_are(server.certificate, "TLS Web Server Authentication, TLS Web Client Authentication");
    assert_int_equal(kube_certificate_judge(&env, client.certificate, ca.certificate, NULL),
                     KUBE_CERTIFICATE_GOOD);
    assert_int_equal(kube_certificate_judge(&env, server.certificate, ca.certificate, names),
                     KUBE_CERTIFICATE_GOOD);
    static const char *const none[] = {NULL};
    assert_int_equal(kube_certificate_judge(&env, client.certificate, ca.certificate, none),
                     KUBE_CERTIFICATE_UNUSABLE);
    assert_int_equal(kube_certificate_judge(&env, only_server, NULL, names), KUBE_CERTIFICATE_UNUSABLE);
    assert_int_equal(kube_certificate_judge(&env, only_server, NULL, NULL), KUBE_CERTIFICATE_UNUSABLE);
    wall_now += 61 * DAY_US;
    assert_int_equal(kube_certificate_judge(&env, client.certificate, ca.certificate, NULL),
                     KUBE_CERTIFICATE_DUE);
    kube_pair_clear(&ca);
    kube_pair_clear(&client);
    kube_pair_clear(&server);
}

/* ---- what the agent is told ---- */

static int arguments_of(const struct kube_object *object, void *data, struct err *err)
{
    (void)err;
    yyjson_mut_val *all = yyjson_mut_ptr_get(object->root, "/spec/template/spec/containers/0/args"), *one;
    yyjson_mut_arr_iter each;
    (void)yyjson_mut_arr_iter_init(all, &each);
    while ((one = yyjson_mut_arr_iter_next(&each)) != NULL)
        buf_printf(data, "%s ", yyjson_mut_get_str(one));
    return 0;
}

static void agent_is_told(const char *spec, bool tls, bool client_certificates)
{
    struct err err = {0};
    struct buf arguments = {0};
    yyjson_doc *doc = yyjson_read(spec, strlen(spec), 0);
    const struct kube_shard shard = {.database = "shop",
                                     .name_space = "ns",
                                     .shard = "s1",
                                     .spec = yyjson_doc_get_root(doc),
                                     .image = "shardherd:1"};
    assert_int_equal(kube_objects_each(&shard, arguments_of, &arguments, &err), 0);
    assert_int_equal(strstr(buf_text(&arguments), "--tls=/etc/shardherd/tls ") != NULL, tls);
    assert_int_equal(strstr(buf_text(&arguments), "--client-certificates ") != NULL, client_certificates);
    buf_free(&arguments);
    yyjson_doc_free(doc);
}

static void test_agents_are_told_of_client_certificates(void **state)
{
    (void)state;
    agent_is_told("{}", true, false);
    agent_is_told("{\"tls\":{\"mode\":\"on\"}}", true, false);
    agent_is_told("{\"tls\":{\"mode\":\"off\"}}", false, false);
    agent_is_told("{\"tls\":{\"mode\":\"mutual\"}}", true, true);
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

/* ---- Clusters of CloudNativePG ---- */

static void cluster_is(const char *json, bool healthy, const char *reason)
{
    char text[200];
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    assert_int_equal(cnpg_is_healthy(yyjson_doc_get_root(doc), text, sizeof text), healthy);
    assert_string_equal(text, reason);
    yyjson_doc_free(doc);
}

static void test_clusters(void **state)
{
    (void)state;
    cluster_is("{\"metadata\":{\"name\":\"c\"},\"status\":{\"phase\":\"Cluster in healthy "
               "state\",\"readyInstances\":1}}",
               true, "cluster c: Cluster in healthy state");
    cluster_is("{\"metadata\":{\"name\":\"c\"},\"status\":{\"phase\":\"Cluster in healthy "
               "state\",\"readyInstances\":0}}",
               false, "cluster c: Cluster in healthy state");
    cluster_is("{\"metadata\":{\"name\":\"c\"},\"status\":{\"phase\":\"Setting up "
               "primary\",\"phaseReason\":\"x\",\"readyInstances\":1}}",
               false, "cluster c: Setting up primary: x");
    cluster_is("{\"metadata\":{\"name\":\"c\"}}", false,
               "CloudNativePG has not looked at cluster c yet: is its operator running and watching this "
               "namespace?");
}

static int cluster_image(const struct kube_object *object, void *data, struct err *err)
{
    (void)err;
    const char *image = yyjson_mut_get_str(yyjson_mut_ptr_get(object->root, "/spec/imageName"));
    (void)snprintf(data, 100, "%s", image);
    return 0;
}

static void test_cluster_images(void **state)
{
    static const struct {
        const char *spec, *image;
    } rows[] = {{"{}", "ghcr.io/cloudnative-pg/postgresql:16"},
                {"{\"postgresql\":{\"version\":\"18\"}}", "ghcr.io/cloudnative-pg/postgresql:18"},
                {"{\"postgresql\":{\"version\":\"18\",\"image\":\"mine:1\"}}", "mine:1"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char image[100] = "";
        struct err err = {0};
        yyjson_doc *doc = yyjson_read(rows[i].spec, strlen(rows[i].spec), 0);
        const struct kube_shard shard = {.database = "shop",
                                         .name_space = "ns",
                                         .shard = "s1",
                                         .spec = yyjson_doc_get_root(doc),
                                         .image = "shardherd:1"};
        assert_int_equal(cnpg_object_make(&shard, "app", cluster_image, image, &err), 0);
        assert_string_equal(image, rows[i].image);
        yyjson_doc_free(doc);
    }
}

/* ---- which version ---- */

static void keep_version(const char *live, const char *doc, bool kept, const char *expected)
{
    yyjson_doc *there = yyjson_read(live, strlen(live), 0), *text = yyjson_read(doc, strlen(doc), 0);
    yyjson_mut_doc *applied = yyjson_doc_mut_copy(text, NULL);
    assert_int_equal(kube_version_keep(yyjson_doc_get_root(there), applied), kept);
    char *result = yyjson_mut_write(applied, 0, NULL);
    assert_string_equal(result, expected);
    free(result);
    yyjson_mut_doc_free(applied);
    yyjson_doc_free(text);
    yyjson_doc_free(there);
}

#define AS(version) "{\"metadata\":{\"annotations\":{\"shardherd.io/postgresql-version\":\"" version "\"}},"
#define POD(image)  "\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"image\":\"" image "\"}]}}}}"

static void test_the_version_of_a_set(void **state)
{
    (void)state;
    keep_version(AS("15") POD("mine:15.1"), AS("16") POD("mine:16"), true, AS("15") POD("mine:15.1"));
    keep_version(AS("9") POD("mine:9"), AS("16") POD("mine:16"), true,
                 AS("9") POD("mine:9")); /* as numbers */
    keep_version(AS("15") POD("mine:15.1"), AS("15") POD("mine:15.2"), false, AS("15") POD("mine:15.2"));
    keep_version("{" POD("mine:15"), AS("16") POD("mine:16"), false, AS("16") POD("mine:16"));
    keep_version(AS("15") POD("mine:15"), "{" POD("mine:16"), false, "{" POD("mine:16"));
    keep_version(AS("15") "\"spec\":{\"imageName\":\"a\"}}", AS("16") "\"spec\":{\"imageName\":\"b\"}}", true,
                 AS("15") "\"spec\":{\"imageName\":\"a\"}}");
}

/* ---- which settings restart a pod ---- */

static int checksum_of(const struct kube_object *object, void *data, struct err *err)
{
    (void)err;
    const char *sum = yyjson_mut_get_str(
        yyjson_mut_ptr_get(object->root, "/spec/template/metadata/annotations/shardherd.io~1settings"));
    if (sum != NULL)
        (void)snprintf(data, 20, "%s", sum);
    return 0;
}

static void checksum(const char *parameters, char ret[20])
{
    struct err err = {0};
    char *text = mem_printf("{\"postgresql\":{\"parameters\":{%s}}}", parameters);
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    assert_non_null(doc);
    const struct kube_shard shard = {.database = "shop",
                                     .name_space = "ns",
                                     .shard = "s1",
                                     .spec = yyjson_doc_get_root(doc),
                                     .image = "i"};
    ret[0] = '\0';
    assert_int_equal(kube_objects_each(&shard, checksum_of, ret, &err), 0);
    assert_int_equal(strlen(ret), 16);
    yyjson_doc_free(doc);
    free(text);
}

static void test_settings_that_restart(void **state)
{
    static const struct {
        const char *parameters;
        bool restarts;
    } rows[] = {{"\"work_mem\":\"1MB\"", false},
                {"\"log_statement\":\"ddl\"", false},
                {"\"autovacuum_naptime\":\"5s\"", false},
                {"\"max_wal_size\":\"1GB\"", false},
                {"\"autovacuum_max_workers\":\"5\"", true},
                {"\"shared_buffers\":\"1GB\"", true},
                {"\"max_connections\":\"5\"", true},
                {"\"work_mem_of_an_extension\":\"5\"", true},
                {"\"huge_pages\":\"off\"", true}};
    char plain[20], sum[20];
    (void)state;
    checksum("", plain);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        checksum(rows[i].parameters, sum);
        if ((strcmp(plain, sum) != 0) != rows[i].restarts)
            fail_msg("%s", rows[i].parameters);
    }
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
        cmocka_unit_test(test_certificates_of_clients),
        cmocka_unit_test(test_agents_are_told_of_client_certificates),
        cmocka_unit_test(test_pods),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_cluster_images),
        cmocka_unit_test(test_the_version_of_a_set),
        cmocka_unit_test(test_settings_that_restart),
        cmocka_unit_test(test_scram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
