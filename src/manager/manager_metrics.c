/* The numbers of /metrics that only the manager knows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "manager/manager_impl.h"
#include "operation/failover_op.h"
#include "operation/move_op.h"

static size_t count_list(const struct list *head)
{
    size_t n = 0;
    for (const struct list *node = head->next; node != head; node = node->next)
        n++;
    return n;
}

/* One row per kind and status. */
static size_t add_operation(struct exposition_operation *rows, size_t count, const struct operation *op)
{
    const char *status = operation_status_name(op->status);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].kind, op->kind->name) == 0 && strcmp(rows[i].status, status) == 0) {
            rows[i].count++;
            return count;
        }
    }
    rows[count] = (struct exposition_operation){op->kind->name, status, 1};
    return count + 1;
}

static void fill_operations(struct manager *m, struct exposition_numbers *ret)
{
    free(m->metric_operations);
    m->metric_operations = mem_array(count_list(&m->operations.list) + 1, sizeof *m->metric_operations);
    ret->operations = m->metric_operations;
    list_each(node, &m->operations.list)
    {
        ret->operation_count = add_operation(m->metric_operations, ret->operation_count,
                                             list_item(node, struct operation, node));
    }
}

/* Every rule from the start, so that a rate sees the first decision too. */
static void fill_decisions(struct manager *m, struct exposition_numbers *ret)
{
    static const char *const labels[] = {"",    "R1",  "R2",  "R3",  "R4",  "R5",  "R6",  "R7",
                                         "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15",
                                         "R16", "R17", "R18", "R19", "R20", "R21"};
    _Static_assert(sizeof labels / sizeof labels[0] == BALANCE_R_COUNT, "each rule has its label");
    size_t rows = count_list(&m->fleet.databases) * BALANCE_R_COUNT;
    free(m->metric_decisions);
    m->metric_decisions = mem_array(rows + 1, sizeof *m->metric_decisions);
    ret->decisions = m->metric_decisions;
    if (m->balancer == NULL)
        return;
    list_each(node, &m->fleet.databases)
    {
        const char *name = list_item(node, struct fleet_database, node)->name;
        for (int rule = 1; rule < BALANCE_R_COUNT; rule++)
            m->metric_decisions[ret->decision_count++] =
                (struct exposition_decision){name, labels[rule], balancer_count(m->balancer, name, rule)};
    }
}

static unsigned guard_findings(const struct manager *m, const struct fleet_database *db)
{
    unsigned count = 0;
    struct guard_state state;
    for (size_t i = 0; m->guards != NULL && db->routing != NULL && i < db->routing->shard_count; i++)
        if (guard_watch_get(m->guards, db->name, db->routing->shards[i].name, &state))
            count += state.count;
    return count;
}

static void fill_databases(struct manager *m, struct exposition_numbers *ret)
{
    free(m->metric_databases);
    m->metric_databases = mem_array(count_list(&m->fleet.databases) + 1, sizeof *m->metric_databases);
    ret->databases = m->metric_databases;
    list_each(node, &m->fleet.databases)
    {
        const struct fleet_database *db = list_item(node, struct fleet_database, node);
        m->metric_databases[ret->database_count++] = (struct exposition_database){
            db->name, db->routing != NULL ? db->routing->epoch : 0,
            db->routing != NULL ? (unsigned)db->routing->shard_count : 0, guard_findings(m, db)};
    }
}

static struct exposition_move move_of(const struct operation *op)
{
    const struct move_record *r = move_op_record(op);
    struct exposition_move m = {.op = op->id,
                                .database = op->database,
                                .shard = r->source,
                                .target = r->target,
                                .state = move_state_name(r->state),
                                .lag_seconds = r->marker_us > 0 ? (double)r->marker_us / 1e6 : (double)NAN,
                                .commit_seconds =
                                    r->source_commit_us > 0 ? (double)r->source_commit_us / 1e6 : (double)NAN,
                                .standby_lag = (double)r->standby_lag_us / 1e6,
                                .throttled_seconds = (double)r->throttled_us / 1e6,
                                .rows = r->copy_rows,
                                .bytes = r->copy_bytes,
                                .total_rows = r->total_rows,
                                .total_bytes = r->total_bytes,
                                .tables = r->tables,
                                .tables_copied = r->tables_copied,
                                .rate = r->copy_rate,
                                .throttle_rate = r->throttle_rate,
                                .retained_wal = r->retained_wal,
                                .held = r->state == MOVE_HELD,
                                .compared_rows = r->reverse_verified.rows};
    m.progress = move_op_progress(op, &m.eta_seconds);
    return m;
}

static void fill_moves(struct manager *m, struct exposition_numbers *ret)
{
    free(m->metric_moves);
    m->metric_moves = mem_array(count_list(&m->operations.list) + 1, sizeof *m->metric_moves);
    ret->moves = m->metric_moves;
    list_each(node, &m->operations.list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && move_op_is(op))
            m->metric_moves[ret->move_count++] = move_of(op);
    }
}

static void fill_failovers(struct manager *m, struct exposition_numbers *ret)
{
    struct ha_shards_failovers f;
    unsigned count = 0;
    while (m->ha != NULL && ha_shards_failovers(m->ha, count, &f))
        count++;
    free(m->metric_failovers);
    m->metric_failovers = mem_array(count + 1, sizeof *m->metric_failovers);
    ret->failovers = m->metric_failovers;
    for (unsigned i = 0; i < count && ha_shards_failovers(m->ha, i, &f); i++)
        m->metric_failovers[ret->failover_count++] =
            (struct exposition_failovers){f.database, f.kind, f.done, f.undone, f.blocked};
}

/* Of a shard that fails over it is not said that commits wait, so each is there once. */
static void fill_unwritable(struct manager *m, struct exposition_numbers *ret)
{
    struct ha_shards_wait w;
    unsigned waiting = 0;
    while (m->ha != NULL && ha_shards_wait(m->ha, waiting, &w))
        waiting++;
    free(m->metric_unwritable);
    m->metric_unwritable =
        mem_array(count_list(&m->operations.list) + waiting + 1, sizeof *m->metric_unwritable);
    ret->unwritable = m->metric_unwritable;
    for (unsigned i = 0; i < waiting && ha_shards_wait(m->ha, i, &w); i++)
        m->metric_unwritable[ret->unwritable_count++] = (struct exposition_unwritable){
            w.database, w.shard, (double)(loop_now(&m->loop) - w.since_ns) / ENV_NS_PER_S};
    list_each(node, &m->operations.list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        struct failover_op_facts facts;
        if (op->status != OPERATION_RUNNING || !failover_op_is(op))
            continue;
        failover_op_facts(op, &facts);
        if (facts.blocks)
            m->metric_unwritable[ret->unwritable_count++] =
                (struct exposition_unwritable){op->database, op->shard, (double)facts.blocked_us / 1e6};
    }
}

void manager_numbers(struct exposition_numbers *ret, void *data)
{
    struct manager *m = data;
    fill_operations(m, ret);
    fill_decisions(m, ret);
    fill_databases(m, ret);
    fill_moves(m, ret);
    fill_failovers(m, ret);
    fill_unwritable(m, ret);
    ret->store_kind = "sqlite";
    ret->store_up = m->store != NULL;
    ret->leader = m->operations.services.term > 0;
    ret->term = (uint64_t)m->operations.services.term;
    ret->config_errors = m->config_failures;
}
