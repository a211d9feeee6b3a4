/* shardherd status: how things stand, in sections. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/human.h"
#include "cli/progress.h"
#include "cli/resource.h"

/* Everything that was read; lists are {"items": [...]}. */
struct picture {
    struct session_reply version;
    char *ready; /* text of /readyz?verbose */
    yyjson_doc *databases, *shards, *instances, *operations;
    struct session_reply decisions;
};

static yyjson_val *items_of(yyjson_doc *doc)
{
    return yyjson_obj_get(yyjson_doc_get_root(doc), "items");
}

/* A manager that is not ready answers 503, with the same text. */
static void read_ready(struct session *s, struct picture *p)
{
    struct session_reply reply;
    bool silent = s->silent;
    s->silent = true;
    session_get(s, "/readyz?verbose", &reply);
    s->silent = silent;
    p->ready = reply.body;
    reply.body = NULL;
    session_reply_free(&reply);
}

static int read_all(struct session *s, struct picture *p)
{
    int rc = session_get(s, "/version", &p->version);
    if (rc == CLI_OK)
        read_ready(s, p);
    if (rc == CLI_OK)
        rc = resource_find(s, "database")->list(s, &p->databases);
    if (rc == CLI_OK)
        rc = resource_find(s, "shard")->list(s, &p->shards);
    if (rc == CLI_OK)
        rc = resource_find(s, "instance")->list(s, &p->instances);
    if (rc == CLI_OK)
        rc = session_list(s, "/v1/operations?status=running", &p->operations);
    if (rc == CLI_OK)
        rc = session_get(s, "/v1/decisions?limit=5", &p->decisions);
    return rc;
}

static void picture_free(struct picture *p)
{
    session_reply_free(&p->version);
    session_reply_free(&p->decisions);
    yyjson_doc_free(p->databases);
    yyjson_doc_free(p->shards);
    yyjson_doc_free(p->instances);
    yyjson_doc_free(p->operations);
    free(p->ready);
}

static void title(struct session *s, struct buf *out, const char *text)
{
    buf_printf(out, s->color_out ? "\033[1m%s\033[0m\n" : "%s\n", text);
}

/* Rows of a kind, indented. */
static void rows(struct session *s, struct buf *out, const char *kind, yyjson_val *items, const char *none)
{
    const struct resource *r = resource_find(s, kind);
    const struct table_look look = {.color = s->color_out};
    struct buf text = {0};
    struct table t;
    size_t i, max;
    yyjson_val *item;
    table_init(&t, r->columns);
    yyjson_arr_foreach(items, i, max, item)
    {
        table_row(&t);
        r->row(s, &t, item);
    }
    if (table_rows(&t) > 0)
        table_print(&t, &look, &text);
    else
        buf_printf(&text, "%s\n", none);
    for (const char *p = buf_text(&text); *p != '\0';) {
        size_t length = strcspn(p, "\n");
        buf_printf(out, "  %.*s\n", (int)length, p);
        p += length + (p[length] == '\n');
    }
    table_free(&t);
    buf_free(&text);
}

static size_t count_where(yyjson_val *items, const char *name, const char *value)
{
    size_t i, max, count = 0;
    yyjson_val *item;
    yyjson_arr_foreach(items, i, max, item)
    {
        count += strcmp(json_get_text(item, name), value) == 0;
    }
    return count;
}

static void fleet_section(struct session *s, struct buf *out, const struct picture *p)
{
    yyjson_val *version = p->version.root, *instances = items_of(p->instances);
    double rate = 0;
    char text[HUMAN_SIZE];
    size_t i, max;
    yyjson_val *shard;
    yyjson_arr_foreach(items_of(p->shards), i, max, shard)
    {
        double tx = json_get_number(json_get_path(shard, "load.last"), "query_rate");
        rate += isnan(tx) ? 0 : tx;
    }
    title(s, out, "Fleet");
    buf_printf(out, "  manager     %s, version %s, %s%s\n", s->servers[PORT_PUBLIC_API],
               json_get_text(version, "version"),
               yyjson_get_bool(yyjson_obj_get(version, "leader")) ? "leads, term " : "does not lead",
               yyjson_get_bool(yyjson_obj_get(version, "leader")) ? json_get_text(version, "term") : "");
    buf_printf(out, "  databases   %zu\n", yyjson_arr_size(items_of(p->databases)));
    buf_printf(out, "  shards      %zu, %s tx/s\n", yyjson_arr_size(items_of(p->shards)),
               human_count(rate, text));
    buf_printf(out, "  instances   %zu, %zu up, %zu primary\n", yyjson_arr_size(instances),
               count_where(instances, "health", "up"), count_where(instances, "role", "primary"));
}

static void warn(struct session *s, struct buf *out, const char *about, const char *text)
{
    buf_add_text(out, "  ");
    table_print_text(out, about, TABLE_WARN, s->color_out);
    buf_add_text(out, ": ");
    table_print_text(out, text, TABLE_PLAIN, false);
    buf_addc(out, '\n');
}

static void warn_manager(struct session *s, struct buf *out, const struct picture *p)
{
    for (const char *line = p->ready; line != NULL && *line != '\0';) {
        size_t length = strcspn(line, "\n");
        struct buf text = {0};
        if (length > 3 && strncmp(line, "[-]", 3) == 0) {
            buf_add(&text, line + 3, length - 3);
            warn(s, out, "manager", buf_text(&text));
        }
        buf_free(&text);
        line += length + (line[length] == '\n');
    }
}

