/*
 * manager: wires the parts together: start-up and shutdown in order, leadership, reload, health each second.
 *
 * Start-up (each waits for the one before, /readyz?verbose shows them):
 *   LISTENING -> STORE -> LEADING -> RUNTIME -> DATABASES -> ADOPTING -> DISCOVERING -> RESUMING -> READY
 * Shutdown: stop accepting, let go of operations (their journals stay), stop pollers, balancer and discovery,
 * close runtime and store, end; after 20 s without waiting for what has not closed. PostgreSQL instances go
 * on running.
 */
#ifndef MANAGER_MANAGER_H
#define MANAGER_MANAGER_H

#include "base/env.h"
#include "base/err.h"
#include "manager/config.h"

struct manager_options {
    const char *config_path;  /* NULL = none; watched for changes */
    const char *const *flags; /* "key.path=value", NULL-ended; applied again at each reload; may be NULL */
    struct env *env;
    /*
     * Writes the real ports here once they are open: {"public":8080,"admin":8081,"metrics":9090,"pid":1234}.
     * NULL = <state directory>/manager.json.
     */
    const char *ports_path;
};

/* Runs until SIGTERM or SIGINT. Returns 0 after an orderly end; otherwise the error says what could not
 * start. Where a part does not close in time the process ends within it. */
int manager_run(const struct manager_options *options, struct err *err);

#endif
