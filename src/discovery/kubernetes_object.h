/*
 * kubernetes_object: what is kept of the cluster's objects: a few hundred bytes of each. Pure.
 *
 * One flat struct for pods, stateful sets, services, CloudNativePG clusters and endpoint slices; what a kind
 * does not have stays NULL or 0. Made by the trim functions of the watches, from JSON that anybody may have
 * written: each text has a limit, each list too, and what does not fit is left out.
 *
 * People say what is to be found with a label and annotations:
 *
 *   label       shardherd.io/discover            "true", or anything but "false"
 *   annotation  shardherd.io/database, .../shard what it belongs to; else it is free
 *               shardherd.io/port                5432 unless the object says otherwise
 *               shardherd.io/dbname              the database to connect to
 *               shardherd.io/user                or the Secret's user key
 *               shardherd.io/secret              name of a Secret of the same namespace
 *               shardherd.io/secret-user-key     "username"
 *               shardherd.io/secret-password-key "password"
 *               shardherd.io/sslmode             as in libpq
 */
#ifndef DISCOVERY_KUBERNETES_OBJECT_H
#define DISCOVERY_KUBERNETES_OBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLUSTER_TEXT_MAX      253 /* bytes: no name in Kubernetes is longer */
#define CLUSTER_ENDPOINTS_MAX 1000

struct yyjson_val;

enum cluster_kind { CLUSTER_POD, CLUSTER_STATEFUL_SET, CLUSTER_SERVICE, CLUSTER_CNPG, CLUSTER_SLICE };

struct cluster_endpoint {
    char *address;  /* the first of its addresses */
    char *hostname; /* NULL = none */
    char *pod;      /* NULL = it is no pod */
    bool ready;
};

/* Texts lie behind the struct, in one allocation: cluster_object_free() is free(). */
struct cluster_object {
    enum cluster_kind kind;
    bool managed;  /* ours: managed-by shardherd, with database and shard */
    bool discover; /* labelled, and not "false" */
    bool refused;  /* labelled "false": not to be recognised either */
    bool ready, terminating;
    bool headless;    /* SERVICE */
    bool superuser;   /* CNPG: enableSuperuserAccess */
    bool postgres;    /* POD: a container's image and port are PostgreSQL's */
    int port;         /* 0 = not said */
    int replicas;     /* STATEFUL_SET */
    unsigned ordinal; /* STATEFUL_SET: of its first pod */
    uint64_t restarts;
    char *name, *name_space;
    char *database, *shard; /* labels if managed, else annotations */
    char *role;             /* label shardherd.io/role or cnpg.io/instanceRole */
    char *cluster;          /* label cnpg.io/cluster */
    char *address;          /* POD: its IP; SERVICE: the cluster IP */
    char *service;          /* STATEFUL_SET: serviceName; SLICE: the service it is of; CNPG: writeService */
    char *owner;            /* POD: its controller, "StatefulSet/x" */
    char *dbname, *user, *sslmode;      /* what was said */
    char *secret, *user_key, *pass_key; /* what was said, or what the pod's environment refers to */
    struct cluster_endpoint *endpoints; /* SLICE */
    size_t endpoint_count;
};

/* NULL for an object without a name, or one that is not of this kind. free() it. */
struct cluster_object *cluster_pod(struct yyjson_val *json);
struct cluster_object *cluster_stateful_set(struct yyjson_val *json);
/* Metadata alone is enough for one of ours. */
struct cluster_object *cluster_service(struct yyjson_val *json);
struct cluster_object *cluster_cnpg(struct yyjson_val *json);
struct cluster_object *cluster_slice(struct yyjson_val *json);

/* Whether an image is PostgreSQL's, or one made of it: its last path segment without tag and digest. */
bool cluster_image_is_postgres(const char *image);

#endif
