/*
 * tls: trust configuration, one per set of CAs and certificates, shared by connections (T4).
 *
 * Reference-counted: a stream keeps its context; replacing certificates means making a new context for new
 * connections. Minimum TLS 1.2, no renegotiation, peers verified by name or by IP SAN (T1).
 */
#ifndef LOOP_TLS_H
#define LOOP_TLS_H

#include <stdbool.h>

#include "base/err.h"

struct tls_context;

struct tls_options {
    bool server;
    bool verify_peer;     /* client: check chain and name; server: demand a client certificate */
    const char *ca_pem;   /* PEM text or NULL (client: the system's default store) */
    const char *cert_pem; /* PEM text of the chain, or NULL; a server must have one */
    const char *key_pem;  /* PEM text; goes nowhere else */
};

/* Errors: ERRC_TLS naming the part that is unusable. */
int tls_context_new(const struct tls_options *options, struct tls_context **ret, struct err *err);
struct tls_context *tls_context_ref(struct tls_context *ctx);
void tls_context_unref(struct tls_context *ctx); /* NULL is fine */

#endif
