/* The manager's life: run, stop, and what the parts tell each other. Start-up is manager_start.c. */
#include "manager/manager.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/client.h"
#include "manager/manager_impl.h"
#include "manager/manager_cluster.h"
#include "manager/manager_figures.h"
#include "operation/move_op.h"

#define HTTP_GRACE_NS    (2 * ENV_NS_PER_S)
#define OPENING_GRACE_NS (3 * ENV_NS_PER_S)

#define STOP SM_NEXT(MANAGER_STOPPING)
static const struct sm_state states[MANAGER_STATE_COUNT] = {
    [MANAGER_LISTENING] = {"listening", SM_NEXT(MANAGER_SECRETS) | STOP, false},
    [MANAGER_SECRETS] = {"secrets", SM_NEXT(MANAGER_STORE) | STOP, false},
    [MANAGER_STORE] = {"store", SM_NEXT(MANAGER_LEADING) | STOP, false},
    [MANAGER_LEADING] = {"leading", SM_NEXT(MANAGER_KUBERNETES) | SM_NEXT(MANAGER_RUNTIME) | STOP, false},
    [MANAGER_KUBERNETES] = {"kubernetes", SM_NEXT(MANAGER_RUNTIME) | STOP, false},
    [MANAGER_RUNTIME] = {"runtime", SM_NEXT(MANAGER_DATABASES) | STOP, false},
    [MANAGER_DATABASES] = {"databases", SM_NEXT(MANAGER_ADOPTING) | STOP, false},
    [MANAGER_ADOPTING] = {"adopting", SM_NEXT(MANAGER_DISCOVERING) | STOP, false},
    [MANAGER_DISCOVERING] = {"discovering", SM_NEXT(MANAGER_RESUMING) | STOP, false},
    [MANAGER_RESUMING] = {"resuming", SM_NEXT(MANAGER_READY) | STOP, false},
    [MANAGER_READY] = {"ready", SM_NEXT(MANAGER_DEPOSED) | STOP, false},
    [MANAGER_DEPOSED] = {"deposed", STOP, false},
    [MANAGER_STOPPING] = {"stopping", SM_NEXT(MANAGER_STOPPED), false},
    [MANAGER_STOPPED] = {"stopped", 0, true},
};

enum manager_state manager_now(const struct manager *m)
{
    return (enum manager_state)sm_now(&m->sm);
}

void manager_move(struct manager *m, enum manager_state state)
{
    sm_move(&m->sm, (int)state);
    log_event(LOG_DEBUG, "manager", "state", sm_name(&m->sm), NULL);
}

/* ---- shutdown: one part after the other, each reports to close_next() ---- */

static void close_next(void *data);

static bool close_server(struct manager *m, struct http_server **server)
{
    struct http_server *s = *server;
    *server = NULL;
    if (s != NULL)
        http_server_close(s, HTTP_GRACE_NS, close_next, m);
    return s != NULL;
}

static bool close_operations(struct manager *m)
{
    if (m->operations_stopped) {
        m->awaits_operations = !m->operations_gone;
        return m->awaits_operations;
    }
    if (m->operations_ready)
        operations_stop(&m->operations, close_next, m);
    return m->operations_ready;
}

struct ha_shards *manager_take_ha(struct manager *m)
{
    struct operation_services *s = &m->operations.services;
    struct ha_shards *ha = m->ha;
    m->ha = NULL;
    s->drive = NULL;
    s->release = NULL;
    s->fails_over = NULL;
    return ha;
}

static bool close_ha(struct manager *m)
{
    struct ha_shards *ha = manager_take_ha(m);
    if (ha != NULL)
        ha_shards_close(ha, close_next, m);
    return ha != NULL;
}

static bool close_balancer(struct manager *m)
{
    struct balancer *balancer = m->balancer;
    m->balancer = NULL;
    if (balancer != NULL)
        balancer_stop(balancer, close_next, m);
    return balancer != NULL;
}

static bool close_databases(struct manager *m)
{
    return m->databases != NULL && databases_stop(m->databases, close_next, m);
}

static bool close_announcer(struct manager *m)
{
    struct announcer *announcer = m->announcer;
    m->announcer = NULL;
    if (announcer != NULL)
        announcer_stop(announcer, close_next, m);
    return announcer != NULL;
}

static bool close_guards(struct manager *m)
{
    struct guard_watch *guards = m->guards;
    m->guards = NULL; /* the API may ask until its servers are closed */
    if (guards != NULL)
        guard_watch_stop(guards, close_next, m);
    return guards != NULL;
}

static bool close_discovery(struct manager *m)
{
    if (m->discovery != NULL)
        discovery_close(m->discovery, close_next, m);
    return m->discovery != NULL;
}

