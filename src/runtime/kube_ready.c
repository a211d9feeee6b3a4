#include "runtime/kube_ready.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/kube_meta.h"
#include "runtime/kube_pod.h"

#define TICK_NS ENV_NS_PER_S
/* Between two looks at the events of an object that goes on missing something: double each time. */
#define FIRST_PAUSE_NS   (3 * ENV_NS_PER_S)
#define LONGEST_PAUSE_NS (30 * ENV_NS_PER_S)

/*
 *   IDLE --> WATCHING <--> ASKING
 *   any end: --> CLOSING --> OVER
 *
 * WATCHING waits for the watch on the pods, which wakes it at each change, and for its tick.
 * ASKING   waits for an answer: the StatefulSet's status when the pod is ready, then the pod itself, since
 * the watch may lag; events when there is no pod or the pod has no volume. CLOSING  waits for the end of the
 * turn.
 */
enum { IDLE, WATCHING, ASKING, CLOSING, OVER, STATES };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", N(WATCHING), true},
    [WATCHING] = {"watching", N(ASKING) | N(CLOSING), false},
    [ASKING] = {"asking", N(WATCHING) | N(CLOSING), false},
    [CLOSING] = {"closing", N(OVER), false},
    [OVER] = {"over", 0, true},
};
#undef N

/* ---- the end ---- */

static void over_task(struct loop_task *task, void *data)
{
    struct kube_ready *r = data;
    (void)task;
    sm_move(&r->sm, OVER);
    free(r->pod);
    free(r->path);
    r->done(r, r->err.code != ERRC_NONE ? &r->err : NULL, r->data);
}

static void finish(struct kube_ready *r, const struct err *err)
{
    if (err != NULL)
        err_copy(&r->err, err);
    sm_move(&r->sm, CLOSING);
    loop_timer_stop(&r->tick);
    loop_task_cancel(&r->look);
    kube_pods_leave(&r->user);
    loop_defer(k8s_client_loop(r->client), &r->over);
}

static void because(struct kube_ready *r, const char *reason)
{
    if (strcmp(reason, r->reason) == 0)
        return;
    (void)snprintf(r->reason, sizeof r->reason, "%s", reason);
    if (r->progress != NULL)
        r->progress(r->reason, r->data);
}

/* ---- asking ---- */

static void ask(struct kube_ready *r, char *path, const char *query, k8s_answer_cb cb)
{
    struct err err = {0};
    const struct k8s_request request = {.method = "GET", .path = path, .query = query};
    sm_move(&r->sm, ASKING);
    free(r->path);
    r->path = path;
    if (k8s_call_start(r->client, &request, cb, r, &r->call, &err) != 0) {
        finish(r, &err);
    }
}

/* The answer, or NULL when there is nothing to go on with. Errors are said, not fatal: a right may be missing
 * that only explanations need, and the server may be away for a moment. */
static yyjson_doc *answer_take(struct kube_ready *r, const struct k8s_answer *a)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    r->call = NULL;
    if (r->canceled) {
        finish(r, &canceled);
        return NULL;
    }
    sm_move(&r->sm, WATCHING);
    return a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
}

/* What is missing, and what the events of the object that should bring it said last. */
static void say_missing(struct kube_ready *r)
{
    char text[sizeof r->reason];
    const struct kube_pod *pod = kube_pods_find(&r->user);
    if (r->missing == MISSING_POD && r->event[0] != '\0')
        (void)snprintf(text, sizeof text, "StatefulSet %s cannot make pod %s: %s", r->name, r->pod, r->event);
    else if (r->missing == MISSING_POD)
        (void)snprintf(text, sizeof text, "StatefulSet %s has not made pod %s yet", r->name, r->pod);
    else if (r->event[0] != '\0')
        (void)snprintf(text, sizeof text, "pod %s waits for its volume: claim data-%s is not bound: %s",
                       r->pod, r->pod, r->event);
    else
        (void)snprintf(text, sizeof text, "%s", pod != NULL ? pod->trouble : r->reason);
    because(r, text);
}

static void on_event(const struct k8s_answer *a, void *data)
{
    struct kube_ready *r = data;
    yyjson_doc *doc = answer_take(r, a);
    char text[sizeof r->event];
    if (doc == NULL)
        return;
    if (kube_event_newest(yyjson_doc_get_root(doc), text, sizeof text)) {
        (void)snprintf(r->event, sizeof r->event, "%s", text);
        say_missing(r);
    }
    yyjson_doc_free(doc);
}

