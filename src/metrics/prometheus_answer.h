/*
 * prometheus_answer: what a Prometheus says to an instant query. Pure.
 */
#ifndef METRICS_PROMETHEUS_ANSWER_H
#define METRICS_PROMETHEUS_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define PROMETHEUS_SAMPLES_MAX 50000 /* of one answer; more is an error */
#define PROMETHEUS_LABELS_MAX  64    /* of one sample; the rest is not looked at */

struct prometheus_label {
    const char *name, *value;
};

struct prometheus_sample {
    const struct prometheus_label *labels; /* valid during the call, as their texts */
    size_t label_count;
    double value;  /* NAN and infinities are values */
    double time_s; /* since 1970 */
};

/* NULL = it has no such label. */
const char *prometheus_label(const struct prometheus_sample *sample, const char *name);

/*
 * The body of /api/v1/query, whatever its HTTP status; `each` gets every sample of a vector, or the one
 * scalar. ERRC_INVALID with Prometheus' own words: the query is wrong; ERRC_UNAVAILABLE: it could not answer
 * now; ERRC_PROTOCOL: it is no answer, or not one to an instant query; ERRC_LIMIT: too many samples.
 */
int prometheus_answer_parse(const char *body, size_t length,
                            void (*each)(const struct prometheus_sample *sample, void *data), void *data,
                            struct err *err);

#endif
