/*
 * What a change of the specification needs of pods that run, where shards have several instances: they are
 * replaced one after the other, each when its shard is whole, standbys before their primary, which hands over
 * first (a switchover).
 *
 * A pass asks the runtime for each instance; whatever is not as it is to be ends it, and the next look begins
 * anew. A pass that finds nothing is the end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "manager/kube_databases_impl.h"

#define LOOK_NS (2 * ENV_NS_PER_S) /* at a pod that is made anew */

static bool is_of(const struct fleet_instance *i, const struct kdb *k)
{
    return i->member.kept && strcmp(i->database, k->name) == 0;
}

/* One primary, and everybody else streams from it and is counted on: no commit waits for who is restarted
 * next. */
bool kdb_is_whole(const struct kdb *k, const struct fleet_database *db, const char *shard)
{
    unsigned primaries = 0, streams = 0;
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (!is_of(i, k) || strcmp(i->shard, shard) != 0)
            continue;
        primaries += i->member.primary && strcmp(i->member.reported, "primary") == 0;
        streams += !i->member.primary && i->member.streams && i->member.sync;
    }
    return primaries == 1 && streams + 1 == fleet_instances_of(db);
}

/* In the order in which they are looked at: by shard, standbys before the primary, by name. */
static int compare(const struct fleet_instance *a, const struct fleet_instance *b)
{
    int order = strcmp(a->shard, b->shard);
    if (order == 0)
        order = (int)a->member.primary - (int)b->member.primary;
    return order != 0 ? order : strcmp(a->name, b->name);
}

/* The one that comes after `rolled_to` of this pass; NULL = that was the last. */
static const struct fleet_instance *next_of(const struct kdb *k)
{
    const struct fleet_instance *last =
        k->roll_at != NULL ? fleet_find_instance(k->all->o.fleet, k->roll_at) : NULL;
    const struct fleet_instance *best = NULL;
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (is_of(i, k) && (last == NULL || compare(i, last) > 0) && (best == NULL || compare(i, best) < 0))
            best = i;
    }
    return best;
}

/* Changes whenever a shard gets another primary, or an instance is not kept any more. */
static uint64_t state_of(const struct kdb *k, unsigned *count)
{
    uint64_t sum = 0;
    *count = 0;
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (!is_of(i, k))
            continue;
        (*count)++;
        sum += i->member.primary ? i->member.term : 0;
    }
    return sum;
}

static void pass_begin(struct kdb *k)
{
    unsigned count;
    free(k->roll_at);
    k->roll_at = NULL;
    k->roll_state = state_of(k, &count);
}

/* All were looked at, and in one order. */
static bool pass_counts(const struct kdb *k, const struct fleet_database *db)
{
    unsigned count;
    return state_of(k, &count) == k->roll_state && count == kdb_listed(k, NULL) &&
           (db->instances < 2 || count == db->routing->shard_count * db->instances);
}

/* It restarts after another one became the primary, if there is another. */
static bool hands_over(const struct kdb *k, const struct fleet_instance *i)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->name);
    return i->member.primary && !i->member.unseen && db != NULL && db->instances > 1;
}

static void hand_over(struct kdb *k, const struct fleet_instance *i)
{
    struct err err = {0};
    char note[200];
    if (k->all->o.switch_over(k->all->o.data, i->database, i->shard, NULL,
                              "its primary restarts for the new specification", &err) != 0)
        return; /* a move runs, or it fails over just now: the next pass asks again */
    snprintf(note, sizeof note, "instance %s restarts for the new specification, and hands over first",
             i->name);
    kdb_tell(k, false, "Switchover", "Update", note);
}

static void found(struct kdb *k, const struct fleet_instance *i, enum runtime_renewal what)
{
    char note[200];
    if (i->member.unseen && what != RUNTIME_OUTDATED)
        return;
    if (what == RUNTIME_CURRENT) {
        free(k->roll_at);
        k->roll_at = mem_strdup(i->name);
        return;
    }
    pass_begin(k);
    if (what != RUNTIME_OUTDATED)
        return;
    if (hands_over(k, i)) {
        hand_over(k, i);
        return;
    }
    snprintf(note, sizeof note, "instance %s restarts for the new specification", i->name);
    kdb_tell(k, false, "Restarted", "Update", note);
}

static void on_renewed(const struct err *err, enum runtime_renewal what, void *data)
{
    struct kdb *k = data;
    k->walks--;
    k->rolling = false;
    const struct fleet_instance *i = fleet_find_instance(k->all->o.fleet, k->roll_asked);
    if (k->all->closing)
        return;
    if (err != NULL || i == NULL)
        pass_begin(k);
    else
        found(k, i, what);
    if (err == NULL && what == RUNTIME_CURRENT)
        loop_defer(k->all->loop, &k->all->look);
}

/* A primary is only looked at: what became one since is no standby to be restarted. */
static void ask(struct kdb *k, const struct fleet_instance *i)
{
    snprintf(k->roll_asked, sizeof k->roll_asked, "%s", i->name);
    if (runtime_renew(k->all->o.operations->services.runtime, i->name, hands_over(k, i), on_renewed, k,
                      NULL) != 0)
        return;
    k->rolling = true;
    k->walks++;
}

/* The only instance of a shard that gets several: its agent takes no orders before its pod is made anew. */
static const struct fleet_instance *unseen_of(const struct kdb *k)
{
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (is_of(i, k) && i->member.unseen && i->member.reported[0] == '\0')
            return i;
    }
    return NULL;
}

void kdb_roll(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    if (kdb_listed(k, NULL) == 0 || !kept->rolls || k->rolled == kept->generation || k->rolling ||
        k->all->o.switch_over == NULL)
        return;
    if (k->rolls_for != kept->generation)
        pass_begin(k);
    k->rolls_for = kept->generation;
    const struct fleet_instance *alone = unseen_of(k);
    const struct fleet_instance *i = next_of(k);
    if (alone != NULL && loop_now(k->all->loop) >= k->resize_ns) {
        k->resize_ns = loop_now(k->all->loop) + LOOK_NS;
        ask(k, alone);
    }
    if (alone != NULL)
        return;
    if (i == NULL && k->roll_at != NULL) {
        if (pass_counts(k, db))
            k->rolled = kept->generation;
        pass_begin(k);
    } else if (i != NULL && kdb_is_whole(k, db, i->shard))
        ask(k, i);
}
