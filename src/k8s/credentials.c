#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/credentials.h"
#include "k8s/exec_plugin.h"
#include "loop/process.h"
#include "loop/tls.h"
#include "loop/work.h"

#define TOKEN_FRESH_NS                                                                                       \
    (50 * ENV_NS_PER_S)                     /* client-go transport/token_source.go: 60 s less 10 s of leeway \
                                             */
#define TRUST_FRESH_NS (300 * ENV_NS_PER_S) /* client-go transport/cert_rotation.go, ca_rotation.go */
#define RETRY_NS       (5 * ENV_NS_PER_S)   /* after a reading that failed, while something older serves */
#define FILE_LIMIT     (1024u * 1024u)
#define EXEC_LIMIT_NS  (60 * ENV_NS_PER_S)
#define EXEC_OUTPUT    (1024u * 1024u)

struct identity_request {
    struct k8s_credentials *c;
    struct list node;
    struct err err;
    k8s_identity_cb cb;
    void *data;
};

/* What a reading brought. Owned by the job while it runs. */
struct reading {
    struct err err;
    char *token; /* NULL: none wanted, or the file could not be read */
    struct tls_context *tls;
    char *trust; /* what tls was made of, to see a change */
};

struct k8s_credentials {
    struct loop *loop;
    struct k8s_access *access;
    struct list waiting;
    struct loop_task task; /* answers requests */
    struct work work;
    struct process *process;
    struct reading reading;
    char *exec_info;
    char *token; /* present one, of a file, the kubeconfig or a program */
    char *exec_cert, *exec_key;
    char *authorization;
    struct tls_context *tls;
    char *trust;
    uint64_t number, tls_number;
    uint64_t fresh_until_ns; /* of files; 0 = never read */
    int64_t exec_expires_us; /* of the program's answer; 0 = it never ran */
    uint64_t rejected;       /* identity that got a 401 and was answered by a new reading */
    bool reading_files, running, closing;
    struct err err; /* of the last reading that left us with nothing */
    void (*closed)(void *data);
    void *closed_data;
};

static void wipe(char **text)
{
    mem_wipe_free(*text);
    *text = NULL;
}

static void credentials_run(struct loop_task *task, void *data);

struct k8s_credentials *k8s_credentials_new(struct loop *loop, struct k8s_access *access)
{
    struct k8s_credentials *c = mem_zalloc(sizeof *c);
    c->loop = loop;
    c->access = access;
    list_init(&c->waiting);
    c->task = (struct loop_task){.run = credentials_run, .data = c};
    list_init(&c->task.node);
    return c;
}

const struct k8s_access *k8s_credentials_access(const struct k8s_credentials *c)
{
    return c->access;
}

static void credentials_free(struct k8s_credentials *c)
{
    void (*closed)(void *data) = c->closed;
    void *closed_data = c->closed_data;
    k8s_access_free(c->access);
    tls_context_unref(c->tls);
    wipe(&c->token);
    wipe(&c->exec_key);
    wipe(&c->authorization);
    wipe(&c->trust);
    free(c->exec_cert);
    free(c->exec_info);
    free(c);
    if (closed != NULL)
        closed(closed_data);
}

/* ---- reading files, on a worker ---- */

/* The text itself, or what the file holds; NULL if there is neither. */
static int text_or_file(const char *text, const char *file, char **ret, struct err *err)
{
    if (text != NULL) {
        *ret = mem_strdup(text);
        return 0;
    }
    return file != NULL ? k8s_file_read(file, FILE_LIMIT, ret, err) : 0;
}

