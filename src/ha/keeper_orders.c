/* The orders that members are to have, as texts of docs/agent.md. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "ha/keeper_impl.h"

/* A rewind or a receiver may fail for so long, e.g. while its upstream starts. */
#define REWIND_NS (5 * ENV_NS_PER_S)
#define STILL_NS  (20 * ENV_NS_PER_S)
#define MADE_MOST 6

static void want(struct shard_keeper *k, int i, uint64_t term, struct buf *order, bool lease)
{
    k->members[i].wanted_term = term;
    member_link_lease(k->members[i].link, lease ? term : 0);
    member_link_want(k->members[i].link, buf_text(order), lease);
    buf_free(order);
}

static void begin(struct buf *b, uint64_t term, uint64_t seq, const char *role)
{
    (void)buf_printf(b, "{\"term\":\"%llu\",\"seq\":\"%llu\",\"role\":\"%s\"", (unsigned long long)term,
                     (unsigned long long)seq, role);
}

/* Of few letters, at most 63; the end of a member's name is what tells it from the others. */
static void add_slot(struct buf *b, const struct shard_keeper *k, int i)
{
    const char *member = k->shard.instances[i].name;
    size_t length = strlen(member), most = 63 - strlen("shardherd_");
    char *name = mem_printf("shardherd_%s", length > most ? member + length - most : member);
    for (char *p = name; *p != '\0'; p++)
        if (*p == '-' || *p == '.')
            *p = '_';
    (void)buf_printf(b, "\"%s\"", name);
    free(name);
}

/*
 * Who has TLS itself follows nobody without it unless it is told that this one has none, as while a shard
 * changes from the one to the other. Nobody else is told: an agent of before that would refuse the order. Of
 * one that is not heard just now it counts what it said last.
 */
static bool follows_plain(const struct shard_keeper *k, int i, int upstream)
{
    const struct member_status *own = member_link_status(k->members[i].link),
                               *other = member_link_status(k->members[upstream].link);
    return own != NULL && own->tls && other != NULL && other->plain;
}

static void add_upstream(struct buf *b, const struct shard_keeper *k, int i, int upstream, bool slot)
{
    (void)buf_printf(b, ",\"upstream\":{\"host\":\"%s\",\"port\":%d", k->members[upstream].host,
                     k->members[upstream].port);
    if (slot) {
        (void)buf_add_text(b, ",\"slot\":");
        add_slot(b, k, i);
    }
    if (follows_plain(k, i, upstream))
        (void)buf_add_text(b, ",\"tls\":false");
    (void)buf_addc(b, '}');
}

void keeper_order_confirm(struct shard_keeper *k, int i, uint64_t term)
{
    struct buf b = {0};
    k->members[i].upstream = 0;
    begin(&b, term, SEQ_CONFIRM, "standby");
    (void)buf_addc(&b, '}');
    want(k, i, term, &b, false);
}

/*
 * The donor keeps no slots. A winner whose own last bytes are of the donor's timeline knows its term, and
 * needs to be told of neither: so an agent of before timeline_term, which would refuse it, can carry the
 * order out.
 */
void keeper_order_fetch(struct shard_keeper *k, const struct ha_choice *choice, uint64_t term,
                        const char *rejoin)
{
    const struct ha_position *p = &choice->position;
    struct buf b = {0};
    begin(&b, term, SEQ_CONFIRM, "standby");
    add_upstream(&b, k, choice->winner, choice->donor, false);
    if (!k->fetch_knows)
        (void)buf_printf(&b, ",\"timeline\":%u,\"timeline_term\":\"%llu\"", (unsigned)p->timeline,
                         (unsigned long long)p->term);
    (void)buf_printf(&b, ",\"rejoin\":\"%s\"}", rejoin);
    want(k, choice->winner, term, &b, false);
}

