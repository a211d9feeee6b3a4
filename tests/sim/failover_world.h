/*
 * failover_world: the instances of one shard, their clients, their agents and the store, as far as a failover
 * depends on them: logs on disk, who receives from whom, which commits are acknowledged, what an agent has
 * confirmed and keeps over a restart, leases. One entry of a log is one commit, or the begin of a
 * primaryship. An event is a tick of the clock. Only for sim_failover.c.
 */
#ifndef SIM_FAILOVER_WORLD_H
#define SIM_FAILOVER_WORLD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "operation/failover.h"

#define NODES_MOST 5
#define LOG_MOST   320
#define IDS_MOST   256 /* commits */
#define WRITES     180
#define LEASE      80 /* ticks */

enum bug {
    BUG_NONE,
    BUG_NO_QUORUM,   /* who did not answer counts as confirmed */
    BUG_NO_RECORD,   /* the sync set is relaxed before that is recorded */
    BUG_NO_TERM,     /* an agent starts its primary without asking whether it still is one */
    BUG_EXCLUDED,    /* a standby that the record excludes counts like any other */
    BUG_FORGETS,     /* an agent forgets what it confirmed when it restarts */
    BUG_STALE_READ,  /* positions are those of the last heartbeat, from before it stopped receiving */
    BUG_OLD_CONFIG,  /* an agent brings any config into effect, also an older one, and tells of the newest */
    BUG_TOO_EARLY,   /* older configs are dropped before their commits are where the new one says */
    BUG_NO_COMPARE,  /* the record is written whoever wrote it meanwhile */
    BUG_BY_TIMELINE, /* the most advanced by the timeline's number */
    BUG_NO_LEASE,    /* the lease of the old primary is not waited for */
    BUG_CHOSEN_LATE, /* the winner is told to promote before its config is in the record */
    BUG_NO_PROOF, /* a primary that acknowledges alone is promoted without asking whether the term is passed
                   */
    BUG_COUNT
};
static const char *const bug_names[] = {"none",        "no_quorum",  "no_record",   "no_term",   "excluded",
                                        "forgets",     "stale_read", "old_config",  "too_early", "no_compare",
                                        "by_timeline", "no_lease",   "chosen_late", "no_proof"};

struct entry {
    int term;
    int id; /* 0: the primaryship begins */
};

struct node {
    int number;
    /* on disk */
    struct entry log[LOG_MOST];
    int length;
    int promised;              /* the highest term it confirmed or was commanded under */
    bool is_primary;           /* under primary_term */
    int primary_term, settled; /* settled: the term under which its guards were compared */
    bool open;                 /* it was told to accept writes */
    int follows, follows_term; /* -1 = nobody */
    int via;                   /* the standby that it receives from instead, -1 = from the primary */
    struct ha_config config;   /* that is in effect while it is primary */
    uint64_t told_epoch;       /* the highest it was ever told */
    int config_at;             /* length of its log when it came into effect */
    /* in memory */
    bool agent, frozen, up;
    int ended_at; /* the server, since its agent looked; 0 = it is up */
    int lease_until;
    int connected;        /* whose log it receives; -1 = nobody's */
    int told[NODES_MOST]; /* as primary: how much that standby has, as it said on this connection; -1 = none
                           */
    int streams_since[NODES_MOST];
    int received_at;  /* tick of the last word from whom it is connected to */
    int acknowledged; /* of its log */
};

