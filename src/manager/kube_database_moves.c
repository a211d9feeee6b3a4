/*
 * Moves that a ShardedDatabase asks for: splits while it wants more shards, upgrades to a newer PostgreSQL,
 * or from somebody else's server to one of our own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/mem.h"
#include "manager/kube_databases_impl.h"
#include "manager/kube_status.h"
#include "operation/move_op.h"
#include "operation/transient.h"

static bool is_busy(const struct kdb *k, const struct routing_shard *s)
{
    return operations_running_on(k->all->o.operations, k->name, s->name) != NULL;
}

/* Whether the move that was begun before still has to be waited for. */
static bool move_runs(struct kdb *k, const char *failed)
{
    const struct operation *op = k->move != NULL ? operations_find(k->all->o.operations, k->move) : NULL;
    if (op == NULL)
        return false;
    if (op->status == OPERATION_RUNNING)
        return move_op_record(op)->state < MOVE_SETTLE || move_op_record(op)->state >= MOVE_UNDO;
    free(k->move);
    k->move = NULL;
    if (op->status == OPERATION_DONE)
        return false;
    kdb_trouble(k, failed, &op->error, false);
    return true;
}

static bool start(struct kdb *k, const struct fleet_database *db, const char *kind, const char *shard,
                  const char *why, const char *failed)
{
    struct operation *op;
    struct err err = {0};
    char text[160];
    snprintf(text, sizeof text, "{\"kind\":\"%s\",\"shard\":\"%s\"}", kind, shard);
    if (api_move_start(k->all->o.operations, db, text, why, &op, &err) != 0) {
        kdb_trouble(k, failed, &err, !err_is_transient(&err));
        return false;
    }
    free(k->move);
    k->move = mem_strdup(op->id);
    kdb_trouble_ends(k);
    return true;
}

/* ---- more shards ---- */

/* The widest that nothing is done to. */
static const struct routing_shard *to_split(const struct kdb *k, const struct routing *routing)
{
    const struct routing_shard *best = NULL;
    uint64_t width = 0;
    for (size_t i = 0; i < routing->shard_count; i++) {
        const struct routing_shard *s = &routing->shards[i];
        for (size_t r = 0; r < s->ranges.count; r++) {
            uint64_t wide = range_width_minus_one(&s->ranges.items[r]);
            if (wide > width && !is_busy(k, s)) {
                best = s;
                width = wide;
            }
        }
    }
    return best;
}

void kdb_scale(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    static const char failed[] = "ScalingFailed";
    int have = kube_shards_of(db);
    char text[160];
    if (kept->shards == 0)
        return;
    if (k->requested == 0 || kept->shards < k->requested || have >= kept->shards)
        k->requested = kept->shards; /* reached, or nothing was ever asked beyond the beginning */
    if (kept->shards <= k->requested || move_runs(k, failed))
        return;
    const struct routing_shard *s = to_split(k, db->routing); /* NULL = all are busy */
    if (s == NULL || !start(k, db, "split", s->name, "spec.shards asks for more shards", failed))
        return;
    snprintf(text, sizeof text, "shard %s is split: %d of %d shards are there", s->name, have, kept->shards);
    kdb_tell(k, false, "ScalingUp", "Split", text);
}

/* ---- a newer PostgreSQL ---- */

/* Shards one after the other, as everything else that moves all of a shard's rows. */
bool kdb_upgrade(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    static const char failed[] = "UpgradeFailed";
    const struct routing_shard *s = kube_older_shard(k->all->o.fleet, db, kept->major, NULL);
    char text[160];
    if (!k->older || s == NULL || !kept->rolls)
        return false;
    if (is_busy(k, s) || move_runs(k, failed) ||
        !start(k, db, "upgrade", s->name, "spec.postgresql.version asks for a newer PostgreSQL", failed))
        return true;
    snprintf(text, sizeof text, "shard %s moves to a server of PostgreSQL %d", s->name, kept->major);
    kdb_tell(k, false, "Upgrading", "Upgrade", text);
    return true;
}

/* ---- several instances instead of somebody else's one ---- */

static const struct routing_shard *first_lent(const struct kdb *k, const struct fleet_database *db)
{
    for (size_t i = 0; i < db->routing->shard_count; i++) {
        const struct routing_shard *s = &db->routing->shards[i];
        if (s->ranges.count > 0 && fleet_is_lent(k->all->o.fleet, k->name, s->name))
            return s;
    }
    return NULL;
}

bool kdb_replace(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    static const char failed[] = "ReplacingFailed";
    const struct routing_shard *s = fleet_instances_of(db) > 1 ? first_lent(k, db) : NULL;
    char text[200];
    if (s == NULL)
        return false;
    snprintf(k->progress, sizeof k->progress,
             kept->rolls
                 ? "the rows of shard %s, which was taken over, move to a new one"
                 : "shard %s was taken over and has one: a ShardOperation of kind upgrade moves its rows "
                   "to a new one (update.strategy is OnDelete)",
             s->name);
    if (!kept->rolls || is_busy(k, s) || move_runs(k, failed) ||
        !start(k, db, "upgrade", s->name, "spec.instances asks for several, and its server was taken over",
               failed))
        return true;
    snprintf(text, sizeof text, "shard %s moves to a server of our own with %u instances", s->name,
             fleet_instances_of(db));
    kdb_tell(k, false, "Replacing", "Replace", text);
    return true;
}
