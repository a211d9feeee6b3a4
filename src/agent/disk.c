#include "agent/disk.h"

#include <sys/statvfs.h>

#define MIB (1024ull * 1024)
#define GIB (1024 * MIB)

const char *disk_state_name(enum disk_state state)
{
    static const char *const names[] = {"enough", "low", "full"};
    return names[state];
}

struct disk_space disk_look(const char *path)
{
    struct disk_space space = {0};
    struct statvfs fs;
    if (statvfs(path, &fs) == 0) {
        space.free = (uint64_t)fs.f_bavail * fs.f_frsize;
        space.size = (uint64_t)fs.f_blocks * fs.f_frsize;
    }
    return space;
}

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
    return value < least ? least : value > most ? most : value;
}

uint64_t disk_least(uint64_t size)
{
    return clamp(size / 50, 48 * MIB, GIB);
}

enum disk_state disk_judge(const struct disk_space *space, enum disk_state before)
{
    uint64_t least = disk_least(space->size), low = clamp(space->size / 10, 2 * least, 5 * GIB);
    if (space->size == 0)
        return DISK_ENOUGH;
    if (space->free < (before == DISK_FULL ? 2 * least : least))
        return DISK_FULL;
    return space->free < low ? DISK_LOW : DISK_ENOUGH;
}
