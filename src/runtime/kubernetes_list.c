/*
 * runtime_list(): the StatefulSets with our labels, page by page, metadata only; then for each its password
 * and its CA, by name, and once for each database our certificate. What has not changed since the last one
 * (kube_known.h) is not asked for again.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/sm.h"
#include "loop/work.h"
#include "runtime/kube_certificate.h"
#include "runtime/kube_known.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_objects.h"
#include "runtime/kube_roles.h"
#include "runtime/kubernetes_impl.h"

#define PAGE 200

/*
 *   BEGIN --> SETS --> PASSWORDS --> AUTHORITY --> CLIENT --> FILES --> PASSWORDS
 *   each but BEGIN: --> OVER
 *
 * SETS waits for a page of StatefulSets. PASSWORDS waits for the credentials of one. AUTHORITY waits for the
 * its CA, CLIENT for our certificate (skipped when there can be none or it was read already), FILES for the
 * worker that writes them.
 */
enum { BEGIN, SETS, PASSWORDS, AUTHORITY, CLIENT, FILES, OVER, STATES };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [BEGIN] = {"begin", N(SETS) | N(OVER), false}, /* OVER: nothing changed */
    [SETS] = {"sets", N(SETS) | N(PASSWORDS) | N(OVER), false},
    [PASSWORDS] = {"passwords", N(PASSWORDS) | N(AUTHORITY) | N(FILES) | N(OVER), false},
    [AUTHORITY] = {"authority", N(CLIENT) | N(FILES) | N(PASSWORDS) | N(OVER), false},
    [CLIENT] = {"client", N(FILES) | N(OVER), false},
    [FILES] = {"files", N(PASSWORDS) | N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

struct texts {
    char *name, *database, *shard;
    char *version;              /* of the StatefulSet, and whether its server has no TLS */
    bool theirs;                /* a Secret of somebody else's was read */
    bool member, plain;         /* one of several instances; of several without TLS */
    uint64_t read_ns, spec_sum; /* when, and of the database's object as it was then */
    struct kube_adoption lent;  /* secret NULL: it is our own */
};

struct list_op {
    struct kube_op op; /* first */
    struct sm sm;
    struct work work;
    struct runtime_instance *instances;
    struct texts *texts; /* what the instances point to */
    int count, capacity, at;
    char *ca;        /* of the instance that is looked at */
    char *client_of; /* database whose client's certificate was read last: instances come sorted by name */
    char *client_secret;     /* name of the Secret with our certificate for it */
    bool client_theirs;      /* ... which the specification names */
    bool with_client;        /* the instance takes it */
    struct kube_pair client; /* none = the database has none */
    struct err work_err;
    runtime_list_cb cb;
    void *data;
};

static void password_next(struct list_op *l);

/* What was not read as a whole is read again the next time. */
static void remember(struct list_op *l)
{
    struct kube_known_entry *entries = mem_array((size_t)l->count + 1, sizeof *entries);
    for (int i = 0; i < l->count; i++) {
        const struct runtime_instance *instance = &l->instances[i];
        bool whole = instance->access.password != NULL &&
                     (!l->texts[i].member || instance->access.agent_token != NULL);
        entries[i] = (struct kube_known_entry){
            .name = mem_strdup(instance->name),
            .database = mem_strdup(instance->database),
            .shard = mem_strdup(instance->shard),
            .version = mem_strdup(whole ? l->texts[i].version : ""),
            .spec_sum = l->texts[i].spec_sum,
            .theirs = l->texts[i].theirs,
            .read_ns = l->texts[i].read_ns,
        };
        instance_access_copy(&entries[i].access, &instance->access);
    }
    kube_known_replace(l->op.k, entries, l->count);
}

static void over(struct list_op *l, const struct err *err)
{
    if (err == NULL && sm_now(&l->sm) != BEGIN)
        remember(l);
    else if (err != NULL)
        l->op.k->changed = true;
    sm_move(&l->sm, OVER);
    l->cb(err, err == NULL ? l->instances : NULL, err == NULL ? l->count : 0, l->data);
    kube_op_end(&l->op);
    for (int i = 0; i < l->count; i++) {
        free(l->texts[i].name);
        free(l->texts[i].database);
        free(l->texts[i].shard);
        free(l->texts[i].version);
        kube_adoption_clear(&l->texts[i].lent);
        instance_access_clear(&l->instances[i].access);
    }
    free(l->instances);
    free(l->texts);
    free(l->client_of);
    free(l->ca);
    free(l->client_secret);
    kube_pair_clear(&l->client);
    free(l);
}

static void instance_there(struct list_op *l)
{
    struct runtime_instance *i = &l->instances[l->at++];
    if (i->access.sslrootcert != NULL && l->with_client && l->client.certificate != NULL)
        kube_access_client(l->op.k, i->database, &i->access);
    sm_move(&l->sm, PASSWORDS);
    password_next(l);
}

/* ---- the CA of a database and our certificate, once ---- */

static void file_run(struct work *work)
{
    struct list_op *l = work->data;
    const struct runtime_instance *i = &l->instances[l->at];
    char *set = kube_set_name(i->name);
    (void)kube_files_write(l->op.k, i->database, set, l->ca, l->with_client ? &l->client : NULL,
                           &l->work_err); /* an ensure may be writing its own */
    free(set);
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
        instance_there(l);
    }
}

