/*
 * runtime_list(): the StatefulSets with our labels, page by page, metadata only; then for each its password,
 * by name, and once for each database its CA.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/sm.h"
#include "loop/work.h"
#include "runtime/kube_meta.h"
#include "runtime/kubernetes_impl.h"

#define PAGE 200

/*
 *   BEGIN --> SETS --> PASSWORDS <--> AUTHORITY <--> FILE
 *               |          |
 *               +----------+--> OVER
 *
 * SETS waits for a page of StatefulSets. PASSWORDS waits for the credentials of one. AUTHORITY waits for the
 * CA of its database, FILE for the worker that writes it.
 */
enum { BEGIN, SETS, PASSWORDS, AUTHORITY, FILES, OVER, STATES };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [BEGIN] = {"begin", N(SETS) | N(OVER), false},
    [SETS] = {"sets", N(SETS) | N(PASSWORDS) | N(OVER), false},
    [PASSWORDS] = {"passwords", N(PASSWORDS) | N(AUTHORITY) | N(OVER), false},
    [AUTHORITY] = {"authority", N(FILES) | N(PASSWORDS) | N(OVER), false},
    [FILES] = {"file", N(PASSWORDS) | N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

struct texts {
    char *name, *database, *shard;
};

struct list_op {
    struct kube_op op; /* first */
    struct sm sm;
    struct work work;
    struct runtime_instance *instances;
    struct texts *texts; /* what the instances point to */
    int count, capacity, at;
    char *ca_of; /* database whose CA was written last: instances come sorted by name, so by database */
    char *ca;
    struct err work_err;
    runtime_list_cb cb;
    void *data;
};

static void password_next(struct list_op *l);

static void over(struct list_op *l, const struct err *err)
{
    sm_move(&l->sm, OVER);
    l->cb(err, err == NULL ? l->instances : NULL, err == NULL ? l->count : 0, l->data);
    kube_op_end(&l->op);
    for (int i = 0; i < l->count; i++) {
        free(l->texts[i].name);
        free(l->texts[i].database);
        free(l->texts[i].shard);
        instance_access_clear(&l->instances[i].access);
    }
    free(l->instances);
    free(l->texts);
    free(l->ca_of);
    free(l->ca);
    free(l);
}

/* ---- the CA of a database, once ---- */

static void file_run(struct work *work)
{
    struct list_op *l = work->data;
    (void)kube_ca_write(l->instances[l->at].access.sslrootcert, l->ca, &l->work_err);
}

static void file_done(struct work *work, int code)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct list_op *l = work->data;
    (void)code;
    if (l->op.canceled) {
        over(l, &canceled);
    } else if (l->work_err.code != ERRC_NONE) {
        over(l, &l->work_err);
    } else {
        l->at++;
        sm_move(&l->sm, PASSWORDS);
        password_next(l);
    }
}

static void on_authority(struct kube_op *op, const struct k8s_answer *a)
{
    struct list_op *l = (struct list_op *)op;
    if (a->err != NULL && !kube_answer_missing(a)) {
        over(l, a->err);
        return;
    }
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    free(l->ca);
    l->ca = kube_secret_value(yyjson_doc_get_root(doc), "ca.crt");
    yyjson_doc_free(doc);
    if (l->ca == NULL) { /* the file of before has to do; the next ensure says what is wrong */
        l->at++;
        sm_move(&l->sm, PASSWORDS);
        password_next(l);
        return;
    }
    sm_move(&l->sm, FILES);
    (void)work_start(l->op.k->loop, &l->work, file_run, file_done, l);
}

static void enter_authority(struct list_op *l, const struct kube_spec *spec)
{
    const struct runtime_instance *i = &l->instances[l->at];
    const char *theirs = spec->doc != NULL ? kube_spec_text(spec, "tls", "secret") : NULL;
    char *set = kube_set_name(i->name);
    char *name = theirs != NULL ? mem_strdup(theirs) : mem_printf("%s%s", set, l->op.k->flavour->authority);
    struct err err = {0};
    free(l->ca_of);
    l->ca_of = mem_strdup(i->database);
    sm_move(&l->sm, AUTHORITY);
    if (kube_op_get(&l->op, KUBE_SECRETS(l->op.k, name), false, on_authority, &err) != 0)
        over(l, &err);
    free(name);
    free(set);
}

/* ---- passwords ---- */

