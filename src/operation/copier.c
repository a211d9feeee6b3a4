/*
 * Happy path of a lane: both sessions are made ready, then pieces until none is left: begin on T, pump,
 * commit on T. Failure: the first error is kept, every lane is ended where it stands, `done` when the last
 * has come to rest.
 */
#include "operation/copier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/copy_estimate.h"
#include "operation/link.h"
#include "operation/sqlf.h"
#include "pg/pg_copy.h"

#define PIECE_BLOCKS                                                                                         \
    4096 /* 32 MiB of heap: small enough to share out, large enough to hide its round trips */
#define STATEMENT_NS   (60 * ENV_NS_PER_S)
#define LINK_TEXT_MOST 64

/*
 * READYING --> BEGINNING --> PUMPING --> COMMITTING --> BEGINNING ... --> LEAVING --> RESTING
 * Every state goes to RESTING when its session fails; a lane of a copier that was broken meanwhile rests at
 * the next answer.
 */
enum lane_state { LANE_READYING, LANE_BEGINNING, LANE_PUMPING, LANE_COMMITTING, LANE_LEAVING, LANE_RESTING };

struct lane {
    struct copier *copier;
    unsigned number;
    enum lane_state state;
    struct link source, target;
    int unready; /* sessions that have not answered their first statement */
    uint64_t source_session, target_session;
    struct copier_piece piece;
    struct pg_pump *pump;
    uint64_t rows, bytes;         /* committed */
    uint64_t now_rows, now_bytes; /* of the piece under way */
};

/* What has become of a heap. */
struct heap_done {
    uint64_t rows, bytes, blocks; /* committed */
    int pieces;                   /* that are not */
    int first;                    /* the first heap of the same table */
    int unfinished;               /* of that first one: heaps of the table that have such pieces */
};

struct copier {
    int open;      /* connections and statements that have not ended, and 1 for the owner */
    bool orphaned; /* copier_free() was called */
    struct copier_options o;
    char *application, *snapshot, *origin;
    struct lane lanes[COPIER_LANES_MOST];
    unsigned resting;
    int pieces, next;
    struct heap_done *heaps;
    struct err err;
    bool broken;
    struct loop_task task; /* tells the end, or frees */
    bool told;
};

/* ---- pieces ---- */

static int pieces_of(const struct copier_heap *heap)
{
    int64_t n = (heap->blocks + PIECE_BLOCKS - 1) / PIECE_BLOCKS;
    return n < 1 ? 1 : (int)n; /* an empty heap may have rows by now */
}

int copier_pieces(const struct copier_heap *heaps, int count)
{
    int pieces = 0;
    for (int i = 0; i < count; i++)
        pieces += pieces_of(&heaps[i]);
    return pieces;
}

struct copier_piece copier_piece(const struct copier_heap *heaps, int count, int n)
{
    int heap = 0;
    while (heap < count - 1 && n >= pieces_of(&heaps[heap]))
        n -= pieces_of(&heaps[heap++]);
    bool last = n == pieces_of(&heaps[heap]) - 1;
    return (struct copier_piece){heap, (int64_t)n * PIECE_BLOCKS,
                                 last ? -1 : (int64_t)(n + 1) * PIECE_BLOCKS};
}

static void add_source_sql(const struct copier_heap *heap, const struct copier_piece *piece, struct buf *sql)
{
    buf_printf(sql, "COPY (SELECT %s FROM ONLY %s WHERE ctid >= '(%lld,0)'::tid", heap->columns,
               heap->relation, (long long)piece->first);
    if (piece->last >= 0)
        buf_printf(sql, " AND ctid < '(%lld,0)'::tid", (long long)piece->last);
    buf_printf(sql, " AND (%s)) TO STDOUT (FORMAT %s)", heap->filter, heap->binary ? "binary" : "text");
}

static void add_target_sql(const struct copier_heap *heap, struct buf *sql)
{
    buf_printf(sql, "COPY %s (%s) FROM STDIN (FORMAT %s)", heap->table, heap->columns,
               heap->binary ? "binary" : "text");
}

/* ---- the end ---- */

static void release(struct copier *c)
{
    void (*released)(void *) = c->o.released;
    void *data = c->o.data;
    for (int i = 0; i < c->o.heap_count; i++) {
        free(c->o.heaps[i].relation);
        free(c->o.heaps[i].table);
        free(c->o.heaps[i].columns);
        free(c->o.heaps[i].filter);
    }
    free(c->o.heaps);
    free(c->heaps);
    free(c->application);
    free(c->snapshot);
    free(c->origin);
    free(c);
    released(data);
}

