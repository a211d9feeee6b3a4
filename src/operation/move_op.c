/* A move as an operation: glue between the core (move.c), the live actions (move_act_*.c) and the manager. */
#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "loop/process.h"
#include "operation/move_op_internal.h"
#include "operation/sqlf.h"

static const struct operation_kind move_kind;

static struct move_op *of_driver(struct move_driver *driver)
{
    return list_item(driver, struct move_op, driver);
}

struct move_record *op_record(struct move_op *op)
{
    return &op->core.record;
}

const struct operation_services *op_services(const struct move_op *op)
{
    return &op->op.owner->services;
}

int64_t op_term(const struct move_op *op)
{
    return op_services(op)->term;
}

struct fleet_database *op_database(const struct move_op *op)
{
    return fleet_find_database(op_services(op)->fleet, op->core.record.database);
}

uint64_t op_now(const struct move_op *op)
{
    return loop_clock(op_services(op)->loop);
}

/* ---- ends ---- */

static void maybe_report_stopped(struct move_op *op)
{
    if (op->stopped && !op->reported && op->open_links == 0 && op->op.owner->stopped != NULL) {
        op->reported = true;
        operation_stopped(&op->op);
    }
}

static void link_closed(void *data)
{
    maybe_report_stopped(data);
}

static void link_closed_one(struct move_op *op)
{
    op->open_links--;
    maybe_report_stopped(op);
}

void op_drop_links(struct move_op *op)
{
    watch_stop(op);
    copy_drop(op);
    if (op->source_known) {
        link_drop(&op->source);
        link_drop(&op->source_marker);
        link_drop(&op->source_reader);
        link_drop(&op->exporter);
        link_drop(&op->keeper);
        link_drop(&op->watcher);
        hold_drop(op);
    }
    if (op->target_known) {
        link_drop(&op->target);
        link_drop(&op->target_poll);
        link_drop(&op->opener);
        build_drop(op);
    }
}

static void stop_move(struct operation *base)
{
    struct move_op *op = (struct move_op *)base;
    op->stopped = true;
    loop_timer_stop(&op->wait_timer);
    loop_timer_stop(&op->poll_timer);
    op_drop_links(op);
    if (op->tool != NULL)
        process_cancel(op->tool);
    maybe_report_stopped(op);
}

void op_call_started(struct move_op *op)
{
    op->open_links++;
}

void op_call_ended(struct move_op *op)
{
    link_closed_one(op);
}

void op_tool_started(struct move_op *op, struct process *tool)
{
    op->tool = tool;
    op->open_links++;
}

void op_tool_ended(struct move_op *op)
{
    op->tool = NULL;
    link_closed_one(op);
}

void op_job_started(struct move_op *op)
{
    op->open_links++;
}

void op_job_ended(struct move_op *op)
{
    link_closed_one(op);
}

void op_copier_started(struct move_op *op, struct copier *copier)
{
    op->copier = copier;
    op->copy_began_ns = op->copy_began_bytes = 0;
    op->open_links++;
}

void op_copier_released(struct move_op *op)
{
    link_closed_one(op);
}

static void free_move(struct operation *base)
{
    struct move_op *op = (struct move_op *)base;
    loop_timer_stop(&op->wait_timer);
    loop_timer_stop(&op->poll_timer);
    loop_timer_stop(&op->watch_timer);
    if (op->source_known) {
        link_fini(&op->source);
        link_fini(&op->source_marker);
        link_fini(&op->source_reader);
        link_fini(&op->exporter);
        link_fini(&op->keeper);
        link_fini(&op->watcher);
        hold_fini(op);
    }
    if (op->target_known) {
        link_fini(&op->target);
        link_fini(&op->target_poll);
        link_fini(&op->opener);
        build_free(op);
    }
    watch_free(op);
    verify_free(op);
    clean_free(op);
    sequences_free(op);
    free(op->pre_data);
    move_fini(&op->core);
    free(op);
}

/* ---- the driver ---- */

