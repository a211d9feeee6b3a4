/* What environments say: names, values, and the servers they point at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "discovery/application.h"
#include "discovery/kubernetes_entry.h"
#include "fleet/fleet.h"

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum env_role role;
        const char *prefix;
    } cases[] = {
        {"PGHOST", ENV_HOST, "PG"},
        {"PGPORT", ENV_PORT, "PG"},
        {"PGDATABASE", ENV_DBNAME, "PG"},
        {"PGUSER", ENV_USER, "PG"},
        {"PGPASSWORD", ENV_NONE, NULL},
        {"PGPASSFILE", ENV_NONE, NULL},
        {"DB_HOST", ENV_HOST, "DB_"},
        {"DBHOST", ENV_HOST, "DB"},
        {"DB_PORT", ENV_PORT, "DB_"},
        {"DB_SUPPORT", ENV_NONE, NULL},
        {"DB_NAME", ENV_DBNAME, "DB_"},
        {"DB_PASS", ENV_NONE, NULL},
        {"DB_PASSWORD_FILE", ENV_NONE, NULL},
        {"ORDERS_DB_HOST", ENV_HOST, "ORDERS_DB_"},
        {"DATABASE_URL", ENV_URL, "DATABASE_"},
        {"DATABASE_HOST", ENV_HOST, "DATABASE_"},
        {"DATABASE_NAME", ENV_DBNAME, "DATABASE_"},
        {"POSTGRES_DB", ENV_DBNAME, "POSTGRES_"},
        {"POSTGRES_DSN", ENV_URL, "POSTGRES_"},
        {"SPRING_DATASOURCE_URL", ENV_URL, "SPRING_DATASOURCE_"},
        {"db_host", ENV_HOST, "db_"},
        {"MYSQL_HOST", ENV_NONE, NULL},
        {"REDIS_URL", ENV_NONE, NULL},
        {"HOSTNAME", ENV_NONE, NULL},
        {"HOST", ENV_NONE, NULL},
        {"PORT", ENV_NONE, NULL},
        {"", ENV_NONE, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t prefix = 0;
        if (env_role_of(cases[i].name, &prefix) != cases[i].role)
            fail_msg("role of %s", cases[i].name);
        if (cases[i].prefix != NULL &&
            (strlen(cases[i].prefix) != prefix || strncmp(cases[i].name, cases[i].prefix, prefix) != 0))
            fail_msg("prefix of %s", cases[i].name);
    }
}

/* Also that no password is in what is kept. */
static void test_values(void **state)
{
    (void)state;
    static const struct {
        enum env_role role;
        const char *value, *kept;
    } cases[] = {
        {ENV_URL, "postgres://app:hunter2@db:6000/shop?sslmode=require", "postgresql://app@db:6000/shop"},
        {ENV_URL, "postgresql://db/shop", "postgresql://db/shop"},
        {ENV_URL, "postgresql+asyncpg://app:hunter2@db/shop", "postgresql://app@db/shop"},
        {ENV_URL, "jdbc:postgresql://db:5433/shop?user=app&password=hunter2",
         "postgresql://app@db:5433/shop"},
        {ENV_URL, "postgres://app:hun@ter2@db/shop", "postgresql://app@db/shop"},
        {ENV_URL, "postgres://app:hunter2/x@db/shop", "postgresql://app@db/shop"},
        {ENV_URL, "postgres://app:hunter2@[::1]:5433/shop", "postgresql://app@[::1]:5433/shop"},
        {ENV_URL, "postgres://app:hunter2@a:1,b:2/shop", "postgresql://app@a:1/shop"},
        {ENV_URL, "postgres:///shop?host=db&password=hunter2", "postgresql://db/shop"},
        {ENV_URL, "postgres://$(U):$(P)@$(H):$(PORT)/$(D)", "postgresql://$(U)@$(H):$(PORT)/$(D)"},
        {ENV_URL, "host=db port=5433 user=app password='hunter2 x' dbname=shop",
         "postgresql://app@db:5433/shop"},
        {ENV_URL, "Host=db;Port=5433;Username=app;Password=hunter2;Database=shop",
         "postgresql://app@db:5433/shop"},
        {ENV_URL, "Server=db;User Id=app;Password=hunter2", "postgresql://app@db/"},
        {ENV_URL, "mysql://app:hunter2@db/shop", NULL},
        {ENV_URL, "hunter2", NULL},
        {ENV_URL, "", NULL},
        {ENV_HOST, "db.shop.svc", "db.shop.svc"},
        {ENV_HOST, "db:5433", "db:5433"},
        {ENV_HOST, "postgres://app:hunter2@db/", "postgresql://app@db/"},
        {ENV_HOST, "hunter 2", NULL},
        {ENV_HOST, "{\"password\":\"hunter2\"}", NULL},
        {ENV_PORT, "5432", "5432"},
        {ENV_NONE, "hunter2", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *kept = env_keep(cases[i].role, cases[i].value);
        if ((kept == NULL) != (cases[i].kept == NULL) || (kept != NULL && strcmp(kept, cases[i].kept) != 0))
            fail_msg("\"%s\" is kept as \"%s\"", cases[i].value, kept != NULL ? kept : "(nothing)");
        mem_wipe_free(kept);
    }
}

/* ---- resolving ---- */

/* The object "bad" is forbidden, "none" is not there, "slow" is being read. */
static const struct {
    enum read_kind kind;
    const char *object, *key, *value;
} values[] = {{READ_CONFIG_MAP, "config", "host", "shop-s1"},
              {READ_CONFIG_MAP, "config", "DB_HOST", "shop-s1"},
              {READ_CONFIG_MAP, "config", "DB_PORT", "5432"},
              {READ_SECRET, "login", "url", "postgresql://app@shop-s1/shop"},
              {READ_SECRET, "login", "DB_USER", "app"},
              {READ_SECRET, "login", "host", "shop-s1.herd"}};

static enum read_state state_of(const char *name, const struct err **ret_err)
{
    static struct err err;
    err_clear(&err);
    if (strcmp(name, "slow") == 0)
        return READ_PENDING;
    if (strcmp(name, "bad") == 0)
        err_set(&err, ERRC_AUTH, "403 Forbidden");
    if (strcmp(name, "none") == 0)
        err_set(&err, ERRC_NOT_FOUND, "404 NotFound");
    *ret_err = &err;
    return err.code != ERRC_NONE ? READ_FAILED : READ_HERE;
}

static enum read_state fake_get(void *data, enum read_kind kind, const char *name_space, const char *name,
                                const char *key, const char **ret, const struct err **ret_err)
{
    (void)data;
    assert_string_equal(name_space, "herd");
    *ret = NULL;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        if (values[i].kind == kind && strcmp(values[i].object, name) == 0 && strcmp(values[i].key, key) == 0)
            *ret = values[i].value;
    return state_of(name, ret_err);
}

static enum read_state fake_all(void *data, enum read_kind kind, const char *name_space, const char *name,
                                void (*each)(const char *key, const char *value, void *each_data),
                                void *each_data, const struct err **ret_err)
{
    (void)data;
    (void)name_space;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        if (values[i].kind == kind && strcmp(values[i].object, name) == 0)
            each(values[i].key, values[i].value, each_data);
    return state_of(name, ret_err);
}

static void print(const struct application *a, struct buf *out)
{
    for (size_t i = 0; i < a->connection_count; i++) {
        const struct application_connection *c = &a->connections[i];
        buf_printf(out, "%s %s %s", c->container, c->variable, connection_state_name(c->state));
        if (c->host != NULL)
            buf_printf(out, " %s:%d/%s", c->host, c->port, c->dbname != NULL ? c->dbname : "");
        if (c->user != NULL)
            buf_printf(out, " user=%s", c->user);
        if (c->instance != NULL)
            buf_printf(out, " -> %s %s/%s", c->instance, c->database, c->shard);
        buf_printf(out, " (%s)", c->from);
        if (c->why != NULL)
            buf_printf(out, ": %s", c->why);
        buf_addc(out, '\n');
    }
    if (a->pending)
        buf_add_text(out, "pending\n");
}

static void expect(const char *container, const char *wanted)
{
    const struct known_server items[] = {
        {(char *)(uintptr_t) "10.0.0.1", 5432, "shop-s1-0", "shop", "s1"},
        {(char *)(uintptr_t) "shop-s1.herd.svc", 5432, "shop-s1-0", "shop", "s1"}};
    struct known_server copy[2];
    memcpy(copy, items, sizeof copy);
    const struct known_servers servers = {copy, 2};
    const struct application_lookup lookup = {fake_get, fake_all, NULL};
    char *text =
        mem_printf("{\"metadata\":{\"name\":\"web\",\"namespace\":\"herd\"},\"spec\":{\"template\":{\"spec\":"
                   "{\"containers\":[{\"name\":\"c\",%s}]}}}}",
                   container);
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    assert_non_null(doc);
    struct application_object *o = application_object_make("Deployment", yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    free(text);
    if (o == NULL) {
        assert_string_equal("", wanted);
        return;
    }
    struct application a;
    struct buf out = {0};
    application_resolve(o, &lookup, &servers, &a);
    assert_string_equal(a.id, "herd/Deployment/web");
    print(&a, &out);
    assert_string_equal(buf_text(&out), wanted);
    assert_null(strstr(buf_text(&out), "hunter2"));
    buf_free(&out);
    application_clear(&a);
    application_object_free(o);
}

#define VALUE(name, value) "{\"name\":\"" name "\",\"value\":\"" value "\"}"
#define SECRET(name, object, key)                                                                            \
    "{\"name\":\"" name "\",\"valueFrom\":{\"secretKeyRef\":{\"name\":\"" object "\",\"key\":\"" key "\"}}}"
#define MAP(name, object, key)                                                                               \
    "{\"name\":\"" name "\",\"valueFrom\":{\"configMapKeyRef\":{\"name\":\"" object "\",\"key\":\"" key      \
    "\"}}}"
#define ENV(all) "\"env\":[" all "]"

static void test_resolve(void **state)
{
    (void)state;
    static const struct {
        const char *container, *wanted;
    } cases[] = {
        {ENV(VALUE("DATABASE_URL", "postgres://app:hunter2@shop-s1.herd.svc.cluster.local/shop")),
         "c DATABASE_URL known shop-s1.herd.svc.cluster.local:5432/shop user=app -> shop-s1-0 shop/s1 "
         "(literal)\n"},
        {ENV(VALUE("ANYTHING", "postgres://app:hunter2@shop-s1/shop")),
         "c ANYTHING known shop-s1:5432/shop user=app -> shop-s1-0 shop/s1 (literal)\n"},
        {ENV(VALUE("PGHOST", "shop-s1.herd") "," VALUE("PGDATABASE", "shop") "," VALUE("PGPASSWORD",
                                                                                       "hunter2")),
         "c PGHOST known shop-s1.herd:5432/shop -> shop-s1-0 shop/s1 (literal)\n"},
        {ENV(VALUE("DB_HOST", "10.0.0.1") "," VALUE("DB_PORT", "5433")),
         "c DB_HOST foreign 10.0.0.1:5433/ (literal): no server that is known here is at 10.0.0.1 port "
         "5433\n"},
        {ENV(SECRET("DATABASE_URL", "login", "url")),
         "c DATABASE_URL known shop-s1:5432/shop user=app -> shop-s1-0 shop/s1 (Secret login key url)\n"},
        {ENV(MAP("DB_HOST", "config", "host") "," SECRET("DB_USER", "login", "DB_USER")),
         "c DB_HOST known shop-s1:5432/ user=app -> shop-s1-0 shop/s1 (ConfigMap config key host)\n"},
        {"\"envFrom\":[{\"configMapRef\":{\"name\":\"config\"}},{\"secretRef\":{\"name\":\"login\"}}]",
         "c DB_HOST known shop-s1:5432/ user=app -> shop-s1-0 shop/s1 (ConfigMap config key DB_HOST)\n"
         "c url known shop-s1:5432/shop user=app -> shop-s1-0 shop/s1 (Secret login key url)\n"},
        /* what is said in env wins over envFrom */
        {"\"envFrom\":[{\"configMapRef\":{\"name\":\"config\"}}]," ENV(VALUE("DB_HOST", "elsewhere")),
         "c DB_HOST foreign elsewhere:5432/ (literal): no server that is known here is at elsewhere port "
         "5432\n"},
        /* put together from other variables */
        {ENV(VALUE("DB_URL", "postgres://$(DB_USER):$(DB_PASSWORD)@$(WHERE):$(DB_PORT)/shop") "," VALUE(
             "DB_USER", "app") "," VALUE("DB_PASSWORD", "hunter2") "," MAP("WHERE", "config",
                                                                           "host") "," VALUE("DB_PORT",
                                                                                             "5432")),
         "c DB_URL known shop-s1:5432/shop user=app -> shop-s1-0 shop/s1 (literal)\n"},
        {ENV(VALUE("DB_URL", "postgres://app@$(NOWHERE)/shop")),
         "c DB_URL unresolved (literal): $(NOWHERE) is not among the variables that are read\n"},
        {ENV(SECRET("DATABASE_URL", "bad", "url")),
         "c DATABASE_URL unresolved (Secret bad key url): Secret bad key url: 403 Forbidden\n"},
        {ENV(SECRET("DATABASE_URL", "login", "other")),
         "c DATABASE_URL unresolved (Secret login key other): Secret login key other: Secret herd/login has "
         "no key "
         "other, or its value is not where a server could be\n"},
        {ENV(SECRET("DATABASE_URL", "slow", "url")),
         "c DATABASE_URL unresolved (Secret slow key url): Secret slow key url: it is being read\npending\n"},
        {ENV(VALUE("DB_HOST", "shop-s1") "," SECRET("DB_PORT", "none", "port")),
         "c DB_HOST unresolved shop-s1:0/ (literal): DB_PORT (Secret none key port): 404 NotFound\n"},
        {"\"envFrom\":[{\"secretRef\":{\"name\":\"none\"}}]",
         "c envFrom Secret none unresolved (Secret none): 404 NotFound\n"},
        {"\"envFrom\":[{\"secretRef\":{\"name\":\"none\",\"optional\":true}}]", ""},
        {ENV("{\"name\":\"DB_HOST\",\"valueFrom\":{\"secretKeyRef\":{\"name\":\"none\",\"key\":\"k\","
             "\"optional\":true}}}"),
         ""},
        {ENV(VALUE("LOG_LEVEL", "debug") "," VALUE("REDIS_URL", "redis://x")), ""},
        {ENV(SECRET("DB_PASSWORD", "login", "password")), ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        print_message("%s\n", cases[i].container);
        expect(cases[i].container, cases[i].wanted);
    }
}

static void test_where_the_pod_is(void **state)
{
    (void)state;
    static const char *const cron =
        "{\"metadata\":{\"name\":\"n\",\"namespace\":\"herd\"},\"spec\":{\"jobTemplate\":{\"spec\":{"
        "\"template\":{\"spec\":"
        "{\"initContainers\":[{\"name\":\"i\",\"env\":[{\"name\":\"PGHOST\",\"value\":\"a\"}]}]}}}}}}";
    yyjson_doc *doc = yyjson_read(cron, strlen(cron), 0);
    struct application_object *o = application_object_make("CronJob", yyjson_doc_get_root(doc));
    assert_non_null(o);
    assert_int_equal(o->variable_count, 1);
    assert_string_equal(o->variables[0].container, "i");
    application_object_free(o);
    assert_null(application_object_make("Deployment", yyjson_doc_get_root(doc)));
    yyjson_doc_free(doc);
}

static void test_known_names(void **state)
{
    struct fleet fleet;
    struct fleet_instance *instance = NULL;
    (void)state;
    fleet_init(&fleet);
    char host[] = "shop-s1.herd.svc";
    const struct instance_access access = {.host = host, .port = 5432};
    fleet_add_instance(&fleet, "shop-s1-0", "kubernetes", &access, &instance, NULL);
    char name[] = "shop-s1-0", ns[] = "herd", group[] = "shop-s1", address[] = "10.0.0.1";
    struct kubernetes_entry entry = {.source = "kubernetes",
                                     .name = name,
                                     .name_space = ns,
                                     .port = 5432,
                                     .group = group,
                                     .pod_address = address,
                                     .own = true};
    const struct kubernetes_entries entries = {&entry, 1};
    struct known_servers known = known_servers_make(&fleet, &entries);
    static const struct {
        const char *host, *name_space;
        int port;
        bool found;
    } cases[] = {{"shop-s1", "herd", 5432, true},
                 {"shop-s1", "other", 5432, false},
                 {"shop-s1.herd", "other", 5432, true},
                 {"shop-s1.herd.svc", "other", 5432, true},
                 {"SHOP-S1.herd.svc.cluster.local.", "other", 5432, true},
                 {"shop-s1-ro.herd", "x", 5432, true},
                 {"10.0.0.1", "x", 5432, true},
                 {"10.0.0.1", "x", 5433, false},
                 {"", "x", 5432, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if ((known_server_find(&known, cases[i].host, cases[i].port, cases[i].name_space) != NULL) !=
            cases[i].found)
            fail_msg("%s from %s", cases[i].host, cases[i].name_space);
    known_servers_free(&known);
    fleet_fini(&fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_known_names),
        cmocka_unit_test(test_where_the_pod_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
