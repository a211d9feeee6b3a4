#include "load/load_stats.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static void gap_close(struct load_gap *g, uint64_t now_ns)
{
    uint64_t length = now_ns > g->since_ns ? now_ns - g->since_ns : 0;
    if (length > g->longest_ns) {
        g->longest_ns = length;
        g->longest_at_ns = now_ns;
    }
    if (length > g->recent_ns)
        g->recent_ns = length;
}

void load_gap_begin(struct load_gap *g, uint64_t now_ns)
{
    if (g->waiting++ == 0)
        g->since_ns = now_ns;
}

void load_gap_ack(struct load_gap *g, uint64_t now_ns)
{
    assert(g->waiting > 0);
    gap_close(g, now_ns);
    g->waiting--;
    g->since_ns = now_ns;
}

void load_gap_abandon(struct load_gap *g, uint64_t now_ns)
{
    assert(g->waiting > 0);
    gap_close(g, now_ns);
    g->waiting--;
}

uint64_t load_gap_recent(struct load_gap *g, uint64_t now_ns)
{
    uint64_t longest = g->recent_ns;
    if (g->waiting > 0 && now_ns > g->since_ns && now_ns - g->since_ns > longest)
        longest = now_ns - g->since_ns;
    g->recent_ns = 0;
    return longest;
}

void load_stats_error(struct load_stats *s, const char *name)
{
    unsigned i;
    for (i = 0; i < s->error_classes; i++) {
        if (strcmp(s->errors[i].name, name) == 0)
            break;
    }
    if (i == s->error_classes) {
        if (s->error_classes == LOAD_ERROR_CLASSES)
            i = LOAD_ERROR_CLASSES - 1;
        else
            (void)snprintf(s->errors[s->error_classes++].name, sizeof s->errors[0].name, "%s", name);
    }
    s->errors[i].count++;
}

uint64_t load_stats_errors(const struct load_stats *s)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < s->error_classes; i++)
        total += s->errors[i].count;
    return total;
}
