#include "ha/member_link.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/http_client.h"
#include "loop/stream.h"

#define SILENT_NS     (3 * ENV_NS_PER_S) /* a stream that says nothing for so long is made anew */
#define REQUEST_NS    (2 * ENV_NS_PER_S)
#define PROBE_NS      (1 * ENV_NS_PER_S)
#define AGAIN_NS      (100 * ENV_NS_PER_MS) /* after a failure */
#define AGAIN_MOST_NS (200 * ENV_NS_PER_MS) /* who is started again has an order soon */
#define LOOK_NS       (50 * ENV_NS_PER_MS)
#define EVENT_MAX     (64u * 1024)

enum request { REQUEST_NONE, REQUEST_ASSIGN, REQUEST_LEASE, REQUEST_LOOK, REQUEST_CHECKPOINT };

struct member_link {
    struct loop *loop;
    struct http_client *client;
    char *name, *host, *base, *authorization; /* the last is a secret */
    int port;
    void (*changed)(struct member_link *link, void *data);
    void (*heard)(struct member_link *link, void *data); /* may be NULL */
    void *data;
    struct loop_task tell;

    /* the stream of statuses */
    struct http_call *events; /* NULL = the timer waits to open it again */
    struct sse_parser *parser;
    struct loop_timer events_timer; /* to open it; while it is open: for its silence, see events_fired() */
    uint64_t opened_ns;
    uint64_t events_again_ns;
    struct member_status status;
    uint64_t heard_ns, ended_ns;
    bool closed;

    /* requests, one at a time */
    enum request request;            /* under way */
    struct loop_timer request_timer; /* after a failure */
    char *order;                     /* wanted; NULL = none */
    unsigned order_number;           /* of wanted orders */
    unsigned request_order;          /* which of them is under way */
    bool order_lease;
    char taken_life[24]; /* of the agent that took it; "" = it was not taken */
    struct err stale;
    uint64_t lease_term, lease_clock; /* the clock that was told last */
    bool guarded;
    uint64_t waits_clock; /* since when by its clock the agent waits for a confirmation, 0 = it does not */
    uint64_t proved_clock;
    bool look, checkpoint;

    struct stream *probe;
    struct loop_timer probe_timer; /* for its answer */
    bool refused;
    uint64_t reached_ns, looked_ns;

    bool closing, client_closed;
    void (*on_closed)(void *data);
    void *on_closed_data;
};

static void request_next(struct member_link *l);

static void tell_run(struct loop_task *task, void *data)
{
    struct member_link *l = data;
    (void)task;
    if (!l->closing)
        l->changed(l, l->data);
}

static void tell(struct member_link *l)
{
    loop_defer(l->loop, &l->tell);
}

/* libuv's text is all that an error of the layers below keeps of the number. */
static bool is_refused(const struct err *err)
{
    return err->code == ERRC_UNAVAILABLE && strstr(err->message, uv_strerror(UV_ECONNREFUSED)) != NULL;
}

/* ---- what it says ---- */

static void take_status(struct member_link *l, const char *text, size_t length)
{
    struct err err = {0};
    struct member_status status;
    if (member_status_parse(text, length, &status, &err) != 0 || strcmp(status.member, l->name) != 0) {
        log_event(LOG_WARN, "a member's status is not believed", "member", l->name, "err",
                  err.code != ERRC_NONE ? err.message : "it is of another member", NULL);
        return;
    }
    enum ha_server server = member_status_server(&status);
    bool news = l->heard == NULL || l->heard_ns == 0 || l->closed || !member_status_same(&status, &l->status);
    if (strcmp(l->status.life, status.life) != 0) {
        l->waits_clock = 0;
        if (status.clock < l->status.clock)
            l->proved_clock = 0; /* its machine was started anew, and its clock with it */
    }
    if (status.confirmed)
        l->waits_clock = 0;
    else if (l->waits_clock == 0)
        l->waits_clock = status.clock;
    l->status = status;
    l->heard_ns = loop_now(l->loop);
    l->closed = false;
    if (server == HA_SERVER_PRIMARY || server == HA_SERVER_STANDBY) {
        l->ended_ns = 0;
        l->refused = false; /* that was before */
    } else if (l->ended_ns == 0)
        l->ended_ns = l->heard_ns;
    if (news)
        tell(l);
    else
        l->heard(l, l->data);
    request_next(l);
}

