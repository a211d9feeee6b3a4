#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/human.h"
#include "cli/resource.h"

/* ---- shared ---- */

void resource_ranges(yyjson_val *ranges, struct buf *out)
{
    size_t i, max;
    yyjson_val *range;
    yyjson_arr_foreach(ranges, i, max, range)
    {
        buf_printf(out, "%s%s..%s", i > 0 ? ", " : "", json_get_text(range, "lo"),
                   json_get_text(range, "hi"));
    }
}

void resource_address(yyjson_val *object, struct buf *out)
{
    const char *host = json_get_text(object, "host");
    if (host[0] == '\0')
        return;
    bool v6 = strchr(host, ':') != NULL;
    buf_printf(out, "%s%s%s:%d", v6 ? "[" : "", host, v6 ? "]" : "",
               yyjson_get_int(yyjson_obj_get(object, "port")));
}

enum table_style resource_style(const char *state)
{
    static const struct {
        const char *state;
        enum table_style style;
    } styles[] = {{"up", TABLE_GOOD},       {"serving", TABLE_GOOD},   {"provisioned", TABLE_GOOD},
                  {"done", TABLE_GOOD},     {"down", TABLE_BAD},       {"failed", TABLE_BAD},
                  {"undone", TABLE_WARN},   {"suspect", TABLE_WARN},   {"running", TABLE_WARN},
                  {"pending", TABLE_WARN},  {"unknown", TABLE_FAINT},  {"known", TABLE_GOOD},
                  {"foreign", TABLE_FAINT}, {"unresolved", TABLE_WARN}};
    for (size_t i = 0; i < sizeof styles / sizeof styles[0]; i++)
        if (strcmp(styles[i].state, state) == 0)
            return styles[i].style;
    return TABLE_PLAIN;
}

static void cell_state(struct table *t, const char *state)
{
    table_cell(t, state);
    table_paint(t, resource_style(state));
}

typedef char *(*human_cb)(double value, char out[HUMAN_SIZE]);

static void cell_number(struct table *t, double value, human_cb print, const char *unit)
{
    char text[HUMAN_SIZE];
    if (isnan(value))
        table_cell(t, "");
    else
        table_cellf(t, "%s%s", print(value, text), unit);
}

static void cell_address(struct table *t, yyjson_val *object)
{
    struct buf text = {0};
    resource_address(object, &text);
    table_cell(t, buf_text(&text));
    buf_free(&text);
}

static void cell_age(struct session *s, struct table *t, yyjson_val *item, const char *name)
{
    char age[HUMAN_SIZE];
    table_cell(t, session_age(s, item, name, age));
}

static int get_named(struct session *s, const char *before, const char *name, const char *after,
                     struct session_reply *ret)
{
    struct buf path = {0};
    buf_add_text(&path, before);
    session_escape(&path, name);
    buf_add_text(&path, after);
    int rc = session_get(s, buf_text(&path), ret);
    buf_free(&path);
    return rc;
}

/* A list that can be asked for one database only. */
static int list_of(struct session *s, const char *path, yyjson_doc **ret)
{
    struct buf full = {0};
    buf_add_text(&full, path);
    if (s->database != NULL) {
        buf_add_text(&full, "?database=");
        session_escape(&full, session_bare(s->database, "database"));
    }
    int rc = session_list(s, buf_text(&full), ret);
    buf_free(&full);
    return rc;
}

/* ---- databases ---- */

static const struct table_column database_columns[] = {
    {"NAME", 0, 0},      {"STATUS", 0, 0},     {"SHARDS", 0, 0},    {"TABLES", 0, 0},
    {"EPOCH", 0, 0},     {"OPERATIONS", 0, 0}, {"SPLIT", 0, 0},     {"MERGE", 1, 0},
    {"REBALANCE", 1, 0}, {"OBJECTIVE", 1, 0},  {"THRESHOLD", 1, 0}, {0}};

