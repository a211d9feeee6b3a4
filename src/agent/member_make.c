/* Data directories: made by initdb, cloned from the upstream, rewound to where the upstream's history goes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/member_impl.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

static void program_failed(struct member *m, const struct process_result *result, const char *name)
{
    struct err err = {0};
    if (result->err.code == ERRC_CANCELED) { /* for another order, or the end */
        member_settle(m, m->data_there ? MEMBER_STOPPED : MEMBER_EMPTY);
        return;
    }
    process_describe(result, name, &err);
    member_fail(m, &err);
}

/* ---- in place ---- */

static void finish_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    if (marks_save(job->o.data, &job->marks, &job->err) == 0 && agent_draft_finish(&job->o, &job->err) == 0)
        control_read(job->o.data, &job->control);
}

static void finished(struct member *m)
{
    m->marks = m->job.marks;
    m->control = m->job.control;
    m->data_there = true;
    m->backoff_ns = MEMBER_BACKOFF_NS;
    member_settle(m, MEMBER_STOPPED);
}

/* The marks first: between the two the directory is not there, and whoever makes it writes them anew. */
static void finish(struct member *m, const struct marks *marks)
{
    m->marks = *marks;
    member_job_start(m, sm_now(&m->sm), finish_run, finished);
}

/* ---- initdb ---- */

static void initdb_ended(const struct process_result *result, void *data)
{
    struct member *m = data;
    struct marks marks = m->marks;
    marks.primary = true;
    marks.primary_term = m->order.term;
    marks.rewinding = false;
    if (result->err.code != ERRC_NONE || result->exit_code != 0)
        program_failed(m, result, "initdb");
    else
        finish(m, &marks);
}

static void initdb(struct member *m)
{
    struct err err = {0};
    struct agent_initdb command;
    agent_initdb_init(&command, &m->o);
    if (member_helper_start(m, command.argv, NULL, initdb_ended, &err) != 0)
        member_fail(m, &err);
    agent_initdb_fini(&command);
}

static void clear_run(struct work *work)
{
    struct member *m = work->data;
    (void)agent_draft_clear(&m->job.o, &m->job.err);
}

void member_initialize(struct member *m)
{
    log_event(LOG_INFO, "making a data directory", "path", m->o.data, NULL);
    member_job_start(m, MEMBER_INITIALIZING, clear_run, initdb);
}

/* ---- clone ---- */

static void basebackup_ended(const struct process_result *result, void *data)
{
    struct member *m = data;
    struct marks marks = {.cloned = m->order.term, .cloned_seq = m->order.seq};
    if (result->err.code != ERRC_NONE || result->exit_code != 0)
        program_failed(m, result, "pg_basebackup");
    else
        finish(m, &marks);
}

static void basebackup(struct member *m)
{
    struct err err = {0};
    char *name = member_program(m, "pg_basebackup"), *draft = agent_draft_path(&m->o);
    char *directory = mem_printf("--pgdata=%s", draft), *wal = agent_wal_draft_path(&m->o);
    char *conninfo = member_conninfo(&m->o, &m->job.order, "postgres");
    char *from = mem_printf("--dbname=%s", conninfo);
    char *waldir = wal != NULL ? mem_printf("--waldir=%s", wal) : mem_strdup("--verbose");
    char *slot = m->order.slot[0] != '\0' ? mem_printf("--slot=%s", m->order.slot) : NULL;
    const char *const argv[] = {
        name,   directory, from, "--no-password", "--wal-method=stream", "--checkpoint=fast",
        waldir, slot,      NULL};
    m->data_there = false;
    log_event(LOG_INFO, "cloning", "from", m->order.host, "port", log_num(m->order.port), NULL);
    if (m->orders != m->job_orders)
        member_settle(m, MEMBER_EMPTY); /* the step that follows decides anew */
    else if (member_helper_start(m, argv, NULL, basebackup_ended, &err) != 0)
        member_fail(m, &err);
    free(name);
    free(draft);
    free(directory);
    free(wal);
    free(conninfo);
    free(from);
    free(waldir);
    free(slot);
}

/* The data that is there goes, and the log of its own volume: this is what "clone" says. */
static int data_remove(const struct agent_options *o, struct err *err)
{
    char *gone = mem_printf("%s.gone", o->data),
         *wal = o->wal != NULL ? mem_printf("%s/pg_wal", o->wal) : NULL;
    int rc = agent_tree_delete(gone, err);
    if (rc == 0 && rename(o->data, gone) != 0 && errno != ENOENT)
        rc = err_set_errno(err, errno, "cannot move %s away", o->data);
    if (rc == 0 && wal != NULL)
        rc = agent_tree_delete(wal, err);
    if (rc == 0)
        rc = agent_tree_delete(gone, err);
    free(gone);
    free(wal);
    return rc;
}

static void clone_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    if (data_remove(&job->o, &job->err) == 0 && agent_draft_clear(&job->o, &job->err) == 0)
        (void)member_passfile(&job->o, &job->order, job->next, &job->err);
}

void member_clone(struct member *m)
{
    member_job_start(m, MEMBER_CLONING, clone_run, basebackup);
}

