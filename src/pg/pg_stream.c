/*
 * Happy path: START_REPLICATION is answered with COPY BOTH, messages flow until stop, both sides end.
 * The server is asked for a sign of life after 10 s of silence, and given up after 30 s.
 */
#include "pg/pg_stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "pg/pg_impl.h"

#define STATUS_NS   (1 * ENV_NS_PER_S)
#define ASK_NS      (10 * ENV_NS_PER_S)
#define SILENCE_NS  (30 * ENV_NS_PER_S)
#define ENDING_NS   (10 * ENV_NS_PER_S)
#define HEADER_DATA 25 /* 'w', start, end, time */
#define HEADER_LIFE 18 /* 'k', end, time, reply asked */
#define STATUS_SIZE 34 /* 'r', written, flushed, applied, time, reply asked */
/* from 1970 to 2000, where PostgreSQL's clock starts */
#define EPOCH_US 946684800000000

/*
 * QUEUED --> STARTING --> FLOWING --> ENDING --> OVER
 *
 * QUEUED    waits for the requests before it
 * STARTING  waits for the server's answer to START_REPLICATION
 * FLOWING   waits for messages, or for the second's end to report the position
 * ENDING    waits for the server's last word
 */
enum stream_state {
    STREAM_QUEUED,
    STREAM_STARTING,
    STREAM_FLOWING,
    STREAM_ENDING,
    STREAM_OVER,
    STREAM_STATES
};

static const struct sm_state states[STREAM_STATES] = {
    [STREAM_QUEUED] = {"queued", SM_NEXT(STREAM_STARTING) | SM_NEXT(STREAM_OVER), false},
    [STREAM_STARTING] = {"starting", SM_NEXT(STREAM_FLOWING) | SM_NEXT(STREAM_OVER), false},
    [STREAM_FLOWING] = {"flowing", SM_NEXT(STREAM_ENDING) | SM_NEXT(STREAM_OVER), false},
    [STREAM_ENDING] = {"ending", SM_NEXT(STREAM_OVER), false},
    [STREAM_OVER] = {"over", 0, true},
};

struct pg_stream {
    struct pg_item item;
    struct pg_conn *conn;
    struct sm sm;
    struct pg_stream_events events;
    void *data;
    char *sql;
    uint64_t received;  /* end of what has arrived */
    uint64_t confirmed; /* what the server may forget */
    uint64_t committed; /* end of the last transaction handed to the user */
    bool open;          /* inside a transaction */
    uint64_t heard_ns;  /* when the last message came */
    bool stopped;       /* by the user: the end is no error */
    struct err err;
    struct loop_timer status_timer;
    struct loop_task task; /* stop before the start */
};

/* ---- numbers on the wire ---- */

static void put64(char *out, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        out[i] = (char)(value & 0xff);
}

static uint64_t get64(const char *bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | (unsigned char)bytes[i];
    return value;
}

/* ---- status ---- */

/*
 * With every transaction confirmed, WAL that held nothing for us is confirmed as well: else the slot of an
 * idle stream would keep it, and a server that shuts down would wait for us.
 */
static uint64_t position(const struct pg_stream *s)
{
    bool settled = !s->open && s->confirmed >= s->committed;
    return settled && s->received > s->confirmed ? s->received : s->confirmed;
}

static void send_status(struct pg_stream *s, bool ask)
{
    struct pg_conn *conn = s->conn;
    if (conn->want_write)
        return; /* the last one is still on its way */
    char message[STATUS_SIZE] = {'r'};
    put64(message + 1, s->received > s->confirmed ? s->received : s->confirmed);
    put64(message + 9, position(s));
    put64(message + 17, position(s));
    put64(message + 25, (uint64_t)(loop_wall(conn->loop) - EPOCH_US));
    message[33] = ask ? 1 : 0;
    if (PQputCopyData(conn->pg, message, STATUS_SIZE) == 1)
        pg_io_flush(conn);
    else
        pg_conn_fail_later(conn);
}

static void on_status_timer(struct loop_timer *timer, void *data)
{
    struct pg_stream *s = data;
    uint64_t silent = loop_now(s->conn->loop) - s->heard_ns;
    if (silent >= SILENCE_NS) {
        struct err err;
        err_set(&err, ERRC_TIMEOUT, "%s: the replication stream is silent for %llu s", s->conn->name,
                (unsigned long long)(silent / ENV_NS_PER_S));
        pg_conn_fail(s->conn, &err);
        return;
    }
    if (sm_now(&s->sm) == STREAM_FLOWING)
        send_status(s, silent >= ASK_NS);
    loop_timer_start(timer, STATUS_NS);
}

