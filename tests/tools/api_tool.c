/* links: api operation store http fleet loop */
/*
 * The API over a canned fleet, without PostgreSQL: for tests/live/test_api.py. Prints one JSON line with its
 * ports, then obeys lines on stdin (each answered with "ok" or "what?" on stdout) until "quit" or end of
 * file: move            a range goes from s1 to s2 and back: the routing table's epoch grows progress N N
 * times progress of one operation in one turn decide, instance, ready, unready, remove Its databases: shop
 * (s1, s2; bigint keys), docs (one shard, text keys), fresh (not provisioned).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/mem.h"
#include "operation/move_op.h"
#include "operation/provision.h"

struct answer {
    struct loop_task task;
    struct tool *tool;
    api_answer_cb cb;
    void *data;
    struct err err;
    bool created;
    char operation[OPERATION_ID_SIZE];
};

struct runtime_answer {
    struct loop_task task;
    runtime_instance_cb instance_cb;
    runtime_done_cb done_cb;
    void *data;
};

struct tool {
    struct loop loop;
    struct fleet fleet;
    struct operations operations;
    struct store *store;
    struct runtime runtime;
    struct loop *runtime_loop;
    struct api *api;
    struct http_server *servers[3];
    int open;
    bool ready, moved, quitting;
    unsigned decisions;
    uv_pipe_t input;
    struct buf line;
};

static struct tool tool; /* of a test program: one for the process, so that the runtime finds the loop */

static void die(const char *what, const struct err *err)
{
    fprintf(stderr, "api_tool: %s: %s\n", what, err != NULL ? err->message : "");
    exit(1);
}

/* ---- the canned fleet ---- */

static void add_instance(const char *database, const char *shard, int port, bool loaded)
{
    char name[64];
    struct fleet_instance *i;
    struct err err = {0};
    struct instance_access access = {
        .host = (char *)"127.0.0.1", .port = port, .user = (char *)"shardherd", .dbname = (char *)"app"};
    snprintf(name, sizeof name, "%s-%s-0", database, shard);
    if (fleet_add_instance(&tool.fleet, name, "static", &access, &i, &err) != 0)
        die("instance", &err);
    free(i->database);
    free(i->shard);
    i->database = mem_strdup(database);
    i->shard = mem_strdup(shard);
    i->facts.role = ROLE_PRIMARY;
    i->facts.health = HEALTH_UP;
    i->facts.server_version = 150018;
    i->facts.system_identifier = 7300000000000000001ull;
    i->facts.seen_ns = loop_now(&tool.loop);
    i->facts.wal_lsn = 0x1600000028;
    for (unsigned n = 0; loaded && n < 30; n++) {
        struct load_sample s = {.at_ns = loop_now(&tool.loop) - (30 - n) * ENV_NS_PER_S,
                                .value = {1000 + (float)n, 0.5F, 1e6F, 1e9F},
                                .active_sessions = 4,
                                .probe_ms = 0.7F};
        load_ring_add(&i->load, &s);
        hist_sparse_add(&i->probe, 700 + n);
    }
}

static void add_database(const char *name, enum key_type type, int shards, int port)
{
    struct fleet_database *db = fleet_add_database(&tool.fleet, name);
    struct range ranges[2];
    struct err err = {0};
    db->spec_json = mem_strdup("{\"kind\":\"ShardedDatabase\"}");
    db->spec_revision = 7;
    if (shards == 0)
        return;
    db->routing = routing_new(name);
    routing_add_table(db->routing, "public.customers", "customer_id", type);
    routing_add_table(db->routing, "public.orders", "customer_id", type);
    range_split_evenly((size_t)shards, ranges);
    for (int i = 0; i < shards; i++) {
        char shard[16];
        snprintf(shard, sizeof shard, "s%d", i + 1);
        struct routing_shard *s = routing_add_shard(db->routing, shard, "127.0.0.1", port + i);
        if (range_set_add(&s->ranges, &ranges[i], &err) != 0)
            die("range", &err);
        if (i == 0)
            routing_add_replica(s, "127.0.0.1", port + 100, 4096);
        add_instance(name, shard, port + i, i == 0);
    }
    if (routing_check(db->routing, &err) != 0)
        die("routing", &err);
}