static void database_row(struct session *s, struct table *t, yyjson_val *item)
{
    yyjson_val *balance = yyjson_obj_get(item, "balance");
    (void)s;
    table_cell(t, json_get_text(item, "name"));
    cell_state(t, json_get_text(item, "status"));
    cell_number(t, json_get_number(item, "shards"), human_count, "");
    table_cellf(t, "%zu", yyjson_arr_size(yyjson_obj_get(item, "tables")));
    table_cell(t, json_get_text(item, "epoch"));
    cell_number(t, json_get_number(item, "operations_running"), human_count, "");
    table_cell(t, json_get_text(balance, "split"));
    table_cell(t, json_get_text(balance, "merge"));
    table_cell(t, json_get_text(balance, "rebalance"));
    table_cell(t, json_get_text(balance, "objective"));
    cell_number(t, json_get_number(balance, "threshold"), human_count, "");
}

static void named(yyjson_val *item, struct buf *out)
{
    buf_add_text(out, json_get_text(item, "name"));
}

static int database_list(struct session *s, yyjson_doc **ret)
{
    return session_list(s, "/v1/databases", ret);
}

static int database_one(struct session *s, const char *word, struct session_reply *ret)
{
    return get_named(s, "/v1/databases/", word, "", ret);
}

/* ---- shards ---- */

static const struct table_column shard_columns[] = {
    {"DATABASE", 0, 0},  {"NAME", 0, 0},   {"STATE", 0, 0},   {"SHARE", 0, 0},
    {"TX/S", 0, 0},      {"SIZE", 0, 0},   {"PRIMARY", 0, 0}, {"HEALTH", 0, 0},
    {"OPERATION", 0, 0}, {"ACTIVE", 1, 0}, {"WAL/S", 1, 0},   {"PROBE-P99", 1, 0},
    {"BALANCER", 1, 0},  {"EPOCH", 1, 0},  {"RANGES", 1, 0},  {0}};

static void shard_row(struct session *s, struct table *t, yyjson_val *item)
{
    yyjson_val *load = yyjson_obj_get(item, "load"), *last = yyjson_obj_get(load, "last");
    yyjson_val *instance = yyjson_obj_get(item, "instance");
    struct buf ranges = {0};
    (void)s;
    table_cell(t, json_get_text(item, "database"));
    table_cell(t, json_get_text(item, "name"));
    cell_state(t, json_get_text(item, "state"));
    cell_number(t, json_get_number(item, "share"), human_percent, "");
    cell_number(t, json_get_number(last, "query_rate"), human_count, "");
    cell_number(t, json_get_number(instance, "database_bytes"), human_bytes, "");
    cell_address(t, yyjson_obj_get(item, "primary"));
    cell_state(t, json_get_text(instance, "health"));
    table_cell(t, json_get_text(item, "operation"));
    cell_number(t, json_get_number(last, "active_sessions"), human_count, "");
    cell_number(t, json_get_number(last, "wal_rate"), human_bytes, "/s");
    cell_number(t, json_get_number(yyjson_obj_get(load, "probe_ms"), "p99") / 1e3, human_duration, "");
    table_cell(t, json_get_text(yyjson_obj_get(item, "balancer"), "phase"));
    table_cell(t, json_get_text(item, "epoch"));
    resource_ranges(yyjson_obj_get(item, "ranges"), &ranges);
    table_cell(t, buf_text(&ranges));
    buf_free(&ranges);
}

static void of_database(yyjson_val *item, struct buf *out)
{
    buf_printf(out, "%s/%s", json_get_text(item, "database"), json_get_text(item, "name"));
}

typedef int (*each_cb)(struct session *s, const char *database, yyjson_mut_doc *doc, yyjson_mut_val *items);

/* The items of one database, or of all. */
static int each_database(struct session *s, each_cb each, yyjson_doc **ret)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *items = yyjson_mut_obj_add_arr(doc, root, "items");
    yyjson_doc *databases = NULL;
    size_t i, max;
    yyjson_val *item;
    int rc = CLI_OK;
    yyjson_mut_doc_set_root(doc, root);
    if (s->database != NULL)
        rc = each(s, session_bare(s->database, "database"), doc, items);
    else if ((rc = database_list(s, &databases)) == CLI_OK)
        yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(databases), "items"), i, max, item)
        {
            bool routed = strcmp(json_get_text(item, "status"), "provisioned") == 0;
            if (rc == CLI_OK && routed)
                rc = each(s, json_get_text(item, "name"), doc, items);
        }
    yyjson_doc_free(databases);
    *ret = rc == CLI_OK ? yyjson_mut_doc_imut_copy(doc, NULL) : NULL;
    yyjson_mut_doc_free(doc);
    return rc;
}

