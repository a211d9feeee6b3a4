/*
 * resource: the kinds of things that get, describe and completion know: how they are fetched, and their rows.
 */
#ifndef CLI_RESOURCE_H
#define CLI_RESOURCE_H

#include "cli/session.h"
#include "cli/table.h"

struct resource {
    const char *kind;  /* "database" */
    const char *names; /* what it may be called, separated by blanks, the plural first */
    const struct table_column *columns;
    const char *events; /* events that may change it, separated by blanks */
    uint64_t period_ns; /* watched values change without events so often; 0 = they do not */
    void (*row)(struct session *s, struct table *t, yyjson_val *item);
    bool own_rows; /* it begins its rows itself, and may make several */
    /* "shop", "shop/s1": what names it in commands, and in -o name after its kind and a slash. */
    void (*name)(yyjson_val *item, struct buf *out);
    /* {"items": [...]} of all, within -d if it was given. */
    int (*list)(struct session *s, yyjson_doc **ret);
    int (*one)(struct session *s, const char *word, struct session_reply *ret);
    void (*describe)(struct session *s, yyjson_val *item, struct buf *out); /* NULL = only get */
};

extern const struct resource resources[]; /* ended by a row whose kind is NULL */

/* By any of its names; NULL: printed what there is. */
const struct resource *resource_find(struct session *s, const char *word);

/* "kind/name" in one word, or the kind alone (*ret_name NULL). */
const struct resource *resource_split(struct session *s, const char *word, const char **ret_name);

/* What the tables and descriptions share. */
void resource_ranges(yyjson_val *ranges, struct buf *out); /* "-9223372036854775808..-1, 5..9" */
void resource_address(yyjson_val *object,
                      struct buf *out);             /* {"host", "port"} or an instance: "127.0.0.1:5432" */
enum table_style resource_style(const char *state); /* of a status, state, role or health */

/* describe_*.c */
void describe_database(struct session *s, yyjson_val *item, struct buf *out);
void describe_shard(struct session *s, yyjson_val *item, struct buf *out);
void describe_instance(struct session *s, yyjson_val *item, struct buf *out);
void describe_operation(struct session *s, yyjson_val *item, struct buf *out);

#endif
