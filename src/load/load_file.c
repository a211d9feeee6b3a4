#include "load/load_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define FILE_LIMIT ((size_t)1 << 20)

void load_file_init(struct load_file *file, const char *path,
                    void (*done)(struct load_file *, const struct err *, const struct buf *, void *),
                    void *data)
{
    memset(file, 0, sizeof *file);
    file->path = mem_strdup(path);
    file->text.limit = FILE_LIMIT;
    file->done = done;
    file->data = data;
}

void load_file_fini(struct load_file *file)
{
    assert(!file->busy);
    free(file->path);
    buf_free(&file->text);
    file->path = NULL;
}

static int read_all(int fd, struct buf *out, struct err *err)
{
    char block[16384];
    for (;;) {
        ssize_t n = read(fd, block, sizeof block);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, errno, "read");
        if (n == 0)
            return 0;
        if (!buf_add(out, block, (size_t)n))
            return err_set(err, ERRC_LIMIT, "larger than %zu bytes", FILE_LIMIT);
    }
}

static void file_run(struct work *work)
{
    struct load_file *file = work->data;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT)
            err_set(&file->err, ERRC_NOT_FOUND, "there is no such file");
        else
            err_set_errno(&file->err, errno, "open");
    } else {
        (void)read_all(fd, &file->text, &file->err);
        (void)close(fd);
    }
    if (file->err.code != ERRC_NONE)
        (void)err_wrap(&file->err, "\"%s\"", file->path);
}

static void file_done(struct work *work, int code)
{
    struct load_file *file = work->data;
    file->busy = false;
    if (code != 0)
        err_set(&file->err, ERRC_CANCELED, "reading \"%s\" was canceled", file->path);
    file->done(file, file->err.code != ERRC_NONE ? &file->err : NULL, &file->text, file->data);
}

int load_file_read(struct loop *loop, struct load_file *file, struct err *err)
{
    if (file->busy)
        return err_set(err, ERRC_CONFLICT, "\"%s\" is being read", file->path);
    err_clear(&file->err);
    buf_reset(&file->text);
    int code = work_start(loop, &file->work, file_run, file_done, file);
    if (code != 0)
        return err_set(err, (enum err_code)code, "cannot start a worker");
    file->busy = true;
    return 0;
}
