/*
 * Happy path: uv_spawn, both outputs reach EOF, the child exits, the handles close, the callback runs.
 * The child leads a session and a process group of its own, so that a signal reaches its children too.
 */
#include "loop/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/sm.h"

#define CAPTURE_DEFAULT (1024u * 1024)
#define TERM_GRACE_NS   (2 * ENV_NS_PER_S)
#define DRAIN_GRACE_NS  (1 * ENV_NS_PER_S)

/*
 *   RUNNING ----exit----> DRAINING --both EOF, or 1 s--> CLOSING --last close callback--> DONE
 *     | |                  ^    ^
 *     | +--deadline--> TERMINATING --2 s--> KILLED --exit--> DRAINING
 *     +-------cancel----------------------> KILLED
 *
 * RUNNING waits for the exit, woken by it, by the deadline, by process_cancel() or by what it says (enough).
 * TERMINATING (SIGTERM sent) waits for the exit, woken by it, by its timer or by process_cancel().
 * KILLED (SIGKILL sent) waits for the exit.
 * DRAINING (exited) waits for EOF of the outputs, which a grandchild may hold open; its timer ends that.
 * CLOSING waits for the close callbacks of all handles.
 */
enum { RUNNING, TERMINATING, KILLED, DRAINING, CLOSING, DONE, STATES };

static const struct sm_state states[STATES] = {
    [RUNNING] = {"running", SM_NEXT(TERMINATING) | SM_NEXT(KILLED) | SM_NEXT(DRAINING) | SM_NEXT(CLOSING),
                 false},
    [TERMINATING] = {"terminating", SM_NEXT(KILLED) | SM_NEXT(DRAINING) | SM_NEXT(CLOSING), false},
    [KILLED] = {"killed", SM_NEXT(DRAINING), false},
    [DRAINING] = {"draining", SM_NEXT(CLOSING), false},
    [CLOSING] = {"closing", SM_NEXT(DONE), false},
    [DONE] = {"done", 0, true},
};

struct output {
    uv_pipe_t pipe;
    struct process *process;
    struct buf kept;
};

struct process {
    struct loop *loop;
    struct sm sm;
    struct loop_timer timer;
    uv_process_t uv;
    uv_pipe_t input_pipe;
    uv_write_t input_write;
    char *input;
    size_t input_length;
    struct output out;
    struct output errors;
    int outputs_open; /* captured outputs without EOF yet */
    int handles;      /* whose close callback is still to come */
    char *name;
    const char *enough;
    struct process_result result;
    process_cb cb;
    process_output_cb output_cb;
    void *data;
    void *output_data;
    char chunk[16384];
};

static void process_free(struct process *p)
{
    loop_timer_stop(&p->timer);
    buf_free(&p->out.kept);
    buf_free(&p->errors.kept);
    if (p->input != NULL)
        explicit_bzero(p->input, p->input_length);
    free(p->input);
    free(p->name);
    free(p);
}

/* ---- the end ---- */

static void complete(struct process *p)
{
    sm_move(&p->sm, DONE);
    struct process_result *r = &p->result;
    r->out = buf_text(&p->out.kept);
    r->out_length = p->out.kept.length;
    r->errors = buf_text(&p->errors.kept);
    r->errors_length = p->errors.kept.length;
    p->cb(r, p->data);
    process_free(p);
}

static void on_closed(uv_handle_t *handle)
{
    struct process *p = handle->data;
    p->loop->handles--;
    if (--p->handles > 0)
        return;
    if (sm_now(&p->sm) == CLOSING)
        complete(p);
    else
        process_free(p); /* the start failed and its caller knows */
}

