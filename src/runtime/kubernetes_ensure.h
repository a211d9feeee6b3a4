/*
 * kubernetes_ensure: the ensure operation, shared by the files that do its parts. Not for others.
 */
#ifndef RUNTIME_KUBERNETES_ENSURE_H
#define RUNTIME_KUBERNETES_ENSURE_H

#include "base/sm.h"
#include "loop/work.h"
#include "runtime/kube_authority.h"
#include "runtime/kube_certificate.h"
#include "runtime/kube_login.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_probe.h"
#include "runtime/kube_ready.h"
#include "runtime/kubernetes_impl.h"

/* An object to apply. */
struct kube_item {
    char *collection, *name;
    struct yyjson_mut_doc *doc;
};

#define KUBE_PASSWORD_LENGTH 32 /* of 32 signs: 160 bits */

struct kube_ensure;
typedef void (*kube_ensure_then)(struct kube_ensure *e);

struct kube_ensure {
    struct kube_op op; /* first */
    struct sm sm;
    struct work work;
    struct loop_timer timer;
    struct kube_ready ready;
    struct kube_login login;
    struct instance_access access; /* while logging in */
    uint64_t deadline_ns;

    char *database, *shard, *owner;
    char *given_password; /* of the owner, or NULL */
    char *owner_password; /* that, else that of its Secret */
    bool must_exist, adopting;
    bool rotation_due, rotated; /* of the superuser's password */
    runtime_instance_cb cb;
    void *data;

    struct kube_spec spec;
    char *set;                 /* "shop-s1" */
    bool exists;               /* the StatefulSet, and it is ours */
    bool older;                /* it keeps its version of PostgreSQL (kube_version.h) */
    char *password;            /* of the superuser */
    char *previous_password;   /* before the last rotation, or NULL */
    char *next_password;       /* of members: what their servers are about to get, or NULL */
    char *next_mark;           /* its name in the Secret */
    char *next_known;          /* that of the one which all agents have at hand, or NULL */
    char *renewed;             /* what the server has got now; the Secret does not say it yet */
    bool member, primary;      /* one of several instances; the one that is the primary */
    int number;                /* of the pod */
    int instances;             /* that the shard is to have, 0 = not said */
    int left;                  /* that pods are there of, though their StatefulSet is gone */
    bool removes;              /* those after them go */
    bool converts;             /* it was the only one, and becomes a member */
    char *token;               /* of the agents, with several instances */
    struct kube_pair ca;       /* what issues, or is to be known; key only with an authority of our own */
    char *bundle;              /* ca.crt for everybody; NULL = that of ca */
    struct kube_pair client;   /* our own certificate for the shards; none = they do not ask for one */
    struct yyjson_doc *found;  /* the StatefulSet as it is, NULL = none or no more needed */
    struct yyjson_doc *wanted; /* as it is to be */
    struct yyjson_doc *claims; /* of the shard, while they are gone through, up to `at` */
    struct kube_item items[16];
    int item_count, at;
    int64_t generation; /* of the StatefulSet, applied */
    struct err err, work_err;

    /* the Secret that is asked for */
    struct list secret_node;    /* in kubernetes.askers, or of secret_waiters of whoever asks */
    struct list secret_waiters; /* want the same one */
    struct loop_task secret_task;
    char *secret_name;
    char *(*secret_make)(struct kube_ensure *e, struct err *err); /* NULL: it must be there */
    void (*secret_then)(struct kube_ensure *e, struct yyjson_val *secret);
    bool secret_renewed; /* its certificate, in this pass */
    void (*secrets_then)(struct kube_ensure *e);
    void (*claims_next)(struct kube_ensure *e);
    void (*claims_then)(struct kube_ensure *e);
    void (*cnpg_then)(struct kube_ensure *e);
    void (*kept_then)(struct kube_ensure *e);
    char reason[480]; /* told last */

    /* an authority that is renewed (kubernetes_authority.c) */
    struct kube_authority authority;
    char **scan_names;
    int scan_count;
    enum kube_authority_step scan_step;
    void (*scan_then)(struct kube_ensure *e, bool ready);
    bool scanned;   /* in this pass */
    int64_t due_us; /* when something of it is to be renewed */

    /* a StatefulSet of somebody else's (kubernetes_adopt.c) */
    bool lent;
    bool adopted; /* it carries our marks already */
    struct kube_adoption adoption;
    char *user; /* its superuser */
    struct kube_probe probe;
    bool probing;
    char *pod_address; /* where it is asked before it has a Service of ours */
    kube_ensure_then probed_then;
    kube_ensure_then members_then;
};

/* Tells what it waits for, if that is something else than before. */
void kube_ensure_progress(struct kube_ensure *e, const char *message);
struct kube_owner kube_ensure_owner(const struct kube_ensure *e, bool of_shard);
void kube_ensure_access(const struct kube_ensure *e, struct instance_access *ret);
/* Ends the operation; nothing of it may be in flight. */
void kube_ensure_over(struct kube_ensure *e, const struct err *err);

/*
 * Makes the Secrets that are missing, reads those that are there, writes the files of CA and client; then
 * `then`, or the end. Fills password, owner_password, ca, client.
 */
void kube_secrets_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e));

