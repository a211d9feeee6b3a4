/*
 * config_node: YAML (or JSON) text as a small tree that knows the place of everything. Not for other folders.
 *
 * Stricter than YAML: one document, no anchors, aliases or tags, no key twice, 32 levels, 1 MiB, 64 keys in
 * one mapping. Scalars are text; what they mean is for the one who reads them. Every error begins with
 * "source:line:column: ", both counted from 1.
 */
#ifndef MANAGER_CONFIG_NODE_H
#define MANAGER_CONFIG_NODE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

#define CONFIG_TEXT_MAX  (1024 * 1024)
#define CONFIG_DEPTH_MAX 32
#define CONFIG_KEYS_MAX  64
#define CONFIG_NODES_MAX 200000 /* the longest static list with every member has 150,000 */

enum config_node_kind { CONFIG_NODE_TEXT, CONFIG_NODE_MAP, CONFIG_NODE_LIST };

struct config_node {
    enum config_node_kind kind;
    char *text; /* CONFIG_NODE_TEXT only */
    bool plain; /* not quoted, so that null means nothing */
    int line, column;
    char *key; /* inside a mapping, else NULL */
    int key_line, key_column;
    struct config_node *items; /* of a mapping or list, in order */
    int count;
};

/* ERRC_INVALID. An empty text is a null. On failure *ret is empty; config_node_free() it after success. */
int config_node_parse(const char *text, size_t length, const char *source, struct config_node *ret,
                      struct err *err);
void config_node_free(struct config_node *node);

/* Nothing, ~ or null, not quoted. */
bool config_node_is_null(const struct config_node *node);
/* The value of a key, NULL if it is not there or null. */
const struct config_node *config_node_get(const struct config_node *map, const char *key);

/* Sets "source:line:column: message" with the place of the value, or of its key; ERRC_INVALID. */
int config_node_fail(const struct config_node *node, const char *source, struct err *err, const char *fmt,
                     ...) __attribute__((format(printf, 4, 5)));
int config_node_fail_key(const struct config_node *node, const char *source, struct err *err, const char *fmt,
                         ...) __attribute__((format(printf, 4, 5)));

/* `what` names it in the message: "metadata is not a mapping: ...". */
int config_node_want_map(const struct config_node *node, const char *source, const char *what,
                         struct err *err);
int config_node_want_list(const struct config_node *node, const char *source, const char *what,
                          struct err *err);
int config_node_want_text(const struct config_node *node, const char *source, const char *what,
                          struct err *err);
/* Every key of the mapping is one of `known` (NULL-ended); the error names the nearest one. */
int config_node_want_keys(const struct config_node *map, const char *source, const char *const *known,
                          struct err *err);

/* The word that is at most a third of its letters away from `word`, or NULL. `words` is NULL-ended. */
const char *config_nearest(const char *word, const char *const *words);
/* " (did you mean \"x\"?)", or " (known here: a, b)" when nothing is near. */
#define CONFIG_HINT_SIZE 300
void config_hint(const char *word, const char *const *words, char out[CONFIG_HINT_SIZE]);

/* text in double quotes, escaped so that config_node_parse() gives it back. */
void config_print_quoted(const char *text, struct buf *out);

/* A value for an error text: cut at 40 bytes, without control characters. */
#define CONFIG_SHOW_SIZE 48
void config_show(const char *text, char out[CONFIG_SHOW_SIZE]);

#endif
