/*
 * The store in a cluster: one ConfigMap per key, its resourceVersion the revision, a Lease for the leader.
 *
 * Requests go out one at a time, in order. What changes comes from one watch on all objects of the store; a
 * change of our own is shown after the callback of the write that made it.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/text.h"
#include "k8s/access.h"
#include "k8s/client.h"
#include "k8s/lease.h"
#include "k8s/resource_version.h"
#include "k8s/watch.h"
#include "store/lease_note.h"
#include "store/store_impl.h"
#include "store/watchers.h"

#define PAGE_LIMIT    (128u * 1024u * 1024u) /* of one page of a list: 100 values of 1 MiB, escaped */
#define OPEN_LIMIT_NS (30 * ENV_NS_PER_S)
#define TERM_KEY      "leader/term"

enum job_kind { JOB_GET, JOB_LIST, JOB_WRITE };

struct job {
    struct list node;
    struct kubernetes_store *store;
    enum job_kind kind;
    char *key; /* or prefix */
    char *value;
    int64_t expected;
    char *page; /* of a list: continue token */
    struct store_entry *entries;
    int count;
    store_get_cb get;
    store_list_cb list;
    store_write_cb write;
    void *data;
};

struct leadership {
    struct k8s_lease *lease;
    char *identity;
    int64_t term;
    store_lease_cb cb; /* NULL once it was called */
    void (*lost)(void *data);
    void *data;
};

struct kubernetes_store {
    struct store base;
    struct loop *loop;
    struct k8s_client *client;
    struct k8s_watch *watch;
    struct list jobs;
    struct watchers watchers;
    struct job *running;
    struct k8s_call *call;
    struct loop_task task; /* starts jobs, shows events */
    struct leadership leader;
    struct lease_note *note;
    char *id;         /* names the objects */
    char *collection; /* path */
    char *name;
    int64_t highest; /* revision of any of our writes */
    store_open_cb opened;
    void *opened_data;
    struct loop_timer open_limit;
    bool closing, watch_closing, lease_closing, client_closing;
    void (*closed)(void *data);
    void *closed_data;
};

static struct kubernetes_store *of(struct store *store)
{
    return (struct kubernetes_store *)(void *)store;
}

/* ---- objects ---- */

/* Object names know lower-case letters, digits and '-' only, keys more: the key is in an annotation. */
static char *object_name(const struct kubernetes_store *s, const char *key)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[41];
    (void)EVP_Digest(key, strlen(key), digest, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < 20; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return mem_printf("%s-%s", s->id, hex);
}

static bool revision_of(const char *version, int64_t *ret)
{
    return rv_comparable(version) && text_to_int64(version, ret);
}

static char *object_body(const struct kubernetes_store *s, const struct job *j)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *metadata = yyjson_mut_obj(doc), *data = yyjson_mut_obj(doc);
    yyjson_mut_val *labels = yyjson_mut_obj(doc), *annotations = yyjson_mut_obj(doc);
    char version[24];
    char *name = object_name(s, j->key);
    yyjson_mut_doc_set_root(doc, root);
    (void)yyjson_mut_obj_add_str(doc, root, "apiVersion", "v1");
    (void)yyjson_mut_obj_add_str(doc, root, "kind", "ConfigMap");
    (void)yyjson_mut_obj_add_val(doc, root, "metadata", metadata);
    (void)yyjson_mut_obj_add_str(doc, metadata, "name", name);
    (void)snprintf(version, sizeof version, "%lld", (long long)j->expected);
    if (j->expected > 0)
        (void)yyjson_mut_obj_add_str(doc, metadata, "resourceVersion", version);
    (void)yyjson_mut_obj_add_val(doc, metadata, "labels", labels);
    (void)yyjson_mut_obj_add_str(doc, labels, "app.kubernetes.io/managed-by", "shardherd");
    (void)yyjson_mut_obj_add_str(doc, labels, "shardherd.io/store", s->id);
    (void)yyjson_mut_obj_add_val(doc, metadata, "annotations", annotations);
    (void)yyjson_mut_obj_add_str(doc, annotations, "shardherd.io/key", j->key);
    (void)yyjson_mut_obj_add_val(doc, root, "data", data);
    (void)yyjson_mut_obj_add_str(doc, data, "value", j->value);
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    free(name);
    return text;
}

