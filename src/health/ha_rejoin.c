/* How an instance comes back: by what its history and the primary's have in common. */
#include <string.h>

#include "health/ha_decide.h"

struct common {
    unsigned items; /* timelines that are in both */
    uint64_t fork;
};

static struct common compare(const struct ha_history *a, const struct ha_history *b)
{
    struct common c = {0};
    for (unsigned i = 0; i < a->count && i < b->count; i++) {
        uint64_t term_a = a->items[i].term, term_b = b->items[i].term;
        uint64_t end_a = a->items[i].end, end_b = b->items[i].end;
        if (a->items[i].timeline != b->items[i].timeline || (term_a != 0 && term_b != 0 && term_a != term_b))
            break;
        c.items++;
        c.fork = end_a < end_b ? end_a : end_b;
        if (end_a != end_b)
            break;
    }
    return c;
}

static void verdict(struct ha_rejoin_verdict *ret, enum ha_rejoin how, int rule, struct words *words)
{
    ret->how = how;
    ret->rule = rule;
    words_set(words, "fork", "%X/%08X", (unsigned)(ret->fork >> 32), (unsigned)(ret->fork & 0xffffffff));
    ha_rule_render(rule, words, ret->sentence);
}

/* Why not; NULL = it can be rewound. */
static const char *cannot_rewind(const struct ha_data *own, const struct ha_data *primary, uint64_t fork)
{
    const struct ha_history *a = &own->history, *b = &primary->history;
    if (fork == 0)
        return "their histories have nothing in common";
    if (!own->rewindable)
        return "it left the primary's history and has neither data checksums nor wal_log_hints";
    if (a->items[a->count - 1].timeline == b->items[b->count - 1].timeline)
        return "it is ahead of the primary on the same timeline, which pg_rewind does not see";
    if (own->wal_from > fork)
        return "it does not keep its WAL back to where it left the primary's history";
    if (primary->wal_from > fork)
        return "the primary does not keep its WAL back to where the histories part";
    return NULL;
}

void ha_rejoin(const struct ha_data *own, const struct ha_data *primary, struct ha_rejoin_verdict *ret)
{
    struct words words = {0};
    memset(ret, 0, sizeof *ret);
    words_set(&words, "instance", "%s", own->name);
    words_set(&words, "primary", "%s", primary->name);
    if (!own->there || own->history.count == 0 || primary->history.count == 0) {
        words_set(&words, "why", "it has no data");
        verdict(ret, HA_REJOIN_CLONE, HA_F_CLONE, &words);
        return;
    }
    if (own->system != primary->system) {
        verdict(ret, HA_REJOIN_REFUSE, HA_F_FOREIGN, &words);
        return;
    }
    struct common c = compare(&own->history, &primary->history);
    ret->fork = c.fork;
    const char *why = NULL;
    uint64_t end = own->history.items[own->history.count - 1].end;
    bool is_part = c.items == own->history.count && c.fork == end;
    if (is_part && primary->wal_from <= end) {
        verdict(ret, HA_REJOIN_FOLLOW, HA_F_FOLLOW, &words);
        return;
    }
    why = is_part ? "the primary does not keep the WAL that it needs next"
                  : cannot_rewind(own, primary, c.fork);
    if (why != NULL) {
        words_set(&words, "why", "%s", why);
        verdict(ret, HA_REJOIN_CLONE, HA_F_CLONE, &words);
    } else
        verdict(ret, HA_REJOIN_REWIND, HA_F_REWIND, &words);
}
