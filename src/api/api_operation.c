#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"
#include "base/text.h"
#include "operation/drain.h"
#include "operation/failover_op.h"
#include "operation/migrate.h"
#include "operation/move_op.h"
#include "operation/provision.h"

/* The journal's document. NULL only when it cannot be parsed. */
static yyjson_doc *record_of(const struct operation *op)
{
    struct buf json = {0};
    op->kind->print(op, &json);
    yyjson_doc *record = yyjson_read(buf_text(&json), json.length, 0);
    buf_free(&json);
    return record;
}

static const char *member(yyjson_doc *record, const char *name)
{
    return yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(record), name));
}

void api_operation_state(const struct operation *op, char out[API_STATE_SIZE])
{
    const char *state = "";
    if (move_op_is(op))
        state = move_state_name(move_op_record(op)->state);
    else if (provision_is(op))
        state = provision_state_name(op);
    else if (migrate_is(op))
        state = migrate_state_name(op);
    else if (drain_is(op))
        state = drain_state_name(op);
    else if (failover_op_is(op)) {
        struct failover_op_facts facts;
        failover_op_facts(op, &facts);
        state = facts.state;
    }
    snprintf(out, API_STATE_SIZE, "%s", state);
}

static double progress_of(const struct operation *op, const char *state, double *ret_eta)
{
    static const struct {
        const char *state;
        double reached;
    } steps[] = {{"instances", 0.1}, {"primaries", 0.4}, {"schema", 0.7},  {"routing", 0.9}, /* provision */
                 {"claim", 0.1},     {"fence", 0.2},     {"confirm", 0.3}, {"fetch", 0.4},   /* failover */
                 {"lease", 0.5},     {"chosen", 0.5},    {"promote", 0.6}, {"settle", 0.7},
                 {"repoint", 0.8},   {"open", 0.8},      {"route", 0.9}};
    *ret_eta = (double)NAN;
    if (op->status == OPERATION_DONE)
        return 1;
    if (move_op_is(op))
        return move_op_progress(op, ret_eta);
    if (migrate_is(op))
        return migrate_progress(op);
    if (drain_is(op))
        return drain_progress(op);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        if (strcmp(steps[i].state, state) == 0)
            return steps[i].reached;
    return 0;
}

static void print_error(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct err *err)
{
    if (err->code == ERRC_NONE) {
        yyjson_mut_obj_add_null(doc, object, "error");
        return;
    }
    yyjson_mut_val *error = yyjson_mut_obj_add_obj(doc, object, "error");
    json_text(doc, error, "code", err_code_name(err->code));
    json_text(doc, error, "message", err->message);
    json_text(doc, error, "sqlstate", err->sqlstate[0] != '\0' ? err->sqlstate : NULL);
}

/* The record without what has a place of its own, and without SQL that people gave: it is long, and may hold
 * what is not for everybody. */
static void print_record(yyjson_mut_doc *doc, yyjson_mut_val *object, yyjson_doc *record, bool findings)
{
    yyjson_mut_val *copy = yyjson_val_mut_copy(doc, yyjson_doc_get_root(record));
    yyjson_mut_val *found = yyjson_mut_obj_remove_key(copy, "findings");
    yyjson_mut_obj_remove_key(copy, "schema");
    yyjson_mut_obj_remove_key(copy, "script");
    if (findings && yyjson_mut_is_arr(found))
        yyjson_mut_obj_add_val(doc, object, "findings", found);
    else if (findings)
        yyjson_mut_obj_add_arr(doc, object, "findings");
    if (yyjson_mut_is_obj(copy))
        yyjson_mut_obj_add_val(doc, object, "record", copy);
    else
        yyjson_mut_obj_add_obj(doc, object, "record");
}

void api_print_operation(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct operation *op,
                         bool findings)
{
    yyjson_doc *record = record_of(op);
    const char *kind = member(record, "kind"), *target = member(record, "target");
    char state[API_STATE_SIZE];
    double eta, progress;
    api_operation_state(op, state);
    progress = progress_of(op, state, &eta);
    json_text(doc, object, "id", op->id);
    json_text(doc, object, "kind", kind != NULL ? kind : op->kind->name);
    json_text(doc, object, "database", op->database);
    json_text(doc, object, "shard", op->shard);
    json_text(doc, object, "target", target != NULL && target[0] != '\0' ? target : NULL);
    json_text(doc, object, "status", operation_status_name(op->status));
    json_text(doc, object, "state", state);
    json_real(doc, object, "progress", progress);
    json_real(doc, object, "eta_seconds", eta >= 0 ? eta : (double)NAN);
    json_time(doc, object, "created", op->created_us);
    json_time(doc, object, "ended", op->ended_us);
    print_error(doc, object, &op->error);
    print_record(doc, object, record, findings);
    yyjson_doc_free(record);
}

