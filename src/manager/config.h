/*
 * config: everything a manager can be told, from one YAML file, the environment and flags, in that order.
 *
 * A value object, read off the loop (files) and swapped whole: a file that does not hold keeps the old one.
 * Every error names file, line, column and remedy. Secrets are never part of it, only where to find them.
 * All keys are defined in one table (config_table.c); docs/configuration.md, config/shardherd.yaml and
 * config/shardherd.schema.json describe the same keys, and a test compares them.
 */
#ifndef MANAGER_CONFIG_H
#define MANAGER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/log.h"
#include "fleet/fleet.h"

struct config_instance {    /* discovery.static[] */
    char *name;             /* unique; "<database>-<shard>-0" by default */
    char *database, *shard; /* what it may serve; NULL = free */
    char *dsn;  /* postgresql:// or keyword form without a password, or NULL; the members below go first */
    char *host; /* the rest is NULL or 0 when not given */
    int port;
    char *dbname, *user, *sslmode, *sslrootcert;
    char *sslcert, *sslkey; /* both or none */
    /* at most one of them */
    char *passfile;      /* ~/.pgpass format, or NULL */
    char *password_file; /* its first line, or NULL */
    char *password_env;  /* name of an environment variable, or NULL */
};

struct config {
    bool in_pod; /* the environment is that of a pod */
    /* where */
    char *path;            /* of the file, NULL = none */
    char *state_directory; /* store, local instances, secrets; default /var/lib/shardherd, else
                              ~/.local/state/shardherd */
    /* log */
    enum log_level log_level;
    enum log_format log_format;
    /* listeners: public, admin, metrics */
    char *public_address, *admin_address, *metrics_address; /* default 127.0.0.1 */
    int public_port, admin_port, metrics_port;              /* default 8080, 8081, 9090; 0 = a free one */
    bool insecure_listen; /* allow addresses that are not loopback although there is no authentication yet */
    /* store */
    char *store_kind;     /* "auto" (default), "sqlite", "kubernetes", "etcd" */
    char *etcd_endpoints; /* URLs with commas between them, NULL = none */
    char *etcd_prefix;    /* "shardherd/" */
    char *etcd_user, *etcd_password_file, *etcd_ca_file, *etcd_cert_file, *etcd_key_file; /* NULL = none */
    /* kubernetes */
    char *kubeconfig, *kube_context; /* NULL = the usual places */
    char *kube_namespace;            /* NULL = that of the pod or of the context */
    char *kube_id;                   /* "shardherd" */
    /* runtime */
    char *runtime_kind;  /* "auto" (default), "local", "podman", "docker", "kubernetes", "cnpg", "none" */
    char *runtime_image; /* of shards' pods and containers, NULL = databases name theirs */
    char *runtime_bin_directory;                           /* NULL = search */
    char *runtime_address;                                 /* 127.0.0.1 */
    int runtime_first_port;                                /* 25432 */
    char *runtime_user;                                    /* NULL = choose */
    char *podman_socket, *podman_network, *podman_ulimits; /* NULL = search; "host"; NULL = the engine's */
    double podman_memory, podman_cpus;                     /* bytes, cores; 0 = no limit */
    int podman_pids;                                       /* 0 = the engine's */
    /* discovery */
    bool discovery_enabled;
    uint64_t discovery_interval_ns; /* 5 s */
    char *discovery_kubernetes;     /* "auto" (default), "on", "off" */
    char *discovery_namespaces;     /* names with commas between them, "*" = all, NULL = the manager's */
    bool discovery_by_image;        /* false */
    bool discovery_applications;    /* true */
    struct config_instance *instances;
    int instance_count;
    /* prometheus */
    bool prometheus_enabled; /* true; without a URL there is nothing to ask */
    char *prometheus_url;    /* NULL = none; the rest is NULL when not given */
    char *prometheus_token_file, *prometheus_ca_file;
    uint64_t prometheus_interval_ns, prometheus_timeout_ns; /* 15 s, 5 s */
    char *prometheus_series[9];                             /* as enum prometheus_series */
    /* polling */
    uint64_t load_period_ns, replication_period_ns, activity_period_ns, sizes_period_ns, settings_period_ns;
    uint64_t guards_period_ns;
    /* balance: defaults for databases that do not say otherwise */
    struct balance_policy balance;
    int max_moves; /* at a time in the fleet; 2 */
    /* moves */
    int copy_lanes;  /* 4 */
    int build_lanes; /* 0 */
    int copy_rate;   /* MiB/s of one move; 0 = no limit */
    int verify_rate; /* MiB/s of tables read on either side; 0 = no limit */
    uint64_t max_commit_latency_ns, max_standby_lag_ns; /* 20 ms, 5 s */
    int max_throughput_loss;                            /* percent, 10; 0 = not looked at */
    int max_retained_wal, min_free_disk;                /* MiB; 16384, 1024; 0 = no bound */
    uint64_t retire_wait_ns;                            /* 30 s; 0 = not waited */
};

