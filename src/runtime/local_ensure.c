#include "runtime/local_ensure.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/mem.h"

#define ORPHAN_POLL_NS (100 * ENV_NS_PER_MS)
#define ORPHAN_TRIES   100
#define PORT_TRIES     10
#define UNDO_GRACE_NS  (10 * ENV_NS_PER_S)

/*
 *  QUEUED --> LOOK --+--whole and running--------------------------> VERIFIER --> LOGIN --> COMMIT --> DONE
 *                    +--whole, stopped--> PROBE --> CONFIGURE ----------^
 *                    +--absent----------> PROBE --> PREPARE --> INITDB --> CONFIGURE --^
 *                    +--half-made--> [HALT -->] WIPE --> PROBE
 *
 *  A member has no INITDB; instead: PREPARE --> CONFIGURE --> AGENT --> [the primary: VERIFIER --> LOGIN -->]
 *  COMMIT, and whole with its agent running: LOOK --> AGENT.
 *
 *  CONFIGURE --port taken, instance new--> REPICK --> CONFIGURE
 *  any failure --> [AUTOPSY -->] (made by this operation? [UNDO_HALT -->] UNDO_WIPE -->) DONE
 *
 * QUEUED waits for earlier operations on the instance.
 * LOOK, WIPE, PREPARE, CONFIGURE, REPICK, VERIFIER, COMMIT, AUTOPSY, UNDO_WIPE wait for a worker. WIPE,
 *   UNDO_WIPE and CONFIGURE also wait for the timer and run again while processes work in the directory.
 * PROBE waits for "postgres --version", INITDB for initdb.
 * HALT waits for the postmaster of a half-made instance to end.
 * LOGIN waits for local_login: the server lets us in, role and database are there; the early exit of the
 *   server ends it. One that ran before and dies now is started: back to PROBE.
 * AGENT waits likewise for local_contact: the agent shows the status of this member.
 * UNDO_HALT waits for the exit of the server that we started, or for the timer, which kills it.
 */
enum {
    QUEUED,
    LOOK,
    HALT,
    WIPE,
    PROBE,
    PREPARE,
    INITDB,
    CONFIGURE,
    REPICK,
    VERIFIER,
    LOGIN,
    AGENT,
    COMMIT,
    AUTOPSY,
    UNDO_HALT,
    UNDO_WIPE,
    DONE,
    STATES
};

/* Every state may fail: into the undoing, or straight to the end when there is nothing to undo. */
#define FAILS (SM_NEXT(UNDO_HALT) | SM_NEXT(UNDO_WIPE) | SM_NEXT(DONE))

static const struct sm_state states[STATES] = {
    [QUEUED] = {"queued", SM_NEXT(LOOK) | SM_NEXT(DONE), false},
    [LOOK] = {"look",
              SM_NEXT(HALT) | SM_NEXT(WIPE) | SM_NEXT(PROBE) | SM_NEXT(VERIFIER) | SM_NEXT(LOGIN) |
                  SM_NEXT(AGENT) | FAILS,
              false},
    [HALT] = {"halt", SM_NEXT(WIPE) | FAILS, false},
    [WIPE] = {"wipe", SM_NEXT(WIPE) | SM_NEXT(PROBE) | FAILS, false},
    [PROBE] = {"probe", SM_NEXT(PROBE) | SM_NEXT(PREPARE) | SM_NEXT(CONFIGURE) | FAILS, false},
    [PREPARE] = {"prepare", SM_NEXT(INITDB) | SM_NEXT(CONFIGURE) | FAILS, false},
    [INITDB] = {"initdb", SM_NEXT(INITDB) | SM_NEXT(CONFIGURE) | FAILS, false},
    [CONFIGURE] = {"configure",
                   SM_NEXT(CONFIGURE) | SM_NEXT(REPICK) | SM_NEXT(VERIFIER) | SM_NEXT(LOGIN) |
                       SM_NEXT(AGENT) | FAILS,
                   false},
    [REPICK] = {"repick", SM_NEXT(CONFIGURE) | FAILS, false},
    [VERIFIER] = {"verifier", SM_NEXT(LOGIN) | FAILS, false},
    [LOGIN] = {"login", SM_NEXT(COMMIT) | SM_NEXT(AUTOPSY) | SM_NEXT(PROBE) | FAILS, false},
    [AGENT] = {"agent",
               SM_NEXT(VERIFIER) | SM_NEXT(LOGIN) | SM_NEXT(COMMIT) | SM_NEXT(AUTOPSY) | SM_NEXT(PROBE) |
                   FAILS,
               false},
    [COMMIT] = {"commit", FAILS, false},
    [AUTOPSY] = {"autopsy", SM_NEXT(REPICK) | FAILS, false},
    [UNDO_HALT] = {"undo-halt", SM_NEXT(UNDO_WIPE), false},
    [UNDO_WIPE] = {"undo-wipe", SM_NEXT(UNDO_WIPE) | SM_NEXT(DONE), false},
    [DONE] = {"done", 0, true},
};

