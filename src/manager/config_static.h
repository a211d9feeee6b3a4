/*
 * config_static: the list discovery.static. Not for other folders.
 */
#ifndef MANAGER_CONFIG_STATIC_H
#define MANAGER_CONFIG_STATIC_H

#include "manager/config.h"
#include "manager/config_node.h"

/* Replaces c->instances; on failure the list is as far as it was read. node NULL or null: empty. */
int config_static_parse(const struct config_node *node, const char *source, struct config *c,
                        struct err *err);
void config_static_free(struct config *c);
/* As the value of a key that stands at four blanks. */
void config_static_print(const struct config *c, struct buf *out);
/* Members of one entry as they are written, NULL-ended; the test of docs and schema compares them. */
const char *const *config_static_keys(void);

#endif
