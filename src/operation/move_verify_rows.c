/*
 * Verification, row by row: a bucket that differs is narrowed down to parts, parts to rows, and the rows that
 * are not the same are looked up again and again with markers in between, until they are - or have stood
 * still long enough to say what differs. The same lookups serve the sample before the fence.
 *
 * Rows are named by their key, in errors and findings; what is in them is told nowhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/move_verify.h"
#include "operation/sqlf.h"

#define LOOKUPS_MOST   15
#define TOLD_IN_ERROR  3
#define TOLD_IN_LOG    20
#define IDENTITY_SHOWN 160 /* bytes of a key that are told */
#define SAMPLE_NS      (100 * ENV_NS_PER_MS)

static void free_listed(struct verify *v)
{
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < v->listed_count[side]; i++)
            free(v->listed[side][i].identity);
        free(v->listed[side]);
        v->listed[side] = NULL;
        v->listed_count[side] = 0;
    }
}

static void free_found(struct verify_rows *rows)
{
    for (int i = 0; i < rows->count; i++)
        free(rows->identities[i]);
    free(rows->identities);
    free(rows->items);
    *rows = (struct verify_rows){0};
}

void verify_rows_free(struct verify *v)
{
    free_listed(v);
    free_found(&v->found);
}

static void begin_call(struct move_op *op, struct buf *sql, const char *function)
{
    sqlf(sql, "SELECT * FROM shardherd.%s(%L, %s", function, verify_table_name(op),
         op->verify->exact ? "true" : "false");
}

static void begin_bucket_call(struct move_op *op, struct buf *sql, const char *function)
{
    const struct move_record *r = op_record(op);
    begin_call(op, sql, function);
    sqlf(sql, ", %d, %d", r->range.lo, r->range.hi);
    buf_printf(sql, ", %d", op->verify->bucket);
}

/* ---- telling ---- */

/* The key of a row, cut between two characters. */
static void short_identity(const char *identity, char out[IDENTITY_SHOWN + 4])
{
    size_t length = strlen(identity);
    if (length <= IDENTITY_SHOWN) {
        memcpy(out, identity, length + 1);
        return;
    }
    length = IDENTITY_SHOWN;
    while (length > 0 && ((unsigned char)identity[length] & 0xC0) == 0x80)
        length--;
    memcpy(out, identity, length);
    memcpy(out + length, "...", 4);
}

static void add_finding(yyjson_mut_doc *doc, enum move_action action, const char *table, const char *text)
{
    const char *remedy = "compare the row on both shards; find out who wrote to the one that is wrong before "
                         "the move is tried again";
    if (action == ACT_REVERSE_VERIFY)
        remedy =
            "compare the row on both shards, repair the one that is wrong, and let the operation go on: it "
            "compares again";
    yyjson_mut_val *finding = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_strcpy(doc, finding, "subject", table);
    yyjson_mut_obj_add_strcpy(doc, finding, "finding", text);
    yyjson_mut_obj_add_str(doc, finding, "remedy", remedy);
    yyjson_mut_arr_append(yyjson_mut_doc_get_root(doc), finding);
}

/* As many as fit. */
static void keep_findings(struct move_op *op, yyjson_mut_doc *doc)
{
    struct move_record *r = op_record(op);
    yyjson_mut_val *all = yyjson_mut_doc_get_root(doc);
    bool kept = false;
    buf_reset(&r->findings);
    while (!kept && yyjson_mut_arr_size(all) > 0) {
        char *text = yyjson_mut_write(doc, 0, NULL);
        kept = text != NULL && buf_add_text(&r->findings, text);
        free(text);
        if (!kept)
            yyjson_mut_arr_remove_last(all);
    }
}

static void describe_row(struct move_op *op, int i, char *out, unsigned size)
{
    struct verify *v = op->verify;
    char identity[IDENTITY_SHOWN + 4], what[160];
    short_identity(v->found.identities[i], identity);
    verify_describe(&v->found.items[i], v->plan.owner_name, v->plan.copy_name, what, sizeof what);
    snprintf(out, size, "%s %s", identity, what);
}

/* Some rows differ for good: the end. */
static void tell_difference(struct move_op *op, const char *where)
{
    struct verify *v = op->verify;
    const struct move_record *r = op_record(op);
    struct err err = {0};
    struct buf text = {.limit = ERR_MESSAGE_SIZE};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    const char *table = verify_table_name(op);
    int told = 0;
    yyjson_mut_doc_set_root(doc, yyjson_mut_arr(doc));
    buf_printf(&text, "%s differs%s: ", table, where);
    for (int i = 0; i < v->found.count; i++) {
        char row[IDENTITY_SHOWN + 200];
        if (!verify_is_stable(&v->found.items[i]))
            continue;
        describe_row(op, i, row, sizeof row);
        add_finding(doc, v->plan.action, table, row);
        if (told < TOLD_IN_ERROR)
            buf_printf(&text, "%s%s", told > 0 ? "; " : "", row);
        if (told++ < TOLD_IN_LOG)
            log_event(LOG_ERROR, "a row differs", "op", r->id, "db", r->database, "table", table, "row", row,
                      NULL);
    }
    keep_findings(op, doc);
    yyjson_mut_doc_free(doc);
    if (told > TOLD_IN_ERROR)
        buf_printf(&text, "; %d rows of this part in all", told);
    (void)err_set(&err, ERRC_CORRUPT, "%s", buf_text(&text));
    buf_free(&text);
    verify_end(op, &err);
}

