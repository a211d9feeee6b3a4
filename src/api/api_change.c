/* Requests that change something. They come in by the admin port only. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/api_impl.h"
#include "base/mem.h"
#include "base/text.h"
#include "operation/drain.h"
#include "operation/migrate.h"
#include "operation/move_op.h"

#define OPERATION_BODY_MAX   (16 * 1024)
#define LOCK_TIMEOUT_MOST_NS (3600 * ENV_NS_PER_S)
#define ATTEMPTS_MOST        1000

/* False if answered. */
bool api_leads(struct api_call *call)
{
    if (call->api->services.operations->services.term > 0)
        return true;
    http_set_header(call->ex, "Retry-After", "1");
    http_problem(call->ex, 503, "not_leader", "this manager does not lead: only the leader changes anything");
    return false;
}

/* Whether Content-Type, if given, is one of `types`; false if answered. */
static bool content_is(struct api_call *call, const char *const *types, const char *known)
{
    const char *given = http_request_header(call->ex, "content-type");
    if (given == NULL)
        return true;
    size_t length = strcspn(given, "; \t");
    for (; *types != NULL; types++)
        if (strlen(*types) == length && strncasecmp(*types, given, length) == 0)
            return true;
    http_problem(call->ex, 415, "unsupported_media_type", "the Content-Type is to be %s", known);
    return false;
}

/* If-Match and If-None-Match against the specification's revision (db NULL = none); false if answered. */
static bool precondition_holds(struct api_call *call, const struct fleet_database *db)
{
    const char *match = http_request_header(call->ex, "if-match");
    const char *none = http_request_header(call->ex, "if-none-match");
    char etag[32] = "";
    if (db != NULL)
        snprintf(etag, sizeof etag, "\"%" PRId64 "\"", db->spec_revision);
    bool holds = match == NULL || (db != NULL && api_etag_matches(match, etag));
    if (none != NULL && db != NULL && api_etag_matches(none, etag))
        holds = false;
    if (!holds)
        http_problem(call->ex, 412, "precondition_failed",
                     "the specification is at revision %" PRId64 " (0 = there is none)",
                     db != NULL ? db->spec_revision : 0);
    return holds;
}

/* ---- databases ---- */

struct api_waiting {
    struct list node; /* in api.waiting */
    struct api *api;  /* NULL once it is gone */
    struct http_exchange *ex;
    char *database;
    bool dry_run;
};

void api_waiting_forget(struct api *api)
{
    list_each(node, &api->waiting)
    {
        list_item(node, struct api_waiting, node)->api = NULL;
        list_remove(node);
    }
}

static struct api_waiting *waiting_new(struct api_call *call, bool dry_run)
{
    struct api_waiting *w = mem_zalloc(sizeof *w);
    w->api = call->api;
    w->ex = call->ex;
    w->database = mem_strdup(call->params[0]);
    w->dry_run = dry_run;
    list_append(&call->api->waiting, &w->node);
    return w;
}

static void waiting_free(struct api_waiting *w)
{
    list_remove(&w->node);
    free(w->database);
    free(w);
}

static void respond_dry_run(struct api_call *call, const char *database, bool created)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_text(doc, root, "name", database);
    yyjson_mut_obj_add_bool(doc, root, "dry_run", true);
    yyjson_mut_obj_add_bool(doc, root, "would_create", created);
    api_respond(call, 200, doc);
}

static void respond_applied(struct api_call *call, const struct api_answer *answer, const char *database)
{
    const struct fleet_database *db = fleet_find_database(call->api->services.fleet, database);
    if (db == NULL) {
        http_respond(call->ex, 204, NULL, NULL, 0);
        return;
    }
    if (answer->created) {
        char location[API_NAME_SIZE + 32];
        snprintf(location, sizeof location, "/v1/databases/%.100s", database);
        http_set_header(call->ex, "Location", location);
    }
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_database(call->api, doc, root, db, true);
    api_respond(call, answer->created ? 201 : 200, doc);
}

