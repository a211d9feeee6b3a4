#include "runtime/podman.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/local.h"
#include "runtime/podman_impl.h"

#define API_MINOR 41

/* ---- the queue of operations ---- */

static bool name_is_busy(const struct podman *p, const struct podman_op *op)
{
    list_each(node, &p->ops)
    {
        const struct podman_op *other = list_item(node, struct podman_op, node);
        if (other == op)
            return false;
        if (strcmp(other->name, op->name) == 0)
            return true;
    }
    return false;
}

static void op_run(struct loop_task *task, void *data)
{
    struct podman_op *op = data;
    (void)task;
    op->started = true;
    op->start(op);
}

void podman_op_add(struct podman *p, struct podman_op *op, const char *name,
                   void (*start)(struct podman_op *), void (*cancel)(struct podman_op *))
{
    op->podman = p;
    op->name = mem_strdup(name);
    op->start = start;
    op->cancel = cancel;
    op->task = (struct loop_task){.run = op_run, .data = op};
    list_append(&p->ops, &op->node);
    if (name[0] == '\0' || !name_is_busy(p, op))
        loop_defer(p->loop, &op->task);
}

void podman_op_end(struct podman_op *op)
{
    struct podman *p = op->podman;
    list_remove(&op->node);
    list_each(node, &p->ops)
    {
        struct podman_op *next = list_item(node, struct podman_op, node);
        if (next->started || strcmp(next->name, op->name) != 0)
            continue;
        loop_defer(p->loop, &next->task); /* nothing if it is queued already */
        break;
    }
    free(op->name);
    if (p->closing && list_empty(&p->ops))
        loop_defer(p->loop, &p->settle);
}

/* ---- requests ---- */

static void op_answered(const struct http_answer *http, void *data)
{
    struct podman_op *op = data;
    yyjson_doc *doc = http->err == NULL ? yyjson_read(http->body, http->body_length, 0) : NULL;
    const struct podman_answer answer = {.err = http->err,
                                         .status = http->status,
                                         .body = http->body,
                                         .length = http->body_length,
                                         .root = yyjson_doc_get_root(doc)};
    op->call = NULL;
    op->answered(op, &answer);
    yyjson_doc_free(doc);
}

int podman_op_call(struct podman_op *op, const struct podman_request *r, podman_answer_cb cb, struct err *err)
{
    struct podman *p = op->podman;
    const struct http_header type = {"Content-Type",
                                     r->content_type != NULL ? r->content_type : "application/json"};
    char version[16];
    snprintf(version, sizeof version, "/v1.%u", p->minor);
    char *url = mem_printf("http://localhost%s%s", r->unversioned ? "" : version, r->path);
    const struct http_call_options o = {.method = r->method,
                                        .url = url,
                                        .headers = &type,
                                        .header_count = r->body != NULL ? 1 : 0,
                                        .body = r->body,
                                        .body_length = r->length != 0    ? r->length
                                                       : r->body != NULL ? strlen(r->body)
                                                                         : 0,
                                        .timeout_ns = r->timeout_ns != 0 ? r->timeout_ns : PODMAN_ASK_NS,
                                        .body_limit = PODMAN_ANSWER_LIMIT};
    op->answered = cb;
    int rc = http_call_start(p->http, &o, op_answered, op, &op->call, err);
    free(url);
    free(r->path);
    return rc;
}

char *podman_path(const struct podman_op *op, const char *collection, const char *rest)
{
    char *name = podman_name(op->name), *path = mem_printf("/%s/%s%s", collection, name, rest);
    free(name);
    return path;
}

int podman_answer_check(const struct podman_answer *answer, int also, const char *what, struct err *err)
{
    if (answer->err != NULL) {
        (void)err_copy(err, answer->err);
        return err_wrap(err, "%s", what);
    }
    if ((answer->status >= 200 && answer->status < 300) || (also != 0 && answer->status == also))
        return 0;
    return podman_error(err, what, answer->status, answer->body, answer->length);
}

bool podman_container_look(struct podman *p, const struct podman_answer *answer, struct podman_container *ret,
                           bool *ours, struct err *err)
{
    *ours = false;
    if (podman_answer_check(answer, 404, "inspect the container", err) != 0 || answer->status == 404 ||
        podman_container_parse(answer->root, ret, err) != 0)
        return false;
    *ours = strcmp(ret->directory, p->directory) == 0;
    return true;
}

struct podman_wanted podman_wanted(const struct podman *p, const char *instance, const char *database,
                                   const char *shard, int port)
{
    return (struct podman_wanted){.instance = instance,
                                  .database = database,
                                  .shard = shard,
                                  .directory = p->directory,
                                  .image = p->image,
                                  .network = p->network,
                                  .address = p->address,
                                  .port = port,
                                  .memory_bytes = p->options.memory_bytes,
                                  .cpus = p->options.cpus,
                                  .pids = p->options.pids,
                                  .ulimits = p->ulimits};
}

int podman_image_missing(const struct podman *p, struct err *err)
{
    return err_set(err, ERRC_UNSUPPORTED,
                   "image %s is not there at %s: build it (podman build -f deploy/Containerfile -t %s .), or "
                   "name another with runtime.image; images are not pulled",
                   p->image, p->socket, p->image);
}

void podman_instance_view(const struct local_record *record, bool running, struct runtime_instance *ret)
{
    local_instance_view(record, NULL, ret);
    ret->pid = running ? 1 : 0; /* its number in the container */
}

/* ---- open and close ---- */

