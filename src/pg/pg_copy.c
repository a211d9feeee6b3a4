/*
 * COPY by the simple protocol, alone on its connection while it runs.
 *
 * Happy path out: rows are handed on as they arrive, 64 KiB at a time or what has come within some
 * milliseconds, until libpq has no more. Happy path in: bytes queue here, libpq gets the next piece when the
 * kernel took the last one, so that little is buffered twice.
 * A server that fails a COPY in the middle says so at once; libpq shows it only after the end of the data.
 * So any input that is not a notice ends the data.
 */
#include "pg/pg_copy.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "pg/pg_impl.h"

#define QUEUE_LIMIT      (1u << 20)
#define PIECE            ((64u << 10) - 5) /* with its header what libpq sends at once, without a rest */
#define DEFAULT_STALL_NS (300 * ENV_NS_PER_S)
/* out: servers send 8 KiB at a time, and to be woken costs more than to take them */
#define BATCH_BYTES (64 << 10)
#define BATCH_NS    (5 * ENV_NS_PER_MS)
#define TURN_BYTES  (256u << 10) /* then others get their turn */

/*
 * QUEUED --> STARTING --> FLOWING --> ENDING --> OVER       (out)
 *                    \--> FEEDING --/                       (in)
 *
 * QUEUED    waits for the requests before it
 * STARTING  waits for the server's answer to the statement
 * FLOWING   waits for rows, or for the user while paused
 * FEEDING   waits for the user's bytes, or for the socket
 * ENDING    waits for the server's last word
 */
enum copy_state {
    COPY_QUEUED,
    COPY_STARTING,
    COPY_FLOWING,
    COPY_FEEDING,
    COPY_ENDING,
    COPY_OVER,
    COPY_STATES
};

static const struct sm_state states[COPY_STATES] = {
    [COPY_QUEUED] = {"queued", SM_NEXT(COPY_STARTING) | SM_NEXT(COPY_OVER), false},
    [COPY_STARTING] = {"starting",
                       SM_NEXT(COPY_FLOWING) | SM_NEXT(COPY_FEEDING) | SM_NEXT(COPY_ENDING) |
                           SM_NEXT(COPY_OVER),
                       false},
    [COPY_FLOWING] = {"flowing", SM_NEXT(COPY_ENDING) | SM_NEXT(COPY_OVER), false},
    [COPY_FEEDING] = {"feeding", SM_NEXT(COPY_ENDING) | SM_NEXT(COPY_OVER), false},
    [COPY_ENDING] = {"ending", SM_NEXT(COPY_OVER), false},
    [COPY_OVER] = {"over", 0, true},
};

struct pg_copy {
    struct pg_item item;
    struct pg_conn *conn;
    struct sm sm;
    bool in;
    char *sql;
    pg_copy_rows_cb on_rows;
    pg_copy_ready_cb on_ready;
    pg_copy_done_cb on_done;
    void *data;
    uint64_t rows, bytes;
    struct err err;
    struct loop_task task; /* goes on outside the user's call */

    bool paused;                   /* out */
    bool batching;                 /* out: the kernel wakes us for BATCH_BYTES only */
    struct loop_timer batch_timer; /* takes what is less */
    struct buf queue;              /* in: bytes from `head` on are still to be sent */
    size_t head;
    bool end_asked;
    char *reason;

    struct loop_timer stall_timer;
    uint64_t stall_ns;
    uint64_t progress_ns; /* when the server last did something for us */
};

/* ---- stalls ---- */

static bool waits_for_server(const struct pg_copy *copy)
{
    int state = sm_now(&copy->sm);
    if (state == COPY_FLOWING)
        return !copy->paused;
    if (state == COPY_FEEDING)
        return copy->conn->want_write;
    return state == COPY_STARTING || state == COPY_ENDING;
}

static void progress(struct pg_copy *copy)
{
    copy->progress_ns = loop_now(copy->conn->loop);
}

static void stall_arm(struct pg_copy *copy)
{
    if (copy->stall_ns != 0 && sm_now(&copy->sm) != COPY_QUEUED)
        loop_timer_start_at(&copy->stall_timer, copy->progress_ns + copy->stall_ns);
}