static void enter_files(struct list_op *l)
{
    sm_move(&l->sm, FILES);
    (void)work_start(l->op.k->loop, &l->work, file_run, file_done, l);
}

static void on_client(struct kube_op *op, const struct k8s_answer *a)
{
    struct list_op *l = (struct list_op *)op;
    const struct kube_owner owner = {l->client_of, NULL, NULL};
    if (a->err != NULL && !kube_answer_missing(a)) {
        over(l, a->err);
        return;
    }
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (doc != NULL && (l->client_theirs || kube_is_ours(root, &owner))) {
        l->client =
            (struct kube_pair){kube_secret_value(root, "tls.crt"), kube_secret_value(root, "tls.key")};
        if (l->client.certificate == NULL || l->client.key == NULL)
            kube_pair_clear(&l->client);
    }
    yyjson_doc_free(doc);
    enter_files(l);
}

static void on_authority(struct kube_op *op, const struct k8s_answer *a)
{
    struct list_op *l = (struct list_op *)op;
    if (a->err != NULL && !kube_answer_missing(a)) {
        over(l, a->err);
        return;
    }
    const struct runtime_instance *i = &l->instances[l->at];
    const struct kube_owner owner = {i->database, i->shard, NULL};
    struct err err = {0};
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    bool by_us = doc != NULL && kube_is_ours(yyjson_doc_get_root(doc), &owner);
    l->texts[l->at].theirs = !by_us || l->client_theirs;
    free(l->ca);
    l->ca = kube_secret_value(yyjson_doc_get_root(doc), "ca.crt");
    yyjson_doc_free(doc);
    l->with_client = !l->texts[l->at].plain && (by_us || l->client_theirs);
    if (l->ca == NULL) { /* the file of before has to do; the next ensure says what is wrong */
        instance_there(l);
    } else if (!l->with_client || (l->client_of != NULL && strcmp(l->client_of, i->database) == 0)) {
        enter_files(l);
    } else {
        free(l->client_of);
        l->client_of = mem_strdup(i->database);
        kube_pair_clear(&l->client);
        sm_move(&l->sm, CLIENT);
        if (kube_op_get(&l->op, KUBE_SECRETS(l->op.k, l->client_secret), false, on_client, &err) != 0)
            over(l, &err);
    }
}

