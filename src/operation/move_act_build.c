/*
 * What comes after the rows on a target of our own. Happy path: indexes and keys of tables are built side by
 * side, the largest table first, each in a transaction of its own that also takes it off the list
 * (shardherd.post_data); then psql does the rest in one transaction - foreign keys, triggers, what belongs to
 * partitioned tables, statistics - and takes off what is left.
 *
 * What is on the list is not there yet, and what is not is: so another try, or another manager, does what is
 * left. Two that are at it, when the answer of the first was lost, take turns at the list's row.
 *
 * A connection that fails lets the others come to the end of what they build, and then the action fails.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

#define BUILD_NS    (24 * 3600 * ENV_NS_PER_S)
#define LANES_LEAST 2 /* where the server says, see lanes_of() */
#define LANES_MOST  4
#define MEMORY_KB   (256 * 1024) /* where nobody has set maintenance_work_mem */

struct part {
    int64_t number;
    char *relation;
    bool alone, begun, done;
};

struct build_lane {
    struct build *build;
    struct link link;
    struct part *part; /* under way; NULL = it has nothing to do */
};

struct build {
    struct move_op *op;
    struct part *parts;
    size_t part_count;
    struct build_lane lanes[BUILD_LANES_MOST];
    unsigned lane_count; /* whose links were made */
    unsigned running;
    struct err err; /* the first one */
};

static void forget_parts(struct build *b)
{
    for (size_t i = 0; i < b->part_count; i++)
        free(b->parts[i].relation);
    free(b->parts);
    b->parts = NULL;
    b->part_count = 0;
}

void build_drop(struct move_op *op)
{
    for (unsigned i = 0; op->build != NULL && i < op->build->lane_count; i++)
        link_drop(&op->build->lanes[i].link);
}

void build_free(struct move_op *op)
{
    if (op->build == NULL)
        return;
    for (unsigned i = 0; i < op->build->lane_count; i++)
        link_fini(&op->build->lanes[i].link);
    forget_parts(op->build);
    free(op->build);
    op->build = NULL;
}

/* ---- the rest ---- */

static void built(struct move_op *op, const struct process_result *result)
{
    (void)result;
    op_record(op)->build_us = (op_now(op) - op->copy_started_ns) / 1000;
    act_done(op, ACT_BUILD, NULL);
}

static void rest_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    static const char *const extra[] = {"-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-o", "/dev/null", NULL};
    const struct move_record *r = op_record(op);
    struct buf sql = {0}, tables = {0};
    (void)action;
    op_add_tables(op, &tables);
    /* whoever set the memory knows the server: a pod's limit, a database's size */
    sqlf(&sql,
         "SELECT set_config(name, '256MB', false) FROM pg_settings WHERE name = 'maintenance_work_mem' AND "
         "source = 'default'; SELECT shardherd.share_term(%d);\n"
         "SELECT set_config('shardherd.operation', %L, false);\n%s\n"
         "SET search_path = pg_catalog; DELETE FROM shardherd.post_data;\n"
         "SELECT shardherd.freeze(%d, %L, %d, %d, %s);\nANALYZE %s;\n",
         op_term(op), r->id, pg_value(reply, 0, 0), op_term(op), r->id, r->range.lo, r->range.hi,
         r->allow_ddl ? "true" : "false", buf_text(&tables));
    op_run_tool(op, ACT_BUILD, "psql", &op->target, extra, buf_text(&sql), BUILD_NS, built);
    buf_free(&sql);
    buf_free(&tables);
}

/* ---- side by side ---- */

static void parts_end(struct build *b)
{
    struct move_op *op = b->op;
    build_drop(op);
    forget_parts(b);
    if (b->err.code != ERRC_NONE)
        act_done(op, ACT_BUILD, &b->err);
    else
        act_sql(op, &op->target, ACT_BUILD, SQL_TIMEOUT_NS, rest_read,
                "SELECT coalesce(string_agg(script, '' ORDER BY number), '') FROM shardherd.post_data");
}

/* What locks out all others of its table waits for them here rather than there, where it would hold a lane.
 */
static bool may_begin(const struct build *b, const struct part *part)
{
    for (unsigned i = 0; i < b->lane_count; i++) {
        const struct part *other = b->lanes[i].part;
        if (other != NULL && (other->alone || part->alone) && strcmp(other->relation, part->relation) == 0)
            return false;
    }
    return true;
}

static struct part *next_part(const struct build *b)
{
    for (size_t i = 0; i < b->part_count; i++)
        if (!b->parts[i].begun && may_begin(b, &b->parts[i]))
            return &b->parts[i];
    return NULL;
}

static void run_lanes(struct build *b);

