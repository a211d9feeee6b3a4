#include "runtime/local.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/*
 * stop:    QUEUED --> LOOK --> HALT --> DONE
 * remove:  QUEUED --> LOOK --> HALT --> DELETE --> DONE
 *                      |                  ^ |
 *                      +----not running---+ +--processes left: HALT-less wait of 100 ms, then DELETE again
 *
 * QUEUED waits for earlier operations on the instance.
 * LOOK waits for a worker that reads instance.json.
 * HALT waits for the postmaster, or a member's agent, to end (local_halt).
 * DELETE waits for a worker that moves the directory aside and deletes it; while processes still work in it,
 * it waits for its timer and tries again.
 */
enum { QUEUED, LOOK, HALT, DELETE, DONE, STATES };

static const struct sm_state stop_states[STATES] = {
    [QUEUED] = {"queued", SM_NEXT(LOOK) | SM_NEXT(DONE), false},
    [LOOK] = {"look", SM_NEXT(HALT) | SM_NEXT(DONE), false},
    [HALT] = {"halt", SM_NEXT(DONE), false},
    [DELETE] = {"delete", 0, false},
    [DONE] = {"done", 0, true},
};

static const struct sm_state remove_states[STATES] = {
    [QUEUED] = {"queued", SM_NEXT(LOOK) | SM_NEXT(DONE), false},
    [LOOK] = {"look", SM_NEXT(HALT) | SM_NEXT(DELETE) | SM_NEXT(DONE), false},
    [HALT] = {"halt", SM_NEXT(DELETE) | SM_NEXT(DONE), false},
    [DELETE] = {"delete", SM_NEXT(DELETE) | SM_NEXT(DONE), false},
    [DONE] = {"done", 0, true},
};

#define ORPHAN_POLL_NS (100 * ENV_NS_PER_MS)
#define ORPHAN_TRIES   100

struct stop_op {
    struct local_op op;
    struct sm sm;
    struct work work;
    struct local_halt halt;
    struct loop_timer timer;
    struct local_record record;
    bool removing;
    int orphans;
    int tries;
    struct err err; /* of the job that ran, and in the end of the operation */
    runtime_done_cb cb;
    void *data;
};

static void finish(struct stop_op *s, const struct err *err)
{
    if (err != NULL && err != &s->err)
        err_copy(&s->err, err);
    if (s->err.code != ERRC_NONE)
        err_wrap(&s->err, "%s instance %s", s->removing ? "remove" : "stop", s->op.name);
    loop_timer_stop(&s->timer);
    sm_move(&s->sm, DONE);
    s->cb(s->err.code != ERRC_NONE ? &s->err : NULL, s->data);
    sm_fini(&s->sm);
    local_record_clear(&s->record);
    local_op_end(&s->op);
    free(s);
}

static void job(struct stop_op *s, void (*run)(struct work *), void (*done)(struct work *, int))
{
    if (work_start(s->op.local->loop, &s->work, run, done, s) == 0)
        return;
    err_set(&s->err, ERRC_INTERNAL, "no worker");
    finish(s, NULL);
}

/* ---- DELETE ---- */

static void delete_run(struct work *work)
{
    struct stop_op *s = work->data;
    const char *directory = s->op.local->directory;
    char *path = local_path(directory, "", s->op.name, NULL);
    char *old = local_path(directory, ".old-", s->op.name, NULL);
    char *new = local_path(directory, ".new-", s->op.name, NULL);
    char *data = local_data_path(directory, s->op.name, s->record.member);
    /* backends of a killed postmaster, or the initdb of a killed manager */
    int number = s->tries < LOCAL_TERM_TRIES ? SIGTERM : SIGKILL;
    s->orphans = s->record.name != NULL ? local_orphans(data, number) : 0;
    if (s->record.member)
        s->orphans += local_agent_strays(directory, s->op.name, number);
    int rc = s->orphans > 0 ? ERRC_CONFLICT : local_tree_delete(old, &s->err);
    if (rc == 0)
        rc = local_tree_delete(new, &s->err);
    if (rc == 0 && s->record.name != NULL) {
        if (rename(path, old) != 0)
            err_set_errno(&s->err, errno, "cannot move %s aside", path);
        else if (local_directory_sync(directory, &s->err) == 0)
            (void)local_tree_delete(old, &s->err);
    }
    free(path);
    free(old);
    free(new);
    free(data);
}

