/*
 * shard_record: what the store keeps of one shard with standbys, as one document, changed only by
 * compare-and-swap: who its instances are, the failover that is or was, the record of its sync sets, and
 * which primaryship began which timeline. No I/O.
 *
 *   {"instances":["a","b","c"],
 *    "operation":{"id":"k3x9","kind":"failover","state":"promote","target":null,"allow_loss":null,"rule":12,
 *                 "reason":"fail over shard s1: ..."},
 *    "term":"2","epoch":"2","durability":"required","maintenance":false,
 *    "configs":[{"epoch":"1","term":"1","primary":"a","members":["b","c"],"k":1}, ...],
 *    "history":[{"term":"1","parent":"0","timeline":1,"start":"0/0"}]}
 *
 * Instances are meant by name in it and by their place in the list in the structs; a place is never given to
 * another one.
 */
#ifndef HA_SHARD_RECORD_H
#define HA_SHARD_RECORD_H

#include <stddef.h>

#include "health/ha_decide.h"
#include "operation/failover.h"

struct shard_primaryship {
    uint64_t term;
    uint64_t parent;   /* term of what lies below start, 0 = nothing does */
    uint32_t timeline; /* 0 = it was not seen as the primary yet */
    uint64_t start;    /* LSN */
};

struct shard_record {
    unsigned count; /* of instances: at least one */
    char names[HA_INSTANCES_MAX][HA_NAME_SIZE];
    struct failover_record op; /* DONE or CANCELED: nothing is under way */
    unsigned history_count;    /* the newest HA_TIMELINES_MAX - 1, oldest first */
    struct shard_primaryship history[HA_TIMELINES_MAX - 1];
    bool maintenance; /* a person works on it: nothing is decided */
};

/* A new shard: term 1, the first is the primary, the others its standbys; no operation. */
void shard_record_init(struct shard_record *record, const char *const *names, unsigned count,
                       const struct ha_policy *policy);

char *shard_record_text(const struct shard_record *record); /* to be freed */

/* ERRC_CORRUPT names what cannot be; *ret then is unchanged. */
int shard_record_parse(const char *json, size_t length, struct shard_record *ret, struct err *err);

/* -1 = there is none of that name. */
int shard_record_find(const struct shard_record *record, const char *name);

/* Adds a primaryship, unless the newest is of its term or a later one. True = it was added. */
bool shard_record_began(struct shard_record *record, const struct shard_primaryship *began);
/* NULL = none of that term. */
const struct shard_primaryship *shard_record_primaryship(const struct shard_record *record, uint64_t term);
/* The timelines of data whose last bytes were written under term and end at `end`; empty if it is not known.
 */
void shard_record_history(const struct shard_record *record, uint64_t term, uint64_t end,
                          struct ha_history *ret);

#endif
