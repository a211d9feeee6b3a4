/* What the demo asks of its manager, and hears from it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/demo_impl.h"
#include "cli/human.h"
#include "cli/session.h"

#define EVENT_LIMIT     (1u << 20)
#define FOLLOW_AGAIN_NS (200 * ENV_NS_PER_MS)
#define LOOK_PERIOD_NS  (1 * ENV_NS_PER_S)

/* ---- members of documents ---- */

/* Numbers of 64 bits are strings. */
static double number_of(yyjson_val *object, const char *name)
{
    yyjson_val *value = yyjson_obj_get(object, name);
    double number = (double)NAN;
    if (yyjson_is_num(value))
        return yyjson_get_num(value);
    if (yyjson_is_str(value))
        (void)text_to_double(yyjson_get_str(value), &number);
    return number;
}

static void copy_text(char *to, size_t size, const char *from)
{
    (void)snprintf(to, size, "%s", from);
}

/* ---- calls ---- */

struct demo_api_call {
    struct demo *demo;
    demo_api_cb cb;
    char what[96];
};

static int answer_error(const struct demo_api_call *call, const struct http_answer *answer, yyjson_val *root,
                        struct err *err)
{
    if (answer->err != NULL) {
        err_copy(err, answer->err);
        return err_wrap(err, "%s", call->what);
    }
    if (answer->status >= 200 && answer->status < 300)
        return 0;
    const char *detail = json_get_text(root, "detail");
    return err_set(err, answer->status == 404 ? ERRC_NOT_FOUND : ERRC_REFUSED,
                   "%s: the manager answered %d%s%.300s", call->what, answer->status,
                   detail[0] != '\0' ? ": " : "", detail);
}

static void on_answer(const struct http_answer *answer, void *data)
{
    struct demo_api_call *call = data;
    struct err err = {0};
    yyjson_doc *doc = answer->err == NULL ? yyjson_read(answer->body, answer->body_length, 0) : NULL;
    int code = answer_error(call, answer, yyjson_doc_get_root(doc), &err);
    call->cb(call->demo, code != 0 ? &err : NULL, yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    free(call);
}

void demo_api(struct demo *d, const char *method, const char *path, const char *body, demo_api_cb cb)
{
    static const struct http_header headers[] = {{"Content-Type", "application/json"}};
    struct demo_api_call *call = mem_zalloc(sizeof *call);
    char *url = mem_printf("%s%s", d->admin_url, path);
    struct err err = {0};
    call->demo = d;
    call->cb = cb;
    (void)snprintf(call->what, sizeof call->what, "%s %.80s", method, path);
    const struct http_call_options options = {.method = method,
                                              .url = url,
                                              .headers = headers,
                                              .header_count = body != NULL ? 1 : 0,
                                              .body = body,
                                              .body_length = body != NULL ? strlen(body) : 0};
    if (http_call_start(d->client, &options, on_answer, call, NULL, &err) != 0) {
        free(call);
        demo_fail(d, &err);
    }
    free(url);
}

/* ---- the database ---- */

double demo_threshold(const struct demo *d)
{
    return (double)d->o.rate * 0.625;
}

char *demo_specification(const struct demo *d)
{
    struct buf schema = {0};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    load_print_schema(KEY_BIGINT, &schema);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, root, "kind", "ShardedDatabase");
    yyjson_mut_obj_add_str(doc, yyjson_mut_obj_add_obj(doc, root, "metadata"), "name", "shop");
    yyjson_mut_val *spec = yyjson_mut_obj_add_obj(doc, root, "spec");
    yyjson_mut_obj_add_int(doc, spec, "shards", 2);
    if (d->o.failover)
        yyjson_mut_obj_add_int(doc, spec, "instances", 3);
    yyjson_mut_val *tables = yyjson_mut_obj_add_arr(doc, spec, "tables");
    static const char *const names[] = {"public.customers", "public.orders"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        yyjson_mut_val *table = yyjson_mut_arr_add_obj(doc, tables);
        yyjson_mut_obj_add_str(doc, table, "name", names[i]);
        yyjson_mut_obj_add_str(doc, table, "key", "customer_id");
    }
    yyjson_mut_obj_add_str(doc, spec, "schema", buf_text(&schema));
    yyjson_mut_val *balance = yyjson_mut_obj_add_obj(doc, spec, "balance");
    yyjson_mut_obj_add_str(doc, balance, "split",
                           d->o.failover || d->next == DEMO_TOUR || demo_now(d) == DEMO_TOUR ? "off"
                                                                                             : "auto");
    yyjson_mut_obj_add_str(doc, balance, "merge", "off");
    yyjson_mut_obj_add_str(doc, balance, "rebalance", "off");
    yyjson_mut_obj_add_str(doc, balance, "objective", "query_rate");
    yyjson_mut_obj_add_real(doc, balance, "threshold", demo_threshold(d));
    yyjson_mut_obj_add_int(doc, balance, "window", DEMO_WINDOW);
    yyjson_mut_obj_add_str(doc, balance, "sample", "3s");
    yyjson_mut_obj_add_str(doc, balance, "bake", "5s");
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    buf_free(&schema);
    return text;
}

