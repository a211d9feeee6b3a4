/*
 * kube_roles: the label KUBE_ROLE_LABEL of the pods of shards with several instances, by which the read-write
 * and the read-only services find them (runtime_mark()); whether those pods are there (runtime_place()); and
 * whether their servers have TLS, which pods that wait to be replaced differ in from their StatefulSet.
 *
 * A watch on the pods tells what they carry; who leads says what they are to carry, again and
 * again: what was not said for KUBE_ROLE_STAYS_NS, or since the pod was replaced, is not done any more. A pod
 * becomes "primary" only when no other pod of its StatefulSet is. Each change is a patch of exactly the pod
 * that was seen (uid and resourceVersion) and notes the term that it is of; a pod that carries a later one is
 * left alone. So a manager that does not know that it was deposed changes neither what its successor wrote
 * nor a new pod of that name.
 *
 * A pod is gone when the API server has none of that name (it was deleted, by a person, by its StatefulSet,
 * or with its node), when it has ended as a whole (evicted), and while the next one of that name does not
 * run. One that ends is there until then: its agent says itself what it does. Nothing follows from a node
 * that is NotReady, nor from an API server that does not answer: what was known before stays.
 */
#ifndef RUNTIME_KUBE_ROLES_H
#define RUNTIME_KUBE_ROLES_H

#include <stdint.h>

#include "runtime/kube_pod.h"
#include "runtime/kubernetes_impl.h"

#define KUBE_ROLE_STAYS_NS (5 * ENV_NS_PER_S)

/* What a pod carries. */
struct kube_pod_role {
    char *uid, *version;
    bool primary, standby;
    bool runs; /* its containers were started, and have not ended for good */
    enum kube_tls tls;
    uint64_t term;
};
/* From its metadata; kube_pod_role_free() it. */
struct kube_pod_role *kube_pod_role_read(struct yyjson_val *pod);
void kube_pod_role_free(void *role);
/* Whether it is to be written: it differs, and is not of a later term. */
bool kube_pod_role_differs(const struct kube_pod_role *now, bool primary, uint64_t term);
/* A merge patch for exactly this pod. free() it. */
char *kube_pod_role_patch(const struct kube_pod_role *now, bool primary, uint64_t term);

/* Of the pod of this name; UNKNOWN: there is none, or the watch has not told yet. When it changes,
 * runtime_list() looks at the instance anew (kube_known.h). */
enum kube_tls kube_roles_tls(struct kubernetes *k, const char *name);

/* Ends watch and patches; `closed` later, or at once if there was nothing (roles NULL). */
void kube_roles_close(struct kube_roles *roles, void (*closed)(void *data), void *data);

#endif
