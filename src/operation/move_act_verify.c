/*
 * Verification under load: counts and order-free checksums of R per bucket on both sides.
 *
 * Both sides are read at the same moment, but not at the same point of the stream of changes, so buckets that
 * are being written may differ. Those are read again after a marker has made the round trip, in ever smaller
 * numbers. A bucket that differs while neither side changes between two rounds is a difference of the data;
 * one that keeps changing for all rounds cannot be judged under load and is counted as in motion.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

#define BUCKETS           1024
#define ROUNDS_MOST       15
#define STABLE_ROUNDS     2
#define VERIFY_TIMEOUT_NS (3600 * ENV_NS_PER_S)

struct bucket {
    int64_t rows;
    char checksum[32];
};

struct verify {
    size_t table;
    unsigned round; /* of this table, from 0 */
    struct bucket source[BUCKETS], target[BUCKETS];
    struct bucket source_before[BUCKETS], target_before[BUCKETS];
    unsigned stable[BUCKETS]; /* rounds in a row with the same difference */
    bool wanted[BUCKETS];
    int outstanding;
    struct err err;
};

void verify_free(struct move_op *op)
{
    free(op->verify);
    op->verify = NULL;
}

static void start_round(struct move_op *op);

static void end_verify(struct move_op *op, const struct err *err)
{
    struct err copy = {0};
    if (err != NULL)
        copy = *err;
    verify_free(op);
    act_done(op, ACT_VERIFY, err != NULL ? &copy : NULL);
}

static bool same(const struct bucket *a, const struct bucket *b)
{
    return a->rows == b->rows && strcmp(a->checksum, b->checksum) == 0;
}

static void next_table(struct move_op *op)
{
    struct verify *v = op->verify;
    for (int i = 0; i < BUCKETS; i++)
        op_record(op)->verified_rows += (uint64_t)v->source[i].rows;
    v->table++;
    v->round = 0;
    memset(v->stable, 0, sizeof v->stable);
    start_round(op);
}

static void report_difference(struct move_op *op, int bucket)
{
    struct verify *v = op->verify;
    struct err err = {0};
    const struct fleet_database *db = op_database(op);
    err_set(
        &err, ERRC_CORRUPT,
        "%s differs in bucket %d of %d of the range: %lld rows on %s, %lld on %s, and nothing changes there",
        db != NULL ? db->routing->tables[v->table].table : "?", bucket, BUCKETS,
        (long long)v->source[bucket].rows, op_record(op)->source, (long long)v->target[bucket].rows,
        op_record(op)->target);
    end_verify(op, &err);
}

static void marker_came(struct move_op *op, const struct err *err)
{
    if (err != NULL)
        end_verify(op, err);
    else
        start_round(op);
}

static void judge_round(struct move_op *op)
{
    struct verify *v = op->verify;
    int differing = 0;
    for (int i = 0; i < BUCKETS; i++) {
        if (!v->wanted[i])
            continue;
        v->wanted[i] = !same(&v->source[i], &v->target[i]);
        if (!v->wanted[i])
            continue;
        differing++;
        bool still = v->round > 0 && same(&v->source[i], &v->source_before[i]) &&
                     same(&v->target[i], &v->target_before[i]);
        v->stable[i] = still ? v->stable[i] + 1 : 0;
        if (v->stable[i] >= STABLE_ROUNDS) {
            report_difference(op, i);
            return;
        }
    }
    op_record(op)->verify_rounds++;
    v->round++;
    if (differing == 0)
        next_table(op);
    else if (v->round >= ROUNDS_MOST) {
        op_record(op)->buckets_in_motion += (uint64_t)differing;
        next_table(op);
    } else {
        memcpy(v->source_before, v->source, sizeof v->source);
        memcpy(v->target_before, v->target, sizeof v->target);
        marker_round_trip(op, 10 * ENV_NS_PER_S, marker_came);
    }
}

static void keep(struct verify *v, struct bucket *side, const struct pg_reply *reply)
{
    for (int i = 0; i < BUCKETS; i++)
        if (v->wanted[i])
            side[i] = (struct bucket){0};
    for (int row = 0; row < pg_rows(reply); row++) {
        int64_t bucket = -1;
        pg_value_int64(reply, row, 0, &bucket);
        if (bucket < 0 || bucket >= BUCKETS)
            continue;
        pg_value_int64(reply, row, 1, &side[bucket].rows);
        snprintf(side[bucket].checksum, sizeof side[bucket].checksum, "%s", pg_value(reply, row, 2));
    }
}

static void side_done(struct move_op *op, struct bucket *side, const struct pg_reply *reply)
{
    struct verify *v = op->verify;
    v->outstanding--;
    if (reply->err != NULL)
        v->err = *reply->err;
    else
        keep(v, side, reply);
    if (v->outstanding > 0)
        return;
    if (v->err.code != ERRC_NONE)
        end_verify(op, &v->err);
    else
        judge_round(op);
}

static void source_summed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    side_done(op, op->verify->source, reply);
}

static void target_summed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    side_done(op, op->verify->target, reply);
}

static void start_round(struct move_op *op)
{
    struct verify *v = op->verify;
    const struct fleet_database *db = op_database(op);
    const struct move_record *r = op_record(op);
    struct buf wanted = {0};
    if (db == NULL || v->table >= db->routing->table_count) {
        end_verify(op, NULL);
        return;
    }
    if (v->round == 0) {
        memset(v->wanted, 1, sizeof v->wanted);
        buf_add_text(&wanted, "NULL");
    } else {
        buf_add_text(&wanted, "ARRAY[");
        for (int i = 0, n = 0; i < BUCKETS; i++)
            if (v->wanted[i])
                buf_printf(&wanted, "%s%d", n++ > 0 ? "," : "", i);
        buf_add_text(&wanted, "]");
    }
    v->outstanding = 2;
    const char *sql = "SELECT bucket, row_count, checksum FROM shardherd.buckets(%L, %d, %d, 1024, %s)";
    act_sql_any(op, &op->source, ACT_VERIFY, VERIFY_TIMEOUT_NS, source_summed, sql,
                db->routing->tables[v->table].table, r->range.lo, r->range.hi, buf_text(&wanted));
    act_sql_any(op, &op->target, ACT_VERIFY, VERIFY_TIMEOUT_NS, target_summed, sql,
                db->routing->tables[v->table].table, r->range.lo, r->range.hi, buf_text(&wanted));
    buf_free(&wanted);
}

void act_verify(struct move_op *op)
{
    verify_free(op);
    op->verify = mem_zalloc(sizeof *op->verify);
    op_record(op)->verified_rows = 0;
    op_record(op)->verify_rounds = 0;
    op_record(op)->buckets_in_motion = 0;
    start_round(op);
}
