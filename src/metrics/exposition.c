/*
 * Puts the text of a scrape together, family by family, instance by instance, in slices. The texts of one
 * instance are copied: a family of a thousand instances is a thousand texts of some 100 bytes, and a write of
 * each by itself costs ten times what copying them into chunks of 256 KiB does.
 */
#include "metrics/exposition.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/exposition_impl.h"
#include "metrics/families.h"
#include "metrics/render.h"

#define CHUNK_BYTES   (256u * 1024u)
#define SLICE_NS      (2 * ENV_NS_PER_MS) /* then the loop may do something else */
#define SLICE_CHECK   16u                 /* texts between two looks at the clock */
#define FRESH_NS      (500 * ENV_NS_PER_MS)
#define SNAPSHOTS_MAX 8u /* one for each group of slow readers; more get 503 */
#define RESTARTS_MAX  3u
#define STALE_PERIODS 3u

static const struct metric_family health_family = {
    "shard_health_status", METRIC_GAUGE,
    "1 while the instance is taken for alive, 0 when it is taken for down."};

/* ---- snapshots ---- */

static void close_if_done(struct exposition *e)
{
    if (!e->closing || e->snapshots > 0 || e->working)
        return;
    void (*closed)(void *) = e->closed;
    void *data = e->closed_data;
    loop_timer_stop(&e->expiry);
    loop_timer_stop(&e->next);
    loop_task_cancel(&e->assemble);
    free(e->version);
    free(e->commit);
    free(e);
    if (closed != NULL)
        closed(data);
}

static void snapshot_free(struct snapshot *s)
{
    s->exposition->snapshots--;
    for (size_t i = 0; i < s->count; i++)
        free(s->chunks[i]);
    free((void *)s->chunks);
    free(s->pieces);
    free(s);
}

static void snapshot_unref(struct snapshot *s)
{
    assert(s->users > 0);
    if (--s->users > 0)
        return;
    struct exposition *e = s->exposition;
    snapshot_free(s);
    if (e->closing)
        loop_defer(e->loop, &e->assemble); /* ends the closing, not from inside this call */
}

static void snapshot_released(void *owner)
{
    snapshot_unref(owner);
}

static void snapshot_grow(struct snapshot *s)
{
    if (s->count == s->capacity) {
        s->capacity = s->capacity > 0 ? s->capacity * 2 : 16;
        s->chunks = mem_resize((void *)s->chunks, s->capacity, sizeof *s->chunks);
        s->pieces = mem_resize(s->pieces, s->capacity, sizeof *s->pieces);
    }
    s->chunks[s->count] = mem_alloc(CHUNK_BYTES);
    s->pieces[s->count] = (struct http_piece){s->chunks[s->count], 0};
    s->room = CHUNK_BYTES;
    s->count++;
}

static void snapshot_add(struct snapshot *s, const char *text, size_t length)
{
    while (length > 0) {
        if (s->room == 0)
            snapshot_grow(s);
        size_t n = length < s->room ? length : s->room;
        struct http_piece *piece = &s->pieces[s->count - 1];
        memcpy(s->chunks[s->count - 1] + piece->length, text, n);
        piece->length += n;
        s->room -= n;
        text += n;
        length -= n;
    }
}

static struct snapshot *snapshot_new(struct exposition *e)
{
    struct snapshot *s = mem_zalloc(sizeof *s);
    s->exposition = e;
    s->users = 1;
    e->snapshots++;
    return s;
}

/* ---- families ---- */

static const struct metric_family *cursor_family(const struct exposition *e)
{
    const struct cursor *c = &e->cursor;
    switch (c->part) {
    case PART_STATUS:
        return c->family < STATUS_FAMILIES ? &status_families[c->family] : NULL;
    case PART_HEALTH:
        return c->family < 1 ? &health_family : NULL;
    case PART_VALUES:
        return c->family < VALUE_FAMILIES ? &value_families[c->family] : NULL;
    case PART_HISTOGRAMS:
        return c->family < HISTOGRAM_FAMILIES ? &histogram_families[c->family] : NULL;
    case PART_QUERIES: {
        const struct query *query = query_get((enum query_id)c->query);
        return c->family < query->column_count ? &query->columns[c->family].family : NULL;
    }
    case PART_DYNAMIC:
        return c->family < dynamic_families_count(e->pollers->dynamic)
                   ? dynamic_family(e->pollers->dynamic, c->family)
                   : NULL;
    default:
        return NULL;
    }
}

/* Values of an instance that has not answered for three periods are no longer true. */
static bool stale(const struct poller *p, enum poll_group group, uint64_t rendered_ns, uint64_t now)
{
    const struct pollers_options *o = &p->pollers->options;
    if (!p->up && now - p->down_ns > STALE_PERIODS * o->period_ns[POLL_LOAD])
        return true;
    return now - rendered_ns > STALE_PERIODS * o->period_ns[group] + o->deadline_ns;
}

