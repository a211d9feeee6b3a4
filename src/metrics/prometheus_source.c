#include "metrics/prometheus_source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/metric_text.h"

#define DEFAULT_PERIOD_NS (15 * ENV_NS_PER_S)
#define WINDOW            "2m" /* of rates: at least two scrapes of the usual 30 s and 60 s */

static const struct {
    const char *name;
    enum pod_figure figure;
    const char *selector; /* containers of a pod have a name, its cgroup has none */
    const char *by;
    bool rate;
} series[PROMETHEUS_SERIES_MAX] = {
    [PROMETHEUS_CPU] = {"container_cpu_usage_seconds_total", POD_CPU, "{container!=\"\"}", "pod, member",
                        true},
    [PROMETHEUS_MEMORY] = {"container_memory_usage_bytes", POD_MEMORY, "{container!=\"\"}", "pod, member",
                           false},
    [PROMETHEUS_VOLUME_USED] = {"kubelet_volume_stats_used_bytes", POD_VOLUME_USED, "",
                                "persistentvolumeclaim", false},
    [PROMETHEUS_VOLUME_SIZE] = {"kubelet_volume_stats_capacity_bytes", POD_VOLUME_SIZE, "",
                                "persistentvolumeclaim", false},
    [PROMETHEUS_RECEIVED] = {"container_network_receive_bytes_total", POD_RECEIVED, "", "pod, member", true},
    [PROMETHEUS_TRANSMITTED] = {"container_network_transmit_bytes_total", POD_TRANSMITTED, "", "pod, member",
                                true},
    [PROMETHEUS_SESSIONS] = {"pg_stat_activity_count", POD_SESSIONS, "", "pod, member", false},
    [PROMETHEUS_COMMITS] = {"pg_stat_database_xact_commit", POD_COMMITS, "", "pod, member", true},
    [PROMETHEUS_HITS] = {"pg_stat_database_blks_hit", POD_HITS, "", "pod, member", true},
};

/* One series; at most one query of it is on its way. */
struct series_query {
    struct prometheus_source *source;
    enum prometheus_series series;
    char *text; /* NULL = not asked for */
    bool running;
    char told[ERR_MESSAGE_SIZE];
};

struct prometheus_source {
    struct prometheus_source_options o;
    struct series_query queries[PROMETHEUS_SERIES_MAX];
    struct loop_timer timer;
    struct prometheus_source_counts counts;
    unsigned running;
    bool closing;
    struct loop_task gone;
    void (*closed)(void *data);
    void *closed_data;
};

const char *prometheus_series_name(enum prometheus_series which)
{
    return series[which].name;
}

char *prometheus_source_query(enum prometheus_series which, const char *name)
{
    bool rate = series[which].rate;
    return mem_printf("sum by (namespace, %s) (%s%s%s%s)", series[which].by, rate ? "rate(" : "", name,
                      series[which].selector, rate ? "[" WINDOW "])" : "");
}

static void on_sample(const struct prometheus_sample *sample, void *data)
{
    struct series_query *q = data;
    struct pod_collector *c = q->source->o.collector;
    enum pod_figure figure = series[q->series].figure;
    const char *name_space = prometheus_label(sample, "namespace"), *pod = prometheus_label(sample, "pod");
    const char *claim = prometheus_label(sample, "persistentvolumeclaim");
    const char *member = prometheus_label(sample, "member");
    q->source->counts.samples++;
    if (isnan(sample->value) || isinf(sample->value) || q->source->closing)
        return;
    /* before `pod`: in shardherd's own series that is the manager's */
    if (member != NULL)
        pod_collector_set_named(c, member, POD_PROMETHEUS, figure, sample->value);
    else if (pod != NULL && name_space != NULL)
        pod_collector_set(c, name_space, pod, POD_PROMETHEUS, figure, sample->value);
    else if (claim != NULL && name_space != NULL)
        pod_collector_set_claim(c, name_space, claim, POD_PROMETHEUS, figure, sample->value);
    else
        return;
    q->source->counts.matched++;
}

static void tell(struct series_query *q, const struct err *err)
{
    struct prometheus_source *s = q->source;
    if (err == NULL) {
        q->told[0] = '\0';
        return;
    }
    s->counts.failures++;
    if (strcmp(q->told, err->message) == 0)
        return;
    memcpy(q->told, err->message, sizeof q->told);
    if (s->o.failed != NULL && !s->closing)
        s->o.failed(series[q->series].name, err, s->o.data);
}

static void check_gone(struct prometheus_source *s)
{
    if (s->closing && s->running == 0)
        loop_defer(s->o.loop, &s->gone);
}

static void on_done(const struct err *err, void *data)
{
    struct series_query *q = data;
    q->running = false;
    q->source->running--;
    tell(q, err);
    check_gone(q->source);
}

static const struct prometheus_query_user user = {on_sample, on_done};

static void on_timer(struct loop_timer *timer, void *data)
{
    struct prometheus_source *s = data;
    loop_timer_start(timer, s->o.period_ns);
    for (int i = 0; i < PROMETHEUS_SERIES_MAX; i++) {
        struct series_query *q = &s->queries[i];
        struct err err = {0};
        if (q->text == NULL || q->running)
            continue;
        s->counts.queries++;
        if (prometheus_query_start(s->o.client, q->text, &user, q, &err) == 0) {
            q->running = true;
            s->running++;
        } else
            tell(q, &err);
    }
}

static void source_gone(struct loop_task *task, void *data)
{
    struct prometheus_source *s = data;
    void (*closed)(void *) = s->closed;
    void *closed_data = s->closed_data;
    (void)task;
    for (int i = 0; i < PROMETHEUS_SERIES_MAX; i++)
        free(s->queries[i].text);
    free(s);
    if (closed != NULL)
        closed(closed_data);
}

int prometheus_source_start(const struct prometheus_source_options *o, struct prometheus_source **ret,
                            struct err *err)
{
    for (int i = 0; i < PROMETHEUS_SERIES_MAX; i++)
        if (o->names[i] != NULL && !metric_name_valid(o->names[i]))
            return err_set(err, ERRC_INVALID,
                           "\"%.60s\" is no name of a series: letters, digits, _ and :", o->names[i]);
    struct prometheus_source *s = mem_zalloc(sizeof *s);
    s->o = *o;
    if (s->o.period_ns == 0)
        s->o.period_ns = DEFAULT_PERIOD_NS;
    for (int i = 0; i < PROMETHEUS_SERIES_MAX; i++) {
        const char *name = o->names[i] != NULL ? o->names[i] : series[i].name;
        s->o.names[i] = NULL;
        s->queries[i] = (struct series_query){.source = s, .series = (enum prometheus_series)i};
        if (strcmp(name, "none") != 0)
            s->queries[i].text = prometheus_source_query((enum prometheus_series)i, name);
    }
    s->gone = (struct loop_task){.run = source_gone, .data = s};
    list_init(&s->gone.node);
    loop_timer_init(o->loop, &s->timer, on_timer, s);
    loop_timer_start(&s->timer, 0);
    *ret = s;
    return 0;
}

void prometheus_source_close(struct prometheus_source *s, void (*closed)(void *data), void *data)
{
    s->closing = true;
    s->closed = closed;
    s->closed_data = data;
    loop_timer_stop(&s->timer);
    check_gone(s); /* else when the client's queries end: within their time */
}

void prometheus_source_count(const struct prometheus_source *s, struct prometheus_source_counts *ret)
{
    *ret = s->counts;
}
