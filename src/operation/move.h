/*
 * move: the operation that changes who owns a range of hashes. A split is "provision + move", a merge "move
 * everything, then retire the source", a rebalance a move between two shards that exist.
 *
 * This file is the core: a state machine that orders actions and reacts to their outcomes. It does no I/O and
 * reads no clock: a `struct move_driver` performs the actions - move_pg.c against real servers, the
 * simulation against modelled ones - and reports each with move_done(), exactly once and never from inside
 * act(). docs/protocol.md tells the same story for people.
 *
 * States (each is journaled before its first action), and what wakes the ones that wait:
 *
 *   PLANNED --> CHECK --> TARGET --> COPY --> CATCH_UP --> VERIFY --> REHEARSE --> FENCE --> SETTLE
 *                 |          |         |          |           |          |  ^        |          |
 *                 |          +---------+----------+-----------+----------+  +--------+        WATCH
 *                 v                               v                      (a try failed)         |
 *              REFUSED                           UNDO --> UNDONE                              CLEAN --> DONE
 *
 *   while it bakes S is compared with T (ACT_REVERSE_VERIFY); a difference holds the move until somebody says
 *   how it goes on (move_go_on(), move_rollback()):
 *
 *   WATCH --> HELD --> WATCH or REHEARSE
 *
 *   taken back while it bakes (record.back: source and target have changed places):
 *
 *   WATCH, HELD --> REHEARSE --> FENCE --> SETTLE --> WATCH --> CLEAN --> UNDONE
 *     ^                 |          |
 *     +----- UNDO <-----+----------+  (given up: what the move did stays)
 *
 *   Every state waits for the outcome of its actions; before the fence commit an action that fails is tried
 *   again a bounded number of times and then the move goes to UNDO; after it, actions are tried until they
 *   succeed, because the only way is forward. UNDO is tried until it succeeds as well.
 *   FENCE has phases of its own (enum fence_phase); the opening of the gate on T, the point of no return,
 *   is its last.
 *
 * The way back: with a bake time, S follows T for R from WATCH to CLEAN over a subscription of its own, so
 * that move_rollback() is the same fence in the other direction. S and T then change places in the record:
 * "source" is who has R and gives it, "target" who gets it, in this file and in the actions.
 *
 * Recovery: a resumed move first writes its journal, so that who led before cannot write it any more, raises
 * the term on T, then on S (ACT_TAKE_TERM), reads guards and gate (ACT_INSPECT), and decides from those, not
 * from the journal alone. Where they contradict each other - both or neither could accept R, or S owns R
 * after the fence - nothing is safe: the move stops for a person (deposed). So it does when the journal was
 * written by someone else meanwhile.
 */
#ifndef OPERATION_MOVE_H
#define OPERATION_MOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/sm.h"
#include "fleet/range.h"

enum move_state {
    MOVE_PLANNED,
    MOVE_CHECK,    /* 2: everything that would make it fail, at once; nothing is changed */
    MOVE_TARGET,   /* 3: the target exists, has the schema, its guards refuse R, DDL is frozen */
    MOVE_COPY,     /* 4: publication, slot, rows, indexes, subscription */
    MOVE_CATCH_UP, /* 5: markers come back fast */
    MOVE_VERIFY,   /* 6: counts and checksums agree */
    MOVE_REHEARSE, /* 7: reverse slot and closed gate on T, markers show a calm moment, no blocker */
    MOVE_FENCE,    /* 8 and 9: see fence_phase */
    MOVE_SETTLE,   /* 10: static guards on T, routing announced */
    MOVE_WATCH,    /* 11: forward replication goes, S follows T and is compared with it; bake time */
    MOVE_HELD,     /* S has another copy than T, or cannot be compared: a person says how it goes on */
    MOVE_CLEAN,    /* 12: S does not follow T any more; R's rows on S are deleted */
    MOVE_RETIRE,   /* merge, upgrade: nobody is sent to S any more; it goes when its clients have gone */
    MOVE_DONE,
    MOVE_UNDO,
    MOVE_UNDONE,
    MOVE_REFUSED, /* the checks found something */
    MOVE_STATE_COUNT
};
const char *move_state_name(enum move_state state); /* "catch_up" */

