/* The first parts of the start-up: what to use (store, runtime, API server), the secrets for it, the store.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/client.h"
#include "loop/tls.h"
#include "manager/manager_impl.h"
#include "manager/manager_cluster.h"
#include "store/lease_note.h"

#define PASSWORD_LIMIT 4096
#define PEM_LIMIT      (1024 * 1024)
#define ENDPOINTS_MAX  16

/* ---- what to use ---- */

static bool is(const char *text, const char *word)
{
    return strcmp(text, word) == 0;
}

/* A constant, since the configuration may be replaced; NULL: "auto". */
static const char *constant_of(const char *kind)
{
    static const char *const words[] = {"kubernetes", "sqlite", "etcd"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (is(kind, words[i]))
            return words[i];
    return NULL;
}

/* Looks for the service account's token, so it touches the disk: once, before the loop runs. */
void manager_choose(struct manager *m)
{
    const struct config *c = &m->config;
    bool pod = k8s_in_cluster(m->options.env);
    const char *why = pod         ? "in a pod with a service account"
                      : c->in_pod ? "in a pod without a readable service account token"
                                  : "not in a pod";
    const char *store = constant_of(c->store_kind);
    m->store_kind = store != NULL ? store : pod ? "kubernetes" : "sqlite";
    manager_runtime_choose(m, pod, why);
    m->use_kube = pod || manager_cluster_wanted(m) || m->shards_in_kube || is(m->store_kind, "kubernetes");
    log_event(LOG_INFO, "what is used", "runtime", m->runtime_text, "store", m->store_kind, "store_why",
              store != NULL ? "store.kind says so" : why, NULL);
}

/* ---- files with secrets, on a worker ---- */

struct secrets {
    struct work work;
    struct manager *manager;
    struct k8s_access *store, *client;
    char *password, *ca, *cert, *key; /* for etcd */
    char *note_path, *identity;       /* for Kubernetes */
    struct lease_note *note;          /* NULL = none, note_err says why */
    struct err err, note_err;
};

static void secrets_free(struct secrets *s)
{
    k8s_access_free(s->store);
    k8s_access_free(s->client);
    mem_wipe_free(s->password);
    free(s->ca);
    free(s->cert);
    mem_wipe_free(s->key);
    lease_note_close(s->note);
    free(s->note_path);
    free(s->identity);
    free(s);
}

static int read_access(struct secrets *s, struct k8s_access **ret)
{
    const struct config *c = &s->manager->config;
    const struct k8s_access_options options = {.kubeconfig = c->kubeconfig, .context = c->kube_context};
    int rc = k8s_access_load(s->manager->options.env, &options, ret, &s->err);
    if (rc == 0 && c->kube_namespace != NULL) {
        free((*ret)->name_space);
        (*ret)->name_space = mem_strdup(c->kube_namespace);
    }
    return rc;
}

static int read_file(struct secrets *s, const char *key, const char *path, size_t limit, char **ret)
{
    if (path == NULL || k8s_file_read(path, limit, ret, &s->err) == 0)
        return 0;
    return err_wrap(&s->err, "%s", key);
}

static void read_secrets(struct work *work)
{
    struct secrets *s = work->data;
    const struct manager *m = s->manager;
    const struct config *c = &m->config;
    if (is(m->store_kind, "kubernetes") && read_access(s, &s->store) != 0)
        return;
    if (m->use_kube && read_access(s, &s->client) != 0)
        return;
    if (is(m->store_kind, "kubernetes"))
        (void)lease_note_open(s->note_path, s->identity, &s->note, &s->note_err);
    if (!is(m->store_kind, "etcd"))
        return;
    if (read_file(s, "store.etcd_password_file", c->etcd_password_file, PASSWORD_LIMIT, &s->password) != 0 ||
        read_file(s, "store.etcd_ca_file", c->etcd_ca_file, PEM_LIMIT, &s->ca) != 0 ||
        read_file(s, "store.etcd_cert_file", c->etcd_cert_file, PEM_LIMIT, &s->cert) != 0 ||
        read_file(s, "store.etcd_key_file", c->etcd_key_file, PEM_LIMIT, &s->key) != 0)
        return;
    if (s->password != NULL)
        s->password[strcspn(s->password, "\r\n")] = '\0';
}

/* ---- the store ---- */

static int open_etcd(struct manager *m, const struct secrets *s, store_open_cb opened, struct err *err)
{
    const char *endpoints[ENDPOINTS_MAX];
    const struct config *c = &m->config;
    const struct tls_options tls = {
        .verify_peer = true, .ca_pem = s->ca, .cert_pem = s->cert, .key_pem = s->key};
    struct store_etcd_options options = {
        .endpoints = endpoints, .prefix = c->etcd_prefix, .user = c->etcd_user, .password = s->password};
    if (c->etcd_endpoints == NULL)
        return err_set(err, ERRC_INVALID, "store.kind is etcd: name its members with store.etcd_endpoints");
    char *list = mem_strdup(c->etcd_endpoints), *rest = NULL;
    for (char *one = strtok_r(list, ", ", &rest); one != NULL && options.endpoint_count < ENDPOINTS_MAX;
         one = strtok_r(NULL, ", ", &rest))
        endpoints[options.endpoint_count++] = one;
    int rc = s->ca != NULL || s->cert != NULL ? tls_context_new(&tls, &options.tls, err) : 0;
    if (rc == 0)
        rc = store_etcd_open(&m->loop, &options, opened, m, err);
    tls_context_unref(options.tls);
    free(list);
    return rc;
}

static int open_sqlite(struct manager *m, store_open_cb opened, struct err *err)
{
    char *path = mem_printf("%s/store.db", m->config.state_directory);
    int rc = store_sqlite_open(&m->loop, path, opened, m, err);
    free(path);
    return rc;
}

static int open_kubernetes(struct manager *m, struct secrets *s, store_open_cb opened, struct err *err)
{
    struct k8s_access *access = s->store;
    struct lease_note *note = s->note;
    if (note == NULL) /* its Lease has to run out when it crashes; nothing else is worse */
        log_event(LOG_WARN, "a crashed predecessor's Lease will be waited for", "err", s->note_err.message,
                  NULL);
    s->store = NULL; /* taken over */
    s->note = NULL;
    return store_kubernetes_open(&m->loop, access, m->config.kube_id, note, opened, m, err);
}

/* The client exists from here on, so that no other part has to ask whether it is there yet. */
static void make_client(struct manager *m, struct secrets *s)
{
    if (s->client == NULL)
        return;
    m->kube_namespace = mem_strdup(s->client->name_space);
    snprintf(m->kube_text, sizeof m->kube_text, "%s, namespace %s", s->client->source, m->kube_namespace);
    log_event(LOG_INFO, "API server", "server", s->client->server, "source", s->client->source, "namespace",
              m->kube_namespace, NULL);
    m->kube = k8s_client_new(&m->loop, s->client);
    s->client = NULL;
}

static void secrets_done(struct work *work, int code)
{
    struct secrets *s = work->data;
    struct manager *m = s->manager;
    int rc = code != 0 ? err_set(&s->err, ERRC_CANCELED, "canceled") : (int)s->err.code;
    m->reading_secrets = false;
    if (manager_now(m) >= MANAGER_STOPPING) {
        secrets_free(s);
        manager_close_on(m);
        return;
    }
    if (rc == 0) {
        make_client(m, s);
        manager_move(m, MANAGER_STORE);
        m->opening_store = true;
        rc = is(m->store_kind, "etcd")         ? open_etcd(m, s, manager_store_opened, &s->err)
             : is(m->store_kind, "kubernetes") ? open_kubernetes(m, s, manager_store_opened, &s->err)
                                               : open_sqlite(m, manager_store_opened, &s->err);
    }
    if (rc != 0) {
        m->opening_store = false;
        manager_stop(m, &s->err);
    }
    secrets_free(s);
}

static void name_holder(struct manager *m)
{
    const char *host = m->options.env->get(m->options.env, "HOSTNAME");
    if (m->config.in_pod && host != NULL) /* the pod's name */
        snprintf(m->holder, sizeof m->holder, "%.100s", host);
    else
        snprintf(m->holder, sizeof m->holder, "pid %d", (int)getpid());
}

void manager_open_store(struct manager *m)
{
    struct err err = {0};
    struct secrets *s = mem_zalloc(sizeof *s);
    char unique[9];
    name_holder(m);
    env_random_text(m->loop.env, unique, 8);
    s->manager = m;
    s->note_path = mem_printf("%s/lease", m->config.state_directory);
    s->identity = mem_printf("%s_%s", m->holder, unique);
    manager_move(m, MANAGER_SECRETS);
    if (work_start(&m->loop, &s->work, read_secrets, secrets_done, s) == 0) {
        m->reading_secrets = true;
        return;
    }
    secrets_free(s);
    err_set(&err, ERRC_INTERNAL, "no worker");
    manager_stop(m, &err);
}