static void warn_instances(struct session *s, struct buf *out, const struct picture *p)
{
    size_t i, max;
    yyjson_val *item;
    yyjson_arr_foreach(items_of(p->instances), i, max, item)
    {
        const char *health = json_get_text(item, "health"), *error = json_get_text(item, "error");
        struct buf text = {0};
        buf_printf(&text, "%s%s%s", health, error[0] != '\0' ? ": " : "", error);
        if (strcmp(health, "up") != 0)
            warn(s, out, json_get_text(item, "name"), buf_text(&text));
        buf_free(&text);
    }
}

static void warn_guards(struct session *s, struct buf *out, const char *shard, yyjson_val *findings)
{
    size_t i, max;
    yyjson_val *finding;
    yyjson_arr_foreach(findings, i, max, finding)
    {
        struct buf text = {0};
        buf_printf(&text, "%s: %s (%s)", json_get_text(finding, "subject"), json_get_text(finding, "finding"),
                   json_get_text(finding, "remedy"));
        warn(s, out, shard, buf_text(&text));
        buf_free(&text);
    }
}

static void warn_shards(struct session *s, struct buf *out, const struct picture *p)
{
    size_t i, max;
    yyjson_val *item;
    yyjson_arr_foreach(items_of(p->shards), i, max, item)
    {
        yyjson_val *refusal = json_get_path(item, "balancer.refusal");
        struct buf name = {0}, text = {0};
        buf_printf(&name, "%s/%s", json_get_text(item, "database"), json_get_text(item, "name"));
        buf_printf(&text, "hot, not split: %s (R%d)", json_get_text(refusal, "sentence"),
                   yyjson_get_int(yyjson_obj_get(refusal, "rule")));
        if (yyjson_get_bool(yyjson_obj_get(refusal, "active")))
            warn(s, out, buf_text(&name), buf_text(&text));
        warn_guards(s, out, buf_text(&name), json_get_path(item, "guards.findings"));
        if (!yyjson_is_obj(yyjson_obj_get(item, "instance")))
            warn(s, out, buf_text(&name), "no instance is known as its primary");
        buf_free(&name);
        buf_free(&text);
    }
}

static void warn_operations(struct session *s, struct buf *out, const struct picture *p)
{
    size_t i, max;
    yyjson_val *item;
    yyjson_arr_foreach(items_of(p->operations), i, max, item)
    {
        const char *message = json_get_text(yyjson_obj_get(item, "error"), "message");
        struct buf name = {0};
        buf_printf(&name, "operation %s", json_get_text(item, "id"));
        if (message[0] != '\0')
            warn(s, out, buf_text(&name), message);
        buf_free(&name);
    }
}

static void warnings_section(struct session *s, struct buf *out, const struct picture *p)
{
    struct buf list = {0};
    warn_manager(s, &list, p);
    warn_instances(s, &list, p);
    warn_shards(s, &list, p);
    warn_operations(s, &list, p);
    title(s, out, "Warnings");
    buf_add_text(out, list.length > 0 ? list.data : "  none\n");
    buf_free(&list);
}

/* {"version", "databases", "shards", "instances", "operations", "decisions", "ready"} */
static void print_document(struct session *s, const struct picture *p)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    const struct {
        const char *name;
        yyjson_val *value;
    } members[] = {{"version", p->version.root},
                   {"databases", items_of(p->databases)},
                   {"shards", items_of(p->shards)},
                   {"instances", items_of(p->instances)},
                   {"operations", items_of(p->operations)},
                   {"decisions", yyjson_obj_get(p->decisions.root, "items")}};
    yyjson_mut_doc_set_root(doc, root);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        if (members[i].value != NULL)
            yyjson_mut_obj_add_val(doc, root, members[i].name, yyjson_val_mut_copy(doc, members[i].value));
    yyjson_mut_obj_add_bool(doc, root, "ready", p->ready != NULL && strstr(p->ready, "check passed") != NULL);
    yyjson_doc *copy = yyjson_mut_doc_imut_copy(doc, NULL);
    session_print(s, yyjson_doc_get_root(copy));
    yyjson_doc_free(copy);
    yyjson_mut_doc_free(doc);
}

static void print_sections(struct session *s, const struct picture *p)
{
    struct buf out = {0};
    fleet_section(s, &out, p);
    title(s, &out, "\nDatabases");
    rows(s, &out, "database", items_of(p->databases), "none yet: shardherd apply -f FILE");
    title(s, &out, "\nShards");
    rows(s, &out, "shard", items_of(p->shards), "none");
    title(s, &out, "\nRunning operations");
    rows(s, &out, "operation", items_of(p->operations), "none");
    title(s, &out, "\nLast decisions");
    rows(s, &out, "decision", yyjson_obj_get(p->decisions.root, "items"), "none");
    buf_addc(&out, '\n');
    warnings_section(s, &out, p);
    session_out(s, &out);
    buf_free(&out);
}

int command_status(struct session *s)
{
    struct picture p = {0};
    int rc = read_all(s, &p);
    if (rc == CLI_OK && session_is_document(s))
        print_document(s, &p);
    else if (rc == CLI_OK)
        print_sections(s, &p);
    picture_free(&p);
    return rc;
}
