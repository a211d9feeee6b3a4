#include "discovery/application.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

#define DEFAULT_PORT 5432
#define EXPANDED_MAX 1024

const char *connection_state_name(enum connection_state state)
{
    static const char *const names[] = {"known", "foreign", "unresolved"};
    return names[state];
}

/* ---- the variables of one container, as its process will see them ---- */

struct setting {
    char *name, *from;
    char *text; /* NULL = not known */
    char *why;  /* then */
    bool optional;
};

struct settings {
    struct setting *items;
    size_t count;
    bool pending;
    /* while an envFrom is taken over */
    const struct application_variable *all;
};

static void setting_clear(struct setting *s)
{
    free(s->name);
    free(s->from);
    mem_wipe_free(s->text);
    free(s->why);
}

/* The one of that name, emptied: what is said later wins. */
static struct setting *setting_new(struct settings *all, const char *name)
{
    struct setting *s = NULL;
    for (size_t i = 0; i < all->count; i++)
        if (strcmp(all->items[i].name, name) == 0)
            s = &all->items[i];
    if (s != NULL) {
        setting_clear(s);
    } else {
        all->items = mem_resize(all->items, all->count + 1, sizeof *all->items);
        s = &all->items[all->count++];
    }
    *s = (struct setting){.name = mem_strdup(name)};
    return s;
}

static enum read_kind read_kind_of(const struct application_variable *v)
{
    return v->from == FROM_SECRET ? READ_SECRET : READ_CONFIG_MAP;
}

static const char *kind_name(const struct application_variable *v)
{
    return v->from == FROM_SECRET ? "Secret" : "ConfigMap";
}

static void take_key(const char *key, const char *value, void *data)
{
    struct settings *all = data;
    const struct application_variable *v = all->all;
    char *name = mem_printf("%s%s", v->key != NULL ? v->key : "", key);
    struct setting *s = setting_new(all, name);
    s->from = mem_printf("%s %s key %s", kind_name(v), v->object, key);
    s->text = mem_strdup(value);
    free(name);
}

/* A whole object that cannot be read: a setting without a name of a variable stands for it. */
static void take_all(struct settings *all, const struct application_object *o,
                     const struct application_variable *v, const struct application_lookup *lookup)
{
    const struct err *err = NULL;
    all->all = v;
    enum read_state state =
        lookup->all(lookup->data, read_kind_of(v), o->name_space, v->object, take_key, all, &err);
    all->pending = all->pending || state == READ_PENDING;
    if (state == READ_HERE || (v->optional && err != NULL && err->code == ERRC_NOT_FOUND))
        return;
    char *name = mem_printf("envFrom %s %s", kind_name(v), v->object);
    struct setting *s = setting_new(all, name);
    s->from = mem_printf("%s %s", kind_name(v), v->object);
    s->why = err != NULL ? mem_strdup(err->message) : mem_strdup("it is being read");
    free(name);
}

static void take_reference(struct settings *all, const struct application_object *o,
                           const struct application_variable *v, const struct application_lookup *lookup)
{
    const struct err *err = NULL;
    const char *text = NULL;
    const char *key = v->key != NULL ? v->key : "";
    enum read_state state =
        lookup->get(lookup->data, read_kind_of(v), o->name_space, v->object, key, &text, &err);
    struct setting *s = setting_new(all, v->name);
    s->from = mem_printf("%s %s key %s", kind_name(v), v->object, key);
    s->optional = v->optional;
    all->pending = all->pending || state == READ_PENDING;
    if (state == READ_HERE && text != NULL)
        s->text = mem_strdup(text);
    else if (state == READ_HERE)
        s->why = mem_printf("%s %s/%s has no key %s, or its value is not where a server could be",
                            kind_name(v), o->name_space, v->object, key);
    else
        s->why = mem_strdup(state == READ_PENDING ? "it is being read" : err->message);
}

