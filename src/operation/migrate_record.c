/* The journal document of a migration. */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "operation/document.h"
#include "operation/migrate_internal.h"

static const char *const what_names[] = {"waiting", "applied", "failed"};

static void add_shards(const struct migrate *m, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    yyjson_mut_val *shards = yyjson_mut_obj_add_arr(doc, root, "shards");
    for (int i = 0; i < m->shard_count; i++) {
        yyjson_mut_val *shard = yyjson_mut_arr_add_obj(doc, shards);
        yyjson_mut_obj_add_str(doc, shard, "name", m->shards[i].name);
        yyjson_mut_obj_add_str(doc, shard, "state", what_names[m->shards[i].what]);
        if (m->shards[i].error != NULL)
            yyjson_mut_obj_add_str(doc, shard, "error", m->shards[i].error);
    }
}

void migrate_print(const struct migrate *m, struct buf *json)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "id", m->op.id);
    yyjson_mut_obj_add_str(doc, root, "kind", "migrate");
    yyjson_mut_obj_add_str(doc, root, "database", m->op.database);
    yyjson_mut_obj_add_str(doc, root, "state", sm_name(&m->sm));
    document_add_number(doc, root, "created_us", m->op.created_us);
    document_add_number(doc, root, "ended_us", m->op.ended_us);
    yyjson_mut_obj_add_str(doc, root, "error_code", err_code_name(m->op.error.code));
    yyjson_mut_obj_add_str(doc, root, "error", m->op.error.message);
    yyjson_mut_obj_add_str(doc, root, "script", m->script);
    document_add_number(doc, root, "script_bytes", (int64_t)strlen(m->script));
    document_add_number(doc, root, "lock_timeout_ms", m->lock_timeout_ms);
    document_add_number(doc, root, "attempts", m->attempts);
    yyjson_mut_obj_add_bool(doc, root, "dry_run", m->dry_run);
    add_shards(m, doc, root);
    document_end(doc, json);
}

static int parse_shards(yyjson_val *array, struct migrate *m, struct err *err)
{
    size_t i, max;
    yyjson_val *item;
    m->shards = mem_array(yyjson_arr_size(array), sizeof *m->shards);
    yyjson_arr_foreach(array, i, max, item)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(item, "name"));
        const char *state = yyjson_get_str(yyjson_obj_get(item, "state"));
        int what = 0;
        while (state != NULL && what <= MIGRATED_FAILED && strcmp(what_names[what], state) != 0)
            what++;
        if (name == NULL || state == NULL || what > MIGRATED_FAILED)
            return err_set(err, ERRC_CORRUPT, "shard %zu is malformed", i);
        m->shards[i] = (struct migrated_shard){mem_strdup(name), (enum migrated)what,
                                               mem_strdup(yyjson_get_str(yyjson_obj_get(item, "error")))};
        m->shard_count++;
    }
    return 0;
}

static int parse_root(struct operations *ops, yyjson_val *root, struct migrate **ret, struct err *err)
{
    const char *id = yyjson_get_str(yyjson_obj_get(root, "id"));
    const char *database = yyjson_get_str(yyjson_obj_get(root, "database"));
    const char *state_name = yyjson_get_str(yyjson_obj_get(root, "state"));
    const char *script = yyjson_get_str(yyjson_obj_get(root, "script"));
    const char *message = yyjson_get_str(yyjson_obj_get(root, "error"));
    int state = state_name != NULL ? migrate_state_find(state_name) : -1;
    int64_t created, ended, lock_timeout_ms, attempts;
    if (id == NULL || strlen(id) >= OPERATION_ID_SIZE || database == NULL || state < 0 || script == NULL ||
        !document_number(root, "created_us", &created) || !document_number(root, "ended_us", &ended) ||
        !document_number(root, "lock_timeout_ms", &lock_timeout_ms) ||
        !document_number(root, "attempts", &attempts))
        return err_set(err, ERRC_CORRUPT, "a member is missing");
    struct migrate *m = migrate_new(ops, database, id);
    m->script = mem_strdup(script);
    m->op.created_us = created;
    m->op.ended_us = ended;
    m->lock_timeout_ms = (unsigned)lock_timeout_ms;
    m->attempts = (unsigned)attempts;
    m->dry_run = yyjson_get_bool(yyjson_obj_get(root, "dry_run"));
    m->sm.now = state;
    if (message != NULL && message[0] != '\0')
        err_set(&m->op.error, ERRC_INTERNAL, "%s", message);
    *ret = m;
    return parse_shards(yyjson_obj_get(root, "shards"), m, err);
}

int migrate_parse(struct operations *ops, const char *json, struct migrate **ret, struct err *err)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    *ret = NULL;
    int rc = parse_root(ops, yyjson_doc_get_root(doc), ret, err);
    yyjson_doc_free(doc);
    return rc;
}
