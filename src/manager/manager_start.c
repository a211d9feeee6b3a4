/* The start-up of a manager, one part after the other: see manager.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/manager_impl.h"
#include "manager/manager_cluster.h"
#include "manager/manager_figures.h"
#include "version.h"

#define LOOK_AGAIN_NS (20 * ENV_NS_PER_MS)

static void fail(struct manager *m, const struct err *err)
{
    manager_stop(m, err);
}

static bool stopping(const struct manager *m)
{
    return manager_now(m) >= MANAGER_STOPPING;
}

/* ---- ready ---- */

static void write_ports(struct manager *m)
{
    char *path = m->options.ports_path != NULL ? mem_strdup(m->options.ports_path)
                                               : mem_printf("%s/manager.json", m->config.state_directory);
    char *temporary = mem_printf("%s.new", path);
    FILE *file = fopen(temporary, "we");
    bool ok = file != NULL;
    if (ok) {
        fprintf(file, "{\"public\":%d,\"admin\":%d,\"metrics\":%d,\"pid\":%d}\n",
                http_server_port(m->public_server), http_server_port(m->admin_server),
                http_server_port(m->metrics_server), (int)getpid());
        ok = fclose(file) == 0 && rename(temporary, path) == 0;
    }
    if (!ok)
        log_event(LOG_WARN, "the ports could not be written, ignoring", "file", path, "err", strerror(errno),
                  NULL);
    free(temporary);
    free(path);
}

static void on_resumed(const struct err *err, void *data)
{
    struct manager *m = data;
    if (stopping(m))
        return;
    if (err != NULL) /* the others were resumed; this one waits for a person */
        log_event(LOG_ERROR, "an operation could not be resumed", "err", err->message, NULL);
    struct balancer_options options = {.loop = &m->loop,
                                       .fleet = &m->fleet,
                                       .operations = &m->operations,
                                       .pollers = m->pollers,
                                       .sample_ns = m->config.load_period_ns,
                                       .decided = manager_decided,
                                       .data = m};
    m->balancer = balancer_start(&options);
    m->announcer = announcer_start(&m->loop, &m->fleet);
    struct keeper_options keeper = {.loop = &m->loop,
                                    .fleet = &m->fleet,
                                    .operations = &m->operations,
                                    .databases = m->databases,
                                    .event = manager_kept,
                                    .data = m};
    m->keeper = keeper_new(&keeper);
    m->guards = guard_watch_start(&m->loop, &m->fleet, m->pollers, m->config.guards_period_ns);
    list_each(node, &m->fleet.databases)
    {
        announcer_changed(m->announcer, list_item(node, struct fleet_database, node)->name);
    }
    manager_move(m, MANAGER_READY);
    if (m->ha != NULL)
        ha_shards_look(m->ha);
    manager_kube_run(m);
    log_event(LOG_INFO, "ready", "public", log_num(http_server_port(m->public_server)), "admin",
              log_num(http_server_port(m->admin_server)), "metrics",
              log_num(http_server_port(m->metrics_server)), "store", store_name(m->store), "term",
              log_num(m->operations.services.term), NULL);
}

/* ---- discovery ---- */

static void look_for_round(struct loop_timer *timer, void *data)
{
    struct manager *m = data;
    struct err err = {0};
    if (stopping(m))
        return;
    if (m->discovery != NULL && (discovery_rounds(m->discovery) == 0 || !manager_cluster_ready(m))) {
        loop_timer_start(timer, LOOK_AGAIN_NS);
        return;
    }
    manager_move(m, MANAGER_RESUMING);
    if (operations_resume(&m->operations, on_resumed, m, &err) != 0)
        fail(m, &err);
}

static void on_discovered(enum discovery_event event, struct fleet_instance *instance, void *data)
{
    struct manager *m = data;
    log_event(LOG_INFO, "instance found", "event", discovery_event_name(event), "instance", instance->name,
              "db", instance->database, "shard", instance->shard, "source", instance->source, NULL);
    manager_cluster_poke(m);
    if (event == DISCOVERY_REMOVED) {
        pollers_forget(m->pollers, instance);
        manager_instance_gone(m, instance);
        api_instance_removed(m->api, instance->name);
        return;
    }
    api_instance_changed(m->api, instance);
    pollers_sync(m->pollers);
}

static void on_discovery_failed(const char *what, const struct err *err, void *data)
{
    (void)data;
    log_event(LOG_WARN, "discovery failed, what it gave before stays", "source", what, "err", err->message,
              NULL);
}

