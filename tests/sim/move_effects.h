/*
 * move_effects: what the statements of a move do in the simulated world (move_world.h), and who sends them.
 * Only for sim_move.c.
 */
#ifndef SIM_MOVE_EFFECTS_H
#define SIM_MOVE_EFFECTS_H

#include "move_world.h"
#include "operation/move.h"

#define MANAGERS      3
#define CALLS         12 /* of one manager under way */
#define FAULTY_EVENTS 900
#define MARKER_LOOKS  200
#define LATE_MOST     150 /* events: servers end what nobody waits for (client_connection_check_interval) */

struct manager;

struct call {
    bool used, executed, orphan;
    enum move_action action;
    int phase, looks, session, marker, at, move;
    int sent; /* event */
    int rows[KEYS];
    struct server *source, *target;
    struct move_outcome outcome;
    struct move_record record; /* ACT_JOURNAL */
};

enum life { LIFE_NONE, LIFE_RUNS, LIFE_PAUSED };

struct manager {
    struct move_driver driver; /* first */
    struct sim *sim;
    enum life life;
    bool ended, hurried;
    int number, term, move_number;
    int journal_revision, table_revision;
    bool table_says_b; /* as it has read it, or written */
    struct server *from;
    int fence, opening; /* its sessions */
    struct move move;
    struct call calls[CALLS];
};

struct sim {
    struct world w;
    bool known;    /* it is written down that S has another copy than T */
    bool accepted; /* an operator goes on, or back, all the same */
    struct manager managers[MANAGERS];
    struct move_record journal;
    bool journaled;
    int moves; /* begun */
    bool next; /* all of the last one is done: another may begin */
    struct server *from;
    int events;
    uint64_t clock;
};

static struct server *other(struct sim *s, const struct server *x)
{
    return x == &s->w.a ? &s->w.b : &s->w.a;
}

static bool is_final(enum move_state state)
{
    return state == MOVE_DONE || state == MOVE_UNDONE || state == MOVE_REFUSED;
}

/* The store repeats what had no answer so that it takes effect once, and loses nothing but what was never
 * sent. */
static bool is_store(enum move_action action)
{
    return action == ACT_JOURNAL || action == ACT_ROUTE || action == ACT_UNROUTE || action == ACT_ANNOUNCE;
}

/* ---- the driver: taking effect ---- */

enum effect { EFFECT_WAITS, EFFECT_DONE };

static enum effect fail(struct call *c, enum err_code code, const char *text)
{
    err_clear(&c->outcome.err);
    err_set(&c->outcome.err, code, "%s", text);
    return EFFECT_DONE;
}

static bool stale(const struct sim *s, const struct manager *m, const struct server *x)
{
    return x->now.term > m->term && s->w.bug != BUG_NO_TERM;
}

/* Every statement that changes something on X first takes its control row. */
static bool may_change(struct sim *s, struct manager *m, struct call *c, const struct server *x,
                       enum effect *ret)
{
    *ret = EFFECT_DONE;
    if (!x->up || !x->now.made)
        fail(c, ERRC_UNAVAILABLE, x->up ? "there is no such server" : "the server is down");
    else if (stale(s, m, x))
        fail(c, ERRC_STALE, "a newer leader was here");
    else if ((x->fence != 0 && x->fence != m->fence) || (x->opening != 0 && x->opening != m->opening))
        *ret = EFFECT_WAITS;
    else
        return true;
    return false;
}

static bool may_change_both(struct sim *s, struct manager *m, struct call *c, enum effect *ret)
{
    return may_change(s, m, c, c->source, ret) && may_change(s, m, c, c->target, ret);
}

/* What others have under way on X is ended there. */
static void end_backends(struct sim *s, const struct manager *except, const struct server *x)
{
    for (int i = 0; i < MANAGERS; i++) {
        for (int j = 0; j < CALLS; j++) {
            struct call *c = &s->managers[i].calls[j];
            if (!c->used || c->executed || (&s->managers[i] == except && !c->orphan) ||
                c->action == ACT_JOURNAL || c->action == ACT_WAIT || c->action == ACT_ROUTE ||
                c->action == ACT_UNROUTE || c->action == ACT_ANNOUNCE)
                continue;
            if (c->source == x || c->target == x) {
                c->executed = true;
                fail(c, ERRC_CLOSED, "the session was ended");
            }
        }
    }
}

