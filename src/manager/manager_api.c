/* What the API needs of the manager: databases, decisions, readiness, metrics. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "manager/manager_impl.h"
#include "manager/manager_cluster.h"
#include "manager/manager_figures.h"
#include "version.h"

/* ---- databases ---- */

struct answer {
    api_answer_cb cb;
    void *data;
};

static void on_answer(const struct databases_answer *answer, void *data)
{
    struct answer a = *(struct answer *)data;
    struct api_answer out = {.err = answer->err, .created = answer->created, .operation = answer->operation};
    free(data);
    a.cb(&out, a.data);
}

static struct answer *new_answer(api_answer_cb cb, void *data)
{
    struct answer *a = mem_alloc(sizeof *a);
    *a = (struct answer){cb, data};
    return a;
}

/* An object would be without its database, or a database without its object. */
static int objects_only(const struct manager *m, const char *verb, struct err *err)
{
    return err_set(err, ERRC_REFUSED,
                   "databases are ShardedDatabase objects here: kubectl -n %s %s one, and it is followed",
                   m->kube_namespace, verb);
}

static int not_ready(const struct manager *m, struct err *err)
{
    return err_set(err, ERRC_UNAVAILABLE, "the manager is %s: try again in a moment", sm_name(&m->sm));
}

static int apply_database(void *data, const char *name, const char *text, size_t length, bool dry_run,
                          api_answer_cb cb, void *cb_data, struct err *err)
{
    struct manager *m = data;
    if (manager_now(m) != MANAGER_READY)
        return not_ready(m, err);
    if (m->kube_databases != NULL && !dry_run)
        return objects_only(m, "apply", err);
    struct answer *a = new_answer(cb, cb_data);
    int rc =
        databases_apply(m->databases, name, text, length, &m->config.balance, dry_run, on_answer, a, err);
    if (rc != 0)
        free(a);
    return rc;
}

static int delete_database(void *data, const char *name, api_answer_cb cb, void *cb_data, struct err *err)
{
    struct manager *m = data;
    if (manager_now(m) != MANAGER_READY)
        return not_ready(m, err);
    if (m->kube_databases != NULL)
        return objects_only(m, "delete", err);
    struct answer *a = new_answer(cb, cb_data);
    int rc = databases_delete(m->databases, name, on_answer, a, err);
    if (rc != 0)
        free(a);
    return rc;
}

/* ---- decisions ---- */

static void fill_decision(const struct balancer_decision *d, struct api_decision *ret)
{
    *ret = (struct api_decision){.number = d->number,
                                 .at_us = d->at_us,
                                 .database = d->database,
                                 .shard = d->change.shard,
                                 .target = d->change.target,
                                 .kind = balance_kind_name(d->change.kind),
                                 .act = d->change.act,
                                 .rule = d->change.rule,
                                 .rule_name = balance_rule_name(d->change.rule),
                                 .sentence = d->change.sentence,
                                 .operation = d->operation};
}

static bool decision(void *data, unsigned n, struct api_decision *ret)
{
    struct manager *m = data;
    const struct balancer_decision *d = m->balancer != NULL ? balancer_decision(m->balancer, n) : NULL;
    if (d != NULL)
        fill_decision(d, ret);
    return d != NULL;
}

static bool standing(void *data, const char *database, const char *shard, struct api_standing *ret)
{
    struct manager *m = data;
    const struct balance_shard_state *s =
        m->balancer != NULL ? balancer_shard(m->balancer, database, shard) : NULL;
    if (s == NULL)
        return false;
    *ret = (struct api_standing){.phase = balance_phase_name(s->phase),
                                 .row = s->row,
                                 .hot_since_ns = s->hot_since_ns,
                                 .refusal_rule = s->refusal.rule,
                                 .refusal_active = s->refusal.active,
                                 .refusal_rule_name = balance_rule_name(s->refusal.rule),
                                 .refusal_sentence = s->refusal.sentence,
                                 .refusal_since_ns = s->refusal.since_ns};
    return true;
}

static bool guards(void *data, const char *database, const char *shard, struct api_guards *ret)
{
    struct manager *m = data;
    struct guard_state state;
    if (m->guards == NULL || !guard_watch_get(m->guards, database, shard, &state))
        return false;
    *ret = (struct api_guards){.checked_us = state.checked_us, .findings = state.findings};
    return true;
}

/* ---- shards with standbys ---- */

static bool kept(void *data, const char *database, const char *shard, struct api_kept *ret)
{
    struct manager *m = data;
    return m->ha != NULL && ha_shards_get(m->ha, database, shard, ret);
}

static int ha_ready(const struct manager *m, struct err *err)
{
    if (manager_now(m) != MANAGER_READY)
        return not_ready(m, err);
    if (m->ha == NULL)
        return err_set(err, ERRC_UNSUPPORTED, "shards have no standbys here that could be the primary");
    return 0;
}

static int switchover(void *data, const char *database, const char *shard, const char *to, struct err *err)
{
    struct manager *m = data;
    int rc = ha_ready(m, err);
    return rc != 0 ? rc : ha_shards_switch(m->ha, database, shard, to, NULL, err);
}

static int maintain(void *data, const char *database, const char *shard, bool on, struct err *err)
{
    struct manager *m = data;
    int rc = ha_ready(m, err);
    return rc != 0 ? rc : ha_shards_maintain(m->ha, database, shard, on, err);
}

static int fail_over(void *data, const char *database, const char *shard, const char *to, bool allow_loss,
                     struct err *err)
{
    struct manager *m = data;
    int rc = ha_ready(m, err);
    return rc != 0 ? rc : ha_shards_fail_over(m->ha, database, shard, to, allow_loss, err);
}

