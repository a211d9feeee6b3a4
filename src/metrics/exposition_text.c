/*
 * Puts the text of a scrape together, in slices: blocks of instances that have new texts are made anew, then
 * the families are picked out of the blocks.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/exposition_impl.h"
#include "metrics/instance_text.h"

#define SLICE_NS      ENV_NS_PER_MS /* then the loop may do something else */
#define RESTARTS_MAX  3u
#define STALE_PERIODS 3u

/* ---- blocks ---- */

/* Values of an instance that has not answered for three periods are no longer true. */
static bool stale(const struct poller *p, enum poll_group group, uint64_t rendered_ns, uint64_t now)
{
    const struct pollers_options *o = &p->pollers->options;
    if (!p->up && now - p->down_ns > STALE_PERIODS * o->period_ns[POLL_LOAD])
        return true;
    return now - rendered_ns > STALE_PERIODS * poller_period(p, group) + o->deadline_ns;
}

/* What a query's block shows of an instance; NULL = nothing. */
static const struct poller_slot *slot_to_show(const struct poller *p, enum query_id id, uint64_t now)
{
    const struct poller_slot *slot = p != NULL ? &p->slots[id] : NULL;
    if (slot == NULL || slot->samples == NULL)
        return NULL;
    uint64_t as_of = query_get(id)->once ? p->values_ns : slot->rendered_ns;
    return stale(p, query_get(id)->group, as_of, now) ? NULL : slot;
}

static void members_of(const struct exposition *e, unsigned batch, struct poller **ret)
{
    const struct pollers *pollers = e->pollers;
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++) {
        unsigned at = batch * BLOCK_INSTANCES + i;
        ret[i] = at < pollers->table_size ? pollers->table[at] : NULL;
    }
}

static void own_block_make(struct exposition *e, struct poller *const *members, uint64_t now)
{
    bool ended[BLOCK_INSTANCES];
    struct text_block **place = &e->blocks[e->cursor.place];
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++)
        ended[i] = members[i] == NULL || stale(members[i], POLL_LOAD, members[i]->values_ns, now);
    *place = block_renew(*place);
    instance_text_render(*place, members, ended);
}

/* Nothing to do if the block is what it would be now; else the builder begins. */
static void query_block_check(struct exposition *e, enum query_id id, struct poller *const *members,
                              uint64_t now)
{
    uint64_t versions[BLOCK_INSTANCES];
    struct samples *sources[BLOCK_INSTANCES];
    struct text_block **place = &e->blocks[e->cursor.place];
    bool any = false;
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++) {
        const struct poller_slot *slot = slot_to_show(members[i], id, now);
        versions[i] = slot != NULL ? slot->version : 0;
        sources[i] = slot != NULL ? slot->samples : NULL;
        any = any || slot != NULL;
    }
    if (*place != NULL && memcmp(versions, (*place)->versions, sizeof versions) == 0)
        return;
    struct text_block *old = *place;
    *place = NULL;
    if (any)
        builder_begin(&e->builder, old, sources, versions);
    else
        block_drop(old);
}

static void blocks_resize(struct exposition *e)
{
    unsigned batches = (e->pollers->table_size + BLOCK_INSTANCES - 1) / BLOCK_INSTANCES;
    unsigned count = batches * KINDS;
    if (count <= e->block_count) /* the table never shrinks */
        return;
    e->blocks = mem_resize((void *)e->blocks, count, sizeof(struct text_block *));
    for (unsigned i = e->block_count; i < count; i++)
        e->blocks[i] = NULL;
    e->block_count = count;
}

void text_drop_blocks(struct exposition *e)
{
    for (unsigned i = 0; i < e->block_count; i++)
        block_drop(e->blocks[i]);
    free((void *)e->blocks);
    e->blocks = NULL;
    e->block_count = 0;
}