static void ask_events(struct kube_ready *r)
{
    bool pod = r->missing == MISSING_POD;
    char *query =
        mem_printf("fieldSelector=type%%3DWarning%%2CinvolvedObject.kind%%3D%s%%2C"
                   "involvedObject.name%%3D%s%s&limit=100",
                   pod ? "StatefulSet" : "PersistentVolumeClaim", pod ? "" : "data-", pod ? r->name : r->pod);
    ask(r, mem_printf("/api/v1/namespaces/%s/events", r->name_space), query, on_event);
    free(query);
}

/* The watch says that all is well: so it is when the API server says so as well. */
static void on_pod(const struct k8s_answer *a, void *data)
{
    struct kube_ready *r = data;
    struct kube_pod pod = {0};
    yyjson_doc *doc = answer_take(r, a);
    if (doc == NULL) {
        if (a->err != NULL && sm_now(&r->sm) == WATCHING)
            because(r, a->err->message);
        return;
    }
    kube_pod_read(yyjson_doc_get_root(doc), &pod);
    yyjson_doc_free(doc);
    r->plain = pod.plain;
    bool current = r->revision[0] == '\0' || strcmp(r->revision, pod.revision) == 0;
    if (r->member ? pod.started : pod.ready && current)
        finish(r, NULL);
    else if (pod.trouble[0] != '\0')
        because(r, pod.trouble);
}

static void ask_pod(struct kube_ready *r)
{
    ask(r, mem_printf("/api/v1/namespaces/%s/pods/%s", r->name_space, r->pod), NULL, on_pod);
}

static void on_set(const struct k8s_answer *a, void *data)
{
    struct kube_ready *r = data;
    yyjson_doc *doc = answer_take(r, a);
    if (doc == NULL)
        return;
    yyjson_val *root = yyjson_doc_get_root(doc), *status = yyjson_obj_get(root, "status");
    const char *strategy = yyjson_get_str(
        yyjson_obj_get(yyjson_obj_get(yyjson_obj_get(root, "spec"), "updateStrategy"), "type"));
    const char *revision = yyjson_get_str(yyjson_obj_get(status, "updateRevision"));
    const struct kube_pod *pod = kube_pods_find(&r->user);
    bool seen = yyjson_get_sint(yyjson_obj_get(status, "observedGeneration")) >= r->generation;
    bool waits = strategy != NULL && strcmp(strategy, "OnDelete") == 0; /* for a human */
    if (seen && pod != NULL && pod->ready && revision != NULL &&
        (waits || strcmp(revision, pod->revision) == 0)) {
        (void)snprintf(r->revision, sizeof r->revision, "%s", waits ? "" : revision);
        ask_pod(r);
    } else if (pod != NULL && pod->ready)
        because(r, "the StatefulSet has yet to replace its pod by one with the new settings");
    yyjson_doc_free(doc);
}

/* ---- the agent in the pod ---- */

static void on_agent(const struct http_answer *a, void *data)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    struct kube_ready *r = data;
    char text[sizeof r->reason];
    r->agent_call = NULL;
    if (r->canceled) {
        finish(r, &canceled);
        return;
    }
    sm_move(&r->sm, WATCHING);
    yyjson_doc *doc = a->err == NULL ? yyjson_read(a->body, a->body_length, 0) : NULL;
    const char *error = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "error"));
    const struct kube_pod *pod = kube_pods_find(&r->user);
    if (pod != NULL && pod->running) {
        (void)snprintf(text, sizeof text, "%s%s%s", pod->trouble, error != NULL ? ": " : "",
                       error != NULL ? error : "");
        because(r, text);
    }
    yyjson_doc_free(doc);
}

/* No answer is no error: the agent may not be up yet, or out of our reach. */
static void ask_agent(struct kube_ready *r, const struct kube_pod *pod)
{
    bool six = strchr(pod->address, ':') != NULL;
    char *url = mem_printf("http://%s%s%s:8008/v1/status", six ? "[" : "", pod->address, six ? "]" : "");
    const struct http_call_options o = {
        .method = "GET", .url = url, .timeout_ns = 2 * ENV_NS_PER_S, .body_limit = 65536};
    sm_move(&r->sm, ASKING);
    if (http_call_start(r->http, &o, on_agent, r, &r->agent_call, NULL) != 0) {
        sm_move(&r->sm, WATCHING);
        because(r, pod->trouble);
    }
    free(url);
}

