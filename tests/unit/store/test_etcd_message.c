/* Requests and answers of etcd's gateway: rules E2, E4, E7, and what each kind of refusal means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/etcd_keys.h"
#include "store/etcd_message.h"

static void test_e7_prefix_end(void **state)
{
    static const struct {
        const char *prefix, *end;
        size_t length;
    } cases[] = {
        {"a", "b", 1},
        {"db/", "db0", 3},
        {"a\xff", "b", 1},
        {"a\xff\xff", "b", 1},
        {"\xff", "\0", 1},
        {"\xff\xff", "\0", 1},
        {"", "\0", 1},
        {"a\xfe", "a\xff", 2},
        {"\xfe\xff", "\xff", 1},
        {"\x7f\xff", "\x80", 1},
        {"a\xff"
         "b",
         "a\xff"
         "c",
         3},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t length = 99;
        char *end = etcd_prefix_end(cases[i].prefix, strlen(cases[i].prefix), &length);
        assert_int_equal(length, cases[i].length);
        assert_memory_equal(end, cases[i].end, length);
        free(end);
    }
}

static void test_base64_there_and_back(void **state)
{
    static const char *const texts[] = {"", "k", "ke", "key", "key/", "\x01\xff\xfe\x80", "{\"a\":1}"};
    static const char *const coded[] = {"", "aw==", "a2U=", "a2V5", "a2V5Lw==", "Af/+gA==", "eyJhIjoxfQ=="};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct buf b = {0};
        bool clean = false;
        etcd_add_base64(&b, texts[i], strlen(texts[i]));
        assert_string_equal(buf_text(&b), coded[i]);
        char *back = etcd_base64_text(buf_text(&b), &clean);
        assert_string_equal(back, texts[i]);
        assert_true(clean);
        free(back);
        buf_free(&b);
    }
}

static void test_base64_that_is_none(void **state)
{
    static const char *const bad[] = {"a", "ab", "abc", "ab=c", "====", "a===", "!!!!", "ab\nc", "aw==aw=="};
    bool clean;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_null(etcd_base64_text(bad[i], &clean));
    char *text = etcd_base64_text("YQBi", &clean); /* a NUL b */
    assert_string_equal(text, "a");
    assert_false(clean);
    free(text);
}

static yyjson_doc *parse(const char *text)
{
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    assert_non_null(doc);
    return doc;
}

static void test_e4_numbers_beyond_2_to_the_53(void **state)
{
    yyjson_doc *doc =
        parse("{\"a\":\"9007199254740993\",\"b\":9007199254740993,\"c\":\"9223372036854775807\","
              "\"d\":\"-1\",\"e\":-1,\"f\":\"x\",\"g\":1.5,\"h\":\"18446744073709551615\","
              "\"i\":18446744073709551615,\"j\":null}");
    yyjson_val *o = yyjson_doc_get_root(doc);
    (void)state;
    assert_true(etcd_number(o, "a") == 9007199254740993);
    assert_true(etcd_number(o, "b") == 9007199254740993);
    assert_true(etcd_number(o, "c") == INT64_MAX);
    assert_true(etcd_number(o, "d") == -1 && etcd_number(o, "e") == -1);
    assert_true(etcd_number(o, "f") == 0 && etcd_number(o, "g") == 0 && etcd_number(o, "j") == 0);
    assert_true(etcd_number(o, "h") == etcd_number(o, "i") && etcd_number(o, "h") == -1);
    assert_true(etcd_number(o, "absent") == 0);
    yyjson_doc_free(doc);
    struct buf b = {0};
    etcd_add_range(&b, &(struct etcd_range){.key = "k", .revision = INT64_MAX, .limit = 9007199254740993});
    assert_string_equal(buf_text(&b), "{\"key\":\"aw==\",\"limit\":\"9007199254740993\","
                                      "\"revision\":\"9223372036854775807\"}");
    buf_free(&b);
}

