/* kubeconfig files, YAML, programs that give credentials, gzip: everything that comes from outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/exec_plugin.h"
#include "k8s/inflate.h"
#include "k8s/status.h"
#include "k8s/yaml_json.h"
#include <yyjson.h>

static char dir[64];

static char *file(const char *name, const char *text)
{
    char *path = mem_printf("%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static int setup(void **state)
{
    (void)state;
    memcpy(dir, "/tmp/k8s-access-XXXXXX", 23);
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char *command[] = {"a", "b", "one", "two"};
    for (size_t i = 0; i < 4; i++) {
        char *path = mem_printf("%s/%s", dir, command[i]);
        unlink(path);
        free(path);
    }
    return rmdir(dir);
}

#define HEAD "apiVersion: v1\nkind: Config\n"

static const char first[] = HEAD
    "current-context: here\n"
    "contexts:\n- name: here\n  context: {cluster: c, user: u, namespace: team}\n"
    "- name: there\n  context: {cluster: c, user: v}\n"
    "clusters:\n- name: c\n  cluster:\n    server: https://one:6443\n    certificate-authority: pki/ca.crt\n"
    "    tls-server-name: api.example\n    proxy-url: http://proxy:3128\n    disable-compression: true\n"
    "    something-new: 1\n"
    "users:\n- name: u\n  user: {token: t1, client-certificate: /abs/c.crt, client-key: k.key, as: me, "
    "as-uid: '7',\n"
    "    as-groups: [g, h], as-user-extra: {scopes: [a, b]}}\n";
static const char second[] =
    HEAD "current-context: other\n"
         "clusters:\n- name: c\n  cluster: {server: https://two, insecure-skip-tls-verify: true}\n"
         "users:\n- name: u\n  user: {token: t2}\n- name: v\n  user: {tokenFile: token, username: n, "
         "password: p}\n";

static void test_K20_the_first_file_that_has_an_entry_wins_it_whole(void **state)
{
    struct k8s_access *a = NULL;
    struct err err = {0};
    char *one = file("one", first), *two = file("two", second);
    char *paths = mem_printf("/nonexistent/x:%s::%s", one, two), *expected = mem_printf("%s/pki/ca.crt", dir);
    (void)state;
    if (kubeconfig_load(paths, NULL, &a, &err) != 0)
        fail_msg("%s", err.message);
    assert_string_equal(a->server, "https://one:6443");
    assert_string_equal(a->ca_file, expected);
    assert_string_equal(a->tls_server_name, "api.example");
    assert_string_equal(a->proxy_url, "http://proxy:3128");
    assert_true(a->no_compression && !a->insecure);
    assert_string_equal(a->token, "t1");
    assert_string_equal(a->cert_file, "/abs/c.crt");
    assert_string_equal(a->name_space, "team");
    assert_string_equal(a->as, "me");
    assert_string_equal(a->as_uid, "7");
    assert_string_equal(a->as_groups[1], "h");
    assert_null(a->as_groups[2]);
    assert_string_equal(a->as_extra[3], "b");
    k8s_access_free(a);
    assert_int_equal(kubeconfig_load(paths, "there", &a, &err), 0);
    assert_string_equal(a->username, "n");
    assert_string_equal(a->name_space, "default");
    k8s_access_free(a);
    free(one);
    free(two);
    free(paths);
    free(expected);
}

static void refused(const char *text, const char *context, const char *part)
{
    struct k8s_access *a = NULL;
    struct err err = {0};
    char *path = file("a", text);
    assert_int_not_equal(kubeconfig_load(path, context, &a, &err), 0);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" is not in: %s", part, err.message);
    assert_null(strstr(err.message, "s3cr3t"));
    free(path);
}

static void test_K20_what_is_refused(void **state)
{
    struct k8s_access *a = NULL;
    struct err err = {0};
    (void)state;
    assert_int_equal(kubeconfig_load("/nonexistent/x", NULL, &a, &err), ERRC_NOT_FOUND);
    refused("- a\n", NULL, "not a kubeconfig");
    refused("a: [\n", NULL, "a:2:1");
    refused(HEAD, NULL, "no current-context");
    refused(first, "nowhere", "no context is named \"nowhere\"");
    refused(HEAD "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n", NULL, "no cluster");
    refused(HEAD "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
                 "clusters: [{name: c, cluster: {server: https://a}}]\n",
            NULL, "no user");
#define USER(text)                                                                                           \
    HEAD "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"                       \
         "clusters: [{name: c, cluster: {server: https://a}}]\nusers: [{name: u, user: {" text "}}]\n"
    refused(USER("client-certificate-data: '%%%s3cr3t'"), NULL, "is not base64");
    refused(USER("client-key-data: czNjcjN0"), NULL, "needs its key, and a key its certificate");
    refused(USER("exec: {command: x, apiVersion: client.authentication.k8s.io/v1alpha1}"), NULL, "are known");
    refused(USER("exec: {command: x, apiVersion: client.authentication.k8s.io/v1}"), NULL, "interactiveMode");
    refused(USER("exec: {command: x, apiVersion: client.authentication.k8s.io/v1, interactiveMode: Always}"),
            NULL, "terminal");
    refused(USER("exec: {apiVersion: client.authentication.k8s.io/v1}"), NULL, "names no command");
}

static void test_K20_data_wins_over_files(void **state)
{
    struct k8s_access *a = NULL;
    struct err err = {0};
    char *path =
        file("a", USER("client-certificate-data: Y2VydA==, client-certificate: x.crt, client-key-data: a2V5, "
                       "token: ''"));
    (void)state;
    if (kubeconfig_load(path, NULL, &a, &err) != 0)
        fail_msg("%s", err.message);
    assert_string_equal(a->cert_pem, "cert");
    assert_string_equal(a->key_pem, "key");
    assert_null(a->token);
    k8s_access_free(a);
    free(path);
}

/* ---- YAML ---- */

