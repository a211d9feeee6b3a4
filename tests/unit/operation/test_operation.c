/* Journal and routing table against a store whose answers the test gives: conflicts, and writes without an
 * answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/operation.h"
#include "store/store_impl.h"

/* ---- a store with one key and one call under way ---- */

struct fake_store {
    struct store store; /* first */
    char *value;
    int64_t revision;
    /* the call under way */
    store_get_cb get;
    store_write_cb write;
    void *data;
    char *wanted;
    int64_t expected;
    int gets;
};

static int fake_get(struct store *store, const char *key, store_get_cb cb, void *data, struct err *err)
{
    struct fake_store *f = (struct fake_store *)store;
    (void)key;
    (void)err;
    assert_true(f->get == NULL && f->write == NULL);
    f->get = cb;
    f->data = data;
    f->gets++;
    return 0;
}

static int fake_swap(struct store *store, const char *key, int64_t expected, const char *value,
                     store_write_cb cb, void *data, struct err *err)
{
    struct fake_store *f = (struct fake_store *)store;
    (void)key;
    (void)err;
    assert_true(f->get == NULL && f->write == NULL);
    f->write = cb;
    f->data = data;
    f->expected = expected;
    free(f->wanted);
    f->wanted = mem_strdup(value);
    return 0;
}

static const struct store_backend backend = {.get = fake_get, .compare_and_swap = fake_swap};

static void put(struct fake_store *f, const char *value)
{
    free(f->value);
    f->value = mem_strdup(value);
    f->revision++;
}

/* Answers the write as a store does, or with `lost`, having written or not. */
static void answer_write(struct fake_store *f, enum err_code lost, bool takes_effect)
{
    struct err err = {0};
    store_write_cb write = f->write;
    f->write = NULL;
    if (f->expected != f->revision)
        err_set(&err, ERRC_CONFLICT, "another revision");
    else if (takes_effect)
        put(f, f->wanted);
    if (lost != ERRC_NONE) {
        err_clear(&err);
        err_set(&err, lost, "no answer");
    }
    write(err.code != ERRC_NONE ? &err : NULL, f->revision, f->data);
}

static void answer_get(struct fake_store *f)
{
    struct store_entry entry = {"key", f->value, f->revision};
    store_get_cb get = f->get;
    assert_non_null(get);
    f->get = NULL;
    get(NULL, &entry, f->data);
}

/* ---- an operation that prints a number ---- */

struct counting {
    struct operation op; /* first */
    int number, done;
    enum err_code last;
};

static void print_counting(const struct operation *op, struct buf *json)
{
    buf_printf(json, "{\"number\": %d}", ((const struct counting *)op)->number);
}

static void free_counting(struct operation *op)
{
    free(op);
}

static const struct operation_kind kind = {
    .name = "counting", .print = print_counting, .free = free_counting};

struct world {
    struct fake_store store;
    struct operations ops;
    struct fleet fleet;
    struct counting *op;
    int published;
    enum err_code last;
};

static int set_up(void **state)
{
    struct world *w = mem_zalloc(sizeof *w);
    w->store.store.backend = &backend;
    fleet_init(&w->fleet);
    const struct operation_services services = {.store = &w->store.store, .fleet = &w->fleet, .term = 5};
    operations_init(&w->ops, &services);
    w->op = mem_zalloc(sizeof *w->op);
    w->op->op.database = mem_strdup("shop");
    operation_register(&w->ops, &w->op->op, &kind, "coun", "counting1");
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    operations_fini(&w->ops);
    fleet_fini(&w->fleet);
    free(w->store.value);
    free(w->store.wanted);
    free(w);
    return 0;
}

static void journaled(struct operation *op, const struct err *err, void *data)
{
    struct counting *c = (struct counting *)op;
    (void)data;
    c->done++;
    c->last = err != NULL ? err->code : ERRC_NONE;
}

static void write_number(struct world *w, int number)
{
    struct err err = {0};
    w->op->number = number;
    assert_int_equal(operation_journal(&w->op->op, journaled, NULL, &err), 0);
}

/* ---- the journal ---- */

static void test_a_write_without_an_answer_is_found_again(void **state)
{
    struct world *w = *state;
    write_number(w, 1);
    answer_write(&w->store, ERRC_NONE, true);
    write_number(w, 2);
    answer_write(&w->store, ERRC_TIMEOUT, true); /* it is there, and nobody knows */
    assert_int_equal(w->op->last, ERRC_TIMEOUT);
    write_number(w, 3);
    answer_write(&w->store, ERRC_NONE, true); /* a conflict with ourselves */
    assert_int_equal(w->op->done, 2);
    answer_get(&w->store);
    answer_write(&w->store, ERRC_NONE, true);
    assert_int_equal(w->op->done, 3);
    assert_int_equal(w->op->last, ERRC_NONE);
    assert_string_equal(w->store.value, "{\"number\": 3}");
    assert_int_equal(w->op->op.revision, w->store.revision);
}

