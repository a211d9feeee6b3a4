#include "manager/config_static.h"

#include <libpq-fe.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "discovery/discovery.h"
#include "manager/config_key.h"

#define FIELD(member) offsetof(struct config_instance, member)

/* Texts of an entry; `name` is first. passwordEnv and passwordFile are other spellings. */
static const struct field {
    const char *key;
    size_t offset;
    const char *other;
} fields[] = {
    {"name", FIELD(name), NULL},
    {"database", FIELD(database), NULL},
    {"shard", FIELD(shard), NULL},
    {"dsn", FIELD(dsn), NULL},
    {"host", FIELD(host), NULL},
    {"dbname", FIELD(dbname), NULL},
    {"user", FIELD(user), NULL},
    {"sslmode", FIELD(sslmode), NULL},
    {"sslrootcert", FIELD(sslrootcert), NULL},
    {"sslcert", FIELD(sslcert), NULL},
    {"sslkey", FIELD(sslkey), NULL},
    {"passfile", FIELD(passfile), NULL},
    {"password_file", FIELD(password_file), "passwordFile"},
    {"password_env", FIELD(password_env), "passwordEnv"},
};
#define FIELD_COUNT (sizeof fields / sizeof fields[0])

static const char *const known[] = {
    "name",     "database",      "shard",        "dsn",          "host",        "port",
    "dbname",   "user",          "sslmode",      "sslrootcert",  "sslcert",     "sslkey",
    "passfile", "password_file", "password_env", "passwordFile", "passwordEnv", NULL};

const char *const *config_static_keys(void)
{
    return known;
}

static char **field_of(const struct config_instance *instance, const struct field *field)
{
    return (char **)(void *)((uintptr_t)instance + field->offset);
}

void config_static_free(struct config *c)
{
    for (int i = 0; i < c->instance_count; i++)
        for (size_t f = 0; f < FIELD_COUNT; f++)
            free(*field_of(&c->instances[i], &fields[f]));
    free(c->instances);
    c->instances = NULL;
    c->instance_count = 0;
}

/* ---- one entry ---- */

struct entry {
    const struct config_node *node;
    const char *source;
    char what[40]; /* "discovery.static[2]" */
    struct config_instance *instance;
    struct err *err;
};

static int entry_text(struct entry *e, const struct field *field, const char *key)
{
    const struct config_node *node = config_node_get(e->node, key);
    char **text = field_of(e->instance, field);
    char what[80];
    if (node == NULL)
        return 0;
    snprintf(what, sizeof what, "%s.%s", e->what, key);
    int rc = config_node_want_text(node, e->source, what, e->err);
    if (rc != 0)
        return rc;
    if (*text != NULL)
        return config_node_fail_key(node, e->source, e->err,
                                    "%s is there twice, also as %s: remove one of them", what, field->key);
    if (node->text[0] == '\0' || strlen(node->text) > 4096)
        return config_node_fail(node, e->source, e->err, "%s must have 1 to 4096 bytes: leave it out", what);
    for (const char *c = node->text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return config_node_fail(node, e->source, e->err,
                                    "%s holds a control character: write it on one line", what);
    *text = mem_strdup(node->text);
    return 0;
}

static int entry_texts(struct entry *e)
{
    int rc = 0;
    for (size_t f = 0; f < FIELD_COUNT && rc == 0; f++) {
        rc = entry_text(e, &fields[f], fields[f].key);
        if (rc == 0 && fields[f].other != NULL)
            rc = entry_text(e, &fields[f], fields[f].other);
    }
    return rc;
}

static int entry_port(struct entry *e)
{
    const struct config_node *node = config_node_get(e->node, "port");
    int64_t port;
    if (node == NULL)
        return 0;
    if (node->kind != CONFIG_NODE_TEXT || !text_to_int64(node->text, &port) || port < 1 || port > 65535)
        return config_node_fail(node, e->source, e->err, "%s.port: write a number from 1 to 65535", e->what);
    e->instance->port = (int)port;
    return 0;
}

static int entry_label(struct entry *e, const char *key, const char *text)
{
    char shown[CONFIG_SHOW_SIZE];
    if (text == NULL || (text_is_name(text) && strlen(text) <= DATABASE_NAME_MAX))
        return 0;
    config_show(text, shown);
    return config_node_fail(config_node_get(e->node, key), e->source, e->err,
                            "%s.%s: \"%s\" is not a name: at most %d lower-case letters, digits and - inside",
                            e->what, key, shown, DATABASE_NAME_MAX);
}

static int entry_names(struct entry *e)
{
    struct config_instance *i = e->instance;
    int rc = entry_label(e, "database", i->database);
    if (rc == 0)
        rc = entry_label(e, "shard", i->shard);
    if (rc != 0)
        return rc;
    if (i->shard != NULL && i->database == NULL)
        return config_node_fail(e->node, e->source, e->err,
                                "%s has a shard but no database: say which database's shard it is", e->what);
    if (i->name == NULL && i->shard != NULL)
        i->name = mem_printf("%s-%s-0", i->database, i->shard);
    if (i->name == NULL)
        return config_node_fail(e->node, e->source, e->err,
                                "%s has no name: give it one (or a database and a shard)", e->what);
    char shown[CONFIG_SHOW_SIZE];
    config_show(i->name, shown);
    if (!text_is_name(i->name) && config_node_get(e->node, "name") != NULL)
        return config_node_fail(
            config_node_get(e->node, "name"), e->source, e->err,
            "%s.name: \"%s\" is not a name: at most 63 lower-case letters, digits and - inside", e->what,
            shown);
    return 0;
}

/* What the connection string says, without quoting any of it: it may hold a password. */
struct dsn_facts {
    bool password, host, user, certificate, key;
};

static bool dsn_read(const char *dsn, struct dsn_facts *ret)
{
    PQconninfoOption *options = PQconninfoParse(dsn, NULL);
    if (options == NULL)
        return false;
    for (const PQconninfoOption *o = options; o->keyword != NULL; o++) {
        bool set = o->val != NULL && o->val[0] != '\0';
        ret->password |=
            set && (strcmp(o->keyword, "password") == 0 || strcmp(o->keyword, "sslpassword") == 0);
        ret->host |= set && (strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "hostaddr") == 0);
        ret->user |= set && strcmp(o->keyword, "user") == 0;
        ret->certificate |= set && strcmp(o->keyword, "sslcert") == 0;
        ret->key |= set && strcmp(o->keyword, "sslkey") == 0;
    }
    PQconninfoFree(options);
    return true;
}

