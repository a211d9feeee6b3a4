/* links: operation health */
/*
 * The core of a failover and all that decides about it against a modelled shard (failover_world.h), with
 * managers that may all believe to lead: commands take effect late, also when who sent them is gone; answers
 * are lost; instances crash, freeze, are cut off from each other, from a manager or from the store; somebody
 * switches over, or allows loss. After each event it is asked whether somebody acknowledges who lacks an
 * acknowledged commit, or after his successor did. In the end everything is repaired, and then there must be
 * one primary, with everybody behind it.
 *
 * sim_failover
 *     SEEDS seeds from a random one on, and then each planted fault, which must be found
 * sim_failover SEED [COUNT] [BUG]
 *     those seeds; a single one tells its story
 */
#include <inttypes.h>
#include <stdlib.h>

#include "failover_world.h"
#include "seeds.h"

#define SEEDS         100000
#define BUG_SEEDS     3000000 /* the rarest is found once in 190,000 */
#define FAULTY_EVENTS 900
#define EVENTS_MOST   30000
#define MANAGERS      2
#define CALLS         8

enum call_kind { CALL_OPERATION, CALL_RECORD, CALL_APPLY, CALL_FOLLOW };

/* A command under way, with what it was sent with. */
struct call {
    bool used, executed, orphan;
    enum call_kind kind;
    enum failover_action action;
    int target, via; /* of CALL_FOLLOW */
    struct failover_record record;
    struct ha_choice choice;
    int revision;   /* that a write expects */
    ha_set pending; /* instances that were not asked yet */
    int until;      /* FO_WAIT */
    int due;        /* it takes effect then at the earliest */
    int tries;
    bool proved; /* FO_PROMOTE of one that acknowledges alone: the record was of its term at `proof` */
    int proof;
    struct failover_outcome outcome;
};

struct sim;
struct manager {
    struct failover_driver driver; /* first */
    struct sim *sim;
    int number;
    bool alive, paused, works, over; /* works: an operation of it runs; over: it ended, or it was deposed */
    bool link[NODES_MOST];
    struct failover op;
    int revision; /* of the record as it last read or wrote it */
    struct ha_shard shard;
    struct ha_position seen[NODES_MOST]; /* as of the last heartbeat */
    struct call calls[CALLS];
};

struct sim {
    struct world w;
    struct manager managers[MANAGERS];
    int events, healed;
    bool spiteful; /* somebody allows loss now and then */
    bool alone;    /* no agent reaches the store */
};

static void fail(struct call *c, enum err_code code, const char *text)
{
    err_set(&c->outcome.err, code, "%s", text);
}

static bool reaches(const struct manager *m, const struct node *n)
{
    return m->link[n->number] && n->agent && !n->frozen;
}

/* ---- the driver: sending ---- */

static struct call *new_call(struct manager *m, enum call_kind kind)
{
    int most = kind == CALL_OPERATION ? CALLS : CALLS / 2; /* the operation always finds room */
    for (int i = 0; i < most; i++) {
        struct call *c = &m->calls[i];
        if (c->used)
            continue;
        memset(c, 0, sizeof *c);
        c->used = true;
        c->kind = kind;
        c->revision = m->revision;
        bool late = roll(&m->sim->w, 4) == 0 || m->sim->w.bug == BUG_OLD_CONFIG; /* it is about late ones */
        c->due = late ? m->sim->w.clock + (int)roll(&m->sim->w, 500) : 0;
        return c;
    }
    return NULL;
}

static void act(struct failover_driver *driver, enum failover_action action)
{
    struct manager *m = (struct manager *)driver;
    struct sim *s = m->sim;
    struct call *c = new_call(m, CALL_OPERATION);
    if (c == NULL) {
        rule(&s->w, false, "a manager has more commands under way than it can have");
        return;
    }
    c->action = action;
    c->record = m->op.record;
    c->choice = m->op.choice;
    c->pending = HA_BIT(s->w.count) - 1;
    if (action == FO_WAIT)
        c->until = s->w.clock + (failover_now(&m->op) == FAILOVER_LEASE ? LEASE + 1 : 10);
    if (action == FO_WAIT && s->w.bug == BUG_NO_LEASE)
        c->until = s->w.clock;
    if (action == FO_REPOINT || action == FO_SETTLE)
        c->pending = c->choice.config.members;
}