static enum effect take_term(struct sim *s, struct manager *m, struct call *c)
{
    for (; c->phase < 2; c->phase++) {
        struct server *x = c->phase == 0 ? c->target : c->source; /* T first */
        if (!x->now.made)
            continue;
        if (!x->up)
            return fail(c, ERRC_UNAVAILABLE, "the server is down");
        if (stale(s, m, x))
            return fail(c, ERRC_STALE, "a newer leader was here");
        end_backends(s, m, x);
        x->fence = x->opening = 0;
        x->now.term = m->term;
        flush(x);
        if (roll(&s->w, 2) == 0) {
            c->phase++;
            return EFFECT_WAITS;
        }
    }
    return EFFECT_DONE;
}

static void look(struct sim *s, struct call *c)
{
    struct server *x = c->source;
    if (s->w.bug == BUG_NOT_BURNED && !x->now.owns && !c->target->now.owns && roll(&s->w, 3) == 0) {
        x->now.owns = true;
        flush(x);
    }
    c->outcome.source_owns = x->now.owns;
    c->outcome.target_owns = c->target->now.owns;
    c->outcome.gate_open = c->target->now.gate == GATE_OPEN;
    c->outcome.target_known = c->target->now.made;
}

static enum effect inspect(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    if ((c->source->now.made && !may_change(s, m, c, c->source, &ret)) ||
        (c->target->now.made && !may_change(s, m, c, c->target, &ret)))
        return ret;
    look(s, c);
    return EFFECT_DONE;
}

static enum effect resolve(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    struct server *x = c->source;
    if (!x->up)
        return fail(c, ERRC_UNAVAILABLE, "the server is down");
    if (x->fence == m->fence)
        x->fence = 0;
    end_backends(s, m, x);
    if (!may_change(s, m, c, x, &ret))
        return ret;
    look(s, c);
    return EFFECT_DONE;
}

/* A row through the subscription. `looks` bounds how often it is looked for. */
static enum effect marker(struct sim *s, struct call *c)
{
    if (!c->source->up || !c->target->up)
        return fail(c, ERRC_UNAVAILABLE, "a server is down");
    if (c->marker == 0) {
        c->marker = ++s->w.next_marker;
        log_add(c->source, -1, c->marker);
        flush(c->source);
        tell(&s->w, "marker %d is written on %c", c->marker, c->source->name);
    }
    if (c->target->now.marker >= c->marker || s->w.bug == BUG_NO_MARKER)
        return EFFECT_DONE;
    return ++c->looks > MARKER_LOOKS ? fail(c, ERRC_TIMEOUT, "the marker did not come") : EFFECT_WAITS;
}

/* S's copy against T's rows, behind a marker. */
static enum effect reverse_verify(struct sim *s, struct call *c)
{
    struct call back = *c;
    back.source = c->target;
    back.target = c->source;
    enum effect ret = marker(s, &back);
    c->marker = back.marker;
    c->looks = back.looks;
    c->outcome = back.outcome;
    if (ret == EFFECT_WAITS || c->outcome.err.code != ERRC_NONE || s->w.bug == BUG_NOT_COMPARED)
        return ret;
    return c->source->now.damaged ? fail(c, ERRC_CORRUPT, "a row differs") : EFFECT_DONE;
}

static enum effect copy(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    if (!may_change_both(s, m, c, &ret))
        return ret;
    if (c->target->now.follows)
        return EFFECT_DONE;
    if (c->phase == 0) {
        if (!c->source->now.published)
            return fail(c, ERRC_NOT_FOUND, "no publication");
        c->source->now.slot = true;
        c->at = c->source->now.slot_at = c->source->log_length;
        flush(c->source);
        memcpy(c->rows, c->source->now.rows, sizeof c->rows);
        c->phase = 1;
        return EFFECT_WAITS;
    }
    memcpy(c->target->now.rows, c->rows, sizeof c->rows);
    c->target->now.applied = c->at;
    flush(c->target);
    return EFFECT_DONE;
}

/* ---- fence and opening ---- */

