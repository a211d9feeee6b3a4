/* The target: its instance, its schema, and the freeze of DDL on both sides. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "loop/process.h"
#include "operation/move_op_internal.h"
#include "operation/shard_sql.h"
#include "operation/post_data.h"
#include "operation/sqlf.h"

#define DUMP_LIMIT      (64u * 1024 * 1024)
#define ROOM_LEAST      (512ull << 20) /* what an empty instance wants free */
#define ROOM_COPIES     3              /* the rows, their indexes, and WAL that waits for the copy to end */
#define DUMP_TIMEOUT_NS (300 * ENV_NS_PER_S)

/* ---- instance ---- */

static void provisioned(const struct err *err, void *data)
{
    struct move_op *op = data;
    act_done(op, ACT_PROVISION, err);
}

static void publish_target(struct move_op *op, const struct instance_access *access)
{
    struct fleet_database *db = op_database(op);
    struct err err = {0};
    if (routing_find_shard(db->routing, op_record(op)->target) != NULL) {
        provisioned(NULL, op);
        return;
    }
    struct routing *routing = routing_clone(db->routing);
    routing->epoch++;
    routing_add_shard(routing, op_record(op)->target, access->host, access->port)->epoch = routing->epoch;
    if (operation_publish(op->op.owner, db, routing, provisioned, op, &err) != 0)
        provisioned(&err, op);
}

static void add_to_fleet(struct move_op *op, const struct runtime_instance *instance)
{
    struct fleet *fleet = op_services(op)->fleet;
    struct fleet_instance *added;
    if (fleet_find_instance(fleet, instance->name) != NULL ||
        fleet_add_instance(fleet, instance->name, op_services(op)->runtime->backend->kind, &instance->access,
                           &added, NULL) != 0)
        return;
    free(added->database);
    free(added->shard);
    added->database = mem_strdup(op_record(op)->database);
    added->shard = mem_strdup(op_record(op)->target);
}

static void on_instance(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct move_op *op = data;
    struct err local = {0};
    if (op->stopped)
        return;
    if (err != NULL || op_database(op) == NULL) {
        if (err == NULL)
            err_set(&local, ERRC_NOT_FOUND, "the database was deleted");
        act_done(op, ACT_PROVISION, err != NULL ? err : &local);
        return;
    }
    add_to_fleet(op, instance);
    op_set_target(op, &instance->access);
    publish_target(op, &instance->access);
}

/* `primary`: ensure this one, which is the primary, rather than the instance of that number. */
static int ensure_target(struct move_op *op, int number, const char *primary, runtime_instance_cb cb,
                         struct err *err)
{
    const struct operation_services *s = op_services(op);
    struct runtime_spec spec = {0};
    if (op_database(op) == NULL)
        return err_set(err, ERRC_NOT_FOUND, "the database was deleted");
    if (s->spec_of(s->spec_data, op_database(op), op_record(op)->target, number, &spec, err) != 0)
        return (int)err->code;
    if (primary != NULL) {
        spec.name = primary;
        spec.primary = true;
    }
    spec.min_free_bytes = target_room(op);
    return runtime_ensure(s->runtime, &spec, cb, op, err);
}

/* ---- with as many instances as the other shards have: first all agents, then one becomes the primary ----
 */

static void on_primary(const struct err *err, const char *primary, void *data)
{
    struct move_op *op = data;
    struct err local = {0};
    if (op->stopped)
        return;
    if (err == NULL && ensure_target(op, 0, primary, on_instance, &local) == 0)
        return;
    act_done(op, ACT_PROVISION, err != NULL ? err : &local);
}

static void members_go_on(struct move_op *op)
{
    const struct operation_services *s = op_services(op);
    struct err err = op->member_err;
    if (--op->members_made > 0 || op->stopped)
        return;
    err_clear(&op->member_err);
    if (err.code == ERRC_NONE &&
        s->drive(s->drive_data, op_record(op)->database, op_record(op)->target, on_primary, op, &err) == 0)
        return;
    act_done(op, ACT_PROVISION, &err);
}

static void on_member(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct move_op *op = data;
    if (err != NULL)
        err_copy(&op->member_err, err);
    else if (!op->stopped)
        add_to_fleet(op, instance);
    members_go_on(op);
}

static void provision_members(struct move_op *op, int count)
{
    op->members_made = 1; /* our own, until all were started */
    for (int i = 0; i < count; i++) {
        op->members_made++;
        if (ensure_target(op, i, NULL, on_member, &op->member_err) != 0)
            op->members_made--;
    }
    members_go_on(op);
}

