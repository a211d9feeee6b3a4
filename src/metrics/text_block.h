/*
 * text_block: the texts of some instances turned round, family by family. No I/O.
 *
 * An instance's answers are kept as they came, with all families of a query in one text; the exposition wants
 * all instances of a family together. Picking a family's lines out of every instance at each scrape is a
 * cache miss for each, so a few instances at a time are turned round into one block that is read straight
 * through: a family of a block is one run of bytes, long enough to be written without copying. A block stays
 * as it is while somebody uses it, and until one of its instances has a new text.
 */
#ifndef METRICS_TEXT_BLOCK_H
#define METRICS_TEXT_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "metrics/render.h"

#define BLOCK_INSTANCES 32u /* a family of them is some 3 KB; one new text makes so many be copied again */

struct text_block {
    unsigned users;
    unsigned families;
    unsigned room;                      /* of ends */
    uint32_t *ends;                     /* where each family ends in the text */
    uint64_t versions[BLOCK_INSTANCES]; /* of the texts it was made from, 0 = none */
    struct buf text;
};

/* An empty block with one user. What `old` has is used again if its one user is the caller, who gives it up
 * in any case; NULL is fine. */
struct text_block *block_renew(struct text_block *old);
struct text_block *block_keep(struct text_block *block); /* one more user */
void block_drop(struct text_block *block);               /* one less; NULL is fine */

/* What is in the text since the last call is the next family. */
void block_end_family(struct text_block *block);

/* A family's lines; *length is 0 if there are none. */
const char *block_family(const struct text_block *block, unsigned family, size_t *length);

/* ---- turning round, in steps ---- */

struct block_builder {
    struct text_block *block;                 /* NULL = nothing is being built */
    struct samples *sources[BLOCK_INSTANCES]; /* kept meanwhile; NULL = nothing of this instance */
    uint32_t *places;                         /* where the next lines of each family go */
    unsigned next;
};

/* Takes over `old` as block_renew() does; versions and sources have BLOCK_INSTANCES members. */
void builder_begin(struct block_builder *b, struct text_block *old, struct samples *const *sources,
                   const uint64_t *versions);
/* Copies one instance's text; true when it was the last. */
bool builder_step(struct block_builder *b);
/* After the last step; the caller is the block's user. */
struct text_block *builder_take(struct block_builder *b);
void builder_cancel(struct block_builder *b);

#endif
