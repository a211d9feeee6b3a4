/* DDL on all shards, one after the other. Happy path and states: migrate.h. */
#include "operation/migrate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/migrate_internal.h"
#include "operation/shard_sql.h"
#include "operation/sqlf.h"
#include "operation/transient.h"

#define SCRIPT_NS      (24 * 3600 * ENV_NS_PER_S) /* a script may build large indexes */
#define LOOK_NS        (10 * ENV_NS_PER_S)
#define PAUSE_NS       (200 * ENV_NS_PER_MS) /* before the second try; doubles to the longest */
#define PAUSE_LONGEST  (10 * ENV_NS_PER_S)
#define JOURNAL_AGAIN  (1 * ENV_NS_PER_S)
#define NAMES_TEXT_MAX 200

static const struct sm_state states[MIGRATE_STATE_COUNT] = {
    [MIGRATE_PLANNED] = {"planned", SM_NEXT(MIGRATE_APPLYING), false},
    [MIGRATE_APPLYING] = {"applying",
                          SM_NEXT(MIGRATE_APPLYING) | SM_NEXT(MIGRATE_STOPPED) | SM_NEXT(MIGRATE_DONE) |
                              SM_NEXT(MIGRATE_FAILED),
                          false},
    [MIGRATE_STOPPED] = {"stopped", SM_NEXT(MIGRATE_APPLYING) | SM_NEXT(MIGRATE_FAILED), false},
    [MIGRATE_DONE] = {"done", 0, true},
    [MIGRATE_FAILED] = {"failed", 0, true},
};

static const struct operation_kind migrate_kind;

bool migrate_is(const struct operation *op)
{
    return op->kind == &migrate_kind;
}

const char *migrate_state_name(const struct operation *op)
{
    return sm_name(&((const struct migrate *)op)->sm);
}

int migrate_state_find(const char *name)
{
    return sm_find(states, MIGRATE_STATE_COUNT, name);
}

static int applied(const struct migrate *m)
{
    int count = 0;
    for (int i = 0; i < m->shard_count; i++)
        count += m->shards[i].what == MIGRATED_YES;
    return count;
}

double migrate_progress(const struct operation *op)
{
    const struct migrate *m = (const struct migrate *)op;
    return m->shard_count > 0 ? (double)applied(m) / m->shard_count : 0;
}

static const struct operation_services *services(const struct migrate *m)
{
    return &m->op.owner->services;
}

static enum migrate_state now(const struct migrate *m)
{
    return (enum migrate_state)sm_now(&m->sm);
}

/* ---- life ---- */

static void maybe_report_stopped(struct migrate *m)
{
    if (m->stopped && !m->reported && m->open_links == 0 && m->op.owner->stopped != NULL) {
        m->reported = true;
        operation_stopped(&m->op);
    }
}

static void link_closed(void *data)
{
    maybe_report_stopped(data);
}

static void drop(struct migrate *m)
{
    if (m->linked)
        link_fini(&m->link);
    m->linked = false;
}

static void stop_migrate(struct operation *base)
{
    struct migrate *m = (struct migrate *)base;
    m->stopped = true;
    loop_timer_stop(&m->pause);
    drop(m);
    maybe_report_stopped(m);
}

static void free_migrate(struct operation *base)
{
    struct migrate *m = (struct migrate *)base;
    loop_timer_stop(&m->pause);
    drop(m);
    for (int i = 0; i < m->shard_count; i++) {
        free(m->shards[i].name);
        free(m->shards[i].error);
    }
    free(m->shards);
    free(m->script);
    free(m);
}

/* ---- states ---- */

static void enter(struct migrate *m, enum migrate_state state);

/* "s1, s2" of those in that state. */
static void add_names(const struct migrate *m, bool those_that_have_it, struct buf *out)
{
    int count = 0;
    for (int i = 0; i < m->shard_count; i++)
        if ((m->shards[i].what == MIGRATED_YES) == those_that_have_it && out->length < NAMES_TEXT_MAX)
            buf_printf(out, "%s%s", count++ > 0 ? ", " : "", m->shards[i].name);
    if (count == 0)
        buf_add_text(out, "none");
}

