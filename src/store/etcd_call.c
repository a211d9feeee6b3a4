#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/sm.h"
#include "http/http_url.h"
#include "loop/tls.h"
#include "store/etcd_call.h"

#define BODY_LIMIT   (128u * 1024u * 1024u) /* 64 values of 1 MiB in base64 */
#define PAUSE_NS     (100 * ENV_NS_PER_MS)  /* before the second round over the members; then doubled */
#define PAUSE_MAX_NS (2 * ENV_NS_PER_S)
#define AUTH_PATH    "/v3/auth/authenticate"

/*
 * State    waits for                         woken by
 * TOKEN    the login that runs               auth_answered
 * TRYING   a member's answer                 try_answered
 * PAUSED   the next round                    timer
 * DONE     the end of this turn              task: runs the callback, frees the call
 */
enum { TOKEN, TRYING, PAUSED, DONE, ENDED, STATE_MAX };

static const struct sm_state states[STATE_MAX] = {
    [TOKEN] = {"token", SM_NEXT(TRYING) | SM_NEXT(PAUSED) | SM_NEXT(DONE), false},
    [TRYING] = {"trying", SM_NEXT(TOKEN) | SM_NEXT(TRYING) | SM_NEXT(PAUSED) | SM_NEXT(DONE), false},
    [PAUSED] = {"paused", SM_NEXT(TOKEN) | SM_NEXT(TRYING) | SM_NEXT(PAUSED) | SM_NEXT(DONE), false},
    [DONE] = {"done", SM_NEXT(ENDED), false},
    [ENDED] = {"ended", 0, true},
};

