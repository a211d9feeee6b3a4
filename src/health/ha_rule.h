/*
 * ha_rule: the numbered rules of failover, of the sync set and of rejoining, and the sentences they speak.
 *
 * One const table; docs/high-availability.md is checked against it by a unit test. Numbers never change and
 * are never used again for something else.
 */
#ifndef HEALTH_HA_RULE_H
#define HEALTH_HA_RULE_H

#include "base/words.h"

#define HA_SENTENCE_SIZE 448

enum ha_rule {
    /* is its primary gone? */
    HA_F_WELL = 1,
    HA_F_MAINTENANCE,
    HA_F_ALONE,
    HA_F_UNDER_WAY,
    HA_F_SUSPECT,
    HA_F_RESTARTING,
    HA_F_STILL_RECEIVED,
    HA_F_UNHEARD,
    HA_F_NOBODY,
    HA_F_NOT_RETURNED,
    HA_F_LOST,
    HA_F_GONE,
    /* whom to promote */
    HA_F_QUORUM_MISSING,
    HA_F_NO_CANDIDATE,
    HA_F_PROMOTE,
    HA_F_FETCH,
    HA_F_DATA_LOSS,
    HA_F_TOO_MANY,
    /* the sync set */
    HA_F_SYNC_KEPT,
    HA_F_SYNC_CHANGE,
    HA_F_SYNC_APPLY,
    HA_F_SYNC_AWAIT,
    HA_F_SYNC_SETTLED,
    /* rejoining */
    HA_F_FOLLOW,
    HA_F_REWIND,
    HA_F_CLONE,
    HA_F_FOREIGN,
    /* what is wrong while its primary is there */
    HA_F_UNFOLLOWED,
    /* whom a standby follows that was asked to follow another one */
    HA_F_CASCADE,
    HA_F_DIRECT,
    HA_F_COUNT /* one more than the last number */
};

struct ha_rule_info {
    int number;
    const char *name;     /* "still-received": label of metrics, stable */
    const char *sentence; /* with <words> */
};

/* NULL for a number that no rule has. */
const struct ha_rule_info *ha_rule_info(int number);
const char *ha_rule_name(int number); /* "unknown" for a number that no rule has */

/* The rule's sentence, which ends in "(F7)". */
void ha_rule_render(int number, const struct words *words, char out[HA_SENTENCE_SIZE]);

#endif
