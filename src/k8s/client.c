/*
 * One try: identity, HTTP call, answer. A call makes tries until one ends it; a stream is a single try.
 */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/sm.h"
#include "http/http_client.h"
#include "k8s/access.h"
#include "k8s/backoff.h"
#include "k8s/client.h"
#include "k8s/credentials.h"
#include "k8s/inflate.h"
#include "k8s/proxy_choice.h"
#include "loop/proxy.h"
#include "loop/tls.h"

#define TRIES_MAX       10 /* client-go rest/request.go: retries on Retry-After */
#define HEADERS_MAX     24
#define RETRY_AFTER_MAX (60 * ENV_NS_PER_S)

/* The connections made with one trust. A later trust gets another; this one goes with its last try (K19). */
struct channel {
    struct k8s_client *client;
    struct http_client *http;
    uint64_t tls_number;
    int tries;
    bool retired;
};

struct k8s_client {
    struct loop *loop;
    struct k8s_credentials *credentials;
    struct proxy *proxy;
    struct err proxy_err;
    struct channel *channel; /* of the present trust, NULL before the first */
    struct reflector_server server;
    int open; /* channels not yet gone, credentials, tries, calls */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

/* What a try tells the call or stream it belongs to. */
struct try_user {
    /* retry_after: with the first bytes only */
    void (*body)(int status, const char *retry_after, const char *bytes, size_t length, void *data);
    void (*done)(const struct err *err, int status, const char *retry_after, void *data);
};

struct
try {
    struct k8s_client *client;
    const struct try_user *user;
    void *data;
    struct identity_request *identity;
    struct channel *channel;
    struct http_call *call;
    struct inflate *inflate; /* the answer is compressed */
    uint64_t number;         /* of the identity */
    char *url;
    struct k8s_request request; /* points into what the user keeps */
    bool canceled;
    bool begun; /* a byte of the body came */
    struct err err;
};

/* ---- the client ---- */

static void client_unref(struct k8s_client *client)
{
    if (--client->open == 0)
        loop_defer(client->loop, &client->closed_task);
}

static void client_gone(struct loop_task *task, void *data)
{
    struct k8s_client *client = data;
    void (*closed)(void *data) = client->closed;
    void *closed_data = client->closed_data;
    (void)task;
    proxy_unref(client->proxy);
    free(client);
    if (closed != NULL)
        closed(closed_data);
}

static void part_closed(void *data)
{
    client_unref(data);
}

static void channel_closed(void *data)
{
    struct channel *channel = data;
    struct k8s_client *client = channel->client;
    free(channel);
    client_unref(client);
}

static void channel_retire(struct channel *channel)
{
    channel->retired = true;
    if (channel->tries == 0)
        http_client_close(channel->http, channel_closed, channel);
}

static void channel_release(struct channel *channel)
{
    channel->tries--;
    if (channel->retired && channel->tries == 0)
        http_client_close(channel->http, channel_closed, channel);
}

struct k8s_client *k8s_client_new(struct loop *loop, struct k8s_access *access)
{
    struct k8s_client *client = mem_zalloc(sizeof *client);
    client->loop = loop;
    (void)proxy_choose(loop->env, access, &client->proxy, &client->proxy_err); /* the first request says it */
    client->credentials = k8s_credentials_new(loop, access);
    client->open = 1;
    client->closed_task = (struct loop_task){.run = client_gone, .data = client};
    list_init(&client->closed_task.node);
    return client;
}

void k8s_client_close(struct k8s_client *client, void (*closed)(void *data), void *data)
{
    client->closing = true;
    client->closed = closed;
    client->closed_data = data;
    if (client->channel != NULL)
        channel_retire(client->channel);
    client->channel = NULL;
    k8s_credentials_close(client->credentials, part_closed, client);
}

const struct k8s_access *k8s_client_access(const struct k8s_client *client)
{
    return k8s_credentials_access(client->credentials);
}

struct reflector_server *k8s_client_server(struct k8s_client *client)
{
    return &client->server;
}

struct loop *k8s_client_loop(const struct k8s_client *client)
{
    return client->loop;
}

static struct channel *channel_for(struct k8s_client *client, const struct k8s_identity *identity)
{
    struct channel *channel = client->channel;
    if (channel != NULL && channel->tls_number == identity->tls_number)
        return channel;
    if (channel != NULL)
        channel_retire(channel);
    channel = mem_zalloc(sizeof *channel);
    channel->client = client;
    channel->http = http_client_new(client->loop, identity->tls);
    channel->tls_number = identity->tls_number;
    http_client_set_proxy(channel->http, client->proxy);
    http_client_set_server_name(channel->http, k8s_client_access(client)->tls_server_name);
    client->channel = channel;
    client->open++;
    return channel;
}

/* ---- a try ---- */

static void try_free(struct try *t)
{
    struct k8s_client *client = t->client;
    if (t->channel != NULL)
        channel_release(t->channel);
    inflate_free(t->inflate);
    free(t->url);
    free(t);
    client_unref(client);
}

static void try_end(struct try *t, const struct err *err, int status, const char *retry_after)
{
    struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    t->user->done(t->canceled ? &canceled : err, status, retry_after, t->data);
    try_free(t);
}

static void try_inflated(const char *bytes, size_t length, void *data)
{
    struct try *t = data;
    t->user->body(200, NULL, bytes, length, t->data);
}

static void try_body(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct try *t = data;
    const char *retry_after = t->begun ? NULL : http_answer_header(call, "retry-after");
    if (t->canceled || t->err.code != ERRC_NONE)
        return;
    if (!t->begun && status < 300) {
        const char *encoding = http_answer_header(call, "content-encoding");
        if (encoding != NULL && strcmp(encoding, "gzip") == 0)
            t->inflate = inflate_new();
    }
    t->begun = true;
    if (t->inflate == NULL)
        t->user->body(status, retry_after, bytes, length, t->data);
    else if (inflate_feed(t->inflate, bytes, length, try_inflated, t, &t->err) != 0)
        http_call_cancel(call);
}

static void try_answered(const struct http_answer *answer, void *data)
{
    struct try *t = data;
    t->call = NULL;
    if (answer->status == 401)
        k8s_identity_rejected(t->client->credentials, t->number);
    if (t->err.code == ERRC_NONE && answer->err == NULL && t->inflate != NULL &&
        !inflate_complete(t->inflate))
        (void)err_set(&t->err, ERRC_PROTOCOL, "the compressed answer was cut short");
    try_end(t, t->err.code != ERRC_NONE ? &t->err : answer->err, answer->status,
            answer->err == NULL ? http_answer_header(answer->call, "retry-after") : NULL);
}

static void add(struct http_header *headers, int *count, const char *name, const char *value)
{
    if (value != NULL && *count < HEADERS_MAX)
        headers[(*count)++] = (struct http_header){name, value};
}

static int impersonation(const struct k8s_access *a, struct http_header *headers, int *count,
                         char **ret_names)
{
    size_t used = 0;
    add(headers, count, "Impersonate-User", a->as);
    add(headers, count, "Impersonate-Uid", a->as_uid);
    for (size_t i = 0; a->as_groups != NULL && a->as_groups[i] != NULL; i++)
        add(headers, count, "Impersonate-Group", a->as_groups[i]);
    for (size_t i = 0; a->as_extra != NULL && a->as_extra[i] != NULL && used < HEADERS_MAX; i += 2) {
        ret_names[used] = mem_printf("Impersonate-Extra-%s", a->as_extra[i]);
        add(headers, count, ret_names[used++], a->as_extra[i + 1]);
    }
    return (int)used;
}

static void try_identified(const struct err *err, const struct k8s_identity *identity, void *data)
{
    struct try *t = data;
    const struct k8s_access *a = k8s_client_access(t->client);
    struct http_header headers[HEADERS_MAX];
    char *names[HEADERS_MAX];
    int count = 0;
    t->identity = NULL;
    t->canceled |= t->client->closing;
    if (err != NULL || t->canceled) {
        try_end(t, err, 0, NULL);
        return;
    }
    t->channel = channel_for(t->client, identity);
    t->channel->tries++;
    t->number = identity->number;
    add(headers, &count, "Authorization", identity->authorization);
    add(headers, &count, "Accept", t->request.accept != NULL ? t->request.accept : "application/json");
    add(headers, &count, "Accept-Encoding", a->no_compression ? NULL : "gzip");
    add(headers, &count, "User-Agent", "shardherd");
    if (t->request.body != NULL)
        add(headers, &count, "Content-Type",
            t->request.content_type != NULL ? t->request.content_type : "application/json");
    int named = impersonation(a, headers, &count, names);
    const struct http_call_options o = {
        .method = t->request.method,
        .url = t->url,
        .headers = headers,
        .header_count = count,
        .body = t->request.body,
        .body_length = t->request.body_length,
        .timeout_ns = t->request.timeout_ns,
        .on_body = try_body,
    };
    struct err failed = {0};
    int rc = http_call_start(t->channel->http, &o, try_answered, t, &t->call, &failed);
    for (int i = 0; i < named; i++)
        free(names[i]);
    if (rc != 0)
        try_end(t, &failed, 0, NULL);
}

static int try_start(struct k8s_client *client, const struct k8s_request *request,
                     const struct try_user *user, void *data, struct try **ret, struct err *err)
{
    const struct k8s_access *a = k8s_client_access(client);
    if (client->proxy_err.code != ERRC_NONE)
        return err_copy(err, &client->proxy_err);
    struct try *t = mem_zalloc(sizeof *t);
    size_t slashes = strlen(a->server);
    while (slashes > 0 && a->server[slashes - 1] == '/')
        slashes--;
    bool query = request->query != NULL && request->query[0] != '\0';
    *t = (struct try){.client = client, .user = user, .data = data, .request = *request};
    t->url = mem_printf("%.*s%s%s%s", (int)slashes, a->server, request->path, query ? "?" : "",
                        query ? request->query : "");
    int rc = k8s_identity_get(client->credentials, try_identified, t, &t->identity, err);
    if (rc != 0) {
        free(t->url);
        free(t);
        return rc;
    }
    client->open++;
    *ret = t;
    return 0;
}

static void try_cancel(struct try *t)
{
    if (t->canceled)
        return;
    t->canceled = true;
    if (t->identity != NULL)
        k8s_identity_cancel(t->identity);
    else if (t->call != NULL)
        http_call_cancel(t->call);
}

/* ---- calls ---- */

/*
 * TRYING waits for the try; PAUSED for the timer, then tries again; ENDED is final.
 */
enum { TRYING, PAUSED, ENDED, STATE_MAX };

static const struct sm_state states[STATE_MAX] = {
    [TRYING] = {"trying", SM_NEXT(PAUSED) | SM_NEXT(ENDED), false},
    [PAUSED] = {"paused", SM_NEXT(TRYING) | SM_NEXT(ENDED), false},
    [ENDED] = {"ended", 0, true},
};

struct k8s_call {
    struct k8s_client *client;
    struct sm sm;
    struct try *try;
    struct loop_timer timer;
    struct loop_task task; /* a cancel in PAUSED */
    struct backoff backoff;
    int tries;
    bool renewed; /* one 401 was answered with another identity */
    struct buf body;
    char *method, *path, *query, *accept, *content_type, *content;
    struct k8s_request request;
    k8s_answer_cb cb;
    void *data;
};

static void call_try(struct k8s_call *call);

static void call_end(struct k8s_call *call, const struct k8s_answer *answer)
{
    struct k8s_client *client = call->client;
    sm_move(&call->sm, ENDED);
    sm_fini(&call->sm);
    loop_timer_stop(&call->timer);
    loop_task_cancel(&call->task);
    call->cb(answer, call->data);
    mem_wipe_free(buf_take(&call->body)); /* may be a Secret, too */
    free(call->method);
    free(call->path);
    free(call->query);
    free(call->accept);
    free(call->content_type);
    mem_wipe_free(call->content); /* may be a Secret */
    free(call);
    client_unref(client);
}

static void call_fail(struct k8s_call *call, const struct err *err)
{
    struct err wrapped = *err;
    (void)err_wrap(&wrapped, "%s %s", call->method, call->path);
    const struct k8s_answer answer = {.err = &wrapped};
    call_end(call, &answer);
}

static bool is_write(const struct k8s_call *call)
{
    return strcmp(call->method, "GET") != 0;
}

/* Waits and tries again, if this failure may be repeated. status NULL: no answer at all. */
static bool call_again(struct k8s_call *call, const struct k8s_status *status)
{
    uint64_t pause = 0;
    if (++call->tries > TRIES_MAX)
        return false;
    if (status == NULL) {
        if (is_write(call) || call->request.once)
            return false; /* it may have been done */
        pause = backoff_next(&call->backoff, call->client->loop->env, loop_now(call->client->loop));
    } else if (status->fault == K8S_FAULT_UNAUTHORIZED) {
        if (call->renewed)
            return false;
        call->renewed = true;
    } else if (call->request.once) {
        return false;
    } else if ((status->code == 429 || status->code >= 500) && status->retry_after_ns > 0) {
        pause = status->retry_after_ns < RETRY_AFTER_MAX ? status->retry_after_ns : RETRY_AFTER_MAX;
    } else if (status->code == 429) {
        pause = backoff_next(&call->backoff, call->client->loop->env, loop_now(call->client->loop));
    } else {
        return false;
    }
    sm_move(&call->sm, PAUSED);
    loop_timer_start(&call->timer, pause);
    return true;
}

static void call_body(int status, const char *retry_after, const char *bytes, size_t length, void *data)
{
    struct k8s_call *call = data;
    (void)status;
    (void)retry_after;
    (void)buf_add(&call->body, bytes, length); /* overflowed: seen at the end */
}

static void call_done(const struct err *err, int http_status, const char *retry_after, void *data)
{
    struct k8s_call *call = data;
    struct k8s_status status;
    struct err failed = {0};
    call->try = NULL;
    if (err != NULL) {
        if (err->code == ERRC_CANCELED || !call_again(call, NULL))
            call_fail(call, err);
        return;
    }
    if (call->body.overflowed) {
        (void)err_set(&failed, ERRC_LIMIT, "the answer is larger than %zu bytes", call->body.limit);
        call_fail(call, &failed);
        return;
    }
    struct k8s_answer answer = {
        .http_status = http_status, .body = buf_text(&call->body), .body_length = call->body.length};
    if (http_status >= 300) {
        k8s_status_from_answer(http_status, answer.body, answer.body_length, retry_after, &status);
        if (call_again(call, &status))
            return;
        (void)k8s_status_error(&status, &failed, "%s %s", call->method, call->path);
        answer.err = &failed;
        answer.status = &status;
    }
    call_end(call, &answer);
}

static const struct try_user call_user = {call_body, call_done};

static void call_try(struct k8s_call *call)
{
    struct err err = {0};
    buf_reset(&call->body);
    if (sm_now(&call->sm) != TRYING)
        sm_move(&call->sm, TRYING);
    if (try_start(call->client, &call->request, &call_user, call, &call->try, &err) != 0)
        call_fail(call, &err);
}

static void call_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    call_try(data);
}

