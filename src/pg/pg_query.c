/*
 * Queries: extended ones in pipeline mode with a sync each (P9), simple ones alone. Results are kept until
 * the request is complete; the first error is the request's.
 */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "pg/pg_impl.h"

#define PARAMS_MAX 65535

/* ---- items ---- */

static struct pg_item *item_take(struct pg_conn *conn)
{
    struct pg_item *item;
    if (list_empty(&conn->spare)) {
        item = mem_zalloc(sizeof *item);
        item->results = item->few;
        item->result_capacity = (int)(sizeof item->few / sizeof *item->few);
    } else {
        item = list_item(list_first(&conn->spare), struct pg_item, node);
        list_remove(&item->node);
        conn->spare_count--;
    }
    list_init(&item->node);
    return item;
}

static void item_free(struct pg_item *item)
{
    if (item->results != item->few)
        free((void *)item->results);
    free(item->texts);
    free(item);
}

static void item_give_back(struct pg_conn *conn, struct pg_item *item)
{
    for (int i = 0; i < item->result_count; i++)
        PQclear(item->results[i]);
    item->result_count = 0;
    if (conn->spare_count >= PG_ITEMS_KEPT) {
        item_free(item);
        return;
    }
    free(item->texts);
    item->texts = NULL;
    item->statement = NULL;
    item->preparing = item->gap = item->joined = false;
    item->deadline_ns = item->patience_ns = 0;
    err_clear(&item->err);
    list_append(&conn->spare, &item->node);
    conn->spare_count++;
}

static void item_keep(struct pg_item *item, PGresult *result)
{
    if (item->result_count == item->result_capacity) {
        int capacity = item->result_capacity * 2;
        PGresult **more = mem_array((size_t)capacity, sizeof *more);
        memcpy((void *)more, (void *)item->results, (size_t)item->result_count * sizeof *more);
        if (item->results != item->few)
            free((void *)item->results);
        item->results = more;
        item->result_capacity = capacity;
    }
    item->results[item->result_count++] = result;
}

/* One allocation for all texts of a request that must wait. */
static void item_copy_request(struct pg_item *item, const struct pg_request *request)
{
    size_t pointers = (size_t)request->param_count * sizeof(char *);
    size_t size = pointers + strlen(request->sql) + 1;
    if (request->prepared != NULL)
        size += strlen(request->prepared) + 1;
    for (int i = 0; i < request->param_count; i++)
        size += request->params[i] != NULL ? strlen(request->params[i]) + 1 : 0;
    item->texts = mem_alloc(size);
    item->copy = *request;
    const char **params = (const char **)(void *)item->texts;
    char *p = item->texts + pointers;
    item->copy.sql = p;
    p = stpcpy(p, request->sql) + 1;
    if (request->prepared != NULL) {
        item->copy.prepared = p;
        p = stpcpy(p, request->prepared) + 1;
    }
    for (int i = 0; i < request->param_count; i++) {
        params[i] = request->params[i] != NULL ? p : NULL;
        if (request->params[i] != NULL)
            p = stpcpy(p, request->params[i]) + 1;
    }
    item->copy.params = params;
}

/* ---- prepared statements ---- */

/* Mostly the last one is used again, or the one after it, since they come in the order of their first use. */
static struct pg_statement *statement_find(const struct pg_conn *conn, const char *name)
{
    struct list *start = conn->statement_last != NULL ? conn->statement_last : conn->statements.next;
    struct list *node = start;
    do {
        struct pg_statement *s = list_item(node, struct pg_statement, node);
        if (node != &conn->statements && (s->name == name || strcmp(s->name, name) == 0))
            return s;
        node = node->next;
    } while (node != start);
    return NULL;
}

static struct pg_statement *statement_get(struct pg_conn *conn, const struct pg_request *request)
{
    struct pg_statement *s = statement_find(conn, request->prepared);
    if (s == NULL) {
        s = mem_zalloc(sizeof *s);
        s->constant = request->constant;
        s->name = s->constant ? request->prepared : mem_strdup(request->prepared);
        s->sql = s->constant ? request->sql : mem_strdup(request->sql);
        snprintf(s->server_name, sizeof s->server_name, "%s", s->name);
        list_append(&conn->statements, &s->node);
    }
    conn->statement_last = &s->node;
    return s;
}