struct etcd_client {
    struct loop *loop;
    struct http_client *http;
    char **endpoints;
    int endpoint_count;
    int endpoint; /* the present one */
    char *user, *password;
    char *token; /* NULL = log in first */
    uint64_t token_number;
    bool no_auth;           /* the cluster knows no logging in */
    struct etcd_call *auth; /* the login that runs */
    int64_t cluster;        /* 0 until one answered */
    struct list calls;
    bool hurry, closing;
    int open; /* the http client, calls */
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

struct etcd_call {
    struct etcd_client *client;
    struct list node;
    struct sm sm;
    struct etcd_request request;
    char *body;
    int endpoint;   /* of this try */
    uint64_t token; /* of this try */
    bool had_token, renewed, unknown, canceled;
    int tries;
    uint64_t give_up_ns, pause_ns;
    struct http_call *http;
    struct loop_timer timer; /* PAUSED: the pause; TOKEN: the limit */
    struct loop_task task;
    struct err err;
    enum etcd_fault fault;
    yyjson_doc *doc;
    etcd_answer_cb cb;
    void *data;
};

static void call_next(struct etcd_call *c);

/* ---- the client ---- */

static int endpoints_check(const struct etcd_client_options *o, struct err *err)
{
    if (o->endpoint_count < 1)
        return err_set(err, ERRC_INVALID, "etcd needs at least one endpoint, such as https://10.0.0.5:2379");
    for (int i = 0; i < o->endpoint_count; i++) {
        struct http_url url;
        int rc = http_url_parse(o->endpoints[i], &url, err);
        if (rc != 0)
            return err_wrap(err, "etcd endpoint \"%s\"", o->endpoints[i]);
    }
    return 0;
}

static void client_gone(struct loop_task *task, void *data)
{
    struct etcd_client *client = data;
    void (*closed)(void *data) = client->closed;
    void *closed_data = client->closed_data;
    (void)task;
    for (int i = 0; i < client->endpoint_count; i++)
        free(client->endpoints[i]);
    free(client->endpoints);
    free(client->user);
    mem_wipe_free(client->password);
    mem_wipe_free(client->token);
    free(client);
    if (closed != NULL)
        closed(closed_data);
}

static void client_unref(struct etcd_client *client)
{
    if (--client->open == 0)
        loop_defer(client->loop, &client->closed_task);
}

static void http_closed(void *data)
{
    client_unref(data);
}

int etcd_client_new(struct loop *loop, const struct etcd_client_options *o, struct etcd_client **ret,
                    struct err *err)
{
    int rc = endpoints_check(o, err);
    if (rc != 0)
        return rc;
    struct etcd_client *client = mem_zalloc(sizeof *client);
    client->loop = loop;
    client->http = http_client_new(loop, o->tls);
    client->endpoint_count = o->endpoint_count;
    client->endpoints = mem_array((size_t)o->endpoint_count, sizeof *client->endpoints);
    for (int i = 0; i < o->endpoint_count; i++) {
        size_t length = strlen(o->endpoints[i]);
        while (length > 0 && o->endpoints[i][length - 1] == '/')
            length--;
        client->endpoints[i] = mem_strndup(o->endpoints[i], length);
    }
    client->user = mem_strdup(o->user);
    client->password = mem_strdup(o->password != NULL ? o->password : "");
    client->open = 1;
    list_init(&client->calls);
    client->closed_task = (struct loop_task){.run = client_gone, .data = client};
    list_init(&client->closed_task.node);
    *ret = client;
    return 0;
}

struct loop *etcd_client_loop(const struct etcd_client *client)
{
    return client->loop;
}

int etcd_endpoint(const struct etcd_client *client)
{
    return client->endpoint;
}

void etcd_endpoint_failed(struct etcd_client *client, int endpoint)
{
    if (client->endpoint == endpoint)
        client->endpoint = (endpoint + 1) % client->endpoint_count;
}

void etcd_token_rejected(struct etcd_client *client, uint64_t token)
{
    if (client->token == NULL || client->token_number != token)
        return;
    mem_wipe_free(client->token);
    client->token = NULL;
}

bool etcd_cluster_fits(struct etcd_client *client, int64_t cluster)
{
    if (client->cluster == 0)
        client->cluster = cluster;
    return cluster == 0 || client->cluster == cluster;
}

/* ---- the end of a call ---- */

static void call_report(struct loop_task *task, void *data)
{
    struct etcd_call *c = data;
    struct etcd_client *client = c->client;
    bool failed = c->err.code != ERRC_NONE;
    const struct etcd_answer answer = {
        .err = failed ? &c->err : NULL,
        .fault = c->fault,
        .unknown = c->unknown,
        .root = failed ? NULL : yyjson_doc_get_root(c->doc),
    };
    (void)task;
    sm_move(&c->sm, ENDED);
    sm_fini(&c->sm);
    list_remove(&c->node);
    c->cb(&answer, c->data);
    yyjson_doc_free(c->doc);
    mem_wipe_free(c->body); /* of a login it holds the password */
    free(c);
    client_unref(client);
}

static void call_end(struct etcd_call *c)
{
    if (sm_now(&c->sm) >= DONE)
        return;
    sm_move(&c->sm, DONE);
    loop_timer_stop(&c->timer);
    loop_defer(c->client->loop, &c->task);
}

static void call_fail(struct etcd_call *c, enum etcd_fault fault, enum err_code code, const char *what)
{
    c->fault = fault;
    (void)err_set(&c->err, code, "%s", what);
    call_end(c);
}

/* ---- logging in ---- */

static void auth_answered(const struct etcd_answer *answer, void *data)
{
    struct etcd_client *client = data;
    client->auth = NULL;
    if (answer->err == NULL) {
        const char *token = yyjson_get_str(yyjson_obj_get(answer->root, "token"));
        mem_wipe_free(client->token);
        client->token = mem_strdup(token != NULL ? token : "");
        client->token_number++;
    }
    client->no_auth = answer->fault == ETCD_FAULT_NO_AUTH;
    list_each(node, &client->calls)
    {
        struct etcd_call *c = list_item(node, struct etcd_call, node);
        if (sm_now(&c->sm) != TOKEN)
            continue;
        if (answer->err == NULL || client->no_auth) {
            call_next(c);
        } else {
            c->fault = answer->fault;
            err_copy(&c->err, answer->err);
            call_end(c);
        }
    }
}

static int auth_start(struct etcd_client *client, struct err *err)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    size_t length = 0;
    yyjson_mut_doc_set_root(doc, root);
    (void)yyjson_mut_obj_add_str(doc, root, "name", client->user);
    (void)yyjson_mut_obj_add_str(doc, root, "password", client->password);
    char *body = yyjson_mut_write(doc, 0, &length);
    yyjson_mut_doc_free(doc);
    if (body == NULL)
        return err_set(err, ERRC_INVALID, "user and password for etcd must be UTF-8");
    const struct etcd_request q = {.path = AUTH_PATH, .body = body, .body_length = length};
    int rc = etcd_call_start(client, &q, auth_answered, client, &client->auth, err);
    mem_wipe_free(body);
    return rc;
}

static bool is_auth(const struct etcd_call *c)
{
    return strcmp(c->request.path, AUTH_PATH) == 0;
}

/* True if the call waits for a login, or ended for want of one. */
static bool call_waits_for_token(struct etcd_call *c)
{
    struct etcd_client *client = c->client;
    if (client->user == NULL || client->token != NULL || client->no_auth || is_auth(c))
        return false;
    if (sm_now(&c->sm) != TOKEN)
        sm_move(&c->sm, TOKEN);
    loop_timer_start_at(&c->timer, c->give_up_ns);
    if (client->auth == NULL && auth_start(client, &c->err) != 0) {
        c->fault = ETCD_FAULT_DENIED;
        call_end(c);
    }
    return true;
}

