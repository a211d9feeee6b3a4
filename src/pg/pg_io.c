/*
 * The socket of a connection: polled only for what libpq waits for (P8), read only with PQconsumeInput,
 * delivered in the turn in which the bytes arrived.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "pg/pg_impl.h"

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct pg_conn *conn = poll->data;
    (void)loop_now(conn->loop);
    if (conn->poll != poll)
        return;
    if (status < 0)
        conn->mask = 0; /* libuv has stopped the handle */
    if (sm_now(&conn->sm) == PG_POLLING)
        pg_conn_step(conn); /* also after an error: libpq finds the reason itself (P4) */
    else if (sm_now(&conn->sm) == PG_READY)
        pg_io_ready(conn, status, events);
}

static void handle_renew(struct pg_conn *conn, int fd, int *rc)
{
    if (conn->poll != NULL)
        uv_close((uv_handle_t *)conn->poll, (uv_close_cb)free);
    conn->fd = -1;
    conn->poll = mem_zalloc(sizeof *conn->poll);
    *rc = uv_poll_init(&conn->loop->uv, conn->poll, fd);
    if (*rc != 0) {
        free(conn->poll);
        conn->poll = NULL;
        return;
    }
    conn->poll->data = conn;
    conn->fd = fd;
}

int pg_io_poll(struct pg_conn *conn, int events)
{
    int rc = 0;
    int fd = PQsocket(conn->pg);
    if (fd < 0)
        return UV_EBADF;
    if (conn->poll == NULL || fd != conn->fd)
        handle_renew(conn, fd, &rc);
    if (rc != 0)
        return rc;
    rc = uv_poll_start(conn->poll, events, on_poll);
    conn->mask = rc == 0 ? events : 0;
    return rc;
}

void pg_io_pause(struct pg_conn *conn)
{
    if (conn->poll != NULL)
        uv_poll_stop(conn->poll);
    conn->mask = 0;
}

void pg_io_update(struct pg_conn *conn)
{
    if (sm_now(&conn->sm) != PG_READY)
        return;
    pg_patience_update(conn);
    int mask = (conn->read_paused ? 0 : UV_READABLE) | (conn->want_write ? UV_WRITABLE : 0);
    if (mask == conn->mask)
        return;
    if (mask == 0)
        pg_io_pause(conn);
    else if (pg_io_poll(conn, mask) != 0)
        pg_conn_fail_later(conn);
}

void pg_io_wake_at(const struct pg_conn *conn, int bytes)
{
    (void)setsockopt(conn->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

bool pg_io_unread(const struct pg_conn *conn)
{
    int bytes = 0;
    return ioctl(conn->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

/* TCP_CORK, not MSG_MORE: libpq before 17 writes at each sync. */
static void set_cork(const struct pg_conn *conn, int on)
{
#ifdef TCP_CORK
    if (conn->host[0] != '/')
        (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
#else
    (void)conn, (void)on;
#endif
}

void pg_conn_cork(struct pg_conn *conn)
{
    if (sm_now(&conn->sm) != PG_READY || conn->corked)
        return;
    conn->corked = true;
    set_cork(conn, 1);
}

void pg_conn_uncork(struct pg_conn *conn)
{
    if (!conn->corked)
        return;
    conn->corked = false;
    if (sm_now(&conn->sm) != PG_READY)
        return;
    if (pg_query_sync(conn))
        pg_io_flush(conn);
    else
        pg_conn_fail_later(conn);
    set_cork(conn, 0);
}

void pg_io_flush(struct pg_conn *conn)
{
    if (conn->corked)
        return; /* pg_conn_uncork() does it */
    int rc = PQflush(conn->pg);
    conn->want_write = rc == 1;
    if (rc < 0)
        pg_conn_fail_later(conn);
    else
        pg_io_update(conn);
}

void pg_io_notifies(struct pg_conn *conn)
{
    PGnotify *notify;
    while (sm_now(&conn->sm) == PG_READY && (notify = PQnotifies(conn->pg)) != NULL) {
        conn->notices++;
        if (conn->events.notified != NULL)
            conn->events.notified(conn, notify->relname, notify->extra, conn->data);
        PQfreemem(notify);
    }
}

void pg_io_deliver(struct pg_conn *conn)
{
    while (sm_now(&conn->sm) == PG_READY && !list_empty(&conn->flight)) {
        struct pg_item *item = list_item(list_first(&conn->flight), struct pg_item, node);
        if (!item->ops->read(conn, item))
            break;
        pg_queue_finish(conn, item, NULL);
        pg_queue_dispatch(conn);
    }
    pg_io_notifies(conn);
}

static void drained(struct pg_conn *conn)
{
    if (sm_now(&conn->sm) != PG_READY || list_empty(&conn->flight))
        return;
    struct pg_item *item = list_item(list_first(&conn->flight), struct pg_item, node);
    if (item->ops->drained != NULL)
        item->ops->drained(conn, item);
}

void pg_io_ready(struct pg_conn *conn, int status, int events)
{
    bool readable = status < 0 || (events & UV_READABLE) != 0;
    bool alive = !readable || PQconsumeInput(conn->pg) == 1;
    if (alive && conn->want_write) {
        pg_io_flush(conn); /* the server may have waited for us to read */
        if (!conn->want_write)
            drained(conn);
    }
    conn->got_input = readable;
    if (sm_now(&conn->sm) == PG_READY)
        pg_io_deliver(conn); /* also when only writable: a full PQflush() reads; and before an end counts */
    if (sm_now(&conn->sm) != PG_READY)
        return;
    if (!alive || PQstatus(conn->pg) == CONNECTION_BAD) {
        struct err err;
        pg_error_lost(conn, &err);
        pg_conn_fail(conn, &err);
        return;
    }
    pg_io_update(conn);
}