void keeper_order_primary(struct shard_keeper *k, const struct ha_config *c, bool held)
{
    struct buf b = {0};
    /* who is alone by the record has nobody who could take its place */
    bool lease = c->k == 0 && k->shard.count > 1, first = true;
    const struct shard_primaryship *seen = shard_record_primaryship(&k->record, c->term);
    k->members[c->primary].upstream = 0;
    begin(&b, c->term, SEQ_PRIMARY + 2 * c->epoch + (held ? 0 : 1), "primary");
    if (held)
        (void)buf_add_text(&b, ",\"held\":true");
    if (c->term == 1 && seen == NULL)
        (void)buf_add_text(&b, ",\"initialize\":true");
    if (lease)
        (void)buf_printf(&b, ",\"lease_ms\":%llu",
                         (unsigned long long)(k->shard.policy.lease_ns / ENV_NS_PER_MS));
    (void)buf_printf(&b, ",\"sync\":{\"need\":%u,\"members\":[", c->k);
    for (unsigned i = 0; i < k->shard.count; i++) {
        if ((c->members & HA_BIT(i)) == 0)
            continue;
        (void)buf_printf(&b, "%s\"%s\"", first ? "" : ",", k->shard.instances[i].name);
        first = false;
    }
    (void)buf_add_text(&b, "]},\"slots\":[");
    first = true;
    for (int i = 0; i < (int)k->shard.count; i++) {
        bool elsewhere = k->members[i].upstream != 0 && k->shard.instances[i].streams;
        if (i == c->primary || elsewhere || keeper_retired(k, i)) /* whose slot would hold the log for ever */
            continue;
        (void)buf_add_text(&b, first ? "" : ",");
        add_slot(&b, k, i);
        first = false;
    }
    (void)buf_add_text(&b, "]}");
    want(k, c->primary, c->term, &b, lease);
}

/* ---- followers ---- */

/* It has an order to follow under this term. */
static bool is_follower(const struct member_status *s, uint64_t term)
{
    return s->term == term && s->seq >= SEQ_FOLLOW && s->seq < SEQ_RETIRED &&
           strcmp(s->assigned, "standby") == 0;
}

/* Whom it is to follow: another standby only with a history that is known to be the primary's. */
static int upstream_of(struct shard_keeper *k, int i, const struct ha_config *c)
{
    struct keeper_member *m = &k->members[i];
    const struct member_status *s = keeper_status(k, i);
    bool joined = s->known && !s->primary && !s->diverged && is_follower(s, c->term) &&
                  strcmp(s->reported, "standby") == 0;
    struct ha_upstream upstream = {.instance = c->primary};
    if (joined)
        ha_upstream(&k->shard, i, loop_now(k->loop), &upstream);
    if (joined && upstream.rule != m->upstream_rule && upstream.rule != 0)
        log_event(LOG_INFO, upstream.sentence, "shard", k->name, "rule", log_num(upstream.rule), NULL);
    m->upstream_rule = joined ? upstream.rule : m->upstream_rule;
    m->upstream = upstream.instance != c->primary ? upstream.instance + 1 : 0;
    return upstream.instance;
}

/* Of those that follow this standby. */
static void add_slots(struct buf *b, const struct shard_keeper *k, int upstream)
{
    bool first = true;
    for (int i = 0; i < (int)k->shard.count; i++) {
        if (k->members[i].upstream != upstream + 1 || keeper_retired(k, i))
            continue;
        (void)buf_add_text(b, first ? ",\"slots\":[" : ",");
        add_slot(b, k, i);
        first = false;
    }
    if (!first)
        (void)buf_addc(b, ']');
}

