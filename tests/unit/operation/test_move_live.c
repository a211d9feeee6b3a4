/*
 * A database made, split, merged back and deleted by the operations on real servers: the whole move without
 * load. Crashes and load are tests/live's business.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/link.h"
#include "operation/move_op.h"
#include "operation/operation.h"
#include "operation/provision.h"

struct rig {
    struct loop loop;
    struct store *store;
    struct fleet fleet;
    struct runtime *runtime;
    struct operations ops;
    char directory[64];
    char instance[64];
    struct operation *waited;
    bool reached;
    struct err err;
    char answer[4096];
};

static const char schema[] =
    "CREATE TABLE customers (customer_id bigint PRIMARY KEY, name text, pad text);"
    "CREATE TABLE orders (customer_id bigint NOT NULL REFERENCES customers, order_id bigserial, amount "
    "bigint,"
    " twice bigint GENERATED ALWAYS AS (amount * 2) STORED, PRIMARY KEY (customer_id, order_id));"
    "CREATE TABLE events (customer_id bigint NOT NULL, at date NOT NULL, what text, PRIMARY KEY "
    "(customer_id, at))"
    " PARTITION BY RANGE (at);"
    "CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');"
    "CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2030-01-01')";

static int spec_of(void *data, const struct fleet_database *db, const char *shard, int number,
                   struct runtime_spec *ret, struct err *err)
{
    (void)number;
    struct rig *rig = data;
    (void)err;
    snprintf(rig->instance, sizeof rig->instance, "%s-%s-0", db->name, shard);
    *ret = (struct runtime_spec){.name = rig->instance,
                                 .database = db->name,
                                 .shard = shard,
                                 .owner = "app",
                                 .owner_password = "secret"};
    return 0;
}

static void on_changed(void *data, struct operation *op)
{
    struct rig *rig = data;
    if (op == rig->waited && op->status != OPERATION_RUNNING)
        loop_stop(&rig->loop);
}

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

static void wait_end(struct rig *rig, struct operation *op)
{
    rig->waited = op;
    while (op->status == OPERATION_RUNNING)
        loop_run(&rig->loop);
}

static int set_up(void **state)
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    char path[128];
    *state = rig;
    log_setup(LOG_ERROR, LOG_LOGFMT);
    assert_int_equal(loop_init(&rig->loop, env_system(), &rig->err), 0);
    snprintf(rig->directory, sizeof rig->directory, "/tmp/shardherd-move-XXXXXX");
    assert_non_null(mkdtemp(rig->directory));
    assert_int_equal(chmod(rig->directory, 0711), 0);
    snprintf(path, sizeof path, "%s/store.db", rig->directory);
    assert_int_equal(store_sqlite_open(&rig->loop, path, on_store, rig, &rig->err), 0);
    loop_run(&rig->loop);
    snprintf(path, sizeof path, "%s/instances", rig->directory);
    const char *bin = env_system()->get(env_system(), "SHARDHERD_PG_BIN");
    struct runtime_local_options local = {.directory = path, .bin_directory = bin, .first_port = 56100};
    assert_int_equal(runtime_local_open(&rig->loop, &local, &rig->runtime, &rig->err), 0);
    fleet_init(&rig->fleet);
    struct operation_services services = {.loop = &rig->loop,
                                          .store = rig->store,
                                          .fleet = &rig->fleet,
                                          .runtime = rig->runtime,
                                          .term = 1,
                                          .bin_directory = bin,
                                          .spec_of = spec_of,
                                          .spec_data = rig,
                                          .operation_changed = on_changed,
                                          .data = rig};
    operations_init(&rig->ops, &services);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    char command[128];
    rig->reached = false;
    operations_stop(&rig->ops, stop_loop, rig);
    while (!rig->reached)
        loop_run(&rig->loop);
    rig->reached = false;
    runtime_close(rig->runtime, stop_loop, rig);
    while (!rig->reached)
        loop_run(&rig->loop);
    rig->reached = false;
    store_close(rig->store, stop_loop, rig);
    while (!rig->reached)
        loop_run(&rig->loop);
    operations_fini(&rig->ops); /* writes to the store may have been under way */
    fleet_fini(&rig->fleet);
    assert_int_equal(loop_fini(&rig->loop), 0);
    snprintf(command, sizeof command, "rm -rf %s", rig->directory);
    assert_int_equal(system(command), 0);
    free(rig);
    return 0;
}

