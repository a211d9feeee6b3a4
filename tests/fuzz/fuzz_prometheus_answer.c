/* links: metrics */
/* Answers of a Prometheus and of an agent: never more samples than allowed, and each error says something. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/pod_figures.h"
#include "metrics/prometheus_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void each(const struct prometheus_sample *sample, void *data)
{
    size_t *count = data;
    if (++*count > PROMETHEUS_SAMPLES_MAX || sample->label_count > PROMETHEUS_LABELS_MAX)
        abort();
    for (size_t i = 0; i < sample->label_count; i++)
        if (prometheus_label(sample, sample->labels[i].name) == NULL)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct agent_figures figures;
    size_t count = 0;
    int rc = prometheus_answer_parse((const char *)data, size, each, &count, &err);
    if ((rc != 0) != (err.code != ERRC_NONE) || (rc != 0 && err.message[0] == '\0'))
        abort();
    (void)agent_figures_parse((const char *)data, size, &figures);
    return 0;
}
