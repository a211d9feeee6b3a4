/*
 * Verification under load: counts and order-free checksums of R per bucket on both sides, table by table.
 *
 * One statement reads a table, or a piece of it, on both sides at the same moment, and returns the buckets
 * that have rows. What differs is read again after a marker (verify.h), in ever smaller numbers; a bucket
 * whose difference stands still, or that changes all the time, is narrowed down to its rows
 * (move_verify_rows.c).
 *
 * Pieces bound the work of one statement: it holds a snapshot, behind which S cannot be vacuumed, and under a
 * rate limit it is followed by a pause. A table is cut along a column of an index whose order is that of the
 * heap, so that each piece is read in one go; along any other, each piece would read most of the table. A
 * table without such a column is read in one statement at full speed - as the copy did before, but some times
 * faster - and the limit holds on average.
 *
 * How far it is stands in the journal, so that a new manager, or another try, goes on there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/move_verify.h"
#include "operation/sqlf.h"

#define PIECE_MOST         (4ull << 30) /* bytes of a table in one statement */
#define JOURNAL_NS         ENV_NS_PER_S /* how often progress is journaled, at most */
#define MARKER_BOUND_NS    (10 * ENV_NS_PER_S)
#define STATEMENT_LEAST_NS (3600 * ENV_NS_PER_S) /* a client's deadline, beside a second per 10 MiB */
#define CUT_TIMEOUT_NS     (300 * ENV_NS_PER_S)

void verify_free(struct move_op *op)
{
    struct verify *v = op->verify;
    if (v == NULL)
        return;
    verify_rows_free(v);
    free(v->columns[0]);
    free(v->columns[1]);
    free(v);
    op->verify = NULL;
}

void verify_end(struct move_op *op, const struct err *err)
{
    struct err copy = {0};
    enum move_action action = op->verify->plan.action;
    if (err != NULL)
        copy = *err;
    if (action != ACT_RECHECK)
        op->verify->plan.progress->us += (op_now(op) - op->verify->started_ns) / 1000;
    verify_free(op);
    act_done(op, action, err != NULL ? &copy : NULL);
}

/* Whether nobody wants its result any more. */
static bool unwanted(const struct move_op *op)
{
    const struct move_record *r = &op->core.record;
    return op->core.undo_wanted ||
           (op->verify->plan.action == ACT_REVERSE_VERIFY && (r->rollback || r->accepted));
}

void verify_hurry(struct move_op *op)
{
    if (op->verify == NULL || !unwanted(op))
        return;
    struct link *owner = op->verify->plan.owner, *copy = op->verify->plan.copy;
    marker_hurry(op);
    if (loop_timer_armed(&op->poll_timer)) /* a pause, or a marker is waited for */
        loop_timer_start(&op->poll_timer, 0);
    else { /* a statement may take long; its end ends the verification */
        link_drop(owner);
        link_drop(copy);
    }
}

static void fail(struct move_op *op, enum err_code code, const char *text)
{
    struct err err = {0};
    (void)err_set(&err, code, "%s", text);
    verify_end(op, &err);
}

const char *verify_table_name(const struct move_op *op)
{
    const struct fleet_database *db = op_database(op);
    return db != NULL && op->verify->table < db->routing->table_count
               ? db->routing->tables[op->verify->table].table
               : NULL;
}

/* ---- one statement on both sides ---- */

static void answered(struct move_op *op, int side, const struct pg_reply *reply)
{
    struct verify *v = op->verify;
    v->outstanding--;
    if (reply->err != NULL) {
        v->err = *reply->err;
        if (!err_is_sql(&v->err, "SHR03"))
            err_wrap(&v->err, "verify on %s", side == 0 ? v->plan.owner_name : v->plan.copy_name);
    } else if (v->err.code == ERRC_NONE)
        v->take(op, side, reply);
    if (v->outstanding > 0)
        return;
    if (v->err.code != ERRC_NONE)
        verify_end(op, &v->err);
    else if (unwanted(op))
        fail(op, ERRC_CANCELED, "taken back");
    else
        v->next(op);
}

