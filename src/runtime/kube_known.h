/*
 * kube_known: what the last runtime_list() of the Kubernetes back end gave, so that the next one asks the API
 * server for nothing that has not changed.
 *
 * A watch on the StatefulSets (metadata only) tells when to look again, and that on the pods of members
 * (kube_roles.h); what was made or removed by ourselves is looked at again in any case. Secrets cannot be
 * watched without the right to list them. Ours change by our own doing, so what was read of them holds until
 * then, or until the polls of the instance are refused; others' are read again every ten minutes.
 */
#ifndef RUNTIME_KUBE_KNOWN_H
#define RUNTIME_KUBE_KNOWN_H

#include "runtime/kubernetes_impl.h"
#include "runtime/runtime.h"

struct kube_known_entry {
    char *name, *database, *shard;
    char *version;     /* of the StatefulSet, and of the pod what matters; "" = not to be relied on */
    uint64_t spec_sum; /* of the database's object as it was */
    bool theirs;       /* a Secret of somebody else's was read */
    uint64_t read_ns;
    struct instance_access access;
};

/* The watch, once. */
void kube_known_start(struct kubernetes *k);
/* Nothing changed since, and everything is still to be relied on. */
bool kube_known_holds(const struct kubernetes *k);
/* A list begins: what changes from now on is for the next one. */
void kube_known_begin(struct kubernetes *k);
/* What is known of an instance, if its StatefulSet still has this version; else NULL. */
const struct kube_known_entry *kube_known_find(const struct kubernetes *k, const char *name,
                                               const char *version);
/* Takes the entries over, and their texts. */
void kube_known_replace(struct kubernetes *k, struct kube_known_entry *entries, int count);
/* It was changed by us. */
void kube_known_forget(struct kubernetes *k, const char *name);
/* Ends the watch and forgets all; `closed` (later, or at once if there was no watch). */
void kube_known_close(struct kubernetes *k, void (*closed)(void *data), void *data);

/* 0 when there is no such database. */
uint64_t kube_known_sum(const struct kubernetes *k, const char *database);

#endif
