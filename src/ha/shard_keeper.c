/*
 * Happy path: read the record, resume the failover that it may tell of, then stand: each status that comes,
 * and each second, everything is looked at anew, in keeper_stand() or keeper_failover_turn(). A shard that
 * rests (see rests()) is looked at for news, and each second, not for heartbeats.
 */
#include "ha/shard_keeper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ha/keeper_impl.h"
#include "operation/operation.h"

#define TURN_NS    (1 * ENV_NS_PER_S)
#define SUSPECT_NS (50 * ENV_NS_PER_MS)  /* while something is expected */
#define SILENT_NS  (200 * ENV_NS_PER_MS) /* while an agent says nothing, and its server answers */
#define PAUSE_NS                                                                                             \
    (TURN_NS + 500 * ENV_NS_PER_MS) /* between two turns: somebody stood still, and it was us                \
                                     */

#define TO(state) SM_NEXT(KEEPER_##state)
static const struct sm_state states[KEEPER_STATES] = {
    [KEEPER_LOADING] = {"loading", TO(STANDING) | TO(FAILING) | TO(CLOSED), false},
    [KEEPER_STANDING] = {"standing", TO(LOADING) | TO(FAILING) | TO(CLOSED), false},
    [KEEPER_FAILING] = {"failing", TO(LOADING) | TO(STANDING) | TO(CLOSED), false},
    [KEEPER_CLOSED] = {"closed", 0, true},
};

/* ---- the store ---- */

void keeper_reload(struct shard_keeper *k)
{
    if (sm_now(&k->sm) != KEEPER_LOADING)
        sm_move(&k->sm, KEEPER_LOADING);
    keeper_load(k);
}

/* A conflict is read at once, whatever else it was a little later. */
static void reload_after(struct shard_keeper *k, const struct err *err)
{
    if (err->code == ERRC_CONFLICT) {
        keeper_reload(k);
        return;
    }
    if (sm_now(&k->sm) != KEEPER_LOADING)
        sm_move(&k->sm, KEEPER_LOADING);
    k->loaded = false;
    loop_timer_start(&k->wait, TURN_NS);
}

static void written(const struct err *err, int64_t revision, void *data)
{
    struct shard_keeper *k = data;
    k->calling = false;
    if (sm_now(&k->sm) == KEEPER_CLOSED) {
        shard_keeper_close(k, NULL, NULL);
        return;
    }
    if (err == NULL) {
        if (k->writing.count != k->record.count)
            operation_test_place(&k->kill_at, "resize:after:record");
        k->record = k->writing;
        k->shard.count = k->record.count;
        k->revision = revision;
    } else
        log_event(LOG_WARN, "the record of the shard was not written", "shard", k->name, "err", err->message,
                  NULL);
    keeper_facts(k);
    if (sm_now(&k->sm) == KEEPER_FAILING)
        keeper_failover_written(k, err);
    else if (err != NULL)
        reload_after(k, err);
    else if (sm_now(&k->sm) == KEEPER_LOADING)
        sm_move(&k->sm, KEEPER_STANDING);
    keeper_turn_soon(k);
}

/* The callback does not come from inside, so a failure to start is told later as well. */
void keeper_write(struct shard_keeper *k)
{
    struct err err = {0};
    char *text = shard_record_text(&k->writing);
    k->calling = true;
    if (store_compare_and_swap(k->store, k->key, k->revision, text, written, k, &err) != 0) {
        k->calling = false;
        log_event(LOG_ERROR, "the store does not take the record of the shard", "shard", k->name, "err",
                  err.message, NULL);
        loop_timer_start(&k->wait, TURN_NS);
    }
    free(text);
}

static void write_fired(struct loop_timer *timer, void *data)
{
    struct shard_keeper *k = data;
    (void)timer;
    if (sm_now(&k->sm) == KEEPER_LOADING && !k->loaded)
        keeper_load(k);
    else if (!k->calling)
        keeper_write(k);
}

