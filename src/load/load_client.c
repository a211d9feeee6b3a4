/*
 * One client: an operation from its start to its acknowledgement.
 *
 * Happy path: IDLE, start; SENT, the answer says one row; RESTING until the record is in the ledger; IDLE.
 * Nothing ends an operation but its acknowledgement, except that the row is not to be found on its owner for
 * give_up_ns, or that the whole load ends: then it is abandoned, in doubt if a try of it had no answer.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load/load_impl.h"

#define BACKOFF_FIRST (1 * ENV_NS_PER_MS)
#define BACKOFF_MAX   (50 * ENV_NS_PER_MS)
#define CONNECT_LOOK                                                                                         \
    (20 * ENV_NS_PER_MS) /* how often a client that waits for a connection looks at the table */
#define PREVIOUS_FROM 4  /* refusals after which the previous owner is tried every other time */

/*
 *            +---------------------------- BACKOFF <------------------+
 *            v                                |  ^                    |
 * IDLE --> WAITING <--> (SENT | SETTLING) ----+  |                    |
 *   ^                     |       |              |                    |
 *   |                     v       |              |                    |
 *   |               COMMITTING ---+--> ROLLBACK -+                    |
 *   |                     |       |                                   |
 *   +------ RESTING <-----+-------+                                   |
 *
 * WAITING    waits for a connection to the shard, or 20 ms to look at the table again
 * SENT       waits for the answers of a try (reads, writes, the first part of a transaction)
 * COMMITTING waits for the answer to COMMIT
 * ROLLBACK   waits for the answer to ROLLBACK
 * SETTLING   waits for the answers that tell what became of the tries before
 * BACKOFF    waits for its timer
 * RESTING    waits for the end of the turn: the ledger is written
 * STOPPED    final
 */
enum client_state {
    CLIENT_IDLE,
    CLIENT_WAITING,
    CLIENT_SENT,
    CLIENT_COMMITTING,
    CLIENT_ROLLBACK,
    CLIENT_SETTLING,
    CLIENT_BACKOFF,
    CLIENT_RESTING,
    CLIENT_STOPPED,
    CLIENT_STATE_MAX
};

#define N(state)     SM_NEXT(CLIENT_##state)
#define AFTER_ANSWER (N(WAITING) | N(BACKOFF) | N(RESTING) | N(STOPPED))
static const struct sm_state states[CLIENT_STATE_MAX] = {
    [CLIENT_IDLE] = {"idle", N(WAITING) | N(STOPPED), false},
    [CLIENT_WAITING] = {"waiting", N(WAITING) | N(SENT) | N(SETTLING) | N(BACKOFF) | N(STOPPED), false},
    [CLIENT_SENT] = {"sent", N(COMMITTING) | N(ROLLBACK) | AFTER_ANSWER, false},
    [CLIENT_COMMITTING] = {"committing", AFTER_ANSWER, false},
    [CLIENT_ROLLBACK] = {"rollback", AFTER_ANSWER, false},
    [CLIENT_SETTLING] = {"settling", AFTER_ANSWER, false},
    [CLIENT_BACKOFF] = {"backoff", N(WAITING) | N(RESTING) | N(STOPPED), false},
    [CLIENT_RESTING] = {"resting", N(IDLE) | N(STOPPED), false},
    [CLIENT_STOPPED] = {"stopped", 0, true},
};
#undef N

static void client_try(struct load_client *c);
static void client_answered(struct load_client *c);

static bool is_write(const struct load_client *c)
{
    return c->op != LOAD_OP_READ;
}

static uint64_t clock_of(const struct load_client *c)
{
    return loop_clock(c->load->loop);
}

static void client_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    client_try(data);
}

void load_client_init(struct load_client *c, struct load *load, unsigned index)
{
    memset(c, 0, sizeof *c);
    c->load = load;
    c->index = index;
    list_init(&c->node);
    loop_timer_init(load->loop, &c->timer, client_fired, c);
    sm_init(&c->sm, states, CLIENT_STATE_MAX, CLIENT_IDLE, NULL, c);
}

void load_client_fini(struct load_client *c)
{
    sm_fini(&c->sm);
    load_queue_free(&c->queue);
    for (unsigned i = 0; i < LOAD_SERVERS_MAX; i++)
        free(c->links[i]);
}

