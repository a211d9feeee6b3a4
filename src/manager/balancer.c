#include "manager/balancer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "manager/sampler.h"
#include "operation/move_op.h"

#define PERIOD_NS ENV_NS_PER_S

struct watched_shard {
    struct list node; /* in watched.shards */
    char name[BALANCE_NAME_SIZE];
    struct sampler *stream;
    struct sampler *rows;
    uint64_t last_move_ns;
    bool present; /* in the snapshot of this tick */
};

struct watched {
    struct list node; /* in balancer.databases */
    char *database;
    struct balance_state *state;
    struct list shards;
    uint64_t counts[BALANCE_R_COUNT]; /* decisions since the start, by rule */
};

struct balancer {
    struct balancer_options options;
    struct list databases;
    struct loop_timer timer;
    struct balancer_decision *kept; /* ring */
    uint64_t decisions;
    int samplers; /* not yet freed */
    bool stopping;
    void (*closed)(void *data);
    void *data;
};

/* ---- bookkeeping ---- */

static struct watched *watched_find(const struct balancer *b, const char *database)
{
    list_each(node, &b->databases)
    {
        struct watched *w = list_item(node, struct watched, node);
        if (strcmp(w->database, database) == 0)
            return w;
    }
    return NULL;
}

static struct watched *watched_get(struct balancer *b, const char *database)
{
    struct watched *w = watched_find(b, database);
    if (w != NULL)
        return w;
    w = mem_zalloc(sizeof *w);
    w->database = mem_strdup(database);
    w->state = balance_state_new();
    list_init(&w->shards);
    list_append(&b->databases, &w->node);
    return w;
}

/* A dry run changes nothing: it starts no cool-down. */
static bool moved(const struct operation *op, const char *database, const char *shard)
{
    if (!move_op_is(op) || op->status == OPERATION_RUNNING || strcmp(op->database, database) != 0)
        return false;
    const struct move_record *r = move_op_record(op);
    return !r->dry_run && (strcmp(r->source, shard) == 0 || strcmp(r->target, shard) == 0);
}

/* When the shard's last move ended, by the journal: a cool-down outlives the manager that began it. 0 =
 * never.
 */
static uint64_t journaled_end(const struct balancer *b, const char *database, const char *shard)
{
    int64_t ended_us = 0, wall_us = loop_wall(b->options.loop);
    uint64_t now = loop_now(b->options.loop);
    list_each(node, &b->options.operations->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (moved(op, database, shard) && op->ended_us > ended_us)
            ended_us = op->ended_us;
    }
    if (ended_us == 0)
        return 0;
    uint64_t ago = wall_us > ended_us ? (uint64_t)(wall_us - ended_us) * 1000 : 0;
    return ago < now ? now - ago : 1;
}

static struct watched_shard *shard_get(struct balancer *b, struct watched *w, const char *name)
{
    list_each(node, &w->shards)
    {
        struct watched_shard *s = list_item(node, struct watched_shard, node);
        if (strcmp(s->name, name) == 0)
            return s;
    }
    struct watched_shard *s = mem_zalloc(sizeof *s);
    snprintf(s->name, sizeof s->name, "%s", name);
    s->last_move_ns = journaled_end(b, w->database, name);
    list_append(&w->shards, &s->node);
    return s;
}

static void sampler_gone(void *data)
{
    struct balancer *b = data;
    b->samplers--;
    if (b->stopping && b->samplers == 0) {
        void (*closed)(void *) = b->closed;
        void *closed_data = b->data;
        free(b->kept);
        free(b);
        if (closed != NULL)
            closed(closed_data);
    }
}

static void stop_sampler(struct balancer *b, struct sampler **sampler)
{
    struct sampler *s = *sampler;
    *sampler = NULL;
    if (s != NULL)
        sampler_stop(s, sampler_gone, b);
}

static void forget_shard(struct balancer *b, struct watched_shard *s)
{
    stop_sampler(b, &s->stream);
    stop_sampler(b, &s->rows);
    list_remove(&s->node);
    free(s);
}

static void forget_database(struct balancer *b, struct watched *w)
{
    list_each(node, &w->shards)
    {
        forget_shard(b, list_item(node, struct watched_shard, node));
    }
    list_remove(&w->node);
    balance_state_free(w->state);
    free(w->database);
    free(w);
}

/* ---- samplers follow what the decider wants ---- */

static void follow(struct balancer *b, const struct fleet_database *db, struct sampler **sampler,
                   const char *shard, bool wanted, bool rows)
{
    if (!wanted) {
        stop_sampler(b, sampler);
        return;
    }
    const struct fleet_instance *primary = fleet_primary(b->options.fleet, db->name, shard);
    if (*sampler != NULL || primary == NULL)
        return;
    b->samplers++;
    *sampler = sampler_start(b->options.loop, &primary->access, db->routing, db->policy.sample_ns, rows);
}

