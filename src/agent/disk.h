/*
 * disk: how full a member's volumes are, and what follows. Pure, but for disk_look().
 *
 * A volume that runs full ends PostgreSQL (PANIC, where it is that of the log), and starting it anew needs
 * room again. So writes are refused while there is still enough room for it to go on:
 *
 *   ENOUGH
 *   LOW   less than a tenth is free, or 5 GiB of a large one: it is said
 *   FULL  less than a fiftieth, of at least 48 MiB (three segments of the log) and at most 1 GiB: no writes,
 *         until twice as much is free
 */
#ifndef AGENT_DISK_H
#define AGENT_DISK_H

#include <stdint.h>

enum disk_state { DISK_ENOUGH, DISK_LOW, DISK_FULL };
const char *disk_state_name(enum disk_state state); /* "enough" */

struct disk_space {
    uint64_t free, size; /* bytes; size 0 = not known, which is enough */
};

/* Worker. Of the file system of this path. */
struct disk_space disk_look(const char *path);

/* Below that a volume of this size is DISK_FULL. */
uint64_t disk_least(uint64_t size);
enum disk_state disk_judge(const struct disk_space *space, enum disk_state before);

#endif