/* ---- the end ---- */

static void ensure_free(struct ensure *e)
{
    local_record_clear(&e->record);
    mem_wipe_free(e->owner_password);
    mem_wipe_free(e->login.verifier);
    mem_wipe_free(e->password);
    explicit_bzero(e->new_password, sizeof e->new_password);
    explicit_bzero(e->new_token, sizeof e->new_token);
    for (char **line = e->settings; line != NULL && *line != NULL; line++)
        free(*line);
    free((void *)e->settings);
    free(e->database);
    free(e->shard);
    free(e->owner);
    free(e->path);
    free(e->data_path);
    free(e);
}

/* The server lives on without us; with the runtime closing it is not even watched any more. */
static void server_let_go(struct ensure *e)
{
    if (e->server == NULL)
        return;
    *(e->record.member ? &e->record.agent_pid : &e->record.pid) = (int)process_pid(e->server->process);
    e->server->exited = NULL;
    if (e->op.local->closing)
        process_release(e->server->process);
    e->server = NULL;
}

static void finish(struct ensure *e)
{
    sm_move(&e->sm, DONE);
    loop_timer_stop(&e->timer);
    server_let_go(e);
    if (e->err.code != ERRC_NONE) {
        err_wrap(&e->err, "instance %s", e->op.name);
        e->cb(&e->err, NULL, e->data);
    } else {
        struct runtime_instance view;
        local_instance_view(&e->record, e->data_path, &view);
        e->cb(NULL, &view, e->data);
    }
    sm_fini(&e->sm);
    local_op_end(&e->op);
    ensure_free(e);
}

static void enter_undo_wipe(struct ensure *e);

static void enter_undo_halt(struct ensure *e)
{
    sm_move(&e->sm, UNDO_HALT);
    (void)process_signal(e->server->process, e->record.member ? SIGTERM : SIGQUIT);
    loop_timer_start(&e->timer, UNDO_GRACE_NS);
}

/* One exit for every failure. The first error is the one that is told. */
static void fail(struct ensure *e, const struct err *err)
{
    err_copy(&e->err, err);
    loop_timer_stop(&e->timer);
    if (e->exists || !e->record.creating)
        finish(e);
    else if (e->server != NULL)
        enter_undo_halt(e);
    else
        enter_undo_wipe(e);
}

static void fail_canceled(struct ensure *e)
{
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "the runtime was closed");
    fail(e, &err);
}

/* True if the worker job that ended did well and the operation goes on. */
static bool job_ended_well(struct ensure *e, int code)
{
    if (code != 0 || e->op.canceled)
        fail_canceled(e);
    else if (e->job_err.code != ERRC_NONE)
        fail(e, &e->job_err);
    else
        return true;
    return false;
}

static void enter_job(struct ensure *e, int state, void (*run)(struct work *),
                      void (*done)(struct work *, int))
{
    sm_move(&e->sm, state);
    err_clear(&e->job_err);
    if (work_start(e->op.local->loop, &e->work, run, done, e) == 0)
        return;
    err_set(&e->err, ERRC_INTERNAL, "no worker");
    if (state == UNDO_WIPE)
        finish(e);
    else
        fail(e, &e->err);
}

static void enter_probe(struct ensure *e);

/* ---- COMMIT, LOGIN, AUTOPSY, VERIFIER ---- */

static void commit_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (code == 0 && e->job_err.code == ERRC_NONE)
        finish(e); /* also when canceled meanwhile: the instance is whole */
    else
        (void)job_ended_well(e, code);
}

static void enter_repick(struct ensure *e);