static const char *text_of(yyjson_val *object, const char *name)
{
    return yyjson_get_str(yyjson_obj_get(object, name));
}

/* The texts live as long as the JSON. */
static bool object_entry(yyjson_val *object, struct store_entry *ret)
{
    yyjson_val *metadata = yyjson_obj_get(object, "metadata");
    const char *version = text_of(metadata, "resourceVersion");
    ret->key = text_of(yyjson_obj_get(metadata, "annotations"), "shardherd.io/key");
    ret->value = text_of(yyjson_obj_get(object, "data"), "value");
    return ret->key != NULL && ret->value != NULL && version != NULL && revision_of(version, &ret->revision);
}

/* ---- the end of a job ---- */

static void job_free(struct job *j)
{
    for (int i = 0; i < j->count; i++) {
        free((char *)(uintptr_t)j->entries[i].key);
        free((char *)(uintptr_t)j->entries[i].value);
    }
    free(j->entries);
    free(j->key);
    free(j->value);
    free(j->page);
    free(j);
}

static void job_end(struct job *j, const struct err *err, const struct store_entry *entry)
{
    struct kubernetes_store *s = j->store;
    if (s->running == j)
        s->running = NULL;
    switch (j->kind) {
    case JOB_GET:
        j->get(err, entry, j->data);
        break;
    case JOB_LIST:
        j->list(err, err == NULL ? j->entries : NULL, err == NULL ? j->count : 0, j->data);
        break;
    default:
        j->write(err, err == NULL && entry != NULL ? entry->revision : 0, j->data);
    }
    job_free(j);
    loop_defer(s->loop, &s->task);
}

static void job_fail(struct job *j, enum err_code code, const char *what)
{
    struct err err = {0};
    (void)err_set(&err, code, "%s: key %s: %s", j->store->name, j->key, what);
    job_end(j, &err, NULL);
}

static void get_answered(struct job *j, const struct k8s_answer *a)
{
    struct store_entry entry;
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    if (doc != NULL && object_entry(yyjson_doc_get_root(doc), &entry) && strcmp(entry.key, j->key) == 0)
        job_end(j, NULL, &entry);
    else
        job_fail(j, ERRC_CORRUPT, "its object is not what shardherd wrote");
    yyjson_doc_free(doc);
}

static void write_answered(struct job *j, const struct k8s_answer *a)
{
    struct store_entry entry = {.key = j->key};
    if (j->value != NULL) {
        yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
        const char *version =
            text_of(yyjson_obj_get(yyjson_doc_get_root(doc), "metadata"), "resourceVersion");
        bool known = version != NULL && revision_of(version, &entry.revision);
        yyjson_doc_free(doc);
        if (!known) {
            job_fail(j, ERRC_PROTOCOL, "the API server answered without a resource version that is a number");
            return;
        }
        if (entry.revision > j->store->highest)
            j->store->highest = entry.revision;
    }
    job_end(j, NULL, &entry);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct store_entry *)a)->key, ((const struct store_entry *)b)->key);
}

static void list_take(struct job *j, yyjson_val *items)
{
    yyjson_val *item;
    size_t at, n;
    yyjson_arr_foreach(items, at, n, item)
    {
        struct store_entry entry;
        if (!object_entry(item, &entry) || !text_starts_with(entry.key, j->key))
            continue;
        j->entries = mem_resize(j->entries, (size_t)j->count + 1, sizeof *j->entries);
        entry.key = mem_strdup(entry.key);
        entry.value = mem_strdup(entry.value);
        j->entries[j->count++] = entry;
    }
}

static void job_start(struct job *j);

