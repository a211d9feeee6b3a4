#include "runtime/local_ensure.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/login_sql.h"

static bool path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* ---- LOOK ---- */

/* The others of its shard: a standby is of the same major version as its primary. */
static int shard_major(const struct ensure *e)
{
    DIR *dir = opendir(e->op.local->directory);
    int major = 0;
    const struct dirent *entry;
    while (dir != NULL && major == 0 && (entry = readdir(dir)) != NULL) {
        struct local_record other = {0};
        if (!text_is_name(entry->d_name) || strcmp(entry->d_name, e->op.name) == 0 ||
            local_record_load(e->op.local->directory, entry->d_name, &other, NULL) != 0)
            continue;
        if (other.member && !other.creating && strcmp(other.database, e->database) == 0 &&
            strcmp(other.shard, e->shard) == 0)
            major = other.major;
        local_record_clear(&other);
    }
    if (dir != NULL)
        closedir(dir);
    return major;
}

void ensure_look(struct work *work)
{
    struct ensure *e = work->data;
    const char *directory = e->op.local->directory;
    if (local_user_find(e->op.local->user_name, &e->user, &e->job_err) != 0 ||
        local_user_reaches(&e->user, directory, &e->job_err) != 0)
        return;
    char *new = local_path(directory, ".new-", e->op.name, NULL);
    char *old = local_path(directory, ".old-", e->op.name, NULL);
    int rc = local_record_load(directory, e->op.name, &e->record, &e->job_err);
    if (rc == ERRC_NOT_FOUND)
        err_clear(&e->job_err);
    e->exists = rc == 0 && !e->record.creating;
    e->leftover = (rc == 0 && e->record.creating) || path_exists(new) || path_exists(old);
    if (rc == 0 && e->record.member)
        local_agent_look(directory, &e->record);
    if (e->member && !e->exists)
        e->shard_major = shard_major(e);
    free(new);
    free(old);
}

/* ---- WIPE ---- */

void ensure_wipe(struct work *work)
{
    struct ensure *e = work->data;
    const char *directory = e->op.local->directory;
    bool member = e->record.name != NULL ? e->record.member : e->member;
    char *data = local_data_path(directory, e->op.name, member);
    int number = e->tries < LOCAL_TERM_TRIES ? SIGTERM : SIGKILL;
    e->orphans = local_orphans(data, number);
    if (member)
        e->orphans += local_agent_strays(directory, e->op.name, number);
    free(data);
    if (e->orphans > 0)
        return;
    char *new = local_path(directory, ".new-", e->op.name, NULL);
    char *old = local_path(directory, ".old-", e->op.name, NULL);
    int rc = local_tree_delete(new, &e->job_err);
    if (rc == 0)
        rc = local_tree_delete(old, &e->job_err);
    /* aside first: a half-deleted tree must not look like an instance */
    if (rc == 0 && e->record.creating && rename(e->path, old) != 0 && errno != ENOENT)
        rc = err_set_errno(&e->job_err, errno, "cannot move %s aside", e->path);
    if (rc == 0)
        (void)local_tree_delete(old, &e->job_err);
    free(new);
    free(old);
}

/* ---- PREPARE ---- */

/* The ports that instances of ours have in their instance.json, running or not. */
static bool port_is_ours(const struct ensure *e, int port)
{
    DIR *dir = opendir(e->op.local->directory);
    bool taken = false;
    struct dirent *entry;
    while (dir != NULL && !taken && (entry = readdir(dir)) != NULL) {
        struct local_record other = {0};
        if (!text_is_name(entry->d_name) || strcmp(entry->d_name, e->op.name) == 0 ||
            local_record_load(e->op.local->directory, entry->d_name, &other, NULL) != 0)
            continue;
        taken = other.port == port || other.agent_port == port;
        local_record_clear(&other);
    }
    if (dir != NULL)
        closedir(dir);
    return taken;
}

static int port_free(struct ensure *e, const char *host, int from, int *ret)
{
    for (int port = from; port <= 65535; port++) {
        struct err why = {0};
        if (port_is_ours(e, port))
            continue;
        int rc = local_port_try(host, port, &why);
        if (rc == 0) {
            *ret = port;
            return 0;
        }
        if (rc != ERRC_CONFLICT)
            return err_copy(&e->job_err, &why);
    }
    return err_set(&e->job_err, ERRC_LIMIT, "no free port from %d to 65535 on %s", from, host);
}

/* The server's, and of a member the agent's as well. */
static int ports_pick(struct ensure *e, int from)
{
    int rc = port_free(e, e->record.host, from, &e->record.port);
    if (rc == 0 && e->record.member)
        rc = port_free(e, LOCAL_AGENT_ADDRESS, e->record.port + 1, &e->record.agent_port);
    return rc;
}