static void call_canceled(struct loop_task *task, void *data)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    (void)task;
    call_fail(data, &canceled);
}

int k8s_call_start(struct k8s_client *client, const struct k8s_request *request, k8s_answer_cb cb, void *data,
                   struct k8s_call **ret, struct err *err)
{
    struct k8s_call *call = mem_zalloc(sizeof *call);
    call->client = client;
    call->cb = cb;
    call->data = data;
    call->method = mem_strdup(request->method);
    call->path = mem_strdup(request->path);
    call->query = mem_strdup(request->query);
    call->accept = mem_strdup(request->accept);
    call->content_type = mem_strdup(request->content_type);
    call->content = request->body != NULL ? mem_strndup(request->body, request->body_length) : NULL;
    call->request = *request;
    call->request.method = call->method;
    call->request.path = call->path;
    call->request.query = call->query;
    call->request.accept = call->accept;
    call->request.content_type = call->content_type;
    call->request.body = call->content;
    call->body.limit = request->body_limit != 0 ? request->body_limit : 16u * 1024u * 1024u;
    call->task = (struct loop_task){.run = call_canceled, .data = call};
    list_init(&call->task.node);
    loop_timer_init(client->loop, &call->timer, call_fired, call);
    sm_init(&call->sm, states, STATE_MAX, TRYING, NULL, call);
    int rc = client->closing ? err_set(err, ERRC_CANCELED, "the Kubernetes client is closing")
                             : try_start(client, &call->request, &call_user, call, &call->try, err);
    client->open++;
    if (rc == 0) {
        *ret = call;
        return 0;
    }
    call->cb = NULL;
    free(call->method);
    free(call->path);
    free(call->query);
    free(call->accept);
    free(call->content_type);
    mem_wipe_free(call->content);
    free(call);
    client->open--;
    return rc;
}