static void end(struct migrate *m)
{
    bool done = now(m) == MIGRATE_DONE;
    log_event(done ? LOG_INFO : LOG_ERROR, "migration ended", "op", m->op.id, "db", m->op.database, "state",
              sm_name(&m->sm), "err", m->op.error.code != ERRC_NONE ? m->op.error.message : NULL, NULL);
    m->stopped = true;
    drop(m);
    operation_end(&m->op, done ? OPERATION_DONE : OPERATION_FAILED);
    if (m->canceled != NULL) {
        operation_done_cb canceled = m->canceled;
        m->canceled = NULL;
        canceled(&m->op, m->journaling ? &m->op.error : NULL, m->canceled_data); /* it could not be written */
    }
}

static void ask_shard(struct migrate *m);
static void next_shard(struct migrate *m);

/* What a person said to it since it stands still. */
static void take_answer(struct migrate *m)
{
    enum migrate_answer answer = m->answer;
    m->answer = MIGRATE_NO_ANSWER;
    if (answer == MIGRATE_GIVE_UP) {
        err_wrap(&m->op.error, "given up");
        enter(m, MIGRATE_FAILED);
    } else if (answer == MIGRATE_GO_ON) {
        for (int i = 0; i < m->shard_count; i++)
            if (m->shards[i].what == MIGRATED_FAILED)
                m->shards[i].what = MIGRATED_NOT;
        m->at = 0;
        next_shard(m);
    }
}

static void run_state(struct migrate *m)
{
    switch (now(m)) {
    case MIGRATE_PLANNED:
        enter(m, MIGRATE_APPLYING);
        break;
    case MIGRATE_APPLYING:
        ask_shard(m);
        break;
    case MIGRATE_STOPPED:
        drop(m);
        take_answer(m);
        break;
    default:
        end(m);
        break;
    }
}

static void on_journaled(struct operation *op, const struct err *err, void *data)
{
    struct migrate *m = (struct migrate *)op;
    (void)data;
    if (m->stopped)
        return;
    if (err != NULL) {
        m->op.error = *err;
        if (err->code == ERRC_CONFLICT || !err_is_transient(err))
            end(m); /* another leader wrote it, and goes on */
        else
            loop_timer_start(&m->pause, JOURNAL_AGAIN);
        return;
    }
    m->journaling = false;
    char place[48];
    snprintf(place, sizeof place, "migrate:state:%s:%d", sm_name(&m->sm), applied(m));
    operation_maybe_kill(m->op.owner, place);
    run_state(m);
}

static void journal(struct migrate *m)
{
    struct err err = {0};
    m->journaling = true;
    if (operation_journal(&m->op, on_journaled, NULL, &err) != 0) {
        m->op.error = err;
        end(m);
    }
}

static void enter(struct migrate *m, enum migrate_state state)
{
    sm_move(&m->sm, (int)state);
    if (state == MIGRATE_DONE)
        err_clear(&m->op.error);
    if (m->sm.table[state].final)
        m->op.ended_us = loop_wall(services(m)->loop);
    operation_changed(&m->op);
    journal(m);
}

static void paused(struct loop_timer *timer, void *data)
{
    struct migrate *m = data;
    (void)timer;
    if (m->journaling)
        journal(m);
    else
        ask_shard(m);
}

/* ---- a shard ---- */

static void set_shard_error(struct migrated_shard *shard, const struct err *err)
{
    free(shard->error);
    shard->error = err != NULL ? mem_strdup(err->message) : NULL;
}

static void seek(struct migrate *m)
{
    while (m->at < m->shard_count && m->shards[m->at].what != MIGRATED_NOT)
        m->at++;
}

/* The next shard that has not got it, or the end. */
static void next_shard(struct migrate *m)
{
    bool wrong = false;
    drop(m); /* the script may have set things in its session */
    m->tries = 0;
    seek(m);
    for (int i = 0; i < m->shard_count; i++)
        wrong = wrong || m->shards[i].what == MIGRATED_FAILED;
    enter(m, m->at < m->shard_count ? MIGRATE_APPLYING : wrong ? MIGRATE_FAILED : MIGRATE_DONE);
}

