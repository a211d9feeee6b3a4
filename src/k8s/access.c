#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "k8s/access.h"

#define FILE_LIMIT (1024u * 1024u)

int k8s_file_read(const char *path, size_t limit, char **ret, struct err *err)
{
    struct buf b = {.limit = limit};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot read %s", path);
    for (;;) {
        char piece[4096];
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR)
            continue;
        int rc = n < 0 ? err_set_errno(err, errno, "cannot read %s", path) : 0;
        if (n > 0 && !buf_add(&b, piece, (size_t)n))
            rc = err_set(err, ERRC_LIMIT, "%s is larger than %zu bytes", path, limit);
        if (rc != 0 || n == 0) {
            (void)close(fd);
            *ret = rc == 0 ? mem_strdup(buf_text(&b)) : NULL;
            if (b.data != NULL)
                memset(b.data, 0, b.length);
            buf_free(&b);
            return rc;
        }
    }
}

static void texts_free(char **texts)
{
    for (size_t i = 0; texts != NULL && texts[i] != NULL; i++)
        mem_wipe_free(texts[i]);
    free(texts);
}

static void exec_free(struct k8s_exec *exec)
{
    if (exec == NULL)
        return;
    free(exec->api_version);
    free(exec->command);
    texts_free(exec->args);
    texts_free(exec->env);
    free(exec->directory);
    free(exec->install_hint);
    free(exec);
}

void k8s_access_free(struct k8s_access *a)
{
    if (a == NULL)
        return;
    char *const texts[] = {a->server,   a->ca_pem,     a->ca_file,  a->cert_pem,        a->cert_file,
                           a->key_file, a->token_file, a->username, a->tls_server_name, a->as,
                           a->as_uid,   a->name_space, a->source};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        free(texts[i]);
    mem_wipe_free(a->key_pem);
    mem_wipe_free(a->token);
    mem_wipe_free(a->password);
    mem_wipe_free(a->proxy_url); /* may hold a password */
    texts_free(a->as_groups);
    texts_free(a->as_extra);
    exec_free(a->exec);
    free(a);
}

bool k8s_in_cluster(struct env *env)
{
    const char *host = env->get(env, "KUBERNETES_SERVICE_HOST"),
               *port = env->get(env, "KUBERNETES_SERVICE_PORT");
    return host != NULL && host[0] != '\0' && port != NULL && port[0] != '\0' &&
           access(K8S_TOKEN_FILE, R_OK) == 0;
}

static int in_cluster_load(struct env *env, struct k8s_access **ret, struct err *err)
{
    const char *host = env->get(env, "KUBERNETES_SERVICE_HOST");
    bool v6 = strchr(host, ':') != NULL;
    char *name_space = NULL;
    if (k8s_file_read(K8S_SPACE_FILE, 1024, &name_space, NULL) != 0)
        name_space = mem_strdup("default");
    if (access(K8S_CA_FILE, R_OK) != 0) {
        int rc = err_set_errno(err, errno, "the pod's service account has no readable %s", K8S_CA_FILE);
        free(name_space);
        return rc;
    }
    name_space[strcspn(name_space, " \t\r\n")] = '\0';
    struct k8s_access *a = mem_zalloc(sizeof *a);
    a->server = mem_printf("https://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "",
                           env->get(env, "KUBERNETES_SERVICE_PORT"));
    a->ca_file = mem_strdup(K8S_CA_FILE);
    a->token_file = mem_strdup(K8S_TOKEN_FILE);
    a->name_space = name_space;
    a->source = mem_strdup("in-cluster");
    *ret = a;
    return 0;
}

int k8s_access_load(struct env *env, const struct k8s_access_options *options, struct k8s_access **ret,
                    struct err *err)
{
    const char *paths = options->kubeconfig;
    if (paths == NULL || paths[0] == '\0')
        paths = env->get(env, "KUBECONFIG");
    if (paths != NULL && paths[0] != '\0')
        return kubeconfig_load(paths, options->context, ret, err);
    if (k8s_in_cluster(env))
        return in_cluster_load(env, ret, err);
    const char *home = env->get(env, "HOME");
    char *path = mem_printf("%s/.kube/config", home != NULL ? home : "");
    int rc =
        access(path, F_OK) == 0
            ? kubeconfig_load(path, options->context, ret, err)
            : err_set(err, ERRC_NOT_FOUND,
                      "no Kubernetes here: not in a pod with a service account, KUBECONFIG is not set and %s "
                      "does not exist",
                      path);
    free(path);
    return rc;
}
