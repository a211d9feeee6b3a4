#include "runtime/kubernetes_ensure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/apply.h"
#include "runtime/cnpg_object.h"
#include "runtime/kube_known.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_roles.h"
#include "runtime/kube_version.h"

/*
 *   BEGIN --> LOOK --> SECRETS --> CHECK --> CLAIMS --> APPLY --> READY --> LOGIN <--> ROTATE
 *             |  |        ^  |       |          ^         ^ |                   ^
 *             |  v        |  +--it is ours------+         | +--adopted----------+
 *             | VOLUME    |          +--> INSPECT --------+
 *             v  v        |
 *             PODS -------+
 *   after LOGIN, any failure, cancel: --> OVER
 *
 * LOOK    waits for the StatefulSet of that name: is it there, and is it ours?
 * VOLUME  waits for the volume claim of an instance that must exist and has no StatefulSet: a crash while
 *         volumes grow leaves that.
 * PODS    waits for the pods of a shard that has no StatefulSet: after such a crash they say how many it had.
 * SECRETS waits for one Secret after the other, then for the worker that writes the files of CA and client.
 * CHECK   waits for the metadata of one object after the other, before the first apply: nobody else's is
 *         taken over.
 * INSPECT waits for the server of a StatefulSet that somebody else made to say whether it can be a shard
 *         (kubernetes_adopt.c); its LOGIN asks it again by its Service.
 * MARK    waits for the label of the pod of a shard that gets several instances (kubernetes_members.c).
 * CLAIMS  waits for volumes to grow (kubernetes_claims.c).
 * APPLY   waits for one apply after the other.
 * PRUNE   waits for the NetworkPolicy to be deleted that is not wanted any more; it is skipped when it is
 * wanted. TRIM waits for the volumes of members that went. READY   waits for the pod (kube_ready.h). LOGIN
 * waits for role and database (kube_login.h). ROTATE  waits for the Secret to take a new password of the
 * superuser; a second LOGIN gives it to the server. Of members kubernetes_members.c says how.
 */
