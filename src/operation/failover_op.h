/*
 * failover_op: a failover or a switchover as one of the manager's operations, so that it is listed, streamed
 * and remembered like a move.
 *
 * It only tells: what is done, and what is done after a crash, says the record of the shard
 * (ha/shard_record.h), and whoever keeps the shard reports each step of it here. Its journal is written while
 * agents are waited for, never before a step that brings writes back; so after a crash it may be a step
 * behind, or missing, until the shard's keeper reports again. It keeps nobody from anything
 * (operation_kind.aside), as a failover that waits for a quorum may have to wait for days.
 */
#ifndef OPERATION_FAILOVER_OP_H
#define OPERATION_FAILOVER_OP_H

#include "operation/failover.h"
#include "operation/operation.h"

struct failover_report { /* texts are copied */
    const char *database, *shard;
    const struct failover_record *record;
    const char *from;  /* who was the primary; NULL = not known any more */
    const char *to;    /* whom it is given to; NULL = not known yet */
    uint64_t lost_ns;  /* of loop_now(): when the primary was last there; 0 = not known, or it is still */
    bool acknowledges; /* the new primary accepts writes */
};

/* The operation of record->id goes on, begins, or ends with the record's state. Returns it when it ended just
 * now, else NULL. One that ended already stays as it is. */
const struct operation *failover_op_tell(struct operations *ops, const struct failover_report *report);

/* Those of this shard (NULL: of all of the database) that run, but are not `id`, have ended without anybody
 * having seen how: `why` is their error. */
void failover_op_forget(struct operations *ops, const char *database, const char *shard, const char *id,
                        const char *why);

/* Once a second: what could not be written is tried again. */
void failover_op_look(struct operations *ops);

bool failover_op_is(const struct operation *op);
struct failover_op_facts { /* texts live as long as the operation */
    enum failover_kind kind;
    int step;          /* enum failover_state; FAILOVER_STATE_COUNT = nobody told of it yet */
    const char *state; /* "confirm" */
    const char *from, *to, *reason;
    bool blocked;        /* writes were not accepted: */
    bool blocks;         /* and are not yet */
    uint64_t blocked_us; /* for how long, until now or until they were; 0 = not known */
};
void failover_op_facts(const struct operation *op, struct failover_op_facts *ret);

int failover_op_resume(struct operations *ops, const char *json, int64_t revision, struct err *err);

#endif
