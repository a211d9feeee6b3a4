#include "cli/demo_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "runtime/local.h"

#define TAIL_BYTES 65536

/* ---- the directory ---- */

/* As root the servers run as somebody else, who must be able to pass every directory above. */
static bool others_can_pass(const char *path)
{
    char *copy = mem_strdup(path);
    bool pass = true;
    struct stat st;
    for (char *slash = copy + strlen(copy); pass && slash != NULL; slash = strrchr(copy, '/')) {
        *slash = '\0';
        pass = stat(copy[0] != '\0' ? copy : "/", &st) == 0 && (st.st_mode & S_IXOTH) != 0;
    }
    free(copy);
    return pass;
}

static bool is_empty(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    bool empty = dir != NULL;
    while (empty && (entry = readdir(dir)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (dir != NULL)
        closedir(dir);
    return empty;
}

static int take_directory(const char *wanted, char **ret, bool *ret_made, struct err *err)
{
    *ret_made = mkdir(wanted, 0711) == 0;
    if (!*ret_made && errno != EEXIST)
        return err_set_errno(err, errno, "%s", wanted);
    char *path = realpath(wanted, NULL);
    if (path == NULL)
        return err_set_errno(err, errno, "%s", wanted);
    if (!is_empty(path)) {
        err_set(err, ERRC_CONFLICT, "%s is not empty: name a new directory, or an empty one", wanted);
        free(path);
        return ERRC_CONFLICT;
    }
    *ret = path;
    return 0;
}

static int make_temporary(const char *temporary, char **ret, bool *ret_made, struct err *err)
{
    const char *parent = temporary != NULL && temporary[0] == '/' ? temporary : "/var/tmp";
    if (geteuid() == 0 && !others_can_pass(parent))
        parent = "/var/tmp";
    char *path = mem_printf("%s/shardherd-demo-XXXXXX", parent);
    if (mkdtemp(path) == NULL) {
        err_set_errno(err, errno, "%s", path);
        free(path);
        return ERRC_IO;
    }
    *ret_made = true;
    *ret = path;
    return 0;
}

int demo_directory_make(const char *wanted, const char *temporary, char **ret, bool *ret_made,
                        struct err *err)
{
    char *path = NULL;
    int code = wanted != NULL ? take_directory(wanted, &path, ret_made, err)
                              : make_temporary(temporary, &path, ret_made, err);
    if (code != 0)
        return code;
    /* the umask may have taken bits away, and mkdtemp() gives 0700 */
    if (*ret_made && chmod(path, 0711) != 0) {
        err_set_errno(err, errno, "%s", path);
        free(path);
        return ERRC_IO;
    }
    *ret = path;
    return 0;
}

/* ---- servers ---- */

/* The postmaster of an instance, 0 if none runs. */
static pid_t server_pid(const char *instances, const char *name, bool member)
{
    char *data = local_data_path(instances, name, member);
    char *path = mem_printf("%s/postmaster.pid", data);
    FILE *file = fopen(path, "re");
    long pid = 0;
    if (file != NULL && fscanf(file, "%ld", &pid) != 1)
        pid = 0;
    if (file != NULL)
        fclose(file);
    free(data);
    free(path);
    return pid > 1 && kill((pid_t)pid, 0) == 0 ? (pid_t)pid : 0;
}

/* A server alone; that of a member is its agent's to end. */
static int server_signal(const char *instances, const char *name, int number)
{
    pid_t pid = server_pid(instances, name, false);
    if (pid != 0 && number != 0)
        (void)kill(pid, number);
    return pid != 0;
}

/* An agent that is killed takes its server with it. */
static int agent_signal(const char *instances, const char *name, int number)
{
    int to_agent = number == SIGQUIT ? SIGKILL : number == SIGINT ? SIGTERM : number;
    return local_agent_strays(instances, name, to_agent) + (server_pid(instances, name, true) != 0);
}

int demo_member_kill(const char *directory, const char *name)
{
    char *instances = mem_printf("%s/state/instances", directory);
    struct local_record record = {.name = mem_strdup(name)};
    int count = 0;
    local_agent_look(instances, &record);
    const pid_t pids[] = {record.agent_pid, record.watch_pid, server_pid(instances, name, true)};
    for (size_t i = 0; i < sizeof pids / sizeof pids[0]; i++)
        count += pids[i] > 1 && kill(pids[i], SIGKILL) == 0;
    local_record_clear(&record);
    free(instances);
    return count;
}

int demo_servers_signal(const char *directory, int number)
{
    char *instances = mem_printf("%s/state/instances", directory);
    DIR *dir = opendir(instances);
    const struct dirent *entry;
    int count = 0;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            count += server_signal(instances, entry->d_name, number) +
                     agent_signal(instances, entry->d_name, number);
    }
    if (dir != NULL)
        closedir(dir);
    free(instances);
    return count;
}

/* ---- removing ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path) != 0 && errno != ENOENT ? errno : 0;
}

static int remove_tree(const char *path, struct err *err)
{
    int code = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (code == 0 || (code == -1 && errno == ENOENT))
        return 0;
    return err_set_errno(err, code > 0 ? code : errno, "removing %s", path);
}

/* Each entry of `path` of which `leaf` ("" = itself) is to go. */
static int remove_entries(const char *path, const char *leaf, struct err *err)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    int code = 0;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *child = mem_printf("%s/%s%s", path, entry->d_name, leaf);
        int one = remove_tree(child, err);
        code = code == 0 ? one : code;
        free(child);
    }
    if (dir != NULL)
        closedir(dir);
    return code;
}

int demo_directory_clean(const char *directory, bool all, bool itself, struct err *err)
{
    if (!all) {
        char *instances = mem_printf("%s/state/instances", directory);
        int code = remove_entries(instances, "/data", err);
        int members = remove_entries(instances, "/member", err);
        free(instances);
        return code != 0 ? code : members;
    }
    int code = remove_entries(directory, "", err);
    if (code == 0 && itself && rmdir(directory) != 0)
        return err_set_errno(err, errno, "removing %s", directory);
    return code;
}

/* ---- the log ---- */

/* The value of err="..." of a logfmt line, or what follows "shardherd manager: ". */
static void take_cause(const char *line, struct buf *cause)
{
    static const char own[] = "shardherd manager: ";
    const char *at = strstr(line, " err=");
    if (strncmp(line, own, sizeof own - 1) == 0) {
        buf_reset(cause);
        buf_add_text(cause, line + sizeof own - 1);
        return;
    }
    if (strstr(line, "level=error") == NULL || at == NULL)
        return;
    at += 5;
    bool quoted = *at == '"';
    buf_reset(cause);
    for (at += quoted; *at != '\0' && *at != (quoted ? '"' : ' '); at++) {
        if (*at == '\\' && at[1] != '\0')
            at++;
        buf_addc(cause, *at);
    }
}

static char *read_end(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = mem_zalloc(TAIL_BYTES + 1);
    if (file == NULL)
        return text;
    if (fseek(file, -TAIL_BYTES, SEEK_END) != 0)
        rewind(file);
    size_t length = fread(text, 1, TAIL_BYTES, file);
    text[length] = '\0';
    fclose(file);
    return text;
}

void demo_log_tail(const char *path, int lines, struct buf *ret_tail, struct buf *ret_cause)
{
    char *text = read_end(path);
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == '\n')
        text[--length] = '\0';
    const char *start = text + length;
    for (int seen = 0; start > text; start--)
        if (start[-1] == '\n' && ++seen == lines)
            break;
    buf_add_text(ret_tail, start);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL)
        take_cause(line, ret_cause);
    free(text);
}