static bool close_runtime(struct manager *m)
{
    if (m->runtime != NULL)
        runtime_close(m->runtime, close_next, m);
    return m->runtime != NULL;
}

static bool close_store(struct manager *m)
{
    if (m->store != NULL)
        store_close(m->store, close_next, m);
    return m->store != NULL;
}

static bool close_kube(struct manager *m)
{
    struct k8s_client *kube = m->kube;
    m->kube = NULL;
    if (kube != NULL)
        k8s_client_close(kube, close_next, m);
    return kube != NULL;
}

/* True: close_next() will be called. */
static bool close_part(struct manager *m, int part)
{
    switch (part) {
    case 0:
        return close_server(m, &m->admin_server);
    case 1:
        return close_databases(m);
    case 2:
        return close_balancer(m);
    case 3:
        return close_operations(m);
    case 4:
        return close_ha(m);
    case 5:
        return close_announcer(m);
    case 6:
        return close_guards(m);
    case 7:
        return manager_figures_close(m, close_next, m);
    case 8:
        return manager_cluster_close(m, close_next, m);
    case 9:
        return close_discovery(m);
    case 10:
        return close_server(m, &m->metrics_server);
    case 11:
        exposition_close(m->exposition, close_next, m);
        return true;
    case 12:
        pollers_close(m->pollers, close_next, m);
        return true;
    case 13:
        return close_runtime(m);
    case 14:
        return manager_kube_close(m, close_next);
    case 15:
        return manager_kube_close_operations(m, close_next);
    case 16:
        return manager_kube_close_events(m, close_next);
    case 17:
        return close_server(m, &m->public_server);
    case 18:
        return close_store(m);
    case 19:
        return close_kube(m);
    default:
        manager_move(m, MANAGER_STOPPED);
        loop_signal_stop(&m->on_term);
        loop_signal_stop(&m->on_int);
        loop_signal_stop(&m->on_hup);
        loop_stop(&m->loop);
        return true;
    }
}

static void close_next(void *data)
{
    struct manager *m = data;
    while (!close_part(m, m->closing++))
        continue;
}

void manager_close_on(struct manager *m)
{
    loop_timer_stop(&m->step);
    close_next(m);
}

static void abandon(struct loop_timer *timer, void *data)
{
    struct manager *m = data;
    (void)timer;
    m->abandoned = true;
    loop_stop(&m->loop);
}

void manager_stop(struct manager *m, const struct err *err)
{
    if (manager_now(m) >= MANAGER_STOPPING)
        return;
    if (err != NULL) {
        m->fatal = *err;
        log_event(LOG_ERROR, "manager cannot go on", "state", sm_name(&m->sm), "err", err->message, NULL);
    } else
        log_event(LOG_INFO, "manager stops", NULL);
    manager_move(m, MANAGER_STOPPING);
    loop_timer_stop(&m->step);
    keeper_stop(m->keeper);
    standby_stop(m->standby);
    m->standby = NULL;
    if (m->kube_databases != NULL)
        kube_databases_stop(m->kube_databases);
    manager_watch_stop(m);
    if (m->opening_store) { /* cannot be taken back and may take half a minute */
        loop_timer_init(&m->loop, &m->step, abandon, m);
        loop_timer_start(&m->step, OPENING_GRACE_NS);
    } else if (!m->reading_secrets)
        close_next(m);
}

static void on_signal(struct loop_signal *signal, int number, void *data)
{
    struct manager *m = data;
    (void)signal;
    if (number == SIGHUP)
        manager_reload(m);
    else
        manager_stop(m, NULL);
}

/* ---- what the parts tell each other ---- */

void manager_routing_changed(void *data, struct fleet_database *db)
{
    struct manager *m = data;
    pollers_sync(m->pollers);
    api_routing_changed(m->api, db);
    if (m->announcer != NULL)
        announcer_changed(m->announcer, db->name);
}

void manager_operation_changed(void *data, struct operation *op)
{
    struct manager *m = data;
    api_operation_changed(m->api, op);
    manager_kube_operation(m, op);
    if (op->status == OPERATION_RUNNING)
        return;
    if (move_op_is(op) && !move_op_record(op)->dry_run && m->balancer != NULL) {
        balancer_move_ended(m->balancer, op->database, move_op_record(op)->source);
        balancer_move_ended(m->balancer, op->database, move_op_record(op)->target);
    }
    if (fleet_find_database(&m->fleet, op->database) == NULL) {
        api_database_removed(m->api, op->database);
        databases_forget(m->databases, op->database);
        if (m->balancer != NULL)
            balancer_forget(m->balancer, op->database);
    }
    if (m->discovery != NULL)
        discovery_poll(m->discovery);
}

