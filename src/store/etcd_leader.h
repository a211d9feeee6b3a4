/*
 * etcd_leader: an election on the wire, by the key PREFIX!leader and the term in PREFIXleader/term.
 */
#ifndef STORE_ETCD_LEADER_H
#define STORE_ETCD_LEADER_H

#include "store/etcd_call.h"

/* Behind the prefix. */
#define ETCD_LEADER_KEY "!leader"

struct etcd_leader;

struct etcd_leader_options {
    const char *prefix;
    const char *holder; /* for humans */
    int64_t ttl_s;
    /* Each at most once: led (or `err` for good), and after that led no longer; not after close. */
    void (*won)(const struct err *err, int64_t term, void *data);
    void (*lost)(void *data);
    void *data;
};

struct etcd_leader *etcd_leader_start(struct etcd_client *client, const struct etcd_leader_options *options);
/* Gives the leadership back (at most 2 s), then `closed`. */
void etcd_leader_close(struct etcd_leader *leader, void (*closed)(void *data), void *data);

/* create_revision of the leader's key while we lead, else 0: what a fence compares. */
int64_t etcd_leader_created(const struct etcd_leader *leader);

#endif
