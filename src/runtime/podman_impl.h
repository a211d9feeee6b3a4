/*
 * podman_impl: what the files of the container back end share. Not for other folders.
 *
 * A call on the runtime is a podman_op. It owns at most one request at a time; whoever cancels it gets the
 * request's callback first. Calls on one instance run one after the other. Files are touched on workers only.
 */
#ifndef RUNTIME_PODMAN_IMPL_H
#define RUNTIME_PODMAN_IMPL_H

#include <pthread.h>
#include <stdbool.h>

#include "base/list.h"
#include "http/http_client.h"
#include "loop/work.h"
#include "runtime/podman.h"
#include "runtime/podman_wire.h"

#define PODMAN_SUPERUSER    "shardherd"
#define PODMAN_ASK_NS       (30 * ENV_NS_PER_S)
#define PODMAN_WORK_NS      (120 * ENV_NS_PER_S) /* copying an image's root, stopping a server */
#define PODMAN_ANSWER_LIMIT (4u * 1024u * 1024u)

struct yyjson_doc;
struct yyjson_val;

struct podman {
    struct runtime base; /* first */
    struct loop *loop;
    struct runtime_podman_options options; /* its texts are the next ones */
    char *directory, *socket, *image, *network, *address, *ulimits;
    unsigned minor; /* of the API */
    struct http_client *http;
    pthread_mutex_t ports; /* held by the worker job that picks a port, until it is in instance.json */
    struct list ops;
    struct loop_task settle; /* closes the client when nothing is left */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- operations ---- */

struct podman_op;
struct podman_wipe;

struct podman_answer {
    const struct err *err; /* NULL = the engine answered, whatever the status */
    int status;
    const char *body;
    size_t length;
    struct yyjson_val *root; /* of a JSON body, or NULL; valid during the callback */
};
typedef void (*podman_answer_cb)(struct podman_op *op, const struct podman_answer *answer);

struct podman_op {
    struct list node;
    struct podman *podman;
    char *name; /* of the instance; "" = of none (list, check) */
    bool started, canceled;
    void (*start)(struct podman_op *op);  /* its turn has come (or, if canceled: answer now) */
    void (*cancel)(struct podman_op *op); /* interrupt what is not op->call; may be NULL */
    struct loop_task task;
    struct http_call *call;
    podman_answer_cb answered;
    struct podman_wipe *wipe; /* while one runs */
};

void podman_op_add(struct podman *p, struct podman_op *op, const char *name,
                   void (*start)(struct podman_op *), void (*cancel)(struct podman_op *));
/* Call the user's callback after it, then free the operation. */
void podman_op_end(struct podman_op *op);

struct podman_request {
    const char *method;
    char *path;               /* after "/v1.41"; freed by the call, whatever comes of it */
    bool unversioned;         /* without "/v1.41" */
    const char *content_type; /* NULL = JSON, if there is a body */
    const char *body;
    size_t length; /* 0 = that of the text */
    uint64_t timeout_ns;
};
/* A canceled operation may go on asking: what it began has to be undone. */
int podman_op_call(struct podman_op *op, const struct podman_request *request, podman_answer_cb cb,
                   struct err *err);

/* "/containers/shardherd-NAME<rest>" of the operation's instance. */
char *podman_path(const struct podman_op *op, const char *collection, const char *rest);

/* 0 if the status is one of success, or `also`; else the error: that of the call, or the engine's. */
int podman_answer_check(const struct podman_answer *answer, int also, const char *what, struct err *err);

/* Answer to inspecting: false = it does not exist, or cannot be asked (err). `ours` false: leave it alone. */
bool podman_container_look(struct podman *p, const struct podman_answer *answer, struct podman_container *ret,
                           bool *ours, struct err *err);

/* What the options want of this instance; the texts are borrowed. */
struct podman_wanted podman_wanted(const struct podman *p, const char *instance, const char *database,
                                   const char *shard, int port);

/* ERRC_UNSUPPORTED with the remedy. */
int podman_image_missing(const struct podman *p, struct err *err);

/* ---- taking away (podman_wipe.c) ---- */

/*
 * Removes container, volume and files of the operation's instance, in this order, so that what a crash leaves
 * is still known. What is not ours stays. Embed it; `done` comes once.
 */
struct podman_wipe {
    struct podman_op *op;
    struct work work;
    struct err err;
    void (*done)(struct podman_op *op, const struct err *err);
};
void podman_wipe_start(struct podman_wipe *wipe, struct podman_op *op,
                       void (*done)(struct podman_op *op, const struct err *err));

/* ---- the calls ---- */

int podman_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                  struct err *err);
int podman_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
int podman_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
int podman_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err);

/* What callers get to see; points into record. */
struct local_record;
void podman_instance_view(const struct local_record *record, bool running, struct runtime_instance *ret);

#endif
