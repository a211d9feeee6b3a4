/*
 * copier: rows of the moving range from S to T, by COPY, in several lanes at a time, all under one snapshot.
 *
 * Each lane has a session on either side and takes one piece (a range of blocks of one heap) after the other;
 * the last piece of a heap is open-ended. What a lane has copied is committed on T piece by piece, so a
 * copier that fails or is canceled leaves rows behind: the caller empties T before it tries again, with a new
 * snapshot. Sessions on T have a replication origin of their own (guards let them pass, change consumers can
 * filter it), the replica role (foreign keys are looked at later), and hold T's term in every transaction, so
 * that a newer leader waits for what is under way and refuses the rest.
 */
#ifndef OPERATION_COPIER_H
#define OPERATION_COPIER_H

#include "fleet/fleet.h"
#include "loop/loop.h"

#define COPIER_LANES_MOST 8

/* One heap: a table, or one partition of it. Texts are SQL, quoted already. */
struct copier_heap {
    char *relation; /* on S: the heap itself */
    char *table;    /* on T: the distributed table */
    char *columns;  /* "a, b" without generated ones */
    char *filter;   /* condition "row is of R" */
    int64_t blocks;
    double rows, bytes; /* of R, as far as statistics tell; see copy_estimate.h */
    double share;
    bool binary; /* every column survives the binary format between two servers */
};

/* Cuts heaps into pieces in order: piece number `n` of [0, copier_pieces()). No I/O. */
struct copier_piece {
    int heap;
    int64_t first, last; /* blocks [first, last); last < 0: to the end, whatever was added */
};
int copier_pieces(const struct copier_heap *heaps, int count);
struct copier_piece copier_piece(const struct copier_heap *heaps, int count, int n);

struct copier_options {
    struct loop *loop;
    const struct instance_access *source, *target;
    const char *application; /* application_name of all sessions */
    const char *snapshot;    /* exported on S; must stay valid until `done` */
    const char *origin;      /* lanes use "<origin>_0", "<origin>_1", ...; made and dropped here */
    int64_t term;
    struct copier_heap *heaps; /* taken over with what they hold, an array of mem_array() */
    int heap_count;
    unsigned lanes;            /* 1 to COPIER_LANES_MOST */
    uint64_t bytes_per_second; /* of all lanes together; 0 = as fast as it goes */
    /* At most every 100 ms and lane. */
    void (*progress)(uint64_t rows, uint64_t bytes, void *data);
    /* Exactly once, never from inside a call of this header: no piece is under way any more. The copier may
     * be freed in it. */
    void (*done)(const struct err *err, uint64_t rows, uint64_t bytes, void *data);
    /* After copier_free(): every session is closed and the memory gone. Never from inside a call. */
    void (*released)(void *data);
    void *data;
};

/* How far it is. */
struct copier_state {
    uint64_t rows, bytes;             /* that have come */
    uint64_t total_rows, total_bytes; /* that will have come, as far as can be told by now */
    unsigned tables, tables_done;     /* distributed ones, all of their partitions together */
};

struct copier;
struct copier *copier_start(const struct copier_options *options);
/* From now on, of all lanes together; 0 = as fast as it goes. */
void copier_set_rate(struct copier *c, uint64_t bytes_per_second);
void copier_look(const struct copier *c, struct copier_state *ret);
/* `done` follows with ERRC_CANCELED unless it was over. Idempotent. */
void copier_cancel(struct copier *c);
/* Drops what is left of its sessions; `done` does not come any more, `released` does. NULL is fine. */
void copier_free(struct copier *c);

#endif
