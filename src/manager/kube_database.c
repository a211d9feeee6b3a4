/* The steps of one ShardedDatabase object: see kube_databases_impl.h. */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/apply.h"
#include "manager/kube_databases_impl.h"
#include "operation/provision.h"
#include "operation/transient.h"

#define PAUSE_NS       (1 * ENV_NS_PER_S)
#define PAUSE_MAX_NS   (60 * ENV_NS_PER_S)
#define PAUSE_FINAL_NS (300 * ENV_NS_PER_S)

#define BACK SM_NEXT(KDB_IDLE)
static const struct sm_state states[KDB_STATE_COUNT] = {
    [KDB_IDLE] = {"idle",
                  SM_NEXT(KDB_FINALIZER) | SM_NEXT(KDB_SCHEMA) | SM_NEXT(KDB_APPLY) | SM_NEXT(KDB_WALK) |
                      SM_NEXT(KDB_RETIRE) | SM_NEXT(KDB_RELEASE) | SM_NEXT(KDB_GONE),
                  false},
    [KDB_FINALIZER] = {"finalizer", BACK, false},
    [KDB_SCHEMA] = {"schema", BACK, false},
    [KDB_APPLY] = {"apply", BACK, false},
    [KDB_WALK] = {"walk", BACK, false},
    [KDB_RETIRE] = {"retire", BACK, false},
    [KDB_RELEASE] = {"release", BACK, false},
    [KDB_GONE] = {"gone", 0, true},
};

static enum kdb_state now(const struct kdb *k)
{
    return (enum kdb_state)sm_now(&k->sm);
}

/* ---- life ---- */

struct kdb *kdb_new(struct kube_databases *all, const struct kube_object_kept *kept)
{
    struct kdb *k = mem_zalloc(sizeof *k);
    sm_init(&k->sm, states, KDB_STATE_COUNT, KDB_IDLE, NULL, NULL);
    k->all = all;
    k->name = mem_strdup(kept->name);
    k->uid = mem_strdup(kept->uid);
    k->requested = kept->requested_shards;
    k->pause_ns = PAUSE_NS;
    memcpy(k->conditions, kept->conditions, sizeof k->conditions);
    k->quiet = kept->observed_generation == kept->generation &&
               kept->conditions[KUBE_READY].truth != KUBE_ABSENT &&
               kept->conditions[KUBE_RECONCILING].truth == KUBE_ABSENT;
    list_append(&all->list, &k->node);
    return k;
}

void kdb_free(struct kdb *k)
{
    list_remove(&k->node);
    free(k->name);
    free(k->uid);
    free(k->schema);
    free(k->move);
    free(k->written);
    free(k->wrote);
    free(k->checked);
    free(k->writing);
    free(k->roll_at);
    free(k);
}

void kdb_tell(struct kdb *k, bool warning, const char *reason, const char *action, const char *note)
{
    const struct k8s_reference regarding = {.api_version = "shardherd.io/v1alpha1",
                                            .kind = "ShardedDatabase",
                                            .name_space = k->all->o.name_space,
                                            .name = k->name,
                                            .uid = k->uid};
    if (!k->all->closing) /* then the events may be gone */
        k8s_events_emit(k->all->o.events, &regarding, warning ? K8S_EVENT_WARNING : K8S_EVENT_NORMAL, reason,
                        action, note);
}

void kdb_trouble(struct kdb *k, const char *reason, const struct err *err, bool final)
{
    bool news = strcmp(k->trouble, reason) != 0 || strcmp(k->trouble_text, err->message) != 0;
    snprintf(k->trouble, sizeof k->trouble, "%s", reason);
    snprintf(k->trouble_text, sizeof k->trouble_text, "%s", err->message);
    k->trouble_final = final;
    if (k->trouble_since_us == 0)
        k->trouble_since_us = loop_wall(k->all->loop);
    k->retry_ns = loop_now(k->all->loop) + (final ? PAUSE_FINAL_NS : k->pause_ns);
    k->pause_ns = k->pause_ns * 2 < PAUSE_MAX_NS ? k->pause_ns * 2 : PAUSE_MAX_NS;
    if (!news || k->all->closing)
        return;
    log_event(final ? LOG_ERROR : LOG_WARN, "database object", "db", k->name, "reason", reason, "err",
              err->message, "needs_a_person", final ? "true" : "false", NULL);
    kdb_tell(k, true, reason, "Reconcile", err->message);
}