enum fence_phase {
    FENCE_NONE,
    FENCE_PREPARE,  /* T's opening is begun, before anybody waits */
    FENCE_LOCK,     /* waiting for the lock on S */
    FENCE_INSIDE,   /* side by side: marker to T, guards on S, S's sequences, routing table */
    FENCE_COMMIT,   /* waiting for the commit on S; its loss makes the outcome unknown: RESOLVE */
    FENCE_OPEN,     /* S refuses R; open the gate on T until it is done */
    FENCE_BACK_OUT, /* waiting for what runs side by side, then rollback, then the old owner is published */
    FENCE_RESOLVE,  /* end our old backend on S, take the control row, read who owns R */
    FENCE_PAUSE     /* the timer between two tries */
};

enum move_action {
    ACT_JOURNAL,       /* write the record as it is now */
    ACT_WAIT,          /* complete after move->wait_ns */
    ACT_TAKE_TERM,     /* raise the term on T (if it is there), then on S; our functions there */
    ACT_INSPECT,       /* read who owns R and the gate: outcome.source_owns, .target_owns, .gate_open */
    ACT_CHECK,         /* findings go to record.findings; an error among them => ERRC_REFUSED */
    ACT_PROVISION,     /* T's instance exists and is in the routing table, without ranges */
    ACT_SCHEMA,        /* T has the tables, shardherd's schema and guards that refuse R */
    ACT_FREEZE,        /* SHR02 triggers on S and T */
    ACT_EMPTY_TARGET,  /* undo: no row of R is left on a T that stays */
    ACT_PUBLISH,       /* publication and marker table on S */
    ACT_COPY,          /* slot with a snapshot, all rows of R under it; empties T before */
    ACT_BUILD,         /* indexes, constraints and triggers of a T of our own */
    ACT_SUBSCRIBE,     /* marker table and subscription on T, from that slot */
    ACT_CATCH_UP,      /* several marker round trips in a row are short */
    ACT_VERIFY,        /* both sides equal; ERRC_CORRUPT with the keys that differ */
    ACT_CLOSE_GATE,    /* gate row and gate guards on T */
    ACT_RECHECK,       /* some rows of both sides equal; ERRC_CORRUPT as ACT_VERIFY */
    ACT_REHEARSE,      /* markers as calm.h asks, and nobody holds the tables */
    ACT_LOCK,          /* begin the fence transaction on S and lock the tables */
    ACT_FENCE,         /* in it: S's guards without R */
    ACT_MARKER,        /* on another connection: write a marker, await it on T */
    ACT_ROUTE,         /* routing table: T owns R, epoch + 1 */
    ACT_SEQUENCES,     /* S's, read on a connection of its own; T's raised in the opening's transaction */
    ACT_PREPARE_OPEN,  /* T: begin the transaction of the opening and do all of it but sequences and COMMIT */
    ACT_COMMIT,        /* commit the fence transaction */
    ACT_ROLLBACK,      /* roll it back (or drop its connection) */
    ACT_UNROUTE,       /* routing table: S owns R, epoch + 1; nothing if it says so and is not doubted */
    ACT_RESOLVE,       /* unknown outcome: outcome.source_owns is the truth afterwards */
    ACT_OPEN,          /* T: commit what was prepared, or sequences and gate anew: point of no return */
    ACT_SETTLE,        /* T: range into the shard row, static guards */
    ACT_ANNOUNCE,      /* routing table (again, if a crash lost it), shardherd.routing and NOTIFY */
    ACT_DROP_FORWARD,  /* subscription on T, slot and publication on S, marker tables */
    ACT_CLEAN_SOURCE,  /* delete R's rows on S in batches, vacuum */
    ACT_UNFREEZE,      /* SHR02 triggers off */
    ACT_UNLIST,        /* S leaves the routing table */
    ACT_LINGER,        /* S answers with SHR01 until no client asks it any more, at most retire_wait */
    ACT_RETIRE,        /* S is removed */
    ACT_BURN_GATE,     /* undo: no gate of this move on T any more, ever */
    ACT_REMOVE_TARGET, /* undo: a T made by this move leaves the routing table and is removed */
    /* the way back; S and T are those of the move as it was asked for */
    ACT_REVERSE_SLOT,   /* publication and slot on T, before the fence; timelines of both are noted */
    ACT_REVERSE_FOLLOW, /* subscription on S from the opening on, once the forward one is proved absent */
    ACT_REVERSE_CHECK,  /* nothing has made a hole in what S followed; else ERRC_REFUSED with the reason */
    ACT_REVERSE_VERIFY, /* what S has of R is what T has; ERRC_CORRUPT with the keys that differ */
    ACT_REVERSE_DROP,   /* subscription on S, slot and publication on T, marker tables */
    ACT_COUNT,
    ACT_END = ACT_COUNT
};
const char *move_action_name(enum move_action action); /* "close_gate" */

