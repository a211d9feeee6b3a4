#include "operation/failover_op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/document.h"

struct failover_op {
    struct operation op; /* first */
    enum failover_kind kind;
    enum failover_state state;
    char *from, *to; /* NULL = not known */
    char *reason;
    int rule;
    uint64_t term;
    int64_t lost_us, opened_us; /* wall clock; 0 = not known, or not yet */
    uint64_t lost_ns; /* the same in this process, so that a step of the clock does not count; 0 = unknown */
    bool unwritten;   /* the journal has to be written, and was not */
    bool stopped;     /* the manager lets go of it */
    int writing;
};

static const struct operation_kind kinds[FAILOVER_KIND_COUNT];

bool failover_op_is(const struct operation *op)
{
    return op->kind == &kinds[FAILOVER_KIND_FAILOVER] || op->kind == &kinds[FAILOVER_KIND_SWITCHOVER];
}

/* ---- its document ---- */

static void add_text(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, const char *text)
{
    if (text != NULL)
        yyjson_mut_obj_add_str(doc, object, name, text);
    else
        yyjson_mut_obj_add_null(doc, object, name);
}

static void print(const struct operation *base, struct buf *json)
{
    const struct failover_op *f = (const struct failover_op *)base;
    struct failover_op_facts facts;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    failover_op_facts(base, &facts);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "id", base->id);
    yyjson_mut_obj_add_str(doc, root, "kind", failover_kind_name(f->kind));
    add_text(doc, root, "database", base->database);
    add_text(doc, root, "shard", base->shard);
    yyjson_mut_obj_add_str(doc, root, "status", operation_status_name(base->status));
    yyjson_mut_obj_add_str(doc, root, "state", failover_state_name(f->state));
    document_add_number(doc, root, "created_us", base->created_us);
    document_add_number(doc, root, "ended_us", base->ended_us);
    add_text(doc, root, "error_code", err_code_name(base->error.code));
    add_text(doc, root, "error", base->error.message);
    add_text(doc, root, "from", f->from);
    add_text(doc, root, "target", f->to);
    yyjson_mut_obj_add_int(doc, root, "rule", f->rule);
    add_text(doc, root, "reason", f->reason);
    document_add_number(doc, root, "term", (int64_t)f->term);
    document_add_number(doc, root, "lost_us", f->lost_us);
    document_add_number(doc, root, "opened_us", f->opened_us);
    /* a number, as in the journal of a move */
    yyjson_mut_obj_add_uint(doc, root, "write_block_us", facts.blocks ? 0 : facts.blocked_us);
    document_end(doc, json);
}

static int find_name(const char *text, int count, const char *(*name)(int))
{
    for (int i = 0; text != NULL && i < count; i++)
        if (strcmp(text, name(i)) == 0)
            return i;
    return -1;
}

static const char *kind_name(int kind)
{
    return failover_kind_name((enum failover_kind)kind);
}

static const char *state_name(int state)
{
    return failover_state_name((enum failover_state)state);
}

static const char *status_name(int status)
{
    return operation_status_name((enum operation_status)status);
}

/* ---- journal ---- */

static void journal(struct failover_op *f);

/* Who else wrote it leads now, and goes on telling. */
static void on_journaled(struct operation *op, const struct err *err, void *data)
{
    struct failover_op *f = (struct failover_op *)op;
    (void)data;
    f->writing--;
    if (err == NULL || f->stopped)
        return;
    f->unwritten = err->code != ERRC_CONFLICT;
    log_event(LOG_WARN, "the journal of a failover was not written", "op", op->id, "err", err->message, NULL);
}

static void journal(struct failover_op *f)
{
    struct err err = {0};
    f->unwritten = false;
    f->writing++;
    if (operation_journal(&f->op, on_journaled, NULL, &err) != 0)
        on_journaled(&f->op, &err, NULL);
}

void failover_op_look(struct operations *ops)
{
    list_each(node, &ops->list)
    {
        struct failover_op *f = (struct failover_op *)list_item(node, struct operation, node);
        if (failover_op_is(&f->op) && f->unwritten && f->writing == 0)
            journal(f);
    }
}

/* ---- life ---- */

static int cancel(struct operation *op, operation_done_cb done, void *data, struct err *err)
{
    (void)done;
    (void)data;
    return err_set(err, ERRC_CONFLICT,
                   "operation %s gives shard %s another primary: it only goes forward, as the shard may have "
                   "none until it ends",
                   op->id, op->shard);
}

static void stop(struct operation *op)
{
    ((struct failover_op *)op)->stopped = true;
    operation_stopped(op);
}

static void free_op(struct operation *op)
{
    struct failover_op *f = (struct failover_op *)op;
    free(f->from);
    free(f->to);
    free(f->reason);
    free(f);
}

static const struct operation_kind kinds[FAILOVER_KIND_COUNT] = {
    [FAILOVER_KIND_FAILOVER] =
        {.name = "failover", .aside = true, .print = print, .cancel = cancel, .stop = stop, .free = free_op},
    [FAILOVER_KIND_SWITCHOVER] = {.name = "switchover",
                                  .aside = true,
                                  .print = print,
                                  .cancel = cancel,
                                  .stop = stop,
                                  .free = free_op},
};

