/*
 * Event streams. One topic for each database's routing table, made when somebody first follows it, and one
 * for everything. An operation's progress goes out at most every EVERY_NS; what was held back goes out by a
 * timer, so that the last word is never lost. A change of state or status goes out at once.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"

#define EVERY_NS     (200 * ENV_NS_PER_MS) /* 5/s */
#define ROUTING_KEEP 8
#define EVENTS_KEEP  512

struct routing_stream {
    struct list node;
    char *database;
    struct sse_topic *topic;
};

/* What was last told of a running operation. */
struct told {
    struct list node;
    struct api_events *events;
    char id[OPERATION_ID_SIZE];
    char state[API_STATE_SIZE];
    uint64_t at_ns;
    struct loop_timer timer; /* armed while something is held back */
};

struct api_events {
    struct api *api;
    struct sse_topic *all;
    struct list routings; /* of struct routing_stream */
    struct list told;     /* of struct told: running operations only */
};

struct api_events *api_events_new(struct api *api)
{
    struct api_events *events = mem_zalloc(sizeof *events);
    events->api = api;
    events->all = sse_topic_new(api->services.loop, "events", EVENTS_KEEP);
    list_init(&events->routings);
    list_init(&events->told);
    return events;
}

static void stream_free(struct routing_stream *stream)
{
    list_remove(&stream->node);
    sse_topic_free(stream->topic);
    free(stream->database);
    free(stream);
}

static void told_free(struct told *told)
{
    loop_timer_stop(&told->timer);
    list_remove(&told->node);
    free(told);
}

void api_events_free(struct api_events *events)
{
    list_each(stream, &events->routings)
    {
        stream_free(list_item(stream, struct routing_stream, node));
    }
    list_each(told, &events->told)
    {
        told_free(list_item(told, struct told, node));
    }
    sse_topic_free(events->all);
    free(events);
}

static struct routing_stream *stream_find(const struct api_events *events, const char *database)
{
    list_each(node, &events->routings)
    {
        struct routing_stream *stream = list_item(node, struct routing_stream, node);
        if (strcmp(stream->database, database) == 0)
            return stream;
    }
    return NULL;
}

static struct routing_stream *stream_make(struct api_events *events, const char *database)
{
    struct routing_stream *stream = mem_zalloc(sizeof *stream);
    char name[API_NAME_SIZE + 16];
    snprintf(name, sizeof name, "routing of %.100s", database);
    stream->database = mem_strdup(database);
    stream->topic = sse_topic_new(events->api->services.loop, name, ROUTING_KEEP);
    list_append(&events->routings, &stream->node);
    return stream;
}

/* Publishes to everybody and frees the document. */
static void publish(struct api_events *events, const char *event, yyjson_mut_doc *doc)
{
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    if (text != NULL)
        sse_publish(events->all, event, text);
    free(text);
}

/* ---- followers ---- */

void api_get_routing_events(struct api_call *call)
{
    const struct fleet_database *db = api_find_routed(call);
    if (db == NULL)
        return;
    struct routing_stream *stream = stream_find(call->api->events, db->name);
    if (stream == NULL)
        stream = stream_make(call->api->events, db->name);
    struct buf json = {0};
    routing_print(db->routing, &json);
    sse_subscribe(stream->topic, call->ex, "routing", buf_text(&json));
    buf_free(&json);
}

static void print_epoch(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct fleet_database *db)
{
    json_text(doc, object, "database", db->name);
    json_uint64(doc, object, "epoch", db->routing->epoch);
}

void api_get_events(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    yyjson_mut_val *databases = yyjson_mut_obj_add_arr(doc, root, "databases");
    list_each(node, &s->fleet->databases)
    {
        const struct fleet_database *db = list_item(node, struct fleet_database, node);
        if (db->routing != NULL)
            print_epoch(doc, yyjson_mut_arr_add_obj(doc, databases), db);
    }
    yyjson_mut_val *running = yyjson_mut_obj_add_arr(doc, root, "operations");
    list_each(other, &s->operations->list)
    {
        const struct operation *op = list_item(other, struct operation, node);
        if (op->status == OPERATION_RUNNING)
            api_print_operation(doc, yyjson_mut_arr_add_obj(doc, running), op, false);
    }
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    sse_subscribe(call->api->events->all, call->ex, "snapshot", text != NULL ? text : "{}");
    free(text);
}

