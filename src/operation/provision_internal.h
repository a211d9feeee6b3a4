/* provision_internal: shared by provision.c, provision_record.c and retire.c; nobody else includes it. */
#ifndef OPERATION_PROVISION_INTERNAL_H
#define OPERATION_PROVISION_INTERNAL_H

#include "base/sm.h"
#include "operation/link.h"
#include "operation/provision.h"

enum provision_state {
    PROVISION_PLANNED,
    PROVISION_INSTANCES, /* waits for the runtime, all shards side by side */
    PROVISION_PRIMARIES, /* waits for who drives the shards, then for the runtime, all shards side by side */
    PROVISION_SCHEMA,    /* waits for SQL on the shards, some side by side */
    PROVISION_ROUTING,   /* waits for the store */
    PROVISION_DONE,
    PROVISION_FAILED,
    PROVISION_STATE_COUNT
};

struct provisioned_shard {
    char *name;
    char *instance; /* NULL = made by the runtime */
    struct range range;
    struct link link;
    bool linked;
};

struct provisioned_table {
    char *name, *key;
    char *type; /* known after SCHEMA */
};

struct provision {
    struct operation op; /* first */
    struct sm sm;
    bool retiring;
    struct provisioned_shard *shards;
    int shard_count;
    struct provisioned_table *tables;
    int table_count;
    char *schema; /* NULL = none */
    char *owner_role;
    int open_links;
    int outstanding;    /* calls of this step that have not come back */
    int schemas;        /* shards whose SCHEMA has begun in this try */
    bool journaling;    /* the present state is being written: nothing of it has begun */
    int tries;          /* failures in a row of this step */
    int64_t failing_us; /* wall clock of the first of them */
    struct err step_error;
    bool stopped, reported;
    struct loop_timer retry_timer;
};

struct provision *provision_new(struct operations *ops, const char *database, const char *id, bool retiring);
void provision_begin(struct provision *p); /* journals the present state, then runs it */
void provision_enter(struct provision *p, enum provision_state state);
void provision_step_failed(struct provision *p, const struct err *err);
int provision_state_find(const char *name); /* -1 */
void provision_link_closed(void *data);     /* of every link of a provision */

void provision_print(const struct provision *p, struct buf *json); /* provision_record.c */

void retire_instances(struct provision *p); /* retire.c */
void retire_documents(struct provision *p);

#endif
