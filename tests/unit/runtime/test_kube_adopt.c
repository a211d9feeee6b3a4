/* StatefulSets that somebody else made: what they say, whether they can be shards, and what is made for them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kube_adopt.h"

static const struct kube_owner owner = {"shop", "s1", "u1"};

struct row {
    const char *json;
    enum err_code code;
    const char *words;
};

#define SECRET "\"annotations\":{\"shardherd.io/secret\":\"boss\""
#define SET(metadata, spec)                                                                                  \
    "{\"metadata\":{\"name\":\"old\",\"uid\":\"s-uid\"," metadata "},\"spec\":{" spec "}}"

static const struct row rows[] = {
    {SET(SECRET "}", "\"replicas\":1"), ERRC_NONE, ""},
    {SET(SECRET "}", ""), ERRC_NONE, ""},
    {SET("\"labels\":{}", "\"replicas\":1"), ERRC_INVALID,
     "kubectl annotate statefulset old shardherd.io/secret=SECRET"},
    {SET(SECRET "}", "\"replicas\":3"), ERRC_CONFLICT, "it has 3 pods and a shard is one: scale it to 1"},
    {SET(SECRET "}", "\"replicas\":0"), ERRC_CONFLICT, "it has 0 pods"},
    {SET(SECRET "},\"deletionTimestamp\":\"x\"", ""), ERRC_CONFLICT, "it is being deleted"},
    {SET(SECRET "},\"ownerReferences\":[{\"kind\":\"Redis\",\"name\":\"r\",\"controller\":true}]", ""),
     ERRC_CONFLICT, "it belongs to Redis r"},
    {SET(SECRET "},\"ownerReferences\":[{\"kind\":\"App\",\"name\":\"r\"}]", ""), ERRC_NONE, ""},
    {SET(SECRET "},\"labels\":{\"shardherd.io/database\":\"mall\",\"shardherd.io/shard\":\"s4\"}", ""),
     ERRC_CONFLICT, "it is labelled as shard s4 of database mall"},
    {SET(SECRET ",\"shardherd.io/owner-uid\":\"u1\"},\"labels\":{\"shardherd.io/database\":\"shop\","
                "\"shardherd.io/shard\":\"s1\"}",
         ""),
     ERRC_NONE, ""},
    {SET(SECRET ",\"shardherd.io/owner-uid\":\"u2\"},\"labels\":{\"shardherd.io/database\":\"shop\","
                "\"shardherd.io/shard\":\"s1\"}",
         ""),
     ERRC_CONFLICT, "it is labelled as shard s1 of database shop"},
    {SET(SECRET ",\"shardherd.io/port\":\"5432x\"}", ""), ERRC_INVALID, "shardherd.io/port is no port"},
    {SET(SECRET ",\"shardherd.io/port\":\"70000\"}", ""), ERRC_INVALID, "shardherd.io/port is no port"},
    {SET(SECRET ",\"shardherd.io/sslmode\":\"on\"}", ""), ERRC_INVALID,
     "shardherd.io/sslmode is on: set it to"},
};

static void test_what_can_be(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kube_adoption a;
        struct err err = {0};
        yyjson_doc *doc = yyjson_read(rows[i].json, strlen(rows[i].json), 0);
        assert_non_null(doc);
        kube_adoption_read(yyjson_doc_get_root(doc), &a);
        assert_int_equal(kube_adoption_check(yyjson_doc_get_root(doc), &a, &owner, &err), rows[i].code);
        assert_non_null(strstr(err.message, rows[i].words));
        kube_adoption_clear(&a);
        yyjson_doc_free(doc);
    }
}

static void test_what_is_said(void **state)
{
    static const char json[] =
        "{\"metadata\":{\"name\":\"old\",\"uid\":\"s-uid\",\"annotations\":{\"shardherd.io/secret\":\"boss\","
        "\"shardherd.io/user\":\"root\",\"shardherd.io/secret-password-key\":\"pw\",\"shardherd.io/"
        "port\":\"6543\","
        "\"shardherd.io/sslmode\":\"verify-ca\"}}}";
    struct kube_adoption a;
    (void)state;
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    kube_adoption_read(yyjson_doc_get_root(doc), &a);
    yyjson_doc_free(doc);
    assert_string_equal(a.set, "old");
    assert_string_equal(a.secret, "boss");
    assert_string_equal(a.user, "root");
    assert_string_equal(a.user_key, "username");
    assert_string_equal(a.password_key, "pw");
    assert_int_equal(a.port, 6543);
    assert_true(kube_adoption_verifies(&a));
    kube_adoption_clear(&a);
    doc = yyjson_read("{}", 2, 0);
    kube_adoption_read(yyjson_doc_get_root(doc), &a);
    yyjson_doc_free(doc);
    assert_null(a.secret);
    assert_int_equal(a.port, 5432);
    assert_string_equal(a.sslmode, "prefer");
    assert_false(kube_adoption_verifies(&a));
    kube_adoption_clear(&a);
}

struct seen {
    int count;
    char *json[4];
};

static int see(const struct kube_object *object, void *data, struct err *err)
{
    struct seen *seen = data;
    (void)err;
    char *text = yyjson_mut_val_write(object->root, 0, NULL);
    seen->json[seen->count++] = mem_printf("%s/%s %s", object->collection, object->name, text);
    free(text);
    return 0;
}

static void test_what_is_made(void **state)
{
    const struct kube_shard shard = {
        .database = "shop", .name_space = "ns", .shard = "s1", .owner_uid = "u1"};
    char set[] = "old", uid[] = "s-uid";
    const struct kube_adoption a = {.set = set, .uid = uid, .port = 6543};
    struct seen seen = {0};
    (void)state;
    assert_int_equal(kube_adoption_each(&shard, &a, see, &seen, NULL), 0);
    assert_int_equal(seen.count, 3);
    assert_non_null(strstr(seen.json[0], "/api/v1/namespaces/ns/services/shop-s1 "));
    assert_non_null(strstr(seen.json[0], "\"selector\":{\"statefulset.kubernetes.io/pod-name\":\"old-0\"}"));
    assert_non_null(strstr(seen.json[0], "\"port\":5432,\"targetPort\":6543"));
    assert_non_null(strstr(seen.json[1], "/api/v1/namespaces/ns/configmaps/shop-s1 "));
    assert_non_null(strstr(seen.json[1], "\"shardherd.io/adopted\":\"old\""));
    assert_string_equal(seen.json[2],
                        "/apis/apps/v1/namespaces/ns/statefulsets/old {\"apiVersion\":\"apps/v1\",\"kind\":"
                        "\"StatefulSet\",\"metadata\":{\"name\":\"old\",\"uid\":\"s-uid\",\"labels\":{"
                        "\"shardherd.io/database\":\"shop\",\"shardherd.io/shard\":\"s1\"},\"annotations\":{"
                        "\"shardherd.io/owner-uid\":\"u1\"}}}");
    for (int i = 0; i < seen.count; i++)
        free(seen.json[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_can_be),
        cmocka_unit_test(test_what_is_said),
        cmocka_unit_test(test_what_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
