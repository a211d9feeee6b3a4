/*
 * apply: server-side apply (rule K22).
 *
 * The body is the whole intent of its field manager each time: a field that it leaves out and owned before is
 * taken back. One manager for each concern, so that two of ours do not take fields from each other.
 */
#ifndef K8S_APPLY_H
#define K8S_APPLY_H

#include "k8s/client.h"

struct yyjson_mut_val;

struct k8s_apply {
    const char *collection; /* "/apis/apps/v1/namespaces/x/statefulsets" */
    const char *name;
    const char *subresource;       /* "status", or NULL */
    const char *manager;           /* letters, digits and '-', such as "shardherd-provision" */
    bool force;                    /* takes fields that others own: ours to decide */
    struct yyjson_mut_val *object; /* apiVersion, kind, metadata.name; managedFields are left out */
};

/*
 * ERRC_CONFLICT names the fields and who owns them: "... 409 Conflict: .spec.replicas (conflict with
 * "kubectl" ...)".
 */
int k8s_apply_start(struct k8s_client *client, const struct k8s_apply *apply, k8s_answer_cb cb, void *data,
                    struct k8s_call **ret, struct err *err);

#endif