static void test_a_transaction(void **state)
{
    static const char *const reads[] = {"k", "m"};
    const struct etcd_compare compares[] = {{.key = "k", .revision = 9007199254740993}, {"l", true, 0}};
    const struct etcd_change changes[] = {{"k", "v", 0}, {"m", "", 7}, {"n", NULL, 0}};
    const struct etcd_txn txn = {compares, 2, changes, 3, reads, 2, 2};
    struct buf b = {0};
    (void)state;
    etcd_add_txn(&b, &txn);
    assert_string_equal(
        buf_text(&b),
        "{\"compare\":[{\"key\":\"aw==\",\"target\":\"MOD\",\"mod_revision\":\"9007199254740993\"},"
        "{\"key\":\"bA==\",\"target\":\"CREATE\",\"create_revision\":\"0\"}],"
        "\"success\":[{\"request_put\":{\"key\":\"aw==\",\"value\":\"dg==\"}},"
        "{\"request_put\":{\"key\":\"bQ==\",\"value\":\"\",\"lease\":\"7\"}},"
        "{\"request_delete_range\":{\"key\":\"bg==\"}}],"
        "\"failure\":[{\"request_range\":{\"key\":\"aw==\",\"keys_only\":true}},"
        "{\"request_range\":{\"key\":\"bQ==\"}}]}");
    yyjson_doc_free(parse(buf_text(&b)));
    buf_free(&b);
}

static void test_e2_missing_succeeded_is_a_failure(void **state)
{
    static const char *const texts[] = {"{}",
                                        "{\"succeeded\":false}",
                                        "{\"succeeded\":null}",
                                        "{\"succeeded\":1}",
                                        "{\"succeeded\":\"true\"}",
                                        "[]"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        yyjson_doc *doc = parse(texts[i]);
        assert_false(etcd_txn_succeeded(yyjson_doc_get_root(doc)));
        yyjson_doc_free(doc);
    }
    yyjson_doc *doc = parse("{\"succeeded\":true}");
    assert_true(etcd_txn_succeeded(yyjson_doc_get_root(doc)));
    yyjson_doc_free(doc);
}

static void test_what_a_failed_transaction_read(void **state)
{
    yyjson_doc *doc =
        parse("{\"header\":{\"revision\":\"7\",\"cluster_id\":\"16128400632968936350\"},\"responses\":["
              "{\"response_range\":{\"kvs\":[{\"key\":\"aw==\",\"create_revision\":\"2\","
              "\"mod_revision\":\"5\",\"lease\":\"389739479420470538\"}],\"count\":\"1\"}},"
              "{\"response_range\":{\"header\":{}}}]}");
    yyjson_val *root = yyjson_doc_get_root(doc);
    struct etcd_kv kv;
    (void)state;
    assert_true(etcd_kv_read(etcd_txn_read(root, 0), true, &kv));
    assert_string_equal(kv.key, "k");
    assert_string_equal(kv.value, ""); /* left out = empty */
    assert_true(kv.create == 2 && kv.mod == 5 && kv.lease == 389739479420470538);
    etcd_kv_free(&kv);
    assert_null(etcd_txn_read(root, 1));
    assert_null(etcd_txn_read(root, 2));
    assert_true(etcd_revision(root) == 7);
    assert_true((uint64_t)etcd_cluster(root) == 16128400632968936350u);
    assert_false(etcd_kv_read(NULL, true, &kv));
    etcd_kv_free(&kv);
    yyjson_doc_free(doc);
}

static struct etcd_watch_message message(const char *text, yyjson_doc **ret)
{
    struct etcd_watch_message m;
    *ret = parse(text);
    assert_int_equal(etcd_watch_read(yyjson_doc_get_root(*ret), &m, NULL), 0);
    return m;
}

