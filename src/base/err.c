#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
#define X(name, text) text,
    ERRC_MAP(X)
#undef X
};

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    if (e != NULL) {
        /* the arguments may point into e->message itself */
        char text[ERR_MESSAGE_SIZE];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        e->code = code;
        e->sqlstate[0] = '\0';
        memcpy(e->message, text, sizeof text);
    }
    return (int)code;
}

int err_set_errno(struct err *e, int errnum, const char *fmt, ...)
{
    if (e != NULL) {
        char text[ERR_MESSAGE_SIZE - 80];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        return err_set(e, ERRC_IO, "%s: %.70s", text, strerror(errnum));
    }
    return ERRC_IO;
}

int err_set_sql(struct err *e, const char *sqlstate, const char *fmt, ...)
{
    if (e != NULL) {
        char text[ERR_MESSAGE_SIZE];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        e->code = ERRC_SQL;
        snprintf(e->sqlstate, sizeof e->sqlstate, "%.5s", sqlstate != NULL ? sqlstate : "XX000");
        memcpy(e->message, text, sizeof text);
    }
    return ERRC_SQL;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (e == NULL)
        return ERRC_INTERNAL;
    char prefix[ERR_MESSAGE_SIZE / 2];
    char text[ERR_MESSAGE_SIZE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    memcpy(text, e->message, sizeof text);
    snprintf(e->message, sizeof e->message, "%s: %.*s", prefix, (int)(sizeof text - sizeof prefix - 3), text);
    return (int)e->code;
}

int err_copy(struct err *dst, const struct err *src)
{
    if (src == NULL)
        return ERRC_NONE;
    if (dst != NULL)
        *dst = *src;
    return (int)src->code;
}

void err_clear(struct err *e)
{
    if (e != NULL) {
        e->code = ERRC_NONE;
        e->sqlstate[0] = '\0';
        e->message[0] = '\0';
    }
}

int err_is_sql(const struct err *e, const char *sqlstate)
{
    return e->code == ERRC_SQL && strcmp(e->sqlstate, sqlstate) == 0;
}

const char *err_code_name(enum err_code code)
{
    if ((int)code < 0 || code >= ERRC_MAX)
        return "unknown";
    return names[code];
}
