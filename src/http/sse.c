#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/text.h"
#include "http/http_exchange.h"
#include "http/http_server.h"

#define UNSENT_LIMIT (256u * 1024u)
#define HEARTBEAT_NS (15 * ENV_NS_PER_S)
#define BOOT_SIZE    8

/* An encoded event, shared by the topic's memory and every client it is being sent to. */
struct sse_message {
    int refs;
    uint64_t id;
    size_t length;
    char *text;
};

struct sse_topic {
    struct loop *loop;
    char *name;
    char boot[BOOT_SIZE + 1]; /* ids of an earlier process mean nothing here */
    size_t keep;
    struct sse_message **ring; /* of `keep` places, by id modulo keep */
    uint64_t last_id;
    struct list clients;
    int client_count;
    struct loop_timer heartbeat;
};

struct sse_client {
    struct list node;
    struct sse_topic *topic;
    struct http_exchange *ex;
    size_t burst;        /* unsent bytes allowed beyond the limit: the replay or snapshot it began with */
    size_t last_pending; /* at the last heartbeat */
};

static void message_unref(void *owner)
{
    struct sse_message *m = owner;
    if (m != NULL && --m->refs == 0) {
        free(m->text);
        free(m);
    }
}

static void line_add(struct buf *out, const char *field, const char *text, size_t length)
{
    buf_printf(out, "%s: ", field);
    buf_add(out, text, length);
    buf_addc(out, '\n');
}

/* Every line of the data becomes a line of its own; CR, LF and CRLF all end lines. */
static struct sse_message *message_new(const struct sse_topic *topic, uint64_t id, const char *event,
                                       const char *data)
{
    struct buf out = {0};
    buf_printf(&out, "id: %s-%llu\n", topic->boot, (unsigned long long)id);
    line_add(&out, "event", event, strcspn(event, "\r\n"));
    for (const char *p = data;;) {
        size_t length = strcspn(p, "\r\n");
        line_add(&out, "data", p, length);
        p += length;
        if (*p == '\0') {
            break;
        }
        p += p[0] == '\r' && p[1] == '\n' ? 2 : 1;
    }
    buf_addc(&out, '\n');
    struct sse_message *m = mem_zalloc(sizeof *m);
    m->refs = 1;
    m->id = id;
    m->length = out.length;
    m->text = buf_take(&out);
    return m;
}

/* ---- clients ---- */

static void client_free(struct sse_client *client)
{
    list_remove(&client->node);
    if (--client->topic->client_count == 0) {
        loop_timer_stop(&client->topic->heartbeat);
    }
    free(client);
}

static void client_lost(struct http_exchange *ex, void *data)
{
    (void)ex;
    client_free(data);
}

static void client_end(struct sse_client *client, bool orderly)
{
    exchange_stream_end(client->ex, orderly);
    client_free(client);
}

/* False if the client is no more. */
static bool client_send(struct sse_client *client, struct sse_message *m)
{
    m->refs++;
    if (exchange_stream_write(client->ex, m->text, m->length, message_unref, m)) {
        return true;
    }
    message_unref(m);
    client_end(client, false);
    return false;
}

/* S2: one that does not read is cut off; it comes back with its Last-Event-ID. */
static bool client_is_slow(struct sse_client *client)
{
    size_t pending = exchange_stream_pending(client->ex);
    if (pending <= UNSENT_LIMIT) {
        client->burst = 0;
    }
    return pending > UNSENT_LIMIT + client->burst;
}

static void topic_heartbeat(struct loop_timer *timer, void *data)
{
    struct sse_topic *topic = data;
    static const char beat[] = ":\n\n";
    list_each(node, &topic->clients)
    {
        struct sse_client *client = list_item(node, struct sse_client, node);
        size_t pending = exchange_stream_pending(client->ex);
        bool stuck = pending > 0 && client->last_pending > 0 && pending >= client->last_pending;
        client->last_pending = pending;
        if (stuck) {
            client_end(client, false);
        } else if (pending == 0) {
            struct sse_message *m = mem_zalloc(sizeof *m);
            m->refs = 1;
            m->length = sizeof beat - 1;
            m->text = mem_strdup(beat);
            client_send(client, m);
            message_unref(m);
        }
    }
    if (topic->client_count > 0) {
        loop_timer_start(timer, HEARTBEAT_NS);
    }
}

/* ---- topics ---- */

