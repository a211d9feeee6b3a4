#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/etcd_keys.h"

/* Where the key is, or belongs. */
static int find(const struct etcd_keys *k, const char *key, bool *ret_there)
{
    int low = 0, high = k->count;
    while (low < high) {
        int middle = low + (high - low) / 2, order = strcmp(k->keys[middle].key, key);
        if (order == 0) {
            *ret_there = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_there = false;
    return low;
}

bool etcd_keys_put(struct etcd_keys *k, const char *key, int64_t mod)
{
    bool there;
    int at = find(k, key, &there);
    if (!there) {
        if (k->count == k->capacity) {
            k->capacity = k->capacity == 0 ? 16 : k->capacity * 2;
            k->keys = mem_resize(k->keys, (size_t)k->capacity, sizeof *k->keys);
        }
        memmove(&k->keys[at + 1], &k->keys[at], (size_t)(k->count - at) * sizeof *k->keys);
        k->keys[at] = (struct etcd_key){.key = mem_strdup(key)};
        k->count++;
    }
    bool changed = k->keys[at].mod < mod;
    if (changed)
        k->keys[at].mod = mod;
    return changed;
}

bool etcd_keys_see(struct etcd_keys *k, const char *key, int64_t mod)
{
    bool there;
    int at = find(k, key, &there);
    if (there)
        k->keys[at].seen = true;
    return !there || k->keys[at].mod < mod;
}

bool etcd_keys_remove(struct etcd_keys *k, const char *key)
{
    bool there;
    int at = find(k, key, &there);
    if (!there)
        return false;
    free(k->keys[at].key);
    k->count--;
    memmove(&k->keys[at], &k->keys[at + 1], (size_t)(k->count - at) * sizeof *k->keys);
    return true;
}

void etcd_keys_unsee(struct etcd_keys *k)
{
    for (int i = 0; i < k->count; i++)
        k->keys[i].seen = false;
}

void etcd_keys_free(struct etcd_keys *k)
{
    for (int i = 0; i < k->count; i++)
        free(k->keys[i].key);
    free(k->keys);
    *k = (struct etcd_keys){0};
}
