/* Free space of an instance's disks, asked on a worker: a network's file system may take its time. */
#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "base/mem.h"
#include "runtime/local.h"

struct space_op {
    struct local_op op;
    struct work work;
    char *name;
    struct runtime_space space;
    struct err err;
    runtime_space_cb cb;
    void *data;
};

static int free_of(const struct space_op *s, const char *folder, uint64_t *ret, struct err *err)
{
    struct statvfs fs;
    char *path = local_path(s->op.local->directory, "", s->name, folder);
    int rc = 0;
    if (statvfs(path, &fs) == 0)
        *ret = (uint64_t)fs.f_bavail * fs.f_frsize;
    else if (errno == ENOENT || errno == ENOTDIR)
        rc = err_set(err, ERRC_NOT_FOUND, "no instance %s is here", s->name);
    else
        rc = err_set_errno(err, errno, "cannot see the free space of %s", path);
    free(path);
    return rc;
}

static void space_run(struct work *work)
{
    struct space_op *s = work->data;
    struct err none = {0};
    if (free_of(s, "data", &s->space.data_free, &none) == 0)
        (void)free_of(s, "data/pg_wal", &s->space.wal_free, &s->err);
    else if (free_of(s, "member", &s->space.data_free, &s->err) == 0 && /* where its data will be */
             free_of(s, "member/data/pg_wal", &s->space.wal_free, &none) == ERRC_NOT_FOUND)
        s->space.wal_free = s->space.data_free;
}

static void space_answer(struct space_op *s)
{
    bool failed = s->err.code != ERRC_NONE;
    s->cb(failed ? &s->err : NULL, failed ? NULL : &s->space, s->data);
    free(s->name);
    local_op_end(&s->op);
    free(s);
}

static void space_done(struct work *work, int code)
{
    struct space_op *s = work->data;
    if (code != 0 || s->op.canceled)
        err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
    space_answer(s);
}

static void space_start(struct local_op *op)
{
    struct space_op *s = list_item(op, struct space_op, op);
    if (op->canceled)
        err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
    else if (work_start(op->local->loop, &s->work, space_run, space_done, s) == 0)
        return;
    else
        err_set(&s->err, ERRC_INTERNAL, "no worker for the free space of %s", s->name);
    space_answer(s);
}

static void space_cancel(struct local_op *op)
{
    work_cancel(&list_item(op, struct space_op, op)->work);
}

int local_space(struct runtime *rt, const char *name, runtime_space_cb cb, void *data, struct err *err)
{
    struct local *local = list_item(rt, struct local, base);
    if (local->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    struct space_op *s = mem_zalloc(sizeof *s);
    s->name = mem_strdup(name);
    s->cb = cb;
    s->data = data;
    local_op_add(local, &s->op, NULL, space_start, space_cancel);
    return 0;
}
