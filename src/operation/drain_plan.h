/* drain_plan: who gets what from a shard that gives all it has. No I/O. */
#ifndef OPERATION_DRAIN_PLAN_H
#define OPERATION_DRAIN_PLAN_H

#include "fleet/routing.h"
#include "operation/operation.h"

/* The neighbour of that range that owns less, so that what it gets and what it has is one range; else whoever
 * owns least. Not a shard that is drained itself. NULL = nobody can take it. */
const struct routing_shard *drain_taker(const struct operations *ops, const struct routing *routing,
                                        const char *giver, const struct range *range);

struct drain_step {
    struct range range;
    char *target;                      /* NULL = nobody can take it */
    char operation[OPERATION_ID_SIZE]; /* the dry run of this move; "" = it could not begin */
    unsigned errors;                   /* that it found */
};

/* The moves of a drain one after the other, as they come if nothing else changes the table. `target` gets
 * all of it; NULL = the takers. Freed by drain_plan_free(). */
struct drain_step *drain_plan_make(const struct operations *ops, const struct routing *routing,
                                   const char *giver, const char *target, size_t *ret_count);
void drain_plan_free(struct drain_step *plan, size_t count);

#endif
