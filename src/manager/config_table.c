/* The tables of all keys. */
#include <stddef.h>

#include "manager/config.h"
#include "manager/config_key.h"

#define AT(member)     offsetof(struct config, member)
#define POLICY(member) offsetof(struct balance_policy, member)
#define MODES          "off|recommend|auto"
#define OBJECTIVES     "query_rate|cpu|wal_rate|size"

/*
 * The balancer's keys stand in two files: snake_case in the manager's (X's first name, defaults for databases
 * that do not say otherwise), camelCase in a database's specification. Columns: names, type, member, default,
 * low, high, choices, help.
 */
#define BALANCE_KEYS(X)                                                                                      \
    X("split", "split", CONFIG_CHOICE, split, "auto", NULL, NULL, MODES,                                     \
      "Whether a hot shard is split: off, only recommended, or done.")                                       \
    X("merge", "merge", CONFIG_CHOICE, merge, "recommend", NULL, NULL, MODES,                                \
      "Whether two quiet neighbours become one shard.")                                                      \
    X("rebalance", "rebalance", CONFIG_CHOICE, rebalance, "recommend", NULL, NULL, MODES,                    \
      "Whether ranges move between existing shards when a new one is not worth it.")                         \
    X("objective", "objective", CONFIG_CHOICE, objective, "query_rate", NULL, NULL, OBJECTIVES,              \
      "What load is measured by: transactions per second, cores, bytes of WAL per second, or bytes on "      \
      "disk.")                                                                                               \
    X("threshold", "threshold", CONFIG_REAL, threshold, "1000", "0.001", "1e18", NULL,                       \
      "Load above which a shard can be hot, in the unit of the objective; 16MB is a number too.")            \
    X("relative", "relative", CONFIG_REAL, relative, "1.2", "1", "1000", NULL,                               \
      "A hot shard is also above this many times the mean of the database's other shards.")                  \
    X("window", "window", CONFIG_INT, window, "10", "1", "600", NULL,                                        \
      "Load samples in a row that must all be above both.")                                                  \
    X("cooldown", "cooldown", CONFIG_DURATION, cooldown_ns, "10m", "0s", "720h", NULL,                       \
      "How long a shard is left alone after a split, merge or move of it.")                                  \
    X("merge_after", "mergeAfter", CONFIG_DURATION, merge_after_ns, "1h", "1s", "24h", NULL,                 \
      "How long two neighbours must have been quiet together before they are merged.")                       \
    X("max_shards", "maxShards", CONFIG_INT, max_shards, "64", "1", "1024", NULL,                            \
      "A database never gets more shards than this by itself.")                                              \
    X("sample", "sample", CONFIG_DURATION, sample_ns, "3s", "100ms", "60s", NULL,                            \
      "How long the change stream of a hot shard is listened to for the split point.")                       \
    X("bake", "bake", CONFIG_DURATION, bake_ns, "15m", "0s", "720h", NULL,                                   \
      "How long a move can be taken back: its old copy is kept and follows the new one. With 0s neither.")