/* What a person must mend. */
static void give_up(struct migrate *m, const struct err *err)
{
    struct migrated_shard *shard = &m->shards[m->at];
    struct buf have = {0}, lack = {0};
    set_shard_error(shard, err);
    shard->what = MIGRATED_FAILED;
    m->op.error = *err;
    err_wrap(&m->op.error, "shard %s", shard->name);
    if (m->dry_run) {
        next_shard(m);
        return;
    }
    add_names(m, true, &have);
    add_names(m, false, &lack);
    if (applied(m) == 0)
        enter(m, MIGRATE_FAILED);
    else {
        err_wrap(&m->op.error, "on %s already, not yet on %s", buf_text(&have), buf_text(&lack));
        enter(m, MIGRATE_STOPPED);
    }
    buf_free(&have);
    buf_free(&lack);
}

static void shard_failed(struct migrate *m, const struct err *err)
{
    struct migrated_shard *shard = &m->shards[m->at];
    uint64_t pause = PAUSE_NS << (m->tries < 6 ? m->tries : 6);
    if (!err_is_transient(err) || ++m->tries >= m->attempts) {
        give_up(m, err);
        return;
    }
    set_shard_error(shard, err);
    m->op.error = *err;
    err_wrap(&m->op.error, "shard %s, try %u of %u", shard->name, m->tries, m->attempts);
    drop(m);
    operation_changed(&m->op);
    loop_timer_start(&m->pause, pause < PAUSE_LONGEST ? pause : PAUSE_LONGEST);
}

static void on_applied(const struct pg_reply *reply, void *data)
{
    struct migrate *m = data;
    struct migrated_shard *shard = &m->shards[m->at];
    if (m->stopped)
        return;
    if (reply->err != NULL) {
        shard_failed(m, reply->err);
        return;
    }
    operation_maybe_kill(m->op.owner, "migrate:after:shard");
    set_shard_error(shard, NULL);
    shard->what = MIGRATED_YES;
    log_event(LOG_INFO, m->dry_run ? "migration tried" : "migration applied", "op", m->op.id, "db",
              m->op.database, "shard", shard->name, NULL);
    next_shard(m);
}

static void on_looked(const struct pg_reply *reply, void *data)
{
    struct migrate *m = data;
    struct buf sql = {0};
    if (m->stopped)
        return;
    if (reply->err != NULL) {
        shard_failed(m, reply->err);
        return;
    }
    const char *comment = pg_value(reply, 0, 0);
    buf_printf(&sql, "BEGIN; SET LOCAL lock_timeout = %u; ", m->lock_timeout_ms);
    if (comment == NULL || strcmp(comment, shard_sql_comment()) != 0)
        shard_sql_add_update(&sql);
    sqlf(&sql, "SELECT shardherd.migrate(%d, %L, %L); %s", services(m)->term, m->op.id, m->script,
         m->dry_run ? "ROLLBACK" : "COMMIT");
    link_exec_in(&m->link, link_session(&m->link), buf_text(&sql), SCRIPT_NS, on_applied, m);
    buf_free(&sql);
}

static void ask_shard(struct migrate *m)
{
    struct migrated_shard *shard = &m->shards[m->at];
    const struct fleet_instance *primary = fleet_primary(services(m)->fleet, m->op.database, shard->name);
    char application[64];
    struct err err = {0};
    if (primary == NULL) {
        err_set(&err, ERRC_UNAVAILABLE, "its primary is not known");
        shard_failed(m, &err);
        return;
    }
    drop(m);
    snprintf(application, sizeof application, "shardherd op=%s", m->op.id);
    link_init(&m->link, services(m)->loop, &primary->access, application, &m->open_links, link_closed, m);
    m->linked = true;
    link_exec(&m->link, "SELECT obj_description('shardherd'::regnamespace, 'pg_namespace')", LOOK_NS,
              on_looked, m);
}

/* ---- what a person asks for ---- */

/* It is shown as stopped a moment before that is written down; then the answer waits for that. */
static void answer(struct migrate *m, enum migrate_answer what)
{
    m->answer = what;
    if (!m->journaling)
        take_answer(m);
}

static int cancel_migrate(struct operation *base, operation_done_cb done, void *data, struct err *err)
{
    struct migrate *m = (struct migrate *)base;
    if (now(m) != MIGRATE_STOPPED || m->answer != MIGRATE_NO_ANSWER)
        return err_set(err, ERRC_CONFLICT,
                       "%s is running the script: it can be given up only while it is stopped", base->id);
    m->canceled = done;
    m->canceled_data = data;
    answer(m, MIGRATE_GIVE_UP);
    return 0;
}

