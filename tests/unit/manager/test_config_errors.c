/* What is wrong with a configuration is said with its place and a remedy, and without secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/buf.h"
#include "discovery/discovery.h"
#include "manager/config.h"

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

static void expect_prefix(const char *message, const char *prefix)
{
    if (strncmp(message, prefix, strlen(prefix)) != 0)
        fail_msg("expected\n  %s\ngot\n  %s", prefix, message);
}

/* ---- wrong text ---- */

/* The beginning of each message: place, key, what is wrong, remedy. */
#define S "discovery:\n  static:\n  - "
static const struct {
    const char *text, *message;
} bad_files[] = {
    /* words that are not keys */
    {"lgo: {}\n", "c.yaml:1:1: unknown key \"lgo\" (did you mean \"log\"?)"},
    {"balance:\n  thresold: 5\n", "c.yaml:2:3: unknown key \"thresold\" (did you mean \"threshold\"?)"},
    {"balance:\n  mergeAfter: 5s\n",
     "c.yaml:2:3: unknown key \"mergeAfter\" (did you mean \"merge_after\"?)"},
    {"log:\n  colour: red\n", "c.yaml:2:3: unknown key \"colour\" (known here: level, format)"},
    {"log:\n  level: info\n\n  lvl: x\n", "c.yaml:4:3: unknown key \"lvl\" (did you mean \"level\"?)"},
    {"a\tb: 1\n", "c.yaml:1:1: unknown key \"a?b\" (known here: state_directory, insecure_listen, log, "},
    {"{log: {level: info}, \"lisen\": {}}", "c.yaml:1:22: unknown key \"lisen\" (did you mean \"listen\"?)"},
    /* twice */
    {"log: {}\nbalance: {}\nlog: {}\n",
     "c.yaml:3:1: \"log\" is there twice, first in line 1: remove one of them"},
    {"log:\n  level: info\n  level: info\n", "c.yaml:3:3: \"level\" is there twice, first in line 2: remove"},
    /* not YAML, or more YAML than is taken */
    {"log: [1, 2\n", "c.yaml:2:1: not valid YAML: did not find expected ',' or ']' while parsing a flow seq"},
    {"log:\n\tlevel: info\n",
     "c.yaml:2:1: not valid YAML: found character that cannot start any token while"},
    {"log:\n  level: \"info\n",
     "c.yaml:3:1: not valid YAML: found unexpected end of stream while scanning a q"},
    {"log:\n  level: info\n log: x\n",
     "c.yaml:3:2: not valid YAML: did not find expected key while parsing a b"},
    {"log: &a {}\nlisten: *a\n",
     "c.yaml:1:6: anchors are not supported: write the value out where it is used"},
    {"&a log: {}\n", "c.yaml:1:1: anchors are not supported"},
    {"listen: *a\n", "c.yaml:1:9: aliases are not supported: write the value out"},
    {"log: {level: !!str info}\n", "c.yaml:1:14: tags are not supported: leave it out"},
    {"log: {}\n---\nlog: {}\n", "c.yaml:2:1: a second document begins here: one is allowed"},
    {"? [log]\n: x\n", "c.yaml:1:3: a key must be one word: write \"key: value\""},
    {"# \xff\nlog: {}\n", "c.yaml:1:3: invalid leading UTF-8 octet: write the text as UTF-8"},
    {"log:\n  format: \xc3\xa4\x01\n",
     "c.yaml:2:12: control characters are not allowed: write the text as UTF-8"},
    /* shapes */
    {"- a\n", "c.yaml:1:1: the configuration is not a mapping: write \"key: value\" lines below it"},
    {"just text\n", "c.yaml:1:1: the configuration is not a mapping"},
    {"log: info\n", "c.yaml:1:6: log is not a mapping: write \"key: value\" lines below it"},
    {"log:\n  level: [info]\n", "c.yaml:2:10: log.level is a list: write a single value"},
    {"log:\n  level:\n    a: b\n", "c.yaml:3:5: log.level is a mapping: write a single value"},
    {"discovery: {static: x}\n", "c.yaml:1:21: discovery.static is not a list: begin each item with \"- \""},
    /* values */
    {"log: {level: inof}\n",
     "c.yaml:1:14: log.level: \"inof\" is none of debug|info|warn|error (did you mean \"info\"?)"},
    {"log: {level: 3}\n",
     "c.yaml:1:14: log.level: \"3\" is none of debug|info|warn|error: write one of them"},
    {"log:\n  format: \"\"\n", "c.yaml:2:11: log.format: \"\" is none of logfmt|json: write one of them"},
    {"insecure_listen: maybe\n",
     "c.yaml:1:18: insecure_listen: \"maybe\" is not true or false: write one of them"},
    {"listen: {public_port: 80a}\n",
     "c.yaml:1:23: listen.public_port: \"80a\" is not an integer: write e.g. 8"},
    {"listen: {public_port: -1}\n",
     "c.yaml:1:23: listen.public_port: -1 is out of range: write a value from 0 to 65535"},
    {"listen: {public_port: 99999999999999999999}\n",
     "c.yaml:1:23: listen.public_port: \"99999999999999999999\" is not an i"},
    {"listen: {public_port: 4294967297}\n", "c.yaml:1:23: listen.public_port: 4294967297 is out of range"},
    {"listen: {public_address: localhost}\n", "c.yaml:1:26: listen.public_address: \"localhost\" is not a "
                                              "numeric address: write e.g. 127.0.0.1 or ::1"},
    {"listen:\n  public_port: 7\n  metrics_port: 7\n",
     "c.yaml:3:17: listen.metrics_port: 7 is the port of listen.public_port too: choose another"},
    {"listen:\n  public_port: 9090\n",
     "c.yaml:2:16: listen.public_port: 9090 is the port of listen.metrics_port too: choose another"},
    {"listen:\n  admin_address: 192.168.0.1\n",
     "c.yaml:2:18: listen.admin_address: 192.168.0.1 is reached from other machines and nothing is "
     "authenticated yet: use 127.0.0.1, or set insecure_listen: true (--insecure-listen)"},
    {"discovery: {interval: 5 s}\n",
     "c.yaml:1:23: discovery.interval: \"5 s\" is not a duration: write e.g. 500ms, 10s, 5m, 1h"},
    {"discovery: {interval: 1ms}\n",
     "c.yaml:1:23: discovery.interval: 1ms is out of range: write a value from 100ms to 1h"},
    {"polling: {load: off}\n",
     "c.yaml:1:17: polling.load: \"off\" is not a duration: write e.g. 500ms, 10s, 5m, 1h"},
    {"polling: {sizes: of}\n",
     "c.yaml:1:18: polling.sizes: \"of\" is not a duration: write e.g. 500ms, 10s, 5m, 1h, or off"},
    {"balance: {threshold: nan}\n",
     "c.yaml:1:22: balance.threshold: \"nan\" is not a number: write e.g. 1000, 1.5 or 16MB"},
    {"balance: {threshold: 0}\n",
     "c.yaml:1:22: balance.threshold: 0 is out of range: write a value from 0.001 to 1e18"},
    {"balance: {threshold: -5}\n", "c.yaml:1:22: balance.threshold: -5 is out of range"},
    {"balance: {relative: 0.5}\n",
     "c.yaml:1:21: balance.relative: 0.5 is out of range: write a value from 1 to 1000"},
    {"balance: {window: 1.5}\n", "c.yaml:1:19: balance.window: \"1.5\" is not an integer: write e.g. 8"},
    {"balance: {split: yes}\n",
     "c.yaml:1:18: balance.split: \"yes\" is none of off|recommend|auto: write one of them"},
    {"balance: {max_moves: 0}\n",
     "c.yaml:1:22: balance.max_moves: 0 is out of range: write a value from 1 to 64"},
    {"runtime: {kind: podmann}\n",
     "c.yaml:1:17: runtime.kind: \"podmann\" is none of "
     "auto|local|podman|docker|kubernetes|cnpg|none (did you mean \"podman\"?)"},
    {"runtime: {user: \"a\\nb\"}\n",
     "c.yaml:1:17: runtime.user: it holds a control character: write it on one line"},
    {"state_directory: ''\n",
     "c.yaml:1:18: state_directory: it must have 1 to 4096 bytes: leave the key out for its default"},
    /* the static list */
    {S "x\n", "c.yaml:3:5: discovery.static[0] is not a mapping"},
    {S "{name: a, hots: h}\n", "c.yaml:3:15: unknown key \"hots\" (did you mean \"host\"?)"},
    {S "{name: a, host: h, user: u, password: p}\n",
     "c.yaml:3:33: discovery.static[0].password: passwords do not belong into this file: name a passfile, "
     "password_file or password_env"},
    {S "{name: A, host: h, user: u}\n",
     "c.yaml:3:12: discovery.static[0].name: \"A\" is not a name: at most 63 lower-case"},
    {S "{host: h, user: u}\n",
     "c.yaml:3:5: discovery.static[0] has no name: give it one (or a database and a shard)"},
    {S "{shard: s1, name: a, host: h, user: u}\n",
     "c.yaml:3:5: discovery.static[0] has a shard but no database: say which"},
    {S "{database: Shop, shard: s1, host: h, user: u}\n",
     "c.yaml:3:16: discovery.static[0].database: \"Shop\" is not a name: at most 32 lower-case"},
    {S "{name: a, database: shop, shard: s_1, host: h, user: u}\n",
     "c.yaml:3:38: discovery.static[0].shard: \"s_1\" is not a name"},
    {S "{name: a, user: u}\n", "c.yaml:3:5: discovery.static[0] has no host: add host, or a dsn"},
    {S "{name: a, host: h}\n", "c.yaml:3:5: discovery.static[0] has no user: add user: a superuser role"},
    {S "{name: a, host: h, user: u, port: 0}\n",
     "c.yaml:3:39: discovery.static[0].port: write a number from 1 to 65535"},
    {S "{name: a, host: h, user: u, sslmode: requier}\n",
     "c.yaml:3:42: discovery.static[0].sslmode: PostgreSQL has no such mode (did you mean \"require\"?)"},
    {S "{name: a, host: h, user: u, sslcert: c}\n",
     "c.yaml:3:5: discovery.static[0] has sslcert but no sslkey: give both, or none"},
    {S "{name: a, dsn: \"host=h user=u sslkey=/k\"}\n",
     "c.yaml:3:5: discovery.static[0] has sslkey but no sslcert: give both, or none"},
    {S "{name: a, host: h, user: u, passfile: p, password_env: E}\n",
     "c.yaml:3:5: discovery.static[0]: keep one of passfile, password_file and password_env"},
    {S "{name: a, host: h, user: u, passwordEnv: E, password_env: E}\n",
     "c.yaml:3:33: discovery.static[0].passwordEnv is there twice, also as password_env: remove one of them"},
    {S "{name: a, dsn: nonsense}\n",
     "c.yaml:3:20: discovery.static[0].dsn is not a connection string: write "
     "\"postgresql://user@host:port/database\" or \"host=... port=... user=...\""},
    {S "{name: a, dsn: \"host=h user=u password=p\"}\n",
     "c.yaml:3:20: discovery.static[0].dsn holds a password: take it out and name a passfile, password_file "
     "or password_env"},
    {S "{name: a, dsn: \"postgresql://u:p@h/d\"}\n",
     "c.yaml:3:20: discovery.static[0].dsn holds a password: take it out"},
    {S "{name: a, dsn: \"postgresql://h/d\"}\n", "c.yaml:3:5: discovery.static[0] has no user: add user"},
    {S "{name: a, host: h, user: [u]}\n",
     "c.yaml:3:30: discovery.static[0].user is a list: write a single value"},
    {S "{name: a, host: \"\", user: u}\n",
     "c.yaml:3:21: discovery.static[0].host must have 1 to 4096 bytes: leave it out"},
    {S "{name: a, host: h, user: u}\n  - {name: b, host: h, user: u}\n  - {name: a, host: i, user: u}\n",
     "c.yaml:5:5: discovery.static[2] has the name \"a\" of the entry in line 3: give it another name"},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        struct config c = {.max_moves = 77};
        struct err err = {0};
        if (parse(bad_files[i].text, NULL, &c, &err) == 0)
            fail_msg("taken: %s", bad_files[i].text);
        assert_int_equal(err.code, ERRC_INVALID);
        expect_prefix(err.message, bad_files[i].message);
        assert_int_equal(c.max_moves, 77);
    }
    assert_true(sizeof bad_files / sizeof bad_files[0] >= 40);
}

