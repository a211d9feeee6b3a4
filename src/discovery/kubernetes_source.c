#include "discovery/kubernetes_source.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sm.h"
#include "discovery/discovery.h"
#include "discovery/kubernetes_read.h"
#include "discovery/static_list.h"
#include "k8s/client.h"
#include "k8s/watch.h"

#define SETTLE_NS   (20 * ENV_NS_PER_MS) /* changes that come together are one */
#define PATIENCE_NS (10 * ENV_NS_PER_S)  /* for the first list of a watch */
#define CNPG_NS     (300 * ENV_NS_PER_S)
#define COMPLAIN_NS (5 * ENV_NS_PER_S)
#define LOOK_NS     (500 * ENV_NS_PER_MS) /* before the first lists are complete */
#define WATCHES_MAX (KUBERNETES_NAMESPACES_MAX * 16)
#define CNPG_API    "/apis/postgresql.cnpg.io/v1"
#define OURS        "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dshardherd%2Cshardherd.io%2Fshard"
#define LABELLED    "labelSelector=shardherd.io%2Fdiscover"
#define CNPG        "labelSelector=cnpg.io%2Fcluster"

typedef struct cluster_object *(*trim_cb)(struct yyjson_val *json);

/* A Pod that is only looked at for its image is forgotten unless it is PostgreSQL's. */
static struct cluster_object *recognised_pod(struct yyjson_val *json)
{
    struct cluster_object *pod = cluster_pod(json);
    if (pod != NULL && pod->postgres)
        return pod;
    free(pod);
    return NULL;
}

enum needs { NEEDS_NOTHING, NEEDS_CNPG, NEEDS_IMAGE };

struct watched_kind {
    const char *group; /* "/api/v1" */
    const char *plural;
    const char *selector; /* NULL = all of them */
    trim_cb trim;
    enum needs needs;
};

