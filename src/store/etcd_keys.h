/*
 * etcd_keys: which keys there are, at which revision: what a reload is compared with. No I/O.
 */
#ifndef STORE_ETCD_KEYS_H
#define STORE_ETCD_KEYS_H

#include <stdbool.h>
#include <stdint.h>

struct etcd_key {
    char *key;
    int64_t mod;
    bool seen; /* in the reload that runs */
};

/* Zero-initialised is empty. Sorted by key. */
struct etcd_keys {
    struct etcd_key *keys;
    int count, capacity;
};

/* True if the key was not known at this revision (then it is now). */
bool etcd_keys_put(struct etcd_keys *k, const char *key, int64_t mod);
/* True if the key is not known at this revision. Marks it as seen, if it is known at any. */
bool etcd_keys_see(struct etcd_keys *k, const char *key, int64_t mod);
/* True if the key was there. */
bool etcd_keys_remove(struct etcd_keys *k, const char *key);
/* A reload begins: nothing was seen yet. */
void etcd_keys_unsee(struct etcd_keys *k);
void etcd_keys_free(struct etcd_keys *k);

#endif
