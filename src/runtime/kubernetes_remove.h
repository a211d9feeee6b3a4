/*
 * kubernetes_remove: what kubernetes_remove.c, kubernetes_snapshot.c and kubernetes_release.c share of a
 * removal.
 */
#ifndef RUNTIME_KUBERNETES_REMOVE_H
#define RUNTIME_KUBERNETES_REMOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/sm.h"
#include "loop/work.h"
#include "runtime/kubernetes_impl.h"

#define REMOVAL_POLL_NS (200 * ENV_NS_PER_MS)

/* The table of transitions is in kubernetes_remove.c. */
enum removal_state {
    REMOVAL_BEGIN,
    REMOVAL_ANCHOR,
    REMOVAL_RELEASE,
    REMOVAL_CLAIMS,
    REMOVAL_SNAPSHOT,
    REMOVAL_LOOK,
    REMOVAL_DELETE,
    REMOVAL_PAUSE,
    REMOVAL_GONE,
    REMOVAL_OTHERS,
    REMOVAL_FILES,
    REMOVAL_OVER,
    REMOVAL_STATES
};

enum owning { OF_SHARD, OF_DATABASE, CLAIM };

struct target {
    char *path; /* of the object */
    enum owning owning;
    bool others; /* first ask whether the database has other shards; if so, it stays */
};

/* Of a volume. */
struct snapshot {
    char *claim;
    char *name; /* of the VolumeSnapshot: the claim's and the beginning of its UID */
};

struct removal {
    struct kube_op op; /* first */
    struct sm sm;
    struct loop_timer timer;
    struct work work;
    struct err work_err;
    uint64_t deadline_ns;
    bool stopping;    /* runtime_stop(): scale to zero and wait for the pod */
    bool hibernating; /* a Cluster whose volumes are to stay */
    bool snapshots;   /* the volumes go, snapshots of them and the passwords stay */
    bool down;        /* ... and no pod writes to them any more */
    bool last;        /* the database has no other shard */
    char *set, *database, *shard;
    char *adopted;         /* the StatefulSet of somebody else that the shard is; NULL = it is our own */
    struct kube_spec spec; /* doc NULL: the database is gone */
    bool deletes;
    int anchor;
    struct snapshot *taken;
    int taken_count, taking;
    struct target *targets;
    int count, at;
    char *uid; /* of what is being deleted */
    runtime_done_cb cb;
    void *data;
};

/* The end, with the error or NULL; frees it. */
void removal_over(struct removal *m, const struct err *err);
/* What came before them is done (snapshots are ready, an adopted StatefulSet is let go): the deletions begin.
 */
void removal_deletions_begin(struct removal *m);

/* The shard's StatefulSet is somebody else's, m->adopted: lets it go, or refuses to stop it. */
void removal_release(struct removal *m);

/* Remembers a claim that a snapshot is to be made of. */
void removal_snapshot_add(struct removal *m, const char *claim, const char *uid);
/* Makes the next snapshot, or looks again for the one that is not ready yet. */
void removal_snapshot_next(struct removal *m);
void removal_snapshot_look(struct removal *m);
void removal_snapshots_free(struct removal *m);

#endif
