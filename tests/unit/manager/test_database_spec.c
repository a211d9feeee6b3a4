/* Specifications of databases: what they mean, what is refused and where, and that printing keeps them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "manager/config.h"
#include "manager/config_key.h"

#define HEAD   "apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {name: shop}\n"
#define TABLES "  tables: [{name: public.orders, key: customer_id}]\n"

static struct database_spec good(const char *text)
{
    struct database_spec spec;
    struct err err = {0};
    if (database_spec_parse(text, strlen(text), "d.yaml", NULL, &spec, &err) != 0)
        fail_msg("%s\nin\n%s", err.message, text);
    return spec;
}

static char *printed(const struct database_spec *spec)
{
    struct buf json = {0};
    database_spec_print(spec, &json);
    return buf_take(&json);
}

static void expect_range(const struct spec_shard *shard, const char *name, int64_t lo, int64_t hi)
{
    assert_string_equal(shard->name, name);
    assert_true(shard->range.lo == lo && shard->range.hi == hi);
}

static char *read_source(const char *name)
{
    const char *root = __FILE__, *tests = strstr(root, "tests/unit/manager/");
    const char *up[] = {"", "../", "../../", "../../../", "../../../../"};
    char path[4096];
    FILE *file = NULL;
    assert_non_null(tests);
    snprintf(path, sizeof path, "%.*s%s", (int)(tests - root), root, name);
    if (root[0] == '/')
        file = fopen(path, "r");
    for (size_t i = 0; file == NULL && i < sizeof up / sizeof up[0]; i++) {
        snprintf(path, sizeof path, "%s%s", up[i], name);
        file = fopen(path, "r");
    }
    if (file == NULL)
        fail_msg("%s is not found from here: run the test below the source tree", name);
    struct buf text = {0};
    char block[4096];
    size_t n;
    while ((n = fread(block, 1, sizeof block, file)) > 0)
        buf_add(&text, block, n);
    fclose(file);
    return buf_take(&text);
}

/* ---- what it means ---- */

static void expect_makeable(const char *text, bool kept, enum err_code code)
{
    struct database_spec spec = good(text);
    struct err err = {0};
    assert_int_equal(database_spec_makeable(&spec, kept, &err), code);
    assert_int_equal(err.code, code);
    database_spec_free(&spec);
}

static void test_instances(void **state)
{
    (void)state;
    expect_makeable(HEAD "spec:\n  shards: 1\n" TABLES, false, ERRC_NONE);
    expect_makeable(HEAD "spec:\n  shards: 1\n  instances: 3\n" TABLES, false, ERRC_UNSUPPORTED);
    expect_makeable(HEAD "spec:\n  shards: 1\n  instances: 9\n" TABLES, true, ERRC_NONE);
    /* names of 32 letters each, as of a single instance, are too many for a replication slot */
    expect_makeable("apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\n"
                    "metadata: {name: a2345678901234567890123456789012}\n"
                    "spec:\n  shards: [{name: b234567890123456789012}]\n  instances: 2\n" TABLES,
                    true, ERRC_INVALID);
    expect_makeable("apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\n"
                    "metadata: {name: a2345678901234567890123456789012}\n"
                    "spec:\n  shards: [{name: b23456789012345678901}]\n  instances: 2\n" TABLES,
                    true, ERRC_NONE);
}

static void test_members(void **state)
{
    (void)state;
    struct database_spec spec = good(
        HEAD "spec:\n  shards: 1\n  instances: 4\n  members:\n"
             "  - {number: 3, noFailover: true, noSync: true, priority: -2, replayDelay: 90m, follows: 1}\n"
             "  - {number: 1, priority: 7}\n  - {number: 2}\n" TABLES);
    struct buf json = {0};
    const struct instance_tags *t = spec.members;
    assert_true(t[3].no_failover && t[3].no_sync && t[3].priority == -2);
    assert_int_equal(t[3].delay_ns, 5400ull * ENV_NS_PER_S);
    assert_true(t[3].follows == 2 && t[1].follows == 0);
    assert_true(t[1].priority == 7 && !t[1].no_failover && !t[1].no_sync && t[1].delay_ns == 0);
    database_spec_print(&spec, &json);
    assert_non_null(strstr(buf_text(&json),
                           "\"members\":[{\"number\":1,\"priority\":7},{\"number\":3,\"noFailover\":true,"
                           "\"noSync\":true,\"priority\":-2,\"replayDelay\":\"90m\",\"follows\":1}]"));
    struct database_spec again = good(buf_text(&json));
    assert_memory_equal(again.members, spec.members, sizeof spec.members);
    buf_free(&json);
    database_spec_free(&again);
    database_spec_free(&spec);
}

