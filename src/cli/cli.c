/* The table of commands, and finding the one that was meant. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/manager_command.h"
#include "load/load.h"
#include "version.h"

static int version_command(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("shardherd %s (%s)\n", SHARDHERD_VERSION, SHARDHERD_COMMIT);
    return CLI_OK;
}

static int help_command(int argc, char **argv)
{
    (void)argc, (void)argv;
    fputs("Usage: shardherd COMMAND [options]\n\n", stdout);
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        printf("  %-14s %s\n", c->name, c->summary);
    return CLI_OK;
}

const struct cli_command cli_commands[] = {
    {.name = "manager", .summary = "run a manager in the foreground", .run = manager_command},
    {.name = "load", .summary = "drive load and check that nothing was lost", .run = load_main},
    {.name = "version", .summary = "print the version", .run = version_command},
    {.name = "help", .summary = "list the commands", .run = help_command},
    {.name = NULL},
};

int cli_main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        if (strcmp(c->name, name) == 0)
            return c->run(argc - 1, argv + 1);
    fprintf(stderr, "shardherd: unknown command \"%s\"; see shardherd help\n", name);
    return CLI_USAGE;
}
