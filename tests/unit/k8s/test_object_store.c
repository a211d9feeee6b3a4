#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "k8s/object_store.h"

static int values; /* alive */

static void release(void *value)
{
    values--;
    free(value);
}

static const struct k8s_trim trim = {.release = release};

static void put(struct object_store *store, const char *key, const char *uid, const char *version,
                k8s_changed_cb cb, void *data)
{
    const struct k8s_object object = {key, uid, version, mem_strdup(version)};
    values++;
    object_store_put(store, &object, &trim, cb, data);
}

static void record(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                   void *data)
{
    static const char *const names[] = {"added", "modified", "deleted"};
    buf_printf(data, "[%s %s %s>%s]", names[change], (now != NULL ? now : before)->key,
               before != NULL ? (const char *)before->value : "",
               now != NULL ? (const char *)now->value : "");
}

static void expect(struct buf *out, const char *text)
{
    assert_string_equal(buf_text(out), text);
    buf_reset(out);
}

static void test_changes_one_by_one(void **state)
{
    struct object_store store = {0};
    struct buf out = {0};
    (void)state;
    put(&store, "ns/a", "u1", "1", record, &out);
    expect(&out, "[added ns/a >1]");
    put(&store, "ns/a", "u1", "2", record, &out);
    expect(&out, "[modified ns/a 1>2]");
    put(&store, "ns/a", "u1", "2", record, &out);
    expect(&out, "");
    put(&store, "ns/a", "u2", "3", record, &out);
    expect(&out, "[deleted ns/a 2>][added ns/a >3]");
    object_store_remove(&store, "ns/b", &trim, record, &out);
    expect(&out, "");
    object_store_remove(&store, "ns/a", &trim, record, &out);
    expect(&out, "[deleted ns/a 3>]");
    assert_int_equal(store.count, 0);
    object_store_free(&store, &trim);
    assert_int_equal(values, 0);
    buf_free(&out);
}

static void test_K16_replace_reports_what_vanished_and_what_is_another(void **state)
{
    struct object_store store = {0}, next = {0};
    struct buf out = {0};
    (void)state;
    put(&store, "same", "u", "1", NULL, NULL);
    put(&store, "gone", "u", "1", NULL, NULL);
    put(&store, "other", "u", "1", NULL, NULL);
    put(&next, "same", "u", "1", NULL, NULL);
    put(&next, "other", "v", "2", NULL, NULL);
    object_store_replace(&store, &next, &trim, record, &out);
    expect(&out, "[deleted gone 1>][deleted other 1>][added other >2]");
    assert_int_equal(store.count, 2);
    assert_int_equal(next.count, 0);
    object_store_free(&store, &trim);
    assert_int_equal(values, 0);
    buf_free(&out);
}

/* Against a plain array: 100,000 random steps over 3,000 keys. */
static void test_random_steps(void **state)
{
    enum { KEYS = 3000 };
    static bool model[KEYS];
    struct object_store store = {0};
    size_t count = 0;
    char key[16];
    (void)state;
    srand(7); /* the table's shape matters, not the numbers */
    for (int i = 0; i < 100000; i++) {
        int k = rand() % KEYS;
        snprintf(key, sizeof key, "ns/%d", k);
        bool remove = rand() % 3 == 0;
        if (remove)
            object_store_remove(&store, key, &trim, NULL, NULL);
        else
            put(&store, key, "u", "1", NULL, NULL);
        count += (size_t)!remove - (size_t)model[k];
        model[k] = !remove;
        assert_int_equal(store.count, count);
    }
    for (int k = 0; k < KEYS; k++) {
        snprintf(key, sizeof key, "ns/%d", k);
        assert_int_equal(object_store_find(&store, key) != NULL, model[k]);
    }
    object_store_free(&store, &trim);
    assert_int_equal(values, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes_one_by_one),
        cmocka_unit_test(test_K16_replace_reports_what_vanished_and_what_is_another),
        cmocka_unit_test(test_random_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
