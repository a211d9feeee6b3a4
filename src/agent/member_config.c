#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/member_impl.h"
#include "base/buf.h"
#include "base/mem.h"

/* ---- texts ---- */

/* As connection strings quote. */
static void part(struct buf *out, const char *name, const char *value)
{
    (void)buf_printf(out, "%s%s='", out->length > 0 ? " " : "", name);
    for (; *value != '\0'; value++) {
        if (*value == '\'' || *value == '\\')
            (void)buf_addc(out, '\\');
        (void)buf_addc(out, *value);
    }
    (void)buf_addc(out, '\'');
}

/* Certificate and key in one file, so that no half of them is ever read. */
static char *shown_path(const struct agent_options *o)
{
    return mem_printf("%s.pem", o->data);
}

/* With an authority at hand the upstream has to be signed by it; its name is an address that it may not be
 * issued for. One without TLS is followed only where the order says that it has none; what it shows although
 * it does is checked. It is shown what our server shows, if it asks (--client-certificates). Without that
 * there is no such file, which keeps libpq from looking for one in the home directory. */
static void upstream_tls(struct buf *out, const struct agent_options *o, bool plain)
{
    char *ca = mem_printf("%s/ca.crt", o->tls != NULL ? o->tls : ""), *shown = shown_path(o);
    bool verify = o->tls != NULL && access(ca, R_OK) == 0;
    const char *strict = verify ? "verify-ca" : "require";
    part(out, "sslmode", o->tls != NULL && !plain ? strict : "prefer");
    if (verify)
        part(out, "sslrootcert", ca);
    part(out, "sslcert", shown);
    part(out, "sslkey", shown);
    free(shown);
    free(ca);
}

static char *passfile_path(const struct agent_options *o)
{
    return mem_printf("%s.pgpass", o->data);
}

char *member_conninfo(const struct agent_options *o, const struct order *order, const char *dbname)
{
    struct buf b = {0};
    char *passfile = passfile_path(o), *port = mem_printf("%d", order->port);
    part(&b, "host", order->host);
    part(&b, "port", port);
    part(&b, "user", AGENT_SUPERUSER);
    part(&b, "passfile", passfile);
    /* what copies is no standby: under the member's name its stream would count for synchronous commits */
    part(&b, "application_name", dbname != NULL ? "shardherd copy" : o->member);
    part(&b, "connect_timeout", "3");
    part(&b, "tcp_user_timeout", "5000");
    upstream_tls(&b, o, order->upstream_plain);
    if (dbname != NULL) {
        part(&b, "dbname", dbname);
        /* the upstream lets go of what was asked for by one that was ended */
        part(&b, "options", "-c client_connection_check_interval=50");
    } else /* a standby that is silent is no longer counted on after so long */
        part(&b, "options", "-c wal_sender_timeout=3000");
    free(passfile);
    free(port);
    return buf_take(&b);
}

static void sync_setting(struct buf *out, const struct order *order)
{
    struct buf b = {0};
    if (order->sync_need > 0) {
        (void)buf_printf(&b, "ANY %d (", order->sync_need);
        for (int i = 0; i < order->sync_count; i++)
            (void)buf_printf(&b, "%s\"%s\"", i > 0 ? ", " : "", order->sync[i]);
        (void)buf_addc(&b, ')');
    }
    agent_setting(out, "synchronous_standby_names", buf_text(&b));
    buf_free(&b);
}

/* FNV-1a of 64 bits. http://www.isthe.com/chongo/tech/comp/fnv/ */
static void mark_of(const char *text, size_t length, char out[MEMBER_MARK_SIZE])
{
    uint64_t sum = 14695981039346656037ull;
    for (size_t i = 0; i < length; i++)
        sum = (sum ^ (unsigned char)text[i]) * 1099511628211ull;
    (void)snprintf(out, MEMBER_MARK_SIZE, "%016llx", (unsigned long long)sum);
}

static const char mark_name[] = "shardherd.settings";

bool member_settings_marked(const char *settings, const char *mark)
{
    char right[MEMBER_MARK_SIZE];
    const char *line = strstr(settings, mark_name);
    if (line == NULL)
        return false;
    mark_of(settings, (size_t)(line - settings), right);
    return strcmp(mark, right) == 0;
}

/* What gets in although the gates are closed (it was being let in when they closed) is ended, and until then
 * at least it has to ask for writes. So has everybody while a volume is full: who asks can delete something.
 */
static void held_settings(struct buf *out, const struct member *m)
{
    bool full = m->disk_state == DISK_FULL || m->wal_state == DISK_FULL;
    agent_setting(out, "shardherd.held", m->order.held ? "on" : "off");
    if (m->order.held || (full && m->order.role == ORDER_PRIMARY))
        agent_setting(out, "default_transaction_read_only", "on");
}

