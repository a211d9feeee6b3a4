/* A specification as JSON, and its reading back is in database_spec.c. */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "fleet/range.h"
#include "manager/config.h"
#include "manager/config_key.h"

static void print_shards(const struct database_spec *spec, yyjson_mut_doc *doc, yyjson_mut_val *to)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, to, "shards");
    for (int i = 0; i < spec->shard_count; i++) {
        const struct spec_shard *shard = &spec->shards[i];
        yyjson_mut_val *item = yyjson_mut_arr_add_obj(doc, list);
        char range[RANGE_TEXT_SIZE];
        range_format(&shard->range, range);
        yyjson_mut_obj_add_str(doc, item, "name", shard->name);
        yyjson_mut_obj_add_strcpy(doc, item, "range", range);
        if (shard->instance != NULL)
            yyjson_mut_obj_add_str(doc, item, "instance", shard->instance);
    }
}

static void print_tables(const struct database_spec *spec, yyjson_mut_doc *doc, yyjson_mut_val *to)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, to, "tables");
    for (int i = 0; i < spec->table_count; i++) {
        yyjson_mut_val *item = yyjson_mut_arr_add_obj(doc, list);
        yyjson_mut_obj_add_str(doc, item, "name", spec->tables[i].name);
        yyjson_mut_obj_add_str(doc, item, "key", spec->tables[i].key);
    }
}

static void print_balance(const struct database_spec *spec, yyjson_mut_doc *doc, yyjson_mut_val *to)
{
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    if (spec->balance_given == 0)
        return;
    yyjson_mut_val *map = yyjson_mut_obj_add_obj(doc, to, "balance");
    for (size_t i = 0; i < count; i++) {
        struct buf text = {0};
        if ((spec->balance_given & 1u << i) == 0)
            continue;
        config_key_print(&keys[i], &spec->balance, &text);
        if (keys[i].type == CONFIG_INT)
            yyjson_mut_obj_add_int(doc, map, keys[i].path, strtoll(buf_text(&text), NULL, 10));
        else if (keys[i].type == CONFIG_REAL)
            yyjson_mut_obj_add_real(doc, map, keys[i].path, strtod(buf_text(&text), NULL));
        else
            yyjson_mut_obj_add_strcpy(doc, map, keys[i].path, buf_text(&text));
        buf_free(&text);
    }
}

static void print_members(const struct database_spec *spec, yyjson_mut_doc *doc, yyjson_mut_val *body)
{
    yyjson_mut_val *list = NULL;
    for (int i = 0; i < spec->instances; i++) {
        const struct instance_tags *t = &spec->members[i];
        if (!t->no_failover && !t->no_sync && t->priority == 0 && t->delay_ns == 0 && t->follows == 0)
            continue;
        list = list != NULL ? list : yyjson_mut_obj_add_arr(doc, body, "members");
        yyjson_mut_val *member = yyjson_mut_arr_add_obj(doc, list);
        struct buf delay = {0};
        yyjson_mut_obj_add_int(doc, member, "number", i);
        if (t->no_failover)
            yyjson_mut_obj_add_bool(doc, member, "noFailover", true);
        if (t->no_sync)
            yyjson_mut_obj_add_bool(doc, member, "noSync", true);
        if (t->priority != 0)
            yyjson_mut_obj_add_int(doc, member, "priority", t->priority);
        config_print_duration(t->delay_ns, &delay);
        if (t->delay_ns != 0)
            yyjson_mut_obj_add_strcpy(doc, member, "replayDelay", buf_text(&delay));
        if (t->follows != 0)
            yyjson_mut_obj_add_int(doc, member, "follows", t->follows - 1);
        buf_free(&delay);
    }
}

void database_spec_print(const struct database_spec *spec, struct buf *json)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, root, "kind", "ShardedDatabase");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, metadata, "name", spec->name);
    yyjson_mut_val *body = yyjson_mut_obj_add_obj(doc, root, "spec");
    print_shards(spec, doc, body);
    if (spec->instances > 1)
        yyjson_mut_obj_add_int(doc, body, "instances", spec->instances);
    print_members(spec, doc, body);
    print_tables(spec, doc, body);
    if (spec->schema != NULL)
        yyjson_mut_obj_add_str(doc, body, "schema", spec->schema);
    yyjson_mut_obj_add_str(doc, body, "owner", spec->owner);
    print_balance(spec, doc, body);
    size_t length = 0;
    char *text = yyjson_mut_write(doc, 0, &length);
    if (text != NULL)
        buf_add(json, text, length);
    free(text);
    yyjson_mut_doc_free(doc);
}