static void owner_answered(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    answered(op, 0, reply);
}

static void copy_answered(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    answered(op, 1, reply);
}

void verify_both(struct move_op *op, struct buf *sql,
                 void (*take)(struct move_op *op, int side, const struct pg_reply *reply),
                 void (*next)(struct move_op *op))
{
    struct verify *v = op->verify;
    uint64_t timeout_ns = STATEMENT_LEAST_NS + v->bytes / (10 << 20) * ENV_NS_PER_S;
    /* who sets a limit wants the servers left alone */
    const char *alone = op_services(op)->verify_rate > 0 || v->plan.gentle
                            ? "SET LOCAL max_parallel_workers_per_gather = 0; "
                            : "";
    v->take = take;
    v->next = next;
    v->outstanding = 2;
    act_sql_any(op, v->plan.owner, v->plan.action, timeout_ns, owner_answered, "%s%s", alone, buf_text(sql));
    act_sql_any(op, v->plan.copy, v->plan.action, timeout_ns, copy_answered, "%s%s", alone, buf_text(sql));
    buf_free(sql);
}

void verify_take_sums(struct verify_item *items, int side, const struct pg_reply *reply)
{
    for (int row = 0; row < pg_rows(reply); row++) {
        int64_t number = -1;
        const char *checksum = pg_value(reply, row, 2);
        if (!pg_value_int64(reply, row, 0, &number) || number < 0 || number >= VERIFY_BUCKETS ||
            !items[number].wanted || checksum == NULL)
            continue;
        struct verify_sum *sum = side == 0 ? &items[number].owner : &items[number].copy;
        pg_value_int64(reply, row, 1, &sum->rows);
        snprintf(sum->checksum, sizeof sum->checksum, "%s", checksum);
    }
}

void verify_add_cut(const struct move_op *op, struct buf *sql)
{
    const struct verify *v = op->verify;
    sqlf(sql, ", %L, %L, %L)", v->cut_column[0] != '\0' ? v->cut_column : NULL,
         v->after[0] != '\0' ? v->after : NULL, v->upto[0] != '\0' ? v->upto : NULL);
}

/* ---- a marker in between ---- */

/* A copy that follows and does not catch up: time has not mended it. */
static void does_not_catch_up(struct move_op *op)
{
    const struct verify *v = op->verify;
    struct err late = {0};
    (void)err_set(
        &late, ERRC_REFUSED,
        "shard %s does not catch up with shard %s: no marker came over in %llu s. Look into its log "
        "for what its subscription stops at",
        v->plan.copy_name, v->plan.owner_name, (unsigned long long)(v->plan.marker_bound_ns / ENV_NS_PER_S));
    verify_end(op, &late);
}

static void marker_came(struct move_op *op, const struct err *err)
{
    if (err != NULL && err->code == ERRC_TIMEOUT && op->verify->plan.action == ACT_REVERSE_VERIFY)
        does_not_catch_up(op);
    else if (err != NULL)
        verify_end(op, err);
    else if (unwanted(op))
        fail(op, ERRC_CANCELED, "taken back");
    else
        op->verify->next(op);
}

void verify_marker(struct move_op *op, void (*then)(struct move_op *op))
{
    op->verify->next = then;
    op->verify->plan.marker(op, op->verify->plan.marker_bound_ns, marker_came);
}

/* ---- pieces: how far it is ---- */

static void next_table(struct move_op *op);
static void next_piece(struct move_op *op);

static void go_on(struct move_op *op)
{
    if (unwanted(op))
        fail(op, ERRC_CANCELED, "taken back");
    else if (op->verify->upto[0] == '\0')
        next_table(op);
    else
        next_piece(op);
}

static void paused(struct loop_timer *timer, void *data)
{
    (void)timer;
    go_on(data);
}

