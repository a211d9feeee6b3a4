/*
 * Happy path: look for the data directory, initdb, configure, start the server, connect; then facts each
 * second and inputs each two, until SIGTERM stops the server.
 */
#include "agent/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent_impl.h"
#include "agent/oom.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

#define LOOK_NS        (100 * ENV_NS_PER_MS) /* between two tries to connect */
#define FACTS_NS       (1 * ENV_NS_PER_S)
#define INPUTS_NS      (2 * ENV_NS_PER_S)
#define INITDB_NS      (300 * ENV_NS_PER_S)
#define BACKOFF_NS     (1 * ENV_NS_PER_S)
#define BACKOFF_MAX_NS (30 * ENV_NS_PER_S)
#define STEADY_NS      (60 * ENV_NS_PER_S) /* after so long a run the back-off begins anew */

/*
 *  LOOKING --> MAKING --> INITDB --> FINISHING --+
 *     |                                          v
 *     +------------------------------------> CONFIGURING --> STARTING --> RUNNING
 *                                                ^   |           |           |
 *                                                |   v           v           |
 *                                                +- WAITING <----+-----------+
 *  any --> STOPPING --> STOPPED
 *
 * LOOKING, MAKING, FINISHING, CONFIGURING wait for the worker
 * INITDB   waits for initdb to end
 * STARTING waits for the server to let us in (or to die)
 * RUNNING  waits for its timers, the server's death, a lost connection
 * WAITING  waits for its timer, then tries again
 * STOPPING waits for the server, initdb or the worker to end
 */
enum {
    LOOKING,
    MAKING,
    INITDB,
    FINISHING,
    CONFIGURING,
    STARTING,
    RUNNING,
    WAITING,
    STOPPING,
    STOPPED,
    STATE_MAX
};

#define N(state) SM_NEXT(state)
#define ENDS     (N(WAITING) | N(STOPPING))
static const struct sm_state states[STATE_MAX] = {
    [LOOKING] = {"looking", N(MAKING) | N(CONFIGURING) | ENDS, false},
    [MAKING] = {"making", N(INITDB) | ENDS, false},
    [INITDB] = {"initdb", N(FINISHING) | ENDS, false},
    [FINISHING] = {"finishing", N(CONFIGURING) | ENDS, false},
    [CONFIGURING] = {"configuring", N(STARTING) | ENDS, false},
    [STARTING] = {"starting", N(RUNNING) | ENDS, false},
    [RUNNING] = {"running", N(STARTING) | ENDS, false},
    [WAITING] = {"waiting", N(LOOKING) | N(STOPPING), false},
    [STOPPING] = {"stopping", N(STOPPED), false},
    [STOPPED] = {"stopped", 0, true},
};
#undef N

static void look(struct agent *a);
static void connect_server(struct agent *a);

/* ---- the end ---- */

static void http_closed(void *data)
{
    struct agent *a = data;
    loop_stop(&a->loop);
}

static void stopped(struct agent *a)
{
    sm_move(&a->sm, STOPPED);
    loop_timer_stop(&a->timer);
    loop_timer_stop(&a->watch_timer);
    http_server_close(a->http, ENV_NS_PER_S, http_closed, a);
}

static void conn_drop(struct agent *a)
{
    a->facts.known = false;
    a->asking = false;
    if (a->conn != NULL)
        pg_conn_close(a->conn, NULL, NULL);
    a->conn = NULL;
}

/* Fast at first; immediately when that takes too long. */
static void stop(struct agent *a)
{
    bool worker = sm_now(&a->sm) == LOOKING || sm_now(&a->sm) == MAKING || sm_now(&a->sm) == FINISHING ||
                  sm_now(&a->sm) == CONFIGURING;
    if (a->stopping)
        return;
    log_event(LOG_INFO, "stopping", "state", sm_name(&a->sm), NULL);
    a->stopping = true;
    conn_drop(a);
    sm_move(&a->sm, STOPPING);
    if (a->child != NULL) {
        (void)process_signal(a->child, SIGINT);
        loop_timer_start(&a->timer, a->o.stop_ns);
    } else if (!worker) {
        stopped(a);
    }
}

static void wait_again(struct agent *a, const struct err *why)
{
    err_copy(&a->err, why);
    log_event(LOG_ERROR, "the server is not up", "err", why->message, "again_in_s",
              log_num((long long)(a->backoff_ns / ENV_NS_PER_S)), NULL);
    conn_drop(a);
    sm_move(&a->sm, WAITING);
    loop_timer_start(&a->timer, a->backoff_ns);
    a->backoff_ns = a->backoff_ns * 2 < BACKOFF_MAX_NS ? a->backoff_ns * 2 : BACKOFF_MAX_NS;
}

