#include <stdlib.h>
#include <string.h>

#include <yyjson.h>

#include "agent/member_impl.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "loop/tls.h"

#define BODY_LIMIT (64u * 1024)

static void respond_text(struct http_exchange *ex, int status, const char *text)
{
    http_respond(ex, status, "text/plain; charset=utf-8", text, strlen(text));
}

static void respond_status(struct member *m, struct http_exchange *ex)
{
    char *text = member_status_text(m);
    http_respond(ex, 200, "application/json", text, strlen(text));
    free(text);
}

/* In time that does not depend on where they differ. */
static bool same_secret(const char *a, const char *b)
{
    size_t length = strlen(a);
    unsigned char difference = strlen(b) != length;
    for (size_t i = 0; i < length && difference == 0; i++)
        difference |= (unsigned char)(a[i] ^ b[i]);
    return difference == 0;
}

static bool is_allowed(const struct member *m, const struct http_exchange *ex)
{
    const char *header = http_request_header(ex, "authorization");
    return header != NULL && text_starts_with(header, "Bearer ") && same_secret(m->token, header + 7);
}

/* ---- orders ---- */

static void refuse_stale(const struct member *m, struct http_exchange *ex)
{
    http_problem(ex, 409, "stale", "an order of term %llu, seq %llu is in force; only a later one is taken",
                 (unsigned long long)m->order.term, (unsigned long long)m->order.seq);
}

static void refuse_heard(const struct order *o, struct http_exchange *ex)
{
    http_problem(ex, 409, "heard",
                 "\"heard\" is to be the \"clock\" of a status that is younger than the lease of %llu ms",
                 (unsigned long long)o->lease_ms);
}

static void save_run(struct work *work)
{
    struct member *m = work->data;
    (void)order_save(m->o.data, m->saving_text, &m->saving_err);
}

/* The lease of the order: from the clock it heard, which may be too long ago by now. */
static bool lease_take(struct member *m, bool goes_on)
{
    if (!goes_on)
        m->lease_until = 0;
    if (m->order.role != ORDER_PRIMARY)
        return true;
    if (m->order.lease_ms == 0) {
        m->lease_lost = false;
        watchdog_set_deadline(m->dog, 0);
        return true;
    }
    return member_lease_renew(m, m->order.heard);
}

static void save_done(struct work *work, int code)
{
    struct member *m = work->data;
    struct http_exchange *ex = m->saving_ex;
    (void)code;
    m->saving_ex = NULL;
    free(m->saving_text);
    m->saving_text = NULL;
    if (m->saving_err.code != ERRC_NONE) {
        http_problem_err(ex, &m->saving_err);
        member_step(m);
        return;
    }
    bool goes_on = m->confirmed && m->order.role == ORDER_PRIMARY && m->order.term == m->saving.term;
    m->order = m->saving;
    m->orders++;
    m->confirmed = true;
    log_event(LOG_INFO, "assigned", "role", order_role_name(m->order.role), "term",
              log_num((long long)m->order.term), "seq", log_num((long long)m->order.seq), NULL);
    if (lease_take(m, goes_on))
        respond_status(m, ex);
    else
        refuse_heard(&m->order, ex);
    member_ordered(m);
}

static void assign(struct member *m, struct http_exchange *ex, const struct http_request *request)
{
    struct order order;
    struct err err = {0};
    if (order_parse(request->body, request->body_length, &order, &err) != 0) {
        http_problem_err(ex, &err);
    } else if (!m->looked || m->saving_ex != NULL || m->ending) {
        http_problem(ex, 503, "busy",
                     "another order is being written down, or the agent starts or ends; again");
    } else if (m->order.closed && !order.closed_said) {
        http_problem(ex, 409, "closed",
                     "this member is being removed: an order that does not say \"closed\" is not taken");
    } else if (order_compare(&order, &m->order) < 0) {
        refuse_stale(m, ex);
    } else if (!member_lease_fresh(&order, order.heard)) {
        refuse_heard(&order, ex);
    } else if (m->confirmed && order_same(&order, &m->order)) {
        if (order.lease_ms > 0 && !member_lease_renew(m, order.heard))
            refuse_heard(&m->order, ex);
        else
            respond_status(m, ex);
        member_step(m);
    } else {
        m->saving = order;
        m->saving_text = order_text(&order);
        m->saving_ex = ex;
        err_clear(&m->saving_err);
        (void)work_start(&m->loop, &m->save_work, save_run, save_done, m);
    }
}

/* ---- the lease ---- */

static bool number_of(yyjson_val *root, const char *name, uint64_t *ret)
{
    yyjson_val *value = yyjson_obj_get(root, name);
    if (yyjson_is_uint(value)) {
        *ret = yyjson_get_uint(value);
        return true;
    }
    return yyjson_is_str(value) && text_to_uint64(yyjson_get_str(value), ret);
}

