/*
 * runtime_list(): the containers with our label, then on a worker what is known of the instances; and
 * runtime_podman_check(): who answers at the socket.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "loop/work.h"
#include "runtime/local.h"
#include "runtime/podman_impl.h"

#define CHECK_NS (5 * ENV_NS_PER_S)

/* ---- list ---- */

/*
 * BEGIN --> ENGINE --> FILES --> OVER
 *
 * BEGIN waits for the end of the turn. ENGINE waits for the list of containers, FILES for the worker that
 * reads the directory: an instance without a container is one, too, which can be made again on its volume.
 */
enum { BEGIN, ENGINE, FILES, OVER, STATES };

static const struct sm_state states[STATES] = {
    [BEGIN] = {"begin", SM_NEXT(ENGINE) | SM_NEXT(OVER), false},
    [ENGINE] = {"engine", SM_NEXT(FILES) | SM_NEXT(OVER), false},
    [FILES] = {"files", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

struct list_op {
    struct podman_op op; /* first */
    struct sm sm;
    struct work work;
    char **running; /* names of instances whose containers run */
    int running_count;
    struct local_record *records;
    int count;
    struct err err;
    runtime_list_cb cb;
    void *data;
};

static bool runs(const struct list_op *l, const char *name)
{
    for (int i = 0; i < l->running_count; i++)
        if (strcmp(l->running[i], name) == 0)
            return true;
    return false;
}

static void list_over(struct list_op *l)
{
    bool failed = l->err.code != ERRC_NONE;
    struct runtime_instance *views = mem_array((size_t)l->count + 1, sizeof *views);
    for (int i = 0; i < l->count; i++)
        podman_instance_view(&l->records[i], runs(l, l->records[i].name), &views[i]);
    sm_move(&l->sm, OVER);
    l->cb(failed ? &l->err : NULL, failed ? NULL : views, failed ? 0 : l->count, l->data);
    podman_op_end(&l->op);
    for (int i = 0; i < l->count; i++)
        local_record_clear(&l->records[i]);
    for (int i = 0; i < l->running_count; i++)
        free(l->running[i]);
    free((void *)l->running);
    free(l->records);
    free(views);
    free(l);
}

static void files_run(struct work *work)
{
    struct list_op *l = work->data;
    const char *directory = l->op.podman->directory;
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    if (dir == NULL)
        err_set_errno(&l->err, errno, "cannot read %s", directory);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        struct local_record record = {0};
        if (!text_is_name(entry->d_name) || local_record_load(directory, entry->d_name, &record, NULL) != 0)
            continue;
        if (record.creating) {
            local_record_clear(&record);
            continue;
        }
        l->records = mem_resize(l->records, (size_t)l->count + 1, sizeof *l->records);
        l->records[l->count++] = record;
    }
    if (dir != NULL)
        closedir(dir);
}

static void files_done(struct work *work, int code)
{
    struct list_op *l = work->data;
    if (code != 0 || l->op.canceled)
        err_set(&l->err, ERRC_CANCELED, "the runtime was closed");
    list_over(l);
}

static void on_containers(struct podman_op *op, const struct podman_answer *answer)
{
    struct list_op *l = (struct list_op *)op;
    yyjson_val *one;
    size_t at, n;
    struct podman_container c;
    if (podman_answer_check(answer, 0, "list the containers", &l->err) != 0) {
        list_over(l);
        return;
    }
    if (!yyjson_is_arr(answer->root)) {
        err_set(&l->err, ERRC_PROTOCOL, "the engine's list of containers is no list");
        list_over(l);
        return;
    }
    l->running = mem_array(yyjson_arr_size(answer->root) + 1, sizeof *l->running);
    yyjson_arr_foreach(answer->root, at, n, one)
    {
        if (podman_listed_parse(one, &c) && c.running && strcmp(c.directory, op->podman->directory) == 0)
            l->running[l->running_count++] = mem_strdup(c.instance);
    }
    sm_move(&l->sm, FILES);
    if (work_start(op->podman->loop, &l->work, files_run, files_done, l) == 0)
        return;
    err_set(&l->err, ERRC_INTERNAL, "no worker for the list of instances");
    list_over(l);
}

static void list_start(struct podman_op *op)
{
    struct list_op *l = (struct list_op *)op;
    char *filters = podman_filters(op->podman->directory);
    const struct podman_request r = {.method = "GET",
                                     .path = mem_printf("/containers/json?all=true&%s", filters)};
    free(filters);
    sm_move(&l->sm, ENGINE);
    if (op->canceled)
        err_set(&l->err, ERRC_CANCELED, "the runtime was closed");
    if (op->canceled) {
        free(r.path);
        list_over(l);
    } else if (podman_op_call(op, &r, on_containers, &l->err) != 0) {
        list_over(l);
    }
}

int podman_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err)
{
    struct podman *p = (struct podman *)rt;
    if (p->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    struct list_op *l = mem_zalloc(sizeof *l);
    l->cb = cb;
    l->data = data;
    sm_init(&l->sm, states, STATES, BEGIN, NULL, NULL);
    podman_op_add(p, &l->op, "", list_start, NULL);
    return 0;
}

/* ---- check ---- */

struct check_op {
    struct podman_op op; /* first */
    struct podman_engine engine;
    struct err err;
    runtime_podman_check_cb cb;
    void *data;
};

static void check_over(struct check_op *c)
{
    bool failed = c->err.code != ERRC_NONE;
    c->cb(failed ? &c->err : NULL, c->engine.name[0] != '\0' ? c->engine.name : NULL, c->data);
    podman_op_end(&c->op);
    free(c);
}

static void on_image(struct podman_op *op, const struct podman_answer *answer)
{
    struct check_op *c = (struct check_op *)op;
    if (podman_answer_check(answer, 404, "look for the image", &c->err) == 0 && answer->status == 404)
        podman_image_missing(op->podman, &c->err);
    check_over(c);
}

static void on_version(struct podman_op *op, const struct podman_answer *answer)
{
    struct check_op *c = (struct check_op *)op;
    if (podman_answer_check(answer, 0, "ask for the version", &c->err) != 0 ||
        podman_engine_parse(answer->root, &c->engine, &c->err) != 0) {
        err_wrap(&c->err,
                 "no container engine at %s (start it, podman with `systemctl enable --now "
                 "podman.socket`, or name another with runtime.podman_socket)",
                 op->podman->socket);
        check_over(c);
        return;
    }
    op->podman->minor = c->engine.minor;
    const struct podman_request r = {
        .method = "GET", .path = mem_printf("/images/%s/json", op->podman->image), .timeout_ns = CHECK_NS};
    if (podman_op_call(op, &r, on_image, &c->err) != 0)
        check_over(c);
}

static void check_start(struct podman_op *op)
{
    struct check_op *c = (struct check_op *)op;
    const struct podman_request r = {
        .method = "GET", .path = mem_strdup("/version"), .unversioned = true, .timeout_ns = CHECK_NS};
    if (op->canceled)
        err_set(&c->err, ERRC_CANCELED, "the runtime was closed");
    if (op->canceled || podman_op_call(op, &r, on_version, &c->err) != 0)
        check_over(c);
}

int runtime_podman_check(struct runtime *rt, runtime_podman_check_cb cb, void *data, struct err *err)
{
    struct podman *p = (struct podman *)rt;
    if (p->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    struct check_op *c = mem_zalloc(sizeof *c);
    c->cb = cb;
    c->data = data;
    podman_op_add(p, &c->op, "", check_start, NULL);
    return 0;
}