static void follow_all(struct balancer *b, const struct fleet_database *db, struct watched *w)
{
    size_t place = 0; /* those that are present stand here as in the state: in the order in which they came */
    list_each(node, &w->shards)
    {
        struct watched_shard *s = list_item(node, struct watched_shard, node);
        if (!s->present) {
            forget_shard(b, s);
            continue;
        }
        follow(b, db, &s->stream, s->name, balance_wants_stream(w->state, s->name, place), false);
        follow(b, db, &s->rows, s->name, balance_wants_rows(w->state, s->name, place), true);
        place++;
    }
}

/* ---- facts ---- */

/* A move that only bakes keeps nobody from deciding about the shard's load, but it still holds its tables. */
static const char *operation_on(const struct balancer *b, const char *database, const char *shard)
{
    const struct operation *op = operations_running_on(b->options.operations, database, shard);
    return op != NULL ? op->id : NULL;
}

static void shard_facts(struct balancer *b, const struct fleet_database *db, struct watched *w,
                        const struct routing_shard *shard, struct balance_shard_facts *ret)
{
    const struct fleet_instance *primary =
        fleet_at(b->options.fleet, shard->primary.host, shard->primary.port);
    struct watched_shard *s = shard_get(b, w, shard->name);
    s->present = true;
    *ret = (struct balance_shard_facts){
        .name = shard->name,
        .ranges = &shard->ranges,
        .load = primary != NULL ? &primary->load : NULL,
        .period_ns = primary != NULL ? pollers_load_period(b->options.pollers, primary) : 0,
        .last_move_ns = s->last_move_ns,
        .operation = operation_on(b, db->name, shard->name),
        .may_receive = primary != NULL && primary->facts.health != HEALTH_DOWN,
        .sample = s->stream != NULL ? sampler_sample(s->stream) : NULL,
        .sample_error = s->stream != NULL ? sampler_error(s->stream) : NULL,
        .rows = s->rows != NULL ? sampler_sample(s->rows) : NULL,
        .rows_error = s->rows != NULL ? sampler_error(s->rows) : NULL,
    };
}

static unsigned pending_shards(const struct balancer *b, const struct fleet_database *db)
{
    unsigned pending = 0;
    list_each(node, &b->options.operations->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (op->status == OPERATION_RUNNING && move_op_is(op) && strcmp(op->database, db->name) == 0 &&
            move_op_record(op)->new_target &&
            routing_find_shard(db->routing, move_op_record(op)->target) == NULL)
            pending++;
    }
    return pending;
}

/* ---- changes ---- */

static int start_move(struct balancer *b, const struct fleet_database *db, const struct watched *w,
                      const struct balance_change *c, struct operation **ret, struct err *err)
{
    static const enum move_kind kinds[BALANCE_KIND_MAX] = {[BALANCE_SPLIT] = MOVE_KIND_SPLIT,
                                                           [BALANCE_ISOLATE] = MOVE_KIND_ISOLATE,
                                                           [BALANCE_REBALANCE] = MOVE_KIND_REBALANCE,
                                                           [BALANCE_MERGE] = MOVE_KIND_MERGE};
    const struct balance_shard_state *state = balance_state_find(w->state, c->shard);
    uint64_t hot_since = state != NULL ? state->hot_since_ns : 0;
    struct move_request request = {
        .kind = kinds[c->kind],
        .database = db->name,
        .source = c->shard,
        .target = c->target[0] != '\0' ? c->target : NULL,
        .range = c->range,
        .retire_source = c->kind == BALANCE_MERGE,
        .bake_ns = db->policy.bake_ns,
        .rule = c->rule,
        .reason = c->sentence,
        .decided_us = hot_since != 0 ? (int64_t)((loop_now(b->options.loop) - hot_since) / 1000) : 0,
    };
    return move_op_start(b->options.operations, &request, ret, err);
}

static void keep(struct balancer *b, struct watched *w, const struct balance_change *c, const char *operation)
{
    struct balancer_decision *d = &b->kept[b->decisions % BALANCER_KEPT];
    memset(d, 0, sizeof *d);
    d->number = ++b->decisions;
    d->at_us = loop_wall(b->options.loop);
    snprintf(d->database, sizeof d->database, "%s", w->database);
    d->change = *c;
    snprintf(d->operation, sizeof d->operation, "%s", operation);
    if (c->rule > 0 && c->rule < BALANCE_R_COUNT)
        w->counts[c->rule]++;
    log_event(LOG_INFO, c->kind == BALANCE_REFUSE ? "refused" : "decided", "db", w->database, "shard",
              c->shard, "kind", balance_kind_name(c->kind), "rule", log_num(c->rule), "why", c->sentence,
              "op", operation[0] != '\0' ? operation : NULL, NULL);
    if (b->options.decided != NULL)
        b->options.decided(d, b->options.data);
}