void kube_secrets_init(struct kube_ensure *e);
/* Whether another operation asks for the Secret that this one wants. */
bool kube_secrets_wait(const struct kube_ensure *e);
/* The operation ends: whoever waits for its answer asks itself. */
void kube_secrets_leave(struct kube_ensure *e);

/* Writes the files of the authority (ca.certificate) and of the client on a worker; then `then`, or the end.
 */
void kube_files_keep(struct kube_ensure *e, void (*then)(struct kube_ensure *e));

/* ---- kubernetes_authority.c ---- */

/* Whether the certificates of all shards and clients of the database are ready for the step of e->authority.
 */
void kube_authority_scan(struct kube_ensure *e, enum kube_authority_step step,
                         void (*then)(struct kube_ensure *e, bool ready));

/* The next pass is due then at the latest (wall clock); 0 or less says nothing. */
void kube_ensure_due(struct kube_ensure *e, int64_t at_us);
/* A new password for the superuser goes into its Secret; fills password and previous_password. */
void kube_secrets_rotate(struct kube_ensure *e, void (*then)(struct kube_ensure *e));
/* Looks at the Secret of this name, which it takes over, and gives it to `then`; or the end. */
void kube_secret_want(struct kube_ensure *e, char *name, char *(*make)(struct kube_ensure *, struct err *),
                      void (*then)(struct kube_ensure *, struct yyjson_val *));
/* Replaces values of the Secret that `then` of kube_secret_want() is looking at, if it still is as it was
 * read; `then` sees it again. */
void kube_secret_rewrite(struct kube_ensure *e, struct yyjson_val *secret,
                         const struct kube_secret_item *items, size_t count);
/* Fills the superuser's passwords, and whether another one is due. False: the end came. */
bool kube_credentials_take(struct kube_ensure *e, struct yyjson_val *secret);

/* Reads the shard's volume claims; then `next` with them in e->claims and e->at 0, or the end. */
void kube_claims_read(struct kube_ensure *e, void (*next)(struct kube_ensure *e));
/* Makes the volumes larger if the specification asks for it and `found` is smaller; then `then`, or the end.
 */
void kube_claims_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e));

/* The objects that are to be applied, and e->wanted, by e->member and e->instances. */
int kube_ensure_items(struct kube_ensure *e, struct err *err);

/* ---- kubernetes_members.c ---- */

/* What several instances do not go with; fills e->instances. */
int kube_members_check(struct kube_ensure *e, struct err *err);
/* There is no StatefulSet: fills e->left, from the pods; then `then`, or the end. */
void kube_members_left(struct kube_ensure *e, kube_ensure_then then);
/* The StatefulSet was read, NULL = there is none, and e->left counts: of its members none goes unless that
 * was said, and a shard of members stays one. */
int kube_members_looked(struct kube_ensure *e, struct yyjson_val *set, struct err *err);
/* Labels the only pod of a shard as its primary, before the services look for one; then `then`, or the end.
 */
void kube_members_mark(struct kube_ensure *e, kube_ensure_then then);
/*
 * A new password of the superuser of several instances: it is written into the Secret as the next one
 * (WRITE), given to the primary by another login when every agent has it at hand (GIVE), from which the
 * standbys get it, and becomes the password in the Secret (WRITE). An agent's upstream may want either
 * meanwhile, and it tries both.
 */
enum kube_rotation { KUBE_ROTATION_NONE, KUBE_ROTATION_WRITE, KUBE_ROTATION_GIVE };
/* What follows a login at the primary. */
enum kube_rotation kube_members_rotation(struct kube_ensure *e, bool copied_from);
/* Writes the Secret; then `then`, or the end. */
void kube_members_write(struct kube_ensure *e, kube_ensure_then then);
/* Deletes the volumes of members that went, if that is the policy; then `then`, or the end. */
void kube_members_trim(struct kube_ensure *e, kube_ensure_then then);

/* ---- kubernetes_adopt.c ---- */

/* spec.adopt names a StatefulSet that is not called as one of ours would be. */
bool kube_adopt_is_foreign(const struct kube_ensure *e);
/* What the specification needs for it. */
int kube_adopt_spec_check(const struct kube_ensure *e, struct err *err);
/* The StatefulSet was read: fills lent, adoption and adopted, and gives the objects to apply to `item`. */
int kube_adopt_looked(struct kube_ensure *e, const struct k8s_answer *a, kube_object_cb item,
                      struct err *err);
/* Whether the shard's ConfigMap says that it is this StatefulSet and no other, nor one of our own. */
int kube_adopt_same(const struct kube_ensure *e, struct yyjson_val *config_map, struct err *err);
/* Asks the server by its pod's address whether it can be a shard; then `then`, or the end. */
void kube_adopt_inspect(struct kube_ensure *e, kube_ensure_then then);
/* Asks it by its Service. */
void kube_adopt_probe(struct kube_ensure *e, kube_ensure_then then);
/* kube_ensure_over() with the name of the StatefulSet before the message. */
void kube_adopt_over(struct kube_ensure *e, const struct err *err);

/* Waits for the Cluster of CloudNativePG, and takes its CA; then `then`, or the end. */
void kube_cnpg_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e));

#endif