static struct failover_op *make(struct operations *ops, enum failover_kind kind, const char *id,
                                const char *database, const char *shard)
{
    struct failover_op *f = mem_zalloc(sizeof *f);
    operation_register(ops, &f->op, &kinds[kind], "", id);
    f->kind = kind;
    f->op.database = mem_strdup(database);
    f->op.shard = mem_strdup(shard);
    f->reason = mem_strdup("");
    return f;
}

static int parse(struct operations *ops, yyjson_val *root, int64_t revision, struct err *err)
{
    const char *id = yyjson_get_str(yyjson_obj_get(root, "id"));
    const char *database = yyjson_get_str(yyjson_obj_get(root, "database"));
    const char *shard = yyjson_get_str(yyjson_obj_get(root, "shard"));
    const char *message = yyjson_get_str(yyjson_obj_get(root, "error"));
    const char *reason = yyjson_get_str(yyjson_obj_get(root, "reason"));
    int kind = find_name(yyjson_get_str(yyjson_obj_get(root, "kind")), FAILOVER_KIND_COUNT, kind_name);
    int state = find_name(yyjson_get_str(yyjson_obj_get(root, "state")), FAILOVER_STATE_COUNT, state_name);
    int status = find_name(yyjson_get_str(yyjson_obj_get(root, "status")), OPERATION_FAILED + 1, status_name);
    int64_t created, ended, lost, opened, term;
    if (id == NULL || strlen(id) >= OPERATION_ID_SIZE || database == NULL || shard == NULL ||
        reason == NULL || kind < 0 || state < 0 || status < 0 ||
        !document_number(root, "created_us", &created) || !document_number(root, "ended_us", &ended) ||
        !document_number(root, "lost_us", &lost) || !document_number(root, "opened_us", &opened) ||
        !document_number(root, "term", &term))
        return err_set(err, ERRC_CORRUPT, "a member is missing");
    struct failover_op *f = make(ops, (enum failover_kind)kind, id, database, shard);
    f->op.revision = revision;
    f->op.created_us = created;
    f->op.ended_us = ended;
    f->op.status = (enum operation_status)status;
    f->state = (enum failover_state)state;
    f->lost_us = lost;
    f->opened_us = opened;
    f->term = (uint64_t)term;
    f->rule = yyjson_get_int(yyjson_obj_get(root, "rule"));
    f->from = mem_strdup(yyjson_get_str(yyjson_obj_get(root, "from")));
    f->to = mem_strdup(yyjson_get_str(yyjson_obj_get(root, "target")));
    free(f->reason);
    f->reason = mem_strdup(reason);
    if (message != NULL && message[0] != '\0')
        err_set(&f->op.error, ERRC_INTERNAL, "%s", message);
    return 0;
}

int failover_op_resume(struct operations *ops, const char *json, int64_t revision, struct err *err)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    int rc = parse(ops, yyjson_doc_get_root(doc), revision, err);
    yyjson_doc_free(doc);
    return rc;
}

/* ---- what is told ---- */

static bool take_text(char **have, const char *text)
{
    if (text == NULL || (*have != NULL && strcmp(*have, text) == 0))
        return false;
    free(*have);
    *have = mem_strdup(text);
    return true;
}

/* Since when nobody accepts writes: a failover since its primary was last there, a switchover since it is
 * asked to stop. */
static void note_lost(struct failover_op *f, const struct failover_report *r)
{
    struct loop *loop = f->op.owner->services.loop;
    bool is_open = f->kind == FAILOVER_KIND_SWITCHOVER && r->record->state < FAILOVER_FENCE;
    if (f->lost_us != 0 || is_open || r->record->state == FAILOVER_CANCELED)
        return;
    uint64_t now = loop_now(loop), since = r->lost_ns != 0 && r->lost_ns < now ? r->lost_ns : now;
    f->lost_ns = since;
    f->lost_us = loop_wall(loop) - (int64_t)((now - since) / 1000);
}

static int64_t now_after_lost(const struct failover_op *f)
{
    struct loop *loop = f->op.owner->services.loop;
    int64_t wall = loop_wall(loop);
    if (f->lost_ns != 0)
        return f->lost_us + (int64_t)((loop_now(loop) - f->lost_ns) / 1000);
    return wall > f->lost_us ? wall : f->lost_us;
}

static bool is_over(enum failover_state state)
{
    return state == FAILOVER_DONE || state == FAILOVER_CANCELED;
}

/* Agents are waited for, so that the store has nothing else to do, and no write of it waits behind this one.
 */
static bool is_journaled_in(enum failover_state state)
{
    return state == FAILOVER_PREPARE || state == FAILOVER_FENCE || state == FAILOVER_CONFIRM ||
           state == FAILOVER_FETCH || state == FAILOVER_LEASE;
}

