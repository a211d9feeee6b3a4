/*
 * The loop's side of the SQLite store: operations stand in line, a worker runs what stands there as one
 * transaction, answers and events follow in the same order.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "loop/loop.h"
#include "loop/work.h"
#include "store/sqlite_file.h"
#include "store/store_impl.h"

#define BATCH_MAX 256 /* operations in one transaction: bounds the turn that answers them */

/*
 *            operation               turn's end               worker done, line not empty
 *   IDLE ---------------> GATHERING ------------> WORKING ---------------------------------> WORKING
 *    ^                                              |
 *    +----------------------------------------------+  worker done, line empty
 *
 *   IDLE, GATHERING (at the turn's end), WORKING (when the worker is done) --store_close()--> CLOSING
 *   CLOSING waits for the worker that closes the file --> CLOSED
 */
enum { ST_IDLE, ST_GATHERING, ST_WORKING, ST_CLOSING, ST_CLOSED, ST_COUNT };

static const struct sm_state states[ST_COUNT] = {
    [ST_IDLE] = {"idle", SM_NEXT(ST_GATHERING), false},
    [ST_GATHERING] = {"gathering", SM_NEXT(ST_WORKING) | SM_NEXT(ST_CLOSING), false},
    [ST_WORKING] = {"working", SM_NEXT(ST_WORKING) | SM_NEXT(ST_IDLE) | SM_NEXT(ST_CLOSING), false},
    [ST_CLOSING] = {"closing", SM_NEXT(ST_CLOSED), false},
    [ST_CLOSED] = {"closed", 0, true},
};

struct op {
    struct list node; /* in store.queue */
    struct file_op file;
    store_get_cb get_cb;
    store_list_cb list_cb;
    store_write_cb write_cb;
    store_lease_cb lease_cb;
    void *data;
};

struct watch {
    struct store_watch base;
    struct list node; /* in store.watches */
    char *prefix;
    store_watch_cb cb; /* NULL = stopped while events are delivered, freed after them */
    void *data;
    int64_t after; /* the last revision delivered when it began */
};

struct sqlite_store {
    struct store base;
    struct loop *loop;
    char *name;
    struct sqlite_file *file;
    struct sm sm;
    struct list queue;
    struct op *batch[BATCH_MAX]; /* with the worker */
    struct file_op *batch_files[BATCH_MAX];
    int batch_count;
    struct work work;
    struct loop_task turn_end;
    struct list watches;
    int64_t delivered; /* revision of the last change answered */
    bool delivering;
    bool close_wanted;
    void (*closed)(void *data);
    void *closed_data;
};

static void store_step(struct sqlite_store *store);

static struct sqlite_store *self(struct store *store)
{
    return (struct sqlite_store *)(void *)store;
}

/* ---- answers ---- */

static void op_answer(struct op *op, const struct err *err)
{
    const struct file_op *f = &op->file;
    bool ok = err == NULL;
    switch (f->kind) {
    case FILE_GET:
        op->get_cb(err, ok ? &f->entries[0] : NULL, op->data);
        break;
    case FILE_LIST:
        op->list_cb(err, ok ? f->entries : NULL, ok ? f->count : 0, op->data);
        break;
    case FILE_WRITE:
        op->write_cb(err, ok && f->value != NULL ? f->revision : 0, op->data);
        break;
    case FILE_LEASE:
        op->lease_cb(err, ok ? f->revision : 0, op->data);
        break;
    }
}

static void op_free(struct op *op)
{
    file_op_clear(&op->file);
    free(op);
}

static void watch_free(struct watch *watch)
{
    list_remove(&watch->node);
    free(watch->prefix);
    free(watch);
}

static void watches_tell(struct sqlite_store *store, const struct file_op *change)
{
    struct store_entry entry = {change->key, change->value, change->revision};
    /* Watches that begin in a callback join at the end and have `after` set; stopped ones stay in the list.
     */
    for (struct list *node = store->watches.next; node != &store->watches; node = node->next) {
        struct watch *watch = list_item(node, struct watch, node);
        if (watch->cb != NULL && change->revision > watch->after &&
            text_starts_with(change->key, watch->prefix))
            watch->cb(&entry, watch->data);
    }
}

static void watches_sweep(struct sqlite_store *store)
{
    list_each(node, &store->watches)
    {
        struct watch *watch = list_item(node, struct watch, node);
        if (watch->cb == NULL)
            watch_free(watch);
    }
}

