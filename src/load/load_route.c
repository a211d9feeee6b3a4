#include "load/load_route.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define FILE_PERIOD    (200 * ENV_NS_PER_MS)
#define API_PERIOD     (1000 * ENV_NS_PER_MS)
#define LEAST_INTERVAL (2 * ENV_NS_PER_MS)
#define API_TIMEOUT    (5 * ENV_NS_PER_S)
#define EVENTS_RETRY   (2 * ENV_NS_PER_S)

static void route_take(struct load_route *route, const char *json, size_t length)
{
    struct routing *fresh;
    struct err err = {0};
    if (routing_parse(json, length, &fresh, &err) != 0) {
        err_wrap(&err, "routing table");
        err_copy(&route->error, &err);
        return;
    }
    err_clear(&route->error);
    if (strcmp(fresh->database, route->database) != 0) {
        err_set(&route->error, ERRC_INVALID, "the routing table is of database \"%s\", not \"%s\"",
                fresh->database, route->database);
        routing_free(fresh);
        return;
    }
    if (route->now != NULL && fresh->epoch <= route->now->epoch) {
        routing_free(fresh);
        return;
    }
    struct routing *old = route->before;
    route->before = route->now;
    route->now = fresh;
    route->changed(route, route->data);
    routing_free(old);
}

static void route_maybe_closed(struct load_route *route)
{
    if (route->closing && !route->reading && (route->http == NULL || route->http_closed))
        loop_defer(route->loop, &route->close_task);
}

static void route_read_done(struct load_route *route)
{
    uint64_t period = route->from_file ? FILE_PERIOD : API_PERIOD;
    route->reading = false;
    if (route->closing) {
        route_maybe_closed(route);
        return;
    }
    if (route->again || (route->now == NULL && period > FILE_PERIOD))
        period = route->again ? LEAST_INTERVAL : FILE_PERIOD;
    route->again = false;
    loop_timer_start(&route->poll, period);
}

static void route_file_done(struct load_file *file, const struct err *err, const struct buf *text, void *data)
{
    struct load_route *route = data;
    (void)file;
    if (err != NULL)
        err_copy(&route->error, err);
    else if (!route->closing)
        route_take(route, buf_text(text), text->length);
    route_read_done(route);
}

static void route_answer(const struct http_answer *answer, void *data)
{
    struct load_route *route = data;
    route->call = NULL;
    if (answer->err != NULL) {
        err_copy(&route->error, answer->err);
        err_wrap(&route->error, "routing table");
    } else if (answer->status == 200 && !route->closing) {
        const char *etag = http_answer_header(answer->call, "etag");
        (void)snprintf(route->etag, sizeof route->etag, "%s", etag != NULL ? etag : "");
        route_take(route, answer->body, answer->body_length);
    } else if (answer->status == 304) {
        err_clear(&route->error);
    } else {
        err_set(&route->error, ERRC_UNAVAILABLE,
                "the manager answered %d to the question for the routing table", answer->status);
    }
    route_read_done(route);
}

static int route_get(struct load_route *route, struct err *err)
{
    const struct http_header headers[] = {{"accept", "application/json"}, {"if-none-match", route->etag}};
    const struct http_call_options options = {
        .method = "GET",
        .url = route->url,
        .headers = headers,
        .header_count = route->etag[0] != '\0' ? 2 : 1,
        .timeout_ns = API_TIMEOUT,
        .body_limit = ROUTING_DOC_MAX,
    };
    return http_call_start(route->http, &options, route_answer, route, &route->call, err);
}

static void route_read(struct load_route *route)
{
    assert(!route->reading);
    struct err err = {0};
    route->read_ns = loop_now(route->loop);
    int code = route->from_file ? load_file_read(route->loop, &route->file, &err) : route_get(route, &err);
    if (code != 0) {
        err_copy(&route->error, &err);
        loop_timer_start(&route->poll, API_PERIOD);
        return;
    }
    route->reading = true;
}

static void route_poll_fired(struct loop_timer *timer, void *data)
{
    struct load_route *route = data;
    (void)timer;
    if (!route->reading && !route->closing)
        route_read(route);
}

