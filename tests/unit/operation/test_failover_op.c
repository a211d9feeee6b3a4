/* What people see of failovers: from reports of the keeper to operations and their journal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/failover_op.h"
#include "store/store_impl.h"

/* ---- a store that keeps the last document, and may be away ---- */

struct fake_store {
    struct store store; /* first */
    char *value;
    int64_t revision;
    store_write_cb write;
    void *data;
    char *wanted;
    int64_t expected;
    int writes;
};

static int fake_swap(struct store *store, const char *key, int64_t expected, const char *value,
                     store_write_cb cb, void *data, struct err *err)
{
    struct fake_store *f = (struct fake_store *)store;
    (void)key;
    (void)err;
    assert_null(f->write);
    f->write = cb;
    f->data = data;
    f->expected = expected;
    free(f->wanted);
    f->wanted = mem_strdup(value);
    f->writes++;
    return 0;
}

static const struct store_backend backend = {.compare_and_swap = fake_swap};

static void answer(struct fake_store *f, enum err_code code)
{
    struct err err = {0};
    store_write_cb write = f->write;
    assert_non_null(write);
    f->write = NULL;
    if (code != ERRC_NONE)
        err_set(&err, code, "no");
    else {
        assert_int_equal(f->expected, f->revision);
        free(f->value);
        f->value = mem_strdup(f->wanted);
        f->revision++;
    }
    write(code != ERRC_NONE ? &err : NULL, f->revision, f->data);
}

struct world {
    struct loop loop;
    struct fake_store store;
    struct operations ops;
    struct fleet fleet;
    struct failover_record record;
    struct failover_report report;
    int changed;
};

static void on_changed(void *data, struct operation *op)
{
    (void)op;
    ((struct world *)data)->changed++;
}

static void world_open(struct world *w, enum failover_kind kind)
{
    memset(w, 0, sizeof *w);
    assert_int_equal(loop_init(&w->loop, env_system(), NULL), 0);
    w->store.store.backend = &backend;
    const struct operation_services services = {.loop = &w->loop,
                                                .store = &w->store.store,
                                                .fleet = &w->fleet,
                                                .term = 3,
                                                .operation_changed = on_changed,
                                                .data = w};
    operations_init(&w->ops, &services);
    w->record = (struct failover_record){.id = "failabc", .kind = kind, .rule = HA_F_GONE};
    w->record.ha.term = 2;
    strcpy(w->record.reason, "fail over shard s1: because");
    w->report = (struct failover_report){.database = "shop",
                                         .shard = "s1",
                                         .record = &w->record,
                                         .from = "a",
                                         .lost_ns = loop_now(&w->loop) - 2 * ENV_NS_PER_S};
}

static void world_close(struct world *w)
{
    operations_fini(&w->ops);
    free(w->store.value);
    free(w->store.wanted);
    assert_int_equal(loop_fini(&w->loop), 0);
}

static const struct operation *tell(struct world *w, enum failover_state state)
{
    w->record.state = state;
    return failover_op_tell(&w->ops, &w->report);
}

static struct failover_op_facts facts_of(struct world *w)
{
    struct failover_op_facts facts;
    failover_op_facts(operations_find(&w->ops, "failabc"), &facts);
    return facts;
}

/* It blocks writes since its primary was lost, not since somebody decided. */
static void test_failover(void **state)
{
    struct world w;
    (void)state;
    world_open(&w, FAILOVER_KIND_FAILOVER);
    assert_null(tell(&w, FAILOVER_PLANNED));
    assert_int_equal(w.store.writes, 0); /* the record of the shard is being written, that is enough */
    struct operation *op = operations_find(&w.ops, "failabc");
    assert_non_null(op);
    assert_string_equal(op->kind->name, "failover");
    assert_true(facts_of(&w).blocks && facts_of(&w).blocked_us >= 2000000);
    assert_null(tell(&w, FAILOVER_CONFIRM));
    assert_int_equal(w.store.writes, 1);
    assert_int_equal(w.changed, 2);
    assert_null(tell(&w, FAILOVER_CONFIRM)); /* nothing new */
    assert_int_equal(w.changed, 2);
    answer(&w.store, ERRC_NONE);
    w.report.to = "b";
    w.report.from = NULL;
    assert_null(tell(&w, FAILOVER_CHOSEN));
    w.report.acknowledges = true;
    assert_null(tell(&w, FAILOVER_ROUTE));
    assert_int_equal(w.store.writes, 1);
    assert_false(facts_of(&w).blocks);
    assert_ptr_equal(tell(&w, FAILOVER_DONE), op);
    assert_int_equal(op->status, OPERATION_DONE);
    assert_string_equal(facts_of(&w).from, "a");
    assert_string_equal(facts_of(&w).to, "b");
    assert_true(facts_of(&w).blocked_us >= 2000000 && facts_of(&w).blocked_us < 60000000);
    assert_null(tell(&w, FAILOVER_DONE)); /* once */
    answer(&w.store, ERRC_NONE);
    world_close(&w);
}

