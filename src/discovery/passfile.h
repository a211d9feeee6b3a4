/*
 * passfile: passwords in files, with the checks and the format of libpq's ~/.pgpass.
 */
#ifndef DISCOVERY_PASSFILE_H
#define DISCOVERY_PASSFILE_H

#include <stdbool.h>

#include "base/err.h"

/*
 * The text of a small file (at most 1 MiB) that holds secrets; blocks, for workers. ERRC_NOT_FOUND;
 * ERRC_REFUSED with the remedy when group or others have any right to it or it is no plain file.
 * mem_wipe_free() it.
 */
char *passfile_read(const char *path, struct err *err);

/*
 * The password of the first line that matches, NULL if none: "host:port:database:user:password", '*' matches
 * everything, '\' takes the next character as it is, lines that start with '#' are comments. mem_wipe_free()
 * it.
 */
char *passfile_lookup(const char *text, const char *host, int port, const char *dbname, const char *user);

#endif
