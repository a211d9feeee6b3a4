/* The manager's configuration: defaults, sources and their order, reload, and what describes the keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "discovery/discovery.h"
#include "manager/config.h"
#include "manager/config_key.h"
#include "manager/config_static.h"

/* ---- helpers ---- */

struct test_env {
    struct env env; /* first */
    const char *pairs[32];
};

static const char *test_get(struct env *env, const char *name)
{
    struct test_env *t = (struct test_env *)env;
    for (int i = 0; t->pairs[i] != NULL; i += 2)
        if (strcmp(t->pairs[i], name) == 0)
            return t->pairs[i + 1];
    return NULL;
}

static int parse(const char *text, const char *const *flags, struct config *ret, struct err *err)
{
    return config_parse(text, strlen(text), "c.yaml", NULL, flags, ret, err);
}

static struct config good(const char *text, const char *const *flags)
{
    struct config c;
    struct err err = {0};
    if (parse(text, flags, &c, &err) != 0)
        fail_msg("%s", err.message);
    return c;
}

static char *printed(const struct config *c)
{
    struct buf out = {0};
    config_print(c, &out);
    return buf_take(&out);
}

static void expect_prefix(const char *message, const char *prefix)
{
    if (strncmp(message, prefix, strlen(prefix)) != 0)
        fail_msg("expected\n  %s\ngot\n  %s", prefix, message);
}

