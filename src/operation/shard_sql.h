/*
 * shard_sql: the text of shard.sql (what shardherd keeps on every shard), embedded at build time.
 */
#ifndef OPERATION_SHARD_SQL_H
#define OPERATION_SHARD_SQL_H

#include "base/buf.h"

/* Adds shard.sql and the comment on its schema by which its version is told: many statements, to be run in
 * one transaction by a superuser, with search_path = pg_catalog. */
void shard_sql_add(struct buf *sql);

/* shard.sql alone: functions are replaced, and guards, which call them by name, stay as they are. */
void shard_sql_add_functions(struct buf *sql);

/* The comment on the schema shardherd of a shard that has this very version. */
const char *shard_sql_comment(void);

/* What brings a shard of another version up to date, in a transaction of its own or of more: shard_sql_add(),
 * and guards by the new functions. */
void shard_sql_add_update(struct buf *sql);

#endif