static void autopsy_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    bool port_lost = strstr(e->reason, "could not create any TCP/IP sockets") != NULL ||
                     (e->record.member && strstr(e->reason, "cannot listen on") != NULL);
    if (code == 0 && !e->op.canceled && port_lost && !e->exists && e->ports_tried < PORT_TRIES) {
        enter_repick(e);
        return;
    }
    struct err err = {0};
    err_set(&err, ERRC_IO, "%s ended while it started: %s (%s/log)",
            e->record.member ? "the agent" : "PostgreSQL",
            e->reason[0] != '\0' ? e->reason : "it logged nothing", e->path);
    if (port_lost) {
        err.code = ERRC_CONFLICT;
        err_wrap(&err, "port %d on %s is taken", e->record.member ? e->record.agent_port : e->record.port,
                 e->record.member ? LOCAL_AGENT_ADDRESS : e->record.host);
    }
    if (e->op.canceled)
        fail_canceled(e);
    else
        fail(e, &err);
}

static void on_server_exit(const struct process_result *result, void *data)
{
    struct ensure *e = data;
    const char *what = e->record.member ? "the agent" : "PostgreSQL";
    struct err err = {0};
    e->server = NULL;
    if (sm_now(&e->sm) == UNDO_HALT) {
        enter_undo_wipe(e);
        return;
    }
    if (result->term_signal != 0)
        err_set(&err, ERRC_CLOSED, "%s was ended by signal %d", what, result->term_signal);
    else
        err_set(&err, ERRC_CLOSED, "%s ended with exit code %d", what, result->exit_code);
    if (sm_now(&e->sm) == LOGIN)
        local_login_cancel(&e->login, &err);
    else if (sm_now(&e->sm) == AGENT)
        local_contact_cancel(&e->contact, &err);
}

static void enter_verifier(struct ensure *e);

/* The end of LOGIN and of AGENT. */
static void reached(struct ensure *e, const struct err *err)
{
    int *pid = e->record.member ? &e->record.agent_pid : &e->record.pid;
    bool watched = !e->record.member || sm_now(&e->sm) == AGENT;
    bool died = watched && err != NULL && e->server == NULL && err->code == ERRC_CLOSED && !e->op.canceled;
    if (died && *pid != 0) {
        *pid = 0; /* it ran when we looked, and does not any more: start it */
        enter_probe(e);
    } else if (died)
        enter_job(e, AUTOPSY, ensure_autopsy, autopsy_done);
    else if (err != NULL)
        fail(e, err);
    else
        enter_job(e, COMMIT, ensure_commit, commit_done);
}

static void on_contact(struct local_contact *contact, const struct err *err, void *data)
{
    (void)contact;
    struct ensure *e = data;
    if (err == NULL && e->primary)
        enter_verifier(e);
    else
        reached(e, err);
}

static void on_login(struct local_login *login, const struct err *err, void *data)
{
    (void)login;
    reached(data, err);
}

/* Server or agent, unless it runs. False: it failed, which is told. */
static bool started(struct ensure *e)
{
    struct local *local = e->op.local;
    struct err err = {0};
    int rc = 0;
    if ((e->record.member ? e->record.agent_pid : e->record.pid) != 0)
        return true;
    if (e->record.member)
        rc = local_agent_start(local, e->binary, &e->user, &e->record, &e->server, &err);
    else
        rc = local_server_start(local, e->binary, &e->user, e->path, &e->server, &err);
    if (rc != 0) {
        fail(e, &err);
        return false;
    }
    e->server->exited = on_server_exit;
    e->server->data = e;
    return true;
}

static void enter_agent(struct ensure *e)
{
    if (!started(e))
        return;
    sm_move(&e->sm, AGENT);
    e->contact.data_path = e->data_path;
    local_contact_start(&e->contact, e->op.local, &e->record, on_contact, e);
}

static void enter_login(struct ensure *e)
{
    if (!e->record.member && !started(e)) /* the server of a member is its agent's */
        return;
    sm_move(&e->sm, LOGIN);
    e->login.data_path = e->data_path;
    local_login_start(&e->login, e->op.local, &e->record, on_login, e);
}

static void verifier_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (job_ended_well(e, code))
        enter_login(e);
}

/* The password is set when it is not the one that we know to be set. */
static void enter_verifier(struct ensure *e)
{
    const char *known = e->exists ? e->record.owner_password : NULL;
    bool changed = e->owner_password != NULL && (known == NULL || strcmp(known, e->owner_password) != 0);
    e->login.set_password = changed;
    if (changed && e->login.verifier == NULL)
        enter_job(e, VERIFIER, ensure_verifier, verifier_done);
    else
        enter_login(e);
}

/* ---- CONFIGURE, REPICK ---- */

static void enter_configure(struct ensure *e);

static void repick_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (job_ended_well(e, code))
        enter_configure(e);
}

