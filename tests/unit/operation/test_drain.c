/*
 * Who gets what from a shard that is emptied, what a drain remembers over a restart, and which moves count
 * for the limit of the fleet. Without servers: nothing here comes so far that it would need one. Whole drains
 * are tests/live's business.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/drain.h"
#include "operation/drain_plan.h"
#include "operation/move_op.h"

struct rig {
    struct loop loop;
    struct store *store;
    struct fleet fleet;
    struct operations ops;
    char directory[64];
    int64_t created;
    bool reached;
    struct err err;
};

static void on_store(const struct err *err, struct store *store, void *data)
{
    struct rig *rig = data;
    assert_null(err);
    rig->store = store;
    loop_stop(&rig->loop);
}

static void stop_loop(void *data)
{
    struct rig *rig = data;
    rig->reached = true;
    loop_stop(&rig->loop);
}

static void on_changed(void *data, struct operation *op)
{
    struct rig *rig = data;
    (void)op;
    loop_stop(&rig->loop);
}

static void own(struct routing_shard *shard, int64_t lo, int64_t hi)
{
    const struct range range = {lo, hi};
    struct err err = {0};
    assert_int_equal(range_set_add(&shard->ranges, &range, &err), 0);
}

/* s1 .. -1001, s3 -1000..-1, s2 0..999, s3 1000..1999, s4 2000.. */
static void add_database(struct rig *rig, const char *name)
{
    struct fleet_database *db = fleet_add_database(&rig->fleet, name);
    db->routing = routing_new(name);
    for (const char *const *shard = (const char *const[]){"s1", "s2", "s3", "s4", NULL}; *shard != NULL;
         shard++)
        (void)routing_add_shard(db->routing, *shard, "127.0.0.1", 5432);
    own(routing_find_shard(db->routing, "s1"), INT64_MIN, -1001);
    own(routing_find_shard(db->routing, "s2"), 0, 999);
    own(routing_find_shard(db->routing, "s3"), -1000, -1);
    own(routing_find_shard(db->routing, "s3"), 1000, 1999);
    own(routing_find_shard(db->routing, "s4"), 2000, INT64_MAX);
}

static int set_up(void **state)
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    char path[128];
    *state = rig;
    log_setup(LOG_ERROR, LOG_LOGFMT);
    assert_int_equal(loop_init(&rig->loop, env_system(), &rig->err), 0);
    snprintf(rig->directory, sizeof rig->directory, "/tmp/shardherd-drain-XXXXXX");
    assert_non_null(mkdtemp(rig->directory));
    snprintf(path, sizeof path, "%s/store.db", rig->directory);
    assert_int_equal(store_sqlite_open(&rig->loop, path, on_store, rig, &rig->err), 0);
    loop_run(&rig->loop);
    fleet_init(&rig->fleet);
    add_database(rig, "shop");
    add_database(rig, "other");
    const struct operation_services services = {.loop = &rig->loop,
                                                .store = rig->store,
                                                .fleet = &rig->fleet,
                                                .term = 1,
                                                .operation_changed = on_changed,
                                                .data = rig};
    operations_init(&rig->ops, &services);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    char command[128];
    operations_stop(&rig->ops, stop_loop, rig);
    while (!rig->reached)
        loop_run(&rig->loop);
    rig->reached = false;
    store_close(rig->store, stop_loop, rig); /* what is written to it has its answer then */
    while (!rig->reached)
        loop_run(&rig->loop);
    operations_fini(&rig->ops);
    fleet_fini(&rig->fleet);
    assert_int_equal(loop_fini(&rig->loop), 0);
    snprintf(command, sizeof command, "rm -rf %s", rig->directory);
    assert_int_equal(system(command), 0);
    free(rig);
    return 0;
}

static const struct routing *routing_of(const struct rig *rig)
{
    return fleet_find_database(&rig->fleet, "shop")->routing;
}

static struct operation *drain_of_shard(struct rig *rig, const char *database, const char *shard,
                                        bool dry_run)
{
    const struct drain_request request = {.database = database, .shard = shard, .dry_run = dry_run};
    struct operation *op = NULL;
    assert_int_equal(drain_start(&rig->ops, &request, &op, &rig->err), 0);
    return op;
}

/* As another manager left it. */
static void resume_move(struct rig *rig, const char *id, const char *database, const char *source,
                        enum move_state state, const char *reason)
{
    struct move_record r;
    struct buf json = {0};
    move_record_init(&r);
    snprintf(r.id, sizeof r.id, "%s", id);
    snprintf(r.database, sizeof r.database, "%s", database);
    snprintf(r.source, sizeof r.source, "%s", source);
    snprintf(r.target, sizeof r.target, "s4");
    snprintf(r.reason, sizeof r.reason, "%s", reason);
    r.range = routing_find_shard(routing_of(rig), source)->ranges.items[0];
    r.state = state;
    r.dry_run = strcmp(id, "dry") == 0;
    r.created_us = ++rig->created;
    move_record_print(&r, &json);
    assert_int_equal(move_op_resume(&rig->ops, buf_text(&json), 0, &rig->err), 0);
    buf_free(&json);
}

