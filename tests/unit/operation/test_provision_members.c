/*
 * A database with three instances for each shard, made and deleted by the operations on real servers. Who
 * drives the shard is the test, which orders the agents about by HTTP.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/link.h"
#include "operation/operation.h"
#include "operation/provision.h"
#include "support/member_call.h"

#define MEMBERS 3

struct rig {
    struct loop loop;
    struct store *store;
    struct fleet fleet;
    struct runtime *runtime;
    struct operations ops;
    char directory[64];
    char instances[96];
    char instance[64];
    struct operation *waited;
    bool reached;
    struct err err;
    char answer[1024];
    struct loop_task driven;
    operation_driven_cb driven_cb;
    void *driven_data;
    int drives;
    bool holds; /* who drives does not answer */
    struct operation_services services;
};

static int spec_of(void *data, const struct fleet_database *db, const char *shard, int number,
                   struct runtime_spec *ret, struct err *err)
{
    struct rig *rig = data;
    (void)err;
    snprintf(rig->instance, sizeof rig->instance, "%s-%s-%d", db->name, shard, number);
    *ret = (struct runtime_spec){.name = rig->instance,
                                 .database = db->name,
                                 .shard = shard,
                                 .owner = "app",
                                 .owner_password = "secret",
                                 .member = true,
                                 .password = "secret of the members"};
    return 0;
}

/* ---- who drives the shard ---- */

static const struct instance_access *access_of(const struct rig *rig, const char *name)
{
    const struct fleet_instance *instance = fleet_find_instance(&rig->fleet, name);
    assert_non_null(instance);
    assert_non_null(instance->access.agent_token);
    return &instance->access;
}

static void order(const struct rig *rig, const char *name, const char *text, const char *until)
{
    const struct instance_access *a = access_of(rig, name);
    member_assign(a->agent_port, a->agent_token, text);
    member_wait(a->agent_port, a->agent_token, until);
}

static void driven(struct loop_task *task, void *data)
{
    struct rig *rig = data;
    (void)task;
    rig->driven_cb(NULL, "shop-s1-0", rig->driven_data);
}

static int drive(void *data, const char *database, const char *shard, operation_driven_cb done,
                 void *done_data, struct err *err)
{
    struct rig *rig = data;
    char text[512];
    (void)err;
    assert_string_equal(database, "shop");
    assert_string_equal(shard, "s1");
    rig->drives++;
    rig->driven_cb = done;
    rig->driven_data = done_data;
    if (rig->holds) {
        loop_stop(&rig->loop);
        return 0;
    }
    order(rig, "shop-s1-0",
          "{\"term\": \"1\", \"role\": \"primary\", \"initialize\": true, \"slots\": [\"shardherd_1\", "
          "\"shardherd_2\"], \"sync\": {\"need\": 1, \"members\": [\"shop-s1-1\", \"shop-s1-2\"]}}",
          "\"reported\":\"primary\"");
    for (int i = 1; i < MEMBERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "shop-s1-%d", i);
        snprintf(text, sizeof text,
                 "{\"term\": \"1\", \"role\": \"standby\", \"upstream\": {\"host\": \"127.0.0.1\", \"port\": "
                 "%d, \"slot\": \"shardherd_%d\"}}",
                 access_of(rig, "shop-s1-0")->port, i);
        order(rig, name, text, "\"receiver\":\"streaming\"");
    }
    rig->driven = (struct loop_task){.run = driven, .data = rig};
    loop_defer(&rig->loop, &rig->driven);
    return 0;
}

/* ---- the rig ---- */

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

static void wait_reached(struct rig *rig)
{
    while (!rig->reached)
        loop_run(&rig->loop);
    rig->reached = false;
}

static void wait_end(struct rig *rig, struct operation *op)
{
    rig->waited = op;
    while (op->status == OPERATION_RUNNING)
        loop_run(&rig->loop);
}

