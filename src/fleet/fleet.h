/*
 * fleet: the model. Databases, their shards, the instances found, and what is known of each.
 *
 * No I/O. Observers (discovery, metrics) write facts, deciders read them, the manager owns the one object.
 * Every change of an instance's identity or liveness bumps `version`, so that watchers can compare cheaply.
 * Pointers stay valid until the object is removed by its owner.
 */
#ifndef FLEET_FLEET_H
#define FLEET_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "base/list.h"
#include "fleet/pod.h"
#include "fleet/routing.h"
#include "fleet/samples.h"

enum instance_role { ROLE_UNKNOWN, ROLE_PRIMARY, ROLE_STANDBY };
const char *instance_role_name(enum instance_role role);

enum instance_health { HEALTH_UNKNOWN, HEALTH_UP, HEALTH_SUSPECT, HEALTH_DOWN };
const char *instance_health_name(enum instance_health health);

/* How to reach an instance as shardherd's own superuser role. Secrets are wiped when it is freed. */
struct instance_access {
    char *host;
    int port;
    char *user;
    char *password; /* NULL = none (peer, trust, passfile) */
    char *dbname;   /* the database of the application, where shardherd's schema lives */
    char *sslmode;  /* NULL = prefer */
    char *sslrootcert;
    char *sslcert, *sslkey; /* files of our client certificate and its key; NULL = none */
    /* The CA as a file on the servers that subscribe to this one; "" = they have none and do not verify; NULL
     * = as for us. */
    char *peer_sslrootcert;
    /* Client certificate and key of those servers, as files on them; NULL = as for us. */
    char *peer_sslcert, *peer_sslkey;
    /* Somebody else's server that the runtime took over: it stays when its shard goes, without our schema. */
    bool lent;
    /* A member's agent, which takes orders over HTTP from who shows the token (docs/agent.md). NULL, 0: this
     * is no member. */
    char *agent_host;
    int agent_port;
    char *agent_token; /* a secret */
};

struct instance_facts {
    uint64_t seen_ns;   /* last successful poll, 0 = never */
    uint64_t failed_ns; /* last failed poll, 0 = never */
    char error[256];    /* of the last failed poll, without secrets */
    bool refused;       /* ... which was about who we or they are: a password, a certificate */
    enum instance_role role;
    enum instance_health health;
    int server_version; /* 150018 */
    uint32_t timeline;
    uint64_t system_identifier;
    int64_t started_us; /* postmaster start, wall clock */
    double
        lag_seconds; /* standby: replay lag, NAN when not known, never 0 while the receiver is down (P16) */
    uint64_t lag_bytes; /* standby: what is not replayed; means nothing while lag_seconds is not known */
    uint64_t wal_lsn;   /* insert position (primary) or replay position (standby) */
    int connections;    /* client backends */
    bool rests;         /* for a minute nobody but us did anything there */
    int max_connections;
    uint64_t database_bytes; /* of the application's database */
    uint64_t errors_total;   /* failed polls */
};

/* Of one of a shard's several instances: what its keeper knows. Written by the manager, each second and with
 * each new primary. */
struct instance_member {
    bool kept; /* else nothing is known */
    bool primary, sync, streams, lag_known;
    char upstream[64];  /* the standby that it follows; "" = the primary */
    bool unseen;        /* the primary, and not seen as one yet by its keeper */
    uint64_t lag_bytes; /* what it has not on its disk, 0 for a primary */
    double lag_seconds; /* standby: by the heartbeat, never 0 while its receiver is down; NAN = not known */
    uint64_t heard_ns;  /* last word of its agent */
    uint64_t term;      /* of the order in force there */
    char assigned[16];  /* "primary", "standby", ...; "" = its agent is not heard */
    char reported[16];  /* "primary", "starting", ... */
    char next_password[32]; /* which one it has at hand for when the servers get another, "" = none */
    char error[200];
};

struct fleet_instance {
    struct list node; /* in fleet.instances */
    char *name;       /* unique: "shop-s1-0" */
    char *database;   /* what it belongs to; "" = free */
    char *shard;
    char *source; /* who found it: "static", "local" */
    struct instance_access access;
    struct instance_facts facts;
    struct load_ring load;
    struct hist_sparse probe;     /* latency of the load group's poll */
    struct hist_sparse query_age; /* ages of running statements at each activity poll */
    struct instance_member member;
    struct instance_pod *pod; /* what is said of its pod; NULL = nothing */
    void *observer;           /* of metrics/: its poller */
};

