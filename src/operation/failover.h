/*
 * failover: the operation that gives a shard another primary: after the loss of the one it had, or on purpose
 * (switchover). See docs/high-availability.md.
 *
 * This file is the core, as move.h is of a move: a state machine that orders actions and reacts to their
 * outcomes, without I/O and without a clock. A `struct failover_driver` performs the actions and reports each
 * with failover_done(), exactly once and never from inside act(). Whom to promote is health/ha_decide.h's to
 * say.
 *
 * States, and what wakes the ones that wait:
 *
 *   PLANNED --> [PREPARE] --> CLAIM --> [FENCE] --> CONFIRM --> [LEASE] --> CHOSEN
 *      |            |          ^                     ^  |                     |
 *      +------------+----> CANCELED                  |  v                     v
 *                              |                    FETCH                  PROMOTE --> SETTLE --+
 *                              |                                              |           |     |
 *                              |                  DONE <-- ROUTE <-- OPEN <-- REPOINT <---------+
 *                              |                             |         |         |
 *                              +-----------------------------+---------+---------+
 *                              the winner does not do it, or is lost: a new term
 *
 *   [PREPARE] and [FENCE] of a switchover only; [LEASE] where only time says that the old primary is silent.
 *   Every state waits for the outcome of its actions. Before CLAIM nothing is changed. CONFIRM is tried until
 * a quorum has confirmed, however long: also the old primary may come back, confirm and be promoted again.
 * From PROMOTE on, a winner that fails several times, or of which failover_lost() tells, is given up: under a
 * new term everything is asked anew. After DONE ha_sync_plan() settles the record, and ha_rejoin() says how
 * the others come back.
 *
 * Why it is safe, whoever else runs it at the same time: the record is written by compare-and-swap, CLAIM
 * takes a term that nobody else has, confirmations are binding and of that term, and the winner's config is
 * in the record before the winner is told to promote. So whoever claims a later term knows of every primary
 * that may ever have acknowledged, and has to satisfy its config. What an older leader still sends is either
 * refused by its term or harmless: nobody acknowledges by it without those who have confirmed a later term.
 * Who may acknowledge alone has no such helpers, so its lease, the first one too, counts from a proof of the
 * term that whoever performs FO_PROMOTE brings. docs/protocol/failover.pml and lease.pml say the same to
 * spin.
 *
 * Recovery: a resumed failover first writes its journal, so that who led before cannot write it any more.
 * Once CHOSEN is written it goes on with that winner and that term; before, it claims the next.
 */
#ifndef OPERATION_FAILOVER_H
#define OPERATION_FAILOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sm.h"
#include "health/ha_decide.h"

enum failover_state {
    FAILOVER_PLANNED,
    FAILOVER_PREPARE, /* switchover: a checkpoint, so that the stop is short */
    FAILOVER_CLAIM,   /* the next term is ours, in the record */
    FAILOVER_FENCE,   /* switchover: the old primary confirms; the target gets the last byte */
    FAILOVER_CONFIRM, /* everybody is asked to confirm */
    FAILOVER_FETCH,   /* the winner gets from the most advanced, which may not be promoted, what it lacks */
    FAILOVER_LEASE,   /* only time says that the old primary does not acknowledge any more */
    FAILOVER_CHOSEN,  /* the winner's config is in the record: from here on it may become primary */
    FAILOVER_PROMOTE,
    FAILOVER_SETTLE,  /* guards, gate and control row are those of the store, before any write [A6, A7] */
    FAILOVER_REPOINT, /* the others follow it */
    FAILOVER_OPEN,    /* it accepts writes */
    FAILOVER_ROUTE,   /* routing table and read-write service name it */
    FAILOVER_DONE,
    FAILOVER_CANCELED,
    FAILOVER_STATE_COUNT
};
const char *failover_state_name(enum failover_state state); /* "confirm" */

