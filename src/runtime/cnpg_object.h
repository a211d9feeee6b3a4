/*
 * cnpg_object: the CloudNativePG Cluster of one shard, from the specification of its database. Pure.
 *
 * Secrets: <shard>-credentials is the superuser's ("postgres"), <database>-owner the owner's.
 */
#ifndef RUNTIME_CNPG_OBJECT_H
#define RUNTIME_CNPG_OBJECT_H

#include "runtime/kube_objects.h"

#define CNPG_HIBERNATION "cnpg.io/hibernation"

/* shard->image is not used: without spec.postgresql.image the operator's image of the major version is taken.
 * owner: role of the application. ERRC_INVALID names the field that cannot be used. */
int cnpg_object_make(const struct kube_shard *shard, const char *owner, kube_object_cb cb, void *data,
                     struct err *err);

/*
 * Whether the Cluster is as it is to be; else why not, "cluster shop-s1: Setting up primary: ...".
 */
bool cnpg_is_healthy(struct yyjson_val *cluster, char *reason, unsigned long size);

#endif
