/* ShardedDatabase objects: what is kept, how they are translated, and the status that follows from facts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/mem.h"
#include "manager/config.h"
#include "manager/kube_operation.h"
#include "manager/kube_status.h"

static struct kube_object_kept *keep(const char *json)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    struct kube_object_kept *kept = kube_kept_new(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return kept;
}

#define META   "\"metadata\":{\"name\":\"shop\",\"namespace\":\"ns\",\"uid\":\"u1\",\"generation\":3%s}"
#define TABLES "\"tables\":[{\"name\":\"orders\",\"key\":\"customer_id\"}]"

static struct kube_object_kept *keep_with(const char *meta, const char *spec, const char *status)
{
    char *text = mem_printf("{" META ",\"spec\":{" TABLES "%s}%s}", meta, spec, status);
    struct kube_object_kept *kept = keep(text);
    free(text);
    return kept;
}

static void test_kept(void **state)
{
    (void)state;
    struct kube_object_kept *k = keep_with(
        ",\"managedFields\":[{\"manager\":\"x\"}],\"deletionTimestamp\":\"2026-11-21T07:15:00Z\","
        "\"finalizers\":[\"a/b\",\"" KUBE_FINALIZER "\"]",
        ",\"shards\":4,\"suspended\":true,\"deletionPolicy\":\"delete\","
        "\"schema\":{\"secret\":{\"name\":\"sql\",\"key\":\"init\"}}",
        ",\"status\":{\"observedGeneration\":2,\"requestedShards\":3,\"conditions\":[{\"type\":\"Ready\","
        "\"status\":\"True\",\"reason\":\"AsSpecified\",\"message\":\"m\","
        "\"lastTransitionTime\":\"2026-11-21T07:15:00Z\"},{\"type\":\"Other\",\"status\":\"True\"}]}");
    assert_non_null(k);
    assert_true(k->deleting && k->finalizer && k->suspended);
    assert_non_null(
        strstr(k->json, "\"deletionTimestamp\"")); /* the runtime asks for it before it makes snapshots */
    assert_int_equal(k->generation, 3);
    assert_int_equal(k->shards, 4);
    assert_int_equal(k->instances, 1);
    assert_string_equal(k->secret, "sql");
    assert_string_equal(k->key, "init");
    assert_null(k->config_map);
    assert_int_equal(k->observed_generation, 2);
    assert_int_equal(k->requested_shards, 3);
    assert_int_equal(k->conditions[KUBE_READY].truth, KUBE_TRUE);
    assert_int_equal(k->conditions[KUBE_READY].since_us, 1795245300000000);
    assert_int_equal(k->conditions[KUBE_STALLED].truth, KUBE_ABSENT);
    assert_null(strstr(k->json, "managedFields"));
    assert_null(strstr(k->json, "status"));
    assert_non_null(strstr(k->json, "\"uid\":\"u1\""));
    kube_kept_free(k);
    /* what is no object is not kept, and nothing dies of it */
    assert_null(keep("{}"));
    assert_null(keep("[]"));
    assert_null(keep("{\"metadata\":{\"name\":\"x\",\"namespace\":\"n\",\"uid\":\"u\"},\"spec\":7}"));
    assert_null(keep("{\"metadata\":{\"name\":\"x\",\"uid\":\"u\"},\"spec\":{}}"));
    kube_kept_free(NULL);
}

/* The translation is taken by the parser of specifications, and says the same. */
static void expect_spec(const char *spec_json, const char *stored, const char *schema, int shards,
                        const char *first_range, const char *want_schema)
{
    struct kube_object_kept *k = keep_with("", spec_json, "");
    struct buf text = {0};
    struct err err = {0};
    struct database_spec spec;
    char range[RANGE_TEXT_SIZE];
    assert_int_equal(kube_spec_print(k, stored, schema, false, &text, &err), 0);
    if (database_spec_parse(buf_text(&text), text.length, "t", NULL, &spec, &err) != 0)
        fail_msg("%s: %s", buf_text(&text), err.message);
    assert_string_equal(spec.name, "shop");
    assert_int_equal(spec.shard_count, shards);
    range_format(&spec.shards[0].range, range);
    assert_string_equal(range, first_range);
    if (want_schema == NULL)
        assert_null(spec.schema);
    else
        assert_string_equal(spec.schema, want_schema);
    database_spec_free(&spec);
    buf_free(&text);
    kube_kept_free(k);
}

