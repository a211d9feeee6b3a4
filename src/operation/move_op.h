/*
 * move_op: a move as an operation of the manager: core, live driver and journal together.
 */
#ifndef OPERATION_MOVE_OP_H
#define OPERATION_MOVE_OP_H

#include "operation/move.h"
#include "operation/operation.h"

/* What to move. Names are copied. */
struct move_request {
    enum move_kind kind;
    const char *database;
    const char *source;
    const char *target; /* NULL: a new shard, named after the first free "sN" */
    struct range range;
    bool retire_source; /* merge, upgrade: range must be all that the source owns */
    bool dry_run;
    bool allow_ddl; /* it gives way to DDL, until its rehearsal */
    uint64_t bake_ns;
    int rule;
    const char *reason;
    int64_t decided_us;
};

/*
 * Starts it. Errors before anything is started: NOT_FOUND database or shard, CONFLICT another move runs on
 * the source or target, or as many as may at a time run in the fleet (named), REFUSED the source does not own
 * the range, UNSUPPORTED no runtime to make a target.
 */
int move_op_start(struct operations *ops, const struct move_request *request, struct operation **ret,
                  struct err *err);

/* Running moves that count for services.max_moves: those that do more than to look (a dry run), to bake, or
 * to wait for a person. */
unsigned move_op_working(const struct operations *ops);

/* From a journal. Ended ones are only listed. */
int move_op_resume(struct operations *ops, const char *json, int64_t revision, struct err *err);

/*
 * This shard has another primary, which the routing table names. A move of it that has not come to its fence
 * goes back: its replication slot stayed with the old one (A7, A12). One that has goes on with the new
 * server, which says what is true.
 */
void move_op_follow_primary(struct operations *ops, const char *database, const char *shard);

/*
 * A running move of this shard is at its fence: the routing table may say already what is not so yet. What
 * was so before: its source had the range, under source_epoch, its target not, under target_epoch. False =
 * what the table says of the shard is certain.
 */
struct move_claim {
    const char *id, *source, *target; /* live as long as the move */
    struct range range;
    uint64_t source_epoch, target_epoch;
    bool
        left; /* the fence is committed for certain, and the range the target's as soon as it can be opened */
};
bool move_op_claims(const struct operations *ops, const char *database, const char *shard,
                    struct move_claim *ret);

bool move_op_is(const struct operation *op);
/* True if op is a running move into that shard. */
bool move_op_targets(const struct operation *op, const char *shard);
const struct move_record *move_op_record(const struct operation *op);

/* Bytes, rows, rate, ETA for people: 0..1 of the whole move, and seconds to the end of the copy (-1 unknown).
 */
double move_op_progress(const struct operation *op, double *ret_eta_seconds);

#endif
