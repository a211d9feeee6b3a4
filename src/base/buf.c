#include "base/buf.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

char *buf_reserve(struct buf *b, size_t more)
{
    size_t need = b->length + more + 1;
    if (need > b->capacity) {
        size_t grown = b->capacity < 64 ? 64 : b->capacity;
        while (grown < need)
            grown += grown / 2;
        b->data = mem_resize(b->data, grown, 1);
        b->capacity = grown;
    }
    b->data[b->length] = '\0';
    return b->data + b->length;
}

static bool fits(struct buf *b, size_t more)
{
    if (b->limit != 0 && (more > b->limit || b->length > b->limit - more)) {
        b->overflowed = true;
        return false;
    }
    return true;
}

bool buf_add(struct buf *b, const void *data, size_t length)
{
    if (!fits(b, length))
        return false;
    char *end = buf_reserve(b, length);
    if (length > 0)
        memcpy(end, data, length);
    b->length += length;
    b->data[b->length] = '\0';
    return true;
}

bool buf_add_text(struct buf *b, const char *text)
{
    return buf_add(b, text, strlen(text));
}

bool buf_addc(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

bool buf_vprintf(struct buf *b, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (n < 0 || !fits(b, (size_t)n))
        return false;
    char *end = buf_reserve(b, (size_t)n);
    vsnprintf(end, (size_t)n + 1, fmt, args);
    b->length += (size_t)n;
    return true;
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    bool ok = buf_vprintf(b, fmt, args);
    va_end(args);
    return ok;
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= b->length);
    if (n == 0)
        return;
    b->length -= n;
    memmove(b->data, b->data + n, b->length);
    b->data[b->length] = '\0';
}

const char *buf_text(const struct buf *b)
{
    return b->data != NULL ? b->data : "";
}

char *buf_take(struct buf *b)
{
    buf_reserve(b, 0);
    char *data = b->data;
    b->data = NULL;
    b->length = 0;
    b->capacity = 0;
    return data;
}

void buf_reset(struct buf *b)
{
    b->length = 0;
    b->overflowed = false;
    if (b->data != NULL)
        b->data[0] = '\0';
}

void buf_free(struct buf *b)
{
    free(b->data);
    size_t limit = b->limit;
    *b = (struct buf){.limit = limit};
}
