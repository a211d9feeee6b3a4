/* store_impl: what a back end provides; only store.c and the back ends include this. */
#ifndef STORE_STORE_IMPL_H
#define STORE_STORE_IMPL_H

#include "store/store.h"

struct store_backend {
    int (*get)(struct store *, const char *, store_get_cb, void *, struct err *);
    int (*list)(struct store *, const char *, store_list_cb, void *, struct err *);
    int (*compare_and_swap)(struct store *, const char *, int64_t, const char *, store_write_cb, void *,
                            struct err *);
    int (*watch)(struct store *, const char *, store_watch_cb, void *, struct store_watch **, struct err *);
    void (*watch_stop)(struct store_watch *);
    int (*lease)(struct store *, const char *, store_lease_cb, void (*)(void *), void *, struct err *);
    void (*close)(struct store *, void (*)(void *), void *);
    const char *(*name)(const struct store *);
};

/* First member of every back end's object. */
struct store {
    const struct store_backend *backend;
};

/* First member of every back end's watch. */
struct store_watch {
    struct store *store;
};

#endif