static const char *taker(const struct rig *rig, const char *giver, int64_t lo, int64_t hi)
{
    const struct range range = {lo, hi};
    const struct routing_shard *s = drain_taker(&rig->ops, routing_of(rig), giver, &range);
    return s != NULL ? s->name : NULL;
}

/* ---- who gets it ---- */

static void test_taker(void **state)
{
    struct rig *rig = *state;
    assert_string_equal(taker(rig, "s3", -1000, -1), "s2"); /* the neighbour that owns less */
    assert_string_equal(taker(rig, "s3", 1000, 1999), "s2");
    assert_string_equal(taker(rig, "s4", 2000, INT64_MAX), "s3");
    (void)drain_of_shard(rig, "other", "s2", false); /* s2 of another database */
    (void)drain_of_shard(rig, "shop", "s2", true);   /* only asks */
    assert_string_equal(taker(rig, "s3", -1000, -1), "s2");
    (void)drain_of_shard(rig, "shop", "s2", false);
    assert_string_equal(taker(rig, "s3", -1000, -1), "s1");
    assert_string_equal(taker(rig, "s3", 1000, 1999), "s4");
    (void)drain_of_shard(rig, "shop", "s1", false);
    assert_string_equal(taker(rig, "s3", -1000, -1), "s4"); /* no neighbour may: whoever else */
    (void)drain_of_shard(rig, "shop", "s4", false);
    assert_null(taker(rig, "s3", -1000, -1));
}

/* Each move is planned with what the moves before it gave. */
static void test_plan(void **state)
{
    struct rig *rig = *state;
    struct routing *routing = fleet_find_database(&rig->fleet, "shop")->routing;
    size_t count = 0;
    const struct range wide = {-1000000, -1001}, most = {4000, INT64_MAX};
    assert_int_equal(routing_move(routing, "s1", "s3", &wide, &rig->err), 0);
    assert_int_equal(routing_move(routing, "s4", "s3", &most, &rig->err), 0);
    /* s1 .. -1000001, s3 -1000000..-1, s2 0..999, s3 1000..1999, s4 2000..3999, s3 4000.. */
    struct drain_step *plan = drain_plan_make(&rig->ops, routing, "s3", NULL, &count);
    assert_int_equal(count, 3);
    assert_string_equal(plan[0].target, "s2");
    assert_string_equal(plan[1].target, "s4"); /* s2 owned less than s4 before it got the first */
    assert_string_equal(plan[2].target, "s4");
    drain_plan_free(plan, count);
    plan = drain_plan_make(&rig->ops, routing, "s3", "s1", &count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(plan[i].target, "s1");
    drain_plan_free(plan, count);
}

/* Nothing goes to a shard that is being emptied, nor is it emptied twice. */
static void test_target_that_is_drained(void **state)
{
    struct rig *rig = *state;
    struct operation *op = NULL, *drained = drain_of_shard(rig, "shop", "s2", false);
    char expected[128];
    struct drain_request request = {.database = "shop", .shard = "s3", .target = "s2"};
    snprintf(expected, sizeof expected, "operation %s drains shard s2: wait for it or cancel it",
             drained->id);
    assert_int_equal(drain_start(&rig->ops, &request, &op, &rig->err), ERRC_CONFLICT);
    assert_string_equal(rig->err.message, expected);
    request = (struct drain_request){.database = "shop", .shard = "s2"};
    assert_int_equal(drain_start(&rig->ops, &request, &op, &rig->err), ERRC_CONFLICT);
    const struct move_request move = {
        .kind = MOVE_KIND_MOVE, .database = "shop", .source = "s1", .target = "s2", .range = {-5000, -1001}};
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_CONFLICT);
    assert_non_null(strstr(rig->err.message, "drains shard s2: it is to get nothing"));
    assert_null(op);
}

/* What would be left without an owner is not taken away. */
static void test_retired_with_all_it_owns(void **state)
{
    struct rig *rig = *state;
    struct move_request move = {.kind = MOVE_KIND_MERGE,
                                .database = "shop",
                                .source = "s3",
                                .target = "s2",
                                .range = {-1000, -1},
                                .retire_source = true};
    const struct range other = {1000, 1999};
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_REFUSED);
    assert_string_equal(rig->err.message, "only a shard whose one range is moved can be retired with it");
    assert_int_equal(
        routing_move(fleet_find_database(&rig->fleet, "shop")->routing, "s3", "s2", &other, &rig->err), 0);
    for (int part = 0; part < 2; part++) {
        move.range = part == 0 ? (struct range){-1000, -2} : (struct range){-999, -1};
        assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_REFUSED);
    }
    move.range =
        (struct range){-1000, -1}; /* all of it: it comes to ask for the primary, which is not there */
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_UNAVAILABLE);
}

