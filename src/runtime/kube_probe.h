/*
 * kube_probe: whether a server that somebody else made can be a shard. Only looks, changes nothing.
 *
 * Asked as the superuser: version, wal_level, limits of replication, and (when `whole`) whose the objects of
 * the database are; then whether the application's role is let in with the password of its Secret.
 */
#ifndef RUNTIME_KUBE_PROBE_H
#define RUNTIME_KUBE_PROBE_H

#include "base/sm.h"
#include "pg/pg_conn.h"

struct kube_probe;
typedef void (*kube_probe_cb)(struct kube_probe *probe, const struct err *err, void *data);

struct kube_probe {
    /* filled in by the caller; the texts live until done */
    struct loop *loop;
    struct pg_target target; /* dbname: the database that becomes a shard */
    const char *owner;
    const char *owner_password;
    bool whole;           /* it is to be taken over: look at everything */
    uint64_t deadline_ns; /* until then a server that does not answer is asked again; 0 = once */
    void (*progress)(const char *message, void *data); /* why it is not let in, each time; may be NULL */
    kube_probe_cb done;
    void *data;

    struct sm sm;
    struct loop_timer timer;
    struct pg_conn *conn;
    bool as_owner; /* the second connection */
    struct err err;
};

/*
 * done comes once, later. ERRC_REFUSED: it cannot be a shard as it is, the message names the remedy;
 * ERRC_AUTH: a password is not that of the Secret; ERRC_UNAVAILABLE and the like: it does not answer.
 */
void kube_probe_start(struct kube_probe *probe);
void kube_probe_cancel(struct kube_probe *probe); /* done comes with ERRC_CANCELED */

#endif
