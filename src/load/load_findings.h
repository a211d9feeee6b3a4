/*
 * load_findings: what the checker found wrong, counted by kind and listed.
 *
 * The first LOAD_FINDINGS_SHOWN are kept for printing, all go to the report file if there is one.
 */
#ifndef LOAD_LOAD_FINDINGS_H
#define LOAD_LOAD_FINDINGS_H

#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

/* kind, name, what it means */
#define FINDING_MAP(X)                                                                                       \
    X(LOST, "lost")               /* an acknowledged row is missing, or older than acknowledged */           \
    X(RESURRECTED, "resurrected") /* the delete was acknowledged, the row is there */                        \
    X(DUPLICATED, "duplicated")   /* the same row on two shards */                                           \
    X(MISPLACED, "misplaced")     /* a row on a shard that does not own its hash */                          \
    X(UNEXPECTED, "unexpected")   /* newer than anything written, unknown key, wrong contents */

enum finding_kind {
#define X(name, text) FINDING_##name,
    FINDING_MAP(X)
#undef X
        FINDING_MAX
};

const char *finding_kind_name(enum finding_kind kind);
int finding_kind_parse(const char *name); /* -1 if unknown */

#define LOAD_FINDINGS_SHOWN 20

struct load_findings {
    uint64_t counts[FINDING_MAX];
    char *shown[LOAD_FINDINGS_SHOWN];
    unsigned shown_count;
    FILE *report; /* owned; NULL = none */
    uint64_t marked_counts[FINDING_MAX];
    unsigned marked_shown;
    long marked_place; /* in the report */
};

/* path NULL = no report file. ERRC_IO if it cannot be made; then only the counts are usable. */
int load_findings_init(struct load_findings *f, const char *path, struct err *err);
void load_findings_fini(struct load_findings *f);
/* Reset forgets what was found since the mark, also in the report file: for a check that is done again. */
void load_findings_mark(struct load_findings *f);
void load_findings_reset(struct load_findings *f);

void load_findings_add(struct load_findings *f, enum finding_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t load_findings_total(const struct load_findings *f);

#endif
