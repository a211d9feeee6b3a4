/*
 * One instance's connection: connect by the pacer, poll the groups that are due, back off after a failure.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/poller_impl.h"

#define BACKOFF_FIRST_NS (100 * ENV_NS_PER_MS)
#define BACKOFF_MAX_NS   (5 * ENV_NS_PER_S)
#define FRESH_NS         (60 * ENV_NS_PER_S) /* an outage this young is probed every period (P13) */
#define SLACK_NS         (2 * ENV_NS_PER_MS) /* groups due this close go in the same pipeline */
#define SLOT_INSTANCES   8
#define SLOTS_LEAST      5                    /* in a period of the load group */
#define SPREAD_NS        (50 * ENV_NS_PER_MS) /* per instance, see groups_spread() */
#define ALONE_PERIODS    5                    /* of the replication group, see poller_period() */
#define TOLD_PERIODS     2                    /* of load and replication, see is_told() */
#define REST_PERIODS     2                    /* of load, see poller_rests() */
#define REST_POLLS       60
#define TOLD_NS          (2500 * ENV_NS_PER_MS)
#define TIMED_RUNS       5                  /* of the load group, one of which is timed */
#define GOLDEN           0.6180339887498949 /* multiples of it spread evenly, however many there are */

#define SESSION_OPTIONS                                                                                      \
    "-c statement_timeout=5000 -c lock_timeout=100 -c idle_in_transaction_session_timeout=5000"              \
    " -c default_transaction_read_only=on -c jit=off -c search_path=pg_catalog"                              \
    " -c stats_fetch_consistency=none"

static const struct sm_state states[POLLER_STATES] = {
    [POLLER_QUEUED] = {"queued", SM_NEXT(POLLER_CONNECTING) | SM_NEXT(POLLER_CLOSED), false},
    [POLLER_CONNECTING] = {"connecting",
                           SM_NEXT(POLLER_READY) | SM_NEXT(POLLER_BACKOFF) | SM_NEXT(POLLER_QUEUED) |
                               SM_NEXT(POLLER_CLOSED),
                           false},
    [POLLER_READY] = {"ready", SM_NEXT(POLLER_BACKOFF) | SM_NEXT(POLLER_QUEUED) | SM_NEXT(POLLER_CLOSED),
                      false},
    [POLLER_BACKOFF] = {"backoff", SM_NEXT(POLLER_QUEUED) | SM_NEXT(POLLER_CLOSED), false},
    [POLLER_CLOSED] = {"closed", 0, true},
};

static void on_timer(struct loop_timer *timer, void *data);
static void failed(struct poller *p, const struct err *err);

/* ---- life ---- */

static char *address_of(const struct instance_access *a)
{
    return mem_printf("%s|%d|%s|%s|%s|%s|%s|%s", a->host != NULL ? a->host : "", a->port,
                      a->user != NULL ? a->user : "", a->dbname != NULL ? a->dbname : "",
                      a->sslmode != NULL ? a->sslmode : "", a->sslrootcert != NULL ? a->sslrootcert : "",
                      a->sslcert != NULL ? a->sslcert : "", a->sslkey != NULL ? a->sslkey : "");
}

bool poller_address_changed(const struct poller *p)
{
    char *address = address_of(&p->instance->access);
    bool changed = strcmp(address, p->address) != 0;
    free(address);
    return changed;
}

bool poller_relabel(struct poller *p)
{
    struct buf labels = {0}, own = {0};
    metric_add_label(&labels, "shard", p->instance->shard);
    buf_addc(&labels, ',');
    metric_add_label(&labels, "member", p->instance->name);
    metric_add_label(&own, "db", p->instance->database);
    buf_addc(&own, ',');
    buf_add_text(&own, buf_text(&labels));
    bool changed = p->own_labels == NULL || strcmp(p->own_labels, buf_text(&own)) != 0;
    free(p->labels);
    free(p->own_labels);
    p->labels = buf_take(&labels);
    p->own_labels = buf_take(&own);
    return changed;
}