static void handle_close(uv_handle_t *handle)
{
    if (handle->data != NULL && !uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void close_all(struct process *p)
{
    handle_close((uv_handle_t *)&p->uv);
    handle_close((uv_handle_t *)&p->input_pipe);
    handle_close((uv_handle_t *)&p->out.pipe);
    handle_close((uv_handle_t *)&p->errors.pipe);
}

static void enter_closing(struct process *p)
{
    loop_timer_stop(&p->timer);
    sm_move(&p->sm, CLOSING);
    close_all(p);
}

static void enter_draining(struct process *p)
{
    sm_move(&p->sm, DRAINING);
    loop_timer_stop(&p->timer);
    if (p->outputs_open == 0)
        enter_closing(p);
    else
        loop_timer_start(&p->timer, DRAIN_GRACE_NS);
}

/* ---- ending the child ---- */

static void signal_group(struct process *p, int number)
{
    if (kill(-p->uv.pid, number) != 0)
        (void)kill(p->uv.pid, number);
}

static void enter_terminating(struct process *p)
{
    sm_move(&p->sm, TERMINATING);
    err_set(&p->result.err, ERRC_TIMEOUT, "%s: did not end in time", p->name);
    signal_group(p, SIGTERM);
    loop_timer_start(&p->timer, TERM_GRACE_NS);
}

static void enter_killed(struct process *p)
{
    sm_move(&p->sm, KILLED);
    loop_timer_stop(&p->timer);
    signal_group(p, SIGKILL);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct process *p = data;
    switch (sm_now(&p->sm)) {
    case RUNNING:
        enter_terminating(p);
        break;
    case TERMINATING:
        enter_killed(p);
        break;
    case DRAINING:
        enter_closing(p);
        break;
    default:
        break;
    }
}

static void on_exit_seen(uv_process_t *uv, int64_t exit_status, int term_signal)
{
    struct process *p = uv->data;
    (void)loop_now(p->loop);
    p->result.exit_code = term_signal != 0 ? -1 : (int)exit_status;
    p->result.term_signal = term_signal;
    if (sm_now(&p->sm) == CLOSING)
        return;
    /* it is over for the whole group: what ignored SIGTERM would else live on */
    if (sm_now(&p->sm) == TERMINATING)
        (void)kill(-uv->pid, SIGKILL);
    enter_draining(p);
}

/* ---- outputs and input ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct process *p = handle->data;
    *buf = uv_buf_init(p->chunk, sizeof p->chunk);
}

static void errors_look(struct process *p)
{
    const char *at = p->enough != NULL ? strstr(buf_text(&p->errors.kept), p->enough) : NULL;
    if (at == NULL || strchr(at, '\n') == NULL || sm_now(&p->sm) != RUNNING)
        return;
    p->result.enough = true;
    enter_killed(p);
}

static void output_add(struct output *o, const char *bytes, size_t length)
{
    struct process *p = o->process;
    if (o == &p->out && p->output_cb != NULL) {
        p->output_cb(bytes, length, p->output_data);
        return;
    }
    size_t room = o->kept.limit - o->kept.length;
    if (length > room) {
        p->result.truncated = true;
        length = room;
    }
    buf_add(&o->kept, bytes, length);
    if (o == &p->errors)
        errors_look(p);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct process *p = stream->data;
    (void)loop_now(p->loop);
    struct output *o = stream == (uv_stream_t *)&p->out.pipe ? &p->out : &p->errors;
    if (n > 0) {
        output_add(o, buf->base, (size_t)n);
        return;
    }
    if (n == 0)
        return;
    handle_close((uv_handle_t *)&o->pipe); /* EOF, or an error that ends it as well */
    p->outputs_open--;
    if (p->outputs_open == 0 && sm_now(&p->sm) == DRAINING)
        enter_closing(p);
}

static void on_input_written(uv_write_t *write, int status)
{
    (void)status; /* a child may end without reading everything */
    struct process *p = write->data;
    handle_close((uv_handle_t *)&p->input_pipe);
}

static void handle_opened(struct process *p, uv_handle_t *handle)
{
    handle->data = p;
    p->handles++;
    p->loop->handles++;
}

static void pipe_open(struct process *p, uv_pipe_t *pipe)
{
    uv_pipe_init(&p->loop->uv, pipe, 0);
    handle_opened(p, (uv_handle_t *)pipe);
}

static void input_send(struct process *p)
{
    uv_buf_t buf = uv_buf_init(p->input, (unsigned)p->input_length);
    p->input_write.data = p;
    if (uv_write(&p->input_write, (uv_stream_t *)&p->input_pipe, &buf, 1, on_input_written) != 0)
        handle_close((uv_handle_t *)&p->input_pipe);
}

static void output_read(struct process *p, struct output *o)
{
    if (uv_read_start((uv_stream_t *)&o->pipe, on_alloc, on_read) == 0)
        p->outputs_open++;
}

/* ---- start ---- */

static bool same_name(const char *a, const char *b)
{
    size_t n = strcspn(a, "=");
    return strncmp(a, b, n) == 0 && b[n] == '=';
}

/* Our environment with the child's additions, NULL-terminated; free() each text and the array. */
static char **environment_make(const char *const *added)
{
    uv_env_item_t *ours = NULL;
    int count = 0;
    if (uv_os_environ(&ours, &count) != 0)
        count = 0;
    size_t additions = 0;
    while (added[additions] != NULL)
        additions++;
    char **result = mem_array((size_t)count + additions + 1, sizeof *result);
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        char *pair = mem_printf("%s=%s", ours[i].name, ours[i].value);
        bool replaced = false;
        for (size_t k = 0; k < additions && !replaced; k++)
            replaced = same_name(added[k], pair);
        if (replaced)
            free(pair);
        else
            result[used++] = pair;
    }
    for (size_t k = 0; k < additions; k++)
        result[used++] = mem_strdup(added[k]);
    if (count > 0)
        uv_os_free_environ(ours, count);
    return result;
}