/* ---- workers ---- */

static void worker_start(struct agent *a, int state, void (*run)(struct work *),
                         void (*done)(struct work *, int))
{
    sm_move(&a->sm, state);
    err_clear(&a->work_err);
    (void)work_start(&a->loop, &a->work, run, done, a);
}

/* Whether the machine may go on after a worker. */
static bool worker_good(struct agent *a)
{
    if (a->stopping) {
        stopped(a);
        return false;
    }
    if (a->work_err.code != ERRC_NONE) {
        wait_again(a, &a->work_err);
        return false;
    }
    return true;
}

/* ---- the server ---- */

static void server_ended(const struct process_result *result, void *data)
{
    struct agent *a = data;
    struct err err = {0};
    a->child = NULL;
    if (a->stopping) {
        log_event(LOG_INFO, "the server has stopped", "exit_code", log_num(result->exit_code), NULL);
        stopped(a);
        return;
    }
    if (loop_now(&a->loop) - a->started_ns > STEADY_NS)
        a->backoff_ns = BACKOFF_NS;
    a->restarts++;
    if (result->err.code != ERRC_NONE)
        err_copy(&err, &result->err);
    else if (result->term_signal != 0)
        (void)err_set(&err, ERRC_CLOSED, "PostgreSQL was ended by signal %d", result->term_signal);
    else
        (void)err_set(&err, ERRC_CLOSED, "PostgreSQL ended with exit code %d", result->exit_code);
    wait_again(a, &err);
}

static char *program(const struct agent *a, const char *name)
{
    return a->o.bin != NULL ? mem_printf("%s/%s", a->o.bin, name) : mem_strdup(name);
}

static void server_start(struct agent *a)
{
    struct err err = {0};
    char *postgres = program(a, "postgres");
    const char *const argv[] = {postgres, "-D", a->o.data, NULL};
    const struct process_options o = {.argv = argv, .output_ours = true};
    sm_move(&a->sm, STARTING);
    a->started_ns = loop_now(&a->loop);
    if (process_start(&a->loop, &o, server_ended, a, &a->child, &err) != 0)
        wait_again(a, &err);
    else
        connect_server(a);
    free(postgres);
}

static void configure_run(struct work *work)
{
    struct agent *a = work->data;
    agent_inputs_clear(&a->inputs);
    agent_inputs_read(&a->o, &a->inputs);
    if (agent_configure(&a->o, &a->work_err) == 0)
        agent_locks_clear(&a->o);
}

static void configure_done(struct work *work, int code)
{
    struct agent *a = work->data;
    (void)code;
    if (worker_good(a))
        server_start(a);
}

/* ---- making the data directory ---- */

static void finish_run(struct work *work)
{
    struct agent *a = work->data;
    (void)agent_draft_finish(&a->o, &a->work_err);
}

static void finish_done(struct work *work, int code)
{
    struct agent *a = work->data;
    (void)code;
    if (worker_good(a))
        worker_start(a, CONFIGURING, configure_run, configure_done);
}

static void initdb_ended(const struct process_result *result, void *data)
{
    struct agent *a = data;
    struct err err = {0};
    a->child = NULL;
    if (a->stopping) {
        stopped(a);
    } else if (result->err.code != ERRC_NONE || result->exit_code != 0) {
        process_describe(result, "initdb", &err);
        wait_again(a, &err);
    } else {
        worker_start(a, FINISHING, finish_run, finish_done);
    }
}

static void initdb(struct agent *a)
{
    struct err err = {0};
    struct agent_initdb command;
    agent_initdb_init(&command, &a->o);
    const struct process_options o = {.argv = command.argv, .timeout_ns = INITDB_NS};
    sm_move(&a->sm, INITDB);
    log_event(LOG_INFO, "making a data directory", "path", a->o.data, NULL);
    if (process_start(&a->loop, &o, initdb_ended, a, &a->child, &err) != 0)
        wait_again(a, &err);
    agent_initdb_fini(&command);
}

static void make_run(struct work *work)
{
    struct agent *a = work->data;
    (void)agent_draft_clear(&a->o, &a->work_err);
}

static void make_done(struct work *work, int code)
{
    struct agent *a = work->data;
    (void)code;
    if (worker_good(a))
        initdb(a);
}

static void look_run(struct work *work)
{
    struct agent *a = work->data;
    (void)agent_data_look(&a->o, &a->found, &a->work_err);
}

static void look_done(struct work *work, int code)
{
    struct agent *a = work->data;
    (void)code;
    if (!worker_good(a))
        return;
    if (a->found == AGENT_DATA_NONE)
        worker_start(a, MAKING, make_run, make_done);
    else
        worker_start(a, CONFIGURING, configure_run, configure_done);
}

