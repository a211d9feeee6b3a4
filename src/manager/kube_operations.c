#include "manager/kube_operations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "api/api.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "k8s/apply.h"
#include "k8s/watch.h"
#include "manager/kube_operation.h"
#include "operation/failover_op.h"
#include "operation/move_op.h"

#define REASON    "ShardOperation "
#define RETRY_NS  (2 * ENV_NS_PER_S)
#define SLOW_NS   (5 * ENV_NS_PER_S)
#define GAP_NS    (500 * ENV_NS_PER_MS)
#define FAILED_NS (5 * ENV_NS_PER_S)

/* One object. What it says is in the watch's store; here is what is done about it. */
struct kop {
    struct list node;
    struct kube_operations *all;
    char *name, *uid;
    enum kube_operation_phase phase;
    char message[ERR_MESSAGE_SIZE];
    bool canceled; /* asked for once */
    struct kube_operation_conditions conditions;
    uint64_t retry_ns, write_ns;
    int step, written_step; /* enum move_state or failover_state, -1 = none */
    enum kube_operation_phase written_phase;
    bool written, writing, ended; /* ended: the last status is written */
    struct k8s_call *call;
};

struct kube_operations {
    struct kube_operations_options o;
    struct loop *loop;
    struct k8s_watch *watch;
    char *path;
    struct list list;
    struct loop_task look;
    bool running, closing, watch_closed, reported;
    unsigned calls;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- the watch ---- */

static void *trim_make(struct yyjson_val *object, void *data)
{
    (void)data;
    return kube_operation_kept_new(object);
}

static void trim_release(void *value)
{
    kube_operation_kept_free(value);
}

static const struct k8s_trim trim = {trim_make, trim_release, NULL};

static void changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                    void *data)
{
    struct kube_operations *all = data;
    (void)change;
    (void)now;
    (void)before;
    if (!all->closing)
        loop_defer(all->loop, &all->look);
}

static const struct kube_operation_kept *kept_of(const struct kube_operations *all, const char *name,
                                                 const char *uid)
{
    char key[512];
    snprintf(key, sizeof key, "%s/%s", all->o.name_space, name);
    const struct k8s_object *object =
        object_store_find(reflector_store(k8s_watch_reflector(all->watch)), key);
    const struct kube_operation_kept *kept = object != NULL ? object->value : NULL;
    return kept != NULL && strcmp(kept->uid, uid) == 0 ? kept : NULL;
}

/* ---- the operation of an object ---- */

static const char *reason_of(const struct operation *op)
{
    struct failover_op_facts facts;
    if (move_op_is(op))
        return move_op_record(op)->reason;
    if (!failover_op_is(op))
        return "";
    failover_op_facts(op, &facts);
    return facts.reason;
}

/* Its reason names the object: so it is found again after a crash, and never started twice. */
static struct operation *find_operation(const struct kop *k)
{
    list_each(node, &k->all->o.operations->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        const char *reason = reason_of(op);
        if (text_starts_with(reason, REASON) && strstr(reason, k->uid) != NULL)
            return op;
    }
    return NULL;
}

static void ends_without(struct kop *k, enum kube_operation_phase phase, const char *message)
{
    k->phase = phase;
    snprintf(k->message, sizeof k->message, "%s", message);
}

/* Of a shard that nobody keeps yet, as after a start of the manager, it waits; its keeper tells what it does.
 */
static int switch_over(const struct kop *k, const struct kube_operation_kept *kept,
                       const struct fleet_database *db, const char *reason, struct err *err)
{
    const struct kube_operations_options *o = &k->all->o;
    if (db->instances <= 1)
        return err_set(err, ERRC_REFUSED, "shards of database %s have one instance each, and no standbys",
                       kept->database);
    if (routing_find_shard(db->routing, kept->shard) == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s has no shard %s", kept->database, kept->shard);
    if (o->switch_over(o->data, kept->database, kept->shard, kept->instance, reason, err) == 0)
        return 0;
    if (err->code == ERRC_UNSUPPORTED)
        err->code = ERRC_UNAVAILABLE;
    return (int)err->code;
}

static void begin(struct kop *k, const struct kube_operation_kept *kept)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, kept->database);
    struct operation *op;
    struct err err = {0};
    char reason[400];
    int rc;
    k->retry_ns = loop_now(k->all->loop) + RETRY_NS;
    if (kept->cancel) {
        ends_without(k, KUBE_OPERATION_CANCELED, "canceled before it was started");
        return;
    }
    if (db == NULL || db->routing == NULL) {
        snprintf(k->message, sizeof k->message, "database %s has no shards yet", kept->database);
        return;
    }
    snprintf(reason, sizeof reason, REASON "%s (%s) asks for it", kept->name, kept->uid);
    if (strcmp(kept->kind, "switchover") == 0)
        rc = switch_over(k, kept, db, reason, &err);
    else
        rc = api_move_start(k->all->o.operations, db, kept->body, reason, &op, &err);
    if (rc == 0)
        log_event(LOG_INFO, "operation started by an object", "kind", kept->kind, "db", kept->database,
                  "object", kept->name, NULL);
    else if (err.code == ERRC_CONFLICT || err.code == ERRC_UNAVAILABLE)
        snprintf(k->message, sizeof k->message, "waits: %.480s", err.message);
    else
        ends_without(k, KUBE_OPERATION_REFUSED, err.message);
}