bool load_client_idle(const struct load_client *c)
{
    return sm_now(&c->sm) == CLIENT_IDLE;
}

/* ---- demand without an acknowledgement, for everyone and for the watched ranges ---- */

static void gaps_begin(struct load_client *c, uint64_t now)
{
    struct load *load = c->load;
    load_gap_begin(&load->stats.writes, now);
    c->watched = 0;
    for (unsigned i = 0; i < load->o.watch_count; i++) {
        if (range_contains(&load->o.watch[i], c->hash)) {
            c->watched |= 1u << i;
            load_gap_begin(&load->watch[i], now);
        }
    }
}

static void gaps_end(struct load_client *c, void (*note)(struct load_gap *, uint64_t), uint64_t now)
{
    struct load *load = c->load;
    note(&load->stats.writes, now);
    for (unsigned i = 0; i < load->o.watch_count; i++) {
        if ((c->watched & 1u << i) != 0)
            note(&load->watch[i], now);
    }
}

/* ---- the end of an operation ---- */

static void client_rest(struct load_client *c)
{
    struct load *load = c->load;
    loop_timer_stop(&c->timer);
    sm_move(&c->sm, CLIENT_RESTING);
    list_append(&load->rested, &c->node);
    load->busy--;
    loop_defer(load->loop, &load->turn);
}

static void client_complete(struct load_client *c)
{
    struct load_stats *s = &c->load->stats;
    uint64_t now = clock_of(c);
    uint64_t us = (now - c->intended_ns) / 1000;
    c->load->acked_ns = now;
    s->operations++;
    hist_add(&s->latency, us);
    if (is_write(c)) {
        s->acked_writes++;
        hist_add(&s->write_latency, us);
        if (c->refusals > 0)
            hist_add(&s->refused_wait, (now - c->refused_ns) / 1000);
        gaps_end(c, load_gap_ack, now);
    } else {
        s->reads++;
    }
    client_rest(c);
}

static void client_acked(struct load_client *c)
{
    load_ledger_ack(&c->load->ledger, &c->write);
    client_complete(c);
}

static void client_give_up(struct load_client *c)
{
    if (is_write(c)) {
        c->load->stats.abandoned++;
        gaps_end(c, load_gap_abandon, clock_of(c));
    } else {
        c->load->stats.stale_reads++;
    }
    c->load->acked_ns = clock_of(c); /* the load is not stuck */
    client_rest(c);
}

void load_client_rest_over(struct load_client *c)
{
    list_remove(&c->node);
    sm_move(&c->sm, CLIENT_IDLE);
    if (c->prune_due)
        load_links_prune(c);
}

/* ---- trying again ---- */

static void client_later(struct load_client *c)
{
    uint64_t delay = BACKOFF_FIRST << (c->tries < 6 ? c->tries : 6);
    c->tries++;
    sm_move(&c->sm, CLIENT_BACKOFF);
    loop_timer_start(&c->timer, delay < BACKOFF_MAX ? delay : BACKOFF_MAX);
}

static void note_doubt(struct load_client *c)
{
    c->settling = true;
    if (c->doubted)
        return;
    c->doubted = true;
    c->load->stats.in_doubt++;
    load_ledger_doubt(&c->load->ledger, &c->write);
    loop_defer(c->load->loop, &c->load->turn);
}

/* "0 rows" where the ledger says that there is one: the table is stale, or the row is lost. */
static void client_zero_rows(struct load_client *c)
{
    uint64_t now = clock_of(c);
    c->load->stats.zero_rows++;
    c->misses++;
    load_route_refresh(&c->load->route);
    if (c->missing_ns == 0)
        c->missing_ns = now;
    c->settling = is_write(c);
    if (now - c->missing_ns > c->load->o.give_up_ns)
        client_give_up(c); /* the check will say what is missing */
    else
        client_later(c);
}

