/* Taking a database away: instances that the runtime made are removed, servers it only used get our schema
 * off. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "operation/provision_internal.h"
#include "operation/sqlf.h"

static const struct operation_services *services(const struct provision *p)
{
    return &p->op.owner->services;
}

static void instance_gone(struct provision *p, const struct err *err)
{
    p->outstanding--;
    if (err != NULL)
        p->step_error = *err;
    if (p->outstanding > 0 || p->stopped)
        return;
    if (p->step_error.code != ERRC_NONE) {
        struct err copy = p->step_error;
        err_clear(&p->step_error);
        provision_step_failed(p, &copy);
    } else
        provision_enter(p, PROVISION_ROUTING);
}

static void on_removed(const struct err *err, void *data)
{
    instance_gone(data, err);
}

/* A lent server that cannot be reached keeps our schema; that must not keep the database from going. A lock
 * that was not to be had, or a newer leader, is another matter. */
static void on_cleaned(const struct pg_reply *reply, void *data)
{
    bool refused = reply->err != NULL && reply->err->code == ERRC_SQL;
    instance_gone(data, refused ? reply->err : NULL);
}

static void clean_lent(struct provision *p, struct provisioned_shard *shard,
                       const struct instance_access *access, link_reply_cb then, void *data)
{
    char application[64];
    snprintf(application, sizeof application, "shardherd op=%s", p->op.id);
    if (!shard->linked)
        link_init(&shard->link, services(p)->loop, access, application, &p->open_links, provision_link_closed,
                  p);
    shard->linked = true;
    struct buf sql = {0};
    sqlf(&sql,
         "SET LOCAL lock_timeout = '10s'; SET LOCAL shardherd.operation = %L; DO $$ BEGIN "
         "IF to_regclass('shardherd.control') IS NOT NULL THEN PERFORM shardherd.check_term(%d); END IF; END "
         "$$; "
         "DROP PUBLICATION IF EXISTS shardherd_sample; DROP SCHEMA IF EXISTS shardherd CASCADE",
         p->op.id, services(p)->term);
    link_exec(&shard->link, buf_text(&sql), 60 * ENV_NS_PER_S, then, data);
    buf_free(&sql);
}

/* One that the runtime took over: first our schema goes, then what the runtime has made around it. */
struct release {
    struct provision *p;
    struct provisioned_shard *shard;
};

static void on_released(const struct pg_reply *reply, void *data)
{
    struct release release = *(struct release *)data;
    struct provision *p = release.p;
    struct err err = {0};
    free(data);
    bool refused = reply->err != NULL && reply->err->code == ERRC_SQL;
    if (p->stopped || refused)
        instance_gone(p, reply->err);
    else if (runtime_remove(services(p)->runtime, release.shard->instance, on_removed, p, &err) != 0)
        instance_gone(p, &err);
}

static void release_lent(struct provision *p, const struct fleet_instance *instance,
                         struct provisioned_shard *shard)
{
    struct release *release = mem_alloc(sizeof *release);
    *release = (struct release){p, shard};
    clean_lent(p, shard, &instance->access, on_released, release);
}

static void remove_one(struct provision *p, const struct fleet_instance *instance,
                       struct provisioned_shard *shard)
{
    struct err err = {0};
    p->outstanding++;
    if (services(p)->runtime == NULL || strcmp(instance->source, "static") == 0)
        clean_lent(p, shard, &instance->access, on_cleaned, p);
    else if (instance->access.lent)
        release_lent(p, instance, shard);
    else if (runtime_remove(services(p)->runtime, instance->name, on_removed, p, &err) != 0)
        instance_gone(p, &err);
}

/* By name: at another try some instances are gone from the fleet. */
static struct provisioned_shard *place_of(struct provision *p, const char *instance)
{
    for (int i = 0; i < p->shard_count; i++) {
        struct provisioned_shard *shard = &p->shards[i];
        if (shard->instance == NULL)
            shard->instance = mem_strdup(instance);
        if (strcmp(shard->instance, instance) == 0)
            return shard;
    }
    return NULL;
}

static void remove_all(struct provision *p)
{
    int count = 0;
    list_each(node, &services(p)->fleet->instances)
    {
        if (strcmp(list_item(node, struct fleet_instance, node)->database, p->op.database) == 0)
            count++;
    }
    if (p->shard_count == 0) { /* also after a crash: the journal names no instances, the fleet does */
        free(p->shards);
        p->shards = mem_array((size_t)count, sizeof *p->shards);
        p->shard_count = count;
    }
    p->outstanding = 1; /* our own, until all were started */
    list_each(again, &services(p)->fleet->instances)
    {
        struct fleet_instance *instance = list_item(again, struct fleet_instance, node);
        struct provisioned_shard *shard =
            strcmp(instance->database, p->op.database) == 0 ? place_of(p, instance->name) : NULL;
        if (shard != NULL)
            remove_one(p, instance, shard);
    }
    instance_gone(p, NULL);
}

static void on_released_all(const struct err *err, void *data)
{
    struct provision *p = data;
    if (p->stopped)
        return;
    if (err != NULL)
        provision_step_failed(p, err);
    else
        remove_all(p);
}

/* Nobody starts them again, or makes another one the primary, while they go one after the other. */
void retire_instances(struct provision *p)
{
    const struct operation_services *s = services(p);
    struct err err = {0};
    if (s->release == NULL)
        remove_all(p);
    else if (s->release(s->drive_data, p->op.database, NULL, on_released_all, p, &err) != 0)
        provision_step_failed(p, &err);
}

/* ---- documents ---- */

static void spec_deleted(const struct err *err, int64_t revision, void *data)
{
    struct provision *p = data;
    struct fleet_database *db = fleet_find_database(services(p)->fleet, p->op.database);
    (void)revision;
    if (p->stopped)
        return;
    if (err != NULL && err->code != ERRC_CONFLICT) {
        provision_step_failed(p, err);
        return;
    }
    if (db != NULL)
        fleet_remove_database(services(p)->fleet, db);
    provision_enter(p, PROVISION_DONE);
}

static void routing_deleted(const struct err *err, int64_t revision, void *data)
{
    struct provision *p = data;
    struct fleet_database *db = fleet_find_database(services(p)->fleet, p->op.database);
    struct err local = {0};
    char key[STORE_KEY_MAX];
    (void)revision;
    if (p->stopped)
        return;
    if (err != NULL && err->code != ERRC_CONFLICT) {
        provision_step_failed(p, err);
        return;
    }
    if (db == NULL || db->spec_revision == 0) {
        spec_deleted(NULL, 0, p);
        return;
    }
    snprintf(key, sizeof key, "db/%s/spec", p->op.database);
    if (store_compare_and_swap(services(p)->store, key, db->spec_revision, NULL, spec_deleted, p, &local) !=
        0)
        provision_step_failed(p, &local);
}

void retire_documents(struct provision *p)
{
    struct fleet_database *db = fleet_find_database(services(p)->fleet, p->op.database);
    struct err err = {0};
    char key[STORE_KEY_MAX];
    if (db == NULL) {
        provision_enter(p, PROVISION_DONE);
        return;
    }
    if (db->routing_revision == 0) {
        routing_deleted(NULL, 0, p);
        return;
    }
    snprintf(key, sizeof key, "db/%s/routing", p->op.database);
    if (store_compare_and_swap(services(p)->store, key, db->routing_revision, NULL, routing_deleted, p,
                               &err) != 0)
        provision_step_failed(p, &err);
}