/* ---- SQL on a shard ---- */

static void on_reply(const struct pg_reply *reply, void *data)
{
    struct rig *rig = data;
    rig->answer[0] = '\0';
    if (reply->err != NULL)
        snprintf(rig->answer, sizeof rig->answer, "%s %s", reply->err->sqlstate, reply->err->message);
    else if (pg_value(reply, 0, 0) != NULL)
        snprintf(rig->answer, sizeof rig->answer, "%s", pg_value(reply, 0, 0));
    rig->reached = true;
    loop_stop(&rig->loop);
}

static const char *sql(struct rig *rig, const char *shard, const char *text)
{
    const struct fleet_instance *primary = fleet_primary(&rig->fleet, "shop", shard);
    struct link link;
    int open = 0;
    assert_non_null(primary);
    link_init(&link, &rig->loop, &primary->access, "test", &open, stop_loop, rig);
    rig->reached = false;
    link_exec(&link, text, 60 * ENV_NS_PER_S, on_reply, rig);
    while (!rig->reached)
        loop_run(&rig->loop);
    link_fini(&link);
    while (open > 0)
        loop_run(&rig->loop);
    return rig->answer;
}

static void make_shop(struct rig *rig)
{
    struct range ranges[2];
    struct operation *op;
    range_split_evenly(2, ranges);
    struct provision_shard shards[] = {{"s1", ranges[0], NULL}, {"s2", ranges[1], NULL}};
    struct provision_table tables[] = {{"public.customers", "customer_id"},
                                       {"public.orders", "customer_id"},
                                       {"public.events", "customer_id"}};
    struct provision_request request = {.database = "shop",
                                        .shards = shards,
                                        .shard_count = 2,
                                        .tables = tables,
                                        .table_count = 3,
                                        .schema = schema,
                                        .owner = "app"};
    fleet_add_database(&rig->fleet, "shop");
    assert_int_equal(provision_start(&rig->ops, &request, &op, &rig->err), 0);
    wait_end(rig, op);
    assert_string_equal(op->error.message, "");
    assert_int_equal(op->status, OPERATION_DONE);
}

#define OWNED_ROWS                                                                                           \
    "CREATE TEMP TABLE k AS SELECT i FROM generate_series(1, 20000) i WHERE EXISTS (SELECT FROM "            \
    "shardherd.shard s, "                                                                                    \
    "unnest(s.los, s.his) AS r(lo, hi) WHERE hashint8extended(i, 0) BETWEEN r.lo AND r.hi);"                 \
    "INSERT INTO public.customers SELECT i, 'n' || i, repeat('x', 100) FROM k;"                              \
    "INSERT INTO public.orders (customer_id, amount) SELECT i, g FROM k, generate_series(1, 3) g;"           \
    "INSERT INTO public.events SELECT i, d::date, 'e' FROM k, (VALUES ('2024-05-01'), ('2026-05-01')) v(d);" \
    "SELECT count(*) FROM k"

#define LEFTOVERS                                                                                            \
    "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_subscription) + "         \
    "(SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM shardherd.gate) + "                       \
    "(SELECT count(*) FROM shardherd.freeze) + (SELECT count(*) FROM pg_event_trigger WHERE evtname <> "     \
    "'shardherd_trigger_made') + "                                                                           \
    "(SELECT count(*) FROM pg_class WHERE relname ~ '^shardherd_') + "                                       \
    "(SELECT count(*) FROM pg_replication_origin)"

#define MISPLACED                                                                                            \
    "SELECT (SELECT count(*) FROM public.customers WHERE NOT EXISTS (SELECT FROM shardherd.shard s, "        \
    "unnest(s.los, s.his) AS r(lo, hi) WHERE hashint8extended(customer_id, 0) BETWEEN r.lo AND r.hi)) + "    \
    "(SELECT count(*) FROM public.orders WHERE NOT EXISTS (SELECT FROM shardherd.shard s, "                  \
    "unnest(s.los, s.his) AS r(lo, hi) WHERE hashint8extended(customer_id, 0) BETWEEN r.lo AND r.hi))"

