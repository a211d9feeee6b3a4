/*
 * kubernetes_impl: what the files of the Kubernetes back end share. Not for other folders.
 *
 * A call on the runtime is a kube_op. It owns at most one request at a time; whoever cancels it gets the
 * request's callback first. Calls on instances of one StatefulSet run one after the other.
 */
#ifndef RUNTIME_KUBERNETES_IMPL_H
#define RUNTIME_KUBERNETES_IMPL_H

#include <stdbool.h>

#include "base/list.h"
#include "http/http_client.h"
#include "k8s/client.h"
#include "runtime/kube_adopt.h"
#include "runtime/kubernetes.h"

#define KUBE_MANAGER "shardherd-provision"

struct k8s_watch;
struct kube_known_entry;
struct kube_pods;
struct kube_roles;
struct yyjson_doc;
struct yyjson_val;

/* Who runs the servers. */
struct kube_flavour {
    const char *object;                      /* what a shard is: "StatefulSet" */
    const char *group, *plural;              /* its collection */
    const char *user;                        /* the superuser */
    const char *service;                     /* end of the read-write service's name */
    const char *authority;                   /* end of the name of the Secret with ca.crt */
    const char *peer_authority;              /* the CA as a file in the pods; "" = none that fits */
    const char *peer_certificate, *peer_key; /* of the server itself, as a client of another; NULL = none */
    const char *password_type;               /* of Secrets with passwords */
    const char *secret_label;                /* a further label of Secrets, or NULL */
};