static void on_canceled(struct operation *op, const struct err *err, void *data)
{
    (void)data;
    if (err != NULL)
        log_event(LOG_WARN, "a cancellation could not be written down", "op", op->id, "err", err->message,
                  NULL);
}

static void cancel(struct operation *op)
{
    struct err err = {0};
    if (op->status == OPERATION_RUNNING && op->kind->cancel(op, on_canceled, NULL, &err) != 0)
        log_event(LOG_INFO, "an operation cannot be canceled any more and goes on", "op", op->id, "err",
                  err.message, NULL);
}

/* ---- its status ---- */

static void answered(const struct k8s_answer *answer, void *data)
{
    struct kop *k = data;
    struct kube_operations *all = k->all;
    uint64_t now = loop_now(all->loop);
    k->call = NULL;
    k->writing = false;
    all->calls--;
    if (answer->err == NULL) {
        k->written = true;
        k->ended = kube_operation_has_ended(k->written_phase);
        k->write_ns = now + GAP_NS;
    } else {
        k->written = false;
        k->write_ns = now + FAILED_NS;
        if (answer->err->code != ERRC_CANCELED && answer->err->code != ERRC_NOT_FOUND)
            log_event(LOG_WARN, "the status of an operation could not be written", "object", k->name, "err",
                      answer->err->message, NULL);
    }
    if (all->closing && all->watch_closed && all->calls == 0 && !all->reported) {
        all->reported = true;
        all->closed(all->closed_data);
    }
}

/* At once when the step is another one, else every few seconds. */
static bool write_due(const struct kop *k, const struct operation *op)
{
    uint64_t now = loop_now(k->all->loop);
    bool news = !k->written || k->step != k->written_step || k->phase != k->written_phase;
    if (k->writing || k->ended || now < k->write_ns)
        return false;
    return news || (op != NULL && op->status == OPERATION_RUNNING && now >= k->write_ns + SLOW_NS);
}

static void write_status(struct kop *k, const struct kube_operation_kept *kept, const struct operation *op)
{
    if (!write_due(k, op))
        return;
    const struct kube_operation_status status = {.kept = kept,
                                                 .op = op,
                                                 .phase = k->phase,
                                                 .message = k->message,
                                                 .now_us = loop_wall(k->all->loop),
                                                 .conditions = &k->conditions};
    yyjson_mut_doc *doc = kube_operation_print(&status);
    const struct k8s_apply apply = {.collection = k->all->path,
                                    .name = k->name,
                                    .subresource = "status",
                                    .manager = "shardherd-status",
                                    .force = true,
                                    .object = yyjson_mut_doc_get_root(doc)};
    if (k8s_apply_start(k->all->o.client, &apply, answered, k, &k->call, NULL) == 0) {
        k->writing = true;
        k->written_step = k->step;
        k->written_phase = k->phase;
        k->all->calls++;
    }
    yyjson_mut_doc_free(doc);
}

/* ---- looking ---- */

static int step_of(const struct operation *op)
{
    struct failover_op_facts facts;
    if (move_op_is(op))
        return (int)move_op_record(op)->state;
    failover_op_facts(op, &facts);
    return facts.step;
}

static void look_at(struct kop *k, const struct kube_operation_kept *kept)
{
    struct operation *op = find_operation(k);
    if (k->ended)
        return;
    if (op == NULL && kept->operation != NULL)
        ends_without(k, KUBE_OPERATION_FAILED, "its journal is no longer kept");
    else if (op == NULL && !kube_operation_has_ended(k->phase) && loop_now(k->all->loop) >= k->retry_ns) {
        begin(k, kept);
        op = find_operation(k);
    }
    if (op != NULL) {
        if (kept->cancel && !k->canceled)
            cancel(op);
        k->canceled |= kept->cancel;
        k->phase = kube_operation_phase_of(op, kept->cancel);
        k->step = step_of(op);
    }
    write_status(k, kept, op);
}

