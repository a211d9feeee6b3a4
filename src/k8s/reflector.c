/*
 * Happy path: SNAPSHOT (a watch-list: the objects as events, then an end mark), WATCHING on the same stream;
 * the server ends it after some minutes, WATCHING again from the last version. Without watch-lists LISTING
 * takes the place of SNAPSHOT.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "k8s/backoff.h"
#include "k8s/json_cut.h"
#include "k8s/json_split.h"
#include "k8s/reflector.h"
#include "k8s/status.h"

#define OBJECT_LIMIT   (4u * 1024u * 1024u) /* etcd keeps at most 1.5 MiB; JSON is longer */
#define ERROR_LIMIT    (64u * 1024u)        /* of a body that explains an error */
#define PAGE_SIZE      500                  /* client-go tools/pager */
#define WATCH_MIN_S    300                  /* client-go tools/cache: timeoutSeconds in [300, 600] */
#define WATCH_SLACK_S  30
#define LIST_LIMIT_NS  (120 * ENV_NS_PER_S) /* of one page */
#define SHORT_WATCH_NS ENV_NS_PER_S
/* Bookmarks come once a minute; servers do not promise any, so silence counts only after the first. */
#define SILENCE_NS        (180 * ENV_NS_PER_S)
#define SNAPSHOT_QUIET_NS (10 * ENV_NS_PER_S) /* no object and no end mark for so long: it will not come */
#define END_MARK          "k8s.io/initial-events-end"

/*
 *   IDLE --> SNAPSHOT ------------> WATCHING <-------+
 *    |          |  \                 |  |  ^         |
 *    |          v   \                |  |  +- (the server ended it)
 *    +-----> LISTING -\--------------+  |            |
 *               |      \  (410)         |            |
 *               +-------+----> PAUSED --+------------+
 *
 * SNAPSHOT waits for events up to the end mark, or until none came for 10 s
 * LISTING  waits for a page of the list
 * WATCHING waits for events, the end of the stream, or one of its deadlines
 * PAUSED   waits for its deadline; `after` says what comes then
 */
enum { IDLE, SNAPSHOT, LISTING, WATCHING, PAUSED, STOPPED, STATE_MAX };

#define N(state) SM_NEXT(state)
#define ANY      (N(SNAPSHOT) | N(LISTING) | N(WATCHING) | N(PAUSED) | N(STOPPED))
static const struct sm_state states[STATE_MAX] = {
    [IDLE] = {"idle", N(SNAPSHOT) | N(LISTING) | N(STOPPED), false},
    [SNAPSHOT] = {"snapshot", ANY, false},
    [LISTING] = {"listing", ANY, false},
    [WATCHING] = {"watching", ANY, false},
    [PAUSED] = {"paused", N(SNAPSHOT) | N(LISTING) | N(WATCHING) | N(STOPPED), false},
    [STOPPED] = {"stopped", 0, true},
};
#undef N

struct reflector {
    struct reflector_options o;
    struct sm sm;
    struct object_store store;
    struct object_store next; /* filled by SNAPSHOT and LISTING */
    bool synced;
    char *version;         /* last resource version that may be continued from; NULL = none yet */
    bool version_unusable; /* the server does not know it any more, or not yet: ask without one */
    bool refused_snapshot; /* of this reflector only: the reason may be its own */
    char *page;            /* continue token, NULL = first page */
    bool whole_list;       /* pages expired: ask for everything at once */
    char *page_version;    /* what the first page asked for */
    struct json_split split;
    struct buf error_body;
    int status; /* of the answer, 0 before its head */
    char retry_after[16];
    uint64_t asked_ns, heard_ns; /* request sent; last byte, or last object of a snapshot */
    uint64_t watch_ends_ns;
    uint64_t events_of_watch;
    struct k8s_status stream_fault; /* of an ERROR event in the present feed */
    bool bookmarks;                 /* one was seen */
    bool broken;                    /* the running answer is of no use: its state was left */
    int after;                      /* PAUSED: the state that follows */
    uint64_t pause_ends_ns;
    struct backoff backoff;
    struct buf query;
    struct reflector_facts facts;
    struct reflector_step *step; /* of the present call */
    uint64_t now_ns;
};