static void on_answer(const struct api_answer *answer, void *data)
{
    struct api_waiting *w = data;
    struct api_call call = {.api = w->api, .ex = w->ex};
    const struct operation *op = NULL;
    if (w->api != NULL && answer->operation != NULL)
        op = operations_find(w->api->services.operations, answer->operation);
    if (answer->err != NULL)
        http_problem_err(w->ex, answer->err);
    else if (w->api == NULL)
        http_problem(w->ex, 503, "unavailable", "shutting down");
    else if (w->dry_run)
        respond_dry_run(&call, w->database, answer->created);
    else if (op != NULL)
        api_respond_accepted(&call, op);
    else
        respond_applied(&call, answer, w->database);
    waiting_free(w);
}

void api_put_database(struct api_call *call)
{
    static const char *const types[] = {"application/json",
                                        "application/yaml",
                                        "application/x-yaml",
                                        "text/yaml",
                                        "text/x-yaml",
                                        "text/plain",
                                        NULL};
    const struct api_services *s = &call->api->services;
    struct err err = {0};
    bool dry_run;
    if (!api_query_flag(call, "dryRun", &dry_run) || !api_leads(call) ||
        !content_is(call, types, "application/yaml or application/json"))
        return;
    if (!text_is_name(call->params[0])) {
        http_problem(call->ex, 400, "invalid",
                     "a database's name has letters a-z, digits and inner hyphens, at most 63");
        return;
    }
    if (call->request->body_length == 0) {
        http_problem(call->ex, 400, "invalid", "the body is to be a ShardedDatabase, as YAML or JSON");
        return;
    }
    if (!precondition_holds(call, fleet_find_database(s->fleet, call->params[0])))
        return;
    struct api_waiting *w = waiting_new(call, dry_run);
    if (s->apply_database(s->data, call->params[0], call->request->body, call->request->body_length, dry_run,
                          on_answer, w, &err) != 0) {
        http_problem_err(call->ex, &err);
        waiting_free(w);
    }
}

void api_delete_database(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    struct err err = {0};
    if (!api_leads(call))
        return;
    const struct fleet_database *db = api_find_database(call);
    if (db == NULL || !precondition_holds(call, db))
        return;
    struct api_waiting *w = waiting_new(call, false);
    if (s->delete_database(s->data, call->params[0], on_answer, w, &err) != 0) {
        http_problem_err(call->ex, &err);
        waiting_free(w);
    }
}

/* ---- operations ---- */

static int start_drain(struct operations *operations, const struct fleet_database *db,
                       const struct api_move_body *b, struct operation **ret, struct err *err)
{
    const struct drain_request request = {.database = db->name,
                                          .shard = b->shard,
                                          .target = b->target[0] != '\0' ? b->target : NULL,
                                          .dry_run = b->dry_run,
                                          .allow_ddl = b->allow_ddl,
                                          .bake_ns = b->has_bake ? b->bake_ns : db->policy.bake_ns};
    if (b->has_key || b->has_at || b->has_lo || b->has_hi || b->table[0] != '\0')
        return err_set(
            err, ERRC_INVALID,
            "a drain moves all of the shard: \"key\", \"table\", \"at\", \"lo\" and \"hi\" have no place");
    return drain_start(operations, &request, ret, err);
}

/* Of the body rather than of the path: 404 would say that the path is wrong. */
void api_refuse(struct api_call *call, const struct err *err)
{
    if (err->code == ERRC_NOT_FOUND || err->code == ERRC_UNSUPPORTED)
        http_problem(call->ex, 422, err_code_name(err->code), "%s", err->message);
    else
        http_problem_err(call->ex, err);
}

static int start_move(struct operations *operations, const struct fleet_database *db,
                      const struct api_move_body *body, const char *reason, struct operation **ret,
                      struct err *err)
{
    struct api_move_plan plan;
    if (api_move_plan(db->routing, body, &plan, err) != 0)
        return (int)err->code;
    const struct move_request request = {
        .kind = (enum move_kind)plan.kind,
        .database = db->name,
        .source = body->shard,
        .target = plan.target,
        .range = plan.range,
        .retire_source = plan.retire,
        .dry_run = body->dry_run,
        .allow_ddl = body->allow_ddl,
        .bake_ns = body->has_bake ? body->bake_ns : db->policy.bake_ns,
        .reason = reason,
    };
    return move_op_start(operations, &request, ret, err);
}