static int read_trust(const struct k8s_credentials *c, struct reading *r)
{
    const struct k8s_access *a = c->access;
    char *ca = NULL, *cert = NULL, *key = NULL;
    int rc = text_or_file(a->ca_pem, a->ca_file, &ca, &r->err);
    if (rc == 0 && c->exec_cert == NULL)
        rc = text_or_file(a->cert_pem, a->cert_file, &cert, &r->err);
    if (rc == 0 && c->exec_cert == NULL)
        rc = text_or_file(a->key_pem, a->key_file, &key, &r->err);
    if (rc == 0) {
        const char *use_cert = c->exec_cert != NULL ? c->exec_cert : cert;
        const char *use_key = c->exec_cert != NULL ? c->exec_key : key;
        const struct tls_options o = {
            .verify_peer = !a->insecure, .ca_pem = ca, .cert_pem = use_cert, .key_pem = use_key};
        r->trust = mem_printf("%s\n%s\n%s", ca != NULL ? ca : "", use_cert != NULL ? use_cert : "",
                              use_key != NULL ? use_key : "");
        if (c->trust == NULL || strcmp(c->trust, r->trust) != 0)
            rc = tls_context_new(&o, &r->tls, &r->err);
    }
    free(ca);
    free(cert);
    mem_wipe_free(key);
    return rc;
}

static int read_token(const struct k8s_credentials *c, struct reading *r)
{
    const struct k8s_access *a = c->access;
    struct err err = {0};
    if (a->token_file == NULL || k8s_file_read(a->token_file, FILE_LIMIT, &r->token, &err) != 0)
        return a->token_file == NULL || c->token != NULL || a->token != NULL ? 0 : err_copy(&r->err, &err);
    size_t length = strlen(r->token);
    while (length > 0 && strchr(" \t\r\n", r->token[length - 1]) != NULL)
        r->token[--length] = '\0';
    if (length > 0)
        return 0;
    wipe(&r->token);
    return c->token != NULL || a->token != NULL
               ? 0
               : err_set(&r->err, ERRC_AUTH, "the token file %s is empty", a->token_file);
}

static void files_read(struct work *work)
{
    struct k8s_credentials *c = work->data;
    struct reading *r = &c->reading;
    int rc = read_token(c, r);
    if (rc == 0 && strncmp(c->access->server, "https:", 6) == 0)
        (void)read_trust(c, r);
}

/* ---- taking over ---- */

static char *basic_authorization(const struct k8s_access *a)
{
    char *pair = mem_printf("%s:%s", a->username, a->password != NULL ? a->password : "");
    size_t length = strlen(pair);
    char *out = mem_alloc(length / 3 * 4 + 5);
    (void)EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)pair, (int)length);
    char *header = mem_printf("Basic %s", out);
    mem_wipe_free(pair);
    mem_wipe_free(out);
    return header;
}

static void set_authorization(struct k8s_credentials *c)
{
    const struct k8s_access *a = c->access;
    const char *token = c->token != NULL ? c->token : a->token;
    wipe(&c->authorization);
    if (strncmp(a->server, "https:", 6) != 0)
        return; /* nothing secret over a plain connection */
    if (token != NULL)
        c->authorization = mem_printf("Bearer %s", token);
    else if (a->username != NULL)
        c->authorization = basic_authorization(a);
}

static bool have_identity(const struct k8s_credentials *c)
{
    bool https = strncmp(c->access->server, "https:", 6) == 0;
    return c->number > 0 && (!https || c->tls != NULL);
}

static void files_done(struct work *work, int code)
{
    struct k8s_credentials *c = work->data;
    struct reading *r = &c->reading;
    c->reading_files = false;
    if (code == 0 && r->token != NULL) {
        wipe(&c->token);
        c->token = r->token;
        r->token = NULL;
    }
    if (code == 0 && r->tls != NULL) {
        tls_context_unref(c->tls);
        c->tls = r->tls;
        r->tls = NULL;
        wipe(&c->trust);
        c->trust = r->trust;
        r->trust = NULL;
        c->tls_number++;
    }
    if (code == 0) {
        c->number += r->err.code == ERRC_NONE || have_identity(c);
        uint64_t fresh = r->err.code != ERRC_NONE        ? RETRY_NS
                         : c->access->token_file != NULL ? TOKEN_FRESH_NS
                                                         : TRUST_FRESH_NS;
        if (c->access->fresh_ns != 0)
            fresh = c->access->fresh_ns;
        c->fresh_until_ns = loop_now(c->loop) + fresh;
        err_copy(&c->err, &r->err);
        set_authorization(c);
    }
    tls_context_unref(r->tls);
    wipe(&r->token);
    wipe(&r->trust);
    memset(r, 0, sizeof *r);
    loop_defer(c->loop, &c->task);
}

