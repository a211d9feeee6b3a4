#include "runtime/kubernetes.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/client.h"
#include "runtime/kubernetes_impl.h"

#define TIMEOUT_NS (600 * ENV_NS_PER_S)

static int ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                  struct err *err)
{
    (void)rt;
    (void)spec;
    (void)cb;
    (void)data;
    return err_set(err, ERRC_UNSUPPORTED, "coming");
}

static int stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    (void)rt;
    (void)name;
    (void)cb;
    (void)data;
    return err_set(err, ERRC_UNSUPPORTED, "coming");
}

static int list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err)
{
    (void)rt;
    (void)cb;
    (void)data;
    return err_set(err, ERRC_UNSUPPORTED, "coming");
}

/* ---- open and close ---- */

static void kubernetes_free(struct kubernetes *k)
{
    free((char *)k->options.name_space);
    free((char *)k->options.image);
    free((char *)k->options.directory);
    free(k);
}

static void on_settled(struct loop_task *task, void *data)
{
    struct kubernetes *k = data;
    void (*closed)(void *) = k->closed;
    void *closed_data = k->closed_data;
    (void)task;
    kubernetes_free(k);
    if (closed != NULL)
        closed(closed_data);
}

static void kubernetes_close(struct runtime *rt, void (*closed)(void *), void *data)
{
    struct kubernetes *k = (struct kubernetes *)rt;
    if (k->closing)
        return;
    k->closing = true;
    k->closed = closed;
    k->closed_data = data;
    if (list_empty(&k->ops))
        loop_defer(k->loop, &k->settle);
}

static const struct runtime_backend backend = {
    .kind = "kubernetes",
    .ensure = ensure,
    .stop = stop,
    .remove = stop,
    .list = list,
    .close = kubernetes_close,
};

int runtime_kubernetes_open(struct loop *loop, const struct runtime_kubernetes_options *o,
                            struct runtime **ret, struct err *err)
{
    if (mkdir(o->directory, 0700) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "cannot create %s", o->directory);
    struct kubernetes *k = mem_zalloc(sizeof *k);
    const struct k8s_access *access = k8s_client_access(o->client);
    k->base.backend = &backend;
    k->loop = loop;
    k->options = *o;
    k->options.name_space = mem_strdup(o->name_space != NULL ? o->name_space : access->name_space);
    k->options.image = mem_strdup(o->image);
    k->options.directory = mem_strdup(o->directory);
    if (k->options.timeout_ns == 0)
        k->options.timeout_ns = TIMEOUT_NS;
    k->settle.run = on_settled;
    k->settle.data = k;
    list_init(&k->ops);
    *ret = &k->base;
    return 0;
}