/* Everything but success. */
static void client_failed(struct load_client *c, enum load_verdict verdict)
{
    struct load *load = c->load;
    c->misses++;
    load_route_refresh(&load->route);
    if (verdict == VERDICT_REFUSED) {
        load->stats.refused++;
        if (c->refusals++ == 0)
            c->refused_ns = clock_of(c);
        client_later(c);
        return;
    }
    load_stats_error(&load->stats, load_error_class(&c->first));
    load_note_error(load, &c->first);
    if (verdict == VERDICT_DOUBT)
        note_doubt(c);
    if (verdict == VERDICT_EXISTS)
        c->settling = true;
    client_later(c);
}

/* ---- sending ---- */

static void reply_common(struct load_client *c, const struct pg_reply *reply)
{
    assert(c->waiting > 0);
    c->waiting--;
    if (reply->err != NULL && c->first.code == ERRC_NONE)
        err_copy(&c->first, reply->err);
}

static void reply_end(struct load_client *c)
{
    if (c->waiting == 0 && sm_now(&c->sm) != CLIENT_STOPPED)
        client_answered(c);
}

static void reply_plain(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    reply_common(data, reply);
    reply_end(data);
}

static void reply_epoch(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct load_client *c = data;
    (void)conn;
    if (reply->err != NULL && c->link != NULL)
        c->link->epoch = 0;
    reply_common(c, reply);
    reply_end(c);
}

static long touched(const struct pg_reply *reply)
{
    const char *text = reply->count > 0 ? PQcmdTuples(reply->results[reply->count - 1]) : "";
    return strtol(text, NULL, 10);
}

static void reply_changed(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct load_client *c = data;
    (void)conn;
    if (reply->err == NULL) {
        long n = touched(reply);
        c->rows = c->rows < 0 || n < c->rows ? n : c->rows; /* the least of all statements */
    }
    reply_common(c, reply);
    reply_end(c);
}

static void reply_version(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct load_client *c = data;
    (void)conn;
    if (reply->err == NULL) {
        c->rows = pg_rows(reply);
        if (c->rows > 0 && !pg_value_int64(reply, 0, 0, &c->version))
            c->version = -1;
    }
    reply_common(c, reply);
    reply_end(c);
}

static void reply_has_order(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct load_client *c = data;
    int64_t count = 0;
    (void)conn;
    if (reply->err == NULL && pg_value_int64(reply, 0, 0, &count))
        c->has_order = count > 0;
    reply_common(c, reply);
    reply_end(c);
}

static void reply_commit(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct load_client *c = data;
    (void)conn;
    /* COMMIT of a failed transaction succeeds, and says ROLLBACK */
    c->committed = reply->err == NULL && reply->count > 0 &&
                   strcmp(PQcmdStatus(reply->results[reply->count - 1]), "COMMIT") == 0;
    reply_common(c, reply);
    reply_end(c);
}

static void client_send(struct load_client *c, enum load_statement statement, const char *const *params,
                        pg_reply_cb cb)
{
    const struct load_statement_text *text = load_statement(statement);
    const struct pg_request request = {
        .sql = text->sql,
        .extended = true,
        .prepared = text->name,
        .param_count = text->params,
        .params = params,
        .timeout_ns = c->load->o.op_timeout_ns,
    };
    struct err err = {0};
    if (c->first.code != ERRC_NONE)
        return; /* the rest of a try that cannot be sent */
    if (pg_send(c->link->conn, &request, cb, c, &err) != 0)
        err_copy(&c->first, &err);
    else
        c->waiting++;
}

static void send_epoch(struct load_client *c, uint64_t epoch)
{
    char number[24];
    const char *params[] = {number};
    if (!c->load->o.strict || c->link->epoch == epoch)
        return;
    (void)snprintf(number, sizeof number, "%" PRIu64, epoch);
    c->link->epoch = epoch;
    client_send(c, SQL_SET_EPOCH, params, reply_epoch);
}

static void send_update(struct load_client *c)
{
    char version[16], balance[24];
    const char *params[] = {c->key, version, balance};
    (void)snprintf(version, sizeof version, "%u", c->write.version);
    (void)snprintf(balance, sizeof balance, "%" PRId64, load_balance_of(c->write.number, c->write.version));
    client_send(c, SQL_UPDATE, params, reply_changed);
}

