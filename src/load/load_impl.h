/*
 * load_impl: what the files of this folder share about a running job. Not for other folders.
 *
 * load_run.c     the job: phases, turn, end
 * load_draw.c    which operation comes next, and for whom
 * load_client.c  one client: an operation from its start to its acknowledgement
 * load_link.c    the connections of the clients
 * load_fill.c    LOAD_INIT: rows by COPY
 * load_verify.c  the check: rows out by COPY, into load_compare
 */
#ifndef LOAD_LOAD_IMPL_H
#define LOAD_LOAD_IMPL_H

#include "base/list.h"
#include "base/sm.h"
#include "load/load.h"
#include "load/load_compare.h"
#include "load/load_keys.h"
#include "load/load_ledger.h"
#include "load/load_pace.h"
#include "load/load_pass.h"
#include "load/load_route.h"
#include "load/load_skew.h"
#include "load/load_sql.h"
#include "pg/pg_conn.h"
#include "pg/pg_copy.h"

#define LOAD_SERVERS_MAX 256

struct load_client;
struct load_fill;
struct load_verify;

/* An address seen in a routing table. Never removed, so that its index stays. */
struct load_server {
    char *host;
    int port;
};

enum load_link_state { LINK_DOWN, LINK_CONNECTING, LINK_READY };

/* One client's connection to one server. */
struct load_link {
    struct load_client *client;
    const struct load_server *server;
    enum load_link_state state;
    struct pg_conn *conn; /* NULL while DOWN */
    uint64_t epoch;       /* what shardherd.epoch was set to on this connection, 0 = not yet */
    unsigned failures;    /* connects in a row */
    struct loop_timer retry;
};

struct load_job_op {      /* an operation that waits for its client */
    uint64_t intended_ns; /* 0 = when it starts */
    uint32_t number;
    enum load_op op;
};

struct load_queue { /* a ring */
    struct load_job_op *items;
    unsigned capacity, count, head;
};

struct load_client {
    struct load *load;
    unsigned index;
    struct sm sm;
    struct load_link *links[LOAD_SERVERS_MAX];
    struct load_queue queue;
    struct list node; /* in load.rested */
    struct loop_timer timer;

    /* the operation */
    enum load_op op;
    struct load_write write; /* number is right for reads too */
    int64_t hash;
    char key[LOAD_KEY_SIZE];
    uint64_t intended_ns, started_ns, refused_ns, missing_ns;
    unsigned tries, refusals;
    unsigned misses;  /* tries that the server did not take: refused, failed, or no such row */
    unsigned watched; /* bit i: it counts for watch i */
    bool settling;    /* its outcome is to be found out */
    bool doubted;     /* some try of it had no answer */
    bool settled;     /* counted as not applied already */
    bool prune_due;   /* once its operation is done */

    /* the try under way */
    struct load_link *link;
    unsigned waiting; /* answers to come */
    struct err first; /* the first error of the try */
    long rows;        /* touched or read */
    int64_t version;
    bool has_order;
    bool committed;
};

struct load {
    struct loop *loop;
    struct load_options o;
    load_done_cb done;
    void *data;
    struct sm sm; /* of enum load_phase */
    struct err err;
    struct load_result result;

    struct load_route route;
    struct load_pass pass;
    struct load_server servers[LOAD_SERVERS_MAX];
    unsigned server_count;
    uint16_t *now_servers;    /* server of each shard of route.now */
    uint16_t *before_servers; /* ... of route.before */

    struct load_ledger ledger;
    struct load_findings findings;
    struct load_gap watch[LOAD_WATCHES_MAX];
    struct load_stats stats;

    struct load_client *clients;
    struct list rested;  /* clients whose acknowledgement waits for the flush */
    unsigned busy;       /* clients with an operation */
    unsigned queued;     /* operations in all queues */
    unsigned connecting; /* links */
    bool warm;           /* the clients are connected: the load has begun */
    struct loop_task turn;
    struct load_random random;
    struct load_skew skew;
    char *skew_text;
    unsigned later_next; /* of options.later */
    struct load_pace pace;
    unsigned mix_total;
    uint64_t started_ns, ended_ns; /* of the load */
    uint64_t acked_ns;             /* of the last completed operation */
    struct err last_error;         /* of any connection or statement, for the message when nothing works */
    struct loop_timer pace_timer;  /* open loop: the next intended start */
    struct loop_timer tick_timer;  /* 100 ms: duration, skew changes, stall, control file */
    struct load_file control;
    bool control_open;
    struct buf control_seen;

    struct load_fill *fill;
    struct load_verify *verify;
    bool skip_check;
    unsigned open;                /* things whose close callback is still to come */
    struct loop_task finish_task; /* ends the job from where that is safe */
    struct loop_task end_task;
};

/* ---- load_run.c ---- */
/* Ends the job with this error (the first one counts), later in this turn. Safe in every phase. */
void load_fail(struct load *load, const struct err *err);
void load_phase_done(struct load *load); /* the phase's work is complete */
void load_opened(struct load *load);
void load_closed(void *load); /* fits as a close callback */
void load_note_error(struct load *load, const struct err *err);

/* ---- load_draw.c ---- */
int load_draw_init(struct load *load, struct err *err);
void load_draw_fini(struct load *load);
/* Fills the clients' queues with what is due. */
void load_draw(struct load *load);
bool load_queue_take(struct load_queue *queue, struct load_job_op *ret);
void load_queue_free(struct load_queue *queue);

/* ---- load_link.c ---- */
/* Learns the servers of a new table. */
void load_servers_learn(struct load *load);
/* The target of a server for this job; copies nothing. password: room for it. */
#define LOAD_PASSWORD_SIZE 256
void load_target(const struct load *load, const char *host, int port, char password[LOAD_PASSWORD_SIZE],
                 struct pg_target *ret);
/* The client's link to a server, made on first use. */
struct load_link *load_link_get(struct load_client *client, unsigned server);
/* Connects unless it is connected, connecting, or waiting after a failure. */
void load_link_want(struct load_link *link);
void load_links_close(struct load_client *client);
/* Closes those to servers that the routing table does not name any more; one in use as soon as it is not. */
void load_links_prune(struct load_client *client);

/* ---- load_client.c ---- */
void load_client_init(struct load_client *client, struct load *load, unsigned index);
void load_client_fini(struct load_client *client);
bool load_client_idle(const struct load_client *client);
void load_client_start(struct load_client *client, const struct load_job_op *op);
/* The acknowledgement is on disk. */
void load_client_rest_over(struct load_client *client);
void load_client_link_ready(struct load_client *client, const struct load_link *link);
/* Gives up what it does, and its connections. */
void load_client_stop(struct load_client *client);

/* ---- load_fill.c, load_verify.c: start; load_phase_done() or load_fail() follows ---- */
int load_fill_start(struct load *load, struct err *err);
void load_fill_close(struct load *load); /* its connections count as opened until closed */
void load_fill_free(struct load *load);
uint64_t load_fill_rows(const struct load *load);
int load_verify_start(struct load *load, struct err *err);
void load_verify_close(struct load *load);
void load_verify_free(struct load *load);
uint64_t load_verify_rows(const struct load *load);

#endif
