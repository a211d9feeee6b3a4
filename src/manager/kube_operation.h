/*
 * kube_operation: one ShardOperation object: what is kept of it, and its status from the journal. Pure.
 */
#ifndef MANAGER_KUBE_OPERATION_H
#define MANAGER_KUBE_OPERATION_H

#include "manager/kube_spec.h"
#include "operation/operation.h"

struct yyjson_val;
struct yyjson_mut_doc;

/* What the watch keeps. */
struct kube_operation_kept {
    char *name, *uid;
    char *database, *kind, *shard, *instance; /* instance: of a switchover; NULL = to the best */
    char *body;                               /* what POST /v1/databases/<name>/operations takes */
    char *operation;                          /* of the status; NULL = none was started */
    int64_t generation;
    bool cancel, ended; /* ended: the status has a completionTime */
};

/* NULL if it cannot be looked after. */
struct kube_operation_kept *kube_operation_kept_new(struct yyjson_val *object);
void kube_operation_kept_free(struct kube_operation_kept *kept);

enum kube_operation_phase {
    KUBE_OPERATION_PENDING, /* not started: the message says what it waits for */
    KUBE_OPERATION_RUNNING,
    KUBE_OPERATION_CANCELING,
    KUBE_OPERATION_DONE,
    KUBE_OPERATION_CANCELED,
    KUBE_OPERATION_REFUSED,
    KUBE_OPERATION_FAILED
};
enum kube_operation_phase kube_operation_phase_of(const struct operation *op, bool cancel);
bool kube_operation_has_ended(enum kube_operation_phase phase);

struct kube_operation_conditions {
    struct kube_condition complete, ready, reconciling, stalled;
};

struct kube_operation_status {
    const struct kube_operation_kept *kept;
    const struct operation *op; /* a move or a switchover; NULL = none was started */
    enum kube_operation_phase phase;
    const char *message; /* when there is no operation */
    int64_t now_us;
    struct kube_operation_conditions *conditions; /* are brought up to date */
};
/* The whole object for server-side apply on the status subresource. */
struct yyjson_mut_doc *kube_operation_print(const struct kube_operation_status *status);

#endif