static void link_closed(void *data) /* which has counted it already */
{
    struct copier *c = data;
    if (c->open == 0)
        loop_defer(c->o.loop, &c->task);
}

static void ended_one(struct copier *c)
{
    c->open--;
    link_closed(c);
}

static void on_task(struct loop_task *task, void *data)
{
    struct copier *c = data;
    uint64_t rows = 0, bytes = 0;
    (void)task;
    if (c->orphaned) {
        if (c->open == 0)
            release(c);
        return;
    }
    for (unsigned i = 0; i < c->o.lanes; i++) {
        rows += c->lanes[i].rows;
        bytes += c->lanes[i].bytes;
    }
    c->told = true;
    c->o.done(c->broken ? &c->err : NULL, rows, bytes, c->o.data);
}

/* The lanes that still have something to do share the rate. */
static uint64_t share_of_rate(const struct copier *c)
{
    unsigned busy = 0;
    for (unsigned i = 0; i < c->o.lanes; i++)
        busy += c->lanes[i].state < LANE_LEAVING;
    return busy > 0 ? c->o.bytes_per_second / busy : c->o.bytes_per_second;
}

static void share_rate(struct copier *c)
{
    for (unsigned i = 0; i < c->o.lanes; i++)
        if (c->lanes[i].pump != NULL)
            pg_pump_set_rate(c->lanes[i].pump, share_of_rate(c));
}

static void rest(struct lane *lane)
{
    struct copier *c = lane->copier;
    if (lane->state == LANE_RESTING)
        return;
    lane->state = LANE_RESTING;
    link_drop(&lane->source);
    link_drop(&lane->target);
    if (++c->resting == c->o.lanes && !c->told)
        loop_defer(c->o.loop, &c->task);
}

static void cancel_pumps(struct copier *c)
{
    for (unsigned i = 0; i < c->o.lanes; i++)
        if (c->lanes[i].pump != NULL)
            pg_pump_cancel(c->lanes[i].pump);
}

static void break_off(struct copier *c, const struct err *err)
{
    if (c->broken)
        return;
    c->broken = true;
    c->err = *err;
    cancel_pumps(c); /* the others rest at their next answer */
}

static void lane_failed(struct lane *lane, const struct err *err)
{
    break_off(lane->copier, err);
    rest(lane);
}

/* ---- a lane ---- */

struct lane_statement {
    struct lane *lane;
    void (*answered)(struct lane *lane, const struct pg_reply *reply);
};

static void on_reply(const struct pg_reply *reply, void *data)
{
    struct lane_statement st = *(struct lane_statement *)data;
    free(data);
    if (!st.lane->copier->orphaned && st.lane->state != LANE_RESTING)
        st.answered(st.lane, reply);
    ended_one(st.lane->copier);
}

/* session 0: in a session that is made if need be */
static void lane_exec(struct lane *lane, struct link *link, uint64_t session, const char *sql,
                      void (*answered)(struct lane *lane, const struct pg_reply *reply))
{
    struct lane_statement *st = mem_alloc(sizeof *st);
    *st = (struct lane_statement){lane, answered};
    lane->copier->open++;
    if (session != 0)
        link_exec_in(link, session, sql, STATEMENT_NS, on_reply, st);
    else
        link_exec(link, sql, STATEMENT_NS, on_reply, st);
}

static void next_piece(struct lane *lane);

static void left(struct lane *lane, const struct pg_reply *reply)
{
    (void)reply; /* an origin that stays is dropped by the next try, or with the target */
    rest(lane);
}

static void leave(struct lane *lane)
{
    struct buf sql = {0};
    char name[LINK_TEXT_MOST];
    lane->state = LANE_LEAVING;
    share_rate(lane->copier);
    snprintf(name, sizeof name, "%s_%u", lane->copier->origin, lane->number);
    sqlf(&sql,
         "SELECT pg_replication_origin_session_reset(); "
         "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = %L",
         name);
    lane_exec(lane, &lane->target, lane->target_session, buf_text(&sql), left);
    buf_free(&sql);
}

static void count_piece(const struct lane *lane)
{
    struct copier *c = lane->copier;
    const struct copier_piece *piece = &lane->piece;
    int64_t last = piece->last >= 0 ? piece->last : c->o.heaps[piece->heap].blocks;
    struct heap_done *done = &c->heaps[piece->heap];
    done->rows += lane->now_rows;
    done->bytes += lane->now_bytes;
    done->blocks += last > piece->first ? (uint64_t)(last - piece->first) : 0;
    if (--done->pieces == 0)
        c->heaps[done->first].unfinished--;
}

