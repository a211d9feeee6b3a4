#include <string.h>

#include "base/text.h"
#include "pg/pg_conn.h"

static const PGresult *last_result(const struct pg_reply *reply)
{
    return reply->count > 0 ? reply->results[reply->count - 1] : NULL;
}

int pg_rows(const struct pg_reply *reply)
{
    return PQntuples(last_result(reply));
}

const char *pg_value(const struct pg_reply *reply, int row, int column)
{
    const PGresult *result = last_result(reply);
    if (result == NULL || row < 0 || column < 0 || row >= PQntuples(result) || column >= PQnfields(result) ||
        PQgetisnull(result, row, column))
        return NULL;
    return PQgetvalue(result, row, column);
}

bool pg_value_int64(const struct pg_reply *reply, int row, int column, int64_t *ret)
{
    const char *text = pg_value(reply, row, column);
    return text != NULL && text_to_int64(text, ret);
}

bool pg_value_bool(const struct pg_reply *reply, int row, int column)
{
    const char *text = pg_value(reply, row, column);
    return text != NULL && strcmp(text, "t") == 0;
}