/* ---- the limit ---- */

static void test_what_counts(void **state)
{
    struct rig *rig = *state;
    struct move_request move = {
        .kind = MOVE_KIND_MOVE, .database = "shop", .source = "s1", .target = "s2", .range = {-5000, -1001}};
    rig->ops.services.max_moves = 1;
    resume_move(rig, "held", "other", "s1", MOVE_HELD, "");
    resume_move(rig, "bakes", "other", "s2", MOVE_WATCH, "");
    resume_move(rig, "dry", "other", "s3", MOVE_PLANNED, "");
    resume_move(rig, "done", "other", "s1", MOVE_DONE, "");
    (void)drain_of_shard(rig, "other", "s3", false); /* its moves count, it does not */
    assert_int_equal(move_op_working(&rig->ops), 0);
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_UNAVAILABLE); /* no primary */
    resume_move(rig, "copies", "other", "s3", MOVE_COPY, "");
    assert_int_equal(move_op_working(&rig->ops), 1);
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_CONFLICT);
    assert_non_null(strstr(rig->err.message, "1 move runs in the whole fleet (copies on shard s3)"));
    move.dry_run = true;
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_UNAVAILABLE);
    move.dry_run = false;
    rig->ops.services.max_moves = 2;
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_UNAVAILABLE);
    resume_move(rig, "cleans", "shop", "s3", MOVE_CLEAN, "");
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_CONFLICT);
    assert_non_null(
        strstr(rig->err.message, "2 moves run in the whole fleet (copies on shard s3, cleans on"));
    rig->ops.services.max_moves = 0;
    assert_int_equal(move_op_start(&rig->ops, &move, NULL, &rig->err), ERRC_UNAVAILABLE);
}

/* ---- another manager's ---- */

static struct operation *resume_drain(struct rig *rig, const char *more)
{
    struct buf json = {0};
    buf_printf(&json,
               "{\"id\": \"drain1\", \"database\": \"shop\", \"source\": \"s3\", \"state\": \"moving\", "
               "\"bake_us\": \"7000000\", \"ranges\": \"2\", \"created_us\": \"1\", \"ended_us\": \"0\"%s}",
               more);
    assert_int_equal(drain_resume(&rig->ops, buf_text(&json), 0, &rig->err), 0);
    buf_free(&json);
    return operations_find(&rig->ops, "drain1");
}

static void run_until_said(struct rig *rig, const struct operation *op)
{
    while (op->status == OPERATION_RUNNING && op->error.code == ERRC_NONE)
        loop_run(&rig->loop);
}

static void test_journal(void **state)
{
    struct rig *rig = *state;
    struct buf json = {0};
    const struct operation *op =
        resume_drain(rig, ", \"target\": \"s1\", \"allow_ddl\": true, \"canceled\": true");
    op->kind->print(op, &json);
    for (const char *const *part =
             (const char *const[]){"\"source\":\"s3\"", "\"target\":\"s1\"", "\"allow_ddl\":true",
                                   "\"canceled\":true", "\"bake_us\":\"7000000\"", "\"ranges\":\"2\"", NULL};
         *part != NULL; part++)
        if (strstr(buf_text(&json), *part) == NULL)
            fail_msg("%s is not in %s", *part, buf_text(&json));
    buf_free(&json);
    run_until_said(rig, op); /* it begins nothing any more */
    assert_int_equal(op->status, OPERATION_UNDONE);
}

/* The newest of its moves says how it goes on: one that was taken back ends it. */
static void test_newest_move(void **state)
{
    struct rig *rig = *state;
    resume_move(rig, "first", "shop", "s3", MOVE_DONE, "drain drain1: shard s3 gives all it has, 2 left");
    resume_move(rig, "second", "shop", "s3", MOVE_UNDONE, "drain drain1: shard s3 gives all it has, 1 left");
    resume_move(rig, "another", "shop", "s3", MOVE_DONE, "drain drain10: shard s3 gives all it has, 1 left");
    const struct operation *op = resume_drain(rig, "");
    run_until_said(rig, op);
    assert_string_equal(op->error.message, "operation second of it ended as undone");
    while (op->status == OPERATION_RUNNING)
        loop_run(&rig->loop);
    assert_int_equal(op->status, OPERATION_FAILED);
}

/* It stands back while as many moves run as may, and is not ended by it. */
static void test_waits_for_the_limit(void **state)
{
    struct rig *rig = *state;
    rig->ops.services.max_moves = 1;
    resume_move(rig, "copies", "other", "s3", MOVE_COPY, "");
    const struct operation *op = resume_drain(rig, "");
    run_until_said(rig, op);
    assert_int_equal(op->status, OPERATION_RUNNING);
    assert_string_equal(drain_state_name(op), "waits");
    assert_non_null(strstr(op->error.message, "balance.max_moves is 1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_taker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_plan, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_target_that_is_drained, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_retired_with_all_it_owns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_journal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_newest_move, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_waits_for_the_limit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