static void test_least(void **state)
{
    (void)state;
    struct balance_policy policy;
    struct database_spec spec = good(HEAD "spec:\n  shards: 1\n" TABLES);
    balance_policy_defaults(&policy);
    assert_string_equal(spec.name, "shop");
    assert_int_equal(spec.shard_count, 1);
    expect_range(&spec.shards[0], "s1", INT64_MIN, INT64_MAX);
    assert_null(spec.shards[0].instance);
    assert_int_equal(spec.instances, 1);
    assert_int_equal(spec.table_count, 1);
    assert_string_equal(spec.tables[0].name, "public.orders");
    assert_string_equal(spec.tables[0].key, "customer_id");
    assert_null(spec.schema);
    assert_string_equal(spec.owner, "app");
    assert_int_equal(spec.balance_given, 0);
    assert_int_equal(spec.balance.bake_ns, policy.bake_ns);
    database_spec_free(&spec);
    database_spec_free(&spec);
}

static void test_all(void **state)
{
    (void)state;
    struct database_spec spec =
        good(HEAD "spec:\n"
                  "  shards:\n"
                  "    - {name: west, range: \"0..9223372036854775807\", instance: spare-1}\n"
                  "    - name: east\n"
                  "      range: -9223372036854775808..-1\n"
                  "  tables:\n"
                  "    - {name: customers, key: \"Customer Id\"}\n"
                  "    - {name: Sales.Orders, key: id}\n"
                  "    - {name: '\"Odd \"\"Name\"', key: id}\n"
                  "  schema: |\n    CREATE TABLE x (off int);\n"
                  "  owner: shop_app\n"
                  "  balance: {split: recommend, merge: off, rebalance: \"auto\",\n"
                  "    objective: wal_rate, threshold: 16MB, relative: 1.75, window: 5,\n"
                  "    cooldown: 0s, mergeAfter: 2h, maxShards: 8, sample: 2, bake: 1d}\n");
    assert_int_equal(spec.shard_count, 2);
    expect_range(&spec.shards[0], "west", 0, INT64_MAX);
    expect_range(&spec.shards[1], "east", INT64_MIN, -1);
    assert_string_equal(spec.shards[0].instance, "spare-1");
    assert_null(spec.shards[1].instance);
    assert_string_equal(spec.tables[0].name, "public.customers");
    assert_string_equal(spec.tables[0].key, "Customer Id");
    assert_string_equal(spec.tables[1].name, "sales.orders");
    assert_string_equal(spec.tables[2].name, "public.\"Odd \"\"Name\"");
    assert_string_equal(spec.schema, "CREATE TABLE x (off int);\n");
    assert_string_equal(spec.owner, "shop_app");
    assert_int_equal(spec.balance.split, AUTO_RECOMMEND);
    assert_int_equal(spec.balance.merge, AUTO_OFF);
    assert_int_equal(spec.balance.rebalance, AUTO_ON);
    assert_int_equal(spec.balance.objective, LOAD_WAL_RATE);
    assert_int_equal((int64_t)spec.balance.threshold, 16 * 1024 * 1024);
    assert_int_equal((int)(spec.balance.relative * 100), 175);
    assert_int_equal(spec.balance.window, 5);
    assert_int_equal(spec.balance.cooldown_ns, 0);
    assert_int_equal(spec.balance.merge_after_ns, 7200 * ENV_NS_PER_S);
    assert_int_equal(spec.balance.max_shards, 8);
    assert_int_equal(spec.balance.sample_ns, 2 * ENV_NS_PER_S);
    assert_int_equal(spec.balance.bake_ns, 86400 * ENV_NS_PER_S);
    assert_int_equal(spec.balance_given, 0xfff);
    database_spec_free(&spec);
}

static void test_names_without_ranges(void **state)
{
    (void)state;
    struct database_spec spec = good(HEAD "spec:\n  shards: [{name: a}, {name: b, instance: x}]\n" TABLES);
    expect_range(&spec.shards[0], "a", INT64_MIN, -1);
    expect_range(&spec.shards[1], "b", 0, INT64_MAX);
    assert_string_equal(spec.shards[1].instance, "x");
    database_spec_free(&spec);
    spec = good(HEAD "spec:\n  shards: 1024\n" TABLES);
    assert_string_equal(spec.shards[1023].name, "s1024");
    assert_true(spec.shards[1023].range.hi == INT64_MAX);
    database_spec_free(&spec);
}

