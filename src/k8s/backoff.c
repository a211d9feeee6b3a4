#include "k8s/backoff.h"

#define FIRST_NS (800 * ENV_NS_PER_MS)
#define MOST_NS  (30 * ENV_NS_PER_S)
#define RESET_NS (120 * ENV_NS_PER_S)

uint64_t backoff_next(struct backoff *b, struct env *env, uint64_t now_ns)
{
    if (b->next_ns == 0 || now_ns - b->last_ns > RESET_NS)
        b->next_ns = FIRST_NS;
    uint64_t base = b->next_ns;
    uint64_t pause = base + env_random_below(env, base);
    b->next_ns = base * 2 < MOST_NS ? base * 2 : MOST_NS;
    b->last_ns = now_ns + pause; /* two minutes of quiet begin when the pause is over */
    return pause;
}
