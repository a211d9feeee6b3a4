#include "balance/split_sample.h"

#include <stdlib.h>

#include "base/mem.h"

struct split_sample *split_sample_new(uint64_t started_ns, uint64_t length_ns, uint64_t seed)
{
    struct split_sample *sample = mem_zalloc(sizeof *sample);
    sample->started_ns = started_ns;
    sample->length_ns = length_ns;
    sample->random = seed != 0 ? seed : 0x9e3779b97f4a7c15ull;
    return sample;
}

void split_sample_free(struct split_sample *sample)
{
    free(sample);
}

void split_sample_tick(struct split_sample *sample, uint64_t now_ns)
{
    if (sample->length_ns > 0 && now_ns >= sample->started_ns + sample->length_ns / 2)
        sample->now = 1;
}

void split_sample_close(struct split_sample *sample)
{
    sample->closed = true;
}

uint64_t split_sample_started(const struct split_sample *sample)
{
    return sample->started_ns;
}

bool split_sample_closed(const struct split_sample *sample)
{
    return sample->closed;
}

uint64_t split_sample_count(const struct split_sample *sample)
{
    return sample->half[0].count + sample->half[1].count;
}

static uint64_t sample_random(struct split_sample *sample)
{
    uint64_t x = sample->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    sample->random = x;
    return x;
}

static int item_compare(const void *a, const void *b)
{
    const struct split_item *x = a, *y = b;
    return (x->hash > y->hash) - (x->hash < y->hash);
}

size_t split_items_sort(struct split_item *items, size_t count)
{
    qsort(items, count, sizeof *items, item_compare);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (used > 0 && items[used - 1].hash == items[i].hash)
            items[used - 1].weight += items[i].weight;
        else
            items[used++] = items[i];
    }
    return used;
}

/*
 * Makes room: equal hashes become one item; if that is not enough, of each two neighbours one stands for
 * both, chosen by weight, so that the expected weight left of any point is kept and the error at a point is
 * at most one pair per round.
 */
static void half_compact(struct split_sample *sample, struct split_half *half)
{
    half->item_count = split_items_sort(half->items, half->item_count);
    if (half->item_count <= SPLIT_SUMMARY_SIZE * 3 / 4)
        return;
    size_t used = 0;
    for (size_t i = 0; i + 1 < half->item_count; i += 2) {
        const struct split_item a = half->items[i], b = half->items[i + 1];
        uint64_t both = a.weight + b.weight;
        half->items[used].hash = sample_random(sample) % both < a.weight ? a.hash : b.hash;
        half->items[used++].weight = both;
    }
    if (half->item_count % 2 == 1)
        half->items[used++] = half->items[half->item_count - 1];
    half->item_count = used;
}

/* Space-saving (Metwally et al.): a new key takes the place, and inherits the weight, of the lightest one. */
static void heavy_add(struct split_half *half, int64_t hash, uint32_t weight)
{
    size_t least = 0;
    for (size_t i = 0; i < half->heavy_count; i++) {
        if (half->heavy[i].hash == hash) {
            half->heavy[i].weight += weight;
            return;
        }
        if (half->heavy[i].weight < half->heavy[least].weight)
            least = i;
    }
    if (half->heavy_count < SPLIT_HEAVY_SIZE) {
        half->heavy[half->heavy_count++] = (struct split_heavy){.hash = hash, .weight = weight};
        return;
    }
    uint64_t inherited = half->heavy[least].weight;
    half->heavy[least] = (struct split_heavy){hash, inherited + weight, inherited};
}

uint64_t split_heavy_weight(const struct split_half *half, int64_t hash)
{
    for (size_t i = 0; i < half->heavy_count; i++)
        if (half->heavy[i].hash == hash)
            return half->heavy[i].weight - half->heavy[i].error;
    return 0;
}

void split_sample_add(struct split_sample *sample, int64_t hash, uint32_t weight)
{
    struct split_half *half = &sample->half[sample->now];
    if (weight == 0)
        weight = 1;
    if (half->item_count == SPLIT_SUMMARY_SIZE)
        half_compact(sample, half);
    half->items[half->item_count++] = (struct split_item){hash, weight};
    heavy_add(half, hash, weight);
    half->count++;
    half->weight += weight;
}
