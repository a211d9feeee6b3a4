#include "manager/manager_figures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "discovery/kubernetes_source.h"
#include "discovery/kubernetes_usage.h"
#include "ha/member_status.h"
#include "manager/manager_cluster.h"
#include "manager/manager_impl.h"
#include "metrics/pod_collector.h"
#include "metrics/prometheus_source.h"

struct manager_figures {
    struct manager *manager;
    struct pod_collector *collector;
    struct kubernetes_usage *usage;
    struct prometheus_client *prometheus;
    struct prometheus_source *series;
    int closing; /* parts that still close */
    void (*closed)(void *data);
    void *closed_data;
    char text[400];
    char error[300];
};

static bool place(const struct fleet_instance *instance, struct pod_place *ret, void *data)
{
    const struct manager_figures *f = data;
    const struct kubernetes_source *servers = manager_cluster_servers(f->manager);
    const struct kubernetes_entry *e =
        servers != NULL
            ? kubernetes_source_find(servers, instance->name, instance->access.host, instance->access.port)
            : NULL;
    if (e == NULL || e->pod == NULL)
        return false;
    *ret = (struct pod_place){.name_space = e->name_space,
                              .pod = e->pod,
                              .agent = e->own && instance->access.agent_token == NULL ? e->pod_address : NULL,
                              .restarts = e->restarts};
    return true;
}

static double limit_of(double limit)
{
    return limit > 0 ? limit : (double)NAN;
}

void manager_figures_hear(const char *instance, const struct member_status *status, uint64_t heard_ns,
                          void *data)
{
    const struct manager *m = data;
    if (m->figures == NULL || m->figures->closing > 0 || !status->contained)
        return;
    const struct agent_figures figures = {.cpu_us = (double)status->cpu_us,
                                          .cpu_limit = limit_of(status->cpu_limit),
                                          .memory_bytes = (double)status->memory_bytes,
                                          .memory_limit_bytes = limit_of((double)status->memory_limit)};
    pod_collector_hear(m->figures->collector, instance, heard_ns, &figures);
}

/* Its agent spoke lately. */
static bool is_known(const char *instance, void *data)
{
    const struct manager_figures *f = data;
    const struct fleet_instance *found = fleet_find_instance(&f->manager->fleet, instance);
    const struct instance_pod *pod = found != NULL ? found->pod : NULL;
    return pod != NULL && pod->reports[POD_AGENT].at_ns != 0 &&
           loop_now(&f->manager->loop) - pod->reports[POD_AGENT].at_ns < POD_AGENT_FRESH_NS;
}

static void on_usage(const char *name_space, const char *pod, double cpu, double memory, void *data)
{
    const struct manager_figures *f = data;
    pod_collector_set(f->collector, name_space, pod, POD_METRICS_API, POD_CPU, cpu);
    pod_collector_set(f->collector, name_space, pod, POD_METRICS_API, POD_MEMORY, memory);
}

/* ---- Prometheus ---- */

static void on_failed(const char *series, const struct err *err, void *data)
{
    struct manager_figures *f = data;
    snprintf(f->error, sizeof f->error, "%.280s", err->message);
    log_event(LOG_WARN, "Prometheus does not answer, its figures are left out", "series", series, "err",
              err->message, NULL);
}

static int prometheus_start(struct manager_figures *f, struct err *err)
{
    const struct config *c = &f->manager->config;
    const struct prometheus_client_options client = {.url = c->prometheus_url,
                                                     .token_file = c->prometheus_token_file,
                                                     .ca_file = c->prometheus_ca_file,
                                                     .timeout_ns = c->prometheus_timeout_ns};
    struct prometheus_source_options source = {.loop = &f->manager->loop,
                                               .collector = f->collector,
                                               .period_ns = c->prometheus_interval_ns,
                                               .failed = on_failed,
                                               .data = f};
    for (int i = 0; i < PROMETHEUS_SERIES_MAX; i++)
        source.names[i] = c->prometheus_series[i];
    int rc = prometheus_client_new(&f->manager->loop, &client, &f->prometheus, err);
    source.client = f->prometheus;
    return rc != 0 ? rc : prometheus_source_start(&source, &f->series, err);
}

/* ---- life ---- */

void manager_figures_start(struct manager *m)
{
    struct manager_figures *f = mem_zalloc(sizeof *f);
    struct err err = {0};
    f->manager = m;
    m->figures = f;
    const struct pod_collector_options collector = {
        .loop = &m->loop, .fleet = &m->fleet, .place = place, .data = f};
    f->collector = pod_collector_start(&collector);
    const struct kubernetes_source *servers = manager_cluster_servers(m);
    const struct kubernetes_usage_options usage = {
        .client = m->kube, .servers = servers, .usage = on_usage, .known = is_known, .data = f};
    if (servers != NULL)
        f->usage = kubernetes_usage_start(&usage);
    if (m->config.prometheus_url == NULL || !m->config.prometheus_enabled)
        return;
    if (prometheus_start(f, &err) != 0) {
        snprintf(f->error, sizeof f->error, "%.280s", err.message);
        log_event(LOG_ERROR, "Prometheus is not asked", "err", err.message, NULL);
    }
}

static void part_closed(void *data)
{
    struct manager_figures *f = data;
    if (--f->closing > 0)
        return;
    void (*closed)(void *) = f->closed;
    void *closed_data = f->closed_data;
    f->manager->figures = NULL;
    free(f);
    closed(closed_data);
}

/* The collector goes last: the others write into it. */
static void writer_closed(void *data)
{
    struct manager_figures *f = data;
    if (f->closing == 2)
        pod_collector_close(f->collector, part_closed, f);
    f->closing--;
}

bool manager_figures_close(struct manager *m, void (*closed)(void *data), void *data)
{
    struct manager_figures *f = m->figures;
    if (f == NULL)
        return false;
    f->closed = closed;
    f->closed_data = data;
    f->closing = 2 + (f->usage != NULL) + (f->series != NULL) + (f->prometheus != NULL);
    if (f->series != NULL)
        prometheus_source_close(f->series, writer_closed, f);
    if (f->prometheus != NULL)
        prometheus_client_close(f->prometheus, writer_closed, f); /* ends the series' queries */
    if (f->usage != NULL)
        kubernetes_usage_close(f->usage, writer_closed, f);
    writer_closed(f);
    return true;
}

const char *manager_figures_text(const struct manager *m)
{
    struct manager_figures *f = m->figures;
    struct prometheus_source_counts counts;
    if (f == NULL || m->config.prometheus_url == NULL || !m->config.prometheus_enabled)
        return "not used";
    if (f->series == NULL)
        return f->error;
    prometheus_source_count(f->series, &counts);
    snprintf(f->text, sizeof f->text, "%.100s: %llu queries, %llu failed%s%.160s", m->config.prometheus_url,
             (unsigned long long)counts.queries, (unsigned long long)counts.failures,
             f->error[0] != '\0' ? ", last: " : "", f->error);
    return f->text;
}
