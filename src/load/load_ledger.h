/*
 * load_ledger: the file of acknowledged writes and the state that follows from it (see load_state.h).
 *
 * Records gather in memory and go out by load_ledger_flush(), one write(2) a loop turn, before the clients
 * they belong to go on. The write reaches the page cache only: the ledger survives this process, not this
 * machine. Flushing is done on the loop's thread on purpose: the next operation must wait for it.
 */
#ifndef LOAD_LOAD_LEDGER_H
#define LOAD_LOAD_LEDGER_H

#include "load/load_state.h"

struct load_ledger {
    int fd; /* -1 = not open */
    char *path;
    struct buf pending;
    struct load_state state;
};

/* A fresh ledger, replacing the file. */
int load_ledger_create(struct load_ledger *ledger, const char *path, const struct load_shape *shape,
                       struct err *err);

/*
 * Opens and replays; shape NULL = whatever it holds, else ERRC_CONFLICT if it differs. ERRC_NOT_FOUND,
 * ERRC_CORRUPT with the line's number. read_only: nothing may be recorded.
 */
int load_ledger_open(struct load_ledger *ledger, const char *path, const struct load_shape *shape,
                     bool read_only, struct err *err);

/* Writes what is pending and closes; safe on a zeroed struct whose fd is -1. */
void load_ledger_close(struct load_ledger *ledger);

void load_ledger_run(struct load_ledger *ledger, unsigned clients);
void load_ledger_end(struct load_ledger *ledger);

/* Record and apply. The write must follow from the state. */
void load_ledger_ack(struct load_ledger *ledger, const struct load_write *write);
void load_ledger_doubt(struct load_ledger *ledger, const struct load_write *write);
/* The state of customer `number` was corrected to what was found. */
void load_ledger_found(struct load_ledger *ledger, enum finding_kind kind, uint32_t number);

/* ERRC_IO: the ledger is no longer complete, the run must end. */
int load_ledger_flush(struct load_ledger *ledger, struct err *err);

#endif
