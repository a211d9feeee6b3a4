#include <string.h>

#include "agent/agent_impl.h"
#include "agent/cgroup.h"
#include "base/buf.h"

static void respond_text(struct http_exchange *ex, int status, const char *text)
{
    http_respond(ex, status, "text/plain; charset=utf-8", text, strlen(text));
}

static void add_text(struct buf *b, const char *name, const char *text)
{
    (void)buf_printf(b, ",\"%s\":\"", name);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            (void)buf_addc(b, '\\');
        (void)buf_addc(b, (unsigned char)*text < ' ' ? ' ' : *text);
    }
    (void)buf_addc(b, '"');
}

static void add_cgroup(struct buf *b)
{
    struct cgroup_figures f;
    if (!cgroup_read("/sys/fs/cgroup", &f))
        return;
    (void)buf_printf(
        b,
        ",\"cpu_us\":\"%llu\",\"cpu_throttled_us\":\"%llu\",\"cpu_limit\":%.3f,\"memory_bytes\":\"%llu\","
        "\"memory_limit_bytes\":\"%llu\",\"oom_kills\":\"%llu\"",
        (unsigned long long)f.cpu_us, (unsigned long long)f.throttled_us, f.cpu_limit,
        (unsigned long long)f.memory_bytes, (unsigned long long)f.memory_limit,
        (unsigned long long)f.oom_kills);
}

static void respond_status(const struct agent *a, struct http_exchange *ex)
{
    struct buf b = {0};
    (void)buf_printf(&b, "{\"state\":\"%s\",\"ready\":%s,\"restarts\":\"%llu\",\"pid\":%d", sm_name(&a->sm),
                     a->conn != NULL && a->facts.known ? "true" : "false", (unsigned long long)a->restarts,
                     a->child != NULL ? (int)process_pid(a->child) : 0);
    if (a->facts.known) {
        (void)buf_printf(&b, ",\"role\":\"%s\",\"timeline\":\"%lld\",\"pending_restart\":%s",
                         a->facts.standby ? "standby" : "primary", (long long)a->facts.timeline,
                         a->facts.pending_restart ? "true" : "false");
        add_text(&b, "lsn", a->facts.lsn);
        add_text(&b, "version", a->facts.version);
    }
    if (a->err.code != ERRC_NONE)
        add_text(&b, "error", a->err.message);
    add_cgroup(&b);
    (void)buf_add_text(&b, "}\n");
    http_respond(ex, 200, "application/json", b.data, b.length);
    buf_free(&b);
}

static void handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    const struct agent *a = data;
    if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0)
        http_problem(ex, 405, "method_not_allowed", "only GET and HEAD");
    else if (strcmp(request->path, "/livez") == 0)
        respond_text(ex, a->failed ? 503 : 200, a->failed ? "the agent has given up\n" : "ok\n");
    else if (strcmp(request->path, "/readyz") == 0)
        respond_text(ex, a->facts.known && !a->stopping ? 200 : 503,
                     a->facts.known && !a->stopping ? "ok\n" : "the server does not accept connections\n");
    else if (strcmp(request->path, "/v1/status") == 0)
        respond_status(a, ex);
    else
        http_problem(ex, 404, "not_found", "there are /livez, /readyz and /v1/status");
}

int agent_http_open(struct agent *a, struct err *err)
{
    const struct http_server_options o = {
        .address = a->o.http_address, .port = a->o.http_port, .max_connections = 64};
    return http_server_open(&a->loop, &o, handle, a, &a->http, err);
}
