/* Finding the command that was meant, parsing its flags, and help. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/command.h"
#include "version.h"

static const struct args_flag help_flags[] = {{"help", 'h', NULL, "this text", NULL}, {0}};

const struct cli_exit_code cli_exit_codes[] = {
    {CLI_OK, "done"},
    {CLI_FAILED, "failed; also: the operation that was waited for was undone or failed"},
    {CLI_USAGE, "wrong usage or input: unknown command or flag, a file that does not hold"},
    {CLI_NOT_FOUND, "what was named does not exist"},
    {CLI_CONFLICT,
     "refused, or in conflict with something else; also: the checks of an operation found an error"},
    {CLI_UNREACHABLE, "the manager cannot be reached, or does not lead"},
    {CLI_TIMEOUT, "timed out"},
    {CLI_DIFFERENCE, "load: the check found a difference"},
    {CLI_INTERRUPTED, "load, demo: interrupted"},
    {0, NULL},
};

const struct cli_command *cli_find(const char *name)
{
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

void cli_tables(const struct cli_command *command, const struct args_flag *ret[CLI_TABLES_MAX])
{
    int count = 0;
    if (command->flags != NULL)
        ret[count++] = command->flags;
    ret[count++] = command->act != NULL || command->globals ? session_flags : help_flags;
    ret[count] = NULL;
}

/* ---- help ---- */

static void print_flags(const struct args_flag *flags)
{
    for (const struct args_flag *f = flags; f->name != NULL; f++) {
        struct buf left = {0};
        if (f->letter != 0)
            buf_printf(&left, "-%c, ", f->letter);
        else
            buf_add_text(&left, "    ");
        buf_printf(&left, "--%s%s%s", f->name, f->value != NULL ? " " : "", f->value != NULL ? f->value : "");
        printf("  %-26s %s\n", buf_text(&left), f->help);
        buf_free(&left);
    }
}

static void print_lines(const char *first, const char *other, const char *text)
{
    for (const char *p = text; *p != '\0';) {
        size_t length = strcspn(p, "\n");
        printf("%s%.*s\n", p == text ? first : other, (int)length, p);
        p += length + (p[length] == '\n');
    }
}

void cli_help(const struct cli_command *command)
{
    char *argv[] = {(char *)(uintptr_t)command->name, (char *)(uintptr_t) "--help", NULL};
    if (command->run != NULL) { /* it knows its flags itself */
        command->run(2, argv);
        return;
    }
    print_lines("Usage: shardherd ", "       shardherd ", command->usage);
    if (command->details != NULL)
        printf("\n%s\n", command->details);
    else
        printf("\n%c%s.\n", toupper((unsigned char)command->summary[0]), command->summary + 1);
    if (command->flags != NULL) {
        puts("\nFlags:");
        print_flags(command->flags);
    }
    bool globals = command->act != NULL || command->globals;
    puts(globals ? "\nFlags of every command:" : command->flags == NULL ? "\nFlags:" : "");
    print_flags(globals ? session_flags : help_flags);
    puts("\nExamples:");
    print_lines("  ", "  ", command->example);
}

static void print_commands(void)
{
    puts("shardherd herds a sharded PostgreSQL fleet.\n\nUsage: shardherd COMMAND [WORDS] "
         "[FLAGS]\n\nCommands:");
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        if (!c->hidden)
            printf("  %-14s %s\n", c->name, c->summary);
    puts("\nFlags of every command but manager, load and demo:");
    print_flags(session_flags);
    puts("\nExit codes:");
    for (const struct cli_exit_code *e = cli_exit_codes; e->meaning != NULL; e++)
        printf("  %3d  %s\n", e->code, e->meaning);
    puts("\n\"shardherd COMMAND --help\" says more, with examples.");
}

static int unknown_command(const char *name)
{
    struct nearest n;
    nearest_init(&n, name);
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        if (!c->hidden)
            nearest_offer(&n, c->name);
    if (n.best != NULL)
        return session_fail(NULL, CLI_USAGE, "there is no command \"%s\"; did you mean \"%s\"?", name,
                            n.best);
    return session_fail(NULL, CLI_USAGE, "there is no command \"%s\"; see: shardherd help", name);
}

