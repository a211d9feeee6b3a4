#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/sm.h"
#include "k8s/backoff.h"
#include "k8s/json_split.h"
#include "store/etcd_keys.h"
#include "store/etcd_watch.h"

#define PAGE_KEYS  64
#define LINE_LIMIT (16u * 1024u * 1024u)  /* fragments have etcd's request limit, 1.5 MiB */
#define HELD_LIMIT (256u * 1024u * 1024u) /* of the fragments of one message */
#define SILENCE_NS (60 * ENV_NS_PER_S)
#define PAUSE_NS   (100 * ENV_NS_PER_MS)

/*
 * State     waits for                                woken by
 * LOADING   a page of the keys                       page_answered
 * PROBING   whether the position is up to date       probe_answered
 * WATCHING  events                                   stream_data, stream_ended
 * PAUSED    the next try: a load or a watch          timer
 * CLOSING   the end of the call or stream
 */
enum { LOADING, PROBING, WATCHING, PAUSED, CLOSING, STATE_MAX };

static const struct sm_state states[STATE_MAX] = {
    [LOADING] = {"loading", SM_NEXT(LOADING) | SM_NEXT(PROBING) | SM_NEXT(PAUSED) | SM_NEXT(CLOSING), false},
    [PROBING] = {"probing", SM_NEXT(LOADING) | SM_NEXT(WATCHING) | SM_NEXT(PAUSED) | SM_NEXT(CLOSING), false},
    [WATCHING] = {"watching", SM_NEXT(PROBING) | SM_NEXT(LOADING) | SM_NEXT(PAUSED) | SM_NEXT(CLOSING),
                  false},
    [PAUSED] = {"paused", SM_NEXT(LOADING) | SM_NEXT(PROBING) | SM_NEXT(CLOSING), false},
    [CLOSING] = {"closing", 0, true},
};

/* A change that is not shown yet: of a reload, or of a message whose last fragment is still to come. */
struct held {
    struct list node;
    struct etcd_kv kv; /* value NULL = deleted */
};

/* One request. A dropped one goes on for a moment; what it still says does not count. */
struct stream {
    struct etcd_watch *watch;
    struct http_call *call;
    struct json_split lines;
    uint64_t token;
    int endpoint;
};

