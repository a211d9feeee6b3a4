/*
 * application: which known PostgreSQL servers an application's environment points at. Pure.
 */
#ifndef DISCOVERY_APPLICATION_H
#define DISCOVERY_APPLICATION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "discovery/application_object.h"
#include "discovery/kubernetes_read.h"

struct fleet;
struct kubernetes_entries;

/* ---- what is known ---- */

/* One name of a server, as server_host_normal() makes it. */
struct known_server {
    char *host;
    int port;
    const char *instance, *database, *shard; /* borrowed from what they were made of; "" = none */
};

struct known_servers {
    struct known_server *items; /* ordered by host and port */
    size_t count;
};

/* All names of all instances: `entries` (may be NULL) adds the services and addresses of those in a cluster.
 */
struct known_servers known_servers_make(const struct fleet *fleet, const struct kubernetes_entries *entries);
void known_servers_free(struct known_servers *servers);

/* "DB.shop.svc.cluster.local." as "db.shop.svc"; free() it. */
char *server_host_normal(const char *host);
/* As seen from a pod in the namespace: "db" and "db.shop" name services too. NULL = not known. */
const struct known_server *known_server_find(const struct known_servers *servers, const char *host, int port,
                                             const char *name_space);

/* ---- what an application says ---- */

enum connection_state {
    CONNECTION_KNOWN,     /* it points at an instance */
    CONNECTION_FOREIGN,   /* at something that is not known here */
    CONNECTION_UNRESOLVED /* `why` says which value could not be had */
};
const char *connection_state_name(enum connection_state state); /* "known" */

struct application_connection {
    char *container;
    char *variable; /* "DATABASE_URL", "DB_HOST" */
    char *from;     /* "literal", "ConfigMap shop key host", "Secret shop key url" */
    char *host;     /* NULL = not resolved; never a password in any of them */
    int port;
    char *dbname, *user; /* NULL = not said */
    enum connection_state state;
    char *why;                         /* NULL when known */
    char *instance, *database, *shard; /* NULL unless known; "" = none */
};

struct application {
    char *id;         /* "shop/Deployment/web", unique */
    const char *kind; /* a constant */
    char *name, *name_space;
    struct application_connection *connections;
    size_t connection_count;
    bool pending; /* values are still being read */
};

/* Values of ConfigMaps and Secrets: kubernetes_reads_get() and _all(), or a test's. */
struct application_lookup {
    enum read_state (*get)(void *data, enum read_kind kind, const char *name_space, const char *name,
                           const char *key, const char **ret, const struct err **ret_err);
    enum read_state (*all)(void *data, enum read_kind kind, const char *name_space, const char *name,
                           void (*each)(const char *key, const char *value, void *each_data), void *each_data,
                           const struct err **ret_err);
    void *data;
};

void application_resolve(const struct application_object *object, const struct application_lookup *lookup,
                         const struct known_servers *servers, struct application *ret);
void application_clear(struct application *application);

#endif
