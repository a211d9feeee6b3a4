/* The keepers' promoted instances are settled, one at a time for each shard. */
#include <stdlib.h>

#include "base/mem.h"
#include "manager/ha_shards_impl.h"

struct settling {
    struct ha_shards *all;
    struct kept_shard *k; /* NULL = nobody wants to know any more */
    struct ha_settle *settle;
};

static void on_settled(uint64_t term, const struct err *err, void *data)
{
    struct settling *s = data;
    struct kept_shard *k = s->k;
    if (k == NULL)
        return;
    k->settling = NULL;
    s->k = NULL;
    if (k->keeper != NULL)
        shard_keeper_settled(k->keeper, term, err);
}

static void on_closed(void *data)
{
    struct settling *s = data;
    struct ha_shards *h = s->all;
    if (s->k != NULL)
        s->k->settling = NULL;
    free(s);
    ha_shards_settle(h);
}

void ha_shards_unsettle(struct kept_shard *k)
{
    struct settling *s = k->settling;
    if (s == NULL)
        return;
    k->settling = NULL;
    s->k = NULL;
    ha_settle_close(s->settle);
}

void ha_shards_promoted(const struct shard_keeper_promoted *promoted, void *data)
{
    struct kept_shard *k = data;
    struct settling *s = mem_zalloc(sizeof *s);
    const struct ha_settle_done done = {on_settled, on_closed, s};
    ha_shards_unsettle(k); /* it had no answer in time */
    *s = (struct settling){.all = k->all, .k = k};
    k->all->open++;
    k->settling = s;
    s->settle =
        ha_settle_begin(&k->all->settle, k->database, k->shard, promoted->primary, promoted->term, &done);
}