enum move_kind {
    MOVE_KIND_MOVE,
    MOVE_KIND_SPLIT,
    MOVE_KIND_ISOLATE,
    MOVE_KIND_MERGE,
    MOVE_KIND_REBALANCE,
    MOVE_KIND_UPGRADE, /* everything, to a new shard that runs a newer PostgreSQL; S is retired */
    MOVE_KIND_COUNT
};
const char *move_kind_name(enum move_kind kind);

/* What the comparison of S with T found after the fence. */
enum move_verdict {
    MOVE_VERDICT_NONE, /* none was made, or it has not ended */
    MOVE_VERDICT_EQUAL,
    MOVE_VERDICT_DIFFERS,
    MOVE_VERDICT_UNKNOWN, /* it could not be made */
    MOVE_VERDICT_DOUBTED, /* it differed; another comparison was asked for and has not ended */
    MOVE_VERDICT_COUNT
};
const char *move_verdict_name(enum move_verdict verdict); /* "differs" */

#define MOVE_NAME_SIZE    64
#define MOVE_FINDINGS_MAX 49152
#define VERIFY_TABLE_SIZE 144 /* two quoted names */
#define VERIFY_CUT_SIZE   64  /* a number, time or uuid as text */

/* A verification: where it is, and what it has seen; a new manager goes on there. The "owner" is the side
 * that accepts writes. */
struct move_verified {
    char action[24];               /* "verify"; "" = none was begun */
    char table[VERIFY_TABLE_SIZE]; /* the one under way, "" = none */
    char after[VERIFY_CUT_SIZE];   /* value of its cut column up to which it is done, "" = from its start */
    unsigned tables;               /* whole ones */
    unsigned rounds;
    uint64_t rows, buckets;     /* on the owner; buckets of pieces of tables */
    uint64_t bytes, all_bytes;  /* of the owner's tables: so far, and all */
    uint64_t buckets_in_motion; /* changed in every round: their rows that stood still are equal */
    uint64_t us;                /* of all tries */
};

