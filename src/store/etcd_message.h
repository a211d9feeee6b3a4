/*
 * etcd_message: requests and answers of etcd's JSON gateway (v3), as text. No I/O, no clock.
 *
 * Keys and values travel in base64, 64-bit numbers as strings; what is zero, false or empty is left out.
 * Every body is made by the caller's buf, every answer is parsed by the caller's yyjson document.
 */
#ifndef STORE_ETCD_MESSAGE_H
#define STORE_ETCD_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/err.h"

/* ---- keys ---- */

/* The first key behind all that begin with the `length` bytes; "\0" = there is none (E7). Free it. */
char *etcd_prefix_end(const char *prefix, size_t length, size_t *ret_length);

void etcd_add_base64(struct buf *b, const char *bytes, size_t length);
/* NUL-terminated, to be freed; NULL if it is not base64. *ret_clean: it holds no NUL. */
char *etcd_base64_text(const char *text, bool *ret_clean);

/* ---- requests ---- */

struct etcd_range {
    const char *key;
    const char *end; /* NULL = just the key */
    size_t end_length;
    int64_t limit;            /* 0 = none */
    int64_t revision;         /* 0 = now */
    int64_t min_mod_revision; /* 0 = all */
    bool keys_only;
};
void etcd_add_range(struct buf *b, const struct etcd_range *r);

struct etcd_compare {
    const char *key;
    bool create;      /* the revision it was created at; else that of its last change */
    int64_t revision; /* 0 = there is no such key */
};

struct etcd_change {
    const char *key;
    const char *value; /* NULL = delete */
    int64_t lease;
};

/* If all compares hold, makes the changes; else reads `reads`: metadata only but for those in `values`. */
struct etcd_txn {
    const struct etcd_compare *compares;
    int compare_count;
    const struct etcd_change *changes;
    int change_count;
    const char *const *reads;
    int read_count;
    unsigned values; /* bit N: the value of reads[N], too */
};
void etcd_add_txn(struct buf *b, const struct etcd_txn *txn);

/* ---- answers ---- */

/* A 64-bit number as a string or as a number; 0 if it is absent or neither (E4). */
int64_t etcd_number(yyjson_val *object, const char *name);

/* header.revision and header.cluster_id (0 = not said; an unsigned number, here by its bits). */
int64_t etcd_revision(yyjson_val *answer);
int64_t etcd_cluster(yyjson_val *answer);

struct etcd_kv {
    char *key;
    char *value; /* NULL = not asked for, or not a text */
    int64_t create, mod, lease;
};
/* False if the key is no text (then it may be cut short). Free it in either case. */
bool etcd_kv_read(yyjson_val *kv, bool with_value, struct etcd_kv *ret);
void etcd_kv_free(struct etcd_kv *kv);

/* The answer to an etcd_txn: a missing `succeeded` is a failure (E2). */
bool etcd_txn_succeeded(yyjson_val *answer);
/* Of a failed one: what reads[index] found; NULL = there is no such key. */
yyjson_val *etcd_txn_read(yyjson_val *answer, size_t index);

/* One line of a watch's stream. */
struct etcd_watch_message {
    bool created;
    bool ended;         /* it will say no more: see the others */
    bool compacted;     /* what it was to start from is gone: reload */
    bool fragment;      /* the rest of the events follows */
    const char *reason; /* NULL or why it ended */
    int64_t revision, cluster;
    yyjson_val *events; /* array or NULL */
};
/* ERRC_PROTOCOL if it is none. Texts live as long as the document. */
int etcd_watch_read(yyjson_val *line, struct etcd_watch_message *ret, struct err *err);
/* An event: deleted = no value. False if it is not readable as one. */
bool etcd_event_read(yyjson_val *event, struct etcd_kv *ret, bool *ret_deleted);

/* ---- what a refusal means ---- */

enum etcd_fault {
    ETCD_FAULT_NONE,
    ETCD_FAULT_ENDPOINT,  /* this member cannot say now: try the next. Whether it was done is unknown (E8) */
    ETCD_FAULT_BUSY,      /* not done: try later */
    ETCD_FAULT_TOKEN,     /* not done: log in (again) */
    ETCD_FAULT_DENIED,    /* not done: name, password or role are wrong */
    ETCD_FAULT_NO_AUTH,   /* logging in is switched off there */
    ETCD_FAULT_NO_SPACE,  /* not done: the quota is used up (E9) */
    ETCD_FAULT_TOO_LARGE, /* not done */
    ETCD_FAULT_NO_LEASE,  /* there is no such lease */
    ETCD_FAULT_COMPACTED, /* that revision is gone */
    ETCD_FAULT_OTHER      /* not done, for a reason that will not change */
};
/* By HTTP status, gRPC code (-1 = none was said) and message ("" = none). */
enum etcd_fault etcd_fault_of(int status, int64_t code, const char *message);
/* Code and message of a JSON answer that is an error; false if it is none. */
bool etcd_error_read(yyjson_val *answer, int64_t *ret_code, const char **ret_message);
enum err_code etcd_fault_code(enum etcd_fault fault);

#endif