/* ---- the program ---- */

static bool wants_exec(const struct k8s_credentials *c)
{
    const struct k8s_access *a = c->access;
    return a->exec != NULL && a->token == NULL && a->token_file == NULL && a->username == NULL &&
           a->cert_pem == NULL && a->cert_file == NULL;
}

static bool exec_due(const struct k8s_credentials *c)
{
    return wants_exec(c) && (c->exec_expires_us == 0 || loop_wall(c->loop) >= c->exec_expires_us ||
                             (c->rejected == c->number && c->number > 0));
}

static void exec_take(struct k8s_credentials *c, struct exec_credential *found)
{
    wipe(&c->token);
    c->token = found->token;
    free(c->exec_cert);
    wipe(&c->exec_key);
    c->exec_cert = found->cert_pem;
    c->exec_key = found->key_pem;
    c->exec_expires_us = found->expires_us;
    c->fresh_until_ns = 0; /* the certificate is part of the trust: make it anew */
    memset(found, 0, sizeof *found);
}

static void exec_done(const struct process_result *result, void *data)
{
    struct k8s_credentials *c = data;
    struct exec_credential found = {0};
    struct err err = {0};
    c->running = false;
    c->process = NULL;
    if (result->err.code != ERRC_NONE)
        err_copy(&err, &result->err);
    else if (result->exit_code != 0)
        (void)err_set(&err, ERRC_AUTH, "%s failed with exit code %d%s%s", c->access->exec->command,
                      result->exit_code, c->access->exec->install_hint != NULL ? ": " : "",
                      c->access->exec->install_hint != NULL ? c->access->exec->install_hint : "");
    else if (result->truncated)
        (void)err_set(&err, ERRC_LIMIT, "%s printed more than %u bytes", c->access->exec->command,
                      EXEC_OUTPUT);
    else
        (void)exec_plugin_read(c->access, result->out, result->out_length, &found, &err);
    if (err.code == ERRC_NONE)
        exec_take(c, &found);
    err_copy(&c->err, &err);
    loop_defer(c->loop, &c->task);
}

static int exec_start(struct k8s_credentials *c)
{
    const struct k8s_exec *exec = c->access->exec;
    size_t args = 0, env = 0;
    while (exec->args != NULL && exec->args[args] != NULL)
        args++;
    while (exec->env[env] != NULL)
        env++;
    const char **argv = mem_array(args + 2, sizeof *argv), **envp = mem_array(env + 2, sizeof *envp);
    char *info = exec_plugin_info(c->access, c->access->ca_pem);
    argv[0] = exec->command;
    for (size_t i = 0; i < args; i++)
        argv[i + 1] = exec->args[i];
    for (size_t i = 0; i < env; i++)
        envp[i] = exec->env[i];
    free(c->exec_info);
    c->exec_info = mem_printf("KUBERNETES_EXEC_INFO=%s", info);
    free(info);
    envp[env] = c->exec_info;
    uint64_t limit = c->access->fresh_ns != 0 ? c->access->fresh_ns : EXEC_LIMIT_NS;
    const struct process_options o = {
        .argv = argv, .env = envp, .timeout_ns = limit, .capture_limit = EXEC_OUTPUT};
    int rc = process_start(c->loop, &o, exec_done, c, &c->process, &c->err);
    free(argv);
    free(envp);
    c->running = rc == 0;
    return rc;
}

