/*
 * The Secrets of a shard: asked for one after the other, made when missing, and written again only when the
 * rotation of passwords or the life of a certificate asks for it.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "k8s/exec_plugin.h"
#include "runtime/kubernetes_ensure.h"

#define TOKEN_LENGTH 40
#define DAY_S        86400ull
#define AUTHORITY_S  (3650 * DAY_S)
#define LEAF_S       (90 * DAY_S)
#define NEXT_US      5000000ll

static void owner_want(struct kube_ensure *e);
static void authority_want(struct kube_ensure *e);
static void certificate_want(struct kube_ensure *e);

/* ---- one Secret ---- */

static void secret_ask(struct kube_ensure *e);

/* All shards of a database want its Secrets at the same time: one asks, and makes them; the others wait. */
static void secret_begin(struct kube_ensure *e)
{
    struct kubernetes *k = e->op.k;
    list_each(node, &k->askers)
    {
        struct kube_ensure *other = list_item(node, struct kube_ensure, secret_node);
        if (strcmp(other->secret_name, e->secret_name) == 0) {
            list_append(&other->secret_waiters, &e->secret_node);
            return;
        }
    }
    list_append(&k->askers, &e->secret_node);
    secret_ask(e);
}

static void secret_turn(struct loop_task *task, void *data)
{
    (void)task;
    secret_begin(data);
}

void kube_secrets_init(struct kube_ensure *e)
{
    list_init(&e->secret_node);
    list_init(&e->secret_waiters);
    e->secret_task = (struct loop_task){.run = secret_turn, .data = e};
}

bool kube_secrets_wait(const struct kube_ensure *e)
{
    return !list_empty(&e->secret_node) || e->secret_task.queued;
}

void kube_secrets_leave(struct kube_ensure *e)
{
    list_remove(&e->secret_node);
    loop_task_cancel(&e->secret_task);
    list_each(node, &e->secret_waiters)
    {
        struct kube_ensure *other = list_item(node, struct kube_ensure, secret_node);
        list_remove(node);
        loop_defer(e->op.k->loop, &other->secret_task);
    }
}

static void secret_take(struct kube_ensure *e, const struct k8s_answer *a)
{
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    struct list waiters;
    list_init(&waiters);
    list_remove(&e->secret_node);
    list_each(node, &e->secret_waiters)
    {
        list_remove(node);
        list_append(&waiters, node);
    }
    e->secret_then(e, yyjson_doc_get_root(doc));
    while (!list_empty(&waiters)) { /* one that ends meanwhile leaves the list */
        struct kube_ensure *other = list_item(list_first(&waiters), struct kube_ensure, secret_node);
        list_remove(&other->secret_node);
        other->secret_then(other, yyjson_doc_get_root(doc));
    }
    yyjson_doc_free(doc);
}

static void on_made(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err == NULL)
        secret_take(e, a);
    else if (a->err->code == ERRC_EXISTS)
        secret_ask(e); /* by another process meanwhile: theirs is the one */
    else
        kube_ensure_over(e, a->err);
}

static void secret_post(struct kube_ensure *e)
{
    struct err err = {0};
    char *path = KUBE_SECRETS(e->op.k, NULL), *body = e->secret_make(e, &err);
    const struct kube_request r = {
        .method = "POST", .path = path, .query = "fieldManager=" KUBE_MANAGER, .body = body};
    int rc = body == NULL ? (int)err.code : kube_op_call(&e->op, &r, on_made, &err);
    free(path);
    mem_wipe_free(body);
    if (rc != 0)
        kube_ensure_over(e, &err);
}

static void on_secret(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    struct err err;
    if (a->err == NULL) {
        secret_take(e, a);
    } else if (kube_answer_missing(a) && e->secret_make != NULL) {
        secret_post(e);
    } else {
        err = *a->err;
        if (kube_answer_missing(a))
            (void)err_set(
                &err, ERRC_NOT_FOUND,
                "Secret %s of namespace %s, which the database's specification names, does not exist",
                e->secret_name, e->op.k->options.name_space);
        kube_ensure_over(e, &err);
    }
}

static void secret_ask(struct kube_ensure *e)
{
    struct err err = {0};
    if (kube_op_get(&e->op, KUBE_SECRETS(e->op.k, e->secret_name), false, on_secret, &err) != 0)
        kube_ensure_over(e, &err);
}

