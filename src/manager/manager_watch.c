/* What the manager looks at each second: health of the instances, and its configuration file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/manager_impl.h"
#include "runtime/runtime.h"

#define TICK_NS       ENV_NS_PER_S
#define FILE_CHECKS   2   /* the file is looked at every so many ticks */
#define MEMORY_CHECKS 10u /* and the memory */
#define MEMORY_LEAST  (1u << 17)

/* The facts of the last tick, to see restarts and changed roles. */
struct seen_instance {
    struct list node;
    char *name;
    struct instance_facts facts;
    bool present;
};

/* Mostly the one behind that of the instance before, as both lists grow at their ends. */
static struct seen_instance *seen_get(struct manager *m, struct list *before, const char *name)
{
    struct list *node = before;
    do {
        struct seen_instance *s = list_item(node, struct seen_instance, node);
        if (node != &m->seen && strcmp(s->name, name) == 0)
            return s;
        node = node->next;
    } while (node != before);
    struct seen_instance *s = mem_zalloc(sizeof *s);
    s->name = mem_strdup(name);
    list_append(&m->seen, &s->node);
    return s;
}

static void seen_free(struct seen_instance *s)
{
    list_remove(&s->node);
    free(s->name);
    free(s);
}

void manager_instance_gone(struct manager *m, const struct fleet_instance *instance)
{
    list_each(node, &m->seen)
    {
        struct seen_instance *s = list_item(node, struct seen_instance, node);
        if (strcmp(s->name, instance->name) == 0) {
            seen_free(s);
            return;
        }
    }
}

static void judge(struct manager *m, struct fleet_instance *instance, struct seen_instance *s)
{
    struct health_change changes[HEALTH_CHANGES_MAX];
    struct health_verdict verdict;
    unsigned count = 0;
    if (instance->facts.seen_ns != s->facts.seen_ns && s->facts.seen_ns != 0)
        count = health_compare(instance->name, &s->facts, &instance->facts, changes);
    for (unsigned i = 0; i < count; i++)
        log_event(LOG_WARN, "instance changed", "instance", instance->name, "db", instance->database, "shard",
                  instance->shard, "rule", health_rule_name(changes[i].rule), "why", changes[i].sentence,
                  NULL);
    uint64_t period = m->pollers != NULL ? pollers_load_period(m->pollers, instance) : 0;
    health_judge(&instance->facts, loop_now(&m->loop), period != 0 ? period : m->config.load_period_ns,
                 &verdict);
    bool changed = verdict.health != instance->facts.health;
    instance->facts.health = verdict.health;
    if (changed)
        log_event(verdict.health == HEALTH_DOWN ? LOG_ERROR : LOG_INFO, "instance health", "instance",
                  instance->name, "db", instance->database, "shard", instance->shard, "health",
                  instance_health_name(verdict.health), "why", verdict.sentence, NULL);
    if (instance->facts.seen_ns != s->facts.seen_ns)
        s->facts = instance->facts;
    if (changed || count > 0)
        api_instance_changed(m->api, instance);
}

void manager_set_tools(struct manager *m)
{
    bool local = m->runtime != NULL && strcmp(m->runtime_kind, "local") == 0;
    const char *found = local ? runtime_local_bin_directory(m->runtime) : NULL;
    const char *given = m->config.runtime_bin_directory;
    m->operations.services.bin_directory = given != NULL ? given : found;
}

void manager_set_moving(struct manager *m)
{
    m->operations.services.max_moves = (unsigned)m->config.max_moves;
    m->operations.services.copy_lanes = (unsigned)m->config.copy_lanes;
    m->operations.services.build_lanes = (unsigned)m->config.build_lanes;
    m->operations.services.copy_rate = (uint64_t)m->config.copy_rate << 20;
    m->operations.services.verify_rate = (uint64_t)m->config.verify_rate << 20;
    m->operations.services.max_commit_latency_ns = m->config.max_commit_latency_ns;
    m->operations.services.max_standby_lag_ns = m->config.max_standby_lag_ns;
    m->operations.services.max_throughput_loss = m->config.max_throughput_loss / 100.0;
    m->operations.services.max_retained_wal = (uint64_t)m->config.max_retained_wal << 20;
    m->operations.services.min_free_disk = (uint64_t)m->config.min_free_disk << 20;
    m->operations.services.retire_wait_ns = m->config.retire_wait_ns;
}

void manager_watch_text(struct manager *m)
{
    struct pollers_counts polled = {0};
    unsigned health[HEALTH_DOWN + 1] = {0};
    if (m->pollers != NULL)
        pollers_count(m->pollers, &polled);
    list_each(node, &m->fleet.instances) health[list_item(node, struct fleet_instance, node)->facts.health]++;
    snprintf(m->collectors_text, sizeof m->collectors_text, "%u of %u servers answered their last poll",
             polled.up, polled.instances);
    snprintf(m->health_text, sizeof m->health_text, "%u up, %u suspect, %u down, %u not known yet",
             health[HEALTH_UP], health[HEALTH_SUSPECT], health[HEALTH_DOWN], health[HEALTH_UNKNOWN]);
}

static void look_at_file(struct manager *m);

