#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fleet/routing.h"

static const char document[] =
    "{\"database\":\"shop\",\"epoch\":\"42\",\"hash\":\"postgres-extended-0\",\"tables\":{\"public."
    "customers\":{"
    "\"key\":\"id\",\"type\":\"bigint\"},\"public.orders\":{\"key\":\"customer_id\",\"type\":\"bigint\"}},"
    "\"shards\":[{\"name\":\"s1\",\"epoch\":\"41\",\"ranges\":[{\"lo\":\"-9223372036854775808\",\"hi\":\"-"
    "1\"}],"
    "\"primary\":{\"host\":\"10.0.0.5\",\"port\":5432},\"replicas\":[{\"host\":\"10.0.0.6\",\"port\":5432,"
    "\"lag_bytes\":\"0\"}],\"state\":\"serving\"},{\"name\":\"s2\",\"epoch\":\"42\",\"ranges\":[{\"lo\":"
    "\"0\","
    "\"hi\":\"9223372036854775807\"}],\"primary\":{\"host\":\"10.0.0.7\",\"port\":5433},\"replicas\":[],"
    "\"state\":\"moving\"}]}";

static struct routing *parsed(const char *json)
{
    struct routing *r = NULL;
    struct err err = {0};
    if (routing_parse(json, strlen(json), &r, &err) != 0)
        fail_msg("%s", err.message);
    return r;
}

static char *printed(const struct routing *r)
{
    struct buf out = {0};
    routing_print(r, &out);
    return buf_take(&out);
}

/* n shards s000... that share the space evenly. */
static struct routing *evenly(size_t n)
{
    struct routing *r = routing_new("shop");
    struct range *ranges = calloc(n, sizeof *ranges);
    assert_non_null(ranges);
    range_split_evenly(n, ranges);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%04zu", i);
        assert_int_equal(
            range_set_add(&routing_add_shard(r, name, "127.0.0.1", 5432)->ranges, &ranges[i], NULL), 0);
    }
    free(ranges);
    return r;
}

static void test_parse_and_print(void **state)
{
    (void)state;
    struct routing *r = parsed(document);
    assert_string_equal(r->database, "shop");
    assert_true(r->epoch == 42 && r->table_count == 2 && r->shard_count == 2);
    assert_int_equal(routing_find_table(r, "public.orders")->type, KEY_BIGINT);
    assert_string_equal(routing_find_table(r, "public.orders")->key, "customer_id");
    assert_null(routing_find_table(r, "public.other"));
    const struct routing_shard *s1 = routing_find_shard(r, "s1");
    assert_true(s1->epoch == 41 && s1->replica_count == 1 && s1->primary.port == 5432);
    assert_string_equal(s1->replicas[0].host, "10.0.0.6");
    assert_string_equal(routing_owner(r, -1)->name, "s1");
    assert_string_equal(routing_owner(r, 0)->name, "s2");
    assert_int_equal(routing_find_shard(r, "s2")->state, SHARD_MOVING);
    assert_null(routing_find_shard(r, "s3"));
    char *text = printed(r);
    assert_string_equal(text, document);
    free(text);
    struct routing *copy = routing_clone(r);
    routing_free(r);
    text = printed(copy);
    assert_string_equal(text, document);
    free(text);
    routing_free(copy);
}

struct fault {
    const char *from, *to; /* replaced in the document, first occurrence */
    enum err_code code;
    const char *place; /* part of the message */
};

