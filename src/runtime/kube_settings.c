/* postgresql.conf of a shard's pods, and which change of it needs another pod. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/text.h"
#include "runtime/kube_objects.h"

static bool given(yyjson_val *parameters, const char *name)
{
    return yyjson_obj_get(parameters, name) != NULL;
}

static void setting(struct buf *out, yyjson_val *parameters, const char *name, const char *value)
{
    if (!given(parameters, name))
        (void)buf_printf(out, "%s = '%s'\n", name, value);
}

static void setting_kib(struct buf *out, yyjson_val *parameters, const char *name, uint64_t bytes)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%llukB", (unsigned long long)(bytes / 1024));
    setting(out, parameters, name, text);
}

static void user_setting(struct buf *out, const char *name, const char *value)
{
    (void)buf_printf(out, "%s = '", name);
    for (; *value != '\0'; value++) {
        if (*value == '\'' || *value == '\\')
            (void)buf_addc(out, *value);
        (void)buf_addc(out, *value == '\n' ? ' ' : *value);
    }
    (void)buf_add_text(out, "'\n");
}

static uint64_t at_least(uint64_t value, uint64_t least)
{
    return value > least ? value : least;
}

void kube_settings(struct buf *out, uint64_t memory, uint64_t wal, yyjson_val *parameters)
{
    const uint64_t connections = 100;
    yyjson_val *key, *value;
    size_t at, n;
    (void)buf_add_text(
        out, "# Made by shardherd from the resources of the pod; spec.postgresql.parameters wins.\n");
    setting(out, parameters, "max_connections", "100");
    setting_kib(out, parameters, "shared_buffers", at_least(memory / 4, 16ull << 20));
    setting_kib(out, parameters, "effective_cache_size", at_least(memory / 4 * 3, 32ull << 20));
    setting_kib(out, parameters, "work_mem", at_least(memory / 4 / connections, 1ull << 20));
    setting_kib(out, parameters, "maintenance_work_mem", at_least(memory / 16, 16ull << 20));
    if (wal > 0) { /* half of its volume: slots and archiving need the rest */
        setting_kib(out, parameters, "max_wal_size", at_least(wal / 4, 64ull << 20));
        setting_kib(out, parameters, "max_slot_wal_keep_size", wal / 2);
    }
    setting(out, parameters, "checkpoint_completion_target", "0.9");
    setting(out, parameters, "log_checkpoints", "on");
    setting(out, parameters, "log_lock_waits", "on");
    setting(out, parameters, "log_autovacuum_min_duration", "10s");
    yyjson_obj_foreach(parameters, at, n, key, value)
    {
        if (yyjson_is_str(value))
            user_setting(out, yyjson_get_str(key), yyjson_get_str(value));
    }
}

/* Whether the agent's reload is enough for this setting; what is not known to be so restarts the pod. */
static bool reloadable(const char *line)
{
    static const char *const starts[] = {"log_",  "checkpoint_", "bgwriter_",       "enable_",   "vacuum_",
                                         "idle_", "cpu_",        "tcp_keepalives_", "autovacuum"};
    static const char *const restart[] = {"autovacuum_max_workers", "autovacuum_worker_slots",
                                          "autovacuum_freeze_max_age", "autovacuum_multixact_freeze_max_age"};
    static const char *const names[] = {"work_mem",
                                        "maintenance_work_mem",
                                        "effective_cache_size",
                                        "effective_io_concurrency",
                                        "random_page_cost",
                                        "seq_page_cost",
                                        "default_statistics_target",
                                        "statement_timeout",
                                        "lock_timeout",
                                        "max_wal_size",
                                        "min_wal_size",
                                        "wal_keep_size",
                                        "max_slot_wal_keep_size",
                                        "wal_compression",
                                        "synchronous_commit",
                                        "commit_delay",
                                        "temp_file_limit",
                                        "deadlock_timeout",
                                        "TimeZone"};
    size_t length = strcspn(line, " ");
    for (size_t i = 0; i < sizeof restart / sizeof restart[0]; i++) {
        if (strlen(restart[i]) == length && memcmp(line, restart[i], length) == 0)
            return false;
    }
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        if (strncmp(line, starts[i], strlen(starts[i])) == 0)
            return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i]) == length && memcmp(line, names[i], length) == 0)
            return true;
    }
    return false;
}

/* FNV-1a over the settings that need a restart: a pod with others of them is another pod template. */
void kube_settings_sum(const char *text, char ret[KUBE_SETTINGS_SUM])
{
    uint64_t sum = 14695981039346656037ull;
    for (size_t length; *text != '\0'; text += length) {
        length = strcspn(text, "\n");
        length += text[length] == '\n';
        for (size_t i = 0; i < length && !reloadable(text); i++)
            sum = (sum ^ (unsigned char)text[i]) * 1099511628211ull;
    }
    (void)snprintf(ret, KUBE_SETTINGS_SUM, "%016llx", (unsigned long long)sum);
}

/* ---- what a standby needs as much of as its primary has ---- */

static const struct {
    const char *name;
    uint64_t otherwise; /* as the agent, else PostgreSQL has it */
} standby_settings[] = {{"max_connections", 100},
                        {"max_wal_senders", 20},
                        {"max_worker_processes", 32},
                        {"max_prepared_transactions", 0},
                        {"max_locks_per_transaction", 64}};
#define STANDBY_SETTINGS (sizeof standby_settings / sizeof standby_settings[0])

char *kube_settings_standby(yyjson_val *parameters)
{
    struct buf text = {0};
    for (size_t i = 0; i < STANDBY_SETTINGS; i++) {
        const char *given = yyjson_get_str(yyjson_obj_get(parameters, standby_settings[i].name));
        uint64_t value = standby_settings[i].otherwise;
        if (given != NULL)
            (void)text_to_uint64(given, &value);
        (void)buf_printf(&text, "%s%llu", i > 0 ? " " : "", (unsigned long long)value);
    }
    return buf_take(&text);
}

int kube_settings_lowered(const char *before, const char *now, struct err *err)
{
    for (size_t i = 0; i < STANDBY_SETTINGS; i++) {
        char *before_end, *now_end;
        unsigned long long old = strtoull(before, &before_end, 10), new = strtoull(now, &now_end, 10);
        if (before_end == before || now_end == now)
            return 0; /* made by somebody who did not write it down */
        if (new < old)
            return err_set(
                err, ERRC_UNSUPPORTED,
                "spec.postgresql.parameters: %s cannot be lowered from %llu to %llu where shards have "
                "several instances: a standby does not start with less than its primary has",
                standby_settings[i].name, old, new);
        before = before_end;
        now = now_end;
    }
    return 0;
}
