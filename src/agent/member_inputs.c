/* Files that change while the agent runs: settings, certificates, the password, the token; and the disk. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/member_impl.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/tls.h"

#define INPUTS_NS (2 * ENV_NS_PER_S)
#define CLOSE_NS  (200 * ENV_NS_PER_MS) /* while a volume is nearly full: writers may be fast */

/* Nobody but us and our group: in a pod the kubelet gives Secrets to the group of the volumes. */
static bool is_private(const struct stat *st)
{
    mode_t others = st->st_gid == getegid() ? S_IRWXO | S_IWGRP | S_IXGRP : S_IRWXO | S_IRWXG;
    return (st->st_mode & others) == 0;
}

char *member_token_read(const char *path, struct err *err)
{
    struct stat st;
    char *text = NULL;
    if (stat(path, &st) != 0)
        (void)err_set_errno(err, errno, "cannot read the token file %s", path);
    else if (!is_private(&st))
        (void)err_set(err, ERRC_INVALID, "the token file %s is open to others: chmod 600 it", path);
    else if ((text = agent_file_read(path)) == NULL)
        (void)err_set(err, ERRC_INVALID, "cannot read the token file %s", path);
    if (text != NULL)
        text[strcspn(text, "\r\n")] = '\0';
    if (text != NULL && strlen(text) < 16) {
        (void)err_set(err, ERRC_INVALID, "the token in %s is shorter than 16 characters", path);
        mem_wipe_free(text);
        text = NULL;
    }
    return text;
}

static void password_set(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    (void)data;
    log_event(reply->err != NULL ? LOG_ERROR : LOG_INFO,
              reply->err != NULL ? "the password could not be changed" : "the password was changed", "err",
              reply->err != NULL ? reply->err->message : NULL, NULL);
}

/* A standby gets it from its primary. */
static void password_apply(struct member *m)
{
    struct buf sql = {0};
    if (sm_now(&m->sm) != MEMBER_PRIMARY || m->seen.password == m->applied_inputs.password ||
        m->seen.password_text == NULL || m->seen.password_text[0] == '\0')
        return;
    (void)buf_add_text(&sql, "ALTER ROLE " AGENT_SUPERUSER " PASSWORD ");
    pg_quote_literal(&sql, m->seen.password_text);
    (void)pg_exec(m->conn, buf_text(&sql), password_set, m, NULL);
    explicit_bzero(sql.data, sql.length);
    buf_free(&sql);
}

static void inputs_run(struct work *work)
{
    struct member *m = work->data;
    agent_inputs_read(&m->o, &m->reading_now);
    m->seen_token = member_token_read(m->o.token_file, NULL);
    m->seen_tls = NULL;
    if (m->o.http_tls != NULL && m->reading_now.http_tls != m->http_tls)
        (void)member_http_tls(&m->o, &m->seen_tls, NULL); /* half written: the next look finds it whole */
    m->seen_disk = disk_look(m->o.data);
    m->seen_wal_disk = m->o.wal != NULL ? disk_look(m->o.wal) : (struct disk_space){0};
}

static void http_tls_take(struct member *m)
{
    if (m->seen_tls == NULL)
        return;
    if (sm_now(&m->sm) != MEMBER_ENDED)
        http_server_set_tls(m->http, m->seen_tls);
    m->http_tls = m->reading_now.http_tls;
    tls_context_unref(m->seen_tls);
    m->seen_tls = NULL;
    log_event(LOG_INFO, "the certificate of the HTTP interface was changed", NULL);
}

/* Whoever looks at the status is told as well, see member_disk_says(). */
static void disk_note(struct member *m, const char *what, const struct disk_space *space,
                      enum disk_state *state)
{
    enum disk_state now = disk_judge(space, *state);
    if (now == *state)
        return;
    log_event(now == DISK_ENOUGH ? LOG_INFO : LOG_WARN, "room on the volume", "of", what, "is",
              disk_state_name(now), "free", log_num((long long)space->free), "size",
              log_num((long long)space->size), NULL);
    *state = now;
    member_changed(m);
}

bool member_disk_says(const struct member *m, char *out, size_t size)
{
    bool of_log = m->wal_state >= m->disk_state && m->wal_state != DISK_ENOUGH; /* it ends the server first */
    const struct disk_space *space = of_log ? &m->wal_disk : &m->disk;
    enum disk_state state = of_log ? m->wal_state : m->disk_state;
    const char *what = of_log ? "of the log" : "of the data";
    if (state == DISK_LOW)
        (void)snprintf(
            out, size, "the volume %s is nearly full: %llu MiB are free; below %llu writes are refused", what,
            (unsigned long long)(space->free >> 20), (unsigned long long)(disk_least(space->size) >> 20));
    else if (state == DISK_FULL)
        (void)snprintf(out, size,
                       "the volume %s is full: %llu MiB are free, and writes are refused until %llu are",
                       what, (unsigned long long)(space->free >> 20),
                       (unsigned long long)(disk_least(space->size) >> 19));
    return state != DISK_ENOUGH;
}

static void inputs_done(struct work *work, int code)
{
    struct member *m = work->data;
    (void)code;
    m->reading = false;
    m->seen = m->reading_now;
    m->disk = m->seen_disk;
    m->wal_disk = m->seen_wal_disk;
    disk_note(m, "data", &m->disk, &m->disk_state);
    disk_note(m, "log", &m->wal_disk, &m->wal_state);
    if (m->seen_token != NULL) {
        mem_wipe_free(m->token);
        m->token = m->seen_token;
        m->seen_token = NULL;
    }
    http_tls_take(m);
    if (m->facts.known && m->conn != NULL)
        password_apply(m);
    mem_wipe_free(m->seen.password_text);
    m->seen.password_text = NULL;
    member_step(m);
}

static void inputs_fired(struct loop_timer *timer, void *data)
{
    struct member *m = data;
    loop_timer_start(timer,
                     m->disk_state != DISK_ENOUGH || m->wal_state != DISK_ENOUGH ? CLOSE_NS : INPUTS_NS);
    if (!m->reading)
        m->reading = work_start(&m->loop, &m->inputs_work, inputs_run, inputs_done, m) == 0;
}

void member_inputs_init(struct member *m)
{
    loop_timer_init(&m->loop, &m->inputs_timer, inputs_fired, m);
    loop_timer_start(&m->inputs_timer, 0);
}