/* Takes the name over. */
void kube_secret_want(struct kube_ensure *e, char *name, char *(*make)(struct kube_ensure *, struct err *),
                      void (*then)(struct kube_ensure *, yyjson_val *))
{
    free(e->secret_name);
    e->secret_name = name;
    e->secret_make = make;
    e->secret_then = then;
    e->secret_renewed = false;
    secret_begin(e);
}

static char *secret_text(const struct kube_ensure *e, bool of_shard, bool owned, const char *type,
                         const struct kube_secret_item *items, size_t count)
{
    const struct kube_secret secret = {
        .name = e->secret_name,
        .name_space = e->op.k->options.name_space,
        .type = type,
        .owner = kube_ensure_owner(e, of_shard),
        .label = e->op.k->flavour->secret_label,
        .owned = owned,
        .items = items,
        .count = count,
    };
    return kube_secret_json(&secret);
}

static bool value_of(struct kube_ensure *e, yyjson_val *secret, const char *key, char **ret)
{
    struct err err = {0};
    char *value = kube_secret_value(secret, key);
    if (value != NULL && value[0] != '\0') {
        mem_wipe_free(*ret);
        *ret = value;
        return true;
    }
    mem_wipe_free(value);
    (void)err_set(&err, ERRC_INVALID, "Secret %s has no text under the key %s", e->secret_name, key);
    kube_ensure_over(e, &err);
    return false;
}

/* ---- writing one again ---- */

static void on_rewritten(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err == NULL)
        secret_take(e, a);
    else if (a->err->code == ERRC_CONFLICT)
        secret_ask(e); /* changed meanwhile: look at it again */
    else
        kube_ensure_over(e, a->err);
}

/* Replaces values of the Secret, if it still is what was read. */
void kube_secret_rewrite(struct kube_ensure *e, yyjson_val *secret, const struct kube_secret_item *items,
                         size_t count)
{
    struct err err = {0};
    char now[ENV_TIME_SIZE];
    const char *version = yyjson_get_str(yyjson_ptr_get(secret, "/metadata/resourceVersion"));
    env_format_time(loop_wall(e->op.k->loop), now);
    char *path = KUBE_SECRETS(e->op.k, e->secret_name),
         *body = kube_secret_patch(version != NULL ? version : "", now, items, count);
    const struct kube_request r = {.method = "PATCH",
                                   .path = path,
                                   .query = "fieldManager=" KUBE_MANAGER,
                                   .content_type = "application/merge-patch+json",
                                   .body = body};
    if (kube_op_call(&e->op, &r, on_rewritten, &err) != 0)
        kube_ensure_over(e, &err);
    free(path);
    mem_wipe_free(body);
}

/* ---- when something is to be renewed ---- */

void kube_ensure_due(struct kube_ensure *e, int64_t at_us)
{
    if (at_us > 0 && (e->due_us == 0 || at_us < e->due_us))
        e->due_us = at_us;
}

/* spec.tls.NAME in seconds, or what is usual. */
static uint64_t lifetime_s(const struct kube_ensure *e, const char *name, uint64_t usual)
{
    const char *text = kube_spec_text(&e->spec, "tls", name);
    uint64_t ns;
    return text != NULL && text_to_duration(text, &ns) && ns >= ENV_NS_PER_S ? ns / ENV_NS_PER_S : usual;
}

/* ---- passwords ---- */

static bool rotation_due(struct kube_ensure *e, yyjson_val *secret, bool of_shard)
{
    const struct kube_owner owner = kube_ensure_owner(e, of_shard);
    const char *every = kube_spec_text(&e->spec, "credentials", "rotation");
    const char *made = kube_annotation(secret, KUBE_WRITTEN_ANNOTATION);
    uint64_t period;
    int64_t at;
    if (made[0] == '\0')
        made = yyjson_get_str(yyjson_ptr_get(secret, "/metadata/creationTimestamp"));
    if (every == NULL || !text_to_duration(every, &period) || period == 0 || !kube_is_ours(secret, &owner) ||
        made == NULL || !rfc3339_read(made, &at))
        return false;
    int64_t now = loop_wall(e->op.k->loop), due = at + (int64_t)(period / 1000);
    if (now > due) /* what hinders it now (somebody copies from the server) is looked at again */
        kube_ensure_due(e, now + (period / 10 > 60 * ENV_NS_PER_S ? (int64_t)(period / 10000) : 60000000));
    else
        kube_ensure_due(e, due);
    return now > due;
}