/* ---- requests ---- */

static void request_end(struct identity_request *q, const struct err *err,
                        const struct k8s_identity *identity)
{
    struct err copy = {0};
    list_remove(&q->node);
    err_copy(&copy, err);
    q->cb(err != NULL ? &copy : NULL, identity, q->data);
    free(q);
}

static void answer_all(struct k8s_credentials *c, const struct err *err)
{
    const struct k8s_identity identity = {c->authorization, c->tls, c->number, c->tls_number};
    struct list now;
    list_init(&now);
    while (!list_empty(&c->waiting)) { /* those that come meanwhile wait for the next turn */
        struct list *node = list_first(&c->waiting);
        list_remove(node);
        list_append(&now, node);
    }
    while (!list_empty(&now)) {
        struct identity_request *q = list_item(list_first(&now), struct identity_request, node);
        const struct err *why = q->err.code != ERRC_NONE ? &q->err : err;
        request_end(q, why, why == NULL ? &identity : NULL);
    }
}

static void answer_canceled(struct k8s_credentials *c)
{
    list_each(node, &c->waiting)
    {
        struct identity_request *q = list_item(node, struct identity_request, node);
        if (q->err.code != ERRC_NONE) {
            request_end(q, &q->err, NULL);
            loop_defer(c->loop, &c->task); /* the callback may have changed the list: look again */
            return;
        }
    }
}

static bool stale(const struct k8s_credentials *c)
{
    return c->fresh_until_ns == 0 || loop_now(c->loop) >= c->fresh_until_ns;
}

/* Brings what is missing, one thing at a time; comes back here when it is there. */
static void credentials_run(struct loop_task *task, void *data)
{
    struct k8s_credentials *c = data;
    (void)task;
    if (c->closing) {
        const struct err canceled = {.code = ERRC_CANCELED, .message = "the Kubernetes client is closing"};
        answer_all(c, &canceled);
        if (!c->reading_files && !c->running)
            credentials_free(c);
        return;
    }
    answer_canceled(c);
    if (c->reading_files || c->running || list_empty(&c->waiting))
        return;
    if (c->err.code != ERRC_NONE && !have_identity(c)) {
        struct err err = c->err;
        err_clear(&c->err);
        answer_all(c, &err); /* the next request tries again */
    } else if (exec_due(c) && c->err.code == ERRC_NONE) {
        if (exec_start(c) != 0)
            loop_defer(c->loop, &c->task);
    } else if (stale(c)) {
        c->reading_files = work_start(c->loop, &c->work, files_read, files_done, c) == 0;
    } else {
        err_clear(&c->err);
        answer_all(c, NULL);
    }
}

int k8s_identity_get(struct k8s_credentials *c, k8s_identity_cb cb, void *data, struct identity_request **ret,
                     struct err *err)
{
    if (c->closing)
        return err_set(err, ERRC_CANCELED, "the Kubernetes client is closing");
    struct identity_request *q = mem_zalloc(sizeof *q);
    *q = (struct identity_request){.c = c, .cb = cb, .data = data};
    list_append(&c->waiting, &q->node);
    loop_defer(c->loop, &c->task);
    *ret = q;
    return 0;
}

void k8s_identity_cancel(struct identity_request *q)
{
    (void)err_set(&q->err, ERRC_CANCELED, "canceled");
    loop_defer(q->c->loop, &q->c->task);
}

void k8s_identity_rejected(struct k8s_credentials *c, uint64_t number)
{
    if (number == c->number && c->rejected != number) {
        c->rejected = number;
        c->fresh_until_ns = 0;
    }
}

void k8s_credentials_close(struct k8s_credentials *c, void (*closed)(void *data), void *data)
{
    c->closing = true;
    c->closed = closed;
    c->closed_data = data;
    if (c->process != NULL)
        process_cancel(c->process);
    loop_defer(c->loop, &c->task);
}
