/*
 * Happy path: kube_mark() notes what a pod is to carry; kube_look() compares that with what the watch knows,
 * and patches; the watch tells of the change, and the next look finds nothing to do.
 */
#include "runtime/kube_roles.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "k8s/watch.h"
#include "runtime/kube_objects.h"

/* What a pod is to carry. */
struct wanted {
    struct list node;
    struct kube_roles *all;
    char *name, *set;
    bool primary;
    uint64_t term, until_ns;
    struct k8s_call *call; /* the patch under way */
    uint64_t again_ns;     /* after one that failed: not before */
    char *sent; /* resourceVersion that was patched last: until the watch has another one it waits */
};

/* A pod that is another, or none any more. Told later: the store of the watch is being changed just then. */
struct move {
    struct list node;
    char *name;
};

struct kube_roles {
    struct kubernetes *k;
    struct k8s_watch *watch;
    struct list list;  /* of struct wanted */
    struct list moves; /* of struct move */
    struct loop_task look;
    unsigned calls;
    bool closing, watch_closed;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- pods ---- */

static const char *text_at(yyjson_val *object, const char *pointer)
{
    const char *text = yyjson_get_str(yyjson_ptr_get(object, pointer));
    return text != NULL ? text : "";
}

struct kube_pod_role *kube_pod_role_read(struct yyjson_val *pod)
{
    struct kube_pod_role *role = mem_zalloc(sizeof *role);
    const char *label = kube_label(pod, KUBE_ROLE_LABEL);
    role->uid = mem_strdup(text_at(pod, "/metadata/uid"));
    role->version = mem_strdup(text_at(pod, "/metadata/resourceVersion"));
    const char *phase = text_at(pod, "/status/phase");
    role->runs = strcmp(phase, "Running") == 0 || strcmp(phase, "Unknown") == 0;
    role->primary = strcmp(label, "primary") == 0;
    role->standby = strcmp(label, "standby") == 0;
    role->tls = kube_pod_tls(yyjson_obj_get(pod, "spec"));
    if (!text_to_uint64(kube_annotation(pod, KUBE_TERM_ANNOTATION), &role->term))
        role->term = 0;
    return role;
}

void kube_pod_role_free(void *data)
{
    struct kube_pod_role *role = data;
    free(role->uid);
    free(role->version);
    free(role);
}

/* Another term alone is written as well: it is what keeps an older manager away. */
bool kube_pod_role_differs(const struct kube_pod_role *now, bool primary, uint64_t term)
{
    if (now->term > term)
        return false;
    return now->term < term || now->primary != primary || now->standby == primary;
}

char *kube_pod_role_patch(const struct kube_pod_role *now, bool primary, uint64_t term)
{
    return mem_printf("{\"metadata\":{\"uid\":\"%s\",\"resourceVersion\":\"%s\","
                      "\"labels\":{\"" KUBE_ROLE_LABEL "\":\"%s\"},"
                      "\"annotations\":{\"" KUBE_TERM_ANNOTATION "\":\"%llu\"}}}",
                      now->uid, now->version, primary ? "primary" : "standby", (unsigned long long)term);
}

static void *pod_make(yyjson_val *object, void *data)
{
    (void)data;
    return kube_pod_role_read(object);
}

static const struct k8s_trim trim = {.make = pod_make, .release = kube_pod_role_free};

static const struct kube_pod_role *pod_of(const struct kube_roles *r, const char *name)
{
    char *key = mem_printf("%s/%s", r->k->options.name_space, name);
    const struct k8s_object *found = object_store_find(reflector_store(k8s_watch_reflector(r->watch)), key);
    free(key);
    return found != NULL ? found->value : NULL;
}

/* Whether another pod of the StatefulSet still carries the label, as far as its members are known. */
static bool other_primary(const struct kube_roles *r, const struct wanted *w)
{
    for (int i = 0; i <= 9; i++) {
        char *name = mem_printf("%s-%d", w->set, i);
        const struct kube_pod_role *pod = pod_of(r, name);
        bool other = pod != NULL && pod->primary && strcmp(name, w->name) != 0;
        free(name);
        if (other)
            return true;
    }
    return false;
}

/* ---- patches ---- */

static void end_maybe(struct kube_roles *r);

static void wanted_free(struct wanted *w)
{
    list_remove(&w->node);
    free(w->name);
    free(w->set);
    free(w->sent);
    free(w);
}

static void on_patched(const struct k8s_answer *answer, void *data)
{
    struct wanted *w = data;
    struct kube_roles *r = w->all;
    w->call = NULL;
    r->calls--;
    if (answer->err == NULL)
        log_event(LOG_INFO, "the pod is marked", "instance", w->name, "role",
                  w->primary ? "primary" : "standby", "term", log_num((long long)w->term), NULL);
    else if (answer->err->code != ERRC_CONFLICT && answer->err->code != ERRC_CANCELED) {
        log_event(LOG_WARN, "the pod could not be marked, trying again", "instance", w->name, "err",
                  answer->err->message, NULL);
        w->again_ns = loop_now(r->k->loop) + ENV_NS_PER_S;
        free(w->sent);
        w->sent = NULL;
    }
    if (r->closing)
        end_maybe(r);
}

static void patch(struct wanted *w, const struct kube_pod_role *pod)
{
    struct kube_roles *r = w->all;
    struct err err = {0};
    char *path = kube_path(r->k, "/api/v1", "pods", w->name);
    char *body = kube_pod_role_patch(pod, w->primary, w->term);
    const struct k8s_request request = {.method = "PATCH",
                                        .path = path,
                                        .query = "fieldManager=shardherd-role",
                                        .content_type = "application/merge-patch+json",
                                        .body = body,
                                        .body_length = strlen(body)};
    if (k8s_call_start(r->k->options.client, &request, on_patched, w, &w->call, &err) == 0) {
        r->calls++;
        free(w->sent);
        w->sent = mem_strdup(pod->version);
    } else {
        log_event(LOG_WARN, "the pod could not be marked, trying again", "instance", w->name, "err",
                  err.message, NULL);
        w->again_ns = loop_now(r->k->loop) + ENV_NS_PER_S;
    }
    free(path);
    free(body);
}

static void wanted_look(struct wanted *w)
{
    const struct kube_roles *r = w->all;
    const struct kube_pod_role *pod = pod_of(r, w->name);
    if (pod == NULL || w->call != NULL || loop_now(r->k->loop) < w->again_ns ||
        !kube_pod_role_differs(pod, w->primary, w->term))
        return;
    if (w->sent != NULL && strcmp(w->sent, pod->version) == 0)
        return; /* the watch has not told yet what became of it */
    if (!w->primary || !other_primary(r, w))
        patch(w, pod);
}

/* What was said of the pod before does not hold for the next of its name. */
static void forget(struct kube_roles *r, const char *name)
{
    list_each(node, &r->list)
    {
        struct wanted *w = list_item(node, struct wanted, node);
        if (strcmp(w->name, name) == 0)
            w->until_ns = 0;
    }
}

static void tell_moves(struct kube_roles *r)
{
    const struct runtime *rt = &r->k->base;
    list_each(node, &r->moves)
    {
        struct move *m = list_item(node, struct move, node);
        forget(r, m->name);
        if (!r->closing && rt->moved != NULL)
            rt->moved(m->name, rt->moved_data);
        list_remove(&m->node);
        free(m->name);
        free(m);
    }
}

static void look(struct loop_task *task, void *data)
{
    struct kube_roles *r = data;
    uint64_t now = loop_now(r->k->loop);
    (void)task;
    if (r->closing || !reflector_synced(k8s_watch_reflector(r->watch)))
        return;
    tell_moves(r);
    list_each(node, &r->list)
    {
        struct wanted *w = list_item(node, struct wanted, node);
        if (now < w->until_ns)
            wanted_look(w);
        else if (w->call == NULL)
            wanted_free(w);
    }
}

/* Nothing began and nothing ended. One that never ran may end as well, and the next of its name be another
 * shard's. */
static bool same_life(const struct kube_pod_role *a, const struct kube_pod_role *b)
{
    if (a == NULL || b == NULL)
        return a == NULL && (b == NULL || !b->runs);
    return a->runs == b->runs && strcmp(a->uid, b->uid) == 0;
}

static void changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                    void *data)
{
    struct kube_roles *r = data;
    const struct kube_pod_role *a = before != NULL ? before->value : NULL,
                               *b = now != NULL ? now->value : NULL;
    (void)change;
    if (r->closing)
        return;
    if (a == NULL || b == NULL || a->tls != b->tls)
        r->k->changed = true;
    if (!same_life(a, b)) {
        const char *key = now != NULL ? now->key : before->key;
        struct move *m = mem_alloc(sizeof *m);
        m->name = mem_strdup(strchr(key, '/') + 1);
        list_append(&r->moves, &m->node);
    }
    loop_defer(r->k->loop, &r->look);
}

