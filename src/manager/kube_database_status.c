/* When the status of a ShardedDatabase is written, and that it is. What it says: kube_status.c. */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/apply.h"
#include "manager/kube_databases_impl.h"
#include "manager/kube_status.h"
#include "runtime/runtime.h"

#define WRITE_GAP_NS  (500 * ENV_NS_PER_MS)
#define WRITE_WAIT_NS (30 * ENV_NS_PER_S)

#define PROVISIONING     "ProvisioningFailed"
#define STALLED_AFTER_US (30 * 1000000ll)

static void note_version(struct kdb *k, const struct k8s_answer *answer)
{
    yyjson_doc *doc = yyjson_read(answer->body, answer->body_length, 0);
    yyjson_val *metadata = yyjson_obj_get(yyjson_doc_get_root(doc), "metadata");
    free(k->wrote);
    k->wrote = mem_strdup(yyjson_get_str(yyjson_obj_get(metadata, "resourceVersion")));
    yyjson_doc_free(doc);
}

/*
 * Somebody else changed the object since: perhaps its status, as a leader does that was paused and has not
 * yet seen that it is none any more. Ours is written once more; if nothing of it was changed, that changes
 * nothing.
 */
static void forget_overwritten(struct kdb *k, const char *version)
{
    if (version == NULL || (k->checked != NULL && strcmp(k->checked, version) == 0))
        return;
    free(k->checked);
    k->checked = mem_strdup(version);
    if (k->wrote != NULL && strcmp(k->wrote, version) == 0)
        return;
    free(k->written);
    k->written = NULL;
}

static void status_answered(const struct k8s_answer *answer, void *data)
{
    struct kdb *k = data;
    uint64_t now = loop_now(k->all->loop);
    k->status_call = NULL;
    if (answer->err == NULL) {
        free(k->written);
        k->written = k->writing;
        note_version(k, answer);
        k->write_pause_ns = 0;
        k->write_ns = now + WRITE_GAP_NS;
    } else {
        free(k->writing);
        uint64_t pause = k->write_pause_ns == 0 ? ENV_NS_PER_S : 2 * k->write_pause_ns;
        if (k->write_pause_ns == 0 && !k->all->closing && answer->err->code != ERRC_NOT_FOUND)
            log_event(LOG_WARN, "the status of a database could not be written", "db", k->name, "err",
                      answer->err->message, NULL);
        k->write_pause_ns = pause < WRITE_WAIT_NS ? pause : WRITE_WAIT_NS;
        k->write_ns = now + k->write_pause_ns;
    }
    k->writing = NULL;
    kube_databases_call_ended(k->all);
}

static void write_it(struct kdb *k, yyjson_mut_doc *doc, char *text)
{
    const struct k8s_apply apply = {.collection = k->all->path,
                                    .name = k->name,
                                    .subresource = "status",
                                    .manager = "shardherd-status",
                                    .force = true,
                                    .object = yyjson_mut_doc_get_root(doc)};
    if (k8s_apply_start(k->all->o.client, &apply, status_answered, k, &k->status_call, NULL) != 0) {
        free(text);
        return;
    }
    k->writing = text;
    k->all->calls++;
}

/* What hinders, since when. What was tried for so long needs a person, even if it is tried further. */
static bool trouble_of(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db,
                       const char **reason, char *message, size_t size)
{
    const char *text = k->trouble_text;
    int64_t since = k->trouble_since_us, now = loop_wall(k->all->loop);
    char time[ENV_TIME_SIZE];
    *reason = k->trouble;
    message[0] = '\0';
    if (!kept->deleting) {
        kdb_note_provision(k, db);
        if (k->provision_text[0] != '\0' &&
            (k->trouble[0] == '\0' || strcmp(k->trouble, PROVISIONING) == 0)) {
            *reason = PROVISIONING;
            text = k->provision_text;
            since = k->provision_since_us;
        }
    }
    if ((*reason)[0] == '\0')
        return false;
    env_format_time(since - since % 1000000, time);
    snprintf(message, size, "%.440s (since %.19sZ; it is tried again)", text, time);
    return k->trouble_final || now - since > STALLED_AFTER_US;
}

static void judge(struct kdb *k, const struct kube_object_kept *kept, const struct fleet_database *db)
{
    const char *reason;
    char message[512];
    bool final = trouble_of(k, kept, db, &reason, message, sizeof message);
    bool walked = k->walked == kept->generation && k->walked_suspended == kept->suspended;
    bool resizing = db != NULL && db->routing != NULL && kdb_resizes(k, db);
    const struct kube_facts facts = {.fleet = k->all->o.fleet,
                                     .db = db,
                                     .deleting = kept->deleting,
                                     .suspended = kept->suspended,
                                     .current = k->quiet || (walked && k->applied == kept->generation),
                                     .resizing = resizing,
                                     .instances = kept->instances,
                                     .wanted = kept->shards,
                                     .requested = k->requested,
                                     .major = k->older ? kept->major : 0,
                                     .rolls = kept->rolls,
                                     .progress = k->progress,
                                     .trouble_reason = reason,
                                     .trouble_message = message,
                                     .trouble_final = final,
                                     .now_us = loop_wall(k->all->loop)};
    bool ready = k->conditions[KUBE_READY].truth == KUBE_TRUE;
    kube_status_judge(&facts, k->conditions);
    if (!ready && k->conditions[KUBE_READY].truth == KUBE_TRUE)
        kdb_tell(k, false, "Ready", "Reconcile", k->conditions[KUBE_READY].message);
}

void kdb_write_status(struct kdb *k, const struct kube_object_kept *kept)
{
    const struct fleet_database *db = fleet_find_database(k->all->o.fleet, k->name);
    if (kept->deleting && !kept->finalizer)
        return;
    judge(k, kept, db);
    if (k->writing != NULL || loop_now(k->all->loop) < k->write_ns)
        return;
    forget_overwritten(k, kept->version);
    const struct runtime *runtime = k->all->o.operations->services.runtime;
    const struct kube_status status = {.name = k->name,
                                       .uid = k->uid,
                                       .generation = kept->generation,
                                       .requested_shards = k->requested,
                                       /* the operator of CloudNativePG makes none */
                                       .client_certificate =
                                           kept->own_certificates && db != NULL && runtime != NULL &&
                                           strcmp(runtime->backend->kind, "kubernetes") == 0,
                                       .db = db,
                                       .conditions = k->conditions};
    yyjson_mut_doc *doc = kube_status_print(&status);
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
    if (text == NULL || (k->written != NULL && strcmp(k->written, text) == 0))
        free(text);
    else
        write_it(k, doc, text);
    yyjson_mut_doc_free(doc);
}
