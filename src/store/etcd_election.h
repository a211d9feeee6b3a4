/*
 * etcd_election: who leads, by a key that lives as long as a lease. No I/O, no clock.
 *
 * A candidate looks for the leader's key; while there is none it has a lease granted and makes the key with
 * it, in one transaction with the next term, so a term belongs to one leadership and only grows. The leader
 * beats every third of the lease's time. etcd counts a lease's time from the beat it received, we from the
 * moment the beat was sent, and only two thirds of it: whoever asks etcd_election_valid_until() has stopped
 * before anybody else may begin, also after a pause of the process. Every beat is followed by a look at the
 * key: a key that was removed by hand ends the leadership.
 */
#ifndef STORE_ETCD_ELECTION_H
#define STORE_ETCD_ELECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"

enum etcd_election_ask {
    ETCD_ASK_LOOK,  /* read the leader's key and the term */
    ETCD_ASK_GRANT, /* a lease of ttl_s */
    ETCD_ASK_CLAIM, /* if there is no leader's key and the term is `term_mod`: make it with `lease`, and
                       `term` */
    ETCD_ASK_BEAT,  /* keep `lease` alive */
    ETCD_ASK_REVOKE /* end `lease` */
};

struct etcd_election_request {
    enum etcd_election_ask ask;
    int64_t lease;
    int64_t term, term_mod;
    uint64_t limit_ns; /* no answer by then is no answer */
};

/* What came back. `answered` false: nothing is known, the request may have been executed. */
struct etcd_election_answer {
    bool answered;
    int64_t lease, ttl_s; /* GRANT, BEAT: ttl_s 0 = there is no such lease (E3) */
    bool succeeded;       /* CLAIM */
    int64_t revision;     /* CLAIM that succeeded: of the key */
    /* LOOK, and a CLAIM that failed: what there is, zeros = nothing */
    int64_t leader_lease, leader_created, term, term_mod;
};

struct etcd_election_step {
    bool send; /* at most one request is under way */
    struct etcd_election_request request;
    uint64_t deadline_ns; /* call etcd_election_tick() then; 0 = the election is over */
    bool won, lost;       /* leadership began or ended in this call */
};

struct etcd_election;

struct etcd_election *etcd_election_new(struct env *env, int64_t ttl_s);
void etcd_election_free(struct etcd_election *e);

void etcd_election_start(struct etcd_election *e, uint64_t now_ns, struct etcd_election_step *step);
void etcd_election_tick(struct etcd_election *e, uint64_t now_ns, struct etcd_election_step *step);
void etcd_election_answered(struct etcd_election *e, uint64_t now_ns,
                            const struct etcd_election_answer *answer, struct etcd_election_step *step);
/* What needed the leadership has stopped: gives the lease back, if there is one, then it is over. */
void etcd_election_release(struct etcd_election *e, uint64_t now_ns, struct etcd_election_step *step);

/* Monotonic time until which we lead, 0 if we do not. */
uint64_t etcd_election_valid_until(const struct etcd_election *e);
int64_t etcd_election_term(const struct etcd_election *e);
/* create_revision of our key: what names this leadership in a compare (fencing). */
int64_t etcd_election_created(const struct etcd_election *e);

#endif