/* ---- rewind ---- */

static void step_begins(struct member *m, enum member_rewind_step step)
{
    m->rewind_ns[step] = loop_now(&m->loop);
}

static long long step_ms(const struct member *m, enum member_rewind_step step)
{
    return (long long)((m->rewind_ns[step + 1] - m->rewind_ns[step]) / ENV_NS_PER_MS);
}

static void rewound(struct member *m)
{
    step_begins(m, MEMBER_REWIND_END);
    log_event(LOG_INFO, "rewound", "recover_ms", log_num(step_ms(m, MEMBER_REWIND_RECOVER)), "look_ms",
              log_num(step_ms(m, MEMBER_REWIND_LOOK)), "keep_ms", log_num(step_ms(m, MEMBER_REWIND_KEEP)),
              "rewind_ms", log_num(step_ms(m, MEMBER_REWIND_REWIND)), NULL);
    finished(m);
}

/* Single-user mode, which pg_rewind would start itself, refuses to work on a standby. */
static int standby_signal_remove(const struct agent_options *o, struct err *err)
{
    char *path = mem_printf("%s/standby.signal", o->data);
    int rc = unlink(path) != 0 && errno != ENOENT ? err_set_errno(err, errno, "cannot remove %s", path) : 0;
    free(path);
    return rc;
}

static int file_copy(const char *from, const char *to, struct err *err)
{
    char piece[65536];
    ssize_t n = 0;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = in < 0 || out < 0 ? err_set_errno(err, errno, "cannot copy %s to %s", from, to) : 0;
    while (rc == 0 && (n = read(in, piece, sizeof piece)) > 0)
        if (write(out, piece, (size_t)n) != n)
            rc = err_set_errno(err, errno, "cannot write %s", to);
    if (rc == 0 && (n < 0 || fsync(out) != 0))
        rc = err_set_errno(err, errno, "cannot copy %s", from);
    if (in >= 0)
        (void)close(in);
    if (out >= 0)
        (void)close(out);
    return rc;
}

static int copy_into(const char *folder, const char *name, const char *to, struct err *err)
{
    char *from = mem_printf("%s/%s", folder, name), *target = mem_printf("%s/%s", to, name);
    int rc = file_copy(from, target, err);
    free(from);
    free(target);
    return rc;
}

/* The log from the divergence on: segments of its timeline whose name is not below `first`. */
static int wal_keep(const struct agent_options *o, const char *first, const char *to, struct err *err)
{
    char *folder = mem_printf("%s/pg_wal", o->data);
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int rc = dir == NULL ? err_set_errno(err, errno, "cannot read %s", folder) : 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (strlen(entry->d_name) == 24 && strncmp(entry->d_name, first, 8) == 0 &&
            strcmp(entry->d_name, first) >= 0)
            rc = copy_into(folder, entry->d_name, to, err);
    if (dir != NULL)
        (void)closedir(dir);
    free(folder);
    return rc;
}

/*
 * "servers diverged at WAL location 0/5000098 on timeline 1" to the name of the segment of 16 MB, the only
 * size that initdb here makes. False: pg_rewind did not say where, as when there is nothing to rewind.
 */
static bool divergence(const char *said, char first[25])
{
    static const char before[] = "diverged at WAL location ";
    const char *at = said != NULL ? strstr(said, before) : NULL;
    unsigned high, low, timeline;
    if (at == NULL || strstr(said, "no rewind required") != NULL ||
        sscanf(at + sizeof before - 1, "%X/%X on timeline %u", &high, &low, &timeline) != 3)
        return false;
    (void)snprintf(first, 25, "%08X%08X%08X", timeline, high, low >> 24);
    return true;
}

static char *keep_path(const struct member_job *job)
{
    return mem_printf("%s.kept/term-%llu", job->o.data, (unsigned long long)job->order.term);
}

static int said_write(const struct member_job *job, struct err *err)
{
    char *to = keep_path(job), *said = mem_printf("%s/pg_rewind.log", to);
    struct buf text = {0};
    (void)buf_add_text(&text, job->keep);
    int rc = agent_file_write(said, &text, err);
    buf_free(&text);
    free(said);
    free(to);
    return rc;
}

static int keep(const struct member_job *job, const char *first, struct err *err)
{
    char *all = mem_printf("%s.kept", job->o.data), *to = keep_path(job),
         *control = mem_printf("%s/global", job->o.data);
    int rc = (mkdir(all, 0700) != 0 && errno != EEXIST) || (mkdir(to, 0700) != 0 && errno != EEXIST)
                 ? err_set_errno(err, errno, "cannot make %s", to)
                 : 0;
    if (rc == 0)
        rc = copy_into(control, "pg_control", to, err);
    if (rc == 0)
        rc = wal_keep(&job->o, first, to, err);
    if (rc == 0)
        rc = said_write(job, err);
    if (rc == 0)
        log_event(LOG_WARN, "writes that no other has are kept aside before the rewind", "path", to, NULL);
    free(all);
    free(to);
    free(control);
    return rc;
}

