/* move_internal: what the files of the move's core share; nobody else includes it. */
#ifndef OPERATION_MOVE_INTERNAL_H
#define OPERATION_MOVE_INTERNAL_H

#include "operation/move.h"

enum move_state move_now(const struct move *m);
int move_state_find(const char *name); /* -1 */
void move_act(struct move *m, enum move_action action);
void move_enter(struct move *m, enum move_state state);
/* Waits by the backoff of m->attempts, then starts action again. */
void move_retry_later(struct move *m, enum move_action action);
uint64_t move_backoff(unsigned attempts);

/* FENCE was journaled: first try. */
void fence_begin(struct move *m);
/* The journal says FENCE: go forward if S does not own R any more, else back to the rehearsal. */
void fence_resume(struct move *m, const struct move_outcome *seen);
void fence_done(struct move *m, enum move_action action, const struct move_outcome *o);

#endif