/* What is journaled. Owned by the move; text members are never NULL. */
struct move_record {
    char id[16];
    enum move_kind kind;
    char database[MOVE_NAME_SIZE];
    char source[MOVE_NAME_SIZE];
    char target[MOVE_NAME_SIZE];
    struct range range;
    bool new_target;    /* T is made by this move, and removed when it is undone */
    bool retire_source; /* merge, upgrade */
    bool dry_run;       /* ends after CHECK */
    bool allow_ddl;     /* until REHEARSE, DDL on what it moves is not refused: the move goes back */
    uint64_t bake_ns;
    enum move_state state;
    bool canceled;    /* someone asked to go back */
    bool rollback;    /* someone asked to take it back after its fence: it turns once S follows T */
    bool go_on;       /* someone asked to go on, while it is held */
    bool accepted;    /* ... or back, although S has another copy than T, or may have */
    bool back;        /* it goes back over the reverse subscription: source and target, and what is said of
                         them below, have changed places */
    int rule;         /* of the decision, 0 = a person */
    char reason[512]; /* its sentence */
    int64_t created_us, ended_us;
    int64_t decided_us;                        /* onset to decision, microseconds; 0 = not known */
    uint64_t source_system, target_system;     /* system identifiers: a change means copy again (A7) */
    uint64_t source_timeline, target_timeline; /* before the fence; likewise, for the way back */
    uint64_t publication;         /* pg_publication.oid: never re-made under a living slot (A13) */
    uint64_t reverse_publication; /* T's; 0 = there is no way back */
    enum move_verdict verdict;    /* of S's copy, after the fence */
    uint64_t source_epoch;        /* of shardherd.shard on S when the move began */
    uint64_t target_epoch; /* of T in the routing table before the fence: what it is again if R goes back */
    struct buf findings;   /* see findings.h */
    struct err error;      /* the last one */
    /* measured */
    int64_t phase_started_us; /* wall clock */
    uint64_t copy_us;
    uint64_t build_us;                /* indexes, constraints and statistics of a target of our own */
    uint64_t copy_rows, copy_bytes;   /* while and after copying */
    uint64_t total_rows, total_bytes; /* estimated, better and better while copying; exact after it */
    uint64_t copy_rate;               /* bytes per second, of the last ten; 0 = nothing is being copied */
    unsigned tables, tables_copied;
    uint64_t source_commit_us; /* what a commit on S took in the last second */
    uint64_t standby_lag_us;   /* of S's standby that is furthest behind */
    uint64_t retained_wal;     /* bytes that the slot keeps on S */
    uint64_t throttle_rate;    /* bytes per second that the copy is held to; 0 = it is not throttled */
    uint64_t throttled_us;     /* so far */
    char throttle[256];        /* why, for people; "" = it is not; not read back from a journal */
    struct move_verified verified, reverse_verified; /* before the fence; after it, against S's copy */
    uint64_t rechecked_rows;                         /* right before the fence */
    unsigned fence_attempts;
    uint64_t lock_us, inside_us, commit_us, open_us; /* of the try that succeeded */
    uint64_t write_block_us;                         /* lock request to open gate */
    uint64_t marker_us;                              /* last marker round trip: the lag */
    uint64_t cleaned_rows;
};

struct move_outcome {
    struct err err;                                         /* ERRC_NONE = success */
    bool source_owns, target_owns, gate_open, target_known; /* of ACT_INSPECT and ACT_RESOLVE */
    uint64_t lock_ns; /* of ACT_LOCK: when the lock was asked for, in a transaction that was there already */
};

struct move;
struct move_driver {
    /* Starts an action; completes with move_done(), later. */
    void (*act)(struct move_driver *driver, enum move_action action);
    /* Monotonic clock, for the measured phases. */
    uint64_t (*now)(struct move_driver *driver);
    /* State, phase or error changed (log, progress). */
    void (*changed)(struct move_driver *driver);
    /* DONE, UNDONE or REFUSED was journaled; nothing follows. */
    void (*ended)(struct move_driver *driver);
    /* A newer leader exists, or the servers contradict the journal: nothing more may be done; nothing
     * follows. */
    void (*deposed)(struct move_driver *driver);
    /* record.back changed: source and target have changed places. Nothing is under way. */
    void (*turned)(struct move_driver *driver);
    /* An ACT_WAIT or ACT_REVERSE_VERIFY that is under way, if any, completes soon. */
    void (*hurry)(struct move_driver *driver);
};