static void test_translation(void **state)
{
    (void)state;
    expect_spec(",\"shards\":1", NULL, NULL, 1, "-9223372036854775808..9223372036854775807", NULL);
    expect_spec(",\"shards\":2,\"owner\":\"o\",\"schema\":{\"inline\":\"SELECT 'ä' / \\\"x\\\"\"}", NULL,
                NULL, 2, "-9223372036854775808..-1", "SELECT 'ä' / \"x\"");
    expect_spec(",\"shards\":2,\"schema\":{\"configMap\":{\"name\":\"a\",\"key\":\"b\"}}", NULL, "SELECT 1",
                2, "-9223372036854775808..-1", "SELECT 1");
    expect_spec(",\"ranges\":[{\"name\":\"a\",\"lo\":\"-9223372036854775808\",\"hi\":\"9\"},"
                "{\"name\":\"b\",\"lo\":\"10\",\"hi\":\"9223372036854775807\"}]",
                NULL, NULL, 2, "-9223372036854775808..9", NULL);
    expect_spec(",\"shards\":1,\"balance\":{\"split\":\"off\",\"threshold\":12.5,\"cooldown\":\"5s\","
                "\"maxShards\":7}",
                NULL, NULL, 1, "-9223372036854775808..9223372036854775807", NULL);
    /* of one that is there, shards and schema stay: they change by other ways */
    expect_spec(
        ",\"shards\":9,\"schema\":{\"inline\":\"SELECT 2\"}",
        "{\"spec\":{\"shards\":[{\"name\":\"s1\",\"range\":\"-9223372036854775808..9223372036854775807\"}],"
        "\"schema\":\"SELECT 1\"}}",
        NULL, 1, "-9223372036854775808..9223372036854775807", "SELECT 1");
}

/* Where the runtime keeps standbys itself (cnpg), the shards have one instance for us. */
static void expect_instances(const char *spec_json, bool members, int instances, bool rolls)
{
    struct kube_object_kept *k = keep_with("", spec_json, "");
    struct buf text = {0};
    struct err err = {0};
    struct database_spec spec;
    assert_int_equal(kube_spec_print(k, NULL, NULL, members, &text, &err), 0);
    assert_int_equal(database_spec_parse(buf_text(&text), text.length, "t", NULL, &spec, &err), 0);
    assert_int_equal(spec.instances, instances);
    assert_int_equal(k->rolls, rolls);
    database_spec_free(&spec);
    buf_free(&text);
    kube_kept_free(k);
}

static void test_instances(void **state)
{
    (void)state;
    expect_instances(",\"shards\":1", true, 1, true);
    expect_instances(",\"shards\":1,\"instances\":3", true, 3, true);
    expect_instances(",\"shards\":1,\"instances\":3", false, 1, true);
    expect_instances(",\"shards\":1,\"instances\":3,\"update\":{\"strategy\":\"OnDelete\"}", true, 3, false);
}

/* ---- the status ---- */

struct facts {
    struct fleet fleet;
    struct fleet_database *db;
    struct kube_facts f;
    struct kube_condition conditions[KUBE_CONDITION_COUNT];
};

static void add_shard(struct facts *x, const char *shard, enum instance_health health)
{
    char host[32], name[32];
    snprintf(host, sizeof host, "h-%s", shard);
    snprintf(name, sizeof name, "shop-%s-0", shard);
    struct instance_access access = {.host = host, .port = 5432};
    struct fleet_instance *instance;
    assert_int_equal(fleet_add_instance(&x->fleet, name, "kubernetes", &access, &instance, NULL), 0);
    free(instance->database);
    free(instance->shard);
    instance->database = mem_strdup("shop");
    instance->shard = mem_strdup(shard);
    instance->facts.health = health;
    struct routing_shard *added = routing_add_shard(x->db->routing, shard, host, 5432);
    const struct range range = {(int64_t)x->db->routing->shard_count * 10,
                                (int64_t)x->db->routing->shard_count * 10 + 9};
    assert_int_equal(range_set_add(&added->ranges, &range, NULL), 0);
}