int api_move_start(struct operations *operations, const struct fleet_database *db, const char *text,
                   const char *reason, struct operation **ret, struct err *err)
{
    struct api_move_body body;
    if (operations->services.term == 0)
        return err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    if (db->routing == NULL)
        return err_set(err, ERRC_UNAVAILABLE, "database %s has no shards yet", db->name);
    int rc = api_move_parse(text, strlen(text), &body, err);
    return rc != 0 ? rc : start_move(operations, db, &body, reason, ret, err);
}

static bool key_is_sound(const char *key)
{
    size_t length = strlen(key);
    if (length == 0 || length > API_KEY_LENGTH)
        return false;
    for (const char *p = key; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~')
            return false;
    return true;
}

/* False if answered: the key was used before, or cannot be one. */
static bool key_is_new(struct api_call *call, const char *key)
{
    struct api *api = call->api;
    const char *id = NULL;
    if (!key_is_sound(key)) {
        http_problem(call->ex, 400, "invalid", "Idempotency-Key has 1 to %d visible ASCII characters",
                     API_KEY_LENGTH);
        return false;
    }
    enum api_key_result found = api_keys_find(api->keys, key, call->request->path, call->request->body,
                                              loop_now(api->services.loop), &id);
    const struct operation *op = found == KEY_SAME ? operations_find(api->services.operations, id) : NULL;
    if (op != NULL) {
        http_set_header(call->ex, "Idempotent-Replayed", "true");
        api_respond_accepted(call, op);
    } else if (found == KEY_SAME)
        http_problem(call->ex, 410, "gone", "operation %s of this Idempotency-Key is no longer kept", id);
    else if (found == KEY_OTHER)
        http_problem(call->ex, 422, "key_reused", "this Idempotency-Key came with another request before");
    return found == KEY_NEW;
}

void api_post_operation(struct api_call *call)
{
    static const char *const types[] = {"application/json", NULL};
    const struct http_request *request = call->request;
    const char *key = http_request_header(call->ex, "idempotency-key");
    struct api_move_body body;
    struct err err = {0};
    if (!api_leads(call) || !content_is(call, types, "application/json"))
        return;
    if (request->body_length > OPERATION_BODY_MAX) {
        http_problem(call->ex, 413, "too_large", "the body is above %d bytes", OPERATION_BODY_MAX);
        return;
    }
    const struct fleet_database *db = api_find_routed(call);
    if (db == NULL || (key != NULL && !key_is_new(call, key)))
        return;
    if (api_move_parse(request->body, request->body_length, &body, &err) != 0) {
        http_problem_err(call->ex, &err);
        return;
    }
    struct operation *op;
    struct operations *operations = call->api->services.operations;
    int rc = strcmp(body.kind, "drain") == 0
                 ? start_drain(operations, db, &body, &op, &err)
                 : start_move(operations, db, &body, "asked for through the API", &op, &err);
    if (rc != 0) {
        api_refuse(call, &err);
        return;
    }
    if (key != NULL)
        api_keys_add(call->api->keys, key, request->path, request->body, loop_now(call->api->services.loop),
                     op->id);
    api_respond_accepted(call, op);
}

/* The operation that the path names, while it runs; NULL if answered. */
static struct operation *running_operation(struct api_call *call)
{
    struct operation *op = operations_find(call->api->services.operations, call->params[0]);
    if (!api_leads(call))
        return NULL;
    if (op == NULL)
        http_problem(call->ex, 404, "not_found", "no operation has the id \"%s\"", call->params[0]);
    else if (op->status != OPERATION_RUNNING)
        http_problem(call->ex, 409, "conflict", "operation %s has ended: %s", op->id,
                     operation_status_name(op->status));
    return op != NULL && op->status == OPERATION_RUNNING ? op : NULL;
}

/* ---- migrations ---- */

/* A number of the query from 1 to `most`; absent leaves *ret. False if answered. */
static bool query_number(struct api_call *call, const char *name, uint64_t most, unsigned *ret)
{
    char text[24];
    uint64_t value;
    enum api_query given = api_query_get(call, name, text, sizeof text);
    if (given == QUERY_ABSENT)
        return true;
    if (given == QUERY_WRONG)
        return false;
    if (!text_to_uint64(text, &value) || value == 0 || value > most) {
        http_problem(call->ex, 400, "invalid", "%s is to be a number from 1 to %" PRIu64, name, most);
        return false;
    }
    *ret = (unsigned)value;
    return true;
}

static bool query_lock_timeout(struct api_call *call, unsigned *ret_ms)
{
    char text[24];
    uint64_t ns;
    enum api_query given = api_query_get(call, "lockTimeout", text, sizeof text);
    if (given == QUERY_ABSENT)
        return true;
    if (given == QUERY_WRONG)
        return false;
    if (!text_to_duration(text, &ns) || ns < ENV_NS_PER_MS || ns > LOCK_TIMEOUT_MOST_NS) {
        http_problem(call->ex, 400, "invalid", "lockTimeout is to be a duration from 1ms to 1h, as \"2s\"");
        return false;
    }
    *ret_ms = (unsigned)(ns / ENV_NS_PER_MS);
    return true;
}

void api_post_migration(struct api_call *call)
{
    static const char *const types[] = {"application/sql", "text/plain", NULL};
    const struct http_request *request = call->request;
    const char *key = http_request_header(call->ex, "idempotency-key");
    struct migrate_request q = {0};
    struct operation *op;
    struct err err = {0};
    if (!api_query_flag(call, "dryRun", &q.dry_run) || !query_lock_timeout(call, &q.lock_timeout_ms) ||
        !query_number(call, "attempts", ATTEMPTS_MOST, &q.attempts) || !api_leads(call) ||
        !content_is(call, types, "application/sql"))
        return;
    if (strlen(request->body) != request->body_length) {
        http_problem(call->ex, 400, "invalid", "the script holds a NUL character");
        return;
    }
    const struct fleet_database *db = api_find_routed(call);
    if (db == NULL || (key != NULL && !key_is_new(call, key)))
        return;
    q.database = db->name;
    q.script = request->body;
    if (migrate_start(call->api->services.operations, &q, &op, &err) != 0) {
        api_refuse(call, &err);
        return;
    }
    if (key != NULL)
        api_keys_add(call->api->keys, key, request->path, request->body, loop_now(call->api->services.loop),
                     op->id);
    api_respond_accepted(call, op);
}

/* ---- going back, and on ---- */

static void on_written(struct operation *op, const struct err *err, void *data)
{
    struct api_waiting *w = data;
    struct api_call call = {.api = w->api, .ex = w->ex};
    struct err local = {0};
    if (w->api == NULL)
        http_problem(w->ex, 503, "unavailable", "shutting down");
    else if (err == NULL)
        api_respond_accepted(&call, op);
    else {
        err_copy(&local, err);
        err_wrap(&local, "%s does so, but that could not be written down: a restart would forget it", op->id);
        http_problem_err(w->ex, &local);
    }
    waiting_free(w);
}

static void started(struct api_waiting *w, int rc, const struct err *err)
{
    if (rc == 0)
        return;
    http_problem_err(w->ex, err);
    waiting_free(w);
}

void api_post_cancel(struct api_call *call)
{
    struct operation *op = running_operation(call);
    struct err err = {0};
    if (op == NULL)
        return;
    struct api_waiting *w = waiting_new(call, false);
    started(w, op->kind->cancel(op, on_written, w, &err), &err);
}

void api_post_rollback(struct api_call *call)
{
    struct operation *op = running_operation(call);
    struct err err = {0};
    bool accept = false;
    if (op == NULL || !api_query_flag(call, "acceptDifferences", &accept))
        return;
    struct api_waiting *w = waiting_new(call, false);
    int rc = op->kind->rollback != NULL ? op->kind->rollback(op, accept, on_written, w, &err)
                                        : op->kind->cancel(op, on_written, w, &err);
    started(w, rc, &err);
}

void api_post_resume(struct api_call *call)
{
    struct operation *op = running_operation(call);
    struct err err = {0};
    bool accept = false;
    if (op == NULL || !api_query_flag(call, "acceptDifferences", &accept))
        return;
    if (op->kind->go_on != NULL) {
        struct api_waiting *w = waiting_new(call, false);
        started(w, op->kind->go_on(op, accept, on_written, w, &err), &err);
    } else if (migrate_continue(op, &err) != 0)
        http_problem_err(call->ex, &err);
    else
        api_respond_accepted(call, op);
}