/* U1: whatever blocked the loop also delayed polls, deadlines and the fence of a move. */
static void warn_of_long_turn(struct manager *m)
{
    struct loop_long_turn turn = loop_take_alarm(&m->loop);
    if (turn.us > 0)
        log_event(LOG_WARN, "the event loop was blocked", "ms", log_num((long long)(turn.us / 1000)),
                  "limit_ms", log_num(LOOP_TURN_ALARM_US / 1000), "waited_ms",
                  turn.known ? log_num((long long)(turn.waited_us / 1000)) : "?", "cpu_ms",
                  turn.known ? log_num((long long)(turn.cpu_us / 1000)) : "?", NULL);
}

static void tick(struct loop_timer *timer, void *data)
{
    struct manager *m = data;
    static const unsigned file_checks = FILE_CHECKS;
    loop_timer_start(timer, TICK_NS);
    warn_of_long_turn(m);
    struct list *seen = &m->seen;
    list_each(node, &m->fleet.instances)
    {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        struct seen_instance *s = seen_get(m, seen, instance->name);
        judge(m, instance, s);
        seen = &s->node;
    }
    if (m->keeper != NULL)
        keeper_check(m->keeper);
    if (m->ha != NULL && manager_now(m) == MANAGER_READY)
        ha_shards_look(m->ha);
    manager_kube_look(m);
    if (m->loop.env->monotonic_ns(m->loop.env) / TICK_NS % MEMORY_CHECKS == 0)
        (void)mem_settle(&m->memory, MEMORY_LEAST);
    if (m->loop.env->monotonic_ns(m->loop.env) / TICK_NS % file_checks == 0)
        look_at_file(m);
}

void manager_watch_start(struct manager *m)
{
    list_init(&m->seen);
    loop_timer_init(&m->loop, &m->tick, tick, m);
    loop_timer_start(&m->tick, TICK_NS);
}

void manager_watch_stop(struct manager *m)
{
    loop_timer_stop(&m->tick);
    list_each(node, &m->seen)
    {
        seen_free(list_item(node, struct seen_instance, node));
    }
}

/* ---- configuration ---- */

int64_t manager_file_stamp(const char *path)
{
    struct stat st;
    if (path == NULL || stat(path, &st) != 0) /* follows symbolic links: a ConfigMap swaps one */
        return 0;
    return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec + (int64_t)st.st_ino;
}

static void run_reload(struct work *work)
{
    struct manager *m = work->data;
    m->reload_stamp = manager_file_stamp(m->options.config_path);
    err_clear(&m->reload_err);
    if (!m->reload_again && m->reload_stamp == m->config_stamp)
        return;
    config_load(m->options.config_path, m->options.env, m->options.flags, &m->reload_config, &m->reload_err);
}

static void take_over(struct manager *m)
{
    const char *why = NULL;
    if (!config_can_reload(&m->config, &m->reload_config, &why)) {
        err_set(&m->config_error, ERRC_REFUSED,
                "%s changed: that needs a restart; the old configuration stays", why);
        m->config_failures++;
        log_event(LOG_WARN, "configuration not taken over", "err", m->config_error.message, NULL);
        config_free(&m->reload_config);
        return;
    }
    struct discovery_entry *entries = NULL;
    int count = 0;
    struct err err = {0};
    config_entries(&m->reload_config, &entries, &count);
    int rc = m->discovery != NULL ? discovery_set_entries(m->discovery, entries, count, &err) : 0;
    free(entries);
    if (rc != 0) {
        m->config_error = err;
        m->config_failures++;
        log_event(LOG_WARN, "configuration not taken over", "err", err.message, NULL);
        config_free(&m->reload_config);
        return;
    }
    config_free(&m->config);
    m->config = m->reload_config;
    memset(&m->reload_config, 0, sizeof m->reload_config);
    err_clear(&m->config_error);
    m->config_reloads++;
    log_setup(m->config.log_level, m->config.log_format);
    if (m->databases != NULL)
        databases_set_defaults(m->databases, &m->config.balance);
    if (m->discovery != NULL)
        discovery_set_period(m->discovery, m->config.discovery_interval_ns);
    manager_set_moving(m);
    manager_set_tools(m);
    log_event(LOG_INFO, "configuration taken over", "file", m->options.config_path, NULL);
}

static void reload_done(struct work *work, int code)
{
    struct manager *m = work->data;
    bool forced = m->reload_again;
    m->reloading = false;
    m->reload_again = false;
    if (code != 0 || (!forced && m->reload_stamp == m->config_stamp))
        return;
    m->config_stamp = m->reload_stamp;
    if (m->reload_err.code != ERRC_NONE) {
        m->config_error = m->reload_err;
        m->config_failures++;
        log_event(LOG_ERROR, "configuration is wrong, the old one stays", "err", m->reload_err.message, NULL);
        return;
    }
    take_over(m);
}

static void start_reload(struct manager *m)
{
    if (m->reloading)
        return;
    m->reloading = work_start(&m->loop, &m->reload, run_reload, reload_done, m) == 0;
}

static void look_at_file(struct manager *m)
{
    if (m->options.config_path != NULL)
        start_reload(m);
}

void manager_reload(struct manager *m)
{
    if (m->reloading)
        return; /* it reads the file right now */
    m->reload_again = true;
    start_reload(m);
}