uint64_t target_room(const struct move_op *op)
{
    return ROOM_LEAST + ROOM_COPIES * op->core.record.total_bytes;
}

void act_provision(struct move_op *op)
{
    const struct operation_services *s = op_services(op);
    struct err err = {0};
    if (!op_record(op)->new_target) {
        act_done(op, ACT_PROVISION, NULL);
        return;
    }
    if (s->runtime == NULL || op_database(op) == NULL) {
        act_fail(op, ACT_PROVISION, ERRC_UNSUPPORTED, "no runtime is configured that could make a new shard");
        return;
    }
    int instances = (int)op_database(op)->instances;
    if (instances > 1 && s->drive == NULL)
        act_fail(op, ACT_PROVISION, ERRC_UNSUPPORTED,
                 "nothing here keeps the standbys that a new shard is to have");
    else if (instances > 1)
        provision_members(op, instances);
    else if (ensure_target(op, 0, NULL, on_instance, &err) != 0)
        act_done(op, ACT_PROVISION, &err);
}

/* ---- schema: pg_dump of S, without what is ours, into T, together with T's own guards ---- */

/*
 * Our own triggers on S know what S owns; on T they would let R pass. pg_dump heads every object with
 * "-- Name: <name>; Type: <type>; ...": triggers named shardherd_* are left out.
 */
static void add_without_our_triggers(struct buf *out, const char *dump)
{
    bool skipping = false;
    for (const char *line = dump; *line != '\0';) {
        const char *end = strchr(line, '\n');
        size_t length = end != NULL ? (size_t)(end - line) + 1 : strlen(line);
        if (strncmp(line, "-- Name: ", 9) == 0) {
            const char *type = memmem(line, length, "; Type: ", 8);
            bool trigger = type != NULL && (strncmp(type + 8, "TRIGGER;", 8) == 0 ||
                                            strncmp(type + 8, "EVENT TRIGGER;", 14) == 0);
            skipping = trigger && memmem(line, length, "shardherd_", 10) != NULL;
        }
        if (!skipping)
            buf_add(out, line, length);
        line += length;
    }
}

struct listing {
    struct buf *sql;
    int64_t number;
};

static void list_part(const struct post_part *part, void *data)
{
    struct listing *l = data;
    char *text = mem_printf("%.*s", (int)part->length, part->text);
    sqlf(l->sql,
         "INSERT INTO shardherd.post_data (number, relation, alone, script) VALUES (%d, %L, %s, %L);\n",
         l->number++, part->relation[0] != '\0' ? part->relation : NULL, part->alone ? "true" : "false",
         text);
    free(text);
}

static char *target_script(struct move_op *op, const char *pre_data, const char *post_data)
{
    struct buf sql = {0};
    const struct move_record *r = op_record(op);
    const struct fleet_database *db = op_database(op);
    struct listing listing = {.sql = &sql};
    struct buf post = {0};
    buf_add_text(&sql, pre_data);
    buf_add_text(&sql, "\nSET search_path = pg_catalog;\n");
    shard_sql_add(&sql);
    add_without_our_triggers(&post, post_data);
    post_data_cut(buf_text(&post), list_part, &listing);
    buf_free(&post);
    sqlf(&sql, "SELECT shardherd.raise_term(%d);\n", op_term(op));
    for (size_t i = 0; i < db->routing->table_count; i++)
        sqlf(&sql, "SELECT shardherd.add_table(%d, %L, %L);\n", op_term(op), db->routing->tables[i].table,
             db->routing->tables[i].key);
    sqlf(&sql,
         "SELECT shardherd.set_shard(%d, %L, %L, %d, '{}', '{}');\nSELECT shardherd.refuse_misplaced();\n",
         op_term(op), r->database, r->target, (int64_t)db->routing->epoch);
    return buf_take(&sql);
}

static const char *tool(const struct move_op *op, const char *name, char *out, size_t size)
{
    const char *directory = op_services(op)->bin_directory;
    snprintf(out, size, "%s%s%s", directory != NULL ? directory : "", directory != NULL ? "/" : "", name);
    return out;
}

struct tool_run {
    struct move_op *op;
    enum move_action action;
    const char *name;
    void (*next)(struct move_op *op, const struct process_result *result);
};

