#include "runtime/podman_ensure.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/mem.h"

#define NEW_NS   (180 * ENV_NS_PER_S) /* initdb and the first start */
#define START_NS (60 * ENV_NS_PER_S)
#define WATCH_NS (1 * ENV_NS_PER_S)

/*
 *  QUEUED --> LOOK --+--whole---> INSPECT --+--runs-------------------------------> LOGIN --> COMMIT --> DONE
 *                    |                      +--stopped, as wanted-----> FILES --> START ----^
 *                    |                      +--stopped, not as wanted-> DROP --> IMAGE
 *                    |                      +--no container-----------> IMAGE
 *                    +--absent----> INSPECT --> IMAGE
 *                    +--half-made-> WIPE --> INSPECT
 *
 *  IMAGE --> VOLUME --+--new-----> PREPARE --> MAKE --> ROOM --> CREATE --> FILES
 *                     +--whole-------------------------------------^
 *  any failure --> [LOGS -->] (made by this operation? UNDO -->) DONE
 *
 * QUEUED waits for earlier operations on the instance.
 * LOOK, PREPARE, ROOM, COMMIT wait for a worker.
 * INSPECT, DROP (deleting the container), IMAGE, VOLUME (inspecting it), MAKE (the volume), CREATE, FILES
 *   (password and settings into the volume), START, LOGS wait for the engine.
 * LOGIN waits for kube_login; each second the container is looked at, whose end ends it.
 * WIPE and UNDO wait for podman_wipe.
 */
enum {
    QUEUED,
    LOOK,
    WIPE,
    INSPECT,
    DROP,
    IMAGE,
    VOLUME,
    PREPARE,
    MAKE,
    ROOM,
    CREATE,
    FILES,
    START,
    LOGIN,
    COMMIT,
    LOGS,
    UNDO,
    DONE,
    STATES
};

#define N(state) SM_NEXT(state)
#define FAILS    (N(LOGS) | N(UNDO) | N(DONE))
static const struct sm_state states[STATES] = {
    [QUEUED] = {"queued", N(LOOK) | N(DONE), false},
    [LOOK] = {"look", N(WIPE) | N(INSPECT) | FAILS, false},
    [WIPE] = {"wipe", N(INSPECT) | FAILS, false},
    [INSPECT] = {"inspect", N(LOGIN) | N(FILES) | N(DROP) | N(IMAGE) | FAILS, false},
    [DROP] = {"drop", N(IMAGE) | FAILS, false},
    [IMAGE] = {"image", N(VOLUME) | FAILS, false},
    [VOLUME] = {"volume", N(PREPARE) | N(CREATE) | FAILS, false},
    [PREPARE] = {"prepare", N(MAKE) | FAILS, false},
    [MAKE] = {"make", N(ROOM) | FAILS, false},
    [ROOM] = {"room", N(CREATE) | FAILS, false},
    [CREATE] = {"create", N(FILES) | FAILS, false},
    [FILES] = {"files", N(START) | FAILS, false},
    [START] = {"start", N(LOGIN) | FAILS, false},
    [LOGIN] = {"login", N(COMMIT) | FAILS, false},
    [COMMIT] = {"commit", FAILS, false},
    [LOGS] = {"logs", N(UNDO) | N(DONE), false},
    [UNDO] = {"undo", N(DONE), false},
    [DONE] = {"done", 0, true},
};
#undef N

/* ---- the end ---- */

static void ensure_free(struct podman_ensure *e)
{
    local_record_clear(&e->record);
    mem_wipe_free(e->owner_password);
    explicit_bzero(e->password, sizeof e->password);
    for (char **line = e->settings; line != NULL && *line != NULL; line++)
        free(*line);
    free((void *)e->settings);
    free(e->database);
    free(e->shard);
    free(e->owner);
    free(e);
}

static void finish(struct podman_ensure *e)
{
    struct runtime_instance view;
    sm_move(&e->sm, DONE);
    loop_timer_stop(&e->timer);
    if (e->err.code != ERRC_NONE) {
        err_wrap(&e->err, "instance %s", e->op.name);
        e->cb(&e->err, NULL, e->data);
    } else {
        podman_instance_view(&e->record, true, &view);
        e->cb(NULL, &view, e->data);
    }
    sm_fini(&e->sm);
    podman_op_end(&e->op);
    ensure_free(e);
}