static int shards_of(struct session *s, const char *database, yyjson_mut_doc *doc, yyjson_mut_val *items)
{
    struct buf path = {0};
    yyjson_doc *list;
    size_t i, max;
    yyjson_val *item;
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, database);
    buf_add_text(&path, "/shards");
    int rc = session_list(s, buf_text(&path), &list);
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(list), "items"), i, max, item)
    {
        yyjson_mut_arr_append(items, yyjson_val_mut_copy(doc, item));
    }
    yyjson_doc_free(list);
    buf_free(&path);
    return rc;
}

static int shard_list(struct session *s, yyjson_doc **ret)
{
    return each_database(s, shards_of, ret);
}

static int shard_one(struct session *s, const char *word, struct session_reply *ret)
{
    char database[SESSION_NAME_SIZE], shard[SESSION_NAME_SIZE];
    struct buf path = {0};
    memset(ret, 0, sizeof *ret);
    int rc = session_shard(s, word, database, shard);
    if (rc != CLI_OK)
        return rc;
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, database);
    buf_add_text(&path, "/shards/");
    rc = get_named(s, buf_text(&path), shard, "", ret);
    buf_free(&path);
    return rc;
}

/* ---- instances ---- */

static const struct table_column instance_columns[] = {{"NAME", 0, 0},     {"DATABASE", 0, 0},
                                                       {"SHARD", 0, 0},    {"ROLE", 0, 0},
                                                       {"HEALTH", 0, 0},   {"ADDRESS", 0, 0},
                                                       {"VERSION", 0, 0},  {"LAG", 0, 0},
                                                       {"AGE", 0, 0},      {"CONNECTIONS", 1, 0},
                                                       {"SIZE", 1, 0},     {"SOURCE", 1, 0},
                                                       {"ASSIGNED", 1, 0}, {"REPORTED", 1, 0},
                                                       {"SYNC", 1, 0},     {"TERM", 1, 0},
                                                       {"BEHIND", 1, 0},   {"TIMELINE", 1, 0},
                                                       {"WAL", 1, 0},      {"SEEN", 1, 0},
                                                       {"ERROR", 1, 0},    {0}};

/* Of one of several: what it is to be, what it is, and whether commits wait for it. */
static void instance_member(struct table *t, yyjson_val *member)
{
    bool there = yyjson_is_obj(member), streams = yyjson_get_bool(yyjson_obj_get(member, "streams"));
    bool sync = yyjson_get_bool(yyjson_obj_get(member, "sync"));
    table_cell(t, json_get_text(member, "assigned"));
    table_cell(t, json_get_text(member, "reported"));
    table_cell(t, !there || yyjson_get_bool(yyjson_obj_get(member, "primary")) ? ""
                  : sync && streams                                            ? "sync"
                  : sync                                                       ? "sync, away"
                  : streams                                                    ? "async"
                                                                               : "away");
    table_cell(t, there ? json_get_text(member, "term") : "");
    cell_number(t, json_get_number(member, "lag_bytes"), human_bytes, "");
}

static void instance_row(struct session *s, struct table *t, yyjson_val *item)
{
    table_cell(t, json_get_text(item, "name"));
    table_cell(t, json_get_text(item, "database"));
    table_cell(t, json_get_text(item, "shard"));
    table_cell(t, json_get_text(item, "role"));
    cell_state(t, json_get_text(item, "health"));
    cell_address(t, item);
    table_cell(t, json_get_text(item, "version"));
    cell_number(t, json_get_number(item, "lag_seconds"), human_duration, "");
    cell_age(s, t, item, "started");
    table_cellf(t, "%d/%d", yyjson_get_int(yyjson_obj_get(item, "connections")),
                yyjson_get_int(yyjson_obj_get(item, "max_connections")));
    cell_number(t, json_get_number(item, "database_bytes"), human_bytes, "");
    table_cell(t, json_get_text(item, "source"));
    instance_member(t, yyjson_obj_get(item, "member"));
    cell_number(t, json_get_number(item, "timeline"), human_count, "");
    table_cell(t, json_get_text(item, "wal_lsn"));
    cell_age(s, t, item, "seen");
    table_cell(t, json_get_text(item, "error"));
}

static int instance_list(struct session *s, yyjson_doc **ret)
{
    return list_of(s, "/v1/instances", ret);
}

