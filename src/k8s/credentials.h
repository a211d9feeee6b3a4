/*
 * credentials: who we are to the API server right now, and whom we trust.
 *
 * Token files are read again every 50 s (client-go: cached for 60 s less 10 s of leeway), certificates and
 * CAs every 5 min; a file that cannot be read or is empty leaves what was there before. A program (exec) runs
 * when what it gave has expired. Files and programs never hold the loop up. Rules K18, K19, K21.
 */
#ifndef K8S_CREDENTIALS_H
#define K8S_CREDENTIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct k8s_access;
struct k8s_credentials;
struct tls_context;

struct k8s_identity {
    const char *authorization; /* value of the header, NULL = none. A secret */
    struct tls_context *tls;   /* NULL for http:// */
    uint64_t number;           /* grows with each reading that was used */
    uint64_t tls_number; /* grows when trust or certificate changed: connections made before are to go */
};

/* err set: no identity could be had. The identity is valid during the call. */
typedef void (*k8s_identity_cb)(const struct err *err, const struct k8s_identity *identity, void *data);

struct identity_request; /* embed nothing: made by identity_get() */

/* Takes access over. */
struct k8s_credentials *k8s_credentials_new(struct loop *loop, struct k8s_access *access);
/* Requests that wait get ERRC_CANCELED; `closed` runs last. */
void k8s_credentials_close(struct k8s_credentials *c, void (*closed)(void *data), void *data);

int k8s_identity_get(struct k8s_credentials *c, k8s_identity_cb cb, void *data, struct identity_request **ret,
                     struct err *err);
void k8s_identity_cancel(struct identity_request *request); /* the callback comes with ERRC_CANCELED */

/* The server answered 401 to this identity: what gave it is asked again, once per identity. */
void k8s_identity_rejected(struct k8s_credentials *c, uint64_t number);

const struct k8s_access *k8s_credentials_access(const struct k8s_credentials *c);

#endif