static void test_a_conflict_with_another_is_one(void **state)
{
    struct world *w = *state;
    write_number(w, 1);
    answer_write(&w->store, ERRC_UNAVAILABLE, false);
    put(&w->store, "{\"number\": 77}");
    write_number(w, 2);
    answer_write(&w->store, ERRC_NONE, true);
    answer_get(&w->store);
    assert_int_equal(w->op->last, ERRC_CONFLICT);
    assert_string_equal(w->store.value, "{\"number\": 77}");
    write_number(w, 3);
    answer_write(&w->store, ERRC_NONE, true);
    assert_int_equal(w->op->last, ERRC_CONFLICT);
}

static void test_a_plain_conflict_asks_nobody(void **state)
{
    struct world *w = *state;
    put(&w->store, "{\"number\": 77}");
    write_number(w, 1);
    answer_write(&w->store, ERRC_NONE, true);
    assert_int_equal(w->op->last, ERRC_CONFLICT);
    assert_int_equal(w->store.gets, 0);
}

/* ---- the routing table ---- */

static struct routing *table(uint64_t epoch)
{
    struct routing *r = routing_new("shop");
    struct range all = {INT64_MIN, INT64_MAX};
    r->epoch = epoch;
    routing_add_table(r, "public.t", "k", KEY_BIGINT);
    range_set_add(&routing_add_shard(r, "s1", "localhost", 5432)->ranges, &all, NULL);
    return r;
}

static void published(const struct err *err, void *data)
{
    struct world *w = data;
    w->published++;
    w->last = err != NULL ? err->code : ERRC_NONE;
}

/* A database whose first table was written. */
static struct fleet_database *routed(struct world *w)
{
    struct fleet_database *db = fleet_add_database(&w->fleet, "shop");
    struct err err = {0};
    assert_int_equal(operation_publish(&w->ops, db, table(1), published, w, &err), 0);
    answer_write(&w->store, ERRC_NONE, true);
    assert_int_equal(w->last, ERRC_NONE);
    assert_int_equal(db->routing->term, 5);
    return db;
}

static void another_writes(struct world *w, uint64_t epoch, uint64_t term)
{
    struct routing *r = table(epoch);
    struct buf json = {0};
    r->term = term;
    routing_print(r, &json);
    put(&w->store, buf_text(&json));
    buf_free(&json);
    routing_free(r);
}

static void test_after_a_conflict_the_model_is_what_the_store_has(void **state)
{
    struct world *w = *state;
    struct fleet_database *db = routed(w);
    struct err err = {0};
    another_writes(w, 2, 4);
    assert_int_equal(operation_publish(&w->ops, db, table(2), published, w, &err), 0);
    answer_write(&w->store, ERRC_NONE, true);
    answer_get(&w->store);
    assert_int_equal(w->last, ERRC_CONFLICT);
    assert_int_equal(db->routing->term, 4);
    assert_int_equal(operation_publish(&w->ops, db, table(3), published, w, &err), 0);
    answer_write(&w->store, ERRC_NONE, true);
    assert_int_equal(w->last, ERRC_NONE);
    assert_int_equal(db->routing->epoch, 3);
}

static void test_the_table_of_a_newer_leader_is_left_alone(void **state)
{
    struct world *w = *state;
    struct fleet_database *db = routed(w);
    struct err err = {0};
    another_writes(w, 2, 6);
    assert_int_equal(operation_publish(&w->ops, db, table(2), published, w, &err), 0);
    answer_write(&w->store, ERRC_NONE, true);
    answer_get(&w->store);
    assert_int_equal(w->last, ERRC_STALE);
    assert_int_equal(db->routing->epoch, 1);
    assert_int_equal(operation_publish(&w->ops, db, table(2), published, w, &err), 0);
    answer_write(&w->store, ERRC_NONE, true);
    answer_get(&w->store);
    assert_int_equal(w->last, ERRC_STALE);
}

static void test_a_table_without_an_answer_may_be_there(void **state)
{
    struct world *w = *state;
    struct fleet_database *db = routed(w);
    struct err err = {0};
    assert_int_equal(operation_publish(&w->ops, db, table(2), published, w, &err), 0);
    answer_write(&w->store, ERRC_TIMEOUT, true);
    answer_get(&w->store);
    assert_int_equal(w->last, ERRC_NONE);
    assert_int_equal(db->routing->epoch, 2);
    assert_int_equal(operation_publish(&w->ops, db, table(3), published, w, &err), 0);
    answer_write(&w->store, ERRC_TIMEOUT, false);
    answer_get(&w->store);
    assert_int_equal(w->last, ERRC_TIMEOUT);
    assert_int_equal(db->routing->epoch, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_write_without_an_answer_is_found_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_conflict_with_another_is_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_plain_conflict_asks_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_after_a_conflict_the_model_is_what_the_store_has, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_the_table_of_a_newer_leader_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_table_without_an_answer_may_be_there, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
