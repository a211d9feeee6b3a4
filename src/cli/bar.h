/*
 * bar: the progress of an operation in one line, for a terminal or for a log. Pure.
 */
#ifndef CLI_BAR_H
#define CLI_BAR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Texts may be NULL; numbers below 0 are not known. */
struct bar_facts {
    const char *id;     /* "m7k2p9xq" */
    const char *what;   /* "split shop/s1 -> s3" */
    const char *phase;  /* "copy" */
    const char *status; /* "running", "done", "undone", "failed" */
    const char *error;  /* the last one */
    double progress;    /* 0 to 1 */
    double rows, total_rows;
    double bytes, total_bytes;
    double bytes_rate, rows_rate; /* per second */
    double throttle_rate;         /* bytes per second that the copy is held to */
    const char *throttle;         /* why, a sentence */
    double eta_seconds;
    double lag_seconds;
    double elapsed_seconds;
    double block_seconds; /* how long writes were blocked */
};

struct bar_look {
    unsigned width; /* of the terminal */
    bool color;
    bool utf8;
};

/* One line without its end, at most look->width columns; what does not fit is left out, the least telling
 * first. */
void bar_print(const struct bar_facts *f, const struct bar_look *look, struct buf *out);

/* The same as a sentence, without colors: "m7k2p9xq split shop/s1 -> s3: copy, 43%, 12.3 MiB of 28.1 MiB,
 * ...". */
void bar_line(const struct bar_facts *f, struct buf *out);

#endif
