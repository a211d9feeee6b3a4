#include "runtime/local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

char *local_path(const char *directory, const char *prefix, const char *name, const char *leaf)
{
    return mem_printf("%s/%s%s%s%s", directory, prefix, name, leaf != NULL ? "/" : "",
                      leaf != NULL ? leaf : "");
}

char *local_data_path(const char *directory, const char *name, bool member)
{
    return local_path(directory, "", name, member ? "member/data" : "data");
}

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        bytes += n;
        length -= (size_t)n;
    }
    return fsync(fd) != 0 ? errno : 0;
}

int local_directory_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot open %s", path);
    int rc = fsync(fd) != 0 ? errno : 0;
    close(fd);
    return rc != 0 ? err_set_errno(err, rc, "cannot sync %s", path) : 0;
}

static int parent_sync(const char *path, struct err *err)
{
    char *parent = mem_strdup(path);
    char *slash = strrchr(parent, '/');
    int rc = 0;
    if (slash != NULL && slash != parent) {
        *slash = '\0';
        rc = local_directory_sync(parent, err);
    }
    free(parent);
    return rc;
}

static int fill_new_file(const char *path, const char *text, mode_t mode, const struct local_user *owner,
                         struct err *err)
{
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot create %s", path);
    int rc = fchmod(fd, mode) != 0 ? errno : 0; /* whatever the umask is */
    if (rc == 0 && owner != NULL && owner->uid != 0 && fchown(fd, owner->uid, owner->gid) != 0)
        rc = errno;
    if (rc == 0)
        rc = write_all(fd, text, strlen(text));
    close(fd);
    if (rc == 0)
        return 0;
    (void)unlink(path);
    return err_set_errno(err, rc, "cannot write %s", path);
}

int local_file_write(const char *path, const char *text, mode_t mode, const struct local_user *owner,
                     struct err *err)
{
    char *temporary = mem_printf("%s.tmp", path);
    int rc = fill_new_file(temporary, text, mode, owner, err);
    if (rc == 0 && rename(temporary, path) != 0) {
        rc = err_set_errno(err, errno, "cannot rename %s", temporary);
        (void)unlink(temporary);
    }
    if (rc == 0)
        rc = parent_sync(path, err);
    free(temporary);
    return rc;
}

int local_file_append(const char *path, const char *text, struct err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot open %s", path);
    int rc = write_all(fd, text, strlen(text));
    close(fd);
    return rc != 0 ? err_set_errno(err, rc, "cannot write %s", path) : 0;
}

/* At most `limit` bytes from `offset` on; -1 and errno. */
static ssize_t read_part(const char *path, off_t offset, char *out, size_t limit)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t length = 0;
    ssize_t n = 1;
    while (n > 0 && length < limit) {
        n = pread(fd, out + length, limit - length, offset + (off_t)length);
        if (n > 0)
            length += (size_t)n;
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    int saved = errno;
    close(fd);
    errno = saved;
    return n < 0 ? -1 : (ssize_t)length;
}

char *local_file_read(const char *path, size_t limit, struct err *err)
{
    char *text = mem_alloc(limit + 1);
    ssize_t length = read_part(path, 0, text, limit);
    if (length < 0) {
        int code = errno == ENOENT ? ERRC_NOT_FOUND : ERRC_IO;
        err_set_errno(err, errno, "cannot read %s", path);
        if (err != NULL)
            err->code = (enum err_code)code;
        free(text);
        return NULL;
    }
    text[length] = '\0';
    return text;
}

/* Deletes what is in the directory behind fd and closes fd; errno or 0. */
static int empty_directory(int fd)
{
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        int rc = errno;
        close(fd);
        return rc;
    }
    int rc = 0;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR && errno != EPERM) {
            rc = errno;
            break;
        }
        int child = openat(dirfd(dir), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        rc = child < 0 ? errno : empty_directory(child);
        if (rc == 0 && unlinkat(dirfd(dir), name, AT_REMOVEDIR) != 0)
            rc = errno;
    }
    closedir(dir);
    return rc;
}

int local_tree_delete(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_set_errno(err, errno, "cannot open %s", path);
    int rc = empty_directory(fd);
    if (rc == 0 && rmdir(path) != 0)
        rc = errno;
    return rc != 0 ? err_set_errno(err, rc, "cannot delete %s", path) : 0;
}

int local_disk_check(const char *path, uint64_t needed, struct err *err)
{
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return err_set_errno(err, errno, "cannot see the free space of %s", path);
    uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (available >= needed)
        return 0;
    return err_set(err, ERRC_LIMIT,
                   "%s has %llu MiB free, %llu MiB are needed: free some space or choose another directory",
                   path, (unsigned long long)(available >> 20), (unsigned long long)(needed >> 20));
}

void local_log_trim(const char *path, long long limit)
{
    struct stat st;
    if (stat(path, &st) != 0 || st.st_size <= limit)
        return;
    size_t keep = 1u << 20;
    char *tail = mem_alloc(keep + 1);
    ssize_t length = read_part(path, st.st_size > (off_t)keep ? st.st_size - (off_t)keep : 0, tail, keep);
    if (length >= 0) {
        tail[length] = '\0';
        char *old = mem_printf("%s.old", path);
        (void)local_file_write(old, tail, 0600, NULL, NULL);
        free(old);
    }
    free(tail);
    /* the server appends, so it goes on at the new end */
    if (truncate(path, 0) != 0)
        return; /* it stays as long as it is; the next start tries again */
}

void local_log_reason(const char *path, char *ret, size_t size)
{
    ret[0] = '\0';
    struct stat st;
    char tail[8192];
    if (stat(path, &st) != 0)
        return;
    size_t limit = sizeof tail - 1;
    ssize_t length = read_part(path, st.st_size > (off_t)limit ? st.st_size - (off_t)limit : 0, tail, limit);
    if (length < 0)
        return;
    tail[length] = '\0';
    bool fatal = false;
    char *rest = tail;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        bool is_fatal = strstr(line, "FATAL:") != NULL || strstr(line, "PANIC:") != NULL;
        if (line[0] == '\0' || (fatal && !is_fatal))
            continue;
        fatal = is_fatal;
        snprintf(ret, size, "%s", line);
    }
}
