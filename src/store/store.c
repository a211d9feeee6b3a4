#include <string.h>

#include "store/store_impl.h"

/* An empty text is fine for a prefix only. */
static int check_key(const char *key, bool prefix, struct err *err)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-";
    size_t length = strnlen(key, STORE_KEY_MAX + 1);
    if (length > STORE_KEY_MAX)
        return err_set(err, ERRC_LIMIT, "store key \"%.40s...\" is longer than %d bytes", key, STORE_KEY_MAX);
    if ((length == 0 && !prefix) || key[strspn(key, allowed)] != '\0')
        return err_set(err, ERRC_INVALID,
                       "\"%s\" is not a store key: letters, digits, dot, underscore, slash, hyphen", key);
    return 0;
}

int store_get(struct store *store, const char *key, store_get_cb cb, void *data, struct err *err)
{
    int rc = check_key(key, false, err);
    return rc == 0 ? store->backend->get(store, key, cb, data, err) : rc;
}

int store_list(struct store *store, const char *prefix, store_list_cb cb, void *data, struct err *err)
{
    int rc = check_key(prefix, true, err);
    return rc == 0 ? store->backend->list(store, prefix, cb, data, err) : rc;
}

int store_compare_and_swap(struct store *store, const char *key, int64_t expected, const char *value,
                           store_write_cb cb, void *data, struct err *err)
{
    int rc = check_key(key, false, err);
    if (rc != 0)
        return rc;
    if (expected < 0 || (value == NULL && expected == 0))
        return err_set(err, ERRC_INVALID, "store key %s: %s", key,
                       expected < 0 ? "a revision is never negative" : "deleting needs the key's revision");
    if (value != NULL && strnlen(value, STORE_VALUE_MAX + 1) > STORE_VALUE_MAX)
        return err_set(err, ERRC_LIMIT, "store key %s: the value is longer than %d bytes", key,
                       STORE_VALUE_MAX);
    return store->backend->compare_and_swap(store, key, expected, value, cb, data, err);
}

int store_watch(struct store *store, const char *prefix, store_watch_cb cb, void *data,
                struct store_watch **ret, struct err *err)
{
    int rc = check_key(prefix, true, err);
    return rc == 0 ? store->backend->watch(store, prefix, cb, data, ret, err) : rc;
}

void store_watch_stop(struct store_watch *watch)
{
    watch->store->backend->watch_stop(watch);
}

int store_lease(struct store *store, const char *holder, store_lease_cb cb, void (*lost)(void *data),
                void *data, struct err *err)
{
    return store->backend->lease(store, holder, cb, lost, data, err);
}

void store_close(struct store *store, void (*closed)(void *data), void *data)
{
    store->backend->close(store, closed, data);
}

const char *store_name(const struct store *store)
{
    return store->backend->name(store);
}