static void add_ended_moves(void)
{
    for (int i = 0; i < 7; i++) {
        struct move_record r;
        struct buf json = {0};
        struct err err = {0};
        move_record_init(&r);
        snprintf(r.id, sizeof r.id, "splt%07d", i);
        r.kind = MOVE_KIND_SPLIT;
        snprintf(r.database, sizeof r.database, i % 2 == 0 ? "shop" : "docs");
        snprintf(r.source, sizeof r.source, "s1");
        snprintf(r.target, sizeof r.target, "s2");
        snprintf(r.reason, sizeof r.reason, "shard s1 is hot");
        r.range = (struct range){0, 99};
        r.state = i == 3 ? MOVE_REFUSED : MOVE_DONE;
        if (i == 3)
            buf_add_text(&r.findings,
                         "[{\"subject\":\"public.orders\",\"finding\":\"no key\",\"remedy\":\"add one\"}]");
        r.created_us = 1700000000000000 + i * 1000000;
        r.ended_us = r.created_us + 500000;
        move_record_print(&r, &json);
        if (move_op_resume(&tool.operations, buf_text(&json), 0, &err) != 0)
            die("journal", &err);
        buf_free(&json);
        move_record_free(&r);
    }
}

/* ---- what a manager would provide ---- */

static void answer_run(struct loop_task *task, void *data)
{
    struct answer *a = data;
    struct api_answer answer = {a->err.code != ERRC_NONE ? &a->err : NULL, a->created,
                                a->operation[0] != '\0' ? a->operation : NULL};
    (void)task;
    a->cb(&answer, a->data);
    free(a);
}

static struct answer *answer_new(api_answer_cb cb, void *data)
{
    struct answer *a = mem_zalloc(sizeof *a);
    a->task.run = answer_run;
    a->task.data = a;
    a->cb = cb;
    a->data = data;
    loop_defer(&tool.loop, &a->task);
    return a;
}

static void apply_new(struct answer *a, const char *name)
{
    static const struct provision_shard shard = {"s1", {INT64_MIN, INT64_MAX}, NULL};
    static const struct provision_table table = {"public.t", "id"};
    const struct provision_request request = {name, &shard, 1, &table, 1, NULL, "app"};
    struct operation *op;
    fleet_add_database(&tool.fleet, name)->spec_revision = 1;
    if (provision_start(&tool.operations, &request, &op, &a->err) == 0)
        snprintf(a->operation, sizeof a->operation, "%s", op->id);
}

static int apply(void *data, const char *name, const char *text, size_t length, bool dry_run,
                 api_answer_cb cb, void *cb_data, struct err *err)
{
    (void)data;
    if (length == 0 || strstr(text, "ShardedDatabase") == NULL)
        return err_set(err, ERRC_INVALID, "request:1:1: kind: is to be ShardedDatabase");
    struct answer *a = answer_new(cb, cb_data);
    struct fleet_database *db = fleet_find_database(&tool.fleet, name);
    a->created = db == NULL;
    if (strstr(text, "immutable") != NULL)
        err_set(&a->err, ERRC_CONFLICT, "spec.tables cannot be changed");
    else if (db == NULL && !dry_run)
        apply_new(a, name);
    else if (!dry_run)
        db->spec_revision++;
    return 0;
}

static int delete_it(void *data, const char *name, api_answer_cb cb, void *cb_data, struct err *err)
{
    struct operation *op;
    (void)data;
    if (strcmp(name, "shop") == 0 ||
        strcmp(name, "docs") == 0) /* a fuzzer is not to take away what others test */
        return err_set(err, ERRC_CONFLICT, "an operation runs on database %s", name);
    if (retire_start(&tool.operations, name, &op, err) != 0)
        return (int)err->code;
    snprintf(answer_new(cb, cb_data)->operation, OPERATION_ID_SIZE, "%s", op->id);
    return 0;
}

static bool decision(void *data, unsigned n, struct api_decision *ret)
{
    (void)data;
    if (n >= tool.decisions)
        return false;
    uint64_t number = tool.decisions - n;
    *ret = (struct api_decision){.number = number,
                                 .at_us = 1700000000000000 + (int64_t)number,
                                 .database = "shop",
                                 .shard = number % 2 == 0 ? "s1" : "s2",
                                 .kind = number % 2 == 0 ? "split" : "refuse",
                                 .act = number % 2 == 0,
                                 .rule = 1,
                                 .rule_name = "split",
                                 .sentence = "shard is hot",
                                 .operation = number % 2 == 0 ? "splt0000000" : ""};
    return true;
}

static bool standing(void *data, const char *database, const char *shard, struct api_standing *ret)
{
    (void)data;
    if (strcmp(database, "shop") != 0 || strcmp(shard, "s1") != 0)
        return false;
    *ret = (struct api_standing){.phase = "refused",
                                 .row = 10,
                                 .hot_since_ns = loop_now(&tool.loop) - 10 * ENV_NS_PER_S,
                                 .refusal_rule = 7,
                                 .refusal_active = true,
                                 .refusal_rule_name = "popular-key",
                                 .refusal_sentence = "one key carries 61 % of its writes",
                                 .refusal_since_ns = loop_now(&tool.loop) - ENV_NS_PER_S};
    return true;
}

