/*
 * member_status: what a member's agent says of itself (GET /v1/status, docs/agent.md), as numbers. No I/O.
 */
#ifndef HA_MEMBER_STATUS_H
#define HA_MEMBER_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "health/ha.h"

#define MEMBER_STANDBYS_MAX 32

struct member_standby { /* as a primary sees it */
    char name[HA_NAME_SIZE];
    bool streams;
    uint64_t flushed; /* 0 = not known */
};

struct member_status {
    char member[HA_NAME_SIZE];
    char life[24];      /* of the agent's process */
    uint64_t clock;     /* the agent's, for leases */
    uint64_t term, seq; /* of the order in force; 0 = none */
    char assigned[16];  /* "primary", "standby", "fenced", "stopped", "none" */
    char reported[16];  /* "primary", "promoting", ... */
    bool retired;       /* it is closed: it takes no orders any more */
    bool nobody;        /* the order is to be a standby without an upstream: it confirms */
    bool leaving;       /* it is to end, and waits for somebody to take over */
    bool confirmed;     /* the order was given in this life */
    bool settled;       /* it is carried out, and the rest was asked for afterwards */
    bool diverged;      /* it ran as a primary */
    bool plain, tls;    /* its server has no TLS; has it. Neither: its agent is an older one */
    char
        next_password[32]; /* which password it has at hand for when the servers get another one, "" = none */
    uint64_t checkpoints;  /* that it made on demand, in this life */
    uint64_t system_id;    /* 0 = not known */
    /* from the server; known = it let the agent in */
    bool known;
    bool primary;
    uint32_t timeline;
    uint64_t wal_term; /* under which its last bytes were written, 0 = not known */
    uint64_t flushed;
    uint64_t wal_from;  /* the oldest LSN of which it keeps its log, 0 = not known */
    uint64_t waits_at;  /* standby that lets nobody in yet: the segment of the log that it reads */
    char receiver[32];  /* "streaming", "" = there is none */
    char upstream[300]; /* "host:port" of who its receiver is connected to */
    bool heard;         /* the receiver had a word from its upstream */
    uint64_t silent_ns; /* since that word */
    uint64_t beat; /* count of the heartbeat row there, 0 = not known, or a primary that writes none now */
    unsigned standby_count; /* primary */
    /* of its container; contained = it is in one */
    bool contained;
    uint64_t cpu_us;                     /* used since the container began */
    double cpu_limit;                    /* processors; 0 = none */
    uint64_t memory_bytes, memory_limit; /* 0 = none */
    struct member_standby standbys[MEMBER_STANDBYS_MAX];
    char error[200];
};

/* ERRC_PROTOCOL when it is no status; *ret then is unchanged. What is not there is 0 or "". */
int member_status_parse(const char *json, size_t length, struct member_status *ret, struct err *err);

/* The two differ at most in positions, clocks and figures of use: in nothing that calls for another decision
 * where all is well. */
bool member_status_same(const struct member_status *a, const struct member_status *b);

enum ha_server member_status_server(const struct member_status *s);

/* How the primary sees this standby, NULL = not at all. */
const struct member_standby *member_status_standby(const struct member_status *s, const char *name);

#endif
