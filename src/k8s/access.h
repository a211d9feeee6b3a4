/*
 * access: how to reach an API server and as whom, before any connection.
 *
 * Comes from the service account that Kubernetes mounts into a pod, or from kubeconfig files (rule K20). The
 * files are read by the caller's worker; nothing here blocks or opens a socket. Holds secrets: never logged.
 */
#ifndef K8S_ACCESS_H
#define K8S_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"

#define K8S_TOKEN_FILE "/var/run/secrets/kubernetes.io/serviceaccount/token"
#define K8S_CA_FILE    "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
#define K8S_SPACE_FILE "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

/* A program that gives credentials (client.authentication.k8s.io). */
struct k8s_exec {
    char *api_version; /* "client.authentication.k8s.io/v1" or v1beta1 */
    char *command;
    char **args;     /* NULL-terminated */
    char **env;      /* "NAME=value", NULL-terminated */
    char *directory; /* of the kubeconfig: a command with a slash is relative to it */
    char *install_hint;
    bool cluster_info; /* provideClusterInfo */
};

/* Of each pair the text wins over the file. Paths are absolute or relative to the working directory. */
struct k8s_access {
    char *server; /* "https://10.0.0.1:443" */
    char *ca_pem, *ca_file;
    char *cert_pem, *cert_file;
    char *key_pem, *key_file;
    char *token, *token_file; /* here the file wins, as in client-go */
    char *username, *password;
    char *tls_server_name;
    char *proxy_url;
    bool insecure; /* no verification of the server's certificate */
    bool no_compression;
    char *as, *as_uid;
    char **as_groups; /* NULL-terminated, or NULL */
    char **as_extra;  /* name, value, name, value, ..., NULL */
    struct k8s_exec *exec;
    uint64_t
        fresh_ns;     /* for tests: files and programs are asked again after so long; 0 = see credentials.h */
    char *name_space; /* "default" if nothing says otherwise */
    char *source;     /* for messages: "in-cluster", "/root/.kube/config, context dev" */
};

struct k8s_access_options {
    const char *kubeconfig; /* a path; NULL: $KUBECONFIG, then the pod's own, then ~/.kube/config */
    const char *context;    /* NULL: current-context */
};

/* Blocking (reads files): run it on a worker. ERRC_NOT_FOUND when there is neither a pod nor a kubeconfig. */
int k8s_access_load(struct env *env, const struct k8s_access_options *options, struct k8s_access **ret,
                    struct err *err);
void k8s_access_free(struct k8s_access *access); /* wipes */

/* Whether the environment is that of a pod with a service account. Blocking. */
bool k8s_in_cluster(struct env *env);

/* ---- parts, for tests ---- */

/* paths: as $KUBECONFIG, separated by ':'. Missing files are skipped; one that cannot be read is an error. */
int kubeconfig_load(const char *paths, const char *context, struct k8s_access **ret, struct err *err);

/* At most `limit` bytes of a file, NUL-terminated. Blocking. free() or mem_wipe_free() it. */
int k8s_file_read(const char *path, size_t limit, char **ret, struct err *err);

#endif