static int instance_one(struct session *s, const char *word, struct session_reply *ret)
{
    return get_named(s, "/v1/instances/", word, "", ret);
}

/* ---- operations ---- */

static const struct table_column operation_columns[] = {
    {"ID", 0, 0},      {"KIND", 0, 0},  {"DATABASE", 0, 0}, {"SHARD", 0, 0}, {"TARGET", 0, 0},
    {"STATUS", 0, 0},  {"STATE", 0, 0}, {"PROGRESS", 0, 0}, {"AGE", 0, 0},   {"TOOK", 1, 0},
    {"BLOCKED", 1, 0}, {"ROWS", 1, 0},  {"BYTES", 1, 0},    {"ERROR", 1, 0}, {0}};

static void operation_row(struct session *s, struct table *t, yyjson_val *item)
{
    yyjson_val *record = yyjson_obj_get(item, "record");
    int64_t created = json_get_time(item, "created"), ended = json_get_time(item, "ended");
    double block = json_get_number(record, "write_block_us");
    table_cell(t, json_get_text(item, "id"));
    table_cell(t, json_get_text(item, "kind"));
    table_cell(t, json_get_text(item, "database"));
    table_cell(t, json_get_text(item, "shard"));
    table_cell(t, json_get_text(item, "target"));
    cell_state(t, json_get_text(item, "status"));
    table_cell(t, json_get_text(item, "state"));
    cell_number(t, json_get_number(item, "progress"), human_percent, "");
    cell_age(s, t, item, "created");
    cell_number(t, ended > 0 ? (double)(ended - created) / 1e6 : (double)NAN, human_duration, "");
    cell_number(t, block > 0 ? block / 1e6 : (double)NAN, human_duration, "");
    cell_number(t, json_get_number(record, "copy_rows"), human_count, "");
    cell_number(t, json_get_number(record, "copy_bytes"), human_bytes, "");
    table_cell(t, json_get_text(yyjson_obj_get(item, "error"), "message"));
}

static void operation_name(yyjson_val *item, struct buf *out)
{
    buf_add_text(out, json_get_text(item, "id"));
}

static int operation_list(struct session *s, yyjson_doc **ret)
{
    return list_of(s, "/v1/operations", ret);
}

static int operation_one(struct session *s, const char *word, struct session_reply *ret)
{
    return get_named(s, "/v1/operations/", word, "", ret);
}

/* ---- decisions ---- */

static const struct table_column decision_columns[] = {
    {"NUMBER", 0, 0}, {"AGE", 0, 0},  {"DATABASE", 0, 0},  {"SHARD", 0, 0}, {"KIND", 0, 0},
    {"ACTED", 0, 0},  {"RULE", 0, 0}, {"OPERATION", 0, 0}, {"WHY", 0, 0},   {0}};

static void decision_row(struct session *s, struct table *t, yyjson_val *item)
{
    table_cell(t, json_get_text(item, "number"));
    cell_age(s, t, item, "time");
    table_cell(t, json_get_text(item, "database"));
    table_cell(t, json_get_text(item, "shard"));
    table_cell(t, json_get_text(item, "kind"));
    table_cell(t, yyjson_get_bool(yyjson_obj_get(item, "acted")) ? "yes" : "no");
    table_cellf(t, "R%d", yyjson_get_int(yyjson_obj_get(item, "rule")));
    table_cell(t, json_get_text(item, "operation"));
    table_cell(t, json_get_text(item, "sentence"));
}

static void decision_name(yyjson_val *item, struct buf *out)
{
    buf_add_text(out, json_get_text(item, "number"));
}

static int decision_list(struct session *s, yyjson_doc **ret)
{
    return list_of(s, "/v1/decisions", ret);
}

/* There is no call for one. */
static int decision_one(struct session *s, const char *word, struct session_reply *ret)
{
    yyjson_doc *list = NULL;
    size_t i, max;
    yyjson_val *item;
    memset(ret, 0, sizeof *ret);
    int rc = decision_list(s, &list);
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(list), "items"), i, max, item)
    {
        if (strcmp(json_get_text(item, "number"), word) == 0) {
            ret->doc = list;
            ret->root = item;
            return CLI_OK;
        }
    }
    yyjson_doc_free(list);
    return rc != CLI_OK ? rc : session_fail(s, CLI_NOT_FOUND, "no decision has the number \"%s\"", word);
}

