/* The manager's life: run, stop, and what the parts tell each other. Start-up is manager_start.c. */
#include "manager/manager.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/client.h"
#include "manager/manager_impl.h"
#include "manager/manager_cluster.h"
#include "manager/manager_figures.h"
#include "operation/move_op.h"

#define HTTP_GRACE_NS    (2 * ENV_NS_PER_S)
#define OPENING_GRACE_NS (3 * ENV_NS_PER_S)  /* opening cannot be taken back and may take half a minute */
#define STOP_NS          (20 * ENV_NS_PER_S) /* within the 30 s a pod is given by default */

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

static bool close_figures(struct manager *m)
{
    return manager_figures_close(m, close_next, m);
}

static bool close_cluster(struct manager *m)
{
    return manager_cluster_close(m, close_next, m);
}

static bool close_exposition(struct manager *m)
{
    exposition_close(m->exposition, close_next, m);
    return true;
}

static bool close_pollers(struct manager *m)
{
    pollers_close(m->pollers, close_next, m);
    return true;
}

static bool close_kube_databases(struct manager *m)
{
    return manager_kube_close(m, close_next);
}

static bool close_kube_operations(struct manager *m)
{
    return manager_kube_close_operations(m, close_next);
}

static bool close_kube_events(struct manager *m)
{
    return manager_kube_close_events(m, close_next);
}

static bool close_admin_server(struct manager *m)
{
    return close_server(m, &m->admin_server);
}

static bool close_metrics_server(struct manager *m)
{
    return close_server(m, &m->metrics_server);
}

static bool close_public_server(struct manager *m)
{
    return close_server(m, &m->public_server);
}

/* In the order of closing. True: close_next() will be called. */
static const struct {
    const char *name;
    bool (*close)(struct manager *m);
} parts[] = {
    {"admin API", close_admin_server},
    {"databases", close_databases},
    {"balancer", close_balancer},
    {"operations", close_operations},
    {"failover", close_ha},
    {"announcer", close_announcer},
    {"guards", close_guards},
    {"figures", close_figures},
    {"watches of the cluster", close_cluster},
    {"discovery", close_discovery},
    {"metrics API", close_metrics_server},
    {"exposition", close_exposition},
    {"pollers", close_pollers},
    {"runtime", close_runtime},
    {"objects of the databases", close_kube_databases},
    {"objects of the operations", close_kube_operations},
    {"events", close_kube_events},
    {"public API", close_public_server},
    {"store", close_store},
    {"Kubernetes client", close_kube},
};
#define PART_COUNT ((int)(sizeof parts / sizeof *parts))

static void stopped(struct manager *m)
{
    manager_move(m, MANAGER_STOPPED);
    loop_timer_stop(&m->step);
    loop_signal_stop(&m->on_term);
    loop_signal_stop(&m->on_int);
    loop_signal_stop(&m->on_hup);
    loop_stop(&m->loop);
}

static void close_next(void *data)
{
    struct manager *m = data;
    while (m->closing < PART_COUNT)
        if (parts[m->closing++].close(m))
            return;
    stopped(m);
}

void manager_close_on(struct manager *m)
{
    if (m->closing == 0)
        loop_timer_start(&m->step, STOP_NS);
    close_next(m);
}

/*
 * All that must outlive the process was written before it was done, so an end here is as safe as a crash. The
 * lease may not have been given back: another manager waits until it has run out.
 */
static void abandon(struct loop_timer *timer, void *data)
{
    struct manager *m = data;
    const char *part = m->opening_store     ? "store (still being opened)"
                       : m->reading_secrets ? "files of secrets (still being read)"
                                            : parts[m->closing - 1].name;
    (void)timer;
    log_event(LOG_ERROR, "the manager ends without waiting for a part any longer", "part", part, NULL);
    /* exit() would wait for the workers; who was to begin anew must be started again by who runs it */
    _exit(m->again || m->fatal.code != ERRC_NONE ? EXIT_FAILURE : EXIT_SUCCESS);
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
    loop_timer_init(&m->loop, &m->step, abandon, m);
    loop_timer_start(&m->step, m->opening_store ? OPENING_GRACE_NS : STOP_NS);
    if (!m->opening_store && !m->reading_secrets)
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

/* ---- life ---- */

static int set_up(struct manager *m, struct err *err)
{
    struct pollers_options pollers = {.period_ns = {m->config.load_period_ns, m->config.replication_period_ns,
                                                    m->config.activity_period_ns, m->config.sizes_period_ns,
                                                    m->config.settings_period_ns}};
    if (loop_init(&m->loop, m->options.env, err) != 0)
        return (int)err->code;
    sm_init(&m->sm, states, MANAGER_STATE_COUNT, MANAGER_LISTENING, NULL, NULL);
    fleet_init(&m->fleet);
    m->pollers = pollers_new(&m->loop, &m->fleet, &pollers, NULL, m);
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
