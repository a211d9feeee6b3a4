/* kube_databases_impl: shared by kube_databases.c and kube_database*.c; nobody else includes it. */
#ifndef MANAGER_KUBE_DATABASES_IMPL_H
#define MANAGER_KUBE_DATABASES_IMPL_H

#include "base/list.h"
#include "base/sm.h"
#include "k8s/watch.h"
#include "manager/kube_databases.h"
#include "manager/kube_spec.h"

#define KUBE_API "/apis/shardherd.io/v1alpha1"

/*
 * What is under way for one object. IDLE waits for the next look; every other state for one answer.
 *
 *   IDLE --+--> FINALIZER --+
 *          +--> SCHEMA -----+    (SQL from a ConfigMap or Secret)
 *          +--> APPLY ------+--> IDLE --> GONE
 *          +--> WALK -------+    (each shard, one after the other: ensured, or stopped)
 *          +--> RETIRE -----+
 *          +--> RELEASE ----+    (the finalizer goes)
 *
 * A deletion does not wait for a WALK, which can take minutes: its answers are only counted then.
 */
enum kdb_state {
    KDB_IDLE,
    KDB_FINALIZER,
    KDB_SCHEMA,
    KDB_APPLY,
    KDB_WALK,
    KDB_RETIRE,
    KDB_RELEASE,
    KDB_GONE,
    KDB_STATE_COUNT
};

struct kdb {
    struct list node;
    struct kube_databases *all;
    struct sm sm;
    char *name, *uid;
    struct k8s_call *call; /* of FINALIZER, SCHEMA, RELEASE */
    char *schema;          /* fetched; NULL = not yet, or inline */
    /* how far it is */
    int64_t seen, applied, walked; /* generations; 0 = none yet */
    bool walked_suspended;
    int64_t due_us; /* wall clock: when a password or certificate is to be renewed; 0 = not known, or never */
    bool quiet;     /* the first walk of this manager, or one that renews: nothing is expected to change */
    bool retired;   /* databases_delete() was begun */
    int requested;
    bool older; /* as the last walk found: shards are to move to a newer PostgreSQL */
    char *move; /* the operation that was started to get more shards, or other servers */
    /* a walk */
    int64_t walk_generation;
    bool walk_stops, walk_failed;
    bool walk_renews;    /* nothing was changed: passwords and certificates are due */
    int64_t walk_due_us; /* the least of its shards', 0 = none */
    bool walk_older;     /* one was left at an older PostgreSQL than is asked for */
    char walk_shard[64];
    unsigned walks; /* runtime calls that have not ended; their callbacks may come in any state */
    /* pods are replaced (kube_database_roll.c) */
    int64_t rolled, rolls_for; /* generations: nothing is to be replaced any more; of this pass */
    char *roll_at;             /* instance that the pass came to, NULL = it begins */
    char roll_asked[64];       /* instance that the runtime is asked for */
    bool rolling;              /* it is */
    uint64_t roll_state;       /* of the primaries, when the pass began */
    /* shards get more instances, or fewer (kube_database_size.c) */
    unsigned sized;     /* every shard had so many, 0 = not known */
    bool resizing;      /* the runtime takes some away */
    size_t resize_at;   /* shard that is looked after last of all */
    uint64_t resize_ns; /* not before */
    /* what hinders */
    char trouble[64], trouble_text[512];
    bool trouble_final;
    int64_t trouble_since_us; /* wall clock: the first of it in a row; 0 = none */
    /* why its shards cannot be made, over all tries of one generation; "" = nothing known */
    char provision_text[512];
    int64_t provision_since_us;
    uint64_t pause_ns, retry_ns; /* retry_ns 0 = now */
    char progress[256];
    /* status */
    struct kube_condition conditions[KUBE_CONDITION_COUNT];
    char *written; /* the status as it was last written */
    char *writing; /* NULL = no request is under way */
    char *wrote,
        *checked; /* resourceVersions: of our last write, of the object that `written` was compared with */
    struct k8s_call *status_call;
    uint64_t write_ns, write_pause_ns;
};

struct kube_databases {
    struct kube_databases_options o;
    struct loop *loop;
    struct k8s_watch *watch;
    char *path;
    struct list list; /* kdb */
    struct loop_task look;
    bool running, closing, watch_closed, reported;
    unsigned calls; /* to the API server */
    void (*closed)(void *data);
    void *closed_data;
};

/* NULL = there is no such object (any more). Valid until control is back in the loop. */
const struct kube_object_kept *kdb_kept(const struct kdb *k);

struct kdb *kdb_new(struct kube_databases *all, const struct kube_object_kept *kept);
void kdb_free(struct kdb *k);
/* Begins the next step, if one is due, and writes the status if it says something new. */
void kdb_look(struct kdb *k);
/* A request ended: closing may go on. */
void kube_databases_call_ended(struct kube_databases *all);
void kdb_tell(struct kdb *k, bool warning, const char *reason, const char *action, const char *note);

/* what hinders; a final trouble needs a person */
void kdb_trouble(struct kdb *k, const char *reason, const struct err *err, bool final);
void kdb_trouble_ends(struct kdb *k);
/* What hinders the provisioning, or did at the last try, goes into provision_text. */
void kdb_note_provision(struct kdb *k, const struct fleet_database *db);

/* kube_database_walk.c */
void kdb_walk(struct kdb *k, const struct kube_object_kept *kept);
/* The same when what is due is all that there is to do. */
void kdb_renew(struct kdb *k, const struct kube_object_kept *kept);

/* kube_database_moves.c */
/* Asks for splits while there are fewer shards than asked for. */
void kdb_scale(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db);
/* Asks for upgrades while shards run an older PostgreSQL than is asked for. True = some do. */
bool kdb_upgrade(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db);
/* The same for servers that were taken over, while several instances are asked for: those have one for ever,
 * and their rows move to a new shard. */
bool kdb_replace(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db);

/* kube_database_roll.c: replaces what is not as specified, where shards have several instances. */
void kdb_roll(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db);

bool kdb_is_whole(const struct kdb *k, const struct fleet_database *db, const char *shard);

/* Members that the runtime lists, of one shard or, with NULL, of all. The only instance of a shard is none,
 * unless it was one of several. */
unsigned kdb_listed(const struct kdb *k, const char *shard);
/* kube_database_size.c: takes instances away that are not wanted any more, and knows when there are as many
 * as wanted. */
void kdb_resize(struct kdb *k, const struct fleet_database *db);
/* Not every shard was seen with as many instances as are wanted. */
bool kdb_resizes(struct kdb *k, const struct fleet_database *db);
/* The number of instances changed, and something is under way that began with another one. */
bool kdb_size_waits(const struct kdb *k, const struct kube_object_kept *kept,
                    const struct fleet_database *db);

/* kube_database_status.c */
void kdb_write_status(struct kdb *k, const struct kube_object_kept *kept);

#endif
