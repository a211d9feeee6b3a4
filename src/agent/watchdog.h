/*
 * watchdog: a child of the agent that ends PostgreSQL when the agent does not.
 *
 * It holds deadlines in memory that both share: that of the lease, that by which the agent has to turn again,
 * and an earlier one for an agent that the kernel says is stopped (by a signal or a tracer), which no load of
 * the machine explains. Shortly before the deadline it sends SIGQUIT to the postmaster, and just before it
 * SIGKILL to all of PostgreSQL, whether the agent runs, is stopped by a signal or hangs. When the agent dies
 * it ends PostgreSQL and the agent's helper program at once, and then itself. It holds the lock of the data
 * directory until then, as it was opened before it was forked.
 *
 * Deadlines are of env_boot_ns(): steps of the wall clock do not matter, and a sleep of the machine counts.
 */
#ifndef AGENT_WATCHDOG_H
#define AGENT_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define WATCHDOG_QUIT_AHEAD_NS (200 * ENV_NS_PER_MS)
#define WATCHDOG_KILL_AHEAD_NS (80 * ENV_NS_PER_MS)

struct watchdog;

/* Forks: before the loop and its threads are there. */
int watchdog_start(const char *data, struct watchdog **ret, struct err *err);
/* Its pid, for who reaps children. */
pid_t watchdog_pid(const struct watchdog *w);
/* The agent holds the lock of the data directory. Before that, its death ends nobody's server. */
void watchdog_own(struct watchdog *w);
/* 0 = none; -1 = it has ended, but of its processes some may be left. */
void watchdog_set_postmaster(struct watchdog *w, pid_t pid);
/* A program of ours that works on the data directory and leads its process group; 0 = none. */
void watchdog_set_helper(struct watchdog *w, pid_t pid);
/* 0 = no lease: nothing happens. In force when the call returns. */
void watchdog_set_deadline(struct watchdog *w, uint64_t boot_ns);
/* The same, for an agent that turns: whichever comes first counts. stopped_ns: from then on its server ends
 * as soon as the agent is twice seen stopped; 0 with boot_ns. */
void watchdog_set_turn(struct watchdog *w, uint64_t boot_ns, uint64_t stopped_ns);
/* How often it had to act at a deadline. */
unsigned watchdog_fired(const struct watchdog *w);
/* Ends it; PostgreSQL must have ended. NULL is fine. */
void watchdog_stop(struct watchdog *w);

#endif
