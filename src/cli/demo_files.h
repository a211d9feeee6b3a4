/*
 * demo_files: the demo's directory and the servers in it, for worker jobs: everything here may block.
 */
#ifndef CLI_DEMO_FILES_H
#define CLI_DEMO_FILES_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

/*
 * Makes the directory, mode 0711 so that the servers' user can pass. wanted NULL: a new one in `temporary`
 * (NULL or out of reach for that user: /var/tmp). *ret_made: it did not exist. ERRC_CONFLICT if it is not
 * empty.
 */
int demo_directory_make(const char *wanted, const char *temporary, char **ret, bool *ret_made,
                        struct err *err);

/* Ends the servers below state/instances, of members by their agents, with SIGINT in an orderly way, with
 * SIGQUIT at once (0: only counts them). How many processes there are. */
int demo_servers_signal(const char *directory, int number);

/* Kills agent, watchdog and server of a member, as when its machine ends. How many of them there were. */
int demo_member_kill(const char *directory, const char *name);

/* Removes the data of the servers, or everything; the directory itself only with `itself`. */
int demo_directory_clean(const char *directory, bool all, bool itself, struct err *err);

/* The last lines of a file, and what its last error line says; "" if there is none. */
void demo_log_tail(const char *path, int lines, struct buf *ret_tail, struct buf *ret_cause);

#endif
