#include "manager/kube_events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"

#define BURST      25
#define REFILL_NS  (5 * ENV_NS_PER_S)
#define REPEAT_NS  (300 * ENV_NS_PER_S)
#define REMEMBERED 64
#define NOTE_MAX   1000 /* the API allows 1,024 */

struct remembered {
    uint64_t digest, told_ns;
};

struct kube_events {
    struct k8s_client *client;
    struct loop *loop;
    char *name_space, *holder, *path;
    struct remembered remembered[REMEMBERED];
    unsigned next, tokens, calls;
    uint64_t filled_ns, dropped;
    bool failing, closing;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

struct kube_events *kube_events_new(struct k8s_client *client, const char *name_space, const char *holder)
{
    struct kube_events *e = mem_zalloc(sizeof *e);
    e->client = client;
    e->loop = k8s_client_loop(client);
    e->name_space = mem_strdup(name_space);
    e->holder = mem_strdup(holder);
    e->path = mem_printf("/apis/events.k8s.io/v1/namespaces/%s/events", name_space);
    e->tokens = BURST;
    return e;
}

static void events_gone(struct loop_task *task, void *data)
{
    struct kube_events *e = data;
    void (*closed)(void *) = e->closed;
    void *closed_data = e->closed_data;
    (void)task;
    free(e->name_space);
    free(e->holder);
    free(e->path);
    free(e);
    closed(closed_data);
}

static void maybe_closed(struct kube_events *e)
{
    if (!e->closing || e->calls > 0)
        return;
    e->closed_task = (struct loop_task){.run = events_gone, .data = e};
    loop_defer(e->loop, &e->closed_task);
}

void kube_events_close(struct kube_events *e, void (*closed)(void *data), void *data)
{
    e->closing = true;
    e->closed = closed;
    e->closed_data = data;
    maybe_closed(e);
}

/* ---- how many ---- */

static uint64_t digest_add(uint64_t digest, const char *text)
{
    for (const char *c = text; *c != '\0'; c++)
        digest = (digest ^ (unsigned char)*c) * 0x100000001b3u;
    return (digest ^ 0xff) * 0x100000001b3u;
}

/* Whether it was told a moment ago; else it is remembered. */
static bool repeated(struct kube_events *e, const struct kube_event *event)
{
    uint64_t now = loop_now(e->loop);
    uint64_t digest = digest_add(0xcbf29ce484222325u, event->uid);
    digest = digest_add(digest_add(digest, event->reason), event->note);
    for (unsigned i = 0; i < REMEMBERED; i++)
        if (e->remembered[i].digest == digest && now - e->remembered[i].told_ns < REPEAT_NS)
            return true;
    e->remembered[e->next] = (struct remembered){digest, now};
    e->next = (e->next + 1) % REMEMBERED;
    return false;
}

static bool take_token(struct kube_events *e)
{
    uint64_t now = loop_now(e->loop);
    uint64_t more = (now - e->filled_ns) / REFILL_NS;
    if (e->filled_ns == 0 || e->tokens + more >= BURST) {
        e->tokens = BURST;
        e->filled_ns = now;
    } else {
        e->tokens += (unsigned)more;
        e->filled_ns += more * REFILL_NS;
    }
    if (e->tokens == 0) {
        if (e->dropped++ % 100 == 0)
            log_event(LOG_WARN, "Events are dropped: there are too many", "dropped",
                      log_num((long long)e->dropped), NULL);
        return false;
    }
    e->tokens--;
    return true;
}

/* ---- one ---- */

static void add_regarding(const struct kube_events *e, const struct kube_event *event, yyjson_mut_doc *doc,
                          yyjson_mut_val *root)
{
    yyjson_mut_val *to = yyjson_mut_obj_add_obj(doc, root, "regarding");
    yyjson_mut_obj_add_str(doc, to, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, to, "kind", event->kind);
    yyjson_mut_obj_add_str(doc, to, "namespace", e->name_space);
    yyjson_mut_obj_add_str(doc, to, "name", event->name);
    yyjson_mut_obj_add_str(doc, to, "uid", event->uid);
}

static char *body_of(const struct kube_events *e, const struct kube_event *event)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    char name[128], random[13], time[ENV_TIME_SIZE], note[NOTE_MAX];
    env_random_text(e->loop->env, random, sizeof random - 1);
    snprintf(name, sizeof name, "%.63s.%s", event->name, random);
    snprintf(note, sizeof note, "%s", event->note);
    env_format_time(loop_wall(e->loop), time);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "events.k8s.io/v1");
    yyjson_mut_obj_add_str(doc, root, "kind", "Event");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, metadata, "name", name);
    yyjson_mut_obj_add_str(doc, metadata, "namespace", e->name_space);
    yyjson_mut_obj_add_str(doc, root, "eventTime", time);
    yyjson_mut_obj_add_str(doc, root, "type", event->warning ? "Warning" : "Normal");
    yyjson_mut_obj_add_str(doc, root, "reason", event->reason);
    yyjson_mut_obj_add_str(doc, root, "action", event->action);
    yyjson_mut_obj_add_str(doc, root, "note", note);
    yyjson_mut_obj_add_str(doc, root, "reportingController", "shardherd.io/manager");
    yyjson_mut_obj_add_str(doc, root, "reportingInstance", e->holder);
    add_regarding(e, event, doc, root);
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

static void answered(const struct k8s_answer *answer, void *data)
{
    struct kube_events *e = data;
    e->calls--;
    if (answer->err != NULL && !e->failing && !e->closing)
        log_event(LOG_WARN, "an Event could not be written", "err", answer->err->message, NULL);
    e->failing = answer->err != NULL;
    maybe_closed(e);
}

void kube_events_tell(struct kube_events *e, const struct kube_event *event)
{
    struct k8s_call *call;
    if (e->closing || repeated(e, event) || !take_token(e))
        return;
    char *body = body_of(e, event);
    const struct k8s_request request = {
        .method = "POST", .path = e->path, .body = body, .body_length = body != NULL ? strlen(body) : 0};
    if (body != NULL && k8s_call_start(e->client, &request, answered, e, &call, NULL) == 0)
        e->calls++;
    free(body);
}
