/* Taking away what a move needed: replication, marker tables, and the rows that S does not own any more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

#define CLEAN_BLOCKS      256  /* per batch: 2 MB of heap */
#define CLEAN_BLOCKS_MOST 4096 /* where nothing is to be deleted */
#define CLEAN_PAUSE_NS    (10 * ENV_NS_PER_MS)
#define VACUUM_TIMEOUT_NS (3600 * ENV_NS_PER_S)

/* ---- forward replication: subscription and slot before the publication (A13) ---- */

static void publication_dropped(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)reply;
    act_done(op, action, NULL);
}

/*
 * Names of the slots that table synchronisation makes: by the subscription's oid, so that no other
 * subscription of that server is hit; by the server alone if the oid is not known and the whole server is
 * this move's.
 */
static void sync_slots_of(const struct move_op *op, char *out, size_t size)
{
    const struct move_record *r = &op->core.record;
    char subscription[32] = "none";
    if (op->subscription != 0)
        snprintf(subscription, sizeof subscription, "%llu", (unsigned long long)op->subscription);
    else if (move_record_made_target(r))
        snprintf(subscription, sizeof subscription, "[0-9]+");
    snprintf(out, size, "^pg_%s_sync_[0-9]+_%llu$", subscription, (unsigned long long)r->target_system);
}

#define DROP_SLOTS                                                                                           \
    "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE database = "              \
    "current_database() "                                                                                    \
    "AND (slot_name = %L OR slot_name ~ %L) AND active_pid IS NOT NULL; "                                    \
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = "                 \
    "current_database() "                                                                                    \
    "AND (slot_name = %L OR slot_name ~ %L); "

static void drop_on_source(struct move_op *op, enum move_action action)
{
    char name[MOVE_NAME_SIZE];
    char sync[96];
    move_record_name(op_record(op), name);
    sync_slots_of(op, sync, sizeof sync);
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, publication_dropped,
            "SELECT shardherd.check_term(%d); SELECT set_config('shardherd.operation', %L, true); " DROP_SLOTS
            "DROP PUBLICATION IF EXISTS %I; DROP TABLE IF EXISTS shardherd.%I",
            op_term(op), op_record(op)->id, name, sync, name, sync, name, name);
}

static void marker_table_dropped(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)reply;
    drop_on_source(op, action);
}

static void subscription_dropped(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    move_record_name(op_record(op), name);
    act_sql(op, &op->target, action, SQL_TIMEOUT_NS, marker_table_dropped,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.check_term(%d); "
            "SELECT set_config('shardherd.operation', %L, true); DROP TABLE IF EXISTS shardherd.%I",
            op_term(op), op_record(op)->id, name);
}

static void source_slots_dropped(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    (void)reply;
    move_record_name(op_record(op), name);
    act_sql(op, &op->target, action, 60 * ENV_NS_PER_S, subscription_dropped,
            "DROP SUBSCRIPTION IF EXISTS %I", name);
}

/* The slots go first: while the subscription stands, a retry still learns its oid. */
static void subscription_detached(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    char sync[96];
    (void)reply;
    move_record_name(op_record(op), name);
    sync_slots_of(op, sync, sizeof sync);
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, source_slots_dropped,
            "SELECT shardherd.check_term(%d); " DROP_SLOTS, op_term(op), name, sync, name, sync);
}

static void subscription_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    bool target_goes = move_record_made_target(op_record(op)) && op_record(op)->state == MOVE_UNDO;
    if (target_goes && (reply->err != NULL || pg_rows(reply) == 0)) {
        drop_on_source(
            op, action); /* it is removed whole, and may not even have our schema; only S must forget it */
        return;
    }
    if (reply->err != NULL) {
        act_done(op, action, reply->err);
        return;
    }
    int64_t oid = 0;
    if (pg_value_int64(reply, 0, 0, &oid))
        op->subscription = (uint64_t)oid;
    if (pg_rows(reply) == 0)
        subscription_dropped(op, action, reply);
    else /* without its slot, so that dropping it does not depend on S; S's slot is dropped by us */
        act_sql(op, &op->target, action, 60 * ENV_NS_PER_S, subscription_detached,
                "ALTER SUBSCRIPTION %I DISABLE; ALTER SUBSCRIPTION %I SET (slot_name = NONE)", name, name);
}