/* ---- routing ---- */

static const struct table_column routing_columns[] = {{"DATABASE", 0, 0}, {"EPOCH", 0, 0},    {"SHARD", 0, 0},
                                                      {"STATE", 0, 0},    {"LO", 0, 0},       {"HI", 0, 0},
                                                      {"PRIMARY", 0, 0},  {"REPLICAS", 0, 0}, {0}};

static void routing_line(struct table *t, yyjson_val *item, yyjson_val *shard, yyjson_val *range)
{
    table_row(t);
    table_cell(t, json_get_text(item, "database"));
    table_cell(t, json_get_text(item, "epoch"));
    table_cell(t, json_get_text(shard, "name"));
    cell_state(t, json_get_text(shard, "state"));
    table_cell(t, json_get_text(range, "lo"));
    table_cell(t, json_get_text(range, "hi"));
    cell_address(t, yyjson_obj_get(shard, "primary"));
    table_cellf(t, "%zu", yyjson_arr_size(yyjson_obj_get(shard, "replicas")));
}

/* One row for each range, so it begins its rows itself. */
static void routing_row(struct session *s, struct table *t, yyjson_val *item)
{
    size_t i, j, max, ranges;
    yyjson_val *shard, *range;
    (void)s;
    yyjson_arr_foreach(yyjson_obj_get(item, "shards"), i, max, shard)
    {
        yyjson_val *list = yyjson_obj_get(shard, "ranges");
        if (yyjson_arr_size(list) == 0)
            routing_line(t, item, shard, NULL);
        yyjson_arr_foreach(list, j, ranges, range)
        {
            routing_line(t, item, shard, range);
        }
    }
}

static void routing_name(yyjson_val *item, struct buf *out)
{
    buf_add_text(out, json_get_text(item, "database"));
}

static int routing_one(struct session *s, const char *word, struct session_reply *ret)
{
    return get_named(s, "/v1/databases/", session_bare(word, "database"), "/routing", ret);
}

static int routing_of(struct session *s, const char *database, yyjson_mut_doc *doc, yyjson_mut_val *items)
{
    struct session_reply reply;
    int rc = routing_one(s, database, &reply);
    if (rc == CLI_OK)
        yyjson_mut_arr_append(items, yyjson_val_mut_copy(doc, reply.root));
    session_reply_free(&reply);
    return rc;
}

static int routing_list(struct session *s, yyjson_doc **ret)
{
    return each_database(s, routing_of, ret);
}

/* ---- applications ---- */

static const struct table_column application_columns[] = {{"NAMESPACE", 0, 0}, {"KIND", 0, 0},
                                                          {"NAME", 0, 0},      {"VARIABLE", 0, 0},
                                                          {"STATE", 0, 0},     {"SERVER", 0, 0},
                                                          {"SHARD", 0, 0},     {"CONTAINER", 1, 0},
                                                          {"FROM", 1, 0},      {"DBNAME", 1, 0},
                                                          {"USER", 1, 0},      {"INSTANCE", 1, 0},
                                                          {"WHY", 1, 0},       {0}};

/* One row for each connection. */
static void application_row(struct session *s, struct table *t, yyjson_val *item)
{
    size_t i, max;
    yyjson_val *c;
    (void)s;
    yyjson_arr_foreach(yyjson_obj_get(item, "connections"), i, max, c)
    {
        const char *database = json_get_text(c, "database"), *shard = json_get_text(c, "shard");
        table_row(t);
        table_cell(t, json_get_text(item, "namespace"));
        table_cell(t, json_get_text(item, "kind"));
        table_cell(t, json_get_text(item, "name"));
        table_cell(t, json_get_text(c, "variable"));
        cell_state(t, json_get_text(c, "state"));
        if (yyjson_is_int(yyjson_obj_get(c, "port")))
            cell_address(t, c);
        else
            table_cell(t, json_get_text(c, "host"));
        table_cellf(t, "%s%s%s", database, shard[0] != '\0' ? "/" : "", shard);
        table_cell(t, json_get_text(c, "container"));
        table_cell(t, json_get_text(c, "from"));
        table_cell(t, json_get_text(c, "dbname"));
        table_cell(t, json_get_text(c, "user"));
        table_cell(t, json_get_text(c, "instance"));
        table_cell(t, json_get_text(c, "why"));
    }
}

