/*
 * Taking a shard away: the source of a merge or an upgrade, or a target whose move goes back.
 *
 * Clients learn of a new routing table some time after it was written: by asking again once a second, or when
 * they are refused. So a server that had rows of the application's leaves the table first, and stays for a
 * while. It answers with SHR01, from which a client learns where to go; a connection that is refused, or
 * broken off in the middle of a statement, tells nothing. It goes when no client has done anything there for
 * QUIET_NS, and at the latest after retire_wait, since a pool that is never used again may keep its
 * connections for ever.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/move_op_internal.h"

#define QUIET_NS        (2 * ENV_NS_PER_S) /* twice the period at which clients are told to ask for the table */
#define LOOK_NS         (250 * ENV_NS_PER_MS)
#define LOOK_TIMEOUT_NS (5 * ENV_NS_PER_S)

/* ---- out of the routing table, so that nobody is sent there any more ---- */

struct unlisting {
    struct move_op *op;
    enum move_action action;
    char shard[MOVE_NAME_SIZE];
    void (*then)(struct unlisting *unlisting, const struct err *err); /* frees it */
};

static void unlisted(const struct err *err, void *data)
{
    struct unlisting *unlisting = data;
    unlisting->then(unlisting, err);
}

static void unlist(struct move_op *op, enum move_action action, const char *shard,
                   void (*then)(struct unlisting *unlisting, const struct err *err))
{
    struct fleet_database *db = op_database(op);
    struct unlisting *unlisting = mem_zalloc(sizeof *unlisting);
    struct err err = {0};
    *unlisting = (struct unlisting){.op = op, .action = action, .then = then};
    snprintf(unlisting->shard, sizeof unlisting->shard, "%s", shard);
    if (db == NULL || routing_find_shard(db->routing, shard) == NULL) {
        unlisted(NULL, unlisting);
        return;
    }
    struct routing *routing = routing_clone(db->routing);
    routing->epoch++;
    if (routing_remove_shard(routing, shard, &err) != 0) {
        routing_free(routing);
        unlisted(&err, unlisting);
    } else if (operation_publish(op->op.owner, db, routing, unlisted, unlisting, &err) != 0)
        unlisted(&err, unlisting);
}

static void source_unlisted(struct unlisting *unlisting, const struct err *err)
{
    struct unlisting done = *unlisting;
    free(unlisting);
    act_done(done.op, done.action, err);
}

void act_unlist(struct move_op *op)
{
    op->lingers_since_ns = 0;
    unlist(op, ACT_UNLIST, op_record(op)->source, source_unlisted);
}

/* ---- while its clients go ---- */

static void look(struct move_op *op);

static void look_again(struct loop_timer *timer, void *data)
{
    (void)timer;
    look(data);
}

static void looked(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    uint64_t now = op_now(op), most = op_services(op)->retire_wait_ns;
    int64_t busy = 1; /* a server that does not answer us may answer others */
    if (reply->err == NULL)
        pg_value_int64(reply, 0, 0, &busy);
    if (busy > 0)
        op->quiet_since_ns = 0;
    else if (op->quiet_since_ns == 0)
        op->quiet_since_ns = now;
    bool quiet = op->quiet_since_ns != 0 && now - op->quiet_since_ns >= QUIET_NS;
    if (quiet || now - op->lingers_since_ns >= most) {
        act_done(op, action, NULL);
        return;
    }
    op->poll_timer.fire = look_again;
    loop_timer_start(&op->poll_timer, LOOK_NS);
}

/* Who is in a statement or a transaction, or was a moment ago; our own sessions do not count. */
#define BUSY_CLIENTS                                                                                         \
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = "           \
    "'client backend' AND application_name !~ '^shardherd( [a-z]|$)' "                                       \
    "AND (state IS DISTINCT FROM 'idle' OR state_change > clock_timestamp() - interval '1 second')"