/* What it says once it has read our log back to where it begins. What a dry run does after that takes as long
 * as the rewind: it asks for every file, and throws it away. */
static const char look_ends[] = "rewinding from last common checkpoint";

static void rewind_start(struct member *m, bool dry, process_cb ended)
{
    struct err err = {0};
    char *name = member_program(m, "pg_rewind"), *directory = mem_printf("--target-pgdata=%s", m->o.data);
    char *conninfo = member_conninfo(&m->o, &m->job.order, "postgres");
    char *from = mem_printf("--source-server=%s", conninfo);
    const char *const argv[] = {name, directory, from, dry ? "--dry-run" : "--debug", NULL};
    if (member_helper_start(m, argv, dry ? look_ends : NULL, ended, &err) != 0)
        member_fail(m, &err);
    free(name);
    free(directory);
    free(conninfo);
    free(from);
}

/* What it said now names each file that it changed. */
static void rewound_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    char first[25];
    if (marks_save(job->o.data, &job->marks, &job->err) == 0 && divergence(job->keep, first))
        (void)said_write(job, &job->err);
    control_read(job->o.data, &job->control);
}

static void said(struct member *m, const struct process_result *result)
{
    free(m->job.keep);
    m->job.keep = mem_strndup(result->errors, result->errors_length);
}

static void rewind_ended(const struct process_result *result, void *data)
{
    struct member *m = data;
    if (result->err.code != ERRC_NONE || result->exit_code != 0) {
        program_failed(m, result, "pg_rewind");
        return;
    }
    said(m, result);
    m->marks.primary = m->marks.rewinding = false;
    m->marks.rewound = m->job.order.term;
    member_job_start(m, MEMBER_REWINDING, rewound_run, rewound);
}

static void keep_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    char first[25];
    if (divergence(job->keep, first))
        (void)keep(job, first, &job->err);
}

static void mark_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    job->marks.rewinding = true;
    (void)marks_save(job->o.data, &job->marks, &job->err);
}

/* From here on it is let end, whatever is ordered: what does not end has to be cloned. */
static void marked(struct member *m)
{
    m->marks = m->job.marks;
    step_begins(m, MEMBER_REWIND_REWIND);
    rewind_start(m, false, rewind_ended);
}

static void kept(struct member *m)
{
    if (m->orders != m->job_orders || m->ending)
        member_settle(m, MEMBER_STOPPED);
    else
        member_job_start(m, MEMBER_REWINDING, mark_run, marked);
}

/* Where the histories part. */
static void dry_ended(const struct process_result *result, void *data)
{
    struct member *m = data;
    struct err err = {0};
    if (result->err.code != ERRC_NONE || (result->exit_code != 0 && !result->enough)) {
        program_failed(m, result, "pg_rewind --dry-run");
        return;
    }
    if (strstr(result->errors, "on the same timeline") != NULL) {
        (void)err_set(
            &err, ERRC_CONFLICT,
            "the upstream's pg_control tells the timeline of this data: it was not promoted, or its "
            "first checkpoint since is not over, and a rewind would do nothing");
        member_fail(m, &err);
        return;
    }
    said(m, result);
    step_begins(m, MEMBER_REWIND_KEEP);
    member_job_start(m, MEMBER_REWINDING, keep_run, kept);
}

static void look(struct member *m)
{
    step_begins(m, MEMBER_REWIND_LOOK);
    rewind_start(m, true, dry_ended);
}

static void recovered(const struct process_result *result, void *data)
{
    struct member *m = data;
    if (result->err.code != ERRC_NONE || result->exit_code != 0)
        program_failed(m, result, "recovery in single-user mode");
    else
        look(m);
}

/*
 * pg_rewind wants a server that was shut down; this is what it would do for that, but not in a dry run. Also
 * for one that ran as a primary and was stopped while it recovered as a standby: its pg_control then names a
 * point below the end of its log, pg_rewind may find that there is nothing to do, and the rest, which no
 * other has, would be replayed again.
 */
static void recover(struct member *m)
{
    struct err err = {0};
    char *name = member_program(m, "postgres");
    const char *const argv[] = {name, "--single", "-F", "-D", m->o.data, "template1", NULL};
    if (member_helper_start(m, argv, NULL, recovered, &err) != 0)
        member_fail(m, &err);
    free(name);
}

static void rewind_prepare_run(struct work *work)
{
    struct member *m = work->data;
    struct member_job *job = &m->job;
    if (member_configure(job, false, &job->err) == 0 && standby_signal_remove(&job->o, &job->err) == 0)
        control_read(job->o.data, &job->control);
}

static void rewind_prepared(struct member *m)
{
    uint32_t state = m->job.control.state;
    if (m->orders != m->job_orders || m->ending)
        member_settle(m, MEMBER_STOPPED);
    else if (state == CONTROL_SHUT || (state == CONTROL_SHUT_STANDBY && !m->marks.primary))
        look(m);
    else
        recover(m);
}

void member_rewind(struct member *m)
{
    step_begins(m, MEMBER_REWIND_RECOVER);
    member_job_start(m, MEMBER_REWINDING, rewind_prepare_run, rewind_prepared);
}