void kdb_trouble_ends(struct kdb *k)
{
    k->trouble[0] = k->trouble_text[0] = '\0';
    k->trouble_final = false;
    k->trouble_since_us = 0;
    k->pause_ns = PAUSE_NS;
    k->retry_ns = 0;
}

/* ---- an answer of the API server ---- */

/* Back to idle; the next look comes in this turn. */
static void step_ends(struct kdb *k)
{
    sm_move(&k->sm, KDB_IDLE);
    loop_defer(k->all->loop, &k->all->look);
}

static void call_failed(struct kdb *k, const char *reason, const struct err *err)
{
    if (err->code != ERRC_CANCELED)
        kdb_trouble(k, reason, err, !err_is_transient(err) && err->code != ERRC_AUTH);
}

/* ---- the finalizer ---- */

static void finalizer_answered(const struct k8s_answer *answer, void *data)
{
    struct kdb *k = data;
    k->call = NULL;
    if (answer->err != NULL)
        call_failed(k, "FinalizerFailed", answer->err);
    else
        kdb_trouble_ends(k);
    step_ends(k);
    kube_databases_call_ended(k->all);
}

/* The whole intent of this field manager: with the finalizer, or without anything. */
static void set_finalizer(struct kdb *k, bool on, enum kdb_state state)
{
    struct err err = {0};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, root, "kind", "ShardedDatabase");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, metadata, "name", k->name);
    yyjson_mut_obj_add_str(doc, metadata, "uid", k->uid); /* never of another object of that name */
    if (on)
        yyjson_mut_arr_add_str(doc, yyjson_mut_obj_add_arr(doc, metadata, "finalizers"), KUBE_FINALIZER);
    const struct k8s_apply apply = {.collection = k->all->path,
                                    .name = k->name,
                                    .manager = "shardherd-finalizer",
                                    .force = true,
                                    .object = root};
    sm_move(&k->sm, (int)state);
    if (k8s_apply_start(k->all->o.client, &apply, finalizer_answered, k, &k->call, &err) == 0)
        k->all->calls++;
    else {
        kdb_trouble(k, "FinalizerFailed", &err, false);
        sm_move(&k->sm, KDB_IDLE);
    }
    yyjson_mut_doc_free(doc);
}

/* ---- SQL from a ConfigMap or a Secret ---- */

static char *decode(const char *text, struct err *err)
{
    size_t length = strlen(text);
    char *out = mem_zalloc(length + 1);
    int n = length % 4 == 0 ? EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)text, (int)length)
                            : -1;
    if (n >= 0)
        return out; /* padding gives NULs at the end */
    free(out);
    err_set(err, ERRC_INVALID, "it is not base64");
    return NULL;
}

static void schema_answered(const struct k8s_answer *answer, void *data)
{
    struct kdb *k = data;
    const struct kube_object_kept *kept = kdb_kept(k);
    struct err err = {0};
    k->call = NULL;
    if (answer->err != NULL || kept == NULL || kept->key == NULL) {
        if (answer->err != NULL) {
            err = *answer->err;
            err_wrap(&err, "spec.schema");
            call_failed(k, "SchemaNotFound", &err);
        }
    } else {
        yyjson_doc *doc = yyjson_read(answer->body, answer->body_length, 0);
        const char *text =
            yyjson_get_str(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(doc), "data"), kept->key));
        free(k->schema);
        k->schema = text == NULL ? NULL : kept->secret != NULL ? decode(text, &err) : mem_strdup(text);
        if (text == NULL)
            err_set(&err, ERRC_NOT_FOUND, "it has no key %s", kept->key);
        if (k->schema == NULL) {
            err_wrap(&err, "spec.schema: %s %s", kept->secret != NULL ? "Secret" : "ConfigMap",
                     kept->secret != NULL ? kept->secret : kept->config_map);
            kdb_trouble(k, "SchemaNotFound", &err, true);
        } else
            kdb_trouble_ends(k);
        yyjson_doc_free(doc);
    }
    step_ends(k);
    kube_databases_call_ended(k->all);
}