static const struct samples *cursor_samples(const struct exposition *e, const struct poller *p, uint64_t now)
{
    const struct cursor *c = &e->cursor;
    switch (c->part) {
    case PART_STATUS:
        return p->status;
    case PART_VALUES:
        return stale(p, POLL_LOAD, p->values_ns, now) ? NULL : p->values;
    case PART_HISTOGRAMS:
        return stale(p, POLL_LOAD, p->values_ns, now) ? NULL : p->histograms;
    default: {
        enum query_id id = c->part == PART_DYNAMIC ? QUERY_SETTINGS : (enum query_id)c->query;
        const struct poller_slot *slot = &p->slots[id];
        uint64_t as_of = query_get(id)->once ? p->values_ns : slot->rendered_ns;
        return stale(p, query_get(id)->group, as_of, now) ? NULL : slot->samples;
    }
    }
}

static void add_slice(struct exposition *e, const char *text, size_t length)
{
    struct cursor *c = &e->cursor;
    if (length == 0)
        return;
    if (!c->headed) {
        struct buf head = {0};
        metric_add_head(&head, cursor_family(e));
        snapshot_add(e->making, head.data, head.length);
        buf_free(&head);
        c->headed = true;
    }
    snapshot_add(e->making, text, length);
}

static void add_health(struct exposition *e, const struct poller *p)
{
    enum instance_health health = p->instance->facts.health;
    bool alive = health == HEALTH_UNKNOWN ? p->up : health != HEALTH_DOWN;
    struct buf text = {0};
    metric_add_sample(&text, health_family.name, p->own_labels, alive);
    add_slice(e, text.data, text.length);
    buf_free(&text);
}

static void add_instance(struct exposition *e, const struct poller *p, uint64_t now)
{
    const struct cursor *c = &e->cursor;
    if (c->part == PART_HEALTH) {
        add_health(e, p);
        return;
    }
    const struct samples *s = cursor_samples(e, p, now);
    if (s != NULL && c->family < s->families)
        add_slice(e, s->text + s->offsets[c->family], s->offsets[c->family + 1] - s->offsets[c->family]);
}

static void cursor_next_part(struct exposition *e)
{
    struct cursor *c = &e->cursor;
    c->family = 0;
    c->index = 0;
    c->headed = false;
    if (c->part == PART_QUERIES && c->query + 1 < QUERIES)
        c->query++;
    else
        c->part++;
}

/* ---- the assembly ---- */

static bool slice_is_over(const struct exposition *e)
{
    return loop_clock(e->loop) - e->slice_started_ns > SLICE_NS;
}

/* One family over all instances, or as many as the slice allows: false = the slice is over. */
static bool assemble_family(struct exposition *e, uint64_t now)
{
    struct cursor *c = &e->cursor;
    const struct pollers *pollers = e->pollers;
    while (c->index < pollers->table_size) {
        struct poller *p = pollers->table[c->index++];
        if (p != NULL && c->part == PART_STATUS && c->family == 0)
            poller_text_update(p); /* once: all families of a scrape show one moment of it */
        if (p != NULL)
            add_instance(e, p, now);
        if (c->index % SLICE_CHECK == 0 && slice_is_over(e))
            return false;
    }
    c->family++;
    c->index = 0;
    c->headed = false;
    return true;
}

static void assemble_own(struct exposition *e)
{
    struct buf text = {0};
    own_families(e, &text);
    snapshot_add(e->making, buf_text(&text), text.length);
    buf_free(&text);
}

/* False = the slice is over, there is more to do. */
static bool assemble_slice(struct exposition *e)
{
    struct cursor *c = &e->cursor;
    uint64_t now = loop_now(e->loop);
    unsigned steps = 0;
    while (c->part != PART_END) {
        if (c->part == PART_OWN) {
            assemble_own(e);
            cursor_next_part(e);
        } else if (e->pollers == NULL || cursor_family(e) == NULL) {
            cursor_next_part(e);
        } else if (!assemble_family(e, now)) {
            return false;
        }
        if (++steps % SLICE_CHECK == 0 && slice_is_over(e))
            return false;
    }
    return true;
}

static void assembly_begin(struct exposition *e)
{
    e->making = snapshot_new(e);
    e->cursor = (struct cursor){.generation = e->pollers != NULL ? e->pollers->generation : 0};
}

/* The set of instances changed: one of them could be met twice or not at all. */
static void assembly_check_set(struct exposition *e)
{
    if (e->pollers == NULL || e->cursor.generation == e->pollers->generation || e->restarts >= RESTARTS_MAX)
        return;
    e->restarts++;
    snapshot_unref(e->making);
    assembly_begin(e);
}

static void respond(struct exposition *e, struct snapshot *s, struct http_exchange *ex)
{
    (void)e;
    s->users++;
    http_respond_pieces(ex, 200, METRIC_CONTENT_TYPE, s->pieces, s->count, snapshot_released, s);
}

static void fresh_drop(struct exposition *e)
{
    struct snapshot *s = e->fresh;
    e->fresh = NULL;
    loop_timer_stop(&e->expiry);
    if (s != NULL)
        snapshot_unref(s);
}

static void on_expiry(struct loop_timer *timer, void *data)
{
    (void)timer;
    fresh_drop(data);
}

