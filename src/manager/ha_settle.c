/*
 * A promoted instance lets nobody in but us, until what it owns is what the store says: it may lack a fence
 * or an opening that its predecessor had (A6, A7).
 *
 * Happy path: the routing table is certain, unless a move of the shard is at its fence; if the range may have
 * been opened on the other side, that one is asked; then shardherd.settle_promoted() here. Whatever fails is
 * told to the keeper, which asks again and then claims another term.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/ha_settle.h"
#include "operation/link.h"
#include "operation/move_op.h"
#include "operation/shard_sql.h"
#include "operation/sqlf.h"

#define ASK_NS (10 * ENV_NS_PER_S)
#define SQL_NS (25 * ENV_NS_PER_S) /* less than the keeper waits */

struct ha_settle {
    const struct ha_settle_options *o;
    char *database, *shard, *primary;
    uint64_t term; /* of the primary */
    struct link to, other;
    bool linked, other_linked;
    bool other_has; /* the other side of the move accepts the range */
    int open_links;
    bool over;
    struct loop_task begin, gone;
    struct ha_settle_done done;
};

static void drop(struct ha_settle *s)
{
    if (s->linked)
        link_fini(&s->to);
    if (s->other_linked)
        link_fini(&s->other);
    s->linked = s->other_linked = false;
}

static void gone(struct loop_task *task, void *data)
{
    struct ha_settle *s = data;
    void (*closed)(void *) = s->done.closed;
    void *closed_data = s->done.data;
    (void)task;
    free(s->database);
    free(s->shard);
    free(s->primary);
    free(s);
    closed(closed_data);
}

static void maybe_gone(struct ha_settle *s)
{
    if (s->over && s->open_links == 0)
        loop_defer(s->o->loop, &s->gone);
}

static void link_closed(void *data)
{
    maybe_gone(data);
}

void ha_settle_close(struct ha_settle *s)
{
    if (s->over)
        return;
    s->over = true;
    loop_task_cancel(&s->begin);
    drop(s);
    maybe_gone(s);
}

static void end(struct ha_settle *s, const struct err *err)
{
    struct err why = {0};
    if (s->over)
        return;
    if (err != NULL) {
        err_copy(&why, err);
        err_wrap(&why, "what %s owns is not settled", s->primary);
    }
    s->done.settled(s->term, err != NULL ? &why : NULL, s->done.data);
    ha_settle_close(s);
}

/* ---- what it owns ---- */

/* The range has left the source if its fence is known to be committed, or the other side accepts it. */
static int source_owns(const struct move_claim *claim, bool other_has, struct range_set *ranges,
                       uint64_t *epoch, struct err *err)
{
    bool left = claim->left || other_has, has = range_set_contains_range(ranges, &claim->range);
    if (left && has)
        return err_set(err, ERRC_CONFLICT, "the range of move %s has left it, and the routing table differs",
                       claim->id);
    if (left || has)
        return 0;
    *epoch = claim->source_epoch;
    return range_set_add(ranges, &claim->range, err);
}

/* The range is the target's when its opening is known to be committed, which ends the move's fence. */
static int target_owns(const struct move_claim *claim, struct range_set *ranges, uint64_t *epoch,
                       struct err *err)
{
    if (!range_set_contains_range(ranges, &claim->range))
        return 0;
    *epoch = claim->target_epoch;
    return range_set_remove(ranges, &claim->range, err);
}

int ha_settle_owned(const struct routing_shard *shard, const struct move_claim *claim, bool other_has,
                    struct range_set *ret, uint64_t *ret_epoch, struct err *err)
{
    range_set_copy(ret, &shard->ranges);
    *ret_epoch = shard->epoch;
    if (claim == NULL)
        return 0;
    return strcmp(claim->source, shard->name) == 0 ? source_owns(claim, other_has, ret, ret_epoch, err)
                                                   : target_owns(claim, ret, ret_epoch, err);
}

/* NULL = the table does not list it: it is being made, or goes away, and owns nothing. */
static const struct routing_shard *listed(const struct ha_settle *s)
{
    const struct fleet_database *db = fleet_find_database(s->o->fleet, s->database);
    return db != NULL && db->routing != NULL ? routing_find_shard(db->routing, s->shard) : NULL;
}

/* False: there is nothing to settle, or err is set. */
static bool owned(const struct ha_settle *s, struct range_set *ranges, uint64_t *epoch, struct err *err)
{
    const struct routing_shard *shard = listed(s);
    struct move_claim claim;
    bool is_claimed = move_op_claims(s->o->operations, s->database, s->shard, &claim);
    return shard != NULL &&
           ha_settle_owned(shard, is_claimed ? &claim : NULL, s->other_has, ranges, epoch, err) == 0;
}

static void add_bounds(struct buf *sql, const struct range_set *ranges, bool hi)
{
    buf_add_text(sql, "'{");
    for (size_t i = 0; i < ranges->count; i++)
        (void)buf_printf(sql, "%s%lld", i > 0 ? "," : "",
                         (long long)(hi ? ranges->items[i].hi : ranges->items[i].lo));
    buf_add_text(sql, "}'::bigint[]");
}

/* ---- the new primary ---- */

/* The target of a move may not have got that far yet. What owns something has our tables. */
static void without_tables(struct ha_settle *s)
{
    const struct routing_shard *shard = listed(s);
    struct err err = {0};
    if (shard != NULL && shard->ranges.count > 0)
        err_set(&err, ERRC_CORRUPT, "it has no tables of shardherd, and the store says that it owns ranges");
    end(s, err.code != ERRC_NONE ? &err : NULL);
}