static void synced(struct k8s_watch *watch, void *data)
{
    struct kube_roles *r = data;
    (void)watch;
    r->k->changed = true;
    if (!r->closing)
        loop_defer(r->k->loop, &r->look);
}

/* ---- what is wanted ---- */

static struct kube_roles *roles_of(struct kubernetes *k)
{
    if (k->roles != NULL)
        return k->roles;
    struct kube_roles *r = k->roles = mem_zalloc(sizeof *r);
    char *path = kube_path(k, "/api/v1", "pods", NULL);
    const struct k8s_watch_options options = {
        .path = path,
        .selector = KUBE_OF_SHARDS,
        .trim = &trim,
        .changed = changed,
        .synced = synced,
        .data = r,
    };
    r->k = k;
    r->look = (struct loop_task){.run = look, .data = r};
    list_init(&r->list);
    list_init(&r->moves);
    r->watch = k8s_watch_start(k->options.client, &options);
    free(path);
    return r;
}

static struct wanted *wanted_get(struct kube_roles *r, const char *name)
{
    list_each(node, &r->list)
    {
        struct wanted *w = list_item(node, struct wanted, node);
        if (strcmp(w->name, name) == 0)
            return w;
    }
    char *set = kube_set_name(name);
    if (set == NULL)
        return NULL;
    struct wanted *w = mem_zalloc(sizeof *w);
    w->all = r;
    w->name = mem_strdup(name);
    w->set = set;
    list_append(&r->list, &w->node);
    return w;
}

