/*
 * sqlite_file: the store's file and its lock, with blocking calls for worker threads, one thread at a time.
 *
 * Only sqlite_store.c uses this. A store is made under another name and renamed when it is complete, so that
 * whatever stands at the path is either a whole store or not ours.
 */
#ifndef STORE_SQLITE_FILE_H
#define STORE_SQLITE_FILE_H

#include <stdint.h>

#include "base/err.h"
#include "base/list.h"
#include "store/store.h"

enum file_op_kind { FILE_GET, FILE_LIST, FILE_WRITE, FILE_LEASE };

/* One operation: what is asked, and after sqlite_file_run() what came of it. */
struct file_op {
    enum file_op_kind kind;
    char *key;        /* FILE_LIST: the prefix; FILE_LEASE: the holder's name */
    char *value;      /* FILE_WRITE: NULL deletes */
    int64_t expected; /* FILE_WRITE */

    struct err err;
    int64_t revision; /* FILE_WRITE: of this change, also of a deletion; FILE_LEASE: the term */
    struct store_entry *entries;
    int count;
};

struct sqlite_file;

/* The errors of store_sqlite_open(). Makes the directory (0700) and the file (0600) if they do not exist. */
int sqlite_file_open(const char *path, struct sqlite_file **ret, struct err *err);
/* Gives up the lock last. */
void sqlite_file_close(struct sqlite_file *file);

/*
 * Runs the operations in order in one transaction with one sync to disk; each is judged by what those before
 * it have written. If the group fails because the disk is full, each is tried alone.
 */
void sqlite_file_run(struct sqlite_file *file, struct file_op **ops, int count);

/* Frees what the operation holds, not the struct itself. */
void file_op_clear(struct file_op *op);

#endif