static void lease(struct member *m, struct http_exchange *ex, const struct http_request *request)
{
    uint64_t term = 0, heard = 0;
    yyjson_doc *doc = yyjson_read(request->body, request->body_length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    bool good = number_of(root, "term", &term) && number_of(root, "heard", &heard);
    yyjson_doc_free(doc);
    if (!good) {
        http_problem(ex, 400, "invalid", "a lease is {\"term\": number, \"heard\": number}");
    } else if (term != m->order.term) {
        refuse_stale(m, ex);
    } else if (m->order.role != ORDER_PRIMARY || m->order.lease_ms == 0 || !m->confirmed) {
        http_problem(ex, 409, "no_lease",
                     "there is no primary with a lease here that was assigned to this agent"
                     " since it was started");
    } else if (!member_lease_renew(m, heard)) {
        refuse_heard(&m->order, ex);
    } else {
        respond_status(m, ex);
        member_step(m);
    }
}

/* ---- routes ---- */

static void reload(struct member *m, struct http_exchange *ex)
{
    loop_timer_start(&m->inputs_timer, 0);
    respond_status(m, ex);
}

/* Asks the server now; if something changed, an event tells it. */
static void look_now(struct member *m, struct http_exchange *ex)
{
    member_facts_soon(m);
    respond_status(m, ex);
}

/* The status tells when it is over: "checkpoints" has grown. */
static void checkpoint_now(struct member *m, struct http_exchange *ex)
{
    member_checkpoint_soon(m);
    respond_status(m, ex);
}

static void handle_post(struct member *m, struct http_exchange *ex, const struct http_request *request)
{
    if (strcmp(request->path, "/v1/assign") == 0)
        assign(m, ex, request);
    else if (strcmp(request->path, "/v1/lease") == 0)
        lease(m, ex, request);
    else if (strcmp(request->path, "/v1/reload") == 0)
        reload(m, ex);
    else if (strcmp(request->path, "/v1/look") == 0)
        look_now(m, ex);
    else if (strcmp(request->path, "/v1/checkpoint") == 0)
        checkpoint_now(m, ex);
    else
        http_problem(ex, 404, "not_found",
                     "there are POST /v1/assign, /v1/lease, /v1/reload, /v1/look and /v1/checkpoint");
}

static void handle_get(struct member *m, struct http_exchange *ex, const struct http_request *request)
{
    char *text;
    if (strcmp(request->path, "/v1/status") == 0) {
        respond_status(m, ex);
    } else if (strcmp(request->path, "/v1/events") == 0 && m->topic != NULL) {
        text = member_status_text(m);
        sse_subscribe(m->topic, ex, "status", text);
        free(text);
    } else {
        http_problem(ex, 404, "not_found", "there are /livez, /readyz, /v1/status and /v1/events");
    }
}

static void handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    struct member *m = data;
    bool get = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
    if (get && strcmp(request->path, "/livez") == 0)
        respond_text(ex, 200, "ok\n");
    else if (get && strcmp(request->path, "/readyz") == 0)
        respond_text(ex, member_ready(m) ? 200 : 503,
                     member_ready(m) ? "ok\n" : "the server does not accept connections\n");
    else if (!is_allowed(m, ex))
        http_problem(ex, 401, "auth", "show the token: Authorization: Bearer TOKEN");
    else if (get)
        handle_get(m, ex, request);
    else if (strcmp(request->method, "POST") == 0)
        handle_post(m, ex, request);
    else
        http_problem(ex, 405, "method_not_allowed", "only GET, HEAD and POST");
}

/* With ca.crt callers need a certificate of it as well as the token. */
int member_http_tls(const struct agent_options *o, struct tls_context **ret, struct err *err)
{
    char *certificate = mem_printf("%s/tls.crt", o->http_tls), *key = mem_printf("%s/tls.key", o->http_tls);
    char *ca = mem_printf("%s/ca.crt", o->http_tls);
    char *certificate_text = agent_file_read(certificate), *key_text = agent_file_read(key),
         *ca_text = agent_file_read(ca);
    const struct tls_options options = {.server = true,
                                        .verify_peer = ca_text != NULL,
                                        .ca_pem = ca_text,
                                        .cert_pem = certificate_text,
                                        .key_pem = key_text};
    int rc = certificate_text == NULL || key_text == NULL
                 ? err_set(err, ERRC_INVALID, "%s is to hold tls.crt and tls.key", o->http_tls)
                 : tls_context_new(&options, ret, err);
    mem_wipe_free(key_text);
    free(certificate_text);
    free(ca_text);
    free(certificate);
    free(key);
    free(ca);
    return rc;
}

static bool is_loopback(const char *address)
{
    return text_starts_with(address, "127.") || strcmp(address, "::1") == 0;
}

int member_http_open(struct member *m, struct err *err)
{
    struct http_server_options o = {.address = m->o.http_address,
                                    .port = m->o.http_port,
                                    .max_connections = 64,
                                    .body_limit = BODY_LIMIT};
    if (m->o.http_tls == NULL && !is_loopback(m->o.http_address))
        return err_set(err, ERRC_INVALID,
                       "a token is not shown in the clear: --http-address %s needs --http-tls",
                       m->o.http_address);
    struct agent_inputs now;
    agent_inputs_read(&m->o, &now); /* before the files: what changes meanwhile is seen to later */
    m->http_tls = now.http_tls;
    agent_inputs_clear(&now);
    int rc = m->o.http_tls != NULL ? member_http_tls(&m->o, &o.tls, err) : 0;
    if (rc == 0)
        rc = http_server_open(&m->loop, &o, handle, m, &m->http, err);
    tls_context_unref(o.tls);
    return rc;
}
