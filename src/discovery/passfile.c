#include "discovery/passfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#define SIZE_LIMIT (1u << 20)

static int check(int fd, const char *path, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_set_errno(err, errno, "cannot see %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERRC_REFUSED, "%s is not a plain file", path);
    if ((st.st_mode & 077) != 0)
        return err_set(
            err, ERRC_REFUSED,
            "%s holds passwords and has mode %04o: nobody but its owner may have access (chmod 0600 %s)",
            path, (unsigned)(st.st_mode & 07777), path);
    if (st.st_size > (off_t)SIZE_LIMIT)
        return err_set(err, ERRC_LIMIT, "%s is larger than 1 MiB", path);
    return 0;
}

static int fill(int fd, char *text, const char *path, struct err *err)
{
    size_t length = 0;
    ssize_t n = 1;
    while (n > 0 && length < SIZE_LIMIT) {
        n = read(fd, text + length, SIZE_LIMIT - length);
        if (n > 0)
            length += (size_t)n;
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    if (n < 0)
        return err_set_errno(err, errno, "cannot read %s", path);
    if (memchr(text, '\0', length) != NULL)
        return err_set(err, ERRC_INVALID, "%s is not a text file", path);
    return 0;
}

char *passfile_read(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        int missing = errno == ENOENT;
        err_set_errno(err, errno, "cannot open %s", path);
        if (missing && err != NULL)
            err->code = ERRC_NOT_FOUND;
        return NULL;
    }
    char *text = NULL;
    if (check(fd, path, err) == 0) {
        text = mem_zalloc(SIZE_LIMIT + 1);
        if (fill(fd, text, path, err) != 0) {
            mem_wipe_free(text);
            text = NULL;
        }
    }
    close(fd);
    return text;
}

/* Does the field at *at equal `wanted`? Moves *at behind its colon; a line without one does not match. */
static bool field_matches(const char **at, const char *wanted)
{
    const char *p = *at;
    if (p[0] == '*' && p[1] == ':') {
        *at = p + 2;
        return true;
    }
    while (*p != ':' && *p != '\0' && *p != '\n') {
        if (*p == '\\' && p[1] != '\0' && p[1] != '\n')
            p++;
        if (*wanted != *p)
            return false;
        p++;
        wanted++;
    }
    if (*p != ':' || *wanted != '\0')
        return false;
    *at = p + 1;
    return true;
}

static char *unescaped(const char *text, size_t length)
{
    char *out = mem_zalloc(length + 1);
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\\' && i + 1 < length)
            i++;
        out[used++] = text[i];
    }
    return out;
}

char *passfile_lookup(const char *text, const char *host, int port, const char *dbname, const char *user)
{
    char number[16];
    snprintf(number, sizeof number, "%d", port);
    for (const char *line = text; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        const char *end = line + length;
        const char *at = line;
        if (*line != '#' && field_matches(&at, host) && field_matches(&at, number) &&
            field_matches(&at, dbname) && field_matches(&at, user)) {
            if (end > at && end[-1] == '\r')
                end--;
            return unescaped(at, (size_t)(end - at));
        }
        line += length + (line[length] == '\n');
    }
    return NULL;
}