static void test_defaults_given(void **state)
{
    (void)state;
    struct balance_policy policy;
    struct database_spec spec, again;
    struct err err = {0};
    const char *text = HEAD "spec:\n  shards: 2\n" TABLES "  balance: {cooldown: 1s, split: ~}\n";
    balance_policy_defaults(&policy);
    policy.split = AUTO_OFF;
    policy.window = 99;
    assert_int_equal(database_spec_parse(text, strlen(text), "d", &policy, &spec, &err), 0);
    assert_int_equal(spec.balance.split, AUTO_OFF);
    assert_int_equal(spec.balance.window, 99);
    assert_int_equal(spec.balance.cooldown_ns, ENV_NS_PER_S);
    /* what was not said goes on following the defaults after it was stored */
    char *json = printed(&spec);
    policy.window = 7;
    assert_int_equal(database_spec_parse(json, strlen(json), "d", &policy, &again, &err), 0);
    assert_int_equal(again.balance.window, 7);
    assert_int_equal(again.balance.cooldown_ns, ENV_NS_PER_S);
    free(json);
    database_spec_free(&spec);
    database_spec_free(&again);
}

/* ---- printing ---- */

static void expect_same(const struct database_spec *a, const struct database_spec *b)
{
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->owner, b->owner);
    assert_int_equal(a->schema != NULL, b->schema != NULL);
    if (a->schema != NULL)
        assert_string_equal(a->schema, b->schema);
    assert_int_equal(a->shard_count, b->shard_count);
    for (int i = 0; i < a->shard_count; i++) {
        expect_range(&a->shards[i], b->shards[i].name, b->shards[i].range.lo, b->shards[i].range.hi);
        assert_int_equal(a->shards[i].instance != NULL, b->shards[i].instance != NULL);
        if (a->shards[i].instance != NULL)
            assert_string_equal(a->shards[i].instance, b->shards[i].instance);
    }
    assert_int_equal(a->table_count, b->table_count);
    for (int i = 0; i < a->table_count; i++) {
        assert_string_equal(a->tables[i].name, b->tables[i].name);
        assert_string_equal(a->tables[i].key, b->tables[i].key);
    }
    assert_int_equal(a->balance_given, b->balance_given);
    for (size_t i = 0; i < count; i++)
        assert_true(config_key_equal(&keys[i], &a->balance, &b->balance));
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {
        HEAD "spec:\n  shards: 7\n" TABLES,
        HEAD "spec:\n  shards: [{name: a, range: 5..9223372036854775807, instance: i}, "
             "{name: b, range: -9223372036854775808..4}]\n" TABLES,
        HEAD "spec:\n  shards: 1\n  tables: [{name: '\"a.b\".\"C\"', key: \"x \\\"y\\\" \\\\\"}, {name: "
             "\xc3\xa4.t, key: k}]\n",
        /* what JSON keeps and YAML would fold or refuse */
        HEAD "spec:\n  shards: 1\n  schema: \"a\\n\\n  b \\t\\x01\\x7f\\x85\\u2028\\ufeff\\uFFFF \\U0001F600 "
             "\\\\ud83d\\\\ude00 '\\\"\"\n" TABLES,
        HEAD "spec:\n  shards: 1\n" TABLES
             "  balance: {threshold: 0.1, relative: 1.3333333333333333, bake: 90m, cooldown: "
             "1500us, sample: 2500ms, window: 600}\n",
        HEAD "spec:\n  shards: 1\n" TABLES
             "  balance: {split: off, merge: auto, rebalance: recommend, objective: size, "
             "threshold: 1e18}\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct database_spec one = good(texts[i]);
        char *first = printed(&one);
        struct database_spec two = good(first);
        char *second = printed(&two);
        expect_same(&one, &two);
        assert_string_equal(first, second);
        yyjson_doc *doc = yyjson_read(first, strlen(first), 0);
        assert_non_null(doc);
        yyjson_val *spec = yyjson_obj_get(yyjson_doc_get_root(doc), "spec");
        assert_int_equal(yyjson_arr_size(yyjson_obj_get(spec, "shards")), one.shard_count);
        yyjson_doc_free(doc);
        free(first);
        free(second);
        database_spec_free(&one);
        database_spec_free(&two);
    }
    struct database_spec spec = good(texts[3]);
    assert_string_equal(spec.schema,
                        "a\n\n  b \t\x01\x7f\xc2\x85\u2028\ufeff\uffff \U0001F600 \\ud83d\\ude00 '\"");
    database_spec_free(&spec);
}