static void list_answered(struct job *j, const struct k8s_answer *a)
{
    yyjson_doc *doc = yyjson_read(a->body, a->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const char *more = text_of(yyjson_obj_get(root, "metadata"), "continue");
    list_take(j, yyjson_obj_get(root, "items"));
    free(j->page);
    j->page = more != NULL && more[0] != '\0' ? mem_strdup(more) : NULL;
    yyjson_doc_free(doc);
    if (doc == NULL) {
        job_fail(j, ERRC_PROTOCOL, "the API server's list is no JSON");
    } else if (j->page != NULL) {
        job_start(j);
    } else {
        if (j->count > 0)
            qsort(j->entries, (size_t)j->count, sizeof *j->entries, by_key);
        job_end(j, NULL, NULL);
    }
}

/* What the API server's refusal means for a store. */
static void job_refused(struct job *j, const struct k8s_answer *a)
{
    enum k8s_fault fault = a->status != NULL ? a->status->fault : K8S_FAULT_NONE;
    if (j->kind == JOB_WRITE &&
        (fault == K8S_FAULT_EXISTS || fault == K8S_FAULT_CONFLICT || fault == K8S_FAULT_NOT_FOUND))
        job_fail(j, ERRC_CONFLICT, "it was changed by somebody else");
    else if (fault == K8S_FAULT_NOT_FOUND)
        job_fail(j, ERRC_NOT_FOUND, "there is no such key");
    else
        job_end(j, a->err, NULL);
}

static void job_answered(const struct k8s_answer *a, void *data)
{
    struct job *j = data;
    j->store->call = NULL;
    if (a->err != NULL)
        job_refused(j, a);
    else if (j->kind == JOB_GET)
        get_answered(j, a);
    else if (j->kind == JOB_LIST)
        list_answered(j, a);
    else
        write_answered(j, a);
}

/* ---- requests ---- */

static char *list_query(const struct job *j)
{
    struct buf b = {0};
    (void)buf_printf(&b, "labelSelector=shardherd.io%%2Fstore%%3D%s&limit=100", j->store->id);
    if (j->page != NULL) {
        (void)buf_add_text(&b, "&continue=");
        for (const char *p = j->page; *p != '\0'; p++)
            (void)buf_printf(&b, "%%%02X", (unsigned)(unsigned char)*p);
    }
    return buf_take(&b);
}

static void job_start(struct job *j)
{
    struct kubernetes_store *s = j->store;
    struct err err = {0};
    char *name = object_name(s, j->key), *object = mem_printf("%s/%s", s->collection, name), *body = NULL;
    char *query = j->kind == JOB_LIST ? list_query(j) : NULL;
    struct k8s_request q = {
        .method = "GET", .path = object, .query = query, .body_limit = PAGE_LIMIT, .once = true};
    if (j->kind == JOB_LIST)
        q.path = s->collection;
    if (j->kind == JOB_WRITE && j->value == NULL) {
        q.method = "DELETE";
        body = mem_printf("{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"preconditions\":"
                          "{\"resourceVersion\":\"%lld\"}}",
                          (long long)j->expected);
    } else if (j->kind == JOB_WRITE) {
        q.method = j->expected == 0 ? "POST" : "PUT";
        q.path = j->expected == 0 ? s->collection : object;
        body = object_body(s, j);
    }
    q.body = body;
    q.body_length = body != NULL ? strlen(body) : 0;
    s->running = j;
    if (k8s_call_start(s->client, &q, job_answered, j, &s->call, &err) != 0)
        job_end(j, &err, NULL);
    free(name);
    free(object);
    free(body);
    free(query);
}

static int job_queue(struct kubernetes_store *s, const struct job *like, struct err *err)
{
    if (s->closing)
        return err_set(err, ERRC_CLOSED, "%s is closed", s->name);
    struct job *j = mem_alloc(sizeof *j);
    *j = *like;
    j->store = s;
    j->key = mem_strdup(like->key);
    j->value = mem_strdup(like->value);
    list_append(&s->jobs, &j->node);
    loop_defer(s->loop, &s->task);
    return 0;
}

static int kubernetes_get(struct store *store, const char *key, store_get_cb cb, void *data, struct err *err)
{
    const struct job j = {.kind = JOB_GET, .key = (char *)(uintptr_t)key, .get = cb, .data = data};
    return job_queue(of(store), &j, err);
}

static int kubernetes_list(struct store *store, const char *prefix, store_list_cb cb, void *data,
                           struct err *err)
{
    const struct job j = {.kind = JOB_LIST, .key = (char *)(uintptr_t)prefix, .list = cb, .data = data};
    return job_queue(of(store), &j, err);
}

static int kubernetes_write(struct store *store, const char *key, int64_t expected, const char *value,
                            store_write_cb cb, void *data, struct err *err)
{
    const struct job j = {.kind = JOB_WRITE,
                          .key = (char *)(uintptr_t)key,
                          .value = (char *)(uintptr_t)value,
                          .expected = expected,
                          .write = cb,
                          .data = data};
    return job_queue(of(store), &j, err);
}

/* ---- watches ---- */

/* What a running write may have made waits for its callback. */
static void events_show(struct kubernetes_store *s)
{
    bool writing = s->running != NULL && s->running->kind == JOB_WRITE;
    watchers_show(&s->watchers, writing ? s->running->key : NULL, &s->closing);
}

struct kept {
    char *key, *value;
};

static void *kept_make(yyjson_val *object, void *data)
{
    struct store_entry entry;
    (void)data;
    if (!object_entry(object, &entry))
        return NULL;
    struct kept *kept = mem_alloc(sizeof *kept);
    *kept = (struct kept){mem_strdup(entry.key), mem_strdup(entry.value)};
    return kept;
}

static void kept_release(void *value)
{
    struct kept *kept = value;
    free(kept->key);
    free(kept->value);
    free(kept);
}

static const struct k8s_trim kept_trim = {.make = kept_make, .release = kept_release};

static void object_changed(enum k8s_change change, const struct k8s_object *now,
                           const struct k8s_object *before, void *data)
{
    struct kubernetes_store *s = data;
    const struct kept *kept = now != NULL ? now->value : before->value;
    const char *version = now != NULL ? now->version : reflector_version(k8s_watch_reflector(s->watch));
    int64_t revision;
    if (s->opened != NULL || kept == NULL || !revision_of(version, &revision))
        return; /* what was there when we began is no change */
    watchers_add(&s->watchers, kept->key, change != K8S_DELETED ? kept->value : NULL, revision);
    loop_defer(s->loop, &s->task);
}

static int kubernetes_watch(struct store *store, const char *prefix, store_watch_cb cb, void *data,
                            struct store_watch **ret, struct err *err)
{
    struct kubernetes_store *s = of(store);
    if (s->closing)
        return err_set(err, ERRC_CLOSED, "%s is closed", s->name);
    *ret = watchers_begin(&s->watchers, store, prefix, s->highest, cb, data);
    return 0;
}

/* ---- the leader ---- */

static void term_read(const struct err *err, const struct store_entry *entry, void *data);

static void leader_lost(struct kubernetes_store *s)
{
    struct leadership *l = &s->leader;
    const struct err err = {.code = ERRC_CONFLICT, .message = "the leadership was lost before it began"};
    if (l->cb != NULL) {
        store_lease_cb cb = l->cb;
        l->cb = NULL;
        cb(&err, 0, l->data);
    } else if (l->lost != NULL) {
        void (*lost)(void *data) = l->lost;
        l->lost = NULL;
        lost(l->data);
    }
}

static void lease_lost(struct k8s_lease *lease, void *data)
{
    struct kubernetes_store *s = data;
    (void)lease;
    if (s->leader.term != 0)
        leader_lost(s);
    s->leader.term = 0;
}

static void term_failed(struct kubernetes_store *s, const struct err *err)
{
    store_lease_cb cb = s->leader.cb;
    s->leader.cb = NULL;
    if (cb != NULL)
        cb(err, 0, s->leader.data);
}

static void term_written(const struct err *err, int64_t revision, void *data)
{
    struct kubernetes_store *s = data;
    store_lease_cb cb = s->leader.cb;
    (void)revision;
    if (err != NULL && err->code == ERRC_CONFLICT && k8s_lease_leads(s->leader.lease)) {
        if (kubernetes_get(&s->base, TERM_KEY, term_read, s, NULL) == 0)
            return;
    }
    if (err != NULL || !k8s_lease_leads(s->leader.lease)) {
        s->leader.term = 0;
        if (err != NULL)
            term_failed(s, err);
        else
            leader_lost(s);
        return;
    }
    s->leader.cb = NULL;
    if (cb != NULL)
        cb(NULL, s->leader.term, s->leader.data);
}

static void term_read(const struct err *err, const struct store_entry *entry, void *data)
{
    struct kubernetes_store *s = data;
    int64_t term = 0;
    char text[24];
    struct err failed = {0};
    if (err != NULL && err->code != ERRC_NOT_FOUND) {
        term_failed(s, err);
        return;
    }
    if (err == NULL && !text_to_int64(entry->value, &term)) {
        (void)err_set(&failed, ERRC_CORRUPT, "%s: key %s is no number", s->name, TERM_KEY);
        term_failed(s, &failed);
        return;
    }
    s->leader.term = term + 1;
    (void)snprintf(text, sizeof text, "%lld", (long long)s->leader.term);
    if (kubernetes_write(&s->base, TERM_KEY, err == NULL ? entry->revision : 0, text, term_written, s,
                         &failed) != 0)
        term_failed(s, &failed);
}

/* The Lease says who, the term's own key says for the how manyth time: a Lease that was deleted forgets. */
static void lease_won(struct k8s_lease *lease, void *data)
{
    struct kubernetes_store *s = data;
    struct err err = {0};
    (void)lease;
    if (s->leader.cb != NULL && kubernetes_get(&s->base, TERM_KEY, term_read, s, &err) != 0)
        term_failed(s, &err);
}

static int kubernetes_lease(struct store *store, const char *holder, store_lease_cb cb,
                            void (*lost)(void *data), void *data, struct err *err)
{
    struct kubernetes_store *s = of(store);
    char unique[9];
    if (s->closing)
        return err_set(err, ERRC_CLOSED, "%s is closed", s->name);
    if (s->leader.lease != NULL)
        return err_set(err, ERRC_CONFLICT, "%s: this process stands for election already", s->name);
    env_random_text(s->loop->env, unique, 8);
    s->leader = (struct leadership){.identity = s->note != NULL ? mem_strdup(lease_note_identity(s->note))
                                                                : mem_printf("%s_%s", holder, unique),
                                    .cb = cb,
                                    .lost = lost,
                                    .data = data};
    const struct k8s_lease_options o = {
        .name = s->id,
        .name_space = k8s_client_access(s->client)->name_space,
        .identity = s->leader.identity,
        .dead = s->note != NULL ? lease_note_dead(s->note) : NULL,
        .won = lease_won,
        .lost = lease_lost,
        .data = s,
    };
    s->leader.lease = k8s_lease_start(s->client, &o);
    return 0;
}

/* ---- opening and closing ---- */

static void store_free(void *data)
{
    struct kubernetes_store *s = data;
    void (*closed)(void *data) = s->closed;
    void *closed_data = s->closed_data;
    watchers_free(&s->watchers);
    loop_task_cancel(&s->task);
    free(s->leader.identity);
    lease_note_close(s->note);
    free(s->id);
    free(s->collection);
    free(s->name);
    free(s);
    if (closed != NULL)
        closed(closed_data);
}

static void part_closed(void *data)
{
    struct kubernetes_store *s = data;
    loop_defer(s->loop, &s->task);
}

static void lease_closed(void *data)
{
    struct kubernetes_store *s = data;
    s->leader.lease = NULL;
    part_closed(s);
}

static void watch_closed(void *data)
{
    struct kubernetes_store *s = data;
    s->watch = NULL;
    part_closed(s);
}

/* One part after the other: jobs, lease, watch, client. */
static void close_next(struct kubernetes_store *s)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "the store is closing"};
    if (!list_empty(&s->jobs)) {
        struct job *j = list_item(list_first(&s->jobs), struct job, node);
        list_remove(&j->node);
        job_end(j, &canceled, NULL);
    } else if (s->running != NULL) {
        return; /* its answer comes, and says whether it was done */
    } else if (s->leader.lease != NULL && !s->lease_closing) {
        s->lease_closing = true;
        term_failed(s, &canceled);
        k8s_lease_close(s->leader.lease, lease_closed, s);
    } else if (s->leader.lease == NULL && s->watch != NULL && !s->watch_closing) {
        s->watch_closing = true;
        k8s_watch_close(s->watch, watch_closed, s);
    } else if (s->leader.lease == NULL && s->watch == NULL && !s->client_closing) {
        s->client_closing = true;
        k8s_client_close(s->client, store_free, s);
    }
}