/* A pod may be in two stores; the later row's is used. */
static const struct watched_kind kinds[] = {
    {"/apis/apps/v1", "statefulsets", OURS, cluster_stateful_set, NEEDS_NOTHING},
    {"/api/v1", "pods", OURS, cluster_pod, NEEDS_NOTHING},
    {"/apis/apps/v1", "statefulsets", LABELLED, cluster_stateful_set, NEEDS_NOTHING},
    {"/api/v1", "pods", LABELLED, cluster_pod, NEEDS_NOTHING},
    {"/api/v1", "services", LABELLED, cluster_service, NEEDS_NOTHING},
    {"/apis/discovery.k8s.io/v1", "endpointslices", LABELLED, cluster_slice, NEEDS_NOTHING},
    {CNPG_API, "clusters", NULL, cluster_cnpg, NEEDS_CNPG},
    {"/api/v1", "pods", CNPG, cluster_pod, NEEDS_CNPG},
    {"/api/v1", "pods", NULL, recognised_pod, NEEDS_IMAGE},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

struct source_watch {
    struct kubernetes_source *source;
    const struct watched_kind *kind;
    struct k8s_watch *watch;
    struct k8s_trim trim;
    char *path;
    char told[ERR_MESSAGE_SIZE]; /* the error that was told last, "" = none */
    bool synced;
};

/*
 *   SYNCING --all complete, or patience over--> RUNNING --close--> CLOSED
 *      +-------------------------close----------------------------------^
 *
 * SYNCING waits for the watches' first lists. RUNNING waits for changes. CLOSED waits for watches, calls and
 * reads to close.
 */
enum { SYNCING, RUNNING, CLOSED, STATES };
static const struct sm_state states[STATES] = {
    [SYNCING] = {"syncing", SM_NEXT(RUNNING) | SM_NEXT(CLOSED), false},
    [RUNNING] = {"running", SM_NEXT(CLOSED), false},
    [CLOSED] = {"closed", 0, true},
};

struct kubernetes_source {
    struct kubernetes_source_options o;
    struct loop *loop;
    struct sm sm;
    char *name_space;
    char *namespaces[KUBERNETES_NAMESPACES_MAX];
    int namespace_count;
    struct source_watch **watches;
    int watch_count;
    struct kubernetes_reads *reads;
    struct kubernetes_entries entries;
    struct loop_timer settle, patience, cnpg_timer, complain_timer;
    struct loop_task gone;
    struct k8s_call *cnpg_call;
    bool cnpg;
    bool given;
    uint64_t rounds;
    int closing; /* parts that still close */
    void (*closed)(void *data);
    void *closed_data;
};

static bool running(const struct kubernetes_source *s)
{
    return sm_now(&s->sm) != CLOSED;
}

/* ---- from entries to the discovery ---- */

static char *wiped(char *old, const char *text)
{
    mem_wipe_free(old);
    return mem_strdup(text);
}

/* The password, and the user if the Secret has it. */
static void read_secret(struct kubernetes_source *s, const struct kubernetes_entry *e, struct found *f)
{
    const struct err *why = NULL;
    const char *user = NULL, *password = NULL;
    enum read_state state = READ_HERE;
    if (e->user_key[0] != '\0')
        state =
            kubernetes_reads_get(s->reads, READ_SECRET, e->name_space, e->secret, e->user_key, &user, &why);
    if (state == READ_HERE)
        state = kubernetes_reads_get(s->reads, READ_SECRET, e->name_space, e->secret, e->pass_key, &password,
                                     &why);
    f->pending = state == READ_PENDING;
    if (state == READ_FAILED) {
        f->err = *why;
        (void)err_wrap(&f->err, "its password");
    } else if (state == READ_HERE && password == NULL)
        (void)err_set(&f->err, ERRC_NOT_FOUND,
                      "Secret %s/%s has no key \"%s\" (the annotation shardherd.io/secret-password-key names "
                      "another)",
                      e->name_space, e->secret, e->pass_key);
    if (user != NULL && e->user == NULL) {
        free(f->access.user);
        f->access.user = mem_strdup(user);
    }
    f->access.password = wiped(f->access.password, password);
}

static void found_make(struct kubernetes_source *s, const struct kubernetes_entry *e, struct found *f)
{
    *f = (struct found){
        .name = mem_strdup(e->name),
        .database = mem_strdup(e->database != NULL ? e->database : ""),
        .shard = mem_strdup(e->shard != NULL ? e->shard : ""),
        .access = {.host = mem_strdup(e->host),
                   .port = e->port,
                   .user = mem_strdup(e->user),
                   .sslmode = mem_strdup(e->sslmode)},
    };
    if (e->clash != NULL)
        (void)err_set(&f->err, ERRC_EXISTS, "another server of the source %s has the name %s: rename one",
                      e->clash, e->name);
    else if (e->secret != NULL)
        read_secret(s, e, f);
    if (f->access.user == NULL)
        f->access.user = mem_strdup("postgres");
    const char *dbname = e->dbname != NULL        ? e->dbname
                         : f->database[0] != '\0' ? f->database
                                                  : f->access.user;
    f->access.dbname = mem_strdup(dbname);
}

/* What the runtime made it also lists. */
static bool is_runtimes(const struct kubernetes_source *s, const struct kubernetes_entry *e)
{
    return e->managed && s->o.runtime_kind != NULL && strcmp(e->source, s->o.runtime_kind) == 0;
}

/* As which source: one name is used by one giver only. */
static const char *source_name(const struct kubernetes_source *s, const char *source)
{
    bool taken = s->o.runtime_kind != NULL && strcmp(source, s->o.runtime_kind) == 0;
    return !taken ? source : strcmp(source, "cnpg") == 0 ? "cnpg-other" : NULL;
}

static void give_source(struct kubernetes_source *s, const char *source)
{
    const char *name = source_name(s, source);
    if (name == NULL)
        return;
    struct found *found = mem_array(s->entries.count + 1, sizeof *found);
    int count = 0;
    for (size_t i = 0; i < s->entries.count; i++)
        if (strcmp(s->entries.items[i].source, source) == 0 && !is_runtimes(s, &s->entries.items[i]))
            found_make(s, &s->entries.items[i], &found[count++]);
    discovery_give(s->o.discovery, name, found, count);
    for (int i = 0; i < count; i++)
        found_clear(&found[i]);
    free(found);
}

static void give(struct kubernetes_source *s)
{
    static const char *const sources[] = {"kubernetes", "cnpg", "label", "image"};
    kubernetes_reads_begin(s->reads);
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        give_source(s, sources[i]);
    kubernetes_reads_end(s->reads);
    s->given = true;
    if (s->o.changed != NULL)
        s->o.changed(s->o.data);
}

static void reads_changed(void *data)
{
    struct kubernetes_source *s = data;
    if (sm_now(&s->sm) == RUNNING)
        give(s);
}

/* ---- from objects to entries ---- */

struct collection {
    const struct cluster_object **objects;
    size_t count, capacity;
};

static void collect(const struct k8s_object *object, void *data)
{
    struct collection *c = data;
    if (object->value == NULL)
        return;
    if (c->count == c->capacity) {
        c->capacity = c->capacity * 2 + 16;
        c->objects = mem_resize((void *)c->objects, c->capacity, sizeof *c->objects);
    }
    c->objects[c->count++] = object->value;
}

static void make_entries(struct kubernetes_source *s)
{
    struct collection c = {0};
    for (int i = 0; i < s->watch_count; i++)
        object_store_each(reflector_store(k8s_watch_reflector(s->watches[i]->watch)), collect, &c);
    const struct cluster_view view = {c.objects, c.count, s->name_space, s->o.by_image};
    kubernetes_entries_free(&s->entries);
    s->entries = kubernetes_entries_make(&view);
    s->rounds++;
    free((void *)c.objects);
    give(s);
}

static void on_settled(struct loop_timer *timer, void *data)
{
    (void)timer;
    make_entries(data);
}

static void begin_running(struct kubernetes_source *s)
{
    sm_move(&s->sm, RUNNING);
    loop_timer_stop(&s->patience);
    make_entries(s);
}

static void on_impatient(struct loop_timer *timer, void *data)
{
    (void)timer;
    begin_running(data);
}

static void check_synced(struct kubernetes_source *s)
{
    bool all = sm_now(&s->sm) == SYNCING && s->cnpg_call == NULL;
    for (int i = 0; i < s->watch_count; i++)
        all = all && (s->watches[i]->synced || s->watches[i]->told[0] != '\0');
    if (all)
        begin_running(s);
}

/* ---- watches ---- */

static void *trim_make(struct yyjson_val *json, void *data)
{
    const struct source_watch *w = data;
    return w->kind->trim(json);
}

static void trim_release(void *value)
{
    free(value);
}

static void on_changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                       void *data)
{
    const struct source_watch *w = data;
    struct kubernetes_source *s = w->source;
    (void)change;
    if ((now == NULL || now->value == NULL) && (before == NULL || before->value == NULL))
        return; /* a pod that is none of ours */
    if (sm_now(&s->sm) == RUNNING && !loop_timer_armed(&s->settle))
        loop_timer_start(&s->settle, SETTLE_NS);
}

