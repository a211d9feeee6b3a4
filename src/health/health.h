/*
 * health: is an instance up, and is it still the same server? Pure: facts and a time in, a verdict out.
 *
 * Failing over is decided elsewhere; this only says what is known, with the number and sentence of the rule.
 */
#ifndef HEALTH_HEALTH_H
#define HEALTH_HEALTH_H

#include <stdint.h>

#include "fleet/fleet.h"

#define HEALTH_SENTENCE_SIZE 448

enum health_rule {
    HEALTH_R_UNKNOWN = 1, /* never polled */
    HEALTH_R_UP,
    HEALTH_R_SUSPECT,
    HEALTH_R_DOWN,
    HEALTH_R_NEVER_SEEN,
    HEALTH_R_RESTARTED,
    HEALTH_R_ROLE,
    HEALTH_R_TIMELINE,
    HEALTH_R_IDENTITY,
    HEALTH_R_COUNT /* one more than the last number */
};
const char *health_rule_name(int number); /* "restarted"; "unknown-rule" for a number that no rule has */

struct health_verdict {
    enum instance_health health;
    unsigned missed; /* poll periods without a success */
    int rule;
    char sentence[HEALTH_SENTENCE_SIZE]; /* ends in "(H3)"; its figures change, so compare rules, not texts */
};

/*
 * From the times of the last successful and the last failed poll:
 *   UP       no period missed
 *   SUSPECT  one missed
 *   DOWN     two or more missed
 *   UNKNOWN  never polled
 * A failed poll counts the periods up to it, at least one. Silence (a poll that neither succeeds nor fails)
 * counts a period as missed once a quarter of the next one has passed, so that a slow answer is not a miss.
 * A server that refuses connections is so DOWN with the second failed poll, a hung one after 2.25 periods.
 */
void health_judge(const struct instance_facts *facts, uint64_t now_ns, uint64_t period_ns,
                  struct health_verdict *ret);

#define HEALTH_CHANGES_MAX 4
struct health_change {
    int rule;
    char sentence[HEALTH_SENTENCE_SIZE];
};

/*
 * What differs between two successful polls of one instance: restarted, another role, another timeline,
 * another server at the address (then nothing else is compared). Values that either poll did not know are not
 * compared. Returns how many of changes are set.
 */
unsigned health_compare(const char *instance, const struct instance_facts *before,
                        const struct instance_facts *after, struct health_change changes[HEALTH_CHANGES_MAX]);

#endif