static void (*const actions[ACT_COUNT])(struct move_op *) = {
    [ACT_TAKE_TERM] = act_take_term,
    [ACT_INSPECT] = act_inspect,
    [ACT_CHECK] = act_check,
    [ACT_PROVISION] = act_provision,
    [ACT_SCHEMA] = act_schema,
    [ACT_FREEZE] = act_freeze,
    [ACT_EMPTY_TARGET] = act_empty_target,
    [ACT_PUBLISH] = act_publish,
    [ACT_SUBSCRIBE] = act_subscribe,
    [ACT_COPY] = act_copy,
    [ACT_BUILD] = act_build,
    [ACT_CATCH_UP] = act_catch_up,
    [ACT_VERIFY] = act_verify,
    [ACT_CLOSE_GATE] = act_close_gate,
    [ACT_RECHECK] = act_recheck,
    [ACT_REHEARSE] = act_rehearse,
    [ACT_LOCK] = act_lock,
    [ACT_FENCE] = act_fence,
    [ACT_MARKER] = act_marker,
    [ACT_ROUTE] = act_route,
    [ACT_SEQUENCES] = act_sequences,
    [ACT_PREPARE_OPEN] = act_prepare_open,
    [ACT_COMMIT] = act_commit,
    [ACT_ROLLBACK] = act_rollback,
    [ACT_UNROUTE] = act_unroute,
    [ACT_RESOLVE] = act_resolve,
    [ACT_OPEN] = act_open,
    [ACT_SETTLE] = act_settle,
    [ACT_ANNOUNCE] = act_announce,
    [ACT_DROP_FORWARD] = act_drop_forward,
    [ACT_CLEAN_SOURCE] = act_clean_source,
    [ACT_UNFREEZE] = act_unfreeze,
    [ACT_UNLIST] = act_unlist,
    [ACT_LINGER] = act_linger,
    [ACT_RETIRE] = act_retire,
    [ACT_BURN_GATE] = act_burn_gate,
    [ACT_REMOVE_TARGET] = act_remove_target,
    [ACT_REVERSE_SLOT] = act_reverse_slot,
    [ACT_REVERSE_FOLLOW] = act_reverse_follow,
    [ACT_REVERSE_CHECK] = act_reverse_check,
    [ACT_REVERSE_VERIFY] = act_reverse_verify,
    [ACT_REVERSE_DROP] = act_reverse_drop,
};

static void maybe_kill(struct move_op *op, const char *moment, const char *name)
{
    if (op_services(op)->kill_at == NULL)
        return;
    char place[64];
    snprintf(place, sizeof place, "%s:%s:%s", op->core.record.back ? "rollback" : "move", moment, name);
    operation_maybe_kill(op->op.owner, place);
}

/* An outcome that was known inside driver.act(): it is delivered at the end of the turn. */
struct early {
    struct loop_task task;
    struct move_op *op;
    enum move_action action;
    struct move_outcome outcome;
};

static void deliver_early(struct loop_task *task, void *data)
{
    struct early early = *(struct early *)data;
    (void)task;
    free(data);
    act_outcome(early.op, early.action, &early.outcome);
    link_closed_one(early.op);
}

void act_outcome(struct move_op *op, enum move_action action, const struct move_outcome *outcome)
{
    if (op->stopped)
        return;
    if (op->driving) {
        struct early *early = mem_zalloc(sizeof *early);
        *early = (struct early){
            .task = {.run = deliver_early, .data = early}, .op = op, .action = action, .outcome = *outcome};
        op->open_links++; /* so that nobody frees the operation before */
        loop_defer(op_services(op)->loop, &early->task);
        return;
    }
    if (outcome->err.code == ERRC_NONE)
        maybe_kill(op, "after", move_action_name(action));
    move_done(&op->core, action, outcome);
}

void act_done(struct move_op *op, enum move_action action, const struct err *err)
{
    struct move_outcome outcome = {0};
    if (err != NULL)
        outcome.err = *err;
    if (err_is_sql(&outcome.err, "SHR03"))
        outcome.err.code = ERRC_STALE;
    act_outcome(op, action, &outcome);
}

