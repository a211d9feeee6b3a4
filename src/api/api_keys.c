/* Idempotency-Keys seen, with the whole request they came with, so that no hash has to be trusted. */
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"

struct seen {
    char *key, *path, *body;
    char operation[OPERATION_ID_SIZE];
    uint64_t at_ns;
};

struct api_keys {
    struct seen ring[API_KEYS_MAX];
    unsigned next; /* the oldest, and the place of the next one */
};

struct api_keys *api_keys_new(void)
{
    return mem_zalloc(sizeof(struct api_keys));
}

static void seen_clear(struct seen *s)
{
    free(s->key);
    free(s->path);
    free(s->body);
    memset(s, 0, sizeof *s);
}

void api_keys_free(struct api_keys *keys)
{
    for (unsigned i = 0; i < API_KEYS_MAX; i++)
        seen_clear(&keys->ring[i]);
    free(keys);
}

enum api_key_result api_keys_find(const struct api_keys *keys, const char *key, const char *path,
                                  const char *body, uint64_t now_ns, const char **ret_operation)
{
    for (unsigned i = 0; i < API_KEYS_MAX; i++) {
        const struct seen *s = &keys->ring[i];
        if (s->key == NULL || strcmp(s->key, key) != 0 || now_ns - s->at_ns > API_KEY_NS)
            continue;
        if (strcmp(s->path, path) != 0 || strcmp(s->body, body) != 0)
            return KEY_OTHER;
        *ret_operation = s->operation;
        return KEY_SAME;
    }
    return KEY_NEW;
}

void api_keys_add(struct api_keys *keys, const char *key, const char *path, const char *body, uint64_t now_ns,
                  const char *operation)
{
    struct seen *s = &keys->ring[keys->next];
    keys->next = (keys->next + 1) % API_KEYS_MAX;
    seen_clear(s);
    s->key = mem_strdup(key);
    s->path = mem_strdup(path);
    s->body = mem_strdup(body);
    s->at_ns = now_ns;
    strncpy(s->operation, operation, sizeof s->operation - 1);
}