/* ---- messages ---- */

static void stream_broken(struct pg_stream *s, char kind, int length)
{
    struct err err;
    err_set(&err, ERRC_PROTOCOL, "%s: malformed replication message 0x%02x of %d bytes", s->conn->name,
            (unsigned char)kind, length);
    s->conn->fatal = err;
    pg_conn_fail_later(s->conn);
}

static void take_data(struct pg_stream *s, const char *bytes, size_t length)
{
    uint64_t start = get64(bytes + 1);
    uint64_t end = get64(bytes + 9);
    if (start > s->received)
        s->received = start;
    if (end > s->received)
        s->received = end;
    if (s->stopped)
        return;
    if (length > HEADER_DATA && (bytes[HEADER_DATA] == 'B' || bytes[HEADER_DATA] == 'C')) {
        s->open = bytes[HEADER_DATA] == 'B';
        s->committed = s->open ? s->committed : start;
    }
    if (s->events.message != NULL)
        s->events.message(s, start, bytes + HEADER_DATA, length - HEADER_DATA, s->data);
}

static void take_life(struct pg_stream *s, const char *bytes)
{
    uint64_t end = get64(bytes + 1);
    if (end > s->received)
        s->received = end;
    if (bytes[17] != 0 && sm_now(&s->sm) == STREAM_FLOWING)
        send_status(s, false);
}

/* True when there is nothing more to do now. */
static bool read_messages(struct pg_stream *s)
{
    struct pg_conn *conn = s->conn;
    while (!conn->fault_task.queued) {
        char *bytes;
        int n = PQgetCopyData(conn->pg, &bytes, 1);
        if (n <= 0)
            return n == 0;
        s->heard_ns = loop_now(conn->loop);
        if (bytes[0] == 'w' && n >= HEADER_DATA)
            take_data(s, bytes, (size_t)n);
        else if (bytes[0] == 'k' && n >= HEADER_LIFE)
            take_life(s, bytes);
        else
            stream_broken(s, bytes[0], n);
        PQfreemem(bytes);
        if (sm_now(&conn->sm) != PG_READY)
            return true; /* the user closed it: s is gone */
    }
    return true;
}

/* ---- the item ---- */

static bool stream_send(struct pg_conn *conn, struct pg_item *item)
{
    struct pg_stream *s = item->owner;
    sm_move(&s->sm, STREAM_STARTING);
    s->heard_ns = loop_now(conn->loop);
    loop_timer_start(&s->status_timer, STATUS_NS);
    return PQsendQuery(conn->pg, s->sql) == 1;
}

static void send_end(struct pg_stream *s)
{
    struct pg_conn *conn = s->conn;
    sm_move(&s->sm, STREAM_ENDING);
    s->item.timeout_ns = ENDING_NS;
    s->item.deadline_ns = loop_now(conn->loop) + ENDING_NS;
    pg_queue_deadline(conn, s->item.deadline_ns);
    if (PQputCopyEnd(conn->pg, NULL) == 1)
        pg_io_flush(conn);
    else
        pg_conn_fail_later(conn);
}

static void take_result(struct pg_stream *s, const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    if (status == PGRES_COPY_BOTH && sm_now(&s->sm) == STREAM_STARTING) {
        sm_move(&s->sm, STREAM_FLOWING);
        s->heard_ns = loop_now(s->conn->loop);
        if (s->stopped)
            send_end(s);
    } else if (status == PGRES_COPY_IN) { /* the server ended first: a shutdown */
        if (sm_now(&s->sm) == STREAM_FLOWING)
            send_end(s);
    } else if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) {
        if (s->err.code == ERRC_NONE)
            pg_error_result(result, &s->err);
    } else if (sm_now(&s->sm) == STREAM_STARTING) {
        err_set(&s->err, ERRC_PROTOCOL, "the server did not start the replication stream");
    }
}