static void events_open(struct member_link *l);

static void event_came(const struct sse_event *event, void *data)
{
    if (strcmp(event->event, "status") == 0)
        take_status(data, event->data, strlen(event->data));
}

static void events_body(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct member_link *l = data;
    struct err err = {0};
    l->events_again_ns = AGAIN_NS;
    if (status != 200 || sse_parser_feed(l->parser, bytes, length, event_came, l, &err) != 0)
        http_call_cancel(call);
}

static void probe_start(struct member_link *l);

static void events_ended(const struct http_answer *answer, void *data)
{
    struct member_link *l = data;
    bool was_closed = l->closed;
    l->events = NULL;
    sse_parser_free(l->parser);
    l->parser = NULL;
    if (l->closing)
        return;
    l->closed = answer->err != NULL && is_refused(answer->err);
    if (!was_closed || !l->refused) /* its server may end a little later than its agent */
        probe_start(l);
    if (l->closed != was_closed)
        tell(l);
    /* who has just been heard is called again at once: it may be gone, and that is said by the answer */
    bool at_once = l->events_again_ns == AGAIN_NS && !l->closed;
    loop_timer_start(&l->events_timer, at_once ? 0 : l->events_again_ns);
    l->events_again_ns = l->events_again_ns * 2 < AGAIN_MOST_NS ? l->events_again_ns * 2 : AGAIN_MOST_NS;
}

static void events_open(struct member_link *l)
{
    struct err err = {0};
    char *url = mem_printf("%s/v1/events", l->base);
    const struct http_header headers[] = {{"authorization", l->authorization},
                                          {"accept", "text/event-stream"}};
    const struct http_call_options o = {.method = "GET",
                                        .url = url,
                                        .headers = headers,
                                        .header_count = 2,
                                        .timeout_ns = UINT64_MAX,
                                        .on_body = events_body};
    l->parser = sse_parser_new(EVENT_MAX);
    if (http_call_start(l->client, &o, events_ended, l, &l->events, &err) != 0) {
        log_event(LOG_ERROR, "cannot call a member's agent", "member", l->name, "err", err.message, NULL);
        l->events = NULL;
        sse_parser_free(l->parser);
        l->parser = NULL;
    }
    l->opened_ns = loop_now(l->loop);
    loop_timer_start(&l->events_timer, l->events != NULL ? SILENT_NS : ENV_NS_PER_S);
    free(url);
}

/* The timer is not armed anew with each status, but when it fires, for what is left. */
static void events_fired(struct loop_timer *timer, void *data)
{
    struct member_link *l = data;
    uint64_t said_ns = l->heard_ns > l->opened_ns ? l->heard_ns : l->opened_ns;
    if (l->events == NULL)
        events_open(l);
    else if (loop_now(l->loop) < said_ns + SILENT_NS)
        loop_timer_start_at(timer, said_ns + SILENT_NS);
    else
        http_call_cancel(l->events);
}

/* ---- does its server answer? ---- */

/* The question whether it speaks TLS: the kernel alone, in front of a server that stands still, does not
 * answer it, and a server does before it asks who we are. */
static const unsigned char tls_question[] = {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f};

