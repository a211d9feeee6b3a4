/*
 * instance_text: the families of instances that come from what is known here and not from a query's columns:
 * about the polling, the model's facts, histograms. No I/O.
 */
#ifndef METRICS_INSTANCE_TEXT_H
#define METRICS_INSTANCE_TEXT_H

#include "metrics/families.h"
#include "metrics/poller_impl.h"
#include "metrics/text_block.h"

#define INSTANCE_FAMILIES ((unsigned)STATUS_FAMILIES + VALUE_FAMILIES + HISTOGRAM_FAMILIES)

/* number < INSTANCE_FAMILIES: first those that never end, then those that stop with the load polls. */
const struct metric_family *instance_family(unsigned number);

/*
 * Renders all of them into an empty block, for the pollers of `members` (BLOCK_INSTANCES, NULL = none): a
 * poll may change each of them, so nothing is kept. Those in `stale` have but the families that never end.
 */
void instance_text_render(struct text_block *block, struct poller *const *members, const bool *stale);

#endif