static void changed(struct failover_driver *driver)
{
    struct manager *m = (struct manager *)driver;
    bool chose = failover_now(&m->op) == FAILOVER_CHOSEN;
    tell(&m->sim->w, "manager %d: %s under term %d %s", m->number, failover_state_name(failover_now(&m->op)),
         (int)m->op.record.ha.term, chose ? m->op.choice.sentence : "");
}

static void ended(struct failover_driver *driver)
{
    ((struct manager *)driver)->over = true;
}

static void deposed(struct failover_driver *driver)
{
    struct manager *m = (struct manager *)driver;
    tell(&m->sim->w, "manager %d is deposed: %s", m->number, m->op.record.error.message);
    m->over = true;
}

/* ---- taking effect ---- */

/* Without a quorum, because somebody allowed it or the shard is async: that is what was agreed on. */
static void lose_what_it_lacks(struct world *w, const struct node *n)
{
    uint64_t has[IDS_MOST / 64];
    ids_of(n, has);
    for (int i = 0; i < IDS_MOST / 64; i++)
        w->acked[i] &= has[i];
}

static bool write_record(struct sim *s, struct call *c)
{
    struct world *w = &s->w;
    if (w->bug == BUG_CHOSEN_LATE && c->record.state == FAILOVER_CHOSEN)
        return true;
    if (c->revision != w->revision && w->bug != BUG_NO_COMPARE) {
        fail(c, ERRC_CONFLICT, "the record was written by somebody else");
        return false;
    }
    rule(w, c->record.ha.term >= w->doc.ha.term || w->bug != BUG_NONE, "the record's term falls");
    rule(w, c->record.ha.epoch >= w->doc.ha.epoch || w->bug != BUG_NONE, "the record's epoch falls");
    bool claims = c->record.state == FAILOVER_CLAIM && c->kind == CALL_OPERATION;
    rule(w, !claims || (int)c->record.ha.term > w->last_claimed || w->bug != BUG_NONE,
         "a term is claimed twice");
    if (claims)
        w->last_claimed = (int)c->record.ha.term;
    bool lossy = c->choice.rule == HA_F_DATA_LOSS || c->choice.lease;
    if (c->kind == CALL_OPERATION && c->record.state == FAILOVER_CHOSEN && lossy)
        lose_what_it_lacks(w, &w->nodes[c->choice.winner]);
    if (c->kind == CALL_OPERATION && c->record.state == FAILOVER_CHOSEN && c->choice.rule == HA_F_DATA_LOSS)
        w->forced_term = (int)c->record.ha.term;
    w->doc = c->record;
    w->revision++;
    return true;
}

static void confirm_next(struct sim *s, struct manager *m, struct call *c)
{
    struct world *w = &s->w;
    int i = (int)roll(w, (unsigned)w->count);
    struct node *n = &w->nodes[i];
    if ((c->pending & HA_BIT(i)) == 0)
        return;
    c->pending &= ~HA_BIT(i);
    if (reaches(m, n) && roll(w, 20) != 0) {
        if (!obeys(n, (int)c->record.ha.term))
            fail(c, ERRC_STALE, "an instance knows of a later term");
        if (!node_confirm(w, n, (int)c->record.ha.term, &c->outcome.confirmed[i]))
            return;
        if (w->bug == BUG_STALE_READ && m->seen[i].lsn != 0)
            c->outcome.confirmed[i].position = m->seen[i];
        if (w->bug == BUG_BY_TIMELINE)
            c->outcome.confirmed[i].position.term = c->outcome.confirmed[i].position.timeline;
    } else if (w->bug == BUG_NO_QUORUM)
        c->outcome.confirmed[i].term = c->record.ha.term;
}

static void fence_old(struct sim *s, struct manager *m, struct call *c)
{
    int p = ha_newest(&c->record.ha)->primary;
    struct node *n = &s->w.nodes[p];
    if (!reaches(m, n) || !n->up)
        fail(c, ERRC_UNAVAILABLE, "the primary is not reached");
    else if (!obeys(n, (int)c->record.ha.term))
        fail(c, ERRC_STALE, "the primary knows of a later term");
    else if (!node_confirm(&s->w, n, (int)c->record.ha.term, &c->outcome.confirmed[p]))
        fail(c, ERRC_CONFLICT, "the primary refuses");
    else if (roll(&s->w, 2) == 0) /* it has stopped, and what it has is not known yet */
        c->outcome.confirmed[p].term = 0;
}

