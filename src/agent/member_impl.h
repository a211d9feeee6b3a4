/* member_impl: the object of a member, and what its files call of each other. */
#ifndef AGENT_MEMBER_IMPL_H
#define AGENT_MEMBER_IMPL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/agent.h"
#include "agent/agent_files.h"
#include "agent/disk.h"
#include "agent/order.h"
#include "agent/watchdog.h"
#include "base/sm.h"
#include "base/text.h"
#include "http/http_server.h"
#include "loop/loop.h"
#include "loop/process.h"
#include "loop/work.h"
#include "pg/pg_conn.h"

/*
 *  LOOKING --> EMPTY --> INITIALIZING, CLONING --> STOPPED --> STARTING --> PRIMARY
 *                 ^           |                    ^  | ^         |            ^
 *                 |           v                    |  | |         v            |
 *                 +-------- FAILED <---------------+  | |      STANDBY --> PROMOTING
 *                             ^                       | |         |            |
 *                             |           REWINDING <-+ |         v            |
 *                             +-------------- STOPPING -+-- FENCED (stopped by order or by the lease)
 *
 * LOOKING      waits for the worker that locks and reads the data directory
 * EMPTY        waits for an order: there is no data directory
 * INITIALIZING waits for initdb and the worker around it
 * CLONING      waits for pg_basebackup and the worker around it
 * REWINDING    waits for pg_rewind and the worker around it
 * STOPPED      waits for an order, or for the confirmation of one
 * FENCED       waits for an order, or for a lease
 * FAILED       waits for its timer or an order, then tries again; the error says what failed
 * STARTING     waits for the server to let us in, or to die
 * PRIMARY, STANDBY wait for orders, the lease's timer, the server's death, changed files
 * PROMOTING    waits for the server to leave recovery
 * STOPPING     waits for the server's end, then for the worker that ends what it left behind
 * ENDED        final
 */
enum member_state {
    MEMBER_LOOKING,
    MEMBER_EMPTY,
    MEMBER_INITIALIZING,
    MEMBER_CLONING,
    MEMBER_REWINDING,
    MEMBER_STOPPED,
    MEMBER_FENCED,
    MEMBER_FAILED,
    MEMBER_STARTING,
    MEMBER_PRIMARY,
    MEMBER_STANDBY,
    MEMBER_PROMOTING,
    MEMBER_STOPPING,
    MEMBER_ENDED,
    MEMBER_STATE_MAX
};

#define MEMBER_MARK_SIZE 17 /* a checksum of settings, as text */

/* What a rewind is made of: where its time goes is said in the log. */
enum member_rewind_step {
    MEMBER_REWIND_RECOVER, /* the server that was killed, in single-user mode */
    MEMBER_REWIND_LOOK,    /* where the histories part */
    MEMBER_REWIND_KEEP,
    MEMBER_REWIND_REWIND,
    MEMBER_REWIND_END,
    MEMBER_REWIND_STEPS
};

/* What a worker has while it runs; nobody else touches it then. */
struct member_job {
    struct agent_options o; /* `more` is owned */
    struct order order;
    struct marks marks;
    struct control control;
    struct agent_inputs inputs; /* as written into the configuration */
    bool standby;               /* with standby.signal */
    bool next;                  /* the upstream is asked with the password that follows */
    bool there;                 /* a data directory */
    char *keep;                 /* rewind: what pg_rewind said */
    struct err err;
};

struct member_facts {
    bool known, recovery, nobody, pending_restart;
    bool complete;     /* `flushed` is all that is on disk: not so while a standby reads what it has */
    int64_t silent_ms; /* since the upstream's last word, -1 = none */
    int64_t timeline, receivers;
    int64_t strangers;           /* sessions that were ended because it is held */
    char mark[MEMBER_MARK_SIZE]; /* of the settings that the server has loaded, "" = none */
    uint64_t at_ns;              /* loop time of the answer */
    unsigned applied;            /* how many configurations were loaded when it was asked */
    char written[TEXT_LSN_SIZE], flushed[TEXT_LSN_SIZE], replayed[TEXT_LSN_SIZE];
    char wal_from[TEXT_LSN_SIZE]; /* the oldest LSN of which there is log */
    char receiver[32];            /* state of the WAL receiver, "" = there is none */
    char upstream[300];
    char *standbys; /* JSON */
};

struct member {
    struct agent_options o;
    struct loop loop;
    struct sm sm;
    struct err err; /* why it failed, or what it waits for */
    char life[17];  /* of this process */
    struct watchdog *dog;
    int lock;
    bool ending, broken; /* broken: ends with an error */
    bool leaving;        /* it is to end, and hands over first: see member_leave() */
    struct loop_timer leave_timer;