/* ---- the shards, for the display ---- */

static const char *role_of(const struct demo *d, const char *shard)
{
    if (d->facts.operation[0] == '\0' || d->facts.move_done)
        return "";
    if (strcmp(shard, d->facts.source) == 0)
        return strcmp(d->facts.state, "clean") == 0 ? "deletes moved rows" : "gives half";
    return strcmp(shard, d->facts.target) == 0 ? "receives" : "";
}

static void take_shard(struct demo *d, struct demo_shard *s, yyjson_val *item)
{
    yyjson_val *last = yyjson_obj_get(yyjson_obj_get(item, "load"), "last");
    yyjson_val *instance = yyjson_obj_get(item, "instance");
    double row = number_of(yyjson_obj_get(item, "balancer"), "row");
    copy_text(s->name, sizeof s->name, json_get_text(item, "name"));
    copy_text(s->state, sizeof s->state, json_get_text(item, "state"));
    copy_text(s->role, sizeof s->role, role_of(d, s->name));
    s->rate = number_of(last, "query_rate");
    s->share = number_of(item, "share");
    s->bytes = number_of(instance, "database_bytes");
    s->hot = row > 0 && !d->o.failover ? (unsigned)row : 0;
    const char *version = json_get_text(instance, "version");
    if (version[0] != '\0')
        copy_text(d->facts.postgresql, sizeof d->facts.postgresql, version);
}

/* Once all of them are known. */
static void announce(struct demo *d, yyjson_val *items)
{
    struct buf text = {0};
    yyjson_val *item;
    size_t i, count;
    yyjson_arr_foreach(items, i, count, item)
    {
        yyjson_val *instance = yyjson_obj_get(item, "instance");
        if (json_get_text(instance, "version")[0] == '\0')
            break;
        int port = yyjson_get_int(yyjson_obj_get(instance, "port"));
        d->facts.first_port = i == 0 ? port : d->facts.first_port;
        buf_printf(&text, "%sshard %s is PostgreSQL %s on %s port %d", i > 0 ? ", " : "",
                   json_get_text(item, "name"), json_get_text(instance, "version"),
                   json_get_text(instance, "host"), port);
    }
    if (i > 0 && i == yyjson_arr_size(items)) {
        d->announced = true;
        demo_story_say(&d->story, TONE_PLAIN, "%s", buf_text(&text));
    }
    buf_free(&text);
}

static void on_shards(struct demo *d, const struct err *err, yyjson_val *root)
{
    yyjson_val *items = yyjson_obj_get(root, "items"), *item;
    size_t i, count;
    d->shards_asked = false;
    if (err != NULL) /* the display shows what it had; a manager that is gone is noticed elsewhere */
        return;
    if (!d->announced)
        announce(d, items);
    d->view.shard_count = 0;
    yyjson_arr_foreach(items, i, count, item)
    {
        if (d->view.shard_count < DEMO_SHARDS_MAX)
            take_shard(d, &d->view.shards[d->view.shard_count++], item);
    }
}

void demo_ask_shards(struct demo *d)
{
    if (d->shards_asked || d->admin_url == NULL)
        return;
    d->shards_asked = true;
    demo_api(d, "GET", "/v1/databases/shop/shards", NULL, on_shards);
}

/* ---- the load, for the display ---- */

static struct hist since(const struct hist *now, const struct hist *before)
{
    struct hist h = *now;
    h.count -= before->count;
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        h.buckets[i] -= before->buckets[i];
    return h;
}