static char *read_source(const char *name)
{
    char path[4096];
    const char *root = __FILE__; /* .../tests/unit/manager/test_config.c, perhaps relative to the source */
    const char *tests = strstr(root, "tests/unit/manager/");
    assert_non_null(tests);
    FILE *file = NULL;
    const char *up[] = {"", "../", "../../", "../../../", "../../../../"};
    if (root[0] == '/') {
        snprintf(path, sizeof path, "%.*s%s", (int)(tests - root), root, name);
        file = fopen(path, "r");
    }
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

/* ---- defaults ---- */

static void test_defaults(void **state)
{
    (void)state;
    struct config c;
    struct balance_policy policy;
    config_init(&c);
    balance_policy_defaults(&policy);
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    for (size_t i = 0; i < count; i++)
        assert_true(config_key_equal(&keys[i], &c.balance, &policy));
    assert_string_equal(c.state_directory, "/var/lib/shardherd");
    assert_int_equal(c.log_level, LOG_INFO);
    assert_int_equal(c.log_format, LOG_LOGFMT);
    assert_string_equal(c.public_address, "127.0.0.1");
    assert_int_equal(c.public_port, 8080);
    assert_int_equal(c.admin_port, 8081);
    assert_int_equal(c.metrics_port, 9090);
    assert_false(c.insecure_listen);
    assert_string_equal(c.runtime_kind, "auto");
    assert_null(c.runtime_bin_directory);
    assert_null(c.runtime_user);
    assert_int_equal(c.runtime_first_port, 25432);
    assert_true(c.discovery_enabled);
    assert_int_equal(c.discovery_interval_ns, 5 * ENV_NS_PER_S);
    assert_int_equal(c.load_period_ns, ENV_NS_PER_S);
    assert_int_equal(c.replication_period_ns, ENV_NS_PER_S);
    assert_int_equal(c.activity_period_ns, 5 * ENV_NS_PER_S);
    assert_int_equal(c.sizes_period_ns, 60 * ENV_NS_PER_S);
    assert_int_equal(c.settings_period_ns, 300 * ENV_NS_PER_S);
    assert_int_equal(c.guards_period_ns, 60 * ENV_NS_PER_S);
    assert_int_equal(c.max_moves, 2);
    assert_int_equal(c.instance_count, 0);
    config_free(&c);
    config_free(&c);
}

/* The table's words must stand for the right numbers of the enums. */
static void test_choices(void **state)
{
    (void)state;
    const char *modes[] = {"off", "recommend", "auto"},
               *metrics[] = {"query_rate", "cpu", "wal_rate", "size"};
    const char *levels[] = {"debug", "info", "warn", "error"};
    char flag[64];
    const char *flags[] = {flag, NULL};
    for (int i = 0; i < 3; i++) {
        snprintf(flag, sizeof flag, "balance.merge=%s", modes[i]);
        struct config c = good("", flags);
        assert_int_equal(c.balance.merge, auto_mode_parse(modes[i]));
        config_free(&c);
    }
    for (int i = 0; i < 4; i++) {
        snprintf(flag, sizeof flag, "balance.objective=%s", metrics[i]);
        struct config c = good("", flags);
        assert_int_equal(c.balance.objective, load_metric_parse(metrics[i]));
        config_free(&c);
        snprintf(flag, sizeof flag, "log.level=%s", levels[i]);
        c = good("", flags);
        assert_int_equal(c.log_level, log_level_parse(levels[i]));
        config_free(&c);
    }
}

/* ---- values ---- */

static void test_values(void **state)
{
    (void)state;
    struct config c = good("state_directory: '/srv/shard herd'\n"
                           "log: {level: debug, format: json}\n"
                           "listen:\n"
                           "  public_port: 0\n"
                           "  admin_port: 0\n"
                           "  metrics_address: ::1\n"
                           "runtime:\n"
                           "  kind: none\n"
                           "  user: ~\n"
                           "discovery:\n"
                           "  enabled: No\n"
                           "  interval: 250ms\n"
                           "polling:\n"
                           "  load: 2\n"
                           "  sizes: off\n"
                           "balance:\n"
                           "  split: off\n"
                           "  threshold: 16MB\n"
                           "  relative: 1.5\n"
                           "  merge_after: 90s\n"
                           "  max_moves: 3\n",
                           NULL);
    assert_string_equal(c.path, "c.yaml");
    assert_string_equal(c.state_directory, "/srv/shard herd");
    assert_int_equal(c.log_level, LOG_DEBUG);
    assert_int_equal(c.log_format, LOG_JSON);
    assert_int_equal(c.public_port, 0);
    assert_string_equal(c.metrics_address, "::1");
    assert_string_equal(c.runtime_kind, "none");
    assert_null(c.runtime_user);
    assert_false(c.discovery_enabled);
    assert_int_equal(c.discovery_interval_ns, 250 * ENV_NS_PER_MS);
    assert_int_equal(c.load_period_ns, 2 * ENV_NS_PER_S);
    assert_true(c.sizes_period_ns == UINT64_MAX);
    assert_int_equal(c.balance.split, AUTO_OFF);
    assert_true(c.balance.threshold > 16777215 && c.balance.threshold < 16777217);
    assert_true(c.balance.relative > 1.49 && c.balance.relative < 1.51);
    assert_int_equal(c.balance.merge_after_ns, 90 * ENV_NS_PER_S);
    assert_int_equal(c.max_moves, 3);
    config_free(&c);
}

static void test_nothing_said(void **state)
{
    (void)state;
    const char *texts[] = {"",
                           "# only a comment\n",
                           "---\n",
                           "{}",
                           "log:\n",
                           "log: {}\nlisten: ~\n",
                           "log:\n  level:\nbalance:\n  bake: null\n",
                           "\xef\xbb\xbflog:\n"};
    struct config defaults;
    config_init(&defaults);
    char *want = printed(&defaults);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct config c = good(texts[i], NULL);
        char *got = printed(&c);
        assert_string_equal(got, want);
        free(got);
        config_free(&c);
    }
    free(want);
    config_free(&defaults);
}

/* ---- the static list ---- */

static const char static_text[] = "discovery:\n"
                                  "  static:\n"
                                  "    - database: shop\n"
                                  "      shard: s1\n"
                                  "      dsn: postgresql://herd@10.0.0.5:5433/shop?sslmode=require\n"
                                  "      passwordEnv: SHOP_PASSWORD\n"
                                  "    - name: spare-1\n"
                                  "      host: \"db \\\"9\\\"\\u2028\"\n"
                                  "      port: 5434\n"
                                  "      dbname: shop\n"
                                  "      user: herd\n"
                                  "      sslmode: verify-full\n"
                                  "      sslrootcert: /ca.pem\n"
                                  "      sslcert: /client.pem\n"
                                  "      sslkey: /client.key\n"
                                  "      passfile: /secrets/pgpass\n"
                                  "    - {name: spare-2, host: h, user: u, password_file: /p}\n";

