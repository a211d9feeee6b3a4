#include "loop/work.h"

#include <assert.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void on_work(uv_work_t *uv)
{
    struct work *work = uv->data;
    work->run(work);
}

static void on_work_done(uv_work_t *uv, int status)
{
    struct work *work = uv->data;
    (void)loop_now(work->loop);
    work->loop->jobs--;
    work->loop = NULL;
    work->done(work, status == UV_ECANCELED ? ERRC_CANCELED : 0);
}

int work_start(struct loop *loop, struct work *work, void (*run)(struct work *),
               void (*done)(struct work *, int), void *data)
{
    *work = (struct work){.loop = loop, .run = run, .done = done, .data = data};
    work->uv.data = work;
    if (uv_queue_work(&loop->uv, &work->uv, on_work, on_work_done) != 0) {
        work->loop = NULL;
        return ERRC_INTERNAL;
    }
    loop->jobs++;
    return 0;
}

void work_cancel(struct work *work)
{
    if (work->loop != NULL)
        (void)uv_cancel((uv_req_t *)&work->uv); /* busy = it runs, and then it ends by itself */
}

/* ---- name resolution ---- */

struct resolve {
    struct loop *loop;
    uv_getaddrinfo_t uv;
    struct loop_task report; /* cancel and literals answer by a task of the loop */
    bool looking;            /* libuv's callback is still to come */
    bool reported;
    char *host;
    struct err err;
    struct resolve_result result;
    resolve_cb cb;
    void *data;
};

static void resolve_settle(struct resolve *r)
{
    if (r->looking || !r->reported)
        return;
    free(r->host);
    free(r);
}

static void resolve_report(struct loop_task *task, void *data)
{
    (void)task;
    struct resolve *r = data;
    r->reported = true;
    r->cb(r->err.code != ERRC_NONE ? &r->err : NULL, &r->result, r->data);
    resolve_settle(r);
}

static bool address_known(const struct resolve_result *result, const char *address)
{
    for (int i = 0; i < result->count; i++)
        if (strcmp(result->address[i], address) == 0)
            return true;
    return false;
}

static void collect(struct resolve_result *result, const struct addrinfo *list)
{
    for (const struct addrinfo *a = list; a != NULL && result->count < RESOLVE_MAX; a = a->ai_next) {
        char *text = result->address[result->count];
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof result->address[0], NULL, 0,
                        NI_NUMERICHOST) != 0)
            continue;
        if (!address_known(result, text))
            result->count++;
    }
}

static void on_resolved(uv_getaddrinfo_t *uv, int status, struct addrinfo *list)
{
    struct resolve *r = uv->data;
    (void)loop_now(r->loop);
    r->loop->jobs--;
    r->looking = false;
    if (status == 0)
        collect(&r->result, list);
    uv_freeaddrinfo(list);
    if (r->reported || r->report.queued) {
        resolve_settle(r); /* canceled meanwhile */
        return;
    }
    if (status != 0)
        err_set(&r->err, ERRC_UNAVAILABLE, "cannot resolve \"%s\": %s", r->host, uv_strerror(status));
    else if (r->result.count == 0)
        err_set(&r->err, ERRC_UNAVAILABLE, "cannot resolve \"%s\": it has no usable address", r->host);
    resolve_report(&r->report, r);
}

static bool resolve_literal(const char *host, struct resolve_result *result)
{
    unsigned char bytes[16];
    if (uv_inet_pton(AF_INET, host, bytes) != 0 && uv_inet_pton(AF_INET6, host, bytes) != 0)
        return false;
    if (strlen(host) >= sizeof result->address[0])
        return false;
    snprintf(result->address[0], sizeof result->address[0], "%s", host);
    result->count = 1;
    return true;
}

static int lookup(struct resolve *r, struct err *err)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int rc = uv_getaddrinfo(&r->loop->uv, &r->uv, on_resolved, r->host, NULL, &hints);
    if (rc != 0)
        return err_set(err, ERRC_UNAVAILABLE, "cannot resolve \"%s\": %s", r->host, uv_strerror(rc));
    r->looking = true;
    r->loop->jobs++;
    return 0;
}

int resolve_start(struct loop *loop, const char *host, resolve_cb cb, void *data, struct resolve **ret,
                  struct err *err)
{
    if (host == NULL || host[0] == '\0')
        return err_set(err, ERRC_INVALID, "no host name to resolve");
    struct resolve *r = mem_zalloc(sizeof *r);
    r->loop = loop;
    r->uv.data = r;
    r->report.run = resolve_report;
    r->report.data = r;
    r->host = mem_strdup(host);
    r->cb = cb;
    r->data = data;
    if (resolve_literal(host, &r->result)) {
        loop_defer(loop, &r->report);
    } else {
        int rc = lookup(r, err);
        if (rc != 0) {
            free(r->host);
            free(r);
            return rc;
        }
    }
    if (ret != NULL)
        *ret = r;
    return 0;
}

void resolve_cancel(struct resolve *r)
{
    if (r->reported || r->err.code == ERRC_CANCELED)
        return;
    err_set(&r->err, ERRC_CANCELED, "resolution of \"%s\" canceled", r->host);
    if (r->looking)
        (void)uv_cancel((uv_req_t *)&r->uv);
    loop_defer(r->loop, &r->report);
}
