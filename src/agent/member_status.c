#include <stdlib.h>
#include <string.h>

#include "agent/cgroup.h"
#include "agent/member_impl.h"
#include "agent/recovery.h"
#include "base/buf.h"
#include "base/mem.h"

static void add_text(struct buf *b, const char *name, const char *text)
{
    (void)buf_printf(b, ",\"%s\":\"", name);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            (void)buf_addc(b, '\\');
        (void)buf_addc(b, (unsigned char)*text < ' ' ? ' ' : *text);
    }
    (void)buf_addc(b, '"');
}

static void add_number(struct buf *b, const char *name, uint64_t number)
{
    (void)buf_printf(b, ",\"%s\":\"%llu\"", name, (unsigned long long)number);
}

bool member_ready(const struct member *m)
{
    int state = sm_now(&m->sm);
    return m->facts.known && !m->ending && !m->order.held && !member_door_shut(m) &&
           (state == MEMBER_PRIMARY || state == MEMBER_STANDBY);
}

bool member_applied(const struct member *m)
{
    bool fresh = m->facts.known && m->facts.applied == m->applied && !m->working;
    char *wanted = fresh ? member_settings(m) : NULL;
    bool applied = fresh && m->applied_more != NULL && strcmp(wanted, m->applied_more) == 0 &&
                   member_settings_marked(wanted, m->facts.mark);
    free(wanted);
    return applied && (!m->order.held || m->facts.strangers == 0);
}

/* The order is carried out, and the facts were asked for afterwards. */
bool member_settled(const struct member *m)
{
    int state = sm_now(&m->sm);
    bool applied = member_applied(m);
    switch (m->order.role) {
    case ORDER_PRIMARY:
        return state == MEMBER_PRIMARY && applied;
    case ORDER_STANDBY: /* with nobody to follow: nothing is received, and nothing will be */
        return state == MEMBER_STANDBY && applied && m->facts.nobody == (m->order.host[0] == '\0') &&
               (m->order.host[0] != '\0' || (m->facts.receivers == 0 && m->facts.complete));
    case ORDER_FENCED:
        return state == MEMBER_FENCED;
    case ORDER_STOPPED:
        return state == MEMBER_STOPPED || state == MEMBER_EMPTY;
    default:
        return true;
    }
}

static void add_cgroup(struct buf *b)
{
    struct cgroup_figures f;
    if (!cgroup_read("/sys/fs/cgroup", &f))
        return;
    add_number(b, "cpu_us", f.cpu_us);
    add_number(b, "cpu_throttled_us", f.throttled_us);
    (void)buf_printf(b, ",\"cpu_limit\":%.3f", f.cpu_limit);
    add_number(b, "memory_bytes", f.memory_bytes);
    add_number(b, "memory_limit_bytes", f.memory_limit);
    add_number(b, "oom_kills", f.oom_kills);
}

/* The segment that a standby which lets nobody in yet reads, or would begin with: it goes on from one to the
 * next, unless it does not have what follows. */
static void add_waits_at(struct buf *b, const struct member *m)
{
    char text[TEXT_LSN_SIZE];
    uint64_t at = m->control.redo;
    if (sm_now(&m->sm) != MEMBER_STARTING || m->facts.known || m->as_primary || m->order.host[0] == '\0')
        return;
    (void)recovery_segment(m->server, m->o.data, &at);
    text_from_lsn(at, text);
    add_text(b, "waits_at", text);
}

static void add_facts(struct buf *b, struct member *m)
{
    const struct member_facts *f = &m->facts;
    if (!f->known)
        return;
    add_text(b, "role", f->recovery ? "standby" : "primary");
    add_number(b, "timeline", (uint64_t)f->timeline);
    add_text(b, "written", f->written);
    add_text(b, "flushed", f->flushed);
    add_text(b, "wal_from", f->wal_from);
    add_number(b, "wal_term",
               f->recovery ? marks_term(&m->marks, (uint32_t)f->timeline) : m->marks.primary_term);
    if (f->recovery) {
        add_text(b, "replayed", f->replayed);
        add_text(b, "receiver", f->receivers > 0 && f->receiver[0] == '\0' ? "connecting" : f->receiver);
        add_text(b, "upstream", f->upstream);
        if (f->silent_ms >= 0)
            add_number(b, "receiver_age_ms", (uint64_t)f->silent_ms);
    }
    (void)buf_printf(b, ",\"standbys\":%s,\"pending_restart\":%s,\"complete\":%s", f->standbys,
                     f->pending_restart ? "true" : "false", f->complete ? "true" : "false");
    if (m->heartbeat != 0)
        add_number(b, "beat", m->heartbeat);
    add_number(b, "facts_age_ms", (loop_now(&m->loop) - f->at_ns) / ENV_NS_PER_MS);
}

