/* move_verify: a verification under way, shared by move_act_verify.c and move_verify_rows.c; nobody else
 * includes it. */
#ifndef OPERATION_MOVE_VERIFY_H
#define OPERATION_MOVE_VERIFY_H

#include "operation/move_op_internal.h"
#include "operation/verify.h"

#define VERIFY_ROUNDS_MOST 15   /* of a piece; buckets that still change then are counted as in motion */
#define VERIFY_NARROW_FROM 5    /* from this round on a bucket in motion is looked at row by row */
#define VERIFY_NAMED_MOST  100  /* rows that differ which are followed and told */
#define VERIFY_ROWS_MOST   5000 /* that are listed at a time */

/* Rows that are looked up again and again, by their identities. */
struct verify_rows {
    struct verify_item *items;
    char **identities;
    int count;
    unsigned round;
};

struct verify {
    struct verify_plan plan;
    size_t table; /* of the routing table's */
    bool exact;   /* shard.sql: the form of the checksums */
    /* of that table, as the owner says */
    uint64_t bytes, rows;
    char cut_column[80]; /* "" = it is read in one piece */
    char *columns[2];    /* as either side tells them */
    /* the present piece: (after, upto], "" = open */
    char after[VERIFY_CUT_SIZE], upto[VERIFY_CUT_SIZE];
    uint64_t piece_bytes;
    uint64_t piece_started_ns, piece_read; /* bytes of the table read for it, on one side */
    unsigned round;
    int bucket; /* the one that is narrowed down */
    int differing;
    uint64_t started_ns, journaled_ns;
    /* of the statement that runs on both sides */
    void (*take)(struct move_op *op, int side, const struct pg_reply *reply); /* of each: 0 owner, 1 copy */
    void (*next)(struct move_op *op);
    int outstanding;
    struct err err;
    struct verify_row *listed[2];
    int listed_count[2];
    struct verify_rows found;
    bool all_listed; /* `found` has every row of the bucket that differed */
    /* where lookups lead: all are equal, or change all the time; or some differ, and are to be seen in the
     * exact form */
    void (*rows_equal)(struct move_op *op, bool equal);
    void (*rows_differ)(struct move_op *op);
    struct verify_item buckets[VERIFY_BUCKETS], parts[VERIFY_BUCKETS];
    /* the sample */
    size_t tables_left;
    uint64_t sample_until_ns;
};

const char *verify_table_name(const struct move_op *op); /* NULL: the database was deleted */
void verify_end(struct move_op *op, const struct err *err);
/* The same statement on both sides at the same moment; `next` when both have answered well. */
void verify_both(struct move_op *op, struct buf *sql,
                 void (*take)(struct move_op *op, int side, const struct pg_reply *reply),
                 void (*next)(struct move_op *op));
/* take(): sums of bucket or part numbers into items that are wanted. */
void verify_take_sums(struct verify_item *items, int side, const struct pg_reply *reply);
/* ", cut_column, after, upto)" for the end of a call. */
void verify_add_cut(const struct move_op *op, struct buf *sql);
void verify_marker(struct move_op *op, void (*then)(struct move_op *op));
/* Reads the present piece again, from its first round on. */
void verify_piece_again(struct move_op *op);
void verify_next_round(struct move_op *op);
/* Every row of v->bucket was seen to be equal, but (equal = false) those that change all the time. */
void verify_bucket_done(struct move_op *op, bool equal);

/* ---- move_verify_rows.c ---- */

/* Which rows of v->bucket differ? To verify_bucket_done() if none does for good, to verify_next_round() if
 * some were left out. */
void verify_narrow(struct move_op *op);
/* Looks up v->found on both sides until all are equal. */
void verify_lookup(struct move_op *op);
void verify_rows_free(struct verify *v);

#endif
