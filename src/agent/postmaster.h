/*
 * postmaster: PostgreSQL as a child that does not outlive its agent, and the end of what is left of it.
 *
 * The child gets SIGQUIT (an immediate shutdown) from the kernel when the agent dies, however it dies. Its
 * backends die with it; those of a postmaster that was killed are found by their working directory.
 */
#ifndef AGENT_POSTMASTER_H
#define AGENT_POSTMASTER_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/*
 * Starts argv[0] (looked up in PATH) with stdout and stderr to our stderr, in a session of its own. To be
 * called on the thread that lives as long as the agent does: the kernel counts by thread. The caller reaps
 * it.
 */
int postmaster_spawn(const char *const *argv, pid_t *ret, struct err *err);

/*
 * Sends `number` to every process named postgres whose working directory is `data`. Returns how many there
 * are. Reads all of /proc: on a worker or in the watchdog.
 */
int postmaster_signal_all(const char *data, int number);

/* Ends them all (SIGQUIT, after a second SIGKILL) and waits, at most 10 s. ERRC_TIMEOUT if some are left. */
int postmaster_sweep(const char *data, struct err *err);

/* The kernel says so: by SIGSTOP or the like, or in the hands of a tracer. */
bool postmaster_is_stopped(pid_t pid);

/* Waits, on a worker or in the watchdog. */
void postmaster_pause_ms(int ms);

#endif
