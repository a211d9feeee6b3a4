/*
 * load_state: what every row must look like, given all acknowledged writes. Pure.
 *
 * Customer n has a version (0 when created) and the orders [first, next): inserts append, deletes take the
 * oldest, so that two numbers say which orders live, which were deleted (below first) and which never were.
 *
 * The ledger file is text, one record a line, and replaying it gives this state:
 *   shardherd-load 1 key=bigint customers=200000 orders=3     first line; the state before any write
 *   run CLIENTS                                               a run begins
 *   u NUMBER VERSION                                          acknowledged: customer updated to VERSION
 *   i NUMBER ORDER                                            acknowledged: order inserted (ORDER = next)
 *   d NUMBER ORDER                                            acknowledged: order deleted (ORDER = first)
 *   t NUMBER VERSION ORDER                                    acknowledged: both, in one transaction
 *   ? u|i|d|t NUMBER VERSION ORDER                            sent, no answer: both outcomes are right until
 *                                                             the next record of that customer
 *   ! KIND NUMBER VERSION FIRST NEXT                          the run itself found KIND; what it found
 * instead end                                                       the run ended in an orderly way A last
 * line without its newline was never acknowledged and is ignored.
 */
#ifndef LOAD_LOAD_STATE_H
#define LOAD_LOAD_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "fleet/hash.h"
#include "load/load_findings.h"

enum load_change { CHANGE_UPDATE, CHANGE_INSERT, CHANGE_DELETE, CHANGE_TX, CHANGE_MAX };

/* bits of pending */
#define PENDING_VERSION 1u /* version + 1 may be there */
#define PENDING_NEXT    2u /* order `next` may be there */
#define PENDING_FIRST   4u /* order `first` may be gone */

struct load_shape {
    enum key_type key_type;
    uint32_t customers;
    uint32_t orders; /* per customer, at first */
};

struct load_state {
    struct load_shape shape;
    uint32_t *version;
    uint32_t *first;
    uint32_t *next;
    uint8_t *pending;
    uint64_t found[FINDING_MAX]; /* recorded by the runs themselves */
    uint64_t writes;             /* acknowledged */
    uint32_t unclean_clients;    /* of a run without an end: each may have one write that is not recorded */
};

void load_state_init(struct load_state *state, const struct load_shape *shape);
void load_state_fini(struct load_state *state);

/* One write and what it makes: to `version` (update, tx), order `order` (insert, delete, tx). */
struct load_write {
    enum load_change change;
    uint32_t number;
    uint32_t version;
    uint32_t order;
};

/* The write that comes next for that customer; a delete needs first < next. */
void load_state_plan(const struct load_state *state, enum load_change change, uint32_t number,
                     struct load_write *ret);

/* ERRC_CORRUPT if the write does not follow from the state; then nothing changes. */
int load_state_apply(struct load_state *state, const struct load_write *write, struct err *err);
int load_state_doubt(struct load_state *state, const struct load_write *write, struct err *err);

/* ---- records ---- */

void load_record_header(struct buf *out, const struct load_shape *shape);
void load_record_write(struct buf *out, const struct load_write *write);
void load_record_doubt(struct buf *out, const struct load_write *write);
void load_record_found(struct buf *out, const struct load_state *state, enum finding_kind kind,
                       uint32_t number);

/* line: without its newline, NUL-terminated. ERRC_CORRUPT naming the line. */
int load_record_parse_header(const char *line, struct load_shape *ret, struct err *err);
int load_record_replay(struct load_state *state, const char *line, struct err *err);

/* How many orders must be there in all. */
uint64_t load_state_orders(const struct load_state *state);

#endif
