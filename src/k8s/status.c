#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yyjson.h>

#include "base/env.h"
#include "base/text.h"
#include "k8s/status.h"

static void copy_text(char *to, size_t size, yyjson_val *value)
{
    const char *text = yyjson_get_str(value);
    (void)snprintf(to, size, "%s", text != NULL ? text : "");
}

static bool has_cause(const struct k8s_status *s, const char *reason)
{
    for (unsigned i = 0; i < s->cause_count; i++) {
        if (strcmp(s->causes[i].reason, reason) == 0)
            return true;
    }
    return false;
}

static enum k8s_fault classify(const struct k8s_status *s)
{
    if (s->code == 410 || strcmp(s->reason, "Expired") == 0 || strcmp(s->reason, "Gone") == 0)
        return K8S_FAULT_EXPIRED;
    if (has_cause(s, "ResourceVersionTooLarge"))
        return K8S_FAULT_TOO_LARGE_RV;
    switch (s->code) {
    case 401:
        return K8S_FAULT_UNAUTHORIZED;
    case 403:
        return K8S_FAULT_FORBIDDEN;
    case 404:
        return K8S_FAULT_NOT_FOUND;
    case 409:
        return strcmp(s->reason, "AlreadyExists") == 0 ? K8S_FAULT_EXISTS : K8S_FAULT_CONFLICT;
    case 429:
        return K8S_FAULT_BUSY;
    default:
        return s->code >= 400 && s->code < 500 ? K8S_FAULT_INVALID : K8S_FAULT_SERVER;
    }
}

static void read_details(yyjson_val *details, struct k8s_status *ret)
{
    yyjson_val *seconds = yyjson_obj_get(details, "retryAfterSeconds");
    yyjson_val *causes = yyjson_obj_get(details, "causes");
    yyjson_val *cause;
    size_t i, n;
    if (yyjson_is_uint(seconds))
        ret->retry_after_ns = yyjson_get_uint(seconds) % 86400 * ENV_NS_PER_S;
    yyjson_arr_foreach(causes, i, n, cause)
    {
        if (ret->cause_count == K8S_CAUSES_MAX)
            break;
        struct k8s_cause *to = &ret->causes[ret->cause_count++];
        copy_text(to->reason, sizeof to->reason, yyjson_obj_get(cause, "reason"));
        copy_text(to->field, sizeof to->field, yyjson_obj_get(cause, "field"));
        copy_text(to->message, sizeof to->message, yyjson_obj_get(cause, "message"));
    }
}

static void read_object(yyjson_val *object, struct k8s_status *ret)
{
    yyjson_val *code = yyjson_obj_get(object, "code");
    if (yyjson_is_int(code))
        ret->code = yyjson_get_int(code);
    copy_text(ret->reason, sizeof ret->reason, yyjson_obj_get(object, "reason"));
    copy_text(ret->message, sizeof ret->message, yyjson_obj_get(object, "message"));
    read_details(yyjson_obj_get(object, "details"), ret);
}

void k8s_status_from_object(struct yyjson_val *object, struct k8s_status *ret)
{
    memset(ret, 0, sizeof *ret);
    read_object(object, ret);
    ret->fault = classify(ret);
}

/* One line of a text that somebody else wrote. */
static void copy_line(char *to, size_t size, const char *body, size_t length)
{
    size_t n = 0;
    while (n < length && n + 1 < size && (unsigned char)body[n] >= ' ') {
        to[n] = body[n];
        n++;
    }
    to[n] = '\0';
}

void k8s_status_from_answer(int http_status, const char *body, size_t length, const char *retry_after,
                            struct k8s_status *ret)
{
    uint64_t seconds;
    memset(ret, 0, sizeof *ret);
    ret->code = http_status;
    yyjson_doc *doc = length > 0 ? yyjson_read(body, length, 0) : NULL;
    yyjson_val *root = doc != NULL ? yyjson_doc_get_root(doc) : NULL;
    if (yyjson_equals_str(yyjson_obj_get(root, "kind"), "Status"))
        read_object(root, ret);
    else
        copy_line(ret->message, sizeof ret->message, body, length);
    yyjson_doc_free(doc);
    ret->code = http_status; /* a proxy's word counts more than what it passes on */
    if (retry_after != NULL && text_to_uint64(retry_after, &seconds))
        ret->retry_after_ns = seconds % 86400 * ENV_NS_PER_S;
    ret->fault = classify(ret);
}

static enum err_code error_code(enum k8s_fault fault)
{
    static const enum err_code codes[K8S_FAULT_MAX] = {
        [K8S_FAULT_NONE] = ERRC_INTERNAL,        [K8S_FAULT_EXPIRED] = ERRC_CONFLICT,
        [K8S_FAULT_TOO_LARGE_RV] = ERRC_TIMEOUT, [K8S_FAULT_BUSY] = ERRC_UNAVAILABLE,
        [K8S_FAULT_UNAUTHORIZED] = ERRC_AUTH,    [K8S_FAULT_FORBIDDEN] = ERRC_AUTH,
        [K8S_FAULT_NOT_FOUND] = ERRC_NOT_FOUND,  [K8S_FAULT_EXISTS] = ERRC_EXISTS,
        [K8S_FAULT_CONFLICT] = ERRC_CONFLICT,    [K8S_FAULT_INVALID] = ERRC_INVALID,
        [K8S_FAULT_SERVER] = ERRC_UNAVAILABLE,
    };
    return codes[fault];
}

int k8s_status_error(const struct k8s_status *status, struct err *err, const char *fmt, ...)
{
    char what[160];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return err_set(err, error_code(status->fault), "%s: %d%s%s%s%s", what, status->code,
                   status->reason[0] != '\0' ? " " : "", status->reason,
                   status->message[0] != '\0' ? ": " : "", status->message);
}