/* As long as the rate asks for what was read, less the time that it took; or as long as that again. */
static void pause_then_go_on(struct move_op *op)
{
    struct verify *v = op->verify;
    uint64_t rate = op_services(op)->verify_rate;
    uint64_t took = op_now(op) - v->piece_started_ns;
    uint64_t due = rate > 0 ? (uint64_t)((double)v->piece_read / (double)rate * 1e9) : 0;
    if (v->plan.gentle && due < 2 * took)
        due = 2 * took;
    if (due <= took || unwanted(op)) {
        go_on(op);
        return;
    }
    op->poll_timer.fire = paused;
    loop_timer_start(&op->poll_timer, due - took);
}

static void on_journaled(struct operation *base, const struct err *err, void *data)
{
    struct move_op *op = (struct move_op *)base;
    (void)data;
    if (op->stopped)
        return;
    if (err == NULL) {
        pause_then_go_on(op);
        return;
    }
    struct err copy = *err;
    if (copy.code == ERRC_CONFLICT) /* another manager wrote it: this one may do nothing more */
        copy.code = ERRC_STALE;
    verify_end(op, &copy);
}

static void count_piece(struct move_op *op)
{
    struct verify *v = op->verify;
    struct move_verified *p = v->plan.progress;
    for (int i = 0; i < VERIFY_BUCKETS; i++) {
        p->rows += (uint64_t)v->buckets[i].owner.rows;
        p->buckets += !v->buckets[i].wanted && v->buckets[i].owner.rows > 0;
    }
    p->bytes += v->piece_bytes;
    memcpy(p->after, v->upto, sizeof p->after);
    memcpy(v->after, v->upto, sizeof v->after);
    if (v->upto[0] == '\0') {
        p->tables++;
        p->table[0] = '\0';
    }
    operation_changed(&op->op);
}

static void piece_done(struct move_op *op)
{
    struct verify *v = op->verify;
    struct err err = {0};
    count_piece(op);
    if (v->upto[0] != '\0' && op_now(op) - v->journaled_ns < JOURNAL_NS) {
        pause_then_go_on(op);
        return;
    }
    v->journaled_ns = op_now(op);
    if (operation_journal(&op->op, on_journaled, NULL, &err) != 0)
        verify_end(op, &err);
}

/* ---- rounds ---- */

static void bucket_sums(struct move_op *op, int side, const struct pg_reply *reply)
{
    verify_take_sums(op->verify->buckets, side, reply);
}

static void judge_round(struct move_op *op);

static void start_round(struct move_op *op)
{
    struct verify *v = op->verify;
    const struct move_record *r = op_record(op);
    const char *table = verify_table_name(op);
    struct buf sql = {0};
    if (table == NULL) {
        fail(op, ERRC_NOT_FOUND, "the database was deleted");
        return;
    }
    verify_clear(v->buckets, VERIFY_BUCKETS);
    sqlf(&sql, "SELECT * FROM shardherd.verify_buckets(%L, %s, %d, %d, ", table, v->exact ? "true" : "false",
         r->range.lo, r->range.hi);
    if (v->round == 0)
        buf_add_text(&sql, "NULL");
    else {
        buf_add_text(&sql, "'{");
        for (int i = 0, n = 0; i < VERIFY_BUCKETS; i++)
            if (v->buckets[i].wanted)
                buf_printf(&sql, "%s%d", n++ > 0 ? "," : "", i);
        buf_add_text(&sql, "}'::int[]");
    }
    verify_add_cut(op, &sql);
    v->piece_read += v->piece_bytes;
    verify_both(op, &sql, bucket_sums, judge_round);
}

void verify_next_round(struct move_op *op)
{
    verify_marker(op, start_round);
}

static int first_wanted(const struct verify *v)
{
    for (int i = 0; i < VERIFY_BUCKETS; i++)
        if (v->buckets[i].wanted)
            return i;
    return -1;
}

/* A bucket that stands still, while the rows that were looked at do not say why: there are more. */
static void differs_namelessly(struct move_op *op, int bucket)
{
    struct verify *v = op->verify;
    const struct verify_item *b = &v->buckets[bucket];
    struct err err = {0};
    if (!v->exact) {
        v->exact = true;
        verify_piece_again(op);
        return;
    }
    (void)err_set(&err, ERRC_CORRUPT,
                  "%s differs in bucket %d of %d of the range: %lld rows on %s, %lld on %s, too many to "
                  "name those that differ, and nothing changes there",
                  verify_table_name(op), bucket, VERIFY_BUCKETS, (long long)b->owner.rows, v->plan.owner_name,
                  (long long)b->copy.rows, v->plan.copy_name);
    verify_end(op, &err);
}

