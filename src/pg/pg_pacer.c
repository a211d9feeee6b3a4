#include <assert.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pg/pg_impl.h"

#define SILENT_NS (250 * ENV_NS_PER_MS)

struct pg_pacer {
    struct loop *loop;
    int limit;
    int held;
    struct list waiting;
    struct loop_task task; /* hands free places on, outside the call that freed them */
};

static void on_task(struct loop_task *task, void *data)
{
    (void)task;
    struct pg_pacer *pacer = data;
    while (pacer->held < pacer->limit && !list_empty(&pacer->waiting)) {
        struct pg_pace *next = list_item(list_first(&pacer->waiting), struct pg_pace, node);
        list_remove(&next->node);
        (void)pg_pace_take(next);
        next->go(next->data);
    }
}

struct pg_pacer *pg_pacer_new(struct loop *loop, int at_once)
{
    struct pg_pacer *pacer = mem_zalloc(sizeof *pacer);
    pacer->loop = loop;
    pacer->limit = at_once > 0 ? at_once : 1;
    list_init(&pacer->waiting);
    pacer->task.run = on_task;
    pacer->task.data = pacer;
    return pacer;
}

void pg_pacer_free(struct pg_pacer *pacer)
{
    if (pacer == NULL)
        return;
    assert(pacer->held == 0 && list_empty(&pacer->waiting));
    loop_task_cancel(&pacer->task);
    free(pacer);
}

static void on_silent(struct loop_timer *timer, void *data)
{
    (void)timer;
    pg_pace_release(data);
}

void pg_pace_init(struct pg_pace *pace, struct pg_pacer *pacer, struct loop *loop, void (*go)(void *data),
                  void *data)
{
    pace->pacer = pacer;
    pace->go = go;
    pace->data = data;
    list_init(&pace->node);
    loop_timer_init(loop, &pace->timer, on_silent, pace);
}

bool pg_pace_take(struct pg_pace *pace)
{
    struct pg_pacer *pacer = pace->pacer;
    if (pacer == NULL || pace->held)
        return true;
    if (pacer->held >= pacer->limit) {
        list_append(&pacer->waiting, &pace->node);
        return false;
    }
    pacer->held++;
    pace->held = true;
    loop_timer_start(&pace->timer, SILENT_NS);
    return true;
}

void pg_pace_release(struct pg_pace *pace)
{
    list_remove(&pace->node);
    loop_timer_stop(&pace->timer);
    if (!pace->held)
        return;
    pace->held = false;
    pace->pacer->held--;
    if (!list_empty(&pace->pacer->waiting))
        loop_defer(pace->pacer->loop, &pace->pacer->task);
}