static void kop_free(struct kop *k)
{
    list_remove(&k->node);
    free(k->name);
    free(k->uid);
    free(k);
}

static bool known(const struct kube_operations *all, const char *uid)
{
    list_each(node, &all->list)
    {
        if (strcmp(list_item(node, struct kop, node)->uid, uid) == 0)
            return true;
    }
    return false;
}

static void know(const struct k8s_object *object, void *data)
{
    struct kube_operations *all = data;
    const struct kube_operation_kept *kept = object->value;
    if (kept == NULL || known(all, kept->uid))
        return;
    struct kop *k = mem_zalloc(sizeof *k);
    k->all = all;
    k->name = mem_strdup(kept->name);
    k->uid = mem_strdup(kept->uid);
    k->step = -1;
    k->ended = kept->ended;
    snprintf(k->message, sizeof k->message, "waits to be started");
    list_append(&all->list, &k->node);
}

/* The object of a running operation was deleted, perhaps while no manager ran: it is undone if it can be. */
static void cancel_orphans(const struct kube_operations *all)
{
    list_each(node, &all->o.operations->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        char name[260], uid[64];
        if (op->status != OPERATION_RUNNING || !move_op_is(op) || move_op_record(op)->canceled ||
            sscanf(move_op_record(op)->reason, REASON "%255s (%63[^)])", name, uid) != 2 ||
            kept_of(all, name, uid) != NULL || move_op_record(op)->state >= MOVE_FENCE)
            continue;
        log_event(LOG_INFO, "the object of an operation was deleted: it is undone", "op", op->id, "object",
                  name, NULL);
        cancel(op);
    }
}

void kube_operations_look(struct kube_operations *all)
{
    if (all->closing || !all->running || all->o.operations->services.term == 0 ||
        !reflector_synced(k8s_watch_reflector(all->watch)))
        return;
    list_each(node, &all->list)
    {
        struct kop *k = list_item(node, struct kop, node);
        if (kept_of(all, k->name, k->uid) == NULL && !k->writing)
            kop_free(k);
    }
    object_store_each(reflector_store(k8s_watch_reflector(all->watch)), know, all);
    list_each(again, &all->list)
    {
        struct kop *k = list_item(again, struct kop, node);
        const struct kube_operation_kept *kept = kept_of(all, k->name, k->uid);
        if (kept != NULL)
            look_at(k, kept);
    }
    cancel_orphans(all);
}

void kube_operations_wake(struct kube_operations *all)
{
    if (!all->closing)
        loop_defer(all->loop, &all->look);
}

static void look(struct loop_task *task, void *data)
{
    (void)task;
    kube_operations_look(data);
}

/* ---- life ---- */

struct kube_operations *kube_operations_start(const struct kube_operations_options *options)
{
    struct kube_operations *all = mem_zalloc(sizeof *all);
    all->o = *options;
    all->loop = k8s_client_loop(options->client);
    all->path = mem_printf("/apis/shardherd.io/v1alpha1/namespaces/%s/shardoperations", options->name_space);
    list_init(&all->list);
    all->look = (struct loop_task){.run = look, .data = all};
    const struct k8s_watch_options watch = {
        .path = all->path, .trim = &trim, .changed = changed, .data = all};
    all->watch = k8s_watch_start(options->client, &watch);
    return all;
}

void kube_operations_run(struct kube_operations *all)
{
    all->running = true;
    loop_defer(all->loop, &all->look);
}

static void on_watch_closed(void *data)
{
    struct kube_operations *all = data;
    all->watch_closed = true;
    if (all->calls > 0 || all->reported)
        return;
    all->reported = true;
    all->closed(all->closed_data);
}

void kube_operations_close(struct kube_operations *all, void (*closed)(void *data), void *data)
{
    all->closing = true;
    all->closed = closed;
    all->closed_data = data;
    loop_task_cancel(&all->look);
    list_each(node, &all->list)
    {
        struct kop *k = list_item(node, struct kop, node);
        if (k->call != NULL)
            k8s_call_cancel(k->call);
    }
    k8s_watch_close(all->watch, on_watch_closed, all);
}

void kube_operations_free(struct kube_operations *all)
{
    if (all == NULL)
        return;
    loop_task_cancel(&all->look);
    list_each(node, &all->list)
    {
        kop_free(list_item(node, struct kop, node));
    }
    free(all->path);
    free(all);
}
