#include "runtime/local.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* ---- users ---- */

static bool user_lookup(const char *name, struct local_user *ret)
{
    struct passwd entry;
    struct passwd *found = NULL;
    char space[16384];
    if (getpwnam_r(name, &entry, space, sizeof space, &found) != 0 || found == NULL)
        return false;
    *ret = (struct local_user){.uid = entry.pw_uid, .gid = entry.pw_gid};
    snprintf(ret->name, sizeof ret->name, "%s", name);
    return true;
}

int local_user_find(const char *name, struct local_user *ret, struct err *err)
{
    if (geteuid() != 0) {
        *ret = (struct local_user){.uid = 0, .gid = 0, .name = "this user"};
        return 0;
    }
    if (name == NULL && (user_lookup("postgres", ret) || user_lookup("nobody", ret)))
        return 0;
    if (name == NULL || !user_lookup(name, ret))
        return err_set(
            err, ERRC_NOT_FOUND,
            "there is no user \"%s\" to run PostgreSQL as (it refuses to run as root): create it or name "
            "another",
            name != NULL ? name : "postgres");
    if (ret->uid == 0)
        return err_set(err, ERRC_INVALID,
                       "PostgreSQL refuses to run as root: name an unprivileged user, not \"%s\"", name);
    return 0;
}

static bool may_pass(const struct local_user *user, const struct stat *st)
{
    if (user->uid == st->st_uid)
        return (st->st_mode & S_IXUSR) != 0;
    if (user->gid == st->st_gid)
        return (st->st_mode & S_IXGRP) != 0;
    return (st->st_mode & S_IXOTH) != 0;
}

int local_user_reaches(const struct local_user *user, const char *path, struct err *err)
{
    int rc = 0;
    if (user->uid == 0)
        return 0;
    char *part = mem_strdup(path);
    for (char *slash = part; rc == 0 && slash != NULL; slash = strchr(slash + 1, '/')) {
        char kept = slash[1];
        slash[1] = '\0'; /* "/", "/var/", "/var/lib/", ... */
        struct stat st;
        if (stat(part, &st) != 0)
            rc = err_set_errno(err, errno, "cannot see %s", part);
        else if (!may_pass(user, &st))
            rc = err_set(
                err, ERRC_REFUSED,
                "%s cannot be entered by user \"%s\", who runs the servers: choose another directory than "
                "%s, or allow it (chmod o+x %s)",
                part, user->name, path, part);
        slash[1] = kept;
    }
    free(part);
    return rc;
}

/* ---- processes ---- */

static bool link_is(const char *link, const char *path)
{
    char target[PATH_MAX];
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0)
        return false;
    target[n] = '\0';
    return strcmp(target, path) == 0;
}

bool local_pid_alive(int pid, const char *data)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/%d/cwd", pid);
    return link_is(link, data); /* that of a zombie cannot be read */
}

/* Does an argument of the process equal `data`? */
static bool has_argument(int pid, const char *data)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    char *text = mem_zalloc(8192 + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, 8192);
    if (fd >= 0)
        close(fd);
    bool found = false;
    for (ssize_t at = 0; !found && at < length; at += (ssize_t)strlen(text + at) + 1)
        found = strcmp(text + at, data) == 0;
    free(text);
    return found;
}

/* A shell or an editor that someone has in there is not ours to end. */
static bool is_server_program(int pid)
{
    static const char *const programs[] = {"postgres", "postmaster", "initdb", "pg_basebackup", "pg_rewind"};
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    char *name = local_file_read(path, 64, NULL);
    bool found = false;
    if (name != NULL)
        name[strcspn(name, "\n")] = '\0';
    for (size_t i = 0; name != NULL && !found && i < sizeof programs / sizeof programs[0]; i++)
        found = strcmp(name, programs[i]) == 0;
    free(name);
    return found;
}

static int pid_of(const struct dirent *entry)
{
    if (!isdigit((unsigned char)entry->d_name[0]))
        return 0;
    return (int)strtol(entry->d_name, NULL, 10);
}

int local_orphans(const char *data, int number)
{
    DIR *proc = opendir("/proc");
    int count = 0;
    struct dirent *entry;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        int pid = pid_of(entry);
        if (pid == 0 || (!local_pid_alive(pid, data) && !has_argument(pid, data)) || !is_server_program(pid))
            continue;
        count++;
        if (number != 0)
            (void)kill(pid, number);
    }
    if (proc != NULL)
        closedir(proc);
    return count;
}

/* ---- ports ---- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t address_make(const char *text, int port, union address *ret)
{
    memset(ret, 0, sizeof *ret);
    if (inet_pton(AF_INET, text, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons((uint16_t)port);
        return sizeof ret->v4;
    }
    if (inet_pton(AF_INET6, text, &ret->v6.sin6_addr) == 1) {
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons((uint16_t)port);
        return sizeof ret->v6;
    }
    return 0;
}

int local_port_try(const char *address, int port, struct err *err)
{
    union address a;
    socklen_t length = address_make(address, port, &a);
    if (length == 0)
        return err_set(err, ERRC_INVALID, "\"%s\" is not an address: give numbers, such as 127.0.0.1",
                       address);
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot make a socket");
    int on = 1; /* as PostgreSQL does: connections that still close do not count */
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    int rc = bind(fd, &a.any, length) != 0 ? errno : 0;
    close(fd);
    if (rc == EADDRINUSE)
        return err_set(err, ERRC_CONFLICT, "port %d on %s is taken", port, address);
    return rc != 0 ? err_set_errno(err, rc, "cannot listen on %s port %d", address, port) : 0;
}

/* The inode of the socket that has this local port, listeners first; 0 = none. */
static unsigned long socket_inode(const char *table, int port)
{
    FILE *file = fopen(table, "re");
    unsigned long found = 0;
    char line[512];
    bool listens = false;
    while (file != NULL && !listens && fgets(line, sizeof line, file) != NULL) {
        unsigned local_port = 0;
        unsigned state = 0;
        unsigned long inode = 0;
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %lu", &local_port, &state,
                   &inode) != 3 ||
            (int)local_port != port || inode == 0)
            continue;
        found = inode;
        listens = state == 0x0A;
    }
    if (file != NULL)
        fclose(file);
    return found;
}

static bool process_has_socket(int pid, unsigned long inode)
{
    char wanted[64];
    char path[64];
    snprintf(wanted, sizeof wanted, "socket:[%lu]", inode);
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *fds = opendir(path);
    bool found = false;
    struct dirent *entry;
    while (fds != NULL && !found && (entry = readdir(fds)) != NULL) {
        char link[400];
        snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
        found = link_is(link, wanted);
    }
    if (fds != NULL)
        closedir(fds);
    return found;
}

void local_port_holder(int port, char *ret, size_t size)
{
    snprintf(ret, size, "a process that we may not see (try: ss -ltnp 'sport = :%d')", port);
    unsigned long inode = socket_inode("/proc/net/tcp", port);
    if (inode == 0)
        inode = socket_inode("/proc/net/tcp6", port);
    DIR *proc = inode != 0 ? opendir("/proc") : NULL;
    struct dirent *entry;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        int pid = pid_of(entry);
        if (pid == 0 || !process_has_socket(pid, inode))
            continue;
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/comm", pid);
        char *name = local_file_read(path, 64, NULL);
        if (name != NULL)
            name[strcspn(name, "\n")] = '\0';
        snprintf(ret, size, "process %d (%s)", pid, name != NULL ? name : "?");
        free(name);
        break;
    }
    if (proc != NULL)
        closedir(proc);
}
