#include "base/sm.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sm_init(struct sm *sm, const struct sm_state *table, int count, int first, sm_moved_cb moved, void *data)
{
    assert(count > 0 && count <= 64 && first >= 0 && first < count);
    *sm = (struct sm){table, count, first, moved, data};
}

bool sm_may(const struct sm *sm, int to)
{
    return to >= 0 && to < sm->count && (sm->table[sm->now].next & SM_NEXT(to)) != 0;
}

void sm_move(struct sm *sm, int to)
{
    if (!sm_may(sm, to)) {
        fprintf(stderr, "state machine: no edge from %s to %s\n", sm->table[sm->now].name,
                to >= 0 && to < sm->count ? sm->table[to].name : "(out of range)");
        abort();
    }
    int from = sm->now;
    sm->now = to;
    if (sm->moved != NULL)
        sm->moved(sm, from, sm->data);
}

int sm_now(const struct sm *sm)
{
    return sm->now;
}

const char *sm_name(const struct sm *sm)
{
    return sm->table[sm->now].name;
}

int sm_find(const struct sm_state *table, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0)
            return i;
    return -1;
}

void sm_fini(const struct sm *sm)
{
    if (!sm->table[sm->now].final) {
        fprintf(stderr, "state machine: ended in state %s\n", sm_name(sm));
        abort();
    }
}