static void password_take(struct list_op *l, const struct k8s_answer *a)
{
    struct runtime_instance *i = &l->instances[l->at];
    struct kube_spec spec = {0};
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    char *password = kube_secret_value(yyjson_doc_get_root(doc), "password"), *set = kube_set_name(i->name);
    (void)kube_spec_read(l->op.k, i->database, &spec,
                         NULL); /* none: what was made last had TLS, most likely */
    bool tls = l->op.k->options.cnpg || spec.doc == NULL || strcmp(kube_spec_tls(&spec), "off") != 0;
    kube_access(l->op.k, i->database, set, password, tls, &i->access);
    if (tls && (l->ca_of == NULL || strcmp(l->ca_of, i->database) != 0)) {
        enter_authority(l, &spec);
    } else {
        l->at++;
        sm_move(&l->sm, PASSWORDS);
        password_next(l);
    }
    kube_spec_clear(&spec);
    mem_wipe_free(password);
    free(set);
    yyjson_doc_free(doc);
}

static void on_password(struct kube_op *op, const struct k8s_answer *a)
{
    struct list_op *l = (struct list_op *)op;
    if (a->err != NULL && !kube_answer_missing(a))
        over(l, a->err);
    else
        password_take(l, a);
}

static void password_next(struct list_op *l)
{
    struct err err = {0};
    if (l->at == l->count) {
        over(l, NULL);
        return;
    }
    char *set = kube_set_name(l->instances[l->at].name), *name = mem_printf("%s-credentials", set);
    if (kube_op_get(&l->op, KUBE_SECRETS(l->op.k, name), false, on_password, &err) != 0)
        over(l, &err);
    free(name);
    free(set);
}

/* ---- StatefulSets ---- */

static void set_add(struct list_op *l, yyjson_val *set)
{
    const char *database = kube_label(set, "shardherd.io/database"),
               *shard = kube_label(set, "shardherd.io/shard");
    const char *name = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(set, "metadata"), "name"));
    const struct kube_owner owner = {database, shard, NULL};
    char *expected = mem_printf("%s-%s", database, shard);
    if (name != NULL && strcmp(name, expected) == 0 && kube_is_ours(set, &owner)) {
        if (l->count == l->capacity) {
            l->capacity = l->capacity * 2 + 16;
            l->instances = mem_resize(l->instances, (size_t)l->capacity, sizeof *l->instances);
            l->texts = mem_resize(l->texts, (size_t)l->capacity, sizeof *l->texts);
        }
        struct texts *t = &l->texts[l->count];
        *t = (struct texts){mem_printf("%s-0", name), mem_strdup(database), mem_strdup(shard)};
        l->instances[l->count++] =
            (struct runtime_instance){.name = t->name, .database = t->database, .shard = t->shard};
    }
    free(expected);
}

static void sets_ask(struct list_op *l, const char *more);

static void on_sets(struct kube_op *op, const struct k8s_answer *a)
{
    struct list_op *l = (struct list_op *)op;
    yyjson_val *set;
    size_t at, n;
    if (a->err != NULL) {
        over(l, a->err);
        return;
    }
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    yyjson_arr_foreach(yyjson_obj_get(root, "items"), at, n, set) set_add(l, set);
    const char *more = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(root, "metadata"), "continue"));
    if (more != NULL && more[0] != '\0') {
        sets_ask(l, more);
    } else {
        sm_move(&l->sm, PASSWORDS);
        password_next(l);
    }
    yyjson_doc_free(doc);
}

static void sets_ask(struct list_op *l, const char *more)
{
    struct err err = {0};
    char *path = KUBE_SETS(l->op.k, NULL);
    char *query = mem_printf("labelSelector=app.kubernetes.io%%2Fmanaged-by%%3Dshardherd%%2C"
                             "shardherd.io%%2Fdatabase%%2Cshardherd.io%%2Fshard&limit=%d%s%s",
                             PAGE, more != NULL ? "&continue=" : "", more != NULL ? more : "");
    const struct kube_request r = {.method = "GET",
                                   .path = path,
                                   .query = query,
                                   .accept =
                                       "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"};
    sm_move(&l->sm, SETS);
    if (kube_op_call(&l->op, &r, on_sets, &err) != 0)
        over(l, &err);
    free(path);
    free(query);
}

static void list_begin(struct kube_op *op)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct list_op *l = (struct list_op *)op;
    if (op->canceled)
        over(l, &canceled);
    else
        sets_ask(l, NULL);
}

int kube_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    struct list_op *l = mem_zalloc(sizeof *l);
    (void)err;
    l->cb = cb;
    l->data = data;
    sm_init(&l->sm, states, STATES, BEGIN, NULL, NULL);
    kube_op_add(k, &l->op, "", list_begin, NULL);
    return 0;
}
