/*
 * watchers: the watches of a store whose changes come in one stream, and the changes that wait to be shown.
 */
#ifndef STORE_WATCHERS_H
#define STORE_WATCHERS_H

#include "base/list.h"
#include "store/store_impl.h"

struct watchers {
    struct list events, watches;
    int64_t showing; /* revision of the change whose callbacks run, else 0 */
};

void watchers_init(struct watchers *w);
void watchers_free(struct watchers *w);

/* Shows what came after revision `after`; begun in a callback of a change, what came after that one. */
struct store_watch *watchers_begin(struct watchers *w, struct store *store, const char *prefix, int64_t after,
                                   store_watch_cb cb, void *data);
/* Also in its own callback. */
void watchers_end(struct store_watch *watch);

/* Copies. value NULL = deleted. */
void watchers_add(struct watchers *w, const char *key, const char *value, int64_t revision);
/* In order, up to a change of `held` (NULL = none), or until *stop. */
void watchers_show(struct watchers *w, const char *held, const bool *stop);

#endif