static void send_insert(struct load_client *c)
{
    char order[16], amount[24], note[32];
    const char *params[] = {c->key, order, amount, note};
    (void)snprintf(order, sizeof order, "%u", c->write.order);
    (void)snprintf(amount, sizeof amount, "%" PRId64, load_amount_of(c->write.number, c->write.order));
    (void)snprintf(note, sizeof note, "order %u", c->write.order);
    client_send(c, SQL_INSERT, params, reply_changed);
}

static void send_order_statement(struct load_client *c, enum load_statement statement, pg_reply_cb cb)
{
    char order[16];
    const char *params[] = {c->key, order};
    (void)snprintf(order, sizeof order, "%u", c->write.order);
    client_send(c, statement, params, cb);
}

static void send_op(struct load_client *c)
{
    const char *key_only[] = {c->key};
    switch (c->op) {
    case LOAD_OP_READ:
        client_send(c, SQL_READ, key_only, reply_version);
        break;
    case LOAD_OP_UPDATE:
        send_update(c);
        break;
    case LOAD_OP_INSERT:
        send_insert(c);
        break;
    case LOAD_OP_DELETE:
        send_order_statement(c, SQL_DELETE, reply_changed);
        break;
    default:
        client_send(c, SQL_BEGIN, NULL, reply_plain);
        send_update(c);
        send_insert(c);
        break;
    }
}

/* Two statements: the second has a snapshot after the first one's wait for who held the row. */
static void send_settle(struct load_client *c)
{
    const char *key_only[] = {c->key};
    client_send(c, SQL_TOUCH, key_only, reply_version);
    send_order_statement(c, SQL_HAS_ORDER, reply_has_order);
}

static struct load_link *client_owner(struct load_client *c, const struct routing *table,
                                      const uint16_t *servers, uint64_t *ret_epoch)
{
    const struct routing_shard *shard = routing_owner(table, c->hash);
    if (shard == NULL)
        return NULL;
    *ret_epoch = shard->epoch;
    return load_link_get(c, servers[shard - table->shards]);
}

/*
 * Where the row lives as far as we know. NULL while there is no such connection. After some refusals the
 * previous owner is tried, if it can be reached, and the two in turn: the other one as soon as one did not
 * take a try.
 */
static struct load_link *client_target(struct load_client *c, uint64_t *ret_epoch)
{
    struct load *load = c->load;
    if (c->refusals >= PREVIOUS_FROM && c->misses % 2 == 1 && load->route.before != NULL) {
        struct load_link *link = client_owner(c, load->route.before, load->before_servers, ret_epoch);
        if (link != NULL && link->state == LINK_READY) {
            load->stats.previous_owner_tries++;
            return link;
        }
        if (link != NULL)
            load_link_want(link); /* for the next time */
    }
    return client_owner(c, load->route.now, load->now_servers, ret_epoch);
}

static void client_try(struct load_client *c)
{
    uint64_t epoch = 0;
    loop_timer_stop(&c->timer);
    if (sm_now(&c->sm) != CLIENT_WAITING)
        sm_move(&c->sm, CLIENT_WAITING);
    c->link = client_target(c, &epoch);
    if (c->link == NULL || c->link->state != LINK_READY) {
        if (c->link != NULL)
            load_link_want(c->link);
        load_route_refresh(&c->load->route);
        loop_timer_start(&c->timer, CONNECT_LOOK);
        return;
    }
    err_clear(&c->first);
    c->rows = -1;
    c->version = -1;
    c->has_order = c->committed = false;
    sm_move(&c->sm, c->settling ? CLIENT_SETTLING : CLIENT_SENT);
    send_epoch(c, epoch);
    if (c->settling)
        send_settle(c);
    else
        send_op(c);
    if (c->waiting == 0) { /* nothing was sent: no doubt about it */
        sm_move(&c->sm, CLIENT_WAITING);
        loop_timer_start(&c->timer, CONNECT_LOOK);
    }
}

void load_client_link_ready(struct load_client *c, const struct load_link *link)
{
    if (sm_now(&c->sm) == CLIENT_WAITING && c->link == link)
        client_try(c);
}

