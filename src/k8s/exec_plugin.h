/*
 * exec_plugin: the protocol of programs that give credentials (client.authentication.k8s.io), without running
 * one. Texts in, texts out. https://kubernetes.io/docs/reference/access-authn-authz/authentication/
 */
#ifndef K8S_EXEC_PLUGIN_H
#define K8S_EXEC_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct k8s_access;

struct exec_credential {
    char *token;              /* or NULL */
    char *cert_pem, *key_pem; /* both or neither */
    int64_t expires_us;       /* wall clock, microseconds since 1970; INT64_MAX = never */
};

/* The value of KUBERNETES_EXEC_INFO; free() it. ca_pem: of the cluster, or NULL. */
char *exec_plugin_info(const struct k8s_access *access, const char *ca_pem);

/* What the program printed. ERRC_INVALID names what is wrong, never what it holds. */
int exec_plugin_read(const struct k8s_access *access, const char *out, size_t length,
                     struct exec_credential *ret, struct err *err);
void exec_credential_free(struct exec_credential *c); /* wipes */

/* RFC 3339, "2026-11-21T10:00:00Z" or with an offset. False if it is none. */
bool rfc3339_read(const char *text, int64_t *ret_us);

#endif