static void on_synced(struct k8s_watch *watch, void *data)
{
    struct source_watch *w = data;
    (void)watch;
    w->synced = true;
    check_synced(w->source);
}

static void watch_start(struct kubernetes_source *s, const struct watched_kind *kind, const char *name_space)
{
    struct source_watch *w = mem_zalloc(sizeof *w);
    bool all = strcmp(name_space, "*") == 0;
    w->source = s;
    w->kind = kind;
    w->trim = (struct k8s_trim){trim_make, trim_release, w};
    w->path = all ? mem_printf("%s/%s", kind->group, kind->plural)
                  : mem_printf("%s/namespaces/%s/%s", kind->group, name_space, kind->plural);
    const struct k8s_watch_options options = {.path = w->path,
                                              .selector = kind->selector,
                                              .trim = &w->trim,
                                              .changed = on_changed,
                                              .synced = on_synced,
                                              .data = w};
    s->watches = mem_resize(s->watches, (size_t)s->watch_count + 1, sizeof *s->watches);
    s->watches[s->watch_count++] = w;
    w->watch = k8s_watch_start(s->o.client, &options);
}

static void watches_start(struct kubernetes_source *s, enum needs needs)
{
    for (size_t k = 0; k < KINDS; k++)
        for (int n = 0; n < s->namespace_count; n++)
            if (kinds[k].needs == needs)
                watch_start(s, &kinds[k], s->namespaces[n]);
}