static void environment_free(char **environment)
{
    for (char **pair = environment; pair != NULL && *pair != NULL; pair++)
        mem_wipe_free(*pair);
    free((void *)environment);
}

static char **arguments_copy(const char *const *argv)
{
    size_t n = 0;
    while (argv[n] != NULL)
        n++;
    char **copy = mem_array(n + 1, sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = mem_strdup(argv[i]);
    return copy;
}

static void stdio_prepare(struct process *p, int output_fd, uv_stdio_container_t io[3])
{
    memset(io, 0, 3 * sizeof io[0]); /* zero is UV_IGNORE: /dev/null */
    if (p->input != NULL) {
        pipe_open(p, &p->input_pipe);
        io[0].flags = UV_CREATE_PIPE | UV_READABLE_PIPE;
        io[0].data.stream = (uv_stream_t *)&p->input_pipe;
    }
    if (output_fd >= 0) {
        io[1].flags = io[2].flags = UV_INHERIT_FD;
        io[1].data.fd = io[2].data.fd = output_fd;
        return;
    }
    struct output *outputs[2] = {&p->out, &p->errors};
    for (int i = 0; i < 2; i++) {
        pipe_open(p, &outputs[i]->pipe);
        io[i + 1].flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE;
        io[i + 1].data.stream = (uv_stream_t *)&outputs[i]->pipe;
    }
}

static int spawn(struct process *p, const struct process_options *o, int output_fd)
{
    uv_stdio_container_t io[3];
    stdio_prepare(p, output_fd, io);
    char **argv = arguments_copy(o->argv);
    char **environment = o->env != NULL ? environment_make(o->env) : NULL;
    uv_process_options_t uv = {
        .exit_cb = on_exit_seen,
        .file = argv[0],
        .args = argv,
        .env = environment,
        .cwd = o->directory,
        .flags = UV_PROCESS_DETACHED | (o->uid != 0 ? UV_PROCESS_SETUID | UV_PROCESS_SETGID : 0u),
        .stdio_count = 3,
        .stdio = io,
        .uid = o->uid,
        .gid = o->gid,
    };
    int rc = uv_spawn(&p->loop->uv, &p->uv, &uv);
    handle_opened(p, (uv_handle_t *)&p->uv);
    environment_free(environment);
    environment_free(argv);
    return rc;
}

static struct process *process_new(struct loop *loop, const struct process_options *o, process_cb cb,
                                   void *data)
{
    struct process *p = mem_zalloc(sizeof *p);
    p->loop = loop;
    p->cb = cb;
    p->data = data;
    p->name = mem_strdup(o->argv[0]);
    p->enough = o->enough;
    p->result.exit_code = -1;
    p->out.process = p->errors.process = p;
    p->out.kept.limit = p->errors.kept.limit = o->capture_limit > 0 ? o->capture_limit : CAPTURE_DEFAULT;
    sm_init(&p->sm, states, STATES, RUNNING, NULL, p);
    loop_timer_init(loop, &p->timer, on_timer, p);
    if (o->input != NULL) {
        p->input = mem_alloc(o->input_length + 1);
        memcpy(p->input, o->input, o->input_length);
        p->input_length = o->input_length;
    }
    return p;
}

static int output_file_open(const struct process_options *o, int *ret, struct err *err)
{
    if (o->output_ours) {
        *ret = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        return *ret >= 0 ? 0 : err_set_errno(err, errno, "cannot share our stderr");
    }
    if (o->output_path == NULL)
        return 0;
    /* no symbolic links: as root we may be writing into another user's directory */
    *ret = open(o->output_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
    return *ret >= 0 ? 0 : err_set_errno(err, errno, "cannot open %s", o->output_path);
}

int process_start(struct loop *loop, const struct process_options *o, process_cb cb, void *data,
                  struct process **ret, struct err *err)
{
    if (o->argv == NULL || o->argv[0] == NULL)
        return err_set(err, ERRC_INVALID, "no program to run");
    int output_fd = -1;
    int code = output_file_open(o, &output_fd, err);
    if (code != 0)
        return code;
    struct process *p = process_new(loop, o, cb, data);
    int rc = spawn(p, o, output_fd);
    if (output_fd >= 0)
        close(output_fd);
    if (rc != 0) {
        close_all(p);
        code = rc == UV_ENOENT ? ERRC_NOT_FOUND : ERRC_IO;
        return err_set(err, (enum err_code)code, "cannot run %s: %s", o->argv[0], uv_strerror(rc));
    }
    if (p->input != NULL)
        input_send(p);
    if (output_fd < 0) {
        output_read(p, &p->out);
        output_read(p, &p->errors);
    }
    if (o->timeout_ns > 0)
        loop_timer_start(&p->timer, o->timeout_ns);
    if (ret != NULL)
        *ret = p;
    return 0;
}

void process_on_output(struct process *p, process_output_cb cb, void *data)
{
    p->output_cb = cb;
    p->output_data = data;
}

pid_t process_pid(const struct process *p)
{
    return p->uv.pid;
}

int process_signal(struct process *p, int number)
{
    if (sm_now(&p->sm) >= DRAINING)
        return ERRC_NOT_FOUND;
    return kill(p->uv.pid, number) == 0 ? 0 : ERRC_IO;
}

void process_cancel(struct process *p)
{
    int state = sm_now(&p->sm);
    assert(state != DONE);
    err_set(&p->result.err, ERRC_CANCELED, "%s: canceled", p->name);
    if (state == RUNNING || state == TERMINATING)
        enter_killed(p);
    else if (state == DRAINING)
        enter_closing(p);
}

void process_release(struct process *p)
{
    int state = sm_now(&p->sm);
    if (state != RUNNING && state != TERMINATING)
        return;
    err_set(&p->result.err, ERRC_CANCELED, "%s: left running", p->name);
    enter_closing(p);
}

/* ---- texts ---- */

/* The last line that is not blank, or "". */
static const char *last_line(const char *text, size_t length, int *ret_length)
{
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' ' || text[length - 1] == '\r'))
        length--;
    size_t start = length;
    while (start > 0 && text[start - 1] != '\n')
        start--;
    *ret_length = (int)(length - start < 300 ? length - start : 300);
    return text + start;
}

void process_describe(const struct process_result *r, const char *name, struct err *err)
{
    if (r->err.code != ERRC_NONE) {
        err_copy(err, &r->err);
        return;
    }
    int n = 0;
    const char *line = last_line(r->errors, r->errors_length, &n);
    const char *separator = n > 0 ? ": " : "";
    if (r->term_signal != 0)
        err_set(err, ERRC_IO, "%s was ended by signal %d%s%.*s", name, r->term_signal, separator, n, line);
    else
        err_set(err, ERRC_IO, "%s exited with %d%s%.*s", name, r->exit_code, separator, n, line);
}