struct reflector *reflector_new(const struct reflector_options *options)
{
    struct reflector *r = mem_zalloc(sizeof *r);
    r->o = *options;
    if (r->o.object_limit == 0)
        r->o.object_limit = OBJECT_LIMIT;
    sm_init(&r->sm, states, STATE_MAX, IDLE, NULL, r);
    json_split_init(&r->split, JSON_SPLIT_LINES, r->o.object_limit);
    r->error_body.limit = ERROR_LIMIT;
    return r;
}

void reflector_free(struct reflector *r)
{
    if (r == NULL)
        return;
    object_store_free(&r->store, r->o.trim);
    object_store_free(&r->next, r->o.trim);
    json_split_free(&r->split);
    buf_free(&r->error_body);
    buf_free(&r->query);
    free(r->version);
    free(r->page);
    free(r->page_version);
    free(r);
}

bool reflector_synced(const struct reflector *r)
{
    return r->synced;
}

const char *reflector_version(const struct reflector *r)
{
    return r->version != NULL ? r->version : "";
}

const struct object_store *reflector_store(const struct reflector *r)
{
    return &r->store;
}

void reflector_facts(const struct reflector *r, struct reflector_facts *ret)
{
    *ret = r->facts;
    ret->state = sm_name(&r->sm);
    ret->version = r->version != NULL ? r->version : "";
}

static void set_text(char **to, const char *text)
{
    char *copy = mem_strdup(text);
    free(*to);
    *to = copy;
}

/* ---- requests ---- */

static void ask(struct reflector *r, int state, enum json_split_kind kind, uint64_t ends_ns)
{
    sm_move(&r->sm, state);
    json_split_free(&r->split);
    json_split_init(&r->split, kind, r->o.object_limit);
    buf_reset(&r->error_body);
    r->status = 0;
    r->broken = false;
    r->events_of_watch = 0;
    r->retry_after[0] = '\0';
    r->asked_ns = r->heard_ns = r->now_ns;
    r->step->send = true;
    r->step->watch = state != LISTING;
    r->step->query = buf_text(&r->query);
    r->step->request_ends = ends_ns;
}

static void query_add(struct reflector *r, const char *name, const char *value)
{
    static const char hex[] = "0123456789ABCDEF";
    (void)buf_printf(&r->query, "%s%s=", r->query.length > 0 ? "&" : "", name);
    for (const char *p = value; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
            strchr("-._~", c) != NULL)
            (void)buf_addc(&r->query, *p);
        else
            (void)buf_printf(&r->query, "%%%c%c", hex[c >> 4], hex[c & 15]);
    }
}

/* What a list or snapshot may be as old as: K1. */
static const char *wanted_version(const struct reflector *r, const char *first)
{
    if (r->version_unusable)
        return "";
    return r->version != NULL ? r->version : first;
}

static void watch_timeout(struct reflector *r)
{
    uint64_t seconds = WATCH_MIN_S + env_random_below(r->o.env, WATCH_MIN_S + 1);
    (void)buf_printf(&r->query, "&allowWatchBookmarks=true&timeoutSeconds=%" PRIu64, seconds);
    r->watch_ends_ns = r->now_ns + (seconds + WATCH_SLACK_S) * ENV_NS_PER_S;
}

static void ask_watch(struct reflector *r)
{
    r->facts.watches++;
    buf_reset(&r->query);
    query_add(r, "watch", "true");
    query_add(r, "resourceVersion", r->version);
    watch_timeout(r);
    ask(r, WATCHING, JSON_SPLIT_LINES, r->watch_ends_ns);
}

static void ask_snapshot(struct reflector *r)
{
    r->facts.watch_lists++;
    object_store_free(&r->next, r->o.trim);
    buf_reset(&r->query);
    query_add(r, "watch", "true");
    query_add(r, "sendInitialEvents", "true");
    query_add(r, "resourceVersionMatch", "NotOlderThan");
    query_add(r, "resourceVersion", wanted_version(r, ""));
    watch_timeout(r);
    ask(r, SNAPSHOT, JSON_SPLIT_LINES, r->watch_ends_ns);
}