void act_drop_forward(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    if (!op->target_known && op_target_optional(op))
        drop_on_source(op, ACT_DROP_FORWARD);
    else if (!op->target_known)
        act_fail(op, ACT_DROP_FORWARD, ERRC_UNAVAILABLE, "the primary of shard %s is not known",
                 op_record(op)->target);
    else
        act_sql_any(op, &op->target, ACT_DROP_FORWARD, SQL_TIMEOUT_NS, subscription_seen,
                    "SELECT oid FROM pg_subscription WHERE subname = %L AND subdbid = "
                    "(SELECT oid FROM pg_database WHERE datname = current_database())",
                    name);
}

/* ---- rows ---- */

struct heap {
    char *relation;
    char *key;
    char *type;
    int64_t blocks;
};

struct clean {
    struct move_op *op;
    enum move_action action;
    void (*then)(struct move_op *op, const struct err *err); /* NULL: the action is done */
    struct link *link;
    struct heap *heaps;
    int count;
    int current;
    int64_t block;
    int64_t batch;   /* blocks of the next batch */
    int64_t deleted; /* rows of this heap */
};

void clean_free(struct move_op *op)
{
    struct clean *c = op->clean;
    if (c == NULL)
        return;
    for (int i = 0; i < c->count; i++) {
        free(c->heaps[i].relation);
        free(c->heaps[i].key);
        free(c->heaps[i].type);
    }
    free(c->heaps);
    free(c);
    op->clean = NULL;
}

static void clean_ended(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct link *link = op->clean->link;
    void (*then)(struct move_op *, const struct err *) = op->clean->then;
    clean_free(op);
    link_drop(link); /* its session plays an apply worker: nothing else may use it */
    if (then != NULL)
        then(op, reply->err);
    else
        act_done(op, action, reply->err);
}

static void next_batch(struct move_op *op);

static void pause_over(struct loop_timer *timer, void *data)
{
    (void)timer;
    next_batch(data);
}

static void batch_deleted(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    int64_t rows = 0;
    (void)action;
    if (reply->err != NULL) {
        clean_ended(op, action, reply);
        return;
    }
    pg_value_int64(reply, 0, 0, &rows);
    op_record(op)->cleaned_rows += (uint64_t)rows;
    op->clean->deleted += rows;
    op->clean->block += op->clean->batch;
    /* blocks without a row of R cost one look each: take more of them at a time */
    op->clean->batch = rows > 0 ? CLEAN_BLOCKS : op->clean->batch * 2;
    if (op->clean->batch > CLEAN_BLOCKS_MOST)
        op->clean->batch = CLEAN_BLOCKS_MOST;
    op->poll_timer.fire = pause_over;
    loop_timer_start(&op->poll_timer, rows > 0 ? CLEAN_PAUSE_NS : 0);
}

static void next_heap(struct clean *c)
{
    c->current++;
    c->block = 0;
    c->batch = CLEAN_BLOCKS;
    c->deleted = 0;
}

static void vacuumed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (reply->err != NULL)
        clean_ended(op, op->clean->action, reply);
    else {
        next_heap(op->clean);
        next_batch(op);
    }
}

