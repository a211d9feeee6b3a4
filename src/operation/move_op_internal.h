/* move_op_internal: the live driver of a move, shared by move_op.c and the move_act_*.c; nobody else includes
 * it. */
#ifndef OPERATION_MOVE_OP_INTERNAL_H
#define OPERATION_MOVE_OP_INTERNAL_H

#include "base/buf.h"
#include "operation/calm.h"
#include "operation/link.h"
#include "operation/move_internal.h"
#include "operation/move_op.h"

#define SQL_TIMEOUT_NS  (30 * ENV_NS_PER_S)
#define MARKER_FAST_NS  CALM_SLOW_NS          /* a round trip this short counts as caught up (B5) */
#define FENCE_BOUND_NS  (250 * ENV_NS_PER_MS) /* hard bound of the fence (B3) */
#define LOCK_TIMEOUT_MS 100                   /* for the one LOCK statement (B4) */
#define GUARDED_AT_ONCE 4                     /* tables whose triggers are made or changed under one lock */
#define SEQUENCE_GAP    1000
#define HOLDERS_MOST    8 /* tables whose writers are held until T is open */

struct move_op;
struct act; /* one SQL statement of an action */

typedef void (*act_reply_cb)(struct move_op *op, enum move_action action, const struct pg_reply *reply);

struct sequence {
    char *name;
    int64_t value;
};

struct copier;
struct process_result;
struct verify; /* move_act_verify.c */
struct clean;  /* move_act_clean.c */
struct build;  /* move_act_build.c */
struct watch;

#define BUILD_LANES_MOST 16

struct move_op {
    struct operation op; /* first */
    struct move_driver driver;
    struct move core;
    struct link source;                /* control and fence on S */
    struct link source_marker;         /* writes markers on S; deletes on S */
    struct link source_reader;         /* reads S's sequences beside the fence */
    struct link exporter;              /* on S, a walsender: the copy's snapshot, see move_act_data.c */
    struct link keeper;                /* on S: holds that snapshot and the tables */
    struct link target;                /* control on T */
    struct link target_poll;           /* reads markers on T */
    struct link opener;                /* the opening's transaction on T, begun before S's commit */
    struct link holders[HOLDERS_MOST]; /* on S: see move_act_hold.c */
    struct link watcher;               /* on S: see move_watch.c */
    bool source_known, target_known;   /* the links were initialised */
    int open_links;                    /* connections, statements and programs that have not ended */
    uint64_t fence_session;            /* of `source`: the one that holds the fence's transaction */
    uint64_t opener_session;           /* of `opener`: the one that holds the prepared opening; 0 = none */
    uint64_t fence_started_ns;
    unsigned warming; /* holders that have not answered */
    void (*warmed)(struct move_op *op);
    bool holding; /* hold_release() is due */
    bool untold;  /* the new routing table is in the store and the model, but was not announced */
    struct err copy_err;
    void (*look_then)(struct move_op *op, enum move_action action); /* look_around() */
    uint64_t quiet_session; /* of who is about to subscribe: the one that logs no statements */
    char opened_at[32];     /* X, as T says: where S begins to follow it */
    bool driving;           /* inside driver.act(): outcomes are delivered later */
    struct process *tool;   /* pg_dump or psql under way */
    uint64_t
        subscription; /* its oid on T once it was seen, for the names of its table synchronisation slots */
    int members_made; /* ACT_PROVISION: calls of the runtime under way, for each instance of T */
    struct err member_err;
    bool stopped;  /* the process ends or a newer leader exists: outcomes are dropped */
    bool reported; /* operation_stopped() was called */
    struct loop_timer wait_timer;
    struct loop_timer poll_timer;
    struct loop_timer watch_timer;
    /* one of each at a time */
    uint64_t marker_started_ns;
    int64_t marker_number; /* of the marker under way; 0 = not written yet */
    int64_t marker_seen;   /* the last one that T told of */
    bool marker_looking;   /* a question for it is under way */
    uint64_t marker_deadline_ns;
    struct link *marker_from, *marker_to; /* a connection to either side */
    char marker_name[MOVE_NAME_SIZE];     /* table, and channel */
    void (*marker_done)(struct move_op *op, const struct err *err);
    unsigned fast_markers; /* in a row */
    struct calm calm;      /* of the rehearsal */
    uint64_t catch_up_until_ns;
    uint64_t lingers_since_ns, quiet_since_ns; /* ACT_LINGER; 0 = not begun, not quiet */
    uint64_t copy_started_ns;
    struct sequence *sequences; /* of S, read beside the fence */
    int sequence_count;
    bool sequences_known;
    struct copier *copier;                      /* ACT_COPY */
    uint64_t copy_began_ns, copy_began_bytes;   /* when the first bytes came, and how many; 0 = not yet */
    uint64_t copy_ends_ns;                      /* by its speed so far; 0 = not known */
    char *pre_data;                             /* ACT_SCHEMA: dumped, while the rest is */
    void (*target_checked)(struct move_op *op); /* ACT_SCHEMA: what follows target_check() */
    char snapshot[64];
    unsigned lanes;
    struct verify *verify;
    struct clean *clean;
    struct build *build;     /* ACT_BUILD; kept for the next try */
    struct watch *watch;     /* move_watch.c */
    struct link *unfreezing; /* ACT_UNFREEZE: the shard it is at */
    struct {
        struct link *shard;
        bool guards;
        act_reply_cb next;
    } version; /* act_bring_up_to_date() under way */
};