static void batch_answer(struct sqlite_store *store)
{
    store->delivering = true;
    for (int i = 0; i < store->batch_count; i++) {
        struct op *op = store->batch[i];
        bool ok = op->file.err.code == ERRC_NONE;
        bool change = ok && op->file.kind == FILE_WRITE;
        if (change)
            store->delivered = op->file.revision;
        op_answer(op, ok ? NULL : &op->file.err);
        if (change)
            watches_tell(store, &op->file);
        op_free(op);
    }
    store->batch_count = 0;
    store->delivering = false;
    watches_sweep(store);
}

static void queue_cancel(struct sqlite_store *store)
{
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "%s is being closed", store->name);
    struct list *node;
    while ((node = list_first(&store->queue)) != NULL) {
        struct op *op = list_item(node, struct op, node);
        list_remove(node);
        op_answer(op, &err);
        op_free(op);
    }
}

/* ---- the machine ---- */

static void batch_run(struct work *work)
{
    struct sqlite_store *store = work->data;
    sqlite_file_run(store->file, store->batch_files, store->batch_count);
}

static void close_run(struct work *work)
{
    struct sqlite_store *store = work->data;
    sqlite_file_close(store->file);
}

static void work_done(struct work *work, int code)
{
    (void)code; /* never canceled */
    store_step(work->data);
}

/* Nothing can refuse a job: work_start() fails only on invalid arguments. */
static void worker_start(struct sqlite_store *store, void (*run)(struct work *))
{
    int rc = work_start(store->loop, &store->work, run, work_done, store);
    assert(rc == 0);
    (void)rc;
}

static void enter_working(struct sqlite_store *store)
{
    sm_move(&store->sm, ST_WORKING);
    struct list *node;
    while (store->batch_count < BATCH_MAX && (node = list_first(&store->queue)) != NULL) {
        struct op *op = list_item(node, struct op, node);
        list_remove(node);
        store->batch[store->batch_count] = op;
        store->batch_files[store->batch_count++] = &op->file;
    }
    worker_start(store, batch_run);
}

static void enter_closing(struct sqlite_store *store)
{
    queue_cancel(store);
    sm_move(&store->sm, ST_CLOSING);
    worker_start(store, close_run);
}

static void enter_closed(struct sqlite_store *store)
{
    sm_move(&store->sm, ST_CLOSED);
    sm_fini(&store->sm);
    void (*closed)(void *) = store->closed;
    void *data = store->closed_data;
    struct list *node;
    while ((node = list_first(&store->watches)) != NULL)
        watch_free(list_item(node, struct watch, node));
    free(store->name);
    free(store);
    if (closed != NULL)
        closed(data);
}

static void store_step(struct sqlite_store *store)
{
    if (sm_now(&store->sm) == ST_CLOSING) {
        enter_closed(store);
        return;
    }
    if (sm_now(&store->sm) == ST_WORKING)
        batch_answer(store);
    if (store->close_wanted)
        enter_closing(store);
    else if (!list_empty(&store->queue))
        enter_working(store);
    else
        sm_move(&store->sm, ST_IDLE);
}

static void turn_ended(struct loop_task *task, void *data)
{
    (void)task;
    store_step(data);
}

static void wake(struct sqlite_store *store)
{
    if (sm_now(&store->sm) != ST_IDLE)
        return;
    sm_move(&store->sm, ST_GATHERING);
    loop_defer(store->loop, &store->turn_end);
}

/* ---- the interface ---- */

static int op_enqueue(struct sqlite_store *store, const struct op *wanted, struct err *err)
{
    if (store->close_wanted)
        return err_set(err, ERRC_CLOSED, "%s is closed", store->name);
    struct op *op = mem_alloc(sizeof *op);
    *op = *wanted;
    op->file.key = mem_strdup(wanted->file.key);
    op->file.value = mem_strdup(wanted->file.value);
    list_append(&store->queue, &op->node);
    wake(store);
    return 0;
}

/* The operation's key and value are copied when it is put in line. */
static char *borrowed(const char *text)
{
    return (char *)(uintptr_t)text;
}

static int sqlite_get(struct store *base, const char *key, store_get_cb cb, void *data, struct err *err)
{
    struct op op = {.file = {.kind = FILE_GET, .key = borrowed(key)}, .get_cb = cb, .data = data};
    return op_enqueue(self(base), &op, err);
}

static int sqlite_list(struct store *base, const char *prefix, store_list_cb cb, void *data, struct err *err)
{
    struct op op = {.file = {.kind = FILE_LIST, .key = borrowed(prefix)}, .list_cb = cb, .data = data};
    return op_enqueue(self(base), &op, err);
}