static void enter_authority(struct list_op *l, const struct kube_spec *spec)
{
    const struct runtime_instance *i = &l->instances[l->at];
    bool plain = l->texts[l->at].plain; /* what the agents show is our own */
    const char *theirs = spec->doc != NULL && !plain ? kube_spec_text(spec, "tls", "secret") : NULL;
    char *set = kube_set_name(i->name);
    char *name = theirs != NULL ? mem_strdup(theirs) : mem_printf("%s%s", set, l->op.k->flavour->authority);
    struct err err = {0};
    const char *client = spec->doc != NULL ? kube_spec_text(spec, "tls", "clientSecret") : NULL;
    free(l->client_secret);
    l->client_theirs = client != NULL && !l->op.k->options.cnpg;
    l->client_secret = l->client_theirs ? mem_strdup(client) : mem_printf("%s-manager", i->database);
    sm_move(&l->sm, AUTHORITY);
    if (kube_op_get(&l->op, KUBE_SECRETS(l->op.k, name), false, on_authority, &err) != 0)
        over(l, &err);
    free(name);
    free(set);
}

/* ---- passwords ---- */

/* His Secret has all of it. */
static void lent_take(struct list_op *l, yyjson_val *secret)
{
    struct runtime_instance *i = &l->instances[l->at];
    const struct kube_adoption *lent = &l->texts[l->at].lent;
    char *password = kube_secret_value(secret, lent->password_key), *set = kube_set_name(i->name);
    char *user = lent->user != NULL ? mem_strdup(lent->user) : kube_secret_value(secret, lent->user_key);
    kube_access_lent(l->op.k, i->database, set, lent, user != NULL ? user : "", password, &i->access);
    free(l->ca);
    l->ca = kube_adoption_verifies(lent) ? kube_secret_value(secret, "ca.crt") : NULL;
    l->with_client = false;
    free(user);
    mem_wipe_free(password);
    free(set);
    if (l->ca != NULL)
        enter_files(l);
    else
        instance_there(l);
}

