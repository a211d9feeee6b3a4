/*
 * member: the agent of a shard with several instances. One PostgreSQL, which it makes, clones, starts,
 * promotes, follows, fences, rewinds and stops as it is assigned over HTTP, and never as a primary by itself.
 *
 * Reported state and assigned role stand side by side; docs/agent.md describes both, the documents of the
 * interface, the lease, and what is promised when the agent dies, hangs or is cut off.
 */
#ifndef AGENT_MEMBER_H
#define AGENT_MEMBER_H

#include "agent/agent.h"
#include "base/err.h"

/* Runs until SIGTERM or SIGINT has stopped the server. options->member and ->token_file are set. */
int member_run(const struct agent_options *options, struct err *err);

#endif
