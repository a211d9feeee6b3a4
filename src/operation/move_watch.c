/*
 * What a move looks at each second until its fence: what commits on S take and how far its standbys are
 * behind (the copy's rate follows, see throttle.h), how much WAL its slot keeps and how much room the disks
 * have (the move goes back before one is full, see wal_guard.h), and how far the copy is.
 *
 * The commit is one of our own: an empty logical message in a transaction, which is flushed as everybody's
 * commit is, waits for the same standbys, and leaves nothing in any table. The server's clock takes its time,
 * so that what our own loop is busy with does not count.
 *
 * The watch runs from TARGET, for what commits take before the copy, to REHEARSE. It stays for an UNDO that
 * it began itself: then it drops the slot by its own hand, since the undo asks T first, which may not answer
 * for long, while S's disk fills.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "loop/process.h"
#include "operation/copier.h"
#include "operation/move_op_internal.h"
#include "operation/standby_lag.h"
#include "operation/throttle.h"
#include "operation/wal_guard.h"

#define WATCH_NS      (1 * ENV_NS_PER_S)
#define BEFORE_NS     (10 * ENV_NS_PER_S) /* how long the application is looked at before the move */
#define ASK_NS        (60 * ENV_NS_PER_S) /* a commit that waits for a standby may take this long */
#define CHECKPOINT_NS (600 * ENV_NS_PER_S)
#define QUICK_BASES   5  /* commits at once at the beginning: the copy may follow within a moment */
#define RATE_MARKS    41 /* seconds: a lull of the copy and what lies between two, for the time that is left */
#define RATE_LEAST_NS (ENV_NS_PER_S / 4) /* bytes are told of each 100 ms */
#define RATE_SHOWN    10                 /* seconds: the rate that is shown */

struct watch {
    bool running;
    struct throttle throttle;
    struct standby_lag lag;
    unsigned quick;                    /* commits that still follow one another at once */
    uint64_t asked_ns;                 /* when the question was asked that has no answer yet; 0 = none */
    uint64_t commit_ns;                /* what the last commit took */
    bool answered;                     /* since the last look */
    uint64_t transactions, counted_ns; /* what the server had counted, and when it said so; 0 = never */
    double per_second;                 /* transactions; below 0 = not known */
    uint64_t lag_ns;
    char standby[MOVE_NAME_SIZE];
    char wal_status[16];
    uint64_t source_free, target_free;
    bool copied; /* a copy began: what commits take now says nothing of before */
    struct {
        uint64_t at_ns, bytes;
        bool lull;       /* since the one before it */
    } marks[RATE_MARKS]; /* oldest first */
    unsigned mark_count;
    uint64_t logged_cut_ns;
    bool saving;   /* gone back because of a disk: the slot must go, whatever else hangs */
    bool dropping; /* it is being dropped */
    bool saved;
};

/* What the source did before the move began to make a server on the same machine, say. A manager that took
 * the move over may know nothing of that. */
static void take_before(struct move_op *op)
{
    const struct fleet_instance *source =
        fleet_primary(op_services(op)->fleet, op_record(op)->database, op_record(op)->source);
    double per_second = 0;
    if (source != NULL && load_ring_mean(&source->load, LOAD_QUERY_RATE, op_now(op), BEFORE_NS, &per_second))
        throttle_base_transactions(&op->watch->throttle, per_second);
    throttle_end_count(&op->watch->throttle, op_now(op));
}

static struct watch *watch_of(struct move_op *op)
{
    if (op->watch == NULL) {
        op->watch = mem_zalloc(sizeof *op->watch);
        throttle_init(&op->watch->throttle);
        standby_lag_init(&op->watch->lag);
        op->watch->per_second = -1;
        op->watch->source_free = op->watch->target_free = WAL_GUARD_UNKNOWN;
        op->watch->quick = QUICK_BASES;
        take_before(op);
    }
    return op->watch;
}

/* ---- what the source says ---- */

static uint64_t number_at(const struct pg_reply *reply, int result, int column)
{
    uint64_t value = 0;
    const PGresult *r = reply->results[result];
    if (PQntuples(r) > 0 && !PQgetisnull(r, 0, column))
        (void)text_to_uint64(PQgetvalue(r, 0, column), &value);
    return value;
}