char *member_settings(const struct member *m)
{
    char mark[MEMBER_MARK_SIZE];
    struct buf b = {0};
    char *conninfo = m->order.host[0] != '\0' ? member_conninfo(&m->o, &m->order, NULL) : mem_strdup("");
    (void)buf_add_text(&b, "# The part of this member in its shard.\n"
                           "wal_log_hints = on\n"
                           "hot_standby = on\n"
                           "recovery_target_timeline = 'latest'\n"
                           "wal_receiver_status_interval = '1s'\n"
                           "wal_receiver_timeout = '5s'\n"
                           "wal_retrieve_retry_interval = '500ms'\n"
                           "wal_keep_size = '128MB'\n"); /* a rewind reads back to before the fork */
    agent_setting(&b, "cluster_name", m->o.member);
    agent_setting(&b, "primary_conninfo", conninfo);
    agent_setting(&b, "primary_slot_name", m->order.slot);
    if (m->order.delay_ms != 0)
        (void)buf_printf(&b, "recovery_min_apply_delay = %llu\n", (unsigned long long)m->order.delay_ms);
    sync_setting(&b, &m->order);
    held_settings(&b, m);
    mark_of(b.data, b.length, mark);
    agent_setting(&b, mark_name, mark);
    free(conninfo);
    return buf_take(&b);
}

/* ---- files ---- */

/* A colon or a backslash within a field is escaped. */
static void pass_field(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == ':' || *text == '\\')
            (void)buf_addc(out, '\\');
        (void)buf_addc(out, *text);
    }
}

static int passfile_write(const struct agent_options *o, const struct order *order, bool next,
                          const char *path, struct err *err)
{
    struct buf b = {0};
    char *next_file = agent_next_password(o);
    char *password = next ? agent_file_read(next_file) : NULL;
    free(next_file);
    if (password == NULL)
        password = agent_file_read(o->password_file);
    if (password == NULL)
        return err_set(err, ERRC_IO, "cannot read %s", o->password_file);
    password[strcspn(password, "\r\n")] = '\0';
    pass_field(&b, order->host);
    (void)buf_printf(&b, ":%d:*:" AGENT_SUPERUSER ":", order->port);
    pass_field(&b, password);
    (void)buf_addc(&b, '\n');
    int rc = agent_file_write(path, &b, err);
    explicit_bzero(b.data, b.length);
    buf_free(&b);
    mem_wipe_free(password);
    return rc;
}

/* libpq refuses a key that others may read, as the mounted one. What is there already is not written again:
 * a failover waits for each write. */
static int shown_write(const struct agent_options *o, struct err *err)
{
    char *certificate = mem_printf("%s/tls.crt", o->tls), *key = mem_printf("%s/tls.key", o->tls);
    char *path = shown_path(o), *before = agent_file_read(path);
    char *certificate_text = agent_file_read(certificate), *key_text = agent_file_read(key);
    struct buf b = {0};
    int rc = 0;
    if (certificate_text != NULL && key_text != NULL) {
        (void)buf_printf(&b, "%s\n%s", certificate_text, key_text);
        if (before == NULL || strcmp(before, buf_text(&b)) != 0)
            rc = agent_file_write(path, &b, err);
        explicit_bzero(b.data, b.length);
        buf_free(&b);
    }
    mem_wipe_free(before);
    mem_wipe_free(key_text);
    free(certificate_text);
    free(path);
    free(key);
    free(certificate);
    return rc;
}

/*
 * Without an upstream there is no password file, and with one there is one for that upstream only: a receiver
 * that the server starts with an older connection string, which it may until it has read the new one, is not
 * let in. That is why the absence of a receiver, seen afterwards, means that none will come.
 */
int member_passfile(const struct agent_options *o, const struct order *order, bool next, struct err *err)
{
    char *path = passfile_path(o);
    int rc = 0;
    if (order->host[0] != '\0')
        rc = passfile_write(o, order, next, path, err);
    else if (unlink(path) != 0 && errno != ENOENT)
        rc = err_set_errno(err, errno, "cannot remove %s", path);
    free(path);
    if (rc == 0 && order->host[0] != '\0' && o->tls != NULL)
        rc = shown_write(o, err);
    return rc;
}

static int signal_file(const struct agent_options *o, bool standby, struct err *err)
{
    char *path = mem_printf("%s/standby.signal", o->data);
    struct buf none = {0};
    int rc = 0;
    (void)buf_add_text(&none, "");
    if (standby)
        rc = agent_file_write(path, &none, err);
    else if (unlink(path) != 0 && errno != ENOENT)
        rc = err_set_errno(err, errno, "cannot remove %s", path);
    if (rc == 0)
        rc = agent_parent_sync(path, err);
    buf_free(&none);
    free(path);
    return rc;
}

int member_configure(struct member_job *job, bool running, struct err *err)
{
    if (job->order.timeline != 0) /* on disk before anything of it is received */
        marks_label(&job->marks, job->order.timeline,
                    job->order.timeline_term != 0 ? job->order.timeline_term : job->order.term);
    int rc = marks_save(job->o.data, &job->marks, err);
    agent_inputs_clear(&job->inputs);
    agent_inputs_read(&job->o, &job->inputs);
    mem_wipe_free(job->inputs.password_text);
    job->inputs.password_text = NULL;
    if (rc == 0)
        rc = member_passfile(&job->o, &job->order, job->next, err);
    if (rc == 0)
        rc = agent_configure(&job->o, err);
    if (rc == 0 && !running)
        rc = signal_file(&job->o, job->standby, err);
    if (rc == 0 && !running)
        agent_locks_clear(&job->o);
    return rc;
}
