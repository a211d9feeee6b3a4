/*
 * oom: who is ended first when memory is short. Not the agent, nor the postmaster, which both take little and
 * without whom the server is down; a backend that took it all.
 * https://www.postgresql.org/docs/current/kernel-resources.html#LINUX-MEMORY-OVERCOMMIT
 */
#ifndef AGENT_OOM_H
#define AGENT_OOM_H

struct env;

/*
 * Lowers our own score (oom_score_adj), if we may (root, CAP_SYS_RESOURCE) and it is not as low already, and
 * has PostgreSQL give its backends a higher one: 0 below a lowered postmaster, else that of the postmaster
 * and something more, which everybody may. Whoever gave us PG_OOM_ADJUST_FILE has seen to the latter. Reads
 * and writes files of /proc, and our environment: before the loop runs.
 */
void oom_protect(struct env *env);

#endif