/* A new password; the old one stays beside it, for whoever finds that the server has not got the new one. */
static void password_rotate(struct kube_ensure *e, yyjson_val *secret, const char *old)
{
    char password[KUBE_PASSWORD_LENGTH + 1];
    env_random_text(e->op.k->loop->env, password, KUBE_PASSWORD_LENGTH);
    const struct kube_secret_item items[] = {{"password", password}, {"previous-password", old}};
    kube_secret_rewrite(e, secret, items, 2);
    explicit_bzero(password, sizeof password);
}

static char *password_make(struct kube_ensure *e, bool of_shard, const char *user, const char *given)
{
    char password[KUBE_PASSWORD_LENGTH + 1];
    env_random_text(e->op.k->loop->env, password, KUBE_PASSWORD_LENGTH);
    const struct kube_secret_item items[] = {{"username", user},
                                             {"password", given != NULL ? given : password}};
    char *text =
        secret_text(e, of_shard, kube_spec_deletes(&e->spec), e->op.k->flavour->password_type, items, 2);
    explicit_bzero(password, sizeof password);
    return text;
}

static char *credentials_make(struct kube_ensure *e, struct err *err)
{
    (void)err;
    return password_make(e, true, e->op.k->flavour->user, NULL);
}

static char *owner_make(struct kube_ensure *e, struct err *err)
{
    (void)err;
    return password_make(e, false, e->owner, e->given_password);
}

bool kube_credentials_take(struct kube_ensure *e, yyjson_val *secret)
{
    if (!value_of(e, secret, "password", &e->password))
        return false;
    mem_wipe_free(e->previous_password);
    e->previous_password = kube_secret_value(secret, "previous-password");
    mem_wipe_free(e->next_password);
    e->next_password = e->member ? kube_secret_value(secret, KUBE_NEXT_KEY) : NULL;
    mem_wipe_free(e->next_mark);
    e->next_mark = e->member ? kube_secret_value(secret, KUBE_NEXT_MARK_KEY) : NULL;
    e->rotation_due = rotation_due(e, secret, true);
    if (e->next_password != NULL) /* whether the agents have it by then */
        kube_ensure_due(e, loop_wall(e->op.k->loop) + NEXT_US);
    return true;
}

/* Beside the password, once: what callers of the members' agents show. */
static void token_make(struct kube_ensure *e, yyjson_val *secret)
{
    char token[TOKEN_LENGTH + 1];
    env_random_text(e->op.k->loop->env, token, TOKEN_LENGTH);
    const struct kube_secret_item items[] = {{KUBE_TOKEN_KEY, token}};
    kube_secret_rewrite(e, secret, items, 1);
    explicit_bzero(token, sizeof token);
}

/* The rotation itself comes when we have seen that the server can bear it. */
static void credentials_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (!kube_credentials_take(e, secret))
        return;
    mem_wipe_free(e->token);
    e->token = e->member ? kube_secret_value(secret, KUBE_TOKEN_KEY) : NULL;
    if (e->member && e->token == NULL)
        token_make(e, secret);
    else
        owner_want(e);
}

static void rotation_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (!kube_credentials_take(e, secret))
        return;
    if (e->rotation_due)
        password_rotate(e, secret, e->password);
    else
        e->secrets_then(e);
}

static void owner_there(struct kube_ensure *e, yyjson_val *secret)
{
    const struct kube_secret_item given = {"password", e->given_password};
    const struct kube_owner owner = kube_ensure_owner(e, false);
    if (!value_of(e, secret, "password", &e->owner_password))
        return;
    if (given.value != NULL && strcmp(given.value, e->owner_password) != 0 && kube_is_ours(secret, &owner))
        kube_secret_rewrite(e, secret, &given, 1);
    else if (given.value == NULL && (!e->member || e->primary) && rotation_due(e, secret, false))
        password_rotate(e, secret, e->owner_password);
    else
        authority_want(e);
}

