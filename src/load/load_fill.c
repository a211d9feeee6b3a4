/*
 * LOAD_INIT: the rows, by COPY into the shards that own them, all shards at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/load_impl.h"

#define CHUNK          ((size_t)64 << 10)
#define CHUNKS_A_TURN  4
#define SCHEMA_TIMEOUT (60 * ENV_NS_PER_S)

/*
 * CONNECTING --> TABLES --> CUSTOMERS --> ORDERS --> ANALYZE --> DONE
 *       +-----------------------^
 *
 * CONNECTING waits for the connection
 * TABLES     waits for CREATE TABLE (only with create_tables)
 * CUSTOMERS, ORDERS wait for room in the COPY, then for its end
 * ANALYZE    waits for its answer; its failure does no harm
 */
enum lane_state {
    LANE_CONNECTING,
    LANE_TABLES,
    LANE_CUSTOMERS,
    LANE_ORDERS,
    LANE_ANALYZE,
    LANE_DONE,
    LANE_STATE_MAX
};

static const struct sm_state lane_states[LANE_STATE_MAX] = {
    [LANE_CONNECTING] = {"connecting", SM_NEXT(LANE_TABLES) | SM_NEXT(LANE_CUSTOMERS), false},
    [LANE_TABLES] = {"tables", SM_NEXT(LANE_CUSTOMERS), false},
    [LANE_CUSTOMERS] = {"customers", SM_NEXT(LANE_ORDERS), false},
    [LANE_ORDERS] = {"orders", SM_NEXT(LANE_ANALYZE), false},
    [LANE_ANALYZE] = {"analyze", SM_NEXT(LANE_DONE), false},
    [LANE_DONE] = {"done", 0, true},
};

struct lane { /* one shard */
    struct load *load;
    struct sm sm;
    uint16_t shard;
    char *name;
    struct pg_conn *conn;
    struct pg_copy *copy;
    uint32_t number; /* next customer */
    uint32_t order;  /* its next order, 1 to orders; 0 = not begun */
    bool ended;
    struct buf chunk;
    uint64_t rows;
};

struct load_fill {
    uint16_t *owner; /* shard of each customer */
    struct lane *lanes;
    size_t count, running;
};

static void lane_fail(struct lane *lane, const struct err *cause)
{
    struct err err = *cause;
    err_wrap(&err, "filling shard %s", lane->name);
    load_fail(lane->load, &err);
}

/* ---- rows ---- */

static void add_customer(struct lane *lane, uint32_t n)
{
    char key[LOAD_KEY_SIZE];
    load_key_format(lane->load->o.key_type, n, key);
    buf_printf(&lane->chunk, "%s\tcustomer %u\tc%u@example.com\t%lld\t0\n", key, n, n,
               (long long)load_balance_of(n, 0));
}

static void add_order(struct lane *lane, uint32_t n, uint32_t order)
{
    char key[LOAD_KEY_SIZE];
    load_key_format(lane->load->o.key_type, n, key);
    buf_printf(&lane->chunk, "%s\t%u\t%lld\torder %u\t0\n", key, order, (long long)load_amount_of(n, order),
               order);
}

/* One row into the chunk; false after the last one. */
static bool next_row(struct lane *lane)
{
    const struct load_options *o = &lane->load->o;
    bool orders = sm_now(&lane->sm) == LANE_ORDERS;
    while (lane->number < o->customers && (lane->load->fill->owner[lane->number] != lane->shard))
        lane->number++;
    if (lane->number == o->customers || (orders && o->orders_per_customer == 0))
        return false;
    lane->rows++;
    if (!orders) {
        add_customer(lane, lane->number++);
        return true;
    }
    add_order(lane, lane->number, ++lane->order);
    if (lane->order == o->orders_per_customer) {
        lane->order = 0;
        lane->number++;
    }
    return true;
}

static void lane_ready(struct pg_copy *copy, void *data)
{
    struct lane *lane = data;
    struct err err = {0};
    if (lane->ended)
        return;
    for (int i = 0; i < CHUNKS_A_TURN && !lane->ended; i++) {
        buf_reset(&lane->chunk);
        while (lane->chunk.length < CHUNK && !lane->ended)
            lane->ended = !next_row(lane);
        if (lane->chunk.length > 0 && pg_copy_put(copy, lane->chunk.data, lane->chunk.length, &err) != 0) {
            lane->ended = true;
            pg_copy_end(copy, "the loader could not go on");
            lane_fail(lane, &err);
            return;
        }
    }
    if (lane->ended)
        pg_copy_end(copy, NULL);
}

/* ---- steps ---- */

static void lane_copy(struct lane *lane, enum lane_state state);

static void lane_analyzed(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct lane *lane = data;
    (void)conn;
    if (reply->err != NULL && reply->err->code == ERRC_CANCELED)
        return;
    sm_move(&lane->sm, LANE_DONE);
    if (--lane->load->fill->running == 0)
        load_phase_done(lane->load);
}

