/* migrate_internal: shared by migrate.c and migrate_record.c; nobody else includes it. */
#ifndef OPERATION_MIGRATE_INTERNAL_H
#define OPERATION_MIGRATE_INTERNAL_H

#include "base/sm.h"
#include "operation/link.h"
#include "operation/migrate.h"

enum migrate_state {
    MIGRATE_PLANNED,
    MIGRATE_APPLYING, /* waits for the shard `at`, or for the pause before it is asked again */
    MIGRATE_STOPPED,  /* waits for a person */
    MIGRATE_DONE,
    MIGRATE_FAILED,
    MIGRATE_STATE_COUNT
};

enum migrated { MIGRATED_NOT, MIGRATED_YES, MIGRATED_FAILED };

struct migrated_shard {
    char *name;
    enum migrated what;
    char *error; /* NULL = none */
};

enum migrate_answer { MIGRATE_NO_ANSWER, MIGRATE_GIVE_UP, MIGRATE_GO_ON };

struct migrate {
    struct operation op; /* first */
    struct sm sm;
    char *script;
    unsigned lock_timeout_ms, attempts;
    bool dry_run;
    struct migrated_shard *shards;
    int shard_count;
    int at;         /* the shard whose turn it is */
    unsigned tries; /* of it that failed */
    struct link link;
    bool linked;
    int open_links;
    bool journaling;            /* the present state is being written: nothing of it has begun */
    enum migrate_answer answer; /* not acted on yet */
    bool stopped, reported;
    struct loop_timer pause;
    operation_done_cb canceled; /* NULL = nobody waits */
    void *canceled_data;
};

struct migrate *migrate_new(struct operations *ops, const char *database, const char *id);
int migrate_state_find(const char *name); /* -1 */

void migrate_print(const struct migrate *m, struct buf *json);                    /* migrate_record.c */
int migrate_parse(struct operations *ops, const char *json, struct migrate **ret, /* NULL on error */
                  struct err *err);

#endif
