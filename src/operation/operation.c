#include "operation/operation.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/drain.h"
#include "operation/failover_op.h"
#include "operation/migrate.h"
#include "operation/move_op.h"
#include "operation/provision.h"

static const char *const status_names[] = {"running", "done", "undone", "failed"};

const char *operation_status_name(enum operation_status status)
{
    return status_names[status];
}

void operations_init(struct operations *ops, const struct operation_services *services)
{
    memset(ops, 0, sizeof *ops);
    ops->services = *services;
    list_init(&ops->list);
}

struct journal_write {
    struct list node; /* in operation.writes */
    struct operation *op;
    char *text; /* what was sent */
    operation_done_cb done;
    void *data;
};

static void free_operation(struct operation *op)
{
    list_each(node, &op->writes)
    {
        struct journal_write *w = list_item(node, struct journal_write, node);
        free(w->text);
        free(w);
    }
    free(op->unsure);
    list_remove(&op->node);
    free(op->database);
    free(op->shard);
    op->kind->free(op);
}

void operations_fini(struct operations *ops)
{
    list_each(node, &ops->list)
    {
        free_operation(list_item(node, struct operation, node));
    }
}

static void maybe_stopped(struct operations *ops)
{
    if (ops->stopping == 0 && ops->stopped != NULL) {
        void (*stopped)(void *) = ops->stopped;
        ops->stopped = NULL;
        stopped(ops->stopped_data);
    }
}

void operations_stop(struct operations *ops, void (*stopped)(void *data), void *data)
{
    ops->stopped = stopped;
    ops->stopped_data = data;
    ops->stopping = 1; /* our own hold, so that the last operation_stopped() cannot come too early */
    ops->services.term = 0;
    list_each(node, &ops->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        ops->stopping++;
        op->kind->stop(op);
    }
    ops->stopping--;
    maybe_stopped(ops);
}

void operation_stopped(struct operation *op)
{
    op->owner->stopping--;
    maybe_stopped(op->owner);
}

struct operation *operations_find(const struct operations *ops, const char *id)
{
    list_each(node, &ops->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        if (strcmp(op->id, id) == 0)
            return op;
    }
    return NULL;
}

struct operation *operations_running_on(const struct operations *ops, const char *database, const char *shard)
{
    list_each(node, &ops->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        if (op->status != OPERATION_RUNNING || op->kind->aside || strcmp(op->database, database) != 0)
            continue;
        if (shard == NULL || op->shard == NULL || strcmp(op->shard, shard) == 0 || move_op_targets(op, shard))
            return op;
    }
    return NULL;
}

static void prune(struct operations *ops)
{
    int kept = 0;
    for (struct list *node = ops->list.prev; node != &ops->list; node = node->prev)
        kept++;
    list_each(node, &ops->list)
    {
        struct operation *op = list_item(node, struct operation, node);
        if (kept <= OPERATIONS_KEPT)
            return;
        if (op->status != OPERATION_RUNNING && list_empty(&op->writes)) {
            free_operation(op);
            kept--;
        }
    }
}

void operation_register(struct operations *ops, struct operation *op, const struct operation_kind *kind,
                        const char *prefix, const char *id)
{
    if (id != NULL)
        snprintf(op->id, sizeof op->id, "%s", id);
    else {
        char random[8];
        env_random_text(ops->services.loop->env, random, sizeof random - 1);
        snprintf(op->id, sizeof op->id, "%.4s%s", prefix, random);
        op->created_us = loop_wall(ops->services.loop);
    }
    op->kind = kind;
    op->owner = ops;
    list_init(&op->writes);
    prune(ops);
    list_append(&ops->list, &op->node);
}

void operation_changed(struct operation *op)
{
    const struct operation_services *s = &op->owner->services;
    if (s->operation_changed != NULL)
        s->operation_changed(s->data, op);
}

void operation_end(struct operation *op, enum operation_status status)
{
    op->status = status;
    op->ended_us = loop_wall(op->owner->services.loop);
    operation_changed(op);
}

void operation_maybe_kill(struct operations *ops, const char *place)
{
    operation_test_place(&ops->services.kill_at, place);
}

void operation_test_place(const char **kill_at, const char *place)
{
    const char *at = *kill_at;
    if (at == NULL)
        return;
    if (strcmp(at, place) == 0) {
        log_event(LOG_WARN, "test switch: ending here", "place", place, NULL);
        kill(getpid(), SIGKILL);
        _exit(137); /* process 1 of a container: the kernel drops what such a process sends itself */
    } else if (strncmp(at, "stop:", 5) == 0 && strcmp(at + 5, place) == 0) {
        log_event(LOG_WARN, "test switch: stopping here", "place", place, NULL);
        *kill_at = NULL; /* once */
        kill(getpid(), SIGSTOP);
    }
}

/* ---- journal ---- */