static void next_batch(struct move_op *op)
{
    struct clean *c = op->clean;
    const struct move_record *r = op_record(op);
    char slot[MOVE_NAME_SIZE];
    while (c->current < c->count && c->block >= c->heaps[c->current].blocks && c->deleted == 0)
        next_heap(c); /* nothing to vacuum */
    move_record_name(r, slot);
    if (c->current == c->count) {
        char lanes[MOVE_NAME_SIZE + 16]; /* origins of a copy that was broken off */
        snprintf(lanes, sizeof lanes, "^%s_[0-9]+$", slot);
        act_sql_any(op, c->link, c->action, SQL_TIMEOUT_NS, clean_ended,
                    "SELECT pg_replication_origin_session_reset(); "
                    "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = "
                    "'shardherd_clean_%s' OR (%s AND roname ~ %L)",
                    r->id, r->state == MOVE_UNDO ? "true" : "false", lanes);
        return;
    }
    const struct heap *heap = &c->heaps[c->current];
    if (c->block >= heap->blocks)
        act_sql_any(op, c->link, c->action, VACUUM_TIMEOUT_NS, vacuumed, "VACUUM (ANALYZE) %s",
                    heap->relation);
    else
        act_sql_any(op, c->link, c->action, SQL_TIMEOUT_NS, batch_deleted,
                    "SELECT shardherd.delete_batch(%d, %L, %L::regclass, %L, %L, %d, %d, %d, %d)",
                    op_term(op), slot, heap->relation, heap->key, heap->type, r->range.lo, r->range.hi,
                    c->block, c->batch);
}

static void heaps_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct clean *c = op->clean;
    (void)action;
    if (reply->err != NULL) {
        clean_ended(op, c->action, reply);
        return;
    }
    c->count = pg_rows(reply);
    c->heaps = mem_array((size_t)c->count, sizeof *c->heaps);
    for (int i = 0; i < c->count; i++) {
        c->heaps[i].relation = mem_strdup(pg_value(reply, i, 0));
        c->heaps[i].key = mem_strdup(pg_value(reply, i, 1));
        c->heaps[i].type = mem_strdup(pg_value(reply, i, 2));
        pg_value_int64(reply, i, 3, &c->heaps[i].blocks);
    }
    next_batch(op);
}

/* The session gets an origin (our guards let it pass, change consumers can filter it) and replica role
 * (foreign keys stay quiet: parents and children of R go together). */
static void start_clean(struct move_op *op, enum move_action action, struct link *link)
{
    struct clean *c = mem_zalloc(sizeof *c);
    clean_free(op);
    *c = (struct clean){.op = op, .action = action, .link = link, .batch = CLEAN_BLOCKS};
    op->clean = c;
    act_sql_any(op, link, action, SQL_TIMEOUT_NS, heaps_read,
                "SELECT shardherd.check_term(%d); SET session_replication_role = replica; "
                "SELECT pg_replication_origin_create('shardherd_clean_%s') WHERE NOT EXISTS "
                "(SELECT FROM pg_replication_origin WHERE roname = 'shardherd_clean_%s'); "
                "SELECT pg_replication_origin_session_setup('shardherd_clean_%s'); "
                "SELECT relation, key, type, blocks FROM shardherd.heaps()",
                op_term(op), op_record(op)->id, op_record(op)->id, op_record(op)->id);
}

void act_clean_source(struct move_op *op)
{
    link_drop(&op->source_marker);
    start_clean(op, ACT_CLEAN_SOURCE, &op->source_marker);
}

void act_empty_target(struct move_op *op)
{
    if (!op->target_known) { /* only targets that were there before get here */
        act_fail(op, ACT_EMPTY_TARGET, ERRC_UNAVAILABLE, "the primary of shard %s is not known",
                 op_record(op)->target);
        return;
    }
    link_drop(&op->target_poll);
    start_clean(op, ACT_EMPTY_TARGET, &op->target_poll);
}

void clean_target(struct move_op *op, enum move_action action,
                  void (*then)(struct move_op *op, const struct err *err))
{
    link_drop(&op->target_poll);
    start_clean(op, action, &op->target_poll);
    op->clean->then = then;
}
