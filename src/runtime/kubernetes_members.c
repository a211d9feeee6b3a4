/*
 * What is special in ensuring shards of several instances: how many there are, that there may be more or
 * fewer than before, and that the only instance of a shard may become one of several.
 *
 * What a shard has is written on its StatefulSet, so that a manager that knows less, or an older
 * specification, takes nothing away: a StatefulSet gets fewer pods only for who says that nothing relies on
 * the others. While there is no StatefulSet, as a crash leaves it while volumes grow, its pods say it.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kube_known.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_pod.h"
#include "runtime/kube_roles.h"
#include "runtime/kubernetes_ensure.h"

int kube_members_check(struct kube_ensure *e, struct err *err)
{
    if (e->instances == 0)
        e->instances = e->member ? kube_spec_instances(&e->spec) : 1;
    if (!e->member)
        return 0;
    if (kube_adopt_is_foreign(e)) /* who knows that it is one asks for no member (databases_spec_of()) */
        return err_set(
            err, ERRC_UNSUPPORTED,
            "spec.instances is %d, and %s (spec.adopt.%s) is not shardherd's own: it is taken over as the "
            "one instance that it is. Set spec.instances to 1, and to %d when the database is Ready: its "
            "rows then move, online, to a new shard that has as many",
            e->instances, kube_spec_text(&e->spec, "adopt", e->shard), e->shard, e->instances);
    return 0;
}

static const char *const modes[] = {"", "off", "on", "mutual"};

/* One has no certificate to show, and the other lets nobody in without. */
static bool apart(enum kube_tls a, enum kube_tls b)
{
    return (a == KUBE_TLS_OFF && b == KUBE_TLS_MUTUAL) || (a == KUBE_TLS_MUTUAL && b == KUBE_TLS_OFF);
}

/* As the StatefulSet says; but a pod that waits to be replaced and cannot stand beside `to` counts first. */
static enum kube_tls tls_now(const struct kube_ensure *e, yyjson_val *set, enum kube_tls to)
{
    enum kube_tls now = kube_pod_tls(yyjson_ptr_get(set, "/spec/template/spec"));
    for (int i = 0; i < kube_members_of(set); i++) {
        char *name = mem_printf("%s-%d", e->set, i);
        enum kube_tls pod = kube_roles_tls(e->op.k, name);
        now = apart(pod, to) ? pod : now;
        free(name);
    }
    return now;
}

/* Pods are replaced one after the other, and copy from each other meanwhile. */
static int tls_check(const struct kube_ensure *e, yyjson_val *set, struct err *err)
{
    enum kube_tls to = kube_pod_tls(yyjson_ptr_get(yyjson_doc_get_root(e->wanted), "/spec/template/spec"));
    enum kube_tls now = tls_now(e, set, to);
    if (kube_members_of(set) == 0 || e->instances < 2)
        return 0;
    if (apart(now, to))
        return err_set(err, ERRC_INVALID,
                       "spec.tls.mode cannot be changed from %s to %s in one step while the shard has %d "
                       "instances: who has no certificate cannot follow who asks for one. Set it to on, and "
                       "to %s when the database is Ready",
                       modes[now], modes[to], e->instances, modes[to]);
    if ((now == KUBE_TLS_OFF) != (to == KUBE_TLS_OFF) && kube_spec_text(&e->spec, "tls", "secret") != NULL)
        return err_set(err, ERRC_INVALID,
                       "spec.tls.mode cannot be changed from %s to %s while the shard has %d instances and "
                       "spec.tls.secret is set, since with off their agents have certificates of another "
                       "authority: set spec.instances to 1, change the mode when that is done, and set "
                       "spec.instances back",
                       modes[now], modes[to], e->instances);
    return 0;
}

int kube_members_looked(struct kube_ensure *e, struct yyjson_val *set, struct err *err)
{
    int there = set != NULL ? kube_members_of(set) : e->left;
    bool stays = there > e->instances && !e->removes;
    if (e->op.k->options.cnpg || (!e->member && there == 0))
        return 0;
    e->converts = set != NULL && there == 0;
    if (stays)
        e->instances = there;
    if (stays || !e->member) {
        e->member = true;
        if (kube_ensure_items(e, err) != 0)
            return (int)err->code;
    }
    if (e->number >= e->instances)
        return err_set(err, ERRC_INVALID, "spec.instances is %d: there is no instance of this number",
                       e->instances);
    if (set == NULL)
        return 0;
    if (tls_check(e, set, err) != 0)
        return (int)err->code;
    return kube_settings_lowered(kube_annotation(set, KUBE_STANDBY_ANNOTATION),
                                 kube_annotation(yyjson_doc_get_root(e->wanted), KUBE_STANDBY_ANNOTATION),
                                 err);
}

