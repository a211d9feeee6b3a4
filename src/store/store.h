/*
 * store: keys and values with compare-and-swap (design of the same interface for sqlite, etcd, kubernetes).
 *
 * Keys are paths of [A-Za-z0-9._/-], at most 512 bytes; values are text (JSON), at most 1 MiB. Every value
 * has a revision, a number that only grows within the store; revision 0 means "does not exist". There is no
 * transaction over several keys. A write is durable when its callback reports success; after ERRC_TIMEOUT or
 * ERRC_UNAVAILABLE its outcome is unknown and must be read back.
 *
 * Layout used by shardherd: db/<name>/spec, db/<name>/routing, op/<id>, instance/<name>, leader.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

#define STORE_KEY_MAX   512
#define STORE_VALUE_MAX (1024 * 1024)

struct store;

struct store_entry {
    const char *key;
    const char *value; /* NULL in a watch event = deleted */
    int64_t revision;
};

typedef void (*store_get_cb)(const struct err *err, const struct store_entry *entry,
                             void *data); /* NOT_FOUND */
typedef void (*store_list_cb)(const struct err *err, const struct store_entry *entries, int count,
                              void *data);
typedef void (*store_write_cb)(const struct err *err, int64_t revision, void *data);
typedef void (*store_watch_cb)(const struct store_entry *entry, void *data);
/* term >= 1 on success; grows by one with each acquisition, forever. */
typedef void (*store_lease_cb)(const struct err *err, int64_t term, void *data);

int store_get(struct store *store, const char *key, store_get_cb cb, void *data, struct err *err);
/* Entries whose key starts with prefix, ordered by key. */
int store_list(struct store *store, const char *prefix, store_list_cb cb, void *data, struct err *err);
/*
 * Writes if the key's revision is `expected` (0 = the key must not exist), else ERRC_CONFLICT.
 * value NULL deletes; then the revision reported is 0, and `expected` must be above 0.
 */
int store_compare_and_swap(struct store *store, const char *key, int64_t expected, const char *value,
                           store_write_cb cb, void *data, struct err *err);

/*
 * Every later change under prefix, in order, made through this process or (etcd, kubernetes) any other; the
 * callback of a write runs before its events do. A change that is under way when the watch begins may be
 * reported too. Ends with store_watch_stop() (any time, also in a callback) or with the store.
 */
struct store_watch;
int store_watch(struct store *store, const char *prefix, store_watch_cb cb, void *data,
                struct store_watch **ret, struct err *err);
void store_watch_stop(struct store_watch *watch);

/*
 * Becomes the leader. SQLite: the lock on the file made that sure when it was opened, so this only raises the
 * term. `lost` runs at most once, when leadership ends without our asking. holder names us for humans.
 */
int store_lease(struct store *store, const char *holder, store_lease_cb cb, void (*lost)(void *data),
                void *data, struct err *err);

/*
 * Waits for running jobs, releases the lease and closes; `closed` runs last. What still waits in line
 * completes with ERRC_CANCELED, later calls return ERRC_CLOSED. A second call does nothing, its `closed`
 * never runs.
 */
void store_close(struct store *store, void (*closed)(void *data), void *data);

/* "sqlite:/var/lib/shardherd/store.db" for messages. */
const char *store_name(const struct store *store);

/* ---- back ends ---- */

/*
 * SQLite file in WAL mode with synchronous=FULL; all access on one worker job at a time, in order.
 * Errors at open (reported through cb): ERRC_CONFLICT another process holds the lock, naming its pid;
 * ERRC_CORRUPT torn, or not a shardherd store, or a newer format: the file is left untouched; ERRC_IO.
 */
typedef void (*store_open_cb)(const struct err *err, struct store *store, void *data);
int store_sqlite_open(struct loop *loop, const char *path, store_open_cb cb, void *data, struct err *err);

/*
 * ConfigMaps in the namespace of `access`, which is taken over; id names the store (a DNS label: its objects
 * are ID-..., its Lease ID), so that several managers can share a namespace. The leader is elected:
 * store_lease() waits until everybody else has given way. Errors at open: ERRC_UNAVAILABLE after 30 s without
 * a first list, with the API server's reason. Revisions must be numbers, as they are since Kubernetes 1.35
 * and ever were. note (NULL = none; taken over as well): the identity to stand for election under, instead of
 * one that is made of store_lease()'s holder; what a process before it holds is taken at once.
 */
struct k8s_access;
struct lease_note;
int store_kubernetes_open(struct loop *loop, struct k8s_access *access, const char *id,
                          struct lease_note *note, store_open_cb cb, void *data, struct err *err);

/*
 * Keys that begin with `prefix` in an etcd (3.4 or newer), over its JSON gateway. The leader is elected;
 * while this process leads, its writes are refused with ERRC_STALE once another may lead. A write whose
 * answer was lost is repeated in a way that cannot take effect twice, so only a cluster that stays away for
 * 30 s leaves an outcome unknown. ERRC_LIMIT: etcd's space quota is used up (reading and deleting still
 * work). Errors at open: ERRC_AUTH; ERRC_UNAVAILABLE after 30 s, with the last reason.
 */
struct tls_context;
struct store_etcd_options {
    const char *const *endpoints; /* "https://10.0.0.5:2379", members of one cluster; copied, as all texts */
    int endpoint_count;
    const char *prefix; /* "shardherd/", at least a byte; what begins with it belongs to this store */
    const char *user, *password; /* NULL = none */
    struct tls_context *tls;     /* for https; NULL = the system's trust */
    int lease_s;                 /* of the leader, who has two thirds of it; 0 = 15, at least 2 */
};
int store_etcd_open(struct loop *loop, const struct store_etcd_options *options, store_open_cb cb, void *data,
                    struct err *err);

#endif
