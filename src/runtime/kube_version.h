/*
 * kube_version: a StatefulSet (or a Cluster of CloudNativePG) keeps the image of its major version of
 * PostgreSQL.
 *
 * The servers of a newer major version do not read the files of an older one. So an object that was made for
 * an older spec.postgresql.version goes on with its own image until its rows were moved to a new shard (an
 * upgrade). The version it was made for is an annotation. Pure.
 */
#ifndef RUNTIME_KUBE_VERSION_H
#define RUNTIME_KUBE_VERSION_H

#include <stdbool.h>

struct yyjson_val;
struct yyjson_mut_doc;

#define KUBE_VERSION_ANNOTATION                                                                              \
    "shardherd.io/postgresql-version" /* "15"; none = spec.postgresql.version was not given */

/*
 * live is the object that exists, doc the one to be applied. If live was made for an older major version, doc
 * gets its image and its version, and true is returned. One without the annotation is of no known version: it
 * is given that of doc, and its image.
 */
bool kube_version_keep(struct yyjson_val *live, struct yyjson_mut_doc *doc);

#endif