static void look(struct agent *a)
{
    err_clear(&a->work_err); /* of the try before */
    (void)work_start(&a->loop, &a->work, look_run, look_done, a);
}

/* ---- talking to the server ---- */

static void facts_answered(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct agent *a = data;
    if (conn != a->conn)
        return;
    a->asking = false;
    if (reply->err != NULL)
        return; /* a lost connection is told by the connection */
    bool first = !a->facts.known;
    const char *lsn = pg_value(reply, 0, 2);
    a->facts.known = pg_value_bool(reply, 0, 0);
    a->facts.standby = pg_value_bool(reply, 0, 1);
    (void)snprintf(a->facts.lsn, sizeof a->facts.lsn, "%s", lsn != NULL ? lsn : "");
    (void)pg_value_int64(reply, 0, 3, &a->facts.timeline);
    a->facts.pending_restart = pg_value_bool(reply, 0, 4);
    (void)snprintf(a->facts.version, sizeof a->facts.version, "%d", pg_conn_server_version(conn));
    if (first && sm_now(&a->sm) == STARTING) {
        sm_move(&a->sm, RUNNING);
        err_clear(&a->err);
        log_event(LOG_INFO, "the server is up", "role", a->facts.standby ? "standby" : "primary", NULL);
    }
}

static void facts_ask(struct agent *a)
{
    static const struct pg_request request = {
        .sql =
            "SELECT true, pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() "
            "ELSE pg_current_wal_lsn() END, (SELECT timeline_id FROM pg_control_checkpoint()), "
            "EXISTS (SELECT FROM pg_settings WHERE pending_restart)",
        .extended = true,
        .prepared = "facts",
        .timeout_ns = 5 * ENV_NS_PER_S,
    };
    if (!a->asking && a->conn != NULL && pg_conn_ready(a->conn))
        a->asking = pg_send(a->conn, &request, facts_answered, a, NULL) == 0;
}

static void connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct agent *a = data;
    if (conn != a->conn)
        return;
    if (err == NULL) {
        facts_ask(a);
        loop_timer_start(&a->timer, FACTS_NS);
        return;
    }
    if (sm_now(&a->sm) == STARTING)
        err_copy(&a->err, err);
    conn_drop(a);
    loop_timer_start(&a->timer, LOOK_NS);
}

static void lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct agent *a = data;
    (void)err;
    if (conn != a->conn)
        return;
    conn_drop(a);
    if (sm_now(&a->sm) == RUNNING)
        sm_move(&a->sm, STARTING); /* it restarts its processes after a crash of one, or it is about to end */
    loop_timer_start(&a->timer, LOOK_NS);
}

static void connect_server(struct agent *a)
{
    static const struct pg_conn_events events = {connected, lost, NULL};
    struct err err = {0};
    const struct pg_target target = {
        .host = a->o.run,
        .port = a->o.port,
        .dbname = "postgres",
        .user = AGENT_SUPERUSER,
        .application_name = "shardherd agent",
        .options = "-c statement_timeout=5000 -c lock_timeout=1000",
        .connect_timeout_ns = 5 * ENV_NS_PER_S,
    };
    a->conn = pg_conn_new(&a->loop, &target, &events, a);
    if (pg_conn_connect(a->conn, &err) != 0) {
        err_copy(&a->err, &err);
        conn_drop(a);
        loop_timer_start(&a->timer, LOOK_NS);
    }
}

static void timer_fired(struct loop_timer *timer, void *data)
{
    struct agent *a = data;
    (void)timer;
    switch (sm_now(&a->sm)) {
    case WAITING:
        sm_move(&a->sm, LOOKING);
        look(a);
        break;
    case STARTING:
    case RUNNING:
        if (a->conn == NULL) {
            connect_server(a);
        } else {
            facts_ask(a);
            loop_timer_start(&a->timer, FACTS_NS);
        }
        break;
    case STOPPING:
        log_event(LOG_WARN, "the server does not stop in time: stopping it immediately", NULL);
        if (a->child != NULL)
            (void)process_signal(a->child, SIGQUIT);
        break;
    default:
        break;
    }
}

/* ---- files that change ---- */

static void password_set(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct agent *a = data;
    (void)conn;
    if (reply->err != NULL) {
        log_event(LOG_ERROR, "the password could not be changed", "err", reply->err->message, NULL);
        a->inputs.password = 0; /* seen as changed again */
    } else {
        log_event(LOG_INFO, "the password was changed", NULL);
    }
}

