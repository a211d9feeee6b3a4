#include <string.h>

#include "base/buf.h"
#include "pg/pg_conn.h"

static void add_doubled(struct buf *out, const char *text, char quote, bool backslash)
{
    buf_addc(out, quote);
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == quote || (backslash && *p == '\\'))
            buf_addc(out, *p);
        buf_addc(out, *p);
    }
    buf_addc(out, quote);
}

void pg_quote_ident(struct buf *out, const char *name)
{
    add_doubled(out, name, '"', false);
}

void pg_quote_literal(struct buf *out, const char *text)
{
    bool backslash = strchr(text, '\\') != NULL;
    if (backslash)
        buf_add_text(out, " E"); /* the blank keeps it off a word before it */
    add_doubled(out, text, '\'', backslash);
}
