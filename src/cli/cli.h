/*
 * cli: the subcommands of the one binary.
 *
 * A command is a row of a table: name, one-line summary, usage, example, and a function that gets what
 * follows the name and returns the exit code. Data goes to stdout, messages and progress to stderr.
 *
 * Exit codes are those of one table, cli_exit_codes; `shardherd help` and docs/cli.md show it, and a test
 * compares them.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NOT_FOUND = 3,
    CLI_CONFLICT = 4,
    CLI_UNREACHABLE = 5,
    CLI_TIMEOUT = 6,
    CLI_DIFFERENCE = 10,  /* of load */
    CLI_INTERRUPTED = 130 /* of load and demo */
};

struct cli_exit_code {
    int code;
    const char *meaning;
};
/* All of them, in order, ended by a NULL meaning. */
extern const struct cli_exit_code cli_exit_codes[];

struct args;
struct args_flag;
struct session;

struct cli_command {
    const char *name;
    const char *summary;
    const char
        *usage; /* after the program's name, "get databases [-o FORMAT]"; several lines are several ways */
    const char *details; /* a paragraph for its help, NULL = the summary says it */
    const char *example; /* lines, without the program's prompt */
    /* Exactly one: it parses what follows its name itself (argv[0] is the name); or gets its flags and words
     * parsed, `local` as they are, `act` with an open session (and the flags of session.h). */
    int (*run)(int argc, char **argv);
    int (*local)(const struct args *args);
    int (*act)(struct session *s);
    const struct args_flag *flags; /* its own; NULL = none */
    bool
        globals; /* of a local one: it takes the flags of every command, even those that mean nothing to it */
    int words_least, words_most;
    const char *completes; /* what shells offer for its words, see complete.c; NULL = nothing */
    bool hidden;           /* not in the list of commands */
};

/* All commands, ended by a row whose name is NULL. */
extern const struct cli_command cli_commands[];

/* By name, NULL = there is none. */
const struct cli_command *cli_find(const char *name);

/* Its tables of flags, ended by NULL. */
#define CLI_TABLES_MAX 3
void cli_tables(const struct cli_command *command, const struct args_flag *ret[CLI_TABLES_MAX]);

/* The help of a command on stdout. */
void cli_help(const struct cli_command *command);

int cli_main(int argc, char **argv);

#endif