void pg_query_forget(struct pg_conn *conn)
{
    list_each(node, &conn->statements)
    {
        struct pg_statement *s = list_item(node, struct pg_statement, node);
        if (!s->constant) {
            free((void *)(uintptr_t)s->name);
            free((void *)(uintptr_t)s->sql);
        }
        free(s);
    }
    list_each(spare, &conn->spare) item_free(list_item(spare, struct pg_item, node));
}

/* ---- extended queries ---- */

/* P9 */
static int pipeline_sync(PGconn *pg)
{
#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC
    return PQsendPipelineSync(pg); /* without a write for each */
#else
    return PQpipelineSync(pg);
#endif
}

bool pg_query_sync(struct pg_conn *conn)
{
    struct pg_item *last = conn->unsynced;
    if (last == NULL)
        return true;
    conn->unsynced = NULL;
    last->joined = false;
    return pipeline_sync(conn->pg) == 1;
}

static bool extended_send(struct pg_conn *conn, struct pg_item *item)
{
    const struct pg_request *r = item->request != NULL ? item->request : &item->copy;
    bool joined = r->joined && conn->corked;
    if (!joined && !pg_query_sync(conn))
        return false;
    const char *const *params = r->param_count > 0 ? r->params : NULL;
    struct pg_statement *s = r->prepared != NULL ? statement_get(conn, r) : NULL;
    int ok;
    if (s == NULL || s->state == STATEMENT_SENT) {
        /* not yet known to be there: an unnamed statement gives the same answer */
        ok = PQsendQueryParams(conn->pg, r->sql, r->param_count, NULL, params, NULL, NULL, 0);
    } else {
        item->statement = s;
        if (s->state == STATEMENT_ABSENT) {
            item->preparing = true;
            s->state = STATEMENT_SENT;
            if (PQsendPrepare(conn->pg, s->server_name, s->sql, 0, NULL) != 1)
                return false;
        }
        ok = PQsendQueryPrepared(conn->pg, s->server_name, r->param_count, params, NULL, NULL, 0);
    }
    if (joined && ok == 1) {
        item->joined = true;
        conn->unsynced = item;
        return true;
    }
    return ok == 1 && pipeline_sync(conn->pg) == 1;
}

/*
 * A prepared statement can die: DISCARD ALL (26000) or a changed table (0A000, "cached plan must not change
 * result type"). The next use prepares it anew under a name that the server does not know.
 */
static void statement_judge(struct pg_item *item)
{
    struct pg_statement *s = item->statement;
    if (item->preparing) {
        s->state = STATEMENT_ABSENT;
        item->statement = NULL;
    } else if (err_is_sql(&item->err, "26000") || err_is_sql(&item->err, "0A000")) {
        s->state = STATEMENT_ABSENT;
        s->generation++;
        snprintf(s->server_name, sizeof s->server_name, "%.60s/%u", s->name, s->generation);
    }
}

static void item_failed(struct pg_conn *conn, struct pg_item *item, const PGresult *result)
{
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
        pg_error_result(result, &conn->fatal);
    if (item->err.code == ERRC_NONE)
        pg_error_result(result, &item->err);
    if (item->statement != NULL)
        statement_judge(item);
}

/* One that it was joined with had failed before; or its own Prepare, which is known already. */
static void item_skipped(struct pg_item *item)
{
    if (item->err.code != ERRC_NONE)
        return;
    err_set(&item->err, ERRC_CANCELED, "not run: a request before it failed");
    if (item->preparing) {
        item->statement->state = STATEMENT_ABSENT;
        item->statement = NULL;
    }
}

/* Takes over one result. False = the protocol allows no way on. */
static bool item_result(struct pg_conn *conn, struct pg_item *item, PGresult *result)
{
    switch (PQresultStatus(result)) {
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
        PQclear(result);
        err_set(&conn->fatal, ERRC_INVALID, "COPY in a plain query");
        return false;
    case PGRES_PIPELINE_ABORTED:
        PQclear(result);
        item_skipped(item);
        return true;
    case PGRES_FATAL_ERROR:
    case PGRES_BAD_RESPONSE:
        item_failed(conn, item, result);
        item_keep(item, result);
        return true;
    default:
        if (item->preparing) {
            item->statement->state = STATEMENT_READY;
            PQclear(result);
        } else {
            item_keep(item, result);
        }
        return true;
    }
}

