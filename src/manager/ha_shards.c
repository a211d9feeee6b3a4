/*
 * Happy path: a shard is driven, or found in a routing table; its members are in the fleet, so its keeper
 * begins; the keeper opens a primary, whose address goes into the routing table; whoever waits is told.
 */
#include "manager/ha_shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ha/member_status.h"
#include "loop/tls.h"
#include "manager/config.h"
#include "manager/ha_shards_impl.h"
#include "operation/provision.h"

#define TURN_NS  (50 * ENV_NS_PER_MS)
#define DRIVE_NS (120 * ENV_NS_PER_S) /* somebody who waits for a primary hears why there is none */

struct waiter {
    struct list node;
    operation_driven_cb done;
    void *data;
    uint64_t deadline_ns;
};

/* A release: waits for keepers to close, then for the store. */
struct release {
    struct list node;
    struct ha_shards *all;
    char *database, *shard; /* shard NULL = all of the database */
    unsigned deleting;      /* calls of the store */
    bool listed;
    struct err err;
    void (*done)(const struct err *err, void *data);
    void *data;
};

static bool same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* ---- life of a shard ---- */

static void closed_maybe(struct ha_shards *h)
{
    if (h->closing && h->open == 0)
        loop_defer(h->o.loop, &h->gone);
}

void ha_shards_settle(struct ha_shards *h)
{
    h->open--;
    closed_maybe(h);
}

static void answer(struct waiter *w, const struct err *err, const char *primary)
{
    list_remove(&w->node);
    w->done(err, primary, w->data);
    free(w);
}

static void kept_free(struct kept_shard *k)
{
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "shard %s is not kept any more", k->shard);
    list_each(node, &k->waiters)
    {
        answer(list_item(node, struct waiter, node), &err, NULL);
    }
    ha_shards_unsettle(k);
    list_remove(&k->node);
    mem_wipe_free(k->members);
    free(k->database);
    free(k->shard);
    free(k->primary);
    free(k->authority);
    free(k);
}

static void releases_go_on(struct ha_shards *h);

static void keeper_closed(void *data)
{
    struct kept_shard *k = data;
    struct ha_shards *h = k->all;
    kept_free(k);
    releases_go_on(h);
    ha_shards_settle(h);
}

static void kept_close(struct kept_shard *k)
{
    if (k->closing)
        return;
    k->closing = true;
    ha_shards_unsettle(k);
    if (k->again)
        return; /* its keeper is being closed already */
    if (k->keeper == NULL) {
        kept_free(k);
        return;
    }
    k->all->open++;
    shard_keeper_close(k->keeper, keeper_closed, k);
    k->keeper = NULL;
}

static void keeper_closed_again(void *data)
{
    struct kept_shard *k = data;
    k->again = false;
    if (k->closing)
        keeper_closed(k);
    else
        ha_shards_settle(k->all);
}

/* A member is somewhere else, or another one of that name: the next look begins to keep it anew. */
static void kept_renew(struct kept_shard *k)
{
    log_event(LOG_INFO, "members of the shard have changed", "db", k->database, "shard", k->shard, NULL);
    k->again = true;
    ha_shards_unsettle(k);
    k->all->open++;
    shard_keeper_close(k->keeper, keeper_closed_again, k);
    k->keeper = NULL;
}

struct kept_shard *ha_shards_find(const struct ha_shards *h, const char *database, const char *shard)
{
    list_each(node, &h->shards)
    {
        struct kept_shard *k = list_item(node, struct kept_shard, node);
        if (same(k->database, database) && same(k->shard, shard))
            return k;
    }
    return NULL;
}

bool ha_shards_keeps(const struct ha_shards *h, const char *database, const char *shard)
{
    return ha_shards_find(h, database, shard) != NULL;
}