enum failover_action {
    FO_JOURNAL, /* write the record as it is now, by compare-and-swap; ERRC_CONFLICT: another one wrote it */
    FO_WAIT,    /* complete after failover->wait_ns */
    FO_CHECKPOINT, /* on the primary */
    FO_FENCE,      /* the primary has ended its sessions and stopped in order, to confirm record.ha.term. Its
                      confirmation may come later: FO_CONFIRM asks for it again */
    FO_DRAIN,      /* record.target has on disk what the fenced primary had; bounded in time */
    FO_CONFIRM, /* ask every instance to confirm record.ha.term; complete with what came within a bound, or as
                   soon as ha_choose() names somebody and nobody is missing who was heard lately and whose
                   server is up */
    FO_FETCH,   /* choice.winner receives from choice.donor up to choice.position */
    FO_PROMOTE, /* choice.winner, under the term; it accepts no writes yet. With a choice.config.k of 0 it
                   gets a lease, which counts from a moment at which the record was still of this term */
    FO_SETTLE,  /* ranges that left the shard are fenced, moves of it told to copy again. The config's members
                   may begin to follow the winner beside it */
    FO_REPOINT, /* the config's members follow the winner; bounded in time */
    FO_OPEN,    /* the winner acknowledges by its config, and only by it */
    FO_ROUTE,   /* routing table, read-write service */
    FO_COUNT
};
const char *failover_action_name(enum failover_action action); /* "promote" */

enum failover_kind { FAILOVER_KIND_FAILOVER, FAILOVER_KIND_SWITCHOVER, FAILOVER_KIND_COUNT };
const char *failover_kind_name(enum failover_kind kind);

/* What is journaled: one document per shard, which is also where ha_sync_plan()'s steps are written. */
struct failover_record {
    char id[16];
    enum failover_kind kind;
    enum failover_state state;
    int target;     /* switchover: to whom; -1 = to the best */
    int allow_loss; /* see ha_ballot; -1 = no */
    int rule;       /* of the verdict, 0 = a person */
    char reason[HA_SENTENCE_SIZE];
    struct ha_record ha;
    struct err error; /* the last one; not in the journal */
};
/* A failover of a shard with this record, PLANNED. */
void failover_record_init(struct failover_record *record, const struct ha_record *ha);

struct failover_outcome {
    struct err err; /* ERRC_NONE = success; ERRC_STALE: an agent knows of a higher term */
    struct ha_confirmation
        confirmed[HA_INSTANCES_MAX]; /* of FO_CONFIRM and FO_FENCE, by instance; term 0 = none */
};

struct failover;
struct failover_driver {
    /* Starts an action; completes with failover_done(), later. */
    void (*act)(struct failover_driver *driver, enum failover_action action);
    /* State, choice or error changed (log, progress). */
    void (*changed)(struct failover_driver *driver);
    /* DONE or CANCELED was journaled; nothing follows. */
    void (*ended)(struct failover_driver *driver);
    /* Somebody else writes the record, or an agent knows a higher term: read the record anew; nothing
     * follows. */
    void (*deposed)(struct failover_driver *driver);
};

struct failover {
    struct failover_record record;
    struct failover_driver *driver;
    struct ha_shard shard; /* names, tags and policy; its record and confirmations are kept up to date here */
    struct ha_choice choice; /* of the last CONFIRM; from CHOSEN on whom the record names */
    struct sm sm;
    unsigned attempts;          /* failures in a row of the present action */
    uint64_t wait_ns;           /* for FO_WAIT */
    enum failover_action retry; /* the action that FO_WAIT leads back to */
    bool drains;                /* FENCE: the primary has confirmed, FO_DRAIN is under way */
    bool lost;                  /* failover_lost() */
    bool cancel;                /* failover_cancel() */
    bool waits;                 /* the present action is a FO_WAIT between two tries */
    bool busy;                  /* an action is under way */
    bool over;
};

/* Copies record and shard (whose own record is ignored). The driver must outlive the failover. */
void failover_init(struct failover *f, struct failover_driver *driver, const struct failover_record *record,
                   const struct ha_shard *shard);

/* Once. resumed: the record was read from the store, where another manager may have left it. */
void failover_start(struct failover *f, bool resumed);
void failover_done(struct failover *f, enum failover_action action, const struct failover_outcome *outcome);

/* The winner is seen to be gone. Nothing happens if none was chosen yet. */
void failover_lost(struct failover *f);

/* Before CLAIM only, else ERRC_CONFLICT with the reason. */
int failover_cancel(struct failover *f, struct err *err);

enum failover_state failover_now(const struct failover *f);

#endif