/* ---- helpers of the actions ---- */

/* Completes an action; err NULL = success. */
void act_done(struct move_op *op, enum move_action action, const struct err *err);
void act_outcome(struct move_op *op, enum move_action action, const struct move_outcome *outcome);
void act_fail(struct move_op *op, enum move_action action, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Runs SQL (see sqlf.h). handler NULL: the action is done when the statement is. On an SQL error the action
 * fails with "<what>: <message>" and the handler is not called. */
void act_sql(struct move_op *op, struct link *link, enum move_action action, uint64_t timeout_ns,
             act_reply_cb handler, const char *fmt, ...);
/* The same, but the handler sees errors, too. */
void act_sql_any(struct move_op *op, struct link *link, enum move_action action, uint64_t timeout_ns,
                 act_reply_cb handler, const char *fmt, ...);

/* act_sql() in that session only; fails with ERRC_CLOSED if it is gone (see link_exec_in()). */
void act_sql_in(struct move_op *op, struct link *link, uint64_t session, enum move_action action,
                uint64_t timeout_ns, act_reply_cb handler, const char *fmt, ...);

/* Gives a shard of another version our functions, and guards made by them where `guards`. Nothing where there
 * is no shard yet. Without guards the shard is not of our version yet: the next freeze sees to the rest.
 * `next` is told of errors, too. */
void act_bring_up_to_date(struct move_op *op, struct link *shard, enum move_action action, bool guards,
                          act_reply_cb next);

/* What a server that copies (`by`) connects to `from` by. One without TLS of its own has no authority at hand
 * where runtimes mount one: it encrypts and does not verify, as while servers change to TLS one after the
 * other. A secret: wipe it. */
char *move_conninfo(const struct instance_access *from, const struct instance_access *by);

int64_t op_term(const struct move_op *op);
struct fleet_database *op_database(const struct move_op *op);
struct move_record *op_record(struct move_op *op);
const struct operation_services *op_services(const struct move_op *op);
uint64_t op_now(const struct move_op *op);
/* Initialises T's links from an access. */
void op_set_target(struct move_op *op, const struct instance_access *access);
/* Looks in the model for servers that are not known yet, as after a restart. */
void op_find_servers(struct move_op *op);
/* T is made by this move and need not be there: it is not made yet, or the move goes back. */
bool op_target_optional(const struct move_op *op);
/* S was retired by this move: out of the routing table, perhaps removed. */
bool op_source_gone(const struct move_op *op);
/* A call of another module, which ends with a callback, began or ended. */
void op_call_started(struct move_op *op);
void op_call_ended(struct move_op *op);
/* A child process of this move began or ended. */
/* SQL: ends backends that an earlier manager, or a lost answer, left for this operation, and waits until they
 * are gone (B8, B9). */
#define END_OLD_BACKENDS                                                                                     \
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = "                 \
    "current_setting('application_name') AND pid <> pg_backend_pid(); "

/* A move with this record, listed: under a new id, or under that of its journal. Nothing is started. */
struct move_op *op_new(struct operations *ops, const struct move_record *record, const char *id);

/* Whether a move of this shard may begin: its primary is known, and is not being replaced, which would only
 * send it back. */
int move_check_primary(const struct operations *ops, const char *database, const char *shard,
                       struct err *err);

void op_drop_links(struct move_op *op);
/* A connection of this move, under its application_name. */
void op_set_link(struct move_op *op, struct link *link, const struct instance_access *access);
/* The distributed tables: "a, b". */
void op_add_tables(const struct move_op *op, struct buf *out);
void op_tool_started(struct move_op *op, struct process *tool);
void op_tool_ended(struct move_op *op);
/* Runs pg_dump or psql (ON_ERROR_STOP) against a server; `next` when it succeeded, else the action fails. */
void op_run_tool(struct move_op *op, enum move_action action, const char *name, const struct link *server,
                 const char *const *extra, const char *input, uint64_t timeout_ns,
                 void (*next)(struct move_op *op, const struct process_result *result));
void op_copier_started(struct move_op *op, struct copier *copier);
void op_copier_released(struct move_op *op);
/* A job that calls back later began or ended: the move is not freed before. */
void op_job_started(struct move_op *op);
void op_job_ended(struct move_op *op);

/* Writes marker n + 1 on S and awaits it on T until the deadline; one at a time. */
void marker_round_trip(struct move_op *op, uint64_t bound_ns,
                       void (*done)(struct move_op *op, const struct err *err));
/* The same from T to S, while S follows T. */
void marker_round_trip_back(struct move_op *op, uint64_t bound_ns,
                            void (*done)(struct move_op *op, const struct err *err));
/* The one under way, if any, ends soon. */
void marker_hurry(struct move_op *op);

/* Whether what comes over from S is still all of it: its publication is the one under which the copy began
 * (A13), and no DDL was done to what moves. From the rehearsal on DDL is refused. The action fails, or `then`
 * goes on. */
void look_around(struct move_op *op, enum move_action action,
                 void (*then)(struct move_op *op, enum move_action action));

/* ---- actions, by file ---- */

void act_take_term(struct move_op *op); /* move_act_state.c */
void act_inspect(struct move_op *op);
void act_resolve(struct move_op *op);
void act_check(struct move_op *op); /* move_act_check.c */
/* On a target that this move made, before its schema: compares it with S, and gives it S's roles, with their
 * settings and those of the database. `then` when nothing forbids the move, else the action fails. */
void target_check(struct move_op *op, enum move_action action, void (*then)(struct move_op *op));
void act_provision(struct move_op *op); /* move_act_target.c */
/* Bytes that a new T wants free on its disk. */
uint64_t target_room(const struct move_op *op);
void act_schema(struct move_op *op);
void act_freeze(struct move_op *op);
void act_unfreeze(struct move_op *op);
void act_unlist(struct move_op *op); /* move_act_retire.c */
void act_linger(struct move_op *op);
void act_retire(struct move_op *op);
void act_remove_target(struct move_op *op);
void act_publish(struct move_op *op); /* move_act_copy.c */
void act_subscribe(struct move_op *op);
void act_catch_up(struct move_op *op);
void act_rehearse(struct move_op *op);
void act_marker(struct move_op *op);
void act_copy(struct move_op *op); /* move_act_data.c */
void act_build(struct move_op *op);
/* Ends a copy under way; its action does not complete. */
void copy_drop(struct move_op *op);
void act_verify(struct move_op *op); /* move_act_verify.c */

/* One comparison of R's rows on two sides, of which one follows the other. */
struct verify_plan {
    enum move_action action;   /* completes with ERRC_CORRUPT, and findings in the record, if they differ */
    struct link *owner, *copy; /* the copy follows the owner; a connection each, ours meanwhile */
    const char *owner_name, *copy_name; /* shards; of the record, or constant */
    struct move_verified *progress;     /* of the record: where it goes on, and what it counts in */
    uint64_t piece_most;                /* bytes of a table in one statement */
    uint64_t marker_bound_ns;
    bool gentle; /* one worker of the servers, and at most half of the time */
    /* A marker from the owner to the copy. */
    void (*marker)(struct move_op *op, uint64_t bound_ns,
                   void (*done)(struct move_op *op, const struct err *err));
};
/* T's rows against S's, over the subscription of the move. */
struct verify_plan verify_forward(struct move_op *op, enum move_action action);
/* All rows; goes on where the journal says that the same action was. */
void verify_start(struct move_op *op, const struct verify_plan *plan);
/* Some rows, in about 100 ms. */
void verify_start_sample(struct move_op *op, const struct verify_plan *plan); /* move_verify_rows.c */
void act_recheck(struct move_op *op);
/* The one under way ends soon, if nobody wants its result any more. */
void verify_hurry(struct move_op *op);
void verify_free(struct move_op *op);
void act_close_gate(struct move_op *op); /* move_act_cutover.c */
void act_lock(struct move_op *op);
void act_fence(struct move_op *op);
void act_route(struct move_op *op);
void act_sequences(struct move_op *op);
void act_prepare_open(struct move_op *op);
void act_commit(struct move_op *op);
void act_rollback(struct move_op *op);
void act_unroute(struct move_op *op);
void act_open(struct move_op *op);
/* Rolls back what act_prepare_open() began. */
void opening_forget(struct move_op *op);
void act_settle(struct move_op *op);
void act_announce(struct move_op *op);
void act_burn_gate(struct move_op *op);
/* Connects and warms up the sessions of the holders; `done` comes later, or at once if there are none. */
void hold_warm_up(struct move_op *op, void (*done)(struct move_op *op)); /* move_act_hold.c */
/* The fence has its lock: what writes S waits from now on until hold_release(), at most some 400 ms. */
void hold_writers(struct move_op *op);
/* Lets the writers go, if they are held. */
void hold_release(struct move_op *op);
/* T is open, or it takes longer: tells of the new routing table as well. */
void hold_end(struct move_op *op);
void hold_drop(struct move_op *op);
void hold_fini(struct move_op *op);
void act_drop_forward(struct move_op *op); /* move_act_clean.c */
void act_clean_source(struct move_op *op);
void act_empty_target(struct move_op *op);
/* The same inside another action. */
void clean_target(struct move_op *op, enum move_action action,
                  void (*then)(struct move_op *op, const struct err *err));
void clean_free(struct move_op *op);
void build_drop(struct move_op *op); /* ends its sessions */
void build_free(struct move_op *op);
void act_reverse_slot(struct move_op *op); /* move_act_reverse.c */
void act_reverse_follow(struct move_op *op);
void act_reverse_check(struct move_op *op);
void act_reverse_verify(struct move_op *op);
void act_reverse_drop(struct move_op *op);
void sequences_free(struct move_op *op);
/* Before each action: begins, goes on or ends, as the move's state asks. */
void watch_follow(struct move_op *op); /* move_watch.c */
/* A copy is about to begin: its rate for the first second, bytes/s; 0 = as fast as it goes. */
uint64_t watch_copy_begins(struct move_op *op);
/* The copy ended, however: nothing is throttled any more. */
void watch_copy_over(struct move_op *op);
void watch_stop(struct move_op *op);
void watch_free(struct move_op *op);

#endif
