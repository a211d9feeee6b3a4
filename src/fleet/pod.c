#include "fleet/pod.h"

#include <math.h>

#include "base/mem.h"

const char *pod_source_name(enum pod_source source)
{
    static const char *const names[] = {"agent", "metrics.k8s.io", "prometheus"};
    return names[source];
}

const char *pod_figure_name(enum pod_figure figure)
{
    static const char *const names[] = {"cpu_cores",
                                        "cpu_limit_cores",
                                        "memory_bytes",
                                        "memory_limit_bytes",
                                        "volume_used_bytes",
                                        "volume_size_bytes",
                                        "network_receive_bytes_per_second",
                                        "network_transmit_bytes_per_second",
                                        "exporter_sessions",
                                        "exporter_commits_per_second",
                                        "exporter_blocks_hit_per_second"};
    _Static_assert(sizeof names / sizeof names[0] == POD_FIGURE_MAX, "each figure has its name");
    return names[figure];
}

struct instance_pod *instance_pod_new(void)
{
    struct instance_pod *pod = mem_zalloc(sizeof *pod);
    for (int s = 0; s < POD_SOURCE_MAX; s++)
        for (int f = 0; f < POD_FIGURE_MAX; f++)
            pod->reports[s].value[f] = (double)NAN;
    return pod;
}

void instance_pod_set(struct instance_pod *pod, enum pod_source source, enum pod_figure figure, double value,
                      uint64_t now_ns)
{
    pod->reports[source].value[figure] = value;
    pod->reports[source].at_ns = now_ns;
}

double instance_pod_get(const struct instance_pod *pod, enum pod_figure figure, uint64_t now_ns,
                        enum pod_source *ret_source)
{
    for (int s = 0; pod != NULL && s < POD_SOURCE_MAX; s++) {
        const struct pod_report *report = &pod->reports[s];
        uint64_t fresh = s == POD_AGENT ? POD_AGENT_FRESH_NS : POD_FRESH_NS;
        if (report->at_ns == 0 || now_ns > report->at_ns + fresh || isnan(report->value[figure]))
            continue;
        if (ret_source != NULL)
            *ret_source = (enum pod_source)s;
        return report->value[figure];
    }
    return (double)NAN;
}
