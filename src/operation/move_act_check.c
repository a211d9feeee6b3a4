/*
 * The checks: everything that would make the move fail, lose data or surprise, at once, with nothing changed.
 *
 *   ACT_CHECK   S alone; then T, if it is there, with what S told; else what the runtime would make T with
 *   ACT_SCHEMA  a T that this move has just made, with what S tells; then it gets S's roles
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/text.h"
#include "operation/checks_sql.h"
#include "operation/findings.h"
#include "operation/move_op_internal.h"

#define CHECK_TIMEOUT_NS (60 * ENV_NS_PER_S)
#define SUBJECT_SIZE     (MOVE_NAME_SIZE + 16)
#define NEVER_WAIT       "SELECT set_config('lock_timeout', '3s', true); "

/* Statements and errors that hold the hash of a password may not reach the server's log. */
#define QUIET                                                                                                \
    "SET LOCAL log_statement = 'none'; SET LOCAL log_min_duration_statement = -1; "                          \
    "SET LOCAL log_min_duration_sample = -1; SET LOCAL log_min_error_statement = 'panic'; "                  \
    "SET LOCAL log_error_verbosity = 'terse'; SET LOCAL track_activities = off; "

static void keep_findings(struct move_op *op, const PGresult *found)
{
    for (int row = 0; row < PQntuples(found); row++) {
        const struct finding one = {PQgetvalue(found, row, 0), PQgetvalue(found, row, 1),
                                    PQgetvalue(found, row, 2), PQgetvalue(found, row, 3)};
        findings_add(&op_record(op)->findings, &one);
    }
}

/* Fails the action if an error was found. */
static bool forbidden(struct move_op *op, enum move_action action)
{
    char first[300];
    unsigned count = findings_errors(&op_record(op)->findings, first, sizeof first);
    if (count > 0)
        act_fail(op, action, ERRC_REFUSED, "%u finding(s) forbid the move, the first: %s", count, first);
    return count > 0;
}

static void check_end(struct move_op *op)
{
    if (!forbidden(op, ACT_CHECK))
        act_done(op, ACT_CHECK, NULL);
}

/* ---- what T would be made with ---- */

static void offer_checked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    keep_findings(op, reply->results[reply->count - 1]);
    check_end(op);
}

/* "needed" is what the new instance wants free on its disk. */
static char *offer_json(const struct runtime_offer *offer, uint64_t needed)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "where", offer->where);
    yyjson_mut_obj_add_int(doc, root, "version", offer->version);
    yyjson_mut_obj_add_str(doc, root, "encoding", offer->encoding);
    yyjson_mut_obj_add_val(doc, root, "extensions", yyjson_mut_raw(doc, offer->extensions));
    yyjson_mut_obj_add_str(doc, root, "directory", offer->directory);
    yyjson_mut_obj_add_uint(doc, root, "free", offer->free_bytes);
    yyjson_mut_obj_add_uint(doc, root, "needed", needed);
    char *json = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    return json;
}

static void not_known_yet(struct move_op *op)
{
    static const struct finding later = {
        FINDING_WARNING, "new shard", "which PostgreSQL and extensions it gets is known once it is made",
        "nothing: it is compared with the source then, before any row is copied"};
    if (op_record(op)->dry_run) /* a move finds out in a moment */
        findings_add(&op_record(op)->findings, &later);
    check_end(op);
}

static void compare_offer(struct move_op *op, const struct runtime_offer *offer)
{
    char *json = offer_json(offer, target_room(op));
    act_sql(op, &op->source, ACT_CHECK, CHECK_TIMEOUT_NS, offer_checked,
            "SET TRANSACTION READ ONLY; SELECT set_config('shardherd.offer', %L, true); %s", json,
            checks_offer_sql);
    free(json);
}

static void on_offer(const struct err *err, const struct runtime_offer *offer, void *data)
{
    struct move_op *op = data;
    if (op->stopped)
        ; /* nobody waits any more */
    else if (err == NULL)
        compare_offer(op, offer);
    else if (err->code == ERRC_UNSUPPORTED)
        not_known_yet(op);
    else
        act_done(op, ACT_CHECK, err);
    op_call_ended(op);
}

static void check_offer(struct move_op *op)
{
    struct runtime *runtime = op_services(op)->runtime;
    struct err err = {0};
    int rc = runtime != NULL ? runtime_offer(runtime, on_offer, op, &err) : ERRC_UNSUPPORTED;
    if (rc == 0)
        op_call_started(op);
    else if (rc == ERRC_UNSUPPORTED)
        not_known_yet(op);
    else
        act_done(op, ACT_CHECK, &err);
}

/* ---- T ---- */