static void test_static(void **state)
{
    (void)state;
    struct config c = good(static_text, NULL);
    struct discovery_entry *entries;
    int count;
    assert_int_equal(config_entries(&c, &entries, &count), 0);
    assert_int_equal(count, 3);
    assert_string_equal(entries[0].name, "shop-s1-0");
    assert_string_equal(entries[0].database, "shop");
    assert_string_equal(entries[0].shard, "s1");
    assert_string_equal(entries[0].dsn, "postgresql://herd@10.0.0.5:5433/shop?sslmode=require");
    assert_string_equal(entries[0].password_env, "SHOP_PASSWORD");
    assert_null(entries[0].host);
    assert_int_equal(entries[0].port, 0);
    assert_string_equal(entries[1].name, "spare-1");
    assert_null(entries[1].database);
    assert_string_equal(entries[1].host, "db \"9\"\u2028");
    assert_int_equal(entries[1].port, 5434);
    assert_string_equal(entries[1].dbname, "shop");
    assert_string_equal(entries[1].user, "herd");
    assert_string_equal(entries[1].sslmode, "verify-full");
    assert_string_equal(entries[1].sslrootcert, "/ca.pem");
    assert_string_equal(entries[1].sslcert, "/client.pem");
    assert_string_equal(entries[1].sslkey, "/client.key");
    assert_string_equal(entries[1].passfile, "/secrets/pgpass");
    assert_null(entries[1].password_env);
    assert_string_equal(entries[2].password_file, "/p");
    free(entries);
    config_free(&c);
}

static void test_print_and_parse(void **state)
{
    (void)state;
    const char *flags[] = {"state_directory=/a \"b\"\\c: #d",
                           "listen.public_address=::1",
                           "runtime.user=null",
                           "polling.settings=off",
                           "balance.threshold=0.1",
                           "balance.bake=90m",
                           NULL};
    struct config one = good(static_text, flags);
    char *text = printed(&one);
    struct config two = good(text, NULL);
    char *again = printed(&two);
    assert_string_equal(text, again);
    assert_string_equal(two.state_directory, "/a \"b\"\\c: #d");
    assert_string_equal(two.runtime_user, "null"); /* a word, not nothing */
    assert_true(two.balance.threshold >= 0.1 && two.balance.threshold <= 0.1);
    assert_string_equal(two.instances[1].host, "db \"9\"\u2028");
    assert_non_null(strstr(text, "  bake: 90m\n"));
    assert_non_null(strstr(text, "  static:\n    - name: \"shop-s1-0\"\n"));
    free(text);
    free(again);
    config_free(&one);
    config_free(&two);
}

/* ---- sources and their order ---- */

static void test_order(void **state)
{
    (void)state;
    struct test_env t = {.env = {.get = test_get},
                         .pairs = {"DISCOVERY_INTERVAL", "7s", "SHARDHERD_DISCOVERY_INTERVAL", "8s",
                                   "DISCOVERY_ENABLED", "false", "SHARDHERD_LOG_LEVEL", "warn",
                                   "SHARDHERD_RUNTIME_USER", "", "SHARDHERD_BALANCE_MAX_MOVES", "5",
                                   "KUBERNETES_NAMESPACE", "x", "PROMETHEUS_URL", "http://p", "S3_BUCKET",
                                   "b"}};
    const char *flags[] = {"log.level=error", "balance.window=", NULL};
    const char *text = "log: {level: debug}\nruntime: {user: pg}\nbalance: {max_moves: 4, window: 7}\n"
                       "discovery: {interval: 6s}\nstate_directory: /s\n";
    struct config c;
    struct err err = {0};
    assert_int_equal(config_parse(text, strlen(text), "c.yaml", &t.env, flags, &c, &err), 0);
    assert_int_equal(c.log_level, LOG_ERROR);                    /* flag over variable over file */
    assert_int_equal(c.max_moves, 5);                            /* variable over file */
    assert_int_equal(c.discovery_interval_ns, 8 * ENV_NS_PER_S); /* ours over the well-known one */
    assert_false(c.discovery_enabled);                           /* the well-known one alone */
    assert_string_equal(c.prometheus_url, "http://p");           /* the well-known one alone */
    assert_string_equal(c.runtime_user, "pg");                   /* an empty variable is none */
    assert_int_equal(c.balance.window, 10);                      /* an empty flag is the default */
    config_free(&c);
}

