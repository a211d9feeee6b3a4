#include "load/load_pass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#define PASS_LIMIT 65536

static int read_file(int fd, struct load_pass *pass, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_set_errno(err, errno, "stat");
    if (!S_ISREG(st.st_mode) || st.st_size > PASS_LIMIT)
        return err_set(err, ERRC_INVALID, "it is not a small regular file");
    if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        return err_set(err, ERRC_INVALID, "group or others may use it: chmod 0600");
    pass->text = mem_zalloc(PASS_LIMIT + 1);
    ssize_t n = read(fd, pass->text, PASS_LIMIT);
    if (n < 0)
        return err_set_errno(err, errno, "read");
    return 0;
}

int load_pass_open(struct load_pass *pass, const char *path, struct err *err)
{
    memset(pass, 0, sizeof *pass);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int code = fd < 0 ? err_set_errno(err, errno, "open") : read_file(fd, pass, err);
    if (fd >= 0)
        (void)close(fd);
    if (code != 0) {
        load_pass_close(pass);
        return err_wrap(err, "password file \"%s\"", path);
    }
    return 0;
}

void load_pass_close(struct load_pass *pass)
{
    mem_wipe_free(pass->text);
    pass->text = NULL;
}

/* Compares one field, with its backslashes, to value; moves behind the colon. */
static bool field_matches(const char **at, const char *value)
{
    const char *p = *at;
    bool right = true, any = p[0] == '*' && p[1] == ':';
    for (; *p != ':' && *p != '\n' && *p != '\0'; p++) {
        if (*p == '\\' && p[1] != '\0' && p[1] != '\n')
            p++;
        if (right && *value != '\0' && *p == *value)
            value++;
        else
            right = false;
    }
    right = right && *value == '\0';
    if (*p != ':')
        return false;
    *at = p + 1;
    return right || any;
}

static void take_password(const char *p, char *out, size_t size)
{
    size_t n = 0;
    for (; *p != '\n' && *p != '\0' && n + 1 < size; p++) {
        if (*p == '\\' && p[1] != '\0' && p[1] != '\n')
            p++;
        out[n++] = *p;
    }
    out[n] = '\0';
}

bool load_pass_find(const struct load_pass *pass, const char *host, int port, const char *dbname,
                    const char *user, char *out, size_t size)
{
    char digits[12];
    (void)snprintf(digits, sizeof digits, "%d", port);
    for (const char *line = pass->text; line != NULL && *line != '\0';) {
        const char *at = line;
        if (*line != '#' && field_matches(&at, host) && field_matches(&at, digits) &&
            field_matches(&at, dbname) && field_matches(&at, user)) {
            take_password(at, out, size);
            return true;
        }
        line = strchr(line, '\n');
        if (line != NULL)
            line++;
    }
    return false;
}
