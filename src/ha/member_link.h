/*
 * member_link: our end of the conversation with one member's agent (docs/agent.md).
 *
 * It keeps the stream of the agent's statuses open, says what the member last told and when by our clock,
 * delivers the order that is wanted until the agent has taken it, and renews the lease while it is told to.
 * One request at a time beside the stream. What happened is told by `changed`, in the same turn or later,
 * never from inside a call of this interface; a status that says nothing new, by `heard`.
 *
 * Orders are wanted, not sent: member_link_want() replaces what was wanted before. The same order is
 * delivered again when the agent was started anew, and after each failure, until it is taken, refused as
 * stale, or another one is wanted. Delivering twice changes nothing (docs/agent.md). Who is closed gets none.
 */
#ifndef HA_MEMBER_LINK_H
#define HA_MEMBER_LINK_H

#include "ha/member_status.h"
#include "loop/loop.h"

struct member_link;
struct tls_context;

struct member_link_options { /* texts are copied */
    const char *name;        /* of the member; another one at the address is not believed */
    const char *host;
    int http_port;
    int port;                /* of its PostgreSQL, to see whether anybody answers */
    const char *token;       /* secret */
    struct tls_context *tls; /* of the agent's interface; NULL = plain, for loopback */
    void (*changed)(struct member_link *link, void *data);
    /* A status came that is member_status_same() as the last; NULL = `changed` tells of these as well. */
    void (*heard)(struct member_link *link, void *data);
    void *data;
};

struct member_link *member_link_new(struct loop *loop, const struct member_link_options *options);
/* Idempotent; `closed` (may be NULL) of the first call runs last, when the link is gone. */
void member_link_close(struct member_link *link, void (*closed)(void *data), void *data);

/*
 * The order to be in force there: a document of POST /v1/assign without "heard"; with_lease says that it has
 * lease_ms. NULL = none is wanted any more.
 */
void member_link_want(struct member_link *link, const char *order, bool with_lease);
/* The agent took the order that is wanted, in its present life. */
bool member_link_taken(const struct member_link *link);
/* The agent refused the order that is wanted (or a lease) because it knows of a later one. The error says
 * so. Forgotten with the next member_link_want() of another order. NULL = no. */
const struct err *member_link_stale(const struct member_link *link);

/* Renews the lease of this term with each status that comes; 0 = no more. */
void member_link_lease(struct member_link *link, uint64_t term);

/*
 * An order with a lease is delivered, and a lease renewed, only as far as is proved: that no later term was
 * claimed at a moment after the agent's clock said so. While it is guarded, so is any order that is wanted
 * when the agent waits for a confirmation (it was started anew, or stood still). member_link_wants_proof()
 * tells of which clock a proof is waited for (false: of none), and when we heard it by our own clock.
 */
void member_link_guard(struct member_link *link, bool on);
bool member_link_wants_proof(const struct member_link *link, uint64_t *clock, uint64_t *heard_ns);
void member_link_proved(struct member_link *link, uint64_t clock);

/* Has the agent ask its server now, and tries its server's port; soon repeated, at most every 50 ms. */
void member_link_look(struct member_link *link);

/* Another one has taken its place, at an address that its name may only have now: the stream is opened anew.
 */
void member_link_renew(struct member_link *link);

/* Has the server make a checkpoint; its status tells that one more has ended. */
void member_link_checkpoint(struct member_link *link);

/* NULL before the first. Valid until the next callback. */
const struct member_status *member_link_status(const struct member_link *link);

/* Writes the agent's part of an instance's facts, but for its confirmation, and that of our own connections.
 */
void member_link_facts(const struct member_link *link, struct ha_instance *ret);

const char *member_link_name(const struct member_link *link);

#endif
