/*
 * demo_view: what the demo shows of the fleet at a moment, as lines of text. Pure.
 */
#ifndef CLI_DEMO_VIEW_H
#define CLI_DEMO_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define DEMO_SHARDS_MAX  8
#define DEMO_MEMBERS_MAX 12
#define DEMO_NAME_SIZE   64

struct demo_shard {
    char name[DEMO_NAME_SIZE];
    double rate;                /* transactions/s; NAN = not known */
    double bytes;               /* of the database; NAN */
    double share;               /* of the hash space, 0 to 1 */
    unsigned hot;               /* hot samples in a row */
    char state[DEMO_NAME_SIZE]; /* "serving" */
    char role[DEMO_NAME_SIZE];  /* in the running move: "gives", "receives", or "" */
};

struct demo_member { /* an instance of a shard that has several */
    char name[DEMO_NAME_SIZE], shard[DEMO_NAME_SIZE];
    char assigned[16], reported[16]; /* "primary"; "" = its agent is not heard */
    bool primary, sync, streams;
    double lag_bytes; /* NAN */
};

struct demo_view {
    struct demo_shard shards[DEMO_SHARDS_MAX];
    int shard_count;
    struct demo_member members[DEMO_MEMBERS_MAX];
    int member_count; /* 0: shards of one instance each; else none is to turn hot */
    double threshold; /* transactions/s */
    unsigned window;

    bool loading;
    double operations, writes; /* per second */
    double p50_ms, p99_ms;     /* of writes, since the last look */
    double gap_ms;             /* the longest without any write, since the last look */
    uint64_t acked, refused;

    const char *task;    /* "making rows": something with a bar; NULL = nothing */
    double task_share;   /* 0 to 1 */
    char task_text[128]; /* behind the bar */
};

struct demo_look {
    unsigned width;
    bool color, utf8;
};

/* The block that is redrawn in place: lines of at most look->width columns, each with its end. */
void demo_view_block(const struct demo_view *view, const struct demo_look *look, struct buf *out);
/* The same in one line, without its end: for a log. */
void demo_view_line(const struct demo_view *view, struct buf *out);

/* Breaks text at blanks to `width` columns; every line but the first is indented. */
void demo_view_wrap(const char *text, unsigned width, unsigned indent, struct buf *out);
/* "1,234,567" */
char *demo_view_number(uint64_t value, char out[32]);

#endif