static void probe_event(struct stream *s, const struct stream_input *in, void *data)
{
    struct member_link *l = data;
    switch (in->event) {
    case STREAM_CONNECTED:
        l->refused = false;
        (void)stream_write(s, tls_question, sizeof tls_question, NULL);
        break;
    case STREAM_DATA:
        l->reached_ns = loop_now(l->loop);
        stream_close(s);
        break;
    case STREAM_EOF:
        stream_close(s);
        break;
    case STREAM_ERROR:
        l->refused = is_refused(in->err);
        stream_close(s);
        break;
    case STREAM_CLOSED:
        l->probe = NULL;
        loop_timer_stop(&l->probe_timer);
        if (l->closing)
            member_link_close(l, NULL, NULL);
        else
            tell(l);
        break;
    default:
        break;
    }
}

static void probe_fired(struct loop_timer *timer, void *data)
{
    struct member_link *l = data;
    (void)timer;
    stream_close(l->probe);
}

static void probe_start(struct member_link *l)
{
    const struct stream_options o = {
        .host = l->host, .port = l->port, .connect_timeout_ns = PROBE_NS, .write_limit = 64};
    if (l->probe == NULL && !l->closing && stream_connect(l->loop, &o, probe_event, l, &l->probe, NULL) == 0)
        loop_timer_start(&l->probe_timer, PROBE_NS);
}

/* ---- requests ---- */

static void again(struct member_link *l, uint64_t pause_ns)
{
    loop_timer_start(&l->request_timer, pause_ns);
}

static bool has_code(const struct http_answer *answer, const char *code)
{
    yyjson_doc *doc = yyjson_read(answer->body, answer->body_length, 0);
    const char *text = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "code"));
    bool same = text != NULL && strcmp(text, code) == 0;
    yyjson_doc_free(doc);
    return same;
}

static void assign_answered(struct member_link *l, const struct http_answer *answer)
{
    bool present = l->order != NULL && l->request_order == l->order_number;
    if (answer->status == 200 && present) {
        memcpy(l->taken_life, l->status.life, sizeof l->taken_life);
    } else if (answer->status == 409 && present && has_code(answer, "stale")) {
        (void)err_set(&l->stale, ERRC_STALE, "member %s refuses the order: a later one is in force there",
                      l->name);
    } else if (answer->status != 200) {
        if (answer->status != 503 && answer->status != 409)
            log_event(LOG_ERROR, "a member refuses an order", "member", l->name, "status",
                      log_num(answer->status), "answer", answer->body, NULL);
        again(l, answer->status == 503 ? LOOK_NS : AGAIN_NS);
    }
    tell(l);
}

static void answered(const struct http_answer *answer, void *data)
{
    struct member_link *l = data;
    enum request request = l->request;
    l->request = REQUEST_NONE;
    if (l->closing)
        return;
    if (request == REQUEST_CHECKPOINT && (answer->err != NULL || answer->status == 503))
        l->checkpoint = true;
    if (answer->err != NULL)
        again(l, AGAIN_NS);
    else if (request == REQUEST_ASSIGN)
        assign_answered(l, answer);
    if (answer->err == NULL && answer->status == 200)
        take_status(l, answer->body, answer->body_length);
    else
        request_next(l);
}

static void post(struct member_link *l, enum request request, const char *path, const char *body)
{
    struct err err = {0};
    char *url = mem_printf("%s%s", l->base, path);
    const struct http_header headers[] = {{"authorization", l->authorization},
                                          {"content-type", "application/json"}};
    const struct http_call_options o = {.method = "POST",
                                        .url = url,
                                        .headers = headers,
                                        .header_count = 2,
                                        .body = body,
                                        .body_length = strlen(body),
                                        .timeout_ns = REQUEST_NS,
                                        .body_limit = EVENT_MAX};
    if (http_call_start(l->client, &o, answered, l, NULL, &err) == 0)
        l->request = request;
    else
        again(l, ENV_NS_PER_S);
    free(url);
}

/* How far by its clock it is known that what we say is still so: as far as a lease may count from. */
static uint64_t known_clock(const struct member_link *l)
{
    return l->proved_clock < l->status.clock ? l->proved_clock : l->status.clock;
}

