/*
 * client: requests to one API server, as one identity.
 *
 * Adds the authorization (rule K18: a 401 makes it read anew and try once more), waits and repeats as
 * client-go does (rule K12: 429 and 5xx with Retry-After, any verb, at most 10 times; 5xx without it never
 * for a write), and turns every failure into an err that says what was asked for. When trust or certificate
 * change on disk, new requests get new connections, and those made with the old ones go with what runs on
 * them (rule K19).
 */
#ifndef K8S_CLIENT_H
#define K8S_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "k8s/reflector.h"
#include "k8s/status.h"
#include "loop/loop.h"

struct k8s_access;
struct k8s_client;
struct k8s_call;

/* Takes access over. */
struct k8s_client *k8s_client_new(struct loop *loop, struct k8s_access *access);
/* Running calls and watches must have ended or been canceled; their callbacks come. `closed` runs last. */
void k8s_client_close(struct k8s_client *client, void (*closed)(void *data), void *data);

const struct k8s_access *k8s_client_access(const struct k8s_client *client);
/* What this server has shown about watch-lists. */
struct reflector_server *k8s_client_server(struct k8s_client *client);
struct loop *k8s_client_loop(const struct k8s_client *client);

struct k8s_request {
    const char *method;       /* "GET" */
    const char *path;         /* "/api/v1/namespaces/x/pods", encoded */
    const char *query;        /* without '?', encoded; NULL = none */
    const char *accept;       /* NULL = application/json */
    const char *content_type; /* of the body; NULL = application/json */
    const char *body;         /* copied; NULL = none */
    size_t body_length;
    uint64_t timeout_ns; /* of each try; 0 = 30 s */
    size_t body_limit;   /* of the answer; 0 = 16 MiB */
    bool once;           /* no second try but after a 401 */
};

struct k8s_answer {
    const struct err *err;           /* NULL = 2xx */
    const struct k8s_status *status; /* of an answer that is no 2xx; NULL when there was none at all */
    int http_status;                 /* 0 when there was none */
    const char *body;                /* NUL-terminated */
    size_t body_length;
};

typedef void (*k8s_answer_cb)(const struct k8s_answer *answer, void *data);

int k8s_call_start(struct k8s_client *client, const struct k8s_request *request, k8s_answer_cb cb, void *data,
                   struct k8s_call **ret, struct err *err);
void k8s_call_cancel(struct k8s_call *call);

/* ---- answers without end ---- */

struct k8s_stream_user {
    void (*head)(int http_status, const char *retry_after, void *data);
    void (*data)(const char *bytes, size_t length, void *data);
    void (*end)(const struct err *err, void *data); /* once, last; also after a cancel */
};

struct k8s_stream;
/* A GET that is read piece by piece; tried once. timeout_ns: UINT64_MAX = none. */
int k8s_stream_start(struct k8s_client *client, const struct k8s_request *request,
                     const struct k8s_stream_user *user, void *data, struct k8s_stream **ret,
                     struct err *err);
void k8s_stream_cancel(struct k8s_stream *stream);
/* From head or data: reads of the answer are so far apart, see loop/stream.h; 0 = off. */
void k8s_stream_gather(struct k8s_stream *stream, uint64_t pause_ns);

#endif