struct poller *poller_new(struct pollers *pollers, struct fleet_instance *instance)
{
    struct poller *p = mem_zalloc(sizeof *p);
    p->pollers = pollers;
    p->instance = instance;
    p->address = address_of(&instance->access);
    double turns = (double)pollers->made++ * GOLDEN;
    p->phase = turns - (double)(uint64_t)turns;
    p->down_ns = loop_now(pollers->loop);
    list_init(&p->node);
    list_init(&p->wait_node);
    list_init(&p->questions);
    sm_init(&p->sm, states, POLLER_STATES, POLLER_QUEUED, NULL, NULL);
    loop_timer_init(pollers->loop, &p->timer, on_timer, p);
    for (int q = 0; q < QUERIES; q++)
        p->slots[q] = (struct poller_slot){.poller = p, .query = (enum query_id)q};
    poller_relabel(p);
    return p;
}

static void on_conn_gone(void *data)
{
    struct poller *p = data;
    pollers_gone(p);
    sm_fini(&p->sm);
    poller_text_free(p);
    free(p->address);
    free(p->labels);
    free(p->own_labels);
    free(p);
}

static void left_connecting(struct poller *p)
{
    if (sm_now(&p->sm) == POLLER_CONNECTING) {
        p->pollers->connecting--;
        if (!list_empty(&p->pollers->waiting) && !loop_timer_armed(&p->pollers->pacer))
            loop_timer_start(&p->pollers->pacer, 0);
    }
}

static void set_up(struct poller *p, bool up)
{
    if (p->up == up)
        return;
    p->up = up;
    if (up)
        p->pollers->counts.up++;
    else
        p->pollers->counts.up--;
    p->down_ns = loop_now(p->pollers->loop);
}

void poller_close(struct poller *p)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "the instance is not polled any more"};
    left_connecting(p);
    poller_questions_fail(p, &canceled);
    set_up(p, false);
    loop_timer_stop(&p->timer);
    list_remove(&p->wait_node);
    sm_move(&p->sm, POLLER_CLOSED);
    struct pg_conn *conn = p->conn;
    p->conn = NULL;
    if (conn != NULL)
        pg_conn_close(conn, on_conn_gone, p);
    else
        on_conn_gone(p);
}

/* ---- connecting ---- */

static void on_connected(struct pg_conn *conn, const struct err *err, void *data);
static void on_lost(struct pg_conn *conn, const struct err *err, void *data);

void poller_connect(struct poller *p)
{
    static const struct pg_conn_events events = {.connected = on_connected, .lost = on_lost};
    const struct instance_access *a = &p->instance->access;
    const struct pg_target target = {
        .host = a->host,
        .port = a->port,
        .dbname = a->dbname,
        .user = a->user,
        .password = a->password,
        .sslmode = a->sslmode,
        .sslrootcert = a->sslrootcert,
        .sslcert = a->sslcert,
        .sslkey = a->sslkey,
        .application_name = "shardherd poll",
        .options = SESSION_OPTIONS,
        .connect_timeout_ns = p->pollers->options.connect_timeout_ns,
        .pacer = p->pollers->handshakes,
    };
    sm_move(&p->sm, POLLER_CONNECTING);
    p->pollers->connecting++;
    p->pollers->counts.connects++;
    p->connects++;
    struct err err = {0};
    p->conn = pg_conn_new(p->pollers->loop, &target, &events, p);
    if (pg_conn_connect(p->conn, &err) != 0)
        failed(p, &err);
}

static void groups_reset(struct poller *p)
{
    for (int g = 0; g < POLL_GROUPS; g++) {
        p->groups[g].pending = 0;
        p->groups[g].runs = 0;
        p->groups[g].due_ns = 0;
    }
    for (int q = 0; q < QUERIES; q++)
        p->slots[q].in_flight = false;
    p->base.at_ns = 0;
    p->alone = p->apart = false;
    p->quiet = 0;
    if (p->instance != NULL)
        p->instance->facts.rests = false;
    p->asked = 0;
}

/*
 * The first run of the groups that cost a server some 30 ms (it loads its catalog): at once in a small
 * fleet, spread over some seconds in a large one, whose servers may all have come back together.
 */
static void groups_spread(struct poller *p)
{
    const struct pollers *pollers = p->pollers;
    for (int g = POLL_ACTIVITY; g < POLL_GROUPS; g++) {
        uint64_t window = (pollers->counts.instances - 1) * SPREAD_NS;
        if (window > pollers->options.period_ns[g])
            window = pollers->options.period_ns[g];
        p->groups[g].due_ns = loop_now(pollers->loop) + (uint64_t)(p->phase * (double)window);
    }
}

