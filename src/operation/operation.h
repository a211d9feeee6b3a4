/*
 * operation: the journaled jobs and the list of them.
 *
 * An operation is any long job with a journal: provision, move (split, merge, isolate, rebalance), drain,
 * migrate, retire, failover and switchover. Its journal is one document under op/<id>, written by
 * compare-and-swap before the step it announces is taken, so that a manager that finds it after a crash can
 * go on or go back. The servers are the truth, the journal is the intention.
 *
 * The manager owns one `struct operations`; every operation lives in it until it is pruned. An operation that
 * ended stays listed (the newest OPERATIONS_KEPT of them) and in the store.
 */
#ifndef OPERATION_OPERATION_H
#define OPERATION_OPERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/list.h"
#include "fleet/fleet.h"
#include "loop/loop.h"
#include "runtime/runtime.h"
#include "store/store.h"

#define OPERATION_ID_SIZE 16
#define OPERATIONS_KEPT   200

enum operation_status { OPERATION_RUNNING, OPERATION_DONE, OPERATION_UNDONE, OPERATION_FAILED };
const char *operation_status_name(enum operation_status status); /* "running", ... */

struct operation;
struct operations;

/* Once, later. `primary` is valid during the call. */
typedef void (*operation_driven_cb)(const struct err *err, const char *primary, void *data);

/* What the manager lends to operations. All pointers outlive them. */
struct operation_services {
    struct loop *loop;
    struct store *store;
    struct fleet *fleet;
    struct runtime *runtime;   /* NULL: nothing can be made, only existing servers are used */
    int64_t term;              /* of our leadership; 0 = not (or no longer) the leader: nothing may start */
    const char *bin_directory; /* holds pg_dump and psql; NULL = PATH */
    unsigned max_moves;        /* more are not begun, by whomever; 0 = no limit. See move_op_working() */
    unsigned copy_lanes;       /* of a move, 1 to COPIER_LANES_MOST; 0 = 4 */
    unsigned build_lanes;      /* of a move, indexes side by side, to BUILD_LANES_MOST; 0 = by the server */
    uint64_t copy_rate;        /* bytes per second of one move; 0 = no limit */
    uint64_t verify_rate; /* bytes per second of a table that the verification reads on either side; 0 = no
                             limit */
    /* what the copy gives way to, and what a move goes back for; see throttle.h, wal_guard.h */
    uint64_t max_commit_latency_ns, max_standby_lag_ns; /* UINT64_MAX or 0 = not looked at */
    double max_throughput_loss;                         /* 0 to 1; 0 = not looked at */
    uint64_t max_retained_wal, min_free_disk;           /* bytes; 0 = no bound */
    uint64_t retire_wait_ns; /* how long a server that is taken away waits for its clients to go, at most */
    const char *kill_at; /* tests: end the process with SIGKILL exactly there, or, after "stop:", SIGSTOP it
                            there once; NULL = never */
    /* Fills what runtime_ensure() needs for the instance of this number, from 0, of a new shard; strings live
     * until the call returns. */
    int (*spec_of)(void *spec_data, const struct fleet_database *db, const char *shard, int number,
                   struct runtime_spec *ret, struct err *err);
    void *spec_data;
    /*
     * The agents of a shard's members answer, or answered before: from now on they are given orders by
     * whoever drives shards, and instance 0 is to be the first primary. `done` comes with NULL once there is
     * a primary that accepts writes, with its name. Idempotent; what is still owed comes before
     * operations_fini(). NULL = nobody drives shards: none of several instances can be made.
     */
    int (*drive)(void *drive_data, const char *database, const char *shard, operation_driven_cb done,
                 void *data, struct err *err);
    /*
     * The instances of this shard (NULL: of all shards of the database) are going to be removed: nobody
     * orders them about any more, and what was kept of them is forgotten, when `done` comes with NULL. Also
     * of shards that are not driven. NULL = there is nothing to release.
     */
    int (*release)(void *drive_data, const char *database, const char *shard,
                   void (*done)(const struct err *err, void *data), void *data, struct err *err);
    /* Another primary is being made for this shard. NULL = never. */
    bool (*fails_over)(void *drive_data, const char *database, const char *shard);
    void *drive_data;
    /* The routing table of db was written to the store and replaced in the model. */
    void (*routing_changed)(void *data, struct fleet_database *db);
    /* State or progress of op changed; also called once at its end. */
    void (*operation_changed)(void *data, struct operation *op);
    void *data;
};

typedef void (*operation_done_cb)(struct operation *op, const struct err *err, void *data);