static void post_order(struct member_link *l)
{
    char *body = l->order_lease ? mem_printf("%.*s,\"heard\":\"%llu\"}", (int)strlen(l->order) - 1, l->order,
                                             (unsigned long long)known_clock(l))
                                : mem_strdup(l->order);
    l->request_order = l->order_number;
    post(l, REQUEST_ASSIGN, "/v1/assign", body);
    free(body);
}

static void post_lease(struct member_link *l)
{
    char *body = mem_printf("{\"term\":\"%llu\",\"heard\":\"%llu\"}", (unsigned long long)l->lease_term,
                            (unsigned long long)known_clock(l));
    l->lease_clock = known_clock(l);
    post(l, REQUEST_LEASE, "/v1/lease", body);
    free(body);
}

/* The answer to a lease is a status as well: a younger clock alone is no reason for the next. */
static bool lease_due(const struct member_link *l)
{
    const struct member_status *s = &l->status;
    return l->lease_term != 0 && s->term == l->lease_term && s->confirmed &&
           strcmp(s->assigned, "primary") == 0 && known_clock(l) > l->lease_clock + ENV_NS_PER_S / 2;
}

static bool order_due(const struct member_link *l)
{
    bool needs = l->order_lease || (l->guarded && l->waits_clock != 0);
    bool proved = !needs || (l->proved_clock != 0 && l->proved_clock >= l->waits_clock);
    return l->order != NULL && !member_link_taken(l) && l->stale.code == ERRC_NONE && !l->status.retired &&
           proved;
}

static void request_next(struct member_link *l)
{
    if (l->closing || l->request != REQUEST_NONE || loop_timer_armed(&l->request_timer) || l->heard_ns == 0 ||
        l->closed)
        return;
    if (order_due(l)) {
        post_order(l);
    } else if (lease_due(l)) {
        post_lease(l);
    } else if (l->checkpoint) {
        l->checkpoint = false;
        post(l, REQUEST_CHECKPOINT, "/v1/checkpoint", "");
    } else if (l->look) {
        l->look = false;
        post(l, REQUEST_LOOK, "/v1/look", "");
    }
}

static void request_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    request_next(data);
}

/* ---- from outside ---- */

void member_link_want(struct member_link *l, const char *order, bool with_lease)
{
    if (order != NULL && l->order != NULL && strcmp(order, l->order) == 0)
        return;
    if (with_lease && !l->order_lease)
        l->proved_clock = 0; /* what was known of an earlier lease is too old for this one */
    free(l->order);
    l->order = mem_strdup(order);
    l->order_number++;
    l->order_lease = with_lease;
    l->taken_life[0] = '\0';
    err_clear(&l->stale);
    request_next(l);
}

bool member_link_taken(const struct member_link *l)
{
    return l->order != NULL && l->taken_life[0] != '\0' && strcmp(l->taken_life, l->status.life) == 0 &&
           l->waits_clock == 0;
}

const struct err *member_link_stale(const struct member_link *l)
{
    return l->stale.code != ERRC_NONE ? &l->stale : NULL;
}

void member_link_lease(struct member_link *l, uint64_t term)
{
    if (l->lease_term == term)
        return;
    l->lease_term = term;
    l->lease_clock = 0;
    request_next(l);
}

void member_link_guard(struct member_link *l, bool on)
{
    l->guarded = on;
}

bool member_link_wants_proof(const struct member_link *l, uint64_t *clock, uint64_t *heard_ns)
{
    bool waits = l->guarded && l->waits_clock != 0 && l->proved_clock < l->waits_clock;
    bool leases = l->order_lease && l->status.clock > l->proved_clock + ENV_NS_PER_S / 2;
    *clock = l->status.clock;
    *heard_ns = l->heard_ns;
    return l->heard_ns != 0 && !l->closed && (waits || leases);
}