/* ---- tries ---- */

static void call_out_of_time(struct etcd_call *c)
{
    if (c->err.code == ERRC_NONE)
        (void)err_set(&c->err, ERRC_TIMEOUT, "no etcd member answered in time");
    c->fault = ETCD_FAULT_ENDPOINT;
    call_end(c);
}

/* A member could not say. The first failure of a call is repeated at once, then once per member. */
static void call_again(struct etcd_call *c)
{
    struct etcd_client *client = c->client;
    uint64_t now = loop_now(client->loop);
    bool pause = c->tries > client->endpoint_count || c->fault == ETCD_FAULT_BUSY;
    if (c->request.once || client->hurry || c->canceled) {
        call_end(c);
        return;
    }
    if (pause)
        c->pause_ns = c->pause_ns == 0                 ? PAUSE_NS
                      : c->pause_ns < PAUSE_MAX_NS / 2 ? c->pause_ns * 2
                                                       : PAUSE_MAX_NS;
    uint64_t wait = pause ? c->pause_ns / 2 + env_random_below(client->loop->env, c->pause_ns) : 0;
    if (now + wait >= c->give_up_ns) {
        call_out_of_time(c);
        return;
    }
    sm_move(&c->sm, PAUSED);
    loop_timer_start(&c->timer, wait);
}

static void call_timer(struct loop_timer *timer, void *data)
{
    struct etcd_call *c = data;
    (void)timer;
    if (sm_now(&c->sm) == TOKEN)
        call_out_of_time(c);
    else
        call_next(c);
}

/* The token was refused, or may have been: an old token can end a connection without a word (E5). */
static bool call_renews_token(struct etcd_call *c)
{
    if (is_auth(c) || c->client->user == NULL || c->renewed)
        return false;
    c->renewed = true;
    etcd_token_rejected(c->client, c->token);
    if (c->client->no_auth)
        c->client->no_auth = false;
    return true;
}

static void call_refused(struct etcd_call *c, enum etcd_fault fault, const char *message)
{
    c->fault = fault;
    (void)err_set(&c->err, etcd_fault_code(fault), "%s%s: %s", c->client->endpoints[c->endpoint],
                  c->request.path, message);
    if (fault == ETCD_FAULT_TOKEN && call_renews_token(c)) {
        call_next(c);
    } else if (fault == ETCD_FAULT_ENDPOINT) {
        c->unknown = true;
        etcd_endpoint_failed(c->client, c->endpoint);
        call_again(c);
    } else if (fault == ETCD_FAULT_BUSY) {
        call_again(c);
    } else {
        call_end(c);
    }
}

/* The call takes what it needs of the answer; the document stays with it until its callback returned. */
static void call_judge(struct etcd_call *c, int status)
{
    yyjson_val *root = yyjson_doc_get_root(c->doc), *result = yyjson_obj_get(root, "result");
    const char *message = "";
    int64_t code = -1;
    bool failed = etcd_error_read(root, &code, &message);
    enum etcd_fault fault = etcd_fault_of(status, code, message);
    if (fault == ETCD_FAULT_NONE && root == NULL)
        call_refused(c, ETCD_FAULT_ENDPOINT, "the answer is no JSON");
    else if (fault == ETCD_FAULT_NONE && !etcd_cluster_fits(c->client, etcd_cluster(result ? result : root)))
        call_refused(c, ETCD_FAULT_ENDPOINT, "this member belongs to another cluster");
    else if (fault == ETCD_FAULT_NONE) {
        err_clear(&c->err);
        c->fault = ETCD_FAULT_NONE;
        call_end(c);
    } else if (failed)
        call_refused(c, fault, message);
    else
        call_refused(c, fault,
                     status == 404 ? "not found: etcd 3.4 or newer is needed" : "not etcd's answer");
}

static void try_answered(const struct http_answer *answer, void *data)
{
    struct etcd_call *c = data;
    c->http = NULL;
    if (c->canceled) {
        call_fail(c, ETCD_FAULT_ENDPOINT, ERRC_CANCELED, "canceled");
        return;
    }
    if (answer->err == NULL) {
        yyjson_doc_free(c->doc);
        c->doc = yyjson_read(answer->body, answer->body_length, YYJSON_READ_STOP_WHEN_DONE);
        call_judge(c, answer->status);
        return;
    }
    c->unknown = true;
    c->fault = ETCD_FAULT_ENDPOINT;
    err_copy(&c->err, answer->err);
    if (answer->err->code == ERRC_CLOSED && c->had_token && call_renews_token(c)) {
        call_next(c);
        return;
    }
    etcd_endpoint_failed(c->client, c->endpoint);
    call_again(c);
}