static void on_journaled(const struct err *err, int64_t revision, void *data);

static int write_journal(struct journal_write *w, struct err *err)
{
    struct operation *op = w->op;
    struct buf json = {0};
    char key[32];
    op->kind->print(op, &json);
    snprintf(key, sizeof key, "op/%s", op->id);
    free(w->text);
    w->text = buf_take(&json);
    return store_compare_and_swap(op->owner->services.store, key, op->revision, w->text, on_journaled, w,
                                  err);
}

static void free_write(struct journal_write *w)
{
    list_remove(&w->node);
    free(w->text);
    free(w);
}

/* While `done` runs the write still counts, so that what is written there comes behind what waits already. */
static void end_write(struct journal_write *w, const struct err *err)
{
    w->done(w->op, err, w->data);
    free_write(w);
}

static void write_next(struct operation *op)
{
    struct list *node;
    while ((node = list_first(&op->writes)) != NULL) {
        struct err err = {0};
        if (write_journal(list_item(node, struct journal_write, node), &err) == 0)
            return;
        end_write(list_item(node, struct journal_write, node), &err);
    }
}

static bool is_unknown(const struct err *err)
{
    return err != NULL && (err->code == ERRC_TIMEOUT || err->code == ERRC_UNAVAILABLE);
}

static void journal_written(struct journal_write *w, const struct err *err)
{
    struct operation *op = w->op;
    if (is_unknown(err)) { /* see on_journal_read() */
        free(op->unsure);
        op->unsure = w->text;
        w->text = NULL;
    }
    end_write(w, err);
    write_next(op);
}

/* A conflict after a write without an answer may be with that very write. */
static void on_journal_read(const struct err *err, const struct store_entry *entry, void *data)
{
    struct journal_write *w = data;
    struct operation *op = w->op;
    struct err conflict = {0}, local = {0};
    if (err == NULL && op->unsure != NULL && strcmp(entry->value, op->unsure) == 0) {
        op->revision = entry->revision;
        free(op->unsure);
        op->unsure = NULL;
        if (write_journal(w, &local) != 0)
            journal_written(w, &local);
        return;
    }
    err_set(&conflict, ERRC_CONFLICT, "the journal was written by somebody else");
    journal_written(w, is_unknown(err) ? err : &conflict);
}

static void on_journaled(const struct err *err, int64_t revision, void *data)
{
    struct journal_write *w = data;
    struct operation *op = w->op;
    struct err local = {0};
    char key[32];
    snprintf(key, sizeof key, "op/%s", op->id);
    if (err != NULL && err->code == ERRC_CONFLICT && op->unsure != NULL &&
        store_get(op->owner->services.store, key, on_journal_read, w, &local) == 0)
        return;
    if (err == NULL) {
        op->revision = revision;
        free(op->unsure);
        op->unsure = NULL;
    }
    journal_written(w, err);
}

int operation_journal(struct operation *op, operation_done_cb done, void *data, struct err *err)
{
    struct journal_write *w = mem_zalloc(sizeof *w);
    bool waits = !list_empty(&op->writes);
    w->op = op;
    w->done = done;
    w->data = data;
    list_append(&op->writes, &w->node);
    int rc = waits ? 0 : write_journal(w, err);
    if (rc != 0)
        free_write(w);
    return rc;
}

/* ---- routing ---- */

struct publication {
    struct operations *ops;
    char *database;
    struct routing *routing;
    char *text; /* what was sent */
    struct err err;
    bool tell;
    void (*done)(const struct err *err, void *data);
    void *data;
};

void operation_announce(struct operations *ops, struct fleet_database *db)
{
    if (ops->services.routing_changed != NULL)
        ops->services.routing_changed(ops->services.data, db);
}

static void publication_end(struct publication *p, const struct err *err)
{
    void (*done)(const struct err *, void *) = p->done;
    void *done_data = p->data;
    routing_free(p->routing);
    free(p->text);
    free(p->database);
    free(p);
    done(err, done_data);
}

/* Takes routing over. */
static void put_into_model(struct publication *p, struct fleet_database *db, struct routing *routing,
                           int64_t revision)
{
    routing_free(db->routing);
    db->routing = routing;
    db->routing_revision = revision;
    p->ops->services.fleet->version++;
    if (p->tell)
        operation_announce(p->ops, db);
}

/*
 * After a write that failed, or had no answer, the model may be of the past, and every later write would meet
 * the same conflict. A newer leader's table is left alone: its term is in it.
 */
