/*
 * json_split: cuts a stream of bytes into the JSON texts that are worth parsing one by one.
 *
 * A watch is a run of JSON values, one per line; a list is one object whose "items" may hold a hundred
 * megabytes. Either way only one object at a time is held here. Pure; bytes may arrive in any pieces (K15).
 */
#ifndef K8S_JSON_SPLIT_H
#define K8S_JSON_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum json_split_kind {
    JSON_SPLIT_LINES, /* each line is a value */
    JSON_SPLIT_ITEMS  /* one object; the elements of its "items" are values, what is left of it the rest */
};

#define JSON_SPLIT_PADDING 8 /* NULs behind each value: what yyjson needs to read it in place */

/* The text may be changed in place, padding included; it is valid during the call. False stops the feed. */
typedef bool (*json_split_cb)(char *text, size_t length, void *data);

struct json_split {
    enum json_split_kind kind;
    size_t item_limit; /* bytes of one value */
    struct buf item;
    struct buf rest; /* ITEMS: the object with an empty "items" */
    uint8_t depth;   /* of the rest: 0 before the object, 1 inside, ... */
    bool in_items;
    bool in_string, escaped; /* where the scanner is */
    uint32_t item_depth;     /* brackets open inside the item */
    size_t key_at;           /* in rest: start of the last string at depth 1 */
    bool done;               /* ITEMS: the object is closed */
};

/* item_limit also bounds the rest. */
void json_split_init(struct json_split *split, enum json_split_kind kind, size_t item_limit);
void json_split_free(struct json_split *split);

/*
 * ERRC_LIMIT when a value is longer than item_limit, ERRC_PROTOCOL when brackets do not match. The values
 * themselves are not checked. Returns 0 also when the callback stopped it.
 */
int json_split_feed(struct json_split *split, const char *bytes, size_t length, json_split_cb cb, void *data,
                    struct err *err);

/* The stream ended: is what was begun complete? A line that has no end is not (it is discarded). */
bool json_split_complete(const struct json_split *split);

#endif