static void ask(struct move_op *op);
static void guard(struct move_op *op);

static void take_standby(struct move_op *op, const struct pg_reply *reply, uint64_t lsn)
{
    struct watch *w = op->watch;
    uint64_t now = op_now(op);
    w->lag_ns = 0;
    if (PQntuples(reply->results[4]) > 0) {
        w->lag_ns = standby_lag_of(&w->lag, now, number_at(reply, 4, 1));
        snprintf(w->standby, sizeof w->standby, "%s", PQgetvalue(reply->results[4], 0, 0));
    }
    standby_lag_mark(&w->lag, now, lsn);
    op_record(op)->standby_lag_us = w->lag_ns / 1000;
}

/* Quick questions follow one another, and the move itself does dozens of transactions before its copy: what
 * is counted over less than a second says nothing. */
static void take_transactions(struct watch *w, uint64_t count, uint64_t now_ns)
{
    if (w->counted_ns != 0 && now_ns - w->counted_ns < ENV_NS_PER_S * 9 / 10)
        return;
    w->per_second = -1;
    if (w->counted_ns != 0 && count >= w->transactions)
        w->per_second = (double)(count - w->transactions) * 1e9 / (double)(now_ns - w->counted_ns);
    w->transactions = count;
    w->counted_ns = now_ns;
    if (!w->copied && w->per_second >= 0)
        throttle_base_transactions(&w->throttle, w->per_second);
}

static void source_answered(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct watch *w = op->watch;
    struct move_record *r = op_record(op);
    (void)action;
    w->asked_ns = 0;
    if (reply->err != NULL || reply->count < 5)
        return; /* a server that is gone shows in what the move itself does there */
    uint64_t began_us = number_at(reply, 1, 0), ended_us = number_at(reply, 3, 0);
    w->commit_ns = ended_us > began_us ? (ended_us - began_us) * 1000 : 1000;
    w->answered = true;
    snprintf(w->wal_status, sizeof w->wal_status, "%s", PQgetvalue(reply->results[3], 0, 2));
    r->source_commit_us = w->commit_ns / 1000;
    r->retained_wal = number_at(reply, 3, 3);
    take_standby(op, reply, number_at(reply, 3, 1));
    take_transactions(w, number_at(reply, 3, 4), op_now(op));
    guard(op);
    if (w->copied || !w->running)
        return;
    throttle_base(&w->throttle, w->commit_ns);
    if (w->quick > 0) {
        w->quick--;
        ask(op);
    }
}

static void ask(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    op->watch->asked_ns = op_now(op);
    act_sql_any(
        op, &op->watcher, ACT_COPY, ASK_NS, source_answered,
        "BEGIN; SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint "
        "FROM pg_logical_emit_message(true, 'shardherd', ''); COMMIT; "
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, "
        "(pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint, coalesce(s.wal_status, ''), "
        "greatest((pg_current_wal_lsn() - s.restart_lsn)::bigint, 0), "
        "(SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()) "
        "FROM (VALUES (1)) AS v(n) LEFT JOIN pg_replication_slots s ON s.slot_name = %L; "
        "SELECT coalesce(nullif(r.application_name, ''), 'walreceiver'), (r.replay_lsn - "
        "'0/0'::pg_lsn)::bigint "
        "FROM pg_stat_replication r WHERE r.state = 'streaming' AND r.replay_lsn IS NOT NULL AND NOT EXISTS "
        "(SELECT FROM pg_replication_slots l WHERE l.active_pid = r.pid AND l.slot_type = 'logical') "
        "ORDER BY r.replay_lsn LIMIT 1",
        name);
}

/* ---- disks ---- */

struct space_question {
    struct move_op *op;
    bool target;
};

static void space_known(const struct err *err, const struct runtime_space *space, void *data)
{
    struct space_question q = *(struct space_question *)data;
    free(data);
    if (q.target)
        q.op->watch->target_free = err == NULL ? space->data_free : WAL_GUARD_UNKNOWN;
    else
        q.op->watch->source_free = err == NULL ? space->wal_free : WAL_GUARD_UNKNOWN;
    if (!q.op->stopped)
        guard(q.op);
    op_job_ended(q.op);
}

