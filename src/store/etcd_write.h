/*
 * etcd_write: compare-and-swap writes of which the outcome is known, one at a time.
 *
 * Each write is one transaction: the key has the revision expected, and our marker has the revision we left
 * it at; then the key is changed and the marker gets the number of this write. A transaction whose answer was
 * lost can therefore be repeated: it cannot take effect twice, and when it fails the same answer reads back,
 * by the marker, whether an earlier try was applied (E6, E8) - also if somebody has changed the key since, or
 * had written the same value. What is reported as a conflict can no longer be applied by a try that is still
 * on its way. The marker lives as long as a lease of an hour, so nothing is left behind.
 */
#ifndef STORE_ETCD_WRITE_H
#define STORE_ETCD_WRITE_H

#include "store/etcd_call.h"

struct etcd_writer;

struct etcd_write {
    const char *key;   /* as in etcd; copied, like the others */
    const char *value; /* NULL = delete */
    int64_t expected;
    const char *fence_key; /* the write is refused (ERRC_STALE) unless this key was created at... */
    int64_t fence;         /* ...this revision; 0 = no fence */
};
/* revision: of the write, 0 of a delete. Errors as store.h says. */
typedef void (*etcd_write_cb)(const struct err *err, int64_t revision, void *data);

struct etcd_writer *etcd_writer_new(struct etcd_client *client, const char *prefix);
/* No write may run. At most 2 s, then `closed`. */
void etcd_writer_close(struct etcd_writer *writer, void (*closed)(void *data), void *data);

/* No other may run. */
void etcd_write_start(struct etcd_writer *writer, const struct etcd_write *write, etcd_write_cb cb,
                      void *data);

#endif
