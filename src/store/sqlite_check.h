/*
 * sqlite_check: is the file at a path a store of ours, whole, and of a format we know? Blocking, changes
 * nothing.
 */
#ifndef STORE_SQLITE_CHECK_H
#define STORE_SQLITE_CHECK_H

#include "base/err.h"

#define SQLITE_STORE_APPLICATION_ID 0x53484552 /* "SHER" */
#define SQLITE_STORE_FORMAT         1          /* user_version; a greater number is a newer program's file */

/* ERRC_NOT_FOUND if there is nothing, ERRC_CORRUPT with the remedy, ERRC_IO. */
int sqlite_check(const char *path, struct err *err);

#endif