enum {
    BEGIN,
    LOOK,
    VOLUME,
    PODS,
    SECRETS,
    CHECK,
    INSPECT,
    MARK,
    CLAIMS,
    APPLY,
    PRUNE,
    TRIM,
    READY,
    LOGIN,
    ROTATE,
    OVER,
    STATES
};

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [BEGIN] = {"begin", N(LOOK) | N(OVER), false},
    [LOOK] = {"look", N(VOLUME) | N(PODS) | N(SECRETS) | N(OVER), false},
    [VOLUME] = {"volume", N(PODS) | N(SECRETS) | N(OVER), false},
    [PODS] = {"pods", N(SECRETS) | N(OVER), false},
    [SECRETS] = {"secrets", N(CHECK) | N(MARK) | N(CLAIMS) | N(APPLY) | N(OVER), false},
    [CHECK] = {"check", N(MARK) | N(CLAIMS) | N(INSPECT) | N(OVER), false},
    [INSPECT] = {"inspect", N(APPLY) | N(OVER), false},
    [MARK] = {"mark", N(CLAIMS) | N(OVER), false},
    [CLAIMS] = {"claims", N(APPLY) | N(OVER), false},
    [APPLY] = {"apply", N(PRUNE) | N(TRIM) | N(READY) | N(LOGIN) | N(OVER), false},
    [PRUNE] = {"prune", N(TRIM) | N(READY) | N(OVER), false},
    [TRIM] = {"trim", N(READY) | N(OVER), false},
    [READY] = {"ready", N(LOGIN) | N(OVER), false},
    [LOGIN] = {"login", N(LOGIN) | N(ROTATE) | N(OVER), false},
    [ROTATE] = {"rotate", N(LOGIN) | N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

static void check_next(struct kube_ensure *e);
static void apply_next(struct kube_ensure *e);

struct kube_owner kube_ensure_owner(const struct kube_ensure *e, bool of_shard)
{
    return (struct kube_owner){e->database, of_shard ? e->shard : NULL, e->spec.uid};
}

/* ---- the end ---- */

static void items_free(struct kube_ensure *e)
{
    for (int i = 0; i < e->item_count; i++) {
        free(e->items[i].collection);
        free(e->items[i].name);
        yyjson_mut_doc_free(e->items[i].doc);
    }
    e->item_count = 0;
    yyjson_doc_free(e->wanted);
    e->wanted = NULL;
}

static void ensure_free(struct kube_ensure *e)
{
    items_free(e);
    yyjson_doc_free(e->found);
    yyjson_doc_free(e->claims);
    kube_spec_clear(&e->spec);
    free(e->database);
    free(e->shard);
    free(e->owner);
    mem_wipe_free(e->given_password);
    mem_wipe_free(e->owner_password);
    free(e->set);
    mem_wipe_free(e->password);
    mem_wipe_free(e->previous_password);
    mem_wipe_free(e->next_password);
    mem_wipe_free(e->next_mark);
    free(e->next_known);
    mem_wipe_free(e->renewed);
    mem_wipe_free(e->token);
    kube_pair_clear(&e->ca);
    kube_pair_clear(&e->client);
    kube_authority_clear(&e->authority);
    for (int i = 0; i < e->scan_count; i++)
        free(e->scan_names[i]);
    free(e->scan_names);
    free(e->bundle);
    free(e->secret_name);
    kube_adoption_clear(&e->adoption);
    free(e->user);
    free(e->pod_address);
    free(e);
}

/* What its pod says, when that was asked, or as the watch has it. */
static bool is_plain(const struct kube_ensure *e)
{
    if (e->ready.client != NULL)
        return e->ready.plain;
    enum kube_tls tls = kube_roles_tls(e->op.k, e->op.name);
    return tls != KUBE_TLS_UNKNOWN ? tls == KUBE_TLS_OFF : kube_spec_plain(&e->spec);
}

void kube_ensure_access(const struct kube_ensure *e, struct instance_access *ret)
{
    if (e->lent) {
        kube_access_lent(e->op.k, e->database, e->set, &e->adoption, e->user, e->password, ret);
        return;
    }
    bool plain = e->member && is_plain(e);
    kube_access(e->op.k, e->database, e->set, e->password, e->ca.certificate != NULL && !plain, ret);
    if (e->member)
        kube_access_member(e->op.k, e->op.name, e->token, ret);
    if (e->client.certificate != NULL)
        kube_access_client(e->op.k, e->database, ret);
    if (kube_spec_unverified(&e->spec))
        kube_access_unverified(ret);
}

static void answer(struct kube_ensure *e, const struct err *err, const char *name)
{
    struct runtime_instance instance = {.name = name,
                                        .database = e->database,
                                        .shard = e->shard,
                                        .member = e->member,
                                        .older = e->older,
                                        .agent_pid = e->member,
                                        .due_us = e->due_us};
    if (err != NULL) {
        e->cb(err, NULL, e->data);
        return;
    }
    kube_ensure_access(e, &instance.access);
    e->cb(NULL, &instance, e->data);
    instance_access_clear(&instance.access);
}

void kube_ensure_over(struct kube_ensure *e, const struct err *err)
{
    char *name = mem_strdup(e->op.name);
    kube_known_forget(e->op.k, name);
    kube_secrets_leave(e);
    if (err != NULL)
        e->err = *err;
    sm_move(&e->sm, OVER);
    if (err != NULL && err->code != ERRC_CANCELED)
        (void)err_wrap(&e->err, "instance %s", name);
    answer(e, err != NULL ? &e->err : NULL, name);
    kube_op_end(&e->op);
    ensure_free(e);
    free(name);
}

void kube_ensure_progress(struct kube_ensure *e, const char *message)
{
    const struct runtime_kubernetes_options *o = &e->op.k->options;
    if (strncmp(message, e->reason, sizeof e->reason - 1) == 0)
        return;
    (void)snprintf(e->reason, sizeof e->reason, "%s", message);
    if (o->progress != NULL)
        o->progress(o->data, e->op.name, message);
}

/* ---- role and database ---- */

static void enter_login(struct kube_ensure *e);

static void member_rotated(struct kube_ensure *e)
{
    kube_ensure_over(e, NULL);
}

static void member_logged_in(struct kube_ensure *e, bool copied_from)
{
    switch (kube_members_rotation(e, copied_from)) {
    case KUBE_ROTATION_GIVE:
        e->renewed = mem_strdup(e->next_password);
        enter_login(e);
        break;
    case KUBE_ROTATION_WRITE:
        sm_move(&e->sm, ROTATE);
        kube_members_write(e, member_rotated);
        break;
    default:
        kube_ensure_over(e, NULL);
        break;
    }
}

static void on_login(struct kube_login *login, const struct err *err, void *data)
{
    struct kube_ensure *e = data;
    instance_access_clear(&e->access);
    if (err == NULL && e->member) {
        member_logged_in(e, login->copied_from);
    } else if (err != NULL || !e->rotation_due || e->rotated) {
        kube_ensure_over(e, err);
    } else if (login->copied_from) { /* their subscriptions know the old one */
        kube_ensure_progress(
            e, "the superuser's password is not changed while other servers copy from this one");
        kube_ensure_over(e, NULL);
    } else {
        e->rotated = true;
        sm_move(&e->sm, ROTATE);
        kube_secrets_rotate(e, enter_login);
    }
}

static void login_progress(const char *message, void *data)
{
    kube_ensure_progress(data, message);
}

static void enter_login(struct kube_ensure *e)
{
    sm_move(&e->sm, LOGIN);
    kube_ensure_access(e, &e->access);
    e->login.loop = e->op.k->loop;
    e->login.target = (struct pg_target){
        .host = e->access.host,
        .port = e->access.port,
        .dbname = "postgres",
        .user = e->access.user,
        .password = e->renewed != NULL ? e->renewed : e->access.password,
        .sslmode = e->access.sslmode,
        .sslrootcert = e->access.sslrootcert,
        .sslcert = e->access.sslcert,
        .sslkey = e->access.sslkey,
        .application_name = "shardherd runtime",
        .connect_timeout_ns = 5 * ENV_NS_PER_S,
    };
    e->login.previous_password = e->renewed != NULL         ? e->password
                                 : e->next_password != NULL ? e->next_password
                                                            : e->previous_password;
    e->login.database = e->database;
    e->login.owner = e->owner;
    e->login.owner_password = e->owner_password;
    e->login.deadline_ns = e->deadline_ns;
    e->login.progress = login_progress;
    e->login.done = on_login;
    e->login.data = e;
    kube_login_start(&e->login);
}

/* ---- the pod ---- */

#define TURNED_US 10000000ll

/* With TLS we do not get in where there is none, nor without it where there is: that pod is made anew first,
 * which waits for the end of this pass. The next one is soon. */
static bool turns(struct kube_ensure *e)
{
    if (!e->member || e->ready.plain == kube_spec_plain(&e->spec))
        return false;
    kube_ensure_due(e, loop_wall(e->op.k->loop) + TURNED_US);
    return true;
}

static void on_ready(struct kube_ready *ready, const struct err *err, void *data)
{
    struct kube_ensure *e = data;
    (void)ready;
    if (err != NULL || (e->member && !e->primary) || turns(e)) /* role and database come with the primary */
        kube_ensure_over(e, err);
    else
        enter_login(e);
}

static void ready_progress(const char *message, void *data)
{
    kube_ensure_progress(data, message);
}

static void trimmed(struct kube_ensure *e)
{
    if (e->member && e->must_exist && !e->primary) { /* it is made already; who keeps it knows how it is */
        kube_ensure_over(e, NULL);
        return;
    }
    sm_move(&e->sm, READY);
    if (e->op.k->options.cnpg) {
        kube_cnpg_start(e, enter_login);
        return;
    }
    e->ready.client = e->op.k->options.client;
    e->ready.pods = e->op.k->pods;
    e->ready.http = e->op.k->http;
    e->ready.name_space = e->op.k->options.name_space;
    e->ready.name = e->set;
    e->ready.number = e->number;
    e->ready.member = e->member;
    e->ready.generation = e->generation;
    e->ready.deadline_ns = e->deadline_ns;
    e->ready.progress = ready_progress;
    e->ready.done = on_ready;
    e->ready.data = e;
    kube_ready_start(&e->ready);
}

static void enter_ready(struct kube_ensure *e)
{
    if (e->removes) {
        sm_move(&e->sm, TRIM);
        kube_members_trim(e, trimmed);
    } else
        trimmed(e);
}

/* ---- what is not wanted any more ---- */

static void on_pruned(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL && !kube_answer_missing(a))
        kube_ensure_over(e, a->err);
    else
        enter_ready(e);
}