static bool extended_read(struct pg_conn *conn, struct pg_item *item)
{
    while (!PQisBusy(conn->pg)) { /* P7 */
        PGresult *result = PQgetResult(conn->pg);
        if (result == NULL) {
            if (item->gap)
                return false; /* nothing more to take */
            item->gap = true;
            if (item->joined && !item->preparing)
                return true;
            item->preparing = false;
            continue;
        }
        item->gap = false;
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            return true;
        }
        if (!item_result(conn, item, result)) {
            pg_conn_fail_later(conn);
            return false;
        }
        if (PQstatus(conn->pg) == CONNECTION_BAD)
            return false;
    }
    return false;
}

/* ---- simple queries ---- */

static bool simple_send(struct pg_conn *conn, struct pg_item *item)
{
    const struct pg_request *r = item->request != NULL ? item->request : &item->copy;
    return PQsendQuery(conn->pg, r->sql) == 1;
}

static bool simple_read(struct pg_conn *conn, struct pg_item *item)
{
    while (!PQisBusy(conn->pg)) {
        PGresult *result = PQgetResult(conn->pg);
        if (result == NULL)
            return PQstatus(conn->pg) != CONNECTION_BAD;
        if (!item_result(conn, item, result)) {
            pg_conn_fail_later(conn);
            return false;
        }
        if (PQstatus(conn->pg) == CONNECTION_BAD)
            return false;
    }
    return false;
}

/* ---- both ---- */

static void query_finish(struct pg_conn *conn, struct pg_item *item, const struct err *err)
{
    if (err != NULL && item->statement != NULL && item->preparing)
        item->statement->state = STATEMENT_ABSENT;
    struct pg_reply reply = {.count = item->result_count, .results = item->results};
    reply.err = err;
    if (err == NULL && item->err.code != ERRC_NONE)
        reply.err = &item->err;
    if (item->cb != NULL)
        item->cb(conn, &reply, item->data);
    item_give_back(conn, item);
}

static const struct pg_item_ops extended_ops = {
    .exclusive = false, .send = extended_send, .read = extended_read, .finish = query_finish};
static const struct pg_item_ops simple_ops = {
    .exclusive = true, .send = simple_send, .read = simple_read, .finish = query_finish};

static int request_check(struct pg_conn *conn, const struct pg_request *request, struct err *err)
{
    if (request->sql == NULL || request->param_count < 0 || request->param_count > PARAMS_MAX)
        return err_set(err, ERRC_INVALID, "%s: no SQL, or too many parameters", conn->name);
    if (!request->extended && (request->param_count > 0 || request->prepared != NULL))
        return err_set(err, ERRC_INVALID, "%s: parameters need an extended request", conn->name);
    if (request->prepared != NULL) {
        const struct pg_statement *s = statement_find(conn, request->prepared);
        if (strlen(request->prepared) >= PG_STATEMENT_NAME_SIZE - 20 || request->prepared[0] == '\0')
            return err_set(err, ERRC_INVALID, "%s: bad statement name", conn->name);
        if (s != NULL && s->sql != request->sql && strcmp(s->sql, request->sql) != 0)
            return err_set(err, ERRC_INVALID, "%s: statement name %s is taken by other SQL", conn->name,
                           request->prepared);
    }
    return pg_queue_check(conn, err);
}

int pg_send(struct pg_conn *conn, const struct pg_request *request, pg_reply_cb cb, void *data,
            struct err *err)
{
    int rc = request_check(conn, request, err);
    if (rc != 0)
        return rc;
    struct pg_item *item = item_take(conn);
    item->ops = request->extended ? &extended_ops : &simple_ops;
    item->cb = cb;
    item->data = data;
    item->timeout_ns = request->timeout_ns != 0 ? request->timeout_ns : PG_DEFAULT_REQUEST_NS;
    item->patience_ns = request->patience_ns < PG_PATIENCE_MAX_NS ? request->patience_ns : PG_PATIENCE_MAX_NS;
    if (list_empty(&conn->queue) && pg_queue_may_send(conn, item->ops)) {
        item->request = request; /* libpq copies it into its buffer */
        pg_queue_add(conn, item);
        item->request = NULL;
    } else {
        item_copy_request(item, request);
        pg_queue_add(conn, item);
    }
    return 0;
}

int pg_exec(struct pg_conn *conn, const char *sql, pg_reply_cb cb, void *data, struct err *err)
{
    const struct pg_request request = {.sql = sql};
    return pg_send(conn, &request, cb, data, err);
}
