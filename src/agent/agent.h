/*
 * agent: lives beside one PostgreSQL and owns its life.
 *
 * Makes the data directory when there is none, writes the configuration, starts the server as its child,
 * starts it again when it dies, applies files that change (settings, certificates, password) and stops it in
 * order. In a pod it is process 1: it also reaps what others leave behind. It is to be run as the server's
 * own user.
 *
 * HTTP on its own port, for probes and the manager:
 *   /livez       200 while the agent turns; 503 when it has given up (the container is then started again)
 *   /readyz      200 when the server accepts connections
 *   /v1/status   what is known, as JSON
 */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"

#define AGENT_SUPERUSER "shardherd"

struct agent_options {
    struct env *env;
    const char *data;          /* data directory; made if missing, its parent must exist */
    const char *wal;           /* folder of a volume of its own for the write-ahead log, or NULL */
    const char *bin;           /* folder with postgres and initdb; NULL = PATH */
    const char *run;           /* folder for the socket, must exist */
    const char *settings;      /* file included last into the server's configuration, or NULL */
    const char *password_file; /* of the superuser; must exist */
    const char *tls;           /* folder with tls.crt, tls.key and perhaps ca.crt, or NULL */
    bool client_certificates;  /* connections by TCP need a certificate of ca.crt as well: it must be there */
    const char *listen;        /* listen_addresses */
    int port;
    const char *http_address;
    int http_port;
    uint64_t stop_ns;       /* for an orderly stop; then immediately */
    bool held;              /* nobody but AGENT_SUPERUSER may log in; of the agent itself */
    const char *more;       /* settings after all others, NULL = none; of the agent itself */
    const char *member;     /* name in a shard of several instances (agent/member.h), NULL = the only one */
    const char *http_tls;   /* folder with tls.crt, tls.key, perhaps ca.crt, of that interface; or NULL */
    const char *token_file; /* what callers of a member's HTTP interface show; mode 0600 */
};

/* Runs until SIGTERM or SIGINT has stopped the server. The error is logged by the caller. */
int agent_run(const struct agent_options *options, struct err *err);

#endif