static void ask_page(struct reflector *r)
{
    const char *version = r->page_version;
    bool paged = !r->whole_list && (version[0] == '\0' || strcmp(version, "0") == 0);
    r->facts.lists++;
    buf_reset(&r->query);
    if (r->page != NULL) { /* K11: a continue token brings its version along */
        query_add(r, "continue", r->page);
        (void)buf_printf(&r->query, "&limit=%d", PAGE_SIZE);
    } else {
        query_add(r, "resourceVersion", version);
        if (paged) /* else it would bypass the watch cache */
            (void)buf_printf(&r->query, "&limit=%d", PAGE_SIZE);
    }
    ask(r, LISTING, JSON_SPLIT_ITEMS, r->now_ns + LIST_LIMIT_NS);
}

static void ask_list(struct reflector *r)
{
    object_store_free(&r->next, r->o.trim);
    free(r->page);
    r->page = NULL;
    r->whole_list = false;
    set_text(&r->page_version, wanted_version(r, "0"));
    ask_page(r);
}

/* Everything anew, by the better way that this server knows. */
static void ask_all(struct reflector *r)
{
    if (r->synced)
        r->facts.relists++;
    if (r->o.server->no_watch_list || r->refused_snapshot)
        ask_list(r);
    else
        ask_snapshot(r);
}

static void resume(struct reflector *r, int state)
{
    if (state == WATCHING)
        ask_watch(r);
    else
        ask_all(r);
}

/* Leaves the running request, if it is still running. */
static void drop(struct reflector *r)
{
    r->step->abort = !r->broken;
    r->broken = true;
}

static void pause_then(struct reflector *r, int after, uint64_t at_least_ns)
{
    uint64_t pause = backoff_next(&r->backoff, r->o.env, r->now_ns);
    r->pause_ends_ns = r->now_ns + (pause > at_least_ns ? pause : at_least_ns);
    r->after = after;
    sm_move(&r->sm, PAUSED);
}

/* ---- what came back ---- */

static void note_error(struct reflector *r, const struct err *err)
{
    r->facts.errors++;
    err_copy(&r->facts.last_error, err);
}

static void version_unusable(struct reflector *r, int back_to)
{
    if (r->version_unusable) {
        pause_then(r, back_to, 0); /* it was asked without one already */
        return;
    }
    r->version_unusable = true;
    ask_all(r);
}

static void watch_refused(struct reflector *r, const struct k8s_status *s)
{
    if (s->fault == K8S_FAULT_EXPIRED)
        ask_all(r); /* from the last version first: a quorum read by everybody at once is a stampede */
    else if (s->fault == K8S_FAULT_TOO_LARGE_RV)
        version_unusable(r, SNAPSHOT);
    else if (s->fault == K8S_FAULT_BUSY || s->fault == K8S_FAULT_UNAUTHORIZED)
        pause_then(r, WATCHING, s->retry_after_ns);
    else
        pause_then(r, SNAPSHOT, s->retry_after_ns);
}

static void snapshot_refused(struct reflector *r, const struct k8s_status *s)
{
    if (s->fault == K8S_FAULT_EXPIRED || s->fault == K8S_FAULT_TOO_LARGE_RV) {
        version_unusable(r, SNAPSHOT);
    } else if (s->fault == K8S_FAULT_BUSY || s->fault == K8S_FAULT_UNAUTHORIZED) {
        pause_then(r, SNAPSHOT, s->retry_after_ns);
    } else {
        /* 400 and 422 are about the question; the others may be about this kind or this moment */
        if (s->fault == K8S_FAULT_INVALID)
            r->o.server->no_watch_list = true;
        r->refused_snapshot = true;
        ask_list(r);
    }
}

static void list_refused(struct reflector *r, const struct k8s_status *s)
{
    if (s->fault == K8S_FAULT_EXPIRED && r->page != NULL && !r->whole_list) {
        object_store_free(&r->next, r->o.trim);
        free(r->page);
        r->page = NULL;
        r->whole_list = true;
        ask_page(r);
    } else if (s->fault == K8S_FAULT_EXPIRED || s->fault == K8S_FAULT_TOO_LARGE_RV) {
        version_unusable(r, LISTING);
    } else {
        r->refused_snapshot = false; /* what refused both is not about watch-lists */
        pause_then(r, LISTING, s->retry_after_ns);
    }
}

static void refused(struct reflector *r, const struct k8s_status *s)
{
    static const char *const what[] = {[SNAPSHOT] = "watch-list", [LISTING] = "list", [WATCHING] = "watch"};
    struct err err = {0};
    int state = sm_now(&r->sm);
    (void)k8s_status_error(s, &err, "%s", what[state]);
    note_error(r, &err);
    if (state == WATCHING)
        watch_refused(r, s);
    else if (state == SNAPSHOT)
        snapshot_refused(r, s);
    else
        list_refused(r, s);
}

