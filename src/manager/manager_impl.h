/* manager_impl: shared by manager.c, manager_*.c and kube_*.c of the manager; nobody else includes it. */
#ifndef MANAGER_MANAGER_IMPL_H
#define MANAGER_MANAGER_IMPL_H

#include "api/api.h"
#include "base/mem.h"
#include "base/sm.h"
#include "discovery/discovery.h"
#include "health/health.h"
#include "http/http_server.h"
#include "loop/work.h"
#include "manager/announcer.h"
#include "manager/balancer.h"
#include "manager/databases.h"
#include "manager/guard_watch.h"
#include "manager/ha_shards.h"
#include "manager/keeper.h"
#include "manager/kube_databases.h"
#include "manager/kube_operations.h"
#include "manager/manager.h"
#include "manager/standby.h"
#include "metrics/exposition.h"
#include "metrics/poller.h"

enum manager_state {
    MANAGER_LISTENING,
    MANAGER_SECRETS,    /* waits for files on a worker */
    MANAGER_STORE,      /* waits for the store to open */
    MANAGER_LEADING,    /* waits for the lease */
    MANAGER_KUBERNETES, /* waits for the objects of the databases */
    MANAGER_RUNTIME,
    MANAGER_DATABASES,   /* waits for documents and secrets */
    MANAGER_ADOPTING,    /* waits for instances that must be started again */
    MANAGER_DISCOVERING, /* waits for the first round */
    MANAGER_RESUMING,    /* waits for the journals */
    MANAGER_READY,
    MANAGER_DEPOSED,  /* leads no more: polls and serves, waits for the store, then begins anew */
    MANAGER_STOPPING, /* waits for each part to close, one after the other */
    MANAGER_STOPPED,
    MANAGER_STATE_COUNT
};

struct seen_instance; /* manager_watch.c */
struct engine_choice; /* manager_runtime.c */

struct manager {
    struct manager_options options;
    struct config config;
    struct loop loop;
    struct sm sm;
    struct err fatal;        /* why it stops, ERRC_NONE = asked to */
    struct err config_error; /* of the last reload, ERRC_NONE = good */
    uint64_t config_reloads, config_failures;
    struct fleet fleet;
    struct store *store;
    const char *store_kind; /* "sqlite", "kubernetes", "etcd" */
    const char
        *runtime_kind;   /* "local", "podman", "docker", "kubernetes", "cnpg", "none"; "auto" until asked */
    char *restarting;    /* the member that is being stopped, to be started again; NULL = none */
    bool shards_in_kube; /* the runtime is Kubernetes or CloudNativePG */
    struct engine_choice *engines;                         /* manager_runtime.c; NULL = no containers */
    char runtime_text[400], kube_text[256], kube_now[400]; /* for people */
    char collectors_text[80], health_text[96];
    bool use_kube, reading_secrets, opening_store; /* the latter: a callback will come */
    struct k8s_client *kube;         /* NULL = none; exists from before the store is opened to the very end */
    char *kube_namespace;            /* whose objects are looked after */
    struct manager_figures *figures; /* manager_figures.c */
    struct manager_cluster *cluster; /* manager_cluster.c; NULL = none */
    struct standby *standby;         /* while it waits for the lease; NULL with a store in a file */
    struct runtime *runtime;
    struct operations operations;
    bool operations_ready;
    bool operations_stopped, operations_gone; /* by manager_depose(): begun, and done */
    bool awaits_operations;                   /* the shutdown does, for the latter */
    bool again;                               /* it stops to begin anew in this process */
    bool asking;                              /* DEPOSED: the store was asked whether it is there */
    struct databases *databases;
    struct kube_databases *kube_databases; /* NULL unless the runtime is Kubernetes */
    struct kube_operations *kube_operations;
    struct k8s_events *kube_events;
    struct discovery *discovery;
    struct pollers *pollers;
    struct balancer *balancer;
    struct announcer *announcer;
    struct keeper *keeper;
    struct ha_shards *ha; /* NULL = nothing here makes shards of several instances, or it does not lead */
    struct guard_watch *guards;
    struct api *api;
    struct exposition *exposition;
    struct http_server *public_server, *admin_server, *metrics_server;
    struct loop_signal on_term, on_int, on_hup;
    struct loop_timer tick; /* each second */
    struct mem_use memory;
    struct loop_timer step; /* start-up: looks again; deposed: asks; stopping: its bound */
    struct list seen;       /* seen_instance */
    int adopting;
    int closing; /* parts of the shutdown begun */
    struct work reload;
    bool reloading, reload_again;
    struct config reload_config;
    struct err reload_err;
    int64_t config_stamp; /* modification time and inode of the file as last read */
    int64_t reload_stamp;
    char holder[128];
    struct exposition_operation *metric_operations;
    struct exposition_decision *metric_decisions;
    struct exposition_database *metric_databases;
    struct exposition_move *metric_moves;
    struct exposition_failovers *metric_failovers;
    struct exposition_unwritable *metric_unwritable;
};