static void enter_repick(struct ensure *e)
{
    e->ports_tried++;
    enter_job(e, REPICK, ensure_repick, repick_done);
}

static void port_refused(struct ensure *e)
{
    struct err err = {0};
    err_set(&err, ERRC_CONFLICT,
            "its port %d on %s is taken by %s: end that, or remove the instance and create it anew",
            e->taken_port, e->record.host, e->reason);
    fail(e, &err);
}

static void configure_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (!job_ended_well(e, code))
        return;
    if (e->orphans > 0 && ++e->tries < ORPHAN_TRIES) {
        loop_timer_start(&e->timer, ORPHAN_POLL_NS); /* a killed postmaster's children end by themselves */
    } else if (e->orphans > 0) {
        struct err err = {0};
        err_set(&err, ERRC_CONFLICT, "%d processes of an earlier server still work in %s", e->orphans,
                e->data_path);
        fail(e, &err);
    } else if (!e->port_taken && e->record.member) {
        enter_agent(e);
    } else if (!e->port_taken) {
        enter_verifier(e);
    } else if (e->exists || e->ports_tried >= PORT_TRIES) {
        port_refused(e);
    } else {
        enter_repick(e);
    }
}

static void enter_configure(struct ensure *e)
{
    enter_job(e, CONFIGURE, ensure_configure, configure_done);
}

/* ---- INITDB ---- */

/* The line of initdb's messages that says what went wrong; the last one only tells of its cleaning up. */
static void initdb_reason(const char *text, char *ret, size_t size)
{
    static const char *const marks[] = {"FATAL:", "PANIC:", "error:"};
    const char *at = NULL;
    for (size_t i = 0; at == NULL && i < sizeof marks / sizeof marks[0]; i++)
        at = strstr(text, marks[i]);
    snprintf(ret, size, "%.*s", (int)strcspn(at != NULL ? at : text, "\n"), at != NULL ? at : text);
}

static void enter_initdb(struct ensure *e);

static void initdb_failed(struct ensure *e, const struct process_result *result)
{
    struct err err = {0};
    if (result->err.code != ERRC_NONE) {
        err_copy(&err, &result->err);
    } else if (strstr(result->errors, "No space left on device") != NULL) {
        err_set(&err, ERRC_LIMIT,
                "no space left on the disk of %s: free some space or choose another directory",
                e->op.local->directory);
    } else {
        char reason[256];
        initdb_reason(result->errors, reason, sizeof reason);
        err_set(&err, ERRC_IO, "initdb exited with %d: %s", result->exit_code, reason);
    }
    fail(e, &err);
}

static void on_initdb(const struct process_result *result, void *data)
{
    struct ensure *e = data;
    e->process = NULL;
    if (e->op.canceled)
        fail_canceled(e);
    else if (result->err.code == ERRC_NONE && result->exit_code == 0)
        enter_configure(e);
    else if (!e->plain_locale && strstr(result->errors, "locale") != NULL) {
        e->plain_locale = true;
        enter_initdb(e);
    } else
        initdb_failed(e, result);
}

static void enter_initdb(struct ensure *e)
{
    sm_move(&e->sm, INITDB);
    char *program = mem_printf("%s/initdb", e->binary->directory);
    char *password = mem_printf("--pwfile=%s/initdb-password", e->path);
    const char *const env[] = {"LC_ALL=C", NULL};
    const char *argv[] = {program,
                          "-D",
                          e->data_path,
                          "--username=" LOCAL_SUPERUSER,
                          password,
                          "--auth=scram-sha-256",
                          "--data-checksums",
                          "--encoding=UTF8",
                          e->plain_locale ? "--locale=C" : "--locale=C.UTF-8",
                          "--no-instructions",
                          NULL};
    const struct process_options options = {.argv = argv,
                                            .env = env,
                                            .directory = e->path,
                                            .uid = e->user.uid,
                                            .gid = e->user.gid,
                                            .timeout_ns = LOCAL_INITDB_TIMEOUT_NS,
                                            .capture_limit = 65536};
    struct err err = {0};
    int rc = process_start(e->op.local->loop, &options, on_initdb, e, &e->process, &err);
    free(program);
    free(password);
    if (rc != 0)
        fail(e, &err);
}

/* ---- PREPARE, PROBE ---- */

static void prepare_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (!job_ended_well(e, code))
        return;
    if (e->record.member)
        enter_configure(e);
    else
        enter_initdb(e);
}

