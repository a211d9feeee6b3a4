/* runtime_stop() and runtime_remove(). */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/sm.h"
#include "runtime/podman_impl.h"

/*
 * stop:    BEGIN --> LOOK --> STOP --> OVER
 * remove:  BEGIN --> WIPE --> OVER
 *
 * BEGIN waits for earlier operations on the instance. LOOK waits for what the engine says of the container,
 * STOP for it to have stopped. WIPE waits for podman_wipe.
 */
enum { BEGIN, LOOK, STOP, WIPE, OVER, STATES };

static const struct sm_state states[STATES] = {
    [BEGIN] = {"begin", SM_NEXT(LOOK) | SM_NEXT(WIPE) | SM_NEXT(OVER), false},
    [LOOK] = {"look", SM_NEXT(STOP) | SM_NEXT(OVER), false},
    [STOP] = {"stop", SM_NEXT(OVER), false},
    [WIPE] = {"wipe", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

struct stop_op {
    struct podman_op op; /* first */
    struct sm sm;
    struct podman_wipe wipe;
    bool removing;
    struct err err;
    runtime_done_cb cb;
    void *data;
};

static void stop_over(struct stop_op *s)
{
    bool failed = s->err.code != ERRC_NONE;
    if (failed)
        err_wrap(&s->err, "%s instance %s", s->removing ? "remove" : "stop", s->op.name);
    sm_move(&s->sm, OVER);
    s->cb(failed ? &s->err : NULL, s->data);
    podman_op_end(&s->op);
    free(s);
}

static void on_wiped(struct podman_op *op, const struct err *err)
{
    struct stop_op *s = (struct stop_op *)op;
    if (err != NULL)
        err_copy(&s->err, err);
    stop_over(s);
}

static void on_stopped(struct podman_op *op, const struct podman_answer *answer)
{
    struct stop_op *s = (struct stop_op *)op;
    if (podman_answer_check(answer, 404, "stop the container", &s->err) != 0 && answer->status == 304)
        err_clear(&s->err); /* it was not running */
    stop_over(s);
}

static void on_container(struct podman_op *op, const struct podman_answer *answer)
{
    struct stop_op *s = (struct stop_op *)op;
    struct podman_container c;
    bool ours;
    bool there = podman_container_look(op->podman, answer, &c, &ours, &s->err);
    if (!there || !ours) { /* a failure is in s->err; what is not ours is not our instance */
        stop_over(s);
        return;
    }
    sm_move(&s->sm, STOP);
    const struct podman_request r = {
        .method = "POST", .path = podman_path(op, "containers", "/stop?t=75"), .timeout_ns = PODMAN_WORK_NS};
    if (podman_op_call(op, &r, on_stopped, &s->err) != 0)
        stop_over(s);
}

static void stop_start(struct podman_op *op)
{
    struct stop_op *s = (struct stop_op *)op;
    if (op->canceled) {
        err_set(&s->err, ERRC_CANCELED, "the runtime was closed");
        stop_over(s);
    } else if (s->removing) {
        sm_move(&s->sm, WIPE);
        podman_wipe_start(&s->wipe, op, on_wiped);
    } else {
        const struct podman_request r = {.method = "GET", .path = podman_path(op, "containers", "/json")};
        sm_move(&s->sm, LOOK);
        if (podman_op_call(op, &r, on_container, &s->err) != 0)
            stop_over(s);
    }
}

static int begin(struct runtime *rt, const char *name, bool removing, runtime_done_cb cb, void *data,
                 struct err *err)
{
    struct podman *p = (struct podman *)rt;
    if (p->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    struct stop_op *s = mem_zalloc(sizeof *s);
    s->removing = removing;
    s->cb = cb;
    s->data = data;
    sm_init(&s->sm, states, STATES, BEGIN, NULL, NULL);
    podman_op_add(p, &s->op, name, stop_start, NULL);
    return 0;
}

int podman_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    return begin(rt, name, false, cb, data, err);
}

int podman_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    return begin(rt, name, true, cb, data, err);
}
