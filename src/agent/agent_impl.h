/* agent_impl: the agent's one object, inside the folder. */
#ifndef AGENT_AGENT_IMPL_H
#define AGENT_AGENT_IMPL_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/agent.h"
#include "agent/agent_files.h"
#include "base/sm.h"
#include "http/http_server.h"
#include "loop/loop.h"
#include "loop/process.h"
#include "loop/work.h"
#include "pg/pg_conn.h"

struct agent {
    struct agent_options o;
    struct loop loop;
    struct sm sm;
    struct err err; /* why it ends, or why the server is not up */
    struct work work;
    struct err work_err;
    enum agent_data found;      /* by LOOKING */
    struct agent_inputs inputs; /* as last applied */
    struct agent_inputs seen;   /* by the last reading */
    bool reading;               /* the worker reads the inputs */
    struct work inputs_work;
    struct process *child; /* initdb or the server */
    struct loop_timer timer;
    struct loop_timer watch_timer;
    struct loop_signal term, interrupt, chld;
    struct http_server *http;
    struct pg_conn *conn; /* to our server, over its socket */
    bool asking;          /* the facts query runs */
    uint64_t backoff_ns;
    uint64_t started_ns; /* of the server */
    bool stopping, failed;
    uint64_t restarts;
    struct { /* what the server said last */
        bool known, standby, pending_restart;
        int64_t timeline;
        char lsn[20];
        char version[32];
    } facts;
};

int agent_http_open(struct agent *a, struct err *err);

#endif
