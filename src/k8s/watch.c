#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "k8s/watch.h"

#define METADATA_ONLY "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
#define METADATA_LIST "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

/* The server writes each event by itself. Woken up for each, we would spend more on waking than on events;
 * nobody misses 2 ms, and nobody sees the objects of a snapshot before the last one. */
#define GATHER_NS       (2 * ENV_NS_PER_MS)
#define GATHER_FIRST_NS (10 * ENV_NS_PER_MS)

struct k8s_watch {
    struct k8s_client *client;
    struct k8s_watch_options o;
    char *path, *selector;
    struct reflector *reflector;
    struct k8s_stream *stream; /* of the present request */
    int streams;               /* not yet ended, dropped ones included */
    struct loop_timer timer;
    struct loop_task start; /* a request that could not be started ends in the next turn */
    struct err start_err;
    bool synced, closing;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

/* One request. A dropped one goes on for a moment; what it still says must not reach the reflector. */
struct watch_stream {
    struct k8s_watch *watch;
    struct k8s_stream *stream;
};

static void watch_step(struct k8s_watch *w, const struct reflector_step *step);

static void check_closed(struct k8s_watch *w)
{
    if (w->closing && w->streams == 0)
        loop_defer(k8s_client_loop(w->client), &w->closed_task);
}

/* ---- what the stream says ---- */

static bool present(const struct watch_stream *s)
{
    return s->watch->stream == s->stream && !s->watch->closing;
}

static void stream_head(int status, const char *retry_after, void *data)
{
    struct watch_stream *s = data;
    struct reflector_step step;
    if (!present(s))
        return;
    reflector_head(s->watch->reflector, loop_now(k8s_client_loop(s->watch->client)), status, retry_after,
                   &step);
    k8s_stream_gather(s->stream, s->watch->synced ? GATHER_NS : GATHER_FIRST_NS);
    watch_step(s->watch, &step);
}

static void stream_data(const char *bytes, size_t length, void *data)
{
    struct watch_stream *s = data;
    struct reflector_step step;
    if (!present(s))
        return;
    reflector_data(s->watch->reflector, loop_now(k8s_client_loop(s->watch->client)), bytes, length, &step);
    watch_step(s->watch, &step);
}

static void stream_end(const struct err *err, void *data)
{
    struct watch_stream *s = data;
    struct k8s_watch *w = s->watch;
    struct reflector_step step;
    w->streams--;
    if (present(s)) {
        w->stream = NULL;
        reflector_end(w->reflector, loop_now(k8s_client_loop(w->client)), err, &step);
        watch_step(w, &step);
    }
    free(s);
    check_closed(w);
}

static const struct k8s_stream_user stream_user = {stream_head, stream_data, stream_end};

/* ---- what the reflector wants ---- */

static void drop(struct k8s_watch *w)
{
    struct k8s_stream *stream = w->stream;
    w->stream = NULL;
    if (stream != NULL)
        k8s_stream_cancel(stream);
}

static void request_send(struct k8s_watch *w, const struct reflector_step *step)
{
    uint64_t now = loop_now(k8s_client_loop(w->client));
    struct watch_stream *s = mem_zalloc(sizeof *s);
    char *query = mem_printf("%s%s%s", step->query, w->selector != NULL ? "&" : "",
                             w->selector != NULL ? w->selector : "");
    const char *accept = step->watch ? METADATA_ONLY : METADATA_LIST;
    const struct k8s_request request = {
        .path = w->path,
        .query = query,
        .accept = w->o.metadata_only ? accept : NULL,
        .timeout_ns = step->request_ends - now + ENV_NS_PER_S, /* the reflector's own deadline comes first */
    };
    s->watch = w;
    err_clear(&w->start_err);
    if (k8s_stream_start(w->client, &request, &stream_user, s, &w->stream, &w->start_err) == 0) {
        s->stream = w->stream;
        w->streams++;
    } else {
        free(s);
        loop_defer(k8s_client_loop(w->client), &w->start);
    }
    free(query);
}

static void watch_step(struct k8s_watch *w, const struct reflector_step *step)
{
    if (step->abort)
        drop(w);
    if (step->send)
        request_send(w, step);
    /* Each event moves the deadline away. A timer that is early asks for the deadline and waits again. */
    if (step->deadline_ns == 0)
        loop_timer_stop(&w->timer);
    else if (!loop_timer_armed(&w->timer) || w->timer.deadline_ns > step->deadline_ns)
        loop_timer_start_at(&w->timer, step->deadline_ns);
    if (!w->synced && reflector_synced(w->reflector)) {
        w->synced = true;
        if (w->stream != NULL && !step->send)
            k8s_stream_gather(w->stream, GATHER_NS);
        if (w->o.synced != NULL)
            w->o.synced(w, w->o.data);
    }
}

static void watch_fired(struct loop_timer *timer, void *data)
{
    struct k8s_watch *w = data;
    struct reflector_step step;
    (void)timer;
    reflector_tick(w->reflector, loop_now(k8s_client_loop(w->client)), &step);
    watch_step(w, &step);
}

static void start_failed(struct loop_task *task, void *data)
{
    struct k8s_watch *w = data;
    struct reflector_step step;
    (void)task;
    if (w->closing)
        return;
    reflector_end(w->reflector, loop_now(k8s_client_loop(w->client)), &w->start_err, &step);
    watch_step(w, &step);
}

static void watch_gone(struct loop_task *task, void *data)
{
    struct k8s_watch *w = data;
    void (*closed)(void *data) = w->closed;
    void *closed_data = w->closed_data;
    (void)task;
    reflector_free(w->reflector);
    free(w->path);
    free(w->selector);
    free(w);
    if (closed != NULL)
        closed(closed_data);
}

struct k8s_watch *k8s_watch_start(struct k8s_client *client, const struct k8s_watch_options *options)
{
    struct k8s_watch *w = mem_zalloc(sizeof *w);
    struct loop *loop = k8s_client_loop(client);
    struct reflector_step step;
    w->client = client;
    w->o = *options;
    w->path = mem_strdup(options->path);
    w->selector = mem_strdup(options->selector);
    w->start = (struct loop_task){.run = start_failed, .data = w};
    w->closed_task = (struct loop_task){.run = watch_gone, .data = w};
    list_init(&w->start.node);
    list_init(&w->closed_task.node);
    loop_timer_init(loop, &w->timer, watch_fired, w);
    const struct reflector_options o = {
        .env = loop->env,
        .server = k8s_client_server(client),
        .trim = options->trim,
        .changed = options->changed,
        .data = options->data,
    };
    w->reflector = reflector_new(&o);
    reflector_start(w->reflector, loop_now(loop), &step);
    watch_step(w, &step);
    return w;
}

void k8s_watch_close(struct k8s_watch *w, void (*closed)(void *data), void *data)
{
    struct reflector_step step;
    w->closing = true;
    w->closed = closed;
    w->closed_data = data;
    reflector_stop(w->reflector, &step);
    loop_timer_stop(&w->timer);
    loop_task_cancel(&w->start);
    drop(w);
    check_closed(w);
}

const struct reflector *k8s_watch_reflector(const struct k8s_watch *w)
{
    return w->reflector;
}