static void store_run(struct loop_task *task, void *data)
{
    struct kubernetes_store *s = data;
    (void)task;
    if (s->closing) {
        close_next(s);
        return;
    }
    events_show(s);
    if (s->running == NULL && s->opened == NULL && !s->closing && !list_empty(&s->jobs)) {
        struct job *j = list_item(list_first(&s->jobs), struct job, node);
        list_remove(&j->node);
        job_start(j);
    }
}

static void kubernetes_close(struct store *store, void (*closed)(void *data), void *data)
{
    struct kubernetes_store *s = of(store);
    if (s->closing)
        return;
    s->closing = true;
    s->closed = closed;
    s->closed_data = data;
    loop_defer(s->loop, &s->task);
}

static const char *kubernetes_name(const struct store *store)
{
    return ((const struct kubernetes_store *)(const void *)store)->name;
}

static const struct store_backend kubernetes_backend = {
    .get = kubernetes_get,
    .list = kubernetes_list,
    .compare_and_swap = kubernetes_write,
    .watch = kubernetes_watch,
    .watch_stop = watchers_end,
    .lease = kubernetes_lease,
    .close = kubernetes_close,
    .name = kubernetes_name,
};

static void watch_synced(struct k8s_watch *watch, void *data)
{
    struct kubernetes_store *s = data;
    store_open_cb opened = s->opened;
    (void)watch;
    loop_timer_stop(&s->open_limit);
    s->opened = NULL;
    opened(NULL, &s->base, s->opened_data);
}