static void test_json(void **state)
{
    (void)state;
    /* tabs, escapes, surrogate pairs and slashes as JSON writers make them */
    struct database_spec spec =
        good("{\r\n\t\"apiVersion\":\"shardherd.io\\/v1alpha1\",\t\"kind\":\"ShardedDatabase\",\r\n"
             "\t\"metadata\":{\"name\":\"shop\"},\"spec\":{\"shards\":2,\"schema\":\"-- \\ud83d\\ude00 "
             "\\u00e4 \\\\ud83d\\n"
             "\xe2\x80\xa8\",\"tables\":[{\"name\":\"orders\",\"key\":\"id\"}],\"balance\":{\"threshold\":"
             "5e2,\"window\":3}}}");
    assert_string_equal(spec.schema, "-- \U0001F600 \u00e4 \\ud83d\n\u2028");
    assert_int_equal((int)spec.balance.threshold, 500);
    assert_int_equal(spec.balance.window, 3);
    database_spec_free(&spec);
}

static void test_large(void **state)
{
    (void)state;
    struct buf text = {0};
    struct database_spec spec;
    struct err err = {0};
    buf_add_text(&text, HEAD "spec:\n  shards: 1\n" TABLES "  schema: |\n");
    while (text.length < 600000)
        buf_add_text(&text, "    \"\"\n");
    /* read from 600 kB; as JSON each quote and line end is longer, and still it fits */
    spec = good(buf_text(&text));
    char *json = printed(&spec);
    struct database_spec again = good(json);
    assert_string_equal(spec.schema, again.schema);
    free(json);
    database_spec_free(&spec);
    database_spec_free(&again);
    buf_reset(&text);
    buf_add_text(&text, HEAD "spec:\n  shards: 1\n" TABLES "  schema: '");
    while (text.length < 600000)
        buf_add_text(&text, "\"\"\"\"\"\"\"\"\"\"");
    buf_addc(&text, '\'');
    assert_int_equal(database_spec_parse(buf_text(&text), text.length, "d.yaml", NULL, &spec, &err),
                     ERRC_INVALID);
    assert_non_null(strstr(err.message, "d.yaml:1:1: as JSON it has 1"));
    assert_non_null(strstr(err.message, "shorten spec.schema"));
    buf_free(&text);
}

/* ---- errors ---- */

