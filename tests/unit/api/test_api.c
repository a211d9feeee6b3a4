/* The pure parts of the API, and answers that come late. Requests and streams: tests/live/test_api.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"
#include "operation/move.h"

/* ---- routes ---- */

static void test_patterns(void **state)
{
    static const struct {
        const char *pattern, *path, *first, *second; /* first NULL = does not fit */
    } cases[] = {
        {"/v1/databases", "/v1/databases", "", ""},
        {"/v1/databases", "/v1/databases/", NULL, NULL},
        {"/v1/databases", "/v1/database", NULL, NULL},
        {"/v1/databases/{d}", "/v1/databases/shop", "shop", ""},
        {"/v1/databases/{d}", "/v1/databases/", NULL, NULL},
        {"/v1/databases/{d}", "/v1/databases/shop/", NULL, NULL},
        {"/v1/databases/{d}", "/v1/databases/shop/x", NULL, NULL},
        {"/v1/databases/{d}/shards/{s}", "/v1/databases/a/shards/b", "a", "b"},
        {"/v1/databases/{d}/shards/{s}", "/v1/databases/a/shard/b", NULL, NULL},
        {"/v1/databases/{d}/routing", "/v1/databases/routing/routing", "routing", ""},
        {"/v1/operations/{o}/cancel", "/v1/operations//cancel", NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[API_PARAMS_MAX][API_NAME_SIZE] = {{0}};
        bool fits = api_pattern_match(cases[i].pattern, cases[i].path, params);
        assert_int_equal(fits, cases[i].first != NULL);
        if (fits) {
            assert_string_equal(params[0], cases[i].first);
            assert_string_equal(params[1], cases[i].second);
        }
    }
}

static void test_longest_parameter(void **state)
{
    char params[API_PARAMS_MAX][API_NAME_SIZE], path[2 * API_NAME_SIZE] = "/";
    (void)state;
    memset(path + 1, 'x', API_NAME_SIZE - 1);
    assert_true(api_pattern_match("/{a}", path, params));
    assert_int_equal(strlen(params[0]), API_NAME_SIZE - 1);
    path[API_NAME_SIZE] = 'x';
    assert_false(api_pattern_match("/{a}", path, params));
}

/* The document and the table of routes say the same: paths, methods, query parameters. */
static yyjson_val *resolve(yyjson_val *root, yyjson_val *value)
{
    const char *ref = yyjson_get_str(yyjson_obj_get(value, "$ref"));
    return ref != NULL ? yyjson_ptr_get(root, ref + 1) : value;
}

static bool has_query(yyjson_val *root, yyjson_val *operation, const char *name, size_t length)
{
    size_t i, max;
    yyjson_val *item;
    yyjson_arr_foreach(yyjson_obj_get(operation, "parameters"), i, max, item)
    {
        yyjson_val *p = resolve(root, item);
        const char *given = yyjson_get_str(yyjson_obj_get(p, "name"));
        if (yyjson_equals_str(yyjson_obj_get(p, "in"), "query") && strlen(given) == length &&
            strncmp(given, name, length) == 0)
            return true;
    }
    return false;
}

static size_t count_queries(yyjson_val *root, yyjson_val *operation)
{
    size_t i, max, count = 0;
    yyjson_val *item;
    yyjson_arr_foreach(yyjson_obj_get(operation, "parameters"), i, max, item)
    {
        count += yyjson_equals_str(yyjson_obj_get(resolve(root, item), "in"), "query");
    }
    return count;
}

static void check_documented(yyjson_val *root, const struct api_route *route)
{
    char method[16] = "";
    for (size_t i = 0; route->method[i] != '\0'; i++)
        method[i] = (char)(route->method[i] | 0x20);
    yyjson_val *operation =
        yyjson_obj_get(yyjson_obj_get(yyjson_obj_get(root, "paths"), route->pattern), method);
    if (operation == NULL)
        fail_msg("%s %s is not in openapi.json", route->method, route->pattern);
    size_t known = 0;
    for (const char *q = route->queries; *q != '\0'; q += strcspn(q, " "), q += strspn(q, " "), known++)
        if (!has_query(root, operation, q, strcspn(q, " ")))
            fail_msg("%s %s: parameter %s is not in openapi.json", route->method, route->pattern, q);
    assert_int_equal(count_queries(root, operation), known);
    /* what only the admin port takes says so */
    assert_int_equal(yyjson_obj_get(operation, "servers") != NULL, route->ports == PORT_ADMIN);
}

static void test_document_matches_routes(void **state)
{
    yyjson_doc *doc = yyjson_read(api_openapi(), strlen(api_openapi()), 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *name, *path;
    size_t routes = 0, documented = 0, i, max;
    (void)state;
    assert_non_null(doc);
    for (const struct api_route *route = api_routes; route->method != NULL; route++)
        if (route->ports != PORT_METRICS) { /* /metrics is no JSON: docs/metrics.md */
            check_documented(root, route);
            routes++;
        }
    yyjson_obj_foreach(yyjson_obj_get(root, "paths"), i, max, name, path)
    {
        documented += yyjson_obj_size(path) - (yyjson_obj_get(path, "parameters") != NULL);
    }
    assert_int_equal(documented, routes);
    yyjson_doc_free(doc);
}

/* ---- who may ask ---- */

static void test_hosts(void **state)
{
    static const struct {
        const char *host, *own;
        bool ours;
    } cases[] = {
        {"localhost", NULL, true},
        {"127.0.0.1:8081", NULL, true},
        {"127.3.2.1", NULL, true},
        {"[::1]:8081", NULL, true},
        {"[::1]", NULL, true},
        {"LocalHost:1", NULL, true},
        {NULL, NULL, false},
        {"", NULL, false},
        {"10.0.0.1", NULL, false},
        {"evil.example", NULL, false},
        {"localhost.", NULL, false},
        {"127.0.0.1.evil", NULL, false},
        {"[::1", NULL, false},
        {"[::1]x", NULL, false},
        {"localhost:80:80", NULL, false},
        {"localhost:x", NULL, false},
        {"10.0.0.1:8081", "10.0.0.1", true},
        {"10.0.0.2", "10.0.0.1", false},
        {"10.0.0.2", "0.0.0.0", true},
        {"[fd00::2]", "::", true},
        {"evil.example", "0.0.0.0", false},
        {"Herd.example", "herd.example", true},
        {"x.herd.example", "herd.example", false},
        {"[fd00:0::1]:1", "fd00::1", true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (api_host_is_ours(cases[i].host, cases[i].own) != cases[i].ours)
            fail_msg("%s, ours %s", cases[i].host, cases[i].own);
}

static void test_etags(void **state)
{
    (void)state;
    assert_true(api_etag_matches("\"1\"", "\"1\""));
    assert_true(api_etag_matches("W/\"1\"", "\"1\""));
    assert_true(api_etag_matches(" \"7\" , \"1\"", "\"1\""));
    assert_true(api_etag_matches("*", "\"1\""));
    assert_false(api_etag_matches(NULL, "\"1\""));
    assert_false(api_etag_matches("", "\"1\""));
    assert_false(api_etag_matches("1", "\"1\""));
    assert_false(api_etag_matches("\"1\"2", "\"1\""));
    assert_false(api_etag_matches("\"11\", ,", "\"1\""));
}

/* ---- which range a request means ---- */

/* s1 [min, -1], s2 [0, 99] and [200, max], s3 [100, 199], s4 nothing; keys are bigint. */
static struct routing *sample_routing(void)
{
    static const struct {
        const char *shard;
        struct range range;
    } owned[] = {{"s1", {INT64_MIN, -1}}, {"s2", {0, 99}}, {"s2", {200, INT64_MAX}}, {"s3", {100, 199}}};
    struct routing *r = routing_new("shop");
    struct err err = {0};
    routing_add_table(r, "public.orders", "id", KEY_BIGINT);
    for (int i = 1; i <= 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        routing_add_shard(r, name, "127.0.0.1", 5432 + i);
    }
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        assert_int_equal(range_set_add(&routing_find_shard(r, owned[i].shard)->ranges, &owned[i].range, &err),
                         0);
    assert_int_equal(routing_check(r, &err), 0);
    return r;
}

static const struct {
    const char *body;
    int code; /* enum err_code */
    int64_t lo, hi;
    const char *target; /* NULL = a new shard */
    bool retire;
} plans[] = {
    {"{\"kind\":\"split\",\"shard\":\"s1\"}", 0, INT64_MIN / 2, -1, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\"}", 0, 150, 199, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s2\"}", 0, INT64_MAX / 2 + 101, INT64_MAX, NULL,
     false}, /* the widest */
    {"{\"kind\":\"split\",\"shard\":\"s4\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"at\":\"101\"}", 0, 101, 199, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"at\":\"199\"}", 0, 199, 199, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"at\":\"100\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"at\":\"200\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s2\",\"at\":\"0\"}", 0, 0, 99, NULL, false}, /* the rest stays */
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"lo\":\"110\",\"hi\":\"120\"}", 0, 110, 120, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"lo\":\"110\"}", 0, 110, 199, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"hi\":\"110\"}", 0, 100, 110, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s3\",\"lo\":\"100\",\"hi\":\"199\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"move\",\"shard\":\"s3\",\"lo\":\"90\",\"hi\":\"110\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"move\",\"shard\":\"s3\",\"lo\":\"110\",\"hi\":\"300\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"move\",\"shard\":\"s3\",\"lo\":\"120\",\"hi\":\"110\"}", ERRC_INVALID, 0, 0, NULL, false},
    {"{\"kind\":\"move\",\"shard\":\"s3\",\"target\":\"s1\"}", 0, 100, 199, "s1", false},
    {"{\"kind\":\"move\",\"shard\":\"s3\",\"at\":\"100\"}", 0, 100, 199, NULL, false},
    {"{\"kind\":\"move\",\"shard\":\"s2\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"rebalance\",\"shard\":\"s3\",\"target\":\"s1\"}", 0, 150, 199, "s1", false},
    {"{\"kind\":\"rebalance\",\"shard\":\"s3\",\"target\":\"s9\"}", ERRC_NOT_FOUND, 0, 0, NULL, false},
    {"{\"kind\":\"merge\",\"shard\":\"s3\"}", 0, 100, 199, "s2", true},
    {"{\"kind\":\"merge\",\"shard\":\"s1\"}", 0, INT64_MIN, -1, "s2", true},
    {"{\"kind\":\"merge\",\"shard\":\"s1\",\"target\":\"s3\"}", 0, INT64_MIN, -1, "s3", true},
    {"{\"kind\":\"merge\",\"shard\":\"s2\"}", ERRC_REFUSED, 0, 0, NULL, false},
    /* hash of bigint 5, as `route` tells */
    {"{\"kind\":\"isolate\",\"shard\":\"s1\",\"key\":\"5\"}", 0, -9138765687874534020, -9138765687874534020,
     NULL, false},
    {"{\"kind\":\"isolate\",\"shard\":\"s3\",\"key\":\"5\"}", ERRC_REFUSED, 0, 0, NULL, false},
    {"{\"kind\":\"isolate\",\"shard\":\"s3\",\"at\":\"100\"}", 0, 100, 100, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s1\",\"key\":\"5\",\"table\":\"orders\"}", 0, -9138765687874534020, -1,
     NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s1\",\"key\":\"x\"}", ERRC_INVALID, 0, 0, NULL, false},
    {"{\"kind\":\"split\",\"shard\":\"s9\"}", ERRC_NOT_FOUND, 0, 0, NULL, false},
};

static void test_plans(void **state)
{
    struct routing *r = sample_routing();
    (void)state;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        struct api_move_body body;
        struct api_move_plan plan = {0};
        struct err err = {0};
        assert_int_equal(api_move_parse(plans[i].body, strlen(plans[i].body), &body, &err), 0);
        if (api_move_plan(r, &body, &plan, &err) != plans[i].code)
            fail_msg("%s: %s", plans[i].body, err.message);
        if (plans[i].code != 0)
            continue;
        if (plan.range.lo != plans[i].lo || plan.range.hi != plans[i].hi || plan.retire != plans[i].retire)
            fail_msg("%s: %lld..%lld", plans[i].body, (long long)plan.range.lo, (long long)plan.range.hi);
        assert_int_equal(plan.target != NULL, plans[i].target != NULL);
        if (plan.target != NULL)
            assert_string_equal(plan.target, plans[i].target);
    }
    routing_free(r);
}

/* The remedy is given as commands that can be run. */
static void test_merge_of_a_shard_of_many_ranges(void **state)
{
    static const char *const texts[] = {"{\"kind\":\"merge\",\"shard\":\"s2\"}",
                                        "{\"kind\":\"merge\",\"shard\":\"s2\",\"target\":\"s1\"}"};
    static const char *const remedies[] = {"\"shardherd move shop/s2 --to s3 --lo 0 --hi 99\"",
                                           "\"shardherd move shop/s2 --to s1 --lo 0 --hi 99\""};
    struct routing *r = sample_routing();
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct api_move_body body;
        struct api_move_plan plan;
        struct err err = {0};
        assert_int_equal(api_move_parse(texts[i], strlen(texts[i]), &body, &err), 0);
        assert_int_equal(api_move_plan(r, &body, &plan, &err), ERRC_REFUSED);
        if (strstr(err.message, "owns 2 ranges and a merge moves one") == NULL ||
            strstr(err.message, remedies[i]) == NULL)
            fail_msg("%s", err.message);
    }
    routing_free(r);
}

static void test_merge_of_the_only_shard(void **state)
{
    static const char text[] = "{\"kind\":\"merge\",\"shard\":\"s1\"}";
    struct routing *r = routing_new("shop");
    struct range all = {INT64_MIN, INT64_MAX};
    struct api_move_body body;
    struct api_move_plan plan;
    struct err err = {0};
    (void)state;
    range_set_add(&routing_add_shard(r, "s1", "127.0.0.1", 1)->ranges, &all, &err);
    assert_int_equal(api_move_parse(text, strlen(text), &body, &err), 0);
    assert_int_equal(api_move_plan(r, &body, &plan, &err), ERRC_REFUSED);
    routing_free(r);
}

/* ---- Idempotency-Keys ---- */

static void test_keys(void **state)
{
    struct api_keys *keys = api_keys_new();
    const char *id = NULL;
    (void)state;
    assert_int_equal(api_keys_find(keys, "k", "/p", "{}", 0, &id), KEY_NEW);
    api_keys_add(keys, "k", "/p", "{}", 0, "op1");
    assert_int_equal(api_keys_find(keys, "k", "/p", "{}", 5, &id), KEY_SAME);
    assert_string_equal(id, "op1");
    assert_int_equal(api_keys_find(keys, "k", "/q", "{}", 5, &id), KEY_OTHER);
    assert_int_equal(api_keys_find(keys, "k", "/p", "{} ", 5, &id), KEY_OTHER);
    assert_int_equal(api_keys_find(keys, "k", "/p", "{} ", API_KEY_NS + 1, &id), KEY_NEW);
    for (int i = 0; i < API_KEYS_MAX; i++) {
        char key[16];
        snprintf(key, sizeof key, "n%d", i);
        assert_int_equal(api_keys_find(keys, "k", "/p", "{}", 5, &id), KEY_SAME);
        api_keys_add(keys, key, "/p", "{}", 5, "op2");
    }
    assert_int_equal(api_keys_find(keys, "k", "/p", "{}", 5, &id), KEY_NEW); /* the oldest went */
    assert_int_equal(api_keys_find(keys, "n0", "/p", "{}", 5, &id), KEY_SAME);
    api_keys_free(keys);
}

/* ---- answers that come late ---- */

struct rig {
    struct loop loop;
    struct loop_timer tick; /* turns come even when nothing happens */
    struct fleet fleet;
    struct operations operations;
    struct api *api;
    struct http_server *server;
    api_answer_cb answer;
    void *answer_data;
    bool refuse, closed;
    struct err err;
    uv_tcp_t peer;
    uv_connect_t connect;
    uv_write_t write;
    struct buf sent, got;
};

static int rig_apply(void *data, const char *name, const char *text, size_t length, bool dry_run,
                     api_answer_cb cb, void *cb_data, struct err *err)
{
    struct rig *rig = data;
    (void)name, (void)text, (void)length, (void)dry_run;
    if (rig->refuse)
        return err_set(err, ERRC_REFUSED, "not today");
    rig->answer = cb;
    rig->answer_data = cb_data;
    return 0;
}

static void rig_closed(void *data)
{
    ((struct rig *)data)->closed = true;
}

static void rig_tick(struct loop_timer *timer, void *data)
{
    (void)data;
    loop_timer_start(timer, 5 * ENV_NS_PER_MS);
}

static int rig_setup(void **state)
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    assert_int_equal(loop_init(&rig->loop, env_system(), &rig->err), 0);
    loop_timer_init(&rig->loop, &rig->tick, rig_tick, rig);
    loop_timer_start(&rig->tick, 0);
    fleet_init(&rig->fleet);
    const struct operation_services services = {.loop = &rig->loop, .fleet = &rig->fleet, .term = 1};
    operations_init(&rig->operations, &services);
    const struct api_services lent = {.loop = &rig->loop,
                                      .fleet = &rig->fleet,
                                      .operations = &rig->operations,
                                      .version = "0",
                                      .data = rig,
                                      .apply_database = rig_apply};
    rig->api = api_new(&lent);
    const struct http_server_options options = {.address = "127.0.0.1"};
    assert_int_equal(
        http_server_open(&rig->loop, &options, api_admin_handler, rig->api, &rig->server, &rig->err), 0);
    *state = rig;
    return 0;
}