static void open_too_late(struct loop_timer *timer, void *data)
{
    struct kubernetes_store *s = data;
    store_open_cb opened = s->opened;
    struct reflector_facts facts;
    struct err err = {0};
    (void)timer;
    reflector_facts(k8s_watch_reflector(s->watch), &facts);
    (void)err_set(&err, ERRC_UNAVAILABLE, "%s cannot be read within %llu s: %s", s->name,
                  OPEN_LIMIT_NS / ENV_NS_PER_S,
                  facts.last_error.code != ERRC_NONE ? facts.last_error.message : "no answer");
    s->opened = NULL;
    kubernetes_close(&s->base, NULL, NULL);
    opened(&err, NULL, s->opened_data);
}

int store_kubernetes_open(struct loop *loop, struct k8s_access *access, const char *id,
                          struct lease_note *note, store_open_cb cb, void *data, struct err *err)
{
    if (!text_is_name(id)) {
        lease_note_close(note);
        return err_set(err, ERRC_INVALID,
                       "\"%s\" cannot name a store in Kubernetes: lower-case letters, digits, '-'", id);
    }
    struct kubernetes_store *s = mem_zalloc(sizeof *s);
    s->base.backend = &kubernetes_backend;
    s->loop = loop;
    s->note = note;
    s->id = mem_strdup(id);
    s->collection = mem_printf("/api/v1/namespaces/%s/configmaps", access->name_space);
    s->name = mem_printf("kubernetes:%s/%s", access->name_space, id);
    s->opened = cb;
    s->opened_data = data;
    list_init(&s->jobs);
    watchers_init(&s->watchers);
    s->task = (struct loop_task){.run = store_run, .data = s};
    list_init(&s->task.node);
    loop_timer_init(loop, &s->open_limit, open_too_late, s);
    loop_timer_start(&s->open_limit, OPEN_LIMIT_NS);
    s->client = k8s_client_new(loop, access);
    char *selector = mem_printf("labelSelector=shardherd.io%%2Fstore%%3D%s", id);
    const struct k8s_watch_options o = {
        .path = s->collection,
        .selector = selector,
        .trim = &kept_trim,
        .changed = object_changed,
        .synced = watch_synced,
        .data = s,
    };
    s->watch = k8s_watch_start(s->client, &o);
    free(selector);
    return 0;
}
