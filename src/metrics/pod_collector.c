#include "metrics/pod_collector.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "http/http_client.h"
#include "metrics/pod_figures.h"

#define DEFAULT_PERIOD_NS ENV_NS_PER_S
#define AGENT_NS          (900 * ENV_NS_PER_MS)
#define ANSWER_MAX        65536
#define CALLS_MAX         64
#define HEARD_NS          (10 * ENV_NS_PER_S) /* of who is not asked, so long */
#define CALM_CORES        0.05
#define CALM_ROUNDS       4
#define REST_ROUNDS       8 /* what an agent said holds for 10 s (fleet/pod.h) */

/* What the last answer of one agent said; by the instance's name, since instances come and go. */
struct agent {
    struct list node;
    struct pod_collector *collector;
    char *instance;
    struct http_call *call;
    double cpu_us; /* NAN = none yet */
    uint64_t at_ns;
    bool wanted; /* the instance was there in this round */
    bool calm;   /* its server does next to nothing: asked in one round of several */
    unsigned number;
};

struct pod_collector {
    struct pod_collector_options o;
    struct http_client *http;
    struct list agents;
    struct list
        *found; /* where the last search ended: agents stand as the instances do; NULL = there was none */
    struct loop_timer timer;
    unsigned calls;
    unsigned rounds, made;
    struct pod_collector_counts counts;
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

static struct instance_pod *pod_of(struct fleet_instance *instance)
{
    if (instance->pod == NULL)
        instance->pod = instance_pod_new();
    return instance->pod;
}

/* ---- agents ---- */

static void agent_free(struct agent *a)
{
    if (a->collector->found == &a->node)
        a->collector->found = NULL;
    list_remove(&a->node);
    free(a->instance);
    free(a);
}

static struct agent *agent_of(struct pod_collector *c, const char *instance)
{
    struct list *start = c->found != NULL ? c->found : c->agents.next, *node = start;
    do {
        struct agent *one = list_item(node, struct agent, node);
        if (node != &c->agents && strcmp(one->instance, instance) == 0) {
            c->found = node;
            return one;
        }
        node = node->next;
    } while (node != start);
    struct agent *a = mem_zalloc(sizeof *a);
    a->collector = c;
    a->instance = mem_strdup(instance);
    a->cpu_us = (double)NAN;
    a->number = c->made++;
    list_append(&c->agents, &a->node);
    return a;
}

static void take_figures(struct agent *a, struct fleet_instance *instance, uint64_t now,
                         const struct agent_figures *f)
{
    struct instance_pod *pod = pod_of(instance);
    uint64_t stamp = loop_now(a->collector->o.loop);
    double cores = (double)NAN;
    /* a counter that fell belongs to a new container */
    if (!isnan(a->cpu_us) && f->cpu_us >= a->cpu_us && now > a->at_ns)
        cores = (f->cpu_us - a->cpu_us) * 1e3 / (double)(now - a->at_ns);
    a->cpu_us = f->cpu_us;
    a->at_ns = now;
    a->calm = cores < CALM_CORES;
    instance_pod_set(pod, POD_AGENT, POD_CPU, cores, stamp);
    instance_pod_set(pod, POD_AGENT, POD_CPU_LIMIT, f->cpu_limit, stamp);
    instance_pod_set(pod, POD_AGENT, POD_MEMORY, f->memory_bytes, stamp);
    instance_pod_set(pod, POD_AGENT, POD_MEMORY_LIMIT, f->memory_limit_bytes, stamp);
}

static void on_answer(const struct http_answer *answer, void *data)
{
    struct agent *a = data;
    struct pod_collector *c = a->collector;
    struct agent_figures figures;
    a->call = NULL;
    c->calls--;
    if (c->closing) {
        agent_free(a);
        return;
    }
    struct fleet_instance *instance = fleet_find_instance(c->o.fleet, a->instance);
    bool ok = answer->err == NULL && answer->status == 200 && instance != NULL &&
              agent_figures_parse(answer->body, answer->body_length, &figures);
    c->counts.answered += ok;
    c->counts.failed += !ok;
    if (ok)
        take_figures(a, instance, loop_clock(c->o.loop), &figures);
    else
        a->cpu_us = (double)NAN;
    a->calm = a->calm && ok;
}

static void ask(struct agent *a, const struct pod_place *place)
{
    struct pod_collector *c = a->collector;
    int port = place->agent_port != 0 ? place->agent_port : POD_AGENT_PORT;
    bool v6 = strchr(place->agent, ':') != NULL;
    char *url = mem_printf("http://%s%s%s:%d/v1/status", v6 ? "[" : "", place->agent, v6 ? "]" : "", port);
    const struct http_call_options options = {
        .method = "GET", .url = url, .timeout_ns = AGENT_NS, .body_limit = ANSWER_MAX};
    struct err err = {0};
    c->counts.asked++;
    if (http_call_start(c->http, &options, on_answer, a, &a->call, &err) == 0)
        c->calls++;
    else
        c->counts.failed++;
    free(url);
}

/* ---- rounds ---- */

static void look_at(struct pod_collector *c, struct fleet_instance *instance)
{
    struct pod_place place = {0};
    if (!c->o.place(instance, &place, c->o.data))
        return;
    pod_of(instance)->restarts = place.restarts;
    if (place.agent == NULL)
        return;
    struct agent *a = agent_of(c, instance->name);
    a->wanted = true;
    unsigned every = instance->facts.rests ? REST_ROUNDS : a->calm ? CALM_ROUNDS : 1;
    if ((c->rounds + a->number) % every == 0 && a->call == NULL && c->calls < CALLS_MAX)
        ask(a, &place);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    struct pod_collector *c = data;
    loop_timer_start(timer, c->o.period_ns);
    c->rounds++;
    list_each(node, &c->agents)
    {
        list_item(node, struct agent, node)->wanted = false;
    }
    list_each(node, &c->o.fleet->instances)
    {
        look_at(c, list_item(node, struct fleet_instance, node));
    }
    list_each(node, &c->agents)
    {
        struct agent *a = list_item(node, struct agent, node);
        if (!a->wanted && a->call == NULL && loop_clock(c->o.loop) - a->at_ns > HEARD_NS)
            agent_free(a);
    }
}

void pod_collector_hear(struct pod_collector *c, const char *name, uint64_t at_ns,
                        const struct agent_figures *figures)
{
    struct fleet_instance *instance = fleet_find_instance(c->o.fleet, name);
    if (instance == NULL || c->closing)
        return;
    struct agent *a = agent_of(c, name);
    if (at_ns > a->at_ns)
        take_figures(a, instance, at_ns, figures);
}

struct pod_collector *pod_collector_start(const struct pod_collector_options *options)
{
    struct pod_collector *c = mem_zalloc(sizeof *c);
    c->o = *options;
    if (c->o.period_ns == 0)
        c->o.period_ns = DEFAULT_PERIOD_NS;
    c->http = http_client_new(c->o.loop, NULL);
    list_init(&c->agents);
    loop_timer_init(c->o.loop, &c->timer, on_timer, c);
    loop_timer_start(&c->timer, 0);
    return c;
}

static void http_gone(void *data)
{
    struct pod_collector *c = data;
    void (*closed)(void *) = c->closed;
    void *closed_data = c->closed_data;
    free(c);
    if (closed != NULL)
        closed(closed_data);
}

void pod_collector_close(struct pod_collector *c, void (*closed)(void *data), void *data)
{
    c->closing = true;
    c->closed = closed;
    c->closed_data = data;
    loop_timer_stop(&c->timer);
    list_each(node, &c->agents)
    {
        struct agent *a = list_item(node, struct agent, node);
        if (a->call == NULL)
            agent_free(a);
    }
    http_client_close(c->http, http_gone, c); /* the calls' callbacks come first */
}

/* ---- what others say ---- */

static bool is(const char *a, const char *b)
{
    return a != NULL && b != NULL && strcmp(a, b) == 0;
}

void pod_collector_set(struct pod_collector *c, const char *name_space, const char *pod,
                       enum pod_source source, enum pod_figure figure, double value)
{
    list_each(node, &c->o.fleet->instances)
    {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        struct pod_place place = {0};
        if (c->o.place(instance, &place, c->o.data) && is(place.pod, pod) && is(place.name_space, name_space))
            instance_pod_set(pod_of(instance), source, figure, value, loop_now(c->o.loop));
    }
}

void pod_collector_set_named(struct pod_collector *c, const char *name, enum pod_source source,
                             enum pod_figure figure, double value)
{
    struct fleet_instance *instance = fleet_find_instance(c->o.fleet, name);
    if (instance != NULL)
        instance_pod_set(pod_of(instance), source, figure, value, loop_now(c->o.loop));
}

void pod_collector_set_claim(struct pod_collector *c, const char *name_space, const char *claim,
                             enum pod_source source, enum pod_figure figure, double value)
{
    list_each(node, &c->o.fleet->instances)
    {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        struct pod_place place = {0};
        if (c->o.place(instance, &place, c->o.data) && place.pod != NULL &&
            is(place.name_space, name_space) && claim_is_of_pod(claim, place.pod))
            instance_pod_set(pod_of(instance), source, figure, value, loop_now(c->o.loop));
    }
}

void pod_collector_count(const struct pod_collector *c, struct pod_collector_counts *ret)
{
    *ret = c->counts;
}
