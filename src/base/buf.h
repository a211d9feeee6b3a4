/*
 * buf: a growable run of bytes with a limit.
 *
 * Owned by whoever embeds it; zero-initialised is valid and empty, without a limit. There is always a NUL
 * after the last byte, so `data` can be printed once something was added.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data;      /* NULL while nothing was ever added */
    size_t length;   /* bytes, without the NUL */
    size_t capacity; /* bytes allocated */
    size_t limit;    /* greatest length allowed, 0 = none */
    bool overflowed; /* something was refused because of the limit */
};

/* Each returns false and changes nothing but `overflowed` when the limit would be passed. */
bool buf_add(struct buf *b, const void *data, size_t length);
bool buf_add_text(struct buf *b, const char *text);
bool buf_addc(struct buf *b, char c);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool buf_vprintf(struct buf *b, const char *fmt, va_list args) __attribute__((format(printf, 2, 0)));

/* Room for at least `more` bytes after data + length, to be claimed by adding to length. */
char *buf_reserve(struct buf *b, size_t more);

/* Removes the first n bytes (n <= length); keeps the allocation. */
void buf_consume(struct buf *b, size_t n);

/* The text, "" when empty; valid until the next change. */
const char *buf_text(const struct buf *b);

/* Hands the NUL-terminated bytes to the caller (free() them) and leaves an empty buffer. */
char *buf_take(struct buf *b);

void buf_reset(struct buf *b); /* length 0, keeps the memory and the limit */
void buf_free(struct buf *b);  /* releases the memory; usable again */

#endif