int command_help(const struct args *args)
{
    if (args->word_count == 0) {
        print_commands();
        return CLI_OK;
    }
    const struct cli_command *command = cli_find(args->words[0]);
    if (command == NULL)
        return unknown_command(args->words[0]);
    cli_help(command);
    return CLI_OK;
}

int command_version(const struct args *args)
{
    const char *format = args_value(args, "output");
    if (format == NULL || strcmp(format, "table") == 0 || strcmp(format, "wide") == 0)
        printf("shardherd %s (%s)\n", SHARDHERD_VERSION, SHARDHERD_COMMIT);
    else if (strcmp(format, "json") == 0)
        printf("{\"version\": \"%s\", \"commit\": \"%s\"}\n", SHARDHERD_VERSION, SHARDHERD_COMMIT);
    else if (strcmp(format, "yaml") == 0)
        printf("version: \"%s\"\ncommit: \"%s\"\n", SHARDHERD_VERSION, SHARDHERD_COMMIT);
    else if (strcmp(format, "name") == 0)
        puts(SHARDHERD_VERSION);
    else
        return session_fail(NULL, CLI_USAGE,
                            "flag --output: \"%s\" is not one of table, wide, json, yaml, name", format);
    return CLI_OK;
}

/* ---- running ---- */

static int wrong_usage(const struct cli_command *command, const char *message)
{
    session_fail(NULL, CLI_USAGE, "%s: %s", command->name, message);
    fprintf(stderr, "  see: shardherd %s --help\n", command->name);
    return CLI_USAGE;
}

static int run_parsed(const struct cli_command *command, const struct args *args)
{
    struct session s;
    if (command->local != NULL)
        return command->local(args);
    int rc = session_open(&s, env_system(), command, args);
    if (rc != CLI_OK)
        return rc;
    rc = command->act(&s);
    if (rc == CLI_OK && s.broken)
        rc = CLI_FAILED;
    session_close(&s);
    return rc;
}

static int run_command(const struct cli_command *command, int argc, char **argv)
{
    const struct args_flag *tables[CLI_TABLES_MAX];
    struct args args;
    struct err err = {0};
    if (command->run != NULL)
        return command->run(argc, argv);
    cli_tables(command, tables);
    if (args_parse(argc, argv, tables, &args, &err) != 0)
        return wrong_usage(command, err.message);
    if (args_has(&args, "help")) {
        cli_help(command);
        return CLI_OK;
    }
    if (args.word_count < command->words_least || args.word_count > command->words_most)
        return wrong_usage(command, args.word_count < command->words_least ? "something is missing"
                                                                           : "too many words");
    return run_parsed(command, &args);
}

/* Where the command's name is: flags of every command may stand before it. 0 = there is none. */
static int find_name(int argc, char **argv)
{
    static const struct args_flag *const tables[] = {session_flags, NULL};
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (word[0] != '-')
            return i;
        const struct args_flag *flag = word[1] == '-' ? args_find(tables, word + 2, strcspn(word + 2, "="))
                                                      : args_find_letter(tables, word[1]);
        bool apart = word[1] == '-' ? strchr(word, '=') == NULL : word[1] != '\0' && word[2] == '\0';
        if (flag != NULL && flag->value != NULL && apart)
            i++;
    }
    return 0;
}

static int no_command(int argc, char **argv)
{
    static const struct args none = {.word_count = 0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--version") == 0)
            return command_version(&none);
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return command_help(&none);
    }
    if (argc > 1)
        return session_fail(NULL, CLI_USAGE, "%s: no command; see: shardherd help", argv[1]);
    command_help(&none);
    return CLI_USAGE;
}

int cli_main(int argc, char **argv)
{
    int at = find_name(argc, argv);
    if (at == 0)
        return no_command(argc, argv);
    const struct cli_command *command = cli_find(argv[at]);
    if (command == NULL)
        return unknown_command(argv[at]);
    /* The name first, then what stood before it, then what stands behind. */
    char **ordered = mem_array((size_t)argc + 1, sizeof *ordered);
    int count = 0;
    ordered[count++] = argv[at];
    for (int i = 1; i < argc; i++)
        if (i != at)
            ordered[count++] = argv[i];
    int rc = run_command(command, count, ordered);
    free(ordered);
    return rc;
}
