/*
 * The check: the ledger is read again from the disk on a worker, then every row of every shard comes by COPY
 * and goes into load_compare. A table that changed meanwhile, or rows that are only not yet cleaned up after
 * a move, mean: again.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/load_impl.h"
#include "loop/work.h"

#define AGAIN_AFTER (1000 * ENV_NS_PER_MS)
#define ROUNDS_MAX  5  /* because of table changes */
#define LANE_TRIES  20 /* connects, COPYs; a second apart */

/*
 * REPLAYING --> READING --> COMPARING --> PAUSING --> READING
 *                   ^                        |
 *
 * REPLAYING waits for the worker that reads the ledger
 * READING   waits for the COPYs of all shards
 * COMPARING waits for the worker that looks for what is missing
 * PAUSING   waits for its timer
 * CLOSED    waits for the worker, if one runs
 */
enum verify_state {
    VERIFY_REPLAYING,
    VERIFY_READING,
    VERIFY_COMPARING,
    VERIFY_PAUSING,
    VERIFY_CLOSED,
    VERIFY_STATE_MAX
};

#define N(state) SM_NEXT(VERIFY_##state)
static const struct sm_state verify_states[VERIFY_STATE_MAX] = {
    [VERIFY_REPLAYING] = {"replaying", N(READING) | N(CLOSED), false},
    [VERIFY_READING] = {"reading", N(COMPARING) | N(PAUSING) | N(CLOSED), false},
    [VERIFY_COMPARING] = {"comparing", N(PAUSING) | N(CLOSED), false},
    [VERIFY_PAUSING] = {"pausing", N(READING) | N(CLOSED), false},
    [VERIFY_CLOSED] = {"closed", 0, true},
};
#undef N

struct lane { /* one shard */
    struct load_verify *verify;
    size_t shard;
    struct pg_conn *conn;
    struct pg_copy *copy;
    bool orders; /* the second table */
    bool done;
};

struct load_verify {
    struct load *load;
    struct sm sm;
    struct work work;
    bool working;
    struct err err; /* of the worker */
    struct load_ledger ledger;
    struct routing *routing; /* a copy: the one of this round */
    struct load_compare *compare;
    struct lane *lanes;
    size_t lane_count, running;
    struct loop_timer timer;
    uint64_t started_ns;
    unsigned rounds, failures;
    uint64_t rows;
};

static void verify_read(struct load_verify *v);

static void lanes_close(struct load_verify *v)
{
    for (size_t i = 0; i < v->lane_count; i++) {
        struct pg_conn *conn = v->lanes[i].conn;
        v->lanes[i].conn = NULL;
        if (conn != NULL)
            pg_conn_close(conn, load_closed, v->load);
    }
}

/* Frees what belongs to a round; the lanes' memory stays until no callback can come. */
static void round_free(struct load_verify *v)
{
    load_compare_free(v->compare);
    v->compare = NULL;
    routing_free(v->routing);
    v->routing = NULL;
}

static void verify_pause(struct load_verify *v)
{
    lanes_close(v);
    sm_move(&v->sm, VERIFY_PAUSING);
    loop_timer_start(&v->timer, AGAIN_AFTER);
}

/* ---- the verdict of a round ---- */

static bool table_changed(const struct load_verify *v)
{
    return v->load->route.now->epoch != v->routing->epoch;
}

/* Rows of a moved range stay on the source until the move is cleaned up. */
static bool only_leftovers(const struct load_findings *f)
{
    uint64_t left = f->counts[FINDING_MISPLACED] + f->counts[FINDING_DUPLICATED];
    return left > 0 && load_findings_total(f) == left;
}

static void round_done(struct load_verify *v)
{
    struct load *load = v->load;
    struct err err = {0};
    uint64_t passed = loop_clock(load->loop) - v->started_ns;
    v->rows = load_compare_rows(v->compare);
    load_compare_doubts(v->compare, &load->result.doubts_applied, &load->result.doubts_open);
    if (table_changed(v)) {
        if (++v->rounds < ROUNDS_MAX) {
            verify_pause(v);
            return;
        }
        err_set(&err, ERRC_CONFLICT, "the routing table changed during %d checks in a row", ROUNDS_MAX);
        load_fail(load, &err);
        return;
    }
    if (only_leftovers(&load->findings) && passed < load->o.check_wait_ns) {
        verify_pause(v);
        return;
    }
    load->result.checked = true;
    load->result.rows_checked = v->rows;
    load->result.check_ns = passed;
    load_phase_done(load);
}

/* ---- workers ---- */

static void replay_run(struct work *work)
{
    struct load_verify *v = work->data;
    (void)load_ledger_open(&v->ledger, v->load->o.ledger_path, NULL, true, &v->err);
}

static void compare_run(struct work *work)
{
    struct load_verify *v = work->data;
    load_compare_finish(v->compare);
}

static void worker_done(struct work *work, int code)
{
    struct load_verify *v = work->data;
    v->working = false;
    load_closed(v->load);
    if (sm_now(&v->sm) == VERIFY_CLOSED)
        return;
    if (code != 0)
        err_set(&v->err, (enum err_code)code, "a worker was canceled");
    if (v->err.code != ERRC_NONE)
        load_fail(v->load, &v->err);
    else if (sm_now(&v->sm) == VERIFY_REPLAYING)
        verify_read(v);
    else
        round_done(v);
}

static int worker_start(struct load_verify *v, void (*run)(struct work *), struct err *err)
{
    int code = work_start(v->load->loop, &v->work, run, worker_done, v);
    if (code != 0)
        return err_set(err, (enum err_code)code, "cannot start a worker");
    v->working = true;
    load_opened(v->load);
    return 0;
}