/* ---- the superuser's password ---- */

static bool is_at_hand(const struct kube_ensure *e)
{
    return e->next_known != NULL && e->next_mark != NULL && strcmp(e->next_known, e->next_mark) == 0;
}

enum kube_rotation kube_members_rotation(struct kube_ensure *e, bool copied_from)
{
    if (e->renewed != NULL)
        return KUBE_ROTATION_WRITE;
    if (e->next_password == NULL && !e->rotation_due)
        return KUBE_ROTATION_NONE;
    if (copied_from) { /* their subscriptions know the old one */
        kube_ensure_progress(
            e, "the superuser's password is not changed while other servers copy from this one");
        return KUBE_ROTATION_NONE;
    }
    if (e->next_password == NULL)
        return KUBE_ROTATION_WRITE;
    return is_at_hand(e) ? KUBE_ROTATION_GIVE : KUBE_ROTATION_NONE;
}

/* What was read with the old one is not relied on any more. */
static void password_changed(struct kube_ensure *e)
{
    for (int i = 0; i < e->instances; i++) {
        char *name = mem_printf("%s-%d", e->set, i);
        kube_known_forget(e->op.k, name);
        free(name);
    }
    e->members_then(e);
}

static void given_there(struct kube_ensure *e, yyjson_val *secret)
{
    struct err err = {0};
    if (!kube_credentials_take(e, secret))
        return;
    if (e->next_password == NULL) {
        password_changed(e);
    } else if (strcmp(e->next_password, e->renewed) != 0) {
        (void)err_set(&err, ERRC_CONFLICT, "Secret %s was changed while PostgreSQL got its next password",
                      e->secret_name);
        kube_ensure_over(e, &err);
    } else {
        const struct kube_secret_item items[] = {{"password", e->renewed},
                                                 {"previous-password", e->password},
                                                 {KUBE_NEXT_KEY, NULL},
                                                 {KUBE_NEXT_MARK_KEY, NULL}};
        kube_secret_rewrite(e, secret, items, 4);
    }
}

static void next_there(struct kube_ensure *e, yyjson_val *secret)
{
    char password[KUBE_PASSWORD_LENGTH + 1], mark[ENV_TIME_SIZE];
    if (!kube_credentials_take(e, secret))
        return;
    if (e->next_password != NULL || !e->rotation_due) {
        e->members_then(e);
        return;
    }
    env_random_text(e->op.k->loop->env, password, KUBE_PASSWORD_LENGTH);
    env_format_time(loop_wall(e->op.k->loop), mark);
    const struct kube_secret_item items[] = {{KUBE_NEXT_KEY, password}, {KUBE_NEXT_MARK_KEY, mark}};
    kube_secret_rewrite(e, secret, items, 2);
    explicit_bzero(password, sizeof password);
}

void kube_members_write(struct kube_ensure *e, kube_ensure_then then)
{
    e->members_then = then;
    kube_secret_want(e, mem_printf("%s-credentials", e->set), NULL,
                     e->renewed != NULL ? given_there : next_there);
}

/* ---- pods without a StatefulSet ---- */

/* Of several instances, if any is marked as one: up to the last one that is not going. */
static int members_left(const struct kube_ensure *e, yyjson_val *pods)
{
    size_t length = strlen(e->set), at, n;
    bool marked = false;
    int count = 0;
    yyjson_val *pod;
    yyjson_arr_foreach(pods, at, n, pod)
    {
        const char *name = yyjson_get_str(yyjson_ptr_get(pod, "/metadata/name"));
        if (name == NULL || strncmp(name, e->set, length) != 0 || name[length] != '-' ||
            name[length + 1] < '0' || name[length + 1] > '9' || name[length + 2] != '\0' ||
            yyjson_ptr_get(pod, "/metadata/deletionTimestamp") != NULL)
            continue;
        marked = marked || kube_label(pod, KUBE_ROLE_LABEL)[0] != '\0';
        if (name[length + 1] - '0' >= count)
            count = name[length + 1] - '0' + 1;
    }
    return marked ? count : 0;
}

