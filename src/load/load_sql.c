#include "load/load_sql.h"

#include <assert.h>
#include <string.h>

#include "load/load.h"

static const struct load_statement_text statements[SQL_STATEMENT_MAX] = {
    [SQL_READ] = {"load_read", "SELECT version, balance FROM customers WHERE customer_id = $1", 1},
    [SQL_UPDATE] = {"load_update",
                    "UPDATE customers SET version = $2::bigint, balance = $3::bigint, updated_at = now() "
                    "WHERE customer_id = $1 AND version = $2::bigint - 1",
                    3},
    [SQL_INSERT] = {"load_insert",
                    "INSERT INTO orders (customer_id, order_id, amount, note) VALUES ($1, $2, $3, $4)", 4},
    [SQL_DELETE] = {"load_delete", "DELETE FROM orders WHERE customer_id = $1 AND order_id = $2", 2},
    [SQL_TOUCH] = {"load_touch",
                   "UPDATE customers SET updated_at = now() WHERE customer_id = $1 RETURNING version", 1},
    [SQL_HAS_ORDER] = {"load_has_order",
                       "SELECT count(*) FROM orders WHERE customer_id = $1 AND order_id = $2", 2},
    [SQL_BEGIN] = {"load_begin", "BEGIN", 0},
    [SQL_COMMIT] = {"load_commit", "COMMIT", 0},
    [SQL_ROLLBACK] = {"load_rollback", "ROLLBACK", 0},
    [SQL_SET_EPOCH] = {"load_epoch", "SELECT set_config('shardherd.epoch', $1, false)", 1},
};

const struct load_statement_text *load_statement(enum load_statement s)
{
    assert(s < SQL_STATEMENT_MAX);
    return &statements[s];
}

enum load_verdict load_verdict(const struct err *err, bool may_commit)
{
    if (err == NULL || err->code == ERRC_NONE)
        return VERDICT_DONE;
    if (err->code != ERRC_SQL)
        return may_commit ? VERDICT_DOUBT : VERDICT_AGAIN;
    if (strcmp(err->sqlstate, "SHR01") == 0)
        return VERDICT_REFUSED;
    if (strcmp(err->sqlstate, "23505") == 0)
        return VERDICT_EXISTS;
    /* a server that shuts down may have committed and failed while it waited for its standbys */
    if (strncmp(err->sqlstate, "57P", 3) == 0 || strncmp(err->sqlstate, "08", 2) == 0 ||
        strcmp(err->sqlstate, "40003") == 0)
        return may_commit ? VERDICT_DOUBT : VERDICT_AGAIN;
    return VERDICT_AGAIN;
}

const char *load_error_class(const struct err *err)
{
    switch (err->code) {
    case ERRC_SQL:
        return err->sqlstate;
    case ERRC_TIMEOUT:
        return "timeout";
    case ERRC_CLOSED:
    case ERRC_IO:
    case ERRC_UNAVAILABLE:
    case ERRC_CANCELED:
        return "connection";
    default:
        return err_code_name(err->code);
    }
}

void load_print_schema(enum key_type type, struct buf *out)
{
    const char *key = key_type_name(type);
    buf_printf(out,
               "CREATE TABLE IF NOT EXISTS customers (\n"
               "    customer_id %s PRIMARY KEY,\n"
               "    name        text,\n"
               "    email       text,\n"
               "    balance     bigint NOT NULL DEFAULT 0,\n"
               "    version     bigint NOT NULL DEFAULT 0,\n"
               "    updated_at  timestamptz\n"
               ");\n",
               key);
    buf_printf(out,
               "CREATE TABLE IF NOT EXISTS orders (\n"
               "    customer_id %s NOT NULL REFERENCES customers,\n"
               "    order_id    bigint NOT NULL,\n"
               "    amount      bigint,\n"
               "    note        text,\n"
               "    version     bigint NOT NULL DEFAULT 0,\n"
               "    PRIMARY KEY (customer_id, order_id)\n"
               ");\n",
               key);
}