static void on_superfluous(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    const struct kube_owner owner = kube_ensure_owner(e, true);
    struct err err = {0};
    if (a->err != NULL) {
        on_pruned(op, a);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    bool ours = kube_is_ours(root, &owner);
    char *path = kube_path(op->k, "/apis/networking.k8s.io/v1", "networkpolicies", e->set);
    char *body =
        mem_printf("{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"preconditions\":{\"uid\":\"%s\"}}",
                   kube_uid(root));
    const struct kube_request r = {.method = "DELETE", .path = path, .body = body};
    yyjson_doc_free(doc);
    if (!ours)
        enter_ready(e);
    else if (kube_op_call(op, &r, on_pruned, &err) != 0)
        kube_ensure_over(e, &err);
    free(path);
    free(body);
}

static void enter_prune(struct kube_ensure *e)
{
    struct err err = {0};
    if (e->op.k->options.cnpg || !yyjson_is_false(yyjson_ptr_get(e->spec.spec, "/network/policy"))) {
        enter_ready(e);
        return;
    }
    sm_move(&e->sm, PRUNE);
    if (kube_op_get(&e->op, kube_path(e->op.k, "/apis/networking.k8s.io/v1", "networkpolicies", e->set), true,
                    on_superfluous, &err) != 0)
        kube_ensure_over(e, &err);
}

/* ---- applying ---- */

static int item_add(const struct kube_object *object, void *data, struct err *err)
{
    struct kube_ensure *e = data;
    if (e->item_count == (int)(sizeof e->items / sizeof e->items[0]))
        return err_set(err, ERRC_INTERNAL, "more objects than there is room for");
    struct kube_item *item = &e->items[e->item_count++];
    item->collection = mem_strdup(object->collection);
    item->name = mem_strdup(object->name);
    item->doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_doc_set_root(item->doc, yyjson_mut_val_mut_copy(item->doc, object->root));
    return 0;
}

/* The StatefulSet is the last. */
static void wanted_make(struct kube_ensure *e)
{
    yyjson_doc_free(e->wanted);
    e->wanted = yyjson_mut_val_imut_copy(yyjson_mut_doc_get_root(e->items[e->item_count - 1].doc), NULL);
}

int kube_ensure_items(struct kube_ensure *e, struct err *err)
{
    items_free(e);
    const struct kube_shard shard = {
        .database = e->database,
        .name_space = e->op.k->options.name_space,
        .shard = e->shard,
        .spec = e->spec.spec,
        .image = e->op.k->options.image,
        .owner_uid = e->spec.uid,
        .members = e->member,
        .instances = e->instances,
        .owns_data = kube_spec_deletes(&e->spec),
    };
    int rc = e->op.k->options.cnpg ? cnpg_object_make(&shard, e->owner, item_add, e, err)
                                   : kube_objects_each(&shard, item_add, e, err);
    if (rc == 0)
        wanted_make(e);
    return rc;
}

static void on_applied(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL) {
        kube_ensure_over(e, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    e->generation =
        yyjson_get_sint(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(doc), "metadata"), "generation"));
    yyjson_doc_free(doc);
    e->at++;
    apply_next(e);
}