int migrate_continue(struct operation *op, struct err *err)
{
    struct migrate *m = (struct migrate *)op;
    if (!migrate_is(op))
        return err_set(err, ERRC_CONFLICT, "%s is no migration: operations of its kind go on by themselves",
                       op->id);
    if (now(m) != MIGRATE_STOPPED || m->answer != MIGRATE_NO_ANSWER)
        return err_set(err, ERRC_CONFLICT, "%s is not stopped: it is %s", op->id, sm_name(&m->sm));
    answer(m, MIGRATE_GO_ON);
    return 0;
}

/* ---- starting ---- */

static void print_migrate(const struct operation *op, struct buf *json)
{
    migrate_print((const struct migrate *)op, json);
}

static const struct operation_kind migrate_kind = {.name = "migrate",
                                                   .print = print_migrate,
                                                   .cancel = cancel_migrate,
                                                   .stop = stop_migrate,
                                                   .free = free_migrate};

struct migrate *migrate_new(struct operations *ops, const char *database, const char *id)
{
    struct migrate *m = mem_zalloc(sizeof *m);
    sm_init(&m->sm, states, MIGRATE_STATE_COUNT, MIGRATE_PLANNED, NULL, NULL);
    operation_register(ops, &m->op, &migrate_kind, "migr", id);
    m->op.database = mem_strdup(database);
    loop_timer_init(ops->services.loop, &m->pause, paused, m);
    return m;
}

static int check_request(struct operations *ops, const struct migrate_request *q, struct err *err)
{
    const struct fleet_database *db = fleet_find_database(ops->services.fleet, q->database);
    const struct operation *busy = operations_running_on(ops, q->database, NULL);
    if (ops->services.term == 0)
        return err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    if (db == NULL || db->routing == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s is not known or not provisioned yet", q->database);
    if (q->script[strspn(q->script, " \t\r\n;")] == '\0')
        return err_set(err, ERRC_INVALID, "the script is empty");
    if (strlen(q->script) > MIGRATE_SCRIPT_MAX)
        return err_set(err, ERRC_INVALID, "the script is longer than %d bytes: make several of it",
                       MIGRATE_SCRIPT_MAX);
    if (busy != NULL)
        return err_set(err, ERRC_CONFLICT, "operation %s runs on database %s: wait for it or cancel it",
                       busy->id, q->database);
    return 0;
}

int migrate_start(struct operations *ops, const struct migrate_request *q, struct operation **ret,
                  struct err *err)
{
    if (check_request(ops, q, err) != 0)
        return (int)err->code;
    const struct routing *routing = fleet_find_database(ops->services.fleet, q->database)->routing;
    struct migrate *m = migrate_new(ops, q->database, NULL);
    m->script = mem_strdup(q->script);
    m->lock_timeout_ms = q->lock_timeout_ms > 0 ? q->lock_timeout_ms : MIGRATE_LOCK_TIMEOUT_MS;
    m->attempts = q->attempts > 0 ? q->attempts : MIGRATE_ATTEMPTS;
    m->dry_run = q->dry_run;
    m->shards = mem_array(routing->shard_count, sizeof *m->shards);
    m->shard_count = (int)routing->shard_count;
    for (int i = 0; i < m->shard_count; i++)
        m->shards[i] = (struct migrated_shard){mem_strdup(routing->shards[i].name), MIGRATED_NOT, NULL};
    log_event(LOG_INFO, "migration begins", "op", m->op.id, "db", m->op.database, NULL);
    journal(m);
    if (ret != NULL)
        *ret = &m->op;
    return 0;
}

int migrate_resume(struct operations *ops, const char *json, int64_t revision, struct err *err)
{
    struct migrate *m;
    int rc = migrate_parse(ops, json, &m, err);
    if (m == NULL)
        return rc;
    m->op.revision = revision;
    if (rc != 0 || m->sm.table[now(m)].final) {
        m->stopped = true;
        m->op.status = rc == 0 && now(m) == MIGRATE_DONE ? OPERATION_DONE : OPERATION_FAILED;
        return rc;
    }
    while (m->at < m->shard_count - 1 && m->shards[m->at].what != MIGRATED_NOT)
        m->at++;
    run_state(m);
    return 0;
}