static void assembly_finish(struct exposition *e)
{
    struct snapshot *s = e->making;
    e->making = NULL;
    s->made_ns = loop_now(e->loop);
    e->assembly_ns = loop_clock(e->loop) - e->assembly_started_ns;
    e->bytes_last = 0;
    for (size_t i = 0; i < s->count; i++)
        e->bytes_last += s->pieces[i].length;
    fresh_drop(e);
    e->fresh = s; /* takes over the assembly's reference */
    loop_timer_start(&e->expiry, FRESH_NS);
    struct list *node;
    while ((node = list_first(&e->scrapes)) != NULL) {
        struct scrape *scrape = list_item(node, struct scrape, node);
        list_remove(node);
        respond(e, s, scrape->ex);
        free(scrape);
    }
}

static void assemble(struct exposition *e)
{
    if (e->closing) {
        close_if_done(e);
        return;
    }
    if (e->making == NULL)
        return;
    e->slice_started_ns = loop_clock(e->loop);
    e->slices++;
    assembly_check_set(e);
    bool done = assemble_slice(e);
    uint64_t took = loop_clock(e->loop) - e->slice_started_ns;
    if (took > e->slice_longest_ns)
        e->slice_longest_ns = took;
    if (done)
        assembly_finish(e);
    else
        loop_timer_start(&e->next, 0);
}

static void on_assemble(struct loop_task *task, void *data)
{
    (void)task;
    assemble(data);
}

static void on_next(struct loop_timer *timer, void *data)
{
    (void)timer;
    assemble(data);
}

/* ---- the process ---- */

#define PROCESS_PERIOD_NS (5 * ENV_NS_PER_S)

static void on_process_run(struct work *work)
{
    struct exposition *e = work->data;
    process_facts_read(&e->found);
}

static void on_process_read(struct work *work, int code)
{
    struct exposition *e = work->data;
    e->working = false;
    if (code == 0) {
        e->process = e->found;
        e->process.read_ns = loop_now(e->loop);
    }
    close_if_done(e);
}

static void process_refresh(struct exposition *e)
{
    uint64_t now = loop_now(e->loop);
    if (e->working || (e->process.read_ns != 0 && now - e->process.read_ns < PROCESS_PERIOD_NS))
        return;
    e->working = work_start(e->loop, &e->work, on_process_run, on_process_read, e) == 0;
}

/* ---- life ---- */

struct exposition *exposition_new(struct loop *loop, struct pollers *pollers,
                                  const struct exposition_options *options)
{
    struct exposition *e = mem_zalloc(sizeof *e);
    e->loop = loop;
    e->pollers = pollers;
    if (options != NULL)
        e->options = *options;
    e->version = mem_strdup(e->options.version != NULL ? e->options.version : "");
    e->commit = mem_strdup(e->options.commit != NULL ? e->options.commit : "");
    e->started_us = loop_wall(loop);
    list_init(&e->scrapes);
    loop_timer_init(loop, &e->expiry, on_expiry, e);
    loop_timer_init(loop, &e->next, on_next, e);
    e->assemble.run = on_assemble;
    e->assemble.data = e;
    process_refresh(e);
    return e;
}

static void refuse(struct exposition *e, struct http_exchange *ex, const char *why)
{
    e->refused_total++;
    http_set_header(ex, "Retry-After", "1");
    http_problem(ex, 503, "unavailable", "%s", why);
}

void exposition_close(struct exposition *e, void (*closed)(void *data), void *data)
{
    if (e == NULL || e->closing)
        return;
    e->closing = true;
    e->closed = closed;
    e->closed_data = data;
    struct list *node;
    while ((node = list_first(&e->scrapes)) != NULL) {
        struct scrape *scrape = list_item(node, struct scrape, node);
        list_remove(node);
        refuse(e, scrape->ex, "shutting down");
        free(scrape);
    }
    loop_timer_stop(&e->next);
    if (e->making != NULL)
        snapshot_unref(e->making);
    e->making = NULL;
    fresh_drop(e);
    loop_defer(e->loop, &e->assemble);
}

void exposition_handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    struct exposition *e = data;
    if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0) {
        http_set_header(ex, "Allow", "GET, HEAD");
        http_problem(ex, 405, "method_not_allowed", "%s is not possible here, GET is", request->method);
        return;
    }
    if (e->closing) {
        refuse(e, ex, "shutting down");
        return;
    }
    e->scrapes_total++;
    process_refresh(e);
    if (e->fresh != NULL && loop_now(e->loop) - e->fresh->made_ns < FRESH_NS) {
        respond(e, e->fresh, ex);
        return;
    }
    if (e->making == NULL && e->snapshots >= SNAPSHOTS_MAX) {
        refuse(e, ex, "too many slow scrapes are being written");
        return;
    }
    struct scrape *scrape = mem_zalloc(sizeof *scrape);
    scrape->ex = ex;
    list_append(&e->scrapes, &scrape->node);
    if (e->making != NULL)
        return;
    e->assembly_started_ns = loop_clock(e->loop);
    e->restarts = 0;
    e->slices = 0;
    assembly_begin(e);
    loop_defer(e->loop, &e->assemble);
}