static void lent_done(struct kube_ensure *e)
{
    kube_ensure_over(e, NULL);
}

static void applied_all(struct kube_ensure *e)
{
    items_free(e); /* a hundred shards may wait for their pods */
    if (e->lent) {
        sm_move(&e->sm, LOGIN);
        kube_adopt_probe(e, lent_done);
    } else {
        enter_prune(e);
    }
}

static void apply_next(struct kube_ensure *e)
{
    struct err err = {0};
    if (e->at == e->item_count) { /* the StatefulSet was the last */
        applied_all(e);
        return;
    }
    const struct kube_item *item = &e->items[e->at];
    const struct k8s_apply apply = {
        .collection = item->collection,
        .name = item->name,
        /* of his StatefulSet nothing but what nobody else has */
        .manager = e->lent && e->at == e->item_count - 1 ? KUBE_ADOPT_MANAGER : KUBE_MANAGER,
        .force = !e->lent || e->at < e->item_count - 1,
        .object = yyjson_mut_doc_get_root(item->doc),
    };
    if (kube_op_apply(&e->op, &apply, on_applied, &err) != 0)
        kube_ensure_over(e, &err);
}

static void enter_apply(struct kube_ensure *e)
{
    sm_move(&e->sm, APPLY);
    e->at = 0;
    apply_next(e);
}