/* ---- lookups ---- */

static void add_json_identities(const struct verify_rows *rows, struct buf *sql)
{
    struct buf json = {0};
    buf_addc(&json, '[');
    for (int i = 0, n = 0; i < rows->count; i++)
        if (rows->items[i].wanted)
            buf_printf(&json, "%s%s", n++ > 0 ? "," : "", rows->identities[i]);
    buf_addc(&json, ']');
    sqlf(sql, ", %L)", buf_text(&json));
    buf_free(&json);
}

static int by_identity(const void *key, const void *element)
{
    return strcmp(key, *(char *const *)element);
}

static void take_found(struct move_op *op, int side, const struct pg_reply *reply)
{
    struct verify_rows *rows = &op->verify->found;
    for (int row = 0; row < pg_rows(reply); row++) {
        const char *identity = pg_value(reply, row, 0), *checksum = pg_value(reply, row, 2);
        char **at = identity == NULL || checksum == NULL
                        ? NULL
                        : bsearch(identity, rows->identities, (size_t)rows->count, sizeof *rows->identities,
                                  by_identity);
        if (at == NULL || !rows->items[at - rows->identities].wanted)
            continue;
        struct verify_item *item = &rows->items[at - rows->identities];
        struct verify_sum *sum = side == 0 ? &item->owner : &item->copy;
        pg_value_int64(reply, row, 1, &sum->rows);
        snprintf(sum->checksum, sizeof sum->checksum, "%s", checksum);
    }
}

static void judge_lookup(struct move_op *op)
{
    struct verify *v = op->verify;
    char where[64] = "";
    int stable;
    int differing = verify_judge(v->found.items, v->found.count, &stable);
    v->found.round++;
    if (stable >= 0 && v->exact) {
        if (v->plan.action != ACT_RECHECK)
            snprintf(where, sizeof where, " in bucket %d of %d of the range", v->bucket, VERIFY_BUCKETS);
        else
            snprintf(where, sizeof where, ", looked at once more before the fence");
        tell_difference(op, where);
    } else if (stable >= 0) {
        v->exact = true;
        v->rows_differ(op);
    } else if (differing == 0 || v->found.round >= LOOKUPS_MOST)
        v->rows_equal(op, differing == 0);
    else
        verify_marker(op, verify_lookup);
}

void verify_lookup(struct move_op *op)
{
    struct verify *v = op->verify;
    struct buf sql = {0};
    verify_clear(v->found.items, v->found.count);
    begin_call(op, &sql, "verify_lookup");
    add_json_identities(&v->found, &sql);
    verify_both(op, &sql, take_found, judge_lookup);
}

/* ---- narrowing: parts, then rows ---- */

static void take_parts(struct move_op *op, int side, const struct pg_reply *reply)
{
    verify_take_sums(op->verify->parts, side, reply);
}

static void take_listed(struct move_op *op, int side, const struct pg_reply *reply)
{
    struct verify *v = op->verify;
    int count = pg_rows(reply);
    v->listed[side] = mem_array((size_t)count + 1, sizeof *v->listed[side]);
    v->listed_count[side] = count;
    for (int i = 0; i < count; i++) {
        struct verify_row *row = &v->listed[side][i];
        const char *identity = pg_value(reply, i, 0), *checksum = pg_value(reply, i, 2);
        row->identity = mem_strdup(identity != NULL ? identity : "");
        pg_value_int64(reply, i, 1, &row->sum.rows);
        snprintf(row->sum.checksum, sizeof row->sum.checksum, "%s", checksum != NULL ? checksum : "");
    }
}

static void bucket_equal(struct move_op *op, bool equal)
{
    if (op->verify->all_listed)
        verify_bucket_done(op, equal);
    else
        verify_next_round(op);
}

static void judge_listed(struct move_op *op)
{
    struct verify *v = op->verify;
    free_found(&v->found);
    v->found.count = verify_merge(v->listed, v->listed_count, VERIFY_ROWS_MOST, VERIFY_NAMED_MOST,
                                  &v->found.items, &v->found.identities);
    v->all_listed = v->all_listed && v->found.count < VERIFY_NAMED_MOST &&
                    v->listed_count[0] < VERIFY_ROWS_MOST && v->listed_count[1] < VERIFY_ROWS_MOST;
    free_listed(v);
    v->rows_equal = bucket_equal;
    v->rows_differ = verify_piece_again;
    if (v->found.count == 0)
        bucket_equal(op, true);
    else
        verify_marker(op, verify_lookup);
}

