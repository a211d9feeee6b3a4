/*
 * loop_impl: what the files of src/loop share and nobody else needs.
 */
#ifndef LOOP_LOOP_IMPL_H
#define LOOP_LOOP_IMPL_H

#include "loop/loop.h"

/* Sets the libuv timer for the earliest armed loop_timer; called before each wait and when that one changes.
 */
void loop_alarm_set(struct loop *loop);

/* Takes the clock anew for what follows in this turn. */
void loop_now_take(struct loop *loop);

/* Fires what is due; the alarm's callback. */
void loop_alarm_fired(uv_timer_t *alarm);

#endif