static void password_take(struct list_op *l, const struct k8s_answer *a)
{
    struct runtime_instance *i = &l->instances[l->at];
    struct kube_spec spec = {0};
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    if (l->texts[l->at].lent.secret != NULL) {
        lent_take(l, yyjson_doc_get_root(doc));
        yyjson_doc_free(doc);
        return;
    }
    char *password = kube_secret_value(yyjson_doc_get_root(doc), "password"), *set = kube_set_name(i->name);
    (void)kube_spec_read(l->op.k, i->database, &spec,
                         NULL); /* none: what was made last had TLS, most likely */
    /* of members it counts what their pods were made with */
    bool tls = l->texts[l->at].member
                   ? !l->texts[l->at].plain
                   : l->op.k->options.cnpg || spec.doc == NULL || strcmp(kube_spec_tls(&spec), "off") != 0;
    kube_access(l->op.k, i->database, set, password, tls, &i->access);
    if (l->texts[l->at].member) {
        char *token = kube_secret_value(yyjson_doc_get_root(doc), KUBE_TOKEN_KEY);
        kube_access_member(l->op.k, i->name, token, &i->access);
        mem_wipe_free(token);
    }
    if (kube_spec_unverified(&spec))
        kube_access_unverified(&i->access);
    if (tls || l->texts[l->at].member) {
        enter_authority(l, &spec);
    } else {
        instance_there(l);
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

/* Takes what is known of those that follow. */
static void skip_known(struct list_op *l)
{
    const struct kube_known_entry *known;
    for (; l->at < l->count; l->at++) {
        struct texts *t = &l->texts[l->at];
        if ((known = kube_known_find(l->op.k, t->name, t->version)) == NULL)
            return;
        instance_access_copy(&l->instances[l->at].access, &known->access);
        t->theirs = known->theirs;
        t->read_ns = known->read_ns;
    }
}

static void password_next(struct list_op *l)
{
    struct err err = {0};
    skip_known(l);
    if (l->at == l->count) {
        over(l, NULL);
        return;
    }
    const char *lent = l->texts[l->at].lent.secret;
    char *set = kube_set_name(l->instances[l->at].name);
    char *name = lent != NULL ? mem_strdup(lent) : mem_printf("%s-credentials", set);
    if (kube_op_get(&l->op, KUBE_SECRETS(l->op.k, name), false, on_password, &err) != 0)
        over(l, &err);
    free(name);
    free(set);
}

/* ---- StatefulSets ---- */

static void room_make(struct list_op *l)
{
    if (l->count < l->capacity)
        return;
    l->capacity = l->capacity * 2 + 16;
    l->instances = mem_resize(l->instances, (size_t)l->capacity, sizeof *l->instances);
    l->texts = mem_resize(l->texts, (size_t)l->capacity, sizeof *l->texts);
}

/* One that waits to be replaced by what the StatefulSet says is as it was made. */
static bool is_plain(const struct list_op *l, yyjson_val *set, const char *name)
{
    enum kube_tls tls = kube_roles_tls(l->op.k, name);
    return tls != KUBE_TLS_UNKNOWN ? tls == KUBE_TLS_OFF
                                   : kube_annotation(set, KUBE_PLAIN_ANNOTATION)[0] != '\0';
}

static void instance_add(struct list_op *l, yyjson_val *set, int number, bool member, bool lent)
{
    const char *database = kube_label(set, "shardherd.io/database"),
               *shard = kube_label(set, "shardherd.io/shard"),
               *version = yyjson_get_str(yyjson_ptr_get(set, "/metadata/resourceVersion"));
    char *name = mem_printf("%s-%s-%d", database, shard, number);
    bool plain = member && is_plain(l, set, name);
    room_make(l);
    struct texts *t = &l->texts[l->count];
    *t = (struct texts){.name = name,
                        .database = mem_strdup(database),
                        .shard = mem_strdup(shard),
                        .version = mem_printf("%s%s", version != NULL ? version : "", plain ? " plain" : ""),
                        .theirs = lent,
                        .member = member,
                        .plain = plain,
                        .read_ns = loop_now(l->op.k->loop),
                        .spec_sum = kube_known_sum(l->op.k, database)};
    if (lent)
        kube_adoption_read(set, &t->lent);
    l->instances[l->count++] = (struct runtime_instance){
        .name = t->name, .database = t->database, .shard = t->shard, .member = member, .agent_pid = member};
}

static void set_add(struct list_op *l, yyjson_val *set)
{
    const char *database = kube_label(set, "shardherd.io/database"),
               *shard = kube_label(set, "shardherd.io/shard");
    const char *name = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(set, "metadata"), "name"));
    const struct kube_owner owner = {database, shard, NULL};
    char *expected = mem_printf("%s-%s", database, shard);
    bool lent = kube_adopted(set, &owner);
    if (name != NULL && (lent || (strcmp(name, expected) == 0 && kube_is_ours(set, &owner)))) {
        int members = lent || l->op.k->options.cnpg ? 0 : kube_members_of(set);
        for (int i = 0; i == 0 || i < members; i++)
            instance_add(l, set, i, members > 0, lent);
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
    char *query = mem_printf("labelSelector=shardherd.io%%2Fdatabase%%2Cshardherd.io%%2Fshard&limit=%d%s%s",
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

static void answer_known(struct list_op *l)
{
    const struct kubernetes *k = l->op.k;
    l->count = l->capacity = k->known_count;
    l->instances = mem_array((size_t)l->count + 1, sizeof *l->instances);
    l->texts = mem_array((size_t)l->count + 1, sizeof *l->texts);
    for (int i = 0; i < l->count; i++) {
        const struct kube_known_entry *e = &k->known[i];
        struct texts *t = &l->texts[i];
        *t = (struct texts){
            .name = mem_strdup(e->name), .database = mem_strdup(e->database), .shard = mem_strdup(e->shard)};
        bool member = e->access.agent_host != NULL;
        l->instances[i] = (struct runtime_instance){.name = t->name,
                                                    .database = t->database,
                                                    .shard = t->shard,
                                                    .member = member,
                                                    .agent_pid = member};
        instance_access_copy(&l->instances[i].access, &e->access);
    }
    over(l, NULL);
}

static void list_begin(struct kube_op *op)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct list_op *l = (struct list_op *)op;
    if (op->canceled) {
        over(l, &canceled);
    } else if (kube_known_holds(op->k)) {
        answer_known(l);
    } else {
        kube_known_start(op->k);
        kube_known_begin(op->k);
        sets_ask(l, NULL);
    }
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
