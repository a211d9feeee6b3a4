/* links: operation */
/*
 * The core of a move against two modelled servers (move_world.h), with several managers of which only one
 * leads: statements take effect some time after they were sent, also when who sent them is gone; answers are
 * lost; servers crash and lose what they had not committed; managers die, or stop for a while and go on as if
 * they still led. After each event it is asked whether both servers accept a key, or one that lacks an
 * acknowledged write.
 *
 * sim_move                     SEEDS seeds from a random one on, and then each planted fault, which must be
 * found sim_move SEED [COUNT] [BUG]  those seeds; a single one tells its story
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "operation/move.h"
#include "move_world.h"

#define SEEDS         100000
#define BUG_SEEDS     20000
#define MANAGERS      3
#define CALLS         12
#define FAULTY_EVENTS 900
#define EVENTS_MOST   60000
#define MARKER_LOOKS  200
#define MOVES         3
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

/* ---- the driver: sending ---- */

static void act(struct move_driver *driver, enum move_action action)
{
    struct manager *m = (struct manager *)driver;
    struct sim *s = m->sim;
    for (int i = 0; i < CALLS; i++) {
        struct call *c = &m->calls[i];
        if (c->used)
            continue;
        struct server *source = m->move.record.back ? other(s, m->from) : m->from;
        *c = (struct call){.used = true,
                           .action = action,
                           .source = source,
                           .target = other(s, source),
                           .session = action == ACT_OPEN ? m->opening : m->fence,
                           .move = m->move_number,
                           .sent = s->events,
                           .record = m->move.record};
        return;
    }
    rule(&s->w, false, "a manager has more statements under way than it can have");
}

static uint64_t now(struct move_driver *driver)
{
    return ++((struct manager *)driver)->sim->clock;
}

static void changed(struct move_driver *driver)
{
    (void)driver;
}

static void ended(struct move_driver *driver)
{
    struct manager *m = (struct manager *)driver;
    tell(&m->sim->w, "manager %d: the move ended as %s", m->number, move_state_name(m->move.record.state));
    m->ended = true;
}

static void deposed(struct move_driver *driver)
{
    struct manager *m = (struct manager *)driver;
    const struct err *e = &m->move.record.error;
    tell(&m->sim->w, "manager %d steps down: %s", m->number, e->message);
    rule(&m->sim->w, e->code != ERRC_INTERNAL, "servers and journal contradict each other");
    rule(&m->sim->w, m->term < m->sim->w.last_term || m->move.resumed || m->sim->w.bug != BUG_NONE,
         "the newest leader steps down"); /* while it resumes it may: it reads the journal again and starts
                                             anew */
    m->ended = true;
}