static void on_stall_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct pg_copy *copy = data;
    struct pg_conn *conn = copy->conn;
    if (!waits_for_server(copy))
        progress(copy);
    if (loop_now(conn->loop) < copy->progress_ns + copy->stall_ns) {
        stall_arm(copy);
        return;
    }
    struct err err;
    err_set(&err, ERRC_TIMEOUT, "%s: COPY made no progress for %llu ms", conn->name,
            (unsigned long long)(copy->stall_ns / ENV_NS_PER_MS));
    pg_conn_fail(conn, &err);
}

void pg_copy_set_stall_timeout(struct pg_copy *copy, uint64_t timeout_ns)
{
    copy->stall_ns = timeout_ns;
    loop_timer_stop(&copy->stall_timer);
    stall_arm(copy);
}

void pg_copy_set_deadline(struct pg_copy *copy, uint64_t timeout_ns)
{
    copy->item.timeout_ns = timeout_ns;
    copy->item.deadline_ns = timeout_ns != 0 ? loop_now(copy->conn->loop) + timeout_ns : 0;
    if (sm_now(&copy->sm) != COPY_QUEUED)
        pg_queue_deadline(copy->conn, copy->item.deadline_ns);
}

/* ---- in ---- */

/* Tells the server that the data is over, with the user's reason if it is to fail. */
static bool send_end(struct pg_copy *copy, const char *reason)
{
    sm_move(&copy->sm, COPY_ENDING);
    buf_free(&copy->queue);
    copy->head = 0;
    progress(copy);
    if (PQputCopyEnd(copy->conn->pg, reason) != 1)
        return false;
    pg_io_flush(copy->conn);
    return true;
}

/* Hands libpq one piece after the other as long as the kernel takes them. */
static bool send_pieces(struct pg_copy *copy)
{
    struct pg_conn *conn = copy->conn;
    while (copy->head < copy->queue.length && !conn->want_write) {
        size_t n = copy->queue.length - copy->head;
        n = n < PIECE ? n : PIECE;
        if (PQputCopyData(conn->pg, copy->queue.data + copy->head, (int)n) != 1)
            return false;
        copy->head += n;
        progress(copy);
        pg_io_flush(conn);
    }
    if (copy->head == copy->queue.length) {
        buf_reset(&copy->queue);
        copy->head = 0;
    } else if (copy->head > QUEUE_LIMIT / 2) {
        buf_consume(&copy->queue, copy->head);
        copy->head = 0;
    }
    return true;
}

static void feed(struct pg_copy *copy)
{
    if (!send_pieces(copy) || (copy->end_asked && copy->queue.length == 0 && !send_end(copy, copy->reason))) {
        pg_conn_fail_later(copy->conn);
        return;
    }
    if (sm_now(&copy->sm) != COPY_FEEDING || copy->queue.length > 0 || copy->conn->want_write)
        return;
    copy->conn->want_write = true; /* `ready` comes by drained(), in another turn: others get theirs */
    pg_io_update(copy->conn);
}

static void copy_drained(struct pg_conn *conn, struct pg_item *item)
{
    (void)conn;
    struct pg_copy *copy = item->owner;
    progress(copy);
    if (sm_now(&copy->sm) != COPY_FEEDING)
        return;
    if (copy->queue.length > 0 || copy->end_asked)
        feed(copy);
    else if (copy->on_ready != NULL)
        copy->on_ready(copy, copy->data);
}

/* False = libpq refused. */
static bool read_while_feeding(struct pg_copy *copy)
{
    struct pg_conn *conn = copy->conn;
    if (!conn->got_input || PQstatus(conn->pg) == CONNECTION_BAD)
        return true;
    conn->got_input = false;
    unsigned before = conn->notices;
    (void)PQisBusy(conn->pg); /* parses notices and notifications, nothing else in this state */
    pg_io_notifies(conn);
    if (sm_now(&conn->sm) != PG_READY || conn->notices != before)
        return true;
    return send_end(copy, "the client gave up");
}

