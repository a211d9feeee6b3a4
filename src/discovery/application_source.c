#include "discovery/application_source.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "discovery/kubernetes_source.h"
#include "k8s/client.h"
#include "k8s/watch.h"

#define SETTLE_NS (200 * ENV_NS_PER_MS)

static const struct {
    const char *group, *plural, *kind;
} kinds[] = {{"/apis/apps/v1", "deployments", "Deployment"},
             {"/apis/apps/v1", "statefulsets", "StatefulSet"},
             {"/apis/batch/v1", "cronjobs", "CronJob"}};
#define KINDS       (sizeof kinds / sizeof kinds[0])
#define WATCHES_MAX (KINDS * KUBERNETES_NAMESPACES_MAX)

struct kind_watch {
    struct application_source *source;
    const char *kind;
    struct k8s_trim trim;
    struct k8s_watch *watch;
    bool synced;
};

struct application_source {
    struct loop *loop;
    const struct fleet *fleet;
    const struct kubernetes_source *servers;
    struct k8s_client *client;
    struct kind_watch watches[WATCHES_MAX];
    size_t watch_count;
    struct kubernetes_reads *reads;
    struct application *list;
    size_t count, capacity;
    struct known_servers known; /* while the list is made */
    struct loop_timer settle;
    struct loop_task gone;
    bool closing;
    size_t open; /* parts that still close */
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- what is kept of values ---- */

/* Each is cut, whoever asks: a key that a variable names may hold a URL, a host, or something else. */
static char *keep_value(enum read_kind kind, const char *key, const char *value, bool asked, void *data)
{
    size_t prefix;
    enum env_role role = env_role_of(key, &prefix);
    (void)kind;
    (void)data;
    char *url = env_keep(ENV_URL, value);
    if (url != NULL)
        return url;
    if ((role == ENV_NONE && !asked) || env_is_secret_name(key))
        return NULL;
    return env_keep(ENV_HOST, value);
}

/* ---- the list ---- */

static enum read_state lookup_get(void *data, enum read_kind kind, const char *name_space, const char *name,
                                  const char *key, const char **ret, const struct err **ret_err)
{
    const struct application_source *s = data;
    return kubernetes_reads_get(s->reads, kind, name_space, name, key, ret, ret_err);
}

static enum read_state lookup_all(void *data, enum read_kind kind, const char *name_space, const char *name,
                                  void (*each)(const char *key, const char *value, void *each_data),
                                  void *each_data, const struct err **ret_err)
{
    const struct application_source *s = data;
    return kubernetes_reads_all(s->reads, kind, name_space, name, each, each_data, ret_err);
}

static void add(const struct k8s_object *object, void *data)
{
    struct application_source *s = data;
    const struct application_lookup lookup = {lookup_get, lookup_all, s};
    struct application a;
    if (object->value == NULL)
        return;
    application_resolve(object->value, &lookup, &s->known, &a);
    if (a.connection_count == 0) {
        application_clear(&a);
        return;
    }
    if (s->count == s->capacity) {
        s->capacity = s->capacity * 2 + 16;
        s->list = mem_resize(s->list, s->capacity, sizeof *s->list);
    }
    s->list[s->count++] = a;
}

static void list_clear(struct application_source *s)
{
    for (size_t i = 0; i < s->count; i++)
        application_clear(&s->list[i]);
    s->count = 0;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct application *)a)->id, ((const struct application *)b)->id);
}

static void on_settled(struct loop_timer *timer, void *data)
{
    struct application_source *s = data;
    (void)timer;
    list_clear(s);
    s->known =
        known_servers_make(s->fleet, s->servers != NULL ? kubernetes_source_entries(s->servers) : NULL);
    kubernetes_reads_begin(s->reads);
    for (size_t i = 0; i < s->watch_count; i++)
        object_store_each(reflector_store(k8s_watch_reflector(s->watches[i].watch)), add, s);
    kubernetes_reads_end(s->reads);
    known_servers_free(&s->known);
    if (s->count > 0)
        qsort(s->list, s->count, sizeof *s->list, by_id);
}

