#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "cli/feed.h"

#define EVENT_LIMIT   (4u * 1024 * 1024)
#define PROBLEM_LIMIT 65536
#define RETRY_NS      (500 * ENV_NS_PER_MS)
#define GIVE_UP_NS    (60 * ENV_NS_PER_S)

/*
 * CLOSED --> OPENING --> OPEN          OPENING and OPEN wait for on_body() and on_end();
 *   ^           |         |            RETRY waits for its time in feed_next().
 *   |           v         v
 *   |        REFUSED    RETRY --> OPENING
 */
enum state { STATE_CLOSED, STATE_OPENING, STATE_OPEN, STATE_RETRY, STATE_REFUSED };

struct item {
    struct list node;
    struct feed_event event;
};

struct feed {
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
    struct feed *f = data;
    struct item *item = mem_zalloc(sizeof *item);
    item->event.event = mem_strdup(event->event);
    item->event.data = mem_strdup(event->data);
    item->event.id = mem_strdup(event->id);
    list_append(&f->items, &item->node);
    if (event->id[0] != '\0') {
        free(f->last_id);
        f->last_id = mem_strdup(event->id);
    }
    loop_stop(&f->s->loop);
}

static void on_body(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct feed *f = data;
    struct err err = {0};
    if (status != 200) {
        buf_add(&f->problem, bytes, length);
        return;
    }
    f->state = STATE_OPEN;
    f->worked = true;
    if (sse_parser_feed(f->parser, bytes, length, on_event, f, &err) != 0)
        http_call_cancel(call);
}

static void on_end(const struct http_answer *answer, void *data)
{
    struct feed *f = data;
    uint64_t now = loop_clock(&f->s->loop);
    bool refused = answer->err == NULL && answer->status != 200;
    f->call = NULL;
    f->status = answer->err == NULL ? answer->status : 0;
    err_copy(&f->err, answer->err);
    if (f->state == STATE_OPEN)
        f->lost_ns = now;
    f->state = refused || !f->worked ? STATE_REFUSED : STATE_RETRY;
    f->retry_ns = now + RETRY_NS;
    loop_stop(&f->s->loop);
}

struct feed *feed_new(struct session *s, const char *path)
{
    struct feed *f = mem_zalloc(sizeof *f);
    f->s = s;
    f->path = mem_strdup(path);
    f->problem.limit = PROBLEM_LIMIT;
    list_init(&f->items);
    return f;
}

void feed_free(struct feed *f)
{
    if (f == NULL)
        return;
    if (f->call != NULL)
        http_call_cancel(f->call);
    while (f->call != NULL)
        loop_run(&f->s->loop);
    list_each(node, &f->items)
    {
        list_remove(node);
        item_free(list_item(node, struct item, node));
    }
    item_free(f->current);
    sse_parser_free(f->parser);
    buf_free(&f->problem);
    free(f->last_id);
    free(f->path);
    free(f);
}

static void start(struct feed *f)
{
    const struct http_header headers[] = {{"Accept", "text/event-stream"}, {"Last-Event-ID", f->last_id}};
    char *url = mem_printf("%s%s", f->s->servers[PORT_PUBLIC_API], f->path);
    const struct http_call_options options = {.method = "GET",
                                              .url = url,
                                              .headers = headers,
                                              .header_count = f->last_id != NULL ? 2 : 1,
                                              .timeout_ns = UINT64_MAX,
                                              .idle_timeout_ns = GIVE_UP_NS,
                                              .on_body = on_body};
    sse_parser_free(f->parser);
    f->parser = sse_parser_new(EVENT_LIMIT);
    f->state = STATE_OPENING;
    err_clear(&f->err);
    buf_reset(&f->problem);
    if (http_call_start(f->s->client, &options, on_end, f, &f->call, &f->err) != 0) {
        f->call = NULL;
        f->state = STATE_REFUSED;
    }
    free(url);
}

static int explain(struct feed *f)
{
    struct session_reply reply = {.status = f->status};
    if (f->err.code != ERRC_NONE || f->status == 0)
        return session_unreached(f->s, PORT_PUBLIC_API, &f->err);
    reply.doc = yyjson_read(buf_text(&f->problem), f->problem.length, 0);
    reply.root = yyjson_doc_get_root(reply.doc);
    int rc = session_problem(f->s, PORT_PUBLIC_API, f->path, &reply);
    session_reply_free(&reply);
    return rc;
}

static void on_due(struct loop_timer *timer, void *data)
{
    struct feed *f = data;
    (void)timer;
    loop_stop(&f->s->loop);
}

static void run_until(struct feed *f, uint64_t deadline_ns)
{
    struct loop_timer timer;
    loop_timer_init(&f->s->loop, &timer, on_due, f);
    if (deadline_ns != UINT64_MAX)
        loop_timer_start_at(&timer, deadline_ns);
    loop_run(&f->s->loop);
    loop_timer_stop(&timer);
}

enum feed_next feed_next(struct feed *f, uint64_t deadline_ns, const struct feed_event **ret, int *ret_exit)
{
    item_free(f->current);
    f->current = NULL;
    for (;;) {
        uint64_t now = loop_clock(&f->s->loop);
        if (!list_empty(&f->items)) {
            f->current = list_item(f->items.next, struct item, node);
            list_remove(&f->current->node);
            *ret = &f->current->event;
            return FEED_EVENT;
        }
        if (f->state == STATE_REFUSED || (f->state == STATE_RETRY && now - f->lost_ns > GIVE_UP_NS)) {
            *ret_exit = explain(f);
            return FEED_ENDED;
        }
        if (f->wake || now >= deadline_ns) {
            f->wake = false;
            return FEED_TIMEOUT;
        }
        if (f->state == STATE_CLOSED || (f->state == STATE_RETRY && now >= f->retry_ns))
            start(f);
        bool retry_first = f->state == STATE_RETRY && f->retry_ns < deadline_ns;
        run_until(f, retry_first ? f->retry_ns : deadline_ns);
    }
}

void feed_wake(struct feed *f)
{
    f->wake = true;
    loop_stop(&f->s->loop);
}
