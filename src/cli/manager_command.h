/* manager_command: the subcommand `manager`. */
#ifndef CLI_MANAGER_COMMAND_H
#define CLI_MANAGER_COMMAND_H

int manager_command(int argc, char **argv); /* returns the exit code */

#endif
