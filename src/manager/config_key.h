/*
 * config_key: one setting: its name, type, place in a struct, default, range and help; and what follows from
 * them: parsing, printing, comparing. Not for other folders.
 *
 * The tables of these are the only place where a setting is defined: config_keys() for the manager's
 * configuration, config_balance_keys() for `spec.balance` of a database. docs, schema and sample files are
 * compared with them by tests.
 */
#ifndef MANAGER_CONFIG_KEY_H
#define MANAGER_CONFIG_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum config_type {
    CONFIG_TEXT,     /* char *, owned; NULL = not set */
    CONFIG_BOOL,     /* bool */
    CONFIG_INT,      /* int or unsigned */
    CONFIG_DURATION, /* uint64_t nanoseconds; CONFIG_OFF where off is allowed */
    CONFIG_REAL,     /* double; "16MB" is a number too */
    CONFIG_CHOICE,   /* an enum: the position in `choices` */
    CONFIG_ADDRESS,  /* char *, owned; numeric IPv4 or IPv6 */
    CONFIG_LIST      /* not a single value: read by its own code */
};
const char *config_type_name(enum config_type type); /* "duration" */

#define CONFIG_OFF UINT64_MAX

struct config_key {
    const char *path; /* "log.level": section and name, or a name alone */
    enum config_type type;
    size_t offset;
    const char *standard;   /* the default as it would be written; NULL = not set */
    const char *low, *high; /* range, inclusive, as it would be written; NULL = no range */
    const char *choices;    /* "debug|info"; of a CONFIG_TEXT too */
    bool off;               /* CONFIG_DURATION: "off" is a value */
    bool reloadable;        /* taken over without a restart */
    const char *help;
};

const struct config_key *config_keys(size_t *count);         /* base: struct config */
const struct config_key *config_balance_keys(size_t *count); /* base: struct balance_policy */

/* The name without its section. */
const char *config_key_name(const struct config_key *key);
/* SHARDHERD_LOG_LEVEL */
#define CONFIG_ENV_SIZE 64
void config_key_env(const struct config_key *key, char out[CONFIG_ENV_SIZE]);

/* Stores the value; NULL = the default. The message has the value and what would be right; ERRC_INVALID. */
int config_key_set(const struct config_key *key, void *base, const char *text, struct err *err);
/* What config_key_set() takes; false and nothing if it is a text that is not set. */
bool config_key_print(const struct config_key *key, const void *base, struct buf *out);
bool config_key_equal(const struct config_key *key, const void *a, const void *b);
/* From one struct to another; not for texts and lists. */
void config_key_copy(const struct config_key *key, void *to, const void *from);
/* Frees what it points to. */
void config_key_clear(const struct config_key *key, void *base);

/* Also for other texts: a number of nanoseconds in its largest exact unit ("10m"); the shortest exact number.
 */
void config_print_duration(uint64_t ns, struct buf *out);
void config_print_real(double value, struct buf *out);

#endif