void load_route_refresh(struct load_route *route)
{
    if (route->closing)
        return;
    if (route->reading) {
        route->again = true;
        return;
    }
    uint64_t at = route->read_ns + LEAST_INTERVAL;
    uint64_t now = loop_now(route->loop);
    if (now < at) {
        if (!loop_timer_armed(&route->poll) || route->poll.deadline_ns > at)
            loop_timer_start_at(&route->poll, at);
        return;
    }
    loop_timer_stop(&route->poll);
    route_read(route);
}

/* ---- the event stream ---- */

static void route_event(const struct sse_event *event, void *data)
{
    struct load_route *route = data;
    if (event->data[0] == '{' && strstr(event->data, "\"ranges\"") != NULL)
        route_take(route, event->data, strlen(event->data));
    else
        load_route_refresh(route);
}

static void route_events_body(struct http_call *call, int status, const char *bytes, size_t length,
                              void *data)
{
    struct load_route *route = data;
    if (status != 200 || route->closing)
        return;
    if (sse_parser_feed(route->sse, bytes, length, route_event, route, NULL) != 0)
        http_call_cancel(call);
}

static void route_events_answer(const struct http_answer *answer, void *data)
{
    struct load_route *route = data;
    (void)answer;
    route->events = NULL;
    sse_parser_free(route->sse);
    route->sse = NULL;
    if (!route->closing)
        loop_timer_start(&route->events_retry, EVENTS_RETRY);
}

static void route_events_open(struct load_route *route)
{
    const struct http_header headers[] = {{"accept", "text/event-stream"}};
    const struct http_call_options options = {
        .method = "GET",
        .url = route->events_url,
        .headers = headers,
        .header_count = 1,
        .timeout_ns = UINT64_MAX,
        .on_body = route_events_body,
    };
    route->sse = sse_parser_new(ROUTING_DOC_MAX);
    if (http_call_start(route->http, &options, route_events_answer, route, &route->events, NULL) != 0) {
        sse_parser_free(route->sse);
        route->sse = NULL;
        loop_timer_start(&route->events_retry, EVENTS_RETRY);
    }
}

static void route_events_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    route_events_open(data);
}

/* ---- start and end ---- */

static void route_closed(struct loop_task *task, void *data)
{
    struct load_route *route = data;
    (void)task;
    if (route->from_file)
        load_file_fini(&route->file);
    free(route->url);
    free(route->events_url);
    routing_free(route->now);
    routing_free(route->before);
    route->now = route->before = NULL;
    route->closed(route->data);
}

int load_route_start(struct load_route *route, struct loop *loop, const char *database, const char *url,
                     const char *file, void (*changed)(struct load_route *, void *), void *data,
                     struct err *err)
{
    memset(route, 0, sizeof *route);
    if ((url == NULL) == (file == NULL))
        return err_set(err, ERRC_INVALID, "say where the routing table is: one URL or one file");
    route->loop = loop;
    route->database = database;
    route->changed = changed;
    route->data = data;
    route->close_task.run = route_closed;
    route->close_task.data = route;
    loop_timer_init(loop, &route->poll, route_poll_fired, route);
    loop_timer_init(loop, &route->events_retry, route_events_fired, route);
    if (file != NULL) {
        route->from_file = true;
        load_file_init(&route->file, file, route_file_done, route);
    } else {
        size_t length = strlen(url);
        while (length > 0 && url[length - 1] == '/')
            length--;
        route->url = mem_printf("%.*s/v1/databases/%s/routing", (int)length, url, database);
        route->events_url = mem_printf("%s/events", route->url);
        route->http = http_client_new(loop, NULL);
        route_events_open(route);
    }
    route_read(route);
    return 0;
}

static void route_http_closed(void *data)
{
    struct load_route *route = data;
    route->http_closed = true;
    route_maybe_closed(route);
}

void load_route_close(struct load_route *route, void (*closed)(void *data))
{
    assert(!route->closing);
    route->closing = true;
    route->closed = closed;
    loop_timer_stop(&route->poll);
    loop_timer_stop(&route->events_retry);
    if (route->http != NULL)
        http_client_close(route->http, route_http_closed, route);
    else if (route->reading)
        work_cancel(&route->file.work);
    route_maybe_closed(route);
}