static void owner_want(struct kube_ensure *e)
{
    const char *theirs = kube_spec_text(&e->spec, "credentials", "secret");
    if (e->given_password != NULL && !e->op.k->options.cnpg) { /* the operator wants it in a Secret */
        e->owner_password = mem_strdup(e->given_password);
        authority_want(e);
        return;
    }
    if (theirs != NULL)
        kube_secret_want(e, mem_strdup(theirs), NULL, owner_there);
    else
        kube_secret_want(e, mem_printf("%s-owner", e->database), owner_make, owner_there);
}

/* ---- certificates ---- */

static char *authority_make(struct kube_ensure *e, struct err *err)
{
    struct kube_pair pair = {0};
    char *text = NULL, *name = mem_printf("%s.%s", e->database, e->op.k->options.name_space);
    if (kube_authority_make(e->op.k->loop->env, name, lifetime_s(e, "authorityLifetime", AUTHORITY_S), &pair,
                            err) == 0) {
        const struct kube_secret_item items[] = {{"ca.crt", pair.certificate}, {"ca.key", pair.key}};
        text = secret_text(e, false, kube_spec_deletes(&e->spec), "Opaque", items, 2);
    }
    kube_pair_clear(&pair);
    free(name);
    return text;
}

#define NAMES_MAX 13
/* What the services and the pods are called. */
static void names_make(const struct kube_ensure *e, char *ret[NAMES_MAX + 1])
{
    static const char *const domains[] = {"", ".svc", ".svc.cluster.local"};
    const char *space = e->op.k->options.name_space;
    int n = 0;
    ret[n++] = mem_strdup(e->set);
    ret[n++] = mem_printf("%s-ro", e->set);
    for (int i = 0; i < 3; i++) {
        ret[n++] = mem_printf("%s.%s%s", e->set, space, domains[i]);
        ret[n++] = mem_printf("%s-ro.%s%s", e->set, space, domains[i]);
        ret[n++] = mem_printf("*.%s-pods.%s%s", e->set, space, domains[i]);
    }
    ret[n] = NULL;
}

static void names_free(char *names[NAMES_MAX + 1])
{
    for (char **name = names; *name != NULL; name++)
        free(*name);
}

/* For the server, or for the client that the Secret is named after. */
static int pair_issue(struct kube_ensure *e, bool of_shard, struct kube_pair *ret, struct err *err)
{
    char *names[NAMES_MAX + 1];
    names_make(e, names);
    const struct kube_certificate_request request = {of_shard ? e->set : e->secret_name,
                                                     of_shard ? (const char *const *)names : NULL,
                                                     lifetime_s(e, "certificateLifetime", LEAF_S)};
    int rc = kube_certificate_issue(e->op.k->loop->env, &e->ca, &request, ret, err);
    if (rc != 0)
        (void)err_wrap(err, "Secret %s-ca", e->database);
    names_free(names);
    return rc;
}

#define CERTIFICATE_ITEMS(pair, ca)                                                                          \
    {                                                                                                        \
        {"tls.crt", (pair).certificate}, {"tls.key", (pair).key},                                            \
        {                                                                                                    \
            "ca.crt", (ca)                                                                                   \
        }                                                                                                    \
    }

static char *pair_text(struct kube_ensure *e, bool of_shard, struct err *err)
{
    struct kube_pair pair = {0};
    char *text = NULL;
    if (pair_issue(e, of_shard, &pair, err) == 0) {
        const struct kube_secret_item items[] = CERTIFICATE_ITEMS(pair, e->bundle);
        text = secret_text(e, of_shard, true, "kubernetes.io/tls", items, 3);
    }
    kube_pair_clear(&pair);
    return text;
}

static char *certificate_make(struct kube_ensure *e, struct err *err)
{
    return pair_text(e, true, err);
}

static char *client_make(struct kube_ensure *e, struct err *err)
{
    return pair_text(e, false, err);
}