/* What is left is marked "creating" and goes with the next attempt, or with a removal. */
static void on_undone(struct podman_op *op, const struct err *err)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    struct err both = {0};
    if (err != NULL) {
        err_set(&both, e->err.code, "%.250s; what was made could not be removed: %.180s", e->err.message,
                err->message);
        e->err = both;
    }
    finish(e);
}

/* One exit for every failure. The first error is the one that is told. */
static void fail(struct podman_ensure *e, const struct err *err)
{
    if (err != &e->err)
        err_copy(&e->err, err);
    loop_timer_stop(&e->timer);
    if (e->exists || !e->record.creating) {
        finish(e);
        return;
    }
    sm_move(&e->sm, UNDO);
    podman_wipe_start(&e->wipe, &e->op, on_undone);
}

static void fail_canceled(struct podman_ensure *e)
{
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "the runtime was closed");
    fail(e, &err);
}

/* ---- requests and jobs ---- */

static void call(struct podman_ensure *e, int state, const struct podman_request *r, podman_answer_cb cb)
{
    struct err err = {0};
    sm_move(&e->sm, state);
    if (podman_op_call(&e->op, r, cb, &err) != 0)
        fail(e, &err);
}

/* True if the engine did it and the operation goes on. */
static bool went_well(struct podman_ensure *e, const struct podman_answer *answer, int also, const char *what)
{
    struct err err = {0};
    if (e->op.canceled)
        fail_canceled(e);
    else if (podman_answer_check(answer, also, what, &err) != 0)
        fail(e, &err);
    else
        return true;
    return false;
}

static bool job_ended_well(struct podman_ensure *e, int code)
{
    if (code != 0 || e->op.canceled)
        fail_canceled(e);
    else if (e->job_err.code != ERRC_NONE)
        fail(e, &e->job_err);
    else
        return true;
    return false;
}

static void enter_job(struct podman_ensure *e, int state, void (*run)(struct work *),
                      void (*done)(struct work *, int))
{
    sm_move(&e->sm, state);
    err_clear(&e->job_err);
    if (work_start(e->op.podman->loop, &e->work, run, done, e) == 0)
        return;
    err_set(&e->job_err, ERRC_INTERNAL, "no worker");
    fail(e, &e->job_err);
}

/* ---- COMMIT, LOGS ---- */

static void commit_done(struct work *work, int code)
{
    struct podman_ensure *e = work->data;
    if (code == 0 && e->job_err.code == ERRC_NONE)
        finish(e); /* also when canceled meanwhile: the instance is whole */
    else
        (void)job_ended_well(e, code);
}

static void on_logs(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    char reason[300] = "";
    if (answer->err == NULL && answer->status == 200)
        podman_log_reason(answer->body, answer->length, reason, sizeof reason);
    if (reason[0] != '\0') {
        struct err told = {0};
        err_set(&told, e->err.code, "%.190s; its last words: %s", e->err.message, reason);
        e->err = told;
    }
    fail(e, &e->err);
}

/* Fails with what the container said last. */
static void fail_with_logs(struct podman_ensure *e, const struct err *err)
{
    struct err ignored = {0};
    const struct podman_request r = {
        .method = "GET", .path = podman_path(&e->op, "containers", "/logs?stdout=true&stderr=true&tail=50")};
    err_copy(&e->err, err);
    sm_move(&e->sm, LOGS);
    if (podman_op_call(&e->op, &r, on_logs, &ignored) != 0)
        fail(e, &e->err);
}

/* ---- LOGIN ---- */

static void after_login(struct podman_ensure *e)
{
    if (e->op.canceled)
        fail_canceled(e);
    else if (e->died.code != ERRC_NONE)
        fail_with_logs(e, &e->died);
    else if (e->login_err.code == ERRC_TIMEOUT)
        fail_with_logs(e, &e->login_err);
    else if (e->login_err.code != ERRC_NONE)
        fail(e, &e->login_err);
    else
        enter_job(e, COMMIT, podman_ensure_commit, commit_done);
}

static void on_login(struct kube_login *login, const struct err *err, void *data)
{
    struct podman_ensure *e = data;
    (void)login;
    e->login_over = true;
    loop_timer_stop(&e->timer);
    err_copy(&e->login_err, err);
    if (e->op.call != NULL)
        http_call_cancel(e->op.call); /* on_watched follows */
    else
        after_login(e);
}

