/*
 * The copy itself: a slot with an exported snapshot, a keeper that holds it, rows in parallel (copier.h).
 * What comes after the rows on a target of our own is move_act_build.c's.
 *
 * That T has the subscription of this move says that all of this is done, since it is made last. Until then a
 * try that fails, or whose manager dies, leaves a slot, rows and perhaps origins: the next one empties T,
 * drops the slot and copies all of it under a new snapshot. Slots are never made anew under a living copy
 * (A12, A13): the copy's sessions are gone by then, or hold T's term, which emptying waits for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/copier.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

#define COPY_LANES   4
#define SLOT_WAIT_NS (600 * ENV_NS_PER_S) /* it waits for the transactions that are open on S */

/* ---- the end ---- */

static void copier_released(void *data)
{
    op_copier_released(data);
}

void copy_drop(struct move_op *op)
{
    struct copier *copier = op->copier;
    op->copier = NULL;
    copier_free(copier);
    watch_copy_over(op);
}

static void failed_for_no_ddl(struct move_op *op, enum move_action action)
{
    struct err why = op->copy_err;
    act_done(op, action, &why);
}

/* Who exported the snapshot was ended before all had taken it: another try exports another one. The server
 * names it in any language. */
static void explain_lost_snapshot(const struct move_op *op, struct err *why)
{
    if (why->code != ERRC_SQL || op->snapshot[0] == '\0' || strstr(why->message, op->snapshot) == NULL)
        return;
    err_wrap(why, "the snapshot of the copy went with its session");
    why->code = ERRC_CLOSED;
    why->sqlstate[0] = '\0';
}

/* The snapshot goes with its sessions, the slot stays. */
static void copy_end(struct move_op *op, const struct err *err)
{
    struct err why = {0};
    if (err != NULL)
        why = *err; /* it may be the copier's own */
    explain_lost_snapshot(op, &why);
    link_drop(&op->exporter);
    link_drop(&op->keeper);
    copy_drop(op);
    if (err != NULL && op_record(op)->allow_ddl) {
        op->copy_err = why;
        look_around(op, ACT_COPY,
                    failed_for_no_ddl); /* what the DDL broke is no better explanation than it */
    } else
        act_done(op, ACT_COPY, err != NULL ? &why : NULL);
}

static bool failed(struct move_op *op, const struct pg_reply *reply)
{
    if (reply->err != NULL)
        copy_end(op, reply->err);
    return reply->err != NULL;
}

/* ---- rows ---- */

static void copied(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    struct move_op *op = data;
    struct move_record *r = op_record(op);
    if (err == NULL) {
        r->copy_rows = r->total_rows = rows;
        r->copy_bytes = r->total_bytes = bytes;
        r->tables_copied = r->tables;
        r->copy_us = (op_now(op) - op->copy_started_ns) / 1000;
    }
    copy_end(op, err);
}

static void on_progress(uint64_t rows, uint64_t bytes, void *data)
{
    struct move_op *op = data;
    struct move_record *r = op_record(op);
    if (op->core.undo_wanted)
        copier_cancel(op->copier);
    if (op->copy_began_ns == 0) {
        op->copy_began_ns = op_now(op);
        op->copy_began_bytes = bytes;
    }
    r->copy_rows = rows;
    r->copy_bytes = bytes;
    operation_changed(&op->op);
}

static double real_at(const struct pg_reply *reply, int row, int column)
{
    const char *text = pg_value(reply, row, column);
    return text != NULL ? strtod(text, NULL) : 0;
}

static void heaps_known(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (failed(op, reply))
        return;
    int count = pg_rows(reply);
    struct copier_heap *heaps = mem_array((size_t)count, sizeof *heaps);
    for (int i = 0; i < count; i++) {
        heaps[i] = (struct copier_heap){.relation = mem_strdup(pg_value(reply, i, 0)),
                                        .table = mem_strdup(pg_value(reply, i, 1)),
                                        .columns = mem_strdup(pg_value(reply, i, 2)),
                                        .filter = mem_strdup(pg_value(reply, i, 3))};
        pg_value_int64(reply, i, 4, &heaps[i].blocks);
        heaps[i].binary = pg_value_bool(reply, i, 5);
        heaps[i].rows = real_at(reply, i, 6);
        heaps[i].bytes = real_at(reply, i, 7);
        heaps[i].share = real_at(reply, i, 8);
    }
    char origin[MOVE_NAME_SIZE];
    move_record_name(op_record(op), origin);
    struct copier_options options = {.loop = op_services(op)->loop,
                                     .source = &op->source.access,
                                     .target = &op->target.access,
                                     .application = op->source.application,
                                     .snapshot = op->snapshot,
                                     .origin = origin,
                                     .term = op_term(op),
                                     .heaps = heaps,
                                     .heap_count = count,
                                     .lanes = op->lanes,
                                     .bytes_per_second = watch_copy_begins(op),
                                     .progress = on_progress,
                                     .done = copied,
                                     .released = copier_released,
                                     .data = op};
    op_copier_started(op, copier_start(&options));
}

/* ---- slot and snapshot ---- */

