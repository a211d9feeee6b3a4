#include "discovery/kubernetes_usage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "discovery/kubernetes_source.h"
#include "k8s/client.h"
#include "loop/loop.h"

#define DEFAULT_PERIOD_NS (15 * ENV_NS_PER_S)
#define ABSENT_NS         (300 * ENV_NS_PER_S)
#define CALL_NS           (5 * ENV_NS_PER_S)

struct kubernetes_usage {
    struct kubernetes_usage_options o;
    struct loop *loop;
    struct loop_timer timer; /* the next round, or the next pod of this one */
    struct k8s_call *call;
    size_t next;            /* pod of the round */
    char *name_space, *pod; /* that are asked for */
    uint64_t round_ns;      /* when it began */
    struct loop_task gone;
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

bool kubernetes_quantity(const char *text, double *ret)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {{"", 1},
                 {"n", 1e-9},
                 {"u", 1e-6},
                 {"m", 1e-3},
                 {"k", 1e3},
                 {"M", 1e6},
                 {"G", 1e9},
                 {"T", 1e12},
                 {"P", 1e15},
                 {"E", 1e18},
                 {"Ki", 1024.0},
                 {"Mi", 1048576.0},
                 {"Gi", 1073741824.0},
                 {"Ti", 1099511627776.0},
                 {"Pi", 1125899906842624.0},
                 {"Ei", 1152921504606846976.0}};
    char *rest;
    if (text[0] < '0' || text[0] > '9' || text[1] == 'x' || text[1] == 'X')
        return false;
    double number = strtod(text, &rest);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(rest, units[i].suffix) == 0 && isfinite(number)) {
            *ret = number * units[i].factor;
            return true;
        }
    return false;
}

static void add(yyjson_val *usage, const char *name, double *sum)
{
    const char *text = yyjson_get_str(yyjson_obj_get(usage, name));
    double number;
    if (text != NULL && kubernetes_quantity(text, &number))
        *sum = isnan(*sum) ? number : *sum + number;
}

bool kubernetes_usage_parse(const char *json, size_t length, double *ret_cpu, double *ret_memory)
{
    yyjson_doc *doc = yyjson_read(json, length, 0);
    yyjson_val *containers = yyjson_obj_get(yyjson_doc_get_root(doc), "containers"), *container;
    double cpu = (double)NAN, memory = (double)NAN;
    size_t i, max;
    yyjson_arr_foreach(containers, i, max, container)
    {
        add(yyjson_obj_get(container, "usage"), "cpu", &cpu);
        add(yyjson_obj_get(container, "usage"), "memory", &memory);
    }
    yyjson_doc_free(doc);
    if (isnan(cpu) && isnan(memory))
        return false;
    *ret_cpu = cpu;
    *ret_memory = memory;
    return true;
}

/* ---- rounds ---- */

static void ask_next(struct kubernetes_usage *u);

static void round_over(struct kubernetes_usage *u)
{
    uint64_t due = u->round_ns + u->o.period_ns, now = loop_now(u->loop);
    u->next = 0;
    loop_timer_start(&u->timer, due > now ? due - now : u->o.period_ns);
}

static void on_answer(const struct k8s_answer *answer, void *data)
{
    struct kubernetes_usage *u = data;
    double cpu, memory;
    u->call = NULL;
    if (u->closing) {
        loop_defer(u->loop, &u->gone);
        return;
    }
    if (answer->err == NULL && kubernetes_usage_parse(answer->body, answer->body_length, &cpu, &memory))
        u->o.usage(u->name_space, u->pod, cpu, memory, u->o.data);
    /* a pod without figures is 404 too, but then the answer names it */
    bool absent = answer->http_status == 404 &&
                  (answer->status == NULL || strstr(answer->status->message, u->pod) == NULL);
    if (absent || answer->http_status == 403 || answer->http_status == 503) {
        u->next = 0;
        loop_timer_start(&u->timer, ABSENT_NS);
        return;
    }
    ask_next(u);
}

static const struct kubernetes_entry *next_entry(struct kubernetes_usage *u)
{
    const struct kubernetes_entries *entries = kubernetes_source_entries(u->o.servers);
    while (u->next < entries->count) {
        const struct kubernetes_entry *e = &entries->items[u->next++];
        bool known = u->o.known != NULL && e->own && u->o.known(e->name, u->o.data);
        if (e->pod != NULL && e->pod_address != NULL && !known)
            return e;
    }
    return NULL;
}

static void ask_next(struct kubernetes_usage *u)
{
    const struct kubernetes_entry *e = next_entry(u);
    struct err err = {0};
    if (e == NULL) {
        round_over(u);
        return;
    }
    free(u->name_space);
    free(u->pod);
    u->name_space = mem_strdup(e->name_space);
    u->pod = mem_strdup(e->pod);
    char *path = mem_printf("/apis/metrics.k8s.io/v1beta1/namespaces/%s/pods/%s", e->name_space, e->pod);
    const struct k8s_request request = {
        .method = "GET", .path = path, .timeout_ns = CALL_NS, .body_limit = 1024 * 1024, .once = true};
    if (k8s_call_start(u->o.client, &request, on_answer, u, &u->call, &err) != 0)
        round_over(u);
    free(path);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    struct kubernetes_usage *u = data;
    (void)timer;
    u->round_ns = loop_now(u->loop);
    ask_next(u);
}

static void usage_gone(struct loop_task *task, void *data)
{
    struct kubernetes_usage *u = data;
    void (*closed)(void *) = u->closed;
    void *closed_data = u->closed_data;
    (void)task;
    free(u->name_space);
    free(u->pod);
    free(u);
    if (closed != NULL)
        closed(closed_data);
}

struct kubernetes_usage *kubernetes_usage_start(const struct kubernetes_usage_options *options)
{
    struct kubernetes_usage *u = mem_zalloc(sizeof *u);
    u->o = *options;
    u->loop = k8s_client_loop(options->client);
    if (u->o.period_ns == 0)
        u->o.period_ns = DEFAULT_PERIOD_NS;
    u->gone = (struct loop_task){.run = usage_gone, .data = u};
    list_init(&u->gone.node);
    loop_timer_init(u->loop, &u->timer, on_timer, u);
    loop_timer_start(&u->timer, ENV_NS_PER_S);
    return u;
}

void kubernetes_usage_close(struct kubernetes_usage *u, void (*closed)(void *data), void *data)
{
    u->closing = true;
    u->closed = closed;
    u->closed_data = data;
    loop_timer_stop(&u->timer);
    if (u->call != NULL)
        k8s_call_cancel(u->call);
    else
        loop_defer(u->loop, &u->gone);
}
