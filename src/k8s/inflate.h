/*
 * inflate: gzip streams, decoded as they arrive (rule K10).
 *
 * The API server writes a fresh gzip member for each flush of a watch, so members may follow each other, and
 * what is decodable is handed on at once. On zlib.
 */
#ifndef K8S_INFLATE_H
#define K8S_INFLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct inflate;

struct inflate *inflate_new(void);
void inflate_free(struct inflate *z); /* NULL is fine */

/* cb gets what could be decoded, in pieces of at most 64 KiB. ERRC_PROTOCOL: that is no gzip. */
int inflate_feed(struct inflate *z, const char *bytes, size_t length,
                 void (*cb)(const char *bytes, size_t length, void *data), void *data, struct err *err);

/* Whether the bytes so far end with a whole member. */
bool inflate_complete(const struct inflate *z);

#endif
