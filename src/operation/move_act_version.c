/* Shards with the functions of another version of shardherd: they get ours before a move depends on them. */
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "operation/move_op_internal.h"
#include "operation/shard_sql.h"

static void version_seen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const struct move_record *r = op_record(op);
    struct buf sql = {0};
    const char *there = reply->err == NULL ? pg_value(reply, 0, 0) : NULL;
    const char *comment = reply->err == NULL ? pg_value(reply, 0, 1) : NULL;
    bool same = comment != NULL && strcmp(comment, shard_sql_comment()) == 0;
    if (there == NULL || there[0] != 't' || same) {
        op->version.next(op, action, reply);
        return;
    }
    if (op->version.guards)
        shard_sql_add_update(&sql);
    else
        shard_sql_add_functions(&sql);
    log_event(LOG_INFO, "a shard gets this version's functions", "op", r->id, "db", r->database, "host",
              op->version.shard->access.host, "had", comment != NULL ? comment : "none", "guards",
              op->version.guards ? "too" : "as they are", NULL);
    act_sql_any(op, op->version.shard, action, SQL_TIMEOUT_NS, op->version.next,
                "SET LOCAL lock_timeout = '3s'; SELECT shardherd.check_term(%d); "
                "SELECT set_config('shardherd.operation', %L, true); %s",
                op_term(op), r->id, buf_text(&sql));
    buf_free(&sql);
}

void act_bring_up_to_date(struct move_op *op, struct link *shard, enum move_action action, bool guards,
                          act_reply_cb next)
{
    op->version.shard = shard;
    op->version.guards = guards;
    op->version.next = next;
    act_sql_any(op, shard, action, SQL_TIMEOUT_NS, version_seen,
                "SELECT to_regclass('shardherd.shard') IS NOT NULL, "
                "obj_description(to_regnamespace('shardherd'), 'pg_namespace')");
}
