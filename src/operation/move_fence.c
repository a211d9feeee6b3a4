/*
 * The fence and the opening.
 *
 * Happy path: PREPARE_OPEN; LOCK; then side by side MARKER (S to T), FENCE (S's guards), SEQUENCES and ROUTE;
 * COMMIT when all of them are there; OPEN. What can be done of the opening before the COMMIT is
 * done while S's writers wait anyway: as soon as they may go on, they and we share the processors. Failures:
 * anything before COMMIT was sent rolls back, publishes the old owner, pauses and goes through the rehearsal
 * again, FENCE_TRIES times, then the move is undone. A COMMIT whose answer was lost is resolved by asking S
 * after our old backend is gone. After the commit there is only forward: OPEN until it succeeds.
 */
#include <string.h>

#include "base/env.h"
#include "operation/move_internal.h"

#define FENCE_TRIES 30

static void set_phase(struct move *m, enum fence_phase phase)
{
    m->phase = phase;
    m->driver->changed(m->driver);
}

void fence_begin(struct move *m)
{
    m->record.fence_attempts++;
    m->routed = false;
    m->lock_ns = 0;
    m->phase = FENCE_PREPARE; /* no report from here on: every microsecond is a write that waits */
    move_act(m, ACT_PREPARE_OPEN);
}

void fence_resume(struct move *m, const struct move_outcome *seen)
{
    if (!seen->source_owns) {
        set_phase(m, FENCE_OPEN);
        move_act(m, ACT_OPEN);
        return;
    }
    m->routed = m->table_doubted = true; /* it may have been published before the crash, or be just now */
    set_phase(m, FENCE_BACK_OUT);
    move_act(m, ACT_ROLLBACK);
}

static void back_out(struct move *m, const struct err *err)
{
    if (err != NULL && err->code != ERRC_NONE)
        m->record.error = *err;
    m->phase = FENCE_BACK_OUT;
    if (m->outstanding == 0)
        move_act(m, ACT_ROLLBACK);
}

static void backed_out(struct move *m)
{
    m->driver->changed(m->driver);
    if (m->undo_wanted || m->record.fence_attempts >= FENCE_TRIES) {
        move_enter(m, MOVE_UNDO);
        return;
    }
    m->phase = FENCE_PAUSE;
    m->wait_ns = move_backoff(m->record.fence_attempts);
    move_act(m, ACT_WAIT);
}

static void back_out_done(struct move *m, enum move_action action, const struct move_outcome *o)
{
    if (action == ACT_WAIT)
        move_act(m, m->retry);
    else if (action != ACT_ROLLBACK && action != ACT_UNROUTE)
        back_out(m, NULL); /* one of those that ran side by side ended */
    else if (o->err.code != ERRC_NONE) {
        m->attempts++;
        m->record.error = o->err;
        move_retry_later(m, action);
    } else if (action == ACT_ROLLBACK && m->routed)
        move_act(m, ACT_UNROUTE);
    else {
        m->table_doubted = false;
        backed_out(m);
    }
}

static void prepared(struct move *m, const struct move_outcome *o)
{
    if (o->err.code != ERRC_NONE) {
        back_out(m, &o->err);
        return;
    }
    m->phase = FENCE_LOCK;
    move_act(m, ACT_LOCK);
}

static void inside_done(struct move *m, const struct move_outcome *o)
{
    if (o->err.code != ERRC_NONE) {
        back_out(m, &o->err);
        return;
    }
    if (m->outstanding > 0)
        return;
    m->phase = FENCE_COMMIT;
    m->committing_ns = m->driver->now(m->driver);
    move_act(m, ACT_COMMIT);
}

static void locked(struct move *m, const struct move_outcome *o)
{
    if (o->err.code != ERRC_NONE) {
        back_out(m, &o->err);
        return;
    }
    m->lock_ns = o->lock_ns;
    m->locked_ns = m->driver->now(m->driver);
    m->phase = FENCE_INSIDE;
    m->routed = true;
    /* The longest chain comes first. */
    move_act(m, ACT_MARKER);
    move_act(m, ACT_FENCE);
    move_act(m, ACT_SEQUENCES);
    move_act(m, ACT_ROUTE);
}

static void committed(struct move *m)
{
    m->committed_ns = m->driver->now(m->driver);
    m->phase = FENCE_OPEN;
    move_act(m, ACT_OPEN);
}

static void resolved(struct move *m, enum move_action action, const struct move_outcome *o)
{
    if (action == ACT_WAIT)
        move_act(m, ACT_RESOLVE);
    else if (o->err.code != ERRC_NONE) {
        m->attempts++;
        m->record.error = o->err;
        move_retry_later(m, ACT_RESOLVE);
    } else if (o->source_owns)
        back_out(m, NULL);
    else
        committed(m);
}

static void opened(struct move *m)
{
    struct move_record *r = &m->record;
    uint64_t now = m->driver->now(m->driver);
    if (m->lock_ns != 0 && m->committed_ns != 0) { /* not after a crash: the marks are lost */
        r->lock_us = (m->locked_ns - m->lock_ns) / 1000;
        r->inside_us = (m->committing_ns - m->locked_ns) / 1000;
        r->commit_us = (m->committed_ns - m->committing_ns) / 1000;
        r->open_us = (now - m->committed_ns) / 1000;
        r->write_block_us = (now - m->lock_ns) / 1000;
    }
    err_clear(&r->error);
    move_enter(m, MOVE_SETTLE);
}

static void open_done(struct move *m, enum move_action action, const struct move_outcome *o)
{
    if (action == ACT_WAIT)
        move_act(m, ACT_OPEN);
    else if (o->err.code != ERRC_NONE) {
        m->attempts++;
        m->record.error = o->err;
        move_retry_later(m, ACT_OPEN);
    } else
        opened(m);
}

void fence_done(struct move *m, enum move_action action, const struct move_outcome *o)
{
    switch (m->phase) {
    case FENCE_PREPARE:
        prepared(m, o);
        break;
    case FENCE_LOCK:
        locked(m, o);
        break;
    case FENCE_INSIDE:
        inside_done(m, o);
        break;
    case FENCE_COMMIT:
        if (o->err.code == ERRC_NONE)
            committed(m);
        else {
            m->record.error = o->err;
            set_phase(m, FENCE_RESOLVE);
            move_act(m, ACT_RESOLVE);
        }
        break;
    case FENCE_OPEN:
        open_done(m, action, o);
        break;
    case FENCE_BACK_OUT:
        back_out_done(m, action, o);
        break;
    case FENCE_RESOLVE:
        resolved(m, action, o);
        break;
    case FENCE_PAUSE:
    case FENCE_NONE:
        move_enter(m, MOVE_REHEARSE);
        break;
    }
}