struct sse_topic *sse_topic_new(struct loop *loop, const char *name, size_t keep)
{
    struct sse_topic *topic = mem_zalloc(sizeof *topic);
    topic->loop = loop;
    topic->name = mem_strdup(name);
    topic->keep = keep;
    topic->ring = mem_array(keep == 0 ? 1 : keep, sizeof *topic->ring);
    env_random_text(loop->env, topic->boot, BOOT_SIZE);
    list_init(&topic->clients);
    loop_timer_init(loop, &topic->heartbeat, topic_heartbeat, topic);
    return topic;
}

void sse_topic_free(struct sse_topic *topic)
{
    if (topic == NULL) {
        return;
    }
    list_each(node, &topic->clients)
    {
        client_end(list_item(node, struct sse_client, node), true);
    }
    loop_timer_stop(&topic->heartbeat);
    for (size_t i = 0; i < topic->keep; i++) {
        message_unref(topic->ring[i]);
    }
    free(topic->ring);
    free(topic->name);
    free(topic);
}

uint64_t sse_publish(struct sse_topic *topic, const char *event, const char *data)
{
    struct sse_message *m = message_new(topic, ++topic->last_id, event, data);
    list_each(node, &topic->clients)
    {
        struct sse_client *client = list_item(node, struct sse_client, node);
        if (client_is_slow(client)) {
            client_end(client, false);
        } else {
            client_send(client, m);
        }
    }
    if (topic->keep > 0) {
        struct sse_message **place = &topic->ring[m->id % topic->keep];
        message_unref(*place);
        *place = m;
    } else {
        message_unref(m);
    }
    return topic->last_id;
}

/* The oldest event still kept; last_id + 1 if none is. */
static uint64_t topic_oldest(const struct sse_topic *topic)
{
    return topic->last_id > topic->keep ? topic->last_id - topic->keep + 1 : 1;
}

/* The event after which the client wants to go on; false if it did not say, or we cannot know. */
static bool resume_point(const struct sse_topic *topic, const struct http_exchange *ex, uint64_t *ret)
{
    const char *id = http_request_header(ex, "last-event-id");
    if (id == NULL || strncmp(id, topic->boot, BOOT_SIZE) != 0 || id[BOOT_SIZE] != '-') {
        return false;
    }
    uint64_t seen;
    if (!text_to_uint64(id + BOOT_SIZE + 1, &seen) || seen > topic->last_id ||
        seen + 1 < topic_oldest(topic)) {
        return false;
    }
    *ret = seen;
    return true;
}

static bool client_greet(struct sse_client *client)
{
    struct buf hello = {0};
    buf_printf(&hello, ": %s\nretry: 2000\n\n", client->topic->name);
    struct sse_message *m = mem_zalloc(sizeof *m);
    m->refs = 1;
    m->length = hello.length;
    m->text = buf_take(&hello);
    bool ok = client_send(client, m);
    message_unref(m);
    return ok;
}

static bool client_replay(struct sse_client *client, uint64_t seen)
{
    const struct sse_topic *topic = client->topic;
    for (uint64_t id = seen + 1; id <= topic->last_id; id++) {
        struct sse_message *m = topic->ring[id % topic->keep];
        client->burst += m->length;
        if (!client_send(client, m)) {
            return false;
        }
    }
    return true;
}

static void client_snapshot(struct sse_client *client, const char *event, const char *data)
{
    struct sse_message *m = message_new(client->topic, client->topic->last_id, event, data);
    client->burst += m->length;
    client_send(client, m);
    message_unref(m);
}

void sse_subscribe(struct sse_topic *topic, struct http_exchange *ex, const char *first_event,
                   const char *first_data)
{
    uint64_t seen = 0;
    bool asked = http_request_header(ex, "last-event-id") != NULL;
    bool resumes = resume_point(topic, ex, &seen);
    struct sse_client *client = mem_zalloc(sizeof *client);
    http_set_header(ex, "Cache-Control", "no-cache");
    http_set_header(ex, "X-Accel-Buffering", "no"); /* or nginx holds events back */
    if (!exchange_stream_begin(ex, 200, "text/event-stream", client_lost, client)) {
        free(client);
        return;
    }
    client->topic = topic;
    client->ex = ex;
    list_append(&topic->clients, &client->node);
    if (topic->client_count++ == 0) {
        loop_timer_start(&topic->heartbeat, HEARTBEAT_NS);
    }
    if (!client_greet(client)) {
        return;
    }
    if (resumes) {
        client_replay(client, seen);
    } else if (first_event != NULL) {
        client_snapshot(client, first_event, first_data);
    } else if (asked) {
        client_replay(client, topic_oldest(topic) - 1);
    }
}

int sse_clients(const struct sse_topic *topic)
{
    return topic->client_count;
}