/* ---- hooks ---- */

void api_routing_changed(struct api *api, const struct fleet_database *db)
{
    struct routing_stream *stream = stream_find(api->events, db->name);
    if (db->routing == NULL)
        return;
    if (stream != NULL) {
        struct buf json = {0};
        routing_print(db->routing, &json);
        sse_publish(stream->topic, "routing", buf_text(&json));
        buf_free(&json);
    }
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    print_epoch(doc, root, db);
    publish(api->events, "routing", doc);
}

void api_database_removed(struct api *api, const char *name)
{
    struct routing_stream *stream = stream_find(api->events, name);
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_text(doc, root, "database", name);
    if (stream != NULL) {
        char *text = yyjson_mut_write(doc, 0, NULL);
        sse_publish(stream->topic, "removed", text != NULL ? text : "{}");
        free(text);
        stream_free(stream);
    }
    publish(api->events, "removed", doc);
}

void api_decided(struct api *api, const struct api_decision *decision)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_decision(doc, root, decision);
    publish(api->events, "decision", doc);
}

void api_instance_changed(struct api *api, const struct fleet_instance *instance)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_instance(api, doc, root, instance);
    publish(api->events, "instance", doc);
}

void api_instance_removed(struct api *api, const char *name)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_text(doc, root, "name", name);
    publish(api->events, "instance_removed", doc);
}

void api_instance_restarted(struct api *api, const struct api_restart *restart)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_text(doc, root, "name", restart->instance);
    json_text(doc, root, "database", restart->database);
    json_text(doc, root, "shard", restart->shard);
    yyjson_mut_obj_add_bool(doc, root, "started", restart->error == NULL);
    yyjson_mut_obj_add_uint(doc, root, "tries", restart->tries);
    yyjson_mut_obj_add_uint(doc, root, "next_seconds", restart->next_seconds);
    json_text(doc, root, "error", restart->error);
    publish(api->events, "instance_restart", doc);
}

/* ---- operations ---- */

static void operation_tell(struct api_events *events, struct told *told, const struct operation *op)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_operation(doc, root, op, false);
    publish(events, "operation", doc);
    if (told != NULL) {
        loop_timer_stop(&told->timer);
        api_operation_state(op, told->state);
        told->at_ns = loop_now(events->api->services.loop);
    }
}

/* It may be gone by now: then its end was told. */
static void told_due(struct loop_timer *timer, void *data)
{
    struct told *told = data;
    const struct operation *op = operations_find(told->events->api->services.operations, told->id);
    (void)timer;
    if (op != NULL)
        operation_tell(told->events, told, op);
    else
        told_free(told);
}

static struct told *told_find(const struct api_events *events, const char *id)
{
    list_each(node, &events->told)
    {
        struct told *told = list_item(node, struct told, node);
        if (strcmp(told->id, id) == 0)
            return told;
    }
    return NULL;
}

static struct told *told_make(struct api_events *events, const struct operation *op)
{
    struct told *told = mem_zalloc(sizeof *told);
    told->events = events;
    snprintf(told->id, sizeof told->id, "%s", op->id);
    loop_timer_init(events->api->services.loop, &told->timer, told_due, told);
    list_append(&events->told, &told->node);
    return told;
}

void api_operation_changed(struct api *api, const struct operation *op)
{
    struct api_events *events = api->events;
    struct told *told = told_find(events, op->id);
    char state[API_STATE_SIZE];
    api_operation_state(op, state);
    if (op->status != OPERATION_RUNNING) {
        operation_tell(events, NULL, op);
        if (told != NULL)
            told_free(told);
        return;
    }
    if (told == NULL || strcmp(told->state, state) != 0 ||
        loop_now(api->services.loop) - told->at_ns >= EVERY_NS)
        operation_tell(events, told != NULL ? told : told_make(events, op), op);
    else if (!loop_timer_armed(&told->timer))
        loop_timer_start_at(&told->timer, told->at_ns + EVERY_NS);
}