static void look(struct move_op *op)
{
    struct err unknown = {0};
    const struct pg_reply gone = {.err = &unknown};
    op_find_servers(op);
    if (op->source_known)
        act_sql_any(op, &op->source, ACT_LINGER, LOOK_TIMEOUT_NS, looked, BUSY_CLIENTS);
    else { /* after a crash: it is removed already, or nobody has found it yet */
        err_set(&unknown, ERRC_UNAVAILABLE, "the server is not known");
        looked(op, ACT_LINGER, &gone);
    }
}

void act_linger(struct move_op *op)
{
    if (op_services(op)->retire_wait_ns == 0 || op_services(op)->runtime == NULL) {
        act_done(op, ACT_LINGER, NULL); /* nobody is to wait, or the server stays */
        return;
    }
    op->lingers_since_ns = op_now(op);
    op->quiet_since_ns = 0;
    look(op);
}

/* ---- gone ---- */

struct removal {
    struct move_op *op;
    enum move_action action;
    char shard[MOVE_NAME_SIZE];
    int outstanding;
    struct err err;
};

static void removal_goes_on(struct removal *removal, const struct err *err)
{
    if (err != NULL)
        err_copy(&removal->err, err);
    if (--removal->outstanding > 0)
        return;
    struct removal done = *removal;
    free(removal);
    act_done(done.op, done.action, done.err.code != ERRC_NONE ? &done.err : NULL);
}

static void on_removed(const struct err *err, void *data)
{
    removal_goes_on(data, err);
}

/* Instances that are not there are removed with success. */
static void remove_all(struct removal *removal)
{
    const struct fleet_database *db = op_database(removal->op);
    int count = (int)fleet_instances_of(db);
    removal->outstanding = 1; /* our own, until all were started */
    for (int i = 0; i < count; i++) {
        char name[2 * MOVE_NAME_SIZE + 16];
        struct err err = {0};
        snprintf(name, sizeof name, "%s-%s-%d", op_record(removal->op)->database, removal->shard, i);
        removal->outstanding++;
        if (runtime_remove(op_services(removal->op)->runtime, name, on_removed, removal, &err) != 0)
            removal_goes_on(removal, &err);
    }
    removal_goes_on(removal, NULL);
}

static void on_released(const struct err *err, void *data)
{
    struct removal *removal = data;
    removal->outstanding = 1;
    if (err != NULL || removal->op->stopped)
        removal_goes_on(removal, err);
    else
        remove_all(removal);
}

/* Nobody may start them again, or make another one the primary, while they go. */
static void remove_instances(struct move_op *op, enum move_action action, const char *shard)
{
    const struct operation_services *s = op_services(op);
    struct removal *removal = mem_zalloc(sizeof *removal);
    struct err err = {0};
    *removal = (struct removal){.op = op, .action = action, .outstanding = 1};
    snprintf(removal->shard, sizeof removal->shard, "%s", shard);
    if (s->runtime == NULL) /* a server that was only lent stays; it owns nothing */
        removal_goes_on(removal, NULL);
    else if (s->release == NULL)
        remove_all(removal);
    else if (s->release(s->drive_data, op_record(op)->database, shard, on_released, removal, &err) != 0)
        removal_goes_on(removal, &err);
}

void act_retire(struct move_op *op)
{
    if (op->source_known) {
        link_drop(&op->source);
        link_drop(&op->source_marker);
    }
    remove_instances(op, ACT_RETIRE, op_record(op)->source);
}

static void target_unlisted(struct unlisting *unlisting, const struct err *err)
{
    struct unlisting done = *unlisting;
    free(unlisting);
    if (err != NULL)
        act_done(done.op, done.action, err);
    else
        remove_instances(done.op, done.action, done.shard);
}

/* It never owned anything: nobody has been sent there for longer than a try of the fence took. */
void act_remove_target(struct move_op *op)
{
    if (op->target_known) {
        link_drop(&op->target);
        link_drop(&op->target_poll);
    }
    unlist(op, ACT_REMOVE_TARGET, op_record(op)->target, target_unlisted);
}