static const struct fault faults[] = {
    {"{\"database\"", "\"database\"", ERRC_INVALID, "not JSON"},
    {"\"state\":\"moving\"}]}", "\"state\":\"moving\"}]} x", ERRC_INVALID, "at byte"},
    {"\"database\":\"shop\"", "\"database\":7", ERRC_INVALID, "database: not a text"},
    {"\"database\":\"shop\",", "", ERRC_INVALID, "database: missing"},
    {"\"database\":\"shop\"", "\"database\":\"Shop\"", ERRC_INVALID, "database"},
    {"\"database\":\"shop\"", "\"database\":\"sh\\u0000op\"", ERRC_INVALID, "database: not a text"},
    {"\"epoch\":\"42\"", "\"epoch\":42", ERRC_INVALID, "epoch: not a text"},
    {"\"epoch\":\"42\"", "\"epoch\":\"-1\"", ERRC_INVALID, "epoch: not an unsigned"},
    {"\"epoch\":\"42\"", "\"epoch\":\"0\"", ERRC_INVALID, "epoch 0"},
    {"\"epoch\":\"42\"", "\"epoch\":\"40\"", ERRC_INVALID, "shard s1: epoch 41 is above"},
    {"\"hash\":\"postgres-extended-0\"", "\"hash\":\"crc\"", ERRC_INVALID, "hash: \"crc\""},
    {"\"hash\":", "\"hush\":\"\",\"hash\":", ERRC_INVALID, "unknown member \"hush\""},
    {"\"hash\":", "\"epoch\":\"42\",\"hash\":", ERRC_INVALID, "repeated member \"epoch\""},
    {"\"tables\":{", "\"tables\":[],\"x\":{", ERRC_INVALID, "unknown member \"x\""},
    {"\"key\":\"id\"", "\"key\":\"\"", ERRC_INVALID, "table public.customers"},
    {"\"key\":\"id\"", "\"kee\":\"id\"", ERRC_INVALID, "tables[\"public.customers\"]: unknown member"},
    {"\"type\":\"bigint\"", "\"type\":\"numeric\"", ERRC_INVALID, "tables[\"public.customers\"].type"},
    {"public.customers", "customers", ERRC_INVALID, "schema.table"},
    {"public.customers", "public.orders", ERRC_INVALID, "table public.orders is there twice"},
    {"\"name\":\"s2\"", "\"name\":\"s1\"", ERRC_INVALID, "shard s1 is there twice"},
    {"\"name\":\"s2\"", "\"name\":\"S2\"", ERRC_INVALID, "DNS label"},
    {"\"lo\":\"0\"", "\"lo\":0", ERRC_INVALID, "shards[1].ranges[0].lo: not a text"},
    {"\"lo\":\"0\"", "\"lo\":\"zero\"", ERRC_INVALID, "shards[1].ranges[0].lo: not a 64-bit number"},
    {"\"lo\":\"0\"", "\"lo\":\"1\"", ERRC_INVALID, "no shard owns range 0..0"},
    {"\"lo\":\"0\"", "\"lo\":\"-5\"", ERRC_INVALID, "shards s1 and s2 overlap"},
    {"-9223372036854775808", "-9223372036854775807", ERRC_INVALID,
     "no shard owns range -9223372036854775808"},
    {"9223372036854775807", "9223372036854775806", ERRC_INVALID, "no shard owns range 9223372036854775807"},
    {"\"hi\":\"-1\"}", "\"hi\":\"-1\"},{\"lo\":\"-9\",\"hi\":\"-8\"}", ERRC_INVALID,
     "shards[0].ranges[1]: range -9..-8"},
    {"\"hi\":\"-1\"}", "\"hi\":\"-1\"},{\"lo\":\"5\",\"hi\":\"4\"}", ERRC_INVALID,
     "shards[0].ranges[1]: range 5..4"},
    {"\"port\":5432", "\"port\":\"5432\"", ERRC_INVALID, "shards[0].primary.port"},
    {"\"port\":5432", "\"port\":0", ERRC_INVALID, "shard s1: 0 is no port"},
    {"\"port\":5432", "\"port\":65536", ERRC_INVALID, "shards[0].primary.port"},
    {"\"host\":\"10.0.0.6\"", "\"host\":\"a b\"", ERRC_INVALID, "the host of a replica"},
    {"\"lag_bytes\":\"0\"", "\"lag_bytes\":0", ERRC_INVALID, "shards[0].replicas[0].lag_bytes"},
    {"\"state\":\"moving\"", "\"state\":\"gone\"", ERRC_INVALID, "shards[1].state: no such state"},
    {"\"replicas\":[]", "\"replicas\":{}", ERRC_INVALID, "shards[1].replicas: not an array"},
    {"\"replicas\":[],", "", ERRC_INVALID, "shards[1].replicas: missing"},
};

