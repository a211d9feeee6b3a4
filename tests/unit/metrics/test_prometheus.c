/* What Prometheus and agents answer, and a client whose server never does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/buf.h"
#include "base/mem.h"
#include "fleet/fleet.h"
#include "http/http_server.h"
#include "metrics/pod_collector.h"
#include "metrics/pod_figures.h"
#include "metrics/prometheus_source.h"

/* ---- answers ---- */

static void print(const struct prometheus_sample *sample, void *data)
{
    const char *pod = prometheus_label(sample, "pod");
    buf_printf(data, "%s=%g ", pod != NULL ? pod : "-", sample->value);
}

static void test_answers(void **state)
{
    (void)state;
#define VECTOR(items) "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[" items "]}}"
    static const struct {
        const char *body, *wanted;
        enum err_code code;
    } cases[] = {
        {VECTOR(""), "", ERRC_NONE},
        {VECTOR("{\"metric\":{\"pod\":\"a\"},\"value\":[1.5,\"2\"]}"), "a=2 ", ERRC_NONE},
        {VECTOR("{\"metric\":{},\"value\":[1,\"NaN\"]},{\"metric\":{\"pod\":\"b\"},\"value\":[1,\"+Inf\"]}"),
         "-=nan b=inf ", ERRC_NONE},
        {"{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"7\"]}}", "-=7 ",
         ERRC_NONE},
        {VECTOR("{\"metric\":{},\"value\":[1]}"), "", ERRC_PROTOCOL},
        {VECTOR("{\"metric\":{},\"value\":[1,\"x\"]}"), "", ERRC_PROTOCOL},
        {VECTOR("{\"metric\":{},\"value\":[1,2]}"), "", ERRC_PROTOCOL},
        {VECTOR("3"), "", ERRC_PROTOCOL},
        {"{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[]}}", "", ERRC_PROTOCOL},
        {"{\"status\":\"success\"}", "", ERRC_PROTOCOL},
        {"{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error\"}", "", ERRC_INVALID},
        {"{\"status\":\"error\",\"errorType\":\"timeout\",\"error\":\"too slow\"}", "", ERRC_UNAVAILABLE},
        {"{\"status\":\"error\"}", "", ERRC_UNAVAILABLE},
        {"<html>", "", ERRC_PROTOCOL},
        {"", "", ERRC_PROTOCOL},
        {"[]", "", ERRC_PROTOCOL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = {0};
        struct err err = {0};
        (void)prometheus_answer_parse(cases[i].body, strlen(cases[i].body), print, &out, &err);
        if (err.code != cases[i].code || strcmp(buf_text(&out), cases[i].wanted) != 0)
            fail_msg("%s: %s, %s", cases[i].body, buf_text(&out), err.message);
        buf_free(&out);
    }
}

static void test_queries(void **state)
{
    (void)state;
    static const struct {
        enum prometheus_series series;
        const char *query;
    } cases[] = {
        {PROMETHEUS_CPU,
         "sum by (namespace, pod, member) (rate(container_cpu_usage_seconds_total{container!=\"\"}[2m]))"},
        {PROMETHEUS_MEMORY,
         "sum by (namespace, pod, member) (container_memory_usage_bytes{container!=\"\"})"},
        {PROMETHEUS_VOLUME_USED,
         "sum by (namespace, persistentvolumeclaim) (kubelet_volume_stats_used_bytes)"},
        {PROMETHEUS_COMMITS, "sum by (namespace, pod, member) (rate(pg_stat_database_xact_commit[2m]))"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *query = prometheus_source_query(cases[i].series, prometheus_series_name(cases[i].series));
        assert_string_equal(query, cases[i].query);
        free(query);
    }
}

static void test_agents(void **state)
{
    struct agent_figures f;
    (void)state;
    static const char *const whole =
        "{\"state\":\"running\",\"cpu_us\":\"1500000\",\"cpu_limit\":2.000,\"memory_bytes\":\"1048576\","
        "\"memory_limit_bytes\":\"0\"}";
    assert_true(agent_figures_parse(whole, strlen(whole), &f));
    assert_true(f.cpu_us == 1500000 && f.cpu_limit == 2 && f.memory_bytes == 1048576);
    assert_true(isnan(f.memory_limit_bytes));
    static const char *const none[] = {"", "{}", "[]", "{\"state\":\"running\"}", "{\"cpu_us\":\"x\"}"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_false(agent_figures_parse(none[i], strlen(none[i]), &f));
    assert_true(claim_is_of_pod("data-shop-s1-0", "shop-s1-0"));
    assert_true(claim_is_of_pod("acme-1", "acme-1"));
    assert_false(claim_is_of_pod("data-ashop-s1-0", "shop-s1-0"));
    assert_false(claim_is_of_pod("shop-s1-0", "data-shop-s1-0"));
}

/* ---- which source counts ---- */

static void test_sources(void **state)
{
    const uint64_t s = ENV_NS_PER_S;
    enum pod_source source = POD_SOURCE_MAX;
    (void)state;
    assert_true(isnan(instance_pod_get(NULL, POD_CPU, s, NULL)));
    struct instance_pod *pod = instance_pod_new();
    assert_true(isnan(instance_pod_get(pod, POD_CPU, s, NULL)));
    instance_pod_set(pod, POD_PROMETHEUS, POD_CPU, 1, 10 * s);
    instance_pod_set(pod, POD_METRICS_API, POD_CPU, 2, 10 * s);
    instance_pod_set(pod, POD_AGENT, POD_CPU, 3, 10 * s);
    instance_pod_set(pod, POD_PROMETHEUS, POD_VOLUME_USED, 5, 10 * s);
    assert_true(instance_pod_get(pod, POD_CPU, 12 * s, &source) == 3 && source == POD_AGENT);
    assert_true(instance_pod_get(pod, POD_CPU, 25 * s, &source) == 2 && source == POD_METRICS_API);
    assert_true(instance_pod_get(pod, POD_VOLUME_USED, 12 * s, &source) == 5 && source == POD_PROMETHEUS);
    assert_true(isnan(instance_pod_get(pod, POD_CPU, 80 * s, NULL)));
    free(pod);
}

/* ---- over the wire ---- */

struct wire {
    struct loop loop;
    struct fleet fleet;
    struct fleet_instance *instance;
    struct http_server *server;
    struct prometheus_client *client;
    struct prometheus_source *source;
    struct pod_collector *collector;
    struct http_exchange *held; /* never answered */
    int requests, failures;
    bool silent, done, heard; /* heard: by somebody else */
    bool calm;                /* the server does nothing */
    uint64_t cpu_us, asked;
    struct err err;
    struct loop_timer timer;
    int open;
};

static void hold_lost(struct http_exchange *ex, void *data)
{
    struct wire *w = data;
    http_respond(ex, 200, "text/plain", "", 0);
    w->held = NULL;
}

static void handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    struct wire *w = data;
    char text[200];
    w->requests++;
    if (w->silent && w->held == NULL && strcmp(request->path, "/v1/status") != 0) { /* not the agent */
        w->held = ex;
        http_on_lost(ex, hold_lost, w);
        return;
    }
    if (strcmp(request->path, "/v1/status") == 0) {
        w->cpu_us += w->calm ? 0 : 250000;
        snprintf(text, sizeof text, "{\"cpu_us\":\"%llu\",\"memory_bytes\":\"99\"}",
                 (unsigned long long)w->cpu_us);
        http_respond(ex, 200, "application/json", text, strlen(text));
        return;
    }
    static const char *const by_claim = VECTOR(
        "{\"metric\":{\"namespace\":\"herd\",\"persistentvolumeclaim\":\"data-db-0\"},\"value\":[1,\"8\"]}");
    static const char *const by_pod =
        VECTOR("{\"metric\":{\"namespace\":\"herd\",\"pod\":\"db-0\"},\"value\":[1,\"4\"]},{\"metric\":{"
               "\"namespace\":\"far\",\"pod\":\"db-0\"},\"value\":[1,\"1\"]}");
    const char *answer = strstr(request->query, "persistentvolumeclaim") != NULL ? by_claim : by_pod;
    http_respond(ex, 200, "application/json", answer, strlen(answer));
}

static bool place(const struct fleet_instance *instance, struct pod_place *ret, void *data)
{
    const struct wire *w = data;
    (void)instance;
    *ret = (struct pod_place){.name_space = "herd",
                              .pod = "db-0",
                              .agent = w->heard ? NULL : "127.0.0.1",
                              .agent_port = http_server_port(w->server),
                              .restarts = 3};
    return true;
}

static void on_failed(const char *series, const struct err *err, void *data)
{
    struct wire *w = data;
    (void)series;
    w->failures++;
    w->err = *err;
}

static void wire_start(struct wire *w, bool silent, uint64_t timeout_ns)
{
    struct err err = {0};
    const struct http_server_options server = {.address = "127.0.0.1", .port = 0};
    char host[] = "db-0.db.herd.svc";
    const struct instance_access access = {.host = host, .port = 5432};
    *w = (struct wire){.silent = silent};
    assert_int_equal(loop_init(&w->loop, env_system(), &err), 0);
    fleet_init(&w->fleet);
    fleet_add_instance(&w->fleet, "db-0", "label", &access, &w->instance, &err);
    assert_int_equal(http_server_open(&w->loop, &server, handle, w, &w->server, &err), 0);
    const struct pod_collector_options collector = {
        .loop = &w->loop, .fleet = &w->fleet, .period_ns = 100 * ENV_NS_PER_MS, .place = place, .data = w};
    w->collector = pod_collector_start(&collector);
    char *url = mem_printf("http://127.0.0.1:%d/", http_server_port(w->server));
    const struct prometheus_client_options client = {.url = url, .timeout_ns = timeout_ns};
    assert_int_equal(prometheus_client_new(&w->loop, &client, &w->client, &err), 0);
    free(url);
    const struct prometheus_source_options source = {.loop = &w->loop,
                                                     .client = w->client,
                                                     .collector = w->collector,
                                                     .period_ns = 200 * ENV_NS_PER_MS,
                                                     .failed = on_failed,
                                                     .data = w};
    assert_int_equal(prometheus_source_start(&source, &w->source, &err), 0);
}

static void part_closed(void *data)
{
    ((struct wire *)data)->open--;
}

static void collector_close(void *data)
{
    struct wire *w = data;
    w->open--;
    pod_collector_close(w->collector, part_closed, w);
    http_server_close(w->server, 0, part_closed, w);
}

static void wire_stop(struct wire *w)
{
    w->open = 4;
    loop_timer_stop(&w->timer);
    prometheus_source_close(w->source, part_closed, w);
    prometheus_client_close(w->client, collector_close, w);
    loop_run(&w->loop);
    assert_int_equal(w->open, 0);
    fleet_fini(&w->fleet);
    assert_int_equal(loop_fini(&w->loop), 0);
}

static double figure(const struct wire *w, enum pod_figure which)
{
    return instance_pod_get(w->instance->pod, which, w->loop.now_ns, NULL);
}

/* Looks again each 20 ms, for 10 s. */
static void run_until(struct wire *w, bool (*condition)(const struct wire *w))
{
    uint64_t end = loop_clock(&w->loop) + 10 * ENV_NS_PER_S;
    while (!condition(w) && loop_clock(&w->loop) < end)
        uv_run(&w->loop.uv, UV_RUN_ONCE);
    assert_true(condition(w));
}

static bool all_known(const struct wire *w)
{
    /* The memory is the agent's, not the 4 of Prometheus, which may come first. */
    return figure(w, POD_CPU) > 0 && figure(w, POD_MEMORY) == 99 && figure(w, POD_VOLUME_USED) > 0 &&
           figure(w, POD_SESSIONS) > 0;
}

static bool series_known(const struct wire *w)
{
    return figure(w, POD_VOLUME_USED) > 0 && figure(w, POD_SESSIONS) > 0;
}

static void test_figures_arrive(void **state)
{
    struct wire w;
    (void)state;
    wire_start(&w, false, 0);
    run_until(&w, all_known);
    assert_true(figure(&w, POD_VOLUME_USED) == 8); /* by its claim */
    assert_true(figure(&w, POD_SESSIONS) == 4);
    assert_int_equal(w.instance->pod->restarts, 3);
    assert_int_equal(w.failures, 0);
    wire_stop(&w);
}

/* Whoever keeps the shard hears its agent: two words, the second of them again. */
static void test_heard_by_somebody_else(void **state)
{
    struct wire w;
    struct agent_figures f = {.cpu_us = 1e6, .cpu_limit = 2, .memory_bytes = 77, .memory_limit_bytes = 100};
    (void)state;
    wire_start(&w, false, 0);
    w.heard = true;
    uint64_t now = loop_clock(&w.loop);
    pod_collector_hear(w.collector, "nobody", now, &f);
    pod_collector_hear(w.collector, "db-0", now, &f);
    assert_true(isnan(figure(&w, POD_CPU)) && figure(&w, POD_MEMORY) == 77);
    f.cpu_us += 250000;
    f.memory_bytes = 78;
    pod_collector_hear(w.collector, "db-0", now + 500 * ENV_NS_PER_MS, &f);
    pod_collector_hear(w.collector, "db-0", now + 500 * ENV_NS_PER_MS, &f);
    assert_true(figure(&w, POD_CPU) > 0.49 && figure(&w, POD_CPU) < 0.51 && figure(&w, POD_CPU_LIMIT) == 2);
    assert_true(figure(&w, POD_MEMORY) == 78 && figure(&w, POD_MEMORY_LIMIT) == 100);
    run_until(&w, series_known);
    struct pod_collector_counts counts;
    pod_collector_count(w.collector, &counts);
    assert_int_equal(counts.asked, 0);
    assert_true(figure(&w, POD_MEMORY) == 78); /* and is remembered while others speak */
    wire_stop(&w);
}

static uint64_t asked(const struct wire *w)
{
    struct pod_collector_counts counts;
    pod_collector_count(w->collector, &counts);
    return counts.asked;
}

static bool asked_ten_times(const struct wire *w)
{
    return asked(w) >= w->asked + 10;
}

static double seconds_of_ten(struct wire *w)
{
    uint64_t since = loop_clock(&w->loop);
    w->asked = asked(w);
    run_until(w, asked_ten_times);
    return (double)(loop_clock(&w->loop) - since) / (double)ENV_NS_PER_S;
}

static bool busy(const struct wire *w)
{
    return figure(w, POD_CPU) > 0.5;
}

/* Rounds of 0.1 s: the agent of a server that does nothing is asked in each fourth, until it does
 * something; in each eighth while the polls say that nobody is there. */
static void test_calm_agents_are_asked_seldom(void **state)
{
    struct wire w;
    (void)state;
    wire_start(&w, false, 0);
    w.calm = true;
    run_until(&w, series_known); /* two answers have come: it is known to be calm */
    double calm = seconds_of_ten(&w);
    assert_true(calm > 2.5 && calm < 6.5);
    w.calm = false;
    run_until(&w, busy);
    assert_true(seconds_of_ten(&w) < 2.5);
    w.instance->facts.rests = true;
    assert_true(seconds_of_ten(&w) > 6.5);
    wire_stop(&w);
}

static bool given_up(const struct wire *w)
{
    return w->failures > 0;
}

static void test_silence(void **state)
{
    struct wire w;
    (void)state;
    wire_start(&w, true, 300 * ENV_NS_PER_MS);
    run_until(&w, given_up);
    assert_int_equal(w.err.code, ERRC_TIMEOUT);
    wire_stop(&w);
}

/* Closed while its queries and calls are on their way. */
static void test_closed_early(void **state)
{
    struct wire w;
    (void)state;
    wire_start(&w, true, 0);
    for (int i = 0; i < 3; i++)
        uv_run(&w.loop.uv, UV_RUN_NOWAIT);
    wire_stop(&w);
    assert_int_equal(w.failures, 0);
}

static void test_bad_options(void **state)
{
    struct loop loop;
    struct err err = {0};
    struct prometheus_client *client = NULL;
    (void)state;
    assert_int_equal(loop_init(&loop, env_system(), &err), 0);
    static const char *const urls[] = {"", "prometheus:9090", "ftp://x", "http://x/?a=b", "http://u:p@x"};
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        const struct prometheus_client_options o = {.url = urls[i]};
        assert_int_not_equal(prometheus_client_new(&loop, &o, &client, &err), 0);
        assert_non_null(strstr(err.message, "prometheus.url"));
    }
    assert_int_equal(loop_fini(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_agents),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_figures_arrive),
        cmocka_unit_test(test_heard_by_somebody_else),
        cmocka_unit_test(test_calm_agents_are_asked_seldom),
        cmocka_unit_test(test_closed_early),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