/* Every key can be given by its variable and by its flag, and both reach the same place. */
static void test_every_key(void **state)
{
    (void)state;
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++) {
        char variable[CONFIG_ENV_SIZE], flag[256];
        const struct config_key *key = &keys[i];
        if (key->type == CONFIG_LIST)
            continue;
        const char *value = key->type == CONFIG_BOOL ? (strcmp(key->standard, "true") == 0 ? "false" : "true")
                            : key->type == CONFIG_ADDRESS ? "127.0.0.2"
                            : key->choices != NULL && key->type == CONFIG_TEXT
                                ? strrchr(key->choices, '|') + 1
                            : key->type == CONFIG_TEXT ? "/x"
                            : key->choices != NULL     ? strrchr(key->choices, '|') + 1
                                                       : key->high;
        if (key->standard != NULL && strcmp(value, key->standard) == 0)
            value = "off";
        config_key_env(key, variable);
        snprintf(flag, sizeof flag, "%s=%s", key->path, value);
        struct test_env t = {.env = {.get = test_get}, .pairs = {variable, value, "HOME", "/home/x"}};
        const char *flags[] = {flag, NULL};
        struct config by_flag = good("", flags), by_variable, defaults;
        struct err err = {0};
        config_init(&defaults);
        if (config_parse(NULL, 0, NULL, &t.env, NULL, &by_variable, &err) != 0)
            fail_msg("%s", err.message);
        assert_null(by_variable.path);
        assert_true(config_key_equal(key, &by_flag, &by_variable));
        if (config_key_equal(key, &by_flag, &defaults))
            fail_msg("%s=%s changes nothing", key->path, value);
        const char *why = NULL;
        assert_int_equal(config_can_reload(&defaults, &by_flag, &why), key->reloadable);
        if (!key->reloadable)
            assert_string_equal(why, key->path);
        config_free(&by_flag);
        config_free(&by_variable);
        config_free(&defaults);
    }
}