static void judge_round(struct move_op *op)
{
    struct verify *v = op->verify;
    int stable;
    v->differing = verify_judge(v->buckets, VERIFY_BUCKETS, &stable);
    v->plan.progress->rounds++;
    v->round++;
    if (v->differing == 0)
        piece_done(op);
    else if (v->round >= VERIFY_ROUNDS_MOST && stable >= 0)
        differs_namelessly(op, stable);
    else if (v->round >= VERIFY_ROUNDS_MOST) {
        v->plan.progress->buckets_in_motion += (uint64_t)v->differing;
        piece_done(op);
    } else if (stable >= 0 || v->round >= VERIFY_NARROW_FROM) {
        v->bucket = stable >= 0 ? stable : first_wanted(v);
        verify_narrow(op);
    } else
        verify_next_round(op);
}

void verify_bucket_done(struct move_op *op, bool equal)
{
    struct verify *v = op->verify;
    v->buckets[v->bucket].wanted = false;
    if (!equal)
        v->plan.progress->buckets_in_motion++;
    if (first_wanted(v) < 0)
        piece_done(op);
    else
        verify_next_round(op);
}

void verify_piece_again(struct move_op *op)
{
    struct verify *v = op->verify;
    v->round = 0;
    verify_begin(v->buckets, VERIFY_BUCKETS);
    start_round(op);
}

static void cut_found(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct verify *v = op->verify;
    (void)action;
    if (reply->err != NULL) {
        verify_end(op, reply->err);
        return;
    }
    const char *upto = pg_value(reply, 0, 0);
    snprintf(v->upto, sizeof v->upto, "%s", upto != NULL ? upto : "");
    verify_piece_again(op);
}

/* How much one statement may read. */
static uint64_t piece_size(const struct move_op *op)
{
    uint64_t rate = op_services(op)->verify_rate;
    uint64_t most = op->verify->plan.piece_most;
    return rate > 0 && rate < most ? rate : most;
}

static void next_piece(struct move_op *op)
{
    struct verify *v = op->verify;
    v->piece_started_ns = op_now(op);
    v->piece_read = 0;
    v->piece_bytes = v->bytes;
    v->upto[0] = '\0';
    if (v->cut_column[0] == '\0' || v->rows == 0 || v->bytes <= piece_size(op)) {
        verify_piece_again(op);
        return;
    }
    uint64_t rows = (uint64_t)((double)v->rows * (double)piece_size(op) / (double)v->bytes) + 1;
    v->piece_bytes = piece_size(op);
    act_sql_any(op, v->plan.owner, v->plan.action, CUT_TIMEOUT_NS, cut_found,
                "SELECT shardherd.verify_cut(%L, %L, %L, %d)", verify_table_name(op), v->cut_column,
                v->after[0] != '\0' ? v->after : NULL, (int64_t)rows);
}

/* ---- tables ---- */

static void table_told(struct move_op *op, int side, const struct pg_reply *reply)
{
    struct verify *v = op->verify;
    const char *columns = pg_value(reply, 0, 0), *cut = pg_value(reply, 0, 3);
    int64_t bytes = 0, rows = 0;
    v->columns[side] = mem_strdup(columns != NULL ? columns : "none");
    if (side != 0)
        return;
    pg_value_int64(reply, 0, 1, &bytes);
    pg_value_int64(reply, 0, 2, &rows);
    v->bytes = (uint64_t)bytes;
    v->rows = (uint64_t)rows;
    snprintf(v->cut_column, sizeof v->cut_column, "%s", cut != NULL ? cut : "");
}