static void on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct poller *p = data;
    if (p->conn != conn)
        return; /* given up meanwhile */
    if (err != NULL) {
        failed(p, err);
        return;
    }
    left_connecting(p);
    sm_move(&p->sm, POLLER_READY);
    p->server_version = pg_conn_server_version(conn);
    p->instance->facts.server_version = p->server_version;
    const char *standby = pg_conn_parameter(conn, "in_hot_standby");
    p->recovering = standby != NULL && strcmp(standby, "on") == 0;
    groups_reset(p);
    groups_spread(p);
    loop_timer_start(&p->timer, 0);
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct poller *p = data;
    if (p->conn == conn)
        failed(p, err);
}

static void conn_drop(struct poller *p)
{
    struct pg_conn *conn = p->conn;
    p->conn = NULL;
    pg_conn_close(conn, NULL, NULL);
    groups_reset(p);
}

static uint64_t backoff(const struct poller *p)
{
    const struct pollers *pollers = p->pollers;
    uint64_t most = BACKOFF_MAX_NS;
    uint64_t now = loop_now(pollers->loop);
    const struct instance_facts *facts = &p->instance->facts;
    if (facts->seen_ns != 0 && now - facts->seen_ns < FRESH_NS &&
        most > pollers->options.period_ns[POLL_LOAD])
        most = pollers->options.period_ns[POLL_LOAD];
    unsigned doublings = p->failures > 6 ? 6 : p->failures;
    uint64_t delay = BACKOFF_FIRST_NS << doublings;
    if (delay > most)
        delay = most;
    double jitter = 0.5 + env_random_unit(pollers->loop->env) / 2;
    return (uint64_t)((double)delay * jitter);
}

/* The connection could not be made, was lost, or does not serve. */
static void failed(struct poller *p, const struct err *err)
{
    struct pollers *pollers = p->pollers;
    struct err why = {0}; /* dropping the connection may end err */
    err_copy(&why, err);
    bool news = p->up || !p->tried;
    left_connecting(p);
    sm_move(&p->sm, POLLER_BACKOFF);
    conn_drop(p);
    poller_questions_fail(p, &why);
    facts_failed(p, &why);
    set_up(p, false);
    p->tried = true;
    loop_timer_start(&p->timer, backoff(p));
    p->failures++;
    if (news && pollers->events.down != NULL)
        pollers->events.down(p->instance, &why, pollers->data);
}

void poller_reconnect(struct poller *p)
{
    free(p->address);
    p->address = address_of(&p->instance->access);
    poller_relabel(p);
    p->failures = 0;
    if (sm_now(&p->sm) == POLLER_QUEUED)
        return;
    left_connecting(p);
    loop_timer_stop(&p->timer);
    sm_move(&p->sm, POLLER_QUEUED);
    if (p->conn != NULL)
        conn_drop(p);
    set_up(p, false);
    pollers_enqueue(p->pollers, p);
}

/* ---- when ---- */

/*
 * Some instances are polled at the same moment: to be woken, with caches that somebody else has filled, costs
 * more than polling one of them does. Few enough that the probe's time is that of the server.
 */
static uint64_t slot_of(const struct pollers *pollers)
{
    uint64_t load = pollers->options.period_ns[POLL_LOAD];
    uint64_t slot = load / pollers->counts.instances * SLOT_INSTANCES;
    return slot < load / SLOTS_LEAST ? slot : load / SLOTS_LEAST;
}

/* One of five of each instance, and all of a slot together: their answers wake the loop about once. */
static bool is_timed_slot(const struct poller *p, uint64_t now)
{
    uint64_t load = p->pollers->options.period_ns[POLL_LOAD];
    return (now / load + now % load / slot_of(p->pollers)) % TIMED_RUNS == 0;
}

/* A standby that streams, whose agent says so each second: nothing is decided from its polls. */
static bool is_told(const struct poller *p)
{
    const struct instance_member *m = p->instance != NULL ? &p->instance->member : NULL;
    return m != NULL && p->recovering && m->kept && !m->primary && m->streams &&
           loop_now(p->pollers->loop) < m->heard_ns + TOLD_NS;
}

bool poller_rests(const struct poller *p)
{
    return p->quiet >= REST_POLLS && !p->pollers->options.restless;
}

/* A primary that nobody follows has no lag, and three of four queries a second would only say so. */
uint64_t poller_period(const struct poller *p, enum poll_group g)
{
    uint64_t period = p->pollers->options.period_ns[g];
    if (period == POLL_OFF)
        return period;
    if (g == POLL_REPLICATION && p->alone && !p->recovering)
        return period * ALONE_PERIODS;
    if (g <= POLL_REPLICATION && is_told(p))
        return period * TOLD_PERIODS;
    return g == POLL_LOAD && poller_rests(p) ? period * REST_PERIODS : period;
}