static int sqlite_write(struct store *base, const char *key, int64_t expected, const char *value,
                        store_write_cb cb, void *data, struct err *err)
{
    struct op op = {
        .file = {.kind = FILE_WRITE, .key = borrowed(key), .value = borrowed(value), .expected = expected},
        .write_cb = cb,
        .data = data};
    return op_enqueue(self(base), &op, err);
}

/* The lock on the file cannot be lost while we live, so `lost` never runs. */
static int sqlite_lease(struct store *base, const char *holder, store_lease_cb cb, void (*lost)(void *),
                        void *data, struct err *err)
{
    (void)lost;
    struct op op = {.file = {.kind = FILE_LEASE, .key = borrowed(holder)}, .lease_cb = cb, .data = data};
    return op_enqueue(self(base), &op, err);
}

static int sqlite_watch(struct store *base, const char *prefix, store_watch_cb cb, void *data,
                        struct store_watch **ret, struct err *err)
{
    struct sqlite_store *store = self(base);
    if (store->close_wanted)
        return err_set(err, ERRC_CLOSED, "%s is closed", store->name);
    struct watch *watch = mem_zalloc(sizeof *watch);
    watch->base.store = base;
    watch->prefix = mem_strdup(prefix);
    watch->cb = cb;
    watch->data = data;
    watch->after = store->delivered;
    list_append(&store->watches, &watch->node);
    *ret = &watch->base;
    return 0;
}

static void sqlite_watch_stop(struct store_watch *base)
{
    struct watch *watch = (struct watch *)(void *)base;
    if (self(base->store)->delivering)
        watch->cb = NULL;
    else
        watch_free(watch);
}

static void sqlite_close(struct store *base, void (*closed)(void *), void *data)
{
    struct sqlite_store *store = self(base);
    if (store->close_wanted)
        return;
    store->close_wanted = true;
    store->closed = closed;
    store->closed_data = data;
    wake(store);
}

static const char *sqlite_name(const struct store *base)
{
    return ((const struct sqlite_store *)(const void *)base)->name;
}

static const struct store_backend sqlite_backend = {
    .get = sqlite_get,
    .list = sqlite_list,
    .compare_and_swap = sqlite_write,
    .watch = sqlite_watch,
    .watch_stop = sqlite_watch_stop,
    .lease = sqlite_lease,
    .close = sqlite_close,
    .name = sqlite_name,
};

/* ---- open ---- */

struct opening {
    struct work work;
    struct loop *loop;
    char *path;
    struct sqlite_file *file;
    struct err err;
    store_open_cb cb;
    void *data;
};

static void open_run(struct work *work)
{
    struct opening *opening = work->data;
    sqlite_file_open(opening->path, &opening->file, &opening->err);
}

static struct sqlite_store *store_new(const struct opening *opening)
{
    struct sqlite_store *store = mem_zalloc(sizeof *store);
    store->base.backend = &sqlite_backend;
    store->loop = opening->loop;
    store->name = mem_printf("sqlite:%s", opening->path);
    store->file = opening->file;
    store->turn_end = (struct loop_task){.run = turn_ended, .data = store};
    list_init(&store->turn_end.node);
    list_init(&store->queue);
    list_init(&store->watches);
    sm_init(&store->sm, states, ST_COUNT, ST_IDLE, NULL, NULL);
    return store;
}

static void open_done(struct work *work, int code)
{
    struct opening *opening = work->data;
    (void)code;
    if (opening->file != NULL)
        opening->cb(NULL, &store_new(opening)->base, opening->data);
    else
        opening->cb(&opening->err, NULL, opening->data);
    free(opening->path);
    free(opening);
}

int store_sqlite_open(struct loop *loop, const char *path, store_open_cb cb, void *data, struct err *err)
{
    if (path[0] == '\0' || path[strlen(path) - 1] == '/')
        return err_set(err, ERRC_INVALID, "store path \"%s\" does not name a file", path);
    struct opening *opening = mem_zalloc(sizeof *opening);
    opening->loop = loop;
    opening->path = mem_strdup(path);
    opening->cb = cb;
    opening->data = data;
    int rc = work_start(loop, &opening->work, open_run, open_done, opening);
    if (rc != 0) {
        free(opening->path);
        free(opening);
        return err_set(err, ERRC_INTERNAL, "no worker for the store");
    }
    return 0;
}