static void podman_free(struct podman *p)
{
    pthread_mutex_destroy(&p->ports);
    free(p->directory);
    free(p->socket);
    free(p->image);
    free(p->network);
    free(p->address);
    free(p->ulimits);
    free(p);
}

static void on_http_closed(void *data)
{
    struct podman *p = data;
    void (*closed)(void *) = p->closed;
    void *closed_data = p->closed_data;
    podman_free(p);
    if (closed != NULL)
        closed(closed_data);
}

static void on_settled(struct loop_task *task, void *data)
{
    struct podman *p = data;
    (void)task;
    http_client_close(p->http, on_http_closed, p);
}

static void op_cancel(struct podman_op *op)
{
    op->canceled = true;
    if (!op->started)
        loop_defer(op->podman->loop, &op->task); /* answers at once */
    else if (op->cancel != NULL)
        op->cancel(op);
    else if (op->call != NULL)
        http_call_cancel(op->call);
}

static void podman_close(struct runtime *rt, void (*closed)(void *), void *data)
{
    struct podman *p = (struct podman *)rt;
    if (p->closing)
        return;
    p->closing = true;
    p->closed = closed;
    p->closed_data = data;
    list_each(node, &p->ops) op_cancel(list_item(node, struct podman_op, node));
    if (list_empty(&p->ops))
        loop_defer(p->loop, &p->settle);
}

static const struct runtime_backend backend = {
    .kind = "podman",
    .ensure = podman_ensure,
    .stop = podman_stop,
    .remove = podman_remove,
    .list = podman_list,
    .close = podman_close,
};

static const struct runtime_backend backend_docker = {
    .kind = "docker",
    .ensure = podman_ensure,
    .stop = podman_stop,
    .remove = podman_remove,
    .list = podman_list,
    .close = podman_close,
};

static int address_check(const struct runtime_podman_options *o, struct err *err)
{
    unsigned char bytes[16];
    const char *address = o->address != NULL ? o->address : LOCAL_ADDRESS;
    bool host = o->network == NULL || strcmp(o->network, PODMAN_NETWORK) == 0;
    if (inet_pton(AF_INET, address, bytes) != 1 && inet_pton(AF_INET6, address, bytes) != 1)
        return err_set(err, ERRC_INVALID, "\"%s\" is not an address: give numbers, such as 127.0.0.1",
                       address);
    if (strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0)
        return err_set(err, ERRC_INVALID, "%s is every address: name the one that clients use", address);
    if (!host && (text_starts_with(address, "127.") || strcmp(address, "::1") == 0))
        return err_set(err, ERRC_INVALID,
                       "containers in the network \"%s\" do not reach %s, so that shards could not copy from "
                       "each other: set runtime.address to an address of this machine that they reach, or "
                       "runtime.podman_network to host",
                       o->network, address);
    return 0;
}

static int options_check(const struct runtime_podman_options *o, struct err *err)
{
    if (o->directory == NULL || o->directory[0] == '\0')
        return err_set(err, ERRC_INVALID, "no directory for the instances");
    const char *socket = text_starts_with(o->socket, "unix://") ? o->socket + strlen("unix://") : o->socket;
    if (socket[0] != '/')
        return err_set(err, ERRC_INVALID, "runtime.podman_socket: \"%s\" is no path of a Unix socket",
                       o->socket);
    if (o->first_port < 0 || o->first_port > 65535)
        return err_set(err, ERRC_INVALID, "%d is not a port", o->first_port);
    int rc = podman_image_check(o->image, err);
    if (rc == 0)
        rc = podman_ulimits_check(o->ulimits, err);
    return rc == 0 ? address_check(o, err) : rc;
}

/* As a label, the directory has to have one name. */
static int directory_make(const char *path, char **ret, struct err *err)
{
    char real[PATH_MAX];
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "cannot create %s", path);
    if (realpath(path, real) == NULL)
        return err_set_errno(err, errno, "cannot use %s", path);
    *ret = mem_strdup(real);
    return 0;
}

static void options_copy(struct podman *p, const struct runtime_podman_options *o)
{
    const char *socket = o->socket;
    p->options = *o;
    p->options.first_port = o->first_port != 0 ? o->first_port : LOCAL_FIRST_PORT;
    p->options.socket = p->socket =
        mem_strdup(text_starts_with(socket, "unix://") ? socket + strlen("unix://") : socket);
    p->options.image = p->image = mem_strdup(o->image);
    p->options.network = p->network = mem_strdup(o->network != NULL ? o->network : PODMAN_NETWORK);
    p->options.address = p->address = mem_strdup(o->address != NULL ? o->address : LOCAL_ADDRESS);
    p->options.ulimits = p->ulimits = mem_strdup(o->ulimits);
    p->options.directory = p->directory;
}

int runtime_podman_open(struct loop *loop, const struct runtime_podman_options *o, struct runtime **ret,
                        struct err *err)
{
    char *directory = NULL;
    int rc = options_check(o, err);
    if (rc == 0)
        rc = directory_make(o->directory, &directory, err);
    if (rc != 0)
        return rc;
    struct podman *p = mem_zalloc(sizeof *p);
    p->base.backend = o->docker ? &backend_docker : &backend;
    p->loop = loop;
    p->directory = directory;
    p->minor = API_MINOR;
    options_copy(p, o);
    pthread_mutex_init(&p->ports, NULL);
    p->http = http_client_new(loop, NULL);
    http_client_set_socket(p->http, p->socket);
    p->settle = (struct loop_task){.run = on_settled, .data = p};
    list_init(&p->ops);
    *ret = &p->base;
    return 0;
}
