#include "metrics/text_block.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- blocks ---- */

static void block_free(struct text_block *block)
{
    buf_free(&block->text);
    free(block->ends);
    free(block);
}

struct text_block *block_renew(struct text_block *old)
{
    struct text_block *block = old;
    if (old == NULL || old->users > 1) {
        block_drop(old);
        block = mem_zalloc(sizeof *block);
    }
    block->users = 1;
    block->families = 0;
    memset(block->versions, 0, sizeof block->versions);
    buf_reset(&block->text);
    return block;
}

struct text_block *block_keep(struct text_block *block)
{
    block->users++;
    return block;
}

void block_drop(struct text_block *block)
{
    if (block == NULL)
        return;
    assert(block->users > 0);
    if (--block->users == 0)
        block_free(block);
}

static void ends_reserve(struct text_block *block, unsigned families)
{
    if (families <= block->room)
        return;
    block->room = families < 32 ? 32 : families;
    block->ends = mem_resize(block->ends, block->room, sizeof *block->ends);
}

void block_end_family(struct text_block *block)
{
    ends_reserve(block, block->families + 1);
    block->ends[block->families++] = (uint32_t)block->text.length;
}

const char *block_family(const struct text_block *block, unsigned family, size_t *length)
{
    *length = 0;
    if (family >= block->families)
        return NULL;
    uint32_t start = family > 0 ? block->ends[family - 1] : 0;
    *length = block->ends[family] - start;
    return block->text.data + start;
}

/* ---- turning round ---- */

/* Sets where each family starts and ends. */
static void places_find(struct block_builder *b, unsigned families)
{
    struct text_block *block = b->block;
    b->places = mem_array(families, sizeof *b->places);
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++)
        for (unsigned f = 0; b->sources[i] != NULL && f < b->sources[i]->families; f++)
            b->places[f] += b->sources[i]->lengths[f];
    ends_reserve(block, families);
    uint32_t total = 0;
    for (unsigned f = 0; f < families; f++) {
        uint32_t length = b->places[f];
        b->places[f] = total;
        total += length;
        block->ends[f] = total;
    }
    block->families = families;
    buf_reserve(&block->text, total);
    block->text.length = total;
}

void builder_begin(struct block_builder *b, struct text_block *old, struct samples *const *sources,
                   const uint64_t *versions)
{
    unsigned families = 0;
    *b = (struct block_builder){.block = block_renew(old)};
    memcpy(b->block->versions, versions, sizeof b->block->versions);
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++) {
        b->sources[i] = sources[i] != NULL ? samples_keep(sources[i]) : NULL;
        if (sources[i] != NULL && sources[i]->families > families)
            families = sources[i]->families;
    }
    places_find(b, families);
}

bool builder_step(struct block_builder *b)
{
    while (b->next < BLOCK_INSTANCES && b->sources[b->next] == NULL)
        b->next++;
    if (b->next < BLOCK_INSTANCES) {
        struct samples *s = b->sources[b->next];
        struct samples_reader reader;
        samples_reader_init(&reader, s);
        for (unsigned f = 0; f < s->families; f++)
            b->places[f] += samples_reader_next(&reader, b->block->text.data + b->places[f]);
        b->sources[b->next++] = NULL;
        samples_free(s);
    }
    return b->next == BLOCK_INSTANCES;
}

struct text_block *builder_take(struct block_builder *b)
{
    assert(b->block != NULL && b->next == BLOCK_INSTANCES);
    struct text_block *block = b->block;
    free(b->places);
    *b = (struct block_builder){0};
    return block;
}

void builder_cancel(struct block_builder *b)
{
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++)
        samples_free(b->sources[i]);
    block_drop(b->block);
    free(b->places);
    *b = (struct block_builder){0};
}
