/*
 * command: the commands that talk to a manager, one function each, called with an open session whose args fit
 * the command's flags and number of words. They return the exit code.
 */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "cli/session.h"

int command_get(struct session *s);
int command_describe(struct session *s);
int command_apply(struct session *s);
int command_delete(struct session *s);
int command_wait(struct session *s);
int command_top(struct session *s);
int command_events(struct session *s);
int command_status(struct session *s);
int command_move(
    struct session *s); /* split, move, merge, drain, upgrade, isolate, rebalance: by the command's name */
int command_back(struct session *s);
int command_resume(struct session *s);
int command_migrate(struct session *s);
int command_switchover(struct session *s);
int command_failover(struct session *s);
int command_maintenance(struct session *s);
int command_restart(struct session *s);
int command_route(struct session *s);

/* These need no manager. */
int command_check_config(const struct args *args);
int command_completion(const struct args *args);
int command_version(const struct args *args);
int command_help(const struct args *args);
int command_manager(const struct args *args);
int command_agent(const struct args *args);
int command_render(const struct args *args);
/* The candidates for the last word, for the scripts: `shardherd __complete WORD...`. */
int command_complete(int argc, char **argv);

/* ---- shared ---- */

/*
 * What follows a request that began an operation: its id on stdout, or with --wait its progress and end.
 * Prints the document with -o json|yaml. Takes the reply over.
 */
int command_began(struct session *s, struct session_reply *reply, bool wait);

/* The findings of an operation as a section, nothing if there are none. */
void command_findings(yyjson_val *op, struct buf *out);
/* The moves that a dry run of a drain has planned. */
void command_plan(yyjson_val *op, struct buf *out);

/* What became of each shard of a migration, nothing if it is none. */
void command_migrated(yyjson_val *op, struct buf *out);

/* Reads a file, "-" = stdin; to be freed. CLI_OK, or printed why not. */
#define COMMAND_FILE_MAX (1024u * 1024)
int command_read_file(const struct session *s, const char *path, char **ret, size_t *ret_length);

#endif