static void facts_init(struct facts *x, bool routed)
{
    memset(x, 0, sizeof *x);
    fleet_init(&x->fleet);
    x->db = fleet_add_database(&x->fleet, "shop");
    if (routed)
        x->db->routing = routing_new("shop");
    x->f = (struct kube_facts){.fleet = &x->fleet,
                               .db = x->db,
                               .current = true,
                               .progress = "",
                               .trouble_reason = "",
                               .trouble_message = "",
                               .now_us = 1000000};
}

static void judge(struct facts *x)
{
    x->f.now_us += 1000000;
    kube_status_judge(&x->f, x->conditions);
}

static void expect(const struct facts *x, enum kube_condition_type type, enum kube_truth truth,
                   const char *reason)
{
    assert_int_equal(x->conditions[type].truth, truth);
    if (truth != KUBE_ABSENT)
        assert_string_equal(x->conditions[type].reason, reason);
}

static void test_provisioning(void **state)
{
    (void)state;
    struct facts x;
    facts_init(&x, false);
    x.f.progress = "pod shop-s1-0 is not scheduled";
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_FALSE, "NotProvisioned");
    expect(&x, KUBE_READY, KUBE_FALSE, "Provisioning");
    expect(&x, KUBE_RECONCILING, KUBE_TRUE, "Provisioning");
    expect(&x, KUBE_STALLED, KUBE_ABSENT, NULL);
    assert_non_null(strstr(x.conditions[KUBE_READY].message, "not scheduled"));
    x.f.trouble_reason = "ProvisioningFailed";
    x.f.trouble_message = "shard s1: no";
    judge(&x);
    expect(&x, KUBE_READY, KUBE_FALSE, "ProvisioningFailed");
    expect(&x, KUBE_RECONCILING, KUBE_TRUE, "ProvisioningFailed"); /* it is tried again */
    expect(&x, KUBE_STALLED, KUBE_ABSENT, NULL);
    x.f.trouble_final = true;
    judge(&x);
    expect(&x, KUBE_RECONCILING, KUBE_ABSENT, NULL);
    expect(&x, KUBE_STALLED, KUBE_TRUE, "ProvisioningFailed");
    fleet_fini(&x.fleet);
}

static void test_serving(void **state)
{
    (void)state;
    struct facts x;
    facts_init(&x, true);
    add_shard(&x, "s1", HEALTH_UP);
    add_shard(&x, "s2", HEALTH_UNKNOWN);
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_UNKNOWN, "NotSeenYet");
    expect(&x, KUBE_READY, KUBE_UNKNOWN, "NotSeenYet");
    struct fleet_instance *second = fleet_find_instance(&x.fleet, "shop-s2-0");
    second->facts.health = HEALTH_SUSPECT; /* one missed poll is no outage */
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_TRUE, "ShardsServe");
    expect(&x, KUBE_READY, KUBE_TRUE, "AsSpecified");
    expect(&x, KUBE_RECONCILING, KUBE_ABSENT, NULL);
    assert_string_equal(x.conditions[KUBE_READY].message, "2 shards serve");
    int64_t since = x.conditions[KUBE_READY].since_us;
    judge(&x); /* nothing new: nothing to write */
    assert_int_equal(x.conditions[KUBE_READY].since_us, since);
    second->facts.health =
        HEALTH_UNKNOWN; /* a manager that has just begun does not take back what was said */
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_TRUE, "ShardsServe");
    second->facts.health = HEALTH_DOWN;
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_FALSE, "ShardsDown");
    expect(&x, KUBE_READY, KUBE_FALSE, "ShardsDown");
    expect(&x, KUBE_RECONCILING, KUBE_ABSENT, NULL);
    assert_non_null(strstr(x.conditions[KUBE_AVAILABLE].message, "s2"));
    assert_true(x.conditions[KUBE_READY].since_us > since);
    second->facts.health = HEALTH_UP;
    x.f.current = false; /* an update: not Ready, but Available all the time */
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_TRUE, "ShardsServe");
    expect(&x, KUBE_READY, KUBE_FALSE, "Updating");
    x.f.current = true;
    x.f.resizing = true;
    x.f.instances = 3;
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_TRUE, "ShardsServe");
    expect(&x, KUBE_READY, KUBE_FALSE, "Resizing");
    expect(&x, KUBE_RECONCILING, KUBE_TRUE, "Resizing");
    assert_non_null(strstr(x.conditions[KUBE_READY].message, "3 instances"));
    x.f.resizing = false;
    x.f.wanted = 3;
    x.f.requested = 2;
    judge(&x);
    expect(&x, KUBE_READY, KUBE_FALSE, "Scaling");
    x.f.requested = 3; /* reached once; a merge afterwards is none of its business */
    judge(&x);
    expect(&x, KUBE_READY, KUBE_TRUE, "AsSpecified");
    x.f.suspended = true;
    judge(&x);
    expect(&x, KUBE_AVAILABLE, KUBE_FALSE, "Suspended");
    expect(&x, KUBE_READY, KUBE_FALSE, "Suspended");
    expect(&x, KUBE_RECONCILING, KUBE_ABSENT, NULL);
    x.f.deleting = true;
    judge(&x);
    expect(&x, KUBE_READY, KUBE_FALSE, "Deleting");
    fleet_fini(&x.fleet);
}