#define SPEC(text) HEAD "spec:\n" text
static const struct {
    const char *text, *message;
} bad[] = {
    {"", "d.yaml:1:1: it is empty: a ShardedDatabase is expected"},
    {"[]", "d.yaml:1:1: the specification is not a mapping"},
    {"kind: ShardedDatabase\n", "d.yaml:1:1: apiVersion is missing: add it"},
    {"apiVersion: v1\nkind: ShardedDatabase\n",
     "d.yaml:1:13: apiVersion: \"v1\" is not known here: write shardherd.io/v1alpha1"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: Pod\n",
     "d.yaml:2:7: kind: \"Pod\" is not known here: write ShardedDatabase"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: [x]\n", "d.yaml:2:7: kind is a list: write a single value"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\n",
     "d.yaml:1:1: metadata is missing: add metadata: {name: shop}"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {}\n",
     "d.yaml:3:11: metadata.name is missing: add it"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: shop\n",
     "d.yaml:3:11: metadata is not a mapping"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {name: Shop}\n",
     "d.yaml:3:18: metadata.name: \"Shop\" is not a name: at most 32 lower-case letters, digits and - "
     "inside"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {name: "
     "a23456789012345678901234567890123}\n",
     "d.yaml:3:18: metadata.name: \"a23456789012345678901234567890123\" is not a name: at most 32"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {name: template1}\n",
     "d.yaml:3:18: metadata.name: template1 is a database that every server has: take another name"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata: {name: a, nmae: b}\n",
     "d.yaml:3:21: unknown key \"nmae\" (did you mean \"name\"?)"},
    {"apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadta: {name: a}\n",
     "d.yaml:3:1: unknown key \"metadta\" (did you mean \"metadata\"?)"},
    {HEAD, "d.yaml:1:1: spec is missing: add spec with shards and tables"},
    {HEAD "spec:\n", "d.yaml:1:1: spec is missing"},
    {HEAD "spec: 5\n", "d.yaml:4:7: spec is not a mapping"},
    {SPEC("  shard: 2\n" TABLES), "d.yaml:5:3: unknown key \"shard\" (did you mean \"shards\"?)"},
    {SPEC(TABLES), "d.yaml:5:3: spec.shards is missing: write how many, or a list of them"},
    {SPEC("  shards: 0\n" TABLES),
     "d.yaml:5:11: spec.shards: \"0\" is neither a number from 1 to 1024 nor a list"},
    {SPEC("  shards: 1025\n" TABLES), "d.yaml:5:11: spec.shards: \"1025\" is neither"},
    {SPEC("  shards: two\n" TABLES), "d.yaml:5:11: spec.shards: \"two\" is neither"},
    {SPEC("  shards: {a: 1}\n" TABLES),
     "d.yaml:5:11: spec.shards is not a list: begin each item with \"- \""},
    {SPEC("  shards: []\n" TABLES), "d.yaml:5:11: spec.shards has 0 shards: write 1 to 1024"},
    {SPEC("  shards: [s1]\n" TABLES), "d.yaml:5:12: spec.shards[0] is not a mapping"},
    {SPEC("  shards: [{}]\n" TABLES), "d.yaml:5:12: spec.shards[0].name is missing: add it"},
    {SPEC("  shards: [{name: S}]\n" TABLES), "d.yaml:5:19: spec.shards[0].name: \"S\" is not a name"},
    {SPEC("  shards: [{name: a, rnage: x}]\n" TABLES),
     "d.yaml:5:22: unknown key \"rnage\" (did you mean \"range\"?)"},
    {SPEC("  shards: [{name: a}, {name: a}]\n" TABLES),
     "d.yaml:5:30: spec.shards[1].name: shard a is there already, in line 5: give it another name"},
    {SPEC("  shards: [{name: a, instance: x}, {name: b, instance: x}]\n" TABLES),
     "d.yaml:5:56: spec.shards[1].instance: x is used by shard a already: take another"},
    {SPEC("  shards: [{name: a, instance: X}]\n" TABLES),
     "d.yaml:5:32: spec.shards[0].instance: \"X\" cannot be an instance: write the name of an entry"},
    {SPEC("  shards: [{name: a, range: 0..1}, {name: b}]\n" TABLES),
     "d.yaml:5:36: spec.shards[1] has no range and others have: give all a range, or none"},
    {SPEC("  shards: [{name: a, range: all}]\n" TABLES),
     "d.yaml:5:29: spec.shards[0].range: \"all\" is not a range: write \"LO..HI\", both inclusive, LO not "
     "above HI"},
    {SPEC("  shards: [{name: a, range: 5..4}]\n" TABLES),
     "d.yaml:5:29: spec.shards[0].range: \"5..4\" is not a range"},
    {SPEC("  shards: [{name: a, range: -9223372036854775809..0}]\n" TABLES),
     "d.yaml:5:29: spec.shards[0].range: \"-9223372036854775809..0\" is not a range"},
    {SPEC("  shards: [{name: a, range: [0, 1]}]\n" TABLES), "d.yaml:5:29: spec.shards[0].range is a list"},
    {SPEC("  shards:\n  - {name: a, range: 0..9223372036854775807}\n" TABLES),
     "d.yaml:6:22: spec.shards: no shard has -9223372036854775808..-1: give it to one of them"},
    {SPEC("  shards:\n  - {name: a, range: -9223372036854775808..0}\n" TABLES),
     "d.yaml:6:22: spec.shards: no shard has 1..9223372036854775807: give it to one of them"},
    {SPEC("  shards:\n  - {name: a, range: 10..9223372036854775807}\n  - {name: b, range: "
          "-9223372036854775808..0}\n" TABLES),
     "d.yaml:6:22: spec.shards: no shard has 1..9: give it to one of them"},
    {SPEC("  shards:\n  - {name: a, range: -9223372036854775808..0}\n  - {name: b, range: "
          "0..9223372036854775807}\n" TABLES),
     "d.yaml:7:22: spec.shards[1].range: it overlaps the range of shard a: begin it behind that one's end"},
    {SPEC("  shards:\n  - {name: a, range: -9223372036854775808..9223372036854775807}\n"
          "  - {name: b, range: -9223372036854775808..9223372036854775807}\n" TABLES),
     "d.yaml:7:22: spec.shards[1].range: it overlaps the range of shard a"},
    {SPEC("  shards: 2\n"), "d.yaml:5:3: spec.tables is missing: list the tables to distribute"},
    {SPEC("  shards: 2\n  tables: []\n"), "d.yaml:6:11: spec.tables has 0 tables: write 1 to 4096"},
    {SPEC("  shards: 2\n  tables: orders\n"), "d.yaml:6:11: spec.tables is not a list"},
    {SPEC("  shards: 2\n  tables: [orders]\n"), "d.yaml:6:12: spec.tables[0] is not a mapping"},
    {SPEC("  shards: 2\n  tables: [{name: orders}]\n"), "d.yaml:6:12: spec.tables[0].key is missing: add it"},
    {SPEC("  shards: 2\n  tables: [{key: id}]\n"), "d.yaml:6:12: spec.tables[0].name is missing: add it"},
    {SPEC("  shards: 2\n  tables: [{name: a.b.c, key: id}]\n"),
     "d.yaml:6:19: spec.tables[0].name: \"a.b.c\" is not a table: write schema.table, other than letters, "
     "digits and _ in "
     "double quotes"},
    {SPEC("  shards: 2\n  tables: [{name: 1a, key: id}]\n"),
     "d.yaml:6:19: spec.tables[0].name: \"1a\" is not a table"},
    {SPEC("  shards: 2\n  tables: [{name: 'a;b', key: id}]\n"),
     "d.yaml:6:19: spec.tables[0].name: \"a;b\" is not a table"},
    {SPEC("  shards: 2\n  tables: [{name: '\"a', key: id}]\n"),
     "d.yaml:6:19: spec.tables[0].name: \"\"a\" is not a table"},
    {SPEC("  shards: 2\n  tables: [{name: 'a.', key: id}]\n"),
     "d.yaml:6:19: spec.tables[0].name: \"a.\" is not a table"},
    {SPEC("  shards: 2\n  tables: [{name: '\"\"', key: id}]\n"),
     "d.yaml:6:19: spec.tables[0].name: \"\"\"\" is not a table"},
    {SPEC("  shards: 2\n  tables: [{name: a, key: ''}]\n"),
     "d.yaml:6:27: spec.tables[0].key is not a column: write its name, 1 to 63 bytes, without quotes"},
    {SPEC("  shards: 2\n  tables: [{name: a, key: \"a\\nb\"}]\n"),
     "d.yaml:6:27: spec.tables[0].key is not a column"},
    {SPEC("  shards: 2\n  tables: [{name: a, kye: b}]\n"),
     "d.yaml:6:22: unknown key \"kye\" (did you mean \"key\"?)"},
    {SPEC("  shards: 2\n  tables:\n  - {name: Orders, key: a}\n  - {name: public.orders, key: b}\n"),
     "d.yaml:8:5: spec.tables[1]: table public.orders is there already, in line 7: remove one of them"},
    {SPEC("  shards: 2\n  instances: 10\n" TABLES),
     "d.yaml:6:14: spec.instances is 10: there can be 9 at most for each shard"},
    {SPEC("  shards: 2\n  instances: 0\n" TABLES),
     "d.yaml:6:14: spec.instances: \"0\" is not a number of instances: write 1"},
    {SPEC("  shards: 2\n  instances: [1]\n" TABLES),
     "d.yaml:6:14: spec.instances is a list: write a single value"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{noSync: true}]\n" TABLES),
     "d.yaml:7:13: spec.members[0].number is missing: add it"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 3}]\n" TABLES),
     "d.yaml:7:22: spec.members[0].number is no number from 0 to 2"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 1}, {number: 1}]\n" TABLES),
     "d.yaml:7:35: spec.members[1].number: 1 is there already: one entry for each"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 1, noSync: 1}]\n" TABLES),
     "d.yaml:7:33: spec.members[0].noSync is neither true nor false"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 1, priority: 1001}]\n" TABLES),
     "d.yaml:7:35: spec.members[0].priority is no number from -1000 to 1000"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 1, replayDelay: 1ms}]\n" TABLES),
     "d.yaml:7:38: spec.members[0].replayDelay is no duration from 1s to 720h"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 0, noFailover: true}]\n" TABLES),
     "d.yaml:7:12: spec.members: 0 is the primary of a new shard: tag another one"},
    {SPEC("  shards: 2\n  instances: 2\n  members: [{number: 1, noFailover: true}]\n" TABLES),
     "d.yaml:7:12: spec.members: at least two instances have to be without noFailover, replayDelay and "
     "follows"},
    {SPEC("  shards: 2\n  instances: 2\n  members: [{number: 1, noSync: true}]\n" TABLES),
     "d.yaml:7:12: spec.members: at least two instances have to be without noSync, replayDelay and follows"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 2, follows: 3}]\n" TABLES),
     "d.yaml:7:34: spec.members[0].follows is no number from 0 to 2"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 2, follows: 2}]\n" TABLES),
     "d.yaml:7:12: spec.members: 2 follows itself"},
    {SPEC("  shards: 2\n  instances: 4\n  members: [{number: 2, follows: 3}, {number: 3, follows: "
          "2}]\n" TABLES),
     "d.yaml:7:12: spec.members: 2 follows 3, which follows 2: only one that follows the primary can be "
     "followed"},
    {SPEC("  shards: 2\n  instances: 2\n  members: [{number: 1, follows: 0}]\n" TABLES),
     "d.yaml:7:12: spec.members: at least two instances have to be without noFailover, replayDelay and "
     "follows"},
    {SPEC("  shards: 2\n  instances: 3\n  members: [{number: 0, follows: 1}]\n" TABLES),
     "d.yaml:7:12: spec.members: 0 is the primary of a new shard: tag another one"},
    {SPEC("  shards: 2\n  members: [{number: 1, noSync: true}]\n" TABLES),
     "d.yaml:6:12: spec.members: shards of one instance have no members: leave it out"},
    {SPEC("  shards: 2\n" TABLES "  schema: [a]\n"),
     "d.yaml:7:11: spec.schema is a list: write a single value"},
    {SPEC("  shards: 2\n" TABLES "  schema: \"\\0\"\n"),
     "d.yaml:7:11: the value holds a NUL character: leave it out"},
    {SPEC("  shards: 2\n" TABLES "  owner: App\n"),
     "d.yaml:7:10: spec.owner: \"App\" is not a role: at most 63 lower-case"},
    {SPEC("  shards: 2\n" TABLES "  owner: 1a\n"), "d.yaml:7:10: spec.owner: \"1a\" is not a role"},
    {SPEC("  shards: 2\n" TABLES "  owner: postgres\n"),
     "d.yaml:7:10: spec.owner: postgres has a meaning of its own: take another"},
    {SPEC("  shards: 2\n" TABLES "  owner: shardherd\n"),
     "d.yaml:7:10: spec.owner: shardherd has a meaning of its own"},
    {SPEC("  shards: 2\n" TABLES "  owner: pg_monitor\n"),
     "d.yaml:7:10: spec.owner: pg_monitor has a meaning"},
    {SPEC("  shards: 2\n" TABLES "  balance: auto\n"), "d.yaml:7:12: spec.balance is not a mapping"},
    {SPEC("  shards: 2\n" TABLES "  balance: {merge_after: 1h}\n"),
     "d.yaml:7:13: unknown key \"merge_after\" (did you mean \"mergeAfter\"?)"},
    {SPEC("  shards: 2\n" TABLES "  balance: {max_moves: 1}\n"),
     "d.yaml:7:13: unknown key \"max_moves\" (known here: split"},
    {SPEC("  shards: 2\n" TABLES "  balance: {split: on}\n"),
     "d.yaml:7:20: spec.balance.split: \"on\" is none of off|recommend|auto"},
    {SPEC("  shards: 2\n" TABLES "  balance: {threshold: 1e19}\n"),
     "d.yaml:7:24: spec.balance.threshold: 1e19 is out of range: write a value from 0.001 to 1e18"},
    {SPEC("  shards: 2\n" TABLES "  balance: {bake: 10 min}\n"),
     "d.yaml:7:19: spec.balance.bake: \"10 min\" is not a duration: write e.g. 500ms, 10s, 5m, 1h"},
    {SPEC("  shards: 2\n" TABLES "  balance: {maxShards: 2000}\n"),
     "d.yaml:7:24: spec.balance.maxShards: 2000 is out of range: write a value from 1 to 1024"},
    {SPEC("  shards: 2\n" TABLES "  balance: {window: [1]}\n"), "d.yaml:7:21: spec.balance.window is a list"},
    {"{\"apiVersion\": \"shardherd.io/v1alpha1\",\n \"kind\": \"ShardedDatabase\", \"metadata\": {\"name\": "
     "\"a\"},\n"
     " \"spec\": {\"shards\": 2, \"tables\": [{\"name\": \"a\", \"key\": \"b\"}],}, \"sepc\": 1}",
     "d.yaml:3:65: unknown key \"sepc\" (did you mean \"spec\"?)"},
    {"{\"apiVersion\": \"\\ud83d\"}",
     "d.yaml:1:19: not valid YAML: found invalid Unicode character escape code"},
};

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct database_spec spec = {.shard_count = 77};
        struct err err = {0};
        if (database_spec_parse(bad[i].text, strlen(bad[i].text), "d.yaml", NULL, &spec, &err) == 0)
            fail_msg("taken:\n%s", bad[i].text);
        assert_int_equal(err.code, ERRC_INVALID);
        if (strncmp(err.message, bad[i].message, strlen(bad[i].message)) != 0)
            fail_msg("of\n%s\nexpected\n  %s\ngot\n  %s", bad[i].text, bad[i].message, err.message);
        assert_int_equal(spec.shard_count, 77);
    }
    assert_true(sizeof bad / sizeof bad[0] >= 40);
}

