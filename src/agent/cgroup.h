/*
 * cgroup: CPU and memory of the container we are in, from cgroup v2. Small reads of a kernel file system:
 * they do not block. https://docs.kernel.org/admin-guide/cgroup-v2.html
 */
#ifndef AGENT_CGROUP_H
#define AGENT_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

struct cgroup_figures {
    uint64_t cpu_us;       /* used since the container began */
    uint64_t throttled_us; /* of that, waited for its quota */
    double cpu_limit;      /* processors; 0 = no limit */
    uint64_t memory_bytes; /* without the page cache that can be dropped */
    uint64_t memory_limit; /* bytes, 0 = no limit */
    uint64_t oom_kills;
};

/* root: "/sys/fs/cgroup" (our own group, as containers see it). False when there is no cgroup v2. */
bool cgroup_read(const char *root, struct cgroup_figures *ret);

#endif
