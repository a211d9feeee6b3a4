/*
 * cli: the subcommands of the one binary.
 *
 * A command is a row of a table: name, one-line summary, usage, example, and a function that gets what
 * follows the name and returns the exit code. Data goes to stdout, messages and progress to stderr.
 *
 * Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not found, 4 refused or in conflict, 5 cannot reach
 * the manager, 6 timed out waiting, 10 load: the check found a difference. docs/cli.md lists them as well.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NOT_FOUND = 3,
    CLI_CONFLICT = 4,
    CLI_UNREACHABLE = 5,
    CLI_TIMEOUT = 6
};

struct cli_command {
    const char *name;
    const char *summary;
    const char *usage; /* after the program's name, "get databases [-o FORMAT]" */
    const char *example;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
};

/* All commands, ended by a row whose name is NULL. */
extern const struct cli_command cli_commands[];

int cli_main(int argc, char **argv);

#endif