static void enter_delete(struct stop_op *s);

static void on_orphan_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    enter_delete(data);
}

static void delete_done(struct work *work, int code)
{
    struct stop_op *s = work->data;
    if (code != 0)
        err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
    else if (s->orphans > 0 && ++s->tries < ORPHAN_TRIES) {
        loop_timer_start(&s->timer, ORPHAN_POLL_NS);
        return;
    } else if (s->orphans > 0)
        err_set(&s->err, ERRC_TIMEOUT, "%d processes that work in its data directory do not end", s->orphans);
    finish(s, NULL);
}

static void enter_delete(struct stop_op *s)
{
    sm_move(&s->sm, DELETE);
    job(s, delete_run, delete_done);
}

/* ---- HALT ---- */

static void on_halted(struct local_halt *halt, const struct err *err, void *data)
{
    (void)halt;
    struct stop_op *s = data;
    if (err != NULL || !s->removing)
        finish(s, err);
    else
        enter_delete(s);
}

static bool has_agent(const struct stop_op *s)
{
    return s->record.agent_pid != 0 || s->record.watch_pid != 0;
}

static void enter_halt(struct stop_op *s)
{
    sm_move(&s->sm, HALT);
    char *data = local_data_path(s->op.local->directory, s->op.name, s->record.member);
    if (has_agent(s))
        local_halt_agent(&s->halt, s->op.local, &s->record, data, on_halted, s);
    else
        local_halt_start(&s->halt, s->op.local, s->record.pid, data, s->record.creating, s->removing,
                         on_halted, s);
    free(data);
}

/* ---- LOOK ---- */

static void look_run(struct work *work)
{
    struct stop_op *s = work->data;
    if (local_record_load(s->op.local->directory, s->op.name, &s->record, &s->err) == ERRC_NOT_FOUND)
        err_clear(&s->err);
    else if (s->record.member)
        local_agent_look(s->op.local->directory, &s->record);
}

static void look_done(struct work *work, int code)
{
    struct stop_op *s = work->data;
    if (code != 0 || s->op.canceled)
        err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
    if (s->err.code != ERRC_NONE)
        finish(s, NULL);
    else if (s->record.pid != 0 || has_agent(s))
        enter_halt(s);
    else if (s->removing)
        enter_delete(s); /* also what an interrupted removal left */
    else
        finish(s, NULL);
}

static void start(struct local_op *op)
{
    struct stop_op *s = list_item(op, struct stop_op, op);
    if (op->canceled) {
        err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
        finish(s, NULL);
        return;
    }
    sm_move(&s->sm, LOOK);
    job(s, look_run, look_done);
}

static void on_canceled(struct loop_task *task, void *data)
{
    (void)task;
    finish(list_item((struct local_op *)data, struct stop_op, op), NULL);
}

/* A deletion that has begun is brought to its end. */
static void cancel(struct local_op *op)
{
    struct stop_op *s = list_item(op, struct stop_op, op);
    if (sm_now(&s->sm) != HALT)
        return;
    local_halt_abandon(&s->halt);
    err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
    op->task.run = on_canceled;
    loop_defer(op->local->loop, &op->task);
}

static int begin(struct runtime *rt, const char *name, bool removing, runtime_done_cb cb, void *data,
                 struct err *err)
{
    struct local *local = list_item(rt, struct local, base);
    if (local->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    struct stop_op *s = mem_zalloc(sizeof *s);
    s->removing = removing;
    s->cb = cb;
    s->data = data;
    sm_init(&s->sm, removing ? remove_states : stop_states, STATES, QUEUED, NULL, NULL);
    loop_timer_init(local->loop, &s->timer, on_orphan_timer, s);
    local_op_add(local, &s->op, name, start, cancel);
    return 0;
}

int local_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    return begin(rt, name, false, cb, data, err);
}

int local_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    return begin(rt, name, true, cb, data, err);
}