/* ---- objects ---- */

static const char *text_of(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return text != NULL ? text : "";
}

/* "namespace/name", or the name of what has no namespace. To be freed. */
static char *key_of(const char *namespace, const char *name)
{
    size_t before = strlen(namespace), length = strlen(name);
    char *key = mem_alloc(before + length + 2);
    memcpy(key, namespace, before);
    if (before > 0)
        key[before++] = '/';
    memcpy(key + before, name, length + 1);
    return key;
}

/* False: nothing that could be kept. The key is to be freed. */
static bool object_read(struct reflector *r, yyjson_val *json, bool keep, struct k8s_object *ret,
                        char **ret_key)
{
    yyjson_val *metadata = yyjson_obj_get(json, "metadata");
    const char *name = text_of(metadata, "name"), *namespace = text_of(metadata, "namespace");
    if (name[0] == '\0') {
        r->facts.skipped++;
        return false;
    }
    *ret_key = key_of(namespace, name);
    ret->key = *ret_key;
    ret->uid = text_of(metadata, "uid");
    ret->version = text_of(metadata, "resourceVersion");
    ret->value = keep && r->o.trim != NULL ? r->o.trim->make(json, r->o.trim->data) : NULL;
    return true;
}

static void object_changed(struct reflector *r, yyjson_val *json, bool deleted, struct object_store *store,
                           k8s_changed_cb cb)
{
    struct k8s_object object;
    char *key = NULL;
    if (!object_read(r, json, !deleted, &object, &key))
        return;
    if (deleted)
        object_store_remove(store, object.key, r->o.trim, cb, r->o.data);
    else
        object_store_put(store, &object, r->o.trim, cb, r->o.data);
    free(key);
}

static void snapshot_complete(struct reflector *r, const char *version)
{
    set_text(&r->version, version);
    r->version_unusable = false;
    r->synced = true;
    err_clear(&r->facts.last_error);
    object_store_replace(&r->store, &r->next, r->o.trim, r->o.changed, r->o.data);
}

/* ---- events ---- */

static void bookmark(struct reflector *r, yyjson_val *object)
{
    yyjson_val *metadata = yyjson_obj_get(object, "metadata");
    const char *version = text_of(metadata, "resourceVersion");
    bool end = strcmp(text_of(yyjson_obj_get(metadata, "annotations"), END_MARK), "true") == 0;
    r->facts.bookmarks++;
    r->bookmarks = true;
    if (version[0] == '\0')
        return;
    if (sm_now(&r->sm) == WATCHING) {
        set_text(&r->version, version);
    } else if (end) {
        snapshot_complete(r, version);
        sm_move(&r->sm, WATCHING);
    }
}

static void event_object(struct reflector *r, yyjson_val *object, bool deleted)
{
    const char *version = text_of(yyjson_obj_get(object, "metadata"), "resourceVersion");
    if (sm_now(&r->sm) == SNAPSHOT) { /* not in order of versions: none of them can be continued from */
        r->heard_ns = r->now_ns;
        object_changed(r, object, deleted, &r->next, NULL);
        return;
    }
    if (version[0] != '\0')
        set_text(&r->version, version); /* first: it is the version of a deletion, too */
    object_changed(r, object, deleted, &r->store, r->o.changed);
}

/* The text without what nobody reads. */
static yyjson_doc *text_parse(char *text, size_t length, const char *const *without)
{
    size_t left = json_cut(text, length, without);
    if (left < length)
        memset(text + left, 0, JSON_SPLIT_PADDING);
    return yyjson_read_opts(text, left, YYJSON_READ_INSITU, NULL, NULL);
}