/* ---- what describes it ---- */

static void test_sample(void **state)
{
    (void)state;
    char *text = read_source("config/shop.yaml");
    struct database_spec spec = good(text);
    assert_string_equal(spec.name, "shop");
    assert_int_equal(spec.shard_count, 2);
    assert_int_equal(spec.table_count, 2);
    assert_string_equal(spec.tables[1].name, "public.orders");
    assert_non_null(strstr(spec.schema, "REFERENCES customers"));
    database_spec_free(&spec);
    free(text);
}

static yyjson_val *property(yyjson_val *schema, const char *name)
{
    return yyjson_obj_get(yyjson_obj_get(schema, "properties"), name);
}

static void expect_members(yyjson_val *schema, const char *const *names)
{
    size_t n = 0;
    for (; names[n] != NULL; n++)
        if (property(schema, names[n]) == NULL)
            fail_msg("config/database.schema.json lacks %s", names[n]);
    assert_int_equal(yyjson_obj_size(yyjson_obj_get(schema, "properties")), n);
    assert_false(yyjson_get_bool(yyjson_obj_get(schema, "additionalProperties")));
}

static void test_schema_and_docs(void **state)
{
    (void)state;
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    const char *balance[32] = {0};
    char *text = read_source("config/database.schema.json"), *docs = read_source("docs/configuration.md");
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    assert_non_null(doc);
    yyjson_val *root = yyjson_doc_get_root(doc), *spec = property(root, "spec");
    expect_members(root, (const char *const[]){"apiVersion", "kind", "metadata", "spec", NULL});
    expect_members(spec, (const char *const[]){"shards", "instances", "members", "tables", "schema", "owner",
                                               "balance", NULL});
    expect_members(yyjson_obj_get(property(spec, "tables"), "items"),
                   (const char *const[]){"name", "key", NULL});
    yyjson_val *list = yyjson_arr_get(yyjson_obj_get(property(spec, "shards"), "oneOf"), 1);
    expect_members(yyjson_obj_get(list, "items"), (const char *const[]){"name", "range", "instance", NULL});
    const char *reference = strstr(docs, "### spec.balance");
    assert_non_null(reference);
    for (size_t i = 0; i < count; i++) {
        char row[160], standard[64];
        balance[i] = keys[i].path;
        yyjson_val *value = yyjson_obj_get(property(property(spec, "balance"), keys[i].path), "default");
        char *written =
            yyjson_is_str(value) ? mem_strdup(yyjson_get_str(value)) : yyjson_val_write(value, 0, NULL);
        snprintf(standard, sizeof standard, "%s", keys[i].standard);
        assert_string_equal(written, standard);
        free(written);
        snprintf(row, sizeof row, "\n| `%s` | %s | `%s` |", keys[i].path, config_type_name(keys[i].type),
                 standard);
        if (strstr(reference, row) == NULL)
            fail_msg("docs/configuration.md lacks %s", row + 1);
    }
    expect_members(property(spec, "balance"), balance);
    yyjson_doc_free(doc);
    free(text);
    free(docs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_names_without_ranges),
        cmocka_unit_test(test_defaults_given),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_instances),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_schema_and_docs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
