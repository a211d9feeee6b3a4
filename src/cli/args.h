/*
 * args: words and flags of a command line. Pure.
 *
 * Flags may stand anywhere among the words: --name VALUE, --name=VALUE, -n VALUE, -nVALUE, switches without a
 * value;
 * "--" ends them. An unknown flag is an error that names the nearest known one.
 */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* A row of a table of flags, ended by a row whose name is NULL. */
struct args_flag {
    const char *name;  /* without the dashes */
    char letter;       /* 0 = none */
    const char *value; /* what help calls its value, "DURATION"; NULL = a switch */
    const char *help;
    const char *completes; /* what shells offer as values: "databases", "file", or words "table|wide"; NULL =
                              nothing */
};

#define ARGS_MAX 64

struct args {
    const char *words[ARGS_MAX]; /* point into argv */
    int word_count;
    struct {
        const struct args_flag *flag;
        const char *value; /* "" for a switch */
    } given[ARGS_MAX];
    int given_count;
};

/* tables: ended by NULL. argv[0] is skipped. ERRC_INVALID. */
int args_parse(int argc, char *const *argv, const struct args_flag *const *tables, struct args *ret,
               struct err *err);

/* The flag of this name or letter, whose name has the given length; NULL = none. */
const struct args_flag *args_find(const struct args_flag *const *tables, const char *name, size_t length);
const struct args_flag *args_find_letter(const struct args_flag *const *tables, char letter);

/* The last value given, or NULL. */
const char *args_value(const struct args *args, const char *name);
bool args_has(const struct args *args, const char *name);

/* ---- suggestions ---- */

struct nearest {
    const char *word;
    const char *best; /* NULL = nothing is near enough */
    unsigned distance;
};

void nearest_init(struct nearest *n, const char *word);
void nearest_offer(struct nearest *n, const char *candidate); /* kept as a pointer */

#endif