void application_source_poke(struct application_source *s)
{
    if (!s->closing && !loop_timer_armed(&s->settle))
        loop_timer_start(&s->settle, SETTLE_NS);
}

static void reads_changed(void *data)
{
    application_source_poke(data);
}

/* ---- watches ---- */

static void *trim_make(struct yyjson_val *json, void *data)
{
    const struct kind_watch *w = data;
    return application_object_make(w->kind, json);
}

static void trim_release(void *value)
{
    application_object_free(value);
}

static void on_changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                       void *data)
{
    const struct kind_watch *w = data;
    (void)change;
    if ((now != NULL && now->value != NULL) || (before != NULL && before->value != NULL))
        application_source_poke(w->source);
}

static void on_synced(struct k8s_watch *watch, void *data)
{
    struct kind_watch *w = data;
    (void)watch;
    w->synced = true;
    application_source_poke(w->source);
}

static void watch_start(struct application_source *s, size_t kind, const char *name_space)
{
    struct kind_watch *w = &s->watches[s->watch_count++];
    bool all = strcmp(name_space, "*") == 0;
    char *path = all ? mem_printf("%s/%s", kinds[kind].group, kinds[kind].plural)
                     : mem_printf("%s/namespaces/%s/%s", kinds[kind].group, name_space, kinds[kind].plural);
    *w = (struct kind_watch){.source = s, .kind = kinds[kind].kind};
    w->trim = (struct k8s_trim){trim_make, trim_release, w};
    const struct k8s_watch_options options = {
        .path = path, .trim = &w->trim, .changed = on_changed, .synced = on_synced, .data = w};
    w->watch = k8s_watch_start(s->client, &options);
    free(path);
}

/* ---- life ---- */

struct application_source *application_source_start(const struct application_source_options *o)
{
    struct application_source *s = mem_zalloc(sizeof *s);
    const struct kubernetes_reads_options reads = {.client = o->client,
                                                   .period_ns = o->value_period_ns,
                                                   .keep = keep_value,
                                                   .changed = reads_changed,
                                                   .data = s};
    s->client = o->client;
    s->loop = k8s_client_loop(o->client);
    s->fleet = o->fleet;
    s->servers = o->servers;
    s->reads = kubernetes_reads_new(&reads);
    list_init(&s->gone.node);
    loop_timer_init(s->loop, &s->settle, on_settled, s);
    for (size_t k = 0; k < KINDS; k++) {
        for (int n = 0; n < o->namespace_count && n < KUBERNETES_NAMESPACES_MAX; n++)
            watch_start(s, k, o->namespaces[n]);
        if (o->namespace_count == 0)
            watch_start(s, k, o->name_space);
    }
    return s;
}

static void source_gone(struct loop_task *task, void *data)
{
    struct application_source *s = data;
    void (*closed)(void *data) = s->closed;
    void *closed_data = s->closed_data;
    (void)task;
    list_clear(s);
    free(s->list);
    free(s);
    if (closed != NULL)
        closed(closed_data);
}

static void part_closed(void *data)
{
    struct application_source *s = data;
    s->gone.run = source_gone;
    s->gone.data = s;
    if (--s->open == 0)
        loop_defer(s->loop, &s->gone);
}

void application_source_close(struct application_source *s, void (*closed)(void *data), void *data)
{
    s->closing = true;
    s->closed = closed;
    s->closed_data = data;
    s->open = s->watch_count + 1;
    loop_timer_stop(&s->settle);
    for (size_t i = 0; i < s->watch_count; i++)
        k8s_watch_close(s->watches[i].watch, part_closed, s);
    kubernetes_reads_close(s->reads, part_closed, s);
}

const struct application *application_source_list(const struct application_source *s, size_t *ret_count)
{
    *ret_count = s->count;
    return s->list;
}

bool application_source_ready(const struct application_source *s)
{
    for (size_t i = 0; i < s->watch_count; i++)
        if (!s->watches[i].synced)
            return false;
    return true;
}
