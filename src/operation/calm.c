#include "operation/calm.h"

#include <stdbool.h>

#define LEAST_TRIPS 8 /* before "the shortest" means something */
#define SLACK_NS    (1 * ENV_NS_PER_MS)

void calm_begin(struct calm *c, uint64_t now_ns)
{
    *c = (struct calm){.began_ns = now_ns};
}

static uint64_t longest_of_last(const struct calm *c)
{
    uint64_t longest = 0;
    for (unsigned i = 0; i < CALM_LAST; i++)
        longest = c->last_ns[i] > longest ? c->last_ns[i] : longest;
    return longest;
}

enum calm_answer calm_add(struct calm *c, uint64_t trip_ns, uint64_t now_ns)
{
    c->last_ns[c->trips++ % CALM_LAST] = trip_ns;
    if (c->best_ns == 0 || trip_ns < c->best_ns)
        c->best_ns = trip_ns;
    uint64_t longest = longest_of_last(c);
    bool quick = c->trips >= CALM_LAST && longest < CALM_SLOW_NS;
    if (quick && c->trips >= LEAST_TRIPS && longest <= c->best_ns * 3 / 2 + SLACK_NS)
        return CALM_GO;
    if (now_ns - c->began_ns < CALM_PATIENCE_NS)
        return CALM_AGAIN;
    return quick ? CALM_GO : CALM_BUSY;
}
