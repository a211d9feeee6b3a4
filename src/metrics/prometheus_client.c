#include "metrics/prometheus_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "http/http_client.h"
#include "http/http_url.h"
#include "loop/tls.h"
#include "loop/work.h"

#define DEFAULT_TIMEOUT_NS (5 * ENV_NS_PER_S)
#define FILES_NS           (60 * ENV_NS_PER_S)
#define BODY_MAX           (8u * 1024 * 1024)
#define TOKEN_MAX          16384
#define CA_MAX             (1024 * 1024)

struct prometheus_client {
    struct loop *loop;
    char *url, *token_file, *ca_file;
    bool may_send_token;
    uint64_t timeout_ns;
    struct http_client *http;
    struct tls_context *tls;
    char *token; /* as last read */
    struct work work;
    bool reading;
    char *new_token, *new_ca, *ca; /* the worker's; the text that tls was made of */
    struct err new_err;            /* the worker's */
    struct err file_err;           /* queries end with it */
    struct loop_timer timer;
    struct list queries;
    unsigned running;
    unsigned clients; /* http clients that are not closed yet */
    bool ready;       /* the files were read once */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task gone;
};

/*
 *   WAITING (for the files) --> CALLING --> gone
 */
struct prometheus_query {
    struct list node;
    struct prometheus_client *client;
    const struct prometheus_query_user *user;
    void *data;
    char *url;
    struct http_call *call;  /* NULL while it waits */
    struct loop_timer timer; /* while it waits */
};

/* ---- queries ---- */

static void client_check_gone(struct prometheus_client *c)
{
    if (c->closing && c->running == 0 && !c->reading && c->clients == 0)
        loop_defer(c->loop, &c->gone);
}

static void query_end(struct prometheus_query *q, const struct err *err)
{
    struct prometheus_client *c = q->client;
    list_remove(&q->node);
    loop_timer_stop(&q->timer);
    c->running--;
    q->user->done(err, q->data);
    free(q->url);
    free(q);
    client_check_gone(c);
}

static void query_answered(const struct http_answer *answer, void *data)
{
    struct prometheus_query *q = data;
    struct err err = {0};
    if (answer->err != NULL)
        err = *answer->err;
    else if (answer->status == 401 || answer->status == 403)
        (void)err_set(&err, ERRC_AUTH, "it answers %d: check prometheus.bearer_token_file", answer->status);
    else if (prometheus_answer_parse(answer->body, answer->body_length, q->user->sample, q->data, &err) !=
                 0 &&
             err.code == ERRC_PROTOCOL && answer->status != 200)
        (void)err_set(&err, ERRC_UNAVAILABLE, "it answers %d", answer->status);
    if (err.code != ERRC_NONE)
        (void)err_wrap(&err, "Prometheus at %s", q->client->url);
    query_end(q, err.code != ERRC_NONE ? &err : NULL);
}

static void query_call(struct prometheus_query *q)
{
    struct prometheus_client *c = q->client;
    char *authorization = c->token != NULL && c->may_send_token ? mem_printf("Bearer %s", c->token) : NULL;
    const struct http_header headers[] = {{"Accept", "application/json"}, {"Authorization", authorization}};
    const struct http_call_options options = {.method = "GET",
                                              .url = q->url,
                                              .headers = headers,
                                              .header_count = authorization != NULL ? 2 : 1,
                                              .timeout_ns = c->timeout_ns,
                                              .body_limit = BODY_MAX};
    struct err err = c->file_err;
    loop_timer_stop(&q->timer);
    if (err.code == ERRC_NONE)
        (void)http_call_start(c->http, &options, query_answered, q, &q->call, &err);
    mem_wipe_free(authorization);
    if (err.code != ERRC_NONE)
        query_end(q, &err);
}

static void query_waited(struct loop_timer *timer, void *data)
{
    struct prometheus_query *q = data;
    struct err err = {0};
    (void)timer;
    if (q->client->ready) {
        query_call(q);
        return;
    }
    (void)err_set(&err, ERRC_TIMEOUT, "its token and certificates could not be read in time");
    query_end(q, &err);
}

static void add_encoded(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (plain)
            (void)buf_addc(out, (char)c);
        else
            (void)buf_printf(out, "%%%02X", c);
    }
}

int prometheus_query_start(struct prometheus_client *c, const char *query,
                           const struct prometheus_query_user *user, void *data, struct err *err)
{
    struct buf url = {0};
    if (c->closing)
        return err_set(err, ERRC_CLOSED, "it is being closed");
    if (c->running >= PROMETHEUS_QUERIES_MAX)
        return err_set(err, ERRC_LIMIT, "%u queries are running", c->running);
    struct prometheus_query *q = mem_zalloc(sizeof *q);
    q->client = c;
    q->user = user;
    q->data = data;
    (void)buf_printf(&url, "%s/api/v1/query?timeout=%llums&query=", c->url,
                     (unsigned long long)(c->timeout_ns / ENV_NS_PER_MS));
    add_encoded(&url, query);
    q->url = buf_take(&url);
    list_append(&c->queries, &q->node);
    c->running++;
    loop_timer_init(c->loop, &q->timer, query_waited, q);
    loop_timer_start(&q->timer, c->ready ? 0 : c->timeout_ns);
    return 0;
}

/* ---- files, on a worker ---- */