static void take_variables(struct settings *all, const struct application_object *o, const char *container,
                           const struct application_lookup *lookup)
{
    for (size_t i = 0; i < o->variable_count; i++) {
        const struct application_variable *v = &o->variables[i];
        if (strcmp(v->container, container) != 0)
            continue;
        if (v->name == NULL)
            take_all(all, o, v, lookup);
        else if (v->from != FROM_LITERAL)
            take_reference(all, o, v, lookup);
        else {
            struct setting *s = setting_new(all, v->name);
            s->from = mem_strdup("literal");
            s->text = mem_strdup(v->text);
        }
    }
}

static const struct setting *setting_find(const struct settings *all, const char *name, size_t length)
{
    for (size_t i = 0; i < all->count; i++)
        if (strlen(all->items[i].name) == length && strncmp(all->items[i].name, name, length) == 0)
            return &all->items[i];
    return NULL;
}

/* "$(NAME)" replaced; NULL and *ret_why when one of them is not known. mem_wipe_free() it. */
static char *expand(const struct settings *all, const char *text, char **ret_why)
{
    struct buf out = {.limit = EXPANDED_MAX};
    while (*text != '\0') {
        const char *end = text[0] == '$' && text[1] == '(' ? strchr(text, ')') : NULL;
        if (end == NULL) {
            (void)buf_addc(&out, *text++);
            continue;
        }
        size_t length = (size_t)(end - text) - 2;
        const struct setting *s = setting_find(all, text + 2, length);
        if (s == NULL || s->text == NULL) {
            *ret_why =
                s != NULL && s->why != NULL
                    ? mem_printf("$(%.*s): %s", (int)length, text + 2, s->why)
                    : mem_printf("$(%.*s) is not among the variables that are read", (int)length, text + 2);
            mem_wipe_free(buf_take(&out));
            return NULL;
        }
        (void)buf_add_text(&out, s->text);
        text = end + 1;
    }
    return buf_take(&out);
}

/* ---- connections ---- */

static struct application_connection *connection_new(struct application *a, const char *container,
                                                     const struct setting *s)
{
    a->connections = mem_resize(a->connections, a->connection_count + 1, sizeof *a->connections);
    struct application_connection *c = &a->connections[a->connection_count++];
    *c = (struct application_connection){.container = mem_strdup(container),
                                         .variable = mem_strdup(s->name),
                                         .from = mem_strdup(s->from),
                                         .state = CONNECTION_UNRESOLVED};
    return c;
}

/* The setting of the same prefix with another role. */
static struct setting *sibling(struct settings *all, const struct setting *of, size_t prefix,
                               enum env_role role)
{
    for (size_t i = 0; i < all->count; i++) {
        size_t other;
        struct setting *s = &all->items[i];
        if (env_role_of(s->name, &other) == role && other == prefix &&
            strncmp(s->name, of->name, prefix) == 0)
            return s;
    }
    return NULL;
}

/* What another variable adds; false: it should, and is not known. */
static bool add_sibling(struct settings *all, const struct setting *of, size_t prefix, enum env_role role,
                        struct application_connection *c)
{
    struct setting *s = sibling(all, of, prefix, role);
    int64_t port;
    if (s == NULL)
        return true;
    char *text = s->text != NULL ? expand(all, s->text, &c->why) : NULL;
    if (text == NULL && s->optional)
        return true;
    if (text == NULL) {
        if (c->why == NULL)
            c->why = mem_printf("%s (%s): %s", s->name, s->from, s->why != NULL ? s->why : "not known");
        return role != ENV_PORT; /* without the name of a database it is still known where */
    }
    if (role == ENV_DBNAME)
        c->dbname = mem_strdup(text);
    else if (role == ENV_USER)
        c->user = mem_strdup(text);
    else if (text_to_int64(text, &port) && port > 0 && port <= 65535)
        c->port = (int)port;
    mem_wipe_free(text);
    return true;
}

static void match(const struct known_servers *servers, const char *name_space,
                  struct application_connection *c)
{
    const struct known_server *server = known_server_find(servers, c->host, c->port, name_space);
    free(c->why);
    c->why = NULL;
    c->state = server != NULL ? CONNECTION_KNOWN : CONNECTION_FOREIGN;
    if (server == NULL) {
        c->why = mem_printf("no server that is known here is at %s port %d", c->host, c->port);
        return;
    }
    c->instance = mem_strdup(server->instance);
    c->database = mem_strdup(server->database);
    c->shard = mem_strdup(server->shard);
}