static void test_e1_compaction_is_seen_in_every_shape(void **state)
{
    static const char *const texts[] = {
        "{\"result\":{\"canceled\":true,\"compact_revision\":\"2\"}}",
        "{\"result\":{\"compact_revision\":\"2\"}}", /* etcd#8231: canceled was once not set */
        "{\"error\":{\"grpc_code\":11,\"message\":\"mvcc: required revision has been compacted\"}}",
        "{\"error\":{\"code\":11,\"message\":\"mvcc: required revision has been compacted\"}}",
    };
    yyjson_doc *doc;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct etcd_watch_message m = message(texts[i], &doc);
        assert_true(m.ended && m.compacted);
        yyjson_doc_free(doc);
    }
    struct etcd_watch_message m =
        message("{\"result\":{\"created\":true,\"header\":{\"revision\":\"9\"}}}", &doc);
    assert_true(m.created && !m.ended && !m.compacted && m.revision == 9 && m.events == NULL);
    yyjson_doc_free(doc);
    m = message("{\"result\":{\"created\":true,\"canceled\":true,\"watch_id\":\"-1\",\"cancel_reason\":"
                "\"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token\"}}",
                &doc);
    assert_true(m.ended && !m.compacted);
    assert_int_equal(etcd_fault_of(0, -1, m.reason), ETCD_FAULT_TOKEN);
    yyjson_doc_free(doc);
}

static void test_events(void **state)
{
    yyjson_doc *doc;
    struct etcd_watch_message m = message(
        "{\"result\":{\"fragment\":true,\"events\":[{\"kv\":{\"key\":\"aw==\",\"mod_revision\":\"5\","
        "\"value\":\"dg==\"}},{\"type\":\"DELETE\",\"kv\":{\"key\":\"aw==\",\"mod_revision\":\"6\"}},"
        "{\"type\":1,\"kv\":{\"key\":\"aw==\",\"mod_revision\":\"7\"}},{\"type\":\"PUT\",\"kv\":{\"key\":"
        "\"aw==\",\"mod_revision\":\"8\"}},{\"kv\":{\"key\":\"aw==\"}},{\"type\":\"PUT\"}]}}",
        &doc);
    static const bool good[] = {true, true, true, true, false, false};
    static const bool deleted[] = {false, true, true, false, false, false};
    struct etcd_kv kv;
    bool gone;
    (void)state;
    assert_true(m.fragment);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(etcd_event_read(yyjson_arr_get(m.events, i), &kv, &gone), good[i]);
        assert_int_equal(gone, deleted[i]);
        if (good[i])
            assert_true(kv.mod == 5 + (int64_t)i);
        etcd_kv_free(&kv);
    }
    yyjson_doc_free(doc);
    doc = parse("{\"nonsense\":1}");
    assert_int_equal(etcd_watch_read(yyjson_doc_get_root(doc), &m, NULL), ERRC_PROTOCOL);
    assert_int_equal(etcd_watch_read(NULL, &m, NULL), ERRC_PROTOCOL);
    yyjson_doc_free(doc);
}

static void test_errors_in_every_shape(void **state)
{
    static const char *const texts[] = {
        "{\"code\":16,\"message\":\"m\"}",
        "{\"error\":\"m\",\"code\":16}", /* 3.4 */
        "{\"error\":\"m\",\"code\":16,\"message\":\"m\",\"details\":[]}",
        "{\"error\":{\"grpc_code\":16,\"http_code\":401,\"message\":\"m\",\"http_status\":\"Unauthorized\"}}",
    };
    int64_t code;
    const char *text;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        yyjson_doc *doc = parse(texts[i]);
        assert_true(etcd_error_read(yyjson_doc_get_root(doc), &code, &text));
        assert_int_equal(code, 16);
        assert_string_equal(text, "m");
        yyjson_doc_free(doc);
    }
    yyjson_doc *doc = parse("{\"header\":{},\"succeeded\":true}");
    assert_false(etcd_error_read(yyjson_doc_get_root(doc), &code, &text));
    yyjson_doc_free(doc);
}

