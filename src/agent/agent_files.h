/*
 * agent_files: what the agent reads and writes on disk. Everything here blocks: on workers only.
 */
#ifndef AGENT_AGENT_FILES_H
#define AGENT_AGENT_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/agent.h"

enum agent_data { AGENT_DATA_NONE, AGENT_DATA_THERE };

/* Is there a data directory? What is there and is none of PostgreSQL's is refused: it may be somebody's. */
int agent_data_look(const struct agent_options *o, enum agent_data *ret, struct err *err);

/* Where initdb works: beside the data directory, and beside the log's place on its volume (NULL without one).
 */
char *agent_draft_path(const struct agent_options *o);
char *agent_wal_draft_path(const struct agent_options *o);
/* Removes what a crash left of drafts. ERRC_REFUSED when the log's volume holds a log that is not ours to
 * lose. */
int agent_draft_clear(const struct agent_options *o, struct err *err);
/* The draft becomes the data directory, durably. */
int agent_draft_finish(const struct agent_options *o, struct err *err);

/* Writes the files that the server reads at its start and at a reload. */
int agent_configure(const struct agent_options *o, struct err *err);
/* Frees the directory of a dead postmaster's pid. Never while one runs: it ends itself without that file. */
void agent_pid_file_clear(const struct agent_options *o);

/* What the agent watches. Numbers are checksums; 0 = no such file. */
struct agent_inputs {
    uint64_t settings, tls, password;
    char *password_text; /* one line; a secret */
};
void agent_inputs_read(const struct agent_options *o, struct agent_inputs *ret);
void agent_inputs_clear(struct agent_inputs *inputs);

#endif
