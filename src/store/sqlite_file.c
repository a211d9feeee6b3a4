#include "store/sqlite_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "store/sqlite_check.h"

#define BUSY_MS 5000 /* someone looks at the file with another program */

enum statement {
    SQL_BEGIN_READ,
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_GET,
    SQL_LIST,
    SQL_REVISION,
    SQL_PUT,
    SQL_DELETE,
    SQL_NEXT,
    SQL_TERM,
    SQL_COUNT
};

static const char *const statements[SQL_COUNT] = {
    [SQL_BEGIN_READ] = "BEGIN",
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_GET] = "SELECT key, value, revision FROM kv WHERE key = ?1",
    /* No character of a key is as great as \x7f. */
    [SQL_LIST] = "SELECT key, value, revision FROM kv WHERE key >= ?1 AND key < ?1 || char(127) ORDER BY key",
    [SQL_REVISION] = "SELECT revision FROM kv WHERE key = ?1",
    [SQL_PUT] = ("INSERT INTO kv (key, value, revision) VALUES (?1, ?2, ?3) "
                 "ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision"),
    [SQL_DELETE] = "DELETE FROM kv WHERE key = ?1",
    [SQL_NEXT] = "UPDATE meta SET revision = revision + 1 RETURNING revision",
    [SQL_TERM] = "UPDATE meta SET term = term + 1, holder = ?1 RETURNING term",
};

static const char schema[] =
    "BEGIN;"
    "CREATE TABLE kv (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL, revision INTEGER NOT NULL);"
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, term INTEGER NOT "
    "NULL,"
    " holder TEXT NOT NULL);"
    "INSERT INTO meta VALUES (1, 0, 0, '');"
    "COMMIT;";

struct sqlite_file {
    char *path;
    int lock_fd;
    sqlite3 *db;
    sqlite3_stmt *sql[SQL_COUNT];
};

/* ---- directory, lock, creation ---- */

static int directory_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? err_set_errno(err, errno, "cannot sync directory %s", path) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* The directory part, "." if there is none. */
static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return mem_strdup(".");
    return slash == path ? mem_strdup("/") : mem_strndup(path, (size_t)(slash - path));
}

/* Makes the directory and what is missing above it, each entry synced into its parent. */
static int directory_make(const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : err_set(err, ERRC_IO, "%s is not a directory", path);
    char *parent = directory_of(path);
    int rc = directory_make(parent, err);
    if (rc == 0 && mkdir(path, 0700) != 0 && errno != EEXIST)
        rc = err_set_errno(err, errno, "cannot make directory %s", path);
    if (rc == 0)
        rc = directory_sync(parent, err);
    free(parent);
    return rc;
}

static int lock_refused(const char *path, int fd, struct err *err)
{
    char pid[24] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    pid[n > 0 ? strspn(pid, "0123456789") : 0] = '\0';
    return err_set(err, ERRC_CONFLICT,
                   "%s is in use by process %s: one manager at a time may use a state directory", path,
                   pid[0] != '\0' ? pid : "(not known)");
}

/* The lock file stays for good: removing it would let two processes lock two files of the same name. */
static int lock_take(struct sqlite_file *file, struct err *err)
{
    char *lock = mem_printf("%s.lock", file->path);
    int rc = 0;
    file->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file->lock_fd < 0) {
        rc = err_set_errno(err, errno, "cannot open %s", lock);
    } else if (flock(file->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK ? lock_refused(file->path, file->lock_fd, err)
                                  : err_set_errno(err, errno, "cannot lock %s", lock);
    } else if (ftruncate(file->lock_fd, 0) != 0 || dprintf(file->lock_fd, "%ld\n", (long)getpid()) < 0) {
        rc = err_set_errno(err, errno, "cannot write %s", lock);
    }
    free(lock);
    return rc;
}

static int db_fault(const char *path, sqlite3 *db, struct err *err)
{
    int rc = sqlite3_errcode(db) & 0xff;
    if (rc == SQLITE_FULL)
        return err_set(err, ERRC_IO, "%s: the disk is full; nothing was changed", path);
    enum err_code code = rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB ? ERRC_CORRUPT : ERRC_IO;
    int number = sqlite3_system_errno(db);
    if (rc == SQLITE_IOERR && number != 0)
        return err_set_errno(err, number, "%s: %s", path, sqlite3_errmsg(db));
    return err_set(err, code, "%s: %s", path, sqlite3_errmsg(db));
}

