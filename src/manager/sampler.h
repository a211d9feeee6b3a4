/*
 * sampler: listens to the change stream of one shard, or samples its rows, for the balancer's split point.
 *
 * Stream: a temporary logical slot and a publication of the distributed tables (kept under the name
 * shardherd_sample), decoded here; every written key's hash goes into a split_sample. The slot dies with the
 * connection, so that a crash leaves nothing that holds back WAL. Rows: TABLESAMPLE of each table.
 * States: CONNECTING -> PREPARING (publication) -> SLOT -> LISTENING -> CLOSED; each waits for the server,
 * all have one deadline. The owner stops it at any time.
 */
#ifndef MANAGER_SAMPLER_H
#define MANAGER_SAMPLER_H

#include "balance/split_point.h"
#include "fleet/fleet.h"
#include "loop/loop.h"

struct sampler;

/* length_ns: how long to listen. `rows`: sample rows instead. access and routing are copied. */
struct sampler *sampler_start(struct loop *loop, const struct instance_access *access,
                              const struct routing *routing, uint64_t length_ns, bool rows);

/* What was heard so far; closed once the time is over. Owned by the sampler. */
const struct split_sample *sampler_sample(const struct sampler *s);

/* Why there will be no sample, or NULL. */
const char *sampler_error(const struct sampler *s);

/* Ends it at once; the memory goes when its connections are closed, then `closed` (may be NULL) runs. */
void sampler_stop(struct sampler *s, void (*closed)(void *data), void *data);

#endif