static enum effect lock(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    if (c->orphan) /* whoever sent it has closed that session, and is perhaps in another one by now */
        return EFFECT_DONE;
    if (!may_change(s, m, c, c->source, &ret))
        return ret;
    if (!c->source->now.owns)
        return fail(c, ERRC_REFUSED, "the source does not own the range");
    m->fence = c->source->fence = ++s->w.next_session;
    c->source->guards_woken = false;
    c->outcome.lock_ns = ++s->clock;
    return EFFECT_DONE;
}

static enum effect fence(struct call *c)
{
    if (!c->source->up || c->source->fence == 0 || c->source->fence != c->session)
        return fail(c, ERRC_CLOSED, "the fence's session is gone");
    c->source->guards_woken = true;
    return EFFECT_DONE;
}

static enum effect commit(struct call *c)
{
    struct server *x = c->source;
    if (!x->up || x->fence == 0 || x->fence != c->session)
        return fail(c, ERRC_CLOSED, "the fence's session is gone");
    x->fence = 0;
    x->now.owns = !x->guards_woken;
    flush(x);
    return EFFECT_DONE;
}

static enum effect prepare_open(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    if (!may_change(s, m, c, c->target, &ret))
        return ret;
    if (c->target->now.gate == GATE_NONE)
        return fail(c, ERRC_REFUSED, "no gate");
    m->opening = c->target->opening = ++s->w.next_session;
    if (s->w.bug == BUG_GATE_FIRST) {
        c->target->now.gate = GATE_OPEN;
        flush(c->target);
    }
    return EFFECT_DONE;
}

static enum effect open_anew(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    struct shard *t = &c->target->now;
    if (!may_change(s, m, c, c->target, &ret))
        return ret;
    if (t->owns && t->gate == GATE_NONE)
        return EFFECT_DONE;
    if (t->gate == GATE_NONE || t->gate_move != c->move)
        return fail(c, ERRC_REFUSED, "the gate is gone");
    t->gate = GATE_OPEN;
    flush(c->target);
    return EFFECT_DONE;
}

static enum effect open_gate(struct sim *s, struct manager *m, struct call *c)
{
    rule(&s->w, !c->record.back || !c->target->now.damaged || !s->known || s->accepted,
         "R goes back to a copy that is known to differ, and nobody has accepted that");
    if (c->phase == 0 && c->target->up && c->session != 0 && c->target->opening == c->session) {
        c->target->opening = 0;
        c->target->now.gate = GATE_OPEN;
        flush(c->target);
        return EFFECT_DONE;
    }
    return open_anew(s, m, c);
}

/* Before it goes back, a manager ends what it may still have under way somewhere. */
static enum effect rollback(struct sim *s, struct manager *m, struct call *c)
{
    if (!c->source->up)
        return fail(c, ERRC_UNAVAILABLE, "the server is down");
    if (c->record.state == MOVE_UNDO)
        end_backends(s, m, c->source);
    if (c->source->fence == m->fence)
        c->source->fence = 0;
    if (c->target->opening == m->opening)
        c->target->opening = 0;
    return EFFECT_DONE;
}

/* ---- the store ---- */

static enum effect journal(struct sim *s, struct manager *m, struct call *c)
{
    if (roll(&s->w, 40) == 0 && s->events < FAULTY_EVENTS)
        return fail(c, ERRC_UNAVAILABLE, "the store is down");
    if (m->journal_revision != s->w.journal_revision)
        return fail(c, ERRC_CONFLICT, "somebody else wrote it");
    s->journal = c->record;
    s->known = c->record.verdict == MOVE_VERDICT_DIFFERS || c->record.verdict == MOVE_VERDICT_DOUBTED;
    m->journal_revision = ++s->w.journal_revision;
    tell(&s->w, "manager %d writes the journal: %s%s", m->number, move_state_name(c->record.state),
         c->record.back ? " (back)" : "");
    return EFFECT_DONE;
}

/* A conflict is answered by reading it again. */
static enum effect table(struct sim *s, struct manager *m, struct call *c, const struct server *owner)
{
    bool b = owner == &s->w.b, doubted = c->action == ACT_UNROUTE && m->move.table_doubted;
    if (roll(&s->w, 40) == 0 && s->events < FAULTY_EVENTS)
        return fail(c, ERRC_UNAVAILABLE, "the store is down");
    if (m->table_says_b == b && !doubted)
        return EFFECT_DONE;
    if (m->table_revision != s->w.table_revision) {
        m->table_revision = s->w.table_revision;
        m->table_says_b = s->w.table_says_b;
        return s->w.table_term > m->term ? fail(c, ERRC_STALE, "a newer leader wrote it")
                                         : fail(c, ERRC_CONFLICT, "somebody else wrote it");
    }
    s->w.table_term = m->term;
    s->w.table_says_b = m->table_says_b = b;
    m->table_revision = ++s->w.table_revision;
    return EFFECT_DONE;
}