static struct kept_shard *kept_get(struct ha_shards *h, const char *database, const char *shard)
{
    struct kept_shard *k = ha_shards_find(h, database, shard);
    if (k != NULL)
        return k;
    k = mem_zalloc(sizeof *k);
    k->all = h;
    k->database = mem_strdup(database);
    k->shard = mem_strdup(shard);
    list_init(&k->waiters);
    list_append(&h->shards, &k->node);
    return k;
}

/* ---- its keeper ---- */

static void on_route(const char *primary, uint64_t term, void *data)
{
    struct kept_shard *k = data;
    struct ha_shards *h = k->all;
    free(k->primary);
    k->primary = mem_strdup(primary);
    k->term = term;
    log_event(LOG_INFO, "the shard has a primary", "db", k->database, "shard", k->shard, "instance", primary,
              "term", log_num((long long)term), NULL);
    ha_shards_note(k);
    ha_shards_turn_soon(h);
}

/* It serves already. If it has no record it was made with one instance, and has to become a shard of several
 * with what it holds. */
static bool serves(const struct kept_shard *k, const struct fleet_database *db)
{
    return db->routing != NULL && routing_find_shard(db->routing, k->shard) != NULL &&
           !ha_shards_provisions(k->all, db->name);
}

/* Of a new shard nothing is begun until all members are known. */
static void keep(struct kept_shard *k)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->database);
    struct shard_keeper_member members[HA_INSTANCES_MAX];
    char key[STORE_KEY_MAX];
    char name[2 * DATABASE_NAME_MAX + 2];
    struct ha_policy policy;
    struct err err = {0};
    if (k->keeper != NULL || k->closing || k->again || db == NULL)
        return;
    unsigned count = ha_members_of(k, members);
    bool adopts = serves(k, db);
    unsigned wanted = count < fleet_instances_of(db) ? count : fleet_instances_of(db);
    if (count < (adopts ? 1 : fleet_instances_of(db)) || !ha_tls_known(k))
        return;
    struct tls_context *tls = ha_tls_context(k, &err);
    if (tls == NULL && err.code != ERRC_NONE) {
        log_event(LOG_ERROR, "the shard cannot be kept", "db", k->database, "shard", k->shard, "err",
                  err.message, NULL);
        return;
    }
    mem_wipe_free(k->members);
    k->members = ha_members_text(k, members, count, fleet_instances_of(db));
    ha_policy_defaults(&policy, wanted);
    snprintf(key, sizeof key, "ha/%s/%s", k->database, k->shard);
    snprintf(name, sizeof name, "%s/%s", k->database, k->shard);
    const struct shard_keeper_options options = {.name = name,
                                                 .key = key,
                                                 .store = k->all->o.store,
                                                 .members = members,
                                                 .count = count,
                                                 .wanted = wanted,
                                                 .adopts = adopts,
                                                 .tls = tls,
                                                 .policy = &policy,
                                                 .route = on_route,
                                                 .failing = ha_shards_failing,
                                                 .settle = ha_shards_promoted,
                                                 .kill_at = k->all->o.operations->services.kill_at,
                                                 .data = k};
    k->keeper = shard_keeper_new(k->all->o.loop, &options);
    tls_context_unref(tls);
    (void)ha_shards_count(k->all, k->database, FAILOVER_KIND_FAILOVER); /* from 0 on */
    (void)ha_shards_count(k->all, k->database, FAILOVER_KIND_SWITCHOVER);
    log_event(LOG_INFO, "the shard is kept", "db", k->database, "shard", k->shard, "instances",
              log_num(count), NULL);
}

/* ---- who waits for a primary ---- */

/* What is known of why there is none. */
static void why_none(const struct kept_shard *k, struct err *err)
{
    struct shard_keeper_member members[HA_INSTANCES_MAX];
    struct shard_keeper_view view;
    unsigned count = ha_members_of(k, members);
    err_set(err, ERRC_TIMEOUT, "shard %s has no primary that accepts writes after %u s", k->shard,
            (unsigned)(DRIVE_NS / ENV_NS_PER_S));
    if (k->keeper == NULL)
        err_set(err, ERRC_TIMEOUT, "shard %s has %u instances, and all of them were not found in time",
                k->shard, count);
    for (unsigned i = 0; k->keeper != NULL && i < count; i++)
        if (shard_keeper_view(k->keeper, members[i].name, &view) && view.status != NULL &&
            view.status->error[0] != '\0') {
            err_set(err, ERRC_TIMEOUT, "shard %s has no primary that accepts writes: %s: %s", k->shard,
                    members[i].name, view.status->error);
            return;
        }
}

