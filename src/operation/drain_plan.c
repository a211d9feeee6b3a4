#include "operation/drain_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/drain.h"

static uint64_t width_of(const struct routing_shard *s)
{
    uint64_t width = 0;
    for (size_t i = 0; i < s->ranges.count; i++)
        width += range_width_minus_one(&s->ranges.items[i]) / 2 + 1; /* half, so that all of it fits */
    return width;
}

static const struct routing_shard *lesser(const struct operations *ops, const struct routing *routing,
                                          const char *giver, const struct routing_shard *best,
                                          const struct routing_shard *s)
{
    if (s == NULL || strcmp(s->name, giver) == 0 || drain_of(ops, routing->database, s->name) != NULL)
        return best;
    return best == NULL || width_of(s) < width_of(best) ? s : best;
}

const struct routing_shard *drain_taker(const struct operations *ops, const struct routing *routing,
                                        const char *giver, const struct range *range)
{
    const struct routing_shard *best = NULL;
    if (range->hi < INT64_MAX)
        best = lesser(ops, routing, giver, best, routing_owner(routing, range->hi + 1));
    if (range->lo > INT64_MIN)
        best = lesser(ops, routing, giver, best, routing_owner(routing, range->lo - 1));
    for (size_t i = 0; best == NULL && i < routing->shard_count; i++)
        best = lesser(ops, routing, giver, best, &routing->shards[i]);
    return best;
}

struct drain_step *drain_plan_make(const struct operations *ops, const struct routing *routing,
                                   const char *giver, const char *target, size_t *ret_count)
{
    struct routing *after = routing_clone(routing);
    const struct range_set *left = &routing_find_shard(routing, giver)->ranges;
    struct drain_step *plan = mem_array(left->count + 1, sizeof *plan);
    for (size_t i = 0; i < left->count; i++) {
        const struct routing_shard *taker = drain_taker(ops, after, giver, &left->items[i]);
        const char *name = target != NULL ? target : taker != NULL ? taker->name : NULL;
        struct err err = {0};
        plan[i] =
            (struct drain_step){.range = left->items[i], .target = name != NULL ? mem_strdup(name) : NULL};
        if (name != NULL) /* of a shard that owns it to another: nothing can be wrong but the end of epochs */
            (void)routing_move(after, giver, plan[i].target, &plan[i].range, &err);
    }
    *ret_count = left->count;
    routing_free(after);
    return plan;
}

void drain_plan_free(struct drain_step *plan, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(plan[i].target);
    free(plan);
}
