/*
 * kube_certificate: an authority of our own and the certificates it issues, with OpenSSL. No I/O.
 *
 * P-256 keys; making one and signing takes less than a millisecond. Nothing here goes into errors or logs but
 * names and dates.
 */
#ifndef RUNTIME_KUBE_CERTIFICATE_H
#define RUNTIME_KUBE_CERTIFICATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"

struct kube_pair {
    char *certificate; /* PEM */
    char *key;         /* PEM, a secret */
};
void kube_pair_clear(struct kube_pair *pair); /* wipes */

struct kube_certificate_request {
    const char *name; /* common name */
    /* DNS names for a server, NULL-terminated: it may show the certificate as a client as well, when it
     * copies from another. NULL = for a client alone. */
    const char *const *names;
    uint64_t lifetime_s; /* at most as long as the authority's */
};

/* A self-signed authority. */
int kube_authority_make(struct env *env, const char *name, uint64_t lifetime_s, struct kube_pair *ret,
                        struct err *err);
/* ERRC_TLS when the authority cannot be read or does not belong to its key. */
int kube_certificate_issue(struct env *env, const struct kube_pair *authority,
                           const struct kube_certificate_request *request, struct kube_pair *ret,
                           struct err *err);

enum kube_certificate_state { KUBE_CERTIFICATE_GOOD, KUBE_CERTIFICATE_DUE, KUBE_CERTIFICATE_UNUSABLE };
/*
 * DUE: less than a third of its life is left. UNUSABLE: no certificate, over, not signed by the authority
 * (NULL = not asked), one of `names` (NULL = none) missing, or not for clients or, with names, servers.
 */
enum kube_certificate_state kube_certificate_judge(struct env *env, const char *certificate,
                                                   const char *authority, const char *const *names);
/* Whether who connects by this name takes it, as OpenSSL checks it; false if it cannot be read. */
bool kube_certificate_names(const char *certificate, const char *host);
/* When it ends, microseconds since 1970; 0 if it cannot be read. */
int64_t kube_certificate_end(const char *certificate);
/* How long its life is, and when it ends, microseconds; false if it cannot be read. */
bool kube_certificate_life(const char *certificate, int64_t *ret_life_us, int64_t *ret_end_us);
/* When it becomes DUE; 0 if it cannot be read. */
int64_t kube_certificate_due(const char *certificate);

#endif