static void on_left(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL) {
        kube_ensure_over(e, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    e->left = members_left(e, yyjson_obj_get(yyjson_doc_get_root(doc), "items"));
    yyjson_doc_free(doc);
    e->members_then(e);
}

void kube_members_left(struct kube_ensure *e, kube_ensure_then then)
{
    struct err err = {0};
    e->members_then = then;
    char *all = kube_path(e->op.k, "/api/v1", "pods", NULL);
    char *selector = kube_shard_selector(e->database, e->shard);
    const struct kube_request r = {.method = "GET", .path = all, .query = selector};
    if (kube_op_call(&e->op, &r, on_left, &err) != 0)
        kube_ensure_over(e, &err);
    free(all);
    free(selector);
}

/* ---- the label ---- */

static void on_marked(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL && !kube_answer_missing(a)) /* a pod that is made just now gets it from its keeper */
        kube_ensure_over(e, a->err);
    else
        e->members_then(e);
}

/* Without a term: whatever its keeper says later counts more. */
void kube_members_mark(struct kube_ensure *e, kube_ensure_then then)
{
    struct err err = {0};
    char *pod = mem_printf("%s-0", e->set), *path = kube_path(e->op.k, "/api/v1", "pods", pod);
    const struct kube_request r = {.method = "PATCH",
                                   .path = path,
                                   .query = "fieldManager=shardherd-role",
                                   .content_type = "application/merge-patch+json",
                                   .body =
                                       "{\"metadata\":{\"labels\":{\"" KUBE_ROLE_LABEL "\":\"primary\"}}}"};
    e->members_then = then;
    if (kube_op_call(&e->op, &r, on_marked, &err) != 0)
        kube_ensure_over(e, &err);
    free(path);
    free(pod);
}

/* ---- volumes of members that went ---- */

static void trim_next(struct kube_ensure *e);

static void on_trimmed(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err != NULL && !kube_answer_missing(a)) {
        kube_ensure_over(e, a->err);
        return;
    }
    e->at++;
    trim_next(e);
}

/* "data-shop-s1-2" is of the pod of number 2, and of this shard. */
static bool is_superfluous(const struct kube_ensure *e, const char *claim)
{
    char *middle = mem_printf("-%s-", e->set);
    const char *found = strstr(claim, middle), *number = found != NULL ? found + strlen(middle) : "";
    bool superfluous =
        number[0] >= '0' && number[0] <= '9' && number[1] == '\0' && number[0] - '0' >= e->instances;
    free(middle);
    return superfluous;
}

/* A pod that has it still is waited for by the API server, which keeps a claim that is in use. */
static void claim_delete(struct kube_ensure *e, yyjson_val *claim)
{
    struct err err = {0};
    char *path = kube_path(e->op.k, "/api/v1", "persistentvolumeclaims",
                           yyjson_get_str(yyjson_ptr_get(claim, "/metadata/name")));
    char *body =
        mem_printf("{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"preconditions\":{\"uid\":\"%s\"}}",
                   kube_uid(claim));
    const struct kube_request r = {.method = "DELETE", .path = path, .body = body};
    if (kube_op_call(&e->op, &r, on_trimmed, &err) != 0)
        kube_ensure_over(e, &err);
    free(path);
    free(body);
}

static void trim_next(struct kube_ensure *e)
{
    const struct kube_owner owner = kube_ensure_owner(e, true);
    yyjson_val *items = yyjson_obj_get(yyjson_doc_get_root(e->claims), "items");
    for (; (size_t)e->at < yyjson_arr_size(items); e->at++) {
        yyjson_val *claim = yyjson_arr_get(items, (size_t)e->at);
        const char *name = yyjson_get_str(yyjson_ptr_get(claim, "/metadata/name"));
        bool going = yyjson_ptr_get(claim, "/metadata/deletionTimestamp") != NULL;
        bool ours = strcmp(kube_annotation(claim, KUBE_OWNER_ANNOTATION), owner.uid) == 0;
        if (ours && !going && name != NULL && is_superfluous(e, name)) {
            claim_delete(e, claim);
            return;
        }
    }
    yyjson_doc_free(e->claims);
    e->claims = NULL;
    e->members_then(e);
}

void kube_members_trim(struct kube_ensure *e, kube_ensure_then then)
{
    e->members_then = then;
    if (kube_spec_deletes(&e->spec))
        kube_claims_read(e, trim_next);
    else
        then(e);
}