static void hurry(struct move_driver *driver)
{
    ((struct manager *)driver)->hurried = true;
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

static enum effect inspect(struct sim *s, struct call *c)
{
    if (!c->source->up || (c->target->now.made && !c->target->up))
        return fail(c, ERRC_UNAVAILABLE, "a server is down");
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
    if (!may_change(s, m, c, c->source, &ret))
        return ret;
    if (!c->source->now.owns)
        return fail(c, ERRC_REFUSED, "the source does not own the range");
    m->fence = c->source->fence = ++s->w.next_session;
    c->source->guards_woken = false;
    c->outcome.lock_ns = ++s->clock;
    return EFFECT_DONE;
}

static enum effect fence(struct manager *m, struct call *c)
{
    if (!c->source->up || c->source->fence == 0 || c->source->fence != m->fence)
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
    if (c->record.state == MOVE_UNDO) {
        end_backends(s, m, c->source);
        end_backends(s, m, c->target);
    }
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
        t->gate = GATE_NONE;
        t->row_left = s->w.bug == BUG_GATE_TWICE;
        break;
    case ACT_BURN_GATE:
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
        break;
    default: /* ACT_CLEAN_SOURCE */
        rule(&s->w, !accepts(c->source) && !x->slot && !x->follows, "rows are deleted on who may need them");
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
    if (!c->source->up || !c->target->up)
        return fail(c, ERRC_UNAVAILABLE, "a server is down");
    return c->target->now.follows && c->source->now.slot ? EFFECT_DONE
                                                         : fail(c, ERRC_REFUSED, "nobody follows");
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

static enum effect take_effect(struct sim *s, struct manager *m, struct call *c)
{
    switch (c->action) {
    case ACT_JOURNAL:
        return journal(s, m, c);
    case ACT_TAKE_TERM:
        return take_term(s, m, c);
    case ACT_INSPECT:
        return inspect(s, c);
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
    case ACT_LOCK:
        return lock(s, m, c);
    case ACT_FENCE:
        return fence(m, c);
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
    case ACT_REVERSE_CHECK:
        return reverse_check(c);
    case ACT_RETIRE:
        return remove_shard(s, c->source);
    case ACT_REMOVE_TARGET:
        return remove_shard(s, c->target);
    case ACT_WAIT: /* a bake time is long against what a server takes to notice that nobody waits for an
                      answer */
        return c->record.state == MOVE_WATCH && !m->hurried && s->events < c->sent + LATE_MOST ? EFFECT_WAITS
                                                                                               : EFFECT_DONE;
    default: /* CHECK, BUILD, SEQUENCES: nothing that counts here */
        return EFFECT_DONE;
    }
}

/* ---- events ---- */

static void store_takes_effect(struct sim *s, struct manager *m)
{
    for (int i = 0; i < CALLS; i++) {
        struct call *c = &m->calls[i];
        if (c->used && !c->executed && is_store(c->action))
            c->executed = take_effect(s, m, c) == EFFECT_DONE;
    }
}

static void answer(struct manager *m, struct call *c)
{
    struct call done = *c;
    c->used = false;
    if (done.orphan || m->life == LIFE_NONE || m->ended)
        return;
    if (done.outcome.err.code == ERRC_NONE && done.action == ACT_REVERSE_SLOT)
        m->move.record.reverse_publication = 7;
    move_done(&m->move, done.action, &done.outcome);
}

/* The manager gives up waiting for an answer; the statement may still take effect. */
static bool answer_is_lost(struct sim *s, struct manager *m, struct call *c)
{
    if (s->events >= FAULTY_EVENTS || is_store(c->action) || c->action == ACT_WAIT || c->orphan ||
        m->life != LIFE_RUNS || roll(&s->w, 60) != 0)
        return false;
    struct call late = *c;
    tell(&s->w, "manager %d: %s has no answer", m->number, move_action_name(c->action));
    fail(c, ERRC_TIMEOUT, "no answer");
    answer(m, c);
    for (int i = 0; i < CALLS && !late.executed && late.action != ACT_COPY; i++) {
        if (m->calls[i].used)
            continue;
        late.orphan = true;
        m->calls[i] = late;
        break;
    }
    return true;
}

static void advance(struct sim *s, struct manager *m)
{
    int first = (int)roll(&s->w, CALLS);
    for (int i = 0; i < CALLS; i++) {
        struct call *c = &m->calls[(first + i) % CALLS];
        if (!c->used || (m->life == LIFE_PAUSED && c->executed))
            continue;
        if (c->orphan && s->events > c->sent + LATE_MOST) {
            c->used = false;
            continue;
        }
        if (answer_is_lost(s, m, c))
            return;
        if (c->executed) {
            answer(m, c);
            return;
        }
        c->executed = take_effect(s, m, c) == EFFECT_DONE;
        if (c->executed && c->action != ACT_WAIT)
            tell(&s->w, "manager %d%s: %s%s%s", m->number, c->orphan ? " (late)" : "",
                 move_action_name(c->action), c->outcome.err.code != ERRC_NONE ? ": " : "",
                 c->outcome.err.message);
        return;
    }
}

static struct move_record new_record(struct sim *s)
{
    struct move_record r;
    struct world *w = &s->w;
    s->from = w->a.now.owns ? &w->a : &w->b;
    move_record_init(&r);
    snprintf(r.id, sizeof r.id, "move%d", ++s->moves);
    snprintf(r.database, sizeof r.database, "shop");
    snprintf(r.source, sizeof r.source, "%c", s->from->name);
    snprintf(r.target, sizeof r.target, "%c", other(s, s->from)->name);
    r.range = (struct range){0, INT64_MAX};
    r.new_target = !other(s, s->from)->now.made;
    r.retire_source = !r.new_target && roll(w, 2) == 0;
    r.bake_ns = roll(w, 2);
    return r;
}

static void manager_start(struct sim *s, struct manager *m)
{
    int number = m->number;
    struct move_record record;
    bool resumed = s->journaled && !is_final(s->journal.state);
    memset(m, 0, sizeof *m);
    m->number = number;
    m->sim = s;
    m->driver = (struct move_driver){act, now, changed, ended, deposed, changed, hurry};
    m->term = ++s->w.last_term;
    m->journal_revision = s->w.journal_revision;
    m->table_revision = s->w.table_revision;
    m->table_says_b = s->w.table_says_b;
    record = resumed ? s->journal : new_record(s);
    m->from = s->from;
    m->move_number = s->moves;
    m->life = LIFE_RUNS;
    if (!resumed) { /* written by who asks for it */
        s->journal = record;
        s->journaled = true;
        m->journal_revision = ++s->w.journal_revision;
    }
    tell(&s->w, "manager %d starts with term %d%s", m->number, m->term, resumed ? " and resumes" : "");
    move_init(&m->move, &m->driver, &record);
    move_start(&m->move, resumed);
}

/* Dead: what it sent may still take effect, or not. */
static void manager_kill(struct sim *s, struct manager *m)
{
    tell(&s->w, "manager %d dies", m->number);
    if (roll(&s->w, 2) == 0)
        store_takes_effect(s, m);
    for (int i = 0; i < CALLS; i++) {
        struct call *c = &m->calls[i];
        c->orphan = true;
        if (c->executed || is_store(c->action) || c->action == ACT_WAIT || roll(&s->w, 2) == 0)
            c->used = false;
    }
    m->life = LIFE_NONE;
}

static struct manager *leader(struct sim *s)
{
    for (int i = 0; i < MANAGERS; i++)
        if (s->managers[i].life == LIFE_RUNS && s->managers[i].term == s->w.last_term)
            return &s->managers[i];
    return NULL;
}

static bool has_calls(const struct manager *m)
{
    for (int i = 0; i < CALLS; i++)
        if (m->calls[i].used)
            return true;
    return false;
}

static void start_one(struct sim *s)
{
    if (s->journaled && is_final(s->journal.state) && !s->next)
        return;
    s->next = false;
    for (int i = 0; i < MANAGERS; i++) {
        struct manager *m = &s->managers[i];
        if (m->life == LIFE_NONE && !has_calls(m)) {
            manager_start(s, m);
            return;
        }
    }
}

/* The server ends transactions that say nothing for a second: of a manager that is gone, or that waits
 * elsewhere. */
static void idle_sessions_end(struct sim *s, struct server *x)
{
    const struct manager *m = leader(s);
    if (x->fence != 0 && (m == NULL || m->fence != x->fence || roll(&s->w, 20) == 0)) {
        tell(&s->w, "%c ends the fence's session", x->name);
        x->fence = 0;
    }
    if (x->opening != 0 && (m == NULL || m->opening != x->opening || roll(&s->w, 20) == 0)) {
        tell(&s->w, "%c ends the opening's session", x->name);
        x->opening = 0;
    }
}

static void ask_for_something(struct sim *s)
{
    struct manager *m = leader(s);
    struct err err = {0};
    if (m == NULL || m->ended || is_final(m->move.record.state))
        return;
    int rc = roll(&s->w, 2) == 0 ? move_cancel(&m->move, &err) : move_rollback(&m->move, &err);
    tell(&s->w, "manager %d is asked to go back: %s", m->number, rc == 0 ? "it will" : err.message);
}

static void fault(struct sim *s)
{
    struct server *x = roll(&s->w, 2) == 0 ? &s->w.a : &s->w.b;
    struct manager *m = &s->managers[roll(&s->w, MANAGERS)];
    switch (roll(&s->w, 6)) {
    case 0:
    case 1:
        if (x->up && x->now.made)
            server_crash(&s->w, x);
        break;
    case 2:
        if (m->life != LIFE_NONE)
            manager_kill(s, m);
        break;
    case 3:
        if (m->life == LIFE_RUNS) {
            tell(&s->w, "manager %d stops for a while", m->number);
            store_takes_effect(s, m);
            m->life = LIFE_PAUSED;
        }
        break;
    case 4:
        ask_for_something(s);
        break;
    default:
        idle_sessions_end(s, x);
        break;
    }
}

static void repair(struct sim *s)
{
    struct server *x = roll(&s->w, 2) == 0 ? &s->w.a : &s->w.b;
    struct manager *m = &s->managers[roll(&s->w, MANAGERS)];
    if (!x->up)
        server_start(&s->w, x, other(s, x));
    if (m->life == LIFE_PAUSED) {
        tell(&s->w, "manager %d goes on", m->number);
        m->life = LIFE_RUNS;
    }
    if (m->ended && m->life == LIFE_RUNS && !has_calls(m) && (leader(s) != m || !is_final(s->journal.state)))
        m->life = LIFE_NONE; /* who stepped down starts anew */
    if (s->events >= FAULTY_EVENTS)
        idle_sessions_end(s, x);
    if (leader(s) == NULL)
        start_one(s);
}

static void event(struct sim *s)
{
    struct world *w = &s->w;
    unsigned r = roll(w, 100);
    struct server *x = roll(w, 2) == 0 ? &w->a : &w->b;
    s->events++;
    if (r < 45)
        advance(s, &s->managers[roll(w, MANAGERS)]);
    else if (r < 65)
        client_writes(w, x);
    else if (r < 90)
        apply(w, x, other(s, x));
    else if (r < 93)
        feed_back(w, x, other(s, x));
    else if (r < 95 && s->events < FAULTY_EVENTS)
        fault(s);
    else
        repair(s);
    check_world(w);
}

/* ---- a seed ---- */

static bool idle(struct sim *s)
{
    for (int i = 0; i < MANAGERS; i++)
        if (has_calls(&s->managers[i]) || s->managers[i].life == LIFE_PAUSED)
            return false;
    return s->journaled && is_final(s->journal.state) && s->w.a.up && s->w.b.up;
}

/* All that was under way is done: nothing may be left. Then another move, on what the first left. */
static bool move_ends(struct sim *s)
{
    if (!idle(s))
        return false;
    check_end(&s->w);
    if (s->moves == MOVES || s->w.broken != NULL)
        return true;
    struct manager *m = leader(s);
    if (m != NULL && m->ended)
        m->life = LIFE_NONE;
    s->next = true;
    return false;
}

static const char *run_seed(uint64_t seed, enum bug bug, bool tells)
{
    static struct sim s;
    memset(&s, 0, sizeof s);
    world_init(&s.w, seed, bug, roll(&(struct world){.random = seed}, 2) == 0);
    s.w.tells = tells;
    for (int i = 0; i < MANAGERS; i++)
        s.managers[i].number = i + 1;
    s.from = &s.w.a;
    while (s.w.broken == NULL && !move_ends(&s)) {
        event(&s);
        rule(&s.w, s.events < EVENTS_MOST, "it does not come to an end");
    }
    return s.w.broken;
}

static int run_seeds(uint64_t first, uint64_t count, enum bug bug)
{
    for (uint64_t seed = first; seed < first + count; seed++) {
        const char *broken = run_seed(seed, bug, count == 1);
        if (broken == NULL)
            continue;
        printf("%s: seed %" PRIu64 " (the %" PRIu64 ". one): %s\n", bug_names[bug], seed, seed - first + 1,
               broken);
        return 1;
    }
    return 0;
}

static int run_all(uint64_t first)
{
    printf("%d seeds from %" PRIu64 " on\n", SEEDS, first);
    fflush(stdout);
    if (run_seeds(first, SEEDS, BUG_NONE) != 0)
        return 1;
    for (int bug = BUG_NONE + 1; bug < BUG_COUNT; bug++)
        if (run_seeds(first, BUG_SEEDS, (enum bug)bug) == 0) {
            printf("%s: not noticed in %d seeds\n", bug_names[bug], BUG_SEEDS);
            return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return run_all((uint64_t)time(NULL) * 1000);
    enum bug bug = BUG_NONE;
    for (int i = 0; argc > 3 && i < BUG_COUNT; i++)
        if (strcmp(argv[3], bug_names[i]) == 0)
            bug = (enum bug)i;
    return run_seeds(strtoull(argv[1], NULL, 10), argc > 2 ? strtoull(argv[2], NULL, 10) : 1, bug);
}