static void start_discovery(struct manager *m)
{
    struct discovery_entry *entries = NULL;
    struct err err = {0};
    int count = 0;
    manager_move(m, MANAGER_DISCOVERING);
    config_entries(&m->config, &entries, &count);
    struct discovery_options options = {.fleet = &m->fleet,
                                        .entries = entries,
                                        .entry_count = count,
                                        .runtime = m->runtime,
                                        .period_ns = m->config.discovery_interval_ns,
                                        .event = on_discovered,
                                        .failed = on_discovery_failed,
                                        .data = m};
    int rc = m->config.discovery_enabled ? discovery_start(&m->loop, &options, &m->discovery, &err) : 0;
    free(entries);
    if (rc != 0) {
        fail(m, &err);
        return;
    }
    manager_cluster_start(m);
    manager_figures_start(m);
    loop_timer_init(&m->loop, &m->step, look_for_round, m);
    loop_timer_start(&m->step, LOOK_AGAIN_NS);
}

/* ---- instances that do not run (the machine was restarted) are started again ---- */

static void on_adopted(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct manager *m = data;
    if (err != NULL)
        log_event(LOG_ERROR, "an instance could not be started again", "err", err->message, NULL);
    else
        log_event(LOG_INFO, "instance started again", "instance", instance->name, NULL);
    if (--m->adopting == 0 && !stopping(m))
        start_discovery(m);
}

/* Who keeps the others of its shard does not wait for it: that may be just what it needs another primary for.
 */
static void on_member_adopted(const struct err *err, const struct runtime_instance *instance, void *data)
{
    (void)data;
    if (err != NULL)
        log_event(LOG_ERROR, "an agent could not be started again", "err", err->message, NULL);
    else
        log_event(LOG_INFO, "agent started again", "instance", instance->name, NULL);
}

static void adopt(struct manager *m, const struct runtime_instance *instance)
{
    const struct fleet_database *db = fleet_find_database(&m->fleet, instance->database);
    struct runtime_spec spec;
    struct err err = {0};
    if (runtime_instance_runs(instance) || db == NULL || db->routing == NULL ||
        routing_find_shard(db->routing, instance->shard) == NULL)
        return;
    int rc = databases_spec_of(m->databases, db, instance->shard, 0, &spec, &err);
    spec.name = instance->name;
    spec.must_exist = true;
    if (rc == 0 &&
        runtime_ensure(m->runtime, &spec, spec.member ? on_member_adopted : on_adopted, m, &err) == 0)
        m->adopting += !spec.member;
    else
        log_event(LOG_ERROR, "an instance could not be started again", "instance", instance->name, "err",
                  err.message, NULL);
}

static void on_instances(const struct err *err, const struct runtime_instance *instances, int count,
                         void *data)
{
    struct manager *m = data;
    if (stopping(m))
        return;
    if (err != NULL) {
        fail(m, err);
        return;
    }
    m->adopting = 1;
    for (int i = 0; i < count; i++)
        adopt(m, &instances[i]);
    if (--m->adopting == 0)
        start_discovery(m);
}

static void on_databases(const struct err *err, void *data)
{
    struct manager *m = data;
    struct err local = {0};
    if (stopping(m))
        return;
    if (err != NULL) {
        fail(m, err);
        return;
    }
    manager_move(m, MANAGER_ADOPTING);
    if (!manager_runs_servers(m)) /* elsewhere servers are started by others than us */
        start_discovery(m);
    else if (runtime_list(m->runtime, on_instances, m, &local) != 0)
        fail(m, &local);
}

/* ---- store, lease, runtime ---- */

static bool fails_over(void *data, const char *database, const char *shard)
{
    return ha_shards_fails_over(data, database, shard);
}

static void on_moved(void *data)
{
    const struct manager *m = data;
    if (m->discovery != NULL)
        discovery_poll(m->discovery);
}

/* Whoever makes members has to keep them. */
static void start_ha(struct manager *m)
{
    struct operation_services *s = &m->operations.services;
    const struct ha_shards_options options = {.loop = &m->loop,
                                              .store = m->store,
                                              .fleet = &m->fleet,
                                              .operations = &m->operations,
                                              .changed = manager_member_changed,
                                              .heard = manager_figures_hear,
                                              .moved = on_moved,
                                              .data = m};
    if (m->runtime == NULL || !m->runtime->backend->members)
        return;
    m->ha = ha_shards_new(&options);
    s->drive = ha_shards_drive;
    s->release = ha_shards_release;
    s->fails_over = fails_over;
    s->drive_data = m->ha;
}

void manager_runtime_opened(struct manager *m, const struct err *why)
{
    struct err err = {0};
    if (why != NULL) {
        fail(m, why);
        return;
    }
    m->operations.services.runtime = m->runtime;
    manager_set_tools(m);
    start_ha(m);
    manager_move(m, MANAGER_DATABASES);
    if (databases_load(m->databases, &m->config.balance, on_databases, m, &err) != 0)
        fail(m, &err);
}

static void start_runtime(struct manager *m)
{
    manager_move(m, MANAGER_RUNTIME);
    manager_runtime_open(m);
}

