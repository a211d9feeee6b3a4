/*
 * move_world: two servers, their clients and a store, as far as a move depends on them: what a commit makes
 * durable and a crash takes away, locks and sessions, slots and what follows them, terms. A has the range in
 * the beginning. Only for sim_move.c.
 */
#ifndef SIM_MOVE_WORLD_H
#define SIM_MOVE_WORLD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define KEYS       4
#define LOG_MOST   8192
#define TEXT_WIDTH 22

enum bug {
    BUG_NONE,
    BUG_GATE_FIRST,     /* the opening is committed before the fence */
    BUG_NO_MARKER,      /* nobody waits for S's last writes to be on T */
    BUG_SLOT_TOO_EARLY, /* S forgets changes that T has received and not committed */
    BUG_NO_TERM,        /* an older leader's statements are not refused */
    BUG_GATE_TWICE,     /* all moves use one gate row */
    BUG_NOT_BURNED,     /* R is given back to S, with T's gate as it is */
    BUG_NOT_COMPARED,   /* S's copy is taken for what T has, whatever it is */
    BUG_COUNT
};
static const char *const bug_names[] = {"none",    "gate_first", "no_marker",  "slot_too_early",
                                        "no_term", "gate_twice", "not_burned", "not_compared"};

enum gate { GATE_NONE, GATE_CLOSED, GATE_OPEN };

struct entry {
    int key; /* -1: a marker */
    int value;
};

/* What a crash takes back to what was flushed last. */
struct shard {
    bool made, owns, frozen, published, slot, follows;
    enum gate gate;
    int gate_move; /* whose row it is */
    bool row_left; /* BUG_GATE_TWICE: an open one, which the next move takes for its own */
    int term;
    int rows[KEYS]; /* version; -1 = no row */
    int applied;    /* of the other's log */
    int marker;     /* the last that came */
    int slot_at;    /* the other needs nothing before it */
    bool damaged;   /* a row of its copy is not what the owner has, and no write mends it */
};

struct server {
    char name;
    bool up;
    struct shard now, flushed;
    int received;       /* of the other's log: what is not applied yet is lost in a crash */
    int fence, opening; /* sessions with a transaction of that kind; 0 = none */
    bool guards_woken;
    struct entry log[LOG_MOST]; /* its own commits, which are all flushed */
    int log_length;
};

struct world {
    struct server a, b;
    int acknowledged[KEYS];
    int writes;
    int next_session, next_marker;
    /* the store */
    int journal_revision, table_revision, table_term, last_term;
    bool table_says_b;
    enum bug bug;
    uint64_t random;
    bool tells; /* prints the story */
    const char *broken;
};

static unsigned roll(struct world *w, unsigned bound)
{
    w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(w->random >> 33) % bound;
}

