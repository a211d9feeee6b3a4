/*
 * The set of pollers: who is polled, and in what order connections are made. A token bucket lets one
 * connection start per 1 / connects_per_second, so that a thousand servers that come back at once do not fill
 * the workers (which also serve the store) and the processors with handshakes.
 */
#include "metrics/poller.h"

#include <assert.h>
#include <stdlib.h>

#include "base/mem.h"
#include "metrics/poller_impl.h"
#include "metrics/render.h"

#define HANDSHAKES_MAX 8 /* an address that is silent keeps its place for 250 ms only */
#define TOKENS_MAX     4.0
#define SENDS_PER_TURN 32 /* instances whose queries are sent in one turn: some 30 us each */

const char *poll_group_name(enum poll_group group)
{
    static const char *const names[POLL_GROUPS] = {[POLL_LOAD] = "load",
                                                   [POLL_REPLICATION] = "replication",
                                                   [POLL_ACTIVITY] = "activity",
                                                   [POLL_SIZES] = "sizes",
                                                   [POLL_SETTINGS] = "settings"};
    return names[group];
}

/* ---- the pacer ---- */

static void tokens_fill(struct pollers *pollers)
{
    uint64_t now = loop_now(pollers->loop);
    double seconds = (double)(now - pollers->tokens_ns) / (double)ENV_NS_PER_S;
    pollers->tokens += seconds * pollers->options.connects_per_second;
    pollers->tokens_ns = now;
    if (pollers->tokens > TOKENS_MAX)
        pollers->tokens = TOKENS_MAX;
}

void pollers_pace(struct pollers *pollers)
{
    tokens_fill(pollers);
    while (!list_empty(&pollers->waiting) && pollers->tokens >= 1 &&
           pollers->connecting < pollers->options.connecting_max) {
        struct poller *p = list_item(list_first(&pollers->waiting), struct poller, wait_node);
        list_remove(&p->wait_node);
        pollers->tokens -= 1;
        poller_connect(p);
    }
    if (list_empty(&pollers->waiting) || pollers->connecting >= pollers->options.connecting_max)
        return; /* the next one that asks or ends calls again */
    double wait_s = (1 - pollers->tokens) / pollers->options.connects_per_second;
    loop_timer_start(&pollers->pacer, wait_s > 0 ? (uint64_t)(wait_s * (double)ENV_NS_PER_S) : 0);
}

static void on_pacer(struct loop_timer *timer, void *data)
{
    (void)timer;
    pollers_pace(data);
}

void pollers_enqueue(struct pollers *pollers, struct poller *p)
{
    list_append(&pollers->waiting, &p->wait_node);
    if (!loop_timer_armed(&pollers->pacer))
        loop_timer_start(&pollers->pacer, 0);
}

bool pollers_may_send(struct pollers *pollers)
{
    uint64_t now = loop_now(pollers->loop);
    if (pollers->turn_ns != now) {
        pollers->turn_ns = now;
        pollers->turn_sends = 0;
    }
    return pollers->turn_sends++ < SENDS_PER_TURN;
}

/* ---- the set ---- */

static void options_default(struct pollers_options *o)
{
    static const unsigned seconds[POLL_GROUPS] = {1, 1, 5, 60, 300};
    for (int g = 0; g < POLL_GROUPS; g++)
        if (o->period_ns[g] == 0)
            o->period_ns[g] = seconds[g] * ENV_NS_PER_S;
    if (o->period_ns[POLL_LOAD] == POLL_OFF)
        o->period_ns[POLL_LOAD] = ENV_NS_PER_S;
    if (o->deadline_ns == 0)
        o->deadline_ns = 2 * ENV_NS_PER_S;
    if (o->connect_timeout_ns == 0)
        o->connect_timeout_ns = 2 * ENV_NS_PER_S;
    if (o->connects_per_second == 0)
        o->connects_per_second = 50;
    if (o->connecting_max == 0)
        o->connecting_max = 64;
}

static void on_closed(struct loop_task *task, void *data)
{
    (void)task;
    struct pollers *pollers = data;
    void (*closed)(void *) = pollers->closed;
    void *closed_data = pollers->closed_data;
    loop_timer_stop(&pollers->pacer);
    pg_pacer_free(pollers->handshakes);
    dynamic_families_free(pollers->dynamic);
    free((void *)pollers->table);
    free(pollers);
    if (closed != NULL)
        closed(closed_data);
}

