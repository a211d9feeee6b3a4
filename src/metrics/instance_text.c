#include "metrics/instance_text.h"

#include <assert.h>
#include <math.h>

const struct metric_family *instance_family(unsigned number)
{
    if (number < STATUS_FAMILIES)
        return &status_families[number];
    number -= STATUS_FAMILIES;
    if (number < VALUE_FAMILIES)
        return &value_families[number];
    number -= VALUE_FAMILIES;
    assert(number < HISTOGRAM_FAMILIES);
    return &histogram_families[number];
}

/* ---- labels that all instances share ---- */

struct texts {
    struct buf bytes;
    struct metric_span collectors[QUERIES]; /* collector="stat_database" */
    struct metric_span groups[POLL_GROUPS]; /* group="load" */
    struct metric_span none;
};

static struct metric_span keep_label(struct buf *bytes, const char *name, const char *value)
{
    size_t start = bytes->length;
    metric_add_label(bytes, name, value);
    return (struct metric_span){NULL, bytes->length - start};
}

static void texts_make(struct texts *t)
{
    *t = (struct texts){.none = {"", 0}};
    for (int q = 0; q < QUERIES; q++)
        t->collectors[q] = keep_label(&t->bytes, "collector", query_get((enum query_id)q)->name);
    for (int g = 0; g < POLL_GROUPS; g++)
        t->groups[g] = keep_label(&t->bytes, "group", poll_group_name((enum poll_group)g));
    const char *at = t->bytes.data; /* it grows no more */
    for (int q = 0; q < QUERIES; q++, at += t->collectors[q - 1].length)
        t->collectors[q].text = at;
    for (int g = 0; g < POLL_GROUPS; g++, at += t->groups[g - 1].length)
        t->groups[g].text = at;
}

/* One family of one instance. */
struct writer {
    struct buf *out;
    const struct texts *texts;
    struct metric_span name;
    struct metric_span labels, own_labels;
};

static void add_decimal(const struct writer *w, struct metric_span labels, struct metric_span more,
                        uint64_t value, unsigned digits)
{
    metric_add_start(w->out, w->name, labels, more);
    metric_add_decimal(w->out, value, digits);
    buf_addc(w->out, '\n');
}

static void add_number(const struct writer *w, struct metric_span labels, uint64_t value)
{
    add_decimal(w, labels, w->texts->none, value, 0);
}

/* ---- about the polling ---- */

static void add_groups(const struct writer *w, const struct poller *p, enum status_family family)
{
    for (int g = 0; g < POLL_GROUPS; g++) {
        const struct poller_group *group = &p->groups[g];
        if (p->pollers->options.period_ns[g] == POLL_OFF)
            continue;
        if (family == STATUS_LAST_SUCCESS)
            add_decimal(w, w->own_labels, w->texts->groups[g], (uint64_t)group->success_us, 6);
        else if (family == STATUS_DURATION)
            add_decimal(w, w->own_labels, w->texts->groups[g], group->took_ns, 9);
        else
            add_decimal(w, w->own_labels, w->texts->groups[g],
                        family == STATUS_ERRORS ? group->errors : group->skipped, 0);
    }
}

static void add_collectors(const struct writer *w, const struct poller *p, enum status_family family)
{
    for (int q = 0; q < QUERIES; q++) {
        const struct poller_slot *slot = &p->slots[q];
        if (slot->sent_ns == 0)
            continue;
        if (family == STATUS_COLLECTOR_DURATION)
            add_decimal(w, w->labels, w->texts->collectors[q], slot->took_ns, 9);
        else
            add_decimal(w, w->labels, w->texts->collectors[q], !slot->failed && p->up, 0);
    }
}

static bool alive(const struct poller *p)
{
    enum instance_health health = p->instance->facts.health;
    return health == HEALTH_UNKNOWN ? p->up : health != HEALTH_DOWN;
}

static void add_status(const struct writer *w, const struct poller *p, enum status_family family)
{
    switch (family) {
    case STATUS_PG_UP:
        add_number(w, w->labels, p->up);
        break;
    case STATUS_SCRAPE_DURATION:
        add_decimal(w, w->labels, w->texts->none, p->groups[POLL_LOAD].took_ns, 9);
        break;
    case STATUS_SCRAPE_ERROR:
        add_number(w, w->labels, p->groups[POLL_LOAD].failed || !p->up);
        break;
    case STATUS_COLLECTOR_DURATION:
    case STATUS_COLLECTOR_SUCCESS:
        add_collectors(w, p, family);
        break;
    case STATUS_UP:
        add_number(w, w->own_labels, p->up);
        break;
    case STATUS_FAILURES:
        add_number(w, w->own_labels, p->instance->facts.errors_total);
        break;
    case STATUS_CONNECTS:
        add_number(w, w->own_labels, p->connects);
        break;
    case STATUS_HEALTH:
        add_number(w, w->own_labels, alive(p));
        break;
    default:
        add_groups(w, p, family);
        break;
    }
}