/* Until the target has everything, or too long. */
static bool drain(struct sim *s, struct call *c)
{
    const struct node *from = &s->w.nodes[ha_newest(&c->record.ha)->primary];
    const struct node *to = &s->w.nodes[c->record.target];
    if (to->length == from->length)
        return true;
    if (++c->tries < 20)
        return false;
    fail(c, ERRC_TIMEOUT, "the target does not get the last byte");
    return true;
}

/* Who confirmed runs as a standby since, also one that was a primary, and serves what it has. */
static void fetch(struct sim *s, struct manager *m, struct call *c)
{
    struct node *to = &s->w.nodes[c->choice.winner], *from = &s->w.nodes[c->choice.donor];
    int term = (int)c->record.ha.term;
    if (!reaches(m, to) || !from->agent || from->frozen || !s->w.link[to->number][from->number] ||
        to->promised != term || from->promised != term) {
        fail(c, ERRC_UNAVAILABLE, "it cannot fetch");
        return;
    }
    rejoin(&s->w, to, from);
    for (int i = 0; i < 8 && to->length < from->length; i++)
        receive(to, from);
}

/* Who acknowledges alone is promoted for as long as a lease from when the record was seen to be still so. */
static bool prove(struct sim *s, struct call *c)
{
    if (c->proved)
        return true;
    c->proved = true;
    c->proof = s->w.clock;
    if (c->action == FO_PROMOTE && roll(&s->w, 4) == 0) /* the manager stands still before it sends it */
        c->due = s->w.clock + (int)roll(&s->w, 500);
    if (c->action != FO_PROMOTE || c->choice.config.k != 0 || s->w.bug == BUG_NO_PROOF)
        return true;
    if (s->w.doc.ha.term > c->record.ha.term)
        fail(c, ERRC_STALE, "the record is of a later term");
    return c->outcome.err.code != ERRC_NONE;
}

static void at_winner(struct sim *s, struct manager *m, struct call *c)
{
    struct node *n = &s->w.nodes[c->choice.winner];
    int term = (int)c->record.ha.term;
    if (!reaches(m, n)) {
        fail(c, ERRC_UNAVAILABLE, "the winner is not reached");
        return;
    }
    if (!obeys(n, term)) {
        fail(c, ERRC_STALE, "the winner knows of a later term");
        return;
    }
    bool leads = n->up && n->is_primary && n->primary_term == term;
    if (c->action == FO_PROMOTE && !node_promote(&s->w, n, term, &c->choice.config, c->proof + LEASE))
        fail(c, ERRC_UNAVAILABLE, "the winner does not promote");
    else if (c->action != FO_PROMOTE && !leads)
        fail(c, ERRC_UNAVAILABLE, "the winner is down");
    else if (c->action == FO_SETTLE)
        n->settled = term;
    else if (c->action == FO_OPEN && !n->open) {
        n->open = true;
        tell(&s->w, "%d accepts writes under term %d", n->number, term);
    }
}

static bool repoint_next(struct sim *s, struct manager *m, struct call *c)
{
    struct world *w = &s->w;
    int i = (int)roll(w, (unsigned)w->count);
    if ((c->pending & HA_BIT(i)) != 0 && reaches(m, &w->nodes[i]))
        (void)node_follow(w, &w->nodes[i], (int)c->record.ha.term, c->choice.winner);
    c->pending &= ~HA_BIT(i);
    return c->pending == 0;
}

static void route(struct sim *s, struct call *c)
{
    if ((int)c->record.ha.term < s->w.routed_term)
        fail(c, ERRC_STALE, "the routing table is of a later term");
    else {
        s->w.routed_term = (int)c->record.ha.term;
        s->w.routed_to = c->choice.winner;
    }
}

