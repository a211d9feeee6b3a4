/*
 * Agents of members that run, found by what their command line says: it names the data directory, and a
 * process keeps it for life, also when the manager that started it is gone.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/local.h"

#define LINE_MAX_BYTES 16384

struct local_agent_seen {
    char *data;
    int pid, parent;
    uid_t uid;
    bool watch; /* its watchdog: a fork of it, with a name of its own */
};

/* The command line with a NUL behind each argument, and another at the end; 0 = none, as of a zombie. */
static size_t line_read(int pid, char *line)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, LINE_MAX_BYTES - 1) : -1;
    if (fd >= 0)
        close(fd);
    line[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

/* "PROGRAM agent ... --member NAME ... --data DIR ...": DIR, else NULL. */
static const char *data_of(const char *line, size_t length)
{
    const char *data = NULL, *before = "";
    bool member = false;
    int index = 0;
    for (size_t at = 0; at < length; at += strlen(line + at) + 1, index++) {
        if (index == 1 && strcmp(line + at, "agent") != 0)
            return NULL;
        if (strcmp(before, "--data") == 0)
            data = line + at;
        member = member || strcmp(before, "--member") == 0;
        before = line + at;
    }
    return member ? data : NULL;
}

/* The number behind a word of /proc/PID/status, -1 if it is not there. */
static long status_number(const char *text, const char *word)
{
    const char *at = strstr(text, word);
    return at != NULL ? strtol(at + strlen(word), NULL, 10) : -1;
}

static void agent_see(struct local_agents *agents, int pid, const char *data)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    char *text = local_file_read(path, 4096, NULL);
    if (text == NULL)
        return; /* it has just ended */
    agents->all = mem_resize(agents->all, (size_t)agents->count + 1, sizeof *agents->all);
    agents->all[agents->count++] =
        (struct local_agent_seen){.data = mem_strdup(data),
                                  .pid = pid,
                                  .parent = (int)status_number(text, "\nPPid:"),
                                  .uid = (uid_t)status_number(text, "\nUid:"),
                                  .watch = text_starts_with(text, "Name:\tshardherd-watch\n")};
    free(text);
}

void local_agents_scan(struct local_agents *ret)
{
    DIR *proc = opendir("/proc");
    char *line = mem_alloc(LINE_MAX_BYTES);
    const struct dirent *entry;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        int pid = isdigit((unsigned char)entry->d_name[0]) ? (int)strtol(entry->d_name, NULL, 10) : 0;
        const char *data = pid != 0 ? data_of(line, line_read(pid, line)) : NULL;
        if (data != NULL)
            agent_see(ret, pid, data);
    }
    if (proc != NULL)
        closedir(proc);
    free(line);
}

void local_agents_again(struct local_agents *agents)
{
    struct local_agents now = {0};
    char *line = agents->count > 0 ? mem_alloc(LINE_MAX_BYTES) : NULL;
    for (int i = 0; i < agents->count; i++) {
        const char *data = data_of(line, line_read(agents->all[i].pid, line));
        if (data != NULL)
            agent_see(&now, agents->all[i].pid, data);
    }
    free(line);
    local_agents_clear(agents);
    *agents = now;
}

void local_agents_clear(struct local_agents *agents)
{
    for (int i = 0; i < agents->count; i++)
        free(agents->all[i].data);
    free(agents->all);
    *agents = (struct local_agents){0};
}

/* Somebody else's process with such a command line is not believed: who owns the directory runs the agent. */
static bool is_of(const struct local_agent_seen *seen, const char *data, uid_t owner)
{
    return seen->uid == owner && strcmp(seen->data, data) == 0;
}

static bool is_agent(const struct local_agents *agents, int pid)
{
    for (int i = 0; i < agents->count; i++)
        if (agents->all[i].pid == pid && !agents->all[i].watch)
            return true;
    return false;
}

/* Of several agents any, with its own watchdog or one that has lost its agent. */
void local_agents_find(const struct local_agents *agents, const char *directory, struct local_record *record)
{
    char *own = local_path(directory, "", record->name, "member");
    char *data = local_data_path(directory, record->name, true);
    struct stat st;
    int count = lstat(own, &st) == 0 ? agents->count : 0;
    record->agent_pid = record->watch_pid = 0;
    for (int i = 0; i < count; i++)
        if (is_of(&agents->all[i], data, st.st_uid) && !agents->all[i].watch)
            record->agent_pid = agents->all[i].pid;
    for (int i = 0; i < count; i++) {
        const struct local_agent_seen *seen = &agents->all[i];
        if (is_of(seen, data, st.st_uid) && seen->watch &&
            (seen->parent == record->agent_pid || !is_agent(agents, seen->parent)))
            record->watch_pid = seen->pid;
    }
    free(own);
    free(data);
}

void local_agent_look(const char *directory, struct local_record *record)
{
    struct local_agents agents = {0};
    local_agents_scan(&agents);
    local_agents_find(&agents, directory, record);
    local_agents_clear(&agents);
}

int local_agent_strays(const char *directory, const char *name, int number)
{
    struct local_record record = {.name = mem_strdup(name)};
    local_agent_look(directory, &record);
    if (record.agent_pid != 0 && number != 0)
        (void)kill(record.agent_pid, number);
    int count = (record.agent_pid != 0) + (record.watch_pid != 0);
    local_record_clear(&record);
    return count;
}

/*
 * A process that ends gives its memory back first, and its command line with it, then its files and ports,
 * then its working directory: until that is gone it holds what a successor needs. A zombie has neither.
 */
static bool is_ending(int pid, const char *data)
{
    char path[64], target[PATH_MAX]; /* it works in the folder of its member */
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    ssize_t n = readlink(path, target, sizeof target - 1);
    return n > 0 && (size_t)n < strlen(data) && memcmp(target, data, (size_t)n) == 0 &&
           strcmp(data + n, "/member/data") == 0;
}

bool local_agent_alive(int pid, const char *data)
{
    char *line = mem_alloc(LINE_MAX_BYTES);
    size_t length = line_read(pid, line);
    const char *found = data_of(line, length);
    bool alive = length > 0 ? found != NULL && strcmp(found, data) == 0 : is_ending(pid, data);
    free(line);
    return alive;
}