/* As many parts as hold at most VERIFY_ROWS_MOST rows, at least one. False: some were left out. */
static bool add_parts(const struct verify *v, struct buf *sql)
{
    bool all = true;
    int64_t rows = 0;
    int n = 0;
    buf_add_text(sql, ", '{");
    for (int i = 0; i < VERIFY_BUCKETS; i++) {
        const struct verify_item *part = &v->parts[i];
        if (!part->wanted)
            continue;
        rows += part->owner.rows > part->copy.rows ? part->owner.rows : part->copy.rows;
        if (n > 0 && rows > VERIFY_ROWS_MOST) {
            all = false;
            break;
        }
        buf_printf(sql, "%s%d", n++ > 0 ? "," : "", i);
    }
    buf_printf(sql, "}'::int[], %d", VERIFY_ROWS_MOST);
    return all;
}

static void judge_parts(struct move_op *op)
{
    struct verify *v = op->verify;
    struct buf sql = {0};
    int stable;
    if (verify_judge(v->parts, VERIFY_BUCKETS, &stable) == 0) {
        verify_bucket_done(op, true); /* at that moment all of it was */
        return;
    }
    begin_bucket_call(op, &sql, "verify_rows");
    v->all_listed = add_parts(v, &sql);
    verify_add_cut(op, &sql);
    verify_both(op, &sql, take_listed, judge_listed);
}

void verify_narrow(struct move_op *op)
{
    struct verify *v = op->verify;
    struct buf sql = {0};
    verify_begin(v->parts, VERIFY_BUCKETS);
    begin_bucket_call(op, &sql, "verify_parts");
    verify_add_cut(op, &sql);
    v->piece_read += v->piece_bytes;
    verify_both(op, &sql, take_parts, judge_parts);
}

/* ---- the sample ---- */

static void next_sample(struct move_op *op);

static void sample_equal(struct move_op *op, bool equal)
{
    (void)equal;
    op_record(op)->rechecked_rows += (uint64_t)op->verify->found.count;
    next_sample(op);
}

/* In the exact form now. */
static void sample_again(struct move_op *op)
{
    struct verify_rows *rows = &op->verify->found;
    rows->round = 0;
    verify_begin(rows->items, rows->count);
    verify_lookup(op);
}

static int compare_identities(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sample_told(struct move_op *op)
{
    struct verify *v = op->verify;
    struct verify_rows *rows = &v->found;
    int most = v->listed_count[0] + v->listed_count[1], n = 0;
    free_found(rows);
    rows->identities = mem_array((size_t)most + 1, sizeof *rows->identities);
    rows->items = mem_array((size_t)most + 1, sizeof *rows->items);
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < v->listed_count[side]; i++) {
            rows->identities[n++] = v->listed[side][i].identity;
            v->listed[side][i].identity = NULL;
        }
    free_listed(v);
    qsort(rows->identities, (size_t)n, sizeof *rows->identities, compare_identities);
    for (int i = 0; i < n; i++)
        if (rows->count > 0 && strcmp(rows->identities[rows->count - 1], rows->identities[i]) == 0)
            free(rows->identities[i]);
        else
            rows->identities[rows->count++] = rows->identities[i];
    v->rows_equal = sample_equal;
    v->rows_differ = sample_again;
    if (rows->count == 0)
        next_sample(op);
    else
        sample_again(op);
}

static void next_sample(struct move_op *op)
{
    struct verify *v = op->verify;
    const struct move_record *r = op_record(op);
    const struct fleet_database *db = op_database(op);
    struct buf sql = {0};
    if (db == NULL || v->tables_left == 0 || op_now(op) > v->sample_until_ns) {
        verify_end(op, NULL);
        return;
    }
    v->tables_left--;
    v->table = (v->table + 1) % db->routing->table_count;
    v->exact = false;
    sqlf(&sql, "SELECT * FROM shardherd.verify_sample(%L, %d, %d)", verify_table_name(op), r->range.lo,
         r->range.hi);
    verify_both(op, &sql, take_listed, sample_told);
}

/*
 * Right before the fence: what was equal when it was verified has been written since, and every write came by
 * the same way. If that way is broken - a table that fell out of the publication, a row filter that means
 * something else, an apply worker that leaves changes out, a client that writes to T - then it is for many
 * rows, not for one. So some rows of both sides, those of the ends of the heaps among them, are compared on
 * both; each table, or as many from a random one on as fit into SAMPLE_NS. It cannot find one damaged row;
 * that is what ACT_VERIFY is for.
 */
void verify_start_sample(struct move_op *op, const struct verify_plan *plan)
{
    const struct fleet_database *db = op_database(op);
    verify_free(op);
    op->verify = mem_zalloc(sizeof *op->verify);
    struct verify *v = op->verify;
    v->plan = *plan;
    v->tables_left = db != NULL ? db->routing->table_count : 0;
    v->table = v->tables_left > 0 ? env_random_below(op_services(op)->loop->env, v->tables_left) : 0;
    v->sample_until_ns = op_now(op) + SAMPLE_NS;
    next_sample(op);
}

static void verify_some(struct move_op *op, enum move_action action)
{
    const struct verify_plan plan = verify_forward(op, action);
    op_record(op)->rechecked_rows = 0;
    verify_start_sample(op, &plan);
}

void act_recheck(struct move_op *op)
{
    look_around(op, ACT_RECHECK, verify_some);
}