static void on_complain(struct loop_timer *timer, void *data)
{
    struct kubernetes_source *s = data;
    loop_timer_start(timer, sm_now(&s->sm) == SYNCING ? LOOK_NS : COMPLAIN_NS);
    for (int i = 0; i < s->watch_count; i++) {
        struct source_watch *w = s->watches[i];
        struct reflector_facts facts;
        reflector_facts(k8s_watch_reflector(w->watch), &facts);
        if (strcmp(w->told, facts.last_error.message) == 0)
            continue;
        memcpy(w->told, facts.last_error.message, sizeof w->told);
        if (facts.last_error.code != ERRC_NONE && s->o.failed != NULL)
            s->o.failed(w->path, &facts.last_error, s->o.data);
    }
    check_synced(s);
}

/* ---- CloudNativePG: is the API there? ---- */

static void parts_closed(void *data);

static void cnpg_answered(const struct k8s_answer *answer, void *data)
{
    struct kubernetes_source *s = data;
    s->cnpg_call = NULL;
    if (!running(s)) {
        parts_closed(s);
        return;
    }
    if (answer->err == NULL) {
        s->cnpg = true;
        watches_start(s, NEEDS_CNPG);
    } else
        loop_timer_start(&s->cnpg_timer, CNPG_NS);
    check_synced(s);
}

static void cnpg_ask(struct kubernetes_source *s)
{
    const struct k8s_request request = {.method = "GET", .path = CNPG_API, .timeout_ns = PATIENCE_NS};
    struct err err = {0};
    if (k8s_call_start(s->o.client, &request, cnpg_answered, s, &s->cnpg_call, &err) != 0)
        loop_timer_start(&s->cnpg_timer, CNPG_NS);
}

static void on_cnpg(struct loop_timer *timer, void *data)
{
    (void)timer;
    cnpg_ask(data);
}

/* ---- life ---- */

static void source_gone(struct loop_task *task, void *data)
{
    struct kubernetes_source *s = data;
    void (*closed)(void *data) = s->closed;
    void *closed_data = s->closed_data;
    (void)task;
    sm_fini(&s->sm);
    kubernetes_entries_free(&s->entries);
    for (int i = 0; i < s->watch_count; i++) {
        free(s->watches[i]->path);
        free(s->watches[i]);
    }
    for (int i = 0; i < s->namespace_count; i++)
        free(s->namespaces[i]);
    free(s->watches);
    free(s->name_space);
    free(s);
    if (closed != NULL)
        closed(closed_data);
}

static void parts_closed(void *data)
{
    struct kubernetes_source *s = data;
    if (--s->closing == 0)
        loop_defer(s->loop, &s->gone);
}

static void timers_init(struct kubernetes_source *s)
{
    loop_timer_init(s->loop, &s->settle, on_settled, s);
    loop_timer_init(s->loop, &s->patience, on_impatient, s);
    loop_timer_init(s->loop, &s->cnpg_timer, on_cnpg, s);
    loop_timer_init(s->loop, &s->complain_timer, on_complain, s);
    loop_timer_start(&s->patience, PATIENCE_NS);
    loop_timer_start(&s->complain_timer, LOOK_NS);
}

