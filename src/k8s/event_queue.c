#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/list.h"
#include "base/mem.h"
#include "k8s/backoff.h"
#include "k8s/event_queue.h"

#define SERIES_MAX    512  /* remembered */
#define WAITING_MAX   128  /* of them with something to send */
#define OBJECTS_MAX   256  /* whose budgets are remembered */
#define NOTE_MAX      1024 /* events.k8s.io/v1 */
#define BURST         25   /* client-go tools/record: spam filter, 25 at once, then one in 5 min */
#define REFILL_NS     (300 * ENV_NS_PER_S)
#define SERIES_END_NS (360 * ENV_NS_PER_S) /* client-go tools/events: finishes a series after 6 min */
#define UPDATE_NS     (30 * ENV_NS_PER_S)

/* One thing said about one object. */
struct series {
    struct list node; /* in q->series, the one said last at the end */
    char *key;
    char *collection, *name; /* of its Event */
    char *api_version, *kind, *name_space, *regarding, *uid, *reason, *action, *note;
    enum k8s_event_type type;
    uint64_t count, sent_count; /* said; said to the server, 0 = no Event yet */
    uint64_t said_ns, sent_ns;
    int64_t first_us, last_us;
};

/* What an object may still say. */
struct budget {
    struct list node; /* in q->budgets, the one used last at the end */
    char *object;
    double tokens;
    uint64_t at_ns;
};

struct event_queue {
    struct env *env;
    char *controller, *instance;
    struct list series, budgets;
    size_t series_count, budget_count;
    struct series *sending;
    uint64_t sending_count;
    char *path, *body;
    struct backoff backoff;
    uint64_t pause_ends_ns;
    struct k8s_events_facts facts;
};

struct event_queue *event_queue_new(struct env *env, const struct k8s_reporter *reporter)
{
    struct event_queue *q = mem_zalloc(sizeof *q);
    q->env = env;
    q->controller = mem_strdup(reporter->controller);
    q->instance = mem_strdup(reporter->instance);
    list_init(&q->series);
    list_init(&q->budgets);
    return q;
}

static void series_free(struct event_queue *q, struct series *s)
{
    char *const texts[] = {s->key,       s->collection, s->name,   s->api_version, s->kind, s->name_space,
                           s->regarding, s->uid,        s->reason, s->action,      s->note};
    list_remove(&s->node);
    q->series_count--;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        free(texts[i]);
    free(s);
}

static void budget_free(struct event_queue *q, struct budget *b)
{
    list_remove(&b->node);
    q->budget_count--;
    free(b->object);
    free(b);
}

void event_queue_free(struct event_queue *q)
{
    if (q == NULL)
        return;
    list_each(node, &q->series)
    {
        series_free(q, list_item(node, struct series, node));
    }
    list_each(node, &q->budgets)
    {
        budget_free(q, list_item(node, struct budget, node));
    }
    free(q->controller);
    free(q->instance);
    free(q->path);
    free(q->body);
    free(q);
}

/* ---- what is said ---- */

static bool wants_request(const struct series *s)
{
    return s->count > s->sent_count;
}

static size_t waiting(const struct event_queue *q)
{
    size_t count = 0;
    list_each(node, &q->series)
    {
        count += wants_request(list_item(node, struct series, node));
    }
    return count;
}

static bool budget_take(struct event_queue *q, const char *object, uint64_t now_ns)
{
    struct budget *b = NULL;
    list_each(node, &q->budgets)
    {
        struct budget *one = list_item(node, struct budget, node);
        if (strcmp(one->object, object) == 0)
            b = one;
    }
    if (b == NULL) {
        if (q->budget_count == OBJECTS_MAX)
            budget_free(q, list_item(list_first(&q->budgets), struct budget, node));
        b = mem_zalloc(sizeof *b);
        *b = (struct budget){.object = mem_strdup(object), .tokens = BURST, .at_ns = now_ns};
        q->budget_count++;
    } else {
        list_remove(&b->node);
    }
    list_append(&q->budgets, &b->node);
    b->tokens += (double)(now_ns - b->at_ns) / (double)REFILL_NS;
    b->tokens = b->tokens > BURST ? BURST : b->tokens;
    b->at_ns = now_ns;
    if (b->tokens < 1)
        return false;
    b->tokens -= 1;
    return true;
}