static void password_apply(struct agent *a)
{
    struct buf sql = {0};
    if (a->facts.standby || a->seen.password_text == NULL || a->seen.password_text[0] == '\0')
        return; /* a standby gets it from its primary */
    (void)buf_add_text(&sql, "ALTER ROLE " AGENT_SUPERUSER " PASSWORD ");
    pg_quote_literal(&sql, a->seen.password_text);
    if (pg_exec(a->conn, buf_text(&sql), password_set, a, NULL) != 0)
        a->inputs.password = 0;
    memset(sql.data, 0, sql.length);
    buf_free(&sql);
}

static void reconfigure_run(struct work *work)
{
    struct agent *a = work->data;
    (void)agent_configure(&a->o, &a->work_err);
}

static void reconfigure_done(struct work *work, int code)
{
    struct agent *a = work->data;
    (void)code;
    a->reading = false;
    if (a->work_err.code != ERRC_NONE) {
        log_event(LOG_ERROR, "changed files could not be applied", "err", a->work_err.message, NULL);
        a->inputs.settings = a->inputs.tls = 0;
    } else if (a->child != NULL && sm_now(&a->sm) == RUNNING) {
        (void)process_signal(a->child, SIGHUP);
        log_event(LOG_INFO, "the configuration was reloaded", NULL);
    }
}

static void inputs_run(struct work *work)
{
    struct agent *a = work->data;
    agent_inputs_read(&a->o, &a->seen);
}

static void inputs_done(struct work *work, int code)
{
    struct agent *a = work->data;
    bool files = a->seen.settings != a->inputs.settings || a->seen.tls != a->inputs.tls;
    bool password = a->seen.password != a->inputs.password && a->seen.password != 0;
    (void)code;
    a->reading = false;
    if (sm_now(&a->sm) == RUNNING && a->facts.known) {
        a->inputs.settings = a->seen.settings;
        a->inputs.tls = a->seen.tls;
        if (password) {
            a->inputs.password = a->seen.password;
            password_apply(a);
        }
        if (files) {
            err_clear(&a->work_err);
            a->reading = work_start(&a->loop, &a->inputs_work, reconfigure_run, reconfigure_done, a) == 0;
        }
    }
    agent_inputs_clear(&a->seen);
}

static void watch_fired(struct loop_timer *timer, void *data)
{
    struct agent *a = data;
    loop_timer_start(timer, INPUTS_NS);
    if (!a->reading && sm_now(&a->sm) == RUNNING)
        a->reading = work_start(&a->loop, &a->inputs_work, inputs_run, inputs_done, a) == 0;
}

/* ---- signals ---- */

static void terminated(struct loop_signal *s, int number, void *data)
{
    (void)s;
    (void)number;
    stop(data);
}

/* Process 1 inherits orphans, such as the backends of a postmaster that was killed. Ours are libuv's to reap.
 */
static void child_ended(struct loop_signal *s, int number, void *data)
{
    struct agent *a = data;
    pid_t own = a->child != NULL ? process_pid(a->child) : 0;
    (void)s;
    (void)number;
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0 ||
            info.si_pid == own)
            return;
        (void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
    }
}

static int signals_start(struct agent *a, struct err *err)
{
    int rc = loop_signal_start(&a->loop, &a->term, SIGTERM, terminated, a, err);
    if (rc == 0)
        rc = loop_signal_start(&a->loop, &a->interrupt, SIGINT, terminated, a, err);
    if (rc == 0 && getpid() == 1)
        rc = loop_signal_start(&a->loop, &a->chld, SIGCHLD, child_ended, a, err);
    return rc;
}

int agent_run(const struct agent_options *options, struct err *err)
{
    struct agent *a = mem_zalloc(sizeof *a);
    a->o = *options;
    a->backoff_ns = BACKOFF_NS;
    oom_protect(options->env);
    int rc = loop_init(&a->loop, options->env, err);
    if (rc == 0) {
        sm_init(&a->sm, states, STATE_MAX, LOOKING, NULL, a);
        loop_timer_init(&a->loop, &a->timer, timer_fired, a);
        loop_timer_init(&a->loop, &a->watch_timer, watch_fired, a);
        rc = agent_http_open(a, err);
        if (rc == 0)
            rc = signals_start(a, err);
        if (rc == 0) {
            log_event(LOG_INFO, "agent started", "data", a->o.data, "http_port",
                      log_num(http_server_port(a->http)), NULL);
            look(a);
            loop_timer_start(&a->watch_timer, INPUTS_NS);
            (void)loop_run(&a->loop);
            loop_signal_stop(&a->term);
            loop_signal_stop(&a->interrupt);
            if (getpid() == 1)
                loop_signal_stop(&a->chld);
            agent_inputs_clear(&a->inputs);
            rc = loop_fini(&a->loop) != 0 ? err_set(err, ERRC_INTERNAL, "handles were left open") : 0;
        }
    }
    free(a);
    return rc;
}
