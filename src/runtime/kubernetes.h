/*
 * kubernetes: the shards' PostgreSQL instances as StatefulSets, made by server-side apply (field manager
 * "shardherd-provision"). Instance "shop-s1-0" is the first pod of the StatefulSet "shop-s1" of database
 * "shop", shard "s1"; what a shard consists of is in kube_objects.h.
 *
 * runtime_ensure() makes the Secrets that are missing (DATABASE-SHARD-credentials, DATABASE-owner unless a
 * password is given, and with TLS DATABASE-ca, DATABASE-SHARD-tls, and for clients DATABASE-client and
 * DATABASE-manager), applies the objects, waits until the pod is ready, and makes role and database. A Secret
 * with a password is never written again by it. It fails with
 *   ERRC_NOT_FOUND    no such database, or must_exist and no StatefulSet
 *   ERRC_CONFLICT     an object of that name is not ours, another call on this instance runs, or the database
 *                     is suspended
 *   ERRC_INVALID      a field of the specification, or a certificate that it names, cannot be used; or
 *                     tls.mode changes from or to "off" while there are several instances
 *   ERRC_UNSUPPORTED  spec.instances above 1 with spec.adopt, tls.mode mutual with CloudNativePG, or a volume
 *                     that is to grow and cannot
 *   ERRC_TIMEOUT      the instance did not get ready; the message says which pod and why. What was made
 * stays, unlike with local instances: the cause is often outside, and a further call goes on.
 * runtime_spec.settings is not used: settings come from spec.postgresql.parameters.
 *
 * The certificate DATABASE-manager is used in mode "on" as well, so that nothing is shut out while the mode
 * of one shard after the other changes. Servers ask for certificates of clients when tls.mode is mutual.
 *
 * runtime_stop() scales to zero. runtime_remove() deletes what carries our labels and our owner, waits until
 * it is gone, and leaves volumes and passwords unless deletionPolicy is "delete" (also when there is no such
 * database any more). With the last shard go the files of the database.
 */
#ifndef RUNTIME_KUBERNETES_H
#define RUNTIME_KUBERNETES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "runtime/runtime.h"

struct k8s_client;

/* A ShardedDatabase as the API server gave it: metadata.uid and spec are read. */
struct kube_database {
    const char *json;
    size_t length;
};

struct runtime_kubernetes_options {
    /*
     * One CloudNativePG Cluster for each shard instead of our own StatefulSet ("cnpg" is then the runtime's
     * kind): its operator must be there. runtime_stop() hibernates, and so does runtime_remove() unless
     * deletionPolicy is "delete", since the operator deletes the volumes with the Cluster.
     */
    bool cnpg;
    struct k8s_client *client; /* shared, must outlive the runtime */
    const char *name_space;    /* NULL = that of the client */
    const char *image;         /* for databases that name none */
    /* For the files of CAs and of our own certificates, DATABASE.crt and DATABASE.client.pem; made if
     * missing, 0700 */
    const char *directory;
    uint64_t timeout_ns; /* of runtime_ensure(), and of a removal; 0 = 10 min */
    /* The object of a database; the text lives until the next call. ERRC_NOT_FOUND when there is none. */
    int (*database)(void *data, const char *database, struct kube_database *ret, struct err *err);
    /*
     * What an instance that is being made waits for, each time that it is something else: "pod shop-s1-0 is
     * not scheduled: 0/3 nodes are available". May be NULL.
     */
    void (*progress)(void *data, const char *instance, const char *message);
    /*
     * Whether what is known of the instance may be wrong, since its polls are refused (a password, a
     * certificate; not that nobody answers): runtime_list() then reads its Secrets again. May be NULL.
     */
    bool (*doubted)(void *data, const char *instance);
    void *data;
};

/* Copies the options' strings. Touches the disk (the directory): call it at start-up. */
int runtime_kubernetes_open(struct loop *loop, const struct runtime_kubernetes_options *options,
                            struct runtime **ret, struct err *err);

#endif
