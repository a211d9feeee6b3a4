/*
 * etcd_watch: every change of the keys in one range, once and in order.
 *
 * First all keys are read at one revision, then a watch starts at the next (E1). When it breaks it goes on
 * where it stopped; when that revision was compacted away everything is read again, and what differs from
 * what was known is reported: the changes in between are lost, but no state is. A stream that is silent for
 * long is made anew, for etcd gives no sign of life; what the position may be moved on to is asked first, so
 * that a store at rest does not fall behind the compaction.
 */
#ifndef STORE_ETCD_WATCH_H
#define STORE_ETCD_WATCH_H

#include "store/etcd_call.h"

struct etcd_watch;

struct etcd_watch_options {
    const char *begin, *end; /* the range */
    size_t end_length;
    uint64_t silence_ns; /* 0 = a minute */
    /* value NULL = deleted; a deletion that only a reload showed has the reload's revision */
    void (*changed)(const char *key, const char *value, int64_t revision, void *data);
    void (*loaded)(void *data); /* once: everything was read, from here on changes are reported */
    void (*failed)(const struct err *err, bool final, void *data); /* before `loaded`, each failed try */
    void *data;
};

struct etcd_watch *etcd_watch_start(struct etcd_client *client, const struct etcd_watch_options *options);
void etcd_watch_close(struct etcd_watch *watch, void (*closed)(void *data), void *data);

#endif