/* The next moment after `now` that is this instance's in the period. */
static uint64_t next_due(const struct poller *p, enum poll_group g, uint64_t now)
{
    uint64_t load = p->pollers->options.period_ns[POLL_LOAD];
    uint64_t period = poller_period(p, g);
    if (period == POLL_OFF)
        return UINT64_MAX;
    uint64_t slot = slot_of(p->pollers);
    uint64_t offset = (uint64_t)(p->phase * (double)load) / slot * slot;
    if (period > load) /* the whole period is used, in steps that fall on a load poll */
        offset += (uint64_t)(p->phase * (double)(period / load)) * load;
    return now - (now + period - offset % period) % period + period;
}

static void timer_arm(struct poller *p)
{
    uint64_t next = UINT64_MAX;
    for (int g = 0; g < POLL_GROUPS; g++)
        if (p->groups[g].due_ns < next)
            next = p->groups[g].due_ns;
    loop_timer_start_at(&p->timer, next);
}

/* ---- polling ---- */

static bool slow_in_flight(const struct poller *p)
{
    return p->groups[POLL_SIZES].pending > 0 || p->groups[POLL_SETTINGS].pending > 0 || p->asked > 0;
}

static void run_ended(struct poller *p, enum poll_group g)
{
    struct poller_group *group = &p->groups[g];
    group->took_ns = loop_clock(p->pollers->loop) - group->started_ns;
    if (group->failed) {
        group->errors++;
        p->pollers->counts.polls_failed++;
    } else {
        group->success_ns = loop_now(p->pollers->loop);
        group->success_us = loop_wall(p->pollers->loop);
        p->pollers->counts.polls++;
    }
    if (g == POLL_LOAD && !group->failed)
        p->values_ns = group->success_ns;
    if (g == POLL_REPLICATION)
        p->alone = !group->failed && p->followers == 0;
}

/* A load poll succeeded: the instance lives. */
static void load_done(struct poller *p)
{
    struct pollers *pollers = p->pollers;
    bool news = !p->up;
    uint64_t due_ns = next_due(p, POLL_LOAD, loop_now(pollers->loop));
    if (due_ns < p->groups[POLL_LOAD].due_ns) { /* it is at rest no more */
        p->groups[POLL_LOAD].due_ns = due_ns;
        timer_arm(p);
    }
    set_up(p, true);
    p->tried = true;
    p->failures = 0;
    if (news && pollers->events.up != NULL)
        pollers->events.up(p->instance, pollers->data);
    if (p->instance != NULL && pollers->events.sampled != NULL)
        pollers->events.sampled(p->instance, pollers->data);
}

static void load_refused(struct poller *p, const struct err *err)
{
    bool news = p->up || !p->tried;
    set_up(p, false);
    p->tried = true;
    facts_failed(p, err);
    if (news && p->pollers->events.down != NULL)
        p->pollers->events.down(p->instance, err, p->pollers->data);
}

static bool slot_take(struct poller *p, struct poller_slot *slot, const struct pg_reply *reply)
{
    slot->took_ns = loop_clock(p->pollers->loop) - slot->sent_ns;
    slot->failed = reply->err != NULL;
    if (slot->failed)
        return false;
    if (slot->query == QUERY_LOAD)
        slot->failed = !facts_take_load(p, reply, slot->took_ns);
    else
        facts_take(p, slot->query, reply);
    if (slot->query == QUERY_STAT_REPLICATION || slot->query == QUERY_REPLICATION_SLOTS)
        p->followers += (unsigned)pg_rows(reply);
    poller_text_take(p, slot, reply);
    return !slot->failed;
}

static bool slot_send(struct poller *p, struct poller_slot *slot);

/*
 * A query that was joined with others has failed, so this one was not run. It is now, and on this connection
 * each goes by itself from here on (P9): what fails once mostly fails always.
 */
static bool skipped(struct poller *p, struct poller_slot *slot, const struct pg_reply *reply)
{
    if (reply->err == NULL || reply->err->code != ERRC_CANCELED)
        return false;
    p->apart = true;
    return slot_send(p, slot);
}

