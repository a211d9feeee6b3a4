#include "load/load_pace.h"

#include <assert.h>

void load_pace_init(struct load_pace *pace, double rate, uint64_t now_ns)
{
    *pace = (struct load_pace){.rate = rate, .base_ns = now_ns};
}

uint64_t load_pace_next(const struct load_pace *pace)
{
    assert(pace->rate > 0);
    return pace->base_ns + (uint64_t)((double)pace->issued * 1e9 / pace->rate);
}

void load_pace_change(struct load_pace *pace, double rate, uint64_t now_ns)
{
    uint64_t base = now_ns;
    if (pace->rate > 0 && load_pace_next(pace) < now_ns)
        base = load_pace_next(pace);
    load_pace_init(pace, rate, base);
}

bool load_pace_take(struct load_pace *pace, uint64_t now_ns, uint64_t *ret_intended_ns)
{
    uint64_t intended = now_ns;
    if (pace->rate > 0) {
        intended = load_pace_next(pace);
        if (intended > now_ns)
            return false;
    }
    pace->issued++;
    *ret_intended_ns = intended;
    return true;
}
