/*
 * kube_adopt: a StatefulSet that somebody else made and that becomes a shard (spec.adopt). Pure.
 *
 * His pod template, volumes, Secret and Services stay his. What shardherd has of it: two labels and an
 * annotation on the StatefulSet (field manager KUBE_ADOPT_MANAGER), and two objects of its own, named
 * DATABASE-SHARD: a Service for its first pod, and a ConfigMap that says which StatefulSet the shard is.
 *
 * He says the rest by annotations of the StatefulSet, the same as for servers that are found (discovery):
 *
 *   shardherd.io/secret                               a Secret of the namespace with a superuser's password
 *   shardherd.io/user, or the Secret's user key       the superuser
 *   shardherd.io/secret-user-key, ...-password-key    "username" and "password" unless said
 *   shardherd.io/sslmode                              "prefer" unless said; verify-*: by the Secret's ca.crt
 *   shardherd.io/port                                 of PostgreSQL in the pod; 5432 unless said
 */
#ifndef RUNTIME_KUBE_ADOPT_H
#define RUNTIME_KUBE_ADOPT_H

#include <stdbool.h>

#include "base/err.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"

#define KUBE_ADOPT_MANAGER      "shardherd-adopt"
#define KUBE_ADOPTED_ANNOTATION "shardherd.io/adopted" /* of the ConfigMap: name of the StatefulSet */

struct kube_adoption {
    char *set, *uid; /* of the StatefulSet */
    char *secret;    /* NULL = he has not said */
    char *user;      /* NULL = the Secret's */
    char *user_key, *password_key;
    char *sslmode;
    int port;
};
void kube_adoption_clear(struct kube_adoption *adoption);

/* From the metadata alone. */
void kube_adoption_read(struct yyjson_val *set, struct kube_adoption *ret);
/* Whether the sslmode is one that looks at the server's certificate. */
bool kube_adoption_verifies(const struct kube_adoption *adoption);

/* Whether the StatefulSet carries our marks: it is that owner's, and was not made by us. */
bool kube_adopted(struct yyjson_val *set, const struct kube_owner *owner);

/*
 * Whether the StatefulSet can be taken over. ERRC_CONFLICT: it is somebody's property, another database's, or
 * has more than one pod; ERRC_INVALID: an annotation is missing or cannot be used. Each names the remedy.
 */
int kube_adoption_check(struct yyjson_val *set, const struct kube_adoption *adoption,
                        const struct kube_owner *owner, struct err *err);

/* Service, ConfigMap, and last the StatefulSet with nothing but the marks. */
int kube_adoption_each(const struct kube_shard *shard, const struct kube_adoption *adoption,
                       kube_object_cb cb, void *data, struct err *err);

#endif