static void take(struct shard_keeper *k, const struct shard_record *record, int64_t revision)
{
    k->record = *record;
    k->shard.count = record->count;
    k->revision = revision;
    k->loaded = true;
    keeper_facts(k);
    if (record->op.state != FAILOVER_DONE && record->op.state != FAILOVER_CANCELED)
        keeper_failover_begin(k, &record->op, true);
    else {
        sm_move(&k->sm, KEEPER_STANDING);
        keeper_failover_tell(k, &k->record.op, false);
    }
    keeper_turn_soon(k);
}

static void read_done(const struct err *err, const struct store_entry *entry, void *data)
{
    struct shard_keeper *k = data;
    struct shard_record record;
    struct err bad = {0};
    k->calling = false;
    if (sm_now(&k->sm) == KEEPER_CLOSED) {
        shard_keeper_close(k, NULL, NULL);
        return;
    }
    if (err != NULL && err->code == ERRC_NOT_FOUND) {
        k->writing = k->record;
        k->revision = 0;
        k->loaded = true;
        keeper_write(k);
        return;
    }
    if (err != NULL)
        err_copy(&bad, err);
    else if (shard_record_parse(entry->value, strlen(entry->value), &record, &bad) == 0 &&
             !keeper_record_fits(k, &record))
        (void)err_set(&bad, ERRC_CONFLICT, "the record names other instances");
    if (bad.code == ERRC_NONE) {
        take(k, &record, entry->revision);
        return;
    }
    log_event(LOG_ERROR, "the record of the shard cannot be used; nothing is decided", "shard", k->name,
              "err", bad.message, NULL);
    loop_timer_start(&k->wait, TURN_NS);
}

void keeper_load(struct shard_keeper *k)
{
    struct err err = {0};
    k->loaded = false;
    k->calling = store_get(k->store, k->key, read_done, k, &err) == 0;
    if (!k->calling)
        loop_timer_start(&k->wait, TURN_NS);
}

/* ---- standing ---- */

static void say(struct shard_keeper *k, int rule, const char *sentence)
{
    if (rule != k->rule && rule != HA_F_WELL && rule != HA_F_SYNC_KEPT)
        log_event(LOG_INFO, sentence, "shard", k->name, "rule", log_num(rule), NULL);
    k->rule = rule;
}

void keeper_new_id(struct shard_keeper *k, struct failover_record *r)
{
    char random[8];
    env_random_text(k->loop->env, random, sizeof random - 1);
    (void)snprintf(r->id, sizeof r->id, "%.4s%s", failover_kind_name(r->kind), random);
}

static void fail_over(struct shard_keeper *k, const struct ha_verdict *verdict)
{
    struct failover_record r;
    failover_record_init(&r, &k->record.op.ha);
    keeper_new_id(k, &r);
    r.rule = verdict->rule;
    memcpy(r.reason, verdict->sentence, sizeof r.reason);
    keeper_failover_begin(k, &r, false);
}

/* Who is the primary, and since which timeline, if the record does not say yet. True = it is being written.
 */
static bool note_primary(struct shard_keeper *k, const struct ha_config *newest)
{
    const struct member_status *s = keeper_status(k, newest->primary);
    const struct shard_primaryship *p = shard_record_primaryship(&k->record, newest->term);
    struct shard_primaryship began = {.term = newest->term};
    if ((p != NULL && p->timeline != 0) || !keeper_in_effect(k, newest, false))
        return false;
    began.timeline = s->timeline;
    k->writing = k->record;
    if (p == NULL)
        (void)shard_record_began(&k->writing, &began);
    else
        k->writing.history[p - k->record.history].timeline = began.timeline;
    keeper_write(k);
    return true;
}

/* Its server answers, but its agent says nothing: that server may be about to be ended. */
static bool is_silent(const struct shard_keeper *k, const struct ha_config *newest, uint64_t now)
{
    return now >= k->shard.instances[newest->primary].heard_ns + k->shard.policy.silent_ns / 2;
}