static bool tell(struct kept_shard *k, uint64_t now)
{
    bool there = k->keeper != NULL && k->primary != NULL && shard_keeper_writable(k->keeper);
    list_each(node, &k->waiters)
    {
        struct waiter *w = list_item(node, struct waiter, node);
        struct err err = {0};
        if (there)
            answer(w, NULL, k->primary);
        else if (now >= w->deadline_ns) {
            why_none(k, &err);
            answer(w, &err, NULL);
        }
    }
    return !list_empty(&k->waiters);
}

static void turn(struct loop_timer *timer, void *data)
{
    struct ha_shards *h = data;
    bool more = false;
    if (h->closing)
        return;
    list_each(node, &h->shards)
    {
        struct kept_shard *k = list_item(node, struct kept_shard, node);
        if (!list_empty(&k->waiters))
            keep(k);
        more = tell(k, loop_now(h->o.loop)) || more;
    }
    more = ha_shards_follow(h) || more;
    if (more)
        loop_timer_start(timer, TURN_NS);
}

void ha_shards_turn_soon(struct ha_shards *h)
{
    if (!h->closing)
        loop_timer_start(&h->turn, 0);
}

int ha_shards_drive(void *data, const char *database, const char *shard, operation_driven_cb done,
                    void *done_data, struct err *err)
{
    struct ha_shards *h = data;
    if (h->closing)
        return err_set(err, ERRC_CANCELED, "the manager stops, or leads no more");
    struct kept_shard *k = kept_get(h, database, shard);
    if (k->closing)
        return err_set(err, ERRC_CONFLICT, "shard %s is being taken away", shard);
    struct waiter *w = mem_alloc(sizeof *w);
    *w = (struct waiter){.done = done, .data = done_data, .deadline_ns = loop_now(h->o.loop) + DRIVE_NS};
    list_append(&k->waiters, &w->node);
    ha_shards_turn_soon(h);
    return 0;
}

/* ---- releasing ---- */

static bool concerns(const struct release *r, const char *database, const char *shard)
{
    return same(r->database, database) && (r->shard == NULL || same(r->shard, shard));
}

static void release_end(struct release *r)
{
    list_remove(&r->node);
    r->done(r->err.code != ERRC_NONE ? &r->err : NULL, r->data);
    free(r->database);
    free(r->shard);
    free(r);
}

static void call_ended(struct release *r, const struct err *err)
{
    struct ha_shards *h = r->all;
    if (err != NULL)
        err_copy(&r->err, err);
    if (--r->deleting == 0)
        release_end(r);
    ha_shards_settle(h);
}

static void on_deleted(const struct err *err, int64_t revision, void *data)
{
    (void)revision;
    call_ended(data, err);
}

static void on_records(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct release *r = data;
    for (int i = 0; err == NULL && i < count; i++) {
        const char *shard = strrchr(entries[i].key, '/') + 1; /* the prefix ends in one */
        if (r->shard != NULL && !same(shard, r->shard))
            continue;
        r->deleting++;
        r->all->open++;
        if (store_compare_and_swap(r->all->o.store, entries[i].key, entries[i].revision, NULL, on_deleted, r,
                                   &r->err) != 0) {
            r->deleting--;
            r->all->open--;
        }
    }
    call_ended(r, err);
}