struct move {
    struct move_record record;
    struct move_driver *driver;
    struct sm sm;
    enum fence_phase phase;
    int step;               /* index of the action within the state */
    unsigned attempts;      /* failures in a row of the present action */
    uint64_t wait_ns;       /* for ACT_WAIT */
    int outstanding;        /* actions started and not yet done */
    bool resumed;           /* the first actions are TAKE_TERM and INSPECT */
    enum move_action retry; /* the action that ACT_WAIT leads back to */
    bool routed; /* ACT_ROUTE was started in this try: the old owner must be published on the way back */
    bool table_doubted;  /* who led before may be about to write the routing table: ACT_UNROUTE writes it even
                          * when nothing is to be changed, so that the other's compare-and-swap fails */
    bool journaling;     /* ACT_JOURNAL of a new state is under way */
    bool undo_wanted;    /* once the present action is done */
    struct err given_up; /* why move_give_up() wanted that */
    struct err cause;    /* why it goes back; the record's error shows what hinders the undo meanwhile */
    bool over;           /* ended or deposed: outcomes that still come change nothing */
    uint64_t lock_ns, locked_ns, committing_ns, committed_ns; /* marks of the running try */
    uint64_t bake_began_ns;                                   /* 0 = not yet */
};

/* Takes over the record (zero-initialise findings). The driver must outlive the move. */
void move_init(struct move *m, struct move_driver *driver, const struct move_record *record);
void move_fini(struct move *m);

/* Begins, or goes on with, what the record says. */
void move_start(struct move *m, bool resumed);

/* The driver's report. */
void move_done(struct move *m, enum move_action action, const struct move_outcome *outcome);

/* Asks to go back. ERRC_CONFLICT from the fence on, naming the state. */
int move_cancel(struct move *m, struct err *err);

/*
 * The same, and after the fence: R goes back to where it came from, with what was written since. It ends as
 * undone, or, when the servers do not allow it, bakes on and says why in record.error. ERRC_CONFLICT once the
 * clean-up has begun, when no way back was kept, or, without `accept`, when it is known that S has another
 * copy than T: T acknowledged the writes since the fence, and the way back makes S's copy the one that
 * counts. Known it is until another comparison has found them equal, not only until one was asked for.
 */
int move_rollback(struct move *m, bool accept, struct err *err);

/*
 * A move that is held goes on: S is compared with T once more, from the beginning, or, with `accept`, is left
 * as it is, to be cleaned at the end of the bake time. `accept` also ends a comparison that is under way.
 * ERRC_CONFLICT: it is not held.
 */
int move_go_on(struct move *m, bool accept, struct err *err);

/* move_cancel() for a reason of the manager's own, which becomes the move's error. False: it can only go
 * forward, or goes back already. */
bool move_give_up(struct move *m, const struct err *why);

/* ---- the record ---- */

void move_record_init(struct move_record *r);
void move_record_free(struct move_record *r);
/* The journal document and the API's: one JSON object. */
void move_record_print(const struct move_record *r, struct buf *json);
/* ERRC_CORRUPT naming the member that is wrong. */
int move_record_parse(const char *json, size_t length, struct move_record *ret, struct err *err);
/* "shardherd_shop_m7k2p9xq_f": slot, publication, subscription and marker table of the direction that R moves
 * in: "_f", or "_r" on its way back (A11). */
void move_record_name(const struct move_record *r, char out[MOVE_NAME_SIZE]);
/* The other direction's. */
void move_record_other_name(const struct move_record *r, char out[MOVE_NAME_SIZE]);
/* Source and target as they were asked for, whichever way R moves. */
const char *move_record_from(const struct move_record *r);
const char *move_record_to(const struct move_record *r);
/* Whether the target was made by this move and goes when R does not come. */
bool move_record_made_target(const struct move_record *r);
/* Whether the source goes when R has left it: merged, or made by a move that is taken back. */
bool move_record_retires(const struct move_record *r);
/* Exchanges source and target. */
void move_record_turn(struct move_record *r);

#endif
