#include "store/sqlite_check.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

/* The part of SQLite's file header that tells whose file it is. */
#define HEADER_SIZE      100
#define OFFSET_PAGE_SIZE 16
#define OFFSET_PAGES     28
#define OFFSET_FORMAT    60
#define OFFSET_OWNER     68
static const char magic[16] = "SQLite format 3";

static uint32_t big_endian(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int torn(const char *path, const char *what, struct err *err)
{
    return err_set(
        err, ERRC_CORRUPT,
        "%s is damaged (%s); it was left as it is: restore it from a backup, or move it away to start "
        "with an empty store",
        path, what);
}

static int foreign(const char *path, struct err *err)
{
    return err_set(err, ERRC_CORRUPT,
                   "%s is not a shardherd store; it was left as it is: choose another path or move it away",
                   path);
}

/* Size of path with "-wal" at its end; 0 if it does not exist. */
static off_t wal_size(const char *path)
{
    char *wal = mem_printf("%s-wal", path);
    struct stat st;
    off_t size = stat(wal, &st) == 0 ? st.st_size : 0;
    free(wal);
    return size;
}

/* Number of bytes read into header, or -1 with errno. */
static ssize_t read_header(const char *path, unsigned char header[HEADER_SIZE])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = pread(fd, header, HEADER_SIZE, 0);
    int saved = errno;
    close(fd);
    errno = saved;
    return n;
}

/* Only while there is no log: a checkpoint that was cut short leaves the file shorter than it says. */
static bool is_cut(const unsigned char *header, off_t size)
{
    off_t page = (off_t)header[OFFSET_PAGE_SIZE] << 8 | header[OFFSET_PAGE_SIZE + 1];
    page = page == 1 ? 65536 : page; /* does not fit two bytes */
    return page < 512 || size % page != 0 || size / page < (off_t)big_endian(header + OFFSET_PAGES);
}

static int check_header(const char *path, off_t size, struct err *err)
{
    unsigned char header[HEADER_SIZE];
    ssize_t n = read_header(path, header);
    if (n < 0)
        return err_set_errno(err, errno, "%s", path);
    if (n == 0)
        return torn(path, "it is empty", err);
    if (memcmp(header, magic, (size_t)n < sizeof magic ? (size_t)n : sizeof magic) != 0)
        return foreign(path, err);
    if (n < HEADER_SIZE)
        return torn(path, "it ends within its header", err);
    if (big_endian(header + OFFSET_OWNER) != SQLITE_STORE_APPLICATION_ID)
        return foreign(path, err);
    uint32_t format = big_endian(header + OFFSET_FORMAT);
    if (format > SQLITE_STORE_FORMAT)
        return err_set(
            err, ERRC_CORRUPT,
            "%s has format %u, this program knows formats up to %d; it was left as it is: use the newer "
            "shardherd that wrote it",
            path, format, SQLITE_STORE_FORMAT);
    if (format == 0)
        return torn(path, "its format number is 0", err);
    return wal_size(path) == 0 && is_cut(header, size) ? torn(path, "it has been cut off", err) : 0;
}

/* "file:///a%20path?immutable=1". Immutable: no lock, no -wal and -shm files left beside a file we refuse. */
static char *read_only_uri(const char *path)
{
    struct buf uri = {0};
    buf_add_text(&uri, path[0] == '/' ? "file://" : "file:");
    for (const char *p = path; *p != '\0'; p++) {
        if (strchr("?#%", *p) != NULL)
            buf_printf(&uri, "%%%02X", (unsigned char)*p);
        else
            buf_addc(&uri, *p);
    }
    buf_add_text(&uri, wal_size(path) == 0 ? "?mode=ro&immutable=1" : "?mode=ro");
    return buf_take(&uri);
}

/* What is wrong, found by reading every page; "" = nothing. An SQLite code if it could not be read. */
static int read_all(sqlite3 *db, struct buf *fault)
{
    sqlite3_stmt *check = NULL;
    /* not pragma_quick_check(1): from SQLite 3.46 on that asks for a table named 1 */
    int rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &check, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(check)) == SQLITE_ROW) {
        const char *verdict = (const char *)sqlite3_column_text(check, 0);
        if (verdict == NULL || strcmp(verdict, "ok") != 0)
            buf_add_text(fault, verdict != NULL ? verdict : "no verdict");
        rc = SQLITE_OK;
    }
    sqlite3_finalize(check);
    if (rc != SQLITE_OK)
        return rc;
    return sqlite3_exec(db,
                        "SELECT count(key), sum(revision) FROM kv; SELECT revision, term, holder FROM meta",
                        NULL, NULL, NULL);
}

static bool is_damage(int rc)
{
    rc &= 0xff;
    return rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB || rc == SQLITE_ERROR || rc == SQLITE_DONE;
}

static int check_pages(const char *path, struct err *err)
{
    sqlite3 *db = NULL;
    struct buf fault = {.limit = 200};
    char *uri = read_only_uri(path);
    int rc = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = read_all(db, &fault);
    int code = 0;
    if (rc != SQLITE_OK)
        code = is_damage(rc) ? torn(path, sqlite3_errmsg(db), err)
                             : err_set(err, ERRC_IO, "%s: %s", path, sqlite3_errmsg(db));
    else if (fault.length > 0)
        code = torn(path, buf_text(&fault), err);
    sqlite3_close(db);
    buf_free(&fault);
    free(uri);
    return code;
}

int sqlite_check(const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno != ENOENT)
            return err_set_errno(err, errno, "%s", path);
        if (wal_size(path) > 0)
            return torn(path, "it is gone, but its write-ahead log is not", err);
        return err_set(err, ERRC_NOT_FOUND, "%s does not exist", path);
    }
    if (!S_ISREG(st.st_mode))
        return foreign(path, err);
    int rc = check_header(path, st.st_size, err);
    return rc == 0 ? check_pages(path, err) : rc;
}
