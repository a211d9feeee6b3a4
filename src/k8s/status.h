/*
 * status: what an answer of the API server that is no success means for the one who asked.
 *
 * Errors come as HTTP statuses, as Status objects in the body of such an answer, as plain text (429), and as
 * ERROR events in a watch that began with 200. Code and reason decide, never the text.
 */
#ifndef K8S_STATUS_H
#define K8S_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum k8s_fault {
    K8S_FAULT_NONE,
    K8S_FAULT_EXPIRED,      /* 410: the resource version or continue token is too old */
    K8S_FAULT_TOO_LARGE_RV, /* 504: the server has not seen this version yet, and perhaps never will */
    K8S_FAULT_BUSY,         /* 429: come back later */
    K8S_FAULT_UNAUTHORIZED, /* 401 */
    K8S_FAULT_FORBIDDEN,    /* 403 */
    K8S_FAULT_NOT_FOUND,    /* 404 */
    K8S_FAULT_EXISTS,       /* 409 AlreadyExists */
    K8S_FAULT_CONFLICT,     /* 409 */
    K8S_FAULT_INVALID,      /* 400, 422 and other 4xx: asking again cannot help */
    K8S_FAULT_SERVER,       /* 5xx */
    K8S_FAULT_MAX
};

#define K8S_CAUSES_MAX 16

struct k8s_cause {
    char reason[40];
    char field[200];
    char message[240];
};

struct k8s_status {
    enum k8s_fault fault;
    int code;
    char reason[64];
    char message[400];
    uint64_t retry_after_ns; /* what details.retryAfterSeconds or the header say; 0 = nothing */
    unsigned cause_count;
    struct k8s_cause causes[K8S_CAUSES_MAX]; /* more are dropped */
};

struct yyjson_val;

/*
 * From an answer with an HTTP status of 300 and more; the body may be a Status object, other text, or empty.
 * retry_after: the header's value or NULL; only whole seconds count (the server sends nothing else).
 */
void k8s_status_from_answer(int http_status, const char *body, size_t length, const char *retry_after,
                            struct k8s_status *ret);

/* From the object of an ERROR event. */
void k8s_status_from_object(struct yyjson_val *object, struct k8s_status *ret);

/* "403 Forbidden: pods is forbidden: ...", with what the caller wanted to do in front. */
int k8s_status_error(const struct k8s_status *status, struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