static void runtime_make(struct rig *rig)
{
    char program[512];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 32);
    assert_true(n > 0);
    program[n] = '\0';
    snprintf(strrchr(program, '/'), 32, "/../shardherd"); /* beside the folder of the tests */
    snprintf(rig->instances, sizeof rig->instances, "%s/instances", rig->directory);
    struct runtime_local_options local = {.directory = rig->instances,
                                          .bin_directory =
                                              env_system()->get(env_system(), "SHARDHERD_PG_BIN"),
                                          .first_port = 56400,
                                          .program = program};
    assert_int_equal(runtime_local_open(&rig->loop, &local, &rig->runtime, &rig->err), 0);
}

static int set_up(void **state)
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    char path[128];
    *state = rig;
    log_setup(LOG_ERROR, LOG_LOGFMT);
    assert_int_equal(loop_init(&rig->loop, env_system(), &rig->err), 0);
    snprintf(rig->directory, sizeof rig->directory, "/tmp/shardherd-members-XXXXXX");
    assert_non_null(mkdtemp(rig->directory));
    assert_int_equal(chmod(rig->directory, 0711), 0);
    snprintf(path, sizeof path, "%s/store.db", rig->directory);
    assert_int_equal(store_sqlite_open(&rig->loop, path, on_store, rig, &rig->err), 0);
    loop_run(&rig->loop);
    runtime_make(rig);
    fleet_init(&rig->fleet);
    rig->services = (struct operation_services){.loop = &rig->loop,
                                                .store = rig->store,
                                                .fleet = &rig->fleet,
                                                .runtime = rig->runtime,
                                                .term = 1,
                                                .spec_of = spec_of,
                                                .spec_data = rig,
                                                .drive = drive,
                                                .drive_data = rig,
                                                .operation_changed = on_changed,
                                                .data = rig};
    operations_init(&rig->ops, &rig->services);
    return 0;
}

static void on_removed(const struct err *err, void *data)
{
    (void)err;
    stop_loop(data);
}

/* What a failed test left. */
static void members_remove(struct rig *rig)
{
    for (int i = 0; i < MEMBERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "shop-s1-%d", i);
        rig->reached = false;
        if (runtime_remove(rig->runtime, name, on_removed, rig, NULL) == 0)
            wait_reached(rig);
    }
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    char command[128];
    rig->reached = false;
    operations_stop(&rig->ops, stop_loop, rig);
    wait_reached(rig);
    operations_fini(&rig->ops);
    members_remove(rig);
    runtime_close(rig->runtime, stop_loop, rig);
    wait_reached(rig);
    store_close(rig->store, stop_loop, rig);
    wait_reached(rig);
    fleet_fini(&rig->fleet);
    assert_int_equal(loop_fini(&rig->loop), 0);
    snprintf(command, sizeof command, "rm -rf %s", rig->directory);
    assert_int_equal(system(command), 0);
    free(rig);
    return 0;
}

static void on_reply(const struct pg_reply *reply, void *data)
{
    struct rig *rig = data;
    rig->answer[0] = '\0';
    if (reply->err != NULL)
        snprintf(rig->answer, sizeof rig->answer, "%s", reply->err->message);
    else if (pg_value(reply, 0, 0) != NULL)
        snprintf(rig->answer, sizeof rig->answer, "%s", pg_value(reply, 0, 0));
    stop_loop(rig);
}

static const char *sql(struct rig *rig, const char *instance, const char *text)
{
    struct link link;
    int open = 0;
    link_init(&link, &rig->loop, access_of(rig, instance), "test", &open, stop_loop, rig);
    rig->reached = false;
    link_exec(&link, text, 60 * ENV_NS_PER_S, on_reply, rig);
    wait_reached(rig);
    link_fini(&link);
    while (open > 0)
        loop_run(&rig->loop);
    rig->reached = false;
    return rig->answer;
}