static int http_start(struct etcd_client *client, const char *path, const struct http_call_options *like,
                      http_answer_cb cb, void *data, struct http_call **ret, struct err *err)
{
    struct http_header headers[3] = {{"Content-Type", "application/json"}};
    struct http_call_options o = *like;
    int count = 1;
    if (client->token != NULL && client->token[0] != '\0')
        headers[count++] = (struct http_header){"Authorization", client->token};
    if (like->on_body != NULL) /* a member that lost its leader ends the stream */
        headers[count++] = (struct http_header){"Grpc-Metadata-hasleader", "true"};
    char *url = mem_printf("%s%s", client->endpoints[client->endpoint], path);
    o.method = "POST";
    o.url = url;
    o.headers = headers;
    o.header_count = count;
    int rc = http_call_start(client->http, &o, cb, data, ret, err);
    free(url);
    return rc;
}

static void call_next(struct etcd_call *c)
{
    struct etcd_client *client = c->client;
    uint64_t now = loop_now(client->loop), left = c->give_up_ns > now ? c->give_up_ns - now : 1;
    loop_timer_stop(&c->timer);
    if (call_waits_for_token(c))
        return;
    sm_move(&c->sm, TRYING);
    c->tries++;
    c->endpoint = client->endpoint;
    c->token = client->token_number;
    c->had_token = client->token != NULL && !is_auth(c);
    const struct http_call_options o = {
        .body = c->body,
        .body_length = c->request.body_length,
        .timeout_ns = c->request.try_ns < left ? c->request.try_ns : left,
        .body_limit = BODY_LIMIT,
    };
    if (http_start(client, c->request.path, &o, try_answered, c, &c->http, &c->err) == 0)
        return;
    c->fault = ETCD_FAULT_ENDPOINT;
    etcd_endpoint_failed(client, c->endpoint);
    call_again(c);
}

int etcd_call_start(struct etcd_client *client, const struct etcd_request *request, etcd_answer_cb cb,
                    void *data, struct etcd_call **ret, struct err *err)
{
    if (client->closing)
        return err_set(err, ERRC_CLOSED, "the etcd client is being closed");
    struct etcd_call *c = mem_zalloc(sizeof *c);
    c->client = client;
    c->request = *request;
    c->body = mem_strndup(request->body, request->body_length);
    c->request.try_ns = request->try_ns != 0 ? request->try_ns : ETCD_TRY_NS;
    c->give_up_ns = loop_now(client->loop) + (request->limit_ns != 0 ? request->limit_ns : ETCD_LIMIT_NS);
    c->cb = cb;
    c->data = data;
    c->task = (struct loop_task){.run = call_report, .data = c};
    list_init(&c->task.node);
    loop_timer_init(client->loop, &c->timer, call_timer, c);
    sm_init(&c->sm, states, STATE_MAX, PAUSED, NULL, c);
    list_append(&client->calls, &c->node);
    client->open++;
    if (ret != NULL)
        *ret = c;
    call_next(c);
    return 0;
}

static void call_stop(struct etcd_call *c)
{
    if (sm_now(&c->sm) >= DONE)
        return;
    c->canceled = true;
    if (c->http != NULL)
        http_call_cancel(c->http);
    else
        call_fail(c, ETCD_FAULT_ENDPOINT, ERRC_CANCELED, "canceled");
}

void etcd_call_cancel(struct etcd_call *call)
{
    if (call != NULL)
        call_stop(call);
}

void etcd_client_hurry(struct etcd_client *client)
{
    client->hurry = true;
    list_each(node, &client->calls)
    {
        struct etcd_call *c = list_item(node, struct etcd_call, node);
        if (sm_now(&c->sm) == PAUSED)
            call_out_of_time(c);
    }
}

void etcd_client_close(struct etcd_client *client, void (*closed)(void *data), void *data)
{
    client->closing = true;
    client->closed = closed;
    client->closed_data = data;
    list_each(node, &client->calls)
    {
        call_stop(list_item(node, struct etcd_call, node));
    }
    http_client_close(client->http, http_closed, client);
}

int etcd_stream_start(struct etcd_client *client, const char *path, const char *body,
                      const struct http_call_options *like, http_answer_cb cb, void *data,
                      struct http_call **ret, uint64_t *ret_token, struct err *err)
{
    struct http_call_options o = *like;
    if (client->closing)
        return err_set(err, ERRC_CLOSED, "the etcd client is being closed");
    o.body = body;
    o.body_length = strlen(body);
    *ret_token = client->token_number;
    return http_start(client, path, &o, cb, data, ret, err);
}