static void on_version(const struct process_result *result, void *data)
{
    struct ensure *e = data;
    e->process = NULL;
    if (e->op.canceled) {
        fail_canceled(e);
        return;
    }
    int version = result->exit_code == 0 ? local_version_parse(result->out) : 0;
    e->op.local->binaries[e->probing].version = version != 0 ? version : -1;
    enter_probe(e);
}

static bool version_ask(struct ensure *e)
{
    char *program = mem_printf("%s/postgres", e->op.local->binaries[e->probing].directory);
    const char *argv[] = {program, "--version", NULL};
    const struct process_options options = {.argv = argv,
                                            .directory = "/",
                                            .uid = e->user.uid,
                                            .gid = e->user.gid,
                                            .timeout_ns = 10 * ENV_NS_PER_S,
                                            .capture_limit = 4096};
    int rc = process_start(e->op.local->loop, &options, on_version, e, &e->process, NULL);
    free(program);
    return rc == 0;
}

static void probed(struct ensure *e)
{
    struct err err = {0};
    int major = e->exists ? e->record.major : e->shard_major;
    e->binary = e->member ? local_binaries_pick_member(e->op.local, major, &err)
                          : local_binaries_pick(e->op.local, major, &err);
    if (e->binary == NULL)
        fail(e, &err);
    else if (e->exists)
        enter_configure(e);
    else
        enter_job(e, PREPARE, ensure_prepare, prepare_done);
}

/* Asks the next program that nobody asked yet; the answers are kept in the runtime. */
static void enter_probe(struct ensure *e)
{
    struct local *local = e->op.local;
    sm_move(&e->sm, PROBE);
    for (e->probing = 0; e->probing < local->binary_count; e->probing++) {
        if (local->binaries[e->probing].version != 0)
            continue;
        if (version_ask(e))
            return;
        local->binaries[e->probing].version = -1;
    }
    probed(e);
}

/* ---- WIPE, HALT, LOOK ---- */

/* True if the timer runs because processes are still to go. */
static bool waits_for_orphans(struct ensure *e)
{
    if (e->orphans == 0 || ++e->tries >= ORPHAN_TRIES)
        return false;
    loop_timer_start(&e->timer, ORPHAN_POLL_NS);
    return true;
}

static void wipe_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (!job_ended_well(e, code) || waits_for_orphans(e))
        return;
    if (e->orphans > 0) {
        struct err err = {0};
        err_set(&err, ERRC_TIMEOUT, "%d processes of an interrupted creation do not end", e->orphans);
        fail(e, &err);
        return;
    }
    local_record_clear(&e->record);
    e->tries = 0;
    enter_probe(e);
}

static void enter_wipe(struct ensure *e)
{
    enter_job(e, WIPE, ensure_wipe, wipe_done);
}

static void undo_wipe_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (code == 0 && waits_for_orphans(e))
        return;
    finish(e); /* what is left is marked "creating" and goes with the next attempt */
}

static void enter_undo_wipe(struct ensure *e)
{
    if (sm_now(&e->sm) != UNDO_WIPE)
        e->tries = 0;
    loop_timer_stop(&e->timer);
    enter_job(e, UNDO_WIPE, ensure_wipe, undo_wipe_done);
}

static void on_halted(struct local_halt *halt, const struct err *err, void *data)
{
    (void)halt;
    (void)err; /* WIPE kills what is left */
    enter_wipe(data);
}

static void enter_halt(struct ensure *e)
{
    sm_move(&e->sm, HALT);
    if (e->record.agent_pid != 0 || e->record.watch_pid != 0) {
        local_halt_agent(&e->halt, e->op.local, &e->record, e->data_path, on_halted, e);
        return;
    }
    local_halt_start(&e->halt, e->op.local, e->record.pid, e->data_path, true, true, on_halted, e);
}

static bool belongs(struct ensure *e)
{
    const struct local_record *r = &e->record;
    bool same_place = strcmp(r->database, e->database) == 0 && strcmp(r->shard, e->shard) == 0;
    if (same_place && r->member == e->member)
        return true;
    struct err err = {0};
    if (same_place)
        err_set(&err, ERRC_CONFLICT, "it exists as %s of its shard: choose another name",
                r->member ? "one of several" : "the only one");
    else
        err_set(&err, ERRC_CONFLICT, "it exists for database \"%s\", shard \"%s\": choose another name",
                r->database, r->shard);
    fail(e, &err);
    return false;
}