static void look_at_container(struct podman_ensure *e, const struct podman_answer *answer)
{
    struct podman_container c;
    struct err err = {0};
    bool ours;
    if (!podman_container_look(e->op.podman, answer, &c, &ours, &err)) {
        if (answer->err == NULL && answer->status == 404)
            err_set(&e->died, ERRC_CONFLICT, "its container was deleted while it started");
        return; /* an engine that does not answer now says nothing about the server */
    }
    if (e->first_look)
        e->restarts = c.restarts;
    e->first_look = false;
    if (!c.running || c.restarts > e->restarts)
        err_set(&e->died, ERRC_IO, "its container ended with exit code %d%s%.100s", c.exit_code,
                c.error[0] != '\0' ? ": " : "", c.error);
}

static void on_watched(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (e->login_over) {
        after_login(e);
        return;
    }
    look_at_container(e, answer);
    if (e->died.code != ERRC_NONE)
        kube_login_cancel(&e->login);
    else
        loop_timer_start(&e->timer, WATCH_NS);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    struct podman_ensure *e = data;
    const struct podman_request r = {.method = "GET", .path = podman_path(&e->op, "containers", "/json")};
    if (podman_op_call(&e->op, &r, on_watched, NULL) != 0)
        loop_timer_start(timer, WATCH_NS);
}

static void enter_login(struct podman_ensure *e)
{
    sm_move(&e->sm, LOGIN);
    e->first_look = true;
    e->login.loop = e->op.podman->loop;
    e->login.target = (struct pg_target){.host = e->record.host,
                                         .port = e->record.port,
                                         .dbname = "postgres",
                                         .user = PODMAN_SUPERUSER,
                                         .password = e->record.password,
                                         .application_name = "shardherd",
                                         .connect_timeout_ns = 5 * ENV_NS_PER_S};
    e->login.database = e->database;
    e->login.owner = e->owner;
    e->login.owner_password = e->owner_password;
    e->login.deadline_ns = loop_now(e->op.podman->loop) + (e->exists ? START_NS : NEW_NS);
    e->login.done = on_login;
    e->login.data = e;
    kube_login_start(&e->login);
    loop_timer_start(&e->timer, WATCH_NS);
}

/* ---- FILES, START ---- */

static void on_started(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (went_well(e, answer, 304, "start the container"))
        enter_login(e);
}

static void on_files(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (!went_well(e, answer, 0, "put password and settings into the volume"))
        return;
    const struct podman_request r = {
        .method = "POST", .path = podman_path(op, "containers", "/start"), .timeout_ns = PODMAN_WORK_NS};
    call(e, START, &r, on_started);
}

/* The archive says whose the files are, by their number in the container: with copyUIDGID Docker looks the
 * name up outside of it. */
static void enter_files(struct podman_ensure *e)
{
    struct buf archive = {0}, settings = {0};
    char *password = mem_printf("%s\n", e->record.password);
    podman_settings(&settings, e->op.podman->options.memory_bytes, e->settings);
    const struct podman_file files[] = {{"password", password}, {"settings.conf", buf_text(&settings)}};
    podman_archive(&archive, PODMAN_FILES, files, 2, loop_wall(e->op.podman->loop));
    const struct podman_request r = {.method = "PUT",
                                     .path =
                                         podman_path(&e->op, "containers", "/archive?path=" PODMAN_VOLUME),
                                     .content_type = "application/x-tar",
                                     .body = archive.data,
                                     .length = archive.length,
                                     .timeout_ns = PODMAN_WORK_NS};
    call(e, FILES, &r, on_files);
    explicit_bzero(archive.data, archive.length);
    buf_free(&archive);
    buf_free(&settings);
    mem_wipe_free(password);
}

/* ---- CREATE ---- */

static void on_created(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (went_well(e, answer, 0, "create the container"))
        enter_files(e);
}

static void enter_create(struct podman_ensure *e)
{
    const struct podman_wanted wanted =
        podman_wanted(e->op.podman, e->op.name, e->database, e->shard, e->record.port);
    char *name = podman_name(e->op.name), *body = podman_container_body(&wanted);
    const struct podman_request r = {.method = "POST",
                                     .path = mem_printf("/containers/create?name=%s", name),
                                     .body = body,
                                     .timeout_ns = PODMAN_WORK_NS};
    call(e, CREATE, &r, on_created);
    free(name);
    free(body);
}