static void part_built(const struct pg_reply *reply, void *data)
{
    struct build_lane *lane = data;
    struct build *b = lane->build;
    struct move_op *op = b->op;
    if (!op->stopped) {
        lane->part->done = reply->err == NULL;
        if (reply->err != NULL && b->err.code == ERRC_NONE) {
            b->err = *reply->err;
            if (!err_is_sql(&b->err, "SHR03"))
                err_wrap(&b->err, "build on %s", lane->part->relation);
        }
        lane->part = NULL;
        b->running--;
        operation_maybe_kill(op->op.owner, "move:amid:build");
        run_lanes(b);
    }
    op_call_ended(op);
}

static void begin(struct build *b, struct build_lane *lane, struct part *part)
{
    struct buf sql = {0};
    part->begun = true;
    lane->part = part;
    b->running++;
    op_call_started(b->op); /* until the reply came */
    /* all lanes together take what one alone would; the setting as the lane's session has found it */
    sqlf(&sql,
         "RESET maintenance_work_mem; "
         "SELECT set_config(name, greatest(1024, CASE source WHEN 'default' THEN %d ELSE setting::bigint END "
         "/ %d) || "
         "'kB', false) FROM pg_settings WHERE name = 'maintenance_work_mem'; "
         "SELECT set_config('shardherd.operation', %L, false); SELECT shardherd.build_part(%d, %d)",
         (int64_t)MEMORY_KB, (int64_t)b->lane_count, op_record(b->op)->id, op_term(b->op), part->number);
    link_exec(&lane->link, buf_text(&sql), BUILD_NS, part_built, lane);
    buf_free(&sql);
}

/* Nothing new begins after a failure, or when somebody wants it back. */
static void run_lanes(struct build *b)
{
    if (b->op->core.undo_wanted && b->err.code == ERRC_NONE)
        err_set(&b->err, ERRC_CANCELED, "taken back");
    for (unsigned i = 0; i < b->lane_count && b->err.code == ERRC_NONE; i++) {
        struct part *part = b->lanes[i].part == NULL ? next_part(b) : NULL;
        if (part != NULL)
            begin(b, &b->lanes[i], part);
    }
    if (b->running == 0)
        parts_end(b);
}

/* The setting, or as many as the server builds one index with, within 2 and 4. */
static unsigned lanes_of(const struct move_op *op, const struct build *b, int64_t workers)
{
    unsigned wanted = op_services(op)->build_lanes;
    if (wanted == 0)
        wanted = workers < LANES_LEAST ? LANES_LEAST : workers > LANES_MOST ? LANES_MOST : (unsigned)workers;
    if (wanted > BUILD_LANES_MOST)
        wanted = BUILD_LANES_MOST;
    return wanted < b->part_count ? wanted : (unsigned)b->part_count;
}

static void take_parts(struct build *b, const struct pg_reply *reply)
{
    int count = pg_rows(reply);
    b->parts = mem_array((size_t)count + 1, sizeof *b->parts);
    for (int i = 0; i < count; i++) {
        struct part *part = &b->parts[b->part_count];
        if (!pg_value_int64(reply, i, 0, &part->number))
            continue; /* nothing of it: the row that tells of the server */
        part->relation = mem_strdup(pg_value(reply, i, 1));
        part->alone = pg_value_bool(reply, i, 2);
        b->part_count++;
    }
}

static void list_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    int64_t listed = 0, workers = 0;
    pg_value_int64(reply, 0, 3, &listed);
    pg_value_int64(reply, 0, 4, &workers);
    if (listed == 0) {
        act_done(op, action, NULL); /* a target that was there, or all is built */
        return;
    }
    if (op->build == NULL) {
        op->build = mem_zalloc(sizeof *op->build);
        op->build->op = op;
    }
    struct build *b = op->build;
    err_clear(&b->err);
    take_parts(b, reply);
    unsigned lanes = lanes_of(op, b, workers);
    for (; b->lane_count < lanes; b->lane_count++) {
        b->lanes[b->lane_count].build = b;
        op_set_link(op, &b->lanes[b->lane_count].link, &op->target.access);
    }
    run_lanes(b);
}

void act_build(struct move_op *op)
{
    op->copy_started_ns = op_now(op);
    act_sql(op, &op->target, ACT_BUILD, SQL_TIMEOUT_NS, list_read,
            END_OLD_BACKENDS
            "SELECT b.number, b.relation, b.alone, (SELECT count(*) FROM shardherd.post_data), "
            "current_setting('max_parallel_maintenance_workers') FROM (SELECT) AS one LEFT JOIN "
            "shardherd.parts_to_build() b ON true ORDER BY b.bytes DESC, b.number");
}
