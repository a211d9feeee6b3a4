/*
 * order: what a member is to be, as the manager assigned it, and the two small files that survive the agent.
 *
 * DATA.order holds the last order that was accepted, written and synced before anything of it is done: no
 * order of a lower (term, seq) is accepted afterwards. DATA.marks holds what the agent must know of its data
 * directory before it may start it. Both lie beside the data directory. Files: on workers only.
 */
#ifndef AGENT_ORDER_H
#define AGENT_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define ORDER_MEMBERS_MAX 16
#define ORDER_NAME_SIZE   64
#define ORDER_LABELS_MAX  16

enum order_role { ORDER_NONE, ORDER_PRIMARY, ORDER_STANDBY, ORDER_FENCED, ORDER_STOPPED };
/* How a standby gets behind its upstream: by what its data last was, by pg_rewind, or by a new copy. */
enum order_rejoin { ORDER_AUTO, ORDER_REWIND, ORDER_CLONE };

struct order {
    uint64_t term, seq; /* seq orders what one term says; 0 unless given */
    enum order_role role;
    /* standby: whom to follow; "" = nobody */
    char host[256];
    int port;
    char slot[ORDER_NAME_SIZE]; /* "" = none */
    bool upstream_plain;        /* its server has no TLS, as whoever gives orders knows */
    uint32_t timeline;          /* which the upstream has: bytes of it are of timeline_term; 0 = not said */
    uint64_t timeline_term;     /* 0 = of the order's own term, which the upstream leads */
    enum order_rejoin rejoin;
    uint64_t delay_ms; /* it replays so late; 0 = at once */
    /* primary */
    bool initialize;  /* make the data directory if there is none */
    bool closed;      /* stopped, fenced: for good; see order_parse() */
    bool closed_said; /* whether the document says so, or that it is not */
    bool held;        /* nobody but AGENT_SUPERUSER is let in yet */
    int sync_need;    /* a commit waits for so many of sync[]; 0 = for none */
    int sync_count, slot_count;
    char sync[ORDER_MEMBERS_MAX][ORDER_NAME_SIZE];
    char slots[ORDER_MEMBERS_MAX][ORDER_NAME_SIZE]; /* physical slots to make; also of a standby */
    uint64_t lease_ms;                              /* 0 = none */
    uint64_t heard;                                 /* the agent's clock that the caller knows; 0 = none */
};

const char *order_role_name(enum order_role role);

/* A document as POST /v1/assign takes it. Who has an order with closed takes no other that does not say
 * whether it is closed. ERRC_INVALID names what is wrong; unknown keys are. */
int order_parse(const char *json, size_t length, struct order *ret, struct err *err);
/* The same document, without "heard"; to be freed. */
char *order_text(const struct order *o);
/* Whether they say the same, but for "heard". */
bool order_same(const struct order *a, const struct order *b);
/* Before = 1, same (term, seq) = 0, after = -1. */
int order_compare(const struct order *a, const struct order *b);

/* ORDER_NONE with term 0 when there is no file. ERRC_CORRUPT when it cannot be read as one. */
int order_load(const char *data, struct order *ret, struct err *err);
int order_save(const char *data, const char *text, struct err *err);

struct marks {
    bool primary;             /* it may hold writes that no other has: set before it runs as a primary */
    bool rewinding;           /* a rewind began and did not end: it cannot be started */
    uint64_t rewound, cloned; /* the term of the order "rewind"/"clone" that was carried out last */
    uint64_t cloned_seq;      /* and its seq; UINT64_MAX: an older agent did not say */
    uint64_t primary_term;    /* under which `primary` was set, 0 = not known */
    unsigned label_count;     /* which term began which timeline, newest last: said by orders to follow */
    struct {
        uint32_t timeline;
        uint64_t term;
    } labels[ORDER_LABELS_MAX];
};
/* The data may come to hold bytes of this timeline, which are of this term. */
void marks_label(struct marks *marks, uint32_t timeline, uint64_t term);
/* The term under which the last bytes on this timeline were written, 0 = not known. */
uint64_t marks_term(const struct marks *marks, uint32_t timeline);
/* The copy that this order is for was made. */
bool marks_cloned(const struct marks *marks, const struct order *o);
int marks_load(const char *data, struct marks *ret, struct err *err);
int marks_save(const char *data, const struct marks *marks, struct err *err);

/* What pg_control says without a server: https://doxygen.postgresql.org/pg__control_8h.html */
enum control_state { CONTROL_SHUT = 1, CONTROL_SHUT_STANDBY = 2 };
struct control {
    uint64_t system_id; /* 0 = not readable */
    uint32_t state;
    uint64_t redo; /* where recovery begins */
};
void control_read(const char *data, struct control *ret);

#endif
