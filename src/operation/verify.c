#include "operation/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool verify_same(const struct verify_sum *a, const struct verify_sum *b)
{
    return a->rows == b->rows && strcmp(a->checksum, b->checksum) == 0;
}

void verify_begin(struct verify_item *items, int count)
{
    for (int i = 0; i < count; i++)
        items[i] = (struct verify_item){.wanted = true};
}

void verify_clear(struct verify_item *items, int count)
{
    for (int i = 0; i < count; i++)
        if (items[i].wanted)
            items[i].owner = items[i].copy = (struct verify_sum){0};
}

bool verify_is_stable(const struct verify_item *item)
{
    return item->wanted && item->stable >= VERIFY_STABLE;
}

int verify_judge(struct verify_item *items, int count, int *ret_stable)
{
    int differing = 0;
    *ret_stable = -1;
    for (int i = 0; i < count; i++) {
        struct verify_item *item = &items[i];
        if (!item->wanted)
            continue;
        item->wanted = !verify_same(&item->owner, &item->copy);
        if (!item->wanted)
            continue;
        differing++;
        bool still = item->rounds > 0 && verify_same(&item->owner, &item->owner_before) &&
                     verify_same(&item->copy, &item->copy_before);
        item->stable = still ? item->stable + 1 : 0;
        item->rounds++;
        item->owner_before = item->owner;
        item->copy_before = item->copy;
        if (*ret_stable < 0 && verify_is_stable(item))
            *ret_stable = i;
    }
    return differing;
}

/* < 0: the next row is of the owner alone, > 0: of the copy alone. */
static int next_row(struct verify_row *const lists[2], const int counts[2], const int at[2])
{
    if (at[0] >= counts[0])
        return 1;
    return at[1] >= counts[1] ? -1 : strcmp(lists[0][at[0]].identity, lists[1][at[1]].identity);
}

/* A list that was cut ends somewhere in the middle: beyond its end nothing is known of that side. */
static bool beyond(const int counts[2], int limit, const int at[2])
{
    return (counts[0] >= limit && at[0] >= counts[0]) || (counts[1] >= limit && at[1] >= counts[1]);
}

int verify_merge(struct verify_row *const lists[2], const int counts[2], int limit, int most,
                 struct verify_item **ret_items, char ***ret_identities)
{
    struct verify_item *items = mem_array((size_t)most, sizeof *items);
    char **identities = mem_array((size_t)most, sizeof *identities);
    int at[2] = {0, 0}, found = 0;
    while (found < most && (at[0] < counts[0] || at[1] < counts[1]) && !beyond(counts, limit, at)) {
        int order = next_row(lists, counts, at);
        struct verify_item item = {.wanted = true};
        const char *identity = order > 0 ? lists[1][at[1]].identity : lists[0][at[0]].identity;
        if (order <= 0)
            item.owner = lists[0][at[0]++].sum;
        if (order >= 0)
            item.copy = lists[1][at[1]++].sum;
        if (verify_same(&item.owner, &item.copy))
            continue;
        items[found] = item;
        identities[found++] = mem_strdup(identity);
    }
    *ret_items = items;
    *ret_identities = identities;
    return found;
}

void verify_describe(const struct verify_item *item, const char *owner, const char *copy, char *out,
                     unsigned size)
{
    if (item->copy.rows == 0)
        snprintf(out, size, "is missing on %s", copy);
    else if (item->owner.rows == 0)
        snprintf(out, size, "is on %s, but not on %s", copy, owner);
    else if (item->owner.rows != item->copy.rows)
        snprintf(out, size, "is there %lld times on %s, %lld times on %s", (long long)item->owner.rows, owner,
                 (long long)item->copy.rows, copy);
    else
        snprintf(out, size, "is not the same on %s and %s", owner, copy);
}
