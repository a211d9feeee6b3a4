#include "agent/member_impl.h"
#include "base/log.h"

#define TURN_EACH_NS (500 * ENV_NS_PER_MS)

/*
 * A lease counts from the clock that our heartbeat told and the caller repeats, not from when its word gets
 * here: a word that waited in a socket while we were stopped renews nothing.
 */
static uint64_t lease_end(const struct order *o, uint64_t heard)
{
    return heard + o->lease_ms * ENV_NS_PER_MS;
}

bool member_lease_fresh(const struct order *o, uint64_t heard)
{
    uint64_t now = env_boot_ns();
    return o->lease_ms == 0 ||
           (heard != 0 && heard <= now && now + MEMBER_FENCE_AHEAD_NS < lease_end(o, heard));
}

bool member_lease_held(const struct member *m)
{
    return m->order.lease_ms == 0 || env_boot_ns() + MEMBER_FENCE_AHEAD_NS < m->lease_until;
}

static void timer_arm(struct member *m)
{
    uint64_t now = env_boot_ns(), at = m->lease_until - MEMBER_FENCE_AHEAD_NS;
    loop_timer_start(&m->lease_timer, at > now ? at - now : 0);
}

static void lease_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    (void)timer;
    if (m->order.role != ORDER_PRIMARY || m->order.lease_ms == 0)
        return;
    if (member_lease_held(m)) { /* the loop's clock went faster */
        timer_arm(m);
        return;
    }
    if (m->server != 0 && !m->lease_lost) {
        m->lease_lost = true;
        log_event(LOG_ERROR, "the lease runs out: nobody confirms that this is the primary; stopping it",
                  "term", log_num((long long)m->order.term), NULL);
    }
    member_step(m);
}

bool member_lease_renew(struct member *m, uint64_t heard)
{
    uint64_t until = lease_end(&m->order, heard);
    if (!member_lease_fresh(&m->order, heard))
        return false;
    if (until > m->lease_until)
        m->lease_until = until;
    watchdog_set_deadline(m->dog, m->lease_until);
    timer_arm(m);
    if (m->server == 0)
        m->lease_lost = false;
    return true;
}

void member_turn(struct member *m)
{
    uint64_t now = env_boot_ns();
    unsigned fired = watchdog_fired(m->dog);
    bool late = m->turn_until != 0 && now + WATCHDOG_QUIT_AHEAD_NS >= m->turn_until;
    bool stood = late || fired != m->fired;
    m->fired = fired;
    if (stood && m->order.role == ORDER_PRIMARY && m->order.lease_ms == 0 && m->confirmed) {
        m->confirmed = false; /* with a lease the lease says it */
        log_event(LOG_ERROR, "this agent stood still: its primary has to be confirmed anew", "term",
                  log_num((long long)m->order.term), NULL);
        member_changed(m);
    }
    m->turn_until = m->server != 0 && m->as_primary ? now + MEMBER_TURN_NS : 0;
    bool alone = m->order.lease_ms != 0; /* the lease says when it ends, and whether it may go on */
    watchdog_set_turn(m->dog, m->turn_until, m->turn_until != 0 && !alone ? now + MEMBER_STOPPED_NS : 0);
}

static void turn_fired(struct loop_timer *timer, void *data)
{
    loop_timer_start(timer, TURN_EACH_NS);
    member_turn(data);
}

void member_lease_init(struct member *m)
{
    loop_timer_init(&m->loop, &m->turn_timer, turn_fired, m);
    loop_timer_start(&m->turn_timer, TURN_EACH_NS);
    loop_timer_init(&m->loop, &m->lease_timer, lease_fired, m);
}