/* Nothing is expected of anybody but to go on: each streams and has its order, and no lease is due. */
static bool rests(const struct shard_keeper *k, uint64_t now)
{
    const struct ha_config *newest = ha_newest(&k->record.op.ha);
    bool rest = (newest->k > 0 || k->shard.count == 1) && !is_silent(k, newest, now);
    for (int i = 0; rest && i < (int)k->shard.count; i++)
        rest = member_link_taken(k->members[i].link) && !k->members[i].retiring &&
               (i == newest->primary || k->shard.instances[i].streams);
    return rest;
}

static void sync_step(struct shard_keeper *k, uint64_t now)
{
    struct ha_sync_step step;
    ha_sync_plan(&k->shard, now, &step);
    say(k, step.rule, step.sentence);
    k->rests = step.rule == HA_F_SYNC_KEPT && rests(k, now);
    if (step.what != HA_SYNC_RECORD)
        return; /* to apply it is what keeper_order_primary() wants anyway */
    k->writing = k->record;
    k->writing.op.ha = step.record;
    keeper_write(k);
}

static void tell_route(struct shard_keeper *k, const struct ha_config *newest)
{
    if (k->routed == newest->term || !keeper_in_effect(k, newest, false))
        return;
    k->routed = newest->term;
    if (k->route != NULL)
        k->route(k->shard.instances[newest->primary].name, newest->term, k->data);
}

/* An agent knows of a later order than ours: somebody else leads, and the record says so. Once for each term
 * of the record, as orders that were given by hand are in no record. */
static bool is_outdated(struct shard_keeper *k)
{
    uint64_t term = k->record.op.ha.term;
    for (unsigned i = 0; i < k->shard.count && k->stale_for != term; i++) {
        const struct err *stale = member_link_stale(k->members[i].link);
        if (stale == NULL)
            continue;
        log_event(LOG_WARN, "the record is read anew", "shard", k->name, "err", stale->message, NULL);
        k->stale_for = term;
        keeper_reload(k);
        return true;
    }
    return false;
}

/* Since when the primary is away, as well as it can be known: at the end of its connection that was now. */
static void note_lost(struct shard_keeper *k, const struct ha_config *newest,
                      const struct ha_verdict *verdict)
{
    const struct ha_instance *p = &k->shard.instances[newest->primary];
    uint64_t seen = p->heard_ns > p->reached_ns ? p->heard_ns : p->reached_ns;
    if (verdict->rule == HA_F_WELL || verdict->rule == HA_F_MAINTENANCE)
        k->lost_ns = 0;
    else if (k->lost_ns == 0)
        k->lost_ns = p->ended_ns != 0                     ? p->ended_ns
                     : p->closed || p->pod == HA_POD_GONE ? loop_now(k->loop)
                                                          : seen;
}

/* Commits wait, or go on again. */
static void note_waits(struct shard_keeper *k, const struct ha_verdict *verdict, uint64_t now)
{
    int before = k->waits.rule;
    k->waits = (struct ha_verdict){0};
    if (verdict->rule == HA_F_WELL)
        ha_waits(&k->shard, now, &k->waits);
    if (k->waits.rule != 0 && before == 0) {
        k->waits_ns = now;
        log_event(LOG_WARN, k->waits.sentence, "shard", k->name, "rule", log_num(k->waits.rule), NULL);
    } else if (k->waits.rule == 0 && before != 0 && verdict->rule == HA_F_WELL) {
        log_event(LOG_INFO, "commits have the standbys again that they wait for", "shard", k->name, NULL);
    }
}