static bool guards(void *data, const char *database, const char *shard, struct api_guards *ret)
{
    (void)data;
    if (strcmp(database, "shop") != 0 || strcmp(shard, "s1") != 0)
        return false;
    *ret =
        (struct api_guards){.checked_us = 1795245300123456,
                            .findings = "[{\"subject\":\"public.orders\",\"finding\":\"guard "
                                        "shardherd_guard_insert is missing or disabled\",\"remedy\":\"as a "
                                        "superuser: SELECT shardherd.install_guards()\"}]"};
    return true;
}

static bool component(void *data, unsigned n, struct api_component *ret)
{
    (void)data;
    if (n == 0)
        *ret = (struct api_component){"store", true, NULL};
    else if (n == 1)
        *ret = (struct api_component){"leader", tool.ready, tool.ready ? "term 1" : "another manager leads"};
    return n < 2;
}

static void metrics(void *data, struct http_exchange *ex)
{
    (void)data;
    http_respond(ex, 200, "text/plain; version=0.0.4", "shardherd_up 1\n", 15);
}

/* ---- a runtime that makes nothing ---- */

static void runtime_run(struct loop_task *task, void *data)
{
    struct runtime_answer *a = data;
    struct err err = {0};
    (void)task;
    err_set(&err, ERRC_UNAVAILABLE, "this runtime makes nothing");
    if (a->instance_cb != NULL)
        a->instance_cb(&err, NULL, a->data);
    else
        a->done_cb(NULL, a->data);
    free(a);
}

static int runtime_later(runtime_instance_cb instance_cb, runtime_done_cb done_cb, void *data)
{
    struct runtime_answer *a = mem_zalloc(sizeof *a);
    *a = (struct runtime_answer){.instance_cb = instance_cb, .done_cb = done_cb, .data = data};
    a->task.run = runtime_run;
    a->task.data = a;
    loop_defer(&tool.loop, &a->task);
    return 0;
}

static int fake_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb,
                       void *data, struct err *err)
{
    (void)rt, (void)spec, (void)err;
    return runtime_later(cb, NULL, data);
}

static int fake_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    (void)rt, (void)name, (void)err;
    return runtime_later(NULL, cb, data);
}

static int spec_of(void *data, const struct fleet_database *db, const char *shard, int number,
                   struct runtime_spec *ret, struct err *err)
{
    (void)number;
    (void)data, (void)err;
    *ret = (struct runtime_spec){.name = "none", .database = db->name, .shard = shard, .owner = "app"};
    return 0;
}

static void routing_changed(void *data, struct fleet_database *db)
{
    (void)data;
    api_routing_changed(tool.api, db);
}

static void operation_changed_hook(void *data, struct operation *op)
{
    (void)data;
    if (tool.api != NULL)
        api_operation_changed(tool.api, op);
}

/* ---- commands ---- */

static void command_move(void)
{
    struct fleet_database *db = fleet_find_database(&tool.fleet, "shop");
    struct range range = {-100, -1};
    struct err err = {0};
    if (routing_move(db->routing, tool.moved ? "s2" : "s1", tool.moved ? "s1" : "s2", &range, &err) != 0)
        die("move", &err);
    tool.moved = !tool.moved;
    api_routing_changed(tool.api, db);
}

static void on_closed(void *data)
{
    (void)data;
    if (--tool.open == 0) {
        api_free(tool.api);
        tool.api = NULL;
        loop_stop(&tool.loop);
    }
}

static void on_store_closed(void *data)
{
    on_closed(data);
}

static void on_operations_stopped(void *data)
{
    (void)data;
    store_close(tool.store, on_store_closed, NULL);
}

static void command_quit(void)
{
    if (tool.quitting)
        return;
    tool.quitting = true;
    uv_close((uv_handle_t *)&tool.input, NULL);
    tool.open = 4;
    for (int i = 0; i < 3; i++)
        http_server_close(tool.servers[i], 0, on_closed, NULL);
    operations_stop(&tool.operations, on_operations_stopped, NULL);
}