void demo_view_load(struct demo *d)
{
    uint64_t now = loop_clock(&d->loop);
    d->view.loading = d->load != NULL && load_phase(d->load) == LOAD_LOADING;
    if (!d->view.loading || now - d->shown_ns < LOOK_PERIOD_NS)
        return;
    const struct load_stats *stats = load_stats(d->load);
    double seconds = (double)(now - d->shown_ns) / 1e9;
    struct hist writes = since(&stats->write_latency, &d->shown.write_latency);
    d->view.operations = (double)(stats->operations - d->shown.operations) / seconds;
    d->view.writes = (double)(stats->acked_writes - d->shown.acked_writes) / seconds;
    d->view.p50_ms = (double)hist_quantile(&writes, 0.5) / 1000;
    d->view.p99_ms = (double)hist_quantile(&writes, 0.99) / 1000;
    d->view.gap_ms = (double)load_gap_recent(load_write_gap(d->load), now) / 1e6;
    d->view.acked = stats->acked_writes;
    d->view.refused = stats->refused;
    d->shown = *stats;
    d->shown_ns = now;
}

void demo_view_task(struct demo *d)
{
    if (d->load == NULL || load_phase(d->load) == LOAD_LOADING)
        return;
    char done[32];
    uint64_t rows = load_progress_rows(d->load);
    bool filling = d->facts.rows_made == 0;
    uint64_t all = filling ? 4ull * d->o.customers : d->facts.rows_made;
    d->view.task = filling ? "making rows" : "checking";
    d->view.task_share = (double)rows / (double)all;
    (void)snprintf(d->view.task_text, sizeof d->view.task_text, "%s rows", demo_view_number(rows, done));
}

/* ---- events ---- */

static void take_decision(struct demo *d, yyjson_val *root)
{
    struct demo_facts *f = &d->facts;
    const char *kind = json_get_text(root, "kind"), *operation = json_get_text(root, "operation");
    const char *sentence = json_get_text(root, "sentence");
    if (strcmp(kind, "refuse") == 0 && f->operation[0] == '\0' && strcmp(f->refusal, sentence) != 0) {
        copy_text(f->refusal, sizeof f->refusal, sentence);
        demo_story_say(&d->story, TONE_PLAIN, "not yet: %s", sentence);
    } else if (strcmp(kind, "sample") == 0) {
        demo_story_say(&d->story, TONE_HOT, "listening: %s", sentence);
    }
    if (strcmp(kind, "split") != 0 || operation[0] == '\0' || f->operation[0] != '\0')
        return;
    f->decided_ns = loop_clock(&d->loop);
    f->rule = (int)number_of(root, "rule");
    copy_text(f->sentence, sizeof f->sentence, sentence);
    copy_text(f->source, sizeof f->source, json_get_text(root, "shard"));
    copy_text(f->operation, sizeof f->operation, operation);
    demo_decided(d);
}

static void take_record(struct demo_facts *f, yyjson_val *record)
{
    int64_t lo, hi;
    f->moved_rows = number_of(record, "copy_rows");
    f->moved_bytes = number_of(record, "copy_bytes");
    f->copy_seconds = number_of(record, "copy_us") / 1e6;
    f->write_block_ms = number_of(record, "write_block_us") / 1e3;
    f->fence_attempts = number_of(record, "fence_attempts");
    f->cleaned_rows = number_of(record, "cleaned_rows");
    if (text_to_int64(json_get_text(record, "lo"), &lo) && text_to_int64(json_get_text(record, "hi"), &hi)) {
        f->range = (struct range){lo, hi};
        f->range_known = true;
    }
}

static void task_text(struct demo *d, yyjson_val *record)
{
    double rows = number_of(record, "copy_rows"), all = number_of(record, "total_rows");
    double bytes = number_of(record, "copy_bytes");
    double marker = number_of(record, "marker_us");
    char a[32], b[32], size[HUMAN_SIZE];
    d->view.task_text[0] = '\0';
    if (strcmp(d->facts.state, "catch_up") == 0 && marker > 0)
        (void)snprintf(d->view.task_text, sizeof d->view.task_text, "%s behind",
                       human_duration(marker / 1e6, size));
    if (strcmp(d->facts.state, "copy") == 0 && rows > 0)
        (void)snprintf(d->view.task_text, sizeof d->view.task_text, "%s of %s rows, %s",
                       demo_view_number((uint64_t)rows, a), demo_view_number((uint64_t)fmax(all, rows), b),
                       human_bytes(bytes, size));
}

/* What a newcomer is told of each state of the move. */
static const struct {
    const char *state;
    const char *text;
} phases[] = {
    {"check", "looks first for what could make the split fail; nothing is changed yet"},
    {"target", "starts a PostgreSQL server for the new shard and gives it the tables"},
    {"copy", "copies the rows of the moving half; reads and writes go on"},
    {"catch_up", "applies to the copy what was written meanwhile, and what is being written"},
    {"verify", "compares both sides by counts and checksums"},
    {"rehearse", "tries the switch without doing it: a closed gate, short round trips"},
    {"fence", "switches: the old owner refuses the moving half, the new one opens"},
    {"watch", "keeps the old rows for a while (5 s here)"},
    {"clean", "deletes the moved rows from the old owner, batch by batch"},
};