static char *read_file(const char *path, size_t limit, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = mem_zalloc(limit + 1);
    ssize_t n = fd >= 0 ? read(fd, text, limit) : -1;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n > 0)
        return text;
    free(text);
    if (n < 0)
        (void)err_set_errno(err, error, "%s", path);
    else
        (void)err_set(err, ERRC_IO, "%s is empty", path);
    return NULL;
}

static void read_files(struct work *work)
{
    struct prometheus_client *c = work->data;
    if (c->token_file != NULL)
        c->new_token = read_file(c->token_file, TOKEN_MAX, &c->new_err);
    if (c->new_token != NULL)
        c->new_token[strcspn(c->new_token, " \t\r\n")] = '\0';
    if (c->ca_file != NULL)
        c->new_ca = read_file(c->ca_file, CA_MAX, &c->new_err);
}

static void http_gone(void *data)
{
    struct prometheus_client *c = data;
    c->clients--;
    client_check_gone(c);
}

/* New trust: new connections. Running queries end with the old client, by being canceled. */
static void take_ca(struct prometheus_client *c)
{
    struct tls_context *tls = NULL;
    const struct tls_options options = {.verify_peer = true, .ca_pem = c->new_ca};
    if (c->new_ca == NULL || (c->ca != NULL && strcmp(c->ca, c->new_ca) == 0))
        return;
    if (tls_context_new(&options, &tls, &c->new_err) != 0)
        return;
    struct http_client *old = c->http;
    c->http = http_client_new(c->loop, tls);
    c->clients++;
    tls_context_unref(c->tls);
    c->tls = tls;
    free(c->ca);
    c->ca = c->new_ca;
    c->new_ca = NULL;
    http_client_close(old, http_gone, c);
}

static void files_done(struct work *work, int code)
{
    struct prometheus_client *c = work->data;
    c->reading = false;
    if (!c->closing && code == 0) {
        take_ca(c);
        if (c->new_token != NULL) {
            mem_wipe_free(c->token);
            c->token = c->new_token;
            c->new_token = NULL;
        }
        /* what was read before stays, as long as there is something */
        bool usable = (c->token_file == NULL || c->token != NULL) && (c->ca_file == NULL || c->ca != NULL);
        c->file_err = usable ? (struct err){0} : c->new_err;
        c->ready = true;
        loop_timer_start(&c->timer, FILES_NS);
        list_each(node, &c->queries)
        {
            struct prometheus_query *q = list_item(node, struct prometheus_query, node);
            if (q->call == NULL)
                loop_timer_start(&q->timer, 0);
        }
    }
    mem_wipe_free(c->new_token);
    free(c->new_ca);
    c->new_token = c->new_ca = NULL;
    client_check_gone(c);
}

static void files_start(struct prometheus_client *c)
{
    err_clear(&c->new_err);
    c->ready = c->ready || (c->token_file == NULL && c->ca_file == NULL);
    if (c->token_file == NULL && c->ca_file == NULL)
        return;
    c->reading = work_start(c->loop, &c->work, read_files, files_done, c) == 0;
    if (!c->reading)
        loop_timer_start(&c->timer, ENV_NS_PER_S);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    files_start(data);
}

/* ---- life ---- */

static void client_gone(struct loop_task *task, void *data)
{
    struct prometheus_client *c = data;
    void (*closed)(void *) = c->closed;
    void *closed_data = c->closed_data;
    (void)task;
    tls_context_unref(c->tls);
    free(c->url);
    free(c->token_file);
    free(c->ca_file);
    free(c->ca);
    mem_wipe_free(c->token);
    free(c);
    if (closed != NULL)
        closed(closed_data);
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

int prometheus_client_new(struct loop *loop, const struct prometheus_client_options *o,
                          struct prometheus_client **ret, struct err *err)
{
    struct http_url url;
    if (http_url_parse(o->url, &url, err) != 0)
        return err_wrap(err, "prometheus.url");
    if (strchr(url.target, '?') != NULL)
        return err_set(err, ERRC_INVALID,
                       "prometheus.url: it has a query: only the part before /api is meant");
    struct prometheus_client *c = mem_zalloc(sizeof *c);
    c->loop = loop;
    c->url = mem_strdup(o->url);
    for (size_t n = strlen(c->url); n > 0 && c->url[n - 1] == '/'; n--)
        c->url[n - 1] = '\0';
    c->token_file = mem_strdup(o->token_file);
    c->ca_file = mem_strdup(o->ca_file);
    c->may_send_token = url.tls || is_loopback(url.host);
    c->timeout_ns = o->timeout_ns != 0 ? o->timeout_ns : DEFAULT_TIMEOUT_NS;
    c->http = http_client_new(loop, NULL);
    c->clients = 1;
    list_init(&c->queries);
    list_init(&c->gone.node);
    loop_timer_init(loop, &c->timer, on_timer, c);
    files_start(c);
    *ret = c;
    return 0;
}

void prometheus_client_close(struct prometheus_client *c, void (*closed)(void *data), void *data)
{
    struct err canceled = {0};
    c->closing = true;
    c->closed = closed;
    c->closed_data = data;
    c->gone.run = client_gone;
    c->gone.data = c;
    loop_timer_stop(&c->timer);
    (void)err_set(&canceled, ERRC_CANCELED, "canceled");
    list_each(node, &c->queries)
    {
        struct prometheus_query *q = list_item(node, struct prometheus_query, node);
        if (q->call == NULL)
            query_end(q, &canceled);
    }
    http_client_close(c->http, http_gone, c); /* the calls' callbacks come */
}
