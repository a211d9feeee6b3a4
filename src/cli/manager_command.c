/* shardherd manager: runs a manager in the foreground. */
#include <stdio.h>
#include <string.h>

#include "base/env.h"
#include "cli/manager_command.h"
#include "cli/cli.h"
#include "manager/manager.h"

#define FLAGS_MAX 64

static const char help[] =
    "Usage: shardherd manager [-c FILE] [--set KEY=VALUE]... [--insecure-listen] [--ports-file FILE]\n"
    "\n"
    "Runs a manager: finds servers, polls them, decides, and runs operations. It logs to stderr and ends in\n"
    "order on SIGTERM or SIGINT; SIGHUP and a changed file make it read its configuration again.\n"
    "\n"
    "  -c, --config FILE    configuration (docs/configuration.md); without it: defaults and environment\n"
    "  --set KEY=VALUE      one key of the configuration, e.g. --set state_directory=/var/tmp/sh\n"
    "  --insecure-listen    allow listening on other than loopback addresses although there is no "
    "authentication\n"
    "  --ports-file FILE    where the ports are written as JSON (default: manager.json in the state "
    "directory)\n"
    "\n"
    "Example:\n"
    "  shardherd manager -c config/shardherd.yaml\n";

int manager_command(int argc, char **argv)
{
    struct manager_options options = {.env = env_system()};
    const char *flags[FLAGS_MAX + 1] = {0};
    int count = 0;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return CLI_OK;
        }
        if ((strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0) && more)
            options.config_path = argv[++i];
        else if (strcmp(argv[i], "--ports-file") == 0 && more)
            options.ports_path = argv[++i];
        else if (strcmp(argv[i], "--set") == 0 && more && count < FLAGS_MAX)
            flags[count++] = argv[++i];
        else if (strcmp(argv[i], "--insecure-listen") == 0 && count < FLAGS_MAX)
            flags[count++] = "insecure_listen=true";
        else {
            fprintf(stderr, "shardherd manager: %s is not understood (or its value is missing); see --help\n",
                    argv[i]);
            return CLI_USAGE;
        }
    }
    options.flags = flags;
    struct err err = {0};
    if (manager_run(&options, &err) == 0)
        return CLI_OK;
    fprintf(stderr, "shardherd manager: %s\n", err.message);
    return err.code == ERRC_INVALID ? CLI_USAGE : err.code == ERRC_CONFLICT ? CLI_CONFLICT : CLI_FAILED;
}
