/*
 * The Secrets of a shard: asked for one after the other, made when missing, never written again.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/kubernetes_ensure.h"

#define PASSWORD_LENGTH 32 /* of 32 signs: 160 bits */
#define DAY_S           86400ull
#define AUTHORITY_S     (3650 * DAY_S)
#define LEAF_S          (90 * DAY_S)

static void owner_want(struct kube_ensure *e);
static void authority_want(struct kube_ensure *e);
static void certificate_want(struct kube_ensure *e);

/* ---- one Secret ---- */

static void secret_ask(struct kube_ensure *e);

static void secret_take(struct kube_ensure *e, const struct k8s_answer *a)
{
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    e->secret_then(e, yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
}

static void on_made(struct kube_op *op, const struct k8s_answer *a)
{
    struct kube_ensure *e = (struct kube_ensure *)op;
    if (a->err == NULL)
        secret_take(e, a);
    else if (a->err->code == ERRC_EXISTS)
        secret_ask(e); /* by another shard or process meanwhile: theirs is the one */
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
static void secret_want(struct kube_ensure *e, char *name, char *(*make)(struct kube_ensure *, struct err *),
                        void (*then)(struct kube_ensure *, yyjson_val *))
{
    free(e->secret_name);
    e->secret_name = name;
    e->secret_make = make;
    e->secret_then = then;
    secret_ask(e);
}

static char *secret_text(const struct kube_ensure *e, bool of_shard, bool owned, const char *type,
                         const struct kube_secret_item *items, size_t count)
{
    const struct kube_secret secret = {
        .name = e->secret_name,
        .name_space = e->op.k->options.name_space,
        .type = type,
        .owner = kube_ensure_owner(e, of_shard),
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

/* ---- passwords ---- */

static char *password_make(struct kube_ensure *e, bool of_shard, const char *user)
{
    char password[PASSWORD_LENGTH + 1];
    env_random_text(e->op.k->loop->env, password, PASSWORD_LENGTH);
    const struct kube_secret_item items[] = {{"username", user}, {"password", password}};
    char *text = secret_text(e, of_shard, kube_spec_deletes(&e->spec), "Opaque", items, 2);
    explicit_bzero(password, sizeof password);
    return text;
}

static char *credentials_make(struct kube_ensure *e, struct err *err)
{
    (void)err;
    return password_make(e, true, KUBE_USER);
}

static char *owner_make(struct kube_ensure *e, struct err *err)
{
    (void)err;
    return password_make(e, false, e->owner);
}

static void credentials_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (value_of(e, secret, "password", &e->password))
        owner_want(e);
}

static void owner_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (value_of(e, secret, "password", &e->owner_password))
        authority_want(e);
}

static void owner_want(struct kube_ensure *e)
{
    const char *theirs = kube_spec_text(&e->spec, "credentials", "secret");
    if (e->owner_password != NULL)
        authority_want(e);
    else if (theirs != NULL)
        secret_want(e, mem_strdup(theirs), NULL, owner_there);
    else
        secret_want(e, mem_printf("%s-owner", e->database), owner_make, owner_there);
}

/* ---- certificates ---- */

static char *authority_make(struct kube_ensure *e, struct err *err)
{
    struct kube_pair pair = {0};
    char *text = NULL, *name = mem_printf("%s.%s", e->database, e->op.k->options.name_space);
    if (kube_authority_make(e->op.k->loop->env, name, AUTHORITY_S, &pair, err) == 0) {
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

static char *certificate_make(struct kube_ensure *e, struct err *err)
{
    char *names[NAMES_MAX + 1], *text = NULL;
    struct kube_pair pair = {0};
    names_make(e, names);
    const struct kube_certificate_request request = {e->set, (const char *const *)names, LEAF_S};
    if (kube_certificate_issue(e->op.k->loop->env, &e->ca, &request, &pair, err) == 0) {
        const struct kube_secret_item items[] = {
            {"tls.crt", pair.certificate}, {"tls.key", pair.key}, {"ca.crt", e->ca.certificate}};
        text = secret_text(e, true, true, "kubernetes.io/tls", items, 3);
    } else {
        (void)err_wrap(err, "Secret %s-ca", e->database);
    }
    kube_pair_clear(&pair);
    for (char **name = names; *name != NULL; name++)
        free(*name);
    return text;
}

static void file_run(struct work *work)
{
    struct kube_ensure *e = work->data;
    char *path = kube_ca_file(e->op.k, e->database);
    (void)kube_ca_write(path, e->ca.certificate, &e->work_err);
    free(path);
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
        e->secrets_then(e);
}

static void certificate_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (e->ca.certificate != NULL || value_of(e, secret, "ca.crt", &e->ca.certificate))
        (void)work_start(e->op.k->loop, &e->work, file_run, file_done, e);
}

static void certificate_want(struct kube_ensure *e)
{
    secret_want(e, mem_printf("%s-tls", e->set), certificate_make, certificate_there);
}

static void authority_there(struct kube_ensure *e, yyjson_val *secret)
{
    if (value_of(e, secret, "ca.crt", &e->ca.certificate) && value_of(e, secret, "ca.key", &e->ca.key))
        certificate_want(e);
}

static void authority_want(struct kube_ensure *e)
{
    const char *theirs = kube_spec_text(&e->spec, "tls", "secret");
    if (strcmp(kube_spec_tls(&e->spec), "off") == 0)
        e->secrets_then(e);
    else if (theirs != NULL)
        secret_want(e, mem_strdup(theirs), NULL, certificate_there);
    else
        secret_want(e, mem_printf("%s-ca", e->database), authority_make, authority_there);
}

void kube_secrets_start(struct kube_ensure *e, void (*then)(struct kube_ensure *e))
{
    e->secrets_then = then;
    secret_want(e, mem_printf("%s-credentials", e->set), credentials_make, credentials_there);
}
