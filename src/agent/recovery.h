/* recovery: where the startup process of a server that lets nobody in yet is, as its title in /proc says. */
#ifndef AGENT_RECOVERY_H
#define AGENT_RECOVERY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The start of the segment that it opened last. False = it has opened none, or is not to be seen. */
bool recovery_segment(pid_t postmaster, const char *data, uint64_t *ret);

/* The same of a title, "postgres: a: startup recovering 000000010000000000000003". */
bool recovery_segment_of(const char *title, uint64_t segment_size, uint64_t *ret);

#endif