void act_fail(struct move_op *op, enum move_action action, enum err_code code, const char *fmt, ...)
{
    struct err err = {0};
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    err_set(&err, code, "%s", text);
    act_done(op, action, &err);
}

static void on_journaled(struct operation *base, const struct err *err, void *data)
{
    struct move_op *op = (struct move_op *)base;
    (void)data;
    if (op->stopped)
        return;
    if (err == NULL)
        maybe_kill(op, "state", move_state_name(op->core.record.state));
    act_done(op, ACT_JOURNAL, err);
}

static void journal(struct move_op *op)
{
    struct err err = {0};
    struct move_record *r = op_record(op);
    r->phase_started_us = loop_wall(op_services(op)->loop);
    if (r->state == MOVE_DONE || r->state == MOVE_UNDONE || r->state == MOVE_REFUSED)
        r->ended_us = r->phase_started_us;
    if (operation_journal(&op->op, on_journaled, NULL, &err) != 0)
        act_done(op, ACT_JOURNAL, &err); /* only our own mistakes get here: a document above the limit */
}

static void waited(struct loop_timer *timer, void *data)
{
    (void)timer;
    act_done(data, ACT_WAIT, NULL);
}

static void drive(struct move_driver *driver, enum move_action action)
{
    struct move_op *op = of_driver(driver);
    maybe_kill(op, "before", move_action_name(action));
    op->driving = true;
    watch_follow(op);
    if (action == ACT_JOURNAL)
        journal(op);
    else if (action == ACT_WAIT)
        loop_timer_start(&op->wait_timer, op->core.wait_ns);
    else
        actions[action](op);
    op->driving = false;
}

static uint64_t driver_now(struct move_driver *driver)
{
    return op_now(of_driver(driver));
}

static void log_change(const struct move_op *op)
{
    const struct move_record *r = &op->core.record;
    bool held = r->state == MOVE_HELD;
    bool failing = held || (op->core.attempts > 0 && r->error.code != ERRC_NONE);
    const char *what = held      ? "move is held until somebody says how it goes on"
                       : failing ? "step failed, trying again"
                                 : "move goes on";
    log_event(held      ? LOG_ERROR
              : failing ? LOG_WARN
                        : LOG_INFO,
              what, "op", r->id, "db", r->database, "shard", r->source, "target", r->target, "state",
              move_state_name(r->state), "err", failing ? r->error.message : NULL, NULL);
}

static void driver_changed(struct move_driver *driver)
{
    struct move_op *op = of_driver(driver);
    op->op.error = op->core.record.error;
    log_change(op);
    operation_changed(&op->op);
}

static void driver_ended(struct move_driver *driver)
{
    struct move_op *op = of_driver(driver);
    const struct move_record *r = op_record(op);
    op_drop_links(op);
    op->stopped = true;
    op->op.error = r->error;
    log_event(r->state == MOVE_DONE ? LOG_INFO : LOG_WARN, "move ended", "op", r->id, "db", r->database,
              "shard", r->source, "target", r->target, "state", move_state_name(r->state), "write_block_us",
              log_num((long long)r->write_block_us), "rows", log_num((long long)r->copy_rows), "err",
              r->error.code != ERRC_NONE ? r->error.message : NULL, NULL);
    operation_end(&op->op, r->state == MOVE_DONE ? OPERATION_DONE : OPERATION_UNDONE);
}

static void leave(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    log_event(LOG_ERROR, "move is left to another leader or to a person", "op", r->id, "db", r->database,
              "err", r->error.message, NULL);
    op->op.error = r->error;
    op->stopped = true;
    op_drop_links(op);
    operation_end(&op->op, OPERATION_FAILED);
}

static void journal_read(const struct err *err, const struct store_entry *entry, void *data)
{
    struct move_op *op = data;
    struct move_record record;
    struct err why = {0};
    link_closed_one(op);
    if (op->stopped)
        return;
    if (err != NULL || move_record_parse(entry->value, strlen(entry->value), &record, &why) != 0) {
        leave(op);
        return;
    }
    move_fini(&op->core);
    move_init(&op->core, &op->driver, &record);
    op->op.revision = entry->revision;
    move_start(&op->core, true);
}

