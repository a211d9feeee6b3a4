/*
 * agent_files: what the agent reads and writes on disk. Everything here blocks: on workers only.
 */
#ifndef AGENT_AGENT_FILES_H
#define AGENT_AGENT_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/agent.h"
#include "base/buf.h"

enum agent_data { AGENT_DATA_NONE, AGENT_DATA_THERE };

/* Is there a data directory? What is there and is none of PostgreSQL's is refused: it may be somebody's. */
int agent_data_look(const struct agent_options *o, enum agent_data *ret, struct err *err);

/* Adds "name = 'value'" and a line end, quoted as postgresql.conf wants it. */
void agent_setting(struct buf *out, const char *name, const char *value);

/* Where initdb works: beside the data directory, and beside the log's place on its volume (NULL without one).
 */
char *agent_draft_path(const struct agent_options *o);
char *agent_wal_draft_path(const struct agent_options *o);
/* The command that makes the draft; argv lives until agent_initdb_fini(). */
struct agent_initdb {
    const char *argv[10];
    char *owned[4]; /* of them */
};
void agent_initdb_init(struct agent_initdb *i, const struct agent_options *o);
void agent_initdb_fini(struct agent_initdb *i);
/* Removes what a crash left of drafts. ERRC_REFUSED when the log's volume holds a log that is not ours to
 * lose. */
int agent_draft_clear(const struct agent_options *o, struct err *err);
/* The draft becomes the data directory, durably. */
int agent_draft_finish(const struct agent_options *o, struct err *err);

/* Up to 1 MiB of a file, or NULL. May be a secret: mem_wipe_free(). */
char *agent_file_read(const char *path);
/* The first size - 1 bytes at most, with a NUL behind; "" and false if there are none. For files of /proc and
 * /sys. */
bool agent_text_read(const char *path, char *out, size_t size);
/* Durably but for the directory entry, in place of what was there; mode 0600. */
struct buf;
int agent_file_write(const char *path, const struct buf *text, struct err *err);
/* Makes the entry of this file or folder in its parent durable. */
int agent_parent_sync(const char *path, struct err *err);
/* With everything in it; what is not there is no error. */
int agent_tree_delete(const char *path, struct err *err);

/* Writes the files that the server reads at its start and at a reload. */
int agent_configure(const struct agent_options *o, struct err *err);
/* Frees the directories of data and socket of a dead postmaster's pid. Never while one runs: it ends itself
 * without these files. */
void agent_locks_clear(const struct agent_options *o);

/* ERRC_CONFLICT when another program has the server's port: it may begin to listen only when that ends. */
int agent_port_check(const struct agent_options *o, struct err *err);

/* What the agent watches. Numbers are checksums; 0 = no such file. */
struct agent_inputs {
    uint64_t settings, tls, password, http_tls;
    char *password_text; /* one line; a secret */
    uint64_t next;       /* the password that follows it, see agent_next_password() */
    char next_mark[32];  /* what names that one, without telling it; "" = there is none */
};
void agent_inputs_read(const struct agent_options *o, struct agent_inputs *ret);
void agent_inputs_clear(struct agent_inputs *inputs);
/* The file of the password that the servers of the shard are about to get, beside that of the password they
 * have. To be freed. */
char *agent_next_password(const struct agent_options *o);

#endif
