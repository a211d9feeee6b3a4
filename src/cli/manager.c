/* shardherd manager: runs a manager in the foreground. */
#include <string.h>

#include "cli/command.h"
#include "manager/manager.h"

int command_manager(const struct args *args)
{
    const char *flags[ARGS_MAX + 1] = {0};
    struct err err = {0};
    int count = 0;
    for (int i = 0; i < args->given_count; i++) {
        const char *name = args->given[i].flag->name;
        if (strcmp(name, "set") == 0)
            flags[count++] = args->given[i].value;
        else if (strcmp(name, "insecure-listen") == 0)
            flags[count++] = "insecure_listen=true";
    }
    const struct manager_options options = {.config_path = args_value(args, "config"),
                                            .flags = flags,
                                            .env = env_system(),
                                            .ports_path = args_value(args, "ports-file")};
    if (manager_run(&options, &err) == 0)
        return CLI_OK;
    return session_fail(NULL,
                        err.code == ERRC_INVALID    ? CLI_USAGE
                        : err.code == ERRC_CONFLICT ? CLI_CONFLICT
                                                    : CLI_FAILED,
                        "%s (%s)", err.message, err_code_name(err.code));
}