void manager_decided(const struct balancer_decision *decision, void *data)
{
    struct manager *m = data;
    manager_api_decided(m, decision);
    manager_kube_decided(m, decision);
}

void manager_kept(const struct keeper_event *e, void *data)
{
    struct manager *m = data;
    if (e->err == NULL)
        log_event(LOG_WARN, "the server had ended and was started", "instance", e->instance, "db",
                  e->database, "shard", e->shard, "tries", log_num(e->tries), NULL);
    else
        log_event(LOG_ERROR, "the server has ended and does not start", "instance", e->instance, "db",
                  e->database, "shard", e->shard, "tries", log_num(e->tries), "next_s",
                  log_num((long long)e->next_seconds), "err", e->err->message, NULL);
    struct api_restart restart = {.instance = e->instance,
                                  .database = e->database,
                                  .shard = e->shard,
                                  .tries = e->tries,
                                  .next_seconds = e->next_seconds,
                                  .error = e->err != NULL ? e->err->message : NULL};
    api_instance_restarted(m->api, &restart);
}

void manager_member_changed(const struct fleet_instance *instance, void *data)
{
    struct manager *m = data;
    if (m->pollers != NULL)
        pollers_look(m->pollers, instance);
    api_instance_changed(m->api, instance);
}

static void on_sampled(struct fleet_instance *instance, void *data)
{
    (void)instance;
    (void)data;
}

/* ---- life ---- */

static int set_up(struct manager *m, struct err *err)
{
    struct pollers_options pollers = {.period_ns = {m->config.load_period_ns, m->config.replication_period_ns,
                                                    m->config.activity_period_ns, m->config.sizes_period_ns,
                                                    m->config.settings_period_ns}};
    struct pollers_events events = {.sampled = on_sampled};
    if (loop_init(&m->loop, m->options.env, err) != 0)
        return (int)err->code;
    sm_init(&m->sm, states, MANAGER_STATE_COUNT, MANAGER_LISTENING, NULL, NULL);
    fleet_init(&m->fleet);
    m->pollers = pollers_new(&m->loop, &m->fleet, &pollers, &events, m);
    manager_api_init(m);
    manager_watch_start(m);
    if (loop_signal_start(&m->loop, &m->on_term, SIGTERM, on_signal, m, err) != 0 ||
        loop_signal_start(&m->loop, &m->on_int, SIGINT, on_signal, m, err) != 0 ||
        loop_signal_start(&m->loop, &m->on_hup, SIGHUP, on_signal, m, err) != 0)
        return (int)err->code;
    return 0;
}

static void tear_down(struct manager *m)
{
    manager_api_fini(m);
    manager_runtime_free(m);
    free(m->metric_operations);
    free(m->metric_decisions);
    free(m->metric_databases);
    free(m->metric_moves);
    free(m->metric_failovers);
    free(m->metric_unwritable);
    if (m->operations_ready)
        operations_fini(&m->operations);
    keeper_free(m->keeper);
    kube_operations_free(m->kube_operations);
    kube_databases_free(m->kube_databases);
    databases_free(m->databases);
    fleet_fini(&m->fleet);
    loop_run(&m->loop); /* the last close callbacks */
    loop_fini(&m->loop);
    config_free(&m->config);
    free(m->kube_namespace);
}

static int run_once(const struct manager_options *options, bool *ret_again, struct err *err)
{
    struct manager *m = mem_zalloc(sizeof *m);
    m->options = *options;
    m->config_stamp = manager_file_stamp(options->config_path);
    if (config_load(options->config_path, options->env, options->flags, &m->config, err) != 0) {
        free(m);
        return (int)err->code;
    }
    log_setup(m->config.log_level, m->config.log_format);
    if (set_up(m, err) != 0) {
        free(m); /* nothing runs yet; the process ends now */
        return (int)err->code;
    }
    manager_begin(m);
    if (manager_now(m) != MANAGER_STOPPED)
        loop_run(&m->loop);
    struct err fatal = m->fatal;
    if (m->abandoned)
        return err_copy(err, &fatal); /* nothing was begun; the process ends now */
    *ret_again = m->again && fatal.code == ERRC_NONE;
    tear_down(m);
    free(m);
    return err_copy(err, &fatal);
}

/* A manager that was deposed begins anew: everything it knows is read again. */
int manager_run(const struct manager_options *options, struct err *err)
{
    bool again = false;
    int rc;
    do
        rc = run_once(options, &again, err);
    while (rc == 0 && again);
    return rc;
}