static void lane_copied(const struct err *err, uint64_t rows, uint64_t bytes, void *data)
{
    struct lane *lane = data;
    struct err failed = {0};
    (void)rows;
    (void)bytes;
    lane->copy = NULL;
    if (err != NULL) {
        if (err->code != ERRC_CANCELED)
            lane_fail(lane, err);
    } else if (sm_now(&lane->sm) == LANE_CUSTOMERS) {
        lane_copy(lane, LANE_ORDERS);
    } else {
        sm_move(&lane->sm, LANE_ANALYZE);
        if (pg_exec(lane->conn, "ANALYZE customers, orders", lane_analyzed, lane, &failed) != 0)
            lane_fail(lane, &failed);
    }
}

static void lane_copy(struct lane *lane, enum lane_state state)
{
    struct err err = {0};
    sm_move(&lane->sm, (int)state);
    lane->number = lane->order = 0;
    lane->ended = false;
    const char *sql = state == LANE_CUSTOMERS
                          ? "COPY customers (customer_id, name, email, balance, version) FROM STDIN"
                          : "COPY orders (customer_id, order_id, amount, note, version) FROM STDIN";
    if (pg_copy_in(lane->conn, sql, lane_ready, lane_copied, lane, &lane->copy, &err) != 0)
        lane_fail(lane, &err);
}

static void lane_tables(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct lane *lane = data;
    (void)conn;
    if (reply->err == NULL)
        lane_copy(lane, LANE_CUSTOMERS);
    else if (reply->err->code != ERRC_CANCELED)
        lane_fail(lane, reply->err);
}

static void lane_create_tables(struct lane *lane)
{
    struct buf sql = {0};
    struct err err = {0};
    load_print_schema(lane->load->o.key_type, &sql);
    sm_move(&lane->sm, LANE_TABLES);
    const struct pg_request request = {.sql = buf_text(&sql), .timeout_ns = SCHEMA_TIMEOUT};
    if (pg_send(lane->conn, &request, lane_tables, lane, &err) != 0)
        lane_fail(lane, &err);
    buf_free(&sql);
}

static void lane_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct lane *lane = data;
    (void)conn;
    if (err != NULL) {
        if (err->code != ERRC_CANCELED)
            lane_fail(lane, err);
    } else if (lane->load->o.create_tables) {
        lane_create_tables(lane);
    } else {
        lane_copy(lane, LANE_CUSTOMERS);
    }
}

static void lane_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    if (err->code != ERRC_CANCELED)
        lane_fail(data, err);
}

/* ---- start and end ---- */

static int lane_start(struct load *load, struct lane *lane, const struct routing_shard *shard, uint16_t index,
                      struct err *err)
{
    static const struct pg_conn_events events = {.connected = lane_connected, .lost = lane_lost};
    char password[LOAD_PASSWORD_SIZE];
    struct pg_target target;
    lane->load = load;
    lane->shard = index;
    lane->name = mem_strdup(shard->name);
    sm_init(&lane->sm, lane_states, LANE_STATE_MAX, LANE_CONNECTING, NULL, lane);
    load_target(load, shard->primary.host, shard->primary.port, password, &target);
    lane->conn = pg_conn_new(load->loop, &target, &events, lane);
    explicit_bzero(password, sizeof password);
    load_opened(load);
    return pg_conn_connect(lane->conn, err);
}

int load_fill_start(struct load *load, struct err *err)
{
    const struct routing *r = load->route.now;
    struct load_fill *fill = mem_zalloc(sizeof *fill);
    int code = 0;
    load->fill = fill;
    fill->owner = mem_array(load->o.customers, sizeof *fill->owner);
    for (uint32_t n = 0; n < load->o.customers; n++) {
        const struct routing_shard *owner = routing_owner(r, load_key_hash(load->o.key_type, n));
        fill->owner[n] = owner != NULL ? (uint16_t)(owner - r->shards) : UINT16_MAX;
    }
    fill->lanes = mem_array(r->shard_count, sizeof *fill->lanes);
    for (size_t i = 0; i < r->shard_count && code == 0; i++) {
        if (r->shards[i].ranges.count == 0)
            continue;
        fill->running++;
        code = lane_start(load, &fill->lanes[fill->count++], &r->shards[i], (uint16_t)i, err);
    }
    return code;
}

void load_fill_close(struct load *load)
{
    struct load_fill *fill = load->fill;
    for (size_t i = 0; fill != NULL && i < fill->count; i++) {
        struct pg_conn *conn = fill->lanes[i].conn;
        fill->lanes[i].conn = NULL;
        if (conn != NULL)
            pg_conn_close(conn, load_closed, load);
    }
}

void load_fill_free(struct load *load)
{
    struct load_fill *fill = load->fill;
    if (fill == NULL)
        return;
    for (size_t i = 0; i < fill->count; i++) {
        buf_free(&fill->lanes[i].chunk);
        free(fill->lanes[i].name);
    }
    free(fill->lanes);
    free(fill->owner);
    free(fill);
    load->fill = NULL;
}

uint64_t load_fill_rows(const struct load *load)
{
    uint64_t rows = 0;
    for (size_t i = 0; load->fill != NULL && i < load->fill->count; i++)
        rows += load->fill->lanes[i].rows;
    return rows;
}
