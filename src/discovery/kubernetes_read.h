/*
 * kubernetes_read: values of Secrets and ConfigMaps, each read by its name and never listed or watched.
 *
 * Whoever needs values asks for them again and again, between kubernetes_reads_begin() and _end(): what is
 * not known is read (a few at a time), what is older than the period is read again, what nobody asked for any
 * more is wiped. A read that fails keeps the values that were there. What is kept of a value its owner says;
 * everything is wiped when it goes.
 */
#ifndef DISCOVERY_KUBERNETES_READ_H
#define DISCOVERY_KUBERNETES_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct k8s_client;
struct kubernetes_reads;

enum read_kind { READ_SECRET, READ_CONFIG_MAP };
enum read_state {
    READ_PENDING, /* `changed` follows */
    READ_HERE,    /* *ret is the value, NULL = the object has no such key, or nothing of it is kept */
    READ_FAILED   /* *ret_err says why */
};

struct kubernetes_reads_options {
    struct k8s_client *client; /* outlives the reads */
    uint64_t period_ns;        /* how old a value may get; 0 = 1 min */
    /*
     * What is kept of a value: a new text, or NULL. `asked`: somebody asked for this key. value is
     * NUL-terminated, and wiped after the call. NULL: each value that was asked for, as it is.
     */
    char *(*keep)(enum read_kind kind, const char *key, const char *value, bool asked, void *data);
    void (*changed)(void *data); /* something that was pending is here or failed, or has another value */
    void *data;
};

struct kubernetes_reads *kubernetes_reads_new(const struct kubernetes_reads_options *options);
/* No callback any more. `closed` runs later. */
void kubernetes_reads_close(struct kubernetes_reads *reads, void (*closed)(void *data), void *data);

void kubernetes_reads_begin(struct kubernetes_reads *reads);
/* Valid until the next kubernetes_reads_end() or turn. */
enum read_state kubernetes_reads_get(struct kubernetes_reads *reads, enum read_kind kind,
                                     const char *name_space, const char *name, const char *key,
                                     const char **ret, const struct err **ret_err);
/* All that is kept of the object, by `each`. */
enum read_state kubernetes_reads_all(struct kubernetes_reads *reads, enum read_kind kind,
                                     const char *name_space, const char *name,
                                     void (*each)(const char *key, const char *value, void *data), void *data,
                                     const struct err **ret_err);
void kubernetes_reads_end(struct kubernetes_reads *reads);

/* Parts, for tests and fuzzing: each key and value of a Secret's or ConfigMap's JSON; false if it is none. */
bool kubernetes_read_parse(enum read_kind kind, const char *json, size_t length,
                           void (*each)(const char *key, const char *value, void *data), void *data);

#endif
