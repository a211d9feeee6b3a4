#include "manager/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "pg/pg_conn.h"
#include "pg/pg_stream.h"

#define PREPARE_LIMIT_NS (5 * ENV_NS_PER_S)
#define ROWS_PER_TABLE   20000
#define PUBLICATION      "shardherd_sample"

struct sampler {
    struct loop *loop;
    struct instance_access access;
    struct routing *routing;
    uint64_t length_ns;
    bool rows;
    struct split_sample *sample;
    struct err err;
    struct pg_conn *control; /* makes the publication, or samples rows */
    struct pg_conn *sender;  /* replication connection; its temporary slot goes with it */
    struct pg_stream *stream;
    struct pgoutput *decoder;
    struct loop_timer timer; /* deadline of the preparation, then the end of listening */
    bool listening;
    int open; /* connections not closed */
    bool stopping;
    void (*closed)(void *data);
    void *data;
};

static void maybe_free(struct sampler *s)
{
    if (!s->stopping || s->open > 0)
        return;
    void (*closed)(void *) = s->closed;
    void *data = s->data;
    loop_timer_stop(&s->timer);
    split_sample_free(s->sample);
    pgoutput_free(s->decoder);
    routing_free(s->routing);
    instance_access_clear(&s->access);
    free(s);
    if (closed != NULL)
        closed(data);
}

static void conn_closed(void *data)
{
    struct sampler *s = data;
    s->open--;
    maybe_free(s);
}

static void drop(struct sampler *s)
{
    struct pg_conn *control = s->control;
    struct pg_conn *sender = s->sender;
    s->control = NULL;
    s->sender = NULL;
    s->stream = NULL; /* ends with its connection */
    if (control != NULL)
        pg_conn_close(control, conn_closed, s);
    if (sender != NULL)
        pg_conn_close(sender, conn_closed, s);
}

static void fail(struct sampler *s, const struct err *err)
{
    if (s->err.code == ERRC_NONE)
        s->err = *err;
    loop_timer_stop(&s->timer);
    drop(s);
}

static void finish(struct sampler *s)
{
    loop_timer_stop(&s->timer);
    split_sample_tick(s->sample, loop_now(s->loop));
    split_sample_close(s->sample);
    drop(s);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    struct sampler *s = data;
    struct err err = {0};
    (void)timer;
    if (s->listening) {
        finish(s);
        return;
    }
    err_set(&err, ERRC_TIMEOUT, "no slot within 5 s: a long transaction may hold it up");
    fail(s, &err);
}

static void on_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    (void)conn;
    fail(data, err);
}

static struct pg_conn *open_conn(struct sampler *s, bool replication,
                                 void (*connected)(struct pg_conn *, const struct err *, void *))
{
    struct pg_target target = {
        .host = s->access.host,
        .port = s->access.port,
        .dbname = s->access.dbname,
        .user = s->access.user,
        .password = s->access.password,
        .sslmode = s->access.sslmode,
        .sslrootcert = s->access.sslrootcert,
        .sslcert = s->access.sslcert,
        .sslkey = s->access.sslkey,
        .application_name = "shardherd sampler",
        .options = "-c lock_timeout=1s -c search_path=pg_catalog -c synchronous_commit=on",
        .replication = replication,
    };
    struct pg_conn_events events = {.connected = connected, .lost = on_lost};
    struct err err = {0};
    struct pg_conn *conn = pg_conn_new(s->loop, &target, &events, s);
    s->open++;
    if (pg_conn_connect(conn, &err) != 0) {
        pg_conn_close(conn, conn_closed, s);
        fail(s, &err);
        return NULL;
    }
    return conn;
}

/* ---- stream ---- */

static const struct routing_table_key *table_of(const struct sampler *s,
                                                const struct pgoutput_relation *relation)
{
    char name[160];
    snprintf(name, sizeof name, "%s.%s", relation->schema, relation->name);
    return routing_find_table(s->routing, name);
}

static void add_key(struct sampler *s, const struct pgoutput_relation *relation,
                    const struct pgoutput_tuple *tuple)
{
    const struct routing_table_key *key = table_of(s, relation);
    int64_t hash;
    for (int i = 0; key != NULL && i < relation->column_count && i < tuple->count; i++) {
        const struct pgoutput_value *value = &tuple->values[i];
        if (value->kind != 't' || strcmp(relation->columns[i].name, key->key) != 0)
            continue;
        if (hash_key(key->type, value->data, value->length, &hash, NULL) == 0)
            split_sample_add(s->sample, hash, 1);
        return;
    }
}

static void on_message(struct pg_stream *stream, uint64_t wal_start, const char *bytes, size_t length,
                       void *data)
{
    struct sampler *s = data;
    struct pgoutput_message message;
    struct err err = {0};
    if (s->stream == NULL)
        return;
    pg_stream_confirm(stream, wal_start);
    split_sample_tick(s->sample, loop_now(s->loop));
    if (pgoutput_decode(s->decoder, bytes, length, &message, &err) != 0) {
        fail(s, &err);
        return;
    }
    if (message.kind == PGOUTPUT_INSERT || message.kind == PGOUTPUT_UPDATE)
        add_key(s, message.relation, &message.new_tuple);
    else if (message.kind == PGOUTPUT_DELETE)
        add_key(s, message.relation, &message.old_tuple);
}

static void on_stream_end(struct pg_stream *stream, const struct err *err, void *data)
{
    struct sampler *s = data;
    (void)stream;
    if (s->stream != NULL && err != NULL)
        fail(s, err);
}

