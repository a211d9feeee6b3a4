/*
 * The store in etcd: a key per key, its mod_revision the revision. Keys of ours that are no keys of the store
 * (PREFIX!...) sort before all that are.
 *
 * Jobs go out one at a time, in order. What changes comes from one watch on the whole store; a change of our
 * own is shown after the callback of the write that made it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "loop/tls.h"
#include "store/etcd_leader.h"
#include "store/etcd_watch.h"
#include "store/etcd_write.h"
#include "store/watchers.h"

#define OPEN_LIMIT_NS (30 * ENV_NS_PER_S)
#define LEASE_S       15
#define PAGE_KEYS     64
#define FIRST_KEY     "-" /* the lowest byte that a key of a store begins with */

enum job_kind { JOB_GET, JOB_LIST, JOB_WRITE };

struct job {
    struct list node;
    struct etcd_store *store;
    enum job_kind kind;
    char *key; /* or prefix */
    char *value;
    int64_t expected;
    int64_t fence;    /* the leadership it was asked for under */
    char *page;       /* of a list: key in etcd to go on with */
    int64_t revision; /* of a list: that of its first page */
    struct store_entry *entries;
    int count;
    store_get_cb get;
    store_list_cb list;
    store_write_cb write;
    void *data;
};

/* Closing takes one part after the other. */
enum closing { OPEN, CLOSE_JOBS, CLOSE_LEADER, CLOSE_WRITER, CLOSE_WATCH, CLOSE_CLIENT };

struct etcd_store {
    struct store base;
    struct loop *loop;
    struct etcd_client *client;
    struct etcd_writer *writer;
    struct etcd_watch *watch;
    struct etcd_leader *leader, *former; /* former: lost, being given up */
    struct watchers watchers;
    struct list jobs;
    struct job *running;
    struct loop_task task; /* starts jobs, shows changes, closes */
    char *prefix, *name;
    int lease_s;
    int64_t highest; /* revision of any of our writes */
    store_open_cb opened;
    void *opened_data;
    struct loop_timer open_limit;
    struct err open_err;
    store_lease_cb led;
    void (*lost)(void *data);
    void *lease_data;
    bool closing;
    enum closing stage;
    bool stage_runs; /* the part of this stage is not gone yet */
    void (*closed)(void *data);
    void *closed_data;
};

static struct etcd_store *of(struct store *store)
{
    return (struct etcd_store *)(void *)store;
}

static char *etcd_key(const struct etcd_store *s, const char *key)
{
    return mem_printf("%s%s", s->prefix, key);
}

/* ---- the end of a job ---- */

static void entries_free(struct job *j)
{
    for (int i = 0; i < j->count; i++) {
        free((char *)(uintptr_t)j->entries[i].key);
        free((char *)(uintptr_t)j->entries[i].value);
    }
    free(j->entries);
    j->entries = NULL;
    j->count = 0;
}

static void job_free(struct job *j)
{
    entries_free(j);
    free(j->key);
    free(j->value);
    free(j->page);
    free(j);
}

static void job_end(struct job *j, const struct err *err, const struct store_entry *entry)
{
    struct etcd_store *s = j->store;
    if (s->running == j)
        s->running = NULL;
    switch (j->kind) {
    case JOB_GET:
        j->get(err, entry, j->data);
        break;
    case JOB_LIST:
        j->list(err, err == NULL ? j->entries : NULL, err == NULL ? j->count : 0, j->data);
        break;
    default:
        j->write(err, err == NULL && entry != NULL ? entry->revision : 0, j->data);
    }
    job_free(j);
    loop_defer(s->loop, &s->task);
}

static void job_fail(struct job *j, const struct err *why)
{
    struct err err = *why;
    (void)err_wrap(&err, "%s: key %s", j->store->name, j->key);
    job_end(j, &err, NULL);
}

static void job_refuse(struct job *j, enum err_code code, const char *what)
{
    struct err err = {0};
    (void)err_set(&err, code, "%s", what);
    job_fail(j, &err);
}

/* ---- reading ---- */

static void get_answered(const struct etcd_answer *answer, void *data)
{
    struct job *j = data;
    struct etcd_kv kv = {0};
    yyjson_val *item = yyjson_arr_get(yyjson_obj_get(answer->root, "kvs"), 0);
    if (answer->err != NULL) {
        job_fail(j, answer->err);
        return;
    }
    if (item == NULL) {
        job_refuse(j, ERRC_NOT_FOUND, "there is no such key");
        return;
    }
    if (etcd_kv_read(item, true, &kv) && kv.value != NULL) {
        const struct store_entry entry = {j->key, kv.value, kv.mod};
        job_end(j, NULL, &entry);
    } else {
        job_refuse(j, ERRC_CORRUPT, "its value is no text");
    }
    etcd_kv_free(&kv);
}

