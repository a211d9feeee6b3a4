/*
 * sm: the checked state machine that every multi-step job embeds.
 *
 * A table names each state and the states that may follow it. An edge that the table does not allow is a
 * defect and aborts; a state can be left only through sm_move(), so that a trace hook sees every transition.
 */
#ifndef BASE_SM_H
#define BASE_SM_H

#include <stdbool.h>
#include <stdint.h>

struct sm_state {
    const char *name;
    uint64_t next; /* bit N set: state N may follow */
    bool final;    /* nothing follows; sm_fini() demands one of these */
};

struct sm;
/* Called after each move; machines log and check their invariant here. */
typedef void (*sm_moved_cb)(const struct sm *sm, int from, void *data);

struct sm {
    const struct sm_state *table;
    int count; /* states in the table, at most 64 */
    int now;   /* read it with sm_now() */
    sm_moved_cb moved;
    void *data;
};

#define SM_NEXT(state) (1ull << (state))

/* moved may be NULL. The table must outlive the machine. */
void sm_init(struct sm *sm, const struct sm_state *table, int count, int first, sm_moved_cb moved,
             void *data);

/* Moves to `to`, or aborts with both names on stderr if the table does not allow it. */
void sm_move(struct sm *sm, int to);

bool sm_may(const struct sm *sm, int to);
int sm_now(const struct sm *sm);
const char *sm_name(const struct sm *sm);

/* The state with that name, or -1. */
int sm_find(const struct sm_state *table, int count, const char *name);

/* Aborts unless the state is final. */
void sm_fini(const struct sm *sm);

#endif