struct world {
    struct node nodes[NODES_MOST];
    int count;
    int cascade;                       /* who is to receive from the second, 0 = nobody */
    int tagged;                        /* who is not to be promoted, 0 = nobody */
    bool link[NODES_MOST][NODES_MOST]; /* between nodes, both ways */
    bool store_link[NODES_MOST];
    int clock;
    /* the store */
    struct failover_record doc;
    int revision;
    int routed_term, routed_to;
    /* what clients were told */
    uint64_t acked[IDS_MOST / 64];
    int ids, writes;
    int last_ack_term, last_acker, last_claimed;
    int forced_term; /* somebody allowed loss: whatever older primaries acknowledge, knowing nothing of it, is
                        lost */
    struct ha_policy policy;
    enum bug bug;
    uint64_t random;
    bool tells;
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
    fprintf(stderr, "%5d ", w->clock);
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

/* ---- logs ---- */

static int last_term(const struct node *n)
{
    return n->length > 0 ? n->log[n->length - 1].term : 0;
}

static int timeline(const struct node *n)
{
    int t = 1;
    for (int i = 1; i < n->length; i++)
        t += n->log[i].term != n->log[i - 1].term;
    return t;
}

static struct ha_position position(const struct node *n)
{
    return (struct ha_position){
        .term = (uint64_t)last_term(n), .timeline = (uint32_t)timeline(n), .lsn = (uint64_t)n->length};
}

static bool same(struct entry a, struct entry b)
{
    return a.term == b.term && a.id == b.id;
}

static int common(const struct node *a, const struct node *b)
{
    int i = 0;
    while (i < a->length && i < b->length && same(a->log[i], b->log[i]))
        i++;
    return i;
}

static bool append(struct node *n, int term, int id)
{
    if (n->length >= LOG_MOST)
        return false;
    n->log[n->length++] = (struct entry){term, id};
    return true;
}

static void history(const struct node *n, struct ha_data *ret)
{
    struct ha_history *h = &ret->history;
    *ret = (struct ha_data){.name = "a", .there = true, .system = 7, .rewindable = true};
    for (int i = 0; i < n->length; i++) {
        if (i == 0 || n->log[i].term != n->log[i - 1].term) {
            h->items[h->count].timeline = h->count + 1;
            h->items[h->count++].term = (uint64_t)n->log[i].term;
        }
        h->items[h->count - 1].end = (uint64_t)i + 1;
    }
}

/* ---- servers ---- */

static bool accepts(const struct node *n)
{
    return n->up && n->is_primary && n->open && n->primary_term >= n->promised;
}

static void disconnect(struct world *w, struct node *n)
{
    if (n->connected >= 0) {
        struct node *from = &w->nodes[n->connected];
        from->told[n->number] = -1;
        from->streams_since[n->number] = w->clock;
    }
    n->connected = -1;
}

static void server_stop(struct world *w, struct node *n)
{
    n->up = false;
    n->ended_at = w->clock;
    disconnect(w, n);
    for (int i = 0; i < w->count; i++) {
        if (w->nodes[i].connected == n->number)
            disconnect(w, &w->nodes[i]);
        n->told[i] = -1;
    }
    n->acknowledged = n->length; /* whoever waited for more has no answer */
}

static void agent_die(struct world *w, struct node *n)
{
    tell(w, "%d dies", n->number);
    server_stop(w, n);
    n->agent = n->frozen = false;
    if (w->bug == BUG_FORGETS)
        n->promised = 0;
}

/* May it start as primary: the store or all its peers say that nobody claimed a later term. */
static bool term_confirmed(struct world *w, const struct node *n)
{
    if (w->bug == BUG_NO_TERM)
        return true;
    if (n->primary_term < n->promised)
        return false;
    if (w->store_link[n->number])
        return (int)w->doc.ha.term <= n->primary_term;
    for (int i = 0; i < w->count; i++) {
        const struct node *x = &w->nodes[i];
        if (x != n && (!w->link[n->number][i] || !x->agent || x->frozen || x->promised > n->primary_term))
            return false;
    }
    return true;
}

static void agent_turns(struct world *w, struct node *n)
{
    if (!n->agent || n->frozen)
        return;
    bool confirmed = !n->is_primary || term_confirmed(w, n);
    if (confirmed)
        n->lease_until = w->clock + LEASE;
    if (!n->up && (confirmed || n->primary_term < n->promised) && n->length > 0) {
        if (n->is_primary && !confirmed)
            return; /* it is not the primary any more: down until it is told whom to follow */
        tell(w, "%d starts as %s of term %d", n->number, n->is_primary ? "primary" : "standby",
             n->is_primary ? n->primary_term : n->follows_term);
        n->up = true;
        n->ended_at = 0;
        if (w->bug == BUG_NO_TERM && n->is_primary)
            n->promised = n->primary_term;
    } else if (n->up && n->is_primary && n->open && w->store_link[n->number] && w->bug != BUG_NO_TERM &&
               (int)w->doc.ha.term > n->primary_term) {
        tell(w, "%d learns that it is not the primary any more", n->number);
        n->open = false;
    }
}

/* Nobody acknowledges alone beyond his lease, nor beside an agent that does not turn any more. */
static void leases_end(struct world *w)
{
    for (int i = 0; i < w->count; i++) {
        struct node *n = &w->nodes[i];
        if (n->up && n->is_primary && (n->config.k == 0 || n->frozen) && w->clock >= n->lease_until) {
            tell(w, "%d stops: its lease is over", n->number);
            server_stop(w, n);
        }
    }
}

/* ---- replication ---- */

static bool serves(const struct node *from, const struct node *n)
{
    return n->via < 0 ? from->is_primary && from->primary_term == n->follows_term
                      : !from->is_primary && from->follows_term == n->follows_term;
}

static void connect_to_upstream(struct world *w, struct node *n)
{
    if (!n->up || n->is_primary || n->follows < 0 || n->connected >= 0 || n->follows_term < n->promised)
        return;
    struct node *from = &w->nodes[n->via < 0 ? n->follows : n->via];
    if (!from->up || !w->link[n->number][from->number] || !serves(from, n) || common(n, from) < n->length)
        return;
    n->connected = from->number;
    n->received_at = w->clock;
    from->streams_since[n->number] = w->clock;
    from->told[n->number] = -1;
}

static void receive(struct node *n, const struct node *from)
{
    n->log[n->length] = from->log[n->length];
    n->length++;
}

static void replicate(struct world *w, struct node *n)
{
    connect_to_upstream(w, n);
    if (n->connected < 0)
        return;
    struct node *from = &w->nodes[n->connected];
    if (!from->up || !w->link[n->number][n->connected] || !serves(from, n)) {
        if (roll(w, 4) == 0)
            disconnect(w, n);
        return;
    }
    n->received_at = w->clock;
    for (int i = (int)roll(w, 4); i >= 0 && n->length < from->length; i--)
        receive(n, from);
    if (roll(w, 3) != 0)
        from->told[n->number] = n->length;
}

/* Its log becomes a part of this one's, who is reached, as ha_rejoin() says. */
static void rejoin(struct world *w, struct node *n, const struct node *primary)
{
    struct ha_data own, theirs;
    struct ha_rejoin_verdict v;
    int shared = common(n, primary);
    if (shared == n->length)
        return;
    history(n, &own);
    history(primary, &theirs);
    ha_rejoin(&own, &theirs, &v);
    rule(w, v.how != HA_REJOIN_FOLLOW, "a standby that diverged is told to follow");
    if (v.how == HA_REJOIN_REWIND) {
        rule(w, (int)v.fork == shared, "a standby is rewound to another place than where its history parts");
        n->length = (int)v.fork;
    } else {
        memcpy(n->log, primary->log, sizeof n->log);
        n->length = primary->length;
    }
    tell(w, "%d comes back to %d: %s at %d", n->number, primary->number, ha_rule_name(v.rule), n->length);
}

/* ---- clients ---- */

static void client_writes(struct world *w, struct node *n)
{
    if (!accepts(n) || w->writes >= WRITES || n->length > LOG_MOST - 40)
        return;
    w->writes++;
    append(n, n->primary_term, ++w->ids);
}

/* How much of its log may be acknowledged by its config. */
static int acknowledgeable(const struct world *w, const struct node *n)
{
    int best = 0;
    if (n->config.k == 0)
        return n->length;
    for (int i = 0; i < w->count; i++) { /* the most that k members have */
        if ((n->config.members & HA_BIT(i)) == 0 || n->told[i] <= best)
            continue;
        unsigned have = 0;
        for (int j = 0; j < w->count; j++)
            have += (n->config.members & HA_BIT(j)) != 0 && n->told[j] >= n->told[i];
        if (have >= n->config.k)
            best = n->told[i];
    }
    return best;
}

static void ids_of(const struct node *n, uint64_t ret[IDS_MOST / 64])
{
    memset(ret, 0, sizeof(uint64_t) * (IDS_MOST / 64));
    for (int i = 0; i < n->length; i++)
        ret[n->log[i].id / 64] |= 1ull << (n->log[i].id % 64);
}

static bool has_all_acked(const struct world *w, const struct node *n)
{
    uint64_t has[IDS_MOST / 64];
    ids_of(n, has);
    for (int i = 0; i < IDS_MOST / 64; i++)
        if ((w->acked[i] & ~has[i]) != 0)
            return false;
    return true;
}

/* Whoever satisfies the record satisfies the config that is in effect. */
static bool is_covered(const struct world *w, const struct node *n)
{
    for (ha_set set = 0; set < HA_BIT(w->count); set++)
        if (ha_all_satisfied(&w->doc.ha, set, NULL) && !ha_satisfied(&n->config, set))
            return false;
    return true;
}

static void acknowledge(struct world *w, struct node *n)
{
    if (!accepts(n))
        return;
    int until = acknowledgeable(w, n);
    if (until <= n->acknowledged)
        return;
    if (n->primary_term < w->forced_term) {
        n->acknowledged = until;
        return;
    }
    rule(w, is_covered(w, n), "a primary acknowledges by a sync set that is not in the record");
    rule(w, has_all_acked(w, n), "who acknowledges lacks a commit that was acknowledged");
    rule(w, n->settled == n->primary_term, "a primary acknowledges before its guards were compared");
    for (; n->acknowledged < until; n->acknowledged++) {
        int id = n->log[n->acknowledged].id;
        if (id == 0 || n->log[n->acknowledged].term != n->primary_term)
            continue;
        rule(w, n->primary_term >= w->last_ack_term, "a primary acknowledges after its successor did");
        rule(w, n->primary_term != w->last_ack_term || n->number == w->last_acker,
             "two primaries acknowledge under one term");
        w->last_ack_term = n->primary_term;
        w->last_acker = n->number;
        w->acked[id / 64] |= 1ull << (id % 64);
        tell(w, "%*s %d acknowledges commit %d", 30, "", n->number, id);
    }
}

/* ---- commands of managers ---- */

static bool obeys(const struct node *n, int term)
{
    return term >= n->promised;
}

/* Position in *ret. False: it refuses, since it knows of a later term or is further on in this one. */
static bool node_confirm(struct world *w, struct node *n, int term, struct ha_confirmation *ret)
{
    bool further = (n->is_primary && n->primary_term == term) || (!n->is_primary && n->follows_term == term);
    if (!obeys(n, term) || (further && w->bug != BUG_FORGETS) || n->length == 0)
        return false;
    struct ha_position before = position(n);
    n->promised = term;
    if (n->is_primary && n->open)
        tell(w, "%d is fenced by term %d", n->number, term);
    n->open = n->is_primary ? false : n->open;
    if (!n->is_primary)
        disconnect(w, n);
    *ret = (struct ha_confirmation){.term = (uint64_t)term, .position = before};
    return true;
}

/* Its first lease reaches until `lease_until`: of a time that is over it takes no order. */
static bool node_promote(struct world *w, struct node *n, int term, const struct ha_config *config,
                         int lease_until)
{
    if (!obeys(n, term) || (config->k == 0 && w->clock >= lease_until))
        return false;
    if (n->is_primary && n->primary_term == term)
        return n->up;
    if (n->length >= LOG_MOST - 4)
        return false;
    tell(w, "%d is promoted under term %d at %d", n->number, term, n->length);
    disconnect(w, n);
    n->promised = n->primary_term = term;
    n->is_primary = n->up = true;
    n->open = false;
    n->ended_at = 0;
    n->follows = n->via = -1;
    n->lease_until = lease_until;
    n->acknowledged = n->length;
    append(n, term, 0);
    n->config = *config;
    n->config_at = n->length;
    for (int i = 0; i < w->count; i++)
        n->told[i] = -1;
    return true;
}

static bool node_follow(struct world *w, struct node *n, int term, int primary)
{
    if (!obeys(n, term) || n->number == primary || (n->is_primary && n->primary_term == term))
        return false;
    if (!n->is_primary && n->follows == primary && n->follows_term == term &&
        common(n, &w->nodes[primary]) == n->length)
        return true;
    struct node *p = &w->nodes[primary];
    bool reached = p->up && w->link[n->number][primary];
    if (!p->is_primary || p->primary_term != term || (!reached && common(n, p) < n->length))
        return false;
    rejoin(w, n, p);
    if (n->is_primary)
        server_stop(w, n);
    disconnect(w, n);
    n->promised = n->follows_term = term;
    n->follows = primary;
    n->via = -1;
    n->is_primary = n->open = false;
    n->up = true;
    n->ended_at = 0;
    return true;
}

/* Its history is the primary's of this term: it may receive from any that has it. */
static void node_cascade(struct world *w, struct node *n, int term, int via)
{
    if (!obeys(n, term) || n->is_primary || n->follows_term != term || n->via == via)
        return;
    tell(w, "%d receives from %s", n->number, via < 0 ? "the primary" : "another standby");
    disconnect(w, n);
    n->via = via;
}

static bool node_apply(struct world *w, struct node *n, const struct ha_config *config)
{
    bool older = config->epoch < n->config.epoch && w->bug != BUG_OLD_CONFIG;
    if (!obeys(n, (int)config->term) || !n->is_primary || n->primary_term != (int)config->term || older)
        return false;
    tell(w, "%d acknowledges by epoch %d: %u of %x", n->number, (int)config->epoch, config->k,
         config->members);
    n->config = *config;
    n->config_at = n->length;
    n->told_epoch = n->told_epoch > config->epoch ? n->told_epoch : config->epoch;
    return true;
}

static void world_init(struct world *w, uint64_t seed, enum bug bug)
{
    memset(w, 0, sizeof *w);
    w->random = seed * 2 + 1;
    w->bug = bug;
    for (int i = 0; i < 5; i++)
        (void)roll(w, 2);
    w->count = 2 + (int)roll(w, NODES_MOST - 1);
    ha_policy_defaults(&w->policy, (unsigned)w->count);
    w->policy.silent_ns = 60;
    w->policy.quiet_ns = 40;
    w->policy.restart_ns = 60;
    w->policy.lease_ns = LEASE + 1;
    w->policy.exclude_ns = 40;
    w->policy.admit_bytes = 3;
    if (roll(w, 4) == 0)
        w->policy.k = 2;
    if (roll(w, 4) == 0)
        w->policy.durability = (enum ha_durability)roll(w, 3);
    if (bug == BUG_NO_PROOF) { /* it is about who acknowledges alone */
        w->count = 2;
        w->policy.durability = HA_ASYNC;
    }
    struct ha_record ha;
    w->cascade = w->count >= 4 && roll(w, 2) == 0 ? w->count - 1 : 0;
    w->tagged = w->count >= 3 && roll(w, 4) == 0 ? 1 + (int)roll(w, (unsigned)w->count - 1) : 0;
    ha_record_init(&ha, &w->policy, 0, (HA_BIT(w->count) - 1) & ~HA_BIT(0) & ~HA_BIT(w->cascade));
    failover_record_init(&w->doc, &ha);
    w->doc.state = FAILOVER_DONE;
    w->clock = 1;
    w->routed_term = w->last_claimed = 1;
    memset(w->link, true, sizeof w->link);
    memset(w->store_link, true, sizeof w->store_link);
    for (int i = 0; i < w->count; i++) {
        struct node *n = &w->nodes[i];
        n->number = i;
        n->agent = n->up = true;
        n->promised = 1;
        n->lease_until = LEASE;
        n->connected = n->via = -1;
        n->follows = i == 0 ? -1 : 0;
        n->follows_term = i == 0 ? 0 : 1;
        n->is_primary = n->open = i == 0;
        n->primary_term = n->settled = i == 0;
        append(n, 1, 0);
        n->config_at = 1;
        for (int j = 0; j < w->count; j++)
            n->told[j] = -1;
    }
    w->nodes[0].config = ha.configs[0];
}

#endif