static int db_open(const char *path, sqlite3 **ret, struct err *err)
{
    int rc = sqlite3_open_v2(path, ret, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(*ret, BUSY_MS);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(*ret, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF",
                          NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : db_fault(path, *ret, err);
}

static int db_make(const char *path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot make %s", path);
    sqlite3 *db = NULL;
    char *marks = mem_printf("PRAGMA application_id=%d; PRAGMA user_version=%d", SQLITE_STORE_APPLICATION_ID,
                             SQLITE_STORE_FORMAT);
    int rc = db_open(path, &db, err);
    if (rc == 0 && (sqlite3_exec(db, schema, NULL, NULL, NULL) != SQLITE_OK ||
                    sqlite3_exec(db, marks, NULL, NULL, NULL) != SQLITE_OK))
        rc = db_fault(path, db, err);
    /* Closing copies the log into the file and removes the log. */
    if (sqlite3_close(db) != SQLITE_OK && rc == 0)
        rc = err_set(err, ERRC_INTERNAL, "%s: cannot be closed", path);
    if (rc == 0 && fsync(fd) != 0)
        rc = err_set_errno(err, errno, "cannot sync %s", path);
    close(fd);
    free(marks);
    return rc;
}

static void remove_with_suffixes(const char *path)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char *name = mem_printf("%s%s", path, suffixes[i]);
        unlink(name);
        free(name);
    }
}

/* Under another name first: a crash at any moment leaves either no store or a whole one. */
static int store_make(const char *path, const char *directory, struct err *err)
{
    char *draft = mem_printf("%s.new", path);
    remove_with_suffixes(draft); /* of an attempt that died; we hold the lock */
    int rc = db_make(draft, err);
    if (rc == 0)
        rc = sqlite_check(draft, err);
    if (rc == 0 && rename(draft, path) != 0)
        rc = err_set_errno(err, errno, "cannot rename %s", draft);
    if (rc == 0)
        rc = directory_sync(directory, err);
    if (rc != 0)
        remove_with_suffixes(draft);
    free(draft);
    return rc;
}

/* ---- open and close ---- */

static int file_attach(struct sqlite_file *file, struct err *err)
{
    int rc = db_open(file->path, &file->db, err);
    for (int i = 0; rc == 0 && i < SQL_COUNT; i++)
        if (sqlite3_prepare_v3(file->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &file->sql[i], NULL) !=
            SQLITE_OK)
            rc = db_fault(file->path, file->db, err);
    return rc;
}

int sqlite_file_open(const char *path, struct sqlite_file **ret, struct err *err)
{
    struct sqlite_file *file = mem_zalloc(sizeof *file);
    file->path = mem_strdup(path);
    file->lock_fd = -1;
    char *directory = directory_of(path);
    struct err fault = {0};
    int rc = directory_make(directory, &fault);
    if (rc == 0)
        rc = lock_take(file, &fault);
    if (rc == 0) {
        rc = sqlite_check(path, &fault);
        if (rc == ERRC_NOT_FOUND)
            rc = store_make(path, directory, &fault);
    }
    if (rc == 0)
        rc = file_attach(file, &fault);
    free(directory);
    if (rc == 0) {
        *ret = file;
        return 0;
    }
    sqlite_file_close(file);
    return err_copy(err, &fault);
}

void sqlite_file_close(struct sqlite_file *file)
{
    for (int i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(file->sql[i]);
    sqlite3_close(file->db);
    if (file->lock_fd >= 0)
        close(file->lock_fd);
    free(file->path);
    free(file);
}

/* ---- operations ---- */

static void op_forget(struct file_op *op)
{
    for (int i = 0; i < op->count; i++) {
        free((char *)(uintptr_t)op->entries[i].key);
        free((char *)(uintptr_t)op->entries[i].value);
    }
    free(op->entries);
    op->entries = NULL;
    op->count = 0;
    op->revision = 0;
    err_clear(&op->err);
}

void file_op_clear(struct file_op *op)
{
    op_forget(op);
    free(op->key);
    free(op->value);
}

static sqlite3_stmt *sql(struct sqlite_file *file, enum statement which, const char *text)
{
    if (text != NULL)
        sqlite3_bind_text(file->sql[which], 1, text, -1, SQLITE_STATIC);
    return file->sql[which];
}

/* Runs to the end; SQLITE_DONE or an error. *ret is the number in the first row, untouched without one. */
static int sql_run(sqlite3_stmt *stmt, int64_t *ret)
{
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW && ret != NULL)
        *ret = sqlite3_column_int64(stmt, 0);
    while (rc == SQLITE_ROW)
        rc = sqlite3_step(stmt);
    int reset = sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return rc == SQLITE_DONE && reset != SQLITE_OK ? reset : rc;
}