static void test_every_fault_names_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        const char *at = strstr(document, faults[i].from);
        assert_non_null(at);
        struct buf text = {0};
        buf_add(&text, document, (size_t)(at - document));
        buf_add_text(&text, faults[i].to);
        buf_add_text(&text, at + strlen(faults[i].from));
        struct routing *r = NULL;
        struct err err = {0};
        int rc = routing_parse(buf_text(&text), text.length, &r, &err);
        if (rc != (int)faults[i].code || strstr(err.message, faults[i].place) == NULL || r != NULL)
            fail_msg("\"%s\": code %d, \"%s\", expected \"%s\"", faults[i].to, rc, err.message,
                     faults[i].place);
        buf_free(&text);
    }
}

static void test_every_cut_is_refused(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof document - 1; n++) {
        struct routing *r = NULL;
        assert_int_equal(routing_parse(document, n, &r, NULL), ERRC_INVALID);
        assert_null(r);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct routing *r = evenly(ROUTING_SHARDS_MAX);
    struct err err = {0};
    assert_int_equal(routing_check(r, NULL), 0);
    char *text = printed(r);
    routing_free(parsed(text));
    free(text);
    routing_add_shard(r, "z", "127.0.0.1", 1);
    assert_int_equal(routing_check(r, &err), ERRC_LIMIT);
    assert_non_null(strstr(err.message, "shards"));
    routing_free(r);
    struct buf big = {0};
    buf_add_text(&big, document);
    while (big.length <= ROUTING_DOC_MAX)
        buf_add_text(&big, "                                                                ");
    assert_int_equal(routing_parse(buf_text(&big), big.length, &r, &err), ERRC_LIMIT);
    buf_free(&big);
    r = evenly(1);
    for (int i = 0; i <= ROUTING_TABLES_MAX; i++) {
        char name[32];
        snprintf(name, sizeof name, "public.t%05d", i);
        if (i == ROUTING_TABLES_MAX)
            assert_int_equal(routing_check(r, NULL), 0);
        routing_add_table(r, name, "k", KEY_UUID);
    }
    assert_int_equal(routing_check(r, &err), ERRC_LIMIT);
    assert_non_null(strstr(err.message, "tables"));
    routing_free(r);
}

static void test_move(void **state)
{
    (void)state;
    struct routing *r = parsed(document);
    routing_add_shard(r, "s3", "10.0.0.8", 5432);
    assert_int_equal(routing_check(r, NULL), 0);
    assert_int_equal(routing_move(r, "s1", "s3", &(struct range){-100, -1}, NULL), 0);
    assert_int_equal(routing_check(r, NULL), 0);
    assert_true(r->epoch == 43);
    assert_true(routing_find_shard(r, "s1")->epoch == 43 && routing_find_shard(r, "s3")->epoch == 43);
    assert_true(routing_find_shard(r, "s2")->epoch == 42);
    assert_string_equal(routing_owner(r, -100)->name, "s3");
    assert_string_equal(routing_owner(r, -101)->name, "s1");
    char *before = printed(r);
    struct err err = {0};
    assert_int_equal(routing_move(r, "s1", "s3", &(struct range){-200, -50}, &err), ERRC_CONFLICT);
    assert_non_null(strstr(err.message, "shard s1"));
    assert_int_equal(routing_move(r, "s1", "s9", &(struct range){-200, -150}, &err), ERRC_NOT_FOUND);
    assert_non_null(strstr(err.message, "s9"));
    assert_int_equal(routing_move(r, "s1", "s1", &(struct range){-200, -150}, &err), ERRC_INVALID);
    assert_int_equal(routing_remove_shard(r, "s3", &err), ERRC_CONFLICT);
    assert_int_equal(routing_remove_shard(r, "s9", &err), ERRC_NOT_FOUND);
    char *after = printed(r);
    assert_string_equal(before, after);
    free(before);
    free(after);
    assert_int_equal(routing_move(r, "s3", "s1", &(struct range){-100, -1}, NULL), 0);
    assert_int_equal(routing_remove_shard(r, "s3", NULL), 0);
    assert_true(r->shard_count == 2 && r->epoch == 44);
    assert_int_equal(routing_check(r, NULL), 0);
    routing_free(r);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 11 ^ *seed << 31;
}

