/* What is told of failovers and switchovers: they become operations, and are counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "manager/ha_shards_impl.h"
#include "operation/failover_op.h"
#include "operation/provision.h"

struct ha_count *ha_shards_count(struct ha_shards *h, const char *database, enum failover_kind kind)
{
    list_each(node, &h->counts)
    {
        struct ha_count *c = list_item(node, struct ha_count, node);
        if (c->kind == kind && strcmp(c->database, database) == 0)
            return c;
    }
    struct ha_count *c = mem_zalloc(sizeof *c);
    c->database = mem_strdup(database);
    c->kind = kind;
    list_append(&h->counts, &c->node);
    return c;
}

void ha_shards_forget_counts(struct ha_shards *h)
{
    list_each(node, &h->counts)
    {
        struct ha_count *c = list_item(node, struct ha_count, node);
        list_remove(&c->node);
        free(c->database);
        free(c);
    }
}

static void count(struct ha_shards *h, const struct operation *op)
{
    struct failover_op_facts facts;
    failover_op_facts(op, &facts);
    struct ha_count *c = ha_shards_count(h, op->database, facts.kind);
    if (op->status == OPERATION_DONE)
        c->done++;
    else
        c->undone++;
    if (facts.blocked && facts.blocked_us > 0)
        hist_add(&c->blocked, facts.blocked_us);
}

void ha_shards_failing(const struct shard_keeper_failover *f, void *data)
{
    struct kept_shard *k = data;
    struct ha_shards *h = k->all;
    const struct failover_report report = {.database = k->database,
                                           .shard = k->shard,
                                           .record = f->record,
                                           .from = f->from,
                                           .to = f->to,
                                           .lost_ns = f->lost_ns,
                                           .acknowledges = f->acknowledges};
    failover_op_forget(h->o.operations, k->database, k->shard, f->record->id,
                       "another failover of the shard followed, and how this one ended was not seen");
    const struct operation *ended = failover_op_tell(h->o.operations, &report);
    if (ended != NULL)
        count(h, ended);
}

/* Those of shards that are not there any more. */
static void forget_orphans(struct ha_shards *h)
{
    list_each(node, &h->o.operations->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && failover_op_is(op) &&
            !ha_shards_keeps(h, op->database, op->shard) && !ha_shards_provisions(h, op->database))
            failover_op_forget(h->o.operations, op->database, op->shard, NULL, "the shard was taken away");
    }
}

void ha_shards_tell(struct ha_shards *h)
{
    forget_orphans(h);
    failover_op_look(h->o.operations);
}

bool ha_shards_failovers(const struct ha_shards *h, unsigned n, struct ha_shards_failovers *ret)
{
    list_each(node, &h->counts)
    {
        const struct ha_count *c = list_item(node, struct ha_count, node);
        if (n-- > 0)
            continue;
        *ret = (struct ha_shards_failovers){c->database, failover_kind_name(c->kind), c->done, c->undone,
                                            &c->blocked};
        return true;
    }
    return false;
}

bool ha_shards_wait(const struct ha_shards *h, unsigned n, struct ha_shards_wait *ret)
{
    list_each(node, &h->shards)
    {
        const struct kept_shard *k = list_item(node, struct kept_shard, node);
        uint64_t since_ns;
        if (k->keeper == NULL || shard_keeper_waits(k->keeper, &since_ns) == NULL || n-- > 0)
            continue;
        *ret = (struct ha_shards_wait){k->database, k->shard, since_ns};
        return true;
    }
    return false;
}