/* ---- is everything of that name ours? ---- */

static bool has_controller(yyjson_val *object)
{
    yyjson_val *reference;
    size_t at, n;
    yyjson_arr_foreach(yyjson_ptr_get(object, "/metadata/ownerReferences"), at, n, reference)
    {
        if (yyjson_get_bool(yyjson_obj_get(reference, "controller")))
            return true;
    }
    return false;
}

/* spec.adopt says so, and it is one that `shardherd render` printed: our labels, nobody's property. */
static bool adoptable(const struct kube_ensure *e, yyjson_val *object)
{
    const char *adopt = kube_spec_text(&e->spec, "adopt", e->shard);
    return adopt != NULL && strcmp(adopt, e->set) == 0 && !has_controller(object) &&
           strcmp(kube_label(object, "app.kubernetes.io/managed-by"), "shardherd") == 0 &&
           strcmp(kube_label(object, "shardherd.io/database"), e->database) == 0 &&
           strcmp(kube_label(object, "shardherd.io/shard"), e->shard) == 0;
}

static int foreign(struct kube_ensure *e, const struct k8s_answer *a, const char *kind, const char *name,
                   struct err *err)
{
    const struct kube_owner owner = kube_ensure_owner(e, true);
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    bool ours = kube_is_ours(yyjson_doc_get_root(doc), &owner);
    bool adopted = !ours && adoptable(e, yyjson_doc_get_root(doc));
    int rc = ours && e->lent && strcmp(kind, "configmaps") == 0
                 ? kube_adopt_same(e, yyjson_doc_get_root(doc), err)
                 : 0;
    yyjson_doc_free(doc);
    if (rc != 0)
        return rc;
    e->adopting = e->adopting || adopted;
    return ours || adopted
               ? 0
               : err_set(
                     err, ERRC_CONFLICT,
                     "%s %s of namespace %s exists and does not belong to this ShardedDatabase: delete it or "
                     "choose another name; what shardherd render printed is taken over with spec.adopt",
                     kind, name, e->op.k->options.name_space);
}

static void on_checked(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    const struct kube_item *item = &e->items[e->at];
    struct err err = {0};
    if (a->err != NULL && !kube_answer_missing(a))
        kube_ensure_over(e, a->err);
    else if (a->err == NULL && foreign(e, a, strrchr(item->collection, '/') + 1, item->name, &err) != 0)
        kube_ensure_over(e, &err);
    else {
        e->at++;
        check_next(e);
    }
}

static void marked(struct kube_ensure *e)
{
    sm_move(&e->sm, CLAIMS);
    kube_claims_start(e, enter_apply);
}

