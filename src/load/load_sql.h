/*
 * load_sql: the statements of the workload and what their answers mean. Pure.
 */
#ifndef LOAD_LOAD_SQL_H
#define LOAD_LOAD_SQL_H

#include <stdbool.h>

#include "base/err.h"
#include "pg/pg_conn.h"

enum load_statement {
    SQL_READ,      /* key: version, balance */
    SQL_UPDATE,    /* key, new version, balance */
    SQL_INSERT,    /* key, order, amount, note */
    SQL_DELETE,    /* key, order */
    SQL_TOUCH,     /* key: version; passes the guards only on the owner, waits for who holds the row */
    SQL_HAS_ORDER, /* key, order: count */
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_SET_EPOCH, /* epoch */
    SQL_STATEMENT_MAX
};

struct load_statement_text {
    const char *name; /* of the prepared statement */
    const char *sql;
    int params;
};
const struct load_statement_text *load_statement(enum load_statement s);

/* What an answer means for the operation that waits for it. */
enum load_verdict {
    VERDICT_DONE,    /* it happened */
    VERDICT_REFUSED, /* SHR01: another shard owns the row */
    VERDICT_AGAIN,   /* it did not happen, try again */
    VERDICT_EXISTS,  /* a row with that key is there (23505) */
    VERDICT_DOUBT    /* nobody knows */
};

/* err NULL = success. may_commit: the request could have committed something. */
enum load_verdict load_verdict(const struct err *err, bool may_commit);

/* The class an error is counted in: SQLSTATE, "timeout", "connection" or the code's name. */
const char *load_error_class(const struct err *err);

#endif
