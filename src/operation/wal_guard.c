#include "operation/wal_guard.h"

#include <stdio.h>
#include <string.h>

#define MIB (1024.0 * 1024)

/* The slot fell behind max_slot_wal_keep_size: the next checkpoint takes its WAL, and a copy without the
 * changes that followed is worth nothing. */
static int judge_status(const struct wal_guard_facts *f, struct err *err)
{
    if (strcmp(f->wal_status, "lost") != 0 && strcmp(f->wal_status, "unreserved") != 0)
        return 0;
    return err_set(err, ERRC_LIMIT,
                   "slot %s on %s %s the WAL that the target still needs (wal_status %s): "
                   "max_slot_wal_keep_size of %s is too small for this move; raise it, or move when fewer "
                   "writes come",
                   f->slot, f->source, strcmp(f->wal_status, "lost") == 0 ? "has lost" : "is losing",
                   f->wal_status, f->source);
}

static int judge_free(const char *whose, const char *shard, uint64_t free, uint64_t needed, uint64_t least,
                      const char *what, struct err *err)
{
    if (free == WAL_GUARD_UNKNOWN || free >= needed + least)
        return 0;
    return err_set(err, ERRC_LIMIT,
                   "the disk of %s of %s has %.0f MiB free, %s%.0f MiB are to stay free "
                   "(moves.min_free_disk): free some space or choose another disk, then move again",
                   whose, shard, (double)free / MIB, what, (double)least / MIB);
}

int wal_guard_judge(const struct wal_guard_limits *limits, const struct wal_guard_facts *f, struct err *err)
{
    if (judge_status(f, err) != 0)
        return (int)err->code;
    if (limits->max_retained > 0 && f->retained >= limits->max_retained)
        return err_set(err, ERRC_LIMIT,
                       "slot %s keeps %.0f MiB of WAL on %s, bound %.0f MiB (moves.max_retained_wal): the "
                       "target does not follow fast enough; look at the load of %s and what blocks its apply "
                       "worker, or raise the bound if the disk has room",
                       f->slot, (double)f->retained / MIB, f->source, (double)limits->max_retained / MIB,
                       f->target);
    if (limits->min_free == 0)
        return 0;
    if (f->wal_status[0] != '\0' &&
        judge_free("the WAL", f->source, f->source_free, 0, limits->min_free, "", err) != 0)
        return (int)err->code;
    char come[64];
    snprintf(come, sizeof come, "%.0f MiB are still to come and ", (double)f->to_come / MIB);
    return judge_free("the data", f->target, f->target_free, f->to_come, limits->min_free,
                      f->to_come > 0 ? come : "", err);
}
