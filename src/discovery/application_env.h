/*
 * application_env: what environment variables say about a PostgreSQL server. Pure.
 *
 * A variable has a prefix and a role: PGHOST is the host of "PG", ORDERS_DB_PORT the port of "ORDERS_DB_",
 * DATABASE_URL the URL of "DATABASE_". Variables of one prefix make one connection. Passwords are nobody's
 * role: what can hold one is never kept, and URLs are cut before they are kept (env_url_parse()).
 */
#ifndef DISCOVERY_APPLICATION_ENV_H
#define DISCOVERY_APPLICATION_ENV_H

#include <stdbool.h>
#include <stddef.h>

enum env_role { ENV_NONE, ENV_URL, ENV_HOST, ENV_PORT, ENV_DBNAME, ENV_USER };

/* The role of a variable by its name; *ret_prefix is the length of the prefix in it. */
enum env_role env_role_of(const char *name, size_t *ret_prefix);

/* PASSWORD, PASS, PWD, SECRET, TOKEN, KEY, CREDENTIALS at the end or between underscores. */
bool env_is_secret_name(const char *name);

/* What a connection is told by a URL or connection string: texts on the heap, NULL = not said. */
struct env_target {
    char *host;      /* the first of several */
    int port;        /* 0 = not said */
    char *port_name; /* "$(NAME)" in place of a number */
    char *dbname, *user;
    bool more_hosts;
};
void env_target_free(struct env_target *target); /* wipes */

/*
 * "postgres://", "postgresql://" (also "postgresql+driver://"), "jdbc:postgresql://", "host=... port=..." and
 * "Host=...;Port=...": false for anything else. The password is skipped, not copied.
 */
bool env_url_parse(const char *text, struct env_target *ret);

/* "db", "db:5433", "[::1]:5433", "a,b": the first host, and the port or 0. */
bool env_host_parse(const char *text, struct env_target *ret);

/*
 * What may be kept of a variable's value: a URL as "postgresql://user@host:port/dbname" without password and
 * options, others as they are if they cannot be a secret (at most 253 bytes of host names, numbers and
 * identifiers). A URL whose parts are "$(NAME)" keeps them. NULL: nothing. mem_wipe_free() it.
 */
char *env_keep(enum env_role role, const char *value);

#endif
