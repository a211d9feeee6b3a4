#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/client.h"
#include "k8s/event_queue.h"

#define CLOSE_NS (2 * ENV_NS_PER_S)
#define TRY_NS   (10 * ENV_NS_PER_S)

struct k8s_events {
    struct k8s_client *client;
    struct loop *loop;
    struct event_queue *queue;
    struct k8s_call *call;
    struct loop_timer timer; /* what is due next */
    struct loop_timer limit; /* of closing */
    struct loop_task task;   /* sends what is due */
    bool refused_logged, closing, over;
    void (*closed)(void *data);
    void *closed_data;
};

static void events_free(struct k8s_events *e)
{
    void (*closed)(void *data) = e->closed;
    void *closed_data = e->closed_data;
    loop_timer_stop(&e->timer);
    loop_timer_stop(&e->limit);
    loop_task_cancel(&e->task);
    event_queue_free(e->queue);
    free(e);
    if (closed != NULL)
        closed(closed_data);
}

static void answered(const struct k8s_answer *answer, void *data)
{
    struct k8s_events *e = data;
    e->call = NULL;
    bool refused = event_queue_answer(e->queue, loop_now(e->loop), answer->http_status);
    if (refused && !e->refused_logged) {
        e->refused_logged = true;
        log_event(LOG_WARN, "an Event was refused; further ones are only counted", "error",
                  answer->err->message, NULL);
    }
    loop_defer(e->loop, &e->task);
}

static void send_next(struct loop_task *task, void *data)
{
    struct k8s_events *e = data;
    struct event_request q;
    struct err err = {0};
    (void)task;
    if (e->call != NULL)
        return;
    if (e->over || !event_queue_next(e->queue, loop_now(e->loop), e->closing, &q)) {
        uint64_t due = event_queue_due(e->queue);
        if (e->closing)
            events_free(e);
        else if (due != 0)
            loop_timer_start_at(&e->timer, due);
        return;
    }
    const struct k8s_request request = {
        .method = q.method,
        .path = q.path,
        .content_type = q.content_type,
        .body = q.body,
        .body_length = strlen(q.body),
        .timeout_ns = TRY_NS,
        .once = true, /* the queue has its own patience */
    };
    if (k8s_call_start(e->client, &request, answered, e, &e->call, &err) != 0) {
        (void)event_queue_answer(e->queue, loop_now(e->loop), 0);
        e->over = e->closing;
        loop_defer(e->loop, &e->task);
    }
}

static void fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    send_next(NULL, data);
}

static void limit_reached(struct loop_timer *timer, void *data)
{
    struct k8s_events *e = data;
    (void)timer;
    e->over = true;
    if (e->call != NULL)
        k8s_call_cancel(e->call);
    else
        loop_defer(e->loop, &e->task);
}

struct k8s_events *k8s_events_new(struct k8s_client *client, const struct k8s_reporter *reporter)
{
    struct k8s_events *e = mem_zalloc(sizeof *e);
    e->client = client;
    e->loop = k8s_client_loop(client);
    e->queue = event_queue_new(e->loop->env, reporter);
    e->task = (struct loop_task){.run = send_next, .data = e};
    list_init(&e->task.node);
    loop_timer_init(e->loop, &e->timer, fired, e);
    loop_timer_init(e->loop, &e->limit, limit_reached, e);
    return e;
}

void k8s_events_close(struct k8s_events *e, void (*closed)(void *data), void *data)
{
    e->closing = true;
    e->closed = closed;
    e->closed_data = data;
    loop_timer_stop(&e->timer);
    loop_timer_start(&e->limit, CLOSE_NS);
    loop_defer(e->loop, &e->task);
}

void k8s_events_emit(struct k8s_events *e, const struct k8s_reference *regarding, enum k8s_event_type type,
                     const char *reason, const char *action, const char *note)
{
    if (e->closing)
        return;
    event_queue_emit(e->queue, loop_now(e->loop), regarding, type, reason, action, note);
    loop_defer(e->loop, &e->task);
}

void k8s_events_facts(const struct k8s_events *e, struct k8s_events_facts *ret)
{
    event_queue_facts(e->queue, ret);
}