/* It can be started, or made. */
static bool possible(struct ensure *e)
{
    struct err err = {0};
    if (e->must_exist && !e->exists)
        err_set(&err, ERRC_NOT_FOUND, "there is no such instance");
    else if (e->exists && e->record.major == 0 && !e->record.member)
        err_set(&err, ERRC_CORRUPT,
                "its data directory %s is missing or empty: restore it, or remove the instance",
                e->data_path);
    else
        return true;
    e->record.creating = false; /* nothing is ours to undo */
    fail(e, &err);
    return false;
}

static void look_done(struct work *work, int code)
{
    struct ensure *e = work->data;
    if (!job_ended_well(e, code) || !possible(e))
        return;
    if (e->leftover && !e->exists) {
        if (e->record.pid != 0 || e->record.agent_pid != 0 || e->record.watch_pid != 0)
            enter_halt(e);
        else
            enter_wipe(e);
        return;
    }
    if (e->exists && !belongs(e))
        return;
    if (e->exists && e->owner[0] != '\0') {
        free(e->record.owner);
        e->record.owner = mem_strdup(e->owner);
    }
    if (e->exists && e->member && e->record.agent_pid != 0)
        enter_agent(e);
    else if (e->exists && !e->member && e->record.pid != 0)
        enter_verifier(e);
    else
        enter_probe(e);
}

/* ---- begin ---- */

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct ensure *e = data;
    switch (sm_now(&e->sm)) {
    case WIPE:
        enter_wipe(e);
        break;
    case CONFIGURE:
        enter_configure(e);
        break;
    case UNDO_HALT:
        (void)process_signal(e->server->process, SIGKILL); /* on_server_exit follows */
        break;
    case UNDO_WIPE:
        enter_undo_wipe(e);
        break;
    default:
        break;
    }
}

static void start(struct local_op *op)
{
    struct ensure *e = list_item(op, struct ensure, op);
    if (op->canceled)
        fail_canceled(e);
    else
        enter_job(e, LOOK, ensure_look, look_done);
}

/* Workers and timers end by themselves and then see op->canceled. */
static void cancel(struct local_op *op)
{
    struct ensure *e = list_item(op, struct ensure, op);
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "the runtime was closed");
    if (sm_now(&e->sm) == INITDB)
        (void)process_signal(e->process, SIGTERM); /* so that its servers give their shared memory back */
    else if (e->process != NULL)
        process_cancel(e->process);
    else if (sm_now(&e->sm) == LOGIN)
        local_login_cancel(&e->login, &err);
    else if (sm_now(&e->sm) == AGENT)
        local_contact_cancel(&e->contact, &err);
}

static char **settings_copy(const char *const *settings)
{
    size_t count = 0;
    while (settings != NULL && settings[count] != NULL)
        count++;
    char **copy = mem_array(count + 1, sizeof *copy);
    for (size_t i = 0; i < count; i++)
        copy[i] = mem_strdup(settings[i]);
    return copy;
}

static void spec_copy(struct ensure *e, const struct runtime_spec *spec)
{
    e->database = mem_strdup(spec->database != NULL ? spec->database : "");
    e->shard = mem_strdup(spec->shard != NULL ? spec->shard : "");
    e->owner = mem_strdup(spec->owner != NULL ? spec->owner : "");
    e->owner_password = e->owner[0] != '\0' ? mem_strdup(spec->owner_password) : NULL;
    e->settings = settings_copy(spec->settings);
    e->must_exist = spec->must_exist;
    e->member = spec->member;
    e->primary = spec->member && spec->primary;
    e->password = spec->member ? mem_strdup(spec->password) : NULL;
    e->min_free_bytes = spec->min_free_bytes != 0 ? spec->min_free_bytes : LOCAL_MIN_FREE;
}

int local_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                 struct err *err)
{
    struct local *local = list_item(rt, struct local, base);
    if (local->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    int rc = local_settings_check(spec->settings, err);
    if (rc != 0)
        return rc;
    struct ensure *e = mem_zalloc(sizeof *e);
    spec_copy(e, spec);
    e->path = local_path(local->directory, "", spec->name, NULL);
    e->data_path = local_data_path(local->directory, spec->name, spec->member);
    env_random_text(local->loop->env, e->new_password, LOCAL_PASSWORD_LENGTH);
    env_random_text(local->loop->env, e->new_token, LOCAL_TOKEN_LENGTH);
    e->cb = cb;
    e->data = data;
    sm_init(&e->sm, states, STATES, QUEUED, NULL, NULL);
    loop_timer_init(local->loop, &e->timer, on_timer, e);
    local_op_add(local, &e->op, spec->name, start, cancel);
    return 0;
}
