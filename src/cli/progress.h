/*
 * progress: follows an operation to its end and shows how far it is: a bar on a terminal, else one line for
 * each change. On stderr, so that stdout holds only the document.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "cli/bar.h"
#include "cli/session.h"

/* The facts of an operation's document; its texts live as long as it and what. */
void progress_facts(yyjson_val *op, int64_t now_us, const char *what, struct bar_facts *ret);
/* "split shop/s1 -> s3"; an operation's document or a line of a list. */
void progress_what(yyjson_val *op, struct buf *out);

/* Exit code of an operation that has ended: CLI_OK if done; undone because of its checks: CLI_CONFLICT. */
int progress_exit(yyjson_val *op);

/*
 * Until the operation ended: CLI_OK and *ret holds its whole document, whatever its end (progress_exit()), to
 * be freed. CLI_TIMEOUT after --timeout (10 min), the operation goes on then.
 */
int progress_follow(struct session *s, const char *id, struct session_reply *ret);

/* The same of a move that was asked to go back: also until that was given up, and it goes on as it was. */
int progress_follow_back(struct session *s, const char *id, struct session_reply *ret);

#define PROGRESS_TIMEOUT_NS (600 * ENV_NS_PER_S)
uint64_t progress_deadline(struct session *s);

#endif