void op_add_tables(const struct move_op *op, struct buf *out)
{
    const struct routing *routing = op_database(op)->routing;
    for (size_t i = 0; i < routing->table_count; i++)
        buf_printf(out, "%s%s", i > 0 ? ", " : "", routing->tables[i].table);
}

/*
 * Every heap with what statistics say of R in it: rows as the planner counts them (density of the last
 * ANALYZE, size of now), COPY's bytes by the widths of the columns, and by what is stored out of line; 0
 * where nothing is known. All of it by the share of the hashes owned that R is.
 */
#define HEAPS                                                                                                \
    "SELECT h.*, e.rows, CASE WHEN e.rows > 0 AND e.width > 0 THEN greatest(e.rows * e.width, "              \
    "coalesce(pg_table_size(nullif(e.toast, 0)), 0) * e.share) ELSE pg_table_size(e.oid) * e.share END, "    \
    "e.share FROM shardherd.copy_heaps(%d, %d) h, LATERAL (SELECT c.oid, c.reltoastrelid AS toast, "         \
    "w.share, "                                                                                              \
    "CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples / c.relpages * h.blocks * w.share "       \
    "ELSE 0 END AS rows, (SELECT sum((1 - s.null_frac) * s.avg_width + 4) + 2 FROM pg_stats s "              \
    "JOIN pg_namespace n ON n.nspname = s.schemaname WHERE n.oid = c.relnamespace AND "                      \
    "s.tablename = c.relname AND NOT s.inherited) AS width FROM pg_class c, "                                \
    "(SELECT ((%d::numeric - %d::numeric + 1) / sum(r.hi::numeric - r.lo::numeric + 1))::float8 AS share "   \
    "FROM shardherd.shard o, unnest(o.los, o.his) AS r(lo, hi)) w WHERE c.oid = h.relation::regclass) e "    \
    "ORDER BY h.blocks DESC, h.relation"

static void slot_made(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct move_record *r = op_record(op);
    const char *snapshot = reply->err == NULL ? pg_value(reply, 0, 2) : NULL;
    struct err err = {0};
    struct buf tables = {0};
    if (failed(op, reply))
        return;
    if (snapshot == NULL || op_database(op) == NULL) {
        (void)err_set(&err, ERRC_PROTOCOL, "the new slot has no snapshot");
        copy_end(op, &err);
        return;
    }
    snprintf(op->snapshot, sizeof op->snapshot, "%s", snapshot);
    op_add_tables(op, &tables);
    act_sql_any(op, &op->keeper, action, SQL_TIMEOUT_NS, heaps_known,
                "SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '3s'; "
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT %L; "
                "LOCK TABLE %s IN ACCESS SHARE MODE; " HEAPS,
                op->snapshot, buf_text(&tables), r->range.lo, r->range.hi, r->range.hi, r->range.lo);
    buf_free(&tables);
}

/* A walsender takes SQL as well, but nothing after its slot is made, or the snapshot goes. */
static void exporter_ready(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    char name[MOVE_NAME_SIZE];
    if (failed(op, reply))
        return;
    move_record_name(op_record(op), name);
    act_sql_any(op, &op->exporter, action, SLOT_WAIT_NS, slot_made,
                "CREATE_REPLICATION_SLOT %I LOGICAL pgoutput (SNAPSHOT 'export')", name);
}

static void old_slot_gone(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (!failed(op, reply))
        act_sql_any(op, &op->exporter, action, SQL_TIMEOUT_NS, exporter_ready,
                    "SET idle_in_transaction_session_timeout = 0");
}

static void emptied(struct move_op *op, const struct err *err)
{
    char name[MOVE_NAME_SIZE];
    if (err != NULL) {
        copy_end(op, err);
        return;
    }
    move_record_name(op_record(op), name);
    act_sql_any(
        op, &op->source, ACT_COPY, SQL_TIMEOUT_NS, old_slot_gone,
        "SELECT shardherd.check_term(%d); "
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %L "
        "AND active_pid IS NOT NULL; "
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %L",
        op_term(op), name, name);
}

static void target_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    int64_t origins = 0;
    if (failed(op, reply))
        return;
    if (pg_value_bool(reply, 0, 0)) {
        copy_end(op, NULL); /* all of it was copied */
        return;
    }
    pg_value_int64(reply, 0, 1, &origins);
    unsigned wanted = op_services(op)->copy_lanes > 0 ? op_services(op)->copy_lanes : COPY_LANES;
    unsigned free_ones = origins > 2 ? (unsigned)origins - 1 : 1; /* one is the subscription's */
    op->lanes = wanted < free_ones ? wanted : free_ones;
    clean_target(op, action, emptied);
}

void act_copy(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    op->copy_started_ns = op_now(op);
    op_record(op)->copy_rows = op_record(op)->copy_bytes = 0; /* of a try that failed */
    act_sql_any(op, &op->target, ACT_COPY, SQL_TIMEOUT_NS, target_seen,
                "SELECT EXISTS (SELECT FROM pg_subscription WHERE subname = %L AND subdbid = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())), "
                "coalesce(current_setting('max_active_replication_origins', true), "
                "current_setting('max_replication_slots'))::bigint - (SELECT count(*) FROM "
                "pg_replication_origin_status)",
                name);
}
