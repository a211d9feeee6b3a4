/* Making and taking away the shards of a database. Happy path and states: provision.h. */
#include "operation/provision.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sm.h"
#include "operation/link.h"
#include "operation/provision_internal.h"
#include "operation/shard_sql.h"
#include "operation/sqlf.h"
#include "operation/transient.h"

#define OLDEST_VERSION    150000
#define SCHEMA_TIMEOUT_NS (300 * ENV_NS_PER_S)
#define TRIES             60
#define RETRY_NS          (1 * ENV_NS_PER_S)
#define SCHEMAS_MAX       8 /* shards at a time: the text and libpq's copy of it take 270 KiB for each */

static const struct sm_state states[PROVISION_STATE_COUNT] = {
    [PROVISION_PLANNED] = {"planned", SM_NEXT(PROVISION_INSTANCES), false},
    [PROVISION_INSTANCES] = {"instances",
                             SM_NEXT(PROVISION_PRIMARIES) | SM_NEXT(PROVISION_SCHEMA) |
                                 SM_NEXT(PROVISION_ROUTING) | SM_NEXT(PROVISION_FAILED),
                             false},
    [PROVISION_PRIMARIES] = {"primaries", SM_NEXT(PROVISION_SCHEMA) | SM_NEXT(PROVISION_FAILED), false},
    [PROVISION_SCHEMA] = {"schema", SM_NEXT(PROVISION_ROUTING) | SM_NEXT(PROVISION_FAILED), false},
    [PROVISION_ROUTING] = {"routing", SM_NEXT(PROVISION_DONE) | SM_NEXT(PROVISION_FAILED), false},
    [PROVISION_DONE] = {"done", 0, true},
    [PROVISION_FAILED] = {"failed", 0, true},
};

static const struct operation_kind provision_kind;

bool provision_is(const struct operation *op)
{
    return op->kind == &provision_kind;
}

const char *provision_state_name(const struct operation *op)
{
    return sm_name(&((const struct provision *)op)->sm);
}

bool provision_fails(const struct operation *op, int64_t *ret_since_us)
{
    const struct provision *p = (const struct provision *)op;
    if (!provision_is(op) || op->status != OPERATION_RUNNING || p->tries == 0)
        return false;
    *ret_since_us = p->failing_us;
    return true;
}

int provision_state_find(const char *name)
{
    return sm_find(states, PROVISION_STATE_COUNT, name);
}

static const struct operation_services *services(const struct provision *p)
{
    return &p->op.owner->services;
}

/* ---- life ---- */

static void maybe_report_stopped(struct provision *p)
{
    if (p->stopped && !p->reported && p->open_links == 0 && p->op.owner->stopped != NULL) {
        p->reported = true;
        operation_stopped(&p->op);
    }
}

void provision_link_closed(void *data)
{
    maybe_report_stopped(data);
}

static void drop_links(struct provision *p)
{
    for (int i = 0; i < p->shard_count; i++)
        if (p->shards[i].linked)
            link_drop(&p->shards[i].link);
}

static void stop_provision(struct operation *base)
{
    struct provision *p = (struct provision *)base;
    p->stopped = true;
    loop_timer_stop(&p->retry_timer);
    drop_links(p);
    maybe_report_stopped(p);
}

static void free_provision(struct operation *base)
{
    struct provision *p = (struct provision *)base;
    loop_timer_stop(&p->retry_timer);
    for (int i = 0; i < p->shard_count; i++) {
        if (p->shards[i].linked)
            link_fini(&p->shards[i].link);
        free(p->shards[i].name);
        free(p->shards[i].instance);
    }
    for (int i = 0; i < p->table_count; i++) {
        free(p->tables[i].name);
        free(p->tables[i].key);
        free(p->tables[i].type);
    }
    free(p->shards);
    free(p->tables);
    free(p->schema);
    free(p->owner_role);
    free(p);
}

static int cancel_provision(struct operation *base, operation_done_cb done, void *data, struct err *err)
{
    (void)done;
    (void)data;
    return err_set(err, ERRC_CONFLICT, "%s cannot be canceled: delete the database instead", base->id);
}

/* ---- steps ---- */

static void enter(struct provision *p, enum provision_state state);
static void run_state(struct provision *p);

