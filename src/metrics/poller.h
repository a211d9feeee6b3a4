/*
 * poller: one persistent connection per instance, and what it learns written into the fleet's model.
 *
 * Each fleet_instance gets one poller with exactly one pg_conn (P11) to its access.dbname. Queries come in
 * groups with a period each; all that is due goes out in one pipeline, prepared. Replication and activity
 * are one transaction, as long as none of their queries fails: then each is one again (P9). The answers of
 * the load group are taken at once, for the time of its query is the probe; the others wait for each other
 * for 10 to 20 ms. A server where nobody did anything for 60 load polls has every other one until somebody
 * does. A poller writes fleet_instance.facts (but `health`, which src/health decides), .load, .probe and
 * .query_age, and keeps the rendered text of its metric families for exposition.h.
 *
 * Nothing here decides: an instance that does not answer has facts.failed_ns > facts.seen_ns, no more.
 */
#ifndef METRICS_POLLER_H
#define METRICS_POLLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "fleet/fleet.h"
#include "loop/loop.h"

struct pollers;

enum poll_group { POLL_LOAD, POLL_REPLICATION, POLL_ACTIVITY, POLL_SIZES, POLL_SETTINGS, POLL_GROUPS };
const char *poll_group_name(enum poll_group group); /* "load", "replication", ... */

#define POLL_OFF UINT64_MAX

struct pollers_options {
    /* 0 = 1 s, 1 s, 5 s, 60 s, 300 s; POLL_OFF = never (not for POLL_LOAD) */
    uint64_t period_ns[POLL_GROUPS];
    /* How long an answer may take before the connection is given up (P14); 0 = 2 s. Longer while a slow group
     * (sizes, settings) is on its way, because the answers come in order. */
    uint64_t deadline_ns;
    uint64_t connect_timeout_ns; /* per address; 0 = 2 s */
    bool restless;               /* servers where nothing happens are polled as often as others */
    /* Connects per second over all instances; 0 = 50. A SCRAM handshake costs a worker 5 to 7 ms of CPU. */
    unsigned connects_per_second;
    /* Connects under way; 0 = 64. Of those that are answered at once 8 go on at a time, so that servers and
     * workers that authenticate a fleet do not keep the loop from a processor. */
    unsigned connecting_max;
};

/* Each may be NULL. None runs from inside a call of this header. */
struct pollers_events {
    /* A load sample was added: facts and load are those of this moment. */
    void (*sampled)(struct fleet_instance *instance, void *data);
    /* The first successful load poll after none or after a failure. */
    void (*up)(struct fleet_instance *instance, void *data);
    /* The connection failed, was lost or did not answer in time, and it was up or never tried before. */
    void (*down)(struct fleet_instance *instance, const struct err *err, void *data);
};

/* Copies options (NULL = defaults) and events. Starts nothing before pollers_sync(). */
struct pollers *pollers_new(struct loop *loop, struct fleet *fleet, const struct pollers_options *options,
                            const struct pollers_events *events, void *data);

/*
 * The set of instances, their access or their labels (database, shard) changed: starts pollers for new ones,
 * reconnects those whose address changed, stops those that are no longer in the fleet.
 */
void pollers_sync(struct pollers *pollers);

/* Must be called before fleet_remove_instance(); the instance is not touched afterwards. */
void pollers_forget(struct pollers *pollers, struct fleet_instance *instance);

/* Polls this instance's groups at once (after a promotion, a move) instead of waiting for their period. */
void pollers_hurry(struct pollers *pollers, struct fleet_instance *instance);

/* The same with load and replication alone: its agent says something else of it (instance->member). */
void pollers_look(struct pollers *pollers, const struct fleet_instance *instance);

/* How often its load is polled now: for health_judge(). 0 = it is not polled. */
uint64_t pollers_load_period(const struct pollers *pollers, const struct fleet_instance *instance);

/*
 * A question of somebody else over the connection of this instance's polls, which is there anyway: it goes
 * out behind the next poll, as soon as there is a connection. One statement that changes nothing (the session
 * is read-only), takes no lock that others may hold for long and is quick, for later polls wait for its
 * answer. sql stays where it is until then.
 *
 * The callback comes exactly once, later: with the answer, or with the connection's error, also when there
 * could be none or the instance is forgotten. NULL if the instance is not polled: nothing was asked.
 */
struct pg_reply;
struct poll_question;
typedef void (*poll_answer_cb)(const struct pg_reply *reply, void *data);
struct poll_question *pollers_ask(struct pollers *pollers, const struct fleet_instance *instance,
                                  const char *sql, poll_answer_cb cb, void *data);
/* Its callback does not come any more. */
void poll_question_forget(struct poll_question *question);

/* Forgets every instance and closes every connection; `closed` (may be NULL) runs when the last is gone. */
void pollers_close(struct pollers *pollers, void (*closed)(void *data), void *data);

/* For /debug and tests. */
struct pollers_counts {
    unsigned instances;
    unsigned up;             /* last load poll succeeded */
    unsigned connecting;     /* handshakes under way */
    unsigned waiting;        /* wait for their turn to connect */
    uint64_t connects;       /* attempts so far */
    uint64_t polls;          /* group runs that succeeded */
    uint64_t polls_failed;   /* group runs that failed */
    uint64_t series_dropped; /* bad, duplicate or too many (P17) */
};
void pollers_count(const struct pollers *pollers, struct pollers_counts *ret);

#endif
