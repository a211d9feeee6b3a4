#include "agent/cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_files.h"

static bool text_read(const char *root, const char *name, char *out, size_t size)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    return agent_text_read(path, out, size);
}

/* The number behind "name " at the start of a line, 0 if there is none. */
static uint64_t field(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            return strtoull(line + length + 1, NULL, 10);
    }
    return 0;
}

bool cgroup_read(const char *root, struct cgroup_figures *ret)
{
    char text[8192];
    char *rest;
    memset(ret, 0, sizeof *ret);
    if (!text_read(root, "cpu.stat", text, sizeof text))
        return false;
    ret->cpu_us = field(text, "usage_usec");
    ret->throttled_us = field(text, "throttled_usec");
    if (text_read(root, "cpu.max", text, sizeof text)) {
        double quota = strtod(text, &rest), period = strtod(rest, NULL);
        ret->cpu_limit = quota > 0 && period > 0 ? quota / period : 0; /* "max" reads as 0 */
    }
    if (text_read(root, "memory.current", text, sizeof text))
        ret->memory_bytes = strtoull(text, NULL, 10);
    if (text_read(root, "memory.stat", text, sizeof text)) {
        uint64_t cache = field(text, "inactive_file");
        ret->memory_bytes -= cache < ret->memory_bytes ? cache : ret->memory_bytes;
    }
    if (text_read(root, "memory.max", text, sizeof text))
        ret->memory_limit = strtoull(text, NULL, 10);
    if (text_read(root, "memory.events", text, sizeof text))
        ret->oom_kills = field(text, "oom_kill");
    return true;
}