static void on_slot(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct sampler *s = data;
    struct pg_stream_events events = {.message = on_message, .ended = on_stream_end};
    struct err err = {0};
    if (s->sender == NULL)
        return;
    if (reply->err != NULL) {
        fail(s, reply->err);
        return;
    }
    if (pg_stream_start(conn, pg_value(reply, 0, 0), 0, PUBLICATION, &events, s, &s->stream, &err) != 0) {
        fail(s, &err);
        return;
    }
    s->listening = true;
    split_sample_free(s->sample); /* the time counts from here */
    s->sample = split_sample_new(loop_now(s->loop), s->length_ns, env_random_below(s->loop->env, UINT64_MAX));
    loop_timer_start(&s->timer, s->length_ns);
}

static void on_sender(struct pg_conn *conn, const struct err *err, void *data)
{
    struct sampler *s = data;
    struct err local = {0};
    char random[9], sql[160];
    if (err != NULL) {
        fail(s, err);
        return;
    }
    env_random_text(s->loop->env, random, sizeof random - 1);
    snprintf(sql, sizeof sql,
             "CREATE_REPLICATION_SLOT shardherd_sample_%s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT",
             random);
    if (pg_exec(conn, sql, on_slot, s, &local) != 0)
        fail(s, &local);
}

static void on_publication(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct sampler *s = data;
    (void)conn;
    if (s->control == NULL)
        return;
    if (reply->err != NULL &&
        !err_is_sql(reply->err, "42710")) { /* duplicate_object: it is there, as wanted */
        fail(s, reply->err);
        return;
    }
    s->sender = open_conn(s, true, on_sender);
}

static void make_publication(struct sampler *s)
{
    struct buf sql = {0};
    struct err err = {0};
    buf_add_text(&sql, "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = '" PUBLICATION
                       "') THEN EXECUTE 'CREATE PUBLICATION " PUBLICATION " FOR TABLE '"
                       " || (SELECT string_agg(name, ', ') FROM shardherd.tables)"
                       " || ' WITH (publish = ''insert,update,delete'', publish_via_partition_root = true)';"
                       " END IF; END $do$");
    if (pg_exec(s->control, buf_text(&sql), on_publication, s, &err) != 0)
        fail(s, &err);
    buf_free(&sql);
}

/* ---- rows ---- */

static void on_rows(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct sampler *s = data;
    (void)conn;
    if (s->control == NULL)
        return;
    if (reply->err != NULL) {
        fail(s, reply->err);
        return;
    }
    for (int r = 0; r < reply->count; r++) {
        for (int row = 0; row < PQntuples(reply->results[r]); row++)
            split_sample_add(s->sample, strtoll(PQgetvalue(reply->results[r], row, 0), NULL, 10), 1);
    }
    finish(s);
}

/* A share of the blocks that gives about ROWS_PER_TABLE rows, whatever the size. */
static void sample_rows(struct sampler *s)
{
    struct buf sql = {0};
    struct err err = {0};
    for (size_t i = 0; i < s->routing->table_count; i++) {
        const struct routing_table_key *t = &s->routing->tables[i];
        struct buf column = {0};
        pg_quote_ident(&column, t->key);
        buf_add_text(&sql, "SELECT ");
        char expression[512];
        const char *mark = strstr(key_type_sql(t->type), "%s");
        snprintf(expression, sizeof expression, "%.*s%s%s", (int)(mark - key_type_sql(t->type)),
                 key_type_sql(t->type), buf_text(&column), mark + 2);
        buf_printf(&sql, "%s FROM %s TABLESAMPLE SYSTEM (20) LIMIT %d; ", expression, t->table,
                   ROWS_PER_TABLE);
        buf_free(&column);
    }
    if (pg_exec(s->control, buf_text(&sql), on_rows, s, &err) != 0)
        fail(s, &err);
    buf_free(&sql);
}

static void on_control(struct pg_conn *conn, const struct err *err, void *data)
{
    struct sampler *s = data;
    (void)conn;
    if (err != NULL)
        fail(s, err);
    else if (s->rows)
        sample_rows(s);
    else
        make_publication(s);
}

struct sampler *sampler_start(struct loop *loop, const struct instance_access *access,
                              const struct routing *routing, uint64_t length_ns, bool rows)
{
    struct sampler *s = mem_zalloc(sizeof *s);
    s->loop = loop;
    instance_access_copy(&s->access, access);
    s->routing = routing_clone(routing);
    s->length_ns = length_ns;
    s->rows = rows;
    s->decoder = pgoutput_new();
    s->sample =
        split_sample_new(loop_now(loop), rows ? 0 : length_ns, env_random_below(loop->env, UINT64_MAX));
    loop_timer_init(loop, &s->timer, on_timer, s);
    loop_timer_start(&s->timer, PREPARE_LIMIT_NS);
    s->control = open_conn(s, false, on_control);
    return s;
}

const struct split_sample *sampler_sample(const struct sampler *s)
{
    return s->rows || s->listening ? s->sample : NULL;
}

const char *sampler_error(const struct sampler *s)
{
    return s->err.code != ERRC_NONE ? s->err.message : NULL;
}

void sampler_stop(struct sampler *s, void (*closed)(void *data), void *data)
{
    s->stopping = true;
    s->closed = closed;
    s->data = data;
    loop_timer_stop(&s->timer);
    s->open++; /* our own hold while connections are being dropped */
    drop(s);
    s->open--;
    maybe_free(s);
}