__attribute__((format(printf, 2, 3))) static void tell(const struct world *w, const char *fmt, ...)
{
    va_list args;
    if (!w->tells)
        return;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

static void rule(struct world *w, bool kept, const char *text)
{
    if (!kept && w->broken == NULL) {
        w->broken = text;
        tell(w, "BROKEN: %s", text);
    }
}

/* ---- servers ---- */

static void flush(struct server *s)
{
    s->flushed = s->now;
}

static void server_crash(struct world *w, struct server *s)
{
    tell(w, "%c crashes", s->name);
    s->up = false;
    s->now = s->flushed;
    s->fence = s->opening = s->received = 0;
    s->guards_woken = false;
}

/* A follower asks from where it stands; the other gives from what it was told is not needed any more, at
 * least. */
static void server_start(struct world *w, struct server *s, const struct server *other)
{
    tell(w, "%c starts", s->name);
    s->up = true;
    if (s->now.follows && s->now.applied < other->now.slot_at)
        s->now.applied = other->now.slot_at;
}

static bool accepts(const struct server *s)
{
    return s->now.made && (s->now.owns || s->now.gate == GATE_OPEN);
}

static void log_add(struct server *s, int key, int value)
{
    if (s->log_length < LOG_MOST)
        s->log[s->log_length++] = (struct entry){key, value};
}

/* ---- what happens by itself ---- */

static void client_writes(struct world *w, struct server *s)
{
    int key = (int)roll(w, KEYS);
    if (!s->up || s->fence != 0 || !accepts(s) || s->log_length > LOG_MOST / 2)
        return;
    s->now.rows[key] = ++w->acknowledged[key];
    log_add(s, key, s->now.rows[key]);
    flush(s);
    w->writes++;
    tell(w, "%*s a client writes key %d, version %d, on %c", TEXT_WIDTH, "", key, w->acknowledged[key],
         s->name);
}

static bool follows(const struct server *to, const struct server *from)
{
    return to->up && from->up && to->now.made && to->now.follows && from->now.slot;
}

/* A transaction of the other's is applied and on the disk before anybody sees it (synchronous_commit = on).
 */
static void apply(struct world *w, struct server *to, const struct server *from)
{
    if (!follows(to, from) || to->now.applied >= from->log_length)
        return;
    int ahead = to->now.applied + 1 + (int)roll(w, 3);
    to->received = ahead < from->log_length ? ahead : from->log_length;
    const struct entry *e = &from->log[to->now.applied++];
    if (e->key < 0) {
        to->now.marker = e->value;
        tell(w, "%*s %c sees marker %d", TEXT_WIDTH, "", to->name, e->value);
    } else {
        rule(w, to->now.rows[e->key] + 1 == e->value, "a change is applied twice, or one before it was not");
        to->now.rows[e->key] = e->value;
    }
    flush(to);
}

/* The follower tells what need not be sent again. */
static void feed_back(struct world *w, const struct server *to, struct server *from)
{
    if (!follows(to, from))
        return;
    bool early = w->bug == BUG_SLOT_TOO_EARLY && to->received > to->now.applied;
    from->now.slot_at = early ? to->received : to->now.applied;
    from->flushed.slot_at = from->now.slot_at;
}

/* ---- what must hold whatever happens ---- */

static void check_owner(struct world *w, const struct server *s)
{
    if (!accepts(s))
        return;
    for (int k = 0; k < KEYS; k++)
        rule(w, s->now.rows[k] == w->acknowledged[k], "who accepts writes lacks one that was acknowledged");
}

static void check_world(struct world *w)
{
    rule(w, !(accepts(&w->a) && accepts(&w->b)), "both accept the range");
    rule(w, !(w->a.now.follows && w->b.now.follows), "both follow each other");
    check_owner(w, &w->a);
    check_owner(w, &w->b);
}

static void check_left_over(struct world *w, const struct server *s)
{
    const struct shard *n = &s->now;
    rule(w,
         !n->made || (!n->frozen && !n->published && !n->slot && !n->follows && n->gate == GATE_NONE &&
                      s->fence == 0 && s->opening == 0),
         "something of the move is left over");
    for (int k = 0; k < KEYS && n->made && !n->owns; k++)
        rule(w, n->rows[k] < 0, "who does not own the range still has rows of it");
}

/* The end of a move: one owner, whom the table names, and nothing else. */
static void check_end(struct world *w)
{
    rule(w, w->a.now.owns != w->b.now.owns, "there is not exactly one owner");
    rule(w, w->b.now.owns == w->table_says_b, "the routing table names another owner");
    check_left_over(w, &w->a);
    check_left_over(w, &w->b);
}

static void world_init(struct world *w, uint64_t seed, enum bug bug, bool target_is_there)
{
    memset(w, 0, sizeof *w);
    w->random = seed * 2 + 1;
    w->bug = bug;
    w->a.name = 'A';
    w->b.name = 'B';
    w->a.up = w->b.up = true;
    w->a.now.made = w->a.now.owns = true;
    w->b.now.made = target_is_there;
    for (int k = 0; k < KEYS; k++)
        w->b.now.rows[k] = -1;
    flush(&w->a);
    flush(&w->b);
    for (int i = 0; i < 5; i++)
        (void)roll(w, 2);
}

#endif