static void obey(const char *line)
{
    bool known = true;
    int count;
    struct api_decision d;
    if (strcmp(line, "quit") == 0) {
        command_quit();
        return;
    }
    if (strcmp(line, "move") == 0)
        command_move();
    else if (sscanf(line, "progress %d", &count) == 1)
        while (count-- > 0) {
            list_each(node, &tool.operations.list)
            {
                struct operation *op = list_item(node, struct operation, node);
                if (op->status == OPERATION_RUNNING && move_op_is(op))
                    api_operation_changed(tool.api, op);
            }
        }
    else if (strcmp(line, "decide") == 0) {
        tool.decisions++;
        decision(NULL, 0, &d);
        api_decided(tool.api, &d);
    } else if (strcmp(line, "instance") == 0)
        api_instance_changed(tool.api, fleet_find_instance(&tool.fleet, "shop-s1-0"));
    else if (strcmp(line, "ready") == 0 || strcmp(line, "unready") == 0)
        tool.ready = line[0] == 'r';
    else if (strcmp(line, "remove") == 0) {
        api_database_removed(tool.api, "docs");
        fleet_remove_database(&tool.fleet, fleet_find_database(&tool.fleet, "docs"));
    } else
        known = false;
    puts(known ? "ok" : "what?");
    fflush(stdout);
}

static void give_room(uv_handle_t *handle, size_t hint, uv_buf_t *ret)
{
    static char room[256];
    (void)handle, (void)hint;
    *ret = uv_buf_init(room, sizeof room);
}

static void on_input(uv_stream_t *stream, ssize_t got, const uv_buf_t *b)
{
    char *end;
    (void)stream;
    if (got < 0) {
        command_quit();
        return;
    }
    buf_add(&tool.line, b->base, (size_t)got);
    while (!tool.quitting && tool.line.length > 0 && (end = strchr(tool.line.data, '\n')) != NULL) {
        *end = '\0';
        size_t length = (size_t)(end - tool.line.data) + 1;
        obey(tool.line.data);
        buf_consume(&tool.line, length);
    }
}

/* ---- start ---- */

static int open_server(int index, http_handler_cb handler)
{
    struct err err = {0};
    const struct http_server_options options = {.address = "127.0.0.1", .body_limit = 256 * 1024};
    if (http_server_open(&tool.loop, &options, handler, tool.api, &tool.servers[index], &err) != 0)
        die("listen", &err);
    return http_server_port(tool.servers[index]);
}

static void serve(const struct err *err, struct store *store, void *data)
{
    (void)data;
    if (err != NULL)
        die("store", err);
    tool.store = store;
    const struct operation_services services = {.loop = &tool.loop,
                                                .store = store,
                                                .fleet = &tool.fleet,
                                                .runtime = &tool.runtime,
                                                .term = 1,
                                                .spec_of = spec_of,
                                                .routing_changed = routing_changed,
                                                .operation_changed = operation_changed_hook};
    operations_init(&tool.operations, &services);
    add_ended_moves();
    const struct api_services api = {.loop = &tool.loop,
                                     .fleet = &tool.fleet,
                                     .operations = &tool.operations,
                                     .version = "0.0.0-test",
                                     .apply_database = apply,
                                     .delete_database = delete_it,
                                     .decision = decision,
                                     .standing = standing,
                                     .guards = guards,
                                     .component = component,
                                     .metrics = metrics};
    tool.api = api_new(&api);
    int public_port = open_server(0, api_public_handler);
    int admin_port = open_server(1, api_admin_handler);
    printf("{\"public\":%d,\"admin\":%d,\"metrics\":%d}\n", public_port, admin_port,
           open_server(2, api_metrics_handler));
    fflush(stdout);
    uv_read_start((uv_stream_t *)&tool.input, give_room, on_input);
}

int main(int argc, char **argv)
{
    static const struct runtime_backend backend = {
        .kind = "fake", .ensure = fake_ensure, .stop = fake_remove, .remove = fake_remove};
    struct err err = {0};
    char path[512];
    tool.ready = true;
    tool.decisions = 5;
    tool.runtime.backend = &backend;
    if (argc != 2 || loop_init(&tool.loop, env_system(), &err) != 0)
        die("usage: api_tool DIRECTORY-FOR-ITS-STORE", &err);
    fleet_init(&tool.fleet);
    add_database("shop", KEY_BIGINT, 2, 1);
    add_database("docs", KEY_TEXT, 1, 11);
    add_database("fresh", KEY_BIGINT, 0, 0);
    uv_pipe_init(&tool.loop.uv, &tool.input, 0);
    if (uv_pipe_open(&tool.input, 0) != 0)
        die("stdin is to be a pipe", NULL);
    snprintf(path, sizeof path, "%s/store.db", argv[1]);
    if (store_sqlite_open(&tool.loop, path, serve, NULL, &err) != 0)
        die("store", &err);
    loop_run(&tool.loop);
    int left = loop_fini(&tool.loop);
    operations_fini(&tool.operations);
    fleet_fini(&tool.fleet);
    buf_free(&tool.line);
    return left == 0 ? 0 : 3;
}
