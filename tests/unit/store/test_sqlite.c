/* The SQLite back end: the common suite, and what can be wrong with a file. */
#include "store/store_suite.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *store_path(const struct suite *s)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/state/deep/store.db", s->dir);
    return path;
}

static void on_open(const struct err *err, struct store *store, void *data)
{
    struct answer *a = data;
    a->suite->store = store;
    answer_done(a, err);
}

static int open_path(struct suite *s, const char *path, struct err *err)
{
    struct answer a = {.suite = s};
    s->waiting++;
    int rc = store_sqlite_open(&s->loop, path, on_open, &a, err);
    if (rc != 0) {
        s->waiting--;
        return rc;
    }
    assert_int_equal(a.calls, 0);
    suite_wait(s);
    return err_copy(err, &a.err);
}

static int suite_open(struct suite *s, struct err *err)
{
    return open_path(s, store_path(s), err);
}

static int bare_setup(void **state)
{
    struct suite *s = suite_new();
    snprintf(s->dir, sizeof s->dir, "/tmp/shardherd-test-XXXXXX");
    *state = s;
    return mkdtemp(s->dir) != NULL ? 0 : -1;
}

static int suite_setup(void **state)
{
    struct err err = {0};
    if (bare_setup(state) != 0 || suite_open(*state, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int suite_teardown(void **state)
{
    char dir[64];
    struct suite *s = *state;
    memcpy(dir, s->dir, sizeof dir);
    suite_free(s);
    return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- files ---- */

struct content {
    char *bytes;
    size_t length;
};

static struct content read_all(const char *path)
{
    struct content c = {0};
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    c.length = (size_t)st.st_size;
    c.bytes = mem_alloc(c.length + 1);
    assert_int_equal(read(fd, c.bytes, c.length), c.length);
    close(fd);
    return c;
}

static void write_all(const char *path, const void *bytes, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), length);
    close(fd);
}

static void sql(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

static bool exists(const char *path, const char *suffix)
{
    char name[160];
    snprintf(name, sizeof name, "%s%s", path, suffix);
    return access(name, F_OK) == 0;
}

/* The open must fail with ERRC_CORRUPT and these words, and leave the file and nothing else as it was. */
static void expect_refused(struct suite *s, const char *words, const char *remedy)
{
    struct content before = read_all(store_path(s));
    struct err err = {0};
    int rc = suite_open(s, &err);
    struct content after = read_all(store_path(s));
    if (rc != ERRC_CORRUPT || strstr(err.message, words) == NULL || strstr(err.message, remedy) == NULL ||
        strstr(err.message, store_path(s)) == NULL)
        fail_msg("%zu bytes: code %d, \"%s\", expected \"%s\" and \"%s\"", before.length, rc, err.message,
                 words, remedy);
    assert_null(s->store);
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.bytes, after.bytes, before.length);
    assert_false(exists(store_path(s), "-wal") || exists(store_path(s), "-shm") ||
                 exists(store_path(s), "-journal"));
    free(before.bytes);
    free(after.bytes);
}

static void fill(struct suite *s, int entries)
{
    char key[32], value[1024];
    memset(value, 'v', sizeof value);
    value[sizeof value - 1] = '\0';
    for (int i = 0; i < entries; i++) {
        snprintf(key, sizeof key, "op/%d", i);
        put(s, key, 0, value);
    }
}

static void test_torn_file(void **state)
{
    struct suite *s = *state;
    fill(s, 60);
    suite_close(s);
    struct content whole = read_all(store_path(s));
    assert_true(whole.length > 10 * 4096);
    size_t lengths[] = {
        0, 1, 15, 16, 50, 99, 100, 512, 4095, 4096, 4097, 8192, 20480, whole.length - 4096, whole.length - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_all(store_path(s), whole.bytes, lengths[i]);
        expect_refused(s, "damaged", "backup");
    }
    write_all(store_path(s), whole.bytes, whole.length);
    struct err err = {0};
    assert_int_equal(suite_open(s, &err), 0);
    assert_int_equal(list(s, "op/").count, 60);
    free(whole.bytes);
}

static void test_flipped_pages(void **state)
{
    struct suite *s = *state;
    fill(s, 60);
    suite_close(s);
    struct content whole = read_all(store_path(s));
    size_t pages = whole.length / 4096, found = 0;
    for (size_t page = 1; page < pages; page++) {
        char *bad = mem_alloc(whole.length);
        memcpy(bad, whole.bytes, whole.length);
        memset(bad + page * 4096, 0xa5, 64); /* a page's own header */
        write_all(store_path(s), bad, whole.length);
        expect_refused(s, "damaged", "backup");
        found++;
        free(bad);
    }
    assert_true(found > 10);
    free(whole.bytes);
}

static void test_foreign_file(void **state)
{
    struct suite *s = *state;
    suite_close(s);
    assert_int_equal(unlink(store_path(s)), 0);
    static const char text[] = "dear diary, this is not a database";
    write_all(store_path(s), text, sizeof text);
    expect_refused(s, "not a shardherd store", "choose another path");
    write_all(store_path(s), "x", 1);
    expect_refused(s, "not a shardherd store", "choose another path");
    assert_int_equal(unlink(store_path(s)), 0);
    sql(store_path(s), "CREATE TABLE kv (key, value, revision); PRAGMA application_id=7");
    expect_refused(s, "not a shardherd store", "choose another path");
}

static void test_newer_format(void **state)
{
    struct suite *s = *state;
    suite_close(s);
    sql(store_path(s), "PRAGMA user_version=2");
    expect_refused(s, "format 2", "newer shardherd");
    sql(store_path(s), "PRAGMA user_version=0");
    expect_refused(s, "format number is 0", "backup");
}

static void test_missing_tables(void **state)
{
    struct suite *s = *state;
    suite_close(s);
    sql(store_path(s), "DROP TABLE kv");
    expect_refused(s, "no such table", "backup");
}

static void test_log_without_file(void **state)
{
    struct suite *s = *state;
    char wal[160];
    suite_close(s);
    snprintf(wal, sizeof wal, "%s-wal", store_path(s));
    assert_int_equal(rename(store_path(s), wal), 0);
    struct err err = {0};
    assert_int_equal(suite_open(s, &err), ERRC_CORRUPT);
    assert_non_null(strstr(err.message, "write-ahead log"));
    assert_false(exists(store_path(s), ""));
    assert_true(exists(wal, ""));
}

static void test_draft_of_a_crash_is_replaced(void **state)
{
    struct suite *s = *state;
    suite_close(s);
    char draft[160];
    snprintf(draft, sizeof draft, "%s.new", store_path(s));
    assert_int_equal(rename(store_path(s), draft), 0);
    assert_int_equal(truncate(draft, 4096), 0);
    suite_reopen(s);
    put(s, "k", 0, "v");
    assert_false(exists(draft, ""));
}

static void test_modes(void **state)
{
    struct suite *s = *state;
    put(s, "k", 0, "v");
    struct stat st;
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s%s", store_path(s), suffixes[i]);
        assert_int_equal(stat(name, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    char dir[128];
    snprintf(dir, sizeof dir, "%s/state/deep", s->dir);
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_non_null(strstr(store_name(s->store), "sqlite:/tmp/"));
}

static void test_odd_paths(void **state)
{
    struct suite *s = *state;
    static const char *const names[] = {"a b?c#d%20e&mode=memory", "\xc3\xbc", "file:x"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[128];
        struct err err = {0};
        snprintf(path, sizeof path, "%s/%s", s->dir, names[i]);
        for (int again = 0; again < 2; again++) {
            suite_close(s);
            if (open_path(s, path, &err) != 0)
                fail_msg("%s", err.message);
            assert_int_equal(put_code(s, "k", 0, "v"), again ? ERRC_CONFLICT : ERRC_NONE);
        }
        assert_true(exists(path, ""));
    }
    struct err err = {0};
    suite_close(s);
    assert_int_equal(open_path(s, "", &err), ERRC_INVALID);
    assert_int_equal(open_path(s, "/tmp/", &err), ERRC_INVALID);
    assert_int_equal(open_path(s, "/dev/null/store.db", &err), ERRC_IO);
    assert_non_null(strstr(err.message, "/dev/null"));
    assert_int_equal(open_path(s, "/proc/nowhere/store.db", &err), ERRC_IO);
}

/* ---- the lock ---- */

static void test_second_opener_in_this_process(void **state)
{
    struct suite *s = *state;
    struct store *first = s->store;
    char pid[32];
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    struct err err = {0};
    assert_int_equal(suite_open(s, &err), ERRC_CONFLICT);
    assert_non_null(strstr(err.message, pid));
    s->store = first;
    put(s, "k", 0, "v"); /* the first one goes on */
}

static void test_second_opener_in_another_process(void **state)
{
    struct suite *s = *state;
    int to_child[2], from_child[2];
    assert_true(pipe(to_child) == 0 && pipe(from_child) == 0);
    suite_close(s);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct suite *mine = suite_new();
        memcpy(mine->dir, s->dir, sizeof s->dir);
        close(to_child[1]);
        char c = suite_open(mine, NULL) == 0 ? 'y' : 'n';
        _exit(write(from_child[1], &c, 1) == 1 && read(to_child[0], &c, 1) >= 0 ? 0 : 1);
    }
    char c = 0;
    assert_int_equal(read(from_child[0], &c, 1), 1);
    assert_int_equal(c, 'y');
    char pid[32];
    snprintf(pid, sizeof pid, "process %ld:", (long)child);
    struct err err = {0};
    assert_int_equal(suite_open(s, &err), ERRC_CONFLICT);
    assert_non_null(strstr(err.message, pid));
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    suite_reopen(s); /* the lock died with its holder */
    close(to_child[0]);
    close(to_child[1]);
    close(from_child[0]);
    close(from_child[1]);
}

/* ---- what is acknowledged is on the disk ---- */

/* A layer between SQLite and the files that knows whether the log has bytes that were not synced yet. */
static struct {
    sqlite3_vfs vfs;
    sqlite3_vfs *real;
    sqlite3_io_methods methods;
    const sqlite3_io_methods *real_methods;
    int syncs;
    int early; /* acknowledged while the log had bytes that were not synced */
    bool dirty;
} layer;

static int layer_write(sqlite3_file *file, const void *bytes, int n, sqlite3_int64 at)
{
    layer.dirty = true;
    return layer.real_methods->xWrite(file, bytes, n, at);
}

static int layer_sync(sqlite3_file *file, int flags)
{
    int rc = layer.real_methods->xSync(file, flags);
    layer.dirty = layer.dirty && rc != SQLITE_OK;
    layer.syncs++;
    return rc;
}

static int layer_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
    (void)vfs;
    int rc = layer.real->xOpen(layer.real, name, file, flags, out_flags);
    if (rc == SQLITE_OK && (flags & SQLITE_OPEN_WAL) != 0) {
        layer.real_methods = file->pMethods;
        layer.methods = *file->pMethods;
        layer.methods.xWrite = layer_write;
        layer.methods.xSync = layer_sync;
        file->pMethods = &layer.methods;
    }
    return rc;
}

static void layer_start(void)
{
    memset(&layer, 0, sizeof layer);
    layer.real = sqlite3_vfs_find(NULL);
    layer.vfs = *layer.real;
    layer.vfs.zName = "layer";
    layer.vfs.xOpen = layer_open;
    assert_int_equal(sqlite3_vfs_register(&layer.vfs, 1), SQLITE_OK);
}

static void layer_stop(void)
{
    assert_int_equal(sqlite3_vfs_register(layer.real, 1), SQLITE_OK);
    assert_int_equal(sqlite3_vfs_unregister(&layer.vfs), SQLITE_OK);
}

static void on_synced(const struct err *err, int64_t revision, void *data)
{
    (void)revision;
    layer.early += err != NULL || layer.dirty;
    suite_arrived(data);
}

static void test_acknowledged_means_synced(void **state)
{
    struct suite *s = *state;
    suite_close(s);
    layer_start();
    suite_reopen(s);
    for (int i = 0; i < 20; i++) {
        int before = layer.syncs;
        char key[32];
        snprintf(key, sizeof key, "k/%d", i);
        s->waiting++;
        assert_int_equal(store_compare_and_swap(s->store, key, 0, "v", on_synced, s, NULL), 0);
        suite_wait(s);
        assert_true(layer.syncs > before);
        assert_int_equal(layer.early, 0);
    }
    /* Many that stand in line together share a sync. */
    int before = layer.syncs;
    for (int i = 0; i < 200; i++) {
        char key[32];
        snprintf(key, sizeof key, "l/%d", i);
        s->waiting++;
        assert_int_equal(store_compare_and_swap(s->store, key, 0, "v", on_synced, s, NULL), 0);
    }
    suite_wait(s);
    assert_int_equal(layer.early, 0);
    assert_true(layer.syncs > before && layer.syncs <= before + 3);
    suite_close(s);
    layer_stop();
}

/* ---- the disk ---- */

/* Writes 256 KiB values until the disk is full. Small ones in the same line go on being written. */
static void fill_the_disk(struct suite *s)
{
    enum { CROWD = 16 };
    static char value[256 * 1024];
    memset(value, 'v', sizeof value - 1);
    int64_t small = put(s, "small", 0, "s");
    int written = 0, failed = 0;
    struct answer a[CROWD], tiny;
    char key[32];
    while (failed == 0 && written < 400) {
        for (int i = 0; i < CROWD; i++) {
            snprintf(key, sizeof key, "big/%d", written + i);
            start_write(s, &a[i], key, 0, value);
        }
        snprintf(key, sizeof key, "tiny/%d", written);
        start_write(s, &tiny, key, 0, "t");
        suite_wait(s);
        assert_int_equal(tiny.err.code, ERRC_NONE);
        for (int i = 0; i < CROWD; i++) {
            assert_true(a[i].err.code == ERRC_NONE || a[i].err.code == ERRC_IO);
            failed += a[i].err.code == ERRC_IO;
            if (a[i].err.code == ERRC_IO)
                assert_non_null(strstr(a[i].err.message, store_path(s)));
        }
        written += CROWD;
    }
    assert_true(failed > 0);
    assert_int_equal(list(s, "big/").count, written - failed);
    expect_entry(s, "small", "s", small);
}

static void test_file_size_limit(void **state)
{
    struct suite *s = *state;
    struct rlimit old, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_IGN);
    tight = (struct rlimit){.rlim_cur = 8 * 1024 * 1024, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    fill_the_disk(s);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    int64_t revision = put(s, "after", 0, "usable");
    suite_reopen(s);
    expect_entry(s, "after", "usable", revision);
}

/* In a mount namespace of its own: a child with a tmpfs of 12 MiB. Exit code 77 = may not mount. */
static int full_disk_child(const char *dir)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", dir, "tmpfs", 0, "size=12m") != 0)
        return 77;
    struct suite *s = suite_new();
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    struct err err = {0};
    if (suite_open(s, &err) != 0)
        return 2;
    fill_the_disk(s);
    suite_reopen(s); /* a full disk does not keep the next manager from starting */
    assert_int_equal(list(s, "small").count, 1);
    suite_free(s);
    return 0;
}

static void test_full_disk(void **state)
{
    struct suite *s = *state;
    suite_close(s);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(full_disk_child(s->dir));
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* not root: test_file_size_limit covers the same code */
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define FILE_TEST(f) cmocka_unit_test_setup_teardown(f, suite_setup, suite_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_SUITE_TESTS,
        FILE_TEST(test_torn_file),
        FILE_TEST(test_flipped_pages),
        FILE_TEST(test_foreign_file),
        FILE_TEST(test_newer_format),
        FILE_TEST(test_missing_tables),
        FILE_TEST(test_log_without_file),
        FILE_TEST(test_draft_of_a_crash_is_replaced),
        FILE_TEST(test_modes),
        FILE_TEST(test_odd_paths),
        FILE_TEST(test_second_opener_in_this_process),
        FILE_TEST(test_second_opener_in_another_process),
        FILE_TEST(test_acknowledged_means_synced),
        FILE_TEST(test_file_size_limit),
        FILE_TEST(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
