/* What the answers mean for the fleet's model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/poller_impl.h"

/* ---- values ---- */

static int64_t int_or(const struct pg_reply *reply, int column, int64_t otherwise)
{
    int64_t value;
    return pg_value_int64(reply, 0, column, &value) ? value : otherwise;
}

static double double_or_nan(const struct pg_reply *reply, int row, int column)
{
    const char *text = pg_value(reply, row, column);
    if (text == NULL)
        return (double)NAN;
    char *end;
    double value = strtod(text, &end);
    return end != text && *end == '\0' ? value : (double)NAN;
}

static uint64_t microseconds(double seconds)
{
    if (!(seconds > 0))
        return 0;
    return seconds < 1e9 ? (uint64_t)(seconds * 1e6) : (uint64_t)1e15;
}

/* ---- load ---- */

enum {
    LOAD_RECOVERING,
    LOAD_TRANSACTIONS,
    LOAD_LSN,
    LOAD_TIMELINE,
    LOAD_STARTED,
    LOAD_CONNECTIONS,
    LOAD_ACTIVE,
    LOAD_COLUMNS
};

static double rate(uint64_t before, uint64_t after, uint64_t ns)
{
    return (double)(after - before) * (double)ENV_NS_PER_S / (double)ns;
}

/* A server that restarted or changed its timeline is not comparable, and a counter that fell was reset. */
static void sample_rates(const struct poller *p, const struct poller_base *now, struct load_sample *sample)
{
    const struct poller_base *before = &p->base;
    if (before->at_ns == 0 || now->at_ns <= before->at_ns || before->started_us != now->started_us)
        return;
    uint64_t ns = now->at_ns - before->at_ns;
    if (now->transactions >= before->transactions)
        sample->value[LOAD_QUERY_RATE] = (float)rate(before->transactions, now->transactions, ns);
    if (now->lsn >= before->lsn && before->lsn != 0 && now->timeline == before->timeline)
        sample->value[LOAD_WAL_RATE] = (float)rate(before->lsn, now->lsn, ns);
}

/* As much do an agent, a heartbeat and autovacuum by themselves, beside the polls. */
#define QUIET_RATE 10

/* Before p->base is the new one. A server tells its counters once a second at most. */
static bool is_quiet(const struct poller *p, const struct poller_base *now, const struct load_sample *sample)
{
    uint64_t period = p->pollers->options.period_ns[POLL_LOAD], ns = now->at_ns - p->base.at_ns;
    double seconds = ns > ENV_NS_PER_S ? (double)ns / (double)ENV_NS_PER_S : 1;
    if (isnan(sample->value[LOAD_QUERY_RATE]) || sample->active_sessions > 0)
        return false;
    double most = (QUIET_RATE + (double)ENV_NS_PER_S / (double)period) * seconds;
    return (double)(now->transactions - p->base.transactions) <= most;
}

/*
 * Between two polls of a server at rest one second was left out. What is known of it is what is known of
 * both: their mean. So samples lie a period apart for whoever counts them.
 */
static void ring_add(struct poller *p, const struct load_sample *sample)
{
    uint64_t period = p->pollers->options.period_ns[POLL_LOAD];
    struct load_ring *ring = &p->instance->load;
    struct load_sample between = *sample, last;
    between.at_ns -= period;
    if (poller_period(p, POLL_LOAD) > period && load_ring_second(ring, 0, &last) &&
        between.at_ns > last.at_ns + period / 2 && between.at_ns < last.at_ns + period * 3 / 2)
        load_ring_add(ring, &between);
    load_ring_add(ring, sample);
}