static void log_end(const struct failover_op *f, const char *sentence)
{
    struct failover_op_facts facts;
    char seconds[32] = "";
    failover_op_facts(&f->op, &facts);
    if (facts.blocked && facts.blocked_us > 0)
        snprintf(seconds, sizeof seconds, "%.3f", (double)facts.blocked_us / 1e6);
    log_event(f->op.status == OPERATION_DONE ? LOG_INFO : LOG_WARN, sentence, "op", f->op.id, "kind",
              failover_kind_name(f->kind), "db", f->op.database, "shard", f->op.shard, "from", f->from, "to",
              f->to, "seconds_without_writes", seconds[0] != '\0' ? seconds : NULL, "why",
              f->reason[0] != '\0' ? f->reason : NULL, "err",
              f->op.error.code != ERRC_NONE ? f->op.error.message : NULL, NULL);
}

static bool gave_back(const struct failover_op *f)
{
    return f->kind == FAILOVER_KIND_SWITCHOVER && f->from != NULL && f->to != NULL &&
           strcmp(f->from, f->to) == 0;
}

static void end(struct failover_op *f)
{
    bool undone = f->state == FAILOVER_CANCELED || gave_back(f);
    if (!undone)
        err_clear(&f->op.error);
    else if (f->op.error.code == ERRC_NONE)
        err_set(&f->op.error, ERRC_UNAVAILABLE, "%s is the primary of shard %s as before",
                f->from != NULL ? f->from : "the old primary", f->op.shard);
    operation_end(&f->op, undone ? OPERATION_UNDONE : OPERATION_DONE);
    log_end(f, undone ? "the switchover was given up" : "the shard has another primary");
    journal(f);
}

/* True: what people see of it changed. */
static bool take(struct failover_op *f, const struct failover_report *r)
{
    const struct failover_record *record = r->record;
    bool differs = f->state != record->state || f->term != record->ha.term;
    f->state = record->state;
    f->term = record->ha.term;
    f->rule = record->rule;
    if (f->from == NULL)
        differs = take_text(&f->from, r->from) || differs;
    differs = take_text(&f->to, r->to) || differs;
    differs = take_text(&f->reason, record->reason) || differs;
    if (strcmp(f->op.error.message, record->error.message) != 0 && !is_over(record->state)) {
        f->op.error = record->error;
        differs = true;
    }
    note_lost(f, r);
    if (r->acknowledges && f->lost_us != 0 && f->opened_us == 0)
        f->opened_us = now_after_lost(f);
    return differs;
}

const struct operation *failover_op_tell(struct operations *ops, const struct failover_report *r)
{
    const struct failover_record *record = r->record;
    struct operation *op = operations_find(ops, record->id);
    if (record->id[0] == '\0' || ops->services.term == 0 || (op == NULL && is_over(record->state)) ||
        (op != NULL && (op->status != OPERATION_RUNNING || !failover_op_is(op))))
        return NULL; /* nobody told of it when it was, or it has ended for whoever looks */
    struct failover_op *f = (struct failover_op *)op;
    if (f == NULL) {
        f = make(ops, record->kind, record->id, r->database, r->shard);
        f->op.created_us = loop_wall(ops->services.loop);
        f->state = FAILOVER_STATE_COUNT; /* nobody was told yet */
    }
    if (!take(f, r))
        return NULL;
    if (is_over(f->state)) {
        end(f);
        return &f->op;
    }
    operation_changed(&f->op);
    if (is_journaled_in(f->state))
        journal(f);
    return NULL;
}

void failover_op_forget(struct operations *ops, const char *database, const char *shard, const char *id,
                        const char *why)
{
    list_each(node, &ops->list)
    {
        struct failover_op *f = (struct failover_op *)list_item(node, struct operation, node);
        if (ops->services.term == 0 || f->op.status != OPERATION_RUNNING || !failover_op_is(&f->op) ||
            strcmp(f->op.database, database) != 0 || (shard != NULL && strcmp(f->op.shard, shard) != 0) ||
            (id != NULL && strcmp(f->op.id, id) == 0))
            continue;
        err_clear(&f->op.error);
        err_set(&f->op.error, ERRC_CANCELED, "%s", why);
        operation_end(&f->op, OPERATION_FAILED);
        log_end(f, "the end of a failover was not seen");
        journal(f);
    }
}

void failover_op_facts(const struct operation *op, struct failover_op_facts *ret)
{
    const struct failover_op *f = (const struct failover_op *)op;
    bool running = op->status == OPERATION_RUNNING;
    int64_t until = f->opened_us != 0 ? f->opened_us : running && f->lost_us != 0 ? now_after_lost(f) : 0;
    *ret = (struct failover_op_facts){.kind = f->kind,
                                      .step = (int)f->state,
                                      .state = failover_state_name(f->state),
                                      .from = f->from,
                                      .to = f->to,
                                      .reason = f->reason,
                                      .blocked = f->lost_us != 0,
                                      .blocks = running && f->lost_us != 0 && f->opened_us == 0,
                                      .blocked_us = until > f->lost_us ? (uint64_t)(until - f->lost_us) : 0};
}