static void follow(struct shard_keeper *k, int i, const struct ha_config *c, uint32_t timeline)
{
    struct keeper_member *m = &k->members[i];
    const struct member_status *s = keeper_status(k, i);
    bool decided = m->rejoin_term == c->term;
    const char *rejoin = decided ? m->rejoin : "auto";
    uint64_t seq = decided && m->rejoin_seq != 0 ? m->rejoin_seq : SEQ_FOLLOW;
    struct buf b = {0};
    if (is_follower(s, c->term) && s->seq > seq) { /* who led before has decided it */
        seq = s->seq;
        rejoin = "clone";
    }
    begin(&b, c->term, seq, "standby");
    add_upstream(&b, k, i, upstream_of(k, i, c), true);
    add_slots(&b, k, i);
    (void)buf_printf(&b, ",\"timeline\":%u,\"rejoin\":\"%s\"", (unsigned)timeline, rejoin);
    if (m->delay_ms != 0)
        (void)buf_printf(&b, ",\"delay_ms\":%llu", (unsigned long long)m->delay_ms);
    (void)buf_addc(&b, '}');
    want(k, i, c->term, &b, false);
}

/* By ancestry: its history, as its last bytes' term says, against that of who has the log of this term up to
 * `end`. NULL = it is of another database. */
static const char *rejoin_of(const struct shard_keeper *k, int i, int upstream, uint64_t term, uint64_t end)
{
    static const char *const how[] = {"auto", "rewind", "clone", NULL};
    const struct member_status *own = keeper_status(k, i), *other = keeper_status(k, upstream);
    struct ha_data a = {.name = k->shard.instances[i].name, .there = true, .rewindable = true};
    struct ha_data b = {.name = k->shard.instances[upstream].name, .there = true, .rewindable = true};
    struct ha_rejoin_verdict verdict;
    a.system = own->system_id;
    b.system = other != NULL ? other->system_id : a.system;
    a.wal_from = own->wal_from;
    b.wal_from = other != NULL && (other->primary || end != UINT64_MAX) ? other->wal_from : 0;
    shard_record_history(&k->record, own->wal_term, own->flushed, &a.history);
    shard_record_history(&k->record, term, end, &b.history);
    ha_rejoin(&a, &b, &verdict);
    log_event(verdict.how == HA_REJOIN_FOLLOW ? LOG_INFO : LOG_WARN, verdict.sentence, "shard", k->name,
              "instance", a.name, "rule", log_num(verdict.rule), NULL);
    return how[verdict.how];
}

const char *keeper_fetch_rejoin(const struct shard_keeper *k, const struct ha_choice *choice)
{
    return rejoin_of(k, choice->winner, choice->donor, choice->position.term, choice->position.lsn);
}

static void decide_rejoin(struct shard_keeper *k, int i, const struct ha_config *c)
{
    k->members[i].rejoin = rejoin_of(k, i, c->primary, c->term, UINT64_MAX);
    k->members[i].rejoin_term = c->term;
    k->members[i].rejoin_seq = 0;
}

/* What has no data, ran as a primary or is half made is a case for the agent: it clones or rewinds. */
static bool speaks_for_itself(const struct member_status *s)
{
    static const char *const states[] = {"empty", "cloning", "rewinding", "failed", "initializing"};
    for (unsigned i = 0; i < sizeof states / sizeof states[0]; i++)
        if (strcmp(s->reported, states[i]) == 0)
            return true;
    return s->diverged;
}

/* The log that it needs next is not kept any more. */
static bool is_left_behind(const struct shard_keeper *k, const struct ha_config *c,
                           const struct member_status *s)
{
    const struct member_status *primary = keeper_status(k, c->primary);
    bool follows = s->known ? !s->primary : strcmp(s->reported, "starting") == 0;
    uint64_t needed = s->known ? s->flushed : s->waits_at;
    return follows && needed != 0 && strcmp(s->receiver, "streaming") != 0 && primary != NULL &&
           primary->primary && primary->wal_from > needed;
}

/* A rewind that fails (the log that it needs is gone, say). */
static bool is_not_rewound(const struct keeper_member *m, const struct ha_config *c,
                           const struct member_status *s)
{
    bool clones = m->rejoin_term == c->term && (m->rejoin == NULL || strcmp(m->rejoin, "clone") == 0);
    return s->diverged && strcmp(s->reported, "failed") == 0 && !clones;
}

