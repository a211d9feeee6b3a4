/*
 * static_list: the entries of the static list, checked and resolved to accesses. Not for other folders.
 */
#ifndef DISCOVERY_STATIC_LIST_H
#define DISCOVERY_STATIC_LIST_H

#include "base/env.h"
#include "discovery/discovery.h"

/* One instance as a source gives it. */
struct found {
    char *name, *database, *shard; /* the latter two never NULL */
    struct instance_access access;
    struct err err; /* the secret cannot be read now: access.password is not meant */
    bool pending;   /* the secret is being read for the first time: the rest is not meant either */
};
void found_clear(struct found *found);

/* A checked entry: `found` without its password, and where that comes from. */
struct static_entry {
    struct found found;
    char *password_env, *password_file, *passfile;
};

struct static_list {
    struct static_entry *entries;
    int count;
};

/* Checks all, copies all; ERRC_INVALID names the entry. No I/O. */
int static_list_make(const struct discovery_entry *entries, int count, struct static_list *ret,
                     struct err *err);
void static_list_free(struct static_list *list);
void static_list_copy(struct static_list *dst, const struct static_list *src);

/* On the loop: passwords that the environment holds. ERRC_NOT_FOUND goes to found.err. */
void static_list_environment(struct static_list *list, struct env *env);
/* Worker: passwords that files hold. Errors go to found.err. */
void static_list_files(struct static_list *list);

#endif