static void take_change(struct balancer *b, const struct fleet_database *db, struct watched *w,
                        const struct balance_change *c)
{
    struct operation *op = NULL;
    struct err err = {0};
    bool moves = c->kind == BALANCE_SPLIT || c->kind == BALANCE_ISOLATE || c->kind == BALANCE_REBALANCE ||
                 c->kind == BALANCE_MERGE;
    if (moves && c->act && start_move(b, db, w, c, &op, &err) != 0)
        log_event(LOG_WARN, "decision could not be started", "db", db->name, "shard", c->shard, "err",
                  err.message, NULL);
    keep(b, w, c, op != NULL ? op->id : "");
}

static void decide(struct balancer *b, const struct fleet_database *db)
{
    struct watched *w = watched_get(b, db->name);
    const struct routing *routing = db->routing;
    struct balance_shard_facts *shards = mem_array(routing->shard_count, sizeof *shards);
    struct balance_changes changes = {0};
    list_each(node, &w->shards)
    {
        list_item(node, struct watched_shard, node)->present = false;
    }
    for (size_t i = 0; i < routing->shard_count; i++)
        shard_facts(b, db, w, &routing->shards[i], &shards[i]);
    struct balance_facts facts = {
        .now_ns = loop_now(b->options.loop),
        .period_ns = b->options.sample_ns > PERIOD_NS ? b->options.sample_ns : PERIOD_NS,
        .database = db->name,
        .policy = &db->policy,
        .shards = shards,
        .shard_count = routing->shard_count,
        .pending_shards = pending_shards(b, db),
        .min_shards = db->initial_shards,
        .free_instances = b->options.operations->services.runtime != NULL ? 64 : 0,
        .capacity_why = "no runtime is configured that could make a shard",
        .running_operations = move_op_working(b->options.operations),
        .max_operations = b->options.operations->services.max_moves,
        .stepwise = true,
    };
    balance_decide(&facts, w->state, &changes);
    for (size_t i = 0; i < changes.count; i++)
        take_change(b, db, w, &changes.items[i]);
    free(shards);
    balance_changes_free(&changes);
    follow_all(b, db, w);
}

static void tick(struct loop_timer *timer, void *data)
{
    struct balancer *b = data;
    loop_timer_start(timer, PERIOD_NS);
    if (b->options.operations->services.term == 0)
        return;
    list_each(node, &b->options.fleet->databases)
    {
        const struct fleet_database *db = list_item(node, struct fleet_database, node);
        if (db->routing != NULL)
            decide(b, db);
    }
}

/* ---- life ---- */

struct balancer *balancer_start(const struct balancer_options *options)
{
    struct balancer *b = mem_zalloc(sizeof *b);
    b->options = *options;
    list_init(&b->databases);
    b->kept = mem_array(BALANCER_KEPT, sizeof *b->kept);
    loop_timer_init(options->loop, &b->timer, tick, b);
    loop_timer_start(&b->timer, PERIOD_NS);
    return b;
}

void balancer_stop(struct balancer *b, void (*closed)(void *data), void *data)
{
    loop_timer_stop(&b->timer);
    b->samplers++; /* our own hold */
    list_each(node, &b->databases)
    {
        forget_database(b, list_item(node, struct watched, node));
    }
    b->stopping = true;
    b->closed = closed;
    b->data = data;
    sampler_gone(b);
}

void balancer_forget(struct balancer *b, const char *database)
{
    struct watched *w = watched_find(b, database);
    if (w != NULL)
        forget_database(b, w);
}

void balancer_move_ended(struct balancer *b, const char *database, const char *shard)
{
    struct watched *w = watched_find(b, database);
    if (w != NULL)
        shard_get(b, w, shard)->last_move_ns = loop_now(b->options.loop);
}

const struct balancer_decision *balancer_decision(const struct balancer *b, unsigned n)
{
    if (n >= BALANCER_KEPT || n >= b->decisions)
        return NULL;
    return &b->kept[(b->decisions - 1 - n) % BALANCER_KEPT];
}

uint64_t balancer_count(const struct balancer *b, const char *database, int rule)
{
    const struct watched *w = watched_find(b, database);
    return w != NULL && rule > 0 && rule < BALANCE_R_COUNT ? w->counts[rule] : 0;
}

const struct balance_shard_state *balancer_shard(const struct balancer *b, const char *database,
                                                 const char *shard)
{
    const struct watched *w = watched_find(b, database);
    return w != NULL ? balance_state_find(w->state, shard) : NULL;
}
