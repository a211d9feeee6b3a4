/* What is kept of a cluster's objects, and which servers follow from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <malloc.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "discovery/kubernetes_entry.h"
#include "discovery/kubernetes_follow.h"
#include "fleet/fleet.h"

typedef struct cluster_object *(*trim_cb)(struct yyjson_val *json);

static struct cluster_object *trimmed(trim_cb trim, const char *text)
{
    yyjson_doc *doc = yyjson_read(text, strlen(text), YYJSON_READ_ALLOW_TRAILING_COMMAS);
    assert_non_null(doc);
    struct cluster_object *o = trim(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return o;
}

/* Objects of a table's row, ended by a NULL text. */
struct given {
    trim_cb trim;
    const char *json;
};

static void print(const struct kubernetes_entry *e, struct buf *out)
{
    buf_printf(out, "%s %s %s:%d", e->source, e->name, e->host, e->port);
    if (e->database != NULL)
        buf_printf(out, " db=%s/%s", e->database, e->shard != NULL ? e->shard : "");
    if (e->user != NULL)
        buf_printf(out, " user=%s", e->user);
    if (e->dbname != NULL)
        buf_printf(out, " dbname=%s", e->dbname);
    if (e->secret != NULL)
        buf_printf(out, " secret=%s/%s:%s", e->secret, e->user_key, e->pass_key);
    if (e->pod_address != NULL)
        buf_printf(out, " pod=%s@%s", e->pod, e->pod_address);
    if (e->clash != NULL)
        buf_printf(out, " clash=%s", e->clash);
    buf_addc(out, '\n');
}

static void expect(const struct given *given, bool by_image, const char *wanted)
{
    struct cluster_object *objects[16];
    struct buf out = {0};
    size_t n = 0;
    for (; given[n].json != NULL; n++) {
        objects[n] = trimmed(given[n].trim, given[n].json);
        assert_non_null(objects[n]);
    }
    const struct cluster_view view = {(const struct cluster_object *const *)objects, n, "herd", by_image};
    struct kubernetes_entries entries = kubernetes_entries_make(&view);
    for (size_t i = 0; i < entries.count; i++)
        print(&entries.items[i], &out);
    assert_string_equal(buf_text(&out), wanted);
    kubernetes_entries_free(&entries);
    /* the order in which they came makes no difference */
    for (size_t i = 0; i < n / 2; i++) {
        struct cluster_object *o = objects[i];
        objects[i] = objects[n - 1 - i];
        objects[n - 1 - i] = o;
    }
    buf_reset(&out);
    entries = kubernetes_entries_make(&view);
    for (size_t i = 0; i < entries.count; i++)
        print(&entries.items[i], &out);
    assert_string_equal(buf_text(&out), wanted);
    kubernetes_entries_free(&entries);
    for (size_t i = 0; i < n; i++)
        free(objects[i]);
    buf_free(&out);
}

#define META(name, rest) "\"metadata\":{\"name\":\"" name "\",\"namespace\":\"herd\"" rest "}"
#define DISCOVER         ",\"labels\":{\"shardherd.io/discover\":\"true\"}"
#define SAID(text)       ",\"annotations\":{" text "}"
#define RUNNING(address) "\"status\":{\"podIP\":\"" address "\",\"phase\":\"Running\"}"
#define OURS                                                                                                 \
    ",\"labels\":{\"app.kubernetes.io/managed-by\":\"shardherd\",\"shardherd.io/database\":\"shop\","        \
    "\"shardherd.io/shard\":\"s1\""
#define POSTGRES(image)                                                                                      \
    "\"spec\":{\"containers\":[{\"image\":\"" image "\",\"ports\":[{\"containerPort\":5432}]}]}"

static void test_ours(void **state)
{
    (void)state;
    static const struct given cases[] = {
        {cluster_stateful_set,
         "{" META("shop-s1", OURS "}") ",\"spec\":{\"replicas\":2,\"serviceName\":\"x\"}}"},
        {cluster_pod, "{" META("shop-s1-0", OURS "}") "," RUNNING("10.0.0.1") "}"},
        {0}};
    expect(cases, false,
           "kubernetes shop-s1-0 shop-s1.herd.svc:5432 db=shop/s1 user=shardherd dbname=shop "
           "secret=shop-s1-credentials/:password pod=shop-s1-0@10.0.0.1\n"
           "kubernetes shop-s1-1 shop-s1-1.shop-s1-pods.herd.svc:5432 db=shop/s1 user=shardherd dbname=shop "
           "secret=shop-s1-credentials/:password\n");
    static const struct given switched[] = {
        {cluster_stateful_set, "{" META("shop-s1", OURS "}") ",\"spec\":{\"replicas\":2}}"},
        {cluster_pod,
         "{" META("shop-s1-0", OURS ",\"shardherd.io/role\":\"standby\"}") "," RUNNING("10.0.0.1") "}"},
        {cluster_pod,
         "{" META("shop-s1-1", OURS ",\"shardherd.io/role\":\"primary\"}") "," RUNNING("10.0.0.2") "}"},
        {0}};
    expect(switched, false,
           "kubernetes shop-s1-0 shop-s1-0.shop-s1-pods.herd.svc:5432 db=shop/s1 user=shardherd dbname=shop "
           "secret=shop-s1-credentials/:password pod=shop-s1-0@10.0.0.1\n"
           "kubernetes shop-s1-1 shop-s1.herd.svc:5432 db=shop/s1 user=shardherd dbname=shop "
           "secret=shop-s1-credentials/:password pod=shop-s1-1@10.0.0.2\n");
}