/* The one directory that the server's user owns: the data, or what a member's agent works in. */
static int data_make(const struct ensure *e, const char *path, struct err *err)
{
    char *data = mem_printf("%s/%s", path, e->record.member ? "member" : "data");
    int rc = 0;
    if (mkdir(data, 0700) != 0)
        rc = err_set_errno(err, errno, "cannot create %s", data);
    else if (e->user.uid != 0 && chown(data, e->user.uid, e->user.gid) != 0)
        rc = err_set_errno(err, errno, "cannot give %s to user %s", data, e->user.name);
    free(data);
    return rc;
}

static int secret_write(const char *path, const char *leaf, const char *secret,
                        const struct local_user *owner, struct err *err)
{
    char *file = mem_printf("%s/%s", path, leaf);
    char *text = mem_printf("%s\n", secret);
    int rc = local_file_write(file, text, 0600, owner, err);
    mem_wipe_free(text);
    free(file);
    return rc;
}

/* Everything in ".new-<name>", then one rename: there is never an instance without its mark. */
static int directory_fill(struct ensure *e)
{
    struct err *err = &e->job_err;
    char *new = local_path(e->op.local->directory, ".new-", e->op.name, NULL);
    int rc = 0;
    if (mkdir(new, 0700) != 0)
        rc = err_set_errno(err, errno, "cannot create %s", new);
    if (rc == 0 && e->user.uid != 0 && chmod(new, 0711) != 0)
        rc = err_set_errno(err, errno, "cannot open %s to user %s", new, e->user.name);
    if (rc == 0)
        rc = data_make(e, new, err);
    if (rc == 0)
        rc = secret_write(new, "password", e->record.password, e->record.member ? &e->user : NULL, err);
    if (rc == 0 && e->record.member)
        rc = secret_write(new, "token", e->record.token, &e->user, err);
    else if (rc == 0)
        rc = secret_write(new, "initdb-password", e->record.password, &e->user, err);
    if (rc == 0)
        rc = local_record_save(new, &e->record, err);
    if (rc == 0 && rename(new, e->path) != 0)
        rc = err_set_errno(err, errno, "cannot rename %s", new);
    if (rc == 0)
        rc = local_directory_sync(e->op.local->directory, err);
    if (rc != 0)
        (void)local_tree_delete(new, NULL);
    free(new);
    return rc;
}

void ensure_prepare(struct work *work)
{
    struct ensure *e = work->data;
    struct local *local = e->op.local;
    if (local_disk_check(local->directory, e->min_free_bytes, &e->job_err) != 0)
        return;
    local_record_clear(&e->record);
    e->record = (struct local_record){.name = mem_strdup(e->op.name),
                                      .database = mem_strdup(e->database),
                                      .shard = mem_strdup(e->shard),
                                      .owner = mem_strdup(e->owner),
                                      .host = mem_strdup(local->address),
                                      .password = mem_strdup(e->member ? e->password : e->new_password),
                                      .creating = true,
                                      .member = e->member,
                                      .token = e->member ? mem_strdup(e->new_token) : NULL,
                                      .major = e->binary->version / 10000};
    pthread_mutex_lock(&local->ports);
    if (ports_pick(e, local->first_port) == 0)
        (void)directory_fill(e);
    pthread_mutex_unlock(&local->ports);
}

void ensure_repick(struct work *work)
{
    struct ensure *e = work->data;
    pthread_mutex_lock(&e->op.local->ports);
    if (ports_pick(e, e->record.port + 1) == 0)
        (void)local_record_save(e->path, &e->record, &e->job_err);
    pthread_mutex_unlock(&e->op.local->ports);
}

/* ---- CONFIGURE ---- */

static int file_put(const struct ensure *e, const char *leaf, const struct buf *text, struct err *err)
{
    char *file = mem_printf("%s/%s", e->path, leaf);
    int rc = local_file_write(file, buf_text(text), 0644, NULL, err);
    free(file);
    return rc;
}

static int texts_write(struct ensure *e)
{
    struct buf config = {0};
    struct buf hba = {0};
    char *hba_path = mem_printf("%s/pg_hba.conf", e->path);
    local_config_text(&config, &e->record, hba_path, e->binary->version / 10000, e->settings);
    local_hba_text(&hba, e->record.host);
    int rc = file_put(e, "shardherd.conf", &config, &e->job_err);
    if (rc == 0)
        rc = file_put(e, "pg_hba.conf", &hba, &e->job_err);
    buf_free(&config);
    buf_free(&hba);
    free(hba_path);
    return rc;
}

