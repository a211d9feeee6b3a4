#include "operation/standby_lag.h"

void standby_lag_init(struct standby_lag *l)
{
    l->count = 0;
}

void standby_lag_mark(struct standby_lag *l, uint64_t now_ns, uint64_t lsn)
{
    if (l->count > 0 && l->marks[l->count - 1].lsn > lsn)
        l->count = 0; /* another server now: the old marks judge nobody */
    if (l->count > 0 && l->marks[l->count - 1].lsn == lsn)
        return; /* nothing was written since */
    if (l->count == STANDBY_LAG_MARKS) {
        l->count /= 2;
        for (unsigned i = 0; i < l->count; i++)
            l->marks[i] = l->marks[2 * i];
    }
    l->marks[l->count].at_ns = now_ns;
    l->marks[l->count++].lsn = lsn;
}

uint64_t standby_lag_of(const struct standby_lag *l, uint64_t now_ns, uint64_t replayed_lsn)
{
    for (unsigned i = 0; i < l->count; i++)
        if (l->marks[i].lsn > replayed_lsn)
            return now_ns - l->marks[i].at_ns;
    return 0;
}
