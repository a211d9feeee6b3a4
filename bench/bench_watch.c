/* links: k8s */
/*
 * The Kubernetes client on all pods, for bench/run watch-sync and watch-events.
 *
 *     bench_watch KUBECONFIG full|metadata|labelled
 *
 * full: whole objects, of which is kept what the manager keeps of a pod. metadata: PartialObjectMetadata.
 * labelled: whole objects, those with our label only. Prints {"synced":N} when the store is complete, and for
 * each line on stdin what was seen since the last one; ends with its input.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/watch.h"

#define STAMP   "bench.shardherd.io/at" /* when the change was sent, microseconds */
#define MANAGED "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dshardherd"

struct bench {
    struct loop loop;
    struct k8s_client *client;
    struct k8s_watch *watch;
    uv_pipe_t input;
    char bytes[64];
    int64_t *delays;
    size_t count, capacity;
};

/* ---- what is kept of a pod ---- */

struct pod {
    int64_t at; /* of its last change */
    uint32_t restarts;
    bool ready;
    char *phase, *address, *node, *owner; /* into text */
    char text[];
};

static const char *text_at(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return text != NULL ? text : "";
}

static void *pod_make(yyjson_val *object, void *data)
{
    yyjson_val *metadata = yyjson_obj_get(object, "metadata"), *status = yyjson_obj_get(object, "status");
    yyjson_val *owner = yyjson_arr_get_first(yyjson_obj_get(metadata, "ownerReferences"));
    const char *from[] = {text_at(status, "phase"), text_at(status, "podIP"),
                          text_at(yyjson_obj_get(object, "spec"), "nodeName"), text_at(owner, "uid")};
    size_t length = 0, i, n;
    yyjson_val *container;
    (void)data;
    for (i = 0; i < 4; i++)
        length += strlen(from[i]) + 1;
    struct pod *pod = mem_zalloc(sizeof *pod + length);
    char **to[] = {&pod->phase, &pod->address, &pod->node, &pod->owner}, *at = pod->text;
    for (i = 0; i < 4; i++) {
        *to[i] = strcpy(at, from[i]);
        at += strlen(from[i]) + 1;
    }
    pod->at = strtoll(text_at(yyjson_obj_get(metadata, "annotations"), STAMP), NULL, 10);
    pod->ready = true;
    yyjson_arr_foreach(yyjson_obj_get(status, "containerStatuses"), i, n, container)
    {
        pod->ready &= yyjson_is_true(yyjson_obj_get(container, "ready"));
        pod->restarts += (uint32_t)yyjson_get_uint(yyjson_obj_get(container, "restartCount"));
    }
    return pod;
}

static const struct k8s_trim pod_trim = {.make = pod_make, .release = free};

/* ---- the watch ---- */

static void changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                    void *data)
{
    struct bench *b = data;
    const struct pod *pod = now != NULL ? now->value : NULL;
    (void)before;
    if (change != K8S_MODIFIED || pod == NULL || pod->at == 0)
        return;
    if (b->count == b->capacity) {
        b->capacity = b->capacity > 0 ? b->capacity * 2 : 1024;
        b->delays = mem_resize(b->delays, b->capacity, sizeof *b->delays);
    }
    b->delays[b->count++] = env_system()->wall_us(env_system()) - pod->at;
}

static void synced(struct k8s_watch *watch, void *data)
{
    (void)data;
    printf("{\"synced\":%zu}\n", reflector_store(k8s_watch_reflector(watch))->count);
    fflush(stdout);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t quantile(const struct bench *b, double q)
{
    size_t i = (size_t)(q * (double)b->count);
    return b->count > 0 ? b->delays[i < b->count ? i : b->count - 1] : 0;
}

static void report(struct bench *b)
{
    struct reflector_facts f;
    reflector_facts(k8s_watch_reflector(b->watch), &f);
    if (b->count > 0)
        qsort(b->delays, b->count, sizeof *b->delays, compare);
    printf("{\"events\":%zu,\"p50_us\":%" PRId64 ",\"p99_us\":%" PRId64 ",\"max_us\":%" PRId64
           ",\"errors\":%" PRIu64 ",\"lists\":%" PRIu64 ",\"longest_turn_us\":%" PRIu64 "}\n",
           b->count, quantile(b, 0.5), quantile(b, 0.99), quantile(b, 1), f.errors, f.lists,
           b->loop.longest_turn_us);
    fflush(stdout);
    b->count = 0;
    loop_turns_reset(&b->loop);
}

/* ---- its life ---- */

static void watch_closed(void *data)
{
    k8s_client_close(((struct bench *)data)->client, NULL, NULL);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct bench *b = handle->data;
    (void)size;
    *buf = uv_buf_init(b->bytes, sizeof b->bytes);
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct bench *b = stream->data;
    (void)buf;
    if (n > 0)
        report(b);
    if (n >= 0)
        return;
    uv_close((uv_handle_t *)stream, NULL);
    k8s_watch_close(b->watch, watch_closed, b);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct err err = {0};
    struct k8s_access *access = NULL;
    if (argc != 3) {
        fprintf(stderr, "usage: bench_watch KUBECONFIG full|metadata|labelled\n");
        return 2;
    }
    if (kubeconfig_load(argv[1], NULL, &access, &err) != 0 || loop_init(&b.loop, env_system(), &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    const struct k8s_watch_options o = {
        .path = "/api/v1/pods",
        .selector = strcmp(argv[2], "labelled") == 0 ? MANAGED : NULL,
        .metadata_only = strcmp(argv[2], "metadata") == 0,
        .trim = &pod_trim,
        .changed = changed,
        .synced = synced,
        .data = &b,
    };
    b.client = k8s_client_new(&b.loop, access);
    b.watch = k8s_watch_start(b.client, &o);
    b.input.data = &b;
    (void)uv_pipe_init(&b.loop.uv, &b.input, 0);
    (void)uv_pipe_open(&b.input, 0);
    (void)uv_read_start((uv_stream_t *)&b.input, on_alloc, on_input);
    loop_run(&b.loop);
    free(b.delays);
    return loop_fini(&b.loop) != 0;
}