static void on_tool_end(const struct process_result *result, void *data)
{
    struct tool_run run = *(struct tool_run *)data;
    struct err err = {0};
    free(data);
    op_tool_ended(run.op);
    if (run.op->stopped)
        return;
    if (result->err.code != ERRC_NONE || result->exit_code != 0 || result->truncated) {
        process_describe(result, run.name, &err);
        /* a server that went away is worth another try, a script it refuses is not */
        bool lost = strstr(result->errors != NULL ? result->errors : "", "connection to server") != NULL;
        err.code = result->exit_code == 3 && !lost ? ERRC_REFUSED : ERRC_UNAVAILABLE;
        act_done(run.op, run.action, &err);
        return;
    }
    run.next(run.op, result);
}

#define TOOL_VARIABLES 9

static void variable_add(char *env[TOOL_VARIABLES + 1], const char *name, const char *value)
{
    int count = 0;
    while (env[count] != NULL)
        count++;
    if (value != NULL && count < TOOL_VARIABLES)
        env[count] = mem_printf("%s=%s", name, value);
}

/*
 * As our own sessions connect; by its application_name a newer manager ends it. Without JIT, as in link.c:
 * freeze() is in a script, and half of a small move's time was compiling it.
 */
static void variables_of(const struct link *server, char *env[TOOL_VARIABLES + 1])
{
    const struct instance_access *a = &server->access;
    variable_add(env, "PGPASSWORD", a->password != NULL ? a->password : "");
    variable_add(env, "PGAPPNAME", server->application);
    variable_add(env, "PGCONNECT_TIMEOUT", "10");
    variable_add(env, "PGOPTIONS", "-c statement_timeout=0 -c jit=off");
    variable_add(env, "PGSSLMODE", a->sslmode);
    variable_add(env, "PGSSLROOTCERT", a->sslrootcert);
    variable_add(env, "PGSSLCERT", a->sslcert);
    variable_add(env, "PGSSLKEY", a->sslkey);
}

void op_run_tool(struct move_op *op, enum move_action action, const char *name, const struct link *server,
                 const char *const *extra, const char *input, uint64_t timeout_ns,
                 void (*next)(struct move_op *op, const struct process_result *result))
{
    char path[512];
    char port[16];
    char *env[TOOL_VARIABLES + 1] = {NULL};
    const char *argv[24] = {tool(op, name, path, sizeof path),
                            "-h",
                            server->access.host,
                            "-p",
                            port,
                            "-U",
                            server->access.user,
                            "-d",
                            server->access.dbname};
    variables_of(server, env);
    struct process_options options = {.argv = argv,
                                      .env = (const char *const *)env,
                                      .input = input,
                                      .timeout_ns = timeout_ns,
                                      .input_length = input != NULL ? strlen(input) : 0,
                                      .capture_limit = DUMP_LIMIT};
    struct tool_run *run = mem_alloc(sizeof *run);
    struct err err = {0};
    snprintf(port, sizeof port, "%d", server->access.port);
    for (int i = 0; extra[i] != NULL && i < 12; i++)
        argv[9 + i] = extra[i];
    *run = (struct tool_run){op, action, name, next};
    struct process *started;
    int rc = process_start(op_services(op)->loop, &options, on_tool_end, run, &started, &err);
    for (int i = 0; env[i] != NULL; i++)
        mem_wipe_free(env[i]);
    if (rc == 0)
        op_tool_started(op, started);
    else {
        free(run);
        act_done(op, action, &err);
    }
}

static void target_filled(struct move_op *op, const struct process_result *result)
{
    (void)result;
    act_done(op, ACT_SCHEMA, NULL);
}

static void post_data_dumped(struct move_op *op, const struct process_result *result)
{
    static const char *const extra[] = {"-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-o", "/dev/null", NULL};
    if (op_database(op) == NULL) {
        act_fail(op, ACT_SCHEMA, ERRC_NOT_FOUND, "the database was deleted");
        return;
    }
    char *script = target_script(op, op->pre_data, result->out);
    free(op->pre_data);
    op->pre_data = NULL;
    op_run_tool(op, ACT_SCHEMA, "psql", &op->target, extra, script, DUMP_TIMEOUT_NS, target_filled);
    free(script);
}

static void dump(struct move_op *op, const char *section,
                 void (*next)(struct move_op *op, const struct process_result *result))
{
    const char *const extra[] = {
        section, "--exclude-schema=shardherd", "--no-publications", "--no-subscriptions", "--no-tablespaces",
        NULL};
    op_run_tool(op, ACT_SCHEMA, "pg_dump", &op->source, extra, NULL, DUMP_TIMEOUT_NS, next);
}

