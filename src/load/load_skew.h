/*
 * load_skew: which customer the next operation goes to. Pure.
 *
 * Text forms:
 *   uniform
 *   zipf:THETA               THETA > 0; 0.99 is YCSB's; the ranks are spread over the key space
 *   hot-shard=NAME:SHARE     SHARE of the operations go to keys of the ranges the shard owns at that moment
 *   hot-range=LO..HI:SHARE   ... to keys whose hash lies in the range
 *   hot-key=NUMBER:SHARE     ... to one customer
 * The rest of a hot skew is uniform over all customers.
 */
#ifndef LOAD_LOAD_SKEW_H
#define LOAD_LOAD_SKEW_H

#include <stdint.h>

#include "base/err.h"
#include "fleet/hash.h"
#include "fleet/range.h"
#include "load/load_keys.h"

enum load_skew_kind { SKEW_UNIFORM, SKEW_ZIPF, SKEW_HOT_SHARD, SKEW_HOT_RANGE, SKEW_HOT_KEY };

struct load_skew_spec {
    enum load_skew_kind kind;
    double theta;       /* zipf */
    double share;       /* hot ones, (0, 1] */
    struct range range; /* hot-range */
    char shard[64];     /* hot-shard */
    uint32_t number;    /* hot-key */
};

/* ERRC_INVALID naming the text and what is wrong. */
int load_skew_parse(const char *text, struct load_skew_spec *ret, struct err *err);

struct load_skew {
    struct load_skew_spec spec;
    uint32_t count;                 /* customers */
    uint32_t stride;                /* coprime to count: spreads ranks over numbers */
    double zipf_x1, zipf_n, zipf_s; /* of the rejection-inversion sampler */
    uint32_t *hot;                  /* customers of the hot ranges */
    uint32_t hot_count;
};

/*
 * Ready to draw from `count` >= 1 customers. hot: the ranges for hot-shard (NULL otherwise). ERRC_INVALID if
 * no customer lies in the hot ranges or the hot key does not exist; then nothing is kept.
 */
int load_skew_init(struct load_skew *skew, const struct load_skew_spec *spec, enum key_type type,
                   uint32_t count, const struct range_set *hot, struct err *err);
void load_skew_fini(struct load_skew *skew);
uint32_t load_skew_draw(const struct load_skew *skew, struct load_random *random);

#endif
