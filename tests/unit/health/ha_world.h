/* ha_world: a shard of three instances in calm, to be changed by a test. Only for tests/unit/health. */
#ifndef HEALTH_HA_WORLD_H
#define HEALTH_HA_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "health/ha_decide.h"

#define S   ENV_NS_PER_S
#define NOW (1000 * S)
#define A   HA_BIT(0)
#define B   HA_BIT(1)
#define C   HA_BIT(2)

/* a is the primary, the others stream; all was heard 0.1 s ago. */
static inline struct ha_shard calm(unsigned instances)
{
    struct ha_shard s = {.name = "s1", .lsn = 5000000, .count = instances};
    ha_policy_defaults(&s.policy, instances);
    ha_record_init(&s.record, &s.policy, 0, (HA_BIT(instances) - 1) & ~A);
    for (unsigned i = 0; i < instances; i++) {
        struct ha_instance *x = &s.instances[i];
        snprintf(x->name, sizeof x->name, "%c", 'a' + (char)i);
        x->heard_ns = x->reached_ns = x->received_ns = NOW - S / 10;
        x->server = i == 0 ? HA_SERVER_PRIMARY : HA_SERVER_STANDBY;
        x->receives = x->streams = i != 0;
        x->flushed = s.lsn;
        x->pod = HA_POD_RUNS;
    }
    s.instances[0].config_epoch = 1;
    return s;
}

/* Nobody reaches the primary, for this long. */
static inline void silence(struct ha_shard *s, uint64_t ns)
{
    s->instances[0].heard_ns = s->instances[0].reached_ns = NOW - ns;
    for (unsigned i = 1; i < s->count; i++) {
        s->instances[i].receives = false;
        s->instances[i].received_ns = NOW - ns;
    }
}

/* The rule's number is at the end of its sentence, and no word was left out. */
static inline void assert_sentence(const char *name, int rule, int wanted, const char *sentence)
{
    char number[8];
    snprintf(number, sizeof number, "(F%d)", rule);
    if (rule != wanted || strstr(sentence, number) == NULL || strchr(sentence, '<') != NULL)
        fail_msg("%s: %s instead of %s: %s", name, ha_rule_name(rule), ha_rule_name(wanted), sentence);
}

#endif
