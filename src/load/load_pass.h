/*
 * load_pass: passwords from a file in libpq's format (host:port:database:user:password, '*' matches all).
 */
#ifndef LOAD_LOAD_PASS_H
#define LOAD_LOAD_PASS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct load_pass {
    char *text;
};

/* Reads the file at once; a file that others may read is refused, as libpq does. */
int load_pass_open(struct load_pass *pass, const char *path, struct err *err);
/* Wipes. Safe on a zeroed struct. */
void load_pass_close(struct load_pass *pass);

/* The first line that matches, into out (cut to its size); false if none does. */
bool load_pass_find(const struct load_pass *pass, const char *host, int port, const char *dbname,
                    const char *user, char *out, size_t size);

#endif