static struct operation *shop_start(struct rig *rig)
{
    struct operation *op;
    struct range all;
    range_split_evenly(1, &all);
    struct provision_shard shards[] = {{"s1", all, NULL}};
    struct provision_table tables[] = {{"public.orders", "id"}};
    struct provision_request request = {.database = "shop",
                                        .shards = shards,
                                        .shard_count = 1,
                                        .tables = tables,
                                        .table_count = 1,
                                        .schema = "CREATE TABLE orders (id bigint PRIMARY KEY)",
                                        .owner = "app"};
    fleet_add_database(&rig->fleet, "shop")->instances = MEMBERS;
    assert_int_equal(provision_start(&rig->ops, &request, &op, &rig->err), 0);
    return op;
}

static struct operation *make_shop(struct rig *rig)
{
    struct operation *op = shop_start(rig);
    wait_end(rig, op);
    return op;
}

static int entries(const struct rig *rig)
{
    DIR *dir = opendir(rig->instances);
    int count = -2;
    while (dir != NULL && readdir(dir) != NULL)
        count++;
    if (dir != NULL)
        closedir(dir);
    return count;
}

/* ---- tests ---- */

static void test_made_and_deleted(void **state)
{
    struct rig *rig = *state;
    struct operation *op = make_shop(rig);
    assert_string_equal(op->error.message, "");
    assert_int_equal(op->status, OPERATION_DONE);
    assert_int_equal(rig->drives, 1);
    assert_int_equal(entries(rig), MEMBERS);
    const struct fleet_instance *primary = fleet_primary(&rig->fleet, "shop", "s1");
    assert_non_null(primary);
    assert_string_equal(primary->name, "shop-s1-0");
    assert_string_equal(sql(rig, "shop-s1-0", "INSERT INTO public.orders VALUES (1) RETURNING id"), "1");
    for (int i = 1; i < MEMBERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "shop-s1-%d", i);
        for (int tries = 0; tries < 500 && strcmp(sql(rig, name, "SELECT id FROM public.orders"), "1") != 0;
             tries++)
            pg_server_wait_ms(20);
        assert_string_equal(rig->answer, "1");
        assert_string_equal(sql(rig, name, "SELECT name FROM shardherd.shard"), "s1");
    }
    assert_int_equal(retire_start(&rig->ops, "shop", &op, &rig->err), 0);
    wait_end(rig, op);
    assert_string_equal(op->error.message, "");
    assert_int_equal(op->status, OPERATION_DONE);
    assert_int_equal(entries(rig), 0);
}

static void on_resumed(const struct err *err, void *data)
{
    assert_null(err);
    stop_loop(data);
}

/* The manager goes while somebody is asked for a primary; the next one asks again. */
static void test_resumed(void **state)
{
    struct rig *rig = *state;
    struct err canceled = {.code = ERRC_CANCELED};
    rig->holds = true;
    struct operation *op = shop_start(rig);
    while (rig->drives == 0)
        loop_run(&rig->loop);
    assert_string_equal(provision_state_name(op), "primaries");
    rig->reached = false;
    operations_stop(&rig->ops, stop_loop, rig);
    wait_reached(rig);
    rig->driven_cb(&canceled, NULL, rig->driven_data); /* who drives is closed before operations are freed */
    operations_fini(&rig->ops);
    operations_init(&rig->ops, &rig->services);
    rig->holds = false;
    assert_int_equal(operations_resume(&rig->ops, on_resumed, rig, &rig->err), 0);
    wait_reached(rig);
    op = list_item(list_first(&rig->ops.list), struct operation, node);
    wait_end(rig, op);
    assert_string_equal(op->error.message, "");
    assert_int_equal(op->status, OPERATION_DONE);
    assert_int_equal(rig->drives, 2);
    assert_string_equal(sql(rig, "shop-s1-0", "SELECT name FROM shardherd.shard"), "s1");
    members_remove(rig);
}

static void test_nobody_drives(void **state)
{
    struct rig *rig = *state;
    rig->ops.services.drive = NULL;
    struct operation *op = make_shop(rig);
    assert_int_equal(op->status, OPERATION_FAILED);
    assert_non_null(strstr(op->error.message, "nothing drives shards of several instances here"));
    assert_int_equal(entries(rig), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_made_and_deleted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_resumed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nobody_drives, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