/* Of a pod's volume, by what its cluster says of it. */
static void take_volume(struct move_op *op, const struct fleet_instance *instance, bool target)
{
    double size = instance_pod_get(instance->pod, POD_VOLUME_SIZE, op_now(op), NULL);
    double used = instance_pod_get(instance->pod, POD_VOLUME_USED, op_now(op), NULL);
    uint64_t left = size >= used ? (uint64_t)(size - used) : WAL_GUARD_UNKNOWN; /* NAN compares false */
    if (target)
        op->watch->target_free = left;
    else
        op->watch->source_free = left;
}

static void ask_space(struct move_op *op, const char *shard, bool target)
{
    const struct operation_services *s = op_services(op);
    const struct fleet_instance *instance = fleet_primary(s->fleet, op_record(op)->database, shard);
    struct err err = {0};
    if (s->runtime == NULL || instance == NULL)
        return;
    struct space_question *q = mem_alloc(sizeof *q);
    *q = (struct space_question){op, target};
    if (runtime_space(s->runtime, instance->name, space_known, q, &err) == 0)
        op_job_started(op);
    else {
        free(q);
        take_volume(op, instance, target);
    }
}

/* ---- what follows ---- */

/* Ends what would go on for long before it looks whether the move goes back. */
static void end_waits(struct move_op *op)
{
    if (op_record(op)->state != MOVE_COPY)
        return;
    if (op->copier != NULL)
        copier_cancel(op->copier);
    else if (op->tool != NULL)
        process_cancel(op->tool);
    else {
        build_drop(op);           /* an index takes hours, and waits for locks of others */
        link_drop(&op->exporter); /* the slot waits for transactions of others */
    }
}

static void guard(struct move_op *op)
{
    struct watch *w = op->watch;
    const struct move_record *r = op_record(op);
    const struct operation_services *s = op_services(op);
    const struct wal_guard_limits limits = {s->max_retained_wal, s->min_free_disk};
    uint64_t left = r->total_bytes > r->copy_bytes ? r->total_bytes - r->copy_bytes : 0;
    char name[MOVE_NAME_SIZE];
    struct err err = {0};
    move_record_name(r, name);
    const struct wal_guard_facts facts = {.source = r->source,
                                          .target = r->target,
                                          .slot = name,
                                          .wal_status = w->wal_status,
                                          .retained = r->retained_wal,
                                          .source_free = w->source_free,
                                          .target_free = w->target_free,
                                          .to_come = op->copier != NULL ? left : 0};
    if (wal_guard_judge(&limits, &facts, &err) == 0 || !move_give_up(&op->core, &err))
        return;
    w->saving = true;
    end_waits(op);
    log_event(LOG_ERROR, "the move goes back before a disk is full", "op", r->id, "db", r->database, "shard",
              r->source, "target", r->target, "err", err.message, NULL);
}

static void tell(struct move_op *op)
{
    struct watch *w = op->watch;
    struct move_record *r = op_record(op);
    bool was = r->throttle_rate > 0;
    r->throttle_rate = w->throttle.rate;
    throttle_text(&w->throttle, r->source, w->standby, r->throttle, sizeof r->throttle);
    if (r->throttle_rate > 0 && w->throttle.cut_ns != w->logged_cut_ns)
        log_event(LOG_WARN, "copy throttled", "op", r->id, "db", r->database, "shard", r->source, "why",
                  r->throttle, NULL);
    else if (was && r->throttle_rate == 0)
        log_event(LOG_INFO, "copy not throttled any more", "op", r->id, "db", r->database, "shard", r->source,
                  NULL);
    w->logged_cut_ns = w->throttle.cut_ns;
}

static uint64_t not_off(uint64_t bound_ns)
{
    return bound_ns == UINT64_MAX ? 0 : bound_ns;
}

static struct throttle_limits limits_of(const struct move_op *op)
{
    const struct operation_services *s = op_services(op);
    return (struct throttle_limits){.max_commit_ns = not_off(s->max_commit_latency_ns),
                                    .max_lag_ns = not_off(s->max_standby_lag_ns),
                                    .max_loss = s->max_throughput_loss,
                                    .most = s->copy_rate};
}