/* `facts` is what checks_facts_sql told of S. */
static void compare_target(struct move_op *op, enum move_action action, const char *facts, act_reply_cb next)
{
    char subject[SUBJECT_SIZE];
    snprintf(subject, sizeof subject, "target %s", op_record(op)->target);
    act_sql(op, &op->target, action, CHECK_TIMEOUT_NS, next,
            "SET TRANSACTION READ ONLY; " NEVER_WAIT
            "SELECT set_config('shardherd.subject', %L, true), set_config('shardherd.facts', %L, true); "
            "SELECT * FROM (%s) a UNION SELECT * FROM (%s) b ORDER BY 1, 2, 3",
            subject, facts, checks_server_sql, checks_target_sql);
}

static void target_compared(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    keep_findings(op, reply->results[reply->count - 1]);
    check_end(op);
}

/* ---- S ---- */

static void keep_state(struct move_record *r, const PGresult *state)
{
    text_to_uint64(PQgetvalue(state, 0, 1), &r->source_epoch);
    text_to_uint64(PQgetvalue(state, 0, 2), &r->source_system);
    text_to_uint64(PQgetvalue(state, 0, 3), &r->total_bytes);
    text_to_uint64(PQgetvalue(state, 0, 4), &r->total_rows);
}

static void source_checked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    struct move_record *r = op_record(op);
    const PGresult *state = reply->results[reply->count - 3];
    buf_reset(&r->findings);
    if (PQntuples(state) != 1) {
        act_fail(op, action, ERRC_REFUSED, "shard %s is not set up as a shard", r->source);
        return;
    }
    keep_state(r, state);
    keep_findings(op, reply->results[reply->count - 2]);
    if (PQgetvalue(state, 0, 0)[0] != 't')
        act_fail(op, action, ERRC_REFUSED, "shard %s does not own the range", r->source);
    else if (r->new_target)
        check_offer(op);
    else
        compare_target(op, action, PQgetvalue(reply->results[reply->count - 1], 0, 0), target_compared);
}

/* Estimates by the share of the owned space that moves; the tree of a table without partitions is empty. */
#define STATE                                                                                                \
    "SELECT shardherd.owns(%d, %d), s.epoch, (pg_control_system()).system_identifier, e.bytes, e.rows "      \
    "FROM shardherd.shard s, "                                                                               \
    "LATERAL (SELECT (%d::numeric - %d::numeric + 1) / sum(r.hi::numeric - r.lo::numeric + 1) AS share "     \
    "FROM unnest(s.los, s.his) AS r(lo, hi)) w, "                                                            \
    "LATERAL (SELECT coalesce(sum(pg_table_size(c.oid)) * w.share, 0)::bigint AS bytes, "                    \
    "coalesce(sum(greatest(c.reltuples, 0)) * w.share, 0)::bigint AS rows FROM shardherd.tables t "          \
    "LEFT JOIN LATERAL pg_partition_tree(to_regclass(t.name)) l ON l.isleaf "                                \
    "JOIN pg_class c ON c.oid = coalesce(l.relid, to_regclass(t.name))) e; "

void act_check(struct move_op *op)
{
    const struct move_record *r = op_record(op);
    char term[64];
    snprintf(term, sizeof term, "SELECT shardherd.raise_term(%" PRId64 "); ", op_term(op));
    act_sql(op, &op->source, ACT_CHECK, CHECK_TIMEOUT_NS, source_checked,
            "%s" NEVER_WAIT "SELECT set_config('shardherd.subject', 'server', true), "
            "set_config('shardherd.new_target', %L, true); " STATE
            "SELECT 'error', c.subject, c.finding, c.remedy FROM shardherd.check_move() c "
            "UNION SELECT * FROM (%s) a UNION SELECT * FROM (%s) b ORDER BY 1, 2, 3; %s",
            r->dry_run ? "SET TRANSACTION READ ONLY; " : term, r->new_target ? "true" : "false", r->range.lo,
            r->range.hi, r->range.hi, r->range.lo, checks_server_sql, checks_source_sql, checks_facts_sql);
}

/* ---- a target of our own, before its schema ---- */

static void roles_there(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    (void)action;
    (void)reply;
    op->target_checked(op);
}

static void roles_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    act_sql(op, &op->target, action, SQL_TIMEOUT_NS, roles_there,
            QUIET "SELECT set_config('shardherd.roles', %L, true); %s", pg_value(reply, 0, 0),
            roles_apply_sql);
}

static void new_target_compared(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    keep_findings(op, reply->results[reply->count - 1]);
    if (!forbidden(op, action))
        act_sql(op, &op->source, action, SQL_TIMEOUT_NS, roles_read, "%s", roles_sql);
}

static void facts_read(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    compare_target(op, action, pg_value(reply, 0, 0), new_target_compared);
}

void target_check(struct move_op *op, enum move_action action, void (*then)(struct move_op *op))
{
    op->target_checked = then;
    act_sql(op, &op->source, action, SQL_TIMEOUT_NS, facts_read, "%s", checks_facts_sql);
}