/* True when it is done. */
static bool operation_takes_effect(struct sim *s, struct manager *m, struct call *c)
{
    switch (c->action) {
    case FO_JOURNAL:
        (void)write_record(s, c);
        return true;
    case FO_WAIT:
        return s->w.clock >= c->until;
    case FO_FENCE:
        fence_old(s, m, c);
        return true;
    case FO_DRAIN:
        return drain(s, c);
    case FO_CONFIRM:
        confirm_next(s, m, c);
        return c->pending == 0;
    case FO_FETCH:
        fetch(s, m, c);
        return true;
    case FO_REPOINT:
        return c->pending == 0 || repoint_next(s, m, c);
    case FO_ROUTE:
        route(s, c);
        return true;
    case FO_CHECKPOINT:
        return true;
    case FO_SETTLE: /* some begin to follow meanwhile */
        for (unsigned i = roll(&s->w, 4); i > 0; i--)
            (void)repoint_next(s, m, c);
        at_winner(s, m, c);
        return true;
    default:
        if (!prove(s, c))
            return false;
        if (c->outcome.err.code == ERRC_NONE)
            at_winner(s, m, c);
        return true;
    }
}

static bool takes_effect(struct sim *s, struct manager *m, struct call *c)
{
    struct world *w = &s->w;
    const struct ha_config *newest = ha_newest(&c->record.ha);
    switch (c->kind) {
    case CALL_RECORD:
        (void)write_record(s, c);
        return true;
    case CALL_APPLY:
        if (reaches(m, &w->nodes[newest->primary]))
            (void)node_apply(w, &w->nodes[newest->primary], newest);
        return true;
    case CALL_FOLLOW:
        if (reaches(m, &w->nodes[c->target]))
            if (node_follow(w, &w->nodes[c->target], (int)newest->term, newest->primary))
                node_cascade(w, &w->nodes[c->target], (int)newest->term, c->via);
        return true;
    default:
        return operation_takes_effect(s, m, c);
    }
}

/* ---- a manager's turn ---- */

static void see(struct sim *s, struct manager *m)
{
    struct world *w = &s->w;
    struct ha_shard *sh = &m->shard;
    uint64_t now = (uint64_t)w->clock;
    int p = ha_newest(&sh->record)->primary;
    sh->count = (unsigned)w->count;
    sh->policy = w->policy;
    for (int i = 0; i < w->count; i++) {
        const struct node *n = &w->nodes[i];
        struct ha_instance *x = &sh->instances[i];
        snprintf(x->name, sizeof x->name, "n%d", i);
        x->follows = w->cascade != 0 && i == w->cascade ? 2 : 0;
        x->no_sync = x->follows != 0;
        x->no_failover = x->no_sync || (w->tagged != 0 && i == w->tagged);
        x->closed = x->refused = m->link[i] && !n->agent;
        if (m->link[i] && n->up)
            x->reached_ns = now;
        if (!reaches(m, n))
            continue;
        x->heard_ns = now;
        x->server = !n->up ? HA_SERVER_DOWN : n->is_primary ? HA_SERVER_PRIMARY : HA_SERVER_STANDBY;
        x->ended_ns = n->up ? 0 : (uint64_t)n->ended_at;
        x->receives = n->connected == p;
        x->upstream = n->via + 1;
        x->received_ns = (uint64_t)n->received_at;
        x->config_epoch = n->config.epoch;
        if (w->bug == BUG_OLD_CONFIG && n->told_epoch > n->config.epoch)
            x->config_epoch = n->told_epoch;
        x->config_lsn = (uint64_t)n->config_at;
        m->seen[i] = position(n);
        if (i != p || !n->is_primary)
            continue;
        sh->lsn = (uint64_t)n->length;
        for (int j = 0; j < w->count; j++) {
            sh->instances[j].streams = n->told[j] >= 0;
            sh->instances[j].streams_ns = (uint64_t)n->streams_since[j];
            sh->instances[j].flushed = n->told[j] >= 0 ? (uint64_t)n->told[j] : 0;
        }
    }
}

static void begin(struct sim *s, struct manager *m, struct failover_record *r, bool resumed)
{
    tell(&s->w, "manager %d begins: %s%s", m->number, failover_kind_name(r->kind),
         resumed ? ", resumed" : "");
    m->driver = (struct failover_driver){act, changed, ended, deposed};
    m->works = true;
    m->over = false;
    if (!resumed)
        r->state = FAILOVER_PLANNED;
    if (s->w.bug == BUG_EXCLUDED) {
        struct ha_config *c = &r->ha.configs[r->ha.count - 1];
        c->members = (HA_BIT(s->w.count) - 1) & ~HA_BIT(c->primary);
        c->k = 1;
        r->ha.configs[0] = *c;
        r->ha.count = 1;
    }
    failover_init(&m->op, &m->driver, r, &m->shard);
    failover_start(&m->op, resumed);
}