/* All defaults; state_directory is root's. */
void config_init(struct config *c);
void config_free(struct config *c); /* empty afterwards, fine to free again */

/*
 * Reads path (NULL: only environment), then DISCOVERY_ENABLED, DISCOVERY_INTERVAL, KUBERNETES_NAMESPACE,
 * PROMETHEUS_ENABLED and PROMETHEUS_URL, then SHARDHERD_<KEY> (SHARDHERD_LOG_LEVEL is log.level), then
 * `flags`
 * ("key.path=value", NULL-ended; may be NULL). An empty variable is one that is not set. env may be NULL: no
 * environment. BACKUP_STORAGE_TYPE and S3_BUCKET have no meaning yet and are ignored.
 *
 * ERRC_INVALID with the place and the remedy: "shardherd.yaml:12:5: balance.threshold: ...", or "environment
 * variable SHARDHERD_LOG_LEVEL: log.level: ...", or "flag log.level: ..."; ERRC_NOT_FOUND and ERRC_IO for a
 * file that cannot be read. *ret is overwritten, not freed, and untouched on failure.
 *
 * Reads the file with blocking calls: call it before the loop runs, or on a worker job.
 */
int config_load(const char *path, struct env *env, const char *const *flags, struct config *ret,
                struct err *err);
/* The same from text (NULL = none), without I/O; `source` names it in errors and becomes `path`. */
int config_parse(const char *text, size_t length, const char *source, struct env *env,
                 const char *const *flags, struct config *ret, struct err *err);

/* The static list for discovery; texts are borrowed from c, free(*ret) only. Returns 0. */
struct discovery_entry;
int config_entries(const struct config *c, struct discovery_entry **ret, int *count);

/* All keys with their values as YAML, for `check-config --print`; config_parse() takes it back. */
struct buf;
void config_print(const struct config *c, struct buf *out);

/* True if the difference between a and b can be taken over without a restart; else *why names the key. */
bool config_can_reload(const struct config *a, const struct config *b, const char **why);

/* policy follows the defaults in everything but what was said for it (the bits of spec.balance_given). */
void config_balance_follow(struct balance_policy *policy, unsigned given,
                           const struct balance_policy *defaults);

/* ---- database specification, the same shape as the ShardedDatabase object ---- */

struct spec_shard {
    char *name;
    struct range range;
    char *instance; /* static instance to use, NULL = make one */
};

#define DATABASE_INSTANCES_MAX 9  /* of a shard: they are told apart by one digit */
#define DATABASE_NAME_MAX      32 /* bytes of a database's and of a shard's name */

struct database_spec {
    char *name;
    struct spec_shard *shards;
    int shard_count;
    struct {
        char *name, *key;
    } * tables;
    int table_count;
    int instances; /* of each shard, 1 to DATABASE_INSTANCES_MAX */
    struct instance_tags members[DATABASE_INSTANCES_MAX];
    char *schema; /* SQL, NULL = none */
    char *owner;  /* role, default "app" */
    struct balance_policy balance;
    unsigned balance_given; /* bit i: the i-th key of spec.balance was said, the others follow the defaults */
};

/*
 * From YAML or JSON text:
 *   apiVersion: shardherd.io/v1alpha1, kind: ShardedDatabase, metadata: {name: shop},
 *   spec: {shards: 2 | [{name, range: "lo..hi", instance}], instances: 1,
 *          members: [{number: 2, noFailover: true, noSync: true, priority: 0, replayDelay: 1h}],
 *          tables: [{name, key}],
 *          schema: "...", owner: app,
 *          balance: {split: auto, merge: off, rebalance: off, objective: query_rate, threshold: 1000,
 * relative: 1.2, window: 10, cooldown: 10m, mergeAfter: 1h, maxShards: 64, sample: 3s, bake: 15m}}
 *
 * `shards: N` gives s1 to sN with ranges of equal width, so does a list in which no shard has a range; else
 * every shard has one and together they cover the whole space. A table without a schema is in public; names
 * that are not quoted are folded to lower case, as PostgreSQL does. `source` names the text in errors:
 * ERRC_INVALID "source:line:column: ... (remedy)"; unknown keys are errors that name the nearest known one.
 * `defaults` NULL: balance_policy_defaults(). No I/O; at most 1 MiB. *ret is overwritten, untouched on
 * failure.
 */
int database_spec_parse(const char *text, size_t length, const char *source,
                        const struct balance_policy *defaults, struct database_spec *ret, struct err *err);
void database_spec_free(struct database_spec *spec);
/*
 * Whether its shards can be made here; `kept`: somebody keeps shards of several instances. ERRC_UNSUPPORTED:
 * it has several, and nobody does; ERRC_INVALID: its names are too long for that.
 */
int database_spec_makeable(const struct database_spec *spec, bool kept, struct err *err);
/*
 * The canonical JSON that is kept in the store under db/<name>/spec: the shards with their ranges one by one,
 * of `balance` what was said. database_spec_parse() with the same defaults gives the same again.
 */
void database_spec_print(const struct database_spec *spec, struct buf *json);

#endif