static void test_what_a_refusal_means(void **state)
{
    static const struct {
        int status, code;
        const char *message;
        enum etcd_fault fault;
    } cases[] = {
        {200, -1, "", ETCD_FAULT_NONE},
        {401, 16, "etcdserver: invalid auth token", ETCD_FAULT_TOKEN},
        {400, 3, "etcdserver: user name is empty", ETCD_FAULT_TOKEN},
        {400, 3, "etcdserver: revision of auth store is old", ETCD_FAULT_TOKEN},
        {400, 3, "etcdserver: authentication failed, invalid user ID or password", ETCD_FAULT_DENIED},
        {403, 7, "etcdserver: permission denied", ETCD_FAULT_DENIED},
        {0, -1, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", ETCD_FAULT_DENIED},
        {400, 9, "etcdserver: authentication is not enabled", ETCD_FAULT_NO_AUTH},
        {429, 8, "etcdserver: mvcc: database space exceeded", ETCD_FAULT_NO_SPACE},
        {429, 8, "etcdserver: too many requests", ETCD_FAULT_BUSY},
        {429, 8, "grpc: received message larger than max", ETCD_FAULT_TOO_LARGE},
        {400, 3, "etcdserver: request is too large", ETCD_FAULT_TOO_LARGE},
        {404, 5, "etcdserver: requested lease not found", ETCD_FAULT_NO_LEASE},
        {400, 11, "etcdserver: mvcc: required revision has been compacted", ETCD_FAULT_COMPACTED},
        {503, 14, "etcdserver: request timed out", ETCD_FAULT_ENDPOINT},
        {503, 14, "etcdserver: leader changed", ETCD_FAULT_ENDPOINT},
        {500, 2, "not a primary lessor", ETCD_FAULT_ENDPOINT},
        {504, 4, "context deadline exceeded", ETCD_FAULT_ENDPOINT},
        {500, 13, "stream terminated", ETCD_FAULT_ENDPOINT},
        {502, -1, "", ETCD_FAULT_ENDPOINT},
        {421, -1, "", ETCD_FAULT_ENDPOINT},
        {404, -1, "", ETCD_FAULT_OTHER},
        {404, 5, "Not Found", ETCD_FAULT_OTHER},
        {400, 3, "proto: invalid value", ETCD_FAULT_OTHER},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(etcd_fault_of(cases[i].status, cases[i].code, cases[i].message), cases[i].fault);
}

static void test_known_keys(void **state)
{
    struct etcd_keys k = {0};
    char key[16];
    (void)state;
    for (int i = 0; i < 500; i++) {
        snprintf(key, sizeof key, "k%d", i * 7 % 500);
        assert_true(etcd_keys_put(&k, key, i + 1));
        assert_false(etcd_keys_put(&k, key, i + 1)); /* again */
        assert_false(etcd_keys_put(&k, key, i));     /* older */
    }
    assert_int_equal(k.count, 500);
    for (int i = 1; i < k.count; i++)
        assert_true(strcmp(k.keys[i - 1].key, k.keys[i].key) < 0);
    assert_true(etcd_keys_remove(&k, "k250"));
    assert_false(etcd_keys_remove(&k, "k250"));
    etcd_keys_unsee(&k);
    assert_false(etcd_keys_see(&k, "k0", 1)); /* known at this revision */
    assert_true(etcd_keys_see(&k, "k7", 99)); /* newer */
    assert_true(etcd_keys_see(&k, "k250", 99));
    int seen = 0;
    for (int i = 0; i < k.count; i++)
        seen += k.keys[i].seen;
    assert_int_equal(seen, 2);
    etcd_keys_free(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_e7_prefix_end),
        cmocka_unit_test(test_base64_there_and_back),
        cmocka_unit_test(test_base64_that_is_none),
        cmocka_unit_test(test_e4_numbers_beyond_2_to_the_53),
        cmocka_unit_test(test_a_transaction),
        cmocka_unit_test(test_e2_missing_succeeded_is_a_failure),
        cmocka_unit_test(test_what_a_failed_transaction_read),
        cmocka_unit_test(test_e1_compaction_is_seen_in_every_shape),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_errors_in_every_shape),
        cmocka_unit_test(test_what_a_refusal_means),
        cmocka_unit_test(test_known_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
