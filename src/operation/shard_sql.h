/*
 * shard_sql: the text of shard.sql (what shardherd keeps on every shard), embedded at build time.
 */
#ifndef OPERATION_SHARD_SQL_H
#define OPERATION_SHARD_SQL_H

/* NUL-terminated; many statements, to be run in one transaction by a superuser. */
extern const char shard_sql[];

#endif