static void throttle(struct move_op *op, uint64_t last_second)
{
    struct watch *w = op->watch;
    const struct throttle_limits limits = limits_of(op);
    uint64_t now = op_now(op), waiting = w->asked_ns != 0 ? now - w->asked_ns : 0;
    struct throttle_sample sample = {.now_ns = now,
                                     .lag_ns = w->lag_ns,
                                     .bytes_per_second = last_second,
                                     .transactions = w->answered ? w->per_second : -1};
    if (w->answered)
        sample.commit_ns = w->commit_ns;
    else if (waiting > w->commit_ns)
        sample.commit_ns = waiting;
    w->answered = false;
    if (w->throttle.rate > 0)
        op_record(op)->throttled_us += WATCH_NS / 1000;
    copier_set_rate(op->copier, throttle_step(&w->throttle, &limits, &sample));
    tell(op);
}

static void mark_rate(struct watch *w, uint64_t now, uint64_t bytes)
{
    if (w->mark_count == RATE_MARKS)
        memmove(&w->marks[0], &w->marks[1], --w->mark_count * sizeof w->marks[0]);
    w->marks[w->mark_count].at_ns = now;
    w->marks[w->mark_count].lull = w->throttle.lull_ns != 0;
    w->marks[w->mark_count++].bytes = bytes;
}

static uint64_t per_second(const struct watch *w, unsigned from)
{
    unsigned to = w->mark_count - 1;
    uint64_t ns = w->marks[to].at_ns - w->marks[from].at_ns;
    uint64_t bytes = w->marks[to].bytes - w->marks[from].bytes;
    return ns >= RATE_LEAST_NS ? (uint64_t)((double)bytes * (double)ENV_NS_PER_S / (double)ns) : 0;
}

/* Bytes per second in lulls, or outside of them in the last RATE_SHOWN of such seconds; below 0: none is
 * known. */
static double rate_of(const struct watch *w, bool lull)
{
    uint64_t ns = 0, bytes = 0;
    unsigned counted = 0;
    for (unsigned i = w->mark_count; --i > 0 && counted < RATE_SHOWN;)
        if (w->marks[i].lull == lull) {
            ns += w->marks[i].at_ns - w->marks[i - 1].at_ns;
            bytes += w->marks[i].bytes - w->marks[i - 1].bytes;
            counted++;
        }
    return ns >= RATE_LEAST_NS ? (double)bytes * 1e9 / (double)ns : -1;
}

/* 0 = not known. */
static uint64_t end_of_copy(const struct watch *w, uint64_t now_ns, uint64_t left)
{
    double outside = rate_of(w, false), inside = rate_of(w, true);
    if (outside < 0)
        outside = inside; /* it began with a lull */
    if (inside < 0)
        inside = fmin(outside, (double)THROTTLE_FLOOR);
    double seconds = throttle_seconds_left(&w->throttle, now_ns, (double)left, outside, inside);
    return isfinite(seconds) ? now_ns + (uint64_t)(seconds * 1e9) : 0;
}

static void look_at_copy(struct move_op *op)
{
    struct watch *w = op->watch;
    struct move_record *r = op_record(op);
    struct copier_state state;
    if (op->copy_began_ns > w->marks[0].at_ns) { /* before that its sessions were made */
        w->mark_count = 0;
        mark_rate(w, op->copy_began_ns, op->copy_began_bytes);
    }
    copier_look(op->copier, &state);
    mark_rate(w, op_now(op), state.bytes);
    r->copy_rows = state.rows;
    r->copy_bytes = state.bytes;
    r->total_rows = state.total_rows;
    r->total_bytes = state.total_bytes;
    r->tables = state.tables;
    r->tables_copied = state.tables_done;
    unsigned shown = w->mark_count > RATE_SHOWN ? w->mark_count - 1 - RATE_SHOWN : 0;
    r->copy_rate = per_second(w, shown);
    uint64_t left = state.total_bytes > state.bytes ? state.total_bytes - state.bytes : 0;
    op->copy_ends_ns = end_of_copy(w, op_now(op), left);
    throttle(op, per_second(w, w->mark_count - 2));
}