#define RUN_UNTIL(rig, condition)                                                                            \
    do {                                                                                                     \
        for (int turns = 0; !(condition); turns++) {                                                         \
            assert_true(turns < 2000);                                                                       \
            uv_run(&(rig)->loop.uv, UV_RUN_ONCE);                                                            \
        }                                                                                                    \
    } while (0)

static int rig_teardown(void **state)
{
    struct rig *rig = *state;
    http_server_close(rig->server, 0, rig_closed, rig);
    if (rig->connect.handle != NULL && !uv_is_closing((uv_handle_t *)&rig->peer))
        uv_close((uv_handle_t *)&rig->peer, NULL);
    RUN_UNTIL(rig, rig->closed);
    loop_timer_stop(&rig->tick);
    api_free(rig->api);
    operations_fini(&rig->operations);
    fleet_fini(&rig->fleet);
    int open = loop_fini(&rig->loop);
    buf_free(&rig->sent);
    buf_free(&rig->got);
    free(rig);
    return open;
}

static void give_room(uv_handle_t *handle, size_t hint, uv_buf_t *ret)
{
    struct rig *rig = handle->data;
    (void)hint;
    *ret = uv_buf_init(buf_reserve(&rig->got, 4096), 4096);
}

static void on_got(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct rig *rig = stream->data;
    (void)b;
    if (n > 0) {
        rig->got.length += (size_t)n;
        rig->got.data[rig->got.length] = '\0';
    }
}