void keeper_stand(struct shard_keeper *k)
{
    uint64_t now = loop_now(k->loop);
    const struct ha_config *newest = ha_newest(&k->record.op.ha);
    struct ha_verdict verdict;
    if (k->calling || is_outdated(k) || keeper_note_maintenance(k) || keeper_resize(k))
        return;
    for (int i = 0; i < (int)k->shard.count; i++)
        member_link_guard(k->members[i].link, i == newest->primary);
    keeper_order_primary(k, newest, false);
    keeper_prove(k);
    keeper_order_followers(k, newest);
    if (note_primary(k, newest))
        return;
    tell_route(k, newest);
    if (shard_record_primaryship(&k->record, newest->term) == NULL)
        return; /* a new shard: its data directory is being made, and nobody else has one */
    ha_judge(&k->shard, now, &verdict);
    note_lost(k, newest, &verdict);
    note_waits(k, &verdict, now);
    if (verdict.fail_over) {
        log_event(LOG_WARN, verdict.sentence, "shard", k->name, "rule", log_num(verdict.rule), NULL);
        fail_over(k, &verdict);
    } else if (verdict.rule == HA_F_WELL && keeper_hand_over(k))
        return;
    else if (verdict.rule == HA_F_WELL)
        sync_step(k, now);
    else
        say(k, verdict.rule, verdict.sentence);
    if (verdict.rule == HA_F_MAINTENANCE)
        return;
    if (verdict.rule != HA_F_WELL || is_silent(k, newest, now)) {
        keeper_look(k);
        loop_timer_start(&k->timer, verdict.rule != HA_F_WELL ? SUSPECT_NS : SILENT_NS);
    }
}

/* ---- turns ---- */

/* A keeper that did not turn (its process was stopped, its machine slept) has not read what it was told, so
 * that nobody's silence counts from before. */
static void note_pause(struct shard_keeper *k)
{
    uint64_t now = loop_now(k->loop);
    if (k->turned_ns != 0 && now >= k->turned_ns + PAUSE_NS) {
        log_event(LOG_WARN, "this manager stood still: silence of members counts from now on", "shard",
                  k->name, "ms", log_num((long long)((now - k->turned_ns) / ENV_NS_PER_MS)), NULL);
        k->shard.awake_ns = now;
    }
    k->turned_ns = now;
}

/* In a second, or as soon as the silence of the primary would be noted. */
static uint64_t next_turn(const struct shard_keeper *k)
{
    uint64_t turn = loop_now(k->loop) + TURN_NS;
    uint64_t heard = k->shard.instances[ha_newest(&k->record.op.ha)->primary].heard_ns;
    uint64_t silent = heard + k->shard.policy.silent_ns / 2;
    return k->rests && silent < turn ? silent : turn;
}

static void turn_run(struct loop_task *task, void *data)
{
    struct shard_keeper *k = data;
    (void)task;
    note_pause(k);
    if (sm_now(&k->sm) == KEEPER_CLOSED || !k->loaded)
        return;
    keeper_facts(k);
    bool waits = loop_timer_armed(&k->timer);
    k->rests = false;
    if (sm_now(&k->sm) == KEEPER_STANDING)
        keeper_stand(k);
    else if (sm_now(&k->sm) == KEEPER_FAILING)
        keeper_failover_turn(k);
    if (sm_now(&k->sm) == KEEPER_FAILING)
        loop_timer_start(&k->timer, SUSPECT_NS);
    else if (k->rests || (!waits && !loop_timer_armed(&k->timer)))
        loop_timer_start_at(&k->timer, next_turn(k));
}

void keeper_turn_soon(struct shard_keeper *k)
{
    loop_defer(k->loop, &k->turn);
}

static void timer_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    keeper_turn_soon(data);
}

static void link_changed(struct member_link *link, void *data)
{
    (void)link;
    keeper_turn_soon(data);
}

static void link_heard(struct member_link *link, void *data)
{
    struct shard_keeper *k = data;
    bool rest = k->rests && sm_now(&k->sm) == KEEPER_STANDING;
    for (unsigned i = 0; rest && i < k->shard.count; i++)
        if (k->members[i].link == link)
            member_link_facts(link, &k->shard.instances[i]);
    if (!rest)
        keeper_turn_soon(k);
}

/* ---- from outside ---- */

/* Who streams and has most; -1 = nobody does. */
static int best_standby(const struct shard_keeper *k)
{
    int best = -1;
    for (int i = 0; i < (int)k->shard.count; i++) {
        const struct ha_instance *x = &k->shard.instances[i];
        bool may = i != ha_newest(&k->record.op.ha)->primary && x->streams && !x->no_failover && !x->delayed;
        if (may && (best < 0 || x->flushed > k->shard.instances[best].flushed))
            best = i;
    }
    return best;
}