static bool event_take(char *text, size_t length, void *data)
{
    static const char *const without[] = {"object", "metadata", "managedFields", NULL};
    struct reflector *r = data;
    yyjson_doc *doc = text_parse(text, length, without);
    yyjson_val *root = yyjson_doc_get_root(doc);
    yyjson_val *object = yyjson_obj_get(root, "object");
    const char *type = text_of(root, "type");
    r->facts.events++;
    r->events_of_watch++;
    if (strcmp(type, "BOOKMARK") == 0)
        bookmark(r, object);
    else if (strcmp(type, "ERROR") == 0)
        k8s_status_from_object(object, &r->stream_fault); /* acted on when the feed has returned */
    else if (strcmp(type, "ADDED") == 0 || strcmp(type, "MODIFIED") == 0)
        event_object(r, object, false);
    else if (strcmp(type, "DELETED") == 0)
        event_object(r, object, true);
    else
        r->facts.skipped++;
    yyjson_doc_free(doc);
    return r->stream_fault.fault == K8S_FAULT_NONE;
}

/* ---- lists ---- */

static bool item_take(char *text, size_t length, void *data)
{
    static const char *const without[] = {"metadata", "managedFields", NULL};
    struct reflector *r = data;
    yyjson_doc *doc = text_parse(text, length, without);
    if (doc == NULL)
        r->facts.skipped++;
    else
        object_changed(r, yyjson_doc_get_root(doc), false, &r->next, NULL);
    yyjson_doc_free(doc);
    return true;
}

static void page_complete(struct reflector *r)
{
    yyjson_doc *doc = yyjson_read(r->split.rest.data, r->split.rest.length, 0);
    yyjson_val *metadata = yyjson_obj_get(yyjson_doc_get_root(doc), "metadata");
    const char *more = text_of(metadata, "continue"), *version = text_of(metadata, "resourceVersion");
    if (doc == NULL || version[0] == '\0') {
        struct err err = {0};
        (void)err_set(&err, ERRC_PROTOCOL, "list: the answer is no list with a resourceVersion");
        note_error(r, &err);
        pause_then(r, LISTING, 0);
    } else if (more[0] != '\0') {
        set_text(&r->page, more);
        ask_page(r);
    } else {
        snapshot_complete(r, version);
        ask_watch(r);
    }
    yyjson_doc_free(doc);
}

/* ---- calls of the driver ---- */

static uint64_t deadline(const struct reflector *r)
{
    uint64_t silence;
    switch (sm_now(&r->sm)) {
    case PAUSED:
        return r->pause_ends_ns;
    case LISTING:
        return r->asked_ns + LIST_LIMIT_NS;
    case SNAPSHOT:
        return r->heard_ns + SNAPSHOT_QUIET_NS;
    case WATCHING:
        silence = r->heard_ns + SILENCE_NS;
        return r->bookmarks && silence < r->watch_ends_ns ? silence : r->watch_ends_ns;
    default:
        return 0;
    }
}

static void step_begin(struct reflector *r, uint64_t now_ns, struct reflector_step *step)
{
    memset(step, 0, sizeof *step);
    r->step = step;
    r->now_ns = now_ns;
}

static void step_end(struct reflector *r)
{
    r->step->deadline_ns = deadline(r);
    r->step = NULL;
}

void reflector_start(struct reflector *r, uint64_t now_ns, struct reflector_step *step)
{
    step_begin(r, now_ns, step);
    ask_all(r);
    step_end(r);
}

void reflector_stop(struct reflector *r, struct reflector_step *step)
{
    int state = sm_now(&r->sm);
    memset(step, 0, sizeof *step);
    step->abort = (state == SNAPSHOT || state == LISTING || state == WATCHING) && !r->broken;
    if (state != STOPPED)
        sm_move(&r->sm, STOPPED);
}

static bool asking(const struct reflector *r)
{
    int state = sm_now(&r->sm);
    return (state == SNAPSHOT || state == LISTING || state == WATCHING) && !r->broken;
}

void reflector_head(struct reflector *r, uint64_t now_ns, int status, const char *retry_after,
                    struct reflector_step *step)
{
    step_begin(r, now_ns, step);
    if (asking(r)) {
        r->status = status;
        if (retry_after != NULL && strlen(retry_after) < sizeof r->retry_after)
            memcpy(r->retry_after, retry_after, strlen(retry_after) + 1);
    }
    step_end(r);
}

/* The answer makes no sense: as if the connection had been lost there. */
static void nonsense(struct reflector *r, const struct err *err)
{
    note_error(r, err);
    drop(r);
    pause_then(r, sm_now(&r->sm) == LISTING ? LISTING : SNAPSHOT, 0);
}

static void stream_refused(struct reflector *r)
{
    struct k8s_status status = r->stream_fault;
    r->stream_fault.fault = K8S_FAULT_NONE;
    drop(r);
    refused(r, &status);
}