    struct order order;
    unsigned orders;      /* accepted in this life */
    bool confirmed;       /* the order was given in this life */
    uint64_t lease_until; /* env_boot_ns() */
    bool lease_lost;      /* the server was stopped because of it */
    struct loop_timer lease_timer;
    uint64_t turn_until; /* by env_boot_ns(), 0 = no primary runs: see member_turn() */
    unsigned fired;      /* how often the watchdog had acted when we turned last */
    struct loop_timer turn_timer;

    bool looked; /* all that is below was read */
    bool data_there;
    struct marks marks;
    struct control control;

    pid_t server;    /* 0 = none */
    bool unswept;    /* processes of one that ended may be left */
    bool as_primary; /* it was started or promoted as one */
    int stop_signal; /* sent last, 0 = it is not to end */
    uint64_t started_ns, exits;
    char exit_text[80]; /* of the last end that was not ours */
    struct loop_timer stop_timer;
    unsigned applied;   /* configurations written and loaded in this life */
    char *applied_more; /* the last of them */
    struct agent_inputs applied_inputs;
    bool next_password; /* what is written last, or next, has the password that follows */
    uint64_t turned_ns; /* since then */

    struct pg_conn *conn, *side, *guard;
    unsigned checkpoints; /* that were asked for or follow a promotion, and ended well, in this life */
    bool checkpoint_due;  /* one is to be made, and tried again at each look at the server until it is */
    bool asking, guarding;
    unsigned asked_applied;
    struct member_facts facts;
    struct loop_timer facts_timer, guard_timer;
    int guard_short;      /* polls in a row in which too few standbys streamed */
    uint64_t guard_ended; /* waiting commits ended */
    struct pg_conn *door; /* that is being tried, see member_door.c */
    struct loop_timer door_timer;
    uint64_t door_tried_ns;
    unsigned door_stopped; /* looks in a row at which the postmaster was stopped */
    unsigned door_silent;  /* new connections in a row that got no answer */
    bool door_slow;        /* the new connection has no answer yet, for a while */
    uint64_t doors_shut;   /* postmasters that were ended because they let nobody in */
    unsigned slots_for;    /* orders when the slots were seen to */
    uint64_t heartbeat;    /* of the heartbeat row as it is here, 0 = not known, or not to be written */
    bool heartbeat_failed;

    struct work work;
    bool working;
    struct member_job job;
    unsigned job_orders; /* orders when it began */
    void (*job_done)(struct member *m);
    struct process *helper;
    uint64_t rewind_ns[MEMBER_REWIND_STEPS]; /* when each step of the present rewind began */
    struct loop_timer retry;
    uint64_t backoff_ns;

    struct work inputs_work;
    bool reading;
    struct agent_inputs seen, reading_now;      /* the latter is the worker's */
    char *token, *seen_token;                   /* secrets */
    uint64_t http_tls;                          /* checksum of what the HTTP interface shows */
    struct tls_context *seen_tls;               /* another one, NULL = as it was */
    struct disk_space disk;                     /* of the data, as it was seen last */
    struct disk_space wal_disk;                 /* of the log; size 0 = it has no volume of its own */
    struct disk_space seen_disk, seen_wal_disk; /* the worker's */
    enum disk_state disk_state, wal_state;
    struct loop_timer inputs_timer;

    struct work save_work; /* of an order */
    struct order saving;
    char *saving_text;
    struct err saving_err;
    struct http_exchange *saving_ex; /* NULL = none is being saved */

    struct http_server *http;
    struct sse_topic *topic;
    struct loop_task changed;
    struct loop_timer beat;
    struct loop_signal term, interrupt, child;
};

#define MEMBER_BACKOFF_NS (500 * ENV_NS_PER_MS) /* after the first failure; doubled up to 10 s */

/* ---- member.c ---- */
/* Looks what is to be done next, and begins it. Called whenever something ended or changed. */
void member_step(struct member *m);
/* Runs on a worker with m->job as prepared, then `done`, unless it failed: then FAILED. */
void member_job_start(struct member *m, int state, void (*run)(struct work *),
                      void (*done)(struct member *m));
void member_fail(struct member *m, const struct err *why);
void member_settle(struct member *m, enum member_state state);
/* Ends in order. `why` NULL, or what makes it an error. */
void member_end(struct member *m, const struct err *why);
/* A program beside the server. `ended` gets its result after m->helper was cleared. enough: see
 * loop/process.h. */
int member_helper_start(struct member *m, const char *const *argv, const char *enough, process_cb ended,
                        struct err *err);
char *member_program(const struct member *m, const char *name);
/* A new order is in force. */
void member_ordered(struct member *m);
/* The state as it is told to others has changed. */
void member_changed(struct member *m);

/* ---- member_config.c: on workers, but for the first ---- */
/* The settings that the order makes; to be freed. The last line is their mark, which tells the server's
 * answer that they were loaded. */
