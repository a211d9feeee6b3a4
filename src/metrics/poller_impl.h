/*
 * poller_impl: what the files of this folder share about pollers. Not for other folders.
 */
#ifndef METRICS_POLLER_IMPL_H
#define METRICS_POLLER_IMPL_H

#include "base/buf.h"
#include "base/list.h"
#include "base/sm.h"
#include "metrics/poller.h"
#include "metrics/query.h"
#include "pg/pg_conn.h"

#define POLL_SLOW_EXTRA_NS (5 * ENV_NS_PER_S)   /* the server's statement_timeout */
#define POLL_PATIENCE_NS   (10 * ENV_NS_PER_MS) /* of all answers but those that are timed */

/*
 * QUEUED --> CONNECTING --> READY
 *   ^             |           |
 *   +-- BACKOFF <-+-----------+
 *
 * QUEUED      waits in pollers.waiting for a token of the pacer
 * CONNECTING  waits for pg_conn's `connected`
 * READY       waits for the timer (the next group that is due) and for replies
 * BACKOFF     waits for the timer
 * CLOSED      waits for pg_conn's `closed`, then the memory goes
 */
enum poller_state {
    POLLER_QUEUED,
    POLLER_CONNECTING,
    POLLER_READY,
    POLLER_BACKOFF,
    POLLER_CLOSED,
    POLLER_STATES
};

struct poller;
struct samples;

/* One query of one instance; at most one of it is on its way. */
struct poller_slot {
    struct poller *poller;
    enum query_id query;
    bool in_flight;
    bool failed; /* the last answer was an error */
    uint64_t sent_ns;
    uint64_t took_ns;     /* of the last answer */
    uint64_t rendered_ns; /* when `samples` was made, or found to be what it would be now */
    uint64_t fingerprint; /* of what it was made from */
    uint64_t version;     /* another one for each `samples`, over all pollers */
    struct samples *samples;
};

struct poller_group {
    uint64_t due_ns;
    unsigned pending; /* answers still to come */
    bool failed;      /* one of them was an error */
    uint64_t started_ns;
    uint64_t took_ns;
    unsigned runs;       /* on this connection */
    int64_t success_us;  /* wall clock of the last complete success, 0 = never */
    uint64_t success_ns; /* the same on the monotonic clock */
    uint64_t errors;
    uint64_t skipped; /* due while the last run was still on its way */
};

/* What the next load sample is the difference to. */
struct poller_base {
    uint64_t at_ns; /* 0 = none */
    uint64_t transactions;
    uint64_t lsn;
    int64_t started_us;
    uint32_t timeline;
};

struct poller {
    struct pollers *pollers;
    struct fleet_instance *instance; /* NULL once forgotten */
    struct list node;                /* in pollers.all or pollers.closing */
    struct list wait_node;           /* in pollers.waiting */
    struct sm sm;
    struct pg_conn *conn;
    struct loop_timer timer;
    unsigned slot_index; /* place in pollers.table; kept for life */
    double phase;        /* 0..1: where in each period this instance is polled */
    char *address;       /* what the connection was made for */
    char *labels;        /* rendered: shard="s1",member="shop-s1-0" */
    char *own_labels;    /* the same with db="shop" in front */
    bool marked;         /* during pollers_sync() */
    bool tried;          /* a first attempt has ended, well or not */
    bool up;
    uint64_t down_ns;   /* since when it is not up */
    unsigned failures;  /* connects that failed in a row */
    int server_version; /* of the present or last connection */
    bool recovering;    /* by the last load poll */
    unsigned followers; /* senders and slots that the last run of the replication group found */
    bool alone;         /* it found none */
    unsigned quiet;     /* load polls in a row in which nobody but us did anything */
    bool apart;         /* queries are not joined, for one of them fails on this connection */
    bool timed;         /* the present load poll: its answer is read as soon as it comes */
    float probe_ms;     /* ... of the last that was */
    uint64_t connects;
    struct poller_base base;
    struct poller_group groups[POLL_GROUPS];
    struct poller_slot slots[QUERIES];
    struct list questions; /* pollers_ask(), to be sent */
    unsigned asked;        /* ... sent on this connection, not answered yet */
    uint64_t values_ns;    /* when the facts were last true */
};

struct pollers {
    struct loop *loop;
    struct fleet *fleet;
    struct pollers_options options; /* zeros replaced */
    struct pollers_events events;
    void *data;
    struct list all;
    struct list closing;
    struct list waiting;   /* QUEUED, in the order of their asking */
    struct poller **table; /* by slot_index; NULL = free */
    unsigned table_size;
    uint64_t generation; /* changes with the set of pollers */
    uint64_t made;       /* pollers made so far: the phase */
    uint64_t versions;   /* of rendered texts, given out so far */
    /* the pacer */
    struct loop_timer pacer;
    double tokens;
    uint64_t tokens_ns;
    unsigned connecting;
    struct pg_pacer *handshakes; /* of those that connect, so many are answered to at the same time */
    /* sends of this turn */
    uint64_t turn_ns;
    unsigned turn_sends;
    struct pollers_counts counts;
    struct dynamic_families *dynamic;
    bool closed_asked;
    struct loop_task closed_task;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- poller_conn.c ---- */
struct poller *poller_new(struct pollers *pollers, struct fleet_instance *instance);
void poller_close(struct poller *p);
/* The pacer lets it connect. */
void poller_connect(struct poller *p);
/* Drops the connection and connects again by the pacer. */
void poller_reconnect(struct poller *p);
/* The groups up to this one become due. */
void poller_hurry(struct poller *p, enum poll_group last);
bool poller_address_changed(const struct poller *p);
/* How often it is asked this group's queries: less often where its agent or nobody has something to say. */
uint64_t poller_period(const struct poller *p, enum poll_group g);
/* Nothing happened for so long: until something does, half the polls of its load would say so again. */
bool poller_rests(const struct poller *p);
/* Renders labels anew if shard or database changed; true if so. */
bool poller_relabel(struct poller *p);

/* ---- poller_question.c ---- */
/* On a ready connection. */
void poller_questions_send(struct poller *p);
/* Those that were not sent; the others fail with their connection. */
void poller_questions_fail(struct poller *p, const struct err *err);

/* ---- poller.c ---- */
void pollers_enqueue(struct pollers *pollers, struct poller *p);
void pollers_pace(struct pollers *pollers);
void pollers_gone(struct poller *p);
/* False if this turn has sent enough: try again in the next one. */
bool pollers_may_send(struct pollers *pollers);

/* ---- poller_facts.c: what an answer means for the model; reply is without error ---- */
void facts_take(struct poller *p, enum query_id query, const struct pg_reply *reply);
/* The load group's answer came `took` after it was sent: false if it is not what it should be. */
bool facts_take_load(struct poller *p, const struct pg_reply *reply, uint64_t took_ns);
void facts_failed(struct poller *p, const struct err *err);

/* ---- poller_text.c: the rendered families of the queries ---- */
void poller_text_take(struct poller *p, struct poller_slot *slot, const struct pg_reply *reply);
void poller_text_free(struct poller *p);

#endif