static void enter_claims(struct kube_ensure *e)
{
    if (e->converts) {
        sm_move(&e->sm, MARK);
        kube_members_mark(e, marked);
    } else
        marked(e);
}

static void check_next(struct kube_ensure *e)
{
    struct err err = {0};
    if (e->lent && e->at == e->item_count - 1) {
        sm_move(&e->sm, INSPECT);
        kube_adopt_inspect(e, enter_apply);
        return;
    }
    if (e->at == e->item_count) {
        enter_claims(e);
        return;
    }
    const struct kube_item *item = &e->items[e->at];
    if (kube_op_get(&e->op, mem_printf("%s/%s", item->collection, item->name), true, on_checked, &err) != 0)
        kube_ensure_over(e, &err);
}

static void secrets_there(struct kube_ensure *e)
{
    if (e->lent && e->adopted) {
        enter_apply(e);
        return;
    }
    if (e->exists && !e->adopting) {
        enter_claims(e);
        return;
    }
    sm_move(&e->sm, CHECK);
    e->at = 0;
    check_next(e);
}

/* ---- looking ---- */

static void enter_secrets(struct kube_ensure *e)
{
    sm_move(&e->sm, SECRETS);
    kube_secrets_start(e, secrets_there);
}

static void pods_seen(struct kube_ensure *e)
{
    struct err err = {0};
    if (kube_members_looked(e, NULL, &err) != 0)
        kube_ensure_over(e, &err);
    else
        enter_secrets(e);
}

static void enter_pods(struct kube_ensure *e)
{
    sm_move(&e->sm, PODS);
    kube_members_left(e, pods_seen);
}

static void on_volume(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    if (a->err == NULL && e->op.k->options.cnpg) {
        enter_secrets(e);
        return;
    }
    if (a->err == NULL) {
        enter_pods(e);
        return;
    }
    err = *a->err;
    if (kube_answer_missing(a))
        (void)err_set(&err, ERRC_NOT_FOUND,
                      "neither StatefulSet %s nor its volume exists in namespace %s any more", e->set,
                      op->k->options.name_space);
    kube_ensure_over(e, &err);
}

static void enter_volume(struct kube_ensure *e)
{
    struct err err = {0};
    char *claim = mem_printf("data-%s-0", e->set);
    sm_move(&e->sm, VOLUME);
    if (kube_op_get(&e->op, kube_path(e->op.k, "/api/v1", "persistentvolumeclaims", claim), true, on_volume,
                    &err) != 0)
        kube_ensure_over(e, &err);
    free(claim);
}

static void on_looked(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    if (kube_adopt_is_foreign(e)) {
        if (kube_adopt_looked(e, a, item_add, &err) != 0)
            kube_adopt_over(e, &err);
        else
            enter_secrets(e);
        return;
    }
    e->exists = a->err == NULL;
    if (a->err != NULL && !kube_answer_missing(a)) {
        kube_ensure_over(e, a->err);
    } else if (e->exists && foreign(e, a, e->op.k->flavour->object, e->set, &err) != 0) {
        kube_ensure_over(e, &err);
    } else if (!e->exists && e->must_exist) {
        enter_volume(e);
    } else if (!e->exists && e->member) {
        enter_pods(e);
    } else {
        e->found = e->exists ? yyjson_read(a->body, a->body_length, 0) : NULL;
        if (kube_members_looked(e, yyjson_doc_get_root(e->found), &err) != 0) {
            kube_ensure_over(e, &err);
            return;
        }
        e->older =
            e->exists && kube_version_keep(yyjson_doc_get_root(e->found), e->items[e->item_count - 1].doc);
        if (e->older)
            wanted_make(e);
        enter_secrets(e);
    }
}

