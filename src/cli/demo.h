/*
 * demo: the subcommand `demo`: two shards, load, a hot shard, the automatic split; then one key is isolated,
 * taken back, two shards are merged; and the proof.
 *
 * Starts a manager of its own in a temporary directory, and takes everything away again. Exit codes: 0 the
 * split happened by itself and nothing was lost, 1 it did not or something was, 2 wrong usage, 130
 * interrupted.
 */
#ifndef CLI_DEMO_H
#define CLI_DEMO_H

#include "cli/args.h"

extern const struct args_flag demo_flags[];

int demo_command(const struct args *args);

#endif