static void delete_records(struct release *r)
{
    char prefix[STORE_KEY_MAX];
    r->listed = true;
    r->deleting = 1;
    r->all->open++;
    snprintf(prefix, sizeof prefix, "ha/%s/", r->database);
    if (store_list(r->all->o.store, prefix, on_records, r, &r->err) == 0)
        return;
    r->all->open--;
    release_end(r);
}

static bool waits_for_keepers(const struct release *r)
{
    list_each(node, &r->all->shards)
    {
        const struct kept_shard *k = list_item(node, struct kept_shard, node);
        if (concerns(r, k->database, k->shard))
            return true;
    }
    return false;
}

static void releases_go_on(struct ha_shards *h)
{
    list_each(node, &h->releases)
    {
        struct release *r = list_item(node, struct release, node);
        if (r->listed || waits_for_keepers(r))
            continue;
        if (h->closing) {
            err_set(&r->err, ERRC_CANCELED, "the manager stops, or leads no more");
            release_end(r);
        } else
            delete_records(r);
    }
}

/* Callbacks do not come from inside a call. */
static void release_later(struct loop_timer *timer, void *data)
{
    (void)timer;
    releases_go_on(data);
}

int ha_shards_release(void *data, const char *database, const char *shard,
                      void (*done)(const struct err *err, void *data), void *done_data, struct err *err)
{
    struct ha_shards *h = data;
    if (h->closing)
        return err_set(err, ERRC_CANCELED, "the manager stops, or leads no more");
    struct release *r = mem_zalloc(sizeof *r);
    *r = (struct release){.all = h,
                          .database = mem_strdup(database),
                          .shard = mem_strdup(shard),
                          .done = done,
                          .data = done_data};
    list_append(&h->releases, &r->node);
    list_each(node, &h->shards)
    {
        struct kept_shard *k = list_item(node, struct kept_shard, node);
        if (concerns(r, k->database, k->shard))
            kept_close(k);
    }
    loop_timer_start(&h->release, 0);
    return 0;
}

/* ---- looking ---- */

bool ha_shards_provisions(const struct ha_shards *h, const char *database)
{
    list_each(node, &h->o.operations->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && provision_is(op) && same(op->database, database))
            return true;
    }
    return false;
}

/* The primary is to go: another one first. A move on the shard is waited for. */
static void hand_over(struct kept_shard *k)
{
    struct err err = {0};
    if (k->keeper != NULL && shard_keeper_hands_over(k->keeper) &&
        ha_shards_switch(k->all, k->database, k->shard, NULL,
                         "its primary is to be removed, as fewer instances are wanted", &err) == 0)
        log_event(LOG_INFO, "the primary is to be removed, and hands over", "db", k->database, "shard",
                  k->shard, NULL);
}

static void look_at_shard(struct kept_shard *k, const struct fleet_database *db)
{
    struct shard_keeper_member members[HA_INSTANCES_MAX];
    unsigned count = ha_members_of(k, members);
    if (k->closing)
        return;
    if (count < fleet_instances_of(db))
        ha_members_make(k, db);
    if (count == 0)
        return;
    (void)ha_tls_known(k); /* it may have been renewed */
    char *text = k->keeper != NULL ? ha_members_text(k, members, count, fleet_instances_of(db)) : NULL;
    if (text != NULL && strcmp(text, k->members) != 0)
        kept_renew(k);
    mem_wipe_free(text);
    keep(k);
    hand_over(k);
}

/* It has several instances, or had: then its only one is a member. Somebody else's server is none. */
static bool has_members(const struct ha_shards *h, const struct fleet_database *db, const char *shard)
{
    struct fleet_instance *instances[HA_INSTANCES_MAX];
    return ha_members_instances(h, db->name, shard, instances) > 0 ||
           ha_shards_find(h, db->name, shard) != NULL ||
           (db->instances > 1 && !fleet_is_lent(h->o.fleet, db->name, shard));
}

static void look_at(struct ha_shards *h, const struct fleet_database *db)
{
    if (db->routing == NULL || ha_shards_provisions(h, db->name))
        return;
    for (size_t i = 0; i < db->routing->shard_count; i++) {
        const char *shard = db->routing->shards[i].name;
        if (has_members(h, db, shard))
            look_at_shard(kept_get(h, db->name, shard), db);
    }
}

