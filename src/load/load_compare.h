/*
 * load_compare: the rows of all shards against the state that the ledger gives. Pure.
 *
 * Feed every row of both tables of every shard, in any order, then finish. A row counts for its shard: on
 * the owner of its hash it is compared, anywhere else it is misplaced, and duplicated if the owner has it
 * too; if the owner has not, it is also lost, since no client finds it.
 */
#ifndef LOAD_LOAD_COMPARE_H
#define LOAD_LOAD_COMPARE_H

#include <stddef.h>
#include <stdint.h>

#include "fleet/routing.h"
#include "load/load_findings.h"
#include "load/load_state.h"

struct load_compare;

/* All three must outlive it. */
struct load_compare *load_compare_new(const struct load_state *state, const struct routing *routing,
                                      struct load_findings *findings);
void load_compare_free(struct load_compare *c);

/*
 * One line of COPY's text format, with or without its newline, from the shard with that index in the routing
 * table. customers: key, version, balance. orders: key, order_id, amount.
 */
void load_compare_customer(struct load_compare *c, size_t shard, const char *line, size_t length);
void load_compare_order(struct load_compare *c, size_t shard, const char *line, size_t length);

/* After the last row: what is missing, and what is there twice. */
void load_compare_finish(struct load_compare *c);

uint64_t load_compare_rows(const struct load_compare *c);
/* Writes without an answer that turned out to be there, and not. */
void load_compare_doubts(const struct load_compare *c, uint64_t *ret_applied, uint64_t *ret_open);

#endif
