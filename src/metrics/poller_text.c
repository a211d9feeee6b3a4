/*
 * The rendered families of one instance: those of its queries, and those about the polling itself.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/families.h"
#include "metrics/poller_impl.h"
#include "metrics/render.h"

static void replace(struct samples **place, struct samples *samples)
{
    samples_free(*place);
    *place = samples;
}

#define HASH_PRIME 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * HASH_PRIME;
    return h ^ (h >> 32);
}

static uint64_t hash_bytes(uint64_t h, const char *bytes, size_t length)
{
    uint64_t word;
    for (; length >= sizeof word; bytes += sizeof word, length -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        h = mix(h, word);
    }
    word = 0;
    memcpy(&word, bytes, length);
    return mix(h, word);
}

/* Of everything that the samples are rendered from; the query stays that of the slot. */
static uint64_t fingerprint(const struct poller *p, const PGresult *result)
{
    uint64_t h = hash_bytes((uint64_t)p->server_version, p->labels, strlen(p->labels));
    int columns = PQnfields(result);
    for (int row = 0; row < PQntuples(result); row++)
        for (int c = 0; c < columns; c++) {
            size_t length = (size_t)PQgetlength(result, row, c);
            h = mix(h, length * 2 + (size_t)PQgetisnull(result, row, c));
            h = hash_bytes(h, PQgetvalue(result, row, c), length);
        }
    return mix(h, (uint64_t)PQntuples(result));
}

void poller_text_take(struct poller *p, struct poller_slot *slot, const struct pg_reply *reply)
{
    const struct query *query = query_get(slot->query);
    if (slot->failed || reply->count == 0 || (query->column_count == 0 && !query->dynamic))
        return;
    const PGresult *result = reply->results[reply->count - 1];
    uint64_t found = fingerprint(p, result);
    slot->rendered_ns = loop_now(p->pollers->loop);
    if (slot->samples != NULL && slot->fingerprint == found)
        return; /* most settings, locks and sizes never change */
    slot->fingerprint = found;
    replace(&slot->samples,
            render_result(query, result, p->labels, p->pollers->dynamic, &p->pollers->counts.series_dropped));
}

static void add(struct samples_builder *b, enum status_family family, const char *labels, double value)
{
    if (!isnan(value))
        metric_add_sample(&b->text, status_families[family].name, labels, value);
}

static const char *with(struct buf *scratch, const char *labels, const char *name, const char *value)
{
    buf_reset(scratch);
    buf_add_text(scratch, labels);
    buf_addc(scratch, ',');
    metric_add_label(scratch, name, value);
    return buf_text(scratch);
}

static void add_groups(const struct poller *p, struct samples_builder *b, enum status_family family,
                       struct buf *scratch)
{
    for (int g = 0; g < POLL_GROUPS; g++) {
        const struct poller_group *group = &p->groups[g];
        const char *labels = with(scratch, p->own_labels, "group", poll_group_name((enum poll_group)g));
        if (p->pollers->options.period_ns[g] == POLL_OFF)
            continue;
        switch (family) {
        case STATUS_LAST_SUCCESS:
            add(b, family, labels, (double)group->success_us / 1e6);
            break;
        case STATUS_DURATION:
            add(b, family, labels, (double)group->took_ns / 1e9);
            break;
        case STATUS_ERRORS:
            add(b, family, labels, (double)group->errors);
            break;
        default:
            add(b, family, labels, (double)group->skipped);
            break;
        }
    }
}

static void add_collectors(const struct poller *p, struct samples_builder *b, enum status_family family,
                           struct buf *scratch)
{
    for (int q = 0; q < QUERIES; q++) {
        const struct poller_slot *slot = &p->slots[q];
        if (slot->sent_ns == 0)
            continue;
        const char *labels = with(scratch, p->labels, "collector", query_get((enum query_id)q)->name);
        add(b, family, labels,
            family == STATUS_COLLECTOR_DURATION ? (double)slot->took_ns / 1e9 : !slot->failed && p->up);
    }
}