void ha_shards_look(struct ha_shards *h)
{
    if (h->closing || h->o.operations->services.term == 0)
        return;
    ha_members_index(h);
    list_each(node, &h->o.fleet->databases)
    {
        look_at(h, list_item(node, struct fleet_database, node));
    }
    list_each(again, &h->shards)
    {
        ha_members_tag(list_item(again, struct kept_shard, node));
        ha_shards_note(list_item(again, struct kept_shard, node));
    }
    ha_members_unindex(h);
    ha_shards_tell(h);
    ha_shards_turn_soon(h);
}

/* ---- from outside ---- */

/* NULL: err says that nobody keeps it. */
static struct shard_keeper *keeper_of(const struct ha_shards *h, const char *database, const char *shard,
                                      struct err *err)
{
    const struct kept_shard *k = ha_shards_find(h, database, shard);
    if (k == NULL || k->keeper == NULL)
        (void)err_set(err, ERRC_UNSUPPORTED, "shard %s of database %s has no standbys that are kept here",
                      shard, database);
    return k != NULL ? k->keeper : NULL;
}

int ha_shards_maintain(struct ha_shards *h, const char *database, const char *shard, bool on, struct err *err)
{
    struct shard_keeper *keeper = keeper_of(h, database, shard, err);
    if (keeper == NULL)
        return (int)err->code;
    shard_keeper_maintenance(keeper, on);
    return 0;
}

int ha_shards_fail_over(struct ha_shards *h, const char *database, const char *shard, const char *to,
                        bool allow_loss, struct err *err)
{
    struct shard_keeper *keeper = keeper_of(h, database, shard, err);
    return keeper != NULL ? shard_keeper_fail_over(keeper, to, allow_loss, err) : (int)err->code;
}

/* What a failover would send back; it has to be, this has not. */
static int not_busy(const struct ha_shards *h, const char *database, const char *shard, struct err *err)
{
    const struct operation *busy = operations_running_on(h->o.operations, database, shard);
    if (busy == NULL)
        return 0;
    return err_set(err, ERRC_CONFLICT,
                   "operation %s runs on shard %s, and would have to go back: wait for it or cancel it",
                   busy->id, shard);
}

static bool is_standby_of(const struct fleet_instance *i, const struct fleet_instance *member)
{
    return i != member && !i->member.primary && same(i->database, member->database) &&
           same(i->shard, member->shard);
}

int ha_shards_may_restart(const struct ha_shards *h, const struct fleet_instance *member, struct err *err)
{
    const struct shard_keeper *keeper = keeper_of(h, member->database, member->shard, err);
    if (keeper == NULL || not_busy(h, member->database, member->shard, err) != 0)
        return (int)err->code;
    if (!same(shard_keeper_state(keeper), "standing") || shard_keeper_record(keeper)->maintenance)
        return err_set(err, ERRC_CONFLICT, "shard %s is %s: again later", member->shard,
                       same(shard_keeper_state(keeper), "standing") ? "in maintenance"
                                                                    : shard_keeper_state(keeper));
    list_each(node, &h->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        bool away = !i->member.streams || !same(i->member.reported, "standby");
        if (is_standby_of(i, member) && away)
            return err_set(err, ERRC_CONFLICT, "standby %s of shard %s does not stream: one after the other",
                           i->name, i->shard);
    }
    if (member->member.primary)
        return err_set(err, ERRC_CONFLICT, "%s is the primary of shard %s: switch over first", member->name,
                       member->shard);
    return 0;
}

int ha_shards_switch(struct ha_shards *h, const char *database, const char *shard, const char *to,
                     const char *why, struct err *err)
{
    struct shard_keeper *keeper = keeper_of(h, database, shard, err);
    if (keeper == NULL || not_busy(h, database, shard, err) != 0)
        return (int)err->code;
    return shard_keeper_switch(keeper, to, why, err);
}

