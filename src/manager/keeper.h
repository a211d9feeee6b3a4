/*
 * keeper: brings local instances back whose server has ended while the manager runs.
 *
 * Looks when the polls of a local instance fail: the runtime is listed, and what does not run although the
 * routing table counts on it is started, with a pause between tries that grows from 1 s to 60 s and begins
 * anew when it ran for a minute. It starts only what is there: never an instance that an operation removes,
 * one that no shard of the routing table has, or one whose data directory is missing. Does nothing while the
 * manager does not lead (operations.services.term == 0).
 */
#ifndef MANAGER_KEEPER_H
#define MANAGER_KEEPER_H

#include "manager/databases.h"

struct keeper;

/* What came of a try; texts live until the call returns. */
struct keeper_event {
    const char *instance, *database, *shard;
    const struct err *err; /* NULL = it runs again */
    unsigned tries;        /* in a row, this one included */
    uint64_t next_seconds; /* until it may be tried again */
};

struct keeper_options {
    struct loop *loop;
    struct fleet *fleet;
    struct operations *operations; /* whose services.runtime may be NULL: then there is nothing to do */
    struct databases *databases;
    void (*event)(const struct keeper_event *event, void *data);
    void *data;
};

struct keeper *keeper_new(const struct keeper_options *options);
/* Call it each second. */
void keeper_check(struct keeper *k);
/* Nothing is started and told any more. */
void keeper_stop(struct keeper *k);
/* Not before the runtime was closed. NULL is fine. */
void keeper_free(struct keeper *k);

#endif