static const struct {
    const char *what;
    struct given given[4];
    const char *wanted;
} labelled[] = {
    {"a pod",
     {{cluster_pod,
       "{" META("db", DISCOVER SAID("\"shardherd.io/database\":\"shop\",\"shardherd.io/shard\":"
                                    "\"s1\",\"shardherd.io/port\":\"6000\",\"shardherd.io/secret\":"
                                    "\"login\"")) "," RUNNING("10.0.0.1") "}"}},
     "label db 10.0.0.1:6000 db=shop/s1 secret=login/username:password pod=db@10.0.0.1\n"},
    {"a pod without an address", {{cluster_pod, "{" META("db", DISCOVER) "}"}}, ""},
    {"a pod that ends",
     {{cluster_pod, "{" META("db", DISCOVER ",\"deletionTimestamp\":\"x\"") "," RUNNING("10.0.0.1") "}"}},
     ""},
    {"a pod that has ended",
     {{cluster_pod, "{" META("db", DISCOVER) ",\"status\":{\"podIP\":\"10.0.0.1\",\"phase\":\"Failed\"}}"}},
     ""},
    {"no",
     {{cluster_pod,
       "{" META("db", ",\"labels\":{\"shardherd.io/discover\":\"false\"}") "," RUNNING("1.1.1.1") "}"}},
     ""},
    {"another namespace",
     {{cluster_pod,
       "{\"metadata\":{\"name\":\"db\",\"namespace\":\"far\"" DISCOVER "}," RUNNING("10.0.0.1") "}"}},
     "label db.far 10.0.0.1:5432 pod=db@10.0.0.1\n"},
    {"a service",
     {{cluster_service,
       "{" META("db", DISCOVER) ",\"spec\":{\"clusterIP\":\"10.9.0.1\",\"ports\":[{\"port\":6000}]}}"}},
     "label db db.herd.svc:6000\n"},
    {"a service of several ports",
     {{cluster_service,
       "{" META("db", DISCOVER) ",\"spec\":{\"clusterIP\":\"10.9.0.1\",\"ports\":[{\"port\":80},"
                                "{\"name\":\"postgresql\",\"port\":6000}]}}"}},
     "label db db.herd.svc:6000\n"},
    {"a service with the one pod behind it",
     {{cluster_service, "{" META("db", DISCOVER) ",\"spec\":{\"clusterIP\":\"10.9.0.1\"}}"},
      {cluster_slice,
       "{\"metadata\":{\"name\":\"s\",\"namespace\":\"herd\",\"labels\":{\"kubernetes.io/"
       "service-name\":\"db\"}},\"endpoints\":[{\"addresses\":[\"10.0.0.1\"],\"targetRef\":{\"kind\":"
       "\"Pod\",\"name\":\"db-x\"}},{\"addresses\":[\"10.0.0.2\"],\"conditions\":{\"ready\":false},"
       "\"targetRef\":{\"kind\":\"Pod\",\"name\":\"db-y\"}}]}"},
      {cluster_pod, "{" META("db-x", DISCOVER) "," RUNNING("10.0.0.1") "}"}},
     "label db db.herd.svc:5432 pod=db-x@10.0.0.1\n"},
    {"a headless service",
     {{cluster_service, "{" META("db", DISCOVER) ",\"spec\":{\"clusterIP\":\"None\"}}"},
      {cluster_slice,
       "{\"metadata\":{\"name\":\"s\",\"namespace\":\"herd\",\"labels\":{\"kubernetes.io/"
       "service-name\":\"db\"}},\"endpoints\":[{\"addresses\":[\"10.0.0.1\"],\"hostname\":\"db-0\","
       "\"targetRef\":{\"kind\":\"Pod\",\"name\":\"db-0\"}},{\"addresses\":[\"10.0.0.2\"]}],\"ports\":"
       "[{\"port\":6000}]}"}},
     "label db-0 db-0.db.herd.svc:6000 pod=db-0@10.0.0.1\nlabel db-10.0.0.2 10.0.0.2:6000\n"},
    {"a stateful set and its labelled pods",
     {{cluster_stateful_set,
       "{" META("db", DISCOVER) ",\"spec\":{\"replicas\":2,\"serviceName\":\"dbs\",\"ordinals\":"
                                "{\"start\":3}}}"},
      {cluster_pod, "{" META("db-3", DISCOVER) "," RUNNING("10.0.0.1") "}"}},
     "label db-3 db-3.dbs.herd.svc:5432 pod=db-3@10.0.0.1\nlabel db-4 db-4.dbs.herd.svc:5432\n"},
    {"two of one name",
     {{cluster_service, "{" META("db", DISCOVER) ",\"spec\":{\"clusterIP\":\"10.9.0.1\"}}"},
      {cluster_pod, "{" META("db", DISCOVER) "," RUNNING("10.0.0.1") "}"}},
     "label db db.herd.svc:5432\nlabel db 10.0.0.1:5432 pod=db@10.0.0.1 clash=label\n"},
};