/* A DNS subdomain: what names the object, and a random end. */
static char *event_name(struct event_queue *q, const char *regarding)
{
    char random[17];
    env_random_text(q->env, random, sizeof random - 1);
    char *name = mem_printf("%.200s.%s", regarding, random);
    for (char *at = name; *at != '\0'; at++) {
        *at = (char)tolower((unsigned char)*at);
        if (!isalnum((unsigned char)*at) && *at != '.' && *at != '-')
            *at = '-';
    }
    return name;
}

static const char *or_empty(const char *text)
{
    return text != NULL ? text : "";
}

/* At most NOTE_MAX bytes, not cut inside a character. */
static char *note_copy(const char *note)
{
    size_t length = strlen(note);
    if (length > NOTE_MAX) {
        length = NOTE_MAX;
        while (length > 0 && ((unsigned char)note[length] & 0xC0) == 0x80)
            length--;
    }
    return mem_strndup(note, length);
}

static struct series *series_new(struct event_queue *q, const struct k8s_reference *r,
                                 enum k8s_event_type type, const char *reason, const char *action,
                                 const char *note)
{
    struct series *s = mem_zalloc(sizeof *s);
    const char *name_space = or_empty(r->name_space);
    s->collection = mem_printf("/apis/events.k8s.io/v1/namespaces/%s/events",
                               name_space[0] != '\0' ? name_space : "default");
    s->api_version = mem_strdup(r->api_version);
    s->kind = mem_strdup(r->kind);
    s->name_space = mem_strdup(name_space);
    s->regarding = mem_strdup(r->name);
    s->uid = mem_strdup(or_empty(r->uid));
    s->reason = mem_strdup(reason);
    s->action = mem_strdup(action);
    s->note = note_copy(note);
    s->type = type;
    s->first_us = q->env->wall_us(q->env);
    s->name = event_name(q, r->name);
    q->series_count++;
    return s;
}

/* Room for one more; what has nothing to send goes first. False: everything waits. */
static bool make_room(struct event_queue *q)
{
    if (waiting(q) >= WAITING_MAX)
        return false;
    if (q->series_count < SERIES_MAX)
        return true;
    list_each(node, &q->series)
    {
        struct series *s = list_item(node, struct series, node);
        if (!wants_request(s) && s != q->sending) {
            series_free(q, s);
            return true;
        }
    }
    return false;
}

static struct series *series_find(struct event_queue *q, const char *key, uint64_t now_ns)
{
    list_each(node, &q->series)
    {
        struct series *s = list_item(node, struct series, node);
        bool over = now_ns - s->said_ns > SERIES_END_NS;
        if (over && s != q->sending && !wants_request(s))
            series_free(q, s);
        else if (!over && strcmp(s->key, key) == 0)
            return s;
    }
    return NULL;
}

void event_queue_emit(struct event_queue *q, uint64_t now_ns, const struct k8s_reference *r,
                      enum k8s_event_type type, const char *reason, const char *action, const char *note)
{
    char *object = mem_printf("%s/%s/%s/%s", r->kind, or_empty(r->name_space), r->name, or_empty(r->uid));
    char *key = mem_printf("%s %d %s %s %s", object, (int)type, reason, action, note);
    struct series *s = series_find(q, key, now_ns);
    q->facts.emitted++;
    if (s == NULL && budget_take(q, object, now_ns) && make_room(q)) {
        s = series_new(q, r, type, reason, action, note);
        s->key = key;
        key = NULL;
    } else if (s == NULL) {
        q->facts.dropped++;
    } else {
        list_remove(&s->node);
    }
    if (s != NULL) {
        list_append(&q->series, &s->node);
        s->count++;
        s->said_ns = now_ns;
        s->last_us = q->env->wall_us(q->env);
    }
    free(object);
    free(key);
}

/* ---- what is sent ---- */

static uint64_t series_due(const struct series *s)
{
    return s->sent_count > 1 ? s->sent_ns + UPDATE_NS : s->said_ns;
}

static void add_series(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct series *s)
{
    char time[ENV_TIME_SIZE];
    yyjson_mut_val *series = yyjson_mut_obj_add_obj(doc, root, "series");
    env_format_time(s->last_us, time);
    (void)yyjson_mut_obj_add_uint(doc, series, "count", s->count);
    (void)yyjson_mut_obj_add_strcpy(doc, series, "lastObservedTime", time);
}

static char *written(yyjson_mut_doc *doc)
{
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

static char *patch_body(const struct series *s)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    add_series(doc, root, s);
    return written(doc);
}