static void namespaces_take(struct kubernetes_source *s)
{
    for (int i = 0; i < s->o.namespace_count && i < KUBERNETES_NAMESPACES_MAX; i++)
        s->namespaces[s->namespace_count++] = mem_strdup(s->o.namespaces[i]);
    if (s->namespace_count == 0)
        s->namespaces[s->namespace_count++] = mem_strdup(s->name_space);
    s->o.namespaces = NULL;
}

struct kubernetes_source *kubernetes_source_start(const struct kubernetes_source_options *options)
{
    struct kubernetes_source *s = mem_zalloc(sizeof *s);
    s->o = *options;
    s->loop = k8s_client_loop(options->client);
    s->name_space = mem_strdup(options->name_space);
    s->o.name_space = s->name_space;
    namespaces_take(s);
    s->gone = (struct loop_task){.run = source_gone, .data = s};
    list_init(&s->gone.node);
    sm_init(&s->sm, states, STATES, SYNCING, NULL, NULL);
    const struct kubernetes_reads_options reads = {.client = options->client,
                                                   .period_ns = options->secret_period_ns,
                                                   .changed = reads_changed,
                                                   .data = s};
    s->reads = kubernetes_reads_new(&reads);
    timers_init(s);
    watches_start(s, NEEDS_NOTHING);
    if (s->o.by_image)
        watches_start(s, NEEDS_IMAGE);
    cnpg_ask(s);
    return s;
}

void kubernetes_source_close(struct kubernetes_source *s, void (*closed)(void *data), void *data)
{
    sm_move(&s->sm, CLOSED);
    s->closed = closed;
    s->closed_data = data;
    loop_timer_stop(&s->settle);
    loop_timer_stop(&s->patience);
    loop_timer_stop(&s->cnpg_timer);
    loop_timer_stop(&s->complain_timer);
    s->closing = s->watch_count + 1 + (s->cnpg_call != NULL);
    if (s->cnpg_call != NULL)
        k8s_call_cancel(s->cnpg_call);
    for (int i = 0; i < s->watch_count; i++)
        k8s_watch_close(s->watches[i]->watch, parts_closed, s);
    kubernetes_reads_close(s->reads, parts_closed, s);
}

bool kubernetes_source_ready(const struct kubernetes_source *s)
{
    return s->given;
}

const struct kubernetes_entries *kubernetes_source_entries(const struct kubernetes_source *s)
{
    return &s->entries;
}

const struct kubernetes_entry *kubernetes_source_find(const struct kubernetes_source *s, const char *name,
                                                      const char *host, int port)
{
    const struct kubernetes_entry *there = NULL;
    for (size_t i = 0; i < s->entries.count; i++) {
        const struct kubernetes_entry *e = &s->entries.items[i];
        if (strcmp(e->name, name) == 0)
            return e;
        if (there == NULL && host != NULL && e->port == port && strcmp(e->host, host) == 0)
            there = e;
    }
    return there;
}

static void count_object(const struct k8s_object *object, void *data)
{
    struct kubernetes_source_facts *facts = data;
    facts->objects++;
    if (object->value != NULL)
        facts->bytes += malloc_usable_size(object->value);
}

void kubernetes_source_count(const struct kubernetes_source *s, struct kubernetes_source_facts *ret)
{
    *ret = (struct kubernetes_source_facts){.watches = (unsigned)s->watch_count, .rounds = s->rounds};
    for (int i = 0; i < s->watch_count; i++) {
        struct reflector_facts facts;
        const struct reflector *r = k8s_watch_reflector(s->watches[i]->watch);
        object_store_each(reflector_store(r), count_object, ret);
        reflector_facts(r, &facts);
        if (facts.last_error.code == ERRC_NONE)
            continue;
        ret->failing++;
        snprintf(ret->error, sizeof ret->error, "%.80s: %.160s", s->watches[i]->path,
                 facts.last_error.message);
    }
}