static void end(struct provision *p)
{
    enum provision_state state = (enum provision_state)sm_now(&p->sm);
    bool done = state == PROVISION_DONE;
    log_event(done ? LOG_INFO : LOG_ERROR, p->retiring ? "database deleted" : "database provisioned", "op",
              p->op.id, "db", p->op.database, "state", sm_name(&p->sm), "err",
              p->op.error.code != ERRC_NONE ? p->op.error.message : NULL, NULL);
    p->stopped = true;
    drop_links(p);
    operation_end(&p->op, done ? OPERATION_DONE : OPERATION_FAILED);
}

static void journal(struct provision *p);

static void retry(struct loop_timer *timer, void *data)
{
    struct provision *p = data;
    (void)timer;
    if (p->journaling)
        journal(p);
    else
        run_state(p);
}

/* A place for a test to end the process at: "provision:before:schema". */
static void maybe_kill(const struct provision *p, const char *moment)
{
    if (services(p)->kill_at == NULL)
        return;
    char place[48];
    snprintf(place, sizeof place, "%s:%s:%s", p->retiring ? "retire" : "provision", moment, sm_name(&p->sm));
    operation_maybe_kill(p->op.owner, place);
}

/* Transient faults are tried again; what a person must mend ends the operation. */
static void failed(struct provision *p, const struct err *err)
{
    p->op.error = *err;
    if (p->stopped)
        return;
    if (p->tries == 0)
        p->failing_us = loop_wall(services(p)->loop);
    if (err_is_transient(err) && ++p->tries < TRIES) {
        operation_changed(&p->op);
        loop_timer_start(&p->retry_timer, RETRY_NS);
    } else
        enter(p, PROVISION_FAILED);
}

static void on_journaled(struct operation *op, const struct err *err, void *data)
{
    struct provision *p = (struct provision *)op;
    (void)data;
    if (p->stopped)
        return;
    if (err != NULL && (err->code == ERRC_CONFLICT || !err_is_transient(err))) {
        p->op.error = *err; /* someone else wrote it: another leader goes on */
        end(p);
        return;
    }
    if (err != NULL) {
        p->op.error = *err;
        loop_timer_start(&p->retry_timer, RETRY_NS);
        return;
    }
    p->journaling = false;
    maybe_kill(p, "state");
    run_state(p);
}

static void journal(struct provision *p)
{
    struct err err = {0};
    if (operation_journal(&p->op, on_journaled, NULL, &err) != 0) {
        p->op.error = err;
        end(p);
    }
}

static void enter(struct provision *p, enum provision_state state)
{
    if (state != (enum provision_state)sm_now(&p->sm)) {
        if (state != PROVISION_FAILED)
            maybe_kill(p, "after");
        sm_move(&p->sm, (int)state);
    }
    p->tries = 0;
    if (state == PROVISION_DONE)
        err_clear(&p->op.error);
    p->journaling = true;
    operation_changed(&p->op);
    journal(p);
}

/* Of each shard that is made. */
static int instances_of(const struct provision *p)
{
    const struct fleet_database *db = fleet_find_database(services(p)->fleet, p->op.database);
    return (int)fleet_instances_of(db);
}

static void step_ended(struct provision *p)
{
    if (p->outstanding > 0 || p->stopped)
        return;
    if (p->step_error.code != ERRC_NONE) {
        struct err err = p->step_error;
        err_clear(&p->step_error);
        failed(p, &err);
        return;
    }
    switch ((enum provision_state)sm_now(&p->sm)) {
    case PROVISION_INSTANCES:
        enter(p, instances_of(p) > 1 ? PROVISION_PRIMARIES : PROVISION_SCHEMA);
        break;
    case PROVISION_PRIMARIES:
        enter(p, PROVISION_SCHEMA);
        break;
    default:
        enter(p, PROVISION_ROUTING);
        break;
    }
}

/* ---- instances ---- */

struct shard_call {
    struct provision *p;
    struct provisioned_shard *shard;
};

static void set_link(struct provision *p, struct provisioned_shard *shard,
                     const struct instance_access *access)
{
    char application[64];
    if (shard->linked)
        return;
    snprintf(application, sizeof application, "shardherd op=%s", p->op.id);
    link_init(&shard->link, services(p)->loop, access, application, &p->open_links, provision_link_closed, p);
    shard->linked = true;
}