/* ---- the other steps ---- */

/* One that cannot follow is not compared either, but what was found before it could not counts. */
static void copy_goes(struct sim *s, const struct call *c)
{
    bool unknown = c->record.reverse_publication == 0 && !s->known;
    rule(&s->w, c->record.back || unknown || !c->source->now.damaged || s->accepted,
         "S's copy goes, although it differs and nobody has accepted that");
}

static enum effect change_target(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    struct shard *t = &c->target->now;
    if (!may_change(s, m, c, c->target, &ret))
        return ret;
    switch (c->action) {
    case ACT_SCHEMA:
        t->term = m->term;
        break;
    case ACT_SUBSCRIBE:
        t->follows = true;
        break;
    case ACT_CLOSE_GATE:
        if (t->gate == GATE_NONE) {
            t->gate = t->row_left ? GATE_OPEN : GATE_CLOSED;
            t->gate_move = c->move;
        }
        break;
    case ACT_SETTLE:
        rule(&s->w, t->gate == GATE_OPEN || t->owns, "settled without an open gate");
        t->owns = true;
        t->damaged = false; /* what it has counts now */
        t->gate = GATE_NONE;
        t->row_left = s->w.bug == BUG_GATE_TWICE;
        break;
    case ACT_BURN_GATE:
        end_backends(s, m, c->target);
        if (t->gate == GATE_OPEN)
            return fail(c, ERRC_REFUSED, "the gate is open");
        t->gate = GATE_NONE;
        break;
    case ACT_EMPTY_TARGET:
        rule(&s->w, !accepts(c->target), "rows are deleted on who accepts them");
        for (int k = 0; k < KEYS; k++)
            t->rows[k] = -1;
        break;
    default: /* ACT_REVERSE_SLOT */
        t->slot = t->published = true;
        t->slot_at = c->target->log_length;
        break;
    }
    flush(c->target);
    return EFFECT_DONE;
}

static enum effect change_source(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    struct shard *x = &c->source->now;
    if (!may_change(s, m, c, c->source, &ret))
        return ret;
    switch (c->action) {
    case ACT_PUBLISH:
        x->published = true;
        break;
    case ACT_REVERSE_FOLLOW:
        rule(&s->w, !c->target->now.follows, "the forward subscription is still there");
        if (x->follows)
            break;
        x->follows = true;
        x->applied = c->target->now.slot_at;
        x->damaged = roll(&s->w, 4) == 0;
        if (x->damaged)
            tell(&s->w, "a row of %c's copy is damaged", c->source->name);
        break;
    default: /* ACT_CLEAN_SOURCE */
        rule(&s->w, !accepts(c->source) && !x->slot && !x->follows, "rows are deleted on who may need them");
        copy_goes(s, c);
        x->damaged = false;
        for (int k = 0; k < KEYS; k++)
            x->rows[k] = -1;
        break;
    }
    flush(c->source);
    return EFFECT_DONE;
}

static enum effect change_both(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    struct shard *x = &c->source->now, *t = &c->target->now;
    if (!may_change_both(s, m, c, &ret))
        return ret;
    switch (c->action) {
    case ACT_FREEZE:
    case ACT_UNFREEZE:
        x->frozen = t->frozen = c->action == ACT_FREEZE;
        break;
    case ACT_DROP_FORWARD:
        t->follows = x->slot = x->published = false;
        break;
    default: /* ACT_REVERSE_DROP */
        x->follows = t->slot = t->published = false;
        break;
    }
    flush(c->source);
    flush(c->target);
    return EFFECT_DONE;
}

static void forget(struct shard *x)
{
    memset(x, 0, sizeof *x);
    for (int k = 0; k < KEYS; k++)
        x->rows[k] = -1;
}

static enum effect remove_shard(struct sim *s, struct server *x)
{
    rule(&s->w, !accepts(x), "who accepts the range is taken away");
    forget(&x->now);
    x->fence = x->opening = 0;
    flush(x);
    return EFFECT_DONE;
}