char *member_settings(const struct member *m);
/* Whether this is the mark of these settings. */
bool member_settings_marked(const char *settings, const char *mark);
/* A connection string to the upstream, to be freed. dbname: NULL for the server's receiver. */
char *member_conninfo(const struct agent_options *o, const struct order *order, const char *dbname);
/* The password file that it names, with this upstream and no other; or none. With TLS also the certificate
 * that the upstream is shown. next: with the password that
 * follows, if there is one. */
int member_passfile(const struct agent_options *o, const struct order *order, bool next, struct err *err);
/* Password file, configuration, marks, the signal file (unless the server runs). */
int member_configure(struct member_job *job, bool running, struct err *err);

/* ---- member_server.c ---- */
void member_server_init(struct member *m);
void member_server_sweep(struct member *m);
/* A job beside the running server failed: later again. */
void member_server_hindered(struct member *m, const struct err *why);
void member_server_begin(struct member *m); /* from STOPPED and the like */
/* Ends the server if that is what the order means, whatever else goes on. True: it is about to end. */
bool member_server_ends(struct member *m);
void member_server_step(struct member *m); /* while it runs */
void member_server_reap(struct member *m); /* after SIGCHLD */
void member_server_up(struct member *m);   /* facts came */

/* ---- member_make.c: initdb, clone, rewind ---- */
void member_initialize(struct member *m);
void member_clone(struct member *m);
void member_rewind(struct member *m);

/* ---- member_facts.c ---- */
void member_facts_init(struct member *m);
void member_facts_begin(struct member *m);
void member_facts_end(struct member *m);
/* Asks now, rather than when the timer says. */
void member_facts_soon(struct member *m);
#define MEMBER_CONN_OPTIONS                                                                                  \
    "-c statement_timeout=5000 -c lock_timeout=1000 -c synchronous_commit=local "                            \
    "-c default_transaction_read_only=off"
/* To its socket, as our superuser; data of the events is the member. */
struct pg_conn *member_conn_make(struct member *m, const struct pg_conn_events *events, const char *options,
                                 uint64_t patience_ns);
#define MEMBER_CONNECT_NS (5 * ENV_NS_PER_S)

/* ---- member_beat.c ---- */
/* After an answer of the server: writes the heartbeat, or reads it. there: its table is. */
void member_beat(struct member *m, bool there);

/* ---- member_door.c ---- */
void member_door_init(struct member *m);
void member_door_begin(struct member *m);
void member_door_end(struct member *m);
/* The postmaster does not let anybody in, as it seems: it is not ready. */
bool member_door_shut(const struct member *m);

/* ---- member_guard.c ---- */
void member_guard_init(struct member *m);
void member_guard_begin(struct member *m);
void member_guard_end(struct member *m);

/* After a promotion: until its first checkpoint pg_control tells the old timeline, and pg_rewind (before 16)
 * believes it. */
void member_checkpoint(struct member *m);
/* The same on demand, before a stop that is to be short; one that is under way is enough. */
void member_checkpoint_soon(struct member *m);

/* ---- member_lease.c ---- */
#define MEMBER_FENCE_AHEAD_NS (500 * ENV_NS_PER_MS) /* so long before the lease's end the agent stops it */
void member_lease_init(struct member *m);
/* Whether a lease of this order that counts from then is worth something now; true without a lease. */
bool member_lease_fresh(const struct order *o, uint64_t heard);
/* The caller heard our clock say `heard`: from then the lease counts. False: too old, or of the future. */
bool member_lease_renew(struct member *m, uint64_t heard);
/* Whether a primary may run: there is no lease, or it is held. */
bool member_lease_held(const struct member *m);

/*
 * The agent turns: the watchdog ends a primary whose agent does not for MEMBER_TURN_NS, or for
 * MEMBER_STOPPED_NS while the kernel says that it is stopped. An agent that finds that it stood still for so
 * long, or that the watchdog acted, has its order confirmed anew before it starts a primary again: meanwhile
 * another may be one. Called by a timer and wherever a primary begins or ends.
 */
#define MEMBER_TURN_NS    (10 * ENV_NS_PER_S) /* an overloaded machine is not to make an outage of it */
#define MEMBER_STOPPED_NS (1500 * ENV_NS_PER_MS)
void member_turn(struct member *m);

/* ---- member_inputs.c ---- */
void member_inputs_init(struct member *m);
/* What is to be said of its volumes; false = nothing. */
bool member_disk_says(const struct member *m, char *out, size_t size);
/* On a worker. */
char *member_token_read(const char *path, struct err *err);

/* ---- member_status.c, member_http.c ---- */
char *member_status_text(struct member *m);
bool member_settled(const struct member *m);
/* The server has loaded what the order makes of it; a held one has nobody in it. */
bool member_applied(const struct member *m);
bool member_ready(const struct member *m);
int member_http_open(struct member *m, struct err *err);
/* On a worker: what the HTTP interface shows and asks for, from the files. */
int member_http_tls(const struct agent_options *o, struct tls_context **ret, struct err *err);

#endif