static void enter_phase(struct demo *d)
{
    struct demo_facts *f = &d->facts;
    demo_phase(d, f->state);
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++)
        if (strcmp(phases[i].state, f->state) == 0)
            demo_story_say(&d->story, TONE_PLAIN, "split, %s: %s", phases[i].state, phases[i].text);
    if (strcmp(f->state, "settle") == 0)
        demo_story_say(&d->story, TONE_GOOD,
                       "switched: shard %s owns the moved half; writes to it were blocked for %.1f ms",
                       f->target, f->write_block_ms);
}

static void take_operation(struct demo *d, yyjson_val *root)
{
    struct demo_facts *f = &d->facts;
    const char *status = json_get_text(root, "status"), *state = json_get_text(root, "state");
    if (strcmp(json_get_text(root, "id"), f->operation) != 0 || f->move_done)
        return;
    copy_text(f->target, sizeof f->target, json_get_text(root, "target"));
    take_record(f, yyjson_obj_get(root, "record"));
    bool entered = strcmp(f->state, state) != 0;
    struct err err = {0};
    if (f->range_known && d->load != NULL && load_watch(d->load, &f->range, &err) != 0)
        demo_fail(d, &err);
    copy_text(f->state, sizeof f->state, state);
    d->view.task = f->state;
    d->view.task_share = number_of(root, "progress");
    task_text(d, yyjson_obj_get(root, "record"));
    f->move_done = strcmp(status, "done") == 0;
    if (entered)
        enter_phase(d);
    if (strcmp(status, "running") == 0)
        return;
    d->view.task = NULL;
    if (f->move_done)
        demo_moved(d);
    else
        demo_failf(d, "the split ended as \"%s\": %s", status,
                   json_get_text(yyjson_obj_get(root, "error"), "message"));
}

static void on_event(const struct sse_event *event, void *data)
{
    struct demo *d = data;
    yyjson_doc *doc = yyjson_read(event->data, strlen(event->data), 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (strcmp(event->event, "decision") == 0 && !demo_ending(d))
        take_decision(d, root);
    else if (strcmp(event->event, "operation") == 0 && !demo_ending(d)) {
        take_operation(d, root);
        demo_tour_operation(d, root);
        demo_failover_operation(d, root);
    }
    yyjson_doc_free(doc);
}

static void on_bytes(struct http_call *call, int status, const char *bytes, size_t length, void *data)
{
    struct demo *d = data;
    struct err err = {0};
    (void)call;
    if (status == 200 && d->parser != NULL &&
        sse_parser_feed(d->parser, bytes, length, on_event, d, &err) != 0)
        demo_fail(d, &err);
}

static void on_stream_end(const struct http_answer *answer, void *data)
{
    struct demo *d = data;
    (void)answer;
    d->events = NULL;
    sse_parser_free(d->parser);
    d->parser = NULL;
    if (d->following && !demo_ending(d))
        loop_timer_start(&d->events_again, FOLLOW_AGAIN_NS);
}

void demo_follow(struct demo *d)
{
    char *url = mem_printf("%s/v1/events", d->admin_url);
    const struct http_call_options options = {
        .method = "GET", .url = url, .timeout_ns = UINT64_MAX, .on_body = on_bytes};
    struct err err = {0};
    d->following = true;
    d->parser = sse_parser_new(EVENT_LIMIT);
    if (http_call_start(d->client, &options, on_stream_end, d, &d->events, &err) != 0) {
        sse_parser_free(d->parser);
        d->parser = NULL;
        demo_fail(d, &err);
    }
    free(url);
}

void demo_unfollow(struct demo *d)
{
    d->following = false;
    loop_timer_stop(&d->events_again);
    if (d->events != NULL)
        http_call_cancel(d->events);
}

static void follow_again(struct loop_timer *timer, void *data)
{
    struct demo *d = data;
    (void)timer;
    if (d->following && d->events == NULL)
        demo_follow(d);
}

void demo_fleet_init(struct demo *d)
{
    loop_timer_init(&d->loop, &d->events_again, follow_again, d);
    d->view.threshold = demo_threshold(d);
    d->view.window = DEMO_WINDOW;
}
