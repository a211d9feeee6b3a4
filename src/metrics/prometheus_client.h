/*
 * prometheus_client: instant queries to one Prometheus, or to what speaks its HTTP API.
 *
 * Bounded in time, size and number: a query ends within its timeout (5 s by default) whatever the server
 * does, an answer of more than 8 MiB is an error, and of more than 32 queries at a time the next is refused.
 * Nothing waits for it: who decides takes what arrived. The token file is read again every minute, on a
 * worker, and goes nowhere else than into the request.
 */
#ifndef METRICS_PROMETHEUS_CLIENT_H
#define METRICS_PROMETHEUS_CLIENT_H

#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "metrics/prometheus_answer.h"

#define PROMETHEUS_QUERIES_MAX 32

struct prometheus_client;

struct prometheus_client_options {
    const char *url;        /* "http://prometheus:9090" or below a path; copied, as all texts */
    const char *token_file; /* bearer token, NULL = none; sent over https or to a loopback address only */
    const char *ca_file;    /* NULL = the system's */
    uint64_t timeout_ns;    /* of one query; 0 = 5 s */
};

/* ERRC_INVALID: the URL. Files are read later, and again; what is wrong with them is the queries' error. */
int prometheus_client_new(struct loop *loop, const struct prometheus_client_options *options,
                          struct prometheus_client **ret, struct err *err);
/* Running queries end with ERRC_CANCELED, then `closed` runs. */
void prometheus_client_close(struct prometheus_client *client, void (*closed)(void *data), void *data);

struct prometheus_query;
struct prometheus_query_user {
    void (*sample)(const struct prometheus_sample *sample, void *data);
    void (*done)(const struct err *err, void *data); /* once, last; NULL = success */
};
/* user must live until done. ERRC_LIMIT: too many are running. */
int prometheus_query_start(struct prometheus_client *client, const char *query,
                           const struct prometheus_query_user *user, void *data, struct err *err);

#endif