struct etcd_watch {
    struct etcd_client *client;
    struct loop *loop;
    struct etcd_watch_options o;
    char *begin, *end;
    struct sm sm;
    struct etcd_keys keys;
    int64_t position;      /* everything up to here was reported; 0 = load */
    int64_t load_revision; /* of the load that runs, 0 = its first page is still to come */
    char *page;            /* key it goes on with */
    bool loaded;           /* once */
    bool compacted;        /* the position is gone: is it still what there is? */
    struct list held;
    size_t held_bytes;
    struct etcd_call *call;
    struct stream *stream; /* the present one */
    int streams;           /* not yet ended, dropped ones included */
    bool useful;           /* the stream moved the position */
    int fruitless;         /* streams in a row that were not */
    struct backoff backoff;
    struct loop_timer timer;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

static void enter_loading(struct etcd_watch *w);
static void enter_probing(struct etcd_watch *w);

/* ---- changes ---- */

static void held_drop(struct etcd_watch *w)
{
    while (!list_empty(&w->held)) {
        struct held *h = list_item(list_first(&w->held), struct held, node);
        list_remove(&h->node);
        etcd_kv_free(&h->kv);
        free(h);
    }
    w->held_bytes = 0;
}

/* Takes the texts of kv. */
static void hold(struct etcd_watch *w, struct etcd_kv *kv)
{
    struct held *h = mem_zalloc(sizeof *h);
    h->kv = *kv;
    w->held_bytes += strlen(kv->key) + (kv->value != NULL ? strlen(kv->value) : 0);
    *kv = (struct etcd_kv){0};
    list_append(&w->held, &h->node);
}

static void show(struct etcd_watch *w, const struct etcd_kv *kv)
{
    bool news =
        kv->value != NULL ? etcd_keys_put(&w->keys, kv->key, kv->mod) : etcd_keys_remove(&w->keys, kv->key);
    if (news && w->loaded)
        w->o.changed(kv->key, kv->value, kv->mod, w->o.data);
}

static int by_revision(const void *a, const void *b)
{
    const struct held *const *x = a, *const *y = b;
    return ((*x)->kv.mod > (*y)->kv.mod) - ((*x)->kv.mod < (*y)->kv.mod);
}

static void held_show(struct etcd_watch *w)
{
    size_t count = 0, i = 0;
    list_each(node, &w->held) count++;
    struct held **all = mem_array(count + 1, sizeof(struct held *));
    list_each(node, &w->held) all[i++] = list_item(node, struct held, node);
    qsort(all, count, sizeof(struct held *), by_revision);
    for (i = 0; i < count; i++) {
        if (all[i]->kv.mod > w->position)
            w->position = all[i]->kv.mod;
        show(w, &all[i]->kv);
    }
    free(all);
    held_drop(w);
}

/* ---- pauses ---- */

static void enter_paused(struct etcd_watch *w, bool soon)
{
    uint64_t now = loop_now(w->loop), wait = PAUSE_NS / 2 + env_random_below(w->loop->env, PAUSE_NS);
    held_drop(w);
    if (!soon)
        wait = backoff_next(&w->backoff, w->loop->env, now);
    sm_move(&w->sm, PAUSED);
    loop_timer_start(&w->timer, wait);
}

static bool call_begin(struct etcd_watch *w, const struct etcd_range *r, etcd_answer_cb answered)
{
    struct buf body = {0};
    etcd_add_range(&body, r);
    const struct etcd_request q = {
        .path = "/v3/kv/range", .body = buf_text(&body), .body_length = body.length};
    int rc = etcd_call_start(w->client, &q, answered, w, &w->call, NULL);
    buf_free(&body);
    return rc == 0;
}

static void check_closed(struct etcd_watch *w)
{
    if (sm_now(&w->sm) == CLOSING && w->call == NULL && w->streams == 0)
        loop_defer(w->loop, &w->closed_task);
}

static void call_failed(struct etcd_watch *w, const struct etcd_answer *answer)
{
    if (!w->loaded)
        w->o.failed(answer->err, answer->fault == ETCD_FAULT_DENIED || answer->fault == ETCD_FAULT_OTHER,
                    w->o.data);
    if (sm_now(&w->sm) != CLOSING)
        enter_paused(w, false);
}

/* ---- loading ---- */

static void load_done(struct etcd_watch *w)
{
    for (int i = 0; i < w->keys.count; i++)
        if (!w->keys.keys[i].seen) {
            struct etcd_kv gone = {.key = mem_strdup(w->keys.keys[i].key), .mod = w->load_revision};
            hold(w, &gone);
        }
    held_show(w);
    w->position = w->load_revision;
    w->compacted = false;
    if (!w->loaded) {
        w->loaded = true;
        w->o.loaded(w->o.data);
    }
    if (sm_now(&w->sm) == LOADING) /* a callback may close us */
        enter_probing(w);
}

static void page_take(struct etcd_watch *w, yyjson_val *root)
{
    bool more = yyjson_is_true(yyjson_obj_get(root, "more"));
    yyjson_val *item;
    size_t at, n;
    free(w->page);
    w->page = NULL;
    if (w->load_revision == 0)
        w->load_revision = etcd_revision(root);
    yyjson_arr_foreach(yyjson_obj_get(root, "kvs"), at, n, item)
    {
        struct etcd_kv kv;
        bool good = etcd_kv_read(item, true, &kv);
        if (kv.key != NULL && at + 1 == n && more)
            w->page = mem_printf("%s!", kv.key); /* between this one and that lies no key of a store */
        if (good && kv.value != NULL && etcd_keys_see(&w->keys, kv.key, kv.mod))
            hold(w, &kv);
        etcd_kv_free(&kv);
    }
}

static void page_ask(struct etcd_watch *w);

static void page_answered(const struct etcd_answer *answer, void *data)
{
    struct etcd_watch *w = data;
    w->call = NULL;
    if (sm_now(&w->sm) == CLOSING) {
        check_closed(w);
    } else if (answer->fault == ETCD_FAULT_COMPACTED) {
        enter_loading(w);
    } else if (answer->err != NULL) {
        call_failed(w, answer);
    } else {
        page_take(w, answer->root);
        if (w->held_bytes > HELD_LIMIT)
            enter_paused(w, false);
        else if (w->page != NULL)
            page_ask(w);
        else
            load_done(w);
    }
}

static void page_ask(struct etcd_watch *w)
{
    const struct etcd_range r = {
        .key = w->page != NULL ? w->page : w->begin,
        .end = w->end,
        .end_length = w->o.end_length,
        .limit = PAGE_KEYS,
        .revision = w->load_revision,
        .keys_only = !w->loaded,
    };
    (void)call_begin(w, &r, page_answered);
}

static void enter_loading(struct etcd_watch *w)
{
    sm_move(&w->sm, LOADING);
    held_drop(w);
    etcd_keys_unsee(&w->keys);
    w->load_revision = 0;
    free(w->page);
    w->page = NULL;
    page_ask(w);
}

/* ---- watching ---- */

static void stream_drop(struct etcd_watch *w)
{
    struct stream *s = w->stream;
    w->stream = NULL;
    loop_timer_stop(&w->timer);
    if (s != NULL)
        http_call_cancel(s->call);
}

/* The stream is of no more use. The first time in a row that it was of none at all, try again soon. */
static void stream_over(struct etcd_watch *w)
{
    stream_drop(w);
    w->fruitless = w->useful ? 0 : w->fruitless + 1;
    enter_paused(w, w->fruitless < 2);
}

static void message_ended(struct etcd_watch *w, const struct etcd_watch_message *m)
{
    enum etcd_fault fault = etcd_fault_of(0, -1, m->reason != NULL ? m->reason : "");
    if (m->compacted) {
        stream_drop(w);
        held_drop(w);
        w->compacted = true;
        enter_probing(w);
        return;
    }
    if (fault == ETCD_FAULT_TOKEN || fault == ETCD_FAULT_DENIED) /* the latter may mean it too (etcd#12385) */
        etcd_token_rejected(w->client, w->stream->token);
    else
        etcd_endpoint_failed(w->client, w->stream->endpoint);
    stream_over(w);
}

static void message_events(struct etcd_watch *w, const struct etcd_watch_message *m)
{
    yyjson_val *event;
    size_t at, n;
    yyjson_arr_foreach(m->events, at, n, event)
    {
        struct etcd_kv kv;
        bool deleted;
        if (etcd_event_read(event, &kv, &deleted) && kv.mod > w->position && (deleted || kv.value != NULL))
            hold(w, &kv);
        etcd_kv_free(&kv);
    }
    if (w->held_bytes > HELD_LIMIT) {
        stream_drop(w);
        enter_loading(w);
    } else if (!m->fragment) {
        held_show(w);
        if (m->created)
            return;
        w->useful = true;
        if (m->revision > w->position && yyjson_arr_size(m->events) == 0)
            w->position = m->revision; /* how far etcd has looked */
    }
}

static bool line_take(char *text, size_t length, void *data)
{
    struct etcd_watch *w = data;
    struct etcd_watch_message m;
    struct err err = {0};
    yyjson_doc *doc = yyjson_read(text, length, 0);
    if (etcd_watch_read(yyjson_doc_get_root(doc), &m, &err) != 0) {
        etcd_endpoint_failed(w->client, w->stream->endpoint);
        stream_over(w);
    } else if (!etcd_cluster_fits(w->client, m.cluster)) {
        etcd_endpoint_failed(w->client, w->stream->endpoint);
        stream_over(w);
    } else {
        if (m.created)
            loop_timer_stop(&w->timer);
        if (m.ended)
            message_ended(w, &m);
        else
            message_events(w, &m);
    }
    yyjson_doc_free(doc);
    return sm_now(&w->sm) == WATCHING;
}

static void stream_data(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct stream *s = data;
    struct etcd_watch *w = s->watch;
    (void)call;
    if (w->stream != s)
        return;
    if (status != 200 || json_split_feed(&s->lines, bytes, length, line_take, w, NULL) != 0) {
        etcd_token_rejected(w->client, s->token);
        etcd_endpoint_failed(w->client, s->endpoint);
        stream_over(w);
    }
}

static void stream_free(struct stream *s)
{
    s->watch->streams--;
    json_split_free(&s->lines);
    free(s);
}

static void stream_ended(const struct http_answer *answer, void *data)
{
    struct stream *s = data;
    struct etcd_watch *w = s->watch;
    if (w->stream == s) {
        bool silent = answer->err != NULL && answer->err->code == ERRC_TIMEOUT;
        w->useful = w->useful || silent;
        if (!silent)
            etcd_endpoint_failed(w->client, s->endpoint);
        w->stream = NULL;
        stream_over(w);
    }
    stream_free(s);
    check_closed(w);
}

static void add_watch(const struct etcd_watch *w, struct buf *b)
{
    (void)buf_add_text(b, "{\"create_request\":{\"key\":\"");
    etcd_add_base64(b, w->begin, strlen(w->begin));
    (void)buf_add_text(b, "\",\"range_end\":\"");
    etcd_add_base64(b, w->end, w->o.end_length);
    (void)buf_printf(b, "\",\"start_revision\":\"%lld\",\"progress_notify\":true,\"fragment\":true}}",
                     (long long)w->position + 1);
}

static void enter_watching(struct etcd_watch *w)
{
    struct buf body = {0};
    struct stream *s = mem_zalloc(sizeof *s);
    const struct http_call_options o = {
        .timeout_ns = UINT64_MAX,
        .idle_timeout_ns = w->o.silence_ns,
        .on_body = stream_data,
    };
    add_watch(w, &body);
    sm_move(&w->sm, WATCHING);
    s->watch = w;
    s->endpoint = etcd_endpoint(w->client);
    json_split_init(&s->lines, JSON_SPLIT_LINES, LINE_LIMIT);
    w->stream = s;
    w->streams++;
    w->useful = false;
    loop_timer_start(&w->timer, ETCD_TRY_NS); /* for the first word */
    if (etcd_stream_start(w->client, "/v3/watch", buf_text(&body), &o, stream_ended, s, &s->call, &s->token,
                          NULL) != 0) {
        w->stream = NULL;
        stream_free(s);
        etcd_endpoint_failed(w->client, etcd_endpoint(w->client));
        stream_over(w);
    }
    buf_free(&body);
}

/* ---- probing ---- */

/* Nothing newer than the position, and as many keys as we know: this is what there is. */
static bool probe_is_current(const struct etcd_watch *w, yyjson_val *root)
{
    return yyjson_arr_size(yyjson_obj_get(root, "kvs")) == 0 && etcd_number(root, "count") == w->keys.count;
}

static void probe_answered(const struct etcd_answer *answer, void *data)
{
    struct etcd_watch *w = data;
    w->call = NULL;
    if (sm_now(&w->sm) == CLOSING) {
        check_closed(w);
    } else if (answer->err != NULL) {
        call_failed(w, answer);
    } else if (w->compacted && !probe_is_current(w, answer->root)) {
        enter_loading(w);
    } else {
        if (w->compacted)
            w->position = etcd_revision(answer->root);
        w->compacted = false;
        enter_watching(w);
    }
}

/* Finds a member that answers and takes our token, before a stream is begun there. */
static void enter_probing(struct etcd_watch *w)
{
    const struct etcd_range r = {
        .key = w->begin,
        .end = w->end,
        .end_length = w->o.end_length,
        .limit = 1,
        .min_mod_revision = w->position + 1,
        .keys_only = true,
    };
    sm_move(&w->sm, PROBING);
    (void)call_begin(w, &r, probe_answered);
}

/* ---- time, beginning and end ---- */

static void watch_timer(struct loop_timer *timer, void *data)
{
    struct etcd_watch *w = data;
    (void)timer;
    if (sm_now(&w->sm) == WATCHING) { /* not a word */
        etcd_endpoint_failed(w->client, w->stream->endpoint);
        stream_over(w);
    } else if (w->position == 0) {
        enter_loading(w);
    } else {
        enter_probing(w);
    }
}

static void watch_gone(struct loop_task *task, void *data)
{
    struct etcd_watch *w = data;
    void (*closed)(void *data) = w->closed;
    void *closed_data = w->closed_data;
    (void)task;
    held_drop(w);
    etcd_keys_free(&w->keys);
    free(w->page);
    free(w->begin);
    free(w->end);
    free(w);
    closed(closed_data);
}

struct etcd_watch *etcd_watch_start(struct etcd_client *client, const struct etcd_watch_options *options)
{
    struct etcd_watch *w = mem_zalloc(sizeof *w);
    w->client = client;
    w->loop = etcd_client_loop(client);
    w->o = *options;
    w->o.silence_ns = options->silence_ns != 0 ? options->silence_ns : SILENCE_NS;
    w->begin = mem_strdup(options->begin);
    w->end = mem_zalloc(options->end_length + 1);
    memcpy(w->end, options->end, options->end_length);
    list_init(&w->held);
    w->closed_task = (struct loop_task){.run = watch_gone, .data = w};
    list_init(&w->closed_task.node);
    loop_timer_init(w->loop, &w->timer, watch_timer, w);
    sm_init(&w->sm, states, STATE_MAX, PAUSED, NULL, w);
    enter_loading(w);
    return w;
}

void etcd_watch_close(struct etcd_watch *w, void (*closed)(void *data), void *data)
{
    if (sm_now(&w->sm) == CLOSING)
        return;
    loop_timer_stop(&w->timer);
    sm_move(&w->sm, CLOSING);
    w->closed = closed;
    w->closed_data = data;
    stream_drop(w);
    etcd_call_cancel(w->call);
    check_closed(w);
}