enum auto_mode { AUTO_OFF, AUTO_RECOMMEND, AUTO_ON };
int auto_mode_parse(const char *text); /* "off", "recommend", "auto"; -1 */
const char *auto_mode_name(enum auto_mode mode);

/* What a database's owner asked of the balancer; durations in nanoseconds. */
struct balance_policy {
    enum auto_mode split, merge, rebalance;
    enum load_metric objective;
    double threshold;        /* in the objective's unit; default 1000 transactions/s */
    double relative;         /* x the fleet's mean; default 1.2 */
    unsigned window;         /* samples in a row; default 10 */
    uint64_t cooldown_ns;    /* per shard after a split; default 10 min */
    uint64_t merge_after_ns; /* default 1 h */
    unsigned max_shards;     /* default 64 */
    uint64_t sample_ns;      /* how long the change stream is listened to; default 3 s */
    uint64_t bake_ns;        /* between settle and clean-up; default 15 min */
};
void balance_policy_defaults(struct balance_policy *policy);

#define FLEET_TAGGED_MAX 9 /* instances of a shard: their numbers have one digit */

/* What its owner asked of the n-th instance of each shard. */
struct instance_tags {
    bool no_failover;  /* it is not promoted by itself */
    bool no_sync;      /* no commit waits for it */
    int priority;      /* of equally advanced ones the higher is promoted */
    uint64_t delay_ns; /* it replays so late on purpose, and is not promoted; 0 = at once */
    int follows; /* 1 + the number of the instance whose standby it is, and is not promoted; 0 = the primary's
                  */
};

struct fleet_database {
    struct list node; /* in fleet.databases */
    char *name;
    char *spec_json;          /* as applied, for the API */
    int64_t spec_revision;    /* store revision of db/<name>/spec */
    struct routing *routing;  /* NULL until provisioned */
    int64_t routing_revision; /* store revision of db/<name>/routing */
    struct balance_policy policy;
    unsigned policy_given; /* bit i: the specification says the i-th setting itself; the others follow the
                              defaults */
    unsigned instances;    /* of each shard; 0 = 1 */
    struct instance_tags tags[FLEET_TAGGED_MAX];
    unsigned initial_shards; /* of the specification: automatic merges never go below */
};

struct fleet {
    struct list databases;
    struct list instances;
    uint64_t version;
    struct fleet_index *index; /* what searches keep, so that a thousand of them do not look at a million */
};

void fleet_init(struct fleet *fleet);
void fleet_fini(struct fleet *fleet);

/* With the default policy; the one that is there if the name is taken. */
struct fleet_database *fleet_add_database(struct fleet *fleet, const char *name);
struct fleet_database *fleet_find_database(const struct fleet *fleet, const char *name);
/* How many each of its shards is to have; one of a database that is not known (NULL). */
unsigned fleet_instances_of(const struct fleet_database *db);
void fleet_remove_database(struct fleet *fleet, struct fleet_database *db);

/* Copies access. ERRC_EXISTS if the name is taken. */
int fleet_add_instance(struct fleet *fleet, const char *name, const char *source,
                       const struct instance_access *access, struct fleet_instance **ret, struct err *err);
struct fleet_instance *fleet_find_instance(const struct fleet *fleet, const char *name);
/* How far a standby is behind: by the heartbeat where a keeper knows it, else by its poll. NAN = not known,
 * or it is no standby. */
double fleet_lag_seconds(const struct fleet_instance *instance);
/* Who is reached there, the first of them; or NULL. The version has to be another one after access changed.
 */
struct fleet_instance *fleet_at(const struct fleet *fleet, const char *host, int port);
/* The primary of a shard, or NULL. A shard's primary is the instance at the routing table's primary address.
 */
struct fleet_instance *fleet_primary(const struct fleet *fleet, const char *database, const char *shard);
/* Whether it is served by somebody else's server, which the runtime took over: that one has no agent. */
bool fleet_is_lent(const struct fleet *fleet, const char *database, const char *shard);
void fleet_remove_instance(struct fleet *fleet, struct fleet_instance *instance);

void instance_access_copy(struct instance_access *dst, const struct instance_access *src);
void instance_access_clear(struct instance_access *access);

#endif