static bool target_of(struct settings *all, struct setting *s, enum env_role role,
                      struct application_connection *c)
{
    struct env_target t = {0};
    char *text = s->text != NULL ? expand(all, s->text, &c->why) : NULL;
    if (text == NULL) {
        if (c->why == NULL)
            c->why = mem_printf("%s: %s", s->from, s->why != NULL ? s->why : "not known");
        return false;
    }
    bool ok = role == ENV_URL ? env_url_parse(text, &t) : env_host_parse(text, &t);
    mem_wipe_free(text);
    if (!ok) {
        c->why = mem_printf("the value of %s is neither a URL nor a host name", s->name);
        return false;
    }
    c->host = mem_strdup(t.host);
    c->port = t.port;
    c->dbname = mem_strdup(t.dbname);
    c->user = mem_strdup(t.user);
    env_target_free(&t);
    return true;
}

static void connect(struct application *a, struct settings *all, const char *container, struct setting *s,
                    enum env_role role, size_t prefix, const struct known_servers *servers)
{
    if (s->text == NULL && s->optional)
        return; /* the application goes without it */
    struct application_connection *c = connection_new(a, container, s);
    if (!target_of(all, s, role, c))
        return;
    bool ok = true;
    if (role == ENV_HOST) {
        ok = c->port != 0 || add_sibling(all, s, prefix, ENV_PORT, c);
        ok = (c->dbname != NULL || add_sibling(all, s, prefix, ENV_DBNAME, c)) && ok;
        ok = (c->user != NULL || add_sibling(all, s, prefix, ENV_USER, c)) && ok;
    }
    if (!ok)
        return;
    if (c->port == 0)
        c->port = DEFAULT_PORT;
    match(servers, a->name_space, c);
}

static bool is_whole_object(const struct setting *s)
{
    return text_starts_with(s->name, "envFrom ");
}

static void make_connections(struct application *a, struct settings *all, const char *container,
                             const struct known_servers *servers)
{
    for (size_t i = 0; i < all->count; i++) {
        struct setting *s = &all->items[i];
        size_t prefix = 0;
        enum env_role role = env_role_of(s->name, &prefix);
        if (role == ENV_NONE && s->text != NULL && strstr(s->text, "postgresql://") == s->text)
            role = ENV_URL;
        if (is_whole_object(s)) {
            struct application_connection *c = connection_new(a, container, s);
            c->why = mem_strdup(s->why);
        } else if (role == ENV_URL || role == ENV_HOST)
            connect(a, all, container, s, role, prefix, servers);
    }
}

/* ---- all of it ---- */

static bool seen_before(const struct application_object *o, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (strcmp(o->variables[i].container, o->variables[at].container) == 0)
            return true;
    return false;
}

void application_resolve(const struct application_object *o, const struct application_lookup *lookup,
                         const struct known_servers *servers, struct application *ret)
{
    *ret = (struct application){.id = mem_printf("%s/%s/%s", o->name_space, o->kind, o->name),
                                .kind = o->kind,
                                .name = mem_strdup(o->name),
                                .name_space = mem_strdup(o->name_space)};
    for (size_t i = 0; i < o->variable_count; i++) {
        struct settings all = {0};
        if (seen_before(o, i))
            continue;
        take_variables(&all, o, o->variables[i].container, lookup);
        make_connections(ret, &all, o->variables[i].container, servers);
        ret->pending = ret->pending || all.pending;
        for (size_t k = 0; k < all.count; k++)
            setting_clear(&all.items[k]);
        free(all.items);
    }
}

void application_clear(struct application *a)
{
    for (size_t i = 0; i < a->connection_count; i++) {
        struct application_connection *c = &a->connections[i];
        char *const texts[] = {c->container, c->variable, c->from,     c->host,     c->dbname,
                               c->user,      c->why,      c->instance, c->database, c->shard};
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++)
            free(texts[k]);
    }
    free(a->connections);
    free(a->id);
    free(a->name);
    free(a->name_space);
    *a = (struct application){0};
}