static void on_lease(const struct err *err, int64_t term, void *data)
{
    struct manager *m = data;
    standby_stop(m->standby);
    m->standby = NULL;
    if (stopping(m))
        return;
    if (err != NULL) {
        fail(m, err);
        return;
    }
    m->operations.services.term = term;
    if (!m->shards_in_kube) {
        start_runtime(m);
        return;
    }
    manager_move(m, MANAGER_KUBERNETES);
    manager_kube_start(m);
}

void manager_kube_synced(struct manager *m)
{
    if (manager_now(m) == MANAGER_KUBERNETES)
        start_runtime(m);
}

static void on_deposed(void *data)
{
    struct manager *m = data;
    struct err err = {0};
    m->operations.services.term = 0;
    if (manager_now(m) >= MANAGER_READY && strcmp(m->store_kind, "sqlite") != 0) {
        manager_depose(m);
        return;
    }
    err_set(&err, ERRC_STALE, "the lease of the store was lost");
    fail(m, &err);
}

static void start_operations(struct manager *m)
{
    struct operation_services services = {.loop = &m->loop,
                                          .store = m->store,
                                          .fleet = &m->fleet,
                                          .kill_at =
                                              m->options.env->get(m->options.env, "SHARDHERD_TEST_KILL_AT"),
                                          .spec_of = databases_spec_of,
                                          .routing_changed = manager_routing_changed,
                                          .operation_changed = manager_operation_changed,
                                          .data = m};
    operations_init(&m->operations, &services);
    manager_set_moving(m);
    bool keeps_passwords = m->shards_in_kube; /* in Secrets */
    m->databases = databases_new(&m->loop, keeps_passwords ? NULL : m->config.state_directory, m->store,
                                 &m->fleet, &m->operations);
    m->operations.services.spec_data = m->databases;
    m->operations_ready = true;
}

static void standby_changed(void *data, struct fleet_database *db)
{
    struct manager *m = data;
    api_routing_changed(m->api, db);
}

void manager_store_opened(const struct err *err, struct store *store, void *data)
{
    struct manager *m = data;
    struct err local = {0};
    m->opening_store = false;
    m->store = err == NULL ? store : NULL;
    if (stopping(m)) {
        manager_close_on(m);
        return;
    }
    if (err != NULL && err->code == ERRC_UNAVAILABLE && m->config.in_pod) {
        log_event(LOG_ERROR, "the store cannot be opened, it is tried again", "err", err->message, NULL);
        m->again = true;
        manager_stop(m, NULL);
        return;
    }
    if (err != NULL) {
        fail(m, err);
        return;
    }
    write_ports(m); /* only now: another manager may use the directory, and the file is its own */
    start_operations(m);
    manager_move(m, MANAGER_LEADING);
    const struct standby_options standby = {
        .store = store, .fleet = &m->fleet, .changed = standby_changed, .data = m};
    if (strcmp(m->store_kind, "sqlite") != 0) /* whose lock is held from the beginning */
        m->standby = standby_start(&standby);
    if (store_lease(store, m->holder, on_lease, on_deposed, m, &local) != 0)
        fail(m, &local);
}

static int open_server(struct manager *m, const char *name, const char *address, int port,
                       http_handler_cb handler, struct http_server **ret)
{
    struct http_server_options options = {.address = address, .port = port};
    struct err why = {0};
    struct err err = {0};
    if (http_server_open(&m->loop, &options, handler, m->api, ret, &why) == 0)
        return 0;
    err_set(&err, why.code,
            "%s; set listen.%s_address and listen.%s_port (0 = a free port), or end what uses it",
            why.message, name, name);
    fail(m, &err);
    return 1;
}

static int make_state_directory(struct manager *m)
{
    struct err err = {0};
    /* searchable for the servers' user, whose own directories are below; everything in it is 0700 or 0600 */
    struct stat st;
    int error = mkdir(m->config.state_directory, 0711) == 0 ? 0 : errno;
    if (error == EEXIST && stat(m->config.state_directory, &st) == 0)
        error = S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    if (error == 0)
        return 0;
    err_set_errno(&err, error, "cannot make the state directory %s (state_directory names it)",
                  m->config.state_directory);
    fail(m, &err);
    return 1;
}

void manager_begin(struct manager *m)
{
    const struct config *c = &m->config;
    if (make_state_directory(m) != 0 ||
        open_server(m, "public", c->public_address, c->public_port, api_public_handler, &m->public_server) !=
            0 ||
        open_server(m, "admin", c->admin_address, c->admin_port, api_admin_handler, &m->admin_server) != 0 ||
        open_server(m, "metrics", c->metrics_address, c->metrics_port, api_metrics_handler,
                    &m->metrics_server) != 0)
        return;
    manager_choose(m);
    manager_open_store(m);
}