/* ---- VOLUME, PREPARE, MAKE, ROOM ---- */

static void room_done(struct work *work, int code)
{
    struct podman_ensure *e = work->data;
    if (job_ended_well(e, code))
        enter_create(e);
}

static void on_made(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (!went_well(e, answer, 0, "create the volume"))
        return;
    const char *path = podman_volume_path(answer->root);
    if (strlen(path) < sizeof e->volume_path)
        memcpy(e->volume_path, path, strlen(path) + 1);
    enter_job(e, ROOM, podman_ensure_room, room_done);
}

static void prepare_done(struct work *work, int code)
{
    struct podman_ensure *e = work->data;
    if (!job_ended_well(e, code))
        return;
    const struct podman_wanted wanted =
        podman_wanted(e->op.podman, e->op.name, e->database, e->shard, e->record.port);
    char *body = podman_volume_body(&wanted);
    const struct podman_request r = {.method = "POST", .path = mem_strdup("/volumes/create"), .body = body};
    call(e, MAKE, &r, on_made);
    free(body);
}

/* Rows may be in a volume: it is neither taken over without its password, nor made anew where it is gone. */
static void on_volume(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    struct err err = {0};
    if (!went_well(e, answer, 404, "inspect the volume"))
        return;
    bool there = answer->status != 404;
    if (there && strcmp(podman_volume_directory(answer->root), op->podman->directory) != 0)
        err_set(&err, ERRC_CONFLICT,
                "the volume shardherd-%s belongs to somebody else: choose another name, or remove it",
                op->name);
    else if (there && !e->exists)
        err_set(&err, ERRC_CORRUPT,
                "the volume shardherd-%s is there, but its password is not in %s: bring the file back, or "
                "remove the volume",
                op->name, op->podman->directory);
    else if (!there && e->exists)
        err_set(&err, ERRC_CORRUPT, "its volume shardherd-%s is gone: restore it, or remove the instance",
                op->name);
    if (err.code != ERRC_NONE)
        fail(e, &err);
    else if (e->exists)
        enter_create(e);
    else
        enter_job(e, PREPARE, podman_ensure_prepare, prepare_done);
}

/* ---- IMAGE, DROP ---- */

static void on_image(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    struct err err = {0};
    if (!went_well(e, answer, 404, "look for the image"))
        return;
    if (answer->status == 404) {
        podman_image_missing(op->podman, &err);
        fail(e, &err);
        return;
    }
    const struct podman_request r = {.method = "GET", .path = podman_path(op, "volumes", "")};
    call(e, VOLUME, &r, on_volume);
}

static void enter_image(struct podman_ensure *e)
{
    const struct podman_request r = {.method = "GET",
                                     .path = mem_printf("/images/%s/json", e->op.podman->image)};
    call(e, IMAGE, &r, on_image);
}

static void on_dropped(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (went_well(e, answer, 404, "delete the old container"))
        enter_image(e);
}

static void enter_drop(struct podman_ensure *e)
{
    const struct podman_request r = {.method = "DELETE",
                                     .path = podman_path(&e->op, "containers", "?v=true"),
                                     .timeout_ns = PODMAN_WORK_NS};
    call(e, DROP, &r, on_dropped);
}

/* ---- INSPECT ---- */

static bool as_wanted(const struct podman_ensure *e, const struct podman_container *c)
{
    char revision[17];
    const struct podman_wanted wanted =
        podman_wanted(e->op.podman, e->op.name, e->database, e->shard, e->record.port);
    podman_revision(&wanted, revision);
    return strcmp(c->revision, revision) == 0;
}

static void on_inspected(struct podman_op *op, const struct podman_answer *answer)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    struct podman_container c;
    struct err err = {0};
    bool ours, there = false;
    if (e->op.canceled)
        err_set(&err, ERRC_CANCELED, "the runtime was closed");
    else
        there = podman_container_look(op->podman, answer, &c, &ours, &err);
    if (there && !ours)
        err_set(&err, ERRC_CONFLICT,
                "the container shardherd-%s belongs to somebody else: choose another name, or remove it",
                op->name);
    else if (there && !e->exists)
        err_set(&err, ERRC_CORRUPT,
                "the container shardherd-%s is there, but its password is not in %s: bring the file back, or "
                "remove container and volume",
                op->name, op->podman->directory);
    else if (there && c.paused)
        err_set(&err, ERRC_CONFLICT, "its container is paused: `podman unpause shardherd-%s`", op->name);
    if (err.code != ERRC_NONE)
        fail(e, &err);
    else if (!there)
        enter_image(e);
    else if (c.running)
        enter_login(e);
    else if (as_wanted(e, &c))
        enter_files(e);
    else
        enter_drop(e);
}