bool ha_shards_get(const struct ha_shards *h, const char *database, const char *shard, struct api_kept *ret)
{
    const struct kept_shard *k = ha_shards_find(h, database, shard);
    if (k == NULL || k->keeper == NULL)
        return false;
    const struct shard_record *r = shard_keeper_record(k->keeper);
    *ret = (struct api_kept){.state = shard_keeper_state(k->keeper)};
    if (r == NULL)
        return true;
    ret->durability = ha_durability_name(r->op.ha.durability);
    ret->term = r->op.ha.term;
    ret->maintenance = r->maintenance;
    ret->waits = shard_keeper_waits(k->keeper, &(uint64_t){0});
    if (r->op.id[0] == '\0')
        return true;
    ret->id = r->op.id;
    ret->kind = failover_kind_name(r->op.kind);
    ret->step = failover_state_name(r->op.state);
    ret->reason = r->op.reason;
    return true;
}

unsigned ha_shards_size(const struct ha_shards *h, const char *database, const char *shard)
{
    const struct kept_shard *k = ha_shards_find(h, database, shard);
    return k != NULL && k->keeper != NULL ? shard_keeper_size(k->keeper) : 0;
}

bool ha_shards_fails_over(const struct ha_shards *h, const char *database, const char *shard)
{
    const struct kept_shard *k = ha_shards_find(h, database, shard);
    return k != NULL && k->keeper != NULL && same(shard_keeper_state(k->keeper), "failing");
}

/* At once, and not only with the next look: a failover may begin. */
static void moved(const char *name, void *data)
{
    const struct ha_shards *h = data;
    const struct fleet_instance *instance = fleet_find_instance(h->o.fleet, name);
    const struct kept_shard *k = instance != NULL && instance->database != NULL && instance->shard != NULL
                                     ? ha_shards_find(h, instance->database, instance->shard)
                                     : NULL;
    if (k != NULL && ha_shards_owner(k, instance))
        ha_shards_place(k, name);
    if (k != NULL && h->o.moved != NULL)
        h->o.moved(h->o.data);
}

static void gone(struct loop_task *task, void *data)
{
    struct ha_shards *h = data;
    void (*closed)(void *) = h->closed;
    void *closed_data = h->closed_data;
    (void)task;
    ha_shards_forget_counts(h);
    free(h);
    if (closed != NULL)
        closed(closed_data);
}

struct ha_shards *ha_shards_new(const struct ha_shards_options *options)
{
    struct ha_shards *h = mem_zalloc(sizeof *h);
    h->o = *options;
    h->settle = (struct ha_settle_options){h->o.loop, h->o.fleet, h->o.operations};
    list_init(&h->shards);
    list_init(&h->releases);
    list_init(&h->counts);
    h->gone = (struct loop_task){.run = gone, .data = h};
    loop_timer_init(h->o.loop, &h->turn, turn, h);
    loop_timer_init(h->o.loop, &h->release, release_later, h);
    if (h->o.operations->services.runtime != NULL)
        runtime_on_move(h->o.operations->services.runtime, moved, h);
    return h;
}

void ha_shards_close(struct ha_shards *h, void (*closed)(void *data), void *data)
{
    h->closing = true;
    h->closed = closed;
    h->closed_data = data;
    if (h->o.operations->services.runtime != NULL)
        runtime_on_move(h->o.operations->services.runtime, NULL, NULL);
    loop_timer_stop(&h->turn);
    loop_timer_stop(&h->release);
    list_each(node, &h->shards)
    {
        kept_close(list_item(node, struct kept_shard, node));
    }
    releases_go_on(h);
    list_each(other, &h->o.fleet->instances)
    {
        struct fleet_instance *instance = list_item(other, struct fleet_instance, node);
        instance->member = (struct instance_member){0}; /* from now on it may be otherwise */
    }
    closed_maybe(h);
}
