/*
 * session: one run of a command that talks to a manager: where it is, how to print, and calls that look
 * synchronous (each runs the loop until its answer is there).
 *
 * Data goes to stdout, messages and progress to stderr. Functions that return an int return an exit code
 * (cli.h) and have printed why it is not CLI_OK, unless the session is silent.
 */
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yyjson.h>

#include "base/buf.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/table.h"
#include "http/http_client.h"
#include "loop/loop.h"

enum session_format { FORMAT_TABLE, FORMAT_WIDE, FORMAT_JSON, FORMAT_YAML, FORMAT_NAME };
enum session_port { PORT_PUBLIC_API, PORT_ADMIN_API };

struct session {
    struct loop loop;
    struct http_client *client;
    struct env *env;
    const struct cli_command *command;
    const struct args *args;
    char *servers[2];     /* by session_port; without a slash at the end */
    const char *database; /* -d or the environment; NULL = not said */
    enum session_format format;
    uint64_t timeout_ns; /* --timeout; 0 = not said */
    bool watch, quiet;
    bool terminal;     /* stderr is one: progress may be drawn */
    bool terminal_out; /* stdout is one */
    bool color, color_out;
    bool utf8;
    bool silent; /* prints no errors: completion */
    bool broken; /* stdout takes no more */
};

/* The flags that every command of this kind takes. */
extern const struct args_flag session_flags[];

/* args must outlive the session. On failure nothing is to be closed. */
int session_open(struct session *s, struct env *env, const struct cli_command *command,
                 const struct args *args);
void session_close(struct session *s);

/* ---- calls ---- */

struct session_request {
    enum session_port port;
    const char *method; /* NULL = GET */
    const char *path;   /* with its query */
    const char *body;
    size_t body_length;
    const char *content_type;
};

struct session_reply {
    int status;
    char *body; /* NUL-terminated; NULL = none */
    size_t length;
    yyjson_doc *doc; /* NULL if the body is no JSON */
    yyjson_val *root;
    char code[32]; /* of the problem, "" = none */
};

/* A status of 2xx is CLI_OK; anything else is printed. Free the reply in either case. */
int session_call(struct session *s, const struct session_request *request, struct session_reply *ret);
int session_get(struct session *s, const char *path, struct session_reply *ret);
void session_reply_free(struct session_reply *reply);
/* Print why a call failed, and return the exit code: an answer that is no success; no answer at all. */
int session_problem(struct session *s, enum session_port port, const char *path, struct session_reply *reply);
int session_unreached(struct session *s, enum session_port port, const struct err *err);

/* All pages of a list as {"items": [...]}; to be freed. */
int session_list(struct session *s, const char *path, yyjson_doc **ret);

/* Adds text as one segment of a path, or as a value of a query. */
void session_escape(struct buf *path, const char *text);

/* The database that is meant: said, or the only one. The text lives as long as the session's args, or in out.
 */
#define SESSION_NAME_SIZE 128
int session_database(struct session *s, char out[SESSION_NAME_SIZE]);

/* "s1", "shop/s1" or "shard/shop/s1". */
int session_shard(struct session *s, const char *word, char database[SESSION_NAME_SIZE],
                  char shard[SESSION_NAME_SIZE]);

/* "kind/name" without its kind. */
const char *session_bare(const char *word, const char *kind);

/* Waits, with the loop running. */
void session_pause(struct session *s, uint64_t ns);

/* ---- output ---- */

/* Prints "shardherd: ..." and returns the code. */
int session_fail(const struct session *s, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A message on stderr, unless -q. */
void session_say(const struct session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Writes to stdout and empties the buffer. */
void session_out(struct session *s, struct buf *text);
bool session_is_document(const struct session *s); /* json or yaml */
/* A document as JSON or YAML, by format. */
void session_print(struct session *s, yyjson_val *value);
void session_print_table(struct session *s, const struct table *t, bool header);

/* ---- members of documents: "" or -1 if missing ---- */

const char *json_get_text(yyjson_val *object, const char *name);
double json_get_number(yyjson_val *object, const char *name); /* also "123"; NAN if missing */
int64_t json_get_time(yyjson_val *object, const char *name);  /* microseconds since 1970, 0 if missing */
/* "a.b.c" */
yyjson_val *json_get_path(yyjson_val *object, const char *path);

/* Seconds since that time by this machine's clock, as an age; "" if it is missing. */
const char *session_age(const struct session *s, yyjson_val *object, const char *name, char *out);

#endif