struct kubernetes {
    struct runtime base; /* first */
    const struct kube_flavour *flavour;
    struct loop *loop;
    struct runtime_kubernetes_options options; /* its texts are the next three */
    char *name_space, *image, *directory;
    struct http_client *http; /* to the agents */
    struct list ops;
    struct list askers; /* kube_ensure: each asks for a Secret; kubernetes_secrets.c */
    /* kube_known.h */
    struct k8s_watch *sets;
    bool changed; /* since the last list began */
    struct kube_known_entry *known;
    int known_count;
    struct kube_pods *pods;   /* that are waited for */
    struct kube_roles *roles; /* kube_roles.h; NULL = nobody was marked yet */
    struct loop_task settle;  /* runs `closed` when nothing is left */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- operations ---- */

struct kube_op;
typedef void (*kube_answer_cb)(struct kube_op *op, const struct k8s_answer *answer);

struct kube_op {
    struct list node;
    struct kubernetes *k;
    char *name; /* of the instance; "" = of none (list) */
    bool started, canceled;
    void (*start)(struct kube_op *op);  /* its turn has come (or, if canceled: answer now) */
    void (*cancel)(struct kube_op *op); /* interrupt what is not op->call; may be NULL */
    struct loop_task task;
    struct k8s_call *call;
    kube_answer_cb answered;
};

void kube_op_add(struct kubernetes *k, struct kube_op *op, const char *name, void (*start)(struct kube_op *),
                 void (*cancel)(struct kube_op *));
/* Call the user's callback after it, then free the operation. */
void kube_op_end(struct kube_op *op);

struct kube_request {
    const char *method;
    const char *path;
    const char *query;
    const char *accept;
    const char *content_type;
    const char *body;
};
/* A canceled operation's answer comes with ERRC_CANCELED. */
int kube_op_call(struct kube_op *op, const struct kube_request *request, kube_answer_cb cb, struct err *err);
/* The same with GET; the path is freed. metadata: ask for nothing but metadata. */
int kube_op_get(struct kube_op *op, char *path, bool metadata, kube_answer_cb cb, struct err *err);

/* Server-side apply. */
struct k8s_apply;
int kube_op_apply(struct kube_op *op, const struct k8s_apply *apply, kube_answer_cb cb, struct err *err);

bool kube_answer_missing(const struct k8s_answer *answer); /* 404 */

/* ---- the database's object ---- */

struct kube_spec {
    struct yyjson_doc *doc; /* NULL: there is no such database */
    struct yyjson_val *spec;
    const char *uid;
};
/* ERRC_NOT_FOUND when there is none. */
int kube_spec_read(struct kubernetes *k, const char *database, struct kube_spec *ret, struct err *err);
void kube_spec_clear(struct kube_spec *spec);
/* "off", "on", "mutual" */
const char *kube_spec_tls(const struct kube_spec *spec);
/* spec.SECTION.NAME as text, or NULL */
const char *kube_spec_text(const struct kube_spec *spec, const char *section, const char *name);
bool kube_spec_plain(const struct kube_spec *spec);    /* servers without TLS */
bool kube_spec_mutual(const struct kube_spec *spec);   /* clients need a certificate */
int kube_spec_instances(const struct kube_spec *spec); /* of each shard */
bool kube_spec_deletes(const struct kube_spec *spec);  /* deletionPolicy is "delete" */
/* ... is "snapshot", and the database is being deleted: a shard that goes by itself is no reason for one */
bool kube_spec_snapshots(const struct kube_spec *spec);

/* ---- names ---- */

/* "shop-s1" of "shop-s1-0", or of another member of it, "shop-s1-2"; NULL if it does not end so. */
char *kube_set_name(const char *instance);
int kube_set_number(const char *instance); /* the 2 of the latter */
char *kube_path(const struct kubernetes *k, const char *group, const char *plural, const char *name);
#define KUBE_SETS(k, name)    kube_path(k, (k)->flavour->group, (k)->flavour->plural, name)
#define KUBE_SECRETS(k, name) kube_path(k, "/api/v1", "secrets", name)
/* Where the CA of a shard is kept for libpq: <directory>/<database>-<shard>.crt. One for each: the shards of
 * a database may have different authorities. */
char *kube_ca_file(const struct kubernetes *k, const char *set);
/* Where our client certificate and its key are kept, in one file: <directory>/<database>.client.pem */
char *kube_client_file(const struct kubernetes *k, const char *database);
struct kube_pair;
/*
 * Worker. The CA of the shard and the client's file of the database, each in place of what was there, 0600;
 * durable enough for a copy. No certificate in `client`, or NULL: its file stays as it is, other shards may
 * use it.
 */
int kube_files_write(const struct kubernetes *k, const char *database, const char *set, const char *ca,
                     const struct kube_pair *client, struct err *err);
/* Worker. The CA of the shard goes, and with `last` the client's file of the database. */
int kube_files_delete(const struct kubernetes *k, const char *database, const char *set, bool last,
                      struct err *err);

/* How shardherd reaches the shard; all texts are made. */
void kube_access(const struct kubernetes *k, const char *database, const char *set, const char *password,
                 bool tls, struct instance_access *ret);
/* ... one of several instances: it instead of the service, and its agent, which has TLS in any case. */
void kube_access_member(const struct kubernetes *k, const char *instance, const char *token,
                        struct instance_access *access);
/* ... one that was adopted from somebody else; user: the Secret's. */
void kube_access_lent(const struct kubernetes *k, const char *database, const char *set,
                      const struct kube_adoption *adoption, const char *user, const char *password,
                      struct instance_access *ret);
/*
 * Servers that copy from it cannot check its certificate, since they know no authority of its database but
 * their own: they encrypt and do not verify.
 */
bool kube_spec_unverified(const struct kube_spec *spec);
void kube_access_unverified(struct instance_access *access);
/* ... with a client certificate, which servers that copy from it have as well. */
void kube_access_client(const struct kubernetes *k, const char *database, struct instance_access *access);

/* ---- the calls ---- */

int kube_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                struct err *err);
int kube_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
int kube_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
int kube_renew(struct runtime *rt, const char *name, bool looks, runtime_renew_cb cb, void *data,
               struct err *err);
void kube_mark(struct runtime *rt, const char *name, bool primary, uint64_t term);
enum runtime_place kube_place(struct runtime *rt, const char *name);
int kube_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err);

#endif
