/* shardherd check-config: reads a configuration or a specification as a manager would, and says what is
 * wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "manager/config.h"

static int fail(const struct err *err)
{
    return session_fail(NULL, CLI_USAGE, "%s", err->message);
}

static int check_manager(const char *path, const char *const *flags, bool print)
{
    struct config config;
    struct err err = {0};
    if (config_load(path, env_system(), flags, &config, &err) != 0)
        return fail(&err);
    if (print) {
        struct buf out = {0};
        config_print(&config, &out);
        fputs(buf_text(&out), stdout);
        buf_free(&out);
    }
    config_free(&config);
    return CLI_OK;
}

static int check_spec(const char *path, const char *text, size_t length, bool print)
{
    struct config defaults;
    struct database_spec spec;
    struct err err = {0};
    config_init(&defaults);
    int rc = database_spec_parse(text, length, path, &defaults.balance, &spec, &err);
    config_free(&defaults);
    if (rc != 0)
        return fail(&err);
    if (print) {
        struct buf out = {0};
        database_spec_print(&spec, &out);
        puts(buf_text(&out));
        buf_free(&out);
    }
    database_spec_free(&spec);
    return CLI_OK;
}

/* A line "kind: ShardedDatabase" of its own, or the member in JSON. */
static bool is_spec(const char *text)
{
    for (const char *p = strstr(text, "ShardedDatabase"); p != NULL; p = strstr(p + 1, "ShardedDatabase")) {
        const char *line = p;
        while (line > text && line[-1] != '\n' && line[-1] != ',' && line[-1] != '{')
            line--;
        line += strspn(line, " \t\"'");
        if (strncmp(line, "kind", 4) == 0)
            return true;
    }
    return false;
}

static int check(const char *path, const char *const *flags, bool print, bool quiet)
{
    char *text = NULL;
    size_t length = 0;
    if (path == NULL)
        return check_manager(NULL, flags, print);
    int rc = command_read_file(NULL, path, &text, &length);
    if (rc != CLI_OK)
        return rc;
    bool spec = is_spec(text);
    if (!spec && strcmp(path, "-") == 0)
        rc = session_fail(NULL, CLI_USAGE, "a manager's configuration is read from a file, not from stdin");
    else
        rc = spec ? check_spec(strcmp(path, "-") == 0 ? "stdin" : path, text, length, print)
                  : check_manager(path, flags, print);
    free(text);
    if (rc == CLI_OK && !quiet)
        fprintf(stderr, "%s: ok (%s)\n", path,
                spec ? "database specification" : "configuration of a manager");
    return rc;
}

int command_check_config(const struct args *args)
{
    const char *flags[ARGS_MAX + 1] = {0};
    const char *named = args_value(args, "config");
    bool print = args_has(args, "print"), quiet = args_has(args, "quiet");
    int count = 0, rc = CLI_OK;
    for (int i = 0; i < args->given_count; i++)
        if (strcmp(args->given[i].flag->name, "set") == 0)
            flags[count++] = args->given[i].value;
    if (named != NULL || args->word_count == 0)
        rc = check(named, flags, print, quiet);
    for (int i = 0; i < args->word_count; i++) {
        int one = check(args->words[i], flags, print, quiet);
        rc = one != CLI_OK ? one : rc;
    }
    return rc;
}
