/*
 * pg_server: a throw-away PostgreSQL server for unit tests. Blocking calls; needs no libpq.
 *
 *     struct pg_server s;
 *     if (!pg_server_start(&s, NULL, "max_connections = 20")) skip();
 *     ... connect to 127.0.0.1, s.port, user "postgres", password s.password (SCRAM) ...
 *     pg_server_stop(&s);
 *
 * The cluster lives in a fresh directory below /tmp, owned by the user postgres when the test runs as root,
 * and is removed by pg_server_stop(). fsync is off, wal_level is logical. It ends with the test process.
 * Roles: "postgres" (superuser, SCRAM with s.password over TCP; trust over the Unix socket in s.dir).
 */
#ifndef SUPPORT_PG_SERVER_H
#define SUPPORT_PG_SERVER_H

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct pg_server {
    char bin[512]; /* folder of the programs */
    char dir[64];  /* holds data/, the log and the Unix socket */
    int port;
    int major; /* 15, 16, 18 */
    char password[32];
    pid_t pid; /* of the postmaster, 0 while it does not run */
    uid_t uid; /* 0 = as ourselves */
    gid_t gid;
};

static inline void pg_server_wait_ms(int ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static inline bool pg_server_has(const char *bin, const char *program)
{
    char path[600];
    int length = snprintf(path, sizeof path, "%s/%s", bin, program);
    return length < (int)sizeof path && access(path, X_OK) == 0;
}

/* $SHARDHERD_PG_BIN, else the newest below /usr/lib/postgresql; false if there is none. */
static inline bool pg_server_find(char *bin, size_t size)
{
    const char *given = getenv("SHARDHERD_PG_BIN");
    if (given != NULL && given[0] != '\0') {
        snprintf(bin, size, "%s", given);
        return pg_server_has(bin, "postgres");
    }
    for (int major = 30; major >= 12; major--) {
        snprintf(bin, size, "/usr/lib/postgresql/%d/bin", major);
        if (pg_server_has(bin, "postgres"))
            return true;
    }
    return false;
}

/*
 * Folders of the programs of every version to test with: the one of pg_server_find(), then for 15 to 19
 * $SHARDHERD_PG_BIN_<version>, /usr/lib/postgresql/<version>/bin, or build/pg/<version>/bin of the tree that
 * this test was built in. Returns how many; the first is always that of pg_server_find().
 */
static inline int pg_server_all(char bins[][512], int max)
{
    char here[300] = "", candidates[3][512];
    ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
    for (int up = 0; up < 3 && length > 0; up++) { /* the file, tests/, the build folder */
        char *slash = strrchr(here, '/');
        if (slash != NULL)
            *slash = '\0';
    }
    int n = max > 0 && pg_server_find(bins[0], 512) ? 1 : 0;
    for (int version = 15; version <= 19 && n < max; version++) {
        char name[40];
        snprintf(name, sizeof name, "SHARDHERD_PG_BIN_%d", version);
        const char *given = getenv(name);
        snprintf(candidates[0], sizeof candidates[0], "%s", given != NULL ? given : "");
        snprintf(candidates[1], sizeof candidates[1], "/usr/lib/postgresql/%d/bin", version);
        snprintf(candidates[2], sizeof candidates[2], "%s/pg/%d/bin", here, version);
        int i = 0;
        while (i < 3 && (candidates[i][0] == '\0' || !pg_server_has(candidates[i], "postgres")))
            i++;
        /* build/pg may be a link to where the servers' user can get, from where he cannot */
        char *real = i < 3 ? realpath(candidates[i], NULL) : NULL;
        if (real != NULL && strcmp(candidates[i], bins[0]) != 0)
            snprintf(bins[n++], sizeof bins[0], "%s", real);
        free(real);
    }
    return n;
}

static inline int pg_server_free_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof a;
    int port = -1;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
        getsockname(fd, (struct sockaddr *)&a, &length) == 0)
        port = ntohs(a.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

/* Starts a program as the server's user, output to dir/log; the child dies with us. */
static inline pid_t pg_server_spawn(const struct pg_server *s, const char *const *argv)
{
    char log[128];
    snprintf(log, sizeof log, "%s/log", s->dir);
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    if (s->uid != 0 && (setgroups(0, NULL) != 0 || setgid(s->gid) != 0 || setuid(s->uid) != 0))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGQUIT);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int null = open("/dev/null", O_RDONLY);
    if (fd < 0 || null < 0 || chdir(s->dir) != 0)
        _exit(126);
    dup2(null, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    for (int i = 3; i < 1024; i++)
        close(i);
    unsetenv("PGDATA");
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

/* The exit code, or -1. */
static inline int pg_server_run(const struct pg_server *s, const char *const *argv)
{
    int status;
    pid_t pid = pg_server_spawn(s, argv);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static inline bool pg_server_append(const struct pg_server *s, const char *file, const char *text)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", s->dir, file);
    FILE *f = fopen(path, "a");
    if (f == NULL)
        return false;
    fputs(text, f);
    return fclose(f) == 0;
}

static inline void pg_server_print_log(const struct pg_server *s)
{
    char path[128], line[512];
    snprintf(path, sizeof path, "%s/log", s->dir);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        fprintf(stderr, "    %s", line);
    if (f != NULL)
        fclose(f);
}

/* True once postmaster.pid says "ready". */
static inline bool pg_server_ready(const struct pg_server *s)
{
    char path[128], line[256];
    snprintf(path, sizeof path, "%s/data/postmaster.pid", s->dir);
    FILE *f = fopen(path, "r");
    bool ready = false;
    for (int i = 1; f != NULL && fgets(line, sizeof line, f) != NULL; i++)
        if (i == 8)
            ready = strncmp(line, "ready", 5) == 0;
    if (f != NULL)
        fclose(f);
    return ready;
}

/* One attempt; false as soon as the postmaster has ended again. */
static inline bool pg_server_try_boot(struct pg_server *s)
{
    char program[600], data[80], pidfile[100];
    snprintf(program, sizeof program, "%s/postgres", s->bin);
    snprintf(data, sizeof data, "%s/data", s->dir);
    snprintf(pidfile, sizeof pidfile, "%s/data/postmaster.pid", s->dir);
    unlink(pidfile); /* of one that was killed: it says "ready" */
    const char *const argv[] = {program, "-D", data, NULL};
    s->pid = pg_server_spawn(s, argv);
    for (int i = 0; i < 3000 && s->pid > 0; i++) {
        if (pg_server_ready(s))
            return true;
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
            break;
        pg_server_wait_ms(10);
    }
    s->pid = 0;
    return false;
}

/* Starts (again) the postmaster of an existing cluster and waits until it takes connections. */
static inline bool pg_server_boot(struct pg_server *s)
{
    for (int attempt = 0; attempt < 5; attempt++) {
        if (pg_server_try_boot(s))
            return true;
        pg_server_wait_ms(200); /* killed backends may still hold the shared memory */
    }
    fprintf(stderr, "PostgreSQL did not start:\n");
    pg_server_print_log(s);
    return false;
}

/* Runs SQL with psql over the Unix socket; 0 if every statement succeeded. */
static inline int pg_server_sql(const struct pg_server *s, const char *dbname, const char *sql)
{
    char program[600], port[16];
    snprintf(program, sizeof program, "%s/psql", s->bin);
    snprintf(port, sizeof port, "%d", s->port);
    const char *const argv[] = {program, "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", s->dir,
                                "-p",    port,    "-U", "postgres",        "-d", dbname,
                                "-c",    sql,     NULL};
    return pg_server_run(s, argv);
}

static inline bool pg_server_initdb(struct pg_server *s)
{
    char program[600], data[80], pwfile[80], version[80], line[16] = "";
    snprintf(program, sizeof program, "%s/initdb", s->bin);
    snprintf(data, sizeof data, "%s/data", s->dir);
    snprintf(pwfile, sizeof pwfile, "%s/password", s->dir);
    if (!pg_server_append(s, "password", s->password) || chmod(pwfile, 0644) != 0)
        return false;
    const char *const argv[] = {program,
                                "-D",
                                data,
                                "-N",
                                "-U",
                                "postgres",
                                "-E",
                                "UTF8",
                                "--locale=C",
                                "--pwfile",
                                pwfile,
                                "--auth-local=trust",
                                "--auth-host=scram-sha-256",
                                NULL};
    if (pg_server_run(s, argv) != 0)
        return false;
    snprintf(version, sizeof version, "%s/data/PG_VERSION", s->dir);
    FILE *f = fopen(version, "r");
    if (f != NULL) {
        if (fgets(line, sizeof line, f) != NULL)
            s->major = atoi(line);
        fclose(f);
    }
    return s->major > 0;
}

static inline int pg_server_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void pg_server_remove(struct pg_server *s)
{
    if (s->dir[0] != '\0')
        nftw(s->dir, pg_server_unlink, 32, FTW_DEPTH | FTW_PHYS);
    s->dir[0] = '\0';
}

static inline bool pg_server_make(struct pg_server *s, const char *bin)
{
    memset(s, 0, sizeof *s);
    if (bin != NULL ? snprintf(s->bin, sizeof s->bin, "%s", bin) >= (int)sizeof s->bin
                    : !pg_server_find(s->bin, sizeof s->bin))
        return false;
    snprintf(s->password, sizeof s->password, "pw-of-the-tests");
    snprintf(s->dir, sizeof s->dir, "/tmp/shardherd-test-pg-XXXXXX");
    if (mkdtemp(s->dir) == NULL)
        return false;
    const struct passwd *user = geteuid() == 0 ? getpwnam("postgres") : NULL;
    if (geteuid() == 0 && user == NULL)
        return false;
    if (user != NULL) {
        s->uid = user->pw_uid;
        s->gid = user->pw_gid;
    }
    return chmod(s->dir, 0755) == 0 && (user == NULL || chown(s->dir, s->uid, s->gid) == 0);
}

/* Makes and starts a cluster. bin and extra (lines for postgresql.conf) may be NULL. */
static inline bool pg_server_start(struct pg_server *s, const char *bin, const char *extra)
{
    if (!pg_server_make(s, bin) || !pg_server_initdb(s)) {
        fprintf(stderr, "cannot make a PostgreSQL cluster (programs in \"%s\")\n", s->bin);
        pg_server_print_log(s);
        pg_server_remove(s);
        return false;
    }
    char conf[1024];
    s->port = pg_server_free_port();
    snprintf(conf, sizeof conf,
             "\nlisten_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\n"
             "fsync = off\nfull_page_writes = off\nwal_level = logical\nmax_connections = 300\n"
             "max_wal_senders = 20\nmax_replication_slots = 20\nshared_buffers = 64MB\n"
             "autovacuum = off\nlogging_collector = off\nlog_checkpoints = off\n",
             s->port, s->dir);
    if (!pg_server_append(s, "data/postgresql.conf", conf) ||
        (extra != NULL && !pg_server_append(s, "data/postgresql.conf", extra)) ||
        !pg_server_append(s, "data/postgresql.conf", "\n") || !pg_server_boot(s)) {
        pg_server_remove(s);
        return false;
    }
    return true;
}

/* Sends a signal to the postmaster and to each of its processes (SIGSTOP, SIGCONT, SIGKILL). */
static inline void pg_server_signal_all(const struct pg_server *s, int number)
{
    if (s->pid <= 0)
        return;
    if (number != SIGCONT)
        kill(s->pid, SIGSTOP); /* first, so that it starts no more, and its children stay its children */
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        char path[300], text[512] = "";
        int pid = atoi(entry->d_name), parent = 0;
        if (pid <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        FILE *f = fopen(path, "r");
        if (f == NULL)
            continue;
        const char *end = fgets(text, sizeof text, f) != NULL ? strrchr(text, ')') : NULL;
        if (end != NULL && sscanf(end + 1, " %*c %d", &parent) == 1 && parent == s->pid)
            kill(pid, number);
        fclose(f);
    }
    if (proc != NULL)
        closedir(proc);
    kill(s->pid, number);
}

/* Ends the postmaster with a signal (SIGQUIT: at once, SIGINT: orderly) and waits; the cluster stays. */
static inline void pg_server_halt(struct pg_server *s, int number)
{
    if (s->pid <= 0)
        return;
    pg_server_signal_all(s, SIGCONT);
    kill(s->pid, number);
    for (int i = 0; i < 2000; i++) {
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid) {
            s->pid = 0;
            return;
        }
        pg_server_wait_ms(10);
    }
    pg_server_signal_all(s, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

/* kill -9 of everything at once. */
static inline void pg_server_kill(struct pg_server *s)
{
    if (s->pid <= 0)
        return;
    pg_server_signal_all(s, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

/* Stops and removes; legal on a server that never started. */
static inline void pg_server_stop(struct pg_server *s)
{
    pg_server_halt(s, SIGQUIT);
    pg_server_remove(s);
}

/* A test's server, not started: as setup and teardown of cmocka. */
static inline int pg_server_setup(void **state)
{
    *state = calloc(1, sizeof(struct pg_server));
    return *state != NULL ? 0 : -1;
}

static inline int pg_server_teardown(void **state)
{
    pg_server_stop(*state);
    free(*state);
    return 0;
}

#endif