static int spec_check(struct kube_ensure *e, struct err *err)
{
    bool cnpg = e->op.k->options.cnpg;
    if (yyjson_get_bool(yyjson_obj_get(e->spec.spec, "suspended")))
        return err_set(err, ERRC_CONFLICT, "database %s is suspended: set spec.suspended to false",
                       e->database);
    if (!cnpg && kube_members_check(e, err) != 0)
        return (int)err->code;
    if (kube_spec_text(&e->spec, "adopt", e->shard) != NULL && (cnpg || kube_adopt_is_foreign(e)))
        return kube_adopt_spec_check(e, err);
    if (cnpg && kube_spec_mutual(&e->spec))
        return err_set(
            err, ERRC_UNSUPPORTED,
            "spec.tls.mode is mutual: CloudNativePG issues certificates of clients from an authority "
            "that its operator keeps, set it to on or use the runtime kubernetes");
    if (!cnpg && e->op.k->options.image == NULL && kube_spec_text(&e->spec, "postgresql", "image") == NULL)
        return err_set(err, ERRC_INVALID,
                       "no image: give spec.postgresql.image, or the manager a default image");
    return 0;
}

static void ensure_begin(struct kube_op *op)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err = {0};
    int rc = op->canceled ? err_set(&err, ERRC_CANCELED, "canceled")
                          : kube_spec_read(op->k, e->database, &e->spec, &err);
    e->deadline_ns = loop_now(op->k->loop) + op->k->options.timeout_ns;
    if (rc == 0)
        rc = spec_check(e, &err);
    if (rc == 0 && !kube_adopt_is_foreign(e))
        rc = kube_ensure_items(e, &err);
    if (rc == 0) {
        const char *adopt = kube_spec_text(&e->spec, "adopt", e->shard);
        sm_move(&e->sm, LOOK);
        rc = kube_op_get(op, KUBE_SETS(op->k, adopt != NULL ? adopt : e->set), false, on_looked, &err);
    }
    if (rc != 0)
        kube_ensure_over(e, &err);
}

static void waiting_cancel(struct kube_ensure *e)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    loop_timer_stop(&e->timer);
    kube_ensure_over(e, &canceled);
}

static void ensure_cancel(struct kube_op *op)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (loop_timer_armed(&e->timer) || /* of CLAIMS, or of a Cluster that is waited for */
        kube_secrets_wait(e))
        waiting_cancel(e);
    else if (sm_now(&e->sm) == READY && !op->k->options.cnpg)
        kube_ready_cancel(&e->ready);
    else if (e->probing)
        kube_probe_cancel(&e->probe);
    else if (sm_now(&e->sm) == LOGIN)
        kube_login_cancel(&e->login);
}

int kube_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                struct err *err)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    char *set = mem_printf("%s-%s", spec->database, spec->shard), *own = kube_set_name(spec->name);
    int number = kube_set_number(spec->name);
    bool fits = own != NULL && strcmp(own, set) == 0 && (number == 0 || spec->member) &&
                strlen(set) <= 52; /* a pod's name and its revision label */
    free(own);
    if (!fits) {
        free(set);
        return err_set(err, ERRC_INVALID,
                       "instance %s: in Kubernetes the first instance of shard %s of database %s is called "
                       "DATABASE-SHARD-0, with at most 52 characters before the -0",
                       spec->name, spec->shard, spec->database);
    }
    struct kube_ensure *e = mem_zalloc(sizeof *e);
    e->database = mem_strdup(spec->database);
    e->shard = mem_strdup(spec->shard);
    e->owner = mem_strdup(spec->owner != NULL ? spec->owner : "app");
    e->given_password = mem_strdup(spec->owner_password);
    e->must_exist = spec->must_exist;
    e->member = spec->member;
    e->primary = spec->member && spec->primary;
    e->number = number;
    e->instances = (int)spec->instances;
    e->removes = spec->member && spec->removes;
    e->next_known = mem_strdup(spec->next_password);
    e->set = set;
    e->cb = cb;
    e->data = data;
    sm_init(&e->sm, states, STATES, BEGIN, NULL, NULL);
    kube_secrets_init(e);
    kube_op_add(k, &e->op, spec->name, ensure_begin, ensure_cancel);
    return 0;
}
