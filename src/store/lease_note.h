/*
 * lease_note: the names under which the processes of one state directory stood for election, one after the
 * other, in a file that is locked as long as such a process lives.
 *
 * Who gets the lock knows that the processes which wrote the names in it are dead: the kernel gives a lock
 * back with the end of its process and not before. So a manager whose container was started again need not
 * wait until the Lease of its predecessor has run out. Of a pod's emptyDir no other pod, and no other
 * machine, knows; a state directory on a disk that several machines share must be one that keeps such locks.
 *
 * Everything here touches the disk: on a worker.
 */
#ifndef STORE_LEASE_NOTE_H
#define STORE_LEASE_NOTE_H

#include "base/err.h"

struct lease_note;

/* Takes the lock and notes the identity (plain ASCII, no newline). ERRC_CONFLICT: a process that lives has
 * it. */
int lease_note_open(const char *path, const char *identity, struct lease_note **ret, struct err *err);
/* Gives the lock back: nothing may be done any more that needs a leadership under this identity. */
void lease_note_close(struct lease_note *note);

const char *lease_note_identity(const struct lease_note *note);
/* Those before it, each followed by a newline: of the last processes, not of all. */
const char *lease_note_dead(const struct lease_note *note);

#endif