static int print(struct yyjson_mut_doc *doc, struct yyjson_mut_val *root, void *data, struct err *err)
{
    char *text = yyjson_mut_val_write(root, 0, NULL);
    (void)doc;
    (void)err;
    buf_printf(data, "%s;", text);
    free(text);
    return 0;
}

static void yaml(const char *text, const char *json)
{
    struct buf out = {0};
    struct err err = {0};
    int rc = yaml_json_read(text, strlen(text), "f", print, &out, &err);
    assert_string_equal(rc == 0 ? buf_text(&out) : err.message, json);
    buf_free(&out);
}

static void test_yaml_scalars_and_documents(void **state)
{
    (void)state;
    yaml("a: 1\nb: '1'\nc: -7\nd: 1.5\ne: yes\nf: true\ng: ~\nh:\ni: 007\nj: 0x1f\nk: 1e3\nl: \"\\u00e9\"\n",
         "{\"a\":1,\"b\":\"1\",\"c\":-7,\"d\":1.5,\"e\":\"yes\",\"f\":true,\"g\":null,\"h\":null,\"i\":"
         "\"007\","
         "\"j\":\"0x1f\",\"k\":1000.0,\"l\":\"\xc3\xa9\"};");
    yaml("---\n- {x: [1, {y: z}]}\n---\n---\nb\n", "[{\"x\":[1,{\"y\":\"z\"}]}];\"b\";");
    yaml("a: |\n  one\n  two\nb: !!str 5\n", "{\"a\":\"one\\ntwo\\n\",\"b\":\"5\"};");
    yaml("a: &x 1\n", "f:1:4: anchors are not supported");
    yaml("a: 1\na: 2\n", "f:2:1: this key is given twice");
    yaml("<<: {a: 1}\n", "f:1:1: merge keys are not supported");
    yaml("? [a]\n: b\n", "f:1:3: a key must be a plain text");
    yaml("a: !mine b\n", "f:1:4: an unknown tag");
}

/* ---- programs ---- */