/* ---- out ---- */

/* Not on a Unix socket, which wakes for every byte whatever it is told. */
static void set_batching(struct pg_copy *copy, bool on)
{
    if (copy->batching == on || copy->conn->host[0] == '/')
        return;
    copy->batching = on;
    pg_io_wake_at(copy->conn, on ? BATCH_BYTES : 1);
    if (on)
        loop_timer_start(&copy->batch_timer, BATCH_NS);
    else
        loop_timer_stop(&copy->batch_timer);
}

static void on_batch_timer(struct loop_timer *timer, void *data)
{
    struct pg_copy *copy = data;
    loop_timer_start(timer, BATCH_NS); /* now: the copy may be gone after it */
    pg_io_ready(copy->conn, 0, UV_READABLE);
}

/* libpq takes 16 KiB at a time, and what is left in the kernel may be too little to wake us. */
static bool take_more(struct pg_copy *copy, uint64_t began)
{
    struct pg_conn *conn = copy->conn;
    return copy->batching && copy->bytes - began < TURN_BYTES && pg_io_unread(conn) &&
           PQconsumeInput(conn->pg) == 1;
}

/* True when there is nothing more to do now. */
static bool read_rows(struct pg_copy *copy)
{
    struct pg_conn *conn = copy->conn;
    uint64_t began = copy->bytes;
    while (!copy->paused) {
        char *bytes;
        int n = PQgetCopyData(conn->pg, &bytes, 1);
        if (n == 0 && take_more(copy, began))
            continue;
        if (n == 0)
            return true;
        if (n < 0) {
            set_batching(copy, false);
            sm_move(&copy->sm, COPY_ENDING);
            return false;
        }
        progress(copy);
        copy->rows++;
        copy->bytes += (unsigned)n;
        if (copy->on_rows != NULL)
            copy->on_rows(bytes, (size_t)n, copy->data);
        PQfreemem(bytes);
        if (sm_now(&conn->sm) != PG_READY)
            return true; /* the user closed it: copy is gone */
    }
    return true;
}

static void on_task(struct loop_task *task, void *data)
{
    (void)task;
    struct pg_copy *copy = data;
    struct pg_conn *conn = copy->conn;
    if (sm_now(&copy->sm) == COPY_QUEUED) { /* canceled before it began */
        pg_queue_finish(conn, &copy->item, NULL);
        pg_queue_dispatch(conn);
    } else if (sm_now(&copy->sm) == COPY_STARTING && copy->err.code == ERRC_CANCELED) {
        pg_copy_cancel(copy); /* its turn came in between */
    } else if (copy->in) {
        if (sm_now(&copy->sm) == COPY_FEEDING)
            feed(copy);
    } else {
        pg_io_ready(conn, 0, 0); /* libpq has rows for which no event will come */
    }
}

void pg_copy_pause(struct pg_copy *copy)
{
    copy->paused = true;
    if (sm_now(&copy->sm) != COPY_FLOWING)
        return;
    set_batching(copy, false);
    copy->conn->read_paused = true;
    pg_io_update(copy->conn);
}

void pg_copy_resume(struct pg_copy *copy)
{
    if (!copy->paused)
        return;
    copy->paused = false;
    progress(copy);
    if (sm_now(&copy->sm) != COPY_FLOWING)
        return;
    copy->conn->read_paused = false;
    set_batching(copy, true);
    loop_defer(copy->conn->loop, &copy->task);
}

/* ---- the item ---- */

static bool copy_send(struct pg_conn *conn, struct pg_item *item)
{
    struct pg_copy *copy = item->owner;
    sm_move(&copy->sm, COPY_STARTING);
    progress(copy);
    stall_arm(copy);
    if (item->deadline_ns != 0)
        pg_queue_deadline(conn, item->deadline_ns);
    return PQsendQuery(conn->pg, copy->sql) == 1;
}

