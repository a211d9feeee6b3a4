/*
 * wal_guard: is a move about to fill a disk? No I/O.
 *
 * From the moment a move has its slot, the source keeps all WAL that the target has not confirmed. A target
 * that does not follow makes it grow until the disk is full and the source stops, and with it the
 * application. Before that the move goes back.
 */
#ifndef OPERATION_WAL_GUARD_H
#define OPERATION_WAL_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define WAL_GUARD_UNKNOWN UINT64_MAX

struct wal_guard_limits {
    uint64_t max_retained; /* bytes of WAL that the slot keeps; 0 = no bound */
    uint64_t min_free;     /* bytes that stay free on both disks; 0 = no bound */
};

struct wal_guard_facts {
    const char *source, *target; /* shards */
    const char *slot;
    const char *wal_status;            /* of pg_replication_slots; "" = there is no slot (yet) */
    uint64_t retained;                 /* bytes of WAL that the slot keeps */
    uint64_t source_free, target_free; /* bytes; of the source's WAL, of the target's data directory */
    uint64_t to_come;                  /* bytes of rows that are still to be copied */
};

/*
 * ERRC_LIMIT when the move must go back: names slot or disk, bytes, bound and remedy. A disk that is not
 * known (WAL_GUARD_UNKNOWN) is not judged.
 */
int wal_guard_judge(const struct wal_guard_limits *limits, const struct wal_guard_facts *facts,
                    struct err *err);

#endif
