#include "runtime/local.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

/* What shardherd itself relies on to find and reach the server. */
static const char *const own_settings[] = {"listen_addresses", "port", "data_directory", "hba_file",
                                           "config_file"};

static size_t word_length(const char *line)
{
    size_t n = 0;
    while (isalnum((unsigned char)line[n]) || line[n] == '_' || line[n] == '.')
        n++;
    return n;
}

static int setting_check(const char *line, struct err *err)
{
    size_t length = word_length(line);
    if (strpbrk(line, "\r\n") != NULL || length == 0)
        return err_set(err, ERRC_INVALID, "setting \"%.40s\": expected one line \"name = value\"", line);
    for (size_t i = 0; i < sizeof own_settings / sizeof own_settings[0]; i++)
        if (strlen(own_settings[i]) == length && strncasecmp(line, own_settings[i], length) == 0)
            return err_set(err, ERRC_INVALID, "setting %s is managed by shardherd and cannot be given",
                           own_settings[i]);
    return 0;
}

int local_settings_check(const char *const *settings, struct err *err)
{
    for (; settings != NULL && *settings != NULL; settings++) {
        int rc = setting_check(*settings, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void quoted(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s = '", name);
    for (; *value != '\0'; value++) {
        if (*value == '\'' || *value == '\\')
            buf_addc(out, *value);
        buf_addc(out, *value);
    }
    buf_add_text(out, "'\n");
}

void local_config_text(struct buf *out, const struct local_record *record, const char *hba_path, int major,
                       char *const *settings)
{
    buf_add_text(out, "# Written by shardherd before each start; changes made here are lost.\n");
    quoted(out, "listen_addresses", record->host);
    buf_printf(out, "port = %d\n", record->port);
    quoted(out, "hba_file", hba_path);
    buf_add_text(out, "unix_socket_directories = ''\n"
                      "shared_buffers = '128MB'\n"
                      "wal_level = logical\n"
                      "max_wal_senders = 20\n"
                      "max_replication_slots = 20\n"
                      "max_worker_processes = 32\n"
                      "max_logical_replication_workers = 20\n"
                      "max_sync_workers_per_subscription = 4\n"
                      "synchronous_commit = on\n"
                      "password_encryption = 'scram-sha-256'\n"
                      /* the log says what went wrong, never a statement, a parameter or a row */
                      "log_destination = 'stderr'\n"
                      "logging_collector = off\n"
                      "log_line_prefix = '%m [%p] '\n"
                      "log_statement = 'none'\n"
                      "log_min_error_statement = 'panic'\n"
                      "log_error_verbosity = 'terse'\n"
                      "log_min_duration_statement = -1\n"
                      "log_checkpoints = off\n");
    if (major >= 18)
        buf_add_text(out, "max_active_replication_origins = 20\n");
    for (; settings != NULL && *settings != NULL; settings++)
        buf_printf(out, "%s\n", *settings);
}

void local_member_text(struct buf *out, int major, char *const *settings)
{
    buf_add_text(out, "# Written by shardherd before each start of the agent; changes made here are lost.\n"
                      "shared_buffers = '128MB'\n"
                      "max_sync_workers_per_subscription = 4\n"
                      "synchronous_commit = on\n"
                      "log_min_duration_statement = -1\n"
                      "log_checkpoints = off\n");
    if (major >= 18)
        buf_add_text(out, "max_active_replication_origins = 20\n");
    for (; settings != NULL && *settings != NULL; settings++)
        buf_printf(out, "%s\n", *settings);
}

void local_hba_text(struct buf *out, const char *address)
{
    bool loopback = text_starts_with(address, "127.") || strcmp(address, "::1") == 0;
    static const char *const near[] = {"127.0.0.0/8", "::1/128"};
    static const char *const far[] = {"0.0.0.0/0", "::/0"};
    buf_add_text(out, "# Written by shardherd before each start; changes made here are lost.\n");
    buf_add_text(out, "local all all scram-sha-256\n");
    for (int i = 0; i < 2; i++) {
        const char *from = loopback ? near[i] : far[i];
        buf_printf(out, "host all all %s scram-sha-256\n", from);
        buf_printf(out, "host replication all %s scram-sha-256\n", from);
    }
}