static void own_instance(struct provision *p, const struct provisioned_shard *shard,
                         struct fleet_instance *instance)
{
    free(instance->database);
    free(instance->shard);
    instance->database = mem_strdup(p->op.database);
    instance->shard = mem_strdup(shard->name);
    services(p)->fleet->version++;
}

static void on_instance(const struct err *err, const struct runtime_instance *made, void *data)
{
    struct shard_call call = *(struct shard_call *)data;
    struct provision *p = call.p;
    struct fleet_instance *instance = NULL;
    free(data);
    p->outstanding--;
    if (p->stopped)
        return;
    if (err != NULL) {
        p->step_error = *err;
        err_wrap(&p->step_error, "shard %s", call.shard->name);
    } else {
        instance = fleet_find_instance(services(p)->fleet, made->name);
        if (instance == NULL)
            fleet_add_instance(services(p)->fleet, made->name, services(p)->runtime->backend->kind,
                               &made->access, &instance, &p->step_error);
        if (instance != NULL)
            own_instance(p, call.shard, instance);
        if (!made->member || (enum provision_state)sm_now(&p->sm) == PROVISION_PRIMARIES)
            set_link(p, call.shard, &made->access);
        if (p->outstanding > 0)
            maybe_kill(p, "amid");
    }
    step_ended(p);
}