static int entry_reach(struct entry *e)
{
    const struct config_instance *i = e->instance;
    const struct config_node *dsn = config_node_get(e->node, "dsn");
    struct dsn_facts facts = {.host = i->host != NULL,
                              .user = i->user != NULL,
                              .certificate = i->sslcert != NULL,
                              .key = i->sslkey != NULL};
    if (dsn != NULL && !dsn_read(i->dsn, &facts))
        return config_node_fail(
            dsn, e->source, e->err,
            "%s.dsn is not a connection string: write \"postgresql://user@host:port/database\" "
            "or \"host=... port=... user=...\"",
            e->what);
    if (facts.password)
        return config_node_fail(dsn, e->source, e->err,
                                "%s.dsn holds a password: take it out and name a passfile, password_file or "
                                "password_env",
                                e->what);
    if (!facts.host)
        return config_node_fail(e->node, e->source, e->err, "%s has no host: add host, or a dsn", e->what);
    if (!facts.user)
        return config_node_fail(e->node, e->source, e->err, "%s has no user: add user: a superuser role",
                                e->what);
    if (facts.certificate != facts.key)
        return config_node_fail(e->node, e->source, e->err, "%s has %s but no %s: give both, or none",
                                e->what, facts.certificate ? "sslcert" : "sslkey",
                                facts.certificate ? "sslkey" : "sslcert");
    return 0;
}

static int entry_rest(struct entry *e)
{
    static const char *const modes[] = {"disable",   "allow",       "prefer", "require",
                                        "verify-ca", "verify-full", NULL};
    const struct config_instance *i = e->instance;
    int sources = (i->passfile != NULL) + (i->password_file != NULL) + (i->password_env != NULL);
    if (sources > 1)
        return config_node_fail(e->node, e->source, e->err,
                                "%s: keep one of passfile, password_file and password_env", e->what);
    for (int m = 0; i->sslmode != NULL; m++) {
        if (modes[m] == NULL) {
            char hint[CONFIG_HINT_SIZE];
            config_hint(i->sslmode, modes, hint);
            return config_node_fail(config_node_get(e->node, "sslmode"), e->source, e->err,
                                    "%s.sslmode: PostgreSQL has no such mode%s", e->what, hint);
        }
        if (strcmp(modes[m], i->sslmode) == 0)
            break;
    }
    return 0;
}