static enum effect provision(struct call *c)
{
    c->target->now.made = true;
    flush(c->target);
    return EFFECT_DONE;
}

static enum effect reverse_check(struct call *c)
{
    const struct server *giver = c->record.back ? c->source : c->target;
    const struct server *follower = c->record.back ? c->target : c->source;
    if (!c->source->up || !c->target->up)
        return fail(c, ERRC_UNAVAILABLE, "a server is down");
    return follower->now.follows && giver->now.slot ? EFFECT_DONE : fail(c, ERRC_REFUSED, "nobody follows");
}

/* Frees what is there: a server that this move makes may not be there yet, one that it takes away not any
 * more. */
static enum effect free_both(struct sim *s, struct manager *m, struct call *c)
{
    enum effect ret;
    struct server *x = c->source->now.made ? c->source : c->target;
    if (c->source->now.made && c->target->now.made)
        return change_both(s, m, c);
    if (!may_change(s, m, c, x, &ret))
        return ret;
    x->now.slot = x->now.published = x->now.frozen = x->now.follows = false;
    flush(x);
    return EFFECT_DONE;
}

static enum effect change_one(struct sim *s, struct manager *m, struct call *c)
{
    switch (c->action) {
    case ACT_SCHEMA:
    case ACT_SUBSCRIBE:
    case ACT_CLOSE_GATE:
    case ACT_SETTLE:
    case ACT_BURN_GATE:
    case ACT_EMPTY_TARGET:
    case ACT_REVERSE_SLOT:
        return change_target(s, m, c);
    case ACT_PUBLISH:
    case ACT_REVERSE_FOLLOW:
    case ACT_CLEAN_SOURCE:
        return change_source(s, m, c);
    case ACT_DROP_FORWARD:
    case ACT_REVERSE_DROP:
    case ACT_UNFREEZE:
        return free_both(s, m, c);
    case ACT_FREEZE:
        return change_both(s, m, c);
    default: /* CHECK, BUILD, SEQUENCES: nothing that counts here */
        return EFFECT_DONE;
    }
}

/* A bake time is long against what a server takes to notice that nobody waits for an answer. */
static enum effect wait(const struct sim *s, struct manager *m, const struct call *c)
{
    bool is_long = c->record.state == MOVE_WATCH || c->record.state == MOVE_HELD;
    if (is_long && !m->hurried && s->events < c->sent + LATE_MOST)
        return EFFECT_WAITS;
    m->hurried = false;
    return EFFECT_DONE;
}

static enum effect take_effect(struct sim *s, struct manager *m, struct call *c)
{
    switch (c->action) {
    case ACT_JOURNAL:
        return journal(s, m, c);
    case ACT_TAKE_TERM:
        return take_term(s, m, c);
    case ACT_INSPECT:
        return inspect(s, m, c);
    case ACT_RESOLVE:
        return resolve(s, m, c);
    case ACT_PROVISION:
        return provision(c);
    case ACT_COPY:
        return copy(s, m, c);
    case ACT_CATCH_UP:
    case ACT_REHEARSE:
    case ACT_VERIFY:
    case ACT_MARKER:
        return marker(s, c);
    case ACT_REVERSE_VERIFY:
        return reverse_verify(s, c);
    case ACT_LOCK:
        return lock(s, m, c);
    case ACT_FENCE:
        return fence(c);
    case ACT_PREPARE_OPEN:
        return prepare_open(s, m, c);
    case ACT_COMMIT:
        return commit(c);
    case ACT_OPEN:
        return open_gate(s, m, c);
    case ACT_ROLLBACK:
        return rollback(s, m, c);
    case ACT_ROUTE:
    case ACT_ANNOUNCE:
        return table(s, m, c, c->target);
    case ACT_UNROUTE:
        return table(s, m, c, c->source);
    case ACT_REVERSE_CHECK:
        return reverse_check(c);
    case ACT_RETIRE:
        copy_goes(s, c);
        return remove_shard(s, c->source);
    case ACT_REMOVE_TARGET:
        return remove_shard(s, c->target);
    case ACT_WAIT:
        return wait(s, m, c);
    default:
        return change_one(s, m, c);
    }
}

#endif