/* Who led before us wrote the journal once more after we had read it: what it says now is resumed. */
static bool resume_again(struct move_op *op)
{
    char key[32];
    if (!op->core.resumed || op_record(op)->error.code != ERRC_CONFLICT)
        return false;
    snprintf(key, sizeof key, "op/%s", op->op.id);
    op->open_links++;
    if (store_get(op_services(op)->store, key, journal_read, op, NULL) == 0)
        return true;
    link_closed_one(op);
    return false;
}

static void driver_deposed(struct move_driver *driver)
{
    struct move_op *op = of_driver(driver);
    if (!resume_again(op))
        leave(op);
}

/* What is kept of one server and of one direction is not the other's. */
static void driver_turned(struct move_driver *driver)
{
    struct move_op *op = of_driver(driver);
    struct instance_access source = {0}, target = {0};
    struct link *const to_target[] = {&op->source, &op->source_marker, &op->source_reader, &op->exporter,
                                      &op->keeper};
    struct link *const to_source[] = {&op->target, &op->target_poll, &op->opener};
    log_event(LOG_INFO, op->core.record.back ? "move is taken back" : "move is not taken back", "op",
              op->core.record.id, "db", op->core.record.database, "shard", op->core.record.source, "target",
              op->core.record.target, "err", op->core.cause.code != ERRC_NONE ? op->core.cause.message : NULL,
              NULL);
    instance_access_copy(&source, &op->source.access);
    instance_access_copy(&target, &op->target.access);
    for (size_t i = 0; i < sizeof to_target / sizeof *to_target; i++)
        link_retarget(to_target[i], &target);
    for (int i = 0; i < HOLDERS_MOST; i++)
        link_retarget(&op->holders[i], &target);
    for (size_t i = 0; i < sizeof to_source / sizeof *to_source; i++)
        link_retarget(to_source[i], &source);
    instance_access_clear(&source);
    instance_access_clear(&target);
    sequences_free(op);
    op->fence_session = op->opener_session = op->quiet_session = op->subscription = 0;
    op->marker_number = op->marker_seen = 0;
}

static void driver_hurry(struct move_driver *driver)
{
    struct move_op *op = of_driver(driver);
    if (loop_timer_armed(&op->wait_timer))
        loop_timer_start(&op->wait_timer, 0);
    verify_hurry(op);
}

/* ---- SQL of the actions ---- */

struct act {
    struct move_op *op;
    enum move_action action;
    act_reply_cb handler;
    bool any;
};

static void handle_reply(const struct act *given, const struct pg_reply *reply)
{
    struct act act = *given;
    if (act.op->stopped)
        return;
    if (reply->err != NULL && !act.any) {
        struct err err = *reply->err;
        if (!err_is_sql(&err, "SHR03"))
            err_wrap(&err, "%s", move_action_name(act.action));
        act_done(act.op, act.action, &err);
    } else if (act.handler == NULL)
        act_done(act.op, act.action, NULL);
    else
        act.handler(act.op, act.action, reply);
}

static void on_reply(const struct pg_reply *reply, void *data)
{
    struct act act = *(struct act *)data;
    free(data);
    handle_reply(&act, reply);
    link_closed_one(act.op);
}

static void send_sql(struct link *link, const uint64_t *session, const struct act *act, uint64_t timeout_ns,
                     const char *fmt, va_list args)
{
    struct buf sql = {0};
    struct act *copy = mem_alloc(sizeof *copy);
    *copy = *act;
    act->op->open_links++; /* until the reply came */
    sqlvf(&sql, fmt, args);
    if (session != NULL)
        link_exec_in(link, *session, buf_text(&sql), timeout_ns, on_reply, copy);
    else
        link_exec(link, buf_text(&sql), timeout_ns, on_reply, copy);
    mem_wipe_free(buf_take(&sql));
}