/* In a pod probes come from outside: metrics listens everywhere, what changes things does not. */
static void test_pod(void **state)
{
    (void)state;
    struct test_env t = {.env = {.get = test_get},
                         .pairs = {"KUBERNETES_SERVICE_HOST", "10.96.0.1", "KUBERNETES_NAMESPACE", "shop"}};
    struct config c;
    struct err err = {0};
    assert_int_equal(config_load(NULL, &t.env, NULL, &c, &err), 0);
    assert_string_equal(c.metrics_address, "0.0.0.0");
    assert_string_equal(c.public_address, "127.0.0.1");
    assert_string_equal(c.admin_address, "127.0.0.1");
    assert_string_equal(c.state_directory, "/var/lib/shardherd");
    assert_string_equal(c.kube_namespace, "shop");
    config_free(&c);
    const char *metrics[] = {"listen.metrics_address=10.1.2.3", NULL};
    assert_int_equal(config_load(NULL, &t.env, metrics, &c, &err), 0);
    assert_string_equal(c.metrics_address, "10.1.2.3");
    config_free(&c);
    const char *public[] = {"listen.public_address=0.0.0.0", NULL};
    assert_int_equal(config_load(NULL, &t.env, public, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "flag listen.public_address: listen.public_address: 0.0.0.0 is reached");
}

static void test_state_directory(void **state)
{
    (void)state;
    struct test_env t = {.env = {.get = test_get},
                         .pairs = {"XDG_STATE_HOME", "relative", "HOME", "/home/x"}};
    struct config c;
    struct err err = {0};
    bool root = geteuid() == 0;
    assert_int_equal(config_load(NULL, &t.env, NULL, &c, &err), 0);
    assert_string_equal(c.state_directory, root ? "/var/lib/shardherd" : "/home/x/.local/state/shardherd");
    config_free(&c);
    t.pairs[1] = "/state";
    assert_int_equal(config_load(NULL, &t.env, NULL, &c, &err), 0);
    assert_string_equal(c.state_directory, root ? "/var/lib/shardherd" : "/state/shardherd");
    config_free(&c);
    memset(t.pairs, 0, sizeof t.pairs);
    if (!root) {
        assert_int_equal(config_load(NULL, &t.env, NULL, &c, &err), ERRC_INVALID);
        expect_prefix(err.message, "state_directory: neither XDG_STATE_HOME nor HOME");
    }
}

/* ---- what describes the keys ---- */

static void test_sample(void **state)
{
    (void)state;
    size_t count;
    const struct config_key *keys = config_keys(&count);
    char *text = read_source("config/shardherd.yaml");
    struct config c = good(text, NULL), defaults;
    config_init(&defaults);
    char *want = printed(&defaults), *got = printed(&c);
    assert_string_equal(got, want);
    for (size_t i = 0; i < count; i++) {
        char line[80];
        snprintf(line, sizeof line, "\n%s%s:", strchr(keys[i].path, '.') != NULL ? "  " : "",
                 config_key_name(&keys[i]));
        if (strstr(text, line) == NULL)
            fail_msg("config/shardherd.yaml lacks %s", keys[i].path);
    }
    /* the commented list is one that would be taken */
    char *list = strstr(text, "  # static:");
    assert_non_null(list);
    struct buf uncommented = {0};
    buf_add_text(&uncommented, "discovery:\n");
    for (char *line = list; strncmp(line, "  # ", 4) == 0; line = strchr(line, '\n') + 1) {
        buf_add_text(&uncommented, "  ");
        buf_add(&uncommented, line + 4, strcspn(line + 4, "\n") + 1);
    }
    struct config listed = good(buf_text(&uncommented), NULL);
    assert_int_equal(listed.instance_count, 2);
    buf_free(&uncommented);
    config_free(&listed);
    config_free(&c);
    config_free(&defaults);
    free(want);
    free(got);
    free(text);
}

/* The row of a key in the reference: "| `log.level` | choice | `info` | ... | `SHARDHERD_LOG_LEVEL` | yes |
 * ...". */
static void expect_row(const char *docs, const struct config_key *key)
{
    char start[300], variable[CONFIG_ENV_SIZE], end[600];
    snprintf(start, sizeof start, "\n| `%s` | %s | %s%s%s |", key->path, config_type_name(key->type),
             key->standard != NULL ? "`" : "", key->standard != NULL ? key->standard : "-",
             key->standard != NULL ? "`" : "");
    const char *row = strstr(docs, start);
    if (row == NULL)
        fail_msg("docs/configuration.md lacks %s", start + 1);
    config_key_env(key, variable);
    bool list = key->type == CONFIG_LIST;
    snprintf(end, sizeof end, "| %s%s%s | %s | %s |\n", list ? "" : "`", list ? "-" : variable,
             list ? "" : "`", key->reloadable ? "yes" : "no", key->help);
    const char *found = strstr(row, end);
    if (found == NULL || found > strchr(row + 1, '\n'))
        fail_msg("docs/configuration.md: the row of %s lacks %s", key->path, end);
    if (key->low != NULL) {
        char range[64];
        snprintf(range, sizeof range, " %s to %s", key->low, key->high);
        found = strstr(row, range);
        if (found == NULL || found > strchr(row + 1, '\n'))
            fail_msg("docs/configuration.md: the row of %s lacks%s", key->path, range);
    }
}

static void test_docs(void **state)
{
    (void)state;
    size_t count, rows = 0;
    const struct config_key *keys = config_keys(&count);
    char *docs = read_source("docs/configuration.md");
    for (size_t i = 0; i < count; i++)
        expect_row(docs, &keys[i]);
    /* and no row of a key that is gone */
    for (const char *at = docs; (at = strstr(at, "` | no | ")) != NULL; at++)
        rows++;
    for (const char *at = docs; (at = strstr(at, " | yes | ")) != NULL; at++)
        rows++;
    assert_int_equal(rows, count);
    const char *const *members = config_static_keys();
    for (int i = 0; members[i] != NULL; i++) {
        char name[64];
        snprintf(name, sizeof name, "`%s`", members[i]);
        if (strstr(docs, name) == NULL)
            fail_msg("docs/configuration.md lacks the member %s", name);
    }
    free(docs);
}

static yyjson_val *properties(yyjson_val *schema, const char *name)
{
    return yyjson_obj_get(yyjson_obj_get(schema, "properties"), name);
}

static void expect_property(yyjson_val *property, const struct config_key *key)
{
    if (property == NULL)
        fail_msg("the schema lacks %s", key->path);
    const char *help = yyjson_get_str(yyjson_obj_get(property, "description"));
    if (help == NULL || strncmp(help, key->help, strlen(key->help)) != 0)
        fail_msg("the schema describes %s otherwise", key->path);
    yyjson_val *standard = yyjson_obj_get(property, "default");
    char *text =
        yyjson_is_str(standard) ? mem_strdup(yyjson_get_str(standard)) : yyjson_val_write(standard, 0, NULL);
    assert_string_equal(text, key->standard != NULL ? key->standard : "null");
    free(text);
    if (key->type == CONFIG_INT) {
        assert_int_equal(yyjson_get_int(yyjson_obj_get(property, "minimum")), atoi(key->low));
        assert_int_equal(yyjson_get_int(yyjson_obj_get(property, "maximum")), atoi(key->high));
    }
    if (key->choices == NULL)
        return;
    struct buf choices = {0};
    size_t i, max;
    yyjson_val *choice;
    yyjson_arr_foreach(yyjson_obj_get(property, "enum"), i, max, choice)
        buf_printf(&choices, "%s%s", i > 0 ? "|" : "", yyjson_get_str(choice));
    assert_string_equal(buf_text(&choices), key->choices);
    buf_free(&choices);
}

static void test_schema(void **state)
{
    (void)state;
    size_t count, seen = 0, i, max;
    const struct config_key *keys = config_keys(&count);
    char *text = read_source("config/shardherd.schema.json");
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    assert_non_null(doc);
    yyjson_val *root = yyjson_doc_get_root(doc);
    for (size_t k = 0; k < count; k++) {
        const char *dot = strchr(keys[k].path, '.');
        char section[32];
        snprintf(section, sizeof section, "%.*s", dot != NULL ? (int)(dot - keys[k].path) : 0, keys[k].path);
        expect_property(properties(dot != NULL ? properties(root, section) : root, config_key_name(&keys[k])),
                        &keys[k]);
    }
    yyjson_val *name, *value;
    yyjson_obj_foreach(yyjson_obj_get(root, "properties"), i, max, name, value)
    {
        yyjson_val *inner = yyjson_obj_get(value, "properties");
        seen += inner != NULL ? yyjson_obj_size(inner) : 1;
        if (inner != NULL)
            assert_false(yyjson_get_bool(yyjson_obj_get(value, "additionalProperties")));
    }
    assert_int_equal(seen, count);
    yyjson_val *entry = yyjson_obj_get(properties(properties(root, "discovery"), "static"), "items");
    const char *const *members = config_static_keys();
    size_t n = 0;
    for (; members[n] != NULL; n++)
        assert_non_null(properties(entry, members[n]));
    assert_int_equal(yyjson_obj_size(yyjson_obj_get(entry, "properties")), n);
    yyjson_doc_free(doc);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_choices),
        cmocka_unit_test(test_values),   cmocka_unit_test(test_nothing_said),
        cmocka_unit_test(test_static),   cmocka_unit_test(test_print_and_parse),
        cmocka_unit_test(test_order),    cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_pod),      cmocka_unit_test(test_state_directory),
        cmocka_unit_test(test_sample),   cmocka_unit_test(test_docs),
        cmocka_unit_test(test_schema),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