/* Whether it is to be replaced: two thirds of its life are over, or it does not do. */
static bool is_due(struct kube_ensure *e, yyjson_val *secret, bool of_shard)
{
    char *names[NAMES_MAX + 1], *certificate = kube_secret_value(secret, "tls.crt");
    names_make(e, names);
    bool due = kube_certificate_judge(e->op.k->loop->env, certificate, e->ca.certificate,
                                      of_shard ? (const char *const *)names : NULL) != KUBE_CERTIFICATE_GOOD;
    if (!due)
        kube_ensure_due(e, kube_certificate_due(certificate));
    names_free(names);
    free(certificate);
    return due;
}

/* Whether its ca.crt is what is to be known now. */
static bool bundle_due(const struct kube_ensure *e, yyjson_val *secret)
{
    char *known = kube_secret_value(secret, "ca.crt");
    size_t length = strlen(e->bundle);
    while (length > 0 && e->bundle[length - 1] == '\n')
        length--;
    bool due = known == NULL || strlen(known) != length || memcmp(known, e->bundle, length) != 0;
    free(known);
    return due;
}

/* Whether it, or what it says of authorities, is to be written again; once in a pass, even if that did not
 * help (an authority whose time is over). */
static bool certificate_due(struct kube_ensure *e, yyjson_val *secret, bool of_shard)
{
    bool due = is_due(e, secret, of_shard) || bundle_due(e, secret);
    if (due && e->secret_renewed)
        kube_ensure_due(e, loop_wall(e->op.k->loop) + 60000000);
    return due && !e->secret_renewed;
}

/* The certificate stays when only what is known of authorities has changed. */
static void certificate_renew(struct kube_ensure *e, yyjson_val *secret, bool of_shard)
{
    struct kube_pair pair = {0};
    struct err err = {0};
    const struct kube_secret_item known = {"ca.crt", e->bundle};
    e->secret_renewed = true;
    if (!is_due(e, secret, of_shard)) {
        kube_secret_rewrite(e, secret, &known, 1);
    } else if (pair_issue(e, of_shard, &pair, &err) == 0) {
        const struct kube_secret_item items[] = CERTIFICATE_ITEMS(pair, e->bundle);
        kube_secret_rewrite(e, secret, items, 3);
    } else {
        kube_ensure_over(e, &err);
    }
    kube_pair_clear(&pair);
}

static void file_run(struct work *work)
{
    struct kube_ensure *e = work->data;
    (void)kube_files_write(e->op.k, e->database, e->set, e->bundle != NULL ? e->bundle : e->ca.certificate,
                           &e->client, &e->work_err);
}

static void file_done(struct work *work, int code)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct kube_ensure *e = work->data;
    (void)code;
    if (e->op.canceled)
        kube_ensure_over(e, &canceled);
    else if (e->work_err.code != ERRC_NONE)
        kube_ensure_over(e, &e->work_err);
    else
        e->kept_then(e);
}

void kube_files_keep(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    struct err err = {0};
    e->kept_then = then;
    if (work_start(e->op.k->loop, &e->work, file_run, file_done, e) == 0)
        return;
    (void)err_set(&err, ERRC_INTERNAL, "no worker");
    kube_ensure_over(e, &err);
}

/* ---- certificates of clients ---- */

static void client_refuse(struct kube_ensure *e, const char *why)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_INVALID, "Secret %s: %s", e->secret_name, why);
    kube_ensure_over(e, &err);
}

/* A certificate of somebody else's authority: it is theirs to renew. */
static bool theirs_do(struct kube_ensure *e, yyjson_val *secret)
{
    char *certificate = kube_secret_value(secret, "tls.crt");
    bool good =
        kube_certificate_judge(e->op.k->loop->env, certificate, NULL, NULL) != KUBE_CERTIFICATE_UNUSABLE;
    free(certificate);
    return good;
}

static bool client_take(struct kube_ensure *e, yyjson_val *secret)
{
    return value_of(e, secret, "tls.crt", &e->client.certificate) &&
           value_of(e, secret, "tls.key", &e->client.key);
}

static void their_client_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (!theirs_do(e, secret))
        client_refuse(e, "its tls.crt is over, or its extended key usage has no client authentication");
    else if (client_take(e, secret))
        kube_files_keep(e, e->secrets_then);
}