/* ---- looking ---- */

static void look_missing(struct kube_ready *r, enum kube_missing missing)
{
    uint64_t now = loop_now(k8s_client_loop(r->client));
    if (r->missing != missing) {
        r->missing = missing;
        r->event[0] = '\0';
        r->ask_ns = now;
        r->pause_ns = FIRST_PAUSE_NS;
    }
    say_missing(r);
    if (now < r->ask_ns)
        return;
    r->ask_ns = now + r->pause_ns;
    r->pause_ns = 2 * r->pause_ns < LONGEST_PAUSE_NS ? 2 * r->pause_ns : LONGEST_PAUSE_NS;
    ask_events(r);
}

static bool waits_for_claim(const struct kube_pod *pod)
{
    return pod->unscheduled && (strstr(pod->trouble, "PersistentVolumeClaim") != NULL ||
                                strstr(pod->trouble, "persistentvolumeclaim") != NULL);
}

static void look(struct kube_ready *r)
{
    const struct kube_pod *pod = kube_pods_find(&r->user);
    if (pod == NULL) {
        look_missing(r, MISSING_POD);
        return;
    }
    if (waits_for_claim(pod)) {
        look_missing(r, MISSING_VOLUME);
        return;
    }
    r->missing = MISSING_NOTHING;
    if (r->member && pod->started)
        ask_pod(r);
    else if (pod->ready && !r->member)
        ask(r, mem_printf("/apis/apps/v1/namespaces/%s/statefulsets/%s", r->name_space, r->name), NULL,
            on_set);
    else if (pod->running && !r->member &&
             pod->address[0] != '\0') /* a member's tells nothing without its token */
        ask_agent(r, pod);
    else
        because(r, pod->trouble);
}

static void look_task(struct loop_task *task, void *data)
{
    struct kube_ready *r = data;
    struct err why = {0};
    (void)task;
    if (sm_now(&r->sm) != WATCHING)
        return;
    if (kube_pods_synced(&r->user, &why))
        look(r);
    else if (why.code != ERRC_NONE) /* the watch retries by itself */
        because(r, why.message);
}

static void changed(void *data)
{
    struct kube_ready *r = data;
    loop_defer(k8s_client_loop(r->client), &r->look);
}

static void ticked(struct loop_timer *timer, void *data)
{
    struct kube_ready *r = data;
    struct loop *loop = k8s_client_loop(r->client);
    struct err err = {0};
    loop_timer_start(timer, TICK_NS);
    if (loop_now(loop) >= r->deadline_ns) {
        (void)err_set(&err, ERRC_TIMEOUT, "not ready in time: %s",
                      r->reason[0] != '\0' ? r->reason : "the API server does not answer");
        if (sm_now(&r->sm) == WATCHING)
            finish(r, &err);
        return; /* ASKING: the next tick after the answer */
    }
    loop_defer(loop, &r->look);
}

void kube_ready_start(struct kube_ready *r)
{
    struct loop *loop = k8s_client_loop(r->client);
    sm_init(&r->sm, states, STATES, IDLE, NULL, NULL);
    sm_move(&r->sm, WATCHING);
    r->pod = mem_printf("%s-%d", r->name, r->number);
    r->look = (struct loop_task){.run = look_task, .data = r};
    r->over = (struct loop_task){.run = over_task, .data = r};
    loop_timer_init(loop, &r->tick, ticked, r);
    r->user = (struct kube_pods_user){.changed = changed, .data = r};
    kube_pods_join(r->pods, &r->user, r->pod);
    loop_timer_start(&r->tick, TICK_NS);
    loop_defer(loop, &r->look);
}

void kube_ready_cancel(struct kube_ready *r)
{
    const struct err canceled = {.code = ERRC_CANCELED, .message = "canceled"};
    r->canceled = true;
    if (sm_now(&r->sm) == WATCHING)
        finish(r, &canceled);
    else if (r->call != NULL)
        k8s_call_cancel(r->call);
    else if (r->agent_call != NULL)
        http_call_cancel(r->agent_call);
}