static void add_lease(struct buf *b, const struct member *m)
{
    uint64_t now = env_boot_ns();
    if (m->order.role != ORDER_PRIMARY || m->order.lease_ms == 0)
        return;
    add_number(b, "lease_ms", m->order.lease_ms);
    add_number(b, "lease_left_ms", m->lease_until > now ? (m->lease_until - now) / ENV_NS_PER_MS : 0);
    (void)buf_printf(b, ",\"lease_lost\":%s", m->lease_lost ? "true" : "false");
}

static void add_disk(struct buf *b, const struct member *m)
{
    bool full = m->disk_state == DISK_FULL || m->wal_state == DISK_FULL;
    bool low = m->disk_state == DISK_LOW || m->wal_state == DISK_LOW;
    add_text(b, "disk", disk_state_name(full ? DISK_FULL : low ? DISK_LOW : DISK_ENOUGH));
    if (m->disk.size > 0) {
        add_number(b, "disk_size", m->disk.size);
        add_number(b, "disk_free", m->disk.free);
    }
    if (m->wal_disk.size > 0) {
        add_number(b, "wal_disk_size", m->wal_disk.size);
        add_number(b, "wal_disk_free", m->wal_disk.free);
    }
}

char *member_status_text(struct member *m)
{
    char disk[200];
    struct buf b = {0};
    char *order = order_text(&m->order);
    (void)buf_printf(&b, "{\"member\":\"%s\"", m->o.member);
    add_text(&b, "life", m->life);
    add_number(&b, "clock", env_boot_ns());
    add_number(&b, "term", m->order.term);
    add_number(&b, "seq", m->order.seq);
    add_text(&b, "assigned", order_role_name(m->order.role));
    add_text(&b, "reported", sm_name(&m->sm));
    if (m->order.closed)
        (void)buf_add_text(&b, ",\"closed\":true");
    (void)buf_printf(
        &b,
        ",\"order\":%s,\"leaving\":%s,\"confirmed\":%s,\"settled\":%s,\"ready\":%s,\"data\":%s,\"pid\":%d",
        m->order.term > 0 ? order : "null", m->leaving ? "true" : "false", m->confirmed ? "true" : "false",
        member_settled(m) ? "true" : "false", member_ready(m) ? "true" : "false",
        m->data_there ? "true" : "false", (int)m->server);
    (void)buf_printf(&b, ",\"tls\":%s", m->o.tls != NULL ? "true" : "false");
    add_number(&b, "system_id", m->control.system_id);
    (void)buf_printf(&b, ",\"may_have_diverged\":%s,\"rewinding\":%s", m->marks.primary ? "true" : "false",
                     m->marks.rewinding ? "true" : "false");
    add_number(&b, "exits", m->exits);
    if (m->exits > 0)
        add_text(&b, "exit", m->exit_text);
    if (m->seen.next_mark[0] != '\0')
        add_text(&b, "next_password", m->seen.next_mark);
    add_number(&b, "checkpoints", m->checkpoints);
    add_number(&b, "commits_ended", m->guard_ended);
    add_number(&b, "doors_shut", m->doors_shut);
    add_number(&b, "watchdog_fired", watchdog_fired(m->dog));
    add_lease(&b, m);
    add_waits_at(&b, m);
    add_facts(&b, m);
    add_disk(&b, m);
    add_cgroup(&b);
    if (m->err.code != ERRC_NONE || member_disk_says(m, disk, sizeof disk))
        add_text(&b, "error", m->err.code != ERRC_NONE ? m->err.message : disk);
    (void)buf_addc(&b, '}');
    free(order);
    return buf_take(&b);
}
