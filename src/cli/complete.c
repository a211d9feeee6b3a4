/*
 * shardherd __complete WORD...: what the last word could become, one candidate a line, with a tab and a
 * description where there is one. ":files" and ":directories" ask the shell to complete those itself.
 *
 * A command's `completes` names what its words are, one entry for each, the last one for all that follow:
 *   kinds       of things;  names  of the kind that the word before says;
 *   databases, shards, operations  that exist;  commands;  files;
 *   a|b         these words.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/command.h"
#include "cli/resource.h"

#define ASK_NS (500 * ENV_NS_PER_MS)

struct completion {
    const struct cli_command *command; /* NULL = its name is to be completed */
    const char *words[ARGS_MAX];       /* before the current one, without flags and their values */
    int word_count;
    char *argv[ARGS_MAX * 2]; /* everything before the current one, joined at "=" */
    int argc;
    const char *current;
    const char *before; /* of the candidates, "--database=" when the value is completed in the same word */
};

static void offer(const struct completion *c, const char *text, size_t length, const char *about)
{
    size_t typed = strlen(c->current);
    if (length < typed || strncmp(text, c->current, typed) != 0)
        return;
    struct buf out = {0};
    buf_printf(&out, "%s%.*s", c->before, (int)length, text);
    if (about != NULL && about[0] != '\0') {
        buf_addc(&out, '\t');
        table_print_text(&out, about, TABLE_PLAIN, false);
    }
    puts(buf_text(&out));
    buf_free(&out);
}

static void offer_words(const struct completion *c, const char *list)
{
    for (const char *p = list; *p != '\0';) {
        size_t length = strcspn(p, "|");
        offer(c, p, length, NULL);
        p += length + (p[length] == '|');
    }
}

static void offer_commands(const struct completion *c)
{
    for (const struct cli_command *command = cli_commands; command->name != NULL; command++)
        if (!command->hidden)
            offer(c, command->name, strlen(command->name), command->summary);
}

static void offer_kinds(const struct completion *c)
{
    bool describe = strcmp(c->command->name, "describe") == 0;
    for (const struct resource *r = resources; r->kind != NULL; r++)
        if (!describe || r->describe != NULL)
            offer(c, describe ? r->kind : r->names, describe ? strlen(r->kind) : strcspn(r->names, " "),
                  NULL);
}

static const char *about(const struct resource *r, yyjson_val *item, struct buf *out)
{
    if (strcmp(r->kind, "operation") == 0)
        buf_printf(out, "%s %s/%s %s", json_get_text(item, "kind"), json_get_text(item, "database"),
                   json_get_text(item, "shard"), json_get_text(item, "status"));
    return buf_text(out);
}

/* The names that the manager knows; nothing when it does not answer in time. */
static void offer_names(const struct completion *c, const char *kind)
{
    const struct args_flag *tables[CLI_TABLES_MAX];
    struct session s;
    struct args args;
    struct err err = {0};
    yyjson_doc *list = NULL;
    size_t i, max;
    yyjson_val *item;
    cli_tables(c->command, tables);
    if (args_parse(c->argc, c->argv, tables, &args, &err) != 0)
        args = (struct args){0};
    if (session_open(&s, env_system(), c->command, &args) != CLI_OK)
        return;
    s.silent = true;
    s.timeout_ns = ASK_NS;
    const struct resource *r = resource_find(&s, kind);
    if (r != NULL && r->list(&s, &list) == CLI_OK)
        yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(list), "items"), i, max, item)
        {
            struct buf name = {0}, text = {0};
            r->name(item, &name);
            offer(c, buf_text(&name), name.length, about(r, item, &text));
            buf_free(&name);
            buf_free(&text);
        }
    yyjson_doc_free(list);
    session_close(&s);
}

static void offer_source(const struct completion *c, const char *source, size_t length)
{
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), source);
    if (strcmp(word, "kinds") == 0)
        offer_kinds(c);
    else if (strcmp(word, "names") == 0 && c->word_count > 0)
        offer_names(c, c->words[0]);
    else if (strcmp(word, "databases") == 0 || strcmp(word, "shards") == 0 || strcmp(word, "operations") == 0)
        offer_names(c, word);
    else if (strcmp(word, "commands") == 0)
        offer_commands(c);
    else if (strcmp(word, "file") == 0 || strcmp(word, "files") == 0)
        puts(":files");
    else if (strcmp(word, "directory") == 0)
        puts(":directories");
    else if (strcmp(word, "shards-word") == 0)
        offer_words(c, "shards");
    else
        offer_words(c, word);
}