void act_sql_in(struct move_op *op, struct link *link, uint64_t session, enum move_action action,
                uint64_t timeout_ns, act_reply_cb handler, const char *fmt, ...)
{
    struct act act = {op, action, handler, false};
    va_list args;
    va_start(args, fmt);
    send_sql(link, &session, &act, timeout_ns, fmt, args);
    va_end(args);
}

void act_sql(struct move_op *op, struct link *link, enum move_action action, uint64_t timeout_ns,
             act_reply_cb handler, const char *fmt, ...)
{
    struct act act = {op, action, handler, false};
    va_list args;
    va_start(args, fmt);
    send_sql(link, NULL, &act, timeout_ns, fmt, args);
    va_end(args);
}

void act_sql_any(struct move_op *op, struct link *link, enum move_action action, uint64_t timeout_ns,
                 act_reply_cb handler, const char *fmt, ...)
{
    struct act act = {op, action, handler, true};
    va_list args;
    va_start(args, fmt);
    send_sql(link, NULL, &act, timeout_ns, fmt, args);
    va_end(args);
}

/* ---- life ---- */

void op_set_link(struct move_op *op, struct link *link, const struct instance_access *access)
{
    char application[64];
    snprintf(application, sizeof application, "shardherd op=%s", op->core.record.id);
    link_init(link, op_services(op)->loop, access, application, &op->open_links, link_closed, op);
}

void op_set_target(struct move_op *op, const struct instance_access *access)
{
    if (op->target_known)
        return;
    op_set_link(op, &op->target, access);
    op_set_link(op, &op->target_poll, access);
    op_set_link(op, &op->opener, access);
    op->target_known = true;
}

static void set_source(struct move_op *op, const struct instance_access *access)
{
    op_set_link(op, &op->source, access);
    op_set_link(op, &op->source_marker, access);
    op_set_link(op, &op->source_reader, access);
    op_set_link(op, &op->exporter, access);
    op->exporter.replication = true;
    op_set_link(op, &op->keeper, access);
    op_set_link(op, &op->watcher, access);
    for (int i = 0; i < HOLDERS_MOST; i++)
        op_set_link(op, &op->holders[i], access);
    op->source_known = true;
}

void op_find_servers(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    const struct fleet *fleet = op_services(op)->fleet;
    const struct fleet_instance *source = fleet_primary(fleet, r->database, r->source);
    const struct fleet_instance *target = fleet_primary(fleet, r->database, r->target);
    if (!op->source_known && source != NULL)
        set_source(op, &source->access);
    if (!op->target_known && target != NULL)
        op_set_target(op, &target->access);
}

bool op_target_optional(const struct move_op *op)
{
    const struct move_record *r = &op->core.record;
    return move_record_made_target(r) &&
           (r->state <= MOVE_TARGET || r->state == MOVE_UNDO || (r->canceled && r->state < MOVE_FENCE));
}

bool op_source_gone(const struct move_op *op)
{
    const struct move_record *r = &op->core.record;
    const struct fleet_database *db = op_database(op);
    return r->state >= MOVE_CLEAN && r->state <= MOVE_RETIRE && move_record_retires(r) && db != NULL &&
           db->routing != NULL && routing_find_shard(db->routing, r->source) == NULL;
}

static void print_move(const struct operation *base, struct buf *json)
{
    move_record_print(&((const struct move_op *)base)->core.record, json);
}

static int cancel_move(struct operation *base, operation_done_cb done, void *data, struct err *err)
{
    struct move_op *op = (struct move_op *)base;
    int rc = move_cancel(&op->core, err);
    if (rc == 0)
        rc = operation_journal(base, done, data, err);
    operation_changed(base);
    return rc;
}

static int rollback_move(struct operation *base, bool accept, operation_done_cb done, void *data,
                         struct err *err)
{
    struct move_op *op = (struct move_op *)base;
    int rc = move_rollback(&op->core, accept, err);
    if (rc == 0)
        rc = operation_journal(base, done, data, err);
    operation_changed(base);
    return rc;
}

