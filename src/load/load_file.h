/*
 * load_file: reads a small file on a worker thread.
 */
#ifndef LOAD_LOAD_FILE_H
#define LOAD_LOAD_FILE_H

#include "base/buf.h"
#include "loop/work.h"

struct load_file {
    struct work work;
    char *path;
    struct buf text;
    struct err err;
    bool busy;
    /* err NULL = text holds the whole file; valid during the call */
    void (*done)(struct load_file *file, const struct err *err, const struct buf *text, void *data);
    void *data;
};

void load_file_init(struct load_file *file, const char *path,
                    void (*done)(struct load_file *, const struct err *, const struct buf *, void *),
                    void *data);
/* ERRC_CONFLICT while a read is under way. */
int load_file_read(struct loop *loop, struct load_file *file, struct err *err);
/* Only when it is not busy. */
void load_file_fini(struct load_file *file);

#endif
