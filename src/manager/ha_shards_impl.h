/* ha_shards_impl: shared by ha_shards.c and ha_shards_route.c; nobody else includes it. */
#ifndef MANAGER_HA_SHARDS_IMPL_H
#define MANAGER_HA_SHARDS_IMPL_H

#include "base/hist.h"
#include "ha/shard_keeper.h"
#include "manager/ha_settle.h"
#include "manager/ha_shards.h"

struct ha_shards {
    struct ha_shards_options o;
    struct list shards;            /* of struct kept_shard */
    struct list releases;          /* of struct release */
    struct list counts;            /* of struct ha_count */
    struct loop_timer turn;        /* while somebody waits for a primary, or a table has to follow */
    struct loop_timer release;     /* of 0 ns: releases are looked at */
    unsigned open;                 /* keepers not closed yet, calls of the store, publications */
    bool making;                   /* a member */
    uint64_t make_ns;              /* not before */
    unsigned publishing;           /* of them */
    struct fleet_instance **index; /* all members by shard, while a look lasts: see ha_members_index() */
    unsigned indexed;
    struct ha_settle_options settle;
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task gone;
};

/*
 * A shard. `keeper` is NULL until all of its members are known, and again when it was closed; `closing`: its
 * keeper is being closed, then it goes.
 */
struct kept_shard {
    struct list node;
    struct ha_shards *all;
    char *database, *shard;
    struct shard_keeper *keeper;
    bool closing;
    bool again;           /* its keeper is being closed, since its members have changed */
    char *members;        /* that it has, as ha_members_text() tells them: a secret */
    char *primary;        /* the last that was opened, NULL = none yet */
    uint64_t term;        /* of it */
    uint64_t replicas_ns; /* when a table was last written for its standbys' sake; 0 = never */
    struct list waiters;
    char *authority; /* of its agents, PEM; NULL = not read yet, or they are spoken to in plain */
    bool authority_reading;
    uint64_t authority_ns;     /* when it is read again */
    struct settling *settling; /* its promoted instance, NULL = none */
};

struct ha_count { /* of one kind and database */
    struct list node;
    char *database;
    enum failover_kind kind;
    uint64_t done, undone;
    struct hist blocked;
};

/* ---- ha_shards_tell.c ---- */
/* For shard_keeper_options; data = struct kept_shard. */
void ha_shards_failing(const struct shard_keeper_failover *failover, void *data);
/* Once a second. */
void ha_shards_tell(struct ha_shards *h);
struct ha_count *ha_shards_count(struct ha_shards *h, const char *database, enum failover_kind kind);
void ha_shards_forget_counts(struct ha_shards *h);

/* ---- ha_shards_settle.c ---- */
/* For shard_keeper_options; data = struct kept_shard. */
void ha_shards_promoted(const struct shard_keeper_promoted *promoted, void *data);
/* Nobody wants to know any more. */
void ha_shards_unsettle(struct kept_shard *k);

/* ---- ha_shards_route.c ---- */
/* True: a table does not name the primary yet, and will be written, or is being written. */
bool ha_shards_follow(struct ha_shards *h);
/* What the runtime knows of where a member runs goes to the keeper. */
void ha_shards_place(const struct kept_shard *k, const char *instance);
/* ... for all of them; and what the keeper knows of its members goes into the fleet. */
void ha_shards_note(const struct kept_shard *k);

/* ---- ha_members.c ---- */
bool ha_shards_owner(const struct kept_shard *k, const struct fleet_instance *instance);
/* In the order of their numbers, which have one digit, as far as none is missing. Texts are the fleet's.
 * Returns how many. */
unsigned ha_members_of(const struct kept_shard *k, struct shard_keeper_member members[HA_INSTANCES_MAX]);
/* The fleet's members of this shard, in no order. Returns how many. */
unsigned ha_members_instances(const struct ha_shards *h, const char *database, const char *shard,
                              struct fleet_instance *ret[HA_INSTANCES_MAX]);
/* For a look at all shards: until ha_members_unindex() they are not searched for among all instances of the
 * fleet, to which none may be added meanwhile, nor any be taken away. */
void ha_members_index(struct ha_shards *h);
void ha_members_unindex(struct ha_shards *h);
/* What their owner asked of them, as the specification says now. */
void ha_members_tag(const struct kept_shard *k);
/* All that a keeper has to know of them, and how many are wanted: a secret, to be freed. */
char *ha_members_text(const struct kept_shard *k, const struct shard_keeper_member *members, unsigned count,
                      unsigned wanted);
/* Makes one that the fleet does not have. */
void ha_members_make(struct kept_shard *k, const struct fleet_database *db);

/* Whether the agent takes no orders but over TLS. */
bool ha_members_tls(const struct fleet_instance *instance);

/* ---- ha_tls.c ---- */
/* Reads the authority when it is time; false = it is needed and not known yet. */
bool ha_tls_known(struct kept_shard *k);
/* A new reference; NULL without an authority, or err says why. */
struct tls_context *ha_tls_context(const struct kept_shard *k, struct err *err);

/* ---- ha_shards.c ---- */
struct kept_shard *ha_shards_find(const struct ha_shards *h, const char *database, const char *shard);
void ha_shards_turn_soon(struct ha_shards *h);
bool ha_shards_keeps(const struct ha_shards *h, const char *database, const char *shard);
/* The database is being made, or goes away: then it is kept by ha_shards_drive(), or no more. */
bool ha_shards_provisions(const struct ha_shards *h, const char *database);
/* The last thing that was open has ended: the object may go. */
void ha_shards_settle(struct ha_shards *h);

#endif