static void application_name(yyjson_val *item, struct buf *out)
{
    buf_add_text(out, json_get_text(item, "id"));
}

static int application_list(struct session *s, yyjson_doc **ret)
{
    return list_of(s, "/v1/applications", ret);
}

/* There is no call for one. By id, or by a name that only one has. */
static int application_one(struct session *s, const char *word, struct session_reply *ret)
{
    yyjson_doc *list = NULL;
    size_t i, max, found = 0;
    yyjson_val *item;
    memset(ret, 0, sizeof *ret);
    int rc = application_list(s, &list);
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(list), "items"), i, max, item)
    {
        bool by_id = strcmp(json_get_text(item, "id"), word) == 0;
        if (!by_id && strcmp(json_get_text(item, "name"), word) != 0)
            continue;
        ret->root = item;
        found = by_id ? 1 : found + 1;
        if (by_id)
            break;
    }
    if (rc == CLI_OK && found == 1) {
        ret->doc = list;
        return CLI_OK;
    }
    ret->root = NULL;
    yyjson_doc_free(list);
    if (rc == CLI_OK && found > 1)
        return session_fail(s, CLI_USAGE, "%zu applications have the name \"%s\": say NAMESPACE/KIND/NAME",
                            found, word);
    return rc != CLI_OK ? rc : session_fail(s, CLI_NOT_FOUND, "no application is named \"%s\"", word);
}

/* ---- the table ---- */

#define SECOND ENV_NS_PER_S

const struct resource resources[] = {
    {"database", "databases database db dbs", database_columns, "routing removed operation snapshot", 0,
     database_row, false, named, database_list, database_one, describe_database},
    {"shard", "shards shard", shard_columns, "routing removed operation instance decision snapshot", SECOND,
     shard_row, false, of_database, shard_list, shard_one, describe_shard},
    {"instance", "instances instance", instance_columns, "instance instance_removed snapshot", 0,
     instance_row, false, named, instance_list, instance_one, describe_instance},
    {"operation", "operations operation op ops", operation_columns, "operation snapshot", 0, operation_row,
     false, operation_name, operation_list, operation_one, describe_operation},
    {"decision", "decisions decision", decision_columns, "decision snapshot", 0, decision_row, false,
     decision_name, decision_list, decision_one, NULL},
    {"routing", "routing", routing_columns, "routing removed snapshot", 0, routing_row, true, routing_name,
     routing_list, routing_one, NULL},
    {"application", "applications application apps app", application_columns,
     "instance instance_removed snapshot", 5 * SECOND, application_row, true, application_name,
     application_list, application_one, NULL},
    {0},
};

static bool is_one_of(const char *names, const char *word, size_t length)
{
    for (const char *p = names; *p != '\0'; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n == length && strncmp(p, word, n) == 0)
            return true;
        p += n;
    }
    return false;
}

static void report_unknown(struct session *s, const char *name)
{
    struct nearest n;
    struct buf known = {0};
    nearest_init(&n, name);
    for (const struct resource *r = resources; r->kind != NULL; r++) {
        buf_printf(&known, "%s%.*s", r == resources ? "" : ", ", (int)strcspn(r->names, " "), r->names);
        nearest_offer(&n, r->kind);
    }
    if (n.best != NULL)
        session_fail(s, CLI_USAGE, "there are no \"%s\"; did you mean %s?", name, n.best);
    else
        session_fail(s, CLI_USAGE, "there are no \"%s\"; there are: %s", name, buf_text(&known));
    buf_free(&known);
}

static const struct resource *find(struct session *s, const char *word, size_t length)
{
    char name[64];
    for (const struct resource *r = resources; r->kind != NULL; r++)
        if (is_one_of(r->names, word, length))
            return r;
    snprintf(name, sizeof name, "%.*s", (int)(length < 60 ? length : 60), word);
    report_unknown(s, name);
    return NULL;
}

const struct resource *resource_find(struct session *s, const char *word)
{
    return find(s, word, strlen(word));
}

const struct resource *resource_split(struct session *s, const char *word, const char **ret_name)
{
    size_t length = strcspn(word, "/");
    *ret_name = word[length] == '/' ? word + length + 1 : NULL;
    return find(s, word, length);
}