/* Which shard is behind, and whether anything is done about it. */
static void test_newer_versions(void **state)
{
    (void)state;
    struct facts x;
    int older = 9;
    facts_init(&x, true);
    add_shard(&x, "s1", HEALTH_UP);
    add_shard(&x, "s2", HEALTH_UP);
    struct fleet_instance *first = fleet_find_instance(&x.fleet, "shop-s1-0");
    struct fleet_instance *second = fleet_find_instance(&x.fleet, "shop-s2-0");
    x.f.major = 16;
    x.f.rolls = true;
    judge(&x); /* nobody has seen their versions */
    expect(&x, KUBE_READY, KUBE_TRUE, "AsSpecified");
    first->facts.server_version = 160004;
    second->facts.server_version = 150018;
    judge(&x);
    expect(&x, KUBE_READY, KUBE_FALSE, "Upgrading");
    expect(&x, KUBE_RECONCILING, KUBE_TRUE, "Upgrading");
    assert_string_equal(x.conditions[KUBE_READY].message, "1 of 2 shards run PostgreSQL 16");
    assert_string_equal(kube_older_shard(&x.fleet, x.db, 16, &older)->name, "s2");
    assert_int_equal(older, 1);
    x.f.rolls = false;
    judge(&x);
    expect(&x, KUBE_READY, KUBE_TRUE, "OlderVersion");
    expect(&x, KUBE_RECONCILING, KUBE_ABSENT, NULL);
    assert_non_null(strstr(x.conditions[KUBE_READY].message, "shard s2 runs an older PostgreSQL than 16"));
    x.f.major = 15; /* newer than what is asked for is nobody's trouble */
    judge(&x);
    expect(&x, KUBE_READY, KUBE_TRUE, "AsSpecified");
    x.f.major = 0; /* any will do */
    judge(&x);
    expect(&x, KUBE_READY, KUBE_TRUE, "AsSpecified");
    range_set_free(&x.db->routing->shards[1].ranges); /* its rows were moved; its server goes next */
    assert_null(kube_older_shard(&x.fleet, x.db, 16, &older));
    assert_int_equal(older, 0);
    fleet_fini(&x.fleet);
}

static void test_certificates_for_applications(void **state)
{
    static const struct {
        const char *spec;
        bool own;
    } rows[] = {{"{}", true},
                {"{\"tls\":{\"mode\":\"on\"},\"adopt\":{}}", true},
                {"{\"tls\":{\"mode\":\"mutual\"}}", true},
                {"{\"tls\":{\"mode\":\"off\"}}", false},
                {"{\"tls\":{\"mode\":\"on\",\"secret\":\"mine\"}}", false},
                {"{\"tls\":{\"mode\":\"mutual\",\"clientSecret\":\"mine\"}}", false},
                {"{\"adopt\":{\"s1\":\"shop-s1\"}}", false}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *json = mem_printf("{\"metadata\":{\"name\":\"shop\",\"namespace\":\"ns\",\"uid\":\"u\"},"
                                "\"spec\":%s}",
                                rows[i].spec);
        yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
        struct kube_object_kept *kept = kube_kept_new(yyjson_doc_get_root(doc));
        assert_non_null(kept);
        if (kept->own_certificates != rows[i].own)
            fail_msg("%s", rows[i].spec);
        kube_kept_free(kept);
        yyjson_doc_free(doc);
        free(json);
    }
}