static void table_known(struct move_op *op)
{
    struct verify *v = op->verify;
    struct err err = {0};
    if (strcmp(v->columns[0], v->columns[1]) != 0) {
        (void)err_set(&err, ERRC_REFUSED, "%s is not the same table on %s (%s) and on %s (%s): make it so",
                      verify_table_name(op), v->plan.owner_name, v->columns[0], v->plan.copy_name,
                      v->columns[1]);
        verify_end(op, &err);
        return;
    }
    if (v->cut_column[0] == '\0') /* it was cut before, and cannot be now: all of it */
        v->after[0] = '\0';
    next_piece(op);
}

static void forget_columns(struct verify *v)
{
    for (int side = 0; side < 2; side++) {
        free(v->columns[side]);
        v->columns[side] = NULL;
    }
}

static void next_table(struct move_op *op)
{
    struct verify *v = op->verify;
    struct move_verified *p = v->plan.progress;
    struct buf sql = {0};
    forget_columns(v);
    v->exact = false;
    v->table = p->tables;
    const char *table = verify_table_name(op);
    if (op_database(op) == NULL)
        fail(op, ERRC_NOT_FOUND, "the database was deleted");
    else if (table == NULL) /* all of them */
        verify_end(op, NULL);
    else {
        snprintf(p->table, sizeof p->table, "%s", table);
        sqlf(&sql, "SELECT * FROM shardherd.verify_table(%L)", table);
        verify_both(op, &sql, table_told, table_known);
    }
}

/* Where the journal says that it was, or at the beginning. */
static void find_place(struct move_op *op)
{
    struct verify *v = op->verify;
    struct move_verified *p = v->plan.progress;
    const struct move_record *r = op_record(op);
    const char *name = move_action_name(v->plan.action);
    v->table = p->tables;
    const char *table = verify_table_name(op);
    bool same = strcmp(p->action, name) == 0 &&
                (p->table[0] == '\0' || (table != NULL && strcmp(p->table, table) == 0));
    if (same) {
        memcpy(v->after, p->after, sizeof v->after);
        log_event(LOG_INFO, "verification goes on", "op", r->id, "db", r->database, "table", table, "at",
                  v->after[0] != '\0' ? "amid" : "start", "rows", log_num((long long)p->rows), NULL);
        return;
    }
    *p = (struct move_verified){0};
    snprintf(p->action, sizeof p->action, "%s", name);
}

static void size_told(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    int64_t bytes = 0;
    (void)action;
    if (reply->err != NULL) {
        verify_end(op, reply->err);
        return;
    }
    pg_value_int64(reply, 0, 0, &bytes);
    op->verify->plan.progress->all_bytes = (uint64_t)bytes;
    next_table(op);
}

void verify_start(struct move_op *op, const struct verify_plan *plan)
{
    verify_free(op);
    op->verify = mem_zalloc(sizeof *op->verify);
    op->verify->plan = *plan;
    op->verify->started_ns = op->verify->journaled_ns = op_now(op);
    if (op_database(op) == NULL) {
        fail(op, ERRC_NOT_FOUND, "the database was deleted");
        return;
    }
    if (unwanted(op)) {
        fail(op, ERRC_CANCELED, "taken back");
        return;
    }
    find_place(op);
    act_sql_any(op, plan->owner, plan->action, SQL_TIMEOUT_NS, size_told,
                "SELECT coalesce(sum(v.bytes), 0)::bigint FROM shardherd.tables t, "
                "LATERAL shardherd.verify_table(t.name) v");
}

struct verify_plan verify_forward(struct move_op *op, enum move_action action)
{
    return (struct verify_plan){.action = action,
                                .owner = &op->source,
                                .copy = &op->target,
                                .owner_name = op_record(op)->source,
                                .copy_name = op_record(op)->target,
                                .progress = &op_record(op)->verified,
                                .piece_most = PIECE_MOST,
                                .marker_bound_ns = MARKER_BOUND_NS,
                                .marker = marker_round_trip};
}

static void verify_all(struct move_op *op, enum move_action action)
{
    const struct verify_plan plan = verify_forward(op, action);
    verify_start(op, &plan);
}

void act_verify(struct move_op *op)
{
    look_around(op, ACT_VERIFY, verify_all);
}
