/*
 * exposition_impl: what the files of the exposition share. Not for other folders.
 */
#ifndef METRICS_EXPOSITION_IMPL_H
#define METRICS_EXPOSITION_IMPL_H

#include "base/buf.h"
#include "base/list.h"
#include "loop/work.h"
#include "metrics/exposition.h"
#include "metrics/poller_impl.h"

/* A finished text; lives while a response is written from it or it is fresh enough to be shared. */
struct snapshot {
    struct exposition *exposition;
    unsigned users;
    uint64_t made_ns;
    char **chunks; /* each of pieces[i].length bytes */
    struct http_piece *pieces;
    size_t count, capacity;
    size_t room; /* left in the last chunk */
};

struct scrape {
    struct list node; /* in exposition.scrapes */
    struct http_exchange *ex;
};

/* What a worker reads from the kernel. */
struct process_facts {
    uint64_t resident_bytes, resident_max_bytes;
    uint64_t open_fds;
    uint64_t max_fds;
    uint64_t read_ns; /* 0 = never */
};

enum part {
    PART_OWN,
    PART_STATUS,
    PART_HEALTH,
    PART_VALUES,
    PART_HISTOGRAMS,
    PART_QUERIES,
    PART_DYNAMIC,
    PART_END
};

/* Where the assembly stands: family `family` of `part` (of query `query`), next instance `index`. */
struct cursor {
    enum part part;
    int query;
    unsigned family;
    unsigned index;
    bool headed;         /* the family's HELP and TYPE are written */
    uint64_t generation; /* of the set of pollers */
};

struct exposition {
    struct loop *loop;
    struct pollers *pollers;
    struct exposition_options options;
    char *version, *commit;
    struct list scrapes;      /* wait for the assembly */
    struct snapshot *making;  /* NULL = no assembly runs */
    struct snapshot *fresh;   /* the last finished one */
    struct loop_timer expiry; /* lets go of `fresh` */
    struct loop_task assemble;
    struct loop_timer next; /* the next slice */
    struct cursor cursor;
    uint64_t slice_started_ns;
    uint64_t assembly_started_ns;
    unsigned restarts;
    unsigned slices;    /* of this or the last assembly */
    unsigned snapshots; /* alive */
    struct work work;
    bool working;
    struct process_facts found;   /* the worker's */
    struct process_facts process; /* the loop's */
    int64_t started_us;
    uint64_t scrapes_total, refused_total, bytes_last, assembly_ns, slice_longest_ns;
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- exposition_own.c ---- */

/* The families about this process, its loop, and what the manager knows. */
void own_families(struct exposition *e, struct buf *out);
/* On a worker. */
void process_facts_read(struct process_facts *facts);

#endif
