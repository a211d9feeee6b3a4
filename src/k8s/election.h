/*
 * election: who leads, by a coordination.k8s.io Lease. No I/O, no clock.
 *
 * client-go's tools/leaderelection with its constants, 15 s / 10 s / 2 s, and its one safety rule taken
 * seriously: a record counts as expired when *this* process has not seen it change for the duration written
 * *in the record*, by its own monotonic clock (rules K23, K24). Clocks of others, and wall clocks, decide
 * nothing. Leading is a right until election_valid_until(): whoever writes asks that first, so a process that
 * was paused, or whose renewals do not get through, has stopped before anybody else may begin.
 */
#ifndef K8S_ELECTION_H
#define K8S_ELECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/err.h"

#define ELECTION_LEASE_NS (15 * ENV_NS_PER_S)
#define ELECTION_RENEW_NS (10 * ENV_NS_PER_S)
#define ELECTION_RETRY_NS (2 * ENV_NS_PER_S)

enum election_method { ELECTION_GET, ELECTION_CREATE, ELECTION_UPDATE };

struct election_request {
    enum election_method method;
    const char *body; /* of CREATE (POST) and UPDATE (PUT); valid until the next call */
};

struct election_step {
    bool send; /* make this request, dropping one that still runs; its answer goes to election_answer() */
    struct election_request request;
    uint64_t deadline_ns; /* call election_tick() then, if nothing came before */
    bool won, lost;       /* leadership began or ended in this call */
};

struct election;

struct election_options {
    struct env *env;  /* random for jitter; wall clock for the times that humans read */
    const char *name; /* of the Lease */
    const char *name_space;
    const char *identity; /* unique for each process that ever runs */
    const char *dead;     /* identities of processes that are known to have ended, each followed by a newline;
                             NULL = of none. What one of them holds is taken at once */
};

struct election *election_new(const struct election_options *options);
void election_free(struct election *e);

void election_start(struct election *e, uint64_t now_ns, struct election_step *step);
void election_tick(struct election *e, uint64_t now_ns, struct election_step *step);
/* status 0: no answer (lost, timed out, canceled). body: the Lease for 200 and 201. */
void election_answer(struct election *e, uint64_t now_ns, int status, const char *body, size_t length,
                     struct election_step *step);
/*
 * Gives the leadership back: call it when everything that needed it has stopped. One UPDATE follows, if we
 * lead; its answer, or a tick, ends it. step.lost is set at once.
 */
void election_release(struct election *e, uint64_t now_ns, struct election_step *step);

/* Monotonic time until which we lead, 0 if we do not. */
uint64_t election_valid_until(const struct election *e);
bool election_leads(const struct election *e, uint64_t now_ns);
/* Who holds the lease as far as we know, "" = nobody. */
const char *election_holder(const struct election *e);
/* leaseTransitions of the record we lead by or saw last. */
int64_t election_transitions(const struct election *e);

#endif
