/*
 * Patience: while every answer in flight may wait, the kernel is told to wake us only for many bytes
 * (SO_RCVLOWAT) or for the end of the connection, and a timer takes what has come. The timers of all
 * connections stand on common marks, so that one turn serves those that were polled together. The kernel is
 * told otherwise only when an answer is wanted at once, not when all have come: most often the next ones may
 * wait as well.
 */
#include "pg/pg_impl.h"

#define HOLD_BYTES 16384 /* what libpq reads at once */
#define READS_MAX  64    /* at the end of a deadline: a megabyte */
#define TURN_NS    (2 * ENV_NS_PER_MS)

static void hold_on(struct pg_conn *conn)
{
    uint64_t mark = conn->patience_ns;
    loop_timer_start_at(&conn->patience_timer, (loop_now(conn->loop) / mark + 2) * mark);
}

static void set_numb(struct pg_conn *conn, bool numb)
{
    if (conn->numb == numb)
        return;
    conn->numb = numb;
    pg_io_wake_at(conn, numb ? HOLD_BYTES : 1); /* wakes us if something is there already */
}

static void hold_begin(struct pg_conn *conn)
{
    conn->holding = true;
    conn->patience_ns = list_item(conn->flight.next, struct pg_item, node)->patience_ns;
    set_numb(conn, true);
    hold_on(conn);
}

void pg_patience_stop(struct pg_conn *conn)
{
    conn->holding = false;
    loop_timer_stop(&conn->patience_timer);
}

void pg_patience_update(struct pg_conn *conn)
{
    bool hold = conn->hasty == 0 && !list_empty(&conn->flight) && !conn->want_write && conn->host[0] != '/';
    if (hold && !conn->holding)
        hold_begin(conn);
    if (hold)
        return;
    if (conn->holding)
        pg_patience_stop(conn);
    if (!list_empty(&conn->flight) || conn->events.notified != NULL)
        set_numb(conn, false);
}

/* Other connections and the rest of the loop wait. */
static bool turn_is_long(const struct pg_conn *conn)
{
    return loop_clock(conn->loop) - loop_now(conn->loop) > TURN_NS;
}

void pg_patience_end(struct pg_conn *conn)
{
    int reads = 0;
    do {
        pg_io_ready(conn, 0, UV_READABLE);
    } while (conn->holding && ++reads < READS_MAX && pg_io_unread(conn));
}

void pg_patience_fired(struct loop_timer *timer, void *data)
{
    struct pg_conn *conn = data;
    bool more = turn_is_long(conn);
    while (!more) {
        pg_io_ready(conn, 0, UV_READABLE);
        if (!conn->holding || !pg_io_unread(conn))
            break;
        more = turn_is_long(conn);
    }
    if (!conn->holding || loop_timer_armed(timer))
        return;
    if (more) {
        loop_timer_start(timer, 0); /* the next turn, before those that become due in it */
        return;
    }
    if (conn->patience_ns < PG_PATIENCE_MAX_NS / 2)
        conn->patience_ns *= 2; /* a slow server is not asked more often than others */
    hold_on(conn);
}
