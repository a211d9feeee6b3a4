/*
 * The order of requests on a connection: what is in flight, what waits, and their deadlines.
 */
#include "pg/pg_impl.h"

int pg_queue_check(const struct pg_conn *conn, struct err *err)
{
    if (sm_now(&conn->sm) != PG_READY)
        return err_set(err, ERRC_CLOSED, "%s: not connected", conn->name);
    if (conn->waiting >= PG_WAITING_MAX)
        return err_set(err, ERRC_LIMIT, "%s: %d requests wait already", conn->name, conn->waiting);
    return 0;
}

bool pg_queue_may_send(const struct pg_conn *conn, const struct pg_item_ops *ops)
{
    if (conn->cancel != NULL)
        return false; /* a late cancel must not hit the next statement */
    if (list_empty(&conn->flight))
        return true;
    const struct pg_item *first = list_item(conn->flight.next, struct pg_item, node);
    return !ops->exclusive && !first->ops->exclusive;
}

static bool set_pipeline(struct pg_conn *conn, bool pipeline)
{
    if (conn->pipeline == pipeline)
        return true;
    int ok = pipeline ? PQenterPipelineMode(conn->pg) : PQexitPipelineMode(conn->pg);
    conn->pipeline = ok == 1 ? pipeline : conn->pipeline;
    return ok == 1;
}

/* One timer for all deadlines; it is moved only for an earlier one, so a stream of queries costs nothing. */
void pg_queue_deadline(struct pg_conn *conn, uint64_t deadline_ns)
{
    if (deadline_ns == 0)
        return;
    if (!loop_timer_armed(&conn->deadline_timer) || deadline_ns < conn->deadline_timer.deadline_ns)
        loop_timer_start_at(&conn->deadline_timer, deadline_ns);
}

void pg_queue_send(struct pg_conn *conn, struct pg_item *item)
{
    list_append(&conn->flight, &item->node);
    item->hasty = item->patience_ns == 0;
    conn->hasty += item->hasty;
    if (item->timeout_ns != 0) {
        item->deadline_ns = loop_now(conn->loop) + item->timeout_ns;
        pg_queue_deadline(conn, item->deadline_ns);
    }
    if (set_pipeline(conn, !item->ops->exclusive) && item->ops->send(conn, item))
        pg_io_flush(conn);
    else
        pg_conn_fail_later(conn);
}

void pg_queue_dispatch(struct pg_conn *conn)
{
    while (sm_now(&conn->sm) == PG_READY && !list_empty(&conn->queue)) {
        struct pg_item *item = list_item(list_first(&conn->queue), struct pg_item, node);
        if (!pg_queue_may_send(conn, item->ops))
            return;
        list_remove(&item->node);
        pg_queue_send(conn, item);
    }
}

void pg_queue_add(struct pg_conn *conn, struct pg_item *item)
{
    conn->waiting++;
    if (list_empty(&conn->queue) && pg_queue_may_send(conn, item->ops))
        pg_queue_send(conn, item);
    else
        list_append(&conn->queue, &item->node);
}

void pg_queue_finish(struct pg_conn *conn, struct pg_item *item, const struct err *err)
{
    list_remove(&item->node);
    conn->waiting--;
    conn->hasty -= item->hasty;
    item->hasty = false;
    item->ops->finish(conn, item, err);
}

void pg_queue_fail(struct pg_conn *conn, const struct err *err)
{
    struct list *const lists[] = {&conn->flight, &conn->queue};
    conn->unsynced = NULL;
    for (int i = 0; i < 2; i++)
        while (!list_empty(lists[i]))
            pg_queue_finish(conn, list_item(list_first(lists[i]), struct pg_item, node), err);
}

/* P10, P14: the server had its chance; what it does now cannot be known, so the connection ends. */
void pg_queue_deadline_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct pg_conn *conn = data;
    if (conn->holding)
        pg_patience_end(conn); /* what came in time counts, read or not */
    if (sm_now(&conn->sm) != PG_READY)
        return;
    uint64_t now = loop_now(conn->loop);
    uint64_t next = 0;
    list_each(node, &conn->flight)
    {
        const struct pg_item *item = list_item(node, struct pg_item, node);
        if (item->deadline_ns == 0)
            continue;
        if (item->deadline_ns <= now) {
            struct err err;
            err_set(&err, ERRC_TIMEOUT, "%s: no answer within %llu ms", conn->name,
                    (unsigned long long)(item->timeout_ns / ENV_NS_PER_MS));
            pg_conn_fail(conn, &err);
            return;
        }
        if (next == 0 || item->deadline_ns < next)
            next = item->deadline_ns;
    }
    pg_queue_deadline(conn, next);
}