static int go_on_move(struct operation *base, bool accept, operation_done_cb done, void *data,
                      struct err *err)
{
    struct move_op *op = (struct move_op *)base;
    int rc = move_go_on(&op->core, accept, err);
    if (rc == 0)
        rc = operation_journal(base, done, data, err);
    operation_changed(base);
    return rc;
}

static const struct operation_kind move_kind = {.name = "move",
                                                .print = print_move,
                                                .cancel = cancel_move,
                                                .rollback = rollback_move,
                                                .go_on = go_on_move,
                                                .stop = stop_move,
                                                .free = free_move};

bool move_op_is(const struct operation *op)
{
    return op->kind == &move_kind;
}

bool move_op_targets(const struct operation *op, const char *shard)
{
    return move_op_is(op) && strcmp(move_record_to(&((const struct move_op *)op)->core.record), shard) == 0;
}

const struct move_record *move_op_record(const struct operation *op)
{
    return &((const struct move_op *)op)->core.record;
}

double move_op_progress(const struct operation *base, double *ret_eta_seconds)
{
    const struct move_op *op = (const struct move_op *)base;
    const struct move_record *r = &op->core.record;
    static const double reached[MOVE_STATE_COUNT] = {0.0,  0.0,  0.02, 0.05, 0.85, 0.87, 0.92, 0.94, 0.95,
                                                     0.96, 0.97, 0.97, 0.99, 1.0,  0.0,  1.0,  1.0};
    double done = reached[r->state];
    *ret_eta_seconds = NAN;
    if (r->state == MOVE_COPY && r->total_bytes > 0 && r->copy_bytes > 0) {
        done += fmin(1.0, (double)r->copy_bytes / (double)r->total_bytes) * 0.8;
        uint64_t now = op_now(op);
        if (op->copy_ends_ns != 0)
            *ret_eta_seconds = op->copy_ends_ns > now ? (double)(op->copy_ends_ns - now) / 1e9 : 0;
    }
    if (r->state == MOVE_VERIFY && r->verified.all_bytes > 0)
        done += 0.05 * fmin(1.0, (double)r->verified.bytes / (double)r->verified.all_bytes);
    return done;
}

struct move_op *op_new(struct operations *ops, const struct move_record *record, const char *id)
{
    struct move_op *op = mem_zalloc(sizeof *op);
    op->driver = (struct move_driver){drive,          driver_now,    driver_changed, driver_ended,
                                      driver_deposed, driver_turned, driver_hurry};
    operation_register(ops, &op->op, &move_kind, move_kind_name(record->kind), id);
    move_init(&op->core, &op->driver, record);
    snprintf(op->core.record.id, sizeof op->core.record.id, "%s", op->op.id);
    op->op.database = mem_strdup(record->database);
    op->op.shard = mem_strdup(move_record_from(record));
    loop_timer_init(ops->services.loop, &op->wait_timer, waited, op);
    loop_timer_init(ops->services.loop, &op->poll_timer, NULL, op);
    loop_timer_init(ops->services.loop, &op->watch_timer, NULL, op);
    return op;
}

/* ---- resuming ---- */

int move_op_resume(struct operations *ops, const char *json, int64_t revision, struct err *err)
{
    struct move_record record;
    if (move_record_parse(json, strlen(json), &record, err) != 0)
        return (int)err->code;
    struct move_op *op = op_new(ops, &record, record.id);
    op->op.revision = revision;
    op->op.created_us = record.created_us;
    op->op.error = record.error;
    if (record.state == MOVE_DONE || record.state == MOVE_UNDONE || record.state == MOVE_REFUSED) {
        op->stopped = true;
        op->op.status = record.state == MOVE_DONE ? OPERATION_DONE : OPERATION_UNDONE;
        op->op.ended_us = record.ended_us;
        return 0;
    }
    log_event(LOG_INFO, "move is resumed", "op", op->op.id, "db", record.database, "state",
              move_state_name(record.state), NULL);
    move_start(&op->core, true);
    return 0;
}
