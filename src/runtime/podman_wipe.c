#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/local.h"
#include "runtime/podman_impl.h"

/*
 * Inspect the container, delete it if it is ours; inspect the volume, delete it if it is ours; delete the
 * files on a worker. Each step's callback starts the next one.
 */

static void wipe_end(struct podman_op *op, const struct err *err)
{
    struct podman_wipe *w = op->wipe;
    op->wipe = NULL;
    w->done(op, err);
}

static void wipe_call(struct podman_op *op, const struct podman_request *r, podman_answer_cb cb)
{
    if (podman_op_call(op, r, cb, &op->wipe->err) != 0)
        wipe_end(op, &op->wipe->err);
}

/* ---- files ---- */

static void files_run(struct work *work)
{
    struct podman_wipe *w = work->data;
    const char *directory = w->op->podman->directory, *name = w->op->name;
    struct local_record record = {0};
    char *path = local_path(directory, "", name, NULL);
    char *old = local_path(directory, ".old-", name, NULL);
    char *new = local_path(directory, ".new-", name, NULL);
    int rc = local_record_load(directory, name, &record, &w->err);
    if (rc == ERRC_NOT_FOUND || rc == ERRC_CORRUPT) /* the latter: ours, and unreadable */
        err_clear(&w->err);
    if (rc == 0 || rc == ERRC_CORRUPT) {
        /* aside first: a half-deleted directory must not look like an instance */
        if (local_tree_delete(old, &w->err) == 0 && rename(path, old) != 0)
            err_set_errno(&w->err, errno, "cannot move %s aside", path);
        else
            (void)local_directory_sync(directory, &w->err);
    }
    if (w->err.code == ERRC_NONE && local_tree_delete(new, &w->err) == 0)
        (void)local_tree_delete(old, &w->err);
    local_record_clear(&record);
    free(path);
    free(old);
    free(new);
}

static void files_done(struct work *work, int code)
{
    struct podman_wipe *w = work->data;
    if (code != 0)
        err_set(&w->err, ERRC_CANCELED, "the runtime was closed");
    wipe_end(w->op, w->err.code != ERRC_NONE ? &w->err : NULL);
}

static void wipe_files(struct podman_op *op)
{
    if (work_start(op->podman->loop, &op->wipe->work, files_run, files_done, op->wipe) == 0)
        return;
    err_set(&op->wipe->err, ERRC_INTERNAL, "no worker");
    wipe_end(op, &op->wipe->err);
}

/* ---- volume ---- */

static void on_volume_deleted(struct podman_op *op, const struct podman_answer *answer)
{
    if (podman_answer_check(answer, 404, "delete the volume", &op->wipe->err) != 0)
        wipe_end(op, &op->wipe->err);
    else
        wipe_files(op);
}

static void on_volume(struct podman_op *op, const struct podman_answer *answer)
{
    if (podman_answer_check(answer, 404, "inspect the volume", &op->wipe->err) != 0) {
        wipe_end(op, &op->wipe->err);
        return;
    }
    if (answer->status == 404 || strcmp(podman_volume_directory(answer->root), op->podman->directory) != 0) {
        wipe_files(op);
        return;
    }
    const struct podman_request r = {
        .method = "DELETE", .path = podman_path(op, "volumes", ""), .timeout_ns = PODMAN_WORK_NS};
    wipe_call(op, &r, on_volume_deleted);
}

static void wipe_volume(struct podman_op *op)
{
    const struct podman_request r = {.method = "GET", .path = podman_path(op, "volumes", "")};
    wipe_call(op, &r, on_volume);
}

/* ---- container ---- */

static void on_container_deleted(struct podman_op *op, const struct podman_answer *answer)
{
    if (podman_answer_check(answer, 404, "delete the container", &op->wipe->err) != 0)
        wipe_end(op, &op->wipe->err);
    else
        wipe_volume(op);
}

static void on_container(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_container c;
    bool ours;
    bool there = podman_container_look(op->podman, answer, &c, &ours, &op->wipe->err);
    if (op->wipe->err.code != ERRC_NONE) {
        wipe_end(op, &op->wipe->err);
        return;
    }
    if (!there || !ours) {
        wipe_volume(op);
        return;
    }
    const struct podman_request r = {.method = "DELETE",
                                     .path = podman_path(op, "containers", "?force=true&v=true"),
                                     .timeout_ns = PODMAN_WORK_NS};
    wipe_call(op, &r, on_container_deleted);
}

void podman_wipe_start(struct podman_wipe *w, struct podman_op *op,
                       void (*done)(struct podman_op *op, const struct err *err))
{
    const struct podman_request r = {.method = "GET", .path = podman_path(op, "containers", "/json")};
    *w = (struct podman_wipe){.op = op, .done = done};
    op->wipe = w;
    wipe_call(op, &r, on_container);
}
