#include "operation/sqlf.h"

#include <assert.h>
#include <inttypes.h>
#include <stdint.h>

#include "pg/pg_conn.h"

static void add_value(struct buf *out, char kind, va_list *args)
{
    const char *text;
    switch (kind) {
    case 'L':
        text = va_arg(*args, const char *);
        if (text != NULL)
            pg_quote_literal(out, text);
        else
            buf_add_text(out, "NULL");
        break;
    case 'I':
        pg_quote_ident(out, va_arg(*args, const char *));
        break;
    case 'd':
        buf_printf(out, "'%" PRId64 "'::bigint", va_arg(*args, int64_t));
        break;
    case 's':
        buf_add_text(out, va_arg(*args, const char *));
        break;
    default:
        assert(kind == '%');
        buf_addc(out, '%');
        break;
    }
}

void sqlvf(struct buf *out, const char *fmt, va_list args)
{
    va_list copy;
    va_copy(copy, args);
    for (; *fmt != '\0'; fmt++) {
        if (*fmt == '%')
            add_value(out, *++fmt, &copy);
        else
            buf_addc(out, *fmt);
    }
    va_end(copy);
}

void sqlf(struct buf *out, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    sqlvf(out, fmt, args);
    va_end(args);
}