static bool is_final(enum failover_state state)
{
    return state == FAILOVER_DONE || state == FAILOVER_CANCELED;
}

static void plan_sync(struct sim *s, struct manager *m)
{
    struct ha_sync_step step;
    struct failover_record r = s->w.doc;
    ha_sync_plan(&m->shard, (uint64_t)s->w.clock, &step);
    bool settles = step.rule == HA_F_SYNC_AWAIT && s->w.bug == BUG_TOO_EARLY;
    if (settles) {
        step.what = HA_SYNC_RECORD;
        step.record.configs[0] = *ha_newest(&step.record);
        step.record.count = 1;
    }
    if (step.what == HA_SYNC_NONE)
        return;
    r.ha = step.record;
    struct call *c = new_call(m, step.what == HA_SYNC_RECORD ? CALL_RECORD : CALL_APPLY);
    if (c == NULL)
        return;
    c->record = r;
    if (step.what == HA_SYNC_RECORD && step.rule == HA_F_SYNC_CHANGE && s->w.bug == BUG_NO_RECORD)
        c->kind = CALL_APPLY; /* and it is recorded when it is seen to differ, if somebody lives to see it */
    tell(&s->w, "manager %d: %s", m->number, step.sentence);
}

/* Who does not follow the primary is told to. */
static void repoint_strays(struct sim *s, struct manager *m)
{
    const struct ha_config *newest = ha_newest(&m->shard.record);
    int i = (int)roll(&s->w, (unsigned)s->w.count);
    const struct node *n = &s->w.nodes[i];
    struct ha_upstream upstream;
    ha_upstream(&m->shard, i, (uint64_t)s->w.clock, &upstream);
    int via = upstream.instance != newest->primary ? upstream.instance : -1;
    bool follows = !n->is_primary && n->follows == newest->primary && n->follows_term == (int)newest->term &&
                   n->connected >= 0 && n->via == via;
    if (i == newest->primary || follows || !reaches(m, n) || m->shard.record.term > newest->term)
        return;
    struct call *c = new_call(m, CALL_FOLLOW);
    if (c == NULL)
        return;
    c->record = s->w.doc;
    c->target = i;
    c->via = via;
}

static bool faulty(const struct sim *s)
{
    return s->events < FAULTY_EVENTS;
}

/* -1: who may not lead is refused, as shard_keeper_fail_over() does. */
static int a_target(struct sim *s, const struct manager *m, int primary)
{
    int i = (int)roll(&s->w, (unsigned)s->w.count);
    return i == primary || m->shard.instances[i].no_failover ? -1 : i;
}

/* Nothing of it is under way: it reads the record, looks and decides. */
static void decide(struct sim *s, struct manager *m)
{
    struct world *w = &s->w;
    struct failover_record r = w->doc;
    struct ha_verdict v;
    m->revision = w->revision;
    m->shard.record = r.ha;
    see(s, m);
    if (!is_final(r.state)) { /* another one's; he may be about to go on with it */
        if (roll(w, faulty(s) ? 20 : 200) == 0)
            begin(s, m, &r, true);
        return;
    }
    ha_judge(&m->shard, (uint64_t)w->clock, &v);
    r.kind = FAILOVER_KIND_FAILOVER;
    r.target = r.allow_loss = -1;
    const struct node *primary = &w->nodes[ha_newest(&r.ha)->primary];
    if (v.fail_over || (faulty(s) && roll(w, 100) == 0)) {
        tell(w, "manager %d: %s", m->number, v.sentence);
        begin(s, m, &r, false);
    } else if (faulty(s) && roll(w, 60) == 0) {
        r.kind = FAILOVER_KIND_SWITCHOVER;
        r.target = a_target(s, m, ha_newest(&r.ha)->primary);
        begin(s, m, &r, false);
    } else if (s->spiteful && faulty(s) && !primary->up && roll(w, 10) == 0) {
        r.allow_loss = a_target(s, m, ha_newest(&r.ha)->primary);
        begin(s, m, &r, false);
    } else if (roll(w, 2) == 0)
        plan_sync(s, m);
    else
        repoint_strays(s, m);
}

