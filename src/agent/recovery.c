#include "agent/recovery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/agent_files.h"
#include "base/mem.h"

#define NAME_LENGTH 24 /* of a segment: timeline, log, segment */

/* The segment's name in a title; NULL = it is no startup process, or has none. */
static const char *name_in(const char *title)
{
    const char *startup = strstr(title, ": startup ");
    const char *name = startup != NULL ? strrchr(startup, ' ') + 1 : "";
    return strspn(name, "0123456789ABCDEF") == NAME_LENGTH && name[NAME_LENGTH] == '\0' ? name : NULL;
}

bool recovery_segment_of(const char *title, uint64_t segment_size, uint64_t *ret)
{
    const char *name = name_in(title);
    char log[9] = "", segment[9] = "";
    if (name == NULL)
        return false;
    memcpy(log, name + 8, 8);
    memcpy(segment, name + 16, 8);
    *ret = (strtoull(log, NULL, 16) << 32) + strtoull(segment, NULL, 16) * segment_size;
    return true;
}

static bool segment_of(const char *pid, const char *data, uint64_t *ret)
{
    char path[64], title[512];
    struct stat st;
    (void)snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
    /* it has no NUL within what we look for */
    const char *name = agent_text_read(path, title, sizeof title) ? name_in(title) : NULL;
    if (name == NULL)
        return false;
    char *file = mem_printf("%s/pg_wal/%s", data, name);
    bool is_there = stat(file, &st) == 0;
    free(file);
    return is_there && recovery_segment_of(title, (uint64_t)st.st_size, ret);
}

bool recovery_segment(pid_t postmaster, const char *data, uint64_t *ret)
{
    char path[64], children[4096], *rest = NULL;
    (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)postmaster, (int)postmaster);
    if (postmaster <= 0 || !agent_text_read(path, children, sizeof children))
        return false;
    for (char *pid = strtok_r(children, " ", &rest); pid != NULL; pid = strtok_r(NULL, " ", &rest))
        if (segment_of(pid, data, ret))
            return true;
    return false;
}
