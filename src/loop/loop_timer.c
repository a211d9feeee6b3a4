/* Timers of the loop: a binary heap by (deadline, sequence) behind one libuv timer. */
#include <assert.h>
#include <limits.h>

#include "base/mem.h"
#include "loop/loop.h"
#include "loop/loop_impl.h"

static bool before(const struct loop_timer *a, const struct loop_timer *b)
{
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->sequence < b->sequence;
}

static void place(struct loop *loop, unsigned index, struct loop_timer *timer)
{
    loop->heap[index] = timer;
    timer->index = index + 1;
}

static void sift_up(struct loop *loop, unsigned index)
{
    struct loop_timer *timer = loop->heap[index];
    while (index > 0 && before(timer, loop->heap[(index - 1) / 2])) {
        place(loop, index, loop->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    place(loop, index, timer);
}

static void sift_down(struct loop *loop, unsigned index)
{
    struct loop_timer *timer = loop->heap[index];
    for (;;) {
        unsigned child = 2 * index + 1;
        if (child >= loop->heap_size)
            break;
        if (child + 1 < loop->heap_size && before(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!before(loop->heap[child], timer))
            break;
        place(loop, index, loop->heap[child]);
        index = child;
    }
    place(loop, index, timer);
}

static void heap_add(struct loop *loop, struct loop_timer *timer)
{
    if (loop->heap_size == loop->heap_capacity) {
        loop->heap_capacity = loop->heap_capacity > 0 ? loop->heap_capacity * 2 : 16;
        loop->heap = mem_resize((void *)loop->heap, loop->heap_capacity, sizeof loop->heap[0]);
    }
    loop->heap[loop->heap_size++] = timer;
    sift_up(loop, loop->heap_size - 1);
}

static void heap_remove(struct loop *loop, struct loop_timer *timer)
{
    unsigned index = timer->index - 1;
    assert(loop->heap[index] == timer);
    timer->index = 0;
    struct loop_timer *last = loop->heap[--loop->heap_size];
    if (last == timer)
        return;
    place(loop, index, last);
    sift_up(loop, index);
    sift_down(loop, last->index - 1);
}

/* libuv counts whole milliseconds of the same clock, so this rounding never wakes too early. */
static uint64_t milliseconds_until(struct loop *loop, uint64_t deadline_ns)
{
    uint64_t now_ms = loop_clock(loop) / ENV_NS_PER_MS;
    uint64_t deadline_ms = deadline_ns / ENV_NS_PER_MS + (deadline_ns % ENV_NS_PER_MS != 0);
    return deadline_ms > now_ms ? deadline_ms - now_ms : 0;
}

void loop_alarm_set(struct loop *loop)
{
    if (loop->firing)
        return; /* loop_alarm_fired() sets it at its end */
    if (loop->heap_size == 0) {
        uv_timer_stop(&loop->alarm);
        loop->alarm_deadline_ns = 0;
        return;
    }
    uint64_t deadline = loop->heap[0]->deadline_ns;
    if (deadline == loop->alarm_deadline_ns && uv_is_active((uv_handle_t *)&loop->alarm))
        return;
    loop->alarm_deadline_ns = deadline;
    uv_update_time(&loop->uv); /* libuv counts from its own idea of now */
    uv_timer_start(&loop->alarm, loop_alarm_fired, milliseconds_until(loop, deadline), 0);
}

void loop_alarm_fired(uv_timer_t *alarm)
{
    struct loop *loop = alarm->data;
    loop_now_take(loop);
    loop->firing = true;
    /* what a callback arms waits for the next turn, even with no delay */
    uint64_t last = loop->timer_sequence;
    while (loop->heap_size > 0) {
        struct loop_timer *timer = loop->heap[0];
        if (timer->deadline_ns > loop->now_ns || timer->sequence > last)
            break;
        heap_remove(loop, timer);
        timer->fire(timer, timer->data);
    }
    loop->firing = false;
    loop_alarm_set(loop);
    /*
     * libuv before 1.45 runs a timer without delay again in this very pass, so that timers which re-arm
     * themselves would starve the sockets. The millisecond only keeps the loop alive: on_prepare() sets the
     * alarm anew, then for no delay.
     */
    if (uv_is_active((uv_handle_t *)&loop->alarm) && uv_timer_get_due_in(&loop->alarm) == 0) {
        uv_timer_start(&loop->alarm, loop_alarm_fired, 1, 0);
        loop->alarm_deadline_ns = 0;
    }
}

void loop_timer_init(struct loop *loop, struct loop_timer *timer,
                     void (*fire)(struct loop_timer *timer, void *data), void *data)
{
    *timer = (struct loop_timer){.loop = loop, .fire = fire, .data = data};
}

void loop_timer_start(struct loop_timer *timer, uint64_t delay_ns)
{
    uint64_t deadline;
    if (__builtin_add_overflow(loop_now(timer->loop), delay_ns, &deadline))
        deadline = UINT64_MAX;
    loop_timer_start_at(timer, deadline);
}

void loop_timer_start_at(struct loop_timer *timer, uint64_t deadline_ns)
{
    struct loop *loop = timer->loop;
    assert(timer->fire != NULL);
    if (timer->index != 0)
        heap_remove(loop, timer);
    /* armed in the past by a timer's callback it would stand before those that are due and hide them */
    if (loop->firing && deadline_ns < loop->now_ns)
        deadline_ns = loop->now_ns;
    timer->deadline_ns = deadline_ns;
    timer->sequence = ++loop->timer_sequence;
    heap_add(loop, timer);
    if (timer->index == 1)
        loop_alarm_set(loop);
}

void loop_timer_stop(struct loop_timer *timer)
{
    if (timer->index == 0)
        return;
    heap_remove(timer->loop, timer);
    if (timer->loop->heap_size == 0)
        loop_alarm_set(timer->loop);
}

bool loop_timer_armed(const struct loop_timer *timer)
{
    return timer->index != 0;
}
