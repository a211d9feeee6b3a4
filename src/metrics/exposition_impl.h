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
#include "metrics/text_block.h"

/*
 * A text that is being put together or finished; lives while a response is written from it or it is fresh
 * enough to be shared. Long runs of it lie in blocks, which it keeps; what is short is copied into chunks.
 */
struct snapshot {
    struct exposition *exposition;
    unsigned users;
    uint64_t made_ns;
    struct http_piece *pieces;
    size_t count, capacity;
    struct text_block **blocks; /* as in exposition.blocks; some are NULL */
    unsigned block_count;
    char **chunks;
    size_t chunk_count;
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

/* What the blocks of a batch of instances are of: what is known here, and each query. */
#define KIND_OWN 0u
#define KINDS    (1u + QUERIES)

/*
 * REFRESH  block `place` of exposition.blocks is looked at, or in the builder
 * TEXT     family `family` of `kind` is added to the snapshot, which keeps the blocks by now
 */
enum phase { PHASE_REFRESH, PHASE_TEXT, PHASE_END };

struct cursor {
    enum phase phase;
    unsigned place;
    unsigned kind, family;
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
    struct loop_timer expiry; /* lets go of `fresh`, later of the blocks */
    /* Block `kind` of the batch b of the pollers' table is at b * KINDS + kind; NULL = empty. */
    struct text_block **blocks;
    unsigned block_count;
    struct block_builder builder;
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

/* ---- snapshot.c ---- */

struct snapshot *snapshot_new(struct exposition *e);
void snapshot_unref(struct snapshot *s);
/* Short texts are copied; others have to stay where they are while the snapshot lives. */
void snapshot_add(struct snapshot *s, const char *text, size_t length);
void snapshot_copy(struct snapshot *s, const char *text, size_t length);
/* Keeps the blocks that there are now. */
void snapshot_keep_blocks(struct snapshot *s);
size_t snapshot_length(const struct snapshot *s);

/* ---- exposition_text.c ---- */

/* Puts e->making together, from the beginning. */
void text_begin(struct exposition *e);
/* Goes on until the slice is over; true when all is there. */
bool text_slice(struct exposition *e);
/* Gives up what is being put together, if anything. */
void text_cancel(struct exposition *e);
void text_drop_blocks(struct exposition *e);

/* ---- exposition_own.c ---- */

/* The families about this process, its loop, and what the manager knows. */
void own_families(struct exposition *e, struct buf *out);
/* On a worker. */
void process_facts_read(struct process_facts *facts);

#endif