static void test_status_document(void **state)
{
    (void)state;
    struct facts x;
    facts_init(&x, true);
    add_shard(&x, "s1", HEALTH_UP);
    const struct range all = {INT64_MIN, INT64_MAX};
    range_set_free(&x.db->routing->shards[0].ranges);
    assert_int_equal(range_set_add(&x.db->routing->shards[0].ranges, &all, NULL), 0);
    routing_add_shard(x.db->routing, "s2", "h2", 5432); /* made by a split that has not filled it */
    judge(&x);
    const struct kube_status status = {.name = "shop",
                                       .uid = "u1",
                                       .generation = 7,
                                       .requested_shards = 1,
                                       .client_certificate = true,
                                       .db = x.db,
                                       .conditions = x.conditions};
    yyjson_mut_doc *doc = kube_status_print(&status);
    char *text = yyjson_mut_write(doc, 0, NULL);
    assert_non_null(strstr(text,
                           "\"observedGeneration\":7,\"requestedShards\":1,\"clientSecret\":\"shop-client\","
                           "\"shards\":1,\"epoch\":\"1\""));
    assert_non_null(strstr(text, "\"type\":\"Ready\",\"status\":\"True\",\"observedGeneration\":7,"
                                 "\"lastTransitionTime\":\"1970-01-01T00:00:02Z\""));
    assert_null(strstr(text, "Stalled"));
    assert_null(strstr(text, "Reconciling"));
    free(text);
    yyjson_mut_doc_free(doc);
    fleet_fini(&x.fleet);
}

/* ---- operations ---- */

static void test_operation(void **state)
{
    (void)state;
    const char *json =
        "{\"metadata\":{\"name\":\"one\",\"uid\":\"u\",\"generation\":1},\"spec\":{\"database\":\"shop\","
        "\"kind\":\"split\",\"shard\":\"s1\",\"range\":{\"lo\":\"5\"},\"bakeSeconds\":60,"
        "\"dryRun\":true,\"cancel\":false},\"status\":{\"operation\":\"mv1\"}}";
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    struct kube_operation_kept *k = kube_operation_kept_new(yyjson_doc_get_root(doc));
    assert_non_null(k);
    assert_string_equal(
        k->body, "{\"kind\":\"split\",\"shard\":\"s1\",\"dryRun\":true,\"lo\":\"5\",\"bake\":\"60s\"}");
    assert_string_equal(k->operation, "mv1");
    assert_false(k->cancel || k->ended);
    struct kube_operation_conditions conditions = {0};
    struct kube_operation_status status = {.kept = k,
                                           .phase = KUBE_OPERATION_PENDING,
                                           .message = "waits",
                                           .now_us = 1000000,
                                           .conditions = &conditions};
    yyjson_mut_doc *out = kube_operation_print(&status);
    char *text = yyjson_mut_write(out, 0, NULL);
    assert_non_null(strstr(text, "\"type\":\"Complete\",\"status\":\"Unknown\""));
    assert_non_null(strstr(text, "\"type\":\"Reconciling\",\"status\":\"True\""));
    assert_null(strstr(text, "completionTime"));
    free(text);
    yyjson_mut_doc_free(out);
    status.phase = KUBE_OPERATION_REFUSED;
    out = kube_operation_print(&status);
    text = yyjson_mut_write(out, 0, NULL);
    assert_non_null(strstr(text, "\"completionTime\":\"1970-01-01T00:00:01Z\""));
    assert_non_null(strstr(text, "\"type\":\"Stalled\",\"status\":\"True\""));
    assert_null(strstr(text, "Reconciling"));
    free(text);
    yyjson_mut_doc_free(out);
    kube_operation_kept_free(k);
    yyjson_doc_free(doc);
    const char *poor = "{\"metadata\":{\"name\":\"one\",\"uid\":\"u\"},\"spec\":{}}";
    doc = yyjson_read(poor, strlen(poor), 0);
    assert_null(kube_operation_kept_new(yyjson_doc_get_root(doc)));
    yyjson_doc_free(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_translation),
        cmocka_unit_test(test_instances),
        cmocka_unit_test(test_provisioning),
        cmocka_unit_test(test_serving),
        cmocka_unit_test(test_newer_versions),
        cmocka_unit_test(test_certificates_for_applications),
        cmocka_unit_test(test_status_document),
        cmocka_unit_test(test_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
