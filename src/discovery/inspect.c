#include "discovery/inspect.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "pg/pg_conn.h"

/*
 *   CONNECT --> ASK --> CLOSING --> OVER
 *      |                  ^
 *      +---error, cancel--+
 *
 * CONNECT waits for the connection, ASK for the answers to the three queries (sent at once, answered in
 * order), CLOSING for the connection to be gone.
 */
enum { CONNECT, ASK, CLOSING, OVER, STATES };

static const struct sm_state states[STATES] = {
    [CONNECT] = {"connect", SM_NEXT(ASK) | SM_NEXT(CLOSING), false},
    [ASK] = {"ask", SM_NEXT(CLOSING), false},
    [CLOSING] = {"closing", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

struct inspect {
    struct sm sm;
    struct pg_conn *conn;
    struct inspect_result result;
    struct err err;
    inspect_cb cb;
    void *data;
};

/* The timeline of a standby is that of its stream; the control file is behind it until a checkpoint. */
static const char server_sql[] =
    "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),"
    " CASE WHEN pg_is_in_recovery()"
    "  THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM "
    "pg_control_checkpoint()))"
    "  ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,"
    " (SELECT system_identifier FROM pg_control_system()),"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
    " current_setting('fsync')::bool, current_setting('wal_level'),"
    " (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()),"
    " current_setting('max_connections')::int, current_setting('max_wal_senders')::int,"
    " current_setting('max_replication_slots')::int, current_setting('max_logical_replication_workers')::int,"
    " (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

static const char databases_sql[] =
    "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname LIMIT 1001";

/*
 * One row per column of a fitting type, or one with NULLs for a table without any. What counts is what the
 * guards and the row filters of a move need: never NULL, never computed, equal values hash alike, and part of
 * the replica identity and of every unique or exclusion constraint.
 */
static const char tables_sql[] =
    "SELECT n.nspname, c.relname, c.relkind = 'p', c.relreplident, c.reltuples::bigint,"
    " pg_total_relation_size(c.oid), a.attname, format_type(a.atttypid, NULL),"
    " a.attnotnull, a.attgenerated <> '', coalesce(NOT l.collisdeterministic, false),"
    " CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS ("
    "  SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])"
    "  AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END) END,"
    " (SELECT min(x.relname::text) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid "
    "= c.oid"
    "  AND (i.indisunique OR i.indisexclusion)"
    "  AND NOT a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    "  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype, "
    "'varchar'::regtype,"
    "  'uuid'::regtype)"
    " LEFT JOIN pg_collation l ON l.oid = a.attcollation"
    " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'"
    " AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'shardherd')"
    " ORDER BY n.nspname, c.relname, a.attnum LIMIT 20001";

/* ---- the end ---- */

static void result_clear(struct inspect_result *r)
{
    free(r->wal_level);
    free(r->encoding);
    for (int i = 0; i < r->database_count; i++)
        free(r->databases[i]);
    free((void *)r->databases);
    for (int i = 0; i < r->table_count; i++) {
        struct inspect_table *t = &r->tables[i];
        for (int k = 0; k < t->column_count; k++) {
            free(t->columns[k].name);
            free(t->columns[k].type);
            free(t->columns[k].why);
        }
        free(t->columns);
        free(t->schema);
        free(t->name);
    }
    free(r->tables);
}

static void on_closed(void *data)
{
    struct inspect *in = data;
    sm_move(&in->sm, OVER);
    bool failed = in->err.code != ERRC_NONE;
    in->cb(failed ? &in->err : NULL, failed ? NULL : &in->result, in->data);
    sm_fini(&in->sm);
    result_clear(&in->result);
    free(in);
}

static void finish(struct inspect *in, const struct err *err)
{
    if (sm_now(&in->sm) == CLOSING)
        return; /* what our own closing completes */
    err_copy(&in->err, err);
    sm_move(&in->sm, CLOSING);
    pg_conn_close(in->conn, on_closed, in);
}

/* ---- answers ---- */

static int64_t number(const struct pg_reply *reply, int row, int column)
{
    int64_t value = 0;
    return pg_value_int64(reply, row, column, &value) ? value : 0;
}

static char *copied(const struct pg_reply *reply, int row, int column)
{
    const char *text = pg_value(reply, row, column);
    return mem_strdup(text != NULL ? text : "");
}

static void on_server(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    struct inspect *in = data;
    struct inspect_result *r = &in->result;
    if (reply->err != NULL) {
        finish(in, reply->err);
        return;
    }
    r->server_version = (int)number(reply, 0, 0);
    r->role = pg_value_bool(reply, 0, 1) ? ROLE_STANDBY : ROLE_PRIMARY;
    r->timeline = (uint32_t)number(reply, 0, 2);
    r->system_identifier = (uint64_t)number(reply, 0, 3); /* the server shows it signed */
    r->superuser = pg_value_bool(reply, 0, 4);
    r->fsync = pg_value_bool(reply, 0, 5);
    r->wal_level = copied(reply, 0, 6);
    r->encoding = copied(reply, 0, 7);
    r->max_connections = (int)number(reply, 0, 8);
    r->max_wal_senders = (int)number(reply, 0, 9);
    r->max_replication_slots = (int)number(reply, 0, 10);
    r->max_logical_replication_workers = (int)number(reply, 0, 11);
    r->started_us = number(reply, 0, 12);
}

static void on_databases(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    struct inspect *in = data;
    struct inspect_result *r = &in->result;
    if (reply->err != NULL) {
        finish(in, reply->err);
        return;
    }
    int count = pg_rows(reply);
    r->truncated = r->truncated || count > INSPECT_DATABASES_MAX;
    r->database_count = count < INSPECT_DATABASES_MAX ? count : INSPECT_DATABASES_MAX;
    r->databases = mem_array((size_t)r->database_count + 1, sizeof *r->databases);
    for (int i = 0; i < r->database_count; i++)
        r->databases[i] = copied(reply, i, 0);
}

static const char *type_name(const char *type)
{
    return strcmp(type, "character varying") == 0 ? "varchar" : type;
}

static char *obstacle(const struct pg_reply *reply, int row, char identity)
{
    const char *unique = pg_value(reply, row, 12);
    if (!pg_value_bool(reply, row, 8))
        return mem_strdup("it may be NULL: set it NOT NULL");
    if (pg_value_bool(reply, row, 9))
        return mem_strdup("it is a generated column");
    if (pg_value_bool(reply, row, 10))
        return mem_strdup("its collation is not deterministic, so equal values may hash differently");
    if (unique != NULL)
        return mem_printf(
            "the unique or exclusion index %s does not contain it: such a rule cannot hold over several "
            "shards",
            unique);
    if (!pg_value_bool(reply, row, 11))
        return mem_strdup(
            identity == 'd' || identity == 'n'
                ? "the replica identity does not contain it: make it part of the primary key, or ALTER "
                  "TABLE ... REPLICA IDENTITY USING INDEX or FULL"
                : "the index of the replica identity does not contain it");
    return NULL;
}

static void column_add(struct inspect_table *table, const struct pg_reply *reply, int row)
{
    const char *name = pg_value(reply, row, 6);
    const char *type = pg_value(reply, row, 7);
    if (name == NULL || type == NULL)
        return;
    table->columns = mem_resize(table->columns, (size_t)table->column_count + 1, sizeof *table->columns);
    struct inspect_column *column = &table->columns[table->column_count++];
    *column = (struct inspect_column){.name = mem_strdup(name), .type = mem_strdup(type_name(type))};
    column->why = obstacle(reply, row, table->identity);
    column->usable = column->why == NULL;
}

static struct inspect_table *table_of(struct inspect_result *r, const struct pg_reply *reply, int row)
{
    char *schema = copied(reply, row, 0);
    char *name = copied(reply, row, 1);
    struct inspect_table *last = r->table_count > 0 ? &r->tables[r->table_count - 1] : NULL;
    if (last != NULL && strcmp(last->schema, schema) == 0 && strcmp(last->name, name) == 0) {
        free(schema);
        free(name);
        return last;
    }
    r->tables = mem_resize(r->tables, (size_t)r->table_count + 1, sizeof *r->tables);
    last = &r->tables[r->table_count++];
    const char *identity = pg_value(reply, row, 3);
    *last = (struct inspect_table){.schema = schema,
                                   .name = name,
                                   .partitioned = pg_value_bool(reply, row, 2),
                                   .identity = identity != NULL ? identity[0] : 'n',
                                   .rows = number(reply, row, 4),
                                   .bytes = (uint64_t)number(reply, row, 5)};
    return last;
}

static void on_tables(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    (void)conn;
    struct inspect *in = data;
    struct inspect_result *r = &in->result;
    if (reply->err != NULL) {
        finish(in, reply->err);
        return;
    }
    int rows = pg_rows(reply);
    r->truncated = r->truncated || rows > INSPECT_COLUMNS_MAX;
    for (int row = 0; row < rows && row < INSPECT_COLUMNS_MAX; row++)
        column_add(table_of(r, reply, row), reply, row);
    finish(in, NULL);
}

/* ---- begin ---- */

static int ask(struct inspect *in, const char *sql, pg_reply_cb cb, struct err *err)
{
    const struct pg_request request = {.sql = sql, .extended = true};
    return pg_send(in->conn, &request, cb, in, err);
}

static void on_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    struct inspect *in = data;
    struct err fault = {0};
    if (err != NULL) {
        finish(in, err);
        return;
    }
    sm_move(&in->sm, ASK);
    if (ask(in, server_sql, on_server, &fault) != 0 || ask(in, databases_sql, on_databases, &fault) != 0 ||
        ask(in, tables_sql, on_tables, &fault) != 0)
        finish(in, &fault);
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    finish(data, err);
}

int discovery_inspect(struct loop *loop, const struct instance_access *access, inspect_cb cb, void *data,
                      struct inspect **ret, struct err *err)
{
    static const struct pg_conn_events events = {.connected = on_connected, .lost = on_lost};
    const struct pg_target target = {
        .host = access->host,
        .port = access->port,
        .dbname = access->dbname,
        .user = access->user,
        .password = access->password,
        .sslmode = access->sslmode,
        .sslrootcert = access->sslrootcert,
        .sslcert = access->sslcert,
        .sslkey = access->sslkey,
        .application_name = "shardherd inspect",
        .options = "-c statement_timeout=20s -c search_path=pg_catalog -c default_transaction_read_only=on",
    };
    struct inspect *in = mem_zalloc(sizeof *in);
    in->cb = cb;
    in->data = data;
    sm_init(&in->sm, states, STATES, CONNECT, NULL, NULL);
    in->conn = pg_conn_new(loop, &target, &events, in);
    int rc = pg_conn_connect(in->conn, err);
    if (rc != 0) {
        pg_conn_close(in->conn, NULL, NULL);
        free(in);
        return rc;
    }
    if (ret != NULL)
        *ret = in;
    return 0;
}

void discovery_inspect_cancel(struct inspect *in)
{
    struct err err = {0};
    err_set(&err, ERRC_CANCELED, "the inspection was canceled");
    finish(in, &err);
}
