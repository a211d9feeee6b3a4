/*
 * reflector: keeps an object_store equal to what the API server has of one kind. No I/O, no clock.
 *
 * It says which request to send; whoever drives it (the watch driver on the wire, the simulation, a test)
 * feeds it what comes back, and the time. client-go's reflector with its rules K1 to K17
 * (docs/kubernetes.md), and with what the field's complaints add: a watch-list that stays silent falls back
 * to list and watch, a connection that died without a word is given up by deadlines of our own.
 */
#ifndef K8S_REFLECTOR_H
#define K8S_REFLECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "k8s/object_store.h"

struct reflector;

/* What one API server has shown; shared by its reflectors. */
struct reflector_server {
    bool no_watch_list; /* it refused a watch-list, or never ended one */
};

struct reflector_options {
    struct env *env;                 /* random only */
    struct reflector_server *server; /* outlives the reflector */
    const struct k8s_trim *trim;     /* NULL: keys and versions only; outlives it */
    size_t object_limit;             /* bytes of one object, 0 = 4 MiB */
    k8s_changed_cb changed;          /* may be NULL; must not call the reflector */
    void *data;
};

/* What the driver is to do after a call. */
struct reflector_step {
    bool abort;            /* drop the running request; nothing of it is to be fed any more */
    bool send;             /* start a GET with `query` now (after dropping) */
    bool watch;            /* it is a watch: an answer without end, read promptly */
    const char *query;     /* without '?', encoded; valid until the next call */
    uint64_t deadline_ns;  /* call reflector_tick() then, if nothing came before; 0 = never */
    uint64_t request_ends; /* the request that is sent: when the driver's own time limit may end it */
};

struct reflector *reflector_new(const struct reflector_options *options);
void reflector_free(struct reflector *r);

/* Each of these fills *step. */
void reflector_start(struct reflector *r, uint64_t now_ns, struct reflector_step *step);
void reflector_stop(struct reflector *r, struct reflector_step *step);
/* The head of the answer; retry_after is the header or NULL. */
void reflector_head(struct reflector *r, uint64_t now_ns, int status, const char *retry_after,
                    struct reflector_step *step);
/* Bytes of the body, decoded. */
void reflector_data(struct reflector *r, uint64_t now_ns, const char *bytes, size_t length,
                    struct reflector_step *step);
/* The answer ended, in order (err NULL) or not; also when no request could be started. */
void reflector_end(struct reflector *r, uint64_t now_ns, const struct err *err, struct reflector_step *step);
void reflector_tick(struct reflector *r, uint64_t now_ns, struct reflector_step *step);

/* The last resource version heard of, "" before the first. Inside `changed`: that of the change. */
const char *reflector_version(const struct reflector *r);

/* True once the store was complete for the first time. */
bool reflector_synced(const struct reflector *r);
const struct object_store *reflector_store(const struct reflector *r);

struct reflector_facts {
    const char *state;
    const char *version; /* last resource version, "" = none */
    uint64_t lists, watches, watch_lists, events, bookmarks, skipped, relists, errors;
    uint64_t last_heard_ns; /* the last byte of an answer that was no error */
    struct err last_error;  /* code NONE: none since the last success */
};
void reflector_facts(const struct reflector *r, struct reflector_facts *ret);

#endif