static bool stream_read(struct pg_conn *conn, struct pg_item *item)
{
    struct pg_stream *s = item->owner;
    bool drained = false; /* no more messages will come */
    while (sm_now(&conn->sm) == PG_READY && !conn->fault_task.queued) {
        int state = sm_now(&s->sm);
        if ((state == STREAM_FLOWING || state == STREAM_ENDING) && !drained) {
            if (read_messages(s))
                return false;
            drained = true;
        }
        if (PQisBusy(conn->pg))
            return false;
        PGresult *result = PQgetResult(conn->pg);
        if (result == NULL)
            return PQstatus(conn->pg) != CONNECTION_BAD;
        take_result(s, result);
        PQclear(result);
    }
    return false;
}

static void stream_finish(struct pg_conn *conn, struct pg_item *item, const struct err *err)
{
    static const struct err shutdown = {.code = ERRC_CLOSED, .message = "the server ended the stream"};
    (void)conn;
    struct pg_stream *s = item->owner;
    loop_timer_stop(&s->status_timer);
    loop_task_cancel(&s->task);
    sm_move(&s->sm, STREAM_OVER);
    if (err == NULL)
        err = s->err.code != ERRC_NONE ? &s->err : &shutdown;
    if (s->stopped)
        err = NULL;
    if (s->events.ended != NULL)
        s->events.ended(s, err, s->data);
    free(s->sql);
    free(s);
}

static const struct pg_item_ops stream_ops = {
    .exclusive = true, .send = stream_send, .read = stream_read, .finish = stream_finish};

static void on_task(struct loop_task *task, void *data)
{
    (void)task;
    struct pg_stream *s = data;
    struct pg_conn *conn = s->conn;
    if (sm_now(&s->sm) != STREAM_QUEUED)
        return; /* its turn came in between; the end follows the start */
    pg_queue_finish(conn, &s->item, NULL);
    pg_queue_dispatch(conn);
}

/* ---- the user's side ---- */

/* The replication grammar knows neither E'' nor escapes: only quotes are doubled. */
static void add_quoted(struct buf *out, const char *text, char quote)
{
    buf_addc(out, quote);
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == quote)
            buf_addc(out, quote);
        buf_addc(out, *p);
    }
    buf_addc(out, quote);
}

static char *start_sql(const char *slot, uint64_t start_lsn, const char *publications)
{
    struct buf sql = {0};
    char lsn[TEXT_LSN_SIZE];
    text_from_lsn(start_lsn, lsn);
    buf_add_text(&sql, "START_REPLICATION SLOT ");
    add_quoted(&sql, slot, '"');
    buf_printf(&sql, " LOGICAL %s (proto_version '1', publication_names ", lsn);
    add_quoted(&sql, publications, '\'');
    buf_add_text(&sql, ")");
    return buf_take(&sql);
}

int pg_stream_start(struct pg_conn *conn, const char *slot, uint64_t start_lsn, const char *publications,
                    const struct pg_stream_events *events, void *data, struct pg_stream **ret,
                    struct err *err)
{
    int rc = pg_queue_check(conn, err);
    if (rc != 0)
        return rc;
    if (!conn->replication)
        return err_set(err, ERRC_INVALID, "%s: not a replication connection", conn->name);
    struct pg_stream *s = mem_zalloc(sizeof *s);
    s->conn = conn;
    s->events = *events;
    s->data = data;
    s->sql = start_sql(slot, start_lsn, publications);
    s->received = s->confirmed = start_lsn;
    s->task.run = on_task;
    s->task.data = s;
    loop_timer_init(conn->loop, &s->status_timer, on_status_timer, s);
    sm_init(&s->sm, states, STREAM_STATES, STREAM_QUEUED, NULL, NULL);
    list_init(&s->item.node);
    s->item.ops = &stream_ops;
    s->item.owner = s;
    if (ret != NULL)
        *ret = s;
    pg_queue_add(conn, &s->item);
    return 0;
}

void pg_stream_confirm(struct pg_stream *s, uint64_t lsn)
{
    if (lsn > s->confirmed)
        s->confirmed = lsn;
}

uint64_t pg_stream_received(const struct pg_stream *s)
{
    return s->received;
}

void pg_stream_stop(struct pg_stream *s)
{
    if (s->stopped)
        return;
    s->stopped = true;
    if (sm_now(&s->sm) == STREAM_QUEUED)
        loop_defer(s->conn->loop, &s->task);
    else if (sm_now(&s->sm) == STREAM_FLOWING)
        send_end(s);
}
