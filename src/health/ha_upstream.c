/* Whom a standby receives from: the primary, or another standby that it was asked to follow. */
#include <string.h>

#include "health/ha_decide.h"

#define UNSERVED_TIMES 30 /* of exclude_ns: so long it is not tried again with one that did not serve it */

struct looking {
    const struct ha_shard *shard;
    const struct ha_instance *self, *wanted;
    uint64_t now;
};

static bool before(const struct looking *l, uint64_t since_ns, uint64_t limit_ns)
{
    return l->now < since_ns + limit_ns;
}

/* Why the wanted one cannot be followed; NULL = it can. Who is followed already is left later than it is gone
 * to. */
static const char *hindrance(const struct looking *l)
{
    const struct ha_policy *policy = &l->shard->policy;
    const struct ha_instance *x = l->wanted;
    bool follows = l->self->upstream == l->self->follows;
    if ((ha_involved(&l->shard->record) & HA_BIT(l->self - l->shard->instances)) != 0)
        return "commits may still rely on it";
    if (x->heard_ns == 0 || x->closed || x->pod == HA_POD_GONE || !before(l, x->heard_ns, policy->silent_ns))
        return "that one is not heard";
    if (x->server != HA_SERVER_STANDBY || x->follows != 0)
        return "that one is no standby that follows the primary";
    if (follows ? !x->streams && !before(l, x->streams_ns, policy->exclude_ns)
                : !x->streams || before(l, x->streams_ns, policy->restart_ns))
        return "that one does not stream from the primary";
    if (l->self->unserved_ns != 0 && before(l, l->self->unserved_ns, UNSERVED_TIMES * policy->exclude_ns))
        return "that one did not give it what it needs";
    return NULL;
}

void ha_upstream(const struct ha_shard *shard, int instance, uint64_t now_ns, struct ha_upstream *ret)
{
    const struct ha_instance *self = &shard->instances[instance];
    int primary = ha_newest(&shard->record)->primary, wanted = self->follows - 1;
    struct words words = {0};
    memset(ret, 0, sizeof *ret);
    ret->instance = primary;
    if (wanted < 0 || wanted >= (int)shard->count || wanted == instance || wanted == primary ||
        instance == primary)
        return;
    struct looking l = {.shard = shard, .self = self, .wanted = &shard->instances[wanted], .now = now_ns};
    const char *why = hindrance(&l);
    words_set(&words, "instance", "%s", self->name);
    words_set(&words, "primary", "%s", shard->instances[primary].name);
    words_set(&words, "upstream", "%s", l.wanted->name);
    words_set(&words, "why", "%s", why != NULL ? why : "");
    ret->rule = why != NULL ? HA_F_DIRECT : HA_F_CASCADE;
    ret->instance = why != NULL ? primary : wanted;
    ha_rule_render(ret->rule, &words, ret->sentence);
}