int shard_keeper_switch(struct shard_keeper *k, const char *to, const char *why, struct err *err)
{
    struct failover_record r;
    int target = to != NULL ? shard_record_find(&k->record, to) : best_standby(k);
    if (target < 0 || target == ha_newest(&k->record.op.ha)->primary)
        return err_set(err, ERRC_INVALID, "shard %s has no standby %s", k->name,
                       to != NULL ? to : "that streams");
    if (keeper_may_lead(k, target, err) != 0)
        return (int)err->code;
    if (sm_now(&k->sm) != KEEPER_STANDING || k->calling)
        return err_set(err, ERRC_CONFLICT, "shard %s is %s: again later", k->name, sm_name(&k->sm));
    failover_record_init(&r, &k->record.op.ha);
    r.kind = FAILOVER_KIND_SWITCHOVER;
    r.target = target;
    keeper_new_id(k, &r);
    if (why != NULL)
        (void)snprintf(r.reason, sizeof r.reason, "%s", why);
    else
        (void)snprintf(r.reason, sizeof r.reason, "a person asked for it: %s to be the primary of shard %s",
                       k->record.names[target], k->name);
    keeper_facts(k);
    keeper_failover_begin(k, &r, false);
    return 0;
}

void shard_keeper_settled(struct shard_keeper *k, uint64_t term, const struct err *err)
{
    if (k->settling != term || term == 0 || sm_now(&k->sm) == KEEPER_CLOSED)
        return;
    k->settling = 0;
    err_clear(&k->settle_err);
    if (err != NULL)
        err_copy(&k->settle_err, err);
    keeper_turn_soon(k);
}

/* True: something is otherwise than it was. */
static bool set_tags(struct shard_keeper *k, int i, const struct shard_keeper_tags *tags)
{
    struct ha_instance *x = &k->shard.instances[i];
    const struct ha_instance old = *x;
    const struct keeper_member was = k->members[i];
    bool leaves = tags->retiring || i >= (int)k->wanted;
    x->follows = tags->follows;
    x->no_failover = tags->no_failover || leaves || x->follows != 0;
    x->delayed = tags->delay_ns != 0;
    x->no_sync = tags->no_sync || leaves || x->delayed || x->follows != 0;
    x->priority = tags->priority;
    k->members[i].retiring = tags->retiring;
    k->members[i].delay_ms = tags->delay_ns / ENV_NS_PER_MS;
    return x->no_failover != old.no_failover || x->delayed != old.delayed || x->no_sync != old.no_sync ||
           x->priority != old.priority || x->follows != old.follows ||
           k->members[i].retiring != was.retiring || k->members[i].delay_ms != was.delay_ms;
}

int shard_keeper_tag(struct shard_keeper *k, const char *member, const struct shard_keeper_tags *tags,
                     struct err *err)
{
    int i = shard_record_find(&k->record, member);
    if (i < 0 || sm_now(&k->sm) == KEEPER_CLOSED)
        return err_set(err, ERRC_NOT_FOUND, "shard %s has no member %s", k->name, member);
    if (set_tags(k, i, tags))
        keeper_turn_soon(k);
    return 0;
}

void shard_keeper_pod(struct shard_keeper *k, const char *member, bool gone)
{
    int i = shard_record_find(&k->record, member);
    struct keeper_member *m = i >= 0 ? &k->members[i] : NULL;
    if (m == NULL || sm_now(&k->sm) == KEEPER_CLOSED || gone == (m->gone_ns != 0))
        return;
    const struct member_status *s = member_link_status(m->link);
    if (gone) {
        m->gone_ns = loop_now(k->loop);
        memcpy(m->gone_life, s != NULL ? s->life : "", s != NULL ? sizeof m->gone_life : 1);
        log_event(LOG_WARN, "the member's pod or node is gone", "shard", k->name, "instance", member, NULL);
    } else {
        m->gone_ns = 0;
        if (s == NULL || strcmp(s->life, m->gone_life) == 0)
            member_link_renew(m->link); /* nothing was heard of the one that runs now */
    }
    k->shard.instances[i].pod =
        gone ? HA_POD_GONE : HA_POD_UNKNOWN; /* who asks before the next turn knows it */
    keeper_turn_soon(k);
}

