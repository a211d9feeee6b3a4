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

#include "move_effects.h"
#include "seeds.h"

#define SEEDS       100000
#define BUG_SEEDS   20000
#define EVENTS_MOST 60000
#define MOVES       3

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
        s->known = s->accepted = false;
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
    bool accept = roll(&s->w, 4) == 0, back = roll(&s->w, 2) == 0;
    int rc = back ? move_rollback(&m->move, accept, &err) : move_cancel(&m->move, &err);
    s->accepted |= rc == 0 && back && accept;
    tell(&s->w, "manager %d is asked to go back: %s", m->number, rc == 0 ? "it will" : err.message);
}

/* A move that is held waits for a person: who repairs the row, or does not mind, or wants it back. */
static void look_after_held(struct sim *s)
{
    struct manager *m = leader(s);
    struct err err = {0};
    if (m == NULL || m->ended || m->move.record.state != MOVE_HELD)
        return;
    unsigned way = roll(&s->w, 4);
    bool accept = way == 1 || way == 2;
    if (way == 0 && m->from->up) {
        m->from->now.damaged = false;
        flush(m->from);
    }
    int rc = way == 2 ? move_rollback(&m->move, accept, &err) : move_go_on(&m->move, accept, &err);
    tell(&s->w, "manager %d is held and asked to go %s%s: %s", m->number, way == 2 ? "back" : "on",
         accept ? " all the same" : "", rc == 0 ? "it will" : err.message);
    s->accepted |= rc == 0 && accept;
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
    if (m->life == LIFE_RUNS && m->term < s->w.last_term && m->move.record.state == MOVE_HELD)
        manager_kill(s, m); /* it writes nothing that would tell it: it lets go when its lease is gone */
    if (m->ended && m->life == LIFE_RUNS && !has_calls(m) && (leader(s) != m || !is_final(s->journal.state)))
        m->life = LIFE_NONE; /* who stepped down starts anew */
    if (s->events >= FAULTY_EVENTS)
        idle_sessions_end(s, x);
    if (roll(&s->w, 8) == 0)
        look_after_held(s);
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

static const char *run_seed(uint64_t seed, int number, bool tells)
{
    enum bug bug = (enum bug)number;
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

int main(int argc, char **argv)
{
    static const struct seeds seeds = {run_seed, bug_names, BUG_COUNT, SEEDS, BUG_SEEDS};
    return seeds_main(&seeds, argc, argv);
}