static void committed(struct lane *lane, const struct pg_reply *reply)
{
    if (reply->err != NULL) {
        lane_failed(lane, reply->err);
        return;
    }
    lane->rows += lane->now_rows;
    lane->bytes += lane->now_bytes;
    count_piece(lane);
    lane->now_rows = lane->now_bytes = 0;
    next_piece(lane);
}

static void pumped(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    struct lane *lane = data;
    lane->pump = NULL;
    if (lane->copier->orphaned || lane->state == LANE_RESTING)
        return;
    if (err != NULL) {
        lane_failed(lane, err);
        return;
    }
    lane->now_rows = rows;
    lane->now_bytes = bytes;
    lane->state = LANE_COMMITTING;
    lane_exec(lane, &lane->target, lane->target_session, "COMMIT", committed);
}

static void moved_on(uint64_t rows, uint64_t bytes, void *data)
{
    struct lane *lane = data;
    struct copier *c = lane->copier;
    uint64_t all_rows = 0, all_bytes = 0;
    lane->now_rows = rows;
    lane->now_bytes = bytes;
    for (unsigned i = 0; i < c->o.lanes; i++) {
        all_rows += c->lanes[i].rows + c->lanes[i].now_rows;
        all_bytes += c->lanes[i].bytes + c->lanes[i].now_bytes;
    }
    if (c->o.progress != NULL)
        c->o.progress(all_rows, all_bytes, c->o.data);
}

static void begun(struct lane *lane, const struct pg_reply *reply)
{
    struct copier *c = lane->copier;
    if (c->broken) {
        rest(lane);
        return;
    }
    if (reply->err != NULL) {
        lane_failed(lane, reply->err);
        return;
    }
    struct err err = {0};
    if (link_session(&lane->source) != lane->source_session) {
        (void)err_set(&err, ERRC_CLOSED, "the session that reads the snapshot is gone");
        lane_failed(lane, &err);
        return;
    }
    const struct copier_heap *heap = &c->o.heaps[lane->piece.heap];
    struct buf from = {0}, to = {0};
    add_source_sql(heap, &lane->piece, &from);
    add_target_sql(heap, &to);
    struct pg_pump_options options = {.source = lane->source.conn,
                                      .source_sql = buf_text(&from),
                                      .target = lane->target.conn,
                                      .target_sql = buf_text(&to),
                                      .bytes_per_second = share_of_rate(c),
                                      .progress = moved_on};
    lane->state = LANE_PUMPING;
    if (pg_pump_start(&options, pumped, lane, &lane->pump, &err) != 0)
        lane_failed(lane, &err);
    buf_free(&from);
    buf_free(&to);
}

static void next_piece(struct lane *lane)
{
    struct copier *c = lane->copier;
    if (c->broken) {
        rest(lane);
        return;
    }
    if (c->next >= c->pieces) {
        leave(lane);
        return;
    }
    struct buf sql = {0};
    lane->piece = copier_piece(c->o.heaps, c->o.heap_count, c->next++);
    lane->state = LANE_BEGINNING;
    sqlf(&sql, "BEGIN; SELECT shardherd.share_term(%d)", c->o.term);
    lane_exec(lane, &lane->target, lane->target_session, buf_text(&sql), begun);
    buf_free(&sql);
}

static void ready(struct lane *lane, const struct pg_reply *reply)
{
    if (reply->err != NULL) {
        lane_failed(lane, reply->err);
        return;
    }
    if (--lane->unready > 0)
        return;
    lane->source_session = link_session(&lane->source);
    lane->target_session = link_session(&lane->target);
    next_piece(lane);
}

static void make_ready(struct lane *lane)
{
    struct copier *c = lane->copier;
    struct buf sql = {0};
    char name[LINK_TEXT_MOST];
    snprintf(name, sizeof name, "%s_%u", c->origin, lane->number);
    lane->state = LANE_READYING;
    lane->unready = 2;
    sqlf(&sql,
         "SET idle_in_transaction_session_timeout = 0; "
         "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT %L",
         c->snapshot);
    lane_exec(lane, &lane->source, 0, buf_text(&sql), ready);
    buf_reset(&sql);
    sqlf(&sql,
         "SET session_replication_role = replica; SET idle_in_transaction_session_timeout = '60s'; "
         "SELECT pg_replication_origin_create(%L) WHERE NOT EXISTS "
         "(SELECT FROM pg_replication_origin WHERE roname = %L); SELECT "
         "pg_replication_origin_session_setup(%L)",
         name, name, name);
    lane_exec(lane, &lane->target, 0, buf_text(&sql), ready);
    buf_free(&sql);
}