static void test_labelled(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof labelled / sizeof labelled[0]; i++) {
        print_message("%s\n", labelled[i].what);
        expect(labelled[i].given, true, labelled[i].wanted);
    }
}

static void test_cnpg(void **state)
{
    (void)state;
#define CNPG_POD(name, role, address)                                                                        \
    "{" META(name, ",\"labels\":{\"cnpg.io/cluster\":\"acme\",\"cnpg.io/instanceRole\":\"" role              \
                   "\"}") "," RUNNING(address) "}"
    static const struct given cases[] = {
        {cluster_cnpg,
         "{" META("acme", SAID("\"shardherd.io/database\":\"shop\"")) ",\"spec\":{\"bootstrap\":{\"initdb\":"
                                                                      "{\"database\":\"orders\"}}}}"},
        {cluster_pod, CNPG_POD("acme-1", "replica", "10.0.0.1")},
        {cluster_pod, CNPG_POD("acme-2", "primary", "10.0.0.2")},
        {cluster_pod, CNPG_POD("acme-3", "", "10.0.0.3")},
        {0}};
    expect(cases, true,
           "cnpg acme-1 10.0.0.1:5432 db=shop/ dbname=orders secret=acme-app/username:password "
           "pod=acme-1@10.0.0.1\n"
           "cnpg acme-2 acme-rw.herd.svc:5432 db=shop/ dbname=orders secret=acme-app/username:password "
           "pod=acme-2@10.0.0.2\n");
    static const struct given super[] = {
        {cluster_cnpg,
         "{" META("acme", "") ",\"spec\":{\"enableSuperuserAccess\":true},\"status\":{\"writeService\":"
                              "\"acme-write\"}}"},
        {cluster_pod, CNPG_POD("acme-1", "primary", "10.0.0.1")},
        {0}};
    expect(super, false,
           "cnpg acme-1 acme-write.herd.svc:5432 dbname=app secret=acme-superuser/username:password "
           "pod=acme-1@10.0.0.1\n");
}

static void test_by_image(void **state)
{
    (void)state;
    static const struct given pod[] = {
        {cluster_pod,
         "{" META(
             "db",
             "") ",\"spec\":{\"containers\":[{\"image\":\"x\"},{\"image\":\"postgres:16\",\"ports\":[{"
                 "\"containerPort\":5432}],\"env\":[{\"name\":\"POSTGRES_USER\",\"value\":\"me\"},{\"name\":"
                 "\"POSTGRES_PASSWORD\",\"valueFrom\":{\"secretKeyRef\":{\"name\":\"s\",\"key\":\"k\"}}}]}]}"
                 "," RUNNING("10.0.0.1") "}"},
        {0}};
    expect(pod, false, "");
    expect(pod, true, "image db 10.0.0.1:5432 user=me secret=s/username:k pod=db@10.0.0.1\n");
    static const struct given refused[] = {
        {cluster_pod, "{" META("db", ",\"labels\":{\"shardherd.io/discover\":\"false\"}") "," POSTGRES(
                          "postgres") "," RUNNING("10.0.0.1") "}"},
        {0}};
    expect(refused, true, "");
    static const struct {
        const char *image;
        bool postgres;
    } images[] = {{"postgres", true},
                  {"postgres:16-alpine", true},
                  {"docker.io/library/postgres@sha256:0123", true},
                  {"registry:5000/bitnami/postgresql:16", true},
                  {"ghcr.io/zalando/spilo-15:3", true},
                  {"timescale/timescaledb-ha:pg16", true},
                  {"postgis/postgis", true},
                  {"quay.io/prometheuscommunity/postgres-exporter", false},
                  {"postgres_exporter", false},
                  {"mypostgres", false},
                  {"postgres/pgadmin", false},
                  {"", false}};
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++)
        if (cluster_image_is_postgres(images[i].image) != images[i].postgres)
            fail_msg("image \"%s\"", images[i].image);
}

