#include "operation/shard_sql.h"

#include <stdio.h>

#define COMMENT_SIZE 64

extern const char shard_sql[], shard_sql_md5[]; /* made by sh_embed() */

const char *shard_sql_comment(void)
{
    static char comment[COMMENT_SIZE];
    snprintf(comment, sizeof comment, "shard.sql %s", shard_sql_md5);
    return comment;
}

void shard_sql_add_update(struct buf *sql)
{
    shard_sql_add(sql);
    buf_add_text(sql, "SELECT shardherd.lock_tables(); SELECT shardherd.install_guards(); ");
}

void shard_sql_add_functions(struct buf *sql)
{
    buf_add_text(sql, shard_sql);
}

void shard_sql_add(struct buf *sql)
{
    shard_sql_add_functions(sql);
    buf_printf(sql, "COMMENT ON SCHEMA shardherd IS '%s';\n", shard_sql_comment());
}