static void take_result(struct pg_copy *copy, const PGresult *result)
{
    int64_t rows;
    switch (PQresultStatus(result)) {
    case PGRES_COPY_OUT:
    case PGRES_COPY_IN:
        if (sm_now(&copy->sm) == COPY_STARTING)
            sm_move(&copy->sm, PQresultStatus(result) == PGRES_COPY_IN ? COPY_FEEDING : COPY_FLOWING);
        break;
    case PGRES_COMMAND_OK:
        if (sm_now(&copy->sm) == COPY_STARTING)
            err_set(&copy->err, ERRC_INVALID, "the statement is not a COPY");
        else if (text_to_int64(PQcmdTuples((PGresult *)(uintptr_t)result), &rows))
            copy->rows = (uint64_t)rows;
        break;
    case PGRES_FATAL_ERROR:
    case PGRES_BAD_RESPONSE:
        if (copy->err.code == ERRC_NONE)
            pg_error_result(result, &copy->err);
        break;
    default:
        if (copy->err.code == ERRC_NONE)
            err_set(&copy->err, ERRC_INVALID, "the statement is not a COPY");
        break;
    }
}

/* After the server's answer to the statement. */
static void begin_data(struct pg_copy *copy)
{
    struct pg_conn *conn = copy->conn;
    int state = sm_now(&copy->sm);
    progress(copy);
    conn->got_input = false; /* the input was this answer */
    if ((state == COPY_FEEDING) != copy->in) {
        err_set(&conn->fatal, ERRC_INVALID, "COPY in the wrong direction");
        pg_conn_fail_later(conn);
    } else if (state == COPY_FLOWING) {
        conn->read_paused = copy->paused;
        set_batching(copy, !copy->paused);
    } else if (state == COPY_FEEDING && (copy->queue.length > 0 || copy->end_asked)) {
        feed(copy);
    } else if (state == COPY_FEEDING && copy->on_ready != NULL) {
        copy->on_ready(copy, copy->data);
    }
}

static bool copy_read(struct pg_conn *conn, struct pg_item *item)
{
    struct pg_copy *copy = item->owner;
    while (sm_now(&conn->sm) == PG_READY && !conn->fault_task.queued) {
        if (sm_now(&copy->sm) == COPY_FLOWING) {
            if (read_rows(copy))
                return false;
        } else if (sm_now(&copy->sm) == COPY_FEEDING) {
            if (!read_while_feeding(copy))
                pg_conn_fail_later(conn);
            if (sm_now(&conn->sm) != PG_READY || sm_now(&copy->sm) == COPY_FEEDING)
                return false;
        }
        if (PQisBusy(conn->pg))
            return false;
        PGresult *result = PQgetResult(conn->pg);
        if (result == NULL)
            return PQstatus(conn->pg) != CONNECTION_BAD;
        bool starting = sm_now(&copy->sm) == COPY_STARTING;
        take_result(copy, result);
        PQclear(result);
        if (starting && sm_now(&copy->sm) != COPY_STARTING)
            begin_data(copy);
    }
    return false;
}

static void copy_finish(struct pg_conn *conn, struct pg_item *item, const struct err *err)
{
    struct pg_copy *copy = item->owner;
    if (copy->in == false)
        conn->read_paused = false;
    set_batching(copy, false);
    loop_timer_stop(&copy->stall_timer);
    loop_task_cancel(&copy->task);
    sm_move(&copy->sm, COPY_OVER);
    if (err == NULL && copy->err.code != ERRC_NONE)
        err = &copy->err;
    if (copy->on_done != NULL)
        copy->on_done(err, copy->rows, copy->bytes, copy->data);
    buf_free(&copy->queue);
    free(copy->reason);
    free(copy->sql);
    free(copy);
}

static const struct pg_item_ops copy_ops = {
    .exclusive = true, .send = copy_send, .read = copy_read, .drained = copy_drained, .finish = copy_finish};

/* ---- the user's side ---- */