/* ---- life ---- */

/* Partitions of one table stand anywhere among the others. */
static void group_heaps(struct copier *c)
{
    int *firsts = mem_array((size_t)c->o.heap_count + 1, sizeof *firsts);
    int tables = 0;
    c->heaps = mem_array((size_t)c->o.heap_count + 1, sizeof *c->heaps);
    for (int i = 0; i < c->o.heap_count; i++) {
        int t = 0;
        while (t < tables && strcmp(c->o.heaps[firsts[t]].table, c->o.heaps[i].table) != 0)
            t++;
        if (t == tables)
            firsts[tables++] = i;
        c->heaps[i].pieces = pieces_of(&c->o.heaps[i]);
        c->heaps[i].first = firsts[t];
        c->heaps[firsts[t]].unfinished++;
    }
    free(firsts);
}

struct copier *copier_start(const struct copier_options *options)
{
    struct copier *c = mem_zalloc(sizeof *c);
    c->o = *options;
    c->application = mem_strdup(options->application);
    c->snapshot = mem_strdup(options->snapshot);
    c->origin = mem_strdup(options->origin);
    c->o.application = c->o.snapshot = c->o.origin = NULL;
    c->pieces = copier_pieces(c->o.heaps, c->o.heap_count);
    group_heaps(c);
    c->open = 1;
    c->task.run = on_task;
    c->task.data = c;
    if (c->o.lanes > (unsigned)c->pieces)
        c->o.lanes = (unsigned)c->pieces;
    for (unsigned i = 0; i < c->o.lanes; i++) {
        struct lane *lane = &c->lanes[i];
        lane->copier = c;
        lane->number = i;
        link_init(&lane->source, c->o.loop, options->source, c->application, &c->open, link_closed, c);
        link_init(&lane->target, c->o.loop, options->target, c->application, &c->open, link_closed, c);
        make_ready(lane);
    }
    if (c->o.lanes == 0)
        loop_defer(c->o.loop, &c->task);
    return c;
}

void copier_set_rate(struct copier *c, uint64_t bytes_per_second)
{
    if (c->o.bytes_per_second == bytes_per_second)
        return;
    c->o.bytes_per_second = bytes_per_second;
    share_rate(c);
}

static void look_at_heap(const struct copier *c, int i, struct copier_state *ret)
{
    const struct copier_heap *heap = &c->o.heaps[i];
    const struct heap_done *done = &c->heaps[i];
    struct copy_total total = {ret->total_rows, ret->total_bytes};
    struct copy_heap_progress p = {.rows = heap->rows,
                                   .bytes = heap->bytes,
                                   .share = heap->share,
                                   .blocks = (uint64_t)heap->blocks,
                                   .blocks_done = done->blocks,
                                   .rows_done = done->rows,
                                   .bytes_done = done->bytes,
                                   .over = done->pieces == 0};
    for (unsigned lane = 0; lane < c->o.lanes; lane++)
        if (c->lanes[lane].piece.heap == i) {
            p.rows_now += c->lanes[lane].now_rows;
            p.bytes_now += c->lanes[lane].now_bytes;
        }
    copy_estimate(&p, &total);
    ret->rows += p.rows_done + p.rows_now;
    ret->bytes += p.bytes_done + p.bytes_now;
    ret->total_rows = total.rows;
    ret->total_bytes = total.bytes;
}

void copier_look(const struct copier *c, struct copier_state *ret)
{
    *ret = (struct copier_state){0};
    for (int i = 0; i < c->o.heap_count; i++) {
        look_at_heap(c, i, ret);
        ret->tables += c->heaps[i].first == i;
        ret->tables_done += c->heaps[i].first == i && c->heaps[i].unfinished == 0;
    }
}

void copier_cancel(struct copier *c)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_CANCELED, "canceled while copying");
    break_off(c, &err);
}

void copier_free(struct copier *c)
{
    if (c == NULL || c->orphaned)
        return;
    c->orphaned = true;
    for (unsigned i = 0; i < c->o.lanes; i++) {
        link_fini(&c->lanes[i].source);
        link_fini(&c->lanes[i].target);
    }
    ended_one(c);
}
