#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "cli/stream.h"

#define EVENT_LIMIT   (4u * 1024 * 1024)
#define PROBLEM_LIMIT 65536
#define RETRY_NS      (500 * ENV_NS_PER_MS)
#define GIVE_UP_NS    (60 * ENV_NS_PER_S)

/*
 * CLOSED --> OPENING --> OPEN          OPENING and OPEN wait for on_body() and on_end();
 *   ^           |         |            RETRY waits for its time in stream_next().
 *   |           v         v
 *   |        REFUSED    RETRY --> OPENING
 */
enum state { STATE_CLOSED, STATE_OPENING, STATE_OPEN, STATE_RETRY, STATE_REFUSED };

struct item {
    struct list node;
    struct stream_event event;
};

struct stream {
    struct session *s;
    char *path;
    enum state state;
    struct http_call *call;
    struct sse_parser *parser;
    struct list items;
    struct item *current;
    char *last_id;
    bool worked; /* was open at least once */
    bool wake;
    uint64_t retry_ns;  /* when the next attempt is due */
    uint64_t lost_ns;   /* when the stream broke */
    int status;         /* of the last attempt, 0 = no answer */
    struct err err;     /* of the last attempt */
    struct buf problem; /* body of an answer that is no stream */
};

static void item_free(struct item *item)
{
    if (item == NULL)
        return;
    free(item->event.event);
    free(item->event.data);
    free(item->event.id);
    free(item);
}

static void on_event(const struct sse_event *event, void *data)
{
    struct stream *st = data;
    struct item *item = mem_zalloc(sizeof *item);
    item->event.event = mem_strdup(event->event);
    item->event.data = mem_strdup(event->data);
    item->event.id = mem_strdup(event->id);
    list_append(&st->items, &item->node);
    if (event->id[0] != '\0') {
        free(st->last_id);
        st->last_id = mem_strdup(event->id);
    }
    loop_stop(&st->s->loop);
}

static void on_body(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct stream *st = data;
    struct err err = {0};
    if (status != 200) {
        buf_add(&st->problem, bytes, length);
        return;
    }
    st->state = STATE_OPEN;
    st->worked = true;
    if (sse_parser_feed(st->parser, bytes, length, on_event, st, &err) != 0)
        http_call_cancel(call);
}

static void on_end(const struct http_answer *answer, void *data)
{
    struct stream *st = data;
    uint64_t now = loop_clock(&st->s->loop);
    bool refused = answer->err == NULL && answer->status != 200;
    st->call = NULL;
    st->status = answer->err == NULL ? answer->status : 0;
    err_copy(&st->err, answer->err);
    if (st->state == STATE_OPEN)
        st->lost_ns = now;
    st->state = refused || !st->worked ? STATE_REFUSED : STATE_RETRY;
    st->retry_ns = now + RETRY_NS;
    loop_stop(&st->s->loop);
}

struct stream *stream_new(struct session *s, const char *path)
{
    struct stream *st = mem_zalloc(sizeof *st);
    st->s = s;
    st->path = mem_strdup(path);
    st->problem.limit = PROBLEM_LIMIT;
    list_init(&st->items);
    return st;
}

void stream_free(struct stream *st)
{
    if (st == NULL)
        return;
    if (st->call != NULL)
        http_call_cancel(st->call);
    while (st->call != NULL)
        loop_run(&st->s->loop);
    list_each(node, &st->items)
    {
        list_remove(node);
        item_free(list_item(node, struct item, node));
    }
    item_free(st->current);
    sse_parser_free(st->parser);
    buf_free(&st->problem);
    free(st->last_id);
    free(st->path);
    free(st);
}

static void start(struct stream *st)
{
    const struct http_header headers[] = {{"Accept", "text/event-stream"}, {"Last-Event-ID", st->last_id}};
    char *url = mem_printf("%s%s", st->s->servers[PORT_PUBLIC_API], st->path);
    const struct http_call_options options = {.method = "GET",
                                              .url = url,
                                              .headers = headers,
                                              .header_count = st->last_id != NULL ? 2 : 1,
                                              .timeout_ns = UINT64_MAX,
                                              .idle_timeout_ns = GIVE_UP_NS,
                                              .on_body = on_body};
    sse_parser_free(st->parser);
    st->parser = sse_parser_new(EVENT_LIMIT);
    st->state = STATE_OPENING;
    err_clear(&st->err);
    buf_reset(&st->problem);
    if (http_call_start(st->s->client, &options, on_end, st, &st->call, &st->err) != 0) {
        st->call = NULL;
        st->state = STATE_REFUSED;
    }
    free(url);
}

static int explain(struct stream *st)
{
    struct session_reply reply = {.status = st->status};
    if (st->err.code != ERRC_NONE || st->status == 0)
        return session_unreached(st->s, PORT_PUBLIC_API, &st->err);
    reply.doc = yyjson_read(buf_text(&st->problem), st->problem.length, 0);
    reply.root = yyjson_doc_get_root(reply.doc);
    int rc = session_problem(st->s, PORT_PUBLIC_API, st->path, &reply);
    session_reply_free(&reply);
    return rc;
}

static void on_due(struct loop_timer *timer, void *data)
{
    struct stream *st = data;
    (void)timer;
    loop_stop(&st->s->loop);
}

static void run_until(struct stream *st, uint64_t deadline_ns)
{
    struct loop_timer timer;
    loop_timer_init(&st->s->loop, &timer, on_due, st);
    if (deadline_ns != UINT64_MAX)
        loop_timer_start_at(&timer, deadline_ns);
    loop_run(&st->s->loop);
    loop_timer_stop(&timer);
}

enum stream_next stream_next(struct stream *st, uint64_t deadline_ns, const struct stream_event **ret,
                             int *ret_exit)
{
    item_free(st->current);
    st->current = NULL;
    for (;;) {
        uint64_t now = loop_clock(&st->s->loop);
        if (!list_empty(&st->items)) {
            st->current = list_item(st->items.next, struct item, node);
            list_remove(&st->current->node);
            *ret = &st->current->event;
            return STREAM_EVENT;
        }
        if (st->state == STATE_REFUSED || (st->state == STATE_RETRY && now - st->lost_ns > GIVE_UP_NS)) {
            *ret_exit = explain(st);
            return STREAM_ENDED;
        }
        if (st->wake || now >= deadline_ns) {
            st->wake = false;
            return STREAM_TIMEOUT;
        }
        if (st->state == STATE_CLOSED || (st->state == STATE_RETRY && now >= st->retry_ns))
            start(st);
        bool retry_first = st->state == STATE_RETRY && st->retry_ns < deadline_ns;
        run_until(st, retry_first ? st->retry_ns : deadline_ns);
    }
}

void stream_wake(struct stream *st)
{
    st->wake = true;
    loop_stop(&st->s->loop);
}