/* A random piece of a random range of the shard. */
static struct range random_piece(const struct routing_shard *shard, uint64_t *seed)
{
    struct range r = shard->ranges.items[next_random(seed) % shard->ranges.count];
    uint64_t width = range_width_minus_one(&r);
    uint64_t a = width > 0 ? next_random(seed) % width : 0, b = width > 0 ? next_random(seed) % width : 0;
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return (struct range){(int64_t)((uint64_t)r.lo + low), (int64_t)((uint64_t)r.lo + high)};
}

static void test_random_moves_keep_the_table_sound(void **state)
{
    (void)state;
    uint64_t seed = 20261121;
    struct routing *r = evenly(8);
    for (int step = 0; step < 5000; step++) {
        const struct routing_shard *from = &r->shards[next_random(&seed) % 8],
                                   *to = &r->shards[next_random(&seed) % 8];
        if (from == to || from->ranges.count == 0)
            continue;
        struct range piece = random_piece(from, &seed);
        uint64_t epoch = r->epoch;
        struct err err = {0};
        assert_string_equal(routing_owner(r, piece.lo)->name, from->name);
        if (routing_move(r, from->name, to->name, &piece, &err) != 0 || routing_check(r, &err) != 0)
            fail_msg("step %d: %s", step, err.message);
        assert_true(r->epoch == epoch + 1 && to->epoch == r->epoch);
        assert_string_equal(routing_owner(r, piece.lo)->name, to->name);
        assert_string_equal(routing_owner(r, piece.hi)->name, to->name);
        if (step % 100 == 0) {
            char *text = printed(r);
            struct routing *again = parsed(text);
            char *second = printed(again);
            assert_string_equal(text, second);
            for (size_t i = 0; i < r->shard_count; i++)
                assert_true(range_set_equal(&r->shards[i].ranges, &again->shards[i].ranges));
            routing_free(again);
            free(second);
            free(text);
        }
    }
    routing_free(r);
}

static void test_names_are_escaped(void **state)
{
    (void)state;
    struct routing *r = evenly(1);
    routing_add_table(r, "public.\"o\\dd \xc3\xbc\"", "k\"ey", KEY_TEXT);
    char *text = printed(r);
    struct routing *again = parsed(text);
    assert_string_equal(again->tables[0].table, r->tables[0].table);
    assert_string_equal(again->tables[0].key, r->tables[0].key);
    free(text);
    routing_free(again);
    static const char *const bad[] = {"public.\xff",         "public.a\n", "public.\xc0\x80",
                                      "public.\xed\xa0\x80", "public.",    ".x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct routing *other = routing_clone(r);
        routing_add_table(other, bad[i], "k", KEY_TEXT);
        assert_int_equal(routing_check(other, NULL), ERRC_INVALID);
        routing_free(other);
    }
    routing_free(r);
}

static void test_state_names(void **state)
{
    (void)state;
    for (int s = 0; s < SHARD_STATE_MAX; s++)
        assert_int_equal(shard_state_parse(shard_state_name((enum shard_state)s)), s);
    assert_int_equal(shard_state_parse("Serving"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_and_print),
        cmocka_unit_test(test_every_fault_names_its_place),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_random_moves_keep_the_table_sound),
        cmocka_unit_test(test_names_are_escaped),
        cmocka_unit_test(test_state_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