static void test_what_anybody_wrote(void **state)
{
    (void)state;
    static const char *const odd[] = {"null",
                                      "[]",
                                      "3",
                                      "{}",
                                      "{\"metadata\":[]}",
                                      "{\"metadata\":{\"name\":3}}",
                                      "{\"metadata\":{\"name\":\"\"}}",
                                      "{\"metadata\":{\"name\":\"a\\u0000b\"}}"};
    static const trim_cb trims[] = {cluster_pod, cluster_stateful_set, cluster_service, cluster_cnpg,
                                    cluster_slice};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        for (size_t t = 0; t < sizeof trims / sizeof trims[0]; t++)
            assert_null(trimmed(trims[t], odd[i]));
    struct cluster_object *o =
        trimmed(cluster_stateful_set,
                "{" META("db", DISCOVER SAID("\"shardherd.io/port\":\"99999\"")) ",\"spec\":{\"replicas\":"
                                                                                 "99999999999}}");
    assert_int_equal(o->port, 0);
    assert_int_equal(o->replicas, CLUSTER_ENDPOINTS_MAX);
    free(o);
}

/* What is kept of a pod with all that is usually in it. */
static void test_size(void **state)
{
    (void)state;
    struct cluster_object *o =
        trimmed(cluster_pod,
                "{" META("shop-s1-0", OURS
                         ",\"app\":\"x\",\"controller-revision-hash\":\"shop-s1-84b7f\"},"
                         "\"ownerReferences\":[{\"controller\":true,\"name\":\"shop-s1\"}],"
                         "\"managedFields\":[{\"manager\":\"kubelet\"}]") "," RUNNING("10.244.1.17") "}");
    print_message("%zu bytes\n", malloc_usable_size(o));
    assert_true(malloc_usable_size(o) < 400);
    free(o);
}

/* ---- routing tables ---- */

static struct fleet_instance *instance(struct fleet *fleet, const char *name, const char *source,
                                       const char *host)
{
    struct fleet_instance *i = NULL;
    char *copy = mem_strdup(host);
    const struct instance_access access = {.host = copy, .port = 5432};
    assert_int_equal(fleet_add_instance(fleet, name, source, &access, &i, NULL), 0);
    free(copy);
    free(i->database);
    free(i->shard);
    i->database = mem_strdup("shop");
    i->shard = mem_strdup("s1");
    return i;
}

static const char *followed(struct fleet *fleet, struct fleet_database *db)
{
    static char host[64];
    struct routing *now = kubernetes_follow(fleet, db);
    if (now == NULL)
        return NULL;
    assert_int_equal(now->epoch, db->routing->epoch + 1);
    strncpy(host, now->shards[0].primary.host, sizeof host - 1);
    routing_free(now);
    return host;
}

static void test_follow(void **state)
{
    struct fleet fleet;
    (void)state;
    fleet_init(&fleet);
    struct fleet_database *db = fleet_add_database(&fleet, "shop");
    assert_null(followed(&fleet, db)); /* not provisioned */
    db->routing = routing_new("shop");
    routing_add_shard(db->routing, "s1", "10.0.0.1", 5432);
    assert_null(followed(&fleet, db)); /* nobody there */
    struct fleet_instance *a = instance(&fleet, "a", "label", "10.0.0.2");
    assert_string_equal(followed(&fleet, db), "10.0.0.2");
    a->facts.role = ROLE_STANDBY;
    assert_null(followed(&fleet, db));
    a->facts.role = ROLE_PRIMARY;
    struct fleet_instance *b = instance(&fleet, "b", "label", "10.0.0.3");
    assert_null(followed(&fleet, db)); /* which one? */
    b->facts.role = ROLE_STANDBY;
    assert_string_equal(followed(&fleet, db), "10.0.0.2");
    instance(&fleet, "c", "static", "10.0.0.1");
    assert_null(followed(&fleet, db)); /* there is somebody at the address */
    fleet_fini(&fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ours),   cmocka_unit_test(test_labelled),
        cmocka_unit_test(test_cnpg),   cmocka_unit_test(test_by_image),
        cmocka_unit_test(test_size),   cmocka_unit_test(test_what_anybody_wrote),
        cmocka_unit_test(test_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
