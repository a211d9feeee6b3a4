/* A shard of a running move has another primary. */
#include <string.h>

#include "base/log.h"
#include "operation/move_op_internal.h"

static bool is_at(const struct instance_access *a, const struct instance_access *b)
{
    return strcmp(a->host, b->host) == 0 && a->port == b->port;
}

/* Everything that was open there is dropped: what was not committed is rolled back, or went with the server.
 */
static void source_follows(struct move_op *op, const struct instance_access *access)
{
    struct link *const links[] = {&op->source,   &op->source_marker, &op->source_reader,
                                  &op->exporter, &op->keeper,        &op->watcher};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        link_retarget(links[i], access);
    for (int i = 0; i < HOLDERS_MOST; i++)
        link_retarget(&op->holders[i], access);
    op->fence_session = 0;
}

static void target_follows(struct move_op *op, const struct instance_access *access)
{
    struct link *const links[] = {&op->target, &op->target_poll, &op->opener};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        link_retarget(links[i], access);
    op->opener_session = op->quiet_session = 0;
}

/* Also of one that is being resumed: it goes back when it knows how things stand. One that is at its fence
 * does if this try fails: whether it was committed the new server says. */
static void go_back(struct move_op *op, const char *shard)
{
    struct err why = {0};
    err_set(&why, ERRC_UNAVAILABLE,
            "shard %s has another primary: what this move had kept in the old one is gone, so it goes back; "
            "begin it again",
            shard);
    if (!move_give_up(&op->core, &why) && !op->core.over && !op->core.undo_wanted &&
        op_record(op)->state <= MOVE_FENCE) {
        op->core.given_up = why;
        op->core.undo_wanted = true;
    }
}

static void follow(struct move_op *op, const char *shard)
{
    const struct move_record *r = op_record(op);
    const struct fleet_instance *primary = fleet_primary(op_services(op)->fleet, r->database, shard);
    bool source = strcmp(r->source, shard) == 0, target = strcmp(r->target, shard) == 0;
    if (primary == NULL || op->stopped)
        return;
    source = source && op->source_known && !is_at(&op->source.access, &primary->access);
    target = target && op->target_known && !is_at(&op->target.access, &primary->access);
    if (!source && !target)
        return;
    log_event(LOG_WARN, "a shard of the move has another primary", "op", r->id, "db", r->database, "shard",
              shard, "instance", primary->name, "state", move_state_name(r->state), NULL);
    go_back(op, shard);
    if (source)
        source_follows(op, &primary->access);
    else
        target_follows(op, &primary->access);
}

void move_op_follow_primary(struct operations *ops, const char *database, const char *shard)
{
    list_each(node, &ops->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && move_op_is(op) && strcmp(op->database, database) == 0)
            follow((struct move_op *)op, shard);
    }
}

int move_check_primary(const struct operations *ops, const char *database, const char *shard, struct err *err)
{
    const struct operation_services *s = &ops->services;
    if (s->fails_over != NULL && s->fails_over(s->drive_data, database, shard))
        return err_set(err, ERRC_CONFLICT, "shard %s is getting another primary: again in a moment", shard);
    if (fleet_primary(s->fleet, database, shard) == NULL)
        return err_set(err, ERRC_UNAVAILABLE, "the primary of shard %s is not known", shard);
    return 0;
}

bool move_op_claims(const struct operations *ops, const char *database, const char *shard,
                    struct move_claim *ret)
{
    list_each(node, &ops->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        const struct move_record *r = move_op_is(op) ? move_op_record(op) : NULL;
        if (r == NULL || op->status != OPERATION_RUNNING || r->state != MOVE_FENCE ||
            strcmp(op->database, database) != 0 ||
            (strcmp(r->source, shard) != 0 && strcmp(r->target, shard) != 0))
            continue;
        *ret = (struct move_claim){.id = r->id,
                                   .source = r->source,
                                   .target = r->target,
                                   .range = r->range,
                                   .source_epoch = r->source_epoch,
                                   .target_epoch = r->target_epoch,
                                   .left = ((const struct move_op *)op)->core.phase == FENCE_OPEN};
        return true;
    }
    return false;
}
