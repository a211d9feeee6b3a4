/* The manager in Kubernetes: its databases are objects, their shards StatefulSets, what happens Events. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/manager_impl.h"
#include "operation/move_op.h"
#include "operation/provision.h"

static void on_synced(void *data)
{
    manager_kube_synced(data);
}

static int switch_over(void *data, const char *database, const char *shard, const char *to, const char *why,
                       struct err *err)
{
    struct manager *m = data;
    if (m->ha == NULL)
        return err_set(err, ERRC_CONFLICT, "nobody keeps shards yet");
    return ha_shards_switch(m->ha, database, shard, to, why, err);
}

static unsigned size_of(void *data, const char *database, const char *shard)
{
    const struct manager *m = data;
    return m->ha != NULL ? ha_shards_size(m->ha, database, shard) : 0;
}

void manager_kube_start(struct manager *m)
{
    const struct k8s_reporter reporter = {.controller = "shardherd.io/manager", .instance = m->holder};
    m->kube_events = k8s_events_new(m->kube, &reporter);
    const struct kube_databases_options options = {.client = m->kube,
                                                   .name_space = m->kube_namespace,
                                                   .fleet = &m->fleet,
                                                   .databases = m->databases,
                                                   .operations = &m->operations,
                                                   .events = m->kube_events,
                                                   .defaults = &m->config.balance,
                                                   .synced = on_synced,
                                                   .switch_over = switch_over,
                                                   .size_of = size_of,
                                                   .data = m};
    const struct kube_operations_options operations = {.client = m->kube,
                                                       .name_space = m->kube_namespace,
                                                       .fleet = &m->fleet,
                                                       .operations = &m->operations,
                                                       .switch_over = switch_over,
                                                       .data = m};
    m->kube_operations = kube_operations_start(&operations);
    m->kube_databases = kube_databases_start(&options);
}

bool manager_kube_close(struct manager *m, void (*closed)(void *data))
{
    if (m->kube_databases != NULL)
        kube_databases_close(m->kube_databases, closed, m);
    return m->kube_databases != NULL;
}

bool manager_kube_close_operations(struct manager *m, void (*closed)(void *data))
{
    if (m->kube_operations != NULL)
        kube_operations_close(m->kube_operations, closed, m);
    return m->kube_operations != NULL;
}

void manager_kube_look(struct manager *m)
{
    if (m->kube_databases == NULL)
        return;
    kube_databases_look(m->kube_databases);
    kube_operations_look(m->kube_operations);
}

void manager_kube_run(struct manager *m)
{
    if (m->kube_databases == NULL)
        return;
    kube_databases_run(m->kube_databases);
    kube_operations_run(m->kube_operations);
}

bool manager_kube_close_events(struct manager *m, void (*closed)(void *data))
{
    struct k8s_events *events = m->kube_events;
    m->kube_events = NULL;
    if (events != NULL)
        k8s_events_close(events, closed, m);
    return events != NULL;
}

/* data: the databases, as for the runtime's other questions. */
static bool polls_refused(void *data, const char *instance)
{
    const struct fleet_instance *found = fleet_find_instance(kube_databases_fleet(data), instance);
    return found != NULL && found->facts.failed_ns > found->facts.seen_ns && found->facts.refused;
}

int manager_kube_runtime(struct manager *m, struct err *err)
{
    char *directory = mem_printf("%s/authorities", m->config.state_directory);
    const struct runtime_kubernetes_options options = {.client = m->kube,
                                                       .name_space = m->kube_namespace,
                                                       .image = m->config.runtime_image,
                                                       .directory = directory,
                                                       .database = kube_databases_get,
                                                       .progress = kube_databases_progress,
                                                       .doubted = polls_refused,
                                                       .cnpg = strcmp(m->runtime_kind, "cnpg") == 0,
                                                       .data = m->kube_databases};
    int rc = runtime_kubernetes_open(&m->loop, &options, &m->runtime, err);
    free(directory);
    return rc;
}

void manager_kube_text(const struct manager *m, char *out, size_t size)
{
    char databases[256] = "waits for its turn", events[80] = "";
    struct k8s_events_facts facts = {0};
    if (m->kube_databases != NULL)
        kube_databases_text(m->kube_databases, databases, sizeof databases);
    if (m->kube_events != NULL)
        k8s_events_facts(m->kube_events, &facts);
    if (facts.dropped + facts.refused > 0)
        snprintf(events, sizeof events, "; Events: %llu dropped, %llu refused",
                 (unsigned long long)facts.dropped, (unsigned long long)facts.refused);
    snprintf(out, size, "%.120s: %s%s", m->kube_text, databases, events);
}

/* ---- Events ---- */

static void tell_move(struct manager *m, const struct operation *op)
{
    const struct move_record *r = move_op_record(op);
    char note[900];
    bool started = op->status == OPERATION_RUNNING, held = started && r->state == MOVE_HELD;
    if (started && !held && r->state != MOVE_PLANNED)
        return;
    int n = snprintf(note, sizeof note, "%s %s of shard %s%s%s: ", move_kind_name(r->kind), op->id,
                     move_record_from(r), r->target[0] != '\0' ? " to " : "", move_record_to(r));
    if (held)
        snprintf(note + n, sizeof note - (size_t)n, "held until somebody says how it goes on: %s",
                 op->error.message);
    else if (started)
        snprintf(note + n, sizeof note - (size_t)n, "%s", r->reason);
    else if (op->status == OPERATION_DONE)
        snprintf(note + n, sizeof note - (size_t)n,
                 "done, %llu rows, writes of them were blocked for %llu us", (unsigned long long)r->copy_rows,
                 (unsigned long long)r->write_block_us);
    else
        snprintf(note + n, sizeof note - (size_t)n, "%s: %s", operation_status_name(op->status),
                 op->error.code != ERRC_NONE ? op->error.message : "see its findings");
    kube_databases_tell(m->kube_databases, op->database, held || (!started && op->status != OPERATION_DONE),
                        held                           ? "OperationHeld"
                        : started                      ? "OperationStarted"
                        : op->status == OPERATION_DONE ? "OperationDone"
                                                       : "OperationFailed",
                        "Move", note);
}

void manager_kube_operation(struct manager *m, const struct operation *op)
{
    char note[700];
    if (m->kube_databases == NULL)
        return;
    if (move_op_is(op))
        tell_move(m, op);
    else if (provision_is(op) && op->status == OPERATION_FAILED) {
        snprintf(note, sizeof note, "%s failed: %s", op->id, op->error.message);
        kube_databases_tell(m->kube_databases, op->database, true, "OperationFailed", "Provision", note);
    }
    kube_databases_wake(m->kube_databases);
    kube_operations_wake(m->kube_operations);
}

void manager_kube_decided(struct manager *m, const struct balancer_decision *d)
{
    char note[900];
    const struct balance_change *c = &d->change;
    if (m->kube_databases == NULL)
        return;
    snprintf(note, sizeof note, "shard %s: %s (rule %d)", c->shard, c->sentence, c->rule);
    const char *reason = d->operation[0] != '\0'                                       ? "Decided"
                         : c->kind == BALANCE_REFUSE                                   ? "Refused"
                         : c->kind == BALANCE_SAMPLE || c->kind == BALANCE_SAMPLE_ROWS ? "Sampling"
                                                                                       : "Recommended";
    kube_databases_tell(m->kube_databases, d->database, false, reason, "Balance", note);
}