static void reply(const char *out, const char *expected)
{
    struct k8s_exec exec = {.api_version = "client.authentication.k8s.io/v1", .command = "plugin"};
    const struct k8s_access access = {.exec = &exec, .server = "https://a"};
    struct exec_credential c = {0};
    struct err err = {0};
    int rc = exec_plugin_read(&access, out, strlen(out), &c, &err);
    char text[200];
    snprintf(text, sizeof text, "%s %s %lld", c.token != NULL ? c.token : "-",
             c.cert_pem != NULL ? c.cert_pem : "-", (long long)c.expires_us);
    assert_string_equal(rc == 0 ? text : err.message, expected);
    exec_credential_free(&c);
}

#define REPLY(version, status)                                                                               \
    "{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/" version                    \
    "\",\"status\":{" status "}}"

static void test_K21_what_a_program_may_answer(void **state)
{
    (void)state;
    reply(REPLY("v1", "\"token\":\"t\""), "t - 9223372036854775807");
    reply(REPLY("v1", "\"token\":\"t\",\"expirationTimestamp\":\"1970-01-02T01:00:00.5+01:00\""),
          "t - 86400500000");
    reply(REPLY("v1", "\"clientCertificateData\":\"c\",\"clientKeyData\":\"k\""), "- c 9223372036854775807");
    reply(REPLY("v1beta1", "\"token\":\"t\""),
          "plugin answered in another version than client.authentication.k8s.io/v1");
    reply(REPLY("v1", "\"clientCertificateData\":\"c\""),
          "plugin gave a certificate without its key, or a key without certificate");
    reply(REPLY("v1", ""), "plugin gave neither a token nor a certificate");
    reply(REPLY("v1", "\"token\":\"t\",\"expirationTimestamp\":\"soon\""),
          "plugin: expirationTimestamp is no RFC 3339 time");
    reply("{}", "plugin printed no ExecCredential");
    reply("s3cr3t", "plugin printed no JSON");
}

static void test_times(void **state)
{
    int64_t us;
    (void)state;
    assert_true(rfc3339_read("2026-11-21T10:00:00Z", &us));
    assert_int_equal(us, 1795255200000000);
    assert_true(rfc3339_read("2000-02-29T23:59:60.123456Z", &us));
    assert_false(rfc3339_read("2026-11-21 10:00:00Z", &us));
    assert_false(rfc3339_read("2026-13-21T10:00:00Z", &us));
    assert_false(rfc3339_read("2026-11-21T10:00:00", &us));
    assert_false(rfc3339_read("2026-11-21T10:00:00+1", &us));
}

/* ---- gzip ---- */

static size_t member(const char *text, unsigned char *out, size_t size)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = out;
    z.avail_out = (uInt)size;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t length = z.total_out;
    deflateEnd(&z);
    return length;
}

static void inflated(const char *bytes, size_t length, void *data)
{
    (void)buf_add(data, bytes, length);
}

static void test_K10_members_are_decoded_as_they_come(void **state)
{
    unsigned char packed[1024];
    size_t ends[3], length = 0;
    static const char *const events[] = {"{\"one\":1}\n", "{\"two\":2}\n", "{\"three\":3}\n"};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        ends[i] = length += member(events[i], packed + length, sizeof packed - length);
    for (size_t piece = 1; piece <= length; piece++) {
        struct inflate *z = inflate_new();
        struct buf out = {0};
        for (size_t at = 0; at < length; at += piece) {
            size_t n = piece < length - at ? piece : length - at;
            assert_int_equal(inflate_feed(z, (const char *)packed + at, n, inflated, &out, NULL), 0);
            size_t whole = (at + n >= ends[0]) + (size_t)(at + n >= ends[1]) + (size_t)(at + n >= ends[2]);
            size_t least = whole > 2 ? 32 : whole * 10;
            assert_true(out.length >= least); /* an event that came whole is there at once */
        }
        assert_string_equal(buf_text(&out), "{\"one\":1}\n{\"two\":2}\n{\"three\":3}\n");
        assert_true(inflate_complete(z));
        buf_free(&out);
        inflate_free(z);
    }
}

