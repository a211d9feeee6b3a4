#include "manager/manager_cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "discovery/application_source.h"
#include "discovery/kubernetes_follow.h"
#include "discovery/kubernetes_source.h"
#include "manager/manager_impl.h"
#include "operation/move_op.h"

#define FOLLOW_NS       (100 * ENV_NS_PER_MS)
#define FOLLOW_AGAIN_NS ENV_NS_PER_S

struct manager_cluster {
    struct manager *manager;
    struct kubernetes_source *servers;
    struct application_source *applications;
    char *namespaces; /* the texts below */
    const char *list[KUBERNETES_NAMESPACES_MAX];
    int count;
    struct loop_timer follow;
    unsigned publishing; /* routing tables */
    bool closing;
    struct loop_task gone;
    void (*closed)(void *data);
    void *closed_data;
    char text[400];
};

static bool is(const char *text, const char *word)
{
    return strcmp(text, word) == 0;
}

bool manager_cluster_wanted(const struct manager *m)
{
    return m->config.discovery_enabled && is(m->config.discovery_kubernetes, "on");
}

/* ---- routing tables follow ---- */

/* States in which a move publishes tables of its own. */
static bool busy(const struct operation *op, const char *database)
{
    if (op->status != OPERATION_RUNNING || op->database == NULL || strcmp(op->database, database) != 0)
        return false;
    if (!move_op_is(op))
        return !op->kind->aside;
    enum move_state state = move_op_record(op)->state;
    return state <= MOVE_TARGET || (state >= MOVE_REHEARSE && state <= MOVE_SETTLE) || state >= MOVE_CLEAN;
}

static bool database_busy(const struct manager *m, const char *database)
{
    list_each(node, &m->operations.list)
    {
        if (busy(list_item(node, struct operation, node), database))
            return true;
    }
    return false;
}

static void check_gone(struct manager_cluster *k)
{
    if (k->closing && k->publishing == 0 && k->servers == NULL && k->applications == NULL)
        loop_defer(&k->manager->loop, &k->gone);
}

static void on_published(const struct err *err, void *data)
{
    struct manager_cluster *k = data;
    k->publishing--;
    if (err != NULL && !k->closing) {
        log_event(LOG_WARN, "a routing table could not follow its pods, trying again", "err", err->message,
                  NULL);
        loop_timer_start(&k->follow, FOLLOW_AGAIN_NS);
    }
    check_gone(k);
}

static void log_followed(const struct fleet_database *db, const struct routing *now)
{
    for (size_t i = 0; i < now->shard_count; i++) {
        const struct routing_address *a = &db->routing->shards[i].primary, *b = &now->shards[i].primary;
        if (strcmp(a->host, b->host) != 0 || a->port != b->port)
            log_event(LOG_INFO, "the routing table follows a pod", "db", db->name, "shard",
                      now->shards[i].name, "from", a->host, "to", b->host, NULL);
    }
}

static void on_follow(struct loop_timer *timer, void *data)
{
    struct manager_cluster *k = data;
    struct manager *m = k->manager;
    if (m->operations.services.term == 0)
        return;
    list_each(node, &m->fleet.databases)
    {
        struct fleet_database *db = list_item(node, struct fleet_database, node);
        struct err err = {0};
        struct routing *now = kubernetes_follow(&m->fleet, db);
        if (now == NULL)
            continue;
        if (k->publishing > 0 || database_busy(m, db->name)) {
            routing_free(now);
            loop_timer_start(timer, FOLLOW_AGAIN_NS);
            continue;
        }
        log_followed(db, now);
        if (operation_publish(&m->operations, db, now, on_published, k, &err) == 0)
            k->publishing++;
        else
            log_event(LOG_WARN, "a routing table could not follow its pods", "db", db->name, "err",
                      err.message, NULL);
    }
}

void manager_cluster_poke(struct manager *m)
{
    struct manager_cluster *k = m->cluster;
    if (k == NULL || k->closing)
        return;
    if (!loop_timer_armed(&k->follow))
        loop_timer_start(&k->follow, FOLLOW_NS);
    if (k->applications != NULL)
        application_source_poke(k->applications);
}

/* ---- parts ---- */

static void on_failed(const char *what, const struct err *err, void *data)
{
    (void)data;
    log_event(LOG_WARN, "the cluster cannot be watched, what is known stays", "path", what, "err",
              err->message, NULL);
}

static void on_changed(void *data)
{
    struct manager_cluster *k = data;
    manager_cluster_poke(k->manager);
}

static void take_namespaces(struct manager_cluster *k)
{
    const char *text = k->manager->config.discovery_namespaces;
    char *rest = NULL;
    k->namespaces = mem_strdup(text != NULL ? text : "");
    for (char *one = strtok_r(k->namespaces, ", ", &rest);
         one != NULL && k->count < KUBERNETES_NAMESPACES_MAX; one = strtok_r(NULL, ", ", &rest))
        k->list[k->count++] = one;
}