uint64_t watch_copy_begins(struct move_op *op)
{
    struct watch *w = watch_of(op);
    const struct throttle_limits limits = limits_of(op);
    w->copied = true;
    w->mark_count = 0;
    throttle_again(&w->throttle);
    mark_rate(w, op_now(op), 0);
    uint64_t rate = throttle_begin(&w->throttle, &limits, op_now(op));
    tell(op);
    return rate;
}

void watch_copy_over(struct move_op *op)
{
    struct move_record *r = op_record(op);
    if (op->watch == NULL || op->watch->mark_count == 0)
        return;
    throttle_again(&op->watch->throttle);
    op->watch->mark_count = 0;
    r->copy_rate = op->copy_ends_ns = 0;
    tell(op);
}

/* ---- the slot by our own hand ---- */

static void freed(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    if (reply->err != NULL && reply->err->code != ERRC_CANCELED)
        log_event(LOG_WARN, "the source's WAL goes with its next checkpoint; now it refused one", "op",
                  op_record(op)->id, "err", reply->err->message, NULL);
}

static void slot_dropped(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    op->watch->dropping = false;
    if (reply->err != NULL)
        return; /* again in a second */
    op->watch->saved = true;
    act_sql_any(op, &op->watcher, action, CHECKPOINT_NS, freed, "CHECKPOINT");
}

static void drop_slot(struct move_op *op)
{
    char name[MOVE_NAME_SIZE];
    move_record_name(op_record(op), name);
    op->watch->dropping = true;
    act_sql_any(op, &op->watcher, ACT_DROP_FORWARD, SQL_TIMEOUT_NS, slot_dropped,
                "SELECT shardherd.check_term(%d); SELECT pg_terminate_backend(active_pid, 5000) FROM "
                "pg_replication_slots WHERE slot_name = %L AND active_pid IS NOT NULL; SELECT "
                "pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %L",
                op_term(op), name, name);
}

/* Once the journal says that the move goes back, and not twice at a time. */
static void save(struct move_op *op)
{
    const struct watch *w = op->watch;
    if (op->core.journaling || w->saved || w->dropping)
        return;
    if (w->asked_ns != 0 && op_now(op) - w->asked_ns > 2 * WATCH_NS)
        link_drop(&op->watcher); /* a commit that waits for a standby: nothing may wait behind it */
    drop_slot(op);
}

/* ---- each second ---- */

static void look(struct move_op *op)
{
    struct watch *w = op->watch;
    enum move_state state = op_record(op)->state;
    if (state == MOVE_FENCE)
        return; /* nobody else's commit may wait for ours */
    if (state == MOVE_UNDO) {
        save(op);
        return;
    }
    if (op->core.undo_wanted)
        end_waits(op);
    if (!w->running || op_record(op)->state != state)
        return; /* it went back with that */
    if (op->copier != NULL)
        look_at_copy(op);
    if (w->asked_ns == 0)
        ask(op);
    ask_space(op, op_record(op)->source, false);
    ask_space(op, op_record(op)->target, true);
    operation_changed(&op->op);
}

static void tick(struct loop_timer *timer, void *data)
{
    loop_timer_start(timer, WATCH_NS);
    look(data);
}

void watch_follow(struct move_op *op)
{
    enum move_state state = op_record(op)->state;
    bool saving = op->watch != NULL && op->watch->saving;
    bool wanted =
        op->source_known && ((state >= MOVE_TARGET && state <= MOVE_FENCE) || (state == MOVE_UNDO && saving));
    if (!wanted)
        watch_stop(op);
    if (wanted && state == MOVE_UNDO)
        save(op);
    if (!wanted || watch_of(op)->running)
        return;
    op->watch->running = true;
    op->watch_timer.fire = tick;
    loop_timer_start(&op->watch_timer, WATCH_NS);
    if (op->watch->asked_ns == 0 && state != MOVE_FENCE)
        ask(op);
}

void watch_stop(struct move_op *op)
{
    if (op->watch == NULL || !op->watch->running)
        return;
    op->watch->running = false;
    loop_timer_stop(&op->watch_timer);
    link_drop(&op->watcher);
}

void watch_free(struct move_op *op)
{
    free(op->watch);
    op->watch = NULL;
}