static void test_K10_what_is_no_gzip(void **state)
{
    struct inflate *z = inflate_new();
    struct buf out = {0};
    struct err err = {0};
    (void)state;
    assert_int_equal(inflate_feed(z, "plain text", 10, inflated, &out, &err), ERRC_PROTOCOL);
    assert_int_equal(out.length, 0);
    inflate_free(z);
    z = inflate_new();
    unsigned char packed[256];
    size_t length = member("cut short", packed, sizeof packed);
    assert_int_equal(inflate_feed(z, (const char *)packed, length - 3, inflated, &out, &err), 0);
    assert_false(inflate_complete(z));
    inflate_free(z);
    buf_free(&out);
}

/* A body of many times its size comes in pieces, not at once. */
static void test_K10_large_bodies(void **state)
{
    size_t size = 3 << 20;
    char *text = mem_alloc(size + 1);
    unsigned char *packed = mem_alloc(size);
    struct buf out = {0};
    (void)state;
    for (size_t i = 0; i < size; i++)
        text[i] = (char)('a' + i / 1000 % 26);
    text[size] = '\0';
    size_t length = member(text, packed, size);
    struct inflate *z = inflate_new();
    assert_int_equal(inflate_feed(z, (const char *)packed, length, inflated, &out, NULL), 0);
    assert_int_equal(out.length, size);
    assert_memory_equal(out.data, text, size);
    inflate_free(z);
    buf_free(&out);
    free(packed);
    free(text);
}

/* ---- statuses ---- */

static void status(int http, const char *body, const char *retry, enum k8s_fault fault, const char *message)
{
    struct k8s_status s;
    struct err err = {0};
    k8s_status_from_answer(http, body, strlen(body), retry, &s);
    assert_int_equal(s.fault, fault);
    (void)k8s_status_error(&s, &err, "GET /x");
    assert_string_equal(err.message, message);
}

static void test_K12_K22_statuses(void **state)
{
    struct k8s_status s;
    (void)state;
    status(429, "Too many requests\nmore", "7", K8S_FAULT_BUSY, "GET /x: 429: Too many requests");
    status(503, "", NULL, K8S_FAULT_SERVER, "GET /x: 503");
    status(404, "{\"kind\":\"Status\",\"code\":404,\"reason\":\"NotFound\",\"message\":\"m\"}", NULL,
           K8S_FAULT_NOT_FOUND, "GET /x: 404 NotFound: m");
    status(410, "{\"kind\":\"Other\",\"reason\":\"x\"}", NULL, K8S_FAULT_EXPIRED,
           "GET /x: 410: {\"kind\":\"Other\",\"reason\":\"x\"}");
    static const char conflict[] =
        "{\"kind\":\"Status\",\"code\":409,\"reason\":\"Conflict\",\"details\":{\"causes\":[{\"reason\":"
        "\"FieldManagerConflict\",\"message\":\"conflict with "
        "\\\"kubectl\\\"\",\"field\":\".spec.replicas\"},5,"
        "{\"reason\":\"FieldManagerConflict\",\"field\":\".data\"}]}}";
    k8s_status_from_answer(409, conflict, strlen(conflict), NULL, &s);
    assert_int_equal(s.fault, K8S_FAULT_CONFLICT);
    assert_int_equal(s.cause_count, 3);
    assert_string_equal(s.causes[0].field, ".spec.replicas");
    assert_string_equal(s.causes[0].message, "conflict with \"kubectl\"");
    assert_string_equal(s.causes[2].field, ".data");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K20_the_first_file_that_has_an_entry_wins_it_whole),
        cmocka_unit_test(test_K20_what_is_refused),
        cmocka_unit_test(test_K20_data_wins_over_files),
        cmocka_unit_test(test_yaml_scalars_and_documents),
        cmocka_unit_test(test_K21_what_a_program_may_answer),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_K10_members_are_decoded_as_they_come),
        cmocka_unit_test(test_K10_what_is_no_gzip),
        cmocka_unit_test(test_K10_large_bodies),
        cmocka_unit_test(test_K12_K22_statuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