/* ---- the model's facts ---- */

/* From the newest sample; NAN if it is not known. */
static float sample_of(const struct fleet_instance *i, enum value_family family)
{
    struct load_sample newest;
    if (!load_ring_second(&i->load, 0, &newest))
        return (float)NAN;
    if (family == VALUE_QUERY_RATE)
        return i->facts.role == ROLE_PRIMARY ? newest.value[LOAD_QUERY_RATE] : (float)NAN;
    return family == VALUE_WAL_RATE ? newest.value[LOAD_WAL_RATE] : newest.active_sessions;
}

static double fact_of(const struct fleet_instance *instance, enum value_family family)
{
    const struct instance_facts *facts = &instance->facts;
    const double unknown = (double)NAN;
    switch (family) {
    case VALUE_LAG:
        return fleet_lag_seconds(instance);
    case VALUE_LAG_BYTES:
        return facts->role == ROLE_STANDBY && !isnan(facts->lag_seconds) ? (double)facts->lag_bytes : unknown;
    case VALUE_CONNECTIONS:
        return facts->connections;
    case VALUE_MAX_CONNECTIONS:
        return facts->max_connections > 0 ? facts->max_connections : unknown;
    case VALUE_SIZE:
        return facts->database_bytes > 0 ? (double)facts->database_bytes : unknown;
    case VALUE_TIMELINE:
        return facts->timeline;
    default:
        return unknown;
    }
}

/* What a cluster says of its pod; NAN if nobody does. */
static double pod_value(const struct poller *p, enum value_family family)
{
    static const enum pod_figure figures[] = {[VALUE_CPU] = POD_CPU,
                                              [VALUE_CPU_LIMIT] = POD_CPU_LIMIT,
                                              [VALUE_MEMORY] = POD_MEMORY,
                                              [VALUE_MEMORY_LIMIT] = POD_MEMORY_LIMIT,
                                              [VALUE_VOLUME_USED] = POD_VOLUME_USED,
                                              [VALUE_VOLUME_SIZE] = POD_VOLUME_SIZE,
                                              [VALUE_RECEIVED] = POD_RECEIVED,
                                              [VALUE_TRANSMITTED] = POD_TRANSMITTED};
    const struct instance_pod *pod = p->instance->pod;
    if (pod == NULL)
        return (double)NAN;
    if (family == VALUE_RESTARTS)
        return (double)pod->restarts;
    return instance_pod_get(pod, figures[family], loop_now(p->pollers->loop), NULL);
}

static void add_value(const struct writer *w, const struct poller *p, enum value_family family)
{
    bool sampled = family == VALUE_QUERY_RATE || family == VALUE_WAL_RATE || family == VALUE_ACTIVE;
    float sample = sampled ? sample_of(p->instance, family) : 0;
    double fact = sampled ? 0 : family >= VALUE_CPU ? pod_value(p, family) : fact_of(p->instance, family);
    if (isnan(sample) || isnan(fact))
        return;
    metric_add_start(w->out, w->name, w->own_labels, w->texts->none);
    if (sampled)
        metric_add_float(w->out, sample);
    else
        metric_add_double(w->out, fact);
    buf_addc(w->out, '\n');
}

/* ---- all of them ---- */

static void add_family(const struct writer *w, const struct poller *p, unsigned number)
{
    if (number < STATUS_FAMILIES) {
        add_status(w, p, (enum status_family)number);
        return;
    }
    number -= STATUS_FAMILIES;
    if (number < VALUE_FAMILIES) {
        add_value(w, p, (enum value_family)number);
        return;
    }
    number -= VALUE_FAMILIES;
    struct hist h;
    hist_sparse_copy(number == HISTOGRAM_PROBE ? &p->instance->probe : &p->instance->query_age, &h);
    metric_add_histogram(w->out, w->name.text, p->own_labels, &h);
}

void instance_text_render(struct text_block *block, struct poller *const *members, const bool *stale)
{
    struct texts texts;
    struct metric_span labels[BLOCK_INSTANCES], own_labels[BLOCK_INSTANCES];
    texts_make(&texts);
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++) {
        labels[i] = metric_span(members[i] != NULL ? members[i]->labels : "");
        own_labels[i] = metric_span(members[i] != NULL ? members[i]->own_labels : "");
    }
    for (unsigned f = 0; f < INSTANCE_FAMILIES; f++) {
        struct writer w = {
            .out = &block->text, .texts = &texts, .name = metric_span(instance_family(f)->name)};
        for (unsigned i = 0; i < BLOCK_INSTANCES; i++) {
            w.labels = labels[i];
            w.own_labels = own_labels[i];
            if (members[i] != NULL && (f < STATUS_FAMILIES || !stale[i]))
                add_family(&w, members[i], f);
        }
        block_end_family(block);
    }
    buf_free(&texts.bytes);
}