static void fetch_schema(struct kdb *k, const struct kube_object_kept *kept)
{
    struct err err = {0};
    char *path = mem_printf("/api/v1/namespaces/%s/%s/%s", k->all->o.name_space,
                            kept->secret != NULL ? "secrets" : "configmaps",
                            kept->secret != NULL ? kept->secret : kept->config_map);
    const struct k8s_request request = {.method = "GET", .path = path};
    sm_move(&k->sm, KDB_SCHEMA);
    if (k8s_call_start(k->all->o.client, &request, schema_answered, k, &k->call, &err) == 0)
        k->all->calls++;
    else {
        kdb_trouble(k, "SchemaNotFound", &err, false);
        sm_move(&k->sm, KDB_IDLE);
    }
    free(path);
}

/* ---- the specification ---- */

struct applying {
    struct kdb *k;
    int64_t generation;
};

static void applied(const struct databases_answer *answer, void *data)
{
    struct applying a = *(struct applying *)data;
    struct kdb *k = a.k;
    free(data);
    if (answer->err != NULL) {
        /* CONFLICT is a part that cannot be changed this way */
        bool final = answer->err->code == ERRC_CONFLICT || !err_is_transient(answer->err);
        kdb_trouble(k, "InvalidSpec", answer->err, final);
    } else {
        k->applied = a.generation;
        free(k->schema);
        k->schema = NULL;
        kdb_trouble_ends(k);
        if (answer->operation != NULL)
            kdb_tell(k, false, "Provisioning", "Provision", "its shards are made");
    }
    step_ends(k);
}

static void apply_spec(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    struct buf text = {0};
    struct err err = {0};
    struct applying *a = mem_alloc(sizeof *a);
    *a = (struct applying){k, kept->generation};
    bool members = k->all->o.operations->services.drive != NULL;
    int rc = kube_spec_print(kept, db != NULL ? db->spec_json : NULL, k->schema, members, &text, &err);
    sm_move(&k->sm, KDB_APPLY);
    if (rc == 0)
        rc = databases_apply(k->all->o.databases, k->name, buf_text(&text), text.length, k->all->o.defaults,
                             false, applied, a, &err);
    if (rc != 0) {
        free(a);
        kdb_trouble(k, "InvalidSpec", &err, !err_is_transient(&err));
        sm_move(&k->sm, KDB_IDLE);
    }
    buf_free(&text);
}

/* ---- the end ---- */

static void retired(const struct databases_answer *answer, void *data)
{
    struct kdb *k = data;
    if (answer->err != NULL)
        kdb_trouble(k, "DeletionFailed", answer->err, false);
    else
        kdb_trouble_ends(k);
    step_ends(k);
}

static const struct operation *last_failed(const struct kdb *k)
{
    const struct operation *found = NULL;
    list_each(node, &k->all->o.operations->list)
    {
        const struct operation *op = list_item(node, struct operation, node);
        if (strcmp(op->database, k->name) == 0 && provision_is(op) && op->status == OPERATION_FAILED)
            found = op;
    }
    return found;
}

/* True if something was begun or must be waited for. */
static void look_deleting(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    struct err err = {0};
    const struct operation *failed = last_failed(k);
    if (!kept->finalizer)
        return; /* it goes, or another finalizer holds it: not ours any more */
    if (db == NULL) {
        kdb_tell(k, false, "Deleted", "Delete", "its shards are removed");
        set_finalizer(k, false, KDB_RELEASE);
        return;
    }
    if (operations_running_on(k->all->o.operations, k->name, NULL) != NULL)
        return;
    if (k->retired && failed != NULL) {
        k->retired = false;
        kdb_trouble(k, "DeletionFailed", &failed->error, false);
        return;
    }
    sm_move(&k->sm, KDB_RETIRE);
    k->retired = true;
    if (databases_delete(k->all->o.databases, k->name, retired, k, &err) != 0) {
        kdb_trouble(k, "DeletionFailed", &err, false);
        sm_move(&k->sm, KDB_IDLE);
    }
}

