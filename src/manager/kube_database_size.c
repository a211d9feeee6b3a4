/*
 * spec.instances was changed. More of them: the walk over the shards makes them, and the shard's keeper has
 * them join. Fewer: the keeper lets the last ones go, after a switchover if one of them is the primary; when
 * the record does not name them any more the runtime takes them away.
 */
#include <stdio.h>
#include <string.h>

#include "manager/kube_databases_impl.h"
#include "operation/transient.h"

#define LIST_NS (6 * ENV_NS_PER_S) /* until the fleet has seen what was done */

unsigned kdb_listed(const struct kdb *k, const char *shard)
{
    unsigned count = 0;
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        count += i->access.agent_host != NULL && strcmp(i->database, k->name) == 0 &&
                 (shard == NULL || strcmp(i->shard, shard) == 0);
    }
    return count;
}

static unsigned recorded(const struct kdb *k, const char *shard)
{
    return k->all->o.size_of != NULL ? k->all->o.size_of(k->all->o.data, k->name, shard) : 0;
}

/* Of this shard nobody is, or is listed as, more or less than wanted. */
static bool is_sized(const struct kdb *k, const struct fleet_database *db, const char *shard)
{
    unsigned have = kdb_listed(k, shard), wanted = fleet_instances_of(db);
    return (have == 0 && wanted == 1) || (have == wanted && recorded(k, shard) == wanted);
}

/* ---- fewer ---- */

static bool may_go(const struct kdb *k, const struct fleet_database *db, const char *shard)
{
    unsigned left = recorded(k, shard);
    return kdb_listed(k, shard) > fleet_instances_of(db) && left != 0 && left <= fleet_instances_of(db);
}

static void on_taken(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct kdb *k = data;
    (void)instance;
    operation_maybe_kill(k->all->o.operations, "resize:after:take");
    k->walks--;
    k->resizing = false;
    if (k->all->closing)
        return;
    if (err != NULL) {
        k->resize_at = 0;
        kdb_trouble(k, "ResizeFailed", err, !err_is_transient(err));
    } else
        kdb_trouble_ends(k);
    loop_defer(k->all->loop, &k->all->look);
}

/* Those that went, or what a crash left of them. */
static void take(struct kdb *k, const struct fleet_database *db, const char *shard)
{
    struct runtime_spec spec;
    struct err err = {0};
    int rc = databases_spec_of(k->all->o.databases, db, shard, 0, &spec, &err);
    spec.must_exist = true;
    spec.removes = true;
    operation_maybe_kill(k->all->o.operations, "resize:before:take");
    if (rc == 0)
        rc = runtime_ensure(k->all->o.operations->services.runtime, &spec, on_taken, k, &err);
    if (rc != 0) {
        kdb_trouble(k, "ResizeFailed", &err, !err_is_transient(&err));
        return;
    }
    k->walks++;
    k->resizing = true;
}

static void shrink(struct kdb *k, const struct fleet_database *db, const char *shard)
{
    char note[200];
    snprintf(note, sizeof note, "shard %s goes down to %u of %u instances", shard, fleet_instances_of(db),
             kdb_listed(k, shard));
    kdb_tell(k, false, "Resizing", "Resize", note);
    k->resize_ns = loop_now(k->all->loop) + LIST_NS;
    take(k, db, shard);
}

/* ---- all ---- */

/* One shard after the other; true = that is done. */
static bool taken_all(struct kdb *k, const struct fleet_database *db)
{
    while (k->resize_at < db->routing->shard_count &&
           kdb_listed(k, db->routing->shards[k->resize_at].name) == 0)
        k->resize_at++; /* its only instance was never one of several */
    if (k->resize_at >= db->routing->shard_count)
        return true;
    take(k, db, db->routing->shards[k->resize_at++].name);
    return false;
}

void kdb_resize(struct kdb *k, const struct fleet_database *db)
{
    bool all = true;
    if (k->resizing || k->sized == fleet_instances_of(db) || loop_now(k->all->loop) < k->resize_ns)
        return;
    for (size_t i = 0; i < db->routing->shard_count; i++) {
        const char *shard = db->routing->shards[i].name;
        if (may_go(k, db, shard)) {
            shrink(k, db, shard);
            return;
        }
        all = all && is_sized(k, db, shard) && (kdb_listed(k, shard) == 0 || kdb_is_whole(k, db, shard));
    }
    if (!all)
        k->resize_at = 0;
    else if (taken_all(k, db)) {
        k->sized = fleet_instances_of(db);
        k->resize_at = 0;
    }
}

bool kdb_resizes(struct kdb *k, const struct fleet_database *db)
{
    if (k->sized == 0 && k->quiet) /* an earlier manager saw it */
        k->sized = fleet_instances_of(db);
    return k->sized != fleet_instances_of(db);
}

bool kdb_size_waits(const struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    return kept->instances != fleet_instances_of(db) &&
           operations_running_on(k->all->o.operations, k->name, NULL) != NULL;
}