static void enter_inspect(struct podman_ensure *e)
{
    const struct podman_request r = {.method = "GET", .path = podman_path(&e->op, "containers", "/json")};
    call(e, INSPECT, &r, on_inspected);
}

/* ---- LOOK, WIPE ---- */

static void on_wiped(struct podman_op *op, const struct err *err)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    local_record_clear(&e->record);
    if (e->op.canceled)
        fail_canceled(e);
    else if (err != NULL)
        fail(e, err);
    else
        enter_inspect(e);
}

static bool belongs(struct podman_ensure *e, struct err *err)
{
    const struct local_record *r = &e->record;
    if (!e->exists || (strcmp(r->database, e->database) == 0 && strcmp(r->shard, e->shard) == 0))
        return true;
    err_set(err, ERRC_CONFLICT, "it exists for database \"%s\", shard \"%s\": choose another name",
            r->database, r->shard);
    return false;
}

static void look_done(struct work *work, int code)
{
    struct podman_ensure *e = work->data;
    struct err err = {0};
    if (!job_ended_well(e, code))
        return;
    if (e->must_exist && !e->exists) {
        e->record.creating = false; /* nothing is ours to undo */
        err_set(&err, ERRC_NOT_FOUND, "there is no such instance");
        fail(e, &err);
    } else if (!belongs(e, &err)) {
        fail(e, &err);
    } else if (e->leftover && !e->exists) {
        sm_move(&e->sm, WIPE);
        podman_wipe_start(&e->wipe, &e->op, on_wiped);
    } else {
        enter_inspect(e);
    }
}

/* ---- begin ---- */

static void start(struct podman_op *op)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    if (op->canceled)
        fail_canceled(e);
    else
        enter_job(e, LOOK, podman_ensure_look, look_done);
}

/* Workers end by themselves and then see op->canceled. What is being undone is brought to its end. */
static void cancel(struct podman_op *op)
{
    struct podman_ensure *e = (struct podman_ensure *)op;
    int now = sm_now(&e->sm);
    if (now == LOGIN)
        kube_login_cancel(&e->login);
    else if (op->call != NULL && now != UNDO && now != WIPE)
        http_call_cancel(op->call);
}

static char **settings_copy(const char *const *settings)
{
    size_t count = 0;
    while (settings != NULL && settings[count] != NULL)
        count++;
    char **copy = mem_array(count + 1, sizeof *copy);
    for (size_t i = 0; i < count; i++)
        copy[i] = mem_strdup(settings[i]);
    return copy;
}

int podman_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                  struct err *err)
{
    struct podman *p = (struct podman *)rt;
    if (p->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    int rc = local_settings_check(spec->settings, err);
    if (rc != 0)
        return rc;
    struct podman_ensure *e = mem_zalloc(sizeof *e);
    e->database = mem_strdup(spec->database != NULL ? spec->database : "postgres");
    e->shard = mem_strdup(spec->shard != NULL ? spec->shard : "");
    e->owner = mem_strdup(spec->owner != NULL ? spec->owner : PODMAN_SUPERUSER);
    e->owner_password = spec->owner != NULL ? mem_strdup(spec->owner_password) : NULL;
    e->settings = settings_copy(spec->settings);
    e->min_free_bytes = spec->min_free_bytes != 0 ? spec->min_free_bytes : LOCAL_MIN_FREE;
    e->must_exist = spec->must_exist;
    env_random_text(p->loop->env, e->password, LOCAL_PASSWORD_LENGTH);
    e->cb = cb;
    e->data = data;
    sm_init(&e->sm, states, STATES, QUEUED, NULL, NULL);
    loop_timer_init(p->loop, &e->timer, on_timer, e);
    podman_op_add(p, &e->op, spec->name, start, cancel);
    return 0;
}