static long number(struct rig *rig, const char *shard, const char *text)
{
    return strtol(sql(rig, shard, text), NULL, 10);
}

static void print_split(const struct move_record *r)
{
    printf("split: block %llu us (lock %llu inside %llu commit %llu open %llu), copy %llu ms, tries %u, "
           "cleaned %llu\n",
           (unsigned long long)r->write_block_us, (unsigned long long)r->lock_us,
           (unsigned long long)r->inside_us, (unsigned long long)r->commit_us, (unsigned long long)r->open_us,
           (unsigned long long)r->copy_us / 1000, r->fence_attempts, (unsigned long long)r->cleaned_rows);
}

static void assert_no_leftovers(struct rig *rig)
{
    for (int i = 1; i <= 3; i++) {
        char shard[4];
        snprintf(shard, sizeof shard, "s%d", i);
        assert_string_equal(sql(rig, shard, LEFTOVERS), "0");
        assert_string_equal(sql(rig, shard, MISPLACED), "0");
    }
}

static void test_split_and_merge(void **state)
{
    struct rig *rig = *state;
    struct operation *op;
    make_shop(rig);
    long ones = number(rig, "s1", OWNED_ROWS);
    long twos = number(rig, "s2", OWNED_ROWS);
    assert_int_equal(ones + twos, 20000);
    sql(rig, "s1", "INSERT INTO public.customers SELECT -i FROM generate_series(1, 100) i");
    assert_memory_equal(rig->answer, "SHR01", 5);

    const struct routing_shard *s2 =
        routing_find_shard(fleet_find_database(&rig->fleet, "shop")->routing, "s2");
    int64_t middle = s2->ranges.items[0].lo + INT64_MAX / 2;
    struct move_request split = {.kind = MOVE_KIND_SPLIT,
                                 .database = "shop",
                                 .source = "s2",
                                 .range = {middle, s2->ranges.items[0].hi}};
    assert_int_equal(move_op_start(&rig->ops, &split, &op, &rig->err), 0);
    struct err second = {0};
    assert_int_equal(move_op_start(&rig->ops, &split, NULL, &second), ERRC_CONFLICT);
    wait_end(rig, op);
    assert_string_equal(op->error.message, "");
    assert_int_equal(op->status, OPERATION_DONE);
    print_split(move_op_record(op));
    assert_int_equal(number(rig, "s1", "SELECT count(*) FROM public.customers"), ones);
    long left = number(rig, "s2", "SELECT count(*) FROM public.customers");
    long moved = number(rig, "s3", "SELECT count(*) FROM public.customers");
    assert_int_equal(left + moved, twos);
    assert_true(moved > 0);
    assert_int_equal(number(rig, "s3", "SELECT count(*) FROM public.orders WHERE twice = amount * 2"),
                     moved * 3);
    assert_int_equal(number(rig, "s3", "SELECT count(*) FROM public.events"), moved * 2);
    assert_no_leftovers(rig);
    /* both refuse what they do not own, sequences on the new shard do not hand out what S did */
    sql(rig, "s3", "INSERT INTO public.customers SELECT -i FROM generate_series(1, 100) i");
    assert_memory_equal(rig->answer, "SHR01", 5);
    assert_true(number(rig, "s3", "SELECT nextval('public.orders_order_id_seq')") >
                number(rig, "s2", "SELECT last_value FROM public.orders_order_id_seq"));

    struct move_request merge = {.kind = MOVE_KIND_MERGE,
                                 .database = "shop",
                                 .source = "s3",
                                 .target = "s2",
                                 .range = split.range,
                                 .retire_source = true};
    assert_int_equal(move_op_start(&rig->ops, &merge, &op, &rig->err), 0);
    wait_end(rig, op);
    assert_string_equal(op->error.message, "");
    assert_int_equal(op->status, OPERATION_DONE);
    assert_int_equal(number(rig, "s2", "SELECT count(*) FROM public.customers"), twos);
    assert_string_equal(sql(rig, "s2", LEFTOVERS), "0");
    assert_null(routing_find_shard(fleet_find_database(&rig->fleet, "shop")->routing, "s3"));

    assert_int_equal(retire_start(&rig->ops, "shop", &op, &rig->err), 0);
    wait_end(rig, op);
    assert_int_equal(op->status, OPERATION_DONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_split_and_merge, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