struct operation_kind {
    const char *name;                                            /* "move" */
    void (*print)(const struct operation *op, struct buf *json); /* the document for API and journal */
    /*
     * Asks to go back. ERRC_CONFLICT: it can only go forward. Zero: it goes back, and `done` follows when the
     * journal says so, that is, when a restart cannot forget it any more.
     */
    int (*cancel)(struct operation *op, operation_done_cb done, void *data, struct err *err);
    /* The same also where cancel() says that it can only go forward, and, with `accept`, although it is known
     * that what it goes back to differs; NULL if that is never possible. */
    int (*rollback)(struct operation *op, bool accept, operation_done_cb done, void *data, struct err *err);
    /* One that is held goes on: looks again, or, with `accept`, does not. As cancel(); NULL if never held. */
    int (*go_on)(struct operation *op, bool accept, operation_done_cb done, void *data, struct err *err);
    bool aside;                         /* it keeps no other operation from beginning */
    void (*stop)(struct operation *op); /* the process ends: drop connections, keep the journal */
    void (*free)(struct operation *op);
};

/* First member of every operation's struct. */
struct operation {
    struct list node; /* in operations.list */
    const struct operation_kind *kind;
    struct operations *owner;
    char id[OPERATION_ID_SIZE];
    char *database;
    char *shard; /* the one that it is about (the source of a move), or NULL */
    enum operation_status status;
    int64_t revision;             /* of op/<id> in the store */
    int64_t created_us, ended_us; /* wall clock; ended 0 while running */
    struct err error;             /* last error, also of a step that is being retried */
    char *unsure;                 /* what was written to its journal without an answer; NULL = nothing */
    struct list writes;           /* of its journal: the first is under way, the others wait for it */
    struct loop_task free_task;
};

struct operations {
    struct operation_services services;
    struct list list;            /* newest last */
    void (*stopped)(void *data); /* set by operations_stop() */
    void *stopped_data;
    int stopping; /* operations that have not stopped yet */
};

void operations_init(struct operations *ops, const struct operation_services *services);
/* Lets go of every operation (journals stay); `stopped` runs when no connection of theirs is left. */
void operations_stop(struct operations *ops, void (*stopped)(void *data), void *data);
void operations_fini(struct operations *ops);

struct operation *operations_find(const struct operations *ops, const char *id);
/* A running operation that touches this shard of this database (shard NULL: any of the database), or NULL.
 * None that is aside. */
struct operation *operations_running_on(const struct operations *ops, const char *database,
                                        const char *shard);

/*
 * Reads op/ and resumes what was running (see move.h for how). `done` runs when all journals were read;
 * unreadable ones are reported by its error and left alone. Needs services.term.
 */
int operations_resume(struct operations *ops, void (*done)(const struct err *err, void *data), void *data,
                      struct err *err);

/* ---- for the kinds ---- */

/* Enters op into the list under a new id ("m7k2p9xq": prefix and random text), or the one resumed. */
void operation_register(struct operations *ops, struct operation *op, const struct operation_kind *kind,
                        const char *prefix, const char *id);
/*
 * Writes the journal document kind->print() makes when its turn comes: writes of one operation go one after
 * the other. done gets ERRC_CONFLICT when someone else wrote it.
 */
int operation_journal(struct operation *op, operation_done_cb done, void *data, struct err *err);
/* Sets status and ended_us; the caller has journaled or will journal. */
void operation_end(struct operation *op, enum operation_status status);
void operation_changed(struct operation *op);
/* The last callback of a stopped operation's connections has run. */
void operation_stopped(struct operation *op);
/*
 * Tests: kills or stops the process if services.kill_at names `place`. Places of a move: "move:before:A",
 * "move:after:A" and "move:state:S" with an action or state of move.h, "move:amid:build" (an index or key is
 * built, others may not be), "rollback:..." of its way back; of
 * making a database "provision:state:S" (journaled), "provision:before:S" (its effects follow),
 * "provision:amid:S" (some shards have them, others wait) and "provision:after:S" (all have them, the next
 * state is not journaled); "retire:..." likewise; of a migration "migrate:state:S:N" (journaled, N shards
 * have it) and "migrate:after:shard" (a shard has it, which is not journaled); of a change of the number of
 * instances in Kubernetes "resize:before:walk" and "resize:after:walk" (a shard gets more),
 * "resize:before:take" and "resize:after:take" (what nothing relies on any more goes).
 */
void operation_maybe_kill(struct operations *ops, const char *place);
/* The same where there are no operations: a stop forgets *kill_at. */
void operation_test_place(const char **kill_at, const char *place);

/*
 * Writes a new routing table of db (takes ownership of routing, also on failure) and puts it into the model.
 * ERRC_CONFLICT: someone else wrote it, and the model is what the store has; ERRC_STALE: a newer leader did.
 * The document names our term. After any failure the store is read back, since the outcome may be unknown.
 */
int operation_publish(struct operations *ops, struct fleet_database *db, struct routing *routing,
                      void (*done)(const struct err *err, void *data), void *data, struct err *err);

/*
 * The same, but services.routing_changed is not called: who asks gets the new table, nobody is told of it
 * until operation_announce().
 */
int operation_publish_untold(struct operations *ops, struct fleet_database *db, struct routing *routing,
                             void (*done)(const struct err *err, void *data), void *data, struct err *err);
void operation_announce(struct operations *ops, struct fleet_database *db);

#endif