void k8s_call_cancel(struct k8s_call *call)
{
    if (sm_now(&call->sm) == PAUSED) {
        loop_timer_stop(&call->timer);
        loop_defer(call->client->loop, &call->task);
    } else if (call->try != NULL) {
        try_cancel(call->try);
    }
}

/* ---- streams ---- */

struct k8s_stream {
    struct try *try;
    struct k8s_stream_user user;
    void *data;
    bool headed;
    char *method, *path, *query, *accept;
};

static void stream_head(struct k8s_stream *s, int status, const char *retry_after)
{
    if (!s->headed)
        s->user.head(status, retry_after, s->data);
    s->headed = true;
}

static void stream_body(int status, const char *retry_after, const char *bytes, size_t length, void *data)
{
    struct k8s_stream *s = data;
    stream_head(s, status, retry_after);
    s->user.data(bytes, length, s->data);
}

static void stream_done(const struct err *err, int status, const char *retry_after, void *data)
{
    struct k8s_stream *s = data;
    if (err == NULL)
        stream_head(s, status, retry_after);
    s->user.end(err, s->data);
    free(s->path);
    free(s->query);
    free(s->accept);
    free(s);
}

static const struct try_user stream_user = {stream_body, stream_done};

int k8s_stream_start(struct k8s_client *client, const struct k8s_request *request,
                     const struct k8s_stream_user *user, void *data, struct k8s_stream **ret, struct err *err)
{
    struct k8s_stream *s = mem_zalloc(sizeof *s);
    s->user = *user;
    s->data = data;
    s->path = mem_strdup(request->path);
    s->query = mem_strdup(request->query);
    s->accept = mem_strdup(request->accept);
    struct k8s_request copy = *request;
    copy.method = "GET";
    copy.path = s->path;
    copy.query = s->query;
    copy.accept = s->accept;
    copy.body = NULL;
    int rc = client->closing ? err_set(err, ERRC_CANCELED, "the Kubernetes client is closing")
                             : try_start(client, &copy, &stream_user, s, &s->try, err);
    if (rc != 0) {
        free(s->path);
        free(s->query);
        free(s->accept);
        free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void k8s_stream_cancel(struct k8s_stream *stream)
{
    try_cancel(stream->try);
}

void k8s_stream_gather(struct k8s_stream *stream, uint64_t pause_ns)
{
    if (stream->try->call != NULL)
        http_call_gather(stream->try->call, pause_ns);
}