static bool has_calls(const struct manager *m)
{
    for (int i = 0; i < CALLS; i++)
        if (m->calls[i].used)
            return true;
    return false;
}

static void answer(struct manager *m, struct call *c)
{
    struct call done = *c;
    c->used = false;
    if (done.kind != CALL_OPERATION || done.orphan || m->over || !m->works)
        return;
    bool skipped = m->sim->w.bug == BUG_CHOSEN_LATE && done.record.state == FAILOVER_CHOSEN;
    if (done.action == FO_JOURNAL && done.outcome.err.code == ERRC_NONE && !skipped)
        m->revision++;
    failover_done(&m->op, done.action, &done.outcome);
}

/* The manager gives up waiting; the command may still take effect. */
static bool answer_is_lost(struct sim *s, struct manager *m, struct call *c)
{
    if (!faulty(s) || c->orphan || c->kind != CALL_OPERATION || c->action == FO_JOURNAL ||
        c->action == FO_WAIT || roll(&s->w, 60) != 0)
        return false;
    struct call late = *c;
    fail(c, ERRC_TIMEOUT, "no answer");
    memset(c->outcome.confirmed, 0, sizeof c->outcome.confirmed);
    answer(m, c);
    for (int i = 0; i < CALLS && !late.executed; i++) {
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
        bool may_be_late = c->kind != CALL_OPERATION || c->action == FO_PROMOTE;
        bool late = faulty(s) && may_be_late && s->w.clock < c->due;
        if (!c->used || late || (m->paused && c->executed))
            continue;
        if (answer_is_lost(s, m, c))
            return;
        if (c->executed) {
            answer(m, c);
            return;
        }
        if (roll(&s->w, 3) != 0)
            c->executed = takes_effect(s, m, c);
        return;
    }
    if (m->paused || !m->alive)
        return;
    if (m->over || !m->works) {
        m->works = false;
        decide(s, m);
    } else if (roll(&s->w, 200) == 0)
        failover_lost(&m->op);
}

/* ---- faults ---- */

static void manager_die(struct sim *s, struct manager *m)
{
    tell(&s->w, "manager %d dies", m->number);
    m->alive = m->works = false;
    for (int i = 0; i < CALLS; i++) {
        m->calls[i].orphan = true;
        if (m->calls[i].executed || m->calls[i].action == FO_WAIT || roll(&s->w, 2) == 0)
            m->calls[i].used = false;
    }
}

static void cut(struct sim *s)
{
    struct world *w = &s->w;
    int i = (int)roll(w, (unsigned)w->count), j = (int)roll(w, (unsigned)w->count);
    switch (roll(w, 6)) {
    case 0:
        w->link[i][j] = w->link[j][i] = false;
        break;
    case 1:
    case 2:
    case 3:
        w->store_link[i] = false;
        break;
    case 4:
        s->managers[roll(w, MANAGERS)].link[i] = false;
        break;
    default: /* from everybody */
        for (int k = 0; k < w->count; k++)
            w->link[i][k] = w->link[k][i] = false;
        for (int k = 0; k < MANAGERS; k++)
            s->managers[k].link[i] = false;
        w->store_link[i] = false;
        break;
    }
}

static void fault(struct sim *s)
{
    struct world *w = &s->w;
    struct node *n = &w->nodes[roll(w, (unsigned)w->count)];
    struct manager *m = &s->managers[roll(w, MANAGERS)];
    switch (roll(w, 7)) {
    case 0:
        if (n->up)
            server_stop(w, n);
        break;
    case 1:
        if (n->agent)
            agent_die(w, n);
        break;
    case 2:
        n->frozen = n->agent;
        break;
    case 3:
        manager_die(s, m);
        break;
    case 4:
        m->paused = m->alive;
        break;
    default:
        cut(s);
        break;
    }
}

static void repair(struct sim *s)
{
    struct world *w = &s->w;
    struct node *n = &w->nodes[roll(w, (unsigned)w->count)];
    struct manager *m = &s->managers[roll(w, MANAGERS)];
    n->agent = true;
    n->frozen = false;
    int i = n->number, j = (int)roll(w, (unsigned)w->count);
    w->link[i][j] = w->link[j][i] = true;
    w->store_link[i] = !s->alone;
    m->link[j] = true;
    m->paused = false;
    m->alive = true;
}