/* ---- what is next ---- */

/* The same fault is not told as a new one each time that the whole is begun again. */
void kdb_note_provision(struct kdb *k, const struct fleet_database *db)
{
    const struct operation *running = operations_running_on(k->all->o.operations, k->name, NULL);
    const struct operation *failed = last_failed(k);
    int64_t since = loop_wall(k->all->loop);
    const struct err *err = NULL;
    if (db != NULL && db->routing != NULL) {
        k->provision_text[0] = '\0';
        k->provision_since_us = 0;
        return;
    }
    if (running != NULL && provision_fails(running, &since))
        err = &running->error;
    else if (running == NULL && failed != NULL && k->trouble[0] != '\0')
        err = &failed->error;
    if (err == NULL)
        return;
    if (k->provision_since_us == 0)
        k->provision_since_us = since;
    snprintf(k->provision_text, sizeof k->provision_text, "%s", err->message);
}

static void look_provisioning(struct kdb *k)
{
    const struct operation *failed = last_failed(k);
    if (operations_running_on(k->all->o.operations, k->name, NULL) != NULL)
        return;
    k->applied = 0; /* again, after a pause */
    if (failed != NULL)
        kdb_trouble(k, "ProvisioningFailed", &failed->error, true);
}

static void look_next(struct kdb *k, const struct kube_object_kept *kept)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->name);
    bool new_database = db == NULL || db->spec_json == NULL;
    if (kept->deleting)
        look_deleting(k, kept, db);
    else if (!kept->finalizer)
        set_finalizer(k, true, KDB_FINALIZER);
    else if (!new_database && db->routing == NULL &&
             operations_running_on(k->all->o.operations, k->name, NULL) != NULL)
        return; /* it is being made, perhaps begun by a manager before us: one that is applied now would
                   conflict */
    else if (k->applied != kept->generation && new_database && kept->key != NULL && k->schema == NULL)
        fetch_schema(k, kept);
    else if (k->applied != kept->generation && db != NULL && db->routing != NULL &&
             kdb_size_waits(k, kept, db))
        snprintf(k->progress, sizeof k->progress, "spec.instances waits for what moves rows");
    else if (k->applied != kept->generation)
        apply_spec(k, kept, db);
    else if (db == NULL || db->routing == NULL)
        look_provisioning(k);
    else if (k->walked != kept->generation || k->walked_suspended != kept->suspended)
        kdb_walk(k, kept);
    else if (!kept->suspended && k->due_us != 0 && loop_wall(k->all->loop) >= k->due_us)
        kdb_renew(k, kept);
    else if (!kept->suspended) {
        kdb_resize(k, db);
        kdb_roll(k, kept, db);
        if (!kdb_replace(k, kept, db) && !kdb_upgrade(k, kept, db))
            kdb_scale(k, kept, db);
    }
}

/* A deletion does not wait for a walk. */
static void leave_walk(struct kdb *k, const struct kube_object_kept *kept)
{
    if (now(k) == KDB_WALK && kept->deleting)
        sm_move(&k->sm, KDB_IDLE);
}

void kdb_look(struct kdb *k)
{
    const struct kube_object_kept *kept = kdb_kept(k);
    bool leads = k->all->running && k->all->o.operations->services.term > 0 && !k->all->closing;
    if (!leads || kept == NULL)
        return;
    if (k->seen != kept->generation) { /* a person changed it, or deleted it: what hindered may be gone */
        k->seen = kept->generation;
        k->provision_text[0] = '\0';
        k->provision_since_us = 0;
        kdb_trouble_ends(k);
    }
    leave_walk(k, kept);
    if (now(k) == KDB_IDLE && loop_now(k->all->loop) >= k->retry_ns)
        look_next(k, kept);
    kdb_write_status(k, kept);
}