static void on_connected(uv_connect_t *request, int status)
{
    struct rig *rig = request->data;
    uv_buf_t b = uv_buf_init(rig->sent.data, (unsigned)rig->sent.length);
    assert_int_equal(status, 0);
    uv_write(&rig->write, (uv_stream_t *)&rig->peer, &b, 1, NULL);
    uv_read_start((uv_stream_t *)&rig->peer, give_room, on_got);
}

static void rig_send(struct rig *rig, const char *text)
{
    struct sockaddr_in to;
    buf_add_text(&rig->sent, text);
    uv_ip4_addr("127.0.0.1", http_server_port(rig->server), &to);
    uv_tcp_init(&rig->loop.uv, &rig->peer);
    rig->peer.data = rig->connect.data = rig;
    uv_tcp_connect(&rig->connect, &rig->peer, (const struct sockaddr *)&to, on_connected);
}

static void rig_put(struct rig *rig)
{
    rig_send(rig, "PUT /v1/databases/shop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
}

static void rig_answer(struct rig *rig, const struct err *err, bool created)
{
    struct api_answer answer = {err, created, NULL};
    rig->answer(&answer, rig->answer_data);
}

static bool got_status(const struct rig *rig, const char *status)
{
    return strncmp(buf_text(&rig->got), "HTTP/1.1 ", 9) == 0 && strncmp(rig->got.data + 9, status, 3) == 0;
}

static void test_created(void **state)
{
    struct rig *rig = *state;
    rig_put(rig);
    RUN_UNTIL(rig, rig->answer != NULL);
    fleet_add_database(&rig->fleet, "shop");
    rig_answer(rig, NULL, true);
    RUN_UNTIL(rig, rig->got.length > 0);
    assert_true(got_status(rig, "201"));
    assert_non_null(strstr(rig->got.data, "Location: /v1/databases/shop\r\n"));
}

static void test_refused_at_once(void **state)
{
    struct rig *rig = *state;
    rig->refuse = true;
    rig_put(rig);
    RUN_UNTIL(rig, rig->got.length > 0);
    assert_true(got_status(rig, "422"));
    assert_non_null(strstr(rig->got.data, "not today"));
}

static void test_refused_later(void **state)
{
    struct rig *rig = *state;
    struct err err = {0};
    err_set(&err, ERRC_CONFLICT, "tables cannot change");
    rig_put(rig);
    RUN_UNTIL(rig, rig->answer != NULL);
    rig_answer(rig, &err, false);
    RUN_UNTIL(rig, rig->got.length > 0);
    assert_true(got_status(rig, "409"));
}

static void test_answer_after_the_api_is_gone(void **state)
{
    struct rig *rig = *state;
    rig_put(rig);
    RUN_UNTIL(rig, rig->answer != NULL);
    api_free(rig->api);
    rig->api = NULL;
    rig_answer(rig, NULL, true);
    RUN_UNTIL(rig, rig->got.length > 0);
    assert_true(got_status(rig, "503"));
}

static void test_answer_after_the_peer_is_gone(void **state)
{
    struct rig *rig = *state;
    rig_put(rig);
    RUN_UNTIL(rig, rig->answer != NULL);
    uv_tcp_close_reset(&rig->peer, NULL);
    RUN_UNTIL(rig, http_server_connections(rig->server) == 0);
    rig_answer(rig, NULL, true); /* nobody hears it, nothing leaks */
}

static void test_not_leader(void **state)
{
    struct rig *rig = *state;
    rig->operations.services.term = 0;
    rig_put(rig);
    RUN_UNTIL(rig, rig->got.length > 0);
    assert_true(got_status(rig, "503"));
    assert_non_null(strstr(rig->got.data, "Retry-After: 1\r\n"));
    assert_null((void *)(uintptr_t)rig->answer);
}

/* ---- progress ---- */

static void fake_print(const struct operation *op, struct buf *json)
{
    buf_printf(json, "{\"id\":\"%s\",\"kind\":\"split\",\"schema\":\"SECRET\"}", op->id);
}

static void fake_free(struct operation *op)
{
    free(op);
}

static int count_told(const struct rig *rig)
{
    int count = 0;
    for (const char *p = buf_text(&rig->got); (p = strstr(p, "event: operation\n")) != NULL; p++)
        count++;
    return count;
}

static void run_for(struct rig *rig, uint64_t ns)
{
    uint64_t until = loop_clock(&rig->loop) + ns;
    while (loop_clock(&rig->loop) < until)
        uv_run(&rig->loop.uv, UV_RUN_ONCE);
}

/* One at once, the newest of those held back after a fifth of a second, the end at once. */
static void test_progress(void **state)
{
    static const struct operation_kind kind = {.name = "fake", .print = fake_print, .free = fake_free};
    struct rig *rig = *state;
    struct operation *op = mem_zalloc(sizeof *op);
    op->database = mem_strdup("shop");
    operation_register(&rig->operations, op, &kind, "fake", NULL);
    rig_send(rig, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    RUN_UNTIL(rig, strstr(buf_text(&rig->got), "event: snapshot\n") != NULL);
    for (int i = 0; i < 5; i++)
        api_operation_changed(rig->api, op);
    RUN_UNTIL(rig, count_told(rig) == 1);
    run_for(rig, 500 * ENV_NS_PER_MS);
    assert_int_equal(count_told(rig), 2);
    api_operation_changed(rig->api, op);
    api_operation_changed(rig->api, op); /* held back, then overtaken by the end */
    op->status = OPERATION_DONE;
    api_operation_changed(rig->api, op);
    run_for(rig, 500 * ENV_NS_PER_MS);
    assert_int_equal(count_told(rig), 4);
    assert_null(strstr(rig->got.data, "SECRET"));
}

#define RIG_TEST(function) cmocka_unit_test_setup_teardown(function, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_longest_parameter),
        cmocka_unit_test(test_document_matches_routes),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_etags),
        cmocka_unit_test(test_plans),
        cmocka_unit_test(test_merge_of_a_shard_of_many_ranges),
        cmocka_unit_test(test_merge_of_the_only_shard),
        cmocka_unit_test(test_keys),
        RIG_TEST(test_created),
        RIG_TEST(test_refused_at_once),
        RIG_TEST(test_refused_later),
        RIG_TEST(test_answer_after_the_api_is_gone),
        RIG_TEST(test_answer_after_the_peer_is_gone),
        RIG_TEST(test_not_leader),
        RIG_TEST(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
