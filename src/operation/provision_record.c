/* The journal document of provision and retire. It holds no secret: accesses are looked up again. */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "operation/document.h"
#include "operation/provision_internal.h"

void provision_print(const struct provision *p, struct buf *json)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "id", p->op.id);
    yyjson_mut_obj_add_str(doc, root, "kind", p->retiring ? "retire" : "provision");
    yyjson_mut_obj_add_str(doc, root, "database", p->op.database);
    yyjson_mut_obj_add_str(doc, root, "state", sm_name(&p->sm));
    document_add_number(doc, root, "created_us", p->op.created_us);
    document_add_number(doc, root, "ended_us",
                        p->sm.table[p->sm.now].final ? loop_wall(p->op.owner->services.loop) : 0);
    yyjson_mut_obj_add_str(doc, root, "error_code", err_code_name(p->op.error.code));
    yyjson_mut_obj_add_str(doc, root, "error", p->op.error.message);
    yyjson_mut_obj_add_str(doc, root, "owner", p->owner_role != NULL ? p->owner_role : "");
    if (p->schema != NULL)
        yyjson_mut_obj_add_str(doc, root, "schema", p->schema);
    yyjson_mut_val *shards = yyjson_mut_obj_add_arr(doc, root, "shards");
    for (int i = 0; !p->retiring && i < p->shard_count; i++) { /* retiring asks the fleet */
        yyjson_mut_val *shard = yyjson_mut_arr_add_obj(doc, shards);
        yyjson_mut_obj_add_str(doc, shard, "name", p->shards[i].name);
        document_add_number(doc, shard, "lo", p->shards[i].range.lo);
        document_add_number(doc, shard, "hi", p->shards[i].range.hi);
        if (p->shards[i].instance != NULL)
            yyjson_mut_obj_add_str(doc, shard, "instance", p->shards[i].instance);
    }
    yyjson_mut_val *tables = yyjson_mut_obj_add_arr(doc, root, "tables");
    for (int i = 0; i < p->table_count; i++) {
        yyjson_mut_val *table = yyjson_mut_arr_add_obj(doc, tables);
        yyjson_mut_obj_add_str(doc, table, "name", p->tables[i].name);
        yyjson_mut_obj_add_str(doc, table, "key", p->tables[i].key);
    }
    document_end(doc, json);
}

static int parse_shards(yyjson_val *array, struct provision *p, struct err *err)
{
    size_t i, max;
    yyjson_val *item;
    p->shards = mem_array(yyjson_arr_size(array), sizeof *p->shards);
    yyjson_arr_foreach(array, i, max, item)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(item, "name"));
        const char *lo = yyjson_get_str(yyjson_obj_get(item, "lo"));
        const char *hi = yyjson_get_str(yyjson_obj_get(item, "hi"));
        struct provisioned_shard *s = &p->shards[i];
        if (name == NULL || lo == NULL || hi == NULL || !text_to_int64(lo, &s->range.lo) ||
            !text_to_int64(hi, &s->range.hi))
            return err_set(err, ERRC_CORRUPT, "shard %zu is malformed", i);
        s->name = mem_strdup(name);
        s->instance = mem_strdup(yyjson_get_str(yyjson_obj_get(item, "instance")));
        p->shard_count++;
    }
    return 0;
}

static int parse_tables(yyjson_val *array, struct provision *p, struct err *err)
{
    size_t i, max;
    yyjson_val *item;
    p->tables = mem_array(yyjson_arr_size(array), sizeof *p->tables);
    yyjson_arr_foreach(array, i, max, item)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(item, "name"));
        const char *key = yyjson_get_str(yyjson_obj_get(item, "key"));
        if (name == NULL || key == NULL)
            return err_set(err, ERRC_CORRUPT, "table %zu is malformed", i);
        p->tables[i] = (struct provisioned_table){mem_strdup(name), mem_strdup(key), NULL};
        p->table_count++;
    }
    return 0;
}

static int resume_root(struct operations *ops, yyjson_val *root, int64_t revision, struct err *err)
{
    const char *id = yyjson_get_str(yyjson_obj_get(root, "id"));
    const char *kind = yyjson_get_str(yyjson_obj_get(root, "kind"));
    const char *database = yyjson_get_str(yyjson_obj_get(root, "database"));
    const char *state_name = yyjson_get_str(yyjson_obj_get(root, "state"));
    const char *message = yyjson_get_str(yyjson_obj_get(root, "error"));
    const char *created = yyjson_get_str(yyjson_obj_get(root, "created_us"));
    const char *ended = yyjson_get_str(yyjson_obj_get(root, "ended_us"));
    int state = state_name != NULL ? provision_state_find(state_name) : -1;
    if (id == NULL || strlen(id) >= OPERATION_ID_SIZE || kind == NULL || database == NULL || state < 0 ||
        created == NULL)
        return err_set(err, ERRC_CORRUPT, "a member is missing");
    struct provision *p = provision_new(ops, database, id, strcmp(kind, "retire") == 0);
    p->op.revision = revision;
    text_to_int64(created, &p->op.created_us);
    p->owner_role = mem_strdup(yyjson_get_str(yyjson_obj_get(root, "owner")));
    p->schema = mem_strdup(yyjson_get_str(yyjson_obj_get(root, "schema")));
    /* agents that were to get a primary may have ended with the machine: they are ensured again */
    p->sm.now = state == PROVISION_PRIMARIES ? PROVISION_INSTANCES : state;
    if (message != NULL && message[0] != '\0')
        err_set(&p->op.error, ERRC_INTERNAL, "%s", message);
    int rc = p->retiring ? 0 : parse_shards(yyjson_obj_get(root, "shards"), p, err);
    if (rc == 0)
        rc = parse_tables(yyjson_obj_get(root, "tables"), p, err);
    if (rc != 0 || p->sm.table[state].final) {
        p->stopped = true;
        p->op.status = rc == 0 && state == PROVISION_DONE ? OPERATION_DONE : OPERATION_FAILED;
        if (ended != NULL)
            text_to_int64(ended, &p->op.ended_us);
        return rc;
    }
    provision_begin(p);
    return 0;
}

int provision_resume(struct operations *ops, const char *json, int64_t revision, struct err *err)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    int rc = resume_root(ops, yyjson_doc_get_root(doc), revision, err);
    yyjson_doc_free(doc);
    return rc;
}