bool facts_take_load(struct poller *p, const struct pg_reply *reply, uint64_t took_ns)
{
    if (pg_rows(reply) != 1 || PQnfields(reply->results[reply->count - 1]) < LOAD_COLUMNS ||
        pg_value(reply, 0, LOAD_RECOVERING) == NULL)
        return false;
    bool recovering = pg_value_bool(reply, 0, LOAD_RECOVERING);
    if (recovering != p->recovering)
        p->groups[POLL_REPLICATION].due_ns = 0; /* another period, and other queries */
    p->recovering = recovering;
    struct loop *loop = p->pollers->loop;
    struct fleet_instance *instance = p->instance;
    if (p->timed) {
        p->probe_ms = (float)((double)took_ns / 1e6);
        hist_sparse_add(&instance->probe, took_ns / 1000);
    }
    struct instance_facts *facts = &instance->facts;
    const struct poller_base now = {
        .at_ns = loop_clock(loop) - took_ns, /* not when a patient answer was read */
        .transactions = (uint64_t)int_or(reply, LOAD_TRANSACTIONS, 0),
        .lsn = (uint64_t)int_or(reply, LOAD_LSN, 0),
        .timeline = (uint32_t)int_or(reply, LOAD_TIMELINE, 0),
        .started_us = int_or(reply, LOAD_STARTED, 0),
    };
    struct load_sample sample = {.at_ns = loop_now(loop),
                                 .active_sessions = (float)int_or(reply, LOAD_ACTIVE, 0),
                                 .probe_ms = p->probe_ms};
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        sample.value[m] = (float)NAN;
    sample_rates(p, &now, &sample);
    sample.value[LOAD_CPU] = (float)instance_pod_get(instance->pod, POD_CPU, sample.at_ns, NULL);
    if (facts->database_bytes != 0)
        sample.value[LOAD_SIZE] = (float)facts->database_bytes;
    bool quiet = is_quiet(p, &now, &sample);
    p->base = now;
    facts->role = p->recovering ? ROLE_STANDBY : ROLE_PRIMARY;
    if (!p->recovering)
        facts->lag_seconds = 0, facts->lag_bytes = 0;
    facts->timeline = now.timeline;
    facts->started_us = now.started_us;
    facts->wal_lsn = now.lsn;
    facts->connections = (int)int_or(reply, LOAD_CONNECTIONS, 0);
    facts->seen_ns = loop_now(loop);
    ring_add(p, &sample);
    p->quiet = quiet ? p->quiet + 1 : 0;
    facts->rests = poller_rests(p);
    return true;
}

void facts_failed(struct poller *p, const struct err *err)
{
    struct instance_facts *facts = &p->instance->facts;
    facts->failed_ns = loop_now(p->pollers->loop);
    facts->errors_total++;
    facts->refused = err->code == ERRC_AUTH || err->code == ERRC_TLS;
    size_t n = strnlen(err->message, sizeof facts->error - 1);
    memcpy(facts->error, err->message, n);
    facts->error[n] = '\0';
    facts->lag_seconds = facts->role == ROLE_STANDBY ? (double)NAN : facts->lag_seconds;
}

/* ---- the other groups ---- */

enum { LAG_SECONDS = 0, LAG_BYTES = 3 };

/* How far the shard's primary is ahead, by its own last poll: for a standby that nobody tells (P16). */
static uint64_t bytes_behind_primary(const struct poller *p)
{
    const struct fleet_instance *self = p->instance;
    for (unsigned i = 0; i < p->pollers->table_size; i++) {
        const struct poller *other = p->pollers->table[i];
        const struct fleet_instance *o = other != NULL ? other->instance : NULL;
        if (o == NULL || o == self || o->facts.role != ROLE_PRIMARY ||
            o->facts.system_identifier != self->facts.system_identifier ||
            strcmp(o->shard, self->shard) != 0 || strcmp(o->database, self->database) != 0)
            continue;
        return o->facts.wal_lsn > self->facts.wal_lsn ? o->facts.wal_lsn - self->facts.wal_lsn : 0;
    }
    return self->facts.lag_bytes;
}

static void take_lag(struct poller *p, const struct pg_reply *reply)
{
    struct instance_facts *facts = &p->instance->facts;
    int64_t bytes;
    if (pg_rows(reply) != 1 || !p->recovering)
        return;
    facts->lag_seconds = double_or_nan(reply, 0, LAG_SECONDS);
    facts->lag_bytes =
        pg_value_int64(reply, 0, LAG_BYTES, &bytes) ? (uint64_t)bytes : bytes_behind_primary(p);
}

static void take_ages(struct poller *p, const struct pg_reply *reply)
{
    for (int row = 0; row < pg_rows(reply); row++)
        hist_sparse_add(&p->instance->query_age, microseconds(double_or_nan(reply, row, 0)));
}

static void take_identity(struct poller *p, const struct pg_reply *reply)
{
    struct instance_facts *facts = &p->instance->facts;
    const char *text = pg_value(reply, 0, 2);
    facts->system_identifier = text != NULL ? strtoull(text, NULL, 10) : 0;
    facts->max_connections = (int)int_or(reply, 3, 0);
}

void facts_take(struct poller *p, enum query_id query, const struct pg_reply *reply)
{
    switch (query) {
    case QUERY_REPLICATION:
        take_lag(p, reply);
        break;
    case QUERY_AGES:
        take_ages(p, reply);
        break;
    case QUERY_IDENTITY:
        take_identity(p, reply);
        break;
    case QUERY_OWN_SIZE:
        p->instance->facts.database_bytes = (uint64_t)int_or(reply, 0, 0);
        break;
    default:
        break;
    }
}
