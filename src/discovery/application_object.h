/*
 * application_object: what is kept of a Deployment, StatefulSet or CronJob: the variables of its containers
 * that may say where a PostgreSQL server is, without what could be a secret (application_env.h). Pure.
 */
#ifndef DISCOVERY_APPLICATION_OBJECT_H
#define DISCOVERY_APPLICATION_OBJECT_H

#include <stdbool.h>
#include <stddef.h>

#include "discovery/application_env.h"

#define APPLICATION_VARIABLES_MAX 200 /* of one object; what is beyond is left out */

struct yyjson_val;

enum variable_from { FROM_LITERAL, FROM_CONFIG_MAP, FROM_SECRET };

struct application_variable {
    char *container;
    char *name; /* NULL: all keys of the object (envFrom) */
    enum variable_from from;
    char *text;   /* LITERAL */
    char *object; /* of the ConfigMap or Secret */
    char *key;    /* in it; of envFrom: what is put before each key, or NULL */
    bool optional;
};

struct application_object {
    const char *kind; /* "Deployment"; a constant */
    char *name, *name_space;
    struct application_variable *variables; /* per container: envFrom first, as Kubernetes applies them */
    size_t variable_count;
};

/* NULL when nothing of it matters. kind is one of the three. application_object_free() it. */
struct application_object *application_object_make(const char *kind, struct yyjson_val *json);
void application_object_free(struct application_object *object);

#endif