static void test_bad_flags(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *message;
    } bad[] = {
        {"log.level", "flag log.level has no value: write key.path=value"},
        {"log.levle=info", "flag log.levle: there is no such key (did you mean \"log.level\"?)"},
        {"something=1", "flag something: there is no such key: keys are those of the configuration file"},
        {"log=1", "flag log: there is no such key"},
        {"log.level=lout", "flag log.level: log.level: \"lout\" is none of debug|info|warn|error"},
        {"discovery.static=x",
         "flag discovery.static: discovery.static: it is a list: give it in the config"},
        {"listen.admin_port=65536",
         "flag listen.admin_port: listen.admin_port: 65536 is out of range: write a "
         "value from 0 to 65535"},
        {"listen.public_port=8081", "flag listen.public_port: listen.public_port: 8081 is the port of "
                                    "listen.admin_port too: choose another"},
        {"listen.admin_address=0.0.0.0",
         "flag listen.admin_address: listen.admin_address: 0.0.0.0 is reached "
         "from other machines and nothing is authenticated yet: use 127.0.0.1, or "
         "set insecure_listen: true (--insecure-listen)"},
        {"listen.admin_address=::", "flag listen.admin_address: listen.admin_address: :: is reached"},
        {"listen.admin_address=::ffff:10.0.0.1",
         "flag listen.admin_address: listen.admin_address: ::ffff:10"},
        {"listen.public_address=10.1.2.3",
         "flag listen.public_address: listen.public_address: 10.1.2.3 is r"},
        {"listen.metrics_address=fe80::1",
         "flag listen.metrics_address: listen.metrics_address: fe80::1 is r"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *flags[] = {bad[i].flag, NULL};
        struct config c;
        struct err err = {0};
        assert_int_equal(config_load(NULL, NULL, flags, &c, &err), ERRC_INVALID);
        expect_prefix(err.message, bad[i].message);
    }
    struct test_env t = {.env = {.get = test_get}, .pairs = {"DISCOVERY_INTERVAL", "soon"}};
    struct config c;
    struct err err = {0};
    assert_int_equal(config_load(NULL, &t.env, NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message,
                  "environment variable DISCOVERY_INTERVAL: discovery.interval: \"soon\" is not a d");
}

static void test_listen_allowed(void **state)
{
    (void)state;
    const char *addresses[] = {"127.9.9.9", "::1", "::ffff:127.0.0.1"};
    char flag[64];
    for (int i = 0; i < 3; i++) {
        snprintf(flag, sizeof flag, "listen.admin_address=%s", addresses[i]);
        const char *flags[] = {flag, NULL};
        struct config c = good("", flags);
        config_free(&c);
    }
    const char *insecure[] = {"insecure_listen=true", "listen.public_address=0.0.0.0", NULL};
    struct config c = good("", insecure);
    assert_true(c.insecure_listen);
    config_free(&c);
}

/* A password must not come out again, whatever is wrong with the text around it. */
static void test_no_secret_in_errors(void **state)
{
    (void)state;
    const char *texts[] = {"dsn: postgresql://u:geheim@h/db",
                           "dsn: host=h user=u password=geheim",
                           "dsn: postgresql://u@h/db?password=geheim",
                           "dsn: 'postgresql://u:geheim@h:port:x/db'",
                           "dsn: 'password=geheim host'",
                           "password: geheim",
                           "dsn: 'postgresql://u:geheim@[h/db'",
                           "{password: geheim}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "discovery:\n  static:\n  - name: a\n    %s\n", texts[i]);
        struct config c;
        struct err err = {0};
        assert_int_equal(parse(text, NULL, &c, &err), ERRC_INVALID);
        assert_null(strstr(err.message, "geheim"));
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct config c;
    struct err err = {0};
    struct buf text = {0};
    for (int i = 0; i < 33; i++)
        buf_addc(&text, '[');
    assert_int_equal(parse(buf_text(&text), NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:1:33: nested deeper than 32 levels");
    buf_reset(&text);
    for (int i = 0; i < 65; i++)
        buf_printf(&text, "k%d: 1\n", i);
    assert_int_equal(parse(buf_text(&text), NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:65:1: more than 64 keys in one mapping");
    buf_reset(&text);
    while (text.length <= 1024 * 1024)
        buf_add_text(&text, "# 64 bytes of a comment, which means nothing but takes its place\n");
    assert_int_equal(parse(buf_text(&text), NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:1:1: 10");
    buf_reset(&text);
    for (int i = 0; i < 200001; i++)
        buf_add_text(&text, "- a\n");
    assert_int_equal(parse(buf_text(&text), NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:200000:3: more than 200000 values"); /* the list is one too */
    buf_reset(&text);
    buf_add_text(&text, "discovery:\n  static:\n");
    for (int i = 0; i < DISCOVERY_STATIC_MAX; i++)
        buf_printf(&text, "  - {name: n%d, host: h, user: u}\n", i);
    c = good(buf_text(&text), NULL);
    assert_int_equal(c.instance_count, DISCOVERY_STATIC_MAX);
    config_free(&c);
    buf_add_text(&text, "  - {name: more, host: h, user: u}\n");
    assert_int_equal(parse(buf_text(&text), NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:3:3: discovery.static has 10001 entries, more than 10000");
    buf_free(&text);
}

static void test_nul(void **state)
{
    (void)state;
    struct config c;
    struct err err = {0};
    assert_int_equal(config_parse("log:\n  level: in\0fo\n", 20, "c.yaml", NULL, NULL, &c, &err),
                     ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:2:12: control characters are not allowed");
    assert_int_equal(parse("state_directory: \"a\\0b\"\n", NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, "c.yaml:1:18: the value holds a NUL character");
}

/* ---- files ---- */

static void test_files(void **state)
{
    (void)state;
    char directory[] = "/tmp/shardherd-config-XXXXXX", path[64], link[64];
    struct config c;
    struct err err = {0};
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/a.yaml", directory);
    snprintf(link, sizeof link, "%s/b.yaml", directory);
    assert_int_equal(config_load(path, NULL, NULL, &c, &err), ERRC_NOT_FOUND);
    assert_non_null(strstr(err.message, "a.yaml does not exist: name the configuration file with -c"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("log:\n  level: error\nlisten: {public_port: x}\n", file);
    fclose(file);
    assert_int_equal(symlink("a.yaml", link), 0);
    assert_int_equal(config_load(link, NULL, NULL, &c, &err), ERRC_INVALID);
    expect_prefix(err.message, link);
    expect_prefix(err.message + strlen(link), ":3:23: listen.public_port: \"x\" is not an integer");
    file = fopen(path, "w");
    assert_non_null(file);
    fputs("log:\n  level: error\n", file);
    fclose(file);
    assert_int_equal(config_load(link, NULL, NULL, &c, &err), 0);
    assert_int_equal(c.log_level, LOG_ERROR);
    assert_string_equal(c.path, link);
    config_free(&c);
    assert_int_equal(config_load(directory, NULL, NULL, &c, &err), ERRC_INVALID);
    assert_non_null(strstr(err.message, "is not a plain file"));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* without a writer it must not wait */
    assert_int_equal(config_load(path, NULL, NULL, &c, &err), ERRC_INVALID);
    unlink(path);
    file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 20000; i++)
        fputs("# 64 bytes of a comment, which means nothing but takes its place\n", file);
    fclose(file);
    assert_int_equal(config_load(path, NULL, NULL, &c, &err), ERRC_INVALID);
    assert_non_null(strstr(err.message, "more than 1048576 bytes"));
    unlink(path);
    unlink(link);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files),      cmocka_unit_test(test_bad_flags),
        cmocka_unit_test(test_listen_allowed), cmocka_unit_test(test_no_secret_in_errors),
        cmocka_unit_test(test_limits),         cmocka_unit_test(test_nul),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
