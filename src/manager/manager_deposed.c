/*
 * A manager that lost its leadership, because the store was away for too long or because another one leads:
 * it decides and changes nothing any more, but goes on polling the servers and serving routing tables and
 * metrics. As soon as the store answers it begins anew, in the same process, and stands for election.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "manager/manager_impl.h"

#define ASK_NS (2 * ENV_NS_PER_S)

static void on_answer(const struct err *err, const struct store_entry *entry, void *data)
{
    struct manager *m = data;
    (void)entry;
    m->asking = false;
    if (manager_now(m) != MANAGER_DEPOSED)
        return;
    if (err != NULL && err->code != ERRC_NOT_FOUND) {
        loop_timer_start(&m->step, ASK_NS);
        return;
    }
    log_event(LOG_INFO, "the store answers again: the manager begins anew", NULL);
    m->again = true;
    manager_stop(m, NULL);
}

static void ask(struct loop_timer *timer, void *data)
{
    struct manager *m = data;
    struct err err = {0};
    if (m->asking)
        return;
    m->asking = store_get(m->store, "leader/present", on_answer, m, &err) == 0;
    if (!m->asking)
        loop_timer_start(timer, ASK_NS);
}

/* The journals stay: whoever leads next goes on with them. */
static void operations_gone(void *data)
{
    struct manager *m = data;
    m->operations_gone = true;
    if (m->awaits_operations)
        manager_close_on(m);
    else if (manager_now(m) == MANAGER_DEPOSED)
        loop_timer_start(&m->step, ASK_NS);
}

void manager_depose(struct manager *m)
{
    struct balancer *balancer = m->balancer;
    struct announcer *announcer = m->announcer;
    struct ha_shards *ha = manager_take_ha(m);
    manager_move(m, MANAGER_DEPOSED);
    log_event(
        LOG_WARN,
        "the lease was lost: servers are polled and routing tables served, nothing is decided or changed",
        "store", store_name(m->store), NULL);
    keeper_stop(m->keeper);
    m->balancer = NULL;
    m->announcer = NULL;
    balancer_stop(balancer, NULL, NULL);
    announcer_stop(announcer, NULL, NULL);
    loop_timer_stop(&m->step);
    loop_timer_init(&m->loop, &m->step, ask, m);
    m->operations_stopped = true;
    operations_stop(&m->operations, operations_gone, m);
    if (ha != NULL)
        ha_shards_close(ha, NULL, NULL);
}
