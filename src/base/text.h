/*
 * text: strict conversions between numbers and text, and small string helpers.
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole text must be one decimal number in range; no blanks, no sign '+'. *ret only set on success. */
bool text_to_int64(const char *text, int64_t *ret);
bool text_to_uint64(const char *text, uint64_t *ret);
bool text_to_double(const char *text, double *ret); /* finite only */

/* "250ms", "10s", "5m", "1h", "90" (seconds) to nanoseconds. */
bool text_to_duration(const char *text, uint64_t *ret_ns);

/* "16MB", "1GiB", "8kB", "512": bytes; the letter means powers of 1024, as in PostgreSQL. */
bool text_to_bytes(const char *text, uint64_t *ret_bytes);

bool text_starts_with(const char *text, const char *prefix);

/* Lower-case DNS label: [a-z0-9]([-a-z0-9]*[a-z0-9])?, at most 63 bytes: names of databases and shards. */
bool text_is_name(const char *text);

/* "16/B374D848" to a WAL position and back (out: 18 bytes with the NUL). */
bool text_to_lsn(const char *text, uint64_t *ret);
#define TEXT_LSN_SIZE 18
void text_from_lsn(uint64_t lsn, char out[TEXT_LSN_SIZE]);

#endif