static void job_start(struct job *j);

static void list_take(struct job *j, yyjson_val *root)
{
    bool more = yyjson_is_true(yyjson_obj_get(root, "more"));
    yyjson_val *item;
    size_t at, n;
    free(j->page);
    j->page = NULL;
    if (j->revision == 0)
        j->revision = etcd_revision(root);
    yyjson_arr_foreach(yyjson_obj_get(root, "kvs"), at, n, item)
    {
        struct etcd_kv kv;
        if (etcd_kv_read(item, true, &kv) && kv.value != NULL) {
            j->entries = mem_resize(j->entries, (size_t)j->count + 1, sizeof *j->entries);
            j->entries[j->count++] =
                (struct store_entry){mem_strdup(kv.key + strlen(j->store->prefix)), kv.value, kv.mod};
            kv.value = NULL;
        }
        if (kv.key != NULL && at + 1 == n && more)
            j->page = mem_printf("%s!", kv.key); /* between this one and that lies no key of a store */
        etcd_kv_free(&kv);
    }
}

static void list_answered(const struct etcd_answer *answer, void *data)
{
    struct job *j = data;
    if (answer->fault == ETCD_FAULT_COMPACTED) { /* between two pages: from the beginning */
        entries_free(j);
        free(j->page);
        j->page = NULL;
        j->revision = 0;
        job_start(j);
    } else if (answer->err != NULL) {
        job_fail(j, answer->err);
    } else {
        list_take(j, answer->root);
        if (j->page != NULL)
            job_start(j);
        else
            job_end(j, NULL, NULL);
    }
}

static void read_start(struct job *j)
{
    struct buf body = {0};
    struct err err = {0};
    bool list = j->kind == JOB_LIST;
    char *key = etcd_key(j->store, j->key), *end = NULL;
    char *begin = list && j->key[0] == '\0' ? etcd_key(j->store, FIRST_KEY) : mem_strdup(key);
    struct etcd_range r = {.key = j->page != NULL ? j->page : begin, .revision = j->revision};
    if (list) {
        end = etcd_prefix_end(key, strlen(key), &r.end_length);
        r.end = end;
        r.limit = PAGE_KEYS;
    }
    etcd_add_range(&body, &r);
    const struct etcd_request q = {
        .path = "/v3/kv/range", .body = buf_text(&body), .body_length = body.length};
    if (etcd_call_start(j->store->client, &q, list ? list_answered : get_answered, j, NULL, &err) != 0)
        job_fail(j, &err);
    buf_free(&body);
    free(begin);
    free(end);
    free(key);
}

/* ---- writing ---- */

static void written(const struct err *err, int64_t revision, void *data)
{
    struct job *j = data;
    const struct store_entry entry = {j->key, j->value, revision};
    if (err != NULL) {
        job_fail(j, err);
        return;
    }
    if (revision > j->store->highest)
        j->store->highest = revision;
    job_end(j, NULL, &entry);
}

static void write_start(struct job *j)
{
    struct etcd_store *s = j->store;
    char *key = etcd_key(s, j->key), *leader = etcd_key(s, ETCD_LEADER_KEY);
    const struct etcd_write write = {
        .key = key, .value = j->value, .expected = j->expected, .fence_key = leader, .fence = j->fence};
    etcd_write_start(s->writer, &write, written, j);
    free(key);
    free(leader);
}

/* ---- jobs ---- */

static void job_start(struct job *j)
{
    j->store->running = j;
    if (j->kind == JOB_WRITE)
        write_start(j);
    else
        read_start(j);
}

static int job_queue(struct etcd_store *s, const struct job *like, struct err *err)
{
    if (s->closing)
        return err_set(err, ERRC_CLOSED, "%s is closed", s->name);
    struct job *j = mem_alloc(sizeof *j);
    *j = *like;
    j->store = s;
    j->key = mem_strdup(like->key);
    j->value = mem_strdup(like->value);
    j->fence = s->leader != NULL ? etcd_leader_created(s->leader) : 0;
    list_append(&s->jobs, &j->node);
    loop_defer(s->loop, &s->task);
    return 0;
}

static int store_etcd_get(struct store *store, const char *key, store_get_cb cb, void *data, struct err *err)
{
    const struct job j = {.kind = JOB_GET, .key = (char *)(uintptr_t)key, .get = cb, .data = data};
    return job_queue(of(store), &j, err);
}

static int store_etcd_list(struct store *store, const char *prefix, store_list_cb cb, void *data,
                           struct err *err)
{
    const struct job j = {.kind = JOB_LIST, .key = (char *)(uintptr_t)prefix, .list = cb, .data = data};
    return job_queue(of(store), &j, err);
}