/* It is started again as any that ended is, with the programs of now. */
static void stopped(const struct err *err, void *data)
{
    struct manager *m = data;
    if (err != NULL)
        log_event(LOG_ERROR, "a member was to be restarted", "instance", m->restarting, "err", err->message,
                  NULL);
    free(m->restarting);
    m->restarting = NULL;
}

static int restart(void *data, const struct fleet_instance *instance, struct err *err)
{
    struct manager *m = data;
    int rc = ha_ready(m, err);
    if (rc == 0 && strcmp(m->runtime_kind, "local") != 0)
        rc = err_set(err, ERRC_UNSUPPORTED,
                     "instances are restarted by who runs them, one after the other, when "
                     "their specification changes");
    if (rc == 0 && m->restarting != NULL)
        rc = err_set(err, ERRC_CONFLICT, "%s is being restarted: again in a moment", m->restarting);
    if (rc == 0)
        rc = ha_shards_may_restart(m->ha, instance, err);
    if (rc == 0)
        rc = runtime_stop(m->runtime, instance->name, stopped, m, err);
    if (rc == 0)
        m->restarting = mem_strdup(instance->name);
    return rc;
}

void manager_api_decided(struct manager *m, const struct balancer_decision *d)
{
    struct api_decision out;
    fill_decision(d, &out);
    api_decided(m->api, &out);
}

/* ---- readiness ---- */

#define STANDBY_COMPONENTS 4 /* the others begin when it leads */

/* The runtime's databases are known; only to look into a cluster, a client is enough. */
static bool kubernetes_ready(const struct manager *m, enum manager_state state)
{
    if (!m->use_kube)
        return true;
    return m->shards_in_kube ? state > MANAGER_KUBERNETES : m->kube != NULL;
}

static bool component(void *data, unsigned n, struct api_component *ret)
{
    struct manager *m = data;
    enum manager_state state = manager_now(m);
    bool up = state <= MANAGER_DEPOSED;
    manager_kube_text(m, m->kube_now, sizeof m->kube_now);
    if (up)
        manager_watch_text(m); /* afterwards the pollers may be gone */
    /* a standby serves routing tables, so it is in service: an update can wait for it before the leader goes
     */
    bool standby = m->standby != NULL;
    const char *leader = standby                    ? "standby, waits for the lease and serves routing tables"
                         : state == MANAGER_DEPOSED ? "the lease was lost: polls and serves, changes nothing"
                                                    : NULL;
    const struct api_component all[] = {
        /* a bad file keeps the old configuration: worth a word, not worth taking the manager out of service
         */
        {"configuration", true, m->config_error.code != ERRC_NONE ? m->config_error.message : NULL},
        {"secrets", up && state > MANAGER_SECRETS, NULL},
        {"store", up && state > MANAGER_STORE, m->store != NULL ? store_name(m->store) : "is being opened"},
        {"leader", standby || (up && state > MANAGER_LEADING && state != MANAGER_DEPOSED), leader},
        {"kubernetes", up && kubernetes_ready(m, state),
         !m->use_kube                ? "not used"
         : m->kube_databases == NULL ? m->kube_text
                                     : m->kube_now},
        {"runtime", up && state > MANAGER_RUNTIME, m->runtime_text},
        {"databases", up && state > MANAGER_DATABASES, NULL},
        {"instances", up && state > MANAGER_ADOPTING, NULL},
        {"discovery", up && state > MANAGER_DISCOVERING, m->config.discovery_enabled ? NULL : "switched off"},
        {"cluster", up && state > MANAGER_DISCOVERING, manager_cluster_text(m)},
        {"prometheus", true, manager_figures_text(m)}, /* worth a word, never worth being out of service */
        /* a server that is down is its own trouble: this manager is not better for being restarted */
        {"collectors", up && state > MANAGER_DISCOVERING, m->collectors_text},
        {"health", up && state > MANAGER_DISCOVERING, m->health_text},
        {"operations", state == MANAGER_READY, NULL},
        {"balancer", state == MANAGER_READY, NULL},
    };
    size_t count = standby ? STANDBY_COMPONENTS : sizeof all / sizeof all[0];
    if (n >= count)
        return false;
    *ret = all[n];
    return true;
}

static void metrics(void *data, struct http_exchange *ex)
{
    struct manager *m = data;
    static const struct http_request get = {
        .method = "GET", .path = "/metrics", .query = "", .body = "", .peer = ""};
    exposition_handle(ex, &get, m->exposition);
}

/* ---- life ---- */

void manager_api_init(struct manager *m)
{
    struct api_services services = {.loop = &m->loop,
                                    .fleet = &m->fleet,
                                    .operations = &m->operations,
                                    .version = SHARDHERD_VERSION,
                                    .commit = SHARDHERD_COMMIT,
                                    .admin_host = m->config.admin_address,
                                    .data = m,
                                    .apply_database = apply_database,
                                    .delete_database = delete_database,
                                    .decision = decision,
                                    .standing = standing,
                                    .guards = guards,
                                    .kept = kept,
                                    .switchover = switchover,
                                    .maintain = maintain,
                                    .fail_over = fail_over,
                                    .restart = restart,
                                    .application = manager_cluster_application,
                                    .looks_for_applications = manager_cluster_looks_for_applications,
                                    .component = component,
                                    .metrics = metrics};
    list_init(&m->operations.list); /* readable before operations_init() */
    m->api = api_new(&services);
    struct exposition_options options = {
        .version = SHARDHERD_VERSION, .commit = SHARDHERD_COMMIT, .numbers = manager_numbers, .data = m};
    m->exposition = exposition_new(&m->loop, m->pollers, &options);
}

void manager_api_fini(struct manager *m)
{
    api_free(m->api);
}