/* Whether the Secret has a certificate of ours that does; if not, what follows has been begun. */
static bool own_client(struct kube_ensure *e, yyjson_val *secret)
{
    const struct kube_owner owner = kube_ensure_owner(e, false);
    bool ours = kube_is_ours(secret, &owner);
    if (ours && !certificate_due(e, secret, false))
        return true;
    if (ours)
        certificate_renew(e, secret, false);
    else if (kube_spec_mutual(&e->spec))
        client_refuse(e, "it exists and does not belong to this ShardedDatabase: delete it, or name a Secret "
                         "with a certificate for clients in spec.tls.clientSecret");
    else /* nobody asks for one */
        kube_files_keep(e, e->secrets_then);
    return false;
}

static void manager_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (own_client(e, secret) && client_take(e, secret))
        kube_files_keep(e, e->secrets_then);
}

static void application_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (own_client(e, secret))
        kube_secret_want(e, mem_printf("%s-manager", e->database), client_make, manager_there);
}

/* Also where servers do not ask for one yet: when they begin to, each client has it already. */
static void clients_want(struct kube_ensure *e, yyjson_val *secret, bool by_us)
{
    const char *theirs = kube_spec_text(&e->spec, "tls", "clientSecret");
    if (kube_spec_plain(&e->spec)) /* only agents show a certificate, and ask for none */
        kube_files_keep(e, e->secrets_then);
    else if (!by_us && theirs == NULL && kube_spec_mutual(&e->spec))
        client_refuse(e,
                      "it is not of shardherd's authority, and spec.tls.mode is mutual: name a Secret with a "
                      "certificate for clients of that authority in spec.tls.clientSecret");
    else if (!by_us && theirs != NULL && !theirs_do(e, secret))
        client_refuse(e, "its tls.crt is over, or its extended key usage has no client authentication, which "
                         "servers need when they copy from each other");
    else if (theirs != NULL)
        kube_secret_want(e, mem_strdup(theirs), NULL, their_client_there);
    else if (by_us)
        kube_secret_want(e, mem_printf("%s-client", e->database), client_make, application_there);
    else
        kube_files_keep(e, e->secrets_then);
}

/* Each of several instances is spoken to by the name of its pod. */
static bool names_pods(const struct kube_ensure *e, yyjson_val *secret)
{
    char *certificate = kube_secret_value(secret, "tls.crt");
    bool named = true;
    for (int i = 0; e->member && named && i < e->instances; i++) {
        char *host = mem_printf("%s-%d.%s-pods.%s.svc", e->set, i, e->set, e->op.k->options.name_space);
        named = kube_certificate_names(certificate, host);
        free(host);
    }
    free(certificate);
    return named;
}

static void certificate_there(struct kube_ensure *e, yyjson_val *secret)
{
    const struct kube_owner owner = kube_ensure_owner(e, true);
    bool by_us = e->ca.key != NULL && kube_is_ours(secret, &owner);
    if (!by_us && !names_pods(e, secret)) {
        char *why =
            mem_printf("its tls.crt is not for the names of the shard's pods, by which several instances "
                       "are reached: issue it for *.%s-pods.%s.svc as well",
                       e->set, e->op.k->options.name_space);
        client_refuse(e, why);
        free(why);
        return;
    }
    if (by_us && certificate_due(e, secret, true)) {
        certificate_renew(e, secret, true);
        return;
    }
    if (!by_us) { /* of another authority than ours */
        free(e->bundle);
        e->bundle = NULL;
    }
    if (by_us || value_of(e, secret, "ca.crt", &e->ca.certificate))
        clients_want(e, secret, by_us);
}

static void certificate_want(struct kube_ensure *e)
{
    kube_secret_want(e, mem_printf("%s-tls", e->set), certificate_make, certificate_there);
}

/* Nothing of it is to be done now. */
static void authority_take(struct kube_ensure *e)
{
    kube_pair_clear(&e->ca);
    free(e->bundle);
    e->bundle = kube_authority_bundle(&e->authority);
    e->ca = (struct kube_pair){mem_strdup(e->authority.now.certificate), mem_strdup(e->authority.now.key)};
    certificate_want(e);
}

