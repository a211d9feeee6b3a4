/*
 * login_sql: the statements that make the application's role and database, and SCRAM verifiers. Shared by the
 * runtimes.
 */
#ifndef RUNTIME_LOGIN_SQL_H
#define RUNTIME_LOGIN_SQL_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

/* Even a log setting of the user's must not get to see a verifier: run before the others. */
void login_sql_quiet(struct buf *out);
/* CREATE or ALTER ROLE; verifier NULL = the password stays as it is. */
void login_sql_role(struct buf *out, const char *role, bool exists, const char *verifier);
void login_sql_database(struct buf *out, const char *database, const char *owner);

/* What pg_authid keeps of the password. Slow (4096 rounds): on a worker. mem_wipe_free() it. */
char *scram_verifier(const char *user, const char *password, struct err *err);
/* Whether it was made of this password. Slow as well. */
bool scram_matches(const char *verifier, const char *password);

#endif