/* A write that an earlier run or operation left open comes first; nothing can be deleted where nothing is. */
static enum load_op possible_op(const struct load_state *state, const struct load_job_op *op)
{
    switch (op->op == LOAD_OP_READ ? 0 : state->pending[op->number]) {
    case PENDING_VERSION:
        return LOAD_OP_UPDATE;
    case PENDING_NEXT:
        return LOAD_OP_INSERT;
    case PENDING_FIRST:
        return LOAD_OP_DELETE;
    case PENDING_VERSION | PENDING_NEXT:
        return LOAD_OP_TX;
    default:
        break;
    }
    bool no_orders = state->first[op->number] == state->next[op->number];
    return op->op == LOAD_OP_DELETE && no_orders ? LOAD_OP_INSERT : op->op;
}

void load_client_start(struct load_client *c, const struct load_job_op *op)
{
    static const enum load_change changes[LOAD_OP_MAX] = {
        [LOAD_OP_READ] = CHANGE_UPDATE, /* not used */
        [LOAD_OP_INSERT] = CHANGE_INSERT, [LOAD_OP_UPDATE] = CHANGE_UPDATE,
        [LOAD_OP_DELETE] = CHANGE_DELETE, [LOAD_OP_TX] = CHANGE_TX,
    };
    struct load *load = c->load;
    struct load_state *state = &load->ledger.state;
    c->op = possible_op(state, op);
    load_state_plan(state, changes[c->op], op->number, &c->write);
    load_key_format(state->shape.key_type, op->number, c->key);
    c->hash = load_key_hash(state->shape.key_type, op->number);
    c->started_ns = clock_of(c);
    c->intended_ns = op->intended_ns != 0 ? op->intended_ns : c->started_ns;
    c->refused_ns = c->missing_ns = 0;
    c->tries = c->refusals = c->misses = 0;
    c->doubted = c->settled = false;
    c->settling = is_write(c) && state->pending[op->number] != 0;
    load->busy++;
    if (is_write(c))
        gaps_begin(c, c->started_ns);
    client_try(c);
}

/* ---- answers ---- */

/* The server has something else than the ledger: keep that, with the ledger's state set to what is there. */
static void client_found(struct load_client *c, enum finding_kind kind, const char *what)
{
    struct load *load = c->load;
    load_findings_add(&load->findings, kind, "customer %s, order %u: %s (version %lld; %u was acknowledged)",
                      c->key, c->write.order, what, (long long)c->version,
                      load->ledger.state.version[c->write.number]);
    uint32_t n = c->write.number;
    struct load_state *state = &load->ledger.state;
    if (c->version >= 0 && c->version <= UINT32_MAX)
        state->version[n] = (uint32_t)c->version;
    if ((c->op == LOAD_OP_INSERT || c->op == LOAD_OP_TX) && c->has_order)
        state->next[n]++;
    if (c->op == LOAD_OP_DELETE && !c->has_order)
        state->first[n]++;
    load_ledger_found(&load->ledger, kind, n);
    client_give_up(c);
}

static void settled_applied(struct load_client *c)
{
    bool doubted = c->doubted || c->load->ledger.state.pending[c->write.number] != 0;
    if (doubted) {
        c->load->stats.in_doubt_applied += c->doubted ? 1 : 0;
        client_acked(c);
    } else if (c->op == LOAD_OP_DELETE) {
        client_found(c, FINDING_LOST, "the order to delete is gone already");
    } else {
        client_found(c, FINDING_UNEXPECTED, "somebody else has written it");
    }
}

static void settled_not_applied(struct load_client *c)
{
    if (c->doubted && !c->settled) {
        c->load->stats.in_doubt_not_applied++;
        c->settled = true;
    }
    c->settling = false;
    c->missing_ns = 0;
    client_later(c);
}

/* The owner has told version and order: what became of the tries before? */
static void client_settle(struct load_client *c)
{
    const struct load_write *w = &c->write;
    bool bumps = c->op == LOAD_OP_UPDATE || c->op == LOAD_OP_TX;
    bool applied_order = c->op == LOAD_OP_DELETE ? !c->has_order : c->has_order;
    bool order_counts = c->op != LOAD_OP_UPDATE;
    int64_t before = bumps ? (int64_t)w->version - 1 : (int64_t)w->version;
    if (c->version < before) {
        client_found(c, FINDING_LOST, "an acknowledged update is gone");
    } else if (c->version == w->version && (!order_counts || applied_order)) {
        settled_applied(c);
    } else if (c->version == before && (!order_counts || !applied_order)) {
        settled_not_applied(c);
    } else if (c->version == before || c->version == w->version) {
        client_found(c, FINDING_UNEXPECTED, "half of a transaction is there");
    } else {
        client_found(c, FINDING_UNEXPECTED, "somebody else has written it");
    }
}

