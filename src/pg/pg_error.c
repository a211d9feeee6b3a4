/*
 * What libpq says, as errors: one line, no secret, the code a caller can act on.
 */
#include <ctype.h>
#include <string.h>

#include "pg/pg_impl.h"

void pg_error_one_line(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (const char *p = text; *p != '\0' && n + 3 < size; p++) {
        if (*p == '\n' || *p == '\r') {
            while (p[1] == '\n' || p[1] == '\r' || p[1] == '\t' || p[1] == ' ')
                p++;
            if (p[1] != '\0') {
                out[n++] = ';';
                out[n++] = ' ';
            }
        } else {
            out[n++] = (unsigned char)*p < ' ' ? ' ' : *p;
        }
    }
    out[n] = '\0';
}

/* Finds "  28P01: " as PQERRORS_VERBOSE writes it; returns the text behind it. */
static const char *find_sqlstate(const char *text, char sqlstate[6])
{
    for (const char *p = text; (p = strstr(p, ":  ")) != NULL; p++) {
        const char *code = p + 3;
        size_t n = 0;
        while (n < 5 && (isdigit((unsigned char)code[n]) || isupper((unsigned char)code[n])))
            n++;
        if (n < 5 || code[5] != ':' || code[6] != ' ')
            continue;
        memcpy(sqlstate, code, 5);
        sqlstate[5] = '\0';
        return code + 7;
    }
    return NULL;
}

/* The first line only: what follows is a hint, or the source line of the server. */
static void first_line(const char *text, char *out, size_t size)
{
    size_t n = strcspn(text, "\n");
    if (n >= size)
        n = size - 1;
    memcpy(out, text, n);
    out[n] = '\0';
}

static bool means_later(const char *sqlstate)
{
    static const char *const list[] = {"57P03", "57P01", "57P02", "53300", "53000"};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(sqlstate, list[i]) == 0)
            return true;
    return false;
}

static enum err_code guess_code(const struct pg_conn *conn, const char *line)
{
    if (PQconnectionNeedsPassword(conn->pg) != 0 || strstr(line, "SCRAM") != NULL ||
        strstr(line, "authentication method") != NULL)
        return ERRC_AUTH;
    if (strstr(line, "SSL") != NULL || strstr(line, "certificate") != NULL ||
        strstr(line, "private key") != NULL)
        return ERRC_TLS;
    if (strncmp(line, "invalid ", 8) == 0)
        return ERRC_INVALID;
    return ERRC_UNAVAILABLE;
}

int pg_error_connect(const struct pg_conn *conn, struct err *err)
{
    char line[320];
    char sqlstate[6];
    const char *text = conn->pg != NULL ? PQerrorMessage(conn->pg) : "out of memory";
    const char *message = find_sqlstate(text, sqlstate);
    if (message != NULL) {
        first_line(message, line, sizeof line);
        if (strncmp(sqlstate, "28", 2) == 0)
            return err_set(err, ERRC_AUTH, "cannot connect to %s: %s", conn->name, line);
        if (means_later(sqlstate))
            return err_set(err, ERRC_UNAVAILABLE, "cannot connect to %s: %s", conn->name, line);
        return err_set_sql(err, sqlstate, "cannot connect to %s: %s", conn->name, line);
    }
    const char *failed = strstr(text, " failed: ");
    first_line(failed != NULL ? failed + strlen(" failed: ") : text, line, sizeof line);
    if (line[0] == '\0')
        first_line("the server ended the connection", line, sizeof line);
    return err_set(err, guess_code(conn, line), "cannot connect to %s (%s): %s", conn->name,
                   conn->addresses.address[conn->address], line);
}

int pg_error_result(const PGresult *result, struct err *err)
{
    char line[ERR_MESSAGE_SIZE];
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint =
        PQresultErrorField(result, PG_DIAG_MESSAGE_HINT); /* the detail may hold a user's data */
    pg_error_one_line(message != NULL ? message : PQresultErrorMessage(result), line, sizeof line);
    if (hint == NULL)
        return err_set_sql(err, sqlstate, "%s", line[0] != '\0' ? line : "unknown error");
    char remedy[ERR_MESSAGE_SIZE / 2];
    pg_error_one_line(hint, remedy, sizeof remedy);
    return err_set_sql(err, sqlstate, "%s (hint: %s)", line, remedy);
}

int pg_error_lost(const struct pg_conn *conn, struct err *err)
{
    if (conn->fatal.code != ERRC_NONE && conn->fatal.code != ERRC_SQL)
        return err_set(err, conn->fatal.code, "%s: %s", conn->name, conn->fatal.message);
    if (conn->fatal.code != ERRC_NONE)
        return err_set(err, ERRC_CLOSED, "%s: %s (%s)", conn->name, conn->fatal.message,
                       conn->fatal.sqlstate);
    char line[320];
    first_line(conn->pg != NULL ? PQerrorMessage(conn->pg) : "", line, sizeof line);
    return err_set(err, ERRC_CLOSED, "%s: %s", conn->name,
                   line[0] != '\0' ? line : "the connection was lost");
}
