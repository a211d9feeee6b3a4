/*
 * kube_meta: whose an object is, and Secrets as JSON. Pure.
 *
 * An object is ours when it carries our labels and its owner is our ShardedDatabase: by an ownerReference, or
 * by the annotation shardherd.io/owner-uid where a reference would have the garbage collector delete what is
 * to stay (Secrets and volumes under deletionPolicy "retain").
 */
#ifndef RUNTIME_KUBE_META_H
#define RUNTIME_KUBE_META_H

#include <stdbool.h>
#include <stddef.h>

struct yyjson_val;

#define KUBE_OWNER_ANNOTATION   "shardherd.io/owner-uid"
#define KUBE_WRITTEN_ANNOTATION "shardherd.io/written-at" /* when a Secret's values were replaced last */

struct kube_owner {
    const char *database;
    const char *shard; /* NULL: something of the whole database */
    const char *uid;   /* of the ShardedDatabase; NULL: not known any more, its name has to do */
};

/* Whether the object (metadata is enough) is that owner's. */
bool kube_is_ours(struct yyjson_val *object, const struct kube_owner *owner);

/* "" when there is none; valid as long as the object. */
const char *kube_label(struct yyjson_val *object, const char *name);
const char *kube_annotation(struct yyjson_val *object, const char *name);
const char *kube_uid(struct yyjson_val *object);
/* How many members the shard of a StatefulSet has, 0 = its only instance is none. */
int kube_members_of(struct yyjson_val *set);

/* "labelSelector=..." for the objects of a shard, encoded. free() it. */
char *kube_shard_selector(const char *database, const char *shard);

/* ---- Secrets ---- */

struct kube_secret_item {
    const char *key;
    const char *value; /* NULL, in a patch: the key goes */
};

struct kube_secret {
    const char *name;
    const char *name_space;
    const char *type; /* "Opaque", "kubernetes.io/tls" */
    struct kube_owner owner;
    const char *label; /* a further one, with the value "true"; or NULL */
    bool owned;        /* goes with the ShardedDatabase: an ownerReference, not only the annotation */
    const struct kube_secret_item *items;
    size_t count;
};

/* The object as JSON; a secret: mem_wipe_free() it. */
char *kube_secret_json(const struct kube_secret *secret);

/* A merge patch that replaces values of the Secret of this resourceVersion; ditto. */
char *kube_secret_patch(const char *version, const char *time, const struct kube_secret_item *items,
                        size_t count);

/* A value of a Secret, decoded, without a line end at its end; NULL if there is none or it is no text.
 * mem_wipe_free() it. */
char *kube_secret_value(struct yyjson_val *secret, const char *key);

#endif
