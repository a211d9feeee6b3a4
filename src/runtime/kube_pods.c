#include "runtime/kube_pods.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "k8s/watch.h"
#include "runtime/kube_objects.h"

/* Shards are looked at one after the other, and each waits for a moment. */
#define LINGER_NS (30 * ENV_NS_PER_S)

struct kube_pods {
    struct k8s_client *client;
    char *name_space;
    struct list users;
    struct k8s_watch *watch;  /* NULL: nobody waits, or has lately */
    struct loop_timer linger; /* nobody waits, and the watch is there */
    unsigned ending;          /* watches that are being closed */
    bool over;
    void (*closed)(void *data);
    void *closed_data;
};

static void *pod_make(struct yyjson_val *object, void *data)
{
    struct kube_pod *pod = mem_alloc(sizeof *pod);
    (void)data;
    kube_pod_read(object, pod);
    return pod;
}

static const struct k8s_trim trim = {.make = pod_make, .release = free};

static void tell(struct kube_pods *p, const char *key)
{
    list_each(node, &p->users)
    {
        struct kube_pods_user *user = list_item(node, struct kube_pods_user, node);
        if (key == NULL || strcmp(user->key, key) == 0)
            user->changed(user->data);
    }
}

static void changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                    void *data)
{
    (void)change;
    tell(data, now != NULL ? now->key : before->key);
}

static void synced(struct k8s_watch *watch, void *data)
{
    (void)watch;
    tell(data, NULL);
}

static void watch_start(struct kube_pods *p)
{
    char *path = mem_printf("/api/v1/namespaces/%s/pods", p->name_space);
    const struct k8s_watch_options options = {
        .path = path,
        .selector = KUBE_OF_SHARDS,
        .trim = &trim,
        .changed = changed,
        .synced = synced,
        .data = p,
    };
    p->watch = k8s_watch_start(p->client, &options);
    free(path);
}

static void end_maybe(struct kube_pods *p)
{
    if (!p->over || p->ending > 0)
        return;
    void (*closed)(void *) = p->closed;
    void *data = p->closed_data;
    free(p->name_space);
    free(p);
    closed(data);
}

static void watch_closed(void *data)
{
    struct kube_pods *p = data;
    p->ending--;
    end_maybe(p);
}

static void watch_end(struct kube_pods *p)
{
    struct k8s_watch *watch = p->watch;
    p->watch = NULL;
    p->ending++;
    k8s_watch_close(watch, watch_closed, p);
}

static void lingered(struct loop_timer *timer, void *data)
{
    (void)timer;
    watch_end(data);
}

struct kube_pods *kube_pods_new(struct k8s_client *client, const char *name_space)
{
    struct kube_pods *p = mem_zalloc(sizeof *p);
    p->client = client;
    p->name_space = mem_strdup(name_space);
    list_init(&p->users);
    loop_timer_init(k8s_client_loop(client), &p->linger, lingered, p);
    return p;
}

void kube_pods_close(struct kube_pods *p, void (*closed)(void *data), void *data)
{
    p->over = true;
    p->closed = closed;
    p->closed_data = data;
    loop_timer_stop(&p->linger);
    if (p->watch != NULL)
        watch_end(p);
    else
        end_maybe(p);
}

void kube_pods_join(struct kube_pods *p, struct kube_pods_user *user, const char *pod)
{
    user->pods = p;
    user->key = mem_printf("%s/%s", p->name_space, pod);
    list_append(&p->users, &user->node);
    loop_timer_stop(&p->linger);
    if (p->watch == NULL)
        watch_start(p);
}

void kube_pods_leave(struct kube_pods_user *user)
{
    struct kube_pods *p = user->pods;
    if (p == NULL)
        return;
    user->pods = NULL;
    list_remove(&user->node);
    free(user->key);
    if (list_empty(&p->users))
        loop_timer_start(&p->linger, LINGER_NS);
}

bool kube_pods_synced(const struct kube_pods_user *user, struct err *why)
{
    const struct reflector *reflector = k8s_watch_reflector(user->pods->watch);
    struct reflector_facts facts;
    if (reflector_synced(reflector))
        return true;
    reflector_facts(reflector, &facts);
    err_copy(why, &facts.last_error);
    return false;
}

const struct kube_pod *kube_pods_find(const struct kube_pods_user *user)
{
    const struct k8s_object *found =
        object_store_find(reflector_store(k8s_watch_reflector(user->pods->watch)), user->key);
    return found != NULL ? found->value : NULL;
}