/* ---- reading ---- */

static void lane_copy(struct lane *lane);

static void lane_fail(struct lane *lane, const struct err *cause)
{
    struct load_verify *v = lane->verify;
    struct err err = *cause;
    if (cause->code == ERRC_CANCELED || sm_now(&v->sm) != VERIFY_READING)
        return;
    err_wrap(&err, "reading shard %s", v->routing->shards[lane->shard].name);
    bool hopeless =
        cause->code == ERRC_AUTH || (cause->code == ERRC_SQL && strncmp(cause->sqlstate, "42", 2) == 0);
    if (hopeless || ++v->failures >= LANE_TRIES)
        load_fail(v->load, &err);
    else
        verify_pause(v); /* a server that just restarts: all of it again */
}

static void lane_rows(const char *bytes, size_t length, void *data)
{
    struct lane *lane = data;
    if (sm_now(&lane->verify->sm) != VERIFY_READING)
        return;
    if (lane->orders)
        load_compare_order(lane->verify->compare, lane->shard, bytes, length);
    else
        load_compare_customer(lane->verify->compare, lane->shard, bytes, length);
}

static void lane_copied(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    struct lane *lane = data;
    struct load_verify *v = lane->verify;
    struct err failed = {0};
    (void)rows;
    (void)bytes;
    lane->copy = NULL;
    if (err != NULL) {
        lane_fail(lane, err);
        return;
    }
    if (sm_now(&v->sm) != VERIFY_READING)
        return;
    if (!lane->orders) {
        lane->orders = true;
        lane_copy(lane);
        return;
    }
    if (--v->running > 0)
        return;
    lanes_close(v);
    sm_move(&v->sm, VERIFY_COMPARING);
    if (worker_start(v, compare_run, &failed) != 0)
        load_fail(v->load, &failed);
}

/* REPEATABLE READ is not needed: nothing writes, except a move, and then the check is done again */
static void lane_copy(struct lane *lane)
{
    struct err err = {0};
    const char *sql = lane->orders ? "COPY (SELECT customer_id, order_id, amount FROM orders) TO STDOUT"
                                   : "COPY (SELECT customer_id, version, balance FROM customers) TO STDOUT";
    if (pg_copy_out(lane->conn, sql, lane_rows, lane_copied, lane, &lane->copy, &err) != 0)
        lane_fail(lane, &err);
}

static void lane_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    if (err != NULL)
        lane_fail(data, err);
    else
        lane_copy(data);
}

static void lane_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct lane *lane = data;
    if (lane->conn == conn)
        lane_fail(lane, err);
}

static void lane_start(struct load_verify *v, struct lane *lane, size_t shard)
{
    static const struct pg_conn_events events = {.connected = lane_connected, .lost = lane_lost};
    const struct routing_address *at = &v->routing->shards[shard].primary;
    char password[LOAD_PASSWORD_SIZE];
    struct pg_target target;
    struct err err = {0};
    *lane = (struct lane){.verify = v, .shard = shard};
    load_target(v->load, at->host, at->port, password, &target);
    lane->conn = pg_conn_new(v->load->loop, &target, &events, lane);
    explicit_bzero(password, sizeof password);
    load_opened(v->load);
    if (pg_conn_connect(lane->conn, &err) != 0)
        lane_fail(lane, &err);
}

static void verify_read(struct load_verify *v)
{
    round_free(v);
    free(v->lanes); /* the connections of the round before were closed a pause ago */
    load_findings_reset(&v->load->findings);
    v->routing = routing_clone(v->load->route.now);
    v->compare = load_compare_new(&v->ledger.state, v->routing, &v->load->findings);
    v->lane_count = v->running = v->routing->shard_count;
    v->lanes = mem_array(v->lane_count, sizeof *v->lanes);
    sm_move(&v->sm, VERIFY_READING);
    for (size_t i = 0; i < v->lane_count && sm_now(&v->sm) == VERIFY_READING; i++)
        lane_start(v, &v->lanes[i], i);
}

static void verify_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    verify_read(data);
}

/* ---- start and end ---- */

int load_verify_start(struct load *load, struct err *err)
{
    struct load_verify *v = mem_zalloc(sizeof *v);
    load->verify = v;
    v->load = load;
    v->ledger.fd = -1;
    v->started_ns = loop_clock(load->loop);
    loop_timer_init(load->loop, &v->timer, verify_fired, v);
    load_findings_mark(&load->findings); /* what the load itself found stays */
    sm_init(&v->sm, verify_states, VERIFY_STATE_MAX, VERIFY_REPLAYING, NULL, v);
    return worker_start(v, replay_run, err);
}

void load_verify_close(struct load *load)
{
    struct load_verify *v = load->verify;
    if (v == NULL)
        return;
    sm_move(&v->sm, VERIFY_CLOSED);
    loop_timer_stop(&v->timer);
    if (v->working)
        work_cancel(&v->work);
    lanes_close(v);
}

void load_verify_free(struct load *load)
{
    struct load_verify *v = load->verify;
    if (v == NULL)
        return;
    round_free(v);
    free(v->lanes);
    load_ledger_close(&v->ledger);
    free(v);
    load->verify = NULL;
}

uint64_t load_verify_rows(const struct load *load)
{
    const struct load_verify *v = load->verify;
    return v == NULL || v->compare == NULL ? 0 : load_compare_rows(v->compare);
}