static void add_family(const struct poller *p, struct samples_builder *b, enum status_family family,
                       struct buf *scratch)
{
    const struct instance_facts *facts = &p->instance->facts;
    switch (family) {
    case STATUS_PG_UP:
        add(b, family, p->labels, p->up);
        break;
    case STATUS_SCRAPE_DURATION:
        add(b, family, p->labels, (double)p->groups[POLL_LOAD].took_ns / 1e9);
        break;
    case STATUS_SCRAPE_ERROR:
        add(b, family, p->labels, p->groups[POLL_LOAD].failed || !p->up);
        break;
    case STATUS_COLLECTOR_DURATION:
    case STATUS_COLLECTOR_SUCCESS:
        add_collectors(p, b, family, scratch);
        break;
    case STATUS_UP:
        add(b, family, p->own_labels, p->up);
        break;
    case STATUS_LAST_SUCCESS:
    case STATUS_DURATION:
    case STATUS_ERRORS:
    case STATUS_SKIPPED:
        add_groups(p, b, family, scratch);
        break;
    case STATUS_FAILURES:
        add(b, family, p->own_labels, (double)facts->errors_total);
        break;
    case STATUS_CONNECTS:
        add(b, family, p->own_labels, (double)p->connects);
        break;
    case STATUS_FAMILIES:
        break;
    }
}

static void render_status(struct poller *p)
{
    struct samples_builder b;
    struct buf scratch = {0};
    samples_begin(&b);
    for (int f = 0; f < STATUS_FAMILIES; f++) {
        add_family(p, &b, (enum status_family)f, &scratch);
        samples_end(&b);
    }
    buf_free(&scratch);
    replace(&p->status, samples_take(&b));
}

static double value_of(const struct fleet_instance *i, enum value_family family)
{
    const double unknown = (double)NAN;
    const struct instance_facts *facts = &i->facts;
    struct load_sample newest;
    const struct load_sample *load = load_ring_second(&i->load, 0, &newest) ? &newest : NULL;
    switch (family) {
    case VALUE_QUERY_RATE:
        return load != NULL && facts->role == ROLE_PRIMARY ? load_value(load->value[LOAD_QUERY_RATE])
                                                           : unknown;
    case VALUE_LAG:
        return facts->role == ROLE_STANDBY ? facts->lag_seconds : unknown;
    case VALUE_LAG_BYTES:
        return facts->role == ROLE_STANDBY ? (double)facts->lag_bytes : unknown;
    case VALUE_WAL_RATE:
        return load != NULL ? load_value(load->value[LOAD_WAL_RATE]) : unknown;
    case VALUE_ACTIVE:
        return load != NULL ? load_value(load->active_sessions) : unknown;
    case VALUE_CONNECTIONS:
        return facts->connections;
    case VALUE_MAX_CONNECTIONS:
        return facts->max_connections > 0 ? facts->max_connections : unknown;
    case VALUE_SIZE:
        return facts->database_bytes > 0 ? (double)facts->database_bytes : unknown;
    case VALUE_TIMELINE:
        return facts->timeline;
    case VALUE_FAMILIES:
        break;
    }
    return unknown;
}

static void render_values(struct poller *p)
{
    struct samples_builder b;
    samples_begin(&b);
    for (int f = 0; f < VALUE_FAMILIES; f++) {
        double value = value_of(p->instance, (enum value_family)f);
        if (!isnan(value))
            metric_add_sample(&b.text, value_families[f].name, p->own_labels, value);
        samples_end(&b);
    }
    replace(&p->values, samples_take(&b));
}

static void render_histograms(struct poller *p)
{
    struct samples_builder b;
    samples_begin(&b);
    metric_add_histogram(&b.text, histogram_families[HISTOGRAM_PROBE].name, p->own_labels,
                         &p->instance->probe);
    samples_end(&b);
    metric_add_histogram(&b.text, histogram_families[HISTOGRAM_QUERY_AGE].name, p->own_labels,
                         &p->instance->query_age);
    samples_end(&b);
    replace(&p->histograms, samples_take(&b));
}

void poller_text_update(struct poller *p)
{
    if (p->status_changed)
        render_status(p);
    if (p->values_changed)
        render_values(p);
    if (p->histograms_changed)
        render_histograms(p);
    p->status_changed = p->values_changed = p->histograms_changed = false;
}

void poller_text_free(struct poller *p)
{
    for (int q = 0; q < QUERIES; q++)
        samples_free(p->slots[q].samples);
    samples_free(p->status);
    samples_free(p->values);
    samples_free(p->histograms);
}