enum manager_state manager_now(const struct manager *m);
void manager_move(struct manager *m, enum manager_state state);

/* Begins the shutdown; err NULL = asked to. Idempotent. */
void manager_stop(struct manager *m, const struct err *err);

/* what parts report (manager.c) */
void manager_routing_changed(void *data, struct fleet_database *db);
void manager_operation_changed(void *data, struct operation *op);
void manager_decided(const struct balancer_decision *decision, void *data);
void manager_kept(const struct keeper_event *event, void *data);
/* Nobody else calls it from now on; the caller closes it. NULL = there was none. */
struct ha_shards *manager_take_ha(struct manager *m);
void manager_member_changed(const struct fleet_instance *instance, void *data);

/* manager_api.c: what the API needs of the manager */
void manager_api_init(struct manager *m);
void manager_api_fini(struct manager *m);
void manager_api_decided(struct manager *m, const struct balancer_decision *decision);

/* manager_metrics.c */
void manager_numbers(struct exposition_numbers *ret, void *data);

/* manager_open.c */
void manager_choose(struct manager *m);
void manager_open_store(struct manager *m);
/* manager_runtime.c */
void manager_runtime_choose(struct manager *m, bool pod, const char *pod_why);
void manager_runtime_open(struct manager *m); /* then manager_runtime_opened() */
void manager_runtime_free(struct manager *m);
bool manager_runs_servers(const struct manager *m); /* on this machine: it starts them again */
/* manager_kube.c: the objects of the databases, when they run in Kubernetes */
void manager_kube_start(struct manager *m);                             /* then manager_kube_synced() */
bool manager_kube_close(struct manager *m, void (*closed)(void *data)); /* false: there was nothing */
bool manager_kube_close_operations(struct manager *m, void (*closed)(void *data));
void manager_kube_look(struct manager *m);
void manager_kube_run(struct manager *m);
bool manager_kube_close_events(struct manager *m, void (*closed)(void *data));
void manager_kube_text(const struct manager *m, char *out, size_t size);
int manager_kube_runtime(struct manager *m, struct err *err);
void manager_kube_operation(struct manager *m, const struct operation *op);
void manager_kube_decided(struct manager *m, const struct balancer_decision *decision);
/* manager_start.c */
void manager_runtime_opened(struct manager *m, const struct err *err);
void manager_kube_synced(struct manager *m);
void manager_begin(struct manager *m);
/* manager_deposed.c */
void manager_depose(struct manager *m);
void manager_store_opened(const struct err *err, struct store *store, void *data);
/* A part that was still starting has ended: the shutdown goes on. */
void manager_close_on(struct manager *m);
/* manager_watch.c: health each second, configuration file */
void manager_watch_start(struct manager *m);
void manager_watch_stop(struct manager *m);
void manager_instance_gone(struct manager *m, const struct fleet_instance *instance);
/* Writes m->collectors_text and m->health_text, for /readyz?verbose. */
void manager_watch_text(struct manager *m);
/* The configuration's balance.max_moves, and its moves.* for the moves that begin to copy from now on. */
void manager_set_moving(struct manager *m);
/* Where operations find pg_dump and psql: a text of the configuration, so again after each reload. */
void manager_set_tools(struct manager *m);
void manager_reload(struct manager *m);
int64_t manager_file_stamp(const char *path); /* blocking; 0 = no file */

#endif