bool shard_keeper_retired(const struct shard_keeper *k, const char *member)
{
    int i = shard_record_find(&k->record, member);
    const struct member_status *s = i >= 0 ? keeper_status(k, i) : NULL;
    return s != NULL && s->retired && s->settled;
}

const struct shard_record *shard_keeper_record(const struct shard_keeper *k)
{
    return k->loaded ? &k->record : NULL;
}

const char *shard_keeper_waits(const struct shard_keeper *k, uint64_t *since_ns)
{
    *since_ns = k->waits_ns;
    return sm_now(&k->sm) == KEEPER_STANDING && k->waits.rule != 0 ? k->waits.sentence : NULL;
}

const char *shard_keeper_state(const struct shard_keeper *k)
{
    return sm_name(&k->sm);
}

static void add_member(struct shard_keeper *k, const struct shard_keeper_options *o, unsigned i)
{
    struct keeper_member *m = &k->members[i];
    const struct shard_keeper_member *from = &o->members[i];
    const struct member_link_options link = {.name = from->name,
                                             .host = from->agent_host != NULL ? from->agent_host : from->host,
                                             .http_port = from->http_port,
                                             .port = from->port,
                                             .token = from->token != NULL ? from->token : o->token,
                                             .tls = o->tls,
                                             .changed = link_changed,
                                             .heard = link_heard,
                                             .data = k};
    m->keeper = k;
    m->host = mem_strdup(from->host);
    m->port = from->port;
    (void)set_tags(k, (int)i, &from->tags);
    m->link = member_link_new(k->loop, &link);
    k->open++;
    (void)snprintf(k->shard.instances[i].name, HA_NAME_SIZE, "%s", from->name);
}

struct shard_keeper *shard_keeper_new(struct loop *loop, const struct shard_keeper_options *o)
{
    struct shard_keeper *k = mem_zalloc(sizeof *k);
    k->loop = loop;
    k->store = o->store;
    k->name = mem_strdup(o->name);
    k->key = mem_strdup(o->key);
    k->route = o->route;
    k->failing = o->failing;
    k->settle = o->settle;
    k->kill_at = o->kill_at;
    k->data = o->data;
    k->member_count = o->count;
    k->wanted = o->wanted != 0 && o->wanted < o->count ? o->wanted : o->count;
    k->shard.policy = *o->policy;
    memcpy(k->shard.name, k->name, strnlen(k->name, HA_NAME_SIZE - 1));
    sm_init(&k->sm, states, KEEPER_STATES, KEEPER_LOADING, NULL, NULL);
    keeper_record_begin(k, o);
    for (unsigned i = 0; i < o->count; i++)
        add_member(k, o, i);
    k->turn = (struct loop_task){.run = turn_run, .data = k};
    loop_timer_init(loop, &k->timer, timer_fired, k);
    loop_timer_init(loop, &k->wait, write_fired, k);
    keeper_load(k);
    return k;
}

static void finish(struct shard_keeper *k)
{
    void (*closed)(void *data) = k->closed;
    void *data = k->closed_data;
    if (k->open > 0 || k->calling || k->proving)
        return;
    for (unsigned i = 0; i < k->member_count; i++)
        free(k->members[i].host);
    free(k->name);
    free(k->key);
    free(k);
    if (closed != NULL)
        closed(data);
}

static void link_closed(void *data)
{
    struct shard_keeper *k = data;
    k->open--;
    finish(k);
}

/* Also what the last thing that ends calls. */
void shard_keeper_close(struct shard_keeper *k, void (*closed)(void *data), void *data)
{
    if (sm_now(&k->sm) == KEEPER_CLOSED) {
        finish(k);
        return;
    }
    sm_move(&k->sm, KEEPER_CLOSED);
    k->closed = closed;
    k->closed_data = data;
    loop_task_cancel(&k->turn);
    loop_timer_stop(&k->timer);
    loop_timer_stop(&k->wait);
    for (unsigned i = 0; i < k->member_count; i++)
        member_link_close(k->members[i].link, link_closed, k);
}