static int store_etcd_write(struct store *store, const char *key, int64_t expected, const char *value,
                            store_write_cb cb, void *data, struct err *err)
{
    const struct job j = {.kind = JOB_WRITE,
                          .key = (char *)(uintptr_t)key,
                          .value = (char *)(uintptr_t)value,
                          .expected = expected,
                          .write = cb,
                          .data = data};
    return job_queue(of(store), &j, err);
}

/* ---- watches ---- */

static void key_changed(const char *key, const char *value, int64_t revision, void *data)
{
    struct etcd_store *s = data;
    watchers_add(&s->watchers, key + strlen(s->prefix), value, revision);
    loop_defer(s->loop, &s->task);
}

static int store_etcd_watch(struct store *store, const char *prefix, store_watch_cb cb, void *data,
                            struct store_watch **ret, struct err *err)
{
    struct etcd_store *s = of(store);
    if (s->closing)
        return err_set(err, ERRC_CLOSED, "%s is closed", s->name);
    *ret = watchers_begin(&s->watchers, store, prefix, s->highest, cb, data);
    return 0;
}

/* ---- the leader ---- */

static void part_closed(void *data)
{
    struct etcd_store *s = data;
    s->stage_runs = false;
    loop_defer(s->loop, &s->task);
}

static void former_closed(void *data)
{
    struct etcd_store *s = data;
    s->former = NULL;
    loop_defer(s->loop, &s->task);
}

/* The election is over, another can begin once this one is gone. */
static void leader_end(struct etcd_store *s)
{
    s->former = s->leader;
    s->leader = NULL;
    etcd_leader_close(s->former, former_closed, s);
}

static void leader_won(const struct err *err, int64_t term, void *data)
{
    struct etcd_store *s = data;
    store_lease_cb led = s->led;
    s->led = NULL;
    if (err != NULL)
        leader_end(s);
    led(err, term, s->lease_data);
}

static void leader_lost(void *data)
{
    struct etcd_store *s = data;
    leader_end(s);
    if (s->lost != NULL)
        s->lost(s->lease_data);
}

static int store_etcd_lease(struct store *store, const char *holder, store_lease_cb cb,
                            void (*lost)(void *data), void *data, struct err *err)
{
    struct etcd_store *s = of(store);
    if (s->closing)
        return err_set(err, ERRC_CLOSED, "%s is closed", s->name);
    if (s->leader != NULL || s->former != NULL)
        return err_set(err, ERRC_CONFLICT, "%s: this process stands for election already", s->name);
    const struct etcd_leader_options o = {.prefix = s->prefix,
                                          .holder = holder,
                                          .ttl_s = s->lease_s,
                                          .won = leader_won,
                                          .lost = leader_lost,
                                          .data = s};
    s->led = cb;
    s->lost = lost;
    s->lease_data = data;
    s->leader = etcd_leader_start(s->client, &o);
    return 0;
}

/* ---- opening and closing ---- */

static void store_free(void *data)
{
    struct etcd_store *s = data;
    void (*closed)(void *data) = s->closed;
    void *closed_data = s->closed_data;
    watchers_free(&s->watchers);
    loop_task_cancel(&s->task);
    free(s->prefix);
    free(s->name);
    free(s);
    if (closed != NULL)
        closed(closed_data);
}

static const struct err canceled = {.code = ERRC_CANCELED, .message = "the store is closing"};

static void close_leader(struct etcd_store *s)
{
    store_lease_cb led = s->led;
    s->led = NULL;
    if (s->leader != NULL)
        leader_end(s);
    if (led != NULL)
        led(&canceled, 0, s->lease_data);
}

/* Begins with the next part when the one before is gone. */
static void close_next(struct etcd_store *s)
{
    if (!list_empty(&s->jobs)) {
        struct job *j = list_item(list_first(&s->jobs), struct job, node);
        list_remove(&j->node);
        job_end(j, &canceled, NULL);
        return;
    }
    if (s->running != NULL || s->former != NULL || s->stage_runs)
        return; /* its end comes: that of a job says whether it was done */
    s->stage++;
    s->stage_runs = s->stage != CLOSE_LEADER; /* that one is `former` */
    switch (s->stage) {
    case CLOSE_LEADER:
        close_leader(s);
        loop_defer(s->loop, &s->task);
        break;
    case CLOSE_WRITER:
        etcd_writer_close(s->writer, part_closed, s);
        break;
    case CLOSE_WATCH:
        etcd_watch_close(s->watch, part_closed, s);
        break;
    case CLOSE_CLIENT:
        etcd_client_close(s->client, store_free, s);
        break;
    default:
        break;
    }
}