void api_respond_accepted(struct api_call *call, const struct operation *op)
{
    char location[64];
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    snprintf(location, sizeof location, "/v1/operations/%s", op->id);
    http_set_header(call->ex, "Location", location);
    api_print_operation(doc, root, op, true);
    api_respond(call, 202, doc);
}

void api_get_operation(struct api_call *call)
{
    const struct operation *op = operations_find(call->api->services.operations, call->params[0]);
    if (op == NULL) {
        http_problem(call->ex, 404, "not_found", "no operation has the id \"%s\"; the newest %d are kept",
                     call->params[0], OPERATIONS_KEPT);
        return;
    }
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_operation(doc, root, op, true);
    api_respond(call, 200, doc);
}

/* ---- the list: newest first, whatever order they were resumed in ---- */

struct filter {
    char database[API_FILTER_SIZE], status[16];
    bool by_database, by_status;
    int64_t created_us; /* of the last one on the page before */
    char id[OPERATION_ID_SIZE];
    bool resumed;
};

static bool status_is_known(const char *name)
{
    for (int s = OPERATION_RUNNING; s <= OPERATION_FAILED; s++)
        if (strcmp(name, operation_status_name((enum operation_status)s)) == 0)
            return true;
    return false;
}

/* "<created>/<id>" of a cursor. */
static bool place_parse(const char *after, struct filter *f)
{
    char created[24];
    size_t length = strcspn(after, "/");
    if (after[length] != '/' || length >= sizeof created || strlen(after + length + 1) >= sizeof f->id)
        return false;
    memcpy(created, after, length);
    created[length] = '\0';
    snprintf(f->id, sizeof f->id, "%s", after + length + 1);
    return text_to_int64(created, &f->created_us);
}

static bool filter_get(struct api_call *call, const struct api_page *page, struct filter *f)
{
    memset(f, 0, sizeof *f);
    if (!api_query_name(call, "database", f->database, &f->by_database))
        return false;
    enum api_query status = api_query_get(call, "status", f->status, sizeof f->status);
    if (status == QUERY_WRONG)
        return false;
    if (status == QUERY_GIVEN && !status_is_known(f->status)) {
        http_problem(call->ex, 400, "invalid", "status is one of running, done, undone, failed");
        return false;
    }
    f->by_status = status == QUERY_GIVEN;
    f->resumed = page->resumed;
    if (page->resumed && !place_parse(page->after, f)) {
        http_problem(call->ex, 400, "invalid", "cursor is not one of this list");
        return false;
    }
    return true;
}

static int newer_first(int64_t a_us, const char *a_id, int64_t b_us, const char *b_id)
{
    if (a_us != b_us)
        return a_us > b_us ? -1 : 1;
    return strcmp(a_id, b_id);
}

static int compare_operations(const void *a, const void *b)
{
    const struct operation *x = *(const struct operation *const *)a, *y = *(const struct operation *const *)b;
    return newer_first(x->created_us, x->id, y->created_us, y->id);
}

static bool filter_fits(const struct filter *f, const struct operation *op)
{
    return (!f->by_database || strcmp(op->database, f->database) == 0) &&
           (!f->by_status || strcmp(operation_status_name(op->status), f->status) == 0) &&
           (!f->resumed || newer_first(op->created_us, op->id, f->created_us, f->id) > 0);
}

static const struct operation **matching(const struct operations *ops, const struct filter *f,
                                         size_t *ret_count)
{
    size_t count = 0;
    list_each(node, &ops->list)
    {
        count++;
    }
    const struct operation **items = mem_array(count + 1, sizeof(struct operation *));
    count = 0;
    list_each(node, &ops->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (filter_fits(f, op))
            items[count++] = op;
    }
    if (count > 1)
        qsort(items, count, sizeof(struct operation *), compare_operations);
    *ret_count = count;
    return items;
}

void api_get_operations(struct api_call *call)
{
    struct api_page page;
    struct filter filter;
    size_t count, i;
    char last[64] = "";
    if (!api_page_get(call, "operations", &page) || !filter_get(call, &page, &filter))
        return;
    const struct operation **items = matching(call->api->services.operations, &filter, &count);
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    yyjson_mut_val *array = yyjson_mut_obj_add_arr(doc, root, "items");
    for (i = 0; i < count && i < page.limit; i++)
        api_print_operation(doc, yyjson_mut_arr_add_obj(doc, array), items[i], false);
    if (i < count)
        snprintf(last, sizeof last, "%" PRId64 "/%s", items[i - 1]->created_us, items[i - 1]->id);
    free(items);
    api_page_next(doc, root, "operations", i < count ? last : NULL);
    api_respond(call, 200, doc);
}