static void pre_data_dumped(struct move_op *op, const struct process_result *result)
{
    free(op->pre_data); /* of a try that failed in between */
    op->pre_data = mem_strdup(result->out);
    dump(op, "--section=post-data", post_data_dumped);
}

/* A newer PostgreSQL, or instead of somebody else's server one of our own, which can have several instances.
 */
static bool is_better(const struct fleet_instance *source, int target)
{
    int from = source->facts.server_version / 10000;
    return target > from || (source->access.lent && target == from);
}

/* An upgrade that would not be one is noticed before anything is copied: T is new, and goes away again. */
static bool is_upgrade(struct move_op *op, const struct pg_reply *reply)
{
    const struct move_record *r = op_record(op);
    const struct fleet_instance *source = fleet_primary(op_services(op)->fleet, r->database, r->source);
    int64_t target = 0;
    pg_value_int64(reply, 0, 2, &target);
    if (r->kind != MOVE_KIND_UPGRADE)
        return true;
    if (source == NULL || source->facts.server_version == 0) {
        act_fail(op, ACT_SCHEMA, ERRC_UNAVAILABLE, "the version of shard %s is not known yet", r->source);
        return false;
    }
    if (is_better(source, (int)(target / 10000)))
        return true;
    act_fail(op, ACT_SCHEMA, ERRC_REFUSED,
             "the new shard runs PostgreSQL %d and shard %s %d already: let new servers be made with a newer "
             "one first (runtime.bin_directory; in Kubernetes the image)",
             (int)(target / 10000), r->source, source->facts.server_version / 10000);
    return false;
}

static void dump_schema(struct move_op *op)
{
    dump(op, "--section=pre-data", pre_data_dumped);
}

static void looked_for_schema(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    const char *system = pg_value(reply, 0, 1);
    if (!is_upgrade(op, reply))
        return;
    op_record(op)->target_system = system != NULL ? strtoull(system, NULL, 10) : 0;
    const char *there = pg_value(reply, 0, 0);
    if (there != NULL && there[0] == 't') /* all of it came in one transaction */
        act_sql(op, &op->target, action, SQL_TIMEOUT_NS, NULL, "SELECT shardherd.raise_term(%d)",
                op_term(op));
    else if (!op_record(op)->new_target)
        act_fail(op, action, ERRC_REFUSED, "shard %s has no schema of shardherd", op_record(op)->target);
    else
        target_check(op, action, dump_schema);
}

void act_schema(struct move_op *op)
{
    act_sql(op, &op->target, ACT_SCHEMA, SQL_TIMEOUT_NS, looked_for_schema,
            "SELECT to_regclass('shardherd.shard') IS NOT NULL, (pg_control_system()).system_identifier, "
            "current_setting('server_version_num')::bigint");
}

/* ---- freeze; before it, functions and guards of an older version are replaced ---- */

static void freeze(struct move_op *op, struct link *shard, act_reply_cb next)
{
    const struct move_record *r = op_record(op);
    act_sql(op, shard, ACT_FREEZE, SQL_TIMEOUT_NS, next,
            "SET LOCAL lock_timeout = '3s'; SELECT shardherd.freeze(%d, %L, %d, %d, %s, %d)", op_term(op),
            r->id, r->range.lo, r->range.hi, r->allow_ddl ? "true" : "false", (int64_t)GUARDED_AT_ONCE);
}

static void target_frozen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (pg_value_bool(reply, 0, 0))
        act_done(op, action, NULL);
    else
        freeze(op, &op->target, target_frozen);
}

static void target_is_new(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (reply->err != NULL)
        act_done(op, action, reply->err);
    else
        freeze(op, &op->target, target_frozen);
}

static void source_frozen(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (!pg_value_bool(reply, 0, 0))
        freeze(op, &op->source, source_frozen);
    else
        act_bring_up_to_date(op, &op->target, action, true, target_is_new);
}

static void source_is_new(struct move_op *op, enum move_action action, const struct pg_reply *reply)
{
    if (reply->err != NULL)
        act_done(op, action, reply->err);
    else
        freeze(op, &op->source, source_frozen);
}

void act_freeze(struct move_op *op)
{
    act_bring_up_to_date(op, &op->source, ACT_FREEZE, true, source_is_new);
}