static const struct config_key keys[] = {
    {.path = "state_directory",
     .type = CONFIG_TEXT,
     .offset = AT(state_directory),
     .standard = "/var/lib/shardherd",
     .help = "Where the store, local instances and secrets are. A manager that is not root takes "
             "$XDG_STATE_HOME/shardherd or ~/.local/state/shardherd."},
    {.path = "insecure_listen",
     .type = CONFIG_BOOL,
     .offset = AT(insecure_listen),
     .standard = "false",
     .help = "Allow listen addresses that other machines reach, although nothing is authenticated yet."},
    {.path = "log.level",
     .type = CONFIG_CHOICE,
     .offset = AT(log_level),
     .standard = "info",
     .choices = "debug|info|warn|error",
     .reloadable = true,
     .help = "The least severe events that are logged."},
    {.path = "log.format",
     .type = CONFIG_CHOICE,
     .offset = AT(log_format),
     .standard = "logfmt",
     .choices = "logfmt|json",
     .reloadable = true,
     .help = "One line per event, as logfmt or JSON."},
    {.path = "listen.public_address",
     .type = CONFIG_ADDRESS,
     .offset = AT(public_address),
     .standard = "127.0.0.1",
     .help = "Address of the public API: routing tables and the health of the fleet."},
    {.path = "listen.public_port",
     .type = CONFIG_INT,
     .offset = AT(public_port),
     .standard = "8080",
     .low = "0",
     .high = "65535",
     .help = "Port of the public API; 0 = a free one."},
    {.path = "listen.admin_address",
     .type = CONFIG_ADDRESS,
     .offset = AT(admin_address),
     .standard = "127.0.0.1",
     .help = "Address of the admin API, which changes things."},
    {.path = "listen.admin_port",
     .type = CONFIG_INT,
     .offset = AT(admin_port),
     .standard = "8081",
     .low = "0",
     .high = "65535",
     .help = "Port of the admin API; 0 = a free one."},
    {.path = "listen.metrics_address",
     .type = CONFIG_ADDRESS,
     .offset = AT(metrics_address),
     .standard = "127.0.0.1",
     .help = "Address of /metrics, /livez and /readyz. In a pod 0.0.0.0 unless set, since probes come from "
             "outside."},
    {.path = "listen.metrics_port",
     .type = CONFIG_INT,
     .offset = AT(metrics_port),
     .standard = "9090",
     .low = "0",
     .high = "65535",
     .help = "Port of /metrics, /livez and /readyz; 0 = a free one."},
    {.path = "store.kind",
     .type = CONFIG_TEXT,
     .offset = AT(store_kind),
     .standard = "auto",
     .choices = "auto|sqlite|kubernetes|etcd",
     .help = "Where state is kept: a file in the state directory, ConfigMaps of the namespace, or an etcd. "
             "auto: Kubernetes in a pod, else the file."},
    {.path = "store.etcd_endpoints",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_endpoints),
     .help = "URLs of the members of one etcd cluster, with commas between them: "
             "https://10.0.0.5:2379,https://10.0.0.6:2379."},
    {.path = "store.etcd_prefix",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_prefix),
     .standard = "shardherd/",
     .help = "Keys in etcd begin with this; what begins with it belongs to this manager."},
    {.path = "store.etcd_user",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_user),
     .help = "User of etcd. Not set: none."},
    {.path = "store.etcd_password_file",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_password_file),
     .help = "File whose first line is the password of the user of etcd."},
    {.path = "store.etcd_ca_file",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_ca_file),
     .help = "File with the certificates that etcd's is checked with. Not set: the system's."},
    {.path = "store.etcd_cert_file",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_cert_file),
     .help = "File with the certificate to show to etcd."},
    {.path = "store.etcd_key_file",
     .type = CONFIG_TEXT,
     .offset = AT(etcd_key_file),
     .help = "File with the key of the certificate to show to etcd."},
    {.path = "kubernetes.kubeconfig",
     .type = CONFIG_TEXT,
     .offset = AT(kubeconfig),
     .help = "How to reach the API server. Not set: $KUBECONFIG, then the pod's service account, then "
             "~/.kube/config."},
    {.path = "kubernetes.context",
     .type = CONFIG_TEXT,
     .offset = AT(kube_context),
     .help = "Context of the kubeconfig. Not set: its current one."},
    {.path = "kubernetes.namespace",
     .type = CONFIG_TEXT,
     .offset = AT(kube_namespace),
     .help = "Namespace whose databases are looked after, and where state is kept. Not set: "
             "$KUBERNETES_NAMESPACE, then that of the pod or of the context."},
    {.path = "kubernetes.id",
     .type = CONFIG_TEXT,
     .offset = AT(kube_id),
     .standard = "shardherd",
     .help =
         "Names the Lease and the ConfigMaps of the state, so that several managers can share a namespace."},
    {.path = "runtime.kind",
     .type = CONFIG_TEXT,
     .offset = AT(runtime_kind),
     .standard = "auto",
     .choices = "auto|local|podman|docker|kubernetes|cnpg|none",
     .help =
         "What makes new instances: Kubernetes (StatefulSets), the CloudNativePG operator, containers of "
         "podman or Docker, this machine, or nothing (only servers of the static list are used). auto: "
         "Kubernetes in a pod, else podman or Docker where it answers and has the image, else this machine; "
         "what has made instances once stays."},
    {.path = "runtime.image",
     .type = CONFIG_TEXT,
     .offset = AT(runtime_image),
     .help = "Image of the pods and containers of shards, with PostgreSQL and shardherd, for databases that "
             "name none. podman and docker: shardherd:VERSION unless set, never pulled."},
    {.path = "runtime.bin_directory",
     .type = CONFIG_TEXT,
     .offset = AT(runtime_bin_directory),
     .help =
         "Folder with initdb and postgres, 15 or newer. Not set: the newest below /usr/lib/postgresql or in "
         "PATH."},
    {.path = "runtime.address",
     .type = CONFIG_ADDRESS,
     .offset = AT(runtime_address),
     .standard = "127.0.0.1",
     .help = "Where local instances and containers listen and are reached."},
    {.path = "runtime.first_port",
     .type = CONFIG_INT,
     .offset = AT(runtime_first_port),
     .standard = "25432",
     .low = "1024",
     .high = "65535",
     .help = "Local instances and containers take the first free port from here on and keep it."},
    {.path = "runtime.user",
     .type = CONFIG_TEXT,
     .offset = AT(runtime_user),
     .help = "As root: the user that local instances run as. Not set: postgres if it exists, else nobody."},
    {.path = "runtime.podman_socket",
     .type = CONFIG_TEXT,
     .offset = AT(podman_socket),
     .help = "Socket of podman's or Docker's API, such as /run/podman/podman.sock. Not set: "
             "$CONTAINER_HOST or $DOCKER_HOST, else the user's own, else the system's."},
    {.path = "runtime.podman_network",
     .type = CONFIG_TEXT,
     .offset = AT(podman_network),
     .standard = "host",
     .help = "Network of containers. host: servers listen on runtime.address themselves. Another one must "
             "exist, and runtime.address must then be one that containers reach: shards copy from each "
             "other."},
    {.path = "runtime.podman_memory",
     .type = CONFIG_REAL,
     .offset = AT(podman_memory),
     .standard = "0",
     .low = "0",
     .high = "1e15",
     .help = "Memory that a container may use, such as 2GB; the server's settings follow from it. 0: no "
             "limit."},
    {.path = "runtime.podman_cpus",
     .type = CONFIG_REAL,
     .offset = AT(podman_cpus),
     .standard = "0",
     .low = "0",
     .high = "4096",
     .help = "Cores that a container may use. 0: no limit."},
    {.path = "runtime.podman_pids",
     .type = CONFIG_INT,
     .offset = AT(podman_pids),
     .standard = "0",
     .low = "0",
     .high = "4194304",
     .help = "Processes that a container may have. 0: what the engine allows."},
    {.path = "runtime.podman_ulimits",
     .type = CONFIG_TEXT,
     .offset = AT(podman_ulimits),
     .help = "Limits of a container's processes, with commas between them: nofile=1024:4096,nproc=1000. Not "
             "set: the engine's."},
    {.path = "discovery.enabled",
     .type = CONFIG_BOOL,
     .offset = AT(discovery_enabled),
     .standard = "true",
     .help = "Whether servers are looked for at all."},
    {.path = "discovery.interval",
     .type = CONFIG_DURATION,
     .offset = AT(discovery_interval_ns),
     .standard = "5s",
     .low = "100ms",
     .high = "1h",
     .reloadable = true,
     .help = "How often secrets of the static list are read and local instances are listed."},
    {.path = "discovery.kubernetes",
     .type = CONFIG_TEXT,
     .offset = AT(discovery_kubernetes),
     .standard = "auto",
     .choices = "auto|on|off",
     .help = "Whether servers and applications are looked for in a Kubernetes cluster. auto: when its API "
             "server is used anyway; on: also for a manager outside."},
    {.path = "discovery.namespaces",
     .type = CONFIG_TEXT,
     .offset = AT(discovery_namespaces),
     .help = "Namespaces that are looked into, with commas between them, or * for all of them. Not set: "
             "kubernetes.namespace."},
    {.path = "discovery.by_image",
     .type = CONFIG_BOOL,
     .offset = AT(discovery_by_image),
     .standard = "false",
     .help = "Whether pods that nobody labelled are recognised by a PostgreSQL image and port 5432: all pods "
             "of the namespaces are watched then."},
    {.path = "discovery.applications",
     .type = CONFIG_BOOL,
     .offset = AT(discovery_applications),
     .standard = "true",
     .help = "Whether workloads are searched for environment variables that point at servers of the fleet; "
             "the Secrets they name are read."},
    {.path = "discovery.static",
     .type = CONFIG_LIST,
     .standard = "[]",
     .reloadable = true,
     .help = "Servers that are there already."},
    {.path = "prometheus.enabled",
     .type = CONFIG_BOOL,
     .offset = AT(prometheus_enabled),
     .standard = "true",
     .help = "Whether a Prometheus is asked, if one is named."},
    {.path = "prometheus.url",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_url),
     .help = "Where it answers, as in http://prometheus:9090. Not set: none is asked. Nothing waits for it."},
    {.path = "prometheus.bearer_token_file",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_token_file),
     .help =
         "File with the token to show to it, read again every minute; sent over https or to loopback only."},
    {.path = "prometheus.ca_file",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_ca_file),
     .help = "File with the certificates that its own is checked with. Not set: the system's."},
    {.path = "prometheus.interval",
     .type = CONFIG_DURATION,
     .offset = AT(prometheus_interval_ns),
     .standard = "15s",
     .low = "1s",
     .high = "1h",
     .help = "How often it is asked."},
    {.path = "prometheus.timeout",
     .type = CONFIG_DURATION,
     .offset = AT(prometheus_timeout_ns),
     .standard = "5s",
     .low = "100ms",
     .high = "1m",
     .help = "After this a query is given up."},
    {.path = "prometheus.cpu_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[0]),
     .standard = "container_cpu_usage_seconds_total",
     .help = "Name of the series for CPU time of containers; none: it is not asked for."},
    {.path = "prometheus.memory_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[1]),
     .standard = "container_memory_usage_bytes",
     .help = "Name of the series for memory of containers; none: it is not asked for."},
    {.path = "prometheus.volume_used_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[2]),
     .standard = "kubelet_volume_stats_used_bytes",
     .help = "Name of the series for bytes used on a volume; none: it is not asked for."},
    {.path = "prometheus.volume_size_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[3]),
     .standard = "kubelet_volume_stats_capacity_bytes",
     .help = "Name of the series for the size of a volume; none: it is not asked for."},
    {.path = "prometheus.received_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[4]),
     .standard = "container_network_receive_bytes_total",
     .help = "Name of the series for bytes that pods received; none: it is not asked for."},
    {.path = "prometheus.transmitted_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[5]),
     .standard = "container_network_transmit_bytes_total",
     .help = "Name of the series for bytes that pods sent; none: it is not asked for."},
    {.path = "prometheus.sessions_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[6]),
     .standard = "pg_stat_activity_count",
     .help = "Name of the series for sessions, of a PostgreSQL exporter; none: it is not asked for."},
    {.path = "prometheus.commits_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[7]),
     .standard = "pg_stat_database_xact_commit",
     .help = "Name of the series for transactions, of a PostgreSQL exporter; none: it is not asked for."},
    {.path = "prometheus.hits_series",
     .type = CONFIG_TEXT,
     .offset = AT(prometheus_series[8]),
     .standard = "pg_stat_database_blks_hit",
     .help = "Name of the series for buffer hits, of a PostgreSQL exporter; none: it is not asked for."},
    {.path = "polling.load",
     .type = CONFIG_DURATION,
     .offset = AT(load_period_ns),
     .standard = "1s",
     .low = "100ms",
     .high = "1m",
     .help = "Period of the load group: transactions, sessions, WAL. The balancer counts these samples. A "
             "server where nobody did anything for 60 polls is polled half as often until somebody does."},
    {.path = "polling.replication",
     .type = CONFIG_DURATION,
     .offset = AT(replication_period_ns),
     .standard = "1s",
     .low = "100ms",
     .high = "1m",
     .help = "Period of the replication group: lag, senders, slots."},
    {.path = "polling.activity",
     .type = CONFIG_DURATION,
     .offset = AT(activity_period_ns),
     .standard = "5s",
     .low = "100ms",
     .high = "1h",
     .off = true,
     .help = "Period of the activity group: connections by state, ages of statements."},
    {.path = "polling.sizes",
     .type = CONFIG_DURATION,
     .offset = AT(sizes_period_ns),
     .standard = "1m",
     .low = "1s",
     .high = "24h",
     .off = true,
     .help = "Period of the sizes group: databases and tables."},
    {.path = "polling.settings",
     .type = CONFIG_DURATION,
     .offset = AT(settings_period_ns),
     .standard = "5m",
     .low = "1s",
     .high = "24h",
     .off = true,
     .help = "Period of the settings group: the server's parameters."},
    {.path = "polling.guards",
     .type = CONFIG_DURATION,
     .offset = AT(guards_period_ns),
     .standard = "1m",
     .low = "1s",
     .high = "24h",
     .off = true,
     .help = "Period of the look at each shard's guards: triggers that are off, partitions attached or "
             "detached."},
    {.path = "moves.copy_lanes",
     .type = CONFIG_INT,
     .offset = AT(copy_lanes),
     .standard = "4",
     .low = "1",
     .high = "8",
     .reloadable = true,
     .help = "Connections in parallel that copy the rows of a move; each has one to either server."},
    {.path = "moves.build_lanes",
     .type = CONFIG_INT,
     .offset = AT(build_lanes),
     .standard = "0",
     .low = "0",
     .high = "16",
     .reloadable = true,
     .help =
         "Indexes and keys that a move builds side by side on a new shard; they share the memory of one "
         "(maintenance_work_mem, else 256 MB). 0 = as many as max_parallel_maintenance_workers there says, "
         "2 to 4."},
    {.path = "moves.copy_rate",
     .type = CONFIG_INT,
     .offset = AT(copy_rate),
     .standard = "0",
     .low = "0",
     .high = "100000",
     .reloadable = true,
     .help = "MiB/s that the copy of one move takes at most, for all of its lanes; 0 = as fast as it goes."},
    {.path = "moves.verify_rate",
     .type = CONFIG_INT,
     .offset = AT(verify_rate),
     .standard = "0",
     .low = "0",
     .high = "100000",
     .reloadable = true,
     .help =
         "MiB/s of a table that the verification of one move reads on either side at most, on average; 0 = "
         "as fast as it goes, with the server's own limit of parallel workers."},
    {.path = "moves.max_commit_latency",
     .type = CONFIG_DURATION,
     .offset = AT(max_commit_latency_ns),
     .standard = "20ms",
     .low = "1ms",
     .high = "1m",
     .off = true,
     .reloadable = true,
     .help =
         "The copy slows down when a commit on its source takes longer than this, or than five times what "
         "it took before the copy (and 10ms), but is allowed twice what it took before."},
    {.path = "moves.max_standby_lag",
     .type = CONFIG_DURATION,
     .offset = AT(max_standby_lag_ns),
     .standard = "5s",
     .low = "1s",
     .high = "1h",
     .off = true,
     .reloadable = true,
     .help = "The copy slows down when a streaming standby of its source is further behind than this."},
    {.path = "moves.max_throughput_loss",
     .type = CONFIG_INT,
     .offset = AT(max_throughput_loss),
     .standard = "10",
     .low = "0",
     .high = "90",
     .reloadable = true,
     .help =
         "Percent of the application's transactions on the source that a copy may cost, compared with what "
         "there are while it pauses; every 40 s it goes at its slowest for 4 s to count them; 0 = not "
         "looked at."},
    {.path = "moves.max_retained_wal",
     .type = CONFIG_INT,
     .offset = AT(max_retained_wal),
     .standard = "16384",
     .low = "0",
     .high = "100000000",
     .reloadable = true,
     .help = "MiB of WAL that the slot of a move may keep on its source; at more the move goes back, before "
             "the disk is full; 0 = no bound."},
    {.path = "moves.min_free_disk",
     .type = CONFIG_INT,
     .offset = AT(min_free_disk),
     .standard = "1024",
     .low = "0",
     .high = "100000000",
     .reloadable = true,
     .help = "MiB that stay free on the disks of source and target; with less the move goes back; 0 = no "
             "bound. Known of instances on this machine, and of pods whose volumes Prometheus reports."},
    {.path = "moves.retire_wait",
     .type = CONFIG_DURATION,
     .offset = AT(retire_wait_ns),
     .standard = "30s",
     .low = "0s",
     .high = "1h",
     .reloadable = true,
     .help = "How long the server of a shard that was merged away or upgraded stays, and answers with SHR01, "
             "while "
             "clients still ask it, at most; it goes once nobody did for 2 s; 0s = at once."},
    {.path = "balance.max_moves",
     .type = CONFIG_INT,
     .offset = AT(max_moves),
     .standard = "2",
     .low = "1",
     .high = "64",
     .reloadable = true,
     .help =
         "At most so many moves run in the whole fleet, by whomever; one more is refused, and the manager's "
         "own waits. One that bakes or is held does not count."},
#define X(snake, camel, kind, member, value, least, most, words, text)                                       \
    {.path = "balance." snake,                                                                               \
     .type = kind,                                                                                           \
     .offset = AT(balance.member),                                                                           \
     .standard = value,                                                                                      \
     .low = least,                                                                                           \
     .high = most,                                                                                           \
     .choices = words,                                                                                       \
     .reloadable = true,                                                                                     \
     .help = text},
    BALANCE_KEYS(X)
#undef X
};

static const struct config_key balance_keys[] = {
#define X(snake, camel, kind, member, value, least, most, words, text)                                       \
    {.path = camel,                                                                                          \
     .type = kind,                                                                                           \
     .offset = POLICY(member),                                                                               \
     .standard = value,                                                                                      \
     .low = least,                                                                                           \
     .high = most,                                                                                           \
     .choices = words,                                                                                       \
     .reloadable = true,                                                                                     \
     .help = text},
    BALANCE_KEYS(X)
#undef X
};

const struct config_key *config_keys(size_t *count)
{
    *count = sizeof keys / sizeof keys[0];
    return keys;
}

const struct config_key *config_balance_keys(size_t *count)
{
    *count = sizeof balance_keys / sizeof balance_keys[0];
    return balance_keys;
}
