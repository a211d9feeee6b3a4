#include "runtime/kube_pod.h"

#include <stdio.h>
#include <string.h>
#include <yyjson.h>

static const char *text(yyjson_val *object, const char *name)
{
    const char *found = yyjson_get_str(yyjson_obj_get(object, name));
    return found != NULL ? found : "";
}

static yyjson_val *condition(yyjson_val *status, const char *type)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(yyjson_obj_get(status, "conditions"), at, n, one)
    {
        if (strcmp(text(one, "type"), type) == 0)
            return one;
    }
    return NULL;
}

static bool is_true(yyjson_val *one)
{
    return strcmp(text(one, "status"), "True") == 0;
}

/* "exit code 1: last words", "signal 9, out of memory" */
static void ending(char *out, size_t size, yyjson_val *terminated)
{
    const char *reason = text(terminated, "reason"), *message = text(terminated, "message");
    int code = (int)yyjson_get_sint(yyjson_obj_get(terminated, "exitCode"));
    int length = strcmp(reason, "OOMKilled") == 0
                     ? snprintf(out, size, "it needed more memory than its limit (OOMKilled)")
                     : snprintf(out, size, "exit code %d", code);
    size_t end = strlen(message);
    while (end > 0 && message[end - 1] == '\n')
        end--;
    const char *last = message + end; /* of several lines the last */
    while (last > message && last[-1] != '\n')
        last--;
    if (end > 0 && length > 0 && (size_t)length < size)
        (void)snprintf(out + length, size - (size_t)length, ": %.*s", (int)(message + end - last), last);
}

/* Something is wrong with this container. */
static bool container_trouble(const char *pod, yyjson_val *container, char *out, size_t size)
{
    yyjson_val *state = yyjson_obj_get(container, "state");
    yyjson_val *waiting = yyjson_obj_get(state, "waiting");
    yyjson_val *last = yyjson_obj_get(yyjson_obj_get(container, "lastState"), "terminated");
    yyjson_val *over = yyjson_obj_get(state, "terminated");
    const char *reason = text(waiting, "reason"), *message = text(waiting, "message");
    char end[240];
    if (over == NULL)
        over = last;
    if (over != NULL &&
        (strcmp(reason, "CrashLoopBackOff") == 0 || yyjson_obj_get(state, "running") == NULL)) {
        ending(end, sizeof end, over);
        (void)snprintf(out, size, "pod %s: container %s ended: %s", pod, text(container, "name"), end);
        return true;
    }
    if (waiting == NULL || reason[0] == '\0' || strcmp(reason, "ContainerCreating") == 0 ||
        strcmp(reason, "PodInitializing") == 0)
        return false;
    (void)snprintf(out, size, "pod %s: container %s cannot start: %s%s%s (image %s)", pod,
                   text(container, "name"), reason, message[0] != '\0' ? ": " : "", message,
                   text(container, "image"));
    return true;
}

static bool containers_trouble(const char *pod, yyjson_val *status, const char *which, char *out, size_t size)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(yyjson_obj_get(status, which), at, n, one)
    {
        if (container_trouble(pod, one, out, size))
            return true;
    }
    return false;
}

static void trouble(yyjson_val *pod, struct kube_pod *ret)
{
    yyjson_val *status = yyjson_obj_get(pod, "status");
    yyjson_val *scheduled = condition(status, "PodScheduled");
    const char *name = text(yyjson_obj_get(pod, "metadata"), "name");
    char *out = ret->trouble;
    size_t size = sizeof ret->trouble;
    if (ret->deleting)
        (void)snprintf(out, size, "pod %s is being ended", name);
    else if (strcmp(text(status, "phase"), "Failed") == 0)
        (void)snprintf(out, size, "pod %s failed: %s %s", name, text(status, "reason"),
                       text(status, "message"));
    else if (ret->unscheduled)
        (void)snprintf(out, size, "pod %s is not scheduled: %s", name,
                       scheduled != NULL ? text(scheduled, "message")
                                         : "the scheduler has not said anything");
    else if (containers_trouble(name, status, "initContainerStatuses", out, size) ||
             containers_trouble(name, status, "containerStatuses", out, size))
        return;
    else if (strcmp(text(status, "phase"), "Running") == 0) {
        (void)snprintf(out, size, "pod %s runs, PostgreSQL in it does not accept connections yet", name);
        ret->running = true;
    } else
        (void)snprintf(out, size, "pod %s is being made on node %s", name,
                       text(yyjson_obj_get(pod, "spec"), "nodeName"));
}

static bool all_started(yyjson_val *status)
{
    yyjson_val *one, *all = yyjson_obj_get(status, "containerStatuses");
    size_t at, n;
    yyjson_arr_foreach(all, at, n, one)
    {
        if (!yyjson_get_bool(yyjson_obj_get(one, "started")))
            return false;
    }
    return yyjson_arr_size(all) > 0;
}

static bool has_argument(yyjson_val *spec, const char *argument)
{
    yyjson_val *one;
    size_t at, n;
    yyjson_arr_foreach(yyjson_ptr_get(spec, "/containers/0/args"), at, n, one)
    {
        if (yyjson_equals_str(one, argument))
            return true;
    }
    return false;
}

enum kube_tls kube_pod_tls(yyjson_val *spec)
{
    if (!has_argument(spec, KUBE_TLS_ARGUMENT))
        return KUBE_TLS_OFF;
    return has_argument(spec, KUBE_CLIENTS_ARGUMENT) ? KUBE_TLS_MUTUAL : KUBE_TLS_ON;
}

void kube_pod_read(yyjson_val *pod, struct kube_pod *ret)
{
    yyjson_val *metadata = yyjson_obj_get(pod, "metadata"), *status = yyjson_obj_get(pod, "status");
    memset(ret, 0, sizeof *ret);
    ret->deleting = yyjson_obj_get(metadata, "deletionTimestamp") != NULL;
    ret->unscheduled = text(yyjson_obj_get(pod, "spec"), "nodeName")[0] == '\0';
    ret->plain = kube_pod_tls(yyjson_obj_get(pod, "spec")) == KUBE_TLS_OFF;
    ret->started = !ret->deleting && all_started(status);
    ret->ready = !ret->deleting && is_true(condition(status, "Ready"));
    (void)snprintf(ret->revision, sizeof ret->revision, "%s",
                   text(yyjson_obj_get(metadata, "labels"), "controller-revision-hash"));
    (void)snprintf(ret->address, sizeof ret->address, "%s", text(status, "podIP"));
    if (!ret->ready)
        trouble(pod, ret);
}

/* The series' time is the newest, then lastTimestamp, eventTime. RFC 3339 in UTC: texts compare like times.
 */
static const char *event_time(yyjson_val *event)
{
    const char *time = text(yyjson_obj_get(event, "series"), "lastObservedTime");
    if (time[0] == '\0')
        time = text(event, "lastTimestamp");
    return time[0] != '\0' ? time : text(event, "eventTime");
}

bool kube_event_newest(yyjson_val *list, char *ret, unsigned long size)
{
    yyjson_val *one, *newest = NULL;
    size_t at, n;
    yyjson_arr_foreach(yyjson_obj_get(list, "items"), at, n, one)
    {
        if (newest == NULL || strcmp(event_time(one), event_time(newest)) >= 0)
            newest = one;
    }
    if (newest == NULL)
        return false;
    (void)snprintf(ret, size, "%s: %s", text(newest, "reason"), text(newest, "message"));
    return true;
}
