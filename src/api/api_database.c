#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"

static void print_balance(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct balance_policy *p)
{
    yyjson_mut_val *b = yyjson_mut_obj_add_obj(doc, object, "balance");
    json_text(doc, b, "split", auto_mode_name(p->split));
    json_text(doc, b, "merge", auto_mode_name(p->merge));
    json_text(doc, b, "rebalance", auto_mode_name(p->rebalance));
    json_text(doc, b, "objective", load_metric_name(p->objective));
    json_real(doc, b, "threshold", p->threshold);
    json_real(doc, b, "relative", p->relative);
    yyjson_mut_obj_add_uint(doc, b, "window", p->window);
    json_real(doc, b, "cooldown_seconds", (double)p->cooldown_ns / 1e9);
    json_real(doc, b, "merge_after_seconds", (double)p->merge_after_ns / 1e9);
    yyjson_mut_obj_add_uint(doc, b, "max_shards", p->max_shards);
    json_real(doc, b, "sample_seconds", (double)p->sample_ns / 1e9);
    json_real(doc, b, "bake_seconds", (double)p->bake_ns / 1e9);
}

static void print_tables(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct routing *r)
{
    yyjson_mut_val *tables = yyjson_mut_obj_add_arr(doc, object, "tables");
    for (size_t i = 0; r != NULL && i < r->table_count; i++) {
        yyjson_mut_val *table = yyjson_mut_arr_add_obj(doc, tables);
        json_text(doc, table, "name", r->tables[i].table);
        json_text(doc, table, "key", r->tables[i].key);
        json_text(doc, table, "type", key_type_name(r->tables[i].type));
    }
}

static unsigned running_of(const struct operations *ops, const char *database)
{
    unsigned running = 0;
    list_each(node, &ops->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        running += op->status == OPERATION_RUNNING && strcmp(op->database, database) == 0;
    }
    return running;
}

void api_print_database(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                        const struct fleet_database *db, bool whole)
{
    const struct routing *r = db->routing;
    json_text(doc, object, "name", db->name);
    json_text(doc, object, "status", r != NULL ? "provisioned" : "pending");
    json_int64(doc, object, "revision", db->spec_revision);
    if (r != NULL)
        json_uint64(doc, object, "epoch", r->epoch);
    else
        yyjson_mut_obj_add_null(doc, object, "epoch");
    yyjson_mut_obj_add_uint(doc, object, "shards", r != NULL ? r->shard_count : 0);
    yyjson_mut_obj_add_uint(doc, object, "operations_running",
                            running_of(api->services.operations, db->name));
    print_tables(doc, object, r);
    print_balance(doc, object, &db->policy);
    yyjson_doc *spec =
        whole && db->spec_json != NULL ? yyjson_read(db->spec_json, strlen(db->spec_json), 0) : NULL;
    if (spec != NULL)
        yyjson_mut_obj_add_val(doc, object, "spec", yyjson_val_mut_copy(doc, yyjson_doc_get_root(spec)));
    yyjson_doc_free(spec);
}

static void print_line(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object, const void *item,
                       const void *data)
{
    (void)data;
    api_print_database(api, doc, object, item, false);
}

void api_get_databases(struct api_call *call)
{
    const struct fleet *fleet = call->api->services.fleet;
    size_t count = 0;
    list_each(node, &fleet->databases)
    {
        count++;
    }
    struct api_named *items = mem_array(count + 1, sizeof *items);
    count = 0;
    list_each(node, &fleet->databases)
    {
        const struct fleet_database *db = list_item(node, struct fleet_database, node);
        items[count++] = (struct api_named){db->name, db};
    }
    api_respond_named(call, "databases", items, count, print_line, NULL);
    free(items);
}

void api_get_database(struct api_call *call)
{
    const struct fleet_database *db = api_find_database(call);
    if (db == NULL)
        return;
    char etag[32];
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_database(call->api, doc, root, db, true);
    snprintf(etag, sizeof etag, "\"%" PRId64 "\"", db->spec_revision);
    http_set_header(call->ex, "ETag", etag);
    api_respond(call, 200, doc);
}

void api_get_routing(struct api_call *call)
{
    const struct fleet_database *db = api_find_routed(call);
    if (db == NULL)
        return;
    char etag[32];
    snprintf(etag, sizeof etag, "\"%" PRIu64 "\"", db->routing->epoch);
    http_set_header(call->ex, "ETag", etag);
    http_set_header(call->ex, "Cache-Control", "no-cache"); /* keep it, but ask each time */
    if (api_etag_matches(http_request_header(call->ex, "if-none-match"), etag)) {
        http_respond(call->ex, 304, NULL, NULL, 0);
        return;
    }
    struct buf json = {0};
    routing_print(db->routing, &json);
    http_respond(call->ex, 200, "application/json", json.data, json.length);
    buf_free(&json);
}

/* The hash of key= in the table of table=; false if answered. */
static bool hash_of_query(struct api_call *call, const struct routing *r, int64_t *ret)
{
    char key[4001], name[256];
    struct err err = {0};
    enum api_query got = api_query_get(call, "key", key, sizeof key);
    if (got == QUERY_ABSENT)
        http_problem(call->ex, 400, "invalid", "query parameter \"key\" is required");
    if (got != QUERY_GIVEN || api_query_get(call, "table", name, sizeof name) == QUERY_WRONG)
        return false;
    const struct routing_table_key *table = api_find_table(r, name, &err);
    if (table == NULL || hash_key(table->type, key, strlen(key), ret, &err) != 0) {
        http_problem_err(call->ex, &err);
        return false;
    }
    return true;
}

void api_get_route(struct api_call *call)
{
    int64_t hash;
    const struct fleet_database *db = api_find_routed(call);
    if (db == NULL || !hash_of_query(call, db->routing, &hash))
        return;
    const struct routing_shard *shard = routing_owner(db->routing, hash);
    if (shard == NULL) {
        http_problem(call->ex, 503, "unavailable", "no shard owns the hash of this key");
        return;
    }
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_text(doc, root, "database", db->name);
    json_int64(doc, root, "hash", hash);
    json_text(doc, root, "shard", shard->name);
    json_text(doc, root, "state", shard_state_name(shard->state));
    api_print_address(doc, root, "primary", &shard->primary);
    json_uint64(doc, root, "shard_epoch", shard->epoch);
    json_uint64(doc, root, "epoch", db->routing->epoch);
    api_respond(call, 200, doc);
}