/* The entry for the word at this place; the last entry serves the rest. */
static void offer_place(const struct completion *c)
{
    const char *p = c->command->completes;
    if (p == NULL)
        return;
    for (int place = 0; place < c->word_count; place++) {
        const char *next = strchr(p, ' ');
        if (next == NULL)
            break;
        p = next + 1;
    }
    offer_source(c, p, strcspn(p, " "));
}

static void offer_flags(const struct completion *c, const struct args_flag *const *tables)
{
    for (; *tables != NULL; tables++)
        for (const struct args_flag *f = *tables; f->name != NULL; f++) {
            char *name = mem_printf("--%s", f->name);
            offer(c, name, strlen(name), f->help);
            free(name);
        }
}

static const struct args_flag *flag_of(const struct args_flag *const *tables, const char *word)
{
    if (word[0] != '-' || word[1] == '\0')
        return NULL;
    if (word[1] != '-')
        return word[2] == '\0' ? args_find_letter(tables, word[1]) : NULL;
    return strchr(word, '=') == NULL ? args_find(tables, word + 2, strlen(word + 2)) : NULL;
}

/* Bash takes "--flag=value" apart: "--flag", "=", "value". */
static void gather(struct completion *c, int argc, char **argv)
{
    c->current = argc > 1 ? argv[argc - 1] : "";
    c->before = "";
    c->argv[c->argc++] = argv[0];
    if (strcmp(c->current, "=") == 0)
        c->current = "";
    for (int i = 1; i < argc - 1 && c->argc < ARGS_MAX; i++)
        if (strcmp(argv[i], "=") != 0)
            c->argv[c->argc++] = argv[i];
    c->argv[c->argc] = NULL;
}

static void find_words(struct completion *c)
{
    const struct args_flag *tables[CLI_TABLES_MAX + 1] = {session_flags, NULL};
    for (int i = 1; i < c->argc; i++) {
        const char *word = c->argv[i];
        const struct args_flag *flag = flag_of(tables, word);
        if (flag != NULL && flag->value != NULL)
            i++;
        else if (word[0] == '-')
            continue;
        else if (c->command == NULL) {
            c->command = cli_find(word);
            if (c->command == NULL)
                return;
            cli_tables(c->command, tables);
            memmove(&c->argv[i], &c->argv[i + 1], (size_t)(c->argc - i) * sizeof c->argv[0]);
            c->argc--;
            i--;
        } else if (c->word_count < ARGS_MAX)
            c->words[c->word_count++] = word;
    }
}

/* "--database=sh" in one word: the value is completed, and the candidates begin with "--database=". */
static const struct args_flag *split_current(struct completion *c, const struct args_flag *const *tables)
{
    const char *equal = strchr(c->current, '=');
    if (strncmp(c->current, "--", 2) != 0 || equal == NULL)
        return NULL;
    const struct args_flag *flag = args_find(tables, c->current + 2, (size_t)(equal - c->current) - 2);
    c->before = mem_strndup(c->current, (size_t)(equal - c->current) + 1);
    c->current = equal + 1;
    return flag;
}

int command_complete(int argc, char **argv)
{
    struct completion c = {0};
    const struct args_flag *tables[CLI_TABLES_MAX] = {session_flags, NULL};
    gather(&c, argc, argv);
    find_words(&c);
    if (c.command != NULL)
        cli_tables(c.command, tables);
    const struct args_flag *same = split_current(&c, tables);
    const struct args_flag *last = c.argc > 1 ? flag_of(tables, c.argv[c.argc - 1]) : NULL;
    if (same == NULL && last != NULL && last->value != NULL) {
        same = last;
        c.argv[--c.argc] = NULL; /* its value is what is being typed */
    }
    if (same != NULL && same->completes != NULL)
        offer_source(&c, same->completes, strlen(same->completes));
    else if (same == NULL && c.current[0] == '-')
        offer_flags(&c, tables);
    else if (same == NULL && c.command == NULL)
        offer_commands(&c);
    else if (same == NULL && c.command->run != NULL)
        puts(":files");
    else if (same == NULL)
        offer_place(&c);
    if (c.before[0] != '\0')
        free((char *)(uintptr_t)c.before);
    return CLI_OK;
}