void manager_cluster_start(struct manager *m)
{
    if (m->kube == NULL || m->discovery == NULL || is(m->config.discovery_kubernetes, "off"))
        return;
    struct manager_cluster *k = mem_zalloc(sizeof *k);
    k->manager = m;
    take_namespaces(k);
    loop_timer_init(&m->loop, &k->follow, on_follow, k);
    list_init(&k->gone.node);
    const struct kubernetes_source_options servers = {.client = m->kube,
                                                      .discovery = m->discovery,
                                                      .name_space = m->kube_namespace,
                                                      .namespaces = k->list,
                                                      .namespace_count = k->count,
                                                      .by_image = m->config.discovery_by_image,
                                                      .runtime_kind =
                                                          m->shards_in_kube ? m->runtime_kind : NULL,
                                                      .changed = on_changed,
                                                      .failed = on_failed,
                                                      .data = k};
    m->cluster = k;
    k->servers = kubernetes_source_start(&servers);
    const struct application_source_options applications = {.client = m->kube,
                                                            .fleet = &m->fleet,
                                                            .servers = k->servers,
                                                            .name_space = m->kube_namespace,
                                                            .namespaces = k->list,
                                                            .namespace_count = k->count};
    if (m->config.discovery_applications)
        k->applications = application_source_start(&applications);
}

static void kube_gone(struct loop_task *task, void *data)
{
    struct manager_cluster *k = data;
    void (*closed)(void *) = k->closed;
    void *closed_data = k->closed_data;
    (void)task;
    k->manager->cluster = NULL;
    free(k->namespaces);
    free(k);
    closed(closed_data);
}

static void servers_closed(void *data)
{
    struct manager_cluster *k = data;
    k->servers = NULL;
    check_gone(k);
}

static void applications_closed(void *data)
{
    struct manager_cluster *k = data;
    k->applications = NULL;
    kubernetes_source_close(k->servers, servers_closed, k); /* they read its names */
}

bool manager_cluster_close(struct manager *m, void (*closed)(void *data), void *data)
{
    struct manager_cluster *k = m->cluster;
    if (k == NULL)
        return false;
    k->closing = true;
    k->closed = closed;
    k->closed_data = data;
    k->gone.run = kube_gone;
    k->gone.data = k;
    loop_timer_stop(&k->follow);
    if (k->applications != NULL)
        application_source_close(k->applications, applications_closed, k);
    else
        kubernetes_source_close(k->servers, servers_closed, k);
    return true;
}

/* ---- what others ask ---- */

const struct kubernetes_source *manager_cluster_servers(const struct manager *m)
{
    return m->cluster != NULL ? m->cluster->servers : NULL;
}

bool manager_cluster_ready(const struct manager *m)
{
    return m->cluster == NULL || kubernetes_source_ready(m->cluster->servers);
}

const char *manager_cluster_text(const struct manager *m)
{
    struct manager_cluster *k = m->cluster;
    struct kubernetes_source_facts facts;
    if (k == NULL || k->servers == NULL)
        return "not used";
    kubernetes_source_count(k->servers, &facts);
    if (facts.failing > 0)
        snprintf(k->text, sizeof k->text, "%u of %u watches fail: %s", facts.failing, facts.watches,
                 facts.error);
    else
        snprintf(k->text, sizeof k->text, "%u watches, %llu objects in %llu bytes", facts.watches,
                 (unsigned long long)facts.objects, (unsigned long long)facts.bytes);
    return k->text;
}

bool manager_cluster_looks_for_applications(void *data)
{
    const struct manager *m = data;
    return m->cluster != NULL && m->cluster->applications != NULL;
}

bool manager_cluster_application(void *data, unsigned n, struct api_application *ret)
{
    const struct manager *m = data;
    size_t count = 0;
    const struct application *list = manager_cluster_looks_for_applications(data)
                                         ? application_source_list(m->cluster->applications, &count)
                                         : NULL;
    if (n >= count)
        return false;
    *ret = (struct api_application){.id = list[n].id,
                                    .kind = list[n].kind,
                                    .name = list[n].name,
                                    .name_space = list[n].name_space,
                                    .pending = list[n].pending,
                                    .connection_count = list[n].connection_count};
    for (size_t i = 0; i < list[n].connection_count && i < API_CONNECTIONS_MAX; i++) {
        const struct application_connection *c = &list[n].connections[i];
        ret->connections[i] = (struct api_connection){.container = c->container,
                                                      .variable = c->variable,
                                                      .from = c->from,
                                                      .host = c->host,
                                                      .port = c->port,
                                                      .dbname = c->dbname,
                                                      .user = c->user,
                                                      .state = connection_state_name(c->state),
                                                      .why = c->why,
                                                      .instance = c->instance,
                                                      .database = c->database,
                                                      .shard = c->shard};
    }
    return true;
}