static void on_table_read(const struct err *err, const struct store_entry *entry, void *data)
{
    struct publication *p = data;
    struct fleet_database *db = fleet_find_database(p->ops->services.fleet, p->database);
    struct routing *found = NULL;
    struct err failure = p->err;
    if (err == NULL && db != NULL && strcmp(entry->value, p->text) == 0) { /* it was written after all */
        put_into_model(p, db, p->routing, entry->revision);
        p->routing = NULL;
        publication_end(p, NULL);
        return;
    }
    if (err == NULL && db != NULL && entry->revision != db->routing_revision &&
        routing_parse(entry->value, strlen(entry->value), &found, NULL) == 0) {
        if ((int64_t)found->term > p->ops->services.term) {
            err_clear(&failure);
            err_set(&failure, ERRC_STALE, "the routing table was written by a leader of term %" PRIu64,
                    found->term);
            routing_free(found);
        } else
            put_into_model(p, db, found, entry->revision);
    }
    publication_end(p, &failure);
}

static void on_published(const struct err *err, int64_t revision, void *data)
{
    struct publication *p = data;
    struct fleet_database *db = fleet_find_database(p->ops->services.fleet, p->database);
    struct err local = {0};
    char key[STORE_KEY_MAX];
    if (err != NULL) {
        err_copy(&p->err, err);
        snprintf(key, sizeof key, "db/%s/routing", p->database);
        if (store_get(p->ops->services.store, key, on_table_read, p, &local) != 0)
            publication_end(p, err);
        return;
    }
    if (db != NULL) {
        put_into_model(p, db, p->routing, revision);
        p->routing = NULL;
    }
    publication_end(p, NULL);
}

static int publish(struct operations *ops, struct fleet_database *db, struct routing *routing, bool tell,
                   void (*done)(const struct err *err, void *data), void *data, struct err *err)
{
    struct buf json = {0};
    char key[STORE_KEY_MAX];
    if (routing_check(routing, err) != 0) {
        routing_free(routing);
        return err_wrap(err, "routing table not published");
    }
    struct publication *p = mem_zalloc(sizeof *p);
    routing->term = (uint64_t)ops->services.term;
    routing_print(routing, &json);
    *p = (struct publication){.ops = ops,
                              .database = mem_strdup(db->name),
                              .routing = routing,
                              .text = buf_take(&json),
                              .tell = tell,
                              .done = done,
                              .data = data};
    snprintf(key, sizeof key, "db/%s/routing", db->name);
    int rc =
        store_compare_and_swap(ops->services.store, key, db->routing_revision, p->text, on_published, p, err);
    if (rc != 0) {
        routing_free(routing);
        free(p->text);
        free(p->database);
        free(p);
    }
    return rc;
}

int operation_publish(struct operations *ops, struct fleet_database *db, struct routing *routing,
                      void (*done)(const struct err *err, void *data), void *data, struct err *err)
{
    return publish(ops, db, routing, true, done, data, err);
}

int operation_publish_untold(struct operations *ops, struct fleet_database *db, struct routing *routing,
                             void (*done)(const struct err *err, void *data), void *data, struct err *err)
{
    return publish(ops, db, routing, false, done, data, err);
}

/* ---- resuming ---- */

struct resume {
    struct operations *ops;
    void (*done)(const struct err *err, void *data);
    void *data;
};

static int resume_entry(struct operations *ops, const struct store_entry *e, struct err *err)
{
    yyjson_doc *doc = yyjson_read(e->value, strlen(e->value), 0);
    const char *kind = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "kind"));
    int rc;
    if (kind == NULL)
        rc = err_set(err, ERRC_CORRUPT, "no kind");
    else if (strcmp(kind, "provision") == 0 || strcmp(kind, "retire") == 0)
        rc = provision_resume(ops, e->value, e->revision, err);
    else if (strcmp(kind, "migrate") == 0)
        rc = migrate_resume(ops, e->value, e->revision, err);
    else if (strcmp(kind, "failover") == 0 || strcmp(kind, "switchover") == 0)
        rc = failover_op_resume(ops, e->value, e->revision, err);
    else if (strcmp(kind, "drain") == 0)
        rc = drain_resume(ops, e->value, e->revision, err);
    else
        rc = move_op_resume(ops, e->value, e->revision, err);
    yyjson_doc_free(doc);
    return rc;
}

static void on_listed(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct resume *r = data;
    struct err first = {0};
    for (int i = 0; err == NULL && i < count; i++) {
        struct err one = {0};
        if (resume_entry(r->ops, &entries[i], &one) != 0) {
            err_wrap(&one, "journal %s is left alone", entries[i].key);
            if (first.code == ERRC_NONE)
                first = one;
        }
    }
    if (err != NULL)
        first = *err;
    r->done(first.code != ERRC_NONE ? &first : NULL, r->data);
    free(r);
}

int operations_resume(struct operations *ops, void (*done)(const struct err *err, void *data), void *data,
                      struct err *err)
{
    struct resume *r = mem_alloc(sizeof *r);
    *r = (struct resume){ops, done, data};
    int rc = store_list(ops->services.store, "op/", on_listed, r, err);
    if (rc != 0)
        free(r);
    return rc;
}