static void settle_answered(struct load_client *c)
{
    enum load_verdict verdict = load_verdict(&c->first, false);
    if (verdict != VERDICT_DONE)
        client_failed(c, verdict);
    else if (c->rows < 1)
        client_zero_rows(c);
    else
        client_settle(c);
}

static void read_answered(struct load_client *c)
{
    enum load_verdict verdict = load_verdict(&c->first, false);
    if (verdict != VERDICT_DONE)
        client_failed(c, verdict);
    else if (c->rows < 1)
        client_zero_rows(c);
    else if (c->version < (int64_t)c->load->ledger.state.version[c->write.number] && c->tries < 6) {
        load_route_refresh(&c->load->route);
        client_later(c);
    } else {
        if (c->version < (int64_t)c->load->ledger.state.version[c->write.number])
            c->load->stats.stale_reads++;
        client_complete(c);
    }
}

/* The first part of a transaction, before COMMIT: nothing of it can have happened. */
static void tx_answered(struct load_client *c)
{
    if (c->first.code == ERRC_NONE && c->rows == 1) {
        sm_move(&c->sm, CLIENT_COMMITTING);
        client_send(c, SQL_COMMIT, NULL, reply_commit);
    } else {
        struct err first = c->first;
        err_clear(&c->first);
        sm_move(&c->sm, CLIENT_ROLLBACK);
        if (c->link->state == LINK_READY)
            client_send(c, SQL_ROLLBACK, NULL, reply_plain);
        c->first = first;
    }
    if (c->waiting == 0)
        client_answered(c); /* the connection went between: as if answered */
}

static void rollback_answered(struct load_client *c)
{
    enum load_verdict verdict = load_verdict(&c->first, false);
    if (verdict == VERDICT_DONE)
        client_zero_rows(c);
    else
        client_failed(c, verdict);
}

static void commit_answered(struct load_client *c)
{
    enum load_verdict verdict = load_verdict(&c->first, true);
    if (verdict != VERDICT_DONE)
        client_failed(c, verdict);
    else if (c->committed)
        client_acked(c);
    else
        client_later(c);
}

static void write_answered(struct load_client *c)
{
    enum load_verdict verdict = load_verdict(&c->first, true);
    if (verdict != VERDICT_DONE)
        client_failed(c, verdict);
    else if (c->rows < 1)
        client_zero_rows(c);
    else
        client_acked(c);
}

static void client_answered(struct load_client *c)
{
    switch (sm_now(&c->sm)) {
    case CLIENT_SENT:
        if (c->op == LOAD_OP_READ)
            read_answered(c);
        else if (c->op == LOAD_OP_TX)
            tx_answered(c);
        else
            write_answered(c);
        break;
    case CLIENT_COMMITTING:
        commit_answered(c);
        break;
    case CLIENT_ROLLBACK:
        rollback_answered(c);
        break;
    case CLIENT_SETTLING:
        settle_answered(c);
        break;
    default:
        assert(false); /* no other state has sent anything */
    }
}

/* ---- the end ---- */

void load_client_stop(struct load_client *c)
{
    int state = sm_now(&c->sm);
    if (state == CLIENT_STOPPED)
        return;
    bool may_commit = state == CLIENT_COMMITTING || (state == CLIENT_SENT && c->op != LOAD_OP_TX);
    if (state != CLIENT_IDLE && state != CLIENT_RESTING) {
        if (is_write(c) && may_commit)
            note_doubt(c);
        if (is_write(c)) {
            c->load->stats.abandoned++;
            gaps_end(c, load_gap_abandon, clock_of(c));
        }
        c->load->busy--;
    }
    loop_timer_stop(&c->timer);
    list_remove(&c->node);
    sm_move(&c->sm, CLIENT_STOPPED);
    load_links_close(c);
}