/* One that lets nobody in reads the log that it has, which may be long and of long ago: it has to stand
 * still. */
static uint64_t patience(const struct keeper_member *m, const struct member_status *s)
{
    uint64_t bound = s->known || s->diverged ? REWIND_NS : STILL_NS;
    return bound << (m->made < 5 ? m->made : 5);
}

static void make_anew(struct shard_keeper *k, int i, const struct ha_config *c, const struct member_status *s,
                      const char *why)
{
    struct keeper_member *m = &k->members[i];
    m->failed_ns = 0;
    if (++m->made > MADE_MOST) {
        if (m->made == MADE_MOST + 1)
            log_event(LOG_ERROR,
                      "a member does not get to follow, however often it is made anew: it is left as "
                      "it is; look at its log, or remove it",
                      "shard", k->name, "instance", k->shard.instances[i].name, "err", why, NULL);
        m->made = MADE_MOST + 1;
        return;
    }
    log_event(LOG_WARN, "a member gets no further: it is made anew", "shard", k->name, "instance",
              k->shard.instances[i].name, "time", log_num(m->made), "err", why, NULL);
    m->rejoin = "clone";
    m->rejoin_term = c->term;
    m->rejoin_seq = s->seq + 1;
}

/* What goes on failing is followed by a clone, some times, and after longer and longer. */
static void see_failing(struct shard_keeper *k, int i, const struct ha_config *c,
                        const struct member_status *s)
{
    struct keeper_member *m = &k->members[i];
    uint64_t now = loop_now(k->loop);
    bool left = is_left_behind(k, c, s), fails = left || (!s->known && is_not_rewound(m, c, s));
    if (strcmp(s->receiver, "streaming") == 0)
        m->made = 0;
    if ((s->known && !fails) || (left && m->failed_at != s->waits_at))
        m->failed_ns = 0;
    m->failed_at = left ? s->waits_at : m->failed_at;
    if (m->failed_ns == 0 && fails)
        m->failed_ns = now;
    if (m->failed_ns != 0 && fails && now >= m->failed_ns + patience(m, s))
        make_anew(k, i, c, s, left ? "its primary does not keep the log that it needs next" : s->error);
}

static void follower(struct shard_keeper *k, int i, const struct ha_config *c, uint32_t timeline)
{
    const struct member_status *s = keeper_status(k, i);
    bool decided = k->members[i].rejoin_term == c->term;
    if (s == NULL)
        return;
    bool follows = is_follower(s, c->term);
    if (!decided && !follows && !speaks_for_itself(s)) {
        if (!keeper_receives_nothing(k, i, c->term)) {
            keeper_order_confirm(k, i, c->term);
            return;
        }
        decide_rejoin(k, i, c);
    }
    if (follows)
        see_failing(k, i, c, s);
    if (k->members[i].rejoin_term == c->term && k->members[i].rejoin == NULL)
        member_link_want(k->members[i].link, NULL, false); /* another database: it is left alone */
    else
        follow(k, i, c, timeline);
}

/* Stopped for good, as soon as nothing that was acknowledged relies on it. */
static void retire(struct shard_keeper *k, int i, uint64_t term)
{
    struct buf b = {0};
    begin(&b, term, SEQ_RETIRED, "stopped");
    (void)buf_add_text(&b, ",\"closed\":true}");
    want(k, i, term, &b, false);
}

void keeper_order_followers(struct shard_keeper *k, const struct ha_config *c)
{
    const struct shard_primaryship *p = shard_record_primaryship(&k->record, c->term);
    if (p == NULL || p->timeline == 0)
        return; /* it was not seen as the primary yet */
    for (int i = 0; i < (int)k->shard.count; i++)
        if (k->members[i].retiring && (ha_involved(&k->record.op.ha) & HA_BIT(i)) == 0)
            retire(k, i, c->term);
        else if (i != c->primary)
            follower(k, i, c, p->timeline);
}