void kube_mark(struct runtime *rt, const char *name, bool primary, uint64_t term)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    struct kube_roles *r = k->closing ? NULL : roles_of(k);
    struct wanted *w = r != NULL ? wanted_get(r, name) : NULL;
    if (w == NULL)
        return;
    w->until_ns = loop_now(k->loop) + KUBE_ROLE_STAYS_NS;
    if (w->call == NULL) { /* else when it was answered: it is said again */
        w->primary = primary;
        w->term = term;
    }
    loop_defer(k->loop, &r->look);
}

enum runtime_place kube_place(struct runtime *rt, const char *name)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    const struct kube_roles *r = k->closing ? NULL : roles_of(k);
    if (r == NULL || !reflector_synced(k8s_watch_reflector(r->watch)))
        return RUNTIME_PLACE_UNKNOWN;
    const struct kube_pod_role *pod = pod_of(r, name);
    return pod != NULL && pod->runs ? RUNTIME_PLACE_THERE : RUNTIME_PLACE_GONE;
}

enum kube_tls kube_roles_tls(struct kubernetes *k, const char *name)
{
    const struct kube_roles *r = k->closing ? NULL : roles_of(k);
    if (r == NULL || !reflector_synced(k8s_watch_reflector(r->watch)))
        return KUBE_TLS_UNKNOWN;
    const struct kube_pod_role *pod = pod_of(r, name);
    return pod != NULL ? pod->tls : KUBE_TLS_UNKNOWN;
}

/* ---- the end ---- */

static void end_maybe(struct kube_roles *r)
{
    if (!r->watch_closed || r->calls > 0)
        return;
    void (*closed)(void *data) = r->closed;
    void *data = r->closed_data;
    list_each(node, &r->list)
    {
        wanted_free(list_item(node, struct wanted, node));
    }
    tell_moves(r);
    free(r);
    closed(data);
}

static void watch_closed(void *data)
{
    struct kube_roles *r = data;
    r->watch_closed = true;
    end_maybe(r);
}

void kube_roles_close(struct kube_roles *roles, void (*closed)(void *data), void *data)
{
    if (roles == NULL) {
        closed(data);
        return;
    }
    roles->closing = true;
    roles->closed = closed;
    roles->closed_data = data;
    loop_task_cancel(&roles->look);
    list_each(node, &roles->list)
    {
        struct wanted *w = list_item(node, struct wanted, node);
        if (w->call != NULL)
            k8s_call_cancel(w->call);
    }
    k8s_watch_close(roles->watch, watch_closed, roles);
}