/* A step of the first phase. */
static void refresh_step(struct exposition *e, uint64_t now)
{
    struct cursor *c = &e->cursor;
    struct poller *members[BLOCK_INSTANCES];
    if (e->builder.block == NULL && c->place < e->block_count) {
        members_of(e, c->place / KINDS, members);
        unsigned kind = c->place % KINDS;
        if (kind == KIND_OWN)
            own_block_make(e, members, now);
        else
            query_block_check(e, (enum query_id)(kind - 1), members, now);
    } else if (e->builder.block != NULL && builder_step(&e->builder)) {
        e->blocks[c->place] = builder_take(&e->builder);
    }
    if (e->builder.block == NULL)
        c->place++;
}

/* ---- families ---- */

static const struct metric_family *family_of(const struct exposition *e, unsigned kind, unsigned number)
{
    if (kind == KIND_OWN)
        return number < INSTANCE_FAMILIES ? instance_family(number) : NULL;
    const struct query *query = query_get((enum query_id)(kind - 1));
    if (query->dynamic)
        return number < dynamic_families_count(e->pollers->dynamic)
                   ? dynamic_family(e->pollers->dynamic, number)
                   : NULL;
    return number < query->column_count ? &query->columns[number].family : NULL;
}

static void add_head(struct snapshot *s, const struct metric_family *family, struct buf *scratch)
{
    buf_reset(scratch);
    metric_add_head(scratch, family);
    snapshot_copy(s, scratch->data, scratch->length);
}

/* One family over all instances, its head only if it has lines. */
static void add_family(struct exposition *e, const struct metric_family *family, struct buf *scratch)
{
    const struct cursor *c = &e->cursor;
    struct snapshot *s = e->making;
    bool headed = false;
    for (unsigned at = c->kind; at < s->block_count; at += KINDS) {
        size_t length = 0;
        const char *text = s->blocks[at] != NULL ? block_family(s->blocks[at], c->family, &length) : NULL;
        if (length == 0)
            continue;
        if (!headed)
            add_head(s, family, scratch);
        headed = true;
        snapshot_add(s, text, length);
    }
}

static void text_step(struct exposition *e, struct buf *scratch)
{
    struct cursor *c = &e->cursor;
    const struct metric_family *family = family_of(e, c->kind, c->family);
    if (family != NULL) {
        add_family(e, family, scratch);
        c->family++;
        return;
    }
    c->family = 0;
    if (++c->kind == KINDS)
        c->phase = PHASE_END;
}

static void text_turn_over(struct exposition *e)
{
    struct buf text = {0};
    own_families(e, &text);
    snapshot_copy(e->making, buf_text(&text), text.length);
    buf_free(&text);
    snapshot_keep_blocks(e->making);
    e->cursor.phase = e->block_count > 0 ? PHASE_TEXT : PHASE_END;
}

/* ---- slices ---- */

void text_begin(struct exposition *e)
{
    e->making = snapshot_new(e);
    e->cursor = (struct cursor){.generation = e->pollers != NULL ? e->pollers->generation : 0};
    if (e->pollers != NULL)
        blocks_resize(e);
}

void text_cancel(struct exposition *e)
{
    builder_cancel(&e->builder);
    if (e->making != NULL)
        snapshot_unref(e->making);
    e->making = NULL;
}

/* The set of instances changed before the blocks were kept: one of them could be met twice or not at all.
 * What was made anew so far need not be made again. */
static void check_set(struct exposition *e)
{
    const struct cursor *c = &e->cursor;
    if (e->pollers == NULL || c->phase != PHASE_REFRESH || c->generation == e->pollers->generation ||
        e->restarts >= RESTARTS_MAX)
        return;
    e->restarts++;
    text_cancel(e);
    text_begin(e);
}

bool text_slice(struct exposition *e)
{
    struct cursor *c = &e->cursor;
    struct buf scratch = {0};
    check_set(e);
    uint64_t now = loop_now(e->loop);
    while (c->phase != PHASE_END && loop_clock(e->loop) - e->slice_started_ns <= SLICE_NS) {
        if (c->phase == PHASE_TEXT)
            text_step(e, &scratch);
        else if (c->place < e->block_count)
            refresh_step(e, now);
        else
            text_turn_over(e);
    }
    buf_free(&scratch);
    return c->phase == PHASE_END;
}