/* Each of these returns SQLITE_DONE, also when the answer is an error of the caller's, or what went wrong. */
static int op_read(struct sqlite_file *file, struct file_op *op)
{
    sqlite3_stmt *stmt = sql(file, op->kind == FILE_GET ? SQL_GET : SQL_LIST, op->key);
    int rc, room = 0;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (op->count == room) {
            room = room == 0 ? 1 : room * 2;
            op->entries = mem_resize(op->entries, (size_t)room, sizeof *op->entries);
        }
        op->entries[op->count++] = (struct store_entry){
            .key = mem_strdup((const char *)sqlite3_column_text(stmt, 0)),
            .value = mem_strdup((const char *)sqlite3_column_text(stmt, 1)),
            .revision = sqlite3_column_int64(stmt, 2),
        };
    }
    sqlite3_reset(stmt);
    if (rc == SQLITE_DONE && op->kind == FILE_GET && op->count == 0)
        err_set(&op->err, ERRC_NOT_FOUND, "the store has no %s", op->key);
    return rc;
}

static int op_write(struct sqlite_file *file, struct file_op *op)
{
    int64_t present = 0;
    int rc = sql_run(sql(file, SQL_REVISION, op->key), &present);
    if (rc != SQLITE_DONE)
        return rc;
    if (present != op->expected) {
        err_set(&op->err, ERRC_CONFLICT, "%s has revision %" PRId64 ", not %" PRId64, op->key, present,
                op->expected);
        return SQLITE_DONE;
    }
    rc = sql_run(sql(file, SQL_NEXT, NULL), &op->revision);
    if (rc != SQLITE_DONE)
        return rc;
    if (op->value == NULL)
        return sql_run(sql(file, SQL_DELETE, op->key), NULL);
    sqlite3_stmt *put = sql(file, SQL_PUT, op->key);
    sqlite3_bind_text(put, 2, op->value, -1, SQLITE_STATIC);
    sqlite3_bind_int64(put, 3, op->revision);
    return sql_run(put, NULL);
}

static int op_run(struct sqlite_file *file, struct file_op *op)
{
    op_forget(op);
    switch (op->kind) {
    case FILE_GET:
    case FILE_LIST:
        return op_read(file, op);
    case FILE_WRITE:
        return op_write(file, op);
    case FILE_LEASE:
        break;
    }
    return sql_run(sql(file, SQL_TERM, op->key), &op->revision);
}

static bool any_write(struct file_op **ops, int count)
{
    for (int i = 0; i < count; i++)
        if (ops[i]->kind == FILE_WRITE || ops[i]->kind == FILE_LEASE)
            return true;
    return false;
}

/* True if the group is done with: it succeeded, or failed in a way that trying each alone cannot mend. */
static bool group_run(struct sqlite_file *file, struct file_op **ops, int count)
{
    int rc = sql_run(file->sql[any_write(ops, count) ? SQL_BEGIN : SQL_BEGIN_READ], NULL);
    for (int i = 0; rc == SQLITE_DONE && i < count; i++)
        rc = op_run(file, ops[i]);
    if (rc == SQLITE_DONE)
        rc = sql_run(file->sql[SQL_COMMIT], NULL);
    if (rc == SQLITE_DONE)
        return true;
    struct err fault = {0};
    db_fault(file->path, file->db, &fault);
    /* A failed write, unlike a failed sync, has certainly left nothing behind. */
    bool no_room = (rc & 0xff) == SQLITE_FULL || sqlite3_extended_errcode(file->db) == SQLITE_IOERR_WRITE;
    if (!sqlite3_get_autocommit(file->db))
        sql_run(file->sql[SQL_ROLLBACK], NULL);
    for (int i = 0; i < count; i++) {
        op_forget(ops[i]);
        ops[i]->err = fault;
    }
    return count == 1 || !no_room;
}

void sqlite_file_run(struct sqlite_file *file, struct file_op **ops, int count)
{
    if (group_run(file, ops, count))
        return;
    for (int i = 0; i < count; i++)
        group_run(file, &ops[i], 1);
}
