#include "agent/agent_files.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

#define FILE_LIMIT (1024u * 1024u)

char *agent_file_read(const char *path)
{
    struct buf b = {.limit = FILE_LIMIT};
    char piece[4096];
    ssize_t n = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, piece, sizeof piece)) > 0 && buf_add(&b, piece, (size_t)n))
        continue;
    if (fd >= 0)
        (void)close(fd);
    char *text = n == 0 ? mem_strdup(buf_text(&b)) : NULL;
    if (b.data != NULL)
        memset(b.data, 0, b.length);
    buf_free(&b);
    return text;
}

bool agent_text_read(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;
    if (fd >= 0)
        (void)close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static int sync_path(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? err_set_errno(err, errno, "cannot sync %s", path) : 0;
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

/* Durably, in place of what was there. */
int agent_file_write(const char *path, const struct buf *text, struct err *err)
{
    char *draft = mem_printf("%s.new", path);
    int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? err_set_errno(err, errno, "cannot write %s", draft) : 0;
    if (rc == 0 && (write(fd, text->data, text->length) != (ssize_t)text->length || fsync(fd) != 0))
        rc = err_set_errno(err, errno, "cannot write %s", draft);
    if (fd >= 0)
        (void)close(fd);
    if (rc == 0 && rename(draft, path) != 0)
        rc = err_set_errno(err, errno, "cannot put %s in its place", path);
    free(draft);
    return rc;
}

int agent_parent_sync(const char *path, struct err *err)
{
    char *parent = mem_strdup(path);
    char *slash = strrchr(parent, '/');
    int rc = 0;
    if (slash != NULL && slash != parent) {
        *slash = '\0';
        rc = sync_path(parent, err);
    }
    free(parent);
    return rc;
}

/* ---- the data directory ---- */

static bool is_empty(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    bool empty = true;
    while (dir != NULL && empty && (entry = readdir(dir)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                strcmp(entry->d_name, "lost+found") == 0;
    if (dir != NULL)
        (void)closedir(dir);
    return empty;
}

int agent_data_look(const struct agent_options *o, enum agent_data *ret, struct err *err)
{
    char *version = mem_printf("%s/PG_VERSION", o->data);
    bool there = access(version, R_OK) == 0;
    int error = errno;
    free(version);
    *ret = there ? AGENT_DATA_THERE : AGENT_DATA_NONE;
    if (there || access(o->data, F_OK) != 0)
        return 0;
    if (error != ENOENT)
        return err_set_errno(err, error, "cannot read the data directory %s as uid %d", o->data,
                             (int)geteuid());
    if (is_empty(o->data))
        return rmdir(o->data) == 0
                   ? 0
                   : err_set_errno(err, errno,
                                   "the empty data directory %s cannot be replaced: give a folder "
                                   "inside the volume, not its mount point",
                                   o->data);
    return err_set(err, ERRC_REFUSED,
                   "%s is not empty and is no data directory of PostgreSQL: it is left alone", o->data);
}

char *agent_draft_path(const struct agent_options *o)
{
    return mem_printf("%s.new", o->data);
}

void agent_initdb_init(struct agent_initdb *i, const struct agent_options *o)
{
    char *draft = agent_draft_path(o), *wal = agent_wal_draft_path(o);
    char *name = o->bin != NULL ? mem_printf("%s/initdb", o->bin) : mem_strdup("initdb");
    char *data = mem_printf("--pgdata=%s", draft), *password = mem_printf("--pwfile=%s", o->password_file);
    char *waldir = wal != NULL ? mem_printf("--waldir=%s", wal) : NULL;
    *i = (struct agent_initdb){.argv = {name, data, password, "--username=" AGENT_SUPERUSER,
                                        "--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8",
                                        "--locale=C.UTF-8", waldir, NULL},
                               .owned = {name, data, password, waldir}};
    free(draft);
    free(wal);
}

void agent_initdb_fini(struct agent_initdb *i)
{
    for (size_t n = 0; n < sizeof i->owned / sizeof *i->owned; n++)
        free(i->owned[n]);
}

int agent_tree_delete(const char *path, struct err *err)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    int rc = 0;
    if (dir == NULL)
        return errno == ENOENT ? 0 : err_set_errno(err, errno, "cannot read %s", path);
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *inner = mem_printf("%s/%s", path, entry->d_name);
        if (entry->d_type == DT_DIR)
            rc = agent_tree_delete(inner, err);
        else if (unlink(inner) != 0)
            rc = err_set_errno(err, errno, "cannot delete %s", inner);
        free(inner);
    }
    (void)closedir(dir);
    if (rc == 0 && rmdir(path) != 0)
        rc = err_set_errno(err, errno, "cannot delete %s", path);
    return rc;
}

char *agent_wal_draft_path(const struct agent_options *o)
{
    return o->wal != NULL ? mem_printf("%s/pg_wal.new", o->wal) : NULL;
}

static int wal_draft_clear(const struct agent_options *o, struct err *err)
{
    char *draft = agent_wal_draft_path(o), *wal = mem_printf("%s/pg_wal", o->wal);
    int rc = agent_tree_delete(draft, err);
    if (rc == 0 && !is_empty(wal))
        rc = err_set(
            err, ERRC_REFUSED,
            "%s holds a write-ahead log, but %s does not exist: the log is left alone; bring the data back, "
            "or delete the log",
            wal, o->data);
    free(draft);
    free(wal);
    return rc;
}

int agent_draft_clear(const struct agent_options *o, struct err *err)
{
    char *draft = agent_draft_path(o);
    int rc = agent_tree_delete(draft, err);
    if (rc == 0 && o->wal != NULL)
        rc = wal_draft_clear(o, err);
    free(draft);
    return rc;
}

/* The log first: a data directory in its place always has one. */
static int wal_draft_finish(const struct agent_options *o, const char *draft, struct err *err)
{
    char *from = agent_wal_draft_path(o), *to = mem_printf("%s/pg_wal", o->wal),
         *link = mem_printf("%s/pg_wal", draft);
    int rc = sync_path(from, err);
    if (rc == 0 && (rename(from, to) != 0 || unlink(link) != 0 || symlink(to, link) != 0))
        rc = err_set_errno(err, errno, "cannot put the write-ahead log at %s", to);
    if (rc == 0)
        rc = sync_path(o->wal, err);
    free(from);
    free(to);
    free(link);
    return rc;
}

int agent_draft_finish(const struct agent_options *o, struct err *err)
{
    char *draft = agent_draft_path(o);
    int rc = o->wal != NULL ? wal_draft_finish(o, draft, err) : 0;
    if (rc == 0)
        rc = sync_path(draft, err);
    if (rc == 0 && rename(draft, o->data) != 0)
        rc = err_set_errno(err, errno, "cannot move %s to %s", draft, o->data);
    if (rc == 0)
        rc = agent_parent_sync(o->data, err);
    free(draft);
    return rc;
}

/* ---- configuration ---- */

void agent_setting(struct buf *out, const char *name, const char *value)
{
    (void)buf_printf(out, "%s = '", name);
    for (; *value != '\0'; value++) {
        if (*value == '\'' || *value == '\\')
            (void)buf_addc(out, *value);
        (void)buf_addc(out, *value);
    }
    (void)buf_add_text(out, "'\n");
}

static bool has_file(const char *folder, const char *name)
{
    char *path = mem_printf("%s/%s", folder, name);
    bool there = access(path, R_OK) == 0;
    free(path);
    return there;
}

static void tls_settings(struct buf *out, const struct agent_options *o)
{
    char *certificate = mem_printf("%s/shardherd.crt", o->data),
         *key = mem_printf("%s/shardherd.key", o->data);
    char *ca = mem_printf("%s/ca.crt", o->tls);
    (void)buf_add_text(out, "ssl = on\n");
    agent_setting(out, "ssl_cert_file", certificate);
    agent_setting(out, "ssl_key_file", key);
    if (has_file(o->tls, "ca.crt"))
        agent_setting(out, "ssl_ca_file", ca);
    free(certificate);
    free(key);
    free(ca);
}

static void settings_text(struct buf *out, const struct agent_options *o)
{
    char *hba = mem_printf("%s/shardherd_hba.conf", o->data),
         *ident = mem_printf("%s/shardherd_ident.conf", o->data);
    (void)buf_add_text(out,
                       "# Written by the shardherd agent before each start; changes made here are lost.\n"
                       "max_wal_senders = 20\n"
                       "max_replication_slots = 20\n"
                       "max_worker_processes = 32\n"
                       "max_logical_replication_workers = 20\n"
                       "wal_retrieve_retry_interval = 500ms\n"); /* a move's subscription starts at once */
    if (o->settings != NULL)
        agent_setting(out, "include_if_exists", o->settings);
    (void)buf_add_text(out, "# What shardherd relies on comes last, so that nothing overrides it.\n"
                            "wal_level = logical\n"
                            "password_encryption = 'scram-sha-256'\n"
                            "log_destination = 'stderr'\n"
                            "logging_collector = off\n"
                            "log_line_prefix = '%m [%p] '\n"
                            "log_statement = 'none'\n"
                            "log_min_error_statement = 'panic'\n"
                            "log_error_verbosity = 'terse'\n");
    agent_setting(out, "listen_addresses", o->listen);
    (void)buf_printf(out, "port = %d\n", o->port);
    agent_setting(out, "unix_socket_directories", o->run);
    agent_setting(out, "hba_file", hba);
    agent_setting(out, "ident_file", ident);
    if (o->tls != NULL && has_file(o->tls, "tls.crt"))
        tls_settings(out, o);
    if (o->more != NULL)
        (void)buf_add_text(out, o->more);
    free(hba);
    free(ident);
}

static void hba_text(struct buf *out, const struct agent_options *o, bool tls)
{
    const char *type = tls ? "hostssl" : "host",
               *more = o->client_certificates ? " clientcert=verify-ca" : "";
    const char *who = o->held ? AGENT_SUPERUSER : "all";
    (void)buf_add_text(out,
                       "# Written by the shardherd agent before each start; changes made here are lost.\n"
                       "local all " AGENT_SUPERUSER " peer map=shardherd\n");
    if (!o->held)
        (void)buf_add_text(out, "local all all scram-sha-256\n");
    static const char *const from[] = {"0.0.0.0/0", "::/0"};
    for (int i = 0; i < 2; i++) {
        (void)buf_printf(out, "%s all %s %s scram-sha-256%s\n", type, who, from[i], more);
        (void)buf_printf(out, "%s replication %s %s scram-sha-256%s\n", type, who, from[i], more);
    }
}

static int ident_text(struct buf *out, struct err *err)
{
    const struct passwd *user = getpwuid(geteuid());
    if (user == NULL)
        return err_set(err, ERRC_REFUSED, "uid %d has no name in /etc/passwd; PostgreSQL cannot run as it",
                       (int)geteuid());
    (void)buf_printf(out, "shardherd %s " AGENT_SUPERUSER "\n", user->pw_name);
    return 0;
}

static int write_one(const struct agent_options *o, const char *name, struct buf *text, struct err *err)
{
    char *path = mem_printf("%s/%s", o->data, name);
    int rc = agent_file_write(path, text, err);
    free(path);
    buf_free(text);
    return rc;
}

/* The server wants its key owned by itself and closed to others, which mounted Secrets are not: copy them. */
static int tls_copy(const struct agent_options *o, const char *from, const char *to, struct err *err)
{
    char *path = mem_printf("%s/%s", o->tls, from);
    char *text = agent_file_read(path);
    struct buf b = {0};
    int rc = text == NULL ? err_set(err, ERRC_IO, "cannot read %s", path) : 0;
    if (rc == 0) {
        (void)buf_add_text(&b, text);
        rc = write_one(o, to, &b, err);
    }
    mem_wipe_free(text);
    free(path);
    return rc;
}

static int include_once(const struct agent_options *o, struct err *err)
{
    static const char line[] = "include = 'shardherd.conf'";
    char *path = mem_printf("%s/postgresql.conf", o->data);
    char *text = agent_file_read(path);
    struct buf b = {0};
    int rc = 0;
    if (text == NULL || strstr(text, line) == NULL) {
        (void)buf_printf(&b, "%s\n%s\n", text != NULL ? text : "", line);
        rc = agent_file_write(path, &b, err);
    }
    buf_free(&b);
    free(text);
    free(path);
    return rc;
}

/* It ended, and whoever is its parent now has not asked for it yet. PostgreSQL takes that for a server. */
static bool is_zombie(int pid)
{
    char *path = mem_printf("/proc/%d/stat", pid);
    char *text = agent_file_read(path);
    const char *name_end = text != NULL ? strrchr(text, ')') : NULL;
    bool zombie = name_end != NULL && (name_end[1] == ' ' && (name_end[2] == 'Z' || name_end[2] == 'X'));
    free(text);
    free(path);
    return zombie;
}

/* Its first line is the pid of the server that it is of. */
static void lock_clear(char *path)
{
    char *text = agent_file_read(path);
    int pid = text != NULL ? (int)strtol(text, NULL, 10) : 0;
    if (getpid() == 1 || (pid > 0 && is_zombie(pid)))
        (void)unlink(path);
    free(text);
    free(path);
}

/* A container has pids of its own: after a crash the old number may be ours or a stranger's, and the server
 * would refuse to start. Nobody else can have these directories: they are mounted by one pod. */
void agent_locks_clear(const struct agent_options *o)
{
    lock_clear(mem_printf("%s/postmaster.pid", o->data));
    lock_clear(mem_printf("%s/.s.PGSQL.%d.lock", o->run, o->port));
}

int agent_configure(const struct agent_options *o, struct err *err)
{
    struct buf settings = {0}, hba = {0}, ident = {0};
    bool tls = o->tls != NULL && has_file(o->tls, "tls.crt");
    int rc = ident_text(&ident, err);
    if (rc == 0 && o->client_certificates && (!tls || !has_file(o->tls, "ca.crt")))
        rc = err_set(err, ERRC_INVALID,
                     "certificates of clients cannot be checked: %s is to have tls.crt, tls.key and ca.crt",
                     o->tls != NULL ? o->tls : "the folder that --tls names");
    if (rc != 0) {
        buf_free(&ident);
        return rc;
    }
    settings_text(&settings, o);
    hba_text(&hba, o, tls);
    rc = write_one(o, "shardherd.conf", &settings, err);
    if (rc == 0)
        rc = write_one(o, "shardherd_hba.conf", &hba, err);
    else
        buf_free(&hba);
    if (rc == 0)
        rc = write_one(o, "shardherd_ident.conf", &ident, err);
    else
        buf_free(&ident);
    if (rc == 0 && tls)
        rc = tls_copy(o, "tls.crt", "shardherd.crt", err);
    if (rc == 0 && tls)
        rc = tls_copy(o, "tls.key", "shardherd.key", err);
    if (rc == 0)
        rc = include_once(o, err);
    return rc;
}

/* ---- what changes ---- */

/* FNV-1a of 64 bits; never 0. http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t sum_add(uint64_t sum, const char *text)
{
    for (; text != NULL && *text != '\0'; text++)
        sum = (sum ^ (unsigned char)*text) * 1099511628211ull;
    return sum;
}

static uint64_t sum_of(const char *folder, const char *const *names)
{
    uint64_t sum = 0;
    for (; *names != NULL; names++) {
        char *path = folder != NULL ? mem_printf("%s/%s", folder, *names) : mem_strdup(*names);
        char *text = agent_file_read(path);
        if (text != NULL)
            sum = sum_add(sum != 0 ? sum : 14695981039346656037ull, text);
        mem_wipe_free(text);
        free(path);
    }
    return sum;
}

static char *beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    return mem_printf("%.*s%s", slash != NULL ? (int)(slash - path) + 1 : 0, path, name);
}

char *agent_next_password(const struct agent_options *o)
{
    return beside(o->password_file, "next-password");
}

static void next_read(const struct agent_options *o, struct agent_inputs *ret)
{
    char *file = agent_next_password(o), *mark_file = beside(o->password_file, "next-password-mark");
    const char *const next[] = {file, NULL};
    char *mark = agent_file_read(mark_file);
    ret->next = sum_of(NULL, next);
    if (ret->next != 0 && mark != NULL)
        (void)snprintf(ret->next_mark, sizeof ret->next_mark, "%.*s", (int)strcspn(mark, "\r\n"), mark);
    mem_wipe_free(mark);
    free(mark_file);
    free(file);
}

void agent_inputs_read(const struct agent_options *o, struct agent_inputs *ret)
{
    const char *const settings[] = {o->settings, NULL}, *const tls[] = {"tls.crt", "tls.key", "ca.crt", NULL};
    const char *const password[] = {o->password_file, NULL};
    memset(ret, 0, sizeof *ret);
    ret->settings = sum_of(NULL, settings);
    ret->tls = o->tls != NULL ? sum_of(o->tls, tls) : 0;
    ret->http_tls = o->http_tls != NULL ? sum_of(o->http_tls, tls) : 0;
    ret->password = sum_of(NULL, password);
    next_read(o, ret);
    ret->password_text = agent_file_read(o->password_file);
    if (ret->password_text != NULL)
        ret->password_text[strcspn(ret->password_text, "\r\n")] = '\0';
}

void agent_inputs_clear(struct agent_inputs *inputs)
{
    mem_wipe_free(inputs->password_text);
    memset(inputs, 0, sizeof *inputs);
}

/* As the server itself would try it; only for a single IPv4 address, which is what runtimes give. */
int agent_port_check(const struct agent_options *o, struct err *err)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->port)};
    int one = 1, rc = 0;
    if (inet_pton(AF_INET, strcmp(o->listen, "*") == 0 ? "0.0.0.0" : o->listen, &at.sin_addr) != 1)
        return 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot see whether port %d is free", o->port);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (const struct sockaddr *)&at, sizeof at) != 0 && errno == EADDRINUSE)
        rc = err_set(err, ERRC_CONFLICT,
                     "another program has port %d of %s: PostgreSQL starts as soon as it is free", o->port,
                     o->listen);
    (void)close(fd);
    return rc;
}
