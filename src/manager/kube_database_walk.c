/* Every shard of a database, one after the other: ensured after a change of its object, or scaled to zero. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/kube_databases_impl.h"
#include "operation/transient.h"

static void walk_on(struct kdb *k);

#define RENEW_GAP_US (2 * 1000000ll)

/* The next pass, never right after this one. */
static void note_due(struct kdb *k)
{
    int64_t soonest = loop_wall(k->all->loop) + RENEW_GAP_US;
    k->due_us = k->walk_due_us != 0 && k->walk_due_us < soonest ? soonest : k->walk_due_us;
}

static void walk_ends(struct kdb *k)
{
    if (!k->walk_failed) {
        note_due(k);
        k->older = k->walk_older;
        k->walked = k->walk_generation;
        k->walked_suspended = k->walk_stops;
        kdb_trouble_ends(k);
        if (!k->quiet)
            kdb_tell(k, false, k->walk_stops ? "Suspended" : "Updated", k->walk_stops ? "Suspend" : "Update",
                     k->walk_stops ? "every shard is scaled to zero"
                                   : "every shard is as the specification says");
    }
    k->quiet = false;
    k->progress[0] = '\0';
    sm_move(&k->sm, KDB_IDLE);
    loop_defer(k->all->loop, &k->all->look);
}

static void shard_done(struct kdb *k, const struct err *err)
{
    if (k->all->closing || (enum kdb_state)sm_now(&k->sm) != KDB_WALK)
        return; /* a deletion went past it */
    if (err == NULL) {
        walk_on(k);
        return;
    }
    struct err copy = *err;
    err_wrap(&copy, "shard %s", k->walk_shard);
    k->walk_failed = true;
    kdb_trouble(k, k->walk_stops ? "SuspendFailed" : "ShardFailed", &copy, !err_is_transient(err));
    if (k->walk_renews) /* the certificates of the others must not run out for it */
        walk_on(k);
    else
        walk_ends(k);
}

/* Of a walk that has shards get more instances. */
static void test_place(struct kdb *k, const char *place)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->name);
    if (db != NULL && kdb_resizes(k, db))
        operation_maybe_kill(k->all->o.operations, place);
}

static void on_ensured(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct kdb *k = data;
    test_place(k, "resize:after:walk");
    k->walks--;
    k->walk_older = k->walk_older || (err == NULL && instance->older);
    if (err == NULL && instance->due_us != 0 && (k->walk_due_us == 0 || instance->due_us < k->walk_due_us))
        k->walk_due_us = instance->due_us;
    shard_done(k, err);
}

static void on_stopped(const struct err *err, void *data)
{
    struct kdb *k = data;
    k->walks--;
    shard_done(k, err);
}

/* The shards are ordered by name; one that came or went meanwhile does not confuse the walk. */
static const char *shard_after(const struct routing *routing, const char *name)
{
    for (size_t i = 0; i < routing->shard_count; i++)
        if (strcmp(routing->shards[i].name, name) > 0)
            return routing->shards[i].name;
    return NULL;
}

/* Of several instances the primary is ensured: its server has role and password of the application. Who is
 * not known now gets them with the next pass. */
static void name_primary(const struct kdb *k, const char *shard, struct runtime_spec *spec)
{
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (spec->member && i->member.kept && i->member.primary && !i->member.unseen &&
            strcmp(i->database, k->name) == 0 && strcmp(i->shard, shard) == 0) {
            spec->name = i->name;
            spec->primary = true;
        }
    }
}

/* Who is not heard gets it with its files when it is back. */
static const char *next_password(const struct kdb *k, const char *shard)
{
    const char *mark = NULL;
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (strcmp(i->database, k->name) != 0 || strcmp(i->shard, shard) != 0 || !i->member.kept ||
            i->member.assigned[0] == '\0')
            continue;
        if (mark != NULL && strcmp(mark, i->member.next_password) != 0)
            return NULL;
        mark = i->member.next_password;
    }
    return mark;
}

static void walk_on(struct kdb *k)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->name);
    struct runtime *runtime = k->all->o.operations->services.runtime;
    struct runtime_spec spec;
    struct err err = {0};
    const char *shard = db != NULL && db->routing != NULL ? shard_after(db->routing, k->walk_shard) : NULL;
    if (shard == NULL || runtime == NULL) {
        walk_ends(k);
        return;
    }
    snprintf(k->walk_shard, sizeof k->walk_shard, "%s", shard);
    int rc = databases_spec_of(k->all->o.databases, db, shard, 0, &spec, &err);
    spec.must_exist = true;
    test_place(k, "resize:before:walk");
    if (rc == 0 && !k->walk_stops)
        name_primary(k, shard, &spec);
    spec.next_password = next_password(k, shard);
    if (rc == 0)
        rc = k->walk_stops ? runtime_stop(runtime, spec.name, on_stopped, k, &err)
                           : runtime_ensure(runtime, &spec, on_ensured, k, &err);
    if (rc == 0)
        k->walks++;
    else
        shard_done(k, &err);
}

static void walk(struct kdb *k, const struct kube_object_kept *kept, bool renews)
{
    if (k->walks > 0)
        return; /* one that was passed by has not ended */
    if (kept->suspended && operations_running_on(k->all->o.operations, k->name, NULL) != NULL)
        return; /* what moves rows ends first */
    k->walk_generation = kept->generation;
    k->walk_stops = kept->suspended;
    k->walk_failed = false;
    k->walk_renews = renews;
    k->quiet = k->quiet || renews;
    k->walk_due_us = 0;
    k->walk_older = false;
    k->walk_shard[0] = '\0';
    sm_move(&k->sm, KDB_WALK);
    walk_on(k);
}

void kdb_walk(struct kdb *k, const struct kube_object_kept *kept)
{
    walk(k, kept, false);
}

void kdb_renew(struct kdb *k, const struct kube_object_kept *kept)
{
    walk(k, kept, true);
}