void member_link_proved(struct member_link *l, uint64_t clock)
{
    if (clock > l->proved_clock)
        l->proved_clock = clock;
    request_next(l);
}

void member_link_look(struct member_link *l)
{
    uint64_t now = loop_now(l->loop);
    if (l->looked_ns != 0 && now < l->looked_ns + LOOK_NS)
        return;
    l->looked_ns = now;
    l->look = true;
    probe_start(l);
    request_next(l);
}

void member_link_renew(struct member_link *l)
{
    if (l->closing)
        return;
    l->events_again_ns = AGAIN_NS;
    if (l->events != NULL)
        http_call_cancel(l->events); /* which opens it again */
    else
        loop_timer_start(&l->events_timer, 0);
}

void member_link_checkpoint(struct member_link *l)
{
    l->checkpoint = true;
    request_next(l);
}

const struct member_status *member_link_status(const struct member_link *l)
{
    return l->heard_ns != 0 ? &l->status : NULL;
}

const char *member_link_name(const struct member_link *l)
{
    return l->name;
}

void member_link_facts(const struct member_link *l, struct ha_instance *i)
{
    i->heard_ns = l->heard_ns;
    i->closed = l->closed;
    i->server = l->heard_ns != 0 ? member_status_server(&l->status) : HA_SERVER_UNKNOWN;
    i->ended_ns = l->ended_ns;
    i->gave_up = false; /* agents never do */
    i->reached_ns = l->reached_ns;
    i->refused = l->refused;
    i->receives = strcmp(l->status.receiver, "streaming") == 0;
    i->received_ns =
        l->status.heard && l->heard_ns > l->status.silent_ns ? l->heard_ns - l->status.silent_ns : 0;
}

struct member_link *member_link_new(struct loop *loop, const struct member_link_options *o)
{
    struct member_link *l = mem_zalloc(sizeof *l);
    l->loop = loop;
    l->client = http_client_new(loop, o->tls);
    l->name = mem_strdup(o->name);
    l->host = mem_strdup(o->host);
    bool v6 = strchr(o->host, ':') != NULL;
    l->base = mem_printf("%s://%s%s%s:%d", o->tls != NULL ? "https" : "http", v6 ? "[" : "", o->host,
                         v6 ? "]" : "", o->http_port);
    l->authorization = mem_printf("Bearer %s", o->token);
    l->port = o->port;
    l->changed = o->changed;
    l->heard = o->heard;
    l->data = o->data;
    l->tell = (struct loop_task){.run = tell_run, .data = l};
    l->events_again_ns = AGAIN_NS;
    loop_timer_init(loop, &l->events_timer, events_fired, l);
    loop_timer_init(loop, &l->request_timer, request_fired, l);
    loop_timer_init(loop, &l->probe_timer, probe_fired, l);
    loop_timer_start(&l->events_timer, 0);
    return l;
}

static void finish(struct member_link *l)
{
    void (*closed)(void *data) = l->on_closed;
    void *data = l->on_closed_data;
    if (!l->client_closed || l->probe != NULL)
        return;
    free(l->name);
    free(l->host);
    free(l->base);
    mem_wipe_free(l->authorization);
    free(l->order);
    free(l);
    if (closed != NULL)
        closed(data);
}

static void client_closed(void *data)
{
    struct member_link *l = data;
    l->client_closed = true;
    finish(l);
}

/* Also what the last thing that closes calls: by then the client may be closed. */
void member_link_close(struct member_link *l, void (*closed)(void *data), void *data)
{
    if (l->closing) {
        finish(l);
        return;
    }
    l->closing = true;
    l->on_closed = closed;
    l->on_closed_data = data;
    loop_task_cancel(&l->tell);
    loop_timer_stop(&l->events_timer);
    loop_timer_stop(&l->request_timer);
    if (l->probe != NULL)
        stream_close(l->probe);
    http_client_close(l->client, client_closed, l);
}