static void heal(struct sim *s)
{
    struct world *w = &s->w;
    memset(w->link, true, sizeof w->link);
    memset(w->store_link, true, sizeof w->store_link);
    for (int i = 0; i < w->count; i++) {
        w->nodes[i].agent = true;
        w->nodes[i].frozen = false;
    }
    for (int i = 0; i < MANAGERS; i++) {
        memset(s->managers[i].link, true, sizeof s->managers[i].link);
        s->managers[i].paused = false;
        s->managers[i].alive = i == 0; /* two that decide would go on competing */
        if (i != 0 && s->events == FAULTY_EVENTS)
            manager_die(s, &s->managers[i]);
    }
    if (s->healed == 0)
        s->healed = s->events;
}

static void event(struct sim *s)
{
    struct world *w = &s->w;
    unsigned r = roll(w, 100);
    struct node *n = &w->nodes[roll(w, (unsigned)w->count)];
    s->events++;
    w->clock++;
    if (r < 35)
        advance(s, &s->managers[roll(w, MANAGERS)]);
    else if (r < 45)
        client_writes(w, n);
    else if (r < 65)
        replicate(w, n);
    else if (r < 80)
        acknowledge(w, n);
    else if (r < 92)
        agent_turns(w, n);
    else if (!faulty(s))
        heal(s);
    else if (r < 95)
        fault(s);
    else
        repair(s);
    leases_end(w);
}

/* ---- a seed ---- */

/* The standby's standby, too, unless its upstream is the primary. */
static bool follows_well(const struct world *w, const struct node *n, const struct node *p)
{
    int upstream = w->cascade != 0 && n->number == w->cascade && p->number != 1 ? 1 : p->number;
    return n->connected == upstream && n->length == p->length;
}

/* Everything was repaired a while ago: is all as it should be? */
static bool is_well(const struct sim *s)
{
    const struct world *w = &s->w;
    const struct ha_config *newest = ha_newest(&w->doc.ha);
    const struct node *p = &w->nodes[newest->primary];
    if (faulty(s) || !is_final(w->doc.state) || w->doc.ha.count != 1 || !accepts(p) ||
        p->primary_term != (int)newest->term || p->config.epoch != newest->epoch ||
        w->routed_to != newest->primary)
        return false;
    for (int i = 0; i < w->count; i++)
        if (&w->nodes[i] != p && !follows_well(w, &w->nodes[i], p))
            return false;
    for (int i = 0; i < MANAGERS; i++)
        if (has_calls(&s->managers[i]) && s->managers[i].works && !s->managers[i].over)
            return false;
    return p->acknowledged == p->length;
}

static const char *run_seed(uint64_t seed, int number, bool tells)
{
    enum bug bug = (enum bug)number;
    static struct sim s;
    memset(&s, 0, sizeof s);
    world_init(&s.w, seed, bug);
    s.w.tells = tells;
    s.spiteful = roll(&s.w, 4) == 0;
    s.alone = roll(&s.w, 2) == 0;
    memset(s.w.store_link, !s.alone, sizeof s.w.store_link);
    for (int i = 0; i < MANAGERS; i++) {
        s.managers[i].sim = &s;
        s.managers[i].number = i + 1;
        s.managers[i].alive = true;
        memset(s.managers[i].link, true, sizeof s.managers[i].link);
    }
    while (s.w.broken == NULL && !is_well(&s)) {
        event(&s);
        if (bug != BUG_NONE && s.events > 2 * FAULTY_EVENTS)
            break; /* only what is lost counts as found, not who is stuck */
        rule(&s.w, s.events < EVENTS_MOST, "it does not come to an end");
    }
    if (s.w.broken == NULL && bug == BUG_NONE)
        rule(&s.w, has_all_acked(&s.w, &s.w.nodes[ha_newest(&s.w.doc.ha)->primary]),
             "in the end a commit is missing that was acknowledged");
    return s.w.broken;
}

int main(int argc, char **argv)
{
    static const struct seeds seeds = {run_seed, bug_names, BUG_COUNT, SEEDS, BUG_SEEDS};
    return seeds_main(&seeds, argc, argv);
}