static void store_run(struct loop_task *task, void *data)
{
    struct etcd_store *s = data;
    (void)task;
    if (s->closing) {
        close_next(s);
        return;
    }
    bool writing = s->running != NULL && s->running->kind == JOB_WRITE;
    watchers_show(&s->watchers, writing ? s->running->key : NULL, &s->closing);
    if (s->running == NULL && s->opened == NULL && !s->closing && !list_empty(&s->jobs)) {
        struct job *j = list_item(list_first(&s->jobs), struct job, node);
        list_remove(&j->node);
        job_start(j);
    }
}

static void store_etcd_close(struct store *store, void (*closed)(void *data), void *data)
{
    struct etcd_store *s = of(store);
    if (s->closing)
        return;
    s->closing = true;
    s->stage = CLOSE_JOBS;
    s->closed = closed;
    s->closed_data = data;
    loop_timer_stop(&s->open_limit);
    etcd_client_hurry(s->client);
    loop_defer(s->loop, &s->task);
}

static const char *store_etcd_name(const struct store *store)
{
    return ((const struct etcd_store *)(const void *)store)->name;
}

static const struct store_backend etcd_backend = {
    .get = store_etcd_get,
    .list = store_etcd_list,
    .compare_and_swap = store_etcd_write,
    .watch = store_etcd_watch,
    .watch_stop = watchers_end,
    .lease = store_etcd_lease,
    .close = store_etcd_close,
    .name = store_etcd_name,
};

static void open_fail(struct etcd_store *s, const struct err *why)
{
    store_open_cb opened = s->opened;
    struct err err = *why;
    (void)err_wrap(&err, "%s cannot be read", s->name);
    s->opened = NULL;
    store_etcd_close(&s->base, NULL, NULL);
    opened(&err, NULL, s->opened_data);
}

static void watch_loaded(void *data)
{
    struct etcd_store *s = data;
    store_open_cb opened = s->opened;
    loop_timer_stop(&s->open_limit);
    s->opened = NULL;
    if (opened != NULL)
        opened(NULL, &s->base, s->opened_data);
}

static void watch_failed(const struct err *err, bool final, void *data)
{
    struct etcd_store *s = data;
    err_copy(&s->open_err, err);
    if (final && s->opened != NULL)
        open_fail(s, err);
}

static void open_too_late(struct loop_timer *timer, void *data)
{
    struct etcd_store *s = data;
    struct err err = s->open_err;
    (void)timer;
    if (err.code == ERRC_NONE)
        (void)err_set(&err, ERRC_UNAVAILABLE, "no answer");
    (void)err_wrap(&err, "within %llu s", OPEN_LIMIT_NS / ENV_NS_PER_S);
    err.code = ERRC_UNAVAILABLE;
    open_fail(s, &err);
}

static void watch_begin(struct etcd_store *s)
{
    char *begin = etcd_key(s, FIRST_KEY);
    struct etcd_watch_options o = {
        .begin = begin, .changed = key_changed, .loaded = watch_loaded, .failed = watch_failed, .data = s};
    char *end = etcd_prefix_end(s->prefix, strlen(s->prefix), &o.end_length);
    o.end = end;
    s->watch = etcd_watch_start(s->client, &o);
    free(begin);
    free(end);
}

int store_etcd_open(struct loop *loop, const struct store_etcd_options *options, store_open_cb cb, void *data,
                    struct err *err)
{
    const struct etcd_client_options co = {.endpoints = options->endpoints,
                                           .endpoint_count = options->endpoint_count,
                                           .user = options->user,
                                           .password = options->password,
                                           .tls = options->tls};
    struct etcd_client *client;
    if (options->prefix == NULL || options->prefix[0] == '\0')
        return err_set(err, ERRC_INVALID, "a store in etcd needs a prefix for its keys");
    if (options->lease_s < 0 || options->lease_s == 1)
        return err_set(err, ERRC_INVALID, "the leader's lease must last at least 2 s");
    int rc = etcd_client_new(loop, &co, &client, err);
    if (rc != 0)
        return rc;
    struct etcd_store *s = mem_zalloc(sizeof *s);
    s->base.backend = &etcd_backend;
    s->loop = loop;
    s->client = client;
    s->prefix = mem_strdup(options->prefix);
    s->name = mem_printf("etcd:%s", options->prefix);
    s->lease_s = options->lease_s != 0 ? options->lease_s : LEASE_S;
    s->opened = cb;
    s->opened_data = data;
    list_init(&s->jobs);
    watchers_init(&s->watchers);
    s->task = (struct loop_task){.run = store_run, .data = s};
    list_init(&s->task.node);
    loop_timer_init(loop, &s->open_limit, open_too_late, s);
    loop_timer_start(&s->open_limit, OPEN_LIMIT_NS);
    s->writer = etcd_writer_new(client, s->prefix);
    watch_begin(s);
    return 0;
}