static int copy_start(struct pg_conn *conn, const char *sql, pg_copy_done_cb done, void *data,
                      struct pg_copy **ret, struct err *err)
{
    int rc = pg_queue_check(conn, err);
    if (rc != 0)
        return rc;
    struct pg_copy *copy = mem_zalloc(sizeof *copy);
    copy->conn = conn;
    copy->sql = mem_strdup(sql);
    copy->on_done = done;
    copy->data = data;
    copy->stall_ns = DEFAULT_STALL_NS;
    copy->task.run = on_task;
    copy->task.data = copy;
    loop_timer_init(conn->loop, &copy->stall_timer, on_stall_timer, copy);
    loop_timer_init(conn->loop, &copy->batch_timer, on_batch_timer, copy);
    sm_init(&copy->sm, states, COPY_STATES, COPY_QUEUED, NULL, NULL);
    list_init(&copy->item.node);
    copy->item.ops = &copy_ops;
    copy->item.owner = copy;
    *ret = copy;
    return 0;
}

int pg_copy_out(struct pg_conn *conn, const char *sql, pg_copy_rows_cb rows, pg_copy_done_cb done, void *data,
                struct pg_copy **ret, struct err *err)
{
    struct pg_copy *copy;
    int rc = copy_start(conn, sql, done, data, &copy, err);
    if (rc != 0)
        return rc;
    copy->on_rows = rows;
    if (ret != NULL)
        *ret = copy;
    pg_queue_add(conn, &copy->item);
    return 0;
}

int pg_copy_in(struct pg_conn *conn, const char *sql, pg_copy_ready_cb ready, pg_copy_done_cb done,
               void *data, struct pg_copy **ret, struct err *err)
{
    struct pg_copy *copy;
    int rc = copy_start(conn, sql, done, data, &copy, err);
    if (rc != 0)
        return rc;
    copy->in = true;
    copy->on_ready = ready;
    if (ret != NULL)
        *ret = copy;
    pg_queue_add(conn, &copy->item);
    return 0;
}

size_t pg_copy_queued(const struct pg_copy *copy)
{
    return copy->queue.length - copy->head;
}

void pg_copy_queue(struct pg_copy *copy, const void *bytes, size_t length)
{
    buf_add(&copy->queue, bytes, length);
    copy->bytes += length;
    if (sm_now(&copy->sm) == COPY_FEEDING && !copy->conn->want_write)
        loop_defer(copy->conn->loop, &copy->task); /* at the end of this turn, with what else comes */
}

int pg_copy_put(struct pg_copy *copy, const void *bytes, size_t length, struct err *err)
{
    if (sm_now(&copy->sm) != COPY_FEEDING || copy->end_asked)
        return err_set(err, ERRC_CLOSED, "%s: COPY takes no data now", copy->conn->name);
    size_t queued = pg_copy_queued(copy);
    if (queued > 0 && queued + length > QUEUE_LIMIT)
        return err_set(err, ERRC_LIMIT, "%s: %zu bytes wait already", copy->conn->name, queued);
    pg_copy_queue(copy, bytes, length);
    return 0;
}

void pg_copy_end(struct pg_copy *copy, const char *reason)
{
    if (copy->end_asked || sm_now(&copy->sm) >= COPY_ENDING)
        return;
    copy->end_asked = true;
    if (reason != NULL) {
        copy->reason = mem_strdup(reason);
        buf_reset(&copy->queue); /* what is queued would be thrown away by the server */
        copy->head = 0;
    }
    if (sm_now(&copy->sm) == COPY_FEEDING && !copy->conn->want_write)
        loop_defer(copy->conn->loop, &copy->task);
}

void pg_copy_cancel(struct pg_copy *copy)
{
    int state = sm_now(&copy->sm);
    if (state == COPY_QUEUED) {
        err_set(&copy->err, ERRC_CANCELED, "COPY was canceled");
        loop_defer(copy->conn->loop, &copy->task);
    } else if (state == COPY_FEEDING) {
        pg_copy_end(copy, "canceled");
    } else if (state != COPY_OVER) {
        if (copy->in && state == COPY_STARTING)
            pg_copy_end(copy, "canceled");
        copy->on_rows = NULL; /* what still comes is dropped */
        pg_copy_resume(copy);
        pg_conn_cancel(copy->conn);
    }
}