static void on_reply(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct poller_slot *slot = data;
    struct poller *p = slot->poller;
    if (p->conn != conn || !pg_conn_ready(conn))
        return; /* the connection ends: its own event says why */
    if (skipped(p, slot, reply))
        return;
    enum poll_group g = query_get(slot->query)->group;
    struct poller_group *group = &p->groups[g];
    slot->in_flight = false;
    bool ok = slot_take(p, slot, reply);
    group->failed = group->failed || !ok;
    if (--group->pending == 0)
        run_ended(p, g);
    if (slot->query != QUERY_LOAD)
        return;
    const struct err unusable = {.code = ERRC_PROTOCOL, .message = "the load query's answer is not usable"};
    if (ok)
        load_done(p);
    else
        load_refused(p, reply->err != NULL ? reply->err : &unusable);
}

static bool in_scope(const struct poller *p, const struct query *query)
{
    if (query->scope == SCOPE_ANY)
        return true;
    return p->recovering == (query->scope == SCOPE_STANDBY);
}

static bool slot_send(struct poller *p, struct poller_slot *slot)
{
    const struct query *query = query_get(slot->query);
    enum poll_group g = query->group;
    bool slow = g == POLL_SIZES || g == POLL_SETTINGS;
    const struct pg_request request = {
        .sql = query_sql(query, p->server_version),
        .extended = true,
        .prepared = query->name,
        .constant = true,
        .joined = !p->apart && !slow && g != POLL_LOAD,
        .timeout_ns = p->pollers->options.deadline_ns + (slow || slow_in_flight(p) ? POLL_SLOW_EXTRA_NS : 0),
        .patience_ns = g == POLL_LOAD && p->timed ? 0 : POLL_PATIENCE_NS,
    };
    slot->sent_ns = loop_clock(p->pollers->loop);
    slot->in_flight = pg_send(p->conn, &request, on_reply, slot, NULL) == 0;
    return slot->in_flight;
}

static void group_send(struct poller *p, enum poll_group g, uint64_t now)
{
    struct poller_group *group = &p->groups[g];
    group->failed = false;
    group->started_ns = now;
    if (g == POLL_REPLICATION)
        p->followers = 0;
    if (g == POLL_LOAD)
        p->timed = group->runs == 0 || is_timed_slot(p, loop_now(p->pollers->loop));
    for (int q = 0; q < QUERIES; q++) {
        const struct query *query = query_get((enum query_id)q);
        if (query->group != g || query_sql(query, p->server_version) == NULL || !in_scope(p, query) ||
            (query->once && group->runs > 0))
            continue;
        if (slot_send(p, &p->slots[q]))
            group->pending++;
    }
    group->runs++;
}

/* A load poll by itself is one packet anyway. */
static bool sends_more(const struct poller *p, uint64_t now)
{
    if (!list_empty(&p->questions) || p->groups[POLL_LOAD].runs == 0)
        return true;
    for (int g = POLL_LOAD + 1; g < POLL_GROUPS; g++)
        if (p->groups[g].due_ns <= now + SLACK_NS)
            return true;
    return false;
}

static void groups_send(struct poller *p, uint64_t now)
{
    if (sends_more(p, now))
        pg_conn_cork(p->conn);
    for (int g = 0; g < POLL_GROUPS; g++) {
        struct poller_group *group = &p->groups[g];
        if (group->due_ns > now + SLACK_NS)
            continue;
        if (p->pollers->options.period_ns[g] == POLL_OFF) {
            group->due_ns = UINT64_MAX;
            continue;
        }
        group->due_ns = next_due(p, (enum poll_group)g, now + SLACK_NS);
        if (group->pending > 0)
            group->skipped++;
        else
            group_send(p, (enum poll_group)g, loop_clock(p->pollers->loop));
    }
    poller_questions_send(p);
    pg_conn_uncork(p->conn);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    struct poller *p = data;
    if (sm_now(&p->sm) == POLLER_BACKOFF) {
        sm_move(&p->sm, POLLER_QUEUED);
        pollers_enqueue(p->pollers, p);
        return;
    }
    assert(sm_now(&p->sm) == POLLER_READY);
    if (!pollers_may_send(p->pollers)) {
        loop_timer_start(timer, 0);
        return;
    }
    groups_send(p, loop_now(p->pollers->loop));
    timer_arm(p);
}

void poller_hurry(struct poller *p, enum poll_group last)
{
    if (sm_now(&p->sm) != POLLER_READY)
        return;
    for (int g = 0; g <= (int)last; g++)
        p->groups[g].due_ns = 0;
    loop_timer_start(&p->timer, 0);
}