/* `primary`: its name; NULL = as the runtime makes the instance of this number. */
static int ensure_instance(struct provision *p, struct provisioned_shard *shard, int number,
                           const char *primary, struct err *err)
{
    const struct operation_services *s = services(p);
    const struct fleet_database *db = fleet_find_database(s->fleet, p->op.database);
    struct runtime_spec spec = {0};
    if (db == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s was deleted", p->op.database);
    if (s->spec_of(s->spec_data, db, shard->name, number, &spec, err) != 0)
        return (int)err->code;
    if (primary != NULL) {
        spec.name = primary;
        spec.primary = true;
    }
    struct shard_call *call = mem_alloc(sizeof *call);
    *call = (struct shard_call){p, shard};
    p->outstanding++;
    if (runtime_ensure(s->runtime, &spec, on_instance, call, err) != 0) {
        p->outstanding--;
        free(call);
        return err_wrap(err, "shard %s", shard->name);
    }
    return 0;
}

static int ensure_shard(struct provision *p, struct provisioned_shard *shard, struct err *err)
{
    const struct operation_services *s = services(p);
    int count = instances_of(p), rc = 0;
    if (shard->instance != NULL) {
        struct fleet_instance *instance = fleet_find_instance(s->fleet, shard->instance);
        if (instance == NULL)
            return err_set(err, ERRC_NOT_FOUND, "shard %s: instance %s is not known", shard->name,
                           shard->instance);
        int version = instance->facts.server_version; /* 0 = not seen yet: asked with the schema */
        if (version != 0 && version < OLDEST_VERSION)
            return err_set(
                err, ERRC_UNSUPPORTED,
                "shard %s: instance %s runs PostgreSQL %d.%d, and %d or newer is needed: upgrade it, or "
                "name another instance",
                shard->name, shard->instance, version / 10000, version % 10000, OLDEST_VERSION / 10000);
        own_instance(p, shard, instance);
        set_link(p, shard, &instance->access);
        return 0;
    }
    if (s->runtime == NULL)
        return err_set(err, ERRC_UNSUPPORTED, "shard %s: no runtime is configured that could make it",
                       shard->name);
    if (count > 1 && s->drive == NULL)
        return err_set(err, ERRC_UNSUPPORTED,
                       "shard %s: nothing drives shards of several instances here: write instances: 1",
                       shard->name);
    for (int i = 0; i < count && rc == 0; i++)
        rc = ensure_instance(p, shard, i, NULL, err);
    return rc;
}

static void run_instances(struct provision *p)
{
    struct err err = {0};
    p->outstanding = 1; /* our own, until all were started */
    for (int i = 0; i < p->shard_count; i++)
        if (ensure_shard(p, &p->shards[i], &err) != 0)
            p->step_error = err;
    p->outstanding--;
    step_ended(p);
}

/* ---- primaries ---- */

static void on_primary(const struct err *err, const char *primary, void *data)
{
    struct shard_call call = *(struct shard_call *)data;
    struct provision *p = call.p;
    struct err local = {0};
    free(data);
    if (!p->stopped && err == NULL && ensure_instance(p, call.shard, 0, primary, &local) != 0)
        err = &local;
    p->outstanding--;
    if (p->stopped)
        return;
    if (err != NULL) {
        p->step_error = *err;
        err_wrap(&p->step_error, "primary of shard %s", call.shard->name);
    }
    step_ended(p);
}

static void run_primaries(struct provision *p)
{
    const struct operation_services *s = services(p);
    p->outstanding = 1; /* our own, until all were started */
    for (int i = 0; i < p->shard_count; i++) {
        if (p->shards[i].linked)
            continue;
        struct shard_call *call = mem_alloc(sizeof *call);
        *call = (struct shard_call){p, &p->shards[i]};
        p->outstanding++;
        if (s->drive(s->drive_data, p->op.database, p->shards[i].name, on_primary, call, &p->step_error) == 0)
            continue;
        p->outstanding--;
        free(call);
    }
    p->outstanding--;
    step_ended(p);
}

/* ---- schema ---- */

static void keep_types(struct provision *p, const struct pg_reply *reply)
{
    for (int row = 0; row < p->table_count; row++) {
        struct provisioned_table *t = &p->tables[row];
        free(t->name);
        free(t->key);
        free(t->type);
        t->name = mem_strdup(pg_value(reply, row, 0));
        t->key = mem_strdup(pg_value(reply, row, 1));
        t->type = mem_strdup(pg_value(reply, row, 2));
    }
}

static void schemas_begin(struct provision *p);

static void on_schema(const struct pg_reply *reply, void *data)
{
    struct shard_call call = *(struct shard_call *)data;
    free(data);
    call.p->outstanding--;
    if (call.p->stopped)
        return;
    if (reply->err != NULL) {
        call.p->step_error = *reply->err;
        err_wrap(&call.p->step_error, "schema of shard %s", call.shard->name);
    } else if (pg_rows(reply) != call.p->table_count) {
        err_set(&call.p->step_error, ERRC_REFUSED, "shard %s has %d distributed tables, the specification %d",
                call.shard->name, pg_rows(reply), call.p->table_count);
    } else {
        if (call.shard == &call.p->shards[0])
            keep_types(call.p, reply);
        if (call.p->outstanding > 0)
            maybe_kill(call.p, "amid");
    }
    link_drop(&call.shard->link); /* and what libpq took to send so much */
    schemas_begin(call.p);
    step_ended(call.p);
}

/* All of it in one transaction: a server that is refused, because of its rows for example, is left as it was.
 */
static void add_install(const struct shard_call *call, struct buf *sql)
{
    const struct provision *p = call->p;
    int64_t term = services(p)->term;
    shard_sql_add(sql);
    sqlf(sql, "SELECT shardherd.raise_term(%d); ", term);
    if (p->schema != NULL) {
        if (p->owner_role != NULL && p->owner_role[0] != '\0')
            sqlf(sql, "SET LOCAL ROLE %I; ", p->owner_role);
        sqlf(sql, "SET LOCAL search_path = public; %s\n; RESET ROLE; SET LOCAL search_path = pg_catalog; ",
             p->schema);
    }
    for (int i = 0; i < p->table_count; i++)
        sqlf(sql, "SELECT shardherd.add_table(%d, %L, %L); ", term, p->tables[i].name, p->tables[i].key);
    sqlf(sql,
         "SELECT shardherd.set_shard(%d, %L, %L, 1, ARRAY[%d], ARRAY[%d]); SELECT "
         "shardherd.refuse_misplaced(); SELECT shardherd.lighten(%d); ",
         term, p->op.database, call->shard->name, call->shard->range.lo, call->shard->range.hi, term);
}

static bool server_fits(const struct pg_reply *reply, struct err *err)
{
    int64_t version = 0;
    const char *level = pg_value(reply, 0, 1);
    if (pg_value_int64(reply, 0, 2, &version) && version < OLDEST_VERSION)
        err_set(err, ERRC_UNSUPPORTED, "PostgreSQL is %d.%d, and %d or newer is needed: upgrade it",
                (int)version / 10000, (int)version % 10000, OLDEST_VERSION / 10000);
    else if (strcmp(level, "logical") != 0)
        err_set(err, ERRC_REFUSED,
                "wal_level is %s: set wal_level = logical in postgresql.conf and restart the server", level);
    return err->code == ERRC_NONE;
}

static void fill_shard(const struct pg_reply *reply, void *data)
{
    struct shard_call *call = data;
    struct provision *p = call->p;
    struct buf sql = {0};
    const char *there = reply->err == NULL ? pg_value(reply, 0, 0) : NULL;
    if (p->stopped || there == NULL) {
        on_schema(reply, data);
        return;
    }
    struct err err = {0};
    if (!server_fits(reply, &err)) {
        struct pg_reply refused = {.err = &err};
        on_schema(&refused, data);
        return;
    }
    if (there[0] == 'f')
        add_install(call, &sql);
    else /* ours from before a crash, or a server that serves another database already */
        sqlf(&sql, "SELECT shardherd.refuse_other(%L, %L, %d, %d); ", p->op.database, call->shard->name,
             call->shard->range.lo, call->shard->range.hi);
    buf_add_text(&sql, "SELECT name, key, type FROM shardherd.tables ORDER BY name");
    link_exec(&call->shard->link, buf_text(&sql), SCHEMA_TIMEOUT_NS, on_schema, call);
    buf_free(&sql);
}

/* As many as may be under way; after an error no more. */
static void schemas_begin(struct provision *p)
{
    while (p->schemas < p->shard_count && p->outstanding < SCHEMAS_MAX && p->step_error.code == ERRC_NONE) {
        struct shard_call *call = mem_alloc(sizeof *call);
        *call = (struct shard_call){p, &p->shards[p->schemas++]};
        p->outstanding++;
        link_exec(&call->shard->link,
                  "SELECT to_regclass('shardherd.shard') IS NOT NULL, current_setting('wal_level'), "
                  "current_setting('server_version_num')::int",
                  SCHEMA_TIMEOUT_NS, fill_shard, call);
    }
}

static void run_schema(struct provision *p)
{
    for (int i = 0; i < p->shard_count; i++) {
        if (!p->shards[i].linked) { /* resumed after a crash: the instances must be found again */
            p->sm.now = PROVISION_INSTANCES;
            run_state(p);
            return;
        }
    }
    p->schemas = 0;
    schemas_begin(p);
}

/* ---- routing ---- */

static void on_routed(const struct err *err, void *data)
{
    struct provision *p = data;
    if (p->stopped)
        return;
    if (err != NULL)
        failed(p, err);
    else
        enter(p, PROVISION_DONE);
}

static void run_routing(struct provision *p)
{
    struct fleet_database *db = fleet_find_database(services(p)->fleet, p->op.database);
    struct err err = {0};
    if (db == NULL) {
        err_set(&err, ERRC_NOT_FOUND, "database %s was deleted", p->op.database);
        failed(p, &err);
        return;
    }
    if (db->routing != NULL) {
        enter(p, PROVISION_DONE);
        return;
    }
    if (!p->shards[0].linked || p->tables[0].type == NULL) { /* resumed: types and addresses are read again */
        p->sm.now = PROVISION_INSTANCES;
        run_state(p);
        return;
    }
    struct routing *routing = routing_new(p->op.database);
    routing->epoch = 1;
    for (int i = 0; i < p->table_count; i++)
        routing_add_table(routing, p->tables[i].name, p->tables[i].key,
                          (enum key_type)key_type_parse(p->tables[i].type));
    for (int i = 0; i < p->shard_count; i++) {
        const struct instance_access *a = &p->shards[i].link.access;
        struct routing_shard *shard = routing_add_shard(routing, p->shards[i].name, a->host, a->port);
        shard->epoch = 1;
        range_set_add(&shard->ranges, &p->shards[i].range, NULL);
    }
    if (operation_publish(p->op.owner, db, routing, on_routed, p, &err) != 0)
        failed(p, &err);
}

static void run_state(struct provision *p)
{
    maybe_kill(p, "before");
    switch ((enum provision_state)sm_now(&p->sm)) {
    case PROVISION_PLANNED:
        enter(p, PROVISION_INSTANCES);
        break;
    case PROVISION_INSTANCES:
        if (p->retiring)
            retire_instances(p);
        else
            run_instances(p);
        break;
    case PROVISION_PRIMARIES:
        if (services(p)->drive != NULL) {
            run_primaries(p);
        } else { /* resumed by a manager that cannot: told there */
            p->sm.now = PROVISION_INSTANCES;
            run_state(p);
        }
        break;
    case PROVISION_SCHEMA:
        run_schema(p);
        break;
    case PROVISION_ROUTING:
        if (p->retiring)
            retire_documents(p);
        else
            run_routing(p);
        break;
    default:
        end(p);
        break;
    }
}

void provision_step_failed(struct provision *p, const struct err *err)
{
    failed(p, err);
}

void provision_enter(struct provision *p, enum provision_state state)
{
    enter(p, state);
}

/* ---- starting ---- */

static void print_provision(const struct operation *op, struct buf *json)
{
    provision_print((const struct provision *)op, json);
}

static const struct operation_kind provision_kind = {.name = "provision",
                                                     .print = print_provision,
                                                     .cancel = cancel_provision,
                                                     .stop = stop_provision,
                                                     .free = free_provision};

struct provision *provision_new(struct operations *ops, const char *database, const char *id, bool retiring)
{
    struct provision *p = mem_zalloc(sizeof *p);
    p->retiring = retiring;
    sm_init(&p->sm, states, PROVISION_STATE_COUNT, PROVISION_PLANNED, NULL, NULL);
    operation_register(ops, &p->op, &provision_kind, retiring ? "retire" : "provision", id);
    p->op.database = mem_strdup(database);
    loop_timer_init(ops->services.loop, &p->retry_timer, retry, p);
    return p;
}

void provision_begin(struct provision *p)
{
    enter(p, (enum provision_state)sm_now(&p->sm));
}

static int check_start(struct operations *ops, const char *database, struct err *err)
{
    if (ops->services.term == 0)
        return err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    if (fleet_find_database(ops->services.fleet, database) == NULL)
        return err_set(err, ERRC_NOT_FOUND, "database %s is not known", database);
    const struct operation *busy = operations_running_on(ops, database, NULL);
    if (busy != NULL)
        return err_set(err, ERRC_CONFLICT, "operation %s runs on database %s: wait for it or cancel it",
                       busy->id, database);
    return 0;
}

int provision_start(struct operations *ops, const struct provision_request *q, struct operation **ret,
                    struct err *err)
{
    if (check_start(ops, q->database, err) != 0)
        return (int)err->code;
    if (fleet_find_database(ops->services.fleet, q->database)->routing != NULL)
        return err_set(err, ERRC_CONFLICT, "database %s is provisioned already", q->database);
    struct provision *p = provision_new(ops, q->database, NULL, false);
    p->shard_count = q->shard_count;
    p->shards = mem_array((size_t)q->shard_count, sizeof *p->shards);
    for (int i = 0; i < q->shard_count; i++)
        p->shards[i] = (struct provisioned_shard){.name = mem_strdup(q->shards[i].name),
                                                  .range = q->shards[i].range,
                                                  .instance = mem_strdup(q->shards[i].instance)};
    p->table_count = q->table_count;
    p->tables = mem_array((size_t)q->table_count, sizeof *p->tables);
    for (int i = 0; i < q->table_count; i++)
        p->tables[i] =
            (struct provisioned_table){mem_strdup(q->tables[i].name), mem_strdup(q->tables[i].key), NULL};
    p->schema = mem_strdup(q->schema);
    p->owner_role = mem_strdup(q->owner);
    provision_begin(p);
    if (ret != NULL)
        *ret = &p->op;
    return 0;
}

int retire_start(struct operations *ops, const char *database, struct operation **ret, struct err *err)
{
    if (check_start(ops, database, err) != 0)
        return (int)err->code;
    struct provision *p = provision_new(ops, database, NULL, true);
    provision_begin(p);
    if (ret != NULL)
        *ret = &p->op;
    return 0;
}