static int member_text_write(struct ensure *e)
{
    struct buf settings = {0};
    local_member_text(&settings, e->binary->version / 10000, e->settings);
    int rc = file_put(e, "settings", &settings, &e->job_err);
    buf_free(&settings);
    return rc;
}

static int include_add(struct ensure *e)
{
    if (!e->record.creating)
        return 0;
    char *path = mem_printf("%s/initdb-password", e->path);
    (void)unlink(path);
    free(path);
    path = mem_printf("%s/postgresql.conf", e->data_path);
    int rc = e->ports_tried > 0 ? 0 : local_file_append(path, "include '../shardherd.conf'\n", &e->job_err);
    free(path);
    return rc;
}

/* A lock file whose postmaster is gone; PostgreSQL itself cannot tell once another process has that number.
 */
static void stale_lock_delete(struct ensure *e)
{
    e->orphans = local_orphans(e->data_path, 0);
    char *path = mem_printf("%s/postmaster.pid", e->data_path);
    if (e->orphans == 0)
        (void)unlink(path);
    free(path);
}

static void log_prepare(const struct ensure *e)
{
    char *path = mem_printf("%s/log", e->path);
    local_log_trim(path, LOCAL_LOG_MAX);
    free(path);
}

static void port_check(struct ensure *e, const char *host, int port)
{
    struct err why = {0};
    int rc = local_port_try(host, port, &why);
    e->port_taken = rc == ERRC_CONFLICT;
    e->taken_port = port;
    if (e->port_taken)
        local_port_holder(port, e->reason, sizeof e->reason);
    else if (rc != 0)
        err_copy(&e->job_err, &why);
}

/* Of an agent that was killed the watchdog may still live, and ends the server: both are waited for. Without
 * a watchdog nobody answers for the server, which is ended as the agent would do it. An agent that came after
 * the member was looked at is not adopted: it was told who knows what. */
static void member_configure(struct ensure *e)
{
    if (member_text_write(e) != 0)
        return;
    log_prepare(e);
    int late = e->tries < LOCAL_TERM_TRIES ? SIGTERM : SIGKILL;
    int strays = local_agent_strays(e->op.local->directory, e->op.name, late);
    int number = strays > 0 ? 0 : e->tries < LOCAL_TERM_TRIES ? SIGQUIT : SIGKILL;
    e->orphans = local_orphans(e->data_path, number) + strays;
    if (e->orphans == 0)
        port_check(e, e->record.host, e->record.port);
    if (e->orphans == 0 && !e->port_taken && e->job_err.code == ERRC_NONE)
        port_check(e, LOCAL_AGENT_ADDRESS, e->record.agent_port);
}

void ensure_configure(struct work *work)
{
    struct ensure *e = work->data;
    e->port_taken = false;
    e->orphans = 0;
    if (e->record.member) {
        member_configure(e);
        return;
    }
    if (include_add(e) != 0 || texts_write(e) != 0)
        return;
    log_prepare(e);
    stale_lock_delete(e);
    port_check(e, e->record.host, e->record.port);
}

/* ---- VERIFY, COMMIT, AUTOPSY ---- */

void ensure_verifier(struct work *work)
{
    struct ensure *e = work->data;
    e->login.verifier = scram_verifier(e->owner, e->owner_password, &e->job_err);
}

/* A member's agent looks for it every 2 s, and the primary's changes the role's. */
static int member_password_write(struct ensure *e)
{
    if (strcmp(e->record.password, e->password) == 0)
        return 0;
    mem_wipe_free(e->record.password);
    e->record.password = mem_strdup(e->password);
    return secret_write(e->path, "password", e->password, &e->user, &e->job_err);
}

static int owner_password_write(struct ensure *e)
{
    const char *known = e->record.owner_password;
    if (e->owner_password == NULL || (known != NULL && strcmp(known, e->owner_password) == 0))
        return 0;
    return secret_write(e->path, "owner-password", e->owner_password, NULL, &e->job_err);
}

void ensure_commit(struct work *work)
{
    struct ensure *e = work->data;
    if (e->record.member && member_password_write(e) != 0)
        return;
    if ((!e->record.member || e->primary) && owner_password_write(e) != 0)
        return;
    e->record.creating = false;
    if (local_record_save(e->path, &e->record, &e->job_err) != 0)
        e->record.creating = !e->exists;
}

void ensure_autopsy(struct work *work)
{
    struct ensure *e = work->data;
    char *path = mem_printf("%s/log", e->path);
    local_log_reason(path, e->reason, sizeof e->reason);
    free(path);
}