static void authority_prepare(struct kube_ensure *e, yyjson_val *secret)
{
    struct kube_pair pair = {0};
    struct err err = {0};
    char *name = mem_printf("%s.%s", e->database, e->op.k->options.name_space);
    if (kube_authority_make(e->op.k->loop->env, name, lifetime_s(e, "authorityLifetime", AUTHORITY_S), &pair,
                            &err) == 0) {
        const struct kube_secret_item items[] = {{"next.crt", pair.certificate}, {"next.key", pair.key}};
        kube_secret_rewrite(e, secret, items, 2);
    } else {
        kube_ensure_over(e, &err);
    }
    kube_pair_clear(&pair);
    free(name);
}

static void authority_step(struct kube_ensure *e, yyjson_val *secret, enum kube_authority_step step)
{
    const struct kube_authority *a = &e->authority;
    const struct kube_secret_item change[] = {{"ca.crt", a->next.certificate},
                                              {"ca.key", a->next.key},
                                              {"previous.crt", a->now.certificate},
                                              {"next.crt", NULL},
                                              {"next.key", NULL}};
    const struct kube_secret_item drop = {"previous.crt", NULL};
    e->scanned = false;
    if (step == KUBE_AUTHORITY_SWITCH)
        kube_secret_rewrite(e, secret, change, 5);
    else
        kube_secret_rewrite(e, secret, &drop, 1);
}

/* Ready: the Secret is read again, and is the one that the step is made from, or another's step came first.
 */
static void on_scanned(struct kube_ensure *e, bool ready)
{
    e->scanned = true;
    if (ready) {
        secret_ask(e);
        return;
    }
    kube_ensure_due(e, loop_wall(e->op.k->loop) + kube_authority_pause_us(&e->authority));
    authority_take(e);
}

static void authority_there(struct kube_ensure *e, yyjson_val *secret)
{
    const struct kube_owner owner = kube_ensure_owner(e, false);
    enum kube_authority_step step = KUBE_AUTHORITY_STAY;
    int64_t due = 0;
    kube_authority_clear(&e->authority);
    if (!kube_authority_read(secret, &e->authority)) { /* says which key */
        if (value_of(e, secret, "ca.crt", &e->ca.certificate))
            (void)value_of(e, secret, "ca.key", &e->ca.key);
        return;
    }
    if (kube_is_ours(secret, &owner))
        step = kube_authority_due(e->op.k->loop->env, &e->authority, &due);
    if (step == KUBE_AUTHORITY_STAY) {
        kube_ensure_due(e, due);
        authority_take(e);
    } else if (step == KUBE_AUTHORITY_PREPARE)
        authority_prepare(e, secret);
    else if (e->scanned && step == e->scan_step)
        authority_step(e, secret, step);
    else
        kube_authority_scan(e, step, on_scanned);
}

static void authority_want(struct kube_ensure *e)
{
    bool plain = kube_spec_plain(&e->spec);
    const char *theirs = plain ? NULL : kube_spec_text(&e->spec, "tls", "secret");
    if (e->lent && e->ca.certificate != NULL)
        kube_files_keep(e, e->secrets_then);
    else if (e->lent || e->op.k->options.cnpg || (plain && !e->member)) /* the operator has its own */
        e->secrets_then(e);
    else if (theirs != NULL)
        kube_secret_want(e, mem_strdup(theirs), NULL, certificate_there);
    else
        kube_secret_want(e, mem_printf("%s-ca", e->database), authority_make, authority_there);
}

/* Somebody else's server: his Secret says user, password, and what its certificate is checked by. */
static void lent_there(struct kube_ensure *e, yyjson_val *secret)
{
    const struct kube_adoption *a = &e->adoption;
    if (a->user != NULL)
        e->user = mem_strdup(a->user);
    else if (!value_of(e, secret, a->user_key, &e->user))
        return;
    if (value_of(e, secret, a->password_key, &e->password) &&
        (!kube_adoption_verifies(a) || value_of(e, secret, "ca.crt", &e->ca.certificate)))
        owner_want(e);
}

void kube_secrets_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    e->secrets_then = then;
    if (e->lent) {
        kube_secret_want(e, mem_strdup(e->adoption.secret), NULL, lent_there);
        return;
    }
    kube_secret_want(e, mem_printf("%s-credentials", e->set), credentials_make, credentials_there);
}

void kube_secrets_rotate(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    e->secrets_then = then;
    kube_secret_want(e, mem_printf("%s-credentials", e->set), NULL, rotation_there);
}