static int entry_parse(struct entry *e)
{
    int rc = config_node_want_map(e->node, e->source, e->what, e->err);
    if (rc != 0)
        return rc;
    for (int i = 0; i < e->node->count; i++)
        if (strcmp(e->node->items[i].key, "password") == 0)
            return config_node_fail_key(
                &e->node->items[i], e->source, e->err,
                "%s.password: passwords do not belong into this file: name a passfile, "
                "password_file or password_env",
                e->what);
    rc = config_node_want_keys(e->node, e->source, known, e->err);
    if (rc == 0)
        rc = entry_texts(e);
    if (rc == 0)
        rc = entry_port(e);
    if (rc == 0)
        rc = entry_names(e);
    if (rc == 0)
        rc = entry_reach(e);
    return rc != 0 ? rc : entry_rest(e);
}

/* ---- the list ---- */

struct named {
    const char *name;
    int index;
};

static int by_name(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : x->index - y->index;
}

static int check_unique(const struct config_node *node, const char *source, const struct config *c,
                        struct err *err)
{
    struct named *names = mem_array((size_t)c->instance_count + 1, sizeof *names);
    int first = -1, second = -1;
    for (int i = 0; i < c->instance_count; i++)
        names[i] = (struct named){c->instances[i].name, i};
    qsort(names, (size_t)c->instance_count, sizeof *names, by_name);
    for (int i = 1; i < c->instance_count && second < 0; i++)
        if (strcmp(names[i - 1].name, names[i].name) == 0) {
            first = names[i - 1].index;
            second = names[i].index;
        }
    free(names);
    if (second < 0)
        return 0;
    return config_node_fail(
        &node->items[second], source, err,
        "discovery.static[%d] has the name \"%s\" of the entry in line %d: give it another "
        "name",
        second, c->instances[second].name, node->items[first].line);
}

int config_static_parse(const struct config_node *node, const char *source, struct config *c, struct err *err)
{
    config_static_free(c);
    if (node == NULL || config_node_is_null(node))
        return 0;
    int rc = config_node_want_list(node, source, "discovery.static", err);
    if (rc != 0)
        return rc;
    if (node->count > DISCOVERY_STATIC_MAX)
        return config_node_fail(node, source, err,
                                "discovery.static has %d entries, more than %d: split the fleet", node->count,
                                DISCOVERY_STATIC_MAX);
    c->instances = mem_array((size_t)node->count + 1, sizeof *c->instances);
    for (int i = 0; i < node->count && rc == 0; i++) {
        struct entry e = {
            .node = &node->items[i], .source = source, .instance = &c->instances[i], .err = err};
        snprintf(e.what, sizeof e.what, "discovery.static[%d]", i);
        c->instance_count = i + 1;
        rc = entry_parse(&e);
    }
    return rc != 0 ? rc : check_unique(node, source, c, err);
}

void config_static_print(const struct config *c, struct buf *out)
{
    buf_add_text(out, c->instance_count == 0 ? " []\n" : "\n");
    for (int i = 0; i < c->instance_count; i++) {
        const struct config_instance *instance = &c->instances[i];
        const char *lead = "    - ";
        for (size_t f = 0; f < FIELD_COUNT; f++) {
            const char *text = *field_of(instance, &fields[f]);
            if (text == NULL)
                continue;
            buf_printf(out, "%s%s: ", lead, fields[f].key);
            config_print_quoted(text, out);
            buf_addc(out, '\n');
            lead = "      ";
        }
        if (instance->port != 0)
            buf_printf(out, "      port: %d\n", instance->port);
    }
}

int config_entries(const struct config *c, struct discovery_entry **ret, int *count)
{
    struct discovery_entry *entries = mem_array((size_t)c->instance_count + 1, sizeof *entries);
    for (int i = 0; i < c->instance_count; i++) {
        const struct config_instance *from = &c->instances[i];
        entries[i] = (struct discovery_entry){.name = from->name,
                                              .database = from->database,
                                              .shard = from->shard,
                                              .dsn = from->dsn,
                                              .host = from->host,
                                              .port = from->port,
                                              .dbname = from->dbname,
                                              .user = from->user,
                                              .sslmode = from->sslmode,
                                              .sslrootcert = from->sslrootcert,
                                              .sslcert = from->sslcert,
                                              .sslkey = from->sslkey,
                                              .password_env = from->password_env,
                                              .password_file = from->password_file,
                                              .passfile = from->passfile};
    }
    *ret = entries;
    *count = c->instance_count;
    return 0;
}