/* Another leader reads it, and hears the rest. */
static void test_resumed(void **state)
{
    struct world w;
    struct err err = {0};
    (void)state;
    world_open(&w, FAILOVER_KIND_FAILOVER);
    tell(&w, FAILOVER_CONFIRM);
    answer(&w.store, ERRC_NONE);
    char *journal = mem_strdup(w.store.value);
    uint64_t blocked_us = facts_of(&w).blocked_us;
    world_close(&w);

    world_open(&w, FAILOVER_KIND_FAILOVER);
    w.store.revision = 1;
    assert_int_equal(failover_op_resume(&w.ops, journal, 1, &err), 0);
    struct operation *op = operations_find(&w.ops, "failabc");
    assert_int_equal(op->status, OPERATION_RUNNING);
    assert_true(facts_of(&w).blocks && facts_of(&w).blocked_us >= blocked_us);
    w.report.lost_ns = 0;
    w.report.from = NULL;
    w.report.to = "b";
    w.report.acknowledges = true;
    assert_ptr_equal(tell(&w, FAILOVER_DONE), op);
    answer(&w.store, ERRC_NONE);
    assert_string_equal(facts_of(&w).from, "a");
    assert_true(facts_of(&w).blocked_us >= 2000000);
    free(journal);
    journal = mem_strdup(w.store.value);
    world_close(&w);

    world_open(&w, FAILOVER_KIND_FAILOVER);
    assert_int_equal(failover_op_resume(&w.ops, journal, 2, &err), 0);
    assert_int_equal(operations_find(&w.ops, "failabc")->status, OPERATION_DONE);
    assert_string_equal(facts_of(&w).reason, "fail over shard s1: because");
    assert_int_not_equal(failover_op_resume(&w.ops, "{\"id\":\"x\"}", 1, &err), 0);
    free(journal);
    world_close(&w);
}

/* Writes go on until it is fenced. Given up, or given back, it is undone. */
static void test_switchover(void **state)
{
    struct world w;
    (void)state;
    world_open(&w, FAILOVER_KIND_SWITCHOVER);
    w.report.lost_ns = 0;
    w.report.to = "b";
    tell(&w, FAILOVER_PREPARE);
    answer(&w.store, ERRC_NONE);
    assert_false(facts_of(&w).blocked);
    struct operation *op = operations_find(&w.ops, "failabc");
    assert_ptr_equal(tell(&w, FAILOVER_CANCELED), op);
    assert_int_equal(op->status, OPERATION_UNDONE);
    assert_false(facts_of(&w).blocked);
    assert_non_null(strstr(op->error.message, "a is the primary of shard s1 as before"));
    answer(&w.store, ERRC_NONE);
    world_close(&w);

    world_open(&w, FAILOVER_KIND_SWITCHOVER);
    w.report.lost_ns = 0;
    tell(&w, FAILOVER_FENCE);
    answer(&w.store, ERRC_NONE);
    assert_true(facts_of(&w).blocks);
    w.report.to = "a";
    w.report.acknowledges = true;
    assert_non_null(tell(&w, FAILOVER_DONE));
    assert_int_equal(operations_find(&w.ops, "failabc")->status, OPERATION_UNDONE);
    answer(&w.store, ERRC_NONE);
    world_close(&w);
}

/* It keeps nobody from anything; what the store did not take is written later, what another wrote is not. */
static void test_aside(void **state)
{
    struct world w;
    struct err err = {0};
    (void)state;
    world_open(&w, FAILOVER_KIND_FAILOVER);
    assert_null(tell(&w, FAILOVER_DONE)); /* nobody saw it run */
    assert_null(operations_find(&w.ops, "failabc"));
    tell(&w, FAILOVER_CONFIRM);
    struct operation *op = operations_find(&w.ops, "failabc");
    assert_null(operations_running_on(&w.ops, "shop", "s1"));
    assert_int_equal(op->kind->cancel(op, NULL, NULL, &err), ERRC_CONFLICT);
    failover_op_look(&w.ops);
    assert_int_equal(w.store.writes, 1);
    answer(&w.store, ERRC_IO);
    failover_op_look(&w.ops);
    assert_int_equal(w.store.writes, 2);
    answer(&w.store, ERRC_CONFLICT);
    failover_op_look(&w.ops);
    assert_int_equal(w.store.writes, 2);
    failover_op_forget(&w.ops, "shop", "s1", "failabc", "why");
    failover_op_forget(&w.ops, "shop", "s2", NULL, "why");
    assert_int_equal(op->status, OPERATION_RUNNING);
    failover_op_forget(&w.ops, "shop", NULL, "other", "the shard was taken away");
    assert_int_equal(op->status, OPERATION_FAILED);
    assert_string_equal(op->error.message, "the shard was taken away");
    answer(&w.store, ERRC_NONE);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failover),
        cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_switchover),
        cmocka_unit_test(test_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
