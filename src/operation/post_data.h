/*
 * post_data: what pg_dump --section=post-data prints, cut into its objects, so that indexes and constraints
 * can be built side by side. No I/O.
 *
 * pg_dump heads each object with "-- Name: <name>; Type: <type>; ...". An index or a key (or exclusion)
 * constraint of a table is a part of its own; all else, in its order, is what follows after them: foreign
 * keys, triggers, policies, statistics, what belongs to a partitioned table as a whole, comments, and what
 * pg_dump prints before the first and after the last object. What is not understood is part of the rest.
 */
#ifndef OPERATION_POST_DATA_H
#define OPERATION_POST_DATA_H

#include <stdbool.h>
#include <stddef.h>

struct post_part {
    const char *text;
    size_t length;
    char relation[160]; /* as the dump names it, quoted where needed; "" = part of the rest */
    bool alone;         /* nothing else is built on that table meanwhile: it locks out all */
};

/* Calls `part` for each part, in their order; their texts make up the dump. */
void post_data_cut(const char *dump, void (*part)(const struct post_part *part, void *data), void *data);

#endif
