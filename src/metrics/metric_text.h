/*
 * metric_text: the Prometheus text format 0.0.4, written piece by piece. No I/O.
 *
 * Whatever the input, each call adds whole, well-formed text or nothing.
 */
#ifndef METRICS_METRIC_TEXT_H
#define METRICS_METRIC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/hist.h"

#define METRIC_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define METRIC_LABEL_MAX    256 /* bytes of a label's value before escaping; the rest is cut */

enum metric_type { METRIC_GAUGE, METRIC_COUNTER, METRIC_HISTOGRAM, METRIC_UNTYPED };

struct metric_family {
    const char *name;
    enum metric_type type;
    const char *help;
};

/* [a-zA-Z_:][a-zA-Z0-9_:]*, at most 200 bytes. */
bool metric_name_valid(const char *name);

/* "# HELP" and "# TYPE" lines. */
void metric_add_head(struct buf *out, const struct metric_family *family);

/* name="value" with \ " and newline escaped, invalid UTF-8 replaced by U+FFFD, NULL as "". */
void metric_add_label(struct buf *out, const char *name, const char *value);

/* A help text with \ and newline escaped. */
void metric_add_help(struct buf *out, const char *text);

/*
 * A number as PostgreSQL prints it ("12", "-1.5e+20", "NaN", "Infinity", "t") as Prometheus reads it.
 * False, and nothing added, for anything else.
 */
bool metric_add_value(struct buf *out, const char *text);

/* Shortest text that reads back as the same number; "NaN", "+Inf", "-Inf". */
void metric_add_double(struct buf *out, double value);
void metric_add_uint(struct buf *out, uint64_t value);

/* The seven digits that a float holds: 0.7, not 0.699999988. */
void metric_add_float(struct buf *out, float value);

/* value / 10^digits without trailing zeros, digits <= 18: a duration in nanoseconds (9) as seconds. */
void metric_add_decimal(struct buf *out, uint64_t value, unsigned digits);

/* A text whose length is known. */
struct metric_span {
    const char *text;
    size_t length;
};
struct metric_span metric_span(const char *text);

/* name{labels,more} and a blank: what stands before a value. labels and more are rendered text, more may be
 * empty. */
void metric_add_start(struct buf *out, struct metric_span name, struct metric_span labels,
                      struct metric_span more);

/* name{labels} value\n; labels is rendered text ("" = none). */
void metric_add_sample(struct buf *out, const char *name, const char *labels, double value);

/* _bucket, _sum and _count lines of a histogram in seconds: buckets from 1 ms to 100 s. */
void metric_add_histogram(struct buf *out, const char *name, const char *labels, const struct hist *h);

#endif