static void on_settled(const struct pg_reply *reply, void *data)
{
    struct ha_settle *s = data;
    if (s->over)
        return;
    if (reply->err != NULL) {
        end(s, reply->err);
        return;
    }
    const PGresult *last = reply->results[reply->count - 1];
    if (PQntuples(last) == 0) {
        without_tables(s);
        return;
    }
    const char *found = PQgetvalue(last, 0, 0);
    log_event(strcmp(found, "settled") == 0 ? LOG_WARN : LOG_INFO,
              "what the promoted instance owns was compared with the store", "db", s->database, "shard",
              s->shard, "instance", s->primary, "found", found, NULL);
    end(s, NULL);
}

/* The claim is read in the turn in which the statement is sent: what is certain by now counts. */
static void settle(struct ha_settle *s, bool update)
{
    struct buf sql = {0};
    struct range_set ranges = {0};
    struct err err = {0};
    uint64_t epoch = 0;
    bool is_known = owned(s, &ranges, &epoch, &err);
    if (update)
        shard_sql_add_update(&sql);
    if (is_known) {
        sqlf(&sql, "; SELECT shardherd.settle_promoted(%d, %d, ", s->o->operations->services.term,
             (int64_t)epoch);
        add_bounds(&sql, &ranges, false);
        buf_add_text(&sql, ", ");
        add_bounds(&sql, &ranges, true);
        buf_add_text(&sql, ") FROM shardherd.shard");
        link_exec(&s->to, buf_text(&sql), SQL_NS, on_settled, s);
    } else
        end(s, err.code != ERRC_NONE ? &err : NULL);
    range_set_free(&ranges);
    buf_free(&sql);
}

static void on_looked(const struct pg_reply *reply, void *data)
{
    struct ha_settle *s = data;
    if (s->over)
        return;
    bool is_bare = reply->err != NULL ? err_is_sql(reply->err, "3D000") : !pg_value_bool(reply, 0, 0);
    if (is_bare) {
        without_tables(s);
        return;
    }
    if (reply->err != NULL) {
        end(s, reply->err);
        return;
    }
    const char *comment = pg_value(reply, 0, 1);
    settle(s, comment == NULL || strcmp(comment, shard_sql_comment()) != 0);
}

static bool connect_to(struct ha_settle *s, struct link *link, const struct instance_access *access)
{
    if (access == NULL)
        return false;
    link_init(link, s->o->loop, access, "shardherd settles", &s->open_links, link_closed, s);
    return true;
}

static void look(struct ha_settle *s)
{
    const struct fleet_instance *instance = fleet_find_instance(s->o->fleet, s->primary);
    struct err err = {0};
    s->linked = connect_to(s, &s->to, instance != NULL ? &instance->access : NULL);
    if (s->linked)
        link_exec(&s->to,
                  "SELECT to_regclass('shardherd.shard') IS NOT NULL, "
                  "obj_description(to_regnamespace('shardherd'), 'pg_namespace')",
                  ASK_NS, on_looked, s);
    else {
        err_set(&err, ERRC_UNAVAILABLE, "it is not known how to reach it");
        end(s, &err);
    }
}

/* ---- the other side of a move ---- */

static void on_asked(const struct pg_reply *reply, void *data)
{
    struct ha_settle *s = data;
    if (s->over)
        return;
    if (reply->err != NULL) {
        struct err err = *reply->err;
        err_wrap(&err, "the other side of a move is at its fence, and does not say whether it was opened");
        end(s, &err);
        return;
    }
    s->other_has = strcmp(PQgetvalue(reply->results[reply->count - 1], 0, 0), "t") == 0;
    look(s);
}

/* Nobody opens it any more by an older leader's word: the term is raised before it is read. */
static void ask(struct ha_settle *s, const struct move_claim *claim)
{
    const struct fleet_instance *target = fleet_primary(s->o->fleet, s->database, claim->target);
    struct buf sql = {0};
    struct err err = {0};
    s->other_linked = connect_to(s, &s->other, target != NULL ? &target->access : NULL);
    if (!s->other_linked) {
        err_set(&err, ERRC_UNAVAILABLE, "the primary of shard %s is not known", claim->target);
        end(s, &err);
        return;
    }
    sqlf(&sql,
         "SELECT shardherd.raise_term(%d); SELECT shardherd.owns(%d, %d) OR EXISTS (SELECT FROM "
         "shardherd.gate WHERE move = %L AND open)",
         s->o->operations->services.term, claim->range.lo, claim->range.hi, claim->id);
    link_exec(&s->other, buf_text(&sql), ASK_NS, on_asked, s);
    buf_free(&sql);
}

static void begin(struct loop_task *task, void *data)
{
    struct ha_settle *s = data;
    struct move_claim claim;
    struct err err = {0};
    (void)task;
    if (s->o->operations->services.term == 0) {
        err_set(&err, ERRC_CANCELED, "this manager does not lead any more");
        end(s, &err);
    } else if (listed(s) == NULL)
        end(s, NULL);
    else if (move_op_claims(s->o->operations, s->database, s->shard, &claim) &&
             strcmp(claim.source, s->shard) == 0 && !claim.left)
        ask(s, &claim);
    else
        look(s);
}

struct ha_settle *ha_settle_begin(const struct ha_settle_options *options, const char *database,
                                  const char *shard, const char *primary, uint64_t term,
                                  const struct ha_settle_done *done)
{
    struct ha_settle *s = mem_zalloc(sizeof *s);
    s->o = options;
    s->database = mem_strdup(database);
    s->shard = mem_strdup(shard);
    s->primary = mem_strdup(primary);
    s->term = term;
    s->done = *done;
    s->begin = (struct loop_task){.run = begin, .data = s};
    s->gone = (struct loop_task){.run = gone, .data = s};
    loop_defer(options->loop, &s->begin);
    return s;
}