static char *event_body(const struct event_queue *q, const struct series *s)
{
    char time[ENV_TIME_SIZE];
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    env_format_time(s->first_us, time);
    (void)yyjson_mut_obj_add_str(doc, root, "apiVersion", "events.k8s.io/v1");
    (void)yyjson_mut_obj_add_str(doc, root, "kind", "Event");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    (void)yyjson_mut_obj_add_str(doc, metadata, "name", s->name);
    (void)yyjson_mut_obj_add_strcpy(doc, root, "eventTime", time);
    (void)yyjson_mut_obj_add_str(doc, root, "reportingController", q->controller);
    (void)yyjson_mut_obj_add_str(doc, root, "reportingInstance", q->instance);
    (void)yyjson_mut_obj_add_str(doc, root, "type", s->type == K8S_EVENT_WARNING ? "Warning" : "Normal");
    (void)yyjson_mut_obj_add_str(doc, root, "reason", s->reason);
    (void)yyjson_mut_obj_add_str(doc, root, "action", s->action);
    (void)yyjson_mut_obj_add_str(doc, root, "note", s->note);
    yyjson_mut_val *regarding = yyjson_mut_obj_add_obj(doc, root, "regarding");
    (void)yyjson_mut_obj_add_str(doc, regarding, "apiVersion", s->api_version);
    (void)yyjson_mut_obj_add_str(doc, regarding, "kind", s->kind);
    (void)yyjson_mut_obj_add_str(doc, regarding, "name", s->regarding);
    if (s->name_space[0] != '\0')
        (void)yyjson_mut_obj_add_str(doc, regarding, "namespace", s->name_space);
    if (s->uid[0] != '\0')
        (void)yyjson_mut_obj_add_str(doc, regarding, "uid", s->uid);
    if (s->count > 1)
        add_series(doc, root, s);
    return written(doc);
}

static void request_make(struct event_queue *q, struct series *s, struct event_request *ret)
{
    bool first = s->sent_count == 0;
    free(q->path);
    free(q->body);
    q->path = first ? mem_strdup(s->collection) : mem_printf("%s/%s", s->collection, s->name);
    q->body = first ? event_body(q, s) : patch_body(s);
    q->sending = s;
    q->sending_count = s->count;
    *ret = (struct event_request){
        .method = first ? "POST" : "PATCH",
        .path = q->path,
        .content_type = first ? "application/json" : "application/merge-patch+json",
        .body = q->body,
    };
}

bool event_queue_next(struct event_queue *q, uint64_t now_ns, bool flush, struct event_request *ret)
{
    if (q->sending != NULL || (now_ns < q->pause_ends_ns && !flush))
        return false;
    list_each(node, &q->series)
    {
        struct series *s = list_item(node, struct series, node);
        if (wants_request(s) && (flush || series_due(s) <= now_ns)) {
            request_make(q, s, ret);
            return true;
        }
    }
    return false;
}

uint64_t event_queue_due(const struct event_queue *q)
{
    uint64_t due = 0;
    if (q->sending != NULL)
        return 0;
    list_each(node, &q->series)
    {
        const struct series *s = list_item(node, struct series, node);
        if (wants_request(s) && (due == 0 || series_due(s) < due))
            due = series_due(s);
    }
    return due != 0 && due < q->pause_ends_ns ? q->pause_ends_ns : due;
}

bool event_queue_answer(struct event_queue *q, uint64_t now_ns, int status)
{
    struct series *s = q->sending;
    bool first = s->sent_count == 0;
    q->sending = NULL;
    if ((status >= 200 && status < 300) ||
        (status == 409 && first)) { /* 409: made by a try that got no answer */
        s->sent_count = q->sending_count;
        s->sent_ns = now_ns;
        q->facts.sent++;
        q->backoff = (struct backoff){0};
        return false;
    }
    if (status == 0 || status == 429 || status >= 500) {
        q->pause_ends_ns = now_ns + backoff_next(&q->backoff, q->env, now_ns);
        return false;
    }
    if (status == 404 && !first) { /* Events live for an hour: this one has, so there is another */
        s->sent_count = 0;
        free(s->name);
        s->name = event_name(q, s->regarding);
        return false;
    }
    q->facts.refused++;
    s->sent_count = s->count;
    s->sent_ns = now_ns;
    return true;
}

void event_queue_facts(const struct event_queue *q, struct k8s_events_facts *ret)
{
    *ret = q->facts;
    ret->waiting = waiting(q);
}