void reflector_data(struct reflector *r, uint64_t now_ns, const char *bytes, size_t length,
                    struct reflector_step *step)
{
    struct err err = {0};
    step_begin(r, now_ns, step);
    if (asking(r) && r->status >= 300) {
        (void)buf_add(&r->error_body, bytes, length);
    } else if (asking(r)) {
        r->facts.last_heard_ns = now_ns;
        if (sm_now(&r->sm) != SNAPSHOT)
            r->heard_ns = now_ns;
        bool listing = sm_now(&r->sm) == LISTING;
        if (json_split_feed(&r->split, bytes, length, listing ? item_take : event_take, r, &err) != 0)
            nonsense(r, &err);
        else if (r->stream_fault.fault != K8S_FAULT_NONE)
            stream_refused(r);
    }
    step_end(r);
}

static void answer_refused(struct reflector *r)
{
    struct k8s_status status;
    k8s_status_from_answer(r->status, buf_text(&r->error_body), r->error_body.length,
                           r->retry_after[0] != '\0' ? r->retry_after : NULL, &status);
    refused(r, &status);
}

static void watch_ended(struct reflector *r, const struct err *err)
{
    bool was_short = r->now_ns - r->asked_ns < SHORT_WATCH_NS && r->events_of_watch == 0;
    if (r->status == 0) { /* no answer at all: a lost or refused connection says nothing about the version */
        note_error(r, err);
        pause_then(r, WATCHING, 0);
    } else if (was_short) {
        struct err short_watch = {0};
        (void)err_set(&short_watch, ERRC_UNAVAILABLE, "watch: ended within a second without any event");
        note_error(r, &short_watch);
        pause_then(r, SNAPSHOT, 0);
    } else {
        ask_watch(r);
    }
}

void reflector_end(struct reflector *r, uint64_t now_ns, const struct err *err, struct reflector_step *step)
{
    static const struct err ended = {.code = ERRC_CLOSED, .message = "the API server ended the answer early"};
    step_begin(r, now_ns, step);
    if (!asking(r)) {
        step_end(r);
        return;
    }
    int state = sm_now(&r->sm);
    r->broken = true; /* there is nothing to drop any more */
    if (r->status >= 300) {
        answer_refused(r);
    } else if (state == WATCHING) {
        watch_ended(r, err != NULL ? err : &ended);
    } else if (state == LISTING && err == NULL && json_split_complete(&r->split)) {
        page_complete(r);
    } else if (state == SNAPSHOT && err == NULL) { /* an end without the end mark: it does not know it */
        note_error(r, &ended);
        r->refused_snapshot = true;
        pause_then(r, LISTING, 0);
    } else {
        note_error(r, err != NULL ? err : &ended);
        pause_then(r, state, 0);
    }
    step_end(r);
}

static void snapshot_silent(struct reflector *r)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_TIMEOUT, "watch-list: no end mark; going on with list and watch");
    note_error(r, &err);
    r->o.server->no_watch_list = r->status != 0 || r->o.server->no_watch_list;
    r->refused_snapshot = true;
    drop(r);
    ask_list(r);
}

static void watch_silent(struct reflector *r)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_TIMEOUT, "watch: nothing heard for %llu s, the connection is taken for dead",
                  (unsigned long long)((r->now_ns - r->heard_ns) / ENV_NS_PER_S));
    note_error(r, &err);
    drop(r);
    ask_watch(r);
}

static void list_silent(struct reflector *r)
{
    struct err err = {0};
    (void)err_set(&err, ERRC_TIMEOUT, "list: not complete after %llu s", LIST_LIMIT_NS / ENV_NS_PER_S);
    note_error(r, &err);
    drop(r);
    pause_then(r, LISTING, 0);
}

void reflector_tick(struct reflector *r, uint64_t now_ns, struct reflector_step *step)
{
    step_begin(r, now_ns, step);
    uint64_t due = deadline(r);
    if (due != 0 && now_ns >= due) {
        int state = sm_now(&r->sm);
        if (state == PAUSED)
            resume(r, r->after);
        else if (state == SNAPSHOT)
            snapshot_silent(r);
        else if (state == LISTING)
            list_silent(r);
        else
            watch_silent(r);
    }
    step_end(r);
}
