/*
 * rule: the numbered rules of the balancer and the sentences they speak.
 *
 * One const table; docs/decisions.md is checked against it by a unit test. A sentence is the rule's template
 * with each <word> replaced; numbers of rules never change and are never used again for something else.
 */
#ifndef BALANCE_RULE_H
#define BALANCE_RULE_H

#include "base/words.h"

#define BALANCE_SENTENCE_SIZE 512

enum balance_rule {
    BALANCE_R_SPLIT = 1,
    BALANCE_R_EVEN_LOAD,
    BALANCE_R_MISSING_SAMPLE,
    BALANCE_R_SWITCHED_OFF,
    BALANCE_R_OPERATION_RUNS,
    BALANCE_R_COOL_DOWN,
    BALANCE_R_POPULAR_KEY,
    BALANCE_R_ISOLATE,
    BALANCE_R_MOVING_LOAD,
    BALANCE_R_UNBALANCED,
    BALANCE_R_MAX_SHARDS,
    BALANCE_R_CAPACITY,
    BALANCE_R_STILL_HOT,
    BALANCE_R_LOAD_FELL,
    BALANCE_R_ROW_MEDIAN,
    BALANCE_R_NO_SPLIT_POINT,
    BALANCE_R_REBALANCE,
    BALANCE_R_MERGE,
    BALANCE_R_MERGE_HELD,
    BALANCE_R_LISTEN,
    BALANCE_R_OPERATION_LIMIT,
    BALANCE_R_COUNT /* one more than the last number */
};

struct balance_rule_info {
    int number;
    const char *name;     /* "popular-key": label of metrics, stable */
    const char *sentence; /* with <words> */
};

/* NULL for a number that no rule has. */
const struct balance_rule_info *balance_rule_info(int number);
const char *balance_rule_name(int number); /* "unknown" for a number that no rule has */

/* The rule's sentence; a word that was not set stays as it is in the template (a test looks for that). */
void balance_rule_render(int number, const struct words *words, char out[BALANCE_SENTENCE_SIZE]);

#endif