struct pollers *pollers_new(struct loop *loop, struct fleet *fleet, const struct pollers_options *options,
                            const struct pollers_events *events, void *data)
{
    struct pollers *pollers = mem_zalloc(sizeof *pollers);
    pollers->loop = loop;
    pollers->fleet = fleet;
    if (options != NULL)
        pollers->options = *options;
    options_default(&pollers->options);
    if (events != NULL)
        pollers->events = *events;
    pollers->data = data;
    list_init(&pollers->all);
    list_init(&pollers->closing);
    list_init(&pollers->waiting);
    pollers->handshakes = pg_pacer_new(loop, HANDSHAKES_MAX);
    loop_timer_init(loop, &pollers->pacer, on_pacer, pollers);
    pollers->tokens = TOKENS_MAX;
    pollers->tokens_ns = loop_now(loop);
    pollers->dynamic = dynamic_families_new();
    pollers->closed_task.run = on_closed;
    pollers->closed_task.data = pollers;
    return pollers;
}

static void table_add(struct pollers *pollers, struct poller *p)
{
    unsigned i = 0;
    while (i < pollers->table_size && pollers->table[i] != NULL)
        i++;
    if (i == pollers->table_size) {
        unsigned size = i < 8 ? 16 : i * 2;
        pollers->table = mem_resize((void *)pollers->table, size, sizeof *pollers->table);
        for (unsigned k = i; k < size; k++)
            pollers->table[k] = NULL;
        pollers->table_size = size;
    }
    pollers->table[i] = p;
    p->slot_index = i;
    pollers->generation++;
    pollers->counts.instances++;
}

static void poller_drop(struct poller *p)
{
    struct pollers *pollers = p->pollers;
    pollers->table[p->slot_index] = NULL;
    pollers->generation++;
    pollers->counts.instances--;
    list_remove(&p->node);
    list_append(&pollers->closing, &p->node);
    poller_close(p);
}

void pollers_gone(struct poller *p)
{
    struct pollers *pollers = p->pollers;
    list_remove(&p->node);
    if (pollers->closed_asked && list_empty(&pollers->closing))
        loop_defer(pollers->loop, &pollers->closed_task);
}

void pollers_sync(struct pollers *pollers)
{
    list_each(node, &pollers->all) list_item(node, struct poller, node)->marked = false;
    list_each(node, &pollers->fleet->instances)
    {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        struct poller *p = instance->observer;
        if (p == NULL) {
            p = poller_new(pollers, instance);
            instance->observer = p;
            list_append(&pollers->all, &p->node);
            table_add(pollers, p);
            pollers_enqueue(pollers, p);
        } else if (poller_address_changed(p)) {
            poller_reconnect(p);
        } else if (poller_relabel(p)) {
            poller_hurry(p, POLL_SETTINGS);
        }
        p->marked = true;
    }
    list_each(node, &pollers->all)
    {
        struct poller *p = list_item(node, struct poller, node);
        if (p->marked)
            continue;
        p->instance = NULL; /* removed without pollers_forget(): it may be gone already */
        poller_drop(p);
    }
}

void pollers_forget(struct pollers *pollers, struct fleet_instance *instance)
{
    struct poller *p = instance->observer;
    if (p == NULL)
        return;
    assert(p->pollers == pollers);
    (void)pollers;
    instance->observer = NULL;
    p->instance = NULL;
    poller_drop(p);
}

void pollers_hurry(struct pollers *pollers, struct fleet_instance *instance)
{
    (void)pollers;
    if (instance->observer != NULL)
        poller_hurry(instance->observer, POLL_SETTINGS);
}

void pollers_look(struct pollers *pollers, const struct fleet_instance *instance)
{
    (void)pollers;
    if (instance->observer != NULL)
        poller_hurry(instance->observer, POLL_REPLICATION);
}

uint64_t pollers_load_period(const struct pollers *pollers, const struct fleet_instance *instance)
{
    (void)pollers;
    return instance->observer != NULL ? poller_period(instance->observer, POLL_LOAD) : 0;
}

void pollers_close(struct pollers *pollers, void (*closed)(void *data), void *data)
{
    if (pollers == NULL || pollers->closed_asked)
        return;
    pollers->closed = closed;
    pollers->closed_data = data;
    while (!list_empty(&pollers->all))
        pollers_forget(pollers, list_item(list_first(&pollers->all), struct poller, node)->instance);
    pollers->closed_asked = true;
    if (list_empty(&pollers->closing))
        loop_defer(pollers->loop, &pollers->closed_task);
}

void pollers_count(const struct pollers *pollers, struct pollers_counts *ret)
{
    *ret = pollers->counts;
    ret->connecting = pollers->connecting;
    ret->waiting = 0;
    for (const struct list *node = pollers->waiting.next; node != &pollers->waiting; node = node->next)
        ret->waiting++;
}
